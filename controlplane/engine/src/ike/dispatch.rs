//! An established IKE SA and its exchanges: which one a message is for, which request is next, and what they ask for is carried out.

use adit_proto::ike::{Delete, ExchangeType, ProtocolId};

use super::agenda::Task;
use super::context::Ctx;
use super::error::Error;
use super::exchange::{Answer, Effect, Established, Refusal, Request};
use super::initiated::Initiated;
use super::parts::Parts;
use super::sa::{IkeSa, Stage};
use super::{create_child, evidence, followup, informational, mobike, rekey_ike};
use crate::path::Hop;

impl IkeSa {
    /// As its exchanges see it.
    fn established(&mut self) -> Option<Established<'_>> {
        let Stage::Established(session) = &mut self.stage else { return None };
        let (expected_id, came) = (self.wire.window.expected_id(), self.wire.came());
        let request = self.wire.window.outstanding_mut().map(|outstanding| outstanding.context.seen()).unwrap_or_default();
        Some(Established { facts: &mut self.facts, session, request, expected_id, came })
    }

    /// A request of the peer, in one of the exchanges that an established IKE SA has.
    pub(super) fn on_established_request(&mut self, ctx: &mut Ctx, exchange: ExchangeType, parts: &Parts) {
        let Some(mut sa) = self.established() else { return };
        evidence::heard_request(ctx, sa.facts, sa.came);
        let is_ike = parts.sa.as_ref().is_some_and(|proposals| proposals.iter().all(|one| one.protocol == ProtocolId::IKE));
        let answer = match exchange {
            create_child::EXCHANGE if is_ike => rekey_ike::answer(ctx, &mut sa, parts).map_err(Refusal::from),
            create_child::EXCHANGE => create_child::answer(ctx, &mut sa, parts).map(Answer::from),
            followup::EXCHANGE => followup::answer(ctx, &mut sa, parts).map_err(Refusal::from),
            _ => Ok(informational::answer(ctx, &mut sa, parts)),
        };
        match answer {
            Ok(Answer { payloads, effects }) => {
                if let Err(error) = self.respond(ctx, exchange, &payloads) {
                    self.refuse(ctx, exchange, &error);
                }
                effects.into_iter().for_each(|effect| self.carry_out(ctx, effect));
            }
            Err(Refusal(notify)) => self.refuse_with(ctx, exchange, notify),
        }
    }

    /// The answer to a request of ours. `context` is what was remembered for it.
    pub(super) fn on_established_answer(&mut self, ctx: &mut Ctx, exchange: ExchangeType, context: Initiated, parts: &Parts) {
        let Some(mut sa) = self.established() else { return };
        let effect = match context {
            Initiated::CreateChild(sent) => create_child::on_answer(ctx, &mut sa, *sent, parts),
            Initiated::RekeyIke(sent) => rekey_ike::on_answer(ctx, &mut sa, *sent, parts),
            Initiated::FollowUp(sent) => followup::on_answer(ctx, &mut sa, *sent, parts),
            Initiated::Informational(sent) => informational::on_answer(ctx, &mut sa, sent, parts).err().map(Effect::Fail),
            Initiated::Orphan(orphan) => informational::on_orphan_answer(ctx, sa.session, exchange, orphan, parts),
            Initiated::SaInit(_) | Initiated::Intermediate(_) | Initiated::Auth(_) => None,
        };
        if let Some(effect) = effect {
            self.carry_out(ctx, effect);
        }
    }

    fn carry_out(&mut self, ctx: &mut Ctx, effect: Effect) {
        match effect {
            Effect::FollowUp(goal, link) => {
                let Some(mut sa) = self.established() else { return };
                let request = followup::ask(ctx, &mut sa, goal, link);
                let sent = request.and_then(|request| match request {
                    Some(request) => self.send(ctx, request.of(|sent| Initiated::FollowUp(Box::new(sent)))),
                    None => Ok(()),
                });
                if let Err(error) = sent {
                    self.close_after_failure(ctx, error);
                }
            }
            Effect::Successor(new) => self.bear(ctx, *new),
            Effect::Fail(error) => self.close_after_failure(ctx, error),
            Effect::Close(cause) => self.close(ctx, vec![Delete::ike().into()], cause),
            Effect::End(cause) => self.end(ctx, cause),
            Effect::Act(action) => ctx.act(action),
        }
    }

    fn send(&mut self, ctx: &mut Ctx, request: Request<Initiated>) -> Result<(), Error> {
        self.request(ctx, request.exchange, &request.payloads, request.sent).map(|_| ())
    }

    /// Sends the next request if none is under way.
    pub(super) fn start_next(&mut self, ctx: &mut Ctx) {
        if self.wire.window.is_idle()
            && let Some(hop) = self.to_ask.take()
        {
            self.prove(ctx, hop);
        }
        while self.wire.window.is_idle() {
            let Some(mut sa) = self.established() else { return };
            let Some(task) = sa.session.next_task(ctx.now.instant) else { return sa.session.finish_reauthentication(ctx) };
            let started = match request_for(ctx, &mut sa, task) {
                Ok(Some(request)) => self.send(ctx, request),
                // There is no need for it any more.
                Ok(None) => Ok(()),
                Err(error) => Err(error),
            };
            if let Err(error) = started {
                return self.close_after_failure(ctx, error);
            }
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

/// The request that does this, if it is still to be done.
///
/// # Errors
/// It cannot be made: our fault.
fn request_for(ctx: &mut Ctx, sa: &mut Established, task: Task) -> Result<Option<Request<Initiated>>, Error> {
    let child = |request: Request<create_child::Sent>| request.of(|sent| Initiated::CreateChild(Box::new(sent)));
    let informational = |request: Request<informational::Sent>| request.of(Initiated::Informational);
    let addresses = |request: Request<mobike::Sent>| informational(request.of(informational::Sent::Addresses));
    Ok(match task {
        Task::CreateChild { config, method } => create_child::ask_new(ctx, sa, config, method)?.map(child),
        Task::CreateLane { child: id, lane, method } => create_child::ask_lane(ctx, sa, (id, lane), method)?.map(child),
        Task::RekeyChild { inbound, method } => create_child::ask_rekey(ctx, sa, inbound, method)?.map(child),
        Task::RekeyIke { method } => {
            rekey_ike::ask(ctx, sa.session, method)?.map(|request| request.of(|sent| Initiated::RekeyIke(Box::new(sent))))
        }
        Task::DeleteChildren(spis) => informational::delete_children(sa.session, spis).map(informational),
        Task::DeleteOrphan(spi) => Some(informational(informational::delete_orphan(spi))),
        Task::Liveness => Some(informational(informational::liveness(ctx, sa.facts, sa.session))),
        Task::UpdateAddresses => Some(addresses(mobike::update(ctx, sa.facts, sa.session))),
        Task::AnnounceAddresses => Some(addresses(mobike::announce(ctx, sa.facts, sa.session))),
        Task::SendToken => informational::token(ctx, sa.facts).map(informational),
    })
}
