//! The life of a gateway: start or find the data plane, give it what the configuration says, watch it, start it again when
//! it dies, stop it at the end.
//!
//! One loop in one task does all that ([`Gateway::run`]); [`start`] brings a data plane up, [`install`] fills it,
//! [`watch`] is the time in between, [`watchdog`] finds one that hangs. What it needs are parts with one job each: [`durable`] keeps on
//! disk what must outlive a crash of the machine, [`persist`] in the data plane's vault what the next control plane has to know,
//! [`interface`] the interface in the kernel, [`devices`] what is opened for a data plane that runs, [`repair`] what the data plane
//! has refused or lost, [`underlay`] hears of the network around, [`streams`] of the relay, [`candidates`] says where peers may find us beside it, [`requests`] of people, [`restarts`] says when a dead data plane is
//! started again, [`renewal`] takes keys and certificates that were renewed on disk, [`peer_log`] what the log says of peers. The API
//! reads the shared [`View`] beside it.

mod answer;
mod around;
mod black_holes;
mod candidates;
mod command_queue;
mod devices;
mod durable;
mod engine_loop;
mod icmp;
mod install;
mod interface;
mod log_budget;
mod log_dedup;
mod look;
mod names;
mod own_port;
mod peer_log;
mod persist;
mod port500;
mod reload;
mod renewal;
mod repair;
mod requests;
mod restarts;
mod runtime_dir;
mod standing;
mod start;
mod streams;
mod underlay;
mod watch;
mod watchdog;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use adit_channel::service::{Manager, NotifyState};
use adit_proto::control::{PeerId, Spi};
use anyhow::Context;
use zeroize::Zeroizing;

use crate::api::Listeners;
use crate::config::{Config, KEY_LOG_WARNING};
use crate::dataplane::log::Tail;
use crate::dataplane::{Ending, Process};
use crate::desired::Desired;
use crate::ike::Ike;
use crate::ike::key_log::KeyLogFiles;
use crate::netlink::Netlink;
use crate::reconcile::InstalledState;
use crate::service;
use crate::state::State;
use crate::static_key::KeyId;
use crate::view::View;
use around::Around;
use candidates::Candidates;
use command_queue::CommandQueue;
use devices::Absence;
use durable::Durable;
pub use icmp::RawSockets;
use interface::{Should, Upkeep};
use peer_log::PeerLog;
use persist::Vault;
use renewal::Renewal;
use repair::Repair;
use requests::{Requests, stopped};
use restarts::Restarts;
use runtime_dir::RuntimeDir;
use streams::Streams;
use underlay::Underlay;

/// How often who started us hears that we live, while nothing else is to be done.
const ALIVE_EVERY: Duration = Duration::from_secs(1);

/// How a gateway is run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// At the end, leave the data plane running.
    pub leave_dataplane: bool,
    /// Take over the data plane that is there only to end it.
    pub only_stop: bool,
}

/// A gateway and what it holds while it runs.
pub struct Gateway {
    /// What should be.
    desired: Arc<Desired>,
    view: Arc<View>,
    /// What must outlive a crash of the machine.
    durable: Durable,
    options: Options,
    restarts: Restarts,
    /// The id of every peer of the configuration, as soon as a data plane has had them.
    ids: Vec<PeerId>,
    ike: Option<Ike>,
    listeners: Listeners,
    /// The configuration leaves the port to the system.
    port_is_chosen: bool,
    underlay: Underlay,
    /// The ways over the relay.
    streams: Streams,
    /// Where peers that are met over the relay may find us.
    candidates: Candidates,
    /// The other interfaces.
    around: Around,
    peer_log: PeerLog,
    /// The interface in the kernel.
    upkeep: Upkeep,
    /// Where the keys are written, if somebody analyses.
    key_log: Option<KeyLogFiles>,
    requests: Requests,
    /// What the next control plane has to know.
    vault: Vault,
    runtime_dir: RuntimeDir,
    renewal: Renewal,
    /// Who started us, if that is to hear how we do.
    manager: Manager,
    /// The data plane that was ended last.
    ended: Option<u32>,
}

