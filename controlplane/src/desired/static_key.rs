//! The SAs that a configuration asks for. Pure: both gateways of a pair come to matching lists without talking.

use adit_proto::control::{ChildId, Direction, InboundSa, OutboundSa, PeerId, PeerTag, Spi};
use adit_proto::esp;
use aws_lc_rs::digest::{SHA256, digest};

use crate::config::Config;
use crate::numbers::SaName;
use crate::sequence::Grant;
use crate::static_key::{Flow, KeyId, Secret};

/// An SA that should be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WantedSa {
    pub direction: Direction,
    pub spi: Spi,
    /// Place of the peer in the configuration.
    pub peer: usize,
    /// The peer's tag.
    pub tag: PeerTag,
    pub lane: u8,
    /// The worker that owns it.
    pub worker: u16,
    pub key_id: KeyId,
}

/// All SAs of a configuration, inbound before outbound: a gateway can open before it makes others answer.
///
/// Every lane of a peer has an inbound SA. Outbound there is one per worker, as far as the lanes go; a worker without an
/// SA hands its frames to one that has.
pub fn sas(config: &Config) -> Vec<WantedSa> {
    let workers = config.dataplane.workers;
    let mut list = Vec::new();
    for direction in [Direction::Inbound, Direction::Outbound] {
        for (index, peer) in config.peers.iter().enumerate() {
            let Some(secret) = peer.secret() else { continue };
            let tag = tag(&peer.name);
            let lanes = if direction == Direction::Inbound { peer.lanes } else { outbound_lanes(config, index) };
            for lane in 0..lanes as u8 {
                let flow = flow(config, direction, index);
                let spi = secret.spi(flow, lane);
                let worker =
                    if direction == Direction::Inbound { esp::worker_of(spi, workers.into()) as u16 } else { lane.into() };
                list.push(WantedSa { direction, spi, peer: index, tag, lane, worker, key_id: secret.key_id(flow, lane) });
            }
        }
    }
    list
}

/// Tells peers apart that have one id one after the other, whoever remembers the first: when a new peer gets the id of one that
/// is gone, the data plane sees another tag and forgets all that belonged to the one before.
pub fn tag(name: &str) -> PeerTag {
    let digest = digest(&SHA256, name.as_bytes());
    PeerTag(digest.as_ref().first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes)))
}

/// Outbound SAs to a peer.
pub fn outbound_lanes(config: &Config, peer: usize) -> u16 {
    config.peers[peer].lanes.min(config.dataplane.workers)
}

fn flow(config: &Config, direction: Direction, peer: usize) -> Flow<'_> {
    let (own, other) = (config.name.as_str(), config.peers[peer].name.as_str());
    match direction {
        Direction::Inbound => Flow { sender: other, receiver: own },
        Direction::Outbound => Flow { sender: own, receiver: other },
    }
}

impl WantedSa {
    /// What it is called among the numbers.
    pub fn name(&self) -> SaName {
        SaName::new(self.direction, self.tag, self.spi)
    }

    fn secret<'a>(&self, config: &'a Config) -> &'a Secret {
        config.peers[self.peer].secret().expect("only a peer with a static key makes SAs wanted")
    }

    /// The record that installs an inbound SA.
    pub fn inbound(&self, config: &Config, peer_id: PeerId, seq_top: u64) -> InboundSa {
        InboundSa {
            spi: self.spi,
            peer: peer_id,
            child: ChildId::ONLY,
            suite: self.secret(config).suite(),
            key: self.secret(config).sa_key(flow(config, self.direction, self.peer), self.lane),
            window: config.dataplane.replay_window,
            seq_top,
            // The peer starts high above its last number after a restart.
            resync: true,
            esn: true,
        }
    }

    /// The record that installs an outbound SA.
    pub fn outbound(&self, config: &Config, peer_id: PeerId, grant: Grant) -> OutboundSa {
        let peer = &config.peers[self.peer];
        OutboundSa {
            spi: self.spi,
            peer: peer_id,
            child: ChildId::ONLY,
            suite: self.secret(config).suite(),
            key: self.secret(config).sa_key(flow(config, self.direction, self.peer), self.lane),
            seq_next: grant.next,
            seq_limit: grant.end - 1,
            defer_checksums: peer.defer_checksums,
            esn: true,
        }
    }
}
