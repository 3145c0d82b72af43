//! Halves of one peer ([`adit_proto::half`]) that wait for the other one: a few of them, for a short time, in memory that is made with
//! the peer. What a peer sends here can push out its own halves and nobody else's.
//!
//! Which two belong together follows from SPI and sequence number, which are authentic and come once each (the replay window), so no
//! half can come twice or stand for another one. What the two say of the whole must agree.

use adit_proto::control::Spi;
use adit_proto::half::{Half, Which};

use crate::limits::HALVES_WAITING_MAX;

/// How long one waits, in nanoseconds: what overtakes on one path does so by less.
const WAIT_NS: u64 = 500_000_000;

/// Which two halves belong together: the SA, and the sequence number of the first one.
pub type Pair = (Spi, u64);

/// The halves of a peer that wait.
#[derive(Debug)]
pub struct Joiner {
    /// A place for each of them, one after the other.
    bytes: Box<[u8]>,
    waiting: [Option<Waiting>; HALVES_WAITING_MAX],
    /// Longest whole, in bytes.
    whole_max: usize,
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    pair: Pair,
    half: Half,
    len: usize,
    class: u8,
    came_ns: u64,
}

/// What became of a half.
#[derive(Debug, PartialEq, Eq)]
pub enum Met<'a> {
    /// The other one has not come yet. To make room, another half that had waited longest was given up, if so it says.
    Waits { pushed_out: bool },
    /// The other one is there: its bytes, and the traffic class of its packet.
    Joins { other: &'a [u8], class: u8 },
    /// They contradict each other, and both are of no use.
    Contradicts,
    /// The whole would be longer than the interface takes.
    TooLong,
}

impl Joiner {
    /// For frames or packets of at most `whole_max` bytes.
    pub fn new(whole_max: usize) -> Joiner {
        Joiner {
            bytes: vec![0; HALVES_WAITING_MAX * whole_max].into_boxed_slice(),
            waiting: [None; HALVES_WAITING_MAX],
            whole_max,
        }
    }

    /// Memory that it takes while its peer is there, whether halves wait or not, in bytes.
    pub fn memory(&self) -> usize {
        size_of::<Joiner>() + self.bytes.len()
    }

    /// Gives up the halves whose other one did not come in time; how many these were.
    pub fn expire(&mut self, now_ns: u64) -> u64 {
        let mut expired = 0;
        for place in &mut self.waiting {
            expired += u64::from(place.take_if(|one| now_ns.saturating_sub(one.came_ns) > WAIT_NS).is_some());
        }
        expired
    }

    /// A half came, in a packet of this traffic class.
    pub fn meet(&mut self, pair: Pair, half: Half, bytes: &[u8], class: u8, now_ns: u64) -> Met<'_> {
        if usize::from(half.whole) > self.whole_max {
            return Met::TooLong;
        }
        let found = self.waiting.iter().position(|one| one.is_some_and(|one| one.pair == pair));
        let Some((place, other)) = found.and_then(|place| Some((place, self.waiting[place].take()?))) else {
            return Met::Waits { pushed_out: self.keep(Waiting { pair, half, len: bytes.len(), class, came_ns: now_ns }, bytes) };
        };
        let agrees = other.half.which != half.which && other.half.whole == half.whole;
        if !agrees || other.len + bytes.len() != usize::from(half.whole) {
            return Met::Contradicts;
        }
        let start = place * self.whole_max;
        Met::Joins { other: &self.bytes[start..start + other.len], class: other.class }
    }

    /// Keeps a half in a free place, or in that of the one that has waited longest. True when one was there.
    fn keep(&mut self, one: Waiting, bytes: &[u8]) -> bool {
        let age = |place: &usize| self.waiting[*place].map_or(0, |waiting| 1 + waiting.came_ns);
        let Some(place) = (0..HALVES_WAITING_MAX).min_by_key(age) else { return false };
        let start = place * self.whole_max;
        // A half is shorter than the whole, which was looked at.
        self.bytes[start..start + bytes.len()].copy_from_slice(bytes);
        self.waiting[place].replace(one).is_some()
    }
}

/// Puts the whole together in `out`, which is as long as both halves.
pub fn join(half: Half, bytes: &[u8], other: &[u8], out: &mut [u8]) {
    let (first, second) = if half.which == Which::First { (bytes, other) } else { (other, bytes) };
    let (head, tail) = out.split_at_mut(first.len());
    head.copy_from_slice(first);
    tail.copy_from_slice(second);
}

#[cfg(test)]
mod tests {
    use adit_proto::half::cut;
    use proptest::prelude::*;

    use super::*;

    const SPI: Spi = Spi(0x5000_0000);

