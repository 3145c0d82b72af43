//! Paths of peers: what is judged, proven, used and forgotten.

mod mtu;

use std::collections::BTreeMap;

use super::*;
use crate::testing::instant;

const PEER: PeerId = PeerId(3);
const A: &str = "198.51.100.1:4500";
const B: &str = "198.51.100.2:4500";

/// Routes by remote address; the others are good.
#[derive(Default)]
struct Routes(BTreeMap<IpAddr, Route>);

impl Underlay for Routes {
    fn route(&mut self, local: Option<IpAddr>, remote: SocketAddr, _: u32) -> Route {
        let good = Route { reachable: true, source: local.or(Some([192, 0, 2, 1].into())), mtu: Some(1500), ..Route::default() };
        self.0.get(&remote.ip()).copied().unwrap_or(good)
    }

    fn has_stream(&mut self, _: adit_proto::control::StreamId) -> bool {
        true
    }

    fn addresses(&mut self) -> Vec<IpAddr> {
        vec![[192, 0, 2, 1].into(), [192, 0, 2, 7].into(), [10, 1, 0, 1].into()]
    }
}

struct World {
    paths: Paths,
    now: Instant,
    next: u64,
}

fn hop(remote: &str) -> Hop {
    Hop::new("192.0.2.1:4500".parse().unwrap(), remote.parse().unwrap())
}

fn came(remote: &str) -> Arrival {
    Arrival::new("192.0.2.1:4500".parse().unwrap(), remote.parse().unwrap())
}

fn terms(echo: bool, ike: bool, follow: Follow) -> Terms {
    Terms { echo, split: false, ike, follow, leads: follow == Follow::Nothing, local_fixed: false, candidates: false }
}

impl World {
    fn new(terms: Terms) -> World {
        let mut paths = Paths::new(Box::new(Routes::default()));
        paths.set_terms(PEER, terms);
        paths.establish(instant(), PEER, hop(A), true).unwrap();
        World { paths, now: instant(), next: 1 }
    }

    fn run(&mut self, time: Duration) -> Vec<PathEvent> {
        let end = self.now + time;
        let mut events = Vec::new();
        while let Some(at) = self.paths.poll_timeout().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            let next = &mut self.next;
            let mut random = |out: &mut [u8]| {
                *next += 1;
                out.copy_from_slice(&next.to_be_bytes()[8 - out.len()..]);
            };
            self.paths.handle_timeout(self.now, &mut random);
        }
        self.now = end;
        events.extend(std::iter::from_fn(|| self.paths.poll_event()));
        events
    }

    /// What was sent there, and perhaps elsewhere as well, is answered from there.
    fn answered(&mut self, remote: &str, alone: bool, in_vain: bool) -> Option<Hop> {
        self.paths.answered(self.now, PEER, Answered { hop: hop(remote), alone, in_vain })
    }

    /// The peer proves that it is there.
    fn proven(&mut self, remote: &str) {
        assert_eq!(self.answered(remote, true, false), None);
    }

    fn wishes(&mut self) -> Vec<Wish> {
        std::iter::from_fn(|| self.paths.poll_wish()).collect()
    }

    fn used(&self) -> (String, String) {
        let text = |hop: Option<Hop>| hop.map(|hop| hop.remote().to_string()).unwrap_or_default();
        (text(self.paths.ike_hop(PEER)), text(self.paths.esp_hop(PEER)))
    }
}

fn both(remote: &str) -> (String, String) {
    (remote.to_owned(), remote.to_owned())
}

#[test]
fn a_peer_moves_only_once_it_has_answered_from_there() {
    let mut world = World::new(terms(false, true, Follow::Both));
    world.run(Duration::ZERO);
    world.paths.handle_path_seen(world.now, PEER, came(B), 100);
    assert_eq!(world.run(Duration::from_millis(100)), [], "nothing moves before");
    assert_eq!(world.wishes(), [Wish::Prove { peer: PEER, hop: hop(B) }]);
    assert_eq!(world.used(), both(A));
    world.proven(B);
    assert_eq!(world.used(), both(B));
    let path = world.paths.find(PEER, hop(B)).unwrap();
    let set = PathEvent::Set { peer: PEER, path, hop: hop(B), mtu: 1500, mtu_reported: 1500, encapsulate: true };
    assert_eq!(world.run(Duration::ZERO), [set, PathEvent::Use { peer: PEER, path }]);
}

