//! The channel between two real processes, one of which is killed with SIGKILL in the middle of its work.
//!
//! The test program runs itself a second time, as the other plane (`child_process` with a role in the environment).

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command as Process, Stdio};
use std::time::{Duration, Instant};

use adit_channel::{AttachError, Listener, LiveSa, Master, Notice, PlaneInfo, Port, PuntError, Region, Sizes};
use adit_proto::control::{
    ChildId, Command, Direction, Event, InjectHeader, LocalEnd, OutboundSa, PeerId, PuntHeader, SaKey, Spi,
};
use adit_proto::stats::Count;
use adit_proto::suite::Suite;

const ROLE: &str = "ADIT_CHANNEL_TEST_ROLE";
const SOCKET: &str = "ADIT_CHANNEL_TEST_SOCKET";
const EPOCH: &str = "ADIT_CHANNEL_TEST_EPOCH";
/// The user `nobody`.
const STRANGER: u32 = 65534;
const PATIENCE: Duration = Duration::from_secs(20);

fn sizes() -> Sizes {
    Sizes { workers: 1, sa_slots: 4, command_bytes: 4096, event_bytes: 4096, punt_bytes: 256 << 10, ..Sizes::default() }
}

fn plane(path: &Path) -> (Region, Port, Listener) {
    plane_for(path, None)
}

fn plane_for(path: &Path, also: Option<u32>) -> (Region, Port, Listener) {
    let info = PlaneInfo {
        pid: std::process::id(),
        version: "test".into(),
        tap: "adit0".into(),
        mode: adit_proto::control::Mode::Ethernet,
        tap_mac: [2; 6],
        listen: "192.0.2.1:4500".parse().unwrap(),
        workers: 1,
        max_peers: 4,
        sa_slots: 4,
        cpu_features: String::new(),
        crypto: String::new(),
        io: String::new(),
        memory_bytes: 0,
        arguments: Vec::new(),
        protections: Default::default(),
    };
    let (region, mut ports) = Region::create(&sizes(), &info).unwrap();
    let listener = Listener::bind_for(path, &region, also).unwrap();
    (region, ports.remove(0), listener)
}

fn address() -> SocketAddr {
    "[2001:db8::1]:500".parse().unwrap()
}

/// A datagram whose bytes and length follow from its number.
fn datagram(n: u32) -> Vec<u8> {
    let mut bytes = n.to_le_bytes().to_vec();
    bytes.resize(4 + n as usize % 1500, n as u8);
    bytes
}

fn number_of(bytes: &[u8]) -> u32 {
    let n = u32::from_le_bytes(*bytes.first_chunk().unwrap());
    assert_eq!(bytes, datagram(n));
    n
}

fn command(ticket: u32) -> Command {
    Command::OutboundSaInstall(OutboundSa {
        spi: Spi(ticket),
        peer: PeerId(1),
        child: ChildId::ONLY,
        suite: Suite::Aes128Gcm,
        key: SaKey { key: [ticket as u8; 32], salt: [7; 4] },
        seq_next: u64::from(ticket),
        seq_limit: u64::MAX,
        defer_checksums: false,
        esn: true,
    })
}

/// The other plane, until it is killed. Does nothing when the tests run.
#[test]
fn child_process() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let socket = PathBuf::from(std::env::var_os(SOCKET).unwrap());
    match role.as_str() {
        "plane" => run_plane(&socket),
        "named" => {
            let master = Master::attach(&socket).unwrap();
            adit_channel::ask_to_end(master.socket_fd()).unwrap();
        }
        "stranger" => assert!(matches!(Master::attach(&socket), Err(AttachError::Denied { uid: STRANGER }))),
        _ => run_master(&socket, std::env::var(EPOCH).unwrap().parse().unwrap()),
    }
}

