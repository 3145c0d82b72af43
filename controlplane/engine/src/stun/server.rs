//! A STUN server as a pure function of datagrams: Binding (RFC 8489), and to those with a token the behaviour tests of RFC 5780.
//!
//! The token is a key for each client of the relay, made of the relay's secret and the client's public key, so that nothing is kept of it. Who
//! seals his question with it learns more than his address, may have the answer sent from elsewhere, and tells the relay by which address
//! he is reached with UDP; the answer is sealed too. Strangers learn their address, within the bounds of [`Strangers`]. With `open` everybody
//! gets everything, and answers may be longer than questions: that is for networks of one's own.
use std::net::SocketAddr;
use std::time::Instant;

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::codec::{BINDING, Change, Class, Integrity, Key, Message, Writer, kind};
use super::counters::counters;
use super::strangers::{Silence, Strangers};
use crate::crypto::Secret;

/// One of our sockets: RFC 5780 has two addresses with two ports each. A number is that of the address or port in [`Places`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    pub address: u8,
    pub port: u8,
}

/// Where the sockets are, as clients see them: `[address][port]`. Only the first must be there.
pub type Places = [[Option<SocketAddr>; 2]; 2];

/// What is sent for a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub from: Place,
    pub to: SocketAddr,
    pub bytes: Vec<u8>,
}

/// What is to be done for a datagram.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Handled {
    pub answer: Option<Answer>,
    /// The client of this public key is reached by UDP at the address that the datagram came from.
    pub seen: Option<[u8; 32]>,
}

counters! {
    /// What becomes of datagrams.
    Count,
    /// How many of each there were.
    Counters {
        /// The address alone, to a stranger.
        Answered = "answered",
        /// All that there is to know, to somebody with a token or on an open server.
        Extras = "extras",
        /// No STUN message.
        Malformed = "malformed",
        /// No Binding request.
        Foreign = "foreign",
        /// Sealed with a token that is not his.
        WrongToken = "wrong_token",
        /// Asked for what we do not know, or do not do for him.
        Refused = "refused",
        /// No answer, because it would have been the longer one.
        Longer = "longer",
        /// No answer, because the network had its share of this second.
        Often = "often",
    }
}

/// How a server is set up.
#[derive(Clone, Debug)]
pub struct Config {
    pub places: Places,
    /// Whether everybody gets everything.
    pub open: bool,
    /// What tokens are made of.
    pub secret: Secret,
}

/// The server.
#[derive(Debug)]
pub struct Server {
    config: Config,
    strangers: Strangers,
    counters: Counters,
}

/// Names the use of a secret from which other things are derived too.
const TOKEN_LABEL: &[u8] = b"adit stun token 1";

/// The key by which a client of the relay proves itself in Binding requests, sixteen bytes.
pub fn token(secret: &Secret, client: &[u8; 32]) -> [u8; 16] {
    let code = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret.expose()), &[TOKEN_LABEL, client].concat());
    let mut token = [0; 16];
    token.copy_from_slice(&code.as_ref()[..16]);
    token
}

/// The USERNAME under which a client asks.
pub fn token_name(client: &[u8; 32]) -> String {
    URL_SAFE_NO_PAD.encode(client)
}

/// Who asks, as far as we know.
enum Asker {
    Client([u8; 32], Key),
    Stranger,
}

impl Server {
    /// A server. `key` is random.
    pub fn new(config: Config, key: u64) -> Server {
        Server { config, strangers: Strangers::new(key), counters: Counters::default() }
    }

    /// What became of all datagrams so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// A datagram came to this socket of ours.
    pub fn handle_datagram(&mut self, now: Instant, at: Place, from: SocketAddr, bytes: &[u8]) -> Handled {
        match Message::parse(bytes) {
            Err(_) => self.counters.add(Count::Malformed, 1),
            Ok(message) if message.class == Class::Request && message.method == BINDING => {
                return self.handle_request(now, at, from, &message);
            }
            Ok(_) => self.counters.add(Count::Foreign, 1),
        }
        Handled::default()
    }

    fn handle_request(&mut self, now: Instant, at: Place, from: SocketAddr, message: &Message<'_>) -> Handled {
        let Some(asker) = self.asker(message) else {
            self.counters.add(Count::WrongToken, 1);
            return self.refuse(now, at, from, message, 401, &[]);
        };
        let trusted = self.config.open || matches!(asker, Asker::Client(..));
        let known: &[u16] = if trusted { &[kind::CHANGE_REQUEST, kind::RESPONSE_PORT, kind::PADDING] } else { &[] };
        let mut unknown = message.unknown(known);
        let change = Change::of(message);
        let (source, port) = (self.source(at, change), message.get(kind::RESPONSE_PORT));
        if unknown.is_empty() && source.is_none() {
            // RFC 5780 §6.1: that is how a server says that it cannot.
            unknown.push(kind::CHANGE_REQUEST);
        }
        let (source, port) = match (source, port) {
            (Some(source), None) if unknown.is_empty() => (source, from.port()),
            (Some(source), Some(&[high, low, _, _])) if unknown.is_empty() && [high, low] != [0, 0] => {
                (source, u16::from_be_bytes([high, low]))
            }
            _ => {
                self.counters.add(Count::Refused, 1);
                let number = if unknown.is_empty() { 400 } else { 420 };
                return self.refuse(now, at, from, message, number, &unknown);
            }
        };
        let seen = match &asker {
            Asker::Client(client, _) => Some(*client),
            Asker::Stranger => None,
        };
        let to = SocketAddr::new(from.ip(), port);
        let bytes = if trusted { self.full(now, at, source, from, message, &asker) } else { self.bare(now, from, message) };
        Handled { answer: bytes.map(|bytes| Answer { from: source, to, bytes }), seen }
    }

