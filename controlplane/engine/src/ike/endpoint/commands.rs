//! What the shell commands: peers, connect, disconnect, rekey, addresses; and what the data plane reports.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use adit_proto::control::{PeerId, Spi};
use adit_proto::ike::Delete;

use super::super::agenda::Task;
use super::super::cause::Cause;
use super::super::child::Usage;
use super::super::config::{Now, PeerConfig, Share};
use super::super::connection::{Connection, ConnectionState};
use super::super::context::{Ctx, LANES_MAX, Peer};
use super::super::counters::Counters;
use super::super::directory::Directory;
use super::super::error::{Error, LocalFault};
use super::super::evidence;
use super::super::explain::Record;
use super::super::facts::SaId;
use super::super::remotes::Remotes;
use super::super::sa::{IkeSa, Stage};
use super::super::session::Session;
use super::super::trust::{Change, Trust};
use super::{Endpoint, Timer};
use crate::limits::{ADDITIONAL_MAX, HANDSHAKES_PER_SECOND, KEY_EXCHANGES_AT_ONCE, KEY_EXCHANGES_PER_SECOND};
use crate::path::{Hop, IKE_PORT, Remote, StreamId, unspecified};
use crate::rate_limit::Bucket;
use crate::shown::Shown;

/// An unauthenticated initiator that was refused.
#[derive(Clone, Debug)]
pub struct Refusal {
    pub from: Remote,
    /// Seconds since 1970 UTC.
    pub at: u64,
    pub why: Error,
    /// What peers from there may use, and what this one offered, as text.
    pub ours: Vec<Shown>,
    pub theirs: Vec<Shown>,
}

