//! Child SAs: what is known of each, and the order in which the data plane learns of them.
//!
//! A pair is installed inbound as soon as it has keys. Outbound follows when the peer can surely receive: at once for whoever
//! began the exchange, for the other end when the SA that it replaces is deleted or the first packet has come (RFC 7296 §2.8).

use std::time::{Duration, Instant};

use adit_proto::control::{ChildId, PeerId, SaKey, Spi};

use crate::random::Random;

use super::config::{ChildConfig, Lifetime, Mode};
use super::context::Ctx;
use super::event::{ChildKeys, Event};
use super::key_log::KeyLog;
use super::negotiate::Choice;
use super::sa::IkeSa;
use super::selectors::SelectorPair;
use super::session::{Session, Task};
use super::window::jittered;
use super::wishes::Wish;

/// After this time the peer has asked again for an answer that was lost, or has given up.
const SURELY_KNOWN: Duration = Duration::from_secs(180);
/// How long an inbound SA that was replaced still takes packets that were late.
const INBOUND_DRAIN: Duration = Duration::from_secs(5);

/// How long we go on sending on an SA that the peer has replaced when we cannot send on its successor: shorter than what the
/// peer drains.
const OUTBOUND_DRAIN: Duration = Duration::from_secs(3);

/// What has become of a Child SA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ChildState {
    Live,
    /// Another one has its traffic; whoever made that one deletes this one.
    Replaced {
        by: Spi,
        since: Instant,
    },
    /// Our Delete is under way or waits for its turn.
    Closing,
}

/// The outbound half of a Child SA. A key is given to the data plane once: it begins at sequence number 1, so twice would
/// repeat nonces.
#[derive(Debug)]
pub(super) enum Sending {
    /// Not installed yet.
    Waits(Box<SaKey>),
    Installed,
    /// The data plane does not have it any more, or a process that is gone had the key: nobody can say what was sent under it.
    /// Only a rekey helps.
    Lost,
}

/// The peer's rekey of a Child SA that we may be rekeying, too (RFC 7296 §2.8.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RekeyCollision {
    /// Our inbound SPI in the peer's exchange.
    pub inbound: Spi,
    pub lowest_nonce: Vec<u8>,
}

/// Bytes and packets of one SA in both directions, as the data plane counts them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub inbound_bytes: u64,
    pub inbound_packets: u64,
    pub outbound_bytes: u64,
    pub outbound_packets: u64,
}

/// When a Child SA is to be replaced and when it ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Limits {
    pub rekey_at: Option<Instant>,
    pub expire_at: Option<Instant>,
    soft: (u64, u64),
    hard: (u64, u64),
}

/// A pair of SAs.
#[derive(Debug)]
pub(super) struct Child {
    /// All lanes have it, and what takes its place in a rekey.
    pub id: ChildId,
    /// Index in the peer's configured children.
    pub config: usize,
    pub lane: u8,
    pub mode: Mode,
    pub inbound: Spi,
    pub outbound: Spi,
    pub choice: Choice,
    pub selectors: SelectorPair,
    pub born: Instant,
    pub limits: Limits,
    pub usage: Usage,
    pub sending: Sending,
    /// The inbound SPI of the Child SA whose place it takes.
    pub replaces: Option<Spi>,
    pub state: ChildState,
    /// Another one has, or had, its place: what comes late is still taken when it goes.
    pub superseded: bool,
    /// The id of the peer's CREATE_CHILD_SA that made it: as long as nothing else has come, the peer may not know of it.
    pub granted_in: Option<u32>,
    /// Our rekey of it is under way.
    pub rekeying: bool,
    pub collision: Option<RekeyCollision>,
}

/// An outbound SA whose Child SA is gone and that is used until the next one is there.
#[derive(Clone, Copy, Debug)]
pub(super) struct DrainingOutbound {
    pub until: Instant,
    pub place: (ChildId, u8),
    pub outbound: Spi,
}

