//! The life of a connection with strongSwan: rekeys without a lost packet, deaths and comebacks, mistakes that are put right.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use adit_bench::lab::interop::Release::{self, Swan5};
use adit_bench::lab::interop::config::{Fragmentation, Retransmit};
use adit_bench::lab::interop::pki::KeyKind;
use adit_bench::lab::interop::sites::{CHILD, CONNECTION, LINK, Proof, pair as configs};
use adit_bench::lab::interop::table::{Case, Section, Seen, seconds};
use adit_bench::lab::traffic::kernel_counter;
use adit_bench::lab::wait_until;
use adit_bench::netns::{Signal, signal};
use anyhow::{Context, Result, ensure};

use super::matrix::{in_fragments, role};
use super::{Adit, MIB, Pair, SOON};

/// An end that does not wait long for answers.
const IMPATIENT: Retransmit = Retransmit { timeout: Duration::from_millis(200), base: 1.2, tries: 4 };
const WRONG: &[u8] = b"not the lab's pre-shared key";

/// A connection that Adit keeps up.
fn connected(release: Release) -> Result<Pair> {
    let more = "role: initiator, dpd_s: 1";
    let pair = Pair::new(release, Proof::Psk, more, |swan| swan.daemon.retransmit = Some(IMPATIENT))?;
    pair.connect(true)?;
    Ok(pair)
}

fn seen(text: impl Into<String>) -> Result<Seen> {
    Ok(vec![text.into()])
}

/// What `work` takes until packets go through again.
fn back_after(pair: &Pair, what: &str) -> Result<Seen> {
    let began = Instant::now();
    pair.up().with_context(|| what.to_owned())?;
    seen(format!("packets again after {}", seconds(began.elapsed())))
}

/// All kinds of rekeys from either end, under a ping every millisecond.
fn rekeys(release: Release, rounds: usize) -> Result<Seen> {
    let lost = connected(release)?.under_pings(|pair| pair.rekey(rounds))?;
    seen(format!("{rounds} rekeys, {lost}"))
}

/// Rekeys in a row while TCP goes both ways in turn, with its hash compared.
fn rekeys_under_tcp(release: Release, rounds: usize) -> Result<Seen> {
    let pair = connected(release)?;
    let done = AtomicBool::new(false);
    let (rekeyed, moved) = std::thread::scope(|scope| {
        let traffic = scope.spawn(|| -> Result<u64> {
            let mut rounds = 0;
            while !done.load(Ordering::Relaxed) || rounds == 0 {
                pair.transfers(8 * MIB)?;
                rounds += 1;
            }
            Ok(rounds)
        });
        let rekeyed = pair.rekey(rounds);
        done.store(true, Ordering::Relaxed);
        (rekeyed, traffic.join().expect("the thread with the traffic"))
    });
    rekeyed?;
    seen(format!("{rounds} rekeys, {} transfers of 8 MiB, every hash equal", 2 * moved?))
}

/// Messages longer than a datagram, with certificates.
fn fragments(release: Release, adit_begins: bool) -> Result<Seen> {
    let more = format!("role: {}", role(adit_begins));
    let pair = Pair::new(release, Proof::LongChains(KeyKind::EcdsaP384), &more, |swan| swan.daemon.fragment_size = Some(400))?;
    pair.connect(adit_begins)?;
    in_fragments(&pair, "IKE_AUTH", &["generating", "parsed"])?;
    seen("IKE_AUTH in fragments both ways")
}

/// The same over a line of 1400 bytes with a strongSwan that does not know RFC 7383: IP has to cut them, in both directions.
fn ip_fragments(release: Release, adit_begins: bool) -> Result<Seen> {
    let more = format!("role: {}", role(adit_begins));
    let pair = Pair::new(release, Proof::LongChains(KeyKind::EcdsaP384), &more, |swan| {
        swan.connections[0].fragmentation = Fragmentation::No;
    })?;
    for end in [pair.ground.here(), pair.ground.there()?] {
        end.run(&format!("ip link set {LINK} mtu 1400"))?;
    }
    let here = pair.ground.here();
    let count =
        || -> Result<[u64; 2]> { Ok([kernel_counter(here, "Ip", "FragCreates")?, kernel_counter(here, "Ip", "ReasmOKs")?]) };
    pair.connect(adit_begins)?;
    // Since the namespace is there: Adit may have begun before it was asked to.
    let after @ [made, joined] = count()?;
    ensure!(made >= 2 && joined >= 1, "{made} IP fragments sent, {joined} messages joined\n{}", pair.said());
    // ESP has no part in it.
    pair.transfers(8 * MIB)?;
    ensure!(count()? == after, "ESP in IP fragments\n{}", pair.said());
    seen(format!("{made} IP fragments sent, {joined} messages joined"))
}

