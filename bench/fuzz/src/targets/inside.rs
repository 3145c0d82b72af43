//! The engine against a peer that has the keys of the IKE SA and says whatever it likes: the authenticated one, and the stranger who
//! has done IKE_SA_INIT as anybody can.

use std::time::Duration;

use adit_engine::crypto::aead::IkeAead;
use adit_engine::crypto::keys::{Exchanged, IkeKeys};
use adit_engine::crypto::{KeyExchange, KeyExchangeMethod, Prf};
use adit_engine::ike::{Event, IkeSpis, KeyLog};
use adit_engine::path::Arrival;
use adit_proto::control::Spi;
use adit_proto::ike::encrypted::Unsealed;
use adit_proto::ike::{
    Delete, ExchangeType, Flags, Header, Message, Notify, NotifyType, Payload, PayloadType, ProtocolId, encode_payloads,
};
use adit_proto::suite::Suite;

use super::Input;
use super::pair::{A, B, Datagram, Kind, PEER, Pair, address, fresh};

const MESSAGES_MAX: usize = 24;
const EXCHANGES: [ExchangeType; 5] = [
    ExchangeType::CREATE_CHILD_SA,
    ExchangeType::INFORMATIONAL,
    ExchangeType::IKE_FOLLOWUP_KE,
    ExchangeType::IKE_AUTH,
    ExchangeType::IKE_INTERMEDIATE,
];

/// The attacker's end of an IKE SA.
struct Insider {
    /// Whom it talks to, and in whose place it does.
    victim: usize,
    seal: IkeAead,
    spis: IkeSpis,
    /// It began the IKE SA.
    initiator: bool,
    next_id: u32,
}

impl Insider {
    fn next(&mut self) -> u32 {
        self.next_id += 1;
        self.next_id - 1
    }

    /// A message whose payloads are any bytes.
    fn message(&mut self, exchange: ExchangeType, response: bool, id: u32, first: u8, inner: &[u8]) -> Option<Datagram> {
        let flags = Flags { initiator: self.initiator, response, version: false };
        let header = Header::new(self.spis.initiator, self.spis.responder, exchange, flags, id);
        let unsealed = Unsealed::sk(&header, PayloadType(first), inner, self.seal.next_iv()).ok()?;
        let message = unsealed.seal(|aad, _, plain| self.seal.seal(aad, plain).map(|sealed| sealed.tag)).ok()?;
        let (from, to) = (address(1 - self.victim), address(self.victim));
        Some(Datagram { from, to, payload: [&[0; 4], message.as_slice()].concat() })
    }
}

/// Whatever an insider says: no panic, nothing without bounds, nothing believed before AUTH, a state that a successor can take
/// over, and timers that come to rest.
pub fn engine_inside(data: &[u8]) {
    let mut input = Input::new(data);
    let (stage, kind) = (input.u8() % 3, Kind(input.u8()));
    let (mut pair, mut insider) = match stage {
        0 => after_init(kind),
        1 => (Pair::connected(kind), None),
        _ => (Pair::connected(kind), None),
    };
    let mut insider = match insider.take() {
        Some(insider) => insider,
        None => established(&mut pair, if stage == 1 { B } else { A }),
    };
    let victim = insider.victim;
    for _ in 0..MESSAGES_MAX {
        if input.is_empty() {
            break;
        }
        say(&mut pair, &mut insider, &mut input);
        let sizes = pair.ends[victim].sizes();
        assert!(sizes.ike_sas <= 8 && sizes.inbound_spis <= 80, "{sizes:?}");
        if stage == 0 {
            let believed = |event: &Event| match event {
                Event::State { state, .. } => state.is_up(),
                Event::IkeWaits { .. }
                | Event::IkeUp { .. }
                | Event::InstallInbound(_)
                | Event::InstallOutbound(_)
                | Event::Path(_) => true,
                _ => false,
            };
            assert!(!pair.events[victim].iter().any(believed), "a stranger is believed");
        }
    }
    survive(&mut pair, kind, victim);
}

