//! Totals and rates over SAs, data planes and control planes that come and go.

use adit_channel::Seen;
use adit_proto::control::{PeerId, Spi};
use adit_proto::suite::Suite;

use super::*;
use crate::numbers::WorkerNumbers;

const ID: PeerId = PeerId(3);
const TAG: PeerTag = PeerTag(77);

fn peers() -> Peers {
    Peers::from([(ID, TAG), (PeerId(4), PeerTag(78))])
}

fn sa(direction: Direction, spi: u32, packets: u64) -> LiveSa {
    let (suite, window, bytes) = (Suite::Aes128Gcm, 64, packets * 100);
    let (spi, child) = (Spi(spi), ChildId::ONLY);
    LiveSa { spi, direction, peer: ID, child, suite, window, seq: packets, seq_limit: 0, packets, bytes }
}

fn inbound(spi: u32, packets: u64) -> (u16, LiveSa) {
    (0, sa(Direction::Inbound, spi, packets))
}

/// What a look has found: serials, packets and standings of inbound SAs, and how many have gone.
fn found(seen: &[(u64, u64, Standing)], gone: u64) -> SaLook {
    let of = |(serial, packets, standing): &(u64, u64, Standing)| {
        (0, Seen { sa: sa(Direction::Inbound, 1, *packets), serial: *serial, standing: *standing })
    };
    SaLook { seen: seen.iter().map(of).collect(), gone: vec![gone], is_whole: true }
}

/// The same of SAs that are installed, each known by direction and SPI.
fn installed(live: &[(u16, LiveSa)]) -> SaLook {
    let of = |(worker, sa): &(u16, LiveSa)| {
        let serial = u64::from(sa.spi.0) << 8 | u64::from(sa.direction as u8);
        (*worker, Seen { sa: *sa, serial, standing: Standing::Live })
    };
    SaLook { seen: live.iter().map(of).collect(), gone: vec![0], is_whole: true }
}

/// A meter with a clock that goes on by a second with each look.
struct Looks {
    meter: Meter,
    now: Instant,
    numbers: Numbers,
}

impl Looks {
    fn new() -> Looks {
        Looks { meter: Meter::default(), now: Instant::now(), numbers: Numbers { workers: vec![WorkerNumbers::default()] } }
    }

    fn look(&mut self, live: &[(u16, LiveSa)]) {
        self.now += Duration::from_secs(1);
        self.meter.count(self.now, &installed(live), &peers(), true);
        self.meter.rate(self.now, &self.numbers);
    }

    fn received(&self) -> Traffic {
        self.meter.traffic(self.now, TAG).1
    }
}

#[test]
fn an_sa_that_was_left_out_of_a_look_is_not_counted_twice() {
    let mut looks = Looks::new();
    looks.look(&[inbound(1, 10), inbound(2, 7)]);
    for _ in 0..3 {
        looks.look(&[inbound(2, 7)]);
    }
    looks.look(&[inbound(1, 12), inbound(2, 7)]);
    assert_eq!(looks.received().packets, 19);
    // What is gone for longer and comes again is another one.
    (0..7).for_each(|_| looks.look(&[inbound(2, 7)]));
    looks.look(&[inbound(1, 12), inbound(2, 7)]);
    assert_eq!(looks.received().packets, 31);
    // However many go at once, so many are remembered.
    let many: Vec<_> = (10..1000).map(|spi| inbound(spi, 1)).collect();
    looks.look(&many);
    looks.look(&[]);
    assert_eq!(looks.meter.missed.len(), MISSED_MIN);
}

