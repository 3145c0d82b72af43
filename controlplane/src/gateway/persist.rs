//! What outlives a data plane: the tops of its replay windows and the ends of its sequence numbers, in the state directory; its
//! totals, in the archive; and in its vault what the next control plane has to know.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use adit_channel::{LiveSa, Master};
use adit_proto::control::{Direction, PeerId, PeerTag};

use super::{Gateway, clock_ns};
use crate::dataplane::Process;
use crate::numbers::{NOBODY, Numbers, SaName};
use crate::reconcile::InstalledState;
use crate::sequence;
use crate::state::StateError;
use crate::static_key::KeyId;
use crate::vault;

/// What was left in the vault last.
#[derive(Default)]
pub(super) struct Vault {
    /// What is installed, or on the way to it.
    pub(super) installed: InstalledState,
    /// The same as JSON, with the totals; the IKE SAs are written behind it.
    bytes: Vec<u8>,
    /// It holds all of the IKE SAs, too; `None` when it was not written yet.
    is_whole: Option<bool>,
    /// Changes stand behind the snapshot, or wait for room.
    has_changes: bool,
}

impl Gateway {
    /// What the next control plane has to know about a data plane that has all it should have.
    pub(super) fn installed_state(&self) -> InstalledState {
        InstalledState::of(&self.desired, self.arguments.clone(), &self.ids)
    }

    /// Leaves the installed state in the vault, with the totals so far. Where there is no room, these go first.
    pub(super) fn persist(&mut self, mut installed: InstalledState) {
        installed.archive = Some(self.view.archive());
        self.vault.bytes = installed.to_vault();
        if !self.leave() {
            installed.archive = None;
            self.vault.bytes = installed.to_vault();
            self.leave();
        }
        installed.archive = None;
        self.vault.installed = installed;
        self.report_room();
    }

    /// Leaves what has changed of the IKE SAs for the next control plane.
    pub(super) fn save_ike(&mut self) {
        if self.append() {
            return;
        }
        if self.vault.is_whole == Some(false) {
            // Nothing of IKE is in it that could be out of date, and trying costs as much as all IKE SAs.
            self.vault.has_changes = true;
        } else {
            self.leave();
            self.report_room();
        }
    }

    /// Makes one snapshot of the changes that were put behind the one before: some were about keys that are gone.
    pub(super) fn tidy_vault(&mut self) {
        if self.vault.has_changes {
            self.leave();
            self.report_room();
        }
    }

    fn report_room(&self) {
        let fits = self.vault.is_whole != Some(false);
        if self.view.vault_full.swap(!fits, Ordering::Relaxed) == fits {
            if fits {
                tracing::info!("the memory for the next control plane has room again");
            } else {
                tracing::error!(
                    "the memory for the next control plane is full: after a restart of adit, all peers will be connected anew. \
                     Fewer peers or lanes need less of it, and a restart of the data plane makes it larger where peers were added"
                );
            }
        }
    }

    /// Puts what has changed behind what the vault holds, where that is whole. False when it must be written anew.
    fn append(&mut self) -> bool {
        let changes = self.ike.as_mut().and_then(|ike| ike.changes());
        let Some(changes) = changes.filter(|_| self.vault.is_whole == Some(true)) else { return false };
        let fits = self.view.with_master(|master| master.vault_append(&changes)).unwrap_or(false);
        self.vault.has_changes |= fits;
        fits
    }

    /// Writes the vault: what was persisted last, and the IKE SAs as they are now. False when there is no room. Then it keeps
    /// less, but never what was in it before: from an old snapshot keys would be used anew, from none the peers connect anew.
    fn leave(&mut self) -> bool {
        let ike = self.ike.as_mut().map(|ike| ike.snapshot()).unwrap_or_default();
        let installed = &self.vault.bytes;
        let all = vault::join(installed, &ike);
        let write = |master: &mut Master| {
            let fits = master.vault_write(&all).is_ok();
            if !fits && master.vault_write(&vault::join(installed, &[])).is_err() {
                // Nothing fits always.
                let _ = master.vault_write(&[]);
            }
            fits
        };
        let written = self.view.with_master(write);
        self.vault.is_whole = written;
        self.vault.has_changes = false;
        written.unwrap_or(true)
    }

    /// Ends a data plane that cannot be kept, and keeps what only its memory says.
    pub(super) async fn retire(&mut self, master: Master, mut process: Process, installed: InstalledState) -> anyhow::Result<()> {
        // Before its end, in case ours comes first; after it, because it has worked until then.
        self.learn(&master.live_sas(), &installed);
        self.save()?;
        process.stop().await;
        self.learn(&master.live_sas(), &installed);
        self.save()?;
        if let Some(archive) = installed.archive.clone() {
            self.view.inherit(archive);
        }
        self.view.add_totals(&Numbers::read(&master, &installed.peers().collect()));
        Ok(())
    }

    /// Takes over what live SAs tell about keys whose marks or tops we may have lost. `installed` is what their control plane left.
    pub(super) fn learn(&mut self, live: &[(u16, LiveSa)], installed: &InstalledState) {
        let desired = self.desired.clone();
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

    /// Notes the tops of all replay windows and makes them durable.
    pub(super) fn save_tops(&mut self) -> Result<(), StateError> {
        let live = self.view.with_master(|master| master.live_sas()).unwrap_or_default();
        let inbound: Vec<_> = live.into_iter().filter(|(_, sa)| sa.direction == Direction::Inbound).collect();
        self.learn(&inbound, &InstalledState::default());
        self.save()
    }

    /// The same; that it cannot be done is said once.
    pub(super) fn save_tops_or_say(&mut self) {
        let complaint = self.save_tops().err().map(|error| error.to_string());
        if let Some(line) = complaint.as_ref().filter(|line| self.save_complaint.as_ref() != Some(line)) {
            tracing::error!("{line}. It is tried again");
        }
        if complaint.is_none() && self.save_complaint.is_some() {
            tracing::info!("the state directory can be written again");
        }
        self.save_complaint = complaint;
    }

    pub(super) fn save(&mut self) -> Result<(), StateError> {
        // The disk may take its time; the API should not wait for it.
        tokio::task::block_in_place(|| self.state.save())
    }
}
