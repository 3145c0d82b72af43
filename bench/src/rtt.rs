//! Round-trip times by ICMP echo: the far kernel answers, nothing runs there.
//!
//! ```text
//! sender thread: sleep until the next tick ─▶ echo request {ident, number, time}
//! receiver thread: echo reply ─▶ its arrival at the kernel − time ─▶ histogram (ns); number ─▶ answered
//! ```
//!
//! The kernel's time of arrival is used, as ping does, so that the prober's own wake-up is no part of the figure.
//! Two threads, because a receive timeout has the resolution of the kernel's tick (4 ms), a sleep that of its fine timers.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::load::{large_receive_buffer, receive_stamped, stamp_arrivals};

/// The same payload as ping's default: 64 bytes of ICMP.
const MESSAGE_LEN: usize = 64;
/// Longer round trips count as this, 100 s.
const LONGEST_NS: u64 = 100_000_000_000;
/// A prober that had no core for longer does not make up for it: no queue on the way is made for such a burst.
const LATE_MAX: Duration = Duration::from_millis(100);

/// A prober that runs until it is stopped.
#[derive(Debug)]
pub struct Prober {
    shared: Arc<Shared>,
    interval: Duration,
    sender: JoinHandle<io::Result<Vec<Instant>>>,
    receiver: JoinHandle<io::Result<(Histogram<u64>, Vec<bool>)>>,
}

#[derive(Debug, Default)]
struct Shared {
    quiet: AtomicBool,
    stop: AtomicBool,
    sent: AtomicU64,
    answered: AtomicU64,
}

/// What a prober has seen.
#[derive(Clone, Debug)]
pub struct Probes {
    pub sent: u64,
    pub lost: u64,
    /// When those that were lost had been sent.
    pub lost_at: Vec<Instant>,
    /// The longest row of lost probes, as time; 0 when none was lost.
    pub longest_outage: Duration,
    /// Round-trip times in nanoseconds.
    pub times: Histogram<u64>,
}

impl Prober {
    /// Starts to probe `target` every `interval`. The sockets belong to the namespace of the calling thread:
    /// `netns.enter(|| Prober::start(…))`. Needs CAP_NET_RAW there.
    pub fn start(target: IpAddr, interval: Duration) -> Result<Prober> {
        Prober::start_from(None, target, interval)
    }

    /// The same from an address that the namespace has, where it is not to be the one that the route has.
    pub fn start_from(source: Option<IpAddr>, target: IpAddr, interval: Duration) -> Result<Prober> {
        static IDENT: AtomicU16 = AtomicU16::new(1);
        let echo = Echo { ident: IDENT.fetch_add(1, Ordering::Relaxed) ^ std::process::id() as u16, ipv6: target.is_ipv6() };
        let socket = echo.socket().context("cannot open a raw ICMP socket (CAP_NET_RAW is needed)")?;
        if let Some(source) = source {
            socket.bind(&SocketAddr::new(source, 0).into()).with_context(|| format!("cannot send from {source}"))?;
        }
        let (near, shared) = (socket.try_clone()?, Arc::new(Shared::default()));
        let target = SocketAddr::new(target, 0).into();
        let (to_send, to_receive) = (shared.clone(), shared.clone());
        let sender = thread::Builder::new().name("ping".into()).spawn(move || send(&near, &target, echo, interval, &to_send))?;
        let receiver = thread::Builder::new().name("pong".into()).spawn(move || receive(&socket, echo, &to_receive))?;
        Ok(Prober { shared, interval, sender, receiver })
    }

    /// Probes sent and answered so far.
    pub fn so_far(&self) -> (u64, u64) {
        (self.shared.sent.load(Ordering::Relaxed), self.shared.answered.load(Ordering::Relaxed))
    }

    /// Sends no more, waits up to `grace` for the answers that are on their way, and sums up.
    pub fn stop(self, grace: Duration) -> Result<Probes> {
        self.shared.quiet.store(true, Ordering::Relaxed);
        let sent_at = self.sender.join().map_err(|_| anyhow::anyhow!("the prober panicked"))?.context("cannot send probes")?;
        let deadline = Instant::now() + grace;
        while self.shared.answered.load(Ordering::Relaxed) < self.shared.sent.load(Ordering::Relaxed) && Instant::now() < deadline
        {
            thread::sleep(Duration::from_millis(1));
        }
        self.shared.stop.store(true, Ordering::Relaxed);
        let (times, mut answered) =
            self.receiver.join().map_err(|_| anyhow::anyhow!("the prober panicked"))?.context("cannot receive answers")?;
        let sent = self.shared.sent.load(Ordering::Relaxed);
        answered.resize(sent as usize, false);
        let longest = answered.split(|answered| *answered).map(<[bool]>::len).max().unwrap_or(0);
        Ok(Probes {
            sent,
            lost: answered.iter().filter(|answered| !**answered).count() as u64,
            lost_at: sent_at.into_iter().zip(&answered).filter(|(_, answered)| !**answered).map(|(at, _)| at).collect(),
            longest_outage: self.interval * longest as u32,
            times,
        })
    }
}

