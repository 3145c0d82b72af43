//! io_uring: multishot polls on the descriptors of a worker; writes to the TAP go down with the call that waits.
//!
//! One ring per worker, made and used by its thread alone (SINGLE_ISSUER, DEFER_TASKRUN), and restricted before it is used: it polls and
//! writes its own descriptors and can do nothing else, for no filter of system calls sees what goes through a ring. The TAP's writes complete inline
//! and in order while they are submitted; they are never linked and never forced to a kernel thread, which would reorder them.
//!
//! unsafe here: entries that point into the arena and into `iovecs`. For the arena whoever calls `tap_write` answers; the iovecs
//! live as long as the ring, and none is written again before the entries that use it have completed.

use std::io;
use std::os::fd::RawFd;
use std::thread;
use std::time::{Duration, Instant};

use adit_channel::Port;
use adit_proto::control::Place;
use adit_proto::stats::Drop;
use io_uring::register::Restriction;
use io_uring::{IoUring, cqueue, opcode, squeue, types};

use super::{Descriptors, Failure, Io, Ready, Slot, TapWrite, Wait, Work, completed};
use crate::confinement;
use crate::tap::coalesce::FRAMES_MAX;

const ENTRIES: u32 = 256;
const COMPLETIONS: u32 = 2 * ENTRIES;
/// Writes in flight; then the queue is submitted early.
const WRITES_MAX: usize = ENTRIES as usize - SLOTS;
/// Pieces of writes in flight.
const IOVECS: usize = 4096;

/// A sleep of this length means that the core was idle, unless much was to be done after it.
const IDLE: Duration = Duration::from_micros(200);
/// At most so many packets between two sleeps are little work: a ping, a request, not the middle of a transfer.
const LITTLE_PACKETS: u32 = 4;
/// Reads that come closer than this are dense: a wake-up for each would cost more than the read.
const DENSE: Duration = Duration::from_micros(20);
/// How long dense arrivals may gather while the worker sleeps, in microseconds.
const GATHER_US: u32 = 100;

const TAP: u32 = Slot::Tap as u32;
const UDP: u32 = Slot::Udp as u32;
const WAKE: u32 = 2;
const LEAVING: u32 = Slot::Leaving as u32;
/// Of each slot.
const SLOTS: usize = 4;
/// What the kernel takes for no file.
const NONE: RawFd = -1;
/// How long a poll may take to end once it is cancelled: it does so at once.
const CANCEL_WITHIN: types::Timespec = types::Timespec::new().sec(1);
/// `user_data` of a write is this bit and the number of frames in it; of a poll, the index of the descriptor.
const WRITE: u64 = 1 << 32;

/// Looks at the ring before a write is given up because those before it do not complete.
const DRAIN_LOOKS: usize = 16;

const _: () = assert!(IOVECS > FRAMES_MAX, "the largest write fits");

/// Waits and writes through a ring. A write is counted when its completion is looked at: where the worker sleeps on after it, with
/// the next thing that wakes it, at the latest the tick of a second.
pub struct UringIo {
    ring: IoUring,
    iovecs: Box<[libc::iovec]>,
    iovecs_used: usize,
    writes_in_flight: usize,
    /// What completions have said since `wait` was asked last.
    ready: Ready,
    /// Which slots have a file, and which of them are polled.
    present: [bool; SLOTS],
    polled: [bool; SLOTS],
    /// A poll that ends is not to begin again.
    quiet: bool,
    /// How long to look before sleeping.
    busy_poll: Duration,
    patience: Patience,
    /// When the last sleep began, and how long it was.
    slept_at: Instant,
    slept: Duration,
    /// The kernel can wait for a least time (Linux 6.12).
    can_gather: bool,
}

/// Whether to look before sleeping. It takes the core from whoever would make the answer there, and where the answer is always
/// later than we look it only takes time: so whoever looked in vain does so half as often.
#[derive(Debug, Default)]
struct Patience {
    /// Looks in vain since one that paid.
    vain: u32,
    /// Sleeps that go without.
    skip: u32,
}

impl Patience {
    /// Longest row of sleeps without a look is 2 to the power of this, less one.
    const VAIN_MAX: u32 = 6;

    fn may_look(&mut self) -> bool {
        let may = self.skip == 0;
        self.skip = self.skip.saturating_sub(1);
        may
    }

    fn looked(&mut self, paid: bool) {
        self.vain = if paid { 0 } else { (self.vain + 1).min(Self::VAIN_MAX) };
        self.skip = (1 << self.vain) - 1;
    }
}

