//! Chance decides: configurations, the network, what the operators and the weather do. Whatever happened, when it is over both
//! gateways agree on everything and nothing is left behind.

use std::time::Duration;

use adit_engine::ike::{
    Cause, ChildConfig, ChildProposal, Endpoint, EndpointConfig, Event, IkeProposal, Lifetime, PeerConfig, Retransmission, Sizes,
    selectors,
};

use adit_sim::*;

use super::seeds::{FailedOnce, trace, with_seeds};

mod narrowing;
mod reloads;
mod travels;

/// Runs of each kind.
const RUNS: u64 = 1500;
const FAILED_ONCE: FailedOnce = &[
    ("a Child SA made twice; an SA that went before the peer had its successor", &[526, 846, 4184, 8216]),
    ("a late Delete brought an SA into use that had a successor itself", &[74_992, 77_816, 194_181, 216_692, 229_734]),
    ("a process died during two rekeys of one Child SA and the next did not know of the peer's", &[79_490, 144_777, 154_445]),
    ("an IKE SA asked for Child SAs that it was about to inherit", &[50_832, 87_581, 126_955]),
    ("an IKE SA replaced before it was known what became of a request of the process before", &[184_811]),
];
const FAILED_ONCE_ROUGH: FailedOnce = &[
    ("moves and crashes in the middle of rekeys", &[1_002_186, 1_008_605, 1_013_431, 1_019_388]),
    ("an IKE SA asked for Child SAs that it was about to inherit", &[1_071_210]),
    ("a rekey of the IKE SA turned the roles of RFC 4555 round, and nobody said where the moved end was", &[11_020_555]),
];
const FAILED_ONCE_STALE: FailedOnce = &[
    ("an answer to a process before was taken for one about another lane", &[2_503_825]),
    ("where the peer had moved was forgotten, since too little had come from there to ask it", &[2_000_272, 2_000_898]),
];

/// One run: what was drawn from its seed.
struct Run {
    world: World,
    configs: [PeerConfig; 2],
    /// Something happened that may cost packets: a process or a link died, somebody moved or hung up.
    rough: bool,
    /// Both ends answer sealed echoes.
    echo: bool,
}

fn endpoint(node: usize) -> EndpointConfig {
    let retransmission = Retransmission { tries: 10, ..Retransmission::default() };
    EndpointConfig { retransmission, ..endpoint_config(node as u8 + 1) }
}

/// Children for so many networks at each end: one for all, or one for each at the end that is `split`.
fn children_between(node: usize, split: usize, networks: usize, child: &ChildConfig) -> Vec<ChildConfig> {
    let site = |node: usize, n: usize| net(&format!("10.{}.{n}.0/24", node + 1));
    let single = |n: usize| {
        let (local, remote) = (site(node, n), site(1 - node, n));
        let pairs = selectors::pair_of(&local, &remote).into_iter().collect();
        ChildConfig { name: format!("net{n}"), local: vec![local], remote: vec![remote], pairs, ..child.clone() }
    };
    let all: Vec<ChildConfig> = (1..=networks).map(single).collect();
    if node == split { all } else { vec![joined(child, &all)] }
}

/// One child with all that these have.
fn joined(child: &ChildConfig, all: &[ChildConfig]) -> ChildConfig {
    ChildConfig {
        name: "all".into(),
        local: all.iter().flat_map(|one| one.local.clone()).collect(),
        remote: all.iter().flat_map(|one| one.remote.clone()).collect(),
        pairs: all.iter().flat_map(|one| one.pairs.clone()).collect(),
        ..child.clone()
    }
}

impl Run {
    fn new(seed: u64) -> Run {
        Run::prepared(seed, false, |_, _| {})
    }

