//! What clients do with each other over a relay, and what the relay says when one of them or it itself ends.

use adit_proto::relay::{FromRelay, Kind, LeftReason, ToRelay, Train};
use adit_relay::config::Config;
use adit_relay::key::ClientKey;
use adit_relay::login::Token;
use adit_relay::server::Server;

use crate::client::{Client, room, tls_from};
use crate::relay::{Relay, soon, until};

#[tokio::test]
async fn two_clients_meet_in_a_room_and_pass_a_train_both_ways() {
    let relay = Relay::with_lab().await;
    let mut one = Client::join(&relay, &["lab"]).await;
    let heard = one.hear().await.expect("a welcome");
    let FromRelay::Welcome { observed, rooms, .. } = heard.record() else { panic!("{:?}", heard.record()) };
    assert!(observed.ip().is_loopback());
    assert_eq!(rooms, [room("lab")]);
    let mut other = Client::join(&relay, &["lab"]).await;
    let (one_key, other_key) = (one.key, other.key);
    one.hear_of("the other", |record| matches!(record, FromRelay::Joined { peer, .. } if *peer == other_key)).await;
    other.hear_of("the one", |record| matches!(record, FromRelay::Joined { peer, .. } if *peer == one_key)).await;

    let train: Vec<u8> = (0..46 * 1400).map(|n: usize| (n / 1400) as u8).collect();
    one.send_esp(other_key, 1400, &train).await;
    let heard = other.hear_of("a train", |record| matches!(record, FromRelay::Deliver { .. })).await;
    let there = Train { kind: Kind::Esp, class: 0xb9, segment: 1400, payload: &train };
    assert_eq!(heard.record(), FromRelay::Deliver { from: one_key, train: there });
    other.send_esp(one_key, 0, b"back").await;
    let heard = one.hear_of("an answer", |record| matches!(record, FromRelay::Deliver { .. })).await;
    let back = Train { kind: Kind::Esp, class: 0xb9, segment: 0, payload: b"back" };
    assert_eq!(heard.record(), FromRelay::Deliver { from: other_key, train: back });

    one.say(&ToRelay::Meet { peer: other_key }).await;
    for client in [&mut one, &mut other] {
        client.hear_of("an introduction", |record| matches!(record, FromRelay::Introduction { .. })).await;
    }
    drop(other);
    let left =
        |record: &FromRelay<'_>| matches!(record, FromRelay::Left { peer, reason: LeftReason::GONE, .. } if *peer == other_key);
    one.hear_of("the other has gone", left).await;
}

/// A pair in one room, and in another somebody who is sent more than he reads.
#[tokio::test]
async fn a_slow_reader_slows_nobody_and_hears_what_is_urgent_first() {
    const TRAIN: usize = 60_000;
    const TRAINS: usize = 150;
    let relay = Relay::with_lab().await;
    let mut slow = Client::join(&relay, &["lab"]).await;
    let mut source = Client::join(&relay, &["lab"]).await;
    let (mut fast, mut friend) = (Client::join(&relay, &["lab"]).await, Client::join(&relay, &["lab"]).await);
    source.hear_of("the slow one", |record| matches!(record, FromRelay::Joined { peer, .. } if *peer == slow.key)).await;
    let payload = vec![3; TRAIN];
    for round in 0..TRAINS {
        source.send_esp(slow.key, 0, &payload).await;
        if round % 10 == 0 {
            fast.send_esp(friend.key, 0, &round.to_be_bytes()).await;
            let heard = friend.hear_of("the fast pair", |record| matches!(record, FromRelay::Deliver { .. })).await;
            let FromRelay::Deliver { train, .. } = heard.record() else { panic!("{:?}", heard.record()) };
            assert_eq!(train.payload, round.to_be_bytes());
        }
    }
    // The last thing that is for him is the first that is not data.
    source.say(&ToRelay::Meet { peer: slow.key }).await;
    source.hear_of("an introduction", |record| matches!(record, FromRelay::Introduction { .. })).await;
    let mut before = 0;
    slow.hear_of("an introduction", |record| match record {
        FromRelay::Deliver { train, .. } => {
            before += train.payload.len();
            false
        }
        record => matches!(record, FromRelay::Introduction { .. }),
    })
    .await;
    let sent = TRAIN * TRAINS;
    assert!(before < sent / 3, "{before} of {sent} bytes came before the introduction");
    let stats = relay.stats().await;
    assert_eq!(stats["clients"], 4, "{stats:#}");
}

