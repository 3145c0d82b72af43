//! Whole messages and chains of payloads (RFC 7296 §3.1, §3.2).

use super::cursor::{Cursor, with_length};
use super::error::{IkeDecodeError, IkeEncodeError, IkeFault};
use super::header::{Header, Link, payload_header};
use super::payload::Payload;
use super::registry::PayloadType;
use crate::demux::IKE_HEADER_LEN;
use crate::limits::{IKE_MESSAGE_LEN_MAX, PAYLOADS_OF_MESSAGE_MAX};

/// A message as it is sent: the payloads in the clear, of which the last may be SK or SKF.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub header: Header,
    pub payloads: Vec<Payload>,
}

impl Message {
    /// Reads a datagram (behind the non-ESP marker). What is inside SK or SKF stays as it is.
    ///
    /// # Errors
    /// The bytes are no message of IKEv2, break a rule of a payload or a limit, or hold an unknown critical payload.
    pub fn decode(message: &[u8]) -> Result<Message, IkeDecodeError> {
        let header = Header::decode_whole(message)?;
        let body = Cursor::new(&message[IKE_HEADER_LEN..], IKE_HEADER_LEN, PayloadType::NONE);
        Ok(Message { header, payloads: decode_chain(header.next_payload, body, true)? })
    }

    /// The datagram. Next payload and length in the header are those of the payloads, whatever `self.header` says.
    ///
    /// # Errors
    /// A field or the message is too long, a limit is broken, or a payload follows SK or SKF.
    pub fn encode(&self) -> Result<Vec<u8>, IkeEncodeError> {
        let mut out = vec![0; IKE_HEADER_LEN];
        let first = encode_chain(&self.payloads, &mut out)?;
        let length = u32::try_from(out.len()).ok().filter(|_| out.len() <= IKE_MESSAGE_LEN_MAX);
        let error = IkeEncodeError { payload: PayloadType::NONE, what: "the message is longer than 65535 bytes" };
        out[..IKE_HEADER_LEN].copy_from_slice(&self.header.bytes(first, length.ok_or(error)?));
        Ok(out)
    }
}

/// Reads the payloads that were inside SK or SKF, decrypted and without padding; `first` is the type of the first one.
///
/// # Errors
/// As [`Message::decode`], and SK or SKF among them. Offsets count from the beginning of `payloads`.
pub fn decode_payloads(first: PayloadType, payloads: &[u8]) -> Result<Vec<Payload>, IkeDecodeError> {
    decode_chain(first, Cursor::new(payloads, 0, first), false)
}

/// Writes payloads one after the other, to be put into SK; the first value is the type of the first one.
///
/// # Errors
/// A field is too long, a limit is broken, or SK or SKF is among them.
pub fn encode_payloads(payloads: &[Payload]) -> Result<(PayloadType, Vec<u8>), IkeEncodeError> {
    if let Some(payload) = payloads.iter().find(|payload| payload.kind().is_encrypted()) {
        return Err(IkeEncodeError { payload: payload.kind(), what: "it would be inside another encrypted payload" });
    }
    let mut out = Vec::new();
    let first = encode_chain(payloads, &mut out)?;
    Ok((first, out))
}

fn decode_chain(first: PayloadType, mut chain: Cursor, may_be_encrypted: bool) -> Result<Vec<Payload>, IkeDecodeError> {
    let mut payloads = Vec::new();
    let mut kind = first;
    while kind != PayloadType::NONE {
        if payloads.len() == PAYLOADS_OF_MESSAGE_MAX {
            return Err(chain.error(IkeFault::TooMany { what: "payloads", limit: PAYLOADS_OF_MESSAGE_MAX }));
        }
        if kind.is_encrypted() && !may_be_encrypted {
            chain.payload = kind;
            return Err(chain.error(IkeFault::NestedEncryption));
        }
        let link = Link::read(kind, &mut chain)?;
        // What SK and SKF call "next" is inside them (RFC 7296 §3.14).
        kind = if kind.is_encrypted() { PayloadType::NONE } else { link.next };
        payloads.push(Payload::decode(link)?);
    }
    chain.finish()?;
    Ok(payloads)
}

fn encode_chain(payloads: &[Payload], out: &mut Vec<u8>) -> Result<PayloadType, IkeEncodeError> {
    let error = |payload, what| Err(IkeEncodeError { payload, what });
    if payloads.len() > PAYLOADS_OF_MESSAGE_MAX {
        return error(PayloadType::NONE, "there are too many payloads");
    }
    for (index, payload) in payloads.iter().enumerate() {
        let following = payloads.get(index + 1).map_or(PayloadType::NONE, Payload::kind);
        let (next, critical) = match payload {
            Payload::Sk { .. } | Payload::Skf { .. } if index + 1 < payloads.len() => {
                return error(payload.kind(), "it is not the last one");
            }
            Payload::Sk { first, .. } | Payload::Skf { first, .. } => (*first, false),
            Payload::Unknown { critical, .. } => (following, *critical),
            _ => (following, false),
        };
        with_length(out, payload.kind(), |out| {
            out.extend(payload_header(next, critical));
            payload.encode_body(out)
        })?;
    }
    Ok(payloads.first().map_or(PayloadType::NONE, Payload::kind))
}
