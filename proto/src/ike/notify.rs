//! The Notify payload (RFC 7296 §3.10), and the data of those notifications that have a structure of their own.

use std::net::IpAddr;

use super::cursor::{Cursor, fit};
use super::error::{IkeDecodeError, IkeEncodeError, IkeFault};
use super::registry::{HashAlg, KeId, NotifyType, PayloadType, PpkIdType, ProtocolId};
use crate::esp::Spi;

/// An error or a piece of information.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Notify {
    /// `NONE` unless it concerns the SA with this SPI.
    pub protocol: ProtocolId,
    /// At most 255 bytes; empty unless it concerns a Child SA.
    pub spi: Vec<u8>,
    pub kind: NotifyType,
    pub data: Vec<u8>,
}

impl Notify {
    /// A Notify that concerns no SA, without data.
    pub const fn new(kind: NotifyType) -> Notify {
        Notify { protocol: ProtocolId::NONE, spi: Vec::new(), kind, data: Vec::new() }
    }

    /// The same with this data.
    pub fn with_data(self, data: impl Into<Vec<u8>>) -> Notify {
        Notify { data: data.into(), ..self }
    }

    /// The same about this SA of ESP or AH.
    pub fn about(self, protocol: ProtocolId, spi: Spi) -> Notify {
        Notify { protocol, spi: spi.0.to_be_bytes().to_vec(), ..self }
    }

    /// INVALID_KE_PAYLOAD with the method that would have been right (RFC 7296 §1.3).
    pub fn invalid_ke(expected: KeId) -> Notify {
        Notify::new(NotifyType::INVALID_KE_PAYLOAD).with_data(expected.0.to_be_bytes())
    }

    /// SIGNATURE_HASH_ALGORITHMS (RFC 7427 §4).
    pub fn signature_hashes(hashes: &[HashAlg]) -> Notify {
        let data: Vec<u8> = hashes.iter().flat_map(|hash| hash.0.to_be_bytes()).collect();
        Notify::new(NotifyType::SIGNATURE_HASH_ALGORITHMS).with_data(data)
    }

    /// PPK_IDENTITY (RFC 8784 §5.1).
    pub fn ppk_identity(kind: PpkIdType, id: &[u8]) -> Notify {
        Notify::new(NotifyType::PPK_IDENTITY).with_data([&[kind.0], id].concat())
    }

    /// ADDITIONAL_IP4_ADDRESS or ADDITIONAL_IP6_ADDRESS (RFC 4555 §4.2.2).
    pub fn additional_address(address: IpAddr) -> Notify {
        match address {
            IpAddr::V4(v4) => Notify::new(NotifyType::ADDITIONAL_IP4_ADDRESS).with_data(v4.octets()),
            IpAddr::V6(v6) => Notify::new(NotifyType::ADDITIONAL_IP6_ADDRESS).with_data(v6.octets()),
        }
    }

    /// The SPI of the ESP or AH SA that it concerns, when it has 4 bytes.
    pub fn child_spi(&self) -> Option<Spi> {
        self.spi.as_slice().try_into().ok().map(|bytes| Spi(u32::from_be_bytes(bytes)))
    }

    /// The data as that of INVALID_KE_PAYLOAD: the method that would have been right.
    pub fn ke_method(&self) -> Option<KeId> {
        self.data.as_slice().try_into().ok().map(|bytes| KeId(u16::from_be_bytes(bytes)))
    }

    /// The data as that of SIGNATURE_HASH_ALGORITHMS, in the sender's order; `None` when it ends inside a number.
    pub fn hashes(&self) -> Option<Vec<HashAlg>> {
        let (numbers, []) = self.data.as_chunks::<2>() else { return None };
        Some(numbers.iter().map(|bytes| HashAlg(u16::from_be_bytes(*bytes))).collect())
    }

    /// The data as that of PPK_IDENTITY; `None` when it is empty.
    pub fn ppk_id(&self) -> Option<(PpkIdType, &[u8])> {
        self.data.split_first().map(|(kind, id)| (PpkIdType(*kind), id))
    }

    /// The data as an address, of 4 or 16 bytes.
    pub fn address(&self) -> Option<IpAddr> {
        let data = self.data.as_slice();
        let v4 = <[u8; 4]>::try_from(data).map(IpAddr::from);
        v4.or_else(|_| <[u8; 16]>::try_from(data).map(IpAddr::from)).ok()
    }

    pub(super) fn decode(mut body: Cursor) -> Result<Notify, IkeDecodeError> {
        let protocol = ProtocolId(body.u8("protocol")?);
        let spi_len = body.u8("SPI size")?;
        let kind = NotifyType(body.u16("type of notification")?);
        let spi = body.bytes(usize::from(spi_len), "SPI")?.to_vec();
        Ok(Notify { protocol, spi, kind, data: body.rest().to_vec() })
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) -> Result<(), IkeEncodeError> {
        let spi_len: u8 = fit(PayloadType::NOTIFY, self.spi.len(), "its SPI is longer than 255 bytes")?;
        out.extend([self.protocol.0, spi_len]);
        out.extend(self.kind.0.to_be_bytes());
        out.extend_from_slice(&self.spi);
        out.extend_from_slice(&self.data);
        Ok(())
    }
}

impl IkeDecodeError {
    /// The Notify that tells the peer, where the exchange allows an answer (RFC 7296 §2.21, §2.5).
    pub fn notify(&self) -> Notify {
        match self.fault {
            IkeFault::UnsupportedCritical => {
                Notify::new(NotifyType::UNSUPPORTED_CRITICAL_PAYLOAD).with_data(vec![self.payload.0])
            }
            IkeFault::MajorVersion(_) => Notify::new(NotifyType::INVALID_MAJOR_VERSION),
            _ => Notify::new(NotifyType::INVALID_SYNTAX),
        }
    }
}
