//! What the honest gateways carry all the time: a ping every millisecond, and a TCP stream each way, whose content is known.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use adit_bench::lab::{Gateway, SOON, wait_until};
use adit_bench::rtt::{Prober, Probes};
use adit_bench::starvation::{Starvation, backlog_drops};
use adit_proto::stats::Drop;
use anyhow::{Context, Result, anyhow, ensure};

use crate::ground::Ground;

const EVERY: Duration = Duration::from_millis(1);
/// How long an answer may be on its way.
const GRACE: Duration = Duration::from_secs(1);
/// Bytes that a stream sends at a time, and how often: 4 Mbit/s.
const PIECE: usize = 10_000;
const PIECE_EVERY: Duration = Duration::from_millis(20);

/// Pings and streams.
pub struct Line {
    pings: Option<(Prober, Shed, Starvation)>,
    streams: [Stream; 2],
    moved: [u64; 2],
}

/// Pings of a step, and what the data planes say that they could not take meanwhile.
pub struct Pings {
    pub probes: Probes,
    /// Packets that were dropped because a queue in front of a worker was full.
    pub shed: u64,
    /// Packets that the kernel dropped on their way between namespaces, whoever's they were.
    pub backlog: u64,
    /// How long a worker wanted a core and had none.
    pub starved: Duration,
}

impl Pings {
    /// How many may be lost because the host had no core for a worker: what full queues have dropped and counted, in front of it and between
    /// the namespaces. None where every worker had its core.
    pub fn for_want_of_a_core(&self) -> u64 {
        if self.starved.is_zero() { 0 } else { self.shed + self.backlog }
    }
}

/// What was dropped in front of the workers of each gateway, and between the namespaces. Nothing of a gateway that does not run.
struct Shed {
    queues: Vec<u64>,
    backlog: u64,
}

impl Shed {
    fn now(ground: &Ground) -> Result<Shed> {
        let of = |gateway: &Gateway| {
            let metrics = gateway.metrics().ok()?;
            let queue = metrics.sum("adit_interface_queue_drops_total", &[]).unwrap_or(0.0) as u64;
            Some(queue + metrics.dropped(Drop::HandoverFull) + metrics.dropped(Drop::UdpOverflow))
        };
        Ok(Shed { queues: ground.honest().iter().map(|gateway| of(gateway).unwrap_or(0)).collect(), backlog: backlog_drops()? })
    }

    /// What the queues have dropped since then. A data plane that was killed in between counts from zero again.
    fn queues_since(&self, before: &Shed) -> u64 {
        let both = self.queues.iter().zip(&before.queues);
        both.map(|(now, before)| now.checked_sub(*before).unwrap_or(*now)).sum()
    }
}

impl Line {
    pub fn start(ground: &Ground) -> Result<Line> {
        let (a, b) = (ground.lab.a(), ground.lab.b());
        let streams = [Stream::start(a, b)?, Stream::start(b, a)?];
        Ok(Line { pings: Some(pings(ground)?), streams, moved: [0; 2] })
    }

    /// Ends the pings of the step before, once the next ones go: there is no gap. An error where a stream has ended or stands still.
    pub fn step(&mut self, ground: &Ground) -> Result<Pings> {
        let next = pings(ground)?;
        let last = self.pings.replace(next);
        self.moves(ground)?;
        finish(ground, last.context("pings")?)
    }

    /// Does something while nothing is sent.
    pub fn in_a_pause<T>(&mut self, ground: &Ground, work: impl FnOnce() -> Result<T>) -> Result<(Pings, T)> {
        self.streams.iter().for_each(|stream| stream.pause(true));
        let last = finish(ground, self.pings.take().context("pings")?)?;
        let done = work();
        self.streams.iter().for_each(|stream| stream.pause(false));
        self.pings = Some(pings(ground)?);
        Ok((last, done?))
    }

    /// Waits until more has come by both streams.
    fn moves(&mut self, ground: &Ground) -> Result<()> {
        for (stream, before) in self.streams.iter().zip(&mut self.moved) {
            wait_until("a stream moves", SOON, || {
                ensure!(!stream.reader.is_finished(), "a TCP connection has ended");
                Ok(stream.moved.load(Ordering::Relaxed) > *before)
            })
            .with_context(|| ground.logs())?;
            *before = stream.moved.load(Ordering::Relaxed);
        }
        Ok(())
    }

