//! A responder with B's preshared key that agrees on ML-KEM and then skips the exchange: the initiator does not go on without it, whatever
//! comes in its place, and is there for an honest one afterwards.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use adit_engine::auth::{IntAuth, LocalAuth, Psk, signed_octets};
use adit_engine::crypto::aead::IkeAead;
use adit_engine::crypto::{AuthData, Exchanged, IkeKeys, KeyExchange, KeyExchangeMethod, Prf, Sender, respond};
use adit_engine::identity::Identity;
use adit_engine::ike::ConnectionState;
use adit_proto::ike::encrypted::Unsealed;
use adit_proto::ike::{ExchangeType, Flags, Header, KeId, Message, Payload, encode_payloads};
use adit_proto::suite::Suite;

use adit_sim::*;

/// Answers in B's place, once A has done IKE_SA_INIT with him.
struct Impostor {
    keys: IkeKeys,
    header: Header,
    seal: IkeAead,
    response: Vec<u8>,
    nonce_i: Vec<u8>,
}

fn addresses() -> [std::net::SocketAddr; 2] {
    [A, B].map(|node| peer(node).local.expect("an address"))
}

/// A and B want ML-KEM, and A's first message was answered by somebody else: with B's own answer, but for the key.
fn after_init(seed: u64) -> (World, Impostor) {
    let mut world = pair(seed, |_, config| config.proposals = vec![hybrid()]);
    let [a, b] = addresses();
    let sent = Rc::new(RefCell::new(Vec::new()));
    let seen = sent.clone();
    world.filter = Some(Box::new(move |from, _, payload| {
        seen.borrow_mut().push(Message::decode(&payload[4..]).expect("a message"));
        from != b
    }));
    world.run_for(Duration::from_millis(20));
    world.nodes[B].on = false;
    world.filter = None;
    let request = Message::decode(&world.log[0].2[4..]).expect("a message");
    let [mut answer]: [Message; 1] = sent.take().try_into().expect("an answer");
    let (mut shared, mut nonces) = (None, Vec::new());
    for payload in request.payloads {
        match payload {
            Payload::Ke { data, .. } => shared = Some(respond(KeyExchangeMethod::X25519, &data).expect("a key")),
            Payload::Nonce(nonce) => nonces.push(nonce),
            _ => {}
        }
    }
    let (public, secret) = shared.expect("a KE payload");
    for payload in &mut answer.payloads {
        match payload {
            Payload::Ke { data, .. } => *data = public.to_vec(),
            Payload::Nonce(nonce) => nonces.push(nonce.clone()),
            _ => {}
        }
    }
    let [nonce_i, nonce_r]: [Vec<u8>; 2] = nonces.try_into().expect("two nonces");
    let (header, response) = (answer.header, answer.encode().expect("a message"));
    let exchanged = Exchanged { nonce_i: &nonce_i, nonce_r: &nonce_r, spi_i: header.initiator_spi, spi_r: header.responder_spi };
    let keys = IkeKeys::initial(Prf::HmacSha256, Suite::Aes256Gcm, &secret, exchanged);
    world.inject(b, a, [&[0; 4], response.as_slice()].concat());
    let seal = keys.responder_aead(1);
    world.run_for(Duration::from_millis(20));
    (world, Impostor { keys, header, seal, response, nonce_i })
}

impl Impostor {
    fn send(&mut self, world: &mut World, kind: ExchangeType, id: u32, payloads: &[Payload]) {
        let flags = Flags { initiator: false, response: true, version: false };
        let header = Header::new(self.header.initiator_spi, self.header.responder_spi, kind, flags, id);
        let (first, inner) = encode_payloads(payloads).expect("payloads");
        let unsealed = Unsealed::sk(&header, first, &inner, self.seal.next_iv()).expect("a message");
        let seal = |aad: &[u8], _, plain: &mut [u8]| self.seal.seal(aad, plain).map(|sealed| sealed.tag);
        let message = unsealed.seal(seal).expect("a message");
        let [a, b] = addresses();
        world.inject(b, a, [&[0; 4], message.as_slice()].concat());
        world.run_for(Duration::from_millis(20));
    }

    /// The payloads of IKE_AUTH in which everything is right for somebody who has made no other key exchange.
    fn proof(&self) -> Vec<Payload> {
        let id = "b.example.org".parse::<Identity>().expect("an identity").to_payload();
        let none = IntAuth::default().octets(1);
        let octets = signed_octets(&self.keys, Sender::Responder, &self.response, &self.nonce_i, &id, &none);
        let proof = LocalAuth::Psk(Psk::from_text(SECRET).expect("a key")).sign(self.keys.prf(), &[], &octets);
        let AuthData { method, data } = proof.expect("a proof");
        vec![Payload::IdR(id), Payload::Auth { method, data }]
    }
}

/// Exchanges of which A has sent requests.
fn asked(world: &World) -> Vec<ExchangeType> {
    let [a, _] = addresses();
    let header = |payload: &[u8]| Header::decode(&payload[4..]).expect("a message").exchange;
    let mut kinds: Vec<ExchangeType> = world.log.iter().filter(|(from, ..)| *from == a).map(|(.., one)| header(one)).collect();
    kinds.dedup();
    kinds
}

#[test]
fn an_initiator_does_not_go_on_without_the_exchange() {
    let (mut world, mut impostor) = after_init(1);
    assert_eq!(asked(&world), [ExchangeType::IKE_SA_INIT, ExchangeType::IKE_INTERMEDIATE]);
    let x25519 = KeyExchange::start(KeyExchangeMethod::X25519).expect("a key");
    let other = Payload::Ke { method: KeId::CURVE_25519, data: x25519.public().to_vec() };
    let short = Payload::Ke { method: KeId::ML_KEM_768, data: vec![1; 32] };
    // As long as the right one, under another number.
    let renamed =
        Payload::Ke { method: KeId::ML_KEM_512, data: vec![1; KeyExchangeMethod::MlKem768.data_len(Sender::Responder)] };
    let proof = impostor.proof();
    let wrong: [&[Payload]; 5] = [&proof, &[], &[other], &[short], &[renamed]];
    let dropped = world.nodes[A].endpoint.counters().dropped_malformed;
    for id in [0, 1, 2] {
        for kind in [ExchangeType::IKE_AUTH, ExchangeType::IKE_INTERMEDIATE, ExchangeType::CREATE_CHILD_SA] {
            for payloads in wrong {
                impostor.send(&mut world, kind, id, payloads);
                assert!(!world.is_up(A, PEER), "{kind} {id}");
            }
        }
    }
    assert_eq!(asked(&world), [ExchangeType::IKE_SA_INIT, ExchangeType::IKE_INTERMEDIATE], "it waits for the right answer");
    assert!(world.nodes[A].data.inbound.is_empty());
    // It is the same attempt, which none of them has ended: of those that had its exchange and id each was looked at and dropped.
    let status = world.nodes[A].endpoint.status(PEER).expect("the peer");
    assert_eq!((status.state, status.attempts, status.cause), (ConnectionState::Connecting, 1, None));
    assert_eq!(world.nodes[A].endpoint.counters().dropped_malformed - dropped, wrong.len() as u64);
    // B is back, and the impostor silent.
    world.nodes[B].on = true;
    world.run_for(Duration::from_secs(120));
    assert!(world.is_up(A, PEER) && world.ike(A).post_quantum);
    world.check_traffic();
}
