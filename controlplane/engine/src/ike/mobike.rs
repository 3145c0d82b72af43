//! MOBIKE (RFC 4555) on the wire: what requests and answers say of addresses. What follows from it is decided in [`crate::path`];
//! whoever began the connection says where it goes, the other end checks that the way back works.

use std::net::IpAddr;

use adit_proto::ike::{Notify, NotifyType, Payload};
use aws_lc_rs::constant_time::verify_slices_are_equal;

use super::agenda::Task;
use super::context::Ctx;
use super::error::{Error, Misbehaviour};
use super::event::Cause;
use super::nat;
use super::parts::Parts;
use super::sa::{IkeSa, Stage};
use crate::path::{Hop, Moves};

/// Most addresses of a peer that are remembered, and of ours that it is told.
const ADDRESSES_MAX: usize = 8;

/// What an IKE SA knows about addresses.
#[derive(Clone, Debug, Default)]
pub(super) struct Mobike {
    /// Other addresses of the peer (§3.4).
    peer_addresses: Vec<IpAddr>,
    /// Other addresses of ours, as the peer was told.
    own_addresses: Vec<IpAddr>,
    /// The hash of our address as the peer saw it last (§3.8).
    seen: Option<[u8; 20]>,
}

impl Mobike {
    pub(super) fn peer_addresses(&self) -> &[IpAddr] {
        &self.peer_addresses
    }

    /// As the peer names them.
    pub(super) fn set_peer_addresses(&mut self, addresses: Vec<IpAddr>) {
        self.peer_addresses = addresses;
    }
}

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

impl IkeSa {
    /// What the process before this one said about addresses, or was about to say, is said again.
    pub(super) fn confirm_path(&mut self) {
        let says = self.facts.features.mobike && self.decides_path();
        if let Some(session) = self.session_mut().filter(|_| says) {
            session.want(Task::UpdateAddresses);
        }
    }

    pub(super) fn send_update_addresses(&mut self, ctx: &mut Ctx) -> Result<(), Error> {
        let mut payloads: Vec<Payload> = vec![Notify::new(NotifyType::UPDATE_SA_ADDRESSES).into()];
        let hop = self.hop(ctx);
        if self.facts.nat.supported {
            payloads.extend(self.detection(&hop));
        }
        payloads.extend(self.additional_addresses(ctx));
        self.note_addresses(ctx);
        self.send_about_addresses(ctx, Kind::Update, payloads, hop)
    }

    pub(super) fn send_additional_addresses(&mut self, ctx: &mut Ctx) -> Result<(), Error> {
        let payloads = self.additional_addresses(ctx);
        self.note_addresses(ctx);
        let hop = self.hop(ctx);
        self.send_about_addresses(ctx, Kind::Announce, payloads, hop)
    }

    /// Asks for an answer from there. A peer without MOBIKE gets an empty request, which is as good a question.
    pub(super) fn send_route_check(&mut self, ctx: &mut Ctx, hop: Hop) -> Result<(), Error> {
        self.send_about_addresses(ctx, Kind::RouteCheck, Vec::new(), hop)
    }

    /// Our addresses at which the peer can reach us, too (§3.4, §3.6).
    pub(super) fn additional_addresses(&self, ctx: &mut Ctx) -> Vec<Payload> {
        match self.own_addresses(ctx).as_slice() {
            [] => vec![Notify::new(NotifyType::NO_ADDITIONAL_ADDRESSES).into()],
            own => own.iter().map(|address| Notify::additional_address(*address).into()).collect(),
        }
    }

    fn own_addresses(&self, ctx: &mut Ctx) -> Vec<IpAddr> {
        let hop = self.hop(ctx);
        let mut own = ctx.shared.paths.other_addresses(hop);
        own.truncate(ADDRESSES_MAX);
        own
    }

    /// This is what the peer has been told.
    pub(super) fn note_addresses(&mut self, ctx: &mut Ctx) {
        let own = self.own_addresses(ctx);
        if let Some(session) = self.session_mut() {
            session.mobike.own_addresses = own;
        }
    }

    /// Our addresses have changed: the peer is told if its list is another one now.
    pub(super) fn announce_addresses(&mut self, ctx: &mut Ctx) {
        let own = self.own_addresses(ctx);
        let mobike = self.facts.features.mobike;
        if let Some(session) = self.session_mut().filter(|session| mobike && session.mobike.own_addresses != own) {
            session.want(Task::AnnounceAddresses);
        }
    }

    fn send_about_addresses(&mut self, ctx: &mut Ctx, kind: Kind, mut payloads: Vec<Payload>, hop: Hop) -> Result<(), Error> {
        let mut cookie = Vec::new();
        if self.facts.features.mobike {
            cookie = ctx.bytes::<16>().to_vec();
            payloads.push(Notify::new(NotifyType::COOKIE2).with_data(cookie.clone()).into());
        }
        self.send_addresses(ctx, &payloads, Sent { kind, cookie, hop }, hop)
    }

