//! Every number with which a question is refused.
use super::*;

fn allocate_with(bench: &mut Bench, fill: impl Fn(&mut Writer)) -> Answer {
    let port = 6000 + bench.next_id();
    let client = bench.client(&format!("192.0.2.7:{port}"), "gw");
    bench.ask(&client, method::ALLOCATE, fill)
}

#[test]
fn error_400_for_what_is_missing_or_contradicts_itself() {
    let mut bench = Bench::new();
    assert_eq!(allocate_with(&mut bench, |_| {}).error(), 400);
    let family = |requested: Option<u8>, additional: Option<u8>, even: bool, reserved: bool| {
        move |out: &mut Writer| {
            put_transport(out);
            requested.into_iter().for_each(|number| put_family(out, kind::REQUESTED_ADDRESS_FAMILY, number));
            additional.into_iter().for_each(|number| put_family(out, kind::ADDITIONAL_ADDRESS_FAMILY, number));
            if even {
                out.put(kind::EVEN_PORT, &[0x80]);
            }
            if reserved {
                out.put(kind::RESERVATION_TOKEN, &[0; 8]);
            }
        }
    };
    for odd in [
        family(Some(1), Some(2), false, false),
        family(None, Some(1), false, false),
        family(None, Some(2), true, false),
        family(None, None, true, true),
        family(Some(2), None, false, true),
    ] {
        assert_eq!(allocate_with(&mut bench, odd).error(), 400);
    }
    let client = bench.client("192.0.2.7:5000", "gw");
    bench.allocate(&client);
    type Fill<'a> = &'a dyn Fn(&mut Writer);
    let odd: [(u16, Fill<'_>); 5] = [
        (method::CREATE_PERMISSION, &|_| {}),
        (method::CREATE_PERMISSION, &|out| {
            out.put(kind::XOR_PEER_ADDRESS, &[0, 1, 2]);
        }),
        (method::CHANNEL_BIND, &|out| put_peer(out, "8.8.8.8:1")),
        (method::REFRESH, &|out| {
            out.put(kind::REQUESTED_ADDRESS_FAMILY, &[1]);
        }),
        (12, &|_| {}),
    ];
    assert_eq!(odd.map(|(method, fill)| bench.ask(&client, method, fill).error()), [400; 5]);
    assert_eq!([0x3fff, 0x8000, 0xffff].map(|number| bench.bind(&client, number, "8.8.8.8:1")), [400; 3]);
    assert_eq!(bench.bind(&client, 0x4000, "8.8.8.8:0"), 400, "no packet goes to port 0");
}

#[test]
fn error_400_where_credentials_are_incomplete() {
    let mut bench = Bench::new();
    let client = bench.client("192.0.2.7:5000", "gw");
    let mut out = Writer::new(Class::Request, method::ALLOCATE, [0; 12]);
    out.put(kind::USERNAME, client.name.as_bytes()).seal(Integrity::Sha1, &client.key());
    assert_eq!(bench.send(client.tuple, &out.finish()).map(|answer| answer.error()), Some(400));
}

#[test]
fn error_401_for_wrong_expired_and_foreign_credentials() {
    let mut bench = Bench::new();
    let client = bench.client("192.0.2.7:5000", "gw");
    let mut refused = |name: String, key: Option<Key>, realm: &[u8]| {
        let mut out = Writer::new(Class::Request, method::ALLOCATE, [0; 12]);
        put_transport(&mut out);
        out.put(kind::USERNAME, name.as_bytes()).put(kind::REALM, realm).put(kind::NONCE, client.nonce.as_bytes());
        let own = long_term_key(&name, "adit", &password(&Secret::copy_of(SECRET), &name));
        out.seal(Integrity::Sha1, &key.unwrap_or(own));
        bench.since += SECOND;
        bench.send(client.tuple, &out.finish()).map(|answer| (answer.error(), answer.message().has_integrity()))
    };
    let wrong = Key::new(b"wrong");
    assert_eq!(refused(client.name.clone(), Some(wrong), b"adit"), Some((401, false)));
    assert_eq!(refused(name("gw", UNIX), None, b"adit"), Some((401, false)), "expired");
    assert_eq!(refused("gw".to_owned(), None, b"adit"), Some((401, false)), "no expiry");
    assert_eq!(refused(client.name.clone(), None, b"else"), Some((401, false)), "another realm");
    assert_eq!((bench.server.allocations(), bench.opened.len()), (0, 0));
}

#[test]
fn error_401_when_credentials_expire_before_a_refresh() {
    let mut bench = Bench::with(|config| config.nonce_life = Duration::from_secs(10_000));
    let client = bench.client("192.0.2.7:5000", "gw");
    bench.allocate(&client);
    assert_eq!(bench.refresh(&client, 3600).error(), 0);
    bench.pass(Duration::from_secs(3599));
    assert_eq!(bench.refresh(&client, 3600).error(), 401);
}

#[test]
fn error_403_for_peers_inside() {
    let mut bench = Bench::with(|config| config.allowed.networks = vec!["10.7.0.0/16".parse().expect("a network")]);
    let client = bench.client("192.0.2.7:5000", "gw");
    bench.allocate(&client);
    for inside in
        ["127.0.0.1:1", "169.254.169.254:80", "192.168.0.1:1", "10.8.0.1:1", "224.0.0.1:1", "0.0.0.0:1", "[::ffff:10.0.0.1]:1"]
    {
        assert_eq!([bench.permit(&client, inside), bench.bind(&client, 0x4000, inside)], [403; 2], "{inside}");
    }
    assert_eq!((bench.permit(&client, "10.7.0.1:1"), bench.permit(&client, "8.8.8.8:1")), (0, 0));
    let both = |out: &mut Writer| {
        put_peer(out, "8.8.4.4:1");
        put_peer(out, "127.0.0.1:1");
    };
    assert_eq!(bench.ask(&client, method::CREATE_PERMISSION, both).error(), 403);
}

#[test]
fn error_403_for_clients_in_tunnels() {
    let mut bench = Bench::new();
    // RFC 8656 §21.4: 6to4 and Teredo.
    for place in ["[2002:808:808::1]:5000", "[2001:0:1::1]:5000", "192.88.99.1:5000"] {
        let client = bench.client(place, "gw");
        assert_eq!(bench.ask(&client, method::ALLOCATE, put_transport).error(), 403, "{place}");
    }
}

#[test]
fn error_420_names_what_is_not_known() {
    let mut bench = Bench::new();
    let answer = allocate_with(&mut bench, |out| {
        put_transport(out);
        out.put(0x0033, b"").put(0x7fff, b"").put(0xc000, b"");
    });
    assert_eq!((answer.error(), answer.message().get(kind::UNKNOWN_ATTRIBUTES)), (420, Some(&[0, 0x33, 0x7f, 0xff][..])));
}

#[test]
fn error_437_without_an_allocation() {
    let mut bench = Bench::new();
    let client = bench.client("192.0.2.7:5000", "gw");
    assert_eq!(
        [bench.refresh(&client, 0).error(), bench.permit(&client, "8.8.8.8:1"), bench.bind(&client, 0x4000, "8.8.8.8:1")],
        [437; 3]
    );
}

#[test]
fn error_437_for_another_identity_at_the_same_place() {
    let mut bench = Bench::new();
    let mut client = bench.client("192.0.2.7:5000", "gw");
    let request = client.request(method::ALLOCATE, 5, put_transport);
    assert_eq!(bench.send(client.tuple, &request).map(|answer| answer.error()), Some(0));
    client.name = name("else", UNIX + 3600);
    let request = client.request(method::ALLOCATE, 5, put_transport);
    assert_eq!(bench.send(client.tuple, &request).map(|answer| answer.error()), Some(437));
}

#[test]
fn error_438_when_the_nonce_is_old_and_a_new_one_with_it() {
    let mut bench = Bench::with(|config| config.nonce_life = Duration::from_secs(5));
    let mut client = bench.client("192.0.2.7:5000", "gw");
    bench.allocate(&client);
    for _ in 0..10 {
        bench.pass(Duration::from_secs(5));
        let stale = bench.refresh(&client, 600);
        assert_eq!((stale.error(), stale.message().text(kind::REALM)), (438, Some("adit")));
        client.nonce = stale.nonce();
        assert_eq!(bench.refresh(&client, 600).error(), 0);
    }
    assert_eq!(bench.count(Count::StaleNonce), 10);
    // Of somebody else, it is as old as one can be; many who know the password get a new one at once.
    let mut other = client.clone();
    other.tuple.client = socket("192.0.2.7:5001");
    assert_eq!([0; 20].map(|_| bench.ask(&other, method::ALLOCATE, put_transport).error()), [438; 20]);
    // Who does not know it is a stranger.
    other.name = "1:gw".to_owned();
    let request = other.request(method::ALLOCATE, 1, put_transport);
    let errors: Vec<u16> = (0..6).filter_map(|_| bench.send(other.tuple, &request)).map(|answer| answer.error()).collect();
    assert_eq!(errors, [438; 4]);
}

#[test]
fn error_440_for_families_that_are_not_lent() {
    for (count, number) in [(1, 2), (2, 3), (2, 0)] {
        let mut bench = Bench::with(|config| config.relayed.truncate(count));
        let answer = allocate_with(&mut bench, |out| {
            put_transport(out);
            put_family(out, kind::REQUESTED_ADDRESS_FAMILY, number);
        });
        assert_eq!(answer.error(), 440);
    }
    let mut bench = Bench::with(|config| config.relayed = config.relayed.split_off(1));
    assert_eq!(allocate_with(&mut bench, put_transport).error(), 440);
    let v6 = |out: &mut Writer| {
        put_transport(out);
        put_family(out, kind::REQUESTED_ADDRESS_FAMILY, 2);
    };
    assert_eq!(allocate_with(&mut bench, v6).error(), 0);
}

#[test]
fn error_441_for_another_identity_on_an_allocation() {
    let mut bench = Bench::new();
    let mut client = bench.client("192.0.2.7:5000", "gw");
    bench.allocate(&client);
    client.name = name("else", UNIX + 3600);
    assert_eq!(
        [bench.refresh(&client, 0).error(), bench.permit(&client, "8.8.8.8:1"), bench.bind(&client, 0x4000, "8.8.8.8:1")],
        [441; 3]
    );
    assert_eq!(bench.server.allocations(), 1);
}

#[test]
fn error_442_for_another_transport_than_udp() {
    let mut bench = Bench::new();
    assert_eq!(
        allocate_with(&mut bench, |out| {
            out.put(kind::REQUESTED_TRANSPORT, &[6, 0, 0, 0]);
        })
        .error(),
        442
    );
}

#[test]
fn error_443_for_peers_of_a_family_that_the_allocation_lacks() {
    let mut bench = Bench::new();
    let client = bench.client("192.0.2.7:5000", "gw");
    bench.allocate(&client);
    assert_eq!([bench.permit(&client, "[2606:4700::7]:1"), bench.bind(&client, 0x4000, "[2606:4700::7]:1")], [443; 2]);
}

#[test]
fn error_486_when_an_identity_has_its_share() {
    let mut bench = Bench::with(|config| config.of_identity_max = 2);
    let clients: Vec<Client> = (0..3).map(|n| bench.client(&format!("192.0.2.7:{}", 5000 + n), "gw")).collect();
    bench.allocate(&clients[0]);
    bench.allocate(&clients[1]);
    assert_eq!(bench.ask(&clients[2], method::ALLOCATE, put_transport).error(), 486);
    let other = bench.client("192.0.2.8:1", "other");
    bench.allocate(&other);
    bench.refresh(&clients[0], 0);
    bench.allocate(&clients[2]);
}

#[test]
fn error_508_when_nothing_is_left() {
    let mut bench = Bench::with(|config| config.total_max = 1);
    let (first, second) = (bench.client("192.0.2.7:1", "one"), bench.client("192.0.2.7:2", "two"));
    bench.allocate(&first);
    assert_eq!(bench.ask(&second, method::ALLOCATE, put_transport).error(), 508);
    bench.refresh(&first, 0);
    bench.may_open = false;
    assert_eq!(bench.ask(&second, method::ALLOCATE, put_transport).error(), 508);
    bench.may_open = true;
    bench.allocate(&second);
}

#[test]
fn error_508_when_a_single_port_is_lent() {
    let mut bench = Bench::with(|config| config.ports = 50_000..=50_000);
    let (first, second) = (bench.client("192.0.2.7:1", "one"), bench.client("192.0.2.7:2", "two"));
    assert_eq!(bench.allocate(&first).port(), 50_000);
    assert_eq!(bench.ask(&second, method::ALLOCATE, put_transport).error(), 508);
}

#[test]
fn error_508_for_pairs_of_ports_and_what_was_never_reserved() {
    let mut bench = Bench::new();
    for (kind, value) in [(kind::EVEN_PORT, &[0x80][..]), (kind::RESERVATION_TOKEN, &[0; 8][..])] {
        let fill = |out: &mut Writer| {
            put_transport(out);
            out.put(kind, value);
        };
        assert_eq!(allocate_with(&mut bench, fill).error(), 508);
    }
}

#[test]
fn a_port_with_an_even_number_is_lent_to_who_asks_for_one() {
    let mut bench = Bench::with(|config| config.of_identity_max = 64);
    for _ in 0..20 {
        let fill = |out: &mut Writer| {
            put_transport(out);
            out.put(kind::EVEN_PORT, &[0]);
        };
        let answer = allocate_with(&mut bench, fill);
        assert_eq!((answer.error(), answer.relayed().len(), answer.relayed()[0].port() % 2), (0, 1, 0));
    }
}

#[test]
fn error_508_when_an_allocation_lets_in_enough() {
    let mut bench = Bench::new();
    let client = bench.client("192.0.2.7:5000", "gw");
    bench.allocate(&client);
    let many = |from: u8, to: u8| move |out: &mut Writer| (from..to).for_each(|n| put_peer(out, &format!("8.8.8.{n}:1")));
    for from in [0, 32, 64, 96] {
        assert_eq!(bench.ask(&client, method::CREATE_PERMISSION, many(from, from + 32)).error(), 0);
    }
    assert_eq!(
        [bench.permit(&client, "8.8.8.200:1"), bench.permit(&client, "8.8.8.127:9"), bench.bind(&client, 0x4000, "9.9.9.9:1")],
        [508, 0, 508]
    );
    for number in 0..128 {
        if number % 64 == 0 {
            // A network has its share of questions in a second.
            bench.pass(SECOND);
        }
        assert_eq!(bench.bind(&client, 0x4000 + number, &format!("8.8.8.1:{}", number + 1)), 0);
    }
    assert_eq!(bench.bind(&client, 0x4100, "8.8.8.1:999"), 508);
}
