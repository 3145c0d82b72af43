//! When a client connects to which of its relays: to two at a time, after pauses that grow with each failure and are never the same for
//! two clients, and to the next of the list where one fails again and again. Pure: time and randomness are arguments.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use adit_engine::random::Random;
use adit_proto::relay::HostPort;

use crate::limits::REGISTRATIONS_MAX;

/// The pause after the first failure and the longest one; each is twice the one before.
const PAUSE: Duration = Duration::from_millis(500);
pub(crate) const PAUSE_MAX: Duration = Duration::from_secs(60);
/// A registration that lasted so long ends a row of failures; a shorter one is part of it, or a relay that falls over at once would be
/// asked all the time.
const SETTLED: Duration = Duration::from_secs(60);
/// After so many failures in a row another relay of the list is tried, where there is one.
const GIVES_WAY_AFTER: u32 = 3;
/// The shortest pause where a relay has no room.
const BUSY: Duration = Duration::from_secs(4);
/// The pause after a newer connection of the same key has taken over, and the longest one where both go on.
const REPLACED: Duration = Duration::from_secs(60);
const REPLACED_MAX: Duration = Duration::from_secs(960);
/// A relay that is about to stop may ask for no more patience than this.
const DRAIN_MAX: Duration = Duration::from_secs(600);

/// How an attempt or a registration ended, as far as it matters for the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The relay was not reached, or the connection was lost.
    Failed,
    /// The relay has no room now.
    Busy,
    /// It was refused for a reason that only people can take away.
    Refused,
    /// A newer connection of the same key holds; the relay asked for so much time.
    Replaced(Duration),
}

/// What a relay that is about to stop has said.
#[derive(Debug)]
struct Drained {
    come_back_at: Instant,
    /// Until then pauses do not grow.
    patient_until: Instant,
    /// Where to go in the meantime, those first.
    elsewhere: VecDeque<HostPort>,
}

/// Where a relay stands in the plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Two others are enough; it may be tried again after this moment.
    Spare {
        not_before: Instant,
    },
    Waiting {
        until: Instant,
    },
    Connecting,
    Registered {
        since: Instant,
    },
}

#[derive(Debug)]
struct Relay {
    phase: Phase,
    /// In a row.
    failures: u32,
    replaced: u32,
    drained: Option<Drained>,
}

/// An attempt that is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Attempt {
    pub relay: usize,
    /// What to try instead of the relay's own place, with the same pins: the relay said so when it was about to stop.
    pub elsewhere: Option<HostPort>,
}

/// The relays of a client, in the order of its configuration.
#[derive(Debug)]
pub(crate) struct Plan(Vec<Relay>);

impl Plan {
    pub(crate) fn new(now: Instant, relays: usize) -> Plan {
        let phase =
            |index| if index < REGISTRATIONS_MAX { Phase::Waiting { until: now } } else { Phase::Spare { not_before: now } };
        Plan((0..relays).map(|index| Relay { phase: phase(index), failures: 0, replaced: 0, drained: None }).collect())
    }

    pub(crate) fn phase(&self, relay: usize) -> Phase {
        self.0[relay].phase
    }

    /// The next attempt that is due. It is under way from now on.
    pub(crate) fn poll_connect(&mut self, now: Instant) -> Option<Attempt> {
        let is_due = |relay: &Relay| matches!(relay.phase, Phase::Waiting { until } if until <= now);
        let index = self.0.iter().position(is_due)?;
        let relay = &mut self.0[index];
        relay.phase = Phase::Connecting;
        let elsewhere = relay.drained.as_mut().and_then(|drained| drained.elsewhere.pop_front());
        Some(Attempt { relay: index, elsewhere })
    }

