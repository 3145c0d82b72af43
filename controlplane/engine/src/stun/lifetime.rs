//! How long a mapping lives that nothing is sent by: a ladder of sockets, each of which rests for its own time and is then called
//! (RFC 5780 §4.6).
//!
//! 1. Every socket but the first asks the server once, which makes its mapping, and then sends nothing.
//! 2. When it has rested for its time, the first socket has the server answer to the port of that mapping (RESPONSE-PORT). What arrives
//!    proves that the mapping is still there; a socket is called in one rest only, since the call itself may keep the mapping.
//! 3. After the first rung that is dead, a second ladder of the same sockets divides what is left in between.
//!
//! The first two rungs rest so shortly that they must be alive: where neither is, the server cannot do it. It takes as long as mappings live, so
//! it is for the background. A mapping that dies of age, used or not, shows as one that dies of rest.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::codec::{BindingAnswer, BindingRequest, Message, Transaction};
use super::discovery::Transmit;
use crate::random::Random;

/// The rests of the first ladder, in seconds.
const RESTS: [u64; 11] = [1, 5, 10, 20, 30, 45, 60, 90, 120, 180, 300];
/// Rungs of the second one.
const FINER: u32 = 4;
/// Sockets that the shell opens, at one local address.
pub const SOCKETS: usize = RESTS.len() + 1;
/// The one that calls the others.
const CALLER: usize = 0;
/// How often a rung is opened or called, and how far apart.
const TIMES: usize = 5;
const EVERY: Duration = Duration::from_millis(500);
/// What every request is filled up to, so that no answer is longer.
const REQUEST_LEN: usize = 160;

/// What was found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// It lived through the one rest and not through the other.
    Between(Duration, Duration),
    /// It lived through the longest.
    AtLeast(Duration),
    /// The server does not answer, or not to another port.
    Unknown(Why),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    NoAnswer,
    /// It does not know RESPONSE-PORT, or sees the sockets at different addresses.
    NoResponsePort,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Opening,
    /// Its mapping has this port, and nothing was sent since.
    Resting(u16, Instant),
    Calling(u16),
    Alive,
    Dead,
    /// The server has not told where it is seen.
    Silent,
}

#[derive(Debug)]
struct Rung {
    socket: usize,
    rest: Duration,
    state: State,
    /// Since when it is in this state, and what was sent in it.
    since: Instant,
    sent: Vec<(Transaction, Instant)>,
}

/// The measurement.
pub struct Lifetime {
    random: Box<dyn Random + Send>,
    server: SocketAddr,
    rungs: Vec<Rung>,
    is_finer: bool,
    /// The longest rest that a mapping has lived through, of both ladders.
    lived: Duration,
    found: Option<Found>,
    reported: bool,
}

impl Lifetime {
    /// Begins to measure with a server that has OTHER-ADDRESS.
    pub fn new(now: Instant, server: SocketAddr, random: Box<dyn Random + Send>) -> Lifetime {
        let rests = RESTS.into_iter().map(Duration::from_secs);
        let rungs = rests.enumerate().map(|(place, rest)| Rung::new(now, place + 1, rest)).collect();
        Lifetime { random, server, rungs, is_finer: false, lived: Duration::ZERO, found: None, reported: false }
    }

    /// A datagram that came to a socket.
    pub fn handle_datagram(&mut self, now: Instant, socket: usize, from: SocketAddr, datagram: &[u8]) {
        let answer = Message::parse(datagram).ok().and_then(|message| BindingAnswer::of(&message));
        let from_server = (from.ip(), from.port()) == (self.server.ip(), self.server.port());
        if let Some(answer) = answer.filter(|_| from_server && self.found.is_none()) {
            self.take(now, socket, &answer);
        }
        self.advance(now);
    }

    pub fn handle_timeout(&mut self, now: Instant) {
        self.advance(now);
    }

