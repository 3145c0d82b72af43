//! The families of peers and their Child SAs, the same whether keys come from IKE or from a file.
//!
//! What is counted is counted for each Child SA in each direction. Its id is the label, which stays through all rekeys and is given
//! again when the Child SA has ended; an SPI would make new series for ever.

use std::collections::BTreeSet;
use std::time::Instant;

use adit_proto::control::{ChildId, Direction};
use prometheus::proto::{Metric, MetricFamily, MetricType};

use super::stamps::Scrape;
use super::{counter, family, gauge};
use crate::children::LaneState;
use crate::meter::drops::Dropped;
use crate::schema::Volume;
use crate::view::drops::direction;
use crate::view::status::PeerView;

const UP: &str = "1 while every configured pair of selectors of a peer has a Child SA in use, and the way to it is proven, and what it takes \
                  known, as far as the peer lets that be found out; adit status says what is missing.";
const HANDSHAKE: &str = "adit_peer_last_handshake_timestamp_seconds";
const RECEIVED: &str = "adit_peer_last_receive_timestamp_seconds";

/// All families; there are as many whoever is connected.
pub fn families(peers: &[PeerView], scrape: &mut Scrape<'_>) -> Vec<MetricFamily> {
    let of = |one: fn(&PeerView) -> f64| -> Vec<Metric> {
        peers.iter().map(|view| gauge(&[("peer", view.peer.name.as_str())], one(view))).collect()
    };
    let info = peers.iter().map(|PeerView { peer, .. }| {
        gauge(&[("endpoint", peer.endpoint.as_str()), ("keys", peer.keys.as_str()), ("peer", peer.name.as_str())], 1.0)
    });
    let up = of(|view| f64::from(u8::from(view.peer.up)));
    let missing = of(|view| view.peer.missing.len() as f64);
    let lanes =
        "Lanes of the Child SAs with a peer: live in the data plane, missing there, or going because others have their place.";
    let selectors = "Configured selectors of a connected peer of which no Child SA carries anything; adit explain PEER says why.";
    vec![
        family(MetricType::GAUGE, "adit_peer_info", "Peers of the configuration; the value is always 1.", info.collect()),
        family(MetricType::GAUGE, "adit_peer_up", UP, up),
        family(MetricType::GAUGE, "adit_peer_missing_selectors", selectors, missing),
        family(
            MetricType::GAUGE,
            HANDSHAKE,
            "When the keys of the IKE SA in use were agreed, by a handshake or by a rekey, in seconds since 1970 UTC; no value without one.",
            timestamps(scrape, HANDSHAKE, peers, |view| view.handshake),
        ),
        family(
            MetricType::GAUGE,
            RECEIVED,
            "When the last authentic packet of a peer came, in seconds since 1970 UTC; no value before the first.",
            timestamps(scrape, RECEIVED, peers, |view| view.heard),
        ),
        family(
            MetricType::COUNTER,
            "adit_peer_bytes_total",
            "Bytes of frames sealed for a peer or opened from it, over all its Child SAs.",
            peers.iter().flat_map(bytes).collect(),
        ),
        family(
            MetricType::COUNTER,
            "adit_peer_drops_total",
            "Packets of a peer that were dropped; the reasons are names of adit_drops_total, and other for what is not told apart by peer.",
            peers.iter().flat_map(drops).collect(),
        ),
        family(MetricType::GAUGE, "adit_child_sa_lanes", lanes, peers.iter().flat_map(lane_states).collect()),
        family(
            MetricType::COUNTER,
            "adit_child_sa_packets_total",
            "Packets sealed or opened by a Child SA, over its lanes and rekeys.",
            volumes(peers, |volume| volume.packets),
        ),
        family(
            MetricType::COUNTER,
            "adit_child_sa_bytes_total",
            "Bytes of frames sealed or opened by a Child SA, over its lanes and rekeys.",
            volumes(peers, |volume| volume.bytes),
        ),
    ]
}

/// When something happened with each peer.
fn timestamps(
    scrape: &mut Scrape<'_>,
    family: &'static str,
    peers: &[PeerView],
    at: fn(&PeerView) -> Option<Instant>,
) -> Vec<Metric> {
    let one = |view: &PeerView| {
        let time = scrape.time_of((family, view.peer.name.clone()), at(view)?);
        Some(gauge(&[("peer", &view.peer.name)], time))
    };
    peers.iter().filter_map(one).collect()
}

/// Both directions.
fn bytes(view: &PeerView) -> [Metric; 2] {
    [("in", view.peer.received.bytes), ("out", view.peer.sent.bytes)]
        .map(|(direction, bytes)| counter(&[("direction", direction), ("peer", &view.peer.name)], bytes))
}

/// A counter for each reason, from 0 on.
fn drops(view: &PeerView) -> Vec<Metric> {
    let one = |dropped: &Dropped| {
        let drop = dropped.drop;
        let labels = [("direction", direction(drop.direction())), ("peer", view.peer.name.as_str()), ("reason", drop.label())];
        counter(&labels, dropped.packets)
    };
    view.drops.iter().map(one).collect()
}

/// How many lanes of a peer are in each state.
fn lane_states(view: &PeerView) -> Vec<Metric> {
    let one = |state: &LaneState| {
        let count = view.peer.children.iter().filter(|child| child.lane_state() == *state).count();
        gauge(&[("peer", &view.peer.name), ("state", state.label())], count as f64)
    };
    LaneState::ALL.iter().map(one).collect()
}

/// A counter for each Child SA and direction. One that has carried nothing begins at 0.
fn volumes(peers: &[PeerView], read: fn(Volume) -> u64) -> Vec<Metric> {
    let of_peer = |view: &PeerView| {
        let there = view.peer.children.iter().map(|child| ChildId(child.id));
        let ids: BTreeSet<ChildId> = there.chain(view.totals.iter().map(|(id, ..)| *id)).collect();
        let one = |id: ChildId, (direction, label): (Direction, &str)| {
            let total = view.totals.iter().find(|(one, way, _)| (*one, *way) == (id, direction));
            let value = total.map_or(0, |(.., volume)| read(*volume));
            counter(&[("child", &id.0.to_string()), ("direction", label), ("peer", &view.peer.name)], value)
        };
        let both = [(Direction::Inbound, "in"), (Direction::Outbound, "out")];
        ids.into_iter().flat_map(|id| both.map(|direction| one(id, direction))).collect::<Vec<_>>()
    };
    peers.iter().flat_map(of_peer).collect()
}
