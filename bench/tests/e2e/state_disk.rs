//! A state disk that is full, or hangs: static keys get no more numbers from it, and nothing else notices. The log says it once.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use adit_bench::lab::{Gateway, Lab, LabOptions, SOON, wait_until};
use anyhow::{Context, Result, ensure};

use crate::{Pings, edit, reaches};

/// A small disk of its own, until it is dropped.
struct Disk(PathBuf);

impl Disk {
    fn at(path: &Path) -> Result<Disk> {
        fs::create_dir_all(path)?;
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=256k,mode=0700", "state"]).arg(path).status()?;
        ensure!(mounted.success(), "mount: {mounted}");
        Ok(Disk(path.to_owned()))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// `site-a` has `site-b` by IKE, and `site-c` by a static key, whose numbers and windows go to the disk.
fn lab() -> Result<(Lab, Disk)> {
    let mut lab = Lab::prepare(&LabOptions { gateways: 3, ..LabOptions::patient() })?;
    let key = lab.dir().join("site-a-site-b.key");
    let (by_key, by_ike) =
        (format!("static_key_file: {}", key.display()), format!("ike: {{ psk_file: {} }}", key.with_extension("psk").display()));
    for gateway in &lab.gateways[..2] {
        edit(gateway, &by_key, &by_ike)?;
    }
    let disk = Disk::at(&lab.dir().join("state-site-a"))?;
    for gateway in &mut lab.gateways {
        gateway.start_control()?;
    }
    lab.wait_until_up()?;
    Ok((lab, disk))
}

fn rekeyed(gateway: &Gateway) -> Result<f64> {
    gateway.metrics()?.sum("adit_ike_rekeys_total", &[("sa", "ike")]).context("a counter")
}

/// IKE works on while the disk does not, and so do both tunnels; `said` is in the log once.
fn goes_on(lab: &Lab, said: &str) -> Result<()> {
    let pings = Pings::start(lab, lab.a(), lab.b().inner(), Duration::from_millis(5))?;
    // What comes from there moves a window, which is to be written.
    reaches(&lab.a().netns, lab.gateways[2].inner())?;
    lab.a().wait_for_log(said, SOON)?;
    for _ in 0..3 {
        let before = rekeyed(lab.a())?;
        lab.a().adit("rekey --ike site-b")?;
        wait_until("IKE rekeys", SOON, || Ok(rekeyed(lab.a())? > before)).with_context(|| lab.logs())?;
        reaches(&lab.a().netns, lab.gateways[2].inner())?;
        // Longer than between two tries to write.
        thread::sleep(Duration::from_secs(2));
    }
    pings.none_lost(lab, 300)?;
    let times = lab.a().log().matches(said).count();
    ensure!(times == 1, "said {times} times:\n{}", lab.a().log());
    Ok(())
}

#[test]
fn a_full_state_disk_stalls_no_ike_and_is_said_once() -> Result<()> {
    let (lab, disk) = lab()?;
    let waste = disk.0.join("waste");
    // To the last byte.
    let _ = fs::write(&waste, vec![0; 1 << 20]);
    goes_on(&lab, "cannot be written")?;
    fs::remove_file(&waste)?;
    lab.a().wait_for_log("the state directory can be written again", SOON)?;
    Ok(())
}

#[test]
fn a_state_disk_that_hangs_stalls_no_ike_and_is_said_once() -> Result<()> {
    let (lab, disk) = lab()?;
    // Who opens it to write waits until somebody reads, as a hanging disk lets wait.
    let pipe = disk.0.join("sequence.json.new");
    let made = Command::new("mkfifo").arg(&pipe).status()?;
    ensure!(made.success(), "mkfifo: {made}");
    goes_on(&lab, "has not answered")?;
    let read = File::open(&pipe)?;
    fs::remove_file(&pipe)?;
    drop(read);
    lab.a().wait_for_log("the state directory can be written again", SOON)?;
    Ok(())
}

#[test]
fn a_data_plane_that_dies_while_the_disk_is_full_carries_ike_on() -> Result<()> {
    let (lab, disk) = lab()?;
    let (a, waste) = (lab.a(), disk.0.join("waste"));
    // To the last byte.
    let _ = fs::write(&waste, vec![0; 1 << 20]);
    let old = a.kill_data_plane()?;
    wait_until("another data plane", SOON, || Ok(a.data_plane().is_some_and(|plane| plane != old))).with_context(|| a.log())?;
    wait_until("the tunnel by IKE is back", SOON, || Ok(reaches(&a.netns, lab.b().inner()).is_ok())).with_context(|| a.log())?;
    a.wait_for_log("Static keys are without numbers until then", SOON)?;
    let c = &lab.gateways[2];
    let reached = || a.netns.run(&format!("ping -n -c1 -W1 {}", c.inner())).is_ok();
    ensure!(!reached(), "a number was used that is not on the disk");
    let status = a.adit("status site-c")?;
    ensure!(status.contains("NOT IN THE DATA PLANE"), "{status}");
    fs::remove_file(&waste)?;
    wait_until("the one with the static key is back", SOON, || Ok(reached())).with_context(|| a.log())
}

/// The other gateway rekeys IKE; whether that was done while the command was still being carried out.
fn rekeys_meanwhile(lab: &Lab, command: impl FnOnce() -> Result<String> + Send) -> Result<bool> {
    thread::scope(|scope| {
        let command = scope.spawn(command);
        // It is being carried out by then.
        thread::sleep(Duration::from_millis(300));
        let before = rekeyed(lab.b())?;
        lab.b().adit("rekey --ike site-a")?;
        wait_until("IKE rekeys", SOON, || Ok(rekeyed(lab.b())? > before))?;
        let meanwhile = !command.is_finished();
        command.join().map_err(|_| anyhow::anyhow!("the command panicked"))??;
        Ok(meanwhile)
    })
}

#[test]
fn ike_goes_on_while_a_command_waits_for_a_disk_that_hangs() -> Result<()> {
    let (lab, disk) = lab()?;
    let pipe = disk.0.join("sequence.json.new");
    let made = Command::new("mkfifo").arg(&pipe).status()?;
    ensure!(made.success(), "mkfifo: {made}");
    let whole = fs::read_to_string(&lab.a().config)?;
    let without: String = whole.lines().filter(|line| !line.contains("name: site-c,")).map(|line| format!("{line}\n")).collect();
    // The windows of a peer that goes are to be on the disk, and the numbers of one that comes. A busy machine may be late.
    let mut meanwhile = Vec::new();
    for text in [&without, &whole].into_iter().cycle().take(8) {
        fs::write(&lab.a().config, text)?;
        meanwhile.push(rekeys_meanwhile(&lab, || lab.a().adit("reload"))?);
        if meanwhile.len() >= 2 && meanwhile.contains(&true) {
            return Ok(());
        }
    }
    anyhow::bail!("{meanwhile:?}: IKE waited for the disk\n{}", lab.a().log())
}
