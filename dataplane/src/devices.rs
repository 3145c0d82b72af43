//! Devices that come while packets flow. The control plane has opened them, for this process can open none any more: the main thread
//! looks whether they are what they should be, and puts one into the mailbox of each worker, which takes it between two turns.
//!
//! unsafe here: the question what an interface a descriptor is a queue of.

use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};

use adit_channel::Devices;
use adit_proto::control::{Mode, Offloads};
use crossbeam::queue::ArrayQueue;
use socket2::{Domain, Protocol, Socket, Type};

use crate::limits::OLD_DEVICES_MAX;
use crate::tap::Attached;
use crate::udp::UdpSocket;

/// `TUNGETIFF`: _IOR('T', 210, unsigned int).
pub const TUNGETIFF: libc::c_ulong = 0x8004_54d2;

/// A device of a worker.
pub enum Device {
    /// `None`: the worker had none.
    Queue(Option<Attached>),
    Socket(Box<UdpSocket>),
}

/// Between the main thread and a worker.
pub struct Mailbox {
    new: ArrayQueue<Device>,
    /// What the worker has no use for any more. To close an interface waits for locks of the kernel, which no worker may do.
    old: ArrayQueue<Device>,
    taken: AtomicU64,
}

impl Default for Mailbox {
    fn default() -> Mailbox {
        Mailbox { new: ArrayQueue::new(1), old: ArrayQueue::new(OLD_DEVICES_MAX), taken: AtomicU64::new(0) }
    }
}

impl Mailbox {
    /// Puts a device there; false while the worker has not taken the one before.
    pub fn put(&self, device: Device) -> bool {
        self.new.push(device).is_ok()
    }

    /// For the worker: a device to use from now on.
    pub fn take(&self) -> Option<Device> {
        self.new.pop()
    }

    /// For the worker: it uses what it took.
    pub fn taken(&self) {
        self.taken.fetch_add(1, Ordering::Release);
    }

    /// How many devices the worker has taken.
    pub fn count_taken(&self) -> u64 {
        self.taken.load(Ordering::Acquire)
    }

    /// For the worker: has a device closed by somebody else.
    pub fn put_aside(&self, device: Device) {
        // Where there is no room, it is closed here.
        let _ = self.old.push(device);
    }

    /// Closes what the worker has put aside.
    pub fn close_old(&self) {
        while self.old.pop().is_some() {}
    }
}

/// What devices have to be like.
#[derive(Clone, Debug)]
pub struct Expected {
    pub mode: Mode,
    /// Name of the interface.
    pub tap: String,
    pub offloads: Offloads,
    /// Sockets are IPv6: the addresses of all peers are kept in that form.
    pub mapped: bool,
    pub workers: usize,
}

impl Expected {
    /// Takes descriptors for devices of this kind, one for each worker.
    ///
    /// # Errors
    /// One of them is something else; for people.
    pub fn judge(&self, devices: &Devices, fds: Vec<OwnedFd>) -> Result<Vec<Device>, String> {
        if fds.len() != self.workers {
            return Err(format!("{} descriptors for {} workers", fds.len(), self.workers));
        }
        match devices {
            Devices::Sockets { listen } => fds.into_iter().map(|fd| self.socket(*listen, fd)).collect(),
            Devices::Queues { offloads, .. } if *offloads != self.offloads => {
                Err(format!("the interface takes {offloads:?} and not {:?}", self.offloads))
            }
            Devices::Queues { index, .. } => fds.into_iter().map(|fd| self.queue(fd, *index)).collect(),
        }
    }

