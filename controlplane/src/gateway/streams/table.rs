//! Who is seen at the relay, and the stream to each. What somebody says of itself there nobody has verified: it says only with whom IKE is
//! worth a try, and IKE finds out.

use std::collections::{BTreeMap, BTreeSet};

use adit_engine::identity::{Identity, Pattern};
use adit_proto::control::StreamId;
use adit_proto::relay::{PeerKey, RoomName};

use crate::limits::{RELAY_SEEN_MAX, STREAMS_OF_PEER_MAX};

/// What stands before the identity in what a gateway says of itself.
const MARK: &[u8] = b"adit 1\n";

/// What a gateway says of itself at the relay.
pub fn description(identity: &Identity) -> Vec<u8> {
    [MARK, identity.to_string().as_bytes()].concat()
}

/// Who somebody says it is, if it says so as gateways do.
fn identity_in(description: &[u8]) -> Option<Identity> {
    std::str::from_utf8(description.strip_prefix(MARK)?).ok()?.parse().ok()
}

/// The stream to whoever has this key at the relay: the same in every process, since a path of the data plane outlives one.
pub fn stream_to(key: PeerKey) -> StreamId {
    let [a, b, c, d, e, f, g, h, ..] = key.0;
    StreamId(u64::from_be_bytes([a, b, c, d, e, f, g, h]))
}

/// Somebody who is in a room.
struct Seen {
    key: PeerKey,
    identity: Option<Identity>,
    rooms: BTreeSet<RoomName>,
    /// When it came, in the order of all who came.
    number: u64,
}

/// Who is seen.
#[derive(Default)]
pub struct Table {
    seen: BTreeMap<StreamId, Seen>,
    came: u64,
}

impl Table {
    /// Somebody is in a room, or says something else of itself. Gives the identities for which that changes something.
    pub fn describe(&mut self, room: &RoomName, key: PeerKey, description: &[u8]) -> Vec<Identity> {
        let stream = stream_to(key);
        let identity = identity_in(description);
        let is_known = self.seen.contains_key(&stream);
        if !is_known && self.seen.len() >= RELAY_SEEN_MAX {
            return Vec::new();
        }
        self.came += 1;
        let number = self.came;
        let fresh = || Seen { key, identity: None, rooms: BTreeSet::new(), number };
        let seen = self.seen.entry(stream).or_insert_with(fresh);
        if seen.key != key {
            // Its key begins as that of another one does: by chance that never happens.
            return Vec::new();
        }
        seen.rooms.insert(room.clone());
        if seen.identity == identity {
            return Vec::new();
        }
        let before = std::mem::replace(&mut seen.identity, identity.clone());
        before.into_iter().chain(identity).collect()
    }

    /// Somebody is in a room no more. Gives the identities for which that changes something.
    pub fn leave(&mut self, room: &RoomName, key: PeerKey) -> Vec<Identity> {
        let stream = stream_to(key);
        let Some(seen) = self.seen.get_mut(&stream).filter(|seen| seen.key == key) else { return Vec::new() };
        seen.rooms.remove(room);
        if !seen.rooms.is_empty() {
            return Vec::new();
        }
        self.seen.remove(&stream).and_then(|seen| seen.identity).into_iter().collect()
    }

    /// Nobody is seen any more.
    pub fn clear(&mut self) {
        self.seen.clear();
    }

    /// At whose end a stream comes out.
    pub fn key_of(&self, stream: StreamId) -> Option<PeerKey> {
        self.seen.get(&stream).map(|seen| seen.key)
    }

    /// The stream in which something came, if its sender is seen.
    pub fn stream_of(&self, key: PeerKey) -> Option<StreamId> {
        let stream = stream_to(key);
        self.key_of(stream).filter(|known| *known == key).map(|_| stream)
    }

