//! One IKE SA in a snapshot: what is written, and how it is put together again.

use std::sync::Arc;

use adit_proto::codec::DecodeError;
use adit_proto::control::{ChildId, PeerId, Selector, Spi};
use adit_proto::ike::{AddressRange, ExchangeType, IkeSpi, IpSelector, KeId, PortRange, PrfId};
use adit_proto::suite::Suite;

use crate::crypto::{IkeKeys, KeyExchangeMethod, Prf, Secret};

use super::super::agenda::Task;
use super::super::child::{Child, ChildState, Limits, Sending, Usage};
use super::super::children::{Children, DrainingOutbound};
use super::super::config::{Mode, PeerConfig};
use super::super::context::Ctx;
use super::super::crash::Tokens;
use super::super::evidence;
use super::super::facts::{Facts, Features, IkeSpis, Role, SaId};
use super::super::informational::{Orphan, Sent};
use super::super::initiated::Initiated;
use super::super::lifetimes::Lifetimes;
use super::super::nat::NatStatus;
use super::super::negotiate::Choice;
use super::super::proof::Proof;
use super::super::protect::Protection;
use super::super::sa::{IkeSa, Stage};
use super::super::selectors::{SelectorPair, pair_of, sides_of};
use super::super::session::{Made, Session};
use super::super::share;
use super::super::standing::{Standing, StandingParts};
use super::super::succession::{Hold, Succession, SuccessionParts};
use super::super::trust::{OwnProof, Trust};
use super::super::window::Window;
use super::super::wishes::{Wants, Wish};
use super::bytes::{In, Out};
use super::clock::BootClock;
use crate::path::{Hop, Moves, Paths, StreamId, UdpHop};
use crate::shown::Shown;

/// What may be sent to where the peer was seen last: one request for a proof, as it had asked for with what it sent then.
const PROOF_CREDIT: usize = 160;

type Decoded<T> = Result<T, DecodeError>;

/// Writes an established IKE SA: only what a successor cannot find out. What has gone through the SAs is counted by the data
/// plane, and when the peer was heard last is asked anew.
pub(super) fn write(out: &mut Out, clock: BootClock, sa: &IkeSa, paths: &Paths) {
    let (Some(session), Some(peer)) = (sa.session(), sa.facts.peer) else { return };
    out.u16(peer.0);
    out.raw(&session.proof.trust().name);
    out.raw(&session.proof.trust().all);
    out.u64(sa.facts.spis.initiator.0);
    out.u64(sa.facts.spis.responder.0);
    out.flag(sa.facts.role == Role::Initiator);
    // One that is not confirmed has a place of its own, where nothing else of the peer goes.
    let kept = paths.kept(peer).filter(|_| !session.succession.holds());
    let (hop, latest, mtu) = kept.unwrap_or((sa.facts.hop, sa.facts.hop, 0));
    for hop in [hop, latest] {
        write_hop(out, hop);
    }
    out.u16(mtu);
    for flag in [sa.facts.nat.supported, sa.facts.nat.here, sa.facts.nat.there, sa.facts.nat.claimed] {
        out.flag(flag);
    }
    // Whether it is childless matters in IKE_AUTH only.
    let Features { fragmentation, intermediate, ppk, adit, mobike, childless: _, echo, split, candidates, stream_key } =
        sa.facts.features;
    for flag in [fragmentation, intermediate, ppk, adit, mobike, echo, split, candidates] {
        out.flag(flag);
    }
    out.bytes(stream_key.as_ref().map_or(&[], |key| key.as_slice()));
    out.time(clock, sa.created);
    write_window(out, sa);
    write_choice(out, &session.made.choice);
    out.bytes(session.made.keys.material().expose());
    write_session(out, clock, session);
    out.list(session.children.iter(), |out, child| write_child(out, clock, child, session));
}

