//! Echo requests of both IP versions, of every size that fits one frame.

use std::net::IpAddr;
use std::time::Duration;

use adit_bench::lab::{Lab, LabOptions, SOON, wait_until};
use anyhow::{Context, Result, ensure};

use crate::{Pings, echoes, reaches};

#[test]
fn ping_and_ping6_pass_without_loss_both_ways() -> Result<()> {
    let lab = Lab::start(&LabOptions::patient())?;
    for (from, to) in [(lab.a(), lab.b()), (lab.b(), lab.a())] {
        for target in [IpAddr::from(to.inner()), to.inner6().into()] {
            let pings = Pings::start(&lab, from, target, Duration::from_millis(1))?;
            wait_until("pings were sent", SOON, || Ok(pings.so_far().0 > 500))?;
            pings.none_lost(&lab, 500).with_context(|| target.to_string())?;
        }
    }
    Ok(())
}

#[test]
fn echoes_of_every_size_come_back_unharmed() -> Result<()> {
    let lab = Lab::start(&LabOptions::patient())?;
    // 1390 and 1370 fill what fits with a VLAN tag, 1418 bytes, with the headers of IP and ICMP. ping compares the content of the answer.
    for size in [0, 1, 2, 3, 17, 18, 55, 56, 57, 1000, 1389, 1390] {
        echoes(&lab.a().netns, 3, size, "-M do", lab.b().inner())?;
    }
    for size in [0, 1, 2, 3, 17, 18, 1000, 1369, 1370] {
        echoes(&lab.a().netns, 3, size, "-M do", lab.b().inner6())?;
    }
    Ok(())
}

#[test]
fn a_router_option_of_ipv4_passes() -> Result<()> {
    let lab = Lab::start(&LabOptions::patient())?;
    let output = lab.a().netns.run(&format!("ping -n -c1 -W2 -R {}", lab.b().inner()))?;
    ensure!(output.contains(" 0% packet loss") && output.contains("RR:"), "{output}");
    Ok(())
}

#[test]
fn the_tunnel_runs_over_ipv6_too() -> Result<()> {
    let lab = Lab::start(&LabOptions { outer_ipv6: true, ..LabOptions::patient() })?;
    reaches(&lab.a().netns, lab.b().inner())?;
    // The largest frame still fits: the outer header is 20 bytes longer than over IPv4, 1402 bytes of IP are left of 1500.
    echoes(&lab.a().netns, 3, 1402 - 28, "-M do", lab.b().inner())?;
    adit_bench::lab::traffic::transfer(&lab.a().netns, &lab.b().netns, lab.b().inner().into(), crate::QUARTER_GIB)?
        .verify(crate::QUARTER_GIB)
}
