//! Start-up: everything is opened, probed and allocated before the first packet; then the main thread only [supervises](crate::supervise).
//!
//! unsafe here: signalfd, limits of the process and the monotonic clock.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use adit_channel::service::Manager;
use adit_channel::{Listener, PART_BYTES_MAX, PlaneInfo, Port, Protections, Region, Sizes};
use adit_devices::interface;
use adit_devices::sockets::{self, Wanted};
use adit_proto::control::{Mode, Offloads};
use adit_proto::stats::Gauge;
use anyhow::{Context, Result, bail};
use core_affinity::CoreId;

use crate::config::{self, Config, IoChoice, MssClamp};
use crate::confinement;
use crate::crypto;
use crate::devices::Expected;
use crate::environment::Environment;
use crate::handover::{Handover, handover_bytes};
use crate::io::uring;
use crate::log;
use crate::pool::{inject_buffer, pool_bytes};
use crate::registry::Registry;
use crate::running::Running;
use crate::sa::{path_slots, peer_slots};
use crate::scheduling;
use crate::state::{Clock, State};
use crate::supervise::{Intake, explain, supervise};
use crate::tap::coalesce::Limits;
use crate::tap::steering::Program;
use crate::tap::{self, Tap, TapQueue};
use crate::udp::UdpSocket;
use crate::worker::Worker;
use adit_esp::aead::{Backend, cpu_features};

/// How long to wait until what a dead data plane held is free: RCU and the lock of all network interfaces are waited for, each of
/// them for hundreds of milliseconds on a busy host. What is still taken then is somebody else's.
const PREDECESSOR_GRACE: Duration = Duration::from_secs(3);
/// How [`PlaneInfo`] calls that way of waiting.
const IO_URING: &str = "io_uring";
/// Bytes of the vault per SA that there can be: its key's name and its totals. There are twice as many slots as SAs.
const VAULT_BYTES_PER_SLOT: u32 = 64;
/// And per peer: its IKE SA, with the answer that was sent last, which may hold a chain of certificates.
const VAULT_BYTES_PER_PEER: u32 = 4096;

/// Whether the workers run on io_uring, and why not.
struct IoDecision {
    uring: bool,
    obstacle: Option<String>,
}

/// A data plane with everything open and allocated, before its threads run.
pub struct Plane {
    workers: Vec<Worker>,
    region: Region,
    info: PlaneInfo,
    listener: Listener,
    cores: Vec<CoreId>,
    roams: bool,
    io: IoDecision,
    busy_poll: Duration,
    expected: Expected,
    steering: Option<Program>,
}

/// Runs the data plane until SIGTERM or SIGINT.
pub fn run(config: &Config) -> Result<ExitCode> {
    close_memory().context("cannot close the memory of the process to others and to core dumps")?;
    // Blocked before any thread is made, so that all inherit it and only the descriptor sees them.
    let signals = block_signals().context("cannot receive signals through a descriptor")?;
    let manager = Manager::open().unwrap_or_else(|error| {
        log::warn(format_args!("the manager of services that NOTIFY_SOCKET names cannot be told how we do: {error}"));
        Manager::default()
    });
    let plane = Plane::open(config)?;
    let mut protections = Protections::default();
    scheduling::weigh_session();
    confinement::drop_privileges(&config.socket, &mut protections)?;
    // To become another user may have changed that.
    close_memory().context("cannot close the memory of the process to others and to core dumps")?;
    let (running, listener, intake) = plane.spawn(|info| {
        confinement::restrict_system_calls(&mut protections);
        if info.io == IO_URING {
            protections.hold("io_uring restrictions");
        }
        log::info(format_args!("protections: {protections}"));
        if let Some(missed) = confinement::alarm(&protections) {
            log::warn(format_args!("not confined by {missed}"));
        }
        info.protections = protections;
    })?;
    supervise(running, listener, intake, &signals, manager)
}

