//! Metrics and status over a real channel: this test plays the data plane's end of it.

mod busy;

use std::cell::Cell;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use adit_channel::{Listener, LiveSa, Master, PlaneInfo, Port, Region, Sizes};
use adit_controlplane::config::{Config, Machine, Peer};
use adit_controlplane::desired::Desired;
use adit_controlplane::desired::static_key::WantedSa;
use adit_controlplane::ike::report::Report;
use adit_controlplane::key_file::{self, Readers};
use adit_controlplane::schema::{self, Status};
use adit_controlplane::static_key::{SECRET_LEN, Secret};
use adit_controlplane::view::drops::likely_causes;
use adit_controlplane::view::status::PeerView;
use adit_controlplane::view::{Attached, View};
use adit_controlplane::{metrics, status};
use adit_engine::path::{Hop, PathStatus};
use adit_proto::control::{ChildId, Direction, PathId, PeerId, PeerTag};
use adit_proto::stats::{Count, Drop, Gauge, Latency};
use adit_proto::suite::Suite;

const WORKERS: u16 = 2;

const YAML: &str = "name: site-a\nlisten: 192.0.2.1:4500\ninterface: { name: adit0, addresses: [10.1.0.1/24] }\n\
    dataplane: { workers: 2 }\npeers:\n  \
    - { name: site-b, endpoint: \"192.0.2.2:4500\", static_key_file: pair.key, lanes: 2 }\n";

fn view(dir: &Path) -> Arc<View> {
    let key = Secret::from_bytes(Suite::Aes256Gcm, [3; SECRET_LEN]).to_file_text();
    key_file::create(&dir.join("pair.key"), key.as_bytes(), Readers::OwnerOnly).unwrap();
    let config = Config::from_yaml(YAML, dir, &Machine { cores: vec![0, 1] }).unwrap();
    Arc::new(View::new(Arc::new(Desired::new(config))))
}

/// The data plane's end of a channel, and a control plane's end attached to it.
struct Plane {
    ports: Vec<Port>,
    /// Its SAs are there.
    has_sas: Cell<bool>,
    _listener: Listener,
    _region: Region,
}

impl Plane {
    fn start(view: &View, dir: &Path) -> Plane {
        let info = PlaneInfo {
            pid: 4711,
            version: "0.1.0".into(),
            tap: "adit0".into(),
            mode: adit_proto::control::Mode::Ethernet,
            tap_mac: view.desired().config.interface.mac,
            listen: view.desired().config.listen,
            workers: WORKERS,
            max_peers: 64,
            sa_slots: 16,
            cpu_features: "aes \"quoted\"\\".into(),
            crypto: "aws-lc".into(),
            io: "io_uring".into(),
            memory_bytes: 5 << 20,
            arguments: Vec::new(),
            protections: Default::default(),
        };
        let sizes = Sizes { workers: WORKERS, sa_slots: 16, ..Sizes::default() };
        let (region, ports) = Region::create(&sizes, &info).unwrap();
        let socket = dir.join("dataplane.sock");
        let mut listener = Listener::bind(&socket, &region).unwrap();
        let master = std::thread::scope(|scope| {
            let attaching = scope.spawn(|| Master::attach(&socket).unwrap());
            while !attaching.is_finished() {
                listener.serve().unwrap();
                std::thread::yield_now();
            }
            attaching.join().unwrap()
        });
        let peers = view.desired().sas.iter().map(|want| (PeerId(want.peer as u16), want.tag)).collect();
        view.attach(Attached { master, since: Instant::now(), started_here: true, peers });
        Plane { ports, has_sas: Cell::new(false), _listener: listener, _region: region }
    }

