//! What a gateway leaves to the next process, and how that one goes on with it: see [`crate::ike::snapshot`].

use adit_proto::control::Spi;
use adit_proto::ike::Delete;
use zeroize::Zeroizing;

use super::super::cause::Cause;
use super::super::config::{Now, PeerId};
use super::super::connection::ConnectionState;
use super::super::context::{Ctx, Peer};
use super::super::facts::SaId;
use super::super::mobike;
use super::super::sa::IkeSa;
use super::super::snapshot::contents::Contents;
use super::super::snapshot::{BootClock, RestoreError, record};
use super::Endpoint;

/// What came back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// IKE SAs that go on.
    pub ike_sas: usize,
    /// IKE SAs of peers that are not configured any more, or whose number has another name now, or whose record makes no sense.
    /// They are forgotten; the peers find out by themselves.
    pub forgotten: usize,
    /// IKE SAs whose peer has other credentials or identities in the configuration than those under which it was
    /// authenticated, by peer. They are deleted, the peers are told so, and have to authenticate anew.
    pub revoked: Vec<PeerId>,
    /// The inbound SPIs that have an owner. Every other SA in the data plane is to be removed by the shell. One that the data
    /// plane does not have is to be reported with [`Endpoint::lost_inbound`].
    pub inbound: Vec<Spi>,
    /// The outbound SPIs, by peer, that are in use. One that the data plane does not have, though it has a worker for its lane,
    /// is to be reported with [`Endpoint::lost_outbound`].
    pub outbound: Vec<(PeerId, Spi)>,
}

impl Endpoint {
    /// Everything that a successor needs, to be kept secret. To be written whenever [`Endpoint::take_changed`] says so, before
    /// the next datagram is sent. Where it cannot be written, an older one must not be left in its place: message ids and
    /// SAs would be out of step.
    pub fn snapshot(&mut self, clock: BootClock) -> Zeroizing<Vec<u8>> {
        self.snapshot_within(clock, usize::MAX).0
    }

    /// The same in so many bytes at most, if that is not far too little. Nothing is in it, nor in the changes behind it, of the peers whose IKE
    /// SAs take most of the room, until they have some: they are given, too, and a successor has to connect them anew.
    pub fn snapshot_within(&mut self, clock: BootClock, most: usize) -> (Zeroizing<Vec<u8>>, Vec<PeerId>) {
        let bytes = self.kept.snapshot((clock, most), &self.sas, &mut self.shared);
        (bytes, self.kept.left_out().iter().copied().collect())
    }

    /// What is another than in the snapshot, or the changes, that were asked for last. To be put behind them, instead of a new
    /// snapshot: it costs as much as has changed, and not as much as there is. `None` before the first snapshot.
    pub fn changes(&mut self) -> Option<Zeroizing<Vec<u8>>> {
        self.kept.changes(&self.sas, &mut self.shared)
    }

