//! Who is let in from where: a peer is admitted by what it proves, and its address is a filter for who wants one.

use std::time::Duration;

use adit_engine::crypto::KeyExchangeMethod;
use adit_engine::ike::{Cause, ConnectionState, Error, IkeProposal, Incompatibility, PeerConfig, PeerId};
use adit_engine::path::Origin;
use adit_proto::ike::NotifyType;

use adit_sim::*;

const GATEWAY: usize = 0;
const GUEST: usize = 1;
/// Somebody else, who goes first.
const OTHER: PeerId = PeerId(1);

/// A gateway that expects its peer at 192.0.2.1, and that peer at another address; what each of them is configured to do.
fn visited(from: &str, change: impl Fn(usize, &mut PeerConfig)) -> World {
    let mut world = World::new(1);
    let gateway = world.add("192.0.2.2:4500", endpoint_config(2));
    let guest = world.add(from, endpoint_config(1));
    let (mut expected, mut own) = (PeerConfig { initiate: false, ..peer(B) }, peer(A));
    own.local = Some(from.parse().expect("an address"));
    change(GATEWAY, &mut expected);
    change(GUEST, &mut own);
    world.set_peer(gateway, PEER, expected);
    world.set_peer(guest, PEER, own);
    world
}

fn comes_up(world: &mut World) -> bool {
    world.run_until(Duration::from_secs(20), |world| world.is_up(GATEWAY, PEER) && world.is_up(GUEST, PEER))
}

fn only(method: KeyExchangeMethod) -> Vec<IkeProposal> {
    vec![IkeProposal { key_exchanges: vec![method], ..classic() }]
}

#[test]
fn a_peer_with_an_endpoint_may_come_from_anywhere() {
    for mobike in [false, true] {
        let mut world = visited("198.51.100.9:4500", |_, config| config.mobike = mobike);
        assert!(comes_up(&mut world));
        world.check_traffic();
        assert_eq!(world.ike(GATEWAY).hop.remote().to_string(), "198.51.100.9:4500");
    }
}

#[test]
fn a_filter_of_addresses_holds_for_who_wants_one() {
    let networks = |list: &[&str]| Origin::Networks(list.iter().map(|net| net.parse().expect("a network")).collect());
    let cases = [
        (Origin::Endpoints, "198.51.100.9:4500", false),
        (Origin::Endpoints, "192.0.2.1:4500", true),
        (networks(&["203.0.113.0/24"]), "198.51.100.9:4500", false),
        (networks(&["203.0.113.0/24", "198.51.100.0/24"]), "198.51.100.9:4500", true),
        (networks(&["203.0.113.0/24"]), "192.0.2.1:4500", true),
    ];
    for (origin, from, admitted) in cases {
        let mut world = visited(from, |node, config| {
            if node == GATEWAY {
                config.from = origin.clone();
            }
        });
        assert_eq!(comes_up(&mut world), admitted, "{origin:?} from {from}");
        if !admitted {
            let refused = Cause::Failed(Error::Incompatible(Incompatibility::Refused(NotifyType::NO_PROPOSAL_CHOSEN)));
            assert_eq!(world.nodes[GUEST].endpoint.status(PEER).expect("a peer").cause, Some(refused));
            let explained = world.nodes[GATEWAY].endpoint.explain(PEER, world.now).expect("the peer");
            assert_eq!(explained.unauthenticated[0].why, Error::Incompatible(Incompatibility::UnknownAddress));
        }
    }
}

#[test]
fn the_filter_holds_for_where_a_peer_moves_to_as_well() {
    for (origin, moves) in [(Origin::Anywhere, true), (Origin::Endpoints, false)] {
        let mut world = visited("192.0.2.1:4500", |node, config| {
            config.mobike = true;
            if node == GATEWAY {
                config.from = origin.clone();
            }
        });
        assert!(comes_up(&mut world));
        world.nodes[GUEST].address = "198.51.100.9:4500".parse().expect("an address");
        world
            .act(GUEST, |endpoint, now| {
                endpoint.set_addresses(now, PEER, Some("198.51.100.9:4500".parse().expect("an address")), None)
            })
            .expect("a peer");
        world.run_for(Duration::from_secs(5));
        let there = world.nodes[GATEWAY].endpoint.status(PEER).expect("a peer");
        let there = there.ike.first().is_some_and(|ike| ike.hop.site().to_string() == "198.51.100.9");
        assert_eq!(there, moves, "{origin:?}");
    }
}

