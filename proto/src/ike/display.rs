//! One line for a message, a payload, an identity: for logs and for `adit explain`. No key material, no control characters,
//! and no more than a line whatever a peer puts into it.

use std::fmt;
use std::net::IpAddr;

use super::header::Header;
use super::message::Message;
use super::payload::{Delete, Identification, Payload};
use super::registry::IdType;
use crate::limits::IDENTITY_SHOWN_LEN_MAX;

/// `IKE_SA_INIT request 0`.
impl fmt::Display for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let direction = if self.flags.response { "response" } else { "request" };
        write!(f, "{} {direction} {}", self.exchange, self.message_id)
    }
}

/// `IKE_SA_INIT request 0 [ SA KE(CURVE_25519) No N(COOKIE) ]`.
impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} [", self.header)?;
        self.payloads.iter().try_for_each(|payload| write!(f, " {payload}"))?;
        f.write_str(" ]")
    }
}

/// The type, and in parentheses what tells this one from others of its type.
impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.kind())?;
        match self {
            Payload::Ke { method, .. } => write!(f, "({method})"),
            Payload::IdI(id) | Payload::IdR(id) => write!(f, "({id})"),
            Payload::Cert { encoding, .. } | Payload::CertReq { encoding, .. } => write!(f, "({encoding})"),
            Payload::Auth { method, .. } => write!(f, "({method})"),
            Payload::Notify(notify) => write!(f, "({})", notify.kind),
            Payload::Delete(delete) => write!(f, "({delete})"),
            Payload::Cp(config) => write!(f, "({})", config.kind),
            Payload::Sa(_)
            | Payload::Nonce(_)
            | Payload::Vendor(_)
            | Payload::TsI(_)
            | Payload::TsR(_)
            | Payload::Eap(_)
            | Payload::Sk { .. }
            | Payload::Skf { .. }
            | Payload::Unknown { .. } => Ok(()),
        }
    }
}

/// `IKE`, `ESP 40000001`, `ESP 40000001 and 3 more`.
impl fmt::Display for Delete {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.protocol)?;
        if let Some(spi) = self.spis.first() {
            write!(f, " {:08x}", spi.0)?;
        }
        match self.spis.len() {
            0 | 1 => Ok(()),
            len => write!(f, " and {} more", len - 1),
        }
    }
}

/// `FQDN gw.example.com`, `IPV4_ADDR 192.0.2.1`, `KEY_ID 0x0badcafe`: text where it is plain ASCII, an address where it is one,
/// otherwise hexadecimal.
impl fmt::Display for Identification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.id_type)?;
        let address = match self.id_type {
            IdType::IPV4_ADDR => <[u8; 4]>::try_from(self.data.as_slice()).map(IpAddr::from).ok(),
            IdType::IPV6_ADDR => <[u8; 16]>::try_from(self.data.as_slice()).map(IpAddr::from).ok(),
            _ => None,
        };
        if let Some(address) = address {
            return write!(f, "{address}");
        }
        let shown = &self.data[..self.data.len().min(IDENTITY_SHOWN_LEN_MAX)];
        let is_text = [IdType::FQDN, IdType::RFC822_ADDR, IdType::KEY_ID].contains(&self.id_type);
        match std::str::from_utf8(shown) {
            Ok(text) if is_text && text.bytes().all(|byte| byte.is_ascii_graphic()) => f.write_str(text)?,
            _ => {
                f.write_str("0x")?;
                shown.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
            }
        }
        if shown.len() < self.data.len() {
            write!(f, "… ({} bytes)", self.data.len())?;
        }
        Ok(())
    }
}