#[tokio::test]
async fn of_one_key_the_newest_connection_holds_and_the_other_is_told() {
    let relay = Relay::with_lab().await;
    let mut witness = Client::join(&relay, &["lab"]).await;
    let key = ClientKey::generate().expect("a key");
    let login = async || Client::login(&relay, &key, &["lab"], Some(&relay.token)).await.expect("let in");
    let mut old = login().await;
    let mut new = login().await;
    let heard = old.hear_of("it is replaced", |record| matches!(record, FromRelay::Replaced { .. })).await;
    assert!(matches!(heard.record(), FromRelay::Replaced { wait_s: 60.. }), "{:?}", heard.record());
    assert!(old.hear().await.is_none(), "and closed");
    // Nobody loops: what came last stays and works.
    witness.send_esp(key.public(), 0, b"to whom").await;
    new.hear_of("a train", |record| matches!(record, FromRelay::Deliver { .. })).await;
    let stats = relay.stats().await;
    assert_eq!((&stats["clients"], &stats["logins"]), (&2.into(), &3.into()), "{stats:#}");
}

#[tokio::test]
async fn who_answers_no_ping_is_gone_and_who_does_stays() {
    let relay = Relay::new("rooms:\n  lab: { token_file: lab.token }\nidle_s: 5\n").await;
    let mut awake = Client::join(&relay, &["lab"]).await;
    // It reads nothing, so it answers nothing.
    let asleep = Client::join(&relay, &["lab"]).await;
    let heard = awake.hear_of("it has left", |record| matches!(record, FromRelay::Left { .. })).await;
    let FromRelay::Left { peer, reason, .. } = heard.record() else { panic!("{:?}", heard.record()) };
    assert_eq!((peer, reason), (asleep.key, LeftReason::IDLE));
    let stats = relay.stats().await;
    assert_eq!(stats["clients"], 1, "{stats:#}");
}

#[tokio::test]
async fn a_relay_that_ends_tells_its_clients_and_lets_nobody_in() {
    let mut relay =
        Relay::new("rooms:\n  lab: { token_file: lab.token }\ndrain: { to: [relay2.example.org:443], within_s: 600 }\n").await;
    let (mut goes, mut stays) = (Client::join(&relay, &["lab"]).await, Client::join(&relay, &["lab"]).await);
    relay.end();
    for client in [&mut goes, &mut stays] {
        let heard = client.hear_of("where to go", |record| matches!(record, FromRelay::Drain { .. })).await;
        let FromRelay::Drain { come_back_in_ms, try_for_ms, to } = heard.record() else { panic!("{:?}", heard.record()) };
        assert!(come_back_in_ms > 0 && try_for_ms > come_back_in_ms, "{come_back_in_ms} {try_for_ms}");
        assert_eq!(to.iter().map(|relay| relay.as_str()).collect::<Vec<_>>(), ["relay2.example.org:443"]);
    }
    until("the door is shut", async || tokio::net::TcpStream::connect(relay.address).await.is_err()).await;
    // It waits for those who have not gone, and no longer: the test has less patience than `within_s`.
    drop((goes, stays));
    relay.ended().await;
}

