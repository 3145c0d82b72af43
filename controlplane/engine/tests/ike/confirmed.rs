//! A new authentication beside a healthy session: that one goes on until the peer has shown that it has the new one. Whoever has the
//! credentials, or says that it has, and does not get that far ends nothing.

use std::time::Duration;

use adit_engine::ike::{Cause, Error, Event, Incompatibility, PeerConfig};
use adit_engine::shown::Shown;
use adit_proto::ike::{ExchangeType, Header};

use adit_sim::*;

/// Two gateways that are connected.
fn healthy(seed: u64, change: impl Fn(usize, &mut PeerConfig)) -> World {
    let mut world = pair(seed, |node, config| {
        config.dpd = Duration::from_secs(3600);
        change(node, config);
    });
    world.connect_pair();
    world
}

/// Somebody else who has what A has, at another address.
fn another(world: &mut World, number: usize, change: impl FnOnce(&mut PeerConfig)) -> usize {
    let address = format!("198.51.100.{number}:4500");
    let node = world.add(&address, endpoint_config(9));
    let mut config = PeerConfig { local: Some(address.parse().expect("an address")), ..peer(A) };
    change(&mut config);
    world.set_peer(node, PEER, config);
    node
}

/// Packets of A and B go both ways for a time, and none is lost.
fn carry(world: &mut World, time: Duration) {
    let end = world.now + time;
    while world.now < end {
        for (from, to) in [(A, B), (B, A)] {
            let before = world.nodes[to].data.opened;
            world.send_esp(from);
            world.run_for(Duration::from_millis(20));
            assert_eq!(world.nodes[to].data.opened, before + 1, "from {from} at {:?}", world.elapsed());
        }
        world.report_usage(A);
        world.report_usage(B);
    }
}

fn spis_of(world: &World) -> String {
    world.ike(A).spis.to_string()
}

#[test]
fn a_client_that_fails_its_own_check_of_us_ends_nothing() {
    let mut world = healthy(1, |_, _| {});
    let before = spis_of(&world);
    for number in 1..=3 {
        // Good credentials, and somebody else whom it expects: it is let in, says that it has forgotten all, and then goes.
        let node = another(&mut world, number, |config| config.remote_id = "x.example.org".parse().expect("an identity"));
        carry(&mut world, Duration::from_millis(400));
        assert!(!world.is_up(node, PEER));
        world.nodes[node].on = false;
    }
    carry(&mut world, Duration::from_secs(20));
    assert_eq!((spis_of(&world), world.ike(B).spis.to_string()), (before.clone(), before));
    let down = |event: &Event| matches!(event, Event::State { state, .. } if !state.is_up());
    let up = world.nodes[B].events.iter().position(|event| matches!(event, Event::IkeUp { .. })).expect("it came");
    assert!(!world.nodes[B].events[up..].iter().any(down), "it was never down");
}

#[test]
fn a_client_that_does_not_believe_us_answers_nothing() {
    let mut world = healthy(7, |_, _| {});
    let before = spis_of(&world);
    let node = another(&mut world, 1, |config| config.remote_id = "x.example.org".parse().expect("an identity"));
    // What it says of that is lost; B asks it for a message of the peer.
    let from = world.nodes[node].address;
    world.filter = Some(Box::new(move |source, _, payload| {
        let header = Header::decode(&payload[4..]).expect("a message");
        source != from || header.exchange != ExchangeType::INFORMATIONAL || header.flags.response
    }));
    carry(&mut world, Duration::from_secs(3));
    assert!(world.nodes[B].endpoint.status(PEER).expect("the peer").ike.len() > 1, "B waits for it");
    assert_eq!((spis_of(&world), world.nodes[B].data.outbound.len()), (before, 1));
}

#[test]
fn a_client_that_says_nothing_more_is_forgotten() {
    let mut world = healthy(2, |_, _| {});
    let before = spis_of(&world);
    let node = another(&mut world, 1, |_| {});
    // The answer to IKE_AUTH never comes, nor does anything else after it.
    let begin = world.log.len();
    world.run_until(Duration::from_secs(2), |world| {
        world.log[begin..].iter().any(|(from, _, payload)| {
            let header = Header::decode(&payload[4..]).expect("a message");
            header.exchange == ExchangeType::IKE_AUTH && header.flags.response && *from == peer(B).local.expect("an address")
        })
    });
    world.nodes[node].on = false;
    carry(&mut world, Duration::from_secs(3));
    assert_eq!(world.nodes[B].endpoint.status(PEER).expect("the peer").ike.len(), 2);
    world.run_for(Duration::from_secs(100));
    assert_eq!((spis_of(&world), world.ike(B).spis.to_string()), (before.clone(), before));
    carry(&mut world, Duration::from_secs(1));
}

