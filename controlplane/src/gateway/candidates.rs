//! Candidates: where this gateway can perhaps be reached by UDP, for peers that it meets over the relay. Its own addresses, and those at
//! which the relay's STUN servers see the port of the data. They are asked from that port, through the data plane.

use std::net::SocketAddr;
use std::time::Instant;

use adit_channel::Master;
use adit_engine::ike::{Candidate, CandidateKind};
use adit_engine::stun::reflexive::Reflexive;
use adit_proto::control::{InjectHeader, PuntHeader};

use super::Gateway;
use crate::random;

/// What is asked, and what peers are told.
pub(super) struct Candidates {
    reflexive: Reflexive,
    /// The servers that the relay has named.
    named: Vec<SocketAddr>,
    told: Vec<Candidate>,
}

impl Default for Candidates {
    fn default() -> Candidates {
        Candidates { reflexive: Reflexive::new(random::system()), named: Vec::new(), told: Vec::new() }
    }
}

impl Candidates {
    /// When there is something to ask.
    pub(super) fn due(&self) -> Option<Instant> {
        self.reflexive.poll_timeout()
    }

    /// The relay serves STUN there, or nobody does.
    pub(super) fn serve(&mut self, servers: Vec<SocketAddr>) {
        self.named = servers;
    }

    /// A datagram of STUN came to the port of the data. Says whether it answers a question of ours.
    pub(super) fn take(&mut self, came: &PuntHeader, datagram: &[u8]) -> bool {
        self.reflexive.handle_datagram(Instant::now(), came.from, datagram)
    }

    /// Sends what is to be asked now. What finds no room is asked again.
    pub(super) fn ask(&mut self, master: &mut Master) {
        while let Some((server, question)) = self.reflexive.poll_transmit(Instant::now()) {
            // One that is lost is as one that the network loses.
            let _ = master.inject(0, &InjectHeader::to(server), &question);
        }
        master.flush();
    }

    /// As people see them.
    pub(super) fn shown(&self) -> Vec<String> {
        self.told.iter().map(|one| format!("{} ({})", one.address, one.kind)).collect()
    }
}

impl Gateway {
    /// Addresses or routes have changed: it may be seen elsewhere now.
    pub(super) fn seek_candidates(&mut self) {
        self.candidates.reflexive.ask_again(Instant::now());
        self.keep_candidates();
    }

    /// Peers are told where this gateway can perhaps be reached by now.
    pub(super) fn keep_candidates(&mut self) {
        let listen = self.desired.config.listen;
        let Some(ike) = &mut self.ike else { return };
        if self.desired.config.relay.is_none() {
            self.candidates.named.clear();
        }
        let receives =
            |server: &SocketAddr| listen.is_ipv6() && listen.ip().is_unspecified() || server.is_ipv4() == listen.is_ipv4();
        let servers: Vec<SocketAddr> = self.candidates.named.iter().copied().filter(receives).collect();
        self.candidates.reflexive.set_servers(Instant::now(), &servers);
        let mut all = Vec::new();
        if self.desired.config.relay.is_some() {
            let own = ike.own_addresses();
            let hosts = own.iter().map(|ip| (CandidateKind::Host, SocketAddr::new(*ip, listen.port())));
            let seen = self.candidates.reflexive.addresses(&own, listen.port()).into_iter();
            let both = hosts.chain(seen.map(|address| (CandidateKind::Reflexive, address)));
            all = both.map(|(kind, address)| Candidate { kind, address }).collect();
        }
        if self.candidates.told != all {
            ike.set_candidates(all.clone());
            self.candidates.told = all;
        }
    }

    /// Asks the servers what is due.
    pub(super) fn ask_stun(&mut self) {
        let candidates = &mut self.candidates;
        self.view.with_master(|master| candidates.ask(master));
        self.keep_candidates();
    }
}
