//! The control plane's side: attaches to a running data plane, commands, listens, and reads its numbers.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use adit_proto::control::{Command, Event, InjectHeader, PathId, PeerId, PeerTag, PuntHeader, RECORD_LEN_MAX, TrainHeader};
use adit_proto::histogram::BUCKETS;
use adit_proto::stats::Latency;
use socket2::Socket;
use zeroize::Zeroizing;

use crate::counters::{CounterBlock, Counters};
use crate::drops::{DropTable, SlotDrops};
use crate::fd::{self, ANSWER_WITHIN, EventFd};
use crate::info::{HEADER_WORDS, PlaneInfo, to_bytes, to_words};
use crate::layout::{HeaderError, LAYOUT_VERSION, Layout, PAGE_BYTES, WorkerBlock};
use crate::limits::{BAD_RECORDS_MAX, DATAGRAM_LEN_MAX};
use crate::listener::{GREETING_LEN, Greeting};
use crate::live::{LiveSa, LiveTable, SaLook};
use crate::messages::{self, Devices, Heard};
use crate::paths::{PathCounters, PathTable};
use crate::ring::{Consumer, Corrupt, Next, Producer, PushError};
use crate::shm::{self, Mapping, Words};
use crate::sync::Ordering;
use crate::users;
use crate::vault::{Vault, VaultTooSmall};
use crate::words::load_bytes;

/// Why attaching failed.
#[derive(Debug)]
pub enum AttachError {
    /// No data plane listens there.
    Absent(PathBuf),
    /// Another control plane is attached.
    Refused {
        pid: u32,
    },
    /// The data plane speaks another version of the channel, or counts other things.
    Version {
        plane: u32,
        ours: u32,
    },
    /// What the data plane handed over contradicts itself.
    Corrupt(&'static str),
    /// The data plane belongs to another user than `uid`, who we are.
    Denied {
        uid: u32,
    },
    /// Who listens there is user `uid`, neither root nor we, nor the one whose directory it is, nor the user of data planes.
    Foreign {
        uid: u32,
    },
    /// Process `pid` listens there and does not answer.
    Silent {
        pid: u32,
    },
    Io(io::Error),
}

impl fmt::Display for AttachError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AttachError::Absent(path) => {
                write!(f, "no data plane listens at {}; start adit-dataplane, or check its --socket", path.display())
            }
            AttachError::Refused { pid } => write!(
                f,
                "the data plane already has a control plane, process {pid}; stop that one first, or use another runtime_dir"
            ),
            AttachError::Version { plane, ours } => write!(
                f,
                "the data plane speaks version {plane} of the channel and this program version {ours}, or they count \
                 different things; run both from the same release and restart the data plane"
            ),
            AttachError::Corrupt(what) => {
                write!(f, "the memory shared with the data plane is corrupt ({what}); restart the data plane")
            }
            AttachError::Denied { uid } => {
                write!(f, "the data plane turned user {uid} away; run both planes as the same user, or this one as root")
            }
            AttachError::Foreign { uid } => write!(
                f,
                "user {uid} listens in place of the data plane, and would get the keys; end that program, and keep the runtime \
                 directory to the user who runs adit"
            ),
            AttachError::Io(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                write!(f, "no permission to reach the data plane ({error}); run as the user that runs it, or as root")
            }
            AttachError::Silent { pid } => {
                write!(f, "the data plane did not answer within {} s; it may hang: kill -9 {pid}", ANSWER_WITHIN.as_secs())
            }
            AttachError::Io(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let within = ANSWER_WITHIN.as_secs();
                write!(f, "the data plane let nobody in within {within} s; it may hang: find it with ss -xlp, and kill -9 it")
            }
            AttachError::Io(error) => write!(f, "cannot attach to the data plane: {error}"),
        }
    }
}

impl std::error::Error for AttachError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            AttachError::Io(error) => Some(error),
            _ => None,
        }
    }
}

impl From<io::Error> for AttachError {
    fn from(error: io::Error) -> AttachError {
        AttachError::Io(error)
    }
}

