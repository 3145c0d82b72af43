//! INFORMATIONAL (RFC 7296 §1.4): dead peer detection (DPD), Delete, errors; and what others put into it (MOBIKE, crash tokens).

use adit_proto::control::Spi;
use adit_proto::ike::{Delete, ExchangeType, NotifyType, Payload, ProtocolId};

use super::agenda::Task;
use super::cause::Cause;
use super::context::{Action, Ctx, Then};
use super::error::Error;
use super::exchange::{Answer, Effect, Established, Request};
use super::facts::Facts;
use super::parts::Parts;
use super::session::Session;
use super::{crash, mobike};

pub(super) const EXCHANGE: ExchangeType = ExchangeType::INFORMATIONAL;

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

/// Probes the peer (dead peer detection, RFC 7296 §2.4); behind a NAT also whether it still maps us as before (RFC 4555 §3.8).
pub(super) fn liveness(ctx: &mut Ctx, facts: &Facts, session: &Session) -> Request<Sent> {
    ctx.count(facts.peer, |counters| counters.dpd_requests += 1);
    Request { exchange: EXCHANGE, payloads: mobike::liveness_payloads(ctx, facts, session), sent: Sent::Liveness }
}

/// Gives the peer our crash token of this IKE SA, if we have one.
pub(super) fn token(ctx: &Ctx, facts: &Facts) -> Option<Request<Sent>> {
    crash::token(ctx, facts.spis).map(|token| Request { exchange: EXCHANGE, payloads: vec![token], sent: Sent::Token })
}

/// Deletes those of the Child SAs that are still there.
pub(super) fn delete_children(session: &Session, mut spis: Vec<Spi>) -> Option<Request<Sent>> {
    spis.retain(|spi| session.children.get(*spi).is_some());
    let some = !spis.is_empty();
    some.then(|| Request {
        exchange: EXCHANGE,
        payloads: vec![Delete::esp(spis.clone()).into()],
        sent: Sent::DeleteChildren(spis),
    })
}

/// Deletes a Child SA that the peer has made and we have not.
pub(super) fn delete_orphan(spi: Spi) -> Request<Sent> {
    Request { exchange: EXCHANGE, payloads: vec![Delete::esp(vec![spi]).into()], sent: Sent::DeleteOrphan(spi) }
}

/// The answer to a request of ours.
///
/// # Errors
/// It is not the peer's.
pub(super) fn on_answer(ctx: &mut Ctx, sa: &mut Established, sent: Sent, parts: &Parts) -> Result<(), Error> {
    match sent {
        Sent::Liveness => mobike::on_liveness_answer(sa.session, parts),
        Sent::Last | Sent::Token => {}
        Sent::DeleteChildren(spis) => spis.into_iter().for_each(|spi| sa.session.end_child(ctx, spi, false)),
        Sent::DeleteOrphan(spi) => ctx.shared.spis.release(spi),
        Sent::Addresses(sent) => return mobike::on_answer(ctx, sa, &sent, parts),
    }
    Ok(())
}

/// Errors that end an IKE SA: the initiator could not accept us after all (RFC 7296 §2.21.2), or one of us speaks nonsense.
const FATAL: [NotifyType; 3] =
    [NotifyType::AUTHENTICATION_FAILED, NotifyType::INVALID_SYNTAX, NotifyType::UNSUPPORTED_CRITICAL_PAYLOAD];

/// Whether a message ends the IKE SA, so that it is no sign that the peer wants it.
pub(super) fn is_farewell(parts: &Parts) -> bool {
    parts.notifies.iter().any(|notify| FATAL.contains(&notify.kind))
        || parts.deletes.iter().any(|delete| delete.protocol == ProtocolId::IKE)
}

