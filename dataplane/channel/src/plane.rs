//! The data plane's side: the memory that it makes, and a port into it for each worker.

use std::cell::Cell;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use adit_proto::codec::DecodeError;
use adit_proto::control::{
    Command, Direction, Event, InjectHeader, PathId, PeerId, PeerTag, PuntHeader, RECORD_LEN_MAX, TrainHeader,
};
use adit_proto::histogram::{BUCKETS, bucket_of};
use adit_proto::limits::SEGMENTS_OF_TRAIN_MAX;
use adit_proto::stats::{Count, Drop, Gauge, Latency};
use zeroize::Zeroizing;

use crate::counters::{CounterBlock, add};
use crate::drops::DropTable;
use crate::fd::EventFd;
use crate::info::{HEADER_WORDS, PlaneInfo, to_bytes, to_words};
use crate::layout::{Layout, PAGE_BYTES, Sizes, WorkerBlock};
use crate::limits::BAD_RECORDS_MAX;
use crate::live::{LiveSa, LiveTable};
use crate::paths::{PathCount, PathTable};
use crate::ring::{Consumer, Next, Producer, PushError};
use crate::shm::{self, Mapping, Words};
use crate::words::store_bytes;

/// Rings of a worker, as bits of its status word.
#[derive(Clone, Copy)]
enum Ring {
    Commands = 0,
    Injects = 1,
    Events = 2,
    Punts = 3,
    TrainsUp = 4,
    TrainsDown = 5,
}

/// Why a datagram or a train was not handed up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PuntError {
    /// The ring is full (or corrupt, which the counters then say).
    Full,
    /// No control plane is attached.
    NoMaster,
}

/// Process id of the attached master, 0 when there is none. Private memory: no master can write it.
#[derive(Debug, Default)]
pub(crate) struct Attached(AtomicU32);

impl Attached {
    pub(crate) fn set(&self, pid: u32) {
        self.0.store(pid, Ordering::Relaxed);
    }

    fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed) != 0
    }
}

/// The shared memory of a data plane, with all that a master needs to use it.
#[derive(Debug)]
pub struct Region {
    pub(crate) memory: Arc<OwnedFd>,
    /// Signalled by the workers.
    pub(crate) up: Arc<EventFd>,
    /// Signalled by the master, one per worker.
    pub(crate) down: Vec<Arc<EventFd>>,
    pub(crate) attached: Arc<Attached>,
    layout: Layout,
}

impl Region {
    /// Makes the memory and one port per worker. `InvalidInput` when a size is out of range or the info is too long.
    pub fn create(sizes: &Sizes, info: &PlaneInfo) -> io::Result<(Region, Vec<Port>)> {
        let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidInput, what.to_owned());
        let layout = Layout::new(*sizes).ok_or_else(|| invalid("a size of the channel is out of range"))?;
        if (info.workers, info.sa_slots) != (layout.sizes.workers, layout.sizes.sa_slots) {
            return Err(invalid("the info of the data plane contradicts the sizes of the channel"));
        }
        let memory = shm::create_sealed(layout.bytes() as u64)?;
        let mapping = Mapping::new(memory.as_fd(), layout.bytes())?;
        let region = Region {
            memory: Arc::new(memory),
            up: Arc::new(EventFd::new()?),
            down: (0..layout.workers.len()).map(|_| EventFd::new().map(Arc::new)).collect::<io::Result<_>>()?,
            attached: Arc::default(),
            layout: layout.clone(),
        };
        let part = |range: std::ops::Range<usize>| mapping.words(range).expect("the layout lies inside its own memory");
        let ports = layout.workers.iter().zip(&region.down);
        let ports = ports.map(|(block, down)| Port::new(block, &part, &region, down)).collect();
        region.describe(info)?;
        Ok((region, ports))
    }

    /// Says something else about the data plane than [`Region::create`] was given: before a master is let in, who reads it once. The
    /// sizes stay. `InvalidInput` when it is too long.
    pub fn describe(&self, info: &PlaneInfo) -> io::Result<()> {
        let too_long = || io::Error::new(io::ErrorKind::InvalidInput, "the info of the data plane is too long");
        let mut encoded = vec![0; self.layout.info.len() * size_of::<u64>()];
        let info_len = info.encode(&mut encoded).ok_or_else(too_long)?;
        let head = Mapping::new(self.memory(), PAGE_BYTES)?;
        let words = head.words(0..self.layout.info.end).expect("header and info lie in the first page");
        store_bytes(&words[self.layout.info.clone()], &encoded[..info_len]);
        self.layout.write_header(&words, info_len);
        Ok(())
    }

    /// Length of the memory in bytes.
    pub fn memory_bytes(&self) -> usize {
        self.layout.bytes()
    }

    /// The memory itself.
    pub fn memory(&self) -> BorrowedFd<'_> {
        self.memory.as_fd()
    }
}

