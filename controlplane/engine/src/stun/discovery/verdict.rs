//! What follows from where sockets were seen: the kind of the mapping, and by which rule ports are given.

use std::net::SocketAddr;

use super::facts::{Allocation, Mapping};
use crate::limits::{STEP_GAPS_MAX, STEP_MAX};

/// Ports that must be known before a rule is looked for: three make two differences.
const SAMPLES_LEAST: usize = 3;

/// The kind of mapping of one socket (RFC 5780 §4.3) from all servers that have told it where it is seen. Only answers are evidence,
/// so that loss makes it unknown and never wrong.
pub(super) fn mapping(local: SocketAddr, seen: &[(SocketAddr, SocketAddr)]) -> Mapping {
    if seen.is_empty() {
        return Mapping::Unknown;
    }
    if seen.iter().all(|(_, mapped)| *mapped == local) {
        return Mapping::NoNat;
    }
    let pairs = || seen.iter().enumerate().flat_map(|(place, one)| seen[place + 1..].iter().map(move |other| (one, other)));
    let mut of_one_address = None;
    let mut of_two_addresses = None;
    // The same port of the same address, asked twice as one of two servers, says nothing.
    for ((one, one_mapped), (other, other_mapped)) in pairs().filter(|((one, _), (other, _))| one != other) {
        let same = one_mapped == other_mapped;
        let verdict = if one.ip() != other.ip() { &mut of_two_addresses } else { &mut of_one_address };
        *verdict = Some(verdict.unwrap_or(true) && same);
    }
    match (of_one_address, of_two_addresses) {
        (Some(false), _) => Mapping::AddressAndPortDependent,
        (Some(true), Some(false)) => Mapping::AddressDependent,
        (None, Some(false)) => Mapping::Dependent,
        (_, Some(true)) => Mapping::EndpointIndependent,
        // Other ports of one address say nothing of other addresses.
        (_, None) => Mapping::Unknown,
    }
}

/// What is known of one socket that had sent nothing before, in the order in which they began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sample {
    pub local: u16,
    pub mapped: u16,
    /// Its first packet arrived: later ones of others did not overtake it.
    pub at_once: bool,
}

/// By which rule the ports were given. A step may be several times as long as the shortest where others use the NAT, too, and a first
/// packet that was lost puts its socket behind the others, so the order is not taken for granted.
pub(super) fn allocation(samples: &[Sample]) -> Allocation {
    if samples.len() < SAMPLES_LEAST {
        return Allocation::Unknown;
    }
    let preserved = samples.iter().filter(|one| one.local == one.mapped).count();
    // One may be taken by somebody else already.
    if preserved + 1 >= samples.len() {
        return Allocation::Preserving;
    }
    let mut ports: Vec<i32> = samples.iter().map(|one| i32::from(one.mapped)).collect();
    ports.sort_unstable();
    let mut gaps: Vec<i32> = ports.windows(2).map(|two| two[1] - two[0]).collect();
    gaps.sort_unstable();
    // Where the ports came round to the first again there is one hole, as long as all of them together.
    let hole = gaps.last().copied().filter(|gap| gaps.len() > SAMPLES_LEAST && *gap > STEP_MAX * STEP_GAPS_MAX);
    if hole.is_some() {
        gaps.pop();
    }
    let (step, longest) = (gaps[0], gaps[gaps.len() - 1]);
    let regular = (1..=STEP_MAX).contains(&step) && longest <= step * STEP_GAPS_MAX && gaps.iter().all(|gap| gap % step == 0);
    if regular { Allocation::Step(step * direction(samples)) } else { Allocation::Random }
}

