//! UDP load: a paced generator and a sink that knows what it lost.
//!
//! Every datagram is one system-call message of its own (no UDP_SEGMENT), many per sendmmsg, so that the generator favours no tunnel;
//! the sink takes what the kernel has merged (UDP_GRO) and counts the segments.
//!
//! ```text
//! Offer ─▶ Sender (sockets inside one namespace) ─▶ … tunnel … ─▶ Sink (socket inside the other) ─▶ Ledger ─▶ Tally
//!
//! datagram: sequence number (8) | run (4) | flow (2) | zeros …         all big endian
//! ```

use std::io;
use std::mem::{size_of, zeroed};
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::os::fd::{AsRawFd, RawFd};
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use socket2::{Domain, Socket, Type};

use crate::netns::{Netns, once_free};

/// The smallest payload that can be offered: 46 bytes of IPv4 packet, the smallest that fills an Ethernet frame.
pub const PAYLOAD_MIN: usize = 18;
/// The sink's UDP port.
const PORT: u16 = 5301;
/// Messages per sendmmsg.
const SEND_BATCH: usize = 64;
/// Messages per recvmmsg.
const RECV_BATCH: usize = 32;
const SEGMENT_TRAIN_MAX: usize = 1 << 16;
/// Room for the UDP_GRO control message (24 bytes on 64-bit systems), in words, which aligns it.
const CONTROL_WORDS: usize = 8;
/// 8 MiB: some 10 000 small datagrams, so that a sink which waits for its turn on the core does not lose for the tunnel.
const SOCKET_BUFFER: libc::c_int = 8 << 20;
/// The start of a run is not counted: queues fill, neighbours are looked up.
const RAMP_UP: Duration = Duration::from_millis(250);
/// Time for the last datagrams to arrive.
const DRAIN: Duration = Duration::from_millis(300);
/// Sequence numbers above this are not ours.
const SEQUENCE_MAX: u64 = 1 << 32;

/// What to send.
#[derive(Clone, Debug)]
pub struct Offer {
    /// UDP payload sizes, used in turn; each at least [`PAYLOAD_MIN`].
    pub sizes: Vec<usize>,
    /// Source ports, used in turn. With more than one, every message is a system call of its own.
    pub flows: usize,
    /// Datagrams per second.
    pub rate: f64,
    /// How long to send; the first quarter second is not counted in the rate.
    pub duration: Duration,
}

/// What came of an [`Offer`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Figure {
    /// Datagrams that the socket took or refused, per second.
    pub offered_pps: f64,
    /// Datagrams that arrived while sending went on, per second.
    pub received_pps: f64,
    /// Share of all offered datagrams that never arrived, 0..=1.
    pub lost: f64,
    pub tally: Tally,
}

/// What a sink has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Different datagrams.
    pub received: u64,
    /// Arrivals after one with a higher number of the same flow.
    pub reordered: u64,
    /// Second arrivals of the same datagram.
    pub duplicated: u64,
    /// Reads that brought the datagrams: fewer than datagrams where the kernel merged them.
    pub reads: u64,
}

/// Sends an offer from one namespace to an address in the other and counts what arrives there.
pub fn measure(from: &Netns, to: &Netns, target: IpAddr, offer: &Offer) -> Result<Figure> {
    let target = SocketAddr::new(target, PORT);
    measure_through(from, target, to, target, offer)
}

/// As [`measure`], but with something in between that passes on from `target` to the address `arrival`, where the sink is.
pub fn measure_through(from: &Netns, target: SocketAddr, to: &Netns, arrival: SocketAddr, offer: &Offer) -> Result<Figure> {
    static RUN: AtomicU32 = AtomicU32::new(1);
    let run = RUN.fetch_add(1, Ordering::Relaxed);
    let sender = from.enter(|| Sender::open(target, offer, run))?;
    let start = Instant::now();
    let counted = start + RAMP_UP..start + offer.duration;
    let sink = to.enter(|| Sink::start(arrival, run, counted)).context("cannot open the sink's socket")?;
    let sending = thread::Builder::new().name("load".into()).spawn(move || sender.send(start))?;
    let sent = sending.join().map_err(|_| anyhow::anyhow!("the sender panicked"))??;
    thread::sleep(DRAIN);
    let (tally, received_pps) = sink.stop()?;
    Ok(Figure {
        offered_pps: sent as f64 / offer.duration.as_secs_f64(),
        received_pps,
        lost: 1.0 - tally.received as f64 / sent.max(1) as f64,
        tally,
    })
}

