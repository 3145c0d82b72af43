//! What outlives a control plane, in the data plane's vault: what is installed there, the totals of data planes before it, and the IKE
//! SAs.

use std::sync::atomic::Ordering;

use adit_channel::Master;

use crate::ike::Ike;
use crate::reconcile::InstalledState;
use crate::vault;
use crate::view::View;

/// Peers that are named in one line.
const NAMES: usize = 8;

/// What was left in the vault last.
#[derive(Default)]
pub(super) struct Vault {
    /// What is installed, or on the way to it.
    installed: InstalledState,
    /// The same as JSON, with the totals; the IKE SAs are written behind it.
    bytes: Vec<u8>,
    /// It holds the IKE SAs, too; `None` when it was not written yet.
    is_whole: Option<bool>,
    /// But for those of these peers, who take most of the room.
    left_out: Vec<String>,
    /// Changes stand behind the snapshot, or wait for room.
    has_changes: bool,
    /// How often the totals are still to be written because SAs go.
    totals: u8,
}

impl Vault {
    /// SAs go: what they have carried is to be written, and once more when they have gone for certain.
    pub(super) fn sas_go(&mut self) {
        self.totals = 2;
    }

    /// What is installed, or on the way to it, as it was left last.
    pub(super) fn installed(&self) -> &InstalledState {
        &self.installed
    }

    /// Leaves the installed state in the vault, with the totals so far. Where there is no room for that, these go first.
    pub(super) fn persist(&mut self, mut installed: InstalledState, view: &View, mut ike: Option<&mut Ike>) {
        let (archive, counted) = view.archive();
        (installed.archive, installed.counted) = (Some(archive), counted);
        self.bytes = installed.to_vault();
        if !self.leave(view, ike.as_deref_mut()) {
            installed.archive = None;
            self.bytes = installed.to_vault();
            self.leave(view, ike);
        }
        installed.archive = None;
        self.installed = installed;
        self.report_room(view);
    }

    /// Leaves what has changed of the IKE SAs for the next control plane.
    pub(super) fn save_ike(&mut self, view: &View, ike: &mut Ike) {
        if self.append(view, ike) {
            return;
        }
        if self.is_whole == Some(false) {
            // Nothing of IKE is in it that could be out of date, and trying costs as much as all IKE SAs.
            self.has_changes = true;
        } else {
            self.leave(view, Some(ike));
            self.report_room(view);
        }
    }

    /// Makes one snapshot of the changes that were put behind the one before: some were about keys that are gone. What their SAs
    /// have carried is written with it.
    pub(super) fn tidy(&mut self, view: &View, ike: Option<&mut Ike>) {
        if self.totals > 0 {
            self.totals -= 1;
            self.persist(self.installed.clone(), view, ike);
        } else if self.has_changes {
            self.leave(view, ike);
            self.report_room(view);
        }
    }

    fn report_room(&self, view: &View) {
        let fits = self.is_whole != Some(false) && self.left_out.is_empty();
        if view.vault_full.swap(!fits, Ordering::Relaxed) == fits {
            if fits {
                tracing::info!("the vault for the next control plane has room again");
            } else {
                let who = match self.left_out.as_slice() {
                    [] => "all peers".to_owned(),
                    names if names.len() <= NAMES => format!("who takes most of it ({})", names.join(", ")),
                    names => format!("who takes most of it ({} and {} more)", names[..NAMES].join(", "), names.len() - NAMES),
                };
                tracing::error!(
                    "the vault for the next control plane is full: after a restart of adit, {who} will be connected anew. \
                     Fewer peers or lanes need less of it, and a restart of the data plane makes it larger where peers were added"
                );
            }
        }
    }

    /// Puts what has changed behind what the vault holds, where that is whole. False when it must be written anew.
    fn append(&mut self, view: &View, ike: &mut Ike) -> bool {
        let changes = ike.changes();
        let Some(changes) = changes.filter(|_| self.is_whole == Some(true)) else { return false };
        let fits = view.with_master(|master| master.vault_append(&changes)).unwrap_or(false);
        self.has_changes |= fits;
        fits
    }

    /// Writes the vault: what was persisted last, and the IKE SAs as they are now, those first that take little. False when there is no
    /// room for them at all. Then it keeps less, but never what was in it before: from an old snapshot keys would be used anew, from none
    /// the peers connect anew.
    fn leave(&mut self, view: &View, ike: Option<&mut Ike>) -> bool {
        let room = view.with_master(|master| master.vault_capacity()).unwrap_or(usize::MAX);
        let installed = &self.bytes;
        let most = room.saturating_sub(vault::HEAD_LEN + installed.len());
        let (ike, left_out) = ike.map(|ike| ike.snapshot(most)).unwrap_or_default();
        self.left_out = left_out;
        let all = vault::join(installed, &ike);
        let write = |master: &mut Master| {
            let fits = master.vault_write(&all).is_ok();
            if !fits && master.vault_write(&vault::join(installed, &[])).is_err() {
                // Nothing fits always.
                let _ = master.vault_write(&[]);
            }
            fits
        };
        let written = view.with_master(write);
        self.is_whole = written;
        self.has_changes = false;
        written.unwrap_or(true)
    }
}
