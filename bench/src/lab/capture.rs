//! What passes on a link, and frames of one's own making put onto it: a packet socket with the virtio-net header, so that
//! trains (`UDP_SEGMENT`) are seen and sent whole with the size of their segments.
//!
//! Every frame that the socket hands out is parsed with bounds; anything that is not UDP over IPv4 is skipped.

use std::io;
use std::mem::size_of;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::load::large_receive_buffer;
use crate::netns::Netns;

const VNET_HEADER: usize = 10;
const ETHERNET: usize = 14;
const UDP: usize = 8;
const FRAME_MAX: usize = 1 << 17;
/// `struct virtio_net_hdr` (linux/virtio_net.h).
const NEEDS_CSUM: u8 = 1;
const GSO_UDP_L4: u8 = 5;

/// A socket that sees all that passes on one link, both ways.
#[derive(Debug)]
pub struct Capture {
    socket: Socket,
    buffer: Vec<u8>,
}

/// A pcap file of these datagrams, each in a frame of its own, for a protocol analyser; the time is the number in the row, in
/// microseconds.
pub fn pcap(datagrams: &[Datagram]) -> Result<Vec<u8>> {
    // Magic number, version 2.4, UTC, length limit, LINKTYPE_ETHERNET (draft-ietf-opsawg-pcap §4).
    let header: [u32; 6] = [0xa1b2_c3d4, 0x0004_0002, 0, 0, FRAME_MAX as u32, 1];
    let mut file: Vec<u8> = header.iter().flat_map(|word| word.to_le_bytes()).collect();
    for (number, datagram) in (0u32..).zip(datagrams) {
        let frame = frame(datagram, &datagram.payload, &[0; VNET_HEADER])?.split_off(VNET_HEADER);
        let length = u32::try_from(frame.len())?;
        file.extend([0, number, length, length].iter().flat_map(|word| word.to_le_bytes()));
        file.extend(frame);
    }
    Ok(file)
}

/// A socket that puts frames onto one link and receives nothing.
#[derive(Debug)]
pub struct Injector(Socket);

/// A UDP datagram over IPv4, cut out of a train where it was in one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram {
    pub from: SocketAddrV4,
    pub to: SocketAddrV4,
    /// MAC addresses, destination first.
    pub ethernet: [u8; ETHERNET],
    pub payload: Vec<u8>,
}

impl Capture {
    /// Opens the socket on a link of the namespace. Needs CAP_NET_RAW.
    pub fn open(netns: &Netns, link: &str) -> Result<Capture> {
        let socket = open(netns, link, libc::ETH_P_ALL as u16)?;
        large_receive_buffer(&socket);
        Ok(Capture { socket, buffer: vec![0; FRAME_MAX] })
    }

    /// All datagrams of the next frame that carries UDP over IPv4; `None` when nothing came until `deadline`.
    pub fn next(&mut self, deadline: Instant) -> Result<Option<Vec<Datagram>>> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.socket.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
            match io::Read::read(&mut &self.socket, &mut self.buffer) {
                Ok(length) => {
                    if let Some(datagrams) = parse(&self.buffer[..length]) {
                        return Ok(Some(datagrams));
                    }
                }
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(error) => return Err(error).context("cannot read from the packet socket"),
            }
        }
    }

    /// All that the socket has seen until now, and sees until nothing came for a while.
    pub fn drain(&mut self) -> Result<Vec<Datagram>> {
        let mut all = Vec::new();
        while let Some(datagrams) = self.next(Instant::now() + Duration::from_millis(200))? {
            all.extend(datagrams);
        }
        Ok(all)
    }

    /// The datagrams that `wanted` picks, until there are `count` or `timeout` went by.
    pub fn collect(&mut self, count: usize, timeout: Duration, wanted: impl Fn(&Datagram) -> bool) -> Result<Vec<Datagram>> {
        let deadline = Instant::now() + timeout;
        let mut found = Vec::new();
        while found.len() < count {
            let Some(datagrams) = self.next(deadline)? else { break };
            found.extend(datagrams.into_iter().filter(&wanted));
        }
        Ok(found)
    }
}

impl Injector {
    /// Opens the socket on a link of the namespace. Needs CAP_NET_RAW.
    pub fn open(netns: &Netns, link: &str) -> Result<Injector> {
        open(netns, link, 0).map(Injector)
    }

    /// Puts a datagram onto the link as a frame of its own, with any sender's address.
    pub fn send(&self, datagram: &Datagram) -> Result<()> {
        self.write(&frame(datagram, &datagram.payload, &[0; VNET_HEADER])?)
    }

