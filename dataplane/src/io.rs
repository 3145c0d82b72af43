//! How a worker waits and writes: one narrow interface, two ways behind it.
//!
//! [`uring`]: multishot polls tell what is ready, TAP writes are queued and submitted by the very call that waits.
//! [`poll`]: poll(2) and writev(2), for kernels and containers that forbid io_uring, and as the yardstick.
//! Reads, receives and sends are direct calls in both: they are drained until `WouldBlock`, and a ring was measured to add
//! nothing to them (docs/ARCHITECTURE.md).
//!
//! unsafe here: the contract of [`Io::tap_write`].

pub mod poll;
pub mod uring;

use std::io;
use std::ops::Range;
use std::os::fd::RawFd;

use adit_channel::Port;
use adit_proto::control::Place;
use adit_proto::stats::{Count, Drop};

use crate::tap::coalesce::Piece;
use crate::tap::vnet;

/// A descriptor of a worker is gone: where that was noticed, and what the kernel said.
#[derive(Debug)]
pub struct Failure {
    pub at: Place,
    pub error: io::Error,
}

impl Failure {
    pub fn at(place: Place) -> impl Fn(io::Error) -> Failure {
        move |error| Failure { at: place, error }
    }
}

/// What a worker waits for.
#[derive(Clone, Copy)]
pub struct Descriptors {
    pub tap: RawFd,
    pub udp: RawFd,
    /// An eventfd: commands, batches and MAC-learning updates of other workers, the end.
    pub wake: RawFd,
}

/// A descriptor of a worker that another one may take the place of, while packets flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    Tap = 0,
    Udp = 1,
    /// The socket of before: peers that do not know the new one yet send there. There is none at first.
    Leaving = 3,
}

/// What became ready. A descriptor once said to be ready may be said only once: the worker remembers it until `WouldBlock`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ready {
    pub tap: bool,
    pub udp: bool,
    pub wake: bool,
    pub leaving: bool,
}

impl Ready {
    fn any(self) -> bool {
        self.tap || self.udp || self.wake || self.leaving
    }
}

/// Whether to sleep until something is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    Look,
    Sleep(Work),
}

/// What a worker took in between two sleeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Frames and super-frames read, datagrams and trains received.
    pub reads: u32,
    /// What these were made of: segments and datagrams.
    pub packets: u32,
}

impl Work {
    /// One more read of `packets` packets.
    #[inline]
    pub fn add(&mut self, packets: u64) {
        self.reads += 1;
        self.packets = self.packets.saturating_add(packets as u32);
    }

    /// The sum of both.
    pub fn and(self, other: Work) -> Work {
        Work { reads: self.reads + other.reads, packets: self.packets.saturating_add(other.packets) }
    }
}

/// A write to the TAP: pieces of the receive arena, in order; the first begins with the virtio-net header.
pub struct TapWrite<'a> {
    pub head: Range<usize>,
    /// What follows the head.
    pub tails: &'a [Piece],
    /// Frames that were coalesced into it.
    pub frames: u32,
}

/// The way in which a worker waits and writes. A failure is fatal to the worker.
pub trait Io {
    /// Writes to the TAP, or queues the write until `wait`; counts it when it has completed.
    ///
    /// # Safety
    /// The bytes of the write stay where they are in memory, and as they are, until `idle` is true or the I/O is dropped:
    /// until then the kernel may be asked to read them.
    unsafe fn tap_write(&mut self, arena: &[u8], write: TapWrite<'_>, port: &mut Port) -> Result<(), Failure>;
    /// Submits what is queued; says what is ready.
    fn wait(&mut self, wait: Wait, port: &mut Port) -> Result<Ready, Failure>;
    /// True when no queued write still needs the arena.
    fn idle(&self) -> bool;
    /// Waits for another descriptor in the place of one, or for none.
    fn replace(&mut self, slot: Slot, fd: Option<RawFd>, port: &mut Port) -> Result<(), Failure>;
}

/// Counts a write that has completed, by what the kernel answered: the bytes that it took, or an error below zero.
#[inline]
fn completed(result: i32, frames: u32, port: &mut Port) -> Result<(), Failure> {
    if result < 0 {
        return refused(-result, frames, port);
    }
    port.count(Count::TapWrites, 1);
    port.count(Count::TapWrittenFrames, frames.into());
    port.count(Count::TapWrittenBytes, (result as u64).saturating_sub(vnet::LEN as u64));
    Ok(())
}

/// Counts a write that the TAP did not take, unless nothing can be written there.
#[cold]
fn refused(errno: i32, frames: u32, port: &mut Port) -> Result<(), Failure> {
    let why = match errno {
        libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM => Drop::TapFull,
        // One that was deleted is noticed where it is read.
        libc::EIO | libc::ENETDOWN | libc::EBADFD | libc::EBADF | libc::ENODEV => Drop::TapDown,
        libc::EINVAL | libc::EMSGSIZE | libc::E2BIG => Drop::TapRefused,
        _ => return Err(Failure { at: Place::TapWrite, error: io::Error::from_raw_os_error(errno) }),
    };
    port.drop(why, frames.into());
    Ok(())
}

/// Describes a write for the kernel; returns the number of iovecs. `iovecs` holds as many as a write can have pieces.
fn fill_iovecs(iovecs: &mut [libc::iovec], arena: &[u8], write: &TapWrite<'_>) -> usize {
    let pieces = std::iter::once(write.head.clone())
        .chain(write.tails.iter().map(|piece| piece.at as usize..piece.at as usize + piece.len as usize));
    let mut count = 0;
    for (iovec, piece) in iovecs.iter_mut().zip(pieces) {
        let bytes = &arena[piece];
        *iovec = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        count += 1;
    }
    count
}
