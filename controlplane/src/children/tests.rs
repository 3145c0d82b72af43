//! Both sources of keys, side by side.

use std::time::Duration;

use adit_engine::ike::selectors::SelectorPair;
use adit_engine::ike::{IkeSpis, NatStatus, Role, Usage};
use adit_engine::path::Hop;
use adit_engine::shown::Shown;
use adit_proto::control::PeerId;
use adit_proto::ike::IkeSpi;
use adit_proto::suite::Suite;

use super::*;
use crate::config::Machine;
use crate::desired::Desired;
use crate::static_key::{SECRET_LEN, Secret};

fn desired(lanes: u16, selectors: &str) -> Desired {
    let dir = tempfile::tempdir().unwrap();
    Secret::from_bytes(Suite::Aes256Gcm, [3; SECRET_LEN]).create_file(&dir.path().join("pair.key")).unwrap();
    let mode = if selectors.is_empty() { "" } else { "mode: ip\n" };
    let yaml = format!(
        "name: a\nlisten: 192.0.2.1:4500\n{mode}interface: {{ name: adit0 }}\ndataplane: {{ workers: 2 }}\npeers:\n  \
         - {{ name: b, endpoint: \"192.0.2.2:4500\", static_key_file: pair.key, lanes: {lanes}{selectors} }}\n"
    );
    let config = Config::from_yaml(&yaml, dir.path(), &Machine { cores: vec![0, 1] });
    Desired::new(config.map_err(|problems| problems[0].what.clone()).unwrap())
}

fn agreed_pair(desired: &Desired, lane: u8, established: Instant) -> IkeStatus {
    let hop = Hop::new(desired.config.listen, "192.0.2.2:4500".parse().unwrap());
    let child = ChildStatus {
        id: ChildId::ONLY,
        child: 0,
        name: "ethernet".into(),
        lane,
        mode: Mode::Ethernet,
        inbound: Spi(0x5000_0100 | u32::from(lane)),
        outbound: Spi(0x5000_0200 | u32::from(lane)),
        suite: "AES_GCM_16_256/ESN".into(),
        esn: true,
        selectors: SelectorPair { local: Vec::new(), remote: Vec::new() },
        established,
        rekey_at: Some(established + Duration::from_secs(60)),
        expire_at: None,
        usage: Usage::default(),
        is_sending: true,
        is_going: false,
    };
    IkeStatus {
        spis: IkeSpis { initiator: IkeSpi(1), responder: IkeSpi(2) },
        role: Role::Initiator,
        suite: String::new(),
        post_quantum: true,
        ppk: false,
        remote_id: Shown::of("b"),
        proof: Shown::default(),
        established,
        last_heard: established,
        rekey_at: None,
        reauth_at: None,
        peer_certificate_until: None,
        own_certificate_until: None,
        hop,
        nat: NatStatus::default(),
        mobike: true,
        adit: true,
        is_going: false,
        children: vec![child],
        missing: Vec::new(),
        narrowed: Vec::new(),
    }
}

fn static_pairs(desired: &Desired) -> Vec<Pair> {
    of_static_key(&desired.config, &desired.sas.iter().collect::<Vec<_>>())
}

/// What a data plane has of a lane.
fn live(child: &schema::ChildSa) -> Vec<(u16, LiveSa)> {
    let of = |direction, sa: &schema::Sa, spi: &str| {
        let spi = Spi(u32::from_str_radix(spi.trim_start_matches("0x"), 16).unwrap());
        let (suite, window, peer, child) = (Suite::Aes256Gcm, 64, PeerId(0), ChildId::ONLY);
        (sa.worker, LiveSa { spi, direction, peer, child, suite, window, seq: 5, seq_limit: 0, packets: 5, bytes: 500 })
    };
    let outbound = child.outbound.iter().map(|sa| of(Direction::Outbound, sa, child.outbound_spi.as_ref().unwrap()));
    [of(Direction::Inbound, &child.inbound, &child.inbound_spi)].into_iter().chain(outbound).collect()
}

