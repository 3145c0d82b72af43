//! An IPsec server without privileges: it answers pings that come through its tunnels, to whatever address they go.
//!
//! ```text
//! cargo run --example ipsec_server -- 0.0.0.0:4500 'a preshared key'
//! ```
//! `ipsec_client` beside it is the other end; strongSwan can be, too.

use std::net::SocketAddr;

use adit_ipsec::{Error, Peer, Server, Session};

const ICMP: u8 = 1;
const ECHO_REQUEST: u8 = 8;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, psk] = arguments.as_slice() else {
        return Err("say: ipsec_server ADDRESS:PORT PRESHARED-KEY".into());
    };
    let server = bind(address.parse()?, psk).await?;
    println!("listening on {}", server.local_addr());
    tokio::select! {
        result = serve(&server) => result?,
        result = tokio::signal::ctrl_c() => result?,
    }
    server.shutdown().await;
    Ok(())
}

/// A server for everybody who has the key.
pub async fn bind(address: SocketAddr, psk: &str) -> Result<Server, Error> {
    let anybody = Peer::builder().local_id("server.example.org").remote_id("*").psk(psk).build()?;
    Server::bind(address, [anybody]).await
}

/// Takes clients, one task for each.
pub async fn serve(server: &Server) -> Result<(), Error> {
    loop {
        tokio::select! {
            session = server.accept() => {
                tokio::spawn(answer(session?));
            }
            refused = server.refused() => {
                let refused = refused?;
                println!("{} was refused ({}): {}", refused.from, refused.error.code(), refused.error);
            }
        }
    }
}

async fn answer(session: Session) {
    println!("{} is connected: {:?}", session.peer_id(), session.algorithms());
    let why = loop {
        match session.recv_packet().await {
            Ok(packet) => {
                if let Some(reply) = echo_reply(packet)
                    && let Err(error) = session.send_packet(&reply).await
                {
                    println!("{}: {error}", session.peer_id());
                }
            }
            Err(why) => break why,
        }
    };
    println!("{} is gone: {why}", session.peer_id());
}

/// The answer to a ping over IPv4 without options.
fn echo_reply(mut packet: Vec<u8>) -> Option<Vec<u8>> {
    if packet.len() < 28 || packet[0] != 0x45 || packet[9] != ICMP || packet[20] != ECHO_REQUEST {
        return None;
    }
    // The addresses change places, which leaves the header's checksum as it is.
    packet[12..20].rotate_left(4);
    packet[20] = 0;
    // RFC 1624: the checksum follows the change of the type from 8 to 0.
    let sum = u32::from(u16::from_be_bytes([packet[22], packet[23]])) + (u32::from(ECHO_REQUEST) << 8);
    packet[22..24].copy_from_slice(&((sum + (sum >> 16)) as u16).to_be_bytes());
    Some(packet)
}
