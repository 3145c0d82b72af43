//! How long mappings live is measured with every kind of NAT, and not told by servers that cannot.

use std::net::SocketAddr;
use std::time::Duration;

use adit_engine::stun::lifetime::{Found, Lifetime, SOCKETS, Why};
use adit_sim::nat::NatConfig;
use adit_sim::rng::Rng;

use super::kinds::{ALLOCATIONS, BEHAVIOURS};
use super::seeds::{FailedOnce, with_seeds};
use super::world::{FIRST, Manner, OUTSIDE, World, address};

/// All packets of one rung were lost, or the caller had got the port of a mapping that was forgotten: the server was said to be unable.
const FAILED_ONCE: FailedOnce =
    &[("the first rung alone decided what the server can", &[32_013_641]), ("the caller called itself", &[32_022_737])];

fn measure(world: &mut World) -> Found {
    let sockets: [SocketAddr; SOCKETS] = std::array::from_fn(|place| ([10, 0, 0, 2], 42_000 + place as u16).into());
    let mut ids = Rng::new(world.rng.next());
    let mut search = Lifetime::new(world.now, address(FIRST), Box::new(move |out: &mut [u8]| ids.fill(out)));
    for _ in 0..10_000 {
        while let Some(transmit) = search.poll_transmit(world.now) {
            world.send(sockets[transmit.socket], transmit.to, transmit.payload);
        }
        if let Some(found) = search.poll_event() {
            assert_eq!((search.poll_event(), search.poll_timeout()), (None, None), "it is told once, and then all is over");
            return found;
        }
        let due = search.poll_timeout().expect("a measurement that is not over waits for something");
        match world.next(due) {
            Some((to, from, bytes)) => {
                let socket = sockets.iter().position(|socket| *socket == to).expect("a socket of the host");
                search.handle_datagram(world.now, socket, from, &bytes);
            }
            None => search.handle_timeout(world.now),
        }
    }
    panic!("the measurement does not come to an end");
}

/// What a mapping lives by rest and by age, in seconds.
fn is_true(found: Found, (idle, lifetime): (Option<u64>, Option<u64>), slack: Duration) -> bool {
    let truth = idle.into_iter().chain(lifetime).min().map(Duration::from_secs);
    match (found, truth) {
        (Found::Between(least, most), Some(truth)) => least <= truth + slack && truth <= most + slack && most <= least * 3 / 2,
        (Found::AtLeast(least), truth) => truth.is_none_or(|truth| least <= truth + slack),
        (Found::Between(..), None) | (Found::Unknown(_), _) => false,
    }
}

#[test]
fn the_life_of_a_mapping_is_measured_behind_every_nat() {
    let lives =
        [(Some(7), None), (Some(30), None), (Some(55), Some(400)), (Some(120), None), (Some(299), None), (None, Some(25))];
    for (place, life) in lives.into_iter().chain([(None, None), (Some(600), None)]).enumerate() {
        for (mapping, filtering) in BEHAVIOURS.iter().flat_map(|mapping| BEHAVIOURS.map(|filtering| (*mapping, filtering))) {
            let config = NatConfig {
                mapping,
                filtering,
                allocation: ALLOCATIONS[place],
                idle: life.0.map(Duration::from_secs),
                lifetime: life.1.map(Duration::from_secs),
                inbound_refreshes: place % 2 == 0,
                ..NatConfig::usual(OUTSIDE.into())
            };
            let mut world = World::new(config.clone(), place as u64);
            let found = measure(&mut world);
            assert!(is_true(found, life, 3 * world.delay), "{found:?} of {life:?}: {config:?}");
        }
    }
}

#[test]
fn lost_packets_make_it_longer_but_not_wrong() {
    with_seeds((32_000_000, 300), FAILED_ONCE, |seed| {
        let mut rng = Rng::new(seed);
        let life = (Some(5 + u64::from(rng.below(300))), None);
        let config = NatConfig { idle: life.0.map(Duration::from_secs), ..NatConfig::symmetric(OUTSIDE.into()) };
        let mut world = World::new(config, seed);
        world.lost = rng.below(50);
        let found = measure(&mut world);
        // The packet that made the mapping may have been sent again.
        assert!(is_true(found, life, Duration::from_millis(2600)), "{found:?} of {life:?}");
    });
}

#[test]
fn servers_that_cannot_are_told_from_those_that_are_silent() {
    for (manner, why) in [
        (Manner::Dead, Why::NoAnswer),
        (Manner::Refuses, Why::NoAnswer),
        (Manner::Deaf, Why::NoResponsePort),
        (Manner::One, Why::NoResponsePort),
    ] {
        let mut world = World::new(NatConfig::usual(OUTSIDE.into()), 1);
        world.servers = [(address(FIRST), manner)].into();
        let began = world.now;
        assert_eq!(measure(&mut world), Found::Unknown(why), "{manner:?}");
        assert!(world.now < began + Duration::from_secs(6), "{manner:?}");
    }
}