    /// Puts datagrams onto the link as one train. All but the last have the same length, and the last is not longer.
    pub fn send_train(&self, train: &[Datagram]) -> Result<()> {
        let first = train.first().context("an empty train")?;
        let segment = first.payload.len();
        let (last, others) = train.split_last().context("an empty train")?;
        ensure!(
            others.iter().all(|datagram| datagram.payload.len() == segment) && last.payload.len() <= segment,
            "the datagrams of a train have one length"
        );
        let payload: Vec<u8> = train.iter().flat_map(|datagram| datagram.payload.iter().copied()).collect();
        let mut header = [0; VNET_HEADER];
        header[0] = NEEDS_CSUM;
        header[1] = GSO_UDP_L4;
        header[2..4].copy_from_slice(&((ETHERNET + 20 + UDP) as u16).to_le_bytes());
        header[4..6].copy_from_slice(&(segment as u16).to_le_bytes());
        header[6..8].copy_from_slice(&((ETHERNET + 20) as u16).to_le_bytes());
        header[8..10].copy_from_slice(&6u16.to_le_bytes());
        self.write(&frame(first, &payload, &header)?)
    }

    fn write(&self, frame: &[u8]) -> Result<()> {
        let sent = self.0.send(frame).context("cannot put the frame onto the link")?;
        ensure!(sent == frame.len(), "the frame went out cut short");
        Ok(())
    }
}

/// A packet socket on a link; protocol 0 receives nothing.
fn open(netns: &Netns, link: &str, protocol: u16) -> Result<Socket> {
    let line = netns.run(&format!("ip -o link show dev {link}"))?;
    let index = line.split(':').next().and_then(|number| number.parse().ok()).context("the index of the link")?;
    let protocol = protocol.to_be();
    let socket = netns
        .enter(|| Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(i32::from(protocol)))))
        .context("cannot open a packet socket (CAP_NET_RAW is needed)")?;
    with_vnet_header(&socket).context("PACKET_VNET_HDR")?;
    socket.bind(&link_address(index, protocol)?)?;
    Ok(socket)
}

fn with_vnet_header(socket: &Socket) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the option value is a live c_int whose size is given; the kernel only reads it.
    let status = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_VNET_HDR,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn link_address(index: i32, protocol: u16) -> io::Result<SockAddr> {
    // SAFETY: the storage that is handed in is zeroed, large enough and aligned for every kind of address, and all fields that
    // matter in a sockaddr_ll for bind are set; the length is that of the structure.
    let ((), address) = unsafe {
        SockAddr::try_init(|storage, length| {
            let link = storage.cast::<libc::sockaddr_ll>();
            (*link).sll_family = libc::AF_PACKET as u16;
            (*link).sll_protocol = protocol;
            (*link).sll_ifindex = index;
            *length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
            Ok(())
        })?
    };
    Ok(address)
}

/// virtio-net header, Ethernet, IPv4 without options, UDP. The UDP checksum is the pseudo-header's where the kernel is asked to
/// complete it, else 0: none (RFC 768).
fn frame(datagram: &Datagram, payload: &[u8], vnet: &[u8; VNET_HEADER]) -> Result<Vec<u8>> {
    let udp_length = u16::try_from(UDP + payload.len())?;
    let total = u16::try_from(20 + UDP + payload.len())?;
    let mut frame = Vec::with_capacity(VNET_HEADER + ETHERNET + usize::from(total));
    frame.extend(vnet);
    frame.extend(datagram.ethernet);
    let mut ip = [0; 20];
    ip[0] = 0x45;
    ip[2..4].copy_from_slice(&total.to_be_bytes());
    ip[8] = 64;
    ip[9] = libc::IPPROTO_UDP as u8;
    ip[12..16].copy_from_slice(&datagram.from.ip().octets());
    ip[16..20].copy_from_slice(&datagram.to.ip().octets());
    let sum = !fold(sum(&ip));
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    frame.extend(ip);
    frame.extend(datagram.from.port().to_be_bytes());
    frame.extend(datagram.to.port().to_be_bytes());
    frame.extend(udp_length.to_be_bytes());
    let pseudo = fold(sum_of_addresses(datagram) + u32::from(ip[9]) + u32::from(udp_length));
    frame.extend(if vnet[0] & NEEDS_CSUM != 0 { pseudo } else { 0 }.to_be_bytes());
    frame.extend(payload);
    Ok(frame)
}

fn sum(bytes: &[u8]) -> u32 {
    bytes.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum()
}

fn sum_of_addresses(datagram: &Datagram) -> u32 {
    sum(&datagram.from.ip().octets()) + sum(&datagram.to.ip().octets())
}

