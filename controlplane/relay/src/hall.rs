//! All rooms of the relay and who is in them, as a pure state machine: no sockets, no clock, no randomness of its own.
//!
//! 1. Who has logged in comes in ([`Hall::connect`]) and leaves ([`Hall::disconnect`]); of one key the newest connection holds.
//! 2. What a client sends goes in ([`Hall::handle_message`]), and what is measured of it (`handle_heard`, `…_rtt`, `…_udp`).
//! 3. What is for a client comes out of [`Hall::poll_transmit`], and whom to ask for it again out of [`Hall::poll_event`].
//! 4. With time, who is silent and who does not read are given up ([`Hall::handle_timeout`], due at [`Hall::poll_timeout`]).
//!
//! A peer sees and reaches the peers of its rooms and nobody else; of all others it is told the same as of those that do not
//! exist. Whatever one client does, it costs bounded memory, and others wait no longer for it.

mod client;
mod counters;
mod introductions;
mod records;
mod rooms;
mod settings;
#[cfg(test)]
mod tests;
mod upkeep;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use adit_engine::random::Random;
use adit_proto::limits::ROOMS_OF_CLIENT_MAX;
use adit_proto::relay::{FromRelay, LeftReason, PeerKey, RoomName, STUN_KEY_LEN, STUN_NAME_LEN};

use crate::limits::CONNECTIONS_OF_KEY_MAX;
use crate::queue::{Popped, Queue, RECORD_COST, cost};
use crate::quotas::Share;

use client::{Client, Closing, Shares};
pub use client::{ClientCounts, PeerView};
pub use counters::Counters;
use introductions::Introductions;
use rooms::{Departed, Room};
pub use rooms::{RoomCounts, RoomView};
pub use settings::{Farewell, Settings};
pub use upkeep::Gauges;

/// One connection of a client. No two have the same one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(u64);

/// Who has logged in.
#[derive(Clone, Debug)]
pub struct Newcomer {
    pub key: PeerKey,
    /// The rooms that it may be in.
    pub rooms: Vec<RoomName>,
    /// Where its connection comes from.
    pub observed: SocketAddr,
}

/// Why somebody who has logged in is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotLetIn {
    /// The relay or one of the rooms is full.
    Full,
    /// Too many connections of this key are not closed yet.
    Replaced,
    /// The relay is about to stop.
    Draining,
}

/// What the shell is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// [`Hall::poll_transmit`] has something for this connection, after it had nothing.
    Wake(ConnId),
    /// Close this connection without waiting for what is being written, and say so with [`Hall::disconnect`].
    Abort(ConnId),
}

/// What is next for one connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transmit {
    /// Send this as one binary message.
    Record(Vec<u8>),
    /// Nothing now: there will be an [`Event::Wake`].
    Wait,
    /// All is sent: close the connection and say so with [`Hall::disconnect`].
    Close(LeftReason),
}

/// All rooms of the relay and who is in them.
pub struct Hall {
    settings: Settings,
    clients: BTreeMap<ConnId, Client>,
    /// The one connection of each key that is in the hall.
    holders: BTreeMap<PeerKey, ConnId>,
    /// How many connections of a key have left the hall, but are not closed.
    leaving: BTreeMap<PeerKey, usize>,
    rooms: BTreeMap<RoomName, Room>,
    departed: Departed,
    introductions: Introductions,
    total_bytes: Share,
    counters: Counters,
    events: VecDeque<Event>,
    /// Who has left the hall, and whose peers are still to be told why.
    untold: Vec<(ConnId, LeftReason)>,
    /// What waits for all clients, in bytes.
    control_bytes: usize,
    train_bytes: usize,
    draining: bool,
    next_conn: u64,
    /// Hides in the names for STUN how many connections there were.
    mask: u64,
    next_sweep: Option<Instant>,
    /// When all queues were last looked through for what is too old.
    expired: Option<Instant>,
}

