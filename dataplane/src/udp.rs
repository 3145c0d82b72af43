//! The UDP socket of a worker, one of a group that is steered by SPI: trains in (`UDP_GRO`) and out (`UDP_SEGMENT`).
//!
//! unsafe here: messages that socket2 has no words for.

mod fragments;
mod hop;

use std::io;
use std::mem;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsRawFd, RawFd};

use adit_devices::sockets::{get_option, set_option};
use adit_proto::control::{LocalEnd, StreamId, Via};
use socket2::{Domain, SockAddr, Socket};

use crate::limits::TRAIN_SEGMENTS_MAX;
use hop::SourceKind;

pub use hop::{Hop, Source};

/// The other end of datagrams: an address in the form that the kernel takes, or a stream, which is none.
#[derive(Clone, Copy, Default, Eq)]
pub struct Endpoint {
    raw: [u8; mem::size_of::<libc::sockaddr_in6>()],
    /// How much of it the kernel takes, or [`STREAM`].
    len: u8,
}

/// In place of a length: the last eight bytes are the number of a stream. No address is as long.
const STREAM: u8 = 1;
/// Where that number begins, behind all that is looked at of an address.
const STREAM_AT: usize = mem::size_of::<libc::sockaddr_in6>() - 8;

impl PartialEq for Endpoint {
    #[inline]
    fn eq(&self, other: &Endpoint) -> bool {
        self.raw == other.raw && self.len == other.len
    }
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.stream() {
            Some(stream) => stream.fmt(f),
            None => self.address().fmt(f),
        }
    }
}

/// What stands for a local address of which the kernel said nothing.
const UNKNOWN: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

impl Endpoint {
    /// The far end of a stream.
    pub fn of_stream(stream: StreamId) -> Endpoint {
        let mut endpoint = Endpoint { len: STREAM, ..Endpoint::default() };
        endpoint.raw[STREAM_AT..].copy_from_slice(&stream.0.to_ne_bytes());
        endpoint
    }

    /// Which stream it is the far end of, if it is no address.
    #[inline]
    pub fn stream(&self) -> Option<StreamId> {
        if self.len != STREAM {
            return None;
        }
        self.raw.last_chunk().map(|number| StreamId(u64::from_ne_bytes(*number)))
    }

    /// Whether packets to it are IPv4, or count as that: those in a stream.
    #[inline]
    pub fn is_v4(&self) -> bool {
        // sin6_addr begins at byte 8 of a sockaddr_in6.
        let mapped = self.raw[8..18] == [0; 10] && self.raw[18..20] == [0xff, 0xff];
        usize::from(self.len) < self.raw.len() || mapped
    }

    /// Its port, which both kinds of address have in the same place.
    #[inline]
    pub fn port(&self) -> u16 {
        u16::from_be_bytes([self.raw[2], self.raw[3]])
    }

    /// Length of [`Endpoint::to_bytes`].
    pub const LEN: usize = mem::size_of::<libc::sockaddr_in6>() + 1;

    /// As bytes, for the way to another worker.
    pub fn to_bytes(self) -> [u8; Endpoint::LEN] {
        let mut bytes = [0; Endpoint::LEN];
        let (raw, len) = bytes.split_at_mut(self.raw.len());
        raw.copy_from_slice(&self.raw);
        len.fill(self.len);
        bytes
    }

    /// What [`Endpoint::to_bytes`] made.
    pub fn from_bytes(bytes: &[u8; Endpoint::LEN]) -> Endpoint {
        let mut endpoint = Endpoint::default();
        let (raw, len) = bytes.split_at(endpoint.raw.len());
        endpoint.raw.copy_from_slice(raw);
        endpoint.len = len[0].min(raw.len() as u8);
        endpoint
    }

    /// `mapped`: the socket is IPv6, so an IPv4 address is written as ::ffff:a.b.c.d.
    pub fn new(address: SocketAddr, mapped: bool) -> Endpoint {
        let address = match address {
            SocketAddr::V4(v4) if mapped => SocketAddr::new(IpAddr::V6(v4.ip().to_ipv6_mapped()), v4.port()),
            other => other,
        };
        let native = SockAddr::from(address);
        let mut endpoint = Endpoint { raw: [0; 28], len: native.len() as u8 };
        // SAFETY: `native` is an initialised sockaddr of `len` bytes (16 or 28), which is at most the 28 bytes of `raw`.
        let bytes = unsafe { std::slice::from_raw_parts(native.as_ptr().cast::<u8>(), native.len() as usize) };
        endpoint.raw[..bytes.len()].copy_from_slice(bytes);
        endpoint
    }

