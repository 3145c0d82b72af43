//! What the control plane sends is done to the last piece, though it signals once for all of it.

mod support;

use adit_proto::control::{Command, Event};
use adit_proto::stats::Count;
use support::{Bed, PEER, eventually, in_namespace};

#[test]
fn an_idle_worker_does_all_that_one_signal_announced() {
    in_namespace(|| {
        for io in ["io_uring", "poll"] {
            let mut bed = Bed::start(1, io, 1);
            for number in 0..100u8 {
                let pin = Command::FdbPin { mac: [2, 0, 0, 0, 1, number], peer: PEER };
                bed.master.send(0, 1000 + u32::from(number), &pin).unwrap();
            }
            bed.master.flush();
            let mut applied = Vec::new();
            eventually("a hundred commands are applied", || {
                if let Some((_, Event::Applied { ticket })) = bed.master.poll_event() {
                    applied.push(ticket);
                }
                applied.len() == 100
            });
            assert!(applied.is_sorted(), "in order on {io}");

            let peer = bed.peer.local_addr().unwrap();
            for number in 0..50u8 {
                bed.master.inject(0, peer, &[0, 0, 0, 0, number]).unwrap();
            }
            bed.master.flush();
            for number in 0..50u8 {
                let mut datagram = [0; 100];
                let (len, _) = bed.peer.recv_from(&mut datagram).unwrap();
                assert_eq!(datagram[..len], [0, 0, 0, 0, number], "on {io}");
            }
            assert_eq!(bed.count(Count::Injected), 50);
        }
    });
}
