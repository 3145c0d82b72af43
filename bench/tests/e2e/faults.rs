//! Faults of the surroundings: each ends in a clear error that names the cause and the remedy, or does no harm.

use std::fs;
use std::net::UdpSocket;
use std::os::unix::fs::{PermissionsExt, chown};
use std::process::Command;

use adit_bench::lab::surroundings::{without_tun, wrapped};
use adit_bench::lab::{Lab, LabOptions, PORT, SOON, binary, copy_program};
use anyhow::{Result, ensure};

use crate::edit;
use crate::ike_tunnel::{ROLES, patient};

const NOBODY: u32 = 65534;

/// Starts gateway a by this command; it must end by itself, with an error that has all of these words in it.
fn fails_with(lab: &mut Lab, command: &mut Command, words: &[&str]) -> Result<()> {
    lab.gateways[0].start(command)?;
    let status = lab.gateways[0].control()?.wait(SOON)?;
    let log = lab.a().log();
    ensure!(!status.success(), "it ended well:\n{log}");
    ensure!(!log.contains("panicked"), "{log}");
    for word in words {
        ensure!(log.to_lowercase().contains(&word.to_lowercase()), "the error does not say `{word}`:\n{log}");
    }
    ensure!(lab.a().netns.processes().is_empty(), "processes are left");
    println!("{log}");
    Ok(())
}

#[test]
fn the_address_is_in_use() -> Result<()> {
    let mut lab = Lab::prepare(&LabOptions::patient())?;
    let _other = lab.a().netns.enter(|| UdpSocket::bind((lab.a().outer(), PORT)))?;
    let mut command = lab.a().command()?;
    fails_with(&mut lab, &mut command, &["192.0.2.1:4500", "in use"])
}

#[test]
fn there_is_no_dev_net_tun() -> Result<()> {
    let mut lab = Lab::prepare(&LabOptions::patient())?;
    let mut command = without_tun(lab.a().netns.command("unshare"), &lab.a().command()?);
    fails_with(&mut lab, &mut command, &["/dev/net/tun", "modprobe tun"])
}

/// Gives all that is below the lab's directory, with copies of the programs, to a user who is not root; gives the beginning of a
/// command as that user with these capabilities and no others.
fn as_nobody(lab: &Lab, capabilities: &[&str]) -> Result<Command> {
    fs::set_permissions(lab.dir(), fs::Permissions::from_mode(0o755))?;
    chown(lab.dir(), Some(NOBODY), Some(NOBODY))?;
    for entry in fs::read_dir(lab.dir())? {
        chown(entry?.path(), Some(NOBODY), Some(NOBODY))?;
    }
    // The programs may lie where nobody else can look.
    for name in ["adit", "adit-dataplane"] {
        let copy = lab.dir().join(name);
        copy_program(&binary(name)?, &copy)?;
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o755))?;
    }
    let dir = lab.dir().display().to_string();
    let original = adit_bench::lab::binary("adit-dataplane")?.display().to_string();
    edit(lab.a(), &original, &format!("{dir}/adit-dataplane"))?;
    let sets: String = capabilities.iter().map(|name| format!(",+{name}")).collect();
    let mut command = lab.a().netns.command("unshare");
    // Whoever may open it on this machine, there it is for all, as udev makes it.
    let device = "mount -t tmpfs none /dev/net && mknod -m 666 /dev/net/tun c 10 200 && exec setpriv \"$@\"";
    command.args(["--mount", "sh", "-c", device, "sh", "--reuid=65534", "--regid=65534", "--clear-groups"]);
    command.args(["inh-caps", "ambient-caps", "bounding-set"].map(|which| format!("--{which}=-all{sets}"))).arg("--");
    command.arg(lab.dir().join("adit")).args(["run", "-c"]).arg(&lab.a().config);
    Ok(command)
}

#[test]
fn the_user_is_not_root() -> Result<()> {
    let mut lab = Lab::prepare(&LabOptions::patient())?;
    let mut command = as_nobody(&lab, &[])?;
    fails_with(&mut lab, &mut command, &["root", "CAP_NET_ADMIN"])
}

