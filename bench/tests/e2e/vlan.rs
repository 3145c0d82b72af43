//! VLAN tags inside the tunnel: on small frames, on the longest ones, and on super-frames.

use adit_bench::lab::tagger::{Tag, Tagger};
use adit_bench::lab::traffic::transfer;
use adit_bench::lab::{Gateway, Lab, LabOptions, TAP};
use adit_proto::stats::Count;
use anyhow::{Context, Result, ensure};

use crate::{QUARTER_GIB, echoes, reaches};

const C_TAG: u16 = 0x8100;
const S_TAG: u16 = 0x88A8;

/// Moves the addresses of a gateway onto a VLAN (in a VLAN) on top of its TAP. Where the kernel has no VLAN devices, a BPF program
/// tags all that passes the TAP instead; it goes with the value that is returned.
fn onto_vlan(gateway: &Gateway, tags: &[Tag]) -> Result<Option<Tagger>> {
    let mut below = TAP.to_owned();
    for (protocol, number) in tags {
        let name = format!("vlan{number}");
        let protocol = if *protocol == S_TAG { "802.1ad" } else { "802.1Q" };
        let made = gateway.netns.run(&format!("ip link add link {below} name {name} type vlan proto {protocol} id {number}"));
        match made {
            Ok(_) => gateway.netns.run(&format!("ip link set {name} up"))?,
            Err(error) if format!("{error:#}").contains("Unknown device type") => {
                return Tagger::attach(&gateway.netns, TAP, tags).map(Some);
            }
            Err(error) => return Err(error),
        };
        below = name;
    }
    gateway.netns.run(&format!("ip addr flush dev {TAP}"))?;
    gateway.netns.address(&below, &format!("{}/24", gateway.inner()))?;
    gateway.netns.address(&below, &format!("{}/64", gateway.inner6()))?;
    Ok(None)
}

fn tagged(lab: &Lab, tags: &[Tag]) -> Result<Vec<Option<Tagger>>> {
    let held = lab.gateways.iter().map(|gateway| onto_vlan(gateway, tags)).collect::<Result<_>>()?;
    // The first packet after the change looks its neighbour up again.
    for target in [lab.b().inner().to_string(), lab.b().inner6().to_string()] {
        lab.a().netns.run(&format!("ping -n -c1 -W5 {target}")).context("through the VLAN")?;
    }
    Ok(held)
}

#[test]
fn a_vlan_carries_ping_and_tcp_as_tagged_super_frames() -> Result<()> {
    let lab = Lab::start(&LabOptions { inner_mtu: Some(1418), ..LabOptions::patient() })?;
    let _tags = tagged(&lab, &[(C_TAG, 7)])?;
    let (a, b) = (lab.a(), lab.b());
    reaches(&a.netns, b.inner())?;
    reaches(&b.netns, a.inner6())?;
    // The longest frame of a VLAN is four bytes longer than that of the TAP, and fits all the same.
    echoes(&a.netns, 3, 1390, "-M do", b.inner())?;
    echoes(&a.netns, 3, 1370, "-M do", b.inner6())?;
    let before = [a.metrics()?, b.metrics()?];
    transfer(&a.netns, &b.netns, b.inner().into(), QUARTER_GIB)?.verify(QUARTER_GIB)?;
    let after = [a.metrics()?, b.metrics()?];
    let new = |gateway: usize, count: Count| after[gateway].count(count) - before[gateway].count(count);
    // Nobody cut the tagged super-frames up on the way into the TAP, and they were merged again on the way out.
    let (reads, sealed) = (new(0, Count::TapReads), new(0, Count::Sealed));
    ensure!(sealed > 5 * reads, "{sealed} packets from {reads} reads of the TAP");
    let (writes, frames) = (new(1, Count::TapWrites), new(1, Count::TapWrittenFrames));
    ensure!(frames > 5 * writes, "{frames} frames in {writes} writes to the TAP");
    transfer(&b.netns, &a.netns, a.inner6().into(), QUARTER_GIB)?.verify(QUARTER_GIB)?;
    // Fragments with tags.
    echoes(&a.netns, 5, 4000, "", b.inner())?;
    echoes(&a.netns, 5, 4000, "", b.inner6())
}

#[test]
fn two_tags_pass_when_the_mtu_leaves_room() -> Result<()> {
    let lab = Lab::start(&LabOptions { inner_mtu: Some(1410), ..LabOptions::patient() })?;
    let _tags = tagged(&lab, &[(S_TAG, 100), (C_TAG, 200)])?;
    let (a, b) = (lab.a(), lab.b());
    reaches(&a.netns, b.inner())?;
    echoes(&a.netns, 3, 1382, "-M do", b.inner())?;
    transfer(&a.netns, &b.netns, b.inner().into(), QUARTER_GIB / 4)?.verify(QUARTER_GIB / 4)?;
    transfer(&b.netns, &a.netns, a.inner6().into(), QUARTER_GIB / 4)?.verify(QUARTER_GIB / 4)
}
