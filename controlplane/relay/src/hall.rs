//! All rooms of the relay and who is in them, as a pure state machine: no sockets, no clock, no randomness of its own.
//!
//! 1. Who has logged in comes in ([`Hall::connect`]) and leaves ([`Hall::disconnect`]); of one key the newest connection holds.
//! 2. What a client sends goes in ([`Hall::handle_message`]), and what is measured of it (`handle_heard`, `…_rtt`, `…_udp`).
//! 3. What is for a client comes out of [`Hall::poll_transmit`], and whom to ask for it again out of [`Hall::poll_event`].
//! 4. With time, who is silent and who does not read are given up ([`Hall::handle_timeout`], due at [`Hall::poll_timeout`]).
//!
//! A peer sees and reaches the peers of its rooms and nobody else; of all others it is told the same as of those that do not
//! exist. Whatever one client does, it costs bounded memory, and others keep their part of the line.

mod admission;
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
use adit_proto::relay::{FromRelay, LeftReason, PeerKey, RoomName, STUN_KEY_LEN, STUN_NAME_LEN};

use crate::login::Pass;
use crate::queue::{Item, Popped, Queue, cost};
use crate::quotas::{Network, Share};

use client::{Client, Closing};
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
    pub pass: Pass,
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
    /// A probe, while the one that it asks for is there.
    InUse,
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
    unreported: Vec<(ConnId, LeftReason)>,
    /// What waits for all clients, in bytes.
    control_bytes: usize,
    train_bytes: usize,
    /// Bytes of trains that wait for the clients of each network.
    waiting: BTreeMap<Network, usize>,
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
            unreported: Vec::new(),
            control_bytes: 0,
            train_bytes: 0,
            waiting: BTreeMap::new(),
            draining: false,
            next_conn: 0,
            mask: random.u64(),
            next_sweep: None,
            expired: None,
        }
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
        self.unreported.push((conn, reason));
    }

    /// Tells the rooms of those who have been taken out of the hall. Who cannot be told, since it does not read, is taken out as
    /// well. All are taken out of their rooms before anybody is told: of those who go together none hears of the others.
    fn tell_who_left(&mut self, now: Instant) {
        while !self.unreported.is_empty() {
            let mut news = Vec::new();
            for (conn, reason) in std::mem::take(&mut self.unreported) {
                let Some(client) = self.clients.get(&conn) else { continue };
                let (peer, rooms) = (client.key, client.rooms.clone());
                for room in rooms {
                    let Some(entry) = self.rooms.get_mut(&room) else { continue };
                    entry.peers.remove(&peer);
                    entry.counts.left += 1;
                    self.departed.add(now, &room, peer);
                    if entry.peers.is_empty() {
                        self.rooms.remove(&room);
                    } else {
                        news.push((conn, room, peer, reason));
                    }
                }
            }
            for (about, room, peer, reason) in news {
                self.mark_room(&room, about, |client, number| {
                    client.direct.remove(&peer);
                    client.queue.left(now, number, peer, reason);
                });
            }
            self.shed(now);
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
        loop {
            let Some((popped, dropped)) = self.with_queue(conn, |queue| queue.pop(now)) else {
                return Transmit::Close(LeftReason::GONE);
            };
            self.counters.count_dropped(dropped);
            let Some(client) = self.clients.get_mut(&conn) else { return Transmit::Close(LeftReason::GONE) };
            client.counts.dropped += dropped;
            return match popped {
                Some(Popped::Answer(record)) => Transmit::Record(record),
                Some(Popped::News(item)) => match self.tell(conn, item) {
                    Some(record) => Transmit::Record(record),
                    None => continue,
                },
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
            };
        }
    }

    /// The record of some news, of what is true now.
    fn tell(&mut self, conn: ConnId, item: Item) -> Option<Vec<u8>> {
        let room = |number: u8| self.clients.get(&conn)?.rooms.get(usize::from(number)).cloned();
        let metadata = |peer: PeerKey| Some(self.clients.get(self.holders.get(&peer)?)?.metadata.as_slice());
        let record = match item {
            Item::Joined(number, peer) => FromRelay::Joined { room: room(number)?, peer, metadata: metadata(peer)? }.encode(),
            Item::Described(number, peer) => {
                FromRelay::Described { room: room(number)?, peer, metadata: metadata(peer)? }.encode()
            }
            Item::Left(number, peer, reason) => FromRelay::Left { room: room(number)?, peer, reason }.encode(),
            Item::Direct(peer, on) => FromRelay::PeerDirect { peer, on }.encode(),
            Item::Introduction(record) => Ok(record),
        };
        let record = record.ok()?;
        self.clients.get_mut(&conn)?.queue.told(record.len());
        Some(record)
    }

    /// What the shell is to do next. There is no more than one of each kind for a connection.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When [`Hall::handle_timeout`] is to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.next_sweep
    }

    /// Answers one client, or says something to it alone. Who has no room for it has not read for long, and is given up.
    fn say(&mut self, now: Instant, conn: ConnId, record: Vec<u8>) {
        if self.clients.get(&conn).is_none_or(|client| client.closing.is_some()) {
            return;
        }
        match self.with_queue(conn, |queue| queue.push_answer(now, record)) {
            Some(Ok(())) => self.wake(conn),
            Some(Err(_)) => self.give_up(now, conn, LeftReason::SLOW),
            None => {}
        }
        self.shed(now);
    }

    /// Has something marked for all of a room but for the one whom it is about: with each of them, and the number of the room
    /// among its own.
    fn mark_room(&mut self, room: &RoomName, about: ConnId, mark: impl Fn(&mut Client, u8)) {
        let Some(entry) = self.rooms.get(room) else { return };
        for other in entry.peers.values().filter(|other| **other != about) {
            let Some(client) = self.clients.get_mut(other) else { continue };
            let Some(number) = client.number_of(room) else { continue };
            let before = client.queue.control_bytes();
            mark(client, number);
            self.control_bytes = self.control_bytes + client.queue.control_bytes() - before;
            if std::mem::take(&mut client.waits) {
                self.events.push_back(Event::Wake(*other));
            }
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
        let client = self.clients.get_mut(&conn)?;
        let (control, trains) = (client.queue.control_bytes(), client.queue.train_bytes());
        let result = what(&mut client.queue);
        self.control_bytes = self.control_bytes + client.queue.control_bytes() - control;
        let trains_now = client.queue.train_bytes();
        if trains_now != trains {
            self.train_bytes = self.train_bytes + trains_now - trains;
            let network = Network::of(client.observed.ip());
            let waiting = self.waiting.entry(network).or_default();
            *waiting = *waiting + trains_now - trains;
            if *waiting == 0 {
                self.waiting.remove(&network);
            }
        }
        Some(result)
    }
}
