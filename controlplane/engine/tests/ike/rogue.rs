//! Somebody with A's preshared key, in A's place, who sends whatever a test wants him to and in any order, with everything in it right
//! that he can know.

use std::time::Duration;

use adit_engine::auth::{IntAuth, LocalAuth, Psk, signed_octets};
use adit_engine::crypto::aead::{self, IkeAead};
use adit_engine::crypto::{AuthData, Exchanged, IkeKeys, KeyExchange, KeyExchangeMethod, Prf, Sender};
use adit_engine::identity::Identity;
use adit_engine::ike::{Event, PeerConfig};
use adit_proto::ike::encrypted::{self, Fragment, Sealed, Unsealed};
use adit_proto::ike::{ExchangeType, Flags, Header, Identification, Message, Notify, NotifyType, Payload, PayloadType};
use adit_proto::ike::{decode_payloads, encode_payloads};
use adit_proto::suite::Suite;

use adit_sim::*;

/// He and the IKE SA that he has begun.
pub struct Rogue {
    pub keys: IkeKeys,
    pub header: Header,
    seal: IkeAead,
    open: IkeAead,
    request: Vec<u8>,
    nonce_i: Vec<u8>,
    nonce_r: Vec<u8>,
    int_auth: IntAuth,
    /// The message id of his next request.
    pub next_id: u32,
    /// Whom he says he is, and the secret by which he proves it.
    pub name: &'static str,
    pub secret: &'static str,
}

fn ke(message: &Message) -> Option<Vec<u8>> {
    let ke = |payload: &Payload| if let Payload::Ke { data, .. } = payload { Some(data.clone()) } else { None };
    message.payloads.iter().find_map(ke)
}

fn nonce(message: &Message) -> Option<Vec<u8>> {
    let nonce = |payload: &Payload| if let Payload::Nonce(nonce) = payload { Some(nonce.clone()) } else { None };
    message.payloads.iter().find_map(nonce)
}

/// An IKE message behind its marker.
pub fn framed(message: &[u8]) -> Vec<u8> {
    [&[0; 4], message].concat()
}

/// A request to begin an IKE SA, and what its sender knows of it.
pub struct Opening {
    pub request: Message,
    exchange: KeyExchange,
}

impl Opening {
    /// Like somebody else's, but for the key.
    pub fn like(mut request: Message) -> Opening {
        let exchange = KeyExchange::start(KeyExchangeMethod::X25519).expect("a key");
        for payload in &mut request.payloads {
            if let Payload::Ke { data, .. } = payload {
                *data = exchange.public().to_vec();
            }
        }
        Opening { request, exchange }
    }

    pub fn bytes(&self) -> Vec<u8> {
        self.request.encode().expect("a message")
    }

    /// With the answer there are keys; `None` where that one agrees to nothing.
    pub fn finish(self, answer: &Message, name: &'static str, secret: &'static str) -> Option<Rogue> {
        let request = self.bytes();
        let (nonce_i, nonce_r, public) = (nonce(&self.request)?, nonce(answer)?, ke(answer)?);
        let shared = self.exchange.finish(&public).expect("a secret");
        let header = answer.header;
        let keys = IkeKeys::initial(Prf::HmacSha256, Suite::Aes256Gcm, &shared, exchanged(&nonce_i, &nonce_r, &header));
        let (seal, open) = (keys.initiator_aead(1), keys.responder_aead(1));
        let int_auth = IntAuth::default();
        Some(Rogue { keys, header, seal, open, request, nonce_i, nonce_r, int_auth, next_id: 1, name, secret })
    }
}

/// B, which wants ML-KEM, and somebody who has done IKE_SA_INIT with it: A's own first message, but for the key.
pub fn after_init(seed: u64, change: impl Fn(usize, &mut PeerConfig)) -> (World, Rogue) {
    after_init_as(seed, change, |_| {})
}

