//! One Child SA: what is known of it, and when it is to be replaced. All of an IKE SA are in [`super::children`].

use std::time::{Duration, Instant};

use adit_proto::control::{ChildId, PeerId, SaKey, Spi};

use crate::random::Random;
use crate::timer::earlier;

use super::config::{Lifetime, Mode};
use super::event::ChildKeys;
use super::negotiate::Choice;
use super::selectors::SelectorPair;
use super::succession::REPLACED_PATIENCE;
use super::window::jittered;

/// After this time the peer has asked again for an answer that was lost, or has given up.
const SURELY_KNOWN: Duration = Duration::from_secs(180);

/// What has become of a Child SA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ChildState {
    Live,
    /// Another one has its traffic; whoever made that one deletes this one.
    Replaced {
        by: Spi,
        since: Instant,
    },
    /// Our Delete is under way or waits for its turn.
    Closing,
}

/// The outbound half of a Child SA. A key is given to the data plane once: it begins at sequence number 1, so twice would
/// repeat nonces.
#[derive(Debug)]
pub(super) enum Sending {
    /// Not installed yet.
    Waits(Box<SaKey>),
    Installed,
    /// The data plane does not have it any more, or a process that is gone had the key: nobody can say what was sent under it.
    /// Only a rekey helps.
    Lost,
}

/// The peer's rekey of a Child SA that we may be rekeying, too (RFC 7296 §2.8.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RekeyCollision {
    /// Our inbound SPI in the peer's exchange.
    pub inbound: Spi,
    pub lowest_nonce: Vec<u8>,
}

/// Bytes and packets of one SA in both directions, as the data plane counts them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub inbound_bytes: u64,
    pub inbound_packets: u64,
    pub outbound_bytes: u64,
    pub outbound_packets: u64,
}

/// When a Child SA is to be replaced and when it ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Limits {
    pub rekey_at: Option<Instant>,
    pub expire_at: Option<Instant>,
    soft: (u64, u64),
    hard: (u64, u64),
}

/// A pair of SAs.
#[derive(Debug)]
pub(super) struct Child {
    /// All lanes have it, and what takes its place in a rekey.
    pub id: ChildId,
    /// Index in the peer's configured children.
    pub config: usize,
    pub lane: u8,
    pub mode: Mode,
    pub inbound: Spi,
    pub outbound: Spi,
    pub choice: Choice,
    pub selectors: SelectorPair,
    pub born: Instant,
    pub limits: Limits,
    pub usage: Usage,
    pub sending: Sending,
    /// The inbound SPI of the Child SA whose place it takes.
    pub replaces: Option<Spi>,
    pub state: ChildState,
    /// Another one has, or had, its place: what comes late is still taken when it goes.
    pub superseded: bool,
    /// The id of the peer's CREATE_CHILD_SA that made it: as long as nothing else has come, the peer may not know of it.
    pub granted_in: Option<u32>,
    /// Our rekey of it is under way.
    pub rekeying: bool,
    pub collision: Option<RekeyCollision>,
}

impl Limits {
    /// From a configured lifetime; the soft ones come a little earlier by chance (RFC 7296 §2.8.1).
    pub(super) fn new(now: Instant, lifetime: &Lifetime, random: &mut dyn Random) -> Limits {
        let after = lifetime.rekey_after;
        let timed = !after.is_zero();
        let percent = |value: u64, percent: u64| (u128::from(value) * u128::from(percent) / 100).min(u64::MAX.into()) as u64;
        let early = 100 - u64::from(random.u32()) % (u64::from(lifetime.jitter_percent.min(90)) + 1);
        let soft = (percent(lifetime.rekey_bytes, early), percent(lifetime.rekey_packets, early));
        let hard_percent = u64::from(lifetime.hard_percent.max(100));
        let hard = (percent(lifetime.rekey_bytes, hard_percent), percent(lifetime.rekey_packets, hard_percent));
        Limits {
            rekey_at: timed.then(|| now + jittered(after, lifetime.jitter_percent, random)),
            expire_at: timed.then(|| now + after.mul_f64(hard_percent as f64 / 100.0)),
            soft,
            hard,
        }
    }
}

impl Limits {
    /// Everything in it: times, then bytes and packets, soft and hard.
    pub(super) fn parts(&self) -> (Option<Instant>, Option<Instant>, [u64; 4]) {
        (self.rekey_at, self.expire_at, [self.soft.0, self.soft.1, self.hard.0, self.hard.1])
    }

    pub(super) fn of_parts(rekey_at: Option<Instant>, expire_at: Option<Instant>, volumes: [u64; 4]) -> Limits {
        let [soft_bytes, soft_packets, hard_bytes, hard_packets] = volumes;
        Limits { rekey_at, expire_at, soft: (soft_bytes, soft_packets), hard: (hard_bytes, hard_packets) }
    }
}

impl Child {
    /// Whether so much has gone through it that it is to be replaced.
    pub(super) fn is_past_soft_limit(&self) -> bool {
        reached(&self.usage, self.limits.soft)
    }

    /// Whether so much has gone through it that nothing more may.
    pub(super) fn is_used_up(&self) -> bool {
        reached(&self.usage, self.limits.hard)
    }

    /// Whether the peer surely has it; `expected_id` is that of its next request.
    pub(super) fn is_confirmed(&self, now: Instant, expected_id: u32) -> bool {
        let old = now.saturating_duration_since(self.born) >= SURELY_KNOWN;
        old || self.usage.inbound_packets > 0 || self.granted_in.is_none_or(|id| expected_id > id + 1)
    }

    pub(super) fn is_live(&self) -> bool {
        self.state == ChildState::Live
    }

    pub(super) fn is_sending(&self) -> bool {
        matches!(self.sending, Sending::Installed)
    }

    pub(super) fn place(&self) -> (ChildId, u8) {
        (self.id, self.lane)
    }

    /// Where it is counted what the data plane refuses.
    pub(super) fn slot(&self) -> (usize, u8) {
        (self.config, self.lane)
    }

    /// One half of it, for the data plane.
    pub(super) fn keys(&self, peer: PeerId, spi: Spi, key: SaKey, replaces: Option<Spi>) -> Box<ChildKeys> {
        Box::new(ChildKeys {
            peer,
            child: self.id,
            lane: self.lane,
            spi,
            suite: self.choice.suite,
            key,
            esn: self.choice.esn,
            mode: self.mode,
            selectors: self.selectors.clone(),
            replaces,
        })
    }

    /// When something is due for it.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self.state {
            ChildState::Live => earlier(self.limits.rekey_at, self.limits.expire_at),
            ChildState::Replaced { since, .. } => earlier(Some(since + REPLACED_PATIENCE), self.limits.expire_at),
            ChildState::Closing => None,
        }
    }
}

/// A limit of zero is none.
fn reached(usage: &Usage, (bytes, packets): (u64, u64)) -> bool {
    let over = |limit, inbound: u64, outbound: u64| limit > 0 && inbound.max(outbound) >= limit;
    over(bytes, usage.inbound_bytes, usage.outbound_bytes) || over(packets, usage.inbound_packets, usage.outbound_packets)
}
