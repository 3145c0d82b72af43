//! What strangers get: whatever a datagram says, and from wherever it claims to come, no more goes back than came. Who has shown with a cookie
//! that it receives there is no stranger.

use std::net::SocketAddr;
use std::time::Duration;

use adit_engine::crypto::KeyExchangeMethod;
use adit_engine::ike::{IkeProposal, PeerConfig, PeerId};
use adit_engine::path::{Arrival, IKE_PORT};
use adit_proto::ike::{ExchangeType, Flags, Header, IkeSpi, Message, Notify, NotifyType, Payload, PayloadType};
use adit_proto::suite::Suite;

use adit_sim::certificates::Authority;
use adit_sim::*;

use super::rogue::{Rogue, after_init, has_auth};

/// A gateway to which peers of all kinds may come: their certificate requests make its answers as long as they get.
fn gateway() -> World {
    let mut world = World::new(1);
    world.add("192.0.2.1:4500", endpoint_config(1));
    world.add("192.0.2.2:4500", endpoint_config(2));
    world.set_peer(B, PEER, PeerConfig { initiate: false, remotes: Vec::new(), proposals: vec![hybrid(), classic()], ..peer(B) });
    for n in 0..4 {
        let authority = Authority::new(&format!("CA {n}"));
        let remote_id = format!("c{n}.example.org").parse().expect("an identity");
        let config = PeerConfig { initiate: false, remotes: Vec::new(), remote_id, remote_auth: authority.trusted(), ..peer(B) };
        world.set_peer(B, PeerId(20 + n), config);
    }
    world
}

/// The first message of a gateway with these proposals, without its marker.
fn request(proposals: Vec<IkeProposal>) -> Message {
    let mut world = pair(1, |_, config| (config.initiate, config.proposals) = (false, proposals.clone()));
    world.act(A, |endpoint, now| endpoint.connect(now, PEER)).expect("it has an address");
    Message::decode(&world.log[0].2[4..]).expect("a request")
}

/// As short as a request can be that is agreed to.
fn shortest() -> Message {
    let one = IkeProposal { suites: vec![Suite::Aes128Gcm], prfs: vec![adit_engine::crypto::Prf::HmacSha256], ..classic() };
    let mut message = request(vec![IkeProposal { key_exchanges: vec![KeyExchangeMethod::X25519], ..one }]);
    message.payloads.retain(|payload| matches!(payload, Payload::Sa(_) | Payload::Ke { .. } | Payload::Nonce(_)));
    message.payloads.iter_mut().for_each(|payload| {
        if let Payload::Nonce(nonce) = payload {
            nonce.truncate(16);
        }
    });
    message
}

fn only(method: KeyExchangeMethod) -> IkeProposal {
    IkeProposal { key_exchanges: vec![method, KeyExchangeMethod::X25519], ..classic() }
}

fn with_cookie(mut message: Message, cookie: Vec<u8>) -> Message {
    message.payloads.insert(0, Notify::new(NotifyType::COOKIE).with_data(cookie).into());
    message
}

fn bytes(message: Message) -> Vec<u8> {
    message.encode().expect("a message")
}

/// A message for an IKE SA that there is not, with something sealed in it.
fn of_no_sa(exchange: ExchangeType, flags: Flags, sealed: usize) -> Vec<u8> {
    let header = Header::new(IkeSpi(0x11), IkeSpi(0x22), exchange, flags, 1);
    let body = Payload::Sk { first: PayloadType::NONE, body: vec![7; sealed] };
    bytes(Message { header, payloads: vec![body] })
}

/// A message of another version; it says how long it is.
fn of_version(version: u8, mut message: Vec<u8>) -> Vec<u8> {
    message[17] = version << 4;
    message
}

fn cut(message: &[u8], len: usize) -> Vec<u8> {
    let mut message = message[..len].to_vec();
    message[24..28].copy_from_slice(&u32::try_from(len).expect("short").to_be_bytes());
    message
}

