//! What is dropped of a peer is counted for that peer, under the name that it has among all drops, and for no other.

mod support;

use std::collections::{BTreeMap, HashMap};

use adit_proto::control::{self, ChildId, Command, Direction, PathId, PeerId, PeerTag, Selector, UdpHop};
use adit_proto::peer_drops::PeerDrop;
use adit_proto::stats::{Count, Drop};
use support::{
    Bed, PEER, TAG, eventually, frame, hosts, in_namespace, in_spi, inbound_sa, ip_packet, out_spi, outbound_sa, path_set,
    peer_seals, sealed, sealed_ip,
};

const OTHER: PeerId = PeerId(1);
const OTHER_TAG: PeerTag = PeerTag(9);
/// The lane of the other peer's SAs: the first worker's, as those of lane 0.
const OTHERS: u32 = 64;
const IN: Direction = Direction::Inbound;
const OUT: Direction = Direction::Outbound;

/// What was dropped of a peer, over all workers.
fn of(bed: &Bed, tag: PeerTag) -> Vec<(Direction, &'static str, u64)> {
    let slots = bed.master.peer_drops(&BTreeMap::from([(PEER, tag), (OTHER, tag)]));
    let sum = |drop: PeerDrop| slots.iter().map(|slot| slot.counts[drop.index()]).sum();
    let counted = PeerDrop::all().map(|drop| (drop.direction(), drop.label(), sum(drop)));
    counted.filter(|(.., packets)| *packets > 0).collect()
}

/// Every name that is always a peer's is counted with its peer: the sums are those of the data plane.
fn sums_agree(bed: &Bed) {
    let mut sums = HashMap::new();
    for slot in bed.master.peer_drops(&BTreeMap::from([(PEER, TAG), (OTHER, OTHER_TAG)])) {
        for (drop, packets) in PeerDrop::all().zip(slot.counts) {
            *sums.entry(drop.name()).or_insert(0) += packets;
        }
    }
    let always = |name: &Drop| !matches!(name, Drop::FloodLimit | Drop::HandoverFull);
    for name in PeerDrop::all().filter_map(PeerDrop::name).filter(always) {
        assert_eq!(sums.get(&Some(name)).copied().unwrap_or(0), bed.dropped(name), "{}: {sums:?}", name.label());
    }
}

/// Gives the other peer an SA in each direction on worker 0.
fn connect(bed: &mut Bed, peer: PeerId) {
    let outbound = control::OutboundSa { peer, spi: out_spi(OTHERS), ..outbound_sa(0) };
    bed.command(0, &Command::OutboundSaInstall(outbound));
    bed.command(0, &Command::InboundSaInstall(control::InboundSa { peer, spi: in_spi(OTHERS), ..inbound_sa(0) }));
}

/// A frame of the host behind the TAP to a station.
fn to_station(station: [u8; 6], number: u32) -> Vec<u8> {
    let mut frame = frame(1, number, 100);
    frame[..6].copy_from_slice(&station);
    frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
    frame
}

