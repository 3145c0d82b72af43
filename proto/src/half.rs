//! Halves: a frame or packet that is longer than the path carries and may not be cut, in two sealed packets (`oversize: split`).
//!
//! Each half is the payload of an ESP dummy packet (next header 59, RFC 4303 §2.6): who does not know halves discards it, and nobody
//! takes it for an IP packet. Both have the sequence numbers n and n + 1 of one SA, first half first, so they need no number of their
//! own, and the replay window lets each come once.
//!
//! ```text
//!  0            4       5      6        8
//!  ┌────────────┬───────┬──────┬────────┬───────────────────────────────────────────────┐
//!  │ "ADH" 0x01 │ which │ zero │ length │ bytes of the Ethernet frame or IP packet       │
//!  └────────────┴───────┴──────┴────────┴───────────────────────────────────────────────┘
//! ```
//! `which` is 1 or 2; `length` is that of the whole, big endian: the bytes of both halves make exactly that. The frame has no EtherIP
//! header, and no open checksum. The tag of ESP protects all of it.

/// The magic number, and the version of the layout.
const MAGIC: [u8; 4] = *b"ADH\x01";
/// Length of what stands in front of the bytes.
pub const LEN: usize = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Which {
    First = 1,
    Second = 2,
}

/// What a half says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Half {
    pub which: Which,
    /// Length of the whole, in bytes.
    pub whole: u16,
}

/// It begins like a half, and is none: an unknown `which`, a length of less than two bytes, no bytes, or as many as the whole has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

impl Half {
    /// What stands in front of the bytes.
    pub const fn encode(self) -> [u8; LEN] {
        let ([m0, m1, m2, m3], [l0, l1]) = (MAGIC, self.whole.to_be_bytes());
        [m0, m1, m2, m3, self.which as u8, 0, l0, l1]
    }

    /// Reads the payload of a dummy packet: the half, and its bytes. `None` when it is another dummy.
    ///
    /// # Errors
    /// It begins like a half and is none.
    pub fn decode(payload: &[u8]) -> Result<Option<(Half, &[u8])>, Malformed> {
        let Some(rest) = payload.strip_prefix(&MAGIC) else { return Ok(None) };
        let (&[which, zero, l0, l1], bytes) = rest.split_first_chunk().ok_or(Malformed)?;
        let which = match which {
            1 => Which::First,
            2 => Which::Second,
            _ => return Err(Malformed),
        };
        let whole = u16::from_be_bytes([l0, l1]);
        let fits = !bytes.is_empty() && bytes.len() < usize::from(whole);
        if zero == 0 && fits { Ok(Some((Half { which, whole }, bytes))) } else { Err(Malformed) }
    }

    /// The sequence number of the first half, where this one has `seq`; `None` when there can be none.
    pub const fn first_seq(self, seq: u64) -> Option<u64> {
        match self.which {
            Which::First => Some(seq),
            Which::Second => seq.checked_sub(1),
        }
    }
}

/// How many bytes of a frame of `len` bytes the first half takes, where an ESP payload is at most `payload_max` bytes: as many as the
/// second one, or one more, so that both are sent as one train. `None` when it does not fit into two.
pub const fn cut(len: usize, payload_max: usize) -> Option<usize> {
    let first = len.div_ceil(2);
    if len >= 2 && len <= u16::MAX as usize && LEN + first <= payload_max { Some(first) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_fits_twice_is_cut_and_says_what_it_is(len in 0usize..70_000, payload_max in 0usize..40_000) {
            match cut(len, payload_max) {
                Some(first) => {
                    prop_assert!(first >= len - first && first - (len - first) <= 1 && len > first);
                    prop_assert!(LEN + first <= payload_max);
                    for (which, bytes) in [(Which::First, first), (Which::Second, len - first)] {
                        let half = Half { which, whole: len as u16 };
                        let payload = [&half.encode()[..], &vec![7; bytes]].concat();
                        prop_assert_eq!(Half::decode(&payload), Ok(Some((half, &payload[LEN..]))));
                    }
                }
                None => prop_assert!(!(2..=65_535).contains(&len) || 2 * (payload_max.saturating_sub(LEN)) < len),
            }
        }

        #[test]
        fn any_bytes_are_a_half_or_none(mut bytes in prop::collection::vec(any::<u8>(), 0..40), magic: bool, which in 0u8..4) {
            if magic && bytes.len() >= 6 {
                bytes[..4].copy_from_slice(&MAGIC);
                (bytes[4], bytes[5]) = (which, bytes[5] & 1);
            }
            match Half::decode(&bytes) {
                Ok(Some((half, rest))) => {
                    prop_assert_eq!(&[&half.encode()[..], rest].concat(), &bytes);
                    prop_assert!(!rest.is_empty() && rest.len() < usize::from(half.whole));
                }
                Ok(None) => prop_assert!(!bytes.starts_with(&MAGIC)),
                Err(Malformed) => prop_assert!(bytes.starts_with(&MAGIC)),
            }
        }
    }

    #[test]
    fn the_second_half_has_the_number_after_the_first() {
        let half = |which| Half { which, whole: 9 };
        assert_eq!((half(Which::First).first_seq(7), half(Which::Second).first_seq(8)), (Some(7), Some(7)));
        assert_eq!(half(Which::Second).first_seq(0), None);
    }
}
