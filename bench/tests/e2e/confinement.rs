//! What each process may do once it runs: capabilities, users, system calls, as the kernel tells it; and that all goes on under it.

use std::fs::{self, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use adit_bench::lab::{Gateway, Lab, LabOptions, SOON, TAP, binary, copy_program, wait_until};
use adit_bench::process::is_running;
use anyhow::{Context, Result, ensure};

use crate::{Pings, reaches};

/// The users that a package or a service manager makes; the tests have a list of users of their own.
const ADIT: u32 = 64_110;
const DATA_PLANE: u32 = 64_111;
/// CAP_NET_ADMIN, CAP_NET_BIND_SERVICE, CAP_DAC_READ_SEARCH and CAP_KILL.
const OF_ROOT: &str = "0000000000001424";

/// What the kernel says of each thread of a process under these names.
fn threads(pid: u32, names: &[&str]) -> Result<Vec<Vec<String>>> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).context("a running process")?;
    let of = |status: String| {
        let value = |name: &&str| status.lines().find_map(|line| line.strip_prefix(*name)?.strip_prefix(':')).unwrap_or("");
        names.iter().map(|name| value(name).split_whitespace().next().unwrap_or("").to_owned()).collect()
    };
    tasks.map(|task| Ok(of(fs::read_to_string(task?.path().join("status"))?))).collect()
}

/// Whether this kernel does landlock: by its list, and where that is not mounted, by its answer to
/// landlock_create_ruleset(NULL, 0, LANDLOCK_CREATE_RULESET_VERSION), which is a version.
fn has_landlock() -> Result<bool> {
    let has = if let Ok(modules) = fs::read_to_string("/sys/kernel/security/lsm") {
        modules.trim().split(',').any(|module| module == "landlock")
    } else {
        let asked = Command::new("perl").args(["-e", "exit(syscall(444, 0, 0, 1) < 1)"]).status().context("starting perl")?;
        asked.success()
    };
    if !has {
        // Where it is seen: the harness keeps what a test that passes prints.
        let _ = writeln!(io::stderr(), "SKIPPED: this kernel has no landlock, so that it is in force is not tested here");
    }
    Ok(has)
}

/// An error unless every thread of the data plane, of which there are so many, has given up everything, as this user.
fn is_confined(gateway: &Gateway, count: usize, user: u32) -> Result<u32> {
    let pid = gateway.data_plane().context("a data plane")?;
    let sets = ["CapPrm", "CapEff", "CapInh", "CapAmb", "CapBnd"];
    let found = threads(pid, &[&sets[..], &["NoNewPrivs", "Seccomp", "Uid"]].concat())?;
    let user = user.to_string();
    let wanted: Vec<&str> = sets.iter().map(|_| "0000000000000000").chain(["1", "2", user.as_str()]).collect();
    ensure!(found.len() == count && found.iter().all(|thread| *thread == wanted), "{found:?}");
    Ok(pid)
}

/// An error unless the control plane has these capabilities and no others, as this user.
fn has_capabilities(control: u32, capabilities: &str, user: u32) -> Result<()> {
    let found = threads(control, &["CapPrm", "CapEff", "Uid"])?;
    let user = user.to_string();
    ensure!(found.iter().all(|thread| *thread == [capabilities, capabilities, user.as_str()]), "{found:?}");
    Ok(())
}

fn is_up(lab: &mut Lab) -> Result<()> {
    lab.wait_until_up()?;
    reaches(&lab.b().netns, lab.a().inner())
}

/// Kills the control plane, and starts another one: the data plane is the same.
fn replace_control(lab: &mut Lab, start: impl Fn(&mut Lab) -> Result<()>) -> Result<()> {
    let (plane, pings) = (lab.a().data_plane(), Pings::start(lab, lab.b(), lab.a().inner(), Duration::from_millis(2))?);
    lab.gateways[0].kill_control()?;
    start(lab)?;
    wait_until("the new control plane serves metrics", SOON, || Ok(lab.a().metrics().is_ok())).with_context(|| lab.a().log())?;
    pings.none_lost(lab, 10)?;
    ensure!(lab.a().data_plane() == plane, "the data plane is another one");
    Ok(())
}

