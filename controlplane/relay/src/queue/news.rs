//! What a client is to be told of others, of each thing only the last state: a peer that comes and goes a hundred times before the
//! client reads costs as much as one that came.
//!
//! Of who is there no text waits but a mark, and what the client has been told of this peer so far. The text is made when the mark
//! is read, of what is true then.

use std::collections::BTreeMap;
use std::time::Instant;

use adit_proto::relay::{LeftReason, PeerKey};

use super::RECORD_COST;

/// What a mark is about. A room is named by its place among the rooms of the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum About {
    Presence(u8, PeerKey),
    Direct(PeerKey),
    Introduction(PeerKey),
}

#[derive(Debug)]
enum State {
    Presence {
        /// The client has been told that the peer is there.
        told: bool,
        /// It has left since, for this reason.
        left: Option<LeftReason>,
        is_there: bool,
    },
    Direct(bool),
    Introduction(Vec<u8>),
}

/// One thing that the client is to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Item {
    Joined(u8, PeerKey),
    Left(u8, PeerKey, LeftReason),
    Described(u8, PeerKey),
    Direct(PeerKey, bool),
    /// The record of it.
    Introduction(Vec<u8>),
}

/// All that waits to be told, in the order in which it became news.
#[derive(Debug, Default)]
pub(super) struct News {
    order: BTreeMap<u64, (Instant, About)>,
    states: BTreeMap<About, (u64, State)>,
    next: u64,
    bytes: usize,
}

fn cost(state: &State) -> usize {
    match state {
        State::Presence { .. } | State::Direct(_) => RECORD_COST,
        State::Introduction(record) => RECORD_COST + record.len(),
    }
}

impl News {
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Since when the oldest waits.
    pub fn oldest(&self) -> Option<Instant> {
        self.order.first_key_value().map(|(_, (since, _))| *since)
    }

    fn put(&mut self, now: Instant, about: About, state: State) {
        self.bytes += cost(&state);
        if let Some((_, known)) = self.states.get_mut(&about) {
            self.bytes -= cost(known);
            *known = state;
            return;
        }
        self.order.insert(self.next, (now, about));
        self.states.insert(about, (self.next, state));
        self.next += 1;
    }

    fn forget(&mut self, about: About) {
        if let Some((number, state)) = self.states.remove(&about) {
            self.order.remove(&number);
            self.bytes -= cost(&state);
        }
    }

    /// The peer has come into a room.
    pub fn joined(&mut self, now: Instant, room: u8, peer: PeerKey) {
        let about = About::Presence(room, peer);
        match self.states.get_mut(&about) {
            Some((_, State::Presence { is_there, .. })) => *is_there = true,
            _ => self.put(now, about, State::Presence { told: false, left: None, is_there: true }),
        }
    }

    /// The peer has left a room. What else it did before is no news any more.
    pub fn left(&mut self, now: Instant, room: u8, peer: PeerKey, reason: LeftReason) {
        let about = About::Presence(room, peer);
        match self.states.get(&about) {
            Some((_, State::Presence { told: false, .. })) => self.forget(about),
            _ => self.put(now, about, State::Presence { told: true, left: Some(reason), is_there: false }),
        }
        self.forget(About::Direct(peer));
        self.forget(About::Introduction(peer));
    }

    /// Whether a change of what the peer says of itself is told with something that waits already.
    pub fn is_marked(&self, room: u8, peer: PeerKey) -> bool {
        self.states.contains_key(&About::Presence(room, peer))
    }

    /// What the peer says of itself has changed.
    pub fn described(&mut self, now: Instant, room: u8, peer: PeerKey) {
        if !self.is_marked(room, peer) {
            self.put(now, About::Presence(room, peer), State::Presence { told: true, left: None, is_there: true });
        }
    }

    pub fn direct(&mut self, now: Instant, peer: PeerKey, on: bool) {
        self.put(now, About::Direct(peer), State::Direct(on));
    }

    pub fn introduction(&mut self, now: Instant, peer: PeerKey, record: Vec<u8>) {
        self.put(now, About::Introduction(peer), State::Introduction(record));
    }

    pub fn pop(&mut self) -> Option<Item> {
        let about = self.order.first_key_value()?.1.1;
        if let About::Presence(room, peer) = about
            && let Some((_, State::Presence { told, left, is_there: true })) = self.states.get_mut(&about)
            && let Some(reason) = left.take()
        {
            // That it is there again comes right behind.
            *told = false;
            return Some(Item::Left(room, peer, reason));
        }
        let (number, state) = self.states.remove(&about)?;
        self.order.remove(&number);
        self.bytes -= cost(&state);
        Some(match (about, state) {
            (About::Presence(room, peer), State::Presence { left: Some(reason), .. }) => Item::Left(room, peer, reason),
            (About::Presence(room, peer), State::Presence { told: false, .. }) => Item::Joined(room, peer),
            (About::Presence(room, peer), _) => Item::Described(room, peer),
            (_, State::Introduction(record)) => Item::Introduction(record),
            (About::Direct(peer) | About::Introduction(peer), state) => Item::Direct(peer, matches!(state, State::Direct(true))),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::start;

    const PEER: PeerKey = PeerKey([1; 32]);

    fn all(news: &mut News) -> Vec<Item> {
        let items = std::iter::from_fn(|| news.pop()).collect();
        assert_eq!((news.bytes(), news.oldest(), news.states.len()), (0, None, 0));
        items
    }

    #[test]
    fn who_came_and_went_unseen_was_never_there() {
        let mut news = News::default();
        for _ in 0..1000 {
            news.joined(start(), 0, PEER);
            news.described(start(), 0, PEER);
            news.direct(start(), PEER, true);
            news.introduction(start(), PEER, vec![1; 80]);
            news.left(start(), 0, PEER, LeftReason::GONE);
        }
        assert_eq!(all(&mut news), []);
        news.joined(start(), 0, PEER);
        news.described(start(), 0, PEER);
        assert_eq!(all(&mut news), [Item::Joined(0, PEER)]);
    }

    #[test]
    fn who_was_seen_and_came_again_left_first() {
        let mut news = News::default();
        news.described(start(), 0, PEER);
        assert_eq!(all(&mut news), [Item::Described(0, PEER)]);
        for reason in [LeftReason::IDLE, LeftReason::REPLACED] {
            news.left(start(), 0, PEER, reason);
            news.joined(start(), 0, PEER);
            news.described(start(), 0, PEER);
        }
        assert_eq!(all(&mut news), [Item::Left(0, PEER, LeftReason::REPLACED), Item::Joined(0, PEER)]);
    }

    #[test]
    fn between_that_it_left_and_that_it_is_there_it_may_leave_again() {
        let mut news = News::default();
        news.left(start(), 0, PEER, LeftReason::REPLACED);
        news.joined(start(), 0, PEER);
        assert_eq!(news.pop(), Some(Item::Left(0, PEER, LeftReason::REPLACED)));
        news.left(start(), 0, PEER, LeftReason::GONE);
        assert_eq!(all(&mut news), []);
    }

    #[test]
    fn of_what_changes_again_and_again_the_last_is_told() {
        let (mut news, other) = (News::default(), PeerKey([2; 32]));
        for n in 0..1000 {
            news.direct(start(), PEER, n % 2 == 0);
            news.introduction(start(), PEER, vec![n as u8; 80]);
            news.direct(start(), other, true);
        }
        assert!(news.bytes() <= 3 * RECORD_COST + 80, "{}", news.bytes());
        let items = [Item::Direct(PEER, false), Item::Introduction(vec![231; 80]), Item::Direct(other, true)];
        assert_eq!(all(&mut news), items);
    }
}