/// What a request of the peer asks for, and tells.
pub(super) fn answer(ctx: &mut Ctx, sa: &mut Established, parts: &Parts) -> Answer {
    if let Some(notify) = parts.notifies.iter().find(|notify| FATAL.contains(&notify.kind)) {
        return end(Cause::Refused { exchange: ExchangeType::IKE_AUTH, notify: notify.kind });
    }
    if parts.deletes.iter().any(|delete| delete.protocol == ProtocolId::IKE) {
        return delete_ike(ctx, sa.session);
    }
    let mut payloads = delete_for_peer(ctx, sa, parts);
    let session = &mut *sa.session;
    session.tokens.take(parts);
    session.proof.standing_mut().take_auth_lifetime(ctx.now, parts, session.original_initiator);
    payloads.extend(mobike::answer(ctx, sa, parts));
    payloads.into()
}

fn end(cause: Cause) -> Answer {
    Answer { payloads: Vec::new(), effects: vec![Effect::End(cause)] }
}

/// The peer deletes this IKE SA: answered with nothing, and our own plans with it are forgotten (RFC 7296 §2.25.2).
fn delete_ike(ctx: &mut Ctx, session: &mut Session) -> Answer {
    match (session.succession.successor(), session.succession.made_by_peer()) {
        (Some(successor), _) => {
            let confirmed = Effect::Act(Action::Confirmed { sa: successor });
            Answer { payloads: Vec::new(), effects: vec![Effect::End(Cause::Replaced), confirmed] }
        }
        (None, Some(successor)) => {
            // The peer finished its rekey and never saw ours (§2.8.2).
            ctx.act(Action::Rekeying(false));
            session.leave_to(ctx, successor, Then::End);
            Answer::default()
        }
        (None, None) => match session.succession.next() {
            Some(to) => {
                ctx.act(Action::GiveWay { to, then: Then::End });
                Answer::default()
            }
            None => {
                ctx.act(Action::Deleted);
                Answer::default()
            }
        },
    }
}

/// Deletes what the peer deletes; gives the Delete payload for our halves (RFC 7296 §1.4.1).
fn delete_for_peer(ctx: &mut Ctx, sa: &mut Established, parts: &Parts) -> Vec<Payload> {
    let mut ours = Vec::new();
    for delete in parts.deletes.iter().filter(|delete| delete.protocol == ProtocolId::ESP) {
        for outbound in &delete.spis {
            let Some(inbound) = sa.session.children.by_outbound(*outbound).map(|one| one.inbound) else { continue };
            // Both ends delete it at once: each names its half in its own request only.
            if !sa.request.deletes.contains(&inbound) {
                ours.push(inbound);
            }
            on_child_deleted(ctx, sa, inbound);
        }
    }
    if ours.is_empty() { Vec::new() } else { vec![Delete::esp(ours).into()] }
}

fn on_child_deleted(ctx: &mut Ctx, sa: &mut Established, inbound: Spi) {
    let Some(successor) = sa.session.children.successor_of(inbound) else { return sa.session.end_child(ctx, inbound, true) };
    // The peer has switched over, so it receives on the new one (RFC 7296 §2.8).
    sa.session.children.replace(inbound, successor, ctx.now.instant);
    // Only the winner deletes what both rekey: ours has lost, whatever its answer says.
    if let Some(plan) = sa.request.plan.as_mut().filter(|plan| plan.replaces == Some(inbound)) {
        plan.overtaken = true;
    }
    sa.session.activate(ctx, successor);
    sa.session.children.remove(ctx, inbound);
}

/// The answer to a request that a process before this one has sent.
pub(super) fn on_orphan_answer(
    ctx: &mut Ctx,
    session: &mut Session,
    exchange: ExchangeType,
    orphan: Orphan,
    parts: &Parts,
) -> Option<Effect> {
    let granted = parts.error().is_none();
    match orphan {
        Orphan::Child(spi) if granted => {
            session.want(Task::DeleteOrphan(spi));
            session.wants.look_at(ctx.now.instant);
        }
        Orphan::Child(spi) | Orphan::Deleted(spi) => ctx.shared.spis.release(spi),
        // The peer has moved to an IKE SA whose keys died with the process: begin anew.
        Orphan::Ike if granted => return Some(Effect::Close(Cause::Unanswered { exchange, times: 1 })),
        Orphan::Ike => session.yield_rekey(ctx),
        Orphan::Other => {}
    }
    None
}
