//! The search for the largest packet against paths that change under it.

use proptest::prelude::*;

use super::*;
use crate::testing::instant;

/// A path of virtual time: what it carries changes, and some is lost.
struct Line {
    mtu: Mtu,
    now: Instant,
    rtt: Duration,
    carries: u16,
    /// Of a thousand.
    loss: u64,
    random: u64,
    next_id: u64,
    flying: Vec<(Instant, u64)>,
    echoes: u64,
}

impl Line {
    fn new(mtu: Mtu, carries: u16, rtt_ms: u64) -> Line {
        let now = instant();
        Line {
            mtu,
            now,
            rtt: Duration::from_millis(rtt_ms),
            carries,
            loss: 0,
            random: 7,
            next_id: 1,
            flying: Vec::new(),
            echoes: 0,
        }
    }

    fn chance(&mut self) -> u64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % 1000
    }

    fn run(&mut self, time: Duration, active: bool) {
        let end = self.now + time;
        for _ in 0..1_000_000 {
            if active {
                self.mtu.is_active(self.now);
            }
            for size in self.mtu.due(self.now) {
                self.mtu.sent(self.now, self.next_id, size);
                self.echoes += 1;
                if size <= self.carries && self.chance() >= self.loss {
                    self.flying.push((self.now + self.rtt, self.next_id));
                }
                self.next_id += 1;
            }
            let arrival = self.flying.iter().map(|(at, _)| *at).min();
            let due = self.mtu.deadline().unwrap_or(self.now);
            let next = arrival.map_or(due, |at| at.min(due)).max(self.now);
            if next > end {
                self.now = end;
                return;
            }
            self.now = next;
            let (here, flying): (Vec<_>, Vec<_>) = self.flying.drain(..).partition(|(at, _)| *at <= next);
            self.flying = flying;
            for (_, id) in here {
                self.mtu.answered(next, id, self.rtt);
            }
        }
        panic!("it never rests");
    }
}

fn line(carries: u16) -> Line {
    Line::new(Mtu::new(false, [Some(1500); 2], None, true), carries, 20)
}

#[test]
fn until_an_echo_is_answered_little_is_sent() {
    let mut line = line(0);
    for _ in 0..5 {
        line.run(Duration::from_secs(10), true);
        assert_eq!((line.mtu.size(), line.mtu.proven(), line.mtu.black_holes), (1100, None, 0));
    }
    assert!(line.echoes < 200, "a dead path is asked ever more rarely: {}", line.echoes);
    assert_eq!(Mtu::new(true, [Some(1500); 2], None, true).size(), 1280);
}

#[test]
fn the_first_echoes_are_as_long_as_the_route_says_1280_and_the_least() {
    for (v6, sizes) in [(false, &[1340, 1280, 1100][..]), (true, &[1340, 1280])] {
        assert_eq!(Mtu::new(v6, [Some(1340), Some(1500)], None, true).due(instant()), sizes, "IPv6: {v6}");
    }
}

#[test]
fn a_whole_path_is_known_after_one_round_trip() {
    let mut line = line(1500);
    // Hosts must not remember what is only not known yet.
    assert_eq!((line.mtu.size(), line.mtu.reported()), (1100, 1500));
    line.run(Duration::from_millis(25), false);
    assert_eq!((line.mtu.size(), line.mtu.reported()), (1500, 1500));
}

#[test]
fn hosts_are_told_what_passes_within_half_a_second() {
    for carries in [1280, 1400, 1452, 1492] {
        let mut line = line(carries);
        line.run(Duration::from_millis(550), true);
        assert_eq!((line.mtu.reported(), line.mtu.size()), (carries, carries));
        line.run(Duration::from_secs(10), true);
        assert_eq!(line.mtu.reported(), carries, "and that stays");
    }
    // It is no likely one: what is told never shrinks again.
    let (mut line, mut reported) = (line(1337), 0);
    for _ in 0..100 {
        line.run(Duration::from_millis(100), true);
        if line.now >= instant() + Duration::from_millis(550) {
            assert!((reported..=1337).contains(&line.mtu.reported()), "{} after {reported}", line.mtu.reported());
            reported = line.mtu.reported();
        }
    }
    assert!(reported + GRAIN >= 1337, "{reported}");
}

