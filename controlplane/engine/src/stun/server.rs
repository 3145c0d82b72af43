//! A STUN server as a pure function of datagrams: Binding (RFC 8489), and to clients of the relay the behaviour tests of RFC 5780.
//!
//! The relay has given each of its clients a name and a key. Who seals his question with them learns more than his address, and may have the
//! answer sent from elsewhere; answers to him are sealed, too, and he has a share of his own in them. With the attribute REGISTER he tells
//! the relay by which address he is reached with UDP: he gets a nonce that holds for this address alone and for a minute, and is taken
//! for being there when he shows it. So neither who repeats his question from elsewhere nor a member of the room under a false
//! address sends others to a victim. Only sockets that want to be found do so: discovery asks from others, too.
//!
//! Strangers learn their address, within the bounds of [`Strangers`]. With `open` everybody gets everything, as often as a search needs,
//! and answers may be longer than questions: that is for networks of one's own. PADDING is not done: fragments would go out for it to
//! whom a false address belongs.
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::codec::{BINDING, Change, Class, Integrity, Key, Message, Writer, kind};
use super::counters::counters;
use super::nonces::{Nonces, Shown};
use super::strangers::{Silence, Strangers};
use crate::limits::{RESPONSE_PORT_MIN, STUN_CLIENT_ANSWERS, STUN_CLIENTS_MAX};
use crate::random::Random;
use crate::rate_limit::Bucket;

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
    /// Who is reached where the answer goes, and has shown it.
    pub registers: Option<Name>,
}

/// The name of a client, which anybody may read on its way: the USERNAME of its questions, in base64 for addresses without padding.
pub type Name = [u8; 8];

/// The key of the client with this name, if there is one.
pub type Keys<'a> = &'a mut dyn FnMut(&Name) -> Option<Key>;

/// How long a client may show the nonce that he was given for an address.
const NONCE_LIFE: Duration = Duration::from_secs(60);

