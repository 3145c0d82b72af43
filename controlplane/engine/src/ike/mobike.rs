//! MOBIKE (RFC 4555) on the wire: what requests and answers say of addresses. What follows from it is decided in [`crate::path`];
//! whoever began the connection says where it goes, the other end checks that the way back works.

use std::net::IpAddr;

use adit_proto::ike::{ExchangeType, Notify, NotifyType, Payload};
use aws_lc_rs::constant_time::verify_slices_are_equal;

use super::agenda::Task;
use super::cause::Cause;
use super::config::PeerConfig;
use super::context::Ctx;
use super::error::{Error, Misbehaviour};
use super::evidence;
use super::exchange::{Established, Request};
use super::facts::Facts;
use super::nat;
use super::parts::Parts;
use super::session::Session;
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
pub(super) fn confirm_path(facts: &Facts, session: &mut Session) {
    if facts.features.mobike && session.original_initiator {
        session.want(Task::UpdateAddresses);
    }
}

/// Says that we are at another address (§3.5).
pub(super) fn update(ctx: &mut Ctx, facts: &Facts, session: &mut Session) -> Request<Sent> {
    let mut payloads: Vec<Payload> = vec![Notify::new(NotifyType::UPDATE_SA_ADDRESSES).into()];
    let hop = ctx.shared.hop_of(facts);
    if facts.nat.supported {
        payloads.extend(facts.detection(&hop, session.config.force_encapsulation));
    }
    payloads.extend(own_addresses_payloads(ctx, &session.config, hop));
    session.addresses.told(own_addresses(ctx, &session.config, hop));
    request(ctx, facts, Kind::Update, payloads, hop)
}

