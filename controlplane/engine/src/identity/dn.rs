//! Distinguished names (RFC 5280 §4.1.2.4): X.500's names of certificate holders, as people write them.
//!
//! Written with the widest part first, as certificates hold them and `openssl x509 -subject` shows them. A name in the other
//! order (RFC 4514) is the same name when a peer's is compared with it, but would be sent in the order in which it is written.

use std::fmt;
use std::str::FromStr;

use x509_cert::attr::AttributeTypeAndValue;
use x509_cert::der::asn1::{Any, ObjectIdentifier, SetOfVec};
use x509_cert::der::{Decode, Encode, Tag, Tagged};
use x509_cert::name::{Name, RdnSequence, RelativeDistinguishedName};

const COUNTRY: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.6");
const SERIAL_NUMBER: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.5");
const DOMAIN_COMPONENT: ObjectIdentifier = ObjectIdentifier::new_unwrap("0.9.2342.19200300.100.1.25");
const EMAIL_ADDRESS: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.1");

/// Attribute types with a name. Of several names for one type, the first is shown.
const ATTRIBUTES: &[(&str, ObjectIdentifier)] = &[
    ("CN", ObjectIdentifier::new_unwrap("2.5.4.3")),
    ("SN", ObjectIdentifier::new_unwrap("2.5.4.4")),
    ("serialNumber", SERIAL_NUMBER),
    ("C", COUNTRY),
    ("L", ObjectIdentifier::new_unwrap("2.5.4.7")),
    ("ST", ObjectIdentifier::new_unwrap("2.5.4.8")),
    ("S", ObjectIdentifier::new_unwrap("2.5.4.8")),
    ("STREET", ObjectIdentifier::new_unwrap("2.5.4.9")),
    ("O", ObjectIdentifier::new_unwrap("2.5.4.10")),
    ("OU", ObjectIdentifier::new_unwrap("2.5.4.11")),
    ("T", ObjectIdentifier::new_unwrap("2.5.4.12")),
    ("GN", ObjectIdentifier::new_unwrap("2.5.4.42")),
    ("DC", DOMAIN_COMPONENT),
    ("UID", ObjectIdentifier::new_unwrap("0.9.2342.19200300.100.1.1")),
    ("emailAddress", EMAIL_ADDRESS),
    ("E", EMAIL_ADDRESS),
    ("EMAIL", EMAIL_ADDRESS),
];

/// A distinguished name. Two are equal by RFC 5280 §7.1: the case of text, runs of spaces and the types of strings do not
/// matter, the order of the parts does.
#[derive(Clone, Debug)]
pub struct DistinguishedName {
    der: Vec<u8>,
    /// The widest part first. In a part, usually one attribute.
    parts: Vec<Vec<Attribute>>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Attribute {
    kind: ObjectIdentifier,
    value: Value,
}

#[derive(Clone, Debug)]
enum Value {
    Text(String),
    /// Of a type that is no text: its DER.
    Other(Vec<u8>),
}

/// What is wrong with a distinguished name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DnFault {
    #[error("it has no parts")]
    Empty,
    #[error("its part {0:?} has no '='")]
    NoEquals(String),
    #[error("its part {0:?} has no value")]
    NoValue(String),
    #[error(
        "{0:?} is no attribute type; one of C, ST, L, O, OU, CN, DC, UID, E, serialNumber or dotted numbers must stand there"
    )]
    UnknownType(String),
    #[error("the value {0:?} cannot be encoded: a country has two ASCII letters, DC and E are ASCII, and every character shows")]
    Value(String),
    #[error("it ends within an escape")]
    Escape,
    #[error("the bytes are no DER of a name")]
    Der,
}

impl DistinguishedName {
    /// Reads DER: a SEQUENCE of parts and nothing behind it.
    ///
    /// # Errors
    /// `Empty` or `Der`.
    pub fn from_der(der: &[u8]) -> Result<DistinguishedName, DnFault> {
        DistinguishedName::from_name(&Name::from_der(der).map_err(|_| DnFault::Der)?)
    }