/// A worker's end of the channel. It belongs to one thread at a time; its counters are that thread's alone.
#[derive(Debug)]
pub struct Port {
    commands: Consumer<Words>,
    injects: Consumer<Words>,
    events: Producer<Words>,
    punts: Producer<Words>,
    trains_up: Producer<Words>,
    trains_down: Consumer<Words>,
    counters: CounterBlock<Words>,
    latencies: Words,
    live: LiveTable<Words>,
    paths: PathTable<Words>,
    drops: DropTable<Words>,
    attached: Arc<Attached>,
    up: Arc<EventFd>,
    down: Arc<EventFd>,
    /// Counting through `&self` is sound for one writer only: not `Sync`.
    _single_writer: PhantomData<Cell<()>>,
}

/// Reads the turns of a worker, from any thread.
#[derive(Debug)]
pub struct Turns(CounterBlock<Words>);

impl Turns {
    pub fn now(&self) -> u64 {
        self.0.read().count(Count::Turns)
    }
}

impl Port {
    fn new(block: &WorkerBlock, part: &impl Fn(std::ops::Range<usize>) -> Words, region: &Region, down: &Arc<EventFd>) -> Port {
        const FRESH: &str = "fresh memory is an empty ring";
        Port {
            commands: Consumer::attach(part(block.commands.clone()), true).expect(FRESH),
            injects: Consumer::attach(part(block.injects.clone()), false).expect(FRESH),
            events: Producer::attach(part(block.events.clone())).expect(FRESH),
            punts: Producer::attach(part(block.punts.clone())).expect(FRESH),
            trains_up: Producer::attach(part(block.trains_up.clone())).expect(FRESH),
            trains_down: Consumer::attach(part(block.trains_down.clone()), false).expect(FRESH),
            counters: CounterBlock::new(part(block.counters.clone())),
            latencies: part(block.latencies.clone()),
            live: LiveTable::new(part(block.live.clone())),
            paths: PathTable::new(part(block.paths.clone())),
            drops: DropTable::new(part(block.drops.clone())),
            attached: Arc::clone(&region.attached),
            up: Arc::clone(&region.up),
            down: Arc::clone(down),
            _single_writer: PhantomData,
        }
    }

    /// The next command of the master and its ticket; one load when there is none. A record that makes no sense gives its
    /// ticket too, so that it can be refused. The record is overwritten in the ring: it may hold a key.
    #[inline]
    pub fn next_command(&mut self) -> Option<(u32, Result<Command, DecodeError>)> {
        if !self.commands.is_ready() && !self.commands.is_corrupt() {
            return None;
        }
        self.take_command()
    }

    fn take_command(&mut self) -> Option<(u32, Result<Command, DecodeError>)> {
        let mut record = Zeroizing::new([0; RECORD_LEN_MAX]);
        match self.commands.take(&mut [], &mut *record) {
            Next::Empty => None,
            Next::Record { tag, len } => Some((tag, Command::decode(&record[..len]))),
            Next::Skipped { tag } => Some((tag, Err(DecodeError::Trailing))),
            Next::Corrupt => self.corrupt(Ring::Commands),
        }
    }

