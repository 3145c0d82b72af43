//! The payloads of IKEv2 as values, and their bodies as bytes (RFC 7296 §3.3 to §3.16, RFC 7383 §2.5).

use super::config::Config;
use super::cursor::{Cursor, fit};
use super::error::{IkeDecodeError, IkeEncodeError, IkeFault};
use super::header::{IkeSpi, Link};
use super::notify::Notify;
use super::proposal::{self, Proposal};
use super::registry::{AuthMethod, CertEncoding, IdType, KeId, PayloadType, ProtocolId};
use super::selector::{self, TrafficSelector};
use crate::esp::Spi;
use crate::limits::{IKE_NONCE_LEN_MAX, IKE_NONCE_LEN_MIN, SPIS_OF_DELETE_MAX};

/// A payload, without its generic header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    Sa(Vec<Proposal>),
    /// Public value, encapsulation key or ciphertext of a key exchange (RFC 7296 §3.4, RFC 9370 §2.2.2).
    Ke {
        method: KeId,
        data: Vec<u8>,
    },
    IdI(Identification),
    IdR(Identification),
    Cert {
        encoding: CertEncoding,
        data: Vec<u8>,
    },
    CertReq {
        encoding: CertEncoding,
        /// For X.509: SHA-1 hashes of the public keys of trusted CAs, one after the other (RFC 7296 §3.7).
        data: Vec<u8>,
    },
    Auth {
        method: AuthMethod,
        data: Vec<u8>,
    },
    /// 16 to 256 bytes.
    Nonce(Vec<u8>),
    Notify(Notify),
    Delete(Delete),
    Vendor(Vec<u8>),
    TsI(Vec<TrafficSelector>),
    TsR(Vec<TrafficSelector>),
    Cp(Config),
    /// An EAP message (RFC 3748 §4).
    Eap(Vec<u8>),
    /// The Encrypted payload; always the last. [`crate::ike::encrypted`] reads and writes its body.
    Sk {
        /// Type of the first payload inside.
        first: PayloadType,
        /// IV, ciphertext and tag.
        body: Vec<u8>,
    },
    /// An Encrypted Fragment payload; always the last (RFC 7383 §2.5).
    Skf {
        /// Type of the first payload inside, in the first fragment; 0 in the others.
        first: PayloadType,
        /// Fragment number, total, IV, ciphertext and tag.
        body: Vec<u8>,
    },
    /// A type that is not decoded here. When it is marked critical, decoding fails instead (RFC 7296 §2.5) unless RFC 7296
    /// itself defines the type.
    Unknown {
        kind: PayloadType,
        critical: bool,
        body: Vec<u8>,
    },
}

/// Who somebody says to be (RFC 7296 §3.5).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identification {
    pub id_type: IdType,
    pub data: Vec<u8>,
}

impl Identification {
    /// The body of the payload, which is what the MAC over the identity covers (RFC 7296 §2.15: RestOfInitIDPayload). Its
    /// reserved bytes are zero, as they are sent (§3.5).
    pub fn body(&self) -> Vec<u8> {
        [&[self.id_type.0, 0, 0, 0], self.data.as_slice()].concat()
    }
}

/// SAs that the sender has deleted (RFC 7296 §3.11): its inbound ones, or the IKE SA itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delete {
    /// `IKE`, `AH` or `ESP`.
    pub protocol: ProtocolId,
    /// At most [`SPIS_OF_DELETE_MAX`]; empty for IKE, whose SPIs are in the header.
    pub spis: Vec<Spi>,
}

impl Delete {
    /// Deletes the IKE SA that carries it.
    pub const fn ike() -> Delete {
        Delete { protocol: ProtocolId::IKE, spis: Vec::new() }
    }

    /// Deletes SAs of ESP.
    pub const fn esp(spis: Vec<Spi>) -> Delete {
        Delete { protocol: ProtocolId::ESP, spis }
    }

