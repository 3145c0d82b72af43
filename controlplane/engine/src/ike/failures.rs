//! How often somebody may fail to prove who he is: each failure may cost the verification of a signature and of a chain.
//!
//! The source has shown that it receives there, or it could not have sent IKE_AUTH. Who fails has a rate of his own, and one that he
//! shares with those of his network who have failed lately; over IPv4, who has not failed is never made to wait for others. What is
//! above is dropped before its proof is looked at; an honest peer behind the same NAT competes for that with its repetitions.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Instant;

use crate::rate_limit::Bucket;

use super::admission::{network, scope};
use super::limits::{FAILURES_OF_ADDRESS, FAILURES_OF_NETWORK, FAILURES_REMEMBERED_MAX};

/// Those who have failed lately.
#[derive(Debug, Default)]
pub(super) struct Failures {
    addresses: BTreeMap<IpAddr, Bucket>,
    networks: BTreeMap<IpAddr, Bucket>,
}

impl Failures {
    /// Whether what somebody there proves is worth a look now.
    pub(super) fn may_try(&mut self, now: Instant, source: IpAddr) -> bool {
        let own = self.addresses.get_mut(&scope(source)).map(|own| own.has(now));
        let mut shared = || self.networks.get_mut(&network(source)).is_none_or(|shared| shared.has(now));
        match own {
            Some(own) => own && shared(),
            // A network of IPv6 has more subscribers than can be remembered.
            None => source.is_ipv4() || shared(),
        }
    }

    /// It was not good.
    pub(super) fn failed(&mut self, now: Instant, source: IpAddr) {
        charge(&mut self.addresses, now, scope(source), FAILURES_OF_ADDRESS);
        charge(&mut self.networks, now, network(source), FAILURES_OF_NETWORK);
    }
}

/// Where nobody can be remembered any more, half-open IKE SAs are the limit that is left.
fn charge(buckets: &mut BTreeMap<IpAddr, Bucket>, now: Instant, whose: IpAddr, rate: u32) {
    if buckets.len() >= FAILURES_REMEMBERED_MAX && !buckets.contains_key(&whose) {
        buckets.retain(|_, bucket| !bucket.is_full(now));
        if buckets.len() >= FAILURES_REMEMBERED_MAX {
            return;
        }
    }
    buckets.entry(whose).or_insert_with(|| Bucket::new(rate)).take(now);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::ike::testing::instant;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// How many of these tries are looked at, one each millisecond and all of them failures.
    fn looked_at(failures: &mut Failures, tries: u64, source: impl Fn(u64) -> IpAddr) -> usize {
        let look = |at: &u64| {
            let (now, source) = (instant() + Duration::from_millis(*at), source(*at));
            let may = failures.may_try(now, source);
            if may {
                failures.failed(now, source);
            }
            may
        };
        (0..tries).filter(look).count()
    }

    #[test]
    fn failures_have_a_rate_for_each_address_and_network() {
        let (own, shared) = (FAILURES_OF_ADDRESS as usize, FAILURES_OF_NETWORK as usize);
        let mut failures = Failures::default();
        let one = looked_at(&mut failures, 10_000, |_| ip("192.0.2.1"));
        assert!((10 * own..=11 * own).contains(&one), "{one}");
        // A neighbour, and somebody elsewhere, have not failed.
        let later = instant() + Duration::from_millis(9_999);
        assert!(!failures.may_try(later, ip("192.0.2.1")));
        assert!(failures.may_try(later, ip("192.0.2.2")) && failures.may_try(later, ip("198.51.100.1")));
        for many in [
            looked_at(&mut Failures::default(), 10_000, |n| ip(&format!("192.0.2.{}", n % 256))),
            looked_at(&mut Failures::default(), 10_000, |n| ip(&format!("2001:db8:7:{:x}::{n:x}", n % 256))),
        ] {
            // Each address fails once before it is known.
            assert!((10 * shared..=11 * shared + 256).contains(&many), "{many}");
        }
        assert_eq!(scope(ip("2001:db8::1")), scope(ip("2001:db8::ffff")), "one subscriber");
    }

    #[test]
    fn who_failed_is_remembered_within_bounds_and_comes_back() {
        let mut failures = Failures::default();
        looked_at(&mut failures, 20_000, |n| std::net::Ipv4Addr::from_bits(u32::try_from(n).unwrap() << 8).into());
        assert!(failures.addresses.len() <= FAILURES_REMEMBERED_MAX && failures.networks.len() <= FAILURES_REMEMBERED_MAX);
        looked_at(&mut failures, 1000, |_| ip("192.0.2.1"));
        assert!(failures.may_try(instant() + Duration::from_secs(60), ip("192.0.2.1")));
    }

    #[test]
    fn who_has_not_failed_for_a_while_makes_room_and_who_still_does_stays() {
        let mut failures = Failures::default();
        let now = instant();
        let fail = |failures: &mut Failures, at, source| (0..FAILURES_OF_ADDRESS).for_each(|_| failures.failed(at, source));
        let many = u32::try_from(FAILURES_REMEMBERED_MAX).unwrap();
        for n in 0..many {
            failures.failed(now, std::net::Ipv4Addr::from_bits(n << 8).into());
        }
        // All places are taken, and a moment later nobody new is remembered.
        fail(&mut failures, now, ip("192.0.2.1"));
        assert!(failures.may_try(now, ip("192.0.2.1")));
        let later = now + Duration::from_secs(2);
        fail(&mut failures, later, ip("192.0.2.1"));
        fail(&mut failures, later, ip("198.51.100.1"));
        assert!(!failures.may_try(later, ip("192.0.2.1")) && !failures.may_try(later, ip("198.51.100.1")));
        assert_eq!(failures.addresses.len(), 2, "the others are forgotten");
    }
}
