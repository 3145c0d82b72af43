//! The services of both planes, as a machine runs them whose process 1 is systemd. One machine for all: `services.sh` does everything
//! in it and tells facts, which are judged here.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use adit_bench::lab::binary;
use adit_bench::lab::machine::{Machine, MachineFile, stripped};
use anyhow::{Context, Result, ensure};

static MACHINE: LazyLock<Result<Machine, String>> = LazyLock::new(|| boot().map_err(|error| format!("{error:#}")));

/// Highest exposure that `systemd-analyze security` may find.
const EXPOSURE_MAX: f64 = 2.0;
/// Pings, each a hundredth of a second, that may be lost while a data plane is replaced: it takes a fraction of a second with KVM, and
/// some seconds on a busy host without it.
const REPLACED_LOSS_MAX: u32 = 1200;

fn boot() -> Result<Machine> {
    let mut files = Vec::new();
    for program in ["adit", "adit-dataplane"] {
        files.push(MachineFile::new(Path::new("usr/local/sbin").join(program), 0o755, stripped(&binary(program)?)?));
    }
    // Where the README's commands find them.
    for file in UNITS.iter().chain(&["sysusers.conf"]) {
        files.push(MachineFile::new(Path::new("lab/deploy").join(file), 0o644, fs::read(deployed(file))?));
    }
    files.push(MachineFile::new("lab/README.md", 0o644, fs::read(deployed("../README.md"))?));
    for (name, peer, number) in [("a", "b", 1), ("b", "a", 2)] {
        let config = format!(
            "name: {name}\nlisten: 192.0.2.{number}:4500\ninterface: {{ name: adit0, addresses: [10.1.0.{number}/24] }}\n\
             peers:\n  - {{ name: {peer}, endpoint: \"192.0.2.{}:4500\", ike: {{ psk_file: {peer}.psk }} }}\n",
            3 - number
        );
        files.push(MachineFile::new(format!("etc/adit/{name}.yaml"), 0o644, config));
        files.push(MachineFile::new(format!("etc/adit/{peer}.psk"), 0o600, format!("{}\n", "5f1d3c8a99b2e7f0".repeat(4))));
    }
    Machine::run(&files, include_str!("services.sh"))
}

const UNITS: [&str; 2] = ["adit@.service", "adit-dataplane@.service"];

fn deployed(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(file)
}

fn machine() -> Result<&'static Machine> {
    MACHINE.as_ref().map_err(|error| anyhow::anyhow!("{error}"))
}

/// An error unless these facts have these values.
fn facts(expected: &[(&str, &str)]) -> Result<()> {
    let machine = machine()?;
    for (name, value) in expected {
        let found = machine.fact(name)?;
        ensure!(found == *value, "{name} is `{found}` and not `{value}`: {:#?}\n{}", machine.facts, machine.console);
    }
    let timeouts: Vec<_> = machine.facts.iter().filter(|line| line.starts_with("timeout")).collect();
    ensure!(timeouts.is_empty(), "{timeouts:?} of {:#?}\n{}", machine.facts, machine.console);
    Ok(())
}

#[test]
fn both_services_start_and_are_ready_when_the_gateway_is() -> Result<()> {
    facts(&[("start.code", "0"), ("start.active", "active active"), ("adit.status", "a: the peer is up")])?;
    let status = machine()?.fact("adit-dataplane.status")?;
    ensure!(status.starts_with("forwarding; the control plane is process "), "{status}");
    Ok(())
}

#[test]
fn adit_reads_what_it_may_not_change_and_the_data_plane_sees_none_of_it() -> Result<()> {
    facts(&[("install.code", "0 root:adit:640 root:adit:750"), ("adit.files", "4"), ("adit-dataplane.files", "0")])
}

#[test]
fn each_plane_is_a_user_of_its_own_with_the_capabilities_that_it_needs() -> Result<()> {
    facts(&[
        ("adit.user", "adit adit"),
        ("adit-dataplane.user", "adit-dataplane adit"),
        ("adit.NoNewPrivs", "1"),
        ("adit-dataplane.NoNewPrivs", "1"),
        ("adit.Seccomp", "2"),
        ("adit-dataplane.Seccomp", "2"),
    ])?;
    // Bits of capability.h: CAP_NET_BIND_SERVICE 10, CAP_NET_ADMIN 12, CAP_NET_RAW 13, CAP_BPF 39. `adit` gives up what it opens raw
    // sockets with, the data plane everything; what a unit bounds is nothing that its process may change.
    let (work, raw, bpf) = (1u64 << 10 | 1 << 12, 1u64 << 13, 1u64 << 39);
    let machine = machine()?;
    for (unit, kept, bound) in [("adit", work, work | raw), ("adit-dataplane", 0, work | bpf)] {
        for (set, expected) in [("CapEff", kept), ("CapPrm", kept), ("CapBnd", bound)] {
            let found = u64::from_str_radix(machine.fact(&format!("{unit}.{set}"))?, 16)?;
            ensure!(found == expected, "{unit} has {set} {found:x} and not {expected:x}");
        }
    }
    Ok(())
}

