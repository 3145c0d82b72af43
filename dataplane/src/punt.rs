//! What goes up to the control plane, in classes that cannot crowd each other out: IKE of SAs that there are, by their SPI; IKE of
//! strangers, with a share for each network that they come from; STUN. What is no IKE message at all costs nobody anything.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;

use adit_proto::control::Refusal;
use adit_proto::demux::Kind;
use adit_proto::esp::NON_ESP_MARKER_LEN;
use adit_proto::ike::IkeSpi;
use adit_proto::stats::Drop;

use crate::config::{KNOWN_IKE_PER_S, STRANGERS_PER_NETWORK_S, STRANGERS_PER_S, STUN_PER_S};
use crate::rate_limit::RateLimit;
use crate::udp::Endpoint;

/// Networks whose shares are told apart at a time; those that fall into one place have one share together.
const NETWORKS: usize = 4096;

/// Decides which datagrams a worker hands up.
pub struct Punts {
    sas: IkeSas,
    known: RateLimit,
    strangers: RateLimit,
    networks: Box<[RateLimit]>,
    hash: RandomState,
    stun: RateLimit,
}

impl Punts {
    /// Room for so many IKE SAs.
    pub fn new(ike_sas: usize) -> Punts {
        Punts {
            sas: IkeSas::new(ike_sas),
            known: RateLimit::new(KNOWN_IKE_PER_S),
            strangers: RateLimit::new(STRANGERS_PER_S),
            networks: (0..NETWORKS).map(|_| RateLimit::new(STRANGERS_PER_NETWORK_S)).collect(),
            hash: RandomState::new(),
            stun: RateLimit::new(STUN_PER_S),
        }
    }

    /// Messages of this IKE SA are known from here on. One that is there changes nothing.
    pub fn know(&mut self, initiator: IkeSpi, responder: IkeSpi) -> Result<(), Refusal> {
        self.sas.add(self.fingerprint([initiator, responder]))
    }

    pub fn forget(&mut self, initiator: IkeSpi, responder: IkeSpi) {
        self.sas.remove(self.fingerprint([initiator, responder]));
    }

    pub fn forget_all(&mut self) {
        self.sas.clear();
    }

    /// Stands for an IKE SA. The hash has a secret: whoever does not know both SPIs cannot find one that is there.
    fn fingerprint(&self, [initiator, responder]: [IkeSpi; 2]) -> u64 {
        self.hash.hash_one((initiator.0, responder.0)).max(1)
    }

    /// Whether a datagram of this kind may go up, or why it is dropped.
    pub fn admit(&mut self, kind: Kind, datagram: &[u8], from: &Endpoint, now_us: u64) -> Result<(), Drop> {
        if kind == Kind::Stun {
            return if self.stun.take(1, now_us) { Ok(()) } else { Err(Drop::PuntStunLimit) };
        }
        let spis = spis_of(datagram).ok_or(Drop::BadIke)?;
        if self.sas.has(self.fingerprint(spis)) {
            return if self.known.take(1, now_us) { Ok(()) } else { Err(Drop::PuntKnownLimit) };
        }
        let address = from.address().ok_or(Drop::Unclassified)?.ip();
        let place = self.hash.hash_one(network_of(address)) as usize % NETWORKS;
        if !self.networks[place].take(1, now_us) {
            return Err(Drop::PuntNetworkLimit);
        }
        if self.strangers.take(1, now_us) { Ok(()) } else { Err(Drop::PuntLimit) }
    }
}

/// Both SPIs of what begins like an IKE message (RFC 7296 §3.1) and has the length that it says. `None` for anything else.
#[inline]
fn spis_of(datagram: &[u8]) -> Option<[IkeSpi; 2]> {
    let message = datagram.get(NON_ESP_MARKER_LEN..)?;
    let header = message.first_chunk::<28>()?;
    let word = |at: usize| header[at..].first_chunk().map(|bytes| u64::from_be_bytes(*bytes));
    let length = header.last_chunk().map(|bytes| u32::from_be_bytes(*bytes))?;
    let (initiator, responder) = (word(0)?, word(8)?);
    (initiator != 0 && length as usize == message.len()).then_some([IkeSpi(initiator), IkeSpi(responder)])
}

