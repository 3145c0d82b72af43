//! Strangers who receive what we send, bring their cookies and never authenticate: they fill their own places, and who is known connects.

use std::net::SocketAddr;
use std::time::Duration;

use adit_engine::ike::{EndpointConfig, Limits};
use adit_engine::path::Arrival;
use adit_proto::ike::{ExchangeType, Message, Notify, NotifyType, Payload};

use adit_sim::*;

use super::rogue::Opening;

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
fn answers(world: &mut World, from: SocketAddr, message: &[u8]) -> Vec<Message> {
    let (local, datagram) = (world.nodes[B].address, [&[0; 4], message].concat());
    world.act(B, |endpoint, now| {
        endpoint.handle_message(now, Arrival::new(local, from), &datagram);
        let answers = std::iter::from_fn(|| endpoint.poll_transmit());
        answers.map(|answer| Message::decode(&answer.payload[4..]).expect("a message")).collect()
    })
}

/// Begins an IKE SA from there, with the cookie that is asked for.
fn begin(world: &mut World, request: &Message, from: SocketAddr, spi: u64) {
    let mut request = request.clone();
    request.header.initiator_spi = adit_proto::ike::IkeSpi(spi);
    let first = answers(world, from, &request.encode().expect("a message"));
    if let Some(Payload::Notify(cookie)) = first.first().and_then(|answer| answer.payloads.first())
        && cookie.kind == NotifyType::COOKIE
    {
        request.payloads.insert(0, Notify::new(NotifyType::COOKIE).with_data(cookie.data.clone()).into());
        answers(world, from, &request.encode().expect("a message"));
    }
}

/// Has a handshake with B up to an IKE_AUTH that proves nothing.
fn fail(world: &mut World, request: &Message, from: SocketAddr, spi: u64) {
    let mut opening = Opening::like(request.clone());
    opening.request.header.initiator_spi = adit_proto::ike::IkeSpi(spi);
    let answer = answers(world, from, &opening.bytes());
    let Some(answer) = answer.first() else { return };
    let Some(mut rogue) = opening.finish(answer, "a.example.org", SECRET) else { return };
    let message = rogue.seal(ExchangeType::IKE_AUTH, 1, &[]);
    assert_eq!(answers(world, from, &message[4..]).len(), 1, "it is refused");
}

/// Hosts in eighty networks, until no more are let in.
fn crowd(world: &mut World, request: &Message, spis: &mut std::ops::RangeFrom<u64>) {
    for (host, spi) in (0..20u8).flat_map(|host| (0..80u8).map(move |net| (net, host))).zip(spis) {
        begin(world, request, SocketAddr::new([10, 50, host.0, host.1 + 1].into(), 4500), spi);
    }
}

#[test]
fn hosts_that_bring_cookies_and_go_no_further_lock_no_peer_out() {
    // One that is looked for at its address; and one that is not, but has proven itself from there before.
    for looked_for in [true, false] {
        let config = |_| EndpointConfig { limits: LIMITS, ..endpoint_config(1) };
        let mut world = pair_with(5, config, |node, config| {
            config.initiate = false;
            if node == B && !looked_for {
                config.remotes.clear();
            }
        });
        world.act(A, |endpoint, now| endpoint.connect(now, PEER)).expect("it has an address");
        let request = Message::decode(&world.log[0].2[4..]).expect("a request");
        world.connect_pair();
        world.act(A, |endpoint, now| endpoint.disconnect(now, PEER)).expect("a peer");
        world.run_for(Duration::from_secs(5));
        let mut spis = 1000..;
        crowd(&mut world, &request, &mut spis);
        let full = world.nodes[B].endpoint.half_open();
        assert!((300..=320).contains(&full), "three quarters, and those without a cookie: {full}");
        assert!(world.nodes[B].endpoint.counters().dropped_limit > 500);
        world.act(A, |endpoint, now| endpoint.connect(now, PEER)).expect("it has an address");
        let up = world.run_until(Duration::from_secs(1), |world| world.is_up(A, PEER) && world.is_up(B, PEER));
        assert!(up, "looked for: {looked_for}; {:?}", world.nodes[B].endpoint.counters());
        // Beside the crowd that comes again it goes on.
        crowd(&mut world, &request, &mut spis);
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
