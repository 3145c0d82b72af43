//! What the process gives up for good once everything is open, before the first packet: its user, every capability, new privileges,
//! files, and the system calls that it has no use for. Whoever takes it over by a packet has what the workers have, and no more.
//!
//! ```text
//!  open TAP, sockets, memory ─▶ drop: user, capabilities, files ─▶ workers start, make their rings ─▶ system calls ─▶ first packet
//!                                main thread, so that all inherit it                                    all threads at once
//! ```
//! Nothing is opened later: another address or interface is for another process. What the kernel cannot do is left out, and said in
//! the log and in `adit status`.

mod files;
mod syscalls;

use std::path::Path;

use adit_channel::{Protections, users};
use anyhow::{Context, Result};
use nix::unistd::{Uid, User, setgroups, setresgid, setresuid};
use rustix::io::Errno;
use rustix::thread::{CapabilitySet, CapabilitySets};

/// The user that a data plane becomes which is started as root, where there is such a user.
pub const USER: &str = users::DATA_PLANE;

/// Everything that is dropped by one thread before others are made: they inherit it.
///
/// # Errors
/// A capability is left: then nothing may run.
pub fn drop_privileges(socket: &Path, protections: &mut Protections) -> Result<()> {
    // A service manager that bounds the process itself may have left no right to do it, and without new privileges the set says nothing.
    let _ = empty_bounding_set();
    let user = become_user().context("looking for the user of the data plane")?;
    drop_capabilities().context("cannot give up the capabilities")?;
    rustix::thread::set_no_new_privs(true).context("cannot give up new privileges")?;
    match user {
        Identity::Became(name) => protections.hold(format!("user {name}")),
        Identity::Kept(uid) if uid.is_root() => protections.lack("a user of its own", &format!("there is no user {USER}")),
        Identity::Kept(uid) => protections.hold(format!("user {}", users::name(uid.as_raw()))),
        Identity::Refused(error) => protections.lack("a user of its own", &format!("it cannot become {USER}: {error}")),
    }
    protections.hold("no capabilities");
    protections.hold("no new privileges");
    match files::restrict(socket) {
        Ok(()) => protections.hold("landlock"),
        Err(why) => protections.lack("landlock", &why),
    }
    Ok(())
}

/// Allows all threads the system calls that forwarding needs, and no others.
pub fn restrict_system_calls(protections: &mut Protections) {
    match syscalls::restrict() {
        Ok(()) => protections.hold("seccomp"),
        Err(error) => protections.lack("seccomp", &error.to_string()),
    }
}

/// What the calling thread can do without a privilege: for trying whether the kernel lets workers do something.
pub fn drop_capabilities() -> rustix::io::Result<()> {
    match rustix::thread::clear_ambient_capability_set() {
        // Older than ambient capabilities (Linux 4.3).
        Ok(()) | Err(Errno::INVAL) => {}
        Err(error) => return Err(error),
    }
    let none = CapabilitySet::empty();
    rustix::thread::set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })
}

/// Takes every capability out of the bounding set: not even a program that is privileged by its file could get one.
fn empty_bounding_set() -> rustix::io::Result<()> {
    for number in 0..CapabilitySet::empty().bits().count_zeros() {
        let one = CapabilitySet::from_bits_retain(1 << number);
        match rustix::thread::capability_is_in_bounding_set(one) {
            // The kernel knows no such capability, nor any after it.
            Err(Errno::INVAL) => return Ok(()),
            Ok(true) => rustix::thread::remove_capability_from_bounding_set(one)?,
            Ok(false) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Who the process is.
enum Identity {
    Became(String),
    Kept(Uid),
    Refused(nix::Error),
}

/// Root becomes the user of the data plane, with that user's group and no other; everybody else stays who they are.
fn become_user() -> nix::Result<Identity> {
    let now = Uid::effective();
    if !now.is_root() {
        return Ok(Identity::Kept(now));
    }
    let Some(user) = User::from_name(USER)? else { return Ok(Identity::Kept(now)) };
    let switched = setgroups(&[])
        .and_then(|()| setresgid(user.gid, user.gid, user.gid))
        .and_then(|()| setresuid(user.uid, user.uid, user.uid));
    Ok(switched.map_or_else(Identity::Refused, |()| Identity::Became(user.name)))
}