    fn decode(mut cursor: Cursor) -> Result<Delete, IkeDecodeError> {
        let at = cursor.offset();
        let protocol = ProtocolId(cursor.u8("protocol")?);
        let spi_len = cursor.u8("SPI size")?;
        let count = usize::from(cursor.u16("number of SPIs")?);
        let expected_len = match protocol {
            ProtocolId::IKE => 0,
            ProtocolId::AH | ProtocolId::ESP => 4,
            _ => return Err(cursor.error_at(at, IkeFault::BadValue { field: "protocol", value: protocol.0.into() })),
        };
        if spi_len != expected_len {
            return Err(cursor.error_at(at + 1, IkeFault::BadLength { field: "SPI", len: spi_len.into() }));
        }
        // An SPI of no bytes is in the header: whatever number of them is said to follow, nothing does.
        let count = if protocol == ProtocolId::IKE { 0 } else { count };
        if count > SPIS_OF_DELETE_MAX {
            return Err(cursor.error_at(at + 2, IkeFault::TooMany { what: "SPIs", limit: SPIS_OF_DELETE_MAX }));
        }
        let spis = (0..count).map(|_| cursor.u32("SPI").map(Spi)).collect::<Result<_, _>>()?;
        cursor.finish()?;
        Ok(Delete { protocol, spis })
    }

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), IkeEncodeError> {
        let error = |what| Err(IkeEncodeError { payload: PayloadType::DELETE, what });
        let spi_len = match self.protocol {
            ProtocolId::IKE if self.spis.is_empty() => 0,
            ProtocolId::IKE => return error("an IKE SA is deleted without an SPI"),
            ProtocolId::AH | ProtocolId::ESP => 4,
            _ => return error("its protocol is none of IKE, AH and ESP"),
        };
        if self.spis.len() > SPIS_OF_DELETE_MAX {
            return error("it has too many SPIs");
        }
        let count: u16 = fit(PayloadType::DELETE, self.spis.len(), "it has too many SPIs")?;
        out.extend([self.protocol.0, spi_len]);
        out.extend(count.to_be_bytes());
        out.extend(self.spis.iter().flat_map(|spi| spi.0.to_be_bytes()));
        Ok(())
    }
}

impl From<Notify> for Payload {
    fn from(notify: Notify) -> Payload {
        Payload::Notify(notify)
    }
}

impl From<Delete> for Payload {
    fn from(delete: Delete) -> Payload {
        Payload::Delete(delete)
    }
}

impl PayloadType {
    /// Whether RFC 7296 or RFC 7383 defines the type: then the critical bit is ignored (RFC 7296 §3.2).
    pub const fn is_understood(self) -> bool {
        matches!(self.0, 33..=48 | 53)
    }

    /// Whether it is SK or SKF, after which no payload follows.
    pub const fn is_encrypted(self) -> bool {
        matches!(self, PayloadType::SK | PayloadType::SKF)
    }
}

impl Payload {
    pub const fn kind(&self) -> PayloadType {
        match self {
            Payload::Sa(_) => PayloadType::SA,
            Payload::Ke { .. } => PayloadType::KE,
            Payload::IdI(_) => PayloadType::ID_I,
            Payload::IdR(_) => PayloadType::ID_R,
            Payload::Cert { .. } => PayloadType::CERT,
            Payload::CertReq { .. } => PayloadType::CERTREQ,
            Payload::Auth { .. } => PayloadType::AUTH,
            Payload::Nonce(_) => PayloadType::NONCE,
            Payload::Notify(_) => PayloadType::NOTIFY,
            Payload::Delete(_) => PayloadType::DELETE,
            Payload::Vendor(_) => PayloadType::VENDOR,
            Payload::TsI(_) => PayloadType::TS_I,
            Payload::TsR(_) => PayloadType::TS_R,
            Payload::Cp(_) => PayloadType::CP,
            Payload::Eap(_) => PayloadType::EAP,
            Payload::Sk { .. } => PayloadType::SK,
            Payload::Skf { .. } => PayloadType::SKF,
            Payload::Unknown { kind, .. } => *kind,
        }
    }

    /// Reads the body of one payload of this kind.
    ///
    /// # Errors
    /// The body breaks a rule of its type or a limit. Offsets count from the beginning of `body`.
    pub fn decode_body(kind: PayloadType, critical: bool, body: &[u8]) -> Result<Payload, IkeDecodeError> {
        Payload::decode(Link { kind, next: PayloadType::NONE, critical, body: Cursor::new(body, 0, kind) })
    }

