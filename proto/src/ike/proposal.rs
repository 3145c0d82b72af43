//! Proposals and transforms: the body of a Security Association payload (RFC 7296 §3.3).

use std::fmt;

use super::cursor::{Cursor, fit, with_length};
use super::error::{IkeDecodeError, IkeEncodeError, IkeFault};
use super::header::IkeSpi;
use super::registry::{AttributeType, EncrId, EsnId, IntegId, KeId, PayloadType, PrfId, ProtocolId, TransformType};
use crate::esp::Spi;
use crate::limits::{ATTRIBUTES_OF_TRANSFORM_MAX, PROPOSALS_OF_PAYLOAD_MAX, TRANSFORMS_OF_PROPOSAL_MAX};
use crate::suite::Suite;

const LAST: u8 = 0;
const MORE_PROPOSALS: u8 = 2;
const MORE_TRANSFORMS: u8 = 3;
/// Set in an attribute's type: the value is the two bytes that follow, without a length.
const SHORT_FORM: u16 = 0x8000;

/// One way to protect something: transforms of which one of each type is to be chosen (RFC 7296 §3.3.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// Counts from 1; an answer carries the number of the proposal that was chosen.
    pub number: u8,
    pub protocol: ProtocolId,
    /// Empty in IKE_SA_INIT, 8 bytes in the rekey of an IKE SA, 4 for ESP. At most 255 bytes.
    pub spi: Vec<u8>,
    pub transforms: Vec<Transform>,
}

/// One algorithm of one type (RFC 7296 §3.3.2).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Transform {
    pub kind: TransformType,
    /// What it means depends on the type: [`EncrId`], [`PrfId`], [`IntegId`], [`KeId`] or [`EsnId`].
    pub id: u16,
    /// In the order of the message. One that is unknown makes the transform unacceptable (RFC 7296 §3.3.6).
    pub attributes: Vec<Attribute>,
}

/// An attribute of a transform (RFC 7296 §3.3.5).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Attribute {
    /// Below 0x8000.
    pub kind: AttributeType,
    pub value: AttributeValue,
}

/// The value of an attribute, in one of its two forms.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum AttributeValue {
    /// Type and value.
    Short(u16),
    /// Type, length and value.
    Long(Vec<u8>),
}

impl Transform {
    fn plain(kind: TransformType, id: u16) -> Transform {
        Transform { kind, id, attributes: Vec::new() }
    }

    /// Encryption; the key length in bits where the algorithm has several.
    pub fn encr(id: EncrId, key_bits: Option<u16>) -> Transform {
        let key_length = |bits| Attribute { kind: AttributeType::KEY_LENGTH, value: AttributeValue::Short(bits) };
        Transform { kind: TransformType::ENCR, id: id.0, attributes: key_bits.map(key_length).into_iter().collect() }
    }

    /// The encryption of a suite of ESP.
    pub fn of_suite(suite: Suite) -> Transform {
        match suite {
            Suite::Aes128Gcm => Transform::encr(EncrId::AES_GCM_16, Some(128)),
            Suite::Aes256Gcm => Transform::encr(EncrId::AES_GCM_16, Some(256)),
            // Its key has one length, so there is no attribute (RFC 7634 §3).
            Suite::ChaCha20Poly1305 => Transform::encr(EncrId::CHACHA20_POLY1305, None),
        }
    }

    pub fn prf(id: PrfId) -> Transform {
        Transform::plain(TransformType::PRF, id.0)
    }

    pub fn integ(id: IntegId) -> Transform {
        Transform::plain(TransformType::INTEG, id.0)
    }

    pub fn ke(id: KeId) -> Transform {
        Transform::plain(TransformType::KE, id.0)
    }

    pub fn esn(id: EsnId) -> Transform {
        Transform::plain(TransformType::ESN, id.0)
    }

    /// An additional key exchange (RFC 9370); `kind` is one of [`TransformType::ADDITIONAL_KE`].
    pub fn additional_ke(kind: TransformType, id: KeId) -> Transform {
        Transform::plain(kind, id.0)
    }

    /// The key length, in bits, when that is the only attribute.
    pub fn key_bits(&self) -> Option<u16> {
        match self.attributes[..] {
            [Attribute { kind: AttributeType::KEY_LENGTH, value: AttributeValue::Short(bits) }] => Some(bits),
            _ => None,
        }
    }

