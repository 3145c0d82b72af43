//! What a path carries is found, whatever happens to links, addresses, keys and processes meanwhile; and a size that is no longer
//! carried is noticed within seconds while packets flow.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use adit_engine::ike::EndpointConfig;
use adit_engine::path::{PathStatus, Route, Underlay};
use adit_proto::ike::{ExchangeType, Header};
use adit_sim::certificates::Authority;
use adit_sim::*;

/// Runs, unless the environment says otherwise.
const RUNS: u64 = 300;
/// A size is found up to so many bytes.
const GRAIN: usize = 8;
/// Two seconds where the size is known, and a little more where it is still being looked for.
const NOTICED_AFTER: Duration = Duration::from_secs(5);
/// After so long a size that is too small is tried to be raised.
const RAISED_AFTER: Duration = Duration::from_secs(660);

fn endpoint(node: usize) -> EndpointConfig {
    EndpointConfig { echo: true, ..endpoint_config(node as u8 + 1) }
}

struct Run {
    world: World,
    configs: [adit_engine::ike::PeerConfig; 2],
}

impl Run {
    fn new(seed: u64) -> Run {
        let mut world = World::new(seed);
        let mobike = world.rng.below(2) == 0;
        let configs = [A, B].map(|node| {
            let mut config = peer(node);
            (config.mobike, config.dpd) = (mobike, Duration::from_secs(10));
            config
        });
        world.net.delay = (Duration::from_millis(1), Duration::from_millis(u64::from(1 + world.rng.below(60))));
        for (node, config) in configs.iter().enumerate() {
            world.add(&config.local.expect("an address").to_string(), endpoint(node));
        }
        for (node, config) in configs.iter().enumerate() {
            world.set_peer(node, PEER, config.clone());
        }
        Run { world, configs }
    }

    fn pass(&mut self, time: Duration) {
        let end = self.world.now + time;
        while self.world.now < end {
            [A, B].into_iter().for_each(|node| self.world.send_esp(node));
            self.world.run_for(Duration::from_millis(400));
        }
    }

    /// The longest packet that both links take, up to what the routes say.
    fn carried(&self) -> usize {
        self.world.nodes.iter().filter_map(|node| node.mtu).map(|mtu| mtu.bytes).chain([1500]).min().expect("a link")
    }

    fn in_use(&self, node: usize) -> PathStatus {
        let paths = self.world.nodes[node].endpoint.paths(PEER);
        paths.into_iter().find(|path| path.in_use).expect("a path in use")
    }

    fn sizes(&self) -> [usize; 2] {
        [A, B].map(|node| self.in_use(node).mtu.into())
    }

    fn event(&mut self) {
        let node = self.world.rng.below(2) as usize;
        match self.world.rng.below(5) {
            0 | 1 => {
                let bytes = 1280 + self.world.rng.below(221) as usize;
                self.world.nodes[node].mtu = Some(LinkMtu { bytes, says_so: false });
            }
            2 => drop(self.world.act(node, |endpoint, now| endpoint.rekey_ike(now, PEER))),
            3 => drop(self.world.act(node, |endpoint, now| endpoint.rekey(now, PEER))),
            _ => {
                let config = self.configs[node].clone();
                self.world.succeed(node, endpoint(node), &[(PEER, config)]);
            }
        }
    }
}

#[test]
fn sizes_follow_their_links_whatever_else_happens() {
    for seed in seeds(RUNS) {
        let mut run = Run::new(seed);
        assert!(
            run.world.run_until(Duration::from_secs(60), |world| world.is_up(A, PEER) && world.is_up(B, PEER)),
            "seed {seed}"
        );
        run.pass(Duration::from_secs(3));
        assert_eq!(run.sizes(), [1500; 2], "seed {seed}: nothing is in the way");
        for _ in 0..run.world.rng.below(8) {
            run.event();
            run.pass(NOTICED_AFTER);
            let carried = run.carried();
            assert!(run.sizes().iter().all(|size| *size <= carried), "seed {seed}: {:?} on a path of {carried}", run.sizes());
            let time = Duration::from_millis(u64::from(run.world.rng.below(20_000)));
            run.pass(time);
        }
        run.pass(RAISED_AFTER);
        let carried = run.carried();
        let found = |size: &usize| *size <= carried && *size + GRAIN >= carried;
        assert!(run.sizes().iter().all(found), "seed {seed}: {:?} on a path of {carried}", run.sizes());
    }
}

