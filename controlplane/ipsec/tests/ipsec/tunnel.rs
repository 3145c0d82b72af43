//! What works: proofs, algorithms, packets, new keys, closing.

use std::time::Duration;

use adit_ipsec::{Client, Options, Peer, Server, State};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_ED25519};

use crate::support::*;

#[tokio::test]
async fn a_preshared_key_and_ml_kem_make_a_tunnel_with_esn() {
    let pair = pair(gateway(), client()).await;
    pair.check().await;
    let algorithms = pair.client.algorithms();
    assert!(algorithms.post_quantum && algorithms.ike.contains("ML_KEM_768"), "{algorithms:?}");
    assert!(algorithms.extended_sequence_numbers, "{algorithms:?}");
    assert_eq!(pair.session.algorithms().ike, algorithms.ike);
    assert_eq!((pair.client.peer_id(), pair.session.peer_id()), (GATEWAY.to_owned(), CLIENT.to_owned()));
    assert_eq!(pair.session.remote_addr().map(|address| address.port()), Some(pair.client.local_addr().port()));
    let packet = udp6(b"six in four");
    pair.client.send_packet(&packet).await.unwrap();
    assert_eq!(soon("a packet", pair.session.recv_packet()).await.unwrap(), packet);
}

#[tokio::test]
async fn every_suite_carries_packets_with_32_and_64_bit_numbers() {
    for esp in ["aes128gcm16-noesn", "aes256gcm16-esn", "chacha20poly1305-noesn", "chacha20poly1305-esn-x25519"] {
        let pair = pair(gateway().esp_proposals([esp]), client().esp_proposals([esp])).await;
        assert_eq!(pair.session.algorithms().extended_sequence_numbers, !esp.contains("noesn"), "{esp}");
        pair.check().await;
        soon("a rekey", pair.client.rekey()).await.unwrap();
        pair.check().await;
    }
}

#[tokio::test]
async fn raw_public_keys_prove_both_ends() {
    for algorithm in [&PKCS_ED25519, &PKCS_ECDSA_P256_SHA256] {
        let [ours, theirs] = [0; 2].map(|_| KeyPair::generate_for(algorithm).unwrap());
        let peer = |local, remote, own: &KeyPair, other: &KeyPair| {
            Peer::builder().local_id(local).remote_id(remote).key(&own.serialize_pem()).remote_key(&other.public_key_pem())
        };
        let pair = pair(peer(CLIENT, GATEWAY, &ours, &theirs), peer(GATEWAY, CLIENT, &theirs, &ours)).await;
        pair.check().await;
    }
}

/// A key with a certificate of an authority for a name, and that authority.
fn certified(name: &str, issuer: &Issuer<'_, KeyPair>) -> (String, String) {
    let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    (key.serialize_pem(), params.signed_by(&key, issuer).unwrap().pem())
}

#[tokio::test]
async fn certificates_prove_both_ends_and_a_wrong_name_does_not() {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let authority = params.self_signed(&key).unwrap().pem();
    let issuer = Issuer::new(params, key);
    let (ours, theirs) = (certified(CLIENT, &issuer), certified(GATEWAY, &issuer));
    let peer = |local, remote, own: &(String, String)| {
        Peer::builder().local_id(local).remote_id(remote).certificate(&own.0, &own.1).authorities(&authority)
    };
    let pair = pair(peer(CLIENT, GATEWAY, &ours), peer(GATEWAY, "*.example.org", &theirs)).await;
    pair.check().await;
    assert!(pair.session.algorithms().proof.contains("certificate"), "{:?}", pair.session.algorithms());
    // Somebody else's certificate, from the same authority.
    let stranger = peer("b.example.org", GATEWAY, &ours).build().unwrap();
    let error = Client::connect(pair.server.local_addr(), stranger).await.unwrap_err();
    assert_eq!(error.code(), "authentication_failed");
    let refused = soon("the refusal", pair.server.refused()).await.unwrap();
    assert!(refused.error.code().contains("certificate"), "{}: {}", refused.error.code(), refused.error);
    pair.check().await;
}

