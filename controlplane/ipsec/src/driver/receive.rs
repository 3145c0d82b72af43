//! What comes to the socket: ESP is opened, checked against the traffic selectors and queued; IKE goes to the engine.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use adit_engine::ike::{PeerId, Usage};
use adit_engine::path::Arrival;
use adit_proto::control::Spi;
use adit_proto::demux::{Kind, classify};
use adit_proto::esp::{Header, NEXT_HEADER_NONE};

use super::{BATCH, Driver, canonical, local_address, now};
use crate::esp::{Inbound, Pace, Refusal};
use crate::link::{Fate, Link};
use crate::packet::Flow;

/// An inbound SA, and what belongs to it.
pub struct InboundSa {
    pub sa: Inbound,
    pub link: Arc<Link>,
    /// Where the last packet came from.
    pub from: Option<SocketAddr>,
    /// The outbound SA of the same pair, once it is installed.
    pub outbound: Option<Spi>,
    /// What the engine was told last.
    pub reported: Usage,
    pub pace: Pace,
    /// Its successor was asked for because its numbers run out.
    pub sequence_soft_limit: bool,
}

impl Driver {
    /// Takes what the socket has, up to a batch.
    pub(super) fn receive(&mut self) {
        let mut buffer = std::mem::take(&mut self.buffer);
        for _ in 0..BATCH {
            // An error is that there is nothing, or of an earlier datagram of ours, as an ICMP message about it.
            let Ok((len, from)) = self.socket.try_recv_from(&mut buffer) else { break };
            let from = canonical(from);
            let datagram = &mut buffer[..len];
            match classify(datagram) {
                Kind::Esp => self.receive_esp(from, datagram),
                Kind::Ike => {
                    self.receive_ike(from, datagram);
                    // Before the next datagram, which may be of an SA that this one has made.
                    self.settle();
                }
                Kind::Keepalive | Kind::Stun | Kind::Unknown | Kind::TooShort => {}
            }
        }
        self.buffer = buffer;
    }

    fn receive_ike(&mut self, from: SocketAddr, datagram: &[u8]) {
        if !self.admission.admits(Instant::now(), from, datagram) {
            return;
        }
        let Ok(local) = local_address(self.local, from) else { return };
        self.from = Some(from);
        self.endpoint.handle_message(now(), Arrival::new(local, from), datagram);
    }

    fn receive_esp(&mut self, from: SocketAddr, packet: &mut [u8]) {
        let bytes = u32::try_from(packet.len()).unwrap_or(u32::MAX);
        let Some(header) = Header::parse(packet) else { return };
        let Some(one) = self.inbound.get_mut(&header.spi) else { return };
        let opened = match one.sa.open(packet) {
            Ok(opened) => opened,
            Err(refusal) => {
                return one.link.dropped(match refusal {
                    Refusal::Replayed => Fate::Replayed,
                    Refusal::BadTag => Fate::BadTag,
                    Refusal::BadTrailer => Fate::Malformed,
                });
            }
        };
        deliver(one, opened);
        let reported = (one.reported.inbound_packets, one.reported.inbound_bytes);
        let due = one.pace.is_due((one.sa.packets(), one.sa.bytes), reported);
        let peer = one.link.peer;
        let (news, moved) = (due || one.sa.packets() == 1, one.from.replace(from) != Some(from));
        if moved && let Ok(local) = local_address(self.local, from) {
            // Authentic and new: the peer is there now (RFC 7296 §2.23). The engine decides whether we follow.
            self.endpoint.handle_path_seen(now(), peer, Arrival::new(local, from), bytes);
        }
        if news {
            // With the first one the peer sends on it, so it can receive on its other half: the engine waits for that.
            let usage = self.usage_of(header.spi).into_iter().collect();
            self.endpoint.handle_usage(now(), &usage);
        }
        if news || moved {
            self.settle();
        }
    }

    fn usage_of(&mut self, spi: Spi) -> Option<(Spi, Usage)> {
        let one = self.inbound.get_mut(&spi)?;
        let (outbound_packets, outbound_bytes, _) = one.outbound.and_then(|spi| one.link.usage(spi)).unwrap_or((
            one.reported.outbound_packets,
            one.reported.outbound_bytes,
            false,
        ));
        let usage = Usage { inbound_bytes: one.sa.bytes, inbound_packets: one.sa.packets(), outbound_bytes, outbound_packets };
        let news = usage != one.reported;
        one.reported = usage;
        news.then_some((spi, usage))
    }

    /// Tells the engine what went through the SAs, where that is news.
    pub(super) fn report_usage(&mut self) {
        let spis: Vec<Spi> = self.inbound.keys().copied().collect();
        let usage: BTreeMap<Spi, Usage> = spis.iter().filter_map(|spi| self.usage_of(*spi)).collect();
        self.endpoint.handle_usage(now(), &usage);
        let mut to_rekey: Vec<PeerId> = Vec::new();
        for one in self.inbound.values_mut().filter(|one| !one.sequence_soft_limit) {
            one.sequence_soft_limit =
                one.outbound.and_then(|spi| one.link.usage(spi)).is_some_and(|(_, _, soft_limit)| soft_limit);
            to_rekey.extend(one.sequence_soft_limit.then_some(one.link.peer));
        }
        for peer in to_rekey {
            // Not connected: then it goes anyhow.
            let _ = self.endpoint.rekey(now(), peer);
        }
    }
}

/// What to do with a packet that is authentic (RFC 4301 §5.2 step 4: is it one that the peer may send here?).
fn deliver(one: &InboundSa, (next_header, payload): (u8, &[u8])) {
    let link = &one.link;
    if next_header == NEXT_HEADER_NONE {
        // A dummy packet (RFC 4303 §2.6).
        return;
    }
    match Flow::of(payload) {
        Ok(flow) if flow.next_header() != next_header => link.dropped(Fate::Malformed),
        Ok(flow) if !flow.is_covered(&one.sa.selectors.remote, &one.sa.selectors.local) => link.dropped(Fate::Selectors),
        Ok(flow) => link.take(&payload[..flow.len]),
        Err(_) => link.dropped(Fate::Malformed),
    }
}
