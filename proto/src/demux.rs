//! What a datagram on the shared UDP port is: ESP, IKE, STUN or a keepalive (RFC 3948 §2; the first-byte idea of RFC 7983).

use crate::esp::{NON_ESP_MARKER_LEN, PACKET_LEN_MIN, SPI_MIN};

/// The magic cookie of STUN (RFC 8489 §5), at bytes 4 to 7.
pub const STUN_COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
/// Length of the STUN header, in bytes.
pub const STUN_HEADER_LEN: usize = 20;
/// Length of the IKE header, in bytes (RFC 7296 §3.1).
pub const IKE_HEADER_LEN: usize = 28;
/// The only byte of a NAT keepalive (RFC 3948 §2.3).
pub const KEEPALIVE: u8 = 0xff;

/// What a datagram is, by its first bytes and its length. Nothing about it is authenticated yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// ESP with an SPI that can be ours, and long enough to be opened.
    Esp,
    /// IKE: the zero marker, then at least an IKE header.
    Ike,
    /// STUN: a message type below 0x4000 whose first byte is below 4, and the magic cookie.
    Stun,
    /// A NAT keepalive, to be dropped in silence.
    Keepalive,
    /// None of these.
    Unknown,
    /// Too short for what it begins as.
    TooShort,
}

/// Says what a UDP payload is.
///
/// Our SPIs are 0x5000_0000 and above, so that no ESP packet of ours begins like STUN, like ChannelData of TURN (0x4000 to 0x4FFF) or
/// like the zero marker.
#[inline]
pub fn classify(datagram: &[u8]) -> Kind {
    let Some(first) = datagram.first_chunk::<4>() else {
        return if datagram == [KEEPALIVE] { Kind::Keepalive } else { Kind::TooShort };
    };
    let word = u32::from_be_bytes(*first);
    if word >= SPI_MIN {
        return if datagram.len() >= PACKET_LEN_MIN { Kind::Esp } else { Kind::TooShort };
    }
    if word == 0 {
        return if datagram.len() >= NON_ESP_MARKER_LEN + IKE_HEADER_LEN { Kind::Ike } else { Kind::TooShort };
    }
    if first[0] >= 4 {
        return Kind::Unknown;
    }
    if datagram.len() < STUN_HEADER_LEN {
        return Kind::TooShort;
    }
    if datagram[4..8] == STUN_COOKIE { Kind::Stun } else { Kind::Unknown }
}

/// The port from which no product sends ESP in UDP, and IKE without a marker (RFC 3948 §2.2, RFC 7296 §2.23).
pub const IKE_PORT: u16 = 500;

/// Whether a datagram from [`IKE_PORT`] to another port is IKE without the marker, by its version and length. strongSwan sends such
/// to the `remote_port` that it was given, and then goes on at our port 4500: it has to be told to begin at its own port 4500.
#[inline]
pub fn is_bare_ike(datagram: &[u8]) -> bool {
    let Some(header) = datagram.first_chunk::<IKE_HEADER_LEN>() else { return false };
    let length = u32::from_be_bytes([header[24], header[25], header[26], header[27]]);
    header[..4] != [0; NON_ESP_MARKER_LEN] && header[17] >> 4 == 2 && length as usize == datagram.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn datagram(head: &[u8], len: usize) -> Vec<u8> {
        let mut bytes = head.to_vec();
        bytes.resize(len, 0);
        bytes
    }

    #[test]
    fn every_kind_is_told_apart() {
        assert_eq!(classify(&[0xff]), Kind::Keepalive);
        assert_eq!(classify(&datagram(&[0x50, 0, 0, 0], PACKET_LEN_MIN)), Kind::Esp);
        assert_eq!(classify(&datagram(&[0xff, 0xff, 0xff, 0xff], 1400)), Kind::Esp);
        assert_eq!(classify(&datagram(&[0, 0, 0, 0, 1], 32)), Kind::Ike);
        assert_eq!(classify(&datagram(&[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42], 20)), Kind::Stun);
        assert_eq!(classify(&datagram(&[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x43], 20)), Kind::Unknown);
        assert_eq!(classify(&datagram(&[0x3f, 0xff, 0xff, 0xff], 100)), Kind::Unknown);
        // ChannelData, which no server was asked for.
        assert_eq!(classify(&datagram(&[0x40, 0, 0, 96], 100)), Kind::Unknown);
        assert_eq!(classify(&datagram(&[0x4f, 0xff, 0, 96], 100)), Kind::Unknown);
    }

    #[test]
    fn short_ones_are_too_short() {
        for short in [&[][..], &[0], &[0xfe], &[0xff, 0xff], &[0x50, 0, 0], &[0, 0, 0, 0]] {
            assert_eq!(classify(short), Kind::TooShort, "{short:x?}");
        }
        assert_eq!(classify(&datagram(&[0x50], PACKET_LEN_MIN - 1)), Kind::TooShort);
        assert_eq!(classify(&datagram(&[0, 0, 0, 0, 1], 31)), Kind::TooShort);
        assert_eq!(classify(&datagram(&[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42], 19)), Kind::TooShort);
    }

    #[test]
    fn ike_without_a_marker_is_known_by_its_version_and_length() {
        let mut message = datagram(&[0x9a, 1, 2, 3, 4, 5, 6, 7], 40);
        (message[17], message[27]) = (0x20, 40);
        assert!(is_bare_ike(&message));
        let marked = [&[0; 4], message.as_slice()].concat();
        assert!(!is_bare_ike(&marked) && !is_bare_ike(&message[..39]) && !is_bare_ike(&message[..20]));
        message[17] = 0x10;
        assert!(!is_bare_ike(&message), "IKEv1");
    }

    proptest! {
        #[test]
        fn any_bytes_have_a_kind(bytes: Vec<u8>) {
            let esp = classify(&bytes) == Kind::Esp;
            prop_assert_eq!(esp, bytes.len() >= PACKET_LEN_MIN && bytes[0] >= 0x50);
        }
    }
}
