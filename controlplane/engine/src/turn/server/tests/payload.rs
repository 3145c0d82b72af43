//! Payload in both directions: trains, indications, channels, streams, and what ends on the way.
use super::*;

/// A client with an allocation and a channel to a peer.
fn with_channel() -> (Bench, Client, SocketAddr) {
    let mut bench = Bench::new();
    let client = bench.client("192.0.2.7:5000", "gw");
    let relayed = bench.allocate(&client);
    assert_eq!(bench.bind(&client, 0x4001, "8.8.8.8:4500"), 0);
    (bench, client, relayed)
}

fn channel_train(count: usize, len: usize, last: usize) -> Vec<u8> {
    let datagram = |len: usize, byte: u8| [&[0x40, 1], &(len as u16).to_be_bytes()[..], &vec![byte; len]].concat();
    (0..count).flat_map(|n| datagram(if n + 1 == count { last } else { len }, n as u8)).collect()
}

#[test]
fn a_train_of_channel_data_goes_on_as_one_train() {
    let (mut bench, client, relayed) = with_channel();
    let bytes = channel_train(40, 1000, 17);
    let sent = bench.client_sends(client.tuple, Train { bytes: &bytes, segment: 1004, ecn: 1 });
    let payload: Vec<u8> = (0..40).flat_map(|n| vec![n; if n == 39 { 17 } else { 1000 }]).collect();
    let whole = Transmit {
        from: Side::Relayed(relayed),
        to: socket("8.8.8.8:4500"),
        bytes: payload,
        segment: 1000,
        ecn: 1,
        whole: false,
    };
    assert_eq!(sent, [whole]);
    assert_eq!((bench.count(Count::ToPeers), bench.count(Count::ToPeersBytes)), (40, 39_017));
}

#[test]
fn a_train_from_a_peer_comes_as_one_train_of_channel_data() {
    let (mut bench, client, relayed) = with_channel();
    let payload: Vec<u8> = (0..40).flat_map(|n| vec![n; if n == 39 { 17 } else { 1000 }]).collect();
    let sent = bench.peer_sends(relayed, "8.8.8.8:4500", Train { bytes: &payload, segment: 1000, ecn: 3 });
    let (bytes, from) = (channel_train(40, 1000, 17), Side::Client(client.tuple.link));
    assert_eq!(sent, [Transmit { from, to: client.tuple.client, bytes, segment: 1004, ecn: 3, whole: false }]);
}

#[test]
fn a_train_that_grows_too_long_becomes_two() {
    let (mut bench, _, relayed) = with_channel();
    for (count, len, trains) in [(65, 1000, vec![64, 1]), (65, 100, vec![64, 1]), (44, 1488, vec![43, 1])] {
        let payload = vec![7; count * len];
        let sent = bench.peer_sends(relayed, "8.8.8.8:4500", Train { bytes: &payload, segment: len, ecn: 0 });
        let counts: Vec<usize> = sent.iter().map(|sent| sent.bytes.len() / (len + 4)).collect();
        assert_eq!(counts, trains);
        assert!(sent.iter().all(|sent| sent.bytes.len() <= 65_507));
    }
}

#[test]
fn what_differs_in_a_train_goes_apart_and_in_order() {
    let (mut bench, client, _) = with_channel();
    assert_eq!(bench.bind(&client, 0x4002, "9.9.9.9:1"), 0);
    let datagrams: [&[u8]; 7] = [
        b"\x40\x01\x00\x02ab",
        b"\x40\x01\x00\x02cd",
        b"\x40\x02\x00\x02ef",
        b"\x40\x01\x00\x01g\0",
        b"\x40\x01\x00\x02hi",
        b"\x40\x01\x00\x00jk",
        b"\x40\x03\x00\x02lm",
    ];
    let sent = bench.client_sends(client.tuple, Train { bytes: &datagrams.concat(), segment: 6, ecn: 0 });
    let shown: Vec<(u16, &[u8], usize)> = sent.iter().map(|sent| (sent.to.port(), &sent.bytes[..], sent.segment)).collect();
    let expected: [(u16, &[u8], usize); 5] =
        [(4500, b"abcd", 2), (1, b"ef", 0), (4500, b"g", 0), (4500, b"hi", 0), (4500, b"", 0)];
    assert_eq!((shown, bench.count(Count::NoChannel)), (expected.to_vec(), 1));
}