    /// Counts what a data plane would after some traffic.
    fn work(&self, view: &View, packets: u64) {
        for (id, port) in self.ports.iter().enumerate() {
            port.count(Count::Sealed, packets);
            port.drop(Drop::BadTag, 3);
            port.gauge(Gauge::IoUring, 1);
            port.gauge(Gauge::Core, id as i64);
            port.gauge(Gauge::CryptoBackend, 1);
            (0..packets).for_each(|n| port.latency(Latency::Inbound, 1_000 + n * 10));
            let desired = view.desired();
            let own = desired.sas.iter().filter(|want| usize::from(want.worker) == id);
            for (slot, want) in own.enumerate() {
                let window = if want.direction == Direction::Inbound { 4096 } else { 0 };
                let sa = LiveSa {
                    spi: want.spi,
                    direction: want.direction,
                    peer: PeerId(want.peer as u16),
                    child: ChildId::ONLY,
                    suite: Suite::Aes256Gcm,
                    window,
                    seq: 1000 + packets,
                    seq_limit: u64::MAX,
                    packets,
                    bytes: packets * 100,
                };
                if self.has_sas.get() {
                    port.sa_update(slot as u32, sa.seq, sa.packets, sa.bytes);
                } else {
                    assert!(port.sa_install(slot as u32, &sa));
                }
            }
        }
        self.has_sas.set(true);
    }
}

/// The way to the peer.
fn path() -> PathStatus {
    let hop = Hop::new("192.0.2.1:4500".parse().unwrap(), "192.0.2.2:4500".parse().unwrap());
    PathStatus {
        path: PathId::FIRST,
        hop,
        proven: true,
        in_use: true,
        ike: false,
        mtu: 1500,
        mtu_proven: Some(1500),
        mtu_route: 1500,
        split: false,
        mtu_reported: 1500,
        echo: true,
        silent: false,
        rtt: None,
        loss: Some((3, 64)),
        black_holes: 0,
    }
}

