//! Those who want more than their part, or to keep others from theirs.

use adit_proto::relay::{Kind, ToRelay};

use super::super::*;
use super::house::{House, Seen, address, key, room, train};
use super::{joined, left, ms, pair};
use crate::login::Pass;
use crate::quotas::Rate;

fn house() -> House {
    House::new(Settings::default())
}

/// Somewhere in a network of this number.
fn network(n: u8) -> SocketAddr {
    SocketAddr::from(([198, 51, n, 1], 1000))
}

fn listed(name: &str) -> Pass {
    Pass { listed: vec![room(name)], ..Pass::default() }
}

#[test]
fn who_goes_back_and_forth_at_a_slow_reader_does_not_throw_it_out() {
    let mut house = house();
    let slow = house.enter(0, &["a"]);
    let crowd: Vec<_> = (1..=25).map(|n| house.enter(n, &["a"])).collect();
    house.read(slow);
    let before = house.hall.gauges().control_bytes;
    for round in 0..2000 {
        for conn in &crowd {
            house.send(*conn, ToRelay::Direct { peer: key(0), on: round % 2 == 0 });
        }
        house.send(crowd[0], ToRelay::Meet { peer: key(0) });
    }
    let of_slow = house.hall.gauges().control_bytes.saturating_sub(before);
    assert!(of_slow < 16_000, "{of_slow} bytes wait");
    house.read(crowd[0]);
    let seen = house.read(slow);
    assert_eq!(seen.iter().filter(|seen| matches!(seen, Seen::PeerDirect(_, false))).count(), 25);
    assert_eq!((seen.len(), house.hall.counters().left_slow), (26, 0));
    house.check();
}

#[test]
fn who_comes_and_goes_all_the_time_costs_a_slow_reader_one_line() {
    let mut house = house();
    let [one, slow] = pair(&mut house);
    for _ in 0..500 {
        let guest = house.enter(3, &["a"]);
        house.leave(guest);
        house.read(one);
    }
    house.enter(3, &["a"]);
    assert_eq!(house.read(slow), [joined("a", 3)]);
    house.check();
}

#[test]
fn a_flood_of_ike_by_one_peer_leaves_the_others_their_part() {
    let mut house = House::new(Settings { ike_bytes: Rate::per_second(1 << 40), ..Settings::default() });
    let receiver = house.enter(0, &["a"]);
    let honest = house.enter(1, &["a"]);
    let foes: Vec<_> = (2..12).map(|n| house.try_enter_from(network(9), n, &["a"], Pass::default()).unwrap()).collect();
    house.read(receiver);
    let mut of = [0; 2];
    // Each time as much goes out as one of them sends.
    for n in 0..300u32 {
        for foe in &foes {
            house.send(*foe, ToRelay::Send { to: key(0), train: train(Kind::Ike, &[7; 1000]) });
        }
        house.send(honest, ToRelay::Send { to: key(0), train: train(Kind::Ike, &n.to_be_bytes()) });
        house.data(honest, 0, &[n as u8; 1000]);
        for _ in 0..3 {
            let Transmit::Record(bytes) = house.hall.poll_transmit(house.now, receiver) else { panic!("there is more") };
            let seen = Seen::of(&bytes);
            of[0] += usize::from(matches!(&seen, Seen::Deliver(1, Kind::Ike, _)));
            of[1] += usize::from(matches!(&seen, Seen::Deliver(1, Kind::Esp, _)));
        }
    }
    assert!(of[0] >= 290 && of[1] >= 250, "{of:?} of 300 came through beside a flood of ten times that");
}

