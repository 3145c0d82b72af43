//! The largest packet that a path carries (RFC 8899, DPLPMTUD). Sizes are those of the outer IP packet, in bytes.
//!
//! ```text
//!      nothing answered: again, ever more rarely
//!         ┌───┐
//!         ▼   │  answered           once               nothing left to try
//!   ┌──▶ Start ──────────▶ Spread ──────▶ Searching ─────────────────────▶ Settled ◀──┐ the size in use was answered,
//!   │                        ▲                ▲                             │  │  │    │ or nothing was
//!   │                        │                └────── time to try more ─────┘  │  │    │
//!   │                        └────────────────── large lost, small answered ── Suspect ┘
//!   └── never leaves without a proof               (a black hole)           ▲     │
//!                                                                           └─────┘ an echo of the size in use was lost
//! ```
//! It begins with the size last proven here, or the route's, with 1280 and with the smallest, all at once. Unless the link takes no more
//! than was answered, all sizes that links have follow at once: what takes longer than that is found out while hosts are told what is
//! known. It shrinks at once and grows after three echoes. That large ones are lost *and* small ones confirmed makes a black hole; loss
//! alone makes none.
//! Towards peers without echoes there is only what the link takes, and what routers say of packets that were seen to be ours: that is
//! believed for ten minutes, then more is tried again (RFC 1191 §6.3, RFC 8201 §4).

use std::time::{Duration, Instant};

use adit_proto::limits;

use super::loss::Loss;
use crate::limits::{ECHOES_PENDING_MAX, ROUNDS_MAX};

/// What a path is taken to carry until an echo was answered: so much every path of today does.
const BASE_V4: u16 = 1100;
const BASE_V6: u16 = limits::IPV6_MTU_MIN;
/// Below this no router is believed (RFC 791, RFC 8200 §5).
pub(crate) const FLOOR_V4: u16 = limits::IPV4_MTU_MIN;
pub(crate) const FLOOR_V6: u16 = limits::IPV6_MTU_MIN;
/// Tried at once together with what is hoped for: the least that IPv6 carries, and so most tunnels on the way.
const COMMON: u16 = limits::IPV6_MTU_MIN;
/// Without a route that knows better.
const ETHERNET: u16 = 1500;
/// Sizes that links have: tried before the range is halved.
const LIKELY: [u16; 10] = [COMMON, 1400, 1420, 1440, 1452, 1472, 1480, 1492, 1500, 9000];
/// A range that is smaller than this is not searched any further.
const GRAIN: u16 = 8;

/// Whoever answered to the last message of a handshake gives the other end so long to take it in, before it sends echoes.
const HEAD_START: Duration = Duration::from_millis(50);
/// How long an answer may take: three round trips, within these.
const WAIT_MIN: Duration = Duration::from_millis(200);
const WAIT_MAX: Duration = Duration::from_secs(2);
const WAIT_FIRST: Duration = Duration::from_millis(300);
/// An echo that is confirmed over and over is missed after a round trip with a quarter and this to spare.
const OVERDUE_SLACK: Duration = Duration::from_millis(50);
/// Echoes of one size before it counts as carried.
const GROW_ECHOES: u8 = 3;
/// Rounds of a search step and of a start, and of a suspicion.
const ROUNDS: u8 = 3;
const SUSPECT_ROUNDS: u8 = 3;
/// The rounds of a suspicion do not wait for one another: two round trips and a half, and a second, are all that a black hole lasts.
const SUSPECT_EVERY: Duration = Duration::from_millis(150);
/// Small ones that must be answered beside the large ones that are lost, and for so long a large one may come after a small one.
const SUSPECT_SMALL: u8 = 2;
const REORDERED: Duration = Duration::from_millis(50);
/// Pause after a start to which nobody answered: doubled each time, at most so long.
const RESTART_MAX: Duration = Duration::from_secs(60);
/// More is tried again after this time (RFC 8899 §5.1.1: PMTU_RAISE_TIMER).
const RAISE_AFTER: Duration = Duration::from_secs(600);
/// The size in use is confirmed so often: while there is traffic, so that a black hole is noticed within two seconds, and without.
const CONFIRM_ACTIVE: Duration = Duration::from_millis(500);
const CONFIRM_IDLE: Duration = Duration::from_secs(30);
/// The same where there is another way to the peer, which is to be noticed within fifteen seconds.
const CONFIRM_WATCHED: Duration = Duration::from_secs(5);
/// For so long after the last packet there is traffic.
const ACTIVE_FOR: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The peer answers no echoes.
    NoEchoes,
    Start {
        round: u8,
        pause: Duration,
    },
    /// All sizes that links have are tried at once, or are about to be.
    Spread {
        asked: bool,
    },
    /// `size` is being tried; `answered` of it were.
    Searching {
        size: u16,
        answered: u8,
        round: u8,
    },
    Settled,
    /// Echoes of the size in use, and small ones, of which so many came back. A round more is patience.
    Suspect {
        round: u8,
        small: u8,
    },
}

