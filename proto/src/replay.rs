//! The anti-replay window (RFC 6479) on 64-bit sequence numbers.
//!
//! A ring of 64-bit blocks, one bit per sequence number. The window ends at the highest number accepted. Moving it clears
//! whole blocks and never shifts bits. The ring has twice the blocks of the window (the RFC needs only one more), so that an
//! index is a mask.

use crate::limits::{REPLAY_WINDOW_MAX, REPLAY_WINDOW_MIN};

const BLOCK_BITS: u64 = 64;

/// Why a sequence number is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It was accepted before.
    Seen,
    /// It is left of the window.
    Old,
}

/// Which sequence numbers were accepted. One owner, plain integers; no allocation after [`Window::new`].
#[derive(Clone, Debug)]
pub struct Window {
    /// The highest number accepted.
    top: u64,
    size: u64,
    /// Number of blocks − 1.
    mask: u64,
    blocks: Box<[u64]>,
}

impl Window {
    /// Whether a window can have this size: a power of two from 64 to 16384.
    pub const fn is_size(size: u16) -> bool {
        size.is_power_of_two() && size >= REPLAY_WINDOW_MIN && size <= REPLAY_WINDOW_MAX
    }

    /// A window of `size` packets in which every number up to and including `top` counts as seen; `None` when it cannot
    /// have this size.
    pub fn new(size: u16, top: u64) -> Option<Window> {
        if !Window::is_size(size) {
            return None;
        }
        let size = u64::from(size);
        let count = 2 * size / BLOCK_BITS;
        let mut window = Window { top, size, mask: count - 1, blocks: vec![u64::MAX; count as usize].into_boxed_slice() };
        *window.block(top) = u64::MAX >> (BLOCK_BITS - 1 - top % BLOCK_BITS);
        Some(window)
    }

    /// The highest number accepted.
    #[inline]
    pub fn top(&self) -> u64 {
        self.top
    }

    /// Size in packets.
    #[inline]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Whether a packet with this number may be opened. Cheap; nothing changes.
    #[inline]
    pub fn check(&self, seq: u64) -> Result<(), Verdict> {
        if seq > self.top {
            return Ok(());
        }
        if self.top - seq >= self.size {
            return Err(Verdict::Old);
        }
        let block = self.blocks[self.index(seq)];
        if (block >> (seq % BLOCK_BITS)) & 1 == 0 { Ok(()) } else { Err(Verdict::Seen) }
    }

    /// Marks a number as seen and moves the window to it when it is higher. Only after its packet was authenticated;
    /// a number left of the window changes nothing.
    #[inline]
    pub fn accept(&mut self, seq: u64) {
        if seq > self.top {
            let (from, to) = (self.top / BLOCK_BITS, seq / BLOCK_BITS);
            for step in 1..=(to - from).min(self.mask + 1) {
                self.blocks[(from.wrapping_add(step) & self.mask) as usize] = 0;
            }
            self.top = seq;
        } else if self.top - seq >= self.size {
            return;
        }
        *self.block(seq) |= 1 << (seq % BLOCK_BITS);
    }

    #[inline]
    fn index(&self, seq: u64) -> usize {
        ((seq / BLOCK_BITS) & self.mask) as usize
    }

    #[inline]
    fn block(&mut self, seq: u64) -> &mut u64 {
        let index = self.index(seq);
        &mut self.blocks[index]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// The same window as a set of all numbers accepted.
    struct Model {
        top: u64,
        start: u64,
        size: u64,
        seen: BTreeSet<u64>,
    }

    impl Model {
        fn check(&self, seq: u64) -> Result<(), Verdict> {
            match seq {
                _ if seq > self.top => Ok(()),
                _ if self.top - seq >= self.size => Err(Verdict::Old),
                _ if seq <= self.start || self.seen.contains(&seq) => Err(Verdict::Seen),
                _ => Ok(()),
            }
        }

        fn accept(&mut self, seq: u64) {
            self.top = self.top.max(seq);
            self.seen.insert(seq);
        }
    }

    #[test]
    fn sizes_are_powers_of_two_from_64_to_16384() {
        let sizes: Vec<u16> = (0..=u16::MAX).filter(|&size| Window::new(size, 0).is_some()).collect();
        assert_eq!(sizes, [64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384]);
    }

    #[test]
    fn everything_up_to_the_start_counts_as_seen() {
        let window = Window::new(64, 100).unwrap();
        assert_eq!(window.check(100), Err(Verdict::Seen));
        assert_eq!(window.check(37), Err(Verdict::Seen));
        assert_eq!(window.check(36), Err(Verdict::Old));
        assert_eq!(window.check(101), Ok(()));
        assert_eq!(Window::new(64, 0).unwrap().check(0), Err(Verdict::Seen));
    }

    #[test]
    fn the_whole_window_is_usable_and_not_one_more() {
        for size in [64u16, 4096, 16384] {
            let mut window = Window::new(size, 0).unwrap();
            let top = 3 * u64::from(size) + 17;
            window.accept(top);
            let oldest = top - u64::from(size) + 1;
            assert_eq!(window.check(oldest), Ok(()));
            assert_eq!(window.check(oldest - 1), Err(Verdict::Old));
            for seq in oldest..top {
                assert_eq!(window.check(seq), Ok(()), "{seq}");
                window.accept(seq);
                assert_eq!(window.check(seq), Err(Verdict::Seen), "{seq}");
            }
        }
    }

    #[test]
    fn the_last_sequence_number_works() {
        let mut window = Window::new(64, u64::MAX - 70).unwrap();
        window.accept(u64::MAX);
        assert_eq!(window.top(), u64::MAX);
        assert_eq!(window.check(u64::MAX), Err(Verdict::Seen));
        assert_eq!(window.check(u64::MAX - 1), Ok(()));
        assert_eq!(window.check(0), Err(Verdict::Old));
    }

    proptest! {
        #[test]
        fn behaves_like_a_set(size_log in 6u32..13, start in prop_oneof![Just(0), 0..10_000u64, any::<u64>().prop_map(|s| s >> 1)],
                              steps in prop::collection::vec((prop_oneof![8 => -9000i64..200, 1 => 0i64..20_000, 1 => any::<i32>().prop_map(i64::from)], any::<bool>()), 1..400)) {
            let size = 1u16 << size_log;
            let mut window = Window::new(size, start).unwrap();
            let mut model = Model { top: start, start, size: u64::from(size), seen: BTreeSet::new() };
            for (step, authentic) in steps {
                let seq = model.top.saturating_add_signed(step % (3 * i64::from(size)).max(1) + step / 4096);
                prop_assert_eq!(window.check(seq), model.check(seq), "{}", seq);
                if authentic && model.check(seq).is_ok() {
                    window.accept(seq);
                    model.accept(seq);
                }
                prop_assert_eq!(window.top(), model.top);
                prop_assert_eq!(window.check(seq), model.check(seq), "{}", seq);
            }
        }

        #[test]
        fn accepting_an_old_number_changes_nothing(top in 64u64..1 << 40, back in 64u64..1 << 20) {
            let mut window = Window::new(64, top).unwrap();
            let before = window.clone();
            window.accept(top.saturating_sub(back));
            prop_assert_eq!(before.blocks, window.blocks);
        }
    }
}
