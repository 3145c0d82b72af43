//! INFORMATIONAL (RFC 7296 §1.4): dead peer detection (DPD), Delete, errors; and what others put into it (MOBIKE, crash tokens).

use adit_proto::control::Spi;
use adit_proto::ike::{Delete, ExchangeType, NotifyType, ProtocolId};

use super::agenda::Task;
use super::candidates::{self, Candidate};
use super::cause::Cause;
use super::change::Change;
use super::children::Children;
use super::context::{Action, Ctx, Then};
use super::exchange::{Answer, Effect, Established, Request};
use super::facts::Facts;
use super::parts::Parts;
use super::succession::Succession;
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
    /// These are ours.
    Candidates(Vec<Candidate>),
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
pub(super) fn liveness(ctx: &mut Ctx, sa: &Established) -> Request<Sent> {
    ctx.count(sa.facts.peer, |counters| counters.dpd_requests += 1);
    Request { exchange: EXCHANGE, payloads: mobike::liveness_payloads(ctx, sa), sent: Sent::Liveness }
}

/// Gives the peer our crash token of this IKE SA, if we have one.
pub(super) fn token(ctx: &Ctx, facts: &Facts) -> Option<Request<Sent>> {
    crash::token(ctx, facts.spis).map(|token| Request { exchange: EXCHANGE, payloads: vec![token], sent: Sent::Token })
}

