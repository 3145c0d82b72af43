//! Distinguished names (RFC 5280 §4.1.2.4): X.500's names of certificate holders, as people write them.
//!
//! Written with the widest part first, as certificates hold them and `openssl x509 -subject` shows them. A name in the other
//! order (RFC 4514) is the same name when a peer's is compared with it, but would be sent in the order in which it is written.
//!
//! | written | means |
//! |---|---|
//! | `O=Example\, Inc.`, `O="Example, Inc."` | a value with a separator in it (RFC 4514 §2.4, RFC 2253 §4) |
//! | `CN=Z\C3\BCrich` | bytes of UTF-8 |
//! | `2.5.4.20=#0c023432` | any value, as its DER |
//! | `CN=*` | any value, of a pattern; the character itself is `\2A` |
//! | `/C=CH/O=Example/CN=gw` | the same as `C=CH, O=Example, CN=gw` |
//!
//! What is shown can be written.

use std::fmt;
use std::str::FromStr;

use x509_cert::attr::AttributeTypeAndValue;
use x509_cert::der::asn1::{Any, ObjectIdentifier, SetOfVec};
use x509_cert::der::{Decode, Encode, Tag, Tagged};
use x509_cert::name::{Name, RdnSequence, RelativeDistinguishedName};

use crate::hex;
use crate::shown::shows;

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
    ("title", ObjectIdentifier::new_unwrap("2.5.4.12")),
    ("GN", ObjectIdentifier::new_unwrap("2.5.4.42")),
    ("G", ObjectIdentifier::new_unwrap("2.5.4.42")),
    ("postalCode", ObjectIdentifier::new_unwrap("2.5.4.17")),
    ("pseudonym", ObjectIdentifier::new_unwrap("2.5.4.65")),
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
    /// `*` in what a person wrote: stands for any value.
    Any,
    /// Of a type that is no text: its DER.
    Other(Vec<u8>),
}

