//! A TCP connection to a relay: its name looked up, its addresses tried side by side, or through a proxy.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use adit_engine::shown::Shown;
use adit_proto::relay::HostPort;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{sleep, timeout};

use super::failure::{Cause, Failure, Step};
use super::proxy::Proxy;
use crate::limits::{ADDRESSES_OF_RELAY_MAX, UNSENT_BYTES_MAX};

/// The next address is tried after so long without an answer (RFC 8305 §8).
const STAGGER: Duration = Duration::from_millis(250);
const LOOKUP_TIME: Duration = Duration::from_secs(5);
const CONNECT_TIME: Duration = Duration::from_secs(10);
const PROXY_TIME: Duration = Duration::from_secs(10);
/// The kernel gives up what nobody has acknowledged for so long.
const UNACKNOWLEDGED: Duration = Duration::from_secs(20);

/// What TLS is spoken over.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// A connection, and how the place is called that it leads to.
pub(super) struct Dialed {
    pub stream: Box<dyn Stream>,
    pub place: String,
}

/// Connects to a relay.
pub(super) async fn dial(to: &HostPort, proxy: Option<&Proxy>, mark: Option<u32>) -> Result<Dialed, Failure> {
    let Some(proxy) = proxy else {
        let (socket, address) = connect(to, mark).await.map_err(|(place, cause)| Failure { place, cause })?;
        return Ok(Dialed { stream: Box::new(socket), place: place(to, address) });
    };
    let name = format!("{to} by the proxy {}", proxy.at);
    let failed = |cause| Failure { place: name.clone(), cause };
    let of_proxy = |(_, cause): (String, Cause)| failed(Cause::ProxyUnreachable(proxy.at.clone(), Shown::of(cause)));
    let (socket, _) = connect(&proxy.at, mark).await.map_err(of_proxy)?;
    let tunnel = timeout(PROXY_TIME, proxy.tunnel(socket, to)).await;
    let stream = tunnel.unwrap_or(Err(Cause::TimedOut(Step::Proxy))).map_err(failed)?;
    Ok(Dialed { stream: Box::new(stream), place: name })
}

/// The name, and the address if that is something else.
fn place(to: &HostPort, address: SocketAddr) -> String {
    let address = address.to_string();
    if to.as_str() == address { address } else { format!("{to} ({address})") }
}

/// Connects to a host by the first of its addresses that answers.
async fn connect(to: &HostPort, mark: Option<u32>) -> Result<(TcpStream, SocketAddr), (String, Cause)> {
    let failed = |cause| (to.to_string(), cause);
    let found = timeout(LOOKUP_TIME, tokio::net::lookup_host(to.as_str())).await;
    let found = found.map_err(|_| failed(Cause::TimedOut(Step::Lookup)))?;
    let found = found.map_err(|error| failed(Cause::NoAddress(Shown::of(error))))?;
    let addresses = in_turn(found.take(ADDRESSES_OF_RELAY_MAX).collect());
    if addresses.is_empty() {
        return Err(failed(Cause::NoAddress(Shown::of("the name server knows none"))));
    }
    let first = addresses[0];
    match timeout(CONNECT_TIME, first_of(&addresses, mark)).await {
        Ok(Ok((socket, address))) => {
            prepare(&socket).map_err(|error| (place(to, address), Cause::Unreachable(Shown::of(error))))?;
            Ok((socket, address))
        }
        Ok(Err((address, error))) => Err((place(to, address), Cause::of_connect(&error))),
        Err(_) => Err((place(to, first), Cause::TimedOut(Step::Connect))),
    }
}

/// The families take turns, the one that the system prefers first (RFC 8305 §4): if one does not work, the other is not last.
fn in_turn(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let prefers_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (preferred, others): (Vec<_>, Vec<_>) = addresses.into_iter().partition(|address| address.is_ipv6() == prefers_v6);
    let (mut preferred, mut others) = (preferred.into_iter(), others.into_iter());
    std::iter::from_fn(|| match (preferred.next(), others.next()) {
        (None, None) => None,
        (one, other) => Some([one, other]),
    })
    .flatten()
    .flatten()
    .collect()
}

