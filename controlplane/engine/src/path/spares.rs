//! The addresses at which a peer with a static key may be: whose turn it is, and when the preferred one is looked at again.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::PathId;
use super::hop::Hop;

/// How often it is looked whether the preferred one answers again.
const LOOK_BACK_EVERY: Duration = Duration::from_secs(10);

/// Where a peer may be, too.
#[derive(Debug, Default)]
pub(super) struct Spares {
    /// All of them, also the one in use.
    hops: Vec<Hop>,
    turn: usize,
    pub not_before: Option<Instant>,
    /// When the preferred one is tried again, while another one is in use.
    look_back_at: Option<Instant>,
    /// The one that is being tried.
    pub trial: Option<PathId>,
    /// Where the peer still answers, though it is to be looked for elsewhere by now.
    left: Option<Hop>,
}

impl Spares {
    /// The preferred one first.
    pub(super) fn of(hops: Vec<Hop>) -> Spares {
        Spares { hops, ..Spares::default() }
    }

    /// The peer answers at one that is none of them. It stays there until it has answered at one of them.
    pub(super) fn leaving(self, used: Hop) -> Spares {
        Spares { left: Some(used), ..self }
    }

    /// The peer is there: what it has left is not gone back to.
    pub(super) fn settle(&mut self, used: &Hop) {
        self.left = self.left.take_if(|left| is_there(left, used));
    }

    /// All of them.
    pub(super) fn all(&self) -> &[Hop] {
        &self.hops
    }

    /// All of them from sockets that are bound there.
    pub(super) fn rebind(&mut self, listen: SocketAddr) {
        self.hops.iter_mut().chain(&mut self.left).for_each(|hop| *hop = hop.bound_to(listen));
    }

    /// When the next one is to be tried, if the one in use is silent.
    pub(super) fn due(&self, used: &Hop, now_or_later: Instant) -> Option<Instant> {
        let can = self.trial.is_none() && self.hops.iter().any(|hop| !is_there(hop, used));
        can.then(|| self.not_before.map_or(now_or_later, |at| at.max(now_or_later)))
    }

    /// When the preferred one is to be tried again, once that is planned.
    pub(super) fn look_back_at(&self) -> Option<Instant> {
        self.look_back_at.filter(|_| self.trial.is_none())
    }

    /// Whether a path in use is to be noticed when it is silent, however little it carries.
    pub(super) fn watches(&self) -> bool {
        self.hops.len() + usize::from(self.left.is_some()) > 1
    }

    /// The next one whose turn it is, other than the one in use.
    pub(super) fn next(&mut self, used: &Hop) -> Option<Hop> {
        let number = self.hops.len();
        (0..number).find_map(|_| {
            let hop = self.hops[self.turn % number];
            self.turn = (self.turn + 1) % number;
            (!is_there(&hop, used)).then_some(hop)
        })
    }

    /// The preferred one, when it is time to try that again, or another one of all where none of them is in use. A peer that was followed
    /// elsewhere stays there.
    pub(super) fn look_back(&mut self, now: Instant, used: &Hop) -> Option<Hop> {
        let preferred = *self.hops.first()?;
        let mut known = self.hops.iter().chain(&self.left);
        let elsewhere = !is_there(&preferred, used) && known.any(|hop| is_there(hop, used));
        let at = self.look_back_at.take().filter(|_| elsewhere);
        self.look_back_at = elsewhere.then(|| at.filter(|at| *at > now).unwrap_or(now + LOOK_BACK_EVERY));
        match at.filter(|at| *at <= now) {
            Some(_) if self.left.is_some() => self.next(used),
            due => due.map(|_| preferred),
        }
    }
}

