//! The Child SAs of an IKE SA, and the order in which the data plane learns of them.
//!
//! A pair is installed inbound as soon as it has keys. Outbound follows when the peer can surely receive: at once for whoever
//! began the exchange, for the other end when the SA that it replaces is deleted or the first packet has come (RFC 7296 §2.8).

use std::time::{Duration, Instant};

use adit_proto::control::{ChildId, PeerId, SaKey, Spi};
use adit_proto::ike::{Notify, ProtocolId};

use crate::timer::earlier;

use super::child::{Child, ChildState, RekeyCollision, Sending};
use super::context::Ctx;
use super::error::LocalFault;
use super::event::Event;
use super::facts::SaId;
use super::key_log::KeyLog;

/// How long an inbound SA that was replaced still takes packets that were late.
const INBOUND_DRAIN: Duration = Duration::from_secs(5);
/// How long we go on sending on an SA that the peer has replaced when we cannot send on its successor: shorter than what the
/// peer drains.
const OUTBOUND_DRAIN: Duration = Duration::from_secs(3);
/// How long the inbound SAs of an IKE SA that was authenticated anew still take what was late.
const RETIRED_DRAIN: Duration = Duration::from_secs(5);

/// An outbound SA whose Child SA is gone and that is used until the next one is there.
#[derive(Clone, Copy, Debug)]
pub(super) struct DrainingOutbound {
    pub until: Instant,
    pub place: (ChildId, u8),
    pub outbound: Spi,
}

/// All pairs of SAs under one IKE SA, and halves of such that are used for a moment longer.
pub(super) struct Children {
    peer: PeerId,
    all: Vec<Child>,
    /// Inbound SAs that were replaced and still take late packets.
    draining_inbound: Vec<(Instant, Spi)>,
    draining_outbound: Vec<DrainingOutbound>,
}

impl Children {
    pub(super) fn new(peer: PeerId) -> Children {
        Children { peer, all: Vec::new(), draining_inbound: Vec::new(), draining_outbound: Vec::new() }
    }

