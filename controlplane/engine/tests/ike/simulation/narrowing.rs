//! Pairs of networks that lie in each other, and a peer that has less than is configured: when all is quiet, what is carried is what both
//! ends have in common, and the rest is told.

use std::time::Duration;

use adit_engine::ike::Wish;
use adit_engine::ike::selectors::pair_of;

use super::*;

/// What one end has in one child, what the other one has in a child each (all as `first > second`), and how many pairs of the first end
/// are missing and narrowed for good.
type Scene = (&'static [&'static str], &'static [&'static str], (usize, usize));

const SCENES: [Scene; 6] = [
    (
        &["10.1.1.0/24 > 10.2.1.0/24", "10.1.0.0/16 > 10.2.0.0/16"],
        &["10.1.1.0/24 > 10.2.1.0/24", "10.1.0.0/16 > 10.2.0.0/16"],
        (0, 0),
    ),
    (&["10.1.1.0/24 > 10.2.1.0/24", "10.1.0.0/16 > 10.2.0.0/16"], &["10.1.1.0/24 > 10.2.1.0/24"], (1, 0)),
    (&["10.1.0.0/16 > 10.2.0.0/16"], &["10.1.1.0/24 > 10.2.1.0/24"], (0, 1)),
    (&["10.1.0.0/16 > 10.2.0.0/16"], &["10.1.0.0/16 > 10.2.0.0/17", "10.1.0.0/16 > 10.2.128.0/17"], (0, 0)),
    (&["0.0.0.0/0 > 0.0.0.0/0"], &["10.1.0.0/16 > 10.2.1.0/24", "10.1.0.0/16 > 10.2.2.0/24"], (0, 1)),
    (
        &["10.1.1.0/24 > 10.2.1.0/24", "0.0.0.0/0 > 0.0.0.0/0"],
        &["10.1.1.0/24 > 10.2.1.0/24", "10.1.2.0/24 > 10.2.2.0/24"],
        (0, 1),
    ),
];

/// The end that has more than the other one, and the scene.
fn drawn(seed: u64) -> (usize, Scene) {
    ([A, B][seed as usize % 2], SCENES[seed as usize / 2 % SCENES.len()])
}

fn begin(seed: u64) -> Run {
    let mut run = Run::new(seed);
    let (wide, (of_wide, of_other, _)) = drawn(seed);
    for node in [A, B] {
        let template = run.configs[node].children[0].clone();
        let of = |text: &&str| {
            let (first, second) = text.split_once(" > ").expect("two sides");
            let (local, remote) = if node == wide { (net(first), net(second)) } else { (net(second), net(first)) };
            let pairs = pair_of(&local, &remote).into_iter().collect();
            ChildConfig { name: (*text).into(), local: vec![local], remote: vec![remote], pairs, ..template.clone() }
        };
        let all: Vec<ChildConfig> = if node == wide { of_wide } else { of_other }.iter().map(of).collect();
        run.configs[node].children = if node == wide { vec![joined(&template, &all)] } else { all };
        run.world.set_peer(node, PEER, run.configs[node].clone());
    }
    run
}

/// Every Child SA has all of its lanes at both ends, and what is told of the others is so.
fn is_complete(world: &World, seed: u64, lanes: usize) -> bool {
    let (wide, (.., (missing, narrowed))) = drawn(seed);
    let both = [A, B].iter().all(|node| {
        let (endpoint, data) = (&world.nodes[*node].endpoint, &world.nodes[*node].data);
        let Some(ike) = endpoint.status(PEER).and_then(|status| status.ike.into_iter().next()) else { return false };
        let firsts = ike.children.iter().filter(|child| child.lane == 0).count();
        let selectors = ike.missing.iter().filter(|one| matches!(one.wish, Wish::Selector(..))).count();
        let reported = *node != wide || (selectors, ike.narrowed.len()) == (missing, narrowed);
        reported
            && ike.children.len() == firsts * lanes
            && data.has_pairs(firsts * lanes)
            && endpoint.sizes().inbound_spis == firsts * lanes
    });
    both && world.nodes.iter().all(|node| node.endpoint.sizes().ike_sas == 1)
}

fn lanes(run: &Run) -> usize {
    usize::from(run.configs[A].children[0].lanes.max(run.configs[B].children[0].lanes))
}

#[test]
fn nested_and_narrowed_pairs_on_a_bad_network_lose_and_leave_nothing() {
    with_seeds((6_000_000, RUNS / 3), &[], |seed| {
        let mut run = begin(seed);
        run.world.trace = trace();
        let lanes = lanes(&run);
        // What is new may be sent on before the other end has it: all that there will be is to be there first.
        run.world.run_for(Duration::from_secs(120));
        assert!(
            run.world.run_until(Duration::from_secs(900), |world| is_complete(world, seed, lanes)),
            "seed {seed}: {}",
            run.picture()
        );
        run.world.run_for(Duration::from_secs(1));
        [A, B].iter().for_each(|node| run.world.nodes[*node].data.lost.clear());
        for _ in 0..run.world.rng.below(8) {
            run.gentle_event();
            let time = Duration::from_millis(u64::from(run.world.rng.below(20_000)));
            run.pass(time);
        }
        if !run.died() {
            run.check_nothing_was_lost(seed);
        }
        run.check_that(seed, |world| is_complete(world, seed, lanes));
    });
}

#[test]
fn nested_and_narrowed_pairs_heal_after_crashes_cuts_and_hang_ups() {
    with_seeds((7_000_000, RUNS / 3), &[], |seed| {
        let mut run = begin(seed);
        run.world.trace = trace();
        let lanes = lanes(&run);
        for _ in 0..run.world.rng.below(6) {
            let time = Duration::from_millis(u64::from(run.world.rng.below(20_000)));
            run.pass(time);
            if run.world.rng.below(2) == 0 { run.rough_event() } else { run.gentle_event() }
        }
        run.check_that(seed, |world| is_complete(world, seed, lanes));
    });
}
