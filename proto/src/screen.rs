//! Which messages of IKE come before the engine, in classes that cannot crowd each other out:
//!
//! 1. of IKE SAs that there are, by both of their SPIs, and answers to what we have asked, from where a peer is known to be;
//! 2. the same from elsewhere, where a peer may be now, with a share for each network;
//! 3. from where peers are looked for or have proven themselves;
//! 4. of strangers, with a share for each network that they come from.
//!
//! In each class who asks little is served before who asks much: every IKE SA, address and port, and network has a modest share of
//! its own. What is left goes by lot, so that nobody is shut out by who sends more: see [`Lot`].
//!
//! What is no message of IKEv2 by its own headers costs nobody anything. The memory is fixed from the start. A worker asks it for
//! the port of the data, the control plane for port 500, the library for its own.

use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, SocketAddr};

use crate::control::{Command, Refusal};
use crate::ike::encrypted::{SK_OVERHEAD, SKF_OVERHEAD};
use crate::ike::{ExchangeType, IkeSpi, PayloadType};
use crate::rate_limit::{Lot, RateLimit, Share};
use crate::stats::Drop;

/// What a class lets through in a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rates {
    /// Of each who asks little.
    pub one: u32,
    /// Of all of those.
    pub modest: u32,
    /// Of what is left, by lot.
    pub eager: u32,
}

impl Rates {
    pub const fn all(self) -> u32 {
        self.modest + self.eager
    }
}

/// Messages of IKE SAs, from where a peer is known to be.
///
/// Whoever hears the cable can send under the address of the peer and the SPIs of its IKE SA. Only the integrity check tells that
/// from what the peer sends, and it is cheap: a few microseconds with all that is around it. So as much is let through as costs a
/// tenth of a core. Of 60 000 forged messages a second half come through, and so does each of the peer's with a probability of one
/// half: that of the six times that a request is sent none does is 1.6 %. What others have agreed on keeps its modest share
/// meanwhile.
pub const SAS: Rates = Rates { one: 10, modest: 10_000, eager: 30_000 };
/// The same from elsewhere: a peer that has just moved, or what somebody has overheard.
pub const MOVED: Rates = Rates { one: 10, modest: 3000, eager: 3000 };
/// Requests to begin, and all else that is no IKE SA's, from known addresses. Each costs an answer. Whoever knows the address and
/// port of a peer can send as it does, and then requests of the peer come through by lot alone; answers to what we ask it do not,
/// by their SPI.
pub const ADDRESSES: Rates = Rates { one: 5, modest: 3000, eager: 3000 };
/// Messages of strangers: thousands of handshakes, and no flood takes the control plane's processor.
pub const STRANGERS: Rates = Rates { one: 10, modest: 1500, eager: 1500 };
/// What one network may have of these, and of [`MOVED`].
pub const NETWORK_PER_S: u32 = 500;

/// Networks whose shares are told apart at a time, and questions of ours whose answers are. Networks that fall into one place have
/// one share together; of questions the newest stays.
const PLACES: usize = 4096;
/// The same for who waits for nobody but whom he has asked.
const PLACES_OF_CLIENT: usize = 256;
/// How long an answer is waited for: as long as an IKE SA may be half-open.
const ANSWER_WITHIN_US: u64 = 30_000_000;

/// Length of the header of IKE, in bytes (RFC 7296 §3.1).
const HEADER_LEN: usize = crate::demux::IKE_HEADER_LEN;
/// The flag of responses (RFC 7296 §3.1).
const RESPONSE: u8 = 0x20;
/// No fingerprint is zero.
const EMPTY: u64 = 0;

/// Decides which messages of IKE are let through.
pub struct Screen<H = RandomState> {
    hash: H,
    known_sas: Table<OfSa>,
    /// What we have asked, by the place of its fingerprint.
    questions: Box<[Question]>,
    addresses: Table<Share>,
    networks: Box<[Network]>,
    of_sas: Class,
    of_moved: Class,
    of_addresses: Class,
    of_strangers: Class,
}

/// The modest shares of an IKE SA: of what comes from where a peer is known to be, and of what comes from elsewhere.
#[derive(Clone, Copy, Default)]
struct OfSa {
    home: Share,
    elsewhere: Share,
}

/// A message of ours that began or continued what is no IKE SA yet, and until when an answer may come.
#[derive(Clone, Copy, Default)]
struct Question {
    fingerprint: u64,
    until_us: u64,
    shares: OfSa,
}

