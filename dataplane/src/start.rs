//! Start-up and supervision: everything is opened, probed and allocated before the first packet; then the main thread only
//! serves the channel's socket, ticks once a second and waits for a signal or a worker's failure.
//!
//! unsafe here: signalfd, poll and the monotonic clock.

mod scheduling;

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use adit_channel::service::{Manager, NotifyState};
use adit_channel::{EventFd, Listener, Notice, PART_BYTES_MAX, PlaneInfo, Port, Protections, Region, Sizes, Turns};
use adit_proto::control::{Mode, Place};
use adit_proto::stats::Gauge;
use anyhow::{Context, Result, bail};
use core_affinity::CoreId;

use crate::config::{self, Config, IoChoice, MssClamp};
use crate::confinement;
use crate::crypto;
use crate::environment::Environment;
use crate::handover::{Handover, handover_bytes};
use crate::io::Failure;
use crate::io::poll::PollIo;
use crate::io::uring::{self, UringIo};
use crate::log;
use crate::pool::{inject_buffer, pool_bytes};
use crate::registry::Registry;
use crate::roam::Roam;
use crate::sa::{path_slots, peer_slots};
use crate::state::{Clock, State};
use crate::tap::{self, Tap};
use crate::udp::{self, UdpSocket};
use crate::worker::Worker;
use adit_esp::aead::{Backend, cpu_features};

/// How long to wait until what a dead data plane held is free: RCU and the lock of all network interfaces are waited for, each of
/// them for hundreds of milliseconds on a busy host. What is still taken then is somebody else's.
const PREDECESSOR_GRACE: Duration = Duration::from_secs(3);
/// How long to wait before a control plane that could not be let in is tried again.
const LISTENER_PAUSE: Duration = Duration::from_millis(100);
/// How [`PlaneInfo`] calls that way of waiting.
const IO_URING: &str = "io_uring";
/// How often every worker is made to look at its clock.
const TICK: Duration = Duration::from_secs(1);
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
    let (running, listener) = plane.spawn(|info| {
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
    supervise(running, listener, &signals, manager)
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
        let sockets = udp::bind_group(config.listen, workers, buffer, until)?;
        if config.mark != 0 {
            let marked = sockets.iter().try_for_each(|socket| socket.set_mark(config.mark));
            marked.context("cannot mark the packets outside: SO_MARK needs the capability CAP_NET_ADMIN")?;
        }
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
        if let Some(why) = &tap.steering_obstacle {
            log::info(format_args!(
                "the driver of the interface chooses the queues by itself, no program could be given to it: {why}"
            ));
        }
        let workers = build_workers(config, backend, &io, tap, sockets, ports, &cores);
        let busy_poll = Duration::from_micros(config.busy_poll_us.into());
        Ok(Plane { workers, region, info, listener, cores, roams: config.roams(), io, busy_poll })
    }

    /// Starts the workers, each pinned to its core. `last` is done when all of them have opened what they need, before the first packet;
    /// what it changes of the info, control planes are told.
    pub fn spawn(mut self, last: impl FnOnce(&mut PlaneInfo)) -> Result<(Running, Listener)> {
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
            let (worker, opened) = running.ready.recv().context("a worker ended while it was started")?;
            opened.map_err(|failure| anyhow::anyhow!(explain(worker, &failure)))?;
        }
        last(&mut self.info);
        self.region.describe(&self.info).context("cannot describe the data plane in the channel's shared memory")?;
        for start in &starts {
            // A worker that is gone has reported why.
            let _ = start.send(());
        }
        Ok((running, self.listener))
    }
}

