//! One peer with good credentials that wants too much, beside an honest one: it gets its share, and hurts itself alone.

use std::time::Duration;

use adit_engine::ike::{Cause, Error, Event, Incompatibility, LocalFault, PeerConfig, PeerId, Share};
use adit_engine::shown::SHOWN_LEN_MAX;
use adit_proto::ike::{ExchangeType, NotifyType};

use adit_sim::*;

pub const GATEWAY: usize = 0;
const HONEST: usize = 1;
/// The honest peer, as the gateway knows it.
pub const GUEST: PeerId = PeerId(1);

/// A gateway with an honest peer that is connected, and another one that is not there yet; what the gateway grants that one.
pub fn gateway(seed: u64, change: impl FnOnce(&mut PeerConfig)) -> World {
    let mut world = World::new(seed);
    world.add("192.0.2.2:4500", endpoint_config(2));
    world.add("192.0.2.3:4500", endpoint_config(3));
    let mut greedy = PeerConfig { initiate: false, remotes: Vec::new(), ..peer(B) };
    change(&mut greedy);
    world.set_peer(GATEWAY, PEER, greedy);
    world.set_peer(GATEWAY, GUEST, guest());
    let mut own = PeerConfig { local_id: "c.example.org".parse().expect("an identity"), ..peer(A) };
    own.local = Some("192.0.2.3:4500".parse().expect("an address"));
    own.children[0].local = vec![net("10.3.0.0/16")];
    world.set_peer(HONEST, PEER, own);
    assert!(world.run_until(Duration::from_secs(5), |world| world.is_up(GATEWAY, GUEST) && world.is_up(HONEST, PEER)));
    world
}

/// The honest peer, as the gateway knows it.
fn guest() -> PeerConfig {
    let mut guest = PeerConfig { name: "c".into(), initiate: false, remotes: Vec::new(), ..peer(B) };
    guest.remote_id = "c.example.org".parse().expect("an identity");
    guest.children[0].remote = vec![net("10.3.0.0/16")];
    guest
}

/// Another machine with the credentials of the other peer.
fn greedy(world: &mut World, number: usize, change: impl FnOnce(&mut PeerConfig)) -> usize {
    let address = format!("198.51.100.{number}:4500");
    let node = world.add(&address, endpoint_config(7));
    let mut config = PeerConfig { local: Some(address.parse().expect("an address")), ..peer(A) };
    change(&mut config);
    world.set_peer(node, PEER, config);
    node
}

pub fn inbound_of(world: &World, peer: PeerId) -> usize {
    world.nodes[GATEWAY].data.inbound.values().filter(|keys| keys.peer == peer).count()
}

/// The honest peer rekeys, and its packets go both ways.
pub fn honest_goes_on(world: &mut World) {
    world.act(HONEST, |endpoint, now| endpoint.rekey(now, PEER)).expect("it is connected");
    world.run_for(Duration::from_secs(1));
    world.act(HONEST, |endpoint, now| endpoint.rekey_ike(now, PEER)).expect("it is connected");
    world.run_for(Duration::from_secs(1));
    let opened = [GATEWAY, HONEST].map(|node| world.nodes[node].data.opened);
    world.send_esp(HONEST);
    world.run_for(Duration::from_secs(1));
    world.send_esp(GATEWAY);
    world.run_for(Duration::from_secs(1));
    assert!(world.nodes[GATEWAY].data.opened > opened[0] && world.nodes[HONEST].data.opened > opened[1]);
    let down = |event: &Event| matches!(event, Event::State { peer: GUEST, state, .. } if !state.is_up());
    let came = world.nodes[GATEWAY].events.iter().position(|event| matches!(event, Event::IkeUp { peer: GUEST, .. }));
    assert!(!world.nodes[GATEWAY].events[came.expect("it came")..].iter().any(down), "it was never down");
}