fn spawn(role: &str, socket: &Path, epoch: u32) -> Child {
    Process::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_process", "--nocapture"])
        .envs([(ROLE, role), (EPOCH, &epoch.to_string())])
        .env(SOCKET, socket)
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// As a master that sends without rest; numbers carry the epoch, so that the plane can tell masters apart.
fn run_master(socket: &Path, epoch: u32) {
    let mut master = Master::attach(socket).unwrap();
    let (mut commands, mut injects, mut buf) = (0, 0, Vec::new());
    loop {
        let ticket = epoch << 24 | commands;
        commands += u32::from(master.send(0, ticket, &command(ticket)).is_ok());
        let number = epoch << 24 | injects;
        injects += u32::from(master.inject(0, &InjectHeader::to(address()), &datagram(number)).is_ok());
        master.flush();
        while master.poll_event().is_some() {}
        while master.poll_punt(&mut buf).is_some() {
            number_of(&buf);
        }
        assert!(!master.is_corrupt() && master.malformed() == 0);
        master.vault_write(&ticket.to_le_bytes().repeat(100)).unwrap();
    }
}

/// As a plane that answers everything and counts.
fn run_plane(socket: &Path) {
    let (_region, mut port, mut listener) = plane(socket);
    let live = LiveSa {
        spi: Spi(1),
        direction: Direction::Outbound,
        peer: PeerId(0),
        child: ChildId::ONLY,
        suite: Suite::Aes128Gcm,
        window: 0,
        seq: 0,
        seq_limit: 0,
        packets: 0,
        bytes: 0,
    };
    port.sa_install(2, &live);
    let mut applied = 0;
    loop {
        listener.serve().unwrap();
        while let Some((ticket, command)) = port.next_command() {
            command.unwrap();
            port.count(Count::CommandsApplied, 1);
            applied += 1;
            port.sa_update(2, applied, applied, applied);
            port.emit(&Event::Applied { ticket });
        }
    }
}

/// What the plane has seen of the masters: numbers follow each other without a gap, inside an epoch.
#[derive(Default)]
struct Sequence {
    last: Option<u32>,
    seen: u32,
}

impl Sequence {
    fn next(&mut self, n: u32) {
        let follows = self.last.is_some_and(|last| n == last + 1);
        let begins = n & 0xff_ffff == 0 && self.last.is_none_or(|last| n >> 24 > last >> 24);
        assert!(follows || begins, "{n:#x} after {:x?}", self.last);
        (self.last, self.seen) = (Some(n), self.seen + 1);
    }
}

#[test]
fn masters_killed_in_the_middle_leave_consistent_rings() {
    const MASTERS: u32 = 12;
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("sock");
    let (_region, mut port, mut listener) = plane(&socket);
    let (mut commands, mut injects) = (Sequence::default(), Sequence::default());
    let to = LocalEnd { address: address().ip(), interface: 1 };
    let came = PuntHeader { from: address(), to, class: 0 };
    let mut buf = vec![0; 2000];
    let mut turn = |port: &mut Port| {
        while let Some((ticket, decoded)) = port.next_command() {
            assert_eq!(decoded, Ok(command(ticket)));
            commands.next(ticket);
            port.emit(&Event::Applied { ticket });
        }
        while let Some((header, len)) = port.next_inject(&mut buf) {
            assert_eq!(header.to, address());
            injects.next(number_of(&buf[..len]));
            let to = LocalEnd { address: header.to.ip(), interface: header.interface };
            let _ = port.punt(&PuntHeader { from: header.to, to, class: header.class }, &buf[..len]);
        }
        commands.seen
    };
    for epoch in 0..MASTERS {
        let mut child = spawn("master", &socket, epoch);
        let started = Instant::now();
        let before = turn(&mut port);
        let mut notices = listener.serve().unwrap();
        // Some hundred commands and some odd microseconds, so that every master dies somewhere else.
        while turn(&mut port) < before + 300 + 37 * epoch {
            notices.extend(listener.serve().unwrap());
            assert!(started.elapsed() < PATIENCE, "the master does nothing: {notices:?}");
        }
        child.kill().unwrap();
        child.wait().unwrap();
        notices.extend(listener.serve().unwrap());
        let pid = child.id();
        assert_eq!(notices, [Notice::Attached { pid }, Notice::Gone { pid }]);
        assert_eq!(port.punt(&came, &[]), Err(PuntError::NoMaster));
    }
    turn(&mut port);
    let mut last = attach_here(&socket, &mut listener);
    assert!(!last.is_corrupt());
    let vault = last.vault_read();
    assert!(vault.len() == 400 && vault.chunks(4).all(|chunk| chunk == &vault[..4]), "the vault is whole");
    let mut buf = Vec::new();
    while last.poll_event().is_some() {}
    while last.poll_punt(&mut buf).is_some() {
        number_of(&buf);
    }
    assert_eq!(last.malformed(), 0);
    last.send(0, MASTERS << 24, &command(MASTERS << 24)).unwrap();
    turn(&mut port);
    assert_eq!(last.poll_event(), Some((0, Event::Applied { ticket: MASTERS << 24 })));
}

/// Starts the other plane as another user, who may do everything in the directory of the socket.
fn spawn_stranger(role: &str, dir: &Path, socket: &Path) -> Child {
    // The program has to lie where that user can start it.
    let program = dir.join("program");
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    for (path, mode) in [(dir, 0o777), (&program, 0o755)] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    let mut stranger = Process::new(&program);
    stranger.args(["--exact", "child_process"]).env(ROLE, role).env(SOCKET, socket).stdout(Stdio::null());
    stranger.uid(STRANGER);
    let started = Instant::now();
    loop {
        match stranger.spawn() {
            // Another test that started a process just then has the copy open for writing for a moment, until its own program runs.
            Err(error) if error.kind() == ErrorKind::ExecutableFileBusy && started.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(2));
            }
            spawned => return spawned.expect("only root can become another user: run the tests as root"),
        }
    }
}

