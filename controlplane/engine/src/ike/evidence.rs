//! What the exchanges of an IKE SA say of paths, and what the paths ask of it: [`crate::path`] decides, this carries out.

use std::net::SocketAddr;

use super::agenda::Task;
use super::context::Ctx;
use super::facts::{Facts, Role};
use super::limits::ELSEWHERE_MAX;
use super::session::Session;
use super::wire::Came;
use crate::path::{Follow, Hop, IKE_PORT, Moves, Terms};

/// A request that was repeated so often without an answer is tried elsewhere, too.
pub(super) const SILENT_AFTER: u32 = 2;

/// The peer is authenticated: what follows it to other addresses, and what it can answer.
pub(super) fn agree_on_paths(ctx: &mut Ctx, facts: &Facts, session: &Session) {
    let follow = match (facts.features.mobike, session.original_initiator) {
        (true, true) => Follow::Nothing,
        (true, false) => Follow::Esp,
        (false, _) if facts.nat.here => Follow::Nothing,
        (false, _) => Follow::Both,
    };
    let (peer, paths) = (session.peer, &mut ctx.shared.paths);
    let local_fixed = session.config.local.is_some_and(|local| !local.ip().is_unspecified());
    let terms = Terms { echo: facts.features.echo, split: facts.features.split, ike: true, follow, local_fixed };
    paths.set_terms(peer, terms);
    paths.set_encapsulate(peer, facts.nat.is_between());
    let endpoints = ctx.shared.peers.get(&peer).map(super::context::Peer::endpoints).unwrap_or_default();
    paths.set_origin(peer, session.config.from.clone(), endpoints);
}

/// This IKE SA is the one that has the Child SAs: what was found out with it holds.
pub(super) fn establish_path(ctx: &mut Ctx, facts: &Facts, session: &Session) {
    agree_on_paths(ctx, facts, session);
    // It has just answered from there. Where nothing may go the judge was asked before anything was sent.
    let _ = ctx.shared.paths.establish(ctx.now.instant, session.peer, facts.hop, facts.nat.is_between());
    if facts.role == Role::Responder {
        ctx.shared.paths.give_head_start(ctx.now.instant, session.peer);
    }
}

/// A fresh, authentic request came this way. Without MOBIKE that is how the peer says that it has moved (RFC 7296 §2.23), unless a NAT
/// is on our side.
pub(super) fn heard_request(ctx: &mut Ctx, facts: &Facts, came: Came) {
    let (Came { hop, bytes }, now) = (came, ctx.now.instant);
    let Some(peer) = facts.peer else { return };
    ctx.shared.paths.heard(now, peer, hop, bytes);
    if !hop.is_same(&ctx.shared.hop_of(facts)) && !facts.features.mobike && !facts.nat.here {
        // One that is not taken is counted there.
        let _ = ctx.shared.paths.candidate(now, peer, hop, Moves::Both, bytes);
    }
}

/// The answer to our request came this way: a proof if it was sent this way, as `sent`.
pub(super) fn heard_answer(ctx: &mut Ctx, facts: &Facts, came: Came, sent: Option<Hop>) {
    match (facts.peer, sent) {
        (Some(peer), Some(sent)) => {
            ctx.shared.paths.heard(ctx.now.instant, peer, sent, came.bytes);
            ctx.shared.paths.answered(ctx.now.instant, peer, sent);
        }
        (_, None) | (None, _) => heard_request(ctx, facts, came),
    }
}

/// The peer does not answer `here`: it may be at another address that it has named, or reach us at another of ours (RFC 4555 §3.5). Gives
/// where else a request is to go. What answers is used.
pub(super) fn elsewhere(ctx: &mut Ctx, facts: &Facts, session: &Session, here: Hop) -> Vec<Hop> {
    let peer = session.peer;
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
    if facts.features.mobike && session.original_initiator {
        let remotes = session.addresses.of_peer().iter().map(|address| SocketAddr::new(*address, here.remote.port()));
        for remote in remotes.filter(|remote| remote.ip() != here.remote.ip()) {
            others.push(Hop::new(unspecified(remote, here.local.port()), remote));
        }
        for local in ctx.shared.paths.other_addresses(here) {
            others.push(Hop { local: SocketAddr::new(local, here.local.port()), ..here });
        }
    }
    others.truncate(ELSEWHERE_MAX);
    let tried = ctx.shared.paths.try_also(ctx.now.instant, peer, others);
    tried.into_iter().filter(|hop| *hop != here).collect()
}

/// The path of IKE is another one, and the peer has not asked for that: it is told.
pub(super) fn tell_of_move(facts: &Facts, session: &mut Session) {
    session.want(match (facts.features.mobike, session.original_initiator) {
        (true, true) => Task::UpdateAddresses,
        (true, false) => Task::AnnounceAddresses,
        // The peer follows what is authentic (RFC 7296 §2.23).
        (false, _) => Task::Liveness,
    });
}

/// Our address has changed, or the peer's other address is to be used: everything moves (RFC 4555 §3.5). Says whether it does.
pub(super) fn change_path(
    ctx: &mut Ctx,
    facts: &Facts,
    session: &Session,
    (local, remote): (Option<SocketAddr>, Option<SocketAddr>),
) -> bool {
    let here = ctx.shared.hop_of(facts);
    let hop = Hop::new(local.unwrap_or(here.local), remote.unwrap_or(here.remote));
    let hop = goes_on(here, hop, ctx.shared.config.nat_port);
    !hop.is_same(&here) && ctx.shared.paths.decide(ctx.now.instant, session.peer, hop).is_ok()
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