/// Puts an IKE SA together; `None` if its peer is not configured any more, if another one has its number, or if the record
/// makes no sense. With which trust it was made is for the caller to look at.
pub(in crate::ike) fn read(ctx: &mut Ctx, clock: BootClock, bytes: &[u8]) -> Option<IkeSa> {
    let mut input = In::new(bytes);
    let peer = PeerId(input.u16().ok()?);
    let trust = Trust { name: input.array().ok()?, all: input.array().ok()? };
    let configured = ctx.shared.peers.get(&peer).filter(|configured| configured.trust.is_same_peer(&trust))?;
    let config = configured.config.clone();
    let (mut sa, mut places) = read_sa(ctx, clock, &mut input).ok()?;
    sa.facts.peer = Some(peer);
    // Our sockets may be elsewhere than those of the process before.
    let before = sa.facts.hop;
    for hop in [&mut sa.facts.hop, &mut places.used, &mut places.latest] {
        *hop = hop.bound_to(ctx.shared.bound_at(peer));
    }
    let window = read_window(&mut input).ok()?;
    let choice = read_choice(&mut input).ok()?;
    let material = Secret::copy_of(input.part().ok()?);
    let keys = IkeKeys::from_material(choice.prf?, choice.suite, material).ok()?;
    sa.wire.trust(ctx.shared, sa.facts.id);
    sa.wire.protect(Protection::new(&keys, sa.facts.role, ctx.random));
    let own = OwnProof::of(&config);
    let mut session = read_session(&mut input, clock, (peer, config, trust), (keys, choice)).ok()?;
    let original_initiator = session.original_initiator;
    let standing = session.proof.standing_mut();
    standing.plan(ctx.now, original_initiator);
    standing.reconsider(ctx.now, own);
    let children = input.list(|input| read_child(input, clock)).ok()?;
    input.finish().ok()?;
    for mut child in children {
        if !child.is_sending() && !session.succession.is_redundant() {
            // Perhaps it was: its key is not used again, and the peer waits for nothing else than another SA. (That of an IKE SA
            // which is to go has no turn.)
            child.limits.rekey_at = Some(ctx.now.instant);
        }
        ctx.shared.spis.assign(child.inbound, sa.facts.id);
        let what = (child.config, child.mode, &child.selectors);
        let pairs = share::pairs_of(&session, child.config, &child.selectors);
        ctx.shared.spis.children.hold(peer, (sa.facts.id, child.inbound), Some(child.id), what, pairs);
        match child.state {
            // Not configured any more, or about to be deleted before.
            ChildState::Closing => session.want(Task::DeleteChildren(vec![child.inbound])),
            _ if child.is_unwanted(session.child_config(child.config)) => session.want(Task::DeleteChildren(vec![child.inbound])),
            ChildState::Live | ChildState::Replaced { .. } => {}
        }
        session.children.adopt(child);
    }
    for (_, spi) in session.children.draining_inbound() {
        ctx.shared.spis.assign(*spi, sa.facts.id);
        ctx.shared.spis.children.hold_late(peer, *spi);
    }
    if session.succession.holds() {
        session.want(Task::Liveness);
    }
    // Whatever was to be made, and was not, is noticed soon.
    session.wants.look_at(ctx.now.instant);
    if sa.facts.hop != before.normal() {
        session.want(evidence::tells_of_move(&sa.facts, original_initiator));
    }
    sa.stage = Stage::Established(Box::new(session));
    restore_window(ctx, &mut sa, window);
    restore_path(ctx, &sa, peer, places);
    Some(sa)
}

fn write_hop(out: &mut Out, hop: Hop) {
    match hop {
        Hop::Udp(UdpHop { local, interface, remote }) => {
            out.flag(false);
            out.addr(local);
            out.addr(remote);
            out.u64(interface.into());
        }
        Hop::Stream(stream) => {
            out.flag(true);
            out.u64(stream.0);
        }
    }
}

fn read_hop(input: &mut In) -> Decoded<Hop> {
    if input.flag()? {
        return Ok(Hop::Stream(StreamId(input.u64()?)));
    }
    let (local, remote) = (input.addr()?, input.addr()?);
    let interface = u32::try_from(input.u64()?).map_err(|_| DecodeError::BadValue("interface"))?;
    Ok(Hop::Udp(UdpHop { local, interface, remote }))
}

fn read_sa(ctx: &Ctx, clock: BootClock, input: &mut In) -> Decoded<(IkeSa, Places)> {
    let spis = IkeSpis { initiator: IkeSpi(input.u64()?), responder: IkeSpi(input.u64()?) };
    let role = if input.flag()? { Role::Initiator } else { Role::Responder };
    let places = Places { used: read_hop(input)?, latest: read_hop(input)?, mtu: input.u16()? };
    let mut sa = IkeSa::new(ctx.now.instant, Facts::new(role, spis, places.used));
    sa.facts.nat = NatStatus { supported: input.flag()?, here: input.flag()?, there: input.flag()?, claimed: input.flag()? };
    sa.facts.features = Features {
        fragmentation: input.flag()?,
        intermediate: input.flag()?,
        ppk: input.flag()?,
        adit: input.flag()?,
        mobike: input.flag()?,
        childless: false,
        echo: input.flag()?,
        split: input.flag()?,
        candidates: input.flag()?,
        stream_key: input.part()?.try_into().ok(),
    };
    sa.created = input.time(clock)?;
    Ok((sa, places))
}