/// Tries addresses one after the other, not waiting long for one before the next begins; the fault is that of the first.
async fn first_of(addresses: &[SocketAddr], mark: Option<u32>) -> Result<(TcpStream, SocketAddr), (SocketAddr, io::Error)> {
    let mut attempts = FuturesUnordered::new();
    let mut rest = addresses.iter().copied();
    let mut fault = None;
    loop {
        let next = rest.next();
        attempts.extend(next.map(|address| async move { (address, connect_to(address, mark).await) }));
        let stagger = async { if next.is_some() { sleep(STAGGER).await } else { std::future::pending().await } };
        tokio::select! {
            done = attempts.next() => match done {
                Some((address, Ok(socket))) => return Ok((socket, address)),
                Some((address, Err(error))) => fault = fault.or(Some((address, error))),
                None => return Err(fault.unwrap_or_else(|| (addresses[0], io::ErrorKind::NotConnected.into()))),
            },
            () = stagger => {}
        }
    }
}

/// Connects to one address. The mark is there before anything leaves, since it says which way that takes.
async fn connect_to(address: SocketAddr, mark: Option<u32>) -> io::Result<TcpStream> {
    let socket = if address.is_ipv6() { TcpSocket::new_v6() } else { TcpSocket::new_v4() }?;
    if let Some(mark) = mark {
        match SockRef::from(&socket).set_mark(mark) {
            // Who may not mark has made no rules for what is marked.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            marked => marked?,
        }
    }
    socket.connect(address).await
}

/// Little waits in the socket, where nothing overtakes anything: IKE passes data before it is written.
fn prepare(socket: &TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let socket = SockRef::from(socket);
    socket.set_tcp_notsent_lowat(UNSENT_BYTES_MAX)?;
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_take_turns() {
        let parse = |list: &str| list.split(' ').map(|text| text.parse().unwrap()).collect::<Vec<SocketAddr>>();
        let mixed = parse("[2001:db8::1]:1 [2001:db8::2]:1 [2001:db8::3]:1 192.0.2.1:1");
        assert_eq!(in_turn(mixed), parse("[2001:db8::1]:1 192.0.2.1:1 [2001:db8::2]:1 [2001:db8::3]:1"));
        assert_eq!(in_turn(parse("192.0.2.1:1 [2001:db8::1]:1")), parse("192.0.2.1:1 [2001:db8::1]:1"));
        assert_eq!(in_turn(Vec::new()), []);
    }

    #[tokio::test]
    async fn an_address_that_refuses_does_not_hold_up_the_next() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let open = listener.local_addr().unwrap();
        // Bound, so that nobody else takes it, and not listening.
        let closed = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        closed.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        let closed = closed.local_addr().unwrap().as_socket().unwrap();
        let (socket, address) = first_of(&[closed, open], None).await.unwrap();
        assert_eq!((address, socket.peer_addr().unwrap()), (open, open));
        let (address, error) = first_of(&[closed, closed], None).await.unwrap_err();
        assert_eq!((address, error.kind()), (closed, io::ErrorKind::ConnectionRefused));
    }

    #[tokio::test]
    async fn a_connection_has_its_mark_where_that_is_allowed() {
        for any in ["127.0.0.1:0", "[::1]:0"] {
            let listener = tokio::net::TcpListener::bind(any).await.unwrap();
            let to = HostPort::new(&listener.local_addr().unwrap().to_string()).unwrap();
            let is_allowed = SockRef::from(&listener).set_mark(7).is_ok();
            for (mark, expected) in [(None, 0), (Some(7), if is_allowed { 7 } else { 0 })] {
                let (socket, _) = connect(&to, mark).await.unwrap();
                assert_eq!(SockRef::from(&socket).mark().unwrap_or_default(), expected, "{any}");
            }
        }
    }
}
