//! The keys of SAs in the words of Wireshark and tshark, which then show what is in the messages and packets.
//!
//! Events carry them only where [`EndpointConfig::key_log`](super::EndpointConfig) says so. Each [`KeyLog`] is one line of one of two
//! files in a profile of Wireshark: the tables "IKEv2 Decryption Table" of the protocol ISAKMP and "ESP SAs" of the protocol ESP,
//! whose preference `esp.enable_encryption_decode` has to be on. Who has the lines reads all that was, and will be, captured.

use std::fmt::{self, Write as _};
use std::net::SocketAddr;

use adit_proto::control::{SaKey, Spi};
use adit_proto::suite::Suite;
use zeroize::Zeroizing;

use crate::hex;

use super::facts::IkeSpis;

/// Room for the longest line, so that no copy of a key stays behind in memory that was too small.
const LINE_ROOM: usize = 512;

/// Keys for a protocol analyser.
#[derive(Clone)]
pub enum KeyLog {
    /// The keys of an established IKE SA, each a key with its salt. They open IKE_AUTH and what comes after it; IKE_INTERMEDIATE
    /// comes under keys before these, for which Wireshark has no place.
    Ike { spis: IkeSpis, suite: Suite, initiator: Zeroizing<Vec<u8>>, responder: Zeroizing<Vec<u8>> },
    /// One direction of a Child SA.
    Esp { from: SocketAddr, to: SocketAddr, spi: Spi, suite: Suite, key: SaKey, esn: bool },
}

/// A file in a profile of Wireshark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyLogFile {
    Ike,
    Esp,
}

impl KeyLogFile {
    pub const ALL: [KeyLogFile; 2] = [KeyLogFile::Ike, KeyLogFile::Esp];

    /// The name that Wireshark reads it under.
    pub const fn name(self) -> &'static str {
        match self {
            KeyLogFile::Ike => "ikev2_decryption_table",
            KeyLogFile::Esp => "esp_sa",
        }
    }
}

impl KeyLog {
    /// Where the line belongs.
    pub const fn file(&self) -> KeyLogFile {
        match self {
            KeyLog::Ike { .. } => KeyLogFile::Ike,
            KeyLog::Esp { .. } => KeyLogFile::Esp,
        }
    }

    /// The line, without its end. Where Wireshark has no word for the suite it is a comment.
    pub fn line(&self) -> Zeroizing<String> {
        let mut out = Zeroizing::new(String::with_capacity(LINE_ROOM));
        match self {
            KeyLog::Ike { spis, suite, initiator, responder } => match ike_name(*suite) {
                Some(name) => {
                    let _ = write!(out, "{},{},", spis.initiator, spis.responder);
                    hex::encode(initiator, &mut out);
                    out.push(',');
                    hex::encode(responder, &mut out);
                    // An AEAD has no keys for integrity.
                    let _ = write!(out, ",\"{name}\",,,\"NONE [RFC4306]\"");
                }
                None => {
                    let _ = write!(out, "# {spis}: Wireshark does not open IKE messages with {suite}");
                }
            },
            KeyLog::Esp { to, spi, suite, key, esn, .. } => {
                let version = if to.is_ipv4() { "IPv4" } else { "IPv6" };
                // Any address: peers move (RFC 4555) and NATs change what is seen elsewhere; the SPI tells SAs apart.
                let _ = write!(out, "\"{version}\",\"*\",\"*\",\"0x{:08x}\",\"{}\",\"0x", spi.0, esp_name(*suite));
                hex::encode(&key.key[..suite.key_len()], &mut out);
                hex::encode(&key.salt, &mut out);
                out.push_str("\",\"NULL\",\"\"");
                // Versions before 4.2 do without these two, and say so.
                if *esn {
                    out.push_str(",\"64-bit\",\"0\"");
                }
            }
        }
        debug_assert!(out.len() <= LINE_ROOM, "a line of {} bytes", out.len());
        out
    }
}

/// Prints no key.
impl fmt::Debug for KeyLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeyLog::Ike { spis, .. } => write!(f, "KeyLog::Ike({spis}, …)"),
            KeyLog::Esp { spi, .. } => write!(f, "KeyLog::Esp({:08x}, …)", spi.0),
        }
    }
}

