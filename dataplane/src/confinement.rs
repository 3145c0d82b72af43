//! What the process gives up for good once everything is open, before the first packet: its user, every capability, new privileges,
//! files, and the system calls that it has no use for. Whoever takes it over by a packet has what the workers have, and no more.
//!
//! ```text
//!  open TAP, sockets, memory ─▶ drop: user, capabilities, files ─▶ workers start, make their rings ─▶ system calls ─▶ first packet
//!                                main thread, so that all inherit it                                    all threads at once
//! ```
//! Nothing is opened later: sockets at another address, and an interface that was deleted, are handed over by the control plane
//! ([`crate::devices`]). What the kernel cannot do is left out, and said in the log and in `adit status`.

mod files;
mod syscalls;

use std::path::Path;

use adit_channel::{Protections, users};
use anyhow::{Context, Result};
use landlock::RulesetStatus;
use nix::unistd::{Uid, User, setgroups, setresgid, setresuid};
use rustix::io::Errno;
use rustix::thread::{CapabilitySet, CapabilitySets, set_thread_groups, set_thread_res_gid, set_thread_res_uid};

/// The user that a data plane becomes which is started as root, where there is such a user.
pub const USER: &str = users::DATA_PLANE;

/// What is missed most: where one of these is lacking, it is warned. A kernel that has part of one is not worth an alarm.
const ALARMING: [&str; 2] = [LANDLOCK, SECCOMP];
const LANDLOCK: &str = "landlock";
const SECCOMP: &str = "seccomp";

/// Everything that is dropped by one thread before others are made: they inherit it.
///
/// # Errors
/// A capability is left: then nothing may run.
pub fn drop_privileges(socket: &Path, protections: &mut Protections) -> Result<()> {
    // A service manager that bounds the process itself may have left no right to do it, and without new privileges the set says nothing.
    let _ = empty_bounding_set();
    // Another user may not come there.
    let places = files::Places::open(socket);
    let user = become_user();
    drop_capabilities().context("cannot give up the capabilities")?;
    rustix::thread::set_no_new_privs(true).context("cannot give up new privileges")?;
    match user {
        Identity::Became(name) => protections.hold(format!("user {name}")),
        Identity::Kept(uid) if uid.is_root() => protections.lack("a user of its own", &format!("there is no user {USER}")),
        Identity::Kept(uid) => protections.hold(format!("user {}", users::name(uid.as_raw()))),
        Identity::Unknown(error) => protections.lack("a user of its own", &format!("looking for {USER}: {error}")),
        Identity::Refused(error) => protections.lack("a user of its own", &format!("it cannot become {USER}: {error}")),
    }
    protections.hold("no capabilities");
    protections.hold("no new privileges");
    restrict_files(places, protections);
    Ok(())
}

fn restrict_files(places: files::Places, protections: &mut Protections) {
    for why in &places.closed {
        protections.lack("a way to make the channel's socket again", why);
    }
    match files::restrict(places) {
        Ok(RulesetStatus::FullyEnforced) => protections.hold(LANDLOCK),
        Ok(RulesetStatus::PartiallyEnforced) => {
            protections.hold("landlock for files");
            protections.lack("landlock for TCP and signals", "the kernel is too old for all of it, which Linux 6.12 has");
        }
        Ok(RulesetStatus::NotEnforced) => {
            protections.lack(LANDLOCK, "the kernel has none, or it is switched off (lsm= on its command line)");
        }
        Err(error) => protections.lack(LANDLOCK, &error.to_string()),
    }
}

/// What of the lacking is worth a warning, with its reasons.
pub fn alarm(protections: &Protections) -> Option<String> {
    let is_alarming =
        |lacking: &str| ALARMING.iter().any(|what| lacking.strip_prefix(what).is_some_and(|why| why.starts_with(" (")));
    let missed: Vec<&str> = protections.lacking.iter().map(String::as_str).filter(|lacking| is_alarming(lacking)).collect();
    if missed.is_empty() { None } else { Some(missed.join(", ")) }
}

/// Allows all threads the system calls that forwarding needs, and no others.
pub fn restrict_system_calls(protections: &mut Protections) {
    match syscalls::restrict() {
        Ok(()) => protections.hold(SECCOMP),
        Err(error) => protections.lack(SECCOMP, &error.to_string()),
    }
}

/// Makes the calling thread, and no other, what workers will be: for trying whether the kernel lets them do something.
pub fn be_like_a_worker() -> rustix::io::Result<()> {
    if let (true, Ok(Some(user))) = (Uid::effective().is_root(), User::from_name(USER)) {
        let (uid, gid) = (rustix::process::Uid::from_raw(user.uid.as_raw()), rustix::process::Gid::from_raw(user.gid.as_raw()));
        // Where it is refused, the workers stay root as well.
        let _ = set_thread_groups(&[])
            .and_then(|()| set_thread_res_gid(gid, gid, gid))
            .and_then(|()| set_thread_res_uid(uid, uid, uid));
    }
    drop_capabilities()
}

fn drop_capabilities() -> rustix::io::Result<()> {
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
    /// The machine does not say whether there is such a user, e.g. since a directory service is away. It stays who it is, as where there
    /// is none: a data plane that does not start forwards nothing.
    Unknown(nix::Error),
    Refused(nix::Error),
}

/// Root becomes the user of the data plane, with that user's group and no other; everybody else stays who they are.
fn become_user() -> Identity {
    let now = Uid::effective();
    if !now.is_root() {
        return Identity::Kept(now);
    }
    let user = match User::from_name(USER) {
        Ok(Some(user)) => user,
        Ok(None) => return Identity::Kept(now),
        Err(error) => return Identity::Unknown(error),
    };
    let switched = setgroups(&[])
        .and_then(|()| setresgid(user.gid, user.gid, user.gid))
        .and_then(|()| setresuid(user.uid, user.uid, user.uid));
    switched.map_or_else(Identity::Refused, |()| Identity::Became(user.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_missing_entirely_is_an_alarm() {
        let mut protections = Protections::default();
        protections.lack("landlock for TCP and signals", "the kernel is too old");
        protections.lack("a user of its own", "there is no user");
        assert_eq!(alarm(&protections), None);
        protections.lack(SECCOMP, "refused");
        protections.lack(LANDLOCK, "none");
        assert_eq!(alarm(&protections).unwrap(), "seccomp (refused), landlock (none)");
    }

    #[test]
    fn a_thread_that_tries_something_changes_no_other() {
        let tried = std::thread::spawn(|| {
            be_like_a_worker().unwrap();
            (rustix::thread::capabilities(None).unwrap().permitted, rustix::process::geteuid().as_raw())
        });
        let before = (rustix::thread::capabilities(None).unwrap().permitted, Uid::effective());
        let (permitted, uid) = tried.join().unwrap();
        let expected = User::from_name(USER).ok().flatten().filter(|_| before.1.is_root()).map_or(before.1, |user| user.uid);
        assert_eq!((permitted, uid), (CapabilitySet::empty(), expected.as_raw()));
        assert_eq!((rustix::thread::capabilities(None).unwrap().permitted, Uid::effective()), before);
    }
}
