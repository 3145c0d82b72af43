//! An established IKE SA and its exchanges: which one a message is for, which request is next, and what they ask for is carried out.

use adit_proto::ike::{Delete, ExchangeType, ProtocolId};

use super::agenda::Task;
use super::context::Ctx;
use super::error::{Error, Misbehaviour};
use super::exchange::{Answer, Begun, Effect, Established, Refusal, Request};
use super::initiated::Initiated;
use super::parts::Parts;
use super::sa::{IkeSa, Stage};
use super::{create_child, evidence, followup, informational, mobike, rekey_ike};
use crate::path::Hop;

impl IkeSa {
    /// As its exchanges see it.
    fn established(&self) -> Option<Established<'_>> {
        let Stage::Established(session) = &self.stage else { return None };
        let (expected_id, came) = (self.wire.window.expected_id(), self.wire.came());
        let request = self.wire.window.outstanding().map(|outstanding| outstanding.context.seen()).unwrap_or_default();
        Some(Established { facts: &self.facts, session, request, expected_id, came })
    }

    /// A request of the peer, in one of the exchanges that an established IKE SA has.
    pub(super) fn on_established_request(&mut self, ctx: &mut Ctx, exchange: ExchangeType, parts: &Parts) {
        let came = self.wire.came();
        let Some((facts, session)) = self.facts_and_session() else { return };
        evidence::heard_request(ctx, facts, session, came);
        let awaited = if exchange == followup::EXCHANGE { session.awaited.take(followup::link(parts)) } else { None };
        if exchange == informational::EXCHANGE && !informational::is_farewell(parts) {
            session.take_news(ctx.now, parts);
        }
        let Some(sa) = self.established() else { return };
        let is_ike = parts.sa.as_ref().is_some_and(|proposals| proposals.iter().all(|one| one.protocol == ProtocolId::IKE));
        let answer = match exchange {
            create_child::EXCHANGE if is_ike => rekey_ike::answer(ctx, &sa, parts).map_err(Refusal::from),
            create_child::EXCHANGE => create_child::answer(ctx, &sa, parts),
            followup::EXCHANGE => followup::answer(ctx, &sa, awaited, parts).map_err(Refusal::from),
            _ => Ok(informational::answer(ctx, &sa, parts)),
        };
        match answer {
            Ok(Answer { payloads, before, after }) => {
                before.into_iter().for_each(|effect| self.carry_out(ctx, effect));
                if let Err(error) = self.respond(ctx, exchange, &payloads) {
                    self.refuse(ctx, exchange, &error);
                }
                after.into_iter().for_each(|effect| self.carry_out(ctx, effect));
            }
            Err(Refusal(notify)) => self.refuse_with(ctx, exchange, notify),
        }
    }

    /// The answer to a request of ours. `context` is what was remembered for it.
    pub(super) fn on_established_answer(&mut self, ctx: &mut Ctx, exchange: ExchangeType, context: Initiated, parts: &Parts) {
        let Some(sa) = self.established() else { return };
        let effects = match context {
            Initiated::CreateChild(sent) => create_child::on_answer(ctx, &sa, *sent, parts),
            Initiated::RekeyIke(sent) => rekey_ike::on_answer(ctx, &sa, *sent, parts),
            Initiated::FollowUp(sent) => followup::on_answer(ctx, &sa, *sent, parts),
            Initiated::Informational(sent) => informational::on_answer(ctx, &sa, sent, parts),
            Initiated::Orphan(orphan) => informational::on_orphan_answer(ctx, exchange, orphan, parts),
            Initiated::SaInit(_) | Initiated::Intermediate(_) | Initiated::Auth(_) => Vec::new(),
        };
        effects.into_iter().for_each(|effect| self.carry_out(ctx, effect));
    }

    fn carry_out(&mut self, ctx: &mut Ctx, effect: Effect) {
        match effect {
            Effect::Change(change) => {
                if let Some((facts, session)) = self.facts_and_session() {
                    session.apply(ctx, facts, change);
                }
            }
            Effect::Nat(nat) => {
                self.facts.nat = nat;
                if let Some((facts, session)) = self.facts_and_session() {
                    evidence::agree_on_paths(ctx, facts, session);
                }
            }
            Effect::DeletedByPeer(inbound) => {
                let has_successor = self.session_mut().is_some_and(|session| session.on_deleted_by_peer(ctx, inbound));
                if let Some(outstanding) = self.wire.window.outstanding_mut().filter(|_| has_successor) {
                    outstanding.context.overtake(inbound);
                }
            }
            Effect::Postpone(task) => {
                let is_patient = self.session_mut().is_none_or(|session| session.wait_after_temporary_failure(ctx, task));
                if !is_patient {
                    self.close_after_failure(ctx, Misbehaviour::ForeverTemporary.into());
                }
            }
            Effect::FollowUp(goal, link) => {
                let begun = followup::ask(ctx, &self.facts, goal, link);
                self.begin_exchange(ctx, begun.map(|begun| begun.of(|sent| Initiated::FollowUp(Box::new(sent)))));
            }
            Effect::Successor(new) => self.bear(ctx, *new),
            Effect::Fail(error) => self.close_after_failure(ctx, error),
            Effect::Close(cause) => self.close(ctx, vec![Delete::ike().into()], cause),
            Effect::End(cause) => self.end(ctx, cause),
            Effect::Act(action) => ctx.act(action),
        }
    }

    /// Sends the request of an exchange, if there is still need for it.
    fn begin_exchange(&mut self, ctx: &mut Ctx, begun: Result<Begun<Initiated>, Error>) {
        let sent = begun.and_then(|Begun { request, effects }| {
            effects.into_iter().for_each(|effect| self.carry_out(ctx, effect));
            let Some(request) = request else { return Ok(()) };
            self.request(ctx, request.exchange, &request.payloads, request.sent).map(|_| ())
        });
        if let Err(error) = sent {
            self.close_after_failure(ctx, error);
        }
    }

    /// Sends the next request if none is under way.
    pub(super) fn start_next(&mut self, ctx: &mut Ctx) {
        if self.wire.window.is_idle()
            && let Some(hop) = self.to_ask.take()
        {
            self.prove(ctx, hop);
        }
        while self.wire.window.is_idle() {
            let Some(session) = self.session_mut() else { return };
            let Some(task) = session.next_task(ctx.now.instant) else { return session.finish_reauthentication(ctx) };
            let Some(sa) = self.established() else { return };
            let begun = request_for(ctx, &sa, task);
            self.begin_exchange(ctx, begun);
        }
    }

    /// A request is to be sent there and answered from there: the one under way, for the window may be full, or a new one.
    pub(super) fn prove(&mut self, ctx: &mut Ctx, hop: Hop) {
        if !self.wire.window.is_idle() {
            return self.wire.repeat_to(ctx, self.facts.peer, hop);
        }
        let here = self.hop(ctx);
        let Some(sa) = self.established().filter(|sa| sa.session.succession.may_speak(ctx.now.instant)) else { return };
        let request = mobike::route_check(ctx, sa.facts, hop).of(informational::Sent::Addresses).of(Initiated::Informational);
        let message = (request.exchange, request.payloads.as_slice());
        if self.wire.request(ctx, &self.facts, (here, hop), message, request.sent).is_err() {
            ctx.shared.paths.refused += 1;
        }
    }
}