#[test]
fn an_echo_from_there_is_a_proof_and_one_from_elsewhere_is_none() {
    let mut world = World::new(terms(true, false, Follow::Both));
    world.run(Duration::from_millis(10));
    world.paths.handle_path_seen(world.now, PEER, came(B), 100);
    let path = world.paths.find(PEER, hop(B)).unwrap();
    let events = world.run(Duration::from_millis(10));
    let asked = events.iter().find_map(|event| match event {
        PathEvent::Echo { path: on, id, size, .. } if *on == path => Some((*id, *size)),
        _ => None,
    });
    let (id, size) = asked.expect("an echo");
    assert!(size <= 128);
    let set = events.iter().position(|event| matches!(event, PathEvent::Set { path: on, .. } if *on == path));
    let echo = events.iter().position(|event| matches!(event, PathEvent::Echo { path: on, .. } if *on == path));
    assert!(set.expect("the path") < echo.expect("the echo"));
    let rtt = Duration::from_millis(10);
    world.paths.handle_echo_reply(world.now, PEER, id, came("203.0.113.9:4500"), rtt);
    world.paths.handle_echo_reply(world.now, PEER, id + 1000, came(B), rtt);
    assert_eq!(world.used(), both(A));
    world.paths.handle_echo_reply(world.now, PEER, id, came(B), rtt);
    assert_eq!(world.used(), both(B));
}

/// Who could guess an id would prove any address.
#[test]
fn the_id_of_each_echo_is_a_number_of_the_random_source() {
    let mut world = World::new(terms(true, false, Follow::Both));
    world.paths.handle_path_seen(world.now, PEER, came(B), 1000);
    let proof = world.paths.find(PEER, hop(B)).unwrap();
    let (mut last, mut given, mut ids) = (1_u64, BTreeSet::new(), BTreeMap::<PathId, Vec<u64>>::new());
    for _ in 0..100 {
        let at = world.paths.poll_timeout().expect("sizes are looked for again and again");
        world.now = world.now.max(at);
        // All 64 bits, and none that follow from those before in an easy way.
        let mut random = |out: &mut [u8]| {
            last = last.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            given.insert(last);
            out.copy_from_slice(&last.to_be_bytes()[8 - out.len()..]);
        };
        world.paths.handle_timeout(world.now, &mut random);
        while let Some(event) = world.paths.poll_event() {
            if let PathEvent::Echo { path, id, .. } = event {
                ids.entry(path).or_default().push(id);
            }
        }
    }
    let (proofs, sizes) = (ids.remove(&proof).unwrap_or_default(), ids.into_values().flatten().collect::<Vec<_>>());
    assert!(proofs.len() > 1 && sizes.len() > 10, "{} proofs and {} sizes", proofs.len(), sizes.len());
    // Each has one for itself.
    assert!(proofs.iter().chain(&sizes).all(|id| given.remove(id)), "{proofs:x?} {sizes:x?}");
}

#[test]
fn under_mobike_a_packet_of_esp_moves_esp_alone() {
    let mut world = World::new(terms(false, true, Follow::Esp));
    world.paths.handle_path_seen(world.now, PEER, came(B), 100);
    world.run(Duration::from_millis(10));
    world.proven(B);
    assert_eq!(world.used(), (A.to_owned(), B.to_owned()));
    let mut fixed = World::new(terms(false, true, Follow::Nothing));
    fixed.paths.handle_path_seen(fixed.now, PEER, came(B), 100);
    fixed.run(Duration::from_millis(10));
    assert_eq!((fixed.wishes(), fixed.used()), (vec![], both(A)));
}

