//! What should be in the data plane and is not, because a worker has refused it or lost it: it is given again until it is there, ever
//! more rarely, and till then it is told of the peer that it lacks it. What is there already is not touched by that.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use adit_channel::LiveSa;
use adit_proto::control::{Command, InboundSa, Mode, OutboundSa, PeerId, PeerTag};
use adit_proto::stats::Gauge;

use super::{Gateway, Plane};
use crate::reconcile;

/// How long it takes until it is given again, at first and at most; each time twice as long.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
const AGAIN_AFTER_MAX: Duration = Duration::from_secs(60);

/// What is given again as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Subject {
    /// A peer, with its paths, addresses and selectors.
    Peer(PeerId),
    /// The same of all peers.
    Peers,
    /// Whose messages of IKE come first.
    Known,
    /// The SAs of static keys.
    StaticKeys,
}

impl Subject {
    /// What a command was about that was refused. What is taken away is no subject, nor are SAs of IKE, which makes new ones.
    fn of(command: &Command, negotiates: impl Fn(PeerId) -> bool) -> Option<Subject> {
        match command {
            Command::PeerSet { peer, .. }
            | Command::PathSet { peer, .. }
            | Command::PathUse { peer, .. }
            | Command::FdbPin { peer, .. }
            | Command::SelectorAdd { peer, .. }
            | Command::ChildSet { peer, .. }
            | Command::ChildSelectorAdd { peer, .. } => Some(Subject::Peer(*peer)),
            Command::IkeSaAdd { .. } | Command::IkeAddressAdd { .. } => Some(Subject::Known),
            Command::InboundSaInstall(InboundSa { peer, .. })
            | Command::OutboundSaInstall(OutboundSa { peer, .. })
            | Command::SeqLimit { peer, .. } => (!negotiates(*peer)).then_some(Subject::StaticKeys),
            _ => None,
        }
    }
}

/// What is missing of a subject.
#[derive(Debug)]
struct Missing {
    /// In words, the first thing of it.
    what: String,
    tries: u32,
    again_at: Instant,
    /// It was given again, and not all of it was answered.
    under_way: bool,
    /// A comparison has found it, and only another one can tell that it is there.
    lost: bool,
}

/// What is missing in a data plane.
#[derive(Debug, Default)]
pub(super) struct Repair {
    missing: BTreeMap<Subject, Missing>,
    /// What was not said yet: the first thing, and how many more.
    unsaid: Option<(String, usize)>,
    /// It was said that something is missing, and not that this is over.
    said: bool,
    /// It is not what was shown last.
    changed: bool,
    /// Workers had less than they were told when that was looked at last.
    had_less: bool,
}

impl Missing {
    /// It was given again in vain.
    fn wait(&mut self, now: Instant) {
        self.under_way = false;
        self.again_at = now + AGAIN_AFTER.saturating_mul(1 << self.tries.min(16)).min(AGAIN_AFTER_MAX);
    }
}

impl Repair {
    /// Something was refused, as `what` says.
    fn refused(&mut self, now: Instant, subject: Subject, what: String) {
        self.lacks(now, subject, what, false);
    }

    /// A comparison has found that something is not there.
    fn lost(&mut self, now: Instant, subject: Subject, what: String) {
        self.lacks(now, subject, what, true);
    }

    /// A comparison has found everything.
    fn found(&mut self, subject: Subject) {
        self.changed |= self.missing.remove(&subject).is_some();
    }

    fn lacks(&mut self, now: Instant, subject: Subject, what: String, lost: bool) {
        self.changed = true;
        if let Some(known) = self.missing.get_mut(&subject) {
            known.lost |= lost;
            if known.under_way {
                known.what = what;
                known.wait(now);
                return;
            }
            // Another thing of it. When it was given again, that was said.
            if let Some((_, more)) = self.unsaid.as_mut().filter(|_| known.tries == 0) {
                *more += 1;
            }
            return;
        }
        match &mut self.unsaid {
            Some((_, more)) => *more += 1,
            None => self.unsaid = Some((what.clone(), 0)),
        }
        let mut missing = Missing { what, tries: 0, again_at: now, under_way: false, lost };
        missing.wait(now);
        self.missing.insert(subject, missing);
    }

    /// One line for the log about what was not said yet.
    fn line(&mut self) -> Option<String> {
        let (first, more) = self.unsaid.take()?;
        self.said = true;
        let more = if more > 0 { format!(" (and {more} more)") } else { String::new() };
        Some(format!("{first}{more}. It is tried again until it is there"))
    }

    /// Nothing is missing any more, and that is news.
    fn is_over(&mut self) -> bool {
        let is_over = self.said && self.missing.is_empty();
        self.said &= !is_over;
        is_over
    }

    /// Everything was answered: what was given again and not refused again is there. True when that has to be looked at.
    fn answered(&mut self, now: Instant) -> bool {
        let before = self.missing.len();
        self.missing.retain(|_, missing| !missing.under_way || missing.lost);
        self.changed |= before != self.missing.len();
        let mut given = self.missing.values_mut().filter(|missing| missing.under_way).map(|missing| missing.wait(now));
        given.by_ref().count() > 0
    }

