//! The first exchanges: who begins, by what both ends prove themselves, which algorithms and key exchanges they agree on.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Instant;

use adit_bench::lab::interop::Release::{self, Swan5, Swan6};
use adit_bench::lab::interop::pki::KeyKind;
use adit_bench::lab::interop::sites::{CHILD, CONNECTION, Proof, Site};
use adit_engine::crypto::KeyExchangeMethod::{EcpP256, EcpP384, MlKem512, MlKem768, MlKem1024, X25519};
use adit_engine::ike::{ChildProposal, EndpointConfig, IkeProposal, Limits, PeerConfig};
use adit_engine::path::IKE_PORT;
use anyhow::{Context, Result, ensure};

use super::gateway::{PEER, fresh_endpoint, now};
use super::{Pair, peer};

/// Begins once from each end.
fn from_both_ends(
    release: Release,
    proof: Proof,
    change: impl Fn(&mut PeerConfig, &mut adit_bench::lab::interop::Config),
) -> Result<[Pair; 2]> {
    let initiator = Pair::new(release, proof, &change)?;
    initiator.connect().and_then(|()| initiator.check()).with_context(|| format!("Adit to {release:?}, {proof:?}"))?;
    let responder = Pair::new(release, proof, &change)?;
    responder.accept().and_then(|()| responder.check()).with_context(|| format!("{release:?} to Adit, {proof:?}"))?;
    Ok([initiator, responder])
}

#[test]
fn a_preshared_key_makes_a_tunnel_whoever_begins() -> Result<()> {
    for release in Release::ALL {
        from_both_ends(release, Proof::Psk, |_, _| {})?;
    }
    Ok(())
}

#[test]
fn adit_begins_on_the_port_of_nat_traversal() -> Result<()> {
    let pair = Pair::new(Swan5, Proof::Psk, |config, _| {
        for address in config.local.iter_mut().chain(&mut config.remotes) {
            address.set_port(4500);
        }
    })?;
    pair.connect()?;
    pair.check()
}

#[test]
fn ipv6_is_between_the_ends() -> Result<()> {
    for release in Release::ALL {
        from_both_ends(release, Proof::Psk, |config, swan| {
            let [ours, theirs] = [Site::A, Site::B].map(|site| IpAddr::V6(site.outer6()));
            config.local = Some(SocketAddr::new(ours, IKE_PORT));
            config.remotes = vec![SocketAddr::new(theirs, IKE_PORT)];
            (swan.connections[0].local_address, swan.connections[0].remote_address) = (Some(theirs), Some(ours));
        })?;
    }
    Ok(())
}

#[test]
fn pinned_keys_and_certificates_prove_both_ends_to_each_other() -> Result<()> {
    for (release, proof, method) in [
        (Swan5, Proof::RawKeys(KeyKind::Ed25519), "ED25519"),
        (Swan6, Proof::RawKeys(KeyKind::EcdsaP256), "ECDSA_WITH_SHA256_DER"),
        (Swan6, Proof::Certificates(KeyKind::Ed25519), "ED25519"),
        (Swan5, Proof::Certificates(KeyKind::EcdsaP256), "ECDSA_WITH_SHA256_DER"),
        (Swan5, Proof::Chains(KeyKind::EcdsaP384), "ECDSA_WITH_SHA384_DER"),
    ] {
        for pair in from_both_ends(release, proof, |_, _| {})? {
            let said = format!("authentication of '{}' with {method} successful", Site::A.id());
            ensure!(pair.swan.log().contains(&said), "{proof:?}: `{said}` is not in {}", pair.swan.log());
        }
    }
    Ok(())
}

#[test]
fn a_distinguished_name_is_an_identity() -> Result<()> {
    let name = |site: Site| format!("O=Adit lab, CN={}", site.id());
    for pair in from_both_ends(Swan5, Proof::Certificates(KeyKind::EcdsaP256), |config, swan| {
        config.local_id = name(Site::A).parse().expect("a distinguished name");
        config.remote_id = name(Site::B).parse().expect("a distinguished name");
        swan.connections[0].local.id = name(Site::B);
        swan.connections[0].remote.id = name(Site::A);
    })? {
        ensure!(pair.swan.established(CONNECTION)?.remote_id == name(Site::A), "{:?}", pair.swan.sas()?);
    }
    Ok(())
}

