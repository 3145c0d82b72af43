//! What peers of a hub may send to all others: rates, and what is taken for a loop.

use std::hash::{BuildHasher, RandomState};

use adit_proto::control::PeerId;
use adit_proto::rate_limit::RateLimit;

use crate::limits::FRAME_REPEATS_MAX;

/// Frames for all that are remembered; one that comes to the place of another takes it.
const RECENT: usize = 1024;

/// What may go to all: of one worker.
pub struct Shares {
    all: RateLimit,
    of_peer: Box<[RateLimit]>,
    /// With a secret: nobody can make two frames that are taken for one.
    hasher: RandomState,
    recent: Box<[Recent; RECENT]>,
}

/// A frame that went to all.
#[derive(Clone, Copy, Default)]
struct Recent {
    print: u32,
    /// The second, less what does not fit.
    at_s: u16,
    times: u8,
}

impl Shares {
    /// So many frames per second, of which one peer has half.
    pub fn new(per_second: u32, max_peers: u16) -> Shares {
        let share = per_second.div_ceil(2);
        Shares {
            all: RateLimit::new(per_second),
            of_peer: (0..max_peers).map(|_| RateLimit::new(share)).collect(),
            hasher: RandomState::new(),
            recent: Box::new([Recent::default(); RECENT]),
        }
    }

    /// Another rate from now on.
    pub fn set_rate(&mut self, per_second: u32) {
        self.all.set_rate(per_second);
        self.of_peer.iter_mut().for_each(|share| share.set_rate(per_second.div_ceil(2)));
    }

    /// Whether a frame for all is one that circles.
    pub fn circles(&mut self, frame: &[u8], now_s: u32) -> bool {
        let hash = self.hasher.hash_one(frame);
        let (print, at_s) = ((hash >> 32) as u32, now_s as u16);
        let place = &mut self.recent[hash as usize % RECENT];
        let times = if (place.print, place.at_s) == (print, at_s) { place.times } else { 0 };
        *place = Recent { print, at_s, times: times.saturating_add(1) };
        times >= FRAME_REPEATS_MAX
    }

    /// Whether a frame of this peer may go to all others.
    pub fn take(&mut self, peer: PeerId, now_us: u64) -> bool {
        self.of_peer.get_mut(usize::from(peer.0)).is_some_and(|share| share.take(1, now_us)) && self.all.take(1, now_us)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_peer_has_half_of_what_all_may_send() {
        let mut shares = Shares::new(100, 3);
        let mut passed = |peer: u16, now_us: u64| (0..200).filter(|_| shares.take(PeerId(peer), now_us)).count();
        assert_eq!((passed(0, 1_000_000), passed(1, 1_000_000), passed(2, 1_000_000)), (50, 50, 0));
        assert_eq!(passed(2, 2_000_000), 50, "a second later");
        assert_eq!(passed(3, 3_000_000), 0, "there is no such peer");
    }

    #[test]
    fn a_frame_that_comes_again_and_again_circles_and_others_do_not() {
        let mut shares = Shares::new(100, 3);
        let mut passed = |frame: &[u8], now_s| (0..100).filter(|_| !shares.circles(frame, now_s)).count();
        assert_eq!(passed(&[7; 60], 1), usize::from(FRAME_REPEATS_MAX));
        assert_eq!((passed(&[7; 60], 1), passed(&[7; 61], 1)), (0, usize::from(FRAME_REPEATS_MAX)));
        assert_eq!(passed(&[7; 60], 2), usize::from(FRAME_REPEATS_MAX), "what was dropped does not circle any more");
        let different = (0..10_000u32).filter(|number| shares.circles(&number.to_be_bytes(), 3)).count();
        assert_eq!(different, 0);
    }
}
