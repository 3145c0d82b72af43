//! Certificates and keys that are renewed on disk are taken by themselves, and no packet is lost by it.

use std::fs;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use adit_bench::lab::interop::pki::{Authority, Certificate, Credential, KeyKind, Subject, Validity};
use adit_bench::lab::{Gateway, Lab, LabOptions, SOON, wait_until};
use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{Pings, edit, reaches};

/// Puts a file in the place of another one, as tools that renew certificates do.
fn replace(file: &Path, content: &str) -> Result<()> {
    let new = file.with_extension("new");
    let mut options = fs::OpenOptions::new();
    let mut opened = options.write(true).create_new(true).mode(0o600).open(&new)?;
    std::io::Write::write_all(&mut opened, content.as_bytes())?;
    Ok(fs::rename(&new, file)?)
}

fn trust(lab: &Lab, anchors: &[&Certificate]) -> Result<()> {
    let pem: Vec<&str> = anchors.iter().map(|anchor| anchor.pem()).collect();
    replace(&lab.dir().join("ca.crt"), &pem.concat())
}

/// A key and its certificate, in files of this name.
fn write(dir: &Path, name: &str, credential: &Credential) -> Result<()> {
    replace(&dir.join(format!("{name}.pem")), &credential.key.private_pem())?;
    replace(&dir.join(format!("{name}.crt")), credential.certificate.pem())
}

/// Two gateways that prove themselves with certificates of this authority.
fn start(authority: &Authority) -> Result<Lab> {
    let mut lab = Lab::prepare(&LabOptions { ike: vec![String::new()], ..LabOptions::patient() })?;
    trust(&lab, &[authority.certificate()])?;
    let dir = lab.dir().to_owned();
    for gateway in &mut lab.gateways {
        write(&dir, &gateway.name, &authority.issue(&Subject::dns(&gateway.name), KeyKind::Ed25519)?)?;
        let text = fs::read_to_string(&gateway.config)?;
        let (before, after) = text.split_once("psk_file: ").context("a peer with a preshared key")?;
        let (_, after) = after.split_once(" }").context("the end of it")?;
        let (name, dir) = (&gateway.name, dir.display());
        let own = format!("ike: {{ key_file: {dir}/{name}.pem, certificate_file: {dir}/{name}.crt }}\n");
        fs::write(&gateway.config, format!("{own}{before}ca_file: {dir}/ca.crt }}{after}"))?;
        gateway.start_control()?;
    }
    lab.wait_until_up()?;
    Ok(lab)
}

/// The common name of the certificate that runs.
fn runs(gateway: &Gateway) -> Result<String> {
    Ok(gateway.status()?["certificates"][0]["subject"].as_str().context("a certificate")?.to_owned())
}

/// When our own certificate ends and what the peer has shown does, as the metrics and the status say it: they agree.
fn ends(gateway: &Gateway) -> Result<(u64, u64)> {
    let (status, metrics) = (gateway.status()?, gateway.metrics()?);
    let own = status["certificates"][0]["until"].as_u64().context("the end of our own")?;
    let peer = status["peers"][0]["ike"]["sas"][0]["peer_certificate_until"].as_u64().context("the end of the peer's")?;
    let metric = |whose: &str| metrics.sum(&format!("adit_{whose}_certificate_expiry_timestamp_seconds"), &[]);
    ensure!(metric("own") == Some(own as f64) && metric("peer") == Some(peer as f64), "{}", gateway.metrics_page()?);
    let now = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH)?.as_secs();
    let left = status["certificates"][0]["remaining_s"].as_i64().context("how long it is good")?;
    ensure!((own as i64 - now as i64 - left).abs() < 60, "{left} s until {own}");
    let sa = &status["peers"][0]["ike"]["sas"][0];
    let left = sa["peer_certificate_remaining_s"].as_i64().context("how long the peer's is good")?;
    ensure!((peer as i64 - now as i64 - left).abs() < 60, "{left} s until {peer}");
    let (name, said) = (status["peers"][0]["name"].as_str().context("a name")?, |text: &str| text.contains("  certificate    "));
    let texts = [gateway.adit("status")?, gateway.adit(&format!("status {name}"))?];
    ensure!(texts.iter().all(|text| said(text)), "{texts:?}");
    Ok((own, peer))
}

