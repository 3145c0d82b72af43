//! Everybody at once, thousands of times: strangers without keys and an insider with keys of its own do what each seed draws, evenly paced
//! or in bursts, on a network that loses, repeats and reorders. Beside them an honest peer connects, carries traffic, rekeys, authenticates
//! anew and moves, and loses nothing that the network has not lost; nobody takes more than its share of the gateway.
//!
//! What one of them does is a function in [`stranger`] or [`insider`] and one line in the table there.

mod hand;
mod insider;
mod scene;
mod stranger;

use std::time::{Duration, Instant};

use adit_engine::ike::{ConnectionState, Event};

use adit_sim::*;

use super::seeds::{FailedOnce, trace, with_seeds};
use scene::{GATEWAY, GUEST, HONEST, Outcome, Scene, TICK};

/// Runs, unless the environment says otherwise.
const RUNS: u64 = 600;
/// Seeds that found a mistake, by what it was.
const FAILED_ONCE: FailedOnce = &[];
/// How long the honest peer may take for what is a few round trips, on a network that loses nothing; on another one, and where
/// somebody spoils what nothing protects, requests are sent again.
const SOON: Duration = Duration::from_secs(4);
const SOON_WITH_LOSS: Duration = Duration::from_secs(60);

/// Moves that can spoil every attempt to begin anew; what there is goes on.
const SPOILS_FIRST_MESSAGES: [&str; 3] = ["a replay that is changed", "a copy that is faster from elsewhere", "a forged notify"];

/// A defence of the gateway that is off, to show that it is missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Weakness {
    None,
    /// None, but there is room for as many half-open IKE SAs as a gateway usually has: what fails is not stopped by a limit of these.
    Roomy,
    /// Who comes first is served first.
    NoScreen,
    NoCookies,
    NoHalfOpenLimit,
    /// One peer may have what all have together.
    NoShares,
}

