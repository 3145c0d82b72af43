//! The Child SAs of a peer, one lane each, for people, programs and metrics: agreed by IKE or derived from a static key, of one shape
//! and shown by the same code.
//!
//! ```text
//!   engine (IKE) ─▶ of_ike ────────┐
//!                                  ├─▶ Pair ─▶ show ─▶ API ─▶ status, metrics
//!   desired (keys) ─▶ of_static_key ┘            ▲
//!   data plane ─▶ LiveSas ──────────────────────┘
//! ```

use std::collections::HashMap;
use std::time::Instant;

use adit_channel::LiveSa;
use adit_engine::ike::{ChildStatus, IkeStatus, Mode};
use adit_proto::control::{ChildId, Direction, PeerTag, Selector, Spi};
use adit_proto::esp;
use adit_proto::ike::registry::EsnId;
use adit_proto::ike::{IpSelector, Transform};

use crate::config::Config;
use crate::desired::static_key::WantedSa;
use crate::numbers::{NOBODY, Peers, SaName};
use crate::schema;

/// The SAs that the data plane has.
pub type LiveSas = HashMap<SaName, LiveSa>;

/// One lane of a Child SA: an SA in each direction.
#[derive(Clone, Debug)]
pub struct Pair {
    name: String,
    id: ChildId,
    lane: u8,
    local: Vec<String>,
    remote: Vec<String>,
    suite: String,
    esn: bool,
    inbound: Spi,
    /// `None` with a static key where no worker of ours has the lane.
    outbound: Option<Spi>,
    /// `None` with a static key.
    agreed: Option<Agreed>,
}

/// What is only true where both ends have agreed on keys.
#[derive(Clone, Debug)]
struct Agreed {
    ike_sa: String,
    since: Instant,
    rekey_at: Option<Instant>,
    is_sending: bool,
    is_going: bool,
}

/// What a data plane has, by names that stay when its ids change.
pub fn live_sas(live: &[(u16, LiveSa)], peers: &Peers) -> LiveSas {
    let named = |(_, sa): &(u16, LiveSa)| {
        let tag = peers.get(&sa.peer).copied().unwrap_or(NOBODY);
        (SaName::new(sa.direction, tag, sa.spi), *sa)
    };
    live.iter().map(named).collect()
}

/// The Child SAs of all IKE SAs of a peer; those that go come last.
pub fn of_ike(sas: &[IkeStatus]) -> Vec<Pair> {
    let one = |ike| move |child| agreed(ike, child);
    let mut pairs: Vec<Pair> = sas.iter().flat_map(|ike| ike.children.iter().map(one(ike))).collect();
    pairs.sort_by_key(|pair| pair.agreed.as_ref().is_some_and(|agreed| agreed.is_going));
    pairs
}

fn agreed(ike: &IkeStatus, child: &ChildStatus) -> Pair {
    let side = |side: &[IpSelector]| match child.mode {
        Mode::Ethernet => Vec::new(),
        Mode::Tunnel => side.iter().map(ToString::to_string).collect(),
    };
    Pair {
        name: child.name.clone(),
        id: child.id,
        lane: child.lane,
        local: side(&child.selectors.local),
        remote: side(&child.selectors.remote),
        suite: child.suite.clone(),
        esn: child.esn,
        inbound: child.inbound,
        outbound: Some(child.outbound),
        agreed: Some(Agreed {
            ike_sa: ike.spis.to_string(),
            since: child.established,
            rekey_at: child.rekey_at,
            is_sending: child.is_sending,
            is_going: child.is_going || ike.is_going,
        }),
    }
}