impl From<Corrupt> for AttachError {
    fn from(_: Corrupt) -> AttachError {
        AttachError::Corrupt("the cursors of a ring")
    }
}

/// Why a command or datagram was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendError {
    /// The ring is full: the worker has not caught up. Try again later.
    Full,
    /// The datagram is longer than UDP carries.
    TooLong,
    /// There is no worker with this number.
    NoSuchWorker,
    /// The data plane wrote nonsense into the ring. It stays unused until the data plane is restarted.
    Corrupt,
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SendError::Full => "the ring to the worker is full; try again later",
            SendError::TooLong => "the datagram is longer than UDP carries",
            SendError::NoSuchWorker => "there is no worker with this number",
            SendError::Corrupt => "the ring to the worker is corrupt; restart the data plane",
        })
    }
}

impl std::error::Error for SendError {}

impl From<PushError> for SendError {
    fn from(error: PushError) -> SendError {
        match error {
            PushError::Full => SendError::Full,
            PushError::TooLong => SendError::TooLong,
            PushError::Corrupt => SendError::Corrupt,
        }
    }
}

/// The master's view of one worker.
#[derive(Debug)]
struct WorkerLink {
    commands: Producer<Words>,
    injects: Producer<Words>,
    events: Consumer<Words>,
    punts: Consumer<Words>,
    trains_up: Consumer<Words>,
    trains_down: Producer<Words>,
    counters: CounterBlock<Words>,
    latencies: Words,
    live: LiveTable<Words>,
    paths: PathTable<Words>,
    drops: DropTable<Words>,
    wake: EventFd,
    /// Something was sent since the last flush.
    unflushed: bool,
}

impl WorkerLink {
    fn attach(block: WorkerBlock, part: impl Fn(std::ops::Range<usize>) -> Words, wake: EventFd) -> Result<WorkerLink, Corrupt> {
        let mut commands = Producer::attach(part(block.commands))?;
        commands.wipe_free();
        Ok(WorkerLink {
            commands,
            injects: Producer::attach(part(block.injects))?,
            events: Consumer::attach(part(block.events), false)?,
            punts: Consumer::attach(part(block.punts), false)?,
            trains_up: Consumer::attach(part(block.trains_up), false)?,
            trains_down: Producer::attach(part(block.trains_down))?,
            counters: CounterBlock::new(part(block.counters)),
            latencies: part(block.latencies),
            live: LiveTable::new(part(block.live)),
            paths: PathTable::new(part(block.paths)),
            drops: DropTable::new(part(block.drops)),
            wake,
            // The master before may have died between sending and signalling.
            unflushed: true,
        })
    }
}

/// Becomes the master of a data plane without a look at its memory, which may be of another release: as such, one can ask it to end.
///
/// # Errors
/// Nobody listens there, or another master is attached, or it does not answer.
pub fn mastership(path: &Path) -> io::Result<OwnedFd> {
    let socket = fd::connect(path)?;
    let mut greeting = [0; GREETING_LEN];
    let (len, _) = fd::receive_with_fds(socket.as_fd(), &mut greeting, 0)?;
    match Greeting::decode(&greeting[..len]) {
        Ok(Greeting::Welcome { .. }) => Ok(socket.into()),
        _ => Err(io::ErrorKind::PermissionDenied.into()),
    }
}

/// The user whose directory a socket is in, unless others than that user can put one there.
fn owner_of_place(path: &Path) -> Option<u32> {
    let facts = std::fs::symlink_metadata(path.parent()?).ok()?;
    (facts.is_dir() && facts.mode() & 0o022 == 0).then(|| facts.uid())
}

/// The one control plane of a data plane. Dropping it gives the mastership back; the data plane goes on forwarding.
#[derive(Debug)]
pub struct Master {
    socket: Socket,
    up: EventFd,
    workers: Vec<WorkerLink>,
    vault: Vault<Words>,
    /// This master has written it.
    vault_begun: bool,
    info: PlaneInfo,
    scratch: Box<[u8]>,
    malformed: u64,
    /// What the data plane has said of the devices that it was handed.
    answer: Option<Result<(), String>>,
    /// They are these, as long as it has not answered, and it answers by this number.
    handed: Option<Devices>,
    handed_number: u32,
}