/// One thing that a wrong-doer does, once.
type Move = (&'static str, fn(&mut Scene));

/// How often it is done.
#[derive(Clone, Copy, Debug)]
enum Pace {
    /// So many in each tick, spread over it.
    Even(u32),
    /// So many at one moment, and again after a time.
    Burst(u32, Duration),
}

/// One wrong-doer: what he does, how often, and until when.
pub struct Campaign {
    name: &'static str,
    act: fn(&mut Scene),
    pace: Pace,
    next: Instant,
    until: Instant,
}

impl Scene {
    /// Draws what the wrong-doers will do from now on.
    fn draw_campaigns(&mut self) {
        for (table, most) in [(stranger::MOVES, 4), (insider::MOVES, 4)] {
            for _ in 0..self.rng.below(most + 1) {
                let (name, act) = table[self.rng.below(table.len() as u32) as usize];
                self.add_campaign(name, act);
            }
        }
    }

    /// One of the wrong-doers begins now, and goes on for a while.
    fn begin(&mut self, name: &'static str, pace: Pace) {
        let known = stranger::MOVES.iter().chain(insider::MOVES).find(|one| one.0 == name);
        let (name, act) = *known.expect("a move of this name");
        let next = self.world.now;
        self.campaigns.push(Campaign { name, act, pace, next, until: next + Duration::from_secs(15) });
    }

    fn add_campaign(&mut self, name: &'static str, act: fn(&mut Scene)) {
        let pace = match self.rng.below(4) {
            0 => Pace::Even(1 + self.rng.below(4)),
            1 => Pace::Even(1),
            2 => Pace::Burst(5 + self.rng.below(40), Duration::from_millis(u64::from(500 + self.rng.below(3000)))),
            _ => Pace::Burst(60 + self.rng.below(200), Duration::from_millis(u64::from(4000 + self.rng.below(8000)))),
        };
        let next = self.world.now + Duration::from_millis(u64::from(self.rng.below(2000)));
        let until = next + Duration::from_secs(u64::from(5 + self.rng.below(30)));
        self.campaigns.push(Campaign { name, act, pace, next, until });
    }

    /// What is due is done.
    fn campaign(&mut self) {
        for index in 0..self.campaigns.len() {
            let Campaign { act, pace, next, until, .. } = self.campaigns[index];
            let now = self.world.now;
            if now < next || now > until {
                continue;
            }
            let (count, again) = match pace {
                Pace::Even(count) => (count, TICK),
                Pace::Burst(count, every) => (count, every),
            };
            self.spread = if matches!(pace, Pace::Even(_)) { TICK } else { Duration::ZERO };
            self.campaigns[index].next = now + again;
            (0..count).for_each(|_| act(self));
        }
    }

    fn soon(&self) -> Duration {
        let quick = self.world.net.loss == 0 && !self.are_first_messages_spoilt();
        if quick { SOON } else { SOON_WITH_LOSS }
    }

    fn are_first_messages_spoilt(&self) -> bool {
        self.campaigns.iter().any(|one| SPOILS_FIRST_MESSAGES.contains(&one.name))
    }

    /// One thing that an honest peer and its gateway do, and that it comes to something.
    fn honest_event(&mut self) -> Outcome {
        let (node, peer) = [(GATEWAY, GUEST), (HONEST, PEER)][self.rng.below(2) as usize];
        let spis = |scene: &Scene| scene.status(HONEST).ike.first().map(|ike| ike.spis);
        let children = |scene: &Scene| -> Vec<_> {
            let status = scene.status(HONEST);
            status.ike.iter().flat_map(|ike| &ike.children).filter(|child| child.is_sending).map(|child| child.inbound).collect()
        };
        // One after the other: what is lost with a process that dies in the middle of one is another test's.
        self.until(2 * self.soon(), "the end of what was before", Scene::is_connected)?;
        let (before, children_before) = (spis(self), children(self));
        match self.rng.below(7) {
            0 | 1 => {
                self.world.act(node, |endpoint, now| endpoint.rekey(now, peer)).map_err(|error| error.to_string())?;
                self.until(self.soon(), "a rekey of the Child SA", |scene| children(scene) != children_before)
            }
            2 | 3 => {
                self.world.act(node, |endpoint, now| endpoint.rekey_ike(now, peer)).map_err(|error| error.to_string())?;
                self.until(self.soon(), "a rekey of the IKE SA", |scene| spis(scene) != before)
            }
            4 => {
                // Whoever is faster with a first message of its own can spoil an attempt (RFC 7296 §2.4): nothing protects that one yet.
                for _ in 0..3 {
                    self.world
                        .act(HONEST, |endpoint, now| endpoint.reauthenticate(now, PEER))
                        .map_err(|error| error.to_string())?;
                    let rests = |scene: &Scene| scene.status(HONEST).state == ConnectionState::Established;
                    self.until(self.soon(), "the end of a new authentication", rests)?;
                    if spis(self) != before {
                        break;
                    }
                }
                if spis(self) == before && self.are_first_messages_spoilt() {
                    return Ok(());
                }
                self.until(self.soon(), "a new authentication", |scene| spis(scene) != before && scene.is_connected())
            }
            5 => {
                let (config, peers) =
                    (self.gateway_config(), [(GUEST, self.configs[0].clone()), (PEER, self.configs[1].clone())]);
                self.world.succeed(GATEWAY, config, &peers);
                Ok(())
            }
            _ => self.honest_moves(),
        }
    }

    /// It goes by another address from now on; the one before is still its own for a while.
    fn honest_moves(&mut self) -> Outcome {
        if !self.configs[2].mobike {
            return Ok(());
        }
        let last = 4 + self.rng.below(200);
        let new = self.family.at([192, 0, 2, last as u8]);
        let node = &mut self.world.nodes[HONEST];
        let old = std::mem::replace(&mut node.address, new);
        node.others.push(old.ip());
        self.world
            .act(HONEST, |endpoint, now| endpoint.set_addresses(now, PEER, Some(new), None))
            .map_err(|error| error.to_string())?;
        // It may go back to the one before, where the network loses much or somebody is faster with copies of all that it says.
        let here = |scene: &Scene| {
            let (way, node) = (scene.world.nodes[GATEWAY].data.way(GUEST).0.remote(), &scene.world.nodes[HONEST]);
            way == node.address || way.address().is_some_and(|way| node.others.contains(&way.ip()))
        };
        self.pass(Duration::from_secs(2))?;
        if here(self) { Ok(()) } else { Err(format!("ESP goes elsewhere: {}", self.picture())) }
    }
}

/// One run: what happens in it follows from its seed.
fn run(seed: u64, weakness: Weakness, draw: impl Fn(&mut Scene)) -> Outcome {
    play(&mut Scene::new(seed, weakness), draw)
}

fn play(scene: &mut Scene, draw: impl Fn(&mut Scene)) -> Outcome {
    scene.world.trace = trace();
    // The wrong-doers are there before the honest peer comes, or come when it is connected.
    // (Who is neither looked for nor has been there is one of many strangers.)
    let early = scene.rng.below(2) == 0 && scene.is_looked_for();
    if early {
        draw(scene);
        let time = Duration::from_millis(u64::from(scene.rng.below(4000)));
        scene.pass(time)?;
    }
    scene.honest_comes();
    scene.until(scene.soon(), "the honest peer connects", Scene::is_connected)?;
    scene.world.ledger.forget();
    scene.carries = true;
    if !early {
        draw(scene);
    }
    let first = scene.world.nodes[GATEWAY].events.len();
    for _ in 0..2 + scene.rng.below(5) {
        let time = Duration::from_millis(u64::from(200 + scene.rng.below(4000)));
        scene.pass(time)?;
        scene.honest_event()?;
    }
    scene.pass(Duration::from_secs(2))?;
    scene.until(scene.soon(), "all is as it was", Scene::is_connected)?;
    let events = &scene.world.nodes[GATEWAY].events[first..];
    let down = |event: &Event| matches!(event, Event::State { peer: GUEST, state, .. } if !state.is_up());
    if events.iter().any(down) {
        return Err(format!("the honest peer was down: {}", scene.picture()));
    }
    let lost = scene.lost();
    if lost.is_empty() { Ok(()) } else { Err(format!("{} packets lost: {lost:?}: {}", lost.len(), scene.picture())) }
}

#[test]
fn whatever_others_do_an_honest_peer_connects_and_loses_nothing() {
    with_seeds((20_000_000, RUNS), FAILED_ONCE, |seed| {
        if let Err(why) = run(seed, Weakness::None, Scene::draw_campaigns) {
            panic!("seed {seed}: {why}");
        }
    });
}

/// Of IPv6 they are on the link of the honest peer and in its network as well.
#[test]
fn what_neighbours_begin_takes_no_place_of_an_honest_peer() {
    for seed in 22_000_000..22_000_024 {
        let many =
            |scene: &mut Scene| scene.begin("first messages with their cookies", Pace::Burst(40, Duration::from_millis(500)));
        if let Err(why) = run(seed, Weakness::None, many) {
            panic!("seed {seed}: {why}");
        }
    }
}

/// From where they are, from where the honest peer is, and from anywhere.
#[test]
fn proofs_of_nobody_keep_no_honest_peer_from_proving_itself() {
    let mut looked_at = 0;
    for seed in 23_000_000..23_000_024 {
        let mut scene = Scene::new(seed, Weakness::Roomy);
        let forge = |scene: &mut Scene| scene.begin("certificates of nobody", Pace::Even(20));
        if let Err(why) = play(&mut scene, forge) {
            panic!("seed {seed}: {why}");
        }
        looked_at += scene.world.nodes[GATEWAY].endpoint.counters().refused_authentication;
    }
    assert!(looked_at > 500, "{looked_at} proofs were looked at: they are no attack");
}

#[test]
fn a_defence_that_is_off_is_missed() {
    let often = |count| Pace::Burst(count, Duration::from_millis(500));
    let cases = [
        (Weakness::NoScreen, "what looks like a header", Pace::Even(300)),
        (Weakness::NoCookies, "a first message from anywhere", often(40)),
        (Weakness::NoHalfOpenLimit, "first messages with their cookies", often(40)),
        (Weakness::NoShares, "rekeys its Child SAs", Pace::Even(2)),
    ];
    for (weakness, name, pace) in cases {
        let fails =
            |weakness| (0..4).filter(|seed| run(21_000_000 + seed, weakness, |scene| scene.begin(name, pace)).is_err()).count();
        let (without, with) = (fails(weakness), fails(Weakness::None));
        assert!(without > 0 && with == 0, "{weakness:?}: {without} of 4 fail, and {with} where nothing is off");
    }
}
