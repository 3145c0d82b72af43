//! STUN messages and ChannelData in a stream (RFC 8656 §2.1 and §12.5): each tells its length in its first four bytes.
use super::channel;
use crate::stun::codec::{COOKIE, HEADER_LEN};

/// A stream that does not hold what it should, after which nobody can find the next message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the stream holds something else than STUN messages and ChannelData")]
pub struct NotTurn;

/// How many of these bytes the first message takes, its padding included; nothing where they do not tell yet. The message may be longer
/// than what is there.
pub fn frame_len(bytes: &[u8]) -> Result<Option<usize>, NotTurn> {
    let Some([first, _, high, low]) = bytes.first_chunk::<4>() else {
        return if bytes.first().is_none_or(|first| first >> 6 < 2) { Ok(None) } else { Err(NotTurn) };
    };
    let len = usize::from(u16::from_be_bytes([*high, *low]));
    match first >> 6 {
        0 if len.is_multiple_of(4) && bytes.get(4..8).is_none_or(|cookie| cookie == COOKIE) => Ok(Some(HEADER_LEN + len)),
        // RFC 8656 §12.5: over a stream ChannelData is padded to a multiple of four, which its length does not count.
        1 => Ok(Some(channel::HEADER_LEN + len.next_multiple_of(4))),
        _ => Err(NotTurn),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_those_of_the_first_message() {
        assert_eq!(frame_len(b""), Ok(None));
        assert_eq!(frame_len(&[0, 1, 0]), Ok(None));
        assert_eq!(frame_len(&[0, 1, 0, 8]), Ok(Some(28)));
        assert_eq!(frame_len(&[0x40, 1, 0, 5]), Ok(Some(12)));
        assert_eq!(frame_len(&[0x40, 1, 0xff, 0xff]), Ok(Some(65_540)));
        for wrong in
            [&[0x80][..], &[0xff, 0xff], &[0, 1, 0, 7], &[0xc0, 0, 0, 0], &[0x16, 3, 1, 2], &[0, 1, 0, 8, 0x21, 0x12, 0xa4, 0x43]]
        {
            assert_eq!(frame_len(wrong), Err(NotTurn), "{wrong:?}");
        }
    }
}
