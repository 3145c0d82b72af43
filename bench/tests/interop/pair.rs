//! Two strongSwans: tunnel, rekeying, proofs of identity, ML-KEM and the way back to what an older peer knows.

use adit_bench::lab::interop::Config;
use adit_bench::lab::interop::Release::{Swan5, Swan6};
use adit_bench::lab::interop::pki::KeyKind;
use adit_bench::lab::interop::sites::{CHILD, CONNECTION, Proof, Site, Sites, pair};
use anyhow::{Context, Result, ensure};

use crate::{SOON, connect, start};

const ML_KEM_FIRST: [&str; 2] = ["aes256gcm16-prfsha384-x25519-ke1_mlkem768", "aes256gcm16-prfsha384-ecp384"];

/// Offers ML-KEM for IKE and for rekeyed children, and the same without it next.
fn prefer_ml_kem(config: &mut Config) {
    let connection = &mut config.connections[0];
    connection.proposals = ML_KEM_FIRST.map(str::to_owned).to_vec();
    connection.children[0].proposals = vec!["aes256gcm16-x25519-ke1_mlkem768".to_owned(), "aes256gcm16-ecp384".to_owned()];
}

#[test]
fn two_of_the_older_release_connect_rekey_from_both_ends_and_disconnect() -> Result<()> {
    let sites = Sites::new()?;
    let (a, b) = start(&sites, [Swan5, Swan5], &pair(Proof::Psk)?)?;
    connect(&sites, &a)?;
    let (ike, child) = (a.established(CONNECTION)?, a.child(CONNECTION, CHILD)?);
    ensure!(ike.initiator && !b.established(CONNECTION)?.initiator, "{ike:?}");
    ensure!(ike.local_id == Site::A.id() && ike.remote_id == Site::B.id(), "{ike:?}");
    ensure!(ike.algorithms.encryption == "AES_GCM_16" && ike.algorithms.key_bits == 256, "{ike:?}");
    ensure!(ike.algorithms.prf == "PRF_HMAC_SHA2_384" && ike.algorithms.key_exchange == "CURVE_25519", "{ike:?}");
    ensure!(child.mode == "TUNNEL" && child.in_udp && !child.esn && child.packets_in >= 3, "{child:?}");
    ensure!(b.child(CONNECTION, CHILD)?.spi_in == child.spi_out, "{child:?}");
    ensure!(child.local_ts == [Site::A.network()] && child.remote_ts == [Site::B.network()], "{child:?}");

    for end in [&a, &b] {
        let before = end.child(CONNECTION, CHILD)?;
        let after = end.rekey_child(CONNECTION, CHILD)?;
        ensure!(after.spi_in != before.spi_in && after.spi_out != before.spi_out, "{before:?} {after:?}");
        let after = end.rekey_ike(CONNECTION)?;
        ensure!(after.spi_initiator != ike.spi_initiator && after.initiator, "{after:?}");
        Site::A.reach(|line| sites.a.run(line))?;
    }
    b.terminate(CONNECTION)?;
    a.wait_until_idle(SOON)?;
    ensure!(Site::A.reach(|line| sites.a.run(&line.replace("-w5", "-w1"))).is_err(), "it still gets through");
    Ok(())
}

#[test]
fn two_of_the_newer_release_agree_on_ml_kem_at_first_and_in_rekeying() -> Result<()> {
    let sites = Sites::new()?;
    let mut configs = pair(Proof::RawKeys(KeyKind::Ed25519))?;
    prefer_ml_kem(&mut configs.0);
    prefer_ml_kem(&mut configs.1);
    let (a, b) = start(&sites, [Swan6, Swan6], &configs)?;
    ensure!(a.version()?.starts_with("strongSwan 6."), "{}", a.version()?);
    connect(&sites, &a)?;
    ensure!(a.established(CONNECTION)?.algorithms.additional == ["ML_KEM_768"], "{:?}", a.sas()?);
    ensure!(b.log().contains("IKE_INTERMEDIATE request 1 [ KE ]"), "no IKE_INTERMEDIATE: {}", b.log());
    let child = b.rekey_child(CONNECTION, CHILD)?;
    ensure!(child.algorithms.key_exchange == "CURVE_25519" && child.algorithms.additional == ["ML_KEM_768"], "{child:?}");
    ensure!(b.rekey_ike(CONNECTION)?.algorithms.additional == ["ML_KEM_768"], "{:?}", b.sas()?);
    Site::A.reach(|line| sites.a.run(line))
}

#[test]
fn the_newer_release_falls_back_to_what_the_older_one_knows_in_both_roles() -> Result<()> {
    for releases in [[Swan6, Swan5], [Swan5, Swan6]] {
        let sites = Sites::new()?;
        let mut configs = pair(Proof::Certificates(KeyKind::EcdsaP384))?;
        let newer = if releases[0] == Swan6 { &mut configs.0 } else { &mut configs.1 };
        prefer_ml_kem(newer);
        let older = if releases[0] == Swan6 { &mut configs.1 } else { &mut configs.0 };
        older.connections[0].proposals = vec![ML_KEM_FIRST[1].to_owned()];
        let (a, b) = start(&sites, releases, &configs)?;
        connect(&sites, &a)?;
        for end in [&a, &b] {
            let agreed = end.established(CONNECTION)?.algorithms;
            ensure!(agreed.key_exchange == "ECP_384" && agreed.additional.is_empty(), "{agreed:?}");
        }
    }
    Ok(())
}

#[test]
fn every_proof_of_identity_is_accepted_and_a_wrong_one_refused() -> Result<()> {
    let sites = Sites::new()?;
    let (mut a, mut b) = start(&sites, [Swan5, Swan5], &pair(Proof::Psk)?)?;
    for (proof, method) in [
        (Proof::Psk, "pre-shared key"),
        (Proof::RawKeys(KeyKind::Ed25519), "ED25519"),
        (Proof::RawKeys(KeyKind::EcdsaP256), "ECDSA_WITH_SHA256_DER"),
        (Proof::Certificates(KeyKind::Ed25519), "ED25519"),
        (Proof::Certificates(KeyKind::EcdsaP256), "ECDSA_WITH_SHA256_DER"),
        (Proof::Chains(KeyKind::EcdsaP384), "ECDSA_WITH_SHA384_DER"),
    ] {
        let configs = pair(proof)?;
        a.reload(&configs.0)?;
        b.reload(&configs.1)?;
        connect(&sites, &a).with_context(|| format!("{proof:?}"))?;
        let said = format!("authentication of '{}' with {method} successful", Site::A.id());
        ensure!(b.log().contains(&said), "{proof:?}: `{said}` is not in {}", b.log());
        a.terminate(CONNECTION)?;
        b.wait_until_idle(SOON)?;

        // The other end knows other keys.
        let mut strangers = pair(proof)?;
        strangers.1.connections[0].secret = b"another secret".to_vec();
        b.reload(&strangers.1)?;
        let refused = a.initiate(CONNECTION, CHILD).expect_err("somebody else was let in");
        ensure!(format!("{refused:#}").contains("AUTH_FAILED"), "{proof:?}: {refused:#}");
    }
    Ok(())
}
