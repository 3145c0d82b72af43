//! How fast a client and a server of the library are in one process over loopback.
//!
//! ```text
//! cargo run --release --example ipsec_throughput
//! ```
//! prints one line for each length of packet. Compare figures of one machine and one run only.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use adit_ipsec::{Client, Error, Peer, Server};

const TIME: Duration = Duration::from_secs(3);

/// What went through in one direction.
#[derive(Clone, Copy, Debug)]
pub struct Figures {
    pub len: usize,
    pub sent: u64,
    pub received: u64,
    pub took: Duration,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    for len in [64, 512, 1420] {
        let figures = run(len, TIME).await?;
        let per_second = figures.received as f64 / figures.took.as_secs_f64();
        println!(
            "{len:>5} bytes: {:>8.0} packets a second, {:>6.2} Gbit/s; {} of {} arrived",
            per_second,
            per_second * len as f64 * 8.0 / 1e9,
            figures.received,
            figures.sent
        );
    }
    Ok(())
}

/// Sends packets of `len` bytes, at least 20, as fast as it goes, but never more ahead of the receiver than its queue holds.
pub async fn run(len: usize, time: Duration) -> Result<Figures, Error> {
    let peer = |local, remote| Peer::builder().local_id(local).remote_id(remote).psk("a key for one run only").build();
    let server = Server::bind((Ipv4Addr::LOCALHOST, 0).into(), [peer("server.example.org", "client.example.org")?]).await?;
    let client = Client::connect(server.local_addr(), peer("client.example.org", "server.example.org")?).await?;
    let session = Arc::new(server.accept().await?);
    let receiver = tokio::spawn({
        let session = session.clone();
        async move { while session.recv_packet().await.is_ok() {} }
    });
    let packet = packet(len);
    let began = Instant::now();
    let mut sent: u64 = 0;
    while began.elapsed() < time {
        for _ in 0..64 {
            client.send_packet(&packet).await?;
            sent += 1;
        }
        let mut turns = 0;
        // What was lost on the way never arrives: then it goes on after a while.
        while sent - session.stats().received_packets > 512 && turns < 1000 {
            tokio::task::yield_now().await;
            turns += 1;
        }
    }
    let took = began.elapsed();
    client.shutdown().await;
    // The receiver ends with the session.
    let _ = receiver.await;
    Ok(Figures { len, sent, received: session.stats().received_packets, took })
}

/// An IPv4 packet of an experimental protocol (RFC 3692).
fn packet(len: usize) -> Vec<u8> {
    let total = u16::try_from(len).unwrap_or(u16::MAX).to_be_bytes();
    let mut packet = vec![0x45, 0, total[0], total[1], 0, 0, 0, 0, 64, 253, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
    packet.resize(len, 0);
    packet
}