/// Where the peer is, where it was seen last, and how large a packet was proven to get there.
struct Places {
    used: Hop,
    latest: Hop,
    mtu: u16,
}

/// The path that was in use is used again; where the peer was seen last it is asked for a proof again.
fn restore_path(ctx: &mut Ctx, sa: &IkeSa, peer: PeerId, places: Places) {
    if places.mtu > 0 {
        ctx.shared.paths.remember_size(peer, places.used.site(), places.mtu);
    }
    let Some(session) = sa.session().filter(|session| !session.succession.holds()) else { return };
    evidence::establish_path(ctx, &sa.facts, session);
    if places.latest != places.used {
        // One that is not taken is counted.
        let _ = ctx.shared.paths.candidate(ctx.now.instant, peer, places.latest, Moves::Both, PROOF_CREDIT);
    }
}

/// A request that was under way, and what it would have made.
struct UnderWay {
    exchange: ExchangeType,
    datagrams: Vec<Vec<u8>>,
    orphan: Orphan,
}

struct WindowRecord {
    next_id: u32,
    expected_id: u32,
    answer: Vec<Vec<u8>>,
    under_way: Option<UnderWay>,
}

fn write_window(out: &mut Out, sa: &IkeSa) {
    let window = &sa.wire.window;
    out.u64(window.next_id().into());
    out.u64(window.expected_id().into());
    out.list(window.last_answer().datagrams.iter(), |out, datagram| out.bytes(datagram));
    out.option(window.outstanding(), |out, outstanding| {
        out.u8(outstanding.exchange.0);
        out.list(outstanding.sent.datagrams.iter(), |out, datagram| out.bytes(datagram));
        let orphan = match &outstanding.context {
            Initiated::CreateChild(sent) => Orphan::Child(sent.inbound()),
            Initiated::FollowUp(sent) => sent.inbound().map_or(Orphan::Ike, Orphan::Child),
            Initiated::RekeyIke(_) => Orphan::Ike,
            // Deleting twice does no harm: the ones that are there still are deleted again.
            Initiated::Informational(Sent::DeleteOrphan(spi)) => Orphan::Deleted(*spi),
            Initiated::Informational(_) | Initiated::SaInit(_) | Initiated::Intermediate(_) | Initiated::Auth(_) => Orphan::Other,
            Initiated::Orphan(orphan) => *orphan,
        };
        let (kind, spi) = match orphan {
            Orphan::Other => (0, 0),
            Orphan::Child(spi) => (1, spi.0),
            Orphan::Ike => (2, 0),
            Orphan::Deleted(spi) => (3, spi.0),
        };
        out.u8(kind);
        out.u64(spi.into());
    });
}

fn read_window(input: &mut In) -> Decoded<WindowRecord> {
    let id = |input: &mut In| u32::try_from(input.u64()?).map_err(|_| DecodeError::BadValue("message id"));
    Ok(WindowRecord {
        next_id: id(input)?,
        expected_id: id(input)?,
        answer: input.list(In::bytes)?,
        under_way: input.option(|input| {
            let exchange = ExchangeType(input.u8()?);
            let datagrams = input.list(In::bytes)?;
            let kind = input.u8()?;
            let spi = Spi(u32::try_from(input.u64()?).map_err(|_| DecodeError::BadValue("SPI"))?);
            let orphan = match kind {
                0 => Orphan::Other,
                1 => Orphan::Child(spi),
                2 => Orphan::Ike,
                3 => Orphan::Deleted(spi),
                _ => return Err(DecodeError::BadValue("request")),
            };
            Ok(UnderWay { exchange, datagrams, orphan })
        })?,
    })
}

fn restore_window(ctx: &mut Ctx, sa: &mut IkeSa, record: WindowRecord) {
    sa.wire.window = Window::resumed(record.next_id, record.expected_id, record.answer);
    if let Some(UnderWay { exchange, datagrams, orphan }) = record.under_way {
        if let Orphan::Child(spi) | Orphan::Deleted(spi) = orphan {
            ctx.shared.spis.assign(spi, sa.facts.id);
        }
        let policy = ctx.shared.config.retransmission;
        sa.wire.window.sent(ctx.now.instant, exchange, datagrams.into(), Initiated::Orphan(orphan), &policy);
        // The answer may have come while nobody took it.
        sa.wire.window.begin_again(ctx.now.instant);
    }
}

