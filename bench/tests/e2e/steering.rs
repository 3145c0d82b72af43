//! Several workers: one peer's traffic spreads over them, and what reaches the wrong one is handed over.

use adit_bench::lab::traffic::start;
use adit_bench::lab::{Gateway, Lab, LabOptions, SOON, wait_until};
use adit_proto::stats::{Count, Drop};
use anyhow::{Result, ensure};

use crate::QUARTER_GIB;

/// Streams at once. The kernel chooses the TAP queue of a stream by its hash; of 16 streams, all land on one of two queues once
/// in 32768 runs.
const STREAMS: usize = 16;

fn streams(from: &Gateway, to: &Gateway, bytes: u64) -> Result<()> {
    let running: Vec<_> =
        (0..STREAMS).map(|_| start(&from.netns, &to.netns, to.inner().into(), bytes / STREAMS as u64)).collect::<Result<_>>()?;
    for transfer in running {
        transfer.finish()?.verify(bytes / STREAMS as u64)?;
    }
    Ok(())
}

#[test]
fn both_workers_seal_and_open_the_traffic_of_one_peer() -> Result<()> {
    let lab = Lab::start(&LabOptions { workers: vec![2], ..LabOptions::default() })?;
    streams(lab.a(), lab.b(), 4 * QUARTER_GIB)?;
    for (gateway, count) in [(lab.a(), Count::SealedBytes), (lab.b(), Count::OpenedBytes)] {
        let metrics = gateway.metrics()?;
        let shares = [metrics.count_of(0, count), metrics.count_of(1, count)];
        println!("{} {}: {shares:?}", gateway.name, count.label());
        ensure!(shares.iter().all(|share| *share > QUARTER_GIB / 4), "{}: {shares:?} bytes {}", gateway.name, count.label());
    }
    Ok(())
}

#[test]
fn one_lane_between_two_workers_passes_over_the_rings() -> Result<()> {
    let lab = Lab::start(&LabOptions { workers: vec![1, 2], lanes: Some(1), ..LabOptions::default() })?;
    streams(lab.a(), lab.b(), QUARTER_GIB)?;
    streams(lab.b(), lab.a(), QUARTER_GIB)?;
    // The last ones may still be on their way to a worker that has not had its turn.
    wait_until("all that was handed over is taken over", SOON, || {
        let b = lab.b().metrics()?;
        Ok(b.count(Count::HandedOver) == b.count(Count::TakenOver))
    })?;
    let (a, b) = (lab.a().metrics()?, lab.b().metrics()?);
    let (handed, refused) = (b.count(Count::HandedOver), b.dropped(Drop::HandoverFull));
    println!("handed over {handed}, refused for want of a buffer {refused}");
    ensure!(handed > 0, "no frame of worker 1 was handed to worker 0, which has the only SA");
    // The streams are as fast as losses let them be; a few in a hundred were seen on two busy cores.
    ensure!(refused < handed / 4, "{refused} frames were refused and {handed} handed over");
    ensure!(a.count(Count::HandedOver) == 0, "a gateway of one worker handed something over");
    Ok(())
}

#[test]
fn more_lanes_than_workers_are_opened_by_the_workers_that_there_are() -> Result<()> {
    let lab = Lab::start(&LabOptions { workers: vec![1, 2], lanes: Some(4), ..LabOptions::default() })?;
    // Whoever is up first sends to one who is not.
    let unknown = |gateway: &Gateway| Ok::<u64, anyhow::Error>(gateway.metrics()?.dropped(Drop::UnknownSpi));
    let before = [unknown(lab.a())?, unknown(lab.b())?];
    streams(lab.a(), lab.b(), QUARTER_GIB)?;
    streams(lab.b(), lab.a(), QUARTER_GIB)?;
    let after = [unknown(lab.a())?, unknown(lab.b())?];
    println!("packets of unknown SPIs before and after: {before:?}, {after:?}");
    ensure!(after == before, "packets of unknown SPIs: {before:?} before, {after:?} after");
    Ok(())
}
