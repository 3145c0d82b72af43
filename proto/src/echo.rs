//! Sealed echoes: requests and replies inside ESP dummy packets (next header 59, RFC 4303 §2.6), which who does not know them discards.
//! They measure round-trip time, loss and MTU of a path, and prove that a peer answers at an address.
//!
//! ```text
//!  0            4      5        6        8                16                24
//!  ┌────────────┬──────┬────────┬────────┬────────────────┬─────────────────┬──────────┐
//!  │ "ADE" 0x01 │ kind │ answer │ size   │ id             │ stamp           │ filling  │
//!  └────────────┴──────┴────────┴────────┴────────────────┴─────────────────┴──────────┘
//! ```
//! Numbers are big endian. The filling makes the packet as long as was asked for and means nothing. The tag of ESP protects all of it.

use crate::esp::{self, Mode};

/// The magic number, and the version of the layout.
const MAGIC: [u8; 4] = *b"ADE\x01";
/// Length without the filling, in bytes.
pub const LEN: usize = 24;

/// What a packet with an echo in it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    Request = 1,
    Reply = 2,
}

/// On which path a request is to be answered: path ids mean nothing to the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Answer {
    /// To where the request came from, from where it came to. It proves that the peer receives there.
    AsItCame = 1,
    /// As whatever the peer sends to us.
    PathInUse = 2,
}

impl Answer {
    pub const ALL: [Answer; 2] = [Answer::AsItCame, Answer::PathInUse];

    pub const fn from_code(code: u8) -> Option<Answer> {
        match code {
            1 => Some(Answer::AsItCame),
            2 => Some(Answer::PathInUse),
            _ => None,
        }
    }
}

/// A request or a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Echo {
    pub kind: Kind,
    pub answer: Answer,
    /// Length of the outer IP packet that the request was to have, in bytes.
    pub size: u16,
    /// 64 random bits: who has not received the request cannot answer it.
    pub id: u64,
    /// Whatever the requester likes, such as its clock; it comes back unchanged.
    pub stamp: u64,
}

impl Echo {
    /// Writes it to the beginning of a payload and fills the rest with zeros. False, and nothing is written, when there is no room.
    pub fn encode(&self, payload: &mut [u8]) -> bool {
        let Some((head, filling)) = payload.split_first_chunk_mut::<LEN>() else { return false };
        head[..4].copy_from_slice(&MAGIC);
        (head[4], head[5]) = (self.kind as u8, self.answer as u8);
        head[6..8].copy_from_slice(&self.size.to_be_bytes());
        head[8..16].copy_from_slice(&self.id.to_be_bytes());
        head[16..].copy_from_slice(&self.stamp.to_be_bytes());
        filling.fill(0);
        true
    }

    /// Reads the payload of a dummy packet; `None` when it is no echo of this version, but any other dummy.
    pub fn decode(payload: &[u8]) -> Option<Echo> {
        let head = payload.first_chunk::<LEN>()?;
        let [m0, m1, m2, m3, kind, answer, s0, s1, rest @ ..] = *head;
        if [m0, m1, m2, m3] != MAGIC {
            return None;
        }
        let kind = match kind {
            1 => Kind::Request,
            2 => Kind::Reply,
            _ => return None,
        };
        let (id, stamp) = rest.split_at(8);
        Some(Echo {
            kind,
            answer: Answer::from_code(answer)?,
            size: u16::from_be_bytes([s0, s1]),
            id: u64::from_be_bytes(id.try_into().ok()?),
            stamp: u64::from_be_bytes(stamp.try_into().ok()?),
        })
    }

    /// The answer to a request.
    pub const fn reply(self) -> Echo {
        Echo { kind: Kind::Reply, ..self }
    }
}

/// Length of the outer IP packet of the shortest echo, in bytes.
pub const fn size_min(ipv6_outer: bool) -> u16 {
    esp::outer_len(LEN, ipv6_outer) as u16
}

/// The longest payload with which the outer IP packet is no longer than `size` bytes; `None` when no echo fits. ESP ends on a
/// four-byte boundary, so the packet may be up to three bytes shorter than asked for.
pub fn payload_len(size: u16, ipv6_outer: bool) -> Option<usize> {
    Some(esp::frame_len_max(Mode::Ip, size, ipv6_outer)).filter(|len| *len >= LEN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn echoes() -> impl Strategy<Value = Echo> {
        let kinds = prop::sample::select(vec![Kind::Request, Kind::Reply]);
        (kinds, prop::sample::select(Answer::ALL.to_vec()), any::<(u16, u64, u64)>())
            .prop_map(|(kind, answer, (size, id, stamp))| Echo { kind, answer, size, id, stamp })
    }

    #[test]
    fn a_packet_is_as_long_as_asked_for_within_the_rounding_of_esp() {
        for (v6, headers) in [(false, 28), (true, 48)] {
            for size in 576..=9000u16 {
                let len = payload_len(size, v6).unwrap();
                let outer = esp::sealed_len(len) + headers;
                assert!(outer <= usize::from(size) && outer + 4 > usize::from(size), "{size}: {outer}");
            }
            assert_eq!(payload_len(headers as u16 + 32 + 2 + LEN as u16 - 1, v6), None);
        }
    }

    proptest! {
        #[test]
        fn echoes_come_back_whatever_fills_the_rest(echo in echoes(), filling in 0usize..100, junk: u8) {
            let mut payload = vec![junk; LEN + filling];
            prop_assert!(echo.encode(&mut payload));
            prop_assert!(payload[LEN..].iter().all(|byte| *byte == 0));
            payload[LEN..].fill(junk);
            prop_assert_eq!(Echo::decode(&payload), Some(echo));
            let mut short = vec![junk; LEN - 1];
            prop_assert!(!echo.encode(&mut short) && short.iter().all(|byte| *byte == junk));
            prop_assert_eq!(Echo::decode(&payload[..LEN - 1]), None);
        }

        #[test]
        fn any_bytes_are_an_echo_or_none(mut bytes in prop::collection::vec(any::<u8>(), 0..64), magic: bool) {
            if magic && bytes.len() >= MAGIC.len() {
                bytes[..MAGIC.len()].copy_from_slice(&MAGIC);
            }
            if let Some(echo) = Echo::decode(&bytes) {
                let mut again = vec![0; bytes.len()];
                prop_assert!(echo.encode(&mut again));
                prop_assert_eq!(&again[..LEN], &bytes[..LEN]);
            }
        }
    }
}