#[test]
fn what_was_proven_before_does_not_keep_hosts_waiting_for_the_truth() {
    for (proven, carries) in [(1280, 1280), (1280, 1400), (1280, 1500), (1400, 1280), (1480, 1100), (1100, 1492)] {
        let mut line = Line::new(Mtu::new(false, [Some(1500); 2], Some(proven), true), carries, 20);
        line.run(Duration::from_millis(600), true);
        assert_eq!((line.mtu.reported(), line.mtu.size()), (carries, carries), "{proven} was proven before");
    }
}

#[test]
fn who_is_given_a_head_start_is_asked_a_little_later_and_only_once() {
    let (mut mtu, now) = (Mtu::new(false, [Some(1500); 2], None, true), instant());
    mtu.give_head_start(now);
    assert_eq!((mtu.due(now), mtu.deadline()), (Vec::new(), Some(now + HEAD_START)));
    mtu.give_head_start(now + HEAD_START / 2);
    assert_eq!(mtu.due(now + HEAD_START), [1500, 1280, 1100], "what is planned stays");
    mtu.give_head_start(now + HEAD_START);
    assert!(mtu.deadline() > Some(now + HEAD_START * 2), "it is under way");
}

#[test]
fn what_was_proven_before_is_tried_first() {
    let mut line = Line::new(Mtu::new(false, [Some(9000); 2], Some(4000), true), 4000, 50);
    line.run(Duration::from_millis(60), false);
    assert_eq!(line.mtu.size(), 4000);
}

#[test]
fn a_black_hole_is_noticed_within_two_seconds() {
    for (carries, rtt) in [1100, 1280, 1400, 1492].into_iter().flat_map(|carries| [2, 20, 200, 400].map(|rtt| (carries, rtt))) {
        // It begins at any moment between two echoes.
        for offset in (0..500).step_by(50) {
            let mut line = Line::new(Mtu::new(false, [Some(1500); 2], None, true), 1500, rtt);
            line.run(Duration::from_millis(30_000 + offset), true);
            assert_eq!(line.mtu.size(), 1500);
            line.carries = carries;
            line.run(Duration::from_secs(2), true);
            assert_eq!(line.mtu.black_holes, 1, "{carries}, round trips of {rtt} ms, from {offset} ms on");
            if rtt == 20 {
                assert_eq!((line.mtu.size(), line.mtu.reported()), (carries, carries), "and hosts are told");
            }
            line.run(Duration::from_secs(30), true);
            assert!(line.mtu.size() + GRAIN >= carries && line.mtu.size() <= carries, "{carries}: {}", line.mtu.size());
        }
    }
}

#[test]
fn a_black_hole_far_away_takes_two_and_a_half_round_trips_and_a_second() {
    for (carries, rtt) in [1100, 1280, 1400, 1492].into_iter().flat_map(|carries| [500, 700, 1000].map(|rtt| (carries, rtt))) {
        for offset in (0..1000).step_by(50) {
            let mut line = Line::new(Mtu::new(false, [Some(1500); 2], None, true), 1500, rtt);
            line.run(Duration::from_millis(30_000 + offset), true);
            assert_eq!((line.mtu.size(), line.mtu.black_holes), (1500, 0));
            line.carries = carries;
            line.run(Duration::from_millis(1000 + rtt * 5 / 2), true);
            assert_eq!(line.mtu.black_holes, 1, "{carries}, round trips of {rtt} ms, from {offset} ms on");
            line.run(Duration::from_secs(30), true);
            assert!(line.mtu.size() + GRAIN >= carries && line.mtu.size() <= carries, "{carries}: {}", line.mtu.size());
        }
    }
}

