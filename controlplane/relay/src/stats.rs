//! What the pages show as JSON: the relay in numbers, and who is in a room.

use std::collections::BTreeMap;

use adit_proto::relay::RoomName;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value, json};

use crate::hall::{Hall, PeerView};
use crate::reach::Reach;
use crate::shared::Shared;

/// `/stats`.
pub(crate) fn stats(shared: &Shared) -> Value {
    let (connections, strangers) = shared.entrance.counts();
    let refused: Map<String, Value> = shared.tally.refused().map(|(why, count)| (why.to_owned(), count.into())).collect();
    let (gauges, counters, rooms) = shared.lobby.look(|hall| (hall.gauges(), *hall.counters(), rooms(hall)));
    let counters: Map<String, Value> = counters.iter().map(|(name, _, value)| (name.to_owned(), value.into())).collect();
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "up_s": shared.started.elapsed().as_secs(),
        "connections": connections,
        "strangers": strangers,
        "clients": gauges.clients,
        "control_bytes": gauges.control_bytes,
        "train_bytes": gauges.train_bytes,
        "accepted": shared.tally.accepted_so_far(),
        "logins": shared.tally.logins_so_far(),
        "held_back": shared.tally.held_back_so_far(),
        "refused": refused,
        "counters": counters,
        "rooms": rooms,
        "reach": shared.reach.as_ref().map(reach),
    })
}

/// What is said of STUN and TURN; nothing where they are not served.
fn reach(reach: &Reach) -> Value {
    let mut of: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
    for (who, what, count) in reach.counters() {
        of.entry(who).or_default().insert(what.to_owned(), count.into());
    }
    json!({
        "stun_at": reach.stun().iter().map(ToString::to_string).collect::<Vec<_>>(),
        "turn_at": reach.turn().iter().map(|(transport, at)| format!("{transport} {at}")).collect::<Vec<_>>(),
        "allocations": reach.allocations(),
        "streams": reach.streams(),
        "counters": of,
    })
}

fn rooms(hall: &Hall) -> Vec<Value> {
    let rooms = hall.rooms().map(|room| {
        json!({
            "name": room.name.as_str(),
            "peers": room.peers,
            "trains": room.counts.trains,
            "bytes": room.counts.bytes,
            "introductions": room.counts.introductions,
            "refused": room.counts.refused,
        })
    });
    rooms.collect()
}

/// `/rooms/NAME/peers`.
pub(crate) fn peers(shared: &Shared, room: &RoomName) -> Value {
    let now = std::time::Instant::now();
    let peers = shared.lobby.look(|hall| hall.peers_of(now, room)).unwrap_or_default();
    json!({ "room": room.as_str(), "peers": peers.iter().map(peer).collect::<Vec<_>>() })
}

fn peer(peer: &PeerView) -> Value {
    json!({
        "key": peer.key.to_string(),
        "observed": peer.observed.to_string(),
        "udp": peer.udp.iter().flatten().map(ToString::to_string).collect::<Vec<_>>(),
        "metadata": URL_SAFE_NO_PAD.encode(&peer.metadata),
        "connected_s": peer.connected.as_secs(),
        "idle_s": peer.idle.as_secs(),
        "rtt_ms": peer.rtt.map(|rtt| rtt.as_secs_f64() * 1000.0),
        "direct": peer.direct,
        "trains_sent": peer.counts.trains_sent,
        "bytes_sent": peer.counts.bytes_sent,
        "trains_received": peer.counts.trains_received,
        "bytes_received": peer.counts.bytes_received,
        "refused": peer.counts.refused,
    })
}
