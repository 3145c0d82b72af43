//! The connections of TURN over TCP and TLS: how many there are, what waits for each, and what became of them.
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use crate::limits::{STREAM_QUEUE_BYTES_MAX, STREAMS_MAX, STREAMS_OF_NETWORK_MAX};

/// What becomes of connections.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Stream {
    Accepted,
    /// There were too many, of its network or of all.
    Refused,
    /// It held something else than TURN.
    NotTurn,
    /// It had no allocation.
    Idle,
    /// Its client took nothing any more.
    Stuck,
}

impl Stream {
    const NAMES: [&'static str; 5] = ["accepted", "refused", "not_turn", "idle", "stuck"];
}

/// What the task of a connection gets to write.
pub(crate) struct Inlet {
    queue: mpsc::UnboundedReceiver<Vec<u8>>,
    waiting: Arc<AtomicUsize>,
}

impl Inlet {
    /// The next message, until the connection is closed from here. Its bytes count until [`Inlet::written`].
    pub(crate) async fn next(&mut self) -> Option<Vec<u8>> {
        self.queue.recv().await
    }

    pub(crate) fn written(&self, len: usize) {
        self.waiting.fetch_sub(len, Ordering::Relaxed);
    }
}

/// The writing end of one connection.
struct Outlet {
    messages: mpsc::UnboundedSender<Vec<u8>>,
    /// Bytes that wait; they bound the queue.
    waiting: Arc<AtomicUsize>,
    network: IpAddr,
    task: AbortHandle,
}

/// All connections, by their numbers.
#[derive(Default)]
pub(crate) struct Streams {
    open: Mutex<HashMap<u64, Outlet>>,
    next: AtomicU64,
    counts: [AtomicU64; Stream::NAMES.len()],
}

/// The network of a client, which has its share of all connections together.
fn network(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(ip) => IpAddr::from((ip.to_bits() & !0xff).to_be_bytes()),
        IpAddr::V6(ip) => IpAddr::from((ip.to_bits() >> 80 << 80).to_be_bytes()),
    }
}

impl Streams {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Outlet>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets bytes wait for a client, if there is room.
    pub(crate) fn send(&self, number: u64, bytes: Vec<u8>) -> bool {
        let open = self.lock();
        let Some(outlet) = open.get(&number) else { return false };
        let len = bytes.len();
        if outlet.waiting.fetch_add(len, Ordering::Relaxed) + len > STREAM_QUEUE_BYTES_MAX {
            outlet.waiting.fetch_sub(len, Ordering::Relaxed);
            return false;
        }
        outlet.messages.send(bytes).is_ok()
    }

    pub(crate) fn has_room(&self, client: SocketAddr) -> bool {
        let network = network(client.ip());
        let open = self.lock();
        let of_network = open.values().filter(|outlet| outlet.network == network).count();
        open.len() < STREAMS_MAX && of_network < STREAMS_OF_NETWORK_MAX
    }

    /// Keeps a connection, whose task begins within this call, and gives its number.
    pub(crate) fn insert(&self, client: SocketAddr, begin: impl FnOnce(u64, Inlet) -> AbortHandle) {
        self.count(Stream::Accepted);
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (messages, queue) = mpsc::unbounded_channel();
        let waiting = Arc::new(AtomicUsize::new(0));
        // It is known before its task can take it out again.
        let mut open = self.lock();
        let task = begin(number, Inlet { queue, waiting: waiting.clone() });
        open.insert(number, Outlet { messages, waiting, network: network(client.ip()), task });
    }

    /// Forgets a connection that has ended.
    pub(crate) fn remove(&self, number: u64) {
        self.lock().remove(&number);
    }

    pub(crate) fn count(&self, what: Stream) {
        self.counts[what as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Ends all connections.
    pub(crate) fn close_all(&self) {
        self.lock().drain().for_each(|(_, outlet)| outlet.task.abort());
    }

    /// The counters with their names.
    pub(crate) fn named(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        Stream::NAMES.into_iter().zip(&self.counts).map(|(name, count)| (name, count.load(Ordering::Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_a_24_or_a_48() {
        let of = |text: &str| network(text.parse().expect("an address")).to_string();
        assert_eq!([of("192.0.2.77"), of("::ffff:192.0.2.1"), of("2001:db8:1:2::3")], ["192.0.2.0", "192.0.2.0", "2001:db8:1::"]);
    }

    #[tokio::test]
    async fn what_waits_for_a_client_is_bounded() {
        let streams = Streams::default();
        let (client, mut inlet) = ("192.0.2.1:7".parse().expect("an address"), None);
        streams.insert(client, |number, given| {
            assert_eq!(number, 0);
            inlet = Some(given);
            tokio::spawn(async {}).abort_handle()
        });
        let sent = (0..100).filter(|_| streams.send(0, vec![0; 10 << 10])).count();
        assert_eq!((sent, streams.send(1, vec![0])), (STREAM_QUEUE_BYTES_MAX / (10 << 10), false));
        let mut inlet = inlet.expect("an inlet");
        let first = inlet.next().await.expect("a message");
        assert!(!streams.send(0, vec![0; 10 << 10]));
        inlet.written(first.len());
        assert!(streams.send(0, vec![0; 10 << 10]));
        streams.remove(0);
        assert!(!streams.send(0, vec![0]));
    }

    #[tokio::test]
    async fn a_network_has_its_share_of_connections() {
        let streams = Streams::default();
        let (one, same, other): (SocketAddr, SocketAddr, SocketAddr) =
            ("192.0.2.1:7".parse().expect("one"), "192.0.2.2:7".parse().expect("one"), "192.0.3.1:7".parse().expect("one"));
        for _ in 0..STREAMS_OF_NETWORK_MAX {
            assert!(streams.has_room(same));
            streams.insert(one, |_, _| tokio::spawn(async {}).abort_handle());
        }
        assert!(!streams.has_room(same) && streams.has_room(other));
        assert_eq!(streams.named().next(), Some(("accepted", STREAMS_OF_NETWORK_MAX as u64)));
    }
}
