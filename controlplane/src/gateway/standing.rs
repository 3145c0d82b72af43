//! What the log says of peers that are connected and not up all the same, or have a static key: what they lack, and that they lack
//! nothing any more. Pure.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use adit_proto::control::PeerId;

use super::log_dedup::LogDedup;
use crate::trouble::repeated;

/// What is lacking for less than this is nothing to be told: keys that are just being replaced, a size that is being found out.
const LACKS_FOR: Duration = Duration::from_secs(5);
/// Of more things that are lacking, so many are named.
const NAMED: usize = 2;

/// A peer at one look. `is_connected`: or it needs no connection.
#[derive(Clone, Copy, Debug)]
pub struct Look<'a> {
    pub peer: PeerId,
    pub name: &'a str,
    pub is_connected: bool,
    pub lacks: &'a [String],
}

/// A line for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    Complaint(String),
    Recovery(String),
    /// The same as before.
    Repeated(String),
}

/// Since when each peer has been lacking something, and whether that was told or counted.
#[derive(Debug, Default)]
pub struct Standings(HashMap<PeerId, (Instant, bool)>);

impl Standings {
    /// What is to be said of a peer, if anything.
    pub fn look(
        &mut self,
        now: Instant,
        Look { peer, name, is_connected, lacks }: Look<'_>,
        said: &mut LogDedup,
    ) -> Option<Line> {
        if lacks.is_empty() {
            self.0.remove(&peer);
            return said.has_all(now, peer).then(|| Line::Recovery("up again: all that is configured works".to_owned()));
        }
        if !is_connected {
            // Why is told where it happens.
            self.0.remove(&peer);
            return None;
        }
        let (since, reported) = self.0.entry(peer).or_insert((now, false));
        if *reported || now.saturating_duration_since(*since) < LACKS_FOR {
            return None;
        }
        *reported = true;
        let more = lacks.len().saturating_sub(NAMED);
        let more = if more > 0 { format!("; and {more} more") } else { String::new() };
        let line = format!("not up: {}{more}", lacks[..lacks.len().min(NAMED)].join("; "));
        Some(match said.lacks(now, peer, &kind(&lacks[0])) {
            Some(times) => Line::Complaint(format!("{line}{}. `adit explain {name}` says more", repeated(times))),
            None => Line::Repeated(line),
        })
    }

    /// What follows is news.
    pub fn forget(&mut self, peer: PeerId) {
        self.0.remove(&peer);
    }
}

