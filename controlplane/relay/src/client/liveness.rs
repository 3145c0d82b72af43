//! The liveness of one connection to a relay: when to ask whether it is there, how long an answer took, and when it is given up. Pure: time
//! is an argument.

use std::time::{Duration, Instant};

/// How often a relay is asked over which nothing is sent, which also keeps the mappings of the NATs on the way.
const IDLE: Duration = Duration::from_secs(10);
/// The same while something is sent.
const BUSY: Duration = Duration::from_secs(2);
/// An answer that takes longer, and four round trips, makes another relay the better choice.
const SUSPECT: Duration = Duration::from_millis(1500);
/// After so long without any byte while it was asked the connection is given up.
const SILENT: Duration = Duration::from_secs(20);

/// What is known of one connection.
#[derive(Debug)]
pub(crate) struct Liveness {
    /// The last ping: when it was sent, and its number while it is not answered.
    pinged: Instant,
    open: Option<u64>,
    pings: u64,
    /// The first ping since which nothing came at all.
    silent_since: Option<Instant>,
    /// Something was sent since the last ping.
    is_busy: bool,
    rtt: Option<Duration>,
}

impl Liveness {
    /// The first ping is due at once: the round trip is wanted.
    pub(crate) fn new(now: Instant) -> Liveness {
        let pinged = now.checked_sub(IDLE).unwrap_or(now);
        Liveness { pinged, open: None, pings: 0, silent_since: None, is_busy: false, rtt: None }
    }

    /// The last round trip.
    pub(crate) fn rtt(&self) -> Option<Duration> {
        self.rtt
    }

    /// Data was handed over to be sent.
    pub(crate) fn handle_sent(&mut self) {
        self.is_busy = true;
    }

    /// Something came, whatever it is: the relay is there.
    pub(crate) fn handle_received(&mut self) {
        self.silent_since = None;
    }

    /// An answer: the time that it took, if it answers the last ping.
    pub(crate) fn handle_pong(&mut self, now: Instant, id: u64) -> Option<Duration> {
        self.open.take_if(|open| *open == id)?;
        self.rtt = Some(now.saturating_duration_since(self.pinged));
        self.rtt
    }

    /// The number of the ping that is to be sent now, if one is. One at a time: a stream loses none.
    pub(crate) fn poll_ping(&mut self, now: Instant) -> Option<u64> {
        if self.open.is_some() || now < self.next_ping() {
            return None;
        }
        self.pings += 1;
        (self.pinged, self.is_busy, self.open) = (now, false, Some(self.pings));
        self.silent_since.get_or_insert(now);
        self.open
    }

    /// When there is something to do without anything coming in.
    pub(crate) fn poll_timeout(&self, now: Instant) -> Instant {
        let ping = Some(self.next_ping()).filter(|_| self.open.is_none());
        let [late, lost] = [self.patience(), SILENT].map(|wait| self.silent_since.map(|since| since + wait));
        let late = late.filter(|late| now < *late);
        [ping, late, lost].into_iter().flatten().min().unwrap_or(now + IDLE)
    }

    fn next_ping(&self) -> Instant {
        self.pinged + if self.is_busy { BUSY } else { IDLE }
    }

    /// Whether an answer is late.
    pub(crate) fn is_suspect(&self, now: Instant) -> bool {
        self.silent_since.is_some_and(|since| now >= since + self.patience())
    }

    /// Whether it is given up.
    pub(crate) fn is_lost(&self, now: Instant) -> bool {
        self.silent_since.is_some_and(|since| now >= since + SILENT)
    }

    fn patience(&self) -> Duration {
        SUSPECT.max(self.rtt.unwrap_or_default() * 4).min(SILENT / 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn an_idle_relay_is_asked_every_ten_seconds_and_a_busy_one_every_two() {
        let start = Instant::now();
        for (is_busy, expected) in [(false, 7), (true, 31)] {
            let mut liveness = Liveness::new(start);
            let mut pings = 0;
            for now in (0..=60_000).step_by(10).map(|ms| start + ms * MS) {
                if is_busy {
                    liveness.handle_sent();
                }
                if let Some(id) = liveness.poll_ping(now) {
                    pings += 1;
                    liveness.handle_received();
                    assert_eq!(liveness.handle_pong(now + 30 * MS, id), Some(30 * MS));
                    assert_eq!(liveness.handle_pong(now + 40 * MS, id), None, "an answer counts once");
                }
                assert!(!liveness.is_suspect(now));
            }
            assert!((expected - 1..=expected).contains(&pings), "{pings}");
        }
    }

    #[test]
    fn a_silent_relay_is_suspected_within_seconds_and_then_given_up() {
        let start = Instant::now();
        let mut liveness = Liveness::new(start);
        let id = liveness.poll_ping(start).unwrap();
        liveness.handle_received();
        liveness.handle_pong(start + 20 * MS, id).unwrap();
        let (mut suspected, mut lost) = (None, None);
        for now in (100..60_000).step_by(10).map(|ms| start + ms * MS) {
            liveness.handle_sent();
            liveness.poll_ping(now);
            assert!(suspected.is_none() || liveness.is_suspect(now), "a new ping takes no suspicion away");
            suspected = suspected.or(liveness.is_suspect(now).then_some(now));
            lost = lost.or(liveness.is_lost(now).then_some(now));
        }
        assert!(suspected.unwrap() - start <= 4000 * MS && lost.unwrap() - start <= 23_000 * MS);
        liveness.handle_received();
        assert!(!liveness.is_suspect(start + 60_000 * MS));
    }

    #[test]
    fn a_slow_relay_is_not_suspected() {
        let start = Instant::now();
        let mut liveness = Liveness::new(start);
        let (mut answers, mut first_done) = (Vec::new(), false);
        for now in (0..120_000).step_by(10).map(|ms| start + ms * MS) {
            liveness.handle_sent();
            if let Some(id) = liveness.poll_ping(now) {
                answers.push((now + 2000 * MS, id));
            }
            for (_, id) in answers.extract_if(.., |(at, _)| *at <= now) {
                liveness.handle_received();
                first_done |= liveness.handle_pong(now, id).is_some();
            }
            assert!(!liveness.is_lost(now));
            assert!(!first_done || !liveness.is_suspect(now));
            assert!(liveness.poll_timeout(now) + MS > now);
        }
        assert!(first_done);
    }
}
