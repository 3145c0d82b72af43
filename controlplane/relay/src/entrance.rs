//! The entrance: the door, and the places of those who have come through it. Who has not logged in is a stranger, and there are
//! only so many of them: when one more comes, the one goes who has been there longest. Whoever is honest needs a fraction of a
//! second.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use adit_proto::relay::PeerKey;
use tokio::task::AbortHandle;

use crate::login::Refusal;
use crate::quotas::{Door, TurnedAway};

/// One connection, in the order in which they came.
type Visitor = u64;

/// The entrance.
pub(crate) struct Entrance {
    strangers_most: usize,
    keeper: Mutex<Keeper>,
}

struct Keeper {
    door: Door,
    next: Visitor,
    strangers: BTreeMap<Visitor, AbortHandle>,
}

/// A place inside, among the strangers and after the login among the clients; given back when it is dropped.
pub(crate) struct Place {
    entrance: Arc<Entrance>,
    visitor: Visitor,
    from: IpAddr,
}

/// Whether somebody had to go for whom was let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admitted {
    WithRoom,
    InsteadOfAnother,
}

impl Entrance {
    pub fn new(door: Door, strangers_most: usize) -> Entrance {
        Entrance { strangers_most, keeper: Mutex::new(Keeper { door, next: 0, strangers: BTreeMap::new() }) }
    }

    /// What is inside is whole at every panic.
    fn keeper(&self) -> MutexGuard<'_, Keeper> {
        self.keeper.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many connections there are, and how many of them have not logged in.
    pub fn counts(&self) -> (usize, usize) {
        let keeper = self.keeper();
        (keeper.door.open(), keeper.strangers.len())
    }

    /// Lets somebody in as a stranger, in a task of his own, which begins with his connection and his place.
    ///
    /// # Errors
    /// There are too many of them now: here is his connection.
    pub fn admit<C>(
        self: &Arc<Self>,
        from: IpAddr,
        connection: C,
        begin: impl FnOnce(C, Place) -> AbortHandle,
    ) -> Result<Admitted, (TurnedAway, C)> {
        let mut keeper = self.keeper();
        if let Err(turned) = keeper.door.enter(Instant::now(), from) {
            return Err((turned, connection));
        }
        let mut admitted = Admitted::WithRoom;
        if keeper.strangers.len() >= self.strangers_most
            && let Some((_, oldest)) = keeper.strangers.pop_first()
        {
            oldest.abort();
            admitted = Admitted::InsteadOfAnother;
        }
        let visitor = keeper.next;
        keeper.next += 1;
        // The task cannot end before it is known here: its place needs the lock that we hold.
        let task = begin(connection, Place { entrance: self.clone(), visitor, from });
        keeper.strangers.insert(visitor, task);
        Ok(admitted)
    }
}

impl Place {
    /// Who has it has proven this key.
    ///
    /// # Errors
    /// He has lost his place meanwhile, or comes too often.
    pub fn log_in(&self, key: &PeerKey) -> Result<(), Refusal> {
        let mut keeper = self.entrance.keeper();
        keeper.strangers.remove(&self.visitor).ok_or(Refusal::Full)?;
        keeper.door.log_in(Instant::now(), key).map_err(|_| Refusal::ReplacedWait)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut keeper = self.entrance.keeper();
        keeper.strangers.remove(&self.visitor);
        keeper.door.left(self.from);
    }
}
