//! INFORMATIONAL (RFC 7296 §1.4): dead peer detection (DPD), Delete, errors; and what others put into it (MOBIKE, crash tokens).

use adit_proto::control::Spi;
use adit_proto::ike::{Delete, ExchangeType, NotifyType, Payload, ProtocolId};

use super::context::{Action, Ctx, Then};
use super::error::Error;
use super::event::Cause;
use super::initiated::Initiated;
use super::mobike;
use super::parts::Parts;
use super::sa::IkeSa;
use crate::path::Hop;

const EXCHANGE: ExchangeType = ExchangeType::INFORMATIONAL;

/// What a request of ours was about.
#[derive(Debug)]
pub(super) enum Sent {
    Liveness,
    /// The IKE SA ends with it.
    Last,
    DeleteChildren(Vec<Spi>),
    DeleteOrphan(Spi),
    Token,
    Addresses(mobike::Sent),
}

/// What a request was about whose sender, a process before this one, is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Orphan {
    /// A Child SA with this SPI of ours.
    Child(Spi),
    /// An IKE SA.
    Ike,
    /// The Delete of a Child SA with this SPI of ours, which only the peer has.
    Deleted(Spi),
    /// Nothing that leaves a trace.
    Other,
}

impl IkeSa {
    fn send_informational(&mut self, ctx: &mut Ctx, payloads: &[Payload], sent: Sent) -> Result<(), Error> {
        self.request(ctx, EXCHANGE, payloads, Initiated::Informational(sent)).map(|_| ())
    }

    /// Probes the peer (dead peer detection, RFC 7296 §2.4); behind a NAT also whether it still maps us as before (RFC 4555 §3.8).
    pub(super) fn send_liveness(&mut self, ctx: &mut Ctx) -> Result<(), Error> {
        ctx.count(self.facts.peer, |counters| counters.dpd_requests += 1);
        let payloads = self.liveness_payloads(ctx);
        self.send_informational(ctx, &payloads, Sent::Liveness)
    }

    pub(super) fn send_token(&mut self, ctx: &mut Ctx) -> Result<(), Error> {
        match super::crash::token(ctx, self.facts.spis) {
            Some(token) => self.send_informational(ctx, &[token], Sent::Token),
            None => Ok(()),
        }
    }

    pub(super) fn send_addresses(
        &mut self,
        ctx: &mut Ctx,
        payloads: &[Payload],
        sent: mobike::Sent,
        hop: Hop,
    ) -> Result<(), Error> {
        let context = Initiated::Informational(Sent::Addresses(sent));
        let here = self.hop(ctx);
        self.wire.request(ctx, &self.facts, (here, hop), (EXCHANGE, payloads), context).map(|_| ())
    }

    /// Deletes those of the Child SAs that are still there.
    pub(super) fn send_delete_children(&mut self, ctx: &mut Ctx, mut spis: Vec<Spi>) -> Result<(), Error> {
        let Some(session) = self.session_mut() else { return Ok(()) };
        spis.retain(|spi| session.children.get(*spi).is_some());
        if spis.is_empty() {
            return Ok(());
        }
        let payload = Delete::esp(spis.clone()).into();
        self.send_informational(ctx, &[payload], Sent::DeleteChildren(spis))
    }

    pub(super) fn send_delete_orphan(&mut self, ctx: &mut Ctx, spi: Spi) -> Result<(), Error> {
        self.send_informational(ctx, &[Delete::esp(vec![spi]).into()], Sent::DeleteOrphan(spi))
    }

    pub(super) fn on_informational_response(&mut self, ctx: &mut Ctx, sent: Sent, parts: &Parts) {
        match sent {
            Sent::Liveness => self.on_liveness_answer(parts),
            Sent::Last | Sent::Token => {}
            Sent::DeleteChildren(spis) => {
                let Some(session) = self.session_mut() else { return };
                spis.into_iter().for_each(|spi| session.end_child(ctx, spi));
            }
            Sent::DeleteOrphan(spi) => ctx.shared.spis.release(spi),
            Sent::Addresses(sent) => self.on_addresses_answer(ctx, sent, parts),
        }
    }

    pub(super) fn on_informational_request(&mut self, ctx: &mut Ctx, parts: Parts) {
        let fatal = [NotifyType::AUTHENTICATION_FAILED, NotifyType::INVALID_SYNTAX, NotifyType::UNSUPPORTED_CRITICAL_PAYLOAD];
        // The initiator could not accept us after all (RFC 7296 §2.21.2), or one of us speaks nonsense.
        if let Some(notify) = parts.notifies.iter().find(|notify| fatal.contains(&notify.kind)) {
            let cause = Cause::Refused { exchange: ExchangeType::IKE_AUTH, notify: notify.kind };
            return self.end_after_answer(ctx, cause);
        }
        if parts.deletes.iter().any(|delete| delete.protocol == ProtocolId::IKE) {
            return self.on_delete_ike(ctx);
        }
        let mut answer = self.delete_for_peer(ctx, &parts);
        if let Some(session) = self.session_mut() {
            session.tokens.take(&parts);
            session.proof.standing_mut().take_auth_lifetime(ctx.now, &parts, session.original_initiator);
        }
        answer.extend(self.answer_mobike(ctx, &parts));
        if let Err(error) = self.respond(ctx, EXCHANGE, &answer) {
            return self.end(ctx, error.into());
        }
        self.start_next(ctx);
    }