#[test]
fn a_room_that_is_told_much_is_told_the_rest_later() {
    let settings = Settings { room_news: Rate::per_second(9000), ..Settings::default() };
    let mut house = House::new(settings);
    let conns: Vec<_> = (0..20).map(|n| house.enter(n, &["a"])).collect();
    conns.iter().for_each(|conn| drop(house.read(*conn)));
    let described = |seen: Vec<Seen>| seen.iter().filter(|seen| matches!(seen, Seen::Described(..))).count();
    for conn in &conns[..10] {
        house.send(*conn, ToRelay::Describe { metadata: &[1; 400] });
    }
    let reader = conns[19];
    let at_once = described(house.read(reader));
    assert_eq!((at_once, house.hall.counters().descriptions_deferred), (1, 9), "one more would be too much");
    house.send(conns[5], ToRelay::Describe { metadata: &[2; 400] });
    house.pass(ms(20_000));
    let rest = house.read(reader);
    assert_eq!(rest.last(), Some(&Seen::Described("a".into(), 9, vec![1; 400])), "in the order in which it was said");
    assert!(rest.contains(&Seen::Described("a".into(), 5, vec![2; 400])), "what is true when it is told");
    assert_eq!(described(rest), 9);
    house.check();
}

#[test]
fn a_greeting_waits_as_a_list_of_names_however_long_the_descriptions_are() {
    let mut house = house();
    for n in 0..100 {
        let conn = house.enter(n, &["a"]);
        house.send(conn, ToRelay::Describe { metadata: &[n; 1024] });
        house.read(conn);
        house.hall.disconnect(house.now, conn, LeftReason::GONE);
        let conn = house.enter(n, &["a"]);
        house.send(conn, ToRelay::Describe { metadata: &[n; 1024] });
    }
    let newcomer = house.enter(200, &["a"]);
    let waits = house.hall.clients[&newcomer].queue.control_bytes();
    assert!(waits < 100 * 200 + 500, "{waits}");
    let seen = house.read(newcomer);
    assert_eq!(seen[1], Seen::Joined("a".into(), 0, vec![0; 1024]));
    assert_eq!(seen.len(), 101);
}

#[test]
fn a_room_full_of_guests_has_room_for_whom_it_lists() {
    let mut house = House::new(Settings { peers_of_room: 10, ..Settings::default() });
    let guests: Vec<_> = (0..10).map(|n| house.try_enter_from(network(n % 2), n, &["a"], Pass::default()).unwrap()).collect();
    house.read(guests[0]);
    let gateway = house.try_enter_from(network(1), 50, &["a"], listed("a"));
    assert!(gateway.is_ok(), "{gateway:?}");
    // One of a network that has most, and of those the last.
    assert_eq!(house.read_all(guests[9]).1, Some(LeftReason::DISPLACED));
    assert!(house.read(guests[0]).contains(&left("a", 9, LeftReason::DISPLACED)));
    assert_eq!(house.try_enter_from(network(0), 51, &["b"], listed("a")).map(|_| ()), Ok(()), "elsewhere there is room");
    house.leave(guests[9]);
    assert_eq!(house.hall.counters().left_displaced, 1);
    house.check();
    // Whom the room lists makes room for nobody.
    for n in 60..69 {
        house.try_enter_from(network(1), n, &["a"], listed("a")).unwrap();
    }
    assert_eq!(house.try_enter_from(network(7), 70, &["a"], listed("a")), Err(NotLetIn::Full));
    house.check();
}

#[test]
fn two_networks_that_fill_a_room_make_room_for_a_third() {
    let mut house = House::new(Settings { peers_of_room: 10, ..Settings::default() });
    for n in 0..10 {
        house.try_enter_from(network(n % 2), n, &["a"], Pass::default()).unwrap();
    }
    let honest: Vec<_> = (20..30).map(|n| house.try_enter_from(network(n), n, &["a"], Pass::default())).collect();
    // Until each of the two has no more than one more than anybody else.
    assert_eq!(honest.iter().filter(|entered| entered.is_ok()).count(), 8);
    assert_eq!(house.try_enter_from(network(0), 40, &["a"], Pass::default()), Err(NotLetIn::Full), "nor do they come back");
    house.check();
}

