//! A host with its sockets, a NAT before it, links that delay and lose, and servers: what a shell does with a search, in virtual time.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use adit_engine::stun::codec::{Change, Class, Message, Writer, kind};
use adit_engine::stun::discovery::{Discovery, Event, Report, SOCKETS, TcpQuestion};
use adit_sim::nat::{Nat, NatConfig};
use adit_sim::rng::Rng;

/// Where the servers are: two addresses with two ports each.
pub const FIRST: ([u8; 4], u16) = ([198, 51, 100, 1], 3478);
pub const SECOND: ([u8; 4], u16) = ([198, 51, 100, 2], 3479);
/// Another server, somewhere else.
pub const ELSEWHERE: ([u8; 4], u16) = ([203, 0, 113, 200], 3478);
/// The address that the world sees.
pub const OUTSIDE: [u8; 4] = [203, 0, 113, 9];

pub fn address((ip, port): ([u8; 4], u16)) -> SocketAddr {
    (ip, port).into()
}

pub fn start() -> Instant {
    // An instant cannot be made of nothing, and this one is no time that anything depends on.
    static START: OnceLock<Instant> = OnceLock::new();
    #[expect(clippy::disallowed_methods, reason = "virtual time has to begin somewhere")]
    *START.get_or_init(Instant::now)
}

fn is_private(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V4(ip) if ip.is_private())
}

/// How a server does what it is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// As RFC 5780 says.
    Full,
    /// It has one address and says so: CHANGE-REQUEST is an attribute that it does not know (RFC 8489 §6.3.1).
    One,
    /// It has one address and overlooks CHANGE-REQUEST.
    Deaf,
    /// It names a second address, which is this one, and does not answer there.
    Names(SocketAddr),
    /// Nothing.
    Dead,
    /// Whoever asks is refused.
    Refuses,
    /// As RFC 5780 says, to a few questions of a second, and silent to the others: strangers get no more from a relay.
    Sparing,
}

/// Questions that a sparing server answers in a second.
const SPARING: u64 = 4;

/// What is answered to a question over TCP.
pub type ByTcp = fn(&[u8]) -> Vec<u8>;

/// All that is around a search.
pub struct World {
    pub now: Instant,
    pub nat: Nat,
    pub rng: Rng,
    inside: IpAddr,
    /// The servers, each by the address at which it is asked.
    pub servers: BTreeMap<SocketAddr, Manner>,
    /// What a sparing server still answers, in thousandths, and when that was.
    spared: (Instant, u64),
    /// One way.
    pub delay: Duration,
    /// Up to so many milliseconds more, for each packet another number: they overtake each other.
    pub jitter: u32,
    /// Of a thousand packets, on each way.
    pub lost: u32,
    /// What comes by TCP, to the question of STUN and to that of HTTP; nothing where it is left out.
    pub tcp: BTreeMap<bool, ByTcp>,
    flying: BTreeMap<(Instant, u64), (Place, SocketAddr, Vec<u8>)>,
    next: u64,
    /// Datagrams that the host has sent.
    pub sent: Vec<(SocketAddr, Vec<u8>)>,
}

#[derive(Clone, Copy, Debug)]
enum Place {
    /// At a socket of the host.
    Host(SocketAddr),
    /// At an address of the world.
    World(SocketAddr),
    Tcp(TcpQuestion),
}

impl World {
    /// A host behind a NAT, or, where its own address is the one outside, behind what filters without being one.
    pub fn new(config: NatConfig, seed: u64) -> World {
        World {
            now: start(),
            nat: Nat::new(config),
            rng: Rng::new(seed),
            inside: [10, 0, 0, 2].into(),
            servers: BTreeMap::from([(address(FIRST), Manner::Full)]),
            spared: (start(), 1000 * SPARING),
            delay: Duration::from_millis(10),
            jitter: 0,
            lost: 0,
            tcp: BTreeMap::new(),
            flying: BTreeMap::new(),
            next: 0,
            sent: Vec::new(),
        }
    }

    /// The same without a NAT.
    pub fn without_nat(config: NatConfig, seed: u64) -> World {
        World { inside: config.outside, ..World::new(config, seed) }
    }

    pub fn sockets(&self) -> [SocketAddr; SOCKETS] {
        std::array::from_fn(|place| SocketAddr::new(self.inside, 40_000 + 7 * place as u16))
    }

    /// A search over the servers that there are, to its end.
    pub fn search(&mut self) -> Report {
        let servers: Vec<SocketAddr> = self.servers.keys().copied().collect();
        let sockets = self.sockets();
        let mut ids = Rng::new(self.rng.next());
        let mut search = Discovery::new(self.now, &servers, sockets, Box::new(move |out: &mut [u8]| ids.fill(out)));
        for _ in 0..10_000 {
            while let Some(transmit) = search.poll_transmit(self.now) {
                self.send(sockets[transmit.socket], transmit.to, transmit.payload);
            }
            while let Some(event) = search.poll_event() {
                match event {
                    Event::Found(report) => return *report,
                    Event::AskByTcp { question, payload, .. } => {
                        let answer = self.tcp.get(&(question == TcpQuestion::Stun)).map_or(Vec::new(), |answer| answer(&payload));
                        self.fly(3 * self.delay, Place::Tcp(question), address(FIRST), answer);
                    }
                }
            }
            let due = search.poll_timeout().expect("a search that is not over waits for something");
            match self.step(due) {
                Some((Place::Host(to), from, bytes)) => {
                    let socket = sockets.iter().position(|socket| *socket == to).expect("a socket of the host");
                    search.handle_datagram(self.now, socket, from, &bytes);
                }
                Some((Place::Tcp(question), _, bytes)) => search.handle_tcp(self.now, question, &bytes),
                Some((Place::World(_), ..)) => unreachable!("the world keeps what is its own"),
                None => search.handle_timeout(self.now),
            }
        }
        panic!("the search does not come to an end");
    }