#[test]
fn another_user_is_turned_away_even_where_the_file_lets_him_in() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("sock");
    let (_region, _port, mut listener) = plane(&socket);
    std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o666)).unwrap();
    let mut child = spawn_stranger("stranger", dir.path(), &socket);
    let (mut notices, started) = (Vec::new(), Instant::now());
    let status = loop {
        notices.extend(listener.serve().unwrap());
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        assert!(started.elapsed() < PATIENCE);
    };
    assert!(status.success());
    assert_eq!(notices, [Notice::Denied { pid: child.id(), uid: STRANGER }]);
}

#[test]
fn a_user_who_was_named_is_let_in_and_may_end_the_data_plane() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("sock");
    let (_region, _port, mut listener) = plane_for(&socket, Some(STRANGER));
    // Whoever is in the group can connect; in this test everybody.
    std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o666)).unwrap();
    let mut child = spawn_stranger("named", dir.path(), &socket);
    let (mut notices, started) = (Vec::new(), Instant::now());
    while notices.last() != Some(&Notice::Gone { pid: child.id() }) {
        notices.extend(listener.serve().unwrap());
        assert!(started.elapsed() < PATIENCE, "{notices:?}");
    }
    assert!(child.wait().unwrap().success());
    let pid = child.id();
    assert_eq!(notices, [Notice::Attached { pid }, Notice::End { pid }, Notice::Gone { pid }]);
}

#[test]
fn a_data_plane_in_a_directory_of_its_own_user_is_believed() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("place");
    std::fs::create_dir(&place).unwrap();
    std::os::unix::fs::chown(&place, Some(STRANGER), None).unwrap();
    let socket = place.join("sock");
    let mut child = spawn_stranger("plane", dir.path(), &socket);
    let master = attach_to_child(&socket);
    drop(master);
    // Where others can put a socket, nobody is.
    std::fs::set_permissions(&place, std::fs::Permissions::from_mode(0o777)).unwrap();
    let refused = Master::attach(&socket).unwrap_err();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(matches!(refused, AttachError::Foreign { uid: STRANGER }), "{refused}");
}

#[test]
fn a_data_plane_of_another_user_gets_no_keys() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("sock");
    let mut child = spawn_stranger("plane", dir.path(), &socket);
    let started = Instant::now();
    let error = loop {
        match Master::attach(&socket).unwrap_err() {
            AttachError::Absent(_) if started.elapsed() < PATIENCE => std::thread::sleep(Duration::from_millis(2)),
            error => break error,
        }
    };
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(matches!(error, AttachError::Foreign { uid: STRANGER }), "{error}");
}

fn attach_here(socket: &Path, listener: &mut Listener) -> Master {
    let path = socket.to_owned();
    let attaching = std::thread::spawn(move || Master::attach(&path));
    while !attaching.is_finished() {
        listener.serve().unwrap();
        std::thread::yield_now();
    }
    attaching.join().unwrap().unwrap()
}

fn attach_to_child(socket: &Path) -> Master {
    let started = Instant::now();
    loop {
        match Master::attach(socket) {
            Ok(master) => return master,
            Err(AttachError::Absent(_)) if started.elapsed() < PATIENCE => std::thread::sleep(Duration::from_millis(2)),
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn a_killed_data_plane_is_noticed_and_its_numbers_stay() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("sock");
    let mut child = spawn("plane", &socket, 0);
    let mut master = attach_to_child(&socket);
    assert_eq!(master.info().pid, child.id());
    let second = Master::attach(&socket).unwrap_err();
    assert!(matches!(second, AttachError::Refused { pid } if pid == std::process::id()), "{second}");
    let (mut sent, mut applied) = (0, 0);
    let started = Instant::now();
    while applied < 5000 {
        assert!(started.elapsed() < PATIENCE, "{applied} applied");
        sent += u32::from(master.send(0, sent, &command(sent)).is_ok());
        master.flush();
        while let Some((worker, event)) = master.poll_event() {
            assert_eq!((worker, event), (0, Event::Applied { ticket: applied }));
            applied += 1;
        }
        for (_, live) in master.live_sas() {
            assert!(live.seq == live.packets && live.packets == live.bytes, "{live:?}");
        }
    }
    assert!(master.is_alive());
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!master.is_alive());
    assert!(master.counters(0).count(Count::CommandsApplied) >= 5000);
    assert!(!master.is_corrupt());
}
