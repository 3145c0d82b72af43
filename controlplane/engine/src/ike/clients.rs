//! Those who come under a pattern: how often each of them may begin an IKE SA.
//!
//! A client is not its name: one certificate may have several, and who has the key of a group any. So beside the name what has signed has a
//! rate, whoever is named; and where nothing has, for all have one preshared key, where the client comes from. There is no rate of all
//! clients together, which one of them could use up for the others.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::crypto::PublicKey;
use crate::rate_limit::Bucket;
use crate::shown::Shown;

use super::origins::{Origin, Origins, charge};
use crate::limits::{CLIENTS, HANDSHAKES_PER_SECOND};

/// What a client is known by, beside where it comes from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum By {
    /// In small letters: a name is the same in letters of either case.
    Name(String),
    Key(Box<[u8]>),
}

/// Those who have come lately.
#[derive(Debug)]
pub(super) struct Clients {
    handshakes: BTreeMap<By, Bucket>,
    origins: Origins,
}

impl Default for Clients {
    fn default() -> Clients {
        Clients { handshakes: BTreeMap::new(), origins: Origins::new(CLIENTS) }
    }
}

impl Clients {
    /// Takes the right of a client to begin an IKE SA, if it has that now. `key`: the one that it has signed with, if it has.
    pub(super) fn may_begin(&mut self, now: Instant, origin: Origin, name: &Shown, key: Option<&PublicKey>) -> bool {
        // Whoever has the key of a group proves himself from as many addresses as he has.
        let origin = Origin { is_known: false, ..origin };
        let name = By::Name(name.as_str().to_ascii_lowercase());
        let key = key.map(|key| By::Key(key.spki().into()));
        let mut has = |by: &By| self.handshakes.get_mut(by).is_none_or(|bucket| bucket.has(now));
        let may = has(&name) && key.as_ref().map_or_else(|| self.origins.may(now, origin), &mut has);
        if may {
            charge(&mut self.handshakes, now, name, HANDSHAKES_PER_SECOND);
            match key {
                Some(key) => charge(&mut self.handshakes, now, key, HANDSHAKES_PER_SECOND),
                None => self.origins.charge(now, origin),
            }
        }
        may
    }
}
