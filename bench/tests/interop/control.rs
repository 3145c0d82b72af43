//! What a test can do to a daemon: change its mind, kill it, start it again, cut its cable.

use std::time::Duration;

use adit_bench::lab::interop::Release::Swan5;
use adit_bench::lab::interop::config::{Retransmit, Start, Unique};
use adit_bench::lab::interop::sites::{CHILD, CONNECTION, LINK, Proof, Site, Sites, pair};
use adit_bench::lab::interop::{Release, StrongSwan};
use anyhow::{Result, ensure};

use crate::{SOON, connect, start};

#[test]
fn a_killed_daemon_comes_back_without_its_sas_and_connects_again() -> Result<()> {
    for release in Release::ALL {
        let sites = Sites::new()?;
        let (mut a, b) = start(&sites, [release, release], &pair(Proof::Psk)?)?;
        connect(&sites, &a)?;
        a.kill()?;
        ensure!(b.sas()?.len() == 1, "the peer was told of a crash: {:?}", b.sas()?);
        a.start_again()?;
        ensure!(a.sas()?.is_empty(), "{:?}", a.sas()?);
        connect(&sites, &a)?;
        // INITIAL_CONTACT has removed the old one at the peer.
        b.wait_for("only the new IKE SA", SOON, |sas| (sas.len() == 1).then_some(()))?;
        a.stop()?;
        b.wait_until_idle(SOON)?;
    }
    Ok(())
}

#[test]
fn a_peer_behind_a_cut_cable_is_found_dead_as_fast_as_was_set() -> Result<()> {
    let sites = Sites::new()?;
    let mut configs = pair(Proof::Psk)?;
    for config in [&mut configs.0, &mut configs.1] {
        config.daemon.retransmit = Some(Retransmit { timeout: Duration::from_millis(200), base: 1.2, tries: 2 });
        config.daemon.fragment_size = Some(250);
        config.connections[0].dpd_delay = Some(Duration::from_secs(1));
        config.connections[0].unique = Unique::Replace;
    }
    let (a, b) = start(&sites, [Swan5, Swan5], &configs)?;
    connect(&sites, &a)?;
    ensure!(a.log().contains("EF(1/"), "no fragment was sent: {}", a.log());
    sites.b.run(&format!("ip link set {LINK} down"))?;
    a.wait_until_idle(SOON)?;
    ensure!(a.log().contains("giving up after 2 retransmits"), "{}", a.log());
    b.wait_until_idle(SOON)
}

#[test]
fn a_child_starts_without_a_command_and_rekeys_by_its_short_lifetime() -> Result<()> {
    let sites = Sites::new()?;
    let mut configs = pair(Proof::Psk)?;
    configs.0.connections[0].children[0].start = Start::AtOnce;
    configs.0.connections[0].children[0].rekey_time = Some(Duration::from_secs(1));
    configs.0.connections[0].rekey_time = Some(Duration::from_secs(2));
    let b = StrongSwan::start(&sites.b, Swan5, &configs.1)?;
    let a = StrongSwan::start(&sites.a, Swan5, &configs.0)?;
    a.wait_for("a rekeyed child under a rekeyed IKE SA", SOON, |sas| {
        sas.iter().any(|sa| sa.id > 1 && sa.child(CHILD).is_some_and(|child| child.id > 1)).then_some(())
    })?;
    b.established(CONNECTION)?;
    Site::B.reach(|line| sites.b.run(line))
}

#[test]
fn errors_carry_the_daemons_own_words() -> Result<()> {
    let sites = Sites::new()?;
    let mut configs = pair(Proof::Psk)?;
    configs.0.connections[0].proposals = vec!["aes128gcm16-prfsha256-ecp256".to_owned()];
    let (mut a, b) = start(&sites, [Swan5, Swan5], &configs)?;
    let error = format!("{:#}", a.initiate(CONNECTION, CHILD).expect_err("nothing in common"));
    ensure!(error.contains("NO_PROPOSAL_CHOSEN"), "{error}");
    b.wait_for_log("received proposals unacceptable", SOON)?;
    configs.0.connections[0].proposals = vec!["no-such-cipher".to_owned()];
    let error = format!("{:#}", a.reload(&configs.0).expect_err("a configuration that is wrong"));
    ensure!(error.contains("invalid value for: proposals"), "{error}");
    ensure!(a.rekey_ike(CONNECTION).is_err() && a.terminate("nobody").is_err(), "nothing to rekey, nobody to leave");
    Ok(())
}