    /// The address as it came from the kernel; `None` for anything but IPv4 and IPv6, as for a stream.
    pub fn address(&self) -> Option<SocketAddr> {
        if self.stream().is_some() {
            return None;
        }
        // SAFETY: a zeroed sockaddr_storage is valid; 28 bytes of it are overwritten; the kernel or `new` wrote `len` of them.
        let address = unsafe {
            let mut storage: libc::sockaddr_storage = mem::zeroed();
            std::ptr::copy_nonoverlapping(self.raw.as_ptr(), (&raw mut storage).cast::<u8>(), self.raw.len());
            SockAddr::new(mem::transmute::<libc::sockaddr_storage, socket2::SockAddrStorage>(storage), self.len.into())
        };
        let SocketAddr::V6(v6) = address.as_socket()? else { return address.as_socket() };
        Some(match v6.ip().to_ipv4_mapped() {
            Some(v4) => SocketAddr::new(v4.into(), v6.port()),
            // The scope says on which link a link-local address is.
            None => SocketAddrV6::new(*v6.ip(), v6.port(), 0, v6.scope_id()).into(),
        })
    }
}

/// How a datagram came, or all of a train.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    pub from: Endpoint,
    /// The address that it was sent to, and the interface; unspecified and 0 when the kernel did not say.
    pub to: LocalEnd,
    /// Traffic class: DSCP and ECN.
    pub class: u8,
}

impl Arrival {
    /// Of what came in a stream.
    pub fn by_stream(stream: StreamId, class: u8) -> Arrival {
        Arrival { from: Endpoint::of_stream(stream), to: LocalEnd { address: UNKNOWN, interface: 0 }, class }
    }

    /// How the control plane is told of it.
    pub fn via(&self) -> Option<Via> {
        match self.from.stream() {
            Some(stream) => Some(Via::Stream(stream)),
            None => Some(Via::Udp { from: self.from.address()?, to: self.to }),
        }
    }
}

/// What one receive call brought: a datagram, or a train of datagrams of `segment` bytes (the last may be shorter).
pub struct Received {
    pub len: usize,
    pub segment: usize,
    pub arrival: Arrival,
    /// The kernel cut it off: it was longer than the window.
    pub truncated: bool,
}

impl Received {
    /// An empty datagram is one, too.
    pub fn datagrams(&self) -> u64 {
        self.len.div_ceil(self.segment.max(1)).max(1) as u64
    }
}

/// One worker's socket of the group.
pub struct UdpSocket {
    socket: Socket,
    /// The socket is IPv6: IPv4 endpoints are written as mapped addresses.
    pub mapped: bool,
    /// Packets per train that the kernel takes; 1 when `UDP_SEGMENT` is off.
    pub segments_max: usize,
    pub gro: bool,
    /// Receive buffer that the kernel granted, in bytes, counted as it is asked for.
    pub receive_buffer: usize,
    /// Datagrams that the kernel has dropped because the receive buffer was full, as told last, and how many of them were counted.
    overflows: u32,
    counted: u32,
}

/// The kernel says through the option whether it knows `UDP_SEGMENT`; how many segments it takes shows at the first send.
fn probe_segments(socket: &Socket) -> usize {
    match set_option(socket, libc::SOL_UDP, libc::UDP_SEGMENT, 0) {
        Ok(()) => TRAIN_SEGMENTS_MAX,
        Err(_) => 1,
    }
}

impl UdpSocket {
    /// A socket that is bound and has its options (`adit_devices::sockets`).
    ///
    /// # Errors
    /// The kernel does not say what it is.
    pub fn adopt(socket: Socket) -> io::Result<UdpSocket> {
        let mapped = socket.domain()? == Domain::IPV6;
        let gro = get_option(&socket, libc::SOL_UDP, libc::UDP_GRO).is_ok_and(|on| on != 0);
        // The kernel reserves twice what is asked for, and answers with that (socket(7)).
        let receive_buffer = socket.recv_buffer_size().unwrap_or(0) / 2;
        let segments_max = probe_segments(&socket);
        Ok(UdpSocket { socket, mapped, segments_max, gro, receive_buffer, overflows: 0, counted: 0 })
    }
}

/// Room for the control messages of one call, aligned as the kernel wants them.
#[repr(C, align(8))]
struct Control([u8; CONTROL]);

/// Enough for what is asked for: segment size, overflows, the longer of both kinds of PKTINFO, and traffic class of both versions.
const CONTROL: usize = 160;

