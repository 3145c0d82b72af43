//! How soon a worker gets a core when it wakes, and how long it holds it.
//!
//! unsafe here: two system calls that libc has no function for.

use std::time::{Duration, Instant};
use std::{fs, io, thread};

use rustix::process::{getpid, getsid};

use crate::log;

/// Slice that workers ask the scheduler for.
const SLICE_NS: u64 = 100_000;

/// The weight of our session among the others, as a nice value: three times theirs. More would starve the control plane under a flood.
const SESSION_NICE: &str = "-5";
/// The kernel lets one session of the whole machine be weighed in a tenth of a second; another gateway may have been first.
const WEIGHED_WITHIN: Duration = Duration::from_millis(250);
const PAUSE: Duration = Duration::from_millis(25);

/// Linux shares the cores among sessions first (autogroup; sched(7)), and the data plane has one of its own: a worker that sleeps most
/// of the time counts for so little in it that it can wait for a second beside one busy program. Where services are grouped instead,
/// `CPUWeight=` in the unit is for this; where neither is, the file is missing or without effect. Whoever may not (CAP_SYS_NICE) is a
/// service, or root of a container.
pub fn weigh_session() {
    // Else it is the session of whoever started it, with all that runs there.
    if getsid(None).ok() != Some(getpid()) {
        return;
    }
    let began = Instant::now();
    loop {
        match fs::write("/proc/self/autogroup", SESSION_NICE) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && began.elapsed() < WEIGHED_WITHIN => thread::sleep(PAUSE),
            Err(error) if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) => {
                return log::info(format_args!("the data plane's session weighs as much as any other: {error}"));
            }
            _ => return,
        }
    }
}

/// `struct sched_attr` of sched_setattr(2), first version.
#[derive(Debug, Default, PartialEq)]
#[repr(C)]
struct Scheduling {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime_ns: u64,
    deadline_ns: u64,
    period_ns: u64,
}

/// How the calling thread is scheduled.
fn scheduling() -> io::Result<Scheduling> {
    let mut now = Scheduling::default();
    // SAFETY: the kernel writes at most the length given.
    let result = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut now, size_of::<Scheduling>(), 0) };
    if result == 0 { Ok(now) } else { Err(io::Error::last_os_error()) }
}

/// Asks the scheduler for short slices (Linux 6.12): a worker that wakes then soon gets its core, and holds it shorter; its share
/// of the core stays what it was. Under a policy without slices, which is somebody's choice, nothing changes.
pub fn ask_for_short_slices() -> io::Result<()> {
    let now = scheduling()?;
    if !matches!(now.policy as libc::c_int, libc::SCHED_OTHER | libc::SCHED_BATCH) {
        return Ok(());
    }
    let wanted = Scheduling { runtime_ns: SLICE_NS, ..now };
    // SAFETY: the structure is as long as it says and is only read.
    let result = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const wanted, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was in force for a thread before and after it asked for short slices.
    fn before_and_after(policy: libc::c_int, nice: libc::c_int, priority: libc::c_int) -> (Scheduling, Scheduling) {
        let asking = thread::spawn(move || {
            let parameters = libc::sched_param { sched_priority: priority };
            // SAFETY: the structure is only read; both calls change the calling thread alone.
            let set = unsafe {
                libc::sched_setscheduler(0, policy, &raw const parameters) == 0
                    && libc::setpriority(libc::PRIO_PROCESS, 0, nice) == 0
            };
            assert!(set, "run as root: {}", io::Error::last_os_error());
            let before = scheduling().unwrap();
            ask_for_short_slices().unwrap();
            (before, scheduling().unwrap())
        });
        asking.join().unwrap()
    }

    #[test]
    fn whoever_asks_for_short_slices_keeps_policy_and_niceness() {
        for (policy, nice) in [(libc::SCHED_OTHER, 7), (libc::SCHED_OTHER, -3), (libc::SCHED_BATCH, 5)] {
            let (before, after) = before_and_after(policy, nice, 0);
            assert_eq!((after.policy, after.nice), (policy as u32, nice));
            // Linux before 6.12 knows no slices and shows none.
            assert!([0, SLICE_NS].contains(&after.runtime_ns), "{after:?}");
            assert_eq!(Scheduling { runtime_ns: before.runtime_ns, ..after }, before);
        }
        for (policy, priority) in [(libc::SCHED_IDLE, 0), (libc::SCHED_FIFO, 1)] {
            let (before, after) = before_and_after(policy, 0, priority);
            assert_eq!(before, after);
        }
    }
}
