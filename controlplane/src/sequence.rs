//! Sequence numbers that never repeat under one key, through crashes, restarts and lost files. Pure: the clock is an argument.
//!
//! The sequence number of a packet is its nonce, and a static key lives for years, so the numbers of a new run must lie
//! above all numbers of all earlier runs. Two witnesses know where those end:
//!
//! - The **mark** in the state file: the end of what was ever granted to this key. It is durable before the grant is used.
//! - The **clock**, in nanoseconds since 1970. A grant is used only once the clock has passed its end, and no lane sends a
//!   packet per nanosecond, so every number ever used is below the clock. It stands in when the file was lost.
//!
//! A run therefore starts at the larger of both. As long as the file is kept the clock may do as it likes; as long as the
//! clock does not go back the file may be lost. 64 bits of nanoseconds last until the year 2554.

/// Numbers of a first grant: the wait until the clock has passed them is 17 ms, and half of them last 0.4 s at 20 million
/// packets per second.
const FIRST: u64 = 1 << 24;
/// Numbers of a grant while the clock is behind the mark and cannot say anything.
const BLIND: u64 = 1 << 32;

/// Numbers that may be used: `next` up to but without `end`. `end` is the mark to be written first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    pub next: u64,
    pub end: u64,
    /// The clock is behind the mark: it was set back. Losing the file before it has caught up would repeat numbers.
    pub clock_behind_ns: u64,
}

/// The numbers for a new SA.
///
/// The caller waits until the clock is at `end` ([`Grant::wait_ns`]), then writes the mark, then uses them: a crash before
/// the write has used nothing, and what is written is never ahead of the clock.
pub fn first(mark: Option<u64>, now_ns: u64) -> Grant {
    let mark = mark.unwrap_or(0);
    // 0 is no sequence number (RFC 4303 §2.2).
    let next = mark.max(now_ns).max(1);
    let clock_behind_ns = mark.saturating_sub(now_ns);
    Grant { next, end: next.saturating_add(if clock_behind_ns > 0 { BLIND } else { FIRST }), clock_behind_ns }
}

/// The new end for an SA that has used half of its numbers; to be written before the data plane is told.
pub fn extend(end: u64, now_ns: u64) -> u64 {
    if now_ns > end { now_ns } else { end.saturating_add(BLIND) }
}

impl Grant {
    /// How long to wait before the grant is written and used.
    pub fn wait_ns(&self, now_ns: u64) -> u64 {
        if self.clock_behind_ns > 0 { 0 } else { self.end.saturating_sub(now_ns) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        /// A run is killed (if there is one) and another begins; it may die before its mark is on the disk.
        Start { dies_before_write: bool },
        /// The run sends, and asks for more when half is used; it may die between the write and the use.
        Send { packets: u64, dies_after_write: bool },
        /// Time passes (or, in histories that keep the file, jumps back).
        Clock { ns: i64 },
        /// The state file is lost, or replaced by an old backup.
        Lose { backup: bool },
    }

    /// What the world looks like: a clock, a disk, every number ever used.
    #[derive(Default)]
    struct World {
        now: u64,
        disk: Option<u64>,
        backup: Option<u64>,
        run: Option<Grant>,
        used: Vec<(u64, u64)>,
    }

    impl World {
        fn apply(&mut self, step: &Step) {
            match *step {
                Step::Start { dies_before_write } => {
                    let grant = first(self.disk, self.now);
                    self.now += grant.wait_ns(self.now);
                    self.run = (!dies_before_write).then_some(grant);
                    if !dies_before_write {
                        self.disk = Some(grant.end);
                    }
                }
                Step::Send { packets, dies_after_write } => self.send(packets, dies_after_write),
                Step::Clock { ns } => self.now = self.now.saturating_add_signed(ns),
                Step::Lose { backup: false } => (self.backup, self.disk) = (self.disk, None),
                Step::Lose { backup: true } => self.disk = self.backup,
            }
        }

        fn send(&mut self, mut packets: u64, dies_after_write: bool) {
            while let Some(grant) = self.run.filter(|_| packets > 0) {
                let half = (grant.end - grant.next).div_ceil(2).min(packets);
                packets -= half;
                self.used.push((grant.next, grant.next + half));
                // No lane seals faster than a packet per nanosecond.
                self.now += half;
                let end = extend(grant.end, self.now);
                self.disk = Some(end);
                self.run = (!dies_after_write).then_some(Grant { next: grant.next + half, end, clock_behind_ns: 0 });
            }
        }

        fn repeats(&mut self) -> bool {
            self.used.sort_unstable();
            self.used.windows(2).any(|pair| pair[0].1 > pair[1].0)
        }
    }

    fn step(clock: std::ops::Range<i64>, lose: bool) -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => any::<bool>().prop_map(|dies_before_write| Step::Start { dies_before_write }),
            3 => (1u64..1 << 34, any::<bool>()).prop_map(|(packets, dies_after_write)| Step::Send { packets, dies_after_write }),
            2 => clock.prop_map(|ns| Step::Clock { ns }),
            u32::from(lose) => any::<bool>().prop_map(|backup| Step::Lose { backup }),
        ]
    }

    fn check(now: u64, steps: &[Step]) -> Result<(), TestCaseError> {
        let mut world = World { now, ..World::default() };
        steps.iter().for_each(|step| world.apply(step));
        prop_assert!(!world.repeats(), "numbers repeat: {:?}", world.used);
        Ok(())
    }

    proptest! {
        #[test]
        fn no_number_repeats_when_files_are_lost_and_the_clock_goes_forward(
            now in 0u64..1 << 61,
            steps in prop::collection::vec(step(0..1 << 40, true), 1..60),
        ) {
            check(now, &steps)?;
        }

        #[test]
        fn no_number_repeats_when_the_clock_jumps_and_the_file_is_kept(
            now in 0u64..1 << 61,
            steps in prop::collection::vec(step(-(1 << 50)..1 << 50, false), 1..60),
        ) {
            check(now, &steps)?;
        }
    }

    #[test]
    fn a_grant_is_used_once_the_clock_has_passed_it() {
        let grant = first(None, 5_000);
        assert_eq!((grant.next, grant.end), (5_000, 5_000 + FIRST));
        assert_eq!(grant.wait_ns(6_000), FIRST - 1_000);
        let back = first(Some(9_000), 5_000);
        assert_eq!((back.next, back.clock_behind_ns, back.wait_ns(5_000)), (9_000, 4_000, 0));
    }
}