#[test]
fn a_peer_with_other_proposals_than_its_neighbour_gets_its_own() {
    // Somebody else may come from there as well, and what it may use is chosen first, as long as nobody knows who it is.
    let both = || vec![IkeProposal { key_exchanges: vec![KeyExchangeMethod::EcpP256, KeyExchangeMethod::X25519], ..classic() }];
    let mut world = visited("198.51.100.9:4500", |node, config| {
        config.proposals = if node == GATEWAY { only(KeyExchangeMethod::X25519) } else { both() };
    });
    let remote_id = "c.example.org".parse().expect("an identity");
    let other =
        PeerConfig { name: "c".into(), remote_id, remotes: Vec::new(), proposals: only(KeyExchangeMethod::EcpP256), ..peer(B) };
    world.act(GATEWAY, |endpoint, now| endpoint.remove_peer(now, PEER)).expect("it is there");
    world.set_peer(GATEWAY, OTHER, other);
    let own = PeerConfig { initiate: false, proposals: only(KeyExchangeMethod::X25519), ..peer(B) };
    world.set_peer(GATEWAY, PEER, PeerConfig { from: Origin::Anywhere, remotes: Vec::new(), ..own });
    world.run_until(Duration::from_secs(5), |world| world.state(GUEST, PEER) == ConnectionState::Reconnecting);
    let refused = Cause::Refused { exchange: adit_proto::ike::ExchangeType::IKE_AUTH, notify: NotifyType::NO_PROPOSAL_CHOSEN };
    assert_eq!(world.nodes[GUEST].endpoint.status(PEER).expect("a peer").cause, Some(refused));
    let explained = world.nodes[GATEWAY].endpoint.explain(PEER, world.now).expect("the peer");
    let Some(Cause::Failed(Error::Incompatible(Incompatibility::SuiteNotAllowed(agreed)))) = &explained.cause else {
        panic!("{:?}", explained.cause);
    };
    assert!(agreed.contains("ECP_256"), "{agreed}");
    let differences = explained.record.differences();
    let algorithms = differences.iter().find(|one| one.what == "IKE algorithms").expect("a difference");
    assert!(algorithms.ours.contains("CURVE_25519") && algorithms.theirs.contains("ECP_256"), "{algorithms}");
    assert_eq!(world.nodes[GATEWAY].endpoint.status(OTHER).expect("a peer").cause, None, "nobody else is blamed");
    // The second time its own proposals go first.
    assert!(comes_up(&mut world));
    assert!(world.ike(GATEWAY).suite.contains("CURVE_25519"));
    world.check_traffic();
}

#[test]
fn at_the_endpoint_of_a_peer_its_own_proposals_go_first() {
    let both = || vec![IkeProposal { key_exchanges: vec![KeyExchangeMethod::EcpP256, KeyExchangeMethod::X25519], ..classic() }];
    let mut world = World::new(2);
    let gateway = world.add("192.0.2.2:4500", endpoint_config(2));
    let guest = world.add("192.0.2.1:4500", endpoint_config(1));
    let remote_id = "c.example.org".parse().expect("an identity");
    let other =
        PeerConfig { name: "c".into(), remote_id, remotes: Vec::new(), proposals: only(KeyExchangeMethod::EcpP256), ..peer(B) };
    world.set_peer(gateway, PeerId(1), PeerConfig { initiate: false, ..other });
    world.set_peer(gateway, PEER, PeerConfig { initiate: false, proposals: only(KeyExchangeMethod::X25519), ..peer(B) });
    world.set_peer(guest, PEER, PeerConfig { proposals: both(), ..peer(A) });
    assert!(comes_up(&mut world));
    let inits = world.messages().iter().filter(|message| *message == "IKE_AUTH request 1").count();
    assert_eq!((inits, world.ike(GATEWAY).suite.contains("CURVE_25519")), (1, true), "at the first attempt");
}
