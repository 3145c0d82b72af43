//! One gateway: all its peers and IKE SAs. Whose is a datagram, and what follows from one IKE SA for another.
//!
//! The shell calls, in any order, [`Endpoint::handle_message`], [`Endpoint::handle_timeout`] and the commands; after each it
//! takes what [`Endpoint::poll_event`], [`Endpoint::poll_transmit`] and [`Endpoint::poll_timeout`] give, in this order.

mod commands;
mod half_open;
mod lifecycle;
mod paths;
mod reauth;
mod restore;
mod shares;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Instant;

use adit_proto::control::PeerId;
use adit_proto::ike::{ExchangeType, Flags, Header, IkeFault, IkeSpi, Message, Notify, NotifyType, Payload, Version};
use aws_lc_rs::digest;

use crate::path::{AnyUnderlay, Hop, Paths, Underlay};
use crate::random::Random;
use crate::rate_limit::Bucket;

use super::admission::Admission;
use super::clients::Clients;
use super::config::{EndpointConfig, Now};
use super::context::{Action, Ctx, Shared, SpiTable};
use super::counters::Counters;
use super::crash;
use super::directory::Directory;
use super::error::Incompatibility;
use super::event::{After, Event, Transmit};
use super::facts::{IkeSpis, SaId};
use super::fragment::Unproven;
use super::known::Known;
use super::left::Left;
use super::origins::Origins;
use super::sa::IkeSa;
use super::session::Session;
use super::snapshot::kept::Kept;
use super::stream_keys::StreamKeys;
use crate::limits::{FAILURES, ROUNDS_MAX};
use crate::timer::{Timers, earlier};

pub use commands::{CommandError, Refusal};
pub use restore::Restored;

/// SHA-256 of an IKE_SA_INIT request, which tells a repetition from a new one (RFC 7296 §2.1).
type InitDigest = [u8; 32];

/// Whose timer it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Sa(SaId),
    /// The next attempt to connect.
    Peer(PeerId),
}

/// The IKEv2 engine of one gateway.
pub struct Endpoint {
    pub(super) shared: Shared,
    pub(super) random: Box<dyn Random + Send>,
    /// Boxed: one is taken out for each message, and would move its neighbours.
    pub(super) sas: BTreeMap<SaId, Box<IkeSa>>,
    timers: Timers<Timer>,
    /// A peer was changed or removed since the directory was made.
    directory_is_stale: bool,
    /// The IKE_SA_INIT requests that have been answered with an IKE SA.
    pub(super) inits: BTreeMap<InitDigest, SaId>,
    /// Half-open IKE SAs, by us as responder: the digest of their first message, and where it came from.
    half_open: BTreeMap<SaId, half_open::HalfOpen>,
    /// Unauthenticated initiators that were refused, the last ones.
    pub(super) refusals: VecDeque<Refusal>,
    /// How often one is reported, and how many were not since the last one that was.
    refusals_reported: Bucket,
    refusals_unreported: u64,
    /// The gateway goes: nobody is let in any more.
    closing: bool,
    pub(super) kept: Kept,
}

impl Endpoint {
    pub fn new(config: EndpointConfig, mut random: Box<dyn Random + Send>) -> Endpoint {
        let admission = Admission::new(config.limits, &mut *random);
        let refusals_reported = Bucket::new(config.limits.refusals);
        let shared = Shared {
            config,
            peers: BTreeMap::new(),
            directory: Directory::default(),
            spis: SpiTable::default(),
            paths: Paths::new(Box::new(AnyUnderlay)),
            candidates: Vec::new(),
            stream_keys: StreamKeys::default(),
            admission,
            failures: Origins::new(FAILURES),
            clients: Clients::default(),
            unproven: Unproven::default(),
            known: Known::default(),
            transmits: VecDeque::new(),
            events: VecDeque::new(),
            counters: Counters::default(),
            connected: 0,
            left: Left::default(),
        };
        Endpoint {
            shared,
            random,
            sas: BTreeMap::new(),
            timers: Timers::new(),
            directory_is_stale: false,
            inits: BTreeMap::new(),
            half_open: BTreeMap::new(),
            refusals: VecDeque::new(),
            refusals_reported,
            refusals_unreported: 0,
            closing: false,
            kept: Kept::default(),
        }
    }