#[test]
fn without_traffic_a_black_hole_is_noticed_half_a_minute_later() {
    for (carries, rtt) in [1100, 1400].into_iter().flat_map(|carries| [2, 20, 400, 1000].map(|rtt| (carries, rtt))) {
        // An echo in half a minute, and then the same suspicion as beside traffic.
        let suspicion = Duration::from_millis((500 + rtt * 5 / 2).max(1500));
        for offset in (0..30_000).step_by(1500) {
            let mut line = Line::new(Mtu::new(false, [Some(1500); 2], None, true), 1500, rtt);
            line.run(Duration::from_millis(60_000 + offset), false);
            assert_eq!((line.mtu.size(), line.mtu.black_holes), (1500, 0));
            line.carries = carries;
            line.run(Duration::from_secs(30) + suspicion, false);
            assert_eq!(line.mtu.black_holes, 1, "{carries}, round trips of {rtt} ms, from {offset} ms on");
        }
    }
}

#[test]
fn a_way_that_becomes_much_longer_is_neither_silent_nor_a_black_hole() {
    for rtt in [300, 700, 1000] {
        let mut line = line(1500);
        line.run(Duration::from_secs(30), true);
        line.mtu.watch(true);
        line.rtt = Duration::from_millis(rtt);
        for _ in 0..100 {
            line.run(Duration::from_millis(100), true);
            assert!(!line.mtu.is_silent(), "{rtt}");
        }
        assert_eq!((line.mtu.size(), line.mtu.black_holes), (1500, 0), "{rtt}");
    }
}

#[test]
fn a_path_that_is_dead_is_no_black_hole() {
    let mut line = line(1500);
    line.run(Duration::from_secs(30), true);
    line.carries = 0;
    line.run(Duration::from_secs(60), true);
    assert_eq!((line.mtu.size(), line.mtu.black_holes), (1500, 0));
}

#[test]
fn loss_alone_is_no_black_hole() {
    let mut line = line(1500);
    line.loss = 50;
    line.run(Duration::from_secs(3600), true);
    assert_eq!((line.mtu.size(), line.mtu.black_holes), (1500, 0));
}

#[test]
fn loss_is_known_beside_traffic_and_a_black_hole_is_none() {
    for (loss, most) in [(0, 0), (250, 32)] {
        let mut line = line(1500);
        line.run(Duration::from_secs(10), true);
        line.loss = loss;
        line.run(Duration::from_secs(300), true);
        let (lost, of) = line.mtu.loss().unwrap();
        assert!(of == 64 && (loss / 32..=most).contains(&lost.into()), "{lost} of {of} at {loss} of 1000");
        line.loss = 0;
        line.carries = 1280;
        line.run(Duration::from_secs(60), true);
        assert_eq!((line.mtu.black_holes, line.mtu.loss().map(|(lost, _)| lost)), (1, Some(0)));
    }
}

#[test]
fn a_path_that_carries_more_again_is_used_again() {
    let mut line = line(1400);
    line.run(Duration::from_secs(10), false);
    assert_eq!(line.mtu.size(), 1400);
    line.carries = 1500;
    line.run(Duration::from_secs(700), false);
    assert_eq!(line.mtu.size(), 1500);
}

#[test]
fn echoes_lost_now_and_then_do_not_put_off_that_more_is_tried() {
    let mut line = line(1400);
    line.run(Duration::from_secs(10), true);
    assert_eq!(line.mtu.size(), 1400);
    line.carries = 1500;
    // Beside traffic that is one in half a minute, or all of them for a while.
    line.loss = 20;
    line.run(Duration::from_secs(300), true);
    line.loss = 1000;
    line.run(Duration::from_secs(60), true);
    line.loss = 20;
    line.run(Duration::from_secs(300), true);
    assert_eq!((line.mtu.size(), line.mtu.black_holes), (1500, 0));
}

#[test]
fn the_route_bounds_it_at_once_and_opens_it_again() {
    let mut line = line(1500);
    line.run(Duration::from_secs(5), false);
    line.mtu.set_route(line.now, Some(1300), Some(1300));
    assert_eq!(line.mtu.size(), 1300);
    line.mtu.set_route(line.now, Some(1500), Some(1500));
    line.run(Duration::from_secs(5), false);
    assert_eq!(line.mtu.size(), 1500);
}

