//! Who may have how much in a second, and who may come in at all: buckets that fill with time, and what is counted of each
//! address.
//!
//! What is kept of those who have proven nothing is bounded: of connections there are only so many, and rates of networks and
//! keys have a table of a fixed size ([`Shares`]), which no number of sources makes larger.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use adit_engine::random::Random;
use adit_proto::rate_limit::Lot;
use adit_proto::relay::PeerKey;

use crate::limits::{
    ADDRESSES_OF_NETWORK, CONNECTIONS_MAX, CONNECTIONS_OF_ADDRESS_MAX, HANDSHAKES_OF_NETWORK_PER_S, HANDSHAKES_PER_S, SHARES_MAX,
};

/// So many in so long, and so many at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    pub amount: u64,
    pub per: Duration,
    /// What costs more than this passes where all of it is there, and is charged so much.
    pub burst: u64,
}

/// No wait is longer, whatever rate somebody has configured.
const WAIT_LONGEST: Duration = Duration::from_secs(24 * 3600);

impl Rate {
    /// So many in a second, and a second's worth at once.
    pub const fn per_second(amount: u64) -> Rate {
        Rate { amount, per: Duration::from_secs(1), burst: amount }
    }

    /// In what time so many are earned.
    fn time(self, count: u64) -> Duration {
        let nanos = self.per.as_nanos().saturating_mul(count.into()) / u128::from(self.amount.max(1));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)).min(WAIT_LONGEST)
    }
}

/// A share of something, in one number: until when what was taken of it is earned (the generic cell rate algorithm).
#[derive(Clone, Copy, Debug, Default)]
pub struct Share {
    until: Option<Instant>,
}

impl Share {
    /// Takes so many if they are there; if not, it says how long it takes until they are.
    pub fn take(&mut self, now: Instant, count: u64, rate: Rate) -> Result<(), Duration> {
        let burst = rate.burst.max(1);
        let begins = self.until.map_or(now, |until| until.max(now));
        let (until, most) = (begins + rate.time(count.min(burst)), now + rate.time(burst));
        if until > most {
            return Err(until - most);
        }
        self.until = Some(until);
        Ok(())
    }

    /// What part of a burst is left, from 0 to 1.
    fn left(&self, now: Instant, rate: Rate) -> f64 {
        let most = rate.time(rate.burst.max(1));
        let used = self.until.map_or(Duration::ZERO, |until| until.saturating_duration_since(now));
        1.0 - used.as_secs_f64() / most.as_secs_f64().max(f64::MIN_POSITIVE)
    }
}

/// The network of an address: a /24, or a /48 of IPv6, which is what one site has (RFC 6177 §2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Network(IpAddr);

impl Network {
    pub fn of(address: IpAddr) -> Network {
        match address.to_canonical() {
            IpAddr::V4(ip) => {
                let [a, b, c, _] = ip.octets();
                Network(Ipv4Addr::new(a, b, c, 0).into())
            }
            IpAddr::V6(ip) => {
                let [a, b, c, ..] = ip.segments();
                Network(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0).into())
            }
        }
    }
}

/// The shares of very many in a table of a fixed size. Who falls into one place has one share together with the others there; who
/// does not know the seed cannot choose with whom.
#[derive(Debug)]
pub struct Shares {
    seed: [u64; 2],
    places: Box<[Share]>,
    /// SplitMix64 (Steele, Lea and Flood, 2014). Who can foretell it gains one of what is drawn by lot.
    dice: u64,
}

impl Shares {
    pub fn new(random: &mut dyn Random) -> Shares {
        let seed = [random.u64(), random.u64()];
        Shares { seed, places: vec![Share::default(); SHARES_MAX].into_boxed_slice(), dice: random.u64() }
    }

    fn place(&mut self, who: impl Hash) -> &mut Share {
        let mut hasher = DefaultHasher::new();
        (self.seed, who).hash(&mut hasher);
        &mut self.places[(hasher.finish() % SHARES_MAX as u64) as usize]
    }