    /// `prepare`: what is done before the gateways learn of each other.
    fn prepared(seed: u64, echo: bool, prepare: impl FnOnce(&mut World, &mut [PeerConfig; 2])) -> Run {
        let mut world = World::new(seed);
        let pick = |world: &mut World, of: u32| world.rng.below(of);
        let ike: Vec<IkeProposal> = match pick(&mut world, 3) {
            0 => vec![classic()],
            1 => vec![hybrid()],
            _ => vec![hybrid(), classic()],
        };
        let child: ChildProposal = match pick(&mut world, 4) {
            0 => esp(),
            1 | 2 => esp_pfs(),
            _ => esp_hybrid(),
        };
        let lanes = [pick(&mut world, 3) as u8 + 1, pick(&mut world, 2) as u8 + 1];
        let initiate = [[true, false], [false, true], [true, true]][pick(&mut world, 3) as usize];
        let mobike = pick(&mut world, 2) == 0;
        let dpd = Duration::from_secs(5 + u64::from(pick(&mut world, 30)));
        let lifetime =
            |seconds: u32| Lifetime { rekey_after: Duration::from_secs(seconds.into()), hard_percent: 300, ..Lifetime::CHILD };
        let lifetimes = (lifetime(40 + pick(&mut world, 100)), lifetime(60 + pick(&mut world, 200)));
        world.net = Net {
            loss: pick(&mut world, 4) * 60,
            duplication: pick(&mut world, 3) * 60,
            delay: (Duration::from_millis(1), Duration::from_millis(u64::from(1 + pick(&mut world, 250)))),
        };
        let mut configs = [A, B].map(|node| {
            let mut config = peer(node);
            config.proposals = ike.clone();
            config.children[0].proposals = vec![child.clone()];
            config.children[0].lanes = lanes[node];
            config.children[0].lifetime = lifetimes.0;
            config.ike_lifetime = lifetimes.1;
            config.initiate = initiate[node];
            config.mobike = mobike;
            config.dpd = dpd;
            config
        });
        for (node, config) in configs.iter().enumerate() {
            world.add(&config.local.expect("an address").to_string(), EndpointConfig { echo, ..endpoint(node) });
        }
        prepare(&mut world, &mut configs);
        for (node, config) in configs.iter().enumerate() {
            world.set_peer(node, PEER, config.clone());
        }
        Run { world, configs, rough: false, echo }
    }

    fn endpoint(&self, node: usize) -> EndpointConfig {
        EndpointConfig { echo: self.echo, ..endpoint(node) }
    }

    /// A has several pairs of networks, and B a Child SA for each of them, or the other way round.
    fn with_networks(seed: u64) -> Run {
        let mut run = Run::new(seed);
        let networks = 2 + seed as usize % 2;
        let split = if (seed / 2).is_multiple_of(2) { A } else { B };
        for node in [A, B] {
            let child = run.configs[node].children[0].clone();
            run.configs[node].children = children_between(node, split, networks, &child);
            run.world.set_peer(node, PEER, run.configs[node].clone());
        }
        run
    }

    /// Pairs of SAs that there are when all is well.
    fn lanes(&self) -> usize {
        let lanes = usize::from(self.configs[A].children[0].lanes.max(self.configs[B].children[0].lanes));
        lanes * self.configs[A].children.len().max(self.configs[B].children.len())
    }

    /// Packets in both directions while time passes.
    fn pass(&mut self, time: Duration) {
        let end = self.world.now + time;
        while self.world.now < end {
            for node in [A, B] {
                self.world.send_esp(node);
            }
            self.world.run_for(Duration::from_millis(137));
        }
    }

    /// Something that happens in a well-kept network.
    fn gentle_event(&mut self) {
        let node = self.world.rng.below(2) as usize;
        match self.world.rng.below(6) {
            0 => drop(self.world.act(node, |endpoint, now| endpoint.rekey(now, PEER))),
            1 => drop(self.world.act(node, |endpoint, now| endpoint.rekey_ike(now, PEER))),
            2 => [A, B].into_iter().for_each(|node| drop(self.world.act(node, |endpoint, now| endpoint.rekey(now, PEER)))),
            3 => [A, B].into_iter().for_each(|node| drop(self.world.act(node, |endpoint, now| endpoint.rekey_ike(now, PEER)))),
            4 => self.world.report_usage(node),
            _ => self.succeed(node),
        }
    }