#[test]
fn both_sources_of_keys_show_the_same_and_differ_where_the_api_says() {
    let (desired, now) = (desired(1, ""), Instant::now() + Duration::from_secs(10));
    let (tag, peers) = (desired.tags[0], Peers::from([(PeerId(0), desired.tags[0])]));
    let agreed = of_ike(&[agreed_pair(&desired, 0, now.checked_sub(Duration::from_secs(7)).unwrap())]);
    let shown = [agreed, static_pairs(&desired)].map(|pairs| {
        assert_eq!(pairs.len(), 1);
        let idle = pairs[0].show((tag, 2), &LiveSas::new(), now);
        assert_eq!((idle.lane_state(), idle.inbound.sequence), (LaneState::Missing, 0));
        let half = live_sas(&live(&idle)[..1], &peers);
        assert_eq!(pairs[0].show((tag, 2), &half, now).lane_state(), LaneState::Missing, "one direction is not enough");
        pairs[0].show((tag, 2), &live_sas(&live(&idle), &peers), now)
    });
    let [agreed, derived] = &shown;
    assert_eq!(agreed.lane_state(), LaneState::Live);
    assert_eq!((agreed.age_s, agreed.rekey_in_s), (Some(7), Some(53)));
    assert_eq!(agreed.ike_sa.as_deref(), Some("0000000000000001_i 0000000000000002_r"));
    assert_eq!((derived.age_s, derived.rekey_in_s, &derived.ike_sa), (None, None, &None));
    // All else is the same, but for the SPIs.
    let mut same = derived.clone();
    (same.age_s, same.rekey_in_s, same.ike_sa) = (agreed.age_s, agreed.rekey_in_s, agreed.ike_sa.clone());
    (same.inbound_spi, same.outbound_spi) = (agreed.inbound_spi.clone(), agreed.outbound_spi.clone());
    assert_eq!(&same, agreed);
}

#[test]
fn a_lane_without_a_worker_of_ours_is_received_on_only() {
    let desired = desired(3, "");
    let pairs = static_pairs(&desired);
    let agreed = of_ike(&[agreed_pair(&desired, 2, Instant::now())]);
    assert_eq!(pairs.len(), 3);
    for pair in [&pairs[2], &agreed[0]] {
        let shown = pair.show((desired.tags[0], 2), &LiveSas::new(), Instant::now());
        assert_eq!((shown.lane, shown.inbound.worker, shown.outbound), (2, 0, None));
    }
    assert!(pairs[..2].iter().all(|pair| pair.outbound.is_some()));
}

#[test]
fn configured_selectors_are_those_of_a_static_key_each_once() {
    let selectors = ", selectors: [{ local: 10.1.0.0/16, remote: 10.2.0.0/16 }, { local: 10.1.0.0/16, remote: 10.3.0.0/16 }]";
    let desired = desired(1, selectors);
    let shown = static_pairs(&desired)[0].show((desired.tags[0], 2), &LiveSas::new(), Instant::now());
    assert_eq!((shown.name.as_str(), shown.local, shown.remote.len()), ("ip", vec!["10.1.0.0/16".to_owned()], 2));
}

#[test]
fn what_is_closed_with_its_ike_sa_is_going_and_comes_last() {
    let desired = desired(1, "");
    let stays = agreed_pair(&desired, 1, Instant::now());
    let mut goes = agreed_pair(&desired, 0, Instant::now());
    goes.is_going = true;
    let show = |pair: &Pair| pair.show((desired.tags[0], 2), &LiveSas::new(), Instant::now());
    let shown: Vec<schema::ChildSa> = of_ike(&[goes, stays]).iter().map(show).collect();
    assert_eq!((shown[0].lane, shown[1].lane), (1, 0));
    assert_eq!((shown[0].lane_state(), shown[1].lane_state()), (LaneState::Missing, LaneState::Going));
}
