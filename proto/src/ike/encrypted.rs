//! The Encrypted payload and its fragments, with an AEAD (RFC 7296 §3.14, RFC 5282 §3, RFC 7383 §2.5).
//!
//! ```text
//!  0        28          p         p+4 (p+8)   +8                                len-16      len
//!  ┌────────┬───────────┬──────────┬──────────┬─────────────────────────────────┬───────────┐
//!  │ header │ payloads  │ generic  │ IV       │ ciphertext                      │ tag       │
//!  │        │ in clear  │ header,  │ (8 bytes)│ payloads ‖ padding ‖ pad length │ (16 bytes)│
//!  │        │ (rare)    │ fragment │          │                                 │           │
//!  └────────┴───────────┴──────────┴──────────┴─────────────────────────────────┴───────────┘
//!  └──────── associated data ──────┘
//! ```
//! The fragment number and total (two bytes each) are there in SKF only, and are covered by the associated data.

use super::cursor::Cursor;
use super::error::{IkeDecodeError, IkeEncodeError, IkeFault};
use super::header::{Header, LENGTH_AT, Link, NEXT_PAYLOAD_AT, PAYLOAD_HEADER_LEN, payload_header};
use super::registry::PayloadType;
use crate::demux::IKE_HEADER_LEN;
use crate::limits::{FRAGMENTS_OF_MESSAGE_MAX, IKE_MESSAGE_LEN_MAX, PAYLOADS_OF_MESSAGE_MAX};
use crate::suite::TAG_LEN;

/// Length of the explicit IV, in bytes (RFC 5282 §3.1, RFC 7634 §2).
pub const IV_LEN: usize = 8;
/// Length of the integrity check value, in bytes: of AES-GCM with ICV 16 and of ChaCha20-Poly1305.
pub const ICV_LEN: usize = TAG_LEN;
/// Length of fragment number and total, in bytes.
pub const FRAGMENT_HEADER_LEN: usize = 4;
/// What a message with SK adds to the payloads inside, in bytes; padding is the pad length alone.
pub const SK_OVERHEAD: usize = IKE_HEADER_LEN + PAYLOAD_HEADER_LEN + IV_LEN + PAD_LENGTH_LEN + ICV_LEN;
/// What a message with SKF adds, in bytes.
pub const SKF_OVERHEAD: usize = SK_OVERHEAD + FRAGMENT_HEADER_LEN;

const PAD_LENGTH_LEN: usize = 1;

/// Which part of a message it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fragment {
    /// From 1 to `total`.
    pub number: u16,
    pub total: u16,
}

/// A received message that ends with SK or SKF, still sealed.
#[derive(Clone, Copy, Debug)]
pub struct Sealed<'a> {
    message: &'a [u8],
    header: Header,
    /// Where the type of the SK or SKF payload is said.
    named_at: usize,
    /// Where its generic header begins.
    payload_at: usize,
    first: PayloadType,
    fragment: Option<Fragment>,
}

impl<'a> Sealed<'a> {
    /// Finds SK or SKF in a datagram (behind the non-ESP marker); `None` when all of the message is in the clear.
    ///
    /// Payloads in the clear before it are skipped: nothing in them is to be believed before the tag has been verified.
    ///
    /// # Errors
    /// The bytes are no message of IKEv2, the body is too short, the fragment's numbers are out of range or above
    /// [`FRAGMENTS_OF_MESSAGE_MAX`], or an unknown payload is marked critical.
    pub fn parse(message: &'a [u8]) -> Result<Option<Sealed<'a>>, IkeDecodeError> {
        let header = Header::decode_whole(message)?;
        let mut chain = Cursor::new(&message[IKE_HEADER_LEN..], IKE_HEADER_LEN, PayloadType::NONE);
        let (mut kind, mut named_at) = (header.next_payload, NEXT_PAYLOAD_AT);
        for _ in 0..PAYLOADS_OF_MESSAGE_MAX {
            if kind == PayloadType::NONE {
                chain.finish()?;
                return Ok(None);
            }
            let payload_at = chain.offset();
            let link = Link::read(kind, &mut chain)?;
            if kind.is_encrypted() {
                chain.finish()?;
                let (first, fragment) = (link.next, read_sealed_body(kind, link.body)?);
                return Ok(Some(Sealed { message, header, named_at, payload_at, first, fragment }));
            }
            if link.critical && !kind.is_understood() {
                return Err(link.body.error(IkeFault::UnsupportedCritical));
            }
            (kind, named_at) = (link.next, payload_at);
        }
        Err(chain.error(IkeFault::TooMany { what: "payloads", limit: PAYLOADS_OF_MESSAGE_MAX }))
    }

    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Type of the first payload inside; in fragments after the first it means nothing.
    pub fn first(&self) -> PayloadType {
        self.first
    }

    /// `None` when the message is whole.
    pub fn fragment(&self) -> Option<Fragment> {
        self.fragment
    }

    /// The associated data: from the header to the IV (RFC 5282 §5.1, RFC 7383 §2.5).
    pub fn aad(&self) -> &'a [u8] {
        &self.message[..self.iv_at()]
    }