#[test]
fn a_data_plane_gives_up_by_itself_what_its_unit_would_take_as_well() -> Result<()> {
    let (said, modules) = (machine()?.fact("adit-dataplane.protections")?, machine()?.fact("kernel.lsm")?);
    let in_force: Vec<&str> = said.split("; lacking: ").next().unwrap_or_default().split(", ").collect();
    for what in ["no capabilities", "no new privileges", "seccomp"] {
        ensure!(in_force.contains(&what), "{said}");
    }
    // All of it, or what an older kernel has: "landlock for files".
    let landlock = in_force.iter().any(|what| what.starts_with("landlock"));
    ensure!(landlock == modules.split(',').any(|module| module == "landlock"), "{said}; the kernel has {modules}");
    Ok(())
}

#[test]
fn a_restart_loses_no_packet() -> Result<()> {
    facts(&[("restart.code", "0"), ("restart.pings", "0 lost"), ("restart.planes", "new same")])
}

#[test]
fn a_reload_reloads_and_a_file_with_mistakes_changes_nothing() -> Result<()> {
    facts(&[("reload.code", "0 1"), ("reload.nonsense", "1 active"), ("reload.pings", "0 lost"), ("reload.planes", "same same")])
}

#[test]
fn sockets_and_an_interface_are_handed_from_user_to_user() -> Result<()> {
    facts(&[
        ("listen.4501.pings", "0 lost"),
        ("listen.4501.here", "2"),
        ("listen.4500.pings", "0 lost"),
        ("listen.4500.here", "2"),
        ("devices.planes", "same same"),
    ])
}

#[test]
fn a_control_plane_that_dies_or_hangs_is_started_again_and_none_is_lost() -> Result<()> {
    facts(&[("killed.pings", "0 lost"), ("killed.planes", "new same"), ("hung.pings", "0 lost"), ("hung.planes", "new same")])
}

#[test]
fn a_data_plane_is_replaced_at_once_by_the_one_that_is_wanted() -> Result<()> {
    // Each data plane has said something, and how much it matters.
    facts(&[("journal.said", "both"), ("journal.unread", "0")])?;
    facts(&[("replaced.code", "0 1280"), ("replaced.planes", "same new"), ("replaced.faults", "0"), ("replaced.settings", "0")])?;
    let machine = machine()?;
    let lost = machine.fact("replaced.pings")?;
    let lost: u32 = lost.strip_suffix(" lost").and_then(|lost| lost.parse().ok()).with_context(|| format!("`{lost}`"))?;
    ensure!(lost <= REPLACED_LOSS_MAX, "{lost} pings were lost while the data plane was replaced\n{}", machine.console);
    Ok(())
}

#[test]
fn a_data_plane_that_dies_ends_or_hangs_comes_back() -> Result<()> {
    facts(&[("plane_killed.planes", "same new"), ("plane_ended.planes", "same new"), ("plane_hung.planes", "same new")])
}

#[test]
fn a_stop_stops_both_tells_the_peer_and_can_be_undone() -> Result<()> {
    facts(&[
        ("stop.code", "0"),
        ("stop.user", "adit"),
        ("stop.active", "inactive inactive success success"),
        ("stop.interface", "0"),
        ("stop.nothing", "3 nothing runs as a: neither adit nor a data plane"),
        ("stop.again", "0"),
    ])
}

#[test]
fn no_service_is_more_exposed_than_it_has_to_be() -> Result<()> {
    let dir = tempfile::tempdir()?;
    for unit in UNITS.into_iter().chain(["adit-relay.service"]) {
        let named = dir.path().join(unit.replace('@', "@x"));
        fs::copy(deployed(unit), &named)?;
        let output = Command::new("systemd-analyze").args(["security", "--offline=yes", "--no-pager"]).arg(&named).output();
        let output = output.context("systemd-analyze is of the package systemd: deploy/install-deps.sh test installs it")?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        // → Overall exposure level for adit@x.service: 1.9 OK
        let level = said.lines().find_map(|line| line.split_once("Overall exposure level for ")?.1.split_once(": "));
        let level = level.and_then(|(_, level)| level.split(' ').next()?.parse::<f64>().ok());
        ensure!(level.is_some_and(|level| level <= EXPOSURE_MAX), "{unit}: {said}");
        ensure!(!said.contains("nknown"), "{unit} says what this systemd does not understand: {said}");
    }
    Ok(())
}