    /// The process of a gateway gives way to the next one.
    fn succeed(&mut self, node: usize) {
        let (gateway, config) = (self.endpoint(node), self.configs[node].clone());
        self.world.succeed(node, gateway, &[(PEER, config)]);
    }

    /// The vault of a gateway cannot be written while time passes and things happen; then its process dies, and the next one
    /// reads what is there.
    fn stale_vault(&mut self, node: usize) {
        self.world.nodes[node].vault_stuck = true;
        for _ in 0..self.world.rng.below(5) {
            let time = Duration::from_millis(u64::from(self.world.rng.below(8000)));
            self.pass(time);
            match self.world.rng.below(4) {
                0 => drop(self.world.act(1 - node, |endpoint, now| endpoint.rekey(now, PEER))),
                1 => drop(self.world.act(node, |endpoint, now| endpoint.rekey(now, PEER))),
                2 => drop(self.world.act(1 - node, |endpoint, now| endpoint.rekey_ike(now, PEER))),
                _ => {}
            }
            let time = Duration::from_millis(u64::from(self.world.rng.below(500)));
            self.pass(time);
        }
        self.rough = true;
        self.succeed(node);
    }

    /// The data plane of a gateway loses an SA for sending, or refused it.
    fn lose_outbound(&mut self, node: usize) {
        let spis: Vec<_> = self.world.nodes[node].data.outbound.iter().map(|keys| keys.spi).collect();
        if spis.is_empty() {
            return;
        }
        let spi = spis[self.world.rng.below(spis.len() as u32) as usize];
        self.world.nodes[node].data.drop_outbound(spi);
        self.world.act(node, |endpoint, now| endpoint.lost_outbound(now, PEER, spi));
    }

    /// Something that hurts.
    fn rough_event(&mut self) {
        self.rough = true;
        let node = self.world.rng.below(2) as usize;
        match self.world.rng.below(6) {
            0 => {
                self.world.cut = true;
                let seconds = u64::from(self.world.rng.below(60));
                self.world.run_for(Duration::from_secs(seconds));
                self.world.cut = false;
            }
            1 => self.restart(node, true),
            2 => {
                // The process is off for a while, and then has forgotten everything.
                self.world.nodes[node].on = false;
                let seconds = u64::from(self.world.rng.below(30));
                self.world.run_for(Duration::from_secs(seconds));
                self.world.nodes[node].on = true;
                self.restart(node, true);
            }
            3 => {
                drop(self.world.act(node, |endpoint, now| endpoint.disconnect(now, PEER)));
                self.pass(Duration::from_secs(1));
                drop(self.world.act(node, |endpoint, now| endpoint.connect(now, PEER)));
            }
            4 => self.world.act(node, |endpoint, now| endpoint.data_plane_restarted(now)),
            _ => {
                // Gateway A gets another address, and knows it.
                let last = 3 + self.world.rng.below(200);
                let address = format!("192.0.2.{last}:4500").parse().expect("an address");
                self.world.nodes[A].address = address;
                drop(self.world.act(A, |endpoint, now| endpoint.set_addresses(now, PEER, Some(address), None)));
                self.configs[A].local = Some(address);
                self.configs[B].remotes.clear();
                let config = self.configs[B].clone();
                let now = self.world.now();
                self.world.nodes[B].endpoint.set_peer(now, PEER, config).expect("a good configuration");
                // Only A can find B from now on.
                self.configs[A].initiate = true;
                drop(self.world.act(A, |endpoint, now| endpoint.connect(now, PEER)));
            }
        }
    }

    fn restart(&mut self, node: usize, data_plane_too: bool) {
        let gateway = self.endpoint(node);
        self.world.crash(node, gateway, data_plane_too);
        let config = self.configs[node].clone();
        self.world.set_peer(node, PEER, config);
    }