/// How many of what is lacking, or which, makes no other reason.
fn kind(lack: &str) -> String {
    lack.chars().filter(|c| !c.is_ascii_digit()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: PeerId = PeerId(3);

    /// One peer that is looked at again and again.
    struct Scene {
        start: Instant,
        said: LogDedup,
        standings: Standings,
    }

    impl Scene {
        fn new() -> Scene {
            Scene { start: Instant::now(), said: LogDedup::default(), standings: Standings::default() }
        }

        fn at(&self, s: u64) -> Instant {
            self.start + Duration::from_secs(s)
        }

        fn look(&mut self, s: u64, is_connected: bool, lacks: &[&str]) -> Option<Line> {
            let lacks: Vec<String> = lacks.iter().map(|lack| (*lack).to_owned()).collect();
            let look = Look { peer: PEER, name: "b", is_connected, lacks: &lacks };
            self.standings.look(self.at(s), look, &mut self.said)
        }
    }

    fn complaint(line: Option<Line>) -> String {
        match line {
            Some(Line::Complaint(line)) => line,
            other => panic!("no complaint: {other:?}"),
        }
    }

    fn recovers(line: Option<Line>) -> bool {
        matches!(line, Some(Line::Recovery(_)))
    }

    #[test]
    fn what_a_connected_peer_lacks_is_told_and_its_end_too() {
        for lack in [
            "no echo comes back from 192.0.2.2:4500",
            "how long packets to 192.0.2.2:4500 may be is not known yet",
            "the data plane has 3 of 4 lanes",
            "no Child SA carries 10.1.0.0/16 <> 10.2.0.0/16",
        ] {
            let mut scene = Scene::new();
            assert_eq!(scene.look(0, true, &[lack]), None, "it may pass");
            let line = complaint(scene.look(5, true, &[lack]));
            assert_eq!(line, format!("not up: {lack}. `adit explain b` says more"));
            assert_eq!(scene.look(10, true, &[lack]), None, "once");
            assert!(recovers(scene.look(15, true, &[])), "{lack}");
            assert_eq!(scene.look(20, true, &[]), None, "once");
        }
    }

    #[test]
    fn what_passes_by_itself_or_is_told_elsewhere_is_not_told() {
        let mut scene = Scene::new();
        for s in [0, 10, 20] {
            assert_eq!(scene.look(s, true, &["the data plane has 3 of 4 lanes"]), None);
            assert_eq!(scene.look(s + 4, true, &[]), None);
        }
        for s in 30..60 {
            assert_eq!(scene.look(s, false, &["not connected: there was no answer yet"]), None);
        }
        assert_eq!(scene.look(60, true, &[]), None);
    }

    #[test]
    fn a_child_sa_that_failed_once_and_is_made_then_has_recovered() {
        let mut scene = Scene::new();
        assert_eq!(scene.said.news(scene.at(0), PEER, "established", Some(true), false), Some(0));
        assert_eq!(scene.said.news(scene.at(100), PEER, "TS_UNACCEPTABLE", None, true), Some(0));
        assert_eq!(scene.look(101, true, &["no Child SA carries 10.1.0.0/16 <> 10.2.0.0/16"]), None);
        assert!(recovers(scene.look(104, true, &[])));
        // Of one that is up all the time and asks for what it cannot have, that is told once an hour.
        let reported = (200..3800).filter(|s| {
            let failed = scene.said.news(scene.at(*s), PEER, "TS_UNACCEPTABLE", None, true).is_some();
            let up = scene.look(*s, true, &[]);
            failed || up.is_some()
        });
        assert_eq!(reported.collect::<Vec<_>>(), [3700]);
    }

    #[test]
    fn what_comes_and_goes_is_folded_and_its_end_says_how_often_it_came() {
        let mut scene = Scene::new();
        let mut lines = Vec::new();
        for round in 0..30 {
            let s = round * 20;
            let lack = format!("the data plane has {} of 40 lanes", round + 1);
            lines.extend([scene.look(s, true, &[&lack]), scene.look(s + 6, true, &[&lack]), scene.look(s + 12, true, &[])]);
            assert_eq!(scene.said.well_again(scene.at(s + 12)), [], "it goes on");
        }
        let said: Vec<&Line> = lines.iter().flatten().filter(|line| !matches!(line, Line::Repeated(_))).collect();
        assert!(matches!(said[..], [Line::Complaint(_), Line::Recovery(_)]), "{said:?}");
        assert_eq!(scene.said.well_again(scene.at(29 * 20 + 72)), [(PEER, 29)]);
        // After that it is news.
        assert_eq!(scene.look(1000, true, &["no echo comes back from 192.0.2.2:4500"]), None);
        complaint(scene.look(1005, true, &["no echo comes back from 192.0.2.2:4500"]));
    }

    #[test]
    fn a_peer_that_lacks_something_is_not_well_however_long_it_is_connected() {
        let mut scene = Scene::new();
        let lack = ["no Child SA carries 10.1.0.0/16 <> 10.2.0.0/16"];
        assert_eq!(scene.look(0, true, &lack), None);
        complaint(scene.look(5, true, &lack));
        for s in 6..1000 {
            scene.said.news(scene.at(s), PEER, "established", Some(true), false);
            scene.said.news(scene.at(s), PEER, "TS_UNACCEPTABLE", None, true);
            assert_eq!(scene.look(s, true, &lack), None);
            assert_eq!(scene.said.well_again(scene.at(s)), [], "after {s} s");
        }
        assert!(recovers(scene.look(1000, true, &[])));
        assert_eq!(scene.said.well_again(scene.at(1060)), [(PEER, 993)]);
    }

    #[test]
    fn of_many_things_a_few_are_named() {
        let mut scene = Scene::new();
        let all: Vec<String> = (0..64).map(|n| format!("no Child SA carries 10.{n}.0.0/16")).collect();
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        assert_eq!(scene.look(0, true, &all), None);
        let line = complaint(scene.look(5, true, &all));
        assert!(
            line.starts_with("not up: no Child SA carries 10.0.0.0/16; no Child SA carries 10.1.0.0/16; and 62 more. "),
            "{line}"
        );
    }
}
