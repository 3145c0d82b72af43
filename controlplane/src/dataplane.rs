//! The data plane as a process: its command line, how it is started so that it outlives us, how its end is noticed, how it
//! is stopped.
//!
//! It runs in a session of its own, so that neither Ctrl-C nor the end of our terminal reaches it, and it writes its
//! messages to a file rather than to a pipe, so that it can still write after we were killed; [`log`] reads them from there.

pub mod log;

use std::convert::Infallible;
use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use adit_channel::service::VARIABLES;
use adit_proto::control::Mode;
use anyhow::Context;
use rustix::io::Errno;
use rustix::net::sockopt::socket_peercred;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::unix::AsyncFd;

use crate::config::{Config, MacText};
use crate::log::FORMAT;
use crate::{private, resolve, routing_rules, service, system};

/// The name of the program.
pub const PROGRAM: &str = "adit-dataplane";
/// How long a data plane may take to end after SIGTERM.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long it may take to end after SIGKILL: longer only when it waits in the kernel for something that does not come.
const LAST_PATIENCE: Duration = Duration::from_secs(10);

/// The command line that a configuration asks for: flags with their values, without the program.
pub fn arguments(config: &Config) -> Vec<(String, String)> {
    let (plane, forwarding) = (&config.dataplane, &config.forwarding);
    let mut list: Vec<(&str, String)> = vec![
        ("--socket", config.channel_socket().display().to_string()),
        ("--mode", config.mode.name().to_owned()),
        ("--tap", config.interface.name.clone()),
        ("--listen", resolve::listen_now(config).unwrap_or(config.listen).to_string()),
        ("--workers", plane.workers.to_string()),
        ("--io", plane.io.name().to_owned()),
        ("--crypto", plane.crypto.name().to_owned()),
        ("--dscp", config.dscp.to_string()),
        ("--mtu", config.interface.mtu.to_string()),
        ("--max-peers", config.max_peers().to_string()),
        ("--sa-slots", config.sa_slots().to_string()),
        ("--socket-buffer", plane.socket_buffer.to_string()),
        ("--busy-poll-us", plane.busy_poll_us.to_string()),
        ("--roam", plane.roam.to_string()),
        ("--mark", routing_rules::MARK.to_string()),
    ];
    match config.mode {
        Mode::Ethernet => list.extend([
            ("--tap-mac", MacText(config.interface.mac).to_string()),
            ("--fdb-entries", forwarding.max_entries.to_string()),
            ("--fdb-ageing-s", forwarding.ageing_s.to_string()),
            ("--flood-pps", forwarding.flood_pps.to_string()),
            ("--forward", forwarding.forward.to_string()),
        ]),
        Mode::Ip => list
            .extend([("--selectors", config.max_selectors().to_string()), ("--mss-clamp", config.mss_clamp.name().to_owned())]),
    }
    if config.service.is_some() {
        list.push(("--control-user", rustix::process::geteuid().as_raw().to_string()));
    }
    if let Some(cores) = &plane.cores {
        let cores: Vec<String> = cores.iter().map(ToString::to_string).collect();
        list.push(("--cores", cores.join(",")));
    }
    list.into_iter().map(|(flag, value)| (flag.to_owned(), value)).collect()
}

/// Flags that say how large a table is.
const CAPACITIES: &[&str] = &["--max-peers", "--sa-slots", "--selectors"];

/// Flags of what a command changes while it runs.
const CHANGEABLE: &[&str] = &["--fdb-ageing-s", "--flood-pps"];

/// In what a data plane that was started with `running` does not fit a configuration, for people. A table that would be chosen twice
/// as large has room enough: it is chosen with room for twice as much as is needed.
pub fn misfits(running: &[(String, String)], config: &Config) -> Vec<String> {
    let mut wanted = arguments(config);
    let tells = |flag: &str| CAPACITIES.contains(&flag) || CHANGEABLE.contains(&flag);
    for (flag, value) in wanted.iter_mut().filter(|(flag, _)| tells(flag)) {
        let number = |text: &str| text.parse::<u64>().unwrap_or(0);
        let Some((_, now)) = running.iter().find(|(other, _)| other == flag) else { continue };
        if CHANGEABLE.contains(&flag.as_str()) || number(now) * 2 >= number(value) {
            value.clone_from(now);
        }
    }
    differences(running, &wanted)
}

