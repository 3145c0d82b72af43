//! Somebody who does IKE by hand: he has the keys of the IKE SAs that he begins, and sends under them whatever he likes.

use std::net::SocketAddr;
use std::sync::OnceLock;

use adit_engine::crypto::{AuthData, KeyExchange, KeyExchangeMethod, Prf, SignatureAlgorithm};
use adit_engine::identity::Identity;
use adit_proto::control::Spi;
use adit_proto::ike::encrypted::Fragment;
use adit_proto::ike::{
    Delete, EsnId, ExchangeType, IkeSpi, Message, Notify, NotifyType, Payload, Proposal, ProtocolId, TrafficSelector, Transform,
    decode_payloads,
};
use adit_proto::suite::Suite;

use adit_sim::certificates::Authority;
use adit_sim::*;

use super::super::rogue::{Opening, Rogue};
use super::scene::{GATEWAY, GUEST_NAME, HONEST, Scene};

/// In place of a secret: he proves himself with certificates that nobody has issued.
pub const FORGED: &str = "no secret, but certificates";

/// At so many places at once.
const HANDS_MAX: usize = 8;

/// Where he is with one IKE SA.
enum State {
    Opening(Box<Opening>),
    /// There are keys. An additional key exchange that was asked for: under which id, and with what.
    Open(Box<Rogue>, Option<(u32, Vec<Payload>, KeyExchange)>),
}

pub struct Hand {
    at: SocketAddr,
    /// Whom he says he is, and the secret by which he proves it.
    who: (&'static str, &'static str),
    state: State,
    /// Messages of the log that he has read.
    read: usize,
}

impl Hand {
    /// He takes the next step at this place, which may be to begin anew.
    pub fn go_on(scene: &mut Scene, at: SocketAddr, who: (&'static str, &'static str)) {
        let anew = scene.rng.below(12) == 0;
        let known = scene.hands.iter().position(|hand| hand.at == at);
        let mut hand = match known.map(|index| scene.hands.swap_remove(index)) {
            Some(hand) if !anew => hand,
            _ => return Hand::begin(scene, at, who),
        };
        hand.hear(scene);
        if who.1 == FORGED {
            if hand.throw_forged(scene) {
                return;
            }
        } else {
            hand.act(scene);
        }
        scene.hands.push(hand);
        let surplus = scene.hands.len().saturating_sub(HANDS_MAX);
        scene.hands.drain(..surplus);
    }

    /// A place where he has begun something with this secret, and goes on with it; most of the time, if there is one.
    pub fn at_work(scene: &mut Scene, secret: &str) -> Option<SocketAddr> {
        let begun = scene.hands.iter().find(|hand| hand.who.1 == secret).map(|hand| hand.at);
        begun.filter(|_| scene.rng.below(3) > 0)
    }

    fn begin(scene: &mut Scene, at: SocketAddr, who: (&'static str, &'static str)) {
        let mut first = scene.templates[1].clone();
        first.header.initiator_spi = IkeSpi(scene.rng.next() | 1);
        let opening = Opening::like(first);
        let (to, read) = (scene.at(GATEWAY), scene.world.log.len());
        scene.throw(at, to, &opening.bytes());
        scene.hands.push(Hand { at, who, state: State::Opening(Box::new(opening)), read });
    }

    /// Reads what has come since he looked last.
    fn hear(&mut self, scene: &mut Scene) {
        let from = std::mem::replace(&mut self.read, scene.world.log.len());
        let mine = |(_, to, _): &&(SocketAddr, SocketAddr, Vec<u8>)| *to == self.at;
        let came: Vec<Vec<u8>> = scene.world.log[from..].iter().filter(mine).map(|(_, _, datagram)| datagram.clone()).collect();
        for datagram in came {
            self.take(scene, &datagram);
        }
    }

    fn take(&mut self, scene: &mut Scene, datagram: &[u8]) {
        match &mut self.state {
            State::Opening(opening) => {
                let Ok(answer) = Message::decode(datagram.get(4..).unwrap_or_default()) else { return };
                if answer.header.initiator_spi != opening.request.header.initiator_spi {
                    return;
                }
                if let Some(Payload::Notify(cookie)) = answer.payloads.first()
                    && cookie.kind == NotifyType::COOKIE
                {
                    let is_cookie = |one: &Payload| matches!(one, Payload::Notify(notify) if notify.kind == NotifyType::COOKIE);
                    opening.request.payloads.retain(|one| !is_cookie(one));
                    opening.request.payloads.insert(0, cookie.clone().into());
                    let (to, bytes) = (scene.at(GATEWAY), opening.bytes());
                    return scene.throw(self.at, to, &bytes);
                }
                let first = opening.request.clone();
                let opening = std::mem::replace(opening.as_mut(), Opening::like(first));
                if let Some(rogue) = opening.finish(&answer, self.who.0, self.who.1) {
                    self.state = State::Open(Box::new(rogue), None);
                }
            }
            State::Open(rogue, more) => {
                let Some((first, inner)) = rogue.read(datagram, rogue.next_id) else { return };
                let id = rogue.next_id;
                rogue.next_id += 1;
                if let Some((asked, payloads, exchange)) = more.take_if(|(asked, ..)| *asked == id)
                    && let Ok(answer) = decode_payloads(first, &inner)
                {
                    rogue.take_more(exchange, asked, &payloads, &answer);
                }
            }
        }
    }

