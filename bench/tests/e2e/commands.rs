//! `adit connect`, `disconnect`, `rekey`, `explain` and `status` as people meet them: what they say, where, and their exit codes.

use std::io::{BufRead, BufReader};
use std::process::{Output, Stdio};

use adit_bench::lab::{Gateway, Lab, LabOptions, SOON, at_one_moment, binary, wait_until};
use anyhow::{Context, Result, ensure};

use crate::ike_tunnel::{ROLES, ike, listed, patient, peer, spis};
use crate::reaches;

/// All commands about a peer.
const COMMANDS: [&[&str]; 5] = [&["connect"], &["disconnect"], &["rekey"], &["rekey", "--ike"], &["explain"]];

fn adit(gateway: &Gateway, words: &[&str]) -> Result<Output> {
    let mut command = gateway.netns.command(binary("adit")?);
    Ok(command.args(words).arg("-c").arg(&gateway.config).output()?)
}

/// An error unless the command fails with this exit code and these words, and says nothing else.
fn refuses(gateway: &Gateway, words: &[&str], code: i32, error: &str) -> Result<()> {
    let output = adit(gateway, words)?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(code) && output.stdout.is_empty(), "{words:?}: {output:?}");
    ensure!(said.contains(error) && (code != 1 || said.lines().count() == 1), "{words:?}: {said}");
    Ok(())
}

#[test]
fn commands_about_a_peer_that_is_not_there_name_those_that_are() -> Result<()> {
    let lab = Lab::start(&patient(&ROLES))?;
    for peer in ["nobody", "site-B", "two words", "../site-b", "%2e%2e", "ä", "?"] {
        for command in COMMANDS {
            let words = [command, &[peer]].concat();
            refuses(lab.a(), &words, 1, &format!("there is no peer {peer}; the peers are site-b"))?;
        }
    }
    refuses(lab.a(), &["connect"], 2, "<PEER>")?;
    reaches(&lab.a().netns, lab.b().inner())
}

#[test]
fn commands_to_a_gateway_that_does_not_run_say_how_to_start_it() -> Result<()> {
    let mut lab = Lab::prepare(&patient(&ROLES))?;
    let error = format!("no adit runs as site-a: start it with adit run -c {}", lab.a().config.display());
    for command in COMMANDS {
        refuses(lab.a(), &[command, &["site-b"]].concat(), 1, &error)?;
    }
    refuses(lab.a(), &["status"], 1, &error)?;
    // The same of one that was killed: its socket is still there.
    lab.gateways[0].start_control()?;
    wait_until("it answers", SOON, || Ok(lab.a().adit("status").is_ok()))?;
    lab.gateways[0].kill_control()?;
    refuses(lab.a(), &["connect", "site-b"], 1, &error)?;
    refuses(lab.a(), &["status"], 1, &error)
}

#[test]
fn a_peer_with_a_static_key_has_no_ike_to_be_commanded() -> Result<()> {
    let lab = Lab::start(&LabOptions::patient())?;
    for command in COMMANDS.into_iter().filter(|command| *command != ["explain"]) {
        refuses(lab.a(), &[command, &["site-b"]].concat(), 1, "the peer site-b has a static key: there is nothing to negotiate")?;
    }
    // Until the size of the path is known, that is told.
    wait_until("nothing is wrong", SOON, || Ok(lab.a().adit("explain site-b")? == "site-b: established\nnothing is wrong\n"))
        .with_context(|| lab.a().adit("explain site-b").unwrap_or_default())?;
    reaches(&lab.a().netns, lab.b().inner())
}

