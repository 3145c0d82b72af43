//! Network namespaces and virtual cables for tests and benches.
//!
//! A [`Netns`] is held by a file descriptor and by the processes inside: nothing is mounted below `/run/netns`, and the host's own
//! namespace is never touched. When the holder is gone, also by a panic, Ctrl-C or SIGKILL, the processes inside are ended, and the
//! kernel takes the namespace with all its links away. This also works as the mapped root of a user namespace, where `/run/netns`
//! cannot be written.
//!
//! ```text
//! Netns::new ─▶ thread: unshare(CLONE_NEWNET), lo up ─▶ fd of /proc/thread-self/ns/net ─▶ warden inside
//! Netns::command(p) ─▶ child: setns(fd) before exec      Netns::enter(f) ─▶ thread: setns(fd), f()
//! Netns::drop (last one) ─▶ SIGKILL to every process still inside ─▶ fd closed
//! the holder is killed ─▶ SIGTERM to its children ─▶ the warden: SIGKILL to every process still inside
//! ```
//!
//! To look into a running one: `nsenter --net=/proc/PID/fd/N`, the path that [`Netns::path`] tells.

mod warden;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use warden::Warden;

/// How long [`once_free`] waits.
const FREE_WITHIN: Duration = Duration::from_secs(60);

/// A network namespace that lives as long as this value, its clones, or a process inside. Clones are the same namespace.
#[derive(Clone, Debug)]
pub struct Netns(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: String,
    handle: OwnedFd,
    inode: u64,
    warden: Warden,
}

impl Netns {
    /// Makes a namespace with `lo` up. `name` is for messages only; a number is added, so that two with one name can be told apart.
    ///
    /// Needs CAP_SYS_ADMIN (root, or the root of a user namespace).
    pub fn new(name: &str) -> Result<Netns> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        // Else ids from there would be those of other processes here, and these would be killed.
        ensure!(
            fs::read_link("/proc/self")?.to_str() == Some(&std::process::id().to_string()),
            "/proc is that of another pid namespace: mount one of this (`unshare --mount-proc`)"
        );
        let unique = format!("{name}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let handle = thread::Builder::new()
            .name("netns".into())
            .spawn(unshare_here)?
            .join()
            .map_err(|_| anyhow::anyhow!("the thread that makes the namespace panicked"))?
            .context("cannot make a network namespace: run as root, or inside `unshare --user --map-root-user`")?;
        let inode = handle.metadata()?.ino();
        let fd = handle.as_raw_fd();
        let warden = Warden::start(move || set_namespace(fd)).context("cannot start `sh`")?;
        let netns = Netns(Arc::new(Inner { name: unique, handle: handle.into(), inode, warden }));
        netns.run("ip link set lo up")?;
        Ok(netns)
    }

    /// The name given to [`Netns::new`], with the process id and a number.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// A path that `ip link set … netns PATH` and `nsenter --net=PATH` understand while this process lives.
    pub fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.handle.as_raw_fd()).into()
    }

    /// A command that will run inside the namespace.
    ///
    /// The child gets SIGTERM when the thread that started it ends, so start long-lived programs from a thread that lives long enough.
    /// That is for a clean end only: the child may ignore it. What is inside when this process ends gets SIGKILL a second later.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        let handle = self.0.clone();
        let parent = std::process::id();
        // SAFETY: between fork and exec the closure makes three plain system calls and allocates nothing; the descriptor is kept
        // open by `handle`, which the closure owns.
        unsafe {
            command.pre_exec(move || {
                set_namespace(handle.handle.as_raw_fd())?;
                end_with_parent(parent)
            });
        }
        command
    }

    /// Runs a whole command line, split at white space (no quoting), and returns its standard output.
    ///
    /// An exit status other than 0 is an error with the command's standard error in it.
    pub fn run(&self, line: &str) -> Result<String> {
        let mut words = line.split_whitespace();
        let program = words.next().context("an empty command line")?;
        let output = self.command(program).args(words).output().with_context(|| format!("cannot start `{program}`"))?;
        stdout_of(output).with_context(|| format!("`{line}` in {}", self.name()))
    }

    /// The MTU that the kernel has learnt for the path to an address, as by ICMP; `None` where it knows of no other than the link's.
    pub fn path_mtu(&self, to: IpAddr) -> Result<Option<u64>> {
        let said: serde_json::Value = serde_json::from_str(&self.run(&format!("ip -j route get {to}"))?)?;
        let route = said.get(0).with_context(|| format!("no route to {to}"))?;
        Ok(route["metrics"].as_array().into_iter().flatten().find_map(|metric| metric["mtu"].as_u64()))
    }

    /// Runs `work` on a fresh thread inside the namespace and waits for it. A panic of `work` goes on in the caller.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let handle = self.0.handle.as_raw_fd();
        let result = thread::scope(|scope| {
            let inside = move || {
                set_namespace(handle).expect("setns into a namespace that this process holds");
                work()
            };
            scope.spawn(inside).join()
        });
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Adds an address in CIDR notation to a link. IPv6 addresses are usable at once (no duplicate address detection).
    pub fn address(&self, link: &str, cidr: &str) -> Result<()> {
        let nodad = if cidr.contains(':') { " nodad" } else { "" };
        self.run(&format!("ip address add {cidr} dev {link}{nodad}")).map(drop)
    }

    /// The ids of all processes whose main thread is inside the namespace, without the warden.
    pub fn processes(&self) -> Vec<u32> {
        self.0.processes()
    }
}