/// The generator: one socket per flow.
struct Sender {
    sockets: Vec<Socket>,
    offer: Offer,
    run: u32,
}

impl Sender {
    /// Opens the sockets in the namespace of the calling thread.
    fn open(target: SocketAddr, offer: &Offer, run: u32) -> Result<Sender> {
        ensure!(offer.flows > 0 && offer.flows <= usize::from(u16::MAX), "1 to 65535 flows, not {}", offer.flows);
        ensure!(
            !offer.sizes.is_empty() && offer.sizes.iter().all(|size| (PAYLOAD_MIN..=65507).contains(size)),
            "payloads of 18 to 65507 bytes"
        );
        let sockets =
            (0..offer.flows).map(|_| connected(target)).collect::<io::Result<_>>().context("cannot open the sender's sockets")?;
        Ok(Sender { sockets, offer: offer.clone(), run })
    }

    /// Sends from `start` until the time is over; returns how many datagrams were offered. A refused one (no buffer, nobody there) counts too.
    fn send(self, start: Instant) -> io::Result<u64> {
        let batch = if self.sockets.len() == 1 { SEND_BATCH } else { 1 };
        let mut batch = SendBatch::new(batch, self.offer.sizes.iter().copied().max().unwrap_or(PAYLOAD_MIN));
        let mut sent = 0;
        loop {
            let now = start.elapsed();
            if now >= self.offer.duration {
                return Ok(sent);
            }
            let due = (now.as_secs_f64() * self.offer.rate) as u64;
            if due <= sent {
                thread::sleep(Duration::from_micros(50));
                continue;
            }
            let count = batch.capacity().min((due - sent) as usize);
            let flow = (sent % self.sockets.len() as u64) as usize;
            for slot in 0..count {
                let number = sent + slot as u64;
                let size = self.offer.sizes[(number % self.offer.sizes.len() as u64) as usize];
                batch.fill(slot, size, number, self.run, flow as u16);
            }
            sent += batch.send(self.sockets[flow].as_raw_fd(), count)? as u64;
        }
    }
}

/// Buffers and message headers for sendmmsg.
struct SendBatch {
    buffers: Vec<Vec<u8>>,
    sizes: Vec<usize>,
}

impl SendBatch {
    fn new(messages: usize, size_max: usize) -> SendBatch {
        SendBatch { buffers: vec![vec![0; size_max]; messages], sizes: vec![0; messages] }
    }

    fn capacity(&self) -> usize {
        self.buffers.len()
    }

    fn fill(&mut self, slot: usize, size: usize, number: u64, run: u32, flow: u16) {
        let buffer = &mut self.buffers[slot];
        buffer[..8].copy_from_slice(&number.to_be_bytes());
        buffer[8..12].copy_from_slice(&run.to_be_bytes());
        buffer[12..14].copy_from_slice(&flow.to_be_bytes());
        self.sizes[slot] = size;
    }

    /// Sends the first `count` messages; returns how many were dealt with (a refused message is dealt with).
    fn send(&mut self, socket: RawFd, count: usize) -> io::Result<usize> {
        // SAFETY: both structures are plain C data for which all zeros means "nothing".
        let (mut parts, mut headers): ([libc::iovec; SEND_BATCH], [libc::mmsghdr; SEND_BATCH]) = unsafe { (zeroed(), zeroed()) };
        for slot in 0..count {
            parts[slot] = libc::iovec { iov_base: self.buffers[slot].as_mut_ptr().cast(), iov_len: self.sizes[slot] };
            headers[slot].msg_hdr.msg_iov = &raw mut parts[slot];
            headers[slot].msg_hdr.msg_iovlen = 1;
        }
        // SAFETY: `count` headers are filled in; each points to one element of `parts`, and that to a buffer of at least this
        // length; all of them outlive the call.
        let done = unsafe { libc::sendmmsg(socket, headers.as_mut_ptr(), count as libc::c_uint, 0) };
        if done > 0 {
            return Ok(done as usize);
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EINTR) => Ok(0),
            Some(libc::ENOBUFS | libc::ECONNREFUSED | libc::EAGAIN) => Ok(1),
            _ => Err(error),
        }
    }
}

