//! What was dropped of a peer, for people and programs: the reasons with their meaning, and which of them are likely to be what somebody
//! who asks is looking for.

use std::time::Instant;

use adit_proto::control::Direction;
use adit_proto::stats::Drop;

use crate::api::types;
use crate::meter::drops::Dropped;

/// Fewer packets in one go are the cause of nothing.
const TOLD_FROM: u64 = 3;
/// Longer ago is history.
const TOLD_FOR_S: u64 = 60;
/// Reasons that are a state, which is told as such while it lasts: of a peer that is up they are history.
const STATES: [Drop; 3] = [Drop::NoChildSa, Drop::NoSa, Drop::NoPath];

/// The name of a direction.
pub fn direction(direction: Direction) -> &'static str {
    match direction {
        Direction::Inbound => "in",
        Direction::Outbound => "out",
    }
}

/// The reasons for which something was dropped.
pub fn shown(dropped: &[Dropped], now: Instant) -> Vec<types::PeerDrops> {
    let one = |one: &Dropped| types::PeerDrops {
        direction: direction(one.drop.direction()).to_owned(),
        reason: one.drop.label().to_owned(),
        packets: one.packets,
        recent: one.late.map_or(0, |(packets, _)| packets),
        last_s: one.late.map(|(_, last)| now.saturating_duration_since(last).as_secs()),
        meaning: one.drop.help().to_owned(),
    };
    dropped.iter().filter(|one| one.packets > 0).map(one).collect()
}

/// What `explain` says of a peer's drops: what was dropped of late and is not said otherwise.
pub fn likely_causes(peer: &types::Peer) -> Vec<String> {
    let is_cause = |drops: &&types::PeerDrops| {
        let is_state = STATES.iter().any(|state| state.label() == drops.reason);
        // Its sender was told what fits, or it was an echo that was to find that out.
        let is_usual = drops.direction == "out" && (drops.reason == Drop::TooBig.label() || drops.reason == "other");
        drops.recent >= TOLD_FROM && drops.last_s.is_some_and(|ago| ago < TOLD_FOR_S) && !is_usual && !(is_state && peer.up)
    };
    let say = |drops: &types::PeerDrops| {
        let types::PeerDrops { direction, reason, recent, last_s, meaning, .. } = drops;
        let whose = if direction == "in" { "from" } else { "for" };
        let ago = last_s.unwrap_or(0);
        format!("{recent} packets {whose} the peer as {reason}, the last {ago} s ago. {meaning}")
    };
    peer.drops.iter().filter(is_cause).map(say).collect()
}
