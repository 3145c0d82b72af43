//! Sealed echoes: what the control plane asks for is sent and its answers are told, what peers ask for is answered.

mod support;

use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

use adit_dataplane::sa;
use adit_proto::control::{Command, Event, LocalEnd, PathId, Refusal, UdpHop, Via};
use adit_proto::echo::{self, Answer, Echo, Kind, LEN};
use adit_proto::esp::{Header, NEXT_HEADER_NONE};
use adit_proto::stats::{Count, Drop};
use support::{Bed, PEER, TAG, dummy, eventually, in_namespace, path_set, peer_opens, peer_seals, received, run};

/// What an IPv4 datagram has in front of its UDP payload.
const HEADERS: usize = 28;
/// The same over IPv6.
const HEADERS_V6: usize = 48;

fn start(workers: usize, listen: &str) -> Bed {
    let mut bed = Bed::start_at(listen, workers, "poll", workers as u16, &[]);
    announce(&mut bed, workers, true);
    bed
}

fn announce(bed: &mut Bed, workers: usize, echo: bool) {
    for worker in 0..workers {
        bed.command(worker, &Command::PeerSet { peer: PEER, tag: TAG, echo, split: false });
    }
}

/// The echo in a dummy packet.
fn echo_in(sa: &mut sa::InboundSa, mut packet: Vec<u8>) -> Echo {
    let header = Header::parse(&packet).unwrap();
    let opened = sa.esp.open(&header, &mut packet).unwrap();
    assert_eq!(opened.next_header, NEXT_HEADER_NONE);
    Echo::decode(&packet[opened.payload]).expect("an echo")
}

fn request(id: u64, answer: Answer) -> Echo {
    Echo { kind: Kind::Request, answer, size: 1000, id, stamp: 77 }
}

fn payload(echo: &Echo, len: usize) -> Vec<u8> {
    let mut payload = vec![0; len];
    assert!(echo.encode(&mut payload));
    payload
}

fn event(bed: &mut Bed) -> (u16, Event) {
    let mut found = None;
    eventually("the control plane is told", || {
        let other = |event: &Event| !matches!(event, Event::PathSeen { .. } | Event::InboundSaUsed { .. });
        found = bed.master.poll_event().filter(|(_, event)| other(event));
        found.is_some()
    });
    found.unwrap()
}

#[test]
fn a_request_has_the_size_asked_for_and_its_answer_is_told() {
    in_namespace(|| {
        let mut bed = start(2, "127.0.0.1:4500");
        let mut lanes = [(peer_opens(0), peer_seals(0)), (peer_opens(1), peer_seals(1))];
        for (worker, size) in [(0, 1500), (1, 576), (0, 1101)] {
            let (id, answer) = (u64::from(size) << 40, Answer::AsItCame);
            bed.command(worker, &Command::Echo { peer: PEER, path: PathId::FIRST, id, size, answer });
            let datagram = received(&bed.peer);
            let outer = HEADERS + datagram.len();
            assert!(outer <= usize::from(size) && outer + 4 > usize::from(size), "{outer} for {size}");
            let echo = echo_in(&mut lanes[worker].0, datagram);
            assert_eq!((echo.kind, echo.answer, echo.size, echo.id), (Kind::Request, answer, size, id));
            // The other worker receives the answer: its clock is the same.
            let reply = dummy(&mut lanes[1 - worker].1, &payload(&echo.reply(), LEN));
            bed.send(&reply);
            let (_, Event::EchoReply { peer, tag, id: reported, size: of, rtt_us, path, via }) = event(&mut bed) else {
                panic!("an answer is told")
            };
            assert_eq!((peer, tag, reported, of, path), (PEER, TAG, id, size, Some(PathId::FIRST)));
            let to = LocalEnd { address: "127.0.0.1".parse().unwrap(), interface: 1 };
            assert_eq!(via, Via::Udp { from: bed.peer.local_addr().unwrap(), to });
            assert!((1..10_000_000).contains(&rtt_us), "{rtt_us} µs");
        }
        assert_eq!((bed.count(Count::EchoesSent), bed.count(Count::EchoReplies)), (3, 3));
        // The path counts them, too; one more is not answered.
        bed.command(0, &Command::Echo { peer: PEER, path: PathId::FIRST, id: 9, size: 576, answer: Answer::AsItCame });
        let path = bed.master.path_counters()[&(PEER, PathId::FIRST)];
        assert_eq!((path.echoes_sent, path.echo_replies), (4, 3));
        assert_eq!(bed.drops(), []);
    });
}