    fn fly(&mut self, delay: Duration, to: Place, from: SocketAddr, bytes: Vec<u8>) {
        self.next += 1;
        let jitter = Duration::from_millis(self.rng.below(self.jitter + 1).into());
        self.flying.insert((self.now + delay + jitter, self.next), (to, from, bytes));
    }

    fn is_lost(&mut self) -> bool {
        self.rng.below(1000) < self.lost
    }

    /// A datagram leaves a socket of the host. What is lost is lost beyond the NAT.
    pub fn send(&mut self, from: SocketAddr, to: SocketAddr, bytes: Vec<u8>) {
        self.sent.push((to, bytes.clone()));
        // Who is on the same side sees the host as it is.
        let is_inside = self.inside != self.nat.config.outside && is_private(to.ip());
        let mapped = if is_inside { Some(from) } else { self.nat.outbound(self.now, from, to, &mut self.rng) };
        let Some(mapped) = mapped else { return };
        if !self.is_lost() {
            let delay = if to.ip() == self.nat.config.outside { Duration::from_millis(1) } else { self.delay };
            self.fly(delay, Place::World(to), mapped, bytes);
        }
    }

    fn step(&mut self, until: Instant) -> Option<(Place, SocketAddr, Vec<u8>)> {
        loop {
            let next = self.flying.first_key_value().map(|((at, _), _)| *at).filter(|at| *at <= until);
            let Some(at) = next else {
                self.now = self.now.max(until);
                return None;
            };
            self.now = self.now.max(at);
            let (_, (place, from, bytes)) = self.flying.pop_first()?;
            match place {
                Place::World(to) if to.ip() == self.nat.config.outside => {
                    if let Some(inside) = self.nat.inbound(self.now, from, to.port()) {
                        return Some((Place::Host(inside), from, bytes));
                    }
                }
                Place::World(to) if to.ip() == self.inside => return Some((Place::Host(to), from, bytes)),
                Place::World(to) => self.serve(to, from, &bytes),
                arrived => return Some((arrived, from, bytes)),
            }
        }
    }

    /// What comes next to the host, with its socket and where it came from, at the latest at this time. Time goes on until then.
    pub fn next(&mut self, until: Instant) -> Option<(SocketAddr, SocketAddr, Vec<u8>)> {
        match self.step(until)? {
            (Place::Host(to), from, bytes) => Some((to, from, bytes)),
            (Place::World(_) | Place::Tcp(_), ..) => None,
        }
    }

    /// Whether a sparing server answers once more.
    fn is_spared(&mut self) -> bool {
        let earned = (self.now - self.spared.0).as_millis() as u64 * SPARING;
        let left = (self.spared.1 + earned).min(1000 * SPARING);
        let answers = left >= 1000;
        self.spared = (self.now, if answers { left - 1000 } else { left });
        answers
    }

    /// A request comes to an address of a server.
    fn serve(&mut self, at: SocketAddr, from: SocketAddr, bytes: &[u8]) {
        let second = address(SECOND);
        let message = Message::parse(bytes).expect("what the host sends is a message");
        let change = Change::of(&message);
        let of_first = [address(FIRST).ip(), second.ip()].contains(&at.ip());
        let manner = self.servers.get(&at).copied().or_else(|| self.servers.get(&address(FIRST)).copied().filter(|_| of_first));
        let (manner, first) = (manner.unwrap_or(Manner::Dead), address(FIRST));
        let manner = if manner == Manner::Sparing && self.is_spared() { Manner::Full } else { manner };
        let is_other = at.ip() == second.ip() || at.port() == second.port();
        if matches!(manner, Manner::Dead | Manner::Sparing) || (is_other && manner != Manner::Full) {
            return;
        }
        let unknown = change != Change::default() && manner == Manner::One;
        let class = if unknown || manner == Manner::Refuses { Class::Error } else { Class::Success };
        let mut answer = Writer::answer(class, &message);
        let mut origin = at;
        match manner {
            Manner::Refuses => drop(answer.put_error(401)),
            Manner::One if unknown => drop(answer.put_error(420)),
            Manner::Full => {
                let swap = |one: SocketAddr, other: SocketAddr| if at.ip() == one.ip() { other.ip() } else { one.ip() };
                let other_port = if at.port() == first.port() { second.port() } else { first.port() };
                let ip = if change.address { swap(first, second) } else { at.ip() };
                origin = SocketAddr::new(ip, if change.port { other_port } else { at.port() });
                answer.put_address(kind::OTHER_ADDRESS, SocketAddr::new(swap(first, second), other_port));
            }
            Manner::Names(other) => drop(answer.put_address(kind::OTHER_ADDRESS, other)),
            Manner::One | Manner::Deaf | Manner::Dead | Manner::Sparing => {}
        }
        if class == Class::Success {
            answer.put_address(kind::XOR_MAPPED_ADDRESS, from);
        }
        let to = match message.fixed(kind::RESPONSE_PORT).map(|value: [u8; 4]| u16::from_be_bytes([value[0], value[1]])) {
            Some(port) if manner == Manner::Full => SocketAddr::new(from.ip(), port),
            _ => from,
        };
        let answer = answer.finish();
        assert!(answer.len() <= bytes.len(), "an answer of {} bytes to a request of {}", answer.len(), bytes.len());
        if !self.is_lost() {
            self.fly(self.delay, Place::World(to), origin, answer);
        }
    }
}
