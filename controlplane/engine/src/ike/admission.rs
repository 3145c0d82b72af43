//! Who may begin an IKE SA: cookies (RFC 7296 §2.6), limits of half-open IKE SAs, the rate of unprotected answers (§2.21.4).
//!
//! Nothing is kept for a peer that has not shown that it receives at its address once there are more half-open IKE SAs than
//! [`Limits::cookie_threshold`], or more of its address than [`Limits::cookie_threshold_per_address`].

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use adit_proto::ike::IkeSpi;
use aws_lc_rs::constant_time::verify_slices_are_equal;

use crate::crypto::{Prf, Secret};
use crate::random::Random;
use crate::rate_limit::Bucket;

use super::config::Limits;
use crate::limits::ANSWERED_NETWORKS_MAX;
use crate::path::Site;

/// How long a cookie secret makes new cookies; its cookies are taken for as long again.
const SECRET_LIFETIME: Duration = Duration::from_secs(60);
const SECRET_LEN: usize = 32;
/// One network has at most this part of the half-open IKE SAs of strangers.
const NETWORK_SHARE: usize = 4;
/// This part of all places for half-open IKE SAs is kept for those who are known.
const KNOWN_SHARE: usize = 4;
/// Places that every known address has for itself, however many others with a known address take.
const OWN_PLACES: usize = 4;
/// One network, or one known address, has at most this part of the unprotected answers.
const ANSWERS_SHARE: u32 = 16;

/// Who asks to begin an IKE SA, as far as that can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asker {
    /// Without a cookie: anybody may have sent it from there.
    Unproven,
    /// With one: somebody there receives what we send.
    Stranger,
    /// With one, from where a peer is looked for or has proven itself before.
    Known,
}

/// What becomes of a request to begin an IKE SA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Admit,
    /// It may come again with this cookie.
    DemandCookie,
    /// It takes the place of a half-open IKE SA of a stranger in this network, which has more of them.
    TakeFrom(Site),
    /// One of the limits is reached: no answer.
    Refuse,
}

/// How many of something there are for each address.
#[derive(Debug, Default)]
struct Tally(BTreeMap<Site, usize>);

impl Tally {
    fn of(&self, address: Site) -> usize {
        self.0.get(&address).copied().unwrap_or(0)
    }

    /// The address that has the most of it.
    fn most(&self) -> Option<(Site, usize)> {
        self.0.iter().max_by_key(|(_, count)| **count).map(|(address, count)| (*address, *count))
    }

    fn add(&mut self, address: Site) {
        *self.0.entry(address).or_default() += 1;
    }

    fn take(&mut self, address: Site) {
        match self.of(address) {
            0 | 1 => drop(self.0.remove(&address)),
            count => drop(self.0.insert(address, count - 1)),
        }
    }
}

#[derive(Debug)]
pub(super) struct Admission {
    limits: Limits,
    /// Half-open IKE SAs of requests without a cookie, by subscriber.
    unproven: Tally,
    unproven_total: usize,
    /// Those of strangers with a cookie, by subscriber, by network and in total.
    strangers_here: Tally,
    strangers_nearby: Tally,
    strangers: usize,
    /// Those of known addresses with a cookie, by address, for of IPv6 a neighbour is not known, and in total.
    known_here: Tally,
    known: usize,
    /// The number of the current secret; the one before has the number before.
    generation: u8,
    secrets: [Secret; 2],
    secret_since: Option<Instant>,
    /// Unprotected answers to questions that anybody may have sent, and to those with a cookie; of these to strangers, by network, and to
    /// known addresses.
    answers: [[Answers; 2]; 2],
}

/// The rate of unprotected answers: of all that may go to somebody who has not asked, and of each origin that was answered lately. Whoever
/// floods from one leaves the answers of others alone.
#[derive(Debug)]
struct Answers {
    all: Option<Bucket>,
    of: BTreeMap<Site, Bucket>,
}

impl Answers {
    fn new(all: Option<Bucket>) -> Answers {
        Answers { all, of: BTreeMap::new() }
    }

