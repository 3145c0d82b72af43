//! Both sides of the channel in one process: what one writes, the other reads, with all their limits.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::PermissionsExt;

use adit_channel::{
    AttachError, DATAGRAM_LEN_MAX, Devices, Listener, LiveSa, Master, Notice, PlaneInfo, Port, PuntError, Region, SaLook, Seen,
    SendError, Sizes, Standing,
};
use adit_proto::control::{
    ChildId, Command, Direction, Event, Feature, InjectHeader, LocalEnd, OutboundSa, PeerId, PuntHeader, SaKey, Spi, StreamId,
    TrainHeader,
};
use adit_proto::histogram::{BUCKETS, bucket_of};
use adit_proto::stats::{Count, Drop, Gauge, Latency};
use adit_proto::suite::Suite;

fn info(sizes: &Sizes) -> PlaneInfo {
    PlaneInfo {
        pid: std::process::id(),
        version: "0.1.0".into(),
        tap: "adit0".into(),
        mode: adit_proto::control::Mode::Ethernet,
        tap_mac: [2, 0, 0, 0, 0, 1],
        listen: "192.0.2.1:4500".parse().unwrap(),
        workers: sizes.workers,
        max_peers: 64,
        sa_slots: sizes.sa_slots,
        cpu_features: "aes vaes".into(),
        crypto: "aws-lc".into(),
        io: "poll".into(),
        memory_bytes: 1 << 20,
        arguments: Vec::new(),
        protections: Default::default(),
    }
}

struct Plane {
    dir: tempfile::TempDir,
    region: Region,
    ports: Vec<Port>,
    listener: Listener,
}

impl Plane {
    fn new(sizes: Sizes) -> Plane {
        let dir = tempfile::tempdir().unwrap();
        let (region, ports) = Region::create(&sizes, &info(&sizes)).unwrap();
        let listener = Listener::bind(&dir.path().join("sock"), &region).unwrap();
        Plane { dir, region, ports, listener }
    }

    /// Attaches, with the listener served from another thread as long as it takes.
    fn attach(&mut self) -> (Result<Master, AttachError>, Vec<Notice>) {
        let path = self.dir.path().join("sock");
        let attaching = std::thread::spawn(move || Master::attach(&path));
        let mut notices = Vec::new();
        while !attaching.is_finished() {
            notices.extend(self.listener.serve().unwrap());
            std::thread::yield_now();
        }
        (attaching.join().unwrap(), notices)
    }

    fn master(&mut self) -> Master {
        self.attach().0.unwrap()
    }
}

fn readable(fd: BorrowedFd) -> bool {
    let mut poll = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).unwrap();
    let count = poll.split_off(poll.find("eventfd-count:").unwrap() + 14);
    u64::from_str_radix(count.lines().next().unwrap().trim(), 16).unwrap() > 0
}

fn outbound(n: u32) -> Command {
    Command::OutboundSaInstall(OutboundSa {
        spi: Spi(0x4000_0000 + n),
        peer: PeerId(3),
        child: ChildId::ONLY,
        suite: Suite::Aes256Gcm,
        key: SaKey { key: [0xa5; 32], salt: [0x5a; 4] },
        seq_next: 1,
        seq_limit: 1 << 40,
        defer_checksums: true,
        esn: true,
    })
}

fn live(n: u32) -> LiveSa {
    LiveSa {
        spi: Spi(0x4000_0000 + n),
        direction: Direction::Inbound,
        peer: PeerId(1),
        child: ChildId::ONLY,
        suite: Suite::ChaCha20Poly1305,
        window: 4096,
        seq: 9,
        seq_limit: 0,
        packets: 9,
        bytes: 900,
    }
}

fn sizes(workers: u16) -> Sizes {
    Sizes { workers, ..Sizes::default() }
}