/// Lets another client come as far as the answer to IKE_AUTH, which is on its way to it. Gives its node.
fn let_in_unconfirmed(world: &mut World) -> usize {
    let node = another(world, 1, |_| {});
    let let_in = |world: &World| world.nodes[B].endpoint.status(PEER).expect("the peer").ike.len() == 2;
    assert!(world.run_until(Duration::from_secs(2), let_in));
    node
}

#[test]
fn the_next_process_waits_for_the_confirmation_too() {
    for goes_silent in [true, false] {
        let mut world = healthy(6, |_, _| {});
        let before = spis_of(&world);
        let node = let_in_unconfirmed(&mut world);
        world.nodes[node].on = !goes_silent;
        world.succeed(B, endpoint_config(2), &[(PEER, peer(B))]);
        let in_use = world.nodes[B].endpoint.status(PEER).expect("the peer");
        assert_eq!((in_use.ike[0].spis.to_string(), in_use.ike.len()), (before.clone(), 2));
        if goes_silent {
            carry(&mut world, Duration::from_secs(3));
            world.run_for(Duration::from_secs(100));
            assert_eq!((spis_of(&world), world.ike(B).spis.to_string()), (before.clone(), before));
            carry(&mut world, Duration::from_secs(1));
        } else {
            // It has all credentials, and says that it has forgotten the first one: it is followed.
            world.nodes[A].on = false;
            let followed = |world: &World| {
                let left = world.nodes[B].endpoint.status(PEER).expect("the peer").ike;
                world.is_up(node, PEER) && left.len() == 1 && left[0].spis.to_string() != before
            };
            assert!(world.run_until(Duration::from_secs(5), followed));
            world.run_for(Duration::from_secs(2));
            let opened = world.nodes[node].data.opened;
            world.send_esp(B);
            world.run_for(Duration::from_millis(100));
            assert_eq!(world.nodes[node].data.opened, opened + 1);
        }
    }
}

#[test]
fn a_client_that_lost_everything_elsewhere_is_followed() {
    let mut world = healthy(3, |_, _| {});
    world.nodes[A].on = false;
    let node = another(&mut world, 1, |_| {});
    let there = |world: &World| {
        let status = world.nodes[B].endpoint.status(PEER).expect("the peer");
        world.is_up(node, PEER) && status.ike.len() == 1 && status.ike[0].hop.site().to_string() == "198.51.100.1"
    };
    let begin = world.log.len();
    assert!(world.run_until(Duration::from_millis(300), there), "within three round trips");
    let asked = world.log[begin..].iter().filter(|(from, _, payload)| {
        let header = Header::decode(&payload[4..]).expect("a message");
        *from == peer(B).local.expect("an address") && header.exchange == ExchangeType::INFORMATIONAL && !header.flags.response
    });
    assert_eq!(asked.count(), 1, "the first question came when the peer could answer it");
    let ended = |event: &Event| matches!(event, Event::IkeDown { cause: Cause::PeerRestarted, .. });
    assert!(world.nodes[B].events.iter().any(ended));
    let before = world.nodes[node].data.opened;
    world.send_esp(B);
    world.run_for(Duration::from_millis(100));
    assert_eq!(world.nodes[node].data.opened, before + 1);
}

#[test]
fn a_second_client_of_a_pattern_does_not_end_the_session_of_the_first() {
    let pattern = |node: usize, config: &mut PeerConfig| {
        if node == B {
            (config.remote_id, config.remotes) = ("*.example.org".parse().expect("a pattern"), Vec::new());
        }
    };
    let mut world = healthy(4, pattern);
    let before = spis_of(&world);
    let second = another(&mut world, 1, |config| config.local_id = "c.example.org".parse().expect("an identity"));
    carry(&mut world, Duration::from_secs(5));
    assert_eq!((spis_of(&world), world.is_up(second, PEER)), (before, false));
    let refusal = world.nodes[B].endpoint.refusals().last().expect("it is remembered").clone();
    assert_eq!(refusal.why, Error::Incompatible(Incompatibility::Taken(Shown::of("a.example.org"))));
    assert_eq!(refusal.theirs, ["c.example.org"]);
    // The first one is gone, without a word: that is found out, and its place is free.
    world.nodes[A].on = false;
    assert!(world.run_until(Duration::from_secs(180), |world| world.is_up(second, PEER)));
}

