//! The question after one's own address and its answer: Binding (RFC 8489 §2) with the attributes of RFC 5780.
use std::net::SocketAddr;

use super::{BINDING, Class, Integrity, Key, Message, Transaction, Writer, kind};

/// From where the answer shall come instead of from where the question went (RFC 5780 §7.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change {
    pub address: bool,
    pub port: bool,
}

const CHANGE_ADDRESS: u32 = 4;
const CHANGE_PORT: u32 = 2;

impl Change {
    /// What a message asks for.
    pub fn of(message: &Message<'_>) -> Change {
        let bits = message.fixed(kind::CHANGE_REQUEST).map_or(0, u32::from_be_bytes);
        Change { address: bits & CHANGE_ADDRESS != 0, port: bits & CHANGE_PORT != 0 }
    }

    fn bits(self) -> u32 {
        u32::from(self.address) * CHANGE_ADDRESS + u32::from(self.port) * CHANGE_PORT
    }
}

/// A Binding request.
#[derive(Clone, Copy, Debug, Default)]
pub struct BindingRequest<'a> {
    pub transaction: Transaction,
    pub change: Change,
    /// To which of our ports the answer shall go (RFC 5780 §7.5).
    pub response_port: Option<u16>,
    /// Our relays are to tell peers of where this comes from; with the nonce of their last answer, which is empty at first.
    pub register: Option<&'a str>,
    /// Length up to which the message is filled, so that the answer is not the longer one. Zero: as short as it can be.
    pub len: usize,
    /// Who asks, and the key by which he proves it.
    pub sealed: Option<(&'a str, &'a Key)>,
}

impl BindingRequest<'_> {
    /// The bytes, with a fingerprint at their end.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new(Class::Request, BINDING, self.transaction);
        if self.change != Change::default() {
            out.put(kind::CHANGE_REQUEST, &self.change.bits().to_be_bytes());
        }
        if let Some(port) = self.response_port {
            let [high, low] = port.to_be_bytes();
            out.put(kind::RESPONSE_PORT, &[high, low, 0, 0]);
        }
        if let Some(nonce) = self.register {
            out.put(kind::REGISTER, nonce.as_bytes());
        }
        let end = self.sealed.map_or(8, |_| 8 + 4 + 32);
        if let Some((name, _)) = self.sealed {
            out.put(kind::USERNAME, name.as_bytes());
        }
        out.fill_up_to(self.len.saturating_sub(end));
        if let Some((_, key)) = self.sealed {
            out.seal(Integrity::Sha256, key);
        }
        out.put_fingerprint();
        out.finish()
    }
}

/// What an answer to a Binding request says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BindingAnswer {
    pub transaction: Transaction,
    /// The number of the error, if it is one. 420: the server does not know an attribute of RFC 5780.
    pub error: Option<u16>,
    /// Where the question seemed to come from.
    pub mapped: Option<SocketAddr>,
    /// From where the server says that it answers.
    pub origin: Option<SocketAddr>,
    /// Its other address and other port: where it has them, the behaviour of the NAT can be found out.
    pub other: Option<SocketAddr>,
}

impl BindingAnswer {
    /// Reads an answer. A server before RFC 5389 tells the address as it is.
    pub fn of(message: &Message<'_>) -> Option<BindingAnswer> {
        let error = match message.class {
            Class::Success => None,
            Class::Error => Some(message.error()),
            Class::Request | Class::Indication => return None,
        };
        let answer = BindingAnswer {
            transaction: message.transaction,
            error,
            mapped: message.address(kind::XOR_MAPPED_ADDRESS).or_else(|| message.address(kind::MAPPED_ADDRESS)),
            origin: message.address(kind::RESPONSE_ORIGIN),
            other: message.address(kind::OTHER_ADDRESS),
        };
        (message.method == BINDING).then_some(answer)
    }
}
