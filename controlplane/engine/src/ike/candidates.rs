//! Candidates (in the words of RFC 8445 §2): the addresses at which gateways that meet in a stream can perhaps be reached by UDP. Each tells
//! the other in messages that nobody between them can read or forge, and only once the other has proven who it is: the initiator says in
//! IKE_AUTH that it knows this notification and names nothing, the responder names its own in the answer, and the initiator follows with
//! its own at once. Where the other may be is looked for in [`crate::path`], which believes none of them.

use std::net::{IpAddr, SocketAddr};

use adit_proto::ike::{Notify, Payload};

use super::facts::{Facts, Role};
use super::parts::Parts;
use super::vendor::CANDIDATES;
use crate::limits::CANDIDATE_ADDRESSES_MAX;

/// Address, port and what it is.
const LEN_V4: usize = 1 + 2 + 4;
const LEN_V6: usize = 1 + 2 + 16;
/// The highest bit of the first byte says that an address of IPv6 follows.
const V6: u8 = 0x80;

/// An address at which a gateway can perhaps be reached by UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Candidate {
    pub kind: CandidateKind,
    pub address: SocketAddr,
}

/// Where it is known from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CandidateKind {
    /// An address of an interface.
    Host,
    /// The address at which a STUN server sees the gateway: that of the NAT before it.
    Reflexive,
    /// Something else, which a later release may know.
    Other(u8),
}

impl CandidateKind {
    fn number(self) -> u8 {
        match self {
            CandidateKind::Host => 1,
            CandidateKind::Reflexive => 2,
            CandidateKind::Other(number) => number,
        }
    }

    fn of(number: u8) -> CandidateKind {
        match number {
            1 => CandidateKind::Host,
            2 => CandidateKind::Reflexive,
            other => CandidateKind::Other(other),
        }
    }
}

impl std::fmt::Display for CandidateKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            CandidateKind::Host => f.write_str("host"),
            CandidateKind::Reflexive => f.write_str("server reflexive"),
            CandidateKind::Other(number) => write!(f, "kind {number}"),
        }
    }
}

/// The notification that names these.
pub(super) fn named(candidates: &[Candidate]) -> Payload {
    let mut data = Vec::with_capacity(candidates.len() * LEN_V6);
    for Candidate { kind, address } in candidates.iter().take(CANDIDATE_ADDRESSES_MAX) {
        data.push(kind.number() & !V6 | if address.is_ipv6() { V6 } else { 0 });
        data.extend(address.port().to_be_bytes());
        match address.ip() {
            IpAddr::V4(ip) => data.extend(ip.octets()),
            IpAddr::V6(ip) => data.extend(ip.octets()),
        }
    }
    Notify::new(CANDIDATES).with_data(data).into()
}

/// The candidates that a message names, as far as they make sense; `None` where it says nothing of any.
pub(super) fn read(parts: &Parts) -> Option<Vec<Candidate>> {
    let mut data = parts.notify(CANDIDATES)?.data.as_slice();
    let mut all: Vec<Candidate> = Vec::new();
    while let Some(first) = data.first().copied() {
        let Some((one, rest)) = data.split_at_checked(if first & V6 == 0 { LEN_V4 } else { LEN_V6 }) else { break };
        data = rest;
        let port = u16::from_be_bytes([one[1], one[2]]);
        let ip = match <[u8; 4]>::try_from(&one[3..]) {
            Ok(ip) => Some(IpAddr::from(ip)),
            Err(_) => <[u8; 16]>::try_from(&one[3..]).ok().map(IpAddr::from),
        };
        let Some(address) = ip.map(|ip| SocketAddr::new(ip, port)) else { break };
        let is_new = !all.iter().any(|known| known.address == address);
        if is_new && may_be_peer(address) && all.len() < CANDIDATE_ADDRESSES_MAX {
            all.push(Candidate { kind: CandidateKind::of(first & !V6), address });
        }
    }
    Some(all)
}

