//! ChannelData (RFC 8656 §12.4): four bytes before the payload instead of the thirty-six of an indication.

/// Bytes before the payload: channel number and length.
pub const HEADER_LEN: usize = 4;

/// The header of ChannelData.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub channel: u16,
    /// Bytes of payload that follow.
    pub len: u16,
}

/// Whether a number may be that of a channel. RFC 8656 §12 leaves only those below 0x5000, so that DTLS, RTP and others fit on the same port;
/// clients of RFC 5766, and that of coturn today, draw from all that begin with the bits 01, and here nothing else has these.
pub fn is_channel(number: u16) -> bool {
    (0x4000..0x8000).contains(&number)
}

impl Header {
    /// Reads a header; nothing where the number is not that of a channel.
    pub fn parse(bytes: &[u8]) -> Option<Header> {
        let [a, b, c, d] = *bytes.first_chunk::<HEADER_LEN>()?;
        let header = Header { channel: u16::from_be_bytes([a, b]), len: u16::from_be_bytes([c, d]) };
        is_channel(header.channel).then_some(header)
    }

    /// The bytes of a header.
    pub fn bytes(self) -> [u8; HEADER_LEN] {
        let ([a, b], [c, d]) = (self.channel.to_be_bytes(), self.len.to_be_bytes());
        [a, b, c, d]
    }
}

/// Channel and payload of a datagram. What follows the payload is padding (RFC 8656 §12.5).
pub fn split(datagram: &[u8]) -> Option<(u16, &[u8])> {
    let header = Header::parse(datagram)?;
    Some((header.channel, datagram.get(HEADER_LEN..HEADER_LEN + usize::from(header.len))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_is_split_into_channel_and_payload() {
        assert_eq!(split(b"\x40\x01\x00\x03abc"), Some((0x4001, &b"abc"[..])));
        assert_eq!(split(b"\x40\x01\x00\x03abc\0"), Some((0x4001, &b"abc"[..])));
        assert_eq!(split(b"\x7f\xff\x00\x00"), Some((0x7fff, &b""[..])));
        for wrong in [&b""[..], b"\x40\x01\x00", b"\x40\x01\x00\x04abc", b"\x3f\xff\x00\x00", b"\x80\x00\x00\x00"] {
            assert_eq!(split(wrong), None);
        }
        assert_eq!(Header { channel: 0x4001, len: 3 }.bytes(), *b"\x40\x01\x00\x03");
    }
}