/// Puts control messages one after the other.
struct ControlWriter<'a> {
    control: &'a mut Control,
    len: usize,
}

impl ControlWriter<'_> {
    /// Appends one; the caller puts no more than fit.
    #[inline]
    fn push<T: Copy>(&mut self, level: libc::c_int, kind: libc::c_int, value: T) {
        let size = size_of::<T>() as u32;
        // SAFETY: CMSG_SPACE and CMSG_LEN only compute. `len` is a sum of CMSG_SPACEs, so the header is aligned as `Control` is; the
        // assertion keeps header and value inside of it, and nothing is read.
        unsafe {
            let space = libc::CMSG_SPACE(size) as usize;
            assert!(self.len + space <= CONTROL);
            let item = self.control.0.as_mut_ptr().add(self.len).cast::<libc::cmsghdr>();
            (*item).cmsg_level = level;
            (*item).cmsg_type = kind;
            (*item).cmsg_len = libc::CMSG_LEN(size) as usize;
            libc::CMSG_DATA(item).cast::<T>().write_unaligned(value);
            self.len += space;
        }
    }

    #[inline]
    fn source(&mut self, source: &Source) {
        let [.., a, b, c, d] = source.address;
        match source.kind {
            SourceKind::Any => {}
            SourceKind::V4 => {
                let spec_dst = libc::in_addr { s_addr: u32::from_ne_bytes([a, b, c, d]) };
                let ipi_ifindex = source.interface as libc::c_int;
                let info = libc::in_pktinfo { ipi_ifindex, ipi_spec_dst: spec_dst, ipi_addr: libc::in_addr { s_addr: 0 } };
                self.push(libc::IPPROTO_IP, libc::IP_PKTINFO, info);
            }
            SourceKind::V6 => {
                let ipi6_addr = libc::in6_addr { s6_addr: source.address };
                let info = libc::in6_pktinfo { ipi6_addr, ipi6_ifindex: source.interface };
                self.push(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info);
            }
        }
    }

    #[inline]
    fn class(&mut self, class: u8, to: &Endpoint) {
        if class == 0 {
            return;
        }
        let value = libc::c_int::from(class);
        if to.is_v4() {
            self.push(libc::IPPROTO_IP, libc::IP_TOS, value);
        } else {
            self.push(libc::IPPROTO_IPV6, libc::IPV6_TCLASS, value);
        }
    }
}

impl UdpSocket {
    /// Marks what is sent, for the rules of the machine's routing.
    pub fn set_mark(&self, mark: u32) -> io::Result<()> {
        self.socket.set_mark(mark)
    }

    pub fn raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// Receives a datagram or a train into `window`. `WouldBlock` when there is none.
    #[inline]
    pub fn receive(&mut self, window: &mut [u8]) -> io::Result<Received> {
        let mut from = Endpoint::default();
        let mut control = Control([0; CONTROL]);
        let mut iov = libc::iovec { iov_base: window.as_mut_ptr().cast(), iov_len: window.len() };
        // SAFETY: all-zero is a valid msghdr.
        let mut message: libc::msghdr = unsafe { mem::zeroed() };
        message.msg_name = from.raw.as_mut_ptr().cast();
        message.msg_namelen = from.raw.len() as u32;
        message.msg_iov = &raw mut iov;
        message.msg_iovlen = 1;
        message.msg_control = control.0.as_mut_ptr().cast();
        message.msg_controllen = control.0.len();
        // SAFETY: name, iovec and control point to live buffers of the lengths given.
        let len = unsafe { libc::recvmsg(self.socket.as_raw_fd(), &raw mut message, 0) };
        if len < 0 {
            return Err(io::Error::last_os_error());
        }
        from.len = message.msg_namelen.min(28) as u8;
        let len = len as usize;
        let arrival = Arrival { from, to: LocalEnd { address: UNKNOWN, interface: 0 }, class: 0 };
        let mut received = Received { len, segment: len, arrival, truncated: message.msg_flags & libc::MSG_TRUNC != 0 };
        self.read_control(&message, &mut received);
        Ok(received)
    }