/// A name that looks like an address.
#[test]
fn the_type_that_is_written_before_an_identity_is_the_one_of_it() -> Result<()> {
    let name = |site: Site| format!("fqdn:{}", site.outer());
    let typed = |config: &mut PeerConfig, swan: &mut adit_bench::lab::interop::Config| {
        config.local_id = name(Site::A).parse().expect("a name with its type");
        config.remote_id = name(Site::B).parse().expect("a name with its type");
        swan.connections[0].local.id = name(Site::B);
        swan.connections[0].remote.id = name(Site::A);
    };
    for release in Release::ALL {
        for pair in from_both_ends(release, Proof::Psk, typed)? {
            let said = pair.adit.with(|view| view.status().ike[0].remote_id.to_string());
            ensure!(said == name(Site::B), "{said}");
        }
    }
    // Without its type it is an address, which is somebody else.
    let address = Site::B.outer().to_string();
    let pair = Pair::new(Swan5, Proof::Psk, |config, swan| {
        typed(config, swan);
        config.remote_id = address.parse().expect("an address");
    })?;
    let error = format!("{:#}", pair.swan.initiate(CONNECTION, CHILD).expect_err("a name was taken for an address"));
    ensure!(error.contains("AUTH_FAILED"), "{error}");
    let explained = pair.adit.with(|view| view.endpoint.explain(PEER, Instant::now())).context("the peer")?;
    let refused = explained.unauthenticated.last().with_context(|| format!("nobody was refused: {explained:?}"))?;
    ensure!(refused.ours == [address.as_str()] && refused.theirs == [name(Site::B).as_str()], "{refused:?}");
    Ok(())
}

#[test]
fn ml_kem_comes_in_an_intermediate_exchange_whoever_begins() -> Result<()> {
    for (additional, words) in [
        (vec![MlKem768], "x25519-ke1_mlkem768"),
        (vec![MlKem1024, EcpP384], "x25519-ke1_mlkem1024-ke2_ecp384"),
        (vec![MlKem512], "x25519-ke1_mlkem512"),
    ] {
        let pairs = from_both_ends(Swan6, Proof::RawKeys(KeyKind::Ed25519), |config, swan| {
            let additional = additional.iter().map(|method| vec![Some(*method)]).collect();
            config.proposals = vec![IkeProposal { additional, ..peer::classic() }];
            swan.connections[0].proposals = vec![format!("aes256gcm16-prfsha384-{words}")];
        })?;
        for pair in pairs {
            ensure!(pair.swan.established(CONNECTION)?.algorithms.additional.len() == additional.len(), "{:?}", pair.swan.sas()?);
            ensure!(pair.adit.with(|view| view.status().ike[0].post_quantum), "not post-quantum");
        }
    }
    Ok(())
}

#[test]
fn without_ml_kem_at_the_other_end_the_next_proposal_is_taken() -> Result<()> {
    from_both_ends(Swan5, Proof::Psk, |config, _| config.proposals = vec![peer::hybrid(), peer::classic()])?;
    // The other end can do without, too, and offers both in one proposal.
    let optional = IkeProposal { additional: vec![vec![Some(MlKem768), None]], ..peer::classic() };
    from_both_ends(Swan5, Proof::Psk, |config, _| config.proposals = vec![optional.clone()])?;
    from_both_ends(Swan6, Proof::Psk, |config, swan| {
        config.proposals = vec![optional.clone()];
        swan.connections[0].proposals = vec!["aes256gcm16-prfsha384-x25519-ke1_mlkem768".to_owned()];
    })?;
    Ok(())
}

#[test]
fn another_key_exchange_is_asked_for_and_taken_up() -> Result<()> {
    for release in Release::ALL {
        from_both_ends(release, Proof::Psk, |config, swan| {
            config.proposals = vec![IkeProposal { key_exchanges: vec![X25519, EcpP256], ..peer::classic() }];
            swan.connections[0].proposals = vec!["aes256gcm16-prfsha384-ecp384-ecp256".to_owned()];
        })?;
    }
    Ok(())
}

#[test]
fn messages_go_in_fragments_both_ways() -> Result<()> {
    for release in Release::ALL {
        let config = EndpointConfig { datagram_max: 400, ..EndpointConfig::default() };
        let pair = Pair::with(release, Proof::Chains(KeyKind::EcdsaP256), config, |_, swan| {
            swan.daemon.fragment_size = Some(300);
        })?;
        pair.connect()?;
        pair.check()?;
        for said in ["generating IKE_AUTH response 1 [ EF(1/", "parsed IKE_AUTH request 1 [ EF(1/"] {
            ensure!(pair.swan.log().contains(said), "`{said}` is not in {}", pair.swan.log());
        }
    }
    Ok(())
}

