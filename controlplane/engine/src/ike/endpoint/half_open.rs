//! Requests to begin an IKE SA: who is let in, and who is told what (RFC 7296 §2.6, §2.21.1).

use std::net::IpAddr;

use adit_proto::ike::{Header, Message, Notify, NotifyType, Payload};

use super::super::admission::Verdict;
use super::super::config::Now;
use super::super::context::Ctx;
use super::super::error::{Error, Incompatibility};
use super::super::event::Event;
use super::super::explain;
use super::super::facts::SaId;
use super::super::limits::{REFUSALS_MAX, REQUEST_LEN_MAX};
use super::super::parts::Parts;
use super::super::sa::IkeSa;
use super::commands::Refusal;
use super::{Endpoint, init_digest};
use crate::path::Hop;
use crate::shown::Shown;

/// Where a half-open IKE SA came from: it counts against limits until it is authenticated or gone.
#[derive(Clone, Copy, Debug)]
pub(super) struct HalfOpen {
    source: IpAddr,
    had_cookie: bool,
}

impl Endpoint {
    pub(super) fn on_init_request(&mut self, now: Now, hop: Hop, header: &Header, message: &[u8]) {
        if header.message_id != 0 || header.initiator_spi.is_zero() || message.len() > REQUEST_LEN_MAX {
            self.shared.counters.dropped_malformed += 1;
            return;
        }
        let digest = init_digest(message);
        if let Some(id) = self.inits.get(&digest).copied() {
            return self.repeat_init_answer(now, hop, id);
        }
        let parts = Message::decode(message).map_err(Error::from).and_then(|message| Parts::sort(message.payloads));
        let parts = match parts {
            Ok(parts) => parts,
            Err(error) => {
                self.shared.counters.dropped_malformed += 1;
                return self.refuse_initiator(now, hop, header, error, Vec::new());
            }
        };
        let Some(had_cookie) = self.admit(now, hop, header, &parts) else { return };
        let mut ctx = Ctx::new(now, &mut *self.random, &mut self.shared);
        match IkeSa::respond_to(&mut ctx, hop, header, message, &parts) {
            Ok(mut sa) => {
                sa.init_digest = Some(digest);
                self.inits.insert(digest, sa.facts.id);
                let source = hop.remote.ip();
                self.half_open.insert(sa.facts.id, HalfOpen { source, had_cookie });
                self.shared.admission.opened(source, had_cookie);
                self.put_back(now, sa);
            }
            Err(error) => self.refuse_initiator(now, hop, header, error, explain::texts(parts.sa.as_deref().unwrap_or_default())),
        }
    }

    /// The initiator has not got our answer, unless it has already gone on (RFC 7296 §2.1).
    fn repeat_init_answer(&mut self, now: Now, hop: Hop, id: SaId) {
        let Some(sa) = self.sas.get(&id) else { return };
        if !sa.stage.is_negotiating() || sa.wire.window.expected_id() != 1 {
            return;
        }
        let mut ctx = Ctx::new(now, &mut *self.random, &mut self.shared);
        ctx.count(None, |counters| counters.repeated_requests += 1);
        ctx.transmit_all(&hop, None, sa.wire.window.last_answer(), sa.wire.window.answer_after());
    }

    /// Whether a request is let in, and then whether it had a cookie; if it is not, it may be told to come again with one.
    fn admit(&mut self, now: Now, hop: Hop, header: &Header, parts: &Parts) -> Option<bool> {
        let (source, spi) = (hop.remote.ip(), header.initiator_spi);
        let nonce = parts.nonce.as_deref().unwrap_or_default();
        let (admission, random) = (&mut self.shared.admission, &mut *self.random);
        let given = parts.notify(NotifyType::COOKIE).map(|notify| notify.data.as_slice());
        let good = given.is_some_and(|given| admission.is_cookie(now.instant, random, given, nonce, source, spi));
        let full = self.shared.connected >= self.shared.config.limits.sessions;
        let admission = &mut self.shared.admission;
        match admission.verdict(source, good) {
            // Who is known may come back: that is clear when it has proven who it is. Strangers have to take more pains.
            Verdict::Admit if good || !full => return Some(good),
            Verdict::Admit | Verdict::DemandCookie => {
                let cookie = admission.cookie(now.instant, &mut *self.random, nonce, source, spi);
                self.shared.counters.cookies_demanded += 1;
                // It is shorter than the request, and keeps nothing: no rate needed.
                self.send_unprotected(hop, header, vec![Notify::new(NotifyType::COOKIE).with_data(cookie).into()]);
            }
            Verdict::Refuse => self.shared.counters.dropped_limit += 1,
        }
        None
    }

    /// Tells an unauthenticated initiator why not, where that is safe, and remembers it for the operator.
    fn refuse_initiator(&mut self, now: Now, hop: Hop, header: &Header, error: Error, theirs: Vec<Shown>) {
        let notify = error.notify();
        let reported = match notify.kind {
            NotifyType::INVALID_KE_PAYLOAD | NotifyType::NO_PROPOSAL_CHOSEN | NotifyType::UNSUPPORTED_CRITICAL_PAYLOAD => true,
            // INVALID_SYNTAX is for encrypted answers only (RFC 7296 §3.10.1).
            _ => false,
        };
        if reported {
            let payload: Payload = notify.into();
            self.answer_unprotected(now, hop, header, vec![payload]);
        }
        if matches!(error, Error::Incompatible(Incompatibility::KeyExchange(_))) {
            return;
        }
        let ours = self.shared.directory.candidates(hop.remote.ip()).offers();
        self.note_refusal(now, Refusal { from: hop.remote, at: now.unix, why: error, ours, theirs });
    }

    /// Keeps the last refusals, and says a few.
    pub(super) fn note_refusal(&mut self, now: Now, refusal: Refusal) {
        self.shared.counters.refused(&refusal.why);
        if self.refusals_told.take(now.instant) {
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

    /// An IKE SA is authenticated or gone: it does not count as half-open any more.
    pub(super) fn no_longer_half_open(&mut self, id: SaId) {
        if let Some(half_open) = self.half_open.remove(&id) {
            self.shared.admission.closed(half_open.source, half_open.had_cookie);
        }
    }
}
