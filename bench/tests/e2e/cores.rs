//! On which cores the workers run, and what their session counts for beside others.

use std::fs;
use std::path::Path;

use adit_bench::lab::{Gateway, Lab, LabOptions, SOON, wait_until};
use anyhow::{Context, Result, bail, ensure};

use crate::edit;

/// The cores that the kernel lets a task run on, as it writes them.
fn cores_of(task: &Path) -> Result<String> {
    let status = fs::read_to_string(task.join("status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).context("no list of cores")?;
    Ok(line.trim().to_owned())
}

/// The cores of every worker of a gateway.
fn workers(gateway: &Gateway) -> Result<Vec<String>> {
    let pid = gateway.data_plane().context("a data plane")?;
    let mut found = Vec::new();
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let task = task?.path();
        if fs::read_to_string(task.join("comm"))?.starts_with("worker-") {
            found.push(cores_of(&task)?);
        }
    }
    Ok(found)
}

#[test]
fn an_idle_worker_may_run_anywhere_and_one_with_a_named_core_stays() -> Result<()> {
    let mut lab = Lab::prepare(&LabOptions { workers: vec![2, 1], ..LabOptions::patient() })?;
    let all = cores_of(Path::new("/proc/self"))?;
    let first = all.split([',', '-']).next().context("a core")?.to_owned();
    edit(lab.b(), "workers: 1,", &format!("cores: [{first}],"))?;
    for gateway in &mut lab.gateways {
        gateway.start_control()?;
    }
    lab.wait_until_up()?;
    wait_until("both idle workers may run anywhere", SOON, || Ok(workers(lab.a())? == [all.as_str(); 2]))
        .with_context(|| format!("{:?}", workers(lab.a())))?;
    ensure!(workers(lab.b())? == [first.as_str()], "{:?}", workers(lab.b()));
    edit(lab.b(), "cores: [", "roam: true, cores: [")?;
    lab.b().adit("reload --restart-dataplane")?;
    wait_until("who names a core may let it be left", SOON, || Ok(workers(lab.b()).is_ok_and(|now| now == [all.as_str()])))
}

#[test]
fn the_session_of_a_data_plane_counts_for_more_than_others() -> Result<()> {
    // The kernel lets one session of the machine be weighed in a tenth of a second: beside other gateways that start it may take some
    // starts, and that one is without it is told.
    const STARTS: usize = 10;
    let mut lab = Lab::start(&LabOptions::default())?;
    let may =
        lab.a().netns.command("setsid").args(["--wait", "sh", "-c", "sleep 0.3; echo -5 >/proc/self/autogroup"]).status()?;
    if !may.success() {
        return Ok(());
    }
    let reported = |process: &str| fs::read_to_string(format!("/proc/{process}/autogroup")).ok();
    // The tests may run in a session that somebody has given another weight.
    let before = reported("self").map(|line| line.trim_end().to_owned());
    for _ in 0..STARTS {
        let pid = lab.a().data_plane().context("a data plane")?;
        let (Some(own), Some(theirs)) = (reported("self"), reported(&pid.to_string())) else { return Ok(()) };
        let [own, theirs] = [own, theirs].map(|line| line.trim_end().to_owned());
        if theirs.ends_with("nice -5") {
            ensure!(own.split(' ').next() != theirs.split(' ').next() && before.as_ref() == Some(&own), "{own}");
            return Ok(());
        }
        lab.a().wait_for_log("the data plane's session weighs as much as any other", SOON).with_context(|| theirs)?;
        lab.gateways[0].stop()?;
        lab.gateways[0].start_control()?;
        lab.wait_until_up()?;
    }
    bail!("none of {STARTS} data planes has a session that counts for more\n{}", lab.a().log())
}