    fn socket(&self, listen: SocketAddr, fd: OwnedFd) -> Result<Device, String> {
        let socket = Socket::from(fd);
        let unknown = |error: std::io::Error| format!("what should be a UDP socket: {error}");
        let kind = (socket.r#type().map_err(unknown)?, socket.protocol().map_err(unknown)?);
        if kind != (Type::DGRAM, Some(Protocol::UDP)) {
            return Err("what should be a UDP socket is another one".to_owned());
        }
        if (socket.domain().map_err(unknown)? == Domain::IPV6) != self.mapped {
            return Err("a socket of the other version of IP".to_owned());
        }
        let bound = socket.local_addr().map_err(unknown)?.as_socket();
        if bound != Some(listen) {
            return Err(format!("a socket is bound to {bound:?} and not to {listen}"));
        }
        socket.set_nonblocking(true).map_err(unknown)?;
        UdpSocket::adopt(socket).map(Box::new).map(Device::Socket).map_err(unknown)
    }

    fn queue(&self, fd: OwnedFd, index: u32) -> Result<Device, String> {
        let (name, flags) = interface_of(fd.as_raw_fd()).map_err(|error| format!("what should be a queue: {error}"))?;
        if name != self.tap {
            return Err(format!("a queue of {name} and not of {}", self.tap));
        }
        let kind = if self.mode == Mode::Ethernet { libc::IFF_TAP } else { libc::IFF_TUN };
        let wanted = kind | libc::IFF_NO_PI | libc::IFF_VNET_HDR | libc::IFF_MULTI_QUEUE;
        let looked_at = libc::IFF_TAP | libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR | libc::IFF_MULTI_QUEUE;
        if libc::c_int::from(flags) & looked_at != wanted {
            return Err(format!("a queue with flags {flags:#x}, where {wanted:#x} are needed"));
        }
        adit_devices::interface::never_block(&fd).map_err(|error| format!("a queue: {error}"))?;
        Ok(Device::Queue(Some(Attached { fd, index })))
    }
}

/// Name and flags of the interface that a descriptor is a queue of.
fn interface_of(fd: RawFd) -> std::io::Result<(String, u16)> {
    // SAFETY: all zeros are a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // SAFETY: the driver of TAPs writes an ifreq to the pointer; any other refuses the number.
    if unsafe { libc::ioctl(fd, TUNGETIFF as _, &raw mut request) } < 0 {
        return Err(std::io::Error::last_os_error());
    }
    let name = request.ifr_name.iter().take_while(|byte| **byte != 0).map(|byte| *byte as u8 as char).collect();
    // SAFETY: the driver has filled the flags.
    Ok((name, unsafe { request.ifr_ifru.ifru_flags } as u16))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expected() -> Expected {
        let offloads = Offloads { tso: true, uso: true };
        Expected { mode: Mode::Ethernet, tap: "adit0".into(), offloads, mapped: false, workers: 1 }
    }

    fn refusal(devices: Devices, fd: impl Into<OwnedFd>) -> String {
        expected().judge(&devices, vec![fd.into()]).err().expect("a refusal")
    }

    #[test]
    fn what_is_no_such_device_is_refused_and_said() {
        let listen: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let udp = || std::net::UdpSocket::bind(listen).unwrap();
        let sockets = Devices::Sockets { listen };
        let queues = Devices::Queues { offloads: expected().offloads, index: 7 };
        let pipe = || std::io::pipe().unwrap().0;
        assert!(refusal(sockets, pipe()).contains("what should be a UDP socket"));
        assert!(refusal(sockets, std::net::TcpListener::bind(listen).unwrap()).contains("another one"));
        assert!(refusal(sockets, std::net::UdpSocket::bind("[::1]:0").unwrap()).contains("other version of IP"));
        assert!(refusal(sockets, udp()).contains("bound to"));
        for fd in [OwnedFd::from(pipe()), udp().into(), tempfile::tempfile().unwrap().into()] {
            assert!(refusal(queues, fd).contains("what should be a queue"));
        }
        let plain = Devices::Queues { offloads: Offloads::default(), index: 7 };
        assert!(refusal(plain, pipe()).contains("takes"));
        let two = expected().judge(&sockets, vec![pipe().into(), pipe().into()]);
        assert_eq!(two.err().unwrap(), "2 descriptors for 1 workers");
        let socket = udp();
        let at = socket.local_addr().unwrap();
        let taken = expected().judge(&Devices::Sockets { listen: at }, vec![socket.into()]).unwrap();
        assert!(matches!(&taken[..], [Device::Socket(_)]));
    }
}