    pub(super) fn decode(link: Link) -> Result<Payload, IkeDecodeError> {
        let Link { kind, next, critical, mut body } = link;
        Ok(match kind {
            PayloadType::SA => Payload::Sa(proposal::decode(body)?),
            PayloadType::KE => {
                let method = KeId(body.u16("key exchange method")?);
                body.array::<2>("reserved bytes")?;
                Payload::Ke { method, data: body.rest().to_vec() }
            }
            PayloadType::ID_I => Payload::IdI(decode_id(body)?),
            PayloadType::ID_R => Payload::IdR(decode_id(body)?),
            PayloadType::CERT => Payload::Cert { encoding: CertEncoding(body.u8("encoding")?), data: body.rest().to_vec() },
            PayloadType::CERTREQ => Payload::CertReq { encoding: CertEncoding(body.u8("encoding")?), data: body.rest().to_vec() },
            PayloadType::AUTH => {
                let method = AuthMethod(body.u8("authentication method")?);
                body.array::<3>("reserved bytes")?;
                Payload::Auth { method, data: body.rest().to_vec() }
            }
            PayloadType::NONCE => Payload::Nonce(decode_nonce(body)?),
            PayloadType::NOTIFY => Payload::Notify(Notify::decode(body)?),
            PayloadType::DELETE => Payload::Delete(Delete::decode(body)?),
            PayloadType::VENDOR => Payload::Vendor(body.rest().to_vec()),
            PayloadType::TS_I => Payload::TsI(selector::decode(body)?),
            PayloadType::TS_R => Payload::TsR(selector::decode(body)?),
            PayloadType::CP => Payload::Cp(Config::decode(body)?),
            PayloadType::EAP => Payload::Eap(body.rest().to_vec()),
            PayloadType::SK => Payload::Sk { first: next, body: body.rest().to_vec() },
            PayloadType::SKF => Payload::Skf { first: next, body: body.rest().to_vec() },
            _ if critical => return Err(body.error(IkeFault::UnsupportedCritical)),
            _ => Payload::Unknown { kind, critical, body: body.rest().to_vec() },
        })
    }

    /// Writes the body, without the generic header.
    pub(super) fn encode_body(&self, out: &mut Vec<u8>) -> Result<(), IkeEncodeError> {
        match self {
            Payload::Sa(proposals) => proposal::encode(proposals, out)?,
            Payload::Ke { method, data } => {
                out.extend(method.0.to_be_bytes());
                out.extend([0, 0]);
                out.extend_from_slice(data);
            }
            Payload::IdI(id) | Payload::IdR(id) => out.extend(id.body()),
            Payload::Cert { encoding, data } | Payload::CertReq { encoding, data } => {
                out.push(encoding.0);
                out.extend_from_slice(data);
            }
            Payload::Auth { method, data } => {
                out.extend([method.0, 0, 0, 0]);
                out.extend_from_slice(data);
            }
            Payload::Nonce(nonce) if !(IKE_NONCE_LEN_MIN..=IKE_NONCE_LEN_MAX).contains(&nonce.len()) => {
                return Err(IkeEncodeError { payload: PayloadType::NONCE, what: "it has not 16 to 256 bytes" });
            }
            Payload::Notify(notify) => notify.encode(out)?,
            Payload::Delete(delete) => delete.encode(out)?,
            Payload::TsI(selectors) | Payload::TsR(selectors) => selector::encode(selectors, self.kind(), out)?,
            Payload::Cp(config) => config.encode(out)?,
            Payload::Unknown { kind, .. } if kind.is_understood() || *kind == PayloadType::NONE => {
                return Err(IkeEncodeError { payload: *kind, what: "its type is known, or the end of the chain" });
            }
            Payload::Nonce(body)
            | Payload::Vendor(body)
            | Payload::Eap(body)
            | Payload::Sk { body, .. }
            | Payload::Skf { body, .. }
            | Payload::Unknown { body, .. } => out.extend_from_slice(body),
        }
        Ok(())
    }
}

fn decode_id(mut body: Cursor) -> Result<Identification, IkeDecodeError> {
    let id_type = IdType(body.u8("type of identity")?);
    body.array::<3>("reserved bytes")?;
    Ok(Identification { id_type, data: body.rest().to_vec() })
}

fn decode_nonce(mut body: Cursor) -> Result<Vec<u8>, IkeDecodeError> {
    let at = body.offset();
    let nonce = body.rest();
    if (IKE_NONCE_LEN_MIN..=IKE_NONCE_LEN_MAX).contains(&nonce.len()) {
        Ok(nonce.to_vec())
    } else {
        Err(body.error_at(at, IkeFault::BadLength { field: "nonce", len: nonce.len() }))
    }
}

/// What the SPI of an IKE SA looks like in a Notify or a proposal.
impl From<IkeSpi> for Vec<u8> {
    fn from(spi: IkeSpi) -> Vec<u8> {
        spi.to_bytes().to_vec()
    }
}
