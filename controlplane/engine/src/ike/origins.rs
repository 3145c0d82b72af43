//! How often something that costs much may be had from one origin: proofs that are wrong (each may cost the verification of a signature and
//! of a chain), and handshakes of clients of patterns.
//!
//! An origin is the address with which a handshake was begun, for who goes on with it has had our answer there: nothing is charged to an
//! address under which somebody only sends. It has a rate of its own, and one that it shares with those of its network that have come
//! lately; over IPv4, who has not is never made to wait for others. Addresses that are known share with nobody, whoever their
//! neighbours are: each is one address, also of IPv6. An honest peer behind the same NAT competes with its repetitions.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::rate_limit::Bucket;

use super::admission::{network, scope};
use crate::limits::{ORIGINS_MAX, Rates};
use crate::path::Site;

/// Where somebody is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Origin {
    pub address: Site,
    /// A peer is looked for there, or has proven itself from there.
    pub is_known: bool,
}

/// Those who have come lately.
#[derive(Debug)]
pub(super) struct Origins {
    rates: Rates,
    known: BTreeMap<Site, Bucket>,
    addresses: BTreeMap<Site, Bucket>,
    networks: BTreeMap<Site, Bucket>,
}

impl Origins {
    pub(super) fn new(rates: Rates) -> Origins {
        Origins { rates, known: BTreeMap::new(), addresses: BTreeMap::new(), networks: BTreeMap::new() }
    }

    /// Whether something may be had from there now.
    pub(super) fn may(&mut self, now: Instant, Origin { address, is_known }: Origin) -> bool {
        if is_known {
            return self.known.get_mut(&address).is_none_or(|own| own.has(now));
        }
        let own = self.addresses.get_mut(&scope(address)).map(|own| own.has(now));
        let mut shared = || self.networks.get_mut(&network(address)).is_none_or(|shared| shared.has(now));
        match own {
            Some(own) => own && shared(),
            // A network of IPv6 has more subscribers than can be remembered.
            None => !address.address().is_some_and(|address| address.is_ipv6()) || shared(),
        }
    }

    /// It was had.
    pub(super) fn charge(&mut self, now: Instant, Origin { address, is_known }: Origin) {
        let Rates { of_address, of_network } = self.rates;
        if is_known {
            return charge(&mut self.known, now, address, of_address);
        }
        charge(&mut self.addresses, now, scope(address), of_address);
        charge(&mut self.networks, now, network(address), of_network);
    }
}

