//! Links with an MTU, and gateways that share a NAT.

use std::time::Duration;

use adit_sim::*;

#[test]
fn a_link_swallows_what_is_longer_and_says_so_if_it_does() {
    for says_so in [true, false] {
        let mut world = pair(1, |_, config| config.proposals = vec![hybrid()]);
        world.nodes[B].mtu = Some(LinkMtu { bytes: 300, says_so });
        world.run_for(Duration::from_secs(20));
        assert!(!world.is_up(A, PEER), "IKE_SA_INIT does not fit 300 bytes");
        assert_eq!(!world.too_big.is_empty(), says_so);
        assert!(world.too_big.iter().all(|one| one.len > 300 && one.mtu == 300), "{:?}", world.too_big);
        // It is the link of B, and A whose requests do not pass it.
        let to = world.nodes[B].address;
        assert!(world.too_big.iter().all(|one| (one.node, one.to) == (A, to)), "{:?}", world.too_big);
        world.nodes[B].mtu = Some(LinkMtu { bytes: 1500, says_so });
        let before = world.too_big.len();
        world.connect_pair();
        world.check_traffic();
        assert_eq!(world.too_big.len(), before);
    }
}

#[test]
fn two_gateways_behind_one_nat_meet_where_it_has_a_hairpin() {
    for hairpin in [true, false] {
        let mut world = World::new(2);
        let nat = NatConfig { hairpin, ..NatConfig::counting([198, 51, 100, 1].into(), 40_000) };
        let nat = world.add_nat(nat);
        for (node, address) in [(A, "10.0.0.1:4500"), (B, "10.0.0.2:4500")] {
            world.add(address, endpoint_config(node as u8 + 1));
            world.nodes[node].nat = Some(nat);
        }
        for node in [B, A] {
            let local = world.nodes[node].address;
            let mut config = peer(node);
            // B's mapping is the first, for it sends first.
            config.remotes = vec![([198, 51, 100, 1], if node == A { 40_000 } else { 40_001 }).into()];
            (config.local, config.initiate) = (Some(local), true);
            world.set_peer(node, PEER, config);
        }
        let up = world.run_until(Duration::from_secs(60), |world| world.is_up(A, PEER) && world.is_up(B, PEER));
        assert_eq!(up, hairpin);
    }
}