/// What `deploy/adit@.service` gives `adit`: with all of it nothing is missed, and without one of them what that one is for.
#[test]
fn each_capability_of_the_unit_is_missed_where_it_is_not() -> Result<()> {
    let unit = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/adit@.service"))?;
    let all = ["net_admin", "net_bind_service", "net_raw"];
    let line = all.map(|name| format!("CAP_{}", name.to_uppercase())).join(" ");
    for set in ["AmbientCapabilities", "CapabilityBoundingSet"] {
        ensure!(unit.lines().any(|given| *given == format!("{set}={line}")), "{set} is not {line}");
    }
    // Without the first one it does not start, as above.
    for missing in [None, Some("net_bind_service"), Some("net_raw")] {
        let mut lab = Lab::prepare(&patient(&ROLES))?;
        let given: Vec<&str> = all.into_iter().filter(|name| Some(*name) != missing).collect();
        let mut command = as_nobody(&lab, &given)?;
        lab.gateways[0].start(&mut command)?;
        lab.a().wait_for_log("ready ", SOON)?;
        if let Some(missing) = missing {
            lab.a().wait_for_log(&format!("CAP_{}", missing.to_uppercase()), SOON)?;
        }
        let log = lab.a().log();
        // What it has it tells of, too, and not as a warning.
        let misses = |name: &str| log.lines().any(|line| line.contains("WARN") && line.contains(name));
        for name in &given {
            ensure!(!misses(&format!("CAP_{}", name.to_uppercase())), "{name} is missed:\n{log}");
        }
    }
    Ok(())
}

#[test]
fn a_normal_user_is_told_who_may_ask_for_the_status() -> Result<()> {
    let lab = Lab::start(&LabOptions::patient())?;
    let adit = lab.dir().join("adit");
    fs::set_permissions(lab.dir(), fs::Permissions::from_mode(0o755))?;
    copy_program(&binary("adit")?, &adit)?;
    fs::set_permissions(&adit, fs::Permissions::from_mode(0o755))?;
    // A /run of its own, in which root has a gateway.
    let user = format!("setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups -- {}", adit.display());
    let by_config = format!("{user} status -c {}", lab.a().config.display());
    for (status, word) in
        [(format!("{user} status"), "no permission to look into /run/adit"), (by_config, "this command reads the configuration")]
    {
        let script = format!("mount -t tmpfs none /run && mkdir -m 700 /run/adit /run/adit/site-a && {status}");
        let output = Command::new("unshare").args(["-m", "--", "sh", "-c", &script]).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(!output.status.success() && said.contains(word) && said.contains("root"), "{said}");
    }
    Ok(())
}

#[test]
fn a_core_does_not_exist() -> Result<()> {
    let mut lab = Lab::prepare(&LabOptions::patient())?;
    edit(lab.a(), "workers: 1", "workers: 1, cores: [99]")?;
    let mut command = lab.a().command()?;
    fails_with(&mut lab, &mut command, &["core", "99"])
}

#[test]
fn there_are_too_few_cores() -> Result<()> {
    let mut lab = Lab::prepare(&LabOptions { workers: vec![2, 1], ..LabOptions::patient() })?;
    let mut command = wrapped(lab.a().netns.command("taskset"), &["--cpu-list", "0"], &lab.a().command()?);
    fails_with(&mut lab, &mut command, &["2 workers", "core", "workers"])
}

#[test]
fn a_memlock_limit_of_nothing_does_no_harm() -> Result<()> {
    let mut lab = Lab::prepare(&LabOptions::patient())?;
    let words = ["--memlock=0:0", "setpriv", "--bounding-set=-ipc_lock", "--"];
    let mut command = wrapped(lab.a().netns.command("prlimit"), &words, &lab.a().command()?);
    lab.gateways[0].start(&mut command)?;
    lab.gateways[1].start_control()?;
    lab.wait_until_up()?;
    let bytes = crate::QUARTER_GIB / 4;
    adit_bench::lab::traffic::transfer(&lab.b().netns, &lab.a().netns, lab.a().inner().into(), bytes)?.verify(bytes)
}

#[test]
fn others_can_read_the_static_key() -> Result<()> {
    let mut lab = Lab::prepare(&LabOptions::patient())?;
    let file = lab.dir().join("site-a-site-b.key");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640))?;
    let mut command = lab.a().command()?;
    fails_with(&mut lab, &mut command, &["site-a-site-b.key", "chmod"])?;
    let check = lab.a().adit("config check");
    ensure!(check.is_err(), "`adit config check` accepts a key that others can read");
    Ok(())
}

#[test]
fn the_data_plane_program_is_missing() -> Result<()> {
    let mut lab = Lab::prepare(&LabOptions::patient())?;
    let original = adit_bench::lab::binary("adit-dataplane")?.display().to_string();
    edit(lab.a(), &original, "/nonexistent/adit-dataplane")?;
    let mut command = lab.a().command()?;
    fails_with(&mut lab, &mut command, &["/nonexistent/adit-dataplane"])
}

#[test]
fn the_interface_name_is_taken_by_another_link() -> Result<()> {
    let mut lab = Lab::prepare(&LabOptions::patient())?;
    lab.a().netns.run("ip link add adit0 type veth peer name other")?;
    let mut command = lab.a().command()?;
    fails_with(&mut lab, &mut command, &["adit0"])?;
    // What was there stays as it was.
    lab.a().netns.run("ip link show adit0").map(drop)
}
