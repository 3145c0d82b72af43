//! A whole machine: QEMU with a Linux kernel of its own, whose process 1 is systemd, and a root directory that is made for it in memory.
//!
//! ```text
//!  deploy/interop-peers.sh ─▶ machine/: packages of Debian, vmlinuz, modules ─┐
//!  files of the caller ───────────────────────────────────────────────────────┼─▶ cpio ─▶ the root directory, in memory
//!  a script ──────────────────────────────────────────────────────────────────┘
//!                             ttyS0 ─▶ console: what kernel and services say     ttyS1 ─▶ facts: what the script writes there
//! ```
//!
//! The script runs as a service once the machine is up, and its end is the machine's. There is no cable to the outside. Where the host
//! lets machines use its processor (KVM), that is done; else QEMU does it all by itself (TCG), some ten times slower.

mod cpio;

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::interop::releases;
use super::{Turn, take_turn};
use crate::process::Process;
use crate::workdir::WorkDir;
use cpio::Archive;

const QEMU: &str = "qemu-system-x86_64";
/// The root directory is in it, too.
const MEMORY_MIB: u32 = 1024;
/// How long it may say nothing, on a busy host without KVM, and how long all of it may take there.
const QUIET_MAX: Duration = Duration::from_secs(240);
const ENDS_WITHIN: Duration = Duration::from_secs(1800);
/// What a test needs nothing of.
const LEFT_OUT: &[&str] =
    &[".recipe", "packages", "vmlinuz", "usr/share", "usr/include", "usr/lib/udev", "usr/lib/x86_64-linux-gnu/gconv"];
/// Where the script is.
const SCRIPT: &str = "lab/run.sh";
/// Its service: the machine ends with it, as a reboot, which QEMU takes for the end.
const SERVICE: &str = "[Unit]\nRequires=basic.target\nAfter=basic.target\nSuccessAction=reboot-force\nFailureAction=reboot-force\n\
    [Service]\nType=oneshot\nExecStart=/bin/sh /lab/run.sh\n";
const TARGET: &str = "[Unit]\nRequires=basic.target lab.service\nAfter=basic.target\nAllowIsolate=yes\n";
const KERNEL: &str = "console=ttyS0 panic=-1 rdinit=/usr/lib/systemd/systemd systemd.unit=lab.target systemd.show_status=no \
    systemd.log_color=no";

/// A file of the machine.
pub struct MachineFile {
    pub path: PathBuf,
    pub mode: u32,
    pub content: Vec<u8>,
}

impl MachineFile {
    pub fn new(path: impl Into<PathBuf>, mode: u32, content: impl Into<Vec<u8>>) -> MachineFile {
        MachineFile { path: path.into(), mode, content: content.into() }
    }
}

/// What a machine has left.
#[derive(Debug)]
pub struct Machine {
    /// Lines that the script wrote to /dev/ttyS1.
    pub facts: Vec<String>,
    /// What QEMU said, then all that was written to the console.
    pub console: String,
}

impl Machine {
    /// Boots a machine with these files, runs the script in it as root, and returns when the machine has ended.
    pub fn run(files: &[MachineFile], script: &str) -> Result<Machine> {
        let _turn = take_turn(Turn::Beside("machine"))?;
        let parts = releases::machine()?;
        let dir = WorkDir::new("machine")?;
        let root = dir.path().join("root.cpio");
        write_root(&root, &parts, files, script).context("making the root directory of the machine")?;
        let (mut ended, mut machine) = Machine::boot(dir.path(), &parts, &root)?;
        if machine.facts.is_empty() {
            // A kernel on a processor that is not real can hang before anything of ours runs in it; once more tells whether it was that.
            println!("{}\n── the machine ended with {ended:?} and came to nothing; once more", machine.console);
            (ended, machine) = Machine::boot(dir.path(), &parts, &root)?;
        }
        match ended {
            Ok(status) if status.success() && machine.facts.iter().any(|line| line == "end") => Ok(machine),
            ended => bail!("the machine ended with {ended:?} and came to {:?}\n{}", machine.facts, machine.console),
        }
    }