impl Hall {
    pub fn new(settings: Settings, random: &mut dyn Random) -> Hall {
        Hall {
            settings,
            clients: BTreeMap::new(),
            holders: BTreeMap::new(),
            leaving: BTreeMap::new(),
            rooms: BTreeMap::new(),
            departed: Departed::default(),
            introductions: Introductions::default(),
            total_bytes: Share::default(),
            counters: Counters::default(),
            events: VecDeque::new(),
            untold: Vec::new(),
            control_bytes: 0,
            train_bytes: 0,
            draining: false,
            next_conn: 0,
            mask: random.u64(),
            next_sweep: None,
            expired: None,
        }
    }

    /// Somebody has proven its key and may be in these rooms. The first record for it is its welcome, and then who is there.
    pub fn connect(&mut self, now: Instant, newcomer: Newcomer, random: &mut dyn Random) -> Result<ConnId, NotLetIn> {
        let Newcomer { key, mut rooms, observed } = newcomer;
        rooms.sort();
        rooms.dedup();
        if let Err(why) = self.check(&key, &rooms) {
            self.counters.count_not_let_in(why);
            return Err(why);
        }
        let shares = self.holders.get(&key).copied().map(|older| self.replace(now, older));
        let mut client = Client::new(now, key, rooms, observed, &self.settings);
        client.shares = shares.unwrap_or_default();
        random.fill(&mut client.stun_secret);
        Ok(self.enter(now, client))
    }

    /// Whether there is room.
    fn check(&self, key: &PeerKey, rooms: &[RoomName]) -> Result<(), NotLetIn> {
        let holder = self.holders.get(key);
        let of_key = self.leaving.get(key).copied().unwrap_or_default() + usize::from(holder.is_some());
        let is_new = |room: &&RoomName| !self.rooms.contains_key(*room);
        let fills = |room: &Room| room.peers.len() >= self.settings.peers_of_room && !room.peers.contains_key(key);
        if self.draining {
            Err(NotLetIn::Draining)
        } else if of_key >= CONNECTIONS_OF_KEY_MAX {
            Err(NotLetIn::Replaced)
        } else if rooms.len() > ROOMS_OF_CLIENT_MAX
            || self.clients.len() >= self.settings.clients
            || self.rooms.len() + rooms.iter().filter(is_new).count() > self.settings.rooms
            || rooms.iter().filter_map(|room| self.rooms.get(room)).any(fills)
            || self.greeting_bytes(rooms) > self.settings.queue.control_bytes
        {
            Err(NotLetIn::Full)
        } else {
            Ok(())
        }
    }

    /// What the first records for somebody in these rooms take.
    fn greeting_bytes(&self, rooms: &[RoomName]) -> usize {
        // Type, lengths and key of a record; the welcome names all rooms.
        let of_peer = |room: &RoomName, conn: &ConnId| {
            let metadata = self.clients.get(conn).map_or(0, |client| client.metadata.len());
            RECORD_COST + 1 + 1 + room.as_str().len() + PeerKey::LEN + 2 + metadata
        };
        let of_room = |room: &RoomName| {
            let peers = self.rooms.get(room).into_iter().flat_map(|entry| entry.peers.values());
            room.as_str().len() + 1 + peers.map(|conn| of_peer(room, conn)).sum::<usize>()
        };
        RECORD_COST + 64 + rooms.iter().map(of_room).sum::<usize>()
    }

    /// A newer connection takes the place of this one, with what is left of its shares.
    fn replace(&mut self, now: Instant, older: ConnId) -> Shares {
        let shares = self.clients.get(&older).map(|client| client.shares);
        self.retire(now, older, LeftReason::REPLACED);
        self.tell_who_left(now);
        let wait_s = self.settings.replaced_wait.as_secs().try_into().unwrap_or(u16::MAX);
        if let Ok(record) = (FromRelay::Replaced { wait_s }).encode() {
            // Its queue is empty: there is room.
            let _ = self.with_queue(older, |queue| queue.push_control(now, record));
        }
        self.wake(older);
        shares.unwrap_or_default()
    }

