//! Fragments of an IPv4 packet (RFC 791 §3.2), made one by one in the buffer that holds it: the header of each fragment is written right
//! in front of its data, over the end of the fragment before, which has been sealed into other memory by then.
//!
//! A packet that is a fragment itself becomes shorter ones of the same packet.

use std::ops::Range;

use adit_proto::control::Mode;

use crate::checksum;
use crate::tap::headers::{self, ETHERNET, IPV4, TAG, TAGS_MAX, be16, put16};

/// Longest link header and IPv4 header together, in bytes.
const IPV4_HEADERS_MAX: usize = ETHERNET + TAGS_MAX * TAG + 60;
const MORE: u16 = 0x2000;
const DONT: u16 = 0x4000;
const OFFSET: u16 = 0x1fff;
/// Longest transport header, and what `seal` writes in front of a frame.
const UNTOUCHED: usize = 60 + 4;
/// The bit of an option's kind that has it copied into every fragment (RFC 791 §3.1).
const COPIED: u8 = 0x80;

/// How one packet becomes fragments.
pub struct Fragments {
    /// Where the frame begins in the buffer.
    start: usize,
    /// Where the IP header begins in the frame.
    l3: usize,
    /// Headers of the packet, from the first byte of the frame, and those of every fragment but the first.
    whole: [u8; IPV4_HEADERS_MAX],
    whole_len: usize,
    later: [u8; IPV4_HEADERS_MAX],
    later_len: usize,
    /// Bytes of data: of the packet, of the first fragment, of each of the others but the last.
    data: usize,
    first: usize,
    each: usize,
}

impl Fragments {
    /// Prepares fragments of at most `fits` bytes of `frame`, which begins at `start` of the buffer that [`Fragments::fragment`] will be
    /// given. `None` when it is no IPv4, may not be fragmented, is damaged or leaves no room.
    pub fn new(mode: Mode, frame: &[u8], start: usize, fits: usize) -> Option<Fragments> {
        let (l3, false) = headers::network(mode, frame)? else { return None };
        let ip = frame.get(l3..)?;
        let header = usize::from(*ip.first()? & 0x0f) * 4;
        if header < IPV4 || checksum::sum(ip.get(..header)?) != 0xffff {
            return None;
        }
        let (total, word) = (usize::from(be16(ip, 2)), be16(ip, 6));
        let data = total.checked_sub(header)?;
        let fills_units = word & MORE == 0 || data % 8 == 0;
        if total > ip.len() || word & DONT != 0 || !fills_units || usize::from(word & OFFSET) * 8 + total > 0xffff {
            return None;
        }
        let (mut whole, mut later) = ([0; IPV4_HEADERS_MAX], [0; IPV4_HEADERS_MAX]);
        let whole_len = l3 + header;
        whole.get_mut(..whole_len)?.copy_from_slice(&frame[..whole_len]);
        later[..l3 + IPV4].copy_from_slice(&frame[..l3 + IPV4]);
        let later_len = l3 + IPV4 + copied(&ip[IPV4..header], &mut later[l3 + IPV4..])?;
        later[l3] = 0x40 | ((later_len - l3) / 4) as u8;
        let (first, each) = (fits.checked_sub(whole_len)? & !7, fits.checked_sub(later_len)? & !7);
        // The second header leaves the transport header alone, from which that of the next segment of a super-frame is made.
        (first >= later_len + UNTOUCHED).then_some(Fragments { start, l3, whole, whole_len, later, later_len, data, first, each })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        1 + self.data.saturating_sub(self.first).div_ceil(self.each)
    }

    /// Makes fragment `k`, counted from 0, in `buf`, and returns where it stands. To be called once for each k in rising order; by then
    /// the caller may have used up fragment k − 1, but not what is behind it.
    pub fn fragment(&self, k: usize, buf: &mut [u8]) -> Range<usize> {
        let (from, headers) = match k {
            0 => (0, &self.whole[..self.whole_len]),
            _ => (self.first + (k - 1) * self.each, &self.later[..self.later_len]),
        };
        let to = self.data.min(if k == 0 { self.first } else { from + self.each });
        let data_at = self.start + self.whole_len;
        let range = data_at + from - headers.len()..data_at + to;
        let (head, _) = buf[range.clone()].split_at_mut(headers.len());
        head.copy_from_slice(headers);
        let ip = &mut head[self.l3..];
        let more = if to < self.data { MORE } else { 0 };
        let total = ip.len() + to - from;
        put16(ip, 2, total as u16);
        put16(ip, 6, (be16(ip, 6) | more) + (from / 8) as u16);
        put16(ip, 10, 0);
        let sum = !checksum::sum(ip);
        put16(ip, 10, sum);
        range
    }

    /// Puts the packet's own headers back, from which those of the next segment of a super-frame are made.
    pub fn restore(&self, buf: &mut [u8]) {
        buf[self.start..self.start + self.whole_len].copy_from_slice(&self.whole[..self.whole_len]);
    }
}

/// Writes the options that go into every fragment, filled up to whole words; their length. `None` when they are malformed.
fn copied(mut options: &[u8], out: &mut [u8]) -> Option<usize> {
    let mut len = 0;
    loop {
        options = match *options {
            [] | [0, ..] => return Some(usize::next_multiple_of(len, 4)),
            [1, ref rest @ ..] => rest,
            [kind, option, ..] if option >= 2 => {
                let (option, rest) = options.split_at_checked(option.into())?;
                if kind & COPIED != 0 {
                    out.get_mut(len..len + option.len())?.copy_from_slice(option);
                    len += option.len();
                }
                rest
            }
            _ => return None,
        };
    }
}
