//! The traffic class in the header of what is carried: read on the way out, and marked on the way in when a queue of the underlay had
//! something to say ([`adit_proto::class`]). In an Ethernet frame it is looked for behind up to two VLAN tags.

use adit_proto::class::{Arrived, CE, ECN, NOT_ECT, arrived};
use adit_proto::control::Mode;
use adit_proto::stats::Drop;

use crate::checksum;
use crate::tap::headers::{IPV4, be16, network, put16};

/// The traffic class of a frame or packet; 0 when it carries no IP.
#[inline]
pub fn of(mode: Mode, frame: &[u8]) -> u8 {
    let Some((l3, v6)) = network(mode, frame) else { return 0 };
    let word = be16(frame, l3);
    match (v6, word >> 12) {
        (false, 4) => word as u8,
        (true, 6) => (word >> 4) as u8,
        _ => 0,
    }
}

/// Takes over what the ECN field of the outer header says. True when the frame was changed.
///
/// # Errors
/// [`Drop::CeNotEct`] when there is a mark and nowhere to put it (RFC 6040 §4.2).
#[inline]
pub fn mark(mode: Mode, frame: &mut [u8], outer: u8) -> Result<bool, Drop> {
    // Only ECT(1) and CE change anything.
    if outer & 1 == 0 { Ok(false) } else { mark_odd(mode, frame, outer) }
}

fn mark_odd(mode: Mode, frame: &mut [u8], outer: u8) -> Result<bool, Drop> {
    // What has no ECN field cannot say that it understands ECN.
    let no_field = if outer & ECN == CE { Err(Drop::CeNotEct) } else { Ok(false) };
    let Some((l3, v6)) = network(mode, frame) else { return no_field };
    let Some(ip) = frame.get_mut(l3..).filter(|ip| ip.len() >= IPV4 && ip[0] >> 4 == if v6 { 6 } else { 4 }) else {
        return no_field;
    };
    let (word, shift) = (be16(ip, 0), if v6 { 4 } else { 0 });
    let inner = (word >> shift) as u8 & ECN;
    let ecn = match arrived(inner, outer) {
        Arrived::AsItWas => return Ok(false),
        Arrived::Ecn(ecn) => ecn,
        Arrived::Lost => return Err(Drop::CeNotEct),
    };
    debug_assert!(inner != NOT_ECT, "who does not understand ECN is never told so");
    let new = word & !(u16::from(ECN) << shift) | u16::from(ecn) << shift;
    put16(ip, 0, new);
    if !v6 {
        // RFC 1624: a checksum that was right stays right, one that was wrong stays wrong.
        let sum = checksum::add(checksum::sub(!be16(ip, 10), word), new);
        put16(ip, 10, !sum);
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use adit_proto::class::{ECT_0, ECT_1};
    use proptest::prelude::*;

    use super::*;

    /// A header of this class behind so many tags; none is a bare packet.
    fn packet(v6: bool, class: u8, tags: Option<usize>) -> Vec<u8> {
        let mut ip = vec![7; 60];
        if v6 {
            ip[..4].copy_from_slice(&(6 << 28 | u32::from(class) << 20 | 0xabcde).to_be_bytes());
        } else {
            ip[..2].copy_from_slice(&[0x45, class]);
            ip[10..12].fill(0);
            let sum = !checksum::sum(&ip[..IPV4]);
            put16(&mut ip, 10, sum);
        }
        let Some(tags) = tags else { return ip };
        let mut frame = vec![2; 12];
        frame.extend([0x88, 0xa8, 0, 100, 0x81, 0, 0, 7].into_iter().skip(8 - 4 * tags));
        frame.extend(if v6 { [0x86, 0xdd] } else { [8, 0] });
        frame.extend(ip);
        frame
    }

    fn mode_of(tags: Option<usize>) -> Mode {
        if tags.is_some() { Mode::Ethernet } else { Mode::Ip }
    }

    proptest! {
        #[test]
        fn marks_come_out_in_the_header_and_its_checksum_stays_right(
            v6: bool, inner: u8, outer: u8, tags in proptest::option::of(0usize..=2),
        ) {
            let (before, mode) = (packet(v6, inner, tags), mode_of(tags));
            prop_assert_eq!(of(mode, &before), inner);
            let mut after = before.clone();
            let result = mark(mode, &mut after, outer);
            let class = match arrived(inner, outer) {
                Arrived::Lost => {
                    prop_assert_eq!(result, Err(Drop::CeNotEct));
                    inner
                }
                Arrived::AsItWas => {
                    prop_assert_eq!(result, Ok(false));
                    inner
                }
                Arrived::Ecn(ecn) => {
                    prop_assert_eq!(result, Ok(true));
                    inner & !ECN | ecn
                }
            };
            prop_assert_eq!(after, packet(v6, class, tags));
        }

        #[test]
        fn any_bytes_are_looked_at_without_harm(mut bytes in proptest::collection::vec(any::<u8>(), 0..80), outer: u8) {
            for mode in Mode::ALL {
                of(mode, &bytes);
                let _ = mark(mode, &mut bytes, outer);
            }
        }
    }

    #[test]
    fn what_has_no_field_for_it_is_lost_when_it_is_marked() {
        let mut arp = vec![2; 60];
        arp[12..14].copy_from_slice(&[8, 6]);
        assert_eq!(of(Mode::Ethernet, &arp), 0);
        for (outer, expected) in [(NOT_ECT, Ok(false)), (ECT_0, Ok(false)), (ECT_1, Ok(false)), (CE, Err(Drop::CeNotEct))] {
            assert_eq!(mark(Mode::Ethernet, &mut arp, outer), expected);
        }
    }

    #[test]
    fn a_wrong_header_checksum_stays_wrong() {
        let mut frame = packet(false, ECT_0, Some(0));
        frame[14 + 10] ^= 1;
        assert_eq!(mark(Mode::Ethernet, &mut frame, CE), Ok(true));
        assert_ne!(checksum::sum(&frame[14..34]), 0xffff);
    }
}