#[test]
fn under_a_pattern_a_name_too_long_to_be_known_again_is_refused() {
    for (len, is_let_in) in [(SHOWN_LEN_MAX, true), (SHOWN_LEN_MAX + 1, false)] {
        let below = ".example.org";
        let name = "x".repeat(len - below.len()) + below;
        let mut world = gateway(3, |config| config.remote_id = "*.example.org".parse().expect("a pattern"));
        // The second one is the same client, which has forgotten all and comes from elsewhere.
        for number in [1, 2] {
            let client = greedy(&mut world, number, |config| config.local_id = name.parse().expect("an identity"));
            world.run_for(Duration::from_secs(5));
            assert_eq!(world.is_up(client, PEER), is_let_in, "{len} characters, client {number}");
            world.nodes[client].on = false;
        }
        let refusal = world.nodes[GATEWAY].endpoint.refusals().last().map(|refusal| refusal.why.clone());
        assert_eq!(refusal, (!is_let_in).then_some(Error::Incompatible(Incompatibility::LongName)));
        honest_goes_on(&mut world);
    }
}

#[test]
fn ike_sas_without_end_of_one_peer_take_nothing_from_another() {
    // Those that answer take each other's place; those that do not are never used.
    for answers in [true, false] {
        let mut world = gateway(1, |_| {});
        let (mut most, mut ike) = (0, 0);
        for number in 1..=60 {
            let node = greedy(&mut world, number, |config| config.children[0].lanes = 2);
            let up = |world: &World| world.is_up(node, PEER);
            world.run_until(Duration::from_millis(150), up);
            world.nodes[node].on = answers;
            most = most.max(inbound_of(&world, PEER));
            ike = ike.max(world.nodes[GATEWAY].endpoint.status(PEER).expect("the peer").ike.len());
            assert_eq!(inbound_of(&world, GUEST), 1);
        }
        assert!((2..=64).contains(&most) && (2..=8).contains(&ike), "{most} SAs, {ike} IKE SAs");
        honest_goes_on(&mut world);
    }
}

#[test]
fn a_peer_that_comes_too_often_is_told_to_wait() {
    let mut world = gateway(2, |_| {});
    let begun: Vec<usize> = (1..=20).map(|number| greedy(&mut world, number, |_| {})).collect();
    world.run_for(Duration::from_millis(100));
    let wait = Cause::Refused { exchange: ExchangeType::IKE_AUTH, notify: NotifyType::TEMPORARY_FAILURE };
    let refused = begun.iter().filter(|node| {
        let status = world.nodes[**node].endpoint.status(PEER).expect("the peer");
        status.cause == Some(wait.clone())
    });
    assert_eq!(refused.count(), 20 - 8);
    let last = world.nodes[GATEWAY].endpoint.refusals().last().expect("it is remembered").clone();
    assert_eq!(last.why, Error::Local(LocalFault::TooOften));
    honest_goes_on(&mut world);
}

#[test]
fn who_comes_again_and_again_has_its_tunnel_within_a_small_share() {
    let share = Share { sas: 6, ..Share::default() };
    // Those that answer take each other's place; what the others had is given up for the next one.
    for answers in [true, false] {
        let mut world = gateway(8, |config| config.share = share);
        for number in 1..=20 {
            let node = greedy(&mut world, number, |_| {});
            let has_its_own = |world: &World| !world.nodes[node].data.outbound.is_empty() && world.is_up(node, PEER);
            assert!(world.run_until(Duration::from_secs(1), has_its_own), "machine {number}");
            world.nodes[node].on = answers;
            assert!(inbound_of(&world, PEER) < share.sas, "{}", inbound_of(&world, PEER));
            // It may begin eight in a second.
            world.run_for(Duration::from_millis(150));
        }
        honest_goes_on(&mut world);
    }
}

/// A gateway that grants a peer forty networks, within this share; and the peer, which wants them all.
fn forty_networks(seed: u64, share: Share) -> (World, usize) {
    let child = |number: u8, granted: bool| {
        let mut child = tunnel(if granted { B } else { A });
        child.name = format!("net-{number}");
        let side = vec![net(&format!("10.1.{number}.0/24"))];
        *(if granted { &mut child.remote } else { &mut child.local }) = side;
        child
    };
    let mut world = gateway(seed, |config| {
        config.share = share;
        config.children = (0..40).map(|number| child(number, true)).collect();
    });
    let node = greedy(&mut world, 1, |config| config.children = (0..40).map(|number| child(number, false)).collect());
    world.run_for(Duration::from_secs(10));
    (world, node)
}

