//! UDP port 500, on which IKE begins without NAT traversal, for peers that know no other one. Everything else goes through the
//! port that the data plane owns.
//!
//! What comes is taken by a task of its own ([`receiver`]), which judges it as a worker does on the port of the data.

mod receiver;

use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::os::fd::AsRawFd;
use std::sync::Arc;

use adit_engine::path::{Arrival, IKE_PORT, UdpHop};
use adit_proto::control::Command;
use nix::libc;
use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrStorage, sendmsg, setsockopt, sockopt};
use socket2::SockRef;
use tokio::net::UdpSocket;

use self::receiver::{Datagram, Gate, Receiver};
use crate::numbers::SocketNumbers;

use crate::config::endpoint::PORT_DEFAULT;
use crate::config::{Config, Peer};
use crate::routing_rules;

/// Datagrams taken in one turn of the loop.
const SHARE: usize = 64;
/// Receive buffer in bytes, as far as the machine allows it: a tenth of a second of a flood of short datagrams.
const BUFFER: usize = 4 << 20;

/// The port as the configuration wants it: open, or tried again.
pub struct Port500 {
    gate: Gate,
    /// Taken when it was ready, and not looked at yet.
    first: Option<Datagram>,
    open: Option<Open>,
    /// Where it is open, or should be.
    address: Option<SocketAddr>,
    /// Why it is not open, once that was said.
    complaint: Option<String>,
}

/// The socket.
struct Open {
    socket: Arc<UdpSocket>,
    is_ipv6: bool,
    receiver: Receiver,
}

impl Port500 {
    /// One that is not open yet, for so many peers.
    pub fn new(peers: usize, numbers: Arc<SocketNumbers>) -> Port500 {
        Port500 { gate: Gate::new(peers, numbers), first: None, open: None, address: None, complaint: None }
    }

    /// The data plane is another one, with room for so many peers: it is told anew whose messages come first, and so is this.
    pub fn make_room(&mut self, peers: usize) {
        self.gate.make_room(peers);
    }

    /// The data plane is told whose messages come first; it is the same here.
    pub fn note(&self, command: &Command) {
        self.gate.note(command);
    }

    /// Opens it where it makes sense and is free, and closes it where it makes none. What cannot be done is said once.
    pub async fn keep(&mut self, config: &Config) {
        // Who begins at 500 goes on at 4500 (RFC 7296 §2.23).
        let begins_here = |peer: &Peer| peer.endpoints.iter().any(|endpoint| endpoint.port == IKE_PORT);
        let mut by_ike = config.peers.iter().filter(|peer| peer.ike().is_some());
        let used = by_ike.any(|peer| config.listen.port() == PORT_DEFAULT || begins_here(peer));
        let address = used.then(|| SocketAddr::new(config.listen.ip(), IKE_PORT));
        if self.address != address {
            (self.address, self.first, self.open, self.complaint) = (address, None, None, None);
        }
        let Some(address) = self.address.filter(|_| self.open.is_none()) else { return };
        match Open::bind(address, self.gate.clone()).and_then(Open::mark) {
            Ok(open) => {
                if self.complaint.take().is_some() {
                    tracing::info!("UDP {address} is open");
                }
                self.open = Some(open);
            }
            Err(error) => {
                let remedy = match error.kind() {
                    std::io::ErrorKind::AddrInUse => "Stop the program that has it (ss -ulnp shows it)",
                    std::io::ErrorKind::AddrNotAvailable => "No interface of this machine has the address in `listen`",
                    _ => "Ports below 1024 need root, or the capability CAP_NET_BIND_SERVICE",
                };
                let line = format!(
                    "UDP {address} cannot be opened ({error}): peers that begin on port 500, as strongSwan does unless told \
                     otherwise, cannot connect to us. {remedy}"
                );
                if self.complaint.as_ref() != Some(&line) {
                    tracing::warn!("{line}");
                }
                self.complaint = Some(line);
            }
        }
    }

    /// Waits until something can be taken; for ever, while it is not open.
    pub async fn ready(&mut self) {
        if self.first.is_some() {
            return;
        }
        // The task ends with the socket alone.
        self.first = match &mut self.open {
            Some(open) => open.receiver.datagrams.recv().await,
            None => std::future::pending().await,
        };
    }

    /// Takes what has come, no more than a share of it.
    pub fn take(&mut self, mut each: impl FnMut(Arrival, &[u8])) {
        let open = &mut self.open;
        let waiting = std::iter::from_fn(|| open.as_mut()?.receiver.datagrams.try_recv().ok());
        self.first.take().into_iter().chain(waiting).take(SHARE).for_each(|(came, datagram)| each(came, &datagram));
    }

    /// Sends a datagram. One that is lost, or for which it is not open, is sent again.
    pub fn send(&self, hop: &UdpHop, payload: &[u8]) {
        if let Some(open) = &self.open {
            self.gate.sent(payload);
            open.send(hop, payload);
        }
    }
}