/// The kernel takes the ring of a process that was killed apart a little after its end, and until then its interface is still there.
fn await_predecessor(interface: &str, until: Instant) {
    while tap::exists(interface) && Instant::now() < until {
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
        tap::kind(info.mode),
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
    tap: Tap,
    sockets: Vec<UdpSocket>,
    ports: Vec<Port>,
    cores: &[CoreId],
) -> Vec<Worker> {
    let handover = Arc::new(Handover::new(ports.iter().map(Port::waker).collect(), config.is_hub()));
    let registry = Arc::new(Registry::new(ports.len(), config.sa_slots));
    let mut workers = Vec::new();
    let clock = clock();
    for (id, (((tap, udp), port), core)) in tap.queues.into_iter().zip(sockets).zip(ports).zip(cores).enumerate() {
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
        (Gauge::TapTso, i64::from(env.tap.limits.tso)),
        (Gauge::TapUso, i64::from(env.tap.limits.uso)),
        (Gauge::Core, core.id as i64),
        (Gauge::SocketReceiveBuffer, env.udp.receive_buffer as i64),
        (Gauge::PoolBytes, pool_bytes() as i64),
    ] {
        env.port.gauge(gauge, value);
    }
}

/// The threads of the workers, and what ends them.
pub struct Running {
    threads: Vec<thread::JoinHandle<()>>,
    report: mpsc::Sender<(usize, Failure)>,
    failures: mpsc::Receiver<(usize, Failure)>,
    /// Workers that have opened what they need, or could not.
    opened: mpsc::Sender<(usize, Result<(), Failure>)>,
    ready: mpsc::Receiver<(usize, Result<(), Failure>)>,
    stop: Arc<AtomicBool>,
    wakes: Vec<Arc<EventFd>>,
    /// The turns of each worker, and how many it had made when they were looked at last.
    turns: Vec<(Turns, u64)>,
    /// Readable when a worker has failed.
    alarm: Arc<EventFd>,
}

impl Running {
    fn new() -> Result<Running> {
        let (report, failures) = mpsc::channel();
        let alarm = Arc::new(EventFd::new().context("cannot create an eventfd")?);
        let stop = Arc::new(AtomicBool::new(false));
        let (opened, ready) = mpsc::channel();
        Ok(Running { threads: Vec::new(), report, failures, opened, ready, stop, wakes: Vec::new(), turns: Vec::new(), alarm })
    }

    /// `uring`: run on io_uring, and how long to look before sleeping; else on poll. The worker says by `ready` that it has opened what it
    /// needs, and begins when it is told to by what is returned.
    fn spawn(
        &mut self,
        id: usize,
        mut worker: Worker,
        (core, roams): (CoreId, bool),
        uring: Option<Duration>,
    ) -> Result<mpsc::Sender<()>> {
        let (stop, report, alarm) = (self.stop.clone(), self.report.clone(), self.alarm.clone());
        let (opened, (start, begin)) = (self.opened.clone(), mpsc::channel());
        let descriptors = worker.descriptors();
        self.wakes.push(worker.waker());
        self.turns.push((worker.turns(), u64::MAX));
        let body = move || {
            worker.let_roam(roams.then(|| Roam::from(core)).flatten());
            take_core(id, core);
            let (ring, ready) = match uring.map(|busy_poll| UringIo::new(descriptors, busy_poll)).transpose() {
                Ok(ring) => (ring, Ok(())),
                Err(failure) => (None, Err(failure)),
            };
            let failed = ready.is_err();
            // Whoever waits for it may have given up; then nobody tells us to begin either.
            let _ = opened.send((id, ready));
            if failed || begin.recv().is_err() {
                return;
            }
            let result = match ring {
                Some(ring) => worker.run(ring, &stop),
                None => worker.run(PollIo::new(descriptors), &stop),
            };
            if let Err(failure) = result {
                // The receiver lives as long as the process serves.
                let _ = report.send((id, failure));
                alarm.signal();
            }
        };
        let thread = thread::Builder::new().name(format!("worker-{id}")).spawn(body).context("cannot start a worker thread")?;
        self.threads.push(thread);
        Ok(start)
    }

    /// Makes every worker look at its clock.
    fn tick(&self) {
        self.wakes.iter().for_each(|wake| wake.signal());
    }

    /// Whether every worker has made a turn since this was asked last.
    fn have_moved(&mut self) -> bool {
        // Every worker is looked at: each has its own last look.
        self.turns.iter_mut().fold(true, |moved, (turns, last)| {
            let now = turns.now();
            std::mem::replace(last, now) != now && moved
        })
    }

    /// Stops the workers and waits for them.
    pub fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.tick();
        for thread in self.threads {
            // A worker that panicked has said so on stderr.
            let _ = thread.join();
        }
    }
}

/// Has the calling thread, a worker, run on its core, in short slices.
fn take_core(id: usize, core: CoreId) {
    if !core_affinity::set_for_current(core) {
        log::warn(format_args!("worker {id} could not be pinned to core {}", core.id));
    }
    if let Err(error) = scheduling::ask_for_short_slices() {
        log::info(format_args!("worker {id} runs with the scheduler's usual slices: {error}"));
    }
}