/// Uses up a right of somebody; of those who came lately so many are remembered. Where nobody can be any more, half-open IKE SAs are the
/// limit that is left.
pub(super) fn charge<K: Ord>(buckets: &mut BTreeMap<K, Bucket>, now: Instant, whose: K, rate: u32) {
    if buckets.len() >= ORIGINS_MAX && !buckets.contains_key(&whose) {
        buckets.retain(|_, bucket| !bucket.is_full(now));
        if buckets.len() >= ORIGINS_MAX {
            return;
        }
    }
    buckets.entry(whose).or_insert_with(|| Bucket::new(rate)).take(now);
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};
    use std::time::Duration;

    use super::*;
    use crate::ike::testing::instant;
    use crate::limits::FAILURES;

    fn ip(text: &str) -> Site {
        Site::Address(text.parse().unwrap())
    }

    fn stranger(address: Site) -> Origin {
        Origin { address, is_known: false }
    }

    fn known(address: Site) -> Origin {
        Origin { address, is_known: true }
    }

    fn fresh() -> Origins {
        Origins::new(FAILURES)
    }

    /// How many of these tries are looked at, one each millisecond and all of them failures.
    fn looked_at(origins: &mut Origins, tries: u64, origin: impl Fn(u64) -> Origin) -> usize {
        let look = |at: &u64| {
            let (now, origin) = (instant() + Duration::from_millis(*at), origin(*at));
            let may = origins.may(now, origin);
            if may {
                origins.charge(now, origin);
            }
            may
        };
        (0..tries).filter(look).count()
    }

    #[test]
    fn failures_have_a_rate_for_each_address_and_network() {
        let (own, shared) = (FAILURES.of_address as usize, FAILURES.of_network as usize);
        let mut origins = fresh();
        let one = looked_at(&mut origins, 10_000, |_| stranger(ip("192.0.2.1")));
        assert!((10 * own..=11 * own).contains(&one), "{one}");
        // A neighbour, and somebody elsewhere, have not failed.
        let later = instant() + Duration::from_millis(9_999);
        let mut may = |address| origins.may(later, stranger(ip(address)));
        assert!(!may("192.0.2.1") && may("192.0.2.2") && may("198.51.100.1"));
        for many in [
            looked_at(&mut fresh(), 10_000, |n| stranger(ip(&format!("192.0.2.{}", n % 256)))),
            looked_at(&mut fresh(), 10_000, |n| stranger(ip(&format!("2001:db8:7:{:x}::{n:x}", n % 256)))),
        ] {
            // Each address fails once before it is known.
            assert!((10 * shared..=11 * shared + 256).contains(&many), "{many}");
        }
        assert_eq!(scope(ip("2001:db8::1")), scope(ip("2001:db8::ffff")), "one subscriber");
    }

    #[test]
    fn who_is_known_waits_for_no_neighbour_and_has_a_rate_all_the_same() {
        for (own, neighbour, far) in [
            ("192.0.2.1", "192.0.2.2", "192.0.2.77"),
            ("2001:db8:7:1::1", "2001:db8:7:1::2", "2001:db8:7:9::1"),
            ("fe80::1", "fe80::2", "fe80::77"),
        ] {
            let mut origins = fresh();
            let last = instant() + Duration::from_millis(1999);
            // Of its own link, and of its whole network.
            looked_at(&mut origins, 2000, |_| stranger(ip(neighbour)));
            looked_at(&mut origins, 2000, |_| stranger(ip(far)));
            let again = looked_at(&mut origins, 1000, |_| known(ip(own)));
            assert!((4..=8).contains(&again), "{own}: {again}");
            assert!(!origins.may(last, stranger(ip(neighbour))), "{neighbour}");
            // Nor does another known one, whatever it has used up.
            assert!(origins.may(last, known(ip(far))), "{far}");
        }
    }

    #[test]
    fn who_failed_is_remembered_within_bounds_and_comes_back() {
        let mut origins = fresh();
        let many = |n| IpAddr::from(Ipv4Addr::from_bits(u32::try_from(n).unwrap() << 8)).into();
        looked_at(&mut origins, 20_000, |n| stranger(many(n)));
        looked_at(&mut origins, 20_000, |n| known(many(n)));
        assert!([&origins.known, &origins.addresses, &origins.networks].iter().all(|one| one.len() <= ORIGINS_MAX));
        looked_at(&mut origins, 1000, |_| stranger(ip("192.0.2.1")));
        assert!(origins.may(instant() + Duration::from_secs(60), stranger(ip("192.0.2.1"))));
    }

    #[test]
    fn who_has_not_failed_for_a_while_makes_room_and_who_still_does_stays() {
        let mut origins = fresh();
        let now = instant();
        let fail = |origins: &mut Origins, at, address| {
            (0..FAILURES.of_address).for_each(|_| origins.charge(at, stranger(ip(address))));
        };
        let many = u32::try_from(ORIGINS_MAX).unwrap();
        for n in 0..many {
            origins.charge(now, stranger(IpAddr::from(Ipv4Addr::from_bits(n << 8)).into()));
        }
        // All places are taken, and a moment later nobody new is remembered.
        fail(&mut origins, now, "192.0.2.1");
        assert!(origins.may(now, stranger(ip("192.0.2.1"))));
        let later = now + Duration::from_secs(2);
        fail(&mut origins, later, "192.0.2.1");
        fail(&mut origins, later, "198.51.100.1");
        assert!(!origins.may(later, stranger(ip("192.0.2.1"))) && !origins.may(later, stranger(ip("198.51.100.1"))));
        assert_eq!(origins.addresses.len(), 2, "the others are forgotten");
    }
}