/// The same with another first message.
pub fn after_init_as(seed: u64, change: impl Fn(usize, &mut PeerConfig), say: impl FnOnce(&mut Vec<Payload>)) -> (World, Rogue) {
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
    let mut first = Message::decode(&first[4..]).expect("a message");
    say(&mut first.payloads);
    let opening = Opening::like(first);
    world.inject(from, to, framed(&opening.bytes()));
    world.run_for(Duration::from_millis(20));
    let answer = Message::decode(&world.log.last().expect("an answer").2[4..]).expect("an answer");
    let rogue = opening.finish(&answer, "a.example.org", SECRET).expect("an agreement");
    (world, rogue)
}

fn exchanged<'a>(nonce_i: &'a [u8], nonce_r: &'a [u8], header: &Header) -> Exchanged<'a> {
    Exchanged { nonce_i, nonce_r, spi_i: header.initiator_spi, spi_r: header.responder_spi }
}

impl Rogue {
    pub fn header(&self, kind: ExchangeType, response: bool, id: u32) -> Header {
        let flags = Flags { initiator: !response, response, version: false };
        Header::new(self.header.initiator_spi, self.header.responder_spi, kind, flags, id)
    }

    /// A request of his, or any part of one.
    pub fn seal(&mut self, kind: ExchangeType, id: u32, payloads: &[Payload]) -> Vec<u8> {
        let (first, inner) = encode_payloads(payloads).expect("payloads");
        let unsealed = Unsealed::sk(&self.header(kind, false, id), first, &inner, self.seal.next_iv()).expect("a message");
        self.finish(unsealed)
    }

    /// A fragment (RFC 7383) of a request of his.
    pub fn seal_fragment(&mut self, kind: ExchangeType, id: u32, fragment: Fragment, part: &[u8]) -> Vec<u8> {
        let header = self.header(kind, false, id);
        let unsealed = Unsealed::skf(&header, PayloadType::NOTIFY, (fragment, part), self.seal.next_iv()).expect("a fragment");
        self.finish(unsealed)
    }

    /// A request of his in fragments, of which the first has so many bytes in it.
    pub fn seal_cut(&mut self, kind: ExchangeType, id: u32, payloads: &[Payload], first: usize) -> Vec<Vec<u8>> {
        let (kind_of_first, inner) = encode_payloads(payloads).expect("payloads");
        let (head, rest) = inner.split_at(first.min(inner.len()));
        let parts: Vec<&[u8]> = std::iter::once(head).chain(rest.chunks(700)).collect();
        let (header, total) = (self.header(kind, false, id), parts.len() as u16);
        let seal = |(number, part): (u16, &[u8])| {
            let part = (Fragment { number, total }, part);
            let unsealed = Unsealed::skf(&header, kind_of_first, part, self.seal.next_iv()).expect("a fragment");
            self.finish(unsealed)
        };
        (1..).zip(parts).map(seal).collect()
    }

    /// An answer of his.
    pub fn seal_response(&mut self, kind: ExchangeType, id: u32, payloads: &[Payload]) -> Vec<u8> {
        let (first, inner) = encode_payloads(payloads).expect("payloads");
        let header = Header { flags: Flags { initiator: true, response: true, version: false }, ..self.header(kind, false, id) };
        let unsealed = Unsealed::sk(&header, first, &inner, self.seal.next_iv()).expect("a message");
        self.finish(unsealed)
    }

    /// A request to him: its message id, and what is in it.
    pub fn read_request(&self, datagram: &[u8]) -> Option<(u32, Vec<Payload>)> {
        let sealed = Sealed::parse(datagram.get(4..)?).ok()??;
        let (body, tag) = sealed.ciphertext_and_tag().split_last_chunk()?;
        let mut inner = body.to_vec();
        self.open.open(sealed.aad(), aead::Sealed { iv: sealed.iv(), tag: *tag }, &mut inner).ok()?;
        let inner = encrypted::strip_padding(&inner).ok()?;
        let payloads = decode_payloads(sealed.first(), inner).ok()?;
        (!sealed.header().flags.response).then_some((sealed.header().message_id, payloads))
    }