fn spi(gateway: &Gateway) -> Result<Value> {
    Ok(gateway.status()?["peers"][0]["ike"]["sas"][0]["initiator_spi"].clone())
}

/// A certificate without its key comes to the first gateway, and the one that runs comes back: each is said once, and no more is done.
fn old_files_are_back(lab: &Lab, authority: &Authority, running: &Credential) -> Result<()> {
    const END: &str = "changed on disk once more, and all fits: the files are again those that run";
    let (a, file) = (lab.a(), lab.dir().join("site-a.crt"));
    let said = |line: &str| a.log().matches(line).count();
    ensure!(said(END) == 0, "nothing is over: {}", a.log());
    let (complaints, taken) = (said("do not fit"), said("renewed on disk, and taken"));
    replace(&file, authority.issue(&Subject::dns(&a.name), KeyKind::Ed25519)?.certificate.pem())?;
    wait_until("it does not fit", SOON, || Ok(said("do not fit") > complaints)).with_context(|| a.log())?;
    replace(&file, running.certificate.pem())?;
    a.wait_for_log(END, SOON)?;
    ensure!(said("do not fit") == complaints + 1 && said(END) == 1, "{}", a.log());
    ensure!(said("renewed on disk, and taken") == taken && runs(a)?.contains("renewed"), "{}", a.log());
    Ok(())
}

#[test]
fn a_certificate_renewed_on_disk_is_taken_without_losing_a_packet() -> Result<()> {
    let authority = Authority::root("Root", KeyKind::Ed25519)?;
    let lab = start(&authority)?;
    let (a, b) = (lab.a(), lab.b());
    // An edited configuration stays the operator's to take.
    let text = fs::read_to_string(&a.config)?;
    fs::write(&a.config, text.replace("underlay_mtu: 1500", "underlay_mtu: 1400"))?;
    let (old, first, before) = (runs(a)?, spi(a)?, ends(a)?);
    ensure!(!first.is_null() && !old.contains("renewed"), "{old}, {first}");
    let pings = Pings::start(&lab, a, b.inner(), Duration::from_millis(2))?;

    let subject = Subject { common_name: "renewed".to_owned(), ..Subject::dns(&a.name).valid(Validity::NotForLong) };
    let credential = authority.issue(&subject, KeyKind::Ed25519)?;
    replace(&lab.dir().join("site-a.crt"), credential.certificate.pem())?;
    a.wait_for_log("do not fit", SOON)?;
    ensure!(runs(a)? == old && spi(a)? == first, "{}", a.log());
    replace(&lab.dir().join("site-a.pem"), &credential.key.private_pem())?;
    a.wait_for_log("renewed on disk, and taken", SOON)?;
    ensure!(runs(a)?.contains("renewed"), "{}", a.adit("status")?);
    wait_until("the peer has seen the new one", SOON, || Ok(spi(a)? != first && spi(a)? == spi(b)?))?;
    let (of_a, of_b) = (ends(a)?, ends(b)?);
    ensure!(of_a.0 < before.0 && of_b.1 == of_a.0 && of_a.1 == before.1, "{before:?}, then {of_a:?} and {of_b:?}");
    let reported = a.adit("status")?.split_whitespace().collect::<Vec<_>>().join(" ");
    ensure!(reported.contains("CN=renewed, ENDS in 9 d 23 h: renew it"), "{reported}");
    let warnings = [
        (a, "our certificate O=Adit lab, CN=renewed ends in 9 days: renew it, and the new file is taken by itself"),
        (b, "the certificate of the peer site-a ends in 9 days: it has to be renewed there"),
    ];
    for (gateway, line) in warnings {
        gateway.wait_for_log(line, SOON)?;
    }

    // Another authority beside the old one, at both ends: nobody is cut off in between.
    let other = Authority::root("Other", KeyKind::Ed25519)?;
    let taken = || a.log().matches("ike.ca_file: the file has another content").count();
    trust(&lab, &[authority.certificate(), other.certificate()])?;
    wait_until("both authorities are believed", SOON, || Ok(taken() == 1))?;
    b.wait_for_log("ike.ca_file: the file has another content", SOON)?;
    std::thread::sleep(Duration::from_secs(2));
    pings.none_lost(&lab, 300)?;
    let status = a.status()?;
    ensure!(status["configuration"]["newer"] == true, "{}", status["configuration"]);
    ensure!(status["peers"][0]["state"] == "established", "{}", status["peers"][0]);
    ensure!(a.log().matches("do not fit").count() == 1, "said once: {}", a.log());
    ensure!(!a.log().contains("underlay_mtu"), "{}", a.log());
    ensure!(warnings.iter().all(|(gateway, line)| gateway.log().matches(*line).count() == 1), "said once: {}", lab.logs());
    old_files_are_back(&lab, &authority, &credential)
}

