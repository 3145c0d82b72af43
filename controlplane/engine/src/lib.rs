//! IKEv2 as pure state machines: no sockets, no threads, no clock, no randomness of its own.
//!
//! Datagrams, time and random bytes go in; datagrams, events and the time of the next call come out. [`crypto`] and [`auth`]
//! hold what IKE computes, [`identity`] who a peer says it is; [`nearest`] is for messages.
#![forbid(unsafe_code)]
#![deny(clippy::iter_over_hash_type)]

pub mod auth;
pub mod crypto;
mod hex;
pub mod identity;
pub mod ike;
pub mod nearest;
pub mod random;
#[cfg(test)]
mod testing;