/// A command that cannot be carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    #[error("there is no peer with this number")]
    NoSuchPeer,
    #[error("the peer has no address to connect to: give it one, or let it connect to us")]
    NoAddress,
    #[error("the peer is not connected")]
    NotConnected,
    #[error("the peer {peer} has {what}")]
    Config { peer: String, what: &'static str },
    #[error("{0}")]
    Failed(#[from] Error),
}

impl Endpoint {
    /// Adds a peer, or changes it: what is established stays, the next negotiation follows the new configuration. Child SAs of
    /// children that are not configured any more, by index and name, are deleted. With other credentials, identities or another
    /// name the peer has to authenticate anew: its IKE SAs are closed.
    /// Nothing is sent; see [`Endpoint::start`].
    ///
    /// # Errors
    /// The configuration makes no sense.
    pub fn set_peer(&mut self, now: Now, id: PeerId, config: PeerConfig) -> Result<(), CommandError> {
        self.change_peer(now, id, config, Change::Configured)
    }

    /// The same peer, of which credentials were renewed, ours or its own: nothing ends. It is authenticated anew beside the IKE SA that
    /// there is, which goes when the new one is complete; a peer that has not proven itself in a quarter of an hour is cut off.
    ///
    /// # Errors
    /// The configuration makes no sense.
    pub fn renew_peer(&mut self, now: Now, id: PeerId, config: PeerConfig) -> Result<(), CommandError> {
        self.change_peer(now, id, config, Change::Renewed)
    }

    /// What a peer may have of the tables that all share: of as many as there are now.
    pub fn set_share(&mut self, now: Now, id: PeerId, share: Share) {
        let Some(peer) = self.shared.peers.get_mut(&id).filter(|peer| peer.config.share != share) else { return };
        let config = Arc::new(PeerConfig { share, ..PeerConfig::clone(&peer.config) });
        peer.config = config.clone();
        for sa in peer.sas.clone() {
            self.with_session(now, sa, |session, _| session.config = config.clone());
        }
    }

    fn change_peer(&mut self, now: Now, id: PeerId, config: PeerConfig, change: Change) -> Result<(), CommandError> {
        check(&config)?;
        let (trust, config) = (Trust::of(&config), Arc::new(config));
        match self.shared.peers.get_mut(&id) {
            Some(peer) => {
                peer.remotes.replace(&config.remotes);
                peer.local = config.local;
                (peer.config, peer.trust) = (config.clone(), trust);
                let sas = peer.sas.clone();
                for sa in sas {
                    let config = config.clone();
                    self.run(now, sa, |sa, ctx| sa.reconfigure(ctx, config, &trust, change));
                }
                self.look_for(id);
                self.directory_is_stale = true;
            }
            None => {
                let peer = Peer {
                    connection: Connection::new(now.instant),
                    remotes: Remotes::new(&config.remotes),
                    local: config.local,
                    candidates: Vec::new(),
                    config,
                    trust,
                    current: None,
                    childless: false,
                    connected_as: Shown::default(),
                    attempt: None,
                    sas: Vec::new(),
                    record: Record::default(),
                    counters: Counters::default(),
                    handshakes: Bucket::new(HANDSHAKES_PER_SECOND),
                    key_exchanges: Bucket::with_burst(KEY_EXCHANGES_PER_SECOND, KEY_EXCHANGES_AT_ONCE),
                };
                self.shared.directory.add(id, &peer.config, peer.endpoints());
                self.shared.peers.insert(id, peer);
                self.look_for(id);
            }
        }
        Ok(())
    }

    /// Connects to every peer that is configured so, is not connected, and was not disconnected by a command. To be called after
    /// the peers have been set, and
    /// after [`Endpoint::restore`] if there is something to restore.
    pub fn start(&mut self, now: Now) {
        let initiate = self.shared.peers.iter().filter(|(_, peer)| peer.begins_by_itself());
        let peers: Vec<PeerId> = initiate.map(|(id, _)| *id).collect();
        peers.into_iter().for_each(|peer| drop(self.connect(now, peer)));
    }

    /// Removes a peer with all that belongs to it. The peer is told.
    pub fn remove_peer(&mut self, now: Now, id: PeerId) -> Result<(), CommandError> {
        self.down(now, id, Cause::Removed)?;
        self.shared.set_current(id, None);
        if let Some(peer) = self.shared.peers.remove(&id) {
            for sa in peer.sas {
                if let Some(sa) = self.sas.get_mut(&sa) {
                    // What is still repeated goes where the peer was.
                    sa.facts.hop = self.shared.paths.ike_hop(id).unwrap_or(sa.facts.hop);
                    sa.facts.peer = None;
                }
            }
        }
        self.shared.paths.remove(id);
        self.shared.known.forget(id);
        self.timers.set(Timer::Peer(id), None);
        self.directory_is_stale = true;
        Ok(())
    }

    /// Brings the directory up to date when it is needed, not for each of a thousand changes.
    pub(super) fn refresh_directory(&mut self) {
        if std::mem::take(&mut self.directory_is_stale) {
            self.shared.directory =
                Directory::of(self.shared.peers.iter().map(|(id, peer)| (*id, &*peer.config, peer.endpoints())));
        }
    }

    /// Connects to a peer, and again whenever the connection is lost, until [`Endpoint::disconnect`].
    ///
    /// # Errors
    /// There is no such peer, or it has no address.
    pub fn connect(&mut self, now: Now, id: PeerId) -> Result<(), CommandError> {
        let peer = self.shared.peers.get_mut(&id).ok_or(CommandError::NoSuchPeer)?;
        if !peer.is_looked_for() {
            return Err(CommandError::NoAddress);
        }
        if !peer.connection.wanted || peer.connection.held {
            self.kept.touch_peer(id);
        }
        (peer.connection.wanted, peer.connection.held) = (true, false);
        if peer.current.is_none() && peer.attempt.is_none() {
            self.begin(now, id);
        }
        Ok(())
    }

    /// Closes the connection to a peer, and does not connect again by itself, also not in a successor that has the snapshot.
    /// The peer may.
    ///
    /// # Errors
    /// There is no such peer.
    pub fn disconnect(&mut self, now: Now, id: PeerId) -> Result<(), CommandError> {
        if let Some(peer) = self.shared.peers.get_mut(&id) {
            peer.connection.held = true;
        }
        self.down(now, id, Cause::Command)
    }

    /// Closes the connections to all peers because the gateway goes, and lets nobody in from then on. What is to be connected next time
    /// stays as it is.
    pub fn close_all(&mut self, now: Now) {
        self.closing = true;
        let half_open: Vec<SaId> = self.half_open.keys().copied().collect();
        half_open.into_iter().for_each(|id| self.drop_half_open(id));
        let peers: Vec<PeerId> = self.shared.peers.keys().copied().collect();
        for id in peers {
            // Those that are not connected stay so.
            let _ = self.down(now, id, Cause::Command);
        }
    }

    /// Whether a peer is still to be told that a connection is closed: a request that is under way is to be answered first.
    pub fn has_last_words(&self) -> bool {
        self.sas.values().any(|sa| sa.has_last_words())
    }

    pub(super) fn down(&mut self, now: Now, id: PeerId, cause: Cause) -> Result<(), CommandError> {
        let peer = self.shared.peers.get_mut(&id).ok_or(CommandError::NoSuchPeer)?;
        peer.connection.wanted = false;
        self.kept.touch_peer(id);
        let about = peer.current.or(peer.attempt);
        let (sas, attempt) = (peer.sas.clone(), peer.attempt.take());
        let spis = about.and_then(|id| self.sas.get(&id)).map(|sa| sa.facts.spis);
        if let Some(mut sa) = attempt.and_then(|attempt| self.sas.remove(&attempt)) {
            let mut ctx = Ctx::new(now, &mut *self.random, &mut self.shared);
            sa.end(&mut ctx, cause.clone());
            self.timers.set(Timer::Sa(sa.facts.id), None);
            self.forget(&sa);
        }
        for sa in sas {
            let cause = cause.clone();
            self.run(now, sa, |sa, ctx| {
                if let Stage::Established(_) = sa.stage {
                    sa.close(ctx, vec![Delete::ike().into()], cause);
                }
            });
        }
        self.lost(now, id, cause, spis);
        Ok(())
    }

    /// Begins an attempt to connect.
    pub(super) fn begin(&mut self, now: Now, id: PeerId) {
        let Some(peer) = self.shared.peers.get_mut(&id) else { return };
        // A peer that is connected is where it was heard last.
        let current = peer.current;
        let known = current.and_then(|_| self.shared.paths.ike_hop(id));
        if known.is_none() && !peer.is_looked_for() {
            return;
        }
        let fit = match known {
            Some(hop) => self.shared.paths.judge(hop).map_err(|why| LocalFault::Address(hop.remote(), why).into()),
            None => self.first_fit(id),
        };
        let mut ctx = Ctx::new(now, &mut *self.random, &mut self.shared);
        let begun = fit.and_then(|hop| IkeSa::begin(&mut ctx, id, hop));
        let spis = begun.as_ref().ok().map(|sa| sa.facts.spis);
        let state = if current.is_some() { ConnectionState::Rekeying } else { ConnectionState::Connecting };
        self.shared.enter(now, id, state, None, spis);
        match begun {
            Ok(sa) => {
                if let Some(peer) = self.shared.peers.get_mut(&id) {
                    peer.attempt = Some(sa.facts.id);
                }
                self.put_back(now, Box::new(sa));
            }
            Err(error) if current.is_some() => self.beside_failed(now, id, error.into()),
            Err(error) => self.lost(now, id, error.into(), None),
        }
    }

    /// The first of the addresses of a peer to which something can be sent; that is where we begin.
    fn first_fit(&mut self, id: PeerId) -> Result<Hop, Error> {
        let Some(peer) = self.shared.peers.get_mut(&id) else { return Err(LocalFault::NoAddress.into()) };
        if peer.config.in_streams && !peer.config.awaits_remotes && peer.remotes.all().is_empty() {
            return Err(LocalFault::NotSeen.into());
        }
        let mut why = LocalFault::NoAddress;
        let remotes: Vec<Remote> = peer.remotes.in_turn().collect();
        for remote in remotes {
            match self.shared.paths.judge(first_hop(peer.local, remote, self.shared.config.nat_port)) {
                Ok(hop) => {
                    peer.remotes.began_at(remote);
                    return Ok(hop);
                }
                Err(unfit) if why == LocalFault::NoAddress => why = LocalFault::Address(remote, unfit),
                Err(_) => {}
            }
        }
        Err(why.into())
    }

    /// Replaces the keys of the IKE SA now.
    ///
    /// # Errors
    /// The peer is not connected.
    pub fn rekey_ike(&mut self, now: Now, id: PeerId) -> Result<(), CommandError> {
        self.command(now, id, |session| session.want(Task::RekeyIke { method: None }))
    }

    /// Replaces the keys of every Child SA now.
    ///
    /// # Errors
    /// The peer is not connected.
    pub fn rekey(&mut self, now: Now, id: PeerId) -> Result<(), CommandError> {
        self.command(now, id, |session| {
            let live: Vec<Spi> = session.children.iter().filter(|child| child.is_live()).map(|child| child.inbound).collect();
            live.into_iter().for_each(|inbound| session.want(Task::RekeyChild { inbound, method: None }));
        })
    }

    /// Probes the peer now (dead peer detection, DPD).
    ///
    /// # Errors
    /// The peer is not connected.
    pub fn check_liveness(&mut self, now: Now, id: PeerId) -> Result<(), CommandError> {
        self.command(now, id, |session| session.want(Task::Liveness))
    }

    fn command(&mut self, now: Now, id: PeerId, carry_out: impl FnOnce(&mut Session)) -> Result<(), CommandError> {
        let current = self.current(id)?;
        self.with_session(now, current, |session, _| carry_out(session));
        Ok(())
    }

    fn change_path(&mut self, now: Now, id: SaId, local: Option<SocketAddr>, remote: Option<SocketAddr>) {
        self.run(now, id, |sa, ctx| {
            let moves = sa
                .facts_and_session()
                .is_some_and(|(facts, session)| evidence::change_path(ctx, facts, session, (local, remote)));
            if moves {
                sa.on_moved(ctx);
            }
        });
    }

    fn current(&self, id: PeerId) -> Result<SaId, CommandError> {
        let peer = self.shared.peers.get(&id).ok_or(CommandError::NoSuchPeer)?;
        peer.current.ok_or(CommandError::NotConnected)
    }

    /// The data plane has lost all SAs: every Child SA is made anew under the IKE SA that there is.
    pub fn data_plane_restarted(&mut self, now: Now) {
        self.shared.paths.data_plane_restarted();
        let peers: Vec<PeerId> = self.shared.peers.keys().copied().collect();
        peers.into_iter().for_each(|peer| drop(self.rekey(now, peer)));
    }

    /// Where a peer is, or where we are for it, has changed: the configuration names another address, an interface has another one.
    /// The IKE SA moves there, to another address of the peer once that answers from there, and says so to a peer with MOBIKE (RFC 4555).
    ///
    /// # Errors
    /// There is no such peer.
    pub fn set_addresses(
        &mut self,
        now: Now,
        id: PeerId,
        local: Option<SocketAddr>,
        remote: Option<SocketAddr>,
    ) -> Result<(), CommandError> {
        let peer = self.shared.peers.get_mut(&id).ok_or(CommandError::NoSuchPeer)?;
        peer.local = local.or(peer.local);
        if let Some(remote) = remote {
            peer.remotes.replace(&[remote]);
        }
        self.shared.known.look_for(id, peer.remotes.all());
        self.directory_is_stale = true;
        self.shared.paths.set_origin(id, peer.config.from.clone(), peer.endpoints());
        self.shared.paths.set_direct(id, peer.direct(self.shared.config.nat_port));
        if let Some(current) = peer.current {
            self.change_path(now, current, local, remote);
        }
        self.serve_paths(now);
        Ok(())
    }

    /// Notes where a peer is looked for: who comes from there is no stranger.
    fn look_for(&mut self, id: PeerId) {
        if let Some(peer) = self.shared.peers.get(&id) {
            self.shared.known.look_for(id, peer.remotes.all());
        }
    }

    /// The peer is to be looked for in these streams from now on, where it does not answer at an address: somebody who is said to be it can
    /// be reached in them.
    ///
    /// # Errors
    /// There is no such peer.
    pub fn set_streams(&mut self, now: Now, id: PeerId, streams: &[StreamId]) -> Result<(), CommandError> {
        let peer = self.shared.peers.get_mut(&id).ok_or(CommandError::NoSuchPeer)?;
        let before: Vec<StreamId> = peer.remotes.streams().collect();
        if peer.remotes.replace_streams(streams) {
            let came = |hop: &Hop| matches!(hop, Hop::Stream(used) if streams.contains(used) && !before.contains(used));
            let is_back = self.shared.paths.ike_hop(id).is_some_and(|hop| came(&hop));
            let (is_lost, attempt) = (peer.connection.wanted && peer.current.is_none(), peer.attempt);
            let first = peer.remotes.streams().next();
            match (attempt, first) {
                (None, Some(stream)) if is_lost => {
                    if peer.connection.state == ConnectionState::Reconnecting {
                        // At its addresses nobody was a moment ago.
                        peer.remotes.began_at(Remote::Stream(stream));
                    }
                    self.begin(now, id);
                }
                (Some(attempt), Some(_)) if is_lost => self.run(now, attempt, |sa, ctx| sa.hurry_to_stream(ctx.now.instant)),
                _ => {}
            }
            let current = self.shared.peers.get(&id).and_then(|peer| peer.current).filter(|_| is_back);
            current.into_iter().for_each(|current| self.run(now, current, IkeSa::on_stream_back));
            self.serve_paths(now);
        }
        Ok(())
    }

    /// The peer is to be looked for at these addresses from now on, the first one first: its name stands for others, or an interface
    /// of ours has another index. What there is stays where the peer answers; it is looked for there as soon as it does not.
    ///
    /// # Errors
    /// There is no such peer.
    pub fn set_remotes(&mut self, now: Now, id: PeerId, remotes: Vec<SocketAddr>) -> Result<(), CommandError> {
        let peer = self.shared.peers.get_mut(&id).ok_or(CommandError::NoSuchPeer)?;
        if peer.remotes.replace(&remotes) {
            self.look_elsewhere(now, id);
        }
        Ok(())
    }

    /// The places at which a peer is looked for have changed.
    fn look_elsewhere(&mut self, now: Now, id: PeerId) {
        let Some(peer) = self.shared.peers.get_mut(&id) else { return };
        self.shared.known.look_for(id, peer.remotes.all());
        self.directory_is_stale = true;
        let (current, endpoints) = (peer.current, peer.endpoints());
        let waits = peer.connection.wanted && current.is_none() && peer.attempt.is_none() && !peer.remotes.all().is_empty();
        let (from, all) = (peer.config.from.clone(), peer.remotes.all().to_vec());
        let direct = peer.direct(self.shared.config.nat_port);
        self.shared.paths.set_origin(id, from, endpoints);
        self.shared.paths.set_direct(id, direct);
        if waits {
            self.begin(now, id);
        }
        if let (Some(current), Some(Hop::Udp(hop))) = (current, self.shared.paths.ike_hop(id)) {
            // The same neighbour, on an interface that was made anew.
            let addresses = all.iter().filter_map(Remote::address);
            let there = |remote: SocketAddr| Hop::new(unspecified(remote, hop.local.port()), remote).udp();
            let mut others = addresses.filter_map(|remote| Some((there(remote)?, remote)));
            if let Some((other, remote)) =
                others.find(|(other, _)| other.remote == hop.remote && other.interface != hop.interface)
            {
                self.change_path(now, current, Some(other.local), Some(remote));
            }
        }
        self.serve_paths(now);
    }

    /// What has gone through the SAs, as totals since they were installed, by inbound SPI.
    pub fn handle_usage(&mut self, now: Now, usage: &BTreeMap<Spi, Usage>) {
        for (inbound, usage) in usage {
            let Some(owner) = self.shared.spis.owner(*inbound) else { continue };
            self.run(now, owner, |sa, ctx| {
                let expected_id = sa.wire.window.expected_id();
                // An authentic packet of ESP is proof of life as good as any (RFC 7296 §2.4).
                if sa.session_mut().is_some_and(|session| session.take_usage(ctx, *inbound, *usage, expected_id)) {
                    sa.wire.note_heard(ctx.now.instant);
                }
            });
        }
    }

    /// Deletes a Child SA, by inbound SPI: the data plane has refused to install its inbound half, so that nothing that the peer
    /// sends on it can be opened. Whoever began the connection asks for another one after a while, and we also where another product did;
    /// each time that the data plane refuses, it takes longer (1 s, 2 s, … 60 s), also where the peer asks. An SPI that is not
    /// known is ignored.
    pub fn close_child(&mut self, now: Now, inbound: Spi) {
        let Some(owner) = self.shared.spis.owner(inbound) else { return };
        self.with_session(now, owner, |session, ctx| session.refuse_child(ctx, inbound));
    }

    /// The data plane does not have this inbound SA: it was lost, with a worker for example. The Child SA, and no other, is
    /// rekeyed; with the same waits as [`Endpoint::close_child`]. An SPI that is not known is ignored.
    pub fn lost_inbound(&mut self, now: Now, inbound: Spi) {
        let Some(owner) = self.shared.spis.owner(inbound) else { return };
        self.with_session(now, owner, |session, ctx| session.lose_inbound(ctx, inbound));
    }

    /// The data plane does not have this outbound SA of a peer: it was lost, or refused when it was to be installed. The Child
    /// SA, and no other, is rekeyed, after 1 s, and if that one is reported as well after 2 s, … at most 60 s; its inbound half
    /// goes on meanwhile. No `RemoveOutbound` follows for it. An SPI that is not known is ignored.
    pub fn lost_outbound(&mut self, now: Now, peer: PeerId, outbound: Spi) {
        let Some(peer) = self.shared.peers.get(&peer) else { return };
        for id in peer.sas.clone() {
            self.with_session(now, id, |session, ctx| session.lose_outbound(ctx, outbound));
        }
    }
}

/// The rules that a configuration has to keep.
fn check(config: &PeerConfig) -> Result<(), CommandError> {
    let wrong = |what| Err(CommandError::Config { peer: config.name.clone(), what });
    let complete = |proposal: &super::super::config::IkeProposal| {
        !proposal.suites.is_empty() && !proposal.prfs.is_empty() && !proposal.key_exchanges.is_empty()
    };
    if config.proposals.is_empty() || !config.proposals.iter().all(complete) {
        return wrong("an IKE proposal without a suite, a PRF or a key exchange method");
    }
    if config.proposals.iter().any(|proposal| proposal.additional.len() > ADDITIONAL_MAX) {
        return wrong("more than seven additional key exchanges");
    }
    for child in &config.children {
        if child.proposals.is_empty() || child.proposals.iter().any(|proposal| proposal.suites.is_empty()) {
            return wrong("a child without a suite");
        }
        if child.lanes == 0 || child.lanes > LANES_MAX {
            return wrong("a child with no lanes, or more than an SPI can name");
        }
    }
    Ok(())
}

/// How we begin with a peer at this place.
fn first_hop(local: Option<SocketAddr>, remote: Remote, nat_port: u16) -> Hop {
    let remote = match remote {
        Remote::Udp(remote) => remote,
        Remote::Stream(stream) => return Hop::Stream(stream),
    };
    let local = local.filter(|local| local.is_ipv4() == remote.is_ipv4());
    let mut local = local.unwrap_or(unspecified(remote, nat_port));
    if remote.port() == IKE_PORT {
        // IKE has no marker there, and answers come back to the same port; both ends go on at 4500 (RFC 7296 §2.23).
        local.set_port(IKE_PORT);
    }
    Hop::new(local, remote)
}
