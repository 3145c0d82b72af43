//! ESP (RFC 4303) with AEAD suites (RFC 4106, RFC 7634): one packet sealed, one packet opened. The data plane and the library
//! `adit-ipsec` both stand on this; what is in a payload, where packets go and what is counted is theirs.
//!
//! [`Sealer`] and [`Opener`] are the two halves of a Child SA. Each has one owner, so sequence number and replay window are plain
//! integers; nothing here locks or waits, and nothing allocates once a key is made. A packet that cannot be sealed or opened is a
//! named drop ([`adit_proto::stats::Drop`]).

#![forbid(unsafe_code)]

pub mod aead;
mod open;
mod seal;

pub use open::{Opened, Opener};
pub use seal::{Sealer, TRAILER_MAX};