#[test]
fn towards_peers_without_echoes_link_and_routers_are_believed() {
    // What the kernel has heard, from whomever, is 600.
    let mut mtu = Mtu::new(false, [Some(600), Some(1500)], None, false);
    let now = instant();
    assert_eq!((mtu.size(), mtu.deadline(), mtu.due(now)), (1500, None, Vec::new()));
    assert!(mtu.too_big(now, 1380));
    assert_eq!(mtu.size(), 1380);
    assert!(!mtu.too_big(now, 1400), "nobody makes it larger so");
    assert!(mtu.too_big(now, 68));
    assert_eq!(mtu.size(), 576);
    let old = mtu.deadline().unwrap();
    assert!(old - now >= Duration::from_secs(300), "RFC 8201 section 4 asks for five minutes at least");
    mtu.forget_routers(old - Duration::from_secs(1));
    assert_eq!(mtu.size(), 576);
    mtu.forget_routers(old);
    assert_eq!((mtu.size(), mtu.deadline()), (1500, None));
    assert!(mtu.too_big(old, 1380));
    mtu.set_route(old, Some(600), Some(1400));
    assert_eq!((mtu.size(), mtu.deadline()), (1400, None), "another link is another way");
    let mut v6 = Mtu::new(true, [Some(1500); 2], None, false);
    assert!(v6.too_big(now, 68));
    assert_eq!(v6.size(), 1280);
}

#[test]
fn a_silent_tunnel_costs_little() {
    let mut line = line(1500);
    line.run(Duration::from_secs(5), false);
    let before = line.echoes;
    line.run(Duration::from_secs(3600), false);
    assert!(line.echoes - before <= 130, "{} echoes in an hour", line.echoes - before);
}

proptest! {
    /// Whatever a path carries, it is found, and never more than it carries is believed for long.
    #[test]
    fn every_size_is_found(carries in 1100_u16..9217, route in 1100_u16..=9216, rtt in 1_u64..600, loss in 0_u64..20) {
        let mut line = Line::new(Mtu::new(false, [Some(route); 2], None, true), carries, rtt);
        line.loss = loss;
        line.run(Duration::from_secs(300), true);
        let most = carries.min(route);
        prop_assert!(line.mtu.size() <= most, "{} of {most}", line.mtu.size());
        if loss == 0 {
            prop_assert!(line.mtu.size() + GRAIN >= most, "{} of {most}", line.mtu.size());
        }
    }
}

proptest! {
    /// Hosts are told more than passes for a moment only: at a begin, whatever is remembered, and when a path shrinks.
    #[test]
    fn hosts_are_not_told_for_long_what_does_not_pass(
        carries in 1100_u16..2000,
        later in 1100_u16..2000,
        link in 1280_u16..2000,
        proven in proptest::option::of(1100_u16..2000),
        rtt in 1_u64..60,
    ) {
        let mut line = Line::new(Mtu::new(false, [Some(link); 2], proven, true), carries, rtt);
        line.run(Duration::from_millis(800), true);
        for carries in [carries, carries.min(later)] {
            line.carries = carries;
            line.run(Duration::from_millis(2200), true);
            for _ in 0..20 {
                line.run(Duration::from_millis(100), true);
                prop_assert!(line.mtu.reported() <= carries.min(link), "{} of {carries}", line.mtu.reported());
            }
        }
    }
}

#[test]
fn what_routers_say_is_where_the_search_begins_and_no_bound() {
    // Somebody forged it: the path carries more.
    let mut line = Line::new(Mtu::new(false, [Some(576), Some(1500)], None, true), 1500, 20);
    assert_eq!(line.mtu.reported(), 1500);
    line.run(Duration::from_secs(5), true);
    assert_eq!(line.mtu.size(), 1500);
    line.mtu.set_route(line.now, Some(600), Some(1500));
    line.run(Duration::from_secs(5), true);
    assert_eq!((line.mtu.size(), line.mtu.black_holes), (1500, 0));
    assert_eq!(Mtu::new(false, [Some(100); 2], None, false).size(), 576);
}