impl Inner {
    fn processes(&self) -> Vec<u32> {
        let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
        entries
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter(|pid| *pid != self.warden.pid())
            .filter(|pid| fs::metadata(format!("/proc/{pid}/ns/net")).is_ok_and(|meta| meta.ino() == self.inode))
            .collect()
    }
}

impl Drop for Inner {
    /// Programs that outlive their starter (a data plane whose control plane was killed) would keep the namespace alive.
    fn drop(&mut self) {
        for pid in self.processes().into_iter().filter(|pid| *pid != std::process::id()) {
            // It may have ended by itself in between; nothing else could be done about a failure either.
            let _ = signal(pid, Signal::Kill);
        }
    }
}

/// A virtual Ethernet cable between two namespaces; pulled (both ends deleted) on drop.
#[derive(Debug)]
pub struct Veth {
    near: Netns,
    near_name: String,
}

impl Veth {
    /// Lays a cable: link `a_name` in `a`, link `b_name` in `b`, both up with this MTU. Add addresses with [`Netns::address`].
    pub fn between(a: &Netns, a_name: &str, b: &Netns, b_name: &str, mtu: u32) -> Result<Veth> {
        let far = b.path().display().to_string();
        a.run(&format!("ip link add {a_name} mtu {mtu} type veth peer name {b_name} mtu {mtu} netns {far}"))?;
        let veth = Veth { near: a.clone(), near_name: a_name.into() };
        a.run(&format!("ip link set {a_name} up"))?;
        b.run(&format!("ip link set {b_name} up"))?;
        Ok(veth)
    }
}

impl Drop for Veth {
    fn drop(&mut self) {
        // Fails only when the link is gone already, which is what is wanted.
        let _ = self.near.run(&format!("ip link delete {}", self.near_name));
    }
}

/// The signals that tests and benches send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Ask to stop.
    Term,
    /// As Ctrl-C does.
    Interrupt,
    /// Stop at once, nothing can be cleaned up.
    Kill,
    /// Freeze. It is done when it is sent.
    Stop,
    /// Go on after [`Signal::Stop`].
    Continue,
    /// Read the configuration again.
    Hangup,
    User1,
    User2,
    Alarm,
    Pipe,
}

/// Sends a signal to one process.
pub fn signal(pid: u32, signal: Signal) -> io::Result<()> {
    let number = match signal {
        Signal::Term => libc::SIGTERM,
        Signal::Interrupt => libc::SIGINT,
        Signal::Kill => libc::SIGKILL,
        Signal::Stop => libc::SIGSTOP,
        Signal::Continue => libc::SIGCONT,
        Signal::Hangup => libc::SIGHUP,
        Signal::User1 => libc::SIGUSR1,
        Signal::User2 => libc::SIGUSR2,
        Signal::Alarm => libc::SIGALRM,
        Signal::Pipe => libc::SIGPIPE,
    };
    let pid = libc::pid_t::try_from(pid).map_err(|_| io::ErrorKind::InvalidInput)?;
    if pid <= 0 {
        // 0 would mean the whole process group.
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: kill takes two integers and touches no memory of this process.
    check(unsafe { libc::kill(pid, number) })?;
    if signal == Signal::Stop { wait_until_still(pid) } else { Ok(()) }
}

/// Waits until no thread of a process runs: that begins with the one that takes the signal, which may have to wait for a core while
/// others go on.
fn wait_until_still(pid: libc::pid_t) -> io::Result<()> {
    const WITHIN: Duration = Duration::from_secs(60);
    let runs = |stat: &str| !stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with(['T', 'Z', 'X']));
    let began = Instant::now();
    while began.elapsed() < WITHIN {
        let threads = fs::read_dir(format!("/proc/{pid}/task"))?.collect::<io::Result<Vec<_>>>()?;
        let stats = threads.iter().filter_map(|thread| fs::read_to_string(thread.path().join("stat")).ok());
        if !stats.into_iter().any(|stat| runs(&stat)) {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(1));
    }
    Err(io::ErrorKind::TimedOut.into())
}

/// Moves the calling thread into a new namespace and returns the handle of it.
fn unshare_here() -> io::Result<File> {
    // SAFETY: unshare takes an integer; with CLONE_NEWNET it changes only the namespace of the calling thread.
    check(unsafe { libc::unshare(libc::CLONE_NEWNET) })?;
    for scope in ["all", "default"] {
        // Only a convenience for addresses that programs add by themselves; read-only in some containers.
        let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{scope}/accept_dad"), "0");
    }
    File::open("/proc/thread-self/ns/net")
}