    fn enter(&mut self, now: Instant, client: Client) -> ConnId {
        let conn = ConnId(self.next_conn);
        self.next_conn += 1;
        let (key, rooms) = (client.key, client.rooms.clone());
        let mut first = vec![FromRelay::Welcome {
            observed: client.observed,
            stun_key: self.stun_key(conn, &client),
            idle_ms: self.settings.idle.as_millis().try_into().unwrap_or(u32::MAX),
            rooms: rooms.clone(),
        }];
        for room in &rooms {
            let peers = self.rooms.get(room).into_iter().flat_map(|entry| &entry.peers);
            first.extend(peers.filter_map(|(peer, conn)| {
                let metadata = &self.clients.get(conn)?.metadata;
                Some(FromRelay::Joined { room: room.clone(), peer: *peer, metadata })
            }));
        }
        let first: Vec<_> = first.iter().map(FromRelay::encode).collect();
        self.counters.let_in += 1;
        self.clients.insert(conn, client);
        self.holders.insert(key, conn);
        for record in first.into_iter().flatten() {
            self.say(now, conn, record);
        }
        for room in rooms {
            self.departed.forget(&room, key);
            let entry = self.rooms.entry(room.clone()).or_default();
            entry.peers.insert(key, conn);
            entry.counts.joined += 1;
            self.say_to_room(now, &room, conn, &FromRelay::Joined { room: room.clone(), peer: key, metadata: &[] });
        }
        self.tell_who_left(now);
        self.next_sweep.get_or_insert(now + upkeep::SWEEP);
        conn
    }

