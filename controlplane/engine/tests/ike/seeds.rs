//! Runs that chance decides: as many as there are to be, each from its seed, and what to type to repeat one.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Seeds that found a mistake, by what it was.
pub type FailedOnce = &'static [(&'static str, &'static [u64])];
/// Failures after which a kind of run is given up.
const FAILURES_MAX: usize = 20;

/// The seeds of a kind of run: those that once failed and as many as SIM_RUNS says, from SIM_FIRST on; or the one of SIM_SEED.
#[expect(clippy::disallowed_methods, reason = "the way to repeat one run")]
fn seeds((offset, runs): (u64, u64), failed_once: FailedOnce) -> Vec<u64> {
    let set = |name| std::env::var(name).ok().and_then(|text| text.parse().ok());
    match set("SIM_SEED") {
        Some(seed) => vec![seed],
        None => {
            let first = offset + set("SIM_FIRST").unwrap_or(0);
            let once = failed_once.iter().flat_map(|(_, seeds)| *seeds).copied();
            once.chain(first..first + set("SIM_RUNS").unwrap_or(runs)).collect()
        }
    }
}

/// Runs every seed, and names all that fail. `which`: the first of them, and how many unless the environment says otherwise.
pub fn with_seeds(which: (u64, u64), failed_once: FailedOnce, run: impl Fn(u64)) {
    let fails = |seed: &u64| {
        let failed = catch_unwind(AssertUnwindSafe(|| run(*seed))).is_err();
        if failed {
            eprintln!("repeat it with SIM_SEED={seed}");
        }
        failed
    };
    let failed: Vec<u64> = seeds(which, failed_once).into_iter().filter(fails).take(FAILURES_MAX).collect();
    let known: Vec<_> = failed_once.iter().filter(|(_, seeds)| seeds.iter().any(|seed| failed.contains(seed))).collect();
    assert!(failed.is_empty(), "these seeds failed: {failed:?}; known before: {known:?}");
}

#[expect(clippy::disallowed_methods, reason = "a switch for a person who repeats one run")]
pub fn trace() -> bool {
    std::env::var("SIM_TRACE").is_ok()
}
