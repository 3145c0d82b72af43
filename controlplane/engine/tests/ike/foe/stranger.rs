//! What somebody on the cable does who has no key: he hears everything, sends under any address, and receives where he is.

use std::net::SocketAddr;

use adit_engine::ike::PeerConfig;
use adit_proto::ike::{ExchangeType, Flags, Header, IkeSpi, Message, Notify, NotifyType, Payload, PayloadType, Version};

use adit_sim::*;

use super::Move;
use super::hand::{FORGED, Hand};
use super::scene::{Family, GATEWAY, GUEST_NAME, HONEST, PRETENDER, Scene};

pub const MOVES: &[Move] = &[
    ("junk", junk),
    ("what looks like a header", header),
    ("another version", version),
    ("real SPIs", real_spis),
    ("fragments with real SPIs", fragments),
    ("a first message from anywhere", init_from_anywhere),
    ("a first message under the honest address", init_under_an_address),
    ("first messages with their cookies", init_with_cookie),
    ("a replay", replay),
    ("a replay from elsewhere", replay_from_elsewhere),
    ("a replay that is changed", mutate),
    ("a copy that is faster from elsewhere", overtake),
    ("a forged notify", forge),
    ("a false name", pretend),
    ("a handshake without the secret", handshake_without_secret),
    ("certificates of nobody", handshake_with_certificates_of_nobody),
];

fn to_somebody(scene: &mut Scene) -> SocketAddr {
    let node = [GATEWAY, GATEWAY, HONEST][scene.rng.below(3) as usize];
    scene.at(node)
}

fn bytes(scene: &mut Scene, most: u32) -> Vec<u8> {
    let mut bytes = vec![0; scene.rng.below(most) as usize];
    scene.rng.fill(&mut bytes);
    bytes
}

/// Writes the length into the header, if there is one.
fn with_length(mut message: Vec<u8>) -> Vec<u8> {
    let len = u32::try_from(message.len()).expect("short");
    if let Some(field) = message.get_mut(24..28) {
        field.copy_from_slice(&len.to_be_bytes());
    }
    message
}

fn junk(scene: &mut Scene) {
    let (from, to, junk) = (scene.anywhere(), to_somebody(scene), bytes(scene, 300));
    match scene.rng.below(2) {
        0 => scene.throw_load(from, to, Load::Ike(junk)),
        _ => scene.throw(from, to, &with_length(junk)),
    }
}

fn any_header(scene: &mut Scene, spis: [u64; 2]) -> Header {
    let exchange = [34, 35, 36, 37, 43, 44, 200][scene.rng.below(7) as usize];
    let flags = Flags { initiator: scene.rng.below(2) == 0, response: scene.rng.below(2) == 0, version: scene.rng.below(8) == 0 };
    let id = [0, 1, 2, 3, 7, u32::MAX][scene.rng.below(6) as usize];
    Header::new(IkeSpi(spis[0]), IkeSpi(spis[1]), ExchangeType(exchange), flags, id)
}

fn with_body(scene: &mut Scene, header: Header) -> Vec<u8> {
    let body = [bytes(scene, 200), vec![7; 24]].concat();
    let first = PayloadType(scene.rng.below(60) as u8);
    let payload = if scene.rng.below(2) == 0 { Payload::Sk { first, body } } else { Payload::Skf { first, body } };
    Message { header, payloads: vec![payload] }.encode().expect("a message")
}

fn header(scene: &mut Scene) {
    let spis = [scene.rng.next(), [0, scene.rng.next()][scene.rng.below(2) as usize]];
    let (from, to, header) = (scene.anywhere(), to_somebody(scene), any_header(scene, spis));
    let message = with_body(scene, header);
    scene.throw(from, to, &message);
}

fn version(scene: &mut Scene) {
    let mut header = any_header(scene, [5, 0]);
    header.version = Version([0x10, 0x30, 0xf0, 0x00][scene.rng.below(4) as usize]);
    let (from, to) = (scene.anywhere(), to_somebody(scene));
    let message = with_body(scene, header);
    scene.throw(from, to, &message);
}

/// One of the last messages that he has heard: from where, whereto, and what.
fn overheard(scene: &mut Scene) -> Option<(SocketAddr, SocketAddr, Load)> {
    let heard = scene.world.overheard.as_ref()?;
    let count = u32::try_from(heard.len()).expect("few");
    let index = scene.rng.below(count) as usize;
    scene.world.overheard.as_ref()?.get(index).cloned()
}

