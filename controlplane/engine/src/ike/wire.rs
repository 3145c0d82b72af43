//! The messages of one IKE SA: is one new, is it authentic, and is all of it there; ours are sealed, sent, and sent again.
//!
//! What is in them is the business of the exchanges.

use std::time::Instant;

use adit_proto::control::PeerId;
use adit_proto::ike::encrypted::Sealed;
use adit_proto::ike::{ExchangeType, Flags, Header, NotifyType, Payload, PayloadType};
use adit_proto::limits::IPV6_MTU_MIN;
use adit_proto::rate_limit::Share;

use crate::path::{Answered, Hop, Remote};
use crate::random::Random;
use crate::timer::earlier;

use super::config::Retransmission;
use super::context::{Ctx, Shared};
use super::crash::PROOF_LEN;
use super::error::{Error, LocalFault};
use super::event::After;
use super::facts::{Facts, Role, SaId};
use super::fragment::Reassembly;
use super::protect::{Message, Protection};
use super::window::{Asker, Due, Outstanding, SILENT_AFTER, Sent, Window};

/// Requests of the peer that are looked into, in a second. What is not authentic is not counted, so nobody else uses that up. A
/// peer that has sent more asks again.
const REQUESTS_PER_S: u32 = 200;
/// Requests are tried at this size of IP packets first (RFC 7383 §2.5.2: the search goes down): nearly every line of today carries it.
const HOPED: u16 = IPV6_MTU_MIN;

/// A message that was opened.
pub(super) struct Opened {
    pub first: PayloadType,
    pub inner: Vec<u8>,
    /// The datagram, or the one of fragment 1.
    datagram: Vec<u8>,
    /// The length of its longest datagram.
    longest: usize,
}

impl Opened {
    /// A message of which nothing is left but what was in it.
    pub(super) fn consumed() -> Opened {
        Opened { first: PayloadType::NONE, inner: Vec::new(), datagram: Vec::new(), longest: 0 }
    }

    /// What an IKE_INTERMEDIATE message of the peer contributes to AUTH (RFC 9242 §3.3.2).
    pub(super) fn int_auth(&self) -> Option<Vec<u8>> {
        let mut out = Sealed::parse(&self.datagram).ok()??.int_auth(self.inner.len());
        out.extend_from_slice(&self.inner);
        Some(out)
    }
}

/// The way that a request came, and how many bytes have come so, less those that were answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Came {
    pub hop: Hop,
    pub bytes: usize,
}

/// Where messages are put together.
enum Fragments {
    /// In the place for all that are not authenticated, in `Shared`.
    Unproven,
    /// In places of its own.
    Own { requests: Reassembly, responses: Reassembly },
}

/// What it takes to exchange messages. `X` is what an exchange has to remember until the answer to its request comes.
pub(super) struct Wire<X> {
    pub window: Window<X>,
    protection: Option<Protection>,
    /// The keys before the last IKE_INTERMEDIATE: a request that is repeated comes under them.
    former: Option<Protection>,
    fragments: Fragments,
    /// When the last fresh, authentic message came.
    last_heard: Instant,
    /// When the last message was sent.
    last_sent: Instant,
    /// The request that is being answered.
    came: Came,
    /// The largest IP packet that it came in.
    largest: u16,
    /// What was hoped to arrive did not: messages are cut at once into what is sure to.
    narrow: bool,
    /// What is left of the peer's rate, since `began`.
    requests: Share,
    began: Instant,
    /// From where the last part of a request came, and how many bytes more have come from there than were answered.
    credit: Option<(Remote, usize)>,
    /// Where the last answer has not gone, because nothing has shown that the peer receives there.
    withheld: Option<Hop>,
}

impl<X> Wire<X> {
    pub(super) fn new(now: Instant, hop: Hop) -> Wire<X> {
        Wire {
            window: Window::new(),
            protection: None,
            former: None,
            fragments: Fragments::Unproven,
            last_heard: now,
            last_sent: now,
            came: Came { hop, bytes: 0 },
            largest: 0,
            narrow: false,
            requests: Share::default(),
            began: now,
            credit: None,
            withheld: None,
        }
    }

    /// The peer is authenticated: its messages have places of their own.
    pub(super) fn trust(&mut self, shared: &mut Shared, sa: SaId) {
        shared.unproven.forget(sa);
        self.fragments = Fragments::Own { requests: Reassembly::default(), responses: Reassembly::default() };
    }

    /// The keys of messages from here on.
    pub(super) fn protect(&mut self, protection: Protection) {
        self.former = self.protection.replace(protection);
    }

