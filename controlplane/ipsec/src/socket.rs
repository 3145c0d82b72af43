//! The UDP socket of a client or a server. What is received says to which of our addresses and by which interface it came; what is
//! sent says from which address it leaves. On a machine with several addresses an answer from another one than was asked is dropped
//! by NATs and by peers that are strict.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket as StdSocket};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use adit_engine::path::{Arrival, UdpHop};
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt, sockopt};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use super::limits::RECEIVE_BUFFER;

/// A socket, and where it is bound.
pub struct Socket {
    udp: UdpSocket,
    bound: SocketAddr,
    /// Something could not be sent as it should have been: an address of ours or a route is gone.
    lost_way: AtomicBool,
}

impl Socket {
    /// # Errors
    /// The address cannot be had.
    pub fn open(address: SocketAddr) -> io::Result<Socket> {
        let socket = StdSocket::bind(address)?;
        socket.set_nonblocking(true)?;
        // Less is no error: then bursts are lost.
        let _ = setsockopt(&socket, sockopt::RcvBuf, &RECEIVE_BUFFER);
        match address {
            SocketAddr::V4(_) => setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?,
            SocketAddr::V6(_) => {
                setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
                setsockopt(&socket, sockopt::Ipv6RecvTClass, &true)?;
            }
        }
        setsockopt(&socket, sockopt::IpRecvTos, &true)?;
        let bound = socket.local_addr()?;
        Ok(Socket { udp: UdpSocket::from_std(socket)?, bound, lost_way: AtomicBool::new(false) })
    }

    /// The address and port that it has.
    pub fn bound(&self) -> SocketAddr {
        self.bound
    }

    /// # Errors
    /// The runtime is being shut down.
    pub async fn readable(&self) -> io::Result<()> {
        self.udp.readable().await
    }

    /// # Errors
    /// The runtime is being shut down.
    pub async fn writable(&self) -> io::Result<()> {
        self.udp.writable().await
    }

    /// Takes a datagram into the buffer, if there is one. Gives its length, and how it came; `None` for what was sent to many.
    ///
    /// # Errors
    /// There is none, or what the kernel says of an earlier one of ours.
    pub fn try_receive(&self, buffer: &mut [u8]) -> io::Result<(usize, Option<Arrival>)> {
        self.udp.try_io(Interest::READABLE, || receive(&self.udp, self.bound.port(), buffer))
    }

    /// Sends a datagram as the hop says.
    ///
    /// # Errors
    /// There is no room now, or it cannot be sent.
    pub fn try_send(&self, payload: &[u8], hop: &UdpHop) -> io::Result<()> {
        self.udp.try_io(Interest::WRITABLE, || self.send_now(payload, hop))
    }

    /// The same, once there is room.
    ///
    /// # Errors
    /// It cannot be sent.
    pub async fn send(&self, payload: &[u8], hop: &UdpHop) -> io::Result<()> {
        self.udp.async_io(Interest::WRITABLE, || self.send_now(payload, hop)).await
    }

    /// Whether something could not be sent as it should have been since this was asked last.
    pub fn take_lost_way(&self) -> bool {
        self.lost_way.swap(false, Relaxed)
    }

    fn send_now(&self, payload: &[u8], hop: &UdpHop) -> io::Result<()> {
        let source = Source::of(self.bound, hop);
        match self.send_from(payload, hop, source) {
            Err(Errno::ENETUNREACH | Errno::EHOSTUNREACH | Errno::EADDRNOTAVAIL | Errno::EINVAL | Errno::ENODEV) => {
                self.lost_way.store(true, Relaxed);
                // The address is not ours any more. The peer follows what is authentic: better from another one than not at all.
                Ok(self.send_from(payload, hop, Source::Kernel)?)
            }
            result => Ok(result?),
        }
    }