#[tokio::test]
async fn who_does_not_go_elsewhere_is_closed_when_the_time_is_over() {
    let mut relay =
        Relay::new("rooms:\n  lab: { token_file: lab.token }\ndrain: { to: [relay2.example.org:443], within_s: 1 }\n").await;
    let mut stays = Client::join(&relay, &["lab"]).await;
    relay.end();
    assert_eq!(soon("the end", stays.hear_end()).await, Some(1012), "service restart");
    relay.ended().await;
}

/// A restart is over as soon as all have been told, whoever stays: clients, and strangers who say nothing.
#[tokio::test]
async fn a_relay_without_others_ends_as_soon_as_it_has_told_its_clients() {
    let mut relay = Relay::new("rooms:\n  lab: { token_file: lab.token }\ndrain: { within_s: 3600 }\n").await;
    let mut client = Client::join(&relay, &["lab"]).await;
    let _silent = tokio::net::TcpStream::connect(relay.address).await.expect("a connection");
    relay.end();
    let heard = client.hear_of("when to come back", |record| matches!(record, FromRelay::Drain { .. })).await;
    assert!(matches!(heard.record(), FromRelay::Drain { come_back_in_ms: 1000.., .. }), "{:?}", heard.record());
    assert_eq!(soon("the end", client.hear_end()).await, Some(1012));
    // The test has less patience than `within_s`.
    relay.ended().await;
}

#[tokio::test]
async fn who_asks_twice_is_not_kept_waiting() {
    let mut relay =
        Relay::new("rooms:\n  lab: { token_file: lab.token }\ndrain: { to: [relay2.example.org:443], within_s: 3600 }\n").await;
    let mut stays = Client::join(&relay, &["lab"]).await;
    relay.end();
    stays.hear_of("where to go", |record| matches!(record, FromRelay::Drain { .. })).await;
    relay.end_again();
    relay.ended().await;
}

#[tokio::test]
async fn the_next_relay_listens_while_the_clients_of_this_one_go() {
    let directory = tempfile::tempdir().expect("a directory");
    adit_relay::init::init(directory.path(), "localhost").expect("a new relay");
    let free = || std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
    let (at, pages) = (free(), free());
    let file = directory.path().join("test.yaml");
    let text = format!(
        "listen: \"{at}\"\ncertificate: relay.crt\nkey: relay.key\nrooms:\n  lab: {{ token_file: lab.token }}\n\
         pages: {{ listen: \"{pages}\", token_file: pages.token }}\ndrain: {{ to: [relay2.example.org:443], within_s: 3600 }}\n"
    );
    std::fs::write(&file, text).expect("a file");
    let config = Config::load(&file).unwrap_or_else(|mistakes| panic!("{mistakes}"));
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    let first = Server::bind(config.clone()).await.expect("free ports");
    let first = tokio::spawn(first.run(async { drop(ended.await) }, std::future::pending()));
    let token = Token::from_file(&std::fs::read(directory.path().join("lab.token")).expect("a token")).expect("a token");
    let join = async || {
        let stream = tls_from([127, 0, 0, 1], at, config.credentials.pin).await.expect("TLS");
        Client::login_on(stream, &ClientKey::generate().expect("a key"), &["lab"], Some(&token)).await.expect("let in")
    };
    let mut stays = join().await;
    drop(end);
    stays.hear_of("where to go", |record| matches!(record, FromRelay::Drain { .. })).await;
    let mut second = None;
    until("the next one listens", async || {
        second = Server::bind(config.clone()).await.ok();
        second.is_some()
    })
    .await;
    let second = second.expect("it listens");
    let second = tokio::spawn(second.run(std::future::pending(), std::future::pending()));
    let mut newcomer = join().await;
    newcomer.hear().await.expect("a welcome");
    // The first one still passes on what its clients send.
    stays.say(&ToRelay::Ping { id: 5 }).await;
    stays.hear_of("an answer", |record| matches!(record, FromRelay::Pong { id: 5 })).await;
    second.abort();
    first.abort();
}