impl Master {
    /// Attaches to the data plane that listens at `path`. What it reported while nobody was attached is still in the
    /// rings; the first wait on [`Master::event_fd`] returns at once. Tickets of the master before may be among it.
    pub fn attach(path: &Path) -> Result<Master, AttachError> {
        let socket = fd::connect(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => AttachError::Absent(path.to_owned()),
            _ => AttachError::Io(error),
        })?;
        let peer = fd::peer_credentials(socket.as_fd())?;
        let known = [Some(0), Some(fd::own_uid()), owner_of_place(path), users::data_plane()];
        if !known.contains(&Some(peer.uid)) {
            return Err(AttachError::Foreign { uid: peer.uid });
        }
        let mut greeting = [0; GREETING_LEN];
        let (len, fds) = fd::receive_with_fds(socket.as_fd(), &mut greeting, 0).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => AttachError::Silent { pid: peer.pid },
            // It ended while we waited at its door.
            io::ErrorKind::ConnectionReset => AttachError::Absent(path.to_owned()),
            _ => AttachError::Io(error),
        })?;
        if len == 0 {
            return Err(AttachError::Io(io::ErrorKind::UnexpectedEof.into()));
        }
        match Greeting::decode(&greeting[..len]).map_err(|_| AttachError::Corrupt("its greeting"))? {
            Greeting::Occupied { pid } => Err(AttachError::Refused { pid }),
            Greeting::Denied { uid } => Err(AttachError::Denied { uid }),
            Greeting::Welcome { layout, .. } if layout != LAYOUT_VERSION => {
                Err(AttachError::Version { plane: layout, ours: LAYOUT_VERSION })
            }
            Greeting::Welcome { workers, .. } => Master::take_over(socket, workers, fds.into()),
        }
    }

    fn take_over(socket: Socket, workers: u16, mut fds: VecDeque<OwnedFd>) -> Result<Master, AttachError> {
        let (Some(memory), Some(up)) = (fds.pop_front(), fds.pop_front()) else {
            return Err(AttachError::Corrupt("descriptors are missing"));
        };
        let sealed = |error: io::Error| match error.kind() {
            io::ErrorKind::OutOfMemory => AttachError::Io(error),
            io::ErrorKind::InvalidData => AttachError::Corrupt("its size is not sealed or too small"),
            // Of a kind that cannot be mapped, or not be written to.
            _ => AttachError::Corrupt("it cannot be mapped"),
        };
        let bytes = shm::sealed_len(memory.as_fd()).map_err(sealed)?;
        // One page at first: mapping all of it takes as much memory as the stranger likes.
        let head = Mapping::new(memory.as_fd(), PAGE_BYTES).map_err(sealed)?;
        let header = head.words(0..PAGE_BYTES / size_of::<u64>()).expect("a page was mapped");
        let (layout, info_len) = Layout::read_header(&header, bytes).map_err(|error| match error {
            HeaderError::Magic => AttachError::Corrupt("its magic number"),
            HeaderError::Sizes => AttachError::Corrupt("its sizes"),
            HeaderError::Version(plane) => AttachError::Version { plane, ours: LAYOUT_VERSION },
        })?;
        let mapping = Mapping::new(memory.as_fd(), layout.bytes()).map_err(sealed)?;
        let part = |range| mapping.words(range).expect("the header was checked against the length of the memory");
        let info = load_bytes(&part(layout.info), info_len);
        let info = PlaneInfo::decode(&info).map_err(|_| AttachError::Corrupt("its info"))?;
        let agreed = (info.workers, info.sa_slots) == (layout.sizes.workers, layout.sizes.sa_slots);
        if !agreed || workers != info.workers || fds.len() != layout.workers.len() {
            return Err(AttachError::Corrupt("the number of workers"));
        }
        let received = |fd| {
            EventFd::received(fd).map_err(|error| match error.kind() {
                io::ErrorKind::InvalidData => AttachError::Corrupt("what should be event counters"),
                _ => AttachError::Io(error),
            })
        };
        let up = received(up)?;
        let wakes = fds.into_iter().map(received).collect::<Result<Vec<_>, _>>()?;
        let links = layout.workers.into_iter().zip(wakes);
        let workers = links.map(|(block, wake)| WorkerLink::attach(block, part, wake)).collect::<Result<_, _>>()?;
        let mut vault = Vault::new(part(layout.vault), layout.sizes.vault_bytes as usize);
        vault.wipe_rest();
        up.signal();
        let mut master = Master {
            socket,
            up,
            workers,
            vault,
            vault_begun: false,
            info,
            scratch: vec![0; DATAGRAM_LEN_MAX].into(),
            malformed: 0,
            answer: None,
            handed: None,
            handed_number: 0,
        };
        master.flush();
        Ok(master)
    }

    /// What the data plane says about itself.
    pub fn info(&self) -> &PlaneInfo {
        &self.info
    }

    /// How many workers there are.
    pub fn workers(&self) -> u16 {
        self.workers.len() as u16
    }

    fn link(&mut self, worker: u16) -> Result<&mut WorkerLink, SendError> {
        self.workers.get_mut(usize::from(worker)).ok_or(SendError::NoSuchWorker)
    }

    /// Puts a command into the ring of a worker. The worker answers with `Applied` or `Refused` and the ticket.
    /// [`Master::flush`] wakes it.
    pub fn send(&mut self, worker: u16, ticket: u32, command: &Command) -> Result<(), SendError> {
        let link = self.link(worker)?;
        let mut record = Zeroizing::new([0; RECORD_LEN_MAX]);
        let len = command.encode(&mut record);
        link.commands.push(ticket, &[], &record[..len])?;
        link.unflushed = true;
        Ok(())
    }

    /// Has a worker send a datagram. [`Master::flush`] wakes it.
    pub fn inject(&mut self, worker: u16, header: &InjectHeader, bytes: &[u8]) -> Result<(), SendError> {
        if bytes.len() > DATAGRAM_LEN_MAX {
            return Err(SendError::TooLong);
        }
        let link = self.link(worker)?;
        let mut encoded = [0; InjectHeader::LEN_MAX];
        header.encode(&mut encoded);
        link.injects.push(0, &to_words(&encoded), bytes)?;
        link.unflushed = true;
        Ok(())
    }

    /// Gives a worker a train of ESP packets that came in a stream. [`Master::flush`] wakes it.
    pub fn send_train(&mut self, worker: u16, header: TrainHeader, bytes: &[u8]) -> Result<(), SendError> {
        if bytes.len() > DATAGRAM_LEN_MAX {
            return Err(SendError::TooLong);
        }
        let link = self.link(worker)?;
        link.trains_down.push(0, &header.to_words(), bytes)?;
        link.unflushed = true;
        Ok(())
    }

    /// Wakes the workers that something was sent to.
    pub fn flush(&mut self) {
        for link in &mut self.workers {
            if std::mem::take(&mut link.unflushed) {
                link.wake.signal();
            }
        }
    }

    /// The next event of any worker.
    pub fn poll_event(&mut self) -> Option<(u16, Event)> {
        let mut record = [0; RECORD_LEN_MAX];
        for (worker, link) in (0..).zip(&mut self.workers) {
            for _ in 0..BAD_RECORDS_MAX {
                match link.events.take(&mut [], &mut record) {
                    Next::Empty | Next::Corrupt => break,
                    Next::Record { len, .. } => {
                        if let Ok(event) = Event::decode(&record[..len]) {
                            return Some((worker, event));
                        }
                    }
                    Next::Skipped { .. } => {}
                }
                self.malformed += 1;
            }
        }
        None
    }

    /// The next datagram that a worker handed up, in `buf`: the worker, and how it came.
    pub fn poll_punt(&mut self, buf: &mut Vec<u8>) -> Option<(u16, PuntHeader)> {
        let mut prefix = [0; HEADER_WORDS];
        for (worker, link) in (0..).zip(&mut self.workers) {
            for _ in 0..BAD_RECORDS_MAX {
                match link.punts.take(&mut prefix, &mut self.scratch) {
                    Next::Empty | Next::Corrupt => break,
                    Next::Record { len, .. } => {
                        if let Ok(header) = PuntHeader::decode(&to_bytes(&prefix)) {
                            buf.clear();
                            buf.extend_from_slice(&self.scratch[..len]);
                            return Some((worker, header));
                        }
                    }
                    Next::Skipped { .. } => {}
                }
                self.malformed += 1;
            }
        }
        None
    }

    /// The next train that a worker has for a stream, in `buf`. Worker `first` is asked first, so that all can have their turn.
    pub fn poll_train(&mut self, first: u16, buf: &mut Vec<u8>) -> Option<(u16, TrainHeader)> {
        let (mut prefix, workers) = ([0; TrainHeader::WORDS], self.workers());
        for worker in (0..workers).map(|n| (first % workers + n) % workers) {
            for _ in 0..BAD_RECORDS_MAX {
                match self.workers[usize::from(worker)].trains_up.take(&mut prefix, &mut self.scratch) {
                    Next::Empty | Next::Corrupt => break,
                    Next::Record { len, .. } => {
                        if let Ok(header) = TrainHeader::from_words(prefix) {
                            buf.splice(.., self.scratch[..len].iter().copied());
                            return Some((worker, header));
                        }
                    }
                    Next::Skipped { .. } => {}
                }
                self.malformed += 1;
            }
        }
        None
    }

    /// Records of the data plane that made no sense.
    pub fn malformed(&self) -> u64 {
        self.malformed
    }

    /// Whether one of the two planes found nonsense in a ring. Such a ring stays unused until the data plane is restarted.
    pub fn is_corrupt(&self) -> bool {
        self.workers.iter().any(|link| {
            let down = link.commands.is_corrupt() || link.injects.is_corrupt() || link.trains_down.is_corrupt();
            let up = link.events.is_corrupt() || link.punts.is_corrupt() || link.trains_up.is_corrupt();
            down || up || link.counters.read().has_corrupt_ring()
        })
    }

    /// The numbers of a worker, below [`Master::workers`]; panics above.
    pub fn counters(&self, worker: u16) -> Counters {
        self.workers[usize::from(worker)].counters.read()
    }

    /// A latency histogram of a worker: the counts of the [`BUCKETS`] buckets. Panics when there is no such worker.
    pub fn latency(&self, worker: u16, latency: Latency) -> Vec<u64> {
        let words = &self.workers[usize::from(worker)].latencies[latency as usize * BUCKETS..][..BUCKETS];
        words.iter().map(|word| word.load(Ordering::Relaxed)).collect()
    }

    /// The SAs that are installed, each with its worker. One that its worker is writing all the time is left out.
    pub fn live_sas(&self) -> Vec<(u16, LiveSa)> {
        self.look_behind(|_| u64::MAX).live()
    }

    /// The same, or nothing where one may be left out.
    pub fn all_live_sas(&self) -> Option<Vec<(u16, LiveSa)>> {
        let look = self.look_behind(|_| u64::MAX);
        look.is_whole.then(|| look.live())
    }

    /// The SAs that are installed, and those that have gone behind the first ones of each worker that were `counted`.
    pub fn look_at_sas(&self, counted: &[u64]) -> SaLook {
        self.look_behind(|worker| counted.get(worker).copied().unwrap_or(0))
    }

    fn look_behind(&self, counted: impl Fn(usize) -> u64) -> SaLook {
        let mut look = SaLook { is_whole: true, ..SaLook::default() };
        for (worker, link) in (0..).zip(&self.workers) {
            link.live.look(worker, counted(usize::from(worker)), &mut look);
        }
        look
    }

    /// What has gone over each path of each peer, over all workers. A path for which the table had no room is missing.
    pub fn path_counters(&self) -> BTreeMap<(PeerId, PathId), PathCounters> {
        let mut sum = BTreeMap::new();
        self.workers.iter().for_each(|link| link.paths.sum_into(&mut sum));
        sum
    }

    /// What each worker has counted as dropped of these peers, by their ids; of others nothing is read, whatever the data plane has
    /// written, and of peers of which nothing was dropped there is nothing.
    pub fn peer_drops(&self, peers: &BTreeMap<PeerId, PeerTag>) -> Vec<SlotDrops> {
        let of_worker = |(worker, link): (u16, &WorkerLink)| {
            let read = |(peer, tag): (&PeerId, &PeerTag)| {
                let counts = link.drops.read(*peer, *tag)?;
                Some(SlotDrops { worker, peer: *peer, tag: *tag, counts })
            };
            peers.iter().filter_map(read).collect::<Vec<_>>()
        };
        (0..).zip(&self.workers).flat_map(of_worker).collect()
    }

    /// What this master or one before it left in the vault.
    pub fn vault_read(&self) -> Vec<u8> {
        self.vault.read()
    }

    /// The most bytes that the vault can hold.
    pub fn vault_capacity(&self) -> usize {
        self.vault.capacity()
    }

    /// Replaces the content of the vault, as a whole or not at all.
    pub fn vault_write(&mut self, bytes: &[u8]) -> Result<(), VaultTooSmall> {
        self.vault.write(bytes)?;
        self.vault_begun = true;
        Ok(())
    }

    /// Puts `bytes` behind what this master has written into the vault, as a whole or not at all. False when it does not fit,
    /// or nothing was written by this master yet.
    pub fn vault_append(&mut self, bytes: &[u8]) -> bool {
        self.vault_begun && self.vault.append(bytes).is_ok()
    }

    /// Readable when workers have reported or punted something. Then [`Master::acknowledge`], then poll until nothing is
    /// left, then wait again.
    pub fn event_fd(&self) -> BorrowedFd<'_> {
        self.up.as_fd()
    }

    /// Takes the signals of the workers, so that [`Master::event_fd`] is no longer readable.
    pub fn acknowledge(&self) {
        self.up.acknowledge();
    }

    /// Readable when the data plane is gone. The memory stays readable after that.
    pub fn socket_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Whether the data plane still holds its end of the connection.
    pub fn is_alive(&mut self) -> bool {
        match messages::hear_answer(self.socket.as_fd()) {
            Heard::Nothing => true,
            // Of earlier ones, which came late.
            Heard::Message((number, _)) if number != self.handed_number => true,
            Heard::Message((_, answer)) => {
                if let (Ok(()), Some(Devices::Sockets { listen })) = (&answer, self.handed.take()) {
                    self.info.listen = listen;
                }
                self.answer = Some(answer);
                true
            }
            Heard::Closed => false,
        }
    }

    /// Hands devices over, one for each worker, which were opened for the data plane; an answer to earlier ones is forgotten. Ours are to
    /// be closed then: an interface lives as long as anybody holds a queue of it.
    ///
    /// # Errors
    /// The data plane is gone, or hears nothing.
    pub fn hand_over(&mut self, devices: &Devices, fds: &[BorrowedFd]) -> io::Result<()> {
        self.handed_number = self.handed_number.wrapping_add(1);
        (self.answer, self.handed) = (None, Some(*devices));
        messages::hand_over(self.socket.as_fd(), self.handed_number, devices, fds)
    }

    /// What has become of the devices that were handed over last: `None` as long as that is not known, and why they were not taken.
    pub fn answer(&mut self) -> Option<Result<(), String>> {
        match self.is_alive() {
            true => self.answer.take(),
            false => Some(Err("it is gone".to_owned())),
        }
    }
}

#[cfg(test)]
mod tests;
