//! How the port of the data is seen from outside: STUN servers (RFC 8489) are asked from it again and again, which at the same time keeps
//! the NAT's mapping of it. What they say is where peers can perhaps reach us.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::codec::{BindingAnswer, BindingRequest, Message, Transaction};
use crate::limits::{REFLEXIVE_SERVERS_MAX, RESPONSE_PORT_MIN};
use crate::random::Random;

/// How often each server is asked: NATs forget after thirty seconds and more (RFC 4787 §4.3 asks for two minutes).
const EVERY: Duration = Duration::from_secs(20);
/// From a question to the next one while there is no answer, each time twice as long; after the last one nothing is known any more.
const WAIT_FIRST: Duration = Duration::from_millis(250);
const TRIES: u32 = 5;
/// A server that has not answered is tried again after so long.
const AGAIN: Duration = Duration::from_secs(5);
/// What every request is filled up to, so that no answer is longer.
const REQUEST_LEN: usize = 96;

#[derive(Debug)]
struct Server {
    at: SocketAddr,
    /// Those that were sent since it has answered: an answer may be late.
    asked: Vec<Transaction>,
    /// When it is asked next.
    next: Instant,
    /// Where it has seen us.
    seen: Option<SocketAddr>,
}

/// The questions, and what was answered.
pub struct Reflexive {
    random: Box<dyn Random + Send>,
    servers: Vec<Server>,
}

impl Reflexive {
    /// Asks nobody.
    pub fn new(random: Box<dyn Random + Send>) -> Reflexive {
        Reflexive { random, servers: Vec::new() }
    }

    /// These are asked from now on, as many as there may be. What others have said is forgotten.
    pub fn set_servers(&mut self, now: Instant, servers: &[SocketAddr]) {
        self.servers.retain(|server| servers.contains(&server.at));
        for at in servers {
            if self.servers.len() < REFLEXIVE_SERVERS_MAX && !self.servers.iter().any(|server| server.at == *at) {
                self.servers.push(Server { at: *at, asked: Vec::new(), next: now, seen: None });
            }
        }
    }

    /// Our addresses or routes are others: all are asked at once. What they said before holds until they answer, or do not.
    pub fn ask_again(&mut self, now: Instant) {
        for server in &mut self.servers {
            (server.asked, server.next) = (Vec::new(), now);
        }
    }

    /// A datagram came to the port. Says whether it answers a question of ours.
    pub fn handle_datagram(&mut self, now: Instant, from: SocketAddr, datagram: &[u8]) -> bool {
        let from = (from.ip(), from.port());
        let Some(server) = self.servers.iter_mut().find(|server| (server.at.ip(), server.at.port()) == from) else {
            return false;
        };
        let answer = Message::parse(datagram).ok().and_then(|message| BindingAnswer::of(&message));
        let Some(answer) = answer.filter(|answer| server.asked.contains(&answer.transaction)) else { return false };
        (server.asked, server.next) = (Vec::new(), now + EVERY);
        server.seen = answer.mapped.filter(|mapped| is_believed(*mapped, server.at));
        true
    }

    /// The next question that is to be sent now, and to whom.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<(SocketAddr, Vec<u8>)> {
        let server = self.servers.iter_mut().find(|server| server.next <= now)?;
        let tries = u32::try_from(server.asked.len()).unwrap_or(u32::MAX);
        if tries >= TRIES {
            // It is asked on, from the beginning.
            (server.asked, server.seen) = (Vec::new(), None);
            server.next = now + AGAIN;
            return self.poll_transmit(now);
        }
        let mut transaction = Transaction::default();
        self.random.fill(&mut transaction);
        server.asked.push(transaction);
        server.next = now + WAIT_FIRST * (1 << tries);
        let request = BindingRequest { transaction, len: REQUEST_LEN, ..BindingRequest::default() };
        Some((server.at, request.encode()))
    }

    /// When to look for something to send.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.servers.iter().map(|server| server.next).min()
    }

    /// Where we are seen, each once, without where we are anyway.
    pub fn addresses(&self, own: &[IpAddr], port: u16) -> Vec<SocketAddr> {
        let mut all: Vec<SocketAddr> = Vec::new();
        for seen in self.servers.iter().filter_map(|server| server.seen) {
            let is_own = own.contains(&seen.ip()) && seen.port() == port;
            if !is_own && !all.contains(&seen) {
                all.push(seen);
            }
        }
        all
    }
}