    /// With what the underlay says of routes and addresses; without it every address is tried.
    pub fn with_underlay(mut self, underlay: Box<dyn Underlay + Send>) -> Endpoint {
        self.shared.paths.set_underlay(underlay);
        self
    }

    /// Has another underlay asked from now on: our sockets are elsewhere.
    pub fn set_underlay(&mut self, underlay: Box<dyn Underlay + Send>) {
        self.shared.paths.set_underlay(underlay);
    }

    /// A datagram from a port of ours for IKE: the UDP payload, with its marker where the port has one. Or a message that came in a stream.
    pub fn handle_message(&mut self, now: Now, came: impl Into<Hop>, datagram: &[u8]) {
        self.take_message(now, came.into(), datagram);
        self.serve_paths(now);
    }

    fn take_message(&mut self, now: Now, hop: Hop, datagram: &[u8]) {
        self.refresh_directory();
        let Some(message) = hop.unframe(datagram) else {
            self.shared.counters.dropped_malformed += 1;
            return;
        };
        let header = match Header::decode_whole(message) {
            Ok(header) => header,
            Err(error) => {
                self.shared.counters.dropped_malformed += 1;
                if error.fault == IkeFault::MajorVersion(1) {
                    // Not answered: it would not understand that. The operator is told.
                    let why = Incompatibility::OldVersion.into();
                    let refusal = Refusal { from: hop.remote(), at: now.unix, why, ours: Vec::new(), theirs: Vec::new() };
                    return self.note_refusal(now, refusal);
                }
                if let IkeFault::MajorVersion(major) = error.fault {
                    self.answer_version(now, hop, message, major);
                }
                return;
            }
        };
        let (from_initiator, response) = (header.flags.initiator, header.flags.response);
        if header.exchange == ExchangeType::IKE_SA_INIT && from_initiator && !response && header.responder_spi.is_zero() {
            if self.closing {
                // Whoever was told that we go asks again at once, and would take us for connected. Asked again later, the next process answers.
                self.shared.counters.dropped_out_of_place += 1;
                return;
            }
            return self.on_init_request(now, hop, &header, message);
        }
        // Whoever began the IKE SA sends our SPI second (RFC 7296 §2.6).
        let ours = SaId(if from_initiator { header.responder_spi } else { header.initiator_spi });
        if self.sas.contains_key(&ours) {
            self.run(now, ours, |sa, ctx| sa.receive(ctx, hop, &header, message));
        } else {
            self.shared.counters.dropped_unknown_spi += 1;
            if !response && header.exchange != ExchangeType::IKE_SA_INIT {
                self.answer_unknown(now, hop, (&header, message.len()));
            }
        }
    }

    /// To be called when the time of [`Endpoint::poll_timeout`] has come; earlier does no harm.
    pub fn handle_timeout(&mut self, now: Now) {
        for _ in 0..ROUNDS_MAX {
            if self.shared.paths.poll_timeout().is_some_and(|at| at <= now.instant) {
                self.shared.paths.handle_timeout(now.instant, &mut *self.random);
            }
            let due = self.timers.take_due(now.instant);
            if due.is_empty() {
                return self.serve_paths(now);
            }
            for timer in due {
                match timer {
                    Timer::Sa(id) => self.run(now, id, |sa, ctx| sa.on_timeout(ctx)),
                    Timer::Peer(peer) => self.try_again(now, peer),
                }
            }
        }
        debug_assert!(self.timers.next().is_none_or(|next| next > now.instant), "something is due for ever");
    }

