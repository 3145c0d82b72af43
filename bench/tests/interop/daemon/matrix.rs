//! Which algorithms and proofs connect, in both roles; each connection carries packets and is rekeyed.

use std::time::Duration;

use adit_bench::lab::interop::Release::{self, Swan5, Swan6};
use adit_bench::lab::interop::pki::KeyKind;
use adit_bench::lab::interop::sites::Proof;
use adit_bench::lab::interop::table::{Case, Section, Seen};
use anyhow::{Context, Result, ensure};

use super::{MIB, Pair, ensure_words};

pub const CIPHERS: [(&str, &str); 3] =
    [("aes128gcm16", "AES_GCM_16_128"), ("aes256gcm16", "AES_GCM_16_256"), ("chacha20poly1305", "CHACHA20_POLY1305")];
const PROOFS: [(&str, Proof); 4] = [
    ("PSK", Proof::Psk),
    ("Ed25519, raw keys", Proof::RawKeys(KeyKind::Ed25519)),
    ("Ed25519, certificates", Proof::Certificates(KeyKind::Ed25519)),
    ("ECDSA P-256, certificates", Proof::Chains(KeyKind::EcdsaP256)),
];
/// With the pseudorandom function that each is tried with.
const EXCHANGES: [(&str, &str, &str); 3] =
    [("x25519", "prfsha256", "CURVE_25519"), ("ecp256", "prfsha512", "ECP_256"), ("ecp384", "prfsha384", "ECP_384")];
/// Key exchanges with ML-KEM.
const HYBRIDS: [(&str, [&str; 2]); 2] =
    [("x25519-ke1_mlkem768", ["CURVE_25519", "ML_KEM_768"]), ("ecp384-ke1_mlkem1024", ["ECP_384", "ML_KEM_1024"])];
/// Bytes of an IKE datagram of strongSwan's where fragments are wanted.
const SMALL: u32 = 400;

pub fn role(adit_begins: bool) -> &'static str {
    if adit_begins { "initiator" } else { "responder" }
}

/// A connection with the same cipher and key exchange for IKE and for ESP, begun by one end.
struct Cell {
    release: Release,
    proof: Proof,
    cipher: &'static str,
    prf: &'static str,
    exchange: &'static str,
    adit_begins: bool,
}

impl Cell {
    fn start(&self) -> Result<Pair> {
        let (ike, esp) =
            (format!("{}-{}-{}", self.cipher, self.prf, self.exchange), format!("{}-{}", self.cipher, self.exchange));
        let more = format!("role: {}, proposals: [{ike}], esp_proposals: [{esp}]", role(self.adit_begins));
        Pair::new(self.release, self.proof, &more, |swan| {
            swan.connections[0].proposals = vec![ike.clone()];
            swan.connections[0].children[0].proposals = vec![esp.clone()];
        })
    }

    /// Packets both ways, then again after the Child SA was rekeyed with a key exchange of its own.
    fn connects(&self, words: &[&str]) -> Result<Seen> {
        let pair = self.start()?;
        pair.connect(self.adit_begins)?;
        let took = handshake(&pair.swan.log())?;
        let (ike, _) = pair.suites()?;
        ensure_words(&ike, words)?;
        pair.transfers(MIB)?;
        pair.rekey(if self.adit_begins { 1 } else { 2 })?;
        pair.reaches().with_context(|| pair.said())?;
        let (_, esp) = pair.suites()?;
        ensure_words(&esp, words)?;
        Ok(vec![ike, esp, format!("{} ms", took.as_millis())])
    }
}

/// Every cipher, proof and key exchange that strongSwan 5.9 has in common with us.
pub fn classic() -> Section {
    let mut cases = Vec::new();
    for (cipher, word) in CIPHERS {
        for (proof_name, proof) in PROOFS {
            for (exchange, prf, exchange_word) in EXCHANGES {
                for adit_begins in [true, false] {
                    let cell = Cell { release: Swan5, proof, cipher, prf, exchange, adit_begins };
                    let labels = [cipher, proof_name, exchange, role(adit_begins)];
                    let is_short = labels == ["aes256gcm16", "Ed25519, certificates", "ecp256", "responder"];
                    cases.push(Case::new(labels, move || cell.connects(&[word, exchange_word])).short_if(is_short));
                }
            }
        }
    }
    Section {
        title: "strongSwan 5.9: algorithms and proofs".to_owned(),
        about: "Cipher and key exchange are the same for IKE and ESP. In every case: 1 MiB of TCP each way with its hash compared, a \
            rekey of the Child SA with a key exchange of its own by Adit and, where Adit is the responder, then by strongSwan, pings both \
            ways before and after. The handshake is from the first message to the Child SA, by strongSwan's log."
            .to_owned(),
        columns: vec!["cipher", "proof", "key exchange", "Adit is"],
        seen: vec!["IKE SA", "Child SA after its rekey", "handshake"],
        at_once: 2,
        cases,
    }
}

/// The time from the first message to the first Child SA.
fn handshake(log: &str) -> Result<Duration> {
    let at = |what: &str| -> Result<f64> {
        let line = log.lines().find(|line| line.contains(what)).with_context(|| format!("no `{what}` in {log}"))?;
        let time = line.split_whitespace().next().unwrap_or_default();
        let parts: Vec<f64> = time.split(':').map(str::parse).collect::<Result<_, _>>().with_context(|| line.to_owned())?;
        Ok(parts.iter().fold(0.0, |sum, part| sum * 60.0 + part))
    };
    let (first, last) = (at("IKE_SA_INIT request")?, at("CHILD_SA net{1} established")?);
    // Midnight may have come in between.
    Ok(Duration::from_secs_f64((last - first).rem_euclid(24.0 * 3600.0)))
}

