//! TURN over TCP and over TLS (RFC 8656 §2.1), for networks that let no UDP out: a stream of messages between client and server, UDP to peers.
//!
//! A connection has two tasks. One reads, cuts the stream into messages and hands them to the TURN server; it ends with what is no
//! TURN, and if there is no allocation half a minute after it began, whatever was sent meanwhile, or as long after its last one. The
//! other one writes what waits for the client. A client that reads nothing for ten seconds is left.
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use adit_engine::stun::codec::{BINDING, is_stun};
use adit_engine::stun::server::answer_on_stream;
use adit_engine::turn::frames::frame_len;
use adit_engine::turn::{Link, Train, Tuple};
use socket2::{Domain, SockRef, Socket, Type};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;

use crate::limits::{STREAM_READ_BYTES, STREAM_STRANGER_BYTES_MAX, STREAM_UNSENT_BYTES_MAX};
use crate::streams::{Inlet, Stream};
use crate::udp::{self, Shared, handle_client, handle_closed};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 1024;
/// A handshake of TLS takes no longer.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// A client that takes nothing for so long is not there any more.
const STUCK: Duration = Duration::from_secs(10);

/// Where streams are accepted.
pub(crate) struct Listener {
    tcp: TcpListener,
    /// It may change while connections go on.
    tls: Option<RwLock<TlsAcceptor>>,
}

impl Listener {
    /// A listener of IPv6 takes nothing of IPv4: its clients would be told addresses of the wrong family.
    pub(crate) fn bind(at: SocketAddr, certificate: Option<Arc<rustls::ServerConfig>>) -> io::Result<Listener> {
        let socket = Socket::new(Domain::for_address(at), Type::STREAM.nonblocking(), None)?;
        if at.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        // A restart need not wait for old connections to time out.
        socket.set_reuse_address(true)?;
        socket.bind(&at.into())?;
        socket.listen(BACKLOG)?;
        Ok(Listener {
            tcp: TcpListener::from_std(socket.into())?,
            tls: certificate.map(|certificate| RwLock::new(certificate.into())),
        })
    }

    pub(crate) fn has_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Whoever comes from now on is shown this certificate, where it is TLS.
    pub(crate) fn certify(&self, certificate: &Arc<rustls::ServerConfig>) {
        if let Some(tls) = &self.tls {
            *tls.write().unwrap_or_else(PoisonError::into_inner) = certificate.clone().into();
        }
    }

    fn acceptor(&self) -> Option<TlsAcceptor> {
        // It is put there whole.
        self.tls.as_ref().map(|tls| tls.read().unwrap_or_else(PoisonError::into_inner).clone())
    }

    pub(crate) fn local_addr(&self) -> Option<SocketAddr> {
        self.tcp.local_addr().ok()
    }
}

/// Accepts connections for ever.
pub(crate) async fn serve(shared: Arc<Shared>, listener: Arc<Listener>) {
    let mut tasks = JoinSet::new();
    loop {
        while tasks.try_join_next().is_some() {}
        let Ok((stream, client)) = listener.tcp.accept().await else {
            // No file descriptors left, as a rule: others must end first.
            sleep(Duration::from_millis(100)).await;
            continue;
        };
        if listener.has_tls() && !shared.streams.may_shake_hands(Instant::now(), client) {
            continue;
        }
        // Refused, it is dropped with what would have begun.
        shared.streams.admit(client, |number, inlet| {
            let connection = Connection { shared: shared.clone(), number, client };
            tasks.spawn(connection.run(stream, listener.acceptor(), inlet))
        });
    }
}

struct Connection {
    shared: Arc<Shared>,
    number: u64,
    client: SocketAddr,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.shared.streams.remove(self.number);
        handle_closed(&self.shared, self.tuple());
    }
}

impl Connection {
    fn tuple(&self) -> Tuple {
        Tuple { client: self.client, link: Link::Stream(self.number) }
    }

