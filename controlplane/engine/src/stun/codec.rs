//! STUN messages as bytes (RFC 8489 §5 and §14): a thin layer over `stun-types`, which knows the wire, with what an open port needs.
//!
//! What is added to the crate: attributes are walked once, within the length that the message itself tells, before anything is made of
//! them, so that a malformed datagram costs no line of a log; the values of RFC 5780; requests that are filled up, so that no answer is
//! longer than its question. Message integrity is computed by aws-lc, whose contexts wipe themselves, and compared in constant time.
//! Transaction ids are arguments.
use std::net::SocketAddr;

use aws_lc_rs::{constant_time, hmac};
use stun_types::attribute::{AttributeType, Fingerprint, MappedSocketAddr, RawAttribute, XorSocketAddr};
use stun_types::message::{
    Message as Wire, MessageClass, MessageHeader, MessageType, MessageWrite, MessageWriteExt, MessageWriteVec, Method,
    TransactionId,
};

use crate::crypto::Secret;
use crate::limits::{STUN_ATTRIBUTES_MAX, STUN_LEN_MAX, STUN_UNKNOWN_MAX};

pub mod binding;
#[cfg(test)]
mod tests;

pub use binding::{BindingAnswer, BindingRequest, Change};

/// The id of a question and of its answer.
pub type Transaction = [u8; 12];

/// Bytes before the first attribute.
pub const HEADER_LEN: usize = 20;
/// The four bytes that tell a STUN message from ESP and IKE on the same port (RFC 8489 §5).
pub const COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
/// The method of RFC 8489.
pub const BINDING: u16 = 1;

/// Types of attributes (RFC 8489 §14, RFC 5780 §7, RFC 8656 §18). Below 0x8000 whoever does not know one must refuse the request.
pub mod kind {
    pub const MAPPED_ADDRESS: u16 = 0x0001;
    pub const CHANGE_REQUEST: u16 = 0x0003;
    pub const USERNAME: u16 = 0x0006;
    pub const MESSAGE_INTEGRITY: u16 = 0x0008;
    pub const ERROR_CODE: u16 = 0x0009;
    pub const UNKNOWN_ATTRIBUTES: u16 = 0x000a;
    pub const CHANNEL_NUMBER: u16 = 0x000c;
    pub const LIFETIME: u16 = 0x000d;
    pub const XOR_PEER_ADDRESS: u16 = 0x0012;
    pub const DATA: u16 = 0x0013;
    pub const REALM: u16 = 0x0014;
    pub const NONCE: u16 = 0x0015;
    pub const XOR_RELAYED_ADDRESS: u16 = 0x0016;
    pub const REQUESTED_ADDRESS_FAMILY: u16 = 0x0017;
    pub const EVEN_PORT: u16 = 0x0018;
    pub const REQUESTED_TRANSPORT: u16 = 0x0019;
    pub const DONT_FRAGMENT: u16 = 0x001a;
    pub const MESSAGE_INTEGRITY_SHA256: u16 = 0x001c;
    pub const PASSWORD_ALGORITHM: u16 = 0x001d;
    pub const USERHASH: u16 = 0x001e;
    pub const XOR_MAPPED_ADDRESS: u16 = 0x0020;
    pub const RESERVATION_TOKEN: u16 = 0x0022;
    pub const PADDING: u16 = 0x0026;
    pub const RESPONSE_PORT: u16 = 0x0027;
    pub const ADDITIONAL_ADDRESS_FAMILY: u16 = 0x8000;
    pub const ADDRESS_ERROR_CODE: u16 = 0x8001;
    pub const SOFTWARE: u16 = 0x8022;
    pub const FINGERPRINT: u16 = 0x8028;
    /// Ours: a client wants to be known at the relay by where it asks from, and shows the nonce that it was given for that, if it was.
    pub const REGISTER: u16 = 0xc0ad;
    pub const RESPONSE_ORIGIN: u16 = 0x802b;
    pub const OTHER_ADDRESS: u16 = 0x802c;
}

/// What a message is in its exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    Request,
    Indication,
    Success,
    Error,
}

impl From<MessageClass> for Class {
    fn from(class: MessageClass) -> Class {
        match class {
            MessageClass::Request => Class::Request,
            MessageClass::Indication => Class::Indication,
            MessageClass::Success => Class::Success,
            MessageClass::Error => Class::Error,
        }
    }
}

impl From<Class> for MessageClass {
    fn from(class: Class) -> MessageClass {
        match class {
            Class::Request => MessageClass::Request,
            Class::Indication => MessageClass::Indication,
            Class::Success => MessageClass::Success,
            Class::Error => MessageClass::Error,
        }
    }
}

