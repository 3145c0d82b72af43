//! A peer with a static key that is looked for at several addresses: when the one in use stays silent, the next one is tried, and when
//! the preferred one answers again, it is used again.
//!
//! That it is silent show sealed echoes alone: none of a few is answered, of whatever size. So who answers no echoes stays where it
//! is. An address is tried by the proof that every candidate has to give; nothing moves before it has answered.

use std::time::{Duration, Instant};

use adit_proto::control::PeerId;

use super::hop::Hop;
use super::moves::Moves;
use super::peer::{Entry, Proof};
use super::proof::proof_echo;
use super::spares::{Spares, is_there};
use super::{Paths, Terms, Unfit};

/// From the end of a trial to the next one, at least.
const PAUSE: Duration = Duration::from_secs(1);

impl Paths {
    /// A peer with a static key is at one of these addresses, the preferred one first. Where it is, it stays; where it answers, too, until it
    /// has answered at one of these. Otherwise the first to which there is a way is used.
    ///
    /// # Errors
    /// Nothing may go to any of them: why to the first.
    pub fn set_static(&mut self, now: Instant, id: PeerId, terms: Terms, hops: Vec<Hop>) -> Result<(), Unfit> {
        self.set_terms(id, terms);
        let Some(peer) = self.peers.get_mut(&id) else { return Ok(()) };
        let used = peer.esp.and_then(|path| peer.get(path));
        let answers = used.is_some_and(|entry| terms.echo && entry.answered.is_some() && !entry.mtu.is_silent());
        let used = used.map(|entry| entry.hop);
        let stays = used.is_some_and(|used| hops.iter().any(|hop| is_there(hop, &used)));
        let is_meant = |entry: &Entry| hops.iter().any(|hop| is_there(hop, &entry.hop));
        let astray = peer.spares.trial.filter(|path| peer.get(*path).is_some_and(|entry| !entry.is_proven() && !is_meant(entry)));
        peer.spares = Spares::of(hops.clone());
        if let (Some(used), true) = (used, answers && !stays && !hops.is_empty()) {
            peer.spares = Spares::of(hops.clone()).leaving(used);
        }
        // Nobody is asked any more where the peer is not looked for.
        astray.into_iter().for_each(|path| self.give_up(id, path));
        let set = match (stays, answers) {
            (true, _) => Ok(()),
            (false, true) => self.try_first(now, id, &hops),
            (false, false) => self.establish_first(now, id, &hops),
        };
        if let Some(peer) = self.peers.get_mut(&id) {
            let watched = peer.spares.watches();
            peer.each_mut(|entry| entry.mtu.watch(watched));
        }
        self.set_timer(id);
        set
    }

    /// Asks for a proof at the first to which there is a way.
    ///
    /// # Errors
    /// There is none: why not to the first.
    fn try_first(&mut self, now: Instant, id: PeerId, hops: &[Hop]) -> Result<(), Unfit> {
        let mut fault = None;
        for hop in hops {
            match self.judge(*hop) {
                Ok(hop) => {
                    self.try_at(now, id, hop);
                    return Ok(());
                }
                Err(why) => fault = fault.or(Some(why)),
            }
        }
        fault.map_or(Ok(()), Err)
    }

    /// A peer with a static key to which there was no way may have one by now.
    pub(super) fn look_for_way(&mut self, now: Instant, id: PeerId) {
        let lost = self.peers.get(&id).filter(|peer| peer.esp.is_none() && !peer.terms.ike);
        if let Some(hops) = lost.map(|peer| peer.spares.all().to_vec()) {
            // Where there is none still, that was said.
            let _ = self.establish_first(now, id, &hops);
        }
    }

    /// Uses the first to which there is a way.
    ///
    /// # Errors
    /// There is none: why not to the first.
    fn establish_first(&mut self, now: Instant, id: PeerId, hops: &[Hop]) -> Result<(), Unfit> {
        let mut fault = None;
        for hop in hops {
            match self.establish(now, id, *hop, true) {
                Ok(_) => return Ok(()),
                Err(why) => fault = fault.or(Some(why)),
            }
        }
        fault.map_or(Ok(()), Err)
    }

    /// Tries the next address of a peer whose path in use is silent.
    pub(super) fn try_next(&mut self, now: Instant, id: PeerId) {
        let Some(peer) = self.peers.get_mut(&id).filter(|peer| peer.terms.echo && !peer.terms.ike) else { return };
        if let Some(trial) = peer.spares.trial {
            let goes_on = peer.get(trial).is_some_and(|entry| !entry.is_proven());
            if !goes_on {
                (peer.spares.trial, peer.spares.not_before) = (None, Some(now + PAUSE));
            }
            return;
        }
        let Some(used) = peer.esp.and_then(|path| peer.get(path)) else { return };
        let (used, is_silent) = (used.hop, used.mtu.is_silent());
        if !is_silent {
            if let Some(preferred) = peer.spares.look_back(now, &used) {
                self.try_at(now, id, preferred);
            }
            return;
        }
        if peer.spares.due(&used, now).is_none_or(|at| at > now) {
            return;
        }
        peer.spares.not_before = Some(now + PAUSE);
        let Some(hop) = peer.spares.next(&used) else { return };
        self.try_at(now, id, hop);
    }

