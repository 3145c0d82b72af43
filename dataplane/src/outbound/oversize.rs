//! What is longer than the path to its peer takes: re-cut, fragmented or answered, as [`crate::oversize`] says.

use std::ops::Range;

use adit_proto::stats::{Count, Drop};

use super::{Outbound, READ_AT};
use crate::config::FRAME_HEADROOM;
use crate::oversize::fragment::Fragments;
use crate::oversize::{Remedy, icmp, remedy};
use crate::path::Path;
use crate::sa::Peer;
use crate::state::{Environment, State};
use crate::tap::split::{Checksums, Plan};
use crate::tap::vnet::{self, VnetHeader};
use crate::train::Lot;

impl Outbound {
    /// The read buffer holds a frame for this peer, of which a segment is too long; `len` counts the virtio-net header too.
    #[inline(never)]
    pub(super) fn oversize(&mut self, plan: &Plan, lot: Lot, path: &Path, len: usize, state: &mut State, env: &mut Environment) {
        let Some(peer) = state.tables.peer(lot.peer) else { return };
        let fits = usize::from(path.frame_max);
        let Some((header, frame)) = self.buffer[READ_AT..READ_AT + len].split_first_chunk_mut() else { return };
        match remedy(env.mode, &VnetHeader::parse(header), plan, frame, FRAME_HEADROOM, fits) {
            Remedy::Recut(shorter) => {
                env.port.count(Count::RecutSegments, plan.segments() as u64);
                self.segments(&shorter, lot, path, peer, env);
            }
            Remedy::Fragment => {
                for k in 0..plan.segments() {
                    let (packet, _) = plan.segment(k, &mut self.buffer, Checksums::Fill);
                    self.fragments(packet, lot, path, peer, env);
                }
            }
            // Perhaps it fits, and a host that is told otherwise believes it for minutes.
            Remedy::Answer if plan.longest() <= usize::from(path.frame_told) => self.segments(plan, lot, path, peer, env),
            Remedy::Answer => {
                // What is quoted is a packet as it would have been sent.
                let (packet, _) = plan.segment(0, &mut self.buffer, Checksums::Fill);
                env.port.drop(self.answer(packet, path.frame_told.into(), state, env), plan.segments() as u64);
            }
        }
    }

    /// Seals the packet at `packet` of the buffer, in fragments where it is too long.
    fn fragments(&mut self, packet: Range<usize>, lot: Lot, path: &Path, peer: &mut Peer, env: &mut Environment) {
        let fits = usize::from(path.frame_max);
        if packet.len() <= fits {
            return self.segments(&Plan::whole(packet), lot, path, peer, env);
        }
        let fragments = Fragments::new(env.mode, &self.buffer[packet.clone()], packet.start, fits);
        let Some(fragments) = fragments else { return env.port.drop(Drop::PathMtu, 1) };
        env.port.count(Count::Fragmented, 1);
        for k in 0..fragments.count() {
            let fragment = fragments.fragment(k, &mut self.buffer);
            self.segments(&Plan::whole(fragment), lot, path, peer, env);
        }
        fragments.restore(&mut self.buffer);
    }

    /// Tells the sender of a packet what fits; returns under what name the packet is dropped.
    fn answer(&self, packet: Range<usize>, fits: usize, state: &mut State, env: &Environment) -> Drop {
        let packet = &self.buffer[packet];
        // A virtio-net header that says nothing, then the answer.
        let mut out = [0; vnet::LEN + icmp::ANSWER_MAX];
        let len = out[vnet::LEN..].first_chunk_mut().and_then(|out| icmp::answer(env.mode, packet, fits, out));
        let (Some(len), Some(sender)) = (len, icmp::sender(env.mode, packet)) else { return Drop::PathMtu };
        let now_us = state.now_us();
        if !state.answers.take(sender, now_us) || env.tap.write(&out[..vnet::LEN + len]).is_err() {
            return Drop::TooBigUntold;
        }
        env.port.count(Count::TooBigAnswers, 1);
        Drop::TooBig
    }
}
