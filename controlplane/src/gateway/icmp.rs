//! Where routers are heard: raw sockets for ICMP and ICMPv6, with filters in the kernel. The sockets that carry the tunnels are told
//! nothing, so that no message from outside makes one of their calls fail.
//!
//! Nothing here is known of who sends, so no more is taken than so many messages in a second; routers say it again as long as packets are
//! too big.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::sys::socket::{MsgFlags, recv};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::config::Config;
use crate::limits::{ICMP_LEN_MAX, ICMP_PER_S, ICMP_PER_TURN};
use crate::system;
use crate::too_big::{self, TooBig};

/// Reads a message about a packet from our port.
type Read = fn(&[u8], u16) -> Option<TooBig>;

/// Raw sockets that hear nothing yet. They are opened before the process gives up CAP_NET_RAW, and stay.
#[derive(Debug)]
pub struct RawSockets {
    v4: io::Result<Socket>,
    v6: io::Result<Socket>,
}

impl RawSockets {
    /// Opens both. What cannot be opened is told when it is needed.
    pub fn open() -> RawSockets {
        let open = |domain, protocol| {
            let socket = Socket::new(domain, Type::RAW.nonblocking().cloexec(), Some(protocol))?;
            socket.attach_filter(&NOTHING)?;
            Ok(socket)
        };
        RawSockets { v4: open(Domain::IPV4, Protocol::ICMPV4), v6: open(Domain::IPV6, Protocol::ICMPV6) }
    }
}

/// A filter that lets nothing through (BPF_RET | BPF_K, 0 bytes).
const NOTHING: [SockFilter; 1] = [SockFilter::new(0x06, 0, 0, 0)];

/// The sockets, as far as they hear.
pub struct Icmp {
    raw: RawSockets,
    /// For which address they hear.
    listen: Option<SocketAddr>,
    v4: Option<AsyncFd<OwnedFd>>,
    v6: Option<AsyncFd<OwnedFd>>,
    /// Messages that may be taken now.
    left: u32,
    filled: Instant,
}

impl Icmp {
    /// Ones that hear nothing yet.
    pub fn new(raw: RawSockets) -> Icmp {
        Icmp { raw, listen: None, v4: None, v6: None, left: ICMP_PER_S, filled: Instant::now() }
    }

    /// Listens for what is said of datagrams that leave from the gateway's port. That it cannot is said once.
    pub fn keep(&mut self, config: &Config) {
        let (port, listen) = (config.listen.port(), config.listen.ip());
        if self.listen == Some(config.listen) {
            return;
        }
        let hear = |raw: &io::Result<Socket>, filter: Vec<SockFilter>| match hear(raw, &filter) {
            Ok(socket) => Some(socket),
            Err(error) => {
                tracing::warn!(
                    "ICMP cannot be heard ({error}): on the way to a peer that answers no sealed echoes (not Adit, or without \
                     echo: true), packets vanish where a line takes less than ours. Run adit as root or with CAP_NET_RAW, or set \
                     underlay_mtu to what all lines take"
                );
                None
            }
        };
        let (is_v4, is_v6) = (listen.is_ipv4() || listen.is_unspecified(), listen.is_ipv6());
        self.v4 = is_v4.then(|| hear(&self.raw.v4, too_big::filter_ipv4(port))).flatten();
        self.v6 = is_v6.then(|| hear(&self.raw.v6, too_big::filter_ipv6(port))).flatten();
        for (raw, heard) in [(&self.raw.v4, &self.v4), (&self.raw.v6, &self.v6)] {
            if let (Ok(raw), None) = (raw, heard) {
                // What still comes is for nobody, and fills no more than the socket's own buffer.
                let _ = raw.attach_filter(&NOTHING);
            }
        }
        self.listen = Some(config.listen);
    }

    /// Waits until something can be taken; for ever, while nothing is open.
    pub async fn ready(&self) {
        if self.left == 0 {
            tokio::time::sleep_until((self.filled + Duration::from_secs(1)).into()).await;
        }
        tokio::select! {
            () = readable(self.v4.as_ref()) => {}
            () = readable(self.v6.as_ref()) => {}
        }
    }

    /// Takes what has come, no more than a share of it: what was read of each message, if it is of the kind.
    pub fn take(&mut self, mut each: impl FnMut(Option<TooBig>)) {
        if self.filled.elapsed() >= Duration::from_secs(1) {
            (self.left, self.filled) = (ICMP_PER_S, Instant::now());
        }
        let port = self.listen.map_or(0, |listen| listen.port());
        let mut buffer = [0; ICMP_LEN_MAX];
        let kinds: [(_, Read); 2] = [(&self.v4, too_big::of_ipv4), (&self.v6, too_big::of_ipv6)];
        for (socket, read) in kinds {
            let Some(socket) = socket else { continue };
            for _ in 0..ICMP_PER_TURN.min(self.left) {
                let came = socket.try_io(Interest::READABLE, |fd| Ok(recv(fd.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT)?));
                let Ok(length) = came else { break };
                self.left -= 1;
                each(read(&buffer[..length], port));
            }
        }
    }
}

/// Has a socket hear what the filter lets through.
fn hear(raw: &io::Result<Socket>, filter: &[SockFilter]) -> io::Result<AsyncFd<OwnedFd>> {
    let raw =
        raw.as_ref().map_err(|error| error.raw_os_error().map_or_else(|| error.kind().into(), io::Error::from_raw_os_error))?;
    raw.attach_filter(filter)?;
    system::watch(raw.try_clone()?.into())
}

async fn readable(socket: Option<&AsyncFd<OwnedFd>>) {
    match socket {
        // An error is found by who reads.
        Some(socket) => drop(socket.readable().await),
        None => std::future::pending().await,
    }
}