#[test]
fn indications_serve_peers_without_a_channel() {
    let (mut bench, client, relayed) = with_channel();
    let send = |peer: &str, whole: bool| {
        let mut out = Writer::new(Class::Indication, method::SEND, [1; 12]);
        put_peer(&mut out, peer);
        out.put(kind::DATA, b"hello");
        if whole {
            out.put(kind::DONT_FRAGMENT, b"");
        }
        out.finish()
    };
    for whole in [false, true] {
        let sent = bench.client_sends(client.tuple, Train::one(&send("8.8.8.8:99", whole)));
        let (from, to) = (Side::Relayed(relayed), socket("8.8.8.8:99"));
        assert_eq!(sent, [Transmit { from, to, bytes: b"hello".to_vec(), segment: 0, ecn: 0, whole }]);
    }
    for nowhere in ["9.9.9.9:99", "8.8.8.8:0"] {
        assert_eq!(bench.client_sends(client.tuple, Train::one(&send(nowhere, false))), [], "{nowhere}");
    }
    let sent = bench.peer_sends(relayed, "8.8.8.8:99", Train { bytes: b"onetwothr", segment: 3, ecn: 0 });
    let [sent] = &sent[..] else { panic!("{sent:?}") };
    assert_eq!((sent.bytes.len(), sent.segment), (3 * 40, 40));
    for (datagram, payload) in sent.bytes.chunks(40).zip([b"one", b"two", b"thr"]) {
        let message = Message::parse(datagram).expect("an indication");
        assert_eq!(
            (message.class, message.method, message.get(kind::DATA)),
            (Class::Indication, method::DATA, Some(&payload[..]))
        );
        assert_eq!(message.address(kind::XOR_PEER_ADDRESS), Some(socket("8.8.8.8:99")));
    }
}

#[test]
fn a_malformed_send_does_nothing() {
    let (mut bench, client, _) = with_channel();
    let fills: [&dyn Fn(&mut Writer); 3] = [
        &|out| put_peer(out, "8.8.8.8:9"),
        &|out| {
            out.put(kind::DATA, b"x");
        },
        &|out| {
            put_peer(out, "8.8.8.8:9");
            out.put(kind::DATA, b"x").put(0x7000, b"");
        },
    ];
    for fill in fills {
        let mut out = Writer::new(Class::Indication, method::SEND, [1; 12]);
        fill(&mut out);
        assert_eq!(bench.client_sends(client.tuple, Train::one(&out.finish())), []);
    }
    assert_eq!(bench.client_sends(client.tuple, Train::one(&Writer::new(Class::Success, method::REFRESH, [1; 12]).finish())), []);
    assert_eq!((bench.count(Count::Malformed), bench.count(Count::Foreign)), (3, 1));
}

#[test]
fn over_a_stream_channel_data_is_padded() {
    let mut bench = Bench::new();
    let mut client = client_at("192.0.2.7:5000", "gw");
    client.tuple.link = Link::Stream(4);
    bench.renew(&mut client);
    let relayed = bench.allocate(&client);
    assert_eq!(bench.bind(&client, 0x4001, "8.8.8.8:4500"), 0);
    let sent = bench.peer_sends(relayed, "8.8.8.8:4500", Train { bytes: b"abcdef", segment: 5, ecn: 0 });
    let bytes: Vec<&[u8]> = sent.iter().map(|sent| &sent.bytes[..]).collect();
    assert_eq!(bytes, [b"\x40\x01\x00\x05abcde\0\0\0\x40\x01\x00\x01f\0\0\0"]);
}

#[test]
fn an_empty_datagram_passes_both_ways() {
    let (mut bench, client, relayed) = with_channel();
    let sent = bench.client_sends(client.tuple, Train::one(b"\x40\x01\x00\x00"));
    assert_eq!(sent.iter().map(|sent| sent.bytes.len()).collect::<Vec<_>>(), [0]);
    let sent = bench.peer_sends(relayed, "8.8.8.8:4500", Train::one(b""));
    assert_eq!(sent.iter().map(|sent| &sent.bytes[..]).collect::<Vec<_>>(), [b"\x40\x01\x00\x00"]);
}

