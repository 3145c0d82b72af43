//! An initiator that agrees on ML-KEM, knows the shared secret, and leaves the key exchange out: nobody of that kind is let in, and
//! no SA is made (RFC 9370 §2.2.2, §2.2.4). Who wins over a recorded handshake later needs only one such connection.

use std::time::Duration;

use adit_engine::auth::{IntAuth, LocalAuth, Psk, signed_octets};
use adit_engine::crypto::aead::{self, IkeAead};
use adit_engine::crypto::{AuthData, Exchanged, IkeKeys, KeyExchange, KeyExchangeMethod, Prf, Sender, respond};
use adit_engine::identity::Identity;
use adit_engine::ike::{ConnectionState, Error, Event, Misbehaviour, PeerConfig};
use adit_proto::ike::encrypted::{self, Sealed, Unsealed};
use adit_proto::ike::{
    ExchangeType, Flags, Header, KeId, Message, Notify, NotifyType, Payload, decode_payloads, encode_payloads,
};
use adit_proto::suite::Suite;

use adit_sim::*;

/// Somebody with A's preshared key, in A's place.
struct Rogue {
    keys: IkeKeys,
    header: Header,
    seal: IkeAead,
    open: IkeAead,
    request: Vec<u8>,
    nonce_r: Vec<u8>,
}

fn ke(message: &Message) -> Vec<u8> {
    let ke = |payload: &Payload| if let Payload::Ke { data, .. } = payload { Some(data.clone()) } else { None };
    message.payloads.iter().find_map(ke).expect("a KE payload")
}

fn nonce(message: &Message) -> Vec<u8> {
    let nonce = |payload: &Payload| if let Payload::Nonce(nonce) = payload { Some(nonce.clone()) } else { None };
    message.payloads.iter().find_map(nonce).expect("a nonce")
}

/// B, which wants ML-KEM, and somebody who has done IKE_SA_INIT with it: A's own first message, but for the key.
fn after_init(seed: u64, change: impl Fn(usize, &mut PeerConfig)) -> (World, Rogue) {
    let mut world = pair(seed, |node, config| {
        config.initiate = false;
        config.proposals = vec![hybrid()];
        change(node, config);
    });
    world.cut = true;
    world.act(A, |endpoint, now| endpoint.connect(now, PEER)).expect("it has an address");
    world.nodes[A].on = false;
    world.cut = false;
    let (from, to, first) = world.log[0].clone();
    let mut message = Message::decode(&first[4..]).expect("a message");
    let exchange = KeyExchange::start(KeyExchangeMethod::X25519).expect("a key");
    for payload in &mut message.payloads {
        if let Payload::Ke { data, .. } = payload {
            *data = exchange.public().to_vec();
        }
    }
    let request = message.encode().expect("a message");
    world.inject(from, to, [&[0; 4], request.as_slice()].concat());
    world.run_for(Duration::from_millis(20));
    let answer = Message::decode(&world.log.last().expect("an answer").2[4..]).expect("an answer");
    let (nonce_i, nonce_r) = (nonce(&message), nonce(&answer));
    let secret = exchange.finish(&ke(&answer)).expect("a secret");
    let header = answer.header;
    let (spi_i, spi_r) = (header.initiator_spi, header.responder_spi);
    let exchanged = Exchanged { nonce_i: &nonce_i, nonce_r: &nonce_r, spi_i, spi_r };
    let keys = IkeKeys::initial(Prf::HmacSha256, Suite::Aes256Gcm, &secret, exchanged);
    let (seal, open) = (keys.initiator_aead(1), keys.responder_aead(1));
    (world, Rogue { keys, header, seal, open, request, nonce_r })
}