/// Why bytes are no STUN message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("no STUN message: its first bits or its cookie are other ones")]
    Foreign,
    #[error("the STUN message tells another length than it has")]
    Length,
    #[error("an attribute of the STUN message reaches beyond its end, or there are too many")]
    Attribute,
    #[error("the fingerprint of the STUN message is not that of its bytes")]
    Fingerprint,
}

/// What message integrity is computed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Integrity {
    /// MESSAGE-INTEGRITY (RFC 8489 §14.5).
    Sha1,
    /// MESSAGE-INTEGRITY-SHA256 (RFC 8489 §14.6), never truncated.
    Sha256,
}

impl Integrity {
    const fn kind(self) -> u16 {
        match self {
            Integrity::Sha1 => kind::MESSAGE_INTEGRITY,
            Integrity::Sha256 => kind::MESSAGE_INTEGRITY_SHA256,
        }
    }

    const fn len(self) -> usize {
        match self {
            Integrity::Sha1 => 20,
            Integrity::Sha256 => 32,
        }
    }
}

/// The key of message integrity: wiped, and shown nowhere.
#[derive(Clone, Debug)]
pub struct Key(Secret);

impl Key {
    /// Some bytes as a key, as they are (RFC 8489 §9.1.1, §9.2.2).
    pub fn new(bytes: &[u8]) -> Key {
        Key(Secret::copy_of(bytes))
    }

    /// The code of the bytes up to the attribute of message integrity, whose header already tells a length that counts it.
    fn code(&self, integrity: Integrity, header: [u8; 4], rest: &[u8]) -> hmac::Tag {
        let algorithm = match integrity {
            Integrity::Sha1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
            Integrity::Sha256 => hmac::HMAC_SHA256,
        };
        let mut context = hmac::Context::with_key(&hmac::Key::new(algorithm, self.0.expose()));
        context.update(&header);
        context.update(rest);
        context.sign()
    }
}

/// A STUN message as it was read.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    pub class: Class,
    pub method: u16,
    pub transaction: Transaction,
    bytes: &'a [u8],
    /// Where the attributes end that the sender protects: RFC 8489 §14.5 lets nobody look at what follows message integrity.
    end: usize,
    /// The strongest message integrity and where it stands.
    integrity: Option<(Integrity, usize)>,
}

/// Whether this may be a STUN message: what a port that others share asks first.
pub fn is_stun(bytes: &[u8]) -> bool {
    bytes.len() >= HEADER_LEN && bytes[0] & 0xc0 == 0 && bytes[4..8] == COOKIE
}

/// The attribute at this place: its type, its value and where the next one begins.
fn attribute(bytes: &[u8], at: usize) -> Option<(u16, &[u8], usize)> {
    let header = bytes.get(at..)?.first_chunk::<4>()?;
    let (kind, len) = (u16::from_be_bytes([header[0], header[1]]), usize::from(u16::from_be_bytes([header[2], header[3]])));
    let next = at + 4 + len.next_multiple_of(4);
    let value = bytes.get(at + 4..next)?.get(..len)?;
    Some((kind, value, next))
}

/// The header up to a place, telling the length that the message has with what ends there.
fn header_until(bytes: &[u8], end: usize) -> [u8; 4] {
    let [high, low] = u16::try_from(end - HEADER_LEN).unwrap_or(u16::MAX).to_be_bytes();
    [bytes[0], bytes[1], high, low]
}