    /// Reports to the master; kept in the ring while none is attached. False when the ring is full.
    pub fn emit(&mut self, event: &Event) -> bool {
        let mut record = [0; RECORD_LEN_MAX];
        let len = event.encode(&mut record);
        let pushed = self.events.push(0, &[], &record[..len]);
        self.after_push(pushed, Ring::Events).is_ok()
    }

    /// Hands a datagram up to the master.
    pub fn punt(&mut self, header: &PuntHeader, bytes: &[u8]) -> Result<(), PuntError> {
        if !self.attached.is_set() {
            return Err(PuntError::NoMaster);
        }
        let mut encoded = [0; PuntHeader::LEN_MAX];
        header.encode(&mut encoded);
        let pushed = self.punts.push(0, &to_words(&encoded), bytes);
        self.after_push(pushed, Ring::Punts)
    }

    /// Gives a train of ESP packets to the master, which sends it in a stream.
    pub fn train_up(&mut self, header: TrainHeader, bytes: &[u8]) -> Result<(), PuntError> {
        if !self.attached.is_set() {
            return Err(PuntError::NoMaster);
        }
        let pushed = self.trains_up.push(0, &header.to_words(), bytes);
        self.after_push(pushed, Ring::TrainsUp)
    }

    /// Whether the master has a train that came in a stream. One load when it has none.
    #[inline]
    pub fn has_trains(&mut self) -> bool {
        let ready = self.trains_down.is_ready();
        if !ready && self.trains_down.is_corrupt() {
            self.counters.mark_corrupt(Ring::TrainsDown as u32);
        }
        ready
    }

    /// The next train that came in a stream, in `window`: its header and its length in bytes. Without a meaning, longer than the window or
    /// with more packets than a train can have it is counted as [`Drop::TrainBad`] and passed over.
    pub fn next_train(&mut self, window: &mut [u8]) -> Option<(TrainHeader, usize)> {
        let mut prefix = [0; TrainHeader::WORDS];
        for _ in 0..BAD_RECORDS_MAX {
            match self.trains_down.take(&mut prefix, window) {
                Next::Empty => return None,
                Next::Record { len, .. } => match TrainHeader::from_words(prefix) {
                    Ok(header) if (1..=SEGMENTS_OF_TRAIN_MAX).contains(&header.packets(len)) => return Some((header, len)),
                    Ok(_) | Err(_) => {}
                },
                Next::Skipped { .. } => {}
                Next::Corrupt => return self.corrupt(Ring::TrainsDown),
            }
            self.drop(Drop::TrainBad, 1);
        }
        None
    }

    fn after_push(&self, pushed: Result<bool, PushError>, ring: Ring) -> Result<(), PuntError> {
        match pushed {
            Ok(reader_may_sleep) => {
                if reader_may_sleep {
                    self.up.signal();
                }
                Ok(())
            }
            Err(PushError::Full | PushError::TooLong) => Err(PuntError::Full),
            Err(PushError::Corrupt) => {
                self.counters.mark_corrupt(ring as u32);
                Err(PuntError::Full)
            }
        }
    }

    /// Whether the master wants a datagram sent. One load when it does not.
    #[inline]
    pub fn has_injects(&mut self) -> bool {
        let ready = self.injects.is_ready();
        if !ready && self.injects.is_corrupt() {
            self.counters.mark_corrupt(Ring::Injects as u32);
        }
        ready
    }

    /// The next datagram that the master wants sent: how, and its length in `buf`. One load when there is none.
    /// Datagrams without a meaning or longer than `buf` are counted as [`Drop::InjectBad`] and passed over.
    #[inline]
    pub fn next_inject(&mut self, buf: &mut [u8]) -> Option<(InjectHeader, usize)> {
        let mut prefix = [0; HEADER_WORDS];
        for _ in 0..BAD_RECORDS_MAX {
            match self.injects.take(&mut prefix, buf) {
                Next::Empty => return None,
                Next::Record { len, .. } => {
                    if let Ok(header) = InjectHeader::decode(&to_bytes(&prefix)) {
                        return Some((header, len));
                    }
                }
                Next::Skipped { .. } => {}
                Next::Corrupt => return self.corrupt(Ring::Injects),
            }
            self.drop(Drop::InjectBad, 1);
        }
        None
    }

