//! What the code of an IKE SA may touch beyond itself: time, randomness, the tables of the gateway, and what goes out.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use adit_proto::control::{PeerId, Spi};
use adit_proto::ike::IkeSpi;

use zeroize::Zeroizing;

use crate::crypto::IkeKeys;
use crate::random::Random;
use crate::rate_limit::Bucket;

use super::admission::Admission;
use super::candidates::Candidate;
use super::cause::Cause;
use super::child_ids::ChildIds;
use super::clients::Clients;
use super::config::{EndpointConfig, Now, PeerConfig};
use super::connection::{Connection, ConnectionState};
use super::counters::Counters;
use super::directory::Directory;
use super::event::{After, Event, Transmit};
use super::explain::Record;
use super::facts::{Facts, IkeSpis, SaId};
use super::fragment::Unproven;
use super::key_log::KeyLog;
use super::known::Known;
use super::left::Left;
use super::origins::{Origin, Origins};
use super::remotes::Remotes;
use super::stream_keys::StreamKeys;
use super::trust::Trust;
use super::window::Sent;
use crate::path::{Hop, PathEvent, Paths, Remote, Site, unspecified};
use crate::shown::Shown;

/// ESP SPIs of ours begin here, so that no packet is taken for STUN or IKE (see `adit_proto::demux`).
const ESP_SPI_MIN: u32 = adit_proto::esp::SPI_MIN;
/// The low bits of an inbound SPI name the lane.
const LANE_MASK: u32 = adit_proto::esp::LANE_MASK;
pub use adit_proto::limits::LANES_MAX;

/// A configured peer and what there is of it.
pub(super) struct Peer {
    pub config: Arc<PeerConfig>,
    pub trust: Trust,
    pub connection: Connection,
    /// Where we look for it: configured, or changed by a command.
    pub remotes: Remotes,
    pub local: Option<SocketAddr>,
    /// Where it says that it may be, too.
    pub candidates: Vec<Candidate>,
    /// The IKE SA that has the Child SAs.
    pub current: Option<SaId>,
    /// It wants to be begun with without a Child SA (RFC 6023).
    pub childless: bool,
    /// Who the peer proved to be in it, or in the last one.
    pub connected_as: Shown,
    /// The IKE SA that we are negotiating.
    pub attempt: Option<SaId>,
    /// Every IKE SA of this peer, also those that are being replaced or closed.
    pub sas: Vec<SaId>,
    pub record: Record,
    pub counters: Counters,
    /// IKE SAs that it may begin now.
    pub handshakes: Bucket,
    /// Key exchanges that it may have made now.
    pub key_exchanges: Bucket,
}

impl Peer {
    /// The addresses at which we look for it.
    pub(super) fn endpoints(&self) -> Vec<Site> {
        self.remotes.addresses().map(|address| Site::Address(address.ip())).collect()
    }

    /// The ways to them, which are tried as well where the peer is in a stream.
    pub(super) fn direct(&self, port: u16) -> Vec<Hop> {
        let any = |remote| unspecified(remote, port);
        let from = |remote: SocketAddr| self.local.filter(|local| local.is_ipv4() == remote.is_ipv4()).unwrap_or(any(remote));
        let named = self.candidates.iter().map(|candidate| candidate.address);
        self.remotes
            .addresses()
            .chain(named)
            .map(|remote| Hop::new(SocketAddr::new(from(remote).ip(), port), remote).floated(port))
            .collect()
    }

    /// Whether there is an address where it may be, or one may come.
    pub(super) fn is_looked_for(&self) -> bool {
        self.config.awaits_remotes || self.config.in_streams || !self.remotes.all().is_empty()
    }

    /// Whether we are to connect without being told.
    pub(super) fn begins_by_itself(&self) -> bool {
        self.config.initiate && self.is_looked_for() && !self.connection.held
    }
}

/// Inbound SPIs in use, and by which IKE SA; SPIs of IKE SAs that are taken.
#[derive(Debug, Default)]
pub(super) struct SpiTable {
    esp: BTreeMap<Spi, SaId>,
    /// Of which Child SAs they are.
    pub children: ChildIds,
}

