//! The drops that are counted for each peer: a direction and a name of [`crate::stats::Drop`], the same as in the totals, and one counter
//! in each direction for all other names.
//!
//! A packet is a peer's when it has the SPI of one of its SAs, or is for it. The names in front of the integrity check (`bad_tag`,
//! `replay`, `replay_old`) prove nothing about the peer: whoever has seen an SPI can send such packets.

use crate::control::Direction;
use crate::stats::Drop;

/// What has a counter of its own among what came: all that tells of a fault. The counters of all peers make the total, but for
/// `FloodLimit` and `HandoverFull`: under these names packets are dropped, too, of which it is not known whose they are, or which
/// are for several peers.
const INBOUND: [Drop; 9] = [
    Drop::BadTag,
    Drop::Replay,
    Drop::ReplayOld,
    Drop::PolicyMismatch,
    Drop::BadNextHeader,
    Drop::HalfBad,
    Drop::HalfExpired,
    Drop::HalfLost,
    Drop::FloodLimit,
];

/// The same of what was to go.
const OUTBOUND: [Drop; 10] = [
    Drop::NoChildSa,
    Drop::NoSa,
    Drop::NoPath,
    Drop::SeqExhausted,
    Drop::PathMtu,
    Drop::TooBig,
    Drop::TooBigUnreported,
    Drop::UdpFull,
    Drop::UdpRefused,
    Drop::HandoverFull,
];

/// Counters of a peer: by name, and the rest of each direction behind them.
const COUNT: usize = INBOUND.len() + 1 + OUTBOUND.len() + 1;

/// How many packets of a peer were dropped, by [`PeerDrop::index`].
pub type PeerDropCounts = [u64; COUNT];

/// One of the counters of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PeerDrop(u8);

impl PeerDrop {
    /// How many there are.
    pub const COUNT: usize = COUNT;
    /// The label of all names in a direction that have no counter of their own.
    pub const OTHER: &'static str = "other";

    /// All of them, in the order of their index.
    pub fn all() -> impl Iterator<Item = PeerDrop> {
        (0..COUNT as u8).map(PeerDrop)
    }

    /// Where a packet of a peer is counted that is dropped under this name.
    pub fn of(direction: Direction, why: Drop) -> PeerDrop {
        let (names, first): (&[Drop], usize) = match direction {
            Direction::Inbound => (&INBOUND, 0),
            Direction::Outbound => (&OUTBOUND, INBOUND.len() + 1),
        };
        let place = names.iter().position(|name| *name == why).unwrap_or(names.len());
        PeerDrop((first + place) as u8)
    }

    /// Its place among the counters of a peer.
    pub fn index(self) -> usize {
        self.0.into()
    }

    pub fn direction(self) -> Direction {
        if self.index() <= INBOUND.len() { Direction::Inbound } else { Direction::Outbound }
    }

    /// The name that it shares with the totals; `None` of what has no counter of its own.
    pub fn name(self) -> Option<Drop> {
        let place = self.index();
        INBOUND.get(place).or_else(|| OUTBOUND.get(place.checked_sub(INBOUND.len() + 1)?)).copied()
    }

    /// The name in metrics.
    pub fn label(self) -> &'static str {
        self.name().map_or(PeerDrop::OTHER, Drop::label)
    }

    /// One sentence for people.
    pub fn help(self) -> &'static str {
        match self.name() {
            Some(Drop::BadTag) => {
                "An SPI of the peer's, but the integrity check failed: keys that differ, damage on the way, or a forgery by anybody \
                 who has seen the SPI."
            }
            Some(Drop::Replay) => {
                "An SPI of the peer's and a sequence number that was seen before: doubled on the way, or repeated by anybody who has \
                 seen it."
            }
            Some(Drop::ReplayOld) => {
                "An SPI of the peer's and a sequence number left of the replay window: held back on the way for longer than \
                 replay_window allows, repeated, or forged by anybody who has seen the SPI."
            }
            Some(name) => name.help(),
            None => "For reasons that are not told apart by peer; the drops of all peers have their names.",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: [Direction; 2] = [Direction::Inbound, Direction::Outbound];

    #[test]
    fn every_drop_has_one_counter_in_each_direction() {
        for direction in BOTH {
            for &why in Drop::ALL {
                let counter = PeerDrop::of(direction, why);
                assert_eq!(counter.direction(), direction, "{why:?}");
                assert!(counter.name().is_none_or(|name| name == why), "{why:?} is counted as {counter:?}");
                assert!(counter.index() < PeerDrop::COUNT && !counter.help().is_empty());
            }
        }
    }

    #[test]
    fn no_two_counters_have_one_direction_and_label() {
        let all: Vec<PeerDrop> = PeerDrop::all().collect();
        assert_eq!(all.len(), PeerDrop::COUNT);
        for (place, one) in all.iter().enumerate() {
            assert_eq!(one.index(), place);
            assert!(one.name().is_none_or(|name| PeerDrop::of(one.direction(), name) == *one));
            let twin = |other: &&PeerDrop| (other.direction(), other.label()) == (one.direction(), one.label());
            assert_eq!(all.iter().filter(twin).count(), 1, "{one:?}");
        }
    }
}