counters! {
    /// What becomes of datagrams.
    Count,
    /// How many of each there were.
    Counters {
        /// The address alone, to a stranger.
        Answered = "answered",
        /// All that there is to know, to a client or on an open server.
        Extras = "extras",
        /// No STUN message.
        Malformed = "malformed",
        /// No Binding request.
        Foreign = "foreign",
        /// Sealed under a name or with a key that no client has.
        WrongKey = "wrong_key",
        /// Clients have shown that they are where they ask from.
        Registered = "registered",
        /// Asked for what we do not know, or do not do for him.
        Refused = "refused",
        /// No answer, because it would have been the longer one.
        Longer = "longer",
        /// No answer, because the network, or the client, had its share of this second.
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
    /// Of clients, by their names; those that meet in a place have one share.
    clients: Box<[Bucket]>,
    nonces: Nonces,
    key: u64,
    counters: Counters,
}

/// Who asks, as far as we know.
enum Asker {
    /// By his key the answer is sealed.
    Client(Name, Key),
    Stranger,
}

/// What is asked, where, by whom.
struct Question<'m, 'a> {
    now: Instant,
    at: Place,
    from: SocketAddr,
    message: &'m Message<'a>,
    asker: Asker,
}

impl Server {
    /// A server.
    pub fn new(config: Config, now: Instant, random: &mut dyn Random) -> Server {
        let mut key = [0; 32];
        random.fill(&mut key);
        let clients = (0..STUN_CLIENTS_MAX).map(|_| Bucket::new(STUN_CLIENT_ANSWERS)).collect();
        let nonces = Nonces::new(key, now, NONCE_LIFE);
        let (strangers, key) = (Strangers::new(random.u64()), random.u64());
        Server { config, strangers, clients, nonces, key, counters: Counters::default() }
    }

    /// What became of all datagrams so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// A datagram came to this socket of ours.
    pub fn handle_datagram(&mut self, now: Instant, at: Place, from: SocketAddr, bytes: &[u8], keys: Keys<'_>) -> Option<Answer> {
        match Message::parse(bytes) {
            Err(_) => self.counters.add(Count::Malformed, 1),
            Ok(message) if message.class == Class::Request && message.method == BINDING => {
                return self.handle_request(now, at, from, &message, keys);
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
        keys: Keys<'_>,
    ) -> Option<Answer> {
        let asker = asker(message, keys);
        let is_wrong = asker.is_none();
        let question = Question { now, at, from, message, asker: asker.unwrap_or(Asker::Stranger) };
        if is_wrong {
            self.counters.add(Count::WrongKey, 1);
            return self.refuse(&question, 401, &[]);
        }
        if let Asker::Client(name, _) = &question.asker
            && !self.takes_of_client(now, name)
        {
            self.counters.add(Count::Often, 1);
            return None;
        }
        let trusted = self.config.open || question.is_of_client();
        let known: &[u16] = if trusted { &[kind::CHANGE_REQUEST, kind::RESPONSE_PORT] } else { &[] };
        let mut unknown = message.unknown(known);
        let source = self.source(at, Change::of(message));
        if unknown.is_empty() && source.is_none() {
            // RFC 5780 §6.1: that is how a server says that it cannot.
            unknown.push(kind::CHANGE_REQUEST);
        }
        let port = message.get(kind::RESPONSE_PORT).map_or(Some(from.port()), response_port);
        let (Some(source), Some(port), true) = (source, port, unknown.is_empty()) else {
            self.counters.add(Count::Refused, 1);
            return self.refuse(&question, if unknown.is_empty() { 400 } else { 420 }, &unknown);
        };
        let registers = self.registers(&question).filter(|_| port == from.port());
        let bytes = if trusted { self.full(&question, source)? } else { self.bare(&question)? };
        self.counters.add(Count::Registered, registers.is_some().into());
        Some(Answer { from: source, to: SocketAddr::new(from.ip(), port), bytes, registers })
    }

    /// Whether a client is answered once more in this second.
    fn takes_of_client(&mut self, now: Instant, name: &Name) -> bool {
        let mut hasher = DefaultHasher::new();
        (self.key, name).hash(&mut hasher);
        let place = hasher.finish() as usize % self.clients.len();
        self.clients[place].take(now)
    }

    /// The client, if he shows the nonce of where he asks from.
    fn registers(&self, question: &Question<'_, '_>) -> Option<Name> {
        let Asker::Client(name, _) = &question.asker else { return None };
        let nonce = question.message.get(kind::REGISTER)?;
        (self.nonces.judge(question.now, question.from, nonce) == Shown::Fresh).then_some(*name)
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
    fn full(&mut self, question: &Question<'_, '_>, source: Place) -> Option<Vec<u8>> {
        let Question { now, at, from, message, .. } = *question;
        let is_of_client = question.is_of_client();
        if !is_of_client && self.strangers.take_open(now, from.ip()).is_err() {
            self.counters.add(Count::Often, 1);
            return None;
        }
        let mut out = Writer::answer(Class::Success, message);
        // RFC 5780 §6.1 wants both; a NAT that changes addresses in packets shows itself by the first.
        out.put_address(kind::MAPPED_ADDRESS, from).put_address(kind::XOR_MAPPED_ADDRESS, from);
        // RFC 5780 §6 and §7.4: another address with another port, or none.
        let other = self.shown(Place { address: at.address ^ 1, port: at.port ^ 1 });
        for (kind, address) in [(kind::RESPONSE_ORIGIN, self.shown(source)), (kind::OTHER_ADDRESS, other)] {
            if let Some(address) = address {
                out.put_address(kind, address);
            }
        }
        if is_of_client && message.get(kind::REGISTER).is_some() {
            out.put(kind::REGISTER, self.nonces.fresh(now, from).as_bytes());
        }
        let bytes = question.end(out);
        if bytes.len() <= message.wire_len() || self.config.open {
            self.counters.add(Count::Extras, 1);
            return Some(bytes);
        }
        self.bare(question)
    }

    /// The address alone.
    fn bare(&mut self, question: &Question<'_, '_>) -> Option<Vec<u8>> {
        let mut out = Writer::answer(Class::Success, question.message);
        out.put_address(kind::XOR_MAPPED_ADDRESS, question.from);
        let bytes = question.end_short(out);
        self.may(question, bytes.len()).then(|| {
            self.counters.add(Count::Answered, 1);
            bytes
        })
    }

    fn refuse(&mut self, question: &Question<'_, '_>, number: u16, unknown: &[u16]) -> Option<Answer> {
        let mut out = Writer::answer(Class::Error, question.message);
        out.put_error(number);
        if !unknown.is_empty() {
            out.put(kind::UNKNOWN_ATTRIBUTES, &unknown.iter().flat_map(|kind| kind.to_be_bytes()).collect::<Vec<u8>>());
        }
        let bytes = question.end_short(out);
        let may = self.may(question, bytes.len());
        may.then_some(Answer { from: question.at, to: question.from, bytes, registers: None })
    }

    /// Whether an answer of this length goes out. That a client has his share is known already.
    fn may(&mut self, question: &Question<'_, '_>, len: usize) -> bool {
        let (now, ip, asked) = (question.now, question.from.ip(), question.message.wire_len());
        let may = match (question.is_of_client(), self.config.open) {
            (true, is_open) if is_open || len <= asked => Ok(()),
            (true, _) => Err(Silence::Longer),
            (false, true) => self.strangers.take_open(now, ip),
            (false, false) => self.strangers.take(now, ip, asked, len),
        };
        match may {
            Ok(()) => return true,
            Err(Silence::Longer) => self.counters.add(Count::Longer, 1),
            Err(Silence::Often) => self.counters.add(Count::Often, 1),
        }
        false
    }
}

impl Question<'_, '_> {
    fn is_of_client(&self) -> bool {
        matches!(self.asker, Asker::Client(..))
    }

    /// Ends an answer: who has sealed his question takes none that is not (RFC 8489 §9.1.4).
    fn end(&self, mut out: Writer) -> Vec<u8> {
        if let Asker::Client(_, key) = &self.asker {
            out.seal(Integrity::Sha256, key);
        }
        out.put_fingerprint();
        out.finish()
    }

    /// The same for a stranger with nothing at its end.
    fn end_short(&self, out: Writer) -> Vec<u8> {
        if self.is_of_client() { self.end(out) } else { out.finish() }
    }
}

/// The port of RESPONSE-PORT, if an answer may go there: not to services.
fn response_port(value: &[u8]) -> Option<u16> {
    let [high, low, _, _] = value.try_into().ok()?;
    Some(u16::from_be_bytes([high, low])).filter(|port| *port >= RESPONSE_PORT_MIN)
}

/// The name of a client that a question shows, if it shows one and is sealed.
fn name_of(message: &Message<'_>) -> Option<Name> {
    let mut name = Name::default();
    let text = message.get(kind::USERNAME).filter(|text| text.len() == 11 && message.has_integrity())?;
    URL_SAFE_NO_PAD.decode_slice(text, &mut name).ok()?;
    Some(name)
}

/// Who asks, or nothing where a seal is not that of a client. Whatever is not sealed is a stranger's matter.
fn asker(message: &Message<'_>, keys: Keys<'_>) -> Option<Asker> {
    if !message.has_integrity() {
        return Some(Asker::Stranger);
    }
    let name = name_of(message)?;
    let key = keys(&name)?;
    message.sealed_by(&key)?;
    Some(Asker::Client(name, key))
}

/// What is answered over a stream, where nobody has a false address: one's own address.
pub fn answer_on_stream(from: SocketAddr, bytes: &[u8]) -> Option<Vec<u8>> {
    let message = Message::parse(bytes).ok().filter(|message| message.class == Class::Request && message.method == BINDING)?;
    let unknown = message.unknown(&[]);
    let mut out = Writer::answer(if unknown.is_empty() { Class::Success } else { Class::Error }, &message);
    if unknown.is_empty() {
        out.put_address(kind::XOR_MAPPED_ADDRESS, from);
    } else {
        // RFC 8489 §6.3.1, and RFC 5780 §6.1: over a stream nothing can be changed.
        out.put_error(420);
        out.put(kind::UNKNOWN_ATTRIBUTES, &unknown.iter().flat_map(|kind| kind.to_be_bytes()).collect::<Vec<u8>>());
    }
    out.put_fingerprint();
    Some(out.finish())
}

#[cfg(test)]
mod tests;
