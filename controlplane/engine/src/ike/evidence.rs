//! What the exchanges of an IKE SA say of paths, and what the paths ask of it: [`crate::path`] decides, this carries out.

use std::net::SocketAddr;

use super::agenda::Task;
use super::context::Ctx;
use super::nat;
use super::sa::{IkeSa, Stage};
use super::wire::Came;
use crate::path::{Follow, Hop, IKE_PORT, Moves, Terms};

/// A request that was repeated so often without an answer is tried elsewhere, too.
const SILENT_AFTER: u32 = 2;
/// Other addresses that one repetition of a request goes to.
const ELSEWHERE_MAX: usize = 6;

impl IkeSa {
    /// Where requests go: once the peer is authenticated, the path of IKE with it.
    pub(super) fn hop(&self, ctx: &Ctx) -> Hop {
        let known = match self.stage {
            Stage::Established(_) | Stage::Closing { .. } | Stage::Closed => self.facts.peer,
            Stage::Beginning | Stage::Exchanging(_) | Stage::Authenticating(_) => None,
        };
        known.and_then(|peer| ctx.shared.paths.ike_hop(peer)).unwrap_or(self.facts.hop)
    }

    /// Whether we say where the connection goes: we are the initiator in the sense of RFC 4555 §1.2, that of the first IKE SA,
    /// whoever has rekeyed it since.
    pub(super) fn decides_path(&self) -> bool {
        self.session().is_some_and(|session| session.original_initiator)
    }

    /// The peer is authenticated: what follows it to other addresses, and what it can answer.
    pub(super) fn agree_on_paths(&self, ctx: &mut Ctx) {
        let (Some(peer), Some(session)) = (self.facts.peer, self.session()) else { return };
        let follow = match (self.facts.features.mobike, self.decides_path()) {
            (true, true) => Follow::Nothing,
            (true, false) => Follow::Esp,
            (false, _) if self.facts.nat.here => Follow::Nothing,
            (false, _) => Follow::Both,
        };
        let local_fixed = session.config.local.is_some_and(|local| !local.ip().is_unspecified());
        let terms = Terms { echo: self.facts.features.echo, ike: true, follow, local_fixed };
        ctx.shared.paths.set_terms(ctx.now.instant, peer, terms);
        ctx.shared.paths.set_encapsulate(peer, self.facts.nat.is_between());
        let endpoints = ctx.shared.peers.get(&peer).map(super::context::Peer::endpoints).unwrap_or_default();
        ctx.shared.paths.set_origin(peer, session.config.from.clone(), endpoints);
    }

    /// This IKE SA is the one that has the Child SAs: what was found out with it holds.
    pub(super) fn establish_path(&self, ctx: &mut Ctx) {
        let Some(peer) = self.facts.peer else { return };
        self.agree_on_paths(ctx);
        // It has just answered from there. Where nothing may go the judge was asked before anything was sent.
        let _ = ctx.shared.paths.establish(ctx.now.instant, peer, self.facts.hop, self.facts.nat.is_between());
    }

    /// A fresh, authentic request of `bytes` came this way. Without MOBIKE that is how the peer says that it has moved (RFC 7296
    /// §2.23), unless a NAT is on our side.
    pub(super) fn heard_request(&self, ctx: &mut Ctx, came: Came) {
        let Came { hop, bytes } = came;
        let Some(peer) = self.facts.peer.filter(|_| self.session().is_some()) else { return };
        let now = ctx.now.instant;
        ctx.shared.paths.heard(now, peer, hop, bytes);
        if !hop.is_same(&self.hop(ctx)) && !self.facts.features.mobike && !self.facts.nat.here {
            // One that is not taken is counted there.
            let _ = ctx.shared.paths.candidate(now, peer, hop, Moves::Both, bytes);
        }
    }

    /// The answer to our request came this way: a proof if it was sent this way.
    pub(super) fn heard_response(&self, ctx: &mut Ctx, hop: Hop, bytes: usize) {
        let Some(peer) = self.facts.peer.filter(|_| self.session().is_some()) else { return };
        match self.wire.sent_this_way(&hop) {
            Some(sent) => {
                ctx.shared.paths.heard(ctx.now.instant, peer, sent, bytes);
                ctx.shared.paths.answered(ctx.now.instant, peer, sent);
            }
            None => self.heard_request(ctx, Came { hop, bytes }),
        }
    }