/// The exchange that does this, if it is still to be done.
///
/// # Errors
/// It cannot be begun: our fault.
fn request_for(ctx: &mut Ctx, sa: &Established, task: Task) -> Result<Begun<Initiated>, Error> {
    let child = |begun: Begun<create_child::Sent>| begun.of(|sent| Initiated::CreateChild(Box::new(sent)));
    let informational = |request: Request<informational::Sent>| request.of(Initiated::Informational).into();
    let addresses = |begun: Begun<mobike::Sent>| begun.of(informational::Sent::Addresses).of(Initiated::Informational);
    Ok(match task {
        Task::CreateChild { config, method } => child(create_child::ask_new(ctx, sa, config, method)?),
        Task::CreateLane { child: id, lane, method } => child(create_child::ask_lane(ctx, sa, (id, lane), method)?),
        Task::RekeyChild { inbound, method } => child(create_child::ask_rekey(ctx, sa, inbound, method)?),
        Task::RekeyIke { method } => rekey_ike::ask(ctx, sa.session, method)?.of(|sent| Initiated::RekeyIke(Box::new(sent))),
        Task::DeleteChildren(spis) => {
            informational::delete_children(&sa.session.children, spis).map_or_else(Begun::default, informational)
        }
        Task::DeleteOrphan(spi) => informational(informational::delete_orphan(spi)),
        Task::Liveness => informational(informational::liveness(ctx, sa)),
        Task::UpdateAddresses => addresses(mobike::update(ctx, sa.facts, &sa.session.config)),
        Task::AnnounceAddresses => addresses(mobike::announce(ctx, sa.facts, &sa.session.config)),
        Task::TellCandidates => informational(informational::tell_candidates(ctx)),
        Task::SendToken => informational::token(ctx, sa.facts).map_or_else(Begun::default, informational),
    })
}
