//! The IKE header (RFC 7296 §3.1) and the generic header of a payload (§3.2).

use std::fmt;

use super::cursor::Cursor;
use super::error::{IkeDecodeError, IkeFault};
use super::registry::{ExchangeType, PayloadType};
use crate::demux::IKE_HEADER_LEN;
use crate::limits::IKE_MESSAGE_LEN_MAX;

/// Length of the generic header of a payload, in bytes (RFC 7296 §3.2).
pub const PAYLOAD_HEADER_LEN: usize = 4;
/// Where the first payload's type is in the header.
pub(super) const NEXT_PAYLOAD_AT: usize = 16;
/// Where the length of the message is in the header.
pub(super) const LENGTH_AT: usize = 24;

const INITIATOR: u8 = 0x08;
const HIGHER_VERSION: u8 = 0x10;
const RESPONSE: u8 = 0x20;
const CRITICAL: u8 = 0x80;

/// The SPI of an IKE SA (RFC 7296 §2.6). Zero is "not yet known".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IkeSpi(pub u64);

impl IkeSpi {
    pub const ZERO: IkeSpi = IkeSpi(0);

    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    pub const fn to_bytes(self) -> [u8; 8] {
        self.0.to_be_bytes()
    }

    pub const fn from_bytes(bytes: [u8; 8]) -> IkeSpi {
        IkeSpi(u64::from_be_bytes(bytes))
    }
}

/// Sixteen hexadecimal digits, as packet analysers show it.
impl fmt::Display for IkeSpi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The flags of the header; reserved ones are ignored (RFC 7296 §3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Flags {
    /// Sent by the original initiator of the IKE SA.
    pub initiator: bool,
    /// A response to the request with the same message id.
    pub response: bool,
    /// The sender can speak a higher major version.
    pub version: bool,
}

impl Flags {
    const fn from_bits(bits: u8) -> Flags {
        Flags { initiator: bits & INITIATOR != 0, response: bits & RESPONSE != 0, version: bits & HIGHER_VERSION != 0 }
    }

    fn bits(self) -> u8 {
        let bit = |set: bool, bit: u8| if set { bit } else { 0 };
        bit(self.initiator, INITIATOR) | bit(self.response, RESPONSE) | bit(self.version, HIGHER_VERSION)
    }
}

/// Major version in the high four bits, minor in the low.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Version(pub u8);

impl Version {
    /// 2.0, the version of RFC 7296.
    pub const V2: Version = Version(0x20);

    pub const fn major(self) -> u8 {
        self.0 >> 4
    }
}

/// The first 28 bytes of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub initiator_spi: IkeSpi,
    pub responder_spi: IkeSpi,
    /// Type of the first payload. Encoders ignore it and write what follows.
    pub next_payload: PayloadType,
    /// The minor version is ignored (RFC 7296 §2.5).
    pub version: Version,
    pub exchange: ExchangeType,
    pub flags: Flags,
    pub message_id: u32,
    /// Length of the whole message, in bytes. Encoders ignore it and write what it is.
    pub length: u32,
}

impl Header {
    /// A header of version 2.0; what the encoders fill in is zero.
    pub const fn new(
        initiator_spi: IkeSpi,
        responder_spi: IkeSpi,
        exchange: ExchangeType,
        flags: Flags,
        message_id: u32,
    ) -> Header {
        let (next_payload, version) = (PayloadType::NONE, Version::V2);
        Header { initiator_spi, responder_spi, next_payload, version, exchange, flags, message_id, length: 0 }
    }

    /// Reads the header of any version that begins like ours; what follows it is not looked at.
    ///
    /// # Errors
    /// Fewer than 28 bytes.
    pub fn decode(message: &[u8]) -> Result<Header, IkeDecodeError> {
        let mut cursor = Cursor::new(message, 0, PayloadType::NONE);
        Ok(Header {
            initiator_spi: IkeSpi(cursor.u64("initiator's SPI")?),
            responder_spi: IkeSpi(cursor.u64("responder's SPI")?),
            next_payload: PayloadType(cursor.u8("next payload")?),
            version: Version(cursor.u8("version")?),
            exchange: ExchangeType(cursor.u8("exchange type")?),
            flags: Flags::from_bits(cursor.u8("flags")?),
            message_id: cursor.u32("message id")?,
            length: cursor.u32("length")?,
        })
    }

    /// Reads the header of a message of our version whose length is that of the datagram.
    ///
    /// # Errors
    /// Fewer than 28 bytes, another major version, or another length.
    pub fn decode_whole(message: &[u8]) -> Result<Header, IkeDecodeError> {
        let header = Header::decode(message)?;
        let error = |offset, fault| Err(IkeDecodeError { payload: PayloadType::NONE, offset, fault });
        if header.version.major() != Version::V2.major() {
            return error(NEXT_PAYLOAD_AT + 1, IkeFault::MajorVersion(header.version.major()));
        }
        let length = usize::try_from(header.length).unwrap_or(usize::MAX);
        if !(IKE_HEADER_LEN..=IKE_MESSAGE_LEN_MAX).contains(&length) {
            return error(LENGTH_AT, IkeFault::BadLength { field: "message", len: length });
        }
        match message.len() {
            len if len < length => error(len, IkeFault::Truncated("message")),
            len if len > length => error(length, IkeFault::Trailing),
            _ => Ok(header),
        }
    }

    /// The header as bytes, with this first payload and length.
    pub(super) fn bytes(&self, next_payload: PayloadType, length: u32) -> [u8; IKE_HEADER_LEN] {
        let mut out = [0; IKE_HEADER_LEN];
        out[..8].copy_from_slice(&self.initiator_spi.to_bytes());
        out[8..NEXT_PAYLOAD_AT].copy_from_slice(&self.responder_spi.to_bytes());
        out[NEXT_PAYLOAD_AT..20].copy_from_slice(&[next_payload.0, self.version.0, self.exchange.0, self.flags.bits()]);
        out[20..LENGTH_AT].copy_from_slice(&self.message_id.to_be_bytes());
        out[LENGTH_AT..].copy_from_slice(&length.to_be_bytes());
        out
    }
}

/// A payload in the chain: its generic header, read, and its body, not yet.
#[derive(Clone, Debug)]
pub(super) struct Link<'a> {
    pub kind: PayloadType,
    /// Type of the payload that follows; for SK and SKF, of the first one inside (RFC 7296 §3.14).
    pub next: PayloadType,
    pub critical: bool,
    pub body: Cursor<'a>,
}

impl<'a> Link<'a> {
    /// Takes the payload of this kind off the front.
    pub fn read(kind: PayloadType, chain: &mut Cursor<'a>) -> Result<Link<'a>, IkeDecodeError> {
        chain.payload = kind;
        let next = PayloadType(chain.u8("payload header")?);
        let critical = chain.u8("payload header")? & CRITICAL != 0;
        let at = chain.offset();
        let length = usize::from(chain.u16("payload header")?);
        let body_len = length
            .checked_sub(PAYLOAD_HEADER_LEN)
            .ok_or(chain.error_at(at, IkeFault::BadLength { field: "payload", len: length }))?;
        let body = chain.part(body_len, "payload")?;
        Ok(Link { kind, next, critical, body })
    }
}

/// The generic header of a payload whose body has yet to be written.
pub(super) fn payload_header(next: PayloadType, critical: bool) -> [u8; PAYLOAD_HEADER_LEN] {
    [next.0, if critical { CRITICAL } else { 0 }, 0, 0]
}
