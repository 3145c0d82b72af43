//! A peer with good keys that answers something else than it was asked for: nothing comes of that, it hurts itself alone, and
//! once it answers as it should there is what was asked for.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use adit_engine::crypto::IkeAead;
use adit_engine::crypto::aead;
use adit_engine::ike::{Cause, EndpointConfig, Error, Event, KeyLog, Misbehaviour, PeerConfig};
use adit_proto::control::Spi;
use adit_proto::ike::encrypted::{self, Sealed, Unsealed};
use adit_proto::ike::{
    ExchangeType, Header, IpSelector, Message, Payload, TrafficSelector, TsType, decode_payloads, encode_payloads,
};

use super::rogue::framed;
use super::shares::{GATEWAY, gateway, honest_goes_on, inbound_of};
use adit_sim::*;

/// Waits for the next answer of a gateway in this exchange, which is lost, and sends another one in its place, with the keys of
/// that gateway. `change` says what is in it. But for IKE_SA_INIT the gateway has to tell its keys.
pub fn answers_otherwise(world: &mut World, node: usize, exchange: ExchangeType, change: impl FnOnce(&mut Vec<Payload>)) {
    let (from, to, answer) = catch_answer(world, node, exchange);
    let message = match Sealed::parse(&answer).expect("a message") {
        Some(sealed) => sealed_anew(world, node, &sealed, change),
        None => {
            let mut message = Message::decode(&answer).expect("a message");
            change(&mut message.payloads);
            message.encode().expect("a message")
        }
    };
    world.inject(from, to, framed(&message));
}

fn catch_answer(world: &mut World, node: usize, exchange: ExchangeType) -> (SocketAddr, SocketAddr, Vec<u8>) {
    let (caught, own) = (Rc::new(RefCell::new(None)), world.nodes[node].address);
    let seen = caught.clone();
    world.filter = Some(Box::new(move |from, to, payload| {
        let header = Header::decode(&payload[4..]).expect("a message");
        let is_it = from == own && header.exchange == exchange && header.flags.response;
        if is_it {
            *seen.borrow_mut() = Some((from, to, payload[4..].to_vec()));
        }
        !is_it
    }));
    assert!(world.run_until(Duration::from_secs(60), |_| caught.borrow().is_some()), "no answer in {exchange}");
    world.filter = None;
    caught.take().expect("it was caught")
}

fn sealed_anew(world: &World, node: usize, sealed: &Sealed, change: impl FnOnce(&mut Vec<Payload>)) -> Vec<u8> {
    assert!(sealed.fragment().is_none(), "it is whole");
    let mut key = key(world, node, sealed.header());
    let (body, tag) = sealed.ciphertext_and_tag().split_last_chunk().expect("a tag");
    let mut inner = body.to_vec();
    key.open(sealed.aad(), aead::Sealed { iv: sealed.iv(), tag: *tag }, &mut inner).expect("its key");
    let inner = encrypted::strip_padding(&inner).expect("padding");
    let mut payloads = decode_payloads(sealed.first(), inner).expect("payloads");
    change(&mut payloads);
    let (first, inner) = encode_payloads(&payloads).expect("payloads");
    let unsealed = Unsealed::sk(sealed.header(), first, &inner, key.next_iv()).expect("a message");
    unsealed.seal(|aad: &[u8], _, plain: &mut [u8]| key.seal(aad, plain).map(|sealed| sealed.tag)).expect("a message")
}

/// By which a gateway seals what it says in an IKE SA.
fn key(world: &World, node: usize, header: &Header) -> IkeAead {
    let told = world.nodes[node].events.iter().find_map(|event| match event {
        Event::KeyLog(log) => match &**log {
            KeyLog::Ike { spis, suite, initiator, responder }
                if (spis.initiator, spis.responder) == (header.initiator_spi, header.responder_spi) =>
            {
                let key = if header.flags.initiator { initiator } else { responder };
                Some(IkeAead::new(*suite, key, 1 << 32).expect("a key"))
            }
            KeyLog::Ike { .. } | KeyLog::Esp { .. } => None,
        },
        _ => None,
    });
    told.expect("the keys are told")
}

/// The peer whose answers are others than it means.
const LIAR: usize = 2;

