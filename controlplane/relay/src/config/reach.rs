//! What a relay's file says of STUN and TURN, and what is started of it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use adit_engine::crypto::Secret;
use adit_engine::stun::server::Places;
use adit_engine::turn::{self, Lent};
use anyhow::Context;
use ipnet::IpNet;
use serde_yaml::Value;

use super::Check;
use super::read::{Block, shown};
use crate::limits::{
    ALLOCATIONS_ASKED_MAX, ALLOCATIONS_OF_CLIENT_ASKED_MAX, CREDENTIALS_SECONDS_MAX, CREDENTIALS_SECONDS_MIN, NETWORKS_MAX,
    STREAMS_MAX, STUN_ADDRESSES_MAX, TURN_RATE_ASKED_MAX,
};
use crate::reach::{Clients, Settings, Site, TurnSettings};
use crate::tls::{self, Credentials};

/// Named in challenges of TURN: the shorter, the sooner strangers get one.
pub(crate) const REALM: &str = "adit";
/// RFC 8489 §18.5, RFC 8656 §6.
const PORT: u16 = 3478;
const TLS_PORT: u16 = 5349;
/// Credentials hold for an hour: longer than no allocation lives without being asked for again (RFC 8656 §7.2).
const CREDENTIALS_SECONDS: u64 = 3600;

/// Who has no allocation by then has other plans.
const STREAM_IDLE: Duration = Duration::from_secs(30);

const STUN: &str = "stun: { listen: auto }";
const TURN: &str = "turn: { ports: 49152-65535 }";
const AT: &str = "203.0.113.1:3478";

/// STUN, and TURN at the same addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reaching {
    listen: Listen,
    /// Addresses as clients see them, in the order of those of the same IP version in `listen`.
    shown: Vec<IpAddr>,
    open: bool,
    pub(crate) turn: Option<Turning>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Listen {
    /// Where this machine reaches the Internet from.
    Auto,
    At(Vec<SocketAddr>),
}

/// TURN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Turning {
    /// Where it is spoken over TLS; nothing said: at the same addresses.
    tls: Option<Vec<SocketAddr>>,
    ports: RangeInclusive<u16>,
    /// For so long credentials hold.
    pub(crate) life: Duration,
    allow: Vec<IpNet>,
    deny: Vec<IpNet>,
    of_client: usize,
    total: usize,
    bytes_of_client: u32,
    bytes_of_all: u32,
}