impl Plane {
    /// Creates the interface, the sockets and the channel. Errors name the cause and the remedy.
    pub fn open(config: &Config) -> Result<Plane> {
        let cores = choose_cores(config)?;
        let io = choose_io(config.io)?;
        let backend = crypto::choose(config.crypto)?;
        let (workers, buffer) = (usize::from(config.workers), config.socket_buffer as usize);
        let until = Instant::now() + PREDECESSOR_GRACE;
        await_predecessor(&config.tap, until);
        let tap = tap::create(config.mode, &config.tap, config.tap_mac, config.mtu, workers)?;
        let wanted = Wanted { listen: config.listen, workers, buffer, mark: config.mark };
        let sockets: Vec<UdpSocket> = sockets::bind_group(&wanted, until)?
            .into_iter()
            .map(|socket| UdpSocket::adopt(socket).context("asking the kernel what a UDP socket is like"))
            .collect::<Result<_>>()?;
        let info = describe(config, &tap, &io, backend);
        let sizes = Sizes {
            workers: config.workers,
            sa_slots: config.sa_slots,
            path_slots: path_slots(config.max_peers),
            peer_slots: peer_slots(config.max_peers),
            vault_bytes: vault_bytes(config),
            ..Sizes::default()
        };
        let (region, ports) = Region::create(&sizes, &info).context("cannot create the channel's shared memory")?;
        let listener = Listener::bind_for(&config.socket, &region, config.control_user)
            .with_context(|| format!("cannot listen for the control plane on {}", config.socket.display()))?;
        report(config, &info, &io, &sockets);
        let Tap { queues, steering, .. } = tap;
        if let Some(Err(why)) = &steering {
            log::info(format_args!(
                "the driver of the interface chooses the queues by itself, no program could be given to it: {why}"
            ));
        }
        let expected = expected(config, &queues);
        let workers = build_workers(config, backend, &io, (queues, sockets), ports, &cores);
        let busy_poll = Duration::from_micros(config.busy_poll_us.into());
        let (roams, steering) = (config.roams(), steering.and_then(Result::ok));
        Ok(Plane { workers, region, info, listener, cores, roams, io, busy_poll, expected, steering })
    }

    /// Starts the workers, each pinned to its core. `last` is done when all of them have opened what they need, before the first packet;
    /// what it changes of the info, control planes are told.
    pub fn spawn(mut self, last: impl FnOnce(&mut PlaneInfo)) -> Result<(Running, Listener, Intake)> {
        let mut running = Running::new()?;
        let starts: Result<Vec<_>> = self
            .workers
            .into_iter()
            .zip(self.cores)
            .enumerate()
            .map(|(id, (worker, core))| running.spawn(id, worker, (core, self.roams), self.io.uring.then_some(self.busy_poll)))
            .collect();
        let starts = starts?;
        for _ in &starts {
            let (worker, opened) = running.next_ready()?;
            opened.map_err(|failure| anyhow::anyhow!(explain(worker, &failure)))?;
        }
        last(&mut self.info);
        self.region.describe(&self.info).context("cannot describe the data plane in the channel's shared memory")?;
        for start in &starts {
            // A worker that is gone has reported why.
            let _ = start.send(());
        }
        let intake = Intake { expected: self.expected, steering: self.steering, region: self.region, info: self.info };
        Ok((running, self.listener, intake))
    }
}

/// The kernel takes the ring of a process that was killed apart a little after its end, and until then its interface is still there.
fn await_predecessor(name: &str, until: Instant) {
    while interface::exists(name) && Instant::now() < until {
        thread::sleep(Duration::from_millis(5));
    }
}

fn choose_cores(config: &Config) -> Result<Vec<CoreId>> {
    let allowed = core_affinity::get_core_ids().context("cannot read which cores the process may use")?;
    let workers = usize::from(config.workers);
    let names = || allowed.iter().map(|core| core.id.to_string()).collect::<Vec<_>>().join(", ");
    if config.cores.is_empty() {
        if workers > allowed.len() {
            bail!(
                "{workers} workers need a core each, but the process may use only {} (cores {}); lower `workers` or allow more",
                allowed.len(),
                names()
            );
        }
        return Ok(allowed.into_iter().take(workers).collect());
    }
    if config.cores.len() != workers {
        bail!("{workers} workers but {} cores listed; list one core for each worker", config.cores.len());
    }
    let find = |&id: &usize| {
        let core = allowed.iter().find(|core| core.id == id).copied();
        core.with_context(|| format!("core {id} does not exist or the process may not use it; it may use cores {}", names()))
    };
    config.cores.iter().map(find).collect()
}