    /// Rekeys and successors, fewer than `most`, lose no packet once both ends have everything.
    fn lose_nothing(&mut self, seed: u64, most: u32) {
        // The answer that grants a lane may be lost: only when both ends have all of them is there nothing to be lost.
        let lanes = self.lanes();
        // The same goes for an attempt of the other end that is seen through though both are connected.
        self.world.run_until(Duration::from_secs(600), |world| {
            world.nodes.iter().all(|node| node.data.has_pairs(lanes) && node.endpoint.sizes().ike_sas == 1)
        });
        self.world.run_for(Duration::from_secs(1));
        [A, B].iter().for_each(|node| self.world.nodes[*node].data.lost.clear());
        for _ in 0..self.world.rng.below(most) {
            self.gentle_event();
            let time = Duration::from_millis(u64::from(self.world.rng.below(20_000)));
            self.pass(time);
        }
        if !self.died() {
            self.check_nothing_was_lost(seed);
        }
        self.check(seed);
    }

    /// Everything is as if nothing had happened.
    fn check(&mut self, seed: u64) {
        let lanes = self.lanes();
        self.check_that(seed, |world| {
            [A, B].iter().all(|node| {
                let (endpoint, data) = (&world.nodes[*node].endpoint, &world.nodes[*node].data);
                endpoint.sizes().inbound_spis == lanes && data.has_pairs(lanes)
            })
        });
    }

    /// Both are connected, nothing is left of what there was, and the SAs that there are to be are there.
    fn check_that(&mut self, seed: u64, has_all: impl Fn(&World) -> bool) {
        let world = &mut self.world;
        world.net = Net::GOOD;
        let agree = |world: &World| {
            let status = |node: usize| world.nodes[node].endpoint.status(PEER).expect("the peer");
            let (a, b) = (status(A), status(B));
            a.state.is_up() && b.state.is_up() && a.ike.len() == 1 && b.ike.len() == 1 && a.ike[0].spis == b.ike[0].spis
        };
        assert!(world.run_until(Duration::from_secs(600), agree), "seed {seed}: no agreement: {}", self.picture());
        self.world.run_for(Duration::from_secs(240));
        // A moment between two rekeys.
        let quiet =
            |world: &World| agree(world) && [A, B].iter().all(|node| world.ike(*node).children.iter().all(|one| !one.is_going));
        let complete = |world: &World| {
            let alone = |endpoint: &Endpoint| endpoint.sizes() == Sizes { ike_sas: 1, half_open: 0, ..endpoint.sizes() };
            quiet(world) && [A, B].iter().all(|node| alone(&world.nodes[*node].endpoint)) && has_all(world)
        };
        assert!(self.world.run_until(Duration::from_secs(600), complete), "seed {seed}: something is left: {}", self.picture());
        let spis = |world: &World, node: usize| {
            let mut spis: Vec<_> = world.ike(node).children.iter().map(|child| (child.inbound, child.outbound)).collect();
            spis.sort();
            spis
        };
        let mirrored: Vec<_> = spis(&self.world, B).into_iter().map(|(inbound, outbound)| (outbound, inbound)).collect();
        let mut mirrored = mirrored;
        mirrored.sort();
        assert_eq!(spis(&self.world, A), mirrored, "seed {seed}");
        self.world.check_traffic();
    }

    fn picture(&self) -> String {
        let node = |node: usize| {
            let (endpoint, data) = (&self.world.nodes[node].endpoint, &self.world.nodes[node].data);
            let status = endpoint.status(PEER).expect("the peer");
            format!("{node}: {status:#?}\n{:?}\n{} in, {} out", endpoint.sizes(), data.inbound.len(), data.outbound.len())
        };
        format!("after {:?}\n{}\n{}", self.world.elapsed(), node(A), node(B))
    }

    /// No packet met an SA that was not there, as long as nothing died.
    fn check_nothing_was_lost(&self, seed: u64) {
        for node in [A, B] {
            let lost = &self.world.nodes[node].data.lost;
            let spis: std::collections::BTreeSet<_> = lost.iter().collect();
            assert!(lost.is_empty(), "seed {seed}: gateway {node} lost {} packets of {spis:?}", lost.len());
        }
    }

