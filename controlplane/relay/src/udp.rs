//! The UDP sockets of STUN and TURN, and what is done with what comes there.
//!
//! Binding goes to the STUN server, all else to the TURN server. Both are state machines of the engine, each behind a lock that is held while
//! one batch is handled and never while something is sent. A relayed address is a socket with a task of its own, from Allocate
//! until the engine says that nobody has it any more.
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use adit_engine::stun::codec::{BINDING, is_stun};
use adit_engine::stun::server::{self as stun, Place, Token};
use adit_engine::turn::{self, Event, Link, Now, Outside, Side, Train, Transmit, Tuple};
use tokio::task::AbortHandle;

use crate::streams::Streams;

mod socket;

pub(crate) use socket::Socket;
use socket::{Received, Sent};

/// Whether a client of the relay has this token; it is reached by UDP at this address.
pub type Knows = Arc<dyn Fn(&Token, SocketAddr) -> bool + Send + Sync>;

/// What the tasks share.
pub(crate) struct Shared {
    stun: Mutex<stun::Server>,
    turn: Option<Mutex<turn::Server>>,
    knows: Knows,
    sockets: Vec<(Place, Socket)>,
    relayed: Mutex<HashMap<SocketAddr, (Arc<Socket>, AbortHandle)>>,
    pub(crate) streams: Streams,
    /// What found no room on its way out, and what had no way.
    full: AtomicU64,
    failed: AtomicU64,
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

fn random_u64() -> u64 {
    let mut bytes = [0; 8];
    random(&mut bytes);
    u64::from_be_bytes(bytes)
}

/// Serves one of the sockets of clients for ever.
pub(crate) async fn serve(shared: Arc<Shared>, index: usize) {
    while shared.sockets[index].1.receive(|received| handle(&shared, index, &received)).await.is_ok() {}
}

/// Ends allocations that have come to their end.
pub(crate) fn handle_timeout(shared: &Shared) {
    with_turn(shared, |turn| turn.handle_timeout(Instant::now()));
}

/// What came to one of the sockets of clients.
fn handle(shared: &Arc<Shared>, index: usize, received: &Received<'_>) {
    let segment = if received.segment == 0 { received.bytes.len().max(1) } else { received.segment };
    // The type of a Binding request and its cookie: all else is TURN's or nobody's.
    let is_binding = |bytes: &[u8]| is_stun(bytes) && bytes[..2] == BINDING.to_be_bytes();
    if !received.bytes.chunks(segment).any(is_binding) {
        return handle_turn(shared, index, received, received.bytes, received.segment);
    }
    for datagram in received.bytes.chunks(segment) {
        if !is_binding(datagram) {
            handle_turn(shared, index, received, datagram, 0);
            continue;
        }
        let (place, mut knows) = (shared.sockets[index].0, |token: &Token, from| (shared.knows)(token, from));
        let answer = lock(&shared.stun).handle_datagram(Instant::now(), place, received.from, datagram, &mut knows);
        let socket = answer.as_ref().and_then(|answer| shared.sockets.iter().find(|(place, _)| *place == answer.from));
        if let (Some(answer), Some((_, socket))) = (&answer, socket) {
            shared.tell(socket.send(answer.to, &answer.bytes, 0, 0));
        }
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
    let Ok(socket) = Socket::bind(at) else { return false };
    let socket = Arc::new(socket);
    let (owner, of_task) = (Arc::downgrade(shared), socket.clone());
    let task = tokio::spawn(async move {
        let each = |received: Received<'_>| {
            let Some(shared) = owner.upgrade() else { return };
            let train = Train { bytes: received.bytes, segment: received.segment, ecn: received.ecn };
            with_turn(&shared, |turn| turn.handle_peer(now(), at, received.from, train));
        };
        while of_task.receive(each).await.is_ok() {}
    });
    lock(&shared.relayed).insert(at, (socket, task.abort_handle()));
    true
}

impl Shared {
    pub(crate) fn new(
        stun: stun::Config,
        turn: Option<turn::Config>,
        sockets: Vec<(Place, Socket)>,
        knows: Knows,
    ) -> Arc<Shared> {
        Arc::new(Shared {
            stun: Mutex::new(stun::Server::new(stun, random_u64())),
            turn: turn.map(|config| Mutex::new(turn::Server::new(config, Instant::now(), &mut random))),
            knows,
            sockets,
            relayed: Mutex::default(),
            streams: Streams::default(),
            full: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        })
    }

    /// Where the sockets of clients are.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.sockets.iter().filter_map(|(_, socket)| socket.local_addr().ok()).collect()
    }

    pub(crate) fn allocations(&self) -> usize {
        self.turn.as_ref().map_or(0, |turn| lock(turn).allocations())
    }

    /// Ends what has a task of its own.
    pub(crate) fn close_all(&self) {
        lock(&self.relayed).drain().for_each(|(_, (_, task))| task.abort());
        self.streams.close_all();
    }

    /// All counters: who counts, what, and how much.
    pub(crate) fn counters(&self) -> Vec<(&'static str, &'static str, u64)> {
        let mut all: Vec<_> = lock(&self.stun).counters().named().map(|(name, count)| ("stun", name, count)).collect();
        if let Some(turn) = &self.turn {
            all.extend(lock(turn).counters().named().map(|(name, count)| ("turn", name, count)));
        }
        let own = [("full", &self.full), ("failed", &self.failed)];
        all.extend(own.map(|(name, count)| ("send", name, count.load(Ordering::Relaxed))));
        all.extend(self.streams.named().map(|(name, count)| ("stream", name, count)));
        all
    }

    fn send(&self, transmit: Transmit) {
        let Transmit { from, to, bytes, segment, ecn } = transmit;
        let sent = match from {
            Side::Client(Link::Udp(index)) => {
                self.sockets.get(usize::from(index)).map(|(_, socket)| socket.send(to, &bytes, segment, ecn))
            }
            Side::Client(Link::Stream(number)) => Some(if self.streams.send(number, bytes) { Sent::Whole } else { Sent::Full }),
            Side::Relayed(at) => {
                let socket = lock(&self.relayed).get(&at).map(|(socket, _)| socket.clone());
                socket.map(|socket| socket.send(to, &bytes, segment, ecn))
            }
        };
        self.tell(sent.unwrap_or(Sent::Failed));
    }

    fn tell(&self, sent: Sent) {
        match sent {
            Sent::Whole => {}
            Sent::Full => {
                self.full.fetch_add(1, Ordering::Relaxed);
            }
            Sent::Failed => {
                self.failed.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}
