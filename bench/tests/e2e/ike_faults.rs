//! What can be wrong between two gateways: each fault is told once and not with every try, counted under its cause, explained at
//! both ends where both can know, and over by itself when it is put right at one of them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use adit_bench::lab::interop::pki::{Authority, Credential, KeyKind, Subject, Validity};
use adit_bench::lab::{Gateway, Lab, LabOptions, SOON, wait_until};
use anyhow::{Context, Result, ensure};

use crate::ike_tunnel::{ike, patient, peer};
use crate::{edit, reaches};

/// For several tries with growing waits between them.
const LONG: Duration = Duration::from_secs(90);
/// Tries that must fail before it is looked how often that was told.
const TRIES: f64 = 3.0;

/// What one end has to say.
struct Says {
    /// In `adit explain`.
    words: &'static [&'static str],
    /// The metric and its label `cause`.
    counted: (&'static str, &'static str),
    /// In the line of the log that there is once.
    line: &'static str,
}

const FAILURES: &str = "adit_ike_failures_total";
const INITIATORS: &str = "adit_ike_refused_initiators_total";

fn explain(gateway: &Gateway) -> Result<String> {
    gateway.adit(if gateway.number == 1 { "explain site-b" } else { "explain site-a" })
}

fn count(gateway: &Gateway, (metric, cause): (&str, &str)) -> f64 {
    gateway.metrics().ok().and_then(|metrics| metrics.sum(metric, &[("cause", cause)])).unwrap_or(0.0)
}

/// Starts gateways that cannot agree, has them say why, puts it right at the second one and has them connect.
fn check(mut lab: Lab, says: [Says; 2], mend: impl FnOnce(&Lab) -> Result<()>) -> Result<()> {
    for gateway in &mut lab.gateways {
        gateway.start_control()?;
    }
    for (gateway, says) in lab.gateways.iter().zip(&says) {
        let missing = || -> Vec<&str> {
            let reported = explain(gateway).unwrap_or_default();
            says.words.iter().filter(|word| !reported.contains(**word)).copied().collect()
        };
        wait_until("it is explained", LONG, || Ok(missing().is_empty())).with_context(|| {
            format!("{} does not say {:?} but {}\n{}", gateway.name, missing(), explain(gateway).unwrap_or_default(), lab.logs())
        })?;
        wait_until("it was tried several times", LONG, || Ok(count(gateway, says.counted) >= TRIES))
            .with_context(|| format!("{}: {} {:?}\n{}", gateway.name, count(gateway, says.counted), says.counted, lab.logs()))?;
        let log = gateway.log();
        let lines: Vec<&str> = log.lines().filter(|line| line.contains(" WARN ") && line.contains(says.line)).collect();
        ensure!(lines.len() == 1, "{}: `{}` is told {} times:\n{log}", gateway.name, says.line, lines.len());
    }
    ensure!(reaches(&lab.a().netns, lab.b().inner()).is_err(), "packets pass");
    lab.gateways[1].stop()?;
    mend(&lab)?;
    lab.gateways[1].start_control()?;
    wait_until("it connects by itself", LONG, || Ok(reaches(&lab.a().netns, lab.b().inner()).is_ok()))
        .with_context(|| lab.logs())?;
    for gateway in &lab.gateways {
        wait_until("nothing is wrong any more", SOON, || Ok(!explain(gateway)?.contains("remedy:")))
            .with_context(|| format!("{}: {}", gateway.name, explain(gateway).unwrap_or_default()))?;
        ensure!(peer(gateway)?["state"] == "established", "{:#}", peer(gateway)?);
    }
    Ok(())
}

/// The first end connects, the second one is connected to.
fn roles(more: [&str; 2]) -> LabOptions {
    let roles = [&*format!("role: initiator{}", more[0]), &*format!("role: responder{}", more[1])];
    patient(&roles)
}

