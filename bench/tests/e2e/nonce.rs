//! No nonce is ever used twice under one key, whatever is stopped, killed and started again, and the peer follows every time.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use adit_bench::lab::capture::Capture;
use adit_bench::lab::{Lab, LabOptions, PORT, SOON, WAN, wait_until};
use anyhow::{Result, anyhow, ensure};

use crate::reaches;

/// Watches what gateway a sends. Returns how many ESP datagrams there were, and every (SPI, IV) that came twice.
fn watch(mut capture: Capture, from: std::net::IpAddr, stop: &AtomicBool) -> Result<(usize, Vec<(u32, u64)>)> {
    let (mut seen, mut twice) = (HashSet::new(), Vec::new());
    while !stop.load(Ordering::Relaxed) {
        let Some(datagrams) = capture.next(Instant::now() + Duration::from_millis(50))? else { continue };
        for datagram in datagrams.iter().filter(|datagram| *datagram.from.ip() == from && datagram.from.port() == PORT) {
            let (Some(spi), Some(iv)) = (datagram.payload.first_chunk(), datagram.payload.get(8..16)) else { continue };
            let pair = (u32::from_be_bytes(*spi), u64::from_be_bytes(iv.try_into()?));
            if !seen.insert(pair) {
                twice.push(pair);
            }
        }
    }
    Ok((seen.len(), twice))
}

fn flow(lab: &Lab) -> Result<()> {
    let from = lab.a();
    wait_until("the tunnel is back", SOON, || Ok(from.netns.run(&format!("ping -n -c1 -W1 {}", lab.b().inner())).is_ok()))?;
    for _ in 0..3 {
        reaches(&from.netns, lab.b().inner())?;
    }
    Ok(())
}

#[test]
fn restarts_of_every_kind_never_repeat_a_nonce_and_the_peer_follows() -> Result<()> {
    let mut lab = Lab::start(&LabOptions { workers: vec![2], ..LabOptions::default() })?;
    let stop = Arc::new(AtomicBool::new(false));
    let capture = Capture::open(&lab.b().netns, WAN)?;
    let (from, until) = (lab.a().outer(), stop.clone());
    let watcher = thread::spawn(move || watch(capture, from, &until));

    flow(&lab)?;
    // An orderly stop and start.
    lab.gateways[0].stop()?;
    lab.gateways[0].start_control()?;
    flow(&lab)?;
    // The data plane dies and is started again by the control plane.
    let old = lab.a().kill_data_plane()?;
    wait_until("there is a new data plane", SOON, || Ok(lab.a().data_plane().is_some_and(|pid| pid != old)))?;
    flow(&lab)?;
    // The control plane dies alone and comes back.
    lab.gateways[0].kill_control()?;
    flow(&lab)?;
    lab.gateways[0].start_control()?;
    flow(&lab)?;
    // Both die, as in a power cut.
    lab.gateways[0].kill_control()?;
    lab.a().kill_data_plane()?;
    wait_until("the data plane is gone", SOON, || Ok(lab.a().data_plane().is_none()))?;
    lab.gateways[0].start_control()?;
    flow(&lab)?;
    // And the data plane dies while nobody is there to start it again.
    lab.gateways[0].kill_control()?;
    flow(&lab)?;
    lab.a().kill_data_plane()?;
    wait_until("the data plane is gone", SOON, || Ok(lab.a().data_plane().is_none()))?;
    lab.gateways[0].start_control()?;
    flow(&lab)?;

    stop.store(true, Ordering::Relaxed);
    let (seen, twice) = watcher.join().map_err(|_| anyhow!("the watcher panicked"))??;
    ensure!(seen > 1000, "only {seen} datagrams were seen");
    ensure!(twice.is_empty(), "{} nonces came twice, the first is {:x?}", twice.len(), twice[0]);
    Ok(())
}
