//! Moving to other addresses (RFC 4555). Whoever began the connection decides; the other end checks that the way back works.

use std::net::{IpAddr, SocketAddr};

use adit_proto::ike::{Notify, NotifyType, Payload};
use aws_lc_rs::constant_time::verify_slices_are_equal;

use super::context::Ctx;
use super::error::{Error, Misbehaviour};
use super::event::Event;
use super::nat::{self, Path};
use super::parts::Parts;
use super::sa::{IkeSa, Stage};
use super::session::Task;

/// Most addresses of a peer that are remembered.
const ADDRESSES_MAX: usize = 16;

/// What an IKE SA knows about addresses.
#[derive(Clone, Debug, Default)]
pub(super) struct Mobike {
    /// Other addresses of the peer (§3.4).
    pub peer_addresses: Vec<IpAddr>,
    /// Other addresses of ours, for the next announcement.
    pub own_addresses: Vec<IpAddr>,
    /// The hash of our address as the peer saw it last (§3.8).
    seen: Option<[u8; 20]>,
}

/// What a request about addresses was.
#[derive(Debug)]
pub(super) struct Sent {
    kind: Kind,
    /// COOKIE2 (§3.7).
    cookie: [u8; 16],
    /// The path on which it was sent first: an answer to a request that was repeated elsewhere proves nothing.
    path: Path,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Update,
    Announce,
    RouteCheck,
}

impl Sent {
    /// What has to be done again where the answer cannot come.
    pub(super) fn task(&self) -> Task {
        match self.kind {
            Kind::Update => Task::UpdateAddresses,
            Kind::Announce => Task::AnnounceAddresses,
            Kind::RouteCheck => Task::CheckRoute,
        }
    }
}

impl IkeSa {
    /// Whether we are the initiator in the sense of RFC 4555 §1.2: of the first IKE SA, whoever has rekeyed it since.
    pub(super) fn decides_path(&self) -> bool {
        self.session().is_some_and(|session| session.original_initiator)
    }

    fn spi_pair(&self) -> (adit_proto::ike::IkeSpi, adit_proto::ike::IkeSpi) {
        (self.spis.initiator, self.spis.responder)
    }

    fn forces_encapsulation(&self) -> bool {
        self.session().is_some_and(|session| session.config.force_encapsulation)
    }

    fn detection(&self, path: &Path) -> [Payload; 2] {
        nat::detection(self.spi_pair(), path, self.forces_encapsulation())
    }

