//! What happens with SAs that are up: rekeys from either end and from both, by command and by lifetime, deletes, changes of address.

use std::net::SocketAddr;
use std::time::Duration;

use adit_bench::lab::interop::Release::{self, Swan5, Swan6};
use adit_bench::lab::interop::config::{Child, Retransmit};
use adit_bench::lab::interop::pki::KeyKind;
use adit_bench::lab::interop::sites::{CHILD, CONNECTION, LINK, Proof, Site};
use adit_engine::crypto::KeyExchangeMethod::{EcpP384, MlKem768, X25519};
use adit_engine::ike::{Cause, ChildConfig, ChildProposal, ConnectionState, EndpointConfig, Lifetime, Retransmission};
use adit_proto::ike::{AddressRange, IpSelector};
use anyhow::{Context, Result, ensure};

use super::gateway::{NAT_PORT, OTHER_ADDRESS, PEER};
use super::{Pair, SOON, peer, traffic};

/// Everything is rekeyed twice by each end, the second time under what the other end has made.
fn rekey_all(pair: &Pair) -> Result<()> {
    pair.under_traffic(|| {
        for round in 0..2 {
            pair.rekey_child().with_context(|| format!("Child SA by Adit, round {round}"))?;
            pair.agree()?;
            pair.swan.rekey_child(CONNECTION, CHILD).with_context(|| format!("Child SA by strongSwan, round {round}"))?;
            pair.agree()?;
            pair.rekey_ike().with_context(|| format!("IKE SA by Adit, round {round}"))?;
            pair.agree()?;
            pair.swan.rekey_ike(CONNECTION).with_context(|| format!("IKE SA by strongSwan, round {round}"))?;
            pair.agree()?;
        }
        Ok(())
    })
}

#[test]
fn both_ends_rekey_everything_without_losing_a_packet() -> Result<()> {
    for release in Release::ALL {
        let pair = Pair::new(release, Proof::Psk, |_, _| {})?;
        pair.connect()?;
        rekey_all(&pair).with_context(|| format!("Adit to {release:?}"))?;
        let pair = Pair::new(release, Proof::Psk, |_, _| {})?;
        pair.accept()?;
        rekey_all(&pair).with_context(|| format!("{release:?} to Adit"))?;
    }
    Ok(())
}

#[test]
fn child_sas_with_key_exchanges_of_their_own_are_rekeyed() -> Result<()> {
    for (release, methods, additional, words) in [
        (Swan5, vec![X25519], vec![], "aes256gcm16-x25519"),
        (Swan6, vec![X25519], vec![MlKem768], "aes256gcm16-x25519-ke1_mlkem768"),
        (Swan6, vec![X25519], vec![MlKem768, EcpP384], "aes256gcm16-x25519-ke1_mlkem768-ke2_ecp384"),
    ] {
        let pair = Pair::new(release, Proof::Psk, |config, swan| {
            let additional: Vec<_> = additional.iter().map(|method| vec![Some(*method)]).collect();
            config.children[0].proposals = vec![ChildProposal { key_exchanges: methods.clone(), additional, ..peer::esp() }];
            swan.connections[0].children[0].proposals = vec![words.to_owned()];
            if release == Swan6 {
                config.proposals = vec![peer::hybrid()];
                swan.connections[0].proposals = vec!["aes256gcm16-prfsha384-x25519-ke1_mlkem768".to_owned()];
            }
        })?;
        pair.connect()?;
        rekey_all(&pair).with_context(|| words.to_owned())?;
        let agreed = pair.swan.child(CONNECTION, CHILD)?.algorithms;
        ensure!(agreed.key_exchange == "CURVE_25519" && agreed.additional.len() == additional.len(), "{agreed:?}");
    }
    Ok(())
}

#[test]
fn a_child_rekey_with_another_method_is_corrected() -> Result<()> {
    let pair = Pair::new(Swan5, Proof::Psk, |config, swan| {
        config.children[0].proposals = vec![ChildProposal { key_exchanges: vec![X25519, EcpP384], ..peer::esp() }];
        swan.connections[0].children[0].proposals = vec!["aes256gcm16-ecp256-ecp384".to_owned()];
    })?;
    pair.connect()?;
    rekey_all(&pair)
}

