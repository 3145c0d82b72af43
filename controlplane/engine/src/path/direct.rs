//! A peer whose packets go in a stream is asked now and then at the addresses where it may be: what goes from host to host is faster, and
//! needs nobody in between. Where it answers, everything moves, as with any other proof.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use adit_proto::control::PeerId;

use super::Paths;
use super::hop::Hop;

/// From the move into a stream, or one look, to the next one; each time twice as long, up to the last of these.
const PAUSE_FIRST: Duration = Duration::from_secs(10);
const PAUSE_MAX: Duration = Duration::from_secs(300);
/// The end that does not lead waits longer: where both look, the one that leads decides (RFC 4555 §3.5).
const PAUSE_MORE: Duration = Duration::from_secs(5);

/// Where a peer is looked for, and when.
#[derive(Debug, Default)]
pub(super) struct Direct {
    pub(super) hops: Vec<Hop>,
    turn: usize,
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

    /// It goes by UDP.
    fn rest(&mut self, now: Instant) {
        self.at = None;
        let since = *self.since.get_or_insert(now);
        if now.saturating_duration_since(since) >= PAUSE_MAX {
            self.pause = Duration::ZERO;
        }
    }

    /// Something has changed: what was in vain may not be any more.
    fn soon(&mut self, now: Instant) {
        (self.pause, self.at) = (Duration::ZERO, Some(now));
    }

    /// Whether it is time for a look. The clock begins to run with the first question.
    fn is_due(&mut self, now: Instant, leads: bool) -> bool {
        if let Some(since) = self.since.take()
            && now.saturating_duration_since(since) >= PAUSE_MAX
        {
            self.pause = Duration::ZERO;
        }
        let is_due = self.at.is_some_and(|at| at <= now);
        if is_due || self.at.is_none() {
            self.pause = (self.pause * 2).clamp(PAUSE_FIRST, PAUSE_MAX);
            self.at = Some(now + self.pause + if leads { Duration::ZERO } else { PAUSE_MORE });
        }
        is_due
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
    pub(super) fn look_direct_soon(&mut self, now: Instant, id: PeerId) {
        if let Some(peer) = self.peers.get_mut(&id).filter(|peer| peer.is_in_stream()) {
            peer.direct.soon(now);
        }
    }

    /// Looks for the peer at one of its addresses, if it is time.
    pub(super) fn look_direct(&mut self, now: Instant, id: PeerId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if !peer.is_in_stream() {
            return peer.direct.rest(now);
        }
        let leads = peer.terms.leads;
        let hops = peer.direct_hops();
        if hops.is_empty() || !peer.direct.is_due(now, leads) {
            return;
        }
        let hop = hops[peer.direct.turn % hops.len()];
        peer.direct.turn = peer.direct.turn.wrapping_add(1);
        // One to which there is no way is passed over; it has its turn again.
        let _ = self.look_there(now, id, hop);
    }
}