/// Begins an IKE SA from somewhere at host a and leaves it at that.
fn leave_half_open(pair: &Pair) -> Result<()> {
    let socket = pair.sites.a.enter(|| UdpSocket::bind((Site::A.outer(), 0)))?;
    let mut endpoint = fresh_endpoint(&EndpointConfig::default());
    endpoint.set_peer(now(), PEER, pair.adit.with(|view| view.config.clone()))?;
    endpoint.connect(now(), PEER)?;
    let first = endpoint.poll_transmit().context("an IKE_SA_INIT request")?;
    socket.set_read_timeout(Some(super::SOON))?;
    let hop = first.hop.udp().context("a way of UDP")?;
    socket.send_to(&first.payload, hop.remote)?;
    socket.recv(&mut [0; 2000]).context("the answer")?;
    Ok(())
}

#[test]
fn a_cookie_is_brought_and_asked_for() -> Result<()> {
    for release in Release::ALL {
        let pair = Pair::new(release, Proof::Psk, |_, swan| swan.daemon.cookie_threshold = Some(1))?;
        leave_half_open(&pair)?;
        pair.connect()?;
        pair.check()?;
        ensure!(pair.swan.log().contains("N(COOKIE) SA KE"), "no cookie: {}", pair.swan.log());

        let limits = Limits { cookie_threshold: 0, ..Limits::default() };
        let pair = Pair::with(release, Proof::Psk, EndpointConfig { limits, ..EndpointConfig::default() }, |_, _| {})?;
        pair.accept()?;
        pair.check()?;
        ensure!(pair.adit.with(|view| view.endpoint.counters().cookies_demanded) == 1, "no cookie was demanded");
    }
    Ok(())
}

#[test]
fn what_does_not_fit_is_explained_and_comes_right() -> Result<()> {
    let pair = Pair::new(Swan5, Proof::Psk, |config, swan| {
        config.proposals = vec![IkeProposal { key_exchanges: vec![EcpP256], ..peer::classic() }];
        swan.connections[0].children[0].proposals = vec!["aes128gcm16".to_owned()];
    })?;
    pair.adit.act(|endpoint, now| endpoint.connect(now, PEER))?;
    let refused = |text: &'static str| {
        pair.adit.wait_for(text, super::SOON, |view| {
            let cause = view.status().cause.map(|cause| cause.to_string()).unwrap_or_default();
            cause.contains(text).then_some(())
        })
    };
    refused("NO_PROPOSAL_CHOSEN")?;
    // Now the IKE SA fits, but no Child SA does: it stays, and the Child SA is asked for again.
    let mut config = pair.adit.with(|view| view.config.clone());
    config.proposals = vec![peer::classic()];
    pair.adit.set_peer(config.clone())?;
    pair.adit.wait_for("the IKE SA", super::SOON, |view| view.status().state.is_up().then_some(()))?;
    ensure!(pair.adit.with(|view| view.data.pairs()) == 0 && pair.swan.established(CONNECTION)?.child(CHILD).is_none());
    config.children[0].proposals.push(ChildProposal { suites: vec![adit_proto::suite::Suite::Aes128Gcm], ..peer::esp() });
    pair.adit.set_peer(config)?;
    pair.connected()?;
    pair.check()
}

#[test]
fn a_stranger_is_refused_at_either_end() -> Result<()> {
    for proof in [Proof::Psk, Proof::RawKeys(KeyKind::Ed25519), Proof::Certificates(KeyKind::EcdsaP256)] {
        // The other end comes from another lab, with other keys.
        let (other, _) = adit_bench::lab::interop::sites::pair(proof)?;
        let pair = Pair::new(Swan5, proof, |config, swan| {
            let stranger = peer::config(Site::A, &other.connections[0]).expect("a configuration");
            (config.local_auth, config.remote_auth) = (stranger.local_auth, stranger.remote_auth);
            swan.connections[0].secret = b"another secret".to_vec();
        })?;
        let error = format!("{:#}", pair.swan.initiate(CONNECTION, CHILD).expect_err("a stranger was let in"));
        ensure!(error.contains("AUTH_FAILED"), "{error}");
        pair.adit.act(|endpoint, now| endpoint.connect(now, PEER))?;
        pair.adit.wait_for("the refusal", super::SOON, |view| {
            let cause = view.status().cause.map(|cause| cause.to_string()).unwrap_or_default();
            cause.contains("AUTHENTICATION_FAILED").then_some(())
        })?;
        ensure!(pair.adit.with(|view| view.data.pairs()) == 0 && pair.swan.sas()?.iter().all(|sa| !sa.is_established()));
    }
    Ok(())
}