impl<'a> Message<'a> {
    /// Reads a message, which must fill these bytes. Of attributes only the form is checked.
    pub fn parse(bytes: &'a [u8]) -> Result<Message<'a>, Malformed> {
        if !is_stun(bytes) {
            return Err(Malformed::Foreign);
        }
        let len = usize::from(u16::from_be_bytes([bytes[2], bytes[3]]));
        if len + HEADER_LEN != bytes.len() || !len.is_multiple_of(4) || bytes.len() > STUN_LEN_MAX {
            return Err(Malformed::Length);
        }
        let header = MessageHeader::from_bytes(bytes).map_err(|_| Malformed::Foreign)?;
        let mut transaction = [0; 12];
        transaction.copy_from_slice(&bytes[8..HEADER_LEN]);
        let kind = header.get_type();
        let (class, method) = (kind.class().into(), kind.method().value());
        let mut message = Message { class, method, transaction, bytes, end: bytes.len(), integrity: None };
        message.walk()?;
        Ok(message)
    }

    /// Checks the form of all attributes and the fingerprint, and finds message integrity.
    fn walk(&mut self) -> Result<(), Malformed> {
        let (mut at, mut count) = (HEADER_LEN, 0);
        while at < self.bytes.len() {
            let (kind, value, next) = attribute(self.bytes, at).ok_or(Malformed::Attribute)?;
            count += 1;
            if count > STUN_ATTRIBUTES_MAX {
                return Err(Malformed::Attribute);
            }
            match kind {
                kind::MESSAGE_INTEGRITY if self.integrity.is_none() => self.protect(Integrity::Sha1, at, value)?,
                kind::MESSAGE_INTEGRITY_SHA256 if !matches!(self.integrity, Some((Integrity::Sha256, _))) => {
                    self.protect(Integrity::Sha256, at, value)?;
                }
                kind::FINGERPRINT => {
                    // RFC 8489 §14.7: it is the last one.
                    let counted = Fingerprint::compute(&[&header_until(self.bytes, next), &self.bytes[4..at]]);
                    let shown = RawAttribute::new(AttributeType::new(kind), value);
                    let shown = Fingerprint::try_from(&shown).map_err(|_| Malformed::Attribute)?;
                    if *shown.fingerprint() != counted || next != self.bytes.len() {
                        return Err(Malformed::Fingerprint);
                    }
                    self.end = self.end.min(at);
                }
                _ => {}
            }
            at = next;
        }
        Ok(())
    }

    fn protect(&mut self, integrity: Integrity, at: usize, value: &[u8]) -> Result<(), Malformed> {
        if value.len() != integrity.len() {
            return Err(Malformed::Attribute);
        }
        self.integrity = Some((integrity, at));
        self.end = self.end.min(at);
        Ok(())
    }

    /// The attributes that count, in their order.
    pub fn attributes(&self) -> impl Iterator<Item = (u16, &'a [u8])> + use<'a> {
        let (bytes, mut at) = (&self.bytes[..self.end], HEADER_LEN);
        std::iter::from_fn(move || {
            let (kind, value, next) = attribute(bytes, at)?;
            at = next;
            Some((kind, value))
        })
    }

    /// The value of the first attribute of a type: RFC 8489 §14 lets the others be ignored.
    pub fn get(&self, kind: u16) -> Option<&'a [u8]> {
        self.attributes().find(|(found, _)| *found == kind).map(|(_, value)| value)
    }

    /// The same, where the value must have this length.
    pub fn fixed<const N: usize>(&self, kind: u16) -> Option<[u8; N]> {
        self.get(kind)?.try_into().ok()
    }

    /// An attribute as text.
    pub fn text(&self, kind: u16) -> Option<&'a str> {
        std::str::from_utf8(self.get(kind)?).ok()
    }

    /// An address as it is, or as it is hidden from NATs that change addresses everywhere (RFC 8489 §14.2).
    pub fn address(&self, kind: u16) -> Option<SocketAddr> {
        self.get(kind).and_then(|value| self.read_address(kind, value))
    }

    /// The same of all attributes of a type.
    pub fn addresses(&self, kind: u16) -> impl Iterator<Item = Option<SocketAddr>> + use<'a> {
        let message = *self;
        self.attributes().filter(move |(found, _)| *found == kind).map(move |(kind, value)| message.read_address(kind, value))
    }

    fn read_address(&self, kind: u16, value: &[u8]) -> Option<SocketAddr> {
        let raw = RawAttribute::new(AttributeType::new(kind), value);
        let hidden = [kind::XOR_MAPPED_ADDRESS, kind::XOR_PEER_ADDRESS, kind::XOR_RELAYED_ADDRESS].contains(&kind);
        if hidden {
            return XorSocketAddr::from_raw(&raw).ok().map(|address| address.addr(wire_id(self.transaction)));
        }
        MappedSocketAddr::from_raw(&raw).ok().map(|address| address.addr())
    }

    /// The number of an error answer (RFC 8489 §14.8), zero where it tells none.
    pub fn error(&self) -> u16 {
        match self.get(kind::ERROR_CODE) {
            Some([_, _, class @ 3..=6, number @ 0..=99, ..]) => u16::from(*class) * 100 + u16::from(*number),
            _ => 0,
        }
    }

    /// What of the message must be understood (RFC 8489 §14) and is none of these types.
    pub fn unknown(&self, known: &[u16]) -> Vec<u16> {
        let of_codec = [kind::MESSAGE_INTEGRITY, kind::MESSAGE_INTEGRITY_SHA256, kind::USERNAME, kind::REALM, kind::NONCE];
        let required = self.attributes().map(|(found, _)| found).filter(|found| *found < 0x8000);
        required.filter(|found| !known.contains(found) && !of_codec.contains(found)).take(STUN_UNKNOWN_MAX).collect()
    }

    /// Whether it says that it is protected.
    pub fn has_integrity(&self) -> bool {
        self.integrity.is_some()
    }

    /// With what it is protected, if it is by this key. Of two codes the stronger one decides.
    pub fn sealed_by(&self, key: &Key) -> Option<Integrity> {
        let (integrity, at) = self.integrity?;
        let (_, shown, next) = attribute(self.bytes, at)?;
        let code = key.code(integrity, header_until(self.bytes, next), &self.bytes[4..at]);
        constant_time::verify_slices_are_equal(code.as_ref(), shown).ok()?;
        Some(integrity)
    }

    /// Bytes on the wire.
    pub fn wire_len(&self) -> usize {
        self.bytes.len()
    }
}

