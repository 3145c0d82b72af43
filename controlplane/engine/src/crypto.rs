//! What IKE computes. The primitives are aws-lc's; nothing here does arithmetic of its own.
//!
//! In the order of an exchange: [`key_exchange`] gives shared secrets, [`keys`] derives all keys from them with a [`prf`],
//! [`aead`] protects the messages that follow.

pub mod aead;
pub mod key_exchange;
pub mod keys;
pub mod prf;
pub mod secret;

pub use aead::{AeadError, IkeAead, Sealed};
pub use key_exchange::{KeyExchange, KeyExchangeError, KeyExchangeMethod, respond};
pub use keys::{ChildKeys, Exchanged, IkeKeys};
pub use prf::Prf;
pub use secret::Secret;
