//! What must outlive a crash of the machine, in the state directory: how far the sequence numbers of static keys were used, and the
//! tops of the replay windows; and what is of use there, where peers have proven themselves.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use adit_channel::LiveSa;
use adit_proto::control::{Direction, PeerId, PeerTag};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::desired::Desired;
use crate::desired::static_key::WantedSa;
use crate::numbers::{NOBODY, SaName};
use crate::reconcile::InstalledState;
use crate::sequence::{self, Grant};
use crate::state::{Proofs, Saved, State, StateError};
use crate::static_key::KeyId;
use crate::view::View;

/// A clock that is behind the mark by more than this is worth a warning.
const BEHIND_WARN_NS: u64 = 1_000_000_000;

/// How long a command waits for the disk, and a disk may be silent before that is said.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// How long it is left alone after it has refused something, where nothing but more numbers for a key waits for it.
const REST: Duration = Duration::from_millis(200);

/// The state directory, and what was said of it. What is written there is written by a thread of its own: a disk that is full or hangs
/// keeps static keys from getting more numbers. A command that needs it waits two seconds at most, and IKE goes on meanwhile.
pub(super) struct Durable {
    state: State,
    /// What is being written, and since when.
    writing: Option<(Instant, JoinHandle<Result<Saved, StateError>>)>,
    /// When it refused something last.
    refused: Option<Instant>,
    /// Ends of numbers that keys get as soon as they are durable.
    promised: BTreeMap<KeyId, u64>,
    /// Why it could not be written, once that was said.
    complaint: Option<String>,
}

impl Durable {
    pub(super) fn new(state: State) -> Durable {
        Durable { state, writing: None, refused: None, promised: BTreeMap::new(), complaint: None }
    }

    pub(super) fn state(&self) -> &State {
        &self.state
    }

    /// The highest sequence number that is known to have come under a key.
    pub(super) fn top(&self, id: KeyId) -> u64 {
        self.state.top(id)
    }

    /// Sequence numbers for new outbound SAs, to be used once what is noted is durable; and how long to wait before that.
    pub(super) fn first_grants(&mut self, wanted: &[WantedSa]) -> (Vec<Grant>, Duration) {
        let now = clock_ns();
        let ids: Vec<_> = wanted.iter().map(|want| want.key_id).collect();
        let grants: Vec<Grant> = ids.iter().map(|id| sequence::first(self.state.mark(*id), now)).collect();
        let wait = grants.iter().map(|grant| grant.wait_ns(now)).max().unwrap_or(0);
        if let Some(behind) = grants.iter().map(|grant| grant.clock_behind_ns).max().filter(|behind| *behind > BEHIND_WARN_NS) {
            tracing::warn!(
                "the clock is {} s behind the sequence numbers in {}: it was set back. Do not lose that directory before it has caught up",
                behind / 1_000_000_000,
                self.state.dir().display()
            );
        }
        (grants, Duration::from_nanos(wait))
    }

    /// Notes that the keys of these SAs have been granted these numbers.
    pub(super) fn note_grants(&mut self, wanted: &[WantedSa], grants: &[Grant]) {
        wanted.iter().zip(grants).for_each(|(want, grant)| self.state.raise_mark(want.key_id, grant.end));
    }

    /// The end of more numbers for a key that has come so far, once they are durable.
    pub(super) fn extend(&mut self, id: KeyId, end: u64) -> Option<u64> {
        let known = self.promised.get(&id).copied().filter(|promised| *promised > end);
        let promised = known.unwrap_or_else(|| {
            let more = sequence::extend(end, self.state.mark(id), clock_ns());
            self.state.raise_mark(id, more);
            self.promised.insert(id, more);
            more
        });
        if self.state.saved_mark(id) >= Some(promised) {
            self.promised.remove(&id);
            return Some(promised);
        }
        if self.refused.is_none_or(|at| at.elapsed() >= REST) {
            self.begin();
        }
        None
    }

    /// Takes over what live SAs tell about keys whose marks or tops we may have lost. `installed` is what their control plane left.
    pub(super) fn learn(&mut self, desired: &Desired, live: &[(u16, LiveSa)], installed: &InstalledState) {
        let left: BTreeMap<SaName, KeyId> = installed.keys().collect();
        let mut peers: BTreeMap<PeerId, Vec<PeerTag>> = BTreeMap::new();
        installed.peers().for_each(|(id, tag)| peers.entry(id).or_default().push(tag));
        let now = clock_ns();
        let mut strange = Vec::new();
        for (_, sa) in live {
            let number = if sa.direction == Direction::Inbound { sa.seq } else { sa.seq_limit.saturating_add(1) };
            let tags = peers.get(&sa.peer).map_or(&[NOBODY][..], Vec::as_slice);
            let named = tags.iter().filter_map(|tag| left.get(&SaName::new(sa.direction, *tag, sa.spi)));
            let mut ids: Vec<KeyId> = named.copied().collect();
            if ids.is_empty() {
                // Nobody says whose it is, so it counts for every key that it may have. A number too high does no harm.
                ids.extend(desired.keys(sa.direction, sa.spi));
            }
            // One of IKE has no key with a name, and its limit is no mark.
            if !ids.is_empty() && !sequence::believable(number, now) {
                strange.push(sa.spi.0);
                continue;
            }
            for id in ids {
                match sa.direction {
                    Direction::Inbound => self.state.raise_top(id, number),
                    Direction::Outbound => self.state.raise_mark(id, number),
                }
            }
        }
        if let Some(first) = strange.first() {
            let count = strange.len();
            tracing::warn!("the data plane names sequence numbers of {count} SAs ({first:#010x}, …) that cannot be: not noted");
        }
    }