    pub(super) fn on_addresses_answer(&mut self, ctx: &mut Ctx, sent: Sent, parts: &Parts) {
        let cookie = parts.notify(NotifyType::COOKIE2).map_or(&[][..], |notify| &notify.data);
        if !sent.cookie.is_empty() && verify_slices_are_equal(cookie, &sent.cookie).is_err() {
            // RFC 4555 §3.7: then the IKE SA must be closed.
            return self.close_after_failure(ctx, Misbehaviour::OtherCookie2.into());
        }
        let here = self.hop(ctx);
        let Stage::Established(session) = &mut self.stage else { return };
        match sent.kind {
            Kind::Announce | Kind::RouteCheck => {}
            // The answer says nothing about the newest path.
            Kind::Update if !sent.hop.is_same(&here) => session.want(Task::UpdateAddresses),
            Kind::Update => {
                session.mobike.seen = nat::seen_destination(parts.notifies.iter());
                let refusals = [NotifyType::UNACCEPTABLE_ADDRESSES, NotifyType::UNEXPECTED_NAT_DETECTED];
                if let Some(notify) = refusals.into_iter().find(|refusal| parts.has(*refusal)) {
                    let cause = Cause::Refused { exchange: adit_proto::ike::ExchangeType::INFORMATIONAL, notify };
                    return ctx.record(self.facts.peer, |record| record.problem(&cause));
                }
                let nat = nat::detect((self.facts.spis.initiator, self.facts.spis.responder), &here, parts.notifies.iter());
                if nat.supported {
                    self.facts.nat = nat.claiming(self.facts.nat.claimed);
                    self.agree_on_paths(ctx);
                }
            }
        }
    }

    /// What an INFORMATIONAL request says about addresses; gives what the answer says.
    pub(super) fn answer_mobike(&mut self, ctx: &mut Ctx, parts: &Parts) -> Vec<Payload> {
        let mut answer: Vec<Payload> = Vec::new();
        if !self.facts.features.mobike {
            return answer;
        }
        let addresses = additional_addresses(parts);
        let said = !addresses.is_empty() || parts.has(NotifyType::NO_ADDITIONAL_ADDRESSES);
        if let Some(session) = self.session_mut().filter(|_| said) {
            session.mobike.peer_addresses = addresses;
        }
        let (came, bytes) = (self.wire.came().hop, self.wire.came().bytes);
        let moved = !came.is_same(&self.hop(ctx));
        let (now, decides) = (ctx.now.instant, self.decides_path());
        if said
            && decides
            && moved
            && let Some(peer) = self.facts.peer
        {
            // The responder can be reached here now, and only we may move (§3.6). One that is not taken is counted.
            let _ = ctx.shared.paths.candidate(now, peer, came, Moves::Both, bytes);
        }
        if parts.has(NotifyType::UPDATE_SA_ADDRESSES)
            && !decides
            && let Some(peer) = self.facts.peer
        {
            match ctx.shared.paths.candidate(now, peer, came, Moves::Both, bytes) {
                Ok(()) => {
                    let nat = nat::detect((self.facts.spis.initiator, self.facts.spis.responder), &came, parts.notifies.iter());
                    if nat.supported {
                        self.facts.nat = nat.claiming(self.facts.nat.claimed);
                        self.agree_on_paths(ctx);
                    }
                }
                Err(_) => answer.push(Notify::new(NotifyType::UNACCEPTABLE_ADDRESSES).into()),
            }
        }
        if parts.has(NotifyType::NAT_DETECTION_SOURCE_IP) {
            answer.extend(self.detection(&came));
        }
        answer.extend(parts.notify(NotifyType::COOKIE2).cloned().map(Payload::from));
        answer
    }

    /// Whether a NAT is on our side that might change its mind, and it is our business to notice (§3.8).
    fn watches_nat(&self) -> bool {
        self.facts.features.mobike && self.decides_path() && self.facts.nat.here
    }

    /// Learns at once how the peer sees us, to compare with what it says later: the mapping of port 500 was another one.
    pub(super) fn watch_nat(&mut self) {
        let watches = self.watches_nat();
        if let Some(session) = self.session_mut().filter(|_| watches) {
            session.want(Task::Liveness);
        }
    }

    /// Proof of life is asked for together with how the peer sees us, where a NAT might have changed its mind.
    pub(super) fn liveness_payloads(&self, ctx: &Ctx) -> Vec<Payload> {
        if self.watches_nat() { self.detection(&self.hop(ctx)).into() } else { Vec::new() }
    }

    pub(super) fn on_liveness_answer(&mut self, parts: &Parts) {
        let Some(session) = self.session_mut() else { return };
        let Some(seen) = nat::seen_destination(parts.notifies.iter()) else { return };
        if session.mobike.seen.replace(seen).is_some_and(|before| before != seen) {
            session.want(Task::UpdateAddresses);
        }
    }
}

/// The other addresses that a message names (§3.4).
pub(super) fn additional_addresses(parts: &Parts) -> Vec<IpAddr> {
    let kinds = [NotifyType::ADDITIONAL_IP4_ADDRESS, NotifyType::ADDITIONAL_IP6_ADDRESS];
    parts.notifies.iter().filter(|one| kinds.contains(&one.kind)).filter_map(Notify::address).take(ADDRESSES_MAX).collect()
}
