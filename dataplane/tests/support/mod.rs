//! A data plane inside the test process: the real TAP, the real sockets, the real workers, in a network namespace of the
//! test's own. The test plays the control plane (it attaches to the channel), the peer (a UDP socket that seals and opens with
//! the library) and the host behind the TAP (a packet socket on the interface).
#![allow(dead_code, reason = "each test program uses a part")]

use std::io::{Read, Write};
use std::net::{Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use adit_channel::Master;
use adit_dataplane::config::Config;
use adit_dataplane::open::{Opened, open};
use adit_dataplane::running::Running;
use adit_dataplane::sa;
use adit_dataplane::seal::{Inner, seal};
use adit_dataplane::start::Plane;
use adit_dataplane::tap::vnet::{self, VnetHeader};
use adit_esp::aead::{Aead, Backend};
use adit_esp::{Opener, Sealer};
use adit_proto::control::{
    ChildId, Command, Event, Hop, InboundSa, Mode, OutboundSa, PathId, PeerId, PeerTag, Refusal, SaKey, Selector, Spi, UdpHop,
};
use adit_proto::esp::{self, Header};
use adit_proto::ike::AddressRange;
use adit_proto::replay::Window;
use adit_proto::stats::{Count, Drop as Dropped};
use adit_proto::suite::Suite;
use clap::Parser;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

pub const PEER: PeerId = PeerId(0);
pub const TAG: PeerTag = PeerTag(1);
const SUITE: Suite = Suite::Aes128Gcm;

/// How long to wait for what must happen.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running data plane and its surroundings.
pub struct Bed {
    pub master: Master,
    pub tap: PacketSocket,
    pub peer: UdpSocket,
    running: Option<Running>,
    ticket: u32,
    socket: PathBuf,
}

/// The host behind the TAP.
pub struct PacketSocket(Socket);

/// Runs a test in a network namespace of its own, so that tests can run side by side.
pub fn in_namespace(test: impl FnOnce() + Send + 'static) {
    let thread = thread::spawn(move || {
        // SAFETY: unshare takes an integer and changes the calling thread alone.
        let result = unsafe { libc::unshare(libc::CLONE_NEWNET) };
        assert_eq!(result, 0, "this test makes a network namespace: run it as root");
        run("ip", &["link", "set", "lo", "up"]);
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

pub fn run(program: &str, arguments: &[&str]) {
    let status = std::process::Command::new(program).args(arguments).status().expect("the program runs");
    assert!(status.success(), "{program} {arguments:?}");
}

/// What has been closed lives on in a program that another test is just starting, until that program runs.
fn once_free<T, E: std::fmt::Debug>(open: impl Fn() -> Result<T, E>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        match open() {
            Err(_) if Instant::now() < end => thread::sleep(Duration::from_millis(1)),
            opened => return opened.unwrap(),
        }
    }
}

impl Bed {
    /// Starts a data plane with one peer; `lanes` of its outbound SAs exist, and an inbound SA for each of four lanes.
    pub fn start(workers: usize, io: &str, lanes: u16) -> Bed {
        Bed::start_with(workers, io, lanes, &["--flood-pps", "1000000"])
    }

    /// The same with more arguments for the data plane.
    pub fn start_with(workers: usize, io: &str, lanes: u16, more: &[&str]) -> Bed {
        Bed::start_at("127.0.0.1:4500", workers, io, lanes, more)
    }

    /// The same at another address.
    pub fn start_at(listen: &str, workers: usize, io: &str, lanes: u16, more: &[&str]) -> Bed {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let socket = std::env::temp_dir().join(format!("adit-bed-{}-{number}.sock", std::process::id()));
        let cores = vec!["0"; workers].join(",");
        let workers_text = workers.to_string();
        let arguments = [
            "adit-dataplane",
            "--socket",
            socket.to_str().unwrap(),
            "--tap",
            "bed0",
            "--tap-mac",
            "02:00:00:00:00:01",
            "--listen",
            listen,
            "--workers",
            &workers_text,
            "--cores",
            &cores,
            "--io",
            io,
        ];
        let config = Config::parse_from([&arguments[..], more].concat());
        let plane = once_free(|| Plane::open(&config));
        run("ip", &["link", "set", "bed0", "addrgenmode", "none"]);
        run("ip", &["link", "set", "bed0", "up"]);
        let (running, mut listener, intake) = plane.spawn(|_| ()).unwrap();
        let attaching = {
            let socket = socket.clone();
            thread::spawn(move || Master::attach(&socket).unwrap())
        };
        let end = Instant::now() + PATIENCE;
        while !attaching.is_finished() {
            assert!(Instant::now() < end, "the channel does not answer");
            listener.serve().unwrap();
            thread::sleep(Duration::from_millis(1));
        }
        // Both are kept as in the real process: the end of the listener would be the end of the plane for the master.
        std::mem::forget((listener, intake));
        let peer = once_free(|| UdpSocket::bind("127.0.0.1:4501"));
        peer.set_read_timeout(Some(PATIENCE)).unwrap();
        set_int(&peer, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 8 << 20);
        let master = attaching.join().unwrap();
        let mut bed = Bed { master, tap: PacketSocket::open("bed0"), peer, running: Some(running), ticket: 0, socket };
        bed.install(workers, lanes);
        bed
    }

    fn install(&mut self, workers: usize, lanes: u16) {
        for worker in 0..workers {
            self.set_peer(worker, PEER, TAG, lanes);
        }
        for lane in 0..u32::from(lanes) {
            self.command(lane as usize, &Command::OutboundSaInstall(outbound_sa(lane)));
        }
        for lane in 0..4 {
            self.command(lane as usize % workers, &Command::InboundSaInstall(inbound_sa(lane)));
        }
    }

    /// A data plane in IP mode with one peer: hosts 1 to 9 of both IP versions are here, hosts 11 to 19 there.
    pub fn start_ip(workers: usize, io: &str, lanes: u16) -> Bed {
        Bed::start_ip_with(workers, io, lanes, &[])
    }

    /// The same with more arguments for the data plane.
    pub fn start_ip_with(workers: usize, io: &str, lanes: u16, more: &[&str]) -> Bed {
        let arguments = [&["--mode", "ip", "--selectors", "64"], more].concat();
        let mut bed = Bed::start_with(workers, io, lanes, &arguments);
        for (worker, v6) in (0..workers).flat_map(|worker| [(worker, false), (worker, true)]) {
            let selector = Selector::any_of(hosts(v6, 1, 9), hosts(v6, 11, 19));
            bed.own(worker, PEER, selector);
        }
        bed
    }

    /// A selector that is a peer's, and that its only Child SA carries.
    pub fn own(&mut self, worker: usize, peer: PeerId, selector: Selector) {
        self.command(worker, &Command::SelectorAdd { peer, selector });
        self.command(worker, &Command::ChildSelectorAdd { peer, child: ChildId::ONLY, selector });
    }

    /// Sets a peer which is reached where the peer of every test is.
    pub fn set_peer(&mut self, worker: usize, peer: PeerId, tag: PeerTag, lanes: u16) {
        self.command(worker, &Command::PeerSet { peer, tag, echo: false, split: false });
        self.command(worker, &Command::ChildSet { peer, child: ChildId::ONLY, lanes });
        self.command(worker, &path_set(peer, PathId::FIRST, UdpHop::to("127.0.0.1:4501".parse().unwrap())));
        self.command(worker, &Command::PathUse { peer, path: PathId::FIRST });
    }

    /// Sends a command and waits until the worker has applied it.
    pub fn command(&mut self, worker: usize, command: &Command) {
        self.ticket += 1;
        self.master.send(worker as u16, self.ticket, command).unwrap();
        self.master.flush();
        let ticket = self.ticket;
        eventually("a command is applied", || match self.master.poll_event() {
            Some((_, Event::Applied { ticket: applied })) => applied == ticket,
            Some((_, Event::Refused { why, .. })) => panic!("{command:?} was refused: {why:?}"),
            _ => false,
        });
    }

    /// Sends a command that must be refused; returns why it was.
    pub fn refused(&mut self, worker: usize, command: &Command) -> Refusal {
        self.ticket += 1;
        self.master.send(worker as u16, self.ticket, command).unwrap();
        self.master.flush();
        let ticket = self.ticket;
        let mut refused = None;
        eventually("a command is refused", || {
            match self.master.poll_event() {
                Some((_, Event::Refused { ticket: answered, why })) if answered == ticket => refused = Some(why),
                Some((_, Event::Applied { ticket: answered })) => assert_ne!(answered, ticket, "{command:?} was applied"),
                _ => {}
            }
            refused.is_some()
        });
        refused.unwrap()
    }

    pub fn count(&self, count: Count) -> u64 {
        (0..self.master.workers()).map(|worker| self.master.counters(worker).count(count)).sum()
    }

    pub fn dropped(&self, why: Dropped) -> u64 {
        (0..self.master.workers()).map(|worker| self.master.counters(worker).drop(why)).sum()
    }

    /// Every drop that was counted, by name.
    pub fn drops(&self) -> Vec<(&'static str, u64)> {
        Dropped::ALL.iter().map(|&why| (why.label(), self.dropped(why))).filter(|(_, n)| *n > 0).collect()
    }

    /// Sends one buffer as datagrams of `segment` bytes.
    pub fn send_train(&self, bytes: &[u8], segment: usize) {
        set_int(&self.peer, libc::SOL_UDP, libc::UDP_SEGMENT, segment as libc::c_int);
        self.peer.send_to(bytes, "127.0.0.1:4500").unwrap();
        set_int(&self.peer, libc::SOL_UDP, libc::UDP_SEGMENT, 0);
    }

    pub fn send(&self, datagram: &[u8]) {
        self.peer.send_to(datagram, "127.0.0.1:4500").unwrap();
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            running.stop();
        }
        let _ = std::fs::remove_file(&self.socket);
    }
}

impl PacketSocket {
    fn open(interface: &str) -> PacketSocket {
        let everything = (libc::ETH_P_ALL as u16).to_be();
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(i32::from(everything)))).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let name = std::ffi::CString::new(interface).unwrap();
        // SAFETY: all-zero is a valid sockaddr_ll and the name is terminated; the address is as long as is said.
        unsafe {
            let mut address: libc::sockaddr_ll = std::mem::zeroed();
            address.sll_family = libc::AF_PACKET as u16;
            address.sll_protocol = everything;
            address.sll_ifindex = libc::if_nametoindex(name.as_ptr()) as i32;
            let length = size_of_val(&address) as u32;
            assert_eq!(libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length), 0);
        }
        set_int(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 32 << 20);
        // What the socket itself sends is not heard.
        set_int(&socket, libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, 1);
        PacketSocket(socket)
    }

    /// Sends a frame out of the interface, so that the data plane reads it from the TAP.
    pub fn send(&mut self, frame: &[u8]) {
        self.0.write_all(frame).unwrap();
    }

    /// Sends a super-frame out of the interface, described by its virtio-net header: a TAP takes those, so it is read whole.
    pub fn send_super_frame(&mut self, header: &VnetHeader, frame: &[u8]) {
        let mut described = [0; vnet::LEN];
        header.write(&mut described);
        set_int(&self.0, libc::SOL_PACKET, libc::PACKET_VNET_HDR, 1);
        self.0.write_all(&[&described, frame].concat()).unwrap();
        // What is received has no such header.
        set_int(&self.0, libc::SOL_PACKET, libc::PACKET_VNET_HDR, 0);
    }

    /// The next frame that the data plane wrote to the TAP.
    pub fn receive(&mut self) -> Vec<u8> {
        let mut buffer = vec![0; 70_000];
        let len = self.0.read(&mut buffer).expect("a frame arrives");
        buffer.truncate(len);
        buffer
    }
}

