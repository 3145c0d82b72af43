//! Which Child SAs are wanted and not there: what is configured, selector by selector and lane by lane, less what there is. What
//! the peer refuses is asked for again, each for itself and ever more rarely.
//!
//! Whoever began the connection asks. Towards other products we ask as well where they began it, after a pause for them to do it
//! themselves, and only a few times: many a client wants less than what is configured, and what it ends stays
//! ended, as long as the IKE SA lives and this process.
//!
//! A peer may narrow what it is asked for (RFC 7296 §2.9), some to the first pair of networks alone. What no Child SA has anything
//! of is then asked for in others: together from a peer that grants several pairs at once, from others one by one. A pair of which a
//! part is there is asked for alone, once as a whole where it was not, and then what is left of it, so that nothing is made twice. A peer
//! that has no more to give is within its rights: that is asked for far more rarely than what is missing.

use std::time::{Duration, Instant};

use adit_proto::control::{ChildId, Selector, Spi};
use adit_proto::ike::IpSelector;
use adit_proto::limits::{LANES_MAX, SELECTORS_OF_CHILD_MAX};

use crate::random::Random;

use super::agenda::Task;
use super::cause::Cause;
use super::child::{Child, ChildState};
use super::children::Children;
use super::config::{ChildConfig, PeerConfig};
use super::coverage::{Carried, Coverage};
use super::install_backoff::InstallBackoffs;
use super::plan::Plan;
use super::selectors::{SelectorPair, sides_of};
use super::window::jittered;

/// How long to wait before something that is wanted and was refused is asked for again, at first and at most.
const WAIT: Duration = Duration::from_secs(5);
const WAIT_MAX: Duration = Duration::from_secs(120);
/// The same for the rest of a pair that the peer has narrowed: a rekey asks for all of it as well.
const REST_WAIT_MAX: Duration = Duration::from_secs(3600);
/// Where much is refused, the waits are so long that there is no more than one request in this time.
const SPACING: Duration = Duration::from_secs(10);

/// For so long whoever began the connection may ask for what is configured here, before we do; and how often we do then.
const LEFT_TO_PEER: Duration = Duration::from_secs(10);
const TRIES_AS_RESPONDER: u32 = 3;

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

/// A wish that was refused, or that is the peer's to fulfil so far.
#[derive(Clone, Debug)]
pub(super) struct Refused {
    pub wish: Wish,
    /// Why; unknown where it was there and is not any more.
    pub cause: Option<Cause>,
    times: u32,
    until: Instant,
    /// It is not asked for before that.
    waits: bool,
    /// It is not asked for at all: the peer began the connection, and has ended it or refused it often enough.
    is_left: bool,
}

impl Refused {
    /// When it is asked for again.
    pub(super) fn retry_at(&self) -> Option<Instant> {
        (!self.is_left).then_some(self.until)
    }
}

/// What is asked for in the next Child SA: of these configured selectors all, or what is not there. Without any there is nothing.
#[derive(Debug, Default)]
pub(super) struct Ask {
    pub pairs: Vec<Selector>,
    pub selectors: SelectorPair,
    /// How much of them is there.
    pub had: Carried,
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

    /// Whether the configuration knows nothing any more of what it has.
    pub(super) fn is_unwanted(&self, config: Option<&ChildConfig>) -> bool {
        config.is_none_or(|config| {
            let knows = config.pairs.is_empty() || config.pairs.iter().any(|pair| self.selectors.touches(pair));
            config.mode != self.mode || !knows
        })
    }

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

impl Children {
    /// How much there is of what is wanted.
    pub(super) fn carried(&self, peer: &PeerConfig, wish: &Wish) -> Carried {
        let is_there = match wish {
            Wish::Any(config) => self.staying().any(|child| child.config == *config && child.lane == 0),
            Wish::Lane(id, lane) => self.has_lane(*id, *lane),
            Wish::Selector(config, pair) => {
                let child = peer.children.get(*config);
                return child.map_or(Carried::Nothing, |child| Coverage::of(self, *config).carried(&child.pairs, pair));
            }
        };
        if is_there { Carried::Whole } else { Carried::Nothing }
    }