    #[cold]
    fn corrupt<T>(&self, ring: Ring) -> Option<T> {
        self.counters.mark_corrupt(ring as u32);
        None
    }

    /// Readable when the master has sent commands or datagrams. Poll it (it never blocks), then [`Port::acknowledge`],
    /// then take everything, then sleep again.
    pub fn wake_fd(&self) -> BorrowedFd<'_> {
        self.down.as_fd()
    }

    /// How many turns the worker has made, for a thread that looks whether it lives.
    pub fn turns(&self) -> Turns {
        Turns(self.counters.clone())
    }

    /// What makes [`Port::wake_fd`] readable, for others than the master.
    pub fn waker(&self) -> Arc<EventFd> {
        Arc::clone(&self.down)
    }

    /// Takes the master's signals, so that [`Port::wake_fd`] is no longer readable.
    pub fn acknowledge(&self) {
        self.down.acknowledge();
    }

    /// Adds to a count.
    #[inline]
    pub fn count(&self, count: Count, n: u64) {
        self.counters.count(count, n);
    }

    /// Adds to a count of drops.
    #[inline]
    pub fn drop(&self, drop: Drop, n: u64) {
        self.counters.drop(drop, n);
    }

    /// Sets a gauge.
    #[inline]
    pub fn gauge(&self, gauge: Gauge, value: i64) {
        self.counters.gauge(gauge, value);
    }

    /// Counts a latency in nanoseconds.
    #[inline]
    pub fn latency(&self, latency: Latency, ns: u64) {
        add(&self.latencies[latency as usize * BUCKETS + bucket_of(ns)], 1);
    }

    /// Shows an SA to the master in a slot below `sa_slots`; false when there is no such slot.
    pub fn sa_install(&self, slot: u32, sa: &LiveSa) -> bool {
        self.live.install(slot, sa)
    }

    /// Brings the moving numbers of a slot up to date: sequence number, packets and bytes so far.
    #[inline]
    pub fn sa_update(&self, slot: u32, seq: u64, packets: u64, bytes: u64) {
        self.live.update(slot, seq, packets, bytes);
    }

    /// Shows a new limit of the sequence numbers of a slot.
    pub fn sa_limit(&self, slot: u32, seq_limit: u64) {
        self.live.set_limit(slot, seq_limit);
    }

    /// Begins to count for a path in a slot below `path_slots`; without one nothing is counted.
    pub fn path_install(&self, slot: u16, peer: PeerId, path: PathId) {
        self.paths.install(slot, peer, path);
    }

    /// Begins to count drops for a peer; goes on where this very peer had the id already.
    pub fn peer_install(&self, peer: PeerId, tag: PeerTag) {
        self.drops.install(peer, tag);
    }

    /// Ends counting drops for the peer that has this id.
    pub fn peer_remove(&self, peer: PeerId) {
        self.drops.remove(peer);
    }

    /// Counts packets of a peer that were dropped: for that peer, and among all.
    #[cold]
    pub fn drop_of(&self, peer: PeerId, direction: Direction, drop: Drop, n: u64) {
        self.drop(drop, n);
        self.drops.add(peer, direction, drop, n);
    }

    /// Ends counting in a slot.
    pub fn path_remove(&self, slot: u16) {
        self.paths.remove(slot);
    }

    /// Counts for the path of a slot.
    #[inline]
    pub fn path_count(&self, slot: u16, count: PathCount, n: u64) {
        self.paths.add(slot, count, n);
    }

    /// Counts authentic packets on the path of a slot, at a time in nanoseconds of CLOCK_MONOTONIC.
    #[inline]
    pub fn path_received(&self, slot: u16, packets: u64, bytes: u64, now_ns: u64) {
        self.paths.received(slot, packets, bytes, now_ns);
    }

    /// The SA of a slot is gone. The master reads what it has carried until another one takes the slot: leave it alone for long.
    pub fn sa_remove(&self, slot: u32) {
        self.live.retire(slot);
    }
}
