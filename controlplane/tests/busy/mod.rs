//! A status in which everything is long and large, and there is much of it.

use adit_controlplane::schema;
use adit_controlplane::view::drops::direction;
use adit_engine::ike::Counters;
use adit_proto::peer_drops::PeerDrop;
use adit_proto::stats::Drop;

const STATES: [&str; 6] = ["idle", "connecting", "established", "rekeying", "reconnecting", "failed"];
const V6: &str = "2001:db8:1234:5678:9abc:def0:1234:5678";
const NAME: &str = "C=DE, O=Example of a Company with a Long Name GmbH & Co. KG, CN=gateway-17.branch.example.org";

/// The same gateway, with as much to show as there can be.
pub fn status(mut status: schema::Status) -> schema::Status {
    let peer = busy(status.peers[0].clone());
    for state in STATES {
        let traffic = schema::Traffic { packets: u64::MAX, bytes: u64::MAX, bits_per_s: 999_940_000_000, idle_s: Some(172_799) };
        let of = |name: &str| schema::Peer {
            name: name.to_owned(),
            state: state.to_owned(),
            since_s: Some(86_400 * 9999),
            as_of_s: Some(86_400 * 9999),
            sent: traffic,
            received: traffic,
            ..peer.clone()
        };
        status.peers.extend([of("sixteen-letters1"), of(&"very-".repeat(12)), of("b")]);
    }
    for worker in &mut status.workers {
        (worker.id, worker.core) = (63, Some(1023));
        (worker.sealed_per_s, worker.opened_per_s) = (99_999_999, 99_999_999);
        (worker.dropped_packets, worker.fdb_entries) = (999_999_999_999, 1 << 20);
    }
    for latency in &mut status.latencies {
        (latency.p50_us, latency.p99_us, latency.p999_us) = (99_999_999.0, 999_999_999.0, 999_999_999.0);
    }
    let dropped =
        |drop: &Drop| schema::Drop { reason: drop.label().to_owned(), packets: 999_999_999_999, meaning: drop.help().to_owned() };
    status.drops = Drop::ALL.iter().map(dropped).collect();
    gateway(&mut status);
    status
}

/// What is said of the gateway as a whole.
fn gateway(status: &mut schema::Status) {
    status.interface.addresses = vec![format!("{V6}/64"); 4];
    status.key_log_dir = Some("/var/lib/adit/analysis/keys".to_owned());
    status.configuration = Some(schema::Configuration {
        file: "/etc/adit/gateways/of-the-branch/with-a-long-name.yaml".to_owned(),
        read_s: 86_400,
        newer: true,
        pending: vec![
            "dataplane.workers 1 → 2: adit reload --restart-dataplane, and all tunnels stand still for a moment".to_owned(),
        ],
    });
    status.certificates = vec![schema::Certificate {
        subject: NAME.to_owned(),
        issuer: "CN=Issuing Authority".to_owned(),
        until: 0,
        remaining_s: -86_400,
    }];
    let plane = status.data_plane.as_mut().unwrap();
    plane.listen = format!("[{V6}]:64500");
    plane.cpu_features = "aes avx avx2 avx512f pclmulqdq sha ssse3 vaes vpclmulqdq".to_owned();
    plane.protections.in_force = vec!["no capabilities".to_owned(); 12];
    plane.protections.lacking =
        vec!["landlock: this kernel does not have it, or it is not among lsm= of its command line".to_owned()];
    status.data_plane_restarts = u64::MAX;
}