fn choose_io(choice: IoChoice) -> Result<IoDecision> {
    let obstacle = if choice == IoChoice::Poll { None } else { uring::obstacle() };
    match (choice, obstacle) {
        (IoChoice::Poll, _) => Ok(IoDecision { uring: false, obstacle: None }),
        (_, None) => Ok(IoDecision { uring: true, obstacle: None }),
        (IoChoice::Auto, obstacle) => Ok(IoDecision { uring: false, obstacle }),
        (IoChoice::IoUring, Some(why)) => {
            bail!("io_uring was asked for but cannot be used: {why}; allow it, or set dataplane.io to auto or poll")
        }
    }
}

fn describe(config: &Config, tap: &Tap, io: &IoDecision, backend: Backend) -> PlaneInfo {
    PlaneInfo {
        pid: std::process::id(),
        version: env!("CARGO_PKG_VERSION").into(),
        mode: config.mode,
        tap: config.tap.clone(),
        tap_mac: tap.mac,
        listen: config.listen,
        workers: config.workers,
        max_peers: config.max_peers,
        sa_slots: config.sa_slots,
        cpu_features: cpu_features(),
        crypto: backend.name().into(),
        io: if io.uring { IO_URING } else { "poll" }.into(),
        memory_bytes: memory_bytes(config) as u64,
        arguments: config::pairs(std::env::args().skip(1)),
        protections: Protections::default(),
    }
}

/// What devices that come later have to be like.
fn expected(config: &Config, queues: &[TapQueue]) -> Expected {
    let limits = queues.first().map(|queue| queue.limits);
    let offloads = limits.map_or(Offloads::default(), |Limits { tso, uso, .. }| Offloads { tso, uso });
    Expected {
        mode: config.mode,
        tap: config.tap.clone(),
        offloads,
        mapped: config.listen.is_ipv6(),
        workers: config.workers.into(),
    }
}

/// Room for what a control plane leaves to the next: some text for each of its SAs, and its IKE SA with each peer.
fn vault_bytes(config: &Config) -> u32 {
    let slots = u32::from(config.workers).saturating_mul(config.sa_slots);
    let peers = u32::from(config.max_peers).saturating_mul(VAULT_BYTES_PER_PEER);
    let bytes = slots.saturating_mul(VAULT_BYTES_PER_SLOT).saturating_add(peers);
    bytes.clamp(Sizes::default().vault_bytes, PART_BYTES_MAX)
}

/// What packets can ever occupy, in bytes: the pools of the workers and the buffers between them.
fn memory_bytes(config: &Config) -> usize {
    usize::from(config.workers) * pool_bytes() + handover_bytes(config.workers.into(), config.is_hub())
}

fn report(config: &Config, info: &PlaneInfo, io: &IoDecision, sockets: &[UdpSocket]) {
    log::info(format_args!(
        "adit-dataplane {} on {}: {} {} with {} queues, {} KiB for packets, I/O {}, crypto {} ({})",
        info.version,
        info.listen,
        interface::kind(info.mode),
        info.tap,
        info.workers,
        info.memory_bytes / 1024,
        info.io,
        info.crypto,
        info.cpu_features
    ));
    if let Some(why) = &io.obstacle {
        log::warn(format_args!("running on poll and plain system calls, not on io_uring: {why}"));
    }
    if let Some(socket) = sockets.first() {
        if socket.receive_buffer < config.socket_buffer as usize {
            log::warn(format_args!(
                "the UDP receive buffer is {} bytes instead of {}: raise the sysctl net.core.rmem_max or run with CAP_NET_ADMIN",
                socket.receive_buffer, config.socket_buffer
            ));
        }
        if !socket.gro || socket.segments_max == 1 {
            log::warn("the kernel lacks UDP_GRO or UDP_SEGMENT; packets go one by one");
        }
    }
}

