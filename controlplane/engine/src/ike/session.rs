//! An established IKE SA: what it has and what it is going to do. One request at a time is under way; the rest waits here.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use adit_proto::control::{ChildId, PeerId, Spi};
use adit_proto::ike::Delete;

use crate::crypto::{IkeKeys, KeyExchangeMethod};

use super::child::{Child, ChildState, DrainingOutbound};
use super::config::{ChildConfig, PeerConfig};
use super::context::{Ctx, LANES_MAX};
use super::error::LocalFault;
use super::event::Cause;
use super::followup::Pending;
use super::install_backoff::InstallBackoff;
use super::mobike::Mobike;
use super::negotiate::Choice;
use super::reauth::{Beside, Standing};
use super::sa::{IkeSa, Role, SaId, Stage};
use super::selectors::SelectorPair;
use super::trust::{OwnProof, Trust};
use super::window::jittered;
use super::wishes::Refused;

/// After TEMPORARY_FAILURE: how long to wait, and for how long to try (RFC 7296 §2.25).
const TEMPORARY_WAIT: Duration = Duration::from_secs(3);
pub(super) const TEMPORARY_PATIENCE: Duration = Duration::from_secs(180);
/// Child SAs of a peer beyond four for each lane: peers that are not Adit may have one for each pair of networks.
const CHILDREN_SPARE: usize = 12;

/// A request that waits for its turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Task {
    /// `method`: the key exchange that the peer asked for when it refused another one.
    CreateChild {
        config: usize,
        method: Option<KeyExchangeMethod>,
    },
    CreateLane {
        child: ChildId,
        lane: u8,
        method: Option<KeyExchangeMethod>,
    },
    RekeyChild {
        inbound: Spi,
        method: Option<KeyExchangeMethod>,
    },
    RekeyIke {
        method: Option<KeyExchangeMethod>,
    },
    /// By our inbound SPIs.
    DeleteChildren(Vec<Spi>),
    /// A Child SA that the peer has made and we have not.
    DeleteOrphan(Spi),
    /// A probe (DPD) is wanted.
    Liveness,
    /// Our address has changed (RFC 4555).
    UpdateAddresses,
    /// Our list of addresses has changed (RFC 4555 §3.6).
    AnnounceAddresses,
    /// The new IKE SA has another crash token (RFC 6290 §4.3).
    SendToken,
}

impl Task {
    /// Whether it makes a Child SA or an IKE SA: such requests wait after TEMPORARY_FAILURE.
    pub(super) fn creates(&self) -> bool {
        match self {
            Task::CreateChild { .. } | Task::CreateLane { .. } | Task::RekeyChild { .. } | Task::RekeyIke { .. } => true,
            Task::DeleteChildren(_)
            | Task::DeleteOrphan(_)
            | Task::Liveness
            | Task::UpdateAddresses
            | Task::AnnounceAddresses
            | Task::SendToken => false,
        }
    }
}

/// The peer's rekey of an IKE SA that we are rekeying, too (RFC 7296 §2.8.2).
#[derive(Debug)]
pub(super) struct IkeRekeyCollision {
    pub lowest_nonce: Vec<u8>,
    /// The IKE SA that it made; `None` while additional key exchanges are under way.
    pub sa: Option<SaId>,
}

/// What an IKE SA has once it is authenticated.
pub(super) struct Session {
    pub peer: PeerId,
    pub config: Arc<PeerConfig>,
    /// As it was when the peer was authenticated.
    pub trust: Trust,
    pub keys: IkeKeys,
    pub choice: Choice,
    /// Who the peer proved to be.
    pub remote_id: String,
    /// And how.
    pub proof: String,
    pub uses_ppk: bool,
    /// Until when that holds.
    pub standing: Standing,
    /// With the IKE SA before or after this one, while there are two.
    pub beside: Beside,
    /// Whether we look after the Child SAs: we began the connection.
    pub original_initiator: bool,
    /// The smaller nonce of its making.
    pub lowest_nonce: Vec<u8>,
    pub established: Instant,
    pub rekey_at: Option<Instant>,
    pub expire_at: Option<Instant>,
    pub children: Vec<Child>,
    /// Inbound SAs that were replaced and still take late packets.
    pub draining_inbound: Vec<(Instant, Spi)>,
    pub draining_outbound: Vec<DrainingOutbound>,
    pub tasks: VecDeque<Task>,
    /// Before this nothing is created or rekeyed.
    pub resume_at: Option<Instant>,
    pub temporary_since: Option<Instant>,
    /// When Child SAs that are missing are asked for again.
    pub create_at: Option<Instant>,
    /// What the data plane refused or lost, by child and lane.
    pub install_backoffs: BTreeMap<(usize, u8), InstallBackoff>,
    /// What the peer has refused, or is not there any more.
    pub refused: Vec<Refused>,
    /// The peer leaves pairs out where it is asked for several.
    pub narrows: bool,
    /// With how many lanes the peer can do something; 1 if it did not say.
    pub peer_lanes: u8,
    /// The peer wants no more lanes than this (RFC 9611: TS_MAX_QUEUE).
    pub lanes_max: u8,
    /// Our rekey of this IKE SA is under way.
    pub rekeying: bool,
    pub collision: Option<IkeRekeyCollision>,
    /// The IKE SA that has taken over, and since when.
    pub successor: Option<(SaId, Instant)>,
    /// The peer may not have this IKE SA yet: it is not to be spoken to before.
    pub silent_until: Option<Instant>,
    /// The IKE SA whose Child SAs this one, made by the peer, inherits when it is clear that it stays.
    pub predecessor: Option<SaId>,
    /// Since when another IKE SA of the peer is the one to stay.
    pub redundant_since: Option<Instant>,
    /// A creation by the peer that waits for additional key exchanges.
    pub pending: Option<Pending>,
    /// With which the peer will say that it has crashed (RFC 6290).
    pub tokens: Vec<Vec<u8>>,
    pub mobike: Mobike,
}