/// In the table of IKEv2 (packet-isakmp.c, `vs_ikev2_encr_algs`).
const fn ike_name(suite: Suite) -> Option<&'static str> {
    match suite {
        Suite::Aes128Gcm => Some("AES-GCM-128 with 16 octet ICV [RFC5282]"),
        Suite::Aes256Gcm => Some("AES-GCM-256 with 16 octet ICV [RFC5282]"),
        Suite::ChaCha20Poly1305 => None,
    }
}

/// In the table of ESP (packet-ipsec.c, `esp_encryption_type_vals`). Version 4.0 does not know the last one yet and skips the line.
const fn esp_name(suite: Suite) -> &'static str {
    match suite {
        Suite::Aes128Gcm | Suite::Aes256Gcm => "AES-GCM with 16 octet ICV [RFC4106]",
        Suite::ChaCha20Poly1305 => "ChaCha20 with Poly1305 [RFC7634]",
    }
}

#[cfg(test)]
mod tests {
    use adit_proto::ike::IkeSpi;
    use adit_proto::suite::{KEY_LEN_MAX, SALT_LEN};

    use super::*;

    fn ike(suite: Suite) -> KeyLog {
        let key = |byte: u8| Zeroizing::new(vec![byte; suite.key_len() + SALT_LEN]);
        let spis = IkeSpis { initiator: IkeSpi(0x0102_0304_0506_0708), responder: IkeSpi(0xf0) };
        KeyLog::Ike { spis, suite, initiator: key(0xaa), responder: key(0x0b) }
    }

    fn esp(suite: Suite, to: &str, esn: bool) -> KeyLog {
        let mut key = SaKey { key: [0xcc; KEY_LEN_MAX], salt: [1, 2, 3, 4] };
        key.key[0] = 7;
        let (from, to) = ("192.0.2.1:4500".parse().unwrap(), to.parse().unwrap());
        KeyLog::Esp { from, to, spi: Spi(0x1234), suite, key, esn }
    }

    #[test]
    fn an_ike_sa_is_a_line_of_the_ikev2_table() {
        let log = ike(Suite::Aes128Gcm);
        let (initiator, responder) = ("aa".repeat(20), "0b".repeat(20));
        let expected = format!(
            "0102030405060708,00000000000000f0,{initiator},{responder},\"AES-GCM-128 with 16 octet ICV [RFC5282]\",,,\"NONE [RFC4306]\""
        );
        assert_eq!((log.file().name(), log.line().as_str()), ("ikev2_decryption_table", expected.as_str()));
        let long = ike(Suite::Aes256Gcm).line();
        assert!(long.contains(&format!(",{},", "aa".repeat(36))) && long.contains("\"AES-GCM-256 with 16"), "{}", *long);
    }

    #[test]
    fn a_child_sa_is_a_line_of_the_esp_table_with_key_and_salt() {
        let log = esp(Suite::Aes128Gcm, "192.0.2.2:4500", false);
        let expected = format!(
            "\"IPv4\",\"*\",\"*\",\"0x00001234\",\"AES-GCM with 16 octet ICV [RFC4106]\",\"0x07{}01020304\",\"NULL\",\"\"",
            "cc".repeat(15)
        );
        assert_eq!((log.file().name(), log.line().as_str()), ("esp_sa", expected.as_str()));
        let other = esp(Suite::ChaCha20Poly1305, "[2001:db8::2]:4500", true).line();
        assert!(other.starts_with("\"IPv6\"") && other.ends_with(",\"NULL\",\"\",\"64-bit\",\"0\""), "{}", *other);
        assert!(
            other.contains(&format!("\"ChaCha20 with Poly1305 [RFC7634]\",\"0x07{}01020304\"", "cc".repeat(31))),
            "{}",
            *other
        );
    }

    #[test]
    fn what_wireshark_has_no_word_for_is_a_comment_without_keys() {
        let line = ike(Suite::ChaCha20Poly1305).line();
        assert!(line.starts_with("# 0102030405060708_i 00000000000000f0_r") && !line.contains("aaaa"), "{}", *line);
    }

    #[test]
    fn no_line_is_longer_than_its_room_and_debug_prints_no_key() {
        for suite in Suite::ALL {
            for log in [ike(suite), esp(suite, "[2001:db8::2]:4500", true)] {
                let (line, debug) = (log.line(), format!("{log:?}"));
                assert!(line.len() < LINE_ROOM && line.capacity() == LINE_ROOM, "{} bytes", line.len());
                assert!(!debug.contains("aa") && !debug.contains("cc") && !debug.contains("170"), "{debug}");
            }
        }
    }
}