/// The shares of a network: of what belongs to IKE SAs, and of what does not.
#[derive(Clone, Copy, Default)]
struct Network {
    moved: OfNetwork,
    strange: OfNetwork,
}

/// While it asks little, and all of it.
#[derive(Clone, Copy, Default)]
struct OfNetwork {
    modest: Share,
    all: Share,
}

/// What a class has: a part for those who ask little, and the rest.
struct Class {
    one: u32,
    modest: RateLimit,
    eager: Lot,
}

impl Class {
    fn new(rates: Rates, seed: u64) -> Class {
        Class { one: rates.one, modest: RateLimit::new(rates.modest), eager: Lot::new(rates.eager, seed) }
    }

    /// Whether one with this modest share comes through.
    #[inline]
    fn take(&mut self, share: &mut Share, now_us: u64) -> bool {
        self.take_modest(share, now_us) || self.eager.take(now_us)
    }

    #[inline]
    fn take_modest(&mut self, share: &mut Share, now_us: u64) -> bool {
        share.take(self.one, now_us) && self.modest.take(1, now_us)
    }

    /// The same for one of a network, which has a limit.
    fn take_of_network(&mut self, network: &mut OfNetwork, now_us: u64) -> Result<(), Limit> {
        if !network.all.take(NETWORK_PER_S, now_us) {
            return Err(Limit::Network);
        }
        if self.take(&mut network.modest, now_us) { Ok(()) } else { Err(Limit::Class) }
    }
}

/// Which limit was reached.
enum Limit {
    Network,
    Class,
}

impl Screen {
    /// Room for so many IKE SAs, and so many known addresses, each once with and once without its port.
    pub fn new(ike_sas: usize, addresses: usize) -> Screen {
        Screen::with_hash(RandomState::new(), ike_sas, addresses)
    }

    /// A small one, for who begins all of his IKE SAs himself.
    pub fn of_client(ike_sas: usize, addresses: usize) -> Screen {
        Screen::with_places(RandomState::new(), ike_sas, addresses, PLACES_OF_CLIENT)
    }
}

impl<H: BuildHasher> Screen<H> {
    /// The same with a hash of the caller's choice. Whoever knows its secret can make others share a place: only a simulation, which has to
    /// do the same again, has one that is not random.
    pub fn with_hash(hash: H, ike_sas: usize, addresses: usize) -> Screen<H> {
        Screen::with_places(hash, ike_sas, addresses, PLACES)
    }

    fn with_places(hash: H, ike_sas: usize, addresses: usize, places: usize) -> Screen<H> {
        let [of_sas, of_moved, of_addresses, of_strangers] = [SAS, MOVED, ADDRESSES, STRANGERS].map(|rates| {
            let seed = hash.hash_one(rates.all());
            Class::new(rates, seed)
        });
        Screen {
            hash,
            known_sas: Table::new(ike_sas),
            questions: vec![Question::default(); places].into_boxed_slice(),
            addresses: Table::new(addresses),
            networks: vec![Network::default(); places].into_boxed_slice(),
            of_sas,
            of_moved,
            of_addresses,
            of_strangers,
        }
    }

    /// Does what a command says of who is known; `None` for one about something else. Who is known already, or is not, changes nothing.
    ///
    /// # Errors
    /// A table is full.
    pub fn apply(&mut self, command: &Command) -> Option<Result<(), Refusal>> {
        Some(match *command {
            Command::IkeSaAdd { initiator, responder } => {
                let fingerprint = self.of_sa([initiator, responder]);
                self.known_sas.add(fingerprint).then_some(()).ok_or(Refusal::IkeSasFull)
            }
            Command::IkeSaRemove { initiator, responder } => {
                let fingerprint = self.of_sa([initiator, responder]);
                self.known_sas.remove(fingerprint);
                Ok(())
            }
            Command::IkeAddressAdd { address } => {
                let fingerprint = self.of_address(address);
                self.addresses.add(fingerprint).then_some(()).ok_or(Refusal::IkeAddressesFull)
            }
            Command::IkeAddressRemove { address } => {
                let fingerprint = self.of_address(address);
                self.addresses.remove(fingerprint);
                Ok(())
            }
            Command::IkeKnownClear => {
                self.known_sas.clear();
                self.addresses.clear();
                Ok(())
            }
            _ => return None,
        })
    }

