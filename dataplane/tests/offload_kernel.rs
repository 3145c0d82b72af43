//! The offloads against the kernel itself: super-frames written to a real TAP arrive in sockets byte for byte, and super-frames
//! that the kernel makes are split into frames with right checksums. Tagged ones go through a bridge from one TAP to another.

mod offload;
mod support;

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use adit_dataplane::tap::coalesce::{Coalescer, Limits};
use adit_dataplane::tap::headers::be32;
use adit_dataplane::tap::split::{Checksums, Plan};
use adit_dataplane::tap::vnet::{self, VnetHeader};
use adit_dataplane::tap::{self, TapQueue};
use adit_proto::control::Mode;
use offload::{ACK, Flow, PSH, SYN, Segment, Writes, pattern, plain_sum};
use support::{eventually, in_namespace, run};

/// A TAP and the host behind it, which has the oracle's destination address.
struct Host {
    queue: Arc<TapQueue>,
    flow: Flow,
}

impl Host {
    fn new(flow: Flow) -> Host {
        let mut tap =
            tap::create(adit_proto::control::Mode::Ethernet, "tap0", Some([2, 0, 0, 0, 0, 0xbb]), 1500, 1).expect("a TAP");
        let (address, net, peer) = if flow.v6 {
            ("fd07:707:707:707:707:707:707:702/128", "fd00::/64", "fd00::1")
        } else {
            ("10.9.9.2/32", "10.0.0.0/24", "10.0.0.1")
        };
        let address: &[&str] = if flow.v6 { &["addr", "add", address, "nodad", "dev"] } else { &["addr", "add", address, "dev"] };
        run("ip", &["link", "set", "tap0", "addrgenmode", "none"]);
        run("ip", &["link", "set", "tap0", "up"]);
        run("ip", &[address, &["tap0"]].concat());
        run("ip", &["route", "add", net, "dev", "tap0"]);
        run("ip", &["neigh", "add", peer, "lladdr", "02:00:00:00:00:01", "dev", "tap0"]);
        let host = Host { queue: tap.queues.remove(0).into(), flow };
        // The kernel does a part of it later, and drops what comes before.
        eventually("the host takes what is sent to it", || host.is_local());
        host
    }

    /// Whether the kernel has the route by which it takes frames for the host's address.
    fn is_local(&self) -> bool {
        let address = self.address().ip().to_string();
        let asked = Command::new("ip").args(["route", "get", &address]).output().expect("ip runs");
        asked.stdout.starts_with(b"local ")
    }

    fn address(&self) -> SocketAddr {
        let text = if self.flow.v6 { "[fd07:707:707:707:707:707:707:702]:5201" } else { "10.9.9.2:5201" };
        text.parse().expect("an address")
    }

    fn peer(&self) -> SocketAddr {
        let text = if self.flow.v6 { "[fd00::1]:40000" } else { "10.0.0.1:40000" };
        text.parse().expect("an address")
    }

    fn write(&self, header: &VnetHeader, frame: &[u8]) -> io::Result<usize> {
        // SAFETY: the queue is open as long as `self` is borrowed.
        let fd = unsafe { BorrowedFd::borrow_raw(self.queue.raw_fd()) };
        let mut bytes = [0; vnet::LEN];
        header.write(&mut bytes);
        std::fs::File::from(fd.try_clone_to_owned()?).write(&[&bytes, frame].concat())
    }

    /// Coalesces the segments and writes what comes of it; the number of frames in each write.
    fn write_train(&self, segments: &[Segment], open: bool) -> Vec<usize> {
        let mut coalescer = Coalescer::new(Mode::Ethernet, Limits { tso: true, ..self.queue.limits });
        let (mut arena, mut out) = (vec![0; 1 << 20], Writes::default());
        let mut at = 0;
        for segment in segments {
            let frame = if open { self.flow.open(segment) } else { self.flow.wire(segment) };
            at += 26;
            arena[at..at + frame.len()].copy_from_slice(&frame);
            coalescer.push(&mut arena, at..at + frame.len(), open, &mut out);
            at += frame.len();
        }
        coalescer.flush(&mut arena, &mut out);
        for write in &out.0 {
            self.write(&write.header, &write.frame).expect("the kernel takes the super-frame");
        }
        out.0.iter().map(|write| write.frames).collect()
    }

