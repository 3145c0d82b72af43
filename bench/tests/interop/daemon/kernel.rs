//! Against the ESP of a Linux kernel, with and without extended sequence numbers.

use adit_bench::lab::interop::Release::{self, Swan5};
use adit_bench::lab::interop::sites::Proof;
use adit_bench::lab::interop::table::{Case, Section, Seen};
use anyhow::{Context, Result, ensure};

use super::matrix::{CIPHERS, role};
use super::{CHILD, CONNECTION, Ground, Pair, Site, ensure_words};

/// strongSwan in the guest, its kernel's ESP in UDP, Adit's data plane at the other end.
fn kernel_esp(release: Release, cipher: &'static str, word: &str, esn: bool, adit_begins: bool) -> Result<Seen> {
    let sequence = if esn { "esn" } else { "noesn" };
    let (ike, esp) = (format!("{cipher}-prfsha384-x25519"), format!("{cipher}-x25519-{sequence}"));
    let more = format!("role: {}, proposals: [{ike}], esp_proposals: [{esp}]", role(adit_begins));
    let mut pair = Pair::on(Ground::guest(release)?, release, Proof::Psk, &more, |swan| {
        swan.connections[0].proposals = vec![ike.clone()];
        swan.connections[0].children[0].proposals = vec![esp.clone()];
    })?;
    pair.connect(adit_begins)?;
    check(&mut pair, word, esn)?;
    pair.rekey(4)?;
    let lost = check(&mut pair, word, esn).context("after four rekeys")?;
    let (ike, esp) = pair.suites()?;
    let seen = format!("{lost} before and after 4 rekeys");
    if !esn {
        return Ok(vec![ike, esp, seen]);
    }
    let lost = roll_over(&mut pair)?;
    Ok(vec![ike, esp, format!("{seen}, {lost} while the kernel's numbers passed 2³²")])
}

/// Lets the kernel's sequence numbers pass 2³²: the outbound SA is put back with the same key and a later number. First somewhere in
/// the middle, because numbers that are nearer to 0 from below than the window is long belong to the 2³² before (RFC 4303 A2.2).
fn roll_over(pair: &mut Pair) -> Result<String> {
    let [there, here] = [Site::B, Site::A].map(|site| format!("{}", site.outer()));
    let list = |pair: &Pair| pair.ground.run_there(&format!("ip xfrm state list src {there} dst {here}"));
    let mut lost = String::new();
    for next in ["0x80000000", "0xffffffe0"] {
        let states = list(pair)?;
        let after = |name: &str| {
            let rest = states.split_once(name).map(|(_, rest)| rest.split_whitespace()).with_context(|| states.clone());
            rest.map(|words| words.take(3).map(str::to_owned).collect::<Vec<_>>())
        };
        let (spi, reqid, aead) = (&after(" spi ")?[0], &after(" reqid ")?[0], after("aead ")?);
        let id = format!("src {there} dst {here} proto esp spi {spi}");
        pair.ground.run_there(&format!(
            "ip xfrm state delete {id} && ip xfrm state add {id} reqid {reqid} mode tunnel replay-window 32 replay-oseq {next} \
             flag af-unspec flag esn aead '{}' {} {} encap espinudp 4500 4500 0.0.0.0",
            aead[0], aead[1], aead[2]
        ))?;
        // Every answer has a number of the kernel's.
        lost = pair.under_pings(|_| Ok(())).with_context(|| format!("from {next} on"))?;
    }
    let states = list(pair)?;
    ensure!(states.contains("oseq-hi 0x1"), "the numbers have not passed 2³²: {states}");
    Ok(lost)
}

/// Pings from both ends, and SAs that are what was asked for at both ends.
fn check(pair: &mut Pair, word: &str, esn: bool) -> Result<String> {
    pair.reaches().with_context(|| pair.said())?;
    let lost = pair.under_pings(|_| Ok(()))?;
    ensure_words(&pair.suites()?.1, &[word])?;
    let child = pair.swan.child(CONNECTION, CHILD)?;
    let ours = pair.peer()?["children"][0]["esn"] == true;
    let states = pair.ground.run_there("ip xfrm state")?;
    ensure!(child.esn == esn && ours == esn && states.contains("esn") == esn, "ESN {esn} wanted: {child:?}, {ours}, {states}");
    ensure!(states.contains("espinudp"), "{states}");
    Ok(lost)
}

/// Every cipher, ESN on and off, both roles.
pub fn section() -> Section {
    let mut cases = Vec::new();
    for (cipher, word) in CIPHERS {
        for esn in [true, false] {
            for adit_begins in [true, false] {
                let run = move || kernel_esp(Swan5, cipher, word, esn, adit_begins);
                cases.push(Case::new([cipher, if esn { "64 bits (ESN)" } else { "32 bits" }, role(adit_begins)], run));
            }
        }
    }
    Section {
        title: "ESP of a Linux kernel".to_owned(),
        about: "strongSwan 5.9 with kernel-netlink in a User Mode Linux guest, ESP in UDP (Adit has no other); \
            Adit's data plane at the other end. With ESN the kernel's numbers pass 2³² at the end; Adit's own stay below."
            .to_owned(),
        columns: vec!["cipher", "sequence numbers", "Adit is"],
        seen: vec!["IKE SA", "Child SA", "seen"],
        at_once: 1,
        cases,
    }
}

#[test]
fn extended_sequence_numbers_go_through_a_kernels_esp() -> Result<()> {
    kernel_esp(Swan5, CIPHERS[1].0, CIPHERS[1].1, true, true).map(drop)
}
