//! The command line: what can be asked of `adit`, and where each request goes.

mod relay;

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use adit_proto::suite::Suite;
use anyhow::{Context, bail};
use clap::{Parser, Subcommand};

use crate::api::client::{self, Gateway};
use crate::config::endpoint::{self, Endpoint};
use crate::config::{Config, Machine, default_runtime_dir};
use crate::dataplane;
use crate::desired::Desired;
use crate::explain;
use crate::gateway::{self, Options, RawSockets};
use crate::keygen;
use crate::limits::STUN_SERVERS_MAX;
use crate::log;
use crate::nat;
use crate::private;
use crate::privileges;
use crate::service;
use crate::status;
use crate::stop;
use crate::survey::{self, Surroundings, Verdict};

/// What went wrong has been printed already.
#[derive(Debug, thiserror::Error)]
#[error("told")]
struct AlreadyReported;

/// What was asked about is not up; that was printed.
#[derive(Debug, thiserror::Error)]
#[error("not up")]
struct NotUp;

/// There was nothing to be stopped; that was printed.
#[derive(Debug, thiserror::Error)]
#[error("nothing runs")]
struct NothingRuns;

/// The configuration has mistakes, which were told: no further start can be better.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Misconfigured(String);

/// The exit code for that (EX_CONFIG of sysexits.h), by which the unit of a relay knows that it is not to be started again.
const MISCONFIGURED: u8 = 78;

/// The exit code where the arguments do not say what is to be done, as that of clap.
const NOT_UNDERSTOOD: u8 = 2;

/// The exit code of `adit status --check` where something is not up, of `adit stop` where nothing runs, and of `adit nat` where UDP does
/// not pass.
const NOT_UP: u8 = 3;

/// Joins networks through an encrypted tunnel.
#[derive(Debug, Parser)]
#[command(name = "adit", version, arg_required_else_help = true)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs a gateway: starts the data plane or attaches to the one that runs, and keeps it going
    Run {
        /// The configuration file
        #[arg(short, long, value_name = "FILE")]
        config: PathBuf,
        /// Leave the data plane running at the end, with its keys: the tunnel goes on
        #[arg(long)]
        leave_dataplane: bool,
        /// The data plane is a service of its own, adit-dataplane@NAME: start none, and wait for that one
        #[arg(long, value_name = "NAME", value_parser = service::name)]
        service: Option<String>,
    },
    /// Ends a gateway and its data plane, or a data plane that was left. Exit code 0: they have ended, 3: nothing runs, 1: it failed
    Stop {
        #[command(flatten)]
        of: Of,
    },
    /// Becomes the data plane of a service, once `adit run --service NAME` says which one it wants; for adit-dataplane@NAME.service
    Dataplane {
        /// The name of the service
        #[arg(value_name = "NAME", value_parser = service::name)]
        service: String,
    },
    /// Shows how a running gateway does, or one of its peers in every detail
    Status {
        /// The peer's name in the configuration; all of them where it is left out
        peer: Option<String>,
        #[command(flatten)]
        of: Of,
        /// As JSON, for programs
        #[arg(long)]
        json: bool,
        /// Again and again, every so many seconds, until it is interrupted
        #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, default_missing_value = "2",
            value_parser = clap::value_parser!(u32).range(1..=3600))]
        watch: Option<u32>,
        /// Say by the exit code whether all that is shown is up: 0, or 3 when not; 1: it cannot be told
        #[arg(long, conflicts_with = "watch")]
        check: bool,
    },
    /// Has a running gateway read its configuration again: what has changed is changed while packets flow
    Reload {
        #[command(flatten)]
        of: Of,
        /// Say what would change, and which tunnels it interrupts, and change nothing
        #[arg(long)]
        dry_run: bool,
        /// Do also what needs another data plane: all tunnels stand still for a moment
        #[arg(long)]
        restart_dataplane: bool,
        /// As JSON, for programs
        #[arg(long)]
        json: bool,
    },
    /// Connects to a peer by IKE, and again whenever the connection is lost
    Connect(OfPeer),
    /// Closes the connection to a peer, and does not connect again; the peer may
    Disconnect(OfPeer),
    /// Replaces the keys with a peer now
    Rekey {
        #[command(flatten)]
        of: OfPeer,
        /// Those of the IKE SA instead of those of the Child SAs
        #[arg(long)]
        ike: bool,
    },
    /// Says why the last negotiation with a peer came to nothing, and what to change
    Explain {
        #[command(flatten)]
        of: OfPeer,
        /// As JSON, for programs
        #[arg(long)]
        json: bool,
    },
    /// Finds out what NAT or firewall lies before this machine, by asking STUN servers, and how hard it is to be reached through it.
    /// Exit code 0: UDP passes, 3: it does not, or nobody answers; 1: nobody could be asked
    Nat {
        /// A STUN server; several tell more. In place of those of the configuration
        #[arg(long = "server", value_name = "HOST[:PORT]", value_parser = stun_server)]
        servers: Vec<Endpoint>,
        /// The configuration file whose key `stun` lists servers
        #[arg(short, long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Measure as well how long the NAT remembers a mapping without packets, which takes up to eleven minutes
        #[arg(long)]
        lifetime: bool,
        /// As JSON, for programs
        #[arg(long)]
        json: bool,
    },
    /// Makes a key: a preshared one, a key pair, or a static one for labs
    Keygen {
        /// What kind of key
        #[arg(value_enum, default_value = "static")]
        kind: keygen::Kind,
        /// Of a static key: aes-128-gcm, aes-256-gcm or chacha20-poly1305
        #[arg(long, default_value = "aes-128-gcm", value_parser = suite)]
        suite: Suite,
        /// The file to write, readable by its owner only; never overwrites. Without it the key goes to standard output
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Runs a relay, which gateways meet at that cannot reach each other; or makes a new one
    Relay(relay::Relay),
    /// Looks at configuration files
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
}

