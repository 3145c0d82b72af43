//! New keys without end: what a peer has made of them in a second is limited over all of its IKE SAs, and an honest one feels neither the
//! limit nor the other peer.

use std::net::SocketAddr;
use std::time::Duration;

use adit_engine::crypto::{KeyExchange, KeyExchangeMethod};
use adit_engine::identity::Identity;
use adit_engine::ike::{ChildProposal, IkeProposal, PeerConfig, PeerId};
use adit_engine::path::Arrival;
use adit_proto::control::Spi;
use adit_proto::ike::{
    EsnId, ExchangeType, Message, Notify, NotifyType, Payload, Proposal, ProtocolId, TrafficSelector, Transform, decode_payloads,
};
use adit_proto::suite::Suite;

use adit_sim::*;

use super::half_open::open;
use super::rogue::{Rogue, has_auth};

/// The honest peer, as the gateway B knows it; the other one is [`PEER`].
const GUEST: PeerId = PeerId(1);
const GUEST_SECRET: &str = "what only the honest peer and the gateway know";
const HONEST: usize = A;
/// What a peer may have made at once, and in a second.
const AT_ONCE: u64 = 512;
const PER_SECOND: u64 = 64;

/// A gateway, and an honest peer that is not connected; both make keys by these proposals.
fn gateway(ike: &IkeProposal, child: &ChildProposal) -> World {
    let mut world = World::new(1);
    world.add("192.0.2.1:4500", endpoint_config(1));
    world.add("192.0.2.2:4500", endpoint_config(2));
    let with = |mut config: PeerConfig| {
        config.children[0].proposals = vec![child.clone()];
        config.proposals = vec![ike.clone()];
        config
    };
    let (local_auth, remote_auth) = psk(GUEST_SECRET);
    let name = || "c.example.org".parse::<Identity>().expect("an identity");
    let known = PeerConfig { local_auth: local_auth.clone(), remote_auth: remote_auth.clone(), initiate: false, ..with(peer(B)) };
    let mut guest = PeerConfig { name: "c".into(), remote_id: name().to_string().parse().expect("a pattern"), ..known };
    guest.children[0].remote = vec![net("10.3.0.0/16")];
    world.set_peer(B, GUEST, guest);
    world.set_peer(B, PEER, PeerConfig { initiate: false, remotes: Vec::new(), ..with(peer(B)) });
    let mut own = PeerConfig { local_auth, remote_auth, local_id: name(), initiate: false, ..with(peer(A)) };
    own.children[0].local = vec![net("10.3.0.0/16")];
    world.set_peer(HONEST, PEER, own);
    world
}

/// What of a second the honest peer does: it connects once, then it rekeys both kinds of SA, and its packets go both ways.
fn honest_second(world: &mut World, mut beside: impl FnMut(&mut World)) {
    let mut pass = |world: &mut World| {
        for _ in 0..25 {
            beside(world);
            world.run_for(Duration::from_millis(10));
        }
    };
    if !world.is_up(HONEST, PEER) {
        world.act(HONEST, |endpoint, now| endpoint.connect(now, PEER)).expect("it has an address");
        pass(world);
        assert!(world.is_up(HONEST, PEER) && world.is_up(B, GUEST), "{:?}", world.nodes[B].endpoint.counters());
    }
    let rekeys = |world: &World| {
        let counters = world.nodes[HONEST].endpoint.counters();
        (counters.ike_rekeys, counters.child_rekeys)
    };
    let before = rekeys(world);
    world.act(HONEST, |endpoint, now| endpoint.rekey(now, PEER)).expect("it is connected");
    pass(world);
    world.act(HONEST, |endpoint, now| endpoint.rekey_ike(now, PEER)).expect("it is connected");
    pass(world);
    assert_eq!(rekeys(world), (before.0 + 1, before.1 + 1));
    let opened = [B, HONEST].map(|node| world.nodes[node].data.opened);
    world.send_esp(HONEST);
    world.send_esp(B);
    pass(world);
    assert!(world.nodes[B].data.opened > opened[0] && world.nodes[HONEST].data.opened > opened[1]);
    assert_eq!(world.nodes[B].endpoint.status(GUEST).expect("a peer").counters.key_exchanges_postponed, 0);
}

