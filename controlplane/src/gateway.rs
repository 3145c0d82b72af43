//! The life of a gateway: start or find the data plane, give it what the configuration says, watch it, start it again when
//! it dies, stop it at the end.
//!
//! One loop in one task does all that ([`Gateway::run`]); [`start`] brings a data plane up, [`install`] fills it,
//! [`watch`] is the time in between, [`watchdog`] finds one that hangs, [`persist`] saves what must outlive it. The API reads the shared [`View`] beside it.

mod answer;
mod command_queue;
mod engine_loop;
mod install;
mod interface;
mod log_dedup;
mod names;
mod own_port;
mod persist;
mod port500;
mod reload;
mod runtime_dir;
mod start;
mod watch;
mod watchdog;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use adit_proto::control::{PeerId, Spi};
use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch as channel};
use zeroize::Zeroizing;

use crate::api::Listeners;
use crate::config::{Config, KEY_LOG_WARNING};
use crate::dataplane::Process;
use crate::dataplane::log::Tail;
use crate::desired::Desired;
use crate::ike::Ike;
use crate::ike::key_log::KeyLogFiles;
use crate::netlink::{Netlink, News};
use crate::reconcile::InstalledState;
use crate::request::Request;
use crate::resolve::Resolver;
use crate::state::State;
use crate::static_key::KeyId;
use crate::view::View;
use command_queue::CommandQueue;
use interface::Upkeep;
use log_dedup::{InitiatorLog, LogDedup};
use port500::Port500;
use runtime_dir::RuntimeDir;

/// Deaths in a row after which restarts begin to wait.
const FAST_RESTARTS: u32 = 5;
/// Longest wait between restarts.
const RESTART_WAIT_MAX: Duration = Duration::from_secs(30);
/// A data plane that lived this long is taken for healthy: the next death counts as the first.
const HEALTHY: Duration = Duration::from_secs(60);

/// Requests of the API that may wait; more wait in their connections.
const REQUESTS_MAX: usize = 64;

/// How a gateway is run.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// At the end, leave the data plane running.
    pub leave_dataplane: bool,
}

/// A gateway and what it holds while it runs.
pub struct Gateway {
    /// What should be.
    desired: Arc<Desired>,
    view: Arc<View>,
    state: State,
    options: Options,
    stop: channel::Receiver<bool>,
    /// Deaths of the data plane in a row.
    deaths: u32,
    /// A data plane was up and filled in this run.
    up_before: bool,
    /// The id of every peer of the configuration, as soon as a data plane has had them.
    ids: Vec<PeerId>,
    /// The command line of the data plane that is attached; empty while none is.
    arguments: Vec<(String, String)>,
    ike: Option<Ike>,
    listeners: Listeners,
    /// The configuration leaves the port to the system.
    port_is_chosen: bool,
    /// The port on which IKE begins without NAT traversal.
    port500: Port500,
    /// What the names of endpoints stand for.
    resolver: Resolver,
    initiators: InitiatorLog,
    log_dedup: LogDedup,
    /// What the kernel says of links, addresses and routes.
    news: Option<News>,
    /// The interface in the kernel.
    upkeep: Upkeep,
    /// When that is to be looked at, and was looked at last.
    look_at_addresses_at: Option<Instant>,
    looked_at_addresses: Option<Instant>,
    /// Where the keys are written, if somebody analyses.
    key_log: Option<KeyLogFiles>,
    /// What the API wants.
    requests: mpsc::Receiver<Request>,
    /// Signals that ask for the configuration to be read again.
    hangups: Signal,
    vault: persist::Vault,
    /// Why the state could not be saved, once that was said.
    save_complaint: Option<String>,
    runtime_dir: RuntimeDir,
}

/// A data plane that is attached and watched. The channel itself is in the view.
struct Plane {
    process: Process,
    log: Tail,
    command_queue: CommandQueue,
    /// What every outbound SA may use. The peer belongs to the name: the SPI is its choice.
    granted: BTreeMap<(PeerId, Spi), Granted>,
    /// SAs that want more numbers and have not got them, because the disk did not take the mark.
    to_extend: BTreeSet<(PeerId, Spi)>,
    /// Everything was sent and answered: it has what it should have. And it was so at least once.
    settled: bool,
    was_ready: bool,
    /// A reload could not do all of it.
    incomplete: bool,
    since: Instant,
}

/// The sequence numbers that an outbound SA may use.
#[derive(Clone, Copy)]
struct Granted {
    key_id: KeyId,
    worker: u16,
    /// The first number that it may not use.
    end: u64,
}

impl Plane {
    /// A data plane that nothing was sent to yet.
    fn new(process: Process, log: Tail) -> Plane {
        Plane {
            process,
            log,
            // Tickets differ from run to run: answers to a control plane before us may still come.
            command_queue: CommandQueue::new(std::process::id().wrapping_mul(1 << 16)),
            granted: BTreeMap::new(),
            to_extend: BTreeSet::new(),
            settled: false,
            was_ready: false,
            incomplete: false,
            since: Instant::now(),
        }
    }
}