#[derive(Clone, Copy, Debug)]
struct Pending {
    id: u64,
    size: u16,
    at: Instant,
}

/// The largest packet that is sure to arrive where nothing has been proven, or `hoped` if that is more, and the kernel knows this of
/// the route.
pub(crate) fn sure(v6: bool, route: Option<u16>, hoped: u16) -> u16 {
    let (base, floor) = if v6 { (BASE_V6, FLOOR_V6) } else { (BASE_V4, FLOOR_V4) };
    let most = base.max(hoped);
    route.unwrap_or(most).clamp(floor, most)
}

/// What is known of one path.
#[derive(Clone, Debug)]
pub(crate) struct Mtu {
    v6: bool,
    phase: Phase,
    /// What may be sent.
    size: u16,
    /// The largest that an echo has proven; 0: none yet.
    confirmed: u16,
    /// Where it is begun.
    hint: u16,
    /// Above which nothing is sent: what the kernel says of the link. What it has heard from routers, in whose name anybody may speak,
    /// is only where a search begins.
    link: u16,
    route: u16,
    ceiling: u16,
    /// Known not to be carried; above the ceiling where nothing is.
    too_large: u16,
    pending: Vec<Pending>,
    /// Nothing is settled since the path began, or since it turned out to carry less.
    is_open: bool,
    /// When the next thing is due: an answer overdue, or the next echo.
    next: Option<Instant>,
    raise_at: Option<Instant>,
    active_until: Option<Instant>,
    rtt: Option<Duration>,
    /// Of echoes of sizes that are proven.
    loss: Loss,
    /// None of the last echoes was answered, of whatever size.
    silent: bool,
    /// Whether that is looked for where the size in use is the least.
    watched: bool,
    /// How often a black hole was found.
    pub black_holes: u64,
}

impl Mtu {
    /// A path of which the kernel knows `route` with what routers have said, and `link` without, and that once carried `proven`.
    pub(crate) fn new(v6: bool, [route, link]: [Option<u16>; 2], proven: Option<u16>, echoes: bool) -> Mtu {
        let mut mtu = Mtu {
            v6,
            phase: Phase::NoEchoes,
            size: 0,
            confirmed: 0,
            hint: 0,
            link: 0,
            route: 0,
            ceiling: 0,
            too_large: 0,
            pending: Vec::new(),
            is_open: echoes,
            next: None,
            raise_at: None,
            active_until: None,
            rtt: None,
            loss: Loss::default(),
            silent: false,
            watched: false,
            black_holes: 0,
        };
        (mtu.link, mtu.route) = (mtu.clamped(link), mtu.clamped(route));
        mtu.ceiling = mtu.link;
        mtu.too_large = mtu.ceiling.saturating_add(1);
        mtu.hint = proven.unwrap_or(mtu.route).clamp(mtu.base(), mtu.ceiling.max(mtu.base()));
        mtu.size = if echoes { mtu.base() } else { mtu.ceiling };
        if echoes {
            mtu.phase = Phase::Start { round: 0, pause: Duration::ZERO };
        }
        mtu
    }