    /// Notes where peers have proven themselves last. It is written with what comes next.
    pub(super) fn note_proofs(&mut self, proofs: Proofs) {
        self.state.set_proofs(proofs);
    }

    /// Notes the tops of all replay windows of the data plane that is attached, and begins to write them.
    pub(super) fn note_tops(&mut self, view: &View) {
        let live = view.with_master(|master| master.live_sas()).unwrap_or_default();
        let inbound: Vec<_> = live.into_iter().filter(|(_, sa)| sa.direction == Direction::Inbound).collect();
        self.learn(&view.desired(), &inbound, &InstalledState::default());
        self.begin();
    }

    /// Whether something is being written and has not been answered.
    pub(super) fn is_writing(&self) -> bool {
        self.writing.is_some()
    }

    /// Begins to write what was noted, unless something is being written.
    pub(super) fn begin(&mut self) {
        if self.writing.is_none()
            && let Some(unsaved) = self.state.unsaved()
        {
            self.writing = Some((Instant::now(), tokio::task::spawn_blocking(|| unsaved.save())));
        }
    }

    /// What was being written is on the disk, or will not be. Never comes while nothing is.
    async fn ended(&mut self) -> Result<(), StateError> {
        let Some((_, writing)) = &mut self.writing else { return std::future::pending().await };
        let outcome = writing.await;
        self.writing = None;
        // A thread that ends without an answer has saved nothing.
        let outcome = outcome.unwrap_or_else(|_| Err(self.silent()));
        self.refused = outcome.is_err().then(Instant::now);
        self.state.saved(outcome?);
        Ok(())
    }

    /// As [`Durable::ended`]; what goes wrong is said once.
    pub(super) async fn written(&mut self) {
        let outcome = self.ended().await;
        self.say(outcome.err());
    }

    /// Says once that the disk does not answer.
    pub(super) fn watch(&mut self) {
        if self.writing.as_ref().is_some_and(|(since, _)| since.elapsed() > ANSWER_WITHIN) && self.complaint.is_none() {
            self.say(Some(self.silent()));
        }
    }

    pub(super) fn silent(&self) -> StateError {
        StateError::Silent { dir: self.state.dir().to_owned(), seconds: ANSWER_WITHIN.as_secs() }
    }

    /// Says what went wrong, once, and that it is well again.
    pub(super) fn say(&mut self, error: Option<StateError>) {
        let complaint = error.map(|error| error.to_string());
        if let Some(line) = complaint.as_ref().filter(|line| self.complaint.as_ref() != Some(line)) {
            tracing::error!("{line}. It is tried again; IKE goes on meanwhile");
        }
        if complaint.is_none() && self.complaint.is_some() {
            tracing::info!("the state directory can be written again");
        }
        self.complaint = complaint;
    }

    /// Makes everything that was noted durable.
    ///
    /// # Errors
    /// The disk does not take it, or not in time.
    pub(super) async fn save(&mut self) -> Result<(), StateError> {
        let saved = self.save_by(Instant::now() + ANSWER_WITHIN).await;
        saved.unwrap_or_else(|| Err(self.silent()))
    }

    /// The same until a moment: `None` when the disk has not answered by then.
    pub(super) async fn save_by(&mut self, by: Instant) -> Option<Result<(), StateError>> {
        loop {
            self.begin();
            if self.writing.is_none() {
                return Some(Ok(()));
            }
            match tokio::time::timeout_at(by, self.ended()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Some(Err(error)),
                Err(_) => return None,
            }
        }
    }
}

/// Nanoseconds since 1970, for [`crate::sequence`].
pub(super) fn clock_ns() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    const ID: KeyId = KeyId([9; 16]);

    /// Waits for the disk as the loop does, and says what came of it.
    async fn next_write(durable: &mut Durable) -> Option<String> {
        durable.written().await;
        durable.complaint.clone()
    }

    #[tokio::test]
    async fn numbers_are_granted_once_they_are_on_the_disk() {
        let dir = tempfile::tempdir().unwrap();
        let mut durable = Durable::new(State::open(dir.path()).unwrap());
        assert_eq!(durable.extend(ID, 7), None);
        assert_eq!((durable.extend(ID, 7), next_write(&mut durable).await), (None, None));
        let end = durable.extend(ID, 7).unwrap();
        assert!(end > 7);
        drop(durable);
        assert_eq!(State::open(dir.path()).unwrap().mark(ID), Some(end), "it is what was granted");
    }

    #[tokio::test]
    async fn a_disk_that_hangs_holds_nobody_up_and_is_said_once() {
        let dir = tempfile::tempdir().unwrap();
        let mut durable = Durable::new(State::open(dir.path()).unwrap());
        // Who opens it to write waits until somebody reads, as a hanging disk lets wait.
        let pipe = dir.path().join("sequence.json.new");
        mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        assert_eq!(durable.extend(ID, 7), None);
        durable.watch();
        assert_eq!(durable.complaint, None, "it may still answer");
        assert!(matches!(durable.save().await, Err(StateError::Silent { .. })));
        assert_eq!(durable.extend(ID, 7), None, "nothing that is not on the disk is granted");
        durable.watch();
        let said = durable.complaint.clone().unwrap();
        assert!(said.contains("has not answered for 2 s"), "{said}");

        let reader = File::open(&pipe).unwrap();
        std::fs::remove_file(&pipe).unwrap();
        // What was under way is lost, the next one is not; it waits a moment, for a disk that refuses would be asked without end.
        next_write(&mut durable).await;
        drop(reader);
        assert_eq!((durable.extend(ID, 7), durable.is_writing()), (None, false));
        tokio::time::sleep(REST).await;
        assert_eq!((durable.extend(ID, 7), durable.is_writing()), (None, true));
        assert_eq!(next_write(&mut durable).await, None);
        assert!(durable.extend(ID, 7).is_some());
    }
}