    pub fn iv(&self) -> [u8; IV_LEN] {
        let mut iv = [0; IV_LEN];
        iv.copy_from_slice(&self.message[self.iv_at()..self.iv_at() + IV_LEN]);
        iv
    }

    /// Ciphertext, at least one byte, and tag.
    pub fn ciphertext_and_tag(&self) -> &'a [u8] {
        &self.message[self.iv_at() + IV_LEN..]
    }

    /// What an IKE_INTERMEDIATE message contributes to AUTH in front of its inner payloads (RFC 9242 §3.3.2: IntAuth_A):
    /// the associated data, as if the message were whole and neither IV, padding nor tag were in it.
    ///
    /// `inner_len` is the length of the inner payloads of the whole message, in bytes. Of a fragmented message it is to be
    /// taken from the first fragment, which alone says the type of the first payload.
    pub fn int_auth(&self, inner_len: usize) -> Vec<u8> {
        let mut out = self.message[..self.payload_at + PAYLOAD_HEADER_LEN].to_vec();
        out[self.named_at] = PayloadType::SK.0;
        adjust_lengths(&mut out, self.payload_at, inner_len);
        out
    }

    fn iv_at(&self) -> usize {
        self.payload_at + PAYLOAD_HEADER_LEN + if self.fragment.is_some() { FRAGMENT_HEADER_LEN } else { 0 }
    }
}

/// Checks the body of SK or SKF as far as it is in the clear.
fn read_sealed_body(kind: PayloadType, mut body: Cursor) -> Result<Option<Fragment>, IkeDecodeError> {
    let mut fragment = None;
    if kind == PayloadType::SKF {
        let at = body.offset();
        let (number, total) = (body.u16("fragment number")?, body.u16("total of fragments")?);
        // RFC 7383 §2.6: neither is zero, and the number is not above the total.
        if number == 0 || number > total {
            return Err(body.error_at(at, IkeFault::BadValue { field: "fragment number", value: number.into() }));
        }
        if total > FRAGMENTS_OF_MESSAGE_MAX {
            return Err(body.error_at(at + 2, IkeFault::TooMany { what: "fragments", limit: FRAGMENTS_OF_MESSAGE_MAX.into() }));
        }
        fragment = Some(Fragment { number, total });
    }
    body.array::<IV_LEN>("IV")?;
    let at = body.offset();
    let len = body.rest().len();
    if len < PAD_LENGTH_LEN + ICV_LEN {
        return Err(body.error_at(at, IkeFault::BadLength { field: "ciphertext with its tag", len }));
    }
    Ok(fragment)
}

/// The payloads that were inside, without padding, of a plaintext whose tag was verified. Any padding is accepted
/// (RFC 7296 §3.14).
///
/// # Errors
/// The last byte says more padding than there are bytes.
pub fn strip_padding(plaintext: &[u8]) -> Result<&[u8], IkeDecodeError> {
    let error = |offset, fault| IkeDecodeError { payload: PayloadType::SK, offset, fault };
    let (&pad_len, rest) = plaintext.split_last().ok_or(error(0, IkeFault::Truncated("pad length")))?;
    let len = rest.len().checked_sub(usize::from(pad_len));
    let bad_length = IkeFault::BadLength { field: "padding", len: pad_len.into() };
    Ok(&rest[..len.ok_or(error(rest.len(), bad_length))?])
}

/// A message whose SK or SKF payload has its final length and place, but is not yet sealed.
#[derive(Clone, Debug)]
pub struct Unsealed {
    message: Vec<u8>,
    iv_at: usize,
}

impl Unsealed {
    /// A message whose only payload is SK. `inner` are the payloads inside, `first` is the type of the first of them, as
    /// [`crate::ike::encode_payloads`] gives both. The IV must be unique under the key.
    ///
    /// # Errors
    /// The message would be longer than [`IKE_MESSAGE_LEN_MAX`].
    pub fn sk(header: &Header, first: PayloadType, inner: &[u8], iv: [u8; IV_LEN]) -> Result<Unsealed, IkeEncodeError> {
        Unsealed::new(header, PayloadType::SK, first, &[], inner, iv)
    }

    /// Pads it until the whole message has `len` bytes, as far as padding can (RFC 7296 §3.14: at most 255 bytes). For a message with
    /// SK alone: fragments are never short.
    #[must_use]
    pub fn padded_to(mut self, len: usize) -> Unsealed {
        let pad = u8::try_from(len.saturating_sub(self.message.len() + ICV_LEN)).unwrap_or(u8::MAX);
        let longer = self.message.len() + usize::from(pad) + ICV_LEN;
        if let Ok(length) = u16::try_from(longer) {
            // The last byte so far is the pad length, none: the padding takes its place and it goes behind.
            self.message.extend(std::iter::repeat_n(0, pad.into()));
            if let Some(last) = self.message.last_mut() {
                *last = pad;
            }
            self.message[LENGTH_AT..IKE_HEADER_LEN].copy_from_slice(&u32::from(length).to_be_bytes());
            let payload = length - IKE_HEADER_LEN as u16;
            self.message[IKE_HEADER_LEN + 2..IKE_HEADER_LEN + PAYLOAD_HEADER_LEN].copy_from_slice(&payload.to_be_bytes());
        }
        self
    }