    fn take(&mut self, now: Instant, origin: Site, share: u32) -> bool {
        if self.all.as_mut().is_some_and(|all| !all.has(now)) {
            return false;
        }
        if self.of.len() >= ANSWERED_NETWORKS_MAX && !self.of.contains_key(&origin) {
            self.of.retain(|_, bucket| !bucket.is_full(now));
            if self.of.len() >= ANSWERED_NETWORKS_MAX {
                return false;
            }
        }
        let own = self.of.entry(origin).or_insert_with(|| Bucket::new(share)).take(now);
        own && self.all.as_mut().is_none_or(|all| all.take(now))
    }
}

impl Admission {
    pub(super) fn new(limits: Limits, random: &mut dyn Random) -> Admission {
        Admission {
            limits,
            unproven: Tally::default(),
            unproven_total: 0,
            strangers_here: Tally::default(),
            strangers_nearby: Tally::default(),
            strangers: 0,
            known_here: Tally::default(),
            known: 0,
            generation: 0,
            secrets: [fresh_secret(random), fresh_secret(random)],
            secret_since: None,
            answers: [true, false].map(|all| {
                let rate = || all.then(|| Bucket::new(limits.unprotected_replies));
                [(); 2].map(|()| Answers::new(rate()))
            }),
        }
    }

    pub(super) fn half_open(&self) -> usize {
        self.unproven_total + self.strangers + self.known
    }

    /// What to do with a request from this address.
    ///
    /// Who brings a cookie is never hindered by those who cannot: without a way back a flood under a peer's address makes only
    /// cookies. Where many can bring one, an address and a network have their shares, strangers together leave a part to those who are
    /// known, and of those each has a few places that nobody else can take, be it a neighbour or another known one.
    pub(super) fn verdict(&self, source: Site, asker: Asker) -> Verdict {
        let (limits, here) = (&self.limits, scope(source));
        if asker == Asker::Unproven {
            let from_here = self.unproven.of(here) + self.strangers_here.of(here) + self.known_here.of(source);
            let crowded = self.half_open() >= limits.cookie_threshold || from_here >= limits.cookie_threshold_per_address;
            return if crowded { Verdict::DemandCookie } else { Verdict::Admit };
        }
        let own = if asker == Asker::Known { self.known_here.of(source) } else { self.strangers_here.of(here) };
        if asker == Asker::Known && own < OWN_PLACES.min(limits.half_open_per_address) {
            return Verdict::Admit;
        }
        let all = self.strangers + self.known >= limits.half_open;
        match asker {
            _ if own >= limits.half_open_per_address => Verdict::Refuse,
            Asker::Stranger => self.verdict_of_stranger(network(source), all),
            _ if all => Verdict::Refuse,
            _ => Verdict::Admit,
        }
    }

    /// One network has its share, and all strangers together have theirs: where that is used up, who comes from a network with fewer
    /// half-open IKE SAs gets a place of the one with the most.
    fn verdict_of_stranger(&self, network: Site, is_full: bool) -> Verdict {
        let limits = &self.limits;
        let nearby = self.strangers_nearby.of(network);
        if nearby >= (limits.half_open / NETWORK_SHARE).max(limits.half_open_per_address) {
            return Verdict::Refuse;
        }
        if !is_full && self.strangers < limits.half_open - limits.half_open / KNOWN_SHARE {
            return Verdict::Admit;
        }
        let most = self.strangers_nearby.most().filter(|(_, most)| *most > nearby + 1);
        most.map_or(Verdict::Refuse, |(network, _)| Verdict::TakeFrom(network))
    }

    /// An IKE SA of this address has become half-open.
    pub(super) fn opened(&mut self, source: Site, asker: Asker) {
        match asker {
            Asker::Unproven => {
                self.unproven_total += 1;
                self.unproven.add(scope(source));
            }
            Asker::Known => {
                self.known += 1;
                self.known_here.add(source);
            }
            Asker::Stranger => {
                self.strangers += 1;
                self.strangers_here.add(scope(source));
                self.strangers_nearby.add(network(source));
            }
        }
    }

    /// It is authenticated, or gone.
    pub(super) fn closed(&mut self, source: Site, asker: Asker) {
        let total = match asker {
            Asker::Unproven => {
                self.unproven.take(scope(source));
                &mut self.unproven_total
            }
            Asker::Known => {
                self.known_here.take(source);
                &mut self.known
            }
            Asker::Stranger => {
                self.strangers_here.take(scope(source));
                self.strangers_nearby.take(network(source));
                &mut self.strangers
            }
        };
        *total = total.saturating_sub(1);
    }

