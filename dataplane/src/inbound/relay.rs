//! In a hub, a frame that was opened goes on to the peer that it is for, or to all others ([`crate::hub`]).

use std::ops::Range;

use adit_proto::control::{ChildId, Direction, PeerId};
use adit_proto::stats::{Count, Drop};

use super::Inbound;
use crate::environment::Environment;
use crate::forward::{HERE, Learned, Route};
use crate::handover::batch::RecordHeader;
use crate::hub;
use crate::state::State;
use crate::tap::headers::{self, Layers};
use crate::tap::vnet::{self, VnetHeader};

impl Inbound {
    /// A frame of peer `from` is at this place of the arena. True when it goes to the TAP, too.
    pub(super) fn relay(
        &mut self,
        (frame, open_checksum): (&Range<usize>, bool),
        from: PeerId,
        learned: Learned,
        state: &mut State,
        env: &mut Environment,
    ) -> bool {
        let Some(&destination) = self.arena.bytes()[frame.clone()].first_chunk::<6>() else { return false };
        let why = match (learned, state.fdb.route(destination, state.now_s)) {
            (Learned::Elsewhere, _) => Drop::MacElsewhere,
            (Learned::Disputed | Learned::Group, Route::Flood) => Drop::MacDisputed,
            (_, Route::Peer(HERE)) => return true,
            (_, Route::Peer(to)) if to == from => Drop::SameSide,
            (_, Route::Peer(to)) => {
                self.relay_to(to, frame, open_checksum, state, env);
                return false;
            }
            (_, Route::Flood) => {
                let circles = state.hub.as_mut().is_some_and(|hub| hub.circles(&self.arena.bytes()[frame.clone()], state.now_s));
                if !circles {
                    self.relay_to_all(from, frame, open_checksum, state, env);
                    return true;
                }
                Drop::Circling
            }
        };
        env.port.drop_of(from, Direction::Inbound, why, 1);
        false
    }

    fn relay_to(&mut self, to: PeerId, frame: &Range<usize>, open_checksum: bool, state: &mut State, env: &mut Environment) {
        let Some(peer) = state.tables.peer(to) else { return env.port.drop(Drop::NoPeer, 1) };
        let (tag, child) = (peer.tag, ChildId::ONLY);
        let Some(owner) = peer.child(child).map(|child| child.sealer_for(env.id)) else {
            return env.port.drop_of(to, Direction::Outbound, Drop::NoSa, 1);
        };
        let header = RecordHeader::Frame { peer: to, tag, child };
        let read = self.as_read(frame, open_checksum, env);
        if self.give(owner, header, read, 1, env) {
            env.port.count(Count::Relayed, 1);
        } else {
            env.port.drop_of(to, Direction::Outbound, Drop::HandoverFull, 1);
        }
    }

    fn relay_to_all(
        &mut self,
        from: PeerId,
        frame: &Range<usize>,
        open_checksum: bool,
        state: &mut State,
        env: &mut Environment,
    ) {
        if state.tables.peer_count() < 2 {
            return;
        }
        let now_us = state.now_us();
        if !state.hub.as_mut().is_some_and(|shares| shares.take(from, now_us)) {
            return env.port.drop_of(from, Direction::Inbound, Drop::FloodLimit, 1);
        }
        let read = self.as_read(frame, open_checksum, env);
        let header = RecordHeader::Flood { except: Some(from) };
        for (owner, peers) in hub::sealers(env.id, Some(from), &mut state.tables).into_iter().enumerate() {
            if peers > 0 && !self.give(owner, header, read.clone(), peers, env) {
                // For several peers, so nobody's.
                env.port.drop(Drop::HandoverFull, 1);
            }
        }
        env.port.count(Count::Relayed, 1);
        env.port.count(Count::FloodedFrames, 1);
    }

    /// The frame as if it had been read from the TAP: the virtio-net header in front of it says whether its checksum is open.
    fn as_read(&mut self, frame: &Range<usize>, open_checksum: bool, env: &Environment) -> Range<usize> {
        let layers = headers::parse(env.mode, &self.arena.bytes()[frame.clone()]);
        let header = match layers {
            Layers::Transport(layers) if open_checksum => VnetHeader {
                flags: vnet::NEEDS_CSUM,
                csum_start: layers.l4 as u16,
                csum_offset: layers.checksum_offset() as u16,
                ..VnetHeader::default()
            },
            _ => VnetHeader::default(),
        };
        let read = frame.start - vnet::LEN..frame.end;
        if let Some(bytes) = self.arena.bytes()[read.clone()].first_chunk_mut() {
            header.write(bytes);
        }
        read
    }

    /// False when no buffer is free; then the caller knows whose loss it is.
    fn give(&mut self, owner: usize, header: RecordHeader, read: Range<usize>, packets: u64, env: &Environment) -> bool {
        let given = self.relayed.add(&env.handover, owner, header, &self.arena.bytes()[read], packets);
        if given {
            env.port.count(Count::HandedOver, 1);
        }
        given
    }
}
