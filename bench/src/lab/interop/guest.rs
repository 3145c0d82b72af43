//! A guest kernel: Linux 6.1 as a program (User Mode Linux), with one of the unpacked releases as its root directory.
//!
//! It is there for the ESP of a kernel, which the kernel that runs the tests may lack: ESN, transport mode, IP protocol 50.
//!
//! ```text
//!  caller's namespace          backplane (a namespace)              guest
//!  LINK ───────── veth ─────── br0 ──── tap0 ────────────────────── wan0       addresses are the caller's business
//!                              lab0 169.254.77.1/30 ─────────────── lab0       control, 169.254.77.2
//!  Guest::run ──────────────── a socket pair ────────────────────── ttyS0      one command line after the other
//!  Guest::folder ───────────── hostfs ───────────────────────────── /lab
//! ```
//!
//! The root directory is mounted read-only, so that nothing of the host can be changed but the guest's own folder. A guest is ready
//! about three seconds after its start, and ends with the value that stands for it.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};

use super::releases::{self, Release};
use crate::lab::SOON;
use crate::netns::{Netns, Veth};
use crate::process::Process;
use crate::workdir::WorkDir;

/// The guest's side of what this file describes.
const INIT: &str = include_str!("guest/init.sh");
const MEMORY_MIB: u64 = 128;
const BOOTED_WITHIN: Duration = Duration::from_secs(90);
const COMMAND_WITHIN: Duration = SOON;
/// Where the guest's memory is best put: as a file that is never written to a disk.
const SHARED_MEMORY: &str = "/dev/shm";
/// Longest output of a command, in bytes.
const OUTPUT_MAX: usize = 4 << 20;

/// A running guest. Clones are the same guest; it ends with the last of them.
#[derive(Clone, Debug)]
pub struct Guest(Arc<Inner>);

/// Dropped in this order: the program, then the cables and the namespace, then the files.
#[derive(Debug)]
struct Inner {
    program: Mutex<Process>,
    serial: Mutex<BufReader<UnixStream>>,
    cables: Mutex<Vec<Veth>>,
    backplane: Netns,
    dir: WorkDir,
}

