//! Authentication that ends: a new one is made beside it, and no packet is lost; or the IKE SA is closed, and says why.

use std::time::Duration;

use adit_engine::auth::LocalAuth;
use adit_engine::ike::{Cause, ConnectionState, Endpoint, EndpointConfig, Event, IkeSpis, Lifetime, Now, PeerConfig, Whose};
use adit_proto::ike::{ExchangeType, Header};

use adit_sim::certificates::Authority;
use adit_sim::*;

const DAY: u64 = 24 * 3600;
/// How often a packet is sent in each direction, on every lane.
const STEP: Duration = Duration::from_millis(2);

/// The first SPIs that each gateway has.
fn spis(world: &World) -> [IkeSpis; 2] {
    [A, B].map(|node| world.nodes[node].endpoint.status(PEER).expect("the peer").ike[0].spis)
}

/// Packets in both directions for a time, of which none may be lost.
fn carry(world: &mut World, time: Duration) {
    let end = world.now + time;
    let before = [A, B].map(|node| world.nodes[node].data.opened);
    let mut sent = [0, 0];
    while world.now < end {
        for node in [A, B] {
            sent[1 - node] += world.nodes[node].data.active().len() as u64;
            world.send_esp(node);
        }
        world.run_for(STEP);
        for node in [A, B] {
            world.report_usage(node);
        }
    }
    world.run_for(Duration::from_millis(100));
    for node in [A, B] {
        assert_eq!(world.nodes[node].data.opened - before[node], sent[node], "lost at {node}: {:?}", world.nodes[node].data.lost);
    }
}

/// Certificates for both, that of `node` until so many seconds after the start.
fn certified(authority: &Authority, node: usize, seconds: u64) -> LocalAuth {
    authority.issue_until(["a.example.org", "b.example.org"][node], UNIX_START + seconds)
}

/// No rekeys, so that another SPI is another authentication.
fn forever(config: &mut PeerConfig) {
    let none = Lifetime { rekey_after: Duration::ZERO, ..Lifetime::IKE };
    (config.ike_lifetime, config.children[0].lifetime) = (none, none);
}

fn pair_until(seed: u64, seconds: [u64; 2], change: impl Fn(usize, &mut PeerConfig)) -> (World, Authority) {
    let authority = Authority::new("Root");
    let mut world = pair(seed, |node, config| {
        config.local_auth = certified(&authority, node, seconds[node]);
        config.remote_auth = authority.trusted();
        config.dpd = Duration::from_secs(3600);
        forever(config);
        change(node, config);
    });
    world.connect_pair();
    (world, authority)
}

fn goes_beside(world: &mut World, act: impl FnOnce(&mut World)) {
    let before = spis(world);
    act(world);
    carry(world, Duration::from_secs(12));
    let after = spis(world);
    assert!(after[A] == after[B] && after[A] != before[A], "{before:?} {after:?}");
    let [a, b] = [A, B].map(|node| world.ike(node));
    assert_eq!((a.children.len(), b.children.len()), (world.nodes[A].data.outbound.len(), world.nodes[B].data.outbound.len()));
    assert!(world.is_up(A, PEER) && world.is_up(B, PEER));
    for node in [A, B] {
        let down = |event: &Event| matches!(event, Event::State { state, .. } if !state.is_up() && *state != ConnectionState::Connecting);
        assert!(!world.nodes[node].events.iter().any(down), "it was never down: {:?}", world.nodes[node].events);
        assert!(world.nodes[node].data.has_pairs(a.children.len()), "nothing is left of the old ones");
    }
}