#[test]
fn no_thread_of_a_data_plane_keeps_a_privilege() -> Result<()> {
    for io in ["io_uring", "poll"] {
        let mut lab = Lab::prepare(&LabOptions { io, workers: vec![2, 1], ..LabOptions::patient() })?;
        // Root stays root only where there is no other user for it.
        let house = House::new(&lab, "", "")?;
        for number in 0..2 {
            house.start(&mut lab, number)?;
        }
        lab.wait_until_up()?;
        let first = is_confined(lab.a(), 3, 0)?;
        is_confined(lab.b(), 2, 0)?;
        let control = lab.gateways[0].control()?.pid();
        has_capabilities(control, OF_ROOT, 0)?;
        let status = lab.a().status()?;
        let in_force = status["data_plane"]["protections"]["in_force"].to_string();
        for what in ["no capabilities", "no new privileges", "seccomp"] {
            ensure!(in_force.contains(what), "{in_force}");
        }
        // All of it, or what an older kernel has: "landlock for files".
        ensure!(in_force.contains("\"landlock") == has_landlock()?, "{in_force}");
        ensure!(in_force.contains("io_uring restrictions") == (io == "io_uring"), "{in_force}");
        ensure!(lab.a().adit("status")?.contains("confined by"), "people are not told");
        lab.a().wait_for_log("protections: ", SOON)?;

        replace_control(&mut lab, |lab| house.start(lab, 0))?;
        ensure!(is_confined(lab.a(), 3, 0)? == first);
        // Another process has given up as much.
        lab.a().kill_data_plane()?;
        wait_until("there is another data plane", SOON, || Ok(lab.a().data_plane().is_some_and(|pid| pid != first)))?;
        is_up(&mut lab)?;
        let second = is_confined(lab.a(), 3, 0)?;
        // What it cannot open any more it is handed.
        lab.a().netns.run(&format!("ip link del {TAP}"))?;
        lab.a().wait_for_log("was handed over anew", SOON)?;
        is_up(&mut lab)?;
        ensure!(is_confined(lab.a(), 3, 0)? == second, "it is another process");
        let text = fs::read_to_string(&lab.a().config)?.replace("listen: \"192.0.2.1:4500\"", "listen: \"0.0.0.0:4500\"");
        fs::write(&lab.a().config, text)?;
        lab.a().adit("reload --restart-dataplane")?;
        wait_until("there is another data plane", SOON, || Ok(lab.a().data_plane().is_some_and(|pid| pid != second)))?;
        is_up(&mut lab)?;
        is_confined(lab.a(), 3, 0)?;
    }
    Ok(())
}

/// A machine with these users of Adit and no others; its programs are where every user may run them.
struct House {
    adit: PathBuf,
    passwd: PathBuf,
    group: PathBuf,
}

impl House {
    /// The lines about our users in its lists of users and of groups.
    fn new(lab: &Lab, users: &str, groups: &str) -> Result<House> {
        let dir = lab.dir();
        fs::set_permissions(dir, Permissions::from_mode(0o755))?;
        let list = |of: &str, more: &str| -> Result<PathBuf> {
            let file = dir.join(of);
            let all = fs::read_to_string(Path::new("/etc").join(of))?;
            let others = all.lines().filter(|line| !["adit", "adit-dataplane"].contains(&line.split(':').next().unwrap_or("")));
            fs::write(&file, others.map(|line| format!("{line}\n")).collect::<String>() + more)?;
            Ok(file)
        };
        let house = House { adit: dir.join("adit"), passwd: list("passwd", users)?, group: list("group", groups)? };
        // Where they were built may be closed to other users.
        copy_program(&binary("adit")?, &house.adit)?;
        copy_program(&binary("adit-dataplane")?, &dir.join("adit-dataplane"))?;
        let config = &lab.a().config;
        let built = binary("adit-dataplane")?.display().to_string();
        let text = fs::read_to_string(config)?.replace(&built, &dir.join("adit-dataplane").display().to_string());
        fs::write(config, text)?;
        Ok(house)
    }

    /// Starts a gateway of the lab there.
    fn start(&self, lab: &mut Lab, number: usize) -> Result<()> {
        let gateway = &mut lab.gateways[number];
        let mut command = gateway.netns.command("unshare");
        let script = "mount --bind \"$1\" /etc/passwd && mount --bind \"$2\" /etc/group && shift 2 && exec \"$@\"";
        command.args(["--mount", "sh", "-c", script, "sh"]).args([&self.passwd, &self.group]);
        command.arg(&self.adit).args(["run", "-c"]).arg(&gateway.config);
        gateway.start(&mut command)
    }
}

#[test]
fn a_data_plane_that_root_starts_becomes_its_own_user() -> Result<()> {
    let mut lab = Lab::prepare(&LabOptions { workers: vec![2, 1], ..LabOptions::patient() })?;
    let users =
        format!("adit:x:{ADIT}:{ADIT}::/nonexistent:/bin/false\nadit-dataplane:x:{DATA_PLANE}:{ADIT}::/nonexistent:/bin/false\n");
    let house = House::new(&lab, &users, &format!("adit:x:{ADIT}:\n"))?;
    let start = |lab: &mut Lab| house.start(lab, 0);
    // As it was left by one that ran before there were these users.
    let run = lab.dir().join("run-site-a");
    fs::create_dir(&run)?;
    fs::set_permissions(&run, Permissions::from_mode(0o700))?;
    start(&mut lab)?;
    lab.gateways[1].start_control()?;
    is_up(&mut lab)?;
    let plane = is_confined(lab.a(), 3, DATA_PLANE)?;
    replace_control(&mut lab, start)?;
    // The socket can be made again by who is not root, in a directory that is, too.
    let socket = fs::read_dir(&run)?.flatten().find(|entry| entry.file_name().to_string_lossy().contains("plane.sock"));
    let socket = socket.context("the channel's socket")?.path();
    fs::remove_file(&socket)?;
    wait_until("the socket is there again", SOON, || Ok(socket.exists())).with_context(|| lab.a().log())?;
    replace_control(&mut lab, start)?;
    ensure!(is_confined(lab.a(), 3, DATA_PLANE)? == plane);
    lab.gateways[0].stop()?;
    ensure!(!is_running(plane), "it was left");
    Ok(())
}
