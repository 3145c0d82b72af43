//! What a data plane held is free at the moment in which it has stopped: the next one does not find the interface or the port taken.

mod support;

use std::net::UdpSocket;

use adit_devices::interface;
use support::{Bed, frame, in_namespace, opened, peer_opens, received};

// The only test of its program: what others start at the same time would hold copies of the descriptors for a moment.
#[test]
fn interface_and_port_are_free_as_soon_as_a_data_plane_has_stopped() {
    in_namespace(|| {
        for io in ["io_uring", "poll"].repeat(5) {
            let mut bed = Bed::start(2, io, 1);
            let there = frame(1, 1, 60);
            bed.tap.send(&there);
            assert_eq!(opened(&mut peer_opens(0), received(&bed.peer)), there);
            drop(bed);
            assert!(!interface::exists("bed0"), "the interface, {io}");
            UdpSocket::bind("127.0.0.1:4500").unwrap_or_else(|error| panic!("the port, {io}: {error}"));
        }
    });
}