/// ML-KEM, in fragments; then rekeys with it and, when one end no longer proposes it, without.
fn hybrid(exchange: &'static str, words: [&'static str; 2], adit_begins: bool) -> Result<Seen> {
    let classical = exchange.split("-ke1").next().unwrap_or(exchange);
    let ike = [exchange, classical].map(|exchange| format!("aes256gcm16-prfsha384-{exchange}"));
    let esp = [exchange, classical].map(|exchange| format!("aes256gcm16-{exchange}"));
    let more = format!("role: {}, proposals: [{}], esp_proposals: [{}]", role(adit_begins), ike.join(", "), esp.join(", "));
    let mut pair = Pair::new(Swan6, Proof::Certificates(KeyKind::Ed25519), &more, |swan| {
        swan.daemon.fragment_size = Some(SMALL);
        swan.connections[0].proposals = ike.to_vec();
        swan.connections[0].children[0].proposals = esp.to_vec();
    })?;
    pair.connect(adit_begins)?;
    let first = pair.suites()?.0;
    ensure_words(&first, &words)?;
    in_fragments(&pair, "IKE_INTERMEDIATE", &["generating", "parsed"])?;
    let mut suites = Vec::new();
    let lost = pair.under_pings(|pair| {
        pair.rekey(8)?;
        suites.push(pair.suites()?);
        // The next control plane goes on with the same SAs, and knows no ML-KEM.
        pair.adit.kill_control()?;
        pair.adit.change(&format!("{}, ", ike[0]), "")?;
        pair.adit.change(&format!("{}, ", esp[0]), "")?;
        pair.adit.start(pair.ground.here())?;
        pair.rekey(8)?;
        suites.push(pair.suites()?);
        Ok(())
    })?;
    let [(ike_with, esp_with), (ike_without, esp_without)] = suites.try_into().ok().context("two pairs of suites")?;
    ensure_words(&ike_with, &words)?;
    ensure_words(&esp_with, &words)?;
    ensure!(!ike_without.contains("ML_KEM") && !esp_without.contains("ML_KEM"), "{ike_without}, {esp_without}");
    pair.transfers(MIB)?;
    Ok(vec![ike_with, esp_with, ike_without, lost])
}

/// An error unless strongSwan tells that this exchange went in fragments, in what it was `generating` or has `parsed`.
pub fn in_fragments(pair: &Pair, exchange: &str, directions: &[&str]) -> Result<()> {
    let log = pair.swan.log();
    for direction in directions {
        let part = |line: &str| line.contains(direction) && line.contains(exchange) && line.contains("EF(2/");
        ensure!(log.lines().any(part), "no fragment of {exchange} was {direction} by strongSwan: {}", pair.said());
    }
    Ok(())
}

/// ML-KEM in both roles.
pub fn post_quantum() -> Section {
    let mut cases = Vec::new();
    for (exchange, words) in HYBRIDS {
        for adit_begins in [true, false] {
            let run = move || hybrid(exchange, words, adit_begins);
            cases.push(Case::new(["aes256gcm16", "Ed25519, certificates", exchange, role(adit_begins)], run));
        }
    }
    Section {
        title: "strongSwan 6: ML-KEM".to_owned(),
        about: format!(
            "strongSwan sends IKE in fragments of {SMALL} bytes, Adit of 1280; they were seen in IKE_INTERMEDIATE. Then, under a \
             ping every millisecond: two rekeys each of the Child SA and of the IKE SA by either end with ML-KEM, Adit's control plane killed \
             and started with proposals without it, the same eight rekeys again. 1 MiB of TCP each way at the end."
        ),
        columns: vec!["cipher", "proof", "key exchange", "Adit is"],
        seen: vec!["IKE SA", "Child SA", "IKE SA after the last rekey", "pings"],
        at_once: 1,
        cases,
    }
}

/// What runs with every test: each value at least once, in both roles.
fn some(release: Release, proof: Proof, cipher: usize, exchange: usize) -> Result<()> {
    let ((cipher, word), (exchange, prf, exchange_word)) = (CIPHERS[cipher], EXCHANGES[exchange]);
    for adit_begins in [true, false] {
        let cell = Cell { release, proof, cipher, prf, exchange, adit_begins };
        let context = || format!("{release:?} {proof:?} {cipher} {exchange}, Adit is the {}", role(adit_begins));
        cell.connects(&[word, exchange_word]).with_context(context)?;
    }
    Ok(())
}

#[test]
fn strongswan_5_with_a_preshared_key_and_each_cipher() -> Result<()> {
    (0..3).try_for_each(|n| some(Swan5, Proof::Psk, n, n))
}

#[test]
fn strongswan_5_with_raw_keys_and_certificates() -> Result<()> {
    some(Swan5, Proof::RawKeys(KeyKind::Ed25519), 0, 0)?;
    some(Swan5, Proof::Chains(KeyKind::EcdsaP256), 0, 0)
}

#[test]
fn strongswan_6_with_ml_kem() -> Result<()> {
    hybrid(HYBRIDS[0].0, HYBRIDS[0].1, true)?;
    hybrid(HYBRIDS[1].0, HYBRIDS[1].1, false).map(drop)
}