    async fn run(self, stream: TcpStream, tls: Option<TlsAcceptor>, inlet: Inlet) {
        let began = Instant::now();
        // Neither can fail on a socket that has just been accepted, and without them it is only slower.
        let _ = stream.set_nodelay(true);
        let _ = SockRef::from(&stream).set_tcp_notsent_lowat(STREAM_UNSENT_BYTES_MAX);
        match tls {
            None => self.exchange(stream, inlet, began).await,
            Some(tls) => {
                if let Ok(Ok(stream)) = timeout(HANDSHAKE, tls.accept(stream)).await {
                    self.exchange(stream, inlet, began).await;
                }
            }
        }
    }

    async fn exchange(&self, stream: impl AsyncRead + AsyncWrite, inlet: Inlet, began: Instant) {
        let (reader, writer) = tokio::io::split(stream);
        tokio::pin!(reader, writer);
        tokio::select! {
            () = self.read(reader, began) => {}
            () = self.write(writer, inlet) => {}
        }
    }

    async fn read(&self, mut reader: impl AsyncRead + Unpin, began: Instant) {
        let mut held: Vec<u8> = Vec::new();
        // Until when it may be without an allocation, or when that is looked at again.
        let (mut until, mut has_allocation) = (began + self.shared.stream_idle, false);
        loop {
            // What is held is less than one message, which is at most a few bytes longer than a datagram.
            held.reserve(if has_allocation { STREAM_READ_BYTES } else { STREAM_STRANGER_BYTES_MAX });
            match timeout_at(until.into(), reader.read_buf(&mut held)).await {
                Ok(Ok(1..)) => {}
                Ok(_) => return,
                Err(_) if !has_allocation => {
                    self.shared.streams.count(Stream::Idle);
                    return;
                }
                Err(_) => {}
            }
            let Some(len) = self.take(&held, has_allocation) else {
                self.shared.streams.count(Stream::NotTurn);
                return;
            };
            held.drain(..len);
            if !has_allocation || Instant::now() >= until {
                let had = std::mem::replace(&mut has_allocation, udp::has_allocation(&self.shared, self.tuple()));
                if has_allocation || had {
                    until = Instant::now() + self.shared.stream_idle;
                    self.shared.streams.settle(self.number, has_allocation);
                }
            }
        }
    }

    /// Handles all messages that have come whole, and says how many bytes they have; nothing where it is no TURN.
    fn take(&self, held: &[u8], mut has_allocation: bool) -> Option<usize> {
        let mut at = 0;
        loop {
            let Ok(len) = frame_len(&held[at..]) else { return None };
            if let Some(len) = len.filter(|len| at + len <= held.len()) {
                self.handle(&held[at..at + len]);
                at += len;
                continue;
            }
            // Whoever has no allocation has no channel, and would keep us waiting for a long message.
            let is_strange = held[at..].first().is_some_and(|first| first >> 6 != 0);
            let is_long = len.is_some_and(|len| len > STREAM_STRANGER_BYTES_MAX);
            if (is_strange || is_long) && !has_allocation {
                has_allocation = udp::has_allocation(&self.shared, self.tuple());
                if !has_allocation {
                    return None;
                }
            }
            return Some(at);
        }
    }

    fn handle(&self, message: &[u8]) {
        if is_stun(message) && message[..2] == BINDING.to_be_bytes() {
            if let Some(answer) = answer_on_stream(self.client, message) {
                self.shared.streams.send(self.number, answer);
            }
            return;
        }
        handle_client(&self.shared, self.tuple(), Train::one(message));
    }

    async fn write(&self, mut writer: impl AsyncWrite + Unpin, mut inlet: Inlet) {
        loop {
            let bytes = inlet.next().await;
            let written = timeout(STUCK, async {
                writer.write_all(&bytes).await?;
                writer.flush().await
            });
            match written.await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return,
                Err(_) => {
                    self.shared.streams.count(Stream::Stuck);
                    return;
                }
            }
        }
    }
}
