//! Everything at once: two honest gateways carry TCP and a ping every millisecond, while strangers flood them, a peer with good credentials
//! takes what it can get, keys are replaced every few seconds, and one event of the table in `events.rs` comes after the other.
//!
//! ```text
//!   site-a ── to-1 ┐
//!   site-b ── to-2 ┼ router          site-c: the insider (foes.rs). Strangers put frames onto the lines to site-a and site-b.
//!   site-c ── to-3 ┘
//! ```
//!
//! No ping may be lost but by an event, and by that only while what the table names was away. Memory, descriptors and logs stay small,
//! and what one gateway has sealed the other one has opened. `make soak` goes on for an hour; ADIT_SOAK_SECONDS says how long, and with
//! less than two rounds of the table it goes on until there were two. In the first half all is done to site-a, in the second half to
//! site-b, so the processes of each are watched for half of the time.

mod books;
mod events;
mod foes;
mod ground;
mod line;
mod report;
mod watch;

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::events::EVENTS;
use crate::foes::Foes;
use crate::ground::Ground;
use crate::line::Line;
use crate::report::Report;
use crate::watch::Watch;

/// How long it goes on where nobody says otherwise.
const PART: Duration = Duration::from_secs(300);
/// Until all is in use that a process uses: buffers, tables, what the allocator keeps.
const WARM_UP: Duration = Duration::from_secs(15);
/// Each event comes so often at least.
const ROUNDS: usize = 2;

fn length() -> Duration {
    let seconds = std::env::var("ADIT_SOAK_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    seconds.map_or(PART, Duration::from_secs)
}

#[test]
fn everything_at_once_costs_no_more_than_the_table_says() -> Result<()> {
    let (length, mut ground) = (length(), Ground::start()?);
    let foes = Foes::start(&mut ground)?;
    let watch = Watch::start(&ground)?;
    let mut line = Line::start(&ground)?;
    let mut report = Report::default();
    std::thread::sleep(WARM_UP);
    line.step(&ground)?;
    let began = Instant::now();
    for round in 0.. {
        // A gateway is left alone for half of the time, so that it is seen what becomes of its processes.
        let done = began.elapsed() >= length && round >= ROUNDS;
        let second_half = if length < PART { round > 0 } else { began.elapsed() > length / 2 };
        if done {
            break;
        }
        ground.victim = usize::from(second_half);
        books::of_a_quiet_time(&ground, &mut line, &mut report)?;
        for event in EVENTS {
            let spans = (event.happens)(&mut ground).with_context(|| format!("{}\n{}", event.name, ground.logs()))?;
            std::thread::sleep(events::SETTLE);
            let pings = line.step(&ground)?;
            report.event(event, &spans, &pings).with_context(|| ground.logs())?;
            watch.check()?;
        }
    }
    report.foes(&foes.end()?)?;
    line.end(&ground)?;
    ground.all_is_well()?;
    report.processes(watch.end()?)?;
    println!("{report}");
    Ok(())
}
