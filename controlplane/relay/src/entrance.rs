//! The entrance: the door, and the places of those who have come through it. Who has not logged in is a stranger, and there are
//! only so many of them: when one more comes, the one goes who has been there longest. Whoever is honest needs a fraction of a
//! second. So it is where an address, its network or the whole house has as many connections as it may: silent ones make room.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use adit_proto::relay::PeerKey;
use nix::errno::Errno;
use tokio::task::AbortHandle;

use crate::login::Refusal;
use crate::quotas::{Door, Network, TurnedAway};

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
    strangers: BTreeMap<Visitor, Stranger>,
}

struct Stranger {
    task: AbortHandle,
    from: IpAddr,
}

impl Keeper {
    /// The one who has been a stranger longest of those who are too many for one more from there.
    fn oldest(&self, turned: TurnedAway, from: IpAddr) -> Option<Visitor> {
        let (address, network) = (from.to_canonical(), Network::of(from));
        let is_one = |stranger: &Stranger| match turned {
            TurnedAway::ConnectionsOfAddress => stranger.from.to_canonical() == address,
            TurnedAway::ConnectionsOfNetwork => Network::of(stranger.from) == network,
            TurnedAway::Connections => true,
            TurnedAway::Handshakes | TurnedAway::HandshakesOfNetwork => false,
        };
        self.strangers.iter().find(|(_, stranger)| is_one(stranger)).map(|(visitor, _)| *visitor)
    }

    /// He has no place any more, though his connection may take a moment to end.
    fn push_out(&mut self, visitor: Visitor) {
        if let Some(stranger) = self.strangers.remove(&visitor) {
            stranger.task.abort();
            self.door.left(stranger.from);
        }
    }

    /// Whether there is room for one more, and whether somebody has to go for it.
    fn make_room(&mut self, from: IpAddr, strangers_most: usize) -> Result<Admitted, TurnedAway> {
        let crowded = self.door.crowded(from);
        self.door.shake(Instant::now(), from)?;
        let leaves = match crowded {
            Some(turned) => Some(self.oldest(turned, from).ok_or(turned)?),
            None if self.strangers.len() >= strangers_most => self.strangers.keys().next().copied(),
            None => None,
        };
        self.door.count(from);
        leaves.into_iter().for_each(|visitor| self.push_out(visitor));
        Ok(if leaves.is_some() { Admitted::InsteadOfAnother } else { Admitted::WithRoom })
    }
}

/// A place inside, among the strangers and after the login among the clients; given back when it is dropped.
pub(crate) struct Place {
    entrance: Arc<Entrance>,
    visitor: Visitor,
    from: IpAddr,
    /// He has logged in.
    is_client: AtomicBool,
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
        let admitted = match keeper.make_room(from, self.strangers_most) {
            Ok(admitted) => admitted,
            Err(turned) => return Err((turned, connection)),
        };
        let visitor = keeper.next;
        keeper.next += 1;
        // The task cannot end before it is known here: its place needs the lock that we hold.
        let task = begin(connection, Place { entrance: self.clone(), visitor, from, is_client: AtomicBool::new(false) });
        keeper.strangers.insert(visitor, Stranger { task, from });
        Ok(admitted)
    }
}

impl Place {
    /// Who has it has proven this key: whether it may log in.
    ///
    /// # Errors
    /// It does so too often.
    pub fn may_log_in(&self, key: &PeerKey) -> Result<(), Refusal> {
        let may = self.entrance.keeper().door.may_log_in(Instant::now(), key);
        may.then_some(()).ok_or(Refusal::TooOften)
    }

    /// Who has it is let in.
    ///
    /// # Errors
    /// He has lost his place meanwhile.
    pub fn logged_in(&self, key: &PeerKey) -> Result<(), Refusal> {
        let mut keeper = self.entrance.keeper();
        keeper.strangers.remove(&self.visitor).ok_or(Refusal::Full)?;
        self.is_client.store(true, Ordering::Relaxed);
        keeper.door.logged_in(Instant::now(), key);
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut keeper = self.entrance.keeper();
        // Who was pushed out has been counted out already.
        if keeper.strangers.remove(&self.visitor).is_some() || self.is_client.load(Ordering::Relaxed) {
            keeper.door.left(self.from);
        }
    }
}

/// Whether an error of `accept` is about all connections. The others are about one that has ended before it was taken (accept(2)),
/// and whoever makes such ones must not keep the rest waiting.
pub(crate) fn is_shortage(error: &io::Error) -> bool {
    let shortages = [Errno::EMFILE, Errno::ENFILE, Errno::ENOMEM, Errno::ENOBUFS];
    error.raw_os_error().is_some_and(|code| shortages.contains(&Errno::from_raw(code)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_that_ended_early_keeps_nobody_waiting() {
        let of = |errno: Errno| is_shortage(&io::Error::from(errno));
        assert!([Errno::EMFILE, Errno::ENFILE, Errno::ENOBUFS, Errno::ENOMEM].into_iter().all(of));
        assert!(![Errno::ECONNABORTED, Errno::EPROTO, Errno::ENETDOWN, Errno::EHOSTUNREACH].into_iter().any(of));
    }
}