impl Guest {
    /// The guest's address on the cable to its host.
    pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 77, 2);

    /// Boots a guest with the root directory of this release, and returns when it takes commands.
    pub fn boot(name: &str, release: Release) -> Result<Guest> {
        let (kernel, modules) = releases::kernel()?;
        let dir = WorkDir::new("guest")?;
        fs::write(dir.path().join("init.sh"), INIT)?;
        let backplane = Netns::new(name)?;
        lay_backplane(&backplane)?;
        let (near, far) = UnixStream::pair()?;
        let mut command = backplane.command(kernel);
        command
            .args([
                format!("mem={MEMORY_MIB}M"),
                "quiet".into(),
                "rootfstype=hostfs".into(),
                "root=/dev/root".into(),
                "ro".into(),
            ])
            .args([format!("rootflags={}", release.root()?.display()), "init=/init".into()])
            // Words that the kernel does not know become the environment of its first program.
            .args([format!("lab={}", dir.path().display()), format!("modules={}", modules.display())])
            .args(["con=null", "con0=null,fd:1", "ssl0=fd:0"])
            .args(["tap0", "lab0"].iter().enumerate().map(|(n, tap)| format!("vec{n}:transport=tap,ifname={tap},depth=64,gro=0")))
            // Where it would leave a folder of its own otherwise.
            .args([format!("uml_dir={}/", dir.path().display()), "umid=guest".into()]);
        command.env("TMPDIR", if is_shared_memory_large_enough() { Path::new(SHARED_MEMORY) } else { dir.path() });
        let program = Process::start_with_input(&mut command, dir.path().join("console"), OwnedFd::from(far))?;
        // The command holds the far end of the socket pair: without it, the guest's end is noticed.
        drop(command);
        let guest = Guest(Arc::new(Inner {
            program: Mutex::new(program),
            serial: Mutex::new(BufReader::new(near)),
            cables: Mutex::default(),
            backplane,
            dir,
        }));
        guest.wait_until_ready()?;
        Ok(guest)
    }

    /// Lays a cable from the guest's `wan0` to a new link in the namespace, up at both ends. It lies as long as the guest runs.
    pub fn plug(&self, netns: &Netns, link: &str) -> Result<()> {
        let mut cables = self.0.cables.lock().unwrap_or_else(PoisonError::into_inner);
        let port = format!("port{}", cables.len());
        cables.push(Veth::between(netns, link, &self.0.backplane, &port, 1500)?);
        self.0.backplane.run(&format!("ip link set {port} master br0")).map(drop)
    }

    /// Runs a line of shell as root of the guest and returns what it writes. A status other than 0 is an error with the output in it.
    pub fn run(&self, line: &str) -> Result<String> {
        let (status, output) = self.execute(line).with_context(|| format!("`{line}` in {}", self.0.backplane.name()))?;
        ensure!(status == 0, "`{line}` in {}: exit status {status}: {}", self.0.backplane.name(), output.trim());
        Ok(output)
    }

    /// Whether the guest has a process of this id.
    pub fn has_process(&self, pid: u32) -> bool {
        self.run(&format!("test -d /proc/{pid}")).is_ok()
    }

    /// The namespace with the host's ends of the guest's cables: `br0` sees all that passes on `wan0`.
    pub fn backplane(&self) -> &Netns {
        &self.0.backplane
    }

    /// A folder of the host that the guest has as `/lab`. The guest may not notice changes of a file that it has read before.
    pub fn folder(&self) -> &Path {
        self.0.dir.path()
    }

    /// All that kernel and programs have written to the console.
    pub fn console(&self) -> String {
        self.0.program.lock().unwrap_or_else(PoisonError::into_inner).log()
    }

    fn wait_until_ready(&self) -> Result<()> {
        let mut serial = self.0.serial.lock().unwrap_or_else(PoisonError::into_inner);
        serial.get_ref().set_read_timeout(Some(BOOTED_WITHIN))?;
        let mut line = String::new();
        let read = serial.read_line(&mut line);
        if !line.starts_with("ready") {
            return Err(anyhow!("{read:?} `{}`", line.trim()))
                .with_context(|| format!("the guest did not boot:\n{}", self.console()));
        }
        serial.get_ref().set_read_timeout(Some(COMMAND_WITHIN))?;
        serial.get_ref().set_write_timeout(Some(COMMAND_WITHIN))?;
        Ok(())
    }

    /// The guest answers each line with its exit status, the length of its output, and the output.
    fn execute(&self, line: &str) -> Result<(i32, String)> {
        ensure!(!line.contains('\n'), "a command is one line");
        let mut serial = self.0.serial.lock().unwrap_or_else(PoisonError::into_inner);
        serial.get_mut().write_all(format!("{line}\n").as_bytes())?;
        let mut head = String::new();
        let answered = serial.read_line(&mut head).context("waiting for the guest");
        let parsed = head.trim().split_once(' ').and_then(|(status, length)| Some((status.parse().ok()?, length.parse().ok()?)));
        let Some((status, length)) = parsed else {
            drop(serial);
            return Err(anyhow!("{answered:?} `{}` is no answer", head.trim())).context(self.console());
        };
        ensure!(length <= OUTPUT_MAX, "an output of {length} bytes");
        let mut output = vec![0; length];
        serial.read_exact(&mut output)?;
        Ok((status, String::from_utf8_lossy(&output).into_owned()))
    }
}

/// The host's ends of the guest's cables.
fn lay_backplane(backplane: &Netns) -> Result<()> {
    for tap in ["tap0", "lab0"] {
        backplane.run(&format!("ip tuntap add dev {tap} mode tap"))?;
        backplane.run(&format!("ip link set {tap} up"))?;
    }
    backplane.run("ip link add br0 type bridge forward_delay 0 stp_state 0")?;
    backplane.run("ip link set tap0 master br0")?;
    backplane.run("ip link set br0 up")?;
    backplane.address("lab0", "169.254.77.1/30")
}

/// In some containers it is smaller than a guest, which then would end by SIGBUS.
fn is_shared_memory_large_enough() -> bool {
    let output = Command::new("stat").args(["-f", "-c", "%T %a %S", SHARED_MEMORY]).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let words: Vec<&str> = text.split_whitespace().collect();
    let [kind, blocks, size] = words[..] else { return false };
    let free = blocks.parse::<u64>().unwrap_or(0).saturating_mul(size.parse().unwrap_or(0));
    // Several guests may run at once.
    kind == "tmpfs" && free >= 4 * (MEMORY_MIB << 20)
}
