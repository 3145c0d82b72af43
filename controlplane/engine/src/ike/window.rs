//! Message ids and the window of one request in each direction (RFC 7296 §2.1 to §2.3).
//!
//! [`Window`] holds the request that is under way until its answer comes, with what the exchange has to remember, and the
//! answer to the peer's last request until the next one comes. Both are sent again as the very same bytes, unless they may have been
//! too long for the way: then once in smaller fragments (RFC 7383 §2.5.2).

use std::time::{Duration, Instant};

use adit_proto::ike::ExchangeType;

use crate::random::Random;

use super::config::Retransmission;
use super::event::After;
use super::protect::Plain;
use crate::limits::{HOPS_MAX, REPEATS_ELSEWHERE_MAX, REPEATS_MAX};
use crate::path::Hop;

/// A request that was repeated so often without an answer is tried elsewhere, too.
pub(super) const SILENT_AFTER: u32 = 2;

/// A message that may have to be sent again.
#[derive(Debug, Default)]
pub(super) struct Sent {
    /// It, or its fragments.
    pub datagrams: Vec<Vec<u8>>,
    /// What is in them, while there may be a way that is too short for them, and they can be cut (RFC 7383).
    pub hopeful: Option<Plain>,
}

impl Sent {
    /// How many bytes it is on this way, as IP packets.
    pub(super) fn bytes(&self, hop: &Hop) -> usize {
        self.datagrams.iter().map(|datagram| datagram.len() + hop.overhead()).sum()
    }
}

impl From<Vec<Vec<u8>>> for Sent {
    /// As it stands.
    fn from(datagrams: Vec<Vec<u8>>) -> Sent {
        Sent { datagrams, hopeful: None }
    }
}

/// A request that waits for its answer. `X` is what the exchange needs to go on.
#[derive(Debug)]
pub(super) struct Outstanding<X> {
    pub id: u32,
    pub exchange: ExchangeType,
    pub sent: Sent,
    pub context: X,
    /// Where it was sent.
    pub hops: Vec<Hop>,
    /// What it had to wait for.
    pub after: After,
    /// It asks for a proof that the peer receives at another place than where requests go.
    pub asks: bool,
    /// How often it has been sent again.
    pub repeated: u32,
    tries: u32,
    next: Instant,
    /// A fixed interval, where there is a reason not to wait ever longer.
    interval: Option<Duration>,
}

impl<X> Outstanding<X> {
    /// It was sent there as well.
    pub(super) fn sent_to(&mut self, hop: Hop) {
        if self.hops.len() < HOPS_MAX && !self.hops.contains(&hop) {
            self.hops.push(hop);
        }
    }
}

/// What a request's message id says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// The next one.
    Expected,
    /// The last one once more: the answer is sent again, nothing else happens.
    Repeated,
    /// Nothing that a peer with a window of one can send now.
    Outside,
}

/// What is due when the timer of the outstanding request has run out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    NotYet,
    SendAgain,
    GiveUp,
}

#[derive(Debug)]
pub(super) struct Window<X> {
    /// Of our next request.
    next_id: u32,
    /// Of the peer's next request.
    expected_id: u32,
    outstanding: Option<Outstanding<X>>,
    /// The answer to request `expected_id − 1`, as it was sent, and what it had to wait for.
    answer: Sent,
    answer_after: After,
    /// How often it may still be sent again: to who asked, and elsewhere.
    repeats_left: [u32; 2],
}

/// Where a request came from that is here once more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asker {
    /// From the address that was answered.
    Same,
    /// From another one.
    Other,
}

impl<X> Window<X> {
    pub(super) fn new() -> Window<X> {
        Window::resumed(0, 0, Vec::new())
    }

    /// A window that goes on where another process left it.
    pub(super) fn resumed(next_id: u32, expected_id: u32, answer: Vec<Vec<u8>>) -> Window<X> {
        let repeats_left = [REPEATS_MAX, REPEATS_ELSEWHERE_MAX];
        let (answer, answer_after) = (answer.into(), After::Barrier);
        Window { next_id, expected_id, outstanding: None, answer, answer_after, repeats_left }
    }