/// Whether a server may say that we are there: a server that lies must not aim our peers at the services of others.
fn is_believed(mapped: SocketAddr, server: SocketAddr) -> bool {
    let private = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.is_private() || ip.is_loopback() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unique_local() || ip.is_loopback() || ip.is_unicast_link_local(),
    };
    let (ip, port) = (mapped.ip(), mapped.port());
    ip.is_ipv4() == server.is_ipv4() && port >= RESPONSE_PORT_MIN && (!private(ip) || private(server.ip()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stun::codec::{Class, Writer, kind};
    use crate::testing::instant;

    const SEEN: &str = "203.0.113.9:31000";

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn asking(servers: &[&str]) -> Reflexive {
        let mut count = 0u8;
        let mut reflexive = Reflexive::new(Box::new(move |out: &mut [u8]| {
            count += 1;
            out.fill(count);
        }));
        reflexive.set_servers(instant(), &servers.iter().map(|server| at(server)).collect::<Vec<_>>());
        reflexive
    }

    fn answer(question: &[u8], seen: &str) -> Vec<u8> {
        let mut out = Writer::answer(Class::Success, &Message::parse(question).unwrap());
        out.put_address(kind::XOR_MAPPED_ADDRESS, at(seen));
        out.finish()
    }

    fn seen(reflexive: &Reflexive) -> Vec<SocketAddr> {
        reflexive.addresses(&[at("192.0.2.1:0").ip()], 4500)
    }

    #[test]
    fn what_a_server_says_is_known_and_asked_again_before_nats_forget() {
        let (mut reflexive, now) = (asking(&["198.51.100.1:3478"]), instant());
        let (to, question) = reflexive.poll_transmit(now).unwrap();
        assert_eq!((to, question.len(), reflexive.poll_transmit(now)), (at("198.51.100.1:3478"), REQUEST_LEN, None));
        assert!(reflexive.handle_datagram(now, to, &answer(&question, SEEN)));
        assert_eq!((seen(&reflexive), reflexive.poll_timeout()), (vec![at(SEEN)], Some(now + EVERY)));
        assert!(!reflexive.handle_datagram(now, to, &answer(&question, "203.0.113.9:7777")), "it was answered");
        let later = now + EVERY;
        let (_, again) = reflexive.poll_transmit(later).unwrap();
        assert_ne!(again, question);
        assert!(reflexive.handle_datagram(later, to, &answer(&again, "203.0.113.9:8888")));
        assert_eq!(seen(&reflexive), [at("203.0.113.9:8888")]);
    }

    #[test]
    fn only_who_was_asked_can_answer_and_only_what_was_asked() {
        let (mut reflexive, now) = (asking(&["198.51.100.1:3478"]), instant());
        let (to, question) = reflexive.poll_transmit(now).unwrap();
        assert!(!reflexive.handle_datagram(now, at("198.51.100.2:3478"), &answer(&question, SEEN)));
        let mut other = answer(&question, SEEN);
        // A byte of its transaction.
        other[8] ^= 1;
        for wrong in [other, question.clone(), answer(&question, SEEN)[..21].to_vec(), vec![1, 1]] {
            assert!(!reflexive.handle_datagram(now, to, &wrong) && seen(&reflexive).is_empty());
        }
        // Of the other version of IP, of a service, of a network that a server elsewhere cannot see.
        for lie in ["[2001:db8::1]:7777", "203.0.113.9:53", "10.0.0.5:7777", "127.0.0.1:7777"] {
            reflexive.ask_again(now);
            let (_, again) = reflexive.poll_transmit(now).unwrap();
            assert!(reflexive.handle_datagram(now, to, &answer(&again, lie)) && seen(&reflexive).is_empty(), "{lie}");
        }
    }

    #[test]
    fn a_server_that_is_silent_makes_forget_what_it_said_and_is_asked_on() {
        let (mut reflexive, start) = (asking(&["198.51.100.1:3478"]), instant());
        let (to, question) = reflexive.poll_transmit(start).unwrap();
        assert!(reflexive.handle_datagram(start, to, &answer(&question, SEEN)));
        let (mut now, mut asked) = (start + EVERY, 0);
        while !seen(&reflexive).is_empty() {
            asked += u32::from(reflexive.poll_transmit(now).is_some());
            now = reflexive.poll_timeout().unwrap();
        }
        assert_eq!(asked, TRIES);
        assert!(now < start + 2 * EVERY + EVERY, "known to be gone within a minute");
        assert!(reflexive.poll_transmit(now).is_some());
    }

    #[test]
    fn a_late_answer_counts_and_after_a_change_only_new_ones_do() {
        let (mut reflexive, now) = (asking(&["198.51.100.1:3478"]), instant());
        let (to, first) = reflexive.poll_transmit(now).unwrap();
        assert!(reflexive.poll_transmit(now + WAIT_FIRST).is_some());
        assert!(reflexive.handle_datagram(now + WAIT_FIRST, to, &answer(&first, SEEN)));
        let (_, before) = reflexive.poll_transmit(now + 2 * EVERY).unwrap();
        reflexive.ask_again(now + 2 * EVERY);
        assert!(!reflexive.handle_datagram(now + 2 * EVERY, to, &answer(&before, "203.0.113.9:7")));
        assert!(reflexive.poll_transmit(now + 2 * EVERY).is_some() && seen(&reflexive) == [at(SEEN)]);
    }

    #[test]
    fn where_we_are_anyway_and_what_two_say_is_named_once_or_not() {
        let mut reflexive = asking(&["198.51.100.1:3478", "198.51.100.2:3478", "198.51.100.3:3478"]);
        for said in [SEEN, SEEN, "192.0.2.1:4500"] {
            let (to, question) = reflexive.poll_transmit(instant()).unwrap();
            assert!(reflexive.handle_datagram(instant(), to, &answer(&question, said)));
        }
        assert_eq!(seen(&reflexive), [at(SEEN)]);
        reflexive.set_servers(instant(), &[]);
        assert_eq!((seen(&reflexive).len(), reflexive.poll_timeout()), (0, None));
        let many: Vec<SocketAddr> = (1..100).map(|port| at(&format!("198.51.100.1:{port}"))).collect();
        reflexive.set_servers(instant(), &many);
        assert_eq!(std::iter::from_fn(|| reflexive.poll_transmit(instant())).count(), REFLEXIVE_SERVERS_MAX);
    }
}
