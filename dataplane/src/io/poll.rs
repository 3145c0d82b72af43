//! poll(2) and writev(2): works wherever Linux works.
//!
//! unsafe here: the two calls.

use std::io;
use std::os::fd::RawFd;

use adit_channel::Port;
use adit_proto::control::Place;

use super::{Descriptors, Failure, Io, Ready, Slot, TapWrite, Wait, completed};
use crate::tap::coalesce::FRAMES_MAX;

/// What poll(2) passes over.
const NONE: RawFd = -1;

/// Waits by poll(2), writes at once.
pub struct PollIo {
    watched: [libc::pollfd; 4],
    iovecs: Box<[libc::iovec]>,
}

impl PollIo {
    pub fn new(descriptors: Descriptors) -> PollIo {
        let watch = |fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        let empty = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        PollIo {
            watched: [watch(descriptors.tap), watch(descriptors.udp), watch(descriptors.wake), watch(NONE)],
            iovecs: vec![empty; FRAMES_MAX].into_boxed_slice(),
        }
    }
}

impl Io for PollIo {
    unsafe fn tap_write(&mut self, arena: &[u8], write: TapWrite<'_>, port: &mut Port) -> Result<(), Failure> {
        let count = super::fill_iovecs(&mut self.iovecs, arena, &write);
        // SAFETY: the first `count` iovecs point into `arena`, which outlives the call; the kernel only reads it.
        let written = unsafe { libc::writev(self.watched[0].fd, self.iovecs.as_ptr(), count as libc::c_int) };
        let result = if written < 0 { -io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO) } else { written as i32 };
        completed(result, write.frames, port)
    }

    fn wait(&mut self, wait: Wait, _port: &mut Port) -> Result<Ready, Failure> {
        let timeout_ms = if wait == Wait::Look { 0 } else { -1 };
        // SAFETY: the array has the length given.
        let ready = unsafe { libc::poll(self.watched.as_mut_ptr(), self.watched.len() as libc::nfds_t, timeout_ms) };
        if ready < 0 {
            let error = io::Error::last_os_error();
            return if error.kind() == io::ErrorKind::Interrupted {
                Ok(Ready::default())
            } else {
                Err(Failure { at: Place::Wait, error })
            };
        }
        // An error condition also makes a descriptor ready: the read that follows says which.
        let [tap, udp, wake, leaving] = self.watched.map(|watched| watched.revents != 0);
        Ok(Ready { tap, udp, wake, leaving })
    }

    fn idle(&self) -> bool {
        true
    }

    fn replace(&mut self, slot: Slot, fd: Option<RawFd>, _port: &mut Port) -> Result<(), Failure> {
        self.watched[slot as usize].fd = fd.unwrap_or(NONE);
        Ok(())
    }
}