/// Where a data plane with these arguments listens.
pub fn listen_of(arguments: &[(String, String)]) -> Option<SocketAddr> {
    value_of(arguments, "--listen")
}

/// It listens elsewhere by now.
pub fn set_listen(arguments: &mut [(String, String)], listen: SocketAddr) {
    let place = arguments.iter_mut().find(|(flag, _)| flag == "--listen");
    place.into_iter().for_each(|(_, value)| *value = listen.to_string());
}

/// How large tables are that peers share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tables {
    pub peers: u16,
    /// SAs of a worker.
    pub sa_slots: u32,
}

impl Tables {
    /// Of a data plane with these arguments; without them, of the one that the configuration asks for.
    pub fn of(arguments: &[(String, String)], config: &Config) -> Tables {
        Tables {
            peers: value_of(arguments, "--max-peers").unwrap_or(config.max_peers()),
            sa_slots: value_of(arguments, "--sa-slots").unwrap_or(config.sa_slots()),
        }
    }
}

fn value_of<T: std::str::FromStr>(arguments: &[(String, String)], flag: &str) -> Option<T> {
    arguments.iter().find(|(name, _)| name == flag).and_then(|(_, value)| value.parse().ok())
}

/// Ids of peers that a data plane with these arguments has room for.
pub fn max_peers(arguments: &[(String, String)]) -> u16 {
    value_of(arguments, "--max-peers").unwrap_or(u16::MAX)
}

/// What differs between two command lines, for people; empty when nothing does.
pub fn differences(running: &[(String, String)], wanted: &[(String, String)]) -> Vec<String> {
    let value =
        |list: &[(String, String)], flag: &str| list.iter().find(|(name, _)| name == flag).map(|(_, value)| value.clone());
    let mut flags: Vec<&String> = running.iter().chain(wanted).map(|(flag, _)| flag).collect();
    flags.sort();
    flags.dedup();
    let show = |value: Option<String>| value.unwrap_or_else(|| "unset".to_owned());
    let differing = flags.into_iter().filter(|flag| value(running, flag) != value(wanted, flag));
    differing
        .map(|flag| format!("{} {} → {}", flag.trim_start_matches('-'), show(value(running, flag)), show(value(wanted, flag))))
        .collect()
}

/// The program to run: what the configuration names, else the one beside this program, else the first in PATH.
///
/// # Errors
/// There is none; the message says where it was looked for.
pub fn find_program(config: &Config) -> anyhow::Result<PathBuf> {
    if let Some(binary) = &config.dataplane.binary {
        anyhow::ensure!(
            binary.is_file(),
            "the data plane {} does not exist: correct dataplane.binary in the configuration, or leave it out",
            binary.display()
        );
        return Ok(binary.clone());
    }
    installed_program()
}

/// The program beside this one, else the first in PATH.
///
/// # Errors
/// There is none; the message says where it was looked for.
pub fn installed_program() -> anyhow::Result<PathBuf> {
    let beside = std::env::current_exe().ok().and_then(|own| Some(own.parent()?.join(PROGRAM)));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let candidates = beside.iter().cloned().chain(std::env::split_paths(&path).map(|dir| dir.join(PROGRAM)));
    candidates.into_iter().find(|candidate| candidate.is_file()).ok_or_else(|| {
        let beside = beside.map_or(String::new(), |beside| format!("neither as {} nor ", beside.display()));
        anyhow::anyhow!("the program {PROGRAM} was found {beside}in PATH: install it, or name it: dataplane.binary: PATH")
    })
}

/// Becomes the data plane of a service as soon as its control plane has said which one it wants.
///
/// # Errors
/// What it wants cannot be read, or the program not be found or started.
pub fn become_wanted(service: &str) -> anyhow::Result<Infallible> {
    let words = service::await_wanted(service)?;
    let program = installed_program()?;
    // It comes back only when it fails.
    Err(Command::new(&program).args(words).exec()).with_context(|| format!("starting {}", program.display()))
}

/// A running data plane: our child, or one that an earlier control plane left.
#[derive(Debug)]
pub struct Process {
    pub pid: u32,
    pidfd: AsyncFd<OwnedFd>,
    child: Option<Child>,
    /// The channel to it, over which one that is not ours to send signals to is asked to end.
    pub channel: Option<OwnedFd>,
}