impl Check<'_> {
    /// STUN and TURN, where they are wanted.
    pub(super) fn reach(&mut self, root: &Block<'_>) -> Option<Reaching> {
        // Each of them says something by being there.
        if !root.has("stun") {
            if root.has("turn") {
                let expected = "`stun` beside `turn`: TURN is served at its addresses";
                self.reader.fail("turn", "`turn` stands without `stun`", expected, STUN);
            }
            return None;
        }
        let block = self.reader.block("stun", root.get("stun"), &["listen", "shown", "open"], STUN);
        let listen = self.stun_listen(&block);
        let shown = self.shown(&block, &listen);
        let open = self.flag(&block, "open");
        let turn = root.has("turn").then(|| self.turn(root.get("turn")));
        Some(Reaching { listen, shown, open, turn })
    }

    fn stun_listen(&mut self, block: &Block<'_>) -> Listen {
        let expected = "`auto`, or up to two addresses of this machine of each IP version, with the same UDP port";
        let list = self.reader.texts(block, "listen", expected, AT);
        if block.get("listen").is_none() || matches!(&list[..], [(_, only)] if only == "auto") {
            return Listen::Auto;
        }
        if list.is_empty() && matches!(block.get("listen"), Some(Value::Sequence(_))) {
            self.reader.fail(&block.at("listen"), "`listen` names no address", expected, "listen: auto");
        }
        let list: Vec<(String, SocketAddr)> =
            list.iter().filter_map(|(at, text)| Some((at.clone(), self.address(at, text, expected, AT)?))).collect();
        for (place, (at, address)) in list.iter().enumerate() {
            let before: Vec<_> = list[..place].iter().filter(|(_, one)| one.is_ipv4() == address.is_ipv4()).collect();
            let fault = if address.ip().is_unspecified() {
                Some(format!("{address} is all addresses, and answers would leave from any of them"))
            } else if before.iter().any(|(_, one)| one.ip() == address.ip()) {
                Some(format!("{} is given twice", address.ip()))
            } else if before.len() >= STUN_ADDRESSES_MAX {
                Some(format!("{address} is the third of its IP version"))
            } else if before.first().is_some_and(|(_, one)| one.port() != address.port()) {
                // RFC 5780 §6.
                Some(format!("{address} has another port than the first address of its IP version"))
            } else if address.port() == u16::MAX {
                Some(format!("{address} has no port behind it, which the tests of RFC 5780 need"))
            } else {
                None
            };
            if let Some(what) = fault {
                self.reader.fail(at, what, expected, format!("listen: {AT}"));
            }
        }
        Listen::At(list.into_iter().map(|(_, address)| address).collect())
    }

    fn shown(&mut self, block: &Block<'_>, listen: &Listen) -> Vec<IpAddr> {
        let expected = "the addresses as clients see them, one for each of `listen` of the same IP version, in the same order";
        let list = self.reader.texts(block, "shown", expected, "203.0.113.1");
        let mut ips = Vec::new();
        for (at, text) in &list {
            match text.parse::<IpAddr>() {
                Ok(ip) if !ip.is_unspecified() && !ip.is_multicast() => ips.push(ip),
                _ => {
                    let what = format!("{} is no address that clients reach", shown(&Value::String(text.clone())));
                    self.reader.fail(at, what, expected, "shown: 203.0.113.1");
                }
            }
        }
        for v4 in [true, false] {
            let count = ips.iter().filter(|ip| ip.is_ipv4() == v4).count();
            let wanted = match listen {
                Listen::Auto => 1,
                Listen::At(at) => at.iter().filter(|at| at.is_ipv4() == v4).count(),
            };
            if count != 0 && count != wanted {
                let version = if v4 { "IPv4" } else { "IPv6" };
                let what = format!("`shown` has {count} addresses of {version}, and `listen` {wanted}");
                self.reader.fail(&block.at("shown"), what, expected, "shown: 203.0.113.1");
            }
        }
        ips
    }

    fn flag(&mut self, block: &Block<'_>, key: &str) -> bool {
        match block.get(key) {
            None => false,
            Some(Value::Bool(truth)) => *truth,
            Some(other) => {
                let what = format!("`{key}` is {}, neither true nor false", shown(other));
                self.reader.fail(&block.at(key), what, "true or false", format!("{key}: false"));
                false
            }
        }
    }

    fn turn(&mut self, value: Option<&Value>) -> Turning {
        let keys = [
            "tls",
            "ports",
            "credentials_s",
            "allow",
            "deny",
            "allocations_of_client",
            "allocations",
            "bytes_of_client_per_s",
            "bytes_per_s",
        ];
        let block = self.reader.block("turn", value, &keys, TURN);
        let usual = turn::Config::new(Secret::copy_of(b""), Vec::new());
        let tls = block.get("tls").is_some().then(|| {
            let expected = "addresses of this machine and TCP ports for TURN over TLS, or an empty list for none";
            let list = self.reader.texts(&block, "tls", expected, "203.0.113.1:5349");
            list.iter().filter_map(|(at, text)| self.address(at, text, expected, "203.0.113.1:5349")).collect()
        });
        let ports = self.ports(&block, &usual.ports);
        let (allow, deny) = (self.networks(&block, "allow"), self.networks(&block, "deny"));
        let mut number =
            |key: &str, range: RangeInclusive<u64>, unit: &str, usual: u64| self.reader.number(&block, key, range, unit, usual);
        let life = number("credentials_s", CREDENTIALS_SECONDS_MIN..=CREDENTIALS_SECONDS_MAX, "seconds", CREDENTIALS_SECONDS);
        let (of_client, of_all) = (usual.of_identity_max as u64, usual.total_max as u64);
        let of_client = number("allocations_of_client", 1..=ALLOCATIONS_OF_CLIENT_ASKED_MAX, "allocations", of_client);
        let total = number("allocations", 1..=ALLOCATIONS_ASKED_MAX, "allocations", of_all);
        let mut rate = |key: &str, usual: u32| number(key, 1..=TURN_RATE_ASKED_MAX, "bytes in a second", usual.into()) as u32;
        let bytes_of_client = rate("bytes_of_client_per_s", usual.bytes_of_identity);
        let bytes_of_all = rate("bytes_per_s", usual.bytes_of_all);
        Turning {
            tls,
            ports,
            life: Duration::from_secs(life),
            allow,
            deny,
            of_client: of_client as usize,
            total: total as usize,
            bytes_of_client,
            bytes_of_all,
        }
    }

    fn ports(&mut self, block: &Block<'_>, usual: &RangeInclusive<u16>) -> RangeInclusive<u16> {
        let (expected, example) = ("UDP ports that are lent, from 1024 on, as first-last", "49152-65535");
        let Some(text) = self.reader.optional_text(block, "ports", expected, example) else { return usual.clone() };
        let range = text.split_once('-').and_then(|(low, high)| Some(low.trim().parse().ok()?..=high.trim().parse().ok()?));
        match range.filter(|range: &RangeInclusive<u16>| !range.is_empty() && *range.start() >= 1024) {
            Some(range) => range,
            None => {
                let what = format!("{} is no range of ports", shown(&Value::String(text)));
                self.reader.fail(&block.at("ports"), what, expected, format!("ports: {example}"));
                usual.clone()
            }
        }
    }

    fn networks(&mut self, block: &Block<'_>, key: &str) -> Vec<IpNet> {
        let expected = "networks as address/length";
        let list = self.reader.texts(block, key, expected, "10.0.0.0/8");
        if list.len() > NETWORKS_MAX {
            let what = format!("`{key}` has {} networks", list.len());
            self.reader.fail(&block.at(key), what, format!("at most {NETWORKS_MAX}"), format!("{key}: [10.0.0.0/8]"));
        }
        let mut networks = Vec::new();
        for (at, text) in &list {
            match text.parse() {
                Ok(network) => networks.push(network),
                Err(_) => {
                    let what = format!("{} is no network", shown(&Value::String(text.clone())));
                    self.reader.fail(at, what, expected, format!("{key}: [10.0.0.0/8]"));
                }
            }
        }
        networks
    }
}

