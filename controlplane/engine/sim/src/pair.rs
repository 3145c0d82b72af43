//! Two gateways that are each other's only peer, and what most tests ask of them.

use std::time::Duration;

use adit_engine::ike::{EndpointConfig, IkeStatus, PeerConfig};

use crate::config::{A, B, PEER, endpoint_config, peer};
use crate::load::describe;
use crate::world::World;

/// Two gateways, each other's only peer, changed by `change` before they learn of each other. The first one connects.
pub fn pair(seed: u64, change: impl Fn(usize, &mut PeerConfig)) -> World {
    pair_with(seed, |node| endpoint_config(node as u8 + 1), change)
}

/// [`pair`] with changed gateways.
pub fn pair_with(seed: u64, config: impl Fn(usize) -> EndpointConfig, change: impl Fn(usize, &mut PeerConfig)) -> World {
    let mut world = World::new(seed);
    for node in [A, B] {
        let address = peer(node).local.expect("an address").to_string();
        world.add(&address, config(node));
    }
    for node in [B, A] {
        let mut config = peer(node);
        change(node, &mut config);
        world.set_peer(node, PEER, config);
    }
    world
}

impl World {
    /// Waits until both gateways of a pair are connected, and a little more for what comes after.
    pub fn connect_pair(&mut self) {
        let up = self.run_until(Duration::from_secs(120), |world| world.is_up(A, PEER) && world.is_up(B, PEER));
        let states = [A, B].map(|node| self.nodes[node].endpoint.status(PEER).map(|status| (status.state, status.cause)));
        assert!(up, "not connected: {states:?}");
        self.run_for(Duration::from_secs(1));
    }

    /// Waits until a gateway that has lost everything is connected again, and the other one to it.
    pub fn connect_pair_again(&mut self, lost: usize) {
        let other = 1 - lost;
        let same = |world: &World| {
            let spis = |node: usize| world.nodes[node].endpoint.status(PEER).and_then(|status| Some(status.ike.first()?.spis));
            spis(lost).is_some() && spis(lost) == spis(other)
        };
        assert!(self.run_until(Duration::from_secs(120), same), "not connected again");
        self.run_for(Duration::from_secs(1));
    }

    /// Packets go through on every lane in both directions.
    pub fn check_traffic(&mut self) {
        self.run_for(Duration::from_secs(1));
        for (from, to) in [(A, B), (B, A)] {
            let (before, lanes) = (self.nodes[to].data.opened, self.nodes[from].data.active().len() as u64);
            assert!(lanes > 0, "gateway {from} has nothing to send with");
            self.send_esp(from);
            self.run_for(Duration::from_secs(1));
            assert_eq!(
                self.nodes[to].data.opened - before,
                lanes,
                "of {lanes} packets from {from}: {:?}",
                self.nodes[to].data.lost
            );
        }
    }

    /// The data plane has counted.
    pub fn report_usage(&mut self, node: usize) {
        let usage = self.nodes[node].data.usage.clone();
        self.act(node, |endpoint, now| endpoint.handle_usage(now, &usage));
    }

    /// The only IKE SA of a gateway.
    pub fn ike(&self, node: usize) -> IkeStatus {
        let mut status = self.nodes[node].endpoint.status(PEER).expect("the peer");
        assert_eq!(status.ike.len(), 1, "{:?}", status.ike);
        status.ike.remove(0)
    }

    /// Kinds and ids of the messages that were sent, each as `IKE_AUTH request 1`.
    pub fn messages(&self) -> Vec<String> {
        self.log
            .iter()
            .map(|(_, _, payload)| describe(payload))
            .map(|text| text.split(" (").next().unwrap_or("").to_owned())
            .collect()
    }
}
