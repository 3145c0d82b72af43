//! Keys stay where they are: no other process of the same user reads the memory of the two planes, and no core dump holds it.

use adit_bench::lab::surroundings::wrapped;
use adit_bench::lab::{Lab, LabOptions};
use anyhow::{Context, Result, ensure};

/// Without this capability, root is a user like any other.
const NO_DEBUGGER: &str = "--bounding-set=-sys_ptrace";

#[test]
fn the_memory_of_both_planes_is_closed_unless_a_developer_asks_otherwise() -> Result<()> {
    for open in [false, true] {
        let mut lab = Lab::prepare(&LabOptions::patient())?;
        let mut command = wrapped(lab.a().netns.command("setpriv"), &[NO_DEBUGGER, "--"], &lab.a().command()?);
        if open {
            command.env("ADIT_DUMPABLE", "yes");
        }
        lab.gateways[0].start(&mut command)?;
        lab.gateways[1].start_control()?;
        lab.wait_until_up()?;
        let control = lab.gateways[0].control()?.pid();
        for pid in [control, lab.a().data_plane().context("a data plane")?] {
            // The link follows the rule for debuggers alone; newer kernels show memory to holders of CAP_PERFMON as well.
            let read = lab.a().netns.run(&format!("setpriv {NO_DEBUGGER} -- readlink /proc/{pid}/exe"));
            ensure!(read.is_ok() == open, "process {pid}, open {open}: {read:?}");
            let limits = std::fs::read_to_string(format!("/proc/{pid}/limits"))?;
            let core = limits.lines().find(|line| line.starts_with("Max core file size")).context("a limit of core dumps")?;
            let words: Vec<&str> = core.split_whitespace().collect();
            ensure!(open || words[4..6] == ["0", "0"], "process {pid}: {core}");
        }
    }
    Ok(())
}
