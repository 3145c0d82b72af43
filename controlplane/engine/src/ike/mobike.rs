//! MOBIKE (RFC 4555) on the wire: what requests and answers say of addresses. What follows from it is decided in [`crate::path`];
//! whoever began the connection says where it goes, the other end checks that the way back works.

use std::net::IpAddr;

use adit_proto::ike::{ExchangeType, Notify, NotifyType, Payload};
use aws_lc_rs::constant_time::verify_slices_are_equal;

use super::addresses::Addresses;
use super::agenda::Task;
use super::cause::Cause;
use super::change::Change;
use super::config::PeerConfig;
use super::context::Ctx;
use super::error::Misbehaviour;
use super::evidence;
use super::exchange::{Answer, Begun, Effect, Established, Request};
use super::facts::Facts;
use super::nat;
use super::parts::Parts;
use super::wire::Came;
use crate::limits::ADDRESSES_NAMED_MAX;
use crate::path::{Hop, Moves};

/// What a request about addresses was.
#[derive(Debug)]
pub(super) struct Sent {
    kind: Kind,
    /// COOKIE2 (§3.7); empty towards a peer without MOBIKE.
    cookie: Vec<u8>,
    /// Where it was sent first.
    hop: Hop,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Update,
    Announce,
    RouteCheck,
}

impl Sent {
    /// What has to be done again where the answer cannot come.
    pub(super) fn task(&self) -> Option<Task> {
        match self.kind {
            Kind::Update => Some(Task::UpdateAddresses),
            Kind::Announce => Some(Task::AnnounceAddresses),
            // The path asks again.
            Kind::RouteCheck => None,
        }
    }
}

/// What the process before this one said about addresses, or was about to say, is said again.
pub(super) fn confirms_path(facts: &Facts, original_initiator: bool) -> Option<Task> {
    (facts.features.mobike && original_initiator).then_some(Task::UpdateAddresses)
}

/// Says that we are at another address (§3.5).
pub(super) fn update(ctx: &mut Ctx, facts: &Facts, config: &PeerConfig) -> Begun<Sent> {
    let mut payloads: Vec<Payload> = vec![Notify::new(NotifyType::UPDATE_SA_ADDRESSES).into()];
    let hop = ctx.shared.hop_of(facts);
    if facts.nat.supported {
        payloads.extend(facts.detection(&hop, config.force_encapsulation));
    }
    tell(ctx, facts, config, (Kind::Update, payloads, hop))
}

/// Says at which other addresses we can be reached, too (§3.6).
pub(super) fn announce(ctx: &mut Ctx, facts: &Facts, config: &PeerConfig) -> Begun<Sent> {
    let hop = ctx.shared.hop_of(facts);
    tell(ctx, facts, config, (Kind::Announce, Vec::new(), hop))
}

/// A request that tells our other addresses.
fn tell(ctx: &mut Ctx, facts: &Facts, config: &PeerConfig, (kind, mut payloads, hop): (Kind, Vec<Payload>, Hop)) -> Begun<Sent> {
    payloads.extend(own_addresses_payloads(ctx, config, hop));
    let reported = Change::OwnAddresses(own_addresses(ctx, config, hop));
    Begun { request: Some(request(ctx, facts, kind, payloads, hop)), effects: vec![reported.into()] }
}

/// Asks for an answer from there. A peer without MOBIKE gets an empty request, which is as good a question.
pub(super) fn route_check(ctx: &mut Ctx, facts: &Facts, hop: Hop) -> Request<Sent> {
    request(ctx, facts, Kind::RouteCheck, Vec::new(), hop)
}

/// Our addresses at which the peer can reach us, too, besides the one of `here` (§3.4, §3.6).
pub(super) fn own_addresses_payloads(ctx: &mut Ctx, config: &PeerConfig, here: Hop) -> Vec<Payload> {
    match own_addresses(ctx, config, here).as_slice() {
        [] => vec![Notify::new(NotifyType::NO_ADDITIONAL_ADDRESSES).into()],
        own => own.iter().map(|address| Notify::additional_address(*address).into()).collect(),
    }
}

/// The same as addresses. None where ours is configured: nothing is received on the others.
pub(super) fn own_addresses(ctx: &mut Ctx, config: &PeerConfig, here: Hop) -> Vec<IpAddr> {
    if evidence::is_fixed(config) { Vec::new() } else { ctx.shared.paths.own_addresses(here) }
}

/// Our addresses have changed: the peer is told if its list is another one now.
pub(super) fn on_addresses_changed(ctx: &mut Ctx, facts: &Facts, config: &PeerConfig, known: &Addresses) -> Option<Task> {
    let hop = ctx.shared.hop_of(facts);
    let own = own_addresses(ctx, config, hop);
    (facts.features.mobike && !known.was_reported(&own)).then_some(Task::AnnounceAddresses)
}

fn request(ctx: &mut Ctx, facts: &Facts, kind: Kind, mut payloads: Vec<Payload>, hop: Hop) -> Request<Sent> {
    let mut cookie = Vec::new();
    // What comes back in a stream has been received there.
    if facts.features.mobike && !hop.is_stream() {
        cookie = ctx.bytes::<16>().to_vec();
        payloads.push(Notify::new(NotifyType::COOKIE2).with_data(cookie.clone()).into());
    }
    Request { exchange: ExchangeType::INFORMATIONAL, payloads, sent: Sent { kind, cookie, hop } }
}