    fn base(&self) -> u16 {
        if self.v6 { BASE_V6 } else { BASE_V4 }
    }

    fn floor(&self) -> u16 {
        if self.v6 { FLOOR_V6 } else { FLOOR_V4 }
    }

    fn clamped(&self, mtu: Option<u16>) -> u16 {
        mtu.unwrap_or(ETHERNET).clamp(self.floor(), limits::ECHO_SIZE_MAX)
    }

    /// The largest outer packet that may be sent now.
    pub(crate) fn size(&self) -> u16 {
        self.size
    }

    /// The largest outer packet that is sure to arrive, as far as can be known, for what must not be lost; `hoped` where nothing has
    /// been proven and that is more.
    pub(crate) fn sure(&self, hoped: u16) -> u16 {
        if self.confirmed > 0 { self.size } else { sure(self.v6, Some(self.size.max(hoped).min(self.route)), hoped) }
    }

    /// What hosts are told that fits. While it is not known yet what does, all that may: they would remember less for minutes.
    pub(crate) fn reported(&self) -> u16 {
        let may = if self.is_open { self.most() } else { 0 };
        self.size.max(may)
    }

    /// The largest that an echo has proven.
    pub(crate) fn proven(&self) -> Option<u16> {
        (self.confirmed > 0).then_some(self.confirmed)
    }

    /// What the route would carry.
    pub(crate) fn ceiling(&self) -> u16 {
        self.ceiling
    }

    pub(crate) fn rtt(&self) -> Option<Duration> {
        self.rtt
    }

    /// How many of the last echoes were lost, and of how many.
    pub(crate) fn loss(&self) -> Option<(u32, u32)> {
        self.loss.of_last()
    }

    /// Whether nobody answers there.
    pub(crate) fn is_silent(&self) -> bool {
        self.silent
    }

    /// There is another way to the peer: whether this one is silent matters at every size.
    pub(crate) fn watch(&mut self, watched: bool) {
        self.watched = watched;
    }

    /// A process before this one has proven so much: it is tried first, if nothing is proven so far.
    pub(crate) fn expect(&mut self, size: u16) {
        if self.confirmed == 0 && self.phase != Phase::NoEchoes {
            self.hint = size.clamp(self.base(), self.ceiling.max(self.base()));
        }
    }

    /// The peer learns just now that it may be sent packets.
    pub(crate) fn give_head_start(&mut self, now: Instant) {
        if matches!(self.phase, Phase::Start { round: 0, .. }) && self.next.is_none() {
            self.next = Some(now + HEAD_START);
        }
    }

    /// The peer answers echoes, or does not: what is known of it came after the path.
    pub(crate) fn set_echoes(&mut self, echoes: bool) {
        match (echoes, self.phase) {
            (true, Phase::NoEchoes) => {
                (self.phase, self.is_open) = (Phase::Start { round: 0, pause: Duration::ZERO }, true);
                (self.ceiling, self.too_large, self.hint) = (self.link, self.link.saturating_add(1), self.route.max(self.base()));
                (self.size, self.next) = (self.base(), None);
            }
            (false, phase) if phase != Phase::NoEchoes => {
                (self.phase, self.size, self.next) = (Phase::NoEchoes, self.link, None);
                self.ceiling = self.link;
                self.is_open = false;
                self.pending.clear();
            }
            _ => {}
        }
    }

    /// The route has another MTU: below what is in use it holds at once, above it there is something to look for.
    pub(crate) fn set_route(&mut self, now: Instant, route: Option<u16>, link: Option<u16>) {
        (self.route, self.link) = (self.clamped(route), self.clamped(link));
        let ceiling = self.link;
        if ceiling == self.ceiling {
            return;
        }
        let grows = ceiling > self.ceiling;
        (self.ceiling, self.too_large) = (ceiling, ceiling.saturating_add(1));
        if self.phase == Phase::NoEchoes {
            (self.size, self.next) = (ceiling, None);
        } else if ceiling < self.size {
            (self.size, self.confirmed) = (ceiling, self.confirmed.min(ceiling));
            self.settle(now);
        } else if grows && self.phase == Phase::Settled {
            self.search(now);
        }
    }