    /// Of a certificate's subject or issuer.
    pub(crate) fn from_name(name: &Name) -> Result<DistinguishedName, DnFault> {
        if name.is_empty() {
            return Err(DnFault::Empty);
        }
        let der = name.to_der().map_err(|_| DnFault::Der)?;
        let attribute = |attribute: &AttributeTypeAndValue| Attribute { kind: attribute.oid, value: Value::of(&attribute.value) };
        let parts = name.iter_rdn().map(|part| part.iter().map(attribute).collect()).collect();
        Ok(DistinguishedName { der, parts })
    }

    /// The name as it goes into an ID payload.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// Whether `other` is this name, in this order of the parts or in the reverse. A value of this name that is `*` stands for
    /// any value.
    pub fn covers(&self, other: &DistinguishedName) -> bool {
        let fits = |part: &Vec<Attribute>, other: &Vec<Attribute>| {
            let (part, other) = (sorted(part), sorted(other));
            part.len() == other.len() && part.iter().zip(other).all(|(a, b)| a.covers(b))
        };
        self.parts.len() == other.parts.len()
            && (self.parts.iter().zip(&other.parts).all(|(a, b)| fits(a, b))
                || self.parts.iter().zip(other.parts.iter().rev()).all(|(a, b)| fits(a, b)))
    }

    /// Whether a value is `*`, so that the name stands for several.
    pub fn has_wildcard(&self) -> bool {
        self.parts.iter().flatten().any(|attribute| attribute.value.is_wildcard())
    }
}

impl PartialEq for DistinguishedName {
    fn eq(&self, other: &DistinguishedName) -> bool {
        self.parts.len() == other.parts.len() && self.parts.iter().zip(&other.parts).all(|(a, b)| sorted(a) == sorted(b))
    }
}

impl Eq for DistinguishedName {}

impl Attribute {
    fn covers(&self, other: &Attribute) -> bool {
        self.kind == other.kind && (self.value.is_wildcard() || self.value == other.value)
    }
}

/// The attributes of a part are a set.
fn sorted(part: &[Attribute]) -> Vec<&Attribute> {
    let mut part: Vec<&Attribute> = part.iter().collect();
    part.sort_by(|a, b| a.kind.cmp(&b.kind).then_with(|| a.value.cmp(&b.value)));
    part
}

impl Value {
    fn of(value: &Any) -> Value {
        let bytes = value.value();
        let text = match value.tag() {
            Tag::Utf8String | Tag::PrintableString | Tag::Ia5String | Tag::NumericString | Tag::VisibleString => {
                std::str::from_utf8(bytes).ok().map(str::to_owned)
            }
            // What is in certificates under this tag is Latin-1.
            Tag::TeletexString => Some(bytes.iter().map(|byte| char::from(*byte)).collect()),
            Tag::BmpString if bytes.len().is_multiple_of(2) => {
                let units = bytes.chunks(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
                char::decode_utf16(units).collect::<Result<_, _>>().ok()
            }
            _ => None,
        };
        match text {
            Some(text) => Value::Text(text),
            None => Value::Other(value.to_der().unwrap_or_else(|_| bytes.to_vec())),
        }
    }

    fn is_wildcard(&self) -> bool {
        matches!(self, Value::Text(text) if text == "*")
    }

    /// Text as it is compared: without case, with single spaces (RFC 5280 §7.1).
    fn folded(&self) -> Option<String> {
        match self {
            Value::Text(text) => Some(text.to_lowercase().split_whitespace().collect::<Vec<_>>().join(" ")),
            Value::Other(_) => None,
        }
    }
}

impl PartialEq for Value {
    fn eq(&self, other: &Value) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Value {}

impl PartialOrd for Value {
    fn partial_cmp(&self, other: &Value) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Value {
    fn cmp(&self, other: &Value) -> std::cmp::Ordering {
        match (self, other) {
            (Value::Other(a), Value::Other(b)) => a.cmp(b),
            _ => self.folded().cmp(&other.folded()),
        }
    }
}

impl FromStr for DistinguishedName {
    type Err = DnFault;