#[test]
fn commands_go_down_and_events_come_up() {
    let mut plane = Plane::new(sizes(2));
    let mut master = plane.master();
    plane.ports[1].acknowledge();
    master.acknowledge();
    master.send(1, 7, &outbound(1)).unwrap();
    master.send(1, 8, &Command::PeerRemove { peer: PeerId(4) }).unwrap();
    assert!(!readable(plane.ports[1].wake_fd()));
    master.flush();
    assert!(readable(plane.ports[1].wake_fd()));
    assert_eq!(plane.ports[1].next_command(), Some((7, Ok(outbound(1)))));
    assert_eq!(plane.ports[1].next_command(), Some((8, Ok(Command::PeerRemove { peer: PeerId(4) }))));
    assert_eq!(plane.ports[1].next_command(), None);
    assert_eq!(plane.ports[0].next_command(), None);

    assert!(!readable(master.event_fd()));
    assert!(plane.ports[1].emit(&Event::Applied { ticket: 7 }));
    assert!(readable(master.event_fd()));
    assert!(plane.ports[0].emit(&Event::Degraded { what: Feature::UdpSegment }));
    master.acknowledge();
    assert!(!readable(master.event_fd()));
    assert_eq!(master.poll_event(), Some((0, Event::Degraded { what: Feature::UdpSegment })));
    assert_eq!(master.poll_event(), Some((1, Event::Applied { ticket: 7 })));
    assert_eq!(master.poll_event(), None);
}

#[test]
fn keys_do_not_stay_in_the_memory() {
    let mut plane = Plane::new(sizes(1));
    let mut master = plane.master();
    let memory = std::fs::File::from(plane.region.memory().try_clone_to_owned().unwrap());
    let keys_in_memory = || {
        let mut bytes = vec![0; plane.region.memory_bytes()];
        std::os::unix::fs::FileExt::read_exact_at(&memory, &mut bytes, 0).unwrap();
        bytes.windows(8).any(|window| window == [0xa5; 8])
    };
    master.send(0, 1, &outbound(1)).unwrap();
    assert!(keys_in_memory());
    assert!(plane.ports[0].next_command().is_some());
    assert!(!keys_in_memory());
}

#[test]
fn datagrams_go_both_ways() {
    let mut plane = Plane::new(sizes(1));
    let port = &mut plane.ports[0];
    let header = InjectHeader {
        to: "198.51.100.7:500".parse().unwrap(),
        local: Some("192.0.2.1".parse().unwrap()),
        interface: 3,
        class: 0xb8,
        fragments: true,
    };
    let to = LocalEnd { address: "2001:db8::1".parse().unwrap(), interface: 7 };
    let came = PuntHeader { from: "[2001:db8::7]:4500".parse().unwrap(), to, class: 3 };
    assert_eq!(port.punt(&came, b"early"), Err(PuntError::NoMaster));
    let mut master = plane.master();
    let port = &mut plane.ports[0];
    for len in [0, 1, 7, 8, 9, 1400, DATAGRAM_LEN_MAX] {
        let bytes: Vec<u8> = (0..len).map(|i| i as u8).collect();
        port.punt(&came, &bytes).unwrap();
        let mut punted = vec![1, 2, 3];
        assert_eq!(master.poll_punt(&mut punted), Some((0, came)));
        assert_eq!(punted, bytes);
        master.inject(0, &header, &bytes).unwrap();
        let mut buf = vec![0; DATAGRAM_LEN_MAX];
        assert_eq!(port.next_inject(&mut buf), Some((header, len)));
        assert_eq!(buf[..len], bytes);
    }
    assert_eq!(master.inject(0, &header, &[0; DATAGRAM_LEN_MAX + 1]), Err(SendError::TooLong));
    assert_eq!(master.inject(1, &header, &[]), Err(SendError::NoSuchWorker));
    master.inject(0, &header, &[0; 100]).unwrap();
    master.inject(0, &header, b"next").unwrap();
    assert_eq!(port.next_inject(&mut [0; 50]), Some((header, 4)), "what is longer than the buffer is passed over");
    assert_eq!(master.counters(0).drop(Drop::InjectBad), 1);
}