    /// A router says that it could not pass on a packet of ours, and quotes a live SPI. Says whether less is sent from now on.
    pub(crate) fn too_big(&mut self, now: Instant, mtu: u16) -> bool {
        let least = if self.phase == Phase::NoEchoes { self.floor() } else { self.base() };
        let mtu = mtu.max(least);
        if mtu >= self.size {
            return false;
        }
        (self.size, self.confirmed, self.too_large) = (mtu, self.confirmed.min(mtu), mtu.saturating_add(1));
        if self.phase == Phase::NoEchoes {
            self.next = Some(now + RAISE_AFTER);
        } else {
            self.settle(now);
        }
        true
    }

    /// Packets of tunnels go this way now.
    pub(crate) fn is_active(&mut self, now: Instant) {
        self.active_until = Some(now + ACTIVE_FOR);
        if self.phase == Phase::Settled {
            self.next = self.next.map(|at| at.min(now + CONFIRM_ACTIVE));
        }
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.next
    }

    fn wait(&self) -> Duration {
        self.rtt.map_or(WAIT_FIRST, |rtt| (3 * rtt).clamp(WAIT_MIN, WAIT_MAX))
    }

    /// When an answer is missed of which it is known how long it takes.
    fn overdue(&self) -> Duration {
        self.rtt.map_or(WAIT_FIRST, |rtt| (rtt * 5 / 4 + OVERDUE_SLACK).clamp(WAIT_MIN, WAIT_MAX))
    }

    /// Towards a peer without echoes: what routers have said is old, and all that the link takes is sent again.
    pub(crate) fn forget_routers(&mut self, now: Instant) {
        if self.phase == Phase::NoEchoes && self.next.is_some_and(|at| at <= now) {
            (self.size, self.next, self.too_large) = (self.ceiling, None, self.ceiling.saturating_add(1));
        }
    }

    /// The sizes of which an echo is to be sent now. The path has keys.
    pub(crate) fn due(&mut self, now: Instant) -> Vec<u16> {
        // One thing may end and the next begin at once: a few times, never for ever.
        for _ in 0..ROUNDS_MAX {
            if self.phase == Phase::NoEchoes || self.next.is_some_and(|at| at > now) {
                break;
            }
            let sizes = self.step(now);
            if !sizes.is_empty() {
                return sizes;
            }
        }
        Vec::new()
    }

    fn step(&mut self, now: Instant) -> Vec<u16> {
        let wait = self.wait();
        // What is longer on its way than the rounds take is lost, but the way may just have become longer.
        let lost = (wait * u32::from(ROUNDS)).max(WAIT_MAX);
        self.pending.retain(|pending| now.saturating_duration_since(pending.at) < lost);
        self.loss.give_up(now, lost);
        match self.phase {
            Phase::NoEchoes => Vec::new(),
            Phase::Start { .. } if self.confirmed > 0 => {
                // What was hoped for was lost, and smaller ones were not.
                self.phase = Phase::Spread { asked: false };
                Vec::new()
            }
            Phase::Start { round, pause } if round < ROUNDS => {
                (self.phase, self.next) = (Phase::Start { round: round + 1, pause }, Some(now + wait));
                let mut sizes = vec![self.hint, COMMON.clamp(self.base(), self.hint), self.base()];
                sizes.dedup();
                sizes
            }
            Phase::Start { pause, .. } => {
                let pause = (pause * 2).clamp(Duration::from_secs(1), RESTART_MAX);
                self.silent = true;
                (self.phase, self.next) = (Phase::Start { round: 0, pause }, Some(now + pause));
                Vec::new()
            }
            Phase::Spread { asked: false } => {
                (self.phase, self.next) = (Phase::Spread { asked: true }, Some(now + wait));
                self.spread()
            }
            Phase::Spread { asked: true } => {
                // From here on hosts are told what is known.
                self.is_open = false;
                self.search(now);
                Vec::new()
            }
            Phase::Searching { size, answered, round } => self.search_on(now, size, answered, round),
            Phase::Settled => self.confirm(now),
            Phase::Suspect { round, small } => self.suspect_on(now, round, small),
        }
    }

