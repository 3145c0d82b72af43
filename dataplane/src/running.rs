//! The threads of the workers: started one by one, each on its core; stopped, looked after, and given other devices, all together.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use adit_channel::{EventFd, Turns};
use anyhow::{Context, Result};
use core_affinity::CoreId;

use crate::devices::{Device, Mailbox};
use crate::io::Failure;
use crate::io::poll::PollIo;
use crate::io::uring::UringIo;
use crate::log;
use crate::roam::Roam;
use crate::scheduling;
use crate::worker::Worker;

/// How long workers may take until they use another device: they do so between two turns.
const TAKE_WITHIN: Duration = Duration::from_millis(500);
/// How often it is looked.
const LOOK_EVERY: Duration = Duration::from_micros(200);

/// The threads of the workers, and what ends them.
pub struct Running {
    threads: Vec<thread::JoinHandle<()>>,
    report: mpsc::Sender<(usize, Failure)>,
    failures: mpsc::Receiver<(usize, Failure)>,
    /// Workers that have opened what they need, or could not.
    opened: mpsc::Sender<(usize, Result<(), Failure>)>,
    ready: mpsc::Receiver<(usize, Result<(), Failure>)>,
    stop: Arc<AtomicBool>,
    wakes: Vec<Arc<EventFd>>,
    mailboxes: Vec<Arc<Mailbox>>,
    /// The turns of each worker, and how many it had made when they were looked at last.
    turns: Vec<(Turns, u64)>,
    /// Readable when a worker has failed.
    alarm: Arc<EventFd>,
}

impl Running {
    pub(crate) fn new() -> Result<Running> {
        let (report, failures) = mpsc::channel();
        let alarm = Arc::new(EventFd::new().context("cannot create an eventfd")?);
        let stop = Arc::new(AtomicBool::new(false));
        let (opened, ready) = mpsc::channel();
        let (threads, wakes, mailboxes, turns) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Ok(Running { threads, report, failures, opened, ready, stop, wakes, mailboxes, turns, alarm })
    }

    /// `uring`: run on io_uring, and how long to look before sleeping; else on poll. The worker says by `ready` that it has opened what it
    /// needs, and begins when it is told to by what is returned.
    pub(crate) fn spawn(
        &mut self,
        id: usize,
        mut worker: Worker,
        (core, roams): (CoreId, bool),
        uring: Option<Duration>,
    ) -> Result<mpsc::Sender<()>> {
        let (stop, report, alarm) = (self.stop.clone(), self.report.clone(), self.alarm.clone());
        let (opened, (start, begin)) = (self.opened.clone(), mpsc::channel());
        let descriptors = worker.descriptors();
        self.wakes.push(worker.waker());
        self.mailboxes.push(worker.mailbox());
        self.turns.push((worker.turns(), u64::MAX));
        let body = move || {
            worker.let_roam(roams.then(|| Roam::from(core)).flatten());
            take_core(id, core);
            let (ring, ready) = match uring.map(|busy_poll| UringIo::new(descriptors, busy_poll)).transpose() {
                Ok(ring) => (ring, Ok(())),
                Err(failure) => (None, Err(failure)),
            };
            let failed = ready.is_err();
            // Whoever waits for it may have given up; then nobody tells us to begin either.
            let _ = opened.send((id, ready));
            if failed || begin.recv().is_err() {
                return;
            }
            let result = match ring {
                Some(ring) => worker.run(ring, &stop),
                None => worker.run(PollIo::new(descriptors), &stop),
            };
            if let Err(failure) = result {
                // The receiver lives as long as the process serves.
                let _ = report.send((id, failure));
                alarm.signal();
            }
        };
        let thread = thread::Builder::new().name(format!("worker-{id}")).spawn(body).context("cannot start a worker thread")?;
        self.threads.push(thread);
        Ok(start)
    }

    /// Makes every worker look at its clock.
    pub(crate) fn tick(&self) {
        self.wakes.iter().for_each(|wake| wake.signal());
    }

    /// Closes what workers have put aside.
    pub(crate) fn close_old(&self) {
        self.mailboxes.iter().for_each(|mailbox| mailbox.close_old());
    }

    /// The next worker that has opened what it needs, or could not.
    pub(crate) fn next_ready(&self) -> Result<(usize, Result<(), Failure>)> {
        self.ready.recv().context("a worker ended while it was started")
    }

    /// The next worker that has failed, if one has.
    pub(crate) fn next_failure(&self) -> Option<(usize, Failure)> {
        self.failures.try_recv().ok()
    }

    /// Readable when a worker has failed.
    pub(crate) fn alarm(&self) -> BorrowedFd<'_> {
        self.alarm.as_fd()
    }

    /// Gives each worker one of these devices, and waits until all of them use theirs.
    ///
    /// # Errors
    /// One of them does not; for people. Others may.
    pub(crate) fn give(&self, devices: Vec<Device>) -> Result<(), String> {
        let before: Vec<u64> = self.mailboxes.iter().map(|mailbox| mailbox.count_taken()).collect();
        for (worker, (mailbox, device)) in self.mailboxes.iter().zip(devices).enumerate() {
            if !mailbox.put(device) {
                return Err(format!("worker {worker} has not taken what it was given before"));
            }
        }
        self.tick();
        let began = Instant::now();
        for (worker, (mailbox, before)) in self.mailboxes.iter().zip(before).enumerate() {
            while mailbox.count_taken() == before {
                if began.elapsed() > TAKE_WITHIN {
                    return Err(format!("worker {worker} does not take it: it hangs"));
                }
                thread::sleep(LOOK_EVERY);
            }
        }
        self.close_old();
        Ok(())
    }

    /// Whether every worker has made a turn since this was asked last.
    pub(crate) fn have_moved(&mut self) -> bool {
        // Every worker is looked at: each has its own last look.
        self.turns.iter_mut().fold(true, |moved, (turns, last)| {
            let now = turns.now();
            std::mem::replace(last, now) != now && moved
        })
    }

    /// Stops the workers and waits for them.
    pub fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.tick();
        for thread in self.threads {
            // A worker that panicked has said so on stderr.
            let _ = thread.join();
        }
    }
}

/// Has the calling thread, a worker, run on its core, in short slices.
fn take_core(id: usize, core: CoreId) {
    if !core_affinity::set_for_current(core) {
        log::warn(format_args!("worker {id} could not be pinned to core {}", core.id));
    }
    if let Err(error) = scheduling::ask_for_short_slices() {
        log::info(format_args!("worker {id} runs with the scheduler's usual slices: {error}"));
    }
}
