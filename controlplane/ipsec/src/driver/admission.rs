//! How much IKE is looked at in a second: of IKE SAs that there are first, and of strangers a share for each network that they come from,
//! so that a flood from one place neither keeps the task busy nor others out.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use adit_engine::ike::IkeSpis;
use adit_proto::esp::NON_ESP_MARKER_LEN;

/// Messages of IKE SAs that there are.
const KNOWN_PER_S: u32 = 5000;
/// Messages of strangers, and what one network (/24 of IPv4, /48 of IPv6) may have of these.
const STRANGERS_PER_S: u32 = 3000;
const STRANGERS_PER_NETWORK_S: u32 = 500;
/// Networks whose shares are told apart at a time; those that fall into one place have one share together.
const NETWORKS: usize = 1024;
/// Bytes of an IKE header (RFC 7296 §3.1).
const HEADER_LEN: usize = 28;

/// So many in a second, and as many at once.
struct Rate {
    per_s: u32,
    left: f64,
    at: Instant,
}

impl Rate {
    fn new(per_s: u32, now: Instant) -> Rate {
        Rate { per_s, left: per_s.into(), at: now }
    }

    fn take(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(std::mem::replace(&mut self.at, now)).min(Duration::from_secs(1));
        self.left = (self.left + passed.as_secs_f64() * f64::from(self.per_s)).min(self.per_s.into());
        let may = self.left >= 1.0;
        if may {
            self.left -= 1.0;
        }
        may
    }
}

/// Decides which datagrams of IKE the engine gets.
pub struct Admission {
    sas: HashSet<(u64, u64)>,
    /// Where a client connects to.
    expected: Option<SocketAddr>,
    known: Rate,
    strangers: Rate,
    networks: Vec<Rate>,
    hash: RandomState,
}

impl Admission {
    pub fn new(now: Instant) -> Admission {
        Admission {
            sas: HashSet::new(),
            expected: None,
            known: Rate::new(KNOWN_PER_S, now),
            strangers: Rate::new(STRANGERS_PER_S, now),
            networks: (0..NETWORKS).map(|_| Rate::new(STRANGERS_PER_NETWORK_S, now)).collect(),
            hash: RandomState::new(),
        }
    }

    /// We connect to that address: what comes from there is no stranger's.
    pub fn expect(&mut self, remote: SocketAddr) {
        self.expected = Some(remote);
    }

    pub fn know(&mut self, spis: &IkeSpis) {
        self.sas.insert((spis.initiator.0, spis.responder.0));
    }

    pub fn forget(&mut self, spis: &IkeSpis) {
        self.sas.remove(&(spis.initiator.0, spis.responder.0));
    }

    /// Whether a datagram with the marker of IKE is looked at. What is no message costs nobody anything.
    pub fn admits(&mut self, now: Instant, from: SocketAddr, datagram: &[u8]) -> bool {
        let Some(spis) = spis_of(datagram) else { return false };
        if self.sas.contains(&spis) || self.expected == Some(from) {
            return self.known.take(now);
        }
        let place = self.hash.hash_one(network_of(from.ip())) as usize % NETWORKS;
        self.networks[place].take(now) && self.strangers.take(now)
    }
}

/// Both SPIs of what begins like an IKE message and has the length that it says.
fn spis_of(datagram: &[u8]) -> Option<(u64, u64)> {
    let message = datagram.get(NON_ESP_MARKER_LEN..)?;
    let header = message.first_chunk::<HEADER_LEN>()?;
    let word = |at: usize| header[at..].first_chunk().map(|bytes| u64::from_be_bytes(*bytes));
    let length = header.last_chunk().map(|bytes| u32::from_be_bytes(*bytes))?;
    let (initiator, responder) = (word(0)?, word(8)?);
    (initiator != 0 && length as usize == message.len()).then_some((initiator, responder))
}

fn network_of(address: IpAddr) -> u128 {
    match address.to_canonical() {
        IpAddr::V4(v4) => u128::from(v4.to_bits() >> 8) | 1 << 127,
        IpAddr::V6(v6) => v6.to_bits() >> 80,
    }
}

#[cfg(test)]
mod tests {
    use adit_proto::ike::IkeSpi;

    use super::*;

    fn ike(initiator: u64, responder: u64) -> Vec<u8> {
        let spis = [initiator.to_be_bytes(), responder.to_be_bytes()].concat();
        [&[0; 4][..], &spis, &[46, 0x20, 34, 8, 0, 0, 0, 0], &28u32.to_be_bytes()].concat()
    }

    #[test]
    fn a_flood_of_one_network_leaves_others_and_known_ones_alone() {
        let now = Instant::now();
        let mut admission = Admission::new(now);
        admission.know(&IkeSpis { initiator: IkeSpi(5), responder: IkeSpi(6) });
        let at = |address: &str| address.parse().unwrap();
        let mut admitted = |datagram: &[u8], from: &str, times: usize| {
            (0..times).filter(|_| admission.admits(now, at(from), datagram)).count() as u32
        };
        assert_eq!(admitted(&ike(0, 6), "192.0.2.1:500", 9000), 0);
        assert_eq!(admitted(&ike(1, 0)[..31], "192.0.2.1:500", 9000), 0);
        assert_eq!(admitted(&ike(1, 0), "192.0.2.1:500", 9000), STRANGERS_PER_NETWORK_S);
        assert_eq!(admitted(&ike(2, 0), "192.0.2.77:500", 9), 0, "the same network");
        assert_eq!(admitted(&ike(2, 0), "[2001:db8:7::1]:500", 9), 9);
        assert_eq!(admitted(&ike(5, 6), "192.0.2.1:500", 9), 9, "of an IKE SA that there is");
        for network in 0..99 {
            admitted(&ike(1, 0), &format!("10.0.{network}.1:500"), 500);
        }
        assert_eq!(admitted(&ike(2, 0), "198.51.100.1:500", 9), 0, "all strangers together");
        assert_eq!(admitted(&ike(5, 6), "198.51.100.1:500", 9), 9);
        admission.expect(at("198.51.100.1:4500"));
        assert!(admission.admits(now, at("198.51.100.1:4500"), &ike(2, 0)));
        admission.forget(&IkeSpis { initiator: IkeSpi(5), responder: IkeSpi(6) });
        assert!(!admission.admits(now, at("198.51.100.1:9"), &ike(5, 6)));
        assert!(admission.admits(now + Duration::from_millis(500), at("198.51.100.1:9"), &ike(5, 6)), "time has passed");
    }
}
