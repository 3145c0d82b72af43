//! Finds out what NAT lies before us: questions to STUN servers from a few fresh sockets, in under two seconds (RFC 5780).
//!
//! 1. The first socket asks every server where it is seen; mapping is what the answers have in common.
//! 2. With the first answer, sockets that have sent nothing before ask that server: their ports show the rule by which ports are given.
//! 3. With the first answer that names a second address of its server (OTHER-ADDRESS), the first socket asks there, too, and another
//!    one asks to be answered from there (CHANGE-REQUEST): filtering is what gets in. It is one of its own, since a socket that has
//!    sent to the second address would be let in by every filter (RFC 5780 §4.4).
//! 4. Once two sockets know where they are seen, each sends there to the other one: hairpin is whether that arrives.
//! 5. Where nobody answers for half a second, the first two servers are asked over TCP, which tells blocked UDP from a network that wants a
//!    login first.
//!
//! All of that goes on at once. What follows from an answer is certain; what follows from silence is only said if, at the rate at which
//! other answers were lost, it would be one by chance in less than one of a hundred cases. One value is for one IP version.
//!
//! The shell owns the sockets, [`SOCKETS`] of them, all at one local address.

mod conclusion;
mod facts;
mod portal;
mod probe;
mod punching;
mod verdict;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

pub use facts::{Allocation, Asked, Class, Filtering, Gap, Mapping, Portal, Report, Udp};
pub use punching::{Advice, Effort, Method, Peer, advice};

use super::codec::{BindingAnswer, BindingRequest, Change, Message, Transaction};
pub use crate::limits::{STUN_SERVERS_MAX, TCP_ANSWER_MAX};
use crate::random::Random;
use probe::{Ask, Probe};

/// Sockets that the shell opens: the first, that of the filter, and fresh ones.
pub const SOCKETS: usize = 6;
const FIRST: usize = 0;
const FILTER: usize = 1;
const FRESH: std::ops::Range<usize> = 2..SOCKETS;
/// When all is over, whatever is still open.
pub const DEADLINE: Duration = Duration::from_millis(1900);
/// Nothing is begun later that needs silence to be believed.
const LAST_BEGIN: Duration = Duration::from_millis(1200);
/// Without any answer, TCP is tried after so long.
const TCP_AFTER: Duration = Duration::from_millis(500);
/// How long an answer is waited for: three times what the first one took, within these bounds.
const PATIENCE_LEAST: Duration = Duration::from_millis(250);
const PATIENCE_MOST: Duration = Duration::from_millis(700);
/// What every request is filled up to, so that no answer is longer: four addresses of IPv6 and a few words.
const REQUEST_LEN: usize = 160;
const WEB_PORT: u16 = 80;

/// A datagram to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// From which of the sockets.
    pub socket: usize,
    pub to: SocketAddr,
    pub payload: Vec<u8>,
}

/// What the shell is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// To be sent over a TCP connection; the first bytes of the answer go to [`Discovery::handle_tcp`], none where nothing comes.
    AskByTcp { question: TcpQuestion, to: SocketAddr, payload: Vec<u8> },
    /// All is found out that can be. Nothing comes after it.
    Found(Box<Report>),
}

/// Which of the questions over TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcpQuestion {
    Stun,
    Web,
}

/// What came of the questions over TCP.
#[derive(Debug, Default)]
struct Tcp {
    asked: bool,
    id: Transaction,
    open: usize,
    /// The server has answered.
    passes: bool,
    portal: Option<Portal>,
}

/// The search over one IP version.
pub struct Discovery {
    random: Box<dyn Random + Send>,
    began: Instant,
    sockets: [SocketAddr; SOCKETS],
    servers: Vec<Asked>,
    probes: Vec<Probe>,
    /// The server that sees the fresh sockets: the first that has answered.
    reference: Option<usize>,
    /// The server with a second address.
    changing: Option<usize>,
    hairpin: Hairpin,
    useless_other: bool,
    tcp: Tcp,
    events: VecDeque<Event>,
    /// The time of the last call.
    looked: Instant,
    done: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hairpin {
    NotTried,
    Tried,
    Seen,
}

impl Discovery {
    /// Begins a search. `sockets`: the local addresses, with their ports. Of the servers the first few are asked, each once.
    pub fn new(
        now: Instant,
        servers: &[SocketAddr],
        sockets: [SocketAddr; SOCKETS],
        random: Box<dyn Random + Send>,
    ) -> Discovery {
        let mut asked: Vec<Asked> = Vec::new();
        for server in servers {
            if asked.len() < STUN_SERVERS_MAX && asked.iter().all(|one| one.server != *server) {
                asked.push(Asked { server: *server, rtt: None, other: None });
            }
        }
        let first = |(server, one): (usize, &Asked)| Probe::new(now, Ask::Mapped { server }, FIRST, one.server);
        Discovery {
            random,
            began: now,
            sockets,
            probes: asked.iter().enumerate().map(first).collect(),
            servers: asked,
            reference: None,
            changing: None,
            hairpin: Hairpin::NotTried,
            useless_other: false,
            tcp: Tcp::default(),
            events: VecDeque::new(),
            looked: now,
            done: false,
        }
    }

