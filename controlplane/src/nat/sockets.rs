//! The sockets of `adit nat`, and the loops that carry what the engine wants sent and what comes back.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use adit_engine::stun::discovery::{self, Discovery, Event, Report, TCP_ANSWER_MAX, TcpQuestion, Transmit};
use adit_engine::stun::lifetime::{self, Found, Lifetime};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, UdpSocket};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::limits::{STUN_ARRIVALS_MAX, STUN_DATAGRAM_MAX};
use crate::random;
use crate::routing_rules::MARK;

/// How long a question over TCP may take in all; the search may be over before.
const TCP_TIME: Duration = Duration::from_millis(1300);
/// Rest after an error of a socket, so that one that stays costs no processor.
const REST: Duration = Duration::from_millis(10);

type Arrival = (usize, SocketAddr, Vec<u8>);

/// Sockets at one local address, each with a task that receives.
struct Sockets {
    list: Vec<Arc<UdpSocket>>,
    arrivals: mpsc::Receiver<Arrival>,
    /// They end with it.
    _receivers: JoinSet<()>,
    /// What the kernel said to the first packet that it did not send.
    unsent: Option<String>,
}

impl Sockets {
    async fn open(own: IpAddr, count: usize) -> io::Result<Sockets> {
        let (tell, arrivals) = mpsc::channel(STUN_ARRIVALS_MAX);
        let (mut list, mut receivers) = (Vec::new(), JoinSet::new());
        for place in 0..count {
            let socket = UdpSocket::bind((own, 0)).await?;
            let _ = go_around_tunnel(&socket);
            let socket = Arc::new(socket);
            receivers.spawn(receive(place, socket.clone(), tell.clone()));
            list.push(socket);
        }
        Ok(Sockets { list, arrivals, _receivers: receivers, unsent: None })
    }

    async fn send(&mut self, transmit: &Transmit) {
        if let Err(error) = self.list[transmit.socket].send_to(&transmit.payload, transmit.to).await {
            self.unsent.get_or_insert_with(|| format!("a packet to {} was not sent: {error}", transmit.to));
        }
    }
}

/// Marks a socket as the gateway marks its own, so that with a full tunnel it is the way outside that is looked at. Only who may administer
/// the network can.
pub(super) fn go_around_tunnel(socket: &impl AsFd) -> io::Result<()> {
    SockRef::from(socket).set_mark(MARK)
}

async fn receive(place: usize, socket: Arc<UdpSocket>, tell: mpsc::Sender<Arrival>) {
    let mut buffer = vec![0; STUN_DATAGRAM_MAX];
    loop {
        match socket.recv_from(&mut buffer).await {
            Ok((len, from)) => {
                if tell.send((place, from, buffer[..len].to_vec())).await.is_err() {
                    return;
                }
            }
            Err(_) => tokio::time::sleep(REST).await,
        }
    }
}

/// Finds out what NAT lies between this address and the servers, and says if the kernel did not send something.
pub(super) async fn discover(own: IpAddr, servers: &[SocketAddr]) -> io::Result<(Report, Option<String>)> {
    let mut sockets = Sockets::open(own, discovery::SOCKETS).await?;
    let mut addresses = [SocketAddr::new(own, 0); discovery::SOCKETS];
    for (address, socket) in addresses.iter_mut().zip(&sockets.list) {
        *address = socket.local_addr()?;
    }
    let (tell, mut answers) = mpsc::channel(STUN_ARRIVALS_MAX);
    let mut questions = JoinSet::new();
    let mut search = Discovery::new(Instant::now(), servers, addresses, random::system());
    loop {
        let now = Instant::now();
        while let Some(transmit) = search.poll_transmit(now) {
            sockets.send(&transmit).await;
        }
        while let Some(event) = search.poll_event() {
            match event {
                Event::Found(report) => return Ok((*report, sockets.unsent)),
                Event::AskByTcp { question, to, payload } => {
                    questions.spawn(ask_by_tcp(question, to, payload, tell.clone()));
                }
            }
        }
        let due = search.poll_timeout().unwrap_or(now);
        tokio::select! {
            Some((socket, from, datagram)) = sockets.arrivals.recv() => {
                search.handle_datagram(Instant::now(), socket, from, &datagram);
            }
            Some((question, answer)) = answers.recv() => search.handle_tcp(Instant::now(), question, &answer),
            () = tokio::time::sleep_until(due.into()) => search.handle_timeout(Instant::now()),
        }
    }
}

