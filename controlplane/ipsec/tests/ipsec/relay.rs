//! A network in between that can be cut, loses, doubles and swaps datagrams, and is a NAT that forgets: the simulator's, with a socket
//! for each port that it gives.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use adit_sim::{Allocation, Nat, NatConfig, Rng};
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
    let mut translation = Translation::new().await;
    let (mut there, mut back) = (Weather::new(1), Weather::new(2));
    let (mut from_client, mut from_server) = (vec![0; 65_536], vec![0; 65_536]);
    loop {
        tokio::select! {
            Ok((len, client)) = inside.recv_from(&mut from_client) => {
                if state.rebind.swap(false, Relaxed) {
                    translation.nat.forget();
                }
                translation.open(client, server).await;
                state.look_at(&from_client[..len]);
                for datagram in there.pass(&state, &from_client[..len]) {
                    let _ = translation.outside.send_to(&datagram, server).await;
                }
            }
            Ok((len, from)) = translation.outside.recv_from(&mut from_server) => {
                let Some(client) = translation.admits(from) else { continue };
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

/// The NAT, and the socket that stands for the port that it gave to the only client.
struct Translation {
    nat: Nat,
    rng: Rng,
    port: u16,
    outside: UdpSocket,
}

impl Translation {
    async fn new() -> Translation {
        let outside = UdpSocket::bind(any()).await.expect("a socket");
        // So that after it has forgotten all it gives another port.
        let allocation = Allocation::Step(1);
        // Its address is seen by nobody: here all are on one machine.
        let nat = Nat::new(NatConfig { allocation, ..NatConfig::usual([192, 0, 2, 1].into()) });
        Translation { nat, rng: Rng::new(1), port: 0, outside }
    }

    /// The client sends to the server: what is seen there is another socket when the NAT gives another port.
    async fn open(&mut self, client: SocketAddr, server: SocketAddr) {
        let seen = self.nat.outbound(Instant::now(), client, server, &mut self.rng).expect("a free port");
        if seen.port() != self.port {
            self.port = seen.port();
            self.outside = UdpSocket::bind(any()).await.expect("a socket");
        }
    }

    /// To whom inside goes what comes from there.
    fn admits(&mut self, from: SocketAddr) -> Option<SocketAddr> {
        self.nat.inbound(Instant::now(), from, self.port)
    }
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