impl Process {
    /// Starts a data plane. Its messages go to `log`.
    ///
    /// # Errors
    /// The program cannot be started, or the log not be opened.
    pub fn spawn(program: &Path, arguments: &[(String, String)], log: &Path) -> io::Result<Process> {
        let output = private::file().append(true).create(true).open(log)?;
        let flat = arguments.iter().flat_map(|(flag, value)| [OsString::from(flag), OsString::from(value)]);
        let mut command = Command::new(program);
        command.args(flat).stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        // What a manager of services wants to hear, it wants to hear from us; and we read its messages as they are for people.
        for variable in VARIABLES.into_iter().chain([FORMAT]) {
            command.env_remove(variable);
        }
        system::own_session(&mut command);
        let mut child = command.spawn()?;
        match Process::watch(child.id()) {
            Ok(process) => Ok(Process { child: Some(child), ..process }),
            Err(error) => {
                // One that nobody watches must not go on with interface and port. Whether it has ended already is all one.
                let _ = child.kill();
                let _ = child.wait();
                Err(error)
            }
        }
    }

    /// Watches a data plane that runs already.
    ///
    /// # Errors
    /// There is no such process.
    pub fn watch(pid: u32) -> io::Result<Process> {
        let raw = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidInput)?;
        let pidfd = system::watch(pidfd_open(raw, PidfdFlags::empty())?)?;
        Ok(Process { pid, pidfd, child: None, channel: None })
    }

    /// Watches the data plane at the other end of a channel.
    ///
    /// # Errors
    /// It has ended, or the kernel does not tell who it is.
    pub fn of(master: &adit_channel::Master) -> io::Result<Process> {
        let channel = Some(master.socket_fd().try_clone_to_owned()?);
        Ok(Process { channel, ..Process::watch(owner_of(master)?)? })
    }

    /// Waits for the end of the process; says how it ended where that can be known.
    pub async fn ended(&mut self) -> Ending {
        // An error means that the descriptor cannot be watched; the process is then taken for ended.
        let _ = self.pidfd.readable().await;
        self.ending()
    }

    /// How the process ended, or that it runs.
    pub fn ending(&mut self) -> Ending {
        match self.child.as_mut().map(Child::try_wait) {
            Some(Ok(Some(status))) => Ending::Status(status),
            Some(Ok(None)) => Ending::Running,
            Some(Err(_)) | None => Ending::Unknown,
        }
    }

    /// Stops the process: SIGTERM, and SIGKILL when that has not helped after three seconds. One of another user is asked over the channel.
    pub async fn stop(&mut self) -> Ending {
        // Other errors mean that it has ended already.
        if let (Err(Errno::PERM), Some(channel)) = (pidfd_send_signal(self.pidfd.get_ref(), Signal::TERM), &self.channel) {
            let _ = adit_channel::ask_to_end(channel.as_fd());
        }
        if let Ok(ending) = tokio::time::timeout(PATIENCE, self.ended()).await {
            return ending;
        }
        tracing::warn!("the data plane (process {}) did not stop within {} s", self.pid, PATIENCE.as_secs());
        self.kill().await
    }

    /// Kills the process. `Running` when even that does not end it.
    pub async fn kill(&mut self) -> Ending {
        if pidfd_send_signal(self.pidfd.get_ref(), Signal::KILL) == Err(Errno::PERM) {
            tracing::warn!("the data plane (process {}) is another user's: the watchdog of its service has to end it", self.pid);
        }
        match tokio::time::timeout(LAST_PATIENCE, self.ended()).await {
            Ok(ending) => ending,
            Err(_) => {
                tracing::error!("the data plane (process {}) does not end: it hangs", self.pid);
                Ending::Running
            }
        }
    }
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    Running,
    Status(ExitStatus),
    /// It was not our child.
    Unknown,
}

impl std::fmt::Display for Ending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Ending::Running => f.write_str("still runs"),
            Ending::Unknown => f.write_str("ended"),
            Ending::Status(status) => match (status.code(), status.signal()) {
                (Some(code), _) => write!(f, "ended with exit code {code}"),
                (None, Some(signal)) => write!(f, "was killed by signal {signal}"),
                (None, None) => f.write_str("ended"),
            },
        }
    }
}