    /// The cookie for a request: `generation | prf(secret, Ni | IPi | SPIi)`.
    pub(super) fn cookie(&mut self, now: Instant, random: &mut dyn Random, nonce: &[u8], source: Site, spi: IkeSpi) -> Vec<u8> {
        self.rotate(now, random);
        self.compute(self.generation, &self.secrets[0], nonce, source, spi)
    }

    /// Whether a request brought the cookie that it was told to bring.
    pub(super) fn is_cookie(
        &mut self,
        now: Instant,
        random: &mut dyn Random,
        given: &[u8],
        nonce: &[u8],
        source: Site,
        spi: IkeSpi,
    ) -> bool {
        self.rotate(now, random);
        let current = given.first() == Some(&self.generation);
        let (generation, secret) =
            if current { (self.generation, &self.secrets[0]) } else { (self.generation.wrapping_sub(1), &self.secrets[1]) };
        verify_slices_are_equal(given, &self.compute(generation, secret, nonce, source, spi)).is_ok()
    }

    /// Takes the right to one unprotected answer to somebody there, who is known or a stranger, if there is one now. Who has `proven` that he
    /// receives there gets no answer that he has not asked for: nobody else can use up his.
    pub(super) fn may_answer_unprotected(&mut self, now: Instant, source: Site, is_known: bool, proven: bool) -> bool {
        let share = self.limits.unprotected_replies.div_ceil(ANSWERS_SHARE);
        let origin = if is_known { source } else { network(source) };
        self.answers[usize::from(proven)][usize::from(is_known)].take(now, origin, share)
    }

    fn rotate(&mut self, now: Instant, random: &mut dyn Random) {
        let since = *self.secret_since.get_or_insert(now);
        let age = now.saturating_duration_since(since);
        if age < SECRET_LIFETIME {
            return;
        }
        // After a long silence the one before is too old, too.
        let rotations = if age < 2 * SECRET_LIFETIME { 1 } else { 2 };
        for _ in 0..rotations {
            self.secrets.swap(0, 1);
            self.secrets[0] = fresh_secret(random);
            self.generation = self.generation.wrapping_add(1);
        }
        self.secret_since = Some(now);
    }

    fn compute(&self, generation: u8, secret: &Secret, nonce: &[u8], source: Site, spi: IkeSpi) -> Vec<u8> {
        let site = match source {
            Site::Address(IpAddr::V4(address)) => address.to_ipv6_mapped().octets().to_vec(),
            Site::Address(IpAddr::V6(address)) => address.octets().to_vec(),
            // Another length than that of an address.
            Site::Stream(stream) => stream.0.to_be_bytes().to_vec(),
        };
        let tag = Prf::HmacSha256.compute(secret.expose(), &[nonce, &site, &spi.to_bytes()]);
        [&[generation], tag.expose()].concat()
    }
}

fn fresh_secret(random: &mut dyn Random) -> Secret {
    let mut bytes = vec![0; SECRET_LEN].into_boxed_slice();
    random.fill(&mut bytes);
    Secret::new(bytes)
}

/// What counts as one address: a /64 of IPv6 is one subscriber.
pub(super) fn scope(site: Site) -> Site {
    match site {
        Site::Address(IpAddr::V4(_)) | Site::Stream(_) => site,
        Site::Address(IpAddr::V6(address)) => Site::Address(IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64))),
    }
}

