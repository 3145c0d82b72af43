//! What a client says, and what is done for it: trains are passed on, peers are introduced and told.

use std::time::{Duration, Instant};

use adit_engine::random::Random;
use adit_proto::relay::{FromRelay, Kind, LeftReason, PeerKey, Quota, RoomName, ToRelay, Train};

use super::client::{Client, Shares};
use super::introductions::starts;
use super::{ConnId, Hall, cost};
use crate::queue::Source;
use crate::quotas::{Network, Rate, Share};

impl Hall {
    /// One binary message of a client. Who sends what is no record is given up.
    pub fn handle_message(&mut self, now: Instant, conn: ConnId, bytes: &[u8], random: &mut dyn Random) {
        let Some(client) = self.clients.get_mut(&conn).filter(|client| client.closing.is_none()) else { return };
        client.heard = now;
        client.counts.records += 1;
        self.counters.records += 1;
        let rate = self.settings.records;
        if self.charge(now, conn, Quota::RECORDS, 1, rate, |shares| &mut shares.records) {
            match ToRelay::decode(bytes) {
                Ok(Some(record)) => self.handle_record(now, conn, record, random),
                Ok(None) => self.counters.records_unknown += 1,
                Err(_) => {
                    self.counters.records_malformed += 1;
                    self.retire(now, conn, LeftReason::FAULT);
                    self.wake(conn);
                }
            }
        }
        self.tell_who_left(now);
    }

    fn handle_record(&mut self, now: Instant, conn: ConnId, record: ToRelay, random: &mut dyn Random) {
        match record {
            ToRelay::Send { to, train } => self.pass_on(now, conn, to, train),
            ToRelay::Meet { peer } => self.introduce(now, conn, peer, random),
            ToRelay::Direct { peer, on } => self.note_direct(now, conn, peer, on),
            ToRelay::Describe { metadata } => self.describe(now, conn, metadata),
            ToRelay::Ping { id } => self.reply(now, conn, &FromRelay::Pong { id }),
        }
    }

    fn reply(&mut self, now: Instant, conn: ConnId, record: &FromRelay) {
        if let Ok(record) = record.encode() {
            self.say(now, conn, record);
        }
    }

    /// Takes so much of a client's share. If it is not there, the client is told so, but not for each.
    fn charge(
        &mut self,
        now: Instant,
        conn: ConnId,
        what: Quota,
        count: u64,
        rate: Rate,
        share: impl FnOnce(&mut Shares) -> &mut Share,
    ) -> bool {
        let Some(client) = self.clients.get_mut(&conn) else { return false };
        match share(&mut client.shares).take(now, count, rate) {
            Ok(()) => true,
            Err(wait) => {
                self.refuse(now, conn, what, wait);
                false
            }
        }
    }