/// Measures how long a mapping of this address lives that leads to this server.
pub(super) async fn measure(own: IpAddr, server: SocketAddr) -> io::Result<Found> {
    let mut sockets = Sockets::open(own, lifetime::SOCKETS).await?;
    let mut search = Lifetime::new(Instant::now(), server, random::system());
    loop {
        let now = Instant::now();
        while let Some(transmit) = search.poll_transmit(now) {
            sockets.send(&transmit).await;
        }
        if let Some(found) = search.poll_event() {
            return Ok(found);
        }
        let due = search.poll_timeout().unwrap_or(now);
        tokio::select! {
            Some((socket, from, datagram)) = sockets.arrivals.recv() => {
                search.handle_datagram(Instant::now(), socket, from, &datagram);
            }
            () = tokio::time::sleep_until(due.into()) => search.handle_timeout(Instant::now()),
        }
    }
}

async fn ask_by_tcp(question: TcpQuestion, to: SocketAddr, payload: Vec<u8>, tell: mpsc::Sender<(TcpQuestion, Vec<u8>)>) {
    let mut answer = Vec::new();
    // Whatever goes wrong, or takes too long, is no answer, or the part of one that came.
    let _ = tokio::time::timeout(TCP_TIME, async {
        let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        let _ = go_around_tunnel(&socket);
        let mut stream = socket.connect(to).await?;
        stream.write_all(&payload).await?;
        let mut buffer = [0; TCP_ANSWER_MAX];
        while !is_enough(question, &answer) {
            match stream.read(&mut buffer).await? {
                0 => break,
                len => answer.extend_from_slice(&buffer[..len]),
            }
        }
        Ok::<_, io::Error>(())
    })
    .await;
    let _ = tell.send((question, answer)).await;
}

/// Whether nothing more of an answer is needed: a message of STUN tells its length, and of HTTP the head is enough. Whoever speaks
/// neither is known by the first bytes.
fn is_enough(question: TcpQuestion, answer: &[u8]) -> bool {
    let whole = match (question, answer) {
        (TcpQuestion::Stun, [0..=0x3f, _, high, low, ..]) if !answer.starts_with(&[0x15]) && !answer.starts_with(&[0x16]) => {
            answer.len() >= 20 + usize::from(u16::from_be_bytes([*high, *low]))
        }
        (TcpQuestion::Stun, _) => answer.len() >= 8,
        (TcpQuestion::Web, _) => answer.windows(4).any(|four| four == b"\r\n\r\n"),
    };
    whole || answer.len() >= TCP_ANSWER_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_until_it_is_whole() {
        let stun = |bytes: &[u8]| is_enough(TcpQuestion::Stun, bytes);
        let mut message = vec![1, 1, 0, 12];
        message.resize(20 + 11, 0);
        assert!(!stun(&[]) && !stun(&[1, 1, 0]) && !stun(&message));
        message.push(0);
        assert!(stun(&message));
        assert!(!stun(b"HTTP/1.") && stun(b"HTTP/1.1") && stun(&[0x15, 3, 3, 0, 2, 2, 40, 0]));
        let web = |bytes: &[u8]| is_enough(TcpQuestion::Web, bytes);
        assert!(!web(b"HTTP/1.1 200 OK\r\n") && web(b"HTTP/1.1 200 OK\r\n\r\n") && web(&[b'x'; TCP_ANSWER_MAX]));
    }
}
