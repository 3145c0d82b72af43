//! What waits for one client: answers to itself, news of others, messages of IKE, and data.
//!
//! Answers go first: nobody else can make more of them. The other three share the line by bytes, data having half of it where all
//! of them wait, so that no peer can keep the client's data from it by what it says or by IKE; where little waits it goes in this
//! order. Answers are never thrown away: who does not read his is given up. Of news only the last state waits ([`news`]). A message
//! of IKE and a packet are worth something for a while only: what has waited longer is dropped, and where there is no room, so is
//! the oldest of who has most ([`fair`]). So a slow reader costs a bounded memory, sees packets that are young, and is a matter of
//! nobody else's.

mod fair;
mod news;

use std::collections::VecDeque;
use std::ops::AddAssign;
use std::time::{Duration, Instant};

use adit_proto::limits::RELAY_RECORD_LEN_MAX;
use adit_proto::relay::{Kind, LeftReason, PeerKey};

use crate::limits::{CONTROL_BYTES_MAX, DATA_BYTES_MAX, IKE_BYTES_MAX};

use fair::Fair;
pub use fair::Source;
pub(crate) use news::Item;
use news::News;

/// What it takes to keep a record besides its own bytes: its place in the queue, and what the allocator adds.
pub(crate) const RECORD_COST: usize = 128;
/// Places that an empty queue keeps.
const PLACES_KEPT: usize = 64;
/// What one byte of news, of IKE and of data costs, where they wait for each other.
const PRICES: [u64; 3] = [2, 2, 1];

/// How much may wait, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Answers. News have a bound by themselves: one of a kind for each peer in each room.
    pub control_bytes: usize,
    pub ike_bytes: usize,
    /// A message of IKE is sent again after a time (RFC 7296 §2.4); by then the first one need not come any more.
    pub ike_sojourn: Duration,
    pub data_bytes: usize,
    pub data_sojourn: Duration,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds {
            control_bytes: CONTROL_BYTES_MAX,
            ike_bytes: IKE_BYTES_MAX,
            ike_sojourn: Duration::from_secs(2),
            data_bytes: DATA_BYTES_MAX,
            data_sojourn: Duration::from_millis(100),
        }
    }
}

/// Trains that were dropped: too old, or the oldest where there was no room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    pub ike_late: u64,
    pub ike_full: u64,
    pub data_late: u64,
    pub data_full: u64,
}

impl AddAssign for Dropped {
    fn add_assign(&mut self, more: Dropped) {
        self.ike_late += more.ike_late;
        self.ike_full += more.ike_full;
        self.data_late += more.data_late;
        self.data_full += more.data_full;
    }
}

/// The client has not read the answers to itself for so long that there is no room for more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Overflow;

/// What is to be sent next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Popped {
    Answer(Vec<u8>),
    /// Of this the record is still to be made.
    News(Item),
    Train(Vec<u8>),
}

/// What shares the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    News,
    Ike,
    Data,
}

/// Answers in the order in which they came.
#[derive(Debug, Default)]
struct Line {
    records: VecDeque<(Instant, Vec<u8>)>,
    bytes: usize,
}

/// The bytes that a record takes.
pub(crate) fn cost(record: &[u8]) -> usize {
    record.len() + RECORD_COST
}

impl Line {
    fn push(&mut self, now: Instant, record: Vec<u8>) {
        self.bytes += cost(&record);
        self.records.push_back((now, record));
    }

    fn pop(&mut self) -> Option<Vec<u8>> {
        let (_, record) = self.records.pop_front()?;
        self.bytes -= cost(&record);
        if self.records.is_empty() && self.records.capacity() > PLACES_KEPT {
            self.records = VecDeque::new();
        }
        Some(record)
    }

    fn oldest(&self) -> Option<Instant> {
        self.records.front().map(|(since, _)| *since)
    }
}

/// What waits for one client.
#[derive(Debug)]
pub(crate) struct Queue {
    bounds: Bounds,
    answers: Line,
    news: News,
    ike: Fair,
    data: Fair,
    /// When the turn of each class comes, and the turn of what went last.
    turns: [u64; 3],
    clock: u64,
    /// When something was last taken out.
    taken: Option<Instant>,
}

impl Queue {
    /// The longest train has room in any case.
    pub(crate) fn new(bounds: Bounds) -> Queue {
        let least = RELAY_RECORD_LEN_MAX + RECORD_COST;
        let (ike_bytes, data_bytes) = (bounds.ike_bytes.max(least), bounds.data_bytes.max(least));
        let bounds = Bounds { ike_bytes, data_bytes, ..bounds };
        let (answers, news, ike, data) = (Line::default(), News::default(), Fair::default(), Fair::default());
        Queue { bounds, answers, news, ike, data, turns: [0; 3], clock: 0, taken: None }
    }

    /// What the relay answers, or says to this client alone.
    pub(crate) fn push_answer(&mut self, now: Instant, record: Vec<u8>) -> Result<(), Overflow> {
        if self.answers.bytes + cost(&record) > self.bounds.control_bytes {
            return Err(Overflow);
        }
        self.answers.push(now, record);
        Ok(())
    }

