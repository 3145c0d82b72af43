//! A STUN server as a pure function of datagrams: Binding (RFC 8489), and to those with a token the behaviour tests of RFC 5780.
//!
//! The token is the key of sixteen bytes that the relay has given to a client. Who names it learns more than his address, may have the answer
//! sent from elsewhere, and so tells the relay by which address he is reached with UDP; if he seals his question with it, the answer is sealed
//! too. It is readable on its way, and worth no more there than a question that somebody sends again from another address. Strangers learn
//! their address, within the bounds of [`Strangers`]. With `open` everybody gets everything, and answers may be longer than questions: that is
//! for networks of one's own.
use std::net::SocketAddr;
use std::time::Instant;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::codec::{BINDING, Change, Class, Integrity, Key, Message, Writer, kind};
use super::counters::counters;
use super::strangers::{Silence, Strangers};

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

/// The key of a client, and its bytes in it.
pub type Token = [u8; 16];

/// Whether somebody has this token; he is reached at this address then.
pub type Knows<'a> = &'a mut dyn FnMut(&Token, SocketAddr) -> bool;

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
        /// Named a token that nobody has, or has sealed with another one.
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
}

/// The server.
#[derive(Debug)]
pub struct Server {
    config: Config,
    strangers: Strangers,
    counters: Counters,
}

/// The USERNAME under which the client asks that has a token.
pub fn token_name(token: &Token) -> String {
    URL_SAFE_NO_PAD.encode(token)
}

/// Who asks, as far as we know.
enum Asker {
    /// With a token, by which the answer is sealed if the question was.
    Client(Option<Key>),
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
    pub fn handle_datagram(
        &mut self,
        now: Instant,
        at: Place,
        from: SocketAddr,
        bytes: &[u8],
        knows: Knows<'_>,
    ) -> Option<Answer> {
        match Message::parse(bytes) {
            Err(_) => self.counters.add(Count::Malformed, 1),
            Ok(message) if message.class == Class::Request && message.method == BINDING => {
                return self.handle_request(now, at, from, &message, knows);
            }
            Ok(_) => self.counters.add(Count::Foreign, 1),
        }
        None
    }

    fn handle_request(
        &mut self,
        now: Instant,
        at: Place,
        from: SocketAddr,
        message: &Message<'_>,
        knows: Knows<'_>,
    ) -> Option<Answer> {
        let Some(asker) = asker(from, message, knows) else {
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
        let to = SocketAddr::new(from.ip(), port);
        let bytes = if trusted { self.full(now, at, source, from, message, &asker) } else { self.bare(now, from, message) };
        bytes.map(|bytes| Answer { from: source, to, bytes })
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
        &mut self,
        now: Instant,
        at: Place,
        source: Place,
        from: SocketAddr,
        message: &Message<'_>,
        asker: &Asker,
    ) -> Option<Vec<u8>> {
        if matches!(asker, Asker::Stranger) && self.strangers.take_any(now, from.ip()).is_err() {
            self.counters.add(Count::Often, 1);
            return None;
        }
        let asked = message.wire_len();
        let other = Place { address: at.address ^ 1, port: at.port ^ 1 };
        // With one address the other port is told: it cannot show how the NAT maps by address, but how it does by port.
        let other = self.shown(other).or_else(|| self.shown(Place { address: at.address, ..other }));
        let end = if matches!(asker, Asker::Client(Some(_))) { 36 + 8 } else { 8 };
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
        if let Asker::Client(Some(key)) = asker {
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
        &mut self,
        now: Instant,
        at: Place,
        from: SocketAddr,
        message: &Message<'_>,
        number: u16,
        unknown: &[u16],
    ) -> Option<Answer> {
        let mut out = Writer::answer(Class::Error, message);
        out.put_error(number);
        if !unknown.is_empty() {
            out.put(kind::UNKNOWN_ATTRIBUTES, &unknown.iter().flat_map(|kind| kind.to_be_bytes()).collect::<Vec<u8>>());
        }
        let bytes = out.finish();
        let may = self.may(now, from, message, bytes.len());
        may.then_some(Answer { from: at, to: from, bytes })
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

/// Who asks, or nothing where he says that he has a token and has not. What is no name of ours is a stranger's matter.
fn asker(from: SocketAddr, message: &Message<'_>, knows: Knows<'_>) -> Option<Asker> {
    let mut token = Token::default();
    let name = message.get(kind::USERNAME).filter(|name| name.len() == 22);
    if name.is_none_or(|name| URL_SAFE_NO_PAD.decode_slice(name, &mut token).is_err()) {
        return (!message.has_integrity()).then_some(Asker::Stranger);
    }
    let key = message.has_integrity().then(|| Key::new(&token));
    let is_his = key.as_ref().is_none_or(|key| message.sealed_by(key).is_some());
    (is_his && knows(&token, from)).then_some(Asker::Client(key))
}

/// What is answered over a stream, where nobody has a false address: one's own address.
pub fn answer_on_stream(from: SocketAddr, bytes: &[u8]) -> Option<Vec<u8>> {
    let message = Message::parse(bytes).ok().filter(|message| message.class == Class::Request && message.method == BINDING)?;
    let mut out = Writer::answer(Class::Success, &message);
    out.put_address(kind::XOR_MAPPED_ADDRESS, from).put_fingerprint();
    Some(out.finish())
}

#[cfg(test)]
mod tests;
