//! Each error and each time of the TURN server.