#[test]
fn requests_are_answered_as_they_came_or_on_the_path_in_use() {
    in_namespace(|| {
        let mut bed = start(1, "0.0.0.0:4500");
        let (mut opens, mut seals) = (peer_opens(0), peer_seals(0));
        let elsewhere = UdpSocket::bind("127.0.0.1:4599").unwrap();
        elsewhere.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let shortest = usize::from(echo::size_min(false)) - HEADERS;
        for (id, len, is_path) in [(1, LEN, false), (2, 1401, false), (3, LEN, true), (6, 100, true), (7, 1401, true)] {
            if is_path {
                bed.command(0, &path_set(PEER, PathId::new(1).unwrap(), UdpHop::to(elsewhere.local_addr().unwrap())));
            }
            let asked = dummy(&mut seals, &payload(&request(id, Answer::AsItCame), len));
            elsewhere.send_to(&asked, "127.0.0.9:4500").unwrap();
            let mut buffer = [0; 2000];
            let (answered, from) = elsewhere.recv_from(&mut buffer).unwrap();
            assert_eq!(from.ip(), IpAddr::from([127, 0, 0, 9]), "from the address that was hit");
            assert_eq!(answered, if is_path { asked.len() } else { shortest }, "as long as the request where a path is");
            assert_eq!(echo_in(&mut opens, buffer[..answered].to_vec()), request(id, Answer::AsItCame).reply());
        }
        elsewhere.send_to(&dummy(&mut seals, &payload(&request(4, Answer::PathInUse), 200)), "127.0.0.9:4500").unwrap();
        assert_eq!(echo_in(&mut opens, received(&bed.peer)), request(4, Answer::PathInUse).reply());
        // A replay asks for nothing.
        let again = dummy(&mut seals, &payload(&request(5, Answer::AsItCame), 50));
        bed.send(&again);
        bed.send(&again);
        eventually("it is dropped", || bed.dropped(Drop::Replay) == 1);
        assert_eq!(bed.count(Count::EchoesAnswered), 7);
        // Other dummies are discarded.
        for other in [&b""[..], b"ADE", &[0xff; 500]] {
            bed.send(&dummy(&mut seals, other));
        }
        eventually("all are counted", || bed.count(Count::DummyPackets) == 10);
        assert_eq!((bed.count(Count::EchoesAnswered), bed.drops()), (7, vec![("replay", 1)]));
    });
}

#[test]
fn an_answer_is_no_longer_than_its_request_over_ipv6_as_well() {
    in_namespace(|| {
        let mut bed = start(1, "[::]:4500");
        let (mut opens, mut seals) = (peer_opens(0), peer_seals(0));
        let elsewhere = UdpSocket::bind("[::1]:4599").unwrap();
        elsewhere.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let path = PathId::new(1).unwrap();
        let shortest = usize::from(echo::size_min(true)) - HEADERS_V6;
        for (id, len, is_path) in [(1, LEN, false), (2, 1401, false), (3, LEN, true), (4, 100, true), (5, 1401, true)] {
            if is_path {
                bed.command(0, &path_set(PEER, path, UdpHop::to(elsewhere.local_addr().unwrap())));
            }
            let asked = dummy(&mut seals, &payload(&request(id, Answer::AsItCame), len));
            elsewhere.send_to(&asked, "[::1]:4500").unwrap();
            let answer = received(&elsewhere);
            assert_eq!(answer.len(), if is_path { asked.len() } else { shortest }, "as long as the request where a path is");
            assert_eq!(echo_in(&mut opens, answer), request(id, Answer::AsItCame).reply());
        }
        // On the path in use, of the other version of IP: what counts is the packet with its headers.
        let asked = dummy(&mut seals, &payload(&request(6, Answer::PathInUse), 200));
        elsewhere.send_to(&asked, "[::1]:4500").unwrap();
        let (outer, most) = (HEADERS + received(&bed.peer).len(), HEADERS_V6 + asked.len());
        assert!(outer <= most && outer + 4 > most, "{outer} of {most}");
        bed.command(0, &Command::PathUse { peer: PEER, path });
        let asked = dummy(&mut seals, &payload(&request(7, Answer::PathInUse), 200));
        bed.send(&asked);
        let (outer, most) = (HEADERS_V6 + received(&elsewhere).len(), HEADERS + asked.len());
        assert!(outer <= most && outer + 4 > most, "{outer} of {most}");
        // The shortest request leaves no room for the longer headers: there is no answer.
        bed.send(&dummy(&mut seals, &payload(&request(8, Answer::PathInUse), LEN)));
        eventually("it is dropped", || bed.dropped(Drop::EchoUnsent) == 1);
        assert_eq!((bed.count(Count::EchoesAnswered), bed.drops()), (7, vec![("echo_unsent", 1)]));
    });
}

