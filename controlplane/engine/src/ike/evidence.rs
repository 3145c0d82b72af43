//! What the exchanges of an IKE SA say of paths, and what the paths ask of it: [`crate::path`] decides, this carries out.

use std::net::SocketAddr;

use adit_proto::control::PeerId;

use super::agenda::Task;
use super::candidates::Candidate;
use super::config::PeerConfig;
use super::context::Ctx;
use super::facts::{Facts, Role};
use super::session::Session;
use super::window::SILENT_AFTER;
use super::wire::Came;
use crate::limits::ELSEWHERE_MAX;
use crate::path::{Answered, Follow, Hop, Moves, StreamId, Terms, UdpHop, unspecified};

/// The peer is authenticated: what follows it to other addresses, and what it can answer.
pub(super) fn agree_on_paths(ctx: &mut Ctx, facts: &Facts, session: &Session) {
    let leads = leads(facts, session);
    let follow = match (leads, facts.features.mobike) {
        // A NAT that maps the peer anew without its knowledge is told by nobody else.
        (true, _) if facts.features.echo => Follow::Esp,
        (true, _) => Follow::Nothing,
        (false, true) => Follow::Esp,
        (false, false) => Follow::Both,
    };
    let (peer, paths) = (session.peer, &mut ctx.shared.paths);
    let local_fixed = is_fixed(&session.config);
    let terms = Terms {
        echo: facts.features.echo,
        split: facts.features.split,
        ike: true,
        follow,
        leads,
        local_fixed,
        candidates: facts.features.candidates,
    };
    paths.set_terms(peer, terms);
    paths.set_encapsulate(peer, facts.nat.is_between());
    let endpoints = ctx.shared.peers.get(&peer).map(super::context::Peer::endpoints).unwrap_or_default();
    paths.set_origin(peer, session.config.from.clone(), endpoints);
    let port = ctx.shared.config.nat_port;
    let direct = ctx.shared.peers.get(&peer).map(|peer| peer.direct(port)).unwrap_or_default();
    ctx.shared.paths.set_direct(peer, direct);
}

/// The peer says where it may be, too: it is looked for there at once, if it goes in a stream, or not where it says.
pub(super) fn look_at_candidates(ctx: &mut Ctx, peer: PeerId, all: Vec<Candidate>) {
    if ctx.shared.set_candidates_of(peer, all) {
        let port = ctx.shared.config.nat_port;
        let direct = ctx.shared.peers.get(&peer).map(|peer| peer.direct(port)).unwrap_or_default();
        let remote = ctx.shared.paths.ike_hop(peer).map(|hop| hop.remote());
        let is_named = remote.is_some_and(|remote| direct.iter().any(|hop| hop.remote() == remote));
        ctx.shared.paths.set_direct(peer, direct);
        match is_named {
            true => ctx.shared.paths.look_direct_soon(ctx.now.instant, peer),
            // It may have gone from where it is in use.
            false => ctx.shared.paths.look_direct_anyway(ctx.now.instant, peer, Moves::Both),
        }
    }
}

/// Whether we say where the connection goes (RFC 4555 §1.2). Those who tell each other candidates have many ways to choose from, and only
/// one of them may choose. Without either a host behind a NAT stays where the peer sees it (RFC 7296 §2.23).
fn leads(facts: &Facts, session: &Session) -> bool {
    if facts.features.mobike || facts.features.candidates { session.original_initiator } else { facts.nat.here }
}

/// This IKE SA is the one that has the Child SAs: what was found out with it holds.
pub(super) fn establish_path(ctx: &mut Ctx, facts: &Facts, session: &Session) {
    agree_on_paths(ctx, facts, session);
    // It has just answered from there. Where nothing may go the judge was asked before anything was sent.
    let _ = ctx.shared.paths.establish(ctx.now.instant, session.peer, facts.hop, facts.nat.is_between());
    if facts.role == Role::Responder {
        ctx.shared.paths.give_head_start(ctx.now.instant, session.peer);
    }
    if ctx.shared.peers.get(&session.peer).is_some_and(|peer| !peer.candidates.is_empty()) {
        ctx.shared.paths.look_direct_soon(ctx.now.instant, session.peer);
    }
}