#[test]
fn drops_are_of_the_peer_whose_packets_they_are_and_of_nobody_after() {
    in_namespace(|| {
        let mut bed = Bed::start(2, "io_uring", 2);
        let station = [2, 0, 0, 0, 1, 77];
        for worker in 0..2 {
            bed.set_peer(worker, OTHER, OTHER_TAG, 1);
            bed.command(worker, &Command::FdbPin { mac: station, peer: OTHER });
        }
        (0..3).for_each(|number| bed.tap.send(&to_station(station, number)));
        eventually("it has no SA yet", || bed.dropped(Drop::NoSa) == 3);
        connect(&mut bed, OTHER);
        // There is no route out of this namespace.
        let nowhere = path_set(OTHER, PathId::FIRST, UdpHop::to("192.0.2.1:4501".parse().unwrap()));
        (0..2).for_each(|worker| bed.command(worker, &nowhere));
        bed.tap.send(&to_station(station, 3));
        eventually("the kernel refuses", || bed.dropped(Drop::UdpRefused) == 1);
        // Of the first peer, on both workers: the same again, and one that was changed.
        for lane in 0..2 {
            let mut seals = peer_seals(lane);
            let good = sealed(&mut seals, &frame(5, lane, 60));
            let mut bad = sealed(&mut seals, &frame(5, lane, 60));
            *bad.last_mut().unwrap() ^= 1;
            [&good, &good, &bad, &bad, &bad].iter().for_each(|datagram| bed.send(datagram));
            bed.tap.receive();
        }
        let unknown = [&in_spi(99).0.to_be_bytes()[..], &[0; 60]].concat();
        bed.send(&unknown);
        eventually("all are judged", || {
            (bed.dropped(Drop::BadTag), bed.dropped(Drop::Replay), bed.dropped(Drop::UnknownSpi)) == (6, 2, 1)
        });
        let first = [(IN, "bad_tag", 6), (IN, "replay", 2)];
        eventually("they are told", || of(&bed, TAG) == first);
        assert_eq!(of(&bed, OTHER_TAG), [(OUT, "no_sa", 3), (OUT, "udp_refused", 1)]);
        sums_agree(&bed);

        // A command that changes nothing of who has the id changes no count; who takes over the id has none.
        bed.set_peer(0, PEER, TAG, 2);
        assert_eq!(of(&bed, TAG), first);
        bed.set_peer(0, PEER, PeerTag(5), 2);
        assert_eq!((of(&bed, TAG), of(&bed, PeerTag(5))), (vec![(IN, "bad_tag", 3), (IN, "replay", 1)], vec![]));
        (0..2).for_each(|worker| bed.command(worker, &Command::PeerRemove { peer: OTHER }));
        assert_eq!(of(&bed, OTHER_TAG), []);
    });
}

#[test]
fn what_belongs_to_a_peer_by_its_selectors_is_dropped_as_that_peers() {
    in_namespace(|| {
        let mut bed = Bed::start_ip(1, "poll", 1);
        bed.set_peer(0, OTHER, OTHER_TAG, 1);
        let theirs = Selector::any_of(hosts(false, 1, 9), hosts(false, 21, 29));
        bed.command(0, &Command::SelectorAdd { peer: OTHER, selector: theirs });
        (0..4).for_each(|_| bed.tap.send(&ip_packet(false, (1, 1), (21, 1), &[])));
        eventually("no Child SA carries it", || bed.dropped(Drop::NoChildSa) == 4);
        connect(&mut bed, OTHER);
        bed.command(0, &Command::ChildSelectorAdd { peer: OTHER, child: ChildId::ONLY, selector: theirs });
        let mut seals = peer_seals(OTHERS);
        bed.send(&sealed_ip(&mut seals, &ip_packet(false, (21, 1), (1, 1), &[])));
        eventually("it is its address", || bed.count(Count::TapWrites) == 1);
        // With an address of the first peer's; and of the wrong kind inside.
        bed.send(&sealed_ip(&mut seals, &ip_packet(false, (11, 1), (1, 1), &[])));
        bed.send(&sealed(&mut seals, &frame(5, 1, 60)));
        eventually("it is not its address", || bed.dropped(Drop::PolicyMismatch) + bed.dropped(Drop::BadNextHeader) == 2);
        // Too long for the path, and may not be cut.
        let long = ip_packet(false, (1, 1), (11, 1), &[0; 1460]);
        bed.tap.send(&long);
        eventually("its sender is told", || bed.dropped(Drop::TooBig) == 1);
        eventually("all is told", || of(&bed, TAG) == [(OUT, "too_big", 1)]);
        assert_eq!(of(&bed, OTHER_TAG), [(IN, "policy_mismatch", 1), (IN, "bad_next_header", 1), (OUT, "no_child_sa", 4)]);
        sums_agree(&bed);
    });
}