    /// When the next attempt is due.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.0.iter().filter_map(|relay| if let Phase::Waiting { until } = relay.phase { Some(until) } else { None }).min()
    }

    pub(crate) fn handle_registered(&mut self, now: Instant, relay: usize) {
        self.0[relay].phase = Phase::Registered { since: now };
        self.0[relay].drained = None;
    }

    /// The relay is about to stop. Says when to leave it: the moment at which it is to be asked again, or now, if it named others.
    pub(crate) fn handle_drain(&mut self, now: Instant, relay: usize, times: (Duration, Duration), to: Vec<HostPort>) -> Instant {
        let (come_back_in, try_for) = times;
        let come_back_at = if to.is_empty() { now + come_back_in.min(DRAIN_MAX) } else { now };
        self.0[relay].drained =
            Some(Drained { come_back_at, patient_until: come_back_at + try_for.min(DRAIN_MAX), elsewhere: to.into() });
        come_back_at
    }

    /// An attempt came to nothing, or a registration has ended.
    pub(crate) fn handle_end(&mut self, now: Instant, index: usize, end: End, random: &mut dyn Random) {
        let relay = &mut self.0[index];
        let lasted =
            if let Phase::Registered { since } = relay.phase { now.saturating_duration_since(since) } else { Duration::ZERO };
        if lasted >= SETTLED {
            relay.failures = 0;
        }
        let until = match end {
            End::Replaced(asked) => relay.after_replaced(now, lasted, asked, random),
            End::Refused => {
                relay.failures = relay.failures.max(GIVES_WAY_AFTER);
                now + jittered(PAUSE_MAX, random)
            }
            // It answers, so that it will have room is worth waiting for; but many wait.
            End::Busy => relay.after_failure(now, random).max(now + jittered(BUSY, random)),
            End::Failed => relay.after_failure(now, random),
        };
        relay.phase = Phase::Waiting { until };
        let is_leaving = relay.drained.as_ref().is_some_and(|drained| drained.elsewhere.is_empty());
        // Whoever has taken the key over has done so at the others as well: another relay is no help.
        let gives_way = !matches!(end, End::Replaced(_)) && (is_leaving || relay.failures >= GIVES_WAY_AFTER);
        if let Some(spare) = self.spare(now).filter(|_| gives_way) {
            self.0[index].phase = Phase::Spare { not_before: until };
            self.0[spare].phase = Phase::Waiting { until: now };
        }
    }

    /// The relay that takes the place of one that fails: whose pause ended first.
    fn spare(&self, now: Instant) -> Option<usize> {
        let rested = |relay: &Relay| match relay.phase {
            Phase::Spare { not_before } if not_before <= now => Some(not_before),
            _ => None,
        };
        let spares = self.0.iter().enumerate().filter_map(|(index, relay)| Some((rested(relay)?, index)));
        spares.min().map(|(_, index)| index)
    }
}

impl Relay {
    fn after_failure(&mut self, now: Instant, random: &mut dyn Random) -> Instant {
        if let Some(drained) = self.drained.as_ref().filter(|drained| now < drained.patient_until) {
            // Its end was announced: no failure, and no reason for longer pauses. The first moment was drawn by the relay.
            let others = !drained.elsewhere.is_empty();
            return if others {
                now
            } else if now < drained.come_back_at {
                drained.come_back_at
            } else {
                now + jittered(PAUSE, random)
            };
        }
        self.drained = None;
        self.failures = self.failures.saturating_add(1);
        now + jittered(PAUSE.saturating_mul(1 << (self.failures - 1).min(16)).min(PAUSE_MAX), random)
    }

    fn after_replaced(&mut self, now: Instant, lasted: Duration, asked: Duration, random: &mut dyn Random) -> Instant {
        let pause = |times: u32| REPLACED.saturating_mul(1 << times.min(16)).min(REPLACED_MAX);
        // Twice as long as the last pause without another one: that was a gateway which started again, or was moved.
        if lasted > pause(self.replaced.saturating_sub(1)) * 2 {
            self.replaced = 0;
        }
        let pause = pause(self.replaced).max(asked.min(REPLACED_MAX));
        self.replaced = self.replaced.saturating_add(1);
        // Never shorter, and not the same for both.
        now + pause + (PAUSE - jittered(PAUSE, random))
    }
}

/// Between half of a time and all of it.
fn jittered(time: Duration, random: &mut dyn Random) -> Duration {
    let part = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX) / 2;
    time - Duration::from_nanos(random.u64() % part.max(1))
}

#[cfg(test)]
mod tests;
