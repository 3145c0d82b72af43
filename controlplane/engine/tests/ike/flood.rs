//! Floods from nowhere: who sends under the address of a peer keeps neither that peer nor the log busy.

use std::net::SocketAddr;
use std::time::Duration;

use adit_engine::ike::Event;

use adit_sim::*;

/// A gateway B to which A is to come, and a genuine request of A as template for a flood.
fn waiting(seed: u64) -> (World, Vec<u8>) {
    let mut world = pair(seed, |_, config| config.initiate = false);
    world.act(A, |endpoint, now| endpoint.connect(now, PEER)).expect("it has an address");
    let genuine = world.log[0].2.clone();
    world.act(A, |endpoint, now| endpoint.disconnect(now, PEER)).expect("a peer");
    world.run_for(Duration::from_secs(60));
    (world, genuine)
}

/// Requests to begin an IKE SA, each another one, from A's address: what is answered goes to A.
fn flood(world: &mut World, template: &[u8], spis: &mut std::ops::RangeFrom<u64>, count: usize) {
    let (a, b) = (peer(A).local.expect("an address"), peer(B).local.expect("an address"));
    for spi in spis.take(count) {
        let mut request = template.to_vec();
        request[4..12].copy_from_slice(&spi.to_be_bytes());
        world.inject(SocketAddr::new(a.ip(), 1025), b, request);
    }
}

#[test]
fn a_peer_is_not_locked_out_by_requests_under_its_address() {
    for per_second in [30, 200] {
        let (mut world, template) = waiting(5);
        let mut spis = 1..;
        flood(&mut world, &template, &mut spis, 64);
        world.run_for(Duration::from_millis(200));
        world.act(A, |endpoint, now| endpoint.connect(now, PEER)).expect("it has an address");
        let up = (0..5).find(|_| {
            flood(&mut world, &template, &mut spis, per_second);
            world.run_for(Duration::from_secs(1));
            world.is_up(A, PEER)
        });
        assert!(up.is_some(), "{per_second} a second: {:?}", world.nodes[B].endpoint.counters());
        assert!(world.nodes[B].endpoint.half_open() <= 5);
        world.check_traffic();
    }
}

#[test]
fn a_flood_of_refused_requests_is_counted_and_not_told_one_by_one() {
    let (mut world, mut template) = waiting(6);
    // Another length in the KE payload's method: nothing that anybody would agree to.
    template.truncate(4 + 28);
    let len = u32::try_from(template.len() - 4).expect("short");
    template[4 + 24..4 + 28].copy_from_slice(&len.to_be_bytes());
    template[4 + 16] = 0;
    let before = world.nodes[B].events.len();
    let mut spis = 1..;
    for _ in 0..50 {
        flood(&mut world, &template, &mut spis, 100);
        world.run_for(Duration::from_millis(200));
    }
    let reported = |event: &Event| if let Event::Refused { more, .. } = event { Some(*more) } else { None };
    let reported: Vec<u64> = world.nodes[B].events[before..].iter().filter_map(reported).collect();
    assert!((20..=40).contains(&reported.len()), "{} in ten seconds", reported.len());
    assert_eq!(
        {
            let counters = world.nodes[B].endpoint.counters();
            counters.refused_proposal + counters.refused_other
        },
        5000
    );
    assert!(reported.iter().sum::<u64>() + reported.len() as u64 > 4500, "the others are named in number");
    assert_eq!(world.nodes[B].endpoint.refusals().count(), 64);
}

#[test]
fn a_request_longer_than_any_honest_one_is_not_kept() {
    let (mut world, mut template) = waiting(7);
    // A status notification of 4 KiB at the end; as a message it is well-formed.
    let last = {
        let mut at = 4 + 28;
        loop {
            let len = usize::from(u16::from_be_bytes([template[at + 2], template[at + 3]]));
            if template[at] == 0 {
                break at;
            }
            at += len;
        }
    };
    template[last] = 41;
    template.extend([0, 0, 0x10, 0x08, 0, 0, 0xa0, 0]);
    template.extend([0; 0x1000]);
    let len = u32::try_from(template.len() - 4).expect("short");
    template[4 + 24..4 + 28].copy_from_slice(&len.to_be_bytes());
    let before = world.nodes[B].endpoint.counters().dropped_malformed;
    flood(&mut world, &template, &mut (1..), 3);
    world.run_for(Duration::from_millis(100));
    assert_eq!(world.nodes[B].endpoint.half_open(), 0);
    assert_eq!(world.nodes[B].endpoint.counters().dropped_malformed, before + 3);
}