    /// A datagram that came to a socket; false where it is no answer to a question of this search, and somebody else's matter.
    pub fn handle_datagram(&mut self, now: Instant, socket: usize, from: SocketAddr, datagram: &[u8]) -> bool {
        let Ok(message) = Message::parse(datagram) else { return false };
        let is_own = self.probes.iter().any(|probe| probe.place_of(message.transaction).is_some());
        if is_own && !self.done {
            match BindingAnswer::of(&message) {
                Some(answer) => self.take_answer(now, socket, from, &answer),
                None => self.take_own(socket, message.transaction),
            }
            self.advance(now);
        }
        is_own
    }

    /// What came back over TCP, as far as it came.
    pub fn handle_tcp(&mut self, now: Instant, question: TcpQuestion, answer: &[u8]) {
        let answer = &answer[..answer.len().min(TCP_ANSWER_MAX)];
        let server = self.servers.first().map(|one| one.server);
        self.tcp.open = self.tcp.open.saturating_sub(1);
        match question {
            TcpQuestion::Stun => {
                let said = Message::parse(answer).ok().and_then(|message| BindingAnswer::of(&message));
                self.tcp.passes |= said.is_some_and(|said| said.transaction == self.tcp.id);
                self.tcp.portal = portal::at_stun_port(answer).or(self.tcp.portal.take());
            }
            TcpQuestion::Web => {
                let found = server.and_then(|server| portal::at_web_port(answer, server));
                self.tcp.portal = self.tcp.portal.take().or(found);
            }
        }
        self.advance(now);
    }

    /// It is as late as [`Discovery::poll_timeout`] said.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.advance(now);
    }

