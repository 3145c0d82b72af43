//! A hundred thousand questions under false addresses: no network gets more bytes than were sent in its name, and nothing is kept.
use super::*;

#[test]
fn a_flood_gets_no_more_bytes_out_than_it_puts_in() {
    let mut bench = Bench::new();
    let (mut sent, mut received) = ([0_usize; 256], [0_usize; 256]);
    let (with_name, nonce) = (client_at("192.0.2.7:1", "gw"), "AAAAAAAAAAAAAAAA".to_owned());
    let forged = Client { name: "9999999999:gw".to_owned(), nonce, ..with_name };
    let mut forged = forged.request(method::ALLOCATE, 1, put_transport);
    let at = forged.len() - 1;
    forged[at] ^= 1;
    for number in 0..100_000_u32 {
        let network = (number.wrapping_mul(2_654_435_761) >> 24) as u8;
        let client = SocketAddr::from(([198, 51, network, number as u8], 5000));
        let tuple = Tuple { client, link: Link::Udp(0) };
        let mut out = Writer::new(Class::Request, [method::ALLOCATE, method::REFRESH, 1][number as usize % 3], [5; 12]);
        put_transport(&mut out);
        out.fill_up_to((number % 160) as usize / 4 * 4);
        let bytes = if number % 5 == 0 { forged.clone() } else { out.finish() };
        bench.since = Duration::from_micros(u64::from(number) * 50);
        let answer = bench.send(tuple, &bytes);
        sent[usize::from(network)] += bytes.len();
        received[usize::from(network)] += answer.map_or(0, |answer| answer.bytes.len());
    }
    for (network, (sent, received)) in sent.into_iter().zip(received).enumerate() {
        assert!((1..=sent).contains(&received), "{network}: {received} of {sent}");
    }
    let server = &bench.server;
    assert_eq!((server.allocations(), server.allocations.len(), server.by_identity.len(), server.deadlines.len()), (0, 0, 0, 0));
    assert_eq!((server.transmits.len(), server.transmits.capacity() <= 64, server.events.len()), (0, true, 0));
    assert!(bench.count(Count::Often) > 50_000, "{}", bench.count(Count::Often));
}

#[test]
fn places_of_allocations_are_used_again() {
    let mut bench = Bench::with(|config| config.nonce_life = Duration::from_secs(100_000));
    let client = bench.client("192.0.2.7:5000", "gw");
    for _ in 0..1000 {
        bench.allocate(&client);
        bench.refresh(&client, 0);
        // A network has its share of questions in a second.
        bench.since += Duration::from_millis(10);
    }
    let server = &bench.server;
    assert_eq!((server.allocations.len(), server.free.len(), server.by_relayed.len(), server.by_identity.len()), (1, 1, 0, 0));
}
