//! Everything that can happen to the way between two gateways, in one run: NATs that map anew, gateways that move and names that follow
//! them, links that take less and say so or do not, loss, outages, crashes and successors, and packets as long as a path takes all the
//! while. When it is over the session is there again, packets of the longest size flow, and at no time there was more than is needed.

use std::net::{IpAddr, SocketAddr};

use adit_engine::path::PathStatus;
use adit_proto::control::PATHS_MAX;

use super::*;

/// Runs, unless the environment says otherwise.
const FEW: u64 = RUNS / 5;
/// Between two packets.
const BEAT: Duration = Duration::from_millis(137);
/// On a good network the session is there again after so long: the other end is found to be dead, the pause between attempts is at its
/// longest, and the first attempt may meet what is left of an earlier one.
const BACK_AFTER: Duration = Duration::from_secs(300);
/// After so long a size that is too small has been tried to be raised.
const RAISED_AFTER: Duration = Duration::from_secs(700);
/// A size is found up to so many bytes.
const GRAIN: usize = 8;
/// The sizes that an IPv4 packet may be limited to.
const SIZES: std::ops::RangeInclusive<u16> = 576..=1500;

/// IKE SAs of a gateway at one time: one that is used, the one that takes its place, one that is being closed, and an attempt of each end.
const IKE_SAS: usize = 5;
/// Inbound SAs for each lane: the one that is used, one that both ends make anew at the same time, and as many of another IKE SA.
const SAS_PER_LANE: usize = 6;
/// Datagrams of IKE that a gateway sends in ten seconds, whatever happens to it: a few exchanges, each repeated and in fragments.
const SENT_PER_WINDOW: usize = 200;
const WINDOW: Duration = Duration::from_secs(10);

struct Travels {
    run: Run,
    seed: u64,
    /// When datagrams were counted last, and how many there had been.
    counted: (Duration, [usize; 2]),
}

/// A NAT of any kind, with an address that no other has.
fn any_nat(world: &mut World) -> usize {
    let outside = IpAddr::from([198, 51, 100, 1 + world.nats.len() as u8]);
    let kind = match world.rng.below(3) {
        0 => NatConfig::usual(outside),
        1 => NatConfig::symmetric(outside),
        _ => NatConfig::counting(outside, 40_000),
    };
    // Some forget what is in use, as carriers do.
    let lifetime = (world.rng.below(4) == 0).then(|| Duration::from_secs(60));
    world.add_nat(NatConfig { lifetime, ..kind })
}

impl Travels {
    fn new(seed: u64) -> Travels {
        let echo = !seed.is_multiple_of(4);
        let run = Run::prepared(seed, echo, |world, configs| {
            // With MOBIKE who began says where it is (RFC 4555 §1.2), and the other one is followed by echoes.
            configs[A].initiate = true;
            if world.rng.below(2) == 0 {
                configs[B].remotes.clear();
            }
            if world.rng.below(3) > 0 {
                world.nodes[A].nat = Some(any_nat(world));
            }
            world.trace = trace();
        });
        Travels { run, seed, counted: (Duration::ZERO, [0; 2]) }
    }

    fn below(&mut self, bound: u32) -> u32 {
        self.run.world.rng.below(bound)
    }

    fn seconds(&mut self, most: u32) -> Duration {
        Duration::from_millis(u64::from(self.below(1000 * most)))
    }

    /// Packets in both directions while time passes.
    fn pass(&mut self, time: Duration) {
        let end = self.run.world.now + time;
        while self.run.world.now < end {
            for node in [A, B] {
                self.run.world.nodes[node].data.sends_longest = true;
                self.run.world.send_esp(node);
            }
            self.run.world.run_for(BEAT);
            self.tell();
            self.check_limits();
        }
    }

    /// What routers have said since the last time reaches those who sent. They believe it when it quotes an SPI that lives.
    fn tell(&mut self) {
        let world = &mut self.run.world;
        for TooBig { node, to, mtu, .. } in std::mem::take(&mut world.too_big) {
            let mtu = u16::try_from(mtu).expect("a small MTU");
            if world.is_up(node, PEER) {
                world.act(node, |endpoint, now| endpoint.handle_too_big(now, PEER, to, mtu));
            }
        }
    }

