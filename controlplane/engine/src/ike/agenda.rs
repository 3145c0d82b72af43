//! What an IKE SA is going to ask of its peer: one request at a time is under way, the rest waits here for its turn.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use adit_proto::control::{ChildId, Spi};

use crate::crypto::KeyExchangeMethod;
use crate::random::Random;

use super::window::jittered;

/// After TEMPORARY_FAILURE: how long to wait, and for how long to try (RFC 7296 §2.25).
const TEMPORARY_WAIT: Duration = Duration::from_secs(3);
const TEMPORARY_PATIENCE: Duration = Duration::from_secs(180);

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
    /// The peer is to be told where we can perhaps be reached by UDP.
    TellCandidates,
    /// The new IKE SA has another crash token (RFC 6290 §4.3).
    SendToken,
}

impl Task {
    /// Whether it makes a Child SA or an IKE SA: such requests wait after TEMPORARY_FAILURE.
    fn creates(&self) -> bool {
        match self {
            Task::CreateChild { .. } | Task::CreateLane { .. } | Task::RekeyChild { .. } | Task::RekeyIke { .. } => true,
            Task::DeleteChildren(_)
            | Task::DeleteOrphan(_)
            | Task::Liveness
            | Task::UpdateAddresses
            | Task::AnnounceAddresses
            | Task::TellCandidates
            | Task::SendToken => false,
        }
    }

    /// The SPI that is reserved for a Child SA which only the peer has.
    fn orphan(&self) -> Option<Spi> {
        if let Task::DeleteOrphan(spi) = self { Some(*spi) } else { None }
    }
}

/// The requests to come, each once, and how long those that create something have to wait.
#[derive(Debug, Default)]
pub(super) struct Agenda {
    tasks: VecDeque<Task>,
    /// Before this nothing is created or rekeyed.
    resume_at: Option<Instant>,
    /// Since when the peer has asked for patience again and again.
    temporary_since: Option<Instant>,
}

impl Agenda {
    /// Adds a request to what is to be done, unless it is there.
    pub(super) fn want(&mut self, task: Task) {
        if !self.tasks.contains(&task) {
            self.tasks.push_back(task);
        }
    }

    /// The next thing to be done is this.
    pub(super) fn want_first(&mut self, task: Task) {
        self.tasks.push_front(task);
    }