/// One end probes (dead peer detection) and the other answers.
fn dpd_probes(release: Release, adit_asks: bool) -> Result<Seen> {
    let more = format!("role: initiator, dpd_s: {}", if adit_asks { 1 } else { 0 });
    let pair = Pair::new(release, Proof::Psk, &more, |swan| {
        swan.connections[0].dpd_delay = (!adit_asks).then_some(Duration::from_secs(1));
    })?;
    pair.connect(true)?;
    let before = pair.spis()?;
    let said = if adit_asks { "parsed INFORMATIONAL request" } else { "parsed INFORMATIONAL response" };
    let answers = || pair.swan.log().matches(said).count();
    wait_until("three probes of dead peer detection", SOON, || Ok(answers() >= 3)).with_context(|| pair.said())?;
    ensure!(pair.spis()? == before, "not the same SAs: {}", pair.said());
    pair.reaches()?;
    seen("three asked for and given, the same SAs")
}

/// An end that is frozen is found dead, and connected to again when it goes on.
fn frozen(release: Release, adit_freezes: bool) -> Result<Seen> {
    let pair = Pair::new(release, Proof::Psk, "role: initiator, dpd_s: 1", |swan| {
        swan.daemon.retransmit = Some(IMPATIENT);
        swan.connections[0].dpd_delay = Some(Duration::from_secs(1));
    })?;
    pair.connect(true)?;
    let began = Instant::now();
    let found = if adit_freezes {
        pair.adit.signal_control(Signal::Stop)?;
        let found = pair.swan.wait_until_idle(SOON).map(|()| began.elapsed());
        pair.adit.signal_control(Signal::Continue)?;
        found?
    } else {
        let pid = pair.swan.pid().context("strongSwan runs in this kernel")?;
        signal(pid, Signal::Stop)?;
        let found = wait_until("strongSwan is given up", SOON, || Ok(pair.state()? != "established")).map(|()| began.elapsed());
        signal(pid, Signal::Continue)?;
        found?
    };
    pair.wait_for_state("established")?;
    let back = back_after(&pair, "after the end that was frozen went on")?;
    seen(format!("found dead after {}, {}", seconds(found), back[0]))
}

/// Deletes by strongSwan of the Child SA alone, and of everything.
fn deleted_by_swan(release: Release) -> Result<Seen> {
    let pair = Pair::new(release, Proof::Psk, "role: responder", |_| {})?;
    pair.connect(false)?;
    let (ike, _) = pair.spis()?;
    pair.swan.terminate_child(CONNECTION, CHILD)?;
    wait_until("the Child SA is gone here", SOON, || Ok(pair.spis()?.1.is_empty())).with_context(|| pair.said())?;
    pair.connect(false)?;
    ensure!(pair.spis()?.0 == ike, "a new IKE SA for a new Child SA: {}", pair.said());
    pair.swan.terminate(CONNECTION)?;
    wait_until("it is gone here", SOON, || Ok(pair.peer()?["ike"]["sas"].as_array().is_none_or(Vec::is_empty)))?;
    pair.connect(false)?;
    seen("Child SA gone and made anew, IKE SA gone and made anew")
}

fn deleted_by_adit(release: Release) -> Result<Seen> {
    let pair = Pair::new(release, Proof::Psk, "role: initiator", |_| {})?;
    pair.connect(true)?;
    pair.command("disconnect b")?;
    pair.swan.wait_until_idle(SOON)?;
    pair.wait_for_state("idle")?;
    pair.connect(true)?;
    seen("gone at both ends, connected again")
}