    /// Goes on where the process before this one was: `bytes` is a snapshot and all changes behind it. To be called once, after
    /// all peers have been set and before anything else. It sends nothing, except to a peer with other credentials that its IKE SA is deleted.
    ///
    /// # Errors
    /// The bytes are no snapshot. Then nothing has changed, and the peers have to be connected anew.
    pub fn restore(&mut self, now: Now, clock: BootClock, bytes: &[u8]) -> Result<Restored, RestoreError> {
        let contents = Contents::read(bytes)?;
        let clock = clock.since(contents.epoch);
        for peer in self.shared.peers.values_mut() {
            let Some(mark) = contents.peers.get(&peer.trust.name) else { continue };
            peer.connection.wanted |= mark.wanted;
            peer.connection.held |= mark.held;
        }
        for (peer, (remote, size)) in contents.sizes {
            // It is a hint: what the path carries now is proven anew.
            self.shared.paths.remember_size(peer, remote.into(), size);
        }
        let mut restored = Restored::default();
        for bytes in contents.records.into_values() {
            let mut ctx = Ctx::new(now, &mut *self.random, &mut self.shared);
            let Some(sa) = record::read(&mut ctx, clock, bytes) else {
                restored.forgotten += 1;
                continue;
            };
            match self.trusted(&sa) {
                Ok(()) => {
                    restored.ike_sas += 1;
                    self.adopt(now, sa);
                }
                Err(peer) => {
                    restored.revoked.push(peer);
                    self.revoke(now, sa);
                }
            }
        }
        self.forget_lost_predecessors();
        self.choose_current(now);
        for peer in &restored.revoked {
            if self.shared.peers.get(peer).is_some_and(|peer| peer.current.is_none()) {
                self.lost(now, *peer, Cause::TrustChanged, None);
            }
        }
        for session in self.sas.values().filter_map(|sa| sa.session()) {
            restored.inbound.extend(session.children.iter().map(|child| child.inbound));
            restored.inbound.extend(session.children.draining_inbound().iter().map(|(_, spi)| *spi));
            let sending = session.children.iter().filter(|child| child.is_sending()).map(|child| child.outbound);
            let sending = sending.chain(session.children.draining_outbound().iter().map(|draining| draining.outbound));
            restored.outbound.extend(sending.map(|spi| (session.peer, spi)));
        }
        Ok(restored)
    }

    /// Whether the configuration still trusts the peer as it did when this IKE SA was authenticated; whose it is, if not.
    fn trusted(&self, sa: &IkeSa) -> Result<(), PeerId> {
        let Some(session) = sa.session() else { return Ok(()) };
        let trust = self.shared.peers.get(&session.peer).map(|peer| peer.trust);
        if trust.as_ref() == Some(session.proof.trust()) { Ok(()) } else { Err(session.peer) }
    }

    fn adopt(&mut self, now: Now, sa: IkeSa) {
        let id = sa.facts.id;
        self.list(now, sa);
        self.run(now, id, |sa, _| {
            if let Some((facts, session)) = sa.facts_and_session() {
                let task = mobike::confirms_path(facts, session.original_initiator);
                task.into_iter().for_each(|task| session.want(task));
            }
        });
    }

    /// Takes an IKE SA back only to delete it. Its Child SAs have no owner any more.
    fn revoke(&mut self, now: Now, mut sa: IkeSa) {
        let id = sa.facts.id;
        if let Some(session) = sa.session_mut() {
            session.children.disown().into_iter().for_each(|spi| self.shared.spis.release(spi));
        }
        self.list(now, sa);
        self.run(now, id, |sa, ctx| sa.close(ctx, vec![Delete::ike().into()], Cause::TrustChanged));
    }

    fn list(&mut self, now: Now, sa: IkeSa) {
        if let Some(peer) = sa.facts.peer.and_then(|peer| self.shared.peers.get_mut(&peer)) {
            peer.sas.push(sa.facts.id);
        }
        self.put_back(now, Box::new(sa));
    }

    /// Who was to inherit from an IKE SA that is not there any more has nothing to wait for.
    fn forget_lost_predecessors(&mut self) {
        let there: Vec<SaId> = self.sas.keys().copied().collect();
        for session in self.sas.values_mut().filter_map(|sa| sa.session_mut()) {
            if session.succession.predecessor().is_some_and(|id| there.binary_search(&id).is_err()) {
                session.succession.forget_predecessor();
            }
        }
    }

