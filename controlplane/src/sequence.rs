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

/// How far ahead of the clock a number may lie that somebody tells us, in nanoseconds: nine years. Peers count by their own clocks.
const AHEAD: u64 = 1 << 58;
/// The year 2026 in nanoseconds since 1970: a clock before that was never set, and says nothing.
const YEAR_2026: u64 = 1_767_225_600_000_000_000;

/// Whether a number that a data plane tells can be believed. One near the end of all numbers, once noted, would shut the key for
/// ever.
pub fn believable(number: u64, now_ns: u64) -> bool {
    number <= now_ns.max(YEAR_2026).saturating_add(AHEAD)
}

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

/// The new end for an SA that has used half of its numbers up to `end`; to be written before the data plane is told. It lies
/// above the mark too: a data plane that we adopted may not know, or not tell, all that was granted.
pub fn extend(end: u64, mark: Option<u64>, now_ns: u64) -> u64 {
    let end = end.max(mark.unwrap_or(0));
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
        /// Both planes die (if there are any) and others begin; they may die again before the mark is on the disk.
        Start { dies_before_write: bool },
        /// The control plane alone dies, and the next one adopts the data plane, which may not admit all numbers that it has.
        Adopt { denied: u64 },
        /// The data plane sends, and gets more when half is used; the control plane may die between the write and the command,
        /// or both planes may.
        Send { packets: u64, dies_after_write: Option<Death> },
        /// Time passes (or, in histories that keep the file, jumps back).
        Clock { ns: i64 },
        /// The state file is lost, or replaced by an old backup.
        Lose { backup: bool },
    }

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Death {
        Control,
        Both,
    }

    /// What the world looks like: a clock, a disk, what the two planes know, every number ever used.
    #[derive(Default)]
    struct World {
        now: u64,
        disk: Option<u64>,
        backup: Option<u64>,
        /// The mark and the end that the control plane knows.
        control: Option<(Option<u64>, u64)>,
        /// The numbers that the data plane has.
        plane: Option<(u64, u64)>,
        used: Vec<(u64, u64)>,
    }

    impl World {
        fn apply(&mut self, step: &Step) {
            match *step {
                Step::Start { dies_before_write } => {
                    let grant = first(self.disk, self.now);
                    self.now += grant.wait_ns(self.now);
                    (self.control, self.plane) = (None, None);
                    if !dies_before_write {
                        self.disk = self.disk.max(Some(grant.end));
                        self.control = Some((self.disk, grant.end));
                        self.plane = Some((grant.next, grant.end));
                    }
                }
                Step::Adopt { denied } => {
                    let Some((_, end)) = self.plane else { return };
                    let reported = end.saturating_sub(denied);
                    self.control = Some((self.disk.max(Some(reported)), reported));
                }
                Step::Send { packets, dies_after_write } => self.send(packets, dies_after_write),
                Step::Clock { ns } => self.now = self.now.saturating_add_signed(ns),
                Step::Lose { backup: false } => (self.backup, self.disk) = (self.disk, None),
                Step::Lose { backup: true } => self.disk = self.backup,
            }
        }

        fn send(&mut self, mut packets: u64, dies_after_write: Option<Death>) {
            while let Some((next, end)) = self.plane.filter(|(next, end)| packets > 0 && next < end) {
                let half = (end - next).div_ceil(2).min(packets);
                packets -= half;
                self.used.push((next, next + half));
                // No lane seals faster than a packet per nanosecond.
                self.now += half;
                self.plane = Some((next + half, end));
                let Some((mark, known)) = self.control else { continue };
                let more = extend(known, mark, self.now);
                let mark = mark.max(Some(more));
                (self.disk, self.control) = (mark, Some((mark, more)));
                match dies_after_write {
                    // A data plane never takes numbers back.
                    None => self.plane = Some((next + half, end.max(more))),
                    Some(Death::Control) => self.control = None,
                    Some(Death::Both) => (self.control, self.plane) = (None, None),
                }
            }
        }

        fn repeats(&mut self) -> bool {
            self.used.sort_unstable();
            self.used.windows(2).any(|pair| pair[0].1 > pair[1].0)
        }
    }

    fn step(clock: std::ops::Range<i64>, lose: bool) -> impl Strategy<Value = Step> {
        let death = prop_oneof![2 => Just(None), 1 => Just(Some(Death::Control)), 1 => Just(Some(Death::Both))];
        prop_oneof![
            3 => any::<bool>().prop_map(|dies_before_write| Step::Start { dies_before_write }),
            2 => prop_oneof![Just(0), 0u64..1 << 60].prop_map(|denied| Step::Adopt { denied }),
            3 => (1u64..1 << 34, death).prop_map(|(packets, dies_after_write)| Step::Send { packets, dies_after_write }),
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
    fn numbers_of_the_next_years_are_believed_and_those_far_ahead_are_not() {
        let (now, year) = (1_800_000_000_000_000_000, 31_556_952_000_000_000);
        for clock in [0, now] {
            assert!(believable(0, clock) && believable(now + 8 * year, clock));
            assert!(!believable(now + 20 * year, clock) && !believable(u64::MAX, clock));
        }
        assert!(believable(u64::MAX, u64::MAX - 1));
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