    /// The name of the algorithm, without its attributes.
    pub fn id_name(&self) -> Option<&'static str> {
        match self.kind {
            TransformType::ENCR => EncrId(self.id).name(),
            TransformType::PRF => PrfId(self.id).name(),
            TransformType::INTEG => IntegId(self.id).name(),
            TransformType::ESN => EsnId(self.id).name(),
            kind if kind.is_key_exchange() => KeId(self.id).name(),
            _ => None,
        }
    }

    fn decode(mut cursor: Cursor) -> Result<Transform, IkeDecodeError> {
        let kind = TransformType(cursor.u8("transform type")?);
        cursor.u8("transform")?;
        let id = cursor.u16("transform id")?;
        let mut attributes = Vec::new();
        while !cursor.is_empty() {
            if attributes.len() == ATTRIBUTES_OF_TRANSFORM_MAX {
                return Err(cursor.error(IkeFault::TooMany { what: "attributes", limit: ATTRIBUTES_OF_TRANSFORM_MAX }));
            }
            attributes.push(Attribute::decode(&mut cursor)?);
        }
        Ok(Transform { kind, id, attributes })
    }

    fn encode(&self, last: bool, out: &mut Vec<u8>) -> Result<(), IkeEncodeError> {
        with_length(out, PayloadType::SA, |out| {
            out.extend([if last { LAST } else { MORE_TRANSFORMS }, 0, 0, 0, self.kind.0, 0]);
            out.extend(self.id.to_be_bytes());
            fit_count(self.attributes.len(), ATTRIBUTES_OF_TRANSFORM_MAX, "a transform has too many attributes")?;
            self.attributes.iter().try_for_each(|attribute| attribute.encode(out))
        })
    }
}

impl Attribute {
    fn decode(cursor: &mut Cursor) -> Result<Attribute, IkeDecodeError> {
        let word = cursor.u16("attribute type")?;
        let kind = AttributeType(word & !SHORT_FORM);
        let field = cursor.u16("attribute")?;
        let value = if word & SHORT_FORM != 0 {
            AttributeValue::Short(field)
        } else {
            AttributeValue::Long(cursor.bytes(usize::from(field), "attribute value")?.to_vec())
        };
        Ok(Attribute { kind, value })
    }

    fn encode(&self, out: &mut Vec<u8>) -> Result<(), IkeEncodeError> {
        if self.kind.0 & SHORT_FORM != 0 {
            return Err(IkeEncodeError { payload: PayloadType::SA, what: "an attribute's type has more than 15 bits" });
        }
        match &self.value {
            AttributeValue::Short(value) => {
                out.extend((self.kind.0 | SHORT_FORM).to_be_bytes());
                out.extend(value.to_be_bytes());
            }
            AttributeValue::Long(value) => {
                let len: u16 = fit(PayloadType::SA, value.len(), "an attribute is longer than 65535 bytes")?;
                out.extend(self.kind.0.to_be_bytes());
                out.extend(len.to_be_bytes());
                out.extend_from_slice(value);
            }
        }
        Ok(())
    }
}

impl Proposal {
    /// The SPI of the IKE SA that would be made, when it has 8 bytes.
    pub fn ike_spi(&self) -> Option<IkeSpi> {
        self.spi.as_slice().try_into().ok().map(IkeSpi::from_bytes)
    }

    /// The SPI of the ESP or AH SA that would be made, when it has 4 bytes.
    pub fn child_spi(&self) -> Option<Spi> {
        self.spi.as_slice().try_into().ok().map(|bytes| Spi(u32::from_be_bytes(bytes)))
    }

    /// Its transforms of one type, in the sender's order of preference.
    pub fn of(&self, kind: TransformType) -> impl Iterator<Item = &Transform> {
        self.transforms.iter().filter(move |transform| transform.kind == kind)
    }

    fn decode(mut cursor: Cursor) -> Result<Proposal, IkeDecodeError> {
        let number = cursor.u8("proposal number")?;
        let protocol = ProtocolId(cursor.u8("protocol")?);
        let spi_len = cursor.u8("SPI size")?;
        let count = usize::from(cursor.u8("number of transforms")?);
        let spi = cursor.bytes(usize::from(spi_len), "SPI")?.to_vec();
        if count > TRANSFORMS_OF_PROPOSAL_MAX {
            return Err(cursor.error(IkeFault::TooMany { what: "transforms", limit: TRANSFORMS_OF_PROPOSAL_MAX }));
        }
        let mut transforms = Vec::new();
        for index in 1..=count {
            let expected = if index == count { LAST } else { MORE_TRANSFORMS };
            let (_, body) = substructure(&mut cursor, "transform", |more| more == expected)?;
            transforms.push(Transform::decode(body)?);
        }
        cursor.finish()?;
        Ok(Proposal { number, protocol, spi, transforms })
    }

