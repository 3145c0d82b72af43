//! A hub: frames between its peers, and what keeps a loop from melting it.

mod support;

use std::io::ErrorKind;
use std::time::Duration;

use adit_dataplane::sa::{InboundSa, OutboundSa};
use adit_proto::control::{self, Command, Hop, PathId, PeerId, PeerTag, UdpHop};
use adit_proto::stats::{Count, Drop};
use support::{
    Bed, PEER, eventually, frame, in_namespace, in_spi, ip_packet, opened, out_spi, outbound_sa, peer_opens, peer_seals,
    received, sealed,
};

const OTHER: PeerId = PeerId(1);
const EVERYONE: [u8; 6] = [0xff; 6];
/// The lane of the other peer's SAs: the first worker's, as those of lane 0.
const OTHERS: u32 = 64;

/// Two spokes at one socket, told apart by their SAs.
struct Star {
    bed: Bed,
    seals: [OutboundSa; 2],
    opens: [InboundSa; 2],
}

impl Star {
    fn start(workers: usize, forward: &str, more: &[&str]) -> Star {
        let mut bed = Bed::start_with(workers, "poll", workers as u16, &[&["--forward", forward], more].concat());
        for worker in 0..workers {
            bed.set_peer(worker, OTHER, PeerTag(9), 1);
        }
        bed.command(0, &Command::OutboundSaInstall(control::OutboundSa { peer: OTHER, spi: out_spi(OTHERS), ..outbound_sa(0) }));
        let inbound = control::InboundSa {
            child: control::ChildId::ONLY,
            spi: in_spi(OTHERS),
            peer: OTHER,
            suite: outbound_sa(0).suite,
            key: outbound_sa(0).key,
            window: 4096,
            seq_top: 0,
            resync: true,
            esn: true,
        };
        bed.command(0, &Command::InboundSaInstall(inbound));
        Star { bed, seals: [peer_seals(0), peer_seals(OTHERS)], opens: [peer_opens(0), peer_opens(OTHERS)] }
    }

    /// A frame from a spoke to the hub.
    fn send(&mut self, spoke: usize, frame: &[u8]) {
        let datagram = sealed(&mut self.seals[spoke], frame);
        self.bed.send(&datagram);
    }

    /// The next frame that a spoke gets, and which one.
    fn next(&mut self) -> (usize, Vec<u8>) {
        let datagram = received(&self.bed.peer);
        let spi = u32::from_be_bytes(*datagram.first_chunk().unwrap());
        let spoke = usize::from(spi == out_spi(OTHERS).0);
        if spoke == 0 && spi != out_spi(0).0 {
            // Sealed by another worker.
            return (0, opened(&mut peer_opens(spi - out_spi(0).0), datagram));
        }
        (spoke, opened(&mut self.opens[spoke], datagram))
    }

    /// Nothing more comes to a spoke.
    fn is_quiet(&self) -> bool {
        self.bed.peer.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let quiet = self.bed.peer.recv(&mut [0; 2000]).is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
        self.bed.peer.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        quiet
    }
}

/// A frame between stations, numbered.
fn between(from: u8, to: [u8; 6], number: u32) -> Vec<u8> {
    let mut frame = frame(from, number, 60);
    frame[..6].copy_from_slice(&to);
    frame
}

fn station(number: u8) -> [u8; 6] {
    [2, 0, 0, 0, 1, number]
}

#[test]
fn frames_pass_between_spokes_and_only_to_where_they_belong() {
    for workers in [1, 2] {
        in_namespace(move || {
            let mut star = Star::start(workers, "true", &[]);
            // Stations 10 and 11 are behind the spokes, station 12 is here. What is for all goes to all others and to the host.
            for (spoke, from) in [(0, 10), (1, 11)] {
                let frame = between(from, EVERYONE, from.into());
                star.send(spoke, &frame);
                assert_eq!(star.next(), (1 - spoke, frame.clone()));
                assert_eq!(star.bed.tap.receive(), frame);
            }
            let here = between(12, EVERYONE, 12);
            star.bed.tap.send(&here);
            let mut spokes = [star.next(), star.next()];
            spokes.sort();
            assert_eq!(spokes, [(0, here.clone()), (1, here)]);
            for (spoke, from, to) in [(0, 10, 11), (1, 11, 10)] {
                for number in 0..20 {
                    let frame = between(from, station(to), number);
                    star.send(spoke, &frame);
                    assert_eq!(star.next(), (1 - spoke, frame), "{workers} workers");
                }
            }
            // For a station here: to the host alone. For one beside the sender: nowhere.
            let frame = between(10, station(12), 1);
            star.send(0, &frame);
            assert_eq!(star.bed.tap.receive(), frame, "what was between the spokes was not for the host");
            star.send(0, &between(13, station(10), 1));
            eventually("it goes nowhere", || star.bed.dropped(Drop::SameSide) == 1);
            star.bed.tap.send(&between(14, station(12), 1));
            eventually("it goes nowhere", || star.bed.dropped(Drop::SameSide) == 2);
            assert!(star.is_quiet());
            assert_eq!((star.bed.count(Count::Relayed), star.bed.drops()), (42, vec![("same_side", 2)]));
        });
    }
}

