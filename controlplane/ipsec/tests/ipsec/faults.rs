//! What does not work, and what is said of it.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use adit_ipsec::{Client, Options, Server, State};
use tokio::sync::oneshot;

use crate::support::*;

#[tokio::test]
async fn a_wrong_key_is_a_typed_error_at_both_ends() {
    let server = Server::bind(any(), [client().build().unwrap()]).await.unwrap();
    let wrong = gateway().psk("quite another key").build().unwrap();
    let error = soon("an error", Client::connect(server.local_addr(), wrong)).await.unwrap_err();
    assert_eq!(error.code(), "authentication_failed");
    assert!(error.to_string().contains("compare the shared key"), "{error}");
    let refused = soon("the refusal", server.refused()).await.unwrap();
    assert_eq!(refused.error.code(), "wrong_psk");
    assert!(refused.from.ip().is_loopback(), "{refused:?}");
    // It works with the right one, and a stranger who says that he is the one who is connected changes nothing.
    let client = soon("a connection", Client::connect(server.local_addr(), gateway().build().unwrap())).await.unwrap();
    let session = soon("a session", server.accept()).await.unwrap();
    let wrong = gateway().psk("quite another key").build().unwrap();
    assert_eq!(Client::connect(server.local_addr(), wrong).await.unwrap_err().code(), "authentication_failed");
    assert_eq!(soon("the refusal", server.refused()).await.unwrap().error.code(), "wrong_psk");
    Pair { server, client, session }.check().await;
}

#[tokio::test]
async fn who_is_not_expected_is_refused_and_who_is_not_found_is_told() {
    let server = Server::bind(any(), [client().build().unwrap()]).await.unwrap();
    let stranger = gateway().local_id("b.example.org").build().unwrap();
    assert_eq!(Client::connect(server.local_addr(), stranger).await.unwrap_err().code(), "authentication_failed");
    assert_eq!(soon("the refusal", server.refused()).await.unwrap().error.code(), "unknown_peer");
    let other = gateway().remote_id("other.example.org").build().unwrap();
    let error = Client::connect(server.local_addr(), other).await.unwrap_err();
    assert_eq!(error.code(), "wrong_identity");
    assert!(error.to_string().contains(GATEWAY), "{error}");
}

#[tokio::test]
async fn algorithms_that_do_not_fit_are_shown_side_by_side() {
    let options = Options { connect_timeout: SOON, ..impatient() };
    let server = Server::bind(any(), [client().proposals(["aes256gcm16-prfsha384-ecp384"]).build().unwrap()]).await.unwrap();
    let peer = gateway().proposals(["aes128gcm16-prfsha256-x25519"]).build().unwrap();
    let error = soon("an error", Client::connect_with(server.local_addr(), peer, options)).await.unwrap_err();
    assert_eq!(error.code(), "no_proposal_chosen", "{error}");
    assert_eq!(soon("the refusal", server.refused()).await.unwrap().error.code(), "no_proposal_chosen");
}

#[tokio::test]
async fn traffic_that_does_not_fit_is_refused_by_both_ends() {
    let server = Server::bind(any(), [client().remote_traffic(["10.5.0.0/16"]).build().unwrap()]).await.unwrap();
    let peer = gateway().local_traffic(["10.6.0.1"]).build().unwrap();
    let error = soon("an error", Client::connect(server.local_addr(), peer)).await.unwrap_err();
    assert_eq!(error.code(), "ts_unacceptable");
    let refused = soon("the refusal", server.refused()).await.unwrap();
    assert_eq!(refused.error.code(), "ts_unacceptable");
    assert!(refused.error.to_string().contains("10.6.0.1"), "{}", refused.error);
}

#[tokio::test]
async fn nobody_there_is_said_after_a_while() {
    let silent = std::net::UdpSocket::bind(any()).unwrap();
    let options = || Options { connect_timeout: SOON, ..impatient() };
    let peer = || gateway().build().unwrap();
    let error = soon("an error", Client::connect_with(silent.local_addr().unwrap(), peer(), options())).await.unwrap_err();
    assert_eq!(error.code(), "unanswered");
    let options = Options { connect_timeout: Duration::from_millis(600), ..options() };
    let error = soon("an error", Client::connect_with(silent.local_addr().unwrap(), peer(), options)).await.unwrap_err();
    assert_eq!(error.code(), "timeout");
}