/// A thread that receives and counts.
struct Sink {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<io::Result<(Tally, f64)>>,
}

impl Sink {
    /// Binds in the namespace of the calling thread and starts counting the datagrams of this run; for the rate those of a part of the time.
    fn start(address: SocketAddr, run: u32, counted: Range<Instant>) -> io::Result<Sink> {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, None)?;
        once_free(|| socket.bind(&address.into()))?;
        // Bounds the time until the thread sees that it is to stop.
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        large_receive_buffer(&socket);
        set_option(socket.as_raw_fd(), libc::SOL_UDP, libc::UDP_GRO, 1)?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = thread::Builder::new().name("sink".into()).spawn(move || receive(&socket, run, &counted, &stopped))?;
        Ok(Sink { stop, thread })
    }

    fn stop(self) -> Result<(Tally, f64)> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow::anyhow!("the sink panicked"))?.context("the sink cannot receive")
    }
}

/// Receives until it is stopped; gives what came, and how much of it came per second of the part of the time that is counted. The clock is
/// the receiver's own: whoever waits for the sender may get a core later than both.
fn receive(socket: &Socket, run: u32, counted: &Range<Instant>, stop: &AtomicBool) -> io::Result<(Tally, f64)> {
    let mut batch = RecvBatch::new();
    let mut ledger = Ledger::new(run);
    let (mut before, mut after, mut last) = (0, 0, counted.end);
    while !stop.load(Ordering::Relaxed) {
        let asked = Instant::now();
        for message in 0..batch.receive(socket.as_raw_fd())? {
            let (bytes, segment) = batch.message(message);
            bytes.chunks(segment).for_each(|datagram| ledger.note(datagram));
            ledger.tally.reads += 1;
        }
        if asked < counted.start {
            before = ledger.tally.received;
        }
        if asked < counted.end {
            (after, last) = (ledger.tally.received, counted.end.max(Instant::now()));
        }
    }
    let seconds = last.duration_since(counted.start).as_secs_f64();
    Ok((ledger.tally, (after.max(before) - before) as f64 / seconds.max(f64::MIN_POSITIVE)))
}

/// Buffers for recvmmsg, and what the last call brought.
struct RecvBatch {
    buffers: Vec<u8>,
    control: [[u64; CONTROL_WORDS]; RECV_BATCH],
    /// Length and segment size of each message.
    messages: [(usize, usize); RECV_BATCH],
}

impl RecvBatch {
    fn new() -> RecvBatch {
        RecvBatch {
            buffers: vec![0; RECV_BATCH * SEGMENT_TRAIN_MAX],
            control: [[0; CONTROL_WORDS]; RECV_BATCH],
            messages: [(0, 1); RECV_BATCH],
        }
    }

    /// Waits for at least one message or the socket's timeout; returns the number of messages.
    fn receive(&mut self, socket: RawFd) -> io::Result<usize> {
        // SAFETY: both structures are plain C data for which all zeros means "nothing".
        let (mut parts, mut headers): ([libc::iovec; RECV_BATCH], [libc::mmsghdr; RECV_BATCH]) = unsafe { (zeroed(), zeroed()) };
        for (slot, buffer) in self.buffers.chunks_exact_mut(SEGMENT_TRAIN_MAX).enumerate() {
            parts[slot] = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
            let header = &mut headers[slot].msg_hdr;
            header.msg_iov = &raw mut parts[slot];
            header.msg_iovlen = 1;
            header.msg_control = self.control[slot].as_mut_ptr().cast();
            header.msg_controllen = size_of::<[u64; CONTROL_WORDS]>();
        }
        // SAFETY: all headers point to one element of `parts` and one of `control` each, those to a buffer of its own of the stated
        // length, and all of them outlive the call.
        let count = unsafe {
            libc::recvmmsg(socket, headers.as_mut_ptr(), RECV_BATCH as libc::c_uint, libc::MSG_WAITFORONE, ptr::null_mut())
        };
        if count < 0 {
            let error = io::Error::last_os_error();
            return match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(0),
                _ => Err(error),
            };
        }
        for (slot, header) in headers.iter().enumerate().take(count as usize) {
            let length = header.msg_len as usize;
            self.messages[slot] = (length, segment_size(&header.msg_hdr).unwrap_or(length).max(1));
        }
        Ok(count as usize)
    }

    /// The bytes of a message of the last call, and the size of the segments that it was merged from.
    fn message(&self, slot: usize) -> (&[u8], usize) {
        let (length, segment) = self.messages[slot];
        (&self.buffers[slot * SEGMENT_TRAIN_MAX..][..length], segment)
    }
}

