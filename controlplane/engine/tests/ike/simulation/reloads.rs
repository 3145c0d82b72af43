//! Reloads: what is configured changes while both gateways run, at one end after the other, and other things happen meanwhile. In the end
//! everything that is configured is connected and carries, nothing else is left, and what no reload has touched has lost no packet.

use std::collections::BTreeSet;
use std::time::Duration;

use adit_engine::ike::{ChildKeys, PeerId};
use adit_proto::control::Spi;

use super::*;

const NETWORKS_MAX: u32 = 4;
/// Runs of each kind but the first.
const FEW: u64 = RUNS / 3;

/// Two gateways whose operators are at work.
struct Reloads {
    run: Run,
    /// The end with a child for each network.
    split: usize,
    networks: usize,
    /// Networks that have come or gone.
    touched: BTreeSet<usize>,
    /// How often the key has changed.
    keys: u32,
}

impl Reloads {
    fn new(seed: u64) -> Reloads {
        let mut run = Run::with_networks(seed);
        run.world.trace = trace();
        let split = if run.configs[A].children.len() > 1 { A } else { B };
        let networks = run.configs[split].children.len();
        Reloads { run, split, networks, touched: BTreeSet::new(), keys: 0 }
    }

    /// Waits until there is nothing that could be lost for another reason.
    fn settle(&mut self) {
        let lanes = self.run.lanes();
        self.run.world.run_until(Duration::from_secs(600), |world| {
            world.nodes.iter().all(|node| node.data.has_pairs(lanes) && node.endpoint.sizes().ike_sas == 1)
        });
        self.run.world.run_for(Duration::from_secs(1));
        [A, B].iter().for_each(|node| self.run.world.nodes[*node].data.lost.clear());
    }

    fn below(&mut self, bound: u32) -> u32 {
        self.run.world.rng.below(bound)
    }

    fn pass(&mut self, most_ms: u32) {
        let time = Duration::from_millis(u64::from(self.below(most_ms)));
        self.run.pass(time);
    }

    /// Both operators reload, one after the other, in any order.
    fn reload(&mut self, renewed: bool) {
        let first = self.below(2) as usize;
        for node in [first, 1 - first] {
            let config = self.run.configs[node].clone();
            let set = if renewed { Endpoint::renew_peer } else { Endpoint::set_peer };
            self.run.world.act(node, |endpoint, now| {
                set(endpoint, now, PEER, config).expect("a good configuration");
                endpoint.start(now);
            });
            self.pass(10_000);
        }
    }

    /// A change that ends nothing but what it takes out.
    fn gentle_change(&mut self) {
        match self.below(5) {
            // The file is read again and says the same.
            0 => {}
            1 => self.change_networks(),
            2 => {
                let proposals = [vec![classic()], vec![hybrid()], vec![hybrid(), classic()]];
                let proposals = proposals[self.below(3) as usize].clone();
                self.run.configs.iter_mut().for_each(|config| config.proposals = proposals.clone());
            }
            3 => {
                let proposal = [esp(), esp_pfs(), esp_hybrid()][self.below(3) as usize].clone();
                let children = self.run.configs.iter_mut().flat_map(|config| &mut config.children);
                children.for_each(|child| child.proposals = vec![proposal.clone()]);
            }
            _ => {
                let (dpd, after) = (5 + u64::from(self.below(30)), 60 + u64::from(self.below(200)));
                for config in &mut self.run.configs {
                    config.dpd = Duration::from_secs(dpd);
                    config.ike_lifetime.rekey_after = Duration::from_secs(after);
                }
            }
        }
        self.reload(false);
    }

    /// The last network goes, or another one comes.
    fn change_networks(&mut self) {
        let more = self.networks == 1 || (self.networks < NETWORKS_MAX as usize && self.below(2) == 0);
        let networks = if more { self.networks + 1 } else { self.networks - 1 };
        self.touched.insert(networks.max(self.networks));
        self.networks = networks;
        for node in [A, B] {
            let child = self.run.configs[node].children[0].clone();
            self.run.configs[node].children = children_between(node, self.split, self.networks, &child);
        }
    }

    /// Both ends get another key.
    fn change_key(&mut self, renewed: bool) {
        self.keys += 1;
        for config in &mut self.run.configs {
            (config.local_auth, config.remote_auth) = psk(&format!("{SECRET}, number {}", self.keys));
        }
        self.reload(renewed);
    }

    /// One end takes the peer out, and in again.
    fn remove_and_add(&mut self) {
        let node = self.below(2) as usize;
        self.run.world.act(node, |endpoint, now| endpoint.remove_peer(now, PEER)).expect("it is configured");
        let seconds = u64::from(self.below(10));
        self.run.world.run_for(Duration::from_secs(seconds));
        let config = self.run.configs[node].clone();
        self.run.world.set_peer(node, PEER, config);
    }

    /// What was lost is of networks that came or went.
    fn check_nothing_else_was_lost(&self, seed: u64) {
        for node in [A, B] {
            let lost: BTreeSet<Spi> = self.run.world.nodes[node].data.lost.iter().copied().collect();
            let untouched: Vec<Spi> = lost.into_iter().filter(|spi| !self.was_touched(node, *spi)).collect();
            assert!(untouched.is_empty(), "seed {seed}: gateway {node} lost packets of {untouched:?}");
        }
    }

