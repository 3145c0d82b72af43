//! One UDP socket: batches and trains in, trains out, and what is done where the kernel cannot send a train.
use std::cell::RefCell;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use quinn_udp::{EcnCodepoint, RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use rustix::net::sockopt::{Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery, set_ip_mtu_discover, set_ipv6_mtu_discover};
use socket2::{Domain, Protocol, Socket as Plain, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::task::yield_now;
use tokio::time::sleep;

use crate::limits::{SEGMENT_BYTES_MAX, UDP_BATCH, UDP_BATCHES_IN_TURN, UDP_BUFFER_BYTES, UDP_BYTES_MAX};

/// Rest after an error of a socket, so that one that stays costs no processor.
const REST: Duration = Duration::from_millis(10);
/// What IPv6 has more in its header than IPv4.
const MORE_IN_V6: usize = 20;

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

/// What is sent: one datagram where `segment` is zero.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sending<'a> {
    pub(crate) to: SocketAddr,
    pub(crate) bytes: &'a [u8],
    pub(crate) segment: usize,
    pub(crate) ecn: u8,
    /// It is to be lost rather than cut.
    pub(crate) whole: bool,
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

    /// The same for a relayed address: what is too long for the way to a peer is cut on it. Its sender knows that way as little as we do,
    /// and RFC 8656 §14 and §15 have the bit "don't fragment" only where he asks for it.
    pub(crate) fn bind_relayed(at: SocketAddr) -> io::Result<Socket> {
        let socket = Socket::bind(at)?;
        socket.keep_whole(at.is_ipv4(), false)?;
        Ok(socket)
    }

    fn keep_whole(&self, is_ipv4: bool, whole: bool) -> io::Result<()> {
        let set = match (is_ipv4, whole) {
            (true, true) => set_ip_mtu_discover(&self.io, Ipv4PathMtuDiscovery::PROBE),
            (true, false) => set_ip_mtu_discover(&self.io, Ipv4PathMtuDiscovery::DONT),
            (false, true) => set_ipv6_mtu_discover(&self.io, Ipv6PathMtuDiscovery::PROBE),
            (false, false) => set_ipv6_mtu_discover(&self.io, Ipv6PathMtuDiscovery::DONT),
        };
        set.map_err(io::Error::from)
    }

    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.io.local_addr()
    }

    /// Hands over what comes, for ever; it ends with a fault of the runtime only. Waiting for readiness does not count for tokio as work,
    /// so that a socket that never runs dry would keep its thread for itself.
    pub(crate) async fn receive_all(&self, mut each: impl FnMut(Received<'_>)) {
        loop {
            for _ in 0..UDP_BATCHES_IN_TURN {
                if self.io.readable().await.is_err() {
                    return;
                }
                match self.receive(&mut each) {
                    Ok(()) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    // Also what ICMP said about something that was sent.
                    Err(_) => sleep(REST).await,
                }
            }
            yield_now().await;
        }
    }

    fn receive(&self, each: &mut impl FnMut(Received<'_>)) -> io::Result<()> {
        BUFFERS.with_borrow_mut(|buffers| {
            let mut metas = [RecvMeta::default(); UDP_BATCH];
            let count = {
                let mut slices = buffers.chunks_exact_mut(UDP_BYTES_MAX).map(IoSliceMut::new);
                let mut slices: [IoSliceMut<'_>; UDP_BATCH] =
                    std::array::from_fn(|_| slices.next().unwrap_or(IoSliceMut::new(&mut [])));
                let receive = || self.state.recv(UdpSockRef::from(&self.io), &mut slices, &mut metas);
                self.io.try_io(Interest::READABLE, receive)?
            };
            for (buffer, meta) in buffers.chunks_exact(UDP_BYTES_MAX).zip(&metas[..count]) {
                let ecn = meta.ecn.map_or(0, |ecn| ecn as u8);
                each(Received { from: meta.addr, bytes: &buffer[..meta.len], segment: meta.stride, ecn });
            }
            Ok(())
        })
    }

    /// Sends a train, in pieces where the kernel takes only so many datagrams at once, and one by one where it takes no trains: then the
    /// train that showed it is repeated, not lost.
    pub(crate) fn send(&self, sending: Sending<'_>) -> Sent {
        // Nobody is there, the kernel answers EINVAL, and quinn-udp takes that for a kernel that knows neither trains nor ECN: for good,
        // and for all who use this socket.
        if sending.to.port() == 0 {
            return Sent::Failed;
        }
        if !sending.whole {
            return self.send_train(sending);
        }
        let is_ipv4 = sending.to.is_ipv4();
        if self.keep_whole(is_ipv4, true).is_err() {
            return Sent::Failed;
        }
        let sent = self.send_train(sending);
        // What could be set can be set back.
        let _ = self.keep_whole(is_ipv4, false);
        sent
    }

    fn send_train(&self, Sending { to, bytes, segment, ecn, .. }: Sending<'_>) -> Sent {
        if segment == 0 || bytes.len() <= segment {
            return self.send_once(to, bytes, None, ecn);
        }
        // Kernels before 6.18 say EINVAL to a train whose datagrams are longer than the MTU, too.
        let longest = SEGMENT_BYTES_MAX - if to.is_ipv6() { MORE_IN_V6 } else { 0 };
        let at_once = if segment > longest { 1 } else { self.state.max_gso_segments() };
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
    use std::cell::Cell;

    use super::*;

    fn bind(at: &str) -> Socket {
        Socket::bind(at.parse().expect("an address")).expect("a socket")
    }

    fn sending(to: SocketAddr, bytes: &[u8], segment: usize) -> Sending<'_> {
        Sending { to, bytes, segment, ecn: 2, whole: false }
    }

    /// Receives until it was enough.
    async fn receive_until(socket: &Socket, mut is_enough: impl FnMut(Received<'_>) -> bool) {
        let enough = tokio::sync::Notify::new();
        let each = |received: Received<'_>| {
            if is_enough(received) {
                enough.notify_one();
            }
        };
        let waiting = async {
            tokio::select! {
                () = socket.receive_all(each) => {}
                () = enough.notified() => {}
            }
        };
        tokio::time::timeout(Duration::from_secs(60), waiting).await.expect("it comes");
    }

    #[tokio::test]
    async fn a_train_arrives_whole_with_its_ecn() {
        // Of the second kind datagrams are too long for trains on most ways.
        for (host, segment) in [("127.0.0.1:0", 1000), ("[::1]:0", 1000), ("127.0.0.1:0", 9000)] {
            let (a, b) = (bind(host), bind(host));
            let bytes: Vec<u8> = (0..6 * segment + 17).map(|n| (n % 251) as u8).collect();
            let (from, to) = (a.local_addr().expect("an address"), b.local_addr().expect("an address"));
            assert_eq!(a.send(sending(to, &bytes, segment)), Sent::Whole);
            let mut got = Vec::new();
            receive_until(&b, |received| {
                assert_eq!((received.ecn, received.from), (2, from));
                got.extend_from_slice(received.bytes);
                got.len() == bytes.len()
            })
            .await;
            assert_eq!(got, bytes);
        }
    }

    #[tokio::test]
    async fn where_there_is_no_way_sending_fails_and_the_socket_lives() {
        let a = bind("127.0.0.1:0");
        assert_eq!(a.send(sending("[::1]:9".parse().expect("an address"), &[0; 3000], 1000)), Sent::Failed);
        assert_eq!(a.send(sending(a.local_addr().expect("an address"), b"on", 0)), Sent::Whole);
    }

    #[tokio::test]
    async fn nothing_goes_to_port_zero_and_trains_stay_trains() {
        let a = bind("127.0.0.1:0");
        let at_once = a.state.max_gso_segments();
        assert_eq!(a.send(sending("127.0.0.1:0".parse().expect("an address"), &[0; 3000], 1000)), Sent::Failed);
        assert_eq!(a.send(sending("127.0.0.1:0".parse().expect("an address"), b"one", 0)), Sent::Failed);
        assert_eq!(a.state.max_gso_segments(), at_once);
    }

    #[tokio::test]
    async fn what_is_relayed_may_be_cut_unless_it_is_to_stay_whole() {
        use rustix::net::sockopt::{ip_mtu_discover, ipv6_mtu_discover};
        let (v4, v6) = ("127.0.0.1:0".parse().expect("an address"), "[::1]:0".parse().expect("an address"));
        let (a, b) = (Socket::bind_relayed(v4).expect("a socket"), Socket::bind_relayed(v6).expect("a socket"));
        let whole = Sending { whole: true, ..sending(a.local_addr().expect("an address"), b"whole", 0) };
        assert_eq!(a.send(whole), Sent::Whole);
        assert_eq!(ip_mtu_discover(&a.io).ok(), Some(Ipv4PathMtuDiscovery::DONT));
        assert_eq!(ipv6_mtu_discover(&b.io).ok(), Some(Ipv6PathMtuDiscovery::DONT));
        assert_eq!(ip_mtu_discover(&bind("127.0.0.1:0").io).ok(), Some(Ipv4PathMtuDiscovery::PROBE));
    }

    /// A socket that is fed for as long as it is read: others have their turn all the same.
    #[tokio::test]
    async fn a_socket_that_never_runs_dry_leaves_others_their_turn() {
        let (a, calls) = (bind("127.0.0.1:0"), Cell::new(0_u32));
        let at = a.local_addr().expect("an address");
        assert_eq!(a.send(sending(at, b"on and on", 0)), Sent::Whole);
        let each = |_: Received<'_>| {
            calls.set(calls.get() + 1);
            assert!(calls.get() < 100_000, "nobody else had a turn");
            assert_eq!(a.send(sending(at, b"on and on", 0)), Sent::Whole);
        };
        let others = async {
            for _ in 0..10 {
                yield_now().await;
            }
        };
        tokio::select! {
            () = a.receive_all(each) => {}
            () = others => {}
        }
        assert!(calls.get() >= UDP_BATCHES_IN_TURN as u32);
    }
}
