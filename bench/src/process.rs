//! Programs that a test or bench starts: output to a log file, waiting for what it says, processor time and memory of the whole
//! family, and an end that also takes the children along.
//!
//! ```text
//! Command ─▶ Process::start ─▶ log file ◀─ wait_for_line          /proc/PID/net ◀─ wait_for_port
//!                 └─ usage(): /proc/PID/stat of it and all its descendants
//! drop: SIGTERM ─▶ up to 2 s ─▶ SIGKILL to what is left of the family
//! ```

use std::collections::HashMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::netns::{Signal, signal};

const POLL: Duration = Duration::from_millis(5);
/// How long a program may take to stop by itself when dropped.
const PATIENCE: Duration = Duration::from_secs(2);
/// USER_HZ, the unit of times in /proc/PID/stat: 100 on every Linux port in use (it is part of the kernel's ABI).
const TICKS_PER_SECOND: f64 = 100.0;

/// A running program; stopped, with its children, on drop.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
}

/// What a program and its descendants have used.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// Processor time of all threads, user and system, in seconds (steps of 10 ms).
    pub cpu_s: f64,
    /// Resident memory in MiB. Memory shared by two of the processes counts twice.
    pub rss_mib: f64,
}

impl Process {
    /// Starts `command` with no standard input; both outputs are appended to the file `log`.
    pub fn start(command: &mut Command, log: impl AsRef<Path>) -> Result<Process> {
        Process::start_with_input(command, log, Stdio::null())
    }

    /// Starts `command` with this standard input, which `command` holds on to until it is dropped.
    pub fn start_with_input(command: &mut Command, log: impl AsRef<Path>, input: impl Into<Stdio>) -> Result<Process> {
        let log = log.as_ref().to_path_buf();
        let file =
            File::options().create(true).append(true).open(&log).with_context(|| format!("cannot open {}", log.display()))?;
        let child = command
            .stdin(input)
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("cannot start `{}`", command.get_program().display()))?;
        Ok(Process { child, log })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// All that the program has written so far.
    pub fn log(&self) -> String {
        fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// Whether the program itself still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits until a line of the output contains `text` and returns that line. An end of the program is an error with its output.
    pub fn wait_for_line(&mut self, text: &str, timeout: Duration) -> Result<String> {
        let mut found = None;
        self.wait_until(&format!("writes `{text}`"), timeout, |process| {
            found = process.log().lines().find(|line| line.contains(text)).map(str::to_owned);
            found.is_some()
        })?;
        found.context("the line was there")
    }

    /// Waits until somebody in the program's network namespace listens on this TCP port (or has bound this UDP port).
    pub fn wait_for_port(&mut self, port: u16, timeout: Duration) -> Result<()> {
        self.wait_until(&format!("opens port {port}"), timeout, |process| port_is_open(process.pid(), port))
    }

    /// Waits until `sign` is true; `what` names the event in the error ("program … before it `what`").
    pub fn wait_until(&mut self, what: &str, timeout: Duration, mut sign: impl FnMut(&Process) -> bool) -> Result<()> {
        let deadline = Instant::now() + timeout;
        loop {
            if sign(self) {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("it ended ({status}) before it {what}; its output:\n{}", self.log());
            }
            if Instant::now() >= deadline {
                bail!("{timeout:?} went by before it {what}; its output:\n{}", self.log());
            }
            thread::sleep(POLL);
        }
    }

    /// Sends a signal to the program alone (not to its children).
    pub fn signal(&self, which: Signal) -> Result<()> {
        signal(self.pid(), which).with_context(|| format!("cannot signal process {}", self.pid()))
    }

    /// Waits for the end of the program.
    pub fn wait(&mut self, timeout: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + timeout;
        loop {
            match self.child.try_wait()? {
                Some(status) => return Ok(status),
                None if Instant::now() >= deadline => {
                    bail!("process {} still runs after {timeout:?}; its output:\n{}", self.pid(), self.log())
                }
                None => thread::sleep(POLL),
            }
        }
    }

    /// Waits for the end of a program that goes on: what it does changes at least so often, until all has taken too long.
    pub fn wait_while_it_goes_on<T: PartialEq>(
        &mut self,
        quiet_max: Duration,
        timeout: Duration,
        does: impl Fn() -> T,
    ) -> Result<ExitStatus> {
        let end = Instant::now() + timeout;
        let (mut last, mut since) = (does(), Instant::now());
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            let now = does();
            if now != last {
                (last, since) = (now, Instant::now());
            }
            if since.elapsed() >= quiet_max || Instant::now() >= end {
                bail!("process {} stands still for {:?}, or takes longer than {timeout:?}", self.pid(), since.elapsed());
            }
            thread::sleep(POLL);
        }
    }

