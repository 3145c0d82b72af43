//! What was dropped of a peer, for people and programs: the reasons with their meaning, and which of them are likely to be what somebody
//! who asks is looking for.

use std::time::Instant;

use adit_proto::control::Direction;
use adit_proto::peer_drops::PeerDrop;
use adit_proto::stats::Drop;

use crate::meter::drops::Dropped;
use crate::schema;

/// Fewer packets within a minute are the cause of nothing.
const REPORTED_FROM: u64 = 3;
/// Of those that a stranger may have sent: what is wrong with the peer itself shows at every packet.
const UNPROVEN_FROM: u64 = 10;
/// What anybody can send who has seen an SPI, or networks make by themselves, is the cause of nothing while it is less than one of so
/// many packets that were opened.
const UNPROVEN: [Drop; 3] = [Drop::BadTag, Drop::Replay, Drop::ReplayOld];
const UNPROVEN_SHARE: u64 = 100;
/// Its sender was told what fits.
const USUAL: [Drop; 1] = [Drop::TooBig];
/// Reasons that are a state, which is told as such while it lasts: of a peer that is up they are history.
const STATES: [Drop; 3] = [Drop::NoChildSa, Drop::NoSa, Drop::NoPath];

/// The name of a direction.
pub fn direction(direction: Direction) -> &'static str {
    match direction {
        Direction::Inbound => "in",
        Direction::Outbound => "out",
    }
}

/// The reasons for which something was dropped; `opened` packets of the peer were, within the last minute.
pub fn shown(dropped: &[Dropped], opened: u64, now: Instant) -> Vec<schema::PeerDrops> {
    let one = |one: &Dropped| schema::PeerDrops {
        direction: direction(one.drop.direction()).to_owned(),
        reason: one.drop.label().to_owned(),
        packets: one.packets,
        recent: one.recent,
        last_s: one.last.map(|last| now.saturating_duration_since(last).as_secs()),
        opened: (one.drop.direction() == Direction::Inbound).then_some(opened),
        meaning: one.drop.help().to_owned(),
    };
    dropped.iter().filter(|one| one.packets > 0).map(one).collect()
}

/// What `explain` says of a peer's drops: what was dropped of late and is not said otherwise. What is not told apart by peer (`other`)
/// happens in sound networks: an echo that was to find out what fits, a frame in a hub for the side that it came from.
pub fn likely_causes(peer: &schema::Peer) -> Vec<String> {
    causes(&peer.drops, peer.up, !peer.narrowed.is_empty())
}

fn causes(drops: &[schema::PeerDrops], up: bool, is_narrowed: bool) -> Vec<String> {
    let is_cause = |drops: &&schema::PeerDrops| {
        let is_one_of = |names: &[Drop]| names.iter().any(|name| name.label() == drops.reason);
        // Of a pair that the peer has narrowed the rest goes on being dropped.
        let is_history = up && is_one_of(&STATES) && !(is_narrowed && is_one_of(&[Drop::NoChildSa]));
        let is_usual = drops.reason == PeerDrop::OTHER || is_one_of(&USUAL) || is_history;
        let few = is_one_of(&UNPROVEN) && drops.recent < UNPROVEN_FROM.max(drops.opened.unwrap_or(0) / UNPROVEN_SHARE);
        drops.recent >= REPORTED_FROM && !is_usual && !few
    };
    let say = |drops: &schema::PeerDrops| {
        let schema::PeerDrops { direction, reason, recent, last_s, meaning, .. } = drops;
        let whose = match direction.as_str() {
            // Nothing proves that the peer sent what could not be opened.
            "in" => "with an SPI of the peer's",
            _ => "for the peer",
        };
        let ago = last_s.unwrap_or(0);
        format!("{recent} packets {whose} as {reason} within a minute, the last {ago} s ago. {meaning}")
    };
    drops.iter().filter(is_cause).map(say).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cause(direction: Direction, why: Drop, recent: u64, opened: u64, up: bool) -> Option<String> {
        let now = Instant::now();
        let one = Dropped { drop: PeerDrop::of(direction, why), packets: 1000, recent, last: Some(now) };
        causes(&shown(&[one], opened, now), up, false).pop()
    }

    #[test]
    fn what_happens_in_a_sound_network_is_no_cause() {
        let (inbound, outbound) = (Direction::Inbound, Direction::Outbound);
        for why in [Drop::SameSide, Drop::Circling, Drop::MacDisputed, Drop::EchoLimit] {
            assert_eq!(cause(inbound, why, 1000, 0, true), None, "{why:?}");
        }
        for why in [Drop::TooBig, Drop::EchoUnsent] {
            assert_eq!(cause(outbound, why, 1000, 0, true), None, "{why:?}");
        }
        for why in [Drop::PolicyMismatch, Drop::HalfExpired, Drop::BadNextHeader, Drop::FloodLimit] {
            assert!(cause(inbound, why, 3, 1_000_000, true).is_some() && cause(inbound, why, 2, 0, true).is_none(), "{why:?}");
        }
        for why in [Drop::HandoverFull, Drop::UdpFull, Drop::PathMtu] {
            assert!(cause(outbound, why, 3, 0, true).is_some(), "{why:?}");
        }
        assert!(cause(outbound, Drop::NoSa, 3, 0, true).is_none() && cause(outbound, Drop::NoSa, 3, 0, false).is_some());
    }

    #[test]
    fn what_is_left_of_a_narrowed_pair_is_a_cause_though_the_peer_is_up() {
        let now = Instant::now();
        for (why, narrowed) in [(Drop::NoChildSa, true), (Drop::NoChildSa, false), (Drop::NoSa, true)] {
            let one = Dropped { drop: PeerDrop::of(Direction::Outbound, why), packets: 9, recent: 9, last: Some(now) };
            let reported = causes(&shown(&[one], 0, now), true, narrowed);
            assert_eq!(!reported.is_empty(), narrowed && why == Drop::NoChildSa, "{why:?}");
        }
    }

    #[test]
    fn what_anybody_can_send_is_a_cause_beside_little_that_was_opened() {
        for why in [Drop::BadTag, Drop::Replay, Drop::ReplayOld] {
            let cause = |recent, opened| cause(Direction::Inbound, why, recent, opened, true);
            assert_eq!((cause(9, 0), cause(19, 2000)), (None, None), "{why:?}");
            assert!(cause(10, 0).is_some() && cause(10, 1000).is_some() && cause(20, 2000).is_some(), "{why:?}");
        }
        let reported = cause(Direction::Inbound, Drop::BadTag, 20, 0, true).unwrap();
        assert!(
            reported.starts_with("20 packets with an SPI of the peer's as bad_tag within a minute, the last 0 s ago. "),
            "{reported}"
        );
    }
}
