//! The UDP sockets of STUN and TURN, and what is done with what comes there.
//!
//! Binding goes to the STUN server of its IP version, all else to the TURN server. They are state machines of the engine, each behind
//! a lock that is held while one batch is handled and never while something is sent. A relayed address is a socket with a task of its
//! own, from Allocate until the engine says that nobody has it any more.
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use adit_engine::stun::codec::{BINDING, Key, is_stun};
use adit_engine::stun::server::{self as stun, Name, Place};
use adit_engine::turn::{self, Event, Link, Now, Outside, Side, Train, Transmit, Tuple};
use tokio::task::AbortHandle;

use crate::streams::Streams;

mod socket;

pub(crate) use socket::Socket;
use socket::{Received, Sending, Sent};

/// The clients of the relay, as the STUN server knows them. It is asked while the server is locked, and locks nothing that waits for the
/// server.
pub trait Clients: Send + Sync {
    /// The key of the one with this name.
    fn key(&self, name: &Name) -> Option<Key>;

    /// This one is reached by UDP at this address. The server is not locked meanwhile.
    fn is_at(&self, name: &Name, at: SocketAddr);
}

/// One socket of clients: which of the STUN servers it is of, and where in it.
pub(crate) struct Bound {
    pub(crate) server: usize,
    pub(crate) place: Place,
    pub(crate) socket: Socket,
}

/// What the tasks share.
pub(crate) struct Shared {
    /// One for each IP version.
    stun: Vec<Mutex<stun::Server>>,
    turn: Option<Mutex<turn::Server>>,
    clients: Arc<dyn Clients>,
    sockets: Vec<Bound>,
    relayed: Mutex<HashMap<SocketAddr, (Arc<Socket>, AbortHandle)>>,
    pub(crate) streams: Streams,
    /// A connection without an allocation ends after so long.
    pub(crate) stream_idle: Duration,
    counts: [AtomicU64; Own::NAMES.len()],
}

/// What is counted beside the servers.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Own {
    /// What found no room on its way out, and what had no way.
    Full,
    Failed,
    /// What came from port 0, where nobody is.
    FromNowhere,
    /// Tasks that were begun anew after a fault of the program.
    Panics,
}

impl Own {
    const NAMES: [&'static str; 4] = ["full", "failed", "from_nowhere", "panics"];
}

/// A lock whose holder has panicked is taken all the same: what it guards is checked with every packet.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Both clocks.
fn now() -> Now {
    let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    Now { at: Instant::now(), unix }
}

/// Bytes that nobody can predict. The system's generator does not fail once it has been seeded.
fn random(out: &mut [u8]) {
    if aws_lc_rs::rand::fill(out).is_err() {
        std::process::abort();
    }
}

/// Serves one of the sockets of clients for ever.
pub(crate) async fn serve(shared: Arc<Shared>, index: usize) {
    shared.sockets[index].socket.receive_all(|received| handle(&shared, index, &received)).await;
}

/// Ends allocations that have come to their end.
pub(crate) fn handle_timeout(shared: &Shared) {
    with_turn(shared, |turn| turn.handle_timeout(Instant::now()));
}

/// What came to one of the sockets of clients.
fn handle(shared: &Arc<Shared>, index: usize, received: &Received<'_>) {
    if received.from.port() == 0 {
        return shared.count(Own::FromNowhere);
    }
    let segment = if received.segment == 0 { received.bytes.len().max(1) } else { received.segment };
    // The type of a Binding request and its cookie: all else is TURN's or nobody's.
    let is_binding = |bytes: &[u8]| is_stun(bytes) && bytes[..2] == BINDING.to_be_bytes();
    if !received.bytes.chunks(segment).any(is_binding) {
        return handle_turn(shared, index, received, received.bytes, received.segment);
    }
    for datagram in received.bytes.chunks(segment) {
        if is_binding(datagram) {
            handle_binding(shared, index, received.from, datagram);
        } else {
            handle_turn(shared, index, received, datagram, 0);
        }
    }
}

fn handle_binding(shared: &Shared, index: usize, from: SocketAddr, datagram: &[u8]) {
    let Some(Bound { server, place, .. }) = shared.sockets.get(index) else { return };
    let mut keys = |name: &Name| shared.clients.key(name);
    let answer =
        shared.stun.get(*server).and_then(|stun| lock(stun).handle_datagram(Instant::now(), *place, from, datagram, &mut keys));
    let Some(answer) = answer else { return };
    if let Some(name) = &answer.registers {
        shared.clients.is_at(name, answer.to);
    }
    if let Some(other) = shared.sockets.iter().find(|other| (other.server, other.place) == (*server, answer.from)) {
        let sending = Sending { to: answer.to, bytes: &answer.bytes, segment: 0, ecn: 0, whole: false };
        shared.tell(other.socket.send(sending));
    }
}

fn handle_turn(shared: &Arc<Shared>, index: usize, received: &Received<'_>, bytes: &[u8], segment: usize) {
    let link = Link::Udp(u8::try_from(index).unwrap_or(u8::MAX));
    let (from, train) = (Tuple { client: received.from, link }, Train { bytes, segment, ecn: received.ecn });
    handle_client(shared, from, train);
}

/// What a client of TURN has sent, by whatever link.
pub(crate) fn handle_client(shared: &Arc<Shared>, from: Tuple, train: Train<'_>) {
    let mut open = |at| open_relayed(shared, at);
    with_turn(shared, |turn| turn.handle_client(now(), from, train, &mut Outside { random: &mut random, open: &mut open }));
}

/// Whether a client has an allocation.
pub(crate) fn has_allocation(shared: &Shared, from: Tuple) -> bool {
    shared.turn.as_ref().is_some_and(|turn| lock(turn).has_allocation(from))
}

/// A connection has ended.
pub(crate) fn handle_closed(shared: &Shared, from: Tuple) {
    with_turn(shared, |turn| turn.handle_closed(from));
}

/// Does something with the TURN server, then what follows from it.
fn with_turn(shared: &Shared, act: impl FnOnce(&mut turn::Server)) {
    let Some(turn) = &shared.turn else { return };
    let mut transmits: Vec<Transmit> = Vec::new();
    {
        let mut turn = lock(turn);
        act(&mut turn);
        transmits.extend(std::iter::from_fn(|| turn.poll_transmit()));
        // While nobody else can be lent the same port.
        while let Some(Event::Closed(at)) = turn.poll_event() {
            if let Some((_, task)) = lock(&shared.relayed).remove(&at) {
                task.abort();
            }
        }
    }
    transmits.into_iter().for_each(|transmit| shared.send(transmit));
}

/// Opens a socket at a relayed address and gives it a task.
fn open_relayed(shared: &Arc<Shared>, at: SocketAddr) -> bool {
    let Ok(socket) = Socket::bind_relayed(at) else { return false };
    let socket = Arc::new(socket);
    let (owner, of_task) = (Arc::downgrade(shared), socket.clone());
    let task = tokio::spawn(async move {
        let each = |received: Received<'_>| {
            let Some(shared) = owner.upgrade() else { return };
            if received.from.port() == 0 {
                return shared.count(Own::FromNowhere);
            }
            let train = Train { bytes: received.bytes, segment: received.segment, ecn: received.ecn };
            with_turn(&shared, |turn| turn.handle_peer(now(), at, received.from, train));
        };
        of_task.receive_all(each).await;
    });
    lock(&shared.relayed).insert(at, (socket, task.abort_handle()));
    true
}

