//! IPsec for programs: tunnels that carry IP packets between a [`Client`] and a [`Server`], or any other end that speaks IKEv2 and
//! ESP in UDP. It takes no TAP device, no daemon and no privilege: a program has packets, gives them here, and gets packets.
//!
//! Keys are agreed on by IKEv2 (RFC 7296), with ML-KEM-768 beside X25519 where the other end knows it; packets go as ESP in tunnel
//! mode (RFC 4303) in UDP (RFC 3948), with AES-GCM or ChaCha20-Poly1305. Dead peer detection (DPD), new keys and lost connections are
//! looked after in the background, by one tokio task for each client and each server.
//!
//! # Example
//! A client and a server in one program, over loopback:
//!
//! ```
//! use adit_ipsec::{Client, Peer, Server};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let clients = Peer::builder().local_id("gw.example.org").remote_id("*.clients.example.org").psk("long and random, really").build()?;
//! let server = Server::bind("127.0.0.1:0".parse()?, [clients]).await?;
//!
//! let gateway = Peer::builder().local_id("a.clients.example.org").remote_id("gw.example.org").psk("long and random, really").build()?;
//! let client = Client::connect(server.local_addr(), gateway).await?;
//! let session = server.accept().await?;
//! assert_eq!(session.peer_id(), "a.clients.example.org");
//!
//! // An IPv4 packet: a UDP header with no data, from 10.0.0.1 to 10.0.0.2.
//! let mut packet = vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
//! packet.extend([0x30, 0x39, 0, 53, 0, 8, 0, 0]);
//! client.send_packet(&packet).await?;
//! assert_eq!(session.recv_packet().await?, packet);
//!
//! client.rekey().await?;
//! session.send_packet(&packet).await?;
//! assert_eq!(client.recv_packet().await?, packet);
//!
//! client.shutdown().await;
//! assert_eq!(session.recv_packet().await.unwrap_err().code(), "closed");
//! # Ok(())
//! # }
//! ```
//!
//! # Errors
//! Every [`Error`] has a [`code`](Error::code) for programs, and its text says what to do. A negotiation that fails says what both
//! ends offered:
//!
//! ```
//! # use adit_ipsec::{Client, Peer, Server};
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let server = Server::bind("127.0.0.1:0".parse()?,
//! #     [Peer::builder().local_id("gw").remote_id("alice").psk("one key for the two").build()?]).await?;
//! let gateway = Peer::builder().local_id("alice").remote_id("gw").psk("another key for the two").build()?;
//! let error = Client::connect(server.local_addr(), gateway).await.unwrap_err();
//! assert_eq!(error.code(), "authentication_failed");
//! // The server knows more than it says.
//! assert_eq!(server.refused().await?.error.code(), "wrong_psk");
//! # Ok(())
//! # }
//! ```
//!
//! # Limits
//! A session keeps [`Options::receive_queue`] packets that nobody has asked for, a server bears [`Options::sessions`] sessions; what
//! is beyond is dropped and counted ([`Stats`]), never queued without end. ESP goes in UDP only, so the other end must know NAT
//! traversal, as practically all do, and be told that a NAT may be there; it is. IKEv2 begins on the same port as ESP, so a client
//! reaches others at port 4500, not 500.

#![forbid(unsafe_code)]

mod client;
mod command;
mod driver;
mod error;
mod esp;
mod limits;
mod link;
mod options;
mod packet;
mod peer;
mod queue;
mod selector;
mod server;
mod session;
mod socket;
mod underlay;

pub use adit_engine::ike::selectors::SelectorPair;
pub use adit_engine::ike::{Cause, Retransmission};
pub use client::Client;
pub use error::{Error, Failure, Refused};
pub use limits::{CHILDREN_MAX, PATH_MTU_MIN, RECEIVE_QUEUE_MAX, SESSIONS_MAX};
pub use link::{Algorithms, State, Stats};
pub use options::Options;
pub use peer::{Peer, PeerBuilder};
pub use server::Server;
pub use session::Session;

/// For the fuzzer, which calls it directly.
#[doc(hidden)]
pub mod fuzzing {
    pub use super::packet::Flow;
}
