//! Senders of what fits no path are told what does, each so often and all together so often. What is beyond that goes in silence, and is
//! counted as such.

mod support;

use std::time::{Duration, Instant};

use adit_proto::control::Selector;
use adit_proto::ike::AddressRange;
use adit_proto::stats::{Count, Drop};
use support::{Bed, PEER, eventually, hosts, in_namespace, ip_packet, peer_seals, sealed_ip};

/// What one sender is told in a second, and what all are, and as many at once before that.
const OF_SENDER: u64 = 10;
const OF_ALL: u64 = 1000;
/// So long a worker may take to be asked more often than it answers: it is asked as fast as it can.
const PATIENCE: Duration = Duration::from_secs(60);

/// IPv4 with "Don't Fragment" that is too long for every path of these tests.
fn too_long(source: [u8; 4]) -> Vec<u8> {
    let mut packet = ip_packet(false, (1, 1), (11, 1), &[0; 1460]);
    packet[12..16].copy_from_slice(&source);
    packet
}

/// Packets that were judged: their sender was told, or could have been.
fn judged(bed: &Bed) -> u64 {
    bed.dropped(Drop::TooBig) + bed.dropped(Drop::TooBigUnreported)
}

/// Sends these, and waits until nothing of it is in the queue of the TAP, which is short.
fn burst(bed: &mut Bed, sources: impl IntoIterator<Item = [u8; 4]>) {
    let before = judged(bed);
    let sent: u64 = sources.into_iter().map(|source| bed.tap.send(&too_long(source))).map(|()| 1).sum();
    eventually("all are judged", || judged(bed) == before + sent);
}

#[test]
fn a_sender_is_told_ten_times_in_a_second_and_the_rest_is_counted() {
    in_namespace(|| {
        let mut bed = Bed::start_ip(1, "poll", 1);
        let began = Instant::now();
        while bed.dropped(Drop::TooBigUnreported) < 100 {
            assert!(began.elapsed() < PATIENCE, "every packet is answered: {:?}", bed.drops());
            burst(&mut bed, [[10, 0, 0, 1]; 50]);
        }
        // A second that has begun counts as one.
        let (told, seconds) = (bed.dropped(Drop::TooBig), began.elapsed().as_secs() + 2);
        assert!((1..=OF_SENDER * seconds).contains(&told), "{told} times in {seconds} s");
        assert_eq!(bed.count(Count::TooBigAnswers), told);
        for _ in 0..told {
            let answer = bed.tap.receive();
            assert_eq!((answer[9], &answer[16..22]), (1, &[10, 0, 0, 1, 3, 4][..]), "fragmentation needed, to the sender");
        }
        // And nothing else was sent.
        let next = ip_packet(false, (11, 1), (1, 1), &[3; 100]);
        bed.send(&sealed_ip(&mut peer_seals(0), &next));
        assert_eq!(bed.tap.receive(), next);
        // What one sender has used up is not missing to others; two of them may have one place in the table.
        burst(&mut bed, [[10, 0, 0, 2], [10, 0, 0, 3], [10, 0, 0, 4], [10, 0, 0, 5]]);
        assert!(bed.dropped(Drop::TooBig) > told, "{:?}", bed.drops());
        assert_eq!(bed.drops().len(), 2, "{:?}", bed.drops());
    });
}

#[test]
fn all_senders_together_are_told_a_thousand_times_in_a_second() {
    in_namespace(|| {
        let mut bed = Bed::start_ip(1, "poll", 1);
        let many = AddressRange::V4 { first: [10, 1, 0, 0].into(), last: [10, 1, 255, 255].into() };
        bed.own(0, PEER, Selector::any_of(many, hosts(false, 11, 19)));
        let began = Instant::now();
        let mut senders = (0..u16::MAX).map(|number| number.to_be_bytes()).map(|[high, low]| [10, 1, high, low]);
        for _ in 0..100 {
            burst(&mut bed, senders.by_ref().take(200));
        }
        let (told, took) = (bed.dropped(Drop::TooBig), began.elapsed().as_secs_f64());
        assert_eq!((judged(&bed), bed.count(Count::TooBigAnswers)), (20_000, told));
        assert!(told <= (OF_ALL as f64 * (1.0 + took)) as u64, "{told} times in {took} s");
    });
}
