//! Many clients on one server.

use std::collections::BTreeSet;

use adit_ipsec::{Client, Options, Peer, Server};
use tokio::task::JoinSet;

use crate::support::*;

const CLIENTS: usize = 50;

fn name(number: usize) -> String {
    format!("c{number}.example.org")
}

fn any_client() -> Peer {
    client().remote_id("*.example.org").build().unwrap()
}

async fn connect(server: &Server, name: &str, options: Options) -> Result<Client, adit_ipsec::Error> {
    soon("a connection", Client::connect_with(server.local_addr(), gateway().local_id(name).build().unwrap(), options)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_clients_at_once_have_sessions_of_their_own() {
    let server = Server::bind(any(), [any_client()]).await.unwrap();
    let address = server.local_addr();
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        clients.spawn(async move {
            let peer = gateway().local_id(&name(number)).build().unwrap();
            let client = soon("a connection", Client::connect(address, peer)).await.unwrap();
            let packet = udp(CLIENT_ADDRESS, SERVER_ADDRESS, name(number).as_bytes());
            for round in 0..20 {
                client.send_packet(&packet).await.unwrap();
                assert_eq!(soon("an echo", client.recv_packet()).await.unwrap(), packet);
                if round == 10 {
                    soon("a rekey", client.rekey()).await.unwrap();
                }
            }
            client
        });
    }
    let mut sessions = JoinSet::new();
    let mut names = BTreeSet::new();
    for _ in 0..CLIENTS {
        let session = soon("a session", server.accept()).await.unwrap();
        assert!(names.insert(session.peer_id()), "{} twice", session.peer_id());
        sessions.spawn(async move {
            while let Ok(packet) = session.recv_packet().await {
                assert!(packet.ends_with(session.peer_id().as_bytes()), "another client's packet");
                session.send_packet(&packet).await.unwrap();
            }
            session.peer_id()
        });
    }
    assert_eq!(names, (0..CLIENTS).map(name).collect());
    let clients = soon("all clients", clients.join_all()).await;
    drop(clients);
    assert_eq!(soon("all goodbyes", sessions.join_all()).await.len(), CLIENTS);
    // All places are free again.
    let client = connect(&server, "again.example.org", Options::default()).await.unwrap();
    assert_eq!(soon("a session", server.accept()).await.unwrap().peer_id(), "again.example.org");
    drop(client);
}

#[tokio::test]
async fn a_client_that_begins_anew_keeps_its_session_and_disturbs_no_other() {
    let server = Server::bind(any(), [any_client()]).await.unwrap();
    let other = connect(&server, &name(1), Options::default()).await.unwrap();
    let other_session = soon("a session", server.accept()).await.unwrap();
    // The first life ends without a word.
    let life = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (address, peer) = (server.local_addr(), gateway().local_id(&name(2)).build().unwrap());
    let first = life.spawn(Client::connect(address, peer)).await.unwrap().unwrap();
    let session = soon("a session", server.accept()).await.unwrap();
    crate::faults::die(life).await;
    drop(first);
    let second = connect(&server, &name(2), Options::default()).await.unwrap();
    let packet = udp(CLIENT_ADDRESS, SERVER_ADDRESS, b"again");
    second.send_packet(&packet).await.unwrap();
    assert_eq!(soon("a packet", session.recv_packet()).await.unwrap(), packet);
    other.send_packet(&packet).await.unwrap();
    assert_eq!(soon("a packet", other_session.recv_packet()).await.unwrap(), packet);
    assert_eq!((session.peer_id(), other_session.peer_id()), (name(2), name(1)));
}

#[tokio::test]
async fn a_server_bears_so_many_sessions_and_no_more() {
    let server = Server::bind_with(any(), [any_client()], Options { sessions: 2, ..Options::default() }).await.unwrap();
    let first = connect(&server, &name(1), Options::default()).await.unwrap();
    let _second = connect(&server, &name(2), Options::default()).await.unwrap();
    let error = connect(&server, &name(3), impatient()).await.unwrap_err();
    assert_eq!(error.code(), "refused", "{error}");
    assert_eq!(soon("the refusal", server.refused()).await.unwrap().error.code(), "local");
    soon("the goodbye", first.shutdown()).await;
    connect(&server, &name(3), Options::default()).await.unwrap();
}

#[tokio::test]
async fn sessions_that_nobody_accepts_are_closed() {
    let server = Server::bind_with(any(), [any_client()], Options { backlog: 1, ..Options::default() }).await.unwrap();
    let kept = connect(&server, &name(1), Options::default()).await.unwrap();
    let peer = gateway().local_id(&name(2)).no_reconnect().build().unwrap();
    let closed = soon("a connection", Client::connect(server.local_addr(), peer)).await.unwrap();
    let error = soon("the end", closed.recv_packet()).await.unwrap_err();
    assert_eq!(error.failure().map(|failure| failure.code()), Some("closed_by_peer"));
    assert_eq!(soon("a session", server.accept()).await.unwrap().peer_id(), name(1));
    drop(kept);
}

#[tokio::test]
async fn each_peer_of_several_has_a_key_of_its_own() {
    let peers = [
        ("*.branch.example.org", "the key of branch"),
        ("*@example.org", "the key of people"),
        ("a.branch.example.org", "the key of a alone"),
    ]
    .map(|(id, key)| client().remote_id(id).psk(key).build().unwrap());
    let server = Server::bind(any(), peers).await.unwrap();
    for (id, key, works) in [
        ("b.branch.example.org", "the key of branch", true),
        ("ann@example.org", "the key of people", true),
        ("bob@example.org", "the key of branch", false),
        ("a.branch.example.org", "the key of a alone", true),
        ("c.branch.example.org", "the key of branch", true),
    ] {
        let peer = gateway().local_id(id).psk(key).build().unwrap();
        let connected = soon("a connection", Client::connect(server.local_addr(), peer)).await;
        assert_eq!(connected.is_ok(), works, "{id}");
        if works {
            assert_eq!(soon("a session", server.accept()).await.unwrap().peer_id(), id);
        } else {
            assert_eq!(soon("the refusal", server.refused()).await.unwrap().error.code(), "wrong_psk");
        }
    }
}

/// One client with the key of the pattern and as many names as it likes, beside an honest one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_client_of_many_names_does_not_keep_others_out() {
    const SESSIONS: usize = 8;
    let options = Options { sessions: SESSIONS, ..impatient() };
    let server = Server::bind_with("0.0.0.0:0".parse().unwrap(), [any_client()], options).await.unwrap();
    let address = server.local_addr().port();
    let connect = move |from: &str, name: String| {
        let options = Options { bind: Some(std::net::SocketAddr::new(from.parse().unwrap(), 0)), ..impatient() };
        let peer = gateway().local_id(&name).no_reconnect().build().unwrap();
        Client::connect_with(([127, 0, 0, 1], address).into(), peer, options)
    };
    let mut greedy = Vec::new();
    for number in 0..SESSIONS {
        greedy.push(soon("a connection", connect("127.0.0.66", name(number))).await.unwrap());
        drop_later(soon("a session", server.accept()).await.unwrap());
    }
    let client = soon("the honest one", connect("127.0.1.1", "honest.example.org".into())).await.unwrap();
    let session = soon("its session", server.accept()).await.unwrap();
    assert_eq!(session.peer_id(), "honest.example.org");
    // The oldest of the other one has gone.
    let error = soon("the end", greedy[0].recv_packet()).await.unwrap_err();
    assert_eq!((error.code(), error.failure().map(|failure| failure.code())), ("closed", Some("closed_by_peer")));
    // It goes on and on under ever new names, and comes to nothing.
    let done = std::sync::atomic::AtomicBool::new(false);
    let attacks = async {
        let mut number = SESSIONS;
        while !done.load(std::sync::atomic::Ordering::Relaxed) {
            let error = soon("a refusal", connect("127.0.0.66", name(number))).await.unwrap_err();
            // From so many half-open IKE SAs on it is not even told.
            assert!(["refused", "unanswered"].contains(&error.code()), "{error}");
            number += 1;
        }
        number - SESSIONS
    };
    let pair = Pair { server, client, session };
    let goes_on = async {
        for _ in 0..10 {
            pair.check().await;
            soon("new keys", pair.client.rekey()).await.unwrap();
            soon("a new IKE SA", pair.session.rekey_ike()).await.unwrap();
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    };
    let (attacks, ()) = tokio::join!(attacks, goes_on);
    assert!(attacks > 0);
    assert_eq!(pair.client.stats().sent_packets, pair.session.stats().received_packets);
    assert!(greedy[1..].iter().all(|client| client.state() == adit_ipsec::State::Connected), "they have their share");
}

/// A session that its program keeps, without a look at it.
fn drop_later(session: adit_ipsec::Session) {
    tokio::spawn(async move { while session.recv_packet().await.is_ok() {} });
}