/// The next datagram that the data plane sends to the peer.
pub fn received(socket: &UdpSocket) -> Vec<u8> {
    let mut datagram = vec![0; 2048];
    let (len, _) = socket.recv_from(&mut datagram).expect("a datagram arrives");
    datagram.truncate(len);
    datagram
}

/// The command that sets a path on which outer packets of 1500 bytes go.
pub fn path_set(peer: PeerId, path: PathId, hop: UdpHop) -> Command {
    Command::PathSet { peer, path, hop: Hop::Udp(hop), mtu: 1500, mtu_reported: 1500 }
}

/// The SA with which lane `lane` of the data plane seals.
pub fn outbound_sa(lane: u32) -> OutboundSa {
    let (spi, seq_limit) = (out_spi(lane), u64::MAX);
    let child = ChildId::ONLY;
    OutboundSa { spi, peer: PEER, child, suite: SUITE, key: key(), seq_next: 1, seq_limit, defer_checksums: false, esn: true }
}

/// The SA with which lane `lane` of the data plane opens.
pub fn inbound_sa(lane: u32) -> InboundSa {
    let (spi, peer, child, suite) = (in_spi(lane), PEER, ChildId::ONLY, SUITE);
    InboundSa { spi, peer, child, suite, key: key(), window: 4096, seq_top: 0, resync: true, esn: true }
}