    /// Takes one of the share of `who`.
    pub fn take(&mut self, now: Instant, who: impl Hash, rate: Rate) -> Result<(), Duration> {
        self.place(who).take(now, 1, rate)
    }

    /// Takes one if a lot falls on it: the less is left, the less likely, from the half down. So of all who are one `who` together
    /// nobody shuts out the others by being quick (see [`Lot`]).
    pub fn draw(&mut self, now: Instant, who: impl Hash, rate: Rate) -> bool {
        self.dice = self.dice.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.dice ^ self.dice >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        let chance = (mixed ^ mixed >> 31) as f64 / u64::MAX as f64;
        let share = self.place(who);
        chance < 2.0 * share.left(now, rate) && share.take(now, 1, rate).is_ok()
    }

    /// Whether `who` has one left.
    pub fn has_one(&mut self, now: Instant, who: impl Hash, rate: Rate) -> bool {
        let mut share = *self.place(who);
        share.take(now, 1, rate).is_ok()
    }
}

/// What the door lets in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DoorSettings {
    /// Connections in total, and of one address.
    pub connections: usize,
    pub connections_of_address: u32,
    /// Handshakes of TLS in a second: in total, and of one network.
    pub handshakes_per_s: u32,
    pub handshakes_of_network_per_s: u32,
    /// How often one key may log in.
    pub logins: Rate,
}

impl Default for DoorSettings {
    fn default() -> DoorSettings {
        DoorSettings {
            connections: CONNECTIONS_MAX,
            connections_of_address: CONNECTIONS_OF_ADDRESS_MAX,
            handshakes_per_s: HANDSHAKES_PER_S,
            handshakes_of_network_per_s: HANDSHAKES_OF_NETWORK_PER_S,
            // Two that have one key take turns no faster than this, even if they do not wait as they are told to.
            logins: Rate { amount: 1, per: Duration::from_secs(10), burst: 8 },
        }
    }
}

/// Why a connection is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TurnedAway {
    /// There are as many connections as may be.
    Connections,
    /// Its address, or its network, has as many as it may have.
    ConnectionsOfAddress,
    ConnectionsOfNetwork,
    /// More handshakes in a second than may be, or than its network may begin.
    Handshakes,
    HandshakesOfNetwork,
}

impl TurnedAway {
    pub const ALL: [TurnedAway; 5] = [
        TurnedAway::Connections,
        TurnedAway::ConnectionsOfAddress,
        TurnedAway::ConnectionsOfNetwork,
        TurnedAway::Handshakes,
        TurnedAway::HandshakesOfNetwork,
    ];

    /// The word for logs and metrics.
    pub const fn label(self) -> &'static str {
        match self {
            TurnedAway::Connections => "connections",
            TurnedAway::ConnectionsOfAddress => "connections_of_address",
            TurnedAway::ConnectionsOfNetwork => "connections_of_network",
            TurnedAway::Handshakes => "handshakes",
            TurnedAway::HandshakesOfNetwork => "handshakes_of_network",
        }
    }

    /// The key in the file that sets this limit.
    pub const fn key(self) -> &'static str {
        match self {
            TurnedAway::Connections => "limits.connections",
            TurnedAway::ConnectionsOfAddress => "limits.connections_of_address",
            TurnedAway::ConnectionsOfNetwork => "limits.connections_of_address, eight times of which a /24 or /48 has",
            TurnedAway::Handshakes => "limits.handshakes_per_s",
            TurnedAway::HandshakesOfNetwork => "limits.handshakes_of_network_per_s",
        }
    }
}

/// Who comes in: it is asked before anything of a connection is read, and again when somebody has proven a key.
pub struct Door {
    settings: DoorSettings,
    began: Instant,
    /// Connections that are open: all, of each address and of each network. No more entries than connections.
    open: usize,
    of_address: BTreeMap<IpAddr, u32>,
    of_network: BTreeMap<Network, u32>,
    /// By lot where there are too many: so nobody shuts out the others by being quick.
    handshakes: Lot,
    handshakes_of_network: Shares,
    logins: Shares,
}

