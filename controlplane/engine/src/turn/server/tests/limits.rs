//! What one identity, one network and all together may have, and that others have theirs beside it.
use super::*;
use crate::limits::{TURN_CHECKS_OF_NETWORK, TURN_STALE_CHECKS, TURN_STALE_LEN_MAX};

/// A client with a channel to a peer, and its relayed address.
fn with_channel(bench: &mut Bench, place: &str, identity: &str) -> (Client, SocketAddr) {
    let client = bench.client(place, identity);
    let relayed = bench.allocate(&client);
    assert_eq!(bench.bind(&client, 0x4001, "8.8.8.8:4500"), 0);
    (client, relayed)
}

fn data(len: usize) -> Vec<u8> {
    [&[0x40, 1], &(len as u16).to_be_bytes()[..], &vec![7; len]].concat()
}

#[test]
fn an_identity_has_so_many_bytes_in_a_second_and_others_have_theirs() {
    let mut bench = Bench::with(|config| config.bytes_of_identity = 200_000);
    let (greedy, relayed) = with_channel(&mut bench, "192.0.2.7:5000", "greedy");
    let (modest, _) = with_channel(&mut bench, "192.0.3.7:5000", "modest");
    let passed = |bench: &mut Bench, client: &Client, times: usize| {
        (0..times).filter(|_| !bench.client_sends(client.tuple, Train::one(&data(1000))).is_empty()).count()
    };
    assert_eq!((passed(&mut bench, &greedy, 300), passed(&mut bench, &modest, 100)), (200, 100));
    assert_eq!((bench.count(Count::OverRate), bench.peer_sends(relayed, "8.8.8.8:4500", Train::one(b"x")).len()), (100, 0));
    // Another allocation of the same identity has no bytes of its own, nor has one that is made anew.
    let (again, _) = with_channel(&mut bench, "192.0.2.7:5001", "greedy");
    bench.since -= SECOND;
    assert_eq!(passed(&mut bench, &again, 1), 0);
    for client in [&greedy, &again] {
        assert_eq!(bench.refresh(client, 0).error(), 0);
    }
    let (anew, _) = with_channel(&mut bench, "192.0.2.7:5002", "greedy");
    bench.since -= SECOND;
    assert_eq!(passed(&mut bench, &anew, 1), 0);
    bench.pass(Duration::from_millis(500));
    assert_eq!(passed(&mut bench, &anew, 300), 100);
}

#[test]
fn all_together_have_so_many_bytes_in_a_second() {
    let mut bench = Bench::with(|config| config.bytes_of_all = 150_000);
    let (one, _) = with_channel(&mut bench, "192.0.2.7:5000", "one");
    let (_, at_other) = with_channel(&mut bench, "192.0.3.7:5000", "other");
    let passed = (0..200).filter(|_| !bench.client_sends(one.tuple, Train::one(&data(1000))).is_empty()).count();
    assert_eq!((passed, bench.peer_sends(at_other, "8.8.8.8:4500", Train::one(&[0; 1000])).len()), (150, 0));
    bench.pass(SECOND);
    assert_eq!(bench.peer_sends(at_other, "8.8.8.8:4500", Train::one(&[0; 1000])).len(), 1);
}

#[test]
fn identities_are_forgotten_when_their_bytes_are_earned_again() {
    let mut bench = Bench::new();
    let (client, _) = with_channel(&mut bench, "192.0.2.7:5000", "gw");
    bench.client_sends(client.tuple, Train::one(&data(1000)));
    assert_eq!((bench.refresh(&client, 0).error(), bench.server.by_identity.len()), (0, 1));
    bench.pass(SECOND);
    assert_eq!(bench.server.by_identity.len(), 0);
}