/// The SA with which the peer seals for lane `lane` of the data plane.
pub fn peer_seals(lane: u32) -> sa::OutboundSa {
    let (spi, salt, aead) = (in_spi(lane), [9; 4].into(), aead());
    let esp = Sealer { spi, seq_next: 1, seq_end: u64::MAX, aead, salt, esn: true, packets: 0 };
    sa::OutboundSa { esp, defer_checksums: false, seq_halfway: u64::MAX, slot: 0, bytes: 0 }
}

/// The SA with which the peer opens what lane `lane` of the data plane seals.
pub fn peer_opens(lane: u32) -> sa::InboundSa {
    let window = Window::new(4096, 0).unwrap();
    let (spi, salt, aead) = (out_spi(lane), [9; 4].into(), aead());
    let esp = Opener { spi, window, aead, salt, resync: true, esn: true, advanced: false, packets: 0 };
    sa::InboundSa { esp, peer: PEER, child: ChildId::ONLY, slot: 0, bytes: 0, uncounted: (0, 0), use_reported: false }
}

fn aead() -> Aead {
    Aead::new(Backend::AwsLc, SUITE, &key().key[..SUITE.key_len()]).unwrap()
}

fn key() -> SaKey {
    SaKey { key: [7; 32], salt: [9; 4] }
}