    pub(crate) fn sent(&mut self, now: Instant, id: u64, size: u16) {
        if self.pending.len() == ECHOES_PENDING_MAX {
            self.pending.remove(0);
        }
        self.pending.push(Pending { id, size, at: now });
        if size <= self.confirmed {
            self.loss.sent(now, id);
        }
    }

    /// An echo came back; `rtt` as the data plane measured it. Says whether it is one of these.
    pub(crate) fn answered(&mut self, now: Instant, id: u64, rtt: Duration) -> bool {
        self.loss.answered(id);
        let Some(index) = self.pending.iter().position(|pending| pending.id == id) else { return false };
        let Pending { size, at, .. } = self.pending.remove(index);
        self.silent = false;
        self.rtt = Some(self.rtt.map_or(rtt, |before| (before * 7 + rtt) / 8));
        match &mut self.phase {
            Phase::NoEchoes => {}
            Phase::Start { .. } | Phase::Spread { .. } => {
                self.confirmed = self.confirmed.max(size);
                self.size = self.size.max(self.confirmed);
                if self.confirmed >= self.most() {
                    self.settle(now);
                } else if self.confirmed >= self.hint && matches!(self.phase, Phase::Start { .. }) {
                    (self.phase, self.next) = (Phase::Spread { asked: false }, Some(now));
                }
            }
            Phase::Searching { size: tried, answered, .. } if size == *tried => {
                *answered += 1;
                if *answered >= GROW_ECHOES {
                    (self.confirmed, self.size) = (size, size);
                    self.search(now);
                }
            }
            Phase::Settled | Phase::Searching { .. } => {
                // Counted as proof of what is in use.
                if size >= self.size {
                    self.confirmed = self.size;
                }
                if self.phase == Phase::Settled && self.pending.is_empty() {
                    self.next = Some(now.max(at + self.pace(now)));
                }
            }
            Phase::Suspect { round, small } => {
                if size >= self.size {
                    self.resume(now);
                } else {
                    *small += 1;
                    // The large ones of its round went before it.
                    let is_reported = *round > SUSPECT_ROUNDS && *small >= SUSPECT_SMALL;
                    self.next = self.next.map(|at| if is_reported { at.min(now + REORDERED) } else { at });
                }
            }
        }
        true
    }

    /// The largest that may be carried.
    fn most(&self) -> u16 {
        self.ceiling.min(self.too_large.saturating_sub(1))
    }

    /// Sizes above what is confirmed, the largest first: all that may be, what was hoped for, and what links have.
    fn spread(&self) -> Vec<u16> {
        let mut sizes: Vec<u16> = LIKELY.into_iter().chain([self.most(), self.hint]).collect();
        sizes.retain(|size| (self.confirmed + 1..=self.most()).contains(size));
        sizes.sort_unstable_by(|a, b| b.cmp(a));
        sizes.dedup();
        sizes
    }

    /// Looks for more than what is confirmed: the next size, or none.
    fn search(&mut self, now: Instant) {
        let (low, high) = (self.confirmed.max(self.base()), self.most().saturating_add(1));
        if low.saturating_add(GRAIN) >= high && high <= self.ceiling || low >= self.ceiling {
            return self.settle(now);
        }
        // First all at once, then what links have, then the middle.
        let whole = (high > self.ceiling).then_some(self.ceiling);
        let likely =
            LIKELY.iter().rev().copied().find(|size| *size > low && *size < high && *size - low <= (high - low) / 2 + 64);
        let size = whole.or(likely).unwrap_or(low + (high - low) / 2);
        self.phase = Phase::Searching { size, answered: 0, round: 0 };
        self.next = Some(now);
    }

