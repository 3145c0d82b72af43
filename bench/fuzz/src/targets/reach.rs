//! STUN messages, and a TURN server between clients with and without credentials, peers and time.
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use adit_engine::crypto::Secret;
use adit_engine::stun::codec::{self, BindingAnswer, Class, Integrity, Key, Message, Writer, kind};
use adit_engine::turn::credentials::{long_term_key, name, password};
use adit_engine::turn::frames::frame_len;
use adit_engine::turn::{Config, Event, Link, Now, Outside, Server, Side, Train, Tuple, method};

use super::Input;

const SECRET: &[u8] = b"known to the fuzzer";
const UNIX: u64 = 1_000_000;

/// A message that is read is written again: the same attributes in the same order, in as many bytes.
pub fn stun_message(data: &[u8]) {
    let framed = frame_len(data);
    let Ok(message) = Message::parse(data) else { return };
    assert!(codec::is_stun(data) && framed == Ok(Some(data.len())));
    assert!(message.sealed_by(&Key::new(b"nobody has this key")).is_none());
    let mut out = Writer::answer(message.class, &message);
    for (kind, value) in message.attributes() {
        out.put(kind, value);
        if let Some(address) = message.address(kind) {
            let mut again = Writer::answer(message.class, &message);
            again.put_address(kind, address);
            let again = again.finish();
            assert_eq!(Message::parse(&again).ok().and_then(|again| again.address(kind)), Some(address));
        }
    }
    let written = out.finish();
    assert!(written.len() <= data.len());
    let again = Message::parse(&written).expect("what was read can be written");
    assert!(again.attributes().eq(message.attributes()));
    assert_eq!((again.class, again.method, again.transaction), (message.class, message.method, message.transaction));
    assert!(message.error() < 700 && message.unknown(&[]).len() <= message.attributes().count());
    if let Some(answer) = BindingAnswer::of(&message) {
        assert_eq!(answer.error.is_some(), message.class == Class::Error);
    }
}

/// A server, what it has opened, and what strangers cost.
struct Scene {
    server: Server,
    since: Duration,
    began: Instant,
    opened: BTreeSet<SocketAddr>,
    nonces: [String; 2],
    drawn: u32,
}

fn client(number: u8) -> Tuple {
    let link = if number & 2 == 0 { Link::Udp(0) } else { Link::Stream(u64::from(number)) };
    Tuple { client: SocketAddr::from(([192, 0, 2, number & 1], 5000)), link }
}

fn peer(number: u8) -> SocketAddr {
    [([8, 8, 8, 8], 53), ([9, 9, 9, 9], 53), ([127, 0, 0, 1], 53), ([203, 0, 114, 1], 49_152)][usize::from(number & 3)].into()
}

impl Scene {
    fn new() -> Scene {
        let relayed =
            ["203.0.114.1", "2606:4700::1"].map(|address| address.parse::<IpAddr>().expect("an address").into()).to_vec();
        let mut config = Config::new(Secret::copy_of(SECRET), relayed);
        config.nonce_life = Duration::from_secs(1 << 20);
        let began = Instant::now();
        let server = Server::new(config, began, &mut |out: &mut [u8]| out.fill(1));
        let (opened, nonces) = (BTreeSet::new(), Default::default());
        Scene { server, since: Duration::ZERO, began, opened, nonces, drawn: 0 }
    }

    fn now(&self) -> Now {
        Now { at: self.began + self.since, unix: UNIX + self.since.as_secs() }
    }

    fn handle(&mut self, from: Tuple, train: Train<'_>) {
        let (now, drawn, opened) = (self.now(), &mut self.drawn, &mut self.opened);
        let mut random = |out: &mut [u8]| {
            *drawn += 1;
            out.fill(*drawn as u8);
        };
        let mut open = |at| opened.insert(at);
        self.server.handle_client(now, from, train, &mut Outside { random: &mut random, open: &mut open });
        self.check();
    }

