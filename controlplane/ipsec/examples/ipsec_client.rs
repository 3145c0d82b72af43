//! An IPsec client without privileges: it connects, pings an address through the tunnel, asks for new keys on the way, and goes.
//!
//! ```text
//! cargo run --example ipsec_client -- 127.0.0.1:4500 'a preshared key' 10.0.0.1 10.0.0.2
//! ```
//! from 10.0.0.1 to 10.0.0.2 through the server at 127.0.0.1:4500.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use adit_ipsec::{Client, Error, Peer};

const PINGS: u16 = 10;
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [server, psk, from, to] = arguments.as_slice() else {
        return Err("say: ipsec_client SERVER:PORT PRESHARED-KEY FROM TO".into());
    };
    let answered = run(server.parse()?, psk, from.parse()?, to.parse()?).await?;
    println!("{answered} of {PINGS} pings were answered");
    Ok(())
}

/// Pings, and says how many answers came.
pub async fn run(server: SocketAddr, psk: &str, from: Ipv4Addr, to: Ipv4Addr) -> Result<u16, Error> {
    let peer = Peer::builder().local_id("client.example.org").remote_id("server.example.org").psk(psk).build()?;
    let client = Client::connect(server, peer).await?;
    println!("connected to {}: {:?}", client.peer_id(), client.algorithms());
    let mut answered = 0;
    for sequence in 1..=PINGS {
        if sequence == PINGS / 2 {
            client.rekey().await?;
        }
        let began = Instant::now();
        client.send_packet(&echo_request(from, to, sequence)).await?;
        match tokio::time::timeout(PATIENCE, client.recv_packet()).await {
            Ok(reply) => {
                println!("{} bytes from {to}: sequence {sequence}, {:?}", reply?.len(), began.elapsed());
                answered += 1;
            }
            Err(_) => println!("sequence {sequence}: no answer"),
        }
    }
    client.shutdown().await;
    Ok(answered)
}

/// A ping over IPv4.
fn echo_request(from: Ipv4Addr, to: Ipv4Addr, sequence: u16) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, 1, 0, 0];
    packet.extend(from.octets());
    packet.extend(to.octets());
    let sum = checksum(&packet);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    let mut echo = vec![8, 0, 0, 0, 0xad, 0x17];
    echo.extend(sequence.to_be_bytes());
    let sum = checksum(&echo);
    echo[2..4].copy_from_slice(&sum.to_be_bytes());
    packet.extend(echo);
    packet
}

/// The Internet checksum (RFC 1071) of an even number of bytes.
fn checksum(bytes: &[u8]) -> u16 {
    let sum: u32 = bytes.as_chunks::<2>().0.iter().map(|pair| u32::from(u16::from_be_bytes(*pair))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded + (folded >> 16)) as u16)
}