    fn finish(&mut self, unsealed: Unsealed) -> Vec<u8> {
        let seal = |aad: &[u8], _, plain: &mut [u8]| self.seal.seal(aad, plain).map(|sealed| sealed.tag);
        framed(&unsealed.seal(seal).expect("a message"))
    }

    /// What is in an answer to him, or in a fragment of it, and in the first one of which type its first payload is.
    pub fn read(&self, datagram: &[u8], id: u32) -> Option<(PayloadType, Vec<u8>)> {
        let sealed = Sealed::parse(datagram.get(4..)?).ok()??;
        let (body, tag) = sealed.ciphertext_and_tag().split_last_chunk()?;
        let mut inner = body.to_vec();
        self.open.open(sealed.aad(), aead::Sealed { iv: sealed.iv(), tag: *tag }, &mut inner).ok()?;
        let is_answer = sealed.header().flags.response && sealed.header().message_id == id;
        let inner = encrypted::strip_padding(&inner).ok()?;
        is_answer.then(|| (sealed.first(), inner.to_vec()))
    }

    /// What is asked of him in a message, and what kind of request it is.
    pub fn heard(&self, datagram: &[u8]) -> Option<(Header, Vec<Payload>)> {
        let sealed = Sealed::parse(datagram.get(4..)?).ok()??;
        let (body, tag) = sealed.ciphertext_and_tag().split_last_chunk()?;
        let mut inner = body.to_vec();
        self.open.open(sealed.aad(), aead::Sealed { iv: sealed.iv(), tag: *tag }, &mut inner).ok()?;
        let inner = encrypted::strip_padding(&inner).ok()?;
        let is_request = !sealed.header().flags.response;
        is_request.then(|| (*sealed.header(), decode_payloads(sealed.first(), inner).expect("payloads")))
    }

    /// His answer to a request.
    pub fn answer(&mut self, to: &Header, payloads: &[Payload]) -> Vec<u8> {
        let (first, inner) = encode_payloads(payloads).expect("payloads");
        let flags = Flags { initiator: true, response: true, version: false };
        let header = Header::new(self.header.initiator_spi, self.header.responder_spi, to.exchange, flags, to.message_id);
        let unsealed = Unsealed::sk(&header, first, &inner, self.seal.next_iv()).expect("a message");
        self.finish(unsealed)
    }

    /// Sends a request; what is answered under the same message id.
    pub fn ask(&mut self, world: &mut World, kind: ExchangeType, id: u32, payloads: &[Payload]) -> Option<Vec<Payload>> {
        let message = self.seal(kind, id, payloads);
        let before = world.log.len();
        let [a, b] = [A, B].map(|node| peer(node).local.expect("an address"));
        world.inject(a, b, message);
        world.run_for(Duration::from_millis(50));
        // In fragments, one after the other, where it is long.
        let parts: Vec<_> = world.log[before..].iter().filter_map(|(_, _, payload)| self.read(payload, id)).collect();
        let first = parts.first()?.0;
        let inner: Vec<u8> = parts.into_iter().flat_map(|(_, part)| part).collect();
        Some(decode_payloads(first, &inner).expect("payloads"))
    }

    /// As [`Rogue::ask`], under the next message id, which is used up when there is an answer.
    pub fn next(&mut self, world: &mut World, kind: ExchangeType, payloads: &[Payload]) -> Option<Vec<Payload>> {
        let answer = self.ask(world, kind, self.next_id, payloads)?;
        self.next_id += 1;
        Some(answer)
    }

    /// An additional key exchange; whether it was made, and there are new keys.
    pub fn exchange_more(&mut self, world: &mut World, method: KeyExchangeMethod) -> bool {
        let exchange = KeyExchange::start(method).expect("a key");
        let payloads = [Payload::Ke { method: method.id(), data: exchange.public().to_vec() }];
        let id = self.next_id;
        let Some(answer) = self.next(world, ExchangeType::IKE_INTERMEDIATE, &payloads) else { return false };
        self.take_more(exchange, id, &payloads, &answer)
    }

