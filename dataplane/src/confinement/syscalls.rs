//! Seccomp: the system calls that a data plane makes once it runs are allowed; those that only look or ask, as a library may now and
//! then, get EPERM; any other one ends the process with SIGSYS, for only an intruder makes it.
//!
//! What forwarding calls is allowed whatever its arguments, so the kernel answers from a table and runs no filter.
//! Two filters lie one above the other, of which the stricter answer counts: seccomp has one answer for all that a filter does not name.

use std::collections::BTreeMap;

use libc::c_long;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Len, SeccompCmpOp as Op, SeccompCondition as Condition, SeccompFilter,
    SeccompRule, TargetArch,
};

use crate::devices::TUNGETIFF;
use crate::tap::steering::TUNSETSTEERINGEBPF;

/// Forwarding, waiting, memory, the end of a thread and of the process.
const NEEDED: &[c_long] = &[
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_recvmsg,
    libc::SYS_recvfrom,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_io_uring_enter,
    // Of a ring that has restrictions: only what they allow.
    libc::SYS_io_uring_register,
    libc::SYS_ppoll,
    libc::SYS_futex,
    libc::SYS_setsockopt,
    libc::SYS_getsockopt,
    libc::SYS_getsockname,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_sched_yield,
    libc::SYS_getrandom,
    libc::SYS_restart_syscall,
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_rseq,
    libc::SYS_set_robust_list,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_exit,
    libc::SYS_exit_group,
    // The socket for the control plane: who comes, and to make it again.
    libc::SYS_accept4,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_statx,
    libc::SYS_newfstatat,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_unlinkat,
    libc::SYS_fcntl,
    libc::SYS_close,
    libc::SYS_geteuid,
    libc::SYS_getegid,
];

/// What other machines have no number for.
#[cfg(target_arch = "x86_64")]
const NEEDED_HERE: &[c_long] = &[libc::SYS_poll, libc::SYS_time, libc::SYS_unlink, libc::SYS_chmod];
#[cfg(not(target_arch = "x86_64"))]
const NEEDED_HERE: &[c_long] = &[];

/// Refused, and no reason to end: questions, and what a library tries and can do without.
const HARMLESS: &[c_long] = &[
    libc::SYS_openat,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_readlinkat,
    libc::SYS_getdents64,
    libc::SYS_getcwd,
    libc::SYS_fstat,
    libc::SYS_statfs,
    libc::SYS_fstatfs,
    libc::SYS_lseek,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_pipe2,
    libc::SYS_ioctl,
    libc::SYS_connect,
    libc::SYS_socket,
    libc::SYS_socketpair,
    libc::SYS_shutdown,
    libc::SYS_getpeername,
    libc::SYS_eventfd2,
    libc::SYS_timerfd_create,
    libc::SYS_epoll_create1,
    libc::SYS_getuid,
    libc::SYS_getgid,
    libc::SYS_getppid,
    libc::SYS_getpriority,
    libc::SYS_getrusage,
    libc::SYS_getrlimit,
    libc::SYS_prlimit64,
    libc::SYS_getcpu,
    libc::SYS_uname,
    libc::SYS_sysinfo,
    libc::SYS_times,
    libc::SYS_clock_getres,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_getattr,
    libc::SYS_sched_getparam,
    libc::SYS_sched_getscheduler,
    libc::SYS_sched_setattr,
    libc::SYS_membarrier,
    libc::SYS_mincore,
    libc::SYS_mlock,
    libc::SYS_mlock2,
    libc::SYS_munlock,
    libc::SYS_capget,
    libc::SYS_prctl,
    libc::SYS_seccomp,
    libc::SYS_kill,
    libc::SYS_tkill,
    libc::SYS_fsync,
    libc::SYS_ftruncate,
    libc::SYS_set_tid_address,
];

#[cfg(target_arch = "x86_64")]
const HARMLESS_HERE: &[c_long] =
    &[libc::SYS_open, libc::SYS_access, libc::SYS_readlink, libc::SYS_stat, libc::SYS_lstat, libc::SYS_pipe, libc::SYS_dup2];
#[cfg(not(target_arch = "x86_64"))]
const HARMLESS_HERE: &[c_long] = &[];

/// The two that are in force, for all threads of the process and for good.
pub fn restrict() -> Result<(), seccompiler::Error> {
    programs().map_err(seccompiler::Error::Backend)?.iter().try_for_each(|program| seccompiler::apply_filter_all_threads(program))
}