    fn send_from(&self, payload: &[u8], hop: &UdpHop, source: Source) -> nix::Result<()> {
        let parts = [IoSlice::new(payload)];
        let to = SockaddrStorage::from(on_the_wire(self.bound, hop));
        let send = |control: &[ControlMessage<'_>]| {
            sendmsg(self.udp.as_raw_fd(), &parts, control, MsgFlags::empty(), Some(&to)).map(drop)
        };
        match source {
            Source::Kernel => send(&[]),
            Source::V4(address, interface) => {
                let ipi_spec_dst = libc::in_addr { s_addr: u32::from_ne_bytes(address.octets()) };
                let nobody = libc::in_addr { s_addr: 0 };
                let info = libc::in_pktinfo { ipi_ifindex: interface as i32, ipi_spec_dst, ipi_addr: nobody };
                send(&[ControlMessage::Ipv4PacketInfo(&info)])
            }
            Source::V6(address, interface) => {
                let ipi6_addr = libc::in6_addr { s6_addr: address.octets() };
                let info = libc::in6_pktinfo { ipi6_addr, ipi6_ifindex: interface };
                send(&[ControlMessage::Ipv6PacketInfo(&info)])
            }
        }
    }
}

/// What the kernel is told of where a datagram leaves: address and interface, of which 0 is any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// Nothing: it is bound to one address, or the routes are to say it.
    Kernel,
    V4(Ipv4Addr, u32),
    V6(Ipv6Addr, u32),
}

impl Source {
    fn of(bound: SocketAddr, hop: &UdpHop) -> Source {
        let local = hop.local.ip().to_canonical();
        let at_will = local.is_unspecified() && hop.interface == 0;
        match (bound, local) {
            _ if at_will || !bound.ip().is_unspecified() => Source::Kernel,
            (SocketAddr::V4(_), IpAddr::V4(local)) => Source::V4(local, hop.interface),
            (SocketAddr::V6(_), IpAddr::V4(local)) => Source::V6(local.to_ipv6_mapped(), hop.interface),
            (SocketAddr::V6(_), IpAddr::V6(local)) => Source::V6(local, hop.interface),
            (SocketAddr::V4(_), IpAddr::V6(_)) => Source::Kernel,
        }
    }
}

/// The other end for the socket: one for IPv6 knows IPv4 peers by mapped addresses, and nobody else does.
fn on_the_wire(bound: SocketAddr, hop: &UdpHop) -> SocketAddr {
    let port = hop.remote.port();
    match hop.remote.ip() {
        IpAddr::V4(v4) if bound.is_ipv6() => SocketAddr::new(v4.to_ipv6_mapped().into(), port),
        IpAddr::V6(v6) => SocketAddrV6::new(v6, port, 0, hop.interface).into(),
        IpAddr::V4(_) => hop.remote,
    }
}

fn receive(socket: &UdpSocket, port: u16, buffer: &mut [u8]) -> io::Result<(usize, Option<Arrival>)> {
    let mut control = nix::cmsg_space!(libc::in_pktinfo, libc::in6_pktinfo, libc::c_int, libc::c_int);
    let mut parts = [IoSliceMut::new(buffer)];
    let message = recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::empty())?;
    let from = message.address.and_then(|from| {
        let v4 = from.as_sockaddr_in().map(|from| SocketAddr::from((from.ip(), from.port())));
        v4.or_else(|| from.as_sockaddr_in6().map(|from| SocketAddr::from((from.ip().to_canonical(), from.port()))))
    });
    let (mut to, mut class) = (None, 0);
    for one in message.cmsgs()? {
        match one {
            ControlMessageOwned::Ipv4Tos(tos) => class = tos,
            ControlMessageOwned::Ipv6TClass(tclass) => class = tclass as u8,
            other => to = to.or_else(|| addressed_to(&other)),
        }
    }
    let came = from.zip(to).map(|(from, (address, interface))| Arrival {
        interface,
        class,
        ..Arrival::new(SocketAddr::new(address, port), from)
    });
    Ok((message.bytes, came))
}

