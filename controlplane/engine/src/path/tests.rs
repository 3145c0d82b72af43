//! Paths of peers: what is judged, proven, used and forgotten.

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
    Terms { echo, split: false, ike, follow, local_fixed: false }
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

    fn wishes(&mut self) -> Vec<Wish> {
        std::iter::from_fn(|| self.paths.poll_wish()).collect()
    }

    fn used(&self) -> (String, String) {
        let text = |hop: Option<Hop>| hop.map(|hop| hop.remote.to_string()).unwrap_or_default();
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
    assert!(world.paths.answered(world.now, PEER, hop(B)));
    assert_eq!(world.used(), both(B));
    let path = world.paths.find(PEER, hop(B)).unwrap();
    let set = PathEvent::Set { peer: PEER, path, hop: hop(B), mtu: 1500, mtu_told: 1500, encapsulate: true };
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

#[test]
fn under_mobike_a_packet_of_esp_moves_esp_alone() {
    let mut world = World::new(terms(false, true, Follow::Esp));
    world.paths.handle_path_seen(world.now, PEER, came(B), 100);
    world.run(Duration::from_millis(10));
    world.paths.answered(world.now, PEER, hop(B));
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
    world.paths.answered(world.now, PEER, hop(B));
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
    assert!(world.paths.answered(world.now, PEER, hop(B)));
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
    world.paths.answered(world.now, PEER, hop(c));
    world.paths.answered(world.now, PEER, hop(B));
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
    assert!(world.paths.answered(world.now, PEER, hop(B)));
    assert_eq!((world.used(), world.wishes()), (both(B), vec![Wish::Moved { peer: PEER }]));
}

#[test]
fn where_an_unanswered_request_is_answered_ike_goes_on() {
    let mut world = World::new(terms(false, true, Follow::Esp));
    world.paths.handle_path_seen(world.now, PEER, came(B), 100);
    assert!(world.paths.answered(world.now, PEER, hop(B)));
    assert_eq!(world.used(), (A.to_owned(), B.to_owned()), "that was the proof for ESP");
    assert!(world.paths.answered(world.now, PEER, hop(B)), "this a request of IKE that had to be repeated there");
    assert_eq!(world.used(), both(B));
    assert!(!world.paths.answered(world.now, PEER, hop(B)), "no news any more");
}

#[test]
fn our_other_addresses_are_those_that_reach_the_peer() {
    let mut world = World::new(terms(true, true, Follow::Both));
    assert_eq!(world.paths.other_addresses(hop(A)), [IpAddr::from([192, 0, 2, 7]), IpAddr::from([10, 1, 0, 1])]);
}

#[test]
fn the_mtu_of_the_path_in_use_is_told_to_the_data_plane() {
    let mut world = World::new(terms(true, true, Follow::Both));
    let mut told = Vec::new();
    let mut echoes = Vec::new();
    for _ in 0..100 {
        for event in world.run(Duration::from_millis(10)) {
            match event {
                PathEvent::Set { mtu, .. } => told.push(mtu),
                PathEvent::Echo { id, size, .. } if size <= 1400 => echoes.push(id),
                _ => {}
            }
        }
        for id in echoes.drain(..) {
            world.paths.handle_echo_reply(world.now, PEER, id, came(A), Duration::from_millis(10));
        }
    }
    assert_eq!(told.first(), Some(&1100));
    world.run(Duration::from_secs(5));
    let mtu = world.paths.status(PEER)[0].mtu;
    assert!((1280..=1400).contains(&mtu), "{mtu}: {told:?}");
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
