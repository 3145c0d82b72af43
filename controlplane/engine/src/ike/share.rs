//! What one peer may have of the tables that all peers share, over all of its IKE SAs and in every state: its share is reserved, and
//! it gets no more. At the limit what was replaced goes at once, the oldest first; then there is no place for another one.
//!
//! Room for the next one is made when one was taken, not when it is asked for: nobody waits for it.

use std::time::Instant;

use adit_proto::control::{ChildId, PeerId, Spi};
use adit_proto::esp;
use adit_proto::limits::CHILDREN_OF_PEER_MAX;

use crate::auth::Authenticated;
use crate::rate_limit::Bucket;
use crate::shown::Shown;

use super::config::{ChildConfig, Limits, Mode};
use super::context::{Action, Ctx, Shared};
use super::error::{Error, Incompatibility, LocalFault};
use super::facts::{Facts, SaId};
use super::negotiate::Choice;
use super::places::{self, Place};
use super::selectors::{SelectorPair, between};
use super::session::Session;
use crate::limits::{CHILDREN_SPARE, KEY_EXCHANGES_AT_ONCE, KEY_EXCHANGES_PER_SECOND};

/// Places on a worker that are kept free as long as there is something to give up: to receive by and to send by.
const KEPT_FREE: usize = 2;

/// Whether somebody may have an IKE SA as this peer, which it has proven to be. Its key exchanges are made already.
///
/// # Errors
/// The peer comes too often; it is a pattern, under which somebody else is connected, or whose clients cannot be told apart by a name as
/// long as this one; or there are as many sessions as there may be, nobody is configured by this name alone, and no fewer have one
/// where it comes from than elsewhere.
pub(super) fn may_connect(ctx: &mut Ctx, facts: &Facts, id: PeerId, who: &Authenticated, made: &Choice) -> Result<(), Error> {
    let (now, origin, name) = (ctx.now.instant, ctx.shared.origin(facts), Shown::of(&who.identity));
    let Some(peer) = ctx.shared.peers.get_mut(&id) else { return Ok(()) };
    let is_client = peer.config.remote_id.exact().is_none();
    let wants_place = is_client && peer.current.is_none();
    let may_begin = if is_client {
        if name.is_cut() {
            return Err(Incompatibility::LongName.into());
        }
        let is_another = !peer.connected_as.is_same_name(&name);
        if is_another && peer.current.is_some() {
            // It goes on, if it is alive.
            let other = peer.connected_as.clone();
            ctx.act(Action::Probe { peer: id });
            return Err(Incompatibility::Taken(other).into());
        }
        if is_another {
            // Who was there before has not used up what this one may.
            peer.key_exchanges = Bucket::with_burst(KEY_EXCHANGES_PER_SECOND, KEY_EXCHANGES_AT_ONCE);
        }
        ctx.shared.clients.may_begin(now, origin, &name, who.key.as_ref())
    } else {
        peer.handshakes.take(now)
    };
    if !may_begin {
        return Err(LocalFault::TooOften.into());
    }
    peer.key_exchanges.take_all(now, key_exchanges(made));
    // Only now, for it is looked for among all.
    match if wants_place { places::for_client(ctx.shared, facts.begun, &name) } else { Place::Free } {
        Place::None => return Err(LocalFault::Sessions.into()),
        Place::From(at) => ctx.act(Action::MakePlace { at }),
        Place::Free => {}
    }
    Ok(())
}

/// Whether the peer may have the key exchanges of another IKE SA or Child SA, with those that are to follow in IKE_FOLLOWUP_KE
/// (RFC 9370 §2.2.4): these are taken now, so what has begun is seen through. An SA without one of its own counts as well, for it has to
/// be installed all the same.
///
/// # Errors
/// It has them made too often, over all of its IKE SAs.
pub(super) fn may_exchange_keys(ctx: &mut Ctx, id: PeerId, agreed: &Choice) -> Result<(), LocalFault> {
    let (now, peer) = (ctx.now.instant, ctx.shared.peers.get_mut(&id));
    if peer.is_none_or(|peer| peer.key_exchanges.take_all(now, key_exchanges(agreed))) {
        return Ok(());
    }
    ctx.count(Some(id), |counters| counters.key_exchanges_postponed += 1);
    Err(LocalFault::KeysTooOften)
}

fn key_exchanges(agreed: &Choice) -> u32 {
    1 + u32::try_from(agreed.additional.len()).unwrap_or(u32::MAX - 1)
}

