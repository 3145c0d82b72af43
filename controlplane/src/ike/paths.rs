//! Paths in the shell of the engine: what the data plane, the kernel and names say of where peers are.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use adit_channel::PathCounters;
use adit_engine::ike::{Candidate, Endpoint, StreamKey};
use adit_engine::path::{self, Arrival, Follow, Hop};
use adit_proto::control::{LocalEnd, Mode, PathId, PeerId, Spi, StreamId, Via};
use adit_proto::{esp, half};

use super::{Ike, now, settings};
use crate::config::{Config, Peer};
use crate::resolve::Known;
use crate::too_big::{QuotedSpi, TooBig};

impl Ike {
    /// Peers are where their names say now, and neighbours on the interfaces that there are now. Gives how many are looked for
    /// elsewhere than before.
    pub fn look_for(&mut self, (config, ids): (&Config, &[PeerId]), known: &Known) -> usize {
        let mut moved = 0;
        for (id, peer) in ids.iter().zip(&config.peers) {
            let addresses = known.addresses(config.listen, peer);
            if self.remotes.insert(*id, addresses.clone()).as_ref() == Some(&addresses) {
                continue;
            }
            moved += 1;
            if peer.ike().is_none() {
                set_static_path(&mut self.endpoint, config, *id, peer, &addresses);
            } else {
                // Its number is that of a peer that there is.
                let _ = self.endpoint.set_remotes(now(), *id, addresses);
            }
        }
        moved
    }

    /// The data plane opened packets of a peer that came another way than those before.
    pub fn path_seen(&mut self, peer: PeerId, via: Via, bytes: u32) {
        let came = self.way(via);
        self.endpoint.handle_path_seen(now(), peer, came, bytes);
    }

    /// A sealed echo of ours came back; `rtt` as the data plane measured it.
    pub fn echo_reply(&mut self, peer: PeerId, id: u64, via: Via, rtt: Duration) {
        let came = self.way(via);
        self.endpoint.handle_echo_reply(now(), peer, id, came, rtt);
    }

    /// The kernel did not send an echo, or packets: they are longer than what it knows of the route by now.
    pub fn unsent(&mut self, peer: PeerId) {
        self.endpoint.handle_unsent(now(), peer);
    }

    /// A router says that a packet of ours was too big for the way to a peer. It is believed where the packet has an SPI of a peer that
    /// lives, and was sent where this peer is; `static_peers` have keys of their own for this SPI. Says whether it is.
    pub fn too_big(&mut self, said: &TooBig, static_peers: impl Fn(Spi) -> Vec<PeerId>) -> bool {
        let peers: Vec<PeerId> = match said.spi {
            QuotedSpi::Esp(spi) => {
                let by_ike = self.endpoint.child_spis().filter(|(_, _, outbound)| *outbound == spi).map(|(peer, ..)| peer);
                static_peers(spi).into_iter().chain(by_ike).collect()
            }
            QuotedSpi::Ike(spis) => self.endpoint.peer_of(spis).into_iter().collect(),
        };
        // An outbound SPI is the peer's choice, and several may have chosen the same.
        peers.into_iter().fold(false, |any, peer| self.endpoint.handle_too_big(now(), peer, said.to, said.mtu) | any)
    }

    /// Where packets of tunnels go to is watched closely. To be called about twice in a second, with the counters of all paths.
    pub fn watch_traffic(&mut self, counters: &BTreeMap<(PeerId, PathId), PathCounters>) {
        let mut sent: BTreeMap<PeerId, u64> = BTreeMap::new();
        for ((peer, _), path) in counters {
            *sent.entry(*peer).or_default() += path.sent_packets;
        }
        // A new data plane begins at nothing.
        let moved = |(peer, packets): &(&PeerId, &u64)| **packets > 0 && self.sent.get(peer) != Some(packets);
        let busy: Vec<PeerId> = sent.iter().filter(moved).map(|(peer, _)| *peer).collect();
        self.sent = sent;
        if !busy.is_empty() {
            self.endpoint.handle_traffic(now(), busy);
        }
    }

    /// The way by which something came.
    fn way(&self, via: Via) -> Hop {
        match via {
            Via::Udp { from, to } => self.arrival(from, to).hop(),
            Via::Stream(stream) => Hop::Stream(stream),
        }
    }