/// A frame with an IPv4 packet of UDP that may not be fragmented.
fn datagram(from: u8, to: u8, len: usize) -> Vec<u8> {
    let mut ip = ip_packet(false, (from, 1000), (to, 53), &vec![7; len]);
    let sum: u32 = ip[..20].chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1])).sum();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    [&station(to)[..], &station(from), &[8, 0], &ip].concat()
}

#[test]
fn a_station_behind_a_spoke_is_told_what_fits_the_way_to_another_spoke() {
    in_namespace(|| {
        let mut star = Star::start(1, "true", &[]);
        for (spoke, from) in [(0, 10), (1, 11)] {
            star.send(spoke, &between(from, EVERYONE, 0));
            star.next();
            star.bed.tap.receive();
        }
        let hop = Hop::Udp(UdpHop::to("127.0.0.1:4501".parse().unwrap()));
        star.bed.command(0, &Command::PathSet { peer: OTHER, path: PathId::FIRST, hop, mtu: 1000, mtu_reported: 1000 });
        star.send(0, &datagram(10, 11, 1200));
        let (spoke, answer) = star.next();
        assert_eq!((spoke, &answer[..6], &answer[34..36]), (0, &station(10)[..], &[3, 4][..]), "ICMP: it has to be fragmented");
        star.send(0, &datagram(10, 11, 800));
        assert_eq!(star.next(), (1, datagram(10, 11, 800)));
        assert_eq!((star.bed.count(Count::TooBigAnswers), star.bed.drops()), (1, vec![("too_big", 1)]));
    });
}

#[test]
fn without_it_nothing_passes_between_peers() {
    in_namespace(|| {
        let mut star = Star::start(1, "false", &[]);
        star.send(0, &between(10, EVERYONE, 1));
        star.bed.tap.receive();
        star.send(1, &between(11, station(10), 1));
        star.bed.tap.receive();
        assert!(star.is_quiet());
        assert_eq!((star.bed.count(Count::Relayed), star.bed.drops()), (0, vec![]));
    });
}

#[test]
fn an_address_that_comes_from_both_sides_stops_circling() {
    in_namespace(|| {
        let mut star = Star::start(1, "true", &[]);
        // As in a loop of two spokes: each copy comes back by the other one.
        for number in 0..40 {
            star.send(number as usize % 2, &between(10, EVERYONE, number));
        }
        // A stretch of time may end on the way, once.
        eventually("what circles is dropped", || star.bed.dropped(Drop::MacDisputed) + star.bed.count(Count::Relayed) == 40);
        let passed = star.bed.count(Count::Relayed);
        assert!((5..=10).contains(&passed), "{passed} passed");
        // Other stations are not concerned, nor is what is for one station.
        for _ in 0..passed {
            star.next();
        }
        star.send(1, &between(11, EVERYONE, 0));
        assert_eq!(star.next().0, 0);
        star.send(0, &between(10, station(11), 0));
        assert_eq!(star.next(), (1, between(10, station(11), 0)));
    });
}

#[test]
fn a_frame_that_circles_one_way_only_is_dropped_too() {
    in_namespace(|| {
        let mut star = Star::start(1, "true", &[]);
        for _ in 0..100 {
            star.send(0, &between(10, EVERYONE, 7));
        }
        eventually("what circles is dropped", || star.bed.dropped(Drop::Circling) + star.bed.count(Count::Relayed) == 100);
        assert!(star.bed.dropped(Drop::Circling) > 0);
        for _ in 0..star.bed.count(Count::Relayed) {
            star.next();
        }
        star.send(0, &between(10, EVERYONE, 8));
        assert_eq!(star.next(), (1, between(10, EVERYONE, 8)), "another frame of that station");
    });
}

#[test]
fn one_spoke_can_neither_flood_the_others_nor_take_a_pinned_address() {
    in_namespace(|| {
        let mut star = Star::start(1, "true", &["--flood-pps", "40"]);
        star.bed.command(0, &Command::FdbPin { mac: station(10), peer: PEER });
        for number in 0..100 {
            star.send(1, &between(11, EVERYONE, number));
        }
        eventually("there is a limit", || star.bed.dropped(Drop::FloodLimit) + star.bed.count(Count::Relayed) == 100);
        let passed = star.bed.count(Count::Relayed);
        assert!((20..100).contains(&passed), "{passed} passed");
        for _ in 0..passed {
            assert_eq!(star.next().0, 0);
        }
        star.send(0, &between(12, EVERYONE, 0));
        assert_eq!(star.next(), (1, between(12, EVERYONE, 0)), "the other one has its share");
        star.send(1, &between(10, station(12), 0));
        eventually("it is not its address", || star.bed.dropped(Drop::MacElsewhere) == 1);
        assert!(star.is_quiet());
    });
}
