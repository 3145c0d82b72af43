//! Requests to begin an IKE SA: who is let in, and who is told what (RFC 7296 §2.6, §2.21.1).

use adit_proto::ike::{Header, Message, Notify, NotifyType};

use super::super::admission::{Asker, Verdict, network};
use super::super::config::Now;
use super::super::context::Ctx;
use super::super::error::{Error, Incompatibility};
use super::super::event::{After, Event};
use super::super::explain;
use super::super::facts::SaId;
use super::super::parts::Parts;
use super::super::sa::IkeSa;
use super::super::window;
use super::commands::Refusal;
use super::{Endpoint, Timer, init_digest};
use crate::limits::{REFUSALS_MAX, REQUEST_LEN_MAX};
use crate::path::{Hop, Remote, Site};
use crate::shown::Shown;

/// Where a half-open IKE SA came from: it counts against limits until it is authenticated or gone.
#[derive(Clone, Copy, Debug)]
pub(super) struct HalfOpen {
    source: Remote,
    asker: Asker,
}

impl Endpoint {
    pub(super) fn on_init_request(&mut self, now: Now, hop: Hop, header: &Header, message: &[u8]) {
        if header.message_id != 0 || header.initiator_spi.is_zero() || message.len() > REQUEST_LEN_MAX {
            self.shared.counters.dropped_malformed += 1;
            return;
        }
        let digest = init_digest(message);
        let answered = self.inits.get(&digest).copied();
        if let Some(id) = answered.filter(|id| self.is_same_asker(*id, hop)) {
            return self.repeat_init_answer(now, hop, id);
        }
        let parts = Message::decode(message).map_err(Error::from).and_then(|message| Parts::sort(message.payloads));
        let parts = match parts {
            Ok(parts) => parts,
            Err(error) => {
                self.shared.counters.dropped_malformed += 1;
                self.refuse_initiator(now, hop, (header, message.len()), (false, error), Vec::new());
                return;
            }
        };
        if answered.is_some() {
            // Its sender is at another address now, or somebody else has recorded it: who receives there begins anew with a cookie.
            return self.demand_cookie(now, hop, (header, message.len()), &parts);
        }
        let Some(asker) = self.admit(now, hop, (header, message.len()), &parts) else { return };
        let mut ctx = Ctx::new(now, &mut *self.random, &mut self.shared);
        match IkeSa::respond_to(&mut ctx, hop, (header, message), &parts, asker != Asker::Unproven) {
            Ok(None) => self.demand_cookie(now, hop, (header, message.len()), &parts),
            Ok(Some(mut sa)) => {
                sa.init_digest = Some(digest);
                self.inits.insert(digest, sa.facts.id);
                self.half_open.insert(sa.facts.id, HalfOpen { source: hop.remote(), asker });
                self.shared.admission.opened(hop.site(), asker);
                self.put_back(now, Box::new(sa));
            }
            Err(error) => {
                let theirs = explain::texts(parts.sa.as_deref().unwrap_or_default());
                let proven = asker != Asker::Unproven;
                let reported = self.refuse_initiator(now, hop, (header, message.len()), (proven, error), theirs);
                if !reported && !proven {
                    // With a cookie it has an answer of its own, however many ask who do not receive any.
                    self.demand_cookie(now, hop, (header, message.len()), &parts);
                }
            }
        }
    }

    /// Whether this is where the request came from that began an IKE SA.
    fn is_same_asker(&self, id: SaId, hop: Hop) -> bool {
        self.half_open.get(&id).is_none_or(|half_open| half_open.source == hop.remote())
    }

    /// The initiator has not got our answer, unless it has already gone on (RFC 7296 §2.1).
    fn repeat_init_answer(&mut self, now: Now, hop: Hop, id: SaId) {
        let Some(sa) = self.sas.get_mut(&id) else { return };
        if !sa.stage.is_negotiating() || sa.wire.window.expected_id() != 1 {
            return;
        }
        let mut ctx = Ctx::new(now, &mut *self.random, &mut self.shared);
        ctx.count(None, |counters| counters.repeated_requests += 1);
        if !sa.wire.window.may_repeat(window::Asker::Same) {
            return ctx.count(None, |counters| counters.dropped_repeat += 1);
        }
        ctx.transmit_all(&hop, None, sa.wire.window.last_answer(), sa.wire.window.answer_after());
    }

