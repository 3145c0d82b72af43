//! What comes to port 500, taken by a task of its own: however much comes, the gateway's loop gets what the screen lets through, and what
//! is lost in the socket's queue is counted.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use adit_engine::path::{Arrival, IKE_PORT};
use adit_proto::control::Command;
use adit_proto::limits::{DATAGRAM_MAX, IKE_ADDRESSES_PER_PEER, IKE_SAS_OF_PEER_MAX};
use adit_proto::rate_limit::RateLimit;
use adit_proto::screen::Screen;
use adit_proto::stats::Drop;
use nix::libc;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::numbers::SocketNumbers;

/// Datagrams that may wait for the gateway's loop.
const WAITING_MAX: usize = 1024;
/// Datagrams taken before other tasks have their turn.
const SHARE: u32 = 64;

/// A datagram that was let through.
pub(super) type Datagram = (Arrival, Vec<u8>);

fn screen_of(peers: usize) -> Screen {
    Screen::new(IKE_SAS_OF_PEER_MAX * peers, IKE_ADDRESSES_PER_PEER * peers)
}

/// Who comes first, which outlives the socket; and what is counted.
#[derive(Clone)]
pub(super) struct Gate {
    screen: Arc<Mutex<Screen>>,
    /// What is dropped and comes before the engine all the same, to be told of.
    reported: Arc<Mutex<RateLimit>>,
    numbers: Arc<SocketNumbers>,
    began: Instant,
}

impl Gate {
    /// For so many peers.
    pub(super) fn new(peers: usize, numbers: Arc<SocketNumbers>) -> Gate {
        let reported = Arc::new(Mutex::new(RateLimit::new(1)));
        Gate { screen: Arc::new(Mutex::new(screen_of(peers))), reported, numbers, began: Instant::now() }
    }

    /// For so many peers from now on. Nobody is known until it is told again.
    pub(super) fn make_room(&self, peers: usize) {
        *self.screen() = screen_of(peers);
    }

    /// The data plane is told whose messages come first; it is the same here.
    pub(super) fn note(&self, command: &Command) {
        // With a full table these messages come with those of strangers, as in the data plane, which says so.
        let _ = self.screen().apply(command);
    }

    #[cfg(test)]
    pub(super) fn numbers(&self) -> Arc<SocketNumbers> {
        self.numbers.clone()
    }

    fn screen(&self) -> MutexGuard<'_, Screen> {
        // What is inside is whole at every panic: plain assignments.
        self.screen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what we send: an answer to it comes through though many send under the same address.
    pub(super) fn sent(&self, message: &[u8]) {
        let now_us = self.now_us();
        self.screen().sent(message, now_us);
    }

    fn now_us(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Whether a message may come before the engine; one that may not is counted. Of IKEv1 one in a second comes before it all the same,
    /// so that the operator hears who is to be set to IKEv2.
    fn lets_through(&self, message: &[u8], from: SocketAddr) -> bool {
        let now_us = self.now_us();
        let verdict = self.screen().admit(message, from, now_us);
        match verdict {
            Ok(()) => true,
            Err(why) => {
                self.numbers.count_drop(why, 1);
                why == Drop::IkeV1 && self.reported.lock().unwrap_or_else(PoisonError::into_inner).take(1, now_us)
            }
        }
    }
}

/// The task that takes what comes. It ends with this.
pub(super) struct Receiver {
    pub datagrams: mpsc::Receiver<Datagram>,
    task: JoinHandle<()>,
}

impl std::ops::Drop for Receiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Receiver {
    pub(super) fn start(socket: Arc<UdpSocket>, gate: Gate) -> Receiver {
        let (sender, datagrams) = mpsc::channel(WAITING_MAX);
        Receiver { datagrams, task: tokio::spawn(run(socket, gate, sender)) }
    }
}

async fn run(socket: Arc<UdpSocket>, gate: Gate, sender: mpsc::Sender<Datagram>) {
    let mut buffer = vec![0; DATAGRAM_MAX];
    let mut lost = 0;
    loop {
        // An error is found by who reads.
        let _ = socket.readable().await;
        for _ in 0..SHARE {
            match socket.try_io(Interest::READABLE, || receive(socket.as_raw_fd(), &mut buffer)) {
                Ok(received) => {
                    if let Some(total) = received.lost {
                        gate.numbers.count_drop(Drop::UdpOverflow, u64::from(total.wrapping_sub(lost)));
                        lost = total;
                    }
                    let Some(came) = received.came else { continue };
                    let message = &buffer[..received.length];
                    if gate.lets_through(message, came.remote) {
                        match sender.try_send((came, message.to_vec())) {
                            Ok(()) => gate.numbers.received(1),
                            Err(_) => gate.numbers.count_drop(Drop::PuntFull, 1),
                        }
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // What ICMP said of an earlier datagram of ours.
                Err(_) => {}
            }
        }
        tokio::task::yield_now().await;
    }
}

/// A datagram in the buffer.
struct Received {
    /// Where it came from and to; `None` for one of which the kernel does not say that.
    came: Option<Arrival>,
    length: usize,
    /// Datagrams that the socket's queue has lost so far, once it has lost one (SO_RXQ_OVFL).
    lost: Option<u32>,
}

fn receive(fd: RawFd, buffer: &mut [u8]) -> io::Result<Received> {
    let mut control = nix::cmsg_space!(libc::in_pktinfo, libc::in6_pktinfo, libc::c_int, libc::c_int, u32);
    let mut parts = [IoSliceMut::new(buffer)];
    let message = recvmsg::<SockaddrStorage>(fd, &mut parts, Some(&mut control), MsgFlags::MSG_DONTWAIT)?;
    let from = message.address.and_then(|from| {
        let v4 = from.as_sockaddr_in().map(|from| SocketAddr::from((from.ip(), from.port())));
        v4.or_else(|| from.as_sockaddr_in6().map(|from| SocketAddr::from(SocketAddrV6::from(*from))))
    });
    let (mut to, mut class, mut lost) = (None, 0, None);
    for one in message.cmsgs()? {
        match one {
            ControlMessageOwned::Ipv4PacketInfo(info) => {
                let address = Ipv4Addr::from(info.ipi_addr.s_addr.to_ne_bytes());
                to = to.or(Some((IpAddr::V4(address), info.ipi_ifindex as u32)));
            }
            ControlMessageOwned::Ipv6PacketInfo(info) => {
                to = to.or(Some((Ipv6Addr::from(info.ipi6_addr.s6_addr).to_canonical(), info.ipi6_ifindex)));
            }
            ControlMessageOwned::Ipv4Tos(tos) => class = tos,
            ControlMessageOwned::Ipv6TClass(tclass) => class = tclass as u8,
            ControlMessageOwned::RxqOvfl(total) => lost = Some(total),
            _ => {}
        }
    }
    let came = from.zip(to).map(|(from, (address, interface))| {
        let local = SocketAddr::new(address, IKE_PORT);
        Arrival { interface, class, ..Arrival::new(local, canonical(from)) }
    });
    Ok(Received { came, length: message.bytes, lost })
}

/// The address of an IPv4 host that an IPv6 socket names in its own way.
fn canonical(from: SocketAddr) -> SocketAddr {
    match from {
        SocketAddr::V6(v6) if v6.ip().to_ipv4_mapped().is_some() => SocketAddr::new(from.ip().to_canonical(), from.port()),
        _ => from,
    }
}