/// The Child SA of a peer with a static key: `wanted` are its SAs.
pub fn of_static_key(config: &Config, wanted: &[&WantedSa]) -> Vec<Pair> {
    let one = |inbound: &WantedSa| {
        let peer = config.peers.get(inbound.peer)?;
        let transforms = [Transform::of_suite(peer.secret()?.suite()), Transform::esn(EsnId::ESN)];
        let other = wanted.iter().find(|want| want.direction == Direction::Outbound && want.lane == inbound.lane);
        Some(Pair {
            name: config.mode.name().to_owned(),
            id: ChildId::ONLY,
            lane: inbound.lane,
            local: side(&peer.selectors, |selector| IpSelector {
                protocol: selector.protocol,
                ports: selector.local_ports,
                addresses: selector.local,
            }),
            remote: side(&peer.selectors, |selector| IpSelector {
                protocol: selector.protocol,
                ports: selector.remote_ports,
                addresses: selector.remote,
            }),
            suite: transforms.map(|one| one.to_string()).join("/"),
            esn: true,
            inbound: inbound.spi,
            outbound: other.map(|want| want.spi),
            agreed: None,
        })
    };
    wanted.iter().filter(|want| want.direction == Direction::Inbound).filter_map(|want| one(want)).collect()
}

/// One side of selectors, each once.
fn side(selectors: &[Selector], of: impl Fn(&Selector) -> IpSelector) -> Vec<String> {
    let mut side = Vec::new();
    for one in selectors.iter().map(|selector| of(selector).to_string()) {
        if !side.contains(&one) {
            side.push(one);
        }
    }
    side
}

impl Pair {
    /// In the types of the API, with what the data plane says of it.
    pub fn show(&self, (peer, workers): (PeerTag, u16), live: &LiveSas, now: Instant) -> schema::ChildSa {
        let sa = |direction, spi: Spi, worker| {
            let sa = live.get(&SaName::new(direction, peer, spi));
            schema::Sa {
                worker,
                live: sa.is_some(),
                sequence: sa.map_or(0, |sa| sa.seq),
                packets: sa.map_or(0, |sa| sa.packets),
                bytes: sa.map_or(0, |sa| sa.bytes),
            }
        };
        let agreed = self.agreed.as_ref();
        let hex = |spi: Spi| format!("{:#010x}", spi.0);
        let has_worker = u16::from(self.lane) < workers;
        let outbound = self.outbound.filter(|_| has_worker).map(|spi| sa(Direction::Outbound, spi, self.lane.into()));
        schema::ChildSa {
            name: self.name.clone(),
            id: self.id.0,
            lane: self.lane,
            local: self.local.clone(),
            remote: self.remote.clone(),
            suite: self.suite.clone(),
            esn: self.esn,
            inbound_spi: hex(self.inbound),
            outbound_spi: self.outbound.map(hex),
            sending: outbound.as_ref().is_some_and(|sa| sa.live) && agreed.is_none_or(|agreed| agreed.is_sending),
            inbound: sa(Direction::Inbound, self.inbound, esp::worker_of(self.inbound, workers.into()) as u16),
            outbound,
            ike_sa: agreed.map(|agreed| agreed.ike_sa.clone()),
            age_s: agreed.map(|agreed| now.saturating_duration_since(agreed.since).as_secs()),
            rekey_in_s: agreed.and_then(|agreed| Some(agreed.rekey_at?.saturating_duration_since(now).as_secs())),
            going: agreed.is_some_and(|agreed| agreed.is_going),
        }
    }
}

/// In which state a lane of a Child SA is, for metrics and people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LaneState {
    /// The data plane has it.
    Live,
    /// The data plane has not got all of it, or not yet.
    Missing,
    /// Another one has taken its place, or it is being closed.
    Going,
}

impl LaneState {
    pub const ALL: [LaneState; 3] = [LaneState::Live, LaneState::Missing, LaneState::Going];

    pub const fn label(self) -> &'static str {
        match self {
            LaneState::Live => "live",
            LaneState::Missing => "missing",
            LaneState::Going => "going",
        }
    }
}

impl schema::ChildSa {
    pub fn lane_state(&self) -> LaneState {
        match (self.going, self.inbound.live && self.outbound.as_ref().is_none_or(|sa| sa.live)) {
            (true, _) => LaneState::Going,
            (false, true) => LaneState::Live,
            (false, false) => LaneState::Missing,
        }
    }
}

#[cfg(test)]
mod tests;