/// Whether a path leads to the end of a hop, by the interface that it names: a link that is made anew has another index.
pub(super) fn is_there(hop: &Hop, path: &Hop) -> bool {
    let hop = hop.normal();
    hop.leads_to(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::instant;

    fn hop(remote: &str) -> Hop {
        Hop::new("192.0.2.1:4500".parse().unwrap(), remote.parse().unwrap())
    }

    const PLACES: [&str; 3] = ["198.51.100.1:4500", "198.51.100.2:4500", "198.51.100.3:4500"];

    fn spares(number: usize) -> Spares {
        Spares::of(PLACES[..number].iter().map(|place| hop(place)).collect())
    }

    #[test]
    fn the_next_one_is_due_where_there_are_two_and_none_is_being_tried() {
        let (now, later) = (instant(), instant() + Duration::from_secs(5));
        for (number, is_there) in [(0, false), (1, false), (2, true), (3, true)] {
            let mut spares = spares(number);
            let used = hop(PLACES[0]);
            assert_eq!((spares.due(&used, now), spares.watches()), (is_there.then_some(now), is_there));
            // Who was followed elsewhere and is silent there is looked for where it is to be, if that is one place alone.
            assert_eq!(spares.due(&hop("203.0.113.9:4500"), now), (number > 0).then_some(now));
            spares.not_before = Some(later);
            let after = later + Duration::from_secs(1);
            assert_eq!([now, after].map(|at| spares.due(&used, at)), [later, after].map(|due| is_there.then_some(due)));
            spares.trial = PathId::all().next();
            assert_eq!(spares.due(&used, now), None);
        }
    }

    #[test]
    fn each_has_its_turn_but_for_the_one_in_use() {
        let mut spares = spares(3);
        let used = hop(PLACES[1]);
        let turns: Vec<Option<Hop>> = (0..5).map(|_| spares.next(&used)).collect();
        assert_eq!(turns, [0, 2, 0, 2, 0].map(|place| Some(hop(PLACES[place]))));
        assert_eq!(Spares::of(vec![used]).next(&used), None);
    }

    #[test]
    fn the_preferred_one_is_looked_at_while_another_one_of_the_list_is_in_use() {
        let (mut spares, now) = (spares(2), instant());
        let [preferred, other, elsewhere] = [PLACES[0], PLACES[1], PLACES[2]].map(hop);
        assert_eq!((spares.look_back(now, &preferred), spares.look_back_at()), (None, None));
        assert_eq!((spares.look_back(now, &other), spares.look_back_at()), (None, Some(now + LOOK_BACK_EVERY)));
        let early = now + LOOK_BACK_EVERY - Duration::from_millis(1);
        assert_eq!((spares.look_back(early, &other), spares.look_back_at()), (None, Some(now + LOOK_BACK_EVERY)));
        let at = now + LOOK_BACK_EVERY;
        assert_eq!((spares.look_back(at, &other), spares.look_back_at()), (Some(preferred), Some(at + LOOK_BACK_EVERY)));
        spares.trial = PathId::all().next();
        assert_eq!(spares.look_back_at(), None, "it is being tried");
        spares.trial = None;
        // Who was followed elsewhere stays there.
        assert_eq!((spares.look_back(at + LOOK_BACK_EVERY, &elsewhere), spares.look_back_at()), (None, None));
    }

    #[test]
    fn where_it_is_to_leave_counts_until_it_has_left() {
        let (now, [first, second, old]) = (instant(), PLACES.map(hop));
        let mut spares = spares(2).leaving(old);
        assert_eq!((spares.due(&old, now), spares.watches(), spares.next(&old)), (Some(now), true, Some(first)));
        assert_eq!((spares.look_back(now, &old), spares.look_back_at()), (None, Some(now + LOOK_BACK_EVERY)));
        // Each of them is asked in turn.
        let looks = [1, 2, 3].map(|times| spares.look_back(now + times * LOOK_BACK_EVERY, &old));
        assert_eq!(looks, [Some(second), Some(first), Some(second)]);
        spares.settle(&old);
        assert!(spares.left.is_some());
        spares.settle(&first);
        assert!(spares.left.is_none());
        let mut one = Spares::of(vec![first]).leaving(old);
        one.settle(&first);
        assert_eq!((one.due(&first, now), one.watches(), one.next(&first)), (None, false, None));
    }
}