/// Every kind of message that somebody can send whom nobody knows, and whether there is an answer to it.
fn kinds() -> Vec<(String, Vec<u8>, bool)> {
    let of_initiator = Flags { initiator: true, response: false, version: false };
    let chacha = IkeProposal { suites: vec![Suite::ChaCha20Poly1305], ..classic() };
    let classic = bytes(request(vec![classic()]));
    let mut critical = cut(&classic, 28);
    critical[16] = 200;
    critical.extend([0, 0x80, 0, 40]);
    critical.resize(68, 0);
    let critical = cut(&critical, 68);
    let named = |name: &str, message: Vec<u8>, answered| (name.to_owned(), message, answered);
    let mut kinds = vec![
        named("a request", classic.clone(), true),
        named("a request with ML-KEM", bytes(request(vec![hybrid()])), true),
        named("the shortest request", bytes(shortest()), true),
        named("a request with somebody's cookie", bytes(with_cookie(shortest(), vec![1; 33])), true),
        named("another key exchange", bytes(request(vec![only(KeyExchangeMethod::EcpP384)])), true),
        named("nothing in common", bytes(request(vec![chacha])), true),
        named("an unknown payload that is critical", critical, true),
        named("a header alone", cut(&classic, 28), false),
        named("version 3, a header alone", of_version(3, cut(&classic, 28)), false),
        named("version 15 with something in it", of_version(15, classic.clone()), true),
        named("version 1", of_version(1, classic.clone()), false),
        named("of no IKE SA, a liveness check", of_no_sa(ExchangeType::INFORMATIONAL, of_initiator, 25), true),
    ];
    for exchange in
        [ExchangeType::IKE_SA_INIT, ExchangeType::IKE_AUTH, ExchangeType::CREATE_CHILD_SA, ExchangeType::INFORMATIONAL]
    {
        for (flags, answered) in [(0x08, true), (0x00, true), (0x28, false), (0x20, false)] {
            let flags = Flags { initiator: flags & 8 != 0, response: flags & 0x20 != 0, version: false };
            let answered = answered && exchange != ExchangeType::IKE_SA_INIT;
            kinds.push((format!("of no IKE SA, {exchange} {flags:?}"), of_no_sa(exchange, flags, 300), answered));
        }
    }
    kinds
}

/// Sends a message from somewhere to a port of ours; gives the bytes that were sent, and those that come back.
fn ask(world: &mut World, from: SocketAddr, port: u16, message: &[u8]) -> (usize, usize) {
    let datagram = if port == IKE_PORT { message.to_vec() } else { [&[0; 4], message].concat() };
    let local = SocketAddr::new("192.0.2.2".parse().expect("an address"), port);
    let said = world.act(B, |endpoint, now| {
        endpoint.handle_message(now, Arrival::new(local, from), &datagram);
        let answers = std::iter::from_fn(|| endpoint.poll_transmit()).inspect(|answer| assert_eq!(answer.hop.remote(), from));
        answers.map(|answer| answer.payload.len()).sum()
    });
    (datagram.len(), said)
}

fn stranger(n: u8) -> SocketAddr {
    SocketAddr::new([198, 51, 100, n].into(), 4500)
}

#[test]
fn no_answer_to_a_stranger_is_longer_than_its_question() {
    for (kind, message, answered) in kinds() {
        for port in [4500, IKE_PORT] {
            let mut world = gateway();
            let mut answers = 0;
            let mut check = |world: &mut World, from, message: &[u8]| {
                let (asked, said) = ask(world, from, port, message);
                assert!(said <= asked, "{kind}, {} bytes to port {port}: {said} bytes for {asked}", message.len());
                answers += usize::from(said > 0);
            };
            // Alone; again and again from one address; the same from many.
            (0..40).for_each(|_| check(&mut world, stranger(1), &message));
            (0..100).for_each(|n| check(&mut world, stranger(n), &message));
            world.run_for(Duration::from_secs(2));
            // Cut at every length, from an address of which there are too many already and from another.
            for len in (28..message.len()).step_by(if message.len() > 300 { 7 } else { 1 }) {
                check(&mut world, stranger(1), &cut(&message, len));
                check(&mut world, stranger(200), &cut(&message, len));
            }
            assert_eq!(answers > 0, answered, "{kind} to port {port}: {:?}", world.nodes[B].endpoint.counters());
            let sent = world.log.len();
            world.run_for(Duration::from_secs(120));
            assert_eq!(world.log.len(), sent, "{kind}: nothing comes by itself");
        }
    }
}