fn write_choice(out: &mut Out, choice: &Choice) {
    out.u8(choice.suite as u8);
    out.option(choice.prf, |out, prf| out.u16(prf.id().0));
    out.option(choice.key_exchange, |out, method| out.u16(method.id().0));
    out.list(choice.additional.iter(), |out, method| out.u16(method.id().0));
    out.flag(choice.esn);
    out.bytes(&choice.spi);
    out.u8(choice.number);
}

fn read_choice(input: &mut In) -> Decoded<Choice> {
    let method =
        |input: &mut In| KeyExchangeMethod::from_id(KeId(input.u16()?)).ok_or(DecodeError::BadValue("key exchange method"));
    let suite = Suite::from_code(input.u8()?).ok_or(DecodeError::BadValue("suite"))?;
    let prf = input.option(|input| Prf::from_id(PrfId(input.u16()?)).ok_or(DecodeError::BadValue("PRF")))?;
    let key_exchange = input.option(method)?;
    let additional = input.list(method)?;
    let esn = input.flag()?;
    let (spi, number) = (input.bytes()?, input.u8()?);
    let mut choice = Choice { number, suite, prf, key_exchange, additional, esn, spi, transforms: Vec::new() };
    choice.rebuild_transforms();
    Ok(choice)
}

/// Times of the wall clock as they are; what follows from them is worked out anew.
fn write_standing(out: &mut Out, clock: BootClock, standing: &Standing) {
    let StandingParts { since, peer_until, own_until, asked, granted, wanted, own } = standing.parts();
    out.option(peer_until, Out::u64);
    out.option(own_until, Out::u64);
    for at in [since, asked, granted, wanted] {
        out.option(at, |out, at| out.time(clock, at));
    }
    out.option(own.as_ref(), |out, own| out.raw(&own.0));
}

fn read_standing(input: &mut In, clock: BootClock) -> Decoded<Standing> {
    let (peer_until, own_until) = (input.option(In::u64)?, input.option(In::u64)?);
    let mut time = || input.option(|input| input.time(clock));
    let (since, asked, granted, wanted) = (time()?, time()?, time()?, time()?);
    let own = input.option(|input| Ok(OwnProof(input.array()?)))?;
    Ok(Standing::of_parts(StandingParts { since, peer_until, own_until, asked, granted, wanted, own }))
}

fn write_succession(out: &mut Out, clock: BootClock, succession: &Succession) {
    let SuccessionParts { successor, redundant_since, silent_until, predecessor, collision, hold } = succession.parts();
    out.option(successor, |out, (successor, since)| {
        out.u64(successor.0.0);
        out.time(clock, since);
    });
    out.option(redundant_since, |out, at| out.time(clock, at));
    out.option(silent_until, |out, at| out.time(clock, at));
    out.option(predecessor, |out, id| out.u64(id.0.0));
    out.option(collision, |out, (id, lowest_nonce)| {
        out.u64(id.0.0);
        out.bytes(&lowest_nonce);
    });
    out.option(hold, |out, hold| out.flag(hold.restarted));
}

fn read_succession(input: &mut In, clock: BootClock) -> Decoded<Succession> {
    let sa_id = |input: &mut In| input.u64().map(|id| SaId(IkeSpi(id)));
    Ok(Succession::of_parts(SuccessionParts {
        successor: input.option(|input| Ok((sa_id(input)?, input.time(clock)?)))?,
        redundant_since: input.option(|input| input.time(clock))?,
        silent_until: input.option(|input| input.time(clock))?,
        predecessor: input.option(sa_id)?,
        collision: input.option(|input| Ok((sa_id(input)?, input.bytes()?)))?,
        hold: input.option(|input| Ok(Hold { restarted: input.flag()? }))?,
    }))
}

fn write_draining(out: &mut Out, clock: BootClock, children: &Children) {
    out.list(children.draining_inbound().iter(), |out, (until, spi)| {
        out.time(clock, *until);
        out.u64(spi.0.into());
    });
    out.list(children.draining_outbound().iter(), |out, draining| {
        out.time(clock, draining.until);
        out.u16(draining.place.0.0);
        out.u8(draining.place.1);
        out.u64(draining.outbound.0.into());
    });
}