/// The value of a metric with these labels.
fn value(page: &str, metric: &str) -> f64 {
    let line = page.lines().find(|line| line.starts_with(metric)).unwrap_or_else(|| panic!("no {metric} in\n{page}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

/// The series of lanes of a peer in this state.
fn lane_states(peer: &str, state: &str) -> String {
    format!("adit_child_sa_lanes{{peer=\"{peer}\",state=\"{state}\"}}")
}

fn promtool(page: &str) {
    let spawned = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = spawned.expect("promtool is needed: apt install prometheus");
    child.stdin.take().unwrap().write_all(page.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.trim().is_empty(), "promtool: {said}");
}

#[test]
fn the_metrics_page_is_clean_in_every_state() {
    let dir = tempfile::tempdir().unwrap();
    let view = view(dir.path());
    let registry = metrics::registry(view.clone()).unwrap();
    let down = metrics::page(&registry).unwrap();
    promtool(&down);
    assert_eq!(value(&down, "adit_dataplane_up"), 0.0);
    let plane = Plane::start(&view, dir.path());
    plane.work(&view, 50);
    plane.ports[0].gauge(Gauge::Core, -1);
    plane.ports[1].gauge(Gauge::TapIndex, 7);
    let up = metrics::page(&registry).unwrap();
    promtool(&up);
    assert_eq!(value(&up, "adit_dataplane_up"), 1.0);
    // What is no number is a label, and what is not there has no series.
    assert_eq!(value(&up, "adit_crypto_backend{backend=\"aws-lc\",worker=\"0\"}"), 1.0);
    assert_eq!(value(&up, "adit_core{core=\"1\",worker=\"1\"}"), 1.0);
    assert_eq!(up.matches("\nadit_core{").count(), 1, "{up}");
    assert_eq!(value(&up, "adit_tap_index{index=\"7\",worker=\"1\"}"), 1.0);
    assert_eq!(up.matches("\nadit_tap_index{").count(), 1, "{up}");
    assert_eq!(value(&up, "adit_sealed_packets_total{worker=\"1\"}"), 50.0);
    assert_eq!(value(&up, "adit_drops_total{reason=\"bad_tag\",worker=\"0\"}"), 3.0);
    assert_eq!(value(&up, "adit_latency_seconds_count{path=\"inbound\",worker=\"0\"}"), 50.0);
    assert_eq!(value(&up, "adit_latency_seconds_bucket{path=\"inbound\",worker=\"0\",le=\"0.000002\"}"), 50.0);
    let shown = |count: &Count| match count {
        Count::BusyNs => "adit_worker_busy_seconds_total".to_owned(),
        count => format!("adit_{}_total", count.label()),
    };
    for name in Count::ALL.iter().map(shown) {
        assert!(up.contains(&format!("# TYPE {name} counter")), "{name}");
    }
    for name in Gauge::ALL.iter().map(|gauge| format!("adit_{}", gauge.label())) {
        assert!(up.contains(&format!("# TYPE {name} gauge")), "{name}");
    }
}

#[test]
fn timestamps_stay_as_they_are_until_something_happens() {
    let dir = tempfile::tempdir().unwrap();
    let view = view(dir.path());
    let registry = metrics::registry(view.clone()).unwrap();
    let plane = Plane::start(&view, dir.path());
    let received = "adit_peer_last_receive_timestamp_seconds{peer=\"site-b\"}";
    let heard = |packets: u64| {
        plane.work(&view, packets);
        view.sample();
        // Longer than a second: wherever in it the event was, the clock passes a whole one.
        let times: Vec<f64> = (0..12)
            .map(|_| {
                std::thread::sleep(Duration::from_millis(100));
                value(&metrics::page(&registry).unwrap(), received)
            })
            .collect();
        assert!(times.iter().all(|time| *time == times[0]), "{times:?}");
        times[0]
    };
    let first = heard(10);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64();
    assert!((1.0..4.0).contains(&(now - first)), "{first} at {now}");
    assert!((1.0..4.0).contains(&(heard(20) - first)));
}

#[test]
fn counters_go_on_when_the_data_plane_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let view = view(dir.path());
    let registry = metrics::registry(view.clone()).unwrap();
    let sealed = "adit_sealed_packets_total{worker=\"0\"}";
    let sent = "adit_child_sa_packets_total{child=\"0\",direction=\"out\",peer=\"site-b\"}";
    let plane = Plane::start(&view, dir.path());
    plane.work(&view, 50);
    assert!(view.detach().is_some());
    let between = metrics::page(&registry).unwrap();
    assert_eq!((value(&between, sealed), value(&between, sent)), (50.0, 100.0), "both lanes are in it");
    let lanes = |page: &str| ["live", "missing"].map(|state| value(page, &lane_states("site-b", state)));
    assert_eq!(lanes(&between), [0.0, 2.0], "SAs that are gone");
    drop(plane);
    let plane = Plane::start(&view, dir.path());
    plane.work(&view, 7);
    let after = metrics::page(&registry).unwrap();
    assert_eq!((value(&after, sealed), value(&after, sent)), (57.0, 114.0));
    assert_eq!(lanes(&after), [2.0, 0.0]);
    promtool(&after);
}

#[test]
fn drops_of_a_peer_are_told_to_all_who_ask_and_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let view = view(dir.path());
    let registry = metrics::registry(view.clone()).unwrap();
    let (peer, tag) = (PeerId(0), view.desired().tags[0]);
    let series = |direction: &str, reason: &str| {
        format!("adit_peer_drops_total{{direction=\"{direction}\",peer=\"site-b\",reason=\"{reason}\"}}")
    };
    let values = || {
        let page = metrics::page(&registry).unwrap();
        promtool(&page);
        [("in", "replay"), ("in", "other"), ("out", "no_sa"), ("out", "other")].map(|(way, why)| value(&page, &series(way, why)))
    };
    assert_eq!(values(), [0.0; 4]);
    for round in 1..=2 {
        let plane = Plane::start(&view, dir.path());
        for port in &plane.ports {
            port.peer_install(peer, tag);
            port.drop_of(peer, Direction::Inbound, Drop::Replay, 1000);
            port.drop_of(peer, Direction::Outbound, Drop::NoSa, 4);
            port.drop_of(peer, Direction::Inbound, Drop::BadPadding, 1);
            // Of somebody who is not in the configuration, and of nobody.
            port.peer_install(PeerId(1), PeerTag(tag.0 ^ 1));
            port.drop_of(PeerId(1), Direction::Inbound, Drop::Replay, 1);
            port.drop(Drop::UnknownSpi, 1);
        }
        let sums = [2000.0, 2.0, 8.0, 0.0].map(|sum| sum * f64::from(round));
        assert_eq!(values(), sums);
        let shown = view.peer(&view.desired(), 0).unwrap().peer;
        let reasons: Vec<_> = shown.drops.iter().map(|one| (one.direction.as_str(), one.reason.as_str())).collect();
        assert_eq!(reasons, [("in", "replay"), ("in", "other"), ("out", "no_sa")]);
        let text = status::of_peer(&shown);
        assert!(text.contains(&format!("dropped in     {} 000 replay, {} other", 2 * round, 2 * round)), "{text}");
        let causes = likely_causes(&shown);
        assert!(causes.iter().any(|cause| cause.contains(&format!("{} packets for the peer as no_sa", 8 * round))), "{causes:?}");
        assert!(
            likely_causes(&schema::Peer { up: true, ..shown }).iter().all(|cause| !cause.contains("no_sa")),
            "of what was before"
        );
        view.detach();
        assert_eq!(values(), sums, "a data plane that is gone has counted");
    }
    let next = View::new(view.desired());
    let (archive, counted) = view.archive();
    next.inherit(Some(&archive), &counted);
    let reported =
        |view: &View| view.peer(&view.desired(), 0).unwrap().peer.drops.iter().map(|one| one.packets).collect::<Vec<_>>();
    assert_eq!(reported(&next), [4000, 4, 16], "another control plane goes on");
}

#[test]
fn what_an_sa_carried_up_to_its_end_is_in_the_totals() {
    let dir = tempfile::tempdir().unwrap();
    let view = view(dir.path());
    let plane = Plane::start(&view, dir.path());
    plane.work(&view, 10);
    let total = |view: &View| {
        let peer = view.peer(&view.desired(), 0).unwrap().peer;
        peer.sent.packets + peer.received.packets
    };
    let before = total(&view);
    plane.ports[0].sa_update(0, 2000, 17, 1700);
    plane.ports[0].sa_remove(0);
    assert_eq!(total(&view), before + 7);
    let (archive, counted) = view.archive();
    assert_eq!((archive.gone.iter().map(|one| one.volume.packets).sum::<u64>(), counted), (17, vec![1, 0]));
}

#[test]
fn what_a_stranger_sends_is_no_cause_beside_what_was_opened() {
    let dir = tempfile::tempdir().unwrap();
    let view = view(dir.path());
    let plane = Plane::start(&view, dir.path());
    let (peer, tag) = (PeerId(0), view.desired().tags[0]);
    plane.work(&view, 10);
    view.sample();
    plane.ports[1].peer_install(peer, tag);
    plane.ports[1].drop_of(peer, Direction::Inbound, Drop::BadTag, 15);
    let shown = || view.peer(&view.desired(), 0).unwrap().peer;
    let reported =
        |peer: &schema::Peer| (peer.drops[0].packets, peer.drops[0].recent, peer.drops[0].last_s, peer.drops[0].opened);
    assert_eq!(reported(&shown()), (15, 15, Some(0), Some(0)), "what was opened before the first look is of no known time");
    assert!(likely_causes(&shown())[0].starts_with("15 packets with an SPI of the peer's as bad_tag"), "{:?}", shown());
    // Two lanes, each with so many more.
    plane.work(&view, 1010);
    view.sample();
    assert_eq!(reported(&shown()).3, Some(2000));
    assert_eq!(likely_causes(&shown()), [""; 0]);
    // The control plane that takes over knows how many, and not when.
    view.detach();
    let next = View::new(view.desired());
    let (archive, counted) = view.archive();
    next.inherit(Some(&archive), &counted);
    assert_eq!(reported(&next.peer(&next.desired(), 0).unwrap().peer), (15, 0, None, Some(0)));
}

#[test]
fn sas_of_two_peers_with_one_spi_are_counted_apart() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = view(dir.path()).desired().config.clone();
    config.peers.push(Peer { name: "site-c".into(), ..config.peers[0].clone() });
    let mut desired = Desired::new(config);
    let (same, others): (Vec<WantedSa>, Vec<WantedSa>) =
        desired.sas.iter().partition(|want| want.direction == Direction::Outbound);
    let both = same.len() / 2;
    let wanted = same.iter().enumerate().map(|(place, want)| WantedSa { spi: same[place % both].spi, ..*want });
    desired.sas = wanted.chain(others).collect();
    let view = View::new(Arc::new(desired));
    for packets in [2, 5] {
        let plane = Plane::start(&view, dir.path());
        plane.work(&view, packets);
        if packets == 2 {
            view.detach();
        }
    }
    let peers = view.peers(&view.desired());
    let spis = |peer: usize| -> Vec<String> {
        peers[peer].peer.children.iter().filter_map(|child| child.outbound_spi.clone()).collect()
    };
    assert_eq!((peers.len(), spis(0).len(), spis(0)), (2, 2, spis(1)));
    for PeerView { peer, totals, .. } in &peers {
        assert_eq!((peer.sent.packets, peer.received.packets, totals.len()), (14, 14, 2), "{peer:?}");
        assert!(peer.children.iter().all(|child| child.inbound.packets == 5), "{peer:?}");
    }
}