    pub(super) fn came(&self) -> Came {
        self.came
    }

    pub(super) fn last_heard(&self) -> Instant {
        self.last_heard
    }

    pub(super) fn last_sent(&self) -> Instant {
        self.last_sent
    }

    /// Something fresh and authentic came.
    pub(super) fn note_heard(&mut self, now: Instant) {
        self.last_heard = now;
    }

    /// Something was sent.
    pub(super) fn note_sent(&mut self, now: Instant) {
        self.last_sent = now;
    }

    /// The sealed request that is expected: gives it if it is authentic and whole.
    pub(super) fn take_request(
        &mut self,
        ctx: &mut Ctx,
        peer: Option<PeerId>,
        hop: Hop,
        sealed: &Sealed,
        message: &[u8],
    ) -> Option<Opened> {
        let now_us = u64::try_from(ctx.now.instant.saturating_duration_since(self.began).as_micros()).unwrap_or(u64::MAX);
        if !self.requests.has_one(REQUESTS_PER_S, now_us) {
            ctx.count(peer, |counters| counters.dropped_rate += 1);
            return None;
        }
        let opened = self.open(ctx, (peer, Some(hop)), sealed, message)?;
        self.requests.take(REQUESTS_PER_S, now_us);
        let bytes = self.credit.take_if(|(address, _)| *address == hop.remote()).map_or(0, |(_, bytes)| bytes);
        self.came = Came { hop, bytes };
        self.largest = u16::try_from(opened.longest + hop.overhead()).unwrap_or(u16::MAX);
        Some(opened)
    }

    /// Opens a message, or takes a fragment; gives the whole message if this was all that was missing. `asked`: which way it came that may
    /// have to be answered.
    pub(super) fn open(
        &mut self,
        ctx: &mut Ctx,
        (peer, asked): (Option<PeerId>, Option<Hop>),
        sealed: &Sealed,
        message: &[u8],
    ) -> Option<Opened> {
        let header = sealed.header();
        let (fragment, id) = (sealed.fragment(), header.message_id);
        let sa = SaId(if header.flags.initiator { header.responder_spi } else { header.initiator_spi });
        let is_wanted = fragment.is_none_or(|fragment| match self.fragments.own(header.flags.response) {
            Some(reassembly) => reassembly.wants(id, fragment),
            None => ctx.shared.unproven.wants(sa, id, fragment),
        });
        if !is_wanted {
            ctx.count(peer, |counters| counters.dropped_fragment_replay += 1);
            return None;
        }
        let Some(inner) = self.protection.as_ref().and_then(|protection| protection.open(sealed)) else {
            ctx.count(peer, |counters| counters.dropped_bad_tag += 1);
            return None;
        };
        if let Some(hop) = asked {
            self.has_come(hop, message.len() + hop.overhead());
        }
        let Some(fragment) = fragment else {
            return Some(Opened { first: sealed.first(), inner, datagram: message.to_vec(), longest: message.len() });
        };
        let whole = match self.fragments.own(header.flags.response) {
            Some(reassembly) => reassembly.take(ctx.now.instant, id, fragment, message, &inner)?,
            None => ctx.shared.unproven.take(ctx.now.instant, (sa, id), fragment, message, &inner)?,
        };
        let first = Sealed::parse(&whole.first).ok()??.first();
        Some(Opened { first, inner: whole.inner, datagram: whole.first, longest: whole.longest })
    }

    /// A request of `len` bytes that was answered already: the answer may have been lost (RFC 7296 §2.1, RFC 7383 §2.6.1), for its length
    /// too.
    ///
    /// Anybody may have recorded it. So the answer goes a few times to where the peer is known to receive, as it is at `home`: somebody
    /// else may have been faster with a copy of its request. To another address, from where it was answered or where a peer with `moves`
    /// may be now (RFC 4555 §3.5), goes no more than has come from there: for each fragment the one with its number, for the last one the
    /// rest.
    pub(super) fn repeat_answer(
        &mut self,
        ctx: &mut Ctx,
        (peer, moves): (Option<PeerId>, bool),
        (hop, home): (Hop, Hop),
        sealed: &Sealed,
        len: usize,
    ) {
        let (number, total) = sealed.fragment().map_or((1, 1), |fragment| (fragment.number.into(), fragment.total.into()));
        let receives = peer.is_some_and(|peer| ctx.shared.paths.receives(ctx.now.instant, peer, hop));
        let asker = if receives || hop.site() == home.site() { Asker::Same } else { Asker::Other };
        let moves = moves || hop.remote() == self.came.hop.remote();
        if asker == Asker::Same && number != 1 {
            return;
        }
        // The answer went under the keys of the request.
        let opens = |protection: &Protection| protection.open(sealed).is_some();
        let keys = if self.protection.as_ref().is_some_and(opens) { &mut self.protection } else { &mut self.former };
        let Some(protection) = keys.as_mut().filter(|protection| opens(protection)) else {
            return ctx.count(peer, |counters| counters.dropped_bad_tag += 1);
        };
        ctx.count(peer, |counters| counters.repeated_requests += 1);
        if (asker == Asker::Other && !moves) || !self.window.may_repeat(asker) {
            return ctx.count(peer, |counters| counters.dropped_repeat += 1);
        }
        let after = self.window.answer_after();
        if asker == Asker::Same {
            cut_smaller(ctx, peer, hop, protection, self.window.last_answer_mut());
            self.withheld = None;
            return ctx.transmit_all(&hop, peer, self.window.last_answer(), after);
        }
        self.repeat_elsewhere(ctx, peer, (hop, home), (number, total), len);
    }