/// The answer to a request about addresses. One that is not the peer's ends the IKE SA (§3.7).
pub(super) fn on_answer(ctx: &mut Ctx, sa: &Established, sent: &Sent, parts: &Parts) -> Vec<Effect> {
    let cookie = parts.notify(NotifyType::COOKIE2).map_or(&[][..], |notify| &notify.data);
    if !sent.cookie.is_empty() && verify_slices_are_equal(cookie, &sent.cookie).is_err() {
        return vec![Effect::Fail(Misbehaviour::OtherCookie2.into())];
    }
    let here = sa.hop(ctx.shared);
    match sent.kind {
        Kind::Announce | Kind::RouteCheck => Vec::new(),
        // The answer says nothing about the newest path.
        Kind::Update if !sent.hop.is_same(&here) => vec![Change::Want(Task::UpdateAddresses).into()],
        Kind::Update => {
            let seen = Change::SeenAnew(nat::seen_destination(parts.notifies.iter())).into();
            let refusals = [NotifyType::UNACCEPTABLE_ADDRESSES, NotifyType::UNEXPECTED_NAT_DETECTED];
            if let Some(notify) = refusals.into_iter().find(|refusal| parts.has(*refusal)) {
                let cause = Cause::Refused { exchange: ExchangeType::INFORMATIONAL, notify };
                ctx.record(sa.facts.peer, |record| record.problem(&cause));
                return vec![seen];
            }
            std::iter::once(seen).chain(detected(sa.facts, here, parts)).collect()
        }
    }
}

/// What the peer's NAT detection says of this way.
fn detected(facts: &Facts, hop: Hop, parts: &Parts) -> Option<Effect> {
    let nat = nat::detect((facts.spis.initiator, facts.spis.responder), &hop, parts.notifies.iter());
    nat.supported.then(|| Effect::Nat(nat.claiming(facts.nat.claimed)))
}

/// What an INFORMATIONAL request says about addresses.
pub(super) fn answer(ctx: &mut Ctx, sa: &Established, parts: &Parts) -> Answer {
    let mut answer = Answer::default();
    if !sa.facts.features.mobike {
        return answer;
    }
    let addresses = additional_addresses(parts);
    let said = !addresses.is_empty() || parts.has(NotifyType::NO_ADDITIONAL_ADDRESSES);
    if said {
        answer.before.push(Change::AddressesOfPeer(addresses).into());
    }
    let Came { hop: came, bytes } = sa.came;
    let moved = !came.is_same(&sa.hop(ctx.shared));
    let (now, decides) = (ctx.now.instant, sa.session.original_initiator);
    if said && decides && moved {
        // The responder can be reached here now, and only we may move (§3.6). One that is not taken is counted.
        let _ = ctx.shared.paths.candidate(now, sa.session.peer, came, Moves::Both, bytes);
    }
    if parts.has(NotifyType::UPDATE_SA_ADDRESSES) && !decides {
        match ctx.shared.paths.candidate(now, sa.session.peer, came, Moves::Both, bytes) {
            Ok(()) => answer.before.extend(detected(sa.facts, came, parts)),
            Err(_) => answer.payloads.push(Notify::new(NotifyType::UNACCEPTABLE_ADDRESSES).into()),
        }
    }
    if parts.has(NotifyType::NAT_DETECTION_SOURCE_IP) {
        answer.payloads.extend(sa.facts.detection(&came, sa.session.config.force_encapsulation));
    }
    answer.payloads.extend(parts.notify(NotifyType::COOKIE2).cloned().map(Payload::from));
    answer
}

/// Whether a NAT is on our side that might change its mind, and it is our business to notice (§3.8).
fn watches_nat(facts: &Facts, original_initiator: bool) -> bool {
    facts.features.mobike && original_initiator && facts.nat.here
}

/// Learns at once how the peer sees us, to compare with what it says later: the mapping of port 500 was another one.
pub(super) fn watch_nat(facts: &Facts, original_initiator: bool) -> Option<Task> {
    watches_nat(facts, original_initiator).then_some(Task::Liveness)
}

/// Proof of life is asked for together with how the peer sees us, where a NAT might have changed its mind.
pub(super) fn liveness_payloads(ctx: &Ctx, sa: &Established) -> Vec<Payload> {
    if !watches_nat(sa.facts, sa.session.original_initiator) {
        return Vec::new();
    }
    sa.facts.detection(&sa.hop(ctx.shared), sa.session.config.force_encapsulation)
}

/// What the answer to it says of that.
pub(super) fn on_liveness_answer(parts: &Parts) -> Option<Effect> {
    nat::seen_destination(parts.notifies.iter()).map(|seen| Change::Seen(seen).into())
}

/// The other addresses that a message names (§3.4).
pub(super) fn additional_addresses(parts: &Parts) -> Vec<IpAddr> {
    let kinds = [NotifyType::ADDITIONAL_IP4_ADDRESS, NotifyType::ADDITIONAL_IP6_ADDRESS];
    parts.notifies.iter().filter(|one| kinds.contains(&one.kind)).filter_map(Notify::address).take(ADDRESSES_NAMED_MAX).collect()
}