/// What one owner may have all of: a /24 of IPv4, a /48 of IPv6.
pub(super) fn network(site: Site) -> Site {
    match site {
        Site::Address(IpAddr::V4(address)) => Site::Address(IpAddr::V4(Ipv4Addr::from_bits(address.to_bits() >> 8 << 8))),
        Site::Address(IpAddr::V6(address)) => Site::Address(IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 80 << 80))),
        Site::Stream(_) => site,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::COOKIE_LEN_MAX;

    fn ip(text: &str) -> Site {
        Site::Address(text.parse().unwrap())
    }

    fn counting() -> impl FnMut(&mut [u8]) {
        let mut next = 0u8;
        move |out| {
            for byte in out {
                next = next.wrapping_add(1);
                *byte = next;
            }
        }
    }

    fn limits() -> Limits {
        Limits {
            half_open: 8,
            half_open_per_address: 2,
            cookie_threshold: 6,
            cookie_threshold_per_address: 3,
            unprotected_replies: 10,
            ..Limits::default()
        }
    }

    #[test]
    fn a_cookie_is_asked_for_under_load_and_who_brings_one_is_let_in() {
        let mut admission = Admission::new(limits(), &mut counting());
        let (one, other) = (ip("192.0.2.1"), ip("198.51.100.2"));
        for _ in 0..3 {
            assert_eq!(admission.verdict(one, Asker::Unproven), Verdict::Admit);
            admission.opened(one, Asker::Unproven);
        }
        let verdicts =
            |admission: &Admission, source| [Asker::Unproven, Asker::Stranger].map(|asker| admission.verdict(source, asker));
        // Whatever comes without a cookie from there, it takes no place of those with one.
        assert_eq!(verdicts(&admission, one), [Verdict::DemandCookie, Verdict::Admit]);
        assert_eq!(admission.verdict(other, Asker::Unproven), Verdict::Admit);
        (0..3).for_each(|_| admission.opened(other, Asker::Unproven));
        assert_eq!(verdicts(&admission, ip("203.0.113.3")), [Verdict::DemandCookie, Verdict::Admit]);
        for _ in 0..2 {
            assert_eq!(admission.verdict(one, Asker::Stranger), Verdict::Admit);
            admission.opened(one, Asker::Stranger);
        }
        let with_cookie = [one, other].map(|source| admission.verdict(source, Asker::Stranger));
        assert_eq!(with_cookie, [Verdict::Refuse, Verdict::Admit]);
        let (unproven, stranger) = (Asker::Unproven, Asker::Stranger);
        for (address, asker) in [(one, unproven), (other, unproven)].repeat(3).into_iter().chain([(one, stranger); 2]) {
            admission.closed(address, asker);
        }
        admission.opened(one, Asker::Known);
        admission.closed(one, Asker::Known);
        let Admission { unproven, strangers_here, strangers_nearby, known_here, .. } = &admission;
        let left = [unproven, strangers_here, strangers_nearby, known_here].map(|tally| tally.0.len());
        assert_eq!((admission.half_open(), left), (0, [0; 4]));
    }

    #[test]
    fn one_network_does_not_take_the_places_of_all() {
        for (net, outside) in [("192.0.2.", "198.51.100.1"), ("2001:db8:7:", "2001:db8:8::1")] {
            let limits = Limits { half_open: 40, ..limits() };
            let mut admission = Admission::new(limits, &mut counting());
            let mut opened = 0;
            for host in 1..=200 {
                let source = ip(&if net.contains(':') { format!("{net}{host}::1") } else { format!("{net}{host}") });
                while admission.verdict(source, Asker::Stranger) == Verdict::Admit {
                    admission.opened(source, Asker::Stranger);
                    opened += 1;
                }
            }
            assert_eq!((opened, admission.verdict(ip(outside), Asker::Stranger)), (10, Verdict::Admit));
        }
    }

    #[test]
    fn a_network_with_fewer_places_gets_one_of_that_with_the_most() {
        let limits = Limits { half_open: 40, half_open_per_address: 20, ..limits() };
        let mut admission = Admission::new(limits, &mut counting());
        for (host, count) in [("10.50.1.1", 9), ("10.50.2.1", 10), ("10.50.3.1", 8), ("10.50.4.1", 3)] {
            (0..count).for_each(|_| admission.opened(ip(host), Asker::Stranger));
        }
        let (largest, stranger) = (Verdict::TakeFrom(ip("10.50.2.0")), Asker::Stranger);
        let verdicts = |admission: &Admission, hosts: [&str; 4]| hosts.map(|host| admission.verdict(ip(host), stranger));
        let here = ["10.60.1.1", "10.50.4.7", "10.50.3.7", "10.50.1.7"];
        assert_eq!(verdicts(&admission, here), [largest, largest, largest, Verdict::Refuse], "it would be the other way round");
        // As often as it takes until all have as many.
        let mut taken = 0;
        while let Verdict::TakeFrom(network) = admission.verdict(ip("10.60.1.1"), stranger) {
            let host = ip(&format!("10.50.{}.1", network.to_string().split('.').nth(2).unwrap()));
            admission.closed(host, stranger);
            admission.opened(ip("10.60.1.1"), stranger);
            taken += 1;
        }
        assert_eq!((taken, admission.half_open()), (6, 30));
    }

    #[test]
    fn strangers_of_many_networks_leave_places_to_those_who_are_known() {
        let limits = Limits { half_open: 40, ..limits() };
        let mut admission = Admission::new(limits, &mut counting());
        for host in 0..200 {
            let source = ip(&format!("10.50.{host}.1"));
            while admission.verdict(source, Asker::Stranger) == Verdict::Admit {
                admission.opened(source, Asker::Stranger);
            }
        }
        let known = ip("10.50.0.99");
        assert_eq!((admission.half_open(), admission.verdict(known, Asker::Stranger)), (30, Verdict::Refuse));
        for _ in 0..limits.half_open_per_address {
            assert_eq!(admission.verdict(known, Asker::Known), Verdict::Admit);
            admission.opened(known, Asker::Known);
        }
        assert_eq!(admission.verdict(known, Asker::Known), Verdict::Refuse, "an address has its share here, too");
        assert_eq!(admission.verdict(ip("10.50.0.98"), Asker::Known), Verdict::Admit);
        admission.closed(known, Asker::Known);
        assert_eq!((admission.half_open(), admission.verdict(known, Asker::Known)), (31, Verdict::Admit));
    }

    #[test]
    fn known_addresses_that_take_all_they_can_leave_each_other_some() {
        let limits = Limits { half_open: 40, half_open_per_address: 20, ..limits() };
        let mut admission = Admission::new(limits, &mut counting());
        for host in 0..10 {
            let source = ip(&format!("10.50.0.{host}"));
            while admission.verdict(source, Asker::Known) == Verdict::Admit {
                admission.opened(source, Asker::Known);
            }
        }
        // Two took what all of them share, and the others their own.
        assert_eq!(admission.half_open(), 40 + 8 * OWN_PLACES);
        assert_eq!(admission.verdict(ip("10.50.0.99"), Asker::Known), Verdict::Admit);
        assert_eq!(admission.verdict(ip("10.50.0.98"), Asker::Stranger), Verdict::Refuse);
    }

    #[test]
    fn one_subscriber_is_a_64_of_ipv6() {
        let mut admission = Admission::new(limits(), &mut counting());
        for last in 1..=2 {
            admission.opened(ip(&format!("2001:db8::{last}")), Asker::Stranger);
        }
        assert_eq!(admission.verdict(ip("2001:db8::ffff"), Asker::Stranger), Verdict::Refuse);
        assert_eq!(admission.verdict(ip("2001:db8:1:1::1"), Asker::Stranger), Verdict::Admit);
    }

    #[test]
    fn the_places_of_a_known_address_are_no_neighbours() {
        for [known, neighbour] in
            [["192.0.2.1", "192.0.2.2"], ["2001:db8::1", "2001:db8::2"], ["fe80::1", "fe80::2"]].map(|one| one.map(ip))
        {
            let limits = Limits { half_open: 400, half_open_per_address: 64, ..limits() };
            let mut admission = Admission::new(limits, &mut counting());
            for asker in [Asker::Stranger, Asker::Known] {
                while admission.verdict(neighbour, asker) == Verdict::Admit {
                    admission.opened(neighbour, asker);
                }
            }
            for _ in 0..limits.half_open_per_address {
                assert_eq!(admission.verdict(known, Asker::Known), Verdict::Admit, "{known}");
                admission.opened(known, Asker::Known);
            }
            assert_eq!(admission.verdict(known, Asker::Known), Verdict::Refuse, "{known}");
        }
    }

    #[test]
    fn a_cookie_is_good_for_its_request_and_for_a_while() {
        let mut random = counting();
        let mut admission = Admission::new(limits(), &mut random);
        let start = crate::ike::testing::instant();
        let (source, spi) = (ip("192.0.2.1"), IkeSpi(7));
        let cookie = admission.cookie(start, &mut random, b"nonce", source, spi);
        assert!((1..=COOKIE_LEN_MAX).contains(&cookie.len()));
        let mut good = |after: u64, nonce: &[u8], source, spi| {
            admission.is_cookie(start + Duration::from_secs(after), &mut random, &cookie, nonce, source, spi)
        };
        assert!(good(1, b"nonce", source, spi));
        assert!(
            !good(1, b"other", source, spi) && !good(1, b"nonce", ip("192.0.2.2"), spi) && !good(1, b"nonce", source, IkeSpi(8))
        );
        assert!(good(61, b"nonce", source, spi) && good(119, b"nonce", source, spi));
        assert!(!good(122, b"nonce", source, spi));
        let mut changed = cookie.clone();
        changed[0] = changed[0].wrapping_add(1);
        assert!(!admission.is_cookie(start, &mut random, &changed, b"nonce", source, spi));
        assert!(!admission.is_cookie(start, &mut random, &[], b"nonce", source, spi));
    }

    #[test]
    fn after_a_long_silence_no_old_cookie_is_good() {
        let mut random = counting();
        let mut admission = Admission::new(limits(), &mut random);
        let start = crate::ike::testing::instant();
        let cookie = admission.cookie(start, &mut random, b"nonce", ip("192.0.2.1"), IkeSpi(7));
        let later = start + Duration::from_secs(3600);
        assert!(!admission.is_cookie(later, &mut random, &cookie, b"nonce", ip("192.0.2.1"), IkeSpi(7)));
    }

    #[test]
    fn unprotected_answers_have_a_rate() {
        let mut admission = Admission::new(limits(), &mut counting());
        let start = crate::ike::testing::instant();
        let mut burst = |at: Duration| {
            // From a hundred networks.
            (0..100).filter(|n| admission.may_answer_unprotected(start + at, ip(&format!("10.0.{n}.1")), false, false)).count()
        };
        assert_eq!((burst(Duration::ZERO), burst(Duration::from_millis(500)), burst(Duration::from_secs(60))), (10, 5, 10));
    }

    #[test]
    fn a_flood_from_one_network_leaves_the_answers_of_others_alone() {
        let mut admission = Admission::new(limits(), &mut counting());
        let start = crate::ike::testing::instant();
        let from = |n: u32| ip(&format!("192.0.2.{}", n % 256));
        assert_eq!((0..1000).filter(|n| admission.may_answer_unprotected(start, from(*n), false, false)).count(), 1);
        assert!(admission.may_answer_unprotected(start, ip("198.51.100.1"), false, false));
        assert!(admission.may_answer_unprotected(start, from(7), true, false), "a known address of the same network");
        // What is counted for each network does not grow without bound.
        let later = start + Duration::from_secs(1);
        for n in 0..10_000u32 {
            admission.may_answer_unprotected(later, IpAddr::from(Ipv4Addr::from_bits(n << 8)).into(), false, false);
        }
        assert!(admission.answers[0][0].of.len() <= ANSWERED_NETWORKS_MAX);
        assert!(admission.may_answer_unprotected(later, from(8), true, false), "whatever strangers ask");
        assert!(admission.may_answer_unprotected(later + Duration::from_secs(2), ip("203.0.113.1"), false, false));
    }

    #[test]
    fn who_has_brought_a_cookie_has_answers_that_nobody_else_uses_up() {
        let mut admission = Admission::new(limits(), &mut counting());
        let start = crate::ike::testing::instant();
        let neighbours = ["2001:db8::1", "2001:db8::2"].map(ip);
        for is_known in [true, false] {
            let flood = (0..1000).filter(|n| {
                let anywhere = if is_known { neighbours[0] } else { IpAddr::from(Ipv4Addr::from_bits(n << 8)).into() };
                admission.may_answer_unprotected(start, anywhere, is_known, false)
            });
            assert!(flood.count() <= 10);
            // Beside it one who is there, and then his neighbour, who is another one only where both are known.
            let mut answered =
                |source| (0..100).filter(|_| admission.may_answer_unprotected(start, source, is_known, true)).count();
            assert_eq!(neighbours.map(&mut answered), if is_known { [1, 1] } else { [1, 0] });
            // However many others have brought one.
            let elsewhere = (0..50).filter(|n| answered(ip(&format!("10.0.{n}.1"))) == 1);
            assert_eq!(elsewhere.count(), 50);
        }
    }
}
