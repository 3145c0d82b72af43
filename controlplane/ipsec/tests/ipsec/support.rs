//! Two ends that fit, packets, and patience.

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use adit_ipsec::{Client, Options, Peer, PeerBuilder, Retransmission, Server, Session};

/// For what takes milliseconds on an idle machine.
pub const SOON: Duration = Duration::from_secs(60);
pub const GATEWAY: &str = "gw.example.org";
pub const CLIENT: &str = "a.example.org";
pub const CLIENT_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
pub const SERVER_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);

pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, future).await.unwrap_or_else(|_| panic!("{SOON:?} went by without {what}"))
}

pub fn any() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

/// The server as the client is told of it.
pub fn gateway() -> PeerBuilder {
    Peer::builder().local_id(CLIENT).remote_id(GATEWAY).psk("a key for all tests")
}

/// The client as the server is told of it.
pub fn client() -> PeerBuilder {
    Peer::builder().local_id(GATEWAY).remote_id(CLIENT).psk("a key for all tests")
}

/// Quick to notice that nobody answers.
pub fn impatient() -> Options {
    let retransmission = Retransmission { first: Duration::from_millis(300), max: Duration::from_millis(600), tries: 4 };
    Options { retransmission, ..Options::default() }
}

pub struct Pair {
    pub server: Server,
    pub client: Client,
    pub session: Session,
}

/// Both ends, connected.
pub async fn pair(client: PeerBuilder, server: PeerBuilder) -> Pair {
    pair_with(client, server, Options::default()).await
}

pub async fn pair_with(gateway: PeerBuilder, client: PeerBuilder, options: Options) -> Pair {
    let server = Server::bind_with(any(), [client.build().expect("settings")], options.clone()).await.expect("a server");
    let connecting = Client::connect_with(server.local_addr(), gateway.build().expect("settings"), options);
    let client = soon("a connection", connecting).await.expect("a connection");
    let session = soon("a session", server.accept()).await.expect("a session");
    Pair { server, client, session }
}

impl Pair {
    /// A packet from the client.
    pub async fn check_one_way(&self) {
        let there = udp(CLIENT_ADDRESS, SERVER_ADDRESS, b"there alone");
        self.client.send_packet(&there).await.expect("sent");
        assert_eq!(soon("a packet", self.session.recv_packet()).await.expect("a packet"), there);
    }

    /// A packet each way.
    pub async fn check(&self) {
        let there = udp(CLIENT_ADDRESS, SERVER_ADDRESS, b"there");
        self.client.send_packet(&there).await.expect("sent");
        assert_eq!(soon("a packet", self.session.recv_packet()).await.expect("a packet"), there);
        let back = udp(SERVER_ADDRESS, CLIENT_ADDRESS, b"and back");
        self.session.send_packet(&back).await.expect("sent");
        assert_eq!(soon("a packet", self.client.recv_packet()).await.expect("a packet"), back);
    }
}

/// An IPv4 packet with UDP from port 1000 to port 2000.
pub fn udp(source: Ipv4Addr, destination: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
    let len = u16::try_from(28 + payload.len()).expect("a short payload");
    let mut packet = vec![0x45, 0];
    packet.extend(len.to_be_bytes());
    packet.extend([0, 0, 0, 0, 64, 17, 0, 0]);
    packet.extend(source.octets());
    packet.extend(destination.octets());
    packet.extend([0x03, 0xe8, 0x07, 0xd0]);
    packet.extend((len - 20).to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(payload);
    packet
}

/// An IPv6 packet with UDP.
pub fn udp6(payload: &[u8]) -> Vec<u8> {
    let len = u16::try_from(8 + payload.len()).expect("a short payload");
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(len.to_be_bytes());
    packet.extend([17, 64]);
    packet.extend([0xfd; 16]);
    packet.extend([0xfe; 16]);
    packet.extend([0x03, 0xe8, 0x07, 0xd0]);
    packet.extend(len.to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(payload);
    packet
}
