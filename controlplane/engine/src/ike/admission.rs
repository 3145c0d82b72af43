//! Who may begin an IKE SA: cookies (RFC 7296 §2.6), limits of half-open IKE SAs, the rate of unprotected answers (§2.21.4).
//!
//! Nothing is kept for a peer that has not shown that it receives at its address once [`Limits::cookie_threshold`] is passed.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use adit_proto::ike::IkeSpi;
use aws_lc_rs::constant_time::verify_slices_are_equal;

use crate::crypto::{Prf, Secret};
use crate::random::Random;

use super::config::Limits;

/// How long a cookie secret makes new cookies; its cookies are taken for as long again.
const SECRET_LIFETIME: Duration = Duration::from_secs(60);
const SECRET_LEN: usize = 32;

/// What becomes of a request to begin an IKE SA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Admit,
    /// It may come again with this cookie.
    DemandCookie,
    /// One of the limits is reached: no answer.
    Refuse,
}

#[derive(Debug)]
pub(super) struct Admission {
    limits: Limits,
    half_open: usize,
    by_address: BTreeMap<IpAddr, usize>,
    /// The number of the current secret; the one before has the number before.
    generation: u8,
    secrets: [Secret; 2],
    secret_since: Option<Instant>,
    /// Unprotected answers that may be sent now, in thousandths.
    credit: u64,
    credit_at: Option<Instant>,
}

impl Admission {
    pub(super) fn new(limits: Limits, random: &mut dyn Random) -> Admission {
        let secrets = [fresh_secret(random), fresh_secret(random)];
        let (by_address, credit) = (BTreeMap::new(), u64::from(limits.unprotected_replies) * 1000);
        Admission { limits, half_open: 0, by_address, generation: 0, secrets, secret_since: None, credit, credit_at: None }
    }

    pub(super) fn half_open(&self) -> usize {
        self.half_open
    }

    /// What to do with a request from this address, which brought a good cookie or not.
    pub(super) fn verdict(&self, source: IpAddr, has_cookie: bool) -> Verdict {
        let from_there = self.by_address.get(&scope(source)).copied().unwrap_or(0);
        if self.half_open >= self.limits.half_open || from_there >= self.limits.half_open_per_address {
            Verdict::Refuse
        } else if self.half_open >= self.limits.cookie_threshold && !has_cookie {
            Verdict::DemandCookie
        } else {
            Verdict::Admit
        }
    }

    /// An IKE SA of this address has become half-open.
    pub(super) fn opened(&mut self, source: IpAddr) {
        self.half_open += 1;
        *self.by_address.entry(scope(source)).or_default() += 1;
    }

    /// It is authenticated, or gone.
    pub(super) fn closed(&mut self, source: IpAddr) {
        self.half_open = self.half_open.saturating_sub(1);
        let scope = scope(source);
        let left = self.by_address.get(&scope).map_or(0, |count| count.saturating_sub(1));
        if left == 0 {
            self.by_address.remove(&scope);
        } else {
            self.by_address.insert(scope, left);
        }
    }

    /// The cookie for a request: `generation | prf(secret, Ni | IPi | SPIi)`.
    pub(super) fn cookie(&mut self, now: Instant, random: &mut dyn Random, nonce: &[u8], source: IpAddr, spi: IkeSpi) -> Vec<u8> {
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
        source: IpAddr,
        spi: IkeSpi,
    ) -> bool {
        self.rotate(now, random);
        let current = given.first() == Some(&self.generation);
        let (generation, secret) =
            if current { (self.generation, &self.secrets[0]) } else { (self.generation.wrapping_sub(1), &self.secrets[1]) };
        verify_slices_are_equal(given, &self.compute(generation, secret, nonce, source, spi)).is_ok()
    }

    /// Takes the right to one unprotected answer, if there is one now.
    pub(super) fn may_answer_unprotected(&mut self, now: Instant) -> bool {
        let since = self.credit_at.replace(now).map_or(Duration::ZERO, |then| now.saturating_duration_since(then));
        let rate = u64::from(self.limits.unprotected_replies);
        let earned = u64::try_from(since.as_millis()).unwrap_or(u64::MAX).saturating_mul(rate);
        self.credit = self.credit.saturating_add(earned).min(rate * 1000);
        let may = self.credit >= 1000;
        if may {
            self.credit -= 1000;
        }
        may
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

    fn compute(&self, generation: u8, secret: &Secret, nonce: &[u8], source: IpAddr, spi: IkeSpi) -> Vec<u8> {
        let address = match source {
            IpAddr::V4(address) => address.to_ipv6_mapped(),
            IpAddr::V6(address) => address,
        };
        let tag = Prf::HmacSha256.compute(secret.expose(), &[nonce, &address.octets(), &spi.to_bytes()]);
        [&[generation], tag.expose()].concat()
    }
}

fn fresh_secret(random: &mut dyn Random) -> Secret {
    let mut bytes = vec![0; SECRET_LEN].into_boxed_slice();
    random.fill(&mut bytes);
    Secret::new(bytes)
}

/// What counts as one address: a /64 of IPv6 is one subscriber.
fn scope(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
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
        Limits { half_open: 6, half_open_per_address: 3, cookie_threshold: 2, unprotected_replies: 10, ..Limits::default() }
    }

    #[test]
    fn a_cookie_is_asked_for_under_load_and_limits_hold() {
        let mut random = counting();
        let mut admission = Admission::new(limits(), &mut random);
        let (one, other) = (ip("192.0.2.1"), ip("192.0.2.2"));
        assert_eq!(admission.verdict(one, false), Verdict::Admit);
        admission.opened(one);
        admission.opened(one);
        assert_eq!((admission.verdict(other, false), admission.verdict(other, true)), (Verdict::DemandCookie, Verdict::Admit));
        admission.opened(one);
        assert_eq!((admission.verdict(one, true), admission.verdict(other, true)), (Verdict::Refuse, Verdict::Admit));
        (0..3).for_each(|_| admission.opened(other));
        assert_eq!(admission.verdict(ip("192.0.2.3"), true), Verdict::Refuse);
        for address in [one, one, one, other, other, other] {
            admission.closed(address);
        }
        assert_eq!((admission.half_open(), admission.by_address.len()), (0, 0));
    }

    #[test]
    fn one_subscriber_is_a_64_of_ipv6() {
        let mut admission = Admission::new(limits(), &mut counting());
        for last in 1..=3 {
            admission.opened(ip(&format!("2001:db8::{last}")));
        }
        assert_eq!(admission.verdict(ip("2001:db8::ffff"), true), Verdict::Refuse);
        assert_eq!(admission.verdict(ip("2001:db8:0:1::1"), true), Verdict::Admit);
    }

    #[test]
    fn a_cookie_is_good_for_its_request_and_for_a_while() {
        let mut random = counting();
        let mut admission = Admission::new(limits(), &mut random);
        let start = crate::ike::testing::instant();
        let (source, spi) = (ip("192.0.2.1"), IkeSpi(7));
        let cookie = admission.cookie(start, &mut random, b"nonce", source, spi);
        assert!((1..=64).contains(&cookie.len()));
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
        let mut burst = |at: Duration| (0..100).filter(|_| admission.may_answer_unprotected(start + at)).count();
        assert_eq!((burst(Duration::ZERO), burst(Duration::from_millis(500)), burst(Duration::from_secs(60))), (10, 5, 10));
    }
}