    /// Whether packets for a peer go by a stream, or by UDP; `None` while they go nowhere.
    pub fn goes_by_stream(&self, peer: PeerId) -> Option<bool> {
        let hop = self.endpoint.all_paths().esp_hop(peer)?;
        Some(matches!(hop, Hop::Stream(_)))
    }

    /// Whether something can be sent there from the port of the data, and not into the tunnel.
    pub fn reaches(&mut self, server: SocketAddr) -> bool {
        self.endpoint.reaches(server)
    }

    /// Another registration at the relay, by which it knows us by this key.
    pub fn begin_streams(&mut self, own: Option<StreamKey>) {
        self.endpoint.begin_streams(own);
    }

    /// A stream ends at this key, or nobody is there any more.
    pub fn set_stream_end(&mut self, stream: StreamId, key: Option<StreamKey>) {
        self.endpoint.set_stream_end(stream, key);
    }

    /// Our addresses, without those that lead into the tunnel.
    pub fn own_addresses(&mut self) -> Vec<IpAddr> {
        self.endpoint.own_addresses()
    }

    /// At these addresses we can perhaps be reached by peers that are met in a stream.
    pub fn set_candidates(&mut self, candidates: Vec<Candidate>) {
        self.endpoint.set_candidates(now(), candidates);
    }

    /// Somebody who says that it is this peer can be reached in these streams.
    pub fn set_streams(&mut self, peer: PeerId, streams: &[StreamId]) {
        // Its number is that of a peer that there is.
        let _ = self.endpoint.set_streams(now(), peer, streams);
    }

    pub(super) fn arrival(&self, from: SocketAddr, to: LocalEnd) -> Arrival {
        let local = SocketAddr::new(to.address, self.listen.port());
        Arrival { interface: to.interface, ..Arrival::new(local, from) }
    }

    /// Our addresses or routes have changed: what goes to a peer may leave from another address now. SAs move there, and the peer
    /// is told (RFC 4555). Of many peers some have their turn a little later.
    pub fn readdress(&mut self) {
        self.endpoint.underlay_changed(now());
    }

    /// The number of peers whose way begins at another address of ours since this was last asked; 0 while some still wait for
    /// their turn.
    pub fn take_readdressed(&mut self) -> u64 {
        let paths = self.endpoint.all_paths();
        if paths.lookups_waiting() > 0 {
            return 0;
        }
        paths.readdressed - std::mem::replace(&mut self.readdressed, paths.readdressed)
    }

    /// The way to a peer, if one is known.
    pub fn hop(&self, peer: PeerId) -> Option<Hop> {
        self.endpoint.hop(peer)
    }

    /// The longest inner IP packet that fits the way to a peer, whole or in two packets, by its place in the configuration.
    pub fn inner_mtu(&self, place: usize) -> Option<u16> {
        let paths = self.endpoint.paths(*self.ids.get(place)?);
        let used = paths.iter().find(|path| path.in_use)?;
        let whole = esp::frame_len_max(Mode::Ip, used.mtu_reported, used.hop.is_ipv6());
        let fits = if used.split { 2 * whole.saturating_sub(half::LEN) } else { whole };
        Some(u16::try_from(fits).unwrap_or(u16::MAX))
    }

    /// One of the paths of a peer.
    pub fn path(&self, peer: PeerId, path: PathId) -> Option<Hop> {
        self.endpoint.paths(peer).into_iter().find(|one| one.path == path).map(|one| one.hop)
    }
}

/// A peer with a static key is where the configuration says, and is followed to where its echoes come back from.
pub(super) fn set_static_path(endpoint: &mut Endpoint, config: &Config, id: PeerId, peer: &Peer, addresses: &[SocketAddr]) {
    let terms = static_terms(config, peer);
    let hops = addresses.iter().map(|remote| Hop::new(settings::listen_at(config.listen, *remote), *remote)).collect();
    if let Err(why) = endpoint.set_static_path(now(), id, hops, (terms, peer.from.clone())) {
        tracing::warn!(peer = peer.name, "nothing can be sent to {}: {why}", peer.endpoint_text());
    }
}

/// What holds of a peer with a static key, wherever it is.
pub(super) fn static_terms(config: &Config, peer: &Peer) -> path::Terms {
    let follow = if peer.echo { Follow::Both } else { Follow::Nothing };
    let local_fixed = !config.listen.ip().is_unspecified();
    path::Terms { echo: peer.echo, split: config.splits(peer), ike: false, follow, leads: false, local_fixed, candidates: false }
}