impl Rogue {
    /// Sends a request; what is answered under the same message id.
    fn ask(&mut self, world: &mut World, kind: ExchangeType, id: u32, payloads: &[Payload]) -> Option<Vec<Payload>> {
        let flags = Flags { initiator: true, response: false, version: false };
        let header = Header::new(self.header.initiator_spi, self.header.responder_spi, kind, flags, id);
        let (first, inner) = encode_payloads(payloads).expect("payloads");
        let unsealed = Unsealed::sk(&header, first, &inner, self.seal.next_iv()).expect("a message");
        let seal = |aad: &[u8], _, plain: &mut [u8]| self.seal.seal(aad, plain).map(|sealed| sealed.tag);
        let message = unsealed.seal(seal).expect("a message");
        let before = world.log.len();
        let [a, b] = [A, B].map(|node| peer(node).local.expect("an address"));
        world.inject(a, b, [&[0; 4], message.as_slice()].concat());
        world.run_for(Duration::from_millis(50));
        // In fragments, one after the other, where it is long.
        let parts = world.log[before..].iter().filter_map(|(_, _, payload)| {
            let sealed = Sealed::parse(&payload[4..]).ok()??;
            let (body, tag) = sealed.ciphertext_and_tag().split_last_chunk()?;
            let mut inner = body.to_vec();
            self.open.open(sealed.aad(), aead::Sealed { iv: sealed.iv(), tag: *tag }, &mut inner).ok()?;
            let is_answer = sealed.header().flags.response && sealed.header().message_id == id;
            let inner = encrypted::strip_padding(&inner).ok()?;
            is_answer.then(|| (sealed.first(), inner.to_vec()))
        });
        let parts: Vec<_> = parts.collect();
        let first = parts.first()?.0;
        let inner: Vec<u8> = parts.into_iter().flat_map(|(_, part)| part).collect();
        Some(decode_payloads(first, &inner).expect("payloads"))
    }

    /// An IKE_AUTH request in which everything is right for somebody who has made no other key exchange.
    fn authenticate(&mut self, world: &mut World, int_auth: &[u8]) -> Option<Vec<Payload>> {
        let id = "a.example.org".parse::<Identity>().expect("an identity").to_payload();
        let octets = signed_octets(&self.keys, Sender::Initiator, &self.request, &self.nonce_r, &id, int_auth);
        let proof = LocalAuth::Psk(Psk::from_text(SECRET).expect("a key")).sign(self.keys.prf(), &[], &octets);
        let AuthData { method, data } = proof.expect("a proof");
        self.ask(world, ExchangeType::IKE_AUTH, 1, &[Payload::IdI(id), Payload::Auth { method, data }])
    }
}

fn nobody_is_let_in(world: &World) {
    let believed = |event: &Event| match event {
        Event::State { state, .. } => state.is_up(),
        Event::IkeUp { .. } | Event::InstallInbound(_) | Event::InstallOutbound(_) | Event::Path { .. } => true,
        _ => false,
    };
    assert!(!world.nodes[B].events.iter().any(believed), "{:?}", world.nodes[B].events);
    assert!(!world.is_up(B, PEER) && world.nodes[B].endpoint.status(PEER).is_some_and(|status| status.ike.is_empty()));
}

#[test]
fn ike_auth_in_the_place_of_ml_kem_is_refused() {
    // With nothing signed for IKE_INTERMEDIATE, and with what is signed when there was one.
    for int_auth in [Vec::new(), IntAuth::default().octets(1)] {
        let (mut world, mut rogue) = after_init(1, |_, _| {});
        let answer = rogue.authenticate(&mut world, &int_auth).expect("an answer");
        assert_eq!(answer, [Notify::new(NotifyType::INVALID_SYNTAX).into()]);
        nobody_is_let_in(&world);
        // The half-open IKE SA is over: what comes now has no answer.
        let late = KeyExchange::start(KeyExchangeMethod::MlKem768).expect("a key");
        let late = Payload::Ke { method: KeId::ML_KEM_768, data: late.public().to_vec() };
        assert_eq!(rogue.ask(&mut world, ExchangeType::IKE_INTERMEDIATE, 2, &[late]), None);
        assert_eq!(world.nodes[B].endpoint.half_open(), 0);
        let refusal = world.nodes[B].endpoint.refusals().last().expect("it is remembered");
        let left_out = Error::PeerMisbehaved(Misbehaviour::LeftOut(KeyExchangeMethod::MlKem768));
        assert_eq!(refusal.why, left_out);
    }
}

#[test]
fn no_other_exchange_takes_the_place_of_ml_kem() {
    let kinds = [ExchangeType::CREATE_CHILD_SA, ExchangeType::INFORMATIONAL, ExchangeType::IKE_FOLLOWUP_KE];
    for kind in kinds {
        let (mut world, mut rogue) = after_init(2, |_, _| {});
        assert_eq!(rogue.ask(&mut world, kind, 1, &[]), None);
        // An IKE_INTERMEDIATE without the key exchange that is due is none.
        assert_eq!(rogue.ask(&mut world, ExchangeType::IKE_INTERMEDIATE, 1, &[]), None);
        nobody_is_let_in(&world);
        assert!(rogue.authenticate(&mut world, &[]).is_some_and(|answer| !has_auth(&answer)));
        nobody_is_let_in(&world);
    }
}