#[test]
fn a_look_at_the_moment_of_a_death_sees_every_number_once() {
    let dir = tempfile::tempdir().unwrap();
    let view = view(dir.path());
    let stop = AtomicBool::new(false);
    let seen = || view.numbers().workers.first().map_or(0, |worker| worker.count(Count::Sealed));
    std::thread::scope(|scope| {
        let looking = scope.spawn(|| {
            let (mut looks, mut last) = (0u64, 0);
            while !stop.load(Ordering::Relaxed) {
                let now = seen();
                assert!(now >= last, "{now} after {last}");
                (looks, last) = (looks + 1, now);
            }
            looks
        });
        // Several people ask at the same time. Whoever holds one lock and waits for another meets somebody who does the reverse.
        for _ in 0..3 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    view.status();
                }
            });
        }
        for _ in 0..50 {
            let plane = Plane::start(&view, dir.path());
            plane.work(&view, 3);
            view.sample();
            view.detach();
        }
        stop.store(true, Ordering::Relaxed);
        assert!(looking.join().unwrap() > 50);
    });
    assert_eq!(seen(), 150);
}

#[test]
fn the_status_can_be_read_by_programs_and_by_people() {
    let dir = tempfile::tempdir().unwrap();
    let view = view(dir.path());
    let down = view.status();
    assert!(status::report(&down).contains("DOWN"), "{}", status::report(&down));
    assert_eq!((down.peers[0].state.as_str(), down.peers[0].cause.as_deref()), ("idle", Some("the data plane does not run")));
    let plane = Plane::start(&view, dir.path());
    view.sample();
    let cause = |view: &View| view.status().peers[0].cause.clone().unwrap_or_default();
    assert_eq!(cause(&view), "the data plane has 0 of 2 lanes");
    plane.work(&view, 50_000);
    view.sample();
    assert_eq!(cause(&view), "no address is known that it can be reached at");
    view.set_ike(Report { paths: [(0, vec![path()])].into(), ..Report::default() });
    assert!(view.status().peers[0].up && !down.peers[0].up);
    let mut now: Status = serde_json::from_str(&serde_json::to_string(&view.status()).unwrap()).unwrap();
    assert_eq!(now.peers, view.status().peers);
    assert_eq!((now.peers[0].sent.packets, now.peers[0].received.bytes), (100_000, 10_000_000));
    assert!(now.peers[0].children.iter().all(|child| child.inbound.live) && now.peers[0].children.len() == 2);
    // What depends on the moment.
    now.control_plane.pid = 4710;
    now.control_plane.uptime_s = 4000;
    now.data_plane.as_mut().unwrap().uptime_s = 90_000;
    for worker in &mut now.workers {
        worker.sealed_per_s = 1_234_567;
    }
    now.peers[0].sent.bits_per_s = 9_600_000_000;
    now.peers[0].received.bits_per_s = 0;
    insta::assert_snapshot!(status::report(&now));
    insta::assert_snapshot!(status::of_peer(&now.peers[0]));
}