/// Which gateway.
#[derive(Debug, clap::Args)]
struct Of {
    /// The configuration file of the gateway
    #[arg(short, long, value_name = "FILE", conflicts_with = "name")]
    config: Option<PathBuf>,
    /// The name of a gateway that runs in the usual directory, /run/adit/NAME
    #[arg(long)]
    name: Option<String>,
}

/// Which peer of which gateway.
#[derive(Debug, clap::Args)]
struct OfPeer {
    /// The peer's name in the configuration
    peer: String,
    #[command(flatten)]
    of: Of,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Checks a file, the key files that it names and what it counts on of this machine, and says what a gateway would do with it.
    /// Exit code 0: it can be run, perhaps with warnings; 1: mistakes; 2: the command was not understood
    Check {
        /// The file, `-` for standard input
        file: PathBuf,
        /// As JSON, for programs
        #[arg(long)]
        json: bool,
    },
    /// Prints the whole configuration with every default filled in, as YAML
    Show {
        /// The file, `-` for standard input
        file: PathBuf,
    },
}

fn stun_server(text: &str) -> Result<Endpoint, String> {
    endpoint::stun_server(text).map_err(|fault| {
        format!("{fault}: write an address or a name, and a port if it is not 3478: stun.example.org, 192.0.2.9:3479")
    })
}

fn suite(name: &str) -> Result<Suite, String> {
    name.parse().map_err(|_| format!("the suites are {}", Suite::ALL.map(Suite::name).join(", ")))
}

