//! Seals one frame or packet: EtherIP (RFC 3378) or IP in ESP (RFC 4303), out of place from the read buffer into the train.
//!
//! The EtherIP header, or that of a half, is written in front of the frame in the read buffer, where everything has been sealed already
//! (or is headroom); the ESP trailer behind it, where `adit_esp` puts back what belongs to the next segment.

use std::ops::Range;

use adit_proto::control::Mode;
use adit_proto::esp;
use adit_proto::etherip;
use adit_proto::half::{self, Half};
use adit_proto::stats::Drop;

use crate::sa::OutboundSa;

/// What is sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inner {
    /// An Ethernet frame; whether its checksum is open.
    Ethernet {
        open_checksum: bool,
    },
    Ipv4,
    Ipv6,
    /// A half of either.
    Half(Half),
}

impl Inner {
    /// The IP packet that begins with this byte.
    #[inline]
    pub const fn ip(first: u8) -> Inner {
        if first >> 4 == 6 { Inner::Ipv6 } else { Inner::Ipv4 }
    }

    #[inline]
    const fn next_header(self) -> u8 {
        match self {
            Inner::Ethernet { .. } => esp::NEXT_HEADER_ETHERIP,
            Inner::Ipv4 => esp::NEXT_HEADER_IPV4,
            Inner::Ipv6 => esp::NEXT_HEADER_IPV6,
            Inner::Half(_) => esp::NEXT_HEADER_NONE,
        }
    }

    #[inline]
    pub const fn header_len(self) -> usize {
        match self {
            Inner::Ethernet { .. } => esp::inner_header_len(Mode::Ethernet),
            Inner::Ipv4 | Inner::Ipv6 => esp::inner_header_len(Mode::Ip),
            Inner::Half(_) => half::LEN,
        }
    }
}

/// Seals what lies at `frame` of `buffer` into `packet`, which has `esp::sealed_len` of it and its header bytes.
///
/// `buffer` has room for the header in front and for a trailer behind.
#[inline]
pub fn seal(sa: &mut OutboundSa, buffer: &mut [u8], frame: Range<usize>, inner: Inner, packet: &mut [u8]) -> Result<(), Drop> {
    let start = frame.start.checked_sub(inner.header_len()).ok_or(Drop::TooLong)?;
    match inner {
        Inner::Ethernet { open_checksum } => {
            if let Some(header) = buffer[start..].first_chunk_mut() {
                etherip::write(header, open_checksum);
            }
        }
        Inner::Half(half) => buffer[start..frame.start].copy_from_slice(&half.encode()),
        Inner::Ipv4 | Inner::Ipv6 => {}
    }
    sa.esp.seal(buffer, start..frame.end, inner.next_header(), packet)?;
    sa.bytes += frame.len() as u64;
    Ok(())
}
