//! Who is in the rooms of a client, as its relays tell it, and over which relay somebody is reached. What a relay tells is held against it
//! alone: one that lies or floods takes nothing away from what another said. Pure.

use std::collections::{BTreeMap, BTreeSet};

use adit_proto::relay::{PeerKey, RoomName};

use crate::limits::SIGHTINGS_OF_RELAY_MAX;

/// A relay, by its place in the configuration.
type Relays = BTreeSet<usize>;

/// What it is that a relay sees somebody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// No relay had said so.
    First,
    Again,
    /// This relay has told of more than are remembered.
    TooMany,
}

/// Who is in which room, and the relays that say so.
#[derive(Debug, Default)]
pub(crate) struct Presence {
    peers: BTreeMap<PeerKey, BTreeMap<RoomName, Relays>>,
    /// How many sightings there are of each relay.
    counts: BTreeMap<usize, usize>,
}

impl Presence {
    /// A relay sees somebody in a room.
    pub(crate) fn handle_joined(&mut self, relay: usize, room: RoomName, peer: PeerKey) -> Seen {
        if self.peers.get(&peer).and_then(|rooms| rooms.get(&room)).is_some_and(|relays| relays.contains(&relay)) {
            return Seen::Again;
        }
        let count = self.counts.entry(relay).or_default();
        if *count == SIGHTINGS_OF_RELAY_MAX {
            return Seen::TooMany;
        }
        *count += 1;
        let relays = self.peers.entry(peer).or_default().entry(room).or_default();
        relays.insert(relay);
        if relays.len() == 1 { Seen::First } else { Seen::Again }
    }

    /// A relay does not see somebody any more. True where none does.
    pub(crate) fn handle_left(&mut self, relay: usize, room: &RoomName, peer: PeerKey) -> bool {
        let Some(rooms) = self.peers.get_mut(&peer) else { return false };
        let Some(relays) = rooms.get_mut(room) else { return false };
        if !relays.remove(&relay) {
            return false;
        }
        if let Some(count) = self.counts.get_mut(&relay) {
            *count -= 1;
        }
        let is_gone = relays.is_empty();
        if is_gone {
            rooms.remove(room);
        }
        if rooms.is_empty() {
            self.peers.remove(&peer);
        }
        is_gone
    }

    /// A relay is lost, with all that it sees. Who is seen by none any more.
    pub(crate) fn handle_lost(&mut self, relay: usize) -> Vec<(PeerKey, RoomName)> {
        let of = |(peer, rooms): (&PeerKey, &BTreeMap<RoomName, Relays>)| {
            let seen = rooms.iter().filter(|(_, relays)| relays.contains(&relay));
            seen.map(|(room, _)| (*peer, room.clone())).collect::<Vec<_>>()
        };
        let seen: Vec<(PeerKey, RoomName)> = self.peers.iter().flat_map(of).collect();
        seen.into_iter().filter(|(peer, room)| self.handle_left(relay, room, *peer)).collect()
    }

    pub(crate) fn is_seen_in(&self, peer: PeerKey, room: &RoomName) -> bool {
        self.peers.get(&peer).is_some_and(|rooms| rooms.contains_key(room))
    }

    /// The relays that see somebody.
    pub(crate) fn relays_of(&self, peer: PeerKey) -> Relays {
        self.peers.get(&peer).into_iter().flat_map(|rooms| rooms.values().flatten().copied()).collect()
    }

    /// How many sightings of a relay are remembered.
    pub(crate) fn sightings_of(&self, relay: usize) -> usize {
        self.counts.get(&relay).copied().unwrap_or_default()
    }
}

