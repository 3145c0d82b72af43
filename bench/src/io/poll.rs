//! poll(2), then recvmmsg and sendmmsg until the socket is empty.

use std::io;
use std::mem::zeroed;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{SLOT_LEN, SLOTS};

pub fn relay(from: UdpSocket, to: UdpSocket, stop: &Arc<AtomicBool>) -> io::Result<()> {
    let mut buffers = vec![[0u8; SLOT_LEN]; SLOTS];
    // SAFETY: both structures are plain C data for which all zeros means "nothing".
    let (mut parts, mut headers): ([libc::iovec; SLOTS], [libc::mmsghdr; SLOTS]) = unsafe { (zeroed(), zeroed()) };
    while !stop.load(Ordering::Relaxed) {
        let mut ready = libc::pollfd { fd: from.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one pollfd, which outlives the call.
        check(unsafe { libc::poll(&raw mut ready, 1, 50) })?;
        loop {
            for slot in 0..SLOTS {
                parts[slot] = libc::iovec { iov_base: buffers[slot].as_mut_ptr().cast(), iov_len: SLOT_LEN };
                headers[slot].msg_hdr.msg_iov = &raw mut parts[slot];
                headers[slot].msg_hdr.msg_iovlen = 1;
            }
            // SAFETY: every header points to one part, and that to a buffer of its own of the stated length; all outlive the call.
            let received = check(unsafe {
                libc::recvmmsg(from.as_raw_fd(), headers.as_mut_ptr(), SLOTS as libc::c_uint, libc::MSG_DONTWAIT, ptr::null_mut())
            })?;
            for slot in 0..received {
                parts[slot].iov_len = headers[slot].msg_len as usize;
            }
            let mut sent = 0;
            while sent < received {
                // SAFETY: as above, with the lengths that were received; `sent` is below `received`, which is at most SLOTS.
                let done = unsafe {
                    libc::sendmmsg(
                        to.as_raw_fd(),
                        headers.as_mut_ptr().add(sent),
                        (received - sent) as libc::c_uint,
                        libc::MSG_DONTWAIT,
                    )
                };
                // A datagram that is refused is lost, as everywhere.
                sent += check(done)?.max(1);
            }
            if received < SLOTS {
                break;
            }
        }
    }
    Ok(())
}

/// "Nothing there", "nobody there" and "no room" count as 0.
fn check(status: libc::c_int) -> io::Result<usize> {
    if status >= 0 {
        return Ok(status as usize);
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::EINTR | libc::ECONNREFUSED | libc::ENOBUFS) => Ok(0),
        _ => Err(error),
    }
}
