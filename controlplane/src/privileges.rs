//! What the process gives up before its first thread: as root it has every capability, and needs few of them.
//!
//! | kept | for |
//! |---|---|
//! | CAP_NET_ADMIN | interface, addresses, routes, rules, marks and buffers of sockets |
//! | CAP_NET_BIND_SERVICE | UDP port 500 |
//! | CAP_DAC_READ_SEARCH, as root | files of the configuration that belong to another user, such as keys of the user `adit` |
//! | CAP_BPF, not as root, where it starts the data plane | for that to inherit; not in effect here |
//! | CAP_KILL, where it starts the data plane | to end one that hangs, which is another user's process |
//!
//! Raw sockets (CAP_NET_RAW) are opened before. A data plane that root has started gets its own capabilities anew from the kernel, out of
//! the bounding set: to make interface and sockets, to become its user, and to give all of it up. So no_new_privs is in force only where
//! another program starts the data plane.

use std::fmt;

use adit_channel::users;
use nix::unistd::{Gid, setgroups};
use rustix::io::{Errno, Result};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set, clear_ambient_capability_set,
    configure_capability_in_ambient_set, remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};

/// What the control plane works with.
const WORK: CapabilitySet = CapabilitySet::NET_ADMIN.union(CapabilitySet::NET_BIND_SERVICE);
/// What a data plane that root starts needs until it gives up everything: CAP_BPF for the program that chooses queues, where the system
/// lets nobody else load one, CAP_SYS_NICE for the weight of its session.
const OF_DATAPLANE: CapabilitySet = CapabilitySet::SETUID
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::BPF)
    .union(CapabilitySet::SYS_NICE);

/// What is left, for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Left {
    pub capabilities: CapabilitySet,
    pub no_new_privs: bool,
}

impl fmt::Display for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.capabilities.iter_names().map(|(name, _)| format!("CAP_{name}")).collect();
        f.write_str(if names.is_empty() { "no capabilities" } else { "capabilities " })?;
        f.write_str(&names.join(", "))?;
        f.write_str(if self.no_new_privs { ", no new privileges" } else { "" })
    }
}

/// Gives up what is not needed, for the calling thread and those that it makes. `starts_dataplane`: it may have to start one later.
///
/// # Errors
/// The kernel refuses: then more is left than should be.
pub fn drop(starts_dataplane: bool) -> Result<Left> {
    let is_root = rustix::process::geteuid().is_root();
    let kept = kept(is_root, starts_dataplane);
    let of_dataplane = match (starts_dataplane, is_root) {
        (false, _) => CapabilitySet::empty(),
        (true, true) => OF_DATAPLANE,
        (true, false) => CapabilitySet::BPF,
    };
    bound(kept | of_dataplane)?;
    let before = capabilities(None)?.permitted;
    let effective = before & kept;
    // A child of root has what it needs out of the bounding set, a child of somebody else has what is ambient, and that has to be permitted.
    let inherited = if starts_dataplane && !is_root { before & (kept | of_dataplane) } else { CapabilitySet::empty() };
    let permitted = effective | inherited;
    match clear_ambient_capability_set() {
        Ok(()) | Err(Errno::INVAL) => {}
        Err(error) => return Err(error),
    }
    set_capabilities(None, CapabilitySets { effective, permitted, inheritable: inherited })?;
    for one in inherited.iter() {
        configure_capability_in_ambient_set(one, true)?;
    }
    if !starts_dataplane {
        set_no_new_privs(true)?;
    }
    Ok(Left { capabilities: permitted, no_new_privs: rustix::thread::no_new_privs()? })
}

fn kept(is_root: bool, starts_dataplane: bool) -> CapabilitySet {
    let mut kept = WORK;
    kept.set(CapabilitySet::DAC_READ_SEARCH, is_root);
    kept.set(CapabilitySet::KILL, is_root && starts_dataplane);
    kept
}

