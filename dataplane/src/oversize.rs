//! What does not fit the path to a peer, by what it is:
//!
//! - TCP is cut into shorter segments ([`recut`]), a super-frame and a single segment alike; now and then its sender is told as well,
//!   since two short packets cost more than one that fits;
//! - IPv4 that allows it becomes fragments inside the tunnel ([`fragment`]);
//! - whatever else there is goes as two sealed packets where both ends join them ([`adit_proto::half`]);
//! - elsewhere the sender of any other IP packet is told what fits ([`icmp`]), as often as [`Answers`] allows.
//!
//! Everything here works on bytes in place, in bounded time, and allocates nothing.

pub mod fragment;
pub mod icmp;
pub mod recut;

use std::hash::{BuildHasher, RandomState};

use adit_proto::control::Mode;

use crate::limits::ANSWERS_PER_S;
use crate::tap::headers::{self, be16};
use crate::tap::split::Plan;
use crate::tap::vnet::VnetHeader;
use adit_proto::rate_limit::RateLimit;

/// Places for senders; a power of two.
const SENDERS: usize = 256;

/// "Don't Fragment" in the word of flags and offset.
const DONT_FRAGMENT: u16 = 0x4000;

/// What is to be done with a frame that does not fit.
#[derive(Debug)]
pub enum Remedy {
    /// Seal the segments of this plan.
    Recut(Plan),
    /// Seal the fragments of each segment.
    Fragment,
    /// It cannot be cut: send it as two halves, or tell the sender, if it may be told.
    Answer,
}

/// Decides for a frame with a segment longer than `fits` bytes. The frame begins at `start` of the buffer that the plan will be
/// given. When it is to be re-cut, its checksum field may have become that of a super-frame.
pub fn remedy(mode: Mode, header: &VnetHeader, plan: &Plan, frame: &mut [u8], start: usize, fits: usize) -> Remedy {
    let recut = if plan.is_super_frame() {
        plan.tcp_header(frame).filter(|tcp| recut::may_be_cut(tcp)).and_then(|_| plan.shortened(fits))
    } else {
        recut::single(mode, header, frame, start, fits)
    };
    match recut {
        Some(plan) => Remedy::Recut(plan),
        None if may_be_fragmented(mode, frame) => Remedy::Fragment,
        None => Remedy::Answer,
    }
}

fn may_be_fragmented(mode: Mode, frame: &[u8]) -> bool {
    matches!(headers::network(mode, frame), Some((l3, false)) if be16(frame, l3 + 6) & DONT_FRAGMENT == 0)
}

/// How many ICMP messages may still be sent: so many by a worker, and so many to one sender, so that none takes the share of the
/// others.
pub struct Answers {
    all: RateLimit,
    per_sender: u8,
    senders: Box<[(u32, u8)]>,
    hash: RandomState,
}

impl Answers {
    pub fn new(per_sender: u8) -> Answers {
        Answers {
            all: RateLimit::new(ANSWERS_PER_S),
            per_sender,
            senders: vec![(0, 0); SENDERS].into_boxed_slice(),
            hash: RandomState::new(),
        }
    }

    /// Whether the sender with this address may be told something; then it counts as told.
    pub fn take(&mut self, sender: &[u8], now_us: u64) -> bool {
        let second = (now_us / 1_000_000) as u32;
        let place = &mut self.senders[self.hash.hash_one(sender) as usize % SENDERS];
        if place.0 != second {
            *place = (second, 0);
        }
        if place.1 >= self.per_sender || !self.all.take(1, now_us) {
            return false;
        }
        place.1 += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::ANSWERS_PER_SENDER_S;

    #[test]
    fn one_sender_gets_its_share_and_all_together_theirs() {
        let mut answers = Answers::new(ANSWERS_PER_SENDER_S);
        let reported =
            |answers: &mut Answers, sender: u32, now_us| (0..100).filter(|_| answers.take(&sender.to_be_bytes(), now_us)).count();
        assert_eq!(reported(&mut answers, 1, 5_000_000), 10);
        assert_eq!(reported(&mut answers, 1, 5_999_999), 0);
        assert_eq!(reported(&mut answers, 1, 6_000_000), 10);
        let all: usize = (0..5000).map(|sender| reported(&mut answers, sender, 9_000_000)).sum();
        assert!((500..=1000).contains(&all), "{all}");
    }
}