    /// What is to be given again now.
    fn take_due(&mut self, now: Instant) -> Vec<Subject> {
        let due = self.missing.iter_mut().filter(|(_, missing)| !missing.under_way && missing.again_at <= now);
        let given = due.map(|(subject, missing)| {
            (missing.under_way, missing.tries) = (true, missing.tries + 1);
            *subject
        });
        given.collect()
    }

    /// It could not be given again now.
    fn postpone(&mut self, now: Instant, subject: Subject) {
        if let Some(missing) = self.missing.get_mut(&subject) {
            (missing.under_way, missing.tries, missing.again_at) = (false, missing.tries.saturating_sub(1), now + AGAIN_AFTER);
        }
    }
}

impl Gateway {
    /// A worker has refused a command.
    pub(super) fn refused(&mut self, plane: &mut Plane, command: &Command, what: String) {
        let negotiates = |peer| self.ike.as_ref().is_some_and(|ike| ike.negotiates(peer));
        match Subject::of(command, negotiates) {
            Some(subject) => plane.repair.refused(Instant::now(), subject, what),
            None => tracing::error!("{what}"),
        }
        if let Some(ike) = &mut self.ike {
            ike.refused(command);
        }
    }

    /// Gives the data plane again what it lacks. To be called once a second.
    pub(super) async fn repair(&mut self, plane: &mut Plane) -> anyhow::Result<()> {
        if let Some(line) = plane.repair.line() {
            tracing::error!("{line}");
        }
        if plane.command_queue.settled() {
            if plane.repair.answered(Instant::now()) {
                self.look_for_lost(plane);
            }
            if plane.repair.is_over() {
                tracing::info!("the data plane has everything that it had refused or lost");
            }
            for subject in plane.repair.take_due(Instant::now()) {
                self.give_again(plane, subject).await?;
            }
        }
        if std::mem::take(&mut plane.repair.changed) {
            self.show_missing(plane);
        }
        Ok(())
    }

    async fn give_again(&mut self, plane: &mut Plane, subject: Subject) -> anyhow::Result<()> {
        let ids = match subject {
            Subject::StaticKeys if plane.incomplete || self.durable.is_writing() => {
                // The disk is waited for first.
                plane.repair.postpone(Instant::now(), subject);
                return Ok(());
            }
            Subject::StaticKeys => return self.give_static_keys(plane).await,
            Subject::Known => {
                self.ike.iter_mut().for_each(|ike| ike.tell_known_again());
                Vec::new()
            }
            Subject::Peer(peer) => vec![peer],
            Subject::Peers => self.ids.clone(),
        };
        let Some(ike) = &mut self.ike else { return Ok(()) };
        let mut is_there = ids.is_empty();
        ids.iter().for_each(|id| is_there |= ike.tell_again(*id));
        if !is_there {
            plane.repair.found(subject);
        }
        self.drive_ike(plane)
    }

    async fn give_static_keys(&mut self, plane: &mut Plane) -> anyhow::Result<()> {
        let installed = self.vault.installed().clone();
        let live = self.view.with_master(|master| master.live_sas()).unwrap_or_default();
        if let Err(error) = self.bring_plane(plane, &live, &installed).await {
            // The disk does not take the numbers.
            tracing::debug!("{error:#}");
            plane.incomplete = true;
        }
        self.drive_ike(plane)
    }

    /// Compares what the data plane has with what it should have. It changes by commands alone, which are answered; so what is found
    /// here was lost. To be called every few seconds.
    pub(super) fn look_for_lost(&mut self, plane: &mut Plane) {
        if plane.incomplete || !plane.settled || !plane.command_queue.settled() {
            return;
        }
        let now = Instant::now();
        // What cannot be read just now is not lost.
        let Some(live) = self.view.with_master(|master| master.all_live_sas()).flatten() else { return };
        let owned = |sa: &LiveSa| self.ike.as_ref().is_some_and(|ike| ike.has(sa));
        let changes = reconcile::changes(&self.desired, &live, self.vault.installed(), &self.ids, owned);
        match (changes.install.len(), changes.before.len()) {
            (0, 0) => plane.repair.found(Subject::StaticKeys),
            (missing, strange) => {
                let what =
                    format!("the data plane lacks {missing} SAs of static keys, and has {strange} things that nobody wants");
                plane.repair.lost(now, Subject::StaticKeys, what);
            }
        }
        let lost = self.ike.as_mut().map_or(0, |ike| ike.replace_lost(&live));
        if lost > 0 {
            // Also what was made while one data plane died and the next one came: it mends itself.
            tracing::warn!("the data plane lacks {lost} SAs of IKE that it should have: their Child SAs are made anew");
        }
        // A worker answers a little before it shows its sizes.
        let has_less = self.has_less_than_reported();
        match (std::mem::replace(&mut plane.repair.had_less, has_less), has_less) {
            (_, false) => plane.repair.found(Subject::Peers),
            (true, true) => {
                let what = "the data plane has fewer peers, or selectors of them, than it was given".to_owned();
                plane.repair.lost(now, Subject::Peers, what);
            }
            (false, true) => {}
        }
    }