impl Session {
    /// A session without Child SAs and without anything to do.
    pub(super) fn new(ctx: &mut Ctx, peer: PeerId, config: Arc<PeerConfig>, keys: IkeKeys, choice: Choice) -> Session {
        let now = ctx.now.instant;
        let lifetime = config.ike_lifetime;
        let timed = !lifetime.rekey_after.is_zero();
        let hard = lifetime.rekey_after.mul_f64(f64::from(lifetime.hard_percent.max(100)) / 100.0);
        Session {
            peer,
            trust: Trust::of(&config),
            keys,
            choice,
            remote_id: String::new(),
            proof: String::new(),
            uses_ppk: false,
            standing: Standing::default(),
            beside: Beside::default(),
            original_initiator: false,
            lowest_nonce: Vec::new(),
            established: now,
            rekey_at: timed.then(|| now + jittered(lifetime.rekey_after, lifetime.jitter_percent, ctx.random)),
            expire_at: timed.then(|| now + hard),
            config,
            children: Vec::new(),
            draining_inbound: Vec::new(),
            draining_outbound: Vec::new(),
            tasks: VecDeque::new(),
            resume_at: None,
            temporary_since: None,
            create_at: None,
            install_backoffs: BTreeMap::new(),
            refused: Vec::new(),
            narrows: false,
            peer_lanes: 1,
            lanes_max: LANES_MAX,
            rekeying: false,
            collision: None,
            successor: None,
            silent_until: None,
            predecessor: None,
            redundant_since: None,
            pending: None,
            tokens: Vec::new(),
            mobike: Mobike::default(),
        }
    }

    /// Adds a request to what is to be done, unless it is there.
    pub(super) fn want(&mut self, task: Task) {
        if !self.tasks.contains(&task) {
            self.tasks.push_back(task);
        }
    }

    /// Whether the peer has this IKE SA, and it is not on its way out.
    pub(super) fn may_speak(&self, now: Instant) -> bool {
        self.successor.is_none() && self.silent_until.is_none_or(|until| until <= now)
    }

    /// The next request that may be sent now.
    fn next_task(&mut self, now: Instant) -> Option<Task> {
        if !self.may_speak(now) {
            return None;
        }
        let waits = self.resume_at.is_some_and(|at| at > now);
        let index = self.tasks.iter().position(|task| !(waits && task.creates()))?;
        self.tasks.remove(index)
    }

    /// The peer asked for patience. Says whether there is any left (RFC 7296 §2.25).
    pub(super) fn wait_after_temporary_failure(&mut self, ctx: &mut Ctx, again: Task) -> bool {
        let now = ctx.now.instant;
        let since = *self.temporary_since.get_or_insert(now);
        self.resume_at = Some(now + jittered(TEMPORARY_WAIT, 50, ctx.random));
        self.want(again);
        now.saturating_duration_since(since) < TEMPORARY_PATIENCE
    }

    /// Lanes of a child: as many as the end with more workers wants.
    pub(super) fn lanes(&self, config: usize) -> u8 {
        self.config.children.get(config).map_or(1, |child| child.lanes.max(self.peer_lanes))
    }

    /// Whether another Child SA may be made by the peer, as a new one or in a rekey. Those that are on their way out count: a
    /// peer that rekeys without end would fill the tables that all peers share.
    ///
    /// # Errors
    /// There are too many, for good or until some are gone.
    pub(super) fn has_room(&self, limit: usize, is_new: bool) -> Result<(), LocalFault> {
        // A peer may make one for each pair of networks.
        let of = |(config, child): (usize, &ChildConfig)| usize::from(self.lanes(config)) + child.pairs.len().saturating_sub(1);
        let places: usize = self.config.children.iter().enumerate().map(of).sum();
        let live_max = (4 * places + CHILDREN_SPARE).min(limit / 2).max(1);
        let live = self.children.iter().filter(|child| child.is_live()).count();
        if is_new && live >= live_max {
            return Err(LocalFault::Children);
        }
        if self.children.len() + self.draining_inbound.len() >= 2 * live_max { Err(LocalFault::Busy) } else { Ok(()) }
    }