    /// Parts are separated by commas; several attributes of one part by `+`. A backslash escapes the character behind it.
    fn from_str(text: &str) -> Result<DistinguishedName, DnFault> {
        let mut name = RdnSequence::default();
        for part in split(text, ',')? {
            let attributes = split(part, '+')?.into_iter().map(read_attribute).collect::<Result<Vec<_>, _>>()?;
            let attributes = SetOfVec::try_from(attributes).map_err(|_| DnFault::Value(part.to_owned()))?;
            name.push(RelativeDistinguishedName::from(attributes));
        }
        DistinguishedName::from_der(&name.to_der().map_err(|_| DnFault::Value(text.to_owned()))?)
    }
}

/// The stretches of text between the separators that no backslash escapes.
fn split(text: &str, separator: char) -> Result<Vec<&str>, DnFault> {
    let (mut parts, mut start, mut escaped) = (Vec::new(), 0, false);
    for (at, character) in text.char_indices() {
        if escaped {
            escaped = false;
        } else if character == '\\' {
            escaped = true;
        } else if character == separator {
            parts.push(text[start..at].trim());
            start = at + character.len_utf8();
        }
    }
    if escaped {
        return Err(DnFault::Escape);
    }
    parts.push(text[start..].trim());
    Ok(parts)
}

fn read_attribute(text: &str) -> Result<AttributeTypeAndValue, DnFault> {
    let (kind, value) = text.split_once('=').ok_or_else(|| DnFault::NoEquals(text.to_owned()))?;
    let (kind, value) = (kind.trim(), value.trim());
    if value.is_empty() {
        return Err(DnFault::NoValue(text.to_owned()));
    }
    let named = ATTRIBUTES.iter().find(|(name, _)| name.eq_ignore_ascii_case(kind)).map(|(_, oid)| *oid);
    let oid = named.or_else(|| ObjectIdentifier::new(kind).ok()).ok_or_else(|| DnFault::UnknownType(kind.to_owned()))?;
    let value = unescape(value);
    // RFC 5280 appendix A.1 says which strings these have; all others are UTF-8.
    let (tag, fits) = match oid {
        COUNTRY if value == "*" => (Tag::Utf8String, true),
        COUNTRY => (Tag::PrintableString, value.len() == 2 && value.chars().all(|letter| letter.is_ascii_alphabetic())),
        SERIAL_NUMBER => (Tag::PrintableString, value.is_ascii()),
        DOMAIN_COMPONENT | EMAIL_ADDRESS => (Tag::Ia5String, value.is_ascii()),
        _ => (Tag::Utf8String, true),
    };
    // What does not show could not be written again as it is shown.
    let shows = value.chars().all(|character| character == ' ' || super::shows(character));
    match Any::new(tag, value.as_bytes()) {
        Ok(any) if fits && shows => Ok(AttributeTypeAndValue { oid, value: any }),
        _ => Err(DnFault::Value(value)),
    }
}

fn unescape(text: &str) -> String {
    let mut escaped = false;
    let keep = |character: &char| {
        escaped = *character == '\\' && !escaped;
        !escaped
    };
    text.chars().filter(keep).collect()
}

impl fmt::Display for DistinguishedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, part) in self.parts.iter().enumerate() {
            f.write_str(if number == 0 { "" } else { ", " })?;
            for (number, attribute) in part.iter().enumerate() {
                f.write_str(if number == 0 { "" } else { "+" })?;
                attribute.fmt(f)?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Attribute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match ATTRIBUTES.iter().find(|(_, oid)| *oid == self.kind) {
            Some((name, _)) => write!(f, "{name}=")?,
            None => write!(f, "{}=", self.kind)?,
        }
        match &self.value {
            Value::Text(text) => text.chars().try_for_each(|character| match character {
                ',' | '+' | '\\' => write!(f, "\\{character}"),
                // A name goes into log lines.
                ' ' => f.write_str(" "),
                character if !super::shows(character) => write!(f, "{}", character.escape_unicode()),
                character => write!(f, "{character}"),
            }),
            Value::Other(der) => {
                f.write_str("#")?;
                der.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }
    }
}
