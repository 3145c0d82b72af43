//! Rooms: who is in them, what was counted of them, and who has left them when.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use adit_proto::relay::{PeerKey, RoomName};

use super::ConnId;
use crate::limits::DEPARTED_MAX;
use crate::quotas::Share;

/// What was counted of one room since somebody was in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RoomCounts {
    pub joined: u64,
    pub left: u64,
    /// Trains that were passed on, and their bytes.
    pub trains: u64,
    pub bytes: u64,
    pub introductions: u64,
    /// Trains that were refused: too many bytes of the room.
    pub refused: u64,
}

/// A room, as it is shown to operators.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoomView {
    pub name: RoomName,
    pub peers: usize,
    pub counts: RoomCounts,
}

#[derive(Debug, Default)]
pub(super) struct Room {
    pub peers: BTreeMap<PeerKey, ConnId>,
    pub bytes: Share,
    /// What is told of peers that say something else of themselves, and those of whom it is still to be told.
    pub news: Share,
    pub unpublished: VecDeque<PeerKey>,
    pub counts: RoomCounts,
}

/// How long it is known that somebody was there.
const KNOWN_FOR: Duration = Duration::from_secs(24 * 3600);

/// Who has left which room when: the latest of all rooms together.
#[derive(Debug, Default)]
pub(super) struct Departed {
    by_name: BTreeMap<(RoomName, PeerKey), u64>,
    by_age: BTreeMap<u64, (Instant, RoomName, PeerKey)>,
    next: u64,
}

impl Departed {
    pub fn add(&mut self, now: Instant, room: &RoomName, peer: PeerKey) {
        self.forget(room, peer);
        self.by_name.insert((room.clone(), peer), self.next);
        self.by_age.insert(self.next, (now, room.clone(), peer));
        self.next += 1;
        while self.by_age.len() > DEPARTED_MAX {
            self.forget_oldest();
        }
    }

    /// It is there again.
    pub fn forget(&mut self, room: &RoomName, peer: PeerKey) {
        if let Some(number) = self.by_name.remove(&(room.clone(), peer)) {
            self.by_age.remove(&number);
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((_, (_, room, peer))) = self.by_age.pop_first() {
            self.by_name.remove(&(room, peer));
        }
    }

    pub fn forget_old(&mut self, now: Instant) {
        let is_old = |at: &Instant| now.saturating_duration_since(*at) > KNOWN_FOR;
        while self.by_age.first_key_value().is_some_and(|(_, (at, _, _))| is_old(at)) {
            self.forget_oldest();
        }
    }

    /// When the peer was last seen in one of these rooms.
    pub fn last_seen(&self, rooms: &[RoomName], peer: PeerKey) -> Option<Instant> {
        let numbers = rooms.iter().filter_map(|room| self.by_name.get(&(room.clone(), peer)));
        let (at, _, _) = self.by_age.get(numbers.max()?)?;
        Some(*at)
    }

    pub fn len(&self) -> usize {
        self.by_age.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::start;

    fn key(n: u32) -> PeerKey {
        let mut key = [0; 32];
        key[..4].copy_from_slice(&n.to_be_bytes());
        PeerKey(key)
    }

    #[test]
    fn the_latest_of_the_asked_rooms_counts_and_no_other() {
        let [a, b, c] = ["a", "b", "c"].map(|name| RoomName::new(name).unwrap());
        let mut departed = Departed::default();
        let at = |s| start() + Duration::from_secs(s);
        departed.add(at(1), &b, key(1));
        departed.add(at(2), &a, key(1));
        departed.add(at(3), &c, key(1));
        assert_eq!(departed.last_seen(&[a.clone(), b.clone()], key(1)), Some(at(2)));
        assert_eq!(departed.last_seen(std::slice::from_ref(&a), key(2)), None);
        departed.forget(&a, key(1));
        assert_eq!(departed.last_seen(&[a, b.clone()], key(1)), Some(at(1)));
        departed.add(at(9), &b, key(1));
        assert_eq!((departed.last_seen(&[b], key(1)), departed.len()), (Some(at(9)), 2));
    }

    #[test]
    fn only_the_newest_are_remembered_and_none_for_ever() {
        let (room, mut departed) = (RoomName::new("a").unwrap(), Departed::default());
        (0..DEPARTED_MAX as u32 + 10).for_each(|n| departed.add(start(), &room, key(n)));
        assert_eq!((departed.by_age.len(), departed.by_name.len()), (DEPARTED_MAX, DEPARTED_MAX));
        let rooms = [room];
        assert_eq!(departed.last_seen(&rooms, key(9)), None);
        assert!(departed.last_seen(&rooms, key(10)).is_some());
        departed.forget_old(start() + KNOWN_FOR);
        assert_eq!(departed.len(), DEPARTED_MAX);
        departed.forget_old(start() + KNOWN_FOR + Duration::from_secs(1));
        assert_eq!((departed.by_age.len(), departed.by_name.len()), (0, 0));
    }
}
