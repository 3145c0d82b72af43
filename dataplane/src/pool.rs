//! The frame pool of a worker: all memory that packets pass through, allocated once, never grown.
//!
//! Receive arena (one slab, filled from the front in every turn so that it stays in the cache) · read buffer of the TAP ·
//! scratch for a frame that goes to several peers · train under construction · room for one sealed echo and for one datagram of the
//! control plane.

use std::ops::Range;

use crate::echo::ECHO_BYTES;
use crate::handover::batch::BATCH_BYTES;
use crate::limits::{
    FRAME_BUFFER, RECEIVE_BYTES_PER_TURN, RECEIVES_PER_TURN, STREAM_BYTES_PER_TURN, TAKEOVER_BYTES_PER_TURN, TAKEOVERS_PER_TURN,
    TRAIN_BYTES_MAX, TRAINS_PER_TURN,
};
use crate::tap::vnet;

/// A receive call is given this much, so that no train is cut off; a hand-off batch of another worker takes as much.
pub const RECEIVE_WINDOW: usize = BATCH_BYTES;
/// What other workers gave, what came in streams and what the socket brings have a budget each. The first two can be overshot by one train
/// less a byte, and the last receive call still needs its window. Frames that are joined out of what these bring take as much again.
pub const ARENA: usize = TAKEOVER_BYTES_PER_TURN + STREAM_BYTES_PER_TURN + RECEIVE_BYTES_PER_TURN + 5 * RECEIVE_WINDOW + SLACK;
/// Rounding up to a cache line behind each train.
const SLACK: usize = 64 * (RECEIVES_PER_TURN + TAKEOVERS_PER_TURN + TRAINS_PER_TURN);

/// Memory of one worker's pool in bytes: the sum that start-up prints.
pub const fn pool_bytes() -> usize {
    ARENA + 2 * FRAME_BUFFER + TRAIN_BUFFER + ECHO_BYTES + INJECT_BYTES
}

/// The longest UDP payload: a message of IKE may be as long, in IP fragments.
pub const INJECT_BYTES: usize = TRAIN_BYTES_MAX;

/// A train, with room for the rounding of its last block.
pub const TRAIN_BUFFER: usize = (TRAIN_BYTES_MAX + 64).next_multiple_of(64);

/// Bytes in front of a frame that was put together: a hub writes the virtio-net header there.
const ROOM_IN_FRONT: usize = 64;
const _: () = assert!(ROOM_IN_FRONT >= vnet::LEN);

/// The receive arena: a slab that is filled from the front and emptied all at once.
pub struct Arena {
    bytes: Box<[u8]>,
    filled: usize,
}

impl Default for Arena {
    fn default() -> Arena {
        Arena { bytes: vec![0; ARENA].into_boxed_slice(), filled: 0 }
    }
}

impl Arena {
    /// The window for the next receive call, if a whole one is left.
    pub fn window(&mut self) -> Option<&mut [u8]> {
        self.bytes.get_mut(self.filled..self.filled + RECEIVE_WINDOW)
    }

    /// Keeps the first `len` bytes of the window; returns where they are.
    pub fn keep(&mut self, len: usize) -> Range<usize> {
        let start = self.filled;
        let end = start + len.min(RECEIVE_WINDOW);
        self.filled = end.next_multiple_of(64).min(self.bytes.len());
        start..end
    }

    /// A place for a frame of `len` bytes that is put together here, with [`ROOM_IN_FRONT`] of it; `None` when this turn has used up
    /// what there is.
    pub fn room(&mut self, len: usize) -> Option<Range<usize>> {
        let start = self.filled + ROOM_IN_FRONT;
        let end = start + len;
        let filled = end.next_multiple_of(64);
        if filled > self.bytes.len() {
            return None;
        }
        self.filled = filled;
        Some(start..end)
    }

    /// Bytes in use.
    pub fn filled(&self) -> usize {
        self.filled
    }

    /// Everything in the arena has been written out.
    pub fn clear(&mut self) {
        self.filled = 0;
    }

    /// The whole slab; ranges given by `keep` index into it.
    pub fn bytes(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

/// Room for one datagram of the control plane.
pub fn inject_buffer() -> Box<[u8]> {
    vec![0; INJECT_BYTES].into_boxed_slice()
}

/// A buffer for one frame with head- and tailroom.
pub fn frame_buffer() -> Box<[u8]> {
    vec![0; FRAME_BUFFER].into_boxed_slice()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_that_overshoots_its_budgets_still_finds_whole_windows() {
        let mut arena = Arena::default();
        let mut fill = |budget: usize, train: usize| {
            let (end, mut trains) = (arena.filled() + budget, 0);
            while arena.filled() < end {
                assert_eq!(arena.window().expect("a window while the budget lasts").len(), RECEIVE_WINDOW);
                arena.keep(train);
                trains += 1;
            }
            trains
        };
        assert_eq!(fill(TAKEOVER_BYTES_PER_TURN, TAKEOVER_BYTES_PER_TURN - 64), 2);
        assert_eq!(fill(RECEIVE_BYTES_PER_TURN, 60_000), 3, "the socket has its budget, whatever was taken over");
        arena.clear();
        assert_eq!(arena.filled(), 0);
    }
}
