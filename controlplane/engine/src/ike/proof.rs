//! Who the peer proved to be, how, and until when that holds. A rekey changes nothing of it.

use super::standing::Standing;
use super::trust::Trust;
use crate::shown::Shown;

#[derive(Clone, Debug)]
pub(super) struct Proof {
    remote_id: Shown,
    by: Shown,
    uses_ppk: bool,
    trust: Trust,
    standing: Standing,
}

impl Proof {
    /// `by` is how the peer proved it, for people; `trust` the one under which it was believed.
    pub(super) fn new(remote_id: Shown, by: Shown, uses_ppk: bool, trust: Trust, standing: Standing) -> Proof {
        Proof { remote_id, by, uses_ppk, trust, standing }
    }

    pub(super) fn remote_id(&self) -> &Shown {
        &self.remote_id
    }

    pub(super) fn by(&self) -> &Shown {
        &self.by
    }

    /// Whether a post-quantum pre-shared key is in it (RFC 8784).
    pub(super) fn uses_ppk(&self) -> bool {
        self.uses_ppk
    }

    pub(super) fn trust(&self) -> &Trust {
        &self.trust
    }

    pub(super) fn standing(&self) -> &Standing {
        &self.standing
    }

    pub(super) fn standing_mut(&mut self) -> &mut Standing {
        &mut self.standing
    }
}