#[test]
fn totals_go_on_when_sas_are_replaced() {
    let mut looks = Looks::new();
    looks.look(&[inbound(1, 10)]);
    looks.look(&[inbound(1, 15), inbound(2, 5)]);
    looks.look(&[inbound(2, 25)]);
    let reported = looks.received();
    assert_eq!((reported.packets, reported.bytes, reported.bits_per_s, reported.idle_s), (40, 4000, 16_000, Some(0)));
    looks.look(&[]);
    looks.look(&[]);
    assert_eq!(looks.received(), Traffic { packets: 40, bytes: 4000, bits_per_s: 0, idle_s: Some(2) });
    assert_eq!(looks.meter.traffic(looks.now, TAG).0, Traffic::default(), "the other direction");
    assert_eq!(looks.meter.traffic(looks.now, PeerTag(78)).1, Traffic::default(), "another peer");
}

#[test]
fn a_second_look_at_one_moment_counts_nothing_twice() {
    let mut looks = Looks::new();
    looks.look(&[inbound(1, 10)]);
    for _ in 0..3 {
        looks.meter.count(looks.now, &installed(&[inbound(1, 12)]), &peers(), true);
    }
    assert_eq!(looks.received().packets, 12);
    looks.look(&[inbound(1, 12)]);
    assert_eq!(looks.received().bits_per_s, 1600, "what was counted between two measurements is in the rate");
}

#[test]
fn totals_go_on_when_sas_and_data_planes_come_anew() {
    let mut looks = Looks::new();
    looks.look(&[inbound(1, 10)]);
    looks.look(&[inbound(1, 3)]);
    assert_eq!(looks.received().packets, 13, "removed and made anew under its SPI, as with a static key");
    looks.meter.forget_sas();
    assert_eq!((looks.received().packets, looks.received().bits_per_s), (13, 0));
    looks.look(&[inbound(1, 4)]);
    assert_eq!(looks.received().packets, 17, "in another data plane");
}

#[test]
fn what_an_sa_carried_between_the_last_look_and_its_end_is_counted() {
    use Standing::{Going, Gone, Live};
    let mut looks = Looks::new();
    let mut count = |seen: &[(u64, u64, Standing)], gone| {
        looks.meter.count(looks.now, &found(seen, gone), &peers(), true);
        looks.received().packets
    };
    assert_eq!(count(&[(1, 10, Live)], 0), 10);
    assert_eq!(count(&[(1, 13, Gone), (2, 5, Live)], 1), 18);
    // One that goes while it is looked is found once more.
    assert_eq!(count(&[(2, 6, Going)], 1), 19);
    assert_eq!(count(&[(2, 6, Gone)], 2), 19);
    // Come and gone without having been seen, and another one of its name.
    assert_eq!(count(&[(3, 100, Gone), (4, 2, Live)], 3), 121);
    assert_eq!(looks.meter.counted(), [3]);
}

#[test]
fn what_is_in_the_table_is_not_left_to_the_next_control_plane_as_gone() {
    use Standing::{Going, Gone, Live};
    // Live, on its way out, or left out since it was being written: with what the next one finds it makes the same total.
    for (seen, found_by_next) in [(&[(2, 8, Live)][..], (2, 9, Live)), (&[(2, 8, Going)], (2, 9, Gone)), (&[], (2, 9, Live))] {
        let mut looks = Looks::new();
        looks.meter.count(looks.now, &found(&[(1, 10, Live), (2, 8, Live)], 0), &peers(), true);
        let all: Vec<_> = seen.iter().copied().chain([(1, 11, Gone)]).collect();
        looks.meter.count(looks.now, &found(&all, 1), &peers(), true);
        let mut next = Looks::new();
        next.meter.skip(looks.meter.counted());
        next.meter.inherit(&looks.meter.gone());
        next.meter.count(next.now, &found(&[found_by_next], 2), &peers(), false);
        assert_eq!((next.received().packets, next.meter.counted()), (20, &[2][..]), "{seen:?}");
        next.meter.forget_sas();
        assert!(next.meter.counted().is_empty(), "another data plane begins at none");
    }
}

