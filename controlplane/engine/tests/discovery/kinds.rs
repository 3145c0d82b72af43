//! Every kind of NAT of the simulator is known for what it is, in under two seconds.

use std::time::Duration;

use adit_engine::stun::discovery::{Allocation, Class, DEADLINE, Filtering, Mapping, Udp};
use adit_sim::nat::{self, Behaviour, NatConfig};

use super::world::{OUTSIDE, World};

pub const BEHAVIOURS: [Behaviour; 3] =
    [Behaviour::EndpointIndependent, Behaviour::AddressDependent, Behaviour::AddressAndPortDependent];
pub const ALLOCATIONS: [nat::Allocation; 8] = [
    nat::Allocation::Preserving,
    nat::Allocation::Step(1),
    nat::Allocation::Step(-1),
    nat::Allocation::Step(2),
    nat::Allocation::Step(-2),
    nat::Allocation::Step(4),
    nat::Allocation::Step(-10),
    nat::Allocation::Random,
];
/// After how much rest a mapping is forgotten, and at which age.
pub const LIFETIMES: [(Option<u64>, Option<u64>); 4] = [(None, None), (Some(30), None), (Some(300), Some(600)), (None, Some(20))];

pub fn mapping(of: Behaviour) -> Mapping {
    match of {
        Behaviour::EndpointIndependent => Mapping::EndpointIndependent,
        Behaviour::AddressDependent => Mapping::AddressDependent,
        Behaviour::AddressAndPortDependent => Mapping::AddressAndPortDependent,
    }
}

pub fn filtering(of: Behaviour) -> Filtering {
    match of {
        Behaviour::EndpointIndependent => Filtering::EndpointIndependent,
        Behaviour::AddressDependent => Filtering::AddressDependent,
        Behaviour::AddressAndPortDependent => Filtering::AddressAndPortDependent,
    }
}

pub fn allocation(of: nat::Allocation) -> Allocation {
    match of {
        nat::Allocation::Preserving => Allocation::Preserving,
        nat::Allocation::Step(step) => Allocation::Step(step.into()),
        nat::Allocation::Random => Allocation::Random,
    }
}

/// Every kind of NAT that there is.
pub fn all() -> Vec<NatConfig> {
    let mut list = Vec::new();
    for (mapping, filtering) in BEHAVIOURS.iter().flat_map(|mapping| BEHAVIOURS.map(|filtering| (*mapping, filtering))) {
        for allocation in ALLOCATIONS {
            for (hairpin, (idle, lifetime)) in [false, true].into_iter().flat_map(|hairpin| LIFETIMES.map(|life| (hairpin, life)))
            {
                list.push(NatConfig {
                    mapping,
                    filtering,
                    allocation,
                    hairpin,
                    idle: idle.map(Duration::from_secs),
                    lifetime: lifetime.map(Duration::from_secs),
                    ..NatConfig::usual(OUTSIDE.into())
                });
            }
        }
    }
    list
}

#[test]
fn every_kind_of_nat_is_known_for_what_it_is() {
    let kinds = all();
    assert_eq!(kinds.len(), 3 * 3 * 8 * 2 * 4);
    for (seed, config) in kinds.into_iter().enumerate() {
        let mut world = World::new(config.clone(), seed as u64);
        let report = world.search();
        let found = (report.mapping, report.filtering, report.allocation);
        let truth = (mapping(config.mapping), filtering(config.filtering), Some(allocation(config.allocation)));
        assert_eq!(found, truth, "{config:?}");
        // Where the filter sees another mapping than that which was sent from, nothing can be told.
        let told = report.mapping == Mapping::EndpointIndependent || report.filtering == Filtering::EndpointIndependent;
        assert_eq!(report.hairpin, told.then_some(config.hairpin), "{config:?}");
        assert_eq!((report.udp, report.lost, report.gaps.as_slice()), (Udp::Passes, 0, &[][..]), "{config:?}");
        assert!(report.took <= DEADLINE && report.public[0].ip() == config.outside, "{report:?}");
    }
}

#[test]
fn the_names_that_people_know_are_those_of_rfc_3489() {
    let named = |mapping, filtering| {
        let config = NatConfig { mapping, filtering, ..NatConfig::usual(OUTSIDE.into()) };
        (World::new(config.clone(), 1).search().class(), World::without_nat(config, 1).search().class())
    };
    let [ei, ad, apd] = BEHAVIOURS;
    assert_eq!(named(ei, ei), (Class::FullCone, Class::Open));
    assert_eq!(named(ei, ad), (Class::RestrictedCone, Class::Firewall));
    assert_eq!(named(ei, apd), (Class::PortRestrictedCone, Class::Firewall));
    for filtering in BEHAVIOURS {
        assert_eq!((named(ad, filtering).0, named(apd, filtering).0), (Class::Symmetric, Class::Symmetric));
    }
}

#[test]
fn without_a_nat_there_are_no_ports_and_no_hairpin_to_ask_for() {
    for filtering_of in BEHAVIOURS {
        let config = NatConfig { filtering: filtering_of, ..NatConfig::usual(OUTSIDE.into()) };
        let report = World::without_nat(config, 3).search();
        assert_eq!((report.mapping, report.filtering), (Mapping::NoNat, filtering(filtering_of)));
        assert_eq!((report.allocation, report.hairpin), (None, None));
        assert_eq!(report.public, [report.local]);
    }
}

#[test]
fn long_ways_are_given_their_time() {
    for delay in [1, 50, 150, 250] {
        let mut world = World::new(NatConfig::symmetric(OUTSIDE.into()), delay);
        world.delay = Duration::from_millis(delay);
        let report = world.search();
        assert_eq!(report.class(), Class::Symmetric, "{report:?}");
        assert!(report.took <= DEADLINE, "{:?}", report.took);
        assert_eq!(report.servers[0].rtt, Some(2 * world.delay));
    }
}