    /// With what a process before this one had installed; the data plane knows it already.
    pub(super) fn restored(
        peer: PeerId,
        draining_inbound: Vec<(Instant, Spi)>,
        draining_outbound: Vec<DrainingOutbound>,
    ) -> Children {
        Children { peer, all: Vec::new(), draining_inbound, draining_outbound }
    }

    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = &Child> {
        self.all.iter()
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub(super) fn draining_inbound(&self) -> &[(Instant, Spi)] {
        &self.draining_inbound
    }

    pub(super) fn draining_outbound(&self) -> &[DrainingOutbound] {
        &self.draining_outbound
    }

    pub(super) fn get(&self, inbound: Spi) -> Option<&Child> {
        self.all.iter().find(|child| child.inbound == inbound)
    }

    pub(super) fn get_mut(&mut self, inbound: Spi) -> Option<&mut Child> {
        self.all.iter_mut().find(|child| child.inbound == inbound)
    }

    /// The Child SA that the peer calls by this SPI.
    pub(super) fn by_outbound(&self, outbound: Spi) -> Option<&Child> {
        self.all.iter().find(|child| child.outbound == outbound)
    }

    /// Whether there is a lane of a Child SA that is to stay.
    pub(super) fn has_lane(&self, id: ChildId, lane: u8) -> bool {
        self.staying().any(|child| child.place() == (id, lane))
    }

    /// Those that are not about to be deleted by us.
    pub(super) fn staying(&self) -> impl Iterator<Item = &Child> {
        self.all.iter().filter(|child| child.state != ChildState::Closing)
    }

    /// Takes a Child SA in, ready to receive.
    pub(super) fn add(&mut self, ctx: &mut Ctx, child: Child, inbound_key: SaKey) {
        ctx.count(Some(self.peer), |counters| counters.children_created += 1);
        if ctx.shared.config.key_log
            // What goes in a stream has no addresses, by which the analyser would know it.
            && let Some(hop) = ctx.shared.paths.esp_hop(self.peer).and_then(|hop| hop.udp())
        {
            let (suite, esn) = (child.choice.suite, child.choice.esn);
            let log = |from, to, spi, key| Event::KeyLog(Box::new(KeyLog::Esp { from, to, spi, suite, key, esn }));
            ctx.event(log(hop.remote, hop.local, child.inbound, inbound_key.clone()));
            if let Sending::Waits(key) = &child.sending {
                ctx.event(log(hop.local, hop.remote, child.outbound, (**key).clone()));
            }
        }
        ctx.event(Event::InstallInbound(child.keys(self.peer, child.inbound, inbound_key, child.replaces)));
        self.all.push(child);
    }

    /// Takes in what is installed already.
    pub(super) fn adopt(&mut self, child: Child) {
        self.all.push(child);
    }

    /// Installs the outbound SA of a Child SA, once. Says whether it has to be rekeyed because it cannot be.
    #[must_use]
    pub(super) fn activate(&mut self, ctx: &mut Ctx, inbound: Spi) -> bool {
        let replaced = self.get(inbound).and_then(|child| child.replaces);
        let replaces = replaced.and_then(|spi| self.get(spi)).map(|old| old.outbound);
        // Its turn may come only after that of the one that took its place.
        if self.is_overtaken(inbound) {
            return false;
        }
        let peer = self.peer;
        let Some(child) = self.get_mut(inbound) else { return false };
        match std::mem::replace(&mut child.sending, Sending::Installed) {
            Sending::Installed => false,
            Sending::Waits(key) => {
                let (keys, place) = (child.keys(peer, child.outbound, *key, replaces), child.place());
                ctx.event(Event::InstallOutbound(keys));
                self.part(ctx, |draining| draining.place == place);
                false
            }
            Sending::Lost => {
                child.sending = Sending::Lost;
                true
            }
        }
    }

    /// Whether one that came later in the place of this one is used for sending already, or this one is about to go.
    fn is_overtaken(&self, inbound: Spi) -> bool {
        let mut next = self.get(inbound);
        // Bounded, for what a snapshot brings may go in circles.
        for _ in 0..self.all.len() {
            match next.map(|child| child.state) {
                Some(ChildState::Closing) => return true,
                Some(ChildState::Replaced { by, .. }) => next = self.get(by),
                Some(ChildState::Live) | None => return false,
            }
            if next.is_some_and(|by| !matches!(by.sending, Sending::Waits(_))) {
                return true;
            }
        }
        false
    }

    /// Another one has the place of this one.
    pub(super) fn replace(&mut self, old: Spi, by: Spi, since: Instant) {
        if let Some(old) = self.get_mut(old).filter(|old| old.state != ChildState::Closing) {
            old.state = ChildState::Replaced { by, since };
            old.superseded = true;
        }
    }

    /// Others have all that this one has: what comes late is still taken when it goes.
    pub(super) fn supersede(&mut self, inbound: Spi) {
        if let Some(child) = self.get_mut(inbound) {
            child.superseded = true;
        }
    }

    /// This one is to be deleted by us. Says whether it is there.
    pub(super) fn close(&mut self, inbound: Spi) -> bool {
        let child = self.get_mut(inbound);
        child.map(|child| child.state = ChildState::Closing).is_some()
    }

    /// The Child SA that a rekey request names, if it can be replaced now (RFC 7296 §2.25.1).
    ///
    /// # Errors
    /// There is none, or it has been replaced.
    pub(super) fn rekeyable(&self, rekey: &Notify) -> Result<Spi, LocalFault> {
        let old = rekey.child_spi().and_then(|outbound| self.by_outbound(outbound));
        let old = old.filter(|_| rekey.protocol == ProtocolId::ESP).ok_or(LocalFault::NoSuchChild)?;
        match old.state {
            ChildState::Live => Ok(old.inbound),
            ChildState::Replaced { .. } | ChildState::Closing => Err(LocalFault::Busy),
        }
    }

    /// Our rekey of this one is under way, or is not any more.
    pub(super) fn set_rekeying(&mut self, inbound: Spi, under_way: bool) {
        if let Some(child) = self.get_mut(inbound) {
            child.rekeying = under_way;
        }
    }

    /// This one is to be rekeyed then.
    pub(super) fn rekey_at(&mut self, inbound: Spi, at: Instant) {
        if let Some(child) = self.get_mut(inbound) {
            child.limits.rekey_at = Some(at);
        }
    }

    /// The peer rekeys this one.
    pub(super) fn collide(&mut self, inbound: Spi, collision: RekeyCollision) {
        if let Some(child) = self.get_mut(inbound) {
            child.collision = Some(collision);
        }
    }

    /// The one that the peer's rekey of this one has made, while ours is under way.
    pub(super) fn collision_of(&self, old: Spi) -> Option<Spi> {
        let collision = self.get(old)?.collision.as_ref()?.inbound;
        self.get(collision).map(|child| child.inbound)
    }

    /// The Child SA that has, or is about to have, the place of this one.
    pub(super) fn successor_of(&self, inbound: Spi) -> Option<Spi> {
        let old = self.get(inbound)?;
        let named = match old.state {
            ChildState::Replaced { by, .. } => Some(by),
            ChildState::Live | ChildState::Closing => None,
        };
        let collision = old.collision.as_ref().map(|collision| collision.inbound);
        named.or(collision).filter(|spi| self.get(*spi).is_some())
    }

    /// What has been replaced: since when, or until when what is late is taken, which comes first; and by our SPI.
    pub(super) fn replaced(&self) -> impl Iterator<Item = (bool, Instant, Spi)> {
        let draining = self.draining_inbound.iter().map(|(until, inbound)| (false, *until, *inbound));
        draining.chain(self.all.iter().filter_map(|child| match child.state {
            ChildState::Replaced { since, .. } => Some((true, since, child.inbound)),
            ChildState::Live | ChildState::Closing => None,
        }))
    }

    /// Takes out one that has been replaced, at once and whatever is still on its way.
    pub(super) fn give_up(&mut self, ctx: &mut Ctx, inbound: Spi) {
        if let Some(place) = self.draining_inbound.iter().position(|(_, spi)| *spi == inbound) {
            self.draining_inbound.remove(place);
            return self.remove_inbound(ctx, inbound);
        }
        let successor = self.successor_of(inbound);
        if self.expire(ctx, inbound).is_none() {
            ctx.shared.spis.release(inbound);
        }
        // The one before it has the same successor.
        for old in &mut self.all {
            if let (ChildState::Replaced { by, since }, Some(successor)) = (old.state, successor)
                && by == inbound
            {
                old.state = ChildState::Replaced { by: successor, since };
            }
        }
    }

    /// Those that wait for nothing else than that this IKE SA is used.
    pub(super) fn to_activate(&self) -> Vec<Spi> {
        let waits = |child: &&Child| child.is_live() && child.replaces.is_none();
        self.all.iter().filter(waits).map(|child| child.inbound).collect()
    }

    /// The data plane does not have this outbound SA. Gives our SPI of the Child SA that has lost it.
    pub(super) fn lose_outbound(&mut self, outbound: Spi) -> Option<Spi> {
        self.draining_outbound.retain(|draining| draining.outbound != outbound);
        let child = self.all.iter_mut().find(|child| child.outbound == outbound && child.is_sending())?;
        child.sending = Sending::Lost;
        Some(child.inbound)
    }

    /// Takes a Child SA out. Where another one has its place, what was sent on it is still taken for a while.
    pub(super) fn remove(&mut self, ctx: &mut Ctx, inbound: Spi) {
        let Some(index) = self.all.iter().position(|child| child.inbound == inbound) else { return };
        let child = self.all.remove(index);
        if child.is_sending() {
            let (place, outbound) = (child.place(), child.outbound);
            let successor = |one: &Child| one.place() == place && matches!(one.sending, Sending::Lost) && one.is_live();
            if child.superseded && self.all.iter().any(successor) {
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
        for old in &mut self.all {
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
    pub(super) fn expire(&mut self, ctx: &mut Ctx, inbound: Spi) -> Option<Child> {
        let index = self.all.iter().position(|child| child.inbound == inbound)?;
        let child = self.all.remove(index);
        if child.is_sending() {
            ctx.event(Event::RemoveOutbound { peer: self.peer, spi: child.outbound });
        }
        ctx.event(Event::RemoveInbound { peer: self.peer, spi: inbound });
        (!child.superseded).then_some(child)
    }

    pub(super) fn remove_all(&mut self, ctx: &mut Ctx) {
        while let Some(inbound) = self.all.first().map(|child| child.inbound) {
            self.remove(ctx, inbound);
        }
        for (_, inbound) in std::mem::take(&mut self.draining_inbound) {
            self.remove_inbound(ctx, inbound);
        }
        self.part(ctx, |_| true);
    }

    /// Takes out what has drained long enough.
    pub(super) fn end_draining(&mut self, ctx: &mut Ctx) {
        let now = ctx.now.instant;
        let over: Vec<(Instant, Spi)> = self.draining_inbound.extract_if(.., |(at, _)| *at <= now).collect();
        over.into_iter().for_each(|(_, inbound)| self.remove_inbound(ctx, inbound));
        self.part(ctx, |draining| draining.until <= now);
    }

    /// When [`Children::end_draining`] has something to do.
    pub(super) fn drained_at(&self) -> Option<Instant> {
        let inbound = self.draining_inbound.iter().map(|(until, _)| *until).min();
        earlier(inbound, self.draining_outbound.iter().map(|draining| draining.until).min())
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

    /// Gives everything to the IKE SA that takes over.
    pub(super) fn take(&mut self) -> Children {
        std::mem::replace(self, Children::new(self.peer))
    }

    /// Takes over what another IKE SA had. Its rekeys that were under way have been refused or answered by now.
    pub(super) fn inherit(&mut self, ctx: &mut Ctx, owner: SaId, from: Children) {
        let spis = from.all.iter().map(|child| child.inbound).chain(from.draining_inbound.iter().map(|(_, spi)| *spi));
        spis.for_each(|spi| ctx.shared.spis.assign(spi, owner));
        self.all.extend(from.all);
        self.draining_inbound.extend(from.draining_inbound);
        self.draining_outbound.extend(from.draining_outbound);
        for child in &mut self.all {
            child.rekeying = false;
            child.granted_in = None;
        }
    }

    /// Takes all out of sending; gives the inbound halves, which take what is late.
    pub(super) fn retire(&mut self, ctx: &mut Ctx) -> Vec<(Instant, Spi)> {
        let (peer, until) = (self.peer, ctx.now.instant + RETIRED_DRAIN);
        let mut draining = std::mem::take(&mut self.draining_inbound);
        for child in std::mem::take(&mut self.all) {
            if child.is_sending() {
                ctx.event(Event::RemoveOutbound { peer, spi: child.outbound });
            }
            draining.push((until, child.inbound));
        }
        draining
    }

    /// Takes what another IKE SA gave away with [`Children::retire`].
    pub(super) fn drain(&mut self, draining: Vec<(Instant, Spi)>) {
        self.draining_inbound.extend(draining);
    }

    /// Forgets everything; the inbound SPIs that were taken.
    pub(super) fn disown(&mut self) -> Vec<Spi> {
        self.draining_outbound.clear();
        let spis = self.all.drain(..).map(|child| child.inbound);
        spis.chain(self.draining_inbound.drain(..).map(|(_, spi)| spi)).collect()
    }
}