#[test]
fn trains_go_both_ways_and_all_workers_have_their_turn() {
    let mut plane = Plane::new(sizes(2));
    let header = |stream, segment| TrainHeader { stream: StreamId(stream), class: 0x2e, segment };
    assert_eq!(plane.ports[1].train_up(header(1, 5), b"early"), Err(PuntError::NoMaster));
    let mut master = plane.master();
    let mut buf = vec![9];
    for len in [1, 7, 8, 1400, DATAGRAM_LEN_MAX] {
        let bytes: Vec<u8> = (0..len).map(|i| i as u8).collect();
        let of = |worker: u64| header(worker, 600);
        (0..2).for_each(|worker| plane.ports[worker].train_up(of(worker as u64), &bytes).unwrap());
        assert_eq!(master.poll_train(1, &mut buf), Some((1, of(1))), "the one that is named has the first turn");
        assert_eq!((master.poll_train(1, &mut buf), &buf), (Some((0, of(0))), &bytes));
        assert_eq!(master.poll_train(0, &mut buf), None);
        assert!(!plane.ports[1].has_trains());
        master.send_train(1, of(7), &bytes).unwrap();
        assert!(plane.ports[1].has_trains());
        let mut window = vec![0; DATAGRAM_LEN_MAX];
        assert_eq!(plane.ports[1].next_train(&mut window), Some((of(7), len)));
        assert_eq!(window[..len], bytes);
    }
    assert_eq!(master.send_train(0, header(1, 9), &[0; DATAGRAM_LEN_MAX + 1]), Err(SendError::TooLong));
    assert_eq!(master.send_train(2, header(1, 9), &[]), Err(SendError::NoSuchWorker));
    // Without packets, with too many of them, longer than the window: passed over and counted.
    for (segment, len) in [(9, 0), (1, 129), (1, 101)] {
        master.send_train(0, header(1, segment), &vec![7; len]).unwrap();
    }
    master.send_train(0, header(2, 100), &[7; 100]).unwrap();
    assert_eq!(plane.ports[0].next_train(&mut [0; 100]), Some((header(2, 100), 100)));
    assert_eq!((plane.ports[0].next_train(&mut [0; 100]), master.counters(0).drop(Drop::TrainBad)), (None, 3));
    let given = (0..).take_while(|_| plane.ports[0].train_up(header(1, 1000), &[7; 60_000]).is_ok()).count();
    assert_eq!(plane.ports[0].train_up(header(1, 1000), &[7; 60_000]), Err(PuntError::Full));
    assert_eq!(std::iter::from_fn(|| master.poll_train(0, &mut buf)).count(), given);
    assert!(given > 10 && !master.is_corrupt());
}

#[test]
fn full_rings_say_so_and_drain() {
    let mut plane = Plane::new(sizes(1));
    let mut master = plane.master();
    let port = &mut plane.ports[0];
    let sent = (0..).take_while(|&ticket| master.send(0, ticket, &outbound(ticket)).is_ok()).count();
    assert_eq!(master.send(0, 0, &outbound(0)), Err(SendError::Full));
    assert!(sent > 500, "{sent}");
    for ticket in 0..sent as u32 {
        assert_eq!(port.next_command(), Some((ticket, Ok(outbound(ticket)))));
    }
    let emitted = (0..).take_while(|&ticket| port.emit(&Event::Applied { ticket })).count();
    assert!(!port.emit(&Event::Applied { ticket: 0 }));
    assert!((0..emitted as u32).all(|ticket| master.poll_event() == Some((0, Event::Applied { ticket }))));
    let to = LocalEnd { address: "192.0.2.1".parse().unwrap(), interface: 1 };
    let came = PuntHeader { from: "192.0.2.9:1".parse().unwrap(), to, class: 0 };
    let punted = (0..).take_while(|_| port.punt(&came, &[7; 1000]).is_ok()).count();
    assert_eq!(port.punt(&came, &[7; 1000]), Err(PuntError::Full));
    let mut buf = Vec::new();
    assert_eq!(std::iter::from_fn(|| master.poll_punt(&mut buf)).count(), punted);
    assert!(!master.is_corrupt());
}

#[test]
fn numbers_are_read_where_they_were_written() {
    let mut plane = Plane::new(sizes(2));
    let master = plane.master();
    let port = &plane.ports[1];
    port.count(Count::Sealed, 2);
    port.count(Count::Sealed, 3);
    port.drop(Drop::BadTag, 4);
    port.gauge(Gauge::Core, -1);
    port.latency(Latency::Inbound, 1000);
    port.latency(Latency::Inbound, 1000);
    let counters = master.counters(1);
    assert_eq!((counters.count(Count::Sealed), counters.drop(Drop::BadTag), counters.gauge(Gauge::Core)), (5, 4, -1));
    assert_eq!(master.counters(0).count(Count::Sealed), 0);
    let latency = master.latency(1, Latency::Inbound);
    assert_eq!((latency.len(), latency[bucket_of(1000)], latency.iter().sum::<u64>()), (BUCKETS, 2, 2));
    assert_eq!(master.latency(1, Latency::Outbound).iter().sum::<u64>(), 0);
    assert_eq!(master.latency(0, Latency::Inbound).iter().sum::<u64>(), 0);
}