impl Limits {
    /// From a configured lifetime; the soft ones come a little earlier by chance (RFC 7296 §2.8.1).
    pub(super) fn new(now: Instant, lifetime: &Lifetime, random: &mut dyn Random) -> Limits {
        let after = lifetime.rekey_after;
        let timed = !after.is_zero();
        let percent = |value: u64, percent: u64| (u128::from(value) * u128::from(percent) / 100).min(u64::MAX.into()) as u64;
        let early = 100 - u64::from(random.u32()) % (u64::from(lifetime.jitter_percent.min(90)) + 1);
        let soft = (percent(lifetime.rekey_bytes, early), percent(lifetime.rekey_packets, early));
        let hard_percent = u64::from(lifetime.hard_percent.max(100));
        let hard = (percent(lifetime.rekey_bytes, hard_percent), percent(lifetime.rekey_packets, hard_percent));
        Limits {
            rekey_at: timed.then(|| now + jittered(after, lifetime.jitter_percent, random)),
            expire_at: timed.then(|| now + after.mul_f64(hard_percent as f64 / 100.0)),
            soft,
            hard,
        }
    }
}

impl Limits {
    /// Everything in it: times, then bytes and packets, soft and hard.
    pub(super) fn parts(&self) -> (Option<Instant>, Option<Instant>, [u64; 4]) {
        (self.rekey_at, self.expire_at, [self.soft.0, self.soft.1, self.hard.0, self.hard.1])
    }

    pub(super) fn of_parts(rekey_at: Option<Instant>, expire_at: Option<Instant>, volumes: [u64; 4]) -> Limits {
        let [soft_bytes, soft_packets, hard_bytes, hard_packets] = volumes;
        Limits { rekey_at, expire_at, soft: (soft_bytes, soft_packets), hard: (hard_bytes, hard_packets) }
    }
}

impl Child {
    /// Whether so much has gone through it that it is to be replaced.
    pub(super) fn is_worn(&self) -> bool {
        reached(&self.usage, self.limits.soft)
    }

    /// Whether so much has gone through it that nothing more may.
    pub(super) fn is_used_up(&self) -> bool {
        reached(&self.usage, self.limits.hard)
    }

    /// Whether the peer surely has it; `expected_id` is that of its next request.
    pub(super) fn is_confirmed(&self, now: Instant, expected_id: u32) -> bool {
        let old = now.saturating_duration_since(self.born) >= SURELY_KNOWN;
        old || self.usage.inbound_packets > 0 || self.granted_in.is_none_or(|id| expected_id > id + 1)
    }

    pub(super) fn is_live(&self) -> bool {
        self.state == ChildState::Live
    }

    pub(super) fn is_sending(&self) -> bool {
        matches!(self.sending, Sending::Installed)
    }

    pub(super) fn place(&self) -> (ChildId, u8) {
        (self.id, self.lane)
    }

    /// Where it is counted what the data plane refuses.
    pub(super) fn slot(&self) -> (usize, u8) {
        (self.config, self.lane)
    }

    /// What is wanted again when it is gone.
    pub(super) fn wishes(&self, config: Option<&ChildConfig>) -> Vec<Wish> {
        if self.lane > 0 {
            return vec![Wish::Lane(self.id, self.lane)];
        }
        match config {
            Some(config) if !config.pairs.is_empty() => {
                let had = config.pairs.iter().filter(|pair| self.selectors.touches(pair));
                had.map(|pair| Wish::Selector(self.config, *pair)).collect()
            }
            Some(_) | None => vec![Wish::Any(self.config)],
        }
    }

    fn keys(&self, peer: PeerId, spi: Spi, key: SaKey, replaces: Option<Spi>) -> Box<ChildKeys> {
        Box::new(ChildKeys {
            peer,
            child: self.id,
            lane: self.lane,
            spi,
            suite: self.choice.suite,
            key,
            esn: self.choice.esn,
            mode: self.mode,
            selectors: self.selectors.clone(),
            replaces,
        })
    }
}

/// A limit of zero is none.
fn reached(usage: &Usage, (bytes, packets): (u64, u64)) -> bool {
    let over = |limit, inbound: u64, outbound: u64| limit > 0 && inbound.max(outbound) >= limit;
    over(bytes, usage.inbound_bytes, usage.outbound_bytes) || over(packets, usage.inbound_packets, usage.outbound_packets)
}

impl Session {
    pub(super) fn child(&self, inbound: Spi) -> Option<&Child> {
        self.children.iter().find(|child| child.inbound == inbound)
    }