    /// Every peer with an IKE SA is established.
    fn choose_current(&mut self, now: Now) {
        let rank = |id: &SaId| {
            let session = self.sas.get(id)?.session().filter(|one| !one.succession.is_going())?;
            let own = !session.succession.has_predecessor() && !session.succession.holds();
            Some((own, session.children.len(), session.lifetimes.established()))
        };
        let best = |peer: &Peer| peer.sas.iter().filter(|id| rank(id).is_some()).max_by_key(|id| rank(id)).copied();
        let chosen: Vec<_> = self.shared.peers.iter().filter_map(|(id, peer)| Some((*id, best(peer)?))).collect();
        for (peer, current) in chosen {
            self.shared.set_current(peer, Some(current));
            let spis = self.sas.get(&current).map(|sa| sa.facts.spis);
            let identity = self.sas.get(&current).and_then(|sa| sa.session()).map(|session| session.proof.remote_id().clone());
            if let Some(peer) = self.shared.peers.get_mut(&peer) {
                peer.connected_as = identity.unwrap_or_default();
            }
            self.shared.enter(now, peer, ConnectionState::Established, None, spis);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::ike::config::EndpointConfig;
    use crate::ike::event::Event;
    use crate::ike::testing::instant;
    use crate::path::{Follow, Hop, Origin, PathEvent, Terms};

    /// Echoes of a peer with a static key for so many seconds, of which those up to `carries` bytes come back. Gives all sizes.
    fn echoes(endpoint: &mut Endpoint, from_s: u64, seconds: u64, carries: u16) -> Vec<u16> {
        let mut sizes = Vec::new();
        for ms in (from_s * 1000..(from_s + seconds) * 1000).step_by(50) {
            let now = at(ms);
            endpoint.handle_timeout(now);
            let events: Vec<Event> = std::iter::from_fn(|| endpoint.poll_event()).collect();
            for event in events {
                let Event::Path(PathEvent::Echo { peer, id, size, .. }) = event else { continue };
                sizes.push(size);
                if size <= carries {
                    let came = hop();
                    endpoint.handle_echo_reply(now, peer, id, came, Duration::from_millis(10));
                }
            }
        }
        sizes
    }

    fn at(ms: u64) -> Now {
        Now { instant: instant() + Duration::from_millis(ms), unix: 0 }
    }

    fn hop() -> Hop {
        Hop::new(([192, 0, 2, 1], 4500).into(), ([198, 51, 100, 1], 4500).into())
    }

    #[test]
    fn with_a_static_key_the_next_process_begins_at_the_size_proven() {
        let clock = BootClock::new(instant(), 1_000_000);
        let begun = || {
            let mut number = 0_u64;
            let random = move |out: &mut [u8]| {
                number += 1;
                out.iter_mut().zip(number.to_le_bytes().iter().cycle()).for_each(|(byte, digit)| *byte = *digit);
            };
            let mut endpoint = Endpoint::new(EndpointConfig::default(), Box::new(random));
            let terms = Terms {
                echo: true,
                split: false,
                ike: false,
                follow: Follow::Both,
                leads: false,
                local_fixed: false,
                candidates: false,
            };
            endpoint.set_static_path(at(0), PeerId(3), vec![hop()], (terms, Origin::Anywhere)).expect("a way");
            endpoint
        };
        let first_hope = |bytes: &[u8]| {
            let mut next = begun();
            assert_eq!(next.restore(at(0), clock, bytes), Ok(Restored::default()));
            echoes(&mut next, 0, 1, 0)[0]
        };
        let mut endpoint = begun();
        echoes(&mut endpoint, 0, 10, 1400);
        assert!(endpoint.take_changed());
        let snapshot = endpoint.snapshot(clock);
        assert_eq!(first_hope(&snapshot), 1400);
        assert!(!endpoint.take_changed());
        // What it becomes later stands behind it.
        let now = at(11_000);
        assert!(endpoint.handle_too_big(now, PeerId(3), hop().remote().address().unwrap(), 1300));
        echoes(&mut endpoint, 11, 10, 1300);
        assert!(endpoint.take_changed());
        let changes = endpoint.changes().expect("a snapshot was made");
        assert_eq!(first_hope(&[snapshot.as_slice(), changes.as_slice()].concat()), 1300);
        // That it is no more, too: whoever gets the number next begins as any other.
        endpoint.remove_static_path(PeerId(3));
        assert!(endpoint.take_changed());
        let gone = endpoint.changes().expect("a snapshot was made");
        assert_eq!(first_hope(&[snapshot.as_slice(), changes.as_slice(), gone.as_slice()].concat()), 1500);
        assert_eq!(first_hope(&endpoint.snapshot(clock)), 1500);
    }
}
