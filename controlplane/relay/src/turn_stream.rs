//! TURN over TCP and over TLS (RFC 8656 §2.1), for networks that let no UDP out: a stream of messages between client and server, UDP to peers.
//!
//! A connection has two tasks. One reads, cuts the stream into messages and hands them to the TURN server; it ends with what is no
//! TURN, and without an allocation after half a minute. The other one writes what waits for the client: so many bytes at most, and
//! what comes on top is lost, as a full queue loses with UDP. A client that reads nothing for ten seconds is left.
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use adit_engine::stun::codec::{BINDING, is_stun};
use adit_engine::stun::server::answer_on_stream;
use adit_engine::turn::frames::frame_len;
use adit_engine::turn::{Link, Train, Tuple};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::limits::{STREAM_UNSENT_BYTES_MAX, UDP_BYTES_MAX};
use crate::streams::{Inlet, Stream};
use crate::udp::{Shared, handle_client, handle_closed, has_allocation};

/// A handshake of TLS takes no longer.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Who has no allocation by then has other plans.
const IDLE: Duration = Duration::from_secs(30);
/// A client that takes nothing for so long is not there any more.
const STUCK: Duration = Duration::from_secs(10);

/// Where streams are accepted.
pub(crate) struct Listener {
    tcp: TcpListener,
    tls: Option<TlsAcceptor>,
}

impl Listener {
    pub(crate) async fn bind(at: SocketAddr, certificate: Option<Arc<rustls::ServerConfig>>) -> io::Result<Listener> {
        Ok(Listener { tcp: TcpListener::bind(at).await?, tls: certificate.map(TlsAcceptor::from) })
    }

    pub(crate) fn has_tls(&self) -> bool {
        self.tls.is_some()
    }

    pub(crate) fn local_addr(&self) -> Option<SocketAddr> {
        self.tcp.local_addr().ok()
    }
}

/// Accepts connections for ever.
pub(crate) async fn serve(shared: Arc<Shared>, listener: Listener) {
    let mut tasks = JoinSet::new();
    loop {
        while tasks.try_join_next().is_some() {}
        let Ok((stream, client)) = listener.tcp.accept().await else {
            // No file descriptors left, as a rule: others must end first.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        if !shared.streams.has_room(client) {
            shared.streams.count(Stream::Refused);
            continue;
        }
        shared.streams.insert(client, |number, inlet| {
            let connection = Connection { shared: shared.clone(), number, client };
            tasks.spawn(connection.run(stream, listener.tls.clone(), inlet))
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
        // Neither can fail on a socket that has just been accepted, and without them it is only slower.
        let _ = stream.set_nodelay(true);
        let _ = SockRef::from(&stream).set_tcp_notsent_lowat(STREAM_UNSENT_BYTES_MAX);
        match tls {
            None => self.exchange(stream, inlet).await,
            Some(tls) => {
                if let Ok(Ok(stream)) = timeout(HANDSHAKE, tls.accept(stream)).await {
                    self.exchange(stream, inlet).await;
                }
            }
        }
    }

    async fn exchange(&self, stream: impl AsyncRead + AsyncWrite, inlet: Inlet) {
        let (reader, writer) = tokio::io::split(stream);
        tokio::pin!(reader, writer);
        tokio::select! {
            () = self.read(reader) => {}
            () = self.write(writer, inlet) => {}
        }
    }

    async fn read(&self, mut reader: impl AsyncRead + Unpin) {
        let mut held: Vec<u8> = Vec::new();
        loop {
            // What is held is less than one message, which is at most a few bytes longer than a datagram.
            held.reserve(UDP_BYTES_MAX / 4);
            match timeout(IDLE, reader.read_buf(&mut held)).await {
                Ok(Ok(1..)) => {}
                Ok(_) => return,
                Err(_) if has_allocation(&self.shared, self.tuple()) => continue,
                Err(_) => {
                    self.shared.streams.count(Stream::Idle);
                    return;
                }
            }
            let mut at = 0;
            loop {
                match frame_len(&held[at..]) {
                    Ok(Some(len)) if at + len <= held.len() => {
                        self.handle(&held[at..at + len]);
                        at += len;
                    }
                    // Whoever has no allocation has no channel, and keeps us waiting for a long message.
                    Ok(_)
                        if held[at..].first().is_none_or(|first| first >> 6 == 0)
                            || has_allocation(&self.shared, self.tuple()) =>
                    {
                        break;
                    }
                    Ok(_) | Err(_) => {
                        self.shared.streams.count(Stream::NotTurn);
                        return;
                    }
                }
            }
            held.drain(..at);
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
        while let Some(bytes) = inlet.next().await {
            let written = timeout(STUCK, async {
                writer.write_all(&bytes).await?;
                writer.flush().await
            });
            match written.await {
                Ok(Ok(())) => inlet.written(bytes.len()),
                Ok(Err(_)) => return,
                Err(_) => {
                    self.shared.streams.count(Stream::Stuck);
                    return;
                }
            }
        }
    }
}
