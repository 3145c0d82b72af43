//! Strangers who receive what we send, bring their cookies and never authenticate: they fill their own places, and who is known connects.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use adit_engine::ike::{EndpointConfig, Limits, PeerConfig};
use adit_engine::path::Arrival;
use adit_proto::ike::{ExchangeType, IkeSpi, Message, NotifyType, Payload};

use adit_sim::*;

use super::rogue::{Opening, Rogue};

const LIMITS: Limits = Limits {
    half_open: 400,
    half_open_per_address: 8,
    cookie_threshold: 20,
    cookie_threshold_per_address: 4,
    sessions: 100,
    workers: 1,
    unprotected_replies: 100,
    refusals: 3,
};

/// What B answers to a message from there.
pub fn answers(world: &mut World, from: SocketAddr, message: &[u8]) -> Vec<Message> {
    let local = world.nodes[B].address;
    answers_at(world, local, from, message)
}

/// The same at one of its ports.
pub fn answers_at(world: &mut World, local: SocketAddr, from: SocketAddr, message: &[u8]) -> Vec<Message> {
    // Port 500 knows no marker (RFC 7296 §2.23).
    let marker = if local.port() == 500 { &[][..] } else { &[0; 4] };
    let datagram = [marker, message].concat();
    world.act(B, |endpoint, now| {
        endpoint.handle_message(now, Arrival::new(local, from), &datagram);
        let answers = std::iter::from_fn(|| endpoint.poll_transmit());
        answers.map(|answer| Message::decode(&answer.payload[marker.len()..]).expect("a message")).collect()
    })
}

/// The cookie that is asked for, in this answer.
pub fn cookie(answers: &[Message]) -> Option<Payload> {
    match answers.first()?.payloads.first()? {
        Payload::Notify(notify) if notify.kind == NotifyType::COOKIE => Some(notify.clone().into()),
        _ => None,
    }
}

/// Begins an IKE SA from there, with the cookie that is asked for.
fn begin(world: &mut World, request: &Message, from: SocketAddr, spi: u64) {
    let mut request = request.clone();
    request.header.initiator_spi = IkeSpi(spi);
    let first = answers(world, from, &request.encode().expect("a message"));
    if let Some(cookie) = cookie(&first) {
        request.payloads.insert(0, cookie);
        answers(world, from, &request.encode().expect("a message"));
    }
}

/// The same, of somebody who goes on, if he is let in.
pub fn open(world: &mut World, request: &Message, (local, from): (SocketAddr, SocketAddr), spi: u64) -> Option<Rogue> {
    let mut opening = Opening::like(request.clone());
    opening.request.header.initiator_spi = IkeSpi(spi);
    let mut answer = answers_at(world, local, from, &opening.bytes());
    if let Some(cookie) = cookie(&answer) {
        opening.request.payloads.insert(0, cookie);
        answer = answers_at(world, local, from, &opening.bytes());
    }
    opening.finish(answer.first()?, "a.example.org", SECRET)
}

/// Has a handshake with B up to an IKE_AUTH that proves nothing.
fn fail(world: &mut World, request: &Message, from: SocketAddr, spi: u64) {
    let mut opening = Opening::like(request.clone());
    opening.request.header.initiator_spi = IkeSpi(spi);
    let answer = answers(world, from, &opening.bytes());
    let Some(answer) = answer.first() else { return };
    let Some(mut rogue) = opening.finish(answer, "a.example.org", SECRET) else { return };
    let message = rogue.seal(ExchangeType::IKE_AUTH, 1, &[]);
    assert_eq!(answers(world, from, &message[4..]).len(), 1, "it is refused");
}

/// Hosts in eighty networks, until no more are let in; first many beside A, where its link or its network has more than one.
fn flood(world: &mut World, request: &Message, spis: &mut std::ops::RangeFrom<u64>) {
    let far = (0..20u8).flat_map(|host| (0..80u8).map(move |net| IpAddr::from([10, 50, net, host + 1])));
    let beside = neighbours(world.nodes[A].address.ip());
    for (host, spi) in beside.into_iter().chain(far).zip(spis) {
        begin(world, request, SocketAddr::new(host, 4500), spi);
    }
}

/// Of IPv6, hosts on the same link and in the same network.
pub fn neighbours(of: IpAddr) -> Vec<IpAddr> {
    let IpAddr::V6(of) = of else { return Vec::new() };
    let on_link = (0x100..0x200).map(|host| of.to_bits() >> 64 << 64 | host);
    let in_network = (0x100..0x200).map(|net| of.to_bits() >> 80 << 80 | net << 64 | 1);
    on_link.chain(in_network).map(|bits| Ipv6Addr::from_bits(bits).into()).collect()
}

/// Where A and B are: each pair of addresses makes its own world.
pub const PLACES: [[&str; 2]; 3] = [
    ["192.0.2.1:4500", "192.0.2.2:4500"],
    ["[2001:db8:1:1::1]:4500", "[2001:db8:2:1::2]:4500"],
    ["[fe80::1]:4500", "[fe80::2]:4500"],
];

/// [`pair_with`] elsewhere.
pub fn pair_at(
    seed: u64,
    places: [&str; 2],
    endpoint: impl Fn() -> EndpointConfig,
    change: impl Fn(usize, &mut PeerConfig),
) -> World {
    let mut world = World::new(seed);
    let address = |node: usize| places[node].parse().expect("an address");
    for node in [A, B] {
        world.add(places[node], endpoint());
    }
    for node in [B, A] {
        let mut config = PeerConfig { local: Some(address(node)), remotes: vec![address(1 - node)], ..peer(node) };
        change(node, &mut config);
        world.set_peer(node, PEER, config);
    }
    world
}

