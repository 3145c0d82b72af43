//! Which messages of IKE come before the engine, in classes that cannot crowd each other out:
//!
//! 1. of IKE SAs that there are, by both of their SPIs, with a share for each of them;
//! 2. from where peers are looked for or have proven themselves, with a share for each address and port, and for each address;
//! 3. of strangers, with a share for each network that they come from. Who asks little is served before who asks much.
//!
//! What is no message of IKEv2 by its own header costs nobody anything. The memory is fixed from the start. A worker asks it for the port
//! of the data, the control plane for port 500.

use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, SocketAddr};

use crate::control::{Command, Refusal};
use crate::ike::IkeSpi;
use crate::rate_limit::{RateLimit, Share};
use crate::stats::Drop;

/// Messages of IKE SAs that there are which are let through in a second, whatever strangers send.
pub const KNOWN_PER_S: u32 = 5000;
/// And of those, of one IKE SA: a peer with all the IKE SAs that it may have leaves most of it to others.
pub const SA_PER_S: u32 = 200;
/// Messages from all known addresses together.
pub const ADDRESSES_PER_S: u32 = 3000;
/// And of those, from one of them, and from one port of it that is known.
pub const ADDRESS_PER_S: u32 = 500;
/// Messages of strangers: thousands of handshakes, and no flood takes the control plane's processor. Half of it is kept for networks that
/// ask little.
pub const STRANGERS_PER_S: u32 = 3000;
/// And of those, what one network may have.
pub const NETWORK_PER_S: u32 = 500;
/// What a network may ask and still asks little: a few handshakes.
pub const MODEST_PER_S: u32 = 10;
/// Networks whose shares are told apart at a time; those that fall into one place have one share together.
const NETWORKS: usize = 4096;

/// Length of the header of IKE, in bytes (RFC 7296 §3.1).
const HEADER_LEN: usize = crate::demux::IKE_HEADER_LEN;
/// No fingerprint is zero.
const EMPTY: u64 = 0;

/// Decides which messages of IKE are let through.
pub struct Screen<H = RandomState> {
    hash: H,
    sas: Table<Share>,
    known: RateLimit,
    addresses: Table<Share>,
    of_addresses: RateLimit,
    networks: Box<[Network]>,
    /// Of strangers who ask little, and of all of them.
    modest: RateLimit,
    eager: RateLimit,
}

/// The shares of a network: while it asks little, and all of it.
#[derive(Clone, Copy, Default)]
struct Network {
    modest: Share,
    all: Share,
}

impl Screen {
    /// Room for so many IKE SAs, and so many known addresses, each once with and once without its port.
    pub fn new(ike_sas: usize, addresses: usize) -> Screen {
        Screen::with_hash(RandomState::new(), ike_sas, addresses)
    }
}

impl<H: BuildHasher> Screen<H> {
    /// The same with a hash of the caller's choice. Whoever knows its secret can make others share a place: only a simulation, which has to
    /// do the same again, has one that is not random.
    pub fn with_hash(hash: H, ike_sas: usize, addresses: usize) -> Screen<H> {
        Screen {
            hash,
            sas: Table::new(ike_sas),
            known: RateLimit::new(KNOWN_PER_S),
            addresses: Table::new(addresses),
            of_addresses: RateLimit::new(ADDRESSES_PER_S),
            networks: vec![Network::default(); NETWORKS].into_boxed_slice(),
            modest: RateLimit::new(STRANGERS_PER_S / 2),
            eager: RateLimit::new(STRANGERS_PER_S / 2),
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
                self.sas.add(fingerprint).then_some(()).ok_or(Refusal::IkeSasFull)
            }
            Command::IkeSaRemove { initiator, responder } => {
                let fingerprint = self.of_sa([initiator, responder]);
                self.sas.remove(fingerprint);
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
                self.sas.clear();
                self.addresses.clear();
                Ok(())
            }
            _ => return None,
        })
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
        let spis = spis_of(message)?;
        let fingerprint = self.of_sa(spis);
        if let Some(share) = self.sas.find(fingerprint) {
            let may = share.take(SA_PER_S, now_us) && self.known.take(1, now_us);
            return if may { Ok(()) } else { Err(Drop::PuntKnownLimit) };
        }
        // A known port has a share of its own: whoever sends under the address alone takes nothing from it.
        for known in [from, SocketAddr::new(from.ip(), 0)] {
            let fingerprint = self.of_address(known);
            if let Some(share) = self.addresses.find(fingerprint) {
                let may = share.take(ADDRESS_PER_S, now_us) && self.of_addresses.take(1, now_us);
                return if may { Ok(()) } else { Err(Drop::PuntAddressLimit) };
            }
        }
        self.admit_stranger(from.ip(), now_us)
    }

    fn admit_stranger(&mut self, from: IpAddr, now_us: u64) -> Result<(), Drop> {
        let place = self.hash.hash_one(network_of(from)) as usize % NETWORKS;
        let network = &mut self.networks[place];
        if !network.all.take(NETWORK_PER_S, now_us) {
            return Err(Drop::PuntNetworkLimit);
        }
        let is_modest = network.modest.take(MODEST_PER_S, now_us);
        if (is_modest && self.modest.take(1, now_us)) || self.eager.take(1, now_us) { Ok(()) } else { Err(Drop::PuntLimit) }
    }
}

/// Both SPIs of what has the header of an IKEv2 message and the length that it says (RFC 7296 §3.1).
#[inline]
fn spis_of(message: &[u8]) -> Result<[IkeSpi; 2], Drop> {
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
    Ok([IkeSpi(initiator), IkeSpi(responder)])
}

/// The network that a stranger answers for: a /24 of IPv4, a /48 of IPv6, which is what one customer has.
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
        let place = self.place(fingerprint);
        let (found, value) = &mut self.places[place];
        (*found == fingerprint).then_some(value)
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