fn read_draining(input: &mut In, clock: BootClock, peer: PeerId) -> Decoded<Children> {
    let inbound = input.list(|input| Ok((input.time(clock)?, read_spi(input)?)))?;
    let outbound = input.list(|input| {
        let until = input.time(clock)?;
        let child = ChildId(input.u16()?);
        Ok(DrainingOutbound { until, place: (child, input.u8()?), outbound: read_spi(input)? })
    })?;
    Ok(Children::restored(peer, inbound, outbound))
}

fn write_session(out: &mut Out, clock: BootClock, session: &Session) {
    out.text(session.proof.remote_id());
    out.text(session.proof.by());
    out.flag(session.proof.uses_ppk());
    write_standing(out, clock, session.proof.standing());
    out.flag(session.original_initiator);
    out.bytes(&session.made.lowest_nonce);
    out.time(clock, session.lifetimes.established());
    out.option(session.lifetimes.rekey_at(), |out, at| out.time(clock, at));
    out.option(session.lifetimes.expire_at(), |out, at| out.time(clock, at));
    let (peer_lanes, lanes_max) = session.wants.peer_lanes();
    out.u8(peer_lanes);
    out.u8(lanes_max);
    write_left(out, &session.wants.left());
    out.list(session.tokens.iter(), |out, token| out.bytes(token));
    write_succession(out, clock, &session.succession);
    write_draining(out, clock, &session.children);
    let orphans: Vec<Spi> = session.agenda.orphans().collect();
    out.list(orphans.iter(), |out, spi| out.u64(spi.0.into()));
}

fn read_session(
    input: &mut In,
    clock: BootClock,
    (peer, config, trust): (PeerId, Arc<PeerConfig>, Trust),
    (keys, choice): (IkeKeys, Choice),
) -> Decoded<Session> {
    let (remote_id, by, uses_ppk) = (input.text()?, input.text()?, input.flag()?);
    let proof = Proof::new(Shown::of(remote_id), Shown::of(by), uses_ppk, trust, read_standing(input, clock)?);
    let original_initiator = input.flag()?;
    let made = Made { keys, choice, lowest_nonce: input.bytes()? };
    let established = input.time(clock)?;
    let (rekey_at, expire_at) = (input.option(|input| input.time(clock))?, input.option(|input| input.time(clock))?);
    let lifetimes = Lifetimes::of_parts(established, rekey_at, expire_at);
    let mut session = Session::new(peer, config, original_initiator, made, proof, lifetimes);
    session.wants = Wants::new(original_initiator).taken_over().with_lanes((input.u8()?, input.u8()?));
    let left = read_left(input)?.into_iter().map(|(child, pair)| Wish::Selector(child, pair));
    session.wants.leave_to_peer(established, left.collect());
    session.tokens = Tokens::restored(input.list(In::bytes)?);
    session.succession = read_succession(input, clock)?;
    session.children = read_draining(input, clock, peer)?;
    for spi in input.list(read_spi)? {
        session.want(Task::DeleteOrphan(spi));
    }
    Ok(session)
}

/// What the peer has ended: it is not asked to have it again.
fn write_left(out: &mut Out, left: &[(usize, Selector)]) {
    out.list(left.iter(), |out, (child, pair)| {
        out.u16(u16::try_from(*child).unwrap_or(u16::MAX));
        let (local, remote) = sides_of(pair);
        write_selector(out, &local);
        write_selector(out, &remote);
    });
}

fn read_left(input: &mut In) -> Decoded<Vec<(usize, Selector)>> {
    input.list(|input| {
        let (child, local, remote) = (input.u16()?.into(), read_selector(input)?, read_selector(input)?);
        Ok((child, pair_of(&local, &remote).ok_or(DecodeError::BadValue("selector"))?))
    })
}

fn read_spi(input: &mut In) -> Decoded<Spi> {
    u32::try_from(input.u64()?).map(Spi).map_err(|_| DecodeError::BadValue("SPI"))
}