    fn half(which: Which, whole: u16) -> Half {
        Half { which, whole }
    }

    /// A frame in its two halves, in the order in which they come.
    fn halves(frame: &[u8], swapped: bool) -> [(Half, Vec<u8>); 2] {
        let first = cut(frame.len(), 9000).unwrap();
        let whole = frame.len() as u16;
        let mut both =
            [(half(Which::First, whole), frame[..first].to_vec()), (half(Which::Second, whole), frame[first..].to_vec())];
        if swapped {
            both.reverse();
        }
        both
    }

    fn joined(joiner: &mut Joiner, seq: u64, (half, bytes): &(Half, Vec<u8>)) -> Option<(Vec<u8>, u8)> {
        match joiner.meet((SPI, seq), *half, bytes, seq as u8, 5) {
            Met::Joins { other, class } => {
                let mut out = vec![0; half.whole.into()];
                join(*half, bytes, other, &mut out);
                Some((out, class))
            }
            Met::Waits { .. } | Met::Contradicts | Met::TooLong => None,
        }
    }

    proptest! {
        #[test]
        fn any_frame_is_joined_to_the_same_bytes(frame in prop::collection::vec(any::<u8>(), 2..1522), swapped: bool, seq: u64) {
            let mut joiner = Joiner::new(1522);
            let [before, after] = halves(&frame, swapped);
            prop_assert_eq!(joined(&mut joiner, seq, &before), None);
            prop_assert_eq!(joined(&mut joiner, seq, &after), Some((frame, seq as u8)));
            prop_assert_eq!(joiner.expire(u64::MAX), 0, "nothing waits any more");
        }

        #[test]
        fn halves_of_a_hostile_peer_are_bounded(
            all in prop::collection::vec((0u64..6, any::<bool>(), 0u16..2000, prop::collection::vec(any::<u8>(), 1..1600)), 1..60),
        ) {
            let mut joiner = Joiner::new(1522);
            for (seq, first, whole, bytes) in all {
                let half = half(if first { Which::First } else { Which::Second }, whole);
                // As it was read: shorter than the whole.
                if bytes.len() >= usize::from(whole) {
                    continue;
                }
                if let Some((out, _)) = joined(&mut joiner, seq, &(half, bytes)) {
                    prop_assert_eq!(out.len(), usize::from(whole));
                    prop_assert!(whole <= 1522);
                }
                prop_assert!(joiner.waiting.iter().flatten().count() <= HALVES_WAITING_MAX);
            }
        }
    }

    #[test]
    fn what_contradicts_is_given_up_and_what_is_too_long_is_not_kept() {
        let mut joiner = Joiner::new(100);
        let mut meet = |which, whole, len: usize| match joiner.meet((SPI, 7), half(which, whole), &vec![1; len], 0, 0) {
            Met::Waits { pushed_out: false } => "waits",
            Met::Waits { pushed_out: true } => "pushes out",
            Met::Joins { .. } => "joins",
            Met::Contradicts => "contradicts",
            Met::TooLong => "too long",
        };
        for (which, whole, len) in [(Which::First, 90, 40), (Which::Second, 91, 50), (Which::Second, 90, 49)] {
            assert_eq!(meet(Which::First, 90, 40), "waits");
            assert_eq!(meet(which, whole, len), "contradicts", "{which:?} {whole} {len}");
        }
        assert_eq!(meet(Which::First, 101, 40), "too long");
        assert_eq!((meet(Which::Second, 100, 1), meet(Which::First, 100, 99)), ("waits", "joins"));
    }

    #[test]
    fn the_oldest_gives_way_and_time_ends_the_wait() {
        let mut joiner = Joiner::new(100);
        let mut meet = |seq, now_ns| match joiner.meet((SPI, seq), half(Which::First, 50), &[1; 20], 0, now_ns) {
            Met::Waits { pushed_out } => pushed_out,
            other => panic!("{other:?}"),
        };
        assert_eq!([10, 11, 12, 13].map(|seq| meet(seq, seq)), [false; 4]);
        assert!(meet(14, 14), "the fifth");
        let mut ends = |seq| matches!(joiner.meet((SPI, seq), half(Which::Second, 50), &[2; 30], 0, 15), Met::Joins { .. });
        assert!(ends(11) && !ends(10), "the oldest was given up");
        assert_eq!(joiner.expire(13 + WAIT_NS), 1, "12");
        assert_eq!(joiner.expire(16 + WAIT_NS), 3, "13, 14, and the second half of 10");
        let other_sa = joiner.meet((Spi(0x5000_0040), 11), half(Which::Second, 50), &[2; 30], 0, 15);
        assert_eq!(other_sa, Met::Waits { pushed_out: false });
    }
}
