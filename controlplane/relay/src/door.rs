//! Who may come in, before anybody has shown who he is: so many handshakes in a second, so many strangers at a time, so many connections
//! of one address. Pure: time and dice are arguments.
//!
//! A stranger costs us a handshake and a place until he has logged in. Handshakes have a rate for each network (/24 of IPv4, /48 of IPv6)
//! and one for all, drawn by lot where more come than may, so that a flood takes nobody's turn for good. Of those who have not logged in
//! there are only so many: when one more comes, the one who has been there longest goes. Whoever is honest needs a fraction of a second.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;

use adit_proto::rate_limit::{Lot, Share};

use crate::config::Limits;
use crate::limits::{NETWORK_FACTOR, NETWORK_SHARES, STRANGERS_MAX};

/// One connection.
pub type Visitor = u64;

/// Why a connection is closed before a byte of it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Turned {
    /// More handshakes than a network's share.
    NetworkHandshakes,
    /// More handshakes than there may be in all.
    Handshakes,
}

impl Turned {
    pub const ALL: [Turned; 2] = [Turned::NetworkHandshakes, Turned::Handshakes];

    /// The word for metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Turned::NetworkHandshakes => "network_handshakes",
            Turned::Handshakes => "handshakes",
        }
    }
}

/// Somebody is let in as a stranger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admitted {
    pub visitor: Visitor,
    /// Who has to go for it.
    pub instead_of: Option<Visitor>,
}

/// The door.
pub struct Door {
    limits: Limits,
    all: Lot,
    /// Of networks, by a hash that nobody outside can foretell: who shares a place with a flood has bad luck until the next start.
    shares: Vec<Share>,
    hash: RandomState,
    next: Visitor,
    /// Those who have not logged in, by age.
    strangers: BTreeMap<Visitor, IpAddr>,
    /// Those who have.
    clients: HashMap<Visitor, IpAddr>,
    of_address: HashMap<IpAddr, usize>,
    of_network: HashMap<IpAddr, usize>,
}

impl Door {
    pub fn new(limits: Limits, seed: u64) -> Door {
        Door {
            limits,
            all: Lot::new(limits.handshakes_per_s, seed),
            shares: vec![Share::default(); NETWORK_SHARES],
            hash: RandomState::new(),
            next: 0,
            strangers: BTreeMap::new(),
            clients: HashMap::new(),
            of_address: HashMap::new(),
            of_network: HashMap::new(),
        }
    }

    /// Somebody connects.
    ///
    /// # Errors
    /// There are too many of them now.
    pub fn knock(&mut self, now_us: u64, from: IpAddr) -> Result<Admitted, Turned> {
        let from = from.to_canonical();
        let index = self.hash.hash_one(network(from)) as usize % self.shares.len();
        // First its own share: what a flood of one network has too much, it must not take from all.
        if !self.shares[index].take(self.limits.handshakes_of_network_per_s, now_us) {
            return Err(Turned::NetworkHandshakes);
        }
        if !self.all.take(now_us) {
            return Err(Turned::Handshakes);
        }
        let instead_of = if self.strangers.len() < STRANGERS_MAX { None } else { self.strangers.pop_first() };
        let visitor = self.next;
        self.next += 1;
        self.strangers.insert(visitor, from);
        Ok(Admitted { visitor, instead_of: instead_of.map(|(visitor, _)| visitor) })
    }

    /// A stranger has shown who he is. False where there are too many already, or where he has lost his place meanwhile.
    pub fn login(&mut self, visitor: Visitor) -> bool {
        let Some(from) = self.strangers.get(&visitor).copied() else { return false };
        let count = |counts: &HashMap<IpAddr, usize>, key| counts.get(&key).copied().unwrap_or(0);
        let of_network = self.limits.connections_of_address.saturating_mul(NETWORK_FACTOR);
        if self.clients.len() >= self.limits.connections
            || count(&self.of_address, from) >= self.limits.connections_of_address
            || count(&self.of_network, network(from)) >= of_network
        {
            return false;
        }
        self.strangers.remove(&visitor);
        self.clients.insert(visitor, from);
        *self.of_address.entry(from).or_default() += 1;
        *self.of_network.entry(network(from)).or_default() += 1;
        true
    }

    /// A connection has ended.
    pub fn leave(&mut self, visitor: Visitor) {
        self.strangers.remove(&visitor);
        let Some(from) = self.clients.remove(&visitor) else { return };
        for (counts, key) in [(&mut self.of_address, from), (&mut self.of_network, network(from))] {
            let left = counts.get_mut(&key).map_or(0, |count| {
                *count -= 1;
                *count
            });
            if left == 0 {
                counts.remove(&key);
            }
        }
    }