    /// Whether an IKE SA ended in another way than by a successor.
    fn died(&self) -> bool {
        let ended =
            |event: &Event| matches!(event, Event::IkeDown { cause, .. } if !matches!(cause, Cause::Replaced | Cause::Redundant));
        self.world.nodes.iter().any(|node| node.events.iter().any(ended))
    }
}

#[test]
fn rekeys_and_successors_on_a_bad_network_lose_and_leave_nothing() {
    with_seeds((0, RUNS), FAILED_ONCE, |seed| {
        let mut run = Run::new(seed);
        run.world.trace = trace();
        run.lose_nothing(seed, 12);
    });
}

#[test]
fn several_child_sas_on_a_bad_network_lose_and_leave_nothing() {
    with_seeds((4_000_000, RUNS), &[], |seed| {
        let mut run = Run::with_networks(seed);
        run.world.trace = trace();
        run.lose_nothing(seed, 8);
    });
}

#[test]
fn several_child_sas_heal_after_crashes_cuts_and_hang_ups() {
    with_seeds((5_000_000, RUNS), &[], |seed| {
        let mut run = Run::with_networks(seed);
        run.world.trace = trace();
        for _ in 0..run.world.rng.below(6) {
            let time = Duration::from_millis(u64::from(run.world.rng.below(20_000)));
            run.pass(time);
            if run.world.rng.below(2) == 0 { run.rough_event() } else { run.gentle_event() }
        }
        run.check(seed);
    });
}

#[test]
fn new_authentications_on_a_bad_network_leave_nothing() {
    with_seeds((3_000_000, RUNS), &[], |seed| {
        let mut run = Run::new(seed);
        run.world.trace = trace();
        let lanes = run.lanes();
        run.world.run_until(Duration::from_secs(600), |world| {
            world.nodes.iter().all(|node| node.data.has_pairs(lanes) && node.endpoint.sizes().ike_sas == 1)
        });
        run.world.run_for(Duration::from_secs(1));
        for _ in 0..run.world.rng.below(8) {
            let node = run.world.rng.below(2) as usize;
            match run.world.rng.below(4) {
                0 => drop(run.world.act(node, |endpoint, now| endpoint.reauthenticate(now, PEER))),
                1 => {
                    [A, B]
                        .into_iter()
                        .for_each(|node| drop(run.world.act(node, |endpoint, now| endpoint.reauthenticate(now, PEER))));
                }
                _ => run.gentle_event(),
            }
            let time = Duration::from_millis(u64::from(run.world.rng.below(20_000)));
            run.pass(time);
        }
        run.check(seed);
    });
}

#[test]
fn crashes_cuts_moves_and_hang_ups_heal() {
    with_seeds((1_000_000, RUNS), FAILED_ONCE_ROUGH, |seed| {
        let mut run = Run::new(seed);
        run.world.trace = trace();
        for _ in 0..run.world.rng.below(8) {
            let time = Duration::from_millis(u64::from(run.world.rng.below(20_000)));
            run.pass(time);
            if run.world.rng.below(2) == 0 { run.rough_event() } else { run.gentle_event() }
        }
        run.check(seed);
    });
}

#[test]
fn old_vaults_and_lost_sas_repeat_no_nonce_and_heal() {
    with_seeds((2_000_000, RUNS), FAILED_ONCE_STALE, |seed| {
        let mut run = Run::new(seed);
        run.world.trace = trace();
        for _ in 0..run.world.rng.below(6) {
            let time = Duration::from_millis(u64::from(run.world.rng.below(20_000)));
            run.pass(time);
            let node = run.world.rng.below(2) as usize;
            match run.world.rng.below(4) {
                0 => run.stale_vault(node),
                1 => run.lose_outbound(node),
                2 => run.rough_event(),
                _ => run.gentle_event(),
            }
        }
        run.check(seed);
    });
}