#[test]
fn another_certificate_by_a_reload_costs_those_who_see_it_alone() -> Result<()> {
    let authority = Authority::root("Root", KeyKind::Ed25519)?;
    // All have static keys, but for the first and the third one, who prove themselves to each other.
    let mut lab = Lab::prepare(&LabOptions { gateways: 3, ..LabOptions::default() })?;
    trust(&lab, &[authority.certificate()])?;
    let dir = lab.dir().to_owned();
    let static_key = format!("static_key_file: {}/site-a-site-c.key", dir.display());
    for gateway in [lab.a(), &lab.gateways[2]] {
        let name = &gateway.name;
        write(&dir, name, &authority.issue(&Subject::dns(name), KeyKind::Ed25519)?)?;
        let (ca, own) = (dir.join("ca.crt"), dir.join(name));
        edit(gateway, &static_key, &format!("ike: {{ ca_file: {} }}", ca.display()))?;
        let own = format!("ike: {{ key_file: {0}.pem, certificate_file: {0}.crt }}\npeers:\n", own.display());
        edit(gateway, "peers:\n", &own)?;
    }
    for gateway in &mut lab.gateways {
        gateway.start_control()?;
    }
    lab.wait_until_up()?;
    let (a, b, c) = (lab.a(), lab.b(), &lab.gateways[2]);
    let shown = || -> Result<[Option<u64>; 2]> {
        let sas = c.status()?["peers"][0]["ike"]["sas"].clone();
        Ok([a.status()?["certificates"][0]["until"].as_u64(), sas[0]["peer_certificate_until"].as_u64()])
    };
    let before = shown()?;
    // Of a chain the end that comes first counts: the CA is a little older.
    ensure!(before[1].is_some() && before[1] <= before[0], "{before:?}");
    let subject = Subject { common_name: "renewed".to_owned(), ..Subject::dns(&a.name).valid(Validity::NotForLong) };
    write(&dir, "other", &authority.issue(&subject, KeyKind::Ed25519)?)?;
    for kind in ["pem", "crt"] {
        edit(a, &format!("/site-a.{kind}"), &format!("/other.{kind}"))?;
    }
    let pings = Pings::start(&lab, a, b.inner(), Duration::from_millis(1))?;
    let said = a.adit("reload")?;
    for words in ["ike.key_file", "ike.certificate_file", "tunnels that began anew or ended: site-c\n"] {
        ensure!(said.contains(words), "`{words}` is not in:\n{said}");
    }
    let is_seen = || {
        let [own, seen] = shown()?;
        Ok(own != before[0] && own == seen)
    };
    wait_until("the peer sees the new certificate", SOON, is_seen).with_context(|| format!("{:?}\n{}", shown(), lab.logs()))?;
    ensure!(runs(a)?.contains("renewed"), "{}", a.adit("status")?);
    wait_until("packets pass", SOON, || Ok(reaches(&a.netns, c.inner()).is_ok())).with_context(|| lab.logs())?;
    pings.none_lost(&lab, 300).map(drop)
}
