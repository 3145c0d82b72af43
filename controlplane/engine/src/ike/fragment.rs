//! Putting fragments together (RFC 7383 §2.6). Only fragments whose tag was verified come here, so only the peer can fill it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use adit_proto::ike::encrypted::Fragment;

use super::limits::MESSAGE_LEN_MAX;

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
    len: usize,
    /// The datagram with fragment 1, which alone tells how the message begins (RFC 9242 §3.3.2 wants its header).
    first: Vec<u8>,
    longest: usize,
    expires: Instant,
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
        if !self.wants(id, fragment) {
            return None;
        }
        let goes_on = |partial: &Partial| partial.id == id && partial.total == fragment.total;
        if !self.message.as_ref().is_some_and(goes_on) {
            let (parts, first, expires) = (BTreeMap::new(), Vec::new(), now + PATIENCE);
            self.message = Some(Partial { id, total: fragment.total, parts, len: 0, first, longest: 0, expires });
        }
        let partial = self.message.as_mut()?;
        if partial.len + part.len() > MESSAGE_LEN_MAX {
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
        self.message.as_ref().map(|partial| partial.expires)
    }

    /// Forgets a message whose fragments did not all come.
    pub(super) fn expire(&mut self, now: Instant) {
        if self.deadline().is_some_and(|at| at <= now) {
            self.message = None;
        }
    }
}

#[cfg(test)]
mod tests {
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
}
