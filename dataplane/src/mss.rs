//! IP mode: what two hosts tell each other of their MSS is brought down to what the path to the peer takes, in the SYN and the SYN-ACK
//! of both directions, so that TCP fits from the first segment on. It is never raised, and an option that is not there is not added.
//!
//! Left as they are: fragments, and segments whose options are signed, TCP-MD5 (RFC 2385) and TCP-AO (RFC 5925): the signature of
//! the latter covers the options. What comes through too long is cut like any other TCP ([`crate::oversize`]).

use adit_proto::limits::IPV6_EXTENSIONS_MAX;
use adit_proto::packet::{IPV4, IPV6};

use crate::checksum;
use crate::oversize::recut::SIGNATURES;
use crate::tap::headers::{PROTO_TCP, TCP, TCP_CHECKSUM, be16, is_extension, put16};

const SYN: u8 = 0x02;
const FLAGS: usize = 13;

/// Kinds of TCP options (RFC 9293 §3.1).
const END: u8 = 0;
const NOP: u8 = 1;
const MSS: u8 = 2;
const MSS_LEN: u8 = 4;

const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;

/// Brings down the MSS of the IP packet if it opens a TCP connection; `fits` says how long a packet may be, in bytes. `open`: its
/// checksum is still to be completed. True when the packet was changed.
#[inline]
pub fn clamp(packet: &mut [u8], open: bool, fits: impl FnOnce() -> Option<usize>) -> bool {
    let Some((tcp, headers)) = syn_in(packet) else { return false };
    // RFC 6691: options of IP and TCP are not counted; whoever sends them sends less data with them.
    let most = fits().and_then(|fits| fits.checked_sub(headers + TCP)).and_then(|most| u16::try_from(most).ok());
    most.is_some_and(|most| clamp_segment(&mut packet[tcp..], most, open))
}

/// Where the TCP header of a SYN begins, and how long the IP header is without options.
#[inline]
fn syn_in(packet: &[u8]) -> Option<(usize, usize)> {
    let (tcp, headers) = match packet.first()? >> 4 {
        4 => {
            let ip = packet.first_chunk::<IPV4>()?;
            let is_fragment = be16(ip, 6) & 0x3fff != 0;
            let len = usize::from(ip[0] & 0x0f) * 4;
            (ip[9] == PROTO_TCP && !is_fragment && len >= IPV4).then_some((len, IPV4))?
        }
        6 => match *packet.get(6)? {
            PROTO_TCP => (IPV6, IPV6),
            next if is_extension(next) => (behind_extensions(packet, next)?, IPV6),
            _ => return None,
        },
        _ => return None,
    };
    (packet.get(tcp + FLAGS)? & SYN != 0).then_some((tcp, headers))
}

#[cold]
fn behind_extensions(packet: &[u8], mut next: u8) -> Option<usize> {
    let mut at = IPV6;
    for _ in 0..IPV6_EXTENSIONS_MAX {
        match next {
            PROTO_TCP => return Some(at),
            FRAGMENT | AUTHENTICATION => return None,
            _ if is_extension(next) => {}
            _ => return None,
        }
        let &[following, len] = packet.get(at..)?.first_chunk()?;
        (next, at) = (following, at + (usize::from(len) + 1) * 8);
    }
    None
}

#[cold]
fn clamp_segment(segment: &mut [u8], most: u16, open: bool) -> bool {
    let len = usize::from(segment.get(12).copied().unwrap_or(0) >> 4) * 4;
    if len < TCP || len > segment.len() {
        return false;
    }
    let Some(at) = mss_in(&segment[TCP..len]).map(|at| TCP + at) else { return false };
    let old = be16(segment, at);
    if old <= most {
        return false;
    }
    put16(segment, at, most);
    if !open {
        // At an odd offset the two bytes belong to two words of the checksum, each to the other half (RFC 1071 §2).
        let turned = |value: u16| if at.is_multiple_of(2) { value } else { value.swap_bytes() };
        let sum = checksum::sub(!be16(segment, TCP_CHECKSUM), turned(old));
        put16(segment, TCP_CHECKSUM, !checksum::add(sum, turned(most)));
    }
    true
}