#[test]
fn what_is_not_proven_is_given_up_and_costs_little() {
    let mut world = World::new(terms(true, true, Follow::Both));
    for n in 0..200 {
        world.paths.handle_path_seen(world.now, PEER, came(&format!("203.0.113.{n}:4500")), 100);
        assert!(world.paths.status(PEER).iter().filter(|path| !path.proven).count() <= 3);
        world.run(Duration::from_millis(5));
    }
    let asked = world.wishes().len();
    assert!(asked <= 9, "{asked} requests in a second");
    world.run(Duration::from_secs(60));
    assert_eq!(world.paths.status(PEER).len(), 1, "{:?}", world.paths.status(PEER));
    assert_eq!(world.used(), both(A));
}

#[test]
fn before_the_proof_no_more_goes_there_than_came() {
    let mut world = World::new(terms(false, true, Follow::Both));
    world.paths.candidate(world.now, PEER, hop(B), Moves::Both, 150).unwrap();
    assert!(world.paths.may_send(PEER, hop(B), 100));
    assert!(!world.paths.may_send(PEER, hop(B), 100));
    world.paths.heard(world.now, PEER, hop(B), 60);
    assert!(world.paths.may_send(PEER, hop(B), 100));
    world.run(Duration::from_millis(10));
    world.proven(B);
    assert!(world.paths.may_send(PEER, hop(B), 10_000));
}

#[test]
fn where_the_peer_said_it_is_it_is_asked_again_once_enough_came() {
    let mut world = World::new(terms(false, true, Follow::Esp));
    world.paths.candidate(world.now, PEER, hop(B), Moves::Both, 100).unwrap();
    world.run(Duration::from_secs(1));
    // The request that could prove it is longer than all that came from there.
    assert!(world.wishes().contains(&Wish::Prove { peer: PEER, hop: hop(B) }) && !world.paths.may_send(PEER, hop(B), 150));
    world.run(Duration::from_secs(30));
    assert_eq!((world.paths.unproven, world.paths.find(PEER, hop(B))), (1, None));
    world.wishes();
    // What comes from elsewhere changes nothing; what comes from there adds up.
    world.paths.heard(world.now, PEER, hop(A), 1000);
    assert_eq!(world.paths.find(PEER, hop(B)), None);
    world.paths.heard(world.now, PEER, hop(B), 80);
    world.run(Duration::from_millis(10));
    assert!(world.wishes().contains(&Wish::Prove { peer: PEER, hop: hop(B) }) && world.paths.may_send(PEER, hop(B), 150));
    world.proven(B);
    assert_eq!(world.used(), both(B));
}

#[test]
fn a_proof_that_comes_late_does_not_undo_a_newer_move() {
    let mut world = World::new(terms(false, true, Follow::Both));
    let c = "198.51.100.3:4500";
    world.paths.handle_path_seen(world.now, PEER, came(B), 100);
    world.run(Duration::from_millis(10));
    world.paths.handle_path_seen(world.now, PEER, came(c), 100);
    world.run(Duration::from_millis(10));
    world.proven(c);
    world.proven(B);
    assert_eq!(world.used(), both(c));
}

#[test]
fn where_nothing_may_go_nothing_moves_whoever_says_so() {
    let routes = [("198.51.100.2", true, false), ("198.51.100.3", false, true)].map(|(address, through_tunnel, own_address)| {
        (address.parse().unwrap(), Route { reachable: true, through_tunnel, own_address, ..Route::default() })
    });
    let mut paths = Paths::new(Box::new(Routes(routes.into())));
    let now = instant();
    paths.set_terms(PEER, terms(true, true, Follow::Both));
    for (remote, why) in [(B, Unfit::ThroughTunnel), ("198.51.100.3:4500", Unfit::OwnAddress)] {
        assert_eq!(paths.establish(now, PEER, hop(remote), true), Err(why));
        assert_eq!(paths.candidate(now, PEER, hop(remote), Moves::Both, 100), Err(why));
        assert_eq!(paths.decide(now, PEER, hop(remote)), Err(why));
        assert_eq!(paths.try_also(now, PEER, [hop(remote)]), []);
        paths.handle_path_seen(now, PEER, came(remote), 100);
        assert_eq!(paths.status(PEER), []);
    }
}