    /// To where the peer is not known to receive, no more than has come from there.
    fn repeat_elsewhere(
        &mut self,
        ctx: &mut Ctx,
        peer: Option<PeerId>,
        (hop, home): (Hop, Hop),
        (number, total): (usize, usize),
        len: usize,
    ) {
        let (now, bytes, after) = (ctx.now.instant, len + hop.overhead(), self.window.answer_after());
        let counted = u32::try_from(bytes).unwrap_or(u32::MAX);
        if !peer.is_some_and(|peer| ctx.shared.paths.credit(now, peer, hop, counted)) {
            self.has_come(hop, bytes);
        }
        let last = if number == total { usize::MAX } else { number };
        let places = number.saturating_sub(1)..self.window.last_answer().datagrams.len().min(last);
        for place in places {
            let bytes = self.window.last_answer().datagrams[place].len() + hop.overhead();
            if !self.may_answer(ctx, peer, (hop, home), bytes) {
                return;
            }
            ctx.transmit(&hop, peer, &self.window.last_answer().datagrams[place], after);
        }
    }

    /// So many authentic bytes of a request came from there.
    fn has_come(&mut self, hop: Hop, bytes: usize) {
        let before = self.credit.filter(|(address, _)| *address == hop.remote()).map_or(0, |(_, credit)| credit);
        self.credit = Some((hop.remote(), before.saturating_add(bytes)));
    }

    /// Whether an answer of so many bytes may go there: no more than came from there, unless the peer is known to receive there, as it
    /// is at `home`.
    fn may_answer(&mut self, ctx: &mut Ctx, peer: Option<PeerId>, (hop, home): (Hop, Hop), bytes: usize) -> bool {
        if hop.site() == home.site() {
            return true;
        }
        let credit = self.credit.take_if(|(address, _)| *address == hop.remote()).map_or(0, |(_, credit)| credit);
        // Where the peer may be, the paths count.
        let asks = self.window.outstanding().map_or(0, |request| request.sent.bytes(&hop));
        if let Some(may) = peer.and_then(|peer| ctx.shared.paths.may_answer(ctx.now.instant, peer, hop, (bytes, asks))) {
            return may;
        }
        let left = credit.checked_sub(bytes);
        self.credit = Some((hop.remote(), left.unwrap_or(credit)));
        left.is_some()
    }

    /// How many bytes more have come from there than were answered.
    pub(super) fn left_of(&self, hop: &Hop) -> usize {
        self.credit.filter(|(address, _)| *address == hop.remote()).map_or(0, |(_, credit)| credit)
    }

    /// The peer receives at another place than before: the last answer goes there, if that is what it waited for.
    pub(super) fn answer_withheld(&mut self, ctx: &mut Ctx, peer: PeerId) {
        let now = ctx.now.instant;
        if let Some(hop) = self.withheld.take_if(|hop| ctx.shared.paths.receives(now, peer, *hop)) {
            ctx.transmit_all(&hop, Some(peer), self.window.last_answer(), self.window.answer_after());
            self.last_sent = now;
        }
    }

