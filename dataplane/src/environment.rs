//! What a worker talks to: the interface, the socket, the control plane and the other workers.

use std::os::fd::AsRawFd;
use std::sync::Arc;

use adit_channel::{Port, PuntError};
use adit_proto::class::Dscp;
use adit_proto::control::{Mac, Mode, PeerId, PeerTag, StreamId, TrainHeader};
use adit_proto::esp::{self, Header};
use adit_proto::stats::{Count, Drop};

use crate::forward::HERE;
use crate::handover::{Handover, MacUpdate};
use crate::io::Descriptors;
use crate::registry::Registry;
use crate::sa::Tables;
use crate::tap::TapQueue;
use crate::udp::UdpSocket;

/// What a worker talks to: one of each.
pub struct Environment {
    pub id: usize,
    pub mode: Mode,
    pub dscp: Dscp,
    /// Longest frame or packet that the interface takes, in bytes.
    pub frame_max: usize,
    /// The MSS in SYNs is brought down to what the path takes.
    pub clamps_mss: bool,
    pub tap: TapQueue,
    pub udp: UdpSocket,
    pub port: Port,
    /// Room for one datagram of the control plane.
    pub inject: Box<[u8]>,
    pub handover: Arc<Handover>,
    pub registry: Arc<Registry>,
}

impl Environment {
    pub fn descriptors(&self) -> Descriptors {
        Descriptors { tap: self.tap.raw_fd(), udp: self.udp.raw_fd(), wake: self.port.wake_fd().as_raw_fd() }
    }

    /// The other worker that owns the SPI of a packet, if it may have the SA. What nobody has is not copied for anybody.
    #[inline]
    pub fn other_that_opens(&self, header: &Header) -> Option<usize> {
        let owner = esp::worker_of(header.spi, self.handover.workers());
        (owner != self.id && self.registry.may_open(owner, header.spi)).then_some(owner)
    }

    /// Gives a train to the control plane, for a stream.
    pub fn give_to_stream(&mut self, stream: StreamId, class: u8, train: &[u8], segment: usize) -> Result<(), Drop> {
        let header = TrainHeader { stream, class, segment: u16::try_from(segment).map_err(|_| Drop::TooLong)? };
        self.port.train_up(header, train).map_err(|why| match why {
            PuntError::Full => Drop::StreamFull,
            PuntError::NoMaster => Drop::StreamNoMaster,
        })?;
        self.port.count(Count::TrainsUp, 1);
        self.port.count(Count::TrainsUpPackets, header.packets(train.len()) as u64);
        self.port.count(Count::TrainsUpBytes, train.len() as u64);
        Ok(())
    }

    /// Tells the other workers on which side a station is. False when one of them has no room for it.
    pub fn announce(&self, mac: Mac, side: PeerId, tables: &mut Tables) -> bool {
        let tag = if side == HERE { Some(PeerTag(0)) } else { tables.peer(side).map(|peer| peer.tag) };
        // Of a peer that is gone there is nothing to be said.
        tag.is_none_or(|tag| self.handover.announce(self.id, MacUpdate { mac, peer: side, tag }))
    }
}
