//! Putting fragments together (RFC 7383 §2.6). Only fragments whose tag was verified come here, so only the peer can fill it.
//!
//! Before IKE_AUTH the peer is anybody, so all of them together have one place of a fixed size, [`Unproven`], in which the message that was
//! begun last is the last to go: an honest one is whole within a round trip.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use adit_proto::ike::encrypted::Fragment;

use super::facts::SaId;
use crate::limits::{FRAGMENT_COST, UNPROVEN_FRAGMENTS_MAX, UNPROVEN_LEN_MAX, WHOLE_LEN_MAX};

/// How long the missing fragments may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// One message in the making; there is one of these for requests and one for responses.
#[derive(Debug, Default)]
pub(super) struct Reassembly {
    message: Option<Partial>,
}

#[derive(Debug)]
struct Partial {
    id: u32,
    total: u16,
    parts: BTreeMap<u16, Vec<u8>>,
    /// Of the parts.
    len: usize,
    begun: Instant,
    /// The datagram with fragment 1, which alone tells how the message begins (RFC 9242 §3.3.2 wants its header).
    first: Vec<u8>,
    longest: usize,
}

/// A message that has all its fragments.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Whole {
    /// The datagram with fragment 1.
    pub first: Vec<u8>,
    /// The length of its longest datagram.
    pub longest: usize,
    /// The payloads inside, without padding.
    pub inner: Vec<u8>,
}

impl Reassembly {
    /// Whether a fragment is worth opening: neither a replay, nor of a set that a set with more fragments has replaced.
    pub(super) fn wants(&self, id: u32, fragment: Fragment) -> bool {
        match &self.message {
            Some(partial) if partial.id == id => {
                fragment.total > partial.total
                    || (fragment.total == partial.total && !partial.parts.contains_key(&fragment.number))
            }
            Some(_) | None => true,
        }
    }

    /// Takes the content of an authentic fragment; gives the message when it was the last one missing.
    pub(super) fn take(&mut self, now: Instant, id: u32, fragment: Fragment, datagram: &[u8], part: &[u8]) -> Option<Whole> {
        self.take_up_to(WHOLE_LEN_MAX, now, id, fragment, (datagram, part))
    }

    fn take_up_to(
        &mut self,
        len_max: usize,
        now: Instant,
        id: u32,
        fragment: Fragment,
        (datagram, part): (&[u8], &[u8]),
    ) -> Option<Whole> {
        if !self.wants(id, fragment) {
            return None;
        }
        let goes_on = |partial: &Partial| partial.id == id && partial.total == fragment.total;
        if !self.message.as_ref().is_some_and(goes_on) {
            let (parts, first) = (BTreeMap::new(), Vec::new());
            self.message = Some(Partial { id, total: fragment.total, parts, len: 0, begun: now, first, longest: 0 });
        }
        let partial = self.message.as_mut()?;
        if partial.len + part.len() > len_max {
            self.message = None;
            return None;
        }
        partial.len += part.len();
        partial.longest = partial.longest.max(datagram.len());
        partial.parts.insert(fragment.number, part.to_vec());
        if fragment.number == 1 {
            partial.first = datagram.to_vec();
        }
        if partial.parts.len() < usize::from(partial.total) {
            return None;
        }
        let partial = self.message.take()?;
        Some(Whole { first: partial.first, longest: partial.longest, inner: partial.parts.into_values().flatten().collect() })
    }

    /// When [`Reassembly::expire`] is to be called.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.message.as_ref().map(|partial| partial.begun + PATIENCE)
    }

    /// Forgets a message whose fragments did not all come.
    pub(super) fn expire(&mut self, now: Instant) {
        if self.deadline().is_some_and(|at| at <= now) {
            self.message = None;
        }
    }
}

/// The messages in the making of all IKE SAs whose peer is not authenticated, one of each.
#[derive(Debug, Default)]
pub(super) struct Unproven {
    messages: BTreeMap<SaId, Reassembly>,
    /// Those that are not whole, the oldest first.
    begun: BTreeSet<(Instant, SaId)>,
    /// Bytes that it takes to keep them.
    held: usize,
}

impl Reassembly {
    /// Bytes that it takes to keep it.
    fn cost(&self) -> usize {
        let of = |partial: &Partial| partial.len + partial.first.len() + (1 + partial.parts.len()) * FRAGMENT_COST;
        self.message.as_ref().map_or(0, of)
    }

    fn begun(&self) -> Option<Instant> {
        self.message.as_ref().map(|partial| partial.begun)
    }
}

impl Unproven {
    /// As [`Reassembly::wants`].
    pub(super) fn wants(&self, sa: SaId, id: u32, fragment: Fragment) -> bool {
        self.messages.get(&sa).is_none_or(|reassembly| reassembly.wants(id, fragment))
    }

    /// As [`Reassembly::take`]. Where there is no room, those that were begun first are forgotten.
    pub(super) fn take(
        &mut self,
        now: Instant,
        (sa, id): (SaId, u32),
        fragment: Fragment,
        datagram: &[u8],
        part: &[u8],
    ) -> Option<Whole> {
        let mut reassembly = self.forget(sa).unwrap_or_default();
        let whole = reassembly.take_up_to(UNPROVEN_LEN_MAX, now, id, fragment, (datagram, part));
        if let Some(begun) = reassembly.begun() {
            self.held += reassembly.cost();
            self.begun.insert((begun, sa));
            self.messages.insert(sa, reassembly);
        }
        while self.held > UNPROVEN_FRAGMENTS_MAX
            && let Some((_, oldest)) = self.begun.first().copied()
        {
            self.forget(oldest);
        }
        whole
    }

