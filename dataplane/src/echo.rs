//! Sealed echoes ([`adit_proto::echo`]): sent when the control plane asks, answered without it, for it may be dead just then. Only
//! peers that announced that they understand them get answers, at a limited rate, and never more bytes than they sent.

use std::io;

use adit_channel::PathCount;
use adit_proto::control::{Direction, Event, PathId, PeerId, Refusal};
use adit_proto::echo::{self, Answer, Echo, Kind};
use adit_proto::esp;
use adit_proto::stats::{Count, Drop};

use crate::environment::Environment;
use crate::limits::{FRAME_HEADROOM, FRAME_TAILROOM};
use crate::path::Path;
use crate::sa::{OutboundSa, Tables};
use crate::udp::{Arrival, Hop};
use adit_proto::limits::ECHO_SIZE_MAX;

/// Where echoes are made: they never meet the buffers of frames.
pub struct Echoes {
    payload: Box<[u8]>,
    packet: Box<[u8]>,
}

/// Room for the payload of the longest echo, and for the trailer behind it.
const PAYLOAD_ROOM: usize = FRAME_HEADROOM + ECHO_SIZE_MAX as usize + FRAME_TAILROOM;

/// Memory of one worker for echoes, in bytes.
pub const ECHO_BYTES: usize = PAYLOAD_ROOM + ECHO_SIZE_MAX as usize;

/// A request of the control plane.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    pub peer: PeerId,
    pub path: PathId,
    pub id: u64,
    /// Length of the outer IP packet, in bytes.
    pub size: u16,
    pub answer: Answer,
}

impl Default for Echoes {
    fn default() -> Echoes {
        Echoes { payload: vec![0; PAYLOAD_ROOM].into_boxed_slice(), packet: vec![0; ECHO_SIZE_MAX.into()].into_boxed_slice() }
    }
}

impl Echoes {
    /// Sends a request. What the kernel does not send, since it is longer than the device takes or there is no route, is lost and
    /// told as that; the command itself was carried out.
    pub fn request(&mut self, asked: &Asked, now_ns: u64, tables: &mut Tables, env: &mut Environment) -> Result<(), Refusal> {
        let peer = tables.peer(asked.peer).ok_or(Refusal::NoSuchPeer)?;
        let Path { hop, slot, .. } = *peer.paths.get(asked.path).ok_or(Refusal::NoSuchPath)?;
        let len = echo::payload_len(asked.size, !hop.to.is_v4()).filter(|_| asked.size <= ECHO_SIZE_MAX);
        let len = len.filter(|_| peer.echo).ok_or(Refusal::BadValue)?;
        let tag = peer.tag;
        let sa = peer.sealing().ok_or(Refusal::NoSuchSa)?;
        let echo = Echo { kind: Kind::Request, answer: asked.answer, size: asked.size, id: asked.id, stamp: now_ns };
        match self.send(&echo, len, sa, &hop, env) {
            Ok(Ok(())) => {
                env.port.count(Count::EchoesSent, 1);
                env.port.path_count(slot, PathCount::EchoesSent, 1);
            }
            Ok(Err(_)) => {
                env.port.drop_of(asked.peer, Direction::Outbound, Drop::EchoUnsent, 1);
                env.port.emit(&Event::EchoUnsent { peer: asked.peer, tag, id: asked.id });
            }
            Err(why) => env.port.drop_of(asked.peer, Direction::Outbound, why, 1),
        }
        Ok(())
    }

    /// A dummy packet of a peer was opened, with this payload: an echo, or something to be discarded (RFC 4303 §2.6).
    pub fn opened(
        &mut self,
        payload: &[u8],
        id: PeerId,
        arrival: &Arrival,
        now_ns: u64,
        tables: &mut Tables,
        env: &mut Environment,
    ) {
        let Some(echo) = Echo::decode(payload) else { return };
        let Some(peer) = tables.peer(id).filter(|peer| peer.echo) else { return };
        if !peer.echoes.take(1, now_ns / 1000) {
            return env.port.drop_of(id, Direction::Inbound, Drop::EchoLimit, 1);
        }
        match echo.kind {
            Kind::Request => {
                let hop = match echo.answer {
                    Answer::AsItCame => Some(Hop::back(arrival.from, arrival.to)),
                    Answer::PathInUse => peer.paths.used().map(|(_, path)| path.hop),
                };
                let is_known = peer.paths.of(&arrival.from, &arrival.to).is_some();
                let Some(hop) = hop else { return env.port.drop_of(id, Direction::Outbound, Drop::NoPath, 1) };
                let Some(sa) = peer.sealing() else { return env.port.drop_of(id, Direction::Outbound, Drop::NoSa, 1) };
                // No longer than the request, also where the way back has longer headers; and where none of its paths is, as short as
                // can be, since before the control plane has a proof no more may go there than came.
                let came = esp::outer_len(payload.len(), !arrival.from.is_v4()).min(ECHO_SIZE_MAX.into()) as u16;
                let size = if is_known { came } else { came.min(echo::size_min(!hop.to.is_v4())) };
                let len = echo::payload_len(size, !hop.to.is_v4());
                let sent = len.map(|len| (len, self.send(&echo.reply(), len, sa, &hop, env)));
                match sent {
                    Some((len, Ok(Ok(())))) => {
                        env.port.count(Count::EchoesAnswered, 1);
                        if echo.answer == Answer::AsItCame {
                            peer.answered += esp::sealed_len(len) as u64;
                        }
                    }
                    Some((_, Err(why))) => env.port.drop_of(id, Direction::Outbound, why, 1),
                    Some((_, Ok(Err(_)))) | None => env.port.drop_of(id, Direction::Outbound, Drop::EchoUnsent, 1),
                }
            }
            Kind::Reply => {
                let Some(via) = arrival.via() else { return };
                let path = peer.paths.of(&arrival.from, &arrival.to);
                let rtt_us = u32::try_from(now_ns.saturating_sub(echo.stamp) / 1000).unwrap_or(u32::MAX);
                let tag = peer.tag;
                env.port.count(Count::EchoReplies, 1);
                if let Some(path) = path.and_then(|path| peer.paths.get(path)) {
                    env.port.path_count(path.slot, PathCount::EchoReplies, 1);
                }
                env.port.emit(&Event::EchoReply { peer: id, tag, id: echo.id, size: echo.size, rtt_us, path, via });
            }
        }
    }

    /// Seals and sends one: what the kernel said, or why nothing was sealed.
    fn send(
        &mut self,
        echo: &Echo,
        len: usize,
        sa: &mut OutboundSa,
        hop: &Hop,
        env: &mut Environment,
    ) -> Result<io::Result<()>, Drop> {
        let place = FRAME_HEADROOM..FRAME_HEADROOM + len;
        let payload = self.payload.get_mut(place.clone()).ok_or(Drop::TooLong)?;
        if !echo.encode(payload) {
            return Err(Drop::TooShort);
        }
        let packet = self.packet.get_mut(..esp::sealed_len(len)).ok_or(Drop::TooLong)?;
        sa.esp.seal(&mut self.payload, place, esp::NEXT_HEADER_NONE, packet)?;
        env.port.sa_update(sa.slot, sa.esp.seq_next - 1, sa.esp.packets, sa.bytes);
        match hop.to.stream() {
            Some(stream) => env.give_to_stream(stream, 0, packet, packet.len()).map(Ok),
            None => Ok(env.udp.send(hop, 0, packet, packet.len())),
        }
    }
}
