//! The control plane of Adit: process and command `adit`.
//!
//! [`config`] says what is wanted, [`static_key`] gives the keys, [`sequence`] and [`state`] see to it that no nonce repeats.

pub mod cli;
pub mod config;
pub mod sequence;
pub mod state;
pub mod static_key;