    pub(super) fn next_id(&self) -> u32 {
        self.next_id
    }

    pub(super) fn expected_id(&self) -> u32 {
        self.expected_id
    }

    /// The message ids are used up: the IKE SA has to be replaced (RFC 7296 §2.2).
    pub(super) fn is_exhausted(&self) -> bool {
        self.next_id.max(self.expected_id) > u32::MAX - 1024
    }

    pub(super) fn outstanding(&self) -> Option<&Outstanding<X>> {
        self.outstanding.as_ref()
    }

    pub(super) fn outstanding_mut(&mut self) -> Option<&mut Outstanding<X>> {
        self.outstanding.as_mut()
    }

    pub(super) fn is_idle(&self) -> bool {
        self.outstanding.is_none()
    }

    /// Registers a request that goes out now. The one before has been answered.
    pub(super) fn sent(&mut self, now: Instant, exchange: ExchangeType, sent: Sent, context: X, policy: &Retransmission) {
        debug_assert!(self.outstanding.is_none(), "the window is one request");
        let next = now + policy.first;
        let id = self.next_id;
        let tries = policy.tries;
        let (hops, after) = (Vec::new(), After::Nothing);
        self.outstanding =
            Some(Outstanding { id, exchange, sent, context, hops, after, asks: false, repeated: 0, tries, next, interval: None });
    }

    /// Repeats sooner and gives up earlier: not more than `tries` more, at a fixed interval.
    pub(super) fn hurry(&mut self, now: Instant, tries: u32, interval: Duration) {
        if let Some(outstanding) = &mut self.outstanding {
            outstanding.tries = outstanding.tries.min(outstanding.repeated + tries);
            outstanding.next = outstanding.next.min(now + interval);
            outstanding.interval = Some(interval);
        }
    }

    /// It goes another way now: it is repeated there at once, and then as often as if it were new.
    pub(super) fn begin_again(&mut self, now: Instant) {
        if let Some(outstanding) = &mut self.outstanding {
            (outstanding.repeated, outstanding.next) = (0, outstanding.next.min(now));
        }
    }

    /// Whether a response belongs to the outstanding request.
    pub(super) fn awaits(&self, id: u32, exchange: ExchangeType) -> bool {
        self.outstanding.as_ref().is_some_and(|outstanding| outstanding.id == id && outstanding.exchange == exchange)
    }

    /// Takes the outstanding request because its answer is here; the next one has the next id.
    pub(super) fn answered(&mut self) -> Option<Outstanding<X>> {
        let outstanding = self.outstanding.take()?;
        self.next_id = outstanding.id + 1;
        Some(outstanding)
    }

    /// Takes the outstanding request in order to send another with the same id (IKE_SA_INIT only, RFC 7296 §2.2).
    pub(super) fn withdrawn(&mut self) -> Option<Outstanding<X>> {
        self.outstanding.take()
    }

    /// Where the id of a request is.
    pub(super) fn place(&self, id: u32) -> Place {
        if id == self.expected_id {
            Place::Expected
        } else if id.checked_add(1) == Some(self.expected_id) {
            Place::Repeated
        } else {
            Place::Outside
        }
    }

    /// Registers the answer to the request that was expected.
    pub(super) fn answer(&mut self, answer: Sent, after: After) {
        (self.answer, self.answer_after) = (answer, after);
        self.repeats_left = [REPEATS_MAX, REPEATS_ELSEWHERE_MAX];
        self.expected_id += 1;
    }

    /// Takes the right to send the last answer once more: whoever has recorded a request may repeat it for ever, under any address.
    pub(super) fn may_repeat(&mut self, asker: Asker) -> bool {
        let left = &mut self.repeats_left[asker as usize];
        let may = *left > 0;
        *left = left.saturating_sub(1);
        may
    }