/// A fresh, authentic request came this way. Without MOBIKE that is how the peer says that it has moved (RFC 7296 §2.23). Where we lead it
/// cannot say so: ESP goes there once a sealed echo has proven it, and IKE when it is answered there alone.
pub(super) fn heard_request(ctx: &mut Ctx, facts: &Facts, session: &Session, came: Came) {
    let (Came { hop, bytes }, now) = (came, ctx.now.instant);
    let Some(peer) = facts.peer else { return };
    if !ctx.shared.stream_keys.may_go(facts, hop) {
        // Somebody who stands between hands it on.
        return;
    }
    ctx.shared.paths.heard(now, peer, hop, bytes);
    let moves = match leads(facts, session) {
        true if ctx.shared.paths.is_one_of_many(peer, hop) => None,
        true if ctx.shared.paths.leaves_stream(peer, hop) => facts.features.echo.then_some(Moves::Both),
        true => facts.features.echo.then_some(Moves::Esp),
        false => (!facts.features.mobike).then_some(Moves::Both),
    };
    if let Some(moves) = moves.filter(|_| !hop.is_same(&ctx.shared.hop_of(facts))) {
        // One that is not taken is counted there.
        let _ = ctx.shared.paths.candidate(now, peer, hop, moves, bytes);
    }
}

/// The answer to our request came this way: a proof if it was sent this way, and no other. Gives where one is to be asked for by a
/// request that goes nowhere else.
pub(super) fn heard_answer(
    ctx: &mut Ctx,
    facts: &Facts,
    session: &Session,
    came: Came,
    answered: Option<Answered>,
) -> Option<Hop> {
    let (Some(peer), Some(answered)) = (facts.peer, answered) else {
        heard_request(ctx, facts, session, came);
        return None;
    };
    if !ctx.shared.stream_keys.may_go(facts, answered.hop) {
        return None;
    }
    ctx.shared.paths.heard(ctx.now.instant, peer, answered.hop, came.bytes);
    ctx.shared.paths.answered(ctx.now.instant, peer, answered)
}

/// The initiator has left port 500, and seems to be another host there: what a NAT with several addresses does, and whoever says in
/// IKE_AUTH that it is somebody else. It has to prove that.
pub(super) fn left_port_500(ctx: &mut Ctx, facts: &Facts, came: Came) {
    let port = |hop: &Hop| hop.udp().map(|hop| hop.local.port());
    if let Some(peer) = facts.peer.filter(|_| port(&came.hop) != port(&facts.hop)) {
        // One that is not taken is counted there.
        let _ = ctx.shared.paths.candidate(ctx.now.instant, peer, came.hop, Moves::Both, came.bytes);
    }
}