fn wire_id(transaction: Transaction) -> TransactionId {
    let mut wide = [0; 16];
    wide[4..].copy_from_slice(&transaction);
    u128::from_be_bytes(wide).into()
}

/// A message that is written, attribute after attribute.
///
/// What would make it longer than any STUN message may be is left out, and [`Writer::finish`] then gives nothing.
pub struct Writer {
    wire: MessageWriteVec,
    transaction: Transaction,
    overflows: bool,
}

impl Writer {
    /// A message without attributes. Methods have twelve bits.
    pub fn new(class: Class, method: u16, transaction: Transaction) -> Writer {
        let kind = MessageType::from_class_method(class.into(), Method::new(method & 0x0fff));
        let wire = Wire::builder(kind, wire_id(transaction), MessageWriteVec::with_capacity(128));
        Writer { wire, transaction, overflows: false }
    }

    /// The answer to a message: same method, same transaction.
    pub fn answer(class: Class, to: &Message<'_>) -> Writer {
        Writer::new(class, to.method, to.transaction)
    }

    /// Adds a value as it is.
    pub fn put(&mut self, kind: u16, value: &[u8]) -> &mut Writer {
        if self.wire.data().len() + 4 + value.len().next_multiple_of(4) > STUN_LEN_MAX {
            self.overflows = true;
        } else {
            self.wire.push_attribute_unchecked(&RawAttribute::new(AttributeType::new(kind), value));
        }
        self
    }

    /// Adds an address, hidden where its type says so.
    pub fn put_address(&mut self, kind: u16, address: SocketAddr) -> &mut Writer {
        let mut value = [0; 20];
        let hidden = [kind::XOR_MAPPED_ADDRESS, kind::XOR_PEER_ADDRESS, kind::XOR_RELAYED_ADDRESS].contains(&kind);
        let len = if hidden {
            let address = XorSocketAddr::new(address, wire_id(self.transaction));
            address.write_into_unchecked(&mut value);
            address.length()
        } else {
            let address = MappedSocketAddr::new(address);
            address.write_into_unchecked(&mut value);
            address.length()
        };
        self.put(kind, &value[..usize::from(len)])
    }

    /// Adds the number of an error without words: they would only make the answer longer.
    pub fn put_error(&mut self, number: u16) -> &mut Writer {
        self.put(kind::ERROR_CODE, &error_value(number))
    }

    /// Adds message integrity: after it only [`Writer::put_fingerprint`] has an effect on who reads it.
    pub fn seal(&mut self, integrity: Integrity, key: &Key) -> &mut Writer {
        let before = self.wire_len();
        self.put(integrity.kind(), &[0; 32][..integrity.len()]);
        if !self.overflows {
            let data = self.wire.mut_data();
            let code = key.code(integrity, header_until(data, data.len()), &data[4..before]);
            data[before + 4..].copy_from_slice(code.as_ref());
        }
        self
    }

    /// Adds the fingerprint (RFC 8489 §14.7), after which nothing follows.
    pub fn put_fingerprint(&mut self) -> &mut Writer {
        if self.wire_len() + 8 > STUN_LEN_MAX || self.wire.add_fingerprint().is_err() {
            self.overflows = true;
        }
        self
    }

    /// Fills the message up to this many bytes, a multiple of four, with blanks in SOFTWARE: an attribute that every server may ignore, unlike
    /// PADDING, which one without RFC 5780 must refuse. What is sealed or fingerprinted comes afterwards and counts on top.
    pub fn fill_up_to(&mut self, len: usize) -> &mut Writer {
        // RFC 8489 §14.14 lets a value have up to 763 bytes.
        while let Some(room @ 4..) = len.checked_sub(self.wire_len()) {
            self.put(kind::SOFTWARE, &[b' '; 760][..(room - 4).min(760) / 4 * 4]);
            if self.overflows {
                break;
            }
        }
        self
    }

    /// Bytes that it has now.
    pub fn wire_len(&self) -> usize {
        self.wire.data().len()
    }

    /// The bytes, or nothing where they are too many for a STUN message.
    pub fn finish(self) -> Vec<u8> {
        if self.overflows { Vec::new() } else { self.wire.finish() }
    }
}

/// The value of ERROR-CODE and the end of that of ADDRESS-ERROR-CODE (RFC 8656 §18.12).
pub fn error_value(number: u16) -> [u8; 4] {
    [0, 0, (number / 100).min(7) as u8, (number % 100) as u8]
}
