//! Which algorithms and proofs connect, in both roles; each connection carries packets.

use adit_bench::lab::interop::Release::{self, Swan5, Swan6};
use adit_bench::lab::interop::pki::KeyKind;
use adit_bench::lab::interop::sites::Proof;
use anyhow::{Context, Result};

use super::{MIB, Pair, ensure_suite};

/// One connection of a kind: begun by either end, with packets both ways.
fn connects(release: Release, proof: Proof, ike: &str, esp: &str, words: &[&str]) -> Result<()> {
    for adit_begins in [true, false] {
        let role = if adit_begins { "initiator" } else { "responder" };
        let more = format!("role: {role}, proposals: [{ike}], esp_proposals: [{esp}]");
        let connected = Pair::new(release, proof, &more, |swan| {
            swan.connections[0].proposals = vec![ike.to_owned()];
            swan.connections[0].children[0].proposals = vec![esp.to_owned()];
        })
        .and_then(|pair| {
            pair.connect(adit_begins)?;
            ensure_suite(&pair.peer()?, words)?;
            pair.transfers(4 * MIB)
        });
        connected.with_context(|| format!("{release:?} {proof:?} {ike} {esp}, Adit is the {role}"))?;
    }
    Ok(())
}

#[test]
fn strongswan_5_with_a_preshared_key_and_each_cipher() -> Result<()> {
    connects(Swan5, Proof::Psk, "aes128gcm16-prfsha256-x25519", "aes128gcm16", &["AES_GCM_16_128", "CURVE_25519"])?;
    connects(Swan5, Proof::Psk, "aes256gcm16-prfsha384-ecp384", "aes256gcm16", &["AES_GCM_16_256", "ECP_384"])?;
    connects(Swan5, Proof::Psk, "chacha20poly1305-prfsha512-ecp256", "chacha20poly1305", &["CHACHA20_POLY1305", "ECP_256"])
}

#[test]
fn strongswan_5_with_raw_keys_and_certificates() -> Result<()> {
    let (ike, esp) = ("aes128gcm16-prfsha256-x25519", "aes128gcm16-x25519");
    connects(Swan5, Proof::RawKeys(KeyKind::Ed25519), ike, esp, &["CURVE_25519"])?;
    connects(Swan5, Proof::Chains(KeyKind::EcdsaP256), ike, esp, &["CURVE_25519"])
}

#[test]
fn strongswan_6_with_ml_kem() -> Result<()> {
    let proof = Proof::Psk;
    connects(Swan6, proof, "aes256gcm16-prfsha384-x25519-ke1_mlkem768", "aes256gcm16-x25519-ke1_mlkem768", &["ML_KEM_768"])?;
    connects(Swan6, proof, "aes256gcm16-prfsha384-ecp384-ke1_mlkem1024", "aes256gcm16", &["ML_KEM_1024"])
}