fn swan_killed(release: Release) -> Result<Seen> {
    let mut pair = connected(release)?;
    pair.swan.kill()?;
    pair.swan.start_again()?;
    back_after(&pair, "after strongSwan was killed")
}

/// The data plane goes on, and the next control plane with the same SAs.
fn control_plane_killed(release: Release) -> Result<Seen> {
    let lost = connected(release)?.under_pings(|pair| {
        let before = pair.spis()?;
        pair.adit.kill_control()?;
        pair.adit.start(pair.ground.here())?;
        pair.wait_for_state("established")?;
        ensure!(pair.spis()? == before, "other SAs after the control plane was killed: {}", pair.said());
        pair.rekey(4).context("after the control plane was killed")
    })?;
    seen(format!("the same SAs, 4 rekeys, {lost}"))
}

fn data_plane_killed(release: Release) -> Result<Seen> {
    let pair = connected(release)?;
    let (ike, _) = pair.spis()?;
    Adit::kill_data_plane(pair.ground.here())?;
    let back = back_after(&pair, "after the data plane was killed")?;
    ensure!(pair.spis()?.0 == ike, "another IKE SA after the data plane was killed: {}", pair.said());
    seen(format!("the same IKE SA, {}", back[0]))
}

fn both_planes_killed(release: Release) -> Result<Seen> {
    let mut pair = connected(release)?;
    pair.adit.kill_control()?;
    Adit::kill_data_plane(pair.ground.here())?;
    pair.adit.start(pair.ground.here())?;
    back_after(&pair, "after both planes were killed")
}

fn cable_cut(release: Release, time: Duration) -> Result<Seen> {
    let pair = connected(release)?;
    let here = pair.ground.here();
    here.run(&format!("ip link set {LINK} down"))?;
    std::thread::sleep(time);
    here.run(&format!("ip link set {LINK} up"))?;
    back_after(&pair, "after the cable was cut")
}

/// strongSwan has another preshared key, until its configuration is put right and loaded.
fn wrong_key_at_swan(release: Release, adit_begins: bool) -> Result<Seen> {
    let more = format!("role: {}", role(adit_begins));
    let mut pair = Pair::new(release, Proof::Psk, &more, |swan| swan.connections[0].secret = WRONG.to_vec())?;
    refused(&pair, adit_begins)?;
    pair.config.connections[0].secret = configs(Proof::Psk)?.1.connections[0].secret.clone();
    pair.swan.reload(&pair.config)?;
    put_right(&pair, adit_begins)
}

/// Adit has it, until its file is put right and it is started again.
fn wrong_key_at_adit(release: Release, adit_begins: bool) -> Result<Seen> {
    let more = format!("role: {}", role(adit_begins));
    let mut pair = Pair::new(release, Proof::Psk, &more, |_| {})?;
    pair.adit.stop()?;
    pair.adit.write_psk(WRONG)?;
    pair.adit.start(pair.ground.here())?;
    refused(&pair, adit_begins)?;
    pair.adit.stop()?;
    pair.adit.write_psk(&pair.config.connections[0].secret)?;
    pair.adit.start(pair.ground.here())?;
    put_right(&pair, adit_begins)
}

fn refused(pair: &Pair, adit_begins: bool) -> Result<()> {
    if adit_begins {
        pair.wait_for_state("reconnecting")?;
        let explained = pair.command("explain b")?;
        ensure!(explained.contains("AUTHENTICATION_FAILED") || explained.contains("preshared"), "{explained}");
    } else {
        let error = format!("{:#}", pair.swan.initiate(CONNECTION, CHILD).expect_err("somebody else was let in"));
        ensure!(error.contains("AUTH_FAILED") || error.contains("authentication"), "{error}");
    }
    Ok(())
}

fn put_right(pair: &Pair, adit_begins: bool) -> Result<Seen> {
    if adit_begins {
        return back_after(pair, "after the key was put right");
    }
    // strongSwan does not begin anew by itself when it was refused.
    pair.connect(false)?;
    seen("connected when strongSwan was told to try again")
}