    /// The streams to those who say that they are a peer: the ones that came last, since a gateway that was set up anew has another key.
    pub fn streams_for(&self, pattern: &Pattern) -> Vec<StreamId> {
        let is_it = |seen: &Seen| seen.identity.as_ref().is_some_and(|identity| pattern.matches(identity));
        let mut found: Vec<(u64, StreamId)> =
            self.seen.iter().filter(|(_, seen)| is_it(seen)).map(|(stream, seen)| (seen.number, *stream)).collect();
        found.sort_by_key(|(number, _)| std::cmp::Reverse(*number));
        found.into_iter().map(|(_, stream)| stream).take(STREAMS_OF_PEER_MAX).collect()
    }

    /// How many are seen.
    pub fn len(&self) -> usize {
        self.seen.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(first: u8, last: u8) -> PeerKey {
        let mut key = [0; 32];
        (key[0], key[31]) = (first, last);
        PeerKey(key)
    }

    fn room(name: &str) -> RoomName {
        RoomName::new(name).unwrap()
    }

    fn saying(identity: &str) -> Vec<u8> {
        description(&identity.parse().unwrap())
    }

    fn pattern(text: &str) -> Pattern {
        text.parse().unwrap()
    }

    #[test]
    fn a_peer_is_reached_in_the_streams_of_those_who_say_that_they_are_it() {
        let (mut table, lab) = (Table::default(), room("lab"));
        assert_eq!(table.describe(&lab, key(1, 0), &saying("b.example.org")).len(), 1);
        assert!(table.describe(&lab, key(1, 0), &saying("B.example.org")).is_empty(), "the same name");
        assert!(table.describe(&lab, key(2, 0), b"somebody else").is_empty());
        table.describe(&lab, key(3, 0), &saying("c.example.org"));
        let streams = |table: &Table, name: &str| table.streams_for(&pattern(name));
        assert_eq!(streams(&table, "b.example.org"), [stream_to(key(1, 0))]);
        assert_eq!(streams(&table, "*.example.org").len(), 2);
        assert!(streams(&table, "d.example.org").is_empty());
        // It says that it is another one.
        assert_eq!(table.describe(&lab, key(3, 0), &saying("b.example.org")).len(), 2);
        assert_eq!(streams(&table, "b.example.org"), [key(3, 0), key(1, 0)].map(stream_to));
        assert_eq!(table.key_of(stream_to(key(3, 0))), Some(key(3, 0)));
        table.clear();
        assert_eq!((table.len(), table.stream_of(key(1, 0))), (0, None));
    }

    #[test]
    fn who_is_in_two_rooms_is_gone_when_it_has_left_both() {
        let (mut table, one, other) = (Table::default(), room("one"), room("other"));
        table.describe(&one, key(1, 0), &saying("b.example.org"));
        assert!(table.describe(&other, key(1, 0), &saying("b.example.org")).is_empty());
        assert!(table.leave(&one, key(1, 0)).is_empty() && table.leave(&one, key(1, 0)).is_empty());
        assert_eq!(table.leave(&other, key(1, 0)).len(), 1);
        assert!(table.leave(&other, key(1, 0)).is_empty() && table.len() == 0);
    }

    #[test]
    fn nobody_takes_the_stream_or_the_memory_of_others() {
        let (mut table, lab) = (Table::default(), room("lab"));
        table.describe(&lab, key(1, 0), &saying("b.example.org"));
        assert!(table.describe(&lab, key(1, 9), &saying("b.example.org")).is_empty(), "a key that begins alike");
        assert_eq!((table.stream_of(key(1, 9)), table.leave(&lab, key(1, 9)).len()), (None, 0));
        for number in 0..RELAY_SEEN_MAX + 10 {
            let mut one = [7; 32];
            one[..4].copy_from_slice(&(number as u32 | 1 << 31).to_be_bytes());
            table.describe(&lab, PeerKey(one), &saying("c.example.org"));
        }
        assert_eq!((table.len(), table.streams_for(&pattern("c.example.org")).len()), (RELAY_SEEN_MAX, STREAMS_OF_PEER_MAX));
        assert_eq!(table.streams_for(&pattern("b.example.org")), [stream_to(key(1, 0))]);
    }
}
