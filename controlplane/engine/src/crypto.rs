//! What IKE computes: pseudorandom functions and keys derived from them. The primitives are aws-lc's.

pub mod key_exchange;
pub mod prf;
pub mod secret;

pub use key_exchange::{KeyExchange, KeyExchangeError, KeyExchangeMethod};
pub use prf::Prf;
pub use secret::Secret;