/// Two nodes with certificates and ML-KEM: each sends what is longer than a line carries.
fn with_long_messages(seed: u64) -> World {
    let mut world = World::new(seed);
    let authority = Authority::new("Root");
    for node in [A, B] {
        let mut config = peer(node);
        config.local_auth = authority.issue(["a.example.org", "b.example.org"][node], 2030);
        config.remote_auth = authority.trusted();
        config.proposals = vec![hybrid()];
        world.add(&config.local.expect("an address").to_string(), endpoint(node));
        world.set_peer(node, PEER, config);
    }
    world
}

fn are_up(world: &World) -> bool {
    world.is_up(A, PEER) && world.is_up(B, PEER)
}

/// How long a datagram is that a node sends to another, as an IP packet.
fn longest(world: &World, from: usize) -> usize {
    let from = world.nodes[from].address;
    world.log.iter().filter(|(source, ..)| *source == from).map(|(.., payload)| payload.len() + 28).max().unwrap_or_default()
}

#[test]
fn ike_connects_and_rekeys_over_a_short_line_that_says_nothing() {
    // Also one that is short in one direction only.
    for (number, bytes) in [[1124; 2], [1280; 2], [1124, 1500], [1500, 1124]].into_iter().enumerate() {
        let mut world = with_long_messages(number as u64);
        let first = world.nodes[A].address;
        world.filter = Some(Box::new(move |from, _, payload| payload.len() + 28 <= bytes[usize::from(from != first)]));
        assert!(world.run_until(Duration::from_secs(20), are_up), "lines of {bytes:?}");
        world.act(A, |endpoint, now| endpoint.rekey_ike(now, PEER)).expect("a connection");
        world.run_for(Duration::from_secs(5));
        world.check_traffic();
    }
}

#[test]
fn messages_of_ike_are_cut_smaller_once_one_is_lost_and_stay_so() {
    let mut wide = with_long_messages(1);
    assert!(wide.run_until(Duration::from_secs(20), are_up));
    assert_eq!([A, B].map(|node| longest(&wide, node)), [1280, 1185], "what is hoped for; the answer in one datagram");

    let mut short = with_long_messages(1);
    for node in [A, B] {
        short.nodes[node].mtu = Some(LinkMtu { bytes: 1124, says_so: false });
    }
    let lost = |world: &World| [A, B].map(|node| world.nodes[node].sent).iter().sum::<usize>() - world.log.len();
    assert!(short.run_until(Duration::from_secs(20), are_up));
    assert_eq!(lost(&short), 1, "the request of IKE_INTERMEDIATE showed it");
    short.act(A, |endpoint, now| endpoint.rekey_ike(now, PEER)).expect("a connection");
    short.run_for(Duration::from_secs(1));
    assert!(longest(&short, A) > 1000, "another key exchange with ML-KEM");
    assert_eq!(lost(&short), 1, "which was cut as the first one had to be");
}