#[test]
fn where_the_peer_was_looked_for_it_is_used_once_it_answers() {
    let mut world = World::new(terms(false, true, Follow::Nothing));
    assert_eq!(world.paths.try_also(world.now, PEER, [hop(B), hop(A)]), [hop(B), hop(A)]);
    assert_eq!(world.used(), both(A));
    assert_eq!(world.answered(B, false, true), Some(hop(B)), "it is asked there alone");
    assert_eq!((world.used(), world.wishes()), (both(A), vec![]));
    world.proven(B);
    assert_eq!((world.used(), world.wishes()), (both(B), vec![Wish::Answer { peer: PEER }, Wish::Moved { peer: PEER }]));
}

#[test]
fn who_leads_tells_the_peer_when_ike_moves_and_only_then() {
    let mut world = World::new(Terms { leads: true, ..terms(true, true, Follow::Esp) });
    world.paths.handle_path_seen(world.now, PEER, came(B), 100);
    world.proven(B);
    assert_eq!((world.used(), world.wishes()), ((A.to_owned(), B.to_owned()), vec![Wish::Answer { peer: PEER }]));
    assert_eq!(world.answered(B, false, true), None);
    assert_eq!((world.used(), world.wishes()), (both(B), vec![Wish::Moved { peer: PEER }]));
}

#[test]
fn where_an_unanswered_request_is_answered_ike_goes_on() {
    let mut world = World::new(terms(false, true, Follow::Esp));
    world.paths.handle_path_seen(world.now, PEER, came(B), 100);
    world.proven(B);
    assert_eq!(world.used(), (A.to_owned(), B.to_owned()), "that was the proof for ESP");
    for (alone, in_vain) in [(true, false), (false, false)] {
        assert_eq!(world.answered(B, alone, in_vain), None);
        assert_eq!(world.used(), (A.to_owned(), B.to_owned()), "IKE does not move because it was asked there");
    }
    assert_eq!(world.answered(B, false, true), None);
    assert_eq!(world.used(), both(B), "a request of IKE had to be repeated there");
    // The same where it proved that long ago: it is asked again.
    let mut world = World::new(terms(false, true, Follow::Esp));
    world.paths.handle_path_seen(world.now, PEER, came(B), 100);
    world.proven(B);
    world.run(Duration::from_secs(30));
    assert_eq!(world.answered(B, false, true), Some(hop(B)));
    assert_eq!(world.used(), (A.to_owned(), B.to_owned()));
    world.proven(B);
    assert_eq!(world.used(), both(B));
}

#[test]
fn under_mobike_an_echo_and_a_late_answer_move_esp_alone() {
    let mut world = World::new(terms(true, true, Follow::Esp));
    world.run(Duration::from_millis(10));
    world.paths.handle_path_seen(world.now, PEER, came(B), 250);
    let path = world.paths.find(PEER, hop(B)).unwrap();
    let events = world.run(Duration::from_millis(10));
    let echo = events.iter().find_map(|event| match event {
        PathEvent::Echo { path: on, id, .. } if *on == path => Some(*id),
        _ => None,
    });
    assert!(world.wishes().contains(&Wish::Prove { peer: PEER, hop: hop(B) }), "IKE asks as well");
    world.paths.handle_echo_reply(world.now, PEER, echo.expect("an echo"), came(B), Duration::from_millis(10));
    assert_eq!(world.used(), (A.to_owned(), B.to_owned()));
    world.proven(B);
    world.run(Duration::from_secs(60));
    assert_eq!(world.used(), (A.to_owned(), B.to_owned()));
}