    /// A connection is closed, or is to be: its peers are told at once. Whoever has left already is forgotten.
    pub fn disconnect(&mut self, now: Instant, conn: ConnId, reason: LeftReason) {
        self.retire(now, conn, reason);
        self.tell_who_left(now);
        self.with_queue(conn, Queue::clear);
        if let Some(client) = self.clients.remove(&conn) {
            let count = self.leaving.entry(client.key).or_default();
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.leaving.remove(&client.key);
            }
        }
    }

    /// Takes somebody out of the hall, and throws away what waited for it. Its peers are told by [`Hall::tell_who_left`].
    fn retire(&mut self, now: Instant, conn: ConnId, reason: LeftReason) {
        let Some(client) = self.clients.get_mut(&conn).filter(|client| client.closing.is_none()) else { return };
        client.closing = Some(Closing { reason, since: now, aborted: false });
        client.direct.clear();
        let key = client.key;
        self.holders.remove(&key);
        *self.leaving.entry(key).or_default() += 1;
        self.counters.count_left(reason);
        self.counters.dropped_left += self.with_queue(conn, Queue::clear).unwrap_or_default();
        self.untold.push((conn, reason));
    }

    /// Tells the rooms of those who have been taken out of the hall. Who cannot be told, since it does not read, is taken out as
    /// well.
    fn tell_who_left(&mut self, now: Instant) {
        while let Some((conn, reason)) = self.untold.pop() {
            let Some(client) = self.clients.get(&conn) else { continue };
            let (peer, rooms) = (client.key, client.rooms.clone());
            for room in rooms {
                let Some(entry) = self.rooms.get_mut(&room) else { continue };
                entry.peers.remove(&peer);
                entry.counts.left += 1;
                self.departed.add(now, &room, peer);
                for other in entry.peers.values() {
                    if let Some(client) = self.clients.get_mut(other) {
                        client.direct.remove(&peer);
                    }
                }
                if entry.peers.is_empty() {
                    self.rooms.remove(&room);
                } else {
                    self.say_to_room(now, &room, conn, &FromRelay::Left { room: room.clone(), peer, reason });
                }
            }
        }
    }

    /// Something was heard of this connection that is no record: an answer to a ping of its WebSocket.
    pub fn handle_heard(&mut self, now: Instant, conn: ConnId) {
        if let Some(client) = self.clients.get_mut(&conn) {
            client.heard = now;
        }
    }

    /// So long it took until a ping of its WebSocket was answered.
    pub fn handle_rtt(&mut self, conn: ConnId, rtt: Duration) {
        if let Some(client) = self.clients.get_mut(&conn) {
            client.rtt = Some(rtt);
        }
    }

    /// This client has shown that it is reached by UDP there. Whether it is in the hall.
    pub fn handle_udp(&mut self, conn: ConnId, at: SocketAddr) -> bool {
        let Some(client) = self.clients.get_mut(&conn).filter(|client| client.closing.is_none()) else { return false };
        let at = SocketAddr::new(at.ip().to_canonical(), at.port());
        let known = &mut client.udp[usize::from(at.is_ipv6())];
        if *known != Some(at) {
            *known = Some(at);
            self.counters.udp_learned += 1;
        }
        true
    }

    /// What this client seals its Binding requests with.
    pub fn stun_key_of(&self, conn: ConnId) -> Option<[u8; STUN_KEY_LEN]> {
        self.clients.get(&conn).map(|client| self.stun_key(conn, client))
    }

    /// Which connection it is, and what nobody else knows.
    fn stun_key(&self, conn: ConnId, client: &Client) -> [u8; STUN_KEY_LEN] {
        let mut key = [0; STUN_KEY_LEN];
        let (name, secret) = key.split_at_mut(STUN_NAME_LEN);
        name.copy_from_slice(&(conn.0 ^ self.mask).to_be_bytes());
        secret.copy_from_slice(&client.stun_secret);
        key
    }

    /// What is to be sent next on this connection.
    pub fn poll_transmit(&mut self, now: Instant, conn: ConnId) -> Transmit {
        let Some((popped, dropped)) = self.with_queue(conn, |queue| queue.pop(now)) else {
            return Transmit::Close(LeftReason::GONE);
        };
        self.counters.count_dropped(dropped);
        let Some(client) = self.clients.get_mut(&conn) else { return Transmit::Close(LeftReason::GONE) };
        client.counts.dropped += dropped;
        match popped {
            Some(Popped::Control(record)) => Transmit::Record(record),
            Some(Popped::Train(record)) => {
                self.counters.trains_delivered += 1;
                client.counts.trains_received += 1;
                client.counts.bytes_received += record.len() as u64;
                Transmit::Record(record)
            }
            None => match client.closing {
                Some(closing) => Transmit::Close(closing.reason),
                None => {
                    client.waits = true;
                    Transmit::Wait
                }
            },
        }
    }

    /// What the shell is to do next. There is no more than one of each kind for a connection.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When [`Hall::handle_timeout`] is to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.next_sweep
    }

    /// Says something to one client. Who has no room for it has not read for long, and is given up.
    fn say(&mut self, now: Instant, conn: ConnId, record: Vec<u8>) {
        if self.clients.get(&conn).is_none_or(|client| client.closing.is_some()) {
            return;
        }
        match self.with_queue(conn, |queue| queue.push_control(now, record)) {
            Some(Ok(())) => self.wake(conn),
            Some(Err(_)) => self.give_up(now, conn, LeftReason::SLOW),
            None => {}
        }
        self.shed(now);
    }

    /// Says something to all of a room but to the one whom it is about.
    fn say_to_room(&mut self, now: Instant, room: &RoomName, about: ConnId, record: &FromRelay) {
        let (Some(entry), Ok(record)) = (self.rooms.get(room), record.encode()) else { return };
        let others: Vec<ConnId> = entry.peers.values().copied().filter(|other| *other != about).collect();
        for other in others {
            self.say(now, other, record.clone());
        }
    }

    fn wake(&mut self, conn: ConnId) {
        if let Some(client) = self.clients.get_mut(&conn).filter(|client| client.waits) {
            client.waits = false;
            self.events.push_back(Event::Wake(conn));
        }
    }

    /// Does something with a queue, and keeps the sums over all queues.
    fn with_queue<T>(&mut self, conn: ConnId, what: impl FnOnce(&mut Queue) -> T) -> Option<T> {
        let queue = &mut self.clients.get_mut(&conn)?.queue;
        let (control, trains) = (queue.control_bytes(), queue.train_bytes());
        let result = what(queue);
        self.control_bytes = self.control_bytes + queue.control_bytes() - control;
        self.train_bytes = self.train_bytes + queue.train_bytes() - trains;
        Some(result)
    }
}