    /// The next event; see [`Event`] for what has to be done before the next datagram is sent.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.shared.take_path_events();
        match self.shared.known.poll() {
            Some((address, known)) => Some(Event::Address { address, known }),
            None => self.shared.events.pop_front(),
        }
    }

    /// The next datagram to be sent.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.shared.transmits.pop_front()
    }

    /// Every address that [`Event::Address`] says is known.
    pub fn known_addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.shared.known.iter()
    }

    /// Where each peer has proven itself last, the newest first, if that has changed since it was asked last.
    pub fn new_proofs(&mut self) -> Option<BTreeMap<PeerId, Vec<SocketAddr>>> {
        self.shared.known.new_proofs()
    }

    /// What [`Endpoint::new_proofs`] told of a peer before this process: it keeps its share beside strangers. A peer that is not
    /// configured is ignored.
    pub fn recall_proofs(&mut self, peer: PeerId, addresses: &[SocketAddr]) {
        if self.shared.peers.contains_key(&peer) {
            addresses.iter().rev().for_each(|address| self.shared.known.prove(peer, (*address).into()));
        }
    }

    /// When [`Endpoint::handle_timeout`] is to be called, if nothing else happens.
    pub fn poll_timeout(&self) -> Option<Instant> {
        earlier(self.timers.next(), self.shared.paths.poll_timeout())
    }

    /// Whether there is something for the vault since this was last asked: something that a successor needs. What went through
    /// an SA, or a message that changed nothing, is not.
    pub fn take_changed(&mut self) -> bool {
        self.kept.refresh(&self.sas, &mut self.shared)
    }

    /// Lets an IKE SA do something, and does what follows from it.
    pub(super) fn run(&mut self, now: Now, id: SaId, act: impl FnOnce(&mut IkeSa, &mut Ctx)) {
        let Some(mut sa) = self.sas.remove(&id) else { return };
        let mut ctx = Ctx::new(now, &mut *self.random, &mut self.shared);
        act(&mut sa, &mut ctx);
        sa.start_next(&mut ctx);
        let actions = ctx.actions;
        self.put_back(now, sa);
        self.perform(now, id, actions);
    }

    /// As [`Endpoint::run`], with what an established IKE SA has.
    pub(super) fn with_session(&mut self, now: Now, id: SaId, act: impl FnOnce(&mut Session, &mut Ctx)) {
        self.run(now, id, |sa, ctx| {
            if let Some(session) = sa.session_mut() {
                act(session, ctx);
            }
        });
    }

    /// Puts an IKE SA into the table, or forgets it when nothing is left of it.
    pub(super) fn put_back(&mut self, now: Now, sa: Box<IkeSa>) {
        let id = sa.facts.id;
        self.kept.touch(now, id);
        if sa.is_gone(now.instant) {
            self.timers.set(Timer::Sa(id), None);
            self.forget(&sa);
            return;
        }
        self.timers.set(Timer::Sa(id), sa.deadline());
        self.sas.insert(id, sa);
    }

    /// Removes the traces of an IKE SA that is not in the table any more.
    pub(super) fn forget(&mut self, sa: &IkeSa) {
        self.no_longer_half_open(sa.facts.id);
        self.shared.unproven.forget(sa.facts.id);
        if let Some(digest) = sa.init_digest {
            self.inits.remove(&digest);
        }
        if let Some(peer) = sa.facts.peer.and_then(|peer| self.shared.peers.get_mut(&peer)) {
            peer.sas.retain(|id| *id != sa.facts.id);
        }
    }

    fn perform(&mut self, now: Now, id: SaId, actions: Vec<Action>) {
        let mut grown = None;
        for action in actions {
            match action {
                Action::Grown { peer } => grown = Some(peer),
                Action::Proven { restarted } => self.on_proven(now, id, restarted),
                Action::Deleted => self.on_deleted(now, id),
                Action::Probe { peer } => drop(self.check_liveness(now, peer)),
                Action::MakePlace { at } => self.make_place(now, &at),
                Action::Established { initial_contact } => {
                    self.on_established(now, id, initial_contact);
                    grown = self.sas.get(&id).and_then(|sa| sa.facts.peer);
                }
                Action::Successor => {
                    self.on_successor(now, id);
                    grown = self.sas.get(&id).and_then(|sa| sa.facts.peer);
                }
                Action::Inherit { successor, then } => self.on_inherit(now, id, successor, then),
                Action::Confirmed { sa } => self.on_confirmed(now, sa),
                Action::Claim { from } => self.on_claim(now, id, from),
                Action::CloseRedundant { sa } => self.close_redundant(now, sa),
                Action::ExpectClosed { sa } => self.expect_closed(now, sa),
                Action::Ended(cause) => self.on_ended(now, id, cause),
                Action::Rekeying(under_way) => self.on_rekeying(now, id, under_way),
                Action::Reauthenticate => self.on_reauthenticate(now, id),
                Action::Superseded { sa, at } => self.on_superseded(now, sa, at),
                Action::GiveWay { to, then } => self.on_give_way(now, id, to, then),
            }
        }
        if let Some(peer) = grown {
            self.keep_within_share(now, peer);
        }
    }

    /// A request for an IKE SA that we do not have: perhaps we have lost it, and can prove that (RFC 7296 §2.21.4, RFC 6290 §4.5).
    fn answer_unknown(&mut self, now: Now, hop: Hop, (header, len): (&Header, usize)) {
        // The proof must never be made for an IKE SA that is alive, whichever way round its SPIs are given.
        let alive = [header.initiator_spi, header.responder_spi].into_iter().any(|spi| self.sas.contains_key(&SaId(spi)));
        if alive || header.initiator_spi.is_zero() || header.responder_spi.is_zero() {
            return;
        }
        let spis = IkeSpis { initiator: header.initiator_spi, responder: header.responder_spi };
        let mut payloads: Vec<Payload> = vec![Notify::new(NotifyType::INVALID_IKE_SPI).into()];
        payloads.extend(crash::proof(&self.shared.config.crash_secrets, spis));
        self.answer_unprotected(now, hop, (header, len), false, payloads);
    }

    fn answer_version(&mut self, now: Now, hop: Hop, message: &[u8], major: u8) {
        // IKEv1 would not understand the answer (RFC 7296 §2.5 is about higher versions).
        let Ok(header) = Header::decode(message) else { return };
        if major > Version::V2.major() && !header.flags.response {
            let version = Notify::new(NotifyType::INVALID_MAJOR_VERSION);
            self.answer_unprotected(now, hop, (&header, message.len()), false, vec![version.into()]);
        }
    }

    /// One answer to a request that nothing protects, at a limited rate. Says whether it was sent. `proven`: the request has brought a cookie.
    fn answer_unprotected(
        &mut self,
        now: Now,
        hop: Hop,
        question: (&Header, usize),
        proven: bool,
        payloads: Vec<Payload>,
    ) -> bool {
        let Some(message) = self.unprotected(question, payloads) else { return false };
        let (source, shared) = (hop.site(), &mut self.shared);
        let may = shared.admission.may_answer_unprotected(now.instant, source, shared.known.has(source), proven);
        if may {
            self.shared.transmit(&hop, None, hop.frame(&message), After::Nothing);
        } else {
            self.shared.counters.dropped_rate += 1;
        }
        may
    }

    /// An answer in the clear to a request, with its SPIs and message id (RFC 7296 §1.5). Anybody may have sent the request, `len` bytes,
    /// from wherever it says: so the answer is never longer. As many of the payloads go into it as fit; without the first there is none.
    fn unprotected(&mut self, (request, len): (&Header, usize), mut payloads: Vec<Payload>) -> Option<Vec<u8>> {
        let flags = Flags { initiator: !request.flags.initiator, response: true, version: false };
        let (initiator, responder): (IkeSpi, IkeSpi) = (request.initiator_spi, request.responder_spi);
        let header = Header::new(initiator, responder, request.exchange, flags, request.message_id);
        while !payloads.is_empty() {
            let message = Message { header, payloads: payloads.clone() }.encode().ok()?;
            if message.len() <= len {
                return Some(message);
            }
            payloads.pop();
        }
        self.shared.counters.dropped_short += 1;
        None
    }
}

fn init_digest(message: &[u8]) -> InitDigest {
    let mut out = InitDigest::default();
    out.copy_from_slice(digest::digest(&digest::SHA256, message).as_ref());
    out
}