    /// Whether an SA was for nothing but networks that came or went.
    fn was_touched(&self, node: usize, spi: Spi) -> bool {
        let installed = self.run.world.nodes[node].events.iter().rev().find_map(|event| match event {
            Event::InstallInbound(keys) if keys.spi == spi => Some(keys),
            _ => None,
        });
        let keys: &ChildKeys = installed.expect("it was installed");
        let number = |selector: &adit_proto::ike::IpSelector| match selector.addresses.first() {
            std::net::IpAddr::V4(address) => usize::from(address.octets()[2]),
            std::net::IpAddr::V6(_) => usize::MAX,
        };
        keys.selectors.local.iter().all(|selector| self.touched.contains(&number(selector)))
    }
}

#[test]
fn reloads_lose_nothing_of_what_they_do_not_touch_and_leave_nothing() {
    with_seeds((8_000_000, RUNS), &[], |seed| {
        let mut reloads = Reloads::new(seed);
        reloads.settle();
        for _ in 0..reloads.below(8) {
            match reloads.below(3) {
                0 => reloads.run.gentle_event(),
                _ => reloads.gentle_change(),
            }
            reloads.pass(20_000);
        }
        if !reloads.run.died() {
            reloads.check_nothing_else_was_lost(seed);
        }
        reloads.run.check(seed);
    });
}

#[test]
fn renewed_keys_lose_nothing_and_leave_nothing() {
    with_seeds((9_000_000, FEW), &[], |seed| {
        let mut reloads = Reloads::new(seed);
        // Beside what there is all lanes are made anew, and sent on before a late answer brings them to the other end.
        reloads.run.world.net = Net::GOOD;
        reloads.settle();
        for _ in 0..1 + reloads.below(3) {
            reloads.change_key(true);
            reloads.pass(60_000);
        }
        if !reloads.run.died() {
            reloads.check_nothing_else_was_lost(seed);
        }
        reloads.run.check(seed);
    });
}

#[test]
fn other_keys_and_peers_taken_out_and_in_heal_on_a_bad_network() {
    with_seeds((10_000_000, FEW), &[], |seed| {
        let mut reloads = Reloads::new(seed);
        for _ in 0..reloads.below(6) {
            reloads.pass(20_000);
            match reloads.below(5) {
                0 => reloads.change_key(false),
                1 => reloads.remove_and_add(),
                2 => reloads.run.rough_event(),
                3 => reloads.run.gentle_event(),
                _ => reloads.gentle_change(),
            }
        }
        reloads.run.check(seed);
    });
}

/// The third gateway, and what it is to A.
const C: usize = 2;
const BYSTANDER: PeerId = PeerId(8);

/// As A and C see each other.
fn beside(node: usize) -> PeerConfig {
    let (name, address) = ("c.example.org", "192.0.2.3:4500");
    match node {
        A => {
            let remotes = vec![address.parse().expect("an address")];
            PeerConfig { name: name.into(), remote_id: name.parse().expect("an identity"), remotes, ..peer(A) }
        }
        _ => {
            let local = Some(address.parse().expect("an address"));
            PeerConfig { local, local_id: name.parse().expect("an identity"), initiate: false, ..peer(B) }
        }
    }
}

#[test]
fn what_is_reloaded_of_one_peer_costs_another_one_nothing() {
    with_seeds((12_000_000, FEW), &[], |seed| {
        let mut reloads = Reloads::new(seed);
        let world = &mut reloads.run.world;
        assert_eq!(world.add("192.0.2.3:4500", endpoint(C)), C);
        world.set_peer(C, PEER, beside(C));
        world.set_peer(A, BYSTANDER, beside(A));
        let is_there = |world: &World| world.is_up(A, BYSTANDER) && world.nodes[C].data.has_pairs(1);
        assert!(world.run_until(Duration::from_secs(600), is_there), "seed {seed}");
        world.run_for(Duration::from_secs(5));
        world.nodes.iter_mut().for_each(|node| node.data.lost.clear());
        let of_bystander = |world: &World| -> BTreeSet<Spi> {
            let inbound = world.nodes[A].data.inbound.values().filter(|keys| keys.peer == BYSTANDER);
            inbound.map(|keys| keys.spi).collect()
        };
        let before = of_bystander(world);
        for _ in 0..reloads.below(6) {
            match reloads.below(4) {
                0 => reloads.change_key(false),
                1 => reloads.remove_and_add(),
                2 => reloads.change_key(true),
                _ => reloads.gentle_change(),
            }
            reloads.run.world.send_esp(C);
            reloads.pass(20_000);
        }
        let world = &reloads.run.world;
        assert_eq!(of_bystander(world), before, "seed {seed}");
        assert!(world.nodes[C].data.lost.is_empty(), "seed {seed}");
        assert!(world.nodes[A].data.lost.iter().all(|spi| !before.contains(spi)), "seed {seed}");
        assert!(is_there(world), "seed {seed}");
    });
}
