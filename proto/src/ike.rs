//! Messages of IKEv2 (RFC 7296) as values: decoding, encoding, names. No policy, no cryptography, no state.
//!
//! ```text
//!  0         8         16                       28
//!  ┌─────────┬─────────┬────────────────────────┬──────────────────────┬──────────────────────┬─────┐
//!  │ SPI i   │ SPI r   │ first payload, version,│ next payload, length,│ next payload, length,│  …  │
//!  │         │         │ exchange, flags, id,   │ body                 │ body                 │     │
//!  │         │         │ length                 │                      │                      │     │
//!  └─────────┴─────────┴────────────────────────┴──────────────────────┴──────────────────────┴─────┘
//!    header                                       payloads; the last may be SK or SKF, with more payloads inside
//! ```
//! Numbers are big endian. In the order of a message's way in: [`header`] (whose is it), [`message`] (the chain of payloads),
//! [`encrypted`] (what is sealed, and what of it is in the clear), [`payload`] (each of them), [`notify`], [`proposal`],
//! [`selector`] and [`config`] (their parts), [`registry`] (what the numbers mean),
//! [`error`] (what is wrong, and where).
//!
//! Any bytes give a value or a named error. Limits are in [`crate::limits`]. What decodes can be encoded, and decodes to
//! the same value; reserved bits are ignored and written as zero.

pub mod config;
mod cursor;
mod display;
pub mod encrypted;
pub mod error;
pub mod header;
pub mod message;
pub mod notify;
pub mod payload;
pub mod proposal;
pub mod registry;
pub mod selector;

pub use config::{CfgAttribute, Config};
pub use encrypted::{Fragment, Sealed, Unsealed};
pub use error::{IkeDecodeError, IkeEncodeError, IkeFault};
pub use header::{Flags, Header, IkeSpi, Version};
pub use message::{Message, decode_payloads, encode_payloads};
pub use notify::Notify;
pub use payload::{Delete, Identification, Payload};
pub use proposal::{Attribute, AttributeValue, Proposal, Transform};
pub use registry::{
    AttributeType, AuthMethod, CertEncoding, CfgAttributeType, CfgType, EncrId, EsnId, ExchangeType, HashAlg, IdType, IntegId,
    KeId, NotifyType, PayloadType, PpkIdType, PrfId, ProtocolId, TransformType, TsType,
};
pub use selector::{AddressRange, IpSelector, PortRange, TrafficSelector};
