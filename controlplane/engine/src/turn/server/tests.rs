//! Each error and each time of the TURN server, in virtual time and without sockets.
use super::super::allocation::{CHANNEL_LIFE, CHANNEL_REST, PERMISSION_LIFE};
use super::super::credentials::{long_term_key, name, password};
use super::super::method;
use super::*;
use crate::stun::codec::{Integrity, Key, Writer, kind};
use crate::testing::instant;

mod errors;
mod flood;
mod limits;
mod payload;

const SECRET: &[u8] = b"a secret of both";
const UNIX: u64 = 1_800_000_000;

fn socket(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

/// A server, its clock and the sockets that it has opened.
struct Bench {
    server: Server,
    since: Duration,
    opened: Vec<SocketAddr>,
    may_open: bool,
    drawn: u32,
    id: u32,
}

/// Somebody who asks.
#[derive(Clone)]
struct Client {
    tuple: Tuple,
    name: String,
    nonce: String,
    integrity: Integrity,
}

/// An answer, taken apart.
#[derive(Debug)]
struct Answer {
    bytes: Vec<u8>,
}

impl Answer {
    fn message(&self) -> Message<'_> {
        Message::parse(&self.bytes).expect("a message")
    }

    /// Zero for success.
    fn error(&self) -> u16 {
        self.message().error()
    }

    fn lifetime(&self) -> Option<u32> {
        self.message().fixed(kind::LIFETIME).map(u32::from_be_bytes)
    }

    fn relayed(&self) -> Vec<SocketAddr> {
        self.message().addresses(kind::XOR_RELAYED_ADDRESS).flatten().collect()
    }

    fn nonce(&self) -> String {
        self.message().text(kind::NONCE).expect("a nonce").to_owned()
    }
}

fn client_at(text: &str, identity: &str) -> Client {
    let tuple = Tuple { client: socket(text), link: Link::Udp(0) };
    Client { tuple, name: name(identity, UNIX + 3600), nonce: String::new(), integrity: Integrity::Sha256 }
}

impl Client {
    fn key(&self) -> Key {
        long_term_key(&self.name, "adit", &password(&Secret::copy_of(SECRET), &self.name))
    }

    fn request(&self, method: u16, id: u32, fill: impl Fn(&mut Writer)) -> Vec<u8> {
        let mut transaction = [0; 12];
        transaction[..4].copy_from_slice(&id.to_be_bytes());
        let mut out = Writer::new(Class::Request, method, transaction);
        fill(&mut out);
        out.put(kind::USERNAME, self.name.as_bytes()).put(kind::REALM, b"adit").put(kind::NONCE, self.nonce.as_bytes());
        out.seal(self.integrity, &self.key());
        out.finish()
    }
}

