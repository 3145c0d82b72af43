//! What there is of paths, for people and programs.

use std::time::Duration;

use adit_proto::control::PeerId;

use super::hop::Hop;
use super::peer::Entry;
use super::{PathId, Paths};

/// One path, for people and programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathStatus {
    pub path: PathId,
    pub hop: Hop,
    pub proven: bool,
    /// ESP goes this way; IKE does.
    pub in_use: bool,
    pub ike: bool,
    /// Largest outer IP packet, in bytes; what an echo has proven of it, and what the route would carry.
    pub mtu: u16,
    pub mtu_proven: Option<u16>,
    pub mtu_route: u16,
    /// What hosts are told that fits, as an outer packet.
    pub mtu_reported: u16,
    /// What is longer, and cannot be cut, goes in two packets.
    pub split: bool,
    /// Whether the peer answers echoes, and whether none of the last ones came back.
    pub echo: bool,
    pub silent: bool,
    pub rtt: Option<Duration>,
    /// How many of the last echoes were lost, of sizes that are proven, and of how many; nothing before there were a few.
    pub loss: Option<(u32, u32)>,
    pub black_holes: u64,
}

impl Paths {
    /// All paths of a peer.
    pub fn status(&self, peer: PeerId) -> Vec<PathStatus> {
        let Some(peer) = self.peers.get(&peer) else { return Vec::new() };
        let status = |(path, entry): (PathId, &Entry)| PathStatus {
            path,
            hop: entry.hop,
            proven: peer.was_proven(path),
            in_use: peer.esp == Some(path),
            ike: peer.ike == Some(path),
            mtu: entry.mtu.size(),
            mtu_proven: entry.mtu.proven(),
            mtu_route: entry.mtu.ceiling(),
            mtu_reported: entry.mtu.reported(),
            split: peer.terms.split,
            echo: peer.terms.echo,
            silent: entry.mtu.is_silent(),
            rtt: entry.mtu.rtt(),
            loss: entry.mtu.loss(),
            black_holes: entry.mtu.black_holes,
        };
        peer.iter().map(status).collect()
    }
}