    /// The next frame of the flow that the host sends.
    fn read(&self) -> (VnetHeader, Vec<u8>) {
        let mut buffer = vec![0; 70_000];
        let mut found = None;
        eventually("a frame comes out of the TAP", || {
            let Ok(len) = self.queue.read(&mut buffer) else { return false };
            let header = VnetHeader::parse(buffer.first_chunk().expect("a header"));
            let frame = buffer[vnet::LEN..len].to_vec();
            // Neighbour discovery and its like are not ours.
            let protocol = frame[self.flow.l3() + if self.flow.v6 { 6 } else { 9 }];
            let ethernet = self.flow.ethernet();
            if frame[12..].starts_with(&ethernet[12..]) && [6, 17].contains(&protocol) {
                found = Some((header, frame));
            }
            found.is_some()
        });
        found.expect("a frame")
    }

    /// Splits what was read and checks each segment's sums in plain steps; payloads by TCP sequence number or in order.
    fn split(&self, header: &VnetHeader, frame: &[u8], out: &mut BTreeMap<u32, Vec<u8>>) -> usize {
        let mut buffer = [&[0; 16], frame].concat();
        let plan = Plan::new(Mode::Ethernet, header, frame, 16).expect("the kernel's header fits its frame");
        for k in 0..plan.segments() {
            let (range, open) = plan.segment(k, &mut buffer, Checksums::Fill);
            assert!(!open && range.len() <= self.flow.l3() + 1500, "a wire frame with a filled checksum");
            let segment = &buffer[range];
            let (l3, l4) = (self.flow.l3(), self.flow.l4());
            let addresses = if self.flow.v6 { &segment[l3 + 8..l3 + 40] } else { &segment[l3 + 12..l3 + 20] };
            let pseudo =
                [addresses, &[0, if self.flow.tcp { 6 } else { 17 }], &((segment.len() - l4) as u16).to_be_bytes()].concat();
            assert_eq!(plain_sum(&[&pseudo, &segment[l4..]]), 0xffff, "the transport checksum of segment {k}");
            if !self.flow.v6 {
                assert_eq!(plain_sum(&[&segment[l3..l4]]), 0xffff, "the IPv4 header checksum of segment {k}");
            }
            let payload = l4 + if self.flow.tcp { usize::from(segment[l4 + 12] >> 4) * 4 } else { 8 };
            let place = if self.flow.tcp { be32(segment, l4 + 4) } else { out.len() as u32 };
            out.insert(place, segment[payload..].to_vec());
        }
        plan.segments()
    }
}

/// The test for IPv4 and IPv6, each in a namespace of its own.
fn both(tcp: bool, test: fn(Host)) {
    for v6 in [false, true] {
        let flow = Flow { tcp_options: vec![], window: 65_535, ack: 0, ..Flow::simple(v6, tcp) };
        in_namespace(move || test(Host::new(flow)));
    }
}

#[test]
fn tagged_super_frames_cross_a_bridge_to_another_tap_unharmed() {
    for (v6, tcp) in [(false, true), (true, true), (false, false), (true, false)] {
        in_namespace(move || {
            let [into, out] = ["tap0", "tap1"]
                .map(|name| {
                    tap::create(adit_proto::control::Mode::Ethernet, name, None, 1500, 1).expect("a TAP").queues.remove(0)
                })
                .map(Arc::new);
            run("ip", &["link", "add", "bridge0", "type", "bridge", "forward_delay", "0"]);
            for name in ["tap0", "tap1", "bridge0"] {
                run("ip", &["link", "set", name, "addrgenmode", "none"]);
                if name != "bridge0" {
                    run("ip", &["link", "set", name, "master", "bridge0"]);
                }
                run("ip", &["link", "set", name, "up"]);
            }
            for (tags, open) in [(vec![], true), (vec![7], true), (vec![7], false), (vec![100, 200], true)] {
                let flow = Flow { tags, ..Flow::simple(v6, tcp) };
                // As long as a super-frame may be; were it longer, the kernel would split it for the second TAP.
                let payload = pattern(65_535 - flow.payload(), 6);
                let whole = Segment { identification: 9, sequence: 5, flags: ACK | PSH, payload };
                let (from, to) = (Host { queue: into.clone(), flow: flow.clone() }, Host { queue: out.clone(), flow });
                let segments = from.flow.segments(&whole, 1400);
                let writes = if from.queue.limits.uso || tcp { vec![segments.len()] } else { vec![1; segments.len()] };
                assert_eq!(from.write_train(&segments, open), writes);
                let mut pieces = BTreeMap::new();
                while pieces.len() < segments.len() {
                    let (header, frame) = to.read();
                    let made = to.split(&header, &frame, &mut pieces);
                    // The kernel itself splits frames with two tags.
                    assert!(from.flow.tags.len() == 2 || made == writes[0]);
                }
                assert_eq!(pieces.into_values().collect::<Vec<_>>().concat(), whole.payload);
            }
        });
    }
}

