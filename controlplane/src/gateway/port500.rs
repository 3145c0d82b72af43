//! UDP port 500, on which IKE begins without NAT traversal, for peers that know no other one. Everything else goes through the
//! port that the data plane owns.
//!
//! Nothing here is known of who sends, so that no more is taken than so many datagrams in a second. The rest waits in the socket,
//! and is lost there.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use adit_engine::path::IKE_PORT;
use socket2::SockRef;
use tokio::net::UdpSocket;

use crate::config::Config;
use crate::reconcile::rule;

/// The usual port of a gateway; only beside it does the one without NAT traversal make sense.
const NAT_PORT: u16 = 4500;
/// Longest datagram of IKE that is taken here.
const DATAGRAM_MAX: usize = 65_536;
/// Datagrams per second.
const RATE: u32 = 1000;
/// Datagrams taken in one turn of the loop.
const SHARE: u32 = 64;

/// The port as the configuration wants it: open, or tried again.
#[derive(Default)]
pub struct Port500 {
    open: Option<Open>,
    /// Where it is open, or should be.
    address: Option<SocketAddr>,
    /// Why it is not open, once that was said.
    complaint: Option<String>,
}

/// The socket.
struct Open {
    socket: UdpSocket,
    buffer: Box<[u8]>,
    /// Datagrams that may be taken now.
    left: u32,
    filled: Instant,
}

impl Port500 {
    /// Opens it where it makes sense and is free, and closes it where it makes none. What cannot be done is said once.
    pub async fn keep(&mut self, config: &Config) {
        let used = config.listen.port() == NAT_PORT && config.peers.iter().any(|peer| peer.ike().is_some());
        let address = used.then(|| SocketAddr::new(config.listen.ip(), IKE_PORT));
        if self.address != address {
            *self = Port500 { address, ..Port500::default() };
        }
        let Some(address) = self.address.filter(|_| self.open.is_none()) else { return };
        match UdpSocket::bind(address).await {
            Ok(socket) => {
                // What it sends must not go into a full tunnel.
                if let Err(error) = SockRef::from(&socket).set_mark(rule::MARK) {
                    tracing::warn!("UDP {address}: its packets cannot be marked: {error}");
                }
                if self.complaint.take().is_some() {
                    tracing::info!("UDP {address} is open");
                }
                self.open = Some(Open::new(socket));
            }
            Err(error) => {
                let remedy = match error.kind() {
                    std::io::ErrorKind::AddrInUse => "Stop the program that has it (ss -ulnp shows it)",
                    std::io::ErrorKind::AddrNotAvailable => "No interface of this machine has the address in `listen`",
                    _ => "Ports below 1024 need root, or the capability CAP_NET_BIND_SERVICE",
                };
                let line = format!(
                    "UDP {address} cannot be opened ({error}): peers that begin on port 500, as strongSwan does unless told \
                     otherwise, cannot connect to us. {remedy}"
                );
                if self.complaint.as_ref() != Some(&line) {
                    tracing::warn!("{line}");
                }
                self.complaint = Some(line);
            }
        }
    }

    /// Waits until something can be taken; for ever, while it is not open.
    pub async fn ready(&self) {
        match &self.open {
            Some(open) => open.ready().await,
            None => std::future::pending().await,
        }
    }

    /// Takes what has come, no more than a share of it.
    pub fn take(&mut self, each: impl FnMut(SocketAddr, &[u8])) {
        if let Some(open) = &mut self.open {
            open.take(each);
        }
    }

    /// Sends a datagram; false where it is not open. A lost one is sent again.
    pub fn send(&self, remote: SocketAddr, payload: &[u8]) -> bool {
        self.open.as_ref().map(|open| open.send(remote, payload)).is_some()
    }
}

impl Open {
    fn new(socket: UdpSocket) -> Open {
        Open { socket, buffer: vec![0; DATAGRAM_MAX].into_boxed_slice(), left: RATE, filled: Instant::now() }
    }

    /// Waits until something can be taken.
    async fn ready(&self) {
        if self.left == 0 {
            tokio::time::sleep_until((self.filled + Duration::from_secs(1)).into()).await;
        }
        // An error is found by who reads.
        let _ = self.socket.readable().await;
    }

    /// Takes what has come, no more than a share of it.
    fn take(&mut self, mut each: impl FnMut(SocketAddr, &[u8])) {
        if self.filled.elapsed() >= Duration::from_secs(1) {
            (self.left, self.filled) = (RATE, Instant::now());
        }
        for _ in 0..SHARE.min(self.left) {
            self.left -= 1;
            match self.socket.try_recv_from(&mut self.buffer) {
                Ok((length, from)) => each(canonical(from), &self.buffer[..length]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
                // What ICMP said of an earlier datagram of ours.
                Err(_) => {}
            }
        }
    }

    /// Sends a datagram. A lost one is sent again.
    fn send(&self, remote: SocketAddr, payload: &[u8]) {
        let is_ipv6 = self.socket.local_addr().is_ok_and(|local| local.is_ipv6());
        let remote = match remote.ip() {
            IpAddr::V4(ip) if is_ipv6 => SocketAddr::new(ip.to_ipv6_mapped().into(), remote.port()),
            _ => remote,
        };
        let _ = self.socket.try_send_to(payload, remote);
    }
}

/// The address of an IPv4 host that an IPv6 socket names in its own way.
fn canonical(from: SocketAddr) -> SocketAddr {
    match from {
        SocketAddr::V6(v6) if v6.ip().to_ipv4_mapped().is_some() => SocketAddr::new(from.ip().to_canonical(), from.port()),
        _ => from,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn port500(listen: &str) -> (Open, SocketAddr) {
        let socket = UdpSocket::bind(listen).await.unwrap();
        let address = socket.local_addr().unwrap();
        (Open::new(socket), address)
    }

    #[tokio::test]
    async fn an_ipv4_host_is_one_on_a_socket_for_both_versions() {
        let (mut port500, address) = port500("[::]:0").await;
        let peer = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        peer.send_to(b"question", ("127.0.0.1", address.port())).unwrap();
        port500.ready().await;
        let mut came = Vec::new();
        port500.take(|from, datagram| came.push((from, datagram.to_vec())));
        assert_eq!(came, [(peer.local_addr().unwrap(), b"question".to_vec())]);
        port500.send(came[0].0, b"answer");
        peer.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut buffer = [0; 16];
        let (length, _) = peer.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"answer");
    }

    #[tokio::test]
    async fn no_more_is_taken_in_a_second_than_allowed() {
        let (mut port500, address) = port500("127.0.0.1:0").await;
        let peer = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        port500.left = 3;
        for _ in 0..5 {
            peer.send_to(b"x", address).unwrap();
        }
        let mut came = 0;
        port500.ready().await;
        port500.take(|_, _| came += 1);
        assert_eq!((came, port500.left), (3, 0));
        let began = Instant::now();
        port500.ready().await;
        assert!(port500.filled.elapsed() >= Duration::from_secs(1) && began.elapsed() < Duration::from_secs(5));
        port500.take(|_, _| came += 1);
        assert_eq!(came, 5);
    }
}
