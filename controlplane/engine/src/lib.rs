//! IKEv2 and the paths to peers as pure state machines: no sockets, no threads, no clock, no randomness of their own.
//!
//! Datagrams, time and random bytes go in; datagrams, events and the time of the next call come out. [`path`] decides by which way
//! peers are reached, also those with static keys; [`ike`] gives it evidence. [`crypto`] and [`auth`] hold what IKE computes,
//! [`identity`] who a peer says it is; [`nearest`] is for messages, [`shown`] for text in them that others have a hand in.
#![forbid(unsafe_code)]
#![deny(clippy::iter_over_hash_type)]

pub mod auth;
pub mod crypto;
mod hex;
pub mod identity;
pub mod ike;
mod limits;
pub mod nearest;
pub mod path;
pub mod random;
mod rate_limit;
pub mod shown;
pub mod stun;
#[cfg(test)]
mod testing;
mod timer;
pub mod turn;
