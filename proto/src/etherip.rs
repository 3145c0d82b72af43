//! The EtherIP header (RFC 3378 §2): version 3, then twelve reserved bits, of which we use one.
//!
//! The lowest reserved bit says that the inner TCP or UDP checksum is still open: its field holds the sum of the pseudo
//! header only, as the kernel hands over a frame with partial checksum. It is only sent to a peer that agreed to it.

/// Length of the header, in bytes.
pub const HEADER_LEN: usize = 2;

const VERSION: u8 = 0x30;
const OPEN_CHECKSUM: u8 = 0x01;

/// Writes the header.
#[inline]
pub const fn write(out: &mut [u8; HEADER_LEN], open_checksum: bool) {
    *out = [VERSION, if open_checksum { OPEN_CHECKSUM } else { 0 }];
}

/// Whether the inner checksum is open; `None` when the version is not 3 or an unknown bit is set.
#[inline]
pub const fn parse(header: [u8; HEADER_LEN]) -> Option<bool> {
    match header {
        [VERSION, 0] => Some(false),
        [VERSION, OPEN_CHECKSUM] => Some(true),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_two_headers_that_are_written_are_read() {
        let mut read = Vec::new();
        for word in 0..=u16::MAX {
            if let Some(open) = parse(word.to_be_bytes()) {
                let mut out = [0; HEADER_LEN];
                write(&mut out, open);
                assert_eq!(out, word.to_be_bytes());
                read.push(word);
            }
        }
        assert_eq!(read, [0x3000, 0x3001]);
    }
}