/// Everything that can happen to a connection.
pub fn section(release: Release, name: &str) -> Section {
    let mut cases = vec![
        Case::new(["rekeys of Child SA and IKE SA from either end, ping every 1 ms"], move || rekeys(release, 12)),
        Case::new(["rekeys in a row under TCP"], move || rekeys_under_tcp(release, 50)),
        Case::new(["long certificate chains, Adit begins"], move || fragments(release, true)),
        Case::new(["long certificate chains, strongSwan begins"], move || fragments(release, false)),
        Case::new(["the same without RFC 7383, Adit begins"], move || ip_fragments(release, true)),
        Case::new(["the same without RFC 7383, strongSwan begins"], move || ip_fragments(release, false)),
        Case::new(["DPD: Adit asks"], move || dpd_probes(release, true)),
        Case::new(["DPD: strongSwan asks"], move || dpd_probes(release, false)),
        Case::new(["DPD: strongSwan is frozen"], move || frozen(release, false)),
        Case::new(["DPD: Adit's control plane is frozen"], move || frozen(release, true)),
        Case::new(["deletes by strongSwan"], move || deleted_by_swan(release)),
        Case::new(["delete by Adit"], move || deleted_by_adit(release)),
        Case::new(["strongSwan is killed and started again"], move || swan_killed(release)),
        Case::new(["Adit's control plane is killed and started again, ping every 1 ms"], move || control_plane_killed(release)),
        Case::new(["Adit's data plane is killed"], move || data_plane_killed(release)),
        Case::new(["both planes are killed and started again"], move || both_planes_killed(release)),
        Case::new(["the cable is cut for 10 s"], move || cable_cut(release, Duration::from_secs(10))),
    ];
    for adit_begins in [true, false] {
        let who = if adit_begins { "Adit begins" } else { "strongSwan begins" };
        let swan = format!("wrong PSK at strongSwan, put right by `swanctl --load-all`, {who}");
        cases.push(Case::new([swan.as_str()], move || wrong_key_at_swan(release, adit_begins)));
        let adit = format!("wrong PSK at Adit, put right in its file and Adit started again, {who}");
        cases.push(Case::new([adit.as_str()], move || wrong_key_at_adit(release, adit_begins)));
    }
    Section {
        title: format!("{name}: the life of a connection"),
        about: "With a preshared key where nothing else is said.".to_owned(),
        columns: vec!["what happens"],
        seen: vec!["seen"],
        at_once: 1,
        cases,
    }
}

#[test]
fn keys_are_replaced_from_either_end_without_a_lost_ping() -> Result<()> {
    Release::ALL.into_iter().try_for_each(|release| rekeys(release, 12).map(drop).with_context(|| format!("{release:?}")))
}

#[test]
fn fifty_rekeys_under_tcp_change_no_byte() -> Result<()> {
    rekeys_under_tcp(Swan5, 50).map(drop)
}

#[test]
fn certificates_that_are_too_long_for_a_datagram_go_in_fragments() -> Result<()> {
    fragments(Swan5, true).and_then(|_| fragments(Swan5, false)).map(drop)
}

#[test]
fn to_who_does_not_know_rfc_7383_they_go_in_ip_fragments() -> Result<()> {
    ip_fragments(Swan5, true).and_then(|_| ip_fragments(Swan5, false)).map(drop)
}

#[test]
fn either_end_that_dies_is_connected_again() -> Result<()> {
    [swan_killed, control_plane_killed, data_plane_killed, both_planes_killed].iter().try_for_each(|case| case(Swan5).map(drop))
}

#[test]
fn a_cable_that_was_out_does_no_harm() -> Result<()> {
    cable_cut(Swan5, Duration::from_secs(4)).map(drop)
}

#[test]
fn a_frozen_strongswan_is_found_dead_and_connected_again() -> Result<()> {
    frozen(Swan5, false).map(drop)
}

#[test]
fn what_one_end_deletes_is_gone_at_both() -> Result<()> {
    deleted_by_swan(Swan5).and_then(|_| deleted_by_adit(Swan5)).map(drop)
}

#[test]
fn a_wrong_key_that_is_put_right_connects() -> Result<()> {
    wrong_key_at_swan(Swan5, true).and_then(|_| wrong_key_at_adit(Swan5, false)).map(drop)
}
