//! What strangers are answered: to no network more bytes than came from there, and to none more than four answers in a second.
//!
//! Whoever sends a datagram under a false address chooses who gets the answer. So an answer may be no longer than what was asked, and where it
//! is, bytes that the same network sent before without being answered count: a client that does not fill up its question asks again after
//! half a second (RFC 8489 §6.2.1), and is answered then. The table has a fixed size; two networks that meet in one place share its
//! right to answers, and take each other's bytes away.
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::time::Instant;

use crate::limits::{OPEN_ANSWERS, STRANGER_ANSWERS, STRANGER_CREDIT_MAX, STRANGERS_MAX, TURN_CHECKS_OF_NETWORK};
use crate::rate_limit::Bucket;

/// Why somebody is not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Silence {
    /// The answer would be longer than what was asked.
    Longer,
    /// His network got its answers of this second.
    Often,
}

/// The networks of strangers.
#[derive(Debug)]
pub struct Strangers {
    places: Box<[Place]>,
    /// Nobody who does not know it can choose networks that meet.
    key: u64,
}

#[derive(Debug)]
struct Place {
    network: u64,
    /// Bytes that came from it and were not answered.
    credit: usize,
    answers: Bucket,
    /// Of an open server.
    open: Bucket,
    /// Questions whose credentials are computed.
    checks: Bucket,
}

/// The network of an address, a /24 or a /48, as a number that is never zero.
fn network(ip: IpAddr) -> u64 {
    match ip.to_canonical() {
        IpAddr::V4(v4) => u64::from(v4.to_bits() >> 8) | 1 << 62,
        IpAddr::V6(v6) => (v6.to_bits() >> 80) as u64 | 1 << 63,
    }
}

impl Strangers {
    /// Nobody came yet. The key is random.
    pub fn new(key: u64) -> Strangers {
        let place = || Place {
            network: 0,
            credit: 0,
            answers: Bucket::new(STRANGER_ANSWERS),
            open: Bucket::new(OPEN_ANSWERS),
            checks: Bucket::new(TURN_CHECKS_OF_NETWORK),
        };
        Strangers { places: (0..STRANGERS_MAX).map(|_| place()).collect(), key }
    }

    fn place(&mut self, from: IpAddr) -> &mut Place {
        let network = network(from);
        let mut hasher = DefaultHasher::new();
        (self.key, network).hash(&mut hasher);
        let index = hasher.finish() as usize % self.places.len();
        let place = &mut self.places[index];
        if place.network != network {
            (place.network, place.credit) = (network, 0);
        }
        place
    }

    /// Whether so many bytes may be answered to somebody who asked with so many, and uses the right to it.
    pub fn take(&mut self, now: Instant, from: IpAddr, asked: usize, answer: usize) -> Result<(), Silence> {
        let place = self.place(from);
        place.credit = (place.credit + asked).min(STRANGER_CREDIT_MAX.max(asked));
        if place.credit < answer {
            return Err(Silence::Longer);
        }
        if !place.answers.take(now) {
            return Err(Silence::Often);
        }
        place.credit -= answer;
        Ok(())
    }

    /// The same on an open server, where answers may be longer and a whole search finds room: only their number is bounded.
    pub fn take_open(&mut self, now: Instant, from: IpAddr) -> Result<(), Silence> {
        if self.place(from).open.take(now) { Ok(()) } else { Err(Silence::Often) }
    }

    /// Whether the credentials of one more question of this network are computed, which has shown that it is there.
    pub fn take_check(&mut self, now: Instant, from: IpAddr) -> bool {
        self.place(from).checks.take(now)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::testing::instant;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn a_longer_answer_waits_for_the_second_question() {
        let mut strangers = Strangers::new(1);
        let mut ask = |asked, answer| strangers.take(instant(), ip("192.0.2.1"), asked, answer);
        assert_eq!([ask(20, 32), ask(20, 32), ask(20, 32)], [Err(Silence::Longer), Ok(()), Err(Silence::Longer)]);
    }

    #[test]
    fn a_network_gets_four_answers_in_a_second() {
        let mut strangers = Strangers::new(1);
        for (one, other) in
            [("192.0.2.1", "192.0.2.200"), ("2001:db8:1::1", "2001:db8:1:ff::1"), ("::ffff:198.51.100.1", "198.51.100.9")]
        {
            let mut ask = |ms, from| strangers.take(instant() + Duration::from_millis(ms), ip(from), 100, 32).is_ok();
            let answered: Vec<bool> = (0..6).map(|n| ask(0, if n % 2 == 0 { one } else { other })).collect();
            assert_eq!(answered, [true, true, true, true, false, false], "{one}");
            assert!(!ask(249, one) && ask(250, other) && !ask(250, one));
        }
    }

    #[test]
    fn what_was_sent_long_ago_is_worth_little() {
        let mut strangers = Strangers::new(1);
        for _ in 0..100 {
            assert!(strangers.take(instant(), ip("192.0.2.1"), 1400, usize::MAX).is_err());
        }
        assert!(strangers.take(instant(), ip("192.0.2.1"), 0, STRANGER_CREDIT_MAX + 1).is_err());
        assert!(strangers.take(instant(), ip("192.0.2.1"), 0, STRANGER_CREDIT_MAX).is_ok());
    }

    #[test]
    fn networks_that_meet_do_not_pay_for_each_other() {
        let mut strangers = Strangers::new(1);
        for net in 0..=u16::MAX {
            let [high, low] = net.to_be_bytes();
            let from = IpAddr::from([10, high, low, 1]);
            assert_eq!(strangers.take(instant(), from, 20, 32), Err(Silence::Longer));
        }
        assert_eq!(strangers.places.len(), STRANGERS_MAX);
    }
}
