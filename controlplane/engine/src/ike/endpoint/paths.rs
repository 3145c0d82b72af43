//! Paths in the endpoint: what the data plane and the underlay say of them, and what they ask of IKE.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use adit_proto::control::PeerId;

use super::super::agenda::Task;
use super::super::candidates::Candidate;
use super::super::config::Now;
use super::super::facts::{IkeSpis, SaId};
use super::super::mobike;
use super::super::sa::IkeSa;
use super::super::stream_keys::StreamKey;
use super::Endpoint;
use crate::path::{Hop, Moves, Origin, PathStatus, Paths, StreamId, Terms, Unfit, Wish, unspecified};

/// Of many peers that are to authenticate anew one after the other.
const REAUTHENTICATIONS_APART: Duration = Duration::from_millis(50);

impl Endpoint {
    /// The data plane opened new, authentic packets of a peer that came another way than by the path in use, with so many bytes.
    pub fn handle_path_seen(&mut self, now: Now, peer: PeerId, came: impl Into<Hop>, bytes: u32) {
        let came = came.into();
        let current = self.shared.peers.get(&peer).and_then(|peer| self.sas.get(&peer.current?));
        if current.is_some_and(|sa| !self.shared.stream_keys.may_go(&sa.facts, came)) {
            return;
        }
        self.with_paths(now, |paths| paths.handle_path_seen(now.instant, peer, came, bytes));
    }

    /// A sealed echo of ours came back this way; `rtt` as the data plane measured it.
    pub fn handle_echo_reply(&mut self, now: Now, peer: PeerId, id: u64, came: impl Into<Hop>, rtt: Duration) {
        self.with_paths(now, |paths| paths.handle_echo_reply(now.instant, peer, id, came, rtt));
    }

    /// Packets of the tunnel went to these peers since this was called last: so often that a path is watched closely.
    pub fn handle_traffic(&mut self, now: Now, peers: impl IntoIterator<Item = PeerId>) {
        self.with_paths(now, |paths| peers.into_iter().for_each(|peer| paths.handle_traffic(now.instant, peer)));
    }

    /// A router says that a packet of ours to `remote` was too big: at most `mtu` bytes pass. The caller has seen that it quotes an SPI
    /// of this peer that lives, which nobody beside the way knows. Says whether the peer has a path that leads there.
    pub fn handle_too_big(&mut self, now: Now, peer: PeerId, remote: SocketAddr, mtu: u16) -> bool {
        let mut leads_there = false;
        self.with_paths(now, |paths| leads_there = paths.handle_too_big(now.instant, peer, remote, mtu));
        leads_there
    }

    /// The peer with whom there is an IKE SA that has both these SPIs.
    pub fn peer_of(&self, spis: IkeSpis) -> Option<PeerId> {
        let ours = [SaId(spis.initiator), SaId(spis.responder)];
        ours.iter().filter_map(|id| self.sas.get(id)).find(|sa| sa.facts.spis == spis)?.facts.peer
    }

    /// The kernel did not send something to the peer, an echo or a packet: too big for what it knows of the route by now.
    pub fn handle_unsent(&mut self, now: Now, peer: PeerId) {
        self.with_paths(now, |paths| paths.handle_unsent(now.instant, peer));
    }

    /// Nothing longer than so many bytes is sent from now on, as an outer IP packet.
    pub fn set_mtu_max(&mut self, now: Now, mtu_max: u16) {
        self.with_paths(now, |paths| paths.set_mtu_max(now.instant, mtu_max));
    }

    /// Whether what is too long for a path may come in two packets. Peers are told when they are authenticated; those that are
    /// connected and can be reached authenticate anew for it, one after the other.
    pub fn set_split(&mut self, now: Now, split: bool) {
        if std::mem::replace(&mut self.shared.config.split, split) == split {
            return;
        }
        let concerned = |sa: &&IkeSa| sa.facts.features.adit && sa.session().is_some();
        let sas: Vec<SaId> = self.sas.values().map(|sa| &**sa).filter(concerned).map(|sa| sa.facts.id).collect();
        for (turn, id) in (0..).zip(sas) {
            let at = now.instant + REAUTHENTICATIONS_APART * turn;
            self.with_session(now, id, |session, _| session.proof.standing_mut().want(at));
        }
    }

    /// Whether something can be sent there, and not into the tunnel.
    pub fn reaches(&mut self, remote: SocketAddr) -> bool {
        let hop = Hop::new(unspecified(remote, self.shared.config.nat_port), remote);
        self.shared.paths.judge(hop).is_ok()
    }

    /// Another registration at a relay: no stream is known, and this is the key by which it knows us.
    pub fn begin_streams(&mut self, own: Option<StreamKey>) {
        self.shared.stream_keys.begin(own);
    }

    /// A stream ends at this key, or nobody is there any more. A peer that is met there has to say that the key is its own.
    pub fn set_stream_end(&mut self, stream: StreamId, key: Option<StreamKey>) {
        match key {
            Some(key) => self.shared.stream_keys.know(stream, key),
            None => self.shared.stream_keys.forget(stream),
        }
    }

    /// Our addresses, without those that lead into the tunnel.
    pub fn own_addresses(&mut self) -> Vec<IpAddr> {
        self.shared.paths.addresses()
    }

