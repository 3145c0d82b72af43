//! Worse surroundings for a program: what containers and other users take away.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use socket2::{SockFilter, Socket};

/// The program and all that it starts get EPERM from `io_uring_setup`, as under the default seccomp profile of Docker.
pub fn without_io_uring(command: &mut Command) -> &mut Command {
    // SAFETY: between fork and exec the closure makes two plain system calls on memory of its own stack and allocates nothing.
    unsafe { command.pre_exec(refuse_io_uring) }
}

/// The kernel's news of links, addresses and routes do not reach a process any more, and it does not notice: a filter on its sockets that
/// hear them drops all. How many such sockets it has.
pub fn without_news(process: u32) -> Result<usize> {
    const RETURN_NOTHING: SockFilter = SockFilter::new(0x06, 0, 0, 0);
    let table = fs::read_to_string(format!("/proc/{process}/net/netlink")).context("the netlink sockets of its namespace")?;
    let hears = |line: &str| -> Option<String> {
        // Address, protocol (0: routes), port, groups, and last the inode.
        let words: Vec<&str> = line.split_whitespace().collect();
        let groups = u32::from_str_radix(words.get(3)?, 16).ok()?;
        (words.get(1) == Some(&"0") && groups != 0).then(|| format!("socket:[{}]", words[words.len() - 1]))
    };
    let sockets: BTreeSet<String> = table.lines().filter_map(hears).collect();
    let pid = i32::try_from(process).ok().and_then(Pid::from_raw).context("a process id")?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    let mut count = 0;
    for entry in fs::read_dir(format!("/proc/{process}/fd")).context("its descriptors")? {
        let entry = entry?;
        // One that it has closed meanwhile is none of these.
        let Ok(link) = fs::read_link(entry.path()) else { continue };
        let number = entry.file_name().to_str().and_then(|name| name.parse().ok());
        if let Some(number) = number.filter(|_| link.to_str().is_some_and(|link| sockets.contains(link))) {
            let socket = Socket::from(pidfd_getfd(&pidfd, number, PidfdGetfdFlags::empty()).context("taking a socket of its")?);
            socket.attach_filter(&[RETURN_NOTHING]).context("a filter on its socket")?;
            count += 1;
        }
    }
    Ok(count)
}

/// `outer` with `words` runs `inner`: `wrapped(netns.command("prlimit"), &["--memlock=0:0"], &command)`. Of `inner` only the program
/// and its arguments are taken, so it is `outer` that enters the namespace.
pub fn wrapped(mut outer: Command, words: &[&str], inner: &Command) -> Command {
    outer.args(words).arg(inner.get_program()).args(inner.get_args());
    outer
}

/// A program that runs `inner` where /dev/net/tun does not exist and cannot be made.
pub fn without_tun(mut unshare: Command, inner: &Command) -> Command {
    unshare.args(["--mount", "sh", "-c", "mount -t tmpfs -o ro none /dev/net && exec \"$0\" \"$@\""]);
    unshare.arg(inner.get_program()).args(inner.get_args());
    unshare
}

/// A seccomp filter that answers EPERM to `io_uring_setup`, for native system calls; all others pass.
fn refuse_io_uring() -> io::Result<()> {
    const LOAD_NUMBER: libc::sock_filter = libc::sock_filter { code: 0x20, jt: 0, jf: 0, k: 0 };
    let mut program = [
        LOAD_NUMBER,
        libc::sock_filter { code: 0x15, jt: 0, jf: 1, k: libc::SYS_io_uring_setup as u32 },
        libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: libc::SECCOMP_RET_ERRNO | libc::EPERM as u32 },
        libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: libc::SECCOMP_RET_ALLOW },
    ];
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: the first call takes integers; for the second, `filter` and the program that it points at live until it returns, and
    // the kernel copies both.
    let status = unsafe {
        match libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) {
            0 => libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter),
            failed => failed,
        }
    };
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filtered_program_runs_but_may_not_set_up_io_uring() {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let mode = |text: &str| text.lines().find_map(|line| line.strip_prefix("Seccomp:")).unwrap().trim().to_owned();
        let output = without_io_uring(Command::new("cat").arg("/proc/self/status")).output().unwrap();
        assert!(output.status.success());
        assert_eq!(mode(&String::from_utf8(output.stdout).unwrap()), "2");
        assert_ne!(mode(&status), "", "the kernel has seccomp");
    }

    #[test]
    fn tun_is_away_only_for_the_wrapped_program() {
        let mut inner = Command::new("test");
        inner.args(["-e", "/dev/net/tun"]);
        assert!(!without_tun(Command::new("unshare"), &inner).status().unwrap().success());
        assert!(inner.status().unwrap().success(), "this machine has no /dev/net/tun");
    }
}