/// The network that a stranger answers for: a /24 of IPv4, a /48 of IPv6, which is what one customer has.
fn network_of(address: IpAddr) -> u64 {
    match address {
        IpAddr::V4(v4) => u64::from(v4.to_bits() >> 8) | 1 << 63,
        IpAddr::V6(v6) => (v6.to_bits() >> 80) as u64,
    }
}

/// The fingerprints of IKE SAs, in a table of a size that is fixed from the start: open addressing, at most half full.
struct IkeSas {
    places: Box<[u64]>,
    used: usize,
}

/// No fingerprint is zero.
const EMPTY: u64 = 0;

impl IkeSas {
    fn new(capacity: usize) -> IkeSas {
        IkeSas { places: vec![EMPTY; (2 * capacity.max(1)).next_power_of_two()].into_boxed_slice(), used: 0 }
    }

    #[inline]
    fn has(&self, fingerprint: u64) -> bool {
        self.places[self.place(fingerprint)] == fingerprint
    }

    /// Where a fingerprint is, or would go.
    #[inline]
    fn place(&self, fingerprint: u64) -> usize {
        let mask = self.places.len() - 1;
        let mut at = fingerprint as usize & mask;
        while self.places[at] != EMPTY && self.places[at] != fingerprint {
            at = (at + 1) & mask;
        }
        at
    }

    fn add(&mut self, fingerprint: u64) -> Result<(), Refusal> {
        let at = self.place(fingerprint);
        if self.places[at] == EMPTY {
            if 2 * (self.used + 1) > self.places.len() {
                return Err(Refusal::IkeSasFull);
            }
            self.places[at] = fingerprint;
            self.used += 1;
        }
        Ok(())
    }

    /// Moves later ones of the same run forward, so that no search stops short.
    fn remove(&mut self, fingerprint: u64) {
        let mask = self.places.len() - 1;
        let mut gap = self.place(fingerprint);
        if self.places[gap] == EMPTY {
            return;
        }
        let mut next = (gap + 1) & mask;
        while self.places[next] != EMPTY {
            let home = self.places[next] as usize & mask;
            if next.wrapping_sub(home) & mask >= next.wrapping_sub(gap) & mask {
                self.places[gap] = self.places[next];
                gap = next;
            }
            next = (next + 1) & mask;
        }
        self.places[gap] = EMPTY;
        self.used -= 1;
    }

