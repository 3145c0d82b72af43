//! Somebody who has the right to a session comes beside one that is healthy: that one lives until the new one is confirmed.

use std::time::Duration;

use adit_ipsec::{Client, Peer, PeerBuilder, Server};
use rcgen::{KeyPair, PKCS_ED25519};

use crate::relay::Relay;
use crate::support::*;

/// It carries packets and gets new keys of both kinds.
async fn is_healthy(pair: &Pair) {
    pair.check().await;
    soon("new keys", pair.client.rekey()).await.unwrap();
    soon("new keys", pair.session.rekey()).await.unwrap();
    soon("a new IKE SA", pair.session.rekey_ike()).await.unwrap();
    pair.check().await;
}

/// Somebody comes under the same name, with the right credential, and does not believe the server.
async fn distrusts(pair: &Pair, peer: PeerBuilder, code: &str) {
    for _ in 0..2 {
        let connecting = Client::connect(pair.server.local_addr(), peer.clone().build().unwrap());
        assert_eq!(soon("an error", connecting).await.unwrap_err().code(), code);
        is_healthy(pair).await;
    }
}

#[tokio::test]
async fn one_who_expects_another_server_does_not_end_the_session_of_its_name() {
    let by_name = pair(gateway(), client()).await;
    distrusts(&by_name, gateway().remote_id("other.example.org"), "wrong_identity").await;
    let under_pattern = pair(gateway(), client().remote_id("*.example.org")).await;
    distrusts(&under_pattern, gateway().remote_id("other.example.org"), "wrong_identity").await;
}

#[tokio::test]
async fn one_who_has_pinned_another_key_does_not_end_the_session_of_its_name() {
    let [ours, theirs, another] = [0; 3].map(|_| KeyPair::generate_for(&PKCS_ED25519).unwrap());
    let peer = |local, remote, own: &KeyPair, other: &KeyPair| {
        Peer::builder().local_id(local).remote_id(remote).key(&own.serialize_pem()).remote_key(&other.public_key_pem())
    };
    let pair = pair(peer(CLIENT, GATEWAY, &ours, &theirs), peer(GATEWAY, CLIENT, &theirs, &ours)).await;
    distrusts(&pair, peer(CLIENT, GATEWAY, &ours, &another), "unknown_key").await;
}

#[tokio::test]
async fn a_second_one_of_the_name_takes_over_once_confirmed_and_not_before() {
    let server = Server::bind_with(any(), [client().remote_id("*.example.org").build().unwrap()], impatient()).await.unwrap();
    let first =
        soon("a connection", Client::connect(server.local_addr(), gateway().no_reconnect().build().unwrap())).await.unwrap();
    let session = soon("a session", server.accept()).await.unwrap();
    let pair = Pair { server, client: first, session };
    // The server believes the second one, and that one does not learn it.
    let relay = Relay::to(pair.server.local_addr()).await;
    relay.keep_auth_answers(true);
    let options = adit_ipsec::Options { connect_timeout: SOON, ..adit_ipsec::Options::default() };
    let address = relay.address;
    let second = tokio::spawn(async move { Client::connect_with(address, gateway().build().unwrap(), options).await });
    soon("an answer to IKE_AUTH", async {
        while relay.auth_answers_kept() == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    is_healthy(&pair).await;
    relay.keep_auth_answers(false);
    let second = soon("the second connection", second).await.unwrap().unwrap();
    let Pair { server, client: first, session } = pair;
    let pair = Pair { server, client: second, session };
    is_healthy(&pair).await;
    let error = soon("the end of the first one", first.recv_packet()).await.unwrap_err();
    assert_eq!(error.code(), "closed", "{error}");
}