    /// Whether a worker has fewer peers or selectors than it was told.
    fn has_less_than_reported(&self) -> bool {
        let Some(reported) = self.ike.as_ref().map(|ike| ike.reported()) else { return false };
        let selectors = if self.desired.config.mode == Mode::Ip { reported.selectors } else { 0 };
        let has_less = self.view.with_master(|master| {
            (0..master.workers()).any(|worker| {
                let counters = master.counters(worker);
                let has = |gauge| usize::try_from(counters.gauge(gauge)).unwrap_or(0);
                has(Gauge::Peers) < reported.peers || has(Gauge::Selectors) < selectors
            })
        });
        has_less.unwrap_or(false)
    }

    /// Shows the API what peers lack.
    pub(super) fn show_missing(&self, plane: &Plane) {
        let tags: HashMap<PeerId, PeerTag> = self.ids.iter().copied().zip(self.desired.tags.iter().copied()).collect();
        let of_peer = |(subject, missing): (&Subject, &Missing)| match subject {
            Subject::Peer(peer) => tags.get(peer).map(|tag| (*tag, missing.what.clone())),
            Subject::Peers | Subject::Known | Subject::StaticKeys => None,
        };
        // Without the interface nothing goes to any of them.
        let of_all = plane.absence.said().map(|what| tags.values().map(|tag| (*tag, what.clone())).collect());
        self.view.set_missing(of_all.unwrap_or_else(|| plane.repair.missing.iter().filter_map(of_peer).collect()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: Subject = Subject::Peer(PeerId(3));

    fn selector() -> String {
        "the data plane refused to add a selector".to_owned()
    }

    #[test]
    fn what_is_refused_is_given_again_ever_more_rarely_and_said_once() {
        let (mut repair, start) = (Repair::default(), Instant::now());
        let at = |s: u64| start + Duration::from_secs(s);
        (0..5).for_each(|_| repair.refused(at(0), PEER, selector()));
        repair.refused(at(0), Subject::Known, "the data plane refused to know an IKE SA".to_owned());
        let line = "the data plane refused to add a selector (and 5 more). It is tried again until it is there";
        assert_eq!((repair.line().as_deref(), repair.line()), (Some(line), None));
        assert_eq!(repair.take_due(at(0)), []);
        assert_eq!(repair.take_due(at(1)), [PEER, Subject::Known]);
        assert_eq!(repair.take_due(at(100)), [], "it is under way");
        // One of them is refused again, twice.
        (0..2).for_each(|_| repair.refused(at(1), PEER, selector()));
        assert!(!repair.answered(at(1)));
        assert_eq!(repair.missing.keys().copied().collect::<Vec<_>>(), [PEER]);
        let mut tried = Vec::new();
        for s in 2..200 {
            if !repair.take_due(at(s)).is_empty() {
                tried.push(s);
                repair.refused(at(s), PEER, selector());
            }
        }
        assert_eq!(tried, [3, 7, 15, 31, 63, 123, 183]);
        assert_eq!(repair.line(), None, "it was said");
        repair.take_due(at(1000));
        assert!(!repair.answered(at(1000)) && repair.missing.is_empty());
        repair.refused(at(1001), PEER, selector());
        assert!(repair.line().is_some(), "it is news again");
    }

    #[test]
    fn what_was_lost_is_given_again_until_it_is_found() {
        let (mut repair, start) = (Repair::default(), Instant::now());
        let at = |s: u64| start + Duration::from_secs(s);
        repair.lost(at(0), Subject::StaticKeys, "it lacks an SA".to_owned());
        assert!(repair.line().is_some() && !repair.is_over());
        assert_eq!(repair.take_due(at(1)), [Subject::StaticKeys]);
        assert!(repair.answered(at(1)), "an answer does not show that it is there");
        assert_eq!((repair.take_due(at(2)).len(), repair.take_due(at(3)).len()), (0, 1));
        repair.postpone(at(3), Subject::StaticKeys);
        assert_eq!((repair.take_due(at(3)).len(), repair.take_due(at(4)).len()), (0, 1));
        repair.changed = false;
        repair.found(Subject::StaticKeys);
        assert!(repair.changed && repair.missing.is_empty() && !repair.answered(at(9)));
        assert_eq!((repair.is_over(), repair.is_over()), (true, false), "that it is over is said once, whoever has found it");
    }

    #[test]
    fn a_refusal_is_about_a_peer_or_static_keys_and_what_goes_is_none() {
        let of = |command: Command| Subject::of(&command, |peer| peer == PeerId(1));
        let limit = |peer| Command::SeqLimit { peer, spi: adit_proto::control::Spi(9), seq_limit: 7 };
        assert_eq!(of(Command::FdbPin { mac: [2; 6], peer: PeerId(3) }), Some(PEER));
        assert_eq!((of(limit(PeerId(3))), of(limit(PeerId(1)))), (Some(Subject::StaticKeys), None));
        assert_eq!((of(Command::PeerRemove { peer: PeerId(3) }), of(Command::FdbUnpin { mac: [2; 6] })), (None, None));
    }
}