    /// Ends all of it: bytes that have come, of both streams.
    pub fn end(mut self, ground: &Ground) -> Result<u64> {
        self.moves(ground)?;
        self.streams.into_iter().map(Stream::end).sum()
    }
}

fn pings(ground: &Ground) -> Result<(Prober, Shed, Starvation)> {
    let (from, to) = (ground.lab.b(), ground.lab.a().inner());
    Ok((from.netns.enter(|| Prober::start(to.into(), EVERY))?, Shed::now(ground)?, Starvation::watch("adit-dataplane")?))
}

fn finish(ground: &Ground, (prober, shed, starvation): (Prober, Shed, Starvation)) -> Result<Pings> {
    let probes = prober.stop(GRACE)?;
    let now = Shed::now(ground)?;
    let (shed, backlog) = (now.queues_since(&shed), now.backlog.saturating_sub(shed.backlog));
    Ok(Pings { probes, shed, backlog, starved: starvation.end() })
}

/// A TCP connection by which a row of bytes goes at an even pace.
struct Stream {
    stop: Arc<AtomicBool>,
    paused: Arc<AtomicBool>,
    moved: Arc<AtomicU64>,
    writer: JoinHandle<Result<()>>,
    reader: JoinHandle<Result<u64>>,
}

impl Stream {
    fn start(from: &Gateway, to: &Gateway) -> Result<Stream> {
        let listener = to.netns.enter(|| TcpListener::bind((IpAddr::from(to.inner()), 0)))?;
        let target: SocketAddr = listener.local_addr()?;
        let near = from.netns.enter(|| TcpStream::connect_timeout(&target, SOON)).context("connecting through the tunnel")?;
        let (far, _) = listener.accept()?;
        far.set_read_timeout(Some(SOON))?;
        near.set_write_timeout(Some(SOON))?;
        let (stop, paused, moved) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let (ends, rests, count) = (stop.clone(), paused.clone(), moved.clone());
        let writer = thread::Builder::new().name("writer".into()).spawn(move || write(near, &ends, &rests))?;
        let reader = thread::Builder::new().name("reader".into()).spawn(move || read(far, &count))?;
        Ok(Stream { stop, paused, moved, writer, reader })
    }

    fn pause(&self, on: bool) {
        self.paused.store(on, Ordering::Relaxed);
    }

    fn end(self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.writer.join().map_err(|_| anyhow!("the writer panicked"))?.context("writing to a stream")?;
        self.reader.join().map_err(|_| anyhow!("the reader panicked"))?.context("reading from a stream")
    }
}

/// The byte at a place of the row.
fn byte_at(place: u64) -> u8 {
    (place ^ place >> 8 ^ place >> 16) as u8
}

fn write(mut stream: TcpStream, stop: &AtomicBool, paused: &AtomicBool) -> Result<()> {
    let (mut place, mut next) = (0, Instant::now());
    while !stop.load(Ordering::Relaxed) {
        thread::sleep(next.saturating_duration_since(Instant::now()));
        next = (next + PIECE_EVERY).max(Instant::now());
        if paused.load(Ordering::Relaxed) {
            continue;
        }
        let piece: Vec<u8> = (place..place + PIECE as u64).map(byte_at).collect();
        stream.write_all(&piece)?;
        place += PIECE as u64;
    }
    Ok(())
}

fn read(mut stream: TcpStream, moved: &AtomicU64) -> Result<u64> {
    let (mut buffer, mut place) = (vec![0; 1 << 16], 0);
    loop {
        let length = match stream.read(&mut buffer) {
            Ok(0) => return Ok(place),
            Ok(length) => length,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error.into()),
        };
        let right = (place..).zip(&buffer[..length]).all(|(place, byte)| *byte == byte_at(place));
        ensure!(right, "other bytes than were sent came behind the first {place}");
        place += length as u64;
        moved.store(place, Ordering::Relaxed);
    }
}
