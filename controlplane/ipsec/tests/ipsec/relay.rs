//! A network in between that can be cut, loses, doubles and swaps datagrams, and is a NAT that forgets.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use tokio::net::UdpSocket;

use crate::support::any;

/// A relay to a server for one client; ends when it is dropped.
pub struct Relay {
    pub address: SocketAddr,
    state: Arc<State>,
    task: tokio::task::JoinHandle<()>,
}

#[derive(Default)]
struct State {
    cut: AtomicBool,
    rebind: AtomicBool,
    /// Of a thousand datagrams.
    loss: AtomicU32,
    doubled: AtomicU32,
    swapped: AtomicU32,
}

impl Relay {
    pub async fn to(server: SocketAddr) -> Relay {
        let inside = UdpSocket::bind(any()).await.expect("a socket");
        let address = inside.local_addr().expect("an address");
        let state = Arc::new(State::default());
        let task = tokio::spawn(run(inside, server, state.clone()));
        Relay { address, state, task }
    }

    /// Nothing comes through, or everything again.
    pub fn cut(&self, cut: bool) {
        self.state.cut.store(cut, Relaxed);
    }

    /// The server sees the client at another port from the next datagram on.
    pub fn rebind(&self) {
        self.state.rebind.store(true, Relaxed);
    }

    /// Of a thousand datagrams so many are lost, come twice, and come after the next one.
    pub fn be_bad(&self, loss: u32, doubled: u32, swapped: u32) {
        self.state.loss.store(loss, Relaxed);
        self.state.doubled.store(doubled, Relaxed);
        self.state.swapped.store(swapped, Relaxed);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(inside: UdpSocket, server: SocketAddr, state: Arc<State>) {
    let mut outside = UdpSocket::bind(any()).await.expect("a socket");
    let mut client = None;
    let (mut there, mut back) = (Weather::new(1), Weather::new(2));
    let (mut from_client, mut from_server) = (vec![0; 65_536], vec![0; 65_536]);
    loop {
        tokio::select! {
            Ok((len, from)) = inside.recv_from(&mut from_client) => {
                client = Some(from);
                if state.rebind.swap(false, Relaxed) {
                    outside = UdpSocket::bind(any()).await.expect("a socket");
                }
                for datagram in there.pass(&state, &from_client[..len]) {
                    let _ = outside.send_to(&datagram, server).await;
                }
            }
            Ok((len, _)) = outside.recv_from(&mut from_server) => {
                let Some(client) = client else { continue };
                for datagram in back.pass(&state, &from_server[..len]) {
                    let _ = inside.send_to(&datagram, client).await;
                }
            }
        }
    }
}

/// What happens to the datagrams of one direction; the same in every run.
struct Weather {
    dice: u32,
    kept: Option<Vec<u8>>,
}

impl Weather {
    fn new(seed: u32) -> Weather {
        Weather { dice: seed, kept: None }
    }

    fn happens(&mut self, per_mille: &AtomicU32) -> bool {
        self.dice = self.dice.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (self.dice >> 16) % 1000 < per_mille.load(Relaxed)
    }

    fn pass(&mut self, state: &State, datagram: &[u8]) -> Vec<Vec<u8>> {
        if state.cut.load(Relaxed) || self.happens(&state.loss) {
            return Vec::new();
        }
        if self.kept.is_none() && self.happens(&state.swapped) {
            self.kept = Some(datagram.to_vec());
            return Vec::new();
        }
        let mut out = vec![datagram.to_vec()];
        if self.happens(&state.doubled) {
            out.push(datagram.to_vec());
        }
        out.extend(self.kept.take());
        out
    }
}