/// The process that listens at a channel socket, by the word of the kernel.
///
/// # Errors
/// Nobody listens there.
pub fn owner(socket: &Path) -> io::Result<u32> {
    let address = SocketAddrUnix::new(socket)?;
    let connection = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    rustix::net::connect(&connection, &address)?;
    peer(connection.as_fd())
}

/// The process at the other end of a channel, by the word of the kernel.
///
/// # Errors
/// The kernel does not tell.
pub fn owner_of(master: &adit_channel::Master) -> io::Result<u32> {
    peer(master.socket_fd())
}

/// Whether a debugger has the process: then it may stand still for as long as its owner likes.
pub fn is_traced(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:"));
    tracer.is_some_and(|pid| pid.trim() != "0")
}

fn peer(connection: BorrowedFd<'_>) -> io::Result<u32> {
    Ok(socket_peercred(connection)?.pid.as_raw_nonzero().get().unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(flag, value)| ((*flag).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn differences_name_what_changed_and_what_came_or_went() {
        let running = list(&[("--workers", "1"), ("--listen", "0.0.0.0:4500"), ("--cores", "0")]);
        let wanted = list(&[("--workers", "2"), ("--listen", "0.0.0.0:4500"), ("--io", "poll")]);
        assert_eq!(differences(&running, &wanted), ["cores 0 → unset", "io unset → poll", "workers 1 → 2"]);
        assert!(differences(&wanted, &wanted).is_empty());
    }

    #[test]
    fn a_table_with_room_enough_fits() {
        let yaml = "name: a\nlisten: 0.0.0.0:4500\ninterface: { name: adit0 }\npeers: []\n";
        let machine = crate::config::Machine { cores: vec![0] };
        let config = Config::from_yaml(yaml, Path::new("/"), &machine).unwrap();
        let with = |flag: &str, value: &str| {
            let mut list = arguments(&config);
            list.iter_mut().filter(|(name, _)| name == flag).for_each(|(_, text)| *text = value.to_owned());
            list
        };
        assert!(misfits(&with("--max-peers", "32"), &config).is_empty(), "{}", config.max_peers());
        assert!(misfits(&with("--sa-slots", "4096"), &config).is_empty());
        assert_eq!(misfits(&with("--max-peers", "16"), &config), ["max-peers 16 → 64"]);
        assert_eq!(misfits(&with("--workers", "7"), &config).len(), 1);
        assert!(misfits(&with("--flood-pps", "7"), &config).is_empty(), "a command changes it");
        assert_eq!((max_peers(&with("--max-peers", "32")), max_peers(&[])), (32, u16::MAX));
        // Shares are of the tables that there are.
        let asked_for = Tables { peers: config.max_peers(), sa_slots: config.sa_slots() };
        assert_eq!(Tables::of(&[], &config), asked_for);
        assert_eq!(Tables::of(&with("--sa-slots", "4096"), &config), Tables { sa_slots: 4096, ..asked_for });
        assert_eq!(Tables::of(&with("--max-peers", "32"), &config), Tables { peers: 32, ..asked_for });
    }

    #[tokio::test]
    async fn a_process_runs_in_its_own_session_and_its_end_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let script = "cut -d' ' -f6 /proc/$$/stat; echo $$; exec sleep 60";
        let mut process = Process::spawn(Path::new("/bin/sh"), &list(&[("-c", script)]), &log).unwrap();
        let said = loop {
            let said = std::fs::read_to_string(&log).unwrap();
            if said.lines().count() == 2 {
                break said;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        let lines: Vec<&str> = said.lines().collect();
        assert_eq!(lines[0], lines[1], "the session is named after the process itself");
        assert_eq!(process.ending(), Ending::Running);
        assert_eq!(process.stop().await.to_string(), "was killed by signal 15");
    }

    #[tokio::test]
    async fn a_process_that_does_not_hear_is_killed() {
        let dir = tempfile::tempdir().unwrap();
        let script = "trap '' TERM; echo ready; while :; do sleep 60; done";
        let log = dir.path().join("log");
        let mut process = Process::spawn(Path::new("/bin/sh"), &list(&[("-c", script)]), &log).unwrap();
        while std::fs::read_to_string(&log).unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        pidfd_send_signal(process.pidfd.get_ref(), Signal::STOP).unwrap();
        assert_eq!(process.kill().await.to_string(), "was killed by signal 9");
        assert!(!is_traced(std::process::id()));
    }
}
