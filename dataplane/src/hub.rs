//! A hub, the middle of a star: frames of one peer go on to other peers. Without it frames never go from peer to peer (split horizon).
//!
//! A frame that was opened ([`crate::inbound`]) goes in a hand-off batch to the worker that seals for its peer, be it the same one, and
//! from there the way of a frame from the TAP. What keeps a loop, such as two spokes whose LANs are also joined by a cable, from
//! melting it:
//!
//! - An address that comes from several sides by turns is in dispute for some seconds ([`crate::forward`]), and what it sends to all,
//!   or to nobody known, is dropped meanwhile: whatever circles comes from two sides.
//! - A frame for all that comes again and again, byte for byte, is dropped: it may circle one way only.
//! - Whatever goes to all has a rate, of each peer and of all of them, apart from what this side may send: no spoke takes it from others.
//! - What is for a station on the side from which it came goes nowhere.

use std::hash::{BuildHasher, RandomState};

use adit_proto::control::{ChildId, Mac, PeerId, PeerTag};
use adit_proto::stats::{Count, Gauge};

use crate::config::WORKERS_MAX;
use crate::forward::{HERE, Learned, Route};
use crate::handover::MacUpdate;
use crate::sa::Tables;
use crate::state::{Environment, State};
use adit_proto::rate_limit::RateLimit;

/// Frames for all that are remembered; one that comes to the place of another takes it.
const RECENT: usize = 1024;
/// How often one and the same frame may go to all within a second: protocols repeat themselves a few times, a loop does so without end.
const REPEATS_MAX: u8 = 16;

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
        times >= REPEATS_MAX
    }

    /// Whether a frame of this peer may go to all others.
    pub fn take(&mut self, peer: PeerId, now_us: u64) -> bool {
        self.of_peer.get_mut(usize::from(peer.0)).is_some_and(|share| share.take(1, now_us)) && self.all.take(1, now_us)
    }
}

/// Learns on which side a station is, counts that, and tells the other workers.
pub fn learn(mac: Mac, side: PeerId, state: &mut State, env: &mut Environment) -> Learned {
    let now_s = state.now_s;
    let learned = state.fdb.learn(mac, side, now_s);
    match learned {
        Learned::Known | Learned::Group | Learned::Disputed | Learned::Elsewhere => return learned,
        Learned::Refreshed | Learned::Unreported => {}
        Learned::New => env.port.count(Count::FdbLearned, 1),
        Learned::Moved => env.port.count(Count::FdbMoved, 1),
        Learned::Full => {
            env.port.count(Count::FdbFull, 1);
            return learned;
        }
    }
    env.port.gauge(Gauge::FdbEntries, state.fdb.len() as i64);
    let tables = &mut state.tables;
    state.fdb.report(mac, now_s, || announce(mac, side, tables, env));
    learned
}

/// Tells the other workers on which side a station is. False when one of them has no room for it.
pub fn announce(mac: Mac, side: PeerId, tables: &mut Tables, env: &Environment) -> bool {
    let tag = if side == HERE { Some(PeerTag(0)) } else { tables.peer(side).map(|peer| peer.tag) };
    // Of a peer that is gone there is nothing to be said.
    tag.is_none_or(|tag| env.handover.announce(env.id, MacUpdate { mac, peer: side, tag }))
}

/// How many peers, without `except`, each worker seals for of what worker `reader` has.
pub fn sealers(reader: usize, except: Option<PeerId>, tables: &mut Tables) -> [u64; WORKERS_MAX] {
    let mut peers_of = [0; WORKERS_MAX];
    for n in 0..tables.peer_count() {
        let id = tables.nth_peer(n).filter(|id| Some(*id) != except);
        if let Some(child) = id.and_then(|id| tables.peer(id)).and_then(|peer| peer.child(ChildId::ONLY)) {
            peers_of[child.sealer_for(reader)] += 1;
        }
    }
    peers_of
}

/// In a hub, the peer behind which the station is that a frame is for.
pub fn peer_behind(frame: &[u8], state: &State) -> Option<PeerId> {
    let destination = state.hub.as_ref().and(frame.first_chunk::<6>())?;
    match state.fdb.route(*destination, state.now_s) {
        Route::Peer(peer) if peer != HERE => Some(peer),
        _ => None,
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
        assert_eq!(passed(&[7; 60], 1), usize::from(REPEATS_MAX));
        assert_eq!((passed(&[7; 60], 1), passed(&[7; 61], 1)), (0, usize::from(REPEATS_MAX)));
        assert_eq!(passed(&[7; 60], 2), usize::from(REPEATS_MAX), "what was dropped does not circle any more");
        let different = (0..10_000u32).filter(|number| shares.circles(&number.to_be_bytes(), 3)).count();
        assert_eq!(different, 0);
    }
}