#[test]
fn a_request_shorter_than_its_answer_waits_behind_a_cookie() {
    let mut world = gateway();
    let (message, from) = (shortest(), stranger(1));
    let local = SocketAddr::new("192.0.2.2".parse().expect("an address"), 4500);
    let answers = |world: &mut World, message: &[u8], from| {
        let datagram = [&[0; 4], message].concat();
        world.act(B, |endpoint, now| {
            endpoint.handle_message(now, Arrival::new(local, from), &datagram);
            std::iter::from_fn(|| endpoint.poll_transmit()).collect::<Vec<_>>()
        })
    };
    let first = answers(&mut world, &bytes(message.clone()), from);
    let reported = Message::decode(&first[0].payload[4..]).expect("an answer");
    let [Payload::Notify(cookie)] = &reported.payloads[..] else { panic!("{reported:?}") };
    assert_eq!((cookie.kind, world.nodes[B].endpoint.half_open()), (NotifyType::COOKIE, 0));
    let proven = bytes(with_cookie(message, cookie.data.clone()));
    let agreed = answers(&mut world, &proven, from);
    assert!(agreed[0].payload.len() > proven.len(), "who receives there gets all of it");
    assert_eq!(world.nodes[B].endpoint.half_open(), 1);
    // Again to the one that asked, a few times; to nobody else.
    let again = (0..1000).filter(|_| answers(&mut world, &proven, from) == agreed).count();
    assert!((3..=16).contains(&again), "{again} times");
    for n in 2..200 {
        let other = answers(&mut world, &proven, stranger(n));
        assert!(other.iter().all(|answer| answer.payload.len() <= proven.len() + 4), "from elsewhere");
    }
    assert_eq!(world.nodes[B].endpoint.half_open(), 1);
    assert!(world.nodes[B].endpoint.counters().dropped_repeat > 900);
}

#[test]
fn what_was_recorded_of_a_peer_is_no_way_to_reach_others() {
    let mut world = pair(3, |_, config| (config.proposals, config.mobike) = (vec![hybrid()], true));
    world.connect_pair();
    let recorded: Vec<Vec<u8>> =
        world.log.iter().filter(|one| one.0.ip() == world.nodes[A].address.ip()).map(|one| one.2.clone()).collect();
    assert!(recorded.len() > 3);
    let (mut asked, mut said, mut answers) = (0, 0, 0);
    for round in 0..100u8 {
        for message in &recorded {
            let (question, answer) = ask(&mut world, stranger(round), 4500, &message[4..]);
            assert!(answer <= question, "{answer} bytes for {question}");
            (asked, said, answers) = (asked + question, said + answer, answers + usize::from(answer > 0 && message[22] != 34));
        }
    }
    assert!(said <= asked && said > 0, "{said} of {asked}");
    // Only to the last request, and from all places together no more often than a peer needs that has moved.
    assert!((1..=8).contains(&answers), "{answers} times");
    world.check_traffic();
    let before = world.ike(A).spis;
    world.act(A, |endpoint, now| endpoint.rekey_ike(now, PEER)).expect("it is connected");
    world.run_for(Duration::from_secs(20));
    assert_ne!(world.ike(A).spis, before, "the peer is heard as before");
    world.check_traffic();
}

#[test]
fn gateways_need_no_cookie_of_each_other_however_little_they_offer() {
    let authorities = ["CA one", "CA two"].map(Authority::new);
    for certified in [false, true] {
        let prfs = vec![adit_engine::crypto::Prf::HmacSha384];
        let least =
            IkeProposal { suites: vec![Suite::Aes256Gcm], prfs, key_exchanges: vec![KeyExchangeMethod::X25519], ..classic() };
        for proposals in [vec![least], vec![classic()], vec![hybrid()], vec![hybrid(), classic()]] {
            let mut world = pair(4, |node, config| {
                config.proposals = proposals.clone();
                if certified {
                    config.local_auth = authorities[node].issue(["a.example.org", "b.example.org"][node], 2040);
                    config.remote_auth = authorities[1 - node].trusted();
                }
            });
            world.connect_pair();
            let inits = world.messages().into_iter().filter(|message| message == "IKE_SA_INIT request 0").count();
            let lengths: Vec<usize> = world.log.iter().take(2).map(|(_, _, payload)| payload.len()).collect();
            // The answer asks for certificates, and says more.
            assert!(inits == 1, "{inits}: certificates {certified}, {proposals:?}: {lengths:?}");
            assert!(lengths[0] >= lengths[1], "{lengths:?}");
        }
    }
}

