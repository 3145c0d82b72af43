//! A network in between that can be cut, loses, doubles and swaps datagrams, and is a NAT that forgets. Like a NAT it lets nothing in
//! but from the address that was asked.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use tokio::net::UdpSocket;

use crate::support::any;

/// Where the header of IKE has the SPIs and the kind of exchange, behind the marker (RFC 7296 §3.1).
const SPIS: std::ops::Range<usize> = 4..20;
const EXCHANGE: usize = 4 + 18;
const IKE_AUTH: u8 = 35;

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
    /// The client does not get to know that the server believes it.
    no_auth_answers: AtomicBool,
    auth_answers_kept: AtomicU32,
    /// SPIs of every IKE SA that was seen.
    ike_sas: Mutex<BTreeSet<Vec<u8>>>,
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

    /// Keeps the answers of the server to IKE_AUTH, or lets them through again.
    pub fn keep_auth_answers(&self, keep: bool) {
        self.state.no_auth_answers.store(keep, Relaxed);
    }

    /// How many were kept.
    pub fn auth_answers_kept(&self) -> u32 {
        self.state.auth_answers_kept.load(Relaxed)
    }

    /// How many IKE SAs have been seen of which both SPIs are known.
    pub fn ike_sas(&self) -> usize {
        self.state.ike_sas.lock().expect("no panic inside").len()
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
    let mut outside = outside_for(server).await;
    let mut client = None;
    let (mut there, mut back) = (Weather::new(1), Weather::new(2));
    let (mut from_client, mut from_server) = (vec![0; 65_536], vec![0; 65_536]);
    loop {
        tokio::select! {
            Ok((len, from)) = inside.recv_from(&mut from_client) => {
                client = Some(from);
                if state.rebind.swap(false, Relaxed) {
                    outside = outside_for(server).await;
                }
                state.look_at(&from_client[..len]);
                for datagram in there.pass(&state, &from_client[..len]) {
                    let _ = outside.send(&datagram).await;
                }
            }
            Ok(len) = outside.recv(&mut from_server) => {
                let Some(client) = client else { continue };
                if state.no_auth_answers.load(Relaxed) && is_of(&from_server[..len], IKE_AUTH) {
                    state.auth_answers_kept.fetch_add(1, Relaxed);
                    continue;
                }
                for datagram in back.pass(&state, &from_server[..len]) {
                    let _ = inside.send_to(&datagram, client).await;
                }
            }
        }
    }
}

/// A mapping of the NAT: connected, so that the kernel drops what comes from another address than the one that is asked.
async fn outside_for(server: SocketAddr) -> UdpSocket {
    let outside = UdpSocket::bind(any()).await.expect("a socket");
    outside.connect(server).await.expect("a way to the server");
    outside
}

fn is_of(datagram: &[u8], exchange: u8) -> bool {
    datagram.starts_with(&[0; 4]) && datagram.get(EXCHANGE) == Some(&exchange)
}

impl State {
    fn look_at(&self, datagram: &[u8]) {
        let spis = datagram.get(SPIS).filter(|spis| datagram.starts_with(&[0; 4]) && spis[8..] != [0; 8]);
        if let Some(spis) = spis {
            self.ike_sas.lock().expect("no panic inside").insert(spis.to_vec());
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