#[test]
fn a_new_master_finds_what_is_installed_and_what_was_left() {
    let mut plane = Plane::new(sizes(2));
    let (master, notices) = plane.attach();
    let mut master = master.unwrap();
    let pid = std::process::id();
    assert_eq!(notices, [Notice::Attached { pid }]);
    assert_eq!(master.info(), &info(&sizes(2)));
    assert_eq!(master.workers(), 2);
    assert!(plane.ports[0].sa_install(3, &live(0)));
    assert!(plane.ports[1].sa_install(255, &live(1)));
    assert!(!plane.ports[1].sa_install(256, &live(1)));
    plane.ports[1].sa_update(255, 20, 21, 22);
    master.vault_write(b"state").unwrap();
    assert!(master.vault_write(&vec![0; (1 << 20) + 1]).is_err());
    std::mem::drop(master);

    assert!(plane.ports[0].emit(&Event::SeqHalfway { peer: PeerId(4), spi: Spi(5) }), "events are kept for the next master");
    assert_eq!(plane.listener.serve().unwrap(), [Notice::Gone { pid }]);
    let to = LocalEnd { address: "192.0.2.1".parse().unwrap(), interface: 1 };
    let came = PuntHeader { from: "192.0.2.9:1".parse().unwrap(), to, class: 0 };
    assert_eq!(plane.ports[0].punt(&came, b"late"), Err(PuntError::NoMaster));
    let mut master = plane.master();
    assert!(readable(master.event_fd()));
    assert_eq!(master.poll_event(), Some((0, Event::SeqHalfway { peer: PeerId(4), spi: Spi(5) })));
    assert_eq!(master.vault_read(), b"state");
    let moved = LiveSa { seq: 20, packets: 21, bytes: 22, ..live(1) };
    assert_eq!(master.live_sas(), [(0, live(0)), (1, moved)]);
    plane.ports[0].sa_remove(3);
    assert_eq!(master.live_sas(), [(1, moved)]);
    let seen = |worker, sa, standing| (worker, Seen { sa, serial: 1, standing });
    let there = seen(1, moved, Standing::Live);
    let look = SaLook { seen: vec![seen(0, live(0), Standing::Gone), there], gone: vec![1, 0], is_whole: true };
    assert_eq!(master.look_at_sas(&[]), look, "what it has carried is still there");
    assert_eq!(master.look_at_sas(&[1]), SaLook { seen: vec![there], ..look }, "and is told once");
}

#[test]
fn a_second_master_is_refused_with_the_pid_of_the_first() {
    let mut plane = Plane::new(sizes(1));
    let mut first = plane.master();
    let (second, notices) = plane.attach();
    let pid = std::process::id();
    assert!(matches!(second, Err(AttachError::Refused { pid: holder }) if holder == pid), "{second:?}");
    assert!(second.unwrap_err().to_string().contains(&format!("process {pid}")));
    assert_eq!(notices, [Notice::Refused { pid, master: pid }]);
    assert_eq!(plane.listener.poll_fds().len(), 2);
    assert!(first.is_alive());
    std::mem::drop(first);
    assert!(plane.attach().0.is_ok());
}

#[test]
fn devices_are_handed_over_and_answered_and_the_last_ones_count() {
    let mut plane = Plane::new(sizes(1));
    let mut master = plane.master();
    let socket = || std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let sockets = |listen: &str| Devices::Sockets { listen: listen.parse().unwrap() };
    for listen in ["192.0.2.7:4500", "192.0.2.8:4501"] {
        master.hand_over(&sockets(listen), &[socket().as_fd()]).unwrap();
        plane.listener.serve().unwrap();
    }
    assert_eq!(master.answer(), None);
    let (devices, fds) = plane.listener.take_devices().unwrap();
    assert_eq!((devices, fds.len()), (sockets("192.0.2.8:4501"), 1));
    assert!(plane.listener.take_devices().is_none(), "those of before are closed");
    plane.listener.answer(Err("a worker hangs"));
    assert_eq!(master.answer(), Some(Err("a worker hangs".into())));
    assert_eq!((master.answer(), master.info().listen.port()), (None, 4500));
    master.hand_over(&sockets("192.0.2.7:4500"), &[socket().as_fd()]).unwrap();
    plane.listener.serve().unwrap();
    plane.listener.take_devices().unwrap();
    master.hand_over(&devices, &[socket().as_fd()]).unwrap();
    plane.listener.answer(Ok(()));
    assert_eq!((master.answer(), master.info().listen.port()), (None, 4500), "an answer that comes late is to those of before");
    plane.listener.serve().unwrap();
    plane.listener.take_devices().unwrap();
    plane.listener.answer(Ok(()));
    assert_eq!(master.answer(), Some(Ok(())));
    assert_eq!(master.info().listen, "192.0.2.8:4501".parse().unwrap());
    std::mem::drop(plane);
    assert!(matches!(master.answer(), Some(Err(_))), "it is gone");
}