    /// How the machine ended, and what it has left by then.
    fn boot(dir: &Path, parts: &Path, root: &Path) -> Result<(Result<ExitStatus>, Machine)> {
        let [console, facts, log] = ["console", "facts", "qemu"].map(|name| dir.join(name));
        for file in [&console, &facts, &log] {
            File::create(file)?;
        }
        let mut command = Command::new(QEMU);
        command
            .args(["-accel", acceleration(), "-cpu", "max", "-smp", "2", "-m", &MEMORY_MIB.to_string()])
            .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
            .args([&console, &facts].iter().flat_map(|file| ["-serial".to_owned(), format!("file:{}", file.display())]))
            .arg("-kernel")
            .arg(parts.join("vmlinuz"))
            .arg("-initrd")
            .arg(root)
            .args(["-append", KERNEL]);
        let mut qemu = Process::start(&mut command, log)
            .with_context(|| format!("the package qemu-system-x86 has {QEMU}: deploy/install-deps.sh test installs it"))?;
        let said = || [&console, &facts].map(|file| fs::metadata(file).map_or(0, |file| file.len()));
        let ended = qemu.wait_while_it_goes_on(QUIET_MAX, ENDS_WITHIN, said);
        let read = |file: &Path| fs::read(file).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
        let facts = read(&facts).lines().map(|line| line.trim().to_owned()).collect();
        Ok((ended, Machine { facts, console: qemu.log() + &read(&console) }))
    }

    /// The value of a fact, the words behind its name.
    pub fn fact(&self, name: &str) -> Result<&str> {
        let mut values = self.facts.iter().filter_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let value = values.next();
        value.with_context(|| format!("the machine says nothing of {name}: {:#?}\n{}", self.facts, self.console))
    }
}

fn write_root(to: &Path, parts: &Path, files: &[MachineFile], script: &str) -> Result<()> {
    let mut archive = Archive::new(BufWriter::new(File::create(to)?));
    archive.tree(parts, &|path: &Path| LEFT_OUT.iter().any(|left| path == Path::new(left)))?;
    // For what the kernel says before anything is mounted.
    archive.device("dev/console", 0o600, (5, 1))?;
    let ours = [
        MachineFile::new(SCRIPT, 0o755, script),
        MachineFile::new("etc/systemd/system/lab.service", 0o644, SERVICE),
        MachineFile::new("etc/systemd/system/lab.target", 0o644, TARGET),
        MachineFile::new("etc/machine-id", 0o444, "0123456789abcdef0123456789abcdef\n"),
        MachineFile::new("etc/os-release", 0o644, "ID=lab\nNAME=lab\n"),
    ];
    for file in ours.iter().chain(files) {
        // A directory that is there already stays as it is.
        let mut above: Vec<&Path> = file.path.ancestors().skip(1).filter(|path| !path.as_os_str().is_empty()).collect();
        above.reverse();
        for directory in above.into_iter().filter(|path| !parts.join(path).exists()) {
            archive.directory(directory, 0o755)?;
        }
        archive.file(&file.path, file.mode, &file.content)?;
    }
    Ok(archive.finish()?.flush()?)
}

/// How QEMU runs the machine. That /dev/kvm is there says little: some hosts have it and no processor that could do it.
fn acceleration() -> &'static str {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let can = cpu
        .lines()
        .find(|line| line.starts_with("flags"))
        .is_some_and(|line| line.split(' ').any(|flag| ["vmx", "svm"].contains(&flag)));
    let may = File::options().read(true).write(true).open("/dev/kvm").is_ok();
    if can && may { "kvm" } else { "tcg,thread=multi" }
}

/// A program without what only a debugger reads: the machine has it in memory.
pub fn stripped(program: &Path) -> Result<Vec<u8>> {
    let dir = WorkDir::new("strip")?;
    let to = dir.path().join("program");
    let status = Command::new("strip").arg("-o").arg(&to).arg(program).status().context("starting strip")?;
    ensure!(status.success(), "strip ended with {status}");
    Ok(fs::read(to)?)
}