/// A gateway with an honest peer that is connected, and another peer; which of these two begins.
fn scene(seed: u64, begins: usize) -> World {
    let at: SocketAddr = "198.51.100.1:4500".parse().expect("an address");
    let mut world = gateway(seed, |config| config.remotes = vec![at]);
    let liar = world.add(&at.to_string(), EndpointConfig { key_log: true, ..endpoint_config(7) });
    assert_eq!(liar, LIAR);
    world.set_peer(LIAR, PEER, PeerConfig { initiate: false, local: Some(at), ..peer(A) });
    world.act(begins, |endpoint, now| endpoint.connect(now, PEER)).expect("it has an address");
    world
}

/// What is said of the gateway's side and of the peer's.
type Sides = [Vec<TrafficSelector>; 2];

fn sides(ours: &[&str], theirs: &[&str]) -> Sides {
    [ours, theirs].map(|side| side.iter().map(|text| net(text).into()).collect())
}

/// More than is configured, which is 10.2.0.0/16 and 10.1.0.0/16: the honest peer has 10.3.0.0/16.
fn wider() -> Vec<(&'static str, Sides)> {
    let unknown = TrafficSelector::Other { kind: TsType(200), protocol: 0, body: vec![1; 12] };
    let [ours, _] = sides(&["10.2.0.0/16"], &[]);
    vec![
        ("all there is", sides(&["0.0.0.0/0"], &["0.0.0.0/0"])),
        ("all on its side", sides(&["10.2.0.0/16"], &["0.0.0.0/0"])),
        ("another peer's network", sides(&["10.2.0.0/16"], &["10.3.0.0/16"])),
        ("another peer's network beside its own", sides(&["10.2.0.0/16"], &["10.1.0.0/16", "10.3.0.0/16"])),
        ("more on our side", sides(&["10.2.0.0/15"], &["10.1.0.0/16"])),
        // There is nothing in it that would not be ours to give.
        ("nothing that is known", [ours, vec![unknown]]),
    ]
}

/// Less than there is, which a rekey must not give (RFC 7296 §2.9.2).
fn narrower() -> Vec<(&'static str, Sides)> {
    let [ours, _] = sides(&["10.2.0.0/16"], &[]);
    let tcp = IpSelector { protocol: 6, ..net("10.1.0.0/16") };
    vec![
        ("half of its side", sides(&["10.2.0.0/16"], &["10.1.0.0/17"])),
        ("half of our side", sides(&["10.2.0.0/17"], &["10.1.0.0/16"])),
        ("TCP alone", [ours, vec![tcp.into()]]),
    ]
}

/// Answers the gateway with these selectors.
fn says(payloads: &mut [Payload], [ours, theirs]: &Sides) {
    for payload in payloads {
        match payload {
            Payload::TsI(side) => side.clone_from(ours),
            Payload::TsR(side) => side.clone_from(theirs),
            _ => {}
        }
    }
}

/// Why Child SAs with the peer came to nothing.
fn failures(world: &World) -> Vec<Cause> {
    let failed = |event: &Event| match event {
        Event::ChildFailed { peer: PEER, cause, .. } => Some(cause.clone()),
        _ => None,
    };
    world.nodes[GATEWAY].events.iter().filter_map(failed).collect()
}

/// Halves of SAs with the peer that the gateway has ever had installed.
fn installed(world: &World) -> usize {
    let is_one = |event: &&Event| match event {
        Event::InstallInbound(keys) | Event::InstallOutbound(keys) => keys.peer == PEER,
        _ => false,
    };
    world.nodes[GATEWAY].events.iter().filter(is_one).count()
}

/// The only Child SA with the peer: its SPIs, and whether it is used.
fn child(world: &World) -> (Spi, Spi, bool) {
    let status = world.nodes[GATEWAY].endpoint.status(PEER).expect("the peer");
    let [ike] = &status.ike[..] else { panic!("{:?}", status.ike) };
    let [child] = &ike.children[..] else { panic!("{:?}", ike.children) };
    (child.inbound, child.outbound, child.is_sending && !child.is_going)
}

fn both_have_one(world: &World) -> bool {
    inbound_of(world, PEER) == 1 && world.nodes[LIAR].data.has_pairs(1)
}