/// The size of the segments of a merged message: the UDP_GRO control message (udp(7)).
fn segment_size(header: &libc::msghdr) -> Option<usize> {
    // SAFETY: every bit pattern is a C int.
    let size: libc::c_int = unsafe { control_message(header, libc::SOL_UDP, libc::UDP_GRO) }?;
    usize::try_from(size).ok()
}

/// Finds a control message of a received message and reads its value.
///
/// # Safety
/// The header must have been filled in by a receiving call, with its control buffer still alive; every bit pattern must be a `T`.
unsafe fn control_message<T>(header: &libc::msghdr, level: libc::c_int, kind: libc::c_int) -> Option<T> {
    // SAFETY: by the caller's promise the CMSG functions stay inside msg_controllen; the value is read only when the message is
    // long enough for it, and without assuming alignment.
    unsafe {
        let mut control = libc::CMSG_FIRSTHDR(header);
        while let Some(found) = control.as_ref() {
            let long_enough = found.cmsg_len >= libc::CMSG_LEN(size_of::<T>() as libc::c_uint) as usize;
            if found.cmsg_level == level && found.cmsg_type == kind && long_enough {
                return Some(libc::CMSG_DATA(control).cast::<T>().read_unaligned());
            }
            control = libc::CMSG_NXTHDR(header, control);
        }
    }
    None
}

/// Which datagrams have arrived, and in which order.
struct Ledger {
    run: u32,
    seen: Vec<u64>,
    /// The highest number so far, by flow.
    newest: Vec<Option<u64>>,
    tally: Tally,
}

impl Ledger {
    fn new(run: u32) -> Ledger {
        Ledger { run, seen: Vec::new(), newest: Vec::new(), tally: Tally::default() }
    }

    fn note(&mut self, datagram: &[u8]) {
        let Some((number, run, flow)) = parse(datagram) else { return };
        if run != self.run || number >= SEQUENCE_MAX {
            return;
        }
        let (word, bit) = ((number / 64) as usize, 1 << (number % 64));
        if word >= self.seen.len() {
            self.seen.resize((word + 1).next_power_of_two(), 0);
        }
        if self.seen[word] & bit != 0 {
            self.tally.duplicated += 1;
            return;
        }
        self.seen[word] |= bit;
        self.tally.received += 1;
        let flow = usize::from(flow);
        if flow >= self.newest.len() {
            self.newest.resize(flow + 1, None);
        }
        if self.newest[flow] > Some(number) {
            self.tally.reordered += 1;
        } else {
            self.newest[flow] = Some(number);
        }
    }
}

fn parse(datagram: &[u8]) -> Option<(u64, u32, u16)> {
    let (number, rest) = datagram.split_first_chunk()?;
    let (run, rest) = rest.split_first_chunk()?;
    let (flow, _) = rest.split_first_chunk()?;
    Some((u64::from_be_bytes(*number), u32::from_be_bytes(*run), u16::from_be_bytes(*flow)))
}

fn connected(target: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(target), Type::DGRAM, None)?;
    socket.connect(&target.into())?;
    large_buffer(&socket, libc::SO_SNDBUFFORCE, libc::SO_SNDBUF);
    Ok(socket)
}

/// Room for what arrives while the receiver waits for a core.
pub(crate) fn large_receive_buffer(socket: &Socket) {
    large_buffer(socket, libc::SO_RCVBUFFORCE, libc::SO_RCVBUF);
}

/// Sets a large buffer, beyond the system's limit where that is allowed.
fn large_buffer(socket: &Socket, forced: libc::c_int, limited: libc::c_int) {
    let set = |option| set_option(socket.as_raw_fd(), libc::SOL_SOCKET, option, SOCKET_BUFFER);
    // A smaller buffer only makes the sink lose earlier, for every system alike.
    let _ = set(forced).or_else(|_| set(limited));
}