/// An IKE SA with everything that can be said of one, at its longest.
fn long_ike_sa(children: Vec<schema::ChildSa>) -> schema::IkeSa {
    schema::IkeSa {
        initiator_spi: "0123456789abcdef".to_owned(),
        responder_spi: "fedcba9876543210".to_owned(),
        role: "responder".to_owned(),
        suite: "chacha20poly1305-prfsha512-modp8192-ke1_mlkem1024".to_owned(),
        post_quantum: true,
        ppk: true,
        remote_id: NAME.to_owned(),
        proof: "a certificate with a signature of ecdsa-with-SHA512, under CN=Issuing Authority 2026".to_owned(),
        age_s: 3599,
        idle_s: 3599,
        rekey_in_s: Some(86_399),
        reauth_in_s: Some(864_000),
        peer_certificate_until: Some(u64::MAX),
        peer_certificate_remaining_s: Some(-86_400 * 9999),
        own_certificate_until: Some(u64::MAX),
        local: "[2001:db8:1234:5678:9abc:def0:1234:5678]:4500".to_owned(),
        remote: "[2001:db8:1234:5678:9abc:def0:1234:9abc]:64500".to_owned(),
        nat_here: true,
        nat_there: true,
        mobike: true,
        adit: true,
        going: true,
        children,
    }
}

/// A peer with long names and addresses, and many SAs with large numbers.
fn busy(mut peer: schema::Peer) -> schema::Peer {
    let v6 = |n: usize| format!("2001:db8:1234:5678:9abc:def0:{n:x}:5678/128[udp/1024-65535]");
    let sa = schema::Sa { worker: 63, live: true, sequence: (1 << 40) - 1, packets: 999_999_999_999, bytes: u64::MAX };
    let child = |n: usize| schema::ChildSa {
        id: 65_000 + n as u16,
        lane: 63,
        local: (0..8).map(v6).collect(),
        remote: (8..16).map(v6).collect(),
        suite: "chacha20poly1305-modp8192-ke1_mlkem1024-esn".to_owned(),
        age_s: Some(86_399),
        rekey_in_s: Some(86_399),
        inbound: schema::Sa { live: !n.is_multiple_of(3), ..sa.clone() },
        outbound: Some(schema::Sa { sequence: u64::MAX, ..sa.clone() }),
        outbound_spi: Some("fedcba98".to_owned()),
        going: n.is_multiple_of(2),
        ..peer.children[0].clone()
    };
    let children: Vec<_> = (0..64).map(child).collect();
    let counters: Vec<(String, u64)> = Counters::default().iter().map(|(name, _)| (name.to_owned(), u64::MAX)).collect();
    let missing = |n: usize| schema::MissingSelector {
        selector: format!("{} <> {}", v6(n), v6(n + 1)),
        cause: Some("the peer answered CREATE_CHILD_SA with TS_UNACCEPTABLE".to_owned()),
        retry_in_s: Some(3600),
    };
    peer.endpoint =
        "[2001:db8:1234:5678:9abc:def0:1234:5678]:64500, gateway-17.branch.example.org:4500, 198.51.100.200:4500".to_owned();
    peer.ike = Some(schema::Ike {
        state: "reconnecting".to_owned(),
        attempts: u32::MAX,
        retry_in_s: Some(3600),
        sas: vec![long_ike_sa(children.clone()), long_ike_sa(Vec::new())],
        counters: counters.into_iter().collect(),
    });
    peer.missing = (0..20).map(missing).collect();
    peer.lacks = peer.missing.iter().map(|one| format!("no Child SA carries {}", one.selector)).collect();
    peer.children = children;
    peer.drops = PeerDrop::all()
        .map(|drop| schema::PeerDrops {
            direction: direction(drop.direction()).to_owned(),
            reason: drop.label().to_owned(),
            packets: 999_999_999_999,
            recent: 999_999,
            last_s: Some(1),
            opened: None,
            meaning: drop.help().to_owned(),
        })
        .collect();
    let way = schema::PeerPath {
        local: "[2001:db8:1234:5678:9abc:def0:1234:5678]:64500".to_owned(),
        remote: "[2001:db8:1234:5678:9abc:def0:1234:9abc]:64500".to_owned(),
        split: true,
        mtu: 9216,
        mtu_proven: Some(9216),
        mtu_route: 9216,
        rtt_us: Some(1_999_000),
        loss: Some(0.999),
        ..peer.paths[0].clone()
    };
    peer.paths = vec![schema::PeerPath { echo: false, mtu_proven: None, ..way.clone() }, way];
    peer
}
