//! `adit relay`: runs a relay, makes all that a new one needs, or finds out whether one works.

mod check;
mod reach;

use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};

use adit_channel::service::{Manager, NotifyState};
use adit_channel::users;
use adit_relay::config::Config;
use adit_relay::init;
use adit_relay::server::Server;
use anyhow::Context;
use clap::{Args, Subcommand};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::{log, private};

/// Descriptors beside those of connections: listeners, files, what the runtime has.
const DESCRIPTORS_BESIDE: u64 = 64;

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
    Check(check::Check),
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
    let made = init::init(dir, &name.unwrap_or_else(init::machine_name))?;
    // The service runs as this user, who could not read secrets that are root's.
    if let Some(user) = users::control_plane().filter(|_| rustix::process::geteuid().is_root()) {
        for file in &made.files {
            chown(file, Some(user), None).with_context(|| format!("giving {} to the user adit", file.display()))?;
        }
    }
    Ok(made.text)
}

fn serve(file: &Path) -> anyhow::Result<()> {
    log::init()?;
    // Before the keys are read.
    private::memory().context("closing the memory of this process to others and to core dumps")?;
    let config = Config::load(file)?;
    enough_descriptors(config.door.connections as u64);
    let mut manager = Manager::open().context("the way to the manager of services that NOTIFY_SOCKET names")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let server = Server::bind(config).await?;
        let end = adit_relay::drain::asked_to_end().context("listening for SIGTERM")?;
        manager.ready();
        let end = async {
            end.await;
            manager.tell(&[NotifyState::Stopping]);
        };
        server.run(end).await;
        Ok(())
    })
}

/// Each connection is a descriptor.
fn enough_descriptors(connections: u64) {
    let limit = getrlimit(Resource::Nofile);
    let wanted = connections + DESCRIPTORS_BESIDE;
    let allowed = limit.maximum.unwrap_or(u64::MAX);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted.min(allowed)), maximum: limit.maximum });
    if allowed < wanted {
        tracing::warn!(
            "only {allowed} connections and files may be open at a time, and limits.connections ({connections}) needs {wanted}; \
             raise the limit (ulimit -Hn, LimitNOFILE of the service) or lower limits.connections"
        );
    }
}