/// Sends numbered packets both ways until `commands` is done, and sees that each arrives once.
async fn without_loss(pair: &Pair, commands: impl Future<Output = ()>) -> usize {
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let flow = async |from: &adit_ipsec::Session, to: &adit_ipsec::Session, addresses: (_, _)| {
        let mut count = 0usize;
        while !*stopped.borrow() || count < 200 {
            let packet = udp(addresses.0, addresses.1, &count.to_be_bytes());
            from.send_packet(&packet).await.expect("sent");
            assert_eq!(soon("the packet", to.recv_packet()).await.expect("a packet"), packet, "packet {count}");
            count += 1;
            tokio::task::yield_now().await;
        }
        count
    };
    let commanded = async {
        commands.await;
        stop.send(true).expect("somebody looks");
    };
    let (there, back, ()) = tokio::join!(
        flow(&pair.client, &pair.session, (CLIENT_ADDRESS, SERVER_ADDRESS)),
        flow(&pair.session, &pair.client, (SERVER_ADDRESS, CLIENT_ADDRESS)),
        commanded
    );
    there + back
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_keys_lose_no_packet_whoever_asks_for_them() {
    let pair = pair(gateway(), client()).await;
    let count = without_loss(&pair, async {
        for round in 0..6 {
            let session = if round % 2 == 0 { &*pair.client } else { &pair.session };
            soon("a rekey", session.rekey()).await.expect("new keys");
            soon("a rekey of the IKE SA", session.rekey_ike()).await.expect("a new IKE SA");
        }
        // Both at once.
        let (ours, theirs) = tokio::join!(pair.client.rekey(), pair.session.rekey());
        ours.and(theirs).expect("new keys");
    })
    .await;
    assert!(count >= 400);
    let (client, session) = (pair.client.stats(), pair.session.stats());
    assert!(client.rekeys >= 7 && session.rekeys >= 7, "{client:?} {session:?}");
    assert_eq!((client.sent_packets, session.sent_packets), (session.received_packets, client.received_packets));
    assert_eq!(client.sent_packets + session.sent_packets, count as u64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_sas_are_rekeyed_by_packets_and_by_age() {
    let pair = pair(gateway().rekey_volume(0, 20_000), client().rekey_after(Duration::from_secs(2))).await;
    let first = pair.client.traffic();
    let count = without_loss(&pair, tokio::time::sleep(Duration::from_secs(5))).await;
    assert!(count >= 400 && pair.client.traffic() == first, "{count}");
    // By age at the server's wish, by packets at the client's, which sends half of them.
    assert!(pair.client.stats().rekeys as usize > count / 2 / 30_000, "{count} packets, {:?}", pair.client.stats());
    assert!(pair.client.stats().dropped_bad_tag + pair.client.stats().dropped_replayed == 0);
}

#[tokio::test]
async fn a_session_ends_at_both_ends_whoever_closes_it() {
    let one = pair(gateway(), client()).await;
    let waits = tokio::spawn(async move { (one.session.recv_packet().await, one.server) });
    soon("the goodbye", one.client.shutdown()).await;
    let (error, _server) = soon("the end", waits).await.unwrap();
    assert_eq!(error.unwrap_err().failure().map(|failure| failure.code()), Some("closed_by_peer"));

    let two = pair(gateway().no_reconnect(), client()).await;
    two.session.close().await;
    let error = soon("the end", two.client.recv_packet()).await.unwrap_err();
    assert_eq!((error.code(), error.failure().map(|failure| failure.code())), ("closed", Some("closed_by_peer")));
    assert_eq!(two.client.state(), State::Closed);
    assert_eq!(two.client.send_packet(&udp(CLIENT_ADDRESS, SERVER_ADDRESS, b"")).await.unwrap_err().code(), "closed");
    assert_eq!(two.client.rekey().await.unwrap_err().code(), "closed");
}

#[tokio::test]
async fn a_handle_that_is_dropped_tells_the_other_end() {
    let pair = pair(gateway(), client()).await;
    drop(pair.client);
    let error = soon("the end", pair.session.recv_packet()).await.unwrap_err();
    assert_eq!(error.failure().map(|failure| failure.code()), Some("closed_by_peer"));
    // The place is free for the next one.
    let client = soon("a connection", Client::connect(pair.server.local_addr(), gateway().build().unwrap())).await.unwrap();
    let session = soon("a session", pair.server.accept()).await.unwrap();
    drop(session);
    soon("the reconnection", async {
        while client.state() != State::Reconnecting {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn sessions_outlive_the_server_but_not_the_shutdown() {
    let first = pair(gateway(), client()).await;
    let address = first.server.local_addr();
    drop(first.server);
    let (client, session) = (first.client, first.session);
    client.rekey().await.unwrap();
    let packet = udp(CLIENT_ADDRESS, SERVER_ADDRESS, b"x");
    client.send_packet(&packet).await.unwrap();
    assert_eq!(soon("a packet", session.recv_packet()).await.unwrap(), packet);
    drop((client, session));
    // With the last session the port is free again.
    let server = soon("the port", async {
        loop {
            match Server::bind(address, [crate::support::client().build().unwrap()]).await {
                Ok(server) => break server,
                Err(error) => assert_eq!(error.code(), "io"),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    let client = Client::connect(address, gateway().no_reconnect().build().unwrap()).await.unwrap();
    let session = soon("a session", server.accept()).await.unwrap();
    soon("the shutdown", server.shutdown()).await;
    assert_eq!(soon("the end", session.recv_packet()).await.unwrap_err().code(), "closed");
    assert_eq!(soon("the end", client.recv_packet()).await.unwrap_err().code(), "closed");
}

#[tokio::test]
async fn any_address_will_do_at_both_ends() {
    let options = Options { bind: Some("0.0.0.0:0".parse().unwrap()), ..Options::default() };
    let server = Server::bind("0.0.0.0:0".parse().unwrap(), [client().build().unwrap()]).await.unwrap();
    let address = ([127, 0, 0, 1], server.local_addr().port()).into();
    let client = Client::connect_with(address, gateway().build().unwrap(), options).await.unwrap();
    let session = soon("a session", server.accept()).await.unwrap();
    Pair { server, client, session }.check().await;
}

#[tokio::test]
async fn a_socket_for_ipv6_takes_ipv4_clients_too_and_ipv6_is_between_the_ends() {
    let server = Server::bind("[::]:0".parse().unwrap(), [client().remote_id("*").build().unwrap()]).await.unwrap();
    for address in ["127.0.0.1", "::1"] {
        let to = std::net::SocketAddr::new(address.parse().unwrap(), server.local_addr().port());
        let client = Client::connect(to, gateway().build().unwrap()).await.unwrap();
        let session = soon("a session", server.accept()).await.unwrap();
        assert_eq!(session.remote_addr().map(|from| from.ip()), Some(to.ip()));
        assert_eq!(session.mtu(), if to.is_ipv4() { 1438 } else { 1418 });
        let packet = udp(CLIENT_ADDRESS, SERVER_ADDRESS, b"there and back");
        client.send_packet(&packet).await.unwrap();
        assert_eq!(soon("a packet", session.recv_packet()).await.unwrap(), packet);
        session.send_packet(&packet).await.unwrap();
        assert_eq!(soon("a packet", client.recv_packet()).await.unwrap(), packet);
        client.shutdown().await;
    }
}
