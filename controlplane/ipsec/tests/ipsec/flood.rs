//! One network floods a server with requests to begin: the server looks at some of them, and nobody else notices.

use std::net::{SocketAddr, UdpSocket};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Instant;

use adit_ipsec::{Client, Options};
use adit_proto::screen::NETWORK_PER_S;

use crate::support::*;

/// Where the header of IKE has the SPI of the initiator, behind the marker (RFC 7296 §3.1).
const SPI: Range<usize> = 4..12;
/// Who floods, all of one network; and how many requests each sends at a time. All together they fit into the server's socket.
const FLOODERS: [&str; 4] = ["127.0.1.1:0", "127.0.1.2:0", "127.0.1.3:0", "127.0.1.4:0"];
const BURST: u64 = 24;

/// What a client begins with.
async fn first_message() -> Vec<u8> {
    let silent = tokio::net::UdpSocket::bind(any()).await.unwrap();
    let attempt = Client::connect(silent.local_addr().unwrap(), gateway().build().unwrap());
    let mut buffer = [0; 4096];
    let (len, _) = tokio::select! {
        _ = attempt => panic!("nobody answers"),
        asked = soon("a question", silent.recv_from(&mut buffer)) => asked.unwrap(),
    };
    buffer[..len].to_vec()
}

/// Requests to begin from one network, each with an SPI of its own.
struct Flood {
    sockets: Vec<UdpSocket>,
    message: Vec<u8>,
    began: Instant,
    sent: u64,
    answers: u64,
}

impl Flood {
    async fn of(server: SocketAddr) -> Flood {
        let sockets = FLOODERS.map(|from| {
            let socket = UdpSocket::bind(from).unwrap();
            socket.connect(server).unwrap();
            socket.set_nonblocking(true).unwrap();
            socket
        });
        Flood { sockets: sockets.into(), message: first_message().await, began: Instant::now(), sent: 0, answers: 0 }
    }

    fn send(&mut self) {
        for socket in &self.sockets {
            for _ in 0..BURST {
                self.message[SPI].copy_from_slice(&(self.sent + 1).to_be_bytes());
                socket.send(&self.message).unwrap();
                self.sent += 1;
            }
        }
    }

    fn count_answers(&mut self) {
        let mut buffer = [0; 4096];
        for socket in &self.sockets {
            self.answers += std::iter::from_fn(|| socket.recv(&mut buffer).ok()).count() as u64;
        }
    }

    /// The most that is looked at of one network in the time so far: a second's worth may come at once.
    fn most(&self) -> u64 {
        u64::from(NETWORK_PER_S) * (self.began.elapsed().as_secs() + 2)
    }
}

/// Somebody from elsewhere. Once in some thousand runs two networks have one share together: then it is another one who comes in.
async fn honest(server: SocketAddr) -> Client {
    for from in ["127.0.2.1:0", "127.0.3.1:0"] {
        let options = Options { bind: Some(from.parse().unwrap()), connect_timeout: SOON, ..Options::default() };
        let peer = gateway().local_id("honest.example.org").build().unwrap();
        if let Ok(client) = soon("an answer", Client::connect_with(server, peer, options)).await {
            return client;
        }
    }
    panic!("the flood keeps others out")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_from_one_network_is_answered_in_part_and_hinders_nobody() {
    let pair = pair(gateway(), client().remote_id("*.example.org")).await;
    let mut flood = Flood::of(pair.server.local_addr()).await;
    let done = AtomicBool::new(false);
    let floods = async {
        // Until far more have been sent than the server may have looked at, however slow this machine is.
        while !done.load(Relaxed) || flood.sent < 2 * flood.most() {
            flood.send();
            // It waits behind them in the server's socket: when it is there, the server is through with them and has room again.
            pair.check().await;
            flood.count_answers();
        }
    };
    let others = async {
        let client = honest(pair.server.local_addr()).await;
        let session = soon("its session", pair.server.accept()).await.unwrap();
        assert_eq!(session.peer_id(), "honest.example.org");
        soon("new keys", pair.client.rekey()).await.unwrap();
        soon("a new IKE SA", pair.session.rekey_ike()).await.unwrap();
        done.store(true, Relaxed);
        (client, session)
    };
    let ((), (client, session)) = soon("an end of the flood", async { tokio::join!(floods, others) }).await;
    let Flood { sent, answers, .. } = flood;
    assert!(answers >= u64::from(NETWORK_PER_S) / 2, "{answers} of {sent}: they are no requests");
    assert!(answers <= flood.most(), "{answers} of {sent} were answered within {:?}", flood.began.elapsed());
    let packet = udp(CLIENT_ADDRESS, SERVER_ADDRESS, b"from elsewhere");
    client.send_packet(&packet).await.unwrap();
    assert_eq!(soon("a packet", session.recv_packet()).await.unwrap(), packet);
    assert_eq!(pair.client.stats().sent_packets, pair.session.stats().received_packets);
}
