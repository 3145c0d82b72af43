//! The state of the connection to one peer, above the IKE SAs that come and go.
//!
//! ```text
//!            connect                 authenticated            rekey sent
//!   Idle ─────────────▶ Connecting ───────────────▶ Established ◀────────▶ Rekeying
//!    ▲                    ▲    │                      │   done or refused
//!    │ disconnect         │    │ no answer, refused   │ lost
//!    │ (from anywhere)    │    ▼                      ▼
//!    │              time  └── Reconnecting ◀──────────┘      as long as the connection is wanted
//!    │                            or
//!    └───────────────────────── Failed                       when it is not, or the peer has to come to us
//! ```
//! A peer that comes to us leads from any state to Established.

use std::time::{Duration, Instant};

use crate::random::Random;

use super::cause::Cause;
use super::config::Backoff;

/// A connection that was in its state for so long does not come and go.
const STEADY: Duration = Duration::from_secs(10);

/// Where a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConnectionState {
    /// Down, and nothing is done about it.
    Idle,
    /// An IKE SA is being negotiated, begun by us.
    Connecting,
    Established,
    /// Established, and a rekey or a new authentication begun by us is under way.
    Rekeying,
    /// Down; the next attempt follows by itself.
    Reconnecting,
    /// Down with a cause; the next attempt is up to the peer or a command.
    Failed,
}

impl ConnectionState {
    pub const ALL: [ConnectionState; 6] = [
        ConnectionState::Idle,
        ConnectionState::Connecting,
        ConnectionState::Established,
        ConnectionState::Rekeying,
        ConnectionState::Reconnecting,
        ConnectionState::Failed,
    ];

    /// The name in status and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            ConnectionState::Idle => "idle",
            ConnectionState::Connecting => "connecting",
            ConnectionState::Established => "established",
            ConnectionState::Rekeying => "rekeying",
            ConnectionState::Reconnecting => "reconnecting",
            ConnectionState::Failed => "failed",
        }
    }

    /// Whether traffic can flow.
    pub const fn is_up(self) -> bool {
        matches!(self, ConnectionState::Established | ConnectionState::Rekeying)
    }
}

/// The state and what decides about the next one.
#[derive(Debug)]
pub(super) struct Connection {
    pub state: ConnectionState,
    /// Why it is down, or was last.
    pub cause: Option<Cause>,
    /// Since when it is in this state.
    pub since: Instant,
    /// Whether we are to connect, and connect again.
    pub wanted: bool,
    /// A person has ended it: it is not begun by itself, in this process or the next, until a person says so.
    pub held: bool,
    /// Attempts since it was last up.
    pub attempts: u32,
    pub retry_at: Option<Instant>,
}

impl Connection {
    pub(super) fn new(now: Instant) -> Connection {
        Connection {
            state: ConnectionState::Idle,
            cause: None,
            since: now,
            wanted: false,
            held: false,
            attempts: 0,
            retry_at: None,
        }
    }

    /// Enters a state; says whether it is another one.
    pub(super) fn enter(&mut self, now: Instant, state: ConnectionState, cause: Option<Cause>) -> bool {
        let changed = self.state != state;
        if changed {
            self.since = now;
        }
        self.state = state;
        match state {
            ConnectionState::Established => {
                self.attempts = 0;
                self.retry_at = None;
            }
            ConnectionState::Connecting => {
                self.attempts = self.attempts.saturating_add(1);
                self.retry_at = None;
            }
            ConnectionState::Idle | ConnectionState::Failed => self.retry_at = None,
            ConnectionState::Rekeying | ConnectionState::Reconnecting => {}
        }
        if cause.is_some() {
            self.cause = cause;
        }
        changed
    }