    /// Who asks, or nothing where he says that he has a token and does not.
    fn asker(&self, message: &Message<'_>) -> Option<Asker> {
        if !message.has_integrity() {
            return Some(Asker::Stranger);
        }
        let name = URL_SAFE_NO_PAD.decode(message.get(kind::USERNAME).filter(|name| name.len() <= 64)?).ok()?;
        let client: [u8; 32] = name.try_into().ok()?;
        let key = Key::new(&token(&self.config.secret, &client));
        message.sealed_by(&key).map(|_| Asker::Client(client, key))
    }

    fn shown(&self, place: Place) -> Option<SocketAddr> {
        *self.config.places.get(usize::from(place.address))?.get(usize::from(place.port))?
    }

    /// The socket that answers.
    fn source(&self, at: Place, change: Change) -> Option<Place> {
        let source = Place { address: at.address ^ u8::from(change.address), port: at.port ^ u8::from(change.port) };
        (change == Change::default() || self.shown(source).is_some()).then_some(source)
    }

    /// All that there is to know, or the address alone where all would be longer than the question.
    fn full(
        &mut self, now: Instant, at: Place, source: Place, from: SocketAddr, message: &Message<'_>, asker: &Asker,
    ) -> Option<Vec<u8>> {
        if matches!(asker, Asker::Stranger) && self.strangers.take_any(now, from.ip()).is_err() {
            self.counters.add(Count::Often, 1);
            return None;
        }
        let asked = message.wire_len();
        let other = Place { address: at.address ^ 1, port: at.port ^ 1 };
        // With one address the other port is told: it cannot show how the NAT maps by address, but how it does by port.
        let other = self.shown(other).or_else(|| self.shown(Place { address: at.address, ..other }));
        let end = if matches!(asker, Asker::Client(..)) { 36 + 8 } else { 8 };
        let mut out = Writer::answer(Class::Success, message);
        out.put_address(kind::XOR_MAPPED_ADDRESS, from);
        for (kind, address) in [(kind::RESPONSE_ORIGIN, self.shown(source)), (kind::OTHER_ADDRESS, other)] {
            if let Some(address) = address {
                out.put_address(kind, address);
            }
        }
        let room = asked.saturating_sub(out.wire_len() + end + 4) / 4 * 4;
        if let Some(padding) = message.get(kind::PADDING).filter(|_| room > 0) {
            out.put(kind::PADDING, &vec![0; padding.len().min(room)]);
        }
        if let Asker::Client(_, key) = asker {
            out.seal(Integrity::Sha256, key);
        }
        out.put_fingerprint();
        let bytes = out.finish();
        if bytes.len() <= asked || self.config.open {
            self.counters.add(Count::Extras, 1);
            return Some(bytes);
        }
        self.bare(now, from, message)
    }

    /// The address alone.
    fn bare(&mut self, now: Instant, from: SocketAddr, message: &Message<'_>) -> Option<Vec<u8>> {
        let mut out = Writer::answer(Class::Success, message);
        out.put_address(kind::XOR_MAPPED_ADDRESS, from);
        let bytes = out.finish();
        self.may(now, from, message, bytes.len()).then(|| {
            self.counters.add(Count::Answered, 1);
            bytes
        })
    }

    fn refuse(
        &mut self, now: Instant, at: Place, from: SocketAddr, message: &Message<'_>, number: u16, unknown: &[u16],
    ) -> Handled {
        let mut out = Writer::answer(Class::Error, message);
        out.put_error(number);
        if !unknown.is_empty() {
            out.put(kind::UNKNOWN_ATTRIBUTES, &unknown.iter().flat_map(|kind| kind.to_be_bytes()).collect::<Vec<u8>>());
        }
        let bytes = out.finish();
        let may = self.may(now, from, message, bytes.len());
        Handled { answer: may.then_some(Answer { from: at, to: from, bytes }), seen: None }
    }

    fn may(&mut self, now: Instant, from: SocketAddr, message: &Message<'_>, len: usize) -> bool {
        let may = if self.config.open {
            self.strangers.take_any(now, from.ip())
        } else {
            self.strangers.take(now, from.ip(), message.wire_len(), len)
        };
        match may {
            Ok(()) => return true,
            Err(Silence::Longer) => self.counters.add(Count::Longer, 1),
            Err(Silence::Often) => self.counters.add(Count::Often, 1),
        }
        false
    }
}