    /// Notes a message of ours, without a marker in front: who answers it is no stranger. Whoever only knows addresses cannot
    /// answer, because that takes an SPI which we have just chosen.
    pub fn sent(&mut self, message: &[u8], now_us: u64) {
        let Some(spis) = Header::of(message).ok().and_then(|header| header.question()) else { return };
        let fingerprint = self.of_sa(spis);
        if self.known_sas.find(fingerprint).is_none() {
            let place = self.question_of(fingerprint);
            let question = &mut self.questions[place];
            if question.fingerprint != fingerprint {
                *question = Question { fingerprint, ..Question::default() };
            }
            question.until_us = now_us.saturating_add(ANSWER_WITHIN_US);
        }
    }

    /// Stands for an IKE SA. The hash has a secret: whoever does not know both SPIs cannot find one that is there.
    fn of_sa(&self, [initiator, responder]: [IkeSpi; 2]) -> u64 {
        self.hash.hash_one((initiator.0, responder.0)).max(1)
    }

    /// Stands for an address; port 0 is all of it.
    fn of_address(&self, address: SocketAddr) -> u64 {
        self.hash.hash_one((address.ip(), address.port())).max(1)
    }

    /// Whether a message, without a marker in front, is let through, or why it is dropped.
    #[inline]
    pub fn admit(&mut self, message: &[u8], from: SocketAddr, now_us: u64) -> Result<(), Drop> {
        let header = Header::of(message)?;
        // A known port has a share of its own: whoever sends under the address alone takes nothing from it.
        let place =
            [from, SocketAddr::new(from.ip(), 0)].into_iter().find_map(|known| self.addresses.has(self.of_address(known)));
        if let Some(spis) = header.of_sa() {
            let fingerprint = self.of_sa(spis);
            if let Some(admitted) = self.admit_of_sa(fingerprint, place.is_some(), from.ip(), now_us) {
                return if admitted { Ok(()) } else { Err(Drop::PuntKnownLimit) };
            }
        }
        if let Some(place) = place {
            let admitted = self.of_addresses.take(self.addresses.at(place), now_us);
            return if admitted { Ok(()) } else { Err(Drop::PuntAddressLimit) };
        }
        let network = self.place_of(from.ip());
        self.of_strangers.take_of_network(&mut self.networks[network].strange, now_us).map_err(|limit| match limit {
            Limit::Network => Drop::PuntNetworkLimit,
            Limit::Class => Drop::PuntLimit,
        })
    }

    /// Whether what has these SPIs is let through; `None` where they are nobody's.
    fn admit_of_sa(&mut self, fingerprint: u64, is_home: bool, from: IpAddr, now_us: u64) -> Option<bool> {
        let (network, question) = (self.place_of(from), self.question_of(fingerprint));
        let asked = Some(&mut self.questions[question]).filter(|one| one.fingerprint == fingerprint && now_us < one.until_us);
        let known = self.known_sas.find(fingerprint);
        let is_known = known.is_some();
        let shares = known.or(asked.map(|one| &mut one.shares))?;
        if is_home {
            return Some(self.of_sas.take(&mut shares.home, now_us));
        }
        // Strangers begin as many as they like.
        let own = is_known && self.of_sas.take_modest(&mut shares.elsewhere, now_us);
        Some(own || self.of_moved.take_of_network(&mut self.networks[network].moved, now_us).is_ok())
    }

    /// Where a question is, or would go.
    fn question_of(&self, fingerprint: u64) -> usize {
        fingerprint as usize % self.questions.len()
    }

    /// Where the shares of the network of an address are.
    fn place_of(&self, address: IpAddr) -> usize {
        self.hash.hash_one(network_of(address)) as usize % self.networks.len()
    }
}

/// What is looked at of a message: its header, and that of an Encrypted payload.
struct Header {
    spis: [IkeSpi; 2],
    exchange: ExchangeType,
    is_response: bool,
    is_protected: bool,
}