#[test]
fn a_share_grows_when_others_have_gone() {
    let (mut world, _) = forty_networks(5, Share { sas: 8, ..Share::default() });
    let few = inbound_of(&world, PEER);
    world.act(GATEWAY, |endpoint, now| endpoint.set_share(now, PEER, Share { sas: 20, ..Share::default() }));
    world.run_for(Duration::from_secs(600));
    let more = inbound_of(&world, PEER);
    assert!(few < more && more <= 10, "{few}, then {more}");
    honest_goes_on(&mut world);
}

#[test]
fn child_sas_without_end_stop_at_the_share_of_the_peer() {
    let share = Share { sas: 20, ..Share::default() };
    let (mut world, node) = forty_networks(3, share);
    let granted = inbound_of(&world, PEER);
    assert!((4..=7).contains(&granted), "{granted}: each can be rekeyed");
    let refused = Cause::Refused { exchange: ExchangeType::CREATE_CHILD_SA, notify: NotifyType::NO_ADDITIONAL_SAS };
    let is_refusal = |event: &Event| matches!(event, Event::ChildFailed { cause, .. } if *cause == refused);
    assert!(world.nodes[node].events.iter().any(is_refusal));
    for _ in 0..20 {
        drop(world.act(node, |endpoint, now| endpoint.rekey(now, PEER)));
        world.run_for(Duration::from_millis(200));
        let places = inbound_of(&world, PEER) + granted;
        assert!(places <= share.sas, "{places}");
    }
    honest_goes_on(&mut world);
}

#[test]
fn what_is_late_counts_for_the_next_process_as_well() {
    let share = Share { sas: 20, ..Share::default() };
    let mut config = None;
    let mut world = gateway(6, |granted| {
        granted.share = share;
        config = Some(granted.clone());
    });
    let node = greedy(&mut world, 1, |_| {});
    world.run_for(Duration::from_secs(1));
    let rekeys = |world: &mut World| {
        for _ in 0..15 {
            drop(world.act(node, |endpoint, now| endpoint.rekey(now, PEER)));
            world.run_for(Duration::from_millis(200));
            let taken = inbound_of(world, PEER);
            assert!(taken < share.sas, "{taken}");
        }
    };
    rekeys(&mut world);
    assert!(inbound_of(&world, PEER) > 10, "what was replaced takes what is late");
    let peers = [(PEER, config.expect("it is configured")), (GUEST, guest())];
    world.succeed(GATEWAY, endpoint_config(2), &peers);
    rekeys(&mut world);
    honest_goes_on(&mut world);
}

#[test]
fn selectors_that_make_too_many_pairs_are_refused_before_the_answer() {
    let side = |first: u8, count: u8| (0..count).map(|n| net(&format!("10.{first}.{n}.0/24"))).collect();
    for (count, fits) in [(20, true), (30, false)] {
        let mut world = gateway(4, |config| {
            config.children[0].local = vec![net("10.2.0.0/16")];
            config.children[0].remote = vec![net("10.1.0.0/16")];
        });
        let node = greedy(&mut world, 1, |config| {
            (config.children[0].local, config.children[0].remote) = (side(1, count), side(2, count));
        });
        world.run_for(Duration::from_secs(2));
        assert_eq!(inbound_of(&world, PEER), usize::from(fits), "{count} by {count}");
        let refused = Cause::Refused { exchange: ExchangeType::IKE_AUTH, notify: NotifyType::TS_UNACCEPTABLE };
        let reported = |event: &Event| matches!(event, Event::ChildFailed { cause, .. } if *cause == refused);
        assert_eq!(world.nodes[node].events.iter().any(reported), !fits);
        let explained = world.nodes[GATEWAY].endpoint.explain(PEER, world.now).expect("the peer");
        let cause = explained.record.problem.map(|problem| problem.cause);
        let too_many = Cause::Failed(Error::Incompatible(Incompatibility::TooManySelectors));
        assert_eq!(cause, (!fits).then_some(too_many));
        honest_goes_on(&mut world);
    }
}