fn overheard_ike(scene: &mut Scene) -> Option<(SocketAddr, SocketAddr, Vec<u8>)> {
    let log = &scene.world.log;
    let last = u32::try_from(log.len().min(40)).expect("few");
    let index = log.len().checked_sub(1 + scene.rng.below(last) as usize)?;
    let (from, to, payload) = log.get(index)?;
    (payload.len() > 4 + 28).then(|| (*from, *to, payload[4..].to_vec()))
}

/// The SPIs of somebody's IKE SA, and who sent the message that they were in, to whom.
fn heard_spis(scene: &mut Scene) -> Option<(SocketAddr, SocketAddr, [u64; 2])> {
    let (from, to, message) = overheard_ike(scene)?;
    let header = Header::decode(&message).ok()?;
    Some((from, to, [header.initiator_spi.0, header.responder_spi.0]))
}

fn real_spis(scene: &mut Scene) {
    let Some((from, to, spis)) = heard_spis(scene) else { return };
    let elsewhere = scene.anywhere();
    let header = any_header(scene, spis);
    let message = with_body(scene, header);
    let from = if scene.rng.below(2) == 0 { from } else { elsewhere };
    scene.throw(from, to, &message);
}

fn fragments(scene: &mut Scene) {
    let Some((from, to, spis)) = heard_spis(scene) else { return };
    let header = any_header(scene, spis);
    let total = [2, 3, 40, u16::MAX][scene.rng.below(4) as usize];
    let number = [1, 2, total, u16::MAX][scene.rng.below(4) as usize];
    let body = [&number.to_be_bytes()[..], &total.to_be_bytes(), &[7; 60]].concat();
    let payload = Payload::Skf { first: PayloadType::NOTIFY, body };
    let message = Message { header, payloads: vec![payload] }.encode().expect("a message");
    scene.throw(from, to, &message);
}

/// A first message as somebody honest sends it, for an IKE SA of his own.
fn init(scene: &mut Scene) -> Message {
    let mut message = scene.templates[scene.rng.below(2) as usize].clone();
    message.header.initiator_spi = IkeSpi(scene.rng.next() | 1);
    message
}

fn init_from_anywhere(scene: &mut Scene) {
    let (from, message) = (scene.anywhere(), init(scene));
    let to = scene.at(GATEWAY);
    scene.throw(from, to, &message.encode().expect("a message"));
}

fn init_under_an_address(scene: &mut Scene) {
    let mut from = scene.at(HONEST);
    if scene.rng.below(2) == 0 {
        from.set_port(1025);
    }
    let (to, message) = (scene.at(GATEWAY), init(scene));
    scene.throw(from, to, &message.encode().expect("a message"));
}

/// From one of many hosts in many networks at which he receives; those that were asked for a cookie before bring it.
fn init_with_cookie(scene: &mut Scene) {
    let to = scene.at(GATEWAY);
    bring_cookies(scene, to);
    let [network, host] = [scene.rng.below(40), scene.rng.below(8)].map(|number| number as u8);
    let mut from = scene.family.at([10, 250, network, host]);
    if scene.family == Family::V6 && scene.rng.below(2) == 0 {
        // On the link of the honest peer, or in its network.
        from = scene.family.at([192, 0, [2, network][scene.rng.below(2) as usize], 240 + host]);
    }
    let message = init(scene);
    scene.throw(from, to, &message.encode().expect("a message"));
    scene.begun.push_front((from, message));
    scene.begun.truncate(256);
}

fn bring_cookies(scene: &mut Scene, to: SocketAddr) {
    let from = scene.read.min(scene.world.log.len());
    scene.read = scene.world.log.len();
    let is_mine = |to: &SocketAddr| scene.begun.iter().any(|(at, _)| at == to);
    let answers: Vec<_> = scene.world.log[from..].iter().filter(|(_, to, _)| is_mine(to)).collect();
    let mut cookies = Vec::new();
    for (_, to, answer) in answers {
        let Ok(answer) = Message::decode(answer.get(4..).unwrap_or_default()) else { continue };
        let Some(Payload::Notify(cookie)) = answer.payloads.first() else { continue };
        let asked = scene.begun.iter().find(|(at, begun)| at == to && begun.header.initiator_spi == answer.header.initiator_spi);
        if let (NotifyType::COOKIE, Some((at, begun))) = (cookie.kind, asked) {
            let mut again = begun.clone();
            again.payloads.insert(0, Notify::new(NotifyType::COOKIE).with_data(cookie.data.clone()).into());
            cookies.push((*at, again));
        }
    }
    for (at, again) in cookies {
        scene.throw(at, to, &again.encode().expect("a message"));
    }
}