    /// Lanes whose first lane is gone, where a Child SA that was made in its place has them, too.
    pub(super) fn headless_lanes(&self) -> Vec<Spi> {
        let headless = self.iter().filter(|one| one.is_live() && one.lane > 0 && !self.has_lane(one.id, 0));
        let has_place = |one: &&Child| {
            let same = |other: &Child| other.id != one.id && other.config == one.config && other.selectors == one.selectors;
            let whole = |other: &Child| same(other) && other.is_live() && other.lane == one.lane && self.has_lane(other.id, 0);
            self.iter().any(whole)
        };
        headless.filter(has_place).map(|one| one.inbound).collect()
    }
}

/// What the peer has refused, and what it can do; what the data plane has refused.
pub(super) struct Wants {
    /// We began the connection: what is missing is ours to ask for.
    asks: bool,
    /// What the peer has refused, or is not there any more.
    refused: Vec<Refused>,
    /// When Child SAs that are missing are asked for again.
    create_at: Option<Instant>,
    /// The peer leaves pairs out where it is asked for several.
    narrows: bool,
    /// A process before this one has asked already.
    is_taken_over: bool,
    /// With how many lanes the peer can do something; 1 if it did not say.
    peer_lanes: u8,
    /// The peer wants no more lanes than this (RFC 9611: TS_MAX_QUEUE).
    lanes_max: u8,
    pub backoffs: InstallBackoffs,
}

impl Wants {
    /// `asks`: we began the connection.
    pub(super) fn new(asks: bool) -> Wants {
        let (refused, backoffs) = (Vec::new(), InstallBackoffs::default());
        let (peer_lanes, lanes_max) = (1, LANES_MAX);
        Wants { asks, refused, create_at: None, narrows: false, is_taken_over: false, peer_lanes, lanes_max, backoffs }
    }

    /// Of an IKE SA that another process has made.
    pub(super) fn taken_over(self) -> Wants {
        Wants { is_taken_over: true, ..self }
    }

    /// The configured selectors, by the index of their child, that are left to the peer because it has ended what was there for them.
    pub(super) fn left(&self) -> Vec<(usize, Selector)> {
        let left = self.refused.iter().filter(|one| one.is_left && one.times == 0);
        left.filter_map(|one| if let Wish::Selector(child, pair) = one.wish { Some((child, pair)) } else { None }).collect()
    }

    /// With what was known of the peer's lanes.
    pub(super) fn with_lanes(self, (peer_lanes, lanes_max): (u8, u8)) -> Wants {
        Wants { peer_lanes, lanes_max, ..self }
    }

    /// With how many lanes the peer can do something, and how many it wants at most.
    pub(super) fn peer_lanes(&self) -> (u8, u8) {
        (self.peer_lanes, self.lanes_max)
    }

    pub(super) fn set_peer_lanes(&mut self, lanes: u8) {
        self.peer_lanes = lanes;
    }

    /// The peer does not want this lane.
    pub(super) fn refuse_lane(&mut self, lane: u8) {
        self.lanes_max = self.lanes_max.min(lane);
    }

    /// Lanes of a child: as many as the end with more workers wants.
    pub(super) fn lanes(&self, config: Option<&ChildConfig>) -> u8 {
        config.map_or(1, |child| child.lanes.max(self.peer_lanes))
    }

    /// Whether the peer is known to leave pairs out.
    pub(super) fn narrows(&self) -> bool {
        self.narrows
    }

    /// The peer left pairs out.
    pub(super) fn note_narrowing(&mut self) {
        self.narrows = true;
    }

    /// What is missing is looked for then.
    pub(super) fn look_at(&mut self, at: Instant) {
        self.create_at = Some(at);
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.create_at
    }

    fn refused(&self, wish: &Wish) -> Option<&Refused> {
        self.refused.iter().find(|refused| refused.wish == *wish)
    }