/// The listener for control planes. What fails there concerns who waits outside, never the packets.
struct ControlListener {
    listener: Listener,
    failing: bool,
    /// The socket's file was gone, and could not be looked for or made again.
    homeless: bool,
}

impl ControlListener {
    /// Once a second: the socket is there again soon after somebody has removed it. What fails is tried again.
    fn keep_socket(&mut self) {
        match self.listener.keep_socket() {
            Ok(again) => {
                if std::mem::take(&mut self.homeless) || again {
                    log::info("the socket for the control plane was removed, and is there again");
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut self.homeless, true) {
                    log::warn(format_args!("the socket for the control plane cannot be kept: {error}; it is tried again"));
                }
            }
        }
    }

    /// Lets control planes in; true when the one that is attached wants the data plane to end.
    fn serve(&mut self) -> bool {
        match self.listener.serve() {
            Ok(notices) => {
                if std::mem::take(&mut self.failing) {
                    log::info("control planes can attach again");
                }
                notices.iter().for_each(tell);
                return notices.iter().any(|notice| matches!(notice, Notice::End { .. }));
            }
            Err(error) => {
                if !std::mem::replace(&mut self.failing, true) {
                    log::warn(format_args!("no control plane can attach: {error}; it is tried again"));
                }
                // Who waits keeps the socket readable.
                thread::sleep(LISTENER_PAUSE);
            }
        }
        false
    }

    /// How the data plane does, in one line.
    fn status(&self) -> String {
        match self.listener.master_pid() {
            Some(pid) => format!("forwarding; the control plane is process {pid}"),
            None => "forwarding with what it has; waiting for a control plane".to_owned(),
        }
    }
}

/// Who came and went at the socket.
fn tell(notice: &Notice) {
    match notice {
        Notice::Denied { .. } => log::warn(notice),
        notice => log::info(notice),
    }
}

fn supervise(mut running: Running, listener: Listener, signals: &OwnedFd, mut manager: Manager) -> Result<ExitCode> {
    let mut control_listener = ControlListener { listener, failing: false, homeless: false };
    manager.tell(&[NotifyState::Ready]);
    manager.status("waiting for a control plane");
    let mut tick_at = Instant::now() + TICK;
    loop {
        let mut fds = vec![watch(signals.as_raw_fd()), watch(running.alarm.as_fd().as_raw_fd())];
        fds.extend(control_listener.listener.poll_fds().iter().map(|fd| watch(fd.as_raw_fd())));
        let until_tick = tick_at.saturating_duration_since(Instant::now()).as_millis() as libc::c_int + 1;
        // SAFETY: the array has the length given.
        let ready = unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, until_tick) };
        if ready < 0 && io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
            return Err(io::Error::last_os_error()).context("cannot wait for the control plane");
        }
        if Instant::now() >= tick_at {
            // A worker that stands still is what a watchdog is for.
            if running.have_moved() {
                manager.alive();
            }
            running.tick();
            tick_at = Instant::now() + TICK;
            control_listener.keep_socket();
        }
        if fds[0].revents != 0 {
            manager.tell(&[NotifyState::Stopping]);
            running.stop();
            return Ok(ExitCode::SUCCESS);
        }
        if let Ok((worker, failure)) = running.failures.try_recv() {
            let cause = explain(worker, &failure);
            running.stop();
            bail!(cause);
        }
        if fds[2..].iter().any(|fd| fd.revents != 0) {
            if control_listener.serve() {
                manager.tell(&[NotifyState::Stopping]);
                running.stop();
                return Ok(ExitCode::SUCCESS);
            }
            manager.status(&control_listener.status());
        }
    }
}

fn explain(worker: usize, failure: &Failure) -> String {
    let tap_gone = matches!(failure.error.raw_os_error(), Some(libc::EBADFD | libc::EBADF | libc::ENODEV));
    match failure.at {
        Place::TapRead | Place::TapWrite if tap_gone => {
            format!("worker {worker}: the interface was deleted under the process; it is created anew when the process restarts")
        }
        place => format!("worker {worker} failed at {place:?}: {}", failure.error),
    }
}

fn watch(fd: RawFd) -> libc::pollfd {
    libc::pollfd { fd, events: libc::POLLIN, revents: 0 }
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
