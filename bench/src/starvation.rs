//! How long the data planes of this machine wanted a core and had none. What they lose meanwhile, in the queue of a socket or between
//! workers, is the fault of the machine: a test that allows no loss has to know it.

use std::collections::HashMap;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// How often it is looked.
const EVERY: Duration = Duration::from_millis(20);
/// How often new processes and threads are looked for.
const FIND_EVERY: u32 = 10;

/// Packets that the kernel has dropped since it began because a processor had too many waiting: between the namespaces, and of whoever
/// they were. The second number of each processor, in hexadecimal.
///
/// # Errors
/// The kernel does not tell.
pub fn backlog_drops() -> Result<u64> {
    let text = fs::read_to_string("/proc/net/softnet_stat").context("/proc/net/softnet_stat")?;
    let of = |line: &str| u64::from_str_radix(line.split_whitespace().nth(1)?, 16).ok();
    text.lines().map(|line| of(line).with_context(|| format!("not of a processor: {line}"))).sum()
}

/// Looks until it is asked.
pub struct Starvation {
    stop: Arc<AtomicBool>,
    watcher: JoinHandle<Duration>,
}

impl Starvation {
    /// Begins to watch the threads of every process of this name.
    pub fn watch(name: &str) -> Result<Starvation> {
        let (stop, name) = (Arc::new(AtomicBool::new(false)), name.to_owned());
        let stopped = stop.clone();
        let watcher = thread::Builder::new().name("starvation".into()).spawn(move || watch(&name, &stopped))?;
        Ok(Starvation { stop, watcher })
    }

    /// How long at least one of them had no more than half of a core that it wanted.
    pub fn end(self) -> Duration {
        self.stop.store(true, Ordering::Relaxed);
        self.watcher.join().unwrap_or_default()
    }
}

fn watch(name: &str, stop: &AtomicBool) -> Duration {
    let (mut files, mut before, mut starved) = (Vec::new(), HashMap::new(), Duration::ZERO);
    let mut at = Instant::now();
    for round in 0u32.. {
        if round % FIND_EVERY == 0 {
            files = threads(name);
        }
        let elapsed = at.elapsed();
        at = Instant::now();
        let now: HashMap<String, Duration> =
            files.iter().filter_map(|file: &String| Some((file.clone(), waited(file)?))).collect();
        let waits = now.iter().filter_map(|(file, waited)| Some(waited.saturating_sub(*before.get(file)?)));
        starved += share(waits.max().unwrap_or_default(), elapsed);
        before = now;
        if stop.load(Ordering::Relaxed) {
            break;
        }
        thread::sleep(EVERY);
    }
    starved
}

/// What counts of a wait that was told in a time: all of it, and the time around it where there were many short ones. A wait is told
/// when it is over, so it may be longer than the time.
fn share(wait: Duration, elapsed: Duration) -> Duration {
    if wait >= elapsed / 2 { wait.max(elapsed) } else { Duration::ZERO }
}

/// How long a thread has waited for a core since it began: the second number, in nanoseconds (sched-stats.rst of the kernel).
fn waited(file: &str) -> Option<Duration> {
    let text = fs::read_to_string(file).ok()?;
    text.split_whitespace().nth(1)?.parse().ok().map(Duration::from_nanos)
}

/// Where the kernel tells of the threads of every process of this name.
fn threads(name: &str) -> Vec<String> {
    let entries = |folder: &str| fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let named = entries("/proc").filter(|path| fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.trim_end() == name));
    let tasks = named.flat_map(|path| entries(&path.join("task").to_string_lossy()).collect::<Vec<_>>());
    tasks.map(|path| path.join("schedstat").to_string_lossy().into_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handshake::cpu::{cores, pin_thread};

    #[test]
    fn a_wait_counts_where_it_is_half_of_the_time_and_more() {
        let ms = Duration::from_millis;
        assert_eq!([share(ms(9), ms(20)), share(ms(10), ms(20)), share(ms(300), ms(20))], [ms(0), ms(20), ms(300)]);
    }

    #[test]
    fn threads_that_share_a_core_are_starved() {
        let [core, _] = cores().unwrap();
        // Its own name: that of the main thread.
        let name = fs::read_to_string("/proc/self/comm").unwrap();
        let starvation = Starvation::watch(name.trim_end()).unwrap();
        let until = Instant::now() + Duration::from_millis(500);
        let spin = || {
            pin_thread(core).unwrap();
            while Instant::now() < until {
                std::hint::spin_loop();
            }
        };
        thread::scope(|scope| (0..4).for_each(|_| drop(scope.spawn(spin))));
        let starved = starvation.end();
        assert!(starved > Duration::from_millis(200), "{starved:?}");
    }
}
