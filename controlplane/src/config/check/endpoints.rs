//! Where a peer receives: one place or a list of them.

use std::net::{IpAddr, SocketAddr};

use super::Check;
use crate::config::Endpoint;
use crate::config::endpoint::{EndpointFault, reaches};
use crate::config::problem::Place;
use crate::config::raw::{Several, Text};
use crate::limits::ENDPOINTS_MAX;

const EXPECTED: &str = "an IP address and a UDP port from 1 to 65535, or the name of a host; or a list of them";
const EXAMPLE: &str = "192.0.2.2:4500";

impl Check<'_> {
    /// All that the key `endpoint` lists, each once.
    pub(super) fn endpoints(&mut self, texts: &Several, listen: Option<(SocketAddr, Place)>) -> Vec<Endpoint> {
        if texts.values.is_empty() || texts.values.len() > ENDPOINTS_MAX {
            let what = format!("`endpoint` lists {} places", texts.values.len());
            let expected = format!("1 to {ENDPOINTS_MAX} places where this peer receives");
            self.fail(texts.at, what, expected, format!("endpoint: \"{EXAMPLE}\""));
        }
        let mut list: Vec<Endpoint> = Vec::new();
        for text in texts.values.iter().take(ENDPOINTS_MAX) {
            let Some(endpoint) = self.endpoint(text, listen) else { continue };
            if list.contains(&endpoint) {
                let what = format!("the endpoint {endpoint} is given twice");
                self.fail(text.at, what, "every endpoint once".to_owned(), "nothing: remove one of the two".to_owned());
            }
            list.push(endpoint);
        }
        list
    }

    fn endpoint(&mut self, text: &Text, listen: Option<(SocketAddr, Place)>) -> Option<Endpoint> {
        let (at, value) = (text.at, text.value.as_str());
        let endpoint: Endpoint = match value.parse() {
            Ok(endpoint) => endpoint,
            Err(fault) => {
                let write = match &fault {
                    EndpointFault::NoPort(ip) => SocketAddr::new(*ip, 4500).to_string(),
                    EndpointFault::NoInterface(ip) | EndpointFault::InterfaceNumber(ip) => format!("[{ip}%eth0]:4500"),
                    EndpointFault::NotLinkLocal => match (value.split_once('%'), value.rsplit_once(']')) {
                        (Some((address, _)), Some((_, port))) => format!("{address}]{port}"),
                        _ => EXAMPLE.to_owned(),
                    },
                    EndpointFault::PortZero => format!("{}4500", value.strip_suffix('0').unwrap_or("192.0.2.2:")),
                    EndpointFault::Nonsense | EndpointFault::OnThisLink | EndpointFault::Nobody => EXAMPLE.to_owned(),
                };
                let what = format!("`{value}` cannot be an endpoint: {fault}");
                self.fail(at, what, EXPECTED.to_owned(), format!("endpoint: \"{write}\""));
                return None;
            }
        };
        let address = endpoint.address();
        let nobody = |ip: IpAddr| ip.is_unspecified() || ip.is_multicast();
        if address.is_some_and(|address| nobody(address.ip())) {
            let what = format!("nobody can be reached at {endpoint}");
            self.fail(at, what, "the address of one gateway".into(), format!("endpoint: \"{EXAMPLE}\""));
            return None;
        }
        let unlike = |listen: SocketAddr| {
            endpoint.is_ipv6().is_some_and(|v6| !reaches(listen, if v6 { [0u16; 8].into() } else { [0; 4].into() }))
        };
        if let Some((listen, listen_at)) = listen.filter(|(listen, _)| unlike(*listen)) {
            let (ours, theirs) = if listen.is_ipv4() { ("IPv4", "IPv6") } else { ("IPv6", "IPv4") };
            self.fail(
                at,
                format!("the endpoint {endpoint} is {theirs}, but `listen` in line {} is {ours}", listen_at.line),
                "an endpoint that `listen` can reach: [::] reaches IPv6 and IPv4, an address its own IP version".into(),
                format!("listen: \"[::]:{}\", or an {ours} endpoint", listen.port()),
            );
        }
        if let Some((listen, _)) = listen.filter(|(listen, _)| Some(*listen) == address) {
            let what = format!("the endpoint {listen} is the address that this gateway listens on");
            self.fail(at, what, "the address of the other gateway".into(), format!("endpoint: \"{EXAMPLE}\""));
        }
        Some(endpoint)
    }
}