    /// Whether it is refused, or left to the peer, until a time that is still to come.
    pub(super) fn waits(&self, wish: &Wish) -> bool {
        self.refused(wish).is_some_and(|refused| refused.waits)
    }

    /// What is configured and not there, whoever is to ask for it, with the reason why the peer refused it.
    pub(super) fn missing(&self, peer: &PeerConfig, children: &Children) -> Vec<(Wish, Option<&Refused>)> {
        let mut missing = Vec::new();
        for (config, child) in peer.children.iter().enumerate() {
            let any = Some(Wish::Any(config)).filter(|any| child.pairs.is_empty() && children.carried(peer, any).is_missing());
            let mut coverage = Coverage::of(children, config);
            let pairs = child.pairs.iter().filter(|pair| coverage.carried(&child.pairs, pair).is_missing());
            missing.extend(any.into_iter().chain(pairs.map(|pair| Wish::Selector(config, *pair))));
        }
        missing.into_iter().map(|wish| (self.refused(&wish), wish)).map(|(why, wish)| (wish, why)).collect()
    }

    /// The configured selectors of which the peer carries a part, some of that part, and why there is no more.
    pub(super) fn narrowed(&self, peer: &PeerConfig, children: &Children) -> Vec<(Selector, Vec<Selector>, Option<&Refused>)> {
        let mut narrowed = Vec::new();
        for (config, child) in peer.children.iter().enumerate() {
            let mut coverage = Coverage::of(children, config);
            for pair in &child.pairs {
                if coverage.carried(&child.pairs, pair) == Carried::Part {
                    let why = self.refused(&Wish::Selector(config, *pair));
                    narrowed.push((*pair, coverage.parts(&child.pairs, pair), why));
                }
            }
        }
        narrowed
    }

    /// Whether any Child SA is to be asked for, whatever the peer grants.
    pub(super) fn lacks(&self, peer: &PeerConfig, children: &Children, config: usize) -> bool {
        let any = Wish::Any(config);
        let is_wanted = peer.children.get(config).is_some_and(|child| child.pairs.is_empty());
        is_wanted && children.carried(peer, &any).is_missing() && !self.waits(&any)
    }

    /// The configured selectors to be asked for in the next Child SA: first those of which there is nothing.
    pub(super) fn to_ask_for(&self, peer: &PeerConfig, children: &Children, config: usize, is_adit: bool) -> Ask {
        let Some(child) = peer.children.get(config) else { return Ask::default() };
        let together = if self.narrows && !is_adit { 1 } else { SELECTORS_OF_CHILD_MAX };
        let mut coverage = Coverage::of(children, config);
        let (mut pairs, mut begun) = (Vec::new(), Vec::new());
        for pair in &child.pairs {
            let refused = self.refused(&Wish::Selector(config, *pair));
            // What the one who began the connection was given time for.
            let is_ours = self.asks || refused.is_some();
            if !is_ours || refused.is_some_and(|refused| refused.waits) {
                continue;
            }
            match coverage.carried(&child.pairs, pair) {
                Carried::Nothing => pairs.push(*pair),
                // What the one who began the connection took a part of, it wants a part of.
                had @ (Carried::OfOthers | Carried::Part) if self.asks || had.is_missing() => {
                    begun.push((*pair, had, refused.map_or(0, |refused| refused.times)));
                }
                Carried::OfOthers | Carried::Part | Carried::Whole => {}
            }
            if pairs.len() == together {
                break;
            }
        }
        if !pairs.is_empty() {
            return Ask { selectors: sides(&pairs), pairs, had: Carried::Nothing };
        }
        let is_alone = child.pairs.len() == 1;
        let mut asks = begun.into_iter().filter_map(|begun| self.to_ask_for_alone(&mut coverage, begun, is_adit, is_alone));
        asks.next().unwrap_or_default()
    }

