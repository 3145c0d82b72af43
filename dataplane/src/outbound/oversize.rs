//! What is longer than the path to its peer takes: re-cut, fragmented, sent as two halves or answered, as [`crate::oversize`] says.

use std::ops::Range;

use adit_proto::control::{ChildId, Direction};
use adit_proto::esp;
use adit_proto::half::{self, Half, Which};
use adit_proto::stats::{Count, Drop};

use super::{Egress, Outbound, READ_AT, account, segments_max};
use crate::environment::Environment;
use crate::hub;
use crate::limits::FRAME_HEADROOM;
use crate::oversize::fragment::Fragments;
use crate::oversize::{Remedy, icmp, remedy};
use crate::sa::OutboundSa;
use crate::seal::Inner;
use crate::state::State;
use crate::tap::split::{Checksums, Plan};
use crate::tap::vnet::{self, VnetHeader};

/// Longest payload of an ESP packet on this way, in bytes.
fn payload_max(egress: &Egress, env: &Environment) -> usize {
    usize::from(egress.path.frame_max) + esp::inner_header_len(env.mode)
}

/// Counts a packet that was to go this way as dropped.
#[cold]
fn lost(why: Drop, egress: &Egress, env: &Environment) {
    env.port.drop_of(egress.lot.peer, Direction::Outbound, why, 1);
}

impl Outbound {
    /// The read buffer holds a frame for this peer, of which a segment is too long; `len` counts the virtio-net header too.
    #[inline(never)]
    pub(super) fn oversize(&mut self, plan: &Plan, egress: &Egress, len: usize, state: &mut State, env: &mut Environment) {
        let now_us = state.now_us();
        let Some(peer) = state.tables.peer(egress.lot.peer) else { return };
        let splits = peer.joiner.is_some() && half::cut(plan.longest(), payload_max(egress, env)).is_some();
        let Some(sa) = peer.child(egress.child).and_then(|child| child.outbound.as_deref_mut()) else { return };
        let fits = usize::from(egress.path.frame_max);
        let Some((header, frame)) = self.buffer[READ_AT..READ_AT + len].split_first_chunk_mut() else { return };
        match remedy(env.mode, &VnetHeader::parse(header), plan, frame, FRAME_HEADROOM, fits) {
            Remedy::Recut(shorter) => {
                env.port.count(Count::RecutSegments, plan.segments() as u64);
                // A sender that knows makes fewer packets of it. Where everything passes in halves, nobody is told anything.
                let reported = usize::from(egress.path.frame_reported);
                let advises = !splits && plan.longest() > reported;
                let sender = icmp::sender(env.mode, frame).filter(|_| advises);
                let may_tell = sender.is_some_and(|sender| state.advice.take(sender, now_us));
                let advice = if may_tell { icmp::Answer::new(env.mode, frame, reported) } else { None };
                self.segments(&shorter, egress, sa, env);
                if let Some(advice) = advice {
                    self.tell(&advice, state, env);
                }
            }
            Remedy::Fragment => {
                for k in 0..plan.segments() {
                    let (packet, _) = plan.segment(k, &mut self.buffer, Checksums::Fill);
                    self.fragments(packet, egress, sa, env);
                }
            }
            Remedy::Answer if splits => {
                for k in 0..plan.segments() {
                    let (frame, _) = plan.segment(k, &mut self.buffer, Checksums::Fill);
                    self.halves(frame, egress, sa, env);
                }
            }
            // Perhaps it fits, and a host that is told otherwise believes it for minutes.
            Remedy::Answer if plan.longest() <= usize::from(egress.path.frame_reported) => self.segments(plan, egress, sa, env),
            Remedy::Answer => {
                // What is quoted is a packet as it would have been sent.
                let (packet, _) = plan.segment(0, &mut self.buffer, Checksums::Fill);
                let why = self.answer(packet, egress.path.frame_reported.into(), state, env);
                env.port.drop_of(egress.lot.peer, Direction::Outbound, why, plan.segments() as u64);
            }
        }
    }

    /// Seals the packet at `packet` of the buffer, in fragments where it is too long.
    fn fragments(&mut self, packet: Range<usize>, egress: &Egress, sa: &mut OutboundSa, env: &mut Environment) {
        let fits = usize::from(egress.path.frame_max);
        if packet.len() <= fits {
            return self.segments(&Plan::whole(packet), egress, sa, env);
        }
        let fragments = Fragments::new(env.mode, &self.buffer[packet.clone()], packet.start, fits);
        let Some(fragments) = fragments else { return lost(Drop::PathMtu, egress, env) };
        env.port.count(Count::Fragmented, 1);
        for k in 0..fragments.count() {
            let fragment = fragments.fragment(k, &mut self.buffer);
            self.segments(&Plan::whole(fragment), egress, sa, env);
        }
        fragments.restore(&mut self.buffer);
    }

    /// Seals the frame or packet at `frame` of the buffer, as two packets where it is too long: with neighbouring sequence numbers,
    /// for nothing else is sealed with this SA meanwhile.
    fn halves(&mut self, frame: Range<usize>, egress: &Egress, sa: &mut OutboundSa, env: &mut Environment) {
        if frame.len() <= usize::from(egress.path.frame_max) {
            return self.segments(&Plan::whole(frame), egress, sa, env);
        }
        let Some(first) = half::cut(frame.len(), payload_max(egress, env)) else { return lost(Drop::PathMtu, egress, env) };
        let (before, whole, middle) = ((sa.esp.packets, sa.bytes), frame.len() as u16, frame.start + first);
        self.packets += 2;
        for (which, place) in [(Which::First, frame.start..middle), (Which::Second, middle..frame.end)] {
            let front = place.start - half::LEN..place.start;
            let behind: [u8; half::LEN] = self.buffer[front.clone()].try_into().unwrap_or_default();
            let added = self.add(place, Inner::Half(Half { which, whole }), egress, segments_max(egress, env), sa, env);
            self.buffer[front].copy_from_slice(&behind);
            if let Err(why) = added {
                lost(why, egress, env);
                return account(before, egress.lot.peer, sa, env);
            }
        }
        env.port.count(Count::Halved, 1);
        account(before, egress.lot.peer, sa, env);
    }

    /// Tells the sender of a packet what fits; returns under what name the packet is dropped.
    fn answer(&mut self, packet: Range<usize>, fits: usize, state: &mut State, env: &mut Environment) -> Drop {
        let packet = &self.buffer[packet];
        let (answer, sender) = (icmp::Answer::new(env.mode, packet, fits), icmp::sender(env.mode, packet));
        let (Some(answer), Some(sender)) = (answer, sender) else { return Drop::PathMtu };
        let now_us = state.now_us();
        if state.answers.take(sender, now_us) && self.tell(&answer, state, env) { Drop::TooBig } else { Drop::TooBigUnreported }
    }

    /// Sends an answer to where the packet came from, which has been dealt with: its place in the buffer is free. No answer is
    /// answered, so this goes one step deep. Says whether it was sent.
    fn tell(&mut self, answer: &icmp::Answer, state: &mut State, env: &mut Environment) -> bool {
        let out = answer.bytes();
        match hub::peer_behind(&out[vnet::LEN..], state) {
            Some(peer) => {
                self.buffer[READ_AT..READ_AT + out.len()].copy_from_slice(out);
                self.unicast(peer, ChildId::ONLY, out.len(), state, env);
            }
            None if env.tap.write(out).is_err() => return false,
            None => {}
        }
        env.port.count(Count::TooBigAnswers, 1);
        true
    }
}
