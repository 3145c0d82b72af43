//! Where a peer receives, as it is written: `HOST[:PORT]`, `IP:PORT` or `[fe80::1%eth0]:PORT`. What a name stands for, and which index an
//! interface has, is found out while the gateway runs ([`crate::resolve`]).

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use adit_proto::relay::HostPort;

use crate::limits::{HOST_LEN_MAX, INTERFACE_LEN_MAX, LABEL_LEN_MAX};

/// The port of IKE and ESP in UDP (RFC 3948), where a name comes without one.
pub const PORT_DEFAULT: u16 = 4500;
/// The port of STUN (RFC 8489 §18.4), where a server comes without one.
pub const STUN_PORT: u16 = 3478;

/// The port of a relay that comes without one.
pub const RELAY_PORT: u16 = 443;

/// One place where a peer receives.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    pub host: Host,
    /// UDP, never 0.
    pub port: u16,
}

/// Which machine.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Host {
    Address(IpAddr),
    /// A neighbour on the link of this interface.
    LinkLocal(Ipv6Addr, String),
    /// To be looked up.
    Name(String),
}

/// Why something is no endpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointFault {
    #[error("it has the port 0")]
    PortZero,
    #[error("it has no port")]
    NoPort(IpAddr),
    #[error("a link-local address needs its interface")]
    NoInterface(Ipv6Addr),
    #[error("an interface is named here: its number is another one after the next start")]
    InterfaceNumber(Ipv6Addr),
    #[error("only a link-local address has an interface")]
    NotLinkLocal,
    #[error("a server on this link is before every NAT")]
    OnThisLink,
    #[error("nobody can be reached there")]
    Nobody,
    #[error("it is neither an address nor the name of a host")]
    Nonsense,
}

impl Endpoint {
    /// The address, where it is written as one.
    pub fn address(&self) -> Option<SocketAddr> {
        match &self.host {
            Host::Address(ip) => Some(SocketAddr::new(*ip, self.port)),
            Host::LinkLocal(..) | Host::Name(_) => None,
        }
    }

    /// Whether it is known to be of one IP version: IPv6 if so.
    pub fn is_ipv6(&self) -> Option<bool> {
        match &self.host {
            Host::Address(ip) => Some(ip.is_ipv6()),
            Host::LinkLocal(..) => Some(true),
            Host::Name(_) => None,
        }
    }

    /// The name to look up, if it is one.
    pub fn name(&self) -> Option<&str> {
        if let Host::Name(name) = &self.host { Some(name) } else { None }
    }
}

/// A socket on [::] reaches IPv4, too; one on an address reaches its own IP version.
pub fn reaches(listen: SocketAddr, remote: IpAddr) -> bool {
    listen.ip() == IpAddr::from([0u16; 8]) || listen.is_ipv4() == remote.is_ipv4()
}

impl FromStr for Endpoint {
    type Err = EndpointFault;

    fn from_str(text: &str) -> Result<Endpoint, EndpointFault> {
        read(text, PORT_DEFAULT)
    }
}

/// A STUN server, as `HOST[:PORT]`: names, and here addresses as well, have the usual port where they come without one.
pub fn stun_server(text: &str) -> Result<Endpoint, EndpointFault> {
    let server = match read(text, STUN_PORT) {
        Err(EndpointFault::NoPort(ip)) => Endpoint { host: Host::Address(ip), port: STUN_PORT },
        read => read?,
    };
    match &server.host {
        Host::LinkLocal(..) => Err(EndpointFault::OnThisLink),
        Host::Address(ip) if ip.is_unspecified() || ip.is_multicast() => Err(EndpointFault::Nobody),
        Host::Address(_) | Host::Name(_) => Ok(server),
    }
}

/// A relay, as its `url` or without `wss://`: with a port unless it is 443.
pub fn relay(text: &str) -> Option<HostPort> {
    let place = text.strip_prefix("wss://").unwrap_or(text);
    let place = place.strip_suffix('/').unwrap_or(place);
    let has_port = place.rsplit_once(':').is_some_and(|(host, _)| !host.contains(':') || host.ends_with(']'));
    let with_port = if has_port { place.to_owned() } else { format!("{place}:{RELAY_PORT}") };
    HostPort::new(&with_port).ok()
}

/// One place, where a name has this port if it comes without one.
fn read(text: &str, default: u16) -> Result<Endpoint, EndpointFault> {
    if let Some((address, rest)) = text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        let port = rest.strip_prefix(':').ok_or(EndpointFault::Nonsense).and_then(port);
        return bracketed(address, port);
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return if address.port() == 0 {
            Err(EndpointFault::PortZero)
        } else {
            Ok(Endpoint { host: Host::Address(address.ip()), port: address.port() })
        };
    }
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Err(EndpointFault::NoPort(ip));
    }
    let (name, port) = match text.split_once(':') {
        Some((name, digits)) => (name, port(digits)?),
        None => (text, default),
    };
    if is_host_name(name) { Ok(Endpoint { host: Host::Name(name.to_owned()), port }) } else { Err(EndpointFault::Nonsense) }
}

