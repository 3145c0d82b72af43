//! What the hall does with time, and what it does when there is too much: who is silent or does not read is given up, what has
//! waited too long is dropped, clients are sent away before the relay stops. And what it shows of itself.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use adit_engine::random::Random;
use adit_proto::relay::{FromRelay, LeftReason, RoomName};

use super::{ConnId, Counters, Event, Farewell, Hall, PeerView, RoomView};
use crate::limits::GIVEN_UP_AT_ONCE;
use crate::queue::Queue;
use crate::quotas::Network;

/// How often everybody is looked at.
pub(super) const SWEEP: Duration = Duration::from_secs(1);
/// How soon it goes on where more have to go than are given up at once.
const SOON: Duration = Duration::from_millis(10);
/// Who reads nothing for so long, though the relay has said something, is given up.
const CONTROL_WAITS: Duration = Duration::from_secs(30);
/// For so long the last words to one who has left may take.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// How often all queues are looked through where there is no room for more.
const EXPIRED_EVERY: Duration = Duration::from_millis(20);

/// How much there is of what comes and goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gauges {
    pub clients: usize,
    pub rooms: usize,
    /// What waits for all clients, in bytes: of what the relay says, and of trains.
    pub control_bytes: usize,
    pub train_bytes: usize,
}

impl Hall {
    /// Looks at everybody, if it is time to.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.next_sweep.is_none_or(|due| now < due) {
            return;
        }
        let conns: Vec<ConnId> = self.clients.keys().copied().collect();
        let mut pause = SWEEP;
        for conn in conns {
            let Some(client) = self.clients.get_mut(&conn) else { continue };
            let since = |then: Instant| now.saturating_duration_since(then);
            let is_stuck = || client.queue.stuck_since().is_some_and(|then| since(then) >= CONTROL_WAITS);
            let reason = match &mut client.closing {
                Some(closing) => {
                    if !closing.aborted && since(closing.since) >= LAST_WORDS {
                        closing.aborted = true;
                        self.events.push_back(Event::Abort(conn));
                    }
                    continue;
                }
                None if since(client.heard) >= self.settings.idle => LeftReason::IDLE,
                None if is_stuck() => LeftReason::SLOW,
                None => {
                    self.expire(now, conn);
                    continue;
                }
            };
            // All others have to be told of each: not of thousands in one go, in which everybody waits.
            if self.unreported.len() >= GIVEN_UP_AT_ONCE {
                pause = SOON;
                break;
            }
            self.give_up(now, conn, reason);
        }
        self.tell_who_left(now);
        self.publish_rest(now);
        self.tell_who_left(now);
        self.departed.forget_old(now);
        self.next_sweep = Some(now + pause).filter(|_| !self.clients.is_empty() || self.departed.len() > 0);
    }

    /// Takes somebody out of the hall, without waiting for what is being written to it.
    pub(super) fn give_up(&mut self, now: Instant, conn: ConnId, reason: LeftReason) {
        self.retire(now, conn, reason);
        let closing = self.clients.get_mut(&conn).and_then(|client| client.closing.as_mut());
        if let Some(closing) = closing.filter(|closing| !closing.aborted) {
            closing.aborted = true;
            self.events.push_back(Event::Abort(conn));
        }
    }

    /// Gives up who have most unread of what the relay says, where it is too much over all: some more than it takes, so that it
    /// is not looked for them again with the next record.
    pub(super) fn shed(&mut self, now: Instant) {
        let most = self.settings.control_bytes_of_all;
        if self.control_bytes <= most {
            return;
        }
        let unread = |(conn, client): (&ConnId, &super::Client)| (client.queue.control_bytes(), *conn, client.closing.is_some());
        let mut all: Vec<_> = self.clients.iter().map(unread).filter(|(bytes, ..)| *bytes > 0).collect();
        all.sort_unstable();
        while self.control_bytes > most - most / 16
            && let Some((_, conn, is_leaving)) = all.pop()
        {
            if is_leaving {
                self.with_queue(conn, Queue::clear);
            } else {
                self.give_up(now, conn, LeftReason::SLOW);
            }
        }
    }

    fn expire(&mut self, now: Instant, conn: ConnId) {
        let dropped = self.with_queue(conn, |queue| queue.expire(now)).unwrap_or_default();
        self.counters.count_dropped(dropped);
        if let Some(client) = self.clients.get_mut(&conn) {
            client.counts.dropped += dropped;
        }
    }

    /// Makes room for a train, if need be: what is too old goes first, and then what waits for the clients of the network for which
    /// most does. So whoever fills the memory with trains that nobody reads loses his own.
    pub(super) fn make_room(&mut self, now: Instant, bytes: usize) {
        let most = self.settings.train_bytes_of_all;
        let is_due = self.expired.is_none_or(|then| now.saturating_duration_since(then) >= EXPIRED_EVERY);
        if self.train_bytes + bytes <= most {
            return;
        }
        if is_due {
            self.expired = Some(now);
            let conns: Vec<ConnId> = self.clients.keys().copied().collect();
            conns.into_iter().for_each(|conn| self.expire(now, conn));
        }
        // Some more than it takes, so that it is not looked for them again with the next train.
        let target = most.saturating_sub(bytes.max(most / 64));
        while self.train_bytes + bytes > most {
            let Some((network, _)) = self.waiting.iter().max_by_key(|(_, bytes)| **bytes) else { return };
            let network = *network;
            let of_network = |client: &super::Client| Network::of(client.observed.ip()) == network;
            let bytes_of = |(conn, client): (&ConnId, &super::Client)| {
                Some((client.queue.train_bytes(), *conn)).filter(|(bytes, _)| *bytes > 0 && of_network(client))
            };
            let mut all: Vec<_> = self.clients.iter().filter_map(bytes_of).collect();
            all.sort_unstable();
            while self.train_bytes > target
                && let Some((_, conn)) = all.pop()
            {
                self.counters.dropped_memory += self.with_queue(conn, Queue::halve).unwrap_or_default();
            }
        }
    }

    /// Sends the clients away, each to come back at a time of its own; nobody is let in any more.
    pub fn drain(&mut self, now: Instant, farewell: &Farewell, random: &mut dyn Random) {
        self.draining = true;
        let conns: Vec<ConnId> = self.holders.values().copied().collect();
        let millis = |time: Duration| u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
        // One part of the time for each, and a moment in it by chance: no two parts have more than their one.
        let part = farewell.spread / u32::try_from(conns.len()).unwrap_or(u32::MAX).max(1);
        for (number, conn) in conns.into_iter().enumerate() {
            let chance = f64::from(random.u32()) / f64::from(u32::MAX);
            let back = farewell.after + part * number as u32 + part.mul_f64(chance);
            let record =
                FromRelay::Drain { come_back_in_ms: millis(back), try_for_ms: millis(farewell.try_for), to: farewell.to.clone() };
            let Ok(record) = record.encode() else { continue };
            if farewell.closes {
                self.retire(now, conn, LeftReason::DRAINED);
                // Its queue is empty: there is room.
                let _ = self.with_queue(conn, |queue| queue.push_answer(now, record));
                self.wake(conn);
            } else {
                self.say(now, conn, record);
            }
        }
        self.tell_who_left(now);
    }

    /// How many clients there are of the network that has most of them.
    pub fn clients_of_network(&self) -> usize {
        let mut counts: BTreeMap<Network, usize> = BTreeMap::new();
        for client in self.holders.values().filter_map(|conn| self.clients.get(conn)) {
            *counts.entry(Network::of(client.observed.ip())).or_default() += 1;
        }
        counts.into_values().max().unwrap_or_default()
    }

    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    pub fn gauges(&self) -> Gauges {
        let (control_bytes, train_bytes) = (self.control_bytes, self.train_bytes);
        Gauges { clients: self.holders.len(), rooms: self.rooms.len(), control_bytes, train_bytes }
    }

    /// Every room in which somebody is.
    pub fn rooms(&self) -> impl Iterator<Item = RoomView> {
        self.rooms.iter().map(|(name, room)| RoomView { name: name.clone(), peers: room.peers.len(), counts: room.counts })
    }

    /// The peers of a room; `None` if nobody is in it.
    pub fn peers_of(&self, now: Instant, room: &RoomName) -> Option<Vec<PeerView>> {
        let peers = self.rooms.get(room)?.peers.values();
        Some(peers.filter_map(|conn| Some(PeerView::of(now, *conn, self.clients.get(conn)?))).collect())
    }
}
