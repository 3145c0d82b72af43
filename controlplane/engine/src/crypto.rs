//! What IKE computes. The primitives are aws-lc's; nothing here does arithmetic of its own.
//!
//! In the order of an exchange: [`key_exchange`] gives shared secrets, [`keys`] derives all keys from them with a [`prf`],
//! [`aead`] protects the messages that follow, and [`private_key`] and [`public_key`] make and verify the [`signature`]s in
//! them.

pub mod aead;
pub mod key_exchange;
pub mod keys;
pub mod prf;
pub mod private_key;
pub mod public_key;
pub mod secret;
pub mod signature;

pub use aead::{AeadError, IkeAead, Sealed};
pub use key_exchange::{KeyExchange, KeyExchangeError, KeyExchangeMethod, Sender, respond};
pub use keys::{ChildKeys, Exchanged, IkeKeys};
pub use prf::Prf;
pub use private_key::{AuthData, PrivateKey, SignError};
pub use public_key::{KeyError, KeyKind, PublicKey, VerifyError};
pub use secret::Secret;
pub use signature::{SignatureAlgorithm, SignatureDataError};