    /// A message whose only payload is SKF, with one of the `parts` that [`fragments`] makes. Every one needs an IV of its own.
    ///
    /// # Errors
    /// The message would be longer than [`IKE_MESSAGE_LEN_MAX`].
    pub fn skf(
        header: &Header,
        first: PayloadType,
        (fragment, part): (Fragment, &[u8]),
        iv: [u8; IV_LEN],
    ) -> Result<Unsealed, IkeEncodeError> {
        let ([n0, n1], [t0, t1]) = (fragment.number.to_be_bytes(), fragment.total.to_be_bytes());
        // RFC 7383 §2.5: only the first fragment says what it begins with.
        let first = if fragment.number == 1 { first } else { PayloadType::NONE };
        Unsealed::new(header, PayloadType::SKF, first, &[n0, n1, t0, t1], part, iv)
    }

    fn new(
        header: &Header,
        kind: PayloadType,
        first: PayloadType,
        fragment: &[u8],
        inner: &[u8],
        iv: [u8; IV_LEN],
    ) -> Result<Unsealed, IkeEncodeError> {
        let iv_at = IKE_HEADER_LEN + PAYLOAD_HEADER_LEN + fragment.len();
        let len = inner.len().saturating_add(iv_at + IV_LEN + PAD_LENGTH_LEN + ICV_LEN);
        let too_long = IkeEncodeError { payload: kind, what: "the message would be longer than 65535 bytes" };
        let length = u16::try_from(len).map_err(|_| too_long)?;
        let mut message = Vec::with_capacity(len);
        message.extend(header.bytes(kind, length.into()));
        message.extend(payload_header(first, false));
        message[IKE_HEADER_LEN + 2..].copy_from_slice(&(length - IKE_HEADER_LEN as u16).to_be_bytes());
        message.extend_from_slice(fragment);
        message.extend(iv);
        message.extend_from_slice(inner);
        message.push(0);
        Ok(Unsealed { message, iv_at })
    }

    /// Seals the message: `seal` gets the associated data, the IV and the plaintext, which it encrypts in place, and gives
    /// the tag.
    ///
    /// # Errors
    /// Those of `seal`.
    pub fn seal<E>(
        mut self,
        seal: impl FnOnce(&[u8], [u8; IV_LEN], &mut [u8]) -> Result<[u8; ICV_LEN], E>,
    ) -> Result<Vec<u8>, E> {
        let (aad, rest) = self.message.split_at_mut(self.iv_at);
        let (iv, plaintext) = rest.split_at_mut(IV_LEN);
        let mut iv_bytes = [0; IV_LEN];
        iv_bytes.copy_from_slice(iv);
        let tag = seal(aad, iv_bytes, plaintext)?;
        self.message.extend(tag);
        Ok(self.message)
    }
}

/// Cuts the inner payloads of one message into parts that fit messages of at most `message_len_max` bytes (RFC 7383 §2.5.1);
/// `None` when that takes more than [`FRAGMENTS_OF_MESSAGE_MAX`], or leaves no room for a byte.
///
/// `message_len_max` counts the IKE message alone: without the headers of UDP and IP and without the non-ESP marker.
pub fn fragments(inner: &[u8], message_len_max: usize) -> Option<Vec<(Fragment, &[u8])>> {
    let part_len = message_len_max.min(IKE_MESSAGE_LEN_MAX).checked_sub(SKF_OVERHEAD).filter(|len| *len > 0)?;
    let total = u16::try_from(inner.len().div_ceil(part_len).max(1)).ok().filter(|total| *total <= FRAGMENTS_OF_MESSAGE_MAX)?;
    if inner.is_empty() {
        return Some(vec![(Fragment { number: 1, total }, inner)]);
    }
    Some((1..=total).map(|number| Fragment { number, total }).zip(inner.chunks(part_len)).collect())
}

/// [`Sealed::int_auth`] of a message of our own: its only payload is SK, and `inner_len` bytes are inside.
pub fn int_auth(header: &Header, first: PayloadType, inner_len: usize) -> Vec<u8> {
    let mut out = header.bytes(PayloadType::SK, 0).to_vec();
    out.extend(payload_header(first, false));
    adjust_lengths(&mut out, IKE_HEADER_LEN, inner_len);
    out
}

/// Sets the lengths of message and SK payload to what they would be without IV, padding and tag (RFC 9242 §3.3.2).
fn adjust_lengths(out: &mut [u8], payload_at: usize, inner_len: usize) {
    let length = u32::try_from(out.len().saturating_add(inner_len)).unwrap_or(u32::MAX);
    let payload_length = u16::try_from(PAYLOAD_HEADER_LEN.saturating_add(inner_len)).unwrap_or(u16::MAX);
    out[LENGTH_AT..IKE_HEADER_LEN].copy_from_slice(&length.to_be_bytes());
    out[payload_at + 2..payload_at + PAYLOAD_HEADER_LEN].copy_from_slice(&payload_length.to_be_bytes());
}