#[test]
fn what_both_can_do_is_agreed_on_anew_when_an_end_changes_its_mind() {
    let config = |node: usize| EndpointConfig { split: node == A, echo: true, ..endpoint_config(node as u8 + 1) };
    let mut world = pair_with(1, config, |_, config| forever(config));
    world.connect_pair();
    let splits = |world: &World| [A, B].map(|node| world.nodes[node].endpoint.paths(PEER)[0].split);
    assert_eq!(splits(&world), [false; 2]);
    // Who waits to be called says it with the next authentication.
    let before = spis(&world);
    world.act(B, |endpoint, now| endpoint.set_split(now, true));
    carry(&mut world, Duration::from_secs(5));
    assert_eq!((spis(&world), splits(&world)), (before, [false; 2]));
    for says in [false, true, false, true] {
        goes_beside(&mut world, |world| world.act(A, |endpoint, now| endpoint.set_split(now, says)));
        assert_eq!(splits(&world), [says; 2]);
    }
    let before = spis(&world);
    world.act(A, |endpoint, now| endpoint.set_split(now, true));
    carry(&mut world, Duration::from_secs(5));
    assert_eq!(spis(&world), before, "nothing has changed");
}

#[test]
fn a_new_authentication_loses_no_packet_whichever_end_begins_it() {
    for (seed, lanes) in [(1, 1), (2, 3)] {
        for node in [A, B] {
            let mut world = pair(seed, |_, config| config.children[0].lanes = lanes);
            world.connect_pair();
            goes_beside(&mut world, |world| {
                world.act(node, |endpoint, now| endpoint.reauthenticate(now, PEER)).expect("it is connected");
            });
        }
    }
}

#[test]
fn a_lost_answer_to_ike_auth_costs_no_packet() {
    let mut world = pair(3, |_, config| config.children[0].lanes = 2);
    world.connect_pair();
    let mut lost = 0;
    goes_beside(&mut world, |world| {
        world.filter = Some(Box::new(move |_, _, payload| {
            let header = Header::decode(&payload[4..]).expect("a message");
            let hit = header.exchange == ExchangeType::IKE_AUTH && header.flags.response && lost < 1;
            lost += u32::from(hit);
            !hit
        }));
        world.act(A, |endpoint, now| endpoint.reauthenticate(now, PEER)).expect("it is connected");
    });
}

#[test]
fn both_ends_may_authenticate_anew_at_once() {
    let mut world = pair(4, |_, _| {});
    world.connect_pair();
    goes_beside(&mut world, |world| {
        for node in [A, B] {
            let act = |endpoint: &mut Endpoint, now: Now| endpoint.reauthenticate(now, PEER);
            world.act(node, act).expect("it is connected");
        }
    });
}

#[test]
fn an_ike_sa_may_be_rekeyed_while_one_takes_the_place_of_another() {
    for node in [A, B] {
        for after in (0..80).step_by(10) {
            let mut world = pair(5, |_, config| config.children[0].lanes = 2);
            world.connect_pair();
            goes_beside(&mut world, |world| {
                world.act(A, |endpoint, now| endpoint.reauthenticate(now, PEER)).expect("it is connected");
                world.run_for(Duration::from_millis(after));
                world.act(node, |endpoint, now| endpoint.rekey_ike(now, PEER)).expect("it is connected");
            });
        }
    }
}

#[test]
fn the_initiator_renews_before_its_own_or_the_peers_certificate_ends() {
    for node in [A, B] {
        let mut seconds = [90 * DAY; 2];
        seconds[node] = 30_000;
        let (mut world, authority) = pair_until(5, seconds, |_, _| {});
        // The new certificate is there in time: at the one that has it by a reload, at the other one by the handshake.
        let mut config = peer(node);
        config.local_auth = certified(&authority, node, 90 * DAY);
        config.remote_auth = authority.trusted();
        config.dpd = Duration::from_secs(3600);
        forever(&mut config);
        let before = spis(&world);
        if node == B {
            world.set_peer(node, PEER, config);
            world.run_for(Duration::from_secs(10));
            assert_eq!(spis(&world), before, "B does not connect to A by itself");
            let margin = Duration::from_secs(30_000 - 3600 - 2) - world.elapsed();
            world.run_for(margin);
            assert_eq!(spis(&world), before);
            goes_beside(&mut world, |_| {});
        } else {
            goes_beside(&mut world, |world| world.set_peer(node, PEER, config));
        }
        // The end of the old one passes without anything.
        world.run_for(Duration::from_secs(40_000));
        assert!(world.is_up(A, PEER) && world.is_up(B, PEER));
        world.check_traffic();
    }
}

