//! Where a relayed packet may go: the public internet, and what the operator has allowed besides.
//!
//! Who has credentials sends packets from inside of the operator's network, with an address that firewalls there trust. Without this check he
//! would reach the services of the relay itself on loopback, the metadata service of a cloud at 169.254.169.254, and every machine with a
//! private address beside it: what broke in other servers (CVE-2020-26262 is one) was each time an address that meant another one, so
//! addresses of IPv6 that carry one of IPv4 are judged by that. The server's own addresses are reached only where they are those
//! of other allocations, since two clients of one server must meet.
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// What the operator allows.
#[derive(Clone, Debug, Default)]
pub struct Allowed {
    /// Networks that are reached although they are private, link-local or loopback.
    pub networks: Vec<IpNet>,
    /// Networks that are not reached although they are public, or are in one of the above: those of a NAT64 of one's own (RFC 6052
    /// §2.2), whose addresses lead to ones of IPv4 that nobody sees in them, or what only customers may reach.
    pub denied: Vec<IpNet>,
    /// Addresses of this machine: no peer has them but other allocations.
    pub own: Vec<IpAddr>,
}

/// What is thought of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Fine,
    /// Ours: fine where an allocation has the port.
    Own,
    Forbidden,
}

impl Allowed {
    pub(crate) fn judge(&self, ip: IpAddr) -> Verdict {
        let (written, ip) = (ip, meant(ip));
        if self.own.iter().any(|own| meant(*own) == ip) {
            return Verdict::Own;
        }
        // Multicast and no address at all are nobody's network.
        let is_no_peer = match ip {
            IpAddr::V4(ip) => ip.is_multicast() || ip.is_broadcast() || ip.octets()[0] == 0,
            IpAddr::V6(ip) => ip.is_multicast() || ip.is_unspecified(),
        };
        let is_denied = self.denied.iter().any(|network| network.contains(&ip) || network.contains(&written));
        // Their own kind is forbidden whatever they lead to, since packets go round in circles between tunnels and servers.
        let is_no_peer = is_no_peer || is_denied || is_tunnelled(written);
        let is_allowed = !is_no_peer && (is_public(ip) || self.networks.iter().any(|network| network.contains(&ip)));
        if is_allowed { Verdict::Fine } else { Verdict::Forbidden }
    }
}

/// Whether an address is that of a tunnel which finds its end in the address: 6to4 (RFC 3056, with its relays, RFC 7526) and Teredo (RFC
/// 4380). RFC 8656 §21.4 lets a server take none of them, neither as a peer's address nor as a client's.
pub(crate) fn is_tunnelled(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.octets()[..3] == [192, 88, 99],
        IpAddr::V6(ip) => ip.segments()[0] == 0x2002 || ip.segments()[..2] == [0x2001, 0],
    }
}

/// The address of IPv4 that one of IPv6 leads to: mapped (RFC 4291 §2.5.5), NAT64 (RFC 6052), 6to4 (RFC 3056).
fn meant(ip: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = ip else { return ip };
    let bits = v6.to_bits();
    let low = Ipv4Addr::from_bits(bits as u32);
    match v6.segments() {
        _ if v6.is_loopback() || v6.is_unspecified() => ip,
        // Mapped, and "compatible", which is no longer used and must lead nowhere else.
        [0, 0, 0, 0, 0, 0 | 0xffff, ..] => low.into(),
        [0x64, 0xff9b, 0, 0, 0, 0, ..] => low.into(),
        [0x2002, ..] => Ipv4Addr::from_bits((bits >> 80) as u32).into(),
        _ => ip,
    }
}

fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, c, _] = ip.octets();
            // Shared (RFC 6598), protocol assignments (RFC 6890), benchmarking (RFC 2544), reserved (RFC 1112).
            let is_special = (a == 100 && b & 0xc0 == 64) || [a, b, c] == [192, 0, 0] || (a == 198 && b & 0xfe == 18) || a >= 240;
            !(ip.is_loopback() || ip.is_private() || ip.is_link_local() || ip.is_documentation() || is_special)
        }
        IpAddr::V6(ip) => is_public_v6(ip),
    }
}