/// The address of each IP version from which this machine reaches the Internet. Nothing is sent.
fn own_addresses() -> Vec<SocketAddr> {
    // Addresses of the Internet that everybody has a route to who has one at all.
    let outside: [(IpAddr, IpAddr); 2] = [
        (Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::new(198, 41, 0, 4).into()),
        (Ipv6Addr::UNSPECIFIED.into(), Ipv6Addr::new(0x2001, 0x503, 0xba3e, 0, 0, 0, 2, 0x30).into()),
    ];
    let own = outside.into_iter().filter_map(|(any, outside)| {
        let socket = UdpSocket::bind((any, 0)).ok()?;
        socket.connect((outside, PORT)).ok()?;
        Some(SocketAddr::new(socket.local_addr().ok()?.ip(), PORT))
    });
    own.filter(|at| !at.ip().is_loopback() && !at.ip().is_unspecified()).collect()
}

/// Whether nobody on the Internet reaches this address.
fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_private() || (ip.octets()[0] == 100 && ip.octets()[1] & 0xc0 == 64),
        IpAddr::V6(ip) => ip.is_unique_local(),
    }
}

impl Reaching {
    /// What `stun` says.
    pub(crate) fn stun(&self) -> impl PartialEq {
        (&self.listen, &self.shown, self.open)
    }