impl Door {
    pub fn new(settings: DoorSettings, now: Instant, random: &mut dyn Random) -> Door {
        Door {
            settings,
            began: now,
            open: 0,
            of_address: BTreeMap::new(),
            of_network: BTreeMap::new(),
            handshakes: Lot::new(settings.handshakes_per_s, random.u64()),
            handshakes_of_network: Shares::new(random),
            logins: Shares::new(random),
        }
    }

    /// Connections that were let in and not yet closed.
    pub fn open(&self) -> usize {
        self.open
    }

    /// A connection from there has come. If it is let in, [`Door::left`] says when it has gone.
    pub fn enter(&mut self, now: Instant, from: IpAddr) -> Result<(), TurnedAway> {
        if let Some(turned) = self.crowded(from) {
            return Err(turned);
        }
        self.shake(now, from)?;
        self.count(from);
        Ok(())
    }

    /// What there are too many connections of for one more from there, the narrowest first.
    pub fn crowded(&self, from: IpAddr) -> Option<TurnedAway> {
        let (address, network) = (from.to_canonical(), Network::of(from));
        let count = |known: Option<&u32>| known.copied().unwrap_or_default();
        let most = self.settings.connections_of_address;
        if count(self.of_address.get(&address)) >= most {
            Some(TurnedAway::ConnectionsOfAddress)
        } else if count(self.of_network.get(&network)) >= most.saturating_mul(ADDRESSES_OF_NETWORK) {
            Some(TurnedAway::ConnectionsOfNetwork)
        } else {
            (self.open >= self.settings.connections).then_some(TurnedAway::Connections)
        }
    }

    /// Whether one more may begin a handshake from there.
    pub fn shake(&mut self, now: Instant, from: IpAddr) -> Result<(), TurnedAway> {
        let rate = Rate::per_second(self.settings.handshakes_of_network_per_s.into());
        if !self.handshakes_of_network.draw(now, Network::of(from), rate) {
            return Err(TurnedAway::HandshakesOfNetwork);
        }
        let now_us = now.saturating_duration_since(self.began).as_micros();
        // A bucket of that kind is empty at zero: the relay begins with a second's worth.
        if !self.handshakes.take(u64::try_from(now_us).unwrap_or(u64::MAX).saturating_add(1_000_000)) {
            return Err(TurnedAway::Handshakes);
        }
        Ok(())
    }

    /// One more connection from there is open.
    pub fn count(&mut self, from: IpAddr) {
        self.open += 1;
        *self.of_address.entry(from.to_canonical()).or_default() += 1;
        *self.of_network.entry(Network::of(from)).or_default() += 1;
    }

    /// A connection from there, which was let in, is closed.
    pub fn left(&mut self, from: IpAddr) {
        if take_one(&mut self.of_address, from.to_canonical()) {
            take_one(&mut self.of_network, Network::of(from));
            self.open -= 1;
        }
    }

    /// Somebody has proven this key: whether it may log in now.
    pub fn may_log_in(&mut self, now: Instant, key: &PeerKey) -> bool {
        self.logins.has_one(now, key, self.settings.logins)
    }

    /// A client with this key has come in. Who was not let in has not logged in.
    pub fn logged_in(&mut self, now: Instant, key: &PeerKey) {
        let _ = self.logins.take(now, key, self.settings.logins);
    }
}