/// Whether a gateway can be at such an address at all. Whether a way leads there the judge of paths says.
fn may_be_peer(address: SocketAddr) -> bool {
    let fits = match address.ip() {
        IpAddr::V4(ip) => {
            !(ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || ip.is_broadcast() || ip.is_link_local())
                && ip.octets()[0] != 0
                && ip.octets()[0] < 240
        }
        // What IPv4 there is in one is told as IPv4. A link-local one says nothing without its interface.
        IpAddr::V6(ip) => {
            let local = ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || ip.is_unicast_link_local();
            !local && ip.to_ipv4_mapped().is_none()
        }
    };
    fits && address.port() != 0
}

/// Whether both want to hear of candidates, as far as we say: it may be met in a stream, and with `echo` an address can be proven.
pub(super) fn may_be_told((echo, in_streams): (bool, bool), facts: &Facts) -> bool {
    facts.features.adit && echo && in_streams
}

/// What IKE_AUTH says of candidates: that we know of them, and, to an initiator that has proven who it is, which are ours.
pub(super) fn in_auth(own: &[Candidate], can: (bool, bool), facts: &Facts) -> Option<Payload> {
    match facts.role {
        Role::Initiator => may_be_told(can, facts).then(|| named(&[])),
        Role::Responder => facts.features.candidates.then(|| named(own)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(kind: CandidateKind, address: &str) -> Candidate {
        Candidate { kind, address: address.parse().unwrap() }
    }

    fn parts(payload: Payload) -> Parts {
        Parts::sort(vec![payload]).unwrap()
    }

    #[test]
    fn what_is_named_is_read_again() {
        let all = [
            candidate(CandidateKind::Host, "192.168.1.5:4500"),
            candidate(CandidateKind::Reflexive, "203.0.113.9:31000"),
            candidate(CandidateKind::Host, "[2001:db8::5]:4500"),
            candidate(CandidateKind::Other(7), "198.51.100.3:1"),
        ];
        assert_eq!(read(&parts(named(&all))), Some(all.to_vec()));
        assert_eq!((read(&parts(named(&[]))), read(&Parts::default())), (Some(Vec::new()), None));
    }

    #[test]
    fn no_more_are_taken_than_there_may_be_each_once() {
        let many: Vec<Candidate> = (1..100).map(|port| candidate(CandidateKind::Host, &format!("192.0.2.1:{port}"))).collect();
        let data: Vec<u8> = many
            .iter()
            .flat_map(|one| [vec![1], one.address.port().to_be_bytes().to_vec(), vec![192, 0, 2, 1]].concat())
            .collect();
        let twice = [data.as_slice(), &data].concat();
        let read = read(&parts(Notify::new(CANDIDATES).with_data(twice).into())).unwrap();
        assert_eq!(read, many[..CANDIDATE_ADDRESSES_MAX]);
    }

    #[test]
    fn what_can_be_nobodys_address_is_left_out() {
        for address in [
            "0.0.0.0:4500",
            "0.1.2.3:4500",
            "127.0.0.1:4500",
            "224.0.0.1:4500",
            "240.0.0.1:4500",
            "255.255.255.255:4500",
            "169.254.1.1:4500",
            "192.0.2.1:0",
            "[::]:4500",
            "[::1]:4500",
            "[ff02::1]:4500",
            "[fe80::1]:4500",
            "[::ffff:192.0.2.1]:4500",
        ] {
            assert_eq!(read(&parts(named(&[candidate(CandidateKind::Host, address)]))), Some(Vec::new()), "{address}");
        }
    }

    #[test]
    fn whatever_the_bytes_are_they_are_read_to_their_end() {
        let whole = named(&[candidate(CandidateKind::Host, "192.0.2.1:1"), candidate(CandidateKind::Host, "[2001:db8::1]:2")]);
        let Payload::Notify(notify) = whole else { panic!("no notification") };
        for len in 0..=notify.data.len() {
            let read = read(&parts(Notify::new(CANDIDATES).with_data(notify.data[..len].to_vec()).into())).unwrap();
            assert_eq!(read.len(), usize::from(len >= LEN_V4) + usize::from(len >= LEN_V4 + LEN_V6), "{len} bytes");
        }
    }
}