#[test]
fn a_certificate_that_is_not_renewed_ends_the_connection_by_name() {
    for node in [A, B] {
        let mut seconds = [90 * DAY; 2];
        seconds[node] = 20_000;
        // Rekeys of the IKE SA in between change nothing.
        let rekeyed = Lifetime { rekey_after: Duration::from_secs(7000), ..Lifetime::IKE };
        let (mut world, _) = pair_until(6, seconds, |_, config| config.ike_lifetime = rekeyed);
        let end = UNIX_START + 20_000;
        world.run_for(Duration::from_secs(19_999) - world.elapsed());
        assert!(world.is_up(A, PEER) && world.is_up(B, PEER));
        world.check_traffic();
        world.run_for(Duration::from_secs(3));
        assert!(!world.is_up(A, PEER) && !world.is_up(B, PEER));
        let causes: Vec<Cause> = [A, B]
            .iter()
            .flat_map(|node| &world.nodes[*node].events)
            .filter_map(|event| if let Event::IkeDown { cause, .. } = event { Some(cause.clone()) } else { None })
            .collect();
        let expired = |cause: &Cause| matches!(cause, Cause::CertificateExpired { not_after, .. } if *not_after == end);
        assert!(causes.iter().any(expired), "{causes:?}");
        let whose = |cause: &Cause| match cause {
            Cause::CertificateExpired { whose, .. } => Some(*whose),
            _ => None,
        };
        assert!(causes.iter().filter_map(whose).all(|whose| matches!(whose, Whose::Own | Whose::Peer)));
        assert!([A, B].into_iter().all(|node| world.nodes[node].data.has_pairs(0)));
    }
}

#[test]
fn who_cannot_reach_the_peer_waits_for_it_and_closes_at_the_end() {
    // A is told by B, which sees that its time is limited, and does not come: AUTH_LIFETIME is not obeyed by everyone.
    let mut world = pair(7, |node, config| {
        config.initiate = false;
        config.reauth_after = Duration::from_secs(if node == B { 600 } else { 0 });
    });
    world.act(A, |endpoint, now| endpoint.connect(now, PEER)).expect("it has an address");
    world.connect_pair();
    world.cut = true;
    let closed = |world: &World| {
        world.nodes[B].events.iter().any(|event| matches!(event, Event::IkeDown { cause: Cause::NotReauthenticated, .. }))
    };
    // While nothing arrived dead peer detection would end it first.
    world.cut = false;
    world.run_for(Duration::from_secs(440));
    world.filter = Some(Box::new(|_, _, payload| {
        Header::decode(&payload[4..]).is_ok_and(|header| header.exchange == ExchangeType::INFORMATIONAL)
    }));
    assert!(world.run_until(Duration::from_secs(200), closed));
    assert!((599..=602).contains(&world.elapsed().as_secs()), "{:?}", world.elapsed());
}

#[test]
fn auth_lifetime_of_the_responder_is_obeyed() {
    let mut world = pair(8, |node, config| {
        config.reauth_after = Duration::from_secs(if node == B { 100 } else { 0 });
    });
    world.connect_pair();
    let before = spis(&world);
    world.run_for(Duration::from_secs(73) - world.elapsed());
    assert_eq!(spis(&world), before);
    goes_beside(&mut world, |_| {});
    // And so on, for as long as it goes.
    world.run_for(Duration::from_secs(1000));
    assert!(world.is_up(A, PEER) && world.is_up(B, PEER));
    let down = |event: &Event| matches!(event, Event::IkeDown { cause: Cause::NotReauthenticated, .. });
    assert!(!world.nodes[B].events.iter().any(down));
    world.check_traffic();
}