#[test]
fn what_is_explained_of_a_connected_peer_is_not_what_others_claim() {
    let mut world = healthy(5, |_, _| {});
    let explained = |world: &World| world.nodes[B].endpoint.explain(PEER, world.now).expect("the peer");
    let before = explained(&world);
    let node = another(&mut world, 1, |config| {
        (config.local_auth, config.remote_auth) = psk("not the secret of anybody here");
        config.proposals = vec![classic()];
    });
    world.run_for(Duration::from_secs(3));
    assert!(!world.is_up(node, PEER));
    let after = explained(&world);
    assert_eq!((after.record, after.cause), (before.record, before.cause));
    let claim = world.nodes[B].endpoint.refusals().last().expect("it is remembered").clone();
    assert_eq!((claim.from.site().to_string(), claim.theirs), ("198.51.100.1".into(), vec![Shown::of("a.example.org")]));
    carry(&mut world, Duration::from_millis(100));
}

#[test]
fn of_two_begun_at_one_moment_one_goes_and_nobody_calls_that_a_problem() {
    let mut redundant = 0;
    for seed in 0..200 {
        let mut world = pair(seed, |_, config| config.initiate = true);
        for node in [A, B] {
            world.act(node, |endpoint, now| endpoint.start(now));
        }
        world.run_for(Duration::from_secs(20));
        for node in [A, B] {
            let events = &world.nodes[node].events;
            redundant += events.iter().filter(|event| matches!(event, Event::IkeUp { .. })).count() - 1;
            let reported = world.nodes[node].endpoint.explain(PEER, world.now).expect("the peer");
            assert!(reported.state.is_up() && reported.record.problem.is_none(), "seed {seed}: {:?}", reported.record.problem);
        }
    }
    assert!(redundant > 20, "{redundant}");
}

#[test]
fn a_copy_that_is_faster_from_elsewhere_leads_no_handshake_astray() {
    // Somebody on the cable sends every request of A on at once, with another source; what A sent itself comes later.
    for proposals in [vec![classic()], vec![hybrid()]] {
        let mut world = pair(6, |node, config| {
            (config.proposals, config.dpd) = (proposals.clone(), Duration::from_secs(3600));
            config.initiate = false;
            if node == B {
                config.remotes.clear();
            }
        });
        let (b, elsewhere) = (peer(B).local.expect("an address"), "203.0.113.9:4500".parse().expect("an address"));
        world.act(A, |endpoint, now| endpoint.connect(now, PEER)).expect("it has an address");
        let mut copied = 0;
        while world.elapsed() < Duration::from_secs(2) {
            for (_, to, datagram) in world.log.clone().into_iter().skip(copied) {
                let header = Header::decode(&datagram[4..]).expect("a message");
                if to == b && header.exchange != ExchangeType::IKE_SA_INIT {
                    world.inject(elsewhere, to, datagram);
                }
            }
            copied = world.log.len();
            world.run_for(Duration::from_millis(1));
        }
        assert!(world.is_up(A, PEER) && world.is_up(B, PEER));
        assert_eq!(world.ike(B).hop.remote(), peer(A).local.expect("an address"));
        carry(&mut world, Duration::from_secs(1));
    }
}

#[test]
fn the_end_of_a_quiet_ike_sa_is_told() {
    let mut world = healthy(8, |_, _| {});
    world.run_for(Duration::from_secs(60));
    let quiet = world.ike(B).spis;
    world.nodes[A].on = false;
    let node = another(&mut world, 1, |_| {});
    assert!(world.run_until(Duration::from_secs(5), |world| world.is_up(node, PEER)));
    world.run_for(Duration::from_secs(60));
    let ended = |event: &Event| matches!(event, Event::IkeDown { spis, .. } if *spis == quiet);
    assert!(world.nodes[B].events.iter().any(ended));
}