    /// The peer has come into the room of this number.
    pub(crate) fn joined(&mut self, now: Instant, room: u8, peer: PeerKey) {
        self.with_news(|news| news.joined(now, room, peer));
    }

    pub(crate) fn left(&mut self, now: Instant, room: u8, peer: PeerKey, reason: LeftReason) {
        self.with_news(|news| news.left(now, room, peer, reason));
    }

    pub(crate) fn described(&mut self, now: Instant, room: u8, peer: PeerKey) {
        self.with_news(|news| news.described(now, room, peer));
    }

    /// Whether it would cost something to tell that what this peer says of itself has changed.
    pub(crate) fn is_marked(&self, room: u8, peer: PeerKey) -> bool {
        self.news.is_marked(room, peer)
    }

    /// The peer's data goes by another path, or has come back.
    pub(crate) fn direct(&mut self, now: Instant, peer: PeerKey, on: bool) {
        self.with_news(|news| news.direct(now, peer, on));
    }

    pub(crate) fn introduction(&mut self, now: Instant, peer: PeerKey, record: Vec<u8>) {
        self.with_news(|news| news.introduction(now, peer, record));
    }

    fn with_news(&mut self, what: impl FnOnce(&mut News)) {
        let was_empty = self.news.bytes() == 0;
        what(&mut self.news);
        if was_empty {
            self.awake(Class::News);
        }
    }

    /// What another client has sent. The newest is always taken.
    pub(crate) fn push_train(&mut self, now: Instant, kind: Kind, source: Source, record: Vec<u8>) -> Dropped {
        let mut dropped = self.expire(now);
        let (class, fair, most, count) = match kind {
            Kind::Ike => (Class::Ike, &mut self.ike, self.bounds.ike_bytes, &mut dropped.ike_full),
            Kind::Esp => (Class::Data, &mut self.data, self.bounds.data_bytes, &mut dropped.data_full),
        };
        let was_empty = fair.bytes() == 0;
        *count += fair.shrink(most - cost(&record).min(most));
        fair.push(now, source, record);
        if was_empty {
            self.awake(class);
        }
        dropped
    }

    /// Nothing of this class waited, and now something does: what it did not use is not saved up.
    fn awake(&mut self, class: Class) {
        let turn = &mut self.turns[class as usize];
        *turn = (*turn).max(self.clock);
    }

    /// What is to be sent next. Who makes a record of news says with [`Queue::told`] how long it was.
    pub(crate) fn pop(&mut self, now: Instant) -> (Option<Popped>, Dropped) {
        let dropped = self.expire(now);
        let popped = self.answers.pop().map(Popped::Answer).or_else(|| self.pop_class());
        if popped.is_some() {
            self.taken = Some(now);
        }
        (popped, dropped)
    }

    fn pop_class(&mut self) -> Option<Popped> {
        let waits = [self.news.bytes() > 0, self.ike.bytes() > 0, self.data.bytes() > 0];
        let classes = [Class::News, Class::Ike, Class::Data].into_iter().filter(|class| waits[*class as usize]);
        let class = classes.min_by_key(|class| self.turns[*class as usize])?;
        self.clock = self.turns[class as usize];
        let train = match class {
            Class::News => return self.news.pop().map(Popped::News),
            Class::Ike => self.ike.pop(),
            Class::Data => self.data.pop(),
        }?;
        self.charge(class, train.len());
        Some(Popped::Train(train))
    }

    fn charge(&mut self, class: Class, bytes: usize) {
        self.turns[class as usize] += bytes as u64 * PRICES[class as usize];
    }

    /// A record of news of so many bytes was sent.
    pub(crate) fn told(&mut self, bytes: usize) {
        self.charge(Class::News, bytes);
    }

    /// Drops the trains that have waited longer than they may.
    pub(crate) fn expire(&mut self, now: Instant) -> Dropped {
        Dropped {
            ike_late: self.ike.expire(now, self.bounds.ike_sojourn),
            data_late: self.data.expire(now, self.bounds.data_sojourn),
            ..Dropped::default()
        }
    }

    /// Drops half of the trains, those of who has most; how many those were.
    pub(crate) fn halve(&mut self) -> u64 {
        self.ike.shrink(self.ike.bytes() / 2) + self.data.shrink(self.data.bytes() / 2)
    }

    /// Forgets everything, since nobody will read it; how many trains those were.
    pub(crate) fn clear(&mut self) -> u64 {
        let trains = self.ike.len() + self.data.len();
        *self = Queue::new(self.bounds);
        trains as u64
    }

    /// Since when what the relay says waits and nothing is read.
    pub(crate) fn stuck_since(&self) -> Option<Instant> {
        let oldest = self.answers.oldest().into_iter().chain(self.news.oldest()).min()?;
        Some(self.taken.map_or(oldest, |taken| taken.max(oldest)))
    }

    #[cfg(test)]
    pub(crate) fn answer_bytes(&self) -> usize {
        self.answers.bytes
    }

    /// Of what the relay says, in bytes.
    pub(crate) fn control_bytes(&self) -> usize {
        self.answers.bytes + self.news.bytes()
    }

    pub(crate) fn train_bytes(&self) -> usize {
        self.ike.bytes() + self.data.bytes()
    }
}

#[cfg(test)]
mod tests;