/// Deletes those of the Child SAs that are still there.
pub(super) fn delete_children(children: &Children, mut spis: Vec<Spi>) -> Option<Request<Sent>> {
    spis.retain(|spi| children.get(*spi).is_some());
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
pub(super) fn on_answer(ctx: &mut Ctx, sa: &Established, sent: Sent, parts: &Parts) -> Vec<Effect> {
    match sent {
        Sent::Liveness => mobike::on_liveness_answer(parts).into_iter().collect(),
        Sent::Last | Sent::Token => Vec::new(),
        Sent::DeleteChildren(spis) => spis.into_iter().map(|spi| Change::ChildDeleted(spi).into()).collect(),
        Sent::DeleteOrphan(spi) => {
            ctx.shared.spis.release(spi);
            Vec::new()
        }
        Sent::Candidates(named) => on_candidates_answer(ctx, &named, parts),
        Sent::Addresses(sent) => mobike::on_answer(ctx, sa, &sent, parts),
    }
}

/// Errors that end an IKE SA: the initiator could not accept us after all (RFC 7296 §2.21.2), or one of us speaks nonsense.
const FATAL: [NotifyType; 3] =
    [NotifyType::AUTHENTICATION_FAILED, NotifyType::INVALID_SYNTAX, NotifyType::UNSUPPORTED_CRITICAL_PAYLOAD];

/// Whether a message ends the IKE SA, so that it is no sign that the peer wants it.
pub(super) fn is_farewell(parts: &Parts) -> bool {
    parts.notifies.iter().any(|notify| FATAL.contains(&notify.kind))
        || parts.deletes.iter().any(|delete| delete.protocol == ProtocolId::IKE)
}

/// What a request of the peer asks for.
pub(super) fn answer(ctx: &mut Ctx, sa: &Established, parts: &Parts) -> Answer {
    if let Some(notify) = parts.notifies.iter().find(|notify| FATAL.contains(&notify.kind)) {
        let cause = Cause::Refused { exchange: ExchangeType::IKE_AUTH, notify: notify.kind };
        return Answer { after: vec![Effect::End(cause)], ..Answer::default() };
    }
    if parts.deletes.iter().any(|delete| delete.protocol == ProtocolId::IKE) {
        return delete_ike(ctx, &sa.session.succession);
    }
    let mut answer = delete_for_peer(sa, parts);
    for about_addresses in [mobike::answer(ctx, sa, parts), answer_candidates(ctx, sa, parts)] {
        answer.payloads.extend(about_addresses.payloads);
        answer.before.extend(about_addresses.before);
    }
    answer
}

/// Tells the peer where we can perhaps be reached by UDP.
pub(super) fn tell_candidates(ctx: &Ctx) -> Request<Sent> {
    let own = ctx.shared.candidates.clone();
    Request { exchange: EXCHANGE, payloads: vec![candidates::named(&own)], sent: Sent::Candidates(own) }
}

/// The peer says in its answer where it is. Ours may be others by now than those that it was told.
fn on_candidates_answer(ctx: &Ctx, named: &[Candidate], parts: &Parts) -> Vec<Effect> {
    let again = (named != ctx.shared.candidates).then_some(Change::Want(Task::TellCandidates));
    candidates::read(parts).map(Change::CandidatesOfPeer).into_iter().chain(again).map(Effect::from).collect()
}

/// The peer says where it may be, and is told the same of us.
fn answer_candidates(ctx: &Ctx, sa: &Established, parts: &Parts) -> Answer {
    let Some(all) = candidates::read(parts).filter(|_| sa.facts.features.candidates) else { return Answer::default() };
    let (payloads, before) = (vec![candidates::named(&ctx.shared.candidates)], vec![Change::CandidatesOfPeer(all).into()]);
    Answer { payloads, before, after: Vec::new() }
}

/// The peer deletes this IKE SA: answered with nothing, and our own plans with it are forgotten (RFC 7296 §2.25.2).
fn delete_ike(ctx: &mut Ctx, succession: &Succession) -> Answer {
    match (succession.successor(), succession.made_by_peer()) {
        (Some(successor), _) => {
            let confirmed = Effect::Act(Action::Confirmed { sa: successor });
            Answer { after: vec![Effect::End(Cause::Replaced), confirmed], ..Answer::default() }
        }
        (None, Some(successor)) => {
            // The peer finished its rekey and never saw ours (§2.8.2).
            ctx.act(Action::Rekeying(false));
            Answer { before: vec![Change::LeftTo(successor, Then::End).into()], ..Answer::default() }
        }
        (None, None) => {
            ctx.act(match succession.next() {
                Some(to) => Action::GiveWay { to, then: Then::End },
                None => Action::Deleted,
            });
            Answer::default()
        }
    }
}

/// Deletes what the peer deletes; the answer is the Delete payload for our halves (RFC 7296 §1.4.1).
fn delete_for_peer(sa: &Established, parts: &Parts) -> Answer {
    let (mut gone, mut ours): (Vec<Spi>, Vec<Spi>) = (Vec::new(), Vec::new());
    let deletes = parts.deletes.iter().filter(|delete| delete.protocol == ProtocolId::ESP);
    for outbound in deletes.flat_map(|delete| &delete.spis) {
        // Named twice, it is deleted once.
        let child = sa.session.children.iter().find(|child| child.outbound == *outbound && !gone.contains(&child.inbound));
        let Some(inbound) = child.map(|child| child.inbound) else { continue };
        gone.push(inbound);
        // Both ends delete it at once: each names its half in its own request only.
        if !sa.request.deletes.contains(&inbound) {
            ours.push(inbound);
        }
    }
    let payloads = if ours.is_empty() { Vec::new() } else { vec![Delete::esp(ours).into()] };
    Answer { payloads, before: gone.into_iter().map(Effect::DeletedByPeer).collect(), after: Vec::new() }
}

/// The answer to a request that a process before this one has sent.
pub(super) fn on_orphan_answer(ctx: &mut Ctx, exchange: ExchangeType, orphan: Orphan, parts: &Parts) -> Vec<Effect> {
    let granted = parts.error().is_none();
    match orphan {
        Orphan::Child(spi) if granted => vec![Change::Orphan(spi).into(), Change::Missing.into()],
        Orphan::Child(spi) | Orphan::Deleted(spi) => {
            ctx.shared.spis.release(spi);
            Vec::new()
        }
        // The peer has moved to an IKE SA whose keys died with the process: begin anew.
        Orphan::Ike if granted => vec![Effect::Close(Cause::Unanswered { exchange, times: 1 })],
        Orphan::Ike => vec![Change::RekeyYields.into()],
        Orphan::Other => Vec::new(),
    }
}