    fn encode(&self, last: bool, out: &mut Vec<u8>) -> Result<(), IkeEncodeError> {
        with_length(out, PayloadType::SA, |out| {
            let spi_len: u8 = fit(PayloadType::SA, self.spi.len(), "an SPI is longer than 255 bytes")?;
            let count = fit_count(self.transforms.len(), TRANSFORMS_OF_PROPOSAL_MAX, "a proposal has too many transforms")?;
            out.extend([if last { LAST } else { MORE_PROPOSALS }, 0, 0, 0, self.number, self.protocol.0, spi_len, count]);
            out.extend_from_slice(&self.spi);
            each_last(&self.transforms, |transform, last| transform.encode(last, out))
        })
    }
}

/// Reads the body of an SA payload.
pub(super) fn decode(mut cursor: Cursor) -> Result<Vec<Proposal>, IkeDecodeError> {
    let mut proposals = Vec::new();
    loop {
        if proposals.len() == PROPOSALS_OF_PAYLOAD_MAX {
            return Err(cursor.error(IkeFault::TooMany { what: "proposals", limit: PROPOSALS_OF_PAYLOAD_MAX }));
        }
        let (more, body) = substructure(&mut cursor, "proposal", |more| [LAST, MORE_PROPOSALS].contains(&more))?;
        proposals.push(Proposal::decode(body)?);
        if more == LAST {
            break;
        }
    }
    cursor.finish()?;
    Ok(proposals)
}

/// Writes the body of an SA payload.
pub(super) fn encode(proposals: &[Proposal], out: &mut Vec<u8>) -> Result<(), IkeEncodeError> {
    if proposals.is_empty() {
        return Err(IkeEncodeError { payload: PayloadType::SA, what: "it has no proposal" });
    }
    fit_count(proposals.len(), PROPOSALS_OF_PAYLOAD_MAX, "it has too many proposals")?;
    each_last(proposals, |proposal, last| proposal.encode(last, out))
}

/// Reads "more or last", a reserved byte and a length; the second value is what the length covers beyond these.
fn substructure<'a>(
    cursor: &mut Cursor<'a>,
    what: &'static str,
    allowed: impl Fn(u8) -> bool,
) -> Result<(u8, Cursor<'a>), IkeDecodeError> {
    let at = cursor.offset();
    let more = cursor.u8(what)?;
    if !allowed(more) {
        return Err(cursor.error_at(at, IkeFault::BadValue { field: "last substructure", value: more.into() }));
    }
    cursor.u8(what)?;
    let at = cursor.offset();
    let length = usize::from(cursor.u16(what)?);
    let body_len = length.checked_sub(4).ok_or(cursor.error_at(at, IkeFault::BadLength { field: what, len: length }))?;
    Ok((more, cursor.part(body_len, what)?))
}

fn fit_count(count: usize, limit: usize, what: &'static str) -> Result<u8, IkeEncodeError> {
    if count > limit { Err(IkeEncodeError { payload: PayloadType::SA, what }) } else { fit(PayloadType::SA, count, what) }
}

/// Calls `write` for every item and says which one is the last.
fn each_last<T>(items: &[T], mut write: impl FnMut(&T, bool) -> Result<(), IkeEncodeError>) -> Result<(), IkeEncodeError> {
    items.iter().enumerate().try_for_each(|(index, item)| write(item, index + 1 == items.len()))
}

/// `AES_GCM_16_256`, `CURVE_25519`, `ADDKE1_ML_KEM_768`; what has no name as `type:number`.
impl fmt::Display for Transform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if TransformType::ADDITIONAL_KE.contains(&self.kind) {
            write!(f, "{}_", self.kind)?;
        }
        match self.id_name() {
            Some(name) => f.write_str(name)?,
            None => write!(f, "{}:{}", self.kind, self.id)?,
        }
        for attribute in &self.attributes {
            match (attribute.kind, &attribute.value) {
                (AttributeType::KEY_LENGTH, AttributeValue::Short(bits)) => write!(f, "_{bits}")?,
                (kind, AttributeValue::Short(value)) => write!(f, "[{kind}={value}]")?,
                (kind, AttributeValue::Long(value)) => write!(f, "[{kind}: {} bytes]", value.len())?,
            }
        }
        Ok(())
    }
}

/// `ESP:AES_GCM_16_256/ESN`.
impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.protocol)?;
        for (index, transform) in self.transforms.iter().enumerate() {
            if index > 0 {
                f.write_str("/")?;
            }
            write!(f, "{transform}")?;
        }
        Ok(())
    }
}