/// Whether another Child SA may be made by the peer on this lane, as a new one or in a rekey.
///
/// # Errors
/// There are too many, for good or until some are gone.
pub(super) fn has_room(ctx: &Ctx, session: &Session, lane: u8, is_new: bool) -> Result<(), LocalFault> {
    let workers = workers(&ctx.shared.config.limits);
    let worker = usize::from(lane) % workers;
    let live = || session.children.iter().filter(|child| child.is_live());
    let (ids, share) = (&ctx.shared.spis.children, session.config.share.sas);
    let places = ids.on_worker(session.peer, worker, workers);
    if is_new {
        let here = live().filter(|child| usize::from(child.lane) % workers == worker).count();
        // All of them can be rekeyed at one time.
        if ids.ids(session.peer).len() >= CHILDREN_OF_PEER_MAX
            || live().count() >= live_max(session)
            || 2 * (here + 1) + places.sending + 1 > share
        {
            return Err(LocalFault::Children);
        }
    }
    let needed = if is_new { KEPT_FREE } else { 1 };
    let fits = ids.count(session.peer) < 2 * live_max(session) && places.receiving + places.sending + needed <= share;
    if fits { Ok(()) } else { Err(LocalFault::Busy) }
}

/// Whether a Child SA with these selectors fits what the peer may have of the policy table. `id`: it is a lane of that one, or rekeys it.
///
/// # Errors
/// They make too many pairs, with those that there are.
pub(super) fn has_room_for(
    ctx: &Ctx,
    session: &Session,
    (owner, id): (SaId, Option<ChildId>),
    (config, mode, selectors): (usize, Mode, &SelectorPair),
) -> Result<(), Incompatibility> {
    let ids = &ctx.shared.spis.children;
    let id = id.unwrap_or_else(|| ids.id_for(session.peer, owner, (config, mode, selectors)));
    let pairs = ids.pairs_with(session.peer, id, selectors, pairs_of(session, config, selectors));
    if pairs > session.config.share.selectors { Err(Incompatibility::TooManySelectors) } else { Ok(()) }
}

/// How many places the selectors of a Child SA take in the policy table: one more than a peer may have if there are more.
pub(super) fn pairs_of(session: &Session, config: usize, selectors: &SelectorPair) -> usize {
    match session.child_config(config) {
        Some(child) if !child.pairs.is_empty() => between(&child.pairs, selectors, session.config.share.selectors + 1).len(),
        Some(_) | None => selectors.local.len() * selectors.remote.len(),
    }
}

/// The worker on which a peer has more than leaves room for the next SA; any of them where it has too many in all.
pub(super) fn crowded(shared: &Shared, session: &Session) -> Option<Crowded> {
    let (limits, ids, peer) = (&shared.config.limits, &shared.spis.children, session.peer);
    let workers = workers(limits);
    if ids.count(peer) >= 2 * live_max(session) {
        return Some(Crowded { worker: None, workers });
    }
    let full = |worker: &usize| {
        let places = ids.on_worker(peer, *worker, workers);
        places.receiving + places.sending + KEPT_FREE > session.config.share.sas
    };
    (0..workers).find(full).map(|worker| Crowded { worker: Some(worker), workers })
}

/// Where a peer has too many SAs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Crowded {
    worker: Option<usize>,
    workers: usize,
}

impl Crowded {
    fn concerns(self, inbound: Spi) -> bool {
        self.worker.is_none_or(|worker| esp::worker_of(inbound, self.workers) == worker)
    }
}

/// The SA of a session that is given up first: of those that only take what is late the oldest, then of those that were replaced and
/// that the peer has not deleted.
pub(super) fn oldest_replaced(session: &Session, crowded: Crowded) -> Option<(bool, Instant, Spi)> {
    session.children.replaced().filter(|(_, _, inbound)| crowded.concerns(*inbound)).min()
}

/// Child SAs of one IKE SA that are not on their way out.
fn live_max(session: &Session) -> usize {
    // A peer may make one for each pair of networks.
    let of = |child: &ChildConfig| usize::from(session.wants.lanes(Some(child))) + child.pairs.len().saturating_sub(1);
    4 * session.config.children.iter().map(of).sum::<usize>() + CHILDREN_SPARE
}

fn workers(limits: &Limits) -> usize {
    usize::from(limits.workers.max(1))
}