/// Runs the command line of this process; the exit code is 0 when it did what was asked, 1 when not, 2 when it was not understood,
/// and 3 when `adit status --check` found something that is not up, `adit stop` nothing that runs, or `adit nat` no UDP that passes; and
/// 78 when `adit relay` has a configuration with mistakes.
pub fn main() -> ExitCode {
    let args = Args::parse();
    match run(args.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<AlreadyReported>() => ExitCode::FAILURE,
        Err(error) if error.is::<clap::Error>() => {
            let _ = error.downcast_ref::<clap::Error>().map(clap::Error::print);
            ExitCode::from(NOT_UNDERSTOOD)
        }
        Err(error) if error.is::<NotUp>() || error.is::<NothingRuns>() => ExitCode::from(NOT_UP),
        Err(error) => {
            log::last_words(format!("{error:#}").trim_end());
            if error.is::<Misconfigured>() { ExitCode::from(MISCONFIGURED) } else { ExitCode::FAILURE }
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Run { config, leave_dataplane, service } => {
            run_gateway(&config, service, Options { leave_dataplane, ..Options::default() })
        }
        Command::Stop { of } => stop(of),
        Command::Dataplane { service } => dataplane::become_wanted(&service).map(|never| match never {}),
        Command::Status { peer, of, json, watch, check } => show_status(peer.as_deref(), of, json, (watch, check)),
        Command::Reload { of, dry_run, restart_dataplane, json } => reload(of, dry_run, restart_dataplane, json),
        Command::Connect(of) => command_peer(of, "connect"),
        Command::Disconnect(of) => command_peer(of, "disconnect"),
        Command::Rekey { of, ike } => command_peer(of, if ike { "rekey-ike" } else { "rekey" }),
        Command::Explain { of, json } => explain(of, json),
        Command::Nat { servers, config, lifetime, json } => nat(servers, config.as_deref(), lifetime, json),
        Command::Keygen { kind, suite, output } => print(&keygen::run(kind, suite, output.as_deref())?),
        Command::Relay(relay) => relay::run(relay)?.map_or(Ok(()), |text| print(&text)),
        Command::Config { command: ConfigCommand::Check { file, json } } => check(&file, json),
        Command::Config { command: ConfigCommand::Show { file } } => print(&Config::load(&file, &Machine::here())?.to_yaml()?),
    }
}

fn run_gateway(file: &Path, service: Option<String>, options: Options) -> anyhow::Result<()> {
    log::init()?;
    // Before the keys are read.
    private::memory().context("closing the memory of this process to others and to core dumps")?;
    let mut desired = Desired::read(file, &Machine::here())?;
    let raw = RawSockets::open();
    // With every capability these can be made below directories of others. What is wrong with them is told when they are used.
    let (runtime_dir, state_dir) = (&desired.config.runtime_dir, &desired.config.state_dir);
    let _ = (private::shared_directory(runtime_dir), private::directory(state_dir));
    let _ = desired.config.ike.key_log_dir.as_deref().map(private::secret_directory);
    privileges::join_group();
    let left = privileges::drop(service.is_none()).context("giving up privileges")?;
    let (name, user) = (&desired.config.name, rustix::process::geteuid().as_raw());
    tracing::info!("gateway {name}: adit {}, user {user}, {left}", env!("CARGO_PKG_VERSION"));
    desired.config.service = service;
    // One thread for the loop, one for the API: the cores are for the data plane.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let result = runtime.block_on(gateway::run(desired, options, raw));
    // A name server that is silent may hold a thread.
    runtime.shutdown_background();
    result.map(drop)
}

fn stop(of: Of) -> anyhow::Result<()> {
    let file = of.config.clone();
    let ended = asking()?.block_on(async {
        let gateway = gateway(of).await?;
        match stop::stop(&gateway, file.as_deref()).await? {
            Some(ended) => Ok::<_, anyhow::Error>(ended),
            None => {
                print(&format!("nothing runs as {}: neither adit nor a data plane\n", gateway.name))?;
                Err(NothingRuns.into())
            }
        }
    })?;
    print(&ended)
}

fn check(file: &Path, json: bool) -> anyhow::Result<()> {
    let loaded = Config::load(file, &Machine::here());
    let verdict = match &loaded {
        Ok(config) => Verdict::of(file.display().to_string(), survey::judge(config, &Surroundings::here(config))),
        Err(problems) => Verdict::refused(problems),
    };
    if json {
        print(&(serde_json::to_string_pretty(&verdict)? + "\n"))?;
        return if verdict.ok { Ok(()) } else { Err(AlreadyReported.into()) };
    }
    let config = loaded?;
    if !verdict.ok {
        print(&verdict.warnings_text())?;
        bail!(verdict.problems_text());
    }
    print(&format!("ok\n{config}{}", verdict.warnings_text()))
}

fn asking() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

/// The gateway that is meant.
async fn gateway(of: Of) -> anyhow::Result<Gateway> {
    if let Some(file) = of.config {
        let start = format!("adit run -c {}", file.display());
        return match Config::load(&file, &Machine::here()) {
            Ok(config) => Ok(Gateway { socket: config.api_socket(), name: config.name, start }),
            // One that runs can be asked while its file is being edited.
            Err(problems) => match place_in(&file).filter(|(_, socket)| socket.exists()) {
                Some((name, socket)) => Ok(Gateway { socket, name, start }),
                None => {
                    let error = anyhow::Error::from(problems);
                    let hint =
                        "this command reads the configuration and asks the gateway, which the user that runs it can, and root";
                    Err(if rustix::process::geteuid().is_root() { error } else { error.context(hint) })
                }
            },
        };
    }
    let name = match of.name {
        Some(name) => name,
        None => client::only_gateway(&default_runtime_dir("")).await?,
    };
    Ok(Gateway { socket: client::usual_socket(&name), name, start: "adit run -c FILE".to_owned() })
}

/// The name and the socket of a gateway, where a file that does not check says at least that.
fn place_in(file: &Path) -> Option<(String, PathBuf)> {
    let root: serde_yaml::Mapping = serde_yaml::from_str(&std::fs::read_to_string(file).ok()?).ok()?;
    let name = root.get("name")?.as_str()?.to_owned();
    let named = root.get("runtime_dir").and_then(serde_yaml::Value::as_str);
    let dir = named.map_or_else(|| default_runtime_dir(&name), |dir| file.parent().unwrap_or(Path::new("")).join(dir));
    Some((name, dir.join("api.sock")))
}

fn show_status(peer: Option<&str>, of: Of, json: bool, (watch, check): (Option<u32>, bool)) -> anyhow::Result<()> {
    asking()?.block_on(async {
        let gateway = gateway(of).await?;
        loop {
            let (text, all_up) = look(&gateway, peer, json).await?;
            let Some(seconds) = watch else {
                print(&text)?;
                return if all_up || !check { Ok(()) } else { Err(NotUp.into()) };
            };
            // A terminal is cleared; whatever reads else gets one report after the other.
            print(&if std::io::stdout().is_terminal() { format!("\x1b[H\x1b[2J{text}") } else { text })?;
            tokio::time::sleep(Duration::from_secs(seconds.into())).await;
        }
    })
}

/// What is to be shown, and whether all of it is up.
async fn look(gateway: &Gateway, peer: Option<&str>, json: bool) -> anyhow::Result<(String, bool)> {
    if let Some(name) = peer {
        let peer = gateway.peer(name).await?;
        return Ok((if json { serde_json::to_string_pretty(&peer)? + "\n" } else { status::of_peer(&peer) }, peer.up));
    }
    let status = gateway.status().await?;
    let all_up = status.data_plane.is_some() && status.peers.iter().all(|peer| peer.up);
    Ok((if json { serde_json::to_string_pretty(&status)? + "\n" } else { status::report(&status) }, all_up))
}

fn command_peer(of: OfPeer, command: &str) -> anyhow::Result<()> {
    let peer = of.peer;
    asking()?.block_on(async { gateway(of.of).await?.command(&peer, command).await })?;
    print(&match command {
        "connect" => format!("connecting to {peer}: adit status {peer} says how it goes\n"),
        "disconnect" => format!("disconnected from {peer}, until adit connect {peer} or the peer connects\n"),
        "rekey-ike" => format!("new keys of the IKE SA are being agreed on with {peer}\n"),
        _ => format!("new keys of the Child SAs are being agreed on with {peer}\n"),
    })
}

fn reload(of: Of, dry_run: bool, restart_dataplane: bool, json: bool) -> anyhow::Result<()> {
    let report = asking()?.block_on(async { gateway(of).await?.reload(dry_run, restart_dataplane).await })?;
    print(&if json { serde_json::to_string_pretty(&report)? + "\n" } else { status::reload(&report) })
}

fn explain(of: OfPeer, json: bool) -> anyhow::Result<()> {
    let explanation = asking()?.block_on(async { gateway(of.of).await?.explain(&of.peer).await })?;
    print(&if json { serde_json::to_string_pretty(&explanation)? + "\n" } else { explain::report(&explanation) })
}

fn nat(servers: Vec<Endpoint>, config: Option<&Path>, lifetime: bool, json: bool) -> anyhow::Result<()> {
    let servers = match config {
        Some(file) if servers.is_empty() => Config::load(file, &Machine::here())?.stun,
        _ => servers,
    };
    if servers.is_empty() {
        let (write, example) =
            ("give --server HOST[:PORT], or -c FILE with servers in its key `stun`", "stun: [stun.example.org]");
        bail!("no STUN server is named: {write} ({example})");
    }
    if servers.len() > STUN_SERVERS_MAX {
        bail!("{} STUN servers are named, and at most {STUN_SERVERS_MAX} are asked: two are enough", servers.len());
    }
    let runtime = asking()?;
    let passes = runtime.block_on(async {
        let mut search = nat::search(&servers).await?;
        if !json {
            print(&search.text())?;
        }
        if lifetime && search.udp_passes() {
            search.measure_lifetime().await?;
            if !json {
                print(&search.lifetime_text())?;
            }
        }
        if json {
            print(&(serde_json::to_string_pretty(&search.document())? + "\n"))?;
        }
        Ok::<_, anyhow::Error>(search.udp_passes())
    });
    // A name server that is silent may hold a thread.
    runtime.shutdown_background();
    if passes? { Ok(()) } else { Err(NotUp.into()) }
}

/// Prints to standard output. A reader that has gone away is no fault.
fn print(text: &str) -> anyhow::Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error).context("writing to standard output"),
        _ => Ok(()),
    }
}
