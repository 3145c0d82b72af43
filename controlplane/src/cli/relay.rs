//! `adit relay`: runs a relay, makes all that a new one needs, or finds out whether one works.

mod check;
mod place;
mod reach;
mod report;

use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::time::Duration;

use adit_channel::service::{Manager, NotifyState};
use adit_relay::init;
use adit_relay::secret_file;
use adit_relay::server::{Reloader, Server};
use anyhow::Context;
use clap::{Args, Subcommand};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};

use crate::config::relay_file;
use crate::{log, private};

/// Descriptors beside those of connections: listeners, files, what the runtime has.
const DESCRIPTORS_BESIDE: u64 = 64;
/// How often the manager of services is told that the relay lives: three times in what the unit allows.
const CHECK_INTERVAL: Duration = Duration::from_secs(10);

/// Which of it.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Relay {
    /// The configuration file
    #[arg(short, long, value_name = "FILE", required = true)]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<RelayCommand>,
}

#[derive(Debug, Subcommand)]
enum RelayCommand {
    /// Makes key, certificate, configuration and tokens of a new relay, and says what a gateway needs of them. Overwrites nothing
    Init {
        /// The directory to make them in
        #[arg(long, value_name = "DIR", default_value = "/etc/adit-relay")]
        dir: PathBuf,
        /// The name or address under which gateways reach this machine; without it, the name that it has
        #[arg(long, value_name = "HOST")]
        name: Option<String>,
    },
    /// Registers at a relay as a gateway does, has a message passed, and says what works, what does not and what to do about it.
    /// Exit code 0: all is well; 1: not; 2: the command was not understood
    Check(place::Check),
}

/// Does what was asked. What `init` and `check` give is to be printed.
///
/// # Errors
/// It cannot be done; the message says what to do about it.
pub fn run(relay: Relay) -> anyhow::Result<Option<String>> {
    match (relay.command, relay.config) {
        (Some(RelayCommand::Init { dir, name }), _) => make(&dir, name).map(Some),
        (Some(RelayCommand::Check(check)), _) => {
            let (text, all_well) = check::run(&check)?;
            if all_well {
                return Ok(Some(text));
            }
            super::print(&text)?;
            Err(super::AlreadyReported.into())
        }
        (None, Some(config)) => serve(&config).map(|()| None),
        // The command line wants one of them.
        (None, None) => Ok(None),
    }
}

fn make(dir: &Path, name: Option<String>) -> anyhow::Result<String> {
    let is_named = name.is_some();
    let name = name.unwrap_or_else(init::machine_name);
    let mut made = init::init(dir, &name)?;
    if !is_named && init::is_bare(&name) {
        made.text.push_str(&bare(&name, dir));
    }
    if !rustix::process::geteuid().is_root() {
        return Ok(made.text);
    }
    // The service runs as this user, who could not read secrets that are root's.
    let Some(user) = secret_file::service_user() else {
        return Ok(format!("{}\n{}", made.text, without_user(dir)));
    };
    for file in &made.files {
        if let Err(error) = chown(file, Some(user.uid), Some(user.gid)) {
            // They would be in the way of the next attempt, and were made here.
            made.files.iter().for_each(|file| drop(std::fs::remove_file(file)));
            return Err(error).with_context(|| format!("giving {} to the user {}", file.display(), secret_file::SERVICE_USER));
        }
    }
    Ok(made.text)
}

fn bare(name: &str, dir: &Path) -> String {
    format!(
        "\nWARNING: `{name}`, the name of this machine, has no domain: elsewhere nobody will find it. Write the name or address under which \
         gateways reach this machine into their `url`; or move {} away and make it anew with --name relay.example.org\n",
        dir.display()
    )
}

fn without_user(dir: &Path) -> String {
    let user = secret_file::SERVICE_USER;
    format!(
        "This machine has no user {user} yet, as whom the service runs. Before it is started:\n  \
         install -m 644 deploy/sysusers.conf /usr/lib/sysusers.d/adit.conf && systemd-sysusers\n  chown {user} {}/*\n",
        dir.display()
    )
}

fn serve(file: &Path) -> anyhow::Result<()> {
    log::init()?;
    // Before the keys are read.
    private::memory().context("closing the memory of this process to others and to core dumps")?;
    let config = relay_file::load(file).map_err(|problems| super::Misconfigured(problems.to_string()))?;
    enough_descriptors(config.descriptors());
    let mut manager = Manager::open().context("the way to the manager of services that NOTIFY_SOCKET names")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut hangups = signal(SignalKind::hangup()).context("listening for SIGHUP")?;
        let (end, at_once) = adit_relay::drain::asked_to_end().context("listening for SIGTERM")?;
        let server = Server::bind(config).await?;
        let (reloader, check_liveness) = (server.reloader(), server.liveness_check());
        manager.ready();
        let manager = &manager;
        let end = async {
            end.await;
            let longest = u32::try_from(reloader.longest_end().as_micros()).unwrap_or(u32::MAX);
            manager.tell(&[NotifyState::Stopping, NotifyState::ExtendTimeoutUsec(longest)]);
        };
        let keep = async {
            loop {
                tokio::select! {
                    _ = hangups.recv() => reload(file, &reloader, manager),
                    () = tokio::time::sleep(CHECK_INTERVAL) => {
                        check_liveness();
                        manager.alive();
                    }
                }
            }
        };
        tokio::select! {
            () = server.run(end, at_once) => Ok(()),
            never = keep => never,
        }
    })
}

/// With a file that has mistakes it goes on as before.
fn reload(file: &Path, reloader: &Reloader, manager: &Manager) {
    manager.reloading();
    match relay_file::load(file) {
        // What has changed is told there.
        Ok(config) => {
            if let Err(error) = reloader.reload(config) {
                tracing::error!("nothing was changed: {error:#}");
            }
        }
        Err(problems) => {
            tracing::error!("nothing was changed, since the file has mistakes:\n{}", problems.to_string().trim_end())
        }
    }
    manager.reloaded();
}

/// Each connection is a descriptor, and each address that is lent.
fn enough_descriptors(needed: u64) {
    let limit = getrlimit(Resource::Nofile);
    let wanted = needed + DESCRIPTORS_BESIDE;
    let allowed = limit.maximum.unwrap_or(u64::MAX);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted.min(allowed)), maximum: limit.maximum });
    if allowed < wanted {
        tracing::warn!(
            "only {allowed} connections and files may be open at a time, and limits.connections with what TURN may lend needs {wanted}; \
             raise the limit (ulimit -Hn, LimitNOFILE of the service) or lower limits.connections and turn.allocations"
        );
    }
}