#[test]
fn hosts_that_bring_cookies_and_go_no_further_lock_no_peer_out() {
    // One that is looked for at its address; and one that is not, but has proven itself from there before: to this process, or to one
    // that has left nothing but this.
    let kinds = [(true, false), (false, false), (false, true)];
    for ((looked_for, anew), places) in kinds.into_iter().flat_map(|kind| PLACES.map(|places| (kind, places))) {
        let config = || EndpointConfig { limits: LIMITS, ..endpoint_config(1) };
        let change = |node, config: &mut PeerConfig| {
            config.initiate = false;
            if node == B && !looked_for {
                config.remotes.clear();
            }
        };
        let mut world = pair_at(5, places, config, change);
        world.act(A, |endpoint, now| endpoint.connect(now, PEER)).expect("it has an address");
        let request = Message::decode(&world.log[0].2[4..]).expect("a request");
        world.connect_pair();
        world.act(A, |endpoint, now| endpoint.disconnect(now, PEER)).expect("a peer");
        world.run_for(Duration::from_secs(5));
        if anew {
            let proofs = world.act(B, |endpoint, _| endpoint.new_proofs()).expect("somebody has proven himself");
            world.crash(B, config(), true);
            let mut own = PeerConfig { local: places[B].parse().ok(), ..peer(B) };
            change(B, &mut own);
            world.set_peer(B, PEER, own);
            world.act(B, |endpoint, _| endpoint.recall_proofs(PEER, &proofs[&PEER]));
        }
        let mut spis = 1000..;
        flood(&mut world, &request, &mut spis);
        let full = world.nodes[B].endpoint.half_open();
        assert!((300..=320).contains(&full), "three quarters, and those without a cookie: {full}");
        assert!(world.nodes[B].endpoint.counters().dropped_limit > 500);
        world.act(A, |endpoint, now| endpoint.connect(now, PEER)).expect("it has an address");
        let up = world.run_until(Duration::from_secs(1), |world| world.is_up(A, PEER) && world.is_up(B, PEER));
        assert!(up, "{places:?} looked for: {looked_for}, anew: {anew}; {:?}", world.nodes[B].endpoint.counters());
        // Beside the crowd that comes again it goes on.
        flood(&mut world, &request, &mut spis);
        let before = world.ike(A).spis;
        world.act(A, |endpoint, now| endpoint.rekey_ike(now, PEER)).expect("it is connected");
        world.run_for(Duration::from_secs(5));
        assert_ne!(world.ike(A).spis, before);
        world.check_traffic();
        world.run_for(Duration::from_secs(120));
        assert_eq!(world.nodes[B].endpoint.half_open(), 0, "nothing of them stays");
    }
}

#[test]
fn who_comes_for_the_first_time_connects_beside_networks_that_take_all() {
    for (networks, places) in [(5_u8, PLACES[0]), (40, PLACES[0]), (5, PLACES[1])] {
        let config = || EndpointConfig { limits: LIMITS, ..endpoint_config(1) };
        let mut world = pair_at(7, places, config, |node, config| {
            config.initiate = false;
            if node == B {
                config.remotes.clear();
            }
        });
        world.act(A, |endpoint, now| endpoint.connect(now, PEER)).expect("it has an address");
        let request = Message::decode(&world.log[0].2[4..]).expect("a request");
        world.act(A, |endpoint, now| endpoint.disconnect(now, PEER)).expect("a peer");
        let mut spis = 1000..;
        let of_each = (400 / u16::from(networks)) as u8;
        let hosts: Vec<[u8; 4]> = (0..of_each).flat_map(|host| (0..networks).map(move |net| [10, 50, net, host])).collect();
        let mut all_come = |world: &mut World| {
            for (host, spi) in hosts.iter().copied().zip(&mut spis) {
                begin(world, &request, SocketAddr::new(host.into(), 4500), spi);
            }
        };
        all_come(&mut world);
        world.run_for(Duration::from_secs(1));
        let full = world.nodes[B].endpoint.half_open();
        assert!((300..=320).contains(&full), "{full}");
        world.act(A, |endpoint, now| endpoint.connect(now, PEER)).expect("it has an address");
        // They come again meanwhile.
        for _ in 0..4 {
            world.run_for(Duration::from_millis(50));
            all_come(&mut world);
        }
        let up = world.run_until(Duration::from_secs(1), |world| world.is_up(A, PEER) && world.is_up(B, PEER));
        assert!(up, "{networks} networks, {places:?}: {:?}", world.nodes[B].endpoint.counters());
        assert!(world.nodes[B].endpoint.counters().half_open_gave_way > 0);
        world.check_traffic();
    }
}

#[test]
fn who_fails_to_authenticate_gives_no_place_back_before_it_is_forgotten() {
    let mut world = pair_with(6, |_| EndpointConfig { limits: LIMITS, ..endpoint_config(1) }, |_, _| {});
    world.connect_pair();
    let request = Message::decode(&world.log[0].2[4..]).expect("a request");
    for (spi, host) in (1000..).zip(0..200u8) {
        fail(&mut world, &request, SocketAddr::new([10, 60, host, 1].into(), 4500), spi);
    }
    let sizes = world.nodes[B].endpoint.sizes();
    assert_eq!((sizes.half_open, sizes.ike_sas), (LIMITS.cookie_threshold, LIMITS.cookie_threshold + 1));
    world.run_for(Duration::from_secs(11));
    let sizes = world.nodes[B].endpoint.sizes();
    assert_eq!((sizes.half_open, sizes.ike_sas), (0, 1), "nothing of them stays");
    world.check_traffic();
}