    fn end_after_answer(&mut self, ctx: &mut Ctx, cause: Cause) {
        let _ = self.respond(ctx, EXCHANGE, &[]);
        self.end(ctx, cause);
    }

    /// The peer deletes this IKE SA: answered with nothing, and our own plans with it are forgotten (RFC 7296 §2.25.2).
    fn on_delete_ike(&mut self, ctx: &mut Ctx) {
        let Some(session) = self.session() else { return };
        match (session.succession.successor(), session.succession.made_by_peer()) {
            (Some(successor), _) => {
                self.end_after_answer(ctx, Cause::Replaced);
                ctx.act(Action::Confirmed { sa: successor });
            }
            (None, Some(successor)) => {
                // The peer finished its rekey and never saw ours (§2.8.2).
                let _ = self.respond(ctx, EXCHANGE, &[]);
                ctx.act(Action::Rekeying(false));
                self.leave_to(ctx, successor, Then::End);
            }
            (None, None) => match session.succession.next() {
                Some(to) => {
                    let _ = self.respond(ctx, EXCHANGE, &[]);
                    ctx.act(Action::GiveWay { to, then: Then::End });
                }
                None => self.end_after_answer(ctx, Cause::PeerClosed),
            },
        }
    }

    /// Deletes what the peer deletes; gives the Delete payload for our halves (RFC 7296 §1.4.1).
    fn delete_for_peer(&mut self, ctx: &mut Ctx, parts: &Parts) -> Vec<Payload> {
        let under_way = match self.wire.window.outstanding().map(|outstanding| &outstanding.context) {
            Some(Initiated::Informational(Sent::DeleteChildren(spis))) => spis.clone(),
            Some(_) | None => Vec::new(),
        };
        let mut ours = Vec::new();
        for delete in parts.deletes.iter().filter(|delete| delete.protocol == ProtocolId::ESP) {
            for outbound in &delete.spis {
                let Some(inbound) =
                    self.session().and_then(|session| session.children.by_outbound(*outbound)).map(|one| one.inbound)
                else {
                    continue;
                };
                // Both ends delete it at once: each names its half in its own request only.
                if !under_way.contains(&inbound) {
                    ours.push(inbound);
                }
                self.on_child_deleted(ctx, inbound);
            }
        }
        if ours.is_empty() { Vec::new() } else { vec![Delete::esp(ours).into()] }
    }

    fn on_child_deleted(&mut self, ctx: &mut Ctx, inbound: Spi) {
        let now = ctx.now.instant;
        let Some(session) = self.session_mut() else { return };
        let Some(successor) = session.children.successor_of(inbound) else { return session.end_child(ctx, inbound) };
        // The peer has switched over, so it receives on the new one (RFC 7296 §2.8).
        session.children.replace(inbound, successor, now);
        self.overtake(inbound);
        self.activate_child(ctx, successor);
        if let Some(session) = self.session_mut() {
            session.children.remove(ctx, inbound);
        }
    }

    /// We have said our last word; the peer may still say its own.
    pub(super) fn on_informational_while_closing(&mut self, ctx: &mut Ctx, parts: &Parts) {
        let _ = self.respond(ctx, EXCHANGE, &[]);
        if parts.deletes.iter().any(|delete| delete.protocol == ProtocolId::IKE) {
            self.end(ctx, Cause::PeerClosed);
        }
    }

    /// The answer to a request that a process before this one has sent.
    pub(super) fn on_orphan_response(&mut self, ctx: &mut Ctx, exchange: ExchangeType, orphan: Orphan, parts: &Parts) {
        let granted = parts.error().is_none();
        match orphan {
            Orphan::Child(spi) if granted => {
                if let Some(session) = self.session_mut() {
                    session.want(super::agenda::Task::DeleteOrphan(spi));
                    session.wants.look_at(ctx.now.instant);
                }
            }
            Orphan::Child(spi) | Orphan::Deleted(spi) => ctx.shared.spis.release(spi),
            Orphan::Ike if granted => {
                // The peer has moved to an IKE SA whose keys died with the process: begin anew.
                self.close(ctx, vec![Delete::ike().into()], Cause::Unanswered { exchange, times: 1 });
            }
            Orphan::Ike => self.yield_to_collision(ctx),
            Orphan::Other => {}
        }
    }
}