    /// How to ask for a pair of which some packets are carried, after it was refused so many times.
    fn to_ask_for_alone(
        &self,
        coverage: &mut Coverage,
        (pair, had, times): (Selector, Carried, u32),
        is_adit: bool,
        is_only_one: bool,
    ) -> Option<Ask> {
        let rest = coverage.rest(&pair, times.saturating_sub(1));
        let has_rest = !rest.remote.is_empty();
        // Others may take a pair only as it is configured there, too. The one pair of a peer has been asked for so in IKE_AUTH.
        let was_asked_for = times > 0 || is_only_one || self.is_taken_over;
        let as_it_is = !was_asked_for && (!is_adit || !has_rest);
        let selectors = if as_it_is { sides([&pair]) } else { rest };
        (as_it_is || has_rest).then(|| Ask { pairs: vec![pair], selectors, had })
    }

    /// What a Child SA is to have after its rekey: what the configuration says by now of what it has (RFC 7296 §2.9.2), and of what none
    /// has, unless the peer grants single pairs alone.
    pub(super) fn to_rekey_for(&self, peer: &PeerConfig, children: &Children, old: &Child, is_adit: bool) -> SelectorPair {
        let Some(child) = peer.children.get(old.config) else { return old.selectors.clone() };
        if child.pairs.is_empty() {
            return child.policy();
        }
        let (config, alone) = (old.config, self.narrows && !is_adit);
        let others = |pair: &Selector| children.iter().any(|one| one.id != old.id && one.is_live() && one.has_of(config, pair));
        let pairs: Vec<Selector> =
            child.pairs.iter().copied().filter(|pair| old.selectors.touches(pair) || (!alone && !others(pair))).collect();
        // Nothing that it has is configured any more: it is about to be deleted.
        if pairs.is_empty() { old.selectors.clone() } else { sides(&pairs) }
    }

    /// Something could not be had, or is not there any more: asks again later. `slot` is the child and lane for which the data
    /// plane may want a wait of its own.
    pub(super) fn create_later(
        &mut self,
        (now, random): (Instant, &mut dyn Random),
        wishes: Vec<(Wish, Carried)>,
        slot: (usize, u8),
        cause: Option<&Cause>,
    ) {
        let backoff = self.backoffs.until(slot);
        let spaced = SPACING * u32::try_from(self.refused.len()).unwrap_or(u32::MAX).min(1024);
        for (wish, had) in wishes {
            let longest = spaced.max(if had == Carried::Part { REST_WAIT_MAX } else { WAIT_MAX });
            let before =
                self.refused.iter().position(|refused| refused.wish == wish).map(|place| self.refused.swap_remove(place));
            let times = before.as_ref().map_or(0, |before| before.times);
            let wait = WAIT.saturating_mul(1 << times.min(8)).min(longest);
            let until = backoff.max(Some(now + jittered(wait, 25, random))).unwrap_or(now);
            let cause = cause.cloned().or(before.and_then(|before| before.cause));
            let times = times.saturating_add(1);
            let is_left = !self.asks && times >= TRIES_AS_RESPONDER;
            self.refused.push(Refused { wish, cause, times, until, waits: true, is_left });
        }
        self.plan_next();
    }

    /// The peer, which began the connection, has ended what these stand for: it is not asked to have it again.
    pub(super) fn leave_to_peer(&mut self, now: Instant, wishes: Vec<Wish>) {
        self.refused.retain(|refused| !wishes.contains(&refused.wish));
        let wishes = wishes.into_iter().filter(|wish| matches!(wish, Wish::Selector(..)));
        let left = |wish| Refused { wish, cause: None, times: 0, until: now, waits: true, is_left: true };
        self.refused.extend(wishes.map(left));
    }

    /// The time has come for some of what was refused, or left to the peer.
    pub(super) fn ask_again(&mut self, now: Instant, peer: &PeerConfig, children: &Children, is_adit: bool) {
        self.refused.iter_mut().for_each(|refused| refused.waits &= refused.is_left || refused.until > now);
        if !self.asks && !is_adit {
            let (left_out, until) = (self.left_out(peer, children), now + LEFT_TO_PEER);
            let paused = |wish| Refused { wish, cause: None, times: 0, until, waits: true, is_left: false };
            self.refused.extend(left_out.into_iter().map(paused));
        }
        self.plan_next();
    }

