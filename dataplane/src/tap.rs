//! The TAP, or the TUN that takes its place in IP mode: one queue per worker, super-frames both ways.
//!
//! A worker reads and writes the queue's descriptor itself, because io_uring needs it raw. unsafe here: that read and its counterpart,
//! and the kernel's version.

pub mod coalesce;
pub mod headers;
pub mod split;
pub mod steering;
pub mod vnet;

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use adit_devices::interface::{self, Queue};
use adit_proto::control::{Mac, Mode, Offloads};
use anyhow::Result;

use coalesce::Limits;
use steering::Program;

/// A queue, and the interface that it is of, by its index in the kernel: another one may come to have its name.
pub struct Attached {
    pub fd: OwnedFd,
    pub index: u32,
}

/// One queue of the TAP or TUN; or none, while somebody has deleted the interface.
pub struct TapQueue {
    queue: Option<Attached>,
    /// The super-frames that the kernel takes.
    pub limits: Limits,
}

/// A TAP or TUN with its queues; the interface lives as long as one of them is open.
pub struct Tap {
    pub queues: Vec<TapQueue>,
    /// All zeros for a TUN.
    pub mac: Mac,
    /// What chooses the queue of a frame, of several; why the driver does where that is an error.
    pub steering: Option<io::Result<Program>>,
}

/// Creates the interface, down and without addresses, with `queues` queues. A TUN takes no MAC address.
///
/// # Errors
/// As of [`interface::create`].
pub fn create(mode: Mode, name: &str, mac: Option<Mac>, mtu: u16, queues: usize) -> Result<Tap> {
    let made = interface::create(mode, name, mac, mtu, queues)?;
    let steering = match made.queues.first() {
        Some(first) if made.queues.len() > 1 => {
            Some(Program::load(mode).and_then(|program| program.attach(first.fd.as_fd()).map(|()| program)))
        }
        _ => None,
    };
    let queues = made.queues.into_iter().map(|queue| TapQueue::new(queue, made.index)).collect();
    Ok(Tap { queues, mac: made.mac, steering })
}

/// Whether an error of a queue says that its interface was deleted.
pub fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EBADFD | libc::EBADF | libc::ENODEV))
}

impl TapQueue {
    fn new(queue: Queue, index: u32) -> TapQueue {
        // Linux 6.9 raised UDP_MAX_SEGMENTS from 64 to 128; a longer super-frame would vanish without a word.
        let uso_frames = if kernel_version() >= (6, 9) { 128 } else { 64 };
        let Offloads { tso, uso } = queue.offloads;
        TapQueue { queue: Some(Attached { fd: queue.fd, index }), limits: Limits { tso, uso, uso_frames } }
    }

    /// -1 while there is none.
    pub fn raw_fd(&self) -> RawFd {
        self.queue.as_ref().map_or(-1, |queue| queue.fd.as_raw_fd())
    }

    /// Whether the interface is there, as far as it is known.
    pub fn is_there(&self) -> bool {
        self.queue.is_some()
    }

    /// The index of the interface in the kernel; 0 while there is none.
    pub fn index(&self) -> u32 {
        self.queue.as_ref().map_or(0, |queue| queue.index)
    }

    /// Takes another queue, or none, in the place of this one, which comes back: to close it may take a while.
    pub fn replace(&mut self, queue: Option<Attached>) -> Option<Attached> {
        std::mem::replace(&mut self.queue, queue)
    }

    /// Reads one frame or super-frame, virtio-net header first. `WouldBlock` when there is none.
    #[inline]
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        // SAFETY: pointer and length describe `buffer`.
        let len = unsafe { libc::read(self.raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) };
        if len < 0 { Err(io::Error::last_os_error()) } else { Ok(len as usize) }
    }

    /// Writes one frame at once, virtio-net header first: for the few that do not come from a peer.
    pub fn write(&self, frame: &[u8]) -> io::Result<()> {
        // SAFETY: pointer and length describe `frame`.
        let len = unsafe { libc::write(self.raw_fd(), frame.as_ptr().cast(), frame.len()) };
        if len < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

/// Major and minor version of the running kernel; (0, 0) when it does not say.
fn kernel_version() -> (u32, u32) {
    // SAFETY: an all-zero utsname is valid, and uname fills it with terminated strings.
    let release = unsafe {
        let mut names: libc::utsname = std::mem::zeroed();
        if libc::uname(&raw mut names) != 0 {
            return (0, 0);
        }
        std::ffi::CStr::from_ptr(names.release.as_ptr()).to_string_lossy().into_owned()
    };
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}