    pub(super) fn child_mut(&mut self, inbound: Spi) -> Option<&mut Child> {
        self.children.iter_mut().find(|child| child.inbound == inbound)
    }

    /// The Child SA that the peer calls by this SPI.
    pub(super) fn child_by_outbound(&self, outbound: Spi) -> Option<&Child> {
        self.children.iter().find(|child| child.outbound == outbound)
    }

    /// Takes a Child SA in, ready to receive.
    pub(super) fn add_child(&mut self, ctx: &mut Ctx, child: Child, inbound_key: SaKey) {
        ctx.count(Some(self.peer), |counters| counters.children_created += 1);
        if ctx.shared.config.key_log
            && let Some(hop) = ctx.shared.paths.esp_hop(self.peer)
        {
            let (suite, esn) = (child.choice.suite, child.choice.esn);
            let log = |from, to, spi, key| Event::KeyLog(Box::new(KeyLog::Esp { from, to, spi, suite, key, esn }));
            ctx.event(log(hop.remote, hop.local, child.inbound, inbound_key.clone()));
            if let Sending::Waits(key) = &child.sending {
                ctx.event(log(hop.local, hop.remote, child.outbound, (**key).clone()));
            }
        }
        ctx.event(Event::InstallInbound(child.keys(self.peer, child.inbound, inbound_key, child.replaces)));
        self.children.push(child);
    }

    /// Installs the outbound SA of a Child SA, once. One that cannot be is replaced.
    pub(super) fn activate(&mut self, ctx: &mut Ctx, inbound: Spi) {
        let replaced = self.child(inbound).and_then(|child| child.replaces);
        let replaces = replaced.and_then(|spi| self.child(spi)).map(|old| old.outbound);
        // Its turn may come only after that of the one that took its place.
        if self.is_overtaken(inbound) {
            return;
        }
        let peer = self.peer;
        let Some(child) = self.child_mut(inbound) else { return };
        match std::mem::replace(&mut child.sending, Sending::Installed) {
            Sending::Installed => {}
            Sending::Waits(key) => {
                let (keys, place) = (child.keys(peer, child.outbound, *key, replaces), child.place());
                ctx.event(Event::InstallOutbound(keys));
                self.part(ctx, |draining| draining.place == place);
            }
            Sending::Lost => {
                child.sending = Sending::Lost;
                self.want(Task::RekeyChild { inbound, method: None });
            }
        }
    }

    /// Whether one that came later in the place of this one is used for sending already, or this one is about to go.
    fn is_overtaken(&self, inbound: Spi) -> bool {
        let mut next = self.child(inbound);
        // Bounded, for what a snapshot brings may go in circles.
        for _ in 0..self.children.len() {
            match next.map(|child| child.state) {
                Some(ChildState::Closing) => return true,
                Some(ChildState::Replaced { by, .. }) => next = self.child(by),
                Some(ChildState::Live) | None => return false,
            }
            if next.is_some_and(|by| !matches!(by.sending, Sending::Waits(_))) {
                return true;
            }
        }
        false
    }

    /// Takes a Child SA out. Where another one has its place, what was sent on it is still taken for a while.
    pub(super) fn remove_child(&mut self, ctx: &mut Ctx, inbound: Spi) {
        let Some(index) = self.children.iter().position(|child| child.inbound == inbound) else { return };
        let child = self.children.remove(index);
        if child.is_sending() {
            let (place, outbound) = (child.place(), child.outbound);
            let successor = |one: &Child| one.place() == place && matches!(one.sending, Sending::Lost) && one.is_live();
            if child.superseded && self.children.iter().any(successor) {
                let until = ctx.now.instant + OUTBOUND_DRAIN;
                self.draining_outbound.push(DrainingOutbound { until, place, outbound });
            } else {
                ctx.event(Event::RemoveOutbound { peer: self.peer, spi: outbound });
            }
        }
        self.stands_in_for(inbound);
        if child.superseded {
            self.draining_inbound.push((ctx.now.instant + INBOUND_DRAIN, child.inbound));
        } else {
            self.remove_inbound(ctx, child.inbound);
        }
    }