/// The filters in the order in which they are put in force: the first lets the second be.
fn programs() -> Result<[BpfProgram; 2], seccompiler::BackendError> {
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    let program = |rules, others| BpfProgram::try_from(SeccompFilter::new(rules, others, SeccompAction::Allow, arch)?);
    let mut survived = allowed()?;
    survived.extend(HARMLESS.iter().chain(HARMLESS_HERE).map(|number| (*number, Vec::new())));
    Ok([program(survived, SeccompAction::KillProcess)?, program(allowed()?, SeccompAction::Errno(libc::EPERM.unsigned_abs()))?])
}

type Rules = BTreeMap<c_long, Vec<SeccompRule>>;

fn allowed() -> Result<Rules, seccompiler::BackendError> {
    let mut rules: Rules = NEEDED.iter().chain(NEEDED_HERE).map(|number| (*number, Vec::new())).collect();
    let only = |argument, op, value: libc::c_int| {
        Ok::<_, seccompiler::BackendError>(vec![SeccompRule::new(vec![Condition::new(argument, Len::Dword, op, value as u64)?])?])
    };
    // Memory, but none that can be run.
    let no_execution = Op::MaskedEq(libc::PROT_EXEC as u64);
    rules.insert(libc::SYS_mmap, only(2, no_execution.clone(), 0)?);
    rules.insert(libc::SYS_mprotect, only(2, no_execution, 0)?);
    rules.insert(libc::SYS_socket, only(0, Op::Eq, libc::AF_UNIX)?);
    // A worker that leaves its core or comes back: the calling thread alone.
    rules.insert(libc::SYS_sched_setaffinity, only(0, Op::Eq, 0)?);
    // What a queue that was handed over is one of, and the program that chooses among several.
    let number = |number: libc::c_ulong| Condition::new(1, Len::Dword, Op::Eq, number).map(|one| vec![one]);
    let known = [TUNGETIFF, TUNSETSTEERINGEBPF].map(|one| number(one).and_then(SeccompRule::new));
    rules.insert(libc::SYS_ioctl, known.into_iter().collect::<Result<_, _>>()?);
    // abort(3).
    rules.insert(libc::SYS_tgkill, only(2, Op::Eq, libc::SIGABRT)?);
    Ok(rules)
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Write};
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;
    use std::thread;

    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

    use super::*;

    /// Set in the process that tries what only an intruder does.
    const INTRUDER: &str = "ADIT_TEST_INTRUDER";

    fn restrict_this_thread() {
        rustix::thread::set_no_new_privs(true).unwrap();
        for program in programs().unwrap() {
            seccompiler::apply_filter(&program).unwrap();
        }
    }

    #[test]
    fn questions_are_refused_and_forwarding_goes_on() {
        let (mut reader, mut writer) = std::io::pipe().unwrap();
        let (said, heard) = std::sync::mpsc::channel();
        let thread = thread::spawn(move || {
            let cores = sched_getaffinity(None).unwrap();
            restrict_this_thread();
            let opened = std::fs::File::open("/dev/null").err().map(|error| error.kind());
            let connected = std::net::TcpStream::connect("127.0.0.1:9").err().map(|error| error.kind());
            writer.write_all(b"packet").unwrap();
            sched_setaffinity(None, &cores).unwrap();
            // Memory in large pieces comes from mmap.
            let much = vec![1u8; 8 << 20];
            said.send((opened, connected, much.len())).unwrap();
        });
        thread.join().unwrap();
        assert_eq!(heard.recv().unwrap(), (Some(ErrorKind::PermissionDenied), Some(ErrorKind::PermissionDenied), 8 << 20));
        let mut packet = String::new();
        std::io::Read::read_to_string(&mut reader, &mut packet).unwrap();
        assert_eq!(packet, "packet");
    }

    #[test]
    fn what_only_an_intruder_calls_ends_the_process() {
        let cores_of_another = || {
            let _ = sched_setaffinity(rustix::process::Pid::from_raw(1), &CpuSet::new());
        };
        let intrusions: [(&str, fn()); 4] = [
            ("a program", || drop(Command::new("/bin/true").status())),
            ("a ring", || drop(io_uring::IoUring::new(8))),
            ("a thread", || drop(thread::Builder::new().spawn(|| ()))),
            ("the cores of another", cores_of_another),
        ];
        if let Ok(which) = std::env::var(INTRUDER) {
            let (_, intrusion) = intrusions.iter().find(|(name, _)| *name == which).unwrap();
            restrict_this_thread();
            intrusion();
            return;
        }
        for (name, _) in intrusions {
            let mut own = Command::new(std::env::current_exe().unwrap());
            own.args(["--exact", "confinement::syscalls::tests::what_only_an_intruder_calls_ends_the_process"])
                .env(INTRUDER, name);
            let ended = own.output().unwrap().status;
            assert_eq!(ended.signal(), Some(libc::SIGSYS), "{name}: {ended}");
        }
    }
}
