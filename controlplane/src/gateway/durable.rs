//! What must outlive a crash of the machine, in the state directory: how far the sequence numbers of static keys were used, and the
//! tops of the replay windows.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use adit_channel::LiveSa;
use adit_proto::control::{Direction, PeerId, PeerTag};

use crate::desired::Desired;
use crate::desired::static_key::WantedSa;
use crate::numbers::{NOBODY, SaName};
use crate::reconcile::InstalledState;
use crate::sequence::{self, Grant};
use crate::state::{State, StateError};
use crate::static_key::KeyId;
use crate::view::View;

/// A clock that is behind the mark by more than this is worth a warning.
const BEHIND_WARN_NS: u64 = 1_000_000_000;

/// The state directory, and what was said of it.
pub(super) struct Durable {
    state: State,
    /// Why it could not be written, once that was said.
    complaint: Option<String>,
}

impl Durable {
    pub(super) fn new(state: State) -> Durable {
        Durable { state, complaint: None }
    }

    pub(super) fn state(&self) -> &State {
        &self.state
    }

    /// The highest sequence number that is known to have come under a key.
    pub(super) fn top(&self, id: KeyId) -> u64 {
        self.state.top(id)
    }

    /// Sequence numbers for new outbound SAs, durable when this returns.
    pub(super) async fn grant(&mut self, wanted: &[WantedSa]) -> anyhow::Result<Vec<Grant>> {
        let now = clock_ns();
        let ids: Vec<_> = wanted.iter().map(|want| want.key_id).collect();
        let grants: Vec<Grant> = ids.iter().map(|id| sequence::first(self.state.mark(*id), now)).collect();
        let wait = grants.iter().map(|grant| grant.wait_ns(now)).max().unwrap_or(0);
        tokio::time::sleep(Duration::from_nanos(wait)).await;
        if let Some(behind) = grants.iter().map(|grant| grant.clock_behind_ns).max().filter(|behind| *behind > BEHIND_WARN_NS) {
            tracing::warn!(
                "the clock is {} s behind the sequence numbers in {}: it was set back. Do not lose that directory before it has caught up",
                behind / 1_000_000_000,
                self.state.dir().display()
            );
        }
        for (id, grant) in ids.iter().zip(&grants) {
            self.state.raise_mark(*id, grant.end);
        }
        self.save()?;
        Ok(grants)
    }

    /// More numbers for keys that have come so far; durable when this returns.
    pub(super) fn extend(&mut self, keys: impl Iterator<Item = (KeyId, u64)>) -> Result<Vec<u64>, StateError> {
        let now = clock_ns();
        let mut ends = Vec::new();
        for (id, end) in keys {
            let end = sequence::extend(end, self.state.mark(id), now);
            self.state.raise_mark(id, end);
            ends.push(end);
        }
        self.save()?;
        Ok(ends)
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

    /// Notes the tops of all replay windows of the data plane that is attached, and makes them durable.
    pub(super) fn note_tops(&mut self, view: &View) -> Result<(), StateError> {
        let live = view.with_master(|master| master.live_sas()).unwrap_or_default();
        let inbound: Vec<_> = live.into_iter().filter(|(_, sa)| sa.direction == Direction::Inbound).collect();
        self.learn(&view.desired(), &inbound, &InstalledState::default());
        self.save()
    }

    /// The same; that it cannot be done is said once.
    pub(super) fn note_tops_or_say(&mut self, view: &View) {
        let complaint = self.note_tops(view).err().map(|error| error.to_string());
        if let Some(line) = complaint.as_ref().filter(|line| self.complaint.as_ref() != Some(line)) {
            tracing::error!("{line}. It is tried again");
        }
        if complaint.is_none() && self.complaint.is_some() {
            tracing::info!("the state directory can be written again");
        }
        self.complaint = complaint;
    }

    pub(super) fn save(&mut self) -> Result<(), StateError> {
        // The disk may take its time; the API should not wait for it.
        tokio::task::block_in_place(|| self.state.save())
    }
}

/// Nanoseconds since 1970, for [`crate::sequence`].
pub(super) fn clock_ns() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