    #[inline]
    fn read_control(&mut self, message: &libc::msghdr, received: &mut Received) {
        // SAFETY: the kernel wrote well-formed control messages of `msg_controllen` bytes; CMSG_* stay inside them.
        unsafe {
            let mut item = libc::CMSG_FIRSTHDR(message);
            while !item.is_null() {
                let data = libc::CMSG_DATA(item);
                match ((*item).cmsg_level, (*item).cmsg_type) {
                    (libc::SOL_UDP, libc::UDP_GRO) => {
                        let segment = data.cast::<libc::c_int>().read_unaligned();
                        if segment > 0 {
                            received.segment = segment as usize;
                        }
                    }
                    (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                        let info = data.cast::<libc::in_pktinfo>().read_unaligned();
                        let address = Ipv4Addr::from(info.ipi_addr.s_addr.to_ne_bytes());
                        received.arrival.to = LocalEnd { address: address.into(), interface: info.ipi_ifindex as u32 };
                    }
                    (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                        let info = data.cast::<libc::in6_pktinfo>().read_unaligned();
                        let address = IpAddr::from(info.ipi6_addr.s6_addr).to_canonical();
                        received.arrival.to = LocalEnd { address, interface: info.ipi6_ifindex };
                    }
                    (libc::IPPROTO_IP, libc::IP_TOS) => received.arrival.class = data.read(),
                    (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                        received.arrival.class = data.cast::<libc::c_int>().read_unaligned() as u8;
                    }
                    (libc::SOL_SOCKET, libc::SO_RXQ_OVFL) => self.overflows = data.cast::<u32>().read_unaligned(),
                    _ => {}
                }
                item = libc::CMSG_NXTHDR(message, item);
            }
        }
    }

    /// Datagrams that the kernel has dropped because the receive buffer was full, since this was asked last.
    pub fn new_overflows(&mut self) -> u32 {
        let new = self.overflows.wrapping_sub(self.counted);
        self.counted = self.overflows;
        new
    }