    /// Something that happens to the way, or at its ends.
    fn event(&mut self) {
        self.run.rough = true;
        let event = self.below(12);
        if self.run.world.trace {
            println!("{:>10.3?}: event {event}", self.run.world.elapsed());
        }
        match event {
            0 | 1 => self.map_anew(),
            2 => self.move_away(),
            3 => self.move_with_name(),
            4..=6 => self.change_link(),
            7 => self.change_weather(),
            8 => self.cut(),
            9 => self.crash(),
            10 => {
                let node = self.below(2) as usize;
                self.run.succeed(node);
            }
            _ => self.run.gentle_event(),
        }
    }

    /// The NAT forgets everything, or is another one.
    fn map_anew(&mut self) {
        let Some(nat) = self.run.world.nodes[A].nat else { return self.move_away() };
        if self.below(2) == 0 {
            self.run.world.nats[nat].forget();
        } else {
            let other = any_nat(&mut self.run.world);
            self.run.world.nodes[A].nat = Some(other);
        }
    }

    /// A gets another address and knows it. There may be a NAT or none.
    fn move_away(&mut self) {
        let address = format!("192.0.2.{}:4500", 10 + self.below(200)).parse().expect("an address");
        let world = &mut self.run.world;
        world.nodes[A].nat = (world.rng.below(2) == 0).then(|| any_nat(world));
        self.settle_at(A, address);
        drop(self.run.world.act(A, |endpoint, now| endpoint.set_addresses(now, PEER, Some(address), None)));
    }

    /// A gateway has this address from now on, and nobody has the one before.
    fn settle_at(&mut self, node: usize, address: SocketAddr) {
        let world = &mut self.run.world;
        let before = std::mem::replace(&mut world.nodes[node].address, address);
        world.dead.push(before.ip());
        world.dead.retain(|dead| *dead != address.ip());
        self.run.configs[node].local = Some(address);
    }

    /// B gets another address, and its name stands for that a little later.
    fn move_with_name(&mut self) {
        let address = format!("203.0.113.{}:4500", 10 + self.below(200)).parse().expect("an address");
        self.settle_at(B, address);
        drop(self.run.world.act(B, |endpoint, now| endpoint.set_addresses(now, PEER, Some(address), None)));
        let time = self.seconds(10);
        self.pass(time);
        self.run.configs[A].remotes = vec![address];
        drop(self.run.world.act(A, |endpoint, now| endpoint.set_remotes(now, PEER, vec![address])));
    }

    /// The link of a gateway takes packets of another size. Where no echoes are answered, it says so: nobody could know it otherwise.
    fn change_link(&mut self) {
        let node = self.below(2) as usize;
        let bytes = if self.below(4) == 0 { 1500 } else { 1280 + self.below(221) as usize };
        let says_so = !self.run.echo || self.below(2) == 0;
        self.run.world.nodes[node].mtu = Some(LinkMtu { bytes, says_so });
    }

    fn change_weather(&mut self) {
        let delay = Duration::from_millis(u64::from(1 + self.below(250)));
        self.run.world.net =
            Net { loss: self.below(4) * 100, duplication: self.below(3) * 60, delay: (Duration::from_millis(1), delay) };
    }

    /// Nothing gets through for a while.
    fn cut(&mut self) {
        self.run.world.cut = true;
        let time = self.seconds(60);
        self.pass(time);
        self.run.world.cut = false;
    }

    /// A process dies, and the next one knows nothing, at once or after a while.
    fn crash(&mut self) {
        let node = self.below(2) as usize;
        self.run.world.nodes[node].on = false;
        let time = if self.below(2) == 0 { Duration::ZERO } else { self.seconds(30) };
        self.run.world.run_for(time);
        self.run.world.nodes[node].on = true;
        self.run.restart(node, true);
    }

    fn in_use(&self, node: usize) -> Option<PathStatus> {
        self.run.world.nodes[node].endpoint.paths(PEER).into_iter().find(|path| path.in_use)
    }

