//! UDP port 500, on which IKE begins without NAT traversal, for peers that know no other one. Everything else goes through the
//! port that the data plane owns.
//!
//! Nothing here is known of who sends, so that no more is taken than so many datagrams in a second. The rest waits in the socket,
//! and is lost there.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsRawFd, RawFd};
use std::time::{Duration, Instant};

use adit_engine::path::{Arrival, Hop, IKE_PORT};
use nix::libc;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt, sockopt};
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::UdpSocket;

use crate::config::endpoint::PORT_DEFAULT;
use crate::config::{Config, Peer};
use crate::reconcile::rule;

/// Longest datagram of IKE that is taken here.
const DATAGRAM_MAX: usize = 65_536;
/// Datagrams per second.
const RATE: u32 = 1000;
/// Datagrams taken in one turn of the loop.
const SHARE: u32 = 64;

/// The port as the configuration wants it: open, or tried again.
#[derive(Default)]
pub struct Port500 {
    open: Option<Open>,
    /// Where it is open, or should be.
    address: Option<SocketAddr>,
    /// Why it is not open, once that was said.
    complaint: Option<String>,
}

/// The socket.
struct Open {
    socket: UdpSocket,
    is_ipv6: bool,
    buffer: Box<[u8]>,
    /// Datagrams that may be taken now.
    left: u32,
    filled: Instant,
}

