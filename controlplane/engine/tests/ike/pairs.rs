//! Selectors that make more pairs than a peer may have, in every exchange that makes a Child SA and at both of its ends: there is
//! none, the other end learns of it, and nothing is left of it.

use std::net::{Ipv6Addr, SocketAddr};
use std::time::Duration;

use adit_engine::ike::{Cause, ChildConfig, Error, Event, Incompatibility, PeerConfig, Share};
use adit_proto::ike::{AddressRange, ExchangeType, IpSelector, NotifyType};

use super::shares::{GATEWAY, gateway, honest_goes_on, inbound_of};
use adit_sim::*;

/// The other peer of the gateway.
const OTHER: usize = 2;

#[derive(Clone, Copy, Debug)]
enum Family {
    V4,
    V6,
}

fn networks(family: Family, site: u8, count: u8) -> Vec<IpSelector> {
    let network = |number: u8| match family {
        Family::V4 => net(&format!("10.{site}.{number}.0/24")),
        Family::V6 => {
            let first = Ipv6Addr::new(0xfd00, site.into(), number.into(), 0, 0, 0, 0, 0);
            let last = Ipv6Addr::from_bits(first.to_bits() | u128::MAX >> 48);
            IpSelector::any_of(AddressRange::V6 { first, last })
        }
    };
    (0..count).map(network).collect()
}

/// A Child SA between so many networks on both sides, as it is made.
#[derive(Clone, Copy, Debug)]
struct Case {
    family: Family,
    count: u8,
    /// Whether they make no more pairs than the other peer may have at the gateway.
    fits: bool,
    /// Who begins the IKE SA, and asks for it.
    begins: usize,
    /// With the IKE SA, or in CREATE_CHILD_SA after one that is small.
    exchange: ExchangeType,
}

impl Case {
    /// 400 pairs, which fit, and 900.
    fn all(begins: usize, exchange: ExchangeType) -> Vec<Case> {
        let of = |family| [(20, true), (30, false)].map(|(count, fits)| Case { family, count, fits, begins, exchange });
        [of(Family::V4), of(Family::V6)].concat()
    }

    fn is_first(&self) -> bool {
        self.exchange == ExchangeType::IKE_AUTH
    }

    /// Child SAs that there are in the end.
    fn made(&self) -> usize {
        usize::from(!self.is_first()) + usize::from(self.fits)
    }

    fn children(&self, node: usize) -> Vec<ChildConfig> {
        let [ours, theirs] = [5, 4].map(|site| networks(self.family, site, self.count));
        let (local, remote) = if node == GATEWAY { (ours, theirs) } else { (theirs, ours) };
        let small = tunnel(if node == GATEWAY { B } else { A });
        let large = ChildConfig { name: "many".into(), local, remote, ..small.clone() };
        if self.is_first() { vec![large] } else { vec![small, large] }
    }

    /// A gateway with an honest peer, and the other one, which would have it all, two seconds after one of these has begun.
    fn world(&self) -> World {
        let at: SocketAddr = "198.51.100.1:4500".parse().expect("an address");
        let mut world = gateway(4, |config| (config.remotes, config.children) = (vec![at], self.children(GATEWAY)));
        assert_eq!(world.add(&at.to_string(), endpoint_config(7)), OTHER);
        let (children, share) = (self.children(OTHER), Share { selectors: 4096, ..Share::default() });
        world.set_peer(OTHER, PEER, PeerConfig { initiate: false, local: Some(at), children, share, ..peer(A) });
        world.act(self.begins, |endpoint, now| endpoint.connect(now, PEER)).expect("it has an address");
        world.run_for(Duration::from_secs(2));
        world
    }

    /// What there is, and nothing else: in the data planes, and of SPIs.
    fn check_nothing_is_left(&self, world: &World) {
        assert!([GATEWAY, OTHER].iter().all(|node| world.is_up(*node, PEER)), "{self:?}: the IKE SA stays");
        let outbound = world.nodes[GATEWAY].data.outbound.iter().filter(|keys| keys.peer == PEER).count();
        assert_eq!((inbound_of(world, PEER), outbound), (self.made(), self.made()), "{self:?}");
        assert!(world.nodes[OTHER].data.has_pairs(self.made()), "{self:?}");
        let spis = [GATEWAY, OTHER].map(|node| world.nodes[node].endpoint.sizes().inbound_spis);
        assert_eq!(spis, [1 + self.made(), self.made()], "{self:?}: with the one of the honest peer");
        let installed = |event: &&Event| matches!(event, Event::InstallInbound(keys) if keys.peer == PEER);
        let installed = world.nodes[GATEWAY].events.iter().filter(installed).count();
        assert_eq!(installed, self.made(), "{self:?}: it was never there");
    }