    /// Our address has changed, or the peer's other address is to be used: everything moves, and the peer is told (§3.5).
    pub(super) fn change_path(&mut self, ctx: &mut Ctx, local: SocketAddr, remote: SocketAddr) {
        let path = Path { local, remote };
        if path == self.path {
            return;
        }
        self.move_to(ctx, path);
        let task = match (self.features.mobike, self.decides_path()) {
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

    /// What the process before this one asked about addresses, or was about to ask, is asked again: the data plane may still
    /// send where the peer was before it moved, or the peer where we were.
    pub(super) fn confirm_path(&mut self) {
        let task = if self.decides_path() { Task::UpdateAddresses } else { Task::CheckRoute };
        let mobike = self.features.mobike;
        if let Some(session) = self.session_mut().filter(|_| mobike) {
            session.want(task);
        }
    }

    pub(super) fn send_update_addresses(&mut self, ctx: &mut Ctx) -> Result<(), Error> {
        let mut payloads: Vec<Payload> = vec![Notify::new(NotifyType::UPDATE_SA_ADDRESSES).into()];
        if self.nat.supported {
            payloads.extend(self.detection(&self.path.clone()));
        }
        self.send_about_addresses(ctx, Kind::Update, payloads)
    }

    pub(super) fn send_additional_addresses(&mut self, ctx: &mut Ctx) -> Result<(), Error> {
        let own = self.session().map(|session| session.mobike.own_addresses.clone()).unwrap_or_default();
        let payloads = match own.as_slice() {
            [] => vec![Notify::new(NotifyType::NO_ADDITIONAL_ADDRESSES).into()],
            own => own.iter().map(|address| Notify::additional_address(*address).into()).collect(),
        };
        self.send_about_addresses(ctx, Kind::Announce, payloads)
    }

    pub(super) fn send_route_check(&mut self, ctx: &mut Ctx) -> Result<(), Error> {
        self.send_about_addresses(ctx, Kind::RouteCheck, Vec::new())
    }

    fn send_about_addresses(&mut self, ctx: &mut Ctx, kind: Kind, mut payloads: Vec<Payload>) -> Result<(), Error> {
        let cookie: [u8; 16] = ctx.bytes();
        payloads.push(Notify::new(NotifyType::COOKIE2).with_data(cookie).into());
        let sent = Sent { kind, cookie, path: self.path };
        self.send_addresses(ctx, &payloads, sent)
    }

    pub(super) fn on_addresses_answer(&mut self, ctx: &mut Ctx, sent: Sent, parts: &Parts) {
        let cookie = parts.notify(NotifyType::COOKIE2).map_or(&[][..], |notify| &notify.data);
        if verify_slices_are_equal(cookie, &sent.cookie).is_err() {
            // RFC 4555 §3.7: then the IKE SA must be closed.
            return self.close_after_failure(ctx, Misbehaviour::OtherCookie2.into());
        }
        let moved_on = sent.path != self.path;
        let Stage::Established(session) = &mut self.stage else { return };
        match sent.kind {
            Kind::Announce => {}
            // The answer says nothing about the newest path.
            Kind::Update if moved_on => session.want(Task::UpdateAddresses),
            Kind::RouteCheck if moved_on => session.want(Task::CheckRoute),
            Kind::RouteCheck => self.announce_path(ctx),
            Kind::Update => {
                session.mobike.seen = nat::seen_destination(parts.notifies.iter());
                let refused = parts.has(NotifyType::UNACCEPTABLE_ADDRESSES) || parts.has(NotifyType::UNEXPECTED_NAT_DETECTED);
                let nat = nat::detect((self.spis.initiator, self.spis.responder), &self.path, parts.notifies.iter());
                if nat.supported && !refused {
                    self.nat = nat.claiming(self.nat.claimed);
                }
                self.announce_path(ctx);
            }
        }
    }

    /// Tells the shell where ESP goes.
    pub(super) fn announce_path(&mut self, ctx: &mut Ctx) {
        if let Some(peer) = self.peer {
            ctx.event(Event::Path { peer, path: self.path, encapsulate: self.nat.is_between() });
        }
    }

    /// What an INFORMATIONAL request says about addresses; gives what the answer says.
    pub(super) fn answer_mobike(&mut self, parts: &Parts) -> Vec<Payload> {
        let mut answer: Vec<Payload> = Vec::new();
        if !self.features.mobike {
            return answer;
        }
        let addresses: Vec<IpAddr> = parts
            .notifies
            .iter()
            .filter(|notify| [NotifyType::ADDITIONAL_IP4_ADDRESS, NotifyType::ADDITIONAL_IP6_ADDRESS].contains(&notify.kind))
            .filter_map(Notify::address)
            .take(ADDRESSES_MAX)
            .collect();
        let said = !addresses.is_empty() || parts.has(NotifyType::NO_ADDITIONAL_ADDRESSES);
        if let Some(session) = self.session_mut().filter(|_| said) {
            session.mobike.peer_addresses = addresses;
        }
        if said && self.decides_path() && self.reply_path != self.path {
            // The responder can be reached here now, and only we may move (§3.6).
            self.path = self.reply_path;
            if let Some(session) = self.session_mut() {
                session.want(Task::UpdateAddresses);
            }
        }
        if parts.has(NotifyType::UPDATE_SA_ADDRESSES) && !self.decides_path() {
            self.path = self.reply_path;
            let nat = nat::detect(self.spi_pair(), &self.path, parts.notifies.iter());
            if nat.supported {
                self.nat = nat.claiming(self.nat.claimed);
            }
            if let Some(session) = self.session_mut() {
                session.want(Task::CheckRoute);
            }
        }
        if parts.has(NotifyType::NAT_DETECTION_SOURCE_IP) {
            answer.extend(self.detection(&self.reply_path.clone()));
        }
        answer.extend(parts.notify(NotifyType::COOKIE2).cloned().map(Payload::from));
        answer
    }

    /// Whether a NAT is on our side that might change its mind, and it is our business to notice (§3.8).
    fn watches_nat(&self) -> bool {
        self.features.mobike && self.decides_path() && self.nat.here
    }

    /// Learns at once how the peer sees us, to compare with what it says later: the mapping of port 500 was another one.
    pub(super) fn watch_nat(&mut self) {
        let watches = self.watches_nat();
        if let Some(session) = self.session_mut().filter(|_| watches) {
            session.want(Task::Liveness);
        }
    }

    /// The peer is probed (DPD) together with how the peer sees us, where a NAT might have changed its mind.
    pub(super) fn liveness_payloads(&self) -> Vec<Payload> {
        if self.watches_nat() { self.detection(&self.path).into() } else { Vec::new() }
    }

    pub(super) fn on_liveness_answer(&mut self, parts: &Parts) {
        let Some(session) = self.session_mut() else { return };
        let Some(seen) = nat::seen_destination(parts.notifies.iter()) else { return };
        if session.mobike.seen.replace(seen).is_some_and(|before| before != seen) {
            session.want(Task::UpdateAddresses);
        }
    }
}

/// The addresses in the notifications of IKE_AUTH (§3.4).
pub(super) fn additional_addresses(parts: &Parts) -> Vec<IpAddr> {
    let kinds = [NotifyType::ADDITIONAL_IP4_ADDRESS, NotifyType::ADDITIONAL_IP6_ADDRESS];
    parts.notifies.iter().filter(|one| kinds.contains(&one.kind)).filter_map(Notify::address).take(ADDRESSES_MAX).collect()
}