/// Says the next thing, or lets something happen at the other end.
fn say(pair: &mut Pair, insider: &mut Insider, input: &mut Input) {
    let (what, exchange) = (input.u8(), EXCHANGES[usize::from(input.u8()) % EXCHANGES.len()]);
    let victim = insider.victim;
    match what % 8 {
        // An answer to what the victim asks, if it does.
        0..=2 => {
            let asked = pair.in_flight.iter().rev().filter(|one| one.from == address(victim)).find_map(Datagram::header);
            let asked = asked.filter(|header| !header.flags.response);
            let (id, exchange) = asked.map_or((0, exchange), |header| (header.message_id, header.exchange));
            send(pair, insider, (exchange, true, id), None, input);
        }
        3 => {
            let command = input.u8();
            pair.act(victim, |endpoint, now| {
                let _ = match command % 4 {
                    0 => endpoint.rekey(now, PEER),
                    1 => endpoint.rekey_ike(now, PEER),
                    2 => endpoint.check_liveness(now, PEER),
                    _ => endpoint.set_addresses(now, PEER, Some(address(victim)), None),
                };
            });
        }
        4 => {
            pair.in_flight.clear();
            pair.wait(Duration::from_secs(u64::from(input.u8())));
        }
        // About a Child SA that there is: its rekey, with any payloads behind it, or its end.
        6 => {
            let rekey = live_child(pair, victim).map(|spi| Notify::new(NotifyType::REKEY_SA).about(ProtocolId::ESP, spi));
            let id = insider.next();
            send(pair, insider, (ExchangeType::CREATE_CHILD_SA, false, id), rekey.map(Payload::from), input);
        }
        7 => {
            let delete = live_child(pair, victim).map(|spi| Delete::esp(vec![spi]));
            let id = insider.next();
            send(pair, insider, (ExchangeType::INFORMATIONAL, false, id), delete.map(Payload::from), input);
        }
        _ => {
            let id = insider.next();
            send(pair, insider, (exchange, false, id), None, input);
        }
    }
}

/// The SPI by which the insider calls one of the Child SAs.
fn live_child(pair: &Pair, victim: usize) -> Option<Spi> {
    let status = pair.ends[victim].status(PEER)?;
    status.ike.iter().flat_map(|ike| &ike.children).map(|child| child.outbound).next_back()
}

/// Sends a message of any payloads, behind one that makes sense if there is one.
fn send(
    pair: &mut Pair,
    insider: &mut Insider,
    (exchange, response, id): (ExchangeType, bool, u32),
    front: Option<Payload>,
    input: &mut Input,
) {
    let (mut first, mut inner) = (input.u8(), input.part().to_vec());
    if let Some((kind, mut bytes)) = front.and_then(|front| encode_payloads(&[front]).ok()) {
        bytes[0] = first;
        (first, inner) = (kind.0, [bytes, inner].concat());
    }
    let Some(message) = insider.message(exchange, response, id, first, &inner) else { return };
    pair.hand(&message);
    let victim = insider.victim;
    pair.settle(victim);
}

/// The keys of the only IKE SA, as the victim tells them.
fn established(pair: &mut Pair, victim: usize) -> Insider {
    let reported = pair.events[victim].iter().rev().find_map(|event| match event {
        Event::KeyLog(log) => match &**log {
            KeyLog::Ike { spis, suite, initiator, responder } => Some((*spis, *suite, [initiator.clone(), responder.clone()])),
            KeyLog::Esp { .. } => None,
        },
        _ => None,
    });
    let (spis, suite, keys) = reported.expect("the keys are told");
    let initiator = victim == B;
    let key = &keys[usize::from(!initiator)];
    let seal = IkeAead::new(suite, key, 1).expect("a key of its length");
    // The last message that the peer whose place is taken has sent as a request.
    let requests = pair.sent.iter().filter(|one| one.from == address(1 - victim)).filter_map(Datagram::header);
    let last = requests.filter(|header| !header.flags.response).map(|header| header.message_id).max();
    Insider { victim, seal, spis, initiator, next_id: last.map_or(0, |id| id + 1) }
}