    /// Two seconds after the beginning: what the gateway says of it.
    fn check_cause(&self, world: &World) {
        let too_many = Cause::Failed(Error::Incompatible(Incompatibility::TooManySelectors));
        let expected: Vec<Cause> = (!self.fits).then(|| too_many.clone()).into_iter().collect();
        assert_eq!(failures(world, GATEWAY), expected, "{self:?}");
        let explained = world.nodes[GATEWAY].endpoint.explain(PEER, world.now).expect("the peer");
        let problem = explained.record.problem.map(|problem| problem.cause);
        // With an SA for the traffic, one more that is refused is no reason why nothing comes through.
        assert_eq!(problem, (self.is_first() && !self.fits).then(|| too_many.clone()), "{self:?}");
        if self.begins == GATEWAY {
            let status = world.nodes[GATEWAY].endpoint.status(PEER).expect("the peer");
            let missing: Vec<_> = status.ike[0].missing.iter().filter_map(|one| one.cause.clone()).collect();
            assert_eq!(missing, expected, "{self:?}");
        }
    }
}

/// Why Child SAs with the other peer came to nothing, as one end says.
fn failures(world: &World, node: usize) -> Vec<Cause> {
    let failed = |event: &Event| match event {
        Event::ChildFailed { peer: PEER, cause, .. } => Some(cause.clone()),
        _ => None,
    };
    world.nodes[node].events.iter().filter_map(failed).collect()
}

/// Everything of one case; `told`: what the other peer hears.
fn run(case: Case, told: impl FnOnce(&World)) {
    let mut world = case.world();
    case.check_cause(&world);
    case.check_nothing_is_left(&world);
    told(&world);
    // By then whoever asked for it has asked again.
    world.run_for(Duration::from_secs(4));
    assert_eq!(failures(&world, GATEWAY).len(), if case.fits { 0 } else { 2 }, "{case:?}");
    case.check_nothing_is_left(&world);
    honest_goes_on(&mut world);
}

/// The gateway has asked: the other end has granted it, and is told to delete it again.
fn was_deleted(case: Case) -> impl FnOnce(&World) {
    move |world: &World| {
        let removed = |event: &&Event| matches!(event, Event::RemoveInbound { .. });
        let removed = world.nodes[OTHER].events.iter().filter(removed).count();
        assert_eq!((removed, failures(world, OTHER)), (usize::from(!case.fits), vec![]), "{case:?}");
    }
}

/// The other end has asked: it is refused.
fn was_refused(case: Case) -> impl FnOnce(&World) {
    move |world: &World| {
        let refused = Cause::Refused { exchange: case.exchange, notify: NotifyType::TS_UNACCEPTABLE };
        let expected: Vec<Cause> = (!case.fits).then_some(refused).into_iter().collect();
        assert_eq!(failures(world, OTHER), expected, "{case:?}");
    }
}

#[test]
fn too_many_pairs_in_the_answer_to_our_ike_auth_are_deleted() {
    Case::all(GATEWAY, ExchangeType::IKE_AUTH).into_iter().for_each(|case| run(case, was_deleted(case)));
}

#[test]
fn too_many_pairs_in_the_answer_to_our_create_child_sa_are_deleted() {
    Case::all(GATEWAY, ExchangeType::CREATE_CHILD_SA).into_iter().for_each(|case| run(case, was_deleted(case)));
}

#[test]
fn too_many_pairs_are_refused_in_our_answer_to_ike_auth() {
    Case::all(OTHER, ExchangeType::IKE_AUTH).into_iter().for_each(|case| run(case, was_refused(case)));
}

#[test]
fn too_many_pairs_are_refused_in_our_answer_to_create_child_sa() {
    Case::all(OTHER, ExchangeType::CREATE_CHILD_SA).into_iter().for_each(|case| run(case, was_refused(case)));
}