    /// A request is to be sent there and answered from there: the one under way, for the window may be full, or a new one.
    pub(super) fn prove(&mut self, ctx: &mut Ctx, hop: Hop) {
        if self.wire.window.is_idle() {
            let ready = matches!(&self.stage, Stage::Established(session) if session.succession.may_speak(ctx.now.instant));
            if ready && self.send_route_check(ctx, hop).is_err() {
                ctx.shared.paths.refused += 1;
            }
            return;
        }
        self.wire.repeat_to(ctx, self.facts.peer, hop);
    }

    /// A request is repeated: where the peer is, where it is asked for a proof, and after a while everywhere it may be.
    pub(super) fn repeat_request(&mut self, ctx: &mut Ctx) {
        let here = self.hop(ctx);
        if self.wire.repeat(ctx, self.facts.peer, here) >= SILENT_AFTER {
            self.look_elsewhere(ctx, here);
        }
    }

    /// The peer does not answer where it is: it may be at another address that it has named, or reach us at another of ours
    /// (RFC 4555 §3.5). What answers is used.
    fn look_elsewhere(&mut self, ctx: &mut Ctx, here: Hop) {
        let (Some(peer), Some(session)) = (self.facts.peer, self.session()) else { return };
        let mut others = ctx.shared.paths.alternatives(peer);
        let known = ctx.shared.peers.get(&peer).map(|peer| (peer.local, peer.remotes.all().to_vec()));
        let (local, configured) = known.unwrap_or_default();
        for remote in configured {
            let local = local.filter(|local| local.is_ipv4() == remote.is_ipv4()).map(|local| local.ip());
            let any = unspecified(remote, here.local.port());
            let local = SocketAddr::new(local.unwrap_or(any.ip()), any.port());
            let hop = goes_on(here, Hop::new(local, remote), ctx.shared.config.nat_port);
            if hop.remote != here.remote || hop.interface != here.interface {
                others.push(hop);
            }
        }
        if self.facts.features.mobike && self.decides_path() {
            let remotes = session.mobike.peer_addresses().iter().map(|address| SocketAddr::new(*address, here.remote.port()));
            for remote in remotes.filter(|remote| remote.ip() != here.remote.ip()) {
                others.push(Hop::new(unspecified(remote, here.local.port()), remote));
            }
            for local in ctx.shared.paths.other_addresses(here) {
                others.push(Hop { local: SocketAddr::new(local, here.local.port()), ..here });
            }
        }
        others.truncate(ELSEWHERE_MAX);
        let tried = ctx.shared.paths.try_also(ctx.now.instant, peer, others);
        tried.into_iter().filter(|hop| *hop != here).for_each(|hop| self.wire.repeat_to(ctx, self.facts.peer, hop));
    }

    /// The path of IKE is another one, and the peer has not asked for that: it is told.
    pub(super) fn on_moved(&mut self, ctx: &mut Ctx) {
        let task = match (self.facts.features.mobike, self.decides_path()) {
            (true, true) => Task::UpdateAddresses,
            (true, false) => Task::AnnounceAddresses,
            // The peer follows what is authentic (RFC 7296 §2.23).
            (false, _) => Task::Liveness,
        };
        if let Some(session) = self.session_mut() {
            session.want(task);
        }
        self.start_next(ctx);
    }

    /// Our address has changed, or the peer's other address is to be used: everything moves, and the peer is told (RFC 4555 §3.5).
    pub(super) fn change_path(&mut self, ctx: &mut Ctx, local: Option<SocketAddr>, remote: Option<SocketAddr>) {
        let (Some(peer), here) = (self.facts.peer, self.hop(ctx)) else { return };
        let hop = Hop::new(local.unwrap_or(here.local), remote.unwrap_or(here.remote));
        let hop = goes_on(here, hop, ctx.shared.config.nat_port);
        if !hop.is_same(&here) && ctx.shared.paths.decide(ctx.now.instant, peer, hop).is_ok() {
            self.on_moved(ctx);
        }
    }

    /// The hashes of NAT detection for a message that goes this way.
    pub(super) fn detection(&self, hop: &Hop) -> [adit_proto::ike::Payload; 2] {
        let force = self.session().is_some_and(|session| session.config.force_encapsulation);
        nat::detection((self.facts.spis.initiator, self.facts.spis.responder), hop, force)
    }
}

/// Where an IKE SA goes on that has left port 500: there is nothing for it to go back to.
fn goes_on(here: Hop, hop: Hop, nat_port: u16) -> Hop {
    if here.local.port() == IKE_PORT { hop } else { hop.floated(nat_port) }
}

/// No address of ours in particular.
pub(super) fn unspecified(remote: SocketAddr, port: u16) -> SocketAddr {
    let any = if remote.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    SocketAddr::new(any, port)
}