    /// Asks for a proof there. What is in use stays until it is given.
    fn try_at(&mut self, now: Instant, id: PeerId, hop: Hop) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let proof = Proof::wanted(now, Moves::Both, true);
        // That it was proven once says nothing now.
        let known = peer.find(hop.normal());
        if let Some(entry) = known.and_then(|path| peer.get_mut(path)) {
            entry.proof = proof;
        }
        // One to which there is no way is passed over; it has its turn again.
        let Ok(path) = self.enter(now, id, hop, proof, 8 * u32::from(proof_echo(&hop, true))) else { return };
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.spares.trial = Some(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use adit_proto::echo;

    use super::super::{AnyUnderlay, Arrival, Follow, PathEvent};
    use super::*;
    use crate::testing::instant;

    const PEER: PeerId = PeerId(3);
    const PLACES: [&str; 3] = ["198.51.100.1:4500", "198.51.100.2:4500", "198.51.100.3:4500"];
    const PLACES_V6: [&str; 3] = ["[2001:db8::1]:4500", "[2001:db8::2]:4500", "[2001:db8::3]:4500"];

    struct World {
        paths: Paths,
        now: Instant,
        next: u64,
        /// Who answers echoes.
        alive: Vec<&'static str>,
    }

    fn world(echo: bool, alive: &[&'static str]) -> World {
        let mut paths = Paths::new(Box::new(AnyUnderlay));
        // Of whichever version the first place is.
        let v6 = alive.first().is_some_and(|place| place.starts_with('['));
        paths.set_static(instant(), PEER, terms(echo), hops(if v6 { &PLACES_V6 } else { &PLACES })).unwrap();
        World { paths, now: instant(), next: 1, alive: alive.to_vec() }
    }

    fn terms(echo: bool) -> Terms {
        Terms { echo, split: false, ike: false, follow: Follow::Both, leads: false, local_fixed: false, candidates: false }
    }

    fn hops(places: &[&str]) -> Vec<Hop> {
        let ours = |place: &str| if place.starts_with('[') { "[2001:db8::ff]:4500" } else { "192.0.2.1:4500" };
        places.iter().map(|place| Hop::new(ours(place).parse().unwrap(), place.parse().unwrap())).collect()
    }

    impl World {
        /// From now on the peer is to be looked for there.
        fn list(&mut self, places: &[&str]) {
            self.paths.set_static(self.now, PEER, terms(true), hops(places)).unwrap();
        }

        /// Answers what is alive after ten milliseconds; gives where the peer is in the end.
        fn run(&mut self, time: Duration) -> String {
            let end = self.now + time;
            while let Some(at) = self.paths.poll_timeout().filter(|at| *at <= end) {
                assert!(self.next < 100_000, "it runs in circles");
                self.now = self.now.max(at);
                let next = &mut self.next;
                let mut random = |out: &mut [u8]| {
                    *next += 1;
                    out.copy_from_slice(&next.to_be_bytes()[8 - out.len()..]);
                };
                self.paths.handle_timeout(self.now, &mut random);
                self.next += 1;
                let events: Vec<PathEvent> = std::iter::from_fn(|| self.paths.poll_event()).collect();
                for event in events {
                    let PathEvent::Echo { path, id, size, .. } = event else { continue };
                    let hop = self.paths.status(PEER).into_iter().find(|one| one.path == path).expect("a path").hop;
                    assert!(size >= echo::size_min(hop.is_ipv6()), "no echo has {size} bytes");
                    if self.alive.contains(&hop.remote().to_string().as_str()) {
                        let rtt = Duration::from_millis(10);
                        self.paths.handle_echo_reply(self.now, PEER, id, hop, rtt);
                    }
                }
            }
            self.now = end;
            self.paths.esp_hop(PEER).expect("a path in use").remote().to_string()
        }
    }

    #[test]
    fn the_next_address_is_tried_when_the_first_one_never_answers() {
        for places in [PLACES, PLACES_V6] {
            let mut world = world(true, &[places[2]]);
            assert_eq!(world.run(Duration::ZERO), places[0]);
            assert_eq!(world.run(Duration::from_secs(30)), places[2]);
            assert_eq!(world.run(Duration::from_secs(600)), places[2], "where it answers it stays");
            assert_eq!(world.paths.status(PEER).iter().filter(|path| !path.proven).count(), 0);
        }
    }

    #[test]
    fn it_moves_when_the_one_in_use_falls_silent_and_not_before() {
        let mut world = world(true, &PLACES);
        assert_eq!(world.run(Duration::from_secs(300)), PLACES[0]);
        world.alive = PLACES[1..].to_vec();
        assert_eq!(world.run(Duration::from_secs(20)), PLACES[1]);
        // The preferred one is used again when it answers again.
        world.run(Duration::from_secs(100));
        world.alive = PLACES.to_vec();
        assert_eq!(world.run(Duration::from_secs(15)), PLACES[0]);
        world.alive = PLACES[1..].to_vec();
        assert_ne!(world.run(Duration::from_secs(20)), PLACES[0]);
        // With traffic it is noticed sooner.
        world.run(Duration::from_secs(100));
        world.alive = vec![PLACES[0]];
        for _ in 0..20 {
            world.paths.handle_traffic(world.now, PEER);
            world.run(Duration::from_millis(500));
        }
        assert_eq!(world.run(Duration::ZERO), PLACES[0], "back to one that was given up");
        // Nobody anywhere: it stays, tries all the time, and finds the first that comes back.
        world.alive.clear();
        world.run(Duration::from_secs(1000));
        world.alive = vec![PLACES[1]];
        assert_eq!(world.run(Duration::from_secs(60)), PLACES[1]);
    }

    #[test]
    fn it_stays_where_it_is_when_the_list_changes_around_it() {
        let mut world = world(true, &PLACES[1..]);
        assert_eq!(world.run(Duration::from_secs(30)), PLACES[1]);
        world.list(&[PLACES[2], PLACES[1]]);
        assert_eq!(world.run(Duration::ZERO), PLACES[1]);
        // It is asked at the new place first, and goes there when it has answered.
        world.list(&[PLACES[2]]);
        assert_eq!(world.run(Duration::ZERO), PLACES[2]);
        assert_eq!(world.run(Duration::from_secs(600)), PLACES[2], "and not back");
    }

    #[test]
    fn where_it_answers_it_stays_until_it_has_answered_at_a_new_place() {
        let mut world = world(true, &PLACES[..1]);
        assert_eq!(world.run(Duration::from_secs(30)), PLACES[0]);
        // A name stands for another address, at which nobody is so far.
        world.list(&PLACES[1..2]);
        assert_eq!(world.run(Duration::from_secs(120)), PLACES[0]);
        world.alive.push(PLACES[1]);
        assert_eq!(world.run(Duration::from_secs(20)), PLACES[1]);
        // What it has left is not gone back to, whoever answers there.
        world.alive = vec![PLACES[0]];
        assert_eq!(world.run(Duration::from_secs(120)), PLACES[1]);
    }

    #[test]
    fn all_new_places_are_asked_and_the_old_one_is_gone_back_to_by_its_word() {
        let mut world = world(true, &PLACES[..1]);
        assert_eq!(world.run(Duration::from_secs(30)), PLACES[0]);
        world.list(&PLACES[1..]);
        world.alive.push(PLACES[2]);
        assert_eq!(world.run(Duration::from_secs(40)), PLACES[2], "the second of them answers");
        // A packet from where it was brings it back; then it was followed there, and is left alone.
        let old = Arrival::new("192.0.2.1:4500".parse().unwrap(), PLACES[0].parse().unwrap());
        world.paths.handle_path_seen(world.now, PEER, old, 5000);
        assert_eq!(world.run(Duration::from_secs(120)), PLACES[0]);
    }

    #[test]
    fn where_it_is_looked_for_no_more_nobody_is_asked() {
        let mut world = world(true, &PLACES[..1]);
        assert_eq!(world.run(Duration::from_secs(30)), PLACES[0]);
        world.list(&PLACES[1..2]);
        world.run(Duration::from_millis(100));
        // The file says again what it said before, and only then somebody answers at the other place.
        world.list(&PLACES[..1]);
        world.alive.push(PLACES[1]);
        assert_eq!(world.run(Duration::from_secs(60)), PLACES[0]);
    }

    #[test]
    fn where_nobody_answers_any_more_the_new_place_is_used_at_once() {
        let mut world = world(true, &PLACES[..1]);
        assert_eq!(world.run(Duration::from_secs(30)), PLACES[0]);
        world.alive.clear();
        for _ in 0..20 {
            world.paths.handle_traffic(world.now, PEER);
            world.run(Duration::from_millis(500));
        }
        world.list(&PLACES[1..2]);
        assert_eq!(world.run(Duration::ZERO), PLACES[1]);
    }

    #[test]
    fn without_echoes_nobody_is_asked() {
        let mut world = world(false, &PLACES[1..]);
        assert_eq!(world.run(Duration::from_secs(600)), PLACES[0]);
        assert_eq!(world.paths.status(PEER).len(), 1);
    }
}