    /// What is sent has somewhere to go, and the sockets are those of allocations.
    fn check(&mut self) {
        while let Some(sent) = self.server.poll_transmit() {
            assert!(sent.bytes.len() <= 65_532 && (sent.segment == 0 || sent.segment < sent.bytes.len()), "{sent:?}");
            match sent.from {
                Side::Relayed(at) => {
                    assert!(self.opened.contains(&at), "{sent:?}");
                    let is_inside = sent.to.ip().is_loopback() || sent.to.ip().is_multicast() || sent.to.ip().is_unspecified();
                    assert!(!is_inside, "{sent:?}");
                }
                Side::Client(_) => self.learn(sent.to, &sent.bytes),
            }
        }
        while let Some(Event::Closed(at)) = self.server.poll_event() {
            assert!(self.opened.remove(&at), "{at} was not open");
        }
        assert!(self.server.allocations() <= self.opened.len() && self.opened.len() <= 2 * self.server.allocations());
    }

    fn learn(&mut self, to: SocketAddr, bytes: &[u8]) {
        let message = Message::parse(bytes).ok();
        if let Some(nonce) = message.and_then(|message| message.text(kind::NONCE)) {
            self.nonces[usize::from(to == client(1).client)] = nonce.to_owned();
        }
    }

    /// A request with attributes as they come, and with credentials.
    fn sealed(&mut self, number: u8, method: u16, attributes: &mut Input<'_>) {
        let mut out = Writer::new(Class::Request, method, [number; 12]);
        while !attributes.is_empty() {
            let kind = attributes.u16();
            match attributes.u8() {
                value @ 0..=15 => out.put(kind, attributes.bytes(value.into())),
                value => out.put_address(kind, peer(value)),
            };
        }
        let name = name(["one", "two"][usize::from(number >> 2 & 1)], UNIX + 7200);
        let key = long_term_key(&name, "adit", &password(&Secret::copy_of(SECRET), &name));
        let nonce = self.nonces[usize::from(number & 1)].clone();
        out.put(kind::USERNAME, name.as_bytes()).put(kind::REALM, b"adit").put(kind::NONCE, nonce.as_bytes());
        out.seal(Integrity::Sha1, &key).put_fingerprint();
        self.handle(client(number), Train::one(&out.finish()));
    }
}

/// Each step: what happens, who does it, and a part with what it takes.
pub fn turn_server(data: &[u8]) {
    let (mut scene, mut input) = (Scene::new(), Input::new(data));
    for number in [0, 1] {
        let mut out = Writer::new(Class::Request, method::ALLOCATE, [number; 12]);
        out.fill_up_to(64);
        scene.handle(client(number), Train::one(&out.finish()));
    }
    for _ in 0..64 {
        if input.is_empty() {
            break;
        }
        let (step, number) = (input.u8(), input.u8());
        let part = input.part();
        match step % 6 {
            0 => scene.handle(client(number), Train::one(part)),
            1 => scene.sealed(number, u16::from(step / 6 % 16), &mut Input::new(part)),
            2 => scene.handle(client(number), Train { bytes: part, segment: usize::from(step / 6), ecn: step & 3 }),
            3 => {
                let relayed = scene.opened.iter().nth(usize::from(number >> 2)).copied().unwrap_or_else(|| peer(3));
                scene.server.handle_peer(scene.now(), relayed, peer(number), Train { bytes: part, segment: step.into(), ecn: 0 });
                scene.check();
            }
            4 => {
                scene.since += Duration::from_secs(u64::from(number) * 4);
                scene.server.handle_timeout(scene.now().at);
                scene.check();
            }
            _ => {
                scene.server.handle_closed(client(number));
                scene.check();
            }
        }
        assert!(scene.server.poll_timeout().is_none_or(|at| at > scene.now().at) || step % 6 != 4);
    }
    scene.since += Duration::from_secs(1 << 13);
    scene.server.handle_timeout(scene.now().at);
    scene.check();
    assert_eq!((scene.server.allocations(), scene.opened.len()), (0, 0));
}