/// Sends B a request of A with another public key. Gives it, and the answer as it was sent and decoded.
fn with_key(pair: &mut Pair, request: Datagram, public: &[u8]) -> (Message, Datagram, Message) {
    let mut message = Message::decode(&request.payload[4..]).expect("a message");
    for payload in &mut message.payloads {
        if let Payload::Ke { data, .. } = payload {
            *data = public.to_vec();
        }
    }
    let payload = [&[0; 4], message.encode().expect("a message").as_slice()].concat();
    pair.hand(&Datagram { payload, ..request });
    let sent = pair.take(B).swap_remove(0);
    let answer = Message::decode(&sent.payload[4..]).expect("an answer");
    (message, sent, answer)
}

/// IKE_SA_INIT is done, with an attacker in A's place.
fn after_init(kind: Kind) -> (Pair, Option<Insider>) {
    let mut pair = Pair::new(kind);
    let request = pair.in_flight.pop_front().expect("A begins");
    let exchange = KeyExchange::start(KeyExchangeMethod::X25519).expect("a key");
    let (mut message, sent, mut answer) = with_key(&mut pair, request, exchange.public());
    if answer.payloads.iter().any(|one| matches!(one, Payload::Notify(notify) if notify.kind == NotifyType::COOKIE)) {
        // A longer answer waits behind a cookie.
        pair.hand(&sent);
        let request = pair.take(A).pop().expect("A comes again with the cookie");
        (message, _, answer) = with_key(&mut pair, request, exchange.public());
    }
    let nonce = |message: &Message| {
        message.payloads.iter().find_map(|payload| if let Payload::Nonce(nonce) = payload { Some(nonce.clone()) } else { None })
    };
    let public =
        answer.payloads.iter().find_map(|one| if let Payload::Ke { data, .. } = one { Some(data.clone()) } else { None });
    let (nonce_i, nonce_r) = (nonce(&message).expect("a nonce"), nonce(&answer).expect("a nonce"));
    let secret = exchange.finish(&public.expect("a key")).expect("a secret");
    let spis = IkeSpis { initiator: answer.header.initiator_spi, responder: answer.header.responder_spi };
    let exchanged = Exchanged { nonce_i: &nonce_i, nonce_r: &nonce_r, spi_i: spis.initiator, spi_r: spis.responder };
    let keys = IkeKeys::initial(Prf::HmacSha256, Suite::Aes256Gcm, &secret, exchanged);
    let insider = Insider { victim: B, seal: keys.initiator_aead(1), spis, initiator: true, next_id: 1 };
    (pair, Some(insider))
}

/// A successor can go on with what there is, and both come to rest.
fn survive(pair: &mut Pair, kind: Kind, victim: usize) {
    let clock = pair.clock();
    let snapshot = pair.ends[victim].snapshot(clock);
    let mut successor = fresh(kind.endpoint(victim), 99);
    let now = pair.now();
    successor.set_peer(now, PEER, kind.peer(victim)).expect("a good configuration");
    successor.restore(now, pair.clock(), &snapshot).expect("a snapshot can be restored");
    pair.ends[1 - victim].close_all(now);
    pair.in_flight.clear();
    for _ in 0..200 {
        pair.wait(Duration::from_secs(20));
        pair.in_flight.clear();
    }
    successor.start(now);
    for seconds in 0..100 {
        let instant = now.instant + Duration::from_secs(seconds * 5);
        successor.handle_timeout(adit_engine::ike::Now { instant, ..now });
        let path = Arrival::new(address(victim), address(1 - victim));
        successor.handle_message(now, path, &[0; 40]);
        while successor.poll_event().is_some() || successor.poll_transmit().is_some() {}
    }
}