/// A data plane that is attached and watched. The channel itself is in the view.
struct Plane {
    process: Process,
    log: Tail,
    /// Its command line.
    arguments: Vec<(String, String)>,
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
    /// What it has refused or lost.
    repair: Repair,
    /// Of its interface.
    absence: Absence,
    /// Where it listened before, and since when it does not.
    left: Option<(SocketAddr, Instant)>,
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
    fn new(process: Process, log: Tail, arguments: Vec<(String, String)>) -> Plane {
        Plane {
            process,
            log,
            arguments,
            // Tickets differ from run to run: answers to a control plane before us may still come.
            command_queue: CommandQueue::new(std::process::id().wrapping_mul(1 << 16)),
            granted: BTreeMap::new(),
            to_extend: BTreeSet::new(),
            settled: false,
            was_ready: false,
            incomplete: false,
            repair: Repair::default(),
            absence: Absence::default(),
            left: None,
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

/// Runs a gateway until it is told to stop. Gives the process id of the data plane that was ended, if one was.
///
/// # Errors
/// It could not be started; later faults are repaired and logged.
pub async fn run(desired: Desired, options: Options, raw: RawSockets) -> anyhow::Result<Option<u32>> {
    let manager = Manager::open().unwrap_or_else(|error| {
        tracing::warn!("the manager of services that NOTIFY_SOCKET names cannot be told how we do: {error}");
        Manager::default()
    });
    let (requests, sender) = Requests::open()?;
    let mut desired = desired;
    let runtime_dir = RuntimeDir::hold(&desired.config.runtime_dir)?;
    let state = State::open(&desired.config.state_dir)?;
    let port_is_chosen = own_port::settle(&mut desired.config, &state)?;
    let desired = Arc::new(desired);
    let config = &desired.config;
    let view = Arc::new(View::new(desired.clone()));
    let key_log = open_key_log(config)?;
    let listeners = Listeners::open(&view, &sender).await?;
    let underlay = Underlay::open(config, view.port500.clone(), raw).await;
    let mut gateway = Gateway {
        desired: desired.clone(),
        view,
        options,
        requests,
        restarts: Restarts::default(),
        durable: Durable::new(state),
        vault: Vault::default(),
        ids: Vec::new(),
        ike: None,
        key_log,
        peer_log: PeerLog::default(),
        underlay,
        streams: Streams::default(),
        candidates: Candidates::default(),
        around: Around::default(),
        port_is_chosen,
        upkeep: Upkeep::default(),
        listeners,
        runtime_dir,
        renewal: Renewal::default(),
        manager,
        ended: None,
    };
    let result = gateway.run().await;
    gateway.manager.tell(&[NotifyState::Stopping]);
    if !gateway.options.leave_dataplane {
        // Also where none was attached: one that comes now would come for nobody.
        gateway.want_no_plane();
    }
    // It may be gone already; a left file would be replaced by the next run.
    let _ = std::fs::remove_file(config.api_socket());
    result.map(|()| gateway.ended)
}

impl Gateway {
    async fn run(&mut self) -> anyhow::Result<()> {
        loop {
            match self.bring_up().await {
                Ok(None) => return Ok(()),
                Ok(Some(plane)) if self.options.only_stop => return self.finish(plane).await,
                Ok(Some(mut plane)) => {
                    self.restarts.up();
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
                Err(error) if !self.restarts.up_before() => return Err(error),
                Err(error) => {
                    self.restarts.failed();
                    tracing::error!("the data plane could not be started again: {error:#}");
                }
            }
            if !self.rest(self.restarts.wait()).await {
                return Ok(());
            }
        }
    }

    /// Waits while no data plane is attached, and answers meanwhile; false when told to stop.
    async fn rest(&mut self, wait: Duration) -> bool {
        let until = Instant::now() + wait;
        loop {
            self.manager.alive();
            tokio::select! {
                biased;
                () = stopped(&mut self.requests.stop) => return false,
                Some(request) = self.requests.from_api.recv() => drop(self.answer(None, request).await),
                () = tokio::time::sleep(ALIVE_EVERY) => {}
                _ = self.requests.hangups.recv() => drop(self.reload_by_signal(None).await),
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
                    self.end_plane(&mut process).await;
                }
                Err(error)
            }
        }
    }

    /// The interface in the kernel, and what it should be like.
    fn interface(&mut self) -> (&mut Upkeep, Should<'_>) {
        let (index, news) = (self.interface_index(), &self.underlay.news);
        let should = Should { config: &self.desired.config, index, ike: self.ike.as_ref(), news };
        (&mut self.upkeep, should)
    }

    /// Ends a data plane that is not wanted as it is. First, so that its service does not start it the same way once more: the next one
    /// waits until it is said which is wanted.
    async fn end_plane(&self, process: &mut Process) -> Ending {
        self.want_no_plane();
        process.stop().await
    }

    fn want_no_plane(&self) {
        if let Some(service) = &self.desired.config.service {
            service::want_none(service);
        }
    }

    /// Keeps the numbers of a data plane that died.
    fn bury(&mut self, mut plane: Plane, how: &str) {
        plane.log.forward();
        tracing::error!("{how}; the tunnel is down until it is back");
        self.manager.status(&format!("{}: the data plane is DOWN", self.desired.config.name));
        self.durable.note_tops(&self.view);
        self.view.detach();
        self.view.restarts.fetch_add(1, Ordering::Relaxed);
        self.restarts.died(plane.since.elapsed());
    }

    /// Ends a data plane because a reload needs another one.
    async fn replace(&mut self, mut plane: Plane) {
        tracing::info!(
            "the data plane (process {}) is replaced: all tunnels stand still until the next one is up",
            plane.process.pid
        );
        self.durable.note_tops(&self.view);
        self.end_plane(&mut plane.process).await;
        // After its end, the last numbers are in the memory that we still have.
        self.durable.note_tops(&self.view);
        plane.log.forward();
        self.view.detach();
        self.restarts.replaced();
    }

    /// The end: saves what must be saved, stops the data plane or leaves it.
    async fn finish(&mut self, mut plane: Plane) -> anyhow::Result<()> {
        self.manager.tell(&[NotifyState::Stopping]);
        if !self.options.leave_dataplane {
            self.say_goodbye(&mut plane).await;
        }
        self.durable.note_tops(&self.view);
        let saved = self.durable.save().await;
        if self.options.leave_dataplane {
            self.view.detach();
            tracing::info!("stopped; the data plane (process {}) goes on without us", plane.process.pid);
            return saved.map_err(Into::into);
        }
        tracing::info!("stopping the data plane (process {})", plane.process.pid);
        let ending = self.end_plane(&mut plane.process).await;
        self.ended = Some(plane.process.pid);
        // After its end, the last numbers are in the memory that we still have.
        self.durable.note_tops(&self.view);
        let saved = saved.and(self.durable.save().await);
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