impl SpiTable {
    /// A fresh inbound SPI of ESP on a lane.
    pub(super) fn allocate(&mut self, random: &mut dyn Random, owner: SaId, lane: u8) -> Spi {
        loop {
            let spi = Spi(random.u32() & !LANE_MASK | u32::from(lane) & LANE_MASK);
            if spi.0 >= ESP_SPI_MIN && !self.esp.contains_key(&spi) {
                self.esp.insert(spi, owner);
                return spi;
            }
        }
    }

    pub(super) fn assign(&mut self, spi: Spi, owner: SaId) {
        self.esp.insert(spi, owner);
        self.children.assign(spi, owner);
    }

    pub(super) fn release(&mut self, spi: Spi) {
        self.esp.remove(&spi);
        self.children.release(spi);
    }

    pub(super) fn owner(&self, spi: Spi) -> Option<SaId> {
        self.esp.get(&spi).copied()
    }

    /// Every SPI with its owner.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Spi, SaId)> {
        self.esp.iter().map(|(spi, owner)| (*spi, *owner))
    }
}

/// A fresh SPI for an IKE SA of ours.
pub(super) fn fresh_ike_spi(random: &mut dyn Random) -> IkeSpi {
    loop {
        let spi = IkeSpi(random.u64());
        if !spi.is_zero() {
            return spi;
        }
    }
}

/// What an IKE SA asks of the endpoint, which alone knows the others.
pub(super) enum Action {
    /// This IKE SA has just been authenticated.
    Established { initial_contact: bool },
    /// A new IKE SA, made in a rekey of this one, waits in it. It has no Child SAs yet.
    Successor,
    /// The Child SAs and all that is to be done go to that IKE SA.
    Inherit { successor: SaId, then: Then },
    /// The peer has deleted the IKE SA before that one, so it has that one.
    Confirmed { sa: SaId },
    /// The peer uses this IKE SA, which it made in a rekey of that one, for Child SAs: it has settled the matter.
    Claim { from: SaId },
    /// That IKE SA, made in a rekey that lost, is to be closed by us.
    CloseRedundant { sa: SaId },
    /// That IKE SA, made in a rekey by the peer that lost, is to be closed by the peer.
    ExpectClosed { sa: SaId },
    /// This IKE SA is of no use any more. Its Child SAs have been removed; it may still repeat its last answer.
    Ended(Cause),
    /// A rekey begun by us is under way, or is not any more.
    Rekeying(bool),
    /// This IKE SA is to be authenticated anew, if we can reach the peer.
    Reauthenticate,
    /// The peer has shown that it has this IKE SA, which it authenticated beside another one. `restarted`: it has forgotten that one.
    Proven { restarted: bool },
    /// The peer has deleted this IKE SA, which nothing has replaced so far.
    Deleted,
    /// Whether that peer is still there is to be found out.
    Probe { peer: PeerId },
    /// One of those who come from these addresses under a pattern has to go.
    MakePlace { at: Vec<Site> },
    /// The peer has an SA more: what it has beyond its share goes.
    Grown { peer: PeerId },
    /// This IKE SA, made in a reauthentication, has all its Child SAs: that one is to be deleted at that time.
    Superseded { sa: SaId, at: Instant },
    /// This IKE SA has been authenticated anew: what is late on its Child SAs is for that one, which is used from now on.
    GiveWay { to: SaId, then: Then },
}

/// What becomes of an IKE SA that has nothing left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    /// The peer deletes it.
    Stay,
    /// We delete it.
    Close,
    /// It is deleted.
    End,
}

