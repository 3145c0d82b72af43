//! The connections of TURN over TCP and TLS: how many there are, what waits for each, and what became of them.
//!
//! Who has no allocation is a stranger, and there are only so many of them: when one more comes, the one goes who has been there longest.
//! For a client answers wait apart from payload and go first, since over a stream nobody asks twice (RFC 8489 §6.2.2); payload that has
//! waited for a tenth of a second is dropped, oldest first, as a full queue does with UDP.
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::task::AbortHandle;

use crate::dice::dice;
use crate::limits::{
    STREAM_ANSWER_BYTES_MAX, STREAM_HANDSHAKES_OF_NETWORK_PER_S, STREAM_HANDSHAKES_PER_S, STREAM_QUEUE_BYTES_MAX,
    STREAM_STRANGERS_MAX, STREAMS_MAX, STREAMS_OF_NETWORK_MAX,
};
use crate::quotas::{Network, Rate, Share, Shares};

/// Payload that has waited for so long is of no use any more.
const SOJOURN: Duration = Duration::from_millis(100);
/// What it takes to keep a message, in bytes, beside its own.
const COST: usize = 64;
/// The type of a Data indication (RFC 8656 §17): payload, as is ChannelData, whose first bits are others than those of STUN.
const DATA_INDICATION: [u8; 2] = [0x00, 0x17];

/// What becomes of connections.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Stream {
    Accepted,
    /// There were too many, of its network or of all.
    Refused,
    /// Too many handshakes of TLS in a second, of its network or of all.
    Handshakes,
    /// A newer one had to have its place, and it had no allocation.
    PushedOut,
    /// It held something else than TURN.
    NotTurn,
    /// It had no allocation.
    Idle,
    /// Its client took nothing any more.
    Stuck,
    /// Messages that were dropped: payload that waited too long, or made room for newer one, and answers without room.
    Late,
    Full,
    AnswersLost,
}

impl Stream {
    const NAMES: [&'static str; 10] =
        ["accepted", "refused", "handshakes", "pushed_out", "not_turn", "idle", "stuck", "late", "full", "answers_lost"];
}

/// What waits for one client.
#[derive(Default)]
struct Waiting {
    answers: VecDeque<Vec<u8>>,
    payload: VecDeque<(Instant, Vec<u8>)>,
    answer_bytes: usize,
    payload_bytes: usize,
}

/// How many messages were dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Dropped {
    late: u64,
    full: u64,
    answers: u64,
}

impl Waiting {
    fn push(&mut self, now: Instant, bytes: Vec<u8>) -> Dropped {
        let (cost, mut dropped) = (bytes.len() + COST, Dropped::default());
        let is_payload = bytes.first().is_none_or(|first| first >> 6 != 0) || bytes.starts_with(&DATA_INDICATION);
        if is_payload {
            self.payload_bytes += cost;
            self.payload.push_back((now, bytes));
            while self.payload_bytes > STREAM_QUEUE_BYTES_MAX {
                dropped.full += u64::from(self.pop_payload().is_some());
            }
        } else if self.answer_bytes + cost > STREAM_ANSWER_BYTES_MAX {
            dropped.answers += 1;
        } else {
            self.answer_bytes += cost;
            self.answers.push_back(bytes);
        }
        dropped
    }

    fn pop_payload(&mut self) -> Option<(Instant, Vec<u8>)> {
        let (since, bytes) = self.payload.pop_front()?;
        self.payload_bytes -= bytes.len() + COST;
        Some((since, bytes))
    }

    fn pop(&mut self, now: Instant) -> (Option<Vec<u8>>, Dropped) {
        let mut dropped = Dropped::default();
        if let Some(bytes) = self.answers.pop_front() {
            self.answer_bytes -= bytes.len() + COST;
            return (Some(bytes), dropped);
        }
        while let Some((since, bytes)) = self.pop_payload() {
            if now.saturating_duration_since(since) < SOJOURN {
                return (Some(bytes), dropped);
            }
            dropped.late += 1;
        }
        (None, dropped)
    }
}

/// Between who has something for a client and who writes it.
#[derive(Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    has_more: Notify,
}

impl Queue {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where the task of a connection gets what it is to write.
pub(crate) struct Inlet {
    queue: Arc<Queue>,
    counts: Arc<Counts>,
}

impl Inlet {
    /// The next message, once there is one.
    pub(crate) async fn next(&mut self) -> Vec<u8> {
        loop {
            let (next, dropped) = self.queue.waiting().pop(Instant::now());
            self.counts.dropped(dropped);
            match next {
                Some(bytes) => return bytes,
                None => self.queue.has_more.notified().await,
            }
        }
    }
}

#[derive(Default)]
struct Counts([AtomicU64; Stream::NAMES.len()]);

impl Counts {
    fn add(&self, what: Stream, count: u64) {
        self.0[what as usize].fetch_add(count, Ordering::Relaxed);
    }