    /// How many descriptors it needs at the most.
    pub fn descriptors(&self) -> u64 {
        // What is lent has an address of each IP version where that is asked for (RFC 8656 §7.2).
        self.turn.as_ref().map_or(0, |turn| (2 * turn.total + STREAMS_MAX) as u64)
    }

    /// What is started; nothing where this machine has no address for it.
    ///
    /// # Errors
    /// The certificate cannot be used.
    pub(crate) fn settings(
        &self,
        clients: Arc<dyn Clients>,
        credentials: &Credentials,
        secret: &Secret,
    ) -> anyhow::Result<Option<Settings>> {
        let at = match &self.listen {
            Listen::At(at) => at.clone(),
            Listen::Auto => own_addresses(),
        };
        if at.is_empty() {
            tracing::warn!(
                "STUN and TURN are not served: this machine has no route to the Internet; once it has, restart the relay, or name its \
                 addresses (stun: {{ listen: {AT} }})"
            );
            return Ok(None);
        }
        let sites: Vec<Site> = [true, false].into_iter().filter_map(|v4| self.site(&at, v4)).collect();
        for (bind, shown) in sites.iter().flat_map(|site| site.bind.iter().zip(site.shown)) {
            if let (Some(at), None) = (bind[0], shown)
                && self.listen == Listen::Auto
                && is_private(at.ip())
            {
                tracing::warn!(
                    "STUN and TURN are served at {at}, which nobody outside reaches: if a NAT passes a public address on to this machine, \
                     name that (stun: {{ shown: 203.0.113.1 }})"
                );
            }
        }
        let certificate = tls::turn_server(credentials).context("the certificate cannot be used")?;
        let turn = self.turn.as_ref().map(|turn| turn.settings(&at, &sites, certificate, secret));
        Ok(Some(Settings { sites, open: self.open, clients, turn }))
    }

    /// The sockets of one IP version.
    fn site(&self, at: &[SocketAddr], v4: bool) -> Option<Site> {
        let mut site = Site::default();
        let of_version = at.iter().filter(|at| at.is_ipv4() == v4);
        for (place, at) in of_version.take(STUN_ADDRESSES_MAX).enumerate() {
            let second = if at.port() == 0 { 0 } else { at.port().saturating_add(1) };
            site.bind[place] = [Some(*at), Some(SocketAddr::new(at.ip(), second))];
        }
        for (place, ip) in self.shown.iter().filter(|ip| ip.is_ipv4() == v4).take(STUN_ADDRESSES_MAX).enumerate() {
            site.shown[place] = Some(*ip);
        }
        (site.bind != Places::default()).then_some(site)
    }
}

impl Turning {
    fn settings(
        &self,
        at: &[SocketAddr],
        sites: &[Site],
        certificate: Arc<rustls::ServerConfig>,
        secret: &Secret,
    ) -> TurnSettings {
        // Of each IP version the first.
        let lent = sites.iter().filter_map(|site| {
            let bind = site.bind[0][0]?.ip();
            Some(Lent { bind, shown: site.shown[0].unwrap_or(bind) })
        });
        let mut config = turn::Config::new(secret.clone(), lent.collect());
        config.realm = REALM.to_owned();
        config.ports = self.ports.clone();
        config.allowed.networks = self.allow.clone();
        config.allowed.denied = self.deny.clone();
        (config.of_identity_max, config.total_max) = (self.of_client, self.total);
        (config.bytes_of_identity, config.bytes_of_all) = (self.bytes_of_client, self.bytes_of_all);
        let tls_port = |at: &SocketAddr| SocketAddr::new(at.ip(), if at.port() == 0 { 0 } else { TLS_PORT });
        let tls = self.tls.clone().unwrap_or_else(|| at.iter().map(tls_port).collect());
        TurnSettings { config, tcp: at.to_vec(), tls, certificate: Some(certificate), idle: STREAM_IDLE }
    }
}