#[test]
fn an_answer_to_what_went_elsewhere_as_well_is_no_proof() {
    // Whoever has the keys got the request at A, and may say that it came from B.
    let mut world = World::new(terms(false, true, Follow::Both));
    world.paths.handle_path_seen(world.now, PEER, came(B), 100);
    world.run(Duration::from_millis(10));
    assert_eq!(world.answered(B, false, false), Some(hop(B)), "it is asked there alone");
    assert_eq!(world.used(), both(A));
    world.proven(B);
    assert_eq!(world.used(), both(B));
}

#[test]
fn what_is_used_for_one_thing_proves_itself_again_for_the_other_and_stays() {
    for answers in [true, false] {
        let mut world = World::new(terms(false, true, Follow::Esp));
        world.paths.handle_path_seen(world.now, PEER, came(B), 100);
        world.proven(B);
        world.run(Duration::from_secs(30));
        world.paths.candidate(world.now, PEER, hop(B), Moves::Both, 200).unwrap();
        assert_eq!(world.used(), (A.to_owned(), B.to_owned()));
        assert!(world.paths.status(PEER).iter().all(|path| path.proven) && world.paths.may_send(PEER, hop(B), 10_000));
        if answers {
            world.proven(B);
            assert_eq!(world.used(), both(B));
        } else {
            let events = world.run(Duration::from_secs(60));
            assert!(!events.iter().any(|event| matches!(event, PathEvent::Remove { .. })), "{events:?}");
            assert_eq!((world.used(), world.paths.unproven), ((A.to_owned(), B.to_owned()), 1));
        }
    }
}

#[test]
fn where_we_look_for_the_peer_goes_little_before_it_answers() {
    let c = "198.51.100.3:4500";
    let mut world = World::new(terms(false, true, Follow::Nothing));
    assert_eq!(world.paths.try_also(world.now, PEER, [hop(B)]), [hop(B)]);
    world.paths.look_there(world.now, PEER, hop(c)).unwrap();
    for there in [B, c] {
        let sent = (0..100).filter(|_| world.paths.may_send(PEER, hop(there), 120)).count() * 120;
        assert!((1200..=3000).contains(&sent), "{sent} bytes to {there}");
        // Asked once more, it is the same address.
        world.paths.try_also(world.now, PEER, [hop(there)]);
        assert!(!world.paths.may_send(PEER, hop(there), 120));
    }
    world.proven(B);
    assert!(world.paths.may_send(PEER, hop(B), 10_000));
}

#[test]
fn where_the_configuration_says_the_peer_is_it_is_once_it_answers() {
    for echo in [false, true] {
        let mut world = World::new(terms(echo, true, Follow::Both));
        world.paths.look_there(world.now, PEER, hop(B)).unwrap();
        assert_eq!(world.used(), both(A));
        world.run(Duration::from_millis(10));
        assert!(world.wishes().contains(&Wish::Prove { peer: PEER, hop: hop(B) }));
        world.run(Duration::from_secs(30));
        assert_eq!((world.used(), world.paths.find(PEER, hop(B))), (both(A), None), "nobody is there");
        world.paths.look_there(world.now, PEER, hop(B)).unwrap();
        // What still comes from where it was does not hold it there.
        world.paths.handle_path_seen(world.now, PEER, came(A), 100);
        world.run(Duration::from_millis(10));
        world.proven(B);
        assert_eq!(world.used(), both(B));
        assert!(world.wishes().contains(&Wish::Moved { peer: PEER }), "the peer is told");
    }
}

