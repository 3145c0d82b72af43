//! The key log of the daemon: with it tshark reads what two gateways said, and nobody overlooks that it is on.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use adit_bench::lab::capture::Capture;
use adit_bench::lab::tshark::{Analysis, KEY_FILES};
use adit_bench::lab::{Lab, SOON, WAN, binary, wait_until};
use anyhow::{Context, Result, ensure};

use crate::ike_tunnel::{ROLES, patient, spis};
use crate::{edit, reaches};

const IKE_AUTH: &str = "isakmp.exchangetype == 35";

/// Two gateways of which the first one is to log its keys here. ESP without ESN, which not every tshark knows.
fn lab(dir: impl Fn(&Lab) -> std::path::PathBuf) -> Result<Lab> {
    let roles = ROLES.map(|role| format!("{role}, esp_proposals: [aes128gcm16-noesn]"));
    let lab = Lab::prepare(&patient(&[&roles[0], &roles[1]]))?;
    edit(lab.a(), "peers:\n", &format!("ike: {{ key_log_dir: {} }}\npeers:\n", dir(&lab).display()))?;
    Ok(lab)
}

fn mode(path: &Path) -> Result<u32> {
    Ok(fs::metadata(path)?.permissions().mode() & 0o7777)
}

#[test]
fn tshark_reads_ike_and_esp_of_two_gateways_with_the_key_log_of_one() -> Result<()> {
    let mut lab = lab(|lab| lab.dir().join("keys"))?;
    let keys = lab.dir().join("keys");
    let mut capture = Capture::open(&lab.b().netns, WAN)?;
    for gateway in &mut lab.gateways {
        gateway.start_control()?;
    }
    lab.wait_until_up()?;
    let before = spis(lab.a())?;
    lab.a().adit("rekey --ike site-b")?;
    wait_until("the IKE SA is another", SOON, || Ok(spis(lab.a())?.0 != before.0)).with_context(|| lab.logs())?;
    reaches(&lab.a().netns, lab.b().inner())?;
    let datagrams = capture.drain()?;

    let analysis = Analysis::new(&datagrams, &keys)?;
    let names = analysis.values(IKE_AUTH, "isakmp.id.data.fqdn")?;
    ensure!(["site-a", "site-b"].iter().all(|name| names.iter().any(|line| line.contains(name))), "the identities: {names:?}");
    let rekeys = analysis.values("isakmp.exchangetype == 36 && isakmp.key_exchange.data", "isakmp.ispi")?;
    ensure!(!rekeys.is_empty(), "no CREATE_CHILD_SA is read");
    let (good, bad) = (analysis.values("esp.icv_good == 1", "esp.spi")?, analysis.values("esp.icv_bad == 1", "esp.spi")?);
    ensure!(good.len() > 40 && bad.is_empty(), "ESP: {} tags are good, {} are not", good.len(), bad.len());
    // Without the keys, nothing of it.
    let blind = Analysis::new(&datagrams, lab.dir())?;
    ensure!(!blind.values(IKE_AUTH, "isakmp.exchangetype")?.is_empty(), "the exchange is in the capture");
    let names = blind.values(&format!("{IKE_AUTH} && isakmp.id.data.fqdn"), "isakmp.id.data.fqdn")?;
    ensure!(names.is_empty() && blind.values("esp.icv_good == 1", "esp.spi")?.is_empty(), "{names:?}");
    Ok(())
}

#[test]
fn that_keys_are_logged_is_said_wherever_somebody_looks() -> Result<()> {
    let mut lab = lab(|lab| lab.dir().join("new/keys"))?;
    let keys = lab.dir().join("new/keys");
    let check = format!("{} config check", binary("adit")?.display());
    let [said, silent] = [lab.a(), lab.b()].map(|gateway| gateway.netns.run(&format!("{check} {}", gateway.config.display())));
    let (said, silent) = (said?, silent?);
    ensure!(said.contains("WARNING: the keys of every SA go to") && !silent.contains("WARNING"), "{said}\n{silent}");
    for gateway in &mut lab.gateways {
        gateway.start_control()?;
    }
    lab.wait_until_up()?;
    ensure!(mode(&keys)? == 0o700 && KEY_FILES.iter().all(|file| mode(&keys.join(file)).is_ok_and(|mode| mode == 0o600)));
    for (gateway, on) in [(lab.a(), true), (lab.b(), false)] {
        ensure!(gateway.metrics()?.sum("adit_key_log", &[]) == Some(f64::from(u8::from(on))), "{}", gateway.name);
        ensure!(gateway.adit("status")?.contains("KEY LOG") == on, "{}", gateway.adit("status")?);
        ensure!(gateway.adit("status --json")?.contains(&keys.display().to_string()) == on, "{}", gateway.name);
    }
    // At every start, and the lines of the last run stay.
    let lines = || Ok::<_, anyhow::Error>(fs::read_to_string(keys.join(KEY_FILES[0]))?.lines().count());
    let before = lines()?;
    ensure!(before > 0, "no key was logged");
    lab.gateways[0].stop()?;
    lab.gateways[0].start_control()?;
    lab.wait_until_up()?;
    ensure!(lines()? > before, "{} lines after {before}", lines()?);
    let warnings = lab.a().log().lines().filter(|line| line.contains("WARN") && line.contains("KEY LOG")).count();
    ensure!(warnings == 2, "{warnings} warnings\n{}", lab.a().log());
    ensure!(!lab.b().log().contains("KEY LOG"), "{}", lab.b().log());
    Ok(())
}

#[test]
fn keys_are_not_logged_where_others_can_read_them() -> Result<()> {
    let mut lab = lab(|lab| lab.dir().join("open"))?;
    let keys = lab.dir().join("open");
    fs::create_dir(&keys)?;
    fs::set_permissions(&keys, fs::Permissions::from_mode(0o755))?;
    lab.gateways[0].start_control()?;
    lab.a().wait_for_log(&format!("chmod 700 {}", keys.display()), SOON)?;
    lab.gateways[0].control()?.wait(SOON)?;
    ensure!(fs::read_dir(&keys)?.next().is_none(), "a file was made");
    fs::set_permissions(&keys, fs::Permissions::from_mode(0o700))?;
    for gateway in &mut lab.gateways {
        gateway.start_control()?;
    }
    lab.wait_until_up()
}
