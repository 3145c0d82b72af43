//! One UDP socket: batches and trains in, trains out, and what is done where the kernel cannot send a train.
use std::cell::RefCell;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;

use nix::sys::socket::{setsockopt, sockopt};
use quinn_udp::{EcnCodepoint, RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use socket2::{Domain, Protocol, Socket as Plain, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use crate::limits::{UDP_BATCH, UDP_BUFFER_BYTES, UDP_BYTES_MAX};

/// A socket and what the kernel can do with it.
#[derive(Debug)]
pub(crate) struct Socket {
    io: UdpSocket,
    state: UdpSocketState,
}

/// What has come from one sender at once.
pub(crate) struct Received<'a> {
    pub(crate) from: SocketAddr,
    pub(crate) bytes: &'a [u8],
    /// Bytes of every datagram but the last.
    pub(crate) segment: usize,
    pub(crate) ecn: u8,
}

/// What became of something that was to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    Whole,
    /// The kernel had no room; UDP may lose.
    Full,
    /// There is no way to go, or the network takes no datagram of this length.
    Failed,
}

thread_local! {
    /// For all sockets of a thread: each of some thousand sockets would need a batch of its own otherwise.
    static BUFFERS: RefCell<Vec<u8>> = RefCell::new(vec![0; UDP_BATCH * UDP_BYTES_MAX]);
}

impl Socket {
    /// Binds a socket. One of IPv6 takes no packets of IPv4, whatever the system's default is.
    pub(crate) fn bind(at: SocketAddr) -> io::Result<Socket> {
        let plain = Plain::new(Domain::for_address(at), Type::DGRAM, Some(Protocol::UDP))?;
        if at.is_ipv6() {
            plain.set_only_v6(true)?;
        }
        plain.set_nonblocking(true)?;
        plain.bind(&at.into())?;
        // Less than asked for is no fault: the system has its own limit.
        let _ = plain.set_recv_buffer_size(UDP_BUFFER_BYTES);
        let _ = plain.set_send_buffer_size(UDP_BUFFER_BYTES);
        let state = UdpSocketState::new(UdpSockRef::from(&plain))?;
        // Nobody reads when something came, and beside a train and its address there is no room left in quinn-udp for the class then.
        setsockopt(&plain, sockopt::ReceiveTimestampns, &false)?;
        Ok(Socket { io: UdpSocket::from_std(plain.into())?, state })
    }

    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.io.local_addr()
    }

    /// Waits for datagrams and hands over what came. It ends with a fault of the socket itself only.
    pub(crate) async fn receive(&self, mut each: impl FnMut(Received<'_>)) -> io::Result<()> {
        self.io.readable().await?;
        BUFFERS.with_borrow_mut(|buffers| {
            let mut metas = [RecvMeta::default(); UDP_BATCH];
            let received = {
                let mut slices = buffers.chunks_exact_mut(UDP_BYTES_MAX).map(IoSliceMut::new);
                let mut slices: [IoSliceMut<'_>; UDP_BATCH] =
                    std::array::from_fn(|_| slices.next().unwrap_or(IoSliceMut::new(&mut [])));
                let receive = || self.state.recv(UdpSockRef::from(&self.io), &mut slices, &mut metas);
                self.io.try_io(Interest::READABLE, receive)
            };
            // Also what ICMP said about something that was sent: the next call begins anew.
            let Ok(count) = received else { return Ok(()) };
            for (buffer, meta) in buffers.chunks_exact(UDP_BYTES_MAX).zip(&metas[..count]) {
                let ecn = meta.ecn.map_or(0, |ecn| ecn as u8);
                each(Received { from: meta.addr, bytes: &buffer[..meta.len], segment: meta.stride, ecn });
            }
            Ok(())
        })
    }

    /// Sends a train, in pieces where the kernel takes only so many datagrams at once, and one by one where it takes no trains: then the
    /// train that showed it is repeated, not lost.
    pub(crate) fn send(&self, to: SocketAddr, bytes: &[u8], segment: usize, ecn: u8) -> Sent {
        if segment == 0 || bytes.len() <= segment {
            return self.send_once(to, bytes, None, ecn);
        }
        let at_once = self.state.max_gso_segments();
        for train in bytes.chunks(segment * at_once.max(1)) {
            let is_train = at_once > 1 && train.len() > segment;
            match self.send_once(to, train, is_train.then_some(segment), ecn) {
                Sent::Whole => {}
                Sent::Full => return Sent::Full,
                Sent::Failed if is_train => {
                    for datagram in train.chunks(segment) {
                        let sent = self.send_once(to, datagram, None, ecn);
                        if sent != Sent::Whole {
                            return sent;
                        }
                    }
                }
                Sent::Failed => return Sent::Failed,
            }
        }
        Sent::Whole
    }

    fn send_once(&self, destination: SocketAddr, contents: &[u8], segment_size: Option<usize>, ecn: u8) -> Sent {
        let transmit = Transmit { destination, ecn: EcnCodepoint::from_bits(ecn), contents, segment_size, src_ip: None };
        match self.state.try_send(UdpSockRef::from(&self.io), &transmit) {
            Ok(()) => Sent::Whole,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Sent::Full,
            Err(_) => Sent::Failed,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_train_arrives_whole_with_its_ecn() {
        for host in ["127.0.0.1:0", "[::1]:0"] {
            let bind = || Socket::bind(host.parse().expect("an address")).expect("a socket");
            let (a, b) = (bind(), bind());
            let bytes: Vec<u8> = (0..30 * 1000 + 17).map(|n| (n % 251) as u8).collect();
            assert_eq!(a.send(b.local_addr().expect("an address"), &bytes, 1000, 2), Sent::Whole);
            let mut got = Vec::new();
            while got.len() < bytes.len() {
                let each = |received: Received<'_>| {
                    assert_eq!((received.ecn, received.from), (2, a.local_addr().expect("an address")));
                    got.extend_from_slice(received.bytes);
                };
                tokio::time::timeout(Duration::from_secs(60), b.receive(each)).await.expect("it comes").expect("no fault");
            }
            assert_eq!(got, bytes);
        }
    }

    #[tokio::test]
    async fn where_there_is_no_way_sending_fails_and_the_socket_lives() {
        let a = Socket::bind("127.0.0.1:0".parse().expect("an address")).expect("a socket");
        assert_eq!(a.send("[::1]:9".parse().expect("an address"), &[0; 3000], 1000, 0), Sent::Failed);
        assert_eq!(a.send(a.local_addr().expect("an address"), b"on", 0, 0), Sent::Whole);
    }
}