impl Bench {
    fn new() -> Bench {
        Bench::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut Config)) -> Bench {
        let relayed = vec![socket("203.0.114.1:0").ip().into(), socket("[2606:4700::1]:0").ip().into()];
        let mut config = Config::new(Secret::copy_of(SECRET), relayed);
        change(&mut config);
        let server = Server::new(config, instant(), &mut |out: &mut [u8]| out.fill(3));
        Bench { server, since: Duration::ZERO, opened: Vec::new(), may_open: true, drawn: 0, id: 0 }
    }

    fn now(&self) -> Now {
        Now { at: instant() + self.since, unix: UNIX + self.since.as_secs() }
    }

    fn pass(&mut self, time: Duration) {
        self.since += time;
        self.server.handle_timeout(self.now().at);
        while let Some(Event::Closed(at)) = self.server.poll_event() {
            self.opened.retain(|open| *open != at);
        }
    }

    fn client_sends(&mut self, from: Tuple, train: Train<'_>) -> Vec<Transmit> {
        let (now, drawn, opened, may_open) = (self.now(), &mut self.drawn, &mut self.opened, self.may_open);
        let mut random = |out: &mut [u8]| {
            *drawn += 1;
            out.fill(0);
            let at = out.len() - 4;
            out[at..].copy_from_slice(&drawn.to_be_bytes());
        };
        let mut open = |at| {
            if may_open {
                opened.push(at);
            }
            may_open
        };
        self.server.handle_client(now, from, train, &mut Outside { random: &mut random, open: &mut open });
        std::iter::from_fn(|| self.server.poll_transmit()).collect()
    }

    fn peer_sends(&mut self, relayed: SocketAddr, peer: &str, train: Train<'_>) -> Vec<Transmit> {
        self.server.handle_peer(self.now(), relayed, socket(peer), train);
        std::iter::from_fn(|| self.server.poll_transmit()).collect()
    }

    fn send(&mut self, from: Tuple, bytes: &[u8]) -> Option<Answer> {
        let mut sent = self.client_sends(from, Train::one(bytes));
        assert!(sent.len() <= 1, "{sent:?}");
        let answer = sent.pop()?;
        assert_eq!((answer.from, answer.to), (Side::Client(from.link), from.client));
        Some(Answer { bytes: answer.bytes })
    }

    fn next_id(&mut self) -> u32 {
        self.id += 1;
        self.id
    }

    /// Asks with all that is needed, and checks that the answer is sealed.
    fn ask(&mut self, client: &Client, method: u16, fill: impl Fn(&mut Writer)) -> Answer {
        let request = client.request(method, self.next_id(), fill);
        let answer = self.send(client.tuple, &request).expect("an answer");
        if ![401, 438].contains(&answer.error()) {
            assert_eq!(answer.message().sealed_by(&client.key()), Some(client.integrity));
            assert!(answer.bytes.len() <= request.len(), "{} for {}", answer.bytes.len(), request.len());
        }
        answer
    }

    /// A client that has got a nonce.
    fn client(&mut self, text: &str, identity: &str) -> Client {
        let mut client = client_at(text, identity);
        self.renew(&mut client);
        client
    }

    /// The first question, filled up as ours are, so that the challenge is not the longer one.
    fn renew(&mut self, client: &mut Client) {
        let mut out = Writer::new(Class::Request, method::ALLOCATE, [0; 12]);
        put_transport(&mut out);
        out.fill_up_to(64);
        let challenge = self.send(client.tuple, &out.finish()).expect("a challenge");
        assert_eq!((challenge.error(), challenge.message().text(kind::REALM), challenge.bytes.len()), (401, Some("adit"), 56));
        client.nonce = challenge.nonce();
        self.since += Duration::from_secs(1);
    }

    fn allocate(&mut self, client: &Client) -> SocketAddr {
        let answer = self.ask(client, method::ALLOCATE, put_transport);
        assert_eq!((answer.error(), answer.message().address(kind::XOR_MAPPED_ADDRESS)), (0, Some(client.tuple.client)));
        answer.relayed()[0]
    }

    fn permit(&mut self, client: &Client, peer: &str) -> u16 {
        self.ask(client, method::CREATE_PERMISSION, |out| put_peer(out, peer)).error()
    }

    fn bind(&mut self, client: &Client, number: u16, peer: &str) -> u16 {
        let fill = |out: &mut Writer| {
            put_peer(out, peer);
            let [high, low] = number.to_be_bytes();
            out.put(kind::CHANNEL_NUMBER, &[high, low, 0, 0]);
        };
        self.ask(client, method::CHANNEL_BIND, fill).error()
    }

    fn refresh(&mut self, client: &Client, life: u32) -> Answer {
        self.ask(client, method::REFRESH, |out| {
            out.put(kind::LIFETIME, &life.to_be_bytes());
        })
    }

    fn count(&self, what: Count) -> u64 {
        self.server.counters().get(what)
    }
}

fn put_transport(out: &mut Writer) {
    out.put(kind::REQUESTED_TRANSPORT, &[17, 0, 0, 0]);
}

fn put_peer(out: &mut Writer, peer: &str) {
    out.put_address(kind::XOR_PEER_ADDRESS, socket(peer));
}