#[test]
fn tcp_super_frames_arrive_in_a_socket_and_come_from_one() {
    both(true, |mut host| {
        let listener = TcpListener::bind(host.address()).expect("a listener");
        let syn = Flow { tcp_options: vec![2, 4, 5, 0xa0], ..host.flow.clone() };
        let first = Segment { identification: 1, sequence: 1000, flags: SYN, payload: vec![] };
        host.write(&VnetHeader::default(), &syn.wire(&first)).expect("a SYN");
        let (_, answer) = host.read();
        assert_eq!(answer[host.flow.l4() + 13], SYN | ACK);
        host.flow.ack = be32(&answer, host.flow.l4() + 4).wrapping_add(1);

        let whole = Segment { identification: 2, sequence: 1001, flags: ACK | PSH, payload: pattern(45 * 1400, 1) };
        let segments = host.flow.segments(&whole, 1400);
        let (open, verified) = segments.split_at(20);
        assert_eq!(host.write_train(open, true), [20]);
        assert_eq!(host.write_train(verified, false), [25]);
        let (mut stream, _) = listener.accept().expect("a connection");
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
        let mut received = vec![0; whole.payload.len()];
        stream.read_exact(&mut received).expect("all bytes");
        assert_eq!(received, whole.payload);

        // The other way: as much as the initial congestion window takes.
        let sent = pattern(12_000, 2);
        stream.write_all(&sent).expect("room in the socket");
        let (mut pieces, mut most) = (BTreeMap::new(), 0);
        while pieces.values().map(Vec::len).sum::<usize>() < sent.len() {
            let (header, frame) = host.read();
            most = most.max(host.split(&header, &frame, &mut pieces));
            pieces.retain(|_, payload| !payload.is_empty());
        }
        assert!(most > 1, "the kernel made a super-frame");
        assert_eq!(pieces.into_values().collect::<Vec<_>>().concat(), sent);
    });
}

#[test]
fn udp_super_frames_arrive_in_a_socket_and_come_from_one() {
    both(false, |host| {
        let limits = host.queue.limits;
        if !limits.uso {
            return eprintln!("this kernel takes no UDP super-frames (Linux 6.2)");
        }
        let socket = UdpSocket::bind(host.address()).expect("a socket");
        socket.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
        for (count, size, open) in
            [(limits.uso_frames, 18, false), (limits.uso_frames, 18, true), (46, 1400, false), (2, 1, true)]
        {
            let whole = Segment { identification: 1, sequence: 0, flags: 0, payload: pattern(count * size, 3) };
            let segments = host.flow.segments(&whole, size);
            assert_eq!(host.write_train(&segments, open), [count]);
            let mut buffer = vec![0; 2000];
            for segment in &segments {
                let (len, from) = socket.recv_from(&mut buffer).expect("every datagram");
                assert_eq!((from, &buffer[..len]), (host.peer(), &segment.payload[..]));
            }
        }

        let value: libc::c_int = 1000;
        // SAFETY: pointer and length describe `value`.
        let result = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_UDP,
                libc::UDP_SEGMENT,
                (&raw const value).cast(),
                size_of_val(&value) as u32,
            )
        };
        assert_eq!(result, 0);
        let sent = pattern(10_300, 4);
        socket.send_to(&sent, host.peer()).expect("a sent train");
        let (mut pieces, (header, frame)) = (BTreeMap::new(), host.read());
        assert_eq!(host.split(&header, &frame, &mut pieces), 11, "the kernel made one super-frame");
        assert_eq!(pieces.into_values().collect::<Vec<_>>().concat(), sent);
    });
}

#[test]
fn an_open_checksum_is_taken_and_a_wrong_one_is_not_repaired() {
    both(false, |host| {
        let socket = UdpSocket::bind(host.address()).expect("a socket");
        socket.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
        let segments: Vec<Segment> = [b"broken", b"opened", b"verify"]
            .map(|payload| Segment { identification: 1, sequence: 0, flags: 0, payload: payload.to_vec() })
            .into();
        let mut broken = host.flow.wire(&segments[0]);
        broken[host.flow.field()] ^= 0x55;
        host.write(&VnetHeader::default(), &broken).expect("the TAP takes it");
        host.write_train(&segments[1..2], true);
        host.write_train(&segments[2..], false);
        let mut buffer = [0; 100];
        for expected in [b"opened", b"verify"] {
            let len = socket.recv(&mut buffer).expect("a datagram");
            assert_eq!(&buffer[..len], expected, "the broken one is dropped by the host");
        }
    });
}