    /// Whether a request is let in, and then of whom; if it is not, it may be told to come again with a cookie.
    fn admit(&mut self, now: Now, hop: Hop, question: (&Header, usize), parts: &Parts) -> Option<Asker> {
        let (source, spi) = (hop.site(), question.0.initiator_spi);
        let nonce = parts.nonce.as_deref().unwrap_or_default();
        let (admission, random) = (&mut self.shared.admission, &mut *self.random);
        let given = parts.notify(NotifyType::COOKIE).map(|notify| notify.data.as_slice());
        let good = given.is_some_and(|given| admission.is_cookie(now.instant, random, given, nonce, source, spi));
        let full = self.shared.connected >= self.shared.config.limits.sessions;
        let asker = match (good, self.shared.known.has(source)) {
            (false, _) => Asker::Unproven,
            (true, false) => Asker::Stranger,
            (true, true) => Asker::Known,
        };
        match self.shared.admission.verdict(source, asker) {
            // Who is known may come back: that is clear when it has proven who it is. Strangers have to take more pains.
            Verdict::Admit if good || !full => return Some(asker),
            Verdict::TakeFrom(network) => {
                self.give_up_half_open(network);
                return Some(asker);
            }
            Verdict::Admit | Verdict::DemandCookie => self.demand_cookie(now, hop, question, parts),
            Verdict::Refuse => self.shared.counters.dropped_limit += 1,
        }
        None
    }

    /// The oldest half-open IKE SA of a stranger in this network is forgotten: whoever means it begins again.
    fn give_up_half_open(&mut self, of: Site) {
        let is_one = |half_open: &HalfOpen| half_open.asker == Asker::Stranger && network(half_open.source.site()) == of;
        let Some(id) = self.half_open.iter().find(|(_, half_open)| is_one(half_open)).map(|(id, _)| *id) else { return };
        self.drop_half_open(id);
        self.shared.counters.half_open_gave_way += 1;
    }

    /// Forgets one that is not authenticated.
    pub(super) fn drop_half_open(&mut self, id: SaId) {
        if let Some(sa) = self.sas.remove(&id) {
            self.timers.set(Timer::Sa(id), None);
            self.forget(&sa);
        }
    }

    /// Tells an initiator to come again with a cookie. That is no longer than the request and keeps nothing: no rate is needed.
    fn demand_cookie(&mut self, now: Now, hop: Hop, question: (&Header, usize), parts: &Parts) {
        let nonce = parts.nonce.as_deref().unwrap_or_default();
        let (source, spi) = (hop.site(), question.0.initiator_spi);
        let cookie = self.shared.admission.cookie(now.instant, &mut *self.random, nonce, source, spi);
        let Some(message) = self.unprotected(question, vec![Notify::new(NotifyType::COOKIE).with_data(cookie).into()]) else {
            return;
        };
        self.shared.transmit(&hop, None, hop.frame(&message), After::Nothing);
        self.shared.counters.cookies_demanded += 1;
    }

    /// Tells an unauthenticated initiator why not, where that is safe, and remembers it for the operator. Says whether he is told all that
    /// he may be.
    fn refuse_initiator(
        &mut self,
        now: Now,
        hop: Hop,
        question: (&Header, usize),
        (proven, error): (bool, Error),
        theirs: Vec<Shown>,
    ) -> bool {
        let notify = error.notify();
        let may_report = match notify.kind {
            NotifyType::INVALID_KE_PAYLOAD | NotifyType::NO_PROPOSAL_CHOSEN | NotifyType::UNSUPPORTED_CRITICAL_PAYLOAD => true,
            // INVALID_SYNTAX is for encrypted answers only (RFC 7296 §3.10.1).
            _ => false,
        };
        let reported = may_report && self.answer_unprotected(now, hop, question, proven, vec![notify.into()]);
        if matches!(error, Error::Incompatible(Incompatibility::KeyExchange(_))) {
            self.shared.counters.key_exchanges_demanded += u64::from(reported);
            return reported;
        }
        let ours = self.shared.directory.candidates(hop.site()).offers();
        self.note_refusal(now, Refusal { from: hop.remote(), at: now.unix, why: error, ours, theirs });
        reported || !may_report
    }

    /// Keeps the last refusals, and says a few.
    pub(super) fn note_refusal(&mut self, now: Now, refusal: Refusal) {
        self.shared.counters.refused(&refusal.why);
        if self.refusals_reported.take(now.instant) {
            let more = std::mem::take(&mut self.refusals_unreported);
            self.shared.event(Event::Refused { from: refusal.from, why: refusal.why.clone(), more });
        } else {
            self.refusals_unreported += 1;
        }
        if self.refusals.len() == REFUSALS_MAX {
            self.refusals.pop_front();
        }
        self.refusals.push_back(refusal);
    }

    /// An IKE SA is authenticated or forgotten: it does not count as half-open any more.
    pub(super) fn no_longer_half_open(&mut self, id: SaId) {
        if let Some(half_open) = self.half_open.remove(&id) {
            self.shared.admission.closed(half_open.source.site(), half_open.asker);
        }
    }
}
