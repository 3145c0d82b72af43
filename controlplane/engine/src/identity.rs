//! Who a peer says it is (RFC 7296 §3.5): written by people, carried in ID payloads, compared.
//!
//! | written | means |
//! |---|---|
//! | `192.0.2.1`, `2001:db8::1` | an address |
//! | `ops@example.org` | an e-mail address |
//! | `C=CH, O=Example, CN=gw` | a distinguished name, [`dn`] |
//! | `keyid:00ff20`, `keyid:0x00ff20` | opaque bytes, in hexadecimal digits |
//! | `keyid:branch-7` | the bytes of that text, where it is no number of pairs of hexadecimal digits |
//! | `gw.example.org` | any other: a domain name |
//! | `fqdn:`, `email:`, `ip:`, `dn:` and text | that type, whatever the text looks like: `fqdn:192.0.2.2` |
//! | `@gw`, `@@ops@example.org`, `@#00ff20` | `fqdn:`, `email:` and `keyid:`, as strongSwan writes them |
//!
//! A name is shown with its type where it would be read as something else without it; what is shown can be written.
//!
//! What a peer may be is a [`Pattern`]: one identity, all under a domain, or anybody.

pub mod dn;
pub mod pattern;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use adit_proto::ike::{IdType, Identification};

use crate::hex;
use crate::limits::{IDENTITY_LEN_MAX, IDENTITY_TEXT_LEN_MAX};
use crate::shown::{Shown, shows};

pub use dn::DistinguishedName;
pub use pattern::Pattern;

/// An identity. Two are equal when they name the same peer: the case of domains and of the text in distinguished names does
/// not matter.
#[derive(Clone, Debug)]
pub enum Identity {
    Ip(IpAddr),
    /// ASCII without white space; `xn--` forms stay as they are.
    Fqdn(String),
    Email(String),
    Dn(DistinguishedName),
    KeyId(Vec<u8>),
}

/// Text, or the body of an ID payload, that is no identity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    #[error("an empty identity; write a domain name, an e-mail address, an IP address, a distinguished name or keyid:")]
    Empty,
    #[error("an identity of {0} bytes; at most {IDENTITY_LEN_MAX} are accepted")]
    TooLong(usize),
    #[error("{character:?} in the domain name {name:?}; ASCII letters, digits, '-', '_' and '.' may stand there")]
    FqdnCharacter { name: String, character: char },
    #[error("{0:?} after ip:; an IPv4 or IPv6 address must stand there")]
    Ip(String),
    #[error("{0:?} after fqdn:; ASCII characters that show, without white space, must stand there")]
    TypedFqdn(String),
    #[error("the e-mail address {0:?}; it must have one '@' with text on both sides, and no white space")]
    Email(String),
    #[error("{0:?} after keyid:; text without white space, or an even number of hexadecimal digits, must stand there")]
    KeyId(String),
    #[error("an odd number of hexadecimal digits after keyid:; for the text {text:?} write keyid:{digits}")]
    OddKeyId { text: String, digits: String },
    #[error("the distinguished name {name:?}: {fault}")]
    Dn { name: String, fault: dn::DnFault },
    /// Of an ID payload.
    #[error("an identity of type {id_type} with {len} bytes; {expected} are needed")]
    AddressLength { id_type: IdType, len: usize, expected: usize },
    /// Of an ID payload.
    #[error("an identity of type {0} that is no printable text")]
    Text(IdType),
    /// Of an ID payload.
    #[error("an identity of type {id_type}: {fault}")]
    Der { id_type: IdType, fault: dn::DnFault },
    /// Of an ID payload.
    #[error("identities of type {0} are not supported")]
    Unsupported(IdType),
}

impl Identity {
    /// Reads the body of an ID payload.
    ///
    /// # Errors
    /// The data does not fit the type, is too long or is not printable; or the type has no meaning here.
    pub fn from_payload(payload: &Identification) -> Result<Identity, IdentityError> {
        let (id_type, data) = (payload.id_type, payload.data.as_slice());
        match data.len() {
            0 => return Err(IdentityError::Empty),
            len if len > IDENTITY_LEN_MAX => return Err(IdentityError::TooLong(len)),
            _ => {}
        }
        let address_error = |expected| IdentityError::AddressLength { id_type, len: data.len(), expected };
        match id_type {
            IdType::IPV4_ADDR => Ok(Identity::Ip(<[u8; 4]>::try_from(data).map_err(|_| address_error(4))?.into())),
            IdType::IPV6_ADDR => Ok(Identity::Ip(<[u8; 16]>::try_from(data).map_err(|_| address_error(16))?.into())),
            // Peers call themselves by names that no domain could have, with '/' or ':' for example.
            IdType::FQDN if data.iter().all(u8::is_ascii_graphic) => {
                Ok(Identity::Fqdn(String::from_utf8_lossy(data).into_owned()))
            }
            // RFC 7296 §3.5: UTF-8, and any reasonable-looking NAI.
            IdType::RFC822_ADDR => match std::str::from_utf8(data) {
                Ok(text) if is_clean(text) => Ok(Identity::Email(text.to_owned())),
                _ => Err(IdentityError::Text(id_type)),
            },
            IdType::DER_ASN1_DN => {
                let dn = DistinguishedName::from_der(data);
                dn.map(Identity::Dn).map_err(|fault| IdentityError::Der { id_type, fault })
            }
            IdType::KEY_ID => Ok(Identity::KeyId(data.to_vec())),
            IdType::FQDN => Err(IdentityError::Text(id_type)),
            _ => Err(IdentityError::Unsupported(id_type)),
        }
    }