    /// The next request that may be sent now.
    pub(super) fn next(&mut self, now: Instant) -> Option<Task> {
        let waits = self.resume_at.is_some_and(|at| at > now);
        let index = self.tasks.iter().position(|task| !(waits && task.creates()))?;
        self.tasks.remove(index)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    /// Whether something is still to be made or rekeyed.
    pub(super) fn creates(&self) -> bool {
        self.tasks.iter().any(Task::creates)
    }

    /// The peer asked for patience. Says whether there is any left (RFC 7296 §2.25).
    pub(super) fn wait_after_temporary_failure(&mut self, now: Instant, random: &mut dyn Random, again: Task) -> bool {
        let since = *self.temporary_since.get_or_insert(now);
        self.resume_at = Some(now + jittered(TEMPORARY_WAIT, 50, random));
        self.want(again);
        now.saturating_duration_since(since) < TEMPORARY_PATIENCE
    }

    /// The peer has let something be made: its patience begins anew.
    pub(super) fn created(&mut self) {
        self.temporary_since = None;
    }

    /// The time may have come for what had to wait.
    pub(super) fn resume(&mut self, now: Instant) {
        self.resume_at = self.resume_at.filter(|at| *at > now);
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.resume_at
    }

    /// The SPIs of Child SAs that only the peer has, and that are to be deleted.
    pub(super) fn orphans(&self) -> impl Iterator<Item = Spi> {
        self.tasks.iter().filter_map(Task::orphan)
    }

    /// Everything is given up; the SPIs that were reserved for it.
    pub(super) fn clear(&mut self) -> impl Iterator<Item = Spi> {
        self.tasks.drain(..).filter_map(|task| task.orphan())
    }

    /// What another IKE SA is to do in place of this one: all but what concerns this one alone.
    pub(super) fn take(&mut self) -> Vec<Task> {
        self.tasks.drain(..).filter(|task| !matches!(task, Task::RekeyIke { .. } | Task::SendToken)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ike::testing::instant;

    fn zeros(out: &mut [u8]) {
        out.fill(0);
    }

    const CREATE: Task = Task::CreateChild { config: 0, method: None };

    #[test]
    fn after_temporary_failure_only_what_creates_has_to_wait() {
        let now = instant();
        let mut agenda = Agenda::default();
        assert!(agenda.wait_after_temporary_failure(now, &mut zeros, CREATE));
        agenda.want(Task::Liveness);
        agenda.want(Task::Liveness);
        assert_eq!(agenda.next(now), Some(Task::Liveness));
        assert_eq!((agenda.next(now), agenda.is_empty(), agenda.creates()), (None, false, true));
        let resume = agenda.deadline().expect("a time");
        assert_eq!((agenda.next(resume), agenda.is_empty()), (Some(CREATE), true));
    }

    #[test]
    fn patience_ends_unless_the_peer_lets_something_be_made() {
        let (mut agenda, began) = (Agenda::default(), instant());
        assert!(agenda.wait_after_temporary_failure(began, &mut zeros, CREATE));
        assert!(agenda.wait_after_temporary_failure(began + TEMPORARY_PATIENCE / 2, &mut zeros, CREATE));
        assert!(!agenda.wait_after_temporary_failure(began + TEMPORARY_PATIENCE, &mut zeros, CREATE));
        agenda.created();
        assert!(agenda.wait_after_temporary_failure(began + TEMPORARY_PATIENCE, &mut zeros, CREATE));
    }

    #[test]
    fn a_successor_gets_what_is_not_about_this_ike_sa_alone() {
        let mut agenda = Agenda::default();
        let orphan = Task::DeleteOrphan(Spi(7));
        for task in [Task::RekeyIke { method: None }, orphan.clone(), Task::SendToken, CREATE] {
            agenda.want(task);
        }
        assert_eq!(agenda.orphans().collect::<Vec<_>>(), [Spi(7)]);
        assert_eq!(agenda.take(), [orphan, CREATE]);
        assert_eq!(agenda.clear().count(), 0);
    }

    #[test]
    fn what_is_not_made_anew_never_waits() {
        let (method, inbound) = (None, Spi(1));
        let creates = [
            CREATE,
            Task::CreateLane { child: ChildId(0), lane: 1, method },
            Task::RekeyChild { inbound, method },
            Task::RekeyIke { method },
        ];
        let others = [
            Task::DeleteChildren(vec![inbound]),
            Task::DeleteOrphan(inbound),
            Task::Liveness,
            Task::UpdateAddresses,
            Task::AnnounceAddresses,
            Task::TellCandidates,
            Task::SendToken,
        ];
        let mut agenda = Agenda::default();
        assert!(agenda.wait_after_temporary_failure(instant(), &mut zeros, creates[0].clone()));
        creates.iter().chain(&others).for_each(|task| agenda.want(task.clone()));
        let now: Vec<Task> = std::iter::from_fn(|| agenda.next(instant())).collect();
        assert_eq!(now, others);
        agenda.resume(instant());
        assert!(agenda.deadline().is_some(), "it has not come yet");
        agenda.resume(instant() + TEMPORARY_WAIT);
        assert_eq!(agenda.deadline(), None);
        assert_eq!(std::iter::from_fn(|| agenda.next(instant())).collect::<Vec<_>>(), creates);
        agenda.want(Task::Liveness);
        agenda.want_first(CREATE);
        assert_eq!((agenda.next(instant()), agenda.creates()), (Some(CREATE), false));
    }
}