/// A Child SA by hand: under this SPI of ours, with a key exchange or without.
fn child(spi: Spi, method: Option<KeyExchangeMethod>) -> Vec<Payload> {
    let mut transforms = vec![Transform::of_suite(Suite::Aes128Gcm), Transform::esn(EsnId::ESN)];
    transforms.extend(method.map(|method| Transform::ke(method.id())));
    let proposal = Proposal { number: 1, protocol: ProtocolId::ESP, spi: spi.0.to_be_bytes().to_vec(), transforms };
    let side = |network| vec![TrafficSelector::Ip(net(network))];
    vec![Payload::Sa(vec![proposal]), Payload::TsI(side("10.1.0.0/16")), Payload::TsR(side("10.2.0.0/16"))]
}

/// One IKE SA of the greedy peer, and the Child SA in it that is rekeyed next.
struct Greedy {
    rogue: Rogue,
    /// Where it has begun: elsewhere it is answered with no more bytes than it sends.
    from: SocketAddr,
    spi: Spi,
}

/// What became of a request for new keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Made,
    Wait,
}

impl Greedy {
    fn begin(world: &mut World, request: &Message, number: u32) -> Greedy {
        let local = world.nodes[B].address;
        let from: SocketAddr = format!("198.51.100.{number}:4500").parse().expect("an address");
        let mut rogue = open(world, request, (local, from), 0x100 + u64::from(number)).expect("it is let in");
        let spi = Spi(0x6000_0000 + (number << 16));
        let id = "a.example.org".parse::<Identity>().expect("an identity").to_payload();
        let payloads = [rogue.proof(1, id, None), child(spi, None)].concat();
        let answer = exchange(world, (&mut rogue, from), ExchangeType::IKE_AUTH, &payloads);
        assert!(has_auth(&answer), "{answer:?}");
        Greedy { rogue, from, spi }
    }

    /// Rekeys its Child SA, as fast as it is answered.
    fn rekey(&mut self, world: &mut World) -> Verdict {
        let method = KeyExchangeMethod::X25519;
        let (old, new) = (self.spi, Spi(self.spi.0 + 1));
        let ke = KeyExchange::start(method).expect("a key").public().to_vec();
        let rekey = Notify::new(NotifyType::REKEY_SA).about(ProtocolId::ESP, old).into();
        let exchanged = [Payload::Nonce(vec![7; 32]), Payload::Ke { method: method.id(), data: ke }];
        let mut payloads = child(new, Some(method));
        payloads.splice(1..1, exchanged);
        payloads.insert(0, rekey);
        let answer = exchange(world, (&mut self.rogue, self.from), ExchangeType::CREATE_CHILD_SA, &payloads);
        if answer == [Notify::new(NotifyType::TEMPORARY_FAILURE).into()] {
            return Verdict::Wait;
        }
        assert!(answer.iter().any(|payload| matches!(payload, Payload::Ke { .. })), "{answer:?}");
        self.spi = new;
        Verdict::Made
    }
}

/// A request by hand, and its answer.
fn exchange(
    world: &mut World,
    (rogue, from): (&mut Rogue, SocketAddr),
    kind: ExchangeType,
    payloads: &[Payload],
) -> Vec<Payload> {
    let (id, local) = (rogue.next_id, world.nodes[B].address);
    let message = rogue.seal(kind, id, payloads);
    let sent: Vec<Vec<u8>> = world.act(B, |endpoint, now| {
        endpoint.handle_message(now, Arrival::new(local, from), &message);
        std::iter::from_fn(|| endpoint.poll_transmit()).map(|transmit| transmit.payload).collect()
    });
    let (first, inner) = sent.iter().find_map(|datagram| rogue.read(datagram, id)).expect("an answer");
    rogue.next_id += 1;
    decode_payloads(first, &inner).expect("payloads")
}