    fn dropped(&self, dropped: Dropped) {
        for (what, count) in [(Stream::Late, dropped.late), (Stream::Full, dropped.full), (Stream::AnswersLost, dropped.answers)]
        {
            self.add(what, count);
        }
    }
}

/// One connection.
struct Outlet {
    queue: Arc<Queue>,
    network: Network,
    /// None until it has begun.
    task: Option<AbortHandle>,
}

/// Who is there.
#[derive(Default)]
struct Table {
    outlets: HashMap<u64, Outlet>,
    of_network: HashMap<Network, usize>,
    /// Those without an allocation, the oldest first.
    strangers: BTreeSet<u64>,
}

impl Table {
    fn remove(&mut self, number: u64) -> Option<Outlet> {
        let outlet = self.outlets.remove(&number)?;
        self.strangers.remove(&number);
        if let Some(count) = self.of_network.get_mut(&outlet.network) {
            *count -= 1;
            if *count == 0 {
                self.of_network.remove(&outlet.network);
            }
        }
        Some(outlet)
    }
}

/// How many handshakes there may be in a second.
struct Handshakes {
    of_network: Shares,
    of_all: Share,
}

/// All connections, by their numbers.
pub(crate) struct Streams {
    table: Mutex<Table>,
    handshakes: Mutex<Handshakes>,
    next: AtomicU64,
    counts: Arc<Counts>,
}

impl Default for Streams {
    fn default() -> Streams {
        let handshakes = Handshakes { of_network: Shares::new(&mut dice), of_all: Share::default() };
        Streams { table: Mutex::default(), handshakes: Mutex::new(handshakes), next: AtomicU64::new(0), counts: Arc::default() }
    }
}

impl Streams {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets bytes wait for a client. What is dropped for them, or of them, is counted here.
    pub(crate) fn send(&self, number: u64, bytes: Vec<u8>) {
        let Some(queue) = self.table().outlets.get(&number).map(|outlet| outlet.queue.clone()) else { return };
        let dropped = queue.waiting().push(Instant::now(), bytes);
        self.counts.dropped(dropped);
        queue.has_more.notify_one();
    }

    /// Whether a handshake of TLS may begin.
    pub(crate) fn may_shake_hands(&self, now: Instant, client: SocketAddr) -> bool {
        let mut handshakes = self.handshakes.lock().unwrap_or_else(PoisonError::into_inner);
        let (of_network, of_all) = (STREAM_HANDSHAKES_OF_NETWORK_PER_S, STREAM_HANDSHAKES_PER_S);
        let may = handshakes.of_network.take(now, Network::of(client.ip()), Rate::per_second(of_network.into())).is_ok()
            && handshakes.of_all.take(now, 1, Rate::per_second(of_all.into())).is_ok();
        if !may {
            self.count(Stream::Handshakes);
        }
        may
    }

    /// Keeps a connection and begins its task, with its number; false where there is no room. The task says with [`Streams::remove`] that
    /// it has ended.
    pub(crate) fn admit(&self, client: SocketAddr, begin: impl FnOnce(u64, Inlet) -> AbortHandle) -> bool {
        let network = Network::of(client.ip());
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let queue = Arc::new(Queue::default());
        {
            let mut table = self.table();
            let of_network = table.of_network.get(&network).copied().unwrap_or_default();
            let is_full = table.outlets.len() >= STREAMS_MAX;
            if of_network >= STREAMS_OF_NETWORK_MAX || (is_full && table.strangers.is_empty()) {
                self.count(Stream::Refused);
                return false;
            }
            if is_full || table.strangers.len() >= STREAM_STRANGERS_MAX {
                let oldest = table.strangers.first().copied().and_then(|oldest| table.remove(oldest));
                oldest.and_then(|oldest| oldest.task).inspect(AbortHandle::abort);
                self.count(Stream::PushedOut);
            }
            *table.of_network.entry(network).or_default() += 1;
            table.strangers.insert(number);
            table.outlets.insert(number, Outlet { queue: queue.clone(), network, task: None });
        }
        self.count(Stream::Accepted);
        // Outside of the lock: a runtime that ends drops the task at once, and that one says so here.
        let task = begin(number, Inlet { queue, counts: self.counts.clone() });
        match self.table().outlets.get_mut(&number) {
            Some(outlet) => outlet.task = Some(task),
            // It has ended already, or had to go.
            None => task.abort(),
        }
        true
    }

    /// A connection has an allocation now, or none any more.
    pub(crate) fn settle(&self, number: u64, has_allocation: bool) {
        let mut table = self.table();
        if has_allocation {
            table.strangers.remove(&number);
        } else if table.outlets.contains_key(&number) {
            table.strangers.insert(number);
        }
    }

    /// Forgets a connection that has ended.
    pub(crate) fn remove(&self, number: u64) {
        drop(self.table().remove(number));
    }

    pub(crate) fn count(&self, what: Stream) {
        self.counts.add(what, 1);
    }

    /// How many there are.
    pub(crate) fn open(&self) -> usize {
        self.table().outlets.len()
    }

    /// Ends all connections.
    pub(crate) fn close_all(&self) {
        let all: Vec<Outlet> = self.table().outlets.drain().map(|(_, outlet)| outlet).collect();
        all.into_iter().filter_map(|outlet| outlet.task).for_each(|task| task.abort());
    }

    /// The counters with their names.
    pub(crate) fn named(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        Stream::NAMES.into_iter().zip(&self.counts.0).map(|(name, count)| (name, count.load(Ordering::Relaxed)))
    }
}

#[cfg(test)]
mod tests;