    /// Sends a request under protection. `here` is where requests go, by which fragments are measured; `hop` where this one goes. To
    /// another place it does not go at all if it is longer than what came from there.
    ///
    /// # Errors
    /// It cannot be encoded or sealed: our fault.
    pub(super) fn request(
        &mut self,
        ctx: &mut Ctx,
        facts: &Facts,
        (here, hop): (Hop, Hop),
        (exchange, payloads): (ExchangeType, &[Payload]),
        context: X,
    ) -> Result<Message, Error> {
        let header = header(facts, exchange, false, self.window.next_id());
        let hoped = if self.narrow { 0 } else { HOPED };
        // Who has lost this IKE SA proves that with an answer that is no longer than our request. Elsewhere every byte counts.
        let elsewhere = !hop.is_same(&here);
        let least = if elsewhere { 0 } else { PROOF_LEN };
        let message = self.seal(ctx, facts, (here, hoped), (&header, least), payloads)?;
        // The first one on an IKE SA that the peer has begun must not overtake the answer that made it.
        let is_first = facts.role == Role::Responder && self.window.next_id() == 0;
        let after = if is_first { After::Barrier } else { invites(exchange, false, payloads) };
        let sent = self.to_be_repeated(ctx, facts, here, &message);
        if elsewhere && facts.peer.is_some_and(|peer| !ctx.shared.paths.may_send(peer, hop, sent.bytes(&hop))) {
            return Ok(message);
        }
        ctx.transmit_all(&hop, facts.peer, &sent, after);
        self.last_sent = ctx.now.instant;
        let policy = ctx.shared.config.retransmission;
        self.window.sent(ctx.now.instant, exchange, sent, context, &policy);
        if let Some(outstanding) = self.window.outstanding_mut() {
            (outstanding.after, outstanding.asks) = (after, elsewhere);
            outstanding.sent_to(hop);
        }
        Ok(message)
    }

    /// Answers the request that was expected, under protection, the way that it came, as far as that is allowed where it came from. At
    /// `home` the peer is known to receive.
    ///
    /// # Errors
    /// As [`Wire::request`].
    pub(super) fn respond(
        &mut self,
        ctx: &mut Ctx,
        (facts, home): (&Facts, Hop),
        exchange: ExchangeType,
        payloads: &[Payload],
    ) -> Result<Message, Error> {
        let header = header(facts, exchange, true, self.window.expected_id());
        let Came { hop, bytes } = self.came;
        // What came this way may go back this way (RFC 7383 §2.5.1).
        let message = self.seal(ctx, facts, (hop, self.largest), (&header, 0), payloads)?;
        let after = invites(exchange, true, payloads);
        let sent = self.to_be_repeated(ctx, facts, hop, &message);
        self.has_come(hop, bytes);
        let may = self.may_answer(ctx, facts.peer, (hop, home), sent.bytes(&hop));
        self.withheld = (!may).then_some(hop);
        if may {
            ctx.transmit_all(&hop, facts.peer, &sent, after);
        }
        self.last_sent = ctx.now.instant;
        self.window.answer(sent, after);
        Ok(message)
    }

    /// Seals a message for a hop that may carry IP packets of `hoped` bytes.
    fn seal(
        &mut self,
        ctx: &mut Ctx,
        facts: &Facts,
        (here, hoped): (Hop, u16),
        (header, least): (&Header, usize),
        payloads: &[Payload],
    ) -> Result<Message, Error> {
        let can_cut = facts.features.fragmentation;
        let protection = self.protection.as_mut().ok_or(LocalFault::NotConfigured("keys"))?;
        protection.seal(
            header,
            least,
            payloads,
            |len| if can_cut { ctx.shared.cut_above(facts.peer, &here, len, hoped) } else { None },
        )
    }

    /// A message as it is kept: with what is in it, if there may be a way that is too short for it, now or when it is sent again.
    fn to_be_repeated(&self, ctx: &mut Ctx, facts: &Facts, here: Hop, message: &Message) -> Sent {
        let longest = message.datagrams.iter().map(Vec::len).max().unwrap_or_default();
        let sure = if facts.features.fragmentation { ctx.shared.cut_above(facts.peer, &here, longest, 0) } else { None };
        let hopeful = sure.is_some().then(|| message.plain.clone());
        Sent { datagrams: message.datagrams.clone(), hopeful }
    }

    /// Sends the request under way also there, as far as that is allowed before there is a proof.
    pub(super) fn repeat_to(&mut self, ctx: &mut Ctx, peer: Option<PeerId>, hop: Hop) {
        // A way that was given up is none any more.
        let Some(peer) = peer.filter(|peer| ctx.shared.paths.find(*peer, hop).is_some()) else { return };
        let Some(outstanding) = self.window.outstanding_mut() else { return };
        let after = outstanding.after;
        if !ctx.shared.paths.may_send(peer, hop, outstanding.sent.bytes(&hop)) {
            return;
        }
        ctx.transmit_all(&hop, Some(peer), &outstanding.sent, after);
        outstanding.sent_to(hop);
    }

