//! A kernel's ESP: strongSwan in a guest against strongSwan with ESP of its own.

use adit_bench::lab::interop::Release::Swan5;
use adit_bench::lab::interop::sites::{CHILD, CONNECTION, LINK, Proof, Site, pair};
use adit_bench::lab::interop::{Guest, StrongSwan};
use adit_bench::netns::Netns;
use anyhow::{Result, ensure};

#[test]
fn the_esp_of_a_guest_kernel_and_that_of_strongswan_understand_each_other() -> Result<()> {
    let a = Netns::new("swan-a")?;
    let guest = Guest::boot("guest-b", Swan5)?;
    guest.plug(&a, LINK)?;
    Site::A.settle(&a)?;
    Site::B.settle_guest(&guest)?;
    let configs = pair(Proof::Psk)?;
    let near = StrongSwan::start(&a, Swan5, &configs.0)?;
    let far = StrongSwan::start_in(&guest, &configs.1)?;
    near.initiate(CONNECTION, CHILD)?;
    Site::A.reach(|line| a.run(line))?;
    Site::B.reach(|line| guest.run(line))?;
    let states = guest.run("ip xfrm state")?;
    ensure!(states.contains("rfc4106(gcm(aes))") && states.contains("espinudp"), "the kernel has no SA: {states}");
    far.rekey_child(CONNECTION, CHILD)?;
    near.rekey_ike(CONNECTION)?;
    Site::A.reach(|line| a.run(line))?;
    ensure!(far.child(CONNECTION, CHILD)?.packets_in >= 3, "{:?}", far.sas()?);
    near.terminate(CONNECTION)?;
    far.wait_until_idle(crate::SOON)?;
    ensure!(guest.run("ip xfrm state")?.is_empty(), "{}", guest.run("ip xfrm state")?);
    Ok(())
}

/// Its module refuses to load on some hosts, so no guest may count on it: all tests with guests run without.
#[test]
fn a_guest_has_random_ivs_without_jitterentropy() -> Result<()> {
    let guest = Guest::boot("guest", Swan5)?;
    ensure!(guest.run("modprobe jitterentropy_rng").is_err(), "jitterentropy_rng is loaded");
    // AES-CBC wants IVs that nobody can foresee (RFC 3602 section 3).
    let keys = format!("enc 'cbc(aes)' 0x{} auth-trunc 'hmac(sha256)' 0x{} 128", "5a".repeat(16), "a5".repeat(32));
    guest.run(&format!("ip xfrm state add src 192.0.2.1 dst 192.0.2.2 proto esp spi 0x101 mode transport {keys}"))?;
    let crypto = guest.run("cat /proc/crypto")?;
    ensure!(crypto.contains("echainiv(") && crypto.contains("drbg_nopr"), "no generator of IVs: {crypto}");
    ensure!(!crypto.contains("jitterentropy"), "{crypto}");
    Ok(())
}

#[test]
fn a_guest_answers_commands_and_cannot_change_its_root() -> Result<()> {
    let guest = Guest::boot("guest", Swan5)?;
    ensure!(guest.run("echo one; echo two >&2")? == "one\ntwo\n", "output");
    ensure!(guest.run("seq 1 20000")?.lines().count() == 20000, "a long output is cut short");
    let error = format!("{:#}", guest.run("echo no >&2; exit 3").expect_err("a status of 3"));
    ensure!(error.contains("exit status 3") && error.contains("no"), "{error}");
    ensure!(guest.run("touch /etc/touched").is_err() && guest.run("touch /touched").is_err(), "the root can be written");
    std::fs::write(guest.folder().join("from-host"), "seen")?;
    ensure!(guest.run("cat /lab/from-host")? == "seen", "the host's folder");
    Ok(())
}