#[test]
fn behind_a_nat_one_to_one_clients_meet_at_the_outer_address() {
    let (inner, outer) = (socket("10.0.0.5:0").ip(), socket("203.0.114.9:0").ip());
    let mut bench =
        Bench::with(|config| *config = Config::new(Secret::copy_of(SECRET), vec![Lent { bind: inner, shown: outer }]));
    let (a, b) = (bench.client("192.0.2.7:5000", "a"), bench.client("192.0.2.8:5000", "b"));
    let (at_a, at_b) = (bench.allocate(&a), bench.allocate(&b));
    let within = |at: SocketAddr| SocketAddr::new(inner, at.port());
    assert_eq!((at_a.ip(), bench.opened.clone()), (outer, vec![within(at_a), within(at_b)]));
    assert_eq!((bench.bind(&a, 0x4000, &at_b.to_string()), bench.permit(&b, &at_a.to_string())), (0, 0));
    // No packet of theirs has to come back through the NAT.
    let sent = bench.client_sends(a.tuple, Train::one(b"\x40\x00\x00\x01x"));
    assert_eq!(sent.iter().map(|sent| (sent.from, sent.to)).collect::<Vec<_>>(), [(Side::Relayed(within(at_a)), within(at_b))]);
    let got = bench.peer_sends(within(at_b), &within(at_a).to_string(), Train::one(b"x"));
    let shown = got.first().and_then(|got| Message::parse(&got.bytes).ok()?.address(kind::XOR_PEER_ADDRESS));
    assert_eq!(shown, Some(at_a));
    // Whatever else listens there is not reached, by neither address.
    for (number, own) in [(1, "203.0.114.9:22"), (2, "10.0.0.5:22")] {
        assert_eq!(bench.bind(&a, 0x4000 + number, own), 0);
        let sent = bench.client_sends(a.tuple, Train::one(&[0x40, number as u8, 0, 1, 7]));
        assert_eq!((sent, bench.count(Count::Forbidden)), (vec![], number.into()), "{own}");
    }
}

#[test]
fn two_clients_of_one_server_meet_and_its_other_ports_stay_closed() {
    let mut bench = Bench::new();
    let (a, b) = (bench.client("192.0.2.7:5000", "a"), bench.client("192.0.2.8:5000", "b"));
    let (at_a, at_b) = (bench.allocate(&a), bench.allocate(&b));
    assert_eq!(bench.bind(&a, 0x4000, &at_b.to_string()), 0);
    assert_eq!(bench.permit(&b, &at_a.to_string()), 0);
    let sent = bench.client_sends(a.tuple, Train::one(b"\x40\x00\x00\x01x"));
    assert_eq!(sent.iter().map(|sent| (sent.from, sent.to)).collect::<Vec<_>>(), [(Side::Relayed(at_a), at_b)]);
    assert_eq!(bench.peer_sends(at_b, &at_a.to_string(), Train::one(b"x")).len(), 1);
    assert_eq!(bench.bind(&a, 0x4001, "203.0.114.1:22"), 0);
    assert_eq!((bench.client_sends(a.tuple, Train::one(b"\x40\x01\x00\x01x")), bench.count(Count::Forbidden)), (vec![], 1));
}

#[test]
fn what_belongs_to_nobody_is_counted() {
    let (mut bench, client, relayed) = with_channel();
    let nobody = Tuple { client: socket("192.0.2.9:1"), link: Link::Udp(0) };
    assert_eq!(bench.client_sends(nobody, Train::one(b"\x40\x01\x00\x01x")), []);
    // Another socket of ours is another 5-tuple.
    let elsewhere = Tuple { link: Link::Udp(1), ..client.tuple };
    assert_eq!(bench.client_sends(elsewhere, Train::one(b"\x40\x01\x00\x01x")), []);
    assert_eq!(bench.peer_sends(socket("203.0.114.1:1"), "8.8.8.8:4500", Train::one(b"x")), []);
    assert_eq!(bench.count(Count::NoAllocation), 3);
    assert_eq!(bench.client_sends(client.tuple, Train::one(b"\x40\x01\x00\x09short")), []);
    assert_eq!(bench.client_sends(client.tuple, Train::one(b"")), []);
    assert_eq!(bench.count(Count::Malformed), 2);
    assert_eq!(bench.peer_sends(relayed, "8.8.8.8:4500", Train::one(&vec![0; 65_504])), []);
    assert_eq!(bench.count(Count::TooLong), 1);
}