/// The peer does not answer `here`: it may be at another address that it has named, or reach us at another of ours (RFC 4555 §3.5). Gives
/// where else a request is to go. What answers is used. Of the streams it is one each time, and the first one is the one that it was in last.
pub(super) fn elsewhere(ctx: &mut Ctx, facts: &Facts, session: &Session, (here, repeated): (Hop, u32)) -> Vec<Hop> {
    let peer = session.peer;
    let mut others = ctx.shared.paths.alternatives(peer);
    let turn = repeated.saturating_sub(SILENT_AFTER) as usize;
    let known = ctx.shared.peers.get(&peer).map(|peer| {
        let may = |stream: &StreamId| ctx.shared.stream_keys.may_go(facts, Hop::Stream(*stream));
        let streams: Vec<StreamId> = peer.remotes.streams().filter(may).collect();
        let stream = streams.get(turn % streams.len().max(1)).copied();
        (peer.local, peer.remotes.addresses().collect::<Vec<_>>(), stream)
    });
    let (local, configured, stream) = known.unwrap_or_default();
    let fixed = local.filter(|local| !local.ip().is_unspecified());
    let port = here.udp().map_or(ctx.shared.config.nat_port, |here| here.local.port());
    // Without a socket of that version of IP there is none.
    let to = |remote: SocketAddr| {
        let any = unspecified(remote, port);
        let ip = fixed.map_or(any.ip(), |local| local.ip());
        (ip.is_ipv4() == remote.is_ipv4()).then(|| Hop::new(SocketAddr::new(ip, any.port()), remote))
    };
    let configured = configured.into_iter().filter_map(to).chain(stream.map(Hop::Stream));
    for hop in configured {
        let hop = goes_on(here, hop, ctx.shared.config.nat_port);
        if !hop.leads_to(&here) {
            others.push(hop);
        }
    }
    if let (true, Hop::Udp(here)) = (facts.features.mobike && session.original_initiator, here) {
        let remotes = session.addresses.of_peer().iter().map(|address| SocketAddr::new(*address, here.remote.port()));
        others.extend(remotes.filter(|remote| remote.ip() != here.remote.ip()).filter_map(to));
        let own = if is_fixed(&session.config) { Vec::new() } else { ctx.shared.paths.other_addresses(Hop::Udp(here)) };
        let from = |local| UdpHop { local: SocketAddr::new(local, here.local.port()), ..here };
        others.extend(own.into_iter().map(|local| Hop::Udp(from(local))));
    }
    others.truncate(ELSEWHERE_MAX);
    let tried = ctx.shared.paths.try_also(ctx.now.instant, peer, others);
    tried.into_iter().filter(|hop| *hop != here).collect()
}

/// The path of IKE is another one, and the peer has not asked for that: how it is told.
pub(super) fn tells_of_move(facts: &Facts, original_initiator: bool) -> Task {
    match (facts.features.mobike, original_initiator) {
        (true, true) => Task::UpdateAddresses,
        (true, false) => Task::AnnounceAddresses,
        // The peer follows what is authentic (RFC 7296 §2.23).
        (false, _) => Task::Liveness,
    }
}

/// Our address has changed: everything moves (RFC 4555 §3.5). Says whether it does. Where the configuration says that the peer is at
/// another address, that has to be proven.
pub(super) fn change_path(
    ctx: &mut Ctx,
    facts: &Facts,
    session: &Session,
    (local, remote): (Option<SocketAddr>, Option<SocketAddr>),
) -> bool {
    let here = ctx.shared.hop_of(facts);
    let (Some(used), Some(to)) = (here.udp(), remote.or(here.udp().map(|used| used.remote))) else {
        // In a stream no address of ours matters, and another one of the peer has to be proven.
        if let Some(remote) = remote {
            let hop = Hop::new(unspecified(remote, ctx.shared.config.nat_port), remote);
            // One that is not taken is counted there.
            let _ = ctx.shared.paths.look_there(ctx.now.instant, session.peer, hop);
        }
        return false;
    };
    let of_kind = |local: &SocketAddr| local.is_ipv4() == to.is_ipv4();
    let stays = Some(used.local).filter(|_| to.ip() == used.remote.ip());
    let local = local.or_else(|| ctx.shared.peers.get(&session.peer).and_then(|peer| peer.local));
    let from = local.filter(of_kind).or(stays).unwrap_or_else(|| unspecified(to, used.local.port()));
    let hop = goes_on(here, Hop::new(from, to), ctx.shared.config.nat_port);
    if hop.is_same(&here) {
        return false;
    }
    let (now, paths) = (ctx.now.instant, &mut ctx.shared.paths);
    if hop.remote() != here.remote() {
        // One that is not taken is counted there.
        let _ = paths.look_there(now, session.peer, hop);
        return false;
    }
    paths.decide(now, session.peer, hop).is_ok()
}

/// Where an IKE SA goes on that has left port 500: there is nothing for it to go back to.
fn goes_on(here: Hop, hop: Hop, nat_port: u16) -> Hop {
    if here.is_from_ike_port() { hop } else { hop.floated(nat_port) }
}

/// Whether our address is configured.
pub(super) fn is_fixed(config: &PeerConfig) -> bool {
    config.local.is_some_and(|local| !local.ip().is_unspecified())
}