    /// At these addresses we can perhaps be reached by UDP from now on; the first ones are tried first. Peers that have met us in a stream
    /// are told.
    pub fn set_candidates(&mut self, now: Now, candidates: Vec<Candidate>) {
        if std::mem::replace(&mut self.shared.candidates, candidates.clone()) == candidates {
            return;
        }
        let current: Vec<SaId> = self.shared.peers.values().filter_map(|peer| peer.current).collect();
        for id in current {
            let told = self.sas.get(&id).is_some_and(|sa| sa.facts.features.candidates);
            if told {
                self.with_session(now, id, |session, ctx| {
                    session.want(Task::TellCandidates);
                    // What was in vain from there may not be from here.
                    ctx.shared.paths.look_direct_anyway(now.instant, session.peer, Moves::Nothing);
                });
            }
        }
    }

    /// Addresses or routes of this machine have changed: what goes to a peer may leave from another address now, and peers are told
    /// our other addresses. Of many peers some have their turn a little later.
    pub fn underlay_changed(&mut self, now: Now) {
        self.with_paths(now, |paths| paths.underlay_changed(now.instant));
    }

    /// Our sockets are bound elsewhere from now on: to this address, or to any with this port. Peers that are connected are told where we
    /// are now (RFC 4555).
    pub fn rebind(&mut self, now: Now, listen: SocketAddr) {
        let local = Some(listen).filter(|listen| !listen.ip().is_unspecified());
        self.shared.peers.values_mut().for_each(|peer| peer.local = local);
        self.shared.config.nat_port = listen.port();
        self.with_paths(now, |paths| paths.rebind(now.instant, listen));
    }

    /// A peer with a static key is at one of these addresses, the preferred one first. With echoes the next one is tried when the
    /// one in use is silent, and it is followed to where its echoes come back from.
    ///
    /// # Errors
    /// Nothing may go to any of them.
    pub fn set_static_path(
        &mut self,
        now: Now,
        peer: PeerId,
        hops: Vec<Hop>,
        (terms, from): (Terms, Origin),
    ) -> Result<(), Unfit> {
        let endpoints = hops.iter().map(|hop| hop.site()).collect();
        // It may come from the new ones before it is asked there.
        self.shared.paths.set_terms(peer, terms);
        self.shared.paths.set_origin(peer, from, endpoints);
        self.shared.paths.set_static(now.instant, peer, terms, hops)
    }

    /// What holds of a peer with a static key has changed, and where it is has not.
    pub fn set_static_terms(&mut self, peer: PeerId, terms: Terms) {
        self.shared.paths.set_terms(peer, terms);
    }

    /// A peer with a static key is no more. The data plane forgets its paths with it.
    pub fn remove_static_path(&mut self, peer: PeerId) {
        self.shared.paths.remove(peer);
    }

    /// The paths of a peer, for people and programs.
    pub fn paths(&self, peer: PeerId) -> Vec<PathStatus> {
        self.shared.paths.status(peer)
    }

    /// All paths.
    pub fn all_paths(&self) -> &Paths {
        &self.shared.paths
    }

    fn with_paths(&mut self, now: Now, act: impl FnOnce(&mut Paths)) {
        act(&mut self.shared.paths);
        self.serve_paths(now);
    }

    /// The IKE SA by which a peer can be asked something: the current one, or the one that the peer has just put into its place.
    fn may_ask(&self, now: Now, peer: PeerId, current: SaId) -> SaId {
        let others = self.shared.peers.get(&peer).map(|peer| peer.sas.as_slice()).unwrap_or_default();
        let may = |id: &SaId| {
            let session = self.sas.get(id).and_then(|sa| sa.session());
            session.is_some_and(|session| session.succession.may_speak(now.instant) && !session.succession.holds())
        };
        std::iter::once(current).chain(others.iter().copied()).find(may).unwrap_or(current)
    }

    /// Does what the paths ask of IKE.
    pub(super) fn serve_paths(&mut self, now: Now) {
        while let Some(wish) = self.shared.paths.poll_wish() {
            let (Wish::Prove { peer, .. } | Wish::Moved { peer } | Wish::Answer { peer } | Wish::Announce { peer }) = wish;
            let Some(current) = self.shared.peers.get(&peer).and_then(|peer| peer.current) else { continue };
            if let Wish::Answer { .. } = wish {
                let all = self.shared.peers.get(&peer).map(|peer| peer.sas.clone()).unwrap_or_default();
                all.into_iter().for_each(|id| self.run(now, id, |sa, ctx| sa.wire.answer_withheld(ctx, peer)));
                continue;
            }
            let asks = if let Wish::Prove { .. } = wish { self.may_ask(now, peer, current) } else { current };
            self.run(now, asks, |sa, ctx| match wish {
                Wish::Prove { hop, .. } => sa.prove(ctx, hop),
                Wish::Moved { .. } => sa.on_moved(ctx),
                Wish::Answer { .. } => {}
                Wish::Announce { .. } => {
                    if let Some((facts, session)) = sa.facts_and_session() {
                        let task = mobike::on_addresses_changed(ctx, facts, &session.config, &session.addresses);
                        task.into_iter().for_each(|task| session.want(task));
                    }
                }
            });
        }
    }
}
