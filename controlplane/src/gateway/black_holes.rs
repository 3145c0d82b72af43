//! What the log says of paths on which large packets vanish while small ones arrive: once an hour for each path, with how often it came,
//! and that they arrive again. Pure.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use adit_proto::control::{PathId, PeerId};

use crate::trouble::repeated;

/// A path on which it happens again and again is told of again after so long.
const AGAIN: Duration = Duration::from_secs(3600);

/// The paths of all peers.
#[derive(Debug, Default)]
pub struct BlackHoles(HashMap<(PeerId, PathId), Known>);

/// One path.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    /// The largest packets that are sent, and those before there were only smaller ones.
    mtu: u16,
    fell_from: u16,
    reported: Option<Instant>,
    /// How often it came since then.
    times: u64,
    /// What must arrive again before the end of what was told is told.
    until: Option<u16>,
}

impl BlackHoles {
    /// Packets of at most `mtu` bytes are sent on the path from now on. Gives the line where that is the end of what was told.
    pub fn set(&mut self, peer: PeerId, path: PathId, mtu: u16) -> Option<String> {
        let known = self.0.entry((peer, path)).or_default();
        if mtu < known.mtu {
            known.fell_from = known.mtu;
        }
        known.mtu = mtu;
        known.until.take_if(|until| mtu >= *until).map(|_| format!("packets of {mtu} bytes arrive again"))
    }

    /// Above `mtu` bytes all vanish. Gives the line, and whether it is to be read.
    pub fn found(&mut self, now: Instant, peer: PeerId, path: PathId, mtu: u16) -> (String, bool) {
        let known = self.0.entry((peer, path)).or_default();
        let line = format!("packets above {mtu} bytes vanish on the way, smaller ones arrive: only these are sent from now on");
        if known.reported.is_some_and(|reported| now.saturating_duration_since(reported) < AGAIN) {
            known.times = known.times.saturating_add(1);
            return (line, false);
        }
        known.reported = Some(now);
        // The smaller size may have been set before this was told.
        known.until = Some(if known.mtu > mtu { known.mtu } else { known.fell_from.max(mtu.saturating_add(1)) });
        (format!("{line}{}", repeated(std::mem::take(&mut known.times))), true)
    }

    /// The path is not there any more.
    pub fn remove(&mut self, peer: PeerId, path: PathId) {
        self.0.remove(&(peer, path));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: PeerId = PeerId(3);
    const PATH: PathId = PathId::FIRST;

    #[test]
    fn the_end_of_a_black_hole_is_told_once_as_much_arrives_as_before() {
        // Whichever comes first of the smaller size and why it is set.
        for is_set_first in [false, true] {
            let (mut holes, now) = (BlackHoles::default(), Instant::now());
            assert_eq!(holes.set(PEER, PATH, 1500), None);
            if is_set_first {
                assert_eq!(holes.set(PEER, PATH, 1100), None);
            }
            assert!(holes.found(now, PEER, PATH, 1100).1);
            assert_eq!((holes.set(PEER, PATH, 1100), holes.set(PEER, PATH, 1280)), (None, None), "it looks for the largest");
            assert_eq!(holes.set(PEER, PATH, 1500).as_deref(), Some("packets of 1500 bytes arrive again"));
            assert_eq!(holes.set(PEER, PATH, 1500), None);
        }
    }

    #[test]
    fn what_comes_again_and_again_is_told_once_an_hour_with_how_often_it_came() {
        let (mut holes, start) = (BlackHoles::default(), Instant::now());
        let mut reported = Vec::new();
        for s in (0..7300).step_by(10) {
            reported.extend(holes.set(PEER, PATH, 1500).map(|line| (s, line)));
            let (line, news) = holes.found(start + Duration::from_secs(s), PEER, PATH, 1100);
            reported.extend(news.then_some((s, line)));
            holes.set(PEER, PATH, 1100);
        }
        let at: Vec<u64> = reported.iter().map(|(s, _)| *s).collect();
        assert_eq!(at, [0, 10, 3600, 3610, 7200, 7210], "each with its end");
        assert!(reported[2].1.ends_with("; the same 359 times since it was reported last"), "{}", reported[2].1);
        holes.remove(PEER, PATH);
        assert!(holes.0.is_empty());
    }
}