    /// The next datagram that is to be sent now.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<Transmit> {
        if self.done {
            return None;
        }
        let probe = self.probes.iter_mut().find(|probe| probe.due().is_some_and(|due| due <= now))?;
        let mut transaction = Transaction::default();
        self.random.fill(&mut transaction);
        probe.sent(now, transaction);
        let change = match probe.ask {
            Ask::ChangeBoth => Change { address: true, port: true },
            Ask::ChangePort => Change { address: false, port: true },
            _ => Change::default(),
        };
        let payload = BindingRequest { transaction, change, len: REQUEST_LEN, ..BindingRequest::default() }.encode();
        Some(Transmit { socket: probe.socket, to: probe.to, payload })
    }

    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When to call [`Discovery::handle_timeout`], and then look whether there is something to send; `None` once all is over.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.done {
            return None;
        }
        let patience = self.patience();
        let due = self.probes.iter().filter_map(Probe::due);
        let over = self.probes.iter().filter_map(|probe| probe.over_at(patience)).filter(|at| *at > self.looked);
        let tcp = (self.reference.is_none() && !self.tcp.asked).then_some(self.began + TCP_AFTER);
        Some(due.chain(over).chain(tcp).fold(self.began + DEADLINE, Instant::min))
    }

    fn take_answer(&mut self, now: Instant, socket: usize, from: SocketAddr, answer: &BindingAnswer) {
        let asked = self.probes.iter().enumerate().filter(|(_, probe)| probe.socket == socket);
        let found = asked.filter_map(|(place, probe)| probe.place_of(answer.transaction).map(|nth| (place, nth))).next();
        let Some((place, nth)) = found else { return };
        let (ask, to) = (self.probes[place].ask, self.probes[place].to);
        let other = self.changing.and_then(|server| self.servers[server].other);
        let expected = match (ask, other) {
            (Ask::Hairpin, _) => return,
            (Ask::ChangeBoth, Some(other)) => other,
            (Ask::ChangePort, Some(other)) => SocketAddr::new(to.ip(), other.port()),
            _ => to,
        };
        let mapped = answer.mapped.filter(|mapped| mapped.is_ipv4() == to.is_ipv4() && mapped.port() != 0);
        match mapped.filter(|_| answer.error.is_none() && is_same(from, expected)) {
            Some(mapped) => self.probes[place].answered(now, nth, mapped),
            // Who does not know CHANGE-REQUEST says so, or answers from where he was asked.
            None => self.probes[place].refused |= is_same(from, to) && self.probes[place].answer.is_none(),
        }
        if let (Ask::Mapped { server }, Some(_)) = (ask, mapped) {
            self.take_first(now, server, answer.other);
        }
    }

    /// A server has answered the first socket.
    fn take_first(&mut self, now: Instant, server: usize, other: Option<SocketAddr>) {
        let Some(rtt) = self.probes[server].answer.map(|answer| answer.rtt) else { return };
        let asked = &mut self.servers[server];
        asked.rtt.get_or_insert(rtt);
        let usable = |other: &SocketAddr| {
            other.ip() != asked.server.ip() && other.port() != asked.server.port() && facts::may_send_to(asked.server, *other)
        };
        self.useless_other |= other.is_some_and(|other| !usable(&other));
        asked.other = asked.other.or(other.filter(usable));
        let (to, other) = (asked.server, asked.other);
        // One on our side of the NAT shows nothing of it, and gives way to the first that does.
        if self.reference.is_none_or(|reference| self.is_inside(reference) && !self.is_inside(server)) {
            self.reference = Some(server);
            self.probes.extend(FRESH.map(|socket| Probe::new(now, Ask::Fresh, socket, to)));
        }
        if let Some(other) = other.filter(|_| self.changing.is_none() && now <= self.began + LAST_BEGIN) {
            self.changing = Some(server);
            self.probes.extend([
                Probe::new(now, Ask::FilterPlain, FILTER, to),
                Probe::new(now, Ask::MappedOther, FIRST, SocketAddr::new(other.ip(), to.port())),
                Probe::new(now, Ask::MappedOtherBoth, FIRST, other),
                Probe::new(now, Ask::ChangeBoth, FILTER, to),
                Probe::new(now, Ask::ChangePort, FILTER, to),
                // Last, so that a server which answers little has nothing left for it, if for one of the others.
                Probe::new(now, Ask::Control, FILTER, to),
            ]);
        }
    }

    /// Whether a server sees the first socket as it is.
    fn is_inside(&self, server: usize) -> bool {
        self.probes[server].answer.is_some_and(|answer| answer.mapped == self.sockets[FIRST])
    }

    /// A request: one of ours if the NAT has turned it round.
    fn take_own(&mut self, socket: usize, transaction: Transaction) {
        let of_ours = |probe: &Probe| probe.ask == Ask::Hairpin && probe.socket != socket;
        if self.probes.iter().any(|probe| of_ours(probe) && probe.place_of(transaction).is_some()) {
            self.hairpin = Hairpin::Seen;
        }
    }

    /// Begins what can be begun, and ends when nothing is open.
    fn advance(&mut self, now: Instant) {
        self.looked = now;
        if self.done {
            return;
        }
        self.begin_hairpin(now);
        let server = self.servers.first().map(|one| one.server);
        if let Some(server) = server.filter(|_| self.reference.is_none() && !self.tcp.asked && now >= self.began + TCP_AFTER) {
            self.random.fill(&mut self.tcp.id);
            let second = self.servers.get(1).map(|one| one.server);
            (self.tcp.asked, self.tcp.open) = (true, 2 + usize::from(second.is_some()));
            let payload = BindingRequest { transaction: self.tcp.id, ..BindingRequest::default() }.encode();
            let web = SocketAddr::new(server.ip(), WEB_PORT);
            self.events.extend([
                Event::AskByTcp { question: TcpQuestion::Stun, to: server, payload: payload.clone() },
                Event::AskByTcp { question: TcpQuestion::Web, to: web, payload: portal::web_question(server) },
            ]);
            // The first may be one for UDP alone.
            self.events.extend(second.map(|to| Event::AskByTcp { question: TcpQuestion::Stun, to, payload }));
        }
        let patience = self.patience();
        let all_over = self.probes.iter().all(|probe| probe.over_at(patience).is_some_and(|at| at <= now));
        let tcp_over = self.reference.is_some() || server.is_none() || (self.tcp.asked && self.tcp.open == 0);
        if now >= self.began + DEADLINE || (all_over && tcp_over) {
            self.done = true;
            let report = self.report(now);
            self.events.push_back(Event::Found(Box::new(report)));
        }
    }

    /// Two sockets send to where the other one is seen. Both, so that each is one to whom the other has sent, and no filter is in the way.
    fn begin_hairpin(&mut self, now: Instant) {
        let server = self.reference.map(|server| self.servers[server].server);
        let Some(server) = server.filter(|_| self.hairpin == Hairpin::NotTried && now <= self.began + LAST_BEGIN) else { return };
        let fresh = self.probes.iter().filter(|probe| probe.ask == Ask::Fresh);
        let seen = fresh.filter_map(|probe| probe.answer.map(|answer| (probe.socket, answer.mapped)));
        // Without a NAT it would be this machine that turns them round.
        let mut behind_nat =
            seen.filter(|(socket, mapped)| self.sockets[*socket] != *mapped && facts::may_send_to(server, *mapped));
        let (Some((one, one_mapped)), Some((other, other_mapped))) = (behind_nat.next(), behind_nat.next()) else { return };
        self.hairpin = Hairpin::Tried;
        self.probes.push(Probe::new(now, Ask::Hairpin, one, other_mapped));
        self.probes.push(Probe::new(now, Ask::Hairpin, other, one_mapped));
    }

    fn patience(&self) -> Duration {
        let rtt = self.reference.and_then(|server| self.servers[server].rtt);
        rtt.map_or(PATIENCE_MOST, |rtt| (3 * rtt).clamp(PATIENCE_LEAST, PATIENCE_MOST))
    }
}

/// Whether these are the same place, whatever interface a link-local address has.
fn is_same(one: SocketAddr, other: SocketAddr) -> bool {
    (one.ip(), one.port()) == (other.ip(), other.port())
}