    /// The body of an ID payload.
    pub fn to_payload(&self) -> Identification {
        let (id_type, data) = match self {
            Identity::Ip(IpAddr::V4(address)) => (IdType::IPV4_ADDR, address.octets().to_vec()),
            Identity::Ip(IpAddr::V6(address)) => (IdType::IPV6_ADDR, address.octets().to_vec()),
            Identity::Fqdn(name) => (IdType::FQDN, name.clone().into_bytes()),
            Identity::Email(address) => (IdType::RFC822_ADDR, address.clone().into_bytes()),
            Identity::Dn(dn) => (IdType::DER_ASN1_DN, dn.der().to_vec()),
            Identity::KeyId(bytes) => (IdType::KEY_ID, bytes.clone()),
        };
        Identification { id_type, data }
    }

    /// What kind of identity it is, for messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Identity::Ip(IpAddr::V4(_)) => "IPv4 address",
            Identity::Ip(IpAddr::V6(_)) => "IPv6 address",
            Identity::Fqdn(_) => "domain name",
            Identity::Email(_) => "e-mail address",
            Identity::Dn(_) => "distinguished name",
            Identity::KeyId(_) => "key id",
        }
    }
}

impl FromStr for Identity {
    type Err = IdentityError;

    /// Reads what a person wrote; see the table at the top of the module.
    fn from_str(text: &str) -> Result<Identity, IdentityError> {
        let text = text.trim();
        match text.len() {
            0 => return Err(IdentityError::Empty),
            len if len > IDENTITY_TEXT_LEN_MAX => return Err(IdentityError::TooLong(len)),
            _ => {}
        }
        let identity = read(text)?;
        match identity.to_payload().data.len() {
            len if len > IDENTITY_LEN_MAX => Err(IdentityError::TooLong(len)),
            _ => Ok(identity),
        }
    }
}

/// Reads what is neither empty nor too long.
fn read(text: &str) -> Result<Identity, IdentityError> {
    let typed = text.split_once(':').and_then(|(word, name)| Some((Typed::of(word)?, name.trim_start())));
    if let Some((id_type, name)) = typed.or_else(|| Typed::of_strongswan(text)) {
        return id_type.read(name);
    }
    if let Ok(address) = text.parse() {
        return Ok(Identity::Ip(address));
    }
    // Before the '@': emailAddress=ops@example.org is a name with an attribute.
    if text.contains('=') {
        return Typed::Dn.read(text);
    }
    if text.contains('@') {
        return email(text);
    }
    let allowed = |character: &char| character.is_ascii_alphanumeric() || "-_.".contains(*character);
    match text.chars().find(|character| !allowed(character)) {
        Some(character) => Err(IdentityError::FqdnCharacter { name: text.to_owned(), character }),
        None => Ok(Identity::Fqdn(text.to_owned())),
    }
}

impl PartialEq for Identity {
    fn eq(&self, other: &Identity) -> bool {
        match (self, other) {
            (Identity::Ip(a), Identity::Ip(b)) => a == b,
            (Identity::Fqdn(a), Identity::Fqdn(b)) => a.eq_ignore_ascii_case(b),
            (Identity::Email(a), Identity::Email(b)) => email_eq(a, b),
            (Identity::Dn(a), Identity::Dn(b)) => a == b,
            (Identity::KeyId(a), Identity::KeyId(b)) => a == b,
            _ => false,
        }
    }
}

impl Eq for Identity {}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Identity::Ip(address) => address.fmt(f),
            Identity::Fqdn(name) if untyped(name).as_ref() == Some(self) => f.write_str(name),
            // Who made it from something else than a payload or what a person wrote has not looked at it.
            Identity::Fqdn(name) => write!(f, "fqdn:{}", Shown::of(name)),
            Identity::Email(address) if untyped(address).as_ref() == Some(self) => f.write_str(address),
            Identity::Email(address) => write!(f, "email:{}", Shown::of(address)),
            Identity::Dn(dn) => dn.fmt(f),
            Identity::KeyId(bytes) => {
                f.write_str("keyid:")?;
                if let Some(text) = std::str::from_utf8(bytes).ok().filter(|text| key_id(text).as_ref() == Ok(self)) {
                    return f.write_str(text);
                }
                bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }
    }
}