    /// Asks the program to stop with SIGTERM and waits for its end.
    pub fn terminate(&mut self, timeout: Duration) -> Result<ExitStatus> {
        self.signal(Signal::Term)?;
        self.wait(timeout)
    }

    /// The program's descendants: children, their children, and so on.
    pub fn descendants(&self) -> Vec<u32> {
        family(self.pid()).into_iter().skip(1).map(|stat| stat.pid).collect()
    }

    /// The id of the first descendant whose program name (as in `/proc/PID/comm`, at most 15 bytes) is `name`.
    pub fn descendant(&self, name: &str) -> Option<u32> {
        let short = &name[..name.len().min(15)];
        family(self.pid()).into_iter().skip(1).find(|stat| stat.name == short).map(|stat| stat.pid)
    }

    /// Processor time and memory of the program and all its descendants, as of now.
    pub fn usage(&self) -> Usage {
        family(self.pid()).iter().fold(Usage::default(), |sum, stat| Usage {
            cpu_s: sum.cpu_s + stat.ticks as f64 / TICKS_PER_SECOND,
            rss_mib: sum.rss_mib + resident_mib(stat.pid),
        })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let family = family(self.pid());
        if self.is_running() && self.terminate(PATIENCE).is_err() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        for old in family.iter().skip(1) {
            // The start time tells a child from a stranger that got the same number later.
            if Stat::read(old.pid).is_some_and(|now| now.started == old.started) {
                let _ = signal(old.pid, Signal::Kill);
            }
        }
    }
}

/// What is used of `/proc/PID/stat` (proc(5)).
struct Stat {
    pid: u32,
    name: String,
    state: char,
    parent: u32,
    /// User and system time of all threads.
    ticks: u64,
    started: u64,
}

impl Stat {
    fn read(pid: u32) -> Option<Stat> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name stands in parentheses and may itself contain blanks and parentheses.
        let (head, tail) = text.rsplit_once(')')?;
        let name = head.split_once('(')?.1.to_owned();
        let fields: Vec<&str> = tail.split_whitespace().collect();
        let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
        // Counted from the state, which is field 3 of the manual.
        let state = fields.first()?.chars().next()?;
        let parent = number(1)?.try_into().ok()?;
        Some(Stat { pid, name, state, parent, ticks: number(11)? + number(12)?, started: number(19)? })
    }

    /// A zombie, or one on its way out.
    fn has_ended(&self) -> bool {
        matches!(self.state, 'Z' | 'X' | 'x')
    }
}

/// The process and all its descendants, parents before their children. Empty when it is gone.
fn family(root: u32) -> Vec<Stat> {
    let Some(first) = Stat::read(root) else { return Vec::new() };
    let Ok(entries) = fs::read_dir("/proc") else { return vec![first] };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let mut children: HashMap<u32, Vec<Stat>> = HashMap::new();
    for stat in pids.filter_map(Stat::read) {
        children.entry(stat.parent).or_default().push(stat);
    }
    let mut found = vec![first];
    let mut next = 0;
    while next < found.len() {
        found.extend(children.remove(&found[next].pid).unwrap_or_default());
        next += 1;
    }
    found
}

/// Whether a process with this id runs. One that has ended and was not collected by its parent does not.
pub fn is_running(pid: u32) -> bool {
    Stat::read(pid).is_some_and(|stat| !stat.has_ended())
}

/// What an error says of processes: id, name and state (proc(5)) of each that is there.
pub fn describe(pids: &[u32]) -> String {
    let described: Vec<String> = pids
        .iter()
        .filter_map(|pid| Stat::read(*pid))
        .map(|stat| format!("{} {} (state {}, child of {})", stat.pid, stat.name, stat.state, stat.parent))
        .collect();
    described.join(", ")
}

fn resident_mib(pid: u32) -> f64 {
    resident_kib(pid) / 1024.0
}

/// Memory that one process has in use, shared memory and the program itself included.
fn resident_kib(pid: u32) -> f64 {
    status_kib(pid, &["VmRSS:"])
}

/// Memory that one process has taken for what it works on, shared memory included. Pages of the program itself are left out: how many
/// of them are counted depends on what else has run on the host lately.
pub fn data_kib(pid: u32) -> f64 {
    status_kib(pid, &["RssAnon:", "RssShmem:"])
}

/// The sum of these lines of `/proc/PID/status`; 0 for those that are not there.
fn status_kib(pid: u32, names: &[&str]) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let kib = |name: &&str| {
        text.lines().find_map(|line| line.strip_prefix(name)?.trim().strip_suffix("kB")?.trim().parse::<f64>().ok())
    };
    names.iter().filter_map(kib).sum()
}