    /// The IKE SA is authenticated, or gone.
    pub(super) fn forget(&mut self, sa: SaId) -> Option<Reassembly> {
        let reassembly = self.messages.remove(&sa)?;
        self.held -= reassembly.cost();
        if let Some(begun) = reassembly.begun() {
            self.begun.remove(&(begun, sa));
        }
        Some(reassembly)
    }
}

#[cfg(test)]
mod tests {
    use adit_proto::ike::IkeSpi;

    use super::*;
    use crate::ike::testing::instant;

    fn fragment(number: u16, total: u16) -> Fragment {
        Fragment { number, total }
    }

    #[test]
    fn fragments_in_any_order_make_the_message() {
        let mut reassembly = Reassembly::default();
        let now = instant();
        assert_eq!(reassembly.take(now, 1, fragment(3, 3), b"third", b"c"), None);
        assert_eq!(reassembly.take(now, 1, fragment(1, 3), b"first", b"a"), None);
        assert!(!reassembly.wants(1, fragment(3, 3)), "a replay");
        assert_eq!(reassembly.take(now, 1, fragment(3, 3), b"third", b"X"), None);
        let whole = reassembly.take(now, 1, fragment(2, 3), b"second", b"b");
        assert_eq!(whole, Some(Whole { first: b"first".to_vec(), longest: 6, inner: b"abc".to_vec() }));
        assert_eq!(reassembly.deadline(), None);
    }

    #[test]
    fn a_set_with_more_fragments_replaces_one_with_fewer() {
        let mut reassembly = Reassembly::default();
        let now = instant();
        reassembly.take(now, 1, fragment(1, 2), b"first", b"ab");
        assert!(reassembly.wants(1, fragment(1, 3)) && !reassembly.wants(1, fragment(1, 1)));
        reassembly.take(now, 1, fragment(1, 3), b"smaller", b"a");
        assert_eq!(reassembly.take(now, 1, fragment(2, 2), b"second", b"c"), None, "the old set is gone");
        reassembly.take(now, 1, fragment(2, 3), b"", b"b");
        assert_eq!(reassembly.take(now, 1, fragment(3, 3), b"", b"c").map(|whole| whole.inner), Some(b"abc".to_vec()));
    }

    #[test]
    fn another_message_id_begins_anew_and_time_forgets() {
        let mut reassembly = Reassembly::default();
        let now = instant();
        reassembly.take(now, 1, fragment(1, 2), b"first", b"a");
        reassembly.take(now, 2, fragment(2, 2), b"second", b"b");
        assert_eq!(reassembly.take(now, 2, fragment(1, 2), b"first", b"a").map(|whole| whole.inner), Some(b"ab".to_vec()));
        reassembly.take(now, 3, fragment(1, 2), b"first", b"a");
        reassembly.expire(now + PATIENCE - Duration::from_millis(1));
        assert!(reassembly.deadline().is_some());
        reassembly.expire(now + PATIENCE);
        assert!(reassembly.deadline().is_none());
    }

    #[test]
    fn a_message_is_bounded() {
        let mut reassembly = Reassembly::default();
        let part = vec![0; 40_000];
        reassembly.take(instant(), 1, fragment(1, 3), b"first", &part);
        reassembly.take(instant(), 1, fragment(2, 3), b"second", &part);
        assert!(reassembly.deadline().is_none());
    }

    #[test]
    fn before_authentication_all_messages_together_are_bounded() {
        let mut unproven = Unproven::default();
        let (now, part) = (instant(), [7; 1200]);
        let at = |millis| now + Duration::from_millis(millis);
        for number in 1..=25u16 {
            for stranger in 0..5000 {
                let millis = u64::from(number) * 5000 + stranger;
                let id = SaId(IkeSpi(1 + stranger));
                assert_eq!(unproven.take(at(millis), (id, 1), fragment(number, 26), &part, &part), None);
                assert!(unproven.held <= UNPROVEN_FRAGMENTS_MAX);
            }
        }
        let parts = || unproven.messages.values().filter_map(|one| one.message.as_ref());
        let bytes: usize = parts().map(|one| one.first.len() + one.parts.values().map(Vec::len).sum::<usize>()).sum();
        assert!(bytes > UNPROVEN_FRAGMENTS_MAX / 2 && bytes <= UNPROVEN_FRAGMENTS_MAX, "{bytes}");
        // Who comes with all of it at once finds a place, whoever else is there.
        let honest = SaId(IkeSpi(u64::MAX));
        for number in 1..=3u16 {
            for stranger in 0..1000 {
                unproven.take(at(200_000), (SaId(IkeSpi(1 + stranger)), 1), fragment(26 - number, 26), &part, &part);
            }
            let whole = unproven.take(at(200_000), (honest, 1), fragment(number, 3), b"first", b"x");
            assert_eq!(whole.map(|whole| whole.inner), (number == 3).then(|| b"xxx".to_vec()));
        }
        let ids: Vec<SaId> = unproven.messages.keys().copied().collect();
        ids.into_iter().for_each(|id| drop(unproven.forget(id)));
        assert_eq!((unproven.held, unproven.begun.len()), (0, 0));
    }

    #[test]
    fn before_authentication_a_message_is_shorter() {
        let mut unproven = Unproven::default();
        let (now, part) = (instant(), vec![0; UNPROVEN_LEN_MAX / 2]);
        let sa = SaId(IkeSpi(1));
        unproven.take(now, (sa, 1), fragment(1, 3), b"first", &part);
        unproven.take(now, (sa, 1), fragment(2, 3), b"", &part);
        assert!(!unproven.wants(sa, 1, fragment(1, 3)));
        unproven.take(now, (sa, 1), fragment(3, 3), b"", b"x");
        assert_eq!((unproven.held, unproven.messages.len()), (0, 0));
    }
}
