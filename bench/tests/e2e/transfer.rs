//! Bulk TCP whose content is compared by SHA-256 at both ends.

use adit_bench::lab::traffic::{kernel_counter, start, transfer};
use adit_bench::lab::{Lab, LabOptions};
use adit_esp::aead::Backend;
use anyhow::{Result, ensure};

use crate::{GIB, QUARTER_GIB};

#[test]
fn one_gibibyte_each_way_keeps_its_hash_and_its_order() -> Result<()> {
    let lab = Lab::start(&LabOptions::default())?;
    for (from, to) in [(lab.a(), lab.b()), (lab.b(), lab.a())] {
        let moved = transfer(&from.netns, &to.netns, to.inner().into(), GIB)?;
        moved.verify(GIB)?;
        println!("{} to {}: {:.2} Gbit/s", from.name, to.name, moved.gbits());
        // The kernel noticed an acknowledgement that only reordering explains.
        for name in ["TCPSACKReorder", "TCPTSReorder", "TCPRenoReorder"] {
            let seen = kernel_counter(&from.netns, "TcpExt", name)?;
            ensure!(seen == 0, "{name} is {seen} after a transfer from {}", from.name);
        }
        // What came twice was sent again because an answer was late on a busy machine, not because something else came first.
        let twice = kernel_counter(&from.netns, "TcpExt", "TCPDSACKRecv")?;
        let again = kernel_counter(&from.netns, "Tcp", "RetransSegs")?;
        let by_order = kernel_counter(&from.netns, "TcpExt", "TCPFastRetrans")?;
        ensure!(
            twice + by_order <= again,
            "after a transfer from {}: {again} segments sent again, {by_order} of them at once, {twice} came twice",
            from.name
        );
    }
    Ok(())
}

#[test]
fn both_directions_at_once_over_ipv6() -> Result<()> {
    let lab = Lab::start(&LabOptions::default())?;
    let there = start(&lab.a().netns, &lab.b().netns, lab.b().inner6().into(), QUARTER_GIB)?;
    let back = start(&lab.b().netns, &lab.a().netns, lab.a().inner6().into(), QUARTER_GIB)?;
    there.finish()?.verify(QUARTER_GIB)?;
    back.finish()?.verify(QUARTER_GIB)
}

#[test]
fn every_suite_through_every_library_reaches_the_other() -> Result<()> {
    for suite in ["aes-128-gcm", "aes-256-gcm", "chacha20-poly1305"] {
        for crypto in Backend::usable().map(Backend::name) {
            let lab = Lab::start(&LabOptions { suite, crypto, ..LabOptions::default() })?;
            let bytes = QUARTER_GIB / 4;
            transfer(&lab.a().netns, &lab.b().netns, lab.b().inner().into(), bytes)?.verify(bytes)?;
        }
    }
    Ok(())
}

#[test]
fn checksums_that_are_always_filled_in_are_right() -> Result<()> {
    let lab = Lab::start(&LabOptions { defer_checksums: Some(false), ..LabOptions::default() })?;
    transfer(&lab.a().netns, &lab.b().netns, lab.b().inner().into(), QUARTER_GIB)?.verify(QUARTER_GIB)?;
    transfer(&lab.b().netns, &lab.a().netns, lab.a().inner6().into(), QUARTER_GIB)?.verify(QUARTER_GIB)?;
    for gateway in &lab.gateways {
        for protocol in ["Tcp", "Udp"] {
            let broken = kernel_counter(&gateway.netns, protocol, "InCsumErrors")?;
            ensure!(broken == 0, "{} saw {broken} broken {protocol} checksums", gateway.name);
        }
        let deferred = gateway.metrics()?.count(adit_proto::stats::Count::ChecksumsDeferred);
        ensure!(deferred == 0, "{deferred} checksums stayed open although that is forbidden");
    }
    Ok(())
}