    /// Whether the peer may have a new Child SA with these selectors for this child and lane. Lanes come one after the other, so that
    /// there is a worker for each. Gives the Child SA whose lane it is, where it is not the first.
    ///
    /// # Errors
    /// There is no such lane, those below it are not there yet, or the data plane has refused it a moment ago.
    pub(super) fn may_have(
        &self,
        now: Instant,
        (config, lane): (usize, u8),
        selectors: &SelectorPair,
    ) -> Result<Option<ChildId>, LocalFault> {
        if lane >= self.lanes(config) {
            return Err(LocalFault::Children);
        }
        if self.is_backing_off(now, (config, lane)) {
            return Err(LocalFault::Busy);
        }
        if lane == 0 {
            return Ok(None);
        }
        let id = self.with_selectors(config, lane, selectors).ok_or(LocalFault::Busy)?;
        let in_order = (0..lane).all(|below| self.has_lane(id, below));
        if in_order { Ok(Some(id)) } else { Err(LocalFault::Busy) }
    }

    /// The Child SA with these selectors, or else with some of them; first those without this lane.
    fn with_selectors(&self, config: usize, lane: u8, selectors: &SelectorPair) -> Option<ChildId> {
        let first = |child: &&Child| child.config == config && child.lane == 0 && child.state != ChildState::Closing;
        let rank = |child: &Child| {
            let same = child.selectors.covers(selectors) && selectors.covers(&child.selectors);
            (!same, self.has_lane(child.id, lane))
        };
        let fits = |child: &&Child| child.selectors.narrow(selectors).is_some();
        self.children.iter().filter(first).filter(fits).min_by_key(|child| rank(child)).map(|child| child.id)
    }
}

impl Session {
    /// Follows a changed configuration from the next exchange on.
    fn reconfigure(&mut self, config: Arc<PeerConfig>) {
        let name = |config: &PeerConfig, index: usize| config.children.get(index).map(|child| child.name.clone());
        let gone = |child: &&Child| name(&config, child.config) != name(&self.config, child.config);
        let spis: Vec<Spi> = self.children.iter().filter(gone).map(|child| child.inbound).collect();
        self.config = config;
        let unwanted = self.children.iter().filter(|child| child.is_live() && self.is_unwanted(child)).map(|child| child.inbound);
        let spis: BTreeSet<Spi> = spis.into_iter().chain(unwanted).collect();
        spis.into_iter().for_each(|inbound| self.close_child(inbound));
    }
}

impl IkeSa {
    pub(super) fn reconfigure(&mut self, ctx: &mut Ctx, config: Arc<PeerConfig>, trust: &Trust) {
        if self.session().is_some_and(|session| session.trust != *trust) {
            return self.close(ctx, vec![Delete::ike().into()], Cause::TrustChanged);
        }
        if let Some(session) = self.session_mut() {
            session.reconsider(ctx, OwnProof::of(&config));
            session.reconfigure(config);
            self.want_missing_children();
        }
    }

    /// Asks for the Child SAs that are missing.
    pub(super) fn want_missing_children(&mut self) {
        let is_adit = self.features.adit;
        if let Some(session) = self.session_mut() {
            session.want_missing_children(is_adit);
        }
    }

    /// Sends the next request if none is under way.
    pub(super) fn start_next(&mut self, ctx: &mut Ctx) {
        while self.window.is_idle() {
            let Stage::Established(session) = &mut self.stage else { return };
            let Some(task) = session.next_task(ctx.now.instant) else { return self.finish_beside(ctx) };
            let started = match task {
                Task::CreateChild { config, method } => self.send_create_child(ctx, config, method),
                Task::CreateLane { child, lane, method } => self.send_create_lane(ctx, child, lane, method),
                Task::RekeyChild { inbound, method } => self.send_rekey_child(ctx, inbound, method),
                Task::RekeyIke { method } => self.send_rekey_ike(ctx, method),
                Task::DeleteChildren(spis) => self.send_delete_children(ctx, spis),
                Task::DeleteOrphan(spi) => self.send_delete_orphan(ctx, spi),
                Task::Liveness => self.send_liveness(ctx),
                Task::UpdateAddresses => self.send_update_addresses(ctx),
                Task::AnnounceAddresses => self.send_additional_addresses(ctx),
                Task::SendToken => self.send_token(ctx),
            };
            if let Err(error) = started {
                return self.close_after_failure(ctx, error);
            }
        }
    }

    /// Whether our original role in the IKE SA is that of the initiator.
    pub(super) fn is_initiator(&self) -> bool {
        self.role == Role::Initiator
    }
}

#[cfg(test)]
mod tests;
