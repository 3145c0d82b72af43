//! A peer whose packets go in a stream is asked now and then at the addresses where it may be: what goes from host to host is faster, and
//! needs nobody in between. A few are asked at a time, and soon the next ones, until all had their turn.
//!
//! Both ends ask, and both at once where they have just told each other their candidates: what one sends opens the NAT before it for what
//! the other sends. Each moves everything to where it was answered first; where these are two ways, the end that does not lead goes where
//! the requests of the other one come from.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use adit_proto::control::PeerId;

use super::Paths;
use super::hop::Hop;
use super::moves::Moves;
use crate::limits::UNPROVEN_PATHS_MAX;

/// From the move into a stream, or one look, to the next one; each time twice as long, up to the last of these.
const PAUSE_FIRST: Duration = Duration::from_secs(10);
const PAUSE_MAX: Duration = Duration::from_secs(300);
/// The end that does not lead waits longer: where both look, the one that leads decides (RFC 4555 §3.5).
const PAUSE_MORE: Duration = Duration::from_secs(5);
/// From those that are asked at a time to the next ones.
const NEXT_AFTER: Duration = Duration::from_millis(1500);
/// News of where it may be is looked at no more often.
const NEWS_APART: Duration = Duration::from_secs(1);

/// Where a peer is looked for, and when.
#[derive(Debug, Default)]
pub(super) struct Direct {
    pub(super) hops: Vec<Hop>,
    turn: usize,
    /// How many are still to be asked in this look.
    left: usize,
    /// One look is wanted, wherever its packets go now, and what moves to where it answers.
    wanted: Option<Moves>,
    /// When something changed last.
    news: Option<Instant>,
    /// The next look. None where it is not in a stream, or has just come into one.
    pub(super) at: Option<Instant>,
    pause: Duration,
    /// The last time that it was seen in no stream: who goes to and fro is looked for less and less.
    since: Option<Instant>,
}

impl Direct {
    /// Our sockets are bound there.
    pub(super) fn rebind(&mut self, listen: SocketAddr) {
        self.hops.iter_mut().for_each(|hop| *hop = hop.bound_to(listen));
    }

    /// Whether it is looked for though it is in no stream.
    pub(super) fn is_wanted(&self) -> bool {
        self.wanted.is_some()
    }

    /// It goes by UDP.
    fn rest(&mut self, now: Instant) {
        (self.at, self.left) = (None, 0);
        let since = *self.since.get_or_insert(now);
        if now.saturating_duration_since(since) >= PAUSE_MAX {
            self.pause = Duration::ZERO;
        }
    }

    /// Something has changed: what was in vain may not be any more. Who says so all the time is believed once a second.
    fn soon(&mut self, now: Instant) {
        let at = self.news.map_or(now, |news| now.max(news + NEWS_APART));
        self.news = Some(at);
        (self.pause, self.at, self.left, self.turn) = (Duration::ZERO, Some(at), 0, 0);
    }

    /// How many of `all` are to be asked now, `at_a_time` at most. The clock begins to run with the first question.
    fn due(&mut self, now: Instant, leads: bool, (all, at_a_time): (usize, usize)) -> usize {
        if let Some(since) = self.since.take()
            && now.saturating_duration_since(since) >= PAUSE_MAX
        {
            self.pause = Duration::ZERO;
        }
        let is_due = self.at.is_some_and(|at| at <= now);
        if is_due && self.left == 0 {
            self.left = all;
        }
        self.left = self.left.min(all);
        let now_due = if is_due { self.left.min(at_a_time) } else { 0 };
        self.left -= now_due;
        if is_due && self.left > 0 {
            self.at = Some(now + NEXT_AFTER);
        } else if is_due || self.at.is_none() {
            self.pause = (self.pause * 2).clamp(PAUSE_FIRST, PAUSE_MAX);
            self.at = Some(now + self.pause + if leads { Duration::ZERO } else { PAUSE_MORE });
        }
        now_due
    }
}

impl Paths {
    /// A peer that is in a stream may be at the end of one of these, too.
    pub(crate) fn set_direct(&mut self, id: PeerId, hops: Vec<Hop>) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if peer.direct.hops != hops {
            (peer.direct.hops, peer.direct.at) = (hops, None);
            self.set_timer(id);
        }
    }

    /// Addresses or routes are others: it is looked for at once.
    pub(crate) fn look_direct_soon(&mut self, now: Instant, id: PeerId) {
        if let Some(peer) = self.peers.get_mut(&id).filter(|peer| peer.is_in_stream()) {
            peer.direct.soon(now);
            self.set_timer(id);
        }
    }

    /// The peer is elsewhere, or we are: it is looked for at once, though it goes by UDP, and what `moves` says moves to where it answers.
    pub(crate) fn look_direct_anyway(&mut self, now: Instant, id: PeerId, moves: Moves) {
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.direct.wanted = peer.direct.wanted.max(Some(moves));
            peer.direct.soon(now);
            self.set_timer(id);
        }
    }

    /// Looks for the peer at its addresses, if it is time.
    pub(super) fn look_direct(&mut self, now: Instant, id: PeerId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if peer.direct_hops().is_empty() {
            peer.direct.wanted = None;
        }
        if !peer.is_in_stream() && !peer.direct.is_wanted() {
            return peer.direct.rest(now);
        }
        let terms = peer.terms;
        let hops = peer.direct_hops();
        // Without candidates they are few, and each may be where a stranger is by now.
        let at_a_time = if terms.candidates { UNPROVEN_PATHS_MAX } else { 1 };
        let all = if terms.candidates { hops.len() } else { hops.len().min(1) };
        let first = peer.direct.turn;
        let due = peer.direct.due(now, terms.leads, (all, at_a_time));
        peer.direct.turn = first.wrapping_add(due);
        let moves = if peer.is_in_stream() { Moves::Both } else { peer.direct.wanted.unwrap_or(Moves::Nothing) };
        if due > 0 && peer.direct.left == 0 {
            peer.direct.wanted = None;
        }
        for turn in 0..due {
            let hop = hops[first.wrapping_add(turn) % hops.len()];
            let Some(peer) = self.peers.get_mut(&id) else { return };
            let is_used = peer.find(hop).is_some_and(|path| peer.goes_there(path, Moves::Both));
            if !is_used && peer.looks.take(now) {
                // One to which there is no way is passed over; it has its turn again.
                let _ = self.look_with(now, id, hop, moves);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::instant;

    #[test]
    fn all_are_asked_a_few_at_a_time_and_never_more_than_there_are() {
        let (mut direct, now) = (Direct::default(), instant());
        direct.soon(now);
        assert_eq!((direct.due(now, true, (5, 3)), direct.at), (3, Some(now + NEXT_AFTER)));
        // Meanwhile the peer has named fewer.
        let next = now + NEXT_AFTER;
        assert_eq!((direct.due(next, true, (0, 3)), direct.at), (0, Some(next + PAUSE_FIRST)));
        let later = next + PAUSE_FIRST;
        assert_eq!((direct.due(later, true, (2, 3)), direct.at), (2, Some(later + 2 * PAUSE_FIRST)));
        assert_eq!(direct.due(later, true, (2, 3)), 0, "it is not time");
    }

    #[test]
    fn news_without_end_is_looked_at_once_a_second() {
        let (mut direct, start) = (Direct::default(), instant());
        let mut asked = 0;
        for turn in 0..100 {
            let now = start + Duration::from_millis(100) * turn;
            direct.soon(now);
            asked += direct.due(now, true, (1, 3));
        }
        assert!((1..=11).contains(&asked), "{asked} in ten seconds");
    }
}
