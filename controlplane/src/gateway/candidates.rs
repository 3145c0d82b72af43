//! Candidates: where this gateway can perhaps be reached by UDP, for peers that it meets over the relay. Its own addresses, and those at
//! which the relay's STUN servers see the port of the data. They are asked from that port, through the data plane.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

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
    /// Our addresses, as they were looked up last.
    own: Option<Vec<IpAddr>>,
    told: Vec<Candidate>,
    told_at: Option<Instant>,
}

/// Peers are told no more often, as long as our own addresses are the same: a server may say something else all the time.
const TELL_EVERY: Duration = Duration::from_secs(10);

impl Default for Candidates {
    fn default() -> Candidates {
        Candidates { reflexive: Reflexive::new(random::system()), named: Vec::new(), own: None, told: Vec::new(), told_at: None }
    }
}

impl Candidates {
    /// When there is something to ask.
    pub(super) fn due(&self) -> Option<Instant> {
        self.reflexive.poll_timeout()
    }

    /// The relay serves STUN there, or nobody does.
    pub(super) fn serve(&mut self, servers: Vec<SocketAddr>) {
        (self.named, self.own) = (servers, None);
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
        self.candidates.own = None;
        self.keep_candidates();
    }

    /// Peers are told where this gateway can perhaps be reached by now.
    pub(super) fn keep_candidates(&mut self) {
        let port = self.desired.config.listen.port();
        let (Some(ike), candidates) = (&mut self.ike, &mut self.candidates) else { return };
        let mut all = Vec::new();
        if self.desired.config.relay.is_some() {
            let is_new = candidates.own.is_none();
            let own = candidates.own.get_or_insert_with(|| ike.own_addresses());
            if is_new {
                // What leads into the tunnel is asked by nobody.
                let reached: Vec<SocketAddr> = candidates.named.iter().copied().filter(|server| ike.reaches(*server)).collect();
                candidates.reflexive.set_servers(Instant::now(), &reached);
            }
            let seen = candidates.reflexive.addresses(own, port).into_iter().map(|address| (CandidateKind::Reflexive, address));
            let hosts = own.iter().map(|ip| (CandidateKind::Host, SocketAddr::new(*ip, port)));
            all = seen.chain(hosts).map(|(kind, address)| Candidate { kind, address }).collect();
        } else {
            candidates.serve(Vec::new());
            candidates.reflexive.set_servers(Instant::now(), &[]);
        }
        let is_host = |one: &&Candidate| one.kind == CandidateKind::Host;
        let is_moved = !all.iter().filter(is_host).eq(candidates.told.iter().filter(is_host));
        // The first word of a server is no change of its mind.
        let is_first = candidates.told.iter().all(|one| is_host(&one));
        let may = is_moved || is_first || all.is_empty() || candidates.told_at.is_none_or(|at| at.elapsed() >= TELL_EVERY);
        if candidates.told != all && may {
            ike.set_candidates(all.clone());
            (candidates.told, candidates.told_at) = (all, Some(Instant::now()));
        }
    }

    /// Asks the servers what is due.
    pub(super) fn ask_stun(&mut self) {
        let candidates = &mut self.candidates;
        self.view.with_master(|master| candidates.ask(master));
        self.keep_candidates();
    }
}
