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