impl Open {
    /// Datagrams come with the address and interface that they were sent to, so that answers leave from there, and with their class.
    fn bind(address: SocketAddr, gate: Gate) -> io::Result<Open> {
        let socket = std::net::UdpSocket::bind(address)?;
        socket.set_nonblocking(true)?;
        let is_ipv6 = address.is_ipv6();
        if is_ipv6 {
            // For IPv4 datagrams on this socket, too.
            setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
            setsockopt(&socket, sockopt::Ipv6RecvTClass, &true)?;
        } else {
            setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
        }
        setsockopt(&socket, sockopt::IpRecvTos, &true)?;
        setsockopt(&socket, sockopt::RxqOvfl, &1)?;
        // With CAP_NET_ADMIN beyond net.core.rmem_max; without, up to it. It works with less.
        if setsockopt(&socket, sockopt::RcvBufForce, &BUFFER).is_err() {
            let _ = SockRef::from(&socket).set_recv_buffer_size(BUFFER);
        }
        let socket = Arc::new(UdpSocket::from_std(socket)?);
        let receiver = Receiver::start(socket.clone(), gate);
        Ok(Open { socket, is_ipv6, receiver })
    }

    /// What it sends must not go into a full tunnel.
    fn mark(self) -> io::Result<Open> {
        SockRef::from(&*self.socket).set_mark(routing_rules::MARK)?;
        Ok(self)
    }

    /// Sends a datagram, from the address that the hop says. A lost one is sent again. What is longer than the kernel knows of the way
    /// leaves in IP fragments (IP_PMTUDISC_WANT, which is what a socket begins with).
    fn send(&self, hop: &UdpHop, payload: &[u8]) {
        let to = match hop.remote {
            SocketAddr::V4(v4) if self.is_ipv6 => SocketAddrV6::new(v4.ip().to_ipv6_mapped(), v4.port(), 0, 0).into(),
            SocketAddr::V6(v6) => SocketAddrV6::new(*v6.ip(), v6.port(), 0, hop.interface).into(),
            v4 => v4,
        };
        let local = Some(hop.local.ip()).filter(|local| !local.is_unspecified());
        let (parts, to) = ([IoSlice::new(payload)], SockaddrStorage::from(to));
        let fd = self.socket.as_raw_fd();
        let none = MsgFlags::empty();
        // On a socket of IPv6, the source of an IPv4 datagram is said in its own way, too.
        let _ = match local {
            Some(IpAddr::V4(local)) => {
                let source = libc::in_addr { s_addr: u32::from_ne_bytes(local.octets()) };
                let info = libc::in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: source, ipi_addr: libc::in_addr { s_addr: 0 } };
                sendmsg(fd, &parts, &[ControlMessage::Ipv4PacketInfo(&info)], none, Some(&to))
            }
            Some(IpAddr::V6(local)) => {
                let source = libc::in6_addr { s6_addr: local.octets() };
                let info = libc::in6_pktinfo { ipi6_addr: source, ipi6_ifindex: hop.interface };
                sendmsg(fd, &parts, &[ControlMessage::Ipv6PacketInfo(&info)], none, Some(&to))
            }
            None => sendmsg(fd, &parts, &[], none, Some(&to)),
        };
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use adit_proto::ike::IkeSpi;
    use adit_proto::stats::Drop;

    use super::*;

    fn port500(listen: &str) -> (Port500, SocketAddr) {
        let mut port500 = Port500::new(1, Arc::default());
        let open = Open::bind(listen.parse().unwrap(), port500.gate.clone()).unwrap();
        let address = open.socket.local_addr().unwrap();
        port500.open = Some(open);
        (port500, address)
    }

    /// The shortest protected request of these SPIs.
    fn message(initiator: u64, responder: u64) -> Vec<u8> {
        let spis = [initiator.to_be_bytes(), responder.to_be_bytes()].concat();
        let header = [&spis[..], &[46, 0x20, 37, 8, 0, 0, 0, 0], &57u32.to_be_bytes()].concat();
        [&header[..], &[0, 0, 0, 29], &[0xA5; 25]].concat()
    }

    /// A message in the clear of the exchange with which all begins.
    fn beginning(initiator: u64, responder: u64, flags: u8) -> Vec<u8> {
        let spis = [initiator.to_be_bytes(), responder.to_be_bytes()].concat();
        [&spis[..], &[33, 0x20, 34, flags, 0, 0, 0, 0], &28u32.to_be_bytes()].concat()
    }

    /// Waits until as many as were sent so far are counted one way or the other, and those that came are here.
    async fn all(port500: &mut Port500, numbers: &SocketNumbers, sent: u64, came: &mut Vec<Datagram>) {
        let done = async {
            while numbers.all() < sent || port500.first.is_some() || came.len() < numbers.received_so_far() as usize {
                let _ = tokio::time::timeout(Duration::from_millis(20), port500.ready()).await;
                port500.take(|arrival, datagram| came.push((arrival, datagram.to_vec())));
            }
        };
        tokio::time::timeout(Duration::from_secs(20), done).await.unwrap();
    }

