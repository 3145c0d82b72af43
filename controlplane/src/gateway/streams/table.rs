//! Who is seen at the relay, and the stream to each. What somebody says of itself there nobody has verified: it says only with whom IKE is
//! worth a try, and IKE finds out.

use std::collections::{BTreeMap, BTreeSet};

use adit_engine::identity::{Identity, Pattern};
use adit_proto::control::StreamId;
use adit_proto::relay::{PeerKey, RoomName};
use aws_lc_rs::hmac;
use zeroize::Zeroizing;

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
    /// The same by their keys.
    streams: BTreeMap<PeerKey, StreamId>,
    /// Our rooms, and how many are seen in each: none takes the place of the others.
    rooms: BTreeMap<RoomName, usize>,
    /// By which streams have their numbers.
    secret: Zeroizing<[u8; 32]>,
    came: u64,
    unseen: u64,
}

impl Table {
    /// For these rooms, with a secret that is the same in every process of this gateway.
    pub fn new(rooms: &[RoomName], secret: Zeroizing<[u8; 32]>) -> Table {
        Table { rooms: rooms.iter().map(|room| (room.clone(), 0)).collect(), secret, ..Table::default() }
    }

    /// The stream to whoever has this key at the relay: the same in every process, since a path of the data plane outlives one. Nobody who
    /// does not know the secret can look for a key with the number of another one.
    fn stream_to(&self, key: PeerKey) -> StreamId {
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &self.secret[..]), &key.0);
        StreamId(tag.as_ref().first_chunk().map_or(0, |first| u64::from_be_bytes(*first)))
    }

    /// Somebody is in a room, or says something else of itself. Gives the identities for which that changes something.
    pub fn describe(&mut self, room: &RoomName, key: PeerKey, description: &[u8]) -> Vec<Identity> {
        let stream = self.streams.get(&key).copied().unwrap_or_else(|| self.stream_to(key));
        let known = self.seen.get(&stream);
        // By chance two keys never have one stream.
        let is_other = known.is_some_and(|seen| seen.key != key);
        let is_in = known.is_some_and(|seen| seen.rooms.contains(room));
        let share = RELAY_SEEN_MAX / self.rooms.len().max(1);
        let enters = !is_other && !is_in && self.rooms.get(room).is_some_and(|count| *count < share);
        if is_other || known.is_none() && !enters {
            self.unseen += 1;
            return Vec::new();
        }
        let identity = identity_in(description);
        self.came += 1;
        let number = self.came;
        let fresh = || Seen { key, identity: None, rooms: BTreeSet::new(), number };
        let seen = self.seen.entry(stream).or_insert_with(fresh);
        self.streams.insert(key, stream);
        if enters && seen.rooms.insert(room.clone()) {
            *self.rooms.entry(room.clone()).or_default() += 1;
        }
        if seen.identity == identity {
            return Vec::new();
        }
        let before = std::mem::replace(&mut seen.identity, identity.clone());
        before.into_iter().chain(identity).collect()
    }

    /// Somebody is in a room no more. Gives the identities for which that changes something.
    pub fn leave(&mut self, room: &RoomName, key: PeerKey) -> Vec<Identity> {
        let Some(stream) = self.stream_of(key) else { return Vec::new() };
        let Some(seen) = self.seen.get_mut(&stream) else { return Vec::new() };
        if seen.rooms.remove(room)
            && let Some(count) = self.rooms.get_mut(room)
        {
            *count -= 1;
        }
        if !seen.rooms.is_empty() {
            return Vec::new();
        }
        self.streams.remove(&key);
        self.seen.remove(&stream).and_then(|seen| seen.identity).into_iter().collect()
    }

    /// At whose end a stream comes out.
    pub fn key_of(&self, stream: StreamId) -> Option<PeerKey> {
        self.seen.get(&stream).map(|seen| seen.key)
    }

    /// The stream in which something came, if its sender is seen.
    pub fn stream_of(&self, key: PeerKey) -> Option<StreamId> {
        self.streams.get(&key).copied()
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

    /// How often somebody was not seen, since there was no room for more.
    pub fn unseen(&self) -> u64 {
        self.unseen
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

    fn table(rooms: &[&str]) -> Table {
        let rooms: Vec<RoomName> = rooms.iter().map(|name| room(name)).collect();
        Table::new(&rooms, Zeroizing::new([7; 32]))
    }

    fn stream_to(key: PeerKey) -> StreamId {
        table(&[]).stream_to(key)
    }

    fn saying(identity: &str) -> Vec<u8> {
        description(&identity.parse().unwrap())
    }

    fn pattern(text: &str) -> Pattern {
        text.parse().unwrap()
    }

    #[test]
    fn a_peer_is_reached_in_the_streams_of_those_who_say_that_they_are_it() {
        let (mut table, lab) = (table(&["lab"]), room("lab"));
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
        table.leave(&lab, key(1, 0));
        assert_eq!((table.len(), table.stream_of(key(1, 0))), (2, None));
    }

    #[test]
    fn who_is_in_two_rooms_is_gone_when_it_has_left_both() {
        let (mut table, one, other) = (table(&["one", "other"]), room("one"), room("other"));
        table.describe(&one, key(1, 0), &saying("b.example.org"));
        assert!(table.describe(&other, key(1, 0), &saying("b.example.org")).is_empty());
        assert!(table.leave(&one, key(1, 0)).is_empty() && table.leave(&one, key(1, 0)).is_empty());
        assert_eq!(table.leave(&other, key(1, 0)).len(), 1);
        assert!(table.leave(&other, key(1, 0)).is_empty() && table.len() == 0);
    }

    /// So many who are in a room, other ones for each room.
    fn crowd(table: &mut Table, name: &str, count: usize) {
        for number in 0..count {
            let mut one = [name.len() as u8; 32];
            one[..4].copy_from_slice(&(number as u32 | 1 << 31).to_be_bytes());
            table.describe(&room(name), PeerKey(one), &saying("c.example.org"));
        }
    }

    #[test]
    fn nobody_takes_the_memory_of_others() {
        let (mut table, lab) = (table(&["lab"]), room("lab"));
        table.describe(&lab, key(1, 0), &saying("b.example.org"));
        crowd(&mut table, "lab", RELAY_SEEN_MAX + 10);
        assert_eq!((table.len(), table.streams_for(&pattern("c.example.org")).len()), (RELAY_SEEN_MAX, STREAMS_OF_PEER_MAX));
        assert_eq!(table.streams_for(&pattern("b.example.org")), [stream_to(key(1, 0))]);
        assert_eq!(table.unseen(), 11);
        // Who is seen may still say something else of itself.
        assert_eq!(table.describe(&lab, key(1, 0), &saying("d.example.org")).len(), 2);
        assert!(table.describe(&room("other"), key(9, 0), &saying("b.example.org")).is_empty(), "no room of ours");
    }

    #[test]
    fn a_room_that_is_full_leaves_the_others_their_share() {
        let mut table = table(&["foes", "lab", "third", "fourth"]);
        let share = RELAY_SEEN_MAX / 4;
        crowd(&mut table, "foes", RELAY_SEEN_MAX);
        assert_eq!((table.len(), table.unseen()), (share, (RELAY_SEEN_MAX - share) as u64));
        crowd(&mut table, "lab", share);
        assert_eq!(table.len(), 2 * share);
        // Whoever is seen in another room is seen, and counts nothing where there is no room.
        table.describe(&room("third"), key(1, 0), &saying("b.example.org"));
        table.describe(&room("foes"), key(1, 0), &saying("d.example.org"));
        assert_eq!(table.streams_for(&pattern("d.example.org")), [stream_to(key(1, 0))]);
        assert_eq!(table.leave(&room("third"), key(1, 0)).len(), 1);
        // Where somebody has left there is room for another one.
        let mut first = [4; 32];
        first[..4].copy_from_slice(&(1u32 << 31).to_be_bytes());
        assert_eq!(table.leave(&room("foes"), PeerKey(first)).len(), 1);
        assert_eq!(table.describe(&room("foes"), key(1, 0), &saying("b.example.org")).len(), 1);
    }

    #[test]
    fn a_stream_has_a_number_that_only_this_gateway_can_foretell() {
        let other = Table::new(&[], Zeroizing::new([8; 32]));
        assert_eq!(table(&["lab"]).stream_to(key(1, 0)), table(&["other"]).stream_to(key(1, 0)), "in every process");
        assert_ne!(stream_to(key(1, 0)), other.stream_to(key(1, 0)));
        assert_ne!(stream_to(key(1, 0)), stream_to(key(1, 9)), "keys that begin alike");
    }
}