#[test]
fn what_must_arrive_is_no_longer_than_what_is_known() {
    assert_eq!([None, Some(1500), Some(1000), Some(100)].map(|route| sure(false, route, 0)), [1100, 1100, 1000, 576]);
    assert_eq!([None, Some(1500), Some(1000), Some(100)].map(|route| sure(false, route, 1280)), [1280, 1280, 1000, 576]);
    assert_eq!([None, Some(1500), Some(1000)].map(|route| sure(true, route, 0)), [1280; 3]);
    for echoes in [false, true] {
        let path = |route| Mtu::new(false, [Some(route), Some(1500)], None, echoes).sure(0);
        assert_eq!([1500, 1000].map(path), [1100, 1000], "with echoes: {echoes}");
    }
    let mut mtu = Mtu::new(false, [Some(1500); 2], None, true);
    let now = instant();
    let sizes = mtu.due(now);
    assert!(sizes.contains(&1500));
    mtu.sent(now, 1, 1500);
    assert!(mtu.answered(now, 1, Duration::from_millis(1)));
    assert_eq!(mtu.sure(0), 1500, "proven");
}

#[test]
fn echoes_that_a_peer_answers_only_later_begin_the_search() {
    let mut line = Line::new(Mtu::new(false, [Some(1500); 2], None, false), 1400, 20);
    assert_eq!((line.mtu.size(), line.mtu.reported(), line.mtu.due(line.now)), (1500, 1500, Vec::new()));
    line.mtu.set_echoes(true);
    assert_eq!((line.mtu.size(), line.mtu.reported()), (1100, 1500));
    line.run(Duration::from_secs(10), true);
    assert_eq!((line.mtu.size(), line.mtu.reported(), line.mtu.proven()), (1400, 1400, Some(1400)));
    line.mtu.set_echoes(true);
    assert_eq!(line.mtu.size(), 1400, "that is no news");
    line.mtu.set_echoes(false);
    assert_eq!((line.mtu.size(), line.mtu.reported(), line.mtu.deadline()), (1500, 1500, None));
}

#[test]
fn traffic_brings_the_next_look_forward_and_does_not_put_it_off() {
    let mut line = line(1500);
    line.run(Duration::from_secs(45), false);
    let (now, planned) = (line.now, line.mtu.deadline().expect("a time"));
    let soon = now + CONFIRM_ACTIVE;
    assert!(planned > soon, "without traffic there is no hurry");
    for after in [0, 100, 200] {
        line.mtu.is_active(now + Duration::from_millis(after));
        assert_eq!(line.mtu.deadline(), Some(soon));
    }
}

#[test]
fn what_is_in_use_is_confirmed_as_often_as_it_matters() {
    let echoes_in_an_hour = |carries: u16, watched: bool| {
        let mut line = line(carries);
        line.mtu.watch(watched);
        line.run(Duration::from_secs(60), false);
        let before = line.echoes;
        line.run(Duration::from_secs(540), false);
        line.echoes - before
    };
    assert_eq!(echoes_in_an_hour(1100, false), 0, "what every path carries");
    for carries in [1100, 1500] {
        let watched = echoes_in_an_hour(carries, true);
        assert!((100..=108).contains(&watched), "where there is another way: {watched}");
    }
    let idle = echoes_in_an_hour(1500, false);
    assert!((16..=18).contains(&idle), "{idle}");
}

#[test]
fn an_answer_may_take_longer_than_a_round_but_not_for_ever() {
    for (rtt, found) in [(290, true), (500, true), (850, true), (1900, true), (4000, false)] {
        let mut line = Line::new(Mtu::new(false, [Some(1500); 2], None, true), 1500, rtt);
        line.run(Duration::from_millis(rtt + 50), false);
        assert_eq!(line.mtu.size() == 1500, found, "{rtt} ms");
    }
}

#[test]
fn a_peer_that_is_silent_is_one_that_answers_nothing_at_all() {
    let mut line = line(1500);
    assert!(!line.mtu.is_silent(), "nobody was asked");
    line.run(Duration::from_secs(60), true);
    assert!(!line.mtu.is_silent());
    line.carries = 1100;
    line.run(Duration::from_secs(10), true);
    assert!(!line.mtu.is_silent() && line.mtu.black_holes == 1);
    line.carries = 1500;
    line.run(Duration::from_secs(700), true);
    assert_eq!(line.mtu.size(), 1500);
    line.carries = 0;
    line.run(Duration::from_secs(5), true);
    assert!(line.mtu.is_silent() && line.mtu.size() == 1500);
    line.carries = 1500;
    line.run(Duration::from_secs(5), true);
    assert!(!line.mtu.is_silent());
}