/// Where somebody is who has sent nothing.
const VICTIM: &str = "203.0.113.9:4500";

/// How far somebody has come from his own address, before he says that he is elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// IKE_SA_INIT is over, and ML-KEM agreed on.
    Begun,
    /// Nothing but IKE_AUTH is left.
    Keyed,
    /// He is let in.
    Established { mobike: bool },
}

/// What he says then, as if from there: a name, and datagrams.
type Kind = (&'static str, fn(&mut Rogue) -> Vec<Vec<u8>>);

const LONG: usize = 20;

fn more(_: &Rogue) -> Vec<Payload> {
    let exchange = adit_engine::crypto::KeyExchange::start(KeyExchangeMethod::MlKem768).expect("a key");
    vec![Payload::Ke { method: KeyExchangeMethod::MlKem768.id(), data: exchange.public().to_vec() }]
}

fn whole(rogue: &mut Rogue, kind: ExchangeType, payloads: &[Payload]) -> Vec<Vec<u8>> {
    vec![rogue.seal(kind, rogue.next_id, payloads)]
}

fn authentication(rogue: &Rogue) -> Vec<Payload> {
    rogue.authentication(None, &[])
}

fn update() -> Vec<Payload> {
    let cookie = Notify::new(NotifyType::COOKIE2).with_data(vec![7; 64]).into();
    vec![Notify::new(NotifyType::UPDATE_SA_ADDRESSES).into(), cookie]
}

const BEGUN: [Kind; 4] = [
    ("IKE_INTERMEDIATE", |rogue| {
        let payloads = more(rogue);
        whole(rogue, ExchangeType::IKE_INTERMEDIATE, &payloads)
    }),
    ("IKE_INTERMEDIATE, a short fragment first", |rogue| {
        let payloads = more(rogue);
        rogue.seal_cut(ExchangeType::IKE_INTERMEDIATE, rogue.next_id, &payloads, 1)
    }),
    ("IKE_AUTH too early", |rogue| whole(rogue, ExchangeType::IKE_AUTH, &[])),
    ("IKE_AUTH too early, in fragments", |rogue| {
        rogue.seal_cut(ExchangeType::IKE_AUTH, rogue.next_id, &[Payload::Vendor(vec![1; 900])], 1)
    }),
];

const KEYED: [Kind; 4] = [
    ("IKE_AUTH with nothing in it", |rogue| whole(rogue, ExchangeType::IKE_AUTH, &[])),
    ("IKE_AUTH with a wrong proof", |rogue| {
        rogue.secret = "the secret of nobody at all";
        let payloads = authentication(rogue);
        whole(rogue, ExchangeType::IKE_AUTH, &payloads)
    }),
    ("IKE_AUTH", |rogue| {
        let payloads = authentication(rogue);
        whole(rogue, ExchangeType::IKE_AUTH, &payloads)
    }),
    ("IKE_AUTH, a short fragment first", |rogue| {
        let payloads = authentication(rogue);
        rogue.seal_cut(ExchangeType::IKE_AUTH, rogue.next_id, &payloads, 1)
    }),
];

const ESTABLISHED: [Kind; 6] = [
    ("a liveness check", |rogue| whole(rogue, ExchangeType::INFORMATIONAL, &[])),
    ("UPDATE_SA_ADDRESSES", |rogue| whole(rogue, ExchangeType::INFORMATIONAL, &update())),
    ("UPDATE_SA_ADDRESSES, a short fragment first", |rogue| {
        rogue.seal_cut(ExchangeType::INFORMATIONAL, rogue.next_id, &update(), 1)
    }),
    ("CREATE_CHILD_SA that cannot be read", |rogue| whole(rogue, ExchangeType::CREATE_CHILD_SA, &[])),
    ("IKE_AUTH once more", |rogue| whole(rogue, ExchangeType::IKE_AUTH, &[])),
    ("the end", |rogue| whole(rogue, ExchangeType::INFORMATIONAL, &[adit_proto::ike::Delete::ike().into()])),
];

/// Somebody who has come so far with B, which proves itself with a certificate.
fn begin(stage: Stage) -> (World, Rogue) {
    let (authority, mobike) = (Authority::new("Root"), stage == Stage::Established { mobike: true });
    let (mut world, mut rogue) = after_init(5, |node, config| {
        config.mobike = mobike;
        if node == B {
            config.local_auth = authority.issue("b.example.org", 2040);
        }
    });
    if stage != Stage::Begun {
        assert!(rogue.exchange_more(&mut world, KeyExchangeMethod::MlKem768));
    }
    if let Stage::Established { mobike } = stage {
        let also = [NotifyType::MOBIKE_SUPPORTED];
        let answer = rogue.authenticate_with(&mut world, if mobike { &also } else { &[] });
        assert!(answer.is_some_and(|answer| has_auth(&answer)) && world.is_up(B, PEER));
    }
    (world, rogue)
}

#[test]
fn who_says_that_he_is_elsewhere_lets_no_more_go_there_than_he_sends() {
    let (victim, b) = (VICTIM.parse::<SocketAddr>().expect("an address"), peer(B).local.expect("an address"));
    let established = [false, true].map(|mobike| (Stage::Established { mobike }, &ESTABLISHED[..]));
    for (stage, kinds) in [(Stage::Begun, &BEGUN[..]), (Stage::Keyed, &KEYED[..])].into_iter().chain(established) {
        for (name, kind) in kinds {
            let (mut world, mut rogue) = begin(stage);
            let (mut sent, before, datagrams) = (0, world.log.len(), kind(&mut rogue));
            let mut say = |world: &mut World, datagram: &Vec<u8>, time: Duration| {
                sent += datagram.len() + 28;
                world.inject(victim, b, datagram.clone());
                world.run_for(time);
                let there = world.log[before..].iter().filter(|(_, to, _)| *to == victim);
                let said: usize = there.map(|(.., answer)| answer.len() + 28).sum();
                assert!(said <= sent, "{stage:?}, {name}: {said} bytes for {sent}");
                said
            };
            for datagram in &datagrams {
                say(&mut world, datagram, Duration::from_millis(20));
            }
            // Again, the shortest one most of all, at once and later.
            for (round, datagram) in
                datagrams.iter().cycle().take(LONG).chain(std::iter::repeat_n(&datagrams[0], LONG)).enumerate()
            {
                say(&mut world, datagram, Duration::from_millis(if round % 3 == 0 { 700 } else { 20 }));
            }
            let said = say(&mut world, &datagrams[0], Duration::from_secs(120));
            assert!(said > 0, "{stage:?}, {name}: that he is answered is what is measured here");
        }
    }
}

#[test]
fn who_goes_on_elsewhere_is_let_in_where_he_began() {
    // As if a NAT had given him another address with another port, or in somebody else's name.
    let (victim, b) = (VICTIM.parse::<SocketAddr>().expect("an address"), peer(B).local.expect("an address"));
    let (mut world, mut rogue) = begin(Stage::Keyed);
    let message = rogue.authentication(None, &[]);
    let message = rogue.seal(ExchangeType::IKE_AUTH, rogue.next_id, &message);
    world.inject(victim, b, message.clone());
    world.run_for(Duration::from_secs(5));
    let home = peer(A).local.expect("an address");
    assert_eq!((world.is_up(B, PEER), world.ike(B).hop.remote().address()), (true, Some(home)));
    // Asked again from there, it answers there, as long as it may be.
    let before = world.log.len();
    world.inject(home, b, message);
    world.run_for(Duration::from_millis(20));
    let answered = |(from, to, _): &(SocketAddr, SocketAddr, Vec<u8>)| (*from, *to) == (b, home);
    assert!(world.log[before..].iter().any(answered));
}