#[test]
fn a_file_that_is_newer_than_what_runs_is_said() {
    let dir = tempfile::tempdir().unwrap();
    drop(view(dir.path()));
    let file = dir.path().join("site-a.yaml");
    std::fs::write(&file, YAML).unwrap();
    let desired = Desired::read(&file, &Machine { cores: vec![0, 1] }).unwrap();
    let view = Arc::new(View::new(Arc::new(desired)));
    let registry = metrics::registry(view.clone()).unwrap();
    let said = || {
        let mut status = view.status();
        let configuration = status.configuration.as_mut().unwrap();
        (configuration.file, configuration.read_s) = ("/etc/adit/site-a.yaml".to_owned(), 90);
        (value(&metrics::page(&registry).unwrap(), "adit_config_outdated"), status::report(&status))
    };
    let (outdated, report) = said();
    assert!(outdated == 0.0 && !report.contains("newer"), "{report}");
    std::fs::write(&file, format!("{YAML}# edited\n")).unwrap();
    let (outdated, report) = said();
    assert_eq!(outdated, 1.0);
    insta::assert_snapshot!(report.split_once("interface").unwrap().0.split_once("configuration").unwrap().1);
}

#[test]
fn what_is_not_of_now_says_how_old_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let view = view(dir.path());
    let registry = metrics::registry(view.clone()).unwrap();
    // In every answer: of the gateway, of a peer, of its health, in numbers.
    let said = |view: &View| {
        let (status, health) = (view.status(), view.health());
        let texts = [status::report(&status), status::of_peer(&status.peers[0])];
        let page = metrics::page(&registry).unwrap();
        let numbers = page.lines().find_map(|line| line.strip_prefix("adit_report_age_seconds ")).map(str::to_owned);
        let all = [status.control_plane.as_of_s, status.peers[0].as_of_s, health.as_of_s];
        let [as_of_s, ..] = all;
        assert_eq!((all, numbers), ([as_of_s; 3], Some(as_of_s.unwrap_or(0).to_string())));
        texts.iter().for_each(|text| assert_eq!(text.contains("too busy to look"), as_of_s.is_some(), "{text}"));
        texts.iter().for_each(|text| assert_fits(text));
        as_of_s
    };
    assert_eq!(said(&view), None, "nobody has looked: the gateway is starting");
    for (age_s, as_of_s) in [(0, None), (3, Some(3)), (7000, Some(7000))] {
        let made = Instant::now().checked_sub(Duration::from_secs(age_s));
        view.set_ike(Report { made, ..Report::default() });
        assert_eq!(said(&view), as_of_s);
    }
}