fn fold(sum: u32) -> u16 {
    let once = (sum & 0xFFFF) + (sum >> 16);
    ((once & 0xFFFF) + (once >> 16)) as u16
}

fn parse(raw: &[u8]) -> Option<Vec<Datagram>> {
    let (vnet, frame) = raw.split_at_checked(VNET_HEADER)?;
    let ethernet: [u8; ETHERNET] = frame.get(..ETHERNET)?.try_into().ok()?;
    let ip = frame.get(ETHERNET..)?;
    let header = usize::from(ip.first()? & 15) * 4;
    let fragment = u16::from_be_bytes([*ip.get(6)?, *ip.get(7)?]) & 0x3FFF;
    if ethernet[12..] != [8, 0] || ip[0] >> 4 != 4 || i32::from(*ip.get(9)?) != libc::IPPROTO_UDP || fragment != 0 {
        return None;
    }
    let address = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(ip.get(at..at + 4)?).ok()?));
    let port = |at: usize| Some(u16::from_be_bytes(ip.get(header + at..header + at + 2)?.try_into().ok()?));
    let length = usize::from(port(4)?).checked_sub(UDP)?;
    let payload = ip.get(header + UDP..)?.get(..length)?;
    let segment = usize::from(u16::from_le_bytes([vnet[4], vnet[5]]));
    let is_train = vnet[1] & 0x7F == GSO_UDP_L4 && segment > 0;
    let (from, to) = (SocketAddrV4::new(address(12)?, port(0)?), SocketAddrV4::new(address(16)?, port(2)?));
    let one = |payload: &[u8]| Datagram { from, to, ethernet, payload: payload.to_vec() };
    // A datagram without payload is one too; chunks of nothing are none.
    if is_train && !payload.is_empty() { Some(payload.chunks(segment).map(one).collect()) } else { Some(vec![one(payload)]) }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;
    use crate::netns::Veth;

    #[test]
    fn datagrams_are_seen_changed_and_put_back_singly_and_as_a_train() {
        let (a, b) = (Netns::new("capture-a").unwrap(), Netns::new("capture-b").unwrap());
        let _veth = Veth::between(&a, "eth0", &b, "eth0", 1500).unwrap();
        a.address("eth0", "192.0.2.1/24").unwrap();
        b.address("eth0", "192.0.2.2/24").unwrap();
        let sink = b.enter(|| UdpSocket::bind("192.0.2.2:4500")).unwrap();
        sink.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut capture = Capture::open(&a, "eth0").unwrap();
        let source = a.enter(|| UdpSocket::bind("192.0.2.1:999")).unwrap();
        source.send_to(b"one", "192.0.2.2:4500").unwrap();

        let seen = capture.collect(1, Duration::from_secs(5), |datagram| datagram.to.port() == 4500).unwrap();
        assert_eq!(seen[0].payload, b"one");
        let mut buffer = [0; 100];
        assert_eq!(sink.recv_from(&mut buffer).unwrap(), (3, "192.0.2.1:999".parse().unwrap()));

        let spoofed = Datagram { from: "192.0.2.9:7".parse().unwrap(), payload: b"two".to_vec(), ..seen[0].clone() };
        let injector = Injector::open(&a, "eth0").unwrap();
        injector.send(&spoofed).unwrap();
        assert_eq!(sink.recv_from(&mut buffer).unwrap(), (3, "192.0.2.9:7".parse().unwrap()));
        assert_eq!(&buffer[..3], b"two");

        let train: Vec<_> =
            [&b"aaaa"[..], b"bbbb", b"c"].map(|payload| Datagram { payload: payload.to_vec(), ..spoofed.clone() }).to_vec();
        injector.send_train(&train).unwrap();
        let arrived: Vec<_> = (0..3).map(|_| sink.recv(&mut buffer).map(|length| buffer[..length].to_vec()).unwrap()).collect();
        assert_eq!(arrived, [&b"aaaa"[..], b"bbbb", b"c"]);
    }

    #[test]
    fn frames_that_are_cut_short_are_skipped() {
        let datagram = Datagram {
            from: "192.0.2.1:1".parse().unwrap(),
            to: "192.0.2.2:2".parse().unwrap(),
            ethernet: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 8, 0],
            payload: b"payload".to_vec(),
        };
        let whole = frame(&datagram, &datagram.payload, &[0; VNET_HEADER]).unwrap();
        assert_eq!(parse(&whole).unwrap(), [datagram]);
        assert!((0..whole.len()).all(|length| parse(&whole[..length]).is_none()));
    }
}