/// 1 if ports rise from socket to socket, else -1.
fn direction(samples: &[Sample]) -> i32 {
    let at_once: Vec<u16> = samples.iter().filter(|one| one.at_once).map(|one| one.mapped).collect();
    let order = if at_once.len() > 1 { at_once } else { samples.iter().map(|one| one.mapped).collect() };
    let rises = order.windows(2).filter(|two| two[1] > two[0]).count();
    if 2 * rises >= order.len() - 1 { 1 } else { -1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(list: &[(&str, u16)]) -> Mapping {
        let list: Vec<_> =
            list.iter().map(|(server, port)| (server.parse().unwrap(), ([203, 0, 113, 1], *port).into())).collect();
        mapping(([10, 0, 0, 2], 5000).into(), &list)
    }

    #[test]
    fn the_mapping_follows_from_who_saw_what() {
        let (a1, a2, b1, b2) = ("198.51.100.1:3478", "198.51.100.1:3479", "198.51.100.2:3478", "198.51.100.2:3479");
        assert_eq!(seen(&[]), Mapping::Unknown);
        assert_eq!(seen(&[(a1, 7)]), Mapping::Unknown, "one address of a server cannot tell");
        assert_eq!(seen(&[(a1, 7), (a2, 7)]), Mapping::Unknown, "nor can two ports of it");
        assert_eq!(seen(&[(a1, 7), (a2, 8)]), Mapping::AddressAndPortDependent);
        assert_eq!(seen(&[(a1, 7), (b1, 7)]), Mapping::EndpointIndependent);
        assert_eq!(seen(&[(a1, 7), (b1, 7), (b2, 7)]), Mapping::EndpointIndependent);
        assert_eq!(seen(&[(a1, 7), (b1, 8)]), Mapping::Dependent);
        assert_eq!(seen(&[(a1, 7), (b1, 8), (b1, 8)]), Mapping::Dependent, "one port twice");
        assert_eq!(seen(&[(a1, 7), (b1, 8), (b2, 8)]), Mapping::AddressDependent);
        assert_eq!(seen(&[(a1, 7), (b1, 8), (b2, 9)]), Mapping::AddressAndPortDependent);
        let local = ([10, 0, 0, 2], 5000).into();
        assert_eq!(mapping(local, &[(a1.parse().unwrap(), local)]), Mapping::NoNat);
        // A NAT that keeps the port is a NAT.
        assert_eq!(seen(&[(a1, 5000), (b1, 5000)]), Mapping::EndpointIndependent);
    }

    fn given(mapped: &[u16]) -> Allocation {
        let sample = |(place, mapped): (usize, &u16)| Sample { local: 40_000 + place as u16, mapped: *mapped, at_once: true };
        allocation(&mapped.iter().enumerate().map(sample).collect::<Vec<_>>())
    }

    #[test]
    fn the_rule_of_the_ports_is_found() {
        assert_eq!(given(&[1024, 1025]), Allocation::Unknown);
        assert_eq!(given(&[40_000, 40_001, 40_002]), Allocation::Preserving);
        assert_eq!(given(&[40_000, 51_111, 40_002, 40_003, 40_004]), Allocation::Preserving, "one was taken");
        for (ports, step) in [
            (&[1024, 1025, 1026, 1027, 1028][..], 1),
            (&[1028, 1027, 1026, 1025], -1),
            (&[2000, 2002, 2004, 2008, 2010], 2),
            (&[9000, 8996, 8992, 8980, 8976], -4),
            (&[65_534, 65_535, 1024, 1025, 1026], 1),
            (&[1025, 1024, 65_535, 65_534, 65_533], -1),
        ] {
            assert_eq!(given(ports), Allocation::Step(step), "{ports:?}");
        }
        for ports in [&[1024, 40_321, 7, 60_000, 22_222][..], &[1024, 1030, 1041, 1043, 1060], &[1024, 1024, 1024]] {
            assert_eq!(given(ports), Allocation::Random, "{ports:?}");
        }
    }

    #[test]
    fn a_socket_whose_first_packet_was_lost_comes_after_the_others() {
        let sample = |mapped, at_once| Sample { local: 9, mapped, at_once };
        let samples = [sample(2003, false), sample(2000, true), sample(2001, true), sample(2002, true)];
        assert_eq!(allocation(&samples), Allocation::Step(1));
        let samples = [sample(1997, false), sample(2000, true), sample(1999, true), sample(1998, true)];
        assert_eq!(allocation(&samples), Allocation::Step(-1));
    }
}
