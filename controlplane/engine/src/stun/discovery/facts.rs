//! What can be found out about the NAT before us, in the words of RFC 4787 and, for people, in those of RFC 3489.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// On what of the other end the address depends under which we are seen (RFC 4787 §4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mapping {
    /// We are seen under our own address.
    NoNat,
    EndpointIndependent,
    AddressDependent,
    AddressAndPortDependent,
    /// One of the two before: no server has answered at two ports of one address.
    Dependent,
    Unknown,
}

/// Whom of those to whom we have sent nothing the way in lets through (RFC 4787 §5). Ordered from open to closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Filtering {
    EndpointIndependent,
    AddressDependent,
    AddressAndPortDependent,
    Unknown,
}

/// Which port a socket gets outside that has sent nothing before (RFC 4787 §4.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allocation {
    /// The one inside.
    Preserving,
    /// So many above the one before, or below it.
    Step(i32),
    /// No rule was found.
    Random,
    Unknown,
}

/// The names that people know (RFC 3489 §5), and where those say too little, what is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// No NAT, and everybody is let in.
    Open,
    /// No NAT, and who may come in depends on whom we have sent to.
    Firewall,
    /// No NAT; who may come in is not known.
    NoNat,
    FullCone,
    RestrictedCone,
    PortRestrictedCone,
    /// A mapping for all, and a filter that is not known.
    Cone,
    Symmetric,
    UdpBlocked,
    Unknown,
}

impl Class {
    pub const fn of(mapping: Mapping, filtering: Filtering) -> Class {
        match (mapping, filtering) {
            (Mapping::NoNat, Filtering::EndpointIndependent) => Class::Open,
            (Mapping::NoNat, Filtering::Unknown) => Class::NoNat,
            (Mapping::NoNat, _) => Class::Firewall,
            (Mapping::EndpointIndependent, Filtering::EndpointIndependent) => Class::FullCone,
            (Mapping::EndpointIndependent, Filtering::AddressDependent) => Class::RestrictedCone,
            (Mapping::EndpointIndependent, Filtering::AddressAndPortDependent) => Class::PortRestrictedCone,
            (Mapping::EndpointIndependent, Filtering::Unknown) => Class::Cone,
            (Mapping::AddressDependent | Mapping::AddressAndPortDependent | Mapping::Dependent, _) => Class::Symmetric,
            (Mapping::Unknown, _) => Class::Unknown,
        }
    }
}

/// What became of UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Udp {
    /// A server has answered.
    Passes,
    /// None has, and one answers over TCP.
    Blocked,
    /// None has answered at all: they are down, or nothing goes out.
    Silent,
}

/// Who has answered over TCP in a server's place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Portal {
    /// The port of STUN speaks HTTP or TLS.
    AtStunPort,
    /// The port of HTTP sends whoever asks to this host.
    SendsElsewhere(String),
    /// The port of HTTP says that one has to log in (RFC 6585 §6).
    LoginWanted,
}

/// Why something is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Gap {
    /// Servers have refused to tell.
    Refused,
    /// A server lies on our side of the NAT: where it sees us says nothing of that.
    ServerInside,
    /// Only one address of servers has answered, and it names no second one (OTHER-ADDRESS, RFC 5780 §7.4).
    OneAddress,
    /// No server answers from another address or port when asked to (CHANGE-REQUEST, RFC 5780 §7.2).
    NoChange,
    /// The second address of a server is no address to send to.
    OtherAddressUseless,
    /// The second address of a server does not answer.
    OtherAddressSilent,
    /// So much was lost that silence says nothing.
    Loss,
}

/// One of the servers that were asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    pub server: SocketAddr,
    /// How long its first answer took.
    pub rtt: Option<Duration>,
    /// Its second address and port, if it names one that can be used.
    pub other: Option<SocketAddr>,
}

/// What was found out over one IP version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    pub local: SocketAddr,
    /// Where the first socket was seen, first by the server that answered first; each address once.
    pub public: Vec<SocketAddr>,
    pub servers: Vec<Asked>,
    pub udp: Udp,
    pub portal: Option<Portal>,
    pub mapping: Mapping,
    pub filtering: Filtering,
    /// Not asked where there is no NAT; the same below.
    pub allocation: Option<Allocation>,
    pub hairpin: Option<bool>,
    /// In order, each once.
    pub gaps: Vec<Gap>,
    /// Questions to servers that answer, and how many of them got no answer.
    pub questions: u32,
    pub lost: u32,
    pub took: Duration,
}

impl Report {
    pub fn class(&self) -> Class {
        if self.udp == Udp::Blocked { Class::UdpBlocked } else { Class::of(self.mapping, self.filtering) }
    }
}

/// Whether a server's word is enough to send a few small packets to `to`: never to many, never to this machine, unless the server is
/// there itself, and never to another network than that of the Internet where the server is on it.
pub(super) fn may_send_to(server: SocketAddr, to: SocketAddr) -> bool {
    let reach = |ip: IpAddr| match ip.to_canonical() {
        IpAddr::V4(ip) if ip.is_loopback() => 0,
        IpAddr::V4(ip) if ip.is_link_local() => 1,
        // RFC 1918, and what carriers have inside (RFC 6598).
        IpAddr::V4(ip) if ip.is_private() || (ip.octets()[0] == 100 && ip.octets()[1] & 0xc0 == 64) => 2,
        IpAddr::V6(ip) if ip.is_loopback() => 0,
        IpAddr::V6(ip) if ip.is_unicast_link_local() => 1,
        IpAddr::V6(ip) if ip.is_unique_local() => 2,
        IpAddr::V4(_) | IpAddr::V6(_) => 3,
    };
    let nobody = match to.ip().to_canonical() {
        IpAddr::V4(ip) => ip.is_unspecified() || ip.is_multicast() || ip.is_broadcast() || ip.octets()[0] == 0,
        IpAddr::V6(ip) => ip.is_unspecified() || ip.is_multicast(),
    };
    !nobody && to.port() != 0 && to.is_ipv4() == server.is_ipv4() && reach(to.ip()) >= reach(server.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_on_the_internet_sends_nobody_into_our_networks() {
        let may = |server: &str, to: &str| may_send_to(server.parse().unwrap(), to.parse().unwrap());
        for (server, to) in [
            ("198.51.100.1:3478", "198.51.100.2:3479"),
            ("10.0.0.1:3478", "10.0.0.2:3479"),
            ("10.0.0.1:3478", "203.0.113.9:3479"),
            ("127.0.0.1:3478", "127.0.0.2:3479"),
            ("[2001:db8::1]:3478", "[2001:db8::2]:3479"),
            ("[fd00::1]:3478", "[fd00::2]:3479"),
        ] {
            assert!(may(server, to), "{server} {to}");
        }
        for to in ["0.0.0.0:1", "0.1.2.3:1", "127.0.0.1:53", "10.0.0.1:1", "192.168.1.1:1900", "172.16.0.1:1", "100.64.0.1:1"] {
            assert!(!may("198.51.100.1:3478", to), "{to}");
        }
        for to in ["169.254.1.1:1", "224.0.0.251:5353", "255.255.255.255:67", "198.51.100.2:0", "[2001:db8::1]:1"] {
            assert!(!may("198.51.100.1:3478", to), "{to}");
        }
        for to in ["[::]:1", "[::1]:1", "[fe80::1]:1", "[fd00::1]:1", "[ff02::1]:1", "198.51.100.2:1", "[::ffff:10.0.0.1]:1"] {
            assert!(!may("[2001:db8::1]:3478", to), "{to}");
        }
        assert!(!may("10.0.0.1:3478", "127.0.0.1:53"));
    }
}
