//! The TAP, or the TUN that takes its place in IP mode: one queue per worker, super-frames both ways.
//!
//! tun-rs creates the interface and switches the offloads on; a worker reads and writes the queue's descriptor itself,
//! because io_uring needs it raw. unsafe here: that read and its counterpart, and the kernel's version.

pub mod coalesce;
pub mod headers;
pub mod split;
pub mod steering;
pub mod vnet;

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};

use adit_proto::control::{Mac, Mode};
use anyhow::{Context, Result, bail};
use tun_rs::{DeviceBuilder, Layer, SyncDevice};

use coalesce::Limits;

/// One queue of the TAP or TUN.
pub struct TapQueue {
    fd: OwnedFd,
    /// The super-frames that the kernel takes.
    pub limits: Limits,
}

/// A TAP or TUN with its queues; the interface lives as long as one of them is open.
pub struct Tap {
    pub queues: Vec<TapQueue>,
    /// All zeros for a TUN.
    pub mac: Mac,
    /// Why the driver and not our program chooses the queue of a frame.
    pub steering_obstacle: Option<io::Error>,
}

/// TAP or TUN.
pub const fn kind(mode: Mode) -> &'static str {
    match mode {
        Mode::Ethernet => "TAP",
        Mode::Ip => "TUN",
    }
}

/// Creates the interface, down and without addresses, with `queues` queues. A TUN takes no MAC address.
pub fn create(mode: Mode, name: &str, mac: Option<Mac>, mtu: u16, queues: usize) -> Result<Tap> {
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
    let mut devices = vec![first];
    for queue in 1..queues {
        let next = devices[0].try_clone().with_context(|| format!("cannot open queue {queue} of {name}"))?;
        devices.push(next);
    }
    let queues: Vec<TapQueue> = devices.into_iter().map(TapQueue::take).collect::<Result<_>>()?;
    let steering = match queues.first() {
        Some(first) if queues.len() > 1 => steering::attach(mode, first.fd.as_fd()).err(),
        _ => None,
    };
    Ok(Tap { queues, mac, steering_obstacle: steering })
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

impl TapQueue {
    fn take(device: SyncDevice) -> Result<TapQueue> {
        device.set_nonblocking(true).context("cannot make the interface non-blocking")?;
        // Linux 6.9 raised UDP_MAX_SEGMENTS from 64 to 128; a longer super-frame would vanish without a word.
        let uso_frames = if kernel_version() >= (6, 9) { 128 } else { 64 };
        let limits = Limits { tso: device.tcp_gso(), uso: device.udp_gso(), uso_frames };
        // SAFETY: `into_raw_fd` gives up the descriptor, which nothing else holds.
        let fd = unsafe { OwnedFd::from_raw_fd(device.into_raw_fd()) };
        Ok(TapQueue { fd, limits })
    }

    pub fn raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// Reads one frame or super-frame, virtio-net header first. `WouldBlock` when there is none.
    #[inline]
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        // SAFETY: pointer and length describe `buffer`.
        let len = unsafe { libc::read(self.fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) };
        if len < 0 { Err(io::Error::last_os_error()) } else { Ok(len as usize) }
    }

    /// Writes one frame at once, virtio-net header first: for the few that do not come from a peer.
    pub fn write(&self, frame: &[u8]) -> io::Result<()> {
        // SAFETY: pointer and length describe `frame`.
        let len = unsafe { libc::write(self.fd.as_raw_fd(), frame.as_ptr().cast(), frame.len()) };
        if len < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

/// Whether there is an interface of this name.
pub fn exists(name: &str) -> bool {
    // SAFETY: the name is terminated and only read.
    std::ffi::CString::new(name).is_ok_and(|name| unsafe { libc::if_nametoindex(name.as_ptr()) } != 0)
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