/// A server in a runtime of its own, which can die without a word; it sends every packet back. Gives its address, and its life.
fn mortal(address: SocketAddr) -> (SocketAddr, tokio::runtime::Runtime) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (address_sender, address_of) = std::sync::mpsc::channel();
    runtime.spawn(async move {
        let server = Server::bind(address, [client().build().unwrap()]).await.unwrap();
        address_sender.send(server.local_addr()).unwrap();
        while let Ok(session) = server.accept().await {
            tokio::spawn(async move {
                while let Ok(packet) = session.recv_packet().await {
                    let _ = session.send_packet(&packet).await;
                }
            });
        }
    });
    let address = address_of.recv_timeout(SOON).unwrap();
    (address, runtime)
}

/// All tasks of a runtime end where they stand.
pub async fn die(life: tokio::runtime::Runtime) {
    tokio::task::spawn_blocking(move || life.shutdown_timeout(SOON)).await.unwrap();
}

#[tokio::test]
async fn a_dead_server_is_noticed_and_reached_again_when_it_is_back() {
    let (address, life) = mortal(any());
    let peer = gateway()
        .dpd(Duration::from_millis(500))
        .reconnect(Duration::from_millis(100), Duration::from_millis(300))
        .local_traffic(["10.0.0.0/24"])
        .remote_traffic(["10.0.0.0/24"]);
    let client = soon("a connection", Client::connect_with(address, peer.build().unwrap(), impatient())).await.unwrap();
    let packet = udp(CLIENT_ADDRESS, SERVER_ADDRESS, b"echo");
    client.send_packet(&packet).await.unwrap();
    assert_eq!(soon("an echo", client.recv_packet()).await.unwrap(), packet);
    die(life).await;
    soon("notice", async {
        while client.state() == State::Connected {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    assert_eq!(client.state(), State::Reconnecting);
    assert_eq!(client.send_packet(&packet).await.unwrap_err().code(), "not_connected");
    assert_eq!(client.rekey().await.unwrap_err().code(), "not_connected");
    let (_, life) = mortal(address);
    soon("the new connection", client.connected()).await.unwrap();
    client.send_packet(&packet).await.unwrap();
    assert_eq!(soon("an echo", client.recv_packet()).await.unwrap(), packet);
    soon("the end", client.shutdown()).await;
    life.shutdown_background();
}

#[tokio::test]
async fn without_reconnection_a_dead_server_is_the_end() {
    let (address, life) = mortal(any());
    let peer = gateway().dpd(Duration::from_millis(500)).no_reconnect().build().unwrap();
    let client = soon("a connection", Client::connect_with(address, peer, impatient())).await.unwrap();
    die(life).await;
    let error = soon("the end", client.recv_packet()).await.unwrap_err();
    assert_eq!((error.code(), error.failure().map(|failure| failure.code())), ("closed", Some("unanswered")));
}

#[tokio::test]
async fn packets_outside_of_the_agreed_traffic_are_refused_and_dropped() {
    // The client is held to less than it believes by narrowing: it learns that, too.
    let pair = pair(gateway(), client().remote_traffic(["10.0.0.1"]).local_traffic(["10.0.0.0/24[udp]"])).await;
    pair.check().await;
    let elsewhere = Ipv4Addr::new(10, 0, 9, 9);
    for packet in [udp(elsewhere, SERVER_ADDRESS, b""), udp(CLIENT_ADDRESS, elsewhere, b""), udp6(b"")] {
        assert_eq!(pair.client.send_packet(&packet).await.unwrap_err().code(), "selectors");
    }
    let mut tcp = udp(CLIENT_ADDRESS, SERVER_ADDRESS, b"");
    tcp[9] = 6;
    assert_eq!(pair.client.send_packet(&tcp).await.unwrap_err().code(), "selectors");
    assert_eq!(pair.client.traffic().unwrap().local[0].to_string(), "10.0.0.1/32");
    for (packet, code) in [(&b""[..], "not_ip"), (&[0x45; 10], "not_ip"), (&[0xff; 40], "not_ip")] {
        assert_eq!(pair.client.send_packet(packet).await.unwrap_err().code(), code);
    }
    let mut padded = udp(CLIENT_ADDRESS, SERVER_ADDRESS, b"");
    padded.push(0);
    assert_eq!(pair.client.send_packet(&padded).await.unwrap_err().code(), "not_ip");
    assert_eq!((pair.client.stats().sent_packets, pair.session.stats().received_packets), (1, 1));
}

#[tokio::test]
async fn a_packet_too_long_for_the_path_is_refused_with_the_longest_that_fits() {
    for path_mtu in [576, 1280, 1500, 9000] {
        let pair = pair_with(gateway(), client(), Options { path_mtu, ..Options::default() }).await;
        let mtu = pair.client.mtu();
        let packet = |len: usize| udp(CLIENT_ADDRESS, SERVER_ADDRESS, &vec![7; len - 28]);
        pair.client.send_packet(&packet(mtu)).await.unwrap();
        assert_eq!(soon("a packet", pair.session.recv_packet()).await.unwrap().len(), mtu);
        let error = pair.client.send_packet(&packet(mtu + 1)).await.unwrap_err();
        assert_eq!(error.code(), "packet_too_big");
        assert!(error.to_string().contains(&mtu.to_string()), "{error}");
    }
}

#[tokio::test]
async fn a_queue_that_nobody_empties_drops_and_counts() {
    let pair = pair_with(gateway(), client(), Options { receive_queue: 8, ..Options::default() }).await;
    let packet = |number: u8| udp(CLIENT_ADDRESS, SERVER_ADDRESS, &[number]);
    for number in 0..20 {
        pair.client.send_packet(&packet(number)).await.unwrap();
    }
    soon("all packets", async {
        while pair.session.stats().received_packets + pair.session.stats().dropped_queue_full < 20 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!((pair.session.stats().received_packets, pair.session.stats().dropped_queue_full), (8, 12));
    for number in 0..8 {
        assert_eq!(pair.session.recv_packet().await.unwrap(), packet(number));
    }
    pair.check().await;
}

#[tokio::test]
async fn what_strangers_send_changes_nothing() {
    let pair = pair(gateway(), client()).await;
    let stranger = tokio::net::UdpSocket::bind(any()).await.unwrap();
    // Beginnings of ESP, IKE, STUN and nothing, and every length.
    for first in [[0x40, 0, 0, 1], [0xff; 4], [0; 4], [0, 1, 0, 0]] {
        for len in (0..200).chain([1472, 60_000]) {
            let mut datagram = vec![0x5a; len];
            datagram.iter_mut().zip(first).for_each(|(byte, first)| *byte = first);
            stranger.send_to(&datagram, pair.server.local_addr()).await.unwrap();
        }
        pair.check().await;
    }
    assert_eq!(pair.session.stats().dropped_malformed, 0);
}

#[tokio::test]
async fn settings_that_make_no_sense_are_refused() {
    let peer = || client().build().unwrap();
    let server = |options| Server::bind_with(any(), [peer()], options);
    for options in [
        Options { replay_window: 100, ..Options::default() },
        Options { path_mtu: 500, ..Options::default() },
        Options { receive_queue: 0, ..Options::default() },
        Options { sessions: 1 << 20, ..Options::default() },
    ] {
        assert_eq!(server(options).await.unwrap_err().code(), "settings");
    }
    assert_eq!(Server::bind(any(), []).await.unwrap_err().code(), "settings");
    let taken = Server::bind(any(), [peer()]).await.unwrap();
    let error = Server::bind(taken.local_addr(), [peer()]).await.unwrap_err();
    assert_eq!(error.code(), "io");
    assert!(error.to_string().contains(&taken.local_addr().to_string()), "{error}");
}

#[tokio::test]
async fn a_connection_attempt_that_is_given_up_leaves_nothing_behind() {
    let silent = tokio::net::UdpSocket::bind(any()).await.unwrap();
    let options = Options { bind: Some(any()), ..Options::default() };
    let attempt = Client::connect_with(silent.local_addr().unwrap(), gateway().build().unwrap(), options);
    let mut buffer = [0; 2000];
    // Given up as soon as it has said something, however long that takes here.
    let (_, from) = tokio::select! {
        _ = attempt => panic!("nobody answers"),
        asked = soon("a question", silent.recv_from(&mut buffer)) => asked.unwrap(),
    };
    // The port is free again.
    soon("the port", async {
        while tokio::net::UdpSocket::bind(from).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_task_that_waits_learns_that_the_runtime_of_the_others_has_ended() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (session_sender, session) = oneshot::channel();
    let server = runtime.spawn(async move { Server::bind(any(), [client().build().unwrap()]).await.unwrap() }).await.unwrap();
    let address = server.local_addr();
    let client = soon("a connection", Client::connect(address, gateway().build().unwrap())).await.unwrap();
    session_sender.send(soon("a session", server.accept()).await.unwrap()).ok().unwrap();
    let session = session.await.unwrap();
    runtime.shutdown_background();
    assert_eq!(soon("the end", session.recv_packet()).await.unwrap_err().code(), "closed");
    assert_eq!(session.rekey().await.unwrap_err().code(), "closed");
    soon("the end", client.shutdown()).await;
}