#[test]
fn the_memory_stays_readable_when_the_data_plane_is_gone() {
    let mut plane = Plane::new(sizes(1));
    let mut master = plane.master();
    plane.ports[0].count(Count::Opened, 11);
    let path = plane.dir.path().join("sock");
    let Plane { dir: _dir, region, ports, listener } = plane;
    std::mem::drop((region, ports, listener));
    assert!(!master.is_alive());
    assert_eq!(master.counters(0).count(Count::Opened), 11);
    assert!(!path.exists());
    assert!(matches!(Master::attach(&path), Err(AttachError::Absent(_))));
}

#[test]
fn only_a_stale_socket_is_replaced() {
    let mut plane = Plane::new(sizes(1));
    let path = plane.dir.path().join("sock");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let taken = Listener::bind(&path, &plane.region).unwrap_err();
    assert_eq!(taken.kind(), std::io::ErrorKind::AddrInUse);
    assert_eq!(plane.listener.serve().unwrap(), [], "the probe is nobody");

    let stale = plane.dir.path().join("stale");
    std::mem::drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    std::mem::drop(Listener::bind(&stale, &plane.region).unwrap());
    let file = plane.dir.path().join("file");
    std::fs::write(&file, "mine").unwrap();
    assert_eq!(Listener::bind(&file, &plane.region).unwrap_err().kind(), std::io::ErrorKind::AlreadyExists);
    assert_eq!(std::fs::read(&file).unwrap(), b"mine");
}

#[test]
fn a_socket_that_was_removed_is_there_again() {
    let mut plane = Plane::new(sizes(1));
    let path = plane.dir.path().join("sock");
    assert!(!plane.listener.keep_socket().unwrap(), "it is there");
    std::fs::remove_file(&path).unwrap();
    assert!(plane.listener.keep_socket().unwrap());
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(!plane.listener.keep_socket().unwrap());
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "mine").unwrap();
    assert!(!plane.listener.keep_socket().unwrap(), "what has the name now is left alone");
    assert_eq!(std::fs::read(&path).unwrap(), b"mine");
    // Without the directory there is nothing to do; where nobody can look, it is told.
    let (dir, away) = (plane.dir.path(), plane.dir.path().with_extension("away"));
    std::fs::rename(dir, &away).unwrap();
    let without = plane.listener.keep_socket();
    std::fs::write(dir, "no directory").unwrap();
    let unseen = plane.listener.keep_socket();
    std::fs::remove_file(dir).unwrap();
    std::fs::rename(&away, dir).unwrap();
    assert!(!without.unwrap());
    assert_eq!(unseen.unwrap_err().kind(), std::io::ErrorKind::NotADirectory);
}

#[test]
fn a_data_plane_that_does_not_answer_is_reported_as_hanging() {
    let mut plane = Plane::new(sizes(1));
    let path = plane.dir.path().join("sock");
    let error = Master::attach(&path).unwrap_err();
    assert!(matches!(error, AttachError::Silent { pid } if pid == std::process::id()), "{error:?}");
    assert!(error.to_string().contains("did not answer within 2 s"), "{error}");
    assert_eq!(plane.listener.serve().unwrap(), []);
    assert!(plane.attach().0.is_ok());
}

#[test]
fn sizes_that_contradict_the_info_are_refused() {
    let error = Region::create(&sizes(2), &info(&sizes(1))).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
    let error = Region::create(&sizes(65), &info(&sizes(65))).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
    let long = PlaneInfo { cpu_features: "x".repeat(5000), ..info(&sizes(1)) };
    assert_eq!(Region::create(&sizes(1), &long).unwrap_err().kind(), std::io::ErrorKind::InvalidInput);
}