#[test]
fn an_answer_leaves_room_for_what_asks_for_a_proof() {
    let now = instant();
    let mut world = World::new(terms(false, true, Follow::Both));
    assert_eq!(world.paths.may_answer(now, PEER, hop(B), (1, 0)), None, "nothing is known of that place");
    assert_eq!(world.paths.may_answer(now, PEER, hop(A), (10_000, 0)), Some(true));
    world.paths.candidate(now, PEER, hop(B), Moves::Both, 89).unwrap();
    assert_eq!(world.paths.may_answer(now, PEER, hop(B), (89, 0)), Some(false), "first it is asked");
    assert!(world.paths.may_send(PEER, hop(B), 89) && !world.paths.receives(now, PEER, hop(B)));
    assert_eq!(world.paths.may_answer(now, PEER, hop(B), (89, 0)), Some(false));
    assert!(world.paths.credit(now, PEER, hop(B), 89));
    assert_eq!(world.paths.may_answer(now, PEER, hop(B), (89, 0)), Some(true), "it asked again");
    assert_eq!(world.paths.may_answer(now, PEER, hop(B), (1, 0)), Some(false));
    world.proven(B);
    assert!(world.paths.receives(now, PEER, hop(B)) && world.wishes().contains(&Wish::Answer { peer: PEER }));
    // What was proven long ago and is not used is not known to receive.
    world.paths.establish(now, PEER, hop(A), true).unwrap();
    assert_eq!(world.paths.may_answer(now + Duration::from_secs(30), PEER, hop(B), (1, 0)), None);
}

#[test]
fn what_comes_from_a_candidate_is_counted_once() {
    let mut world = World::new(terms(false, true, Follow::Both));
    for (round, left) in [(1, 100), (2, 200)] {
        world.paths.heard(world.now, PEER, hop(B), 100);
        world.paths.candidate(world.now, PEER, hop(B), Moves::Both, 100).unwrap();
        let counted = world.paths.peers[&PEER].iter().map(|(_, entry)| entry.credit).last();
        assert_eq!(counted, Some(left), "{round}");
    }
}

#[test]
fn our_other_addresses_are_those_that_reach_the_peer() {
    let mut world = World::new(terms(true, true, Follow::Both));
    assert_eq!(world.paths.other_addresses(hop(A)), [IpAddr::from([192, 0, 2, 7]), IpAddr::from([10, 1, 0, 1])]);
}

#[test]
fn the_peer_is_told_our_addresses_of_both_versions_of_ip() {
    struct Many(Vec<IpAddr>);
    impl Underlay for Many {
        fn route(&mut self, local: Option<IpAddr>, _: SocketAddr, _: u32) -> Route {
            Route { reachable: true, source: local, ..Route::default() }
        }

        fn has_stream(&mut self, _: adit_proto::control::StreamId) -> bool {
            true
        }

        fn addresses(&mut self) -> Vec<IpAddr> {
            self.0.clone()
        }
    }
    let addresses = |fours: u8, sixes: u8| {
        let four = (1..=fours).map(|n| IpAddr::from([192, 0, 2, n]));
        four.chain((1..=sixes.into()).map(|n| IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, n]))).collect()
    };
    let six = Hop::new("[2001:db8::1]:4500".parse().unwrap(), "[2001:db8:1::1]:4500".parse().unwrap());
    for (used, [fours, sixes], reported) in [
        (hop(A), [2, 2], [1, 2]),
        (six, [2, 2], [2, 1]),
        (hop(A), [1, 0], [0, 0]),
        (hop(A), [30, 30], [4, 4]),
        (hop(A), [30, 1], [7, 1]),
    ] {
        let own = Paths::new(Box::new(Many(addresses(fours, sixes)))).own_addresses(used);
        let number = |four: bool| own.iter().filter(|address| address.is_ipv4() == four).count();
        assert_eq!([number(true), number(false)], reported, "{own:?}");
        assert!(!own.contains(&used.udp().unwrap().local.ip()));
    }
}

#[test]
fn the_table_of_a_peer_never_holds_more_than_eight() {
    let mut world = World::new(terms(false, true, Follow::Both));
    for n in 0..50 {
        let there = hop(&format!("203.0.113.{n}:4500"));
        world.now += Duration::from_secs(1);
        world.paths.establish(world.now, PEER, there, true).unwrap();
        assert_eq!(world.paths.ike_hop(PEER), Some(there));
        assert!(world.paths.status(PEER).len() <= PATHS_MAX);
    }
}

