//! A path on which the kernel takes no trains slows down the peer that it belongs to, and nobody else behind the same address.

mod support;

use std::net::UdpSocket;

use adit_proto::control::{Command, Event, Feature, OutboundSa, PeerId, PeerTag};
use adit_proto::stats::{Count, Gauge};
use support::{Bed, PEER, eventually, in_namespace, out_spi, outbound_sa, run, set_int, socket_at};

const OTHER: PeerId = PeerId(1);
const SEGMENTS: usize = 10;

#[test]
fn only_the_peer_whose_trains_are_refused_gets_its_packets_one_by_one() {
    in_namespace(|| {
        let mut bed = Bed::start(1, "poll", 1);
        // Behind the same address and port.
        bed.set_peer(0, OTHER, PeerTag(9), 1);
        bed.command(0, &Command::OutboundSaInstall(OutboundSa { peer: OTHER, spi: out_spi(64), ..outbound_sa(0) }));
        run("ip", &["address", "add", "10.5.0.1/24", "dev", "bed0"]);
        for (host, peer) in [(8, PEER), (9, OTHER)] {
            let (address, mac) = (format!("10.5.0.{host}"), format!("02:00:00:00:00:0{host}"));
            run("ip", &["neighbour", "add", &address, "lladdr", &mac, "dev", "bed0"]);
            bed.command(0, &Command::FdbPin { mac: [2, 0, 0, 0, 0, host], peer });
        }
        let host = UdpSocket::bind("10.5.0.1:0").unwrap();
        set_int(&host, libc::SOL_UDP, libc::UDP_SEGMENT, 1000);
        let sends = |bed: &Bed, to: &str| {
            let before = bed.count(Count::UdpSends);
            host.send_to(&[7; 1000 * SEGMENTS], to).unwrap();
            for _ in 0..SEGMENTS {
                bed.peer.recv(&mut [0; 2000]).unwrap();
            }
            bed.count(Count::UdpSends) - before
        };
        assert_eq!(sends(&bed, "10.5.0.8:7"), 1, "a train is one call");

        // The kernel refuses trains on a socket that sends no checksums: here for as long as the first peer is sent to.
        let socket = socket_at("127.0.0.1:4500".parse().unwrap());
        set_int(&socket, libc::SOL_SOCKET, libc::SO_NO_CHECK, 1);
        assert_eq!(sends(&bed, "10.5.0.8:7"), 1, "refused, and then sent in parts");
        set_int(&socket, libc::SOL_SOCKET, libc::SO_NO_CHECK, 0);
        eventually("the control plane is told", || {
            matches!(bed.master.poll_event(), Some((0, Event::Degraded { what: Feature::UdpSegment })))
        });
        assert_eq!(sends(&bed, "10.5.0.8:7"), SEGMENTS as u64, "one by one from now on");
        assert_eq!(sends(&bed, "10.5.0.9:7"), 1, "the other peer still gets trains");
        assert!(bed.master.counters(0).gauge(Gauge::UdpSegmentMax) >= 64);
        // A new path may be better.
        bed.set_peer(0, PEER, support::TAG, 1);
        assert_eq!(sends(&bed, "10.5.0.8:7"), 1);
        assert_eq!(bed.drops(), []);
    });
}