    /// The last answer, to be sent again.
    pub(super) fn last_answer(&self) -> &Sent {
        &self.answer
    }

    pub(super) fn last_answer_mut(&mut self) -> &mut Sent {
        &mut self.answer
    }

    /// What it has to wait for.
    pub(super) fn answer_after(&self) -> After {
        self.answer_after
    }

    /// When [`Window::due`] is to be asked.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.outstanding.as_ref().map(|outstanding| outstanding.next)
    }

    /// Whether the request is to be sent again; then its timer has been set anew, each time to twice the interval.
    pub(super) fn due(&mut self, now: Instant, policy: &Retransmission, random: &mut dyn Random) -> Due {
        let Some(outstanding) = &mut self.outstanding else { return Due::NotYet };
        if now < outstanding.next {
            return Due::NotYet;
        }
        if outstanding.repeated >= outstanding.tries {
            return Due::GiveUp;
        }
        outstanding.repeated += 1;
        let doubled = policy.first.saturating_mul(1 << outstanding.repeated.min(16)).min(policy.max);
        outstanding.next = now + jittered(outstanding.interval.unwrap_or(doubled), 10, random);
        Due::SendAgain
    }
}

/// `time`, less a random part of up to `percent` percent.
pub(super) fn jittered(time: Duration, percent: u32, random: &mut dyn Random) -> Duration {
    let permille = random.u32() % (percent.min(100) * 10 + 1);
    time - time / 1000 * permille
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zeros(out: &mut [u8]) {
        out.fill(0);
    }

    #[test]
    fn a_request_is_repeated_ever_later_and_then_given_up() {
        let policy = Retransmission { first: Duration::from_secs(1), max: Duration::from_secs(5), tries: 4 };
        let start = crate::ike::testing::instant();
        let mut window = Window::new();
        window.sent(start, ExchangeType::INFORMATIONAL, vec![vec![1]].into(), (), &policy);
        let mut at = Vec::new();
        let gave_up = (0..60).find(|second| match window.due(start + Duration::from_secs(*second), &policy, &mut zeros) {
            Due::NotYet => false,
            Due::SendAgain => {
                at.push(*second);
                false
            }
            Due::GiveUp => true,
        });
        assert_eq!((at, gave_up), (vec![1, 3, 7, 12], Some(17)));
    }

    #[test]
    fn only_the_next_id_and_the_last_one_have_a_place() {
        let mut window: Window<()> = Window::new();
        assert_eq!((window.place(0), window.place(1), window.place(u32::MAX)), (Place::Expected, Place::Outside, Place::Outside));
        window.answer(vec![vec![7]].into(), After::Nothing);
        assert_eq!((window.place(0), window.place(1), window.place(2)), (Place::Repeated, Place::Expected, Place::Outside));
        assert_eq!(window.last_answer().datagrams, [vec![7]]);
        window.answer(vec![vec![8]].into(), After::Nothing);
        assert_eq!((window.place(0), window.place(1)), (Place::Outside, Place::Repeated));
    }

    #[test]
    fn an_answer_is_repeated_a_few_times_and_the_next_one_again() {
        let mut window: Window<()> = Window::new();
        let repeats = |window: &mut Window<()>, asker| (0..1000).filter(|_| window.may_repeat(asker)).count() as u32;
        for id in 0..3 {
            window.answer(vec![vec![id]].into(), After::Nothing);
            assert_eq!(repeats(&mut window, Asker::Other), REPEATS_ELSEWHERE_MAX);
            assert_eq!(repeats(&mut window, Asker::Same), REPEATS_MAX, "what others ask takes nothing away");
        }
    }

    #[test]
    fn an_answer_counts_once_and_for_its_exchange() {
        let policy = Retransmission::default();
        let now = crate::ike::testing::instant();
        let mut window = Window::new();
        window.sent(now, ExchangeType::IKE_AUTH, vec![vec![1]].into(), "context", &policy);
        assert!(!window.awaits(1, ExchangeType::IKE_AUTH) && !window.awaits(0, ExchangeType::INFORMATIONAL));
        assert!(window.awaits(0, ExchangeType::IKE_AUTH));
        assert_eq!(window.answered().map(|outstanding| outstanding.context), Some("context"));
        assert!(!window.awaits(0, ExchangeType::IKE_AUTH) && window.is_idle());
        assert_eq!(window.next_id(), 1);
    }

    #[test]
    fn what_goes_another_way_is_repeated_at_once_and_has_all_its_tries_there() {
        let policy = Retransmission { first: Duration::from_secs(1), max: Duration::from_secs(5), tries: 2 };
        let start = crate::ike::testing::instant();
        let at = |ms| start + Duration::from_millis(ms);
        let mut window = Window::new();
        window.begin_again(start);
        window.sent(start, ExchangeType::INFORMATIONAL, vec![vec![1]].into(), (), &policy);
        assert_eq!(window.due(at(5000), &policy, &mut zeros), Due::SendAgain);
        assert_eq!(window.due(at(5001), &policy, &mut zeros), Due::NotYet);
        window.begin_again(at(5001));
        assert_eq!(window.due(at(5001), &policy, &mut zeros), Due::SendAgain);
        assert_eq!(window.due(at(5002), &policy, &mut zeros), Due::NotYet);
        assert_eq!(window.due(at(20_000), &policy, &mut zeros), Due::SendAgain);
        assert_eq!(window.due(at(40_000), &policy, &mut zeros), Due::GiveUp);
    }

    #[test]
    fn who_is_in_a_hurry_repeats_soon_and_gives_up_after_that_many_more() {
        let policy = Retransmission { first: Duration::from_secs(4), max: Duration::from_secs(60), tries: 8 };
        for (before, tries, expected) in [(0, 3, 3), (2, 3, 3), (6, 3, 2), (0, 0, 0)] {
            let (mut now, mut window) = (crate::ike::testing::instant(), Window::new());
            window.sent(now, ExchangeType::INFORMATIONAL, vec![vec![1]].into(), (), &policy);
            for _ in 0..before {
                now = window.deadline().expect("a timer");
                assert_eq!(window.due(now, &policy, &mut zeros), Due::SendAgain);
            }
            window.hurry(now, tries, Duration::from_secs(1));
            let mut waits = Vec::new();
            loop {
                let next = window.deadline().expect("a timer");
                waits.push((next - now).as_secs());
                now = next;
                if window.due(now, &policy, &mut zeros) == Due::GiveUp {
                    break;
                }
            }
            assert_eq!(waits, vec![1; expected + 1], "{before} before");
        }
    }

    #[test]
    fn a_window_goes_on_where_it_was_left() {
        let mut window: Window<()> = Window::resumed(7, 9, vec![vec![3], vec![4]]);
        assert_eq!(
            (window.next_id(), window.expected_id(), window.place(8), window.place(9)),
            (7, 9, Place::Repeated, Place::Expected)
        );
        assert_eq!(window.last_answer().datagrams, [vec![3], vec![4]]);
        assert!(window.may_repeat(Asker::Same) && window.is_idle() && window.deadline().is_none());
        for (next, expected, exhausted) in [(u32::MAX - 1024, 0, false), (u32::MAX - 1023, 0, true), (0, u32::MAX - 1023, true)] {
            assert_eq!(Window::<()>::resumed(next, expected, Vec::new()).is_exhausted(), exhausted);
        }
    }

    #[test]
    fn jitter_takes_away_up_to_its_part_and_never_adds() {
        let time = Duration::from_secs(1000);
        for percent in [0, 10, 100, 250] {
            let one = |number: u32| jittered(time, percent, &mut |out: &mut [u8]| out.copy_from_slice(&number.to_be_bytes()));
            let all: Vec<Duration> = (0..2002).map(one).collect();
            let least = time * (100 - percent.min(100)) / 100;
            assert_eq!((all.iter().min(), all.iter().max()), (Some(&least), Some(&time)), "{percent} %");
        }
    }
}
