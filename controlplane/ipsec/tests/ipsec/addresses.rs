//! Machines with several addresses: which one something leaves from.

use std::net::SocketAddr;
use std::time::Duration;

use adit_ipsec::{Client, Options, Server};

use crate::relay::Relay;
use crate::support::*;

/// Behind a NAT that lets answers in from where they were asked, and from nowhere else.
#[tokio::test]
async fn a_server_answers_from_the_address_that_was_hit_in_ike_and_esp() {
    for (bind, hit) in [("0.0.0.0:0", "127.0.0.2"), ("[::]:0", "127.0.0.3"), ("127.0.0.2:0", "127.0.0.2")] {
        let server = Server::bind_with(bind.parse().unwrap(), [client().build().unwrap()], impatient()).await.unwrap();
        let relay = Relay::to(SocketAddr::new(hit.parse().unwrap(), server.local_addr().port())).await;
        let connecting = Client::connect_with(relay.address, gateway().build().unwrap(), impatient());
        let client = soon("a connection", connecting).await.unwrap_or_else(|error| panic!("{bind}, {hit}: {error}"));
        let session = soon("a session", server.accept()).await.unwrap();
        let pair = Pair { server, client, session };
        pair.check().await;
        soon("new keys", pair.session.rekey()).await.unwrap();
        soon("a new IKE SA", pair.client.rekey_ike()).await.unwrap();
        // From another mapping, to the same address of ours.
        let before = pair.session.remote_addr();
        relay.rebind();
        soon("the move", async {
            while pair.session.remote_addr() == before {
                pair.check_one_way().await;
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
        soon("new keys", pair.client.rekey()).await.unwrap();
        pair.check().await;
    }
}

#[tokio::test]
async fn a_client_sends_from_the_address_that_it_was_given() {
    for (bind, given) in [("127.0.0.7:0", "127.0.0.7"), ("0.0.0.0:0", "127.0.0.1"), ("[::]:0", "127.0.0.1")] {
        let server = Server::bind("0.0.0.0:0".parse().unwrap(), [client().build().unwrap()]).await.unwrap();
        let options = Options { bind: Some(bind.parse().unwrap()), ..Options::default() };
        let to = SocketAddr::new([127, 0, 0, 2].into(), server.local_addr().port());
        let client = Client::connect_with(to, gateway().build().unwrap(), options).await.unwrap();
        let session = soon("a session", server.accept()).await.unwrap();
        assert_eq!(session.remote_addr(), Some(SocketAddr::new(given.parse().unwrap(), client.local_addr().port())));
        assert_eq!(client.remote_addr(), Some(to));
        Pair { server, client, session }.check().await;
    }
}