pub fn in_spi(lane: u32) -> Spi {
    Spi(esp::SPI_MIN + 0x1000 + lane)
}

pub fn out_spi(lane: u32) -> Spi {
    Spi(esp::SPI_MIN + 0x2000 + lane)
}

/// A broadcast of a host behind the TAP, an IPv4 UDP frame of a flow of its own: the flow decides through which queue it goes.
pub fn broadcast(flow: u8) -> Vec<u8> {
    let mut frame = vec![0; 60];
    frame[..6].fill(0xff);
    frame[6..14].copy_from_slice(&[2, 0, 0, 0, 0, 1, 8, 0]);
    frame[14..34].copy_from_slice(&[0x45, 0, 0, 46, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    frame[34..40].copy_from_slice(&[0x30, flow, 0x40, 0, 0, 26]);
    frame
}

/// A dummy packet with this payload.
pub fn dummy(sa: &mut sa::OutboundSa, payload: &[u8]) -> Vec<u8> {
    let mut buffer = [payload, &[0; 64]].concat();
    let mut packet = vec![0; esp::sealed_len(payload.len())];
    sa.esp.seal(&mut buffer, 0..payload.len(), esp::NEXT_HEADER_NONE, &mut packet).unwrap();
    packet
}

/// As `std::time::Instant` reads.
pub fn monotonic_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a timespec that the call fills.
    assert_eq!(unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) }, 0);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// A datagram with this frame in it.
pub fn sealed(sa: &mut sa::OutboundSa, frame: &[u8]) -> Vec<u8> {
    let mut buffer = [&[0; 64], frame, &[0; 64]].concat();
    let mut packet = vec![0; esp::sealed_len(2 + frame.len())];
    seal(sa, &mut buffer, 64..64 + frame.len(), Inner::Ethernet { open_checksum: false }, &mut packet).unwrap();
    packet
}

/// The frame in this datagram.
pub fn opened(sa: &mut sa::InboundSa, mut packet: Vec<u8>) -> Vec<u8> {
    let header = Header::parse(&packet).unwrap();
    match open(Mode::Ethernet, sa, &header, &mut packet).unwrap() {
        Opened::Frame { frame, .. } => packet[frame].to_vec(),
        Opened::Dummy { .. } => Vec::new(),
    }
}