/// All of the gateway that is not IKE SAs.
pub(super) struct Shared {
    pub config: EndpointConfig,
    pub peers: BTreeMap<PeerId, Peer>,
    pub directory: Directory,
    pub spis: SpiTable,
    pub paths: Paths,
    /// Where we can perhaps be reached by UDP.
    pub candidates: Vec<Candidate>,
    /// Who is at the other ends of streams.
    pub stream_keys: StreamKeys,
    pub admission: Admission,
    /// Those who could not prove who they are.
    pub failures: Origins,
    /// Those who come under patterns.
    pub clients: Clients,
    /// Fragments of those who are not authenticated.
    pub unproven: Unproven,
    /// The addresses of those who are no strangers.
    pub known: Known,
    pub transmits: VecDeque<Transmit>,
    pub events: VecDeque<Event>,
    /// Totals; each peer has its own share as well.
    pub counters: Counters,
    /// Peers with a current IKE SA.
    pub connected: usize,
    /// Those who were connected under a pattern and may come back.
    pub left: Left,
}

/// The surroundings of one call.
pub(super) struct Ctx<'a> {
    pub now: Now,
    pub random: &'a mut dyn Random,
    pub shared: &'a mut Shared,
    pub actions: Vec<Action>,
}

impl<'a> Ctx<'a> {
    pub(super) fn new(now: Now, random: &'a mut dyn Random, shared: &'a mut Shared) -> Ctx<'a> {
        Ctx { now, random, shared, actions: Vec::new() }
    }

    pub(super) fn event(&mut self, event: Event) {
        self.shared.event(event);
    }

    /// Queues an IKE message.
    pub(super) fn transmit(&mut self, hop: &Hop, peer: Option<PeerId>, message: &[u8], after: After) {
        self.shared.transmit(hop, peer, hop.frame(message), after);
    }

    /// Queues an IKE message that may have to be sent again. What we cut smaller ourselves when it does not arrive, nobody else cuts.
    pub(super) fn transmit_all(&mut self, hop: &Hop, peer: Option<PeerId>, sent: &Sent, after: After) {
        for datagram in &sent.datagrams {
            let payload = hop.frame(datagram);
            let fragments = sent.hopeful.is_none() && hop.asks_for_ip_fragments(&payload);
            self.shared.queue(hop, peer, payload, after, fragments);
        }
    }

    /// Counts in the total and, if the peer is known, in its share.
    pub(super) fn count(&mut self, peer: Option<PeerId>, count: impl Fn(&mut Counters)) {
        self.shared.count(peer, count);
    }

    pub(super) fn act(&mut self, action: Action) {
        self.actions.push(action);
    }

    /// Tells the keys of an IKE SA to a protocol analyser, where that was asked for.
    pub(super) fn log_keys(&mut self, spis: IkeSpis, keys: &IkeKeys) {
        if self.shared.config.key_log {
            let [initiator, responder] = [keys.sk_ei(), keys.sk_er()].map(|key| Zeroizing::new(key.to_vec()));
            let suite = keys.suite();
            self.event(Event::KeyLog(Box::new(KeyLog::Ike { spis, suite, initiator, responder })));
        }
    }

    /// What a peer's record of the current negotiation learns.
    pub(super) fn record(&mut self, peer: Option<PeerId>, note: impl FnOnce(&mut Record)) {
        if let Some(peer) = peer.and_then(|peer| self.shared.peers.get_mut(&peer)) {
            note(&mut peer.record);
        }
    }

    /// Random bytes.
    pub(super) fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        self.random.fill(&mut out);
        out
    }
}

impl Shared {
    pub(super) fn count(&mut self, peer: Option<PeerId>, count: impl Fn(&mut Counters)) {
        count(&mut self.counters);
        if let Some(peer) = peer.and_then(|peer| self.peers.get_mut(&peer)) {
            count(&mut peer.counters);
        }
    }

    /// Who answers for what happens in the handshake of an IKE SA.
    pub(super) fn origin(&self, facts: &Facts) -> Origin {
        Origin { address: facts.begun, is_known: self.known.has(facts.begun) }
    }

    /// Where the sockets are bound by which a peer is reached, beside the port of IKE alone.
    pub(super) fn bound_at(&self, peer: PeerId) -> SocketAddr {
        let local = self.peers.get(&peer).and_then(|peer| peer.local).map(|local| local.ip());
        SocketAddr::new(local.unwrap_or([0; 4].into()), self.config.nat_port)
    }