    /// Sends `bytes` as datagrams of `segment` bytes each, the last may be shorter, in packets of this traffic class.
    #[inline]
    pub fn send(&self, hop: &Hop, class: u8, bytes: &[u8], segment: usize) -> io::Result<()> {
        let mut control = Control([0; CONTROL]);
        let mut writer = ControlWriter { control: &mut control, len: 0 };
        if segment < bytes.len() {
            writer.push(libc::SOL_UDP, libc::UDP_SEGMENT, segment as u16);
        }
        writer.source(&hop.source);
        writer.class(class, &hop.to);
        let control_len = writer.len;
        let mut iov = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        // SAFETY: all-zero is a valid msghdr.
        let mut message: libc::msghdr = unsafe { mem::zeroed() };
        message.msg_name = hop.to.raw.as_ptr().cast_mut().cast();
        message.msg_namelen = hop.to.len.into();
        message.msg_iov = &raw mut iov;
        message.msg_iovlen = 1;
        if control_len > 0 {
            message.msg_control = control.0.as_mut_ptr().cast();
            message.msg_controllen = control_len;
        }
        // SAFETY: name, iovec and control point to live buffers of the lengths given; the kernel only reads them.
        let sent = unsafe { libc::sendmsg(self.socket.as_raw_fd(), &raw const message, 0) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use adit_devices::sockets::{self, Wanted};
    use adit_proto::esp::SPI_MIN;
    use socket2::Type;

    use super::*;

    pub(super) fn bind_group(listen: &str, workers: usize) -> Vec<UdpSocket> {
        let wanted = Wanted { listen: listen.parse().unwrap(), workers, buffer: 1 << 20, mark: 0 };
        let group = sockets::bind_group(&wanted, Instant::now()).unwrap();
        group.into_iter().map(|socket| UdpSocket::adopt(socket).unwrap()).collect()
    }

    fn drain(socket: &mut UdpSocket) -> Vec<(usize, usize)> {
        let mut window = vec![0; 65_536];
        let mut all = Vec::new();
        while let Ok(received) = socket.receive(&mut window) {
            all.push((received.len, received.segment));
        }
        all
    }

    #[test]
    fn a_train_arrives_whole_and_an_endpoint_survives_the_round_trip() {
        let mut sockets = bind_group("127.0.0.1:0", 1);
        let address = sockets[0].socket.local_addr().unwrap().as_socket().unwrap();
        let to = Endpoint::new(address, false);
        assert_eq!(to.address(), Some(address));
        sockets[0].send(&Hop::to(to), 0, &[7; 2900], 1000).unwrap();
        assert_eq!(drain(&mut sockets[0]), [(2900, 1000)]);
        let mapped = Endpoint::new(address, true);
        assert_eq!(mapped.address(), Some(address), "mapped addresses are shown as IPv4");
        let link_local = "[fe80::1%7]:4500".parse().unwrap();
        assert_eq!(Endpoint::new(link_local, true).address(), Some(link_local), "with its scope");
    }

    #[test]
    fn the_end_of_a_stream_is_no_address_and_goes_to_other_workers_as_it_is() {
        let stream = StreamId(0x01f4_0000_01f4_0011);
        let end = Endpoint::of_stream(stream);
        assert_eq!((end.stream(), end.address(), end.is_v4(), end.port()), (Some(stream), None, true, 0));
        assert_eq!(Endpoint::from_bytes(&end.to_bytes()), end);
        assert_ne!(Endpoint::of_stream(StreamId(stream.0 + 1)), end);
        assert_eq!(Arrival::by_stream(stream, 3).via(), Some(Via::Stream(stream)));
        assert_eq!(Hop::back(end, Arrival::by_stream(stream, 3).to), Hop::to(end));
        let address = Endpoint::new("192.0.2.1:4500".parse().unwrap(), false);
        assert_eq!((address.stream(), Endpoint::default().stream()), (None, None));
    }

    #[test]
    fn the_receive_buffer_is_told_as_it_was_asked_for() {
        let wanted = Wanted { listen: "127.0.0.1:0".parse().unwrap(), workers: 1, buffer: 128 << 10, mark: 0 };
        let socket = sockets::bind_group(&wanted, Instant::now()).unwrap().remove(0);
        assert_eq!(UdpSocket::adopt(socket).unwrap().receive_buffer, wanted.buffer);
    }

    /// Sends a train to a socket's own address as said; says what arrived.
    fn to_itself(listen: &str, remote: &str, local: Option<&str>, class: u8) -> (Received, SocketAddr) {
        let mut sockets = bind_group(listen, 1);
        let port = sockets[0].socket.local_addr().unwrap().as_socket().unwrap().port();
        let to = SocketAddr::new(remote.parse().unwrap(), port);
        let hop = Hop::new(to, local.map(|local| local.parse().unwrap()), 0, sockets[0].mapped).unwrap();
        sockets[0].send(&hop, class, &[7; 2900], 1000).unwrap();
        let received = sockets[0].receive(&mut vec![0; 65_536]).unwrap();
        let from = received.arrival.from.address().unwrap();
        (received, SocketAddr::new(from.ip(), if from.port() == port { 0 } else { from.port() }))
    }

    #[test]
    fn datagrams_leave_from_the_source_named_and_arrive_with_their_end() {
        for (listen, remote, local) in [
            ("0.0.0.0:0", "127.0.0.1", "127.0.0.9"),
            ("[::]:0", "127.0.0.1", "127.0.0.9"),
            ("[::]:0", "::1", "::1"),
            ("127.0.0.1:0", "127.0.0.1", "127.0.0.1"),
        ] {
            for class in [0, 0b1010_1110] {
                let (received, from) = to_itself(listen, remote, Some(local), class);
                assert_eq!(from, SocketAddr::new(local.parse().unwrap(), 0), "{listen}");
                assert_eq!(
                    (received.arrival.to.address, received.arrival.to.interface),
                    (remote.parse().unwrap(), 1),
                    "{listen}: loopback"
                );
                assert_eq!((received.arrival.class, received.len, received.segment), (class, 2900, 1000), "{listen}");
            }
        }
        let (received, from) = to_itself("0.0.0.0:0", "127.0.0.7", None, 0);
        assert_eq!(
            (received.arrival.to.address, from.ip()),
            ("127.0.0.7".parse().unwrap(), "127.0.0.1".parse::<IpAddr>().unwrap())
        );
    }

    #[test]
    fn datagrams_are_steered_by_the_low_bits_of_the_spi() {
        let mut sockets = bind_group("127.0.0.1:0", 3);
        let sender = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
        let target = sockets[0].socket.local_addr().unwrap();
        let send = |bytes: &[u8]| sender.send_to(bytes, &target).unwrap();
        for lane in 0..6u32 {
            send(&[&(SPI_MIN | 0x1240 | lane).to_be_bytes()[..], &[0; 40]].concat());
        }
        for odd in [&[0xff][..], &[0, 0, 0, 0, 9, 9], &[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42], &[0x3f, 0xff, 0xff, 0xff]] {
            send(odd);
        }
        // ChannelData of TURN on a channel whose lowest bits would name another worker.
        send(&[0x40, 0x01, 0, 1, 7, 0, 0, 0]);
        let counts: Vec<usize> = sockets.iter_mut().map(|socket| drain(socket).len()).collect();
        assert_eq!(counts, [2 + 5, 2, 2]);
    }
}
