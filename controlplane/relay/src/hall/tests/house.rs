//! A hall with its clock and its dice, and what clients read of it as plain values.

use std::time::{Duration, Instant};

use adit_proto::relay::{FromRelay, Kind, LeftReason, PeerKey, Quota, RoomName, ToRelay, Train};

use super::super::*;
use crate::login::Pass;
use crate::testing::{Dice, start};

/// A record as a client reads it. Peers are numbers, rooms their names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    Welcome(Vec<String>),
    Joined(String, u8, Vec<u8>),
    Left(String, u8, LeftReason),
    Described(String, u8, Vec<u8>),
    Deliver(u8, Kind, Vec<u8>),
    Introduction { peer: u8, udp: Option<SocketAddr>, tcp: SocketAddr, id: u64, start_in_ms: u16 },
    Absent(u8, Option<u32>),
    PeerDirect(u8, bool),
    Drain(u32, usize),
    Replaced(u16),
    Refused(Quota),
    Pong(u64),
}

pub fn key(n: u8) -> PeerKey {
    PeerKey([n; PeerKey::LEN])
}

pub fn room(name: &str) -> RoomName {
    RoomName::new(name).unwrap()
}

/// Where the connections of this peer come from.
pub fn address(n: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, n], 1000 + u16::from(n)))
}

pub fn train(kind: Kind, payload: &[u8]) -> Train<'_> {
    Train { kind, class: 0, segment: 0, payload }
}

impl Seen {
    pub fn of(bytes: &[u8]) -> Seen {
        let text = |room: RoomName| room.to_string();
        match FromRelay::decode(bytes).expect("a record").expect("a known one") {
            FromRelay::Welcome { rooms, .. } => Seen::Welcome(rooms.into_iter().map(text).collect()),
            FromRelay::Joined { room, peer, metadata } => Seen::Joined(text(room), peer.0[0], metadata.to_vec()),
            FromRelay::Left { room, peer, reason } => Seen::Left(text(room), peer.0[0], reason),
            FromRelay::Described { room, peer, metadata } => Seen::Described(text(room), peer.0[0], metadata.to_vec()),
            FromRelay::Deliver { from, train } => Seen::Deliver(from.0[0], train.kind, train.payload.to_vec()),
            FromRelay::Introduction { peer, udp, tcp, id, start_in_ms } => {
                Seen::Introduction { peer: peer.0[0], udp, tcp, id, start_in_ms }
            }
            FromRelay::Absent { peer, last_seen_s } => Seen::Absent(peer.0[0], last_seen_s),
            FromRelay::PeerDirect { peer, on } => Seen::PeerDirect(peer.0[0], on),
            FromRelay::Drain { come_back_in_ms, to, .. } => Seen::Drain(come_back_in_ms, to.len()),
            FromRelay::Replaced { wait_s } => Seen::Replaced(wait_s),
            FromRelay::Refused { what, .. } => Seen::Refused(what),
            FromRelay::Pong { id } => Seen::Pong(id),
            FromRelay::Stun { .. } | FromRelay::Turn { .. } => panic!("the hall says nothing of STUN and TURN"),
        }
    }
}

pub struct House {
    pub hall: Hall,
    pub now: Instant,
    pub dice: Dice,
}

impl House {
    pub fn new(settings: Settings) -> House {
        let mut dice = Dice::new(3);
        House { hall: Hall::new(settings, &mut dice), now: start(), dice }
    }