    /// The peer says that it may be there, too. Says whether that is news.
    pub(super) fn set_candidates_of(&mut self, peer: PeerId, all: Vec<Candidate>) -> bool {
        self.peers.get_mut(&peer).is_some_and(|peer| {
            let is_news = peer.candidates != all;
            peer.candidates = all;
            is_news
        })
    }

    /// Where requests of an authenticated IKE SA go: the path of IKE to the peer.
    pub(super) fn hop_of(&self, facts: &Facts) -> Hop {
        facts.peer.and_then(|peer| self.paths.ike_hop(peer)).unwrap_or(facts.hop)
    }

    /// Queues an event behind those about paths, which what follows builds upon.
    pub(super) fn event(&mut self, event: Event) {
        self.take_path_events();
        self.events.push_back(event);
    }

    pub(super) fn take_path_events(&mut self) {
        while let Some(event) = self.paths.poll_event() {
            if let PathEvent::Use { peer, .. } = event {
                self.note_proven(peer);
            }
            self.events.push_back(Event::Path(event));
        }
    }

    /// A peer of IKE has another path, which is proven.
    fn note_proven(&mut self, peer: PeerId) {
        if self.peers.contains_key(&peer) {
            let hops = [self.paths.esp_hop(peer), self.paths.ike_hop(peer)];
            for remote in hops.into_iter().flatten().map(|hop| hop.remote()) {
                self.known.prove(peer, remote);
                if let (Remote::Stream(stream), Some(peer)) = (remote, self.peers.get_mut(&peer)) {
                    peer.remotes.prefer(stream);
                }
            }
        }
    }

    /// Queues a datagram.
    pub(super) fn transmit(&mut self, hop: &Hop, peer: Option<PeerId>, payload: Vec<u8>, after: After) {
        let fragments = hop.asks_for_ip_fragments(&payload);
        self.queue(hop, peer, payload, after, fragments);
    }

    fn queue(&mut self, hop: &Hop, peer: Option<PeerId>, payload: Vec<u8>, after: After, fragments: bool) {
        let path = peer.and_then(|peer| self.paths.find(peer, *hop));
        self.transmits.push_back(Transmit { peer, path, hop: *hop, payload, after, fragments });
    }

    /// Above how many bytes an IKE message of `len` bytes is to be cut on its way to a peer, where IP packets of `hoped` bytes are
    /// hoped to arrive. `None`: no way is too short for it.
    pub(super) fn cut_above(&mut self, peer: Option<PeerId>, hop: &Hop, len: usize, hoped: u16) -> Option<usize> {
        let message = |datagram: u16| usize::from(datagram).saturating_sub(hop.overhead());
        let most = self.config.datagram_max;
        if len <= message(most.min(hop.floor())) {
            return None;
        }
        // Now the kernel may have to be asked.
        Some(message(most.min(self.paths.sure_size(peer, *hop, hoped))))
    }

    /// The IKE SA that has the Child SAs of a peer is another one, or there is none.
    pub(super) fn set_current(&mut self, id: PeerId, current: Option<SaId>) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let before = std::mem::replace(&mut peer.current, current);
        self.connected = self.connected + usize::from(current.is_some()) - usize::from(before.is_some());
        let is_client = peer.config.remote_id.exact().is_none();
        if let (true, Some(_), None, Some(hop)) = (is_client, before, current, self.paths.ike_hop(id)) {
            self.left.remember(&peer.connected_as, hop.site(), self.config.limits.sessions);
        }
    }

    /// Moves a connection to a state and tells the shell if that is news. `spis` are those of the IKE SA that it is about.
    pub(super) fn enter(&mut self, now: Now, id: PeerId, state: ConnectionState, cause: Option<Cause>, spis: Option<IkeSpis>) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if peer.connection.enter(now.instant, state, cause.clone()) || cause.is_some() {
            self.event(Event::State { peer: id, state, cause, spis });
        }
    }
}