#[test]
fn a_refused_attempt_leaves_what_there_is_alone() {
    let (mut world, authority) = pair_until(9, [90 * DAY; 2], |_, _| {});
    let before = spis(&world);
    // A certificate of somebody else: B will not have it.
    let mut config = peer(A);
    config.local_auth = authority.issue_until("c.example.org", UNIX_START + 90 * DAY);
    config.remote_auth = authority.trusted();
    world.set_peer(A, PEER, config);
    carry(&mut world, Duration::from_secs(5));
    assert_eq!(spis(&world), before);
    assert_eq!(world.state(A, PEER), ConnectionState::Established);
    let cause = world.nodes[A].endpoint.status(PEER).and_then(|status| status.cause);
    assert!(matches!(cause, Some(Cause::Refused { exchange: ExchangeType::IKE_AUTH, .. })), "{cause:?}");
}

#[test]
fn a_successor_process_knows_when_it_ends() {
    let (mut world, authority) = pair_until(10, [20_000, 90 * DAY], |_, _| {});
    let mut config = peer(A);
    config.local_auth = certified(&authority, A, 20_000);
    config.remote_auth = authority.trusted();
    world.succeed(A, EndpointConfig { ..endpoint_config(1) }, &[(PEER, config.clone())]);
    // Another certificate since then, of another key: the new process shows it without being asked.
    world.run_for(Duration::from_secs(5));
    let before = spis(&world);
    config.local_auth = certified(&authority, A, 90 * DAY);
    world.succeed(A, endpoint_config(1), &[(PEER, config)]);
    world.run_for(Duration::from_secs(10));
    assert_ne!(spis(&world), before);
    world.run_for(Duration::from_secs(30_000));
    assert!(world.is_up(A, PEER) && world.is_up(B, PEER));
    world.check_traffic();
}

#[test]
fn renewed_credentials_are_proven_beside_what_there_is() {
    let root = Authority::new("Root");
    let mut world = pair(8, |node, config| {
        (config.local_auth, config.remote_auth) = (certified(&root, node, 90 * DAY), root.trusted());
        forever(config);
    });
    world.connect_pair();
    let renewed = Authority::new("Renewed");
    let renew = |world: &mut World, node: usize| {
        let mut config = peer(node);
        (config.local_auth, config.remote_auth) = (certified(&renewed, node, 90 * DAY), renewed.trusted());
        forever(&mut config);
        world.act(node, |endpoint, now| endpoint.renew_peer(now, PEER, config)).expect("a good configuration");
    };
    // One end is renewed a little before the other: what there is goes on, and then gives way.
    let first = spis(&world);
    renew(&mut world, A);
    carry(&mut world, Duration::from_secs(10));
    assert_eq!(spis(&world), first, "the other end does not believe the new one yet");
    renew(&mut world, B);
    // It is tried again after a quarter of the time that is left.
    world.run_for(Duration::from_secs(210));
    carry(&mut world, Duration::from_secs(30));
    let last = spis(&world);
    assert!(last[A] == last[B] && last[A] != first[A], "{first:?} {last:?}");
    let down = |event: &Event| {
        matches!(
            event,
            Event::State { state: ConnectionState::Reconnecting | ConnectionState::Failed | ConnectionState::Idle, .. }
        )
    };
    assert!([A, B].iter().all(|node| !world.nodes[*node].events.iter().any(down)), "it was never down");
    world.run_for(Duration::from_secs(3600));
    assert_eq!(spis(&world), last, "that is all");
}

#[test]
fn who_does_not_prove_itself_with_what_was_renewed_is_cut_off() {
    let root = Authority::new("Root");
    let mut world = pair(9, |node, config| {
        (config.local_auth, config.remote_auth) = (certified(&root, node, 90 * DAY), root.trusted());
        forever(config);
    });
    world.connect_pair();
    let mut config = peer(B);
    (config.local_auth, config.remote_auth) = (certified(&root, B, 90 * DAY), Authority::new("Another").trusted());
    forever(&mut config);
    world.act(B, |endpoint, now| endpoint.renew_peer(now, PEER, config)).expect("a good configuration");
    world.run_for(Duration::from_secs(600));
    assert!(world.is_up(B, PEER), "it has a quarter of an hour");
    world.run_for(Duration::from_secs(400));
    assert!(!world.is_up(B, PEER), "and no more");
}
