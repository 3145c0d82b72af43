//! What has gone through the SAs of each peer, added up over SAs that come and go.

use std::collections::BTreeMap;
use std::time::Instant;

use adit_channel::LiveSa;
use adit_proto::control::{Direction, PeerId, Spi};

use crate::api::types::Traffic;

/// An SA, by direction, peer and SPI.
type Name = (u8, PeerId, Spi);

/// Totals of one direction of a peer.
#[derive(Clone, Copy, Debug, Default)]
struct Flow {
    packets: u64,
    bytes: u64,
    bits_per_s: u64,
    last_sequence: u64,
    moved: Option<Instant>,
}

/// Adds up what the data plane says of its SAs.
#[derive(Debug, Default)]
pub struct Meter {
    /// Packets and bytes of every SA when it was looked at last.
    seen: BTreeMap<Name, (u64, u64)>,
    flows: BTreeMap<(u8, PeerId), Flow>,
    looked: Option<Instant>,
}

impl Meter {
    /// Forgets the peers that are not to stay.
    pub fn retain(&mut self, stays: impl Fn(PeerId) -> bool) {
        self.flows.retain(|(_, id), _| stays(*id));
    }

    /// Looks at the SAs for which `is_ours` is true; to be called about once a second, and before SAs are removed.
    pub fn count(&mut self, now: Instant, live: &[(u16, LiveSa)], is_ours: impl Fn(&LiveSa) -> bool) {
        let ms = self.looked.map_or(0, |before| now.saturating_duration_since(before).as_millis()).max(1) as u64;
        self.looked = Some(now);
        let mut seen = BTreeMap::new();
        let mut moved: BTreeMap<(u8, PeerId), (u64, u64)> = BTreeMap::new();
        for (_, sa) in live.iter().filter(|(_, sa)| is_ours(sa)) {
            let direction = sa.direction as u8;
            let (packets, bytes) = self.seen.get(&(direction, sa.peer, sa.spi)).copied().unwrap_or_default();
            let sums = moved.entry((direction, sa.peer)).or_default();
            sums.0 = sums.0.saturating_add(sa.packets.saturating_sub(packets));
            sums.1 = sums.1.saturating_add(sa.bytes.saturating_sub(bytes));
            let flow = self.flows.entry((direction, sa.peer)).or_default();
            if sa.packets > packets {
                flow.last_sequence = sa.seq;
            }
            seen.insert((direction, sa.peer, sa.spi), (sa.packets, sa.bytes));
        }
        self.seen = seen;
        for (name, flow) in &mut self.flows {
            let (packets, bytes) = moved.get(name).copied().unwrap_or_default();
            flow.packets = flow.packets.saturating_add(packets);
            flow.bytes = flow.bytes.saturating_add(bytes);
            flow.bits_per_s = bytes.saturating_mul(8000) / ms;
            if packets > 0 {
                flow.moved = Some(now);
            }
        }
    }

    /// What has gone one way between us and a peer.
    pub fn traffic(&self, now: Instant, peer: PeerId, direction: Direction) -> Traffic {
        let flow = self.flows.get(&(direction as u8, peer)).copied().unwrap_or_default();
        Traffic {
            packets: flow.packets,
            bytes: flow.bytes,
            bits_per_s: flow.bits_per_s,
            last_sequence: flow.last_sequence,
            idle_s: flow.moved.map(|at| now.saturating_duration_since(at).as_secs()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use adit_proto::control::ChildId;
    use adit_proto::suite::Suite;

    use super::*;

    const PEER: PeerId = PeerId(3);

    fn live(spi: u32, packets: u64) -> (u16, LiveSa) {
        let (direction, suite) = (Direction::Inbound, Suite::Aes128Gcm);
        let (seq, bytes) = (packets, packets * 100);
        (
            0,
            LiveSa {
                spi: Spi(spi),
                direction,
                peer: PEER,
                child: ChildId::ONLY,
                suite,
                window: 64,
                seq,
                seq_limit: 0,
                packets,
                bytes,
            },
        )
    }

    #[test]
    fn totals_go_on_when_sas_are_replaced() {
        let (mut meter, start) = (Meter::default(), Instant::now());
        let at = |s| start + Duration::from_secs(s);
        meter.count(at(0), &[live(1, 10)], |_| true);
        meter.count(at(1), &[live(1, 15), live(2, 5)], |_| true);
        meter.count(at(2), &[live(2, 25)], |_| true);
        let reported = meter.traffic(at(5), PEER, Direction::Inbound);
        assert_eq!((reported.packets, reported.bytes, reported.bits_per_s, reported.last_sequence), (40, 4000, 16_000, 25));
        assert_eq!(reported.idle_s, Some(3));
        meter.count(at(6), &[live(2, 99)], |_| false);
        assert_eq!(meter.traffic(at(6), PEER, Direction::Inbound).packets, 40, "of somebody else");
        assert_eq!(meter.traffic(at(6), PEER, Direction::Outbound), Traffic::default());
    }
}