/// What is wrong with a distinguished name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DnFault {
    #[error("it has no parts")]
    Empty,
    #[error("its part {0:?} has no '='; a comma that belongs to a value is written \\,")]
    NoEquals(String),
    #[error("its part {0:?} has no value; write \"\" behind the '=' if it is really empty")]
    NoValue(String),
    #[error(
        "{0:?} is no attribute type; one of C, ST, L, O, OU, CN, DC, UID, E, serialNumber or dotted numbers must stand there. \
         A comma that belongs to a value is written \\,"
    )]
    UnknownType(String),
    #[error("the value {0:?} cannot be encoded: a country has two ASCII letters, DC and E are ASCII, and every character shows")]
    Value(String),
    #[error("it ends within an escape")]
    Escape,
    #[error(
        "{0:?} is no value in quotes; they must be closed, with nothing behind them, and one that belongs to the value is \\\""
    )]
    Quotes(String),
    #[error(
        "the value {0:?}: what stands behind # must be the DER of one value in hexadecimal digits; a # of its own is written \\#"
    )]
    Hex(String),
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
        let parts = name.iter_rdn().map(|part| part.iter().map(|one| Attribute::of(one, false)).collect()).collect();
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
    fn of(attribute: &AttributeTypeAndValue, is_any: bool) -> Attribute {
        let value = if is_any { Value::Any } else { Value::of(&attribute.value) };
        Attribute { kind: attribute.oid, value }
    }

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
        matches!(self, Value::Any)
    }

    /// Text as it is compared: without case, with single spaces (RFC 5280 §7.1).
    fn folded(&self) -> Option<String> {
        match self {
            Value::Text(text) => Some(text.to_lowercase().split_whitespace().collect::<Vec<_>>().join(" ")),
            Value::Any => Some("*".to_owned()),
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

    /// See the table at the top of the module.
    fn from_str(text: &str) -> Result<DistinguishedName, DnFault> {
        // As OpenSSL shows names, and strongSwan takes them.
        let (text, separator) = text.strip_prefix('/').map_or((text, ','), |text| (text, '/'));
        let (mut name, mut parts) = (RdnSequence::default(), Vec::new());
        for part in split(text, separator)? {
            let read = part.iter().copied().map(read_attribute).collect::<Result<Vec<_>, _>>()?;
            parts.push(read.iter().map(|(attribute, is_any)| Attribute::of(attribute, *is_any)).collect());
            let attributes: Vec<_> = read.into_iter().map(|(attribute, _)| attribute).collect();
            let attributes = SetOfVec::try_from(attributes).map_err(|_| DnFault::Value(part.join("+")))?;
            name.push(RelativeDistinguishedName::from(attributes));
        }
        let der = name.to_der().map_err(|_| DnFault::Value(text.to_owned()))?;
        Ok(DistinguishedName { der, parts })
    }
}

/// The attributes of each part: stretches of text between separators that are neither escaped nor in quotes.
fn split(text: &str, separator: char) -> Result<Vec<Vec<&str>>, DnFault> {
    // Elsewhere than at the beginning of a value a quotation mark is a character like others.
    let opens = |so_far: &str| so_far.trim_end().strip_suffix('=').is_some_and(|kind| !kind.contains('='));
    let (mut parts, mut start, mut escaped, mut quoted) = (vec![Vec::new()], 0, false, false);
    for (at, character) in text.char_indices() {
        let so_far = &text[start..at];
        if escaped {
            escaped = false;
        } else if character == '\\' {
            escaped = true;
        } else if character == '"' && (quoted || opens(so_far)) {
            quoted = !quoted;
        } else if !quoted && (character == separator || character == '+') {
            parts.last_mut().expect("one at least").push(so_far);
            start = at + character.len_utf8();
            if character == separator {
                parts.push(Vec::new());
            }
        }
    }
    match (escaped, quoted) {
        (true, _) => Err(DnFault::Escape),
        (_, true) => Err(DnFault::Quotes(text[start..].trim().to_owned())),
        (false, false) => {
            parts.last_mut().expect("one at least").push(&text[start..]);
            Ok(parts)
        }
    }
}

/// An attribute, and whether its value stands for any.
fn read_attribute(text: &str) -> Result<(AttributeTypeAndValue, bool), DnFault> {
    let (kind, value) = text.split_once('=').ok_or_else(|| DnFault::NoEquals(text.trim().to_owned()))?;
    let (kind, value) = (kind.trim(), trim_end(value.trim_start()));
    if value.is_empty() {
        return Err(DnFault::NoValue(text.trim().to_owned()));
    }
    let named = ATTRIBUTES.iter().find(|(name, _)| name.eq_ignore_ascii_case(kind)).map(|(_, oid)| *oid);
    let oid = named.or_else(|| ObjectIdentifier::new(kind).ok()).ok_or_else(|| DnFault::UnknownType(kind.to_owned()))?;
    if let Some(digits) = value.strip_prefix('#') {
        let any = hex::decode(digits).and_then(|der| Any::from_der(&der).ok());
        let value = any.ok_or_else(|| DnFault::Hex(value.to_owned()))?;
        return Ok((AttributeTypeAndValue { oid, value }, false));
    }
    let is_any = value == "*";
    let text = if is_any { value.to_owned() } else { unescape(value)? };
    match encode(oid, &text).or_else(|| Any::new(Tag::Utf8String, text.as_bytes()).ok().filter(|_| is_any)) {
        Some(value) => Ok((AttributeTypeAndValue { oid, value }, is_any)),
        None => Err(DnFault::Value(text)),
    }
}

/// The value of an attribute. RFC 5280 appendix A.1 says which strings these have; all others are UTF-8.
fn encode(oid: ObjectIdentifier, text: &str) -> Option<Any> {
    let (tag, fits) = match oid {
        COUNTRY => (Tag::PrintableString, text.len() == 2 && text.chars().all(|letter| letter.is_ascii_alphabetic())),
        SERIAL_NUMBER => (Tag::PrintableString, text.is_ascii()),
        DOMAIN_COMPONENT | EMAIL_ADDRESS => (Tag::Ia5String, text.is_ascii()),
        _ => (Tag::Utf8String, true),
    };
    Any::new(tag, text.as_bytes()).ok().filter(|_| fits)
}

/// Without the spaces at its end, but for one that is escaped.
fn trim_end(text: &str) -> &str {
    let trimmed = text.trim_end();
    let escapes = trimmed.len() - trimmed.trim_end_matches('\\').len();
    let kept = text[trimmed.len()..].chars().next().filter(|_| escapes % 2 == 1).map_or(0, char::len_utf8);
    &text[..trimmed.len() + kept]
}

/// The text that a value stands for.
fn unescape(value: &str) -> Result<String, DnFault> {
    let (value, quoted) = value.strip_prefix('"').map_or((value, false), |value| (value, true));
    let (mut bytes, mut rest, mut closed) = (Vec::new(), value, !quoted);
    while let Some(character) = rest.chars().next() {
        if quoted && closed {
            return Err(DnFault::Quotes(format!("\"{value}")));
        }
        rest = &rest[character.len_utf8()..];
        match character {
            '"' if quoted => closed = true,
            '\\' => match rest.get(..2).and_then(hex::decode) {
                Some(byte) => {
                    bytes.extend(byte);
                    rest = &rest[2..];
                }
                None => {
                    let literal = rest.chars().next().ok_or(DnFault::Escape)?;
                    bytes.extend_from_slice(literal.encode_utf8(&mut [0; 4]).as_bytes());
                    rest = &rest[literal.len_utf8()..];
                }
            },
            // What does not show is not meant, unless it is written out.
            character if character != ' ' && !shows(character) => return Err(DnFault::Value(value.to_owned())),
            character => bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    String::from_utf8(bytes).map_err(|_| DnFault::Value(value.to_owned()))
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
        let der = |f: &mut fmt::Formatter<'_>, der: &[u8]| {
            f.write_str("#")?;
            der.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
        };
        match &self.value {
            Value::Any => f.write_str("*"),
            Value::Other(value) => der(f, value),
            // It could not be encoded again from its text.
            Value::Text(text) if encode(self.kind, text).is_none() => {
                let any = Any::new(Tag::Utf8String, text.as_bytes()).and_then(|any| any.to_der());
                der(f, &any.map_err(|_| fmt::Error)?)
            }
            Value::Text(text) if text.is_empty() => f.write_str("\"\""),
            Value::Text(text) if text == "*" => f.write_str("\\2A"),
            Value::Text(text) => escape(f, text),
        }
    }
}

/// Text of a value as it can be written (RFC 4514 §2.4), on one line.
fn escape(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    let last = text.chars().count() - 1;
    text.chars().enumerate().try_for_each(|(at, character)| match character {
        ',' | '+' | '\\' => write!(f, "\\{character}"),
        '#' | '"' if at == 0 => write!(f, "\\{character}"),
        // At the end of a line the other way to write it would be lost.
        ' ' if at == last => f.write_str("\\20"),
        ' ' if at == 0 => f.write_str("\\ "),
        ' ' => f.write_str(" "),
        character if !shows(character) => {
            character.encode_utf8(&mut [0; 4]).bytes().try_for_each(|byte| write!(f, "\\{byte:02X}"))
        }
        character => write!(f, "{character}"),
    })
}