fn has_auth(payloads: &[Payload]) -> bool {
    payloads.iter().any(|payload| matches!(payload, Payload::Auth { .. }))
}

#[test]
fn the_second_of_two_exchanges_cannot_be_left_out_either() {
    let both = |_: usize, config: &mut PeerConfig| {
        let methods = [KeyExchangeMethod::MlKem768, KeyExchangeMethod::MlKem1024];
        config.proposals[0].additional = methods.map(|method| vec![Some(method)]).to_vec();
    };
    let (mut world, mut rogue) = after_init(3, both);
    let exchange = KeyExchange::start(KeyExchangeMethod::MlKem768).expect("a key");
    let payload = Payload::Ke { method: KeId::ML_KEM_768, data: exchange.public().to_vec() };
    let answer = rogue.ask(&mut world, ExchangeType::IKE_INTERMEDIATE, 1, &[payload]).expect("an answer");
    assert!(matches!(answer.as_slice(), [Payload::Ke { .. }]), "{answer:?}");
    // Whether under the new keys or the old ones, it is not IKE_AUTH that is due: under the old ones it is not even opened.
    assert!(rogue.ask(&mut world, ExchangeType::IKE_AUTH, 2, &[]).is_none());
    nobody_is_let_in(&world);
}

#[test]
fn who_makes_the_exchange_is_let_in_and_shown_as_post_quantum() {
    let mut world = pair(4, |_, config| config.proposals = vec![hybrid()]);
    world.connect_pair();
    assert!([A, B].into_iter().all(|node| world.ike(node).post_quantum));
    let mut world = pair(4, |_, config| config.proposals = vec![classic()]);
    world.connect_pair();
    assert!([A, B].into_iter().all(|node| !world.ike(node).post_quantum));
    assert_eq!(world.state(A, PEER), ConnectionState::Established);
}

/// A pair with ML-KEM for Child SAs, in which A stops before IKE_FOLLOWUP_KE.
fn without_follow_up(seed: u64, rekey: impl Fn(&mut World)) -> World {
    let mut world = pair(seed, |_, config| {
        config.proposals = vec![hybrid()];
        config.children[0].proposals = vec![esp_hybrid()];
    });
    world.connect_pair();
    world.filter = Some(Box::new(|_, _, payload| {
        let header = Header::decode(&payload[4..]).expect("a message");
        header.exchange != ExchangeType::IKE_FOLLOWUP_KE
    }));
    rekey(&mut world);
    world
}

#[test]
fn no_sa_is_made_while_ike_followup_ke_is_missing() {
    for ike in [false, true] {
        let mut world = without_follow_up(5, |world| {
            let rekey = |world: &mut World| match ike {
                true => world.act(A, |endpoint, now| endpoint.rekey_ike(now, PEER)),
                false => world.act(A, |endpoint, now| endpoint.rekey(now, PEER)),
            };
            rekey(world).expect("it is connected");
        });
        let (spis, inbound) = (world.ike(B).spis, world.ike(B).children[0].inbound);
        let installed = world.nodes[B].data.inbound.len();
        world.run_for(Duration::from_secs(10));
        let now = world.ike(B);
        assert_eq!((now.spis, now.children[0].inbound, now.children.len()), (spis, inbound, 1));
        assert_eq!(world.nodes[B].data.inbound.len(), installed, "nothing is ready to receive");
        world.check_traffic();
    }
}

#[test]
fn a_follow_up_that_is_of_another_method_makes_no_sa() {
    // What an honest responder answers to ML-KEM is no answer to a request with another method.
    let (public, _) = respond(KeyExchangeMethod::X25519, KeyExchange::start(KeyExchangeMethod::X25519).expect("a key").public())
        .expect("an answer");
    let (mut world, mut rogue) = after_init(6, |_, _| {});
    let other = Payload::Ke { method: KeId::CURVE_25519, data: public.to_vec() };
    assert_eq!(rogue.ask(&mut world, ExchangeType::IKE_INTERMEDIATE, 1, &[other]), None);
    nobody_is_let_in(&world);
}