#[test]
fn where_sessions_are_full_who_is_known_comes_back() {
    let mut world = World::new(5);
    let mut config = endpoint_config(2);
    config.limits.sessions = 1;
    let gateway = world.add("192.0.2.2:4500", config);
    for id in [0, 1] {
        let pattern = "*.example.org".parse().expect("a pattern");
        let config = PeerConfig { initiate: false, remotes: Vec::new(), remote_id: pattern, ..peer(B) };
        world.set_peer(gateway, PeerId(id), config);
    }
    let named =
        PeerConfig { initiate: false, remotes: Vec::new(), remote_id: "n.example.org".parse().expect("a name"), ..peer(B) };
    world.set_peer(gateway, PeerId(2), named);
    let client = |world: &mut World, number, name: &str| {
        greedy(world, number, |config| config.local_id = name.parse().expect("an identity"))
    };
    let first = client(&mut world, 1, "a.example.org");
    assert!(world.run_until(Duration::from_secs(5), |world| world.is_up(first, PEER)));
    let second = client(&mut world, 2, "b.example.org");
    world.run_for(Duration::from_secs(5));
    assert!(!world.is_up(second, PEER));
    let why = world.nodes[gateway].endpoint.refusals().last().expect("a refusal").why.clone();
    assert_eq!(why, Error::Local(LocalFault::Sessions));
    // One that has crashed and comes back, and one that is configured by its own name.
    world.nodes[first].on = false;
    let back = client(&mut world, 3, "a.example.org");
    let own = client(&mut world, 4, "n.example.org");
    assert!(world.run_until(Duration::from_secs(5), |world| world.is_up(back, PEER) && world.is_up(own, PEER)));
    assert!(!world.is_up(second, PEER));
}

/// A gateway that has room for so many sessions, all under one pattern.
fn with_room_for(sessions: usize) -> (World, usize) {
    let mut world = World::new(5);
    let mut config = endpoint_config(2);
    config.limits.sessions = sessions;
    let gateway = world.add("192.0.2.2:4500", config);
    for id in 0..2 * sessions as u16 {
        let pattern = "*.example.org".parse().expect("a pattern");
        let config = PeerConfig { initiate: false, remotes: Vec::new(), remote_id: pattern, ..peer(B) };
        world.set_peer(gateway, PeerId(id), config);
    }
    (world, gateway)
}

/// Somebody with the credentials for the pattern, at this address.
fn client_at(world: &mut World, address: &str, name: &str) -> usize {
    let node = world.add(address, endpoint_config(7));
    let mut config = PeerConfig { local: Some(address.parse().expect("an address")), ..peer(A) };
    config.local_id = name.parse().expect("an identity");
    world.set_peer(node, PEER, config);
    node
}

#[test]
fn one_who_has_taken_all_sessions_gives_way_to_others_and_not_to_itself() {
    let (mut world, gateway) = with_room_for(4);
    let greedy: Vec<usize> = (0..4)
        .map(|number| client_at(&mut world, &format!("198.51.100.{}:4500", number + 1), &format!("g{number}.example.org")))
        .collect();
    assert!(world.run_until(Duration::from_secs(5), |world| greedy.iter().all(|node| world.is_up(*node, PEER))));
    // Nothing is heard of the third one any more.
    world.nodes[greedy[2]].on = false;
    world.run_for(Duration::from_secs(40));
    let honest = client_at(&mut world, "203.0.113.1:4500", "honest.example.org");
    assert!(world.run_until(Duration::from_secs(5), |world| world.is_up(honest, PEER)), "a place is made");
    let still_up = |world: &World| greedy.iter().filter(|node| world.is_up(**node, PEER)).count();
    assert_eq!(still_up(&world), 4, "the one of which nothing was heard has gone");
    let more = client_at(&mut world, "198.51.100.9:4500", "g9.example.org");
    world.run_for(Duration::from_secs(20));
    assert!(!world.is_up(more, PEER) && world.is_up(honest, PEER));
    let second = client_at(&mut world, "203.0.113.2:4500", "second.example.org");
    assert!(world.run_until(Duration::from_secs(5), |world| world.is_up(second, PEER) && world.is_up(honest, PEER)));
    let third = client_at(&mut world, "203.0.113.3:4500", "third.example.org");
    world.run_for(Duration::from_secs(20));
    assert!(!world.is_up(third, PEER), "both networks have two");
    let why = world.nodes[gateway].endpoint.refusals().last().expect("a refusal").why.clone();
    assert_eq!(why, Error::Local(LocalFault::Sessions));
    for (rekey, node) in [(true, honest), (false, honest), (true, second)] {
        let command = |endpoint: &mut adit_engine::ike::Endpoint, now| {
            if rekey { endpoint.rekey(now, PEER) } else { endpoint.rekey_ike(now, PEER) }
        };
        world.act(node, command).expect("it is connected");
        world.run_for(Duration::from_secs(2));
        assert!(world.is_up(node, PEER));
    }
}

