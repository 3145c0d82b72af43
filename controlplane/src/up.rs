//! Whether a peer is up, and what it lacks: every configured pair of selectors has a Child SA in use, the way to the peer is proven,
//! and how much it takes is known. One answer for `status`, `explain`, the API, the metrics and the log.
//!
//! Proofs are sealed echoes and answers of IKE. Who answers no echoes leaves the size of packets to what the link and routers say, which is
//! always known; and with a static key, without echoes, nothing tells whether anybody is there: an address to send to is enough.

use std::collections::BTreeMap;

use crate::schema::{ChildSa, Peer, PeerPath};

/// What a peer lacks, a sentence each; nothing when it is up. `ready`: whether it is connected, or has a static key.
pub fn lacks(peer: &Peer, is_attached: bool, ready: bool) -> Vec<String> {
    if !is_attached {
        return vec!["the data plane does not run".to_owned()];
    }
    if !ready {
        return vec![match peer.state.as_str() {
            "idle" => "not connected: it waits for the peer, or for `adit connect`".to_owned(),
            "connecting" => "not connected: there was no answer yet".to_owned(),
            state => format!("not connected: {state}"),
        }];
    }
    let mut lacks: Vec<String> = peer.missing.iter().map(|one| format!("no Child SA carries {}", one.selector)).collect();
    lacks.extend(of_children(&peer.children));
    lacks.extend(of_path(peer));
    lacks
}

/// Lanes that carry nothing. What goes counts while it is there: it is in the data plane until its successor is.
fn of_children(children: &[ChildSa]) -> Option<String> {
    let mut lanes: BTreeMap<(u16, u8), (bool, bool)> = BTreeMap::new();
    for child in children {
        let (wanted, passes) = lanes.entry((child.id, child.lane)).or_default();
        *wanted |= !child.going;
        // What no worker of ours has, nobody sends.
        *passes |= child.inbound.live && child.outbound.as_ref().is_none_or(|sa| sa.live);
    }
    let wanted = lanes.values().filter(|(wanted, _)| *wanted).count();
    let passing = lanes.values().filter(|(_, passes)| *passes).count();
    let missing = lanes.values().filter(|(wanted, passes)| *wanted && !passes).count();
    match (missing, passing) {
        (0, 0) => Some("there is no Child SA".to_owned()),
        (0, _) => None,
        _ => Some(format!("the data plane has {} of {wanted} lanes", wanted - missing)),
    }
}

fn of_path(peer: &Peer) -> Option<String> {
    let Some(path) = peer.paths.iter().find(|path| path.in_use) else {
        return Some("no address is known that it can be reached at".to_owned());
    };
    let PeerPath { remote, proven, echo, silent, mtu_proven, .. } = path;
    if *echo && *silent {
        Some(format!("no echo comes back from {remote}"))
    } else if *echo && mtu_proven.is_none() {
        Some(format!("how long packets to {remote} may be is not known yet"))
    } else if !proven && peer.ike.is_some() {
        Some(format!("that the peer is at {remote} is not proven yet"))
    } else {
        None
    }
}

#[cfg(test)]
mod tests;