/// A data plane that is up but not filled yet.
struct Found {
    master: adit_channel::Master,
    process: Process,
    log: Tail,
    /// What an earlier control plane left; `None` for a data plane that we started.
    installed: Option<InstalledState>,
    /// Its command line.
    arguments: Vec<(String, String)>,
    /// The IKE SAs that it left.
    ike: Zeroizing<Vec<u8>>,
}

/// Why the watch over a data plane ended.
enum Ended {
    Stop,
    /// A reload needs another one.
    Replaced,
    Died(String),
}

/// Runs a gateway until it is told to stop.
///
/// # Errors
/// It could not be started; later faults are repaired and logged.
pub async fn run(desired: Desired, options: Options) -> anyhow::Result<()> {
    let stop = stop_signals()?;
    let hangups = reload_signals()?;
    let mut desired = desired;
    let runtime_dir = RuntimeDir::hold(&desired.config.runtime_dir)?;
    let state = State::open(&desired.config.state_dir)?;
    let port_is_chosen = own_port::settle(&mut desired.config, &state)?;
    let desired = Arc::new(desired);
    let config = &desired.config;
    tracing::info!("gateway {}: adit {}", config.name, env!("CARGO_PKG_VERSION"));
    let view = Arc::new(View::new(desired.clone()));
    let key_log = open_key_log(config)?;
    let (sender, requests) = mpsc::channel(REQUESTS_MAX);
    let listeners = Listeners::open(&view, &sender).await?;
    let mut gateway = Gateway {
        port500: Port500::default(),
        port_is_chosen,
        desired: desired.clone(),
        view,
        state,
        options,
        stop,
        deaths: 0,
        up_before: false,
        ids: Vec::new(),
        arguments: Vec::new(),
        ike: None,
        listeners,
        resolver: Resolver::default(),
        initiators: InitiatorLog::default(),
        log_dedup: LogDedup::default(),
        news: listen_to_kernel(),
        upkeep: Upkeep::default(),
        // They may have changed while no control plane was there.
        look_at_addresses_at: Some(Instant::now()),
        looked_at_addresses: None,
        key_log,
        requests,
        hangups,
        vault: persist::Vault::default(),
        save_complaint: None,
        runtime_dir,
    };
    gateway.port500.keep(config).await;
    gateway.resolver.keep(config);
    let result = gateway.run().await;
    // It may be gone already; a left file would be replaced by the next run.
    let _ = std::fs::remove_file(config.api_socket());
    result
}

impl Gateway {
    async fn run(&mut self) -> anyhow::Result<()> {
        loop {
            match self.bring_up().await {
                Ok(None) => return Ok(()),
                Ok(Some(mut plane)) => {
                    self.up_before = true;
                    self.listeners.serve();
                    match self.watch(&mut plane).await {
                        Ended::Stop => return self.finish(plane).await,
                        Ended::Replaced => {
                            self.replace(plane).await;
                            continue;
                        }
                        Ended::Died(how) => self.bury(plane, &how),
                    }
                }
                // What cannot be started at all the first time is for people to repair.
                Err(error) if !self.up_before => return Err(error),
                Err(error) => {
                    self.deaths += 1;
                    tracing::error!("the data plane could not be started again: {error:#}");
                }
            }
            let wait = restart_wait(self.deaths);
            if !wait.is_zero() {
                tracing::warn!("the data plane died {} times in a row: the next start is in {} s", self.deaths, wait.as_secs());
            }
            if !self.rest(wait).await {
                return Ok(());
            }
        }
    }

    /// Waits while no data plane is attached, and answers meanwhile; false when told to stop.
    async fn rest(&mut self, wait: Duration) -> bool {
        let until = Instant::now() + wait;
        loop {
            tokio::select! {
                biased;
                () = stopped(&mut self.stop) => return false,
                Some(request) = self.requests.recv() => drop(self.answer(None, request).await),
                _ = self.hangups.recv() => drop(self.reload_by_signal(None).await),
                () = tokio::time::sleep_until(until.into()) => return true,
            }
        }
    }

    /// Brings a data plane up and fills it. `None` when told to stop meanwhile.
    async fn bring_up(&mut self) -> anyhow::Result<Option<Plane>> {
        let Some(found) = self.find().await? else { return Ok(None) };
        let started_here = found.installed.is_none();
        match self.fill(found).await {
            Ok(plane) => Ok(Some(plane)),
            Err((mut process, error)) => {
                self.view.detach();
                if started_here {
                    process.stop().await;
                }
                Err(error)
            }
        }
    }