    fn plan_next(&mut self) {
        let waiting = self.refused.iter().filter(|refused| refused.waits);
        self.create_at = waiting.filter_map(Refused::retry_at).min();
    }

    /// Configured selectors of which no Child SA has anything, and that nobody was given time for.
    fn left_out(&self, peer: &PeerConfig, children: &Children) -> Vec<Wish> {
        let missing = self.missing(peer, children).into_iter();
        let selectors = missing.filter(|(wish, why)| why.is_none() && matches!(wish, Wish::Selector(..)));
        selectors.map(|(wish, _)| wish).collect()
    }

    /// The requests for all that is configured and not there, where that is our business. What the peer has left out, another product
    /// that began the connection, is looked at with the clock: `soon`.
    pub(super) fn tasks(&mut self, peer: &PeerConfig, children: &Children, is_adit: bool, soon: Instant) -> Vec<Task> {
        if self.asks {
            return self.all_tasks(peer, children, is_adit);
        }
        // Another Adit asks itself.
        if is_adit {
            return Vec::new();
        }
        if !self.left_out(peer, children).is_empty() {
            self.look_at(soon);
        }
        let children =
            (0..peer.children.len()).filter(|config| !self.to_ask_for(peer, children, *config, is_adit).pairs.is_empty());
        children.map(|config| Task::CreateChild { config, method: None }).collect()
    }

    fn all_tasks(&self, peer: &PeerConfig, children: &Children, is_adit: bool) -> Vec<Task> {
        let mut tasks = Vec::new();
        for (config, child) in peer.children.iter().enumerate() {
            if self.lacks(peer, children, config) || !self.to_ask_for(peer, children, config, is_adit).pairs.is_empty() {
                tasks.push(Task::CreateChild { config, method: None });
            }
            let lanes = if is_adit { self.lanes(Some(child)) } else { 1 }.clamp(1, self.lanes_max.max(1));
            let ids = children.staying().filter(|child| child.config == config && child.lane == 0).map(|child| child.id);
            for (child, lane) in ids.flat_map(|id| (1..lanes).map(move |lane| (id, lane))) {
                if !children.has_lane(child, lane) && !self.waits(&Wish::Lane(child, lane)) {
                    tasks.push(Task::CreateLane { child, lane, method: None });
                }
            }
        }
        tasks
    }

    /// What is there, or not configured any more, was refused for the last time.
    pub(super) fn forget_what_came(&mut self, peer: &PeerConfig, children: &Children) {
        if self.refused.is_empty() {
            return;
        }
        let mut coverages: Vec<Coverage> = (0..peer.children.len()).map(|config| Coverage::of(children, config)).collect();
        self.refused.retain(|one| match &one.wish {
            Wish::Any(index) => *index < peer.children.len() && children.carried(peer, &one.wish).is_missing(),
            Wish::Lane(id, lane) => children.has_lane(*id, 0) && !children.has_lane(*id, *lane),
            Wish::Selector(index, pair) => {
                let child = peer.children.get(*index).filter(|child| child.pairs.contains(pair));
                let known = child.zip(coverages.get_mut(*index));
                known.is_some_and(|(child, coverage)| coverage.carried(&child.pairs, pair) != Carried::Whole)
            }
        });
    }

    /// Takes over what another IKE SA was refused; what the peer said of its lanes stays.
    pub(super) fn inherit(&mut self, from: Wants) {
        self.refused = from.refused;
        self.narrows = from.narrows;
        self.is_taken_over = from.is_taken_over;
        self.create_at = from.create_at;
        self.backoffs.extend(from.backoffs);
    }

    /// Gives everything to the IKE SA that takes over, but for what the peer said of its lanes, which both know.
    pub(super) fn take(&mut self) -> Wants {
        let narrows = self.narrows;
        let kept = Wants { narrows, ..Wants::new(self.asks).with_lanes(self.peer_lanes()) };
        std::mem::replace(self, kept)
    }
}
