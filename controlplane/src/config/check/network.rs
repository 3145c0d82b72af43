//! Addresses, MTUs, the interface and its forwarding table.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use adit_engine::path::IKE_PORT;
use adit_proto::control::{Mac, Mode};
use adit_proto::esp;
use adit_proto::limits::{FDB_AGEING_S, FDB_ENTRIES, FLOOD_PPS, IP_PACKET_LEN_MAX};
use ipnet::IpNet;

use super::Check;
use crate::config::endpoint::{Endpoint, EndpointFault, Host};
use crate::config::problem::Place;
use crate::config::raw::{self, Spanned, Text};
use crate::config::{Forwarding, Interface, MacText, Peer, Route, default_mac};
use crate::limits::{INNER_MTU_MIN, INTERFACE_LEN_MAX, UNDERLAY_MTU_MIN};

/// The MTU in Ethernet mode: that of the networks to be joined, whatever the underlay takes.
const ETHERNET_MTU: u64 = 1500;

impl Check<'_> {
    /// Where this gateway receives, and the interface of a link-local address.
    pub(super) fn listen(&mut self, text: Option<Text>, top: Place) -> Option<(SocketAddr, Option<String>)> {
        let expected = "the address and UDP port that this gateway receives on";
        let text = self.required(text, top, "listen", expected, "listen: 0.0.0.0:4500")?;
        let expected = "an IP address and a UDP port from 0 to 65535; 0 lets the system choose one, and keeps it";
        let listen = match text.value.parse::<Endpoint>() {
            Ok(Endpoint { host: Host::LinkLocal(ip, interface), port }) => {
                Some((SocketAddr::new(ip.into(), port), Some(interface)))
            }
            Err(EndpointFault::NoInterface(ip) | EndpointFault::InterfaceNumber(ip)) => {
                let what = format!("`listen` has a link-local address without the name of its interface: {ip} is on every link");
                self.fail(text.at, what, expected.to_owned(), format!("listen: \"[{ip}%eth0]:4500\""));
                None
            }
            // Of any other kind: the port may be 0.
            _ => match text.value.parse::<SocketAddr>() {
                Ok(listen) => Some((listen, None)),
                Err(_) => self.socket_address("listen", &text, expected, "0.0.0.0:4500").map(|listen| (listen, None)),
            },
        };
        if let Some((listen, _)) = listen.as_ref().filter(|(listen, _)| listen.port() == IKE_PORT) {
            let what = "UDP port 500 carries IKE alone: what runs through the tunnel has no place there (RFC 3948)".to_owned();
            let expected = "another port: beside 4500, port 500 is opened by itself for peers that begin there".to_owned();
            self.fail(text.at, what, expected, format!("listen: \"{}\"", SocketAddr::new(listen.ip(), 4500)));
        }
        listen
    }

    /// `ADDRESS:PORT`, with the usual slips explained.
    pub(super) fn socket_address(&mut self, key: &str, text: &Text, expected: &str, example: &str) -> Option<SocketAddr> {
        let (at, value) = (text.at, text.value.as_str());
        let port = example.rsplit(':').next().unwrap_or_default();
        let (what, write) = match value.parse::<SocketAddr>() {
            Ok(address) if address.port() != 0 => return Some(address),
            Ok(address) => {
                (format!("`{key}` has the port 0"), SocketAddr::new(address.ip(), port.parse().unwrap_or(1)).to_string())
            }
            Err(_) => match value.parse::<std::net::IpAddr>() {
                Ok(ip) => (format!("`{key}` has no port"), SocketAddr::new(ip, port.parse().unwrap_or(1)).to_string()),
                Err(_) if value.starts_with(':') => (format!("`{key}` has no address"), format!("0.0.0.0{value}")),
                Err(_) => (format!("`{value}` is not an IP address and port (names are not looked up)"), example.to_owned()),
            },
        };
        self.fail(at, what, expected.to_owned(), format!("{key}: \"{write}\""));
        None
    }

    pub(super) fn underlay_mtu(&mut self, text: Option<Text>) -> u16 {
        self.number("underlay_mtu", text, UNDERLAY_MTU_MIN..=IP_PACKET_LEN_MAX as u64, "bytes", 1500) as u16
    }

    pub(super) fn interface(
        &mut self,
        raw: Option<Spanned<raw::Interface>>,
        top: Place,
        gateway: &str,
        (mode, underlay_mtu, listen): (Mode, u16, Option<SocketAddr>),
        peers: &[(Peer, Place)],
    ) -> Option<Interface> {
        let Some(raw) = raw else {
            let write = "interface:\n  name: adit0\n  addresses: [10.1.0.1/24]";
            self.missing(top, "interface", "the TAP interface that joins the networks", write);
            return None;
        };
        let (at, raw) = (raw.at, raw.value);
        let name = self.required(raw.name, at, "name", "the name of the TAP interface", "name: adit0");
        let name = name.and_then(|name| self.interface_name("name", "adit0", &name));
        // One IPv6 path is enough to leave room for its longer header.
        let ipv6_outer = peers.iter().any(|(peer, _)| peer.may_be_ipv6(listen.unwrap_or(([0, 0, 0, 0], 0).into())));
        // What is longer than one datagram of the underlay carries is cut or answered by the data plane, so any MTU will do.
        let default = match mode {
            Mode::Ethernet => ETHERNET_MTU,
            Mode::Ip => INNER_MTU_MIN.max(esp::frame_len_max(mode, underlay_mtu, ipv6_outer) as u64),
        };
        let mtu = self.number("mtu", raw.mtu, INNER_MTU_MIN..=IP_PACKET_LEN_MAX as u64, "bytes", default);
        let bridge = raw.bridge.and_then(|text| self.bridge(&text, name.as_deref(), &raw.addresses, &raw.routes));
        let addresses = raw.addresses.unwrap_or_default();
        let addresses = addresses.iter().filter_map(|text| self.prefix(text, "10.1.0.1/24")).collect();
        let routes = raw.routes.unwrap_or_default().into_iter().filter_map(|route| self.route(route)).collect();
        let mac = raw.mac.and_then(|text| self.mac("mac", &text));
        let name = name?;
        let mac = mac.unwrap_or_else(|| default_mac(gateway, &name));
        Some(Interface { name, mtu: mtu as u16, bridge, addresses, routes, mac })
    }

    fn interface_name(&mut self, key: &str, example: &str, text: &Text) -> Option<String> {
        let value = text.value.as_str();
        let bad = value.chars().find(|c| !c.is_ascii_graphic() || matches!(c, '/' | ':' | '%'));
        let what = match bad {
            Some(bad) => format!("the interface name `{value}` contains {bad:?}"),
            None if value.len() > INTERFACE_LEN_MAX => {
                format!("the interface name `{value}` is {} characters long", value.len())
            }
            None if matches!(value, "" | "." | "..") => format!("`{value}` cannot be the name of an interface"),
            None => return Some(value.to_owned()),
        };
        let expected = format!("1 to {INTERFACE_LEN_MAX} letters, digits, `-`, `_` and `.`");
        self.fail(text.at, what, expected, format!("{key}: {example}"));
        None
    }

    fn bridge(
        &mut self,
        text: &Text,
        own_name: Option<&str>,
        addresses: &Option<Vec<Text>>,
        routes: &Option<Vec<Spanned<raw::Route>>>,
    ) -> Option<String> {
        let bridge = self.interface_name("bridge", "br0", text)?;
        if own_name == Some(bridge.as_str()) {
            let what = format!("the interface {bridge} cannot be a bridge and a port of it");
            self.fail(text.at, what, "the name of a bridge that exists".into(), "bridge: br0".into());
        }
        let address = addresses.iter().flatten().next().map(|address| address.at);
        if let Some(at) = address.or_else(|| routes.iter().flatten().next().map(|route| route.at)) {
            self.fail(
                at,
                format!("an interface in the bridge {bridge} receives nothing for addresses of its own"),
                "neither addresses nor routes beside `bridge`: the bridge itself can have them".into(),
                format!("nothing here; and on the machine: ip address add ADDRESS dev {bridge}"),
            );
        }
        Some(bridge)
    }

    /// An address or network that leads into the tunnel.
    fn prefix(&mut self, text: &Text, example: &str) -> Option<IpNet> {
        if let Ok(alone) = text.value.parse::<std::net::IpAddr>() {
            let length = if alone.is_ipv4() { 24 } else { 64 };
            let what = format!("the address `{alone}` has no prefix length");
            self.fail(text.at, what, "an address and a prefix length".into(), format!("{alone}/{length}"));
            return None;
        }
        let net: IpNet =
            self.parsed(text, "an address with a prefix length", "an IPv4 or IPv6 address and a prefix length", example)?;
        Some(net)
    }

    fn route(&mut self, route: Spanned<raw::Route>) -> Option<Route> {
        let at = route.at;
        let to = self.required(route.value.to, at, "to", "the network that the route leads to", "to: 10.9.0.0/16");
        let to = to.and_then(|to| {
            let net = self.prefix(&to, "to: 10.9.0.0/16")?;
            if net.trunc() != net {
                let what = format!("`{net}` is an address inside of a network");
                self.fail(to.at, what, "a network: the bits behind the prefix are zero".into(), format!("to: {}", net.trunc()));
                return None;
            }
            Some(net)
        });
        let via = match route.value.via {
            Some(via) => {
                let gateway =
                    self.parsed::<std::net::IpAddr>(&via, "an IP address", "the address of the next router", "via: 10.1.0.2")?;
                if to.is_some_and(|to| to.addr().is_ipv4() != gateway.is_ipv4()) {
                    let what = "`via` and `to` are of different IP versions".to_owned();
                    self.fail(via.at, what, "both IPv4 or both IPv6".into(), "via: an address like that in `to`".into());
                }
                Some(gateway)
            }
            None => None,
        };
        Some(Route { to: to?, via, mtu: None })
    }

    fn mac(&mut self, key: &str, text: &Text) -> Option<Mac> {
        let write = format!("{key}: \"02:00:00:00:00:01\"");
        let octets: Option<Vec<u8>> = text
            .value
            .split([':', '-'])
            .map(|octet| (octet.len() == 2).then(|| u8::from_str_radix(octet, 16).ok()).flatten())
            .collect();
        let Some(mac) = octets.and_then(|octets| Mac::try_from(octets).ok()) else {
            let what = format!("`{}` is not a MAC address", text.value);
            let expected = "six bytes in hexadecimal with colons between them, in double quotes";
            self.fail(text.at, what, expected.into(), write);
            return None;
        };
        if mac[0] & 1 == 1 || mac == [0; 6] {
            let what = format!("{} is not the address of one station", MacText(mac));
            let expected = "a unicast address: the first byte is even, and not all bytes are zero";
            self.fail(text.at, what, expected.into(), write);
            return None;
        }
        Some(mac)
    }

    pub(super) fn forwarding(&mut self, raw: raw::Forwarding, peers: &[(Peer, Place)]) -> Forwarding {
        let max_entries = self.number_of("max_entries", raw.max_entries, FDB_ENTRIES, "addresses", 4096);
        let mut seen = BTreeSet::new();
        let mut pinned = Vec::new();
        for pin in raw.pinned.unwrap_or_default() {
            let (at, pin) = (pin.at, pin.value);
            let mac = self.required(pin.mac, at, "mac", "the address to pin", "mac: \"02:00:00:00:00:0b\"");
            let mac = mac.and_then(|text| Some((self.mac("mac", &text)?, text.at)));
            if let Some((mac, place)) = mac.filter(|(mac, _)| !seen.insert(*mac)) {
                let what = format!("{} is pinned twice", MacText(mac));
                self.fail(place, what, "every address once".into(), "nothing: remove one of the two lines".into());
            }
            let names: Vec<&str> = peers.iter().map(|(peer, _)| peer.name.as_str()).collect();
            let known = names.first().copied().unwrap_or("site-b");
            let Some(peer) =
                self.required(pin.peer, at, "peer", "the peer behind which the address lives", &format!("peer: {known}"))
            else {
                continue;
            };
            match peers.iter().position(|(one, _)| one.name == peer.value) {
                Some(index) => pinned.extend(mac.map(|(mac, _)| (mac, index))),
                None => {
                    let guess = crate::config::problem::nearest(&peer.value, &names).unwrap_or(known);
                    let what = format!("there is no peer `{}`", peer.value);
                    let expected = format!("the name of a peer of this file: {}", names.join(", "));
                    self.fail(peer.at, what, expected, format!("peer: {guess}"));
                }
            }
        }
        Forwarding {
            ageing_s: self.number_of("ageing_s", raw.ageing_s, FDB_AGEING_S, "seconds", 300),
            max_entries,
            flood_pps: self.number_of("flood_pps", raw.flood_pps, FLOOD_PPS, "frames per second", 1000),
            forward: raw.forward.is_some_and(|forward| forward.value),
            pinned,
        }
    }
}
