//! What a data plane needs opened: its interface with a queue for each worker, and its group of UDP sockets.
//!
//! The data plane opens both at its start, and later can open nothing any more. So who has the right to does it then, the control
//! plane, by the same functions, and hands them over.

pub mod interface;
pub mod sockets;