#[test]
fn who_fills_the_memory_with_trains_that_nobody_reads_loses_his_own() {
    let settings = Settings { train_bytes_of_all: 1_000_000, ike_bytes: Rate::per_second(1 << 40), ..Settings::default() };
    let mut house = House::new(settings);
    let (one, two) = (house.enter(1, &["a"]), house.enter(2, &["a"]));
    let foes: Vec<_> = (20..40).map(|n| house.try_enter_from(network(1), n, &["b"], Pass::default()).unwrap()).collect();
    house.read(two);
    house.data(one, 2, b"kept");
    for n in 0..200u32 {
        let to = key(20 + (n % 20) as u8);
        house.send(foes[(n as usize + 1) % 20], ToRelay::Send { to, train: train(Kind::Ike, &[0; 30_000]) });
    }
    house.data(one, 2, b"also kept");
    assert!(house.hall.counters().dropped_memory > 100);
    let kept = [b"kept".to_vec(), b"also kept".to_vec()].map(|text| Seen::Deliver(1, Kind::Esp, text));
    assert_eq!(house.read(two), kept);
    house.check();
}

#[test]
fn who_may_not_be_there_any_more_is_told_and_closed() {
    let mut house = house();
    let [one, two] = pair(&mut house);
    let other = house.enter(3, &["b"]);
    house.read(other);
    house.data(one, 2, b"too late to be read");
    let revoked =
        house.hall.review(house.now, |peer, _, pass| (*peer != key(2)).then(|| Pass { listed: vec![room("a")], ..pass.clone() }));
    assert_eq!(revoked, [(key(2), vec![room("a")])]);
    assert!(house.events().contains(&Event::Wake(two)));
    assert_eq!(house.read_all(two), (vec![], Some(LeftReason::REVOKED)));
    assert_eq!(house.read(one), [left("a", 2, LeftReason::REVOKED)]);
    house.data(two, 1, b"nobody hears it");
    assert_eq!((house.read(one), house.read_all(other)), (vec![], (vec![], None)));
    assert_eq!(house.hall.counters().left_revoked, 1);
    house.check();
}

#[test]
fn a_probe_takes_nobodys_place() {
    let mut house = house();
    let [one, two] = pair(&mut house);
    let probe = || Pass { is_probe: true, ..Pass::default() };
    assert_eq!(house.try_enter_from(address(1), 1, &["a"], probe()), Err(NotLetIn::InUse));
    assert_eq!((house.read_all(one), house.read(two)), ((vec![], None), vec![]));
    assert!(house.try_enter_from(address(3), 3, &["a"], probe()).is_ok(), "where there is nobody it comes in");
    assert_eq!(house.hall.counters().turned_away_in_use, 1);
}

/// The uplink of the relay was away: all have been silent for the same time.
#[test]
fn where_all_are_silent_at_once_nobody_is_told_of_anybody() {
    let mut house = house();
    let conns: Vec<_> = (0..200).map(|n| house.enter(n, &["a", "b"])).collect();
    conns.iter().for_each(|conn| drop(house.read(*conn)));
    house.now += ms(300_000);
    house.hall.handle_timeout(house.now);
    assert_eq!((house.hall.gauges().clients, house.hall.counters().left_idle), (0, 200));
    assert_eq!(house.hall.gauges().control_bytes, 0);
    house.check();
}

#[test]
fn where_thousands_are_silent_they_go_some_at_a_time() {
    let mut house = house();
    for n in 0..600u32 {
        let key = PeerKey([[n as u8, (n >> 8) as u8]; 16].concat().try_into().unwrap());
        let newcomer = Newcomer { key, rooms: vec![room("a")], observed: address(1), pass: Pass::default() };
        house.hall.connect(house.now, newcomer, &mut house.dice).unwrap();
    }
    house.now += ms(300_000);
    house.hall.handle_timeout(house.now);
    assert_eq!(house.hall.gauges().clients, 600 - crate::limits::GIVEN_UP_AT_ONCE);
    assert_eq!(house.hall.poll_timeout(), Some(house.now + ms(10)));
    house.pass(ms(100));
    assert_eq!(house.hall.gauges().clients, 0);
    house.check();
}