/// Processor time of one process so far.
pub fn cpu_s(pid: u32) -> f64 {
    Stat::read(pid).map_or(0.0, |stat| stat.ticks as f64 / TICKS_PER_SECOND)
}

/// Established TCP connections with this local port in the program's network namespace.
pub fn connections(pid: u32, port: u16) -> usize {
    sockets(pid, port, "tcp", Some("01")) + sockets(pid, port, "tcp6", Some("01"))
}

/// Looks for a listening TCP socket (state 0A) or any UDP socket with this local port.
fn port_is_open(pid: u32, port: u16) -> bool {
    let tables = [("tcp", Some("0A")), ("tcp6", Some("0A")), ("udp", None), ("udp6", None)];
    tables.iter().any(|(table, state)| sockets(pid, port, table, *state) > 0)
}

/// Sockets of a table in /proc/PID/net with this local port, and this state when one is given (proc(5)).
fn sockets(pid: u32, port: u16, table: &str, state: Option<&str>) -> usize {
    let suffix = format!(":{port:04X}");
    let text = fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default();
    let matches = |line: &&str| {
        let mut fields = line.split_whitespace().skip(1);
        fields.next().is_some_and(|local| local.ends_with(&suffix)) && (state.is_none() || fields.nth(1) == state)
    };
    text.lines().skip(1).filter(matches).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> (tempfile::TempDir, Process) {
        let dir = tempfile::tempdir().unwrap();
        let process = Process::start(Command::new("sh").args(["-c", script]), dir.path().join("log")).unwrap();
        (dir, process)
    }

    #[test]
    fn waits_for_a_line_and_keeps_the_output() {
        let (_dir, mut process) = shell("echo one; sleep 0.1; echo two words >&2; sleep 1000");
        assert_eq!(process.wait_for_line("two", Duration::from_secs(5)).unwrap(), "two words");
        assert_eq!(process.log(), "one\ntwo words\n");
    }

    #[test]
    fn an_early_end_is_told_with_the_output() {
        let (_dir, mut process) = shell("echo cannot do it; exit 3");
        let error = process.wait_for_line("ready", Duration::from_secs(5)).unwrap_err().to_string();
        assert!(error.contains("cannot do it") && error.contains("exit status: 3"), "{error}");
    }

    #[test]
    fn who_goes_on_is_waited_for_and_who_stands_still_is_not() {
        let (_dir, mut process) = shell("for n in 1 2 3 4 5 6; do sleep 0.2; echo $n; done; exit 3");
        let log = process.log.clone();
        let said = || fs::read(&log).unwrap_or_default();
        let (quiet, most) = (Duration::from_secs(20), Duration::from_secs(60));
        assert_eq!(process.wait_while_it_goes_on(quiet, most, said).unwrap().code(), Some(3));
        let (_dir, mut process) = shell("sleep 1000");
        let error = process.wait_while_it_goes_on(Duration::from_millis(300), most, || 0).unwrap_err().to_string();
        assert!(error.contains("stands still"), "{error}");
        let begun = Instant::now();
        let error = process.wait_while_it_goes_on(quiet, Duration::from_millis(300), || begun.elapsed()).unwrap_err().to_string();
        assert!(error.contains("takes longer"), "{error}");
    }

    #[test]
    fn drop_ends_children_that_ignore_the_request() {
        let (_dir, mut process) = shell("trap '' TERM; sleep 1000 & echo up; while :; do wait; done");
        process.wait_for_line("up", Duration::from_secs(5)).unwrap();
        process.wait_until("starts its child", Duration::from_secs(5), |p| p.descendant("sleep").is_some()).unwrap();
        let child = process.descendant("sleep").unwrap();
        drop(process);
        // Somebody else has to collect it, so it may stay as a zombie for a while.
        let deadline = Instant::now() + Duration::from_secs(30);
        while is_running(child) && Instant::now() < deadline {
            thread::sleep(POLL);
        }
        assert!(!is_running(child), "{}", describe(&[child]));
    }

    #[test]
    fn usage_counts_the_whole_family() {
        let (_dir, process) = shell("i=0; (while :; do i=$((i+1)); done) & while :; do i=$((i+1)); done");
        let deadline = Instant::now() + Duration::from_secs(30);
        // Of one of them alone it would be little more than half of that.
        while process.usage().cpu_s < 0.5 && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(20));
        }
        let usage = process.usage();
        assert_eq!(process.descendants().len(), 1);
        let own = Stat::read(process.pid()).unwrap().ticks as f64 / TICKS_PER_SECOND;
        assert!(usage.cpu_s >= 0.5 && own < 0.9 * usage.cpu_s && usage.rss_mib > 0.5, "{usage:?}, its own {own} s");
    }
}