/// The relay over which somebody is reached: one that sees them, and of those one that answers, the home relay first, then the nearest.
/// Whom none sees the home relay is asked for: it can say when they were last there. `order` has the registered ones, the best first, with
/// whether they are late to answer.
pub(crate) fn reached_by(seen_by: &Relays, order: &[(usize, bool)]) -> Option<usize> {
    let seeing = || order.iter().filter(|(relay, _)| seen_by.contains(relay));
    let answering = |(_, is_late): &&(usize, bool)| !is_late;
    let reached = seeing().find(answering).or_else(|| seeing().next()).or_else(|| order.iter().find(answering)).or(order.first());
    reached.map(|(relay, _)| *relay)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(name: &str) -> RoomName {
        RoomName::new(name).unwrap()
    }

    const A: PeerKey = PeerKey([1; 32]);
    const B: PeerKey = PeerKey([2; 32]);

    #[test]
    fn somebody_is_there_as_long_as_one_relay_sees_them() {
        let mut presence = Presence::default();
        let sights = [(0, "lab", A), (0, "lab", A), (1, "lab", A), (1, "lab", B), (1, "house", A)];
        let seen = sights.map(|(relay, name, peer)| presence.handle_joined(relay, room(name), peer));
        assert_eq!(seen, [Seen::First, Seen::Again, Seen::Again, Seen::First, Seen::First]);
        assert_eq!(presence.relays_of(A), Relays::from([0, 1]));
        assert!(!presence.handle_left(0, &room("lab"), A) && !presence.handle_left(0, &room("lab"), A));
        assert_eq!((presence.relays_of(A), presence.relays_of(B)), (Relays::from([1]), Relays::from([1])));
        assert!(presence.handle_left(1, &room("lab"), A));
        assert_eq!(presence.handle_lost(1), [(A, room("house")), (B, room("lab"))]);
        assert!(presence.peers.is_empty() && presence.counts.values().all(|count| *count == 0));
    }

    #[test]
    fn the_loss_of_one_relay_takes_nothing_from_the_other() {
        let mut presence = Presence::default();
        for relay in [0, 1] {
            presence.handle_joined(relay, room("lab"), A);
        }
        presence.handle_joined(0, room("lab"), B);
        assert_eq!(presence.handle_lost(0), [(B, room("lab"))]);
        assert_eq!(presence.relays_of(A), Relays::from([1]));
        assert_eq!(presence.handle_lost(0), []);
    }

    #[test]
    fn a_relay_that_floods_fills_its_own_share_only() {
        let mut presence = Presence::default();
        let key = |number: usize| {
            let mut key = [0; 32];
            key[..8].copy_from_slice(&number.to_be_bytes());
            PeerKey(key)
        };
        for number in 0..SIGHTINGS_OF_RELAY_MAX + 100 {
            let expected = if number < SIGHTINGS_OF_RELAY_MAX { Seen::First } else { Seen::TooMany };
            assert_eq!(presence.handle_joined(0, room("lab"), key(number)), expected);
        }
        assert_eq!(presence.peers.len(), SIGHTINGS_OF_RELAY_MAX);
        assert_eq!(presence.handle_joined(1, room("lab"), A), Seen::First);
        assert!(presence.handle_left(0, &room("lab"), key(0)));
        assert_eq!(presence.handle_joined(0, room("lab"), B), Seen::First);
    }

    #[test]
    fn a_peer_is_reached_by_a_relay_that_sees_it_and_answers() {
        let seen = |relays: &[usize]| relays.iter().copied().collect::<Relays>();
        let order = [(2, false), (0, false)];
        assert_eq!(reached_by(&seen(&[0, 2]), &order), Some(2), "the best");
        assert_eq!(reached_by(&seen(&[0]), &order), Some(0), "the one that sees it");
        assert_eq!(reached_by(&seen(&[0, 2]), &[(2, true), (0, false)]), Some(0), "the one that answers");
        assert_eq!(reached_by(&seen(&[2]), &[(2, true), (0, false)]), Some(2), "late, but no other sees it");
        assert_eq!(reached_by(&seen(&[1]), &order), Some(2), "the home relay knows when it was there");
        assert_eq!(reached_by(&seen(&[]), &[(2, true), (0, false)]), Some(0));
        assert_eq!(reached_by(&seen(&[0]), &[]), None);
    }
}
