//! Why bytes are no IKE message, or a value has no encoding.

use std::fmt;

use super::registry::PayloadType;

/// What is wrong with received bytes, in which payload, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IkeDecodeError {
    /// The payload in which decoding failed; `NONE` for the IKE header.
    pub payload: PayloadType,
    /// Where, in bytes from the beginning of what was to be decoded.
    pub offset: usize,
    pub fault: IkeFault,
}

/// What is wrong at that place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IkeFault {
    /// The bytes end inside the named field.
    Truncated(&'static str),
    /// Bytes follow the last field, or the end of the message.
    Trailing,
    /// A length, in bytes, that the named field cannot have.
    BadLength { field: &'static str, len: usize },
    /// A value that the named field cannot have.
    BadValue { field: &'static str, value: u32 },
    /// More of them than a limit of ours allows.
    TooMany { what: &'static str, limit: usize },
    /// A payload of unknown type is marked critical (RFC 7296 §2.5).
    UnsupportedCritical,
    /// The message is of another major version (RFC 7296 §2.5).
    MajorVersion(u8),
    /// An encrypted payload inside an encrypted payload.
    NestedEncryption,
}

impl fmt::Display for IkeDecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.payload {
            PayloadType::NONE => f.write_str("IKE header")?,
            payload => write!(f, "{payload} payload")?,
        }
        write!(f, ", byte {}: {}", self.offset, self.fault)
    }
}

impl fmt::Display for IkeFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            IkeFault::Truncated(field) => write!(f, "the bytes end inside the {field}"),
            IkeFault::Trailing => f.write_str("bytes follow where the end should be"),
            IkeFault::BadLength { field, len } => write!(f, "the {field} cannot be {len} bytes long"),
            IkeFault::BadValue { field, value } => write!(f, "the {field} cannot be {value}"),
            IkeFault::TooMany { what, limit } => write!(f, "more than {limit} {what}"),
            IkeFault::UnsupportedCritical => f.write_str("its type is unknown and marked critical"),
            IkeFault::MajorVersion(major) => write!(f, "IKE version {major}, not 2"),
            IkeFault::NestedEncryption => f.write_str("encryption inside encryption"),
        }
    }
}

impl std::error::Error for IkeDecodeError {}

/// Why a value has no encoding: it breaks a rule of ours before it would break one of the peer's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IkeEncodeError {
    pub payload: PayloadType,
    /// What does not fit, or is out of place.
    pub what: &'static str,
}

impl fmt::Display for IkeEncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} payload cannot be written: {}", self.payload, self.what)
    }
}

impl std::error::Error for IkeEncodeError {}
