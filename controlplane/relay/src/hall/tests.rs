//! Tests of the hall: each says what clients do, and what the others see of it.

mod house;
mod model;
mod unfair;

use std::time::Duration;

use adit_proto::relay::{Kind, LeftReason, Quota, ToRelay};

use super::*;
use crate::queue::{Bounds, Dropped};
use crate::quotas::Rate;
use house::{House, Seen, address, key, room, train};

fn house() -> House {
    House::new(Settings::default())
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn joined(room: &str, peer: u8) -> Seen {
    Seen::Joined(room.to_owned(), peer, Vec::new())
}

fn left(room: &str, peer: u8, reason: LeftReason) -> Seen {
    Seen::Left(room.to_owned(), peer, reason)
}

/// Two in one room who have read what there was.
fn pair(house: &mut House) -> [ConnId; 2] {
    let both = [house.enter(1, &["a"]), house.enter(2, &["a"])];
    both.iter().for_each(|conn| drop(house.read(*conn)));
    house.events();
    both
}

#[test]
fn who_comes_is_welcomed_and_told_who_is_there() {
    let mut house = house();
    let one = house.enter(1, &["b", "a", "a"]);
    assert_eq!(house.read(one), [Seen::Welcome(vec!["a".into(), "b".into()])]);
    house.send(one, ToRelay::Describe { metadata: b"one" });
    let two = house.enter(2, &["b", "c"]);
    assert_eq!(house.read(two), [Seen::Welcome(vec!["b".into(), "c".into()]), Seen::Joined("b".into(), 1, b"one".to_vec())]);
    assert_eq!((house.events(), house.read(one)), (vec![Event::Wake(one)], vec![joined("b", 2)]));
    house.leave(two);
    assert_eq!(house.read(one), [left("b", 2, LeftReason::GONE)]);
    let rooms: Vec<_> = house.hall.rooms().map(|view| (view.name.to_string(), view.peers)).collect();
    assert_eq!(rooms, [("a".into(), 1), ("b".into(), 1)], "a room in which nobody is any more is none");
    house.check();
}

#[test]
fn a_description_reaches_the_peers_and_only_if_it_is_new() {
    let mut house = house();
    let [one, two] = pair(&mut house);
    let three = house.enter(3, &["b"]);
    house.read(three);
    for text in [b"x", b"x", b"y"] {
        house.send(one, ToRelay::Describe { metadata: text });
    }
    let described = |text: &[u8]| Seen::Described("a".into(), 1, text.to_vec());
    assert_eq!(house.read(two), [described(b"y")], "of two that wait the last is told");
    assert_eq!((house.read(one), house.read(three)), (vec![], vec![]));
    (0..9).for_each(|n| house.send(one, ToRelay::Describe { metadata: &[n] }));
    assert_eq!(house.read(one), [Seen::Refused(Quota::DESCRIPTIONS)], "it is told once");
    assert_eq!((house.read(two).len(), house.hall.counters().refused_descriptions), (1, 8));
}

#[test]
fn trains_go_to_peers_of_common_rooms_and_wake_them() {
    let mut house = house();
    let [one, two] = pair(&mut house);
    house.data(one, 2, b"data");
    house.send(one, ToRelay::Send { to: key(2), train: train(Kind::Ike, b"ike") });
    assert_eq!(house.events(), [Event::Wake(two)], "once is enough");
    let ike = Seen::Deliver(1, Kind::Ike, b"ike".to_vec());
    assert_eq!(house.read(two), [ike, Seen::Deliver(1, Kind::Esp, b"data".to_vec())], "IKE does not wait behind data");
    let counters = house.hall.counters();
    assert_eq!((counters.trains, counters.train_bytes, counters.trains_delivered), (2, 7, 2));
    let views = house.hall.peers_of(house.now, &room("a")).unwrap();
    assert_eq!((views[0].counts.bytes_sent, views[1].counts.trains_received), (7, 2));
    let counts = house.hall.rooms().next().unwrap().counts;
    assert_eq!((counts.joined, counts.left, counts.trains, counts.bytes), (2, 0, 2, 7));
}

#[test]
fn who_is_in_another_room_is_as_absent_as_who_never_was() {
    let mut house = house();
    let [one, _] = pair(&mut house);
    let other = house.enter(3, &["b"]);
    house.read(other);
    for peer in [3, 9, 1] {
        house.data(one, peer, b"x");
        house.send(one, ToRelay::Meet { peer: key(peer) });
        house.send(one, ToRelay::Direct { peer: key(peer), on: true });
        assert_eq!(house.read(one), vec![Seen::Absent(peer, None); 3], "of {peer}");
    }
    house.leave(other);
    house.send(one, ToRelay::Meet { peer: key(3) });
    assert_eq!(house.read(one), [Seen::Absent(3, None)], "nor that it has left");
    assert_eq!((house.hall.counters().absent, house.hall.counters().trains), (10, 0));
}

#[test]
fn of_one_who_has_left_is_told_how_long_ago_that_was() {
    let mut house = house();
    let [one, two] = pair(&mut house);
    house.leave(two);
    house.read(one);
    house.pass(ms(90_500));
    (0..5).for_each(|_| house.data(one, 2, b"x"));
    assert_eq!(house.read(one), [Seen::Absent(2, Some(90))], "not for each train");
    house.pass(ms(1000));
    house.data(one, 2, b"x");
    assert_eq!(house.read(one), [Seen::Absent(2, Some(91))]);
    let two = house.enter(2, &["b"]);
    house.send(one, ToRelay::Meet { peer: key(2) });
    assert_eq!(house.read(one), [Seen::Absent(2, Some(91))], "that it is in another room concerns nobody here");
    assert_eq!(house.read(two).len(), 1);
}

#[test]
fn the_newest_connection_of_a_key_holds() {
    let mut house = house();
    let [one, two] = pair(&mut house);
    house.data(two, 1, b"for the older");
    let newer = house.enter(1, &["a", "b"]);
    assert_eq!(house.read(two), [left("a", 1, LeftReason::REPLACED), joined("a", 1)]);
    assert_eq!(house.read_all(one), (vec![Seen::Replaced(60)], Some(LeftReason::REPLACED)));
    house.data(one, 2, b"x");
    assert_eq!(house.read(two), [], "what the older one says does not count any more");
    house.data(two, 1, b"y");
    assert_eq!(house.read(newer)[2..], [Seen::Deliver(2, Kind::Esp, b"y".to_vec())]);
    house.leave(one);
    assert_eq!(house.read(two), [], "that it is closed concerns nobody");
    assert_eq!((house.hall.counters().left_replaced, house.hall.counters().dropped_left), (1, 1));
    house.check();
}

#[test]
fn connections_of_a_key_that_are_not_closed_are_few() {
    let mut house = house();
    let conns: Vec<_> = (0..4).map(|_| house.enter(1, &["a"])).collect();
    assert_eq!(house.try_enter(1, &["a"]), Err(NotLetIn::Replaced));
    assert_eq!(house.hall.gauges().clients, 1);
    house.leave(conns[0]);
    assert!(house.try_enter(1, &["a"]).is_ok());
    house.events();
    house.pass(ms(6000));
    let aborted = house.events().into_iter().filter(|event| matches!(event, Event::Abort(_))).count();
    assert_eq!(aborted, 3, "who does not take its last words is closed without them");
    house.pass(ms(6000));
    assert_eq!(house.events(), [], "and is not closed twice");
}

#[test]
fn shares_go_on_to_the_newer_connection() {
    let settings = Settings { bytes: Rate::per_second(1000), ..Settings::default() };
    let mut house = House::new(settings);
    let [one, two] = pair(&mut house);
    house.data(one, 2, &[0; 1000]);
    let newer = house.enter(1, &["a"]);
    house.read(newer);
    house.data(newer, 2, &[0; 1000]);
    assert_eq!(house.read(newer), [Seen::Refused(Quota::BYTES)]);
    assert_eq!(house.read(two).len(), 3, "what came before it was replaced, and that");
}

#[test]
fn a_full_house_and_a_full_room_let_nobody_in() {
    let mut house = House::new(Settings { peers_of_room: 2, rooms: 2, clients: 4, ..Settings::default() });
    let one = house.enter(1, &["a"]);
    house.enter(2, &["a"]);
    assert_eq!(house.try_enter(3, &["a"]), Err(NotLetIn::Full), "the room");
    assert_eq!(house.try_enter(3, &["b", "c"]), Err(NotLetIn::Full), "rooms");
    let newer = house.enter(1, &["a"]);
    house.enter(3, &["b"]);
    assert_eq!(house.try_enter(4, &["b"]), Err(NotLetIn::Full), "the house");
    house.leave(one);
    assert!(house.try_enter(4, &["b"]).is_ok());
    let many: Vec<String> = (0..17).map(|n| format!("r{n}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    house.leave(newer);
    assert_eq!(house.try_enter(5, &many), Err(NotLetIn::Full), "rooms of one");
    assert_eq!(house.hall.counters().turned_away_full, 4);
    house.check();
}

#[test]
fn both_are_introduced_in_one_turn_with_one_start() {
    let mut house = house();
    let (one, two) = (house.enter(1, &["a"]), house.enter(2, &["a"]));
    house.read(one);
    house.read(two);
    let udp: SocketAddr = "[::ffff:198.51.100.7]:4500".parse().unwrap();
    assert!(house.hall.handle_udp(two, udp));
    house.hall.handle_rtt(one, ms(20));
    house.hall.handle_rtt(two, ms(80));
    house.send(one, ToRelay::Meet { peer: key(2) });
    house.send(two, ToRelay::Meet { peer: key(1) });
    let [Seen::Introduction { peer, udp, tcp, id, start_in_ms }] = house.read(one)[..] else { panic!("one introduction") };
    let expected = Some("198.51.100.7:4500".parse().unwrap());
    assert_eq!((peer, udp, tcp, start_in_ms), (2, expected, address(2), 50), "40 ms to the other and 20 in hand, 10 on the way");
    let other = Seen::Introduction { peer: 1, udp: None, tcp: address(1), id, start_in_ms: 20 };
    assert_eq!(house.read(two), [other]);
    let counters = house.hall.counters();
    assert_eq!((counters.introductions, counters.introductions_repeated, counters.udp_learned), (1, 1, 1));
    house.pass(ms(1000));
    house.send(two, ToRelay::Meet { peer: key(1) });
    assert_eq!((house.read(one).len(), house.read(two).len()), (1, 1), "later they are introduced again");
}

#[test]
fn each_connection_has_a_key_for_stun_and_an_address_of_each_ip_version() {
    let mut house = house();
    let one = house.enter(1, &["a"]);
    let first = house.stun_key(one);
    assert_eq!(house.hall.stun_key_of(one), Some(first));
    let v6: SocketAddr = "[2001:db8::9]:4500".parse().unwrap();
    assert!([address(9), v6, address(9)].into_iter().all(|at| house.hall.handle_udp(one, at)));
    assert_eq!(house.hall.counters().udp_learned, 2);
    assert_eq!(house.hall.peers_of(house.now, &room("a")).unwrap()[0].udp, [Some(address(9)), Some(v6)]);
    let two = house.enter(1, &["a"]);
    assert!(!house.hall.handle_udp(one, address(8)), "another connection has taken its place");
    let second = house.stun_key(two);
    assert!(first[..8] != second[..8] && first[8..] != second[8..]);
}

#[test]
fn peers_are_introduced_over_an_ip_version_that_both_have() {
    let mut house = house();
    let (one, two) = (house.enter(1, &["a"]), house.enter(2, &["a"]));
    let v6 = |n: u8| SocketAddr::new([0x2001, 0xdb8, 0, 0, 0, 0, 0, n.into()].into(), 4500);
    house.hall.handle_udp(one, address(1));
    house.hall.handle_udp(one, v6(1));
    for (at, told_to_one, told_to_two) in [(address(2), address(2), address(1)), (v6(2), v6(2), v6(1))] {
        house.hall.handle_udp(two, at);
        house.pass(ms(1000));
        house.send(one, ToRelay::Meet { peer: key(2) });
        let udp =
            |seen: &[Seen]| seen.iter().find_map(|seen| if let Seen::Introduction { udp, .. } = seen { *udp } else { None });
        assert_eq!([udp(&house.read(one)), udp(&house.read(two))], [Some(told_to_one), Some(told_to_two)]);
    }
}

#[test]
fn that_a_peer_went_direct_is_told_once_and_counted() {
    let mut house = house();
    let [one, two] = pair(&mut house);
    let direct = |house: &mut House, on| house.send(one, ToRelay::Direct { peer: key(2), on });
    [false, true, true].into_iter().for_each(|on| direct(&mut house, on));
    assert_eq!(house.read(two), [Seen::PeerDirect(1, true)]);
    assert_eq!(house.hall.peers_of(house.now, &room("a")).unwrap()[0].direct, 1);
    direct(&mut house, false);
    assert_eq!(house.read(two), [Seen::PeerDirect(1, false)]);
    direct(&mut house, true);
    house.leave(two);
    assert_eq!(house.hall.peers_of(house.now, &room("a")).unwrap()[0].direct, 0, "who is gone is not reached");
    assert_eq!((house.hall.counters().went_direct, house.hall.counters().came_back), (2, 1));
}

#[test]
fn pings_are_answered_and_keep_a_client() {
    let mut house = house();
    let [one, two] = pair(&mut house);
    house.pass(ms(299_000));
    house.send(one, ToRelay::Ping { id: 7 });
    assert_eq!(house.read(one), [Seen::Pong(7)]);
    house.events();
    house.pass(ms(1000));
    assert_eq!(house.events(), [Event::Abort(two), Event::Wake(one)]);
    assert_eq!((house.read(one), house.read_all(two)), (vec![left("a", 2, LeftReason::IDLE)], (vec![], Some(LeftReason::IDLE))));
    house.leave(two);
    house.pass(ms(298_000));
    house.hall.handle_heard(house.now, one);
    house.pass(ms(299_000));
    assert_eq!(house.hall.gauges().clients, 1, "an answer to a ping of the WebSocket counts as well");
    house.pass(ms(1000));
    assert_eq!((house.hall.gauges().clients, house.hall.counters().left_idle), (0, 2));
}

#[test]
fn who_sends_what_is_no_record_is_closed() {
    let mut house = house();
    let [one, two] = pair(&mut house);
    let House { hall, now, dice } = &mut house;
    hall.handle_message(*now, one, &[0x77, 1, 2], dice);
    assert_eq!(hall.counters().records_unknown, 1, "what a newer client says is left alone");
    hall.handle_message(*now, one, &[2, 1, 2], dice);
    assert_eq!(house.events(), [Event::Wake(one), Event::Wake(two)]);
    assert_eq!(house.read_all(one), (vec![], Some(LeftReason::FAULT)));
    assert_eq!(house.read(two), [left("a", 1, LeftReason::FAULT)]);
    assert_eq!((house.hall.counters().records_malformed, house.hall.counters().left_fault), (1, 1));
}

#[test]
fn a_slow_reader_loses_old_data_and_slows_nobody() {
    let mut house = house();
    let [one, slow] = pair(&mut house);
    let quick = house.enter(3, &["a"]);
    [one, slow, quick].iter().for_each(|conn| drop(house.read(*conn)));
    for n in 0..50u8 {
        house.data(one, 2, &[n; 1000]);
        house.data(one, 3, &[n; 1000]);
        assert_eq!(house.read(quick), [Seen::Deliver(1, Kind::Esp, vec![n; 1000])]);
        house.pass(ms(10));
    }
    let kept: Vec<_> = house.read(slow);
    assert_eq!(kept.len(), 10, "a tenth of a second");
    assert_eq!(kept.last(), Some(&Seen::Deliver(1, Kind::Esp, vec![49; 1000])));
    assert_eq!(house.hall.counters().dropped_data_late, 40);
    let of_slow = house.hall.peers_of(house.now, &room("a")).unwrap()[1].counts.dropped;
    assert_eq!(of_slow, Dropped { data_late: 40, ..Dropped::default() });
}

#[test]
fn data_to_many_who_do_not_read_is_bounded_over_all() {
    let mut house = House::new(Settings { train_bytes_of_all: 200_000, ..Settings::default() });
    let conns: Vec<_> = (0..20).map(|n| house.enter(n, &["a"])).collect();
    (0..10u8).for_each(|n| house.data(conns[0], 10 + n, &[0; 60_000]));
    house.check();
    assert_eq!(house.hall.counters().dropped_memory, 7);
    house.now += ms(101);
    house.data(conns[0], 1, &[0; 60_000]);
    assert_eq!(house.hall.counters().dropped_memory, 7, "what is too old makes room at once");
    assert_eq!(house.hall.counters().dropped_data_late, 3);
    house.check();
}

#[test]
fn who_does_not_read_the_answers_to_itself_is_given_up() {
    let queue = Bounds { control_bytes: 2000, ..Bounds::default() };
    let mut house = House::new(Settings { queue, ..Settings::default() });
    let [_, slow] = pair(&mut house);
    (0..20).for_each(|id| house.send(slow, ToRelay::Ping { id }));
    assert!(house.events().contains(&Event::Abort(slow)));
    assert_eq!(house.read_all(slow), (vec![], Some(LeftReason::SLOW)));
    assert_eq!((house.hall.counters().left_slow, house.hall.gauges().clients), (1, 1));
    house.check();
}

#[test]
fn what_the_relay_says_may_wait_for_half_a_minute() {
    let mut house = house();
    let [one, two] = pair(&mut house);
    house.send(one, ToRelay::Ping { id: 1 });
    house.events();
    house.pass(ms(29_000));
    assert_eq!(house.events(), []);
    house.pass(ms(2000));
    assert_eq!(house.events(), [Event::Abort(one), Event::Wake(two)]);
    assert_eq!(house.read(two), [left("a", 1, LeftReason::SLOW)]);
}

#[test]
fn where_all_that_the_relay_says_is_too_much_the_slowest_goes() {
    let settings = Settings { control_bytes_of_all: 8000, ..Settings::default() };
    let mut house = House::new(settings);
    let conns: Vec<_> = (1..=5).map(|n| house.enter(n, &["a"])).collect();
    conns[1..].iter().for_each(|conn| drop(house.read(*conn)));
    house.events();
    for n in 0..100 {
        house.send(conns[0], ToRelay::Ping { id: n });
        house.check();
    }
    assert_eq!(house.hall.counters().left_slow, 1);
    assert!(house.events().contains(&Event::Abort(conns[0])));
    assert_eq!(house.hall.gauges().clients, 4);
}

#[test]
fn each_quota_is_refused_by_its_name() {
    let cases: [(Settings, Quota, Kind); 5] = [
        (Settings { records: Rate::per_second(2), ..Settings::default() }, Quota::RECORDS, Kind::Esp),
        (Settings { bytes: Rate::per_second(100), ..Settings::default() }, Quota::BYTES, Kind::Esp),
        (Settings { ike_bytes: Rate::per_second(100), ..Settings::default() }, Quota::IKE, Kind::Ike),
        (Settings { room_bytes: Rate::per_second(100), ..Settings::default() }, Quota::ROOM, Kind::Esp),
        (Settings { total_bytes: Rate::per_second(100), ..Settings::default() }, Quota::TOTAL, Kind::Esp),
    ];
    for (settings, quota, kind) in cases {
        let mut house = House::new(settings);
        let [one, two] = pair(&mut house);
        let payload = [0; 50];
        let send = |house: &mut House| house.send(one, ToRelay::Send { to: key(2), train: train(kind, &payload) });
        (0..10).for_each(|_| send(&mut house));
        assert_eq!((house.read(one), house.read(two).len()), (vec![Seen::Refused(quota)], 2), "{quota}");
        let refused: u64 = house.hall.counters().iter().filter(|(name, ..)| name.starts_with("refused_")).map(|(.., n)| n).sum();
        assert_eq!(refused, 8, "{quota}");
        house.pass(ms(1000));
        send(&mut house);
        assert_eq!(house.read(two).len(), 1, "later there is more of {quota}");
    }
}

#[test]
fn requests_that_concern_others_have_a_share_of_their_own() {
    let mut house = House::new(Settings { requests: Rate::per_second(3), ..Settings::default() });
    let [one, two] = pair(&mut house);
    (0..10).for_each(|n| house.send(one, ToRelay::Direct { peer: key(2), on: n % 2 == 0 }));
    assert_eq!((house.read(one), house.read(two).len()), (vec![Seen::Refused(Quota::REQUESTS)], 1));
    assert_eq!(house.hall.counters().refused_requests, 7);
    house.data(one, 2, b"data");
    assert_eq!(house.read(two).len(), 1, "data has its own");
}

#[test]
fn clients_are_sent_away_one_after_the_other() {
    let mut house = house();
    let conns: Vec<_> = (0..100).map(|n| house.enter(n, &["a"])).collect();
    conns.iter().for_each(|conn| drop(house.read(*conn)));
    let to = vec!["relay.example:443".parse().unwrap()];
    let farewell = Farewell { after: ms(1000), spread: ms(10_000), try_for: ms(60_000), to, closes: false };
    house.hall.drain(house.now, &farewell, &mut house.dice);
    let mut times: Vec<u32> = Vec::new();
    for conn in &conns {
        let [Seen::Drain(back_ms, 1)] = house.read(*conn)[..] else { panic!("one farewell") };
        times.push(back_ms);
    }
    times.sort_unstable();
    for (at, time) in times.into_iter().enumerate() {
        let from = 1000 + at as u32 * 100;
        assert!((from..=from + 100).contains(&time), "{time} of number {at}");
    }
    assert_eq!(house.try_enter(200, &["a"]), Err(NotLetIn::Draining));
    house.hall.disconnect(house.now, conns[0], LeftReason::DRAINED);
    assert_eq!(house.read(conns[1]), [left("a", 0, LeftReason::DRAINED)]);
    assert_eq!((house.hall.counters().left_drained, house.hall.counters().turned_away_draining), (1, 1));
}

#[test]
fn an_empty_house_needs_no_clock() {
    let mut house = house();
    assert_eq!(house.hall.poll_timeout(), None);
    let one = house.enter(1, &["a"]);
    assert_eq!(house.hall.poll_timeout(), Some(house.now + ms(1000)));
    house.leave(one);
    house.pass(ms(24 * 3_600_000 + 2000));
    assert_eq!(house.hall.poll_timeout(), None, "when it is not known any more who was there, either");
    assert_eq!(house.hall.poll_transmit(house.now, one), Transmit::Close(LeftReason::GONE));
    house.leave(one);
    house.check();
}