fn replay(scene: &mut Scene) {
    if let Some((from, to, load)) = overheard(scene) {
        scene.throw_load(from, to, load);
    }
}

fn replay_from_elsewhere(scene: &mut Scene) {
    let elsewhere = scene.anywhere();
    if let Some((_, to, load)) = overheard(scene) {
        scene.throw_load(elsewhere, to, load);
    }
}

/// Of what was sent last, before it arrives.
fn overtake(scene: &mut Scene) {
    let elsewhere = scene.anywhere();
    let depth = scene.rng.below(4) as usize;
    let newest = scene.world.overheard.as_ref().and_then(|heard| heard.get(depth).cloned());
    if let Some((_, to, load)) = newest {
        scene.world.inject_after(std::time::Duration::from_micros(10), elsewhere, to, load);
    }
}

fn mutate(scene: &mut Scene) {
    let Some((from, to, mut message)) = overheard_ike(scene) else { return };
    let at = scene.rng.below(u32::try_from(message.len()).expect("short")) as usize;
    match scene.rng.below(4) {
        0 => message[at] ^= 1 << scene.rng.below(8),
        1 => message = with_length(message[..at.max(28)].to_vec()),
        2 => message = with_length([&message[..], &bytes(scene, 40)].concat()),
        _ => message[18] = [34, 35, 36, 37, 43, 44][scene.rng.below(6) as usize],
    }
    scene.throw(from, to, &message);
}

/// An answer in the clear to what was just asked, or a request of the same SPIs, that says that all is over.
fn forge(scene: &mut Scene) {
    let Some((from, to, message)) = overheard_ike(scene) else { return };
    let Ok(asked) = Header::decode(&message) else { return };
    let kinds = [
        NotifyType::NO_PROPOSAL_CHOSEN,
        NotifyType::INVALID_KE_PAYLOAD,
        NotifyType::COOKIE,
        NotifyType::INVALID_IKE_SPI,
        NotifyType::AUTHENTICATION_FAILED,
        NotifyType::INVALID_SYNTAX,
        NotifyType::INITIAL_CONTACT,
    ];
    let notify = Notify::new(kinds[scene.rng.below(7) as usize]).with_data(bytes(scene, 40));
    let answers = scene.rng.below(3) > 0;
    let flags = Flags { initiator: answers != asked.flags.initiator, response: answers, version: false };
    let id = asked.message_id.wrapping_add(scene.rng.below(2));
    let header = Header::new(asked.initiator_spi, asked.responder_spi, asked.exchange, flags, id);
    let message = Message { header, payloads: vec![notify.into()] }.encode().expect("a message");
    let (from, to) = if answers { (to, from) } else { (from, to) };
    scene.throw(from, to, &message);
}

/// A gateway of his own that says that it is the honest peer, and has another secret.
fn pretend(scene: &mut Scene) {
    scene.world.nodes[PRETENDER].on = true;
    let config = scene.endpoint(8);
    scene.world.crash(PRETENDER, config, true);
    let (local_auth, remote_auth) = psk("a guess, which is none of the secrets here");
    let own = PeerConfig { local: Some(scene.at(PRETENDER)), local_auth, remote_auth, ..scene.configs[2].clone() };
    debug_assert_eq!(own.local_id.to_string(), GUEST_NAME);
    scene.world.set_peer(PRETENDER, PEER, own);
}

/// All that can be done of a handshake by who has no secret.
fn handshake_without_secret(scene: &mut Scene) {
    let host = scene.rng.below(4) as u8;
    let at = scene.family.at([10, 251, host, 9]);
    Hand::go_on(scene, at, (GUEST_NAME, "a guess, which is none of the secrets here"));
}

/// One that ends with certificates of his own making and a signature that is none, and not where he has begun.
fn handshake_with_certificates_of_nobody(scene: &mut Scene) {
    // He goes on where he has begun, or begins in another network.
    let begun = Hand::at_work(scene, FORGED);
    let network = scene.rng.below(200) as u8;
    let at = begun.unwrap_or_else(|| scene.family.at([10, 249, network, 9]));
    Hand::go_on(scene, at, (GUEST_NAME, FORGED));
}
