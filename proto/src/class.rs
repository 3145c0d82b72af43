//! The traffic class of a packet, six bits of DSCP and two of ECN, on its way into a tunnel and out of it: RFC 4301 §5.1.2, with the
//! tables of RFC 6040 (normal mode at both ends). Total and pure.

use std::fmt;
use std::str::FromStr;

/// The sender does not understand ECN.
pub const NOT_ECT: u8 = 0b00;
/// The sender understands ECN; L4S (RFC 9331).
pub const ECT_1: u8 = 0b01;
/// The sender understands ECN.
pub const ECT_0: u8 = 0b10;
/// A queue on the way was long.
pub const CE: u8 = 0b11;
/// The bits of ECN in a traffic class.
pub const ECN: u8 = 0b11;

/// Largest DSCP.
pub const DSCP_MAX: u8 = 63;

/// What stands in the outer header for the DSCP of the inner one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dscp {
    /// The same: the underlay serves each packet as its sender asked.
    #[default]
    Copy,
    /// 0: the underlay learns nothing from it.
    Clear,
    /// Always this one, 0 to [`DSCP_MAX`].
    Value(u8),
}

impl Dscp {
    /// The traffic class of the outer header around a packet of class `inner`. ECN is the inner one's (RFC 6040 §4.1).
    #[inline]
    pub const fn outer(self, inner: u8) -> u8 {
        match self {
            Dscp::Copy => inner,
            Dscp::Clear => inner & ECN,
            Dscp::Value(dscp) => dscp << 2 | inner & ECN,
        }
    }
}

/// As in configurations and arguments: `copy`, `clear` or a number.
impl fmt::Display for Dscp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Dscp::Copy => f.write_str("copy"),
            Dscp::Clear => f.write_str("clear"),
            Dscp::Value(dscp) => dscp.fmt(f),
        }
    }
}

/// What is neither `copy`, `clear`, a number from 0 to 63, nor the name of a DSCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadDscp;

impl fmt::Display for BadDscp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("expected copy, clear, a number from 0 to 63, or a name: ef, af11 to af43, cs0 to cs7, le")
    }
}

impl std::error::Error for BadDscp {}

impl FromStr for Dscp {
    type Err = BadDscp;

    fn from_str(text: &str) -> Result<Dscp, BadDscp> {
        match text {
            "copy" => Ok(Dscp::Copy),
            "clear" => Ok(Dscp::Clear),
            _ => named(text).or_else(|| text.parse().ok().filter(|dscp| *dscp <= DSCP_MAX)).map(Dscp::Value).ok_or(BadDscp),
        }
    }
}

/// The DSCP of a name (RFC 2474 §4.2.2.1, RFC 2597 §6, RFC 3246 §2.7, RFC 8622 §7).
fn named(text: &str) -> Option<u8> {
    match *text.as_bytes() {
        [b'e', b'f'] => Some(46),
        [b'l', b'e'] => Some(1),
        [b'c', b's', class @ b'0'..=b'7'] => Some((class - b'0') << 3),
        [b'a', b'f', class @ b'1'..=b'4', drop @ b'1'..=b'3'] => Some((class - b'0') << 3 | (drop - b'0') << 1),
        _ => None,
    }
}

/// What the outer header of a packet that arrived says about the inner one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrived {
    /// The inner header stays as it is.
    AsItWas,
    /// Its ECN becomes this.
    Ecn(u8),
    /// The packet is to be dropped: a queue on the way wanted its sender to slow down, and only a loss can tell it.
    Lost,
}

/// ECN at the end of the tunnel (RFC 6040 §4.2, figure 4). The outer DSCP ends here (RFC 4301 §5.1.2.1).
#[inline]
pub const fn arrived(inner: u8, outer: u8) -> Arrived {
    match (inner & ECN, outer & ECN) {
        (NOT_ECT, CE) => Arrived::Lost,
        (ECT_0 | ECT_1, CE) => Arrived::Ecn(CE),
        (ECT_0, ECT_1) => Arrived::Ecn(ECT_1),
        _ => Arrived::AsItWas,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Figure 4 of RFC 6040: rows are the inner header, columns the outer one, both Not-ECT, ECT(0), ECT(1), CE.
    #[test]
    fn every_pair_of_marks_comes_out_as_in_the_figure() {
        let all = [NOT_ECT, ECT_0, ECT_1, CE];
        let figure = [
            [Some(NOT_ECT), Some(NOT_ECT), Some(NOT_ECT), None],
            [Some(ECT_0), Some(ECT_0), Some(ECT_1), Some(CE)],
            [Some(ECT_1), Some(ECT_1), Some(ECT_1), Some(CE)],
            [Some(CE), Some(CE), Some(CE), Some(CE)],
        ];
        for (inner, row) in all.into_iter().zip(figure) {
            for (outer, expected) in all.into_iter().zip(row) {
                // A DSCP in either changes nothing.
                let found = match arrived(0xb8 | inner, 0x28 | outer) {
                    Arrived::AsItWas => Some(inner),
                    Arrived::Ecn(ecn) => Some(ecn),
                    Arrived::Lost => None,
                };
                assert_eq!(found, expected, "{inner:02b} in {outer:02b}");
            }
        }
    }

    #[test]
    fn the_outer_class_has_the_inner_ecn_and_the_dscp_asked_for() {
        for inner in 0..=u8::MAX {
            assert_eq!(Dscp::Copy.outer(inner), inner);
            assert_eq!(Dscp::Clear.outer(inner), inner & 3);
            assert_eq!(Dscp::Value(46).outer(inner), 0xb8 | inner & 3);
        }
    }

    #[test]
    fn what_is_written_is_read_back_and_names_are_numbers() {
        for dscp in [Dscp::Copy, Dscp::Clear, Dscp::Value(0), Dscp::Value(63)] {
            assert_eq!(dscp.to_string().parse(), Ok(dscp));
        }
        for (name, number) in [("ef", 46), ("af11", 10), ("af43", 38), ("cs0", 0), ("cs6", 48), ("le", 1)] {
            assert_eq!(name.parse(), Ok(Dscp::Value(number)), "{name}");
        }
        for bad in ["", "64", "-1", "af44", "af01", "cs8", "EF", "copied", "256", "cs"] {
            assert_eq!(bad.parse::<Dscp>(), Err(BadDscp), "{bad}");
        }
    }
}