fn assert_fits(text: &str) {
    let long: Vec<&str> = text.lines().filter(|line| line.chars().count() > 80).collect();
    assert!(long.is_empty(), "{long:#?} in\n{text}");
}

#[test]
fn what_a_peer_lacks_is_the_same_in_status_health_and_metrics() {
    let dir = tempfile::tempdir().unwrap();
    let view = view(dir.path());
    let registry = metrics::registry(view.clone()).unwrap();
    let plane = Plane::start(&view, dir.path());
    plane.work(&view, 50);
    let with = |change: fn(&mut PathStatus)| {
        let mut path = path();
        change(&mut path);
        vec![path]
    };
    let no_echoes = with(|path| (path.echo, path.mtu_proven, path.proven) = (false, None, false));
    for (paths, lack) in [
        (with(|_| {}), None),
        (no_echoes, None),
        (with(|path| path.silent = true), Some("no echo comes back from 192.0.2.2:4500")),
        (with(|path| path.mtu_proven = None), Some("how long packets to 192.0.2.2:4500 may be is not known yet")),
        (with(|path| path.in_use = false), Some("no address is known that it can be reached at")),
        (Vec::new(), Some("no address is known that it can be reached at")),
    ] {
        view.set_ike(Report { paths: [(0, paths)].into(), ..Report::default() });
        let (status, health) = (view.status(), view.health());
        let peer = &status.peers[0];
        assert_eq!(peer.lacks.iter().map(String::as_str).collect::<Vec<_>>(), lack.into_iter().collect::<Vec<_>>());
        let reported: Vec<_> = health.lacks.iter().map(|lack| (lack.peer.as_deref(), lack.what.as_str())).collect();
        assert_eq!(reported, lack.map(|lack| (Some("site-b"), lack)).into_iter().collect::<Vec<_>>());
        assert_eq!((peer.up, health.ok), (lack.is_none(), lack.is_none()));
        let page = metrics::page(&registry).unwrap();
        assert_eq!(value(&page, "adit_peer_up{peer=\"site-b\"}"), f64::from(u8::from(peer.up)));
        let report = status::report(&status);
        assert!(lack.is_none_or(|lack| report.contains(lack)) && report.contains("NOT UP") != peer.up, "{report}");
    }
}