    /// Sends the request under way again: where the peer is, and where it is asked for a proof. What was sent to ask for one, and nowhere
    /// else, goes there alone once more: what goes to both places is no proof. Says how often that has been done.
    pub(super) fn repeat(&mut self, ctx: &mut Ctx, peer: Option<PeerId>, here: Hop) -> u32 {
        let Some(outstanding) = self.window.outstanding_mut() else { return 0 };
        let (repeated, also) = (outstanding.repeated, outstanding.hops.clone());
        if let Some(protection) = &mut self.protection {
            self.narrow |= cut_smaller(ctx, peer, here, protection, &mut outstanding.sent);
        }
        let is_there = outstanding.hops.iter().any(|hop| hop.is_same(&here));
        if !outstanding.asks || is_there || repeated > 1 {
            ctx.transmit_all(&here, peer, &outstanding.sent, After::Nothing);
            outstanding.sent_to(here);
        }
        also.into_iter().filter(|hop| *hop != here).for_each(|hop| self.repeat_to(ctx, peer, hop));
        repeated
    }

    /// The request under way, if it went this way, is being answered: where else it went says what that proves.
    pub(super) fn answered_this_way(&self, hop: &Hop) -> Option<Answered> {
        let Outstanding { hops, repeated, .. } = self.window.outstanding()?;
        let sent = hops.iter().find(|sent| sent.is_same(hop))?;
        let alone = hops.iter().all(|other| other.remote() == sent.remote());
        Some(Answered { hop: *sent, alone, in_vain: *repeated >= SILENT_AFTER })
    }

    /// Whether the request under way is to be sent again.
    pub(super) fn due(&mut self, now: Instant, policy: &Retransmission, random: &mut dyn Random) -> Due {
        self.fragments.expire(now);
        self.window.due(now, policy, random)
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        earlier(self.window.deadline(), self.fragments.deadline())
    }
}

impl Fragments {
    fn own(&mut self, response: bool) -> Option<&mut Reassembly> {
        match self {
            Fragments::Unproven => None,
            Fragments::Own { responses, .. } if response => Some(responses),
            Fragments::Own { requests, .. } => Some(requests),
        }
    }

    /// An IKE SA whose peer is not authenticated in time is gone before its fragments are too old.
    fn deadline(&self) -> Option<Instant> {
        match self {
            Fragments::Unproven => None,
            Fragments::Own { requests, responses } => earlier(requests.deadline(), responses.deadline()),
        }
    }

    fn expire(&mut self, now: Instant) {
        if let Fragments::Own { requests, responses } = self {
            requests.expire(now);
            responses.expire(now);
        }
    }
}

/// Cuts what may have been too long for the way into what is sure to arrive. Says whether there was something to cut.
fn cut_smaller(ctx: &mut Ctx, peer: Option<PeerId>, here: Hop, protection: &mut Protection, sent: &mut Sent) -> bool {
    let Some(plain) = sent.hopeful.take() else { return false };
    let Some(sure) = ctx.shared.cut_above(peer, &here, usize::MAX, 0) else { return false };
    // What cannot be cut is sent as it was.
    let Ok(Some(datagrams)) = protection.seal_smaller(&plain, sure, sent.datagrams.len()) else { return false };
    sent.datagrams = datagrams;
    true
}

fn header(facts: &Facts, exchange: ExchangeType, response: bool, id: u32) -> Header {
    let flags = Flags { initiator: facts.role == Role::Initiator, response, version: false };
    Header::new(facts.spis.initiator, facts.spis.responder, exchange, flags, id)
}

/// Whether a message invites the peer to send what the data plane must be able to open by then: it makes an SA, or ends one that
/// another has the place of.
fn invites(exchange: ExchangeType, response: bool, payloads: &[Payload]) -> After {
    let has = |kind| payloads.iter().any(|payload| payload.kind() == kind);
    // What another key exchange is to follow makes nothing yet (RFC 9242 §3.1, RFC 9370 §2.2.4).
    let is_link = |payload: &Payload| matches!(payload, Payload::Notify(one) if one.kind == NotifyType::ADDITIONAL_KEY_EXCHANGE);
    let goes_on = exchange == ExchangeType::IKE_INTERMEDIATE || payloads.iter().any(is_link);
    let makes = response && !goes_on && (has(PayloadType::SA) || has(PayloadType::KE));
    let ends = exchange == ExchangeType::INFORMATIONAL && has(PayloadType::DELETE);
    if makes || ends { After::Barrier } else { After::Nothing }
}