fn build_workers(
    config: &Config,
    backend: Backend,
    io: &IoDecision,
    (queues, sockets): (Vec<TapQueue>, Vec<UdpSocket>),
    ports: Vec<Port>,
    cores: &[CoreId],
) -> Vec<Worker> {
    let handover = Arc::new(Handover::new(ports.iter().map(Port::waker).collect(), config.is_hub()));
    let registry = Arc::new(Registry::new(ports.len(), config.sa_slots));
    let mut workers = Vec::new();
    let clock = clock();
    for (id, (((tap, udp), port), core)) in queues.into_iter().zip(sockets).zip(ports).zip(cores).enumerate() {
        let (handover, registry) = (handover.clone(), registry.clone());
        let clamps_mss = config.mode == Mode::Ip && config.mss_clamp == MssClamp::Auto;
        let inject = inject_buffer();
        let mut env = Environment {
            id,
            mode: config.mode,
            dscp: config.dscp,
            frame_max: config.frame_max(),
            clamps_mss,
            tap,
            udp,
            port,
            inject,
            handover,
            registry,
        };
        show(&mut env, io, backend, core);
        workers.push(Worker::new(env, State::new(config, backend, clock)));
    }
    workers
}

/// The clock of all workers, in the form in which other processes read it, too.
fn clock() -> Clock {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a timespec that the call fills; with this clock it cannot fail.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    Clock { began: Instant::now(), began_ns: time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64 }
}

/// What start-up decided, as gauges.
fn show(env: &mut Environment, io: &IoDecision, backend: Backend, core: &CoreId) {
    for (gauge, value) in [
        (Gauge::IoUring, i64::from(io.uring)),
        (Gauge::CryptoBackend, crypto::code(backend)),
        (Gauge::UdpSegmentMax, env.udp.segments_max as i64),
        (Gauge::UdpGro, i64::from(env.udp.gro)),
        (Gauge::TapIndex, env.tap.index().into()),
        (Gauge::TapTso, i64::from(env.tap.limits.tso)),
        (Gauge::TapUso, i64::from(env.tap.limits.uso)),
        (Gauge::Core, core.id as i64),
        (Gauge::SocketReceiveBuffer, env.udp.receive_buffer as i64),
        (Gauge::PoolBytes, pool_bytes() as i64),
    ] {
        env.port.gauge(gauge, value);
    }
}

/// Keeps the memory of the process, in which keys are, out of core dumps and from other processes of the same user, unless the
/// environment variable ADIT_DUMPABLE is set.
fn close_memory() -> io::Result<()> {
    if std::env::var_os("ADIT_DUMPABLE").is_some() {
        // The kernel closes it where a process gets capabilities or another user.
        // SAFETY: the call takes integers.
        return if unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 1) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) };
    }
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the first call reads the structure, which outlives it; the second takes integers. A core_pattern with a pipe knows
    // no limit, and obeys the second.
    let closed =
        unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const none) == 0 && libc::prctl(libc::PR_SET_DUMPABLE, 0) == 0 };
    if closed { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Blocks the signals that end a process by default. The descriptor hears of those that are to end this one; the others end nothing,
/// also where somebody signals both planes by the beginning of their names.
fn block_signals() -> io::Result<OwnedFd> {
    // SAFETY: the sets are initialised by sigemptyset before they are used; the descriptor returned is ours alone.
    unsafe {
        let (mut set, mut blocked): (libc::sigset_t, libc::sigset_t) = (std::mem::zeroed(), std::mem::zeroed());
        libc::sigemptyset(&raw mut set);
        libc::sigemptyset(&raw mut blocked);
        for signal in [libc::SIGTERM, libc::SIGINT] {
            libc::sigaddset(&raw mut set, signal);
            libc::sigaddset(&raw mut blocked, signal);
        }
        for signal in [libc::SIGHUP, libc::SIGUSR1, libc::SIGUSR2, libc::SIGALRM, libc::SIGPIPE] {
            libc::sigaddset(&raw mut blocked, signal);
        }
        if libc::sigprocmask(libc::SIG_BLOCK, &raw const blocked, std::ptr::null_mut()) != 0 {
            return Err(io::Error::last_os_error());
        }
        let fd = libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd)) }
    }
}