/// Why io_uring cannot be used here, for people; `None` when it can.
pub fn obstacle() -> Option<String> {
    // On a thread that ends: the kernel interrupts whatever the maker of a ring waits in, some time after the ring was closed.
    match thread::Builder::new().spawn(obstacle_here).map(thread::JoinHandle::join) {
        Ok(Ok(obstacle)) => obstacle,
        Ok(Err(_)) => Some("the attempt panicked".into()),
        Err(error) => Some(format!("no thread can be made to try it: {error}")),
    }
}

fn obstacle_here() -> Option<String> {
    // Workers have another user and no capability, by which a kernel may let this one and not them.
    if let Err(error) = confinement::be_like_a_worker() {
        return Some(format!("a thread cannot give up its capabilities to try it: {error}"));
    }
    let error = match build(8).and_then(|ring| restrict(&ring).map(|()| ring)) {
        Ok(ring) => return missing_operation(&ring),
        Err(error) => error,
    };
    Some(match error.raw_os_error() {
        Some(libc::EPERM) => {
            "the kernel forbids it (sysctl kernel.io_uring_disabled and io_uring_group, or a seccomp filter of the container)"
                .into()
        }
        Some(libc::ENOSYS) => "the kernel has no io_uring, or a seccomp filter hides it".into(),
        Some(libc::ENOMEM) => "too little locked memory is allowed (raise LimitMEMLOCK or ulimit -l)".into(),
        Some(libc::EINVAL) => "the kernel is too old for single-issuer rings with deferred task work (Linux 6.1)".into(),
        _ => error.to_string(),
    })
}

fn missing_operation(ring: &IoUring) -> Option<String> {
    let mut probe = io_uring::Probe::new();
    if let Err(error) = ring.submitter().register_probe(&mut probe) {
        return Some(format!("the kernel does not say what it can do: {error}"));
    }
    OPERATIONS.into_iter().any(|code| !probe.is_supported(code)).then(|| "the kernel lacks an operation that is needed".into())
}

fn build(entries: u32) -> io::Result<IoUring> {
    IoUring::builder()
        .setup_single_issuer()
        .setup_coop_taskrun()
        .setup_defer_taskrun()
        // Without the flag a submission that does not wait would never run the deferred work, and polls would starve.
        .setup_taskrun_flag()
        .setup_submit_all()
        .setup_cqsize(entries * 2)
        // Until it is restricted.
        .setup_r_disabled()
        .build(entries)
}

/// Operations of a ring. Each is on a registered descriptor.
const OPERATIONS: [u8; 3] = [opcode::PollAdd::CODE, opcode::Write::CODE, opcode::Writev::CODE];
/// What is asked of a ring at its end (IORING_UNREGISTER_FILES, IORING_REGISTER_SYNC_CANCEL), before it is used (IORING_REGISTER_PROBE),
/// and when another file takes the place of one (IORING_REGISTER_FILES_UPDATE).
const REQUESTS: [u8; 4] = [3, 24, 8, 6];

/// Lets a ring do what it is for and nothing else, for good, and lets it begin, by the thread that calls.
fn restrict(ring: &IoUring) -> io::Result<()> {
    let fixed = squeue::Flags::FIXED_FILE.bits();
    let mut list: Vec<Restriction> = OPERATIONS.map(Restriction::sqe_op).into();
    list.extend(REQUESTS.map(Restriction::register_op));
    list.extend([Restriction::sqe_flags_allowed(fixed), Restriction::sqe_flags_required(fixed)]);
    ring.submitter().register_restrictions(&mut list)?;
    ring.submitter().register_enable_rings()
}

impl UringIo {
    /// To be called on the worker's thread: the ring belongs to the thread that makes it.
    pub fn new(descriptors: Descriptors, busy_poll: Duration) -> Result<UringIo, Failure> {
        let ring = build(ENTRIES).map_err(Failure::at(Place::Wait))?;
        let files: [RawFd; SLOTS] = [descriptors.tap, descriptors.udp, descriptors.wake, NONE];
        ring.submitter().register_files(&files).and_then(|()| restrict(&ring)).map_err(Failure::at(Place::Wait))?;
        let empty = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        let iovecs = vec![empty; IOVECS].into_boxed_slice();
        let mut io = UringIo {
            can_gather: ring.params().is_feature_min_timeout(),
            ring,
            iovecs,
            iovecs_used: 0,
            writes_in_flight: 0,
            ready: Ready::default(),
            present: files.map(|fd| fd != NONE),
            polled: [false; SLOTS],
            quiet: false,
            busy_poll,
            patience: Patience::default(),
            slept_at: Instant::now(),
            slept: Duration::ZERO,
        };
        for descriptor in [TAP, UDP, WAKE] {
            io.arm(descriptor)?;
        }
        Ok(io)
    }