impl Header {
    /// Of what has the header of an IKEv2 message and the lengths that it says (RFC 7296 §3.1, §3.14).
    #[inline]
    fn of(message: &[u8]) -> Result<Header, Drop> {
        let header = message.first_chunk::<HEADER_LEN>().ok_or(Drop::BadIke)?;
        let word = |at: usize| header[at..].first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
        let length = header.last_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes));
        let (initiator, responder, major) = (word(0), word(8), header[17] >> 4);
        if initiator == 0 || length as usize != message.len() || major == 0 {
            return Err(Drop::BadIke);
        }
        if major == 1 {
            return Err(Drop::IkeV1);
        }
        let kind = PayloadType(header[16]);
        let is_protected = major == 2 && kind.is_encrypted();
        if is_protected {
            let least = if kind == PayloadType::SKF { SKF_OVERHEAD } else { SK_OVERHEAD };
            let said =
                message.get(HEADER_LEN + 2..).and_then(|rest| rest.first_chunk()).map_or(0, |said| u16::from_be_bytes(*said));
            if message.len() < least || HEADER_LEN + usize::from(said) != message.len() {
                return Err(Drop::BadIke);
            }
        }
        let is_response = header[19] & RESPONSE != 0;
        Ok(Header { spis: [IkeSpi(initiator), IkeSpi(responder)], exchange: ExchangeType(header[18]), is_response, is_protected })
    }

    /// The SPIs of the IKE SA that it is of, or of our question that it answers. What is in the clear is of none, though it may say
    /// so: anybody can say it.
    fn of_sa(&self) -> Option<[IkeSpi; 2]> {
        let answers = self.exchange == ExchangeType::IKE_SA_INIT && self.is_response;
        if answers { Some(self.begun()) } else { self.is_protected.then_some(self.spis) }
    }

    /// The SPIs of the answer to a message of ours. A cookie is asked of everybody, and is no beginning.
    fn question(&self) -> Option<[IkeSpi; 2]> {
        match (self.exchange, self.is_response) {
            (ExchangeType::IKE_SA_INIT, false) => Some(self.begun()),
            (ExchangeType::IKE_SA_INIT, true) => Some(self.spis).filter(|[_, responder]| responder.0 != 0),
            _ => self.is_protected.then_some(self.spis),
        }
    }

    /// Of an IKE SA whose responder has chosen nothing yet.
    fn begun(&self) -> [IkeSpi; 2] {
        [self.spis[0], IkeSpi(0)]
    }
}

/// The network that who comes from there answers for: a /24 of IPv4, a /48 of IPv6, which is what one customer has.
fn network_of(address: IpAddr) -> u64 {
    match address {
        IpAddr::V4(v4) => u64::from(v4.to_bits() >> 8) | 1 << 63,
        IpAddr::V6(v6) => (v6.to_bits() >> 80) as u64,
    }
}

/// Fingerprints, each with a value, in a table of a size that is fixed from the start: open addressing, at most half full.
struct Table<T> {
    places: Box<[(u64, T)]>,
    used: usize,
}

impl<T: Copy + Default> Table<T> {
    fn new(capacity: usize) -> Table<T> {
        let places = vec![(EMPTY, T::default()); (2 * capacity.max(1)).next_power_of_two()];
        Table { places: places.into_boxed_slice(), used: 0 }
    }

    #[inline]
    fn find(&mut self, fingerprint: u64) -> Option<&mut T> {
        self.has(fingerprint).map(|place| self.at(place))
    }

    /// Where a fingerprint is, if it is there.
    #[inline]
    fn has(&self, fingerprint: u64) -> Option<usize> {
        Some(self.place(fingerprint)).filter(|place| self.places[*place].0 == fingerprint)
    }

    /// The value of one that is there.
    #[inline]
    fn at(&mut self, place: usize) -> &mut T {
        &mut self.places[place].1
    }

    /// Where a fingerprint is, or would go.
    #[inline]
    fn place(&self, fingerprint: u64) -> usize {
        let mask = self.places.len() - 1;
        let mut at = fingerprint as usize & mask;
        while self.places[at].0 != EMPTY && self.places[at].0 != fingerprint {
            at = (at + 1) & mask;
        }
        at
    }

    /// False when it is full.
    fn add(&mut self, fingerprint: u64) -> bool {
        let at = self.place(fingerprint);
        if self.places[at].0 != EMPTY {
            return true;
        }
        let fits = 2 * (self.used + 1) <= self.places.len();
        if fits {
            self.places[at] = (fingerprint, T::default());
            self.used += 1;
        }
        fits
    }

    /// Moves later ones of the same run forward, so that no search stops short.
    fn remove(&mut self, fingerprint: u64) {
        let mask = self.places.len() - 1;
        let mut gap = self.place(fingerprint);
        if self.places[gap].0 == EMPTY {
            return;
        }
        let mut next = (gap + 1) & mask;
        while self.places[next].0 != EMPTY {
            let home = self.places[next].0 as usize & mask;
            if next.wrapping_sub(home) & mask >= next.wrapping_sub(gap) & mask {
                self.places[gap] = self.places[next];
                gap = next;
            }
            next = (next + 1) & mask;
        }
        self.places[gap] = (EMPTY, T::default());
        self.used -= 1;
    }

    fn clear(&mut self) {
        self.places.fill((EMPTY, T::default()));
        self.used = 0;
    }
}

#[cfg(test)]
mod tests;
