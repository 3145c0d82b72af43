//! What is recommended works: two hosts behind NATs of every pair of kinds send to each other as the advice says.

use std::net::SocketAddr;

use adit_engine::stun::discovery::{Allocation, Filtering, Mapping, Method, Peer, Report, advice};
use adit_sim::nat::{self, Behaviour, Nat, NatConfig};
use adit_sim::rng::Rng;

use super::kinds::BEHAVIOURS;
use super::world::{FIRST, World, address, start};

const ROUNDS: usize = 5;

/// One end, with where it thinks that the other one is.
struct End {
    nat: Nat,
    inside: SocketAddr,
    other: SocketAddr,
    reached: bool,
}

impl End {
    /// Seen by a server.
    fn new(config: &NatConfig, rng: &mut Rng) -> (End, SocketAddr) {
        let mut nat = Nat::new(config.clone());
        let inside: SocketAddr = ([10, 0, 0, 2], 41_000).into();
        let seen = nat.outbound(start(), inside, address(FIRST), rng).unwrap();
        (End { nat, inside, other: seen, reached: false }, seen)
    }
}

/// One packet; who receives one answers to where it came from.
fn send(from: &mut End, to: &mut End, rng: &mut Rng) {
    let Some(source) = from.nat.outbound(start(), from.inside, from.other, rng) else { return };
    if from.other.ip() == to.nat.config.outside && to.nat.inbound(start(), source, from.other.port()) == Some(to.inside) {
        to.reached = true;
        to.other = source;
    }
}

/// Whether two ends meet that each know only where a server sees the other, and send in turns.
fn meet(one: &NatConfig, other: &NatConfig, seed: u64) -> bool {
    let mut rng = Rng::new(seed);
    let ((mut one, one_seen), (mut other, other_seen)) = (End::new(one, &mut rng), End::new(other, &mut rng));
    (one.other, other.other) = (other_seen, one_seen);
    for _ in 0..ROUNDS {
        send(&mut one, &mut other, &mut rng);
        send(&mut other, &mut one, &mut rng);
    }
    one.reached && other.reached
}

fn kinds(outside: [u8; 4]) -> Vec<NatConfig> {
    let pairs = BEHAVIOURS.iter().flat_map(|mapping| BEHAVIOURS.map(|filtering| (*mapping, filtering)));
    let config = |(mapping, filtering)| NatConfig {
        mapping,
        filtering,
        allocation: nat::Allocation::Random,
        ..NatConfig::usual(outside.into())
    };
    pairs.map(config).collect()
}

fn peer(report: &Report) -> Peer {
    match (report.mapping, report.filtering) {
        (Mapping::EndpointIndependent, Filtering::EndpointIndependent) => Peer::Open,
        (Mapping::EndpointIndependent, Filtering::AddressDependent) => Peer::Restricted,
        (Mapping::EndpointIndependent, _) => Peer::PortRestricted,
        _ => Peer::Symmetric,
    }
}

#[test]
fn what_is_recommended_between_two_nats_works() {
    let (ours, theirs) = (kinds([203, 0, 113, 9]), kinds([192, 0, 2, 7]));
    let mut met = 0;
    for (seed, (one, other)) in ours.iter().flat_map(|one| theirs.iter().map(move |other| (one, other))).enumerate() {
        let seed = seed as u64;
        let (report, of_other) = (World::new(one.clone(), seed).search(), World::new(other.clone(), seed).search());
        let kind = peer(&of_other);
        let advice = advice(&report);
        let method = advice.towards.iter().find(|(peer, _)| *peer == kind).map(|(_, method)| *method).unwrap();
        let works = matches!(method, Method::Direct | Method::Simultaneous);
        let tried = meet(one, other, seed);
        // Towards a symmetric peer whose filter is an open one there may be more than its name promises.
        let promised = kind != Peer::Symmetric || other.filtering == Behaviour::AddressAndPortDependent;
        assert!(!works || tried, "{method:?} does not work: {one:?} towards {other:?}");
        assert!(works || !tried || !promised, "{method:?} is not needed: {one:?} towards {other:?}");
        assert!(advice.methods.contains(&method) && advice.methods.ends_with(&[Method::Tcp, Method::Relay]));
        met += u32::from(tried);
    }
    assert!((30..81).contains(&met), "{met} of 81 pairs have met");
}

/// The rule of the ports is worth something: the next one is where the next packet comes from.
#[test]
fn a_step_predicts_the_next_port() {
    for step in [1, -1, 2, -10] {
        let config = NatConfig { allocation: nat::Allocation::Step(step), ..NatConfig::symmetric([203, 0, 113, 9].into()) };
        let mut world = World::new(config, 4);
        let report = world.search();
        let Some(Allocation::Step(found)) = report.allocation else { panic!("{report:?}") };
        let (socket, now) = (world.sockets()[0], world.now);
        let mut next = |host: u8| world.nat.outbound(now, socket, ([192, 0, 2, host], 4500).into(), &mut world.rng).unwrap();
        let (last, next) = (next(1), next(2));
        assert_eq!(i32::from(next.port()) - i32::from(last.port()), found);
    }
}