/// Makes the kernel note the time of arrival of every packet, for [`receive_stamped`].
pub(crate) fn stamp_arrivals(socket: &Socket) -> io::Result<()> {
    set_option(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 1)
}

/// Receives one packet; returns its length and when it arrived at the kernel, by the wall clock, since 1970.
pub(crate) fn receive_stamped(socket: &Socket, buffer: &mut [u8]) -> io::Result<(usize, Option<Duration>)> {
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let mut control = [0u64; CONTROL_WORDS];
    // SAFETY: plain C data for which all zeros means "nothing".
    let mut header: libc::msghdr = unsafe { zeroed() };
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = size_of_val(&control);
    // SAFETY: the header points to one part and one control buffer of the stated lengths, which outlive the call.
    let length = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, 0) };
    if length < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: struct timespec is two integers, for which every bit pattern is a value.
    let stamp: Option<libc::timespec> = unsafe { control_message(&header, libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS) };
    Ok((length as usize, stamp.map(|time| Duration::new(time.tv_sec as u64, time.tv_nsec as u32))))
}

fn set_option(socket: RawFd, level: libc::c_int, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    // SAFETY: the pointer and the length describe `value`, which outlives the call.
    let status = unsafe {
        libc::setsockopt(socket, level, option, (&raw const value).cast(), size_of::<libc::c_int>() as libc::socklen_t)
    };
    if status < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netns::Veth;

    fn datagram(number: u64, run: u32, flow: u16) -> Vec<u8> {
        [&number.to_be_bytes()[..], &run.to_be_bytes(), &flow.to_be_bytes(), &[0; 4]].concat()
    }

    #[test]
    fn the_ledger_tells_loss_reordering_and_duplicates_apart() {
        let mut ledger = Ledger::new(7);
        for (number, flow) in [(0, 0), (1, 1), (4, 0), (2, 0), (2, 0), (3, 1), (200, 0)] {
            ledger.note(&datagram(number, 7, flow));
        }
        ledger.note(&datagram(5, 6, 0)); // another run
        ledger.note(&[1, 2, 3]);
        assert_eq!(ledger.tally, Tally { received: 6, reordered: 1, duplicated: 1, reads: 0 });
    }

    fn over_veth(offer: Offer) -> Figure {
        let (a, b) = (Netns::new("load-a").unwrap(), Netns::new("load-b").unwrap());
        let _veth = Veth::between(&a, "eth0", &b, "eth0", 1500).unwrap();
        a.address("eth0", "192.0.2.1/24").unwrap();
        b.address("eth0", "192.0.2.2/24").unwrap();
        measure(&a, &b, "192.0.2.2".parse().unwrap(), &offer).unwrap()
    }

    /// The first figure that is as it should be: a sender or a receiver that gets no core falls short of its rate, and is asked again.
    fn whole(offer: &Offer, is_right: impl Fn(&Figure) -> bool) {
        let mut figure = None;
        for _ in 0..10 {
            let one = over_veth(offer.clone());
            assert_eq!((one.lost, one.tally.reordered, one.tally.duplicated), (0.0, 0, 0), "{one:?}");
            if is_right(&one) {
                return;
            }
            figure = Some(one);
        }
        panic!("{figure:?}");
    }

    #[test]
    fn a_modest_rate_arrives_whole_and_in_order() {
        let offer = Offer { sizes: vec![18, 1350], flows: 1, rate: 5000.0, duration: Duration::from_secs(1) };
        whole(&offer, |figure| (2500.0..7500.0).contains(&figure.received_pps));
    }

    #[test]
    fn many_flows_arrive_whole() {
        let offer = Offer { sizes: vec![200], flows: 64, rate: 5000.0, duration: Duration::from_secs(1) };
        whole(&offer, |figure| figure.tally.received > 2500);
    }

    #[test]
    fn payloads_too_small_for_a_number_are_refused() {
        let offer = Offer { sizes: vec![17], flows: 1, rate: 1.0, duration: Duration::from_secs(1) };
        assert!(Sender::open("127.0.0.1:9".parse().unwrap(), &offer, 1).is_err());
    }
}