impl Probes {
    /// The round-trip time in microseconds below which this share (0..=1) of the answers came.
    pub fn quantile_us(&self, share: f64) -> f64 {
        self.times.value_at_quantile(share) as f64 / 1000.0
    }
}

/// Probes for some time and returns the result. Late answers are waited for, but not for long where none has come.
pub fn probe(target: IpAddr, interval: Duration, duration: Duration) -> Result<Probes> {
    let prober = Prober::start(target, interval)?;
    thread::sleep(duration);
    let grace = if prober.so_far().1 == 0 { 1 } else { 5 };
    prober.stop(Duration::from_secs(grace))
}

fn send(socket: &Socket, target: &SockAddr, echo: Echo, interval: Duration, shared: &Shared) -> io::Result<Vec<Instant>> {
    let (mut due, mut sent_at) = (Instant::now(), Vec::new());
    while !shared.quiet.load(Ordering::Relaxed) {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let now = Instant::now();
        due = (due + interval).max(now.checked_sub(LATE_MAX).unwrap_or(now));
        sent_at.push(now);
        let number = shared.sent.fetch_add(1, Ordering::Relaxed);
        let message = echo.request(number, wall_clock().as_nanos() as u64);
        match socket.send_to(&message, target) {
            Ok(_) => {}
            // The link is down or full just now: a lost probe, which is what is being measured.
            Err(error) if transient(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(sent_at)
}

fn receive(socket: &Socket, echo: Echo, shared: &Shared) -> io::Result<(Histogram<u64>, Vec<bool>)> {
    let mut times = Histogram::new_with_max(LONGEST_NS, 3).map_err(io::Error::other)?;
    let mut answered = Vec::new();
    let mut packet = [0; 2048];
    while !shared.stop.load(Ordering::Relaxed) {
        let (length, arrived) = match receive_stamped(socket, &mut packet) {
            Ok(received) => received,
            Err(error) if transient(&error) => continue,
            Err(error) => return Err(error),
        };
        let arrived = arrived.unwrap_or_else(wall_clock).as_nanos() as u64;
        let Some((number, sent)) = echo.reply(&packet[..length]) else { continue };
        let Ok(index) = usize::try_from(number) else { continue };
        if number >= shared.sent.load(Ordering::Relaxed) || answered.get(index) == Some(&true) {
            continue;
        }
        if index >= answered.len() {
            answered.resize(index + 1, false);
        }
        answered[index] = true;
        times.saturating_record(arrived.saturating_sub(sent).clamp(1, LONGEST_NS));
        shared.answered.fetch_add(1, Ordering::Relaxed);
    }
    Ok((times, answered))
}

/// Time since 1970, the clock of the kernel's stamps.
fn wall_clock() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

fn transient(error: &io::Error) -> bool {
    use io::ErrorKind::{HostUnreachable, Interrupted, NetworkDown, NetworkUnreachable, TimedOut, WouldBlock};
    matches!(error.kind(), HostUnreachable | Interrupted | NetworkDown | NetworkUnreachable | TimedOut | WouldBlock)
        || matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::EPERM | libc::ENODEV))
}

/// Builds and reads echo messages (RFC 792, RFC 4443 §4).
#[derive(Clone, Copy, Debug)]
struct Echo {
    ident: u16,
    ipv6: bool,
}

impl Echo {
    fn socket(self) -> io::Result<Socket> {
        let (domain, protocol) = if self.ipv6 { (Domain::IPV6, Protocol::ICMPV6) } else { (Domain::IPV4, Protocol::ICMPV4) };
        let socket = Socket::new(domain, Type::RAW, Some(protocol))?;
        stamp_arrivals(&socket)?;
        // The usual buffer is full of answers after a quarter of a second without a core at 1 ms, and they would count as lost.
        large_receive_buffer(&socket);
        socket.set_read_timeout(Some(Duration::from_millis(20)))?;
        Ok(socket)
    }

    fn request(self, number: u64, time_ns: u64) -> [u8; MESSAGE_LEN] {
        let mut message = [0; MESSAGE_LEN];
        message[0] = if self.ipv6 { 128 } else { 8 };
        message[4..6].copy_from_slice(&self.ident.to_be_bytes());
        message[6..8].copy_from_slice(&(number as u16).to_be_bytes());
        message[8..16].copy_from_slice(&number.to_be_bytes());
        message[16..24].copy_from_slice(&time_ns.to_be_bytes());
        if !self.ipv6 {
            // The kernel fills in ICMPv6 checksums only (RFC 3542 §3.1).
            let sum = checksum(&message);
            message[2..4].copy_from_slice(&sum.to_be_bytes());
        }
        message
    }

    /// Number and time of the request that this packet answers, when it is an answer to us.
    fn reply(self, packet: &[u8]) -> Option<(u64, u64)> {
        // Raw IPv4 sockets hand out the IP header, raw IPv6 sockets do not.
        let header = if self.ipv6 { 0 } else { usize::from(packet.first()? & 15) * 4 };
        let message = packet.get(header..)?;
        let kind = if self.ipv6 { 129 } else { 0 };
        let ours = message.len() >= 24 && message[0] == kind && message[4..6] == self.ident.to_be_bytes();
        let word = |at: usize| message.get(at..at + 8)?.try_into().ok().map(u64::from_be_bytes);
        if ours { Some((word(8)?, word(16)?)) } else { None }
    }
}

/// The Internet checksum (RFC 1071) of an even number of bytes.
fn checksum(message: &[u8]) -> u16 {
    let sum: u32 = message.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let folded = (sum & 0xFFFF) + (sum >> 16);
    !((folded & 0xFFFF) + (folded >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netns::{Netns, Veth};

    fn pair() -> (Netns, Netns, Veth) {
        let (a, b) = (Netns::new("rtt-a").unwrap(), Netns::new("rtt-b").unwrap());
        let veth = Veth::between(&a, "eth0", &b, "eth0", 1500).unwrap();
        for (netns, last) in [(&a, 1), (&b, 2)] {
            netns.address("eth0", &format!("192.0.2.{last}/24")).unwrap();
            netns.address("eth0", &format!("2001:db8::{last}/64")).unwrap();
        }
        (a, b, veth)
    }

    #[test]
    fn every_probe_is_answered_over_both_families() {
        let (a, _b, _veth) = pair();
        for target in ["192.0.2.2", "2001:db8::2"] {
            let target = target.parse().unwrap();
            let probes = a.enter(|| probe(target, Duration::from_millis(1), Duration::from_millis(300))).unwrap();
            assert!(probes.sent > 100, "{probes:?}");
            assert_eq!((probes.lost, probes.times.len()), (0, probes.sent));
            assert_eq!(probes.longest_outage, Duration::ZERO);
            assert!((0.5..100_000.0).contains(&probes.quantile_us(0.5)), "{}", probes.quantile_us(0.5));
        }
    }

    #[test]
    fn answers_wait_for_a_receiver_that_is_late() {
        // More than the usual buffer takes, 208 KiB, and less than what the kernel queues between links.
        const MANY: u64 = 600;
        let (a, _b, _veth) = pair();
        let echo = Echo { ident: 7, ipv6: false };
        let socket = a.enter(|| echo.socket()).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let target: SocketAddr = "192.0.2.2:0".parse().unwrap();
        for number in 0..MANY {
            socket.send_to(&echo.request(number, 0), &target.into()).unwrap();
            // While the neighbour is looked up, the kernel keeps a few packets for it only.
            if number == 0 {
                receive_stamped(&socket, &mut [0; 2048]).unwrap();
            }
        }
        let mut packet = [0; 2048];
        for number in 1..MANY {
            let (length, _) = receive_stamped(&socket, &mut packet).unwrap();
            assert_eq!(echo.reply(&packet[..length]), Some((number, 0)));
        }
    }

    #[test]
    fn an_outage_is_seen_with_its_length() {
        let (a, b, _veth) = pair();
        let prober = a.enter(|| Prober::start("192.0.2.2".parse().unwrap(), Duration::from_millis(1))).unwrap();
        thread::sleep(Duration::from_millis(100));
        let down = Instant::now();
        b.run("ip link set eth0 down").unwrap();
        thread::sleep(Duration::from_millis(200));
        b.run("ip link set eth0 up").unwrap();
        let up = Instant::now();
        thread::sleep(Duration::from_millis(200));
        let probes = prober.stop(Duration::from_millis(100)).unwrap();
        let reported = format!("{} of {} lost, {:?} long", probes.lost, probes.sent, probes.longest_outage);
        assert!(probes.lost >= 50 && probes.lost < probes.sent, "{reported}");
        assert!(probes.longest_outage >= Duration::from_millis(50), "{reported}");
        // One of the moment before may have been on its way, and after it the neighbour has to be found again.
        assert_eq!(probes.lost_at.len() as u64, probes.lost);
        assert!(probes.lost_at.iter().all(|at| *at + Duration::from_millis(50) > down), "{reported}");
        assert!(probes.lost_at[0] < up, "{reported}");
    }

    #[test]
    fn two_probers_at_once_do_not_take_each_others_answers() {
        let (a, _b, _veth) = pair();
        let target = "192.0.2.2".parse().unwrap();
        let (first, second) = a.enter(|| {
            let first = Prober::start(target, Duration::from_millis(2)).unwrap();
            let second = Prober::start(target, Duration::from_millis(2)).unwrap();
            thread::sleep(Duration::from_millis(200));
            (first.stop(Duration::from_secs(1)).unwrap(), second.stop(Duration::from_secs(1)).unwrap())
        });
        assert_eq!((first.lost, second.lost), (0, 0));
        assert_eq!((first.times.len(), second.times.len()), (first.sent, second.sent));
    }
}