    fn refuse(&mut self, now: Instant, conn: ConnId, what: Quota, wait: Duration) {
        self.counters.count_refused(what);
        let Some(client) = self.clients.get_mut(&conn) else { return };
        client.counts.refused += 1;
        if client.tell_refused(now, what, wait) {
            let wait_ms = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX).saturating_add(1);
            self.reply(now, conn, &FromRelay::Refused { what, wait_ms });
        }
    }

    /// The connection of a peer that this client can reach, and a room that both are in. Itself is not its peer.
    pub(super) fn reach(&self, conn: ConnId, peer: PeerKey) -> Option<(ConnId, RoomName)> {
        let other = *self.holders.get(&peer).filter(|other| **other != conn)?;
        let client = self.clients.get(&conn)?;
        Some((other, client.common_room(self.clients.get(&other)?)?.clone()))
    }

    /// There is no such peer in a common room; whoever asked for it is told, and of a train not for each.
    fn say_absent(&mut self, now: Instant, conn: ConnId, peer: PeerKey, is_train: bool) {
        self.counters.absent += 1;
        let Some(client) = self.clients.get_mut(&conn) else { return };
        if !client.tell_absent(now, peer) && is_train {
            return;
        }
        let last_seen = self.departed.last_seen(&client.rooms, peer);
        let seconds = |then| u32::try_from(now.saturating_duration_since(then).as_secs()).unwrap_or(u32::MAX);
        self.reply(now, conn, &FromRelay::Absent { peer, last_seen_s: last_seen.map(seconds) });
    }

    fn pass_on(&mut self, now: Instant, conn: ConnId, to: PeerKey, train: Train) {
        let Some((other, room)) = self.reach(conn, to) else { return self.say_absent(now, conn, to, true) };
        let bytes = train.payload.len() as u64;
        if !self.may_pass(now, conn, &room, train.kind, bytes) {
            return;
        }
        let Some(client) = self.clients.get_mut(&conn) else { return };
        let source = Source { network: Network::of(client.observed.ip()), conn: conn.0 };
        let Ok(record) = (FromRelay::Deliver { from: client.key, train }).encode() else { return };
        client.counts.trains_sent += 1;
        client.counts.bytes_sent += bytes;
        self.counters.trains += 1;
        self.counters.train_bytes += bytes;
        if let Some(entry) = self.rooms.get_mut(&room) {
            entry.counts.trains += 1;
            entry.counts.bytes += bytes;
        }
        self.make_room(now, cost(&record));
        let dropped = self.with_queue(other, |queue| queue.push_train(now, train.kind, source, record)).unwrap_or_default();
        self.counters.count_dropped(dropped);
        if let Some(receiver) = self.clients.get_mut(&other) {
            receiver.counts.dropped += dropped;
        }
        self.wake(other);
    }

    /// Whether so many bytes may be passed on: of this client, of this room, of all.
    fn may_pass(&mut self, now: Instant, conn: ConnId, room: &RoomName, kind: Kind, bytes: u64) -> bool {
        let settings = self.settings;
        if !self.charge(now, conn, Quota::BYTES, bytes, settings.bytes, |shares| &mut shares.bytes) {
            return false;
        }
        let is_ike = kind == Kind::Ike;
        if is_ike && !self.charge(now, conn, Quota::IKE, bytes, settings.ike_bytes, |shares| &mut shares.ike_bytes) {
            return false;
        }
        let Some(entry) = self.rooms.get_mut(room) else { return false };
        if let Err(wait) = entry.bytes.take(now, bytes, settings.room_bytes) {
            entry.counts.refused += 1;
            self.refuse(now, conn, Quota::ROOM, wait);
            return false;
        }
        if let Err(wait) = self.total_bytes.take(now, bytes, settings.total_bytes) {
            self.refuse(now, conn, Quota::TOTAL, wait);
            return false;
        }
        true
    }

    /// Whether a client may ask for one more thing that concerns another one.
    fn may_ask(&mut self, now: Instant, conn: ConnId) -> bool {
        let rate = self.settings.requests;
        self.charge(now, conn, Quota::REQUESTS, 1, rate, |shares| &mut shares.requests)
    }

    /// Both learn in the same turn where the other one is, and when to begin.
    fn introduce(&mut self, now: Instant, conn: ConnId, peer: PeerKey, random: &mut dyn Random) {
        if !self.may_ask(now, conn) {
            return;
        }
        let Some((other, room)) = self.reach(conn, peer) else { return self.say_absent(now, conn, peer, false) };
        if !self.introductions.begin(now, conn, other) {
            self.counters.introductions_repeated += 1;
            return;
        }
        let (Some(one), Some(two)) = (self.clients.get(&conn), self.clients.get(&other)) else { return };
        let (id, [start_one, start_two]) = (random.u64(), starts([one.rtt, two.rtt]));
        let of = |client: &Client, other: &Client, start_in_ms| FromRelay::Introduction {
            peer: client.key,
            udp: client.udp_for(other),
            tcp: client.observed,
            id,
            start_in_ms,
        };
        let (to_one, to_two) = (of(two, one, start_one), of(one, two, start_two));
        let (one, two) = (one.key, two.key);
        let (Ok(to_one), Ok(to_two)) = (to_one.encode(), to_two.encode()) else { return };
        self.counters.introductions += 1;
        for (conn, peer, record) in [(conn, two, to_one), (other, one, to_two)] {
            self.with_queue(conn, |queue| queue.introduction(now, peer, record));
            self.wake(conn);
            if let Some(client) = self.clients.get_mut(&conn) {
                client.counts.introductions += 1;
            }
        }
        self.shed(now);
        if let Some(entry) = self.rooms.get_mut(&room) {
            entry.counts.introductions += 1;
        }
    }

    /// The data between two goes by another path, or has come back. The peer is told if that is news.
    fn note_direct(&mut self, now: Instant, conn: ConnId, peer: PeerKey, on: bool) {
        if !self.may_ask(now, conn) {
            return;
        }
        let Some((other, _)) = self.reach(conn, peer) else { return self.say_absent(now, conn, peer, false) };
        let Some(client) = self.clients.get_mut(&conn) else { return };
        let is_news = if on { client.direct.insert(peer) } else { client.direct.remove(&peer) };
        if is_news {
            let key = client.key;
            if on {
                self.counters.went_direct += 1;
            } else {
                self.counters.came_back += 1;
            }
            self.with_queue(other, |queue| queue.direct(now, key, on));
            self.wake(other);
            self.shed(now);
        }
    }

    fn describe(&mut self, now: Instant, conn: ConnId, metadata: &[u8]) {
        let rate = self.settings.descriptions;
        if !self.charge(now, conn, Quota::DESCRIPTIONS, 1, rate, |shares| &mut shares.descriptions) {
            return;
        }
        let Some(client) = self.clients.get_mut(&conn).filter(|client| client.metadata != metadata) else { return };
        client.metadata = metadata.to_vec();
        let rooms = client.rooms.clone();
        self.counters.descriptions += 1;
        for room in rooms {
            self.publish(now, &room, conn);
        }
        self.shed(now);
    }

    /// Has a room told of what one of it says of itself now. Where the room has been told much lately it is told later, in the
    /// order in which it was said, and then of what is true by then.
    fn publish(&mut self, now: Instant, room: &RoomName, conn: ConnId) {
        let Some(peer) = self.clients.get(&conn).map(|client| client.key) else { return };
        let waits = self.rooms.get(room).is_some_and(|entry| !entry.unpublished.is_empty());
        if !waits && self.may_publish(now, room, conn) {
            self.mark_room(room, conn, |client, number| client.queue.described(now, number, peer));
        } else if let Some(entry) = self.rooms.get_mut(room).filter(|entry| !entry.unpublished.contains(&peer)) {
            entry.unpublished.push_back(peer);
            self.counters.descriptions_deferred += 1;
        }
    }

    /// Charges a room for what it costs to tell it. Whom it is told with something that waits already costs nothing.
    fn may_publish(&mut self, now: Instant, room: &RoomName, conn: ConnId) -> bool {
        let (Some(client), Some(entry)) = (self.clients.get(&conn), self.rooms.get(room)) else { return false };
        let is_new = |other: &&ConnId| {
            let known = |other: &Client| other.number_of(room).is_some_and(|number| other.queue.is_marked(number, client.key));
            **other != conn && !self.clients.get(*other).is_some_and(known)
        };
        let length = client.metadata.len() + room.as_str().len() + PeerKey::LEN;
        let bytes = (entry.peers.values().filter(is_new).count() * length) as u64;
        let rate = self.settings.room_news;
        self.rooms.get_mut(room).is_some_and(|entry| entry.news.take(now, bytes, rate).is_ok())
    }

    /// Tells rooms what they could not be told before.
    pub(super) fn publish_rest(&mut self, now: Instant) {
        let waiting = self.rooms.iter().filter(|(_, entry)| !entry.unpublished.is_empty());
        let rooms: Vec<RoomName> = waiting.map(|(room, _)| room.clone()).collect();
        for room in rooms {
            while let Some(entry) = self.rooms.get_mut(&room)
                && let Some(peer) = entry.unpublished.front().copied()
            {
                if let Some(conn) = entry.peers.get(&peer).copied() {
                    if !self.may_publish(now, &room, conn) {
                        break;
                    }
                    self.mark_room(&room, conn, |client, number| client.queue.described(now, number, peer));
                }
                self.rooms.get_mut(&room).and_then(|entry| entry.unpublished.pop_front());
            }
        }
        self.shed(now);
    }
}
