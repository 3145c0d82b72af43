//! Which Child SAs are wanted and not there: what is configured, selector by selector and lane by lane, less what there is. What
//! the peer refuses is asked for again, each for itself and ever more rarely.
//!
//! A peer may narrow what it is asked for (RFC 7296 §2.9), some to the first pair of networks alone. What no Child SA has anything
//! of is then asked for in others: together from a peer that grants several pairs at once, from others one by one.

use std::time::{Duration, Instant};

use adit_proto::control::{ChildId, Selector, Spi};
use adit_proto::ike::IpSelector;
use adit_proto::limits::SELECTORS_OF_CHILD_MAX;

use super::child::{Child, ChildState};
use super::context::Ctx;
use super::event::Cause;
use super::plan::{self, Plan};
use super::selectors::{SelectorPair, sides_of};
use super::session::{Session, Task};
use super::window::jittered;

/// How long to wait before something that is wanted and was refused is asked for again, at first and at most.
const WAIT: Duration = Duration::from_secs(5);
const WAIT_MAX: Duration = Duration::from_secs(120);
/// Where much is refused, the waits are so long that there is no more than one request in this time.
const SPACING: Duration = Duration::from_secs(10);

/// Something that a Child SA is wanted for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Whatever the peer grants of a configured child, by its index.
    Any(usize),
    /// What is in this configured selector, or the part of it that the peer grants.
    Selector(usize, Selector),
    /// One more lane of a Child SA.
    Lane(ChildId, u8),
}

/// A wish that was refused.
#[derive(Clone, Debug)]
pub(super) struct Refused {
    pub wish: Wish,
    /// Why; unknown where it was there and is not any more.
    pub cause: Option<Cause>,
    times: u32,
    pub until: Instant,
    /// It is not asked for before that.
    waits: bool,
}

/// The two sides of some configured selectors, each range once.
pub(super) fn sides<'a>(pairs: impl IntoIterator<Item = &'a Selector>) -> SelectorPair {
    let mut sides = SelectorPair::default();
    let add = |side: &mut Vec<IpSelector>, one: IpSelector| {
        if !side.contains(&one) {
            side.push(one);
        }
    };
    for pair in pairs {
        let (local, remote) = sides_of(pair);
        add(&mut sides.local, local);
        add(&mut sides.remote, remote);
    }
    sides
}

impl Child {
    /// Whether it is there for a configured selector, or a part of it.
    fn has_of(&self, config: usize, pair: &Selector) -> bool {
        self.config == config && self.state != ChildState::Closing && self.selectors.touches(pair)
    }
}

impl Plan {
    /// What is refused when it is.
    pub(super) fn wishes(&self) -> Vec<Wish> {
        match self.id {
            Some(id) => vec![Wish::Lane(id, self.lane)],
            None if self.pairs.is_empty() => vec![Wish::Any(self.config)],
            None => self.pairs.iter().map(|pair| Wish::Selector(self.config, *pair)).collect(),
        }
    }
}

impl Session {
    /// Whether there is a lane of a Child SA that is to stay.
    pub(super) fn has_lane(&self, id: ChildId, lane: u8) -> bool {
        self.children.iter().any(|child| child.place() == (id, lane) && child.state != ChildState::Closing)
    }

    fn waits(&self, wish: &Wish) -> bool {
        self.refused.iter().any(|refused| refused.waits && refused.wish == *wish)
    }

    pub(super) fn has(&self, wish: &Wish) -> bool {
        match wish {
            Wish::Any(config) => {
                self.children.iter().any(|child| child.config == *config && child.lane == 0 && child.state != ChildState::Closing)
            }
            Wish::Selector(config, pair) => self.children.iter().any(|child| child.has_of(*config, pair)),
            Wish::Lane(id, lane) => self.has_lane(*id, *lane),
        }
    }

    /// What is configured and not there, whoever is to ask for it, with the reason why the peer refused it.
    pub(super) fn missing(&self) -> Vec<(Wish, Option<&Refused>)> {
        let mut missing = Vec::new();
        for (config, child) in self.config.children.iter().enumerate() {
            let any = child.pairs.is_empty().then_some(Wish::Any(config));
            let pairs = child.pairs.iter().map(|pair| Wish::Selector(config, *pair));
            missing.extend(any.into_iter().chain(pairs).filter(|wish| !self.has(wish)));
        }
        let why = |wish: &Wish| self.refused.iter().find(|refused| refused.wish == *wish);
        missing.into_iter().map(|wish| (why(&wish), wish)).map(|(why, wish)| (wish, why)).collect()
    }

    /// Whether any Child SA is to be asked for, whatever the peer grants.
    pub(super) fn lacks(&self, config: usize) -> bool {
        let any = Wish::Any(config);
        self.config.children.get(config).is_some_and(|child| child.pairs.is_empty()) && !self.has(&any) && !self.waits(&any)
    }

    /// The configured selectors to be asked for in the next Child SA.
    pub(super) fn to_ask_for(&self, config: usize, is_adit: bool) -> Vec<Selector> {
        let Some(child) = self.config.children.get(config) else { return Vec::new() };
        let together = if self.narrows && !is_adit { 1 } else { SELECTORS_OF_CHILD_MAX };
        let wanted = |pair: &Selector| {
            let wish = Wish::Selector(config, *pair);
            !self.has(&wish) && !self.waits(&wish)
        };
        child.pairs.iter().copied().filter(wanted).take(together).collect()
    }