    /// The next datagram that is to be sent now.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<Transmit> {
        let rung =
            self.rungs.iter_mut().filter(|_| self.found.is_none()).find(|rung| rung.due().is_some_and(|due| due <= now))?;
        let mut transaction = Transaction::default();
        self.random.fill(&mut transaction);
        let (socket, response_port) = match rung.state {
            State::Calling(port) => (CALLER, Some(port)),
            _ => (rung.socket, None),
        };
        rung.sent.push((transaction, now));
        let request = BindingRequest { transaction, response_port, len: REQUEST_LEN, ..BindingRequest::default() };
        Some(Transmit { socket, to: self.server, payload: request.encode() })
    }

    /// What was found out, once.
    pub fn poll_event(&mut self) -> Option<Found> {
        self.found.filter(|_| !std::mem::replace(&mut self.reported, true))
    }

    /// When to call [`Lifetime::handle_timeout`] and look for something to send; `None` once all is over.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.found.is_some() {
            return None;
        }
        self.rungs.iter().filter_map(|rung| rung.due().or(rung.over())).min()
    }

    fn take(&mut self, now: Instant, socket: usize, answer: &BindingAnswer) {
        let of = |rung: &&mut Rung| rung.sent.iter().any(|(id, _)| *id == answer.transaction);
        let Some(rung) = self.rungs.iter_mut().find(of) else { return };
        let last = rung.sent.last().map(|(_, at)| *at);
        let state = match (rung.state, answer.mapped.filter(|_| answer.error.is_none()), last) {
            (State::Opening, Some(mapped), Some(last)) if socket == rung.socket => State::Resting(mapped.port(), last),
            (State::Opening, None, _) if socket == rung.socket => State::Silent,
            (State::Calling(_), Some(_), _) if socket == rung.socket => State::Alive,
            // The port is that of the caller by now: the mapping was forgotten, and another one has taken its place.
            (State::Calling(port), Some(mapped), _) if socket == CALLER && mapped.port() == port => State::Dead,
            // It was answered to where it was asked from, or refused.
            (State::Calling(_), ..) if socket == CALLER => {
                self.found = Some(Found::Unknown(Why::NoResponsePort));
                return;
            }
            _ => return,
        };
        if state == State::Alive {
            self.lived = self.lived.max(rung.rest);
        }
        rung.enter(now, state);
    }

    fn advance(&mut self, now: Instant) {
        if self.found.is_some() {
            return;
        }
        for rung in &mut self.rungs {
            match rung.state {
                State::Resting(port, since) if since + rung.rest <= now => rung.enter(now, State::Calling(port)),
                State::Opening if rung.over().is_some_and(|over| over <= now) => rung.enter(now, State::Silent),
                State::Calling(_) if rung.over().is_some_and(|over| over <= now) => rung.enter(now, State::Dead),
                _ => {}
            }
        }
        self.conclude(now);
    }

    /// The first dead rung ends a ladder, and so does the end of the last one.
    fn conclude(&mut self, now: Instant) {
        let unsettled = |rung: &Rung| !matches!(rung.state, State::Alive | State::Dead | State::Silent);
        let head = &self.rungs[..self.rungs.len().min(2)];
        if !self.is_finer {
            // One may have lost all its packets.
            if head.iter().any(unsettled) {
                return;
            }
            if head.iter().all(|rung| rung.state != State::Alive) {
                let silent = head.iter().all(|rung| rung.state == State::Silent);
                self.found = Some(Found::Unknown(if silent { Why::NoAnswer } else { Why::NoResponsePort }));
                return;
            }
        }
        // Whatever rested longer than one that is dead need not be waited for.
        let end = self.rungs.iter().find(|rung| rung.state == State::Dead && rung.rest > self.lived).map(|rung| rung.rest);
        let below = |rung: &&Rung| end.is_none_or(|end| rung.rest < end);
        if self.rungs.iter().filter(below).any(unsettled) {
            return;
        }
        self.found = match end {
            None => Some(Found::AtLeast(self.lived)),
            Some(end) if self.is_finer => Some(Found::Between(self.lived, end)),
            Some(end) => {
                self.refine(now, end);
                None
            }
        };
    }

    /// A ladder between what was lived through and what was not; its last rung is dead for certain.
    fn refine(&mut self, now: Instant, end: Duration) {
        let (from, parts) = (self.lived, FINER + 1);
        let rest = |part: u32| from + (end - from) * part / parts;
        let mut rungs: Vec<Rung> = (1..=FINER).map(|part| Rung::new(now, part as usize, rest(part))).collect();
        rungs.push(Rung { state: State::Dead, ..Rung::new(now, FINER as usize + 1, end) });
        (self.rungs, self.is_finer) = (rungs, true);
    }
}

impl Rung {
    fn new(now: Instant, socket: usize, rest: Duration) -> Rung {
        Rung { socket, rest, state: State::Opening, since: now, sent: Vec::new() }
    }

    fn enter(&mut self, now: Instant, state: State) {
        (self.state, self.since) = (state, now);
        self.sent.clear();
    }

    /// When something is to be sent for it.
    fn due(&self) -> Option<Instant> {
        let sends = matches!(self.state, State::Opening | State::Calling(_)) && self.sent.len() < TIMES;
        sends.then(|| self.sent.last().map_or(self.since, |(_, last)| *last + EVERY))
    }

    /// When its state ends by itself.
    fn over(&self) -> Option<Instant> {
        match (self.state, self.sent.last()) {
            (State::Resting(_, since), _) => Some(since + self.rest),
            (State::Opening | State::Calling(_), Some((_, last))) if self.sent.len() == TIMES => Some(*last + EVERY),
            _ => None,
        }
    }
}