#[test]
fn what_an_answer_has_taken_is_not_left_for_a_question() {
    in_namespace(|| {
        let mut bed = start(1, "127.0.0.1:4500");
        let mut seals = peer_seals(0);
        let elsewhere = UdpSocket::bind("127.0.0.1:4599").unwrap();
        elsewhere.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let asked = dummy(&mut seals, &payload(&request(1, Answer::AsItCame), 500));
        elsewhere.send_to(&asked, "127.0.0.1:4500").unwrap();
        let answered = elsewhere.recv_from(&mut [0; 2000]).unwrap().0;
        let mut left = None;
        eventually("the control plane is told", || {
            let seen = |event: &Event| matches!(event, Event::PathSeen { path: None, .. });
            let event = bed.master.poll_event().map(|(_, event)| event).filter(seen);
            left = event.and_then(|event| if let Event::PathSeen { bytes, .. } = event { Some(bytes as usize) } else { None });
            left.is_some()
        });
        assert_eq!(left.map(|left| left + answered), Some(asked.len()), "no more goes there than came, in all");
    });
}

#[test]
fn peers_that_announced_nothing_get_neither_requests_nor_answers() {
    in_namespace(|| {
        let mut bed = Bed::start(1, "poll", 1);
        let mut seals = peer_seals(0);
        let ask = |id, size| Command::Echo { peer: PEER, path: PathId::FIRST, id, size, answer: Answer::AsItCame };
        bed.send(&dummy(&mut seals, &payload(&request(1, Answer::AsItCame), LEN)));
        eventually("it is discarded", || bed.count(Count::DummyPackets) == 1);
        assert_eq!(bed.refused(0, &ask(2, 1000)), Refusal::BadValue);
        announce(&mut bed, 1, true);
        assert_eq!(bed.refused(0, &ask(2, 80)), Refusal::BadValue, "no echo is that short");
        assert_eq!(bed.refused(0, &ask(2, u16::MAX)), Refusal::BadValue);
        let path = PathId::new(3).unwrap();
        let unknown = Command::Echo { peer: PEER, path, id: 2, size: 1000, answer: Answer::AsItCame };
        assert_eq!(bed.refused(0, &unknown), Refusal::NoSuchPath);
        assert_eq!((bed.count(Count::EchoesAnswered), bed.count(Count::EchoesSent)), (0, 0));
    });
}

#[test]
fn a_peer_that_asks_without_rest_is_answered_at_a_limited_rate() {
    in_namespace(|| {
        let bed = start(1, "127.0.0.1:4500");
        let mut seals = peer_seals(0);
        for id in 0..400 {
            bed.send(&dummy(&mut seals, &payload(&request(id, Answer::AsItCame), LEN)));
        }
        eventually("all are judged", || bed.count(Count::EchoesAnswered) + bed.dropped(Drop::EchoLimit) == 400);
        let answered = bed.count(Count::EchoesAnswered);
        assert!((100..300).contains(&answered), "{answered} of 400");
    });
}

#[test]
fn an_echo_that_the_device_does_not_take_is_told_as_lost() {
    in_namespace(|| {
        let mut bed = start(1, "127.0.0.1:4500");
        run("ip", &["link", "set", "lo", "mtu", "1400"]);
        let ask = |id, size| Command::Echo { peer: PEER, path: PathId::FIRST, id, size, answer: Answer::AsItCame };
        bed.command(0, &ask(7, 1400));
        assert_eq!(HEADERS + received(&bed.peer).len(), 1400);
        bed.master.send(0, 1000, &ask(8, 1404)).unwrap();
        bed.master.flush();
        assert_eq!(event(&mut bed), (0, Event::EchoUnsent { peer: PEER, tag: TAG, id: 8 }));
        assert_eq!(bed.drops(), [("echo_unsent", 1)]);
    });
}