    /// A Child SA that was to take the place of another one is gone: the other one has its place again.
    fn stands_in_for(&mut self, gone: Spi) {
        for old in &mut self.children {
            if matches!(old.state, ChildState::Replaced { by, .. } if by == gone) {
                old.state = ChildState::Live;
                old.superseded = false;
            }
            if old.collision.as_ref().is_some_and(|collision| collision.inbound == gone) {
                old.collision = None;
            }
        }
    }

    /// Takes both halves out; the SPI stays reserved until the peer has answered our Delete.
    /// Gives what has no SA now, unless another one has its place.
    pub(super) fn expire_child(&mut self, ctx: &mut Ctx, inbound: Spi) -> Option<Child> {
        let index = self.children.iter().position(|child| child.inbound == inbound)?;
        let child = self.children.remove(index);
        if child.is_sending() {
            ctx.event(Event::RemoveOutbound { peer: self.peer, spi: child.outbound });
        }
        ctx.event(Event::RemoveInbound { peer: self.peer, spi: inbound });
        (!child.superseded).then_some(child)
    }

    pub(super) fn remove_all_children(&mut self, ctx: &mut Ctx) {
        while let Some(inbound) = self.children.first().map(|child| child.inbound) {
            self.remove_child(ctx, inbound);
        }
        for (_, inbound) in std::mem::take(&mut self.draining_inbound) {
            self.remove_inbound(ctx, inbound);
        }
        self.part(ctx, |_| true);
        if let Some(pending) = self.pending.take() {
            pending.release(ctx);
        }
        for task in self.tasks.drain(..) {
            if let Task::DeleteOrphan(spi) = task {
                ctx.shared.spis.release(spi);
            }
        }
    }

    /// Takes out the inbound SAs that have drained long enough.
    pub(super) fn end_draining_inbound(&mut self, ctx: &mut Ctx) {
        let now = ctx.now.instant;
        let (over, rest) = std::mem::take(&mut self.draining_inbound).into_iter().partition(|(at, _)| *at <= now);
        self.draining_inbound = rest;
        let over: Vec<(Instant, Spi)> = over;
        over.into_iter().for_each(|(_, inbound)| self.remove_inbound(ctx, inbound));
        self.part(ctx, |draining| draining.until <= now);
    }

    /// Takes out outbound SAs that were used on until there was another one.
    fn part(&mut self, ctx: &mut Ctx, over: impl Fn(&DrainingOutbound) -> bool) {
        let peer = self.peer;
        for draining in self.draining_outbound.extract_if(.., |draining| over(draining)) {
            ctx.event(Event::RemoveOutbound { peer, spi: draining.outbound });
        }
    }

    fn remove_inbound(&self, ctx: &mut Ctx, spi: Spi) {
        ctx.shared.spis.release(spi);
        ctx.event(Event::RemoveInbound { peer: self.peer, spi });
    }
}

impl IkeSa {
    /// Every Child SA that has waited for it is used for sending from now on.
    pub(super) fn activate_children(&mut self, ctx: &mut Ctx) {
        let waits = |child: &&Child| child.is_live() && child.replaces.is_none();
        let Some(session) = self.session().filter(|session| session.beside.hold_until.is_none()) else { return };
        let spis: Vec<Spi> = session.children.iter().filter(waits).map(|child| child.inbound).collect();
        spis.into_iter().for_each(|inbound| self.activate_child(ctx, inbound));
    }

    /// The data plane has counted. Replaces or ends what is worn out; and packets on a new SA prove that the peer sends on it.
    pub(super) fn take_usage(&mut self, ctx: &mut Ctx, inbound: Spi, usage: Usage) {
        let now = ctx.now.instant;
        let Some(child) = self.session_mut().and_then(|session| session.child_mut(inbound)) else { return };
        let heard = usage.inbound_packets > child.usage.inbound_packets;
        child.usage = usage;
        let proven = heard && !child.is_sending() && child.replaces.is_some() && child.is_live();
        let heard_on_new = heard && child.usage.inbound_packets > 0;
        if heard {
            // An authentic packet of ESP is proof of life as good as any (RFC 7296 §2.4).
            self.last_heard = now;
        }
        if proven {
            self.activate_child(ctx, inbound);
        }
        if heard_on_new {
            self.end_hold(ctx);
        }
        self.on_children_timeout(ctx);
    }
}