/// Root without its capabilities is a user like others: what belongs to the group of both planes is to be open to it as to its members. For
/// all threads of the process, so to be called while there is one, and before [`drop`]. Nothing for other users.
pub fn join_group() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    // Without it, or where it is refused, only the socket of a data plane of that group is out of reach, which is told then.
    let _ = users::group().map(|group| setgroups(&[Gid::from_raw(group)]));
}

/// Takes all but these out of the bounding set; whoever may not (CAP_SETPCAP) had a service manager to do it.
fn bound(kept: CapabilitySet) -> Result<()> {
    for number in 0..u64::BITS {
        let one = CapabilitySet::from_bits_retain(1 << number);
        if kept.contains(one) {
            continue;
        }
        match capability_is_in_bounding_set(one) {
            // The kernel knows no such capability, nor any after it.
            Err(Errno::INVAL) => return Ok(()),
            Err(error) => return Err(error),
            Ok(false) => {}
            Ok(true) => match remove_capability_from_bounding_set(one) {
                Err(Errno::PERM) => return Ok(()),
                removed => removed?,
            },
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::thread;

    use rustix::process::Uid;
    use rustix::thread::{capability_is_in_ambient_set, set_keep_capabilities, set_thread_res_uid};

    use super::*;

    /// Capabilities belong to a thread: each test gives up its own.
    fn on_a_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
        thread::spawn(work).join().unwrap()
    }

    fn is_bounded(one: CapabilitySet) -> bool {
        !capability_is_in_bounding_set(one).unwrap()
    }

    #[test]
    fn one_that_starts_no_data_plane_keeps_what_it_works_with() {
        let (before, left) = on_a_thread(|| (capabilities(None).unwrap().permitted, drop(false).unwrap()));
        let root = rustix::process::geteuid().is_root();
        assert_eq!(left.capabilities, before & kept(root, false));
        assert!(left.no_new_privs && left.to_string().ends_with("no new privileges"), "{left}");
        assert!(!left.capabilities.intersects(CapabilitySet::KILL | CapabilitySet::SYS_ADMIN | CapabilitySet::SETUID));
    }

    #[test]
    fn one_that_starts_it_leaves_in_the_bounding_set_what_that_needs() {
        let (sets, ambient, bounded) = on_a_thread(|| {
            drop(true).unwrap();
            let ambient = rustix::thread::capability_is_in_ambient_set(CapabilitySet::NET_ADMIN).unwrap();
            let bounded = [CapabilitySet::SYS_ADMIN, CapabilitySet::SYS_MODULE, CapabilitySet::NET_RAW].map(is_bounded);
            (capabilities(None).unwrap(), ambient, bounded)
        });
        assert!(!sets.effective.intersects(OF_DATAPLANE));
        if rustix::process::geteuid().is_root() {
            assert_eq!(sets.effective, sets.permitted);
            assert_eq!((sets.inheritable, ambient, bounded), (CapabilitySet::empty(), false, [true; 3]));
        } else {
            assert_eq!(sets.inheritable, sets.permitted);
        }
    }

    #[test]
    fn a_data_plane_of_another_user_inherits_the_right_to_load_its_program() {
        let Some((had, left, sets, ambient)) = on_a_thread(|| {
            // Only root can try it; this thread alone becomes another user, with all capabilities.
            if !rustix::process::geteuid().is_root() {
                return None;
            }
            set_keep_capabilities(true).unwrap();
            let nobody = Uid::from_raw(65534);
            set_thread_res_uid(nobody, nobody, nobody).unwrap();
            let had = capabilities(None).unwrap().permitted;
            let left = drop(true).unwrap();
            let ambient = had.iter().filter(|one| capability_is_in_ambient_set(*one).unwrap()).collect::<CapabilitySet>();
            Some((had, left, capabilities(None).unwrap(), ambient))
        }) else {
            return;
        };
        let inherited = had & (WORK | CapabilitySet::BPF);
        assert_eq!((sets.effective, sets.permitted), (had & WORK, inherited));
        assert_eq!((sets.inheritable, ambient, left.capabilities), (inherited, inherited, inherited));
    }
}