/// What stands in brackets: an address of IPv6, with an interface if it is link-local.
fn bracketed(text: &str, port: Result<u16, EndpointFault>) -> Result<Endpoint, EndpointFault> {
    let (address, interface) = text.split_once('%').map_or((text, None), |(address, name)| (address, Some(name)));
    let address: Ipv6Addr = address.parse().map_err(|_| EndpointFault::Nonsense)?;
    let host = match (address.is_unicast_link_local(), interface) {
        (false, None) => Host::Address(address.into()),
        (false, Some(_)) => return Err(EndpointFault::NotLinkLocal),
        (true, None) => return Err(EndpointFault::NoInterface(address)),
        (true, Some(name)) if name.bytes().all(|byte| byte.is_ascii_digit()) && !name.is_empty() => {
            return Err(EndpointFault::InterfaceNumber(address));
        }
        (true, Some(name)) if is_interface_name(name) => Host::LinkLocal(address, name.to_owned()),
        (true, Some(_)) => return Err(EndpointFault::Nonsense),
    };
    match port {
        Ok(port) => Ok(Endpoint { host, port }),
        Err(EndpointFault::Nonsense) => Err(EndpointFault::NoPort(address.into())),
        Err(fault) => Err(fault),
    }
}

fn port(text: &str) -> Result<u16, EndpointFault> {
    match text.parse() {
        Ok(0) => Err(EndpointFault::PortZero),
        Ok(port) => Ok(port),
        Err(_) => Err(EndpointFault::Nonsense),
    }
}

/// Letters, digits, `-` and `_` in parts with dots between them. What looks like a number at the end is an address that is none
/// (RFC 1123 §2.1).
fn is_host_name(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    let good = |label: &str| {
        let inside = label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
        !label.is_empty() && label.len() <= LABEL_LEN_MAX && inside && !label.starts_with('-') && !label.ends_with('-')
    };
    let numeric = |label: &str| label.bytes().all(|byte| byte.is_ascii_digit());
    name.len() <= HOST_LEN_MAX && name.split('.').all(good) && !name.rsplit('.').next().is_none_or(numeric)
}

fn is_interface_name(name: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'/' | b':' | b'%' | b'[' | b']');
    !name.is_empty() && name.len() <= INTERFACE_LEN_MAX && name.bytes().all(good) && !matches!(name, "." | "..")
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Address(ip) => SocketAddr::new(*ip, self.port).fmt(f),
            Host::LinkLocal(address, interface) => write!(f, "[{address}%{interface}]:{}", self.port),
            Host::Name(name) => write!(f, "{name}:{}", self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn spelled(text: &str) -> Result<String, EndpointFault> {
        text.parse::<Endpoint>().map(|endpoint| endpoint.to_string())
    }

    #[test]
    fn names_addresses_and_neighbours_are_told_apart() {
        for (text, shown) in [
            ("192.0.2.2:4500", "192.0.2.2:4500"),
            ("[2001:db8::2]:500", "[2001:db8::2]:500"),
            ("[fe80::1%eth0]:4500", "[fe80::1%eth0]:4500"),
            ("[fe80::1%br-lan.7]:4501", "[fe80::1%br-lan.7]:4501"),
            ("site-b.example.org", "site-b.example.org:4500"),
            ("site_b:51820", "site_b:51820"),
            ("b.example.org.:500", "b.example.org.:500"),
        ] {
            assert_eq!(spelled(text).as_deref(), Ok(shown));
        }
        for (text, fault) in [
            ("192.0.2.2", EndpointFault::NoPort([192, 0, 2, 2].into())),
            ("2001:db8::2", EndpointFault::NoPort("2001:db8::2".parse().unwrap())),
            ("[2001:db8::2]", EndpointFault::NoPort("2001:db8::2".parse().unwrap())),
            ("192.0.2.2:0", EndpointFault::PortZero),
            ("b.example.org:0", EndpointFault::PortZero),
            ("[fe80::1]:4500", EndpointFault::NoInterface("fe80::1".parse().unwrap())),
            ("[2001:db8::1%eth0]:4500", EndpointFault::NotLinkLocal),
            ("[fe80::1%2]:4500", EndpointFault::InterfaceNumber("fe80::1".parse().unwrap())),
            ("[fe80::1%]:4500", EndpointFault::Nonsense),
            ("192.0.2.300:4500", EndpointFault::Nonsense),
            ("b.example.org:70000", EndpointFault::Nonsense),
            ("b..example.org", EndpointFault::Nonsense),
            ("-b", EndpointFault::Nonsense),
            ("site b", EndpointFault::Nonsense),
            ("", EndpointFault::Nonsense),
            (":4500", EndpointFault::Nonsense),
        ] {
            assert_eq!(spelled(text), Err(fault), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_back_to_the_same(text in ".{0,40}") {
            if let Ok(endpoint) = text.parse::<Endpoint>() {
                prop_assert_eq!(endpoint.to_string().parse(), Ok(endpoint));
            }
        }
    }
}