#[test]
fn what_cannot_be_done_now_is_refused_and_what_can_is_done() -> Result<()> {
    let lab = Lab::start(&patient(&ROLES))?;
    let done = |words: &[&str], says: &str| -> Result<()> {
        let output = adit(lab.a(), words)?;
        ensure!(output.status.code() == Some(0) && output.stderr.is_empty(), "{words:?}: {output:?}");
        ensure!(String::from_utf8_lossy(&output.stdout) == says, "{words:?}: {output:?}");
        Ok(())
    };
    let connecting = "connecting to site-b: adit status site-b says how it goes\n";
    let disconnected = "disconnected from site-b, until adit connect site-b or the peer connects\n";
    let explained = adit(lab.a(), &["explain", "site-b"])?;
    ensure!(String::from_utf8_lossy(&explained.stdout).contains("nothing is wrong"), "{explained:?}");
    done(&["connect", "site-b"], connecting)?;
    done(&["disconnect", "site-b"], disconnected)?;
    wait_until("it is idle", SOON, || Ok(peer(lab.a())?["state"] == "idle"))?;
    done(&["disconnect", "site-b"], disconnected)?;
    for command in [["rekey", "site-b"].as_slice(), &["rekey", "--ike", "site-b"]] {
        refuses(lab.a(), command, 1, "site-b: the peer is not connected")?;
    }
    done(&["connect", "site-b"], connecting)?;
    wait_until("it is up", SOON, || Ok(reaches(&lab.a().netns, lab.b().inner()).is_ok())).with_context(|| lab.logs())?;
    let before = spis(lab.a())?;
    done(&["rekey", "site-b"], "new keys of the Child SAs are being agreed on with site-b\n")?;
    wait_until("the keys are others", SOON, || Ok(spis(lab.a())?.1 != before.1)).with_context(|| lab.logs())?;
    done(&["rekey", "--ike", "site-b"], "new keys of the IKE SA are being agreed on with site-b\n")?;
    wait_until("so are those of the IKE SA", SOON, || Ok(spis(lab.a())?.0 != before.0)).with_context(|| lab.logs())
}

#[test]
fn a_status_that_is_watched_comes_again_and_again_and_shows_what_changes() -> Result<()> {
    let lab = Lab::start(&patient(&ROLES))?;
    let mut command = lab.a().netns.command(binary("adit")?);
    command.args(["status", "site-b", "--watch=1", "-c"]).arg(&lab.a().config);
    let mut watching = command.stdout(Stdio::piped()).spawn()?;
    let mut lines = BufReader::new(watching.stdout.take().context("a pipe")?).lines();
    let mut heads = || lines.find_map(|line| line.ok().filter(|line| line.starts_with("site-b: "))).context("it has ended");
    let first = (heads()?, heads()?);
    lab.a().adit("disconnect site-b")?;
    let mut changed = false;
    for _ in 0..20 {
        changed = changed || heads()?.starts_with("site-b: idle");
    }
    watching.kill()?;
    watching.wait()?;
    ensure!(first.0.starts_with("site-b: up") && first.1.starts_with("site-b: up") && changed, "{first:?}, {changed}");
    Ok(())
}

#[test]
fn status_shows_every_sa_with_suite_ages_counters_and_path() -> Result<()> {
    let lab = Lab::start(&patient(&ROLES))?;
    reaches(&lab.a().netns, lab.b().inner())?;
    lab.a().adit("rekey site-b")?;
    wait_until("the rekey is counted", SOON, || Ok(ike(lab.a())?["counters"]["child_rekeys"] == 1))?;
    // The old Child SA is given up while we look.
    let (_, (reported, report)) = at_one_moment(|| listed(lab.a()), || Ok((peer(lab.a())?, lab.a().adit("status site-b")?)))?;
    let (sa, child) = (&reported["ike"]["sas"][0], &reported["children"][0]);
    for field in ["age_s", "idle_s", "rekey_in_s"] {
        ensure!(sa[field].is_u64(), "{field} of the IKE SA: {reported:#}");
    }
    for field in ["age_s", "rekey_in_s"] {
        ensure!(child[field].is_u64() && child["outbound"]["packets"].is_u64(), "{field} of the Child SA: {reported:#}");
    }
    ensure!(sa["children"][0] == *child, "{reported:#}");
    let expected = [
        sa["initiator_spi"].as_str(),
        sa["responder_spi"].as_str(),
        sa["suite"].as_str(),
        child["suite"].as_str(),
        child["inbound_spi"].as_str(),
        child["outbound_spi"].as_str(),
        Some("192.0.2.1:4500 to 192.0.2.2:4500"),
        Some("initiator"),
        Some("child rekeys 1"),
        Some("handshakes 1"),
    ];
    for words in expected {
        let words = words.context("a text")?;
        ensure!(report.contains(words), "`{words}` is not in\n{report}");
    }
    Ok(())
}
