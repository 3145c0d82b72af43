//! TURN (RFC 8656), the server's side: a public address lent to somebody behind a NAT that no punching opens.
//!
//! The crate `turn-types` is not used: it brings `stun-proto` with a random generator of its own and three more crates, and what it has are
//! a header of four bytes and attributes that are one number or one address, which the codec of STUN reads and writes. [`server`] is the
//! state machine, [`credentials`] who may, [`allowed`] where to, [`channel`] and [`frames`] the wire beside STUN.
mod allocation;
pub mod allowed;
pub mod channel;
pub mod credentials;
pub mod frames;
pub mod link;
pub mod server;

/// Methods (RFC 8656 §17).
pub mod method {
    pub const ALLOCATE: u16 = 3;
    pub const REFRESH: u16 = 4;
    pub const SEND: u16 = 6;
    pub const DATA: u16 = 7;
    pub const CREATE_PERMISSION: u16 = 8;
    pub const CHANNEL_BIND: u16 = 9;
}

pub use link::{Link, Tuple};
pub use server::{Config, Count, Counters, Event, Lent, Now, Outside, Server, Side, Train, Transmit};
