//! Bad networks, moving clients, programs that change their mind, and programs that do not read.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use adit_ipsec::{Client, Options, Server, Session, State};

use crate::relay::Relay;
use crate::support::*;

/// Both ends with a network in between.
async fn through_relay(change: impl FnOnce(&Relay)) -> (Pair, Relay) {
    let server = Server::bind_with(any(), [client().build().unwrap()], impatient()).await.unwrap();
    let relay = Relay::to(server.local_addr()).await;
    change(&relay);
    let peer = gateway().dpd(Duration::from_millis(500)).reconnect(Duration::from_millis(100), Duration::from_millis(300));
    let options = Options { connect_timeout: SOON, ..impatient() };
    let client = soon("a connection", Client::connect_with(relay.address, peer.build().unwrap(), options)).await.unwrap();
    let session = soon("a session", server.accept()).await.unwrap();
    (Pair { server, client, session }, relay)
}

/// Sends numbered packets until so many have come, and gives the numbers in the order in which they came.
async fn numbers(from: &Session, to: &Session, wanted: usize) -> Vec<u32> {
    let mut seen = Vec::new();
    let sending = async {
        for number in 0u32.. {
            let _ = from.send_packet(&udp(CLIENT_ADDRESS, SERVER_ADDRESS, &number.to_be_bytes())).await;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let receiving = async {
        while seen.len() < wanted {
            let packet = to.recv_packet().await.expect("a packet");
            seen.push(u32::from_be_bytes(*packet[28..].first_chunk().expect("a number")));
        }
    };
    soon("the packets", async {
        tokio::select! { () = sending => {}, () = receiving => {} }
    })
    .await;
    seen
}

#[tokio::test]
async fn a_bad_network_brings_nothing_twice_and_new_keys_all_the_same() {
    let (pair, relay) = through_relay(|relay| relay.be_bad(100, 100, 100)).await;
    for _ in 0..3 {
        let seen = numbers(&pair.client, &pair.session, 200).await;
        let unique: std::collections::BTreeSet<_> = seen.iter().collect();
        assert_eq!(unique.len(), seen.len(), "a packet came twice");
        soon("new keys", pair.client.rekey()).await.unwrap();
        soon("new keys", pair.session.rekey()).await.unwrap();
        soon("a new IKE SA", pair.session.rekey_ike()).await.unwrap();
    }
    let stats = pair.session.stats();
    assert!(stats.dropped_replayed > 0 && stats.dropped_bad_tag == 0, "{stats:?}");
    relay.be_bad(0, 0, 0);
}

#[tokio::test]
async fn an_ike_sa_that_is_old_enough_is_replaced_by_itself() {
    let server = Server::bind(any(), [client().build().unwrap()]).await.unwrap();
    let relay = Relay::to(server.local_addr()).await;
    let peer = gateway().ike_rekey_after(Duration::from_secs(1)).dpd(Duration::from_millis(300)).build().unwrap();
    let client = soon("a connection", Client::connect(relay.address, peer)).await.unwrap();
    let session = soon("a session", server.accept()).await.unwrap();
    let pair = Pair { server, client, session };
    assert_eq!(relay.ike_sas(), 1);
    soon("two other IKE SAs", async {
        while relay.ike_sas() < 3 {
            pair.check().await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let (client, session) = (pair.client.stats(), pair.session.stats());
    assert_eq!((client.rekeys, client.sent_packets), (0, session.received_packets), "{client:?} {session:?}");
}

#[tokio::test]
async fn a_short_cut_is_survived_and_a_long_one_is_healed() {
    let (pair, relay) = through_relay(|_| {}).await;
    pair.check().await;
    relay.cut(true);
    tokio::time::sleep(Duration::from_millis(700)).await;
    relay.cut(false);
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!(pair.client.state(), State::Connected);
    pair.check().await;

    relay.cut(true);
    let mut state = pair.client.state();
    soon("notice", async {
        while state != State::Reconnecting {
            tokio::time::sleep(Duration::from_millis(10)).await;
            state = pair.client.state();
        }
    })
    .await;
    relay.cut(false);
    soon("the new connection", pair.client.connected()).await.unwrap();
    // The server has held on to the client, and the session goes on.
    pair.check().await;
}

/// A request that is under way is to be answered before the next one, and the last one says that we go (RFC 7296 §2.3).
#[tokio::test]
async fn the_other_end_is_told_of_the_end_though_it_was_being_asked() {
    let (pair, relay) = through_relay(|_| {}).await;
    pair.check().await;
    relay.cut(true);
    let asked = tokio::time::timeout(Duration::from_millis(200), pair.client.rekey()).await;
    assert!(asked.is_err(), "the request was to get lost: {asked:?}");
    relay.cut(false);
    let session = pair.session;
    let waits = tokio::spawn(async move { session.recv_packet().await });
    soon("the goodbye", pair.client.shutdown()).await;
    let error = soon("the end", waits).await.unwrap().unwrap_err();
    assert_eq!(error.failure().map(|failure| failure.code()), Some("closed_by_peer"));
}

#[tokio::test]
async fn a_client_whose_nat_forgets_it_is_followed_by_its_next_packet() {
    let (pair, relay) = through_relay(|_| {}).await;
    pair.check().await;
    for _ in 0..3 {
        let before = pair.session.remote_addr();
        relay.rebind();
        let packet = udp(CLIENT_ADDRESS, SERVER_ADDRESS, b"from elsewhere");
        // An answer before that goes to where nobody is.
        pair.client.send_packet(&packet).await.unwrap();
        assert_eq!(soon("a packet", pair.session.recv_packet()).await.unwrap(), packet);
        soon("the move", async {
            loop {
                pair.client.send_packet(&packet).await.unwrap();
                pair.session.recv_packet().await.unwrap();
                if pair.session.remote_addr() != before {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
        pair.check().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn futures_that_are_dropped_lose_nothing() {
    let pair = pair(gateway(), client()).await;
    const PACKETS: u32 = 3000;
    let sending = async {
        for number in 0..PACKETS {
            pair.client.send_packet(&udp(CLIENT_ADDRESS, SERVER_ADDRESS, &number.to_be_bytes())).await.unwrap();
            if number % 16 == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    };
    let receiving = async {
        let mut next = 0;
        while next < PACKETS {
            // Given up again and again, before the first look and in the middle.
            let given_up = tokio::select! {
                biased;
                packet = pair.session.recv_packet() => Some(packet),
                () = tokio::task::yield_now() => None,
            };
            if let Some(packet) = given_up {
                assert_eq!(packet.unwrap()[28..], next.to_be_bytes());
                next += 1;
            }
        }
    };
    soon("all packets", async { tokio::join!(sending, receiving) }).await;
}

#[tokio::test]
async fn a_session_that_waits_for_accept_is_there_after_a_dropped_accept() {
    let server = Server::bind(any(), [client().remote_id("*").build().unwrap()]).await.unwrap();
    for number in 0..20 {
        let name = format!("c{number}.example.org");
        let peer = gateway().local_id(&name).build().unwrap();
        let connecting = Client::connect(server.local_addr(), peer);
        tokio::pin!(connecting);
        let mut session = None;
        let client = loop {
            // Each turn drops an accept() that waits.
            tokio::select! {
                biased;
                accepted = server.accept(), if session.is_none() => session = Some(accepted.unwrap()),
                client = &mut connecting => break client.unwrap(),
                () = tokio::task::yield_now() => {}
            }
        };
        let session = match session {
            Some(session) => session,
            None => soon("a session", server.accept()).await.unwrap(),
        };
        assert_eq!(session.peer_id(), name);
        client.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_keys_under_load_from_both_sides_lose_nothing() {
    let pair = pair(gateway(), client()).await;
    let (done, moved) = (AtomicBool::new(false), [AtomicU64::new(0), AtomicU64::new(0)]);
    // So many are under way at a time: fewer than the queue holds.
    const WINDOW: u64 = 256;
    let flow = async |from: &Session, to: &Session, addresses: (_, _), moved: &AtomicU64| {
        let mut sent = 0u64;
        let mut received = 0u64;
        while !done.load(Ordering::Relaxed) || received < sent {
            while sent < received + WINDOW && !done.load(Ordering::Relaxed) {
                from.send_packet(&udp(addresses.0, addresses.1, &sent.to_be_bytes())).await.expect("sent");
                sent += 1;
            }
            let packet = soon("the packet", to.recv_packet()).await.expect("a packet");
            assert_eq!(packet[28..], received.to_be_bytes(), "in their order");
            received += 1;
            moved.store(received, Ordering::Relaxed);
            while received < sent && !received.is_multiple_of(64) {
                let packet = soon("the packet", to.recv_packet()).await.expect("a packet");
                assert_eq!(packet[28..], received.to_be_bytes(), "in their order");
                received += 1;
            }
        }
    };
    let rekeys = async {
        // As often, and as long as it takes that packets move meanwhile.
        let is_slow = || moved.iter().any(|moved| moved.load(Ordering::Relaxed) <= 2 * WINDOW);
        for round in (0..1000).take_while(|round| *round < 20 || is_slow()) {
            let (ours, theirs) = tokio::join!(pair.client.rekey(), pair.session.rekey());
            ours.and(theirs).expect("new keys");
            if round % 5 == 0 {
                let (ours, theirs) = tokio::join!(pair.client.rekey_ike(), pair.session.rekey_ike());
                ours.and(theirs).expect("a new IKE SA");
            }
        }
        done.store(true, Ordering::Relaxed);
    };
    tokio::join!(
        flow(&pair.client, &pair.session, (CLIENT_ADDRESS, SERVER_ADDRESS), &moved[0]),
        flow(&pair.session, &pair.client, (SERVER_ADDRESS, CLIENT_ADDRESS), &moved[1]),
        rekeys
    );
    assert!(moved.iter().all(|moved| moved.load(Ordering::Relaxed) > 2 * WINDOW), "{moved:?}");
    for stats in [pair.client.stats(), pair.session.stats()] {
        assert_eq!((stats.dropped_queue_full, stats.dropped_replayed, stats.dropped_bad_tag), (0, 0, 0), "{stats:?}");
    }
}

#[tokio::test]
async fn a_client_that_never_reads_costs_a_bounded_number_of_bytes() {
    let options = Options { receive_queue: 64, ..Options::default() };
    let pair = pair_with(gateway(), client(), Options { path_mtu: 9000, ..options }).await;
    let packet = udp(CLIENT_ADDRESS, SERVER_ADDRESS, &vec![7; 8000]);
    for _ in 0..300 {
        pair.client.send_packet(&packet).await.unwrap();
        tokio::task::yield_now().await;
    }
    soon("all packets", async {
        while pair.session.stats().received_packets + pair.session.stats().dropped_queue_full < 300 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let stats = pair.session.stats();
    assert!(stats.received_packets <= 64 && stats.received_bytes <= 64 * 9000, "{stats:?}");
    // New keys and dead peer detection do not depend on the program's reading.
    soon("new keys", pair.client.rekey()).await.unwrap();
    soon("new keys", pair.session.rekey()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_clients_come_and_go_and_leave_nothing() {
    let server = Server::bind(any(), [client().remote_id("*").build().unwrap()]).await.unwrap();
    let address = server.local_addr();
    for round in 0..2 {
        let mut clients = tokio::task::JoinSet::new();
        for number in 0..100 {
            clients.spawn(async move {
                let peer = gateway().local_id(&format!("c{number}.example.org")).build().unwrap();
                soon("a connection", Client::connect(address, peer)).await.unwrap()
            });
        }
        let mut sessions = Vec::new();
        for _ in 0..100 {
            sessions.push(soon("a session", server.accept()).await.unwrap());
        }
        let clients = soon("all clients", clients.join_all()).await;
        let packet = udp(CLIENT_ADDRESS, SERVER_ADDRESS, b"one");
        for client in &clients {
            client.send_packet(&packet).await.unwrap();
        }
        for session in &sessions {
            assert_eq!(soon("a packet", session.recv_packet()).await.unwrap(), packet);
        }
        // One half closes, the other half is dropped without a word of the program.
        for (number, client) in clients.into_iter().enumerate() {
            if number % 2 == 0 { client.shutdown().await } else { drop(client) }
        }
        for session in &sessions {
            assert_eq!(soon("the end", session.recv_packet()).await.unwrap_err().code(), "closed", "round {round}");
        }
    }
}

/// A program on one thread that never waits for anything else.
#[tokio::test]
async fn a_program_that_only_sends_lets_the_rest_go_on() {
    let pair = pair(gateway().rekey_volume(0, 2000), client()).await;
    let packet = udp(CLIENT_ADDRESS, SERVER_ADDRESS, b"again and again");
    soon("new keys", async {
        while pair.client.stats().rekeys < 3 {
            pair.client.send_packet(&packet).await.unwrap();
        }
    })
    .await;
}

#[tokio::test]
async fn an_address_from_which_the_server_cannot_be_reached_is_refused_at_once() {
    for (bind, server) in [("127.0.0.1:0", "[::1]:4500"), ("[::1]:0", "127.0.0.1:4500"), ("0.0.0.0:0", "[::1]:4500")] {
        let options = Options { bind: Some(bind.parse().unwrap()), ..Options::default() };
        let error = Client::connect_with(server.parse().unwrap(), gateway().build().unwrap(), options).await.unwrap_err();
        assert_eq!(error.code(), "settings", "{error}");
        assert!(error.to_string().contains("another IP version"), "{error}");
    }
}