    /// The state after the last IKE SA, or the attempt to make one, is gone; sets the time of the next attempt.
    pub(super) fn lost(&mut self, now: Instant, cause: &Cause, backoff: &Backoff, random: &mut dyn Random) -> ConnectionState {
        let state = match cause {
            Cause::Command | Cause::Removed => ConnectionState::Idle,
            _ if self.wanted => ConnectionState::Reconnecting,
            _ => ConnectionState::Failed,
        };
        let delay = match cause {
            Cause::WantsChildless => Duration::ZERO,
            // The peer is there and waits: nothing is won by waiting, too.
            Cause::PeerCrashed | Cause::Expired if self.attempts == 0 => Duration::ZERO,
            // One that authenticates anew by closing first, as some do (RFC 7296 §2.8.3 allows it), but not again and again.
            Cause::PeerClosed if self.attempts == 0 && self.was_up_for(now, STEADY) => Duration::ZERO,
            _ => wait(backoff, self.attempts, random),
        };
        if state == ConnectionState::Reconnecting {
            self.retry_at = Some(now + delay);
        }
        state
    }

    fn was_up_for(&self, now: Instant, time: Duration) -> bool {
        self.state.is_up() && now.saturating_duration_since(self.since) >= time
    }

    /// Whether the next attempt is due.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.state == ConnectionState::Reconnecting && self.retry_at.is_some_and(|at| at <= now)
    }
}

/// The wait before the attempt after `attempts` ones: doubled each time, plus or minus a quarter.
fn wait(backoff: &Backoff, attempts: u32, random: &mut dyn Random) -> Duration {
    let doubled = backoff.first.saturating_mul(1 << attempts.saturating_sub(1).min(16)).min(backoff.max);
    doubled * (750 + random.u32() % 501) / 1000
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ike::testing::instant;

    const BACKOFF: Backoff = Backoff { first: Duration::from_secs(1), max: Duration::from_secs(60) };

    fn middle(out: &mut [u8]) {
        // 250 more than 750 permille: no change.
        out.fill(0);
        out[out.len() - 1] = 250;
    }

    #[test]
    fn waits_double_up_to_the_longest() {
        let waits: Vec<u64> = (0..9).map(|attempts| wait(&BACKOFF, attempts, &mut middle).as_secs()).collect();
        assert_eq!(waits, [1, 1, 2, 4, 8, 16, 32, 60, 60]);
        let mut low = |out: &mut [u8]| out.fill(0);
        let mut high = |out: &mut [u8]| {
            out.fill(0);
            out[2..].copy_from_slice(&500u16.to_be_bytes());
        };
        assert_eq!(wait(&BACKOFF, 4, &mut low), Duration::from_secs(6));
        assert_eq!(wait(&BACKOFF, 4, &mut high), Duration::from_secs(10));
    }

    #[test]
    fn what_follows_a_loss_depends_on_who_wants_the_connection() {
        let now = instant();
        let mut connection = Connection::new(now);
        assert_eq!(connection.lost(now, &Cause::PeerClosed, &BACKOFF, &mut middle), ConnectionState::Failed);
        connection.wanted = true;
        assert_eq!(connection.lost(now, &Cause::PeerClosed, &BACKOFF, &mut middle), ConnectionState::Reconnecting);
        assert_eq!(connection.lost(now, &Cause::Command, &BACKOFF, &mut middle), ConnectionState::Idle);
    }

    #[test]
    fn a_crashed_peer_is_called_at_once_and_then_with_patience() {
        let now = instant();
        let mut connection = Connection::new(now);
        connection.wanted = true;
        connection.enter(now, ConnectionState::Established, None);
        let state = connection.lost(now, &Cause::PeerCrashed, &BACKOFF, &mut middle);
        connection.enter(now, state, Some(Cause::PeerCrashed));
        assert!(connection.is_due(now));
        connection.enter(now, ConnectionState::Connecting, None);
        let state = connection.lost(now, &Cause::PeerCrashed, &BACKOFF, &mut middle);
        connection.enter(now, state, None);
        assert!(!connection.is_due(now) && connection.is_due(now + Duration::from_secs(1)));
        connection.enter(now, ConnectionState::Established, None);
        assert_eq!((connection.attempts, connection.retry_at), (0, None));
    }
}