#[test]
fn a_network_that_asks_too_often_is_not_looked_at_and_others_are() {
    let mut bench = Bench::new();
    let (client, other) = (bench.client("192.0.2.7:5000", "gw"), bench.client("192.0.3.7:5000", "gw"));
    let mut guess = client.request(method::ALLOCATE, 1, put_transport);
    let at = guess.len() - 1;
    guess[at] ^= 1;
    for _ in 0..TURN_CHECKS_OF_NETWORK + 100 {
        bench.send(client.tuple, &guess);
    }
    assert_eq!(bench.count(Count::OverAsked), 100);
    bench.allocate(&other);
    bench.pass(SECOND);
    bench.allocate(&client);
}

/// Whoever floods with forged questions under false addresses takes the answers of strangers away, also those of other networks whose
/// place in the table is the same. A client of ours seals its first question already, and gets its nonce all the same.
#[test]
fn who_has_credentials_is_answered_while_strangers_flood() {
    let mut bench = Bench::new();
    let mut client = client_at("192.0.2.7:5000", "gw");
    for n in 0..1000_u16 {
        let mut out = Writer::new(Class::Request, method::ALLOCATE, [1; 12]);
        put_transport(&mut out);
        out.fill_up_to(100);
        let stranger = Tuple { client: socket(&format!("192.0.2.9:{}", 1000 + n)), link: Link::Udp(0) };
        bench.send(stranger, &out.finish());
    }
    assert!(bench.count(Count::Often) > 900);
    let stale = bench.ask(&client, method::ALLOCATE, put_transport);
    assert_eq!(stale.error(), 438);
    client.nonce = stale.nonce();
    bench.allocate(&client);
}

#[test]
fn of_forged_questions_with_an_old_nonce_only_so_many_are_computed() {
    let mut bench = Bench::new();
    let client = client_at("192.0.2.7:5000", "gw");
    let forged = client_at("198.51.100.1:5000", "gw").request(method::ALLOCATE, 1, |out| put_family(out, 0x0019, 17));
    for n in 0..TURN_STALE_CHECKS {
        let from = SocketAddr::from(([198, 51, (n >> 8) as u8, n as u8], 5000));
        bench.send(Tuple { client: from, link: Link::Udp(0) }, &forged);
    }
    for _ in 0..4 {
        bench.send(client.tuple, &forged);
    }
    // Nothing is computed any more, so that he is a stranger, whose network has had its answers.
    let request = client.request(method::ALLOCATE, 2, put_transport);
    assert!(bench.send(client.tuple, &request).is_none());
    bench.pass(Duration::from_millis(1));
    assert_eq!(bench.send(client.tuple, &request).map(|answer| answer.error()), Some(438));
    let long = client.request(method::ALLOCATE, 3, |out| {
        put_transport(out);
        out.fill_up_to(TURN_STALE_LEN_MAX);
    });
    bench.pass(Duration::from_millis(1));
    assert!(bench.send(client.tuple, &long).is_none(), "a long one costs more, and nobody needs it");
}

#[test]
fn who_drains_lends_nothing_more_and_takes_nothing_back() {
    let mut bench = Bench::new();
    let (old, _) = with_channel(&mut bench, "192.0.2.7:5000", "old");
    bench.server.drain();
    let new = bench.client("192.0.3.7:5000", "new");
    assert_eq!((bench.ask(&new, method::ALLOCATE, put_transport).error(), bench.refresh(&old, 600).error()), (508, 0));
    assert_eq!(bench.client_sends(old.tuple, Train::one(&data(9))).len(), 1);
}

#[test]
fn the_last_free_port_is_found() {
    let mut bench = Bench::with(|config| {
        config.ports = 50_000..=50_099;
        config.of_identity_max = 100;
    });
    let mut ports: Vec<u16> = (0..100)
        .map(|n| {
            let client = bench.client(&format!("192.0.2.7:{}", 5000 + n), "gw");
            bench.allocate(&client).port()
        })
        .collect();
    ports.sort_unstable();
    assert_eq!(ports, (50_000..=50_099).collect::<Vec<_>>());
}
