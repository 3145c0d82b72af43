//! Large frames inside where the network outside carries them.

use std::net::IpAddr;

use adit_bench::lab::traffic::transfer;
use adit_bench::lab::{Lab, LabOptions};
use anyhow::{Result, ensure};

use crate::{GIB, echoes};

#[test]
fn frames_of_8900_bytes_pass_whole_over_an_mtu_of_9000() -> Result<()> {
    let lab = Lab::start(&LabOptions { outer_mtu: 9000, inner_mtu: Some(8900), ..LabOptions::patient() })?;
    for (size, target) in [(8872, IpAddr::from(lab.b().inner())), (8852, lab.b().inner6().into())] {
        echoes(&lab.a().netns, 5, size, "-M do", target)?;
        // One byte more does not fit and is refused by the sender's own kernel.
        ensure!(lab.a().netns.run(&format!("ping -n -c1 -W1 -M do -s {} {target}", size + 1)).is_err());
    }
    for (from, to) in [(lab.a(), lab.b()), (lab.b(), lab.a())] {
        let moved = transfer(&from.netns, &to.netns, to.inner().into(), GIB)?;
        moved.verify(GIB)?;
        println!("{} to {}: {:.2} Gbit/s", from.name, to.name, moved.gbits());
    }
    Ok(())
}
