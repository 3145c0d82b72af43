//! What one gateway has sealed the other one has opened: compared over a time in which no event happens, but keys are replaced, strangers
//! flood and the insider takes what it can get.

use std::thread;
use std::time::Duration;

use adit_bench::lab::{Gateway, SOON, wait_until};
use anyhow::{Context, Result, ensure};

use crate::ground::{Ground, peer_name};
use crate::line::Line;
use crate::report::Report;

/// How long it is. Keys are replaced in it.
const LONG: Duration = Duration::from_secs(15);
/// What is on its way, or measured, has come by then.
const STILL: Duration = Duration::from_millis(300);

/// Packets of all Child SAs, sealed and opened, of the first gateway and of the second one.
type Books = [[u64; 2]; 2];

fn of(gateway: &Gateway) -> Result<[u64; 2]> {
    let metrics = gateway.metrics()?;
    let packets = |direction| {
        let labels = [("peer", peer_name(gateway)), ("direction", direction)];
        metrics.sum("adit_child_sa_packets_total", &labels).map(|packets| packets as u64)
    };
    Ok([packets("out").context("packets that were sealed")?, packets("in").context("packets that were opened")?])
}

/// The same twice in a row, so nothing is on its way.
fn still(ground: &Ground) -> Result<Books> {
    let read = || -> Result<Books> { Ok([of(ground.lab.a())?, of(ground.lab.b())?]) };
    let mut last = read()?;
    wait_until("all has come", SOON, || {
        thread::sleep(STILL);
        let before = std::mem::replace(&mut last, read()?);
        Ok(before == last)
    })?;
    Ok(last)
}

/// Lets some time go by in which nothing may be lost, and compares.
pub fn of_a_quiet_time(ground: &Ground, line: &mut Line, report: &mut Report) -> Result<()> {
    let (pings, before) = line.in_a_pause(ground, || still(ground))?;
    report.quiet("before the books", &pings).with_context(|| ground.logs())?;
    thread::sleep(LONG);
    let (pings, after) = line.in_a_pause(ground, || still(ground))?;
    report.quiet("a quiet time", &pings).with_context(|| ground.logs())?;
    for (from, to) in [(0, 1), (1, 0)] {
        let (sealed, opened) = (after[from][0] - before[from][0], after[to][1] - before[to][1]);
        let line = format!("{} sealed {sealed}, {} opened {opened}", ground.honest()[from].name, ground.honest()[to].name);
        println!("{line}");
        let named = pings.for_want_of_a_core();
        ensure!(sealed >= opened && sealed - opened <= named, "{line}; dropped in front of workers {named}\n{}", ground.logs());
        report.booked(line);
    }
    Ok(())
}