    /// How many have not logged in, and how many have.
    pub fn counts(&self) -> (usize, usize) {
        (self.strangers.len(), self.clients.len())
    }
}

/// What one owner may have all of: a /24 of IPv4, a /48 of IPv6.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(ip) => IpAddr::V4((u32::from(ip) & !0xff).into()),
        IpAddr::V6(ip) => IpAddr::V6((u128::from(ip) & !(u128::MAX >> 48)).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;

    fn limits(connections_of_address: usize) -> Limits {
        Limits { connections: 100, connections_of_address, handshakes_per_s: 1000, handshakes_of_network_per_s: 20 }
    }

    fn address(network: u32, host: u8) -> IpAddr {
        IpAddr::V4((0x0a00_0000 | network << 8 | u32::from(host)).into())
    }

    #[test]
    fn a_flood_from_one_network_has_its_share_and_another_gets_in() {
        let mut door = Door::new(limits(64), 1);
        let mut admitted = 0;
        for at in 0..2000 {
            admitted += usize::from(door.knock(10 * SECOND + at * 500, address(1, at as u8)).is_ok());
        }
        assert!((20..=41).contains(&admitted), "{admitted} in a second, of 20 and what was saved up");
        assert!(door.knock(11 * SECOND, address(2, 1)).is_ok());
        let sixth: IpAddr = "2001:db8:1::1".parse().unwrap();
        assert!(door.knock(11 * SECOND, sixth).is_ok());
    }

    #[test]
    fn strangers_from_everywhere_leave_one_in_some_a_turn() {
        let mut door = Door::new(limits(64), 1);
        let (mut tried, mut passed) = (0, 0);
        // Four times what may come, for three seconds, each from a network of its own; somebody honest tries every 50 ms.
        for at in 0..12_000u64 {
            let now = 10 * SECOND + at * 250;
            let _ = door.knock(now, address(1000 + at as u32, 1));
            if at % 200 == 0 {
                tried += 1;
                passed += usize::from(door.knock(now, IpAddr::V4((0xc000_0201 + (at as u32 % 3 << 8)).into())).is_ok());
            }
        }
        assert!(passed * 10 > tried, "{passed} of {tried}");
    }

    #[test]
    fn the_oldest_stranger_goes_for_a_new_one_and_has_lost_his_place() {
        let mut door = Door::new(limits(64), 1);
        let visitors: Vec<Visitor> = (0..STRANGERS_MAX as u64)
            .map(|n| door.knock(n * SECOND, address(n as u32, 1)).expect("room and time enough").visitor)
            .collect();
        assert!(door.login(visitors[0]), "who logged in is no stranger any more");
        let later = STRANGERS_MAX as u64 * SECOND;
        assert_eq!(door.knock(later, address(5000, 1)).unwrap().instead_of, None);
        assert_eq!(door.knock(later, address(5001, 1)).unwrap().instead_of, Some(visitors[1]));
        assert!(!door.login(visitors[1]));
        assert_eq!(door.counts(), (STRANGERS_MAX, 1));
    }

    #[test]
    fn one_address_takes_no_more_than_its_share_and_gives_it_back() {
        let mut door = Door::new(limits(2), 1);
        let mut at = 0;
        let mut come = |door: &mut Door, from| {
            at += SECOND;
            let visitor = door.knock(at, from).unwrap().visitor;
            (visitor, door.login(visitor))
        };
        let greedy = address(1, 1);
        let (first, _) = come(&mut door, greedy);
        assert!(come(&mut door, greedy).1);
        let (third, is_in) = come(&mut door, "::ffff:10.0.1.1".parse().unwrap());
        assert!(!is_in, "the same address, written for IPv6");
        door.leave(third);
        assert!(come(&mut door, address(1, 2)).1);
        door.leave(first);
        assert!(come(&mut door, greedy).1);
        for host in 3..=200 {
            come(&mut door, address(1, host));
        }
        assert_eq!(door.counts().1, 2 * NETWORK_FACTOR, "the network is full");
        assert!(come(&mut door, address(2, 1)).1);
        let all: Vec<Visitor> = door.clients.keys().copied().collect();
        all.into_iter().for_each(|visitor| door.leave(visitor));
        assert!(door.of_address.is_empty() && door.of_network.is_empty());
    }
}