    /// Sends something.
    fn act(&mut self, scene: &mut Scene) {
        let to = scene.at(GATEWAY);
        let State::Open(rogue, more) = &mut self.state else { return };
        let id = rogue.next_id + [0, 0, 0, 0, 1, 5, u32::MAX][scene.rng.below(7) as usize].min(u32::MAX - rogue.next_id);
        let mut from = self.at;
        let (kind, payloads) = match scene.rng.below(16) {
            0..=3 if more.is_none() && rogue.next_id == 1 => {
                let message = ask_for_more(rogue, more);
                return scene.throw_load(from, to, Load::Ike(message));
            }
            0..=5 => (ExchangeType::IKE_AUTH, authentication(scene, rogue)),
            6 => (ExchangeType::IKE_FOLLOWUP_KE, new_child(scene, None)),
            7 | 8 => (ExchangeType::CREATE_CHILD_SA, new_child(scene, None)),
            9 => {
                let spi = heard_spi(scene);
                (ExchangeType::CREATE_CHILD_SA, new_child(scene, spi))
            }
            10 => (ExchangeType::CREATE_CHILD_SA, new_ike(scene)),
            11 => {
                let spis = heard_spi(scene).into_iter().chain([Spi(0x1234_5678)]).collect();
                (ExchangeType::INFORMATIONAL, vec![Delete::esp(spis).into()])
            }
            12 => {
                // From the honest peer's address, or from that of nobody.
                from = if scene.rng.below(2) == 0 { scene.at(HONEST) } else { scene.anywhere() };
                (ExchangeType::INFORMATIONAL, vec![Notify::new(NotifyType::UPDATE_SA_ADDRESSES).into()])
            }
            13 => (ExchangeType::INFORMATIONAL, informational(scene)),
            14 => return self.throw_fragments(scene),
            _ => (ExchangeType(scene.rng.below(60) as u8), Vec::new()),
        };
        let message = rogue.seal(kind, id, &payloads);
        scene.throw_load(from, to, Load::Ike(message));
    }

    /// A proof that is none, from where he is, or from where the honest peer is, or from anywhere; if he is so far.
    fn throw_forged(&mut self, scene: &mut Scene) -> bool {
        let (to, honest, anywhere) = (scene.at(GATEWAY), scene.at(HONEST), scene.anywhere());
        let from = [self.at, honest, anywhere][scene.rng.below(3) as usize];
        let State::Open(rogue, more) = &mut self.state else { return false };
        if rogue.next_id == 1 && scene.proposals_want_more() {
            if more.is_none() {
                let message = ask_for_more(rogue, more);
                scene.throw_load(self.at, to, Load::Ike(message));
            }
            return false;
        }
        let message = rogue.seal(ExchangeType::IKE_AUTH, rogue.next_id, &forged_proof());
        scene.throw_load(from, to, Load::Ike(message));
        true
    }

    /// Some of the fragments of a message that is as long as any can be, or one that never is whole.
    fn throw_fragments(&mut self, scene: &mut Scene) {
        let (to, from) = (scene.at(GATEWAY), self.at);
        let State::Open(rogue, _) = &mut self.state else { return };
        let (id, total) = (rogue.next_id, [2, 16, 60][scene.rng.below(3) as usize]);
        for _ in 0..8 {
            let fragment = Fragment { number: 1 + scene.rng.below(total) as u16, total: total as u16 };
            let message = rogue.seal_fragment(ExchangeType::IKE_AUTH, id, fragment, &[0; 1100]);
            scene.throw_load(from, to, Load::Ike(message));
        }
    }
}

/// A request for the additional key exchange, which is remembered.
fn ask_for_more(rogue: &mut Rogue, more: &mut Option<(u32, Vec<Payload>, KeyExchange)>) -> Vec<u8> {
    let exchange = KeyExchange::start(KeyExchangeMethod::MlKem768).expect("a key");
    let payloads = vec![Payload::Ke { method: exchange.method().id(), data: exchange.public().to_vec() }];
    let message = rogue.seal(ExchangeType::IKE_INTERMEDIATE, rogue.next_id, &payloads);
    *more = Some((rogue.next_id, payloads, exchange));
    message
}

