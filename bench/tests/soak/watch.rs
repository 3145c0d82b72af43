//! Memory, descriptors and logs, looked at every two seconds while all goes on.

use std::collections::VecDeque;
use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use adit_bench::netns::Netns;
use adit_bench::process::data_kib;
use anyhow::{Result, anyhow, ensure};

use crate::ground::Ground;

const EVERY: Duration = Duration::from_secs(2);
/// After its start a process fills buffers and tables.
const WARM: Duration = Duration::from_secs(20);
/// Samples that there must be behind it, or nothing is said of the process.
const SAMPLES_MIN: usize = 20;
/// How much one may have taken at its end, and by how much that may be more than at its begin. An allocator gives back late.
const MEMORY_MAX_KIB: f64 = 256.0 * 1024.0;
const GROWTH_MAX_KIB: f64 = 4.0 * 1024.0;
/// A command may just be connected when it is looked.
const DESCRIPTORS_MORE: usize = 2;
/// Lines of a gateway's log in any minute, though one may be started anew three times in it, and says what it has and who connects.
const LINES_PER_MINUTE: usize = 100;
const MINUTE: Duration = Duration::from_secs(60);

/// The samples of one process.
pub struct Life {
    name: String,
    pid: u32,
    began: Instant,
    /// KiB, descriptors.
    samples: Vec<(f64, usize)>,
}

/// Looks until it is told to stop.
pub struct Watch {
    stop: Arc<AtomicBool>,
    fault: Arc<Mutex<Option<String>>>,
    watcher: JoinHandle<Vec<Life>>,
}

impl Watch {
    pub fn start(ground: &Ground) -> Result<Watch> {
        let gateways: Vec<_> =
            ground.honest().iter().map(|gateway| Watched::new(&gateway.name, &gateway.netns, ground)).collect();
        let (stop, fault) = (Arc::<AtomicBool>::default(), Arc::<Mutex<Option<String>>>::default());
        let (ends, says) = (stop.clone(), fault.clone());
        let watcher = thread::Builder::new().name("watch".into()).spawn(move || look(gateways, &ends, &says))?;
        Ok(Watch { stop, fault, watcher })
    }

    /// An error as soon as a log has grown too fast.
    pub fn check(&self) -> Result<()> {
        let fault = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        fault.as_ref().map_or(Ok(()), |fault| Err(anyhow!("{fault}")))
    }

    pub fn end(self) -> Result<Vec<Life>> {
        self.stop.store(true, Ordering::Relaxed);
        let lives = self.watcher.join().map_err(|_| anyhow!("the watcher panicked"))?;
        let fault = self.fault.lock().unwrap_or_else(PoisonError::into_inner).take();
        fault.map_or(Ok(lives), |fault| Err(anyhow!("{fault}")))
    }
}

/// A gateway that is looked at.
struct Watched {
    name: String,
    netns: Netns,
    log: PathBuf,
    /// When how many lines were there, within the last minute.
    lines: VecDeque<(Instant, usize)>,
}

impl Watched {
    fn new(name: &str, netns: &Netns, ground: &Ground) -> Watched {
        let log = ground.lab.dir().join(format!("{name}.log"));
        Watched { name: name.to_owned(), netns: netns.clone(), log, lines: VecDeque::new() }
    }

    /// What is wrong with its log.
    fn log_fault(&mut self) -> Option<String> {
        let text = fs::read(&self.log).unwrap_or_default();
        let (now, lines) = (Instant::now(), text.iter().filter(|byte| **byte == b'\n').count());
        self.lines.push_back((now, lines));
        while self.lines.front().is_some_and(|(at, _)| now - *at > MINUTE) {
            self.lines.pop_front();
        }
        let more = lines - self.lines.front().map_or(lines, |(_, lines)| *lines);
        let tail: Vec<String> = String::from_utf8_lossy(&text).lines().skip(lines - more).map(str::to_owned).collect();
        (more >= LINES_PER_MINUTE).then(|| format!("{} logged {more} lines in a minute:\n{}", self.name, tail.join("\n")))
    }

    /// The processes of the gateway itself, not the commands that are given to it.
    fn processes(&self) -> impl Iterator<Item = (String, u32)> {
        self.netns.processes().into_iter().filter_map(|pid| {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?.trim_end().to_owned();
            let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            let is_plane = name == "adit-dataplane" || name == "adit" && line.split(|byte| *byte == 0).nth(1) == Some(b"run");
            is_plane.then_some((name, pid))
        })
    }
}

fn look(mut gateways: Vec<Watched>, stop: &AtomicBool, says: &Mutex<Option<String>>) -> Vec<Life> {
    let mut lives: Vec<Life> = Vec::new();
    let mut next = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        if Instant::now() < next {
            thread::sleep(EVERY / 20);
            continue;
        }
        next = Instant::now() + EVERY;
        for gateway in &mut gateways {
            if let Some(fault) = gateway.log_fault() {
                says.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(fault);
            }
            for (name, pid) in gateway.processes() {
                let index = lives.iter().position(|life| life.pid == pid).unwrap_or_else(|| {
                    let name = format!("{} {name}", gateway.name);
                    lives.push(Life { name, pid, began: Instant::now(), samples: Vec::new() });
                    lives.len() - 1
                });
                let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
                let kib = data_kib(pid);
                // One that is just ending has no memory any more.
                if kib > 0.0 && lives[index].began.elapsed() > WARM {
                    lives[index].samples.push((kib, descriptors));
                }
            }
        }
    }
    lives
}

impl Life {
    /// Median of the memory, and fewest descriptors, of the first and of the last quarter.
    fn ends(&self) -> Option<[(f64, usize); 2]> {
        let quarter = self.samples.len() / 4;
        let of = |samples: &[(f64, usize)]| {
            let mut kib: Vec<f64> = samples.iter().map(|sample| sample.0).collect();
            kib.sort_by(f64::total_cmp);
            (kib[kib.len() / 2], samples.iter().map(|sample| sample.1).min().unwrap_or(0))
        };
        (self.samples.len() >= SAMPLES_MIN)
            .then(|| [of(&self.samples[..quarter]), of(&self.samples[self.samples.len() - quarter..])])
    }

    pub fn has_not_grown(&self) -> Result<()> {
        let Some([first, last]) = self.ends() else { return Ok(()) };
        ensure!(last.0 <= MEMORY_MAX_KIB, "{self}: more than {MEMORY_MAX_KIB} KiB");
        ensure!(last.0 - first.0 <= GROWTH_MAX_KIB, "{self}: grown by more than {GROWTH_MAX_KIB} KiB");
        ensure!(last.1 <= first.1 + DESCRIPTORS_MORE, "{self}: descriptors are left open");
        Ok(())
    }
}

impl fmt::Display for Life {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lived = EVERY * self.samples.len() as u32;
        write!(f, "{:<22} {:>5} s watched", self.name, lived.as_secs())?;
        let Some([first, last]) = self.ends() else { return write!(f, ", too short to say more") };
        let per_hour = (last.0 - first.0) / (lived.as_secs_f64() * 0.75) * 3600.0;
        write!(f, ", {:.0} → {:.0} KiB ({per_hour:+.0} an hour), {} → {} descriptors", first.0, last.0, first.1, last.1)
    }
}