impl From<Ipv4Addr> for Identity {
    fn from(address: Ipv4Addr) -> Identity {
        Identity::Ip(address.into())
    }
}

impl From<Ipv6Addr> for Identity {
    fn from(address: Ipv6Addr) -> Identity {
        Identity::Ip(address.into())
    }
}

/// A type that was written in front of an identity.
#[derive(Clone, Copy)]
enum Typed {
    Ip,
    Fqdn,
    Email,
    Dn,
    KeyId,
}

impl Typed {
    /// strongSwan's words for them are accepted, too.
    fn of(word: &str) -> Option<Typed> {
        Some(match word {
            "ip" | "ipv4" | "ipv6" => Typed::Ip,
            "fqdn" | "dns" => Typed::Fqdn,
            "email" | "rfc822" | "userfqdn" => Typed::Email,
            "dn" | "asn1dn" => Typed::Dn,
            "keyid" => Typed::KeyId,
            _ => return None,
        })
    }

    fn read(self, text: &str) -> Result<Identity, IdentityError> {
        match self {
            _ if text.is_empty() => Err(IdentityError::Empty),
            Typed::Ip => text.parse().map(Identity::Ip).map_err(|_| IdentityError::Ip(text.to_owned())),
            Typed::Fqdn if text.bytes().all(|byte| byte.is_ascii_graphic()) => Ok(Identity::Fqdn(text.to_owned())),
            Typed::Fqdn => Err(IdentityError::TypedFqdn(text.to_owned())),
            Typed::Email if is_clean(text) => Ok(Identity::Email(text.to_owned())),
            Typed::Email => Err(IdentityError::Email(text.to_owned())),
            Typed::Dn => text.parse().map(Identity::Dn).map_err(|fault| IdentityError::Dn { name: text.to_owned(), fault }),
            Typed::KeyId => key_id(text),
        }
    }

    /// `@`, `@@` and `@#` in front of a name say its type.
    fn of_strongswan(text: &str) -> Option<(Typed, &str)> {
        let name = text.strip_prefix('@')?;
        Some(match (name.strip_prefix('@'), name.strip_prefix('#')) {
            (Some(address), _) => (Typed::Email, address),
            // With the sign, which says that these are digits.
            (_, Some(_)) => (Typed::KeyId, name),
            (None, None) => (Typed::Fqdn, name),
        })
    }
}

/// Digits, marked as such or an even number of them; otherwise the bytes of the text.
fn key_id(text: &str) -> Result<Identity, IdentityError> {
    let fault = || IdentityError::KeyId(text.to_owned());
    let marked = ["0x", "0X", "#"].iter().find_map(|mark| text.strip_prefix(mark));
    let digits = marked.unwrap_or(text);
    if let Some(bytes) = hex::decode(digits).filter(|bytes| !bytes.is_empty()) {
        return Ok(Identity::KeyId(bytes));
    }
    if marked.is_some() || text.is_empty() || !is_clean(text) {
        return Err(fault());
    }
    if text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        let digits = text.bytes().map(|byte| format!("{byte:02x}")).collect();
        return Err(IdentityError::OddKeyId { text: text.to_owned(), digits });
    }
    Ok(Identity::KeyId(text.as_bytes().to_vec()))
}

/// What a name is read as without its type.
fn untyped(name: &str) -> Option<Identity> {
    // Patterns have meanings of their own, and white space around a name would not stay.
    (!name.starts_with(['*', '%'])).then(|| name.parse().ok()).flatten()
}

fn email(text: &str) -> Result<Identity, IdentityError> {
    match text.split_once('@') {
        Some((user, domain)) if !user.is_empty() && !domain.is_empty() && !domain.contains('@') && is_clean(text) => {
            Ok(Identity::Email(text.to_owned()))
        }
        _ => Err(IdentityError::Email(text.to_owned())),
    }
}

/// The user's part is for the user's host to interpret; the domain is a domain (RFC 5280 §7.5).
fn email_eq(a: &str, b: &str) -> bool {
    match (a.rsplit_once('@'), b.rsplit_once('@')) {
        (Some((user_a, domain_a)), Some((user_b, domain_b))) => user_a == user_b && domain_a.eq_ignore_ascii_case(domain_b),
        _ => a == b,
    }
}

/// Whether text can go into a log line as it is.
fn is_clean(text: &str) -> bool {
    text.chars().all(|character| shows(character) && !character.is_whitespace())
}

#[cfg(test)]
mod tests;
