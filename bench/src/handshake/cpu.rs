//! Which core somebody runs on, and how much of it he has used.

use std::fs;
use std::io::ErrorKind;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};

/// One core for the end that begins and one for the other; the same one where there is no second.
pub fn cores() -> Result<[usize; 2]> {
    let allowed = sched_getaffinity(None).context("cannot read which cores the process may use")?;
    let cores: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core)).take(2).collect();
    let first = *cores.first().context("no core to run on")?;
    Ok([first, cores.get(1).copied().unwrap_or(first)])
}

/// Keeps the calling thread on one core.
pub fn pin_thread(core: usize) -> Result<()> {
    pin(None, core)
}

/// Keeps all threads of a process on one core, also those that it starts from now on.
pub fn pin_process(pid: u32, core: usize) -> Result<()> {
    for task in tasks(pid)? {
        pin(i32::try_from(task).ok().and_then(Pid::from_raw), core)?;
    }
    Ok(())
}

fn pin(task: Option<Pid>, core: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(core);
    sched_setaffinity(task, &set).with_context(|| format!("cannot keep a thread on core {core}"))
}

/// Processor time of the calling thread, user and system.
pub fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Processor time of all threads of a process, user and system; exact while they sleep. A thread that has ended counts no more.
pub fn process_time(pid: u32) -> Result<Duration> {
    let mut sum = Duration::ZERO;
    for task in tasks(pid)? {
        // The first number is the time on a core, in nanoseconds (Documentation/scheduler/sched-stats.rst).
        let text = match fs::read_to_string(format!("/proc/{pid}/task/{task}/schedstat")) {
            // It has ended since it was listed; while it is read it is ESRCH.
            Err(error) if error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH) => continue,
            read => read.context("cannot read the time of a thread")?,
        };
        let nanoseconds = text.split_whitespace().next().and_then(|number| number.parse().ok());
        sum += Duration::from_nanos(nanoseconds.with_context(|| format!("`{text}` is no schedstat"))?);
    }
    Ok(sum)
}

fn tasks(pid: u32) -> Result<Vec<u32>> {
    let folder = format!("/proc/{pid}/task");
    let entries = fs::read_dir(&folder).with_context(|| format!("cannot look into {folder}"))?;
    Ok(entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn both_clocks_see_the_work_of_a_thread() {
        let worker = std::thread::spawn(|| {
            pin_thread(cores().unwrap()[0]).unwrap();
            let begin = Instant::now();
            while thread_time() < Duration::from_millis(30) {
                assert!(begin.elapsed() < Duration::from_secs(60), "{:?} of 30 ms", thread_time());
            }
            process_time(std::process::id()).unwrap()
        });
        assert!(worker.join().unwrap() >= Duration::from_millis(15));
    }
}