impl Port500 {
    /// Opens it where it makes sense and is free, and closes it where it makes none. What cannot be done is said once.
    pub async fn keep(&mut self, config: &Config) {
        // Who begins at 500 goes on at 4500 (RFC 7296 §2.23).
        let begins_here = |peer: &Peer| peer.endpoints.iter().any(|endpoint| endpoint.port == IKE_PORT);
        let mut by_ike = config.peers.iter().filter(|peer| peer.ike().is_some());
        let used = by_ike.any(|peer| config.listen.port() == PORT_DEFAULT || begins_here(peer));
        let address = used.then(|| SocketAddr::new(config.listen.ip(), IKE_PORT));
        if self.address != address {
            *self = Port500 { address, ..Port500::default() };
        }
        let Some(address) = self.address.filter(|_| self.open.is_none()) else { return };
        match Open::bind(address).and_then(Open::mark) {
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
    pub async fn ready(&self) {
        match &self.open {
            Some(open) => open.ready().await,
            None => std::future::pending().await,
        }
    }

    /// Takes what has come, no more than a share of it.
    pub fn take(&mut self, each: impl FnMut(Arrival, &[u8])) {
        if let Some(open) = &mut self.open {
            open.take(each);
        }
    }

    /// Sends a datagram. One that is lost, or for which it is not open, is sent again.
    pub fn send(&self, hop: &Hop, payload: &[u8]) {
        if let Some(open) = &self.open {
            open.send(hop, payload);
        }
    }
}

impl Open {
    /// Datagrams come with the address and interface that they were sent to, so that answers leave from there.
    fn bind(address: SocketAddr) -> io::Result<Open> {
        let socket = std::net::UdpSocket::bind(address)?;
        socket.set_nonblocking(true)?;
        let is_ipv6 = address.is_ipv6();
        if is_ipv6 {
            // For IPv4 datagrams on this socket, too.
            setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
        } else {
            setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
        }
        let buffer = vec![0; DATAGRAM_MAX].into_boxed_slice();
        Ok(Open { socket: UdpSocket::from_std(socket)?, is_ipv6, buffer, left: RATE, filled: Instant::now() })
    }

    /// What it sends must not go into a full tunnel.
    fn mark(self) -> io::Result<Open> {
        SockRef::from(&self.socket).set_mark(rule::MARK)?;
        Ok(self)
    }

    /// Waits until something can be taken.
    async fn ready(&self) {
        if self.left == 0 {
            tokio::time::sleep_until((self.filled + Duration::from_secs(1)).into()).await;
        }
        // An error is found by who reads.
        let _ = self.socket.readable().await;
    }

    /// Takes what has come, no more than a share of it.
    fn take(&mut self, mut each: impl FnMut(Arrival, &[u8])) {
        if self.filled.elapsed() >= Duration::from_secs(1) {
            (self.left, self.filled) = (RATE, Instant::now());
        }
        for _ in 0..SHARE.min(self.left) {
            self.left -= 1;
            let (socket, buffer) = (&self.socket, &mut self.buffer);
            match socket.try_io(Interest::READABLE, || receive(socket.as_raw_fd(), buffer)) {
                Ok(Some((came, length))) => each(came, &self.buffer[..length]),
                Ok(None) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // What ICMP said of an earlier datagram of ours.
                Err(_) => {}
            }
        }
    }

    /// Sends a datagram, from the address that the hop says. A lost one is sent again. What is longer than the kernel knows of the way
    /// leaves in IP fragments (IP_PMTUDISC_WANT, which is what a socket begins with).
    fn send(&self, hop: &Hop, payload: &[u8]) {
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

/// Takes one datagram, and where it came from and to. `None` for one of which the kernel does not say that.
fn receive(fd: RawFd, buffer: &mut [u8]) -> io::Result<Option<(Arrival, usize)>> {
    let mut control = nix::cmsg_space!(libc::in_pktinfo, libc::in6_pktinfo);
    let mut parts = [IoSliceMut::new(buffer)];
    let message = recvmsg::<SockaddrStorage>(fd, &mut parts, Some(&mut control), MsgFlags::MSG_DONTWAIT)?;
    let from = message.address.and_then(|from| {
        let v4 = from.as_sockaddr_in().map(|from| SocketAddr::from((from.ip(), from.port())));
        v4.or_else(|| from.as_sockaddr_in6().map(|from| SocketAddr::from(std::net::SocketAddrV6::from(*from))))
    });
    let to = message.cmsgs()?.find_map(|one| match one {
        ControlMessageOwned::Ipv4PacketInfo(info) => {
            let address = Ipv4Addr::from(info.ipi_addr.s_addr.to_ne_bytes());
            Some((IpAddr::V4(address), info.ipi_ifindex as u32))
        }
        ControlMessageOwned::Ipv6PacketInfo(info) => {
            Some((Ipv6Addr::from(info.ipi6_addr.s6_addr).to_canonical(), info.ipi6_ifindex))
        }
        _ => None,
    });
    let (Some(from), Some((address, interface))) = (from, to) else { return Ok(None) };
    let local = SocketAddr::new(address, IKE_PORT);
    Ok(Some((Arrival { interface, ..Arrival::new(local, canonical(from)) }, message.bytes)))
}

/// The address of an IPv4 host that an IPv6 socket names in its own way.
fn canonical(from: SocketAddr) -> SocketAddr {
    match from {
        SocketAddr::V6(v6) if v6.ip().to_ipv4_mapped().is_some() => SocketAddr::new(from.ip().to_canonical(), from.port()),
        _ => from,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn port500(listen: &str) -> (Open, SocketAddr) {
        let open = Open::bind(listen.parse().unwrap()).unwrap();
        let address = open.socket.local_addr().unwrap();
        (open, address)
    }

    #[tokio::test]
    async fn what_came_to_an_address_is_answered_from_there_over_both_versions() {
        for (listen, to) in [("[::]:0", "127.0.0.9"), ("0.0.0.0:0", "127.0.0.9"), ("[::]:0", "::1")] {
            let (mut port500, address) = port500(listen).await;
            let to: IpAddr = to.parse().unwrap();
            let any = if to.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" };
            let peer = std::net::UdpSocket::bind(any).unwrap();
            peer.send_to(b"question", (to, address.port())).unwrap();
            port500.ready().await;
            let mut came = Vec::new();
            port500.take(|arrival, datagram| came.push((arrival, datagram.to_vec())));
            let (arrival, datagram) = came.pop().unwrap();
            assert_eq!((arrival.remote, datagram), (peer.local_addr().unwrap(), b"question".to_vec()));
            assert_eq!((arrival.local.ip(), arrival.interface), (to, crate::resolve::index_of("lo").unwrap()));
            port500.send(&arrival.hop(), b"answer");
            peer.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            let mut buffer = [0; 16];
            let (length, from) = peer.recv_from(&mut buffer).unwrap();
            assert_eq!((&buffer[..length], from.ip()), (&b"answer"[..], to), "{listen}");
        }
    }

    #[tokio::test]
    async fn no_more_is_taken_in_a_second_than_allowed() {
        let (mut port500, address) = port500("127.0.0.1:0").await;
        let peer = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        port500.left = 3;
        for _ in 0..5 {
            peer.send_to(b"x", address).unwrap();
        }
        let mut came = 0;
        port500.ready().await;
        port500.take(|_, _| came += 1);
        assert_eq!((came, port500.left), (3, 0));
        let began = Instant::now();
        port500.ready().await;
        assert!(port500.filled.elapsed() >= Duration::from_secs(1) && began.elapsed() < Duration::from_secs(5));
        port500.take(|_, _| came += 1);
        assert_eq!(came, 5);
    }
}