    /// What holds at every moment.
    fn check_limits(&mut self) {
        let lanes = self.run.lanes();
        for node in [A, B] {
            let endpoint = &self.run.world.nodes[node].endpoint;
            let (sizes, paths) = (endpoint.sizes(), endpoint.paths(PEER));
            let few = sizes.ike_sas <= IKE_SAS && sizes.inbound_spis <= SAS_PER_LANE * lanes && paths.len() <= PATHS_MAX;
            assert!(few, "seed {}: {sizes:?}, {} paths: {}", self.seed, paths.len(), self.run.picture());
            let sizes: Vec<u16> = paths.iter().flat_map(|path| [path.mtu, path.mtu_reported]).collect();
            assert!(sizes.iter().all(|size| SIZES.contains(size)), "seed {}: packets of {sizes:?}", self.seed);
        }
        let (elapsed, sent) = (self.run.world.elapsed(), [A, B].map(|node| self.run.world.nodes[node].sent));
        if elapsed >= self.counted.0 + WINDOW {
            let of_window = [A, B].map(|node| sent[node] - self.counted.1[node]);
            assert!(of_window.iter().all(|sent| *sent <= SENT_PER_WINDOW), "seed {}: {of_window:?} datagrams of IKE", self.seed);
            self.counted = (elapsed, sent);
        }
    }

    /// The longest packet that both links take.
    fn carried(&self) -> usize {
        self.run.world.nodes.iter().filter_map(|node| node.mtu).map(|mtu| mtu.bytes).chain([1500]).min().expect("a link")
    }

    /// The network is good again: the session comes back by itself, in time, with whatever is left of NATs and links, and it carries.
    fn comes_back(&mut self) {
        self.run.world.net = Net::GOOD;
        let end = self.run.world.now + BACK_AFTER;
        while !(self.agree() && self.flows()) {
            let ways = [A, B].map(|node| self.in_use(node).map(|path| (path.hop, path.mtu)));
            let late = self.run.world.now >= end;
            assert!(!late, "seed {}: links take {}, {ways:?}: {}", self.seed, self.carried(), self.run.picture());
            self.pass(Duration::from_secs(1));
        }
    }

    /// Both are connected, with each other, and by nothing else.
    fn agree(&self) -> bool {
        let spis = |node: usize| {
            let status = self.run.world.nodes[node].endpoint.status(PEER).expect("the peer");
            (status.state.is_up() && status.ike.len() == 1).then(|| status.ike[0].spis)
        };
        spis(A).is_some() && spis(A) == spis(B)
    }

    /// Whether every packet arrives, though it is as long as may be sent.
    fn flows(&mut self) -> bool {
        let world = &mut self.run.world;
        let opened = |world: &World| [A, B].map(|node| world.nodes[node].data.opened);
        let sent = [B, A].map(|node| world.nodes[node].data.active().len() as u64);
        let before = opened(world);
        [A, B].into_iter().for_each(|node| world.send_esp(node));
        world.run_for(Duration::from_secs(1));
        let arrived: Vec<u64> = before.iter().zip(opened(world)).map(|(before, after)| after - before).collect();
        self.tell();
        arrived == sent && sent.iter().all(|sent| *sent > 0)
    }

    /// No more is sent than arrives, and not much less.
    fn check_sizes(&mut self) {
        self.pass(RAISED_AFTER);
        let (carried, found) = (self.carried(), [A, B].map(|node| self.in_use(node).map_or(0, |path| usize::from(path.mtu))));
        let right = |size: &usize| *size <= carried && *size + GRAIN >= carried;
        assert!(found.iter().all(right), "seed {}: {found:?} on a way of {carried}: {}", self.seed, self.run.picture());
    }

    /// Everything is as if nothing had happened, once no NAT forgets what is in use.
    fn check_rest(&mut self) {
        let seed = self.seed;
        self.run.world.nats.iter_mut().for_each(|nat| nat.config.lifetime = None);
        self.run.world.nodes.iter_mut().for_each(|node| node.data.sends_longest = false);
        self.run.check(seed);
    }
}

#[test]
fn nats_moves_links_loss_and_crashes_in_one_run_heal() {
    with_seeds((13_000_000, FEW), &[], |seed| {
        let mut travels = Travels::new(seed);
        for _ in 0..travels.below(10) {
            let time = travels.seconds(20);
            travels.pass(time);
            travels.event();
        }
        travels.comes_back();
        if seed % 8 == 1 {
            travels.check_sizes();
        }
        travels.check_rest();
        travels.comes_back();
    });
}