    fn arm(&mut self, descriptor: u32) -> Result<(), Failure> {
        let entry = opcode::PollAdd::new(types::Fixed(descriptor), libc::POLLIN as u32).multi(true).build();
        self.polled[descriptor as usize] = true;
        self.push(&entry.user_data(descriptor.into()))
    }

    /// Queues an entry. There is room: at most `WRITES_MAX` writes and one poll for each descriptor are queued or in flight.
    fn push(&mut self, entry: &squeue::Entry) -> Result<(), Failure> {
        // SAFETY: what the entry points to stays valid and untouched until its completion (see the head of this file).
        let pushed = unsafe { self.ring.submission().push(entry) };
        pushed.map_err(|error| Failure { at: Place::Wait, error: io::Error::other(error) })
    }

    /// One io_uring_enter: submits what is queued and waits for `want` completions.
    fn submit(&mut self, want: usize) -> Result<(), Failure> {
        match self.ring.submit_and_wait(want) {
            Ok(_) => Ok(()),
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINTR | libc::EBUSY | libc::EAGAIN)) => Ok(()),
            Err(error) => Err(Failure { at: Place::Wait, error }),
        }
    }

    /// Looks for a while whether something becomes ready. True when it did.
    fn linger(&mut self, port: &mut Port) -> Result<bool, Failure> {
        self.submit(0)?;
        self.reap(port)?;
        let began = Instant::now();
        while !self.ready.any() && began.elapsed() < self.busy_poll {
            std::hint::spin_loop();
            self.look()?;
            self.reap(port)?;
        }
        Ok(self.ready.any())
    }

    /// Sleeps until something is ready, in the way that suits what was done since the last sleep.
    fn sleep(&mut self, work: Work, port: &mut Port) -> Result<(), Failure> {
        let now = Instant::now();
        let since = now - self.slept_at;
        if self.can_gather && since < DENSE * work.reads {
            self.gather()?;
        } else {
            // After a long sleep and little work the core is idle, and an answer need not wake it. A long sleep before much
            // work says only that others had the core.
            let idle = self.slept >= IDLE && work.packets <= LITTLE_PACKETS && !self.busy_poll.is_zero();
            if idle && self.patience.may_look() {
                let paid = self.linger(port)?;
                self.patience.looked(paid);
                if paid {
                    // Not the look for what may come after the answer, which has no reason to be soon.
                    (self.slept_at, self.slept) = (now, now.elapsed());
                    return Ok(());
                }
            }
            // Every write in flight completes first, and then one poll.
            self.submit(self.writes_in_flight + 1)?;
        }
        self.slept_at = now;
        self.slept = now.elapsed();
        Ok(())
    }

    /// Sleeps for a while even if something becomes ready, and on until something is.
    fn gather(&mut self) -> Result<(), Failure> {
        let args = types::SubmitArgs::new().min_wait_usec(GATHER_US);
        match self.ring.submitter().submit_with_args(COMPLETIONS as usize, &args) {
            Ok(_) => Ok(()),
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINTR | libc::EBUSY | libc::EAGAIN | libc::ETIME)) => Ok(()),
            Err(error) => Err(Failure { at: Place::Wait, error }),
        }
    }

    /// Enters the kernel if there is anything to do there: to submit, or to run what completed.
    fn look(&mut self) -> Result<(), Failure> {
        let queue = self.ring.submission();
        let idle = queue.is_empty() && !queue.taskrun() && !queue.cq_overflow();
        drop(queue);
        if idle { Ok(()) } else { self.submit(0) }
    }

    /// Submits until every write has completed; they do so while they are submitted. False when the kernel does not get on with
    /// them: then nothing that they point to may be touched.
    fn drain(&mut self, port: &mut Port) -> Result<bool, Failure> {
        for _ in 0..DRAIN_LOOKS {
            self.submit(0)?;
            self.reap(port)?;
            if self.writes_in_flight == 0 {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Takes all completions into account.
    fn reap(&mut self, port: &mut Port) -> Result<(), Failure> {
        while let Some(entry) = { self.ring.completion().next() } {
            self.complete(&entry, port)?;
        }
        if self.writes_in_flight == 0 {
            self.iovecs_used = 0;
        }
        Ok(())
    }

    /// A poll that ended is armed again; a write is counted.
    fn complete(&mut self, entry: &cqueue::Entry, port: &mut Port) -> Result<(), Failure> {
        if entry.user_data() & WRITE != 0 {
            self.writes_in_flight -= 1;
            return completed(entry.result(), entry.user_data() as u32, port);
        }
        let descriptor = entry.user_data() as u32;
        match descriptor {
            TAP => self.ready.tap = true,
            UDP => self.ready.udp = true,
            LEAVING => self.ready.leaving = true,
            _ => self.ready.wake = true,
        }
        if cqueue::more(entry.flags()) {
            return Ok(());
        }
        self.polled[descriptor as usize] = false;
        if self.quiet || !self.present[descriptor as usize] {
            return Ok(());
        }
        if entry.result() < 0 && entry.result() != -libc::ECANCELED {
            let at = match descriptor {
                TAP => Place::TapRead,
                UDP | LEAVING => Place::UdpReceive,
                _ => Place::Wait,
            };
            return Err(Failure { at, error: io::Error::from_raw_os_error(-entry.result()) });
        }
        self.arm(descriptor)
    }
}

impl std::ops::Drop for UringIo {
    /// A ring takes itself apart some time after it was closed, in a thread of the kernel that waits for RCU, and holds interface
    /// and port for as long. What comes next may want them at once, so they are let go of here.
    fn drop(&mut self) {
        let submitter = self.ring.submitter();
        // What fails here is only done later, by the kernel.
        let _ = submitter.register_sync_cancel(Some(types::Timespec::new().sec(1)), types::CancelBuilder::any());
        let _ = self.submit(0);
        let _ = self.ring.submitter().unregister_files();
    }
}

impl Io for UringIo {
    unsafe fn tap_write(&mut self, arena: &[u8], write: TapWrite<'_>, port: &mut Port) -> Result<(), Failure> {
        let full = self.writes_in_flight >= WRITES_MAX || self.iovecs_used + write.tails.len() >= IOVECS;
        if full && !self.drain(port)? {
            port.drop(Drop::TapFull, write.frames.into());
            return Ok(());
        }
        let data = WRITE | u64::from(write.frames);
        let entry = if write.tails.is_empty() {
            let bytes = &arena[write.head];
            opcode::Write::new(types::Fixed(TAP), bytes.as_ptr(), bytes.len() as u32).build()
        } else {
            let iovecs = &mut self.iovecs[self.iovecs_used..];
            let count = super::fill_iovecs(iovecs, arena, &write);
            let entry = opcode::Writev::new(types::Fixed(TAP), iovecs.as_ptr(), count as u32).build();
            self.iovecs_used += count;
            entry
        };
        self.push(&entry.user_data(data))?;
        self.writes_in_flight += 1;
        Ok(())
    }

    fn wait(&mut self, wait: Wait, port: &mut Port) -> Result<Ready, Failure> {
        match wait {
            // What was said to be ready while writes were submitted is reason not to sleep.
            _ if self.ready.any() => self.look()?,
            Wait::Look => self.look()?,
            Wait::Sleep(work) => self.sleep(work, port)?,
        }
        self.reap(port)?;
        Ok(std::mem::take(&mut self.ready))
    }

    fn idle(&self) -> bool {
        self.writes_in_flight == 0
    }

    /// What was submitted goes on with the file that it began with. All polls end first: before Linux 6.13, a file that was taken out stays
    /// open as long as any request of its time goes on.
    fn replace(&mut self, slot: Slot, fd: Option<RawFd>, port: &mut Port) -> Result<(), Failure> {
        self.quiet = true;
        let ended = self.end_polls(port);
        self.quiet = false;
        ended?;
        self.present[slot as usize] = fd.is_some();
        let updated = self.ring.submitter().register_files_update(slot as u32, &[fd.unwrap_or(NONE)]);
        updated.map_err(Failure::at(Place::Wait))?;
        for place in 0..SLOTS {
            // One whose end has not come yet begins again when it does.
            if self.present[place] && !self.polled[place] {
                self.arm(place as u32)?;
            }
        }
        Ok(())
    }
}

impl UringIo {
    fn end_polls(&mut self, port: &mut Port) -> Result<(), Failure> {
        self.submit(0)?;
        for place in 0..SLOTS {
            if !self.polled[place] {
                continue;
            }
            let poll = types::CancelBuilder::user_data(place as u64);
            match self.ring.submitter().register_sync_cancel(Some(CANCEL_WITHIN), poll) {
                // It has ended by itself.
                Err(error) if error.raw_os_error() != Some(libc::ENOENT) => return Err(Failure { at: Place::Wait, error }),
                _ => {}
            }
        }
        self.submit(0)?;
        self.reap(port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_looks_in_vain_looks_ever_less_until_it_pays_again() {
        let mut patience = Patience::default();
        let mut sleeps_without = |paid: bool| {
            let row = std::iter::repeat_with(|| patience.may_look()).take_while(|may| !may).count();
            patience.looked(paid);
            row
        };
        let rows: Vec<_> = (0..9).map(|_| sleeps_without(false)).collect();
        assert_eq!(rows, [0, 1, 3, 7, 15, 31, 63, 63, 63]);
        assert_eq!([sleeps_without(true), sleeps_without(true), sleeps_without(false)], [63, 0, 0]);
    }
}