/// What is given to anybody lies in 2000::/3; all else there is, is local or special. Teredo (RFC 4380) hides an address of IPv4.
fn is_public_v6(ip: Ipv6Addr) -> bool {
    let [a, b, ..] = ip.segments();
    a & 0xe000 == 0x2000 && [a, b] != [0x2001, 0] && [a, b] != [0x2001, 0xdb8]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_public_addresses_are_reached_unless_allowed() {
        let allowed = Allowed { own: vec!["203.0.114.1".parse().expect("an address")], ..Allowed::default() };
        let judge = |text: &str| allowed.judge(text.parse().expect("an address"));
        for fine in
            ["8.8.8.8", "100.128.0.1", "172.32.0.1", "2606:4700::1111", "64:ff9b::808:808", "192.88.98.1", "::ffff:8.8.8.8"]
        {
            assert_eq!(judge(fine), Verdict::Fine, "{fine}");
        }
        for own in ["203.0.114.1", "::ffff:203.0.114.1", "64:ff9b::203.0.114.1"] {
            assert_eq!(judge(own), Verdict::Own, "{own}");
        }
        let inside = "0.0.0.0 0.1.2.3 127.0.0.1 127.9.9.9 10.1.1.1 172.16.0.1 192.168.1.1 169.254.169.254 100.64.0.1 192.0.0.8 \
            192.0.2.1 198.18.0.1 224.0.0.1 239.1.1.1 240.0.0.1 255.255.255.255 :: ::1 ::127.0.0.1 ::ffff:10.0.0.1 64:ff9b::10.0.0.1 \
            64:ff9b:1::1 2002:7f00:1::1 2002:808:808::1 192.88.99.1 ::ffff:192.88.99.1 2001:0:1::1 \
            2001:db8::1 fe80::1 fec0::1 fc00::1 fd12::1 ff02::1 100::1";
        for forbidden in inside.split_whitespace() {
            assert_eq!(judge(forbidden), Verdict::Forbidden, "{forbidden}");
        }
    }

    #[test]
    fn what_is_allowed_opens_its_network_and_nothing_else() {
        let networks = ["10.0.0.0/8", "224.0.0.0/3", "::/0"].map(|text| text.parse().expect("a network")).to_vec();
        let allowed = Allowed { networks, ..Allowed::default() };
        let judge = |text: &str| allowed.judge(text.parse().expect("an address"));
        assert_eq!([judge("10.1.1.1"), judge("::ffff:10.1.1.1"), judge("fd00::1")], [Verdict::Fine; 3]);
        assert_eq!(
            [judge("192.168.1.1"), judge("224.0.0.1"), judge("255.255.255.255"), judge("ff02::1")],
            [Verdict::Forbidden; 4]
        );
    }

    #[test]
    fn what_is_denied_is_not_reached_whatever_is_allowed() {
        let list = |texts: &[&str]| texts.iter().map(|text| text.parse().expect("a network")).collect();
        let networks = list(&["10.0.0.0/8", "2000::/3"]);
        let allowed = Allowed { networks, denied: list(&["10.9.0.0/16", "2001:67c:27e4:64::/96", "8.8.4.0/24"]), own: vec![] };
        let judge = |text: &str| allowed.judge(text.parse().expect("an address"));
        assert_eq!([judge("10.1.1.1"), judge("8.8.8.8"), judge("2001:67c::1")], [Verdict::Fine; 3]);
        for denied in
            ["10.9.1.1", "8.8.4.4", "::ffff:8.8.4.4", "64:ff9b::808:404", "2001:67c:27e4:64::a09:101", "2002:a01:101::1"]
        {
            assert_eq!(judge(denied), Verdict::Forbidden, "{denied}");
        }
    }
}