/// The status of a gateway that has worked.
fn status_after_work() -> Status {
    let dir = tempfile::tempdir().unwrap();
    let view = view(dir.path());
    let plane = Plane::start(&view, dir.path());
    plane.work(&view, 50_000);
    view.sample();
    view.set_ike(Report { paths: [(0, vec![path()])].into(), ..Report::default() });
    view.status()
}

#[test]
fn a_busy_status_of_many_peers_fits_80_columns() {
    let status = busy::status(status_after_work());
    assert!(status.peers.len() > 10 && status.drops.len() == Drop::ALL.len());
    status.peers.iter().for_each(|peer| assert_fits(&status::of_peer(peer)));
    assert_fits(&status::report(&status));
}

#[test]
fn the_status_fits_80_columns() {
    let mut status = status_after_work();
    let peer = &mut status.peers[0];
    "a-branch-with-a-name-that-nobody-types-twice".clone_into(&mut peer.name);
    "reconnecting".clone_into(&mut peer.state);
    peer.since_s = Some(3599);
    (peer.sent.bits_per_s, peer.received.bits_per_s, peer.received.idle_s) = (999_900_000_000, 999_900_000_000, Some(3599));
    peer.cause =
        Some("the peer answered IKE_AUTH with AUTHENTICATION_FAILED, and that again and again for a long time".to_owned());
    peer.lacks = vec!["no Child SA carries 2001:db8:1234:5678::/64 <> 2001:db8:9abc:def0::/64".to_owned()];
    peer.paths[0].remote = "[2001:db8:1234:5678:9abc:def0:1234:5678]:4500".to_owned();
    peer.paths[0].black_holes = 1;
    peer.paths[0].mtu_route = 9000;
    [status::report(&status), status::of_peer(&status.peers[0])].iter().for_each(|text| assert_fits(text));
}