    fn clear(&mut self) {
        self.places.fill(EMPTY);
        self.used = 0;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn from(address: &str) -> Endpoint {
        Endpoint::new(address.parse().unwrap(), true)
    }

    /// A message of these SPIs and nothing in it.
    fn ike(initiator: u64, responder: u64) -> Vec<u8> {
        let spis = [initiator.to_be_bytes(), responder.to_be_bytes()].concat();
        [&[0; 4][..], &spis, &[46, 0x20, 34, 8, 0, 0, 0, 0], &28u32.to_be_bytes()].concat()
    }

    #[test]
    fn no_class_takes_the_share_of_another() {
        let mut punts = Punts::new(4);
        punts.know(IkeSpi(5), IkeSpi(77)).unwrap();
        let mut admitted = |kind, datagram: &[u8], address: &str| {
            (0..20_000).filter(|_| punts.admit(kind, datagram, &from(address), 1).is_ok()).count() as u32
        };
        assert_eq!(admitted(Kind::Ike, &ike(5, 6), "192.0.2.1:7"), STRANGERS_PER_NETWORK_S);
        assert_eq!(admitted(Kind::Ike, &ike(9, 0), "192.0.2.200:9"), 0, "the same network");
        assert_eq!(admitted(Kind::Stun, &[0; 20], "192.0.2.1:7"), STUN_PER_S);
        assert_eq!(admitted(Kind::Ike, &ike(5, 77), "192.0.2.1:7"), KNOWN_IKE_PER_S, "of an IKE SA that there is");
        assert_eq!(
            admitted(Kind::Ike, &ike(77, 5), "198.51.100.1:7"),
            STRANGERS_PER_NETWORK_S,
            "both SPIs in their places count"
        );
        assert_eq!(admitted(Kind::Ike, &ike(5, 6), "[2001:db8::1]:7"), STRANGERS_PER_NETWORK_S);
        assert_eq!(punts.admit(Kind::Ike, &ike(5, 77), &from("192.0.2.1:7"), 1), Err(Drop::PuntKnownLimit));
        assert_eq!(punts.admit(Kind::Ike, &ike(5, 6), &from("192.0.2.1:7"), 1), Err(Drop::PuntNetworkLimit));
        assert_eq!(punts.admit(Kind::Stun, &[0; 20], &from("192.0.2.1:7"), 1), Err(Drop::PuntStunLimit));
    }

    #[test]
    fn all_strangers_together_have_a_limit_and_junk_is_charged_to_nobody() {
        let mut punts = Punts::new(4);
        let junk = [ike(0, 1), ike(5, 6)[..31].to_vec(), [ike(5, 6), vec![0]].concat(), vec![0; 32]];
        for junk in junk.iter().cycle().take(50_000) {
            assert_eq!(punts.admit(Kind::Ike, junk, &from("192.0.2.1:7"), 1), Err(Drop::BadIke));
        }
        let mut admitted = 0;
        for network in 0..20_000u32 {
            let address = format!("10.{}.{}.1:7", network >> 8 & 255, network & 255);
            admitted += u32::from(punts.admit(Kind::Ike, &ike(5, 6), &from(&address), 1).is_ok());
        }
        assert_eq!(admitted, STRANGERS_PER_S);
        assert_eq!(punts.admit(Kind::Ike, &ike(5, 6), &from("172.16.0.1:7"), 1), Err(Drop::PuntLimit));
    }

    proptest! {
        #[test]
        fn the_set_of_ike_sas_agrees_with_a_model(steps in prop::collection::vec((1u64..40, any::<bool>()), 1..200)) {
            let (mut sas, mut model) = (IkeSas::new(8), BTreeSet::new());
            for (n, add) in steps {
                // Many fall into few places.
                let sa = n << 3 | 1 << 60;
                if add {
                    let fits = model.contains(&sa) || model.len() < 8;
                    prop_assert_eq!(sas.add(sa).is_ok(), fits);
                    if fits {
                        model.insert(sa);
                    }
                } else {
                    sas.remove(sa);
                    model.remove(&sa);
                }
                for sa in (1..40u64).map(|n| n << 3 | 1 << 60) {
                    prop_assert_eq!(sas.has(sa), model.contains(&sa));
                }
            }
        }
    }

    #[test]
    fn an_ike_sa_that_is_forgotten_is_strange_again() {
        let mut punts = Punts::new(4);
        let knows = |punts: &Punts, sa: [u64; 2]| punts.sas.has(punts.fingerprint(sa.map(IkeSpi)));
        for n in 1..=4 {
            punts.know(IkeSpi(n), IkeSpi(9)).unwrap();
            punts.know(IkeSpi(n), IkeSpi(9)).unwrap();
        }
        assert_eq!(punts.know(IkeSpi(5), IkeSpi(9)), Err(Refusal::IkeSasFull));
        punts.forget(IkeSpi(2), IkeSpi(9));
        punts.forget(IkeSpi(2), IkeSpi(9));
        assert_eq!([1, 2, 3].map(|n| knows(&punts, [n, 9])), [true, false, true]);
        punts.know(IkeSpi(5), IkeSpi(9)).unwrap();
        punts.forget_all();
        assert!((1..6).all(|n| !knows(&punts, [n, 9])));
    }
}