#[test]
fn where_sessions_are_full_who_has_left_finds_a_place_again() {
    let (mut world, _) = with_room_for(8);
    let honest = client_at(&mut world, "198.51.100.9:4500", "honest.example.org");
    assert!(world.run_until(Duration::from_secs(5), |world| world.is_up(honest, PEER)));
    world.act(honest, |endpoint, now| endpoint.disconnect(now, PEER)).expect("it is connected");
    world.run_for(Duration::from_secs(1));
    let others: Vec<usize> = (0..8)
        .map(|number| client_at(&mut world, &format!("198.51.100.{}:4500", 20 + number), &format!("c{number}.example.org")))
        .collect();
    assert!(world.run_until(Duration::from_secs(5), |world| others.iter().all(|node| world.is_up(*node, PEER))));
    let stranger = client_at(&mut world, "198.51.100.50:4500", "new.example.org");
    world.act(honest, |endpoint, now| endpoint.connect(now, PEER)).expect("there is an address");
    assert!(world.run_until(Duration::from_secs(5), |world| world.is_up(honest, PEER)));
    assert!(others.iter().all(|node| world.is_up(*node, PEER)) && !world.is_up(stranger, PEER));
}

#[test]
fn where_the_next_process_has_little_room_the_greedy_one_begins_anew() {
    let child = |number: u8, granted: bool| {
        let mut child = tunnel(if granted { B } else { A });
        child.name = format!("net-{number}");
        let side = vec![net(&format!("10.1.{number}.0/24"))];
        *(if granted { &mut child.remote } else { &mut child.local }) = side;
        child
    };
    let mut config = None;
    let mut world = gateway(9, |granted| {
        granted.children = (0..20).map(|number| child(number, true)).collect();
        config = Some(granted.clone());
    });
    let node = greedy(&mut world, 1, |config| config.children = (0..20).map(|number| child(number, false)).collect());
    world.run_for(Duration::from_secs(10));
    assert!(inbound_of(&world, PEER) >= 20);
    let clock = world.clock();
    let endpoint = &mut world.nodes[GATEWAY].endpoint;
    let (whole, left_out) = endpoint.snapshot_within(clock, usize::MAX);
    assert!(left_out.is_empty());
    let (part, left_out) = endpoint.snapshot_within(clock, whole.len() - 1);
    assert_eq!((left_out, part.len() < whole.len() / 2), (vec![PEER], true));
    world.nodes[GATEWAY].vault = part;
    // Nor is it in the changes behind that, and who was not greedy is.
    for _ in 0..3 {
        drop(world.act(node, |endpoint, now| endpoint.rekey(now, PEER)));
        world.run_for(Duration::from_secs(1));
    }
    honest_goes_on(&mut world);
    let peers = [(PEER, config.expect("it is configured")), (GUEST, guest())];
    let restored = world.succeed(GATEWAY, endpoint_config(2), &peers);
    assert_eq!((restored.ike_sas, restored.forgotten, restored.revoked.len()), (1, 0, 0));
    assert!(world.is_up(GATEWAY, GUEST) && !world.is_up(GATEWAY, PEER));
    honest_goes_on(&mut world);
    assert!(world.run_until(Duration::from_secs(300), |world| world.is_up(GATEWAY, PEER)));
}
