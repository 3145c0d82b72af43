//! The TAP, or the TUN that takes its place in IP mode: created with a queue for each worker, and the offloads switched on.
//!
//! unsafe here: descriptors that tun-rs gives up, their flags, and the question whether a name is taken.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};

use adit_proto::control::{Mac, Mode, Offloads};
use anyhow::{Context, Result, bail};
use tun_rs::{DeviceBuilder, Layer, SyncDevice};

/// One queue of the TAP or TUN. It never blocks.
#[derive(Debug)]
pub struct Queue {
    pub fd: OwnedFd,
    /// The super-frames that the kernel takes.
    pub offloads: Offloads,
}

/// A TAP or TUN with its queues; it lives as long as one of them is open.
#[derive(Debug)]
pub struct Interface {
    pub queues: Vec<Queue>,
    /// All zeros for a TUN.
    pub mac: Mac,
    /// By which the kernel knows it: another one may come to have its name.
    pub index: u32,
}

/// TAP or TUN.
pub const fn kind(mode: Mode) -> &'static str {
    match mode {
        Mode::Ethernet => "TAP",
        Mode::Ip => "TUN",
    }
}

/// Creates the interface, down and without addresses, with `queues` queues. A TUN takes no MAC address.
pub fn create(mode: Mode, name: &str, mac: Option<Mac>, mtu: u16, queues: usize) -> Result<Interface> {
    let kind = kind(mode);
    // Opening a multi-queue interface that exists would share it with whoever made it.
    if exists(name) {
        bail!(
            "cannot create {kind} {name}: an interface of this name exists; remove it (ip link del {name}) or choose another interface.name"
        );
    }
    let layer = match mode {
        Mode::Ethernet => Layer::L2,
        Mode::Ip => Layer::L3,
    };
    let builder = DeviceBuilder::new().name(name).layer(layer).mtu(mtu).enable(false).with(|options| {
        options.offload(true).multi_queue(true).packet_information(false);
    });
    let builder = match mac {
        Some(mac) if mode == Mode::Ethernet => builder.mac_addr(mac),
        _ => builder,
    };
    let first = match builder.build_sync() {
        Ok(device) => device,
        Err(error) => bail!(explain(kind, name, &error)),
    };
    let mac = match mode {
        Mode::Ethernet => first.mac_address().with_context(|| format!("cannot read the MAC address of {name}"))?,
        Mode::Ip => Mac::default(),
    };
    let index = index_of(name);
    let mut devices = vec![first];
    for queue in 1..queues {
        let next = devices[0].try_clone().with_context(|| format!("cannot open queue {queue} of {name}"))?;
        devices.push(next);
    }
    // Whoever deleted it meanwhile may have given its name to another one, which later queues would be of.
    let is_ours = |device: &SyncDevice| device.name().is_ok_and(|its| its == name);
    if index == 0 || !devices.iter().all(is_ours) || index_of(name) != index {
        bail!("{kind} {name} was deleted as soon as it was made");
    }
    let queues = devices.into_iter().map(take).collect::<Result<_>>()?;
    Ok(Interface { queues, mac, index })
}

fn take(device: SyncDevice) -> Result<Queue> {
    device.set_nonblocking(true).context("cannot make the interface non-blocking")?;
    let offloads = Offloads { tso: device.tcp_gso(), uso: device.udp_gso() };
    // SAFETY: `into_raw_fd` gives up the descriptor, which nothing else holds.
    let fd = unsafe { OwnedFd::from_raw_fd(device.into_raw_fd()) };
    Ok(Queue { fd, offloads })
}

fn explain(kind: &str, name: &str, error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENXIO | libc::ENODEV | libc::ENOTTY) => format!(
            "cannot create {kind} {name}: /dev/net/tun is missing or has no driver; load it (modprobe tun) or give it to the \
             container (--device /dev/net/tun)"
        ),
        Some(libc::EPERM | libc::EACCES) => {
            format!("cannot create {kind} {name}: not permitted; run as root or with CAP_NET_ADMIN, and let it open /dev/net/tun")
        }
        Some(libc::EBUSY) => format!(
            "cannot create {kind} {name}: an interface of this name is in use; stop its owner or choose another interface.name"
        ),
        Some(libc::EINVAL) => format!(
            "cannot create {kind} {name}: an interface of this name exists and is no multi-queue {kind}; remove it (ip link del \
             {name}) or choose another interface.name"
        ),
        _ if error.kind() == io::ErrorKind::NotADirectory => {
            format!("cannot create {kind} {name}: /dev/net/tun cannot be opened: {error}")
        }
        _ => format!("cannot create {kind} {name}: {error}"),
    }
}

/// Whether there is an interface of this name.
pub fn exists(name: &str) -> bool {
    index_of(name) != 0
}

/// The index of the interface with this name; 0 where there is none.
fn index_of(name: &str) -> u32 {
    // SAFETY: the name is terminated and only read.
    std::ffi::CString::new(name).map_or(0, |name| unsafe { libc::if_nametoindex(name.as_ptr()) })
}

/// Has reads and writes of a descriptor never wait.
///
/// # Errors
/// What the kernel says.
pub fn never_block(fd: &OwnedFd) -> io::Result<()> {
    // SAFETY: plain calls on an open descriptor.
    let set = unsafe {
        let flags = libc::fcntl(fd.as_raw_fd(), libc::F_GETFL);
        flags >= 0 && libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK) == 0
    };
    if set { Ok(()) } else { Err(io::Error::last_os_error()) }
}
