//! Dummy packets that mean something: halves of frames are joined ([`crate::join`]), echoes answered ([`crate::echo`]).
//!
//! What is joined goes the way of every frame from there: it has to pass the same checks.

use std::ops::Range;

use adit_proto::class::CE;
use adit_proto::control::{Direction, PeerId};
use adit_proto::half::Half;
use adit_proto::stats::{Count, Drop};

use super::Inbound;
use crate::environment::Environment;
use crate::join::{Met, Pair, join};
use crate::open::check_joined;
use crate::state::State;
use crate::udp::Arrival;

impl Inbound {
    /// The payload of a dummy packet of a peer is at this place of the arena; it came with this SPI and sequence number. A whole frame,
    /// and the traffic class that it came in, when it was the half that had been missing.
    #[inline(never)]
    pub(super) fn dummy(
        &mut self,
        payload: Range<usize>,
        (spi, seq): Pair,
        peer: PeerId,
        arrival: &Arrival,
        state: &mut State,
        env: &mut Environment,
    ) -> Option<(Range<usize>, u8)> {
        let bytes = &self.arena.bytes()[payload.clone()];
        let joins = state.tables.peer(peer).is_some_and(|peer| peer.joiner.is_some());
        match Half::decode(bytes) {
            Ok(Some((half, body))) if joins => {
                let body = payload.end - body.len()..payload.end;
                let whole = half.first_seq(seq).ok_or(Drop::HalfBad);
                let whole = whole.and_then(|first| self.half((half, body), (spi, first), peer, arrival.class, state, env));
                env.port.count(Count::Opened, 1);
                whole.unwrap_or_else(|why| {
                    env.port.drop_of(peer, Direction::Inbound, why, 1);
                    None
                })
            }
            Err(_) if joins => {
                env.port.drop_of(peer, Direction::Inbound, Drop::HalfBad, 1);
                None
            }
            Ok(_) | Err(_) => {
                env.port.count(Count::DummyPackets, 1);
                let now_ns = state.now_ns();
                state.echoes.opened(bytes, peer, arrival, now_ns, &mut state.tables, env);
                None
            }
        }
    }

    /// Joins a half with the other one, or keeps it until that comes.
    fn half(
        &mut self,
        (half, body): (Half, Range<usize>),
        pair: Pair,
        peer: PeerId,
        class: u8,
        state: &mut State,
        env: &mut Environment,
    ) -> Result<Option<(Range<usize>, u8)>, Drop> {
        let now_ns = state.turn_ns;
        let Some(joiner) = state.tables.peer(peer).and_then(|peer| peer.joiner.as_deref_mut()) else { return Ok(None) };
        let expired = joiner.expire(now_ns);
        if expired > 0 {
            env.port.drop_of(peer, Direction::Inbound, Drop::HalfExpired, expired);
        }
        match joiner.meet(pair, half, &self.arena.bytes()[body.clone()], class, now_ns) {
            Met::Waits { pushed_out } => {
                if pushed_out {
                    env.port.drop_of(peer, Direction::Inbound, Drop::HalfLost, 1);
                }
                Ok(None)
            }
            Met::Contradicts => {
                env.port.drop_of(peer, Direction::Inbound, Drop::HalfBad, 1);
                Err(Drop::HalfBad)
            }
            Met::TooLong => Err(Drop::HalfBad),
            Met::Joins { other, class: others } => {
                let Some(room) = self.arena.room(half.whole.into()) else {
                    env.port.drop_of(peer, Direction::Inbound, Drop::HalfLost, 1);
                    return Err(Drop::HalfLost);
                };
                // It lies behind everything that was received.
                let (before, whole) = self.arena.bytes().split_at_mut(room.start);
                let whole = &mut whole[..room.len()];
                join(half, &before[body], other, whole);
                check_joined(env.mode, whole)?;
                env.port.count(Count::Joined, 1);
                env.port.count(Count::OpenedBytes, room.len() as u64);
                // As RFC 3168 §5.3 has it for fragments: a mark on either is one on the whole.
                let is_marked = [class, others].into_iter().find(|class| class & CE == CE);
                Ok(Some((room, is_marked.unwrap_or(class))))
            }
        }
    }
}