    fn search_on(&mut self, now: Instant, size: u16, answered: u8, round: u8) -> Vec<u16> {
        if round >= ROUNDS || round >= 2 && answered == 0 {
            self.too_large = self.too_large.min(size);
            self.search(now);
            return Vec::new();
        }
        self.phase = Phase::Searching { size, answered, round: round + 1 };
        self.next = Some(now + self.wait());
        vec![size; usize::from(GROW_ECHOES - answered.min(GROW_ECHOES - 1))]
    }

    fn settle(&mut self, now: Instant) {
        (self.phase, self.is_open) = (Phase::Settled, false);
        self.pending.clear();
        self.raise_at = (self.size < self.ceiling).then(|| now + RAISE_AFTER);
        self.next = Some(now + self.pace(now));
    }

    /// The size in use is what it was before an echo of it was lost: that does not put off when more is tried.
    fn resume(&mut self, now: Instant) {
        let raise_at = self.raise_at.filter(|_| self.size < self.ceiling);
        self.settle(now);
        self.raise_at = raise_at.or(self.raise_at);
    }

    fn pace(&self, now: Instant) -> Duration {
        match self.active_until.is_some_and(|until| until > now) {
            true => CONFIRM_ACTIVE,
            false if self.watched => CONFIRM_WATCHED,
            false => CONFIRM_IDLE,
        }
    }

    /// Whether the size in use still passes.
    fn confirm(&mut self, now: Instant) -> Vec<u16> {
        if self.raise_at.is_some_and(|at| at <= now) {
            self.too_large = self.ceiling.saturating_add(1);
            self.search(now);
            return Vec::new();
        }
        let (wait, pace) = (self.overdue(), self.pace(now));
        let missed_at = self.pending.first().map(|oldest| oldest.at + wait);
        if missed_at.is_some_and(|at| at <= now) {
            self.phase = Phase::Suspect { round: 0, small: 0 };
            return self.suspect_on(now, 0, 0);
        }
        // Where a round trip is longer than the pace the next echo does not wait for the answer to the one before.
        let again_at = self.pending.last().map(|newest| newest.at + pace);
        if let (Some(missed_at), Some(again_at)) = (missed_at, again_at.filter(|at| *at > now)) {
            self.next = Some(missed_at.min(again_at));
            return Vec::new();
        }
        if self.size > self.base() || self.watched {
            // Its answer is looked for when it should be there; once it is, the next echo comes after the pace.
            self.next = Some(missed_at.unwrap_or(now + wait).min(now + pace));
            return vec![self.size];
        }
        self.next = Some(now + pace);
        Vec::new()
    }

    fn suspect_on(&mut self, now: Instant, round: u8, small: u8) -> Vec<u16> {
        if round < SUSPECT_ROUNDS {
            self.phase = Phase::Suspect { round: round + 1, small };
            self.next = Some(now + if round + 1 < SUSPECT_ROUNDS { SUSPECT_EVERY } else { self.overdue() });
            // Two of the large ones, so that loss seldom takes all of them.
            return vec![self.size, self.size, self.base()];
        }
        if small >= SUSPECT_SMALL {
            self.black_holes += 1;
            // It was no loss: it is another path from now on.
            self.loss = Loss::default();
            (self.too_large, self.is_open) = (self.size, true);
            (self.size, self.confirmed) = (self.base(), self.base());
            self.pending.clear();
            (self.phase, self.next) = (Phase::Spread { asked: false }, Some(now));
        } else if round == SUSPECT_ROUNDS {
            // The way may have become much longer, or a queue on it.
            self.phase = Phase::Suspect { round: round + 1, small };
            self.next = Some(now + 2 * self.wait());
        } else {
            // Nothing at all comes back: that says nothing of sizes.
            self.silent = small == 0;
            self.resume(now);
        }
        Vec::new()
    }
}

#[cfg(test)]
mod tests;
