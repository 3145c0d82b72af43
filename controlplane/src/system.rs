//! The two requests to the system that need `unsafe`, and nothing else.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::setsid;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Watches a descriptor for being readable.
///
/// # Errors
/// The descriptor cannot be watched, or there is no tokio runtime.
pub fn watch(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd stays the same open descriptor until it is dropped, and the AsyncFd owns it until then.
    let watched = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
    watched.map_err(io::Error::from)
}

/// Has the program start in a session of its own, so that no signal of our terminal reaches it.
pub fn own_session(command: &mut Command) {
    // SAFETY: between fork and exec only setsid(2) is called, which is async-signal-safe and takes no memory.
    unsafe {
        command.pre_exec(|| setsid().map(|_| ()).map_err(io::Error::from));
    }
}
