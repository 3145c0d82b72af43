//! How peers, rooms and other relays are named: nothing that has one of these types needs to be looked at again.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;
use std::sync::Arc;

use crate::limits::{HOST_PORT_LEN_MAX, ROOM_NAME_LEN_MAX};

/// Why text is no name of its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameError {
    /// A key has 43 letters of base64url (RFC 4648 §5).
    Key,
    /// A room has 1 to 64 letters of `a-z0-9._-`, the first of them a letter or digit.
    Room,
    /// A relay is named `host:port` or `[address]:port`.
    HostPort,
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NameError::Key => "a key has 43 letters of base64url without padding, as `adit` prints it",
            NameError::Room => {
                "a room's name has 1 to 64 letters out of a-z, 0-9, `.`, `_` and `-`, and begins with a letter or digit"
            }
            NameError::HostPort => "a relay is written host:port or [address]:port, with a port from 1 to 65535",
        })
    }
}

impl std::error::Error for NameError {}

/// Who a peer is: its public key of Ed25519 (RFC 8032). Written and read in base64url without padding (RFC 4648 §5).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerKey(pub [u8; PeerKey::LEN]);

/// The letters of base64url, by their number.
const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
/// Letters of a key: eight bits of it are in each but the last of them six at a time.
const KEY_LETTERS: usize = (PeerKey::LEN * 8).div_ceil(6);

impl PeerKey {
    /// Length, in bytes.
    pub const LEN: usize = 32;
}

impl fmt::Display for PeerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for three in self.0.chunks(3) {
            let bits = three.iter().enumerate().fold(0u32, |bits, (at, byte)| bits | u32::from(*byte) << (16 - 8 * at));
            for at in 0..=three.len() {
                let letter = LETTERS[(bits >> (18 - 6 * at)) as usize & 63];
                fmt::Write::write_char(f, char::from(letter))?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for PeerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for PeerKey {
    type Err = NameError;

    /// A key has one spelling: bits behind its end are zero.
    fn from_str(text: &str) -> Result<PeerKey, NameError> {
        if text.len() != KEY_LETTERS {
            return Err(NameError::Key);
        }
        let (mut key, mut filled, mut bits, mut count) = ([0; PeerKey::LEN], 0, 0u32, 0);
        for letter in text.bytes() {
            let value = LETTERS.iter().position(|known| *known == letter).ok_or(NameError::Key)?;
            bits = bits << 6 | value as u32;
            count += 6;
            if count >= 8 {
                count -= 8;
                *key.get_mut(filled).ok_or(NameError::Key)? = (bits >> count) as u8;
                filled += 1;
                bits &= (1 << count) - 1;
            }
        }
        if bits == 0 { Ok(PeerKey(key)) } else { Err(NameError::Key) }
    }
}

/// The name of a room. It stands in addresses of HTTP, so it begins with a letter or digit: `.` and `..` mean something else
/// there.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RoomName(Arc<str>);

impl RoomName {
    pub fn new(name: &str) -> Result<RoomName, NameError> {
        let fits = (1..=ROOM_NAME_LEN_MAX).contains(&name.len());
        let begins = name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
        let is_known = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || b"._-".contains(&c);
        if fits && begins && name.bytes().all(is_known) { Ok(RoomName(name.into())) } else { Err(NameError::Room) }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RoomName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for RoomName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for RoomName {
    type Err = NameError;

    fn from_str(name: &str) -> Result<RoomName, NameError> {
        RoomName::new(name)
    }
}

/// Where another relay is: `host:port`, with an address of IPv6 in brackets.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPort(Arc<str>);

impl HostPort {
    pub fn new(text: &str) -> Result<HostPort, NameError> {
        let (host, port) = text.rsplit_once(':').ok_or(NameError::HostPort)?;
        let is_port = port.bytes().all(|c| c.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port != 0);
        let is_name = !host.is_empty() && host.bytes().all(|c| c.is_ascii_alphanumeric() || b".-".contains(&c));
        let address = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let is_address = address.is_some_and(|address| address.parse::<Ipv6Addr>().is_ok());
        let fits = text.len() <= HOST_PORT_LEN_MAX;
        if fits && is_port && (is_name || is_address) { Ok(HostPort(text.into())) } else { Err(NameError::HostPort) }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for HostPort {
    type Err = NameError;

    fn from_str(text: &str) -> Result<HostPort, NameError> {
        HostPort::new(text)
    }
}