/// A frame of an unassigned Ethernet type, so that no host answers it: from station `from` to the TAP, numbered.
pub fn frame(from: u8, number: u32, len: usize) -> Vec<u8> {
    let mut frame = vec![0; len.max(18)];
    frame[..6].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
    frame[6..12].copy_from_slice(&[2, 0, 0, 0, 1, from]);
    frame[12..14].copy_from_slice(&[0x88, 0xb5]);
    frame[14..18].copy_from_slice(&number.to_be_bytes());
    frame
}

/// The bare IP packet `sa` seals for a data plane in IP mode.
pub fn sealed_ip(sa: &mut sa::OutboundSa, packet: &[u8]) -> Vec<u8> {
    let mut buffer = [&[0; 64], packet, &[0; 64]].concat();
    let mut sealed = vec![0; esp::sealed_len(packet.len())];
    seal(sa, &mut buffer, 64..64 + packet.len(), Inner::ip(packet[0]), &mut sealed).unwrap();
    sealed
}

/// The IP packet in this datagram of a data plane in IP mode.
pub fn opened_ip(sa: &mut sa::InboundSa, mut datagram: Vec<u8>) -> Vec<u8> {
    let header = Header::parse(&datagram).unwrap();
    match open(Mode::Ip, sa, &header, &mut datagram).unwrap() {
        Opened::Frame { frame, .. } => datagram[frame].to_vec(),
        Opened::Dummy { .. } => Vec::new(),
    }
}

/// An IPv4 or IPv6 packet with UDP between two hosts, each with its port. The checksum is left out (IPv4) or wrong: nobody looks.
pub fn ip_packet(v6: bool, from: (u8, u16), to: (u8, u16), payload: &[u8]) -> Vec<u8> {
    let udp_len = (8 + payload.len()) as u16;
    let mut packet = if v6 {
        let [l0, l1] = udp_len.to_be_bytes();
        let mut packet = vec![0x60, 0, 0, 0, l0, l1, 17, 64];
        for host in [from.0, to.0] {
            packet.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, host]);
        }
        packet
    } else {
        let [l0, l1] = (20 + udp_len).to_be_bytes();
        vec![0x45, 0, l0, l1, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, from.0, 10, 0, 0, to.0]
    };
    packet.extend([from.1.to_be_bytes(), to.1.to_be_bytes(), udp_len.to_be_bytes(), [0, 0]].concat());
    packet.extend(payload);
    packet
}

/// The hosts of `ip_packet` from `first` to `last`.
pub fn hosts(v6: bool, first: u8, last: u8) -> AddressRange {
    if v6 {
        let host = |last: u8| Ipv6Addr::from([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]);
        AddressRange::V6 { first: host(first), last: host(last) }
    } else {
        AddressRange::V4 { first: [10, 0, 0, first].into(), last: [10, 0, 0, last].into() }
    }
}

/// Waits until a condition holds.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "in vain: {what}");
        thread::sleep(Duration::from_micros(200));
    }
}

pub fn set_int(socket: &impl AsRawFd, level: libc::c_int, name: libc::c_int, value: libc::c_int) {
    let length = size_of_val(&value) as u32;
    // SAFETY: pointer and length describe `value`.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), length) };
    assert_eq!(result, 0, "setsockopt {level} {name}: {}", std::io::Error::last_os_error());
}

/// An ioctl that takes a pointer to an integer.
pub fn ioctl_int(fd: RawFd, request: libc::c_ulong, value: libc::c_int) {
    // SAFETY: the kernel reads the integer, which outlives the call.
    let result = unsafe { libc::ioctl(fd, request, &raw const value) };
    assert_eq!(result, 0, "ioctl {request:#x}: {}", std::io::Error::last_os_error());
}

/// The socket of this process that is bound to an address: the data plane runs in it.
pub fn socket_at(address: SocketAddr) -> BorrowedFd<'static> {
    let name = |fd: RawFd| {
        // SAFETY: looked up among the descriptors that are open now; one that is closed meanwhile only gives an error.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        let socket = SockRef::from(&fd);
        (socket.local_addr().ok()?.as_socket()? == address).then_some(fd)
    };
    let open = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    let numbers: Vec<RawFd> = open.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    numbers.into_iter().find_map(name).expect("the data plane's socket")
}