/// Where in the options the MSS stands, when it may be changed.
fn mss_in(options: &[u8]) -> Option<usize> {
    let (mut at, mut found) = (0, None);
    while let Some(&kind) = options.get(at) {
        match kind {
            END => break,
            NOP => at += 1,
            _ if SIGNATURES.contains(&kind) => return None,
            _ => {
                let len = *options.get(at + 1)?;
                if len < 2 || at + usize::from(len) > options.len() {
                    return None;
                }
                if kind == MSS && len == MSS_LEN {
                    // Of several, whoever reads them may take any: such a segment is not made sense of.
                    if found.replace(at + 2).is_some() {
                        return None;
                    }
                }
                at += usize::from(len);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A segment with these flags and options, its checksum right, behind IPv4 or IPv6.
    fn packet(v6: bool, flags: u8, options: &[u8]) -> Vec<u8> {
        let len = TCP + options.len();
        let mut ip =
            if v6 { vec![0x60, 0, 0, 0, 0, len as u8, 6, 64] } else { vec![0x45, 0, 0, (IPV4 + len) as u8, 0, 0, 0x40, 0] };
        if v6 {
            ip.extend([7; 32])
        } else {
            ip.extend([64, 6, 0, 0, 10, 1, 0, 1, 10, 2, 0, 1])
        }
        let mut tcp = vec![9; TCP];
        (tcp[12], tcp[13]) = ((len as u8 / 4) << 4, flags);
        tcp[TCP_CHECKSUM..TCP_CHECKSUM + 2].fill(0);
        tcp.extend(options);
        ip.extend(tcp);
        let sum = !total(&ip, v6);
        let at = ip.len() - len + TCP_CHECKSUM;
        put16(&mut ip, at, sum);
        ip
    }

    /// The sum that a receiver makes.
    fn total(ip: &[u8], v6: bool) -> u16 {
        let (addresses, tcp) = if v6 { (8..40, 40) } else { (12..20, 20) };
        let pseudo = checksum::add(checksum::sum(&ip[addresses]), 6 + (ip.len() - tcp) as u16);
        checksum::add(pseudo, checksum::sum(&ip[tcp..]))
    }

    fn clamped(packet: &[u8], open: bool, fits: usize) -> Option<Vec<u8>> {
        let mut after = packet.to_vec();
        let changed = clamp(&mut after, open, || Some(fits));
        assert_eq!(changed, after != packet);
        changed.then_some(after)
    }

    #[test]
    fn syn_and_syn_ack_say_what_fits_and_never_more() {
        for (v6, most) in [(false, 1300 - 40), (true, 1300 - 60)] {
            for flags in [0x02, 0x12, 0xc2] {
                let [high, low] = 1460_u16.to_be_bytes();
                let [new_high, new_low] = (most as u16).to_be_bytes();
                let before = packet(v6, flags, &[2, 4, high, low, 1, 3, 3, 7]);
                let after = clamped(&before, false, 1300).unwrap();
                assert_eq!(after, packet(v6, flags, &[2, 4, new_high, new_low, 1, 3, 3, 7]));
                assert_eq!(clamped(&after, false, 1300), None, "twice changes nothing");
                assert_eq!(clamped(&after, false, 9000), None, "it is not raised");
            }
            assert_eq!(clamped(&packet(v6, 0x10, &[2, 4, 5, 0xb4]), false, 1300), None, "it opens nothing");
        }
    }

    #[test]
    fn a_checksum_that_is_open_is_left_to_whoever_completes_it() {
        let before = packet(false, SYN, &[2, 4, 5, 0xb4]);
        let after = clamped(&before, true, 1300).unwrap();
        assert_eq!(after[20 + TCP_CHECKSUM..][..2], before[20 + TCP_CHECKSUM..][..2]);
        assert_eq!(be16(&after, 42), 1260);
    }

    #[test]
    fn signed_malformed_and_fragmented_segments_are_left_alone() {
        let mss = [2, 4, 5, 0xb4];
        let md5 = [&mss[..], &[1, 1, 19, 18], &[7; 16]].concat();
        let ao = [&[29, 16], &[7; 14][..], &mss].concat();
        let others: [&[u8]; 7] =
            [&md5, &ao, &[2, 4, 5, 0xb4, 2, 4, 5, 0xb4], &[2, 3, 5, 0], &[8, 40, 2, 4], &[8, 1, 2, 4], &[0, 0, 2, 4]];
        for options in others {
            for v6 in [false, true] {
                assert_eq!(clamped(&packet(v6, SYN, options), false, 1300), None, "{options:?}");
            }
        }
        let mut fragment = packet(false, SYN, &mss);
        fragment[6] = 0x20;
        assert_eq!(clamped(&fragment, false, 1300), None);
        let mut lying = packet(false, SYN, &mss);
        lying[32] = 0xf0;
        assert_eq!(clamped(&lying, false, 1300), None, "a header that is longer than the packet");
        assert!(!clamp(&mut packet(false, SYN, &mss), false, || None), "there is no path");
    }

    #[test]
    fn extension_headers_are_looked_through_but_for_fragments() {
        let bare = packet(true, SYN, &[2, 4, 5, 0xb4]);
        for (header, seen) in [(0, true), (60, true), (43, true), (44, false), (51, false)] {
            let mut packet = [&bare[..40], &[6, 0, 1, 4, 0, 0, 0, 0], &bare[40..]].concat();
            (packet[5], packet[6]) = (packet[5] + 8, header);
            let after = clamped(&packet, false, 1300);
            assert_eq!(after.is_some(), seen, "{header}");
            assert!(after.is_none_or(|after| be16(&after, 40 + 8 + TCP + 2) == 1240));
        }
    }

    proptest! {
        #[test]
        fn the_checksum_stays_right_wherever_the_option_stands(
            v6: bool, nops in 0usize..8, mss: u16, fits in 576usize..9000, flags in prop::sample::select(vec![0x02u8, 0x12]),
        ) {
            let mut options = vec![NOP; nops];
            options.extend([2, 4, (mss >> 8) as u8, mss as u8]);
            options.resize(options.len().next_multiple_of(4), 0);
            let before = packet(v6, flags, &options);
            let most = fits - if v6 { 60 } else { 40 };
            let mut after = before.clone();
            let changed = clamp(&mut after, false, || Some(fits));
            prop_assert_eq!(changed, usize::from(mss) > most);
            prop_assert_eq!(total(&after, v6), 0xffff);
            let at = before.len() - options.len() + nops + 2;
            prop_assert_eq!(usize::from(be16(&after, at)), most.min(mss.into()));
        }

        #[test]
        fn any_bytes_are_looked_at_without_harm(mut bytes in proptest::collection::vec(any::<u8>(), 0..120), start in 0usize..3) {
            if let Some(first) = bytes.first_mut() {
                *first = [0x45, 0x60, *first][start];
            }
            if let (Some(protocol), true) = (bytes.get_mut(if start == 0 { 9 } else { 6 }), start < 2) {
                *protocol = 6;
            }
            clamp(&mut bytes, false, || Some(1300));
        }
    }
}