fn put_family(out: &mut Writer, kind: u16, number: u8) {
    out.put(kind, &[number, 0, 0, 0]);
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn an_allocation_lives_ten_minutes_unless_it_is_refreshed() {
    let mut bench = Bench::new();
    let mut client = bench.client("192.0.2.7:5000", "gw");
    bench.allocate(&client);
    assert_eq!(bench.server.poll_timeout(), Some(bench.now().at + Duration::from_secs(600)));
    bench.pass(Duration::from_secs(500));
    assert_eq!(bench.refresh(&client, 600).lifetime(), Some(600));
    bench.pass(Duration::from_secs(599));
    assert_eq!((bench.opened.len(), bench.server.allocations()), (1, 1));
    bench.pass(SECOND);
    assert_eq!((bench.opened.len(), bench.server.allocations(), bench.server.poll_timeout()), (0, 0, None));
    bench.renew(&mut client);
    assert_eq!(bench.refresh(&client, 600).error(), 437);
    assert_eq!((bench.count(Count::Made), bench.count(Count::Ended)), (1, 1));
}

#[test]
fn lifetimes_are_between_ten_minutes_and_an_hour_and_zero_ends() {
    let mut bench = Bench::new();
    let client = bench.client("192.0.2.7:5000", "gw");
    bench.allocate(&client);
    let lives = [1, 599, 601, 3600, 3601, u32::MAX].map(|life| bench.refresh(&client, life).lifetime());
    assert_eq!(lives, [600, 600, 601, 3600, 3600, 3600].map(Some));
    assert_eq!((bench.refresh(&client, 0).lifetime(), bench.server.allocations()), (Some(0), 0));
    assert_eq!(bench.server.poll_timeout(), None);
    bench.allocate(&client);
}

#[test]
fn both_families_are_lent_together_and_end_apart() {
    let mut bench = Bench::new();
    let client = bench.client("192.0.2.7:5000", "gw");
    let fill = |out: &mut Writer| {
        put_transport(out);
        put_family(out, kind::ADDITIONAL_ADDRESS_FAMILY, 2);
    };
    let answer = bench.ask(&client, method::ALLOCATE, fill);
    let relayed = answer.relayed();
    assert!(relayed.len() == 2 && relayed[0].is_ipv4() && relayed[1].is_ipv6(), "{relayed:?}");
    assert_eq!(bench.opened, relayed);
    assert_eq!((bench.permit(&client, "8.8.8.8:1"), bench.permit(&client, "[2606:4700::7]:1")), (0, 0));
    let end_v4 = |out: &mut Writer| {
        out.put(kind::LIFETIME, &[0; 4]);
        put_family(out, kind::REQUESTED_ADDRESS_FAMILY, 1);
    };
    assert_eq!(bench.ask(&client, method::REFRESH, end_v4).error(), 0);
    bench.pass(Duration::ZERO);
    assert_eq!((&bench.opened[..], bench.server.allocations()), (&relayed[1..], 1));
    assert_eq!(bench.ask(&client, method::REFRESH, end_v4).error(), 443);
    assert_eq!((bench.permit(&client, "8.8.8.8:1"), bench.permit(&client, "[2606:4700::8]:1")), (443, 0));
}

#[test]
fn the_one_family_is_lent_where_the_other_is_not_to_be_had() {
    let mut bench = Bench::with(|config| config.relayed.truncate(1));
    let client = bench.client("192.0.2.7:5000", "gw");
    let fill = |out: &mut Writer| {
        put_transport(out);
        put_family(out, kind::ADDITIONAL_ADDRESS_FAMILY, 2);
    };
    let answer = bench.ask(&client, method::ALLOCATE, fill);
    assert_eq!((answer.error(), answer.relayed().len()), (0, 1));
    assert_eq!(answer.message().fixed(kind::ADDRESS_ERROR_CODE), Some([2, 0, 4, 40]));
}

#[test]
fn a_repeated_allocate_is_answered_again() {
    let mut bench = Bench::new();
    let client = bench.client("192.0.2.7:5000", "gw");
    let request = client.request(method::ALLOCATE, 77, put_transport);
    let answers = [0, 1].map(|_| bench.send(client.tuple, &request).expect("an answer").relayed());
    assert_eq!((answers[0].len(), &answers[0], bench.opened.len()), (1, &answers[1], 1));
    assert_eq!(bench.ask(&client, method::ALLOCATE, put_transport).error(), 437);
}

#[test]
fn permissions_live_five_minutes_and_channels_ten() {
    let mut bench = Bench::new();
    let client = bench.client("192.0.2.7:5000", "gw");
    let relayed = bench.allocate(&client);
    bench.refresh(&client, 3600);
    assert_eq!((bench.permit(&client, "8.8.8.8:1"), bench.bind(&client, 0x4000, "9.9.9.9:53")), (0, 0));
    let arrives = |bench: &mut Bench, peer| bench.peer_sends(relayed, peer, Train::one(b"x")).len();
    bench.pass(PERMISSION_LIFE - SECOND);
    assert_eq!(
        [arrives(&mut bench, "8.8.8.8:7"), arrives(&mut bench, "9.9.9.9:53"), arrives(&mut bench, "1.1.1.1:1")],
        [1, 1, 0]
    );
    bench.pass(SECOND);
    assert_eq!([arrives(&mut bench, "8.8.8.8:7"), arrives(&mut bench, "9.9.9.9:53")], [0, 0]);
    // The channel is still there, and needs a permission.
    assert_eq!(bench.client_sends(client.tuple, Train::one(b"\x40\x00\0\x01x")).len(), 0);
    assert_eq!((bench.count(Count::NoPermission), bench.permit(&client, "9.9.9.9:1")), (4, 0));
    assert_eq!(bench.client_sends(client.tuple, Train::one(b"\x40\x00\0\x01x")).len(), 1);
    bench.pass(CHANNEL_LIFE - PERMISSION_LIFE);
    assert_eq!(bench.client_sends(client.tuple, Train::one(b"\x40\x00\0\x01x")).len(), 0);
    assert_eq!(bench.count(Count::NoChannel), 1);
}

#[test]
fn a_channel_leads_to_another_peer_only_after_a_rest() {
    let mut bench = Bench::with(|config| config.nonce_life = Duration::from_secs(10_000));
    let client = bench.client("192.0.2.7:5000", "gw");
    bench.allocate(&client);
    bench.refresh(&client, 3600);
    assert_eq!(bench.bind(&client, 0x4000, "8.8.8.8:1"), 0);
    assert_eq!([bench.bind(&client, 0x4000, "8.8.8.8:2"), bench.bind(&client, 0x4001, "8.8.8.8:1")], [400, 400]);
    bench.pass(CHANNEL_LIFE + CHANNEL_REST - SECOND);
    assert_eq!(bench.bind(&client, 0x4000, "8.8.8.8:2"), 400);
    bench.pass(SECOND);
    assert_eq!([bench.bind(&client, 0x4000, "8.8.8.8:2"), bench.bind(&client, 0x4000, "8.8.8.8:2")], [0, 0]);
}

#[test]
fn another_name_of_the_same_identity_carries_on() {
    let mut bench = Bench::new();
    let mut client = bench.client("192.0.2.7:5000", "gw");
    bench.allocate(&client);
    client.name = name("gw", UNIX + 7200);
    assert_eq!(bench.refresh(&client, 600).error(), 0);
}

#[test]
fn a_connection_that_ends_takes_its_allocation_along() {
    let mut bench = Bench::new();
    let mut client = client_at("192.0.2.7:5000", "gw");
    client.tuple.link = Link::Stream(9);
    // Over a stream a challenge may be the longer one, and there may be many.
    for _ in 0..10 {
        let mut out = Writer::new(Class::Request, method::ALLOCATE, [0; 12]);
        put_transport(&mut out);
        client.nonce = bench.send(client.tuple, &out.finish()).expect("a challenge").nonce();
    }
    let relayed = bench.allocate(&client);
    assert!(bench.server.has_allocation(client.tuple));
    assert_eq!(bench.permit(&client, "8.8.8.8:1"), 0);
    assert_eq!(
        bench.peer_sends(relayed, "8.8.8.8:1", Train::one(b"x")).first().map(|sent| sent.from),
        Some(Side::Client(Link::Stream(9)))
    );
    bench.server.handle_closed(client.tuple);
    bench.pass(Duration::ZERO);
    assert_eq!((bench.server.allocations(), bench.opened.len()), (0, 0));
}