/// Counts one down and forgets who has none; whether there was one.
fn take_one<K: Ord>(counts: &mut BTreeMap<K, u32>, of: K) -> bool {
    let Some(count) = counts.get_mut(&of) else { return false };
    *count -= 1;
    if *count == 0 {
        counts.remove(&of);
    }
    true
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{Dice, start};

    fn door(settings: DoorSettings) -> Door {
        Door::new(settings, start(), &mut Dice::new(1))
    }

    /// Where the rates are in nobody's way.
    fn wide() -> DoorSettings {
        DoorSettings { handshakes_per_s: 1_000_000, handshakes_of_network_per_s: 1_000_000, ..DoorSettings::default() }
    }

    fn v4(n: u32) -> IpAddr {
        Ipv4Addr::from_bits(n).into()
    }

    #[test]
    fn a_share_is_its_burst_and_then_its_rate() {
        let (rate, mut share) = (Rate { amount: 100, per: Duration::from_secs(1), burst: 300 }, Share::default());
        assert_eq!(share.take(start(), 300, rate), Ok(()));
        assert_eq!(share.take(start(), 50, rate), Err(Duration::from_millis(500)));
        let later = start() + Duration::from_millis(500);
        assert_eq!((share.take(later, 50, rate), share.take(later, 1, rate)), (Ok(()), Err(Duration::from_millis(10))));
    }

    #[test]
    fn what_costs_more_than_the_burst_passes_when_all_is_there() {
        let (rate, mut share) = (Rate::per_second(10), Share::default());
        assert_eq!((share.take(start(), 1000, rate), share.take(start(), 1, rate).is_err()), (Ok(()), true));
        assert_eq!(share.take(start() + Duration::from_secs(1), 1000, rate), Ok(()));
    }

    #[test]
    fn a_rate_of_nothing_waits_long_and_does_not_overflow() {
        let rate = Rate { amount: 0, per: Duration::MAX, burst: u64::MAX };
        let mut share = Share::default();
        assert_eq!(share.take(start(), u64::MAX, rate), Ok(()));
        assert_eq!(share.take(start(), u64::MAX, rate), Err(WAIT_LONGEST));
    }

    #[test]
    fn networks_are_24_bits_or_48_of_ipv6() {
        let network = |text: &str| Network::of(text.parse().unwrap());
        assert_eq!(network("192.0.2.1"), network("192.0.2.254"));
        assert_eq!(network("192.0.2.1"), network("::ffff:192.0.2.7"), "an address of IPv4 is one however it is written");
        assert_ne!(network("192.0.2.1"), network("192.0.3.1"));
        assert_eq!(network("2001:db8:1:2::3"), network("2001:db8:1:ffff::"));
        assert_ne!(network("2001:db8:1::"), network("2001:db8:2::"));
    }

    #[test]
    fn an_address_has_its_share_and_its_network_eight_times_that() {
        let mut door = door(wide());
        let net = u32::from_be_bytes([192, 0, 2, 0]);
        for host in 0..8 {
            assert!((0..64).all(|_| door.enter(start(), v4(net + host)).is_ok()));
            assert_eq!(door.enter(start(), v4(net + host)), Err(TurnedAway::ConnectionsOfAddress));
        }
        assert_eq!(door.enter(start(), v4(net + 9)), Err(TurnedAway::ConnectionsOfNetwork));
        assert_eq!(door.enter(start(), v4(net + 256)), Ok(()), "others are not concerned");
        door.left(v4(net));
        assert_eq!(door.enter(start(), v4(net + 9)), Ok(()));
        assert_eq!(door.open(), 8 * 64 + 1);
    }

    #[test]
    fn the_house_is_full_at_some_time_and_empty_again() {
        let mut door = door(DoorSettings { connections: 3, ..wide() });
        assert!((0..3).all(|n| door.enter(start(), v4(n << 8)).is_ok()));
        assert_eq!(door.enter(start(), v4(9 << 8)), Err(TurnedAway::Connections));
        assert_eq!(door.crowded(v4(9 << 8)), Some(TurnedAway::Connections));
        (0..3).for_each(|n| door.left(v4(n << 8)));
        assert_eq!((door.open(), door.of_address.len(), door.of_network.len()), (0, 0, 0));
        door.left(v4(77));
        assert_eq!(door.open(), 0, "who was never in cannot leave");
    }

    #[test]
    fn a_network_that_shakes_hands_too_often_is_the_only_one_to_wait() {
        let mut door = door(DoorSettings::default());
        let tried: Vec<_> = (0..600).map(|n| door.enter(start(), v4(n % 4))).collect();
        let passed = tried.iter().filter(|result| result.is_ok()).count();
        assert!((10..=20).contains(&passed), "{passed}");
        assert_eq!(tried.last(), Some(&Err(TurnedAway::HandshakesOfNetwork)));
        assert_eq!(door.enter(start(), v4(1 << 8)), Ok(()));
        assert_eq!(door.enter(start() + Duration::from_millis(1000), v4(5)), Ok(()));
    }

    /// One neighbour floods as evenly as a clock and takes what is earned the moment that it is; the other comes once a second.
    #[test]
    fn in_one_network_nobody_shuts_out_the_others_by_being_quick() {
        let mut door = door(DoorSettings { handshakes_per_s: 1_000_000, connections: 100_000, ..DoorSettings::default() });
        let (mut flood, mut other) = (0, 0);
        for ms in 0..100_000u64 {
            let now = start() + Duration::from_millis(ms);
            if ms % 5 == 0 && door.enter(now, v4(1)).is_ok() {
                door.left(v4(1));
                flood += 1;
            }
            if ms % 1000 == 1 && door.enter(now, v4(2)).is_ok() {
                door.left(v4(2));
                other += 1;
            }
        }
        // Twenty in a second out of two hundred and one.
        assert!((3..30).contains(&other) && flood > 1500, "{other} of 100 beside {flood} of 20000");
    }

    #[test]
    fn handshakes_of_all_are_at_most_a_seconds_worth_at_once() {
        let mut door = door(DoorSettings::default());
        let passed = (0..100_000).filter(|n| door.enter(start(), v4(n << 8)).is_ok()).count();
        assert!((100..=200).contains(&passed), "{passed}");
    }

    #[test]
    fn a_key_logs_in_so_often_and_no_more() {
        let mut door = door(DoorSettings::default());
        let key = PeerKey([7; 32]);
        for _ in 0..8 {
            assert!((0..100).all(|_| door.may_log_in(start(), &key)), "to ask costs nothing");
            door.logged_in(start(), &key);
        }
        assert!(!door.may_log_in(start() + Duration::from_millis(9_999), &key));
        assert!(door.may_log_in(start(), &PeerKey([8; 32])));
        assert!(door.may_log_in(start() + Duration::from_secs(10), &key));
    }

    #[test]
    fn a_hundred_thousand_sources_take_no_more_memory_than_one() {
        let mut shares = Shares::new(&mut Dice::new(2));
        let rate = Rate::per_second(4);
        let passed = (0..100_000).filter(|n| shares.take(start(), Network::of(v4(n << 8)), rate).is_ok()).count();
        assert_eq!((shares.places.len(), passed <= SHARES_MAX * 4), (SHARES_MAX, true));
    }

    proptest! {
        /// However it is taken: never more than the burst and what was earned since.
        #[test]
        fn no_more_passes_than_burst_and_rate(
            steps in prop::collection::vec((0u64..2000, 1u64..40), 1..200),
            burst in 40u64..200,
        ) {
            let (rate, mut share) = (Rate { amount: 50, per: Duration::from_secs(1), burst }, Share::default());
            let (mut ms, mut taken) = (0, 0);
            for (pause, count) in steps {
                ms += pause;
                match share.take(start() + Duration::from_millis(ms), count, rate) {
                    Ok(()) => taken += count,
                    Err(wait) => {
                        // What it says is true, and not a nanosecond too long.
                        let then = start() + Duration::from_millis(ms) + wait;
                        let passes = |then, mut share: Share| share.take(then, count, rate).is_ok();
                        prop_assert!(passes(then, share) && !passes(then - Duration::from_nanos(1), share));
                    }
                }
                prop_assert!(taken <= burst + ms * 50 / 1000 + 1, "{taken} after {ms} ms");
            }
        }
    }
}
