//! The two directions of a Child SA in tunnel mode: what `adit_esp` seals and opens, with what the task and the session count of it.

use adit_engine::ike::selectors::SelectorPair;
use adit_engine::ike::{ChildKeys, Lifetime};
use adit_esp::aead::{Aead, Backend};
use adit_esp::{Opener, Sealer, TRAILER_MAX};
use adit_proto::control::{Mode, Spi};
use adit_proto::esp::{self, Header};
use adit_proto::limits::{SEQ_MAX_32, SEQ_MAX_64};
use adit_proto::replay::Window;
use adit_proto::stats::Drop;

/// After how much the engine is to learn what went through an SA, so that it replaces it before its hard limit. Zero: no matter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pace {
    pub packets: u64,
    pub bytes: u64,
}

impl Pace {
    /// Reports for each limit of a lifetime.
    const REPORTS: u64 = 16;

    pub fn of(lifetime: &Lifetime) -> Pace {
        let part = |limit: u64| limit.div_ceil(Pace::REPORTS);
        Pace { packets: part(lifetime.rekey_packets), bytes: part(lifetime.rekey_bytes) }
    }

    /// Whether that much came since what was reported last.
    pub fn is_due(&self, now: (u64, u64), reported: (u64, u64)) -> bool {
        let reached = |step: u64, now: u64, before: u64| step > 0 && now.saturating_sub(before) >= step;
        reached(self.packets, now.0, reported.0) || reached(self.bytes, now.1, reported.1)
    }
}

/// What we send with.
pub struct Outbound {
    sealer: Sealer,
    /// The payload with room for the trailer behind it.
    scratch: Vec<u8>,
    /// Payload that was sealed, in bytes.
    bytes: u64,
    /// Packets and bytes at the last report.
    reported: (u64, u64),
    pub selectors: SelectorPair,
}

/// What we receive with.
pub struct Inbound {
    opener: Opener,
    /// Payload that was opened, in bytes.
    pub bytes: u64,
    pub selectors: SelectorPair,
}

/// Why a packet of the peer is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It came before, or is older than the window.
    Replayed,
    /// It is not authentic.
    BadTag,
    /// It is authentic, and its trailer makes no sense.
    BadTrailer,
}

/// The key of an SA is not one of its suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadKey;

/// Every sequence number has been used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exhausted;

fn aead(keys: &ChildKeys) -> Result<Aead, BadKey> {
    let bytes = keys.key.key.get(..keys.suite.key_len()).ok_or(BadKey)?;
    Aead::new(Backend::AwsLc, keys.suite, bytes).map_err(|_| BadKey)
}

impl Outbound {
    pub fn new(keys: &ChildKeys) -> Result<Outbound, BadKey> {
        let limit = if keys.esn { SEQ_MAX_64 } else { SEQ_MAX_32 };
        let (spi, salt, esn) = (keys.spi, keys.key.salt.into(), keys.esn);
        let sealer = Sealer { spi, seq_next: 1, seq_end: limit + 1, aead: aead(keys)?, salt, esn, packets: 0 };
        Ok(Outbound { sealer, scratch: Vec::new(), bytes: 0, reported: (0, 0), selectors: keys.selectors.clone() })
    }

    pub fn spi(&self) -> Spi {
        self.sealer.spi
    }

    /// Packets and bytes that were sealed.
    pub fn usage(&self) -> (u64, u64) {
        (self.sealer.packets, self.bytes)
    }

    /// Whether a report is due; then it counts as made.
    pub fn report(&mut self, pace: Pace) -> bool {
        let due = pace.is_due(self.usage(), self.reported);
        if due {
            self.reported = self.usage();
        }
        due
    }

    /// Half of the sequence numbers are used: time for a new SA.
    pub fn is_past_soft_limit(&self) -> bool {
        self.sealer.seq_next > self.sealer.seq_end / 2
    }

    /// Writes the ESP packet for a payload over `out`.
    ///
    /// # Errors
    /// No sequence number is left.
    pub fn seal(&mut self, next_header: u8, payload: &[u8], out: &mut Vec<u8>) -> Result<(), Exhausted> {
        self.scratch.clear();
        self.scratch.extend_from_slice(payload);
        self.scratch.extend_from_slice(&[0; TRAILER_MAX]);
        out.resize(esp::sealed_len(payload.len()), 0);
        self.sealer.seal(&mut self.scratch, 0..payload.len(), next_header, out).map_err(|_: Drop| Exhausted)?;
        self.bytes += payload.len() as u64;
        Ok(())
    }
}

impl Inbound {
    /// With a window of so many packets.
    pub fn new(keys: &ChildKeys, window: u16) -> Result<Inbound, BadKey> {
        let window = Window::new(window, 0).ok_or(BadKey)?;
        let (spi, salt, esn) = (keys.spi, keys.key.salt.into(), keys.esn);
        let opener = Opener { spi, window, aead: aead(keys)?, salt, resync: false, esn, advanced: false, packets: 0 };
        Ok(Inbound { opener, bytes: 0, selectors: keys.selectors.clone() })
    }

    /// Packets that were authentic and new.
    pub fn packets(&self) -> u64 {
        self.opener.packets
    }

    /// Opens a packet where it lies: its next header and its payload.
    ///
    /// # Errors
    /// It is to be dropped.
    pub fn open<'a>(&mut self, packet: &'a mut [u8]) -> Result<(u8, &'a [u8]), Refusal> {
        let header = Header::parse(packet).ok_or(Refusal::BadTag)?;
        let opened = self.opener.open(&header, packet).map_err(|why| match why {
            Drop::Replay | Drop::ReplayOld => Refusal::Replayed,
            Drop::BadPadding => Refusal::BadTrailer,
            _ => Refusal::BadTag,
        })?;
        self.bytes += opened.payload.len() as u64;
        Ok((opened.next_header, &packet[opened.payload]))
    }
}

/// Longest inner packet that fits an outer IP packet of `path_mtu` bytes, in bytes.
pub const fn payload_len_max(path_mtu: u16, ipv6_outer: bool) -> usize {
    esp::frame_len_max(Mode::Ip, path_mtu, ipv6_outer)
}

#[cfg(test)]
mod tests;
