//! What the control plane sends is done to the last piece, though it signals once for all of it.

mod support;

use adit_channel::Standing;
use adit_proto::control::{Command, Direction, Event, InjectHeader, OutboundSa, Refusal, Spi};
use adit_proto::limits::{FDB_AGEING_S, FLOOD_PPS};
use adit_proto::stats::{Count, Gauge};
use support::{Bed, PEER, TAG, eventually, frame, in_namespace, out_spi, outbound_sa, peer_seals, sealed};

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
                bed.master.inject(0, &InjectHeader::to(peer), &[0, 0, 0, 0, number]).unwrap();
            }
            bed.master.flush();
            for number in 0..50u8 {
                let mut datagram = [0; 100];
                let (len, _) = bed.peer.recv_from(&mut datagram).unwrap();
                assert_eq!(datagram[..len], [0, 0, 0, 0, number], "on {io}");
            }
            eventually("all are counted", || bed.count(Count::Injected) == 50);
        }
    });
}

#[test]
fn limits_of_forwarding_change_while_it_runs() {
    in_namespace(|| {
        let mut bed = Bed::start_with(1, "poll", 1, &["--fdb-ageing-s", "300"]);
        let set = |ageing_s, flood_pps| Command::ForwardingSet { ageing_s, flood_pps };
        let (oldest, most) = (*FDB_AGEING_S.end(), *FLOOD_PPS.end());
        for bad in [set(0, 7), set(7, 0), set(oldest + 1, 7), set(7, most + 1)] {
            assert_eq!(bed.refused(0, &bad), Refusal::BadValue);
        }
        let mut lane = peer_seals(0);
        bed.send(&sealed(&mut lane, &frame(9, 1, 60)));
        eventually("an address is learned", || bed.master.counters(0).gauge(Gauge::FdbEntries) == 1);
        bed.command(0, &set(1, 7));
        eventually("it is forgotten", || {
            // The sizes are shown with every command.
            bed.command(0, &set(1, 7));
            bed.master.counters(0).gauge(Gauge::FdbEntries) == 0
        });
    });
}

#[test]
fn an_outbound_sa_is_refused_where_it_would_repeat_nonces() {
    in_namespace(|| {
        let mut bed = Bed::start(2, "poll", 2);
        let other_worker = Command::OutboundSaInstall(outbound_sa(0));
        assert_eq!(bed.refused(1, &other_worker), Refusal::SpiInUse);
        bed.command(0, &Command::SaRemove { peer: PEER, spi: out_spi(0), direction: Direction::Outbound });
        // Worker 1 has an SA of its own; the refusal left it alone.
        assert_eq!(bed.master.counters(1).gauge(Gauge::OutboundSas), 1);
        assert_eq!(bed.refused(0, &Command::OutboundSaInstall(outbound_sa(1))), Refusal::SpiInUse);
        bed.command(1, &other_worker);
        assert_eq!(bed.refused(0, &other_worker), Refusal::SpiInUse);

        // A peer with one lane has no SA on the second worker.
        bed.set_peer(1, PEER, TAG, 1);
        assert_eq!(bed.refused(1, &Command::OutboundSaInstall(outbound_sa(2))), Refusal::WrongWorker);
        // The peer is gone on worker 1, and what it had claimed is free.
        bed.command(1, &Command::PeerRemove { peer: PEER });
        bed.command(0, &other_worker);
        let lower = OutboundSa { seq_next: 9, ..outbound_sa(0) };
        bed.command(0, &Command::OutboundSaInstall(lower.clone()));
        assert_eq!(bed.refused(0, &Command::OutboundSaInstall(OutboundSa { seq_next: 8, ..lower })), Refusal::BadValue);
    });
}

#[test]
fn an_sa_that_was_replaced_or_removed_stays_to_be_read() {
    in_namespace(|| {
        let mut bed = Bed::start(1, "poll", 1);
        let gone = |bed: &Bed, counted| -> Vec<Spi> {
            let look = bed.master.look_at_sas(&[counted]);
            let gone = look.seen.iter().filter(|(_, seen)| seen.standing == Standing::Gone);
            gone.map(|(_, seen)| seen.sa.spi).collect()
        };
        assert_eq!(gone(&bed, 0), []);
        bed.command(0, &Command::OutboundSaInstall(OutboundSa { spi: out_spi(64), ..outbound_sa(0) }));
        assert_eq!(gone(&bed, 0), [out_spi(0)]);
        bed.command(0, &Command::SaRemove { peer: PEER, spi: out_spi(64), direction: Direction::Outbound });
        assert_eq!(gone(&bed, 1), [out_spi(64)]);
        assert!(bed.master.live_sas().iter().all(|(_, sa)| sa.direction == Direction::Inbound));
    });
}