#[test]
fn both_ends_rekey_at_once_and_one_sa_stays() -> Result<()> {
    for (release, hybrid) in [(Swan5, false), (Swan6, false), (Swan6, true)] {
        let pair = Pair::new(release, Proof::Psk, |config, swan| {
            if hybrid {
                let additional = vec![vec![Some(MlKem768)]];
                config.children[0].proposals = vec![ChildProposal { key_exchanges: vec![X25519], additional, ..peer::esp() }];
                swan.connections[0].children[0].proposals = vec!["aes256gcm16-x25519-ke1_mlkem768".to_owned()];
            }
        })?;
        pair.connect()?;
        pair.under_traffic(|| {
            for round in 0..8 {
                let ours = std::thread::scope(|scope| {
                    // It may fail: what it was asked to rekey may have been replaced by us in the meantime.
                    scope.spawn(|| match round % 2 {
                        0 => drop(pair.swan.rekey_child(CONNECTION, CHILD)),
                        _ => drop(pair.swan.rekey_ike(CONNECTION)),
                    });
                    if round % 2 == 0 { pair.rekey_child() } else { pair.rekey_ike() }
                });
                ours.and_then(|()| pair.agree()).with_context(|| format!("{release:?}, round {round}"))?;
            }
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn a_quarter_of_all_messages_is_lost_and_no_packet() -> Result<()> {
    let retransmission = Retransmission { first: Duration::from_millis(100), max: Duration::from_millis(400), tries: 40 };
    for release in Release::ALL {
        let config = EndpointConfig { retransmission, datagram_max: 400, ..EndpointConfig::default() };
        let pair = Pair::with(release, Proof::Certificates(KeyKind::EcdsaP256), config, |config, swan| {
            swan.daemon.retransmit = Some(Retransmit { timeout: Duration::from_millis(150), base: 1.05, tries: 40 });
            swan.daemon.fragment_size = Some(400);
            if release == Swan6 {
                config.proposals = vec![peer::hybrid()];
                let additional = vec![vec![Some(MlKem768)]];
                config.children[0].proposals = vec![ChildProposal { key_exchanges: vec![X25519], additional, ..peer::esp() }];
                swan.connections[0].proposals = vec!["aes256gcm16-prfsha384-x25519-ke1_mlkem768".to_owned()];
                swan.connections[0].children[0].proposals = vec!["aes256gcm16-x25519-ke1_mlkem768".to_owned()];
            }
        })?;
        pair.adit.with(|view| view.loss = 25);
        pair.accept().with_context(|| format!("{release:?}"))?;
        rekey_all(&pair).with_context(|| format!("{release:?}"))?;
        let counters = pair.adit.with(|view| view.endpoint.counters());
        ensure!(counters.retransmissions > 0 && counters.repeated_requests > 0, "{counters:?}");
    }
    Ok(())
}

#[test]
fn short_lifetimes_rekey_by_themselves_at_either_end() -> Result<()> {
    for (release, ours) in [(Swan5, true), (Swan5, false), (Swan6, true), (Swan6, false)] {
        let short = |seconds| Lifetime { rekey_after: Duration::from_secs(seconds), hard_percent: 1000, ..Lifetime::CHILD };
        let pair = Pair::new(release, Proof::Psk, |config, swan| {
            if ours {
                config.children[0].lifetime = short(1);
                config.ike_lifetime = short(3);
            } else {
                swan.connections[0].children[0].rekey_time = Some(Duration::from_secs(1));
                swan.connections[0].rekey_time = Some(Duration::from_secs(3));
            }
        })?;
        if ours {
            pair.accept()?
        } else {
            pair.connect()?
        }
        let rekeyed = || pair.swan.wait_for("several rekeys", SOON, |sas| sas.iter().any(|sa| sa.id >= 4).then_some(()));
        pair.under_traffic(rekeyed).with_context(|| format!("{release:?}, by Adit: {ours}"))?;
    }
    Ok(())
}

#[test]
fn either_end_closes_the_connection() -> Result<()> {
    for release in Release::ALL {
        let pair = Pair::new(release, Proof::Psk, |_, _| {})?;
        pair.connect()?;
        pair.adit.act(|endpoint, now| endpoint.disconnect(now, PEER))?;
        pair.swan.wait_until_idle(SOON)?;
        pair.adit.wait_for("an empty data plane", SOON, |view| {
            (view.data.inbound.len() + view.data.outbound.len() == 0).then_some(())
        })?;
        ensure!(pair.adit.with(|view| view.status().state) == ConnectionState::Idle);

        pair.accept()?;
        pair.check()?;
        pair.swan.terminate(CONNECTION)?;
        pair.adit.wait_for("the end", SOON, |view| (view.status().state == ConnectionState::Failed).then_some(()))?;
        let (cause, data) = pair.adit.with(|view| (view.status().cause, view.data.inbound.len() + view.data.outbound.len()));
        ensure!(cause == Some(Cause::PeerClosed) && data == 0, "{cause:?}, {data} SAs");
    }
    Ok(())
}

#[test]
fn a_deleted_child_comes_back_under_the_same_ike_sa() -> Result<()> {
    for release in Release::ALL {
        let pair = Pair::new(release, Proof::Psk, |_, _| {})?;
        pair.connect()?;
        let (ike, first) = pair.spis();
        let another = |not: u32| {
            pair.adit.wait_for("another Child SA", SOON, |view| {
                view.status().ike.first()?.children.iter().find(|one| one.inbound.0 != not && one.is_sending && !one.is_going)?;
                Some(())
            })
        };
        pair.swan.terminate_child(CONNECTION, CHILD)?;
        another(first)?;
        pair.check()?;
        let (_, second) = pair.spis();
        pair.adit.act(|endpoint, now| endpoint.close_child(now, adit_proto::control::Spi(second)));
        another(second)?;
        pair.check()?;
        ensure!(pair.spis().0 == ike, "another IKE SA");
    }
    Ok(())
}

#[test]
fn a_second_child_is_made_after_the_first() -> Result<()> {
    for release in Release::ALL {
        let pair = Pair::new(release, Proof::Psk, |config, swan| {
            let net = |text: &str| {
                let first: std::net::Ipv4Addr = text.parse().expect("an address");
                IpSelector::any_of(AddressRange::V4 { first, last: (first.to_bits() | 0xff).into() })
            };
            let (local, remote) = (vec![net("10.1.9.0")], vec![net("10.2.9.0")]);
            config.children.push(ChildConfig { name: "more".into(), local, remote, ..config.children[0].clone() });
            swan.connections[0].children.push(Child::new("more").between("10.2.9.0/24", "10.1.9.0/24"));
        })?;
        pair.sites.b.run("ip address add 10.2.9.1/32 dev lo")?;
        pair.adit.act(|endpoint, now| endpoint.connect(now, PEER))?;
        pair.adit.wait_for("two Child SAs", SOON, |view| (view.data.pairs() == 2).then_some(()))?;
        for (from, to) in [([10, 2, 0, 1], [10, 1, 0, 1]), ([10, 2, 9, 1], [10, 1, 9, 1])] {
            traffic::echo(&pair.sites.b, (from.into(), to.into()), |sent| sent < 3, || 0)?;
        }
    }
    Ok(())
}

/// A connection with MOBIKE, whose ends have no addresses that they have to keep.
fn mobile(release: Release) -> Result<Pair> {
    Pair::new(release, Proof::Psk, |config, swan| {
        config.mobike = true;
        (swan.connections[0].local_address, swan.connections[0].mobike) = (None, true);
        swan.connections[0].remote_address = Some(Site::A.outer().into());
    })
}

#[test]
fn adit_moves_to_another_address_and_back() -> Result<()> {
    for release in Release::ALL {
        let pair = mobile(release)?;
        pair.connect()?;
        pair.check()?;
        for address in [OTHER_ADDRESS, Site::A.outer()] {
            let address = SocketAddr::from((address, NAT_PORT));
            pair.adit.act(|endpoint, now| endpoint.set_addresses(now, PEER, Some(address), None))?;
            pair.swan.wait_for("the new address", SOON, |sas| (sas.first()?.remote == address).then_some(()))?;
            pair.check().with_context(|| format!("{release:?}, {address}"))?;
        }
        rekey_all(&pair)?;
    }
    Ok(())
}

#[test]
fn strongswan_moves_to_another_address() -> Result<()> {
    for release in Release::ALL {
        let pair = mobile(release)?;
        pair.accept()?;
        pair.check()?;
        let (_, child) = pair.spis();
        // Another prefix: of two addresses with one prefix the second would go with the first.
        pair.sites.b.address(LINK, "192.0.2.102/25")?;
        pair.sites.b.run(&format!("ip address delete {}/24 dev {LINK}", Site::B.outer()))?;
        pair.adit.wait_for("the new path", SOON, |view| {
            let there = SocketAddr::from(([192, 0, 2, 102], NAT_PORT));
            view.data.paths.values().any(|(hop, _)| hop.remote() == there).then_some(())
        })?;
        // With ESP of its own strongSwan does not move a Child SA but rekeys it; until then it sends from the address that is gone.
        pair.adit.wait_for("the Child SA of the new address", SOON, |view| {
            let status = view.status();
            status.ike.first()?.children.iter().any(|one| one.inbound.0 != child && one.is_sending && !one.is_going).then_some(())
        })?;
        pair.check().with_context(|| format!("{release:?}"))?;
    }
    Ok(())
}