    #[tokio::test]
    async fn what_came_to_an_address_is_answered_from_there_over_both_versions() {
        for (listen, to) in [("[::]:0", "127.0.0.9"), ("0.0.0.0:0", "127.0.0.9"), ("[::]:0", "::1")] {
            let (mut port500, address) = port500(listen);
            let to: IpAddr = to.parse().unwrap();
            let any = if to.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" };
            let peer = std::net::UdpSocket::bind(any).unwrap();
            match to {
                IpAddr::V4(_) => SockRef::from(&peer).set_tos_v4(0xb8).unwrap(),
                IpAddr::V6(_) => SockRef::from(&peer).set_tclass_v6(0xb8).unwrap(),
            }
            peer.send_to(&message(1, 0), (to, address.port())).unwrap();
            port500.ready().await;
            let mut came = Vec::new();
            port500.take(|arrival, datagram| came.push((arrival, datagram.to_vec())));
            let (arrival, datagram) = came.pop().unwrap();
            assert_eq!((arrival.remote, datagram), (peer.local_addr().unwrap(), message(1, 0)));
            let lo = crate::resolve::index_of("lo").unwrap();
            assert_eq!((arrival.local.ip(), arrival.interface, arrival.class), (to, lo, 0xb8));
            port500.send(&arrival.hop().udp().unwrap(), b"answer");
            peer.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            let mut buffer = [0; 16];
            let (length, from) = peer.recv_from(&mut buffer).unwrap();
            assert_eq!((&buffer[..length], from.ip()), (&b"answer"[..], to), "{listen}");
        }
    }

    #[tokio::test]
    async fn who_is_known_comes_beside_strangers_and_junk_and_all_is_counted() {
        let (mut port500, address) = port500("127.0.0.1:0");
        let numbers = port500.gate.numbers();
        let [stranger, peer] = ["127.0.0.1:0", "127.0.0.2:0"].map(|address| std::net::UdpSocket::bind(address).unwrap());
        port500.note(&Command::IkeAddressAdd { address: "127.0.0.2:0".parse().unwrap() });
        let (mut sent, mut came) = (0, Vec::new());
        // Each IKE SA within its share.
        for number in (10..18).cycle().take(20) {
            port500.note(&Command::IkeSaAdd { initiator: IkeSpi(number), responder: IkeSpi(2) });
            for (from, kind) in [(&stranger, vec![0; 28]), (&stranger, message(1, 3)), (&peer, message(number, 2))] {
                for _ in 0..50 {
                    from.send_to(&kind, address).unwrap();
                    sent += 1;
                }
            }
            all(&mut port500, &numbers, sent, &mut came).await;
        }
        let lost = numbers.dropped(Drop::UdpOverflow);
        let of_sas = came.iter().filter(|(_, datagram)| datagram[..16] == message(datagram[7].into(), 2)[..16]).count() as u64;
        assert_eq!(of_sas + lost, 1000);
        assert_eq!((numbers.dropped(Drop::BadIke) + lost, numbers.dropped(Drop::PuntKnownLimit)), (1000, 0));
        let strangers = came.iter().filter(|(_, datagram)| *datagram == message(1, 3)).count() as u64;
        assert_eq!(strangers + numbers.dropped(Drop::PuntNetworkLimit) + lost, 1000);
        assert!(numbers.dropped(Drop::PuntNetworkLimit) > 0);
        // What answers us is no stranger's, though others from there have used up their share.
        let to = UdpHop { local: address, interface: 0, remote: stranger.local_addr().unwrap() };
        port500.send(&to, &beginning(9, 0, 8));
        for _ in 0..1000 {
            stranger.send_to(&message(1, 3), address).unwrap();
        }
        let answer = beginning(9, 10, 0x20);
        stranger.send_to(&answer, address).unwrap();
        all(&mut port500, &numbers, sent + 1001, &mut came).await;
        assert!(came.iter().any(|(_, datagram)| *datagram == answer) || numbers.dropped(Drop::UdpOverflow) > lost);
    }

    #[tokio::test]
    async fn what_the_sockets_queue_loses_is_counted() {
        let (mut port500, address) = port500("127.0.0.1:0");
        let numbers = port500.gate.numbers();
        let open = port500.open.as_ref().unwrap();
        SockRef::from(&*open.socket).set_recv_buffer_size(4096).unwrap();
        let peer = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        // The task that takes them does not run meanwhile. The kernel tells of what it lost with the next one.
        for _ in 0..1000 {
            peer.send_to(&[0; 28], address).unwrap();
        }
        let junk = || numbers.dropped(Drop::BadIke);
        while junk() == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        peer.send_to(&[0; 28], address).unwrap();
        all(&mut port500, &numbers, 1001, &mut Vec::new()).await;
        assert!(numbers.dropped(Drop::UdpOverflow) > 100, "{}", numbers.dropped(Drop::UdpOverflow));
        assert_eq!(junk() + numbers.dropped(Drop::UdpOverflow), 1001);
    }
}