#[test]
fn no_algorithm_in_common() -> Result<()> {
    let one = ", proposals: [aes128gcm16-prfsha256-x25519]";
    let lab = Lab::prepare(&roles([one, ", proposals: [aes256gcm16-prfsha384-ecp384]"]))?;
    let a = Says {
        words: &["NO_PROPOSAL_CHOSEN", "remedy:  make `proposals`", "here:  IKE:AES_GCM_16_128"],
        counted: (FAILURES, "proposal"),
        line: "NO_PROPOSAL_CHOSEN",
    };
    let b = Says {
        words: &["192.0.2.1:4500 wanted to connect", "AES_GCM_16_256", "AES_GCM_16_128"],
        counted: (INITIATORS, "proposal"),
        line: "192.0.2.1:4500 was refused",
    };
    check(lab, [a, b], |lab| edit(lab.b(), "aes256gcm16-prfsha384-ecp384", "aes128gcm16-prfsha256-x25519"))
}

#[test]
fn another_preshared_key() -> Result<()> {
    let lab = Lab::prepare(&roles(["", ""]))?;
    let (key, other) = (lab.dir().join("site-a-site-b.psk"), lab.dir().join("other.psk"));
    private(&other, "another secret than the one of the other")?;
    edit(lab.b(), &key.to_string_lossy(), &other.to_string_lossy())?;
    let a = Says {
        words: &["AUTHENTICATION_FAILED", "remedy:  the peer does not accept us"],
        counted: (FAILURES, "authentication"),
        line: "AUTHENTICATION_FAILED",
    };
    let b = Says {
        words: &["site-a has another preshared key", "remedy:  put the same preshared key"],
        counted: (FAILURES, "authentication"),
        line: "has another preshared key",
    };
    check(lab, [a, b], |lab| {
        fs::copy(key, lab.dir().join("other.psk"))?;
        Ok(())
    })
}

#[test]
fn an_initiator_that_is_not_known() -> Result<()> {
    let lab = Lab::prepare(&roles(["", ", id: somebody.example.org"]))?;
    let a = Says {
        words: &["AUTHENTICATION_FAILED", "our identity", "site-a"],
        counted: (FAILURES, "authentication"),
        line: "AUTHENTICATION_FAILED",
    };
    let b = Says {
        words: &["no configured peer has this identity", "here:  somebody.example.org", "there: site-a"],
        counted: (INITIATORS, "authentication"),
        line: "no configured peer has this identity",
    };
    check(lab, [a, b], |lab| edit(lab.b(), ", id: somebody.example.org", ""))
}

#[test]
fn a_responder_that_is_somebody_else() -> Result<()> {
    let lab = Lab::prepare(&roles(["", ""]))?;
    edit(lab.b(), "peers:\n", "ike: { id: somebody.example.org }\npeers:\n")?;
    let a = Says {
        words: &["the peer says it is", "here:  site-b", "there: somebody.example.org", "remedy:  set the identity"],
        counted: (FAILURES, "authentication"),
        line: "the peer says it is",
    };
    // That we were asked for under another name is all that this end can know.
    let b = Says {
        words: &[
            "AUTHENTICATION_FAILED",
            "not the same at both ends: our identity",
            "here:  somebody.example.org",
            "there: site-b",
        ],
        counted: (FAILURES, "authentication"),
        line: "AUTHENTICATION_FAILED",
    };
    check(lab, [a, b], |lab| edit(lab.b(), "ike: { id: somebody.example.org }\n", ""))
}

/// Writes a file that only its owner can read.
fn private(file: &Path, text: &str) -> Result<()> {
    fs::write(file, text)?;
    Ok(fs::set_permissions(file, fs::Permissions::from_mode(0o600))?)
}

/// Writes the key and the certificate of a gateway.
fn install(lab: &Lab, gateway: &Gateway, credential: &Credential) -> Result<()> {
    private(&lab.dir().join(format!("{}.key", gateway.name)), &credential.key.private_pem())?;
    private(&lab.dir().join(format!("{}.crt", gateway.name)), credential.certificate.pem())
}

/// Two gateways with certificates, both of one authority unless the second one's is given.
fn certified(authority: &Authority, second: &Credential) -> Result<Lab> {
    let lab = Lab::prepare(&roles(["", ""]))?;
    let (dir, psk) = (lab.dir().display().to_string(), lab.dir().join("site-a-site-b.psk"));
    private(&lab.dir().join("ca.crt"), authority.certificate().pem())?;
    for gateway in [lab.a(), lab.b()] {
        edit(gateway, &format!("psk_file: {}", psk.display()), &format!("ca_file: {dir}/ca.crt"))?;
        let own = format!("ike: {{ key_file: {dir}/{0}.key, certificate_file: {dir}/{0}.crt }}\npeers:\n", gateway.name);
        edit(gateway, "peers:\n", &own)?;
    }
    install(&lab, lab.a(), &authority.issue(&Subject::dns("site-a"), KeyKind::EcdsaP256)?)?;
    install(&lab, lab.b(), second)?;
    Ok(lab)
}