    /// What a Child SA is to have after its rekey: what the configuration says by now of what it has (RFC 7296 §2.9.2), and of what none
    /// has, unless the peer grants single pairs alone.
    pub(super) fn to_rekey_for(&self, old: &Child, is_adit: bool) -> SelectorPair {
        let Some(child) = self.config.children.get(old.config) else { return old.selectors.clone() };
        if child.pairs.is_empty() {
            return plan::policy(child);
        }
        let (config, alone) = (old.config, self.narrows && !is_adit);
        let others =
            |pair: &Selector| self.children.iter().any(|one| one.id != old.id && one.is_live() && one.has_of(config, pair));
        let pairs: Vec<Selector> =
            child.pairs.iter().copied().filter(|pair| old.selectors.touches(pair) || (!alone && !others(pair))).collect();
        // Nothing that it has is configured any more: it is about to be deleted.
        if pairs.is_empty() { old.selectors.clone() } else { sides(&pairs) }
    }

    /// Whether the configuration knows nothing any more of what a Child SA has.
    pub(super) fn is_unwanted(&self, child: &Child) -> bool {
        let config = self.config.children.get(child.config);
        config.is_none_or(|config| {
            let knows = config.pairs.is_empty() || config.pairs.iter().any(|pair| child.selectors.touches(pair));
            config.mode != child.mode || !knows
        })
    }

    /// Something could not be had, or is not there any more: asks again later.
    pub(super) fn create_later(&mut self, ctx: &mut Ctx, wishes: Vec<Wish>, slot: (usize, u8), cause: Option<&Cause>) {
        let backoff = self.install_backoffs.get(&slot).map(|backoff| backoff.until);
        let longest = WAIT_MAX.max(SPACING * u32::try_from(self.refused.len()).unwrap_or(u32::MAX).min(1024));
        for wish in wishes {
            let before =
                self.refused.iter().position(|refused| refused.wish == wish).map(|place| self.refused.swap_remove(place));
            let times = before.as_ref().map_or(0, |before| before.times);
            let wait = WAIT.saturating_mul(1 << times.min(8)).min(longest);
            let until = backoff.max(Some(ctx.now.instant + jittered(wait, 25, ctx.random))).unwrap_or(ctx.now.instant);
            let cause = cause.cloned().or(before.and_then(|before| before.cause));
            self.refused.push(Refused { wish, cause, times: times.saturating_add(1), until, waits: true });
        }
        self.plan_next();
    }

    /// The time has come for some of what was refused.
    pub(super) fn ask_again(&mut self, now: Instant) {
        self.refused.iter_mut().for_each(|refused| refused.waits &= refused.until > now);
        self.plan_next();
    }

    fn plan_next(&mut self) {
        self.create_at = self.refused.iter().filter(|refused| refused.waits).map(|refused| refused.until).min();
    }

    /// Asks for every Child SA that is configured and not there, where that is our business.
    pub(super) fn want_missing_children(&mut self, is_adit: bool) {
        // The Child SAs of a predecessor are still to come.
        let goes = self.successor.is_some() || self.beside.after.is_some();
        if !self.original_initiator || goes || self.predecessor.is_some() {
            return;
        }
        self.forget_what_came();
        self.close_headless_lanes();
        for config in 0..self.config.children.len() {
            if self.lacks(config) || !self.to_ask_for(config, is_adit).is_empty() {
                self.want(Task::CreateChild { config, method: None });
            }
            let lanes = if is_adit { self.lanes(config) } else { 1 }.clamp(1, self.lanes_max.max(1));
            let first = |child: &&Child| child.config == config && child.lane == 0 && child.state != ChildState::Closing;
            let ids: Vec<ChildId> = self.children.iter().filter(first).map(|child| child.id).collect();
            for (child, lane) in ids.into_iter().flat_map(|id| (1..lanes).map(move |lane| (id, lane))) {
                if !self.has_lane(child, lane) && !self.waits(&Wish::Lane(child, lane)) {
                    self.want(Task::CreateLane { child, lane, method: None });
                }
            }
        }
    }

    /// Deletes lanes whose first lane is gone, once a Child SA that was made in its place has them, too.
    fn close_headless_lanes(&mut self) {
        let is_there = |id: ChildId, lane: u8| {
            let it = |one: &&Child| one.id == id && one.lane == lane && one.state != ChildState::Closing;
            self.children.iter().any(|one| it(&one))
        };
        let headless = self.children.iter().filter(|one| one.is_live() && one.lane > 0 && !is_there(one.id, 0));
        let has_place = |one: &&Child| {
            let same = |other: &Child| other.id != one.id && other.config == one.config && other.selectors == one.selectors;
            let whole = |other: &Child| same(other) && other.is_live() && other.lane == one.lane && is_there(other.id, 0);
            self.children.iter().any(whole)
        };
        let spare: Vec<Spi> = headless.filter(has_place).map(|one| one.inbound).collect();
        spare.into_iter().for_each(|inbound| self.close_child(inbound));
    }

    /// What is there, or not configured any more, was refused for the last time.
    fn forget_what_came(&mut self) {
        let mut refused = std::mem::take(&mut self.refused);
        refused.retain(|one| {
            let is_known = match &one.wish {
                Wish::Any(config) => *config < self.config.children.len(),
                Wish::Selector(config, pair) => self.config.children.get(*config).is_some_and(|child| child.pairs.contains(pair)),
                Wish::Lane(id, _) => self.has_lane(*id, 0),
            };
            is_known && !self.has(&one.wish)
        });
        self.refused = refused;
    }
}