/// The name of the honest peer, with a certificate for it that nobody has issued, behind it others, and a signature of something else.
fn forged_proof() -> Vec<Payload> {
    static PROOF: OnceLock<Vec<Payload>> = OnceLock::new();
    let make = || {
        let ca = Authority::new("CA of nobody");
        let proofs = (0..8).map(|_| ca.issue_for(&[GUEST_NAME]));
        let certificates = proofs.flat_map(|proof| proof.certificates(&[]));
        let certificates = certificates.map(|(encoding, data)| Payload::Cert { encoding, data });
        let signed = ca.issue_for(&[GUEST_NAME]).sign(Prf::HmacSha256, &SignatureAlgorithm::HASHES, b"something else");
        let AuthData { method, data } = signed.expect("a signature");
        let id = GUEST_NAME.parse::<Identity>().expect("an identity").to_payload();
        std::iter::once(Payload::IdI(id)).chain(certificates).chain([Payload::Auth { method, data }]).collect()
    };
    PROOF.get_or_init(make).clone()
}

/// IKE_AUTH as it should be; with a Child SA, or without one.
fn authentication(scene: &mut Scene, rogue: &Rogue) -> Vec<Payload> {
    let id = rogue.name.parse::<Identity>().expect("an identity").to_payload();
    let mut payloads = rogue.proof(rogue.next_id, id, None);
    if scene.rng.below(3) > 0 {
        payloads.extend(child(scene));
    }
    if scene.rng.below(3) == 0 {
        payloads.push(Notify::new(NotifyType::INITIAL_CONTACT).into());
    }
    payloads
}

/// SA, TSi and TSr; perhaps with networks that are somebody else's.
fn child(scene: &mut Scene) -> Vec<Payload> {
    let spi = (0x1000 + scene.rng.below(0x7fff_0000)).to_be_bytes().to_vec();
    let transforms = vec![Transform::of_suite(Suite::Aes128Gcm), Transform::esn(EsnId::ESN), Transform::esn(EsnId::NO_ESN)];
    let proposal = Proposal { number: 1, protocol: ProtocolId::ESP, spi, transforms };
    let networks = ["10.1.0.0/16", "10.1.7.0/24", "0.0.0.0/0", "10.3.0.0/16"];
    let mine = net(networks[scene.rng.below(4) as usize]);
    let [mine, theirs] = [mine, net("10.2.0.0/16")].map(|selector| vec![TrafficSelector::Ip(selector)]);
    vec![Payload::Sa(vec![proposal]), Payload::TsI(mine), Payload::TsR(theirs)]
}

fn nonce(scene: &mut Scene) -> Payload {
    let mut nonce = vec![0; 32];
    scene.rng.fill(&mut nonce);
    Payload::Nonce(nonce)
}

/// A new Child SA, or one in the place of another one.
fn new_child(scene: &mut Scene, replaces: Option<Spi>) -> Vec<Payload> {
    let rekey = replaces.map(|spi| Notify::new(NotifyType::REKEY_SA).about(ProtocolId::ESP, spi).into());
    let mut payloads: Vec<Payload> = rekey.into_iter().collect();
    payloads.extend(child(scene));
    payloads.insert(1, nonce(scene));
    payloads
}

/// An IKE SA in the place of this one; its answer is never looked at.
fn new_ike(scene: &mut Scene) -> Vec<Payload> {
    let sa = scene.templates[1].payloads.iter().find_map(|payload| match payload {
        Payload::Sa(proposals) => Some(proposals.clone()),
        _ => None,
    });
    let mut proposals = sa.expect("proposals");
    proposals.iter_mut().for_each(|proposal| proposal.spi = scene.rng.next().to_be_bytes().to_vec());
    let exchange = KeyExchange::start(KeyExchangeMethod::X25519).expect("a key");
    let ke = Payload::Ke { method: KeyExchangeMethod::X25519.id(), data: exchange.public().to_vec() };
    vec![Payload::Sa(proposals), nonce(scene), ke]
}

/// The SPI of a packet that passed by; perhaps of somebody else.
fn heard_spi(scene: &mut Scene) -> Option<Spi> {
    let esp = |load: &Load| if let Load::Esp(esp) = load { Some(esp.spi) } else { None };
    scene.world.overheard.as_ref()?.iter().find_map(|(_, _, load)| esp(load))
}

fn informational(scene: &mut Scene) -> Vec<Payload> {
    match scene.rng.below(6) {
        0 => vec![Delete::ike().into()],
        1 => vec![Notify::new(NotifyType::INITIAL_CONTACT).into()],
        2 => vec![Notify::new(NotifyType::COOKIE2).with_data(vec![3; 64]).into()],
        3 => (0..60).map(|_| Notify::new(NotifyType::NO_ADDITIONAL_SAS).into()).collect(),
        4 => vec![Payload::Vendor(vec![5; 60_000])],
        _ => Vec::new(),
    }
}