fn packets_go_both_ways(world: &mut World) {
    let opened = [GATEWAY, LIAR].map(|node| world.nodes[node].data.opened);
    [GATEWAY, LIAR].into_iter().for_each(|node| world.send_esp(node));
    world.run_for(Duration::from_secs(1));
    for (node, before) in [GATEWAY, LIAR].into_iter().zip(opened) {
        assert!(world.nodes[node].data.opened > before, "gateway {node}");
        assert!(world.nodes[node].data.lost.is_empty(), "gateway {node}");
    }
}

#[test]
fn a_peer_that_grants_what_it_was_not_asked_for_has_no_child_sa() {
    let cause = Cause::Failed(Error::PeerMisbehaved(Misbehaviour::WiderSelectors));
    for (what, lie) in wider() {
        let mut world = scene(1, GATEWAY);
        for (times, exchange) in [(1, ExchangeType::IKE_AUTH), (2, ExchangeType::CREATE_CHILD_SA)] {
            answers_otherwise(&mut world, LIAR, exchange, |payloads| says(payloads, &lie));
            world.run_for(Duration::from_secs(1));
            assert_eq!((failures(&world), installed(&world)), (vec![cause.clone(); times], 0), "{what} in {exchange}");
            assert!(world.is_up(GATEWAY, PEER), "{what} in {exchange}: the IKE SA stays");
            assert!(world.nodes[LIAR].data.has_pairs(0), "{what} in {exchange}: what it has made is deleted");
            assert_eq!(world.nodes[GATEWAY].endpoint.sizes().inbound_spis, 1, "{what} in {exchange}: that of the honest one");
            let status = world.nodes[GATEWAY].endpoint.status(PEER).expect("the peer");
            let missing: Vec<_> = status.ike[0].missing.iter().map(|one| (one.cause.clone(), one.retry_at.is_some())).collect();
            assert_eq!(missing, [(Some(cause.clone()), true)], "{what} in {exchange}");
            let explained = world.nodes[GATEWAY].endpoint.explain(PEER, world.now).expect("the peer");
            assert_eq!(explained.record.problem.map(|problem| problem.cause), Some(cause.clone()), "{what} in {exchange}");
        }
        assert!(world.run_until(Duration::from_secs(60), both_have_one), "{what}: it is asked again");
        packets_go_both_ways(&mut world);
        honest_goes_on(&mut world);
    }
}

#[test]
fn a_rekey_that_is_granted_otherwise_leaves_the_child_sa_in_use() {
    let wider = wider().into_iter().map(|lie| (lie, Misbehaviour::WiderSelectors));
    let lies: Vec<_> = wider.chain(narrower().into_iter().map(|lie| (lie, Misbehaviour::NarrowerSelectors))).collect();
    for begins in [GATEWAY, LIAR] {
        for ((what, lie), fault) in &lies {
            let mut world = scene(2, begins);
            assert!(world.run_until(Duration::from_secs(5), both_have_one));
            world.run_for(Duration::from_secs(1));
            let before = child(&world);
            world.act(GATEWAY, |endpoint, now| endpoint.rekey(now, PEER)).expect("it is connected");
            answers_otherwise(&mut world, LIAR, ExchangeType::CREATE_CHILD_SA, |payloads| says(payloads, lie));
            world.run_for(Duration::from_secs(1));
            assert_eq!(failures(&world), [Cause::Failed(fault.clone().into())], "{what}, {begins} begins");
            assert_eq!((child(&world), installed(&world)), (before, 2), "{what}, {begins} begins: there is what there was");
            assert!(both_have_one(&world), "{what}, {begins} begins: what the peer has made is deleted");
            assert_eq!(world.nodes[GATEWAY].endpoint.sizes().inbound_spis, 2, "{what}, {begins} begins: one for each peer");
            assert!(world.is_up(GATEWAY, PEER) && before.2, "{what}, {begins} begins");
            packets_go_both_ways(&mut world);
            let is_another = |world: &World| both_have_one(world) && child(world).0 != before.0;
            assert!(world.run_until(Duration::from_secs(60), is_another), "{what}, {begins} begins: it is tried again");
            packets_go_both_ways(&mut world);
            honest_goes_on(&mut world);
        }
    }
}