/// To which address of ours something came, by which interface. What goes to many is for nobody here, and there is no answer to it.
fn addressed_to(message: &ControlMessageOwned) -> Option<(IpAddr, u32)> {
    match message {
        ControlMessageOwned::Ipv4PacketInfo(info) => {
            let to_one = info.ipi_addr.s_addr == info.ipi_spec_dst.s_addr;
            let address = Ipv4Addr::from(info.ipi_addr.s_addr.to_ne_bytes());
            to_one.then_some((address.into(), u32::try_from(info.ipi_ifindex).unwrap_or(0)))
        }
        ControlMessageOwned::Ipv6PacketInfo(info) => {
            let address = Ipv6Addr::from(info.ipi6_addr.s6_addr).to_canonical();
            (!address.is_multicast()).then_some((address, info.ipi6_ifindex))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    /// What came to `socket`, and how.
    async fn next(socket: &Socket) -> (Vec<u8>, Option<Arrival>) {
        let mut buffer = [0; 100];
        loop {
            socket.readable().await.unwrap();
            if let Ok((len, came)) = socket.try_receive(&mut buffer) {
                return (buffer[..len].to_vec(), came);
            }
        }
    }

    /// What `asked` sees of the answer to a question that was sent to it.
    async fn answer(socket: &Socket, asked: SocketAddr) -> (Arrival, SocketAddr) {
        let asker = UdpSocket::bind(SocketAddr::new(if asked.is_ipv4() { [127, 0, 0, 9].into() } else { asked.ip() }, 0)).await;
        let asker = asker.unwrap();
        match asked {
            SocketAddr::V4(_) => setsockopt(&asker, sockopt::Ipv4Tos, &0xb8).unwrap(),
            SocketAddr::V6(_) => setsockopt(&asker, sockopt::Ipv6TClass, &0xb8).unwrap(),
        }
        asker.send_to(b"question", asked).await.unwrap();
        let (question, came) = next(socket).await;
        let came = came.expect("how it came");
        assert_eq!((&question[..], came.remote, came.class), (&b"question"[..], asker.local_addr().unwrap(), 0xb8));
        socket.send(b"answer", &came.hop().udp().unwrap()).await.unwrap();
        let mut buffer = [0; 100];
        let (len, from) = asker.recv_from(&mut buffer).await.unwrap();
        assert_eq!(&buffer[..len], b"answer");
        (came, from)
    }

    #[tokio::test]
    async fn an_answer_leaves_from_the_address_that_was_hit() {
        for (bind, asked) in [
            ("0.0.0.0:0", &["127.0.0.1", "127.0.0.2", "127.3.2.1"][..]),
            ("[::]:0", &["127.0.0.2", "127.0.0.3", "::1"]),
            ("127.0.0.2:0", &["127.0.0.2"]),
            ("[::1]:0", &["::1"]),
        ] {
            let socket = Socket::open(address(bind)).unwrap();
            for asked in asked {
                let asked = SocketAddr::new(asked.parse().unwrap(), socket.bound().port());
                let (came, from) = answer(&socket, asked).await;
                assert_eq!((came.local, from), (asked, asked), "{bind}");
                assert!(came.interface > 0);
            }
            assert!(!socket.take_lost_way());
        }
    }

    #[tokio::test]
    async fn what_goes_to_many_came_to_no_address() {
        let socket = Socket::open(address("0.0.0.0:0")).unwrap();
        let stranger = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        stranger.set_broadcast(true).unwrap();
        stranger.send_to(b"all of you", ("127.255.255.255", socket.bound().port())).await.unwrap();
        assert_eq!(next(&socket).await, (b"all of you".to_vec(), None));
    }

    #[tokio::test]
    async fn a_source_that_is_not_ours_is_left_to_the_kernel_and_reported() {
        for (bind, local) in [("0.0.0.0:0", "192.0.2.77:1"), ("[::]:0", "192.0.2.77:1"), ("[::]:0", "[2001:db8::77]:1")] {
            let (socket, local) = (Socket::open(address(bind)).unwrap(), address(local));
            let there = UdpSocket::bind(if local.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" }).await.unwrap();
            socket.send(b"all the same", &UdpHop { local, interface: 0, remote: there.local_addr().unwrap() }).await.unwrap();
            let mut buffer = [0; 100];
            let (len, from) = there.recv_from(&mut buffer).await.unwrap();
            assert_eq!((&buffer[..len], from.ip()), (&b"all the same"[..], there.local_addr().unwrap().ip()));
            assert!(socket.take_lost_way() && !socket.take_lost_way(), "{bind} {local}");
        }
    }
}