#[test]
fn what_we_can_cut_never_leaves_as_ip_fragments() {
    let is_first = |message: &Vec<u8>| Header::decode(&message[4..]).expect("a message").exchange == ExchangeType::IKE_SA_INIT;
    // On a line of which it is known that all of it passes, with loss, and on one that has become shorter.
    for (seed, loss) in [(1, 0), (2, 300), (3, 300)] {
        let mut world = with_long_messages(seed);
        assert!(world.run_until(Duration::from_secs(20), are_up));
        for _ in 0..10 {
            world.run_for(Duration::from_secs(5));
            world.net.loss = loss;
            drop(world.act(A, |endpoint, now| endpoint.rekey_ike(now, PEER)));
        }
        assert!(longest(&world, A) > 1000 && world.fragmented.iter().all(is_first), "loss {loss}");
    }
    let mut world = with_long_messages(4);
    assert!(world.run_until(Duration::from_secs(20), are_up));
    world.run_for(Duration::from_secs(5));
    assert!(world.nodes[A].endpoint.paths(PEER)[0].mtu_proven.is_some_and(|size| size > 1280));
    world.nodes[A].mtu = Some(LinkMtu { bytes: 1124, says_so: false });
    let before = world.ike(A).spis;
    world.act(A, |endpoint, now| endpoint.rekey_ike(now, PEER)).expect("a connection");
    world.run_for(Duration::from_secs(20));
    assert_ne!(world.ike(A).spis, before, "it was cut until it arrived");
    assert!(world.fragmented.iter().all(is_first));
}

#[test]
fn frames_go_in_two_packets_only_where_both_ends_say_so() {
    for says in [[true, true], [true, false], [false, true], [false, false]] {
        let config = |node: usize| EndpointConfig { split: says[node], ..endpoint(node) };
        let mut world = pair_with(1, config, |_, _| {});
        world.connect_pair();
        let splits = |world: &World| [A, B].map(|node| world.nodes[node].endpoint.paths(PEER)[0].split);
        assert_eq!(splits(&world), [says == [true; 2]; 2], "{says:?}");
        // A rekey and the next process change nothing about it.
        world.act(A, |endpoint, now| endpoint.rekey_ike(now, PEER)).expect("a connection");
        world.run_for(Duration::from_secs(2));
        world.succeed(B, config(B), &[(PEER, peer(B))]);
        world.run_for(Duration::from_secs(2));
        assert_eq!(splits(&world), [says == [true; 2]; 2], "{says:?}, later");
    }
}

/// The kernel of gateway A, which says how long packets to the other one may be.
struct Kernel(Arc<AtomicU16>);

impl Underlay for Kernel {
    fn route(&mut self, local: Option<IpAddr>, remote: SocketAddr, _: u32) -> Route {
        let (own_address, mtu) = (self.addresses().contains(&remote.ip()), Some(self.0.load(Ordering::Relaxed)));
        let source = local.or(self.addresses().first().copied());
        Route { reachable: true, own_address, source, mtu, link_mtu: mtu, ..Route::default() }
    }

    fn has_stream(&mut self, _: adit_proto::control::StreamId) -> bool {
        true
    }

    fn addresses(&mut self) -> Vec<IpAddr> {
        vec![[192, 0, 2, 1].into()]
    }
}

/// Whether an echo passes on the cable in this time.
fn echoes_pass(world: &mut World, time: Duration) -> bool {
    let (end, mut found) = (world.now + time, false);
    while world.now < end {
        // Of what is overheard only the last is kept.
        world.run_for(Duration::from_millis(100));
        let overheard = world.overheard.replace(VecDeque::new()).expect("somebody on the cable");
        found |= overheard.iter().any(|(.., load)| matches!(load, Load::Echo(_)));
    }
    found
}