/// The first end finds fault with the certificate of the second one.
fn bad_certificate(authority: &Authority, second: &Credential, words: &'static [&'static str], line: &'static str) -> Result<()> {
    let a = Says { words, counted: (FAILURES, "authentication"), line };
    let b = Says {
        words: &["AUTHENTICATION_FAILED", "remedy:  the peer does not accept us"],
        counted: (FAILURES, "authentication"),
        line: "AUTHENTICATION_FAILED",
    };
    check(certified(authority, second)?, [a, b], |lab| {
        install(lab, lab.b(), &authority.issue(&Subject::dns("site-b"), KeyKind::Ed25519)?)
    })
}

#[test]
fn a_certificate_that_has_expired() -> Result<()> {
    let authority = Authority::root("Lab CA", KeyKind::EcdsaP256)?;
    let expired = authority.issue(&Subject::dns("site-b").valid(Validity::Expired), KeyKind::Ed25519)?;
    bad_certificate(&authority, &expired, &["expired", "remedy:"], "expired")
}

#[test]
fn a_certificate_of_an_authority_that_is_not_known() -> Result<()> {
    let (authority, other) = (Authority::root("Lab CA", KeyKind::EcdsaP256)?, Authority::root("Other CA", KeyKind::Ed25519)?);
    let foreign = other.issue(&Subject::dns("site-b"), KeyKind::Ed25519)?;
    bad_certificate(&authority, &foreign, &["Other CA", "Lab CA", "remedy:"], "Other CA")
}

#[test]
fn selectors_that_do_not_meet_leave_the_ike_sa_up() -> Result<()> {
    let lab = Lab::prepare(&LabOptions { ip_mode: true, ..roles(["", ""]) })?;
    // The second end has other networks in mind.
    let right = fs::read_to_string(&lab.b().config)?;
    let (head, tail) = right.split_once("selectors: [").context("selectors")?;
    let (_, tail) = tail.split_once(']').context("their end")?;
    fs::write(&lab.b().config, format!("{head}selectors: [{{ local: 10.99.2.0/24, remote: 10.99.1.0/24 }}]{tail}"))?;
    let a = Says {
        words: &["TS_UNACCEPTABLE", "remedy:  make the traffic selectors", "10.78.2.0"],
        counted: (FAILURES, "selectors"),
        line: "TS_UNACCEPTABLE",
    };
    let b = Says {
        words: &[
            "no traffic selector is acceptable",
            "not the same at both ends: traffic selectors (ours === theirs)",
            "10.99.2.0",
            "10.78.2.0",
        ],
        counted: (FAILURES, "selectors"),
        line: "no traffic selector is acceptable",
    };
    check(lab, [a, b], |lab| Ok(fs::write(&lab.b().config, right)?))
}

#[test]
fn a_peer_that_does_not_answer() -> Result<()> {
    let mut lab = Lab::prepare(&roles(["", ""]))?;
    lab.gateways[0].start_control()?;
    let a = lab.a();
    wait_until("it was tried twice", LONG, || Ok(count(a, (FAILURES, "unanswered")) >= 2.0)).with_context(|| lab.logs())?;
    let reported = explain(a)?;
    ensure!(
        reported.contains("IKE_SA_INIT was not answered") && reported.contains("remedy:  see whether the peer is running"),
        "{reported}"
    );
    let log = a.log();
    ensure!(log.lines().filter(|line| line.contains("was not answered")).count() == 1, "{log}");
    ensure!(a.metrics()?.sum("adit_ike_retransmissions_total", &[("peer", "site-b")]) >= Some(6.0), "{:#}", ike(a)?);
    lab.gateways[1].start_control()?;
    wait_until("it connects by itself", LONG, || Ok(reaches(&lab.a().netns, lab.b().inner()).is_ok())).with_context(|| lab.logs())
}
