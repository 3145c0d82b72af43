//! The relay: a matchmaker for gateways that cannot yet reach each other.