fn set_namespace(handle: RawFd) -> io::Result<()> {
    // SAFETY: setns takes two integers and changes only the calling thread; a stale descriptor gives EBADF or EINVAL.
    check(unsafe { libc::setns(handle, libc::CLONE_NEWNET) })
}

fn end_with_parent(parent: u32) -> io::Result<()> {
    // SAFETY: prctl(PR_SET_PDEATHSIG) takes integers and touches no memory.
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) })?;
    // SAFETY: getppid takes nothing and touches no memory.
    if unsafe { libc::getppid() } != parent.cast_signed() {
        // The parent ended before it could have been noticed.
        return Err(io::Error::from_raw_os_error(libc::ESRCH));
    }
    Ok(())
}

fn check(status: libc::c_int) -> io::Result<()> {
    if status < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn stdout_of(output: Output) -> Result<String> {
    if !output.status.success() {
        bail!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Binds what a test may have had bound just before: a program that is being started has a copy of the socket of before for a moment.
///
/// # Errors
/// Whatever `bind` says, and that the address is still in use after a while.
pub fn once_free<T>(mut bind: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let deadline = Instant::now() + FREE_WITHIN;
    loop {
        match bind() {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(2));
            }
            bound => return bound,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::lab::wait_until;
    use crate::process::{Process, is_running};

    #[test]
    fn two_namespaces_reach_each_other_over_a_cable_until_it_is_pulled() {
        let (a, b) = (Netns::new("cable-a").unwrap(), Netns::new("cable-b").unwrap());
        let veth = Veth::between(&a, "eth0", &b, "eth0", 9000).unwrap();
        for (netns, last) in [(&a, 1), (&b, 2)] {
            netns.address("eth0", &format!("192.0.2.{last}/24")).unwrap();
            netns.address("eth0", &format!("2001:db8::{last}/64")).unwrap();
        }
        a.run("ping -c1 -W2 192.0.2.2").unwrap();
        b.run("ping -c1 -W2 2001:db8::1").unwrap();
        assert!(a.run("ip link show eth0").unwrap().contains("mtu 9000"));
        drop(veth);
        assert!(b.run("ip link show eth0").is_err());
    }

    #[test]
    fn a_closure_inside_sees_only_the_links_of_the_namespace() {
        let netns = Netns::new("inside").unwrap();
        let links = netns.enter(|| fs::read_to_string("/proc/thread-self/net/dev").unwrap());
        assert_eq!(links.lines().filter(|line| line.contains(':')).count(), 1, "{links}");
    }

    #[test]
    fn a_panic_inside_goes_on_outside() {
        let netns = Netns::new("panic").unwrap();
        let caught = std::panic::catch_unwind(|| netns.enter(|| panic!("seven")));
        assert_eq!(*caught.unwrap_err().downcast_ref::<&str>().unwrap(), "seven");
    }

    #[test]
    fn dropping_the_last_holder_ends_the_processes_inside() {
        let netns = Netns::new("orphan").unwrap();
        let mut child = netns.command("sleep").arg("1000").spawn().unwrap();
        assert_eq!(netns.processes(), [child.id()]);
        let clone = netns.clone();
        drop(netns);
        assert!(child.try_wait().unwrap().is_none());
        drop(clone);
        assert!(!child.wait().unwrap().success());
    }

    /// Set in the copy of this executable that is killed: where it says whom it has left.
    const LEFT_FILE: &str = "ADIT_NETNS_LEFT";

    /// A grandchild that ignores SIGTERM, as the namespace of a killed holder.
    #[test]
    fn what_a_killed_holder_leaves_in_a_namespace_is_ended() {
        if let Some(left) = std::env::var_os(LEFT_FILE) {
            let netns = Netns::new("left").unwrap();
            let script = r#"trap '' TERM; sh -c 'echo $$ >"$0.new"; mv "$0.new" "$0"; exec sleep 1000' "$0" & wait"#;
            let mut child = netns.command("sh").args(["-c", script]).arg(left).spawn().unwrap();
            child.wait().unwrap();
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let left = dir.path().join("left");
        let mut copy = Command::new(std::env::current_exe().unwrap());
        copy.args(["--exact", "netns::tests::what_a_killed_holder_leaves_in_a_namespace_is_ended"]).env(LEFT_FILE, &left);
        let mut copy = Process::start(&mut copy, dir.path().join("log")).unwrap();
        let long = Duration::from_secs(30);
        copy.wait_until("leaves somebody", long, |_| left.exists()).unwrap();
        let pid = fs::read_to_string(&left).unwrap().trim().parse().unwrap();
        assert!(is_running(pid));
        copy.signal(Signal::Kill).unwrap();
        copy.wait(long).unwrap();
        wait_until("it is ended", long, || Ok(!is_running(pid))).unwrap();
    }

    #[test]
    fn a_command_that_fails_tells_its_own_words() {
        let netns = Netns::new("words").unwrap();
        let error = format!("{:#}", netns.run("cat /no/such/file").unwrap_err());
        assert!(error.contains("`cat /no/such/file` in words") && error.contains("cat: "), "{error}");
    }
}