/// Says at which other addresses we can be reached, too (§3.6).
pub(super) fn announce(ctx: &mut Ctx, facts: &Facts, session: &mut Session) -> Request<Sent> {
    let hop = ctx.shared.hop_of(facts);
    let payloads = own_addresses_payloads(ctx, &session.config, hop);
    session.addresses.told(own_addresses(ctx, &session.config, hop));
    request(ctx, facts, Kind::Announce, payloads, hop)
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

/// None where our address is configured: nothing is received on the others.
fn own_addresses(ctx: &mut Ctx, config: &PeerConfig, here: Hop) -> Vec<IpAddr> {
    if evidence::is_fixed(config) { Vec::new() } else { ctx.shared.paths.own_addresses(here) }
}

/// This is what the peer has been told.
pub(super) fn note_addresses(ctx: &mut Ctx, facts: &Facts, session: &mut Session) {
    let hop = ctx.shared.hop_of(facts);
    session.addresses.told(own_addresses(ctx, &session.config, hop));
}

/// Our addresses have changed: the peer is told if its list is another one now.
pub(super) fn on_addresses_changed(ctx: &mut Ctx, facts: &Facts, session: &mut Session) {
    let hop = ctx.shared.hop_of(facts);
    let own = own_addresses(ctx, &session.config, hop);
    if facts.features.mobike && !session.addresses.was_told(&own) {
        session.want(Task::AnnounceAddresses);
    }
}

fn request(ctx: &mut Ctx, facts: &Facts, kind: Kind, mut payloads: Vec<Payload>, hop: Hop) -> Request<Sent> {
    let mut cookie = Vec::new();
    if facts.features.mobike {
        cookie = ctx.bytes::<16>().to_vec();
        payloads.push(Notify::new(NotifyType::COOKIE2).with_data(cookie.clone()).into());
    }
    Request { exchange: ExchangeType::INFORMATIONAL, payloads, sent: Sent { kind, cookie, hop } }
}

/// The answer to a request about addresses.
///
/// # Errors
/// It is not the peer's: the IKE SA must be closed (§3.7).
pub(super) fn on_answer(ctx: &mut Ctx, sa: &mut Established, sent: &Sent, parts: &Parts) -> Result<(), Error> {
    let cookie = parts.notify(NotifyType::COOKIE2).map_or(&[][..], |notify| &notify.data);
    if !sent.cookie.is_empty() && verify_slices_are_equal(cookie, &sent.cookie).is_err() {
        return Err(Misbehaviour::OtherCookie2.into());
    }
    let here = sa.hop(ctx.shared);
    match sent.kind {
        Kind::Announce | Kind::RouteCheck => {}
        // The answer says nothing about the newest path.
        Kind::Update if !sent.hop.is_same(&here) => sa.session.want(Task::UpdateAddresses),
        Kind::Update => {
            sa.session.addresses.set_seen(nat::seen_destination(parts.notifies.iter()));
            let refusals = [NotifyType::UNACCEPTABLE_ADDRESSES, NotifyType::UNEXPECTED_NAT_DETECTED];
            if let Some(notify) = refusals.into_iter().find(|refusal| parts.has(*refusal)) {
                let cause = Cause::Refused { exchange: ExchangeType::INFORMATIONAL, notify };
                ctx.record(sa.facts.peer, |record| record.problem(&cause));
            } else {
                take_detection(ctx, sa, here, parts);
            }
        }
    }
    Ok(())
}

/// What the peer's NAT detection says of this way.
fn take_detection(ctx: &mut Ctx, sa: &mut Established, hop: Hop, parts: &Parts) {
    let spis = (sa.facts.spis.initiator, sa.facts.spis.responder);
    let nat = nat::detect(spis, &hop, parts.notifies.iter());
    if nat.supported {
        sa.facts.nat = nat.claiming(sa.facts.nat.claimed);
        evidence::agree_on_paths(ctx, sa.facts, sa.session);
    }
}

/// What an INFORMATIONAL request says about addresses; gives what the answer says.
pub(super) fn answer(ctx: &mut Ctx, sa: &mut Established, parts: &Parts) -> Vec<Payload> {
    let mut answer: Vec<Payload> = Vec::new();
    if !sa.facts.features.mobike {
        return answer;
    }
    let addresses = additional_addresses(parts);
    let said = !addresses.is_empty() || parts.has(NotifyType::NO_ADDITIONAL_ADDRESSES);
    if said {
        sa.session.addresses.set_of_peer(addresses);
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
            Ok(()) => take_detection(ctx, sa, came, parts),
            Err(_) => answer.push(Notify::new(NotifyType::UNACCEPTABLE_ADDRESSES).into()),
        }
    }
    if parts.has(NotifyType::NAT_DETECTION_SOURCE_IP) {
        answer.extend(sa.facts.detection(&came, sa.session.config.force_encapsulation));
    }
    answer.extend(parts.notify(NotifyType::COOKIE2).cloned().map(Payload::from));
    answer
}

/// Whether a NAT is on our side that might change its mind, and it is our business to notice (§3.8).
fn watches_nat(facts: &Facts, session: &Session) -> bool {
    facts.features.mobike && session.original_initiator && facts.nat.here
}

/// Learns at once how the peer sees us, to compare with what it says later: the mapping of port 500 was another one.
pub(super) fn watch_nat(facts: &Facts, session: &mut Session) {
    if watches_nat(facts, session) {
        session.want(Task::Liveness);
    }
}

/// Proof of life is asked for together with how the peer sees us, where a NAT might have changed its mind.
pub(super) fn liveness_payloads(ctx: &Ctx, facts: &Facts, session: &Session) -> Vec<Payload> {
    if !watches_nat(facts, session) {
        return Vec::new();
    }
    facts.detection(&ctx.shared.hop_of(facts), session.config.force_encapsulation).into()
}

pub(super) fn on_liveness_answer(session: &mut Session, parts: &Parts) {
    let Some(seen) = nat::seen_destination(parts.notifies.iter()) else { return };
    if session.addresses.take_seen(seen) {
        session.want(Task::UpdateAddresses);
    }
}

/// The other addresses that a message names (§3.4).
pub(super) fn additional_addresses(parts: &Parts) -> Vec<IpAddr> {
    let kinds = [NotifyType::ADDITIONAL_IP4_ADDRESS, NotifyType::ADDITIONAL_IP6_ADDRESS];
    parts.notifies.iter().filter(|one| kinds.contains(&one.kind)).filter_map(Notify::address).take(ADDRESSES_NAMED_MAX).collect()
}