#[test]
fn of_too_many_paths_one_that_was_silent_goes_and_none_that_is_used() {
    let mut world = World::new(terms(false, true, Follow::Nothing));
    let there = |n: usize| hop(&format!("203.0.113.{n}:4500"));
    for n in 1..PATHS_MAX {
        world.now += Duration::from_secs(1);
        world.paths.establish(world.now, PEER, there(n), true).unwrap();
    }
    // The first one in the table is in use again, and the one after it was heard of.
    world.now += Duration::from_secs(1);
    world.paths.establish(world.now, PEER, hop(A), true).unwrap();
    world.paths.heard(world.now, PEER, there(1), 100);
    for (number, gone) in [(20, there(2)), (21, there(20))] {
        world.now += Duration::from_secs(1);
        assert_eq!(world.paths.try_also(world.now, PEER, [there(number)]), [there(number)]);
        let left: Vec<Hop> = world.paths.status(PEER).iter().map(|path| path.hop).collect();
        assert_eq!((left.len(), left.contains(&gone)), (PATHS_MAX, false), "what nobody has answered from goes first");
        assert!([hop(A), there(1), there(3)].iter().all(|stays| left.contains(stays)), "{left:?}");
    }
}

#[test]
fn a_path_is_taken_at_its_word_for_half_a_minute() {
    for (silent, taken) in [(29_999, true), (30_000, false)] {
        let mut world = World::new(terms(false, true, Follow::Both));
        world.paths.establish(world.now, PEER, hop(B), true).unwrap();
        world.paths.establish(world.now, PEER, hop(A), true).unwrap();
        world.now += Duration::from_millis(silent);
        assert_eq!(world.paths.candidate(world.now, PEER, hop(B), Moves::Both, 100), Ok(()));
        assert_eq!(world.used(), both(if taken { B } else { A }), "{silent} ms");
        world.run(Duration::from_millis(1));
        assert_eq!(world.wishes().contains(&Wish::Prove { peer: PEER, hop: hop(B) }), !taken);
    }
}

#[test]
fn what_merely_came_from_there_is_no_proof_however_often() {
    // Somebody on the way sends a copy of each packet ahead, with the address where the peer was before. It asks from where it is.
    for follow in [Follow::Both, Follow::Esp] {
        let mut world = World::new(terms(false, true, follow));
        world.paths.establish(world.now, PEER, hop(B), true).unwrap();
        world.paths.establish(world.now, PEER, hop(A), true).unwrap();
        let mut misled = Vec::new();
        for second in 0..120 {
            world.paths.handle_path_seen(world.now, PEER, came(B), 200);
            world.paths.heard(world.now, PEER, hop(B), 200);
            misled.extend((world.paths.esp_hop(PEER) == Some(hop(B))).then_some(second));
            world.paths.handle_path_seen(world.now, PEER, came(A), 200);
            world.run(Duration::from_secs(1));
            if world.wishes().contains(&Wish::Prove { peer: PEER, hop: hop(A) }) {
                world.proven(A);
            }
        }
        assert!(misled.iter().all(|second| *second < 30), "{follow:?}: {misled:?}");
        assert_eq!(world.used(), both(A));
    }
}

#[test]
fn a_peer_that_goes_to_and_fro_is_followed_at_once_as_long_as_it_answers() {
    let mut world = World::new(terms(true, true, Follow::Both));
    world.paths.handle_path_seen(world.now, PEER, came(B), 200);
    let mut there = [B, A].into_iter().cycle();
    for _ in 0..40 {
        let remote = there.next().unwrap();
        world.paths.handle_path_seen(world.now, PEER, came(remote), 200);
        // Every echo is answered from where it was sent to.
        world.answering(Duration::from_millis(50), 1500, true);
        assert_eq!(world.used(), both(remote), "in a round trip");
        world.answering(Duration::from_secs(10), 1500, true);
    }
}