impl Shared {
    pub(crate) fn new(
        stun: Vec<stun::Config>,
        turn: Option<turn::Config>,
        sockets: Vec<Bound>,
        clients: Arc<dyn Clients>,
        stream_idle: Duration,
    ) -> Arc<Shared> {
        let now = Instant::now();
        Arc::new(Shared {
            stun: stun.into_iter().map(|config| Mutex::new(stun::Server::new(config, now, &mut random))).collect(),
            turn: turn.map(|config| Mutex::new(turn::Server::new(config, now, &mut random))),
            clients,
            sockets,
            relayed: Mutex::default(),
            streams: Streams::default(),
            stream_idle,
            counts: Default::default(),
        })
    }

    /// Where the sockets of clients are.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.sockets.iter().filter_map(|bound| bound.socket.local_addr().ok()).collect()
    }

    pub(crate) fn allocations(&self) -> usize {
        self.turn.as_ref().map_or(0, |turn| lock(turn).allocations())
    }

    /// From now on nobody is lent an address.
    pub(crate) fn drain(&self) {
        self.turn.iter().for_each(|turn| lock(turn).drain());
    }

    /// Ends what has a task of its own.
    pub(crate) fn close_all(&self) {
        let relayed: Vec<_> = lock(&self.relayed).drain().collect();
        relayed.into_iter().for_each(|(_, (_, task))| task.abort());
        self.streams.close_all();
    }

    /// All counters: who counts, what, and how much.
    pub(crate) fn counters(&self) -> Vec<(&'static str, &'static str, u64)> {
        let mut all: Vec<(&str, &str, u64)> = Vec::new();
        for (server, stun) in self.stun.iter().enumerate() {
            let stun = lock(stun);
            for (place, (name, count)) in stun.counters().named().enumerate() {
                if server == 0 {
                    all.push(("stun", name, count));
                } else {
                    all[place].2 += count;
                }
            }
        }
        if let Some(turn) = &self.turn {
            all.extend(lock(turn).counters().named().map(|(name, count)| ("turn", name, count)));
        }
        all.extend(Own::NAMES.into_iter().zip(&self.counts).map(|(name, count)| ("udp", name, count.load(Ordering::Relaxed))));
        all.extend(self.streams.named().map(|(name, count)| ("stream", name, count)));
        all
    }

    fn send(&self, transmit: Transmit) {
        let Transmit { from, to, bytes, segment, ecn, whole } = transmit;
        let sending = Sending { to, bytes: &bytes, segment, ecn, whole };
        let sent = match from {
            Side::Client(Link::Udp(index)) => self.sockets.get(usize::from(index)).map(|bound| bound.socket.send(sending)),
            // What is dropped there is counted there.
            Side::Client(Link::Stream(number)) => return self.streams.send(number, bytes),
            Side::Relayed(at) => {
                let socket = lock(&self.relayed).get(&at).map(|(socket, _)| socket.clone());
                socket.map(|socket| socket.send(sending))
            }
        };
        self.tell(sent.unwrap_or(Sent::Failed));
    }

    fn tell(&self, sent: Sent) {
        match sent {
            Sent::Whole => {}
            Sent::Full => self.count(Own::Full),
            Sent::Failed => self.count(Own::Failed),
        }
    }

    pub(crate) fn count(&self, what: Own) {
        self.counts[what as usize].fetch_add(1, Ordering::Relaxed);
    }
}