fn write_child(out: &mut Out, clock: BootClock, child: &Child, session: &Session) {
    out.u16(child.id.0);
    out.u32(child.config);
    out.u8(child.lane);
    out.flag(child.mode == Mode::Ethernet);
    out.u64(child.inbound.0.into());
    out.u64(child.outbound.0.into());
    write_choice(out, &child.choice);
    for side in [&child.selectors.local, &child.selectors.remote] {
        out.list(side.iter(), write_selector);
    }
    out.time(clock, child.born);
    let (rekey_at, expire_at, volumes) = child.limits.parts();
    out.option(rekey_at, |out, at| out.time(clock, at));
    out.option(expire_at, |out, at| out.time(clock, at));
    volumes.into_iter().for_each(|volume| out.u64(volume));
    // Never a key: this may be read again long after it was used.
    out.flag(child.is_sending());
    out.option(child.replaces, |out, spi| out.u64(spi.0.into()));
    // A rekey of ours that is under way comes to nothing with this process, so the peer's of the same SA has its place.
    let collision =
        child.collision.as_ref().and_then(|collision| session.children.get(collision.inbound)).filter(|_| child.is_live());
    let state = collision.map_or(child.state, |by| ChildState::Replaced { by: by.inbound, since: by.born });
    match state {
        ChildState::Live => out.u8(0),
        ChildState::Replaced { by, since } => {
            out.u8(1);
            out.u64(by.0.into());
            out.time(clock, since);
        }
        ChildState::Closing => out.u8(2),
    }
    out.flag(child.superseded || collision.is_some());
    out.option(child.granted_in, |out, id| out.u64(id.into()));
}

fn read_child(input: &mut In, clock: BootClock) -> Decoded<Child> {
    let id = ChildId(input.u16()?);
    let config = usize::try_from(input.u32()?).map_err(|_| DecodeError::BadValue("child"))?;
    let lane = input.u8()?;
    let mode = if input.flag()? { Mode::Ethernet } else { Mode::Tunnel };
    let (inbound, outbound) = (read_spi(input)?, read_spi(input)?);
    let choice = read_choice(input)?;
    let selectors = SelectorPair { local: input.list(read_selector)?, remote: input.list(read_selector)? };
    let born = input.time(clock)?;
    let (rekey_at, expire_at) = (input.option(|input| input.time(clock))?, input.option(|input| input.time(clock))?);
    let limits = Limits::of_parts(rekey_at, expire_at, [input.u64()?, input.u64()?, input.u64()?, input.u64()?]);
    let sending = if input.flag()? { Sending::Installed } else { Sending::Lost };
    let replaces = input.option(read_spi)?;
    let state = match input.u8()? {
        0 => ChildState::Live,
        1 => ChildState::Replaced { by: read_spi(input)?, since: input.time(clock)? },
        2 => ChildState::Closing,
        _ => return Err(DecodeError::BadValue("state")),
    };
    let superseded = input.flag()?;
    let granted_in = input.option(|input| u32::try_from(input.u64()?).map_err(|_| DecodeError::BadValue("message id")))?;
    let (rekeying, collision) = (false, None);
    Ok(Child {
        id,
        config,
        lane,
        mode,
        inbound,
        outbound,
        choice,
        selectors,
        born,
        limits,
        usage: Usage::default(),
        sending,
        replaces,
        state,
        superseded,
        granted_in,
        rekeying,
        collision,
    })
}

fn write_selector(out: &mut Out, selector: &IpSelector) {
    out.u8(selector.protocol);
    out.u16(selector.ports.first);
    out.u16(selector.ports.last);
    out.text(&selector.addresses.first().to_string());
    out.text(&selector.addresses.last().to_string());
}

fn read_selector(input: &mut In) -> Decoded<IpSelector> {
    let protocol = input.u8()?;
    let ports = PortRange { first: input.u16()?, last: input.u16()? };
    let (first, last) = (input.text()?, input.text()?);
    let addresses = match (first.parse(), last.parse()) {
        (Ok(first), Ok(last)) => AddressRange::V4 { first, last },
        _ => match (first.parse(), last.parse()) {
            (Ok(first), Ok(last)) => AddressRange::V6 { first, last },
            _ => return Err(DecodeError::BadValue("selector")),
        },
    };
    Ok(IpSelector { protocol, ports, addresses })
}

#[cfg(test)]
mod tests {
    use adit_proto::ike::AddressRange;

    use super::*;

    #[test]
    fn what_the_peer_ended_is_read_as_it_was_written() {
        let range = |first: [u8; 4], last: [u8; 4]| AddressRange::V4 { first: first.into(), last: last.into() };
        let any = Selector::any_of(range([10, 1, 0, 0], [10, 1, 0, 255]), range([10, 2, 0, 0], [10, 2, 0, 255]));
        let ports = PortRange { first: 80, last: 443 };
        let left = vec![(0, any), (1, Selector { protocol: 6, remote_ports: ports, ..any })];
        let mut out = Out::new();
        write_left(&mut out, &left);
        let bytes = out.finish();
        let mut input = In::new(&bytes);
        assert_eq!(read_left(&mut input), Ok(left));
        assert!(input.is_empty());
    }
}