    /// Keeps the numbers of a data plane that died.
    fn bury(&mut self, mut plane: Plane, how: &str) {
        plane.log.forward();
        tracing::error!("{how}; the tunnel is down until it is back");
        self.save_tops_or_say();
        self.view.detach();
        self.arguments.clear();
        self.view.restarts.fetch_add(1, Ordering::Relaxed);
        self.deaths = if plane.since.elapsed() >= HEALTHY { 1 } else { self.deaths + 1 };
    }

    /// Ends a data plane because a reload needs another one.
    async fn replace(&mut self, mut plane: Plane) {
        tracing::info!(
            "the data plane (process {}) is replaced: all tunnels stand still until the next one is up",
            plane.process.pid
        );
        self.save_tops_or_say();
        plane.process.stop().await;
        // After its end, the last numbers are in the memory that we still have.
        self.save_tops_or_say();
        plane.log.forward();
        self.view.detach();
        self.arguments.clear();
        self.deaths = 0;
    }

    /// The end: saves what must be saved, stops the data plane or leaves it.
    async fn finish(&mut self, mut plane: Plane) -> anyhow::Result<()> {
        if !self.options.leave_dataplane {
            self.say_goodbye(&mut plane).await;
        }
        let saved = self.save_tops();
        if self.options.leave_dataplane {
            self.view.detach();
            tracing::info!("stopped; the data plane (process {}) goes on without us", plane.process.pid);
            return saved.map_err(Into::into);
        }
        tracing::info!("stopping the data plane (process {})", plane.process.pid);
        let ending = plane.process.stop().await;
        // After its end, the last numbers are in the memory that we still have.
        let saved = saved.and(self.save_tops());
        plane.log.forward();
        self.view.detach();
        // It removes its socket itself, unless it had to be killed.
        let _ = std::fs::remove_file(self.desired.config.channel_socket());
        if let Ok(netlink) = Netlink::open() {
            netlink.remove_rules().await;
        }
        // Whoever waits for our end may want to use the interface or the port again.
        if let Err(error) = self.wait_until_free().await {
            tracing::warn!("the data plane {ending}, but {error}");
        }
        tracing::info!("the data plane {ending}; stopped");
        saved.map_err(Into::into)
    }
}

/// Opens the key log, if there is to be one, and says so where nobody overlooks it.
fn open_key_log(config: &Config) -> anyhow::Result<Option<KeyLogFiles>> {
    let Some(dir) = &config.ike.key_log_dir else { return Ok(None) };
    let files = KeyLogFiles::open(dir).context("ike.key_log_dir")?;
    tracing::warn!("KEY LOG: the keys of every SA are written to {}: {KEY_LOG_WARNING}", dir.display());
    Ok(Some(files))
}

/// Listens to the kernel. Without it, changes are found a little later.
fn listen_to_kernel() -> Option<News> {
    match News::open() {
        Ok(news) => Some(news),
        Err(error) => {
            tracing::warn!("the kernel's news of links, addresses and routes cannot be heard: {error}");
            None
        }
    }
}

/// How long to wait before a restart after so many deaths in a row.
fn restart_wait(deaths: u32) -> Duration {
    match deaths.checked_sub(FAST_RESTARTS) {
        None | Some(0) => Duration::ZERO,
        Some(slow) => Duration::from_secs(1 << (slow - 1).min(10)).min(RESTART_WAIT_MAX),
    }
}

/// Nanoseconds since 1970, for [`crate::sequence`].
fn clock_ns() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// Completes when told to stop.
async fn stopped(stop: &mut channel::Receiver<bool>) {
    // The sender lives as long as the runtime; if it were gone, stopping would be right too.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Signals that ask for the configuration to be read again. Others that would end a process by default end nothing here.
fn reload_signals() -> anyhow::Result<Signal> {
    // Once there is a handler, the default is gone for good; nobody has to listen.
    for (kind, name) in
        [(SignalKind::user_defined1(), "SIGUSR1"), (SignalKind::user_defined2(), "SIGUSR2"), (SignalKind::alarm(), "SIGALRM")]
    {
        drop(signal(kind).with_context(|| format!("catching {name}"))?);
    }
    signal(SignalKind::hangup()).context("catching SIGHUP")
}

fn stop_signals() -> anyhow::Result<channel::Receiver<bool>> {
    let mut terminate = signal(SignalKind::terminate()).context("catching SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("catching SIGINT")?;
    let (sender, receiver) = channel::channel(false);
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        sender.send_replace(true);
        sender.closed().await;
    });
    Ok(receiver)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restarts_are_fast_five_times_and_then_wait_up_to_thirty_seconds() {
        let waits: Vec<u64> = (1..=13).map(|deaths| restart_wait(deaths).as_secs()).collect();
        assert_eq!(waits, [0, 0, 0, 0, 0, 1, 2, 4, 8, 16, 30, 30, 30]);
        assert_eq!(restart_wait(u32::MAX), RESTART_WAIT_MAX);
    }
}