#[test]
fn the_next_control_plane_goes_on_with_the_same_totals() {
    let mut looks = Looks::new();
    looks.look(&[inbound(1, 10), (0, sa(Direction::Outbound, 9, 4))]);
    let mut second = installed(&[inbound(2, 5), (0, sa(Direction::Outbound, 9, 6)), inbound(1, 10)]);
    second.seen[2].1.standing = Standing::Gone;
    looks.meter.count(looks.now, &second, &peers(), true);
    let gone = looks.meter.gone();
    let volume = Volume { packets: 10, bytes: 1000 };
    assert_eq!(gone, [Gone { peer: TAG, child: ChildId::ONLY, direction: Direction::Inbound, volume }]);
    // It may look at the data plane before or after it has read what was left, and may fail and begin again.
    for looks_first in [false, true] {
        let mut next = Looks::new();
        for _ in 0..2 {
            if looks_first {
                next.look(&[inbound(2, 6)]);
            }
            next.meter.inherit(&gone);
            next.look(&[inbound(2, 7)]);
            assert_eq!(next.received().packets, 17);
            next.meter.forget_sas();
        }
    }
}

#[test]
fn what_moved_before_we_came_moved_at_a_time_that_nobody_knows() {
    let mut looks = Looks::new();
    looks.meter.count(looks.now, &installed(&[inbound(1, 10)]), &peers(), false);
    assert_eq!((looks.received().packets, looks.received().idle_s), (10, None));
    looks.look(&[inbound(1, 11)]);
    assert_eq!(looks.received().idle_s, Some(0));
}

#[test]
fn ten_thousand_rekeys_leave_two_totals() {
    let mut looks = Looks::new();
    for spi in 0..10_000 {
        looks.look(&[inbound(spi, 1), (0, sa(Direction::Outbound, spi, 2))]);
    }
    assert_eq!((looks.meter.flows.len(), looks.meter.seen.len()), (2, 2));
    let volume = |packets| Volume { packets, bytes: packets * 100 };
    let totals: Vec<_> = looks.meter.totals(TAG).collect();
    let [inbound, outbound] = [(Direction::Inbound, 10_000), (Direction::Outbound, 20_000)];
    assert_eq!(totals, [inbound, outbound].map(|(direction, packets)| (ChildId::ONLY, direction, volume(packets))));
}

#[test]
fn ids_that_no_child_sa_has_and_peers_that_nobody_knows_are_not_kept() {
    let mut looks = Looks::new();
    let wild = (0..u16::MAX).map(|id| (0, LiveSa { child: ChildId(id), ..sa(Direction::Inbound, id.into(), 1) }));
    looks.look(&wild.collect::<Vec<_>>());
    assert_eq!(looks.meter.flows.len(), CHILD_IDS_MAX);
    looks.look(&[(0, LiveSa { peer: PeerId(9), ..sa(Direction::Inbound, 1, 1) })]);
    assert_eq!(looks.meter.totals(NOBODY).count(), 0);
    looks.meter.retain(&[PeerTag(78)]);
    assert_eq!(looks.meter.flows.len(), 0, "a peer that was removed");
}

#[test]
fn numbers_that_nobody_counts_to_break_nothing() {
    let mut looks = Looks::new();
    for packets in [u64::MAX, 0, u64::MAX - 1, 5] {
        looks.look(&[(0, LiveSa { packets, bytes: u64::MAX - packets, ..sa(Direction::Inbound, 1, 0) })]);
        looks.meter.gone();
        looks.received();
    }
}

#[test]
fn workers_have_rates_from_their_second_measurement_on() {
    let mut looks = Looks::new();
    for sealed in [0, 500, 1500] {
        looks.numbers.workers[0].counts[Count::Sealed as usize] = sealed;
        looks.look(&[]);
    }
    assert_eq!(looks.meter.worker(0), WorkerRates { sealed_per_s: 1000, opened_per_s: 0 });
    assert_eq!(looks.meter.worker(1), WorkerRates::default());
}