    /// Takes the answer to an additional key exchange under this message id; whether it was one.
    pub fn take_more(&mut self, exchange: KeyExchange, id: u32, payloads: &[Payload], answer: &[Payload]) -> bool {
        let [Payload::Ke { data, .. }] = answer else { return false };
        let secret = exchange.finish(data).expect("a secret");
        // RFC 9242 §3.3.2.
        let covered = |response: bool, payloads: &[Payload]| {
            let (first, inner) = encode_payloads(payloads).expect("payloads");
            let header = self.header(ExchangeType::IKE_INTERMEDIATE, response, id);
            [encrypted::int_auth(&header, first, inner.len()), inner].concat()
        };
        let (request, response) = (covered(false, payloads), covered(true, answer));
        self.int_auth.add(&self.keys, &request, &response);
        self.keys = self.keys.additional(&secret, exchanged(&self.nonce_i, &self.nonce_r, &self.header));
        (self.seal, self.open) = (self.keys.initiator_aead(1), self.keys.responder_aead(1));
        true
    }

    /// What goes into IKE_AUTH in which everything is right for somebody who has made the key exchanges so far and no other.
    pub fn proof(&self, id: u32, identification: Identification, int_auth: Option<&[u8]>) -> Vec<Payload> {
        let own = self.int_auth.octets(id);
        let int_auth = int_auth.unwrap_or(&own);
        let octets = signed_octets(&self.keys, Sender::Initiator, &self.request, &self.nonce_r, &identification, int_auth);
        let proof = LocalAuth::Psk(Psk::from_text(self.secret).expect("a key")).sign(self.keys.prf(), &[], &octets);
        let AuthData { method, data } = proof.expect("a proof");
        vec![Payload::IdI(identification), Payload::Auth { method, data }]
    }

    /// IKE_AUTH as A, for an IKE SA without a Child SA (RFC 6023).
    pub fn authenticate(&mut self, world: &mut World, int_auth: Option<&[u8]>) -> Option<Vec<Payload>> {
        let payloads = self.authentication(int_auth, &[]);
        self.next(world, ExchangeType::IKE_AUTH, &payloads)
    }

    /// The same, with what he says of himself besides.
    pub fn authenticate_with(&mut self, world: &mut World, also: &[NotifyType]) -> Option<Vec<Payload>> {
        let payloads = self.authentication(None, also);
        self.next(world, ExchangeType::IKE_AUTH, &payloads)
    }

    /// What is in it.
    pub fn authentication(&self, int_auth: Option<&[u8]>, also: &[NotifyType]) -> Vec<Payload> {
        let id = self.name.parse::<Identity>().expect("an identity").to_payload();
        let mut payloads = self.proof(self.next_id, id, int_auth);
        payloads.extend(also.iter().map(|kind| Payload::from(Notify::new(*kind))));
        payloads
    }
}

pub fn has_auth(payloads: &[Payload]) -> bool {
    payloads.iter().any(|payload| matches!(payload, Payload::Auth { .. }))
}

pub fn refused_syntax() -> Vec<Payload> {
    vec![Notify::new(NotifyType::INVALID_SYNTAX).into()]
}

pub fn nobody_is_let_in(world: &World) {
    let believed = |event: &Event| match event {
        Event::State { state, .. } => state.is_up(),
        Event::IkeWaits { .. }
        | Event::IkeUp { .. }
        | Event::InstallInbound(_)
        | Event::InstallOutbound(_)
        | Event::Path { .. } => true,
        _ => false,
    };
    assert!(!world.nodes[B].events.iter().any(believed), "{:?}", world.nodes[B].events);
    assert!(!world.is_up(B, PEER) && world.nodes[B].endpoint.status(PEER).is_some_and(|status| status.ike.is_empty()));
}