#[test]
fn key_exchanges_without_end_over_several_ike_sas_are_limited() {
    let mut world = gateway(&classic(), &esp_pfs());
    world.act(HONEST, |endpoint, now| endpoint.connect(now, PEER)).expect("it has an address");
    let request = Message::decode(&world.log[0].2[4..]).expect("a request");
    world.act(HONEST, |endpoint, now| endpoint.disconnect(now, PEER)).expect("a peer");
    world.run_for(Duration::from_secs(5));
    let mut greedy: Vec<Greedy> = (1..=4).map(|number| Greedy::begin(&mut world, &request, number)).collect();
    let (mut made, mut asked_to_wait) = (0, 0);
    let seconds = 6;
    for _ in 0..seconds {
        honest_second(&mut world, |world| {
            for one in &mut greedy {
                match one.rekey(world) {
                    Verdict::Made => made += 1,
                    Verdict::Wait => asked_to_wait += 1,
                }
            }
        });
    }
    // The first second of the honest peer is longer by the time that it takes to connect.
    let most = AT_ONCE + PER_SECOND * (seconds + 1);
    assert!((AT_ONCE..=most).contains(&made), "{made}, and {asked_to_wait} told to wait");
    let counters = world.nodes[B].endpoint.status(PEER).expect("a peer").counters;
    assert_eq!((counters.key_exchanges_postponed, counters.failed_other), (asked_to_wait, 0));
    assert!(asked_to_wait > 1000, "{asked_to_wait}");
    assert_eq!(world.nodes[B].endpoint.counters().key_exchanges_postponed, asked_to_wait);
    // Nothing has ended: a second later it goes on.
    world.run_for(Duration::from_secs(1));
    assert!(greedy.iter_mut().all(|one| one.rekey(&mut world) == Verdict::Made));
}

#[test]
fn rekeys_of_an_ike_sa_without_end_are_limited_and_hurt_nothing_else() {
    let mut world = gateway(&hybrid(), &esp_hybrid());
    let node = world.add("198.51.100.1:4500", endpoint_config(7));
    let local = Some(world.nodes[node].address);
    let mut config = PeerConfig { local, proposals: vec![hybrid()], ..peer(A) };
    config.children[0].proposals = vec![esp_hybrid()];
    world.set_peer(node, PEER, config);
    assert!(world.run_until(Duration::from_secs(5), |world| world.is_up(node, PEER)));
    world.net.delay = (Duration::from_micros(500), Duration::from_micros(500));
    let seconds = 8;
    for _ in 0..seconds {
        honest_second(&mut world, |world| {
            for _ in 0..2 {
                drop(world.act(node, |endpoint, now| endpoint.rekey_ike(now, PEER)));
                world.run_for(Duration::from_millis(3));
            }
        });
    }
    let counters = world.nodes[B].endpoint.status(PEER).expect("a peer").counters;
    // Each takes two key exchanges, and in this time one second is longer than it looks.
    let most = (AT_ONCE + PER_SECOND * 2 * (seconds + 1)) / 2;
    assert!((AT_ONCE / 2..=most).contains(&counters.ike_rekeys), "{counters:?}");
    assert!(counters.key_exchanges_postponed > 0, "{counters:?}");
    world.run_for(Duration::from_secs(10));
    let before = world.nodes[node].endpoint.counters().ike_rekeys;
    world.act(node, |endpoint, now| endpoint.rekey_ike(now, PEER)).expect("it is connected");
    world.run_for(Duration::from_secs(1));
    assert!(world.is_up(node, PEER) && world.nodes[node].endpoint.counters().ike_rekeys == before + 1);
}

#[test]
fn all_child_sas_of_a_peer_are_rekeyed_at_once_and_none_has_to_wait() {
    let mut world = pair(2, |node, config| {
        let child = |number: u8| {
            let mut child = tunnel(node);
            child.name = format!("net-{number}");
            child.proposals = vec![esp_hybrid()];
            let side = vec![net(&format!("10.1.{number}.0/24"))];
            *(if node == A { &mut child.local } else { &mut child.remote }) = side;
            child
        };
        config.children = (0..80).map(child).collect();
        config.share.sas = 1024;
    });
    world.connect_pair();
    world.run_for(Duration::from_secs(30));
    assert!([A, B].iter().all(|node| world.nodes[*node].data.has_pairs(80)));
    // Both kinds of SA, and those twice.
    for round in 1..=2 {
        world.act(A, |endpoint, now| endpoint.rekey(now, PEER)).expect("it is connected");
        world.run_for(Duration::from_secs(4));
        world.act(A, |endpoint, now| endpoint.rekey_ike(now, PEER)).expect("it is connected");
        world.run_for(Duration::from_secs(1));
        let counters = [A, B].map(|node| world.nodes[node].endpoint.counters());
        assert_eq!((counters[0].child_rekeys, counters[0].ike_rekeys), (80 * round, round));
        assert!(counters.iter().all(|one| one.key_exchanges_postponed == 0));
    }
    world.check_traffic();
}
