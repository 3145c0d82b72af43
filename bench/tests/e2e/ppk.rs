//! Post-quantum pre-shared keys (RFC 8784) in the configuration of a peer.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use adit_bench::lab::{Gateway, Lab, SOON, binary, wait_until};
use anyhow::{Context, Result, ensure};

use crate::ike_tunnel::{ROLES, ike, options};
use crate::{edit, reaches};

const RIGHT: &str = "a post-quantum pre-shared key of 256 bits or more";
const WRONG: &str = "another one that is as long as the right one, but it is not";

/// Two gateways; each has such a key where `more` says something about it: contents, and what else is in the peer's block.
fn prepare(ends: [Option<(&str, &str)>; 2]) -> Result<Lab> {
    let lab = Lab::prepare(&options(&ROLES))?;
    for (gateway, end) in lab.gateways.iter().zip(ends) {
        let Some((key, more)) = end else { continue };
        let file = lab.dir().join(format!("{}.ppk", gateway.name));
        fs::write(&file, key)?;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;
        edit(gateway, "ike: { ", &format!("ike: {{ ppk_file: {}, {more}, ", file.display()))?;
    }
    Ok(lab)
}

fn start(lab: &mut Lab) -> Result<()> {
    lab.gateways.iter_mut().try_for_each(Gateway::start_control)
}

#[test]
fn equal_keys_connect_and_are_shown() -> Result<()> {
    let key = Some((RIGHT, "ppk_id: pair"));
    let mut lab = prepare([key, key])?;
    start(&mut lab)?;
    lab.wait_until_up()?;
    for gateway in [lab.a(), lab.b()] {
        let reported = ike(gateway)?;
        ensure!(reported["sas"][0]["ppk"] == true && reported["sas"][0]["post_quantum"] == true, "{reported:#}");
        let other = if gateway.number == 1 { "site-b" } else { "site-a" };
        let report = gateway.adit(&format!("status {other}"))?;
        ensure!(report.contains("post-quantum, with a pre-shared key"), "{report}");
    }
    // It stays so with new keys.
    let before = ike(lab.a())?["sas"][0]["initiator_spi"].take();
    lab.a().adit("rekey --ike site-b")?;
    wait_until("the IKE SA is another", SOON, || Ok(ike(lab.a())?["sas"][0]["initiator_spi"] != before))?;
    ensure!(ike(lab.a())?["sas"][0]["ppk"] == true, "{:#}", ike(lab.a())?);
    let shown = lab.a().netns.run(&format!("{} config show {}", binary("adit")?.display(), lab.a().config.display()))?;
    ensure!(shown.contains("ppk_id: pair") && !shown.contains(RIGHT) && !lab.logs().contains(RIGHT), "{shown}");
    Ok(())
}

#[test]
fn a_key_that_only_one_end_has_is_done_without_where_it_is_optional() -> Result<()> {
    let mut lab = prepare([Some((RIGHT, "ppk_id: pair, ppk_required: false")), None])?;
    start(&mut lab)?;
    lab.wait_until_up()?;
    ensure!(ike(lab.a())?["sas"][0]["ppk"] == false, "{:#}", ike(lab.a())?);
    Ok(())
}

/// Both ends explain what is wrong, and when it is put right at the second one, they connect.
fn fails_and_comes_right(ends: [Option<(&str, &str)>; 2], words: [&str; 2], mend: impl Fn(&Lab) -> Result<()>) -> Result<()> {
    let mut lab = prepare(ends)?;
    start(&mut lab)?;
    wait_until("both ends explain it", SOON, || {
        let reported = |gateway: &Gateway, peer: &str| gateway.adit(&format!("explain {peer}")).unwrap_or_default();
        Ok(reported(lab.a(), "site-b").contains(words[0]) && reported(lab.b(), "site-a").contains(words[1]))
    })
    .with_context(|| format!("{}\n{:?}\n{:?}", lab.logs(), lab.a().adit("explain site-b"), lab.b().adit("explain site-a")))?;
    ensure!(reaches(&lab.a().netns, lab.b().inner()).is_err(), "packets pass");
    lab.gateways[1].stop()?;
    mend(&lab)?;
    lab.gateways[1].start_control()?;
    wait_until("it connects", SOON, || Ok(reaches(&lab.a().netns, lab.b().inner()).is_ok())).with_context(|| lab.logs())
}

#[test]
fn a_wrong_key_is_explained_and_put_right() -> Result<()> {
    let ends = [Some((RIGHT, "ppk_id: pair")), Some((WRONG, "ppk_id: pair"))];
    let words = ["post-quantum pre-shared keys differ", "its post-quantum pre-shared key of the same name is another one"];
    fails_and_comes_right(ends, words, |lab| Ok(fs::write(lab.dir().join("site-b.ppk"), RIGHT)?))
}

#[test]
fn a_key_of_another_name_is_explained_and_put_right() -> Result<()> {
    let ends = [Some((RIGHT, "ppk_id: pair")), Some((RIGHT, "ppk_id: couple"))];
    let words = ["post-quantum pre-shared keys differ", "here:  couple\n  there: pair"];
    fails_and_comes_right(ends, words, |lab| edit(lab.b(), "ppk_id: couple", "ppk_id: pair"))
}
