//! Where packets are lost, less is known, and what is said is true.

use std::cell::Cell;
use std::time::Duration;

use adit_engine::stun::discovery::{Allocation, DEADLINE, Filtering, Mapping, Report};
use adit_sim::nat::{self, NatConfig};
use adit_sim::rng::Rng;

use super::kinds::{self, all};
use super::seeds::{FailedOnce, with_seeds};
use super::world::{ELSEWHERE, Manner, World, address};

const FIRST_SEED: u64 = 31_000_000;
const RUNS: u64 = 3000;

/// Two servers, of which one names an address and port of the other as its second ones: asked twice, it was taken for two ports.
const FAILED_ONCE: FailedOnce = &[("one port of a server counted as two", &[31_045_927, 31_052_335, 31_059_655])];

/// How many runs there were, and what was not found out in them.
#[derive(Default)]
struct Tally {
    runs: Cell<u32>,
    mapping_unknown: Cell<u32>,
    filtering_unknown: Cell<u32>,
    too_strict: Cell<u32>,
}

fn count(cell: &Cell<u32>, if_so: bool) {
    cell.set(cell.get() + u32::from(if_so));
}

#[test]
fn what_is_said_where_packets_are_lost_is_true() {
    let kinds = all();
    let tally = Tally::default();
    with_seeds((FIRST_SEED, RUNS), FAILED_ONCE, |seed| {
        let mut rng = Rng::new(seed);
        let config = kinds[rng.below(kinds.len() as u32) as usize].clone();
        let mut world = World::new(config.clone(), seed);
        world.lost = rng.below(120);
        world.delay = Duration::from_millis(1 + u64::from(rng.below(120)));
        world.jitter = rng.below(40);
        if rng.below(4) == 0 {
            world.servers.insert(address(ELSEWHERE), [Manner::Full, Manner::One, Manner::Dead][rng.below(3) as usize]);
        }
        let report = world.search();
        judge(&config, &report);
        count(&tally.runs, true);
        count(&tally.mapping_unknown, matches!(report.mapping, Mapping::Unknown | Mapping::Dependent));
        count(&tally.filtering_unknown, report.filtering == Filtering::Unknown);
        let strict = report.filtering != Filtering::Unknown && report.filtering != kinds::filtering(config.filtering);
        count(&tally.too_strict, strict);
    });
    let (runs, of) = (tally.runs.get(), |cell: &Cell<u32>| cell.get());
    // A seed alone proves nothing of shares.
    if runs >= 100 {
        assert!(of(&tally.mapping_unknown) * 10 <= runs, "{} of {runs}", of(&tally.mapping_unknown));
        assert!(of(&tally.filtering_unknown) * 5 <= runs, "{} of {runs}", of(&tally.filtering_unknown));
        assert!(of(&tally.too_strict) * 100 <= runs, "{} of {runs}", of(&tally.too_strict));
    }
}

fn judge(config: &NatConfig, report: &Report) {
    assert!(report.took <= DEADLINE, "{report:?}");
    let truth = kinds::mapping(config.mapping);
    let is_dependent = matches!(truth, Mapping::AddressDependent | Mapping::AddressAndPortDependent);
    let mapping_is_true = match report.mapping {
        Mapping::Unknown => true,
        Mapping::Dependent => is_dependent,
        told => told == truth,
    };
    assert!(mapping_is_true, "{:?} of {truth:?}: {report:?}", report.mapping);
    // What came in came in.
    assert!(report.filtering >= kinds::filtering(config.filtering), "{report:?} of {config:?}");
    let answered = !report.public.is_empty();
    assert!(
        !answered || report.filtering != Filtering::Unknown || !report.gaps.is_empty(),
        "unknown without a reason: {report:?}"
    );
    assert!(report.hairpin != Some(true) || config.hairpin, "{report:?}");
    match (config.allocation, report.allocation) {
        (_, None) => assert!(report.public.is_empty(), "{report:?}"),
        (_, Some(Allocation::Unknown)) => {}
        (nat::Allocation::Preserving, found) => assert_eq!(found, Some(Allocation::Preserving), "{report:?}"),
        (nat::Allocation::Step(step), Some(Allocation::Step(found))) => {
            // With few answers a step may be taken for a multiple of itself, but it points the same way.
            assert!(found % i32::from(step) == 0 && (found > 0) == (step > 0), "{found} of {step}: {report:?}");
        }
        (nat::Allocation::Step(_) | nat::Allocation::Random, found) => assert_eq!(found, Some(Allocation::Random), "{report:?}"),
    }
}