#[test]
fn each_end_asks_as_soon_as_the_other_one_can_answer() {
    for delay in [1, 5, 45].map(Duration::from_millis) {
        let mut world = pair_with(1, endpoint, |_, _| {});
        world.net.delay = (delay, delay);
        world.overheard = Some(VecDeque::new());
        // The millisecond in which an end has its keys, and that in which its first echo leaves.
        let (mut keys, mut echo) = ([None; 2], [None; 2]);
        for ms in 1..=1000_u32 {
            world.run_for(Duration::from_millis(1));
            let overheard = world.overheard.replace(VecDeque::new()).expect("somebody on the cable");
            for node in [A, B] {
                let (here, data) = (world.nodes[node].address.ip(), &world.nodes[node].data);
                let asks = |load: &Load| matches!(load, Load::Echo(echo) if !echo.is_reply);
                if !data.inbound.is_empty() && !data.outbound.is_empty() {
                    keys[node].get_or_insert(ms);
                }
                if overheard.iter().any(|(from, _, load)| from.ip() == here && asks(load)) {
                    echo[node].get_or_insert(ms);
                }
            }
        }
        let ([keys_a, keys_b], [echo_a, echo_b]) = (keys.map(|at| at.expect("keys")), echo.map(|at| at.expect("an echo")));
        assert_eq!(echo_a, keys_a, "{delay:?}: the responder has had the keys for a while");
        // Its answer is under way, and without that the initiator can open nothing.
        assert!((keys_b + 1..=keys_b + 50).contains(&echo_b), "{delay:?}: keys at {keys_b} ms, an echo at {echo_b} ms");
        assert!(echo_b >= keys_a, "{delay:?}: {echo_b} ms, and keys at {keys_a} ms");
    }
}

#[test]
fn no_echo_is_sent_where_one_end_alone_announces_it() {
    for says in [[true, true], [true, false], [false, true]] {
        let config = |node: usize| EndpointConfig { echo: says[node], ..endpoint(node) };
        let mut world = pair_with(1, config, |_, _| {});
        let kernel = Arc::new(AtomicU16::new(1500));
        world.nodes[A].endpoint.set_underlay(Box::new(Kernel(kernel.clone())));
        world.overheard = Some(VecDeque::new());
        let both = says == [true; 2];
        assert_eq!(echoes_pass(&mut world, Duration::from_secs(30)), both, "{says:?}");
        let paths = [A, B].map(|node| world.nodes[node].endpoint.paths(PEER).remove(0));
        assert!(paths.iter().all(|path| path.in_use && path.echo == both && path.mtu_proven.is_some() == both), "{says:?}");
        if both {
            continue;
        }
        // What A sends goes by what its kernel says, both ways, and by what routers say until that is old.
        let size = |world: &World| world.nodes[A].endpoint.paths(PEER)[0].mtu;
        let router = |endpoint: &mut adit_engine::ike::Endpoint, now| {
            endpoint.handle_too_big(now, PEER, "192.0.2.2:4500".parse().expect("an address"), 1300)
        };
        assert_eq!(size(&world), 1500, "{says:?}");
        for mtu in [1400, 1480] {
            kernel.store(mtu, Ordering::Relaxed);
            world.act(A, |endpoint, now| endpoint.underlay_changed(now));
            // Looks at the routes have a rate.
            world.run_for(Duration::from_secs(10));
            assert_eq!(size(&world), mtu, "{says:?}");
        }
        assert!(world.act(A, router));
        assert_eq!(size(&world), 1300, "{says:?}");
        assert!(!echoes_pass(&mut world, RAISED_AFTER), "{says:?}");
        assert_eq!(size(&world), 1480, "{says:?}");
        world.check_traffic();
    }
}

#[test]
fn loss_is_no_reason_to_send_less() {
    for seed in seeds(RUNS / 3) {
        let mut run = Run::new(seed);
        assert!(
            run.world.run_until(Duration::from_secs(60), |world| world.is_up(A, PEER) && world.is_up(B, PEER)),
            "seed {seed}"
        );
        run.pass(Duration::from_secs(3));
        run.world.net.loss = run.world.rng.below(30);
        run.pass(Duration::from_secs(300));
        let holes = [A, B].map(|node| run.in_use(node).black_holes);
        assert_eq!((run.sizes(), holes), ([1500; 2], [0; 2]), "seed {seed}");
    }
}

#[expect(clippy::disallowed_methods, reason = "how many runs there are is for whoever starts the tests to say")]
fn seeds(runs: u64) -> std::ops::Range<u64> {
    let given = std::env::var("SIM_RUNS").ok().and_then(|runs| runs.parse::<u64>().ok());
    7_000_000..7_000_000 + given.map_or(runs, |given| given / 5)
}
