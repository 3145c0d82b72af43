//! What is on its way: messages of IKE, packets of ESP, sealed echoes.

use std::time::Instant;

use adit_proto::control::{PeerId, SaKey, Spi};
use adit_proto::ike::Header;
use adit_proto::suite::Suite;

/// The payload of a datagram.
#[derive(Clone, Debug)]
pub enum Load {
    Ike(Vec<u8>),
    Esp(Esp),
    Echo(Echo),
}

impl Load {
    pub(crate) fn len(&self) -> usize {
        match self {
            Load::Ike(payload) => payload.len(),
            Load::Esp(esp) => esp.len,
            Load::Echo(echo) => echo.len,
        }
    }
}

/// A packet, as far as the test needs it: it opens where the same SPI, suite, key and kind of sequence number are installed.
#[derive(Clone, Debug)]
pub struct Esp {
    pub spi: Spi,
    /// Index of the gateway that sealed it, and for whom.
    pub by: usize,
    pub peer: PeerId,
    /// Bytes of the packet, without the headers of IP and UDP.
    pub len: usize,
    pub(crate) suite: Suite,
    pub(crate) key: SaKey,
    pub(crate) esn: bool,
    /// Later ones have higher numbers, over all SAs.
    pub(crate) number: u64,
}

/// A sealed echo on its way.
#[derive(Clone, Copy, Debug)]
pub struct Echo {
    pub(crate) spi: Spi,
    pub(crate) id: u64,
    /// Bytes of the UDP payload.
    pub(crate) len: usize,
    pub is_reply: bool,
    /// As of a packet.
    pub(crate) number: u64,
    /// When the request was sent.
    pub(crate) at: Instant,
}

/// What kind of message it is, for a trace.
pub fn describe(payload: &[u8]) -> String {
    let message = payload.strip_prefix(&[0; 4]).unwrap_or(payload);
    match Header::decode(message) {
        Ok(header) => format!(
            "{} {} {} ({} bytes)",
            header.exchange,
            if header.flags.response { "response" } else { "request" },
            header.message_id,
            message.len()
        ),
        Err(_) => format!("{} bytes", payload.len()),
    }
}