    /// Time passes, and what is due is done.
    pub fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(due) = self.hall.poll_timeout().filter(|due| *due <= end) {
            self.hall.handle_timeout(due);
        }
        self.now = end;
    }

    pub fn try_enter(&mut self, n: u8, rooms: &[&str]) -> Result<ConnId, NotLetIn> {
        self.try_enter_from(address(n), n, rooms, Pass::default())
    }

    /// From an address, with a pass.
    pub fn try_enter_from(&mut self, from: SocketAddr, n: u8, rooms: &[&str], pass: Pass) -> Result<ConnId, NotLetIn> {
        let newcomer = Newcomer { key: key(n), rooms: rooms.iter().map(|name| room(name)).collect(), observed: from, pass };
        self.hall.connect(self.now, newcomer, &mut self.dice)
    }

    pub fn enter(&mut self, n: u8, rooms: &[&str]) -> ConnId {
        self.try_enter(n, rooms).expect("there is room")
    }

    pub fn leave(&mut self, conn: ConnId) {
        self.hall.disconnect(self.now, conn, LeftReason::GONE);
    }

    pub fn send(&mut self, conn: ConnId, record: ToRelay) {
        self.hall.handle_message(self.now, conn, &record.encode().expect("it fits"), &mut self.dice);
    }

    pub fn data(&mut self, conn: ConnId, to: u8, payload: &[u8]) {
        self.send(conn, ToRelay::Send { to: key(to), train: train(Kind::Esp, payload) });
    }

    /// All that there is for a connection, and why it is to be closed, if it is.
    pub fn read_all(&mut self, conn: ConnId) -> (Vec<Seen>, Option<LeftReason>) {
        let mut seen = Vec::new();
        loop {
            match self.hall.poll_transmit(self.now, conn) {
                Transmit::Record(bytes) => seen.push(Seen::of(&bytes)),
                Transmit::Wait => return (seen, None),
                Transmit::Close(reason) => return (seen, Some(reason)),
            }
        }
    }

    pub fn read(&mut self, conn: ConnId) -> Vec<Seen> {
        self.read_all(conn).0
    }

    /// What the shell is to do.
    pub fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.hall.poll_event()).collect()
    }

    /// The key for STUN of its welcome.
    pub fn stun_key(&mut self, conn: ConnId) -> [u8; STUN_KEY_LEN] {
        let Transmit::Record(bytes) = self.hall.poll_transmit(self.now, conn) else { panic!("no welcome") };
        let Ok(Some(FromRelay::Welcome { stun_key, .. })) = FromRelay::decode(&bytes) else { panic!("no welcome") };
        stun_key
    }

    /// The sums are those of the parts, and nothing is more than it may be.
    pub fn check(&self) {
        let hall = &self.hall;
        let queues = || hall.clients.values().map(|client| &client.queue);
        assert_eq!(hall.control_bytes, queues().map(Queue::control_bytes).sum::<usize>());
        assert_eq!(hall.train_bytes, queues().map(Queue::train_bytes).sum::<usize>());
        assert!(hall.control_bytes <= hall.settings.control_bytes_of_all);
        assert!(hall.train_bytes <= hall.settings.train_bytes_of_all);
        assert!(queues().all(|queue| queue.answer_bytes() <= hall.settings.queue.control_bytes));
        let mut waiting: BTreeMap<Network, usize> = BTreeMap::new();
        for client in hall.clients.values().filter(|client| client.queue.train_bytes() > 0) {
            *waiting.entry(Network::of(client.observed.ip())).or_default() += client.queue.train_bytes();
        }
        assert_eq!(hall.waiting, waiting);
        assert!(hall.unreported.is_empty(), "somebody was not told");
        let in_hall = hall.clients.iter().filter(|(_, client)| client.closing.is_none());
        assert!(in_hall.clone().all(|(conn, client)| hall.holders.get(&client.key) == Some(conn)));
        assert_eq!(in_hall.clone().count(), hall.holders.len());
        assert_eq!(hall.leaving.values().sum::<usize>(), hall.clients.len() - hall.holders.len());
        let members = hall.rooms.iter().flat_map(|(name, entry)| entry.peers.iter().map(move |(peer, conn)| (name, peer, conn)));
        let mut count = 0;
        for (name, peer, conn) in members {
            let client = &hall.clients[conn];
            assert!(client.closing.is_none() && client.key == *peer && client.rooms.contains(name));
            assert!(client.direct.iter().all(|other| hall.reach(*conn, *other).is_some()));
            count += 1;
        }
        assert_eq!(count, in_hall.map(|(_, client)| client.rooms.len()).sum::<usize>());
        assert!(hall.rooms.values().all(|entry| !entry.peers.is_empty()));
    }
}
