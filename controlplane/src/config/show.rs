//! The effective configuration as YAML: what `adit config show` prints.

use std::path::Path;

use adit_engine::path::Origin;
use adit_proto::control::Mode;
use adit_proto::ike::PortRange;
use anyhow::Context;
use serde::Serialize;

use super::ike_section::{self, Proof};
use super::{Config, Endpoint, Keys, MacText, RelayTrust};

#[derive(Serialize)]
struct Root<'a> {
    name: &'a str,
    listen: String,
    interface: Interface<'a>,
    underlay_mtu: u16,
    mode: &'static str,
    dscp: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    mss_clamp: Option<&'static str>,
    oversize: &'static str,
    dataplane: Dataplane<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    forwarding: Option<Forwarding<'a>>,
    ike: Ike<'a>,
    peers: Vec<Peer<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metrics: Option<Metrics>,
    #[serde(skip_serializing_if = "Option::is_none")]
    api: Option<Api<'a>>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    http_names: &'a [String],
    #[serde(skip_serializing_if = "Vec::is_empty")]
    stun: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    relay: Option<Relay<'a>>,
    runtime_dir: &'a str,
    state_dir: &'a str,
}

#[derive(Serialize)]
struct Relay<'a> {
    url: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pin: Option<Several>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ca_file: Option<&'a str>,
    rooms: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_file: Option<&'a str>,
}

#[derive(Serialize)]
struct Interface<'a> {
    name: &'a str,
    mtu: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    bridge: Option<&'a str>,
    addresses: Vec<String>,
    routes: Vec<Route>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mac: Option<String>,
}

#[derive(Serialize)]
struct Route {
    to: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    via: Option<String>,
}

#[derive(Serialize)]
struct Dataplane<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    binary: Option<&'a str>,
    workers: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    cores: Option<&'a [usize]>,
    roam: bool,
    io: &'static str,
    crypto: &'static str,
    replay_window: u16,
    socket_buffer: u32,
    busy_poll_us: u32,
}

#[derive(Serialize)]
struct Forwarding<'a> {
    ageing_s: u32,
    max_entries: u32,
    flood_pps: u32,
    forward: bool,
    #[serde(rename = "static")]
    pinned: Vec<Pin<'a>>,
}

#[derive(Serialize)]
struct Pin<'a> {
    mac: String,
    peer: &'a str,
}

#[derive(Serialize)]
struct Peer<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoint: Option<Several>,
    from: Several,
    #[serde(skip_serializing_if = "Option::is_none")]
    static_key_file: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ike: Option<PeerIke<'a>>,
    lanes: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    defer_checksums: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    echo: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    split: Option<bool>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    selectors: Vec<Selector>,
}

/// One value, or a list of them.
#[derive(Serialize)]
#[serde(untagged)]
enum Several {
    One(String),
    List(Vec<String>),
}

/// One as it is usually written, without a list.
fn endpoints(endpoints: &[Endpoint]) -> Option<Several> {
    match endpoints {
        [] => None,
        [one] => Some(Several::One(one.to_string())),
        several => Some(Several::List(several.iter().map(ToString::to_string).collect())),
    }
}

impl From<&Origin> for Several {
    fn from(origin: &Origin) -> Several {
        match origin {
            Origin::Anywhere => Several::One("any".to_owned()),
            Origin::Endpoints => Several::One("endpoint".to_owned()),
            Origin::Networks(networks) => Several::List(networks.iter().map(ToString::to_string).collect()),
        }
    }
}

#[derive(Serialize)]
struct Selector {
    local: String,
    remote: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    protocol: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    local_ports: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    remote_ports: Option<String>,
}

impl From<&adit_proto::control::Selector> for Selector {
    fn from(selector: &adit_proto::control::Selector) -> Selector {
        let ports = |range: PortRange| (range != PortRange::ANY).then(|| format!("{}-{}", range.first, range.last));
        Selector {
            local: selector.local.to_string(),
            remote: selector.remote.to_string(),
            protocol: (selector.protocol != 0).then_some(selector.protocol),
            local_ports: ports(selector.local_ports),
            remote_ports: ports(selector.remote_ports),
        }
    }
}

#[derive(Serialize)]
struct Ike<'a> {
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_file: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    certificate_file: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_log_dir: Option<&'a str>,
}

#[derive(Serialize)]
struct PeerIke<'a> {
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    psk_file: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    public_key_file: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ca_file: Option<&'a str>,
    role: &'static str,
    proposals: Vec<&'a str>,
    esp_proposals: Vec<&'a str>,
    rekey_s: u32,
    rekey_bytes: u64,
    rekey_packets: u64,
    ike_rekey_s: u32,
    reauth_s: u32,
    dpd_s: u32,
    keepalive_s: u32,
    mobike: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    ppk_file: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ppk_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ppk_required: Option<bool>,
}

#[derive(Serialize)]
struct Api<'a> {
    listen: String,
    token_file: &'a str,
}

#[derive(Serialize)]
struct Metrics {
    listen: String,
}

fn text(path: &Path) -> anyhow::Result<&str> {
    path.to_str().with_context(|| format!("the path {} is not UTF-8", path.display()))
}

fn own_ike(ike: &ike_section::Ike) -> anyhow::Result<Ike<'_>> {
    let key = ike.key.as_ref();
    Ok(Ike {
        id: ike.id.to_string(),
        key_file: key.map(|own| text(&own.key.file)).transpose()?,
        certificate_file: key.and_then(|own| own.certificate_file.as_deref()).map(text).transpose()?,
        key_log_dir: ike.key_log_dir.as_deref().map(text).transpose()?,
    })
}

fn peer_ike(ike: &ike_section::PeerIke) -> anyhow::Result<PeerIke<'_>> {
    let (mut psk_file, mut public_key_file, mut ca_file) = (None, None, None);
    match &ike.proof {
        Proof::Psk(psk) => psk_file = Some(text(&psk.file)?),
        Proof::PublicKey(key) => public_key_file = Some(text(&key.file)?),
        Proof::Ca(anchors) => ca_file = Some(text(&anchors.file)?),
    }
    Ok(PeerIke {
        id: ike.id.to_string(),
        psk_file,
        public_key_file,
        ca_file,
        role: ike.role.name(),
        proposals: ike.proposals.iter().map(|(text, _)| text.as_str()).collect(),
        esp_proposals: ike.esp_proposals.iter().map(|(text, _)| text.as_str()).collect(),
        rekey_s: ike.rekey_s,
        rekey_bytes: ike.rekey_bytes,
        rekey_packets: ike.rekey_packets,
        ike_rekey_s: ike.ike_rekey_s,
        reauth_s: ike.reauth_s,
        dpd_s: ike.dpd_s,
        keepalive_s: ike.keepalive_s,
        mobike: ike.mobike,
        ppk_file: ike.ppk.as_ref().map(|ppk| text(&ppk.key.file)).transpose()?,
        ppk_id: ike.ppk.as_ref().map(|ppk| ppk.id.as_str()),
        ppk_required: ike.ppk.as_ref().map(|ppk| ppk.required),
    })
}

fn interface(config: &Config) -> Interface<'_> {
    let interface = &config.interface;
    let routes =
        interface.routes.iter().map(|route| Route { to: route.to.to_string(), via: route.via.map(|via| via.to_string()) });
    Interface {
        name: &interface.name,
        mtu: interface.mtu,
        bridge: interface.bridge.as_deref(),
        addresses: interface.addresses.iter().map(ToString::to_string).collect(),
        routes: routes.collect(),
        mac: (config.mode == Mode::Ethernet).then(|| MacText(interface.mac).to_string()),
    }
}

pub fn to_yaml(config: &Config) -> anyhow::Result<String> {
    let Config { dataplane, forwarding, .. } = config;
    // What a file in IP mode must not have is left out of it.
    let ethernet = config.mode == Mode::Ethernet;
    let peers = config.peers.iter().map(|peer| {
        Ok(Peer {
            name: &peer.name,
            endpoint: endpoints(&peer.endpoints),
            from: Several::from(&peer.from),
            static_key_file: match &peer.keys {
                Keys::Static { file, .. } => Some(text(file)?),
                Keys::Ike(_) => None,
            },
            ike: peer.ike().map(peer_ike).transpose()?,
            lanes: peer.lanes,
            defer_checksums: ethernet.then_some(peer.defer_checksums),
            echo: peer.secret().map(|_| peer.echo),
            split: peer.secret().map(|_| peer.split),
            selectors: peer.selectors.iter().map(Selector::from).collect(),
        })
    });
    let pinned = forwarding.pinned.iter().filter_map(|(mac, peer)| {
        let peer = config.peers.get(*peer)?;
        Some(Pin { mac: MacText(*mac).to_string(), peer: &peer.name })
    });
    let root = Root {
        name: &config.name,
        listen: config.listen_text(),
        interface: interface(config),
        underlay_mtu: config.underlay_mtu,
        mode: config.mode.name(),
        dscp: config.dscp.to_string(),
        mss_clamp: (!ethernet).then(|| config.mss_clamp.name()),
        oversize: config.oversize.name(),
        dataplane: Dataplane {
            binary: dataplane.binary.as_deref().map(text).transpose()?,
            workers: dataplane.workers,
            cores: dataplane.cores.as_deref(),
            roam: dataplane.roam,
            io: dataplane.io.name(),
            crypto: dataplane.crypto.name(),
            replay_window: dataplane.replay_window,
            socket_buffer: dataplane.socket_buffer,
            busy_poll_us: dataplane.busy_poll_us,
        },
        forwarding: ethernet.then(|| Forwarding {
            ageing_s: forwarding.ageing_s,
            max_entries: forwarding.max_entries,
            flood_pps: forwarding.flood_pps,
            forward: forwarding.forward,
            pinned: pinned.collect(),
        }),
        ike: own_ike(&config.ike)?,
        peers: peers.collect::<anyhow::Result<_>>()?,
        metrics: config.metrics_listen.map(|listen| Metrics { listen: listen.to_string() }),
        api: match &config.api {
            Some(api) => Some(Api { listen: api.listen.to_string(), token_file: text(&api.token.file)? }),
            None => None,
        },
        http_names: &config.http_names,
        stun: config.stun.iter().map(ToString::to_string).collect(),
        relay: config.relay.as_ref().map(relay).transpose()?,
        runtime_dir: text(&config.runtime_dir)?,
        state_dir: text(&config.state_dir)?,
    };
    serde_yaml::to_string(&root).context("writing YAML")
}

fn relay(relay: &super::Relay) -> anyhow::Result<Relay<'_>> {
    let (pin, ca_file) = match &relay.trust {
        RelayTrust::Pins(pins) if pins.len() == 1 => (Some(Several::One(pins[0].to_string())), None),
        RelayTrust::Pins(pins) => (Some(Several::List(pins.iter().map(ToString::to_string).collect())), None),
        RelayTrust::Ca(file) => (None, Some(text(file)?)),
    };
    Ok(Relay {
        url: format!("wss://{}", relay.at),
        pin,
        ca_file,
        rooms: relay.rooms.iter().map(ToString::to_string).collect(),
        token_file: relay.token_file.as_deref().map(text).transpose()?,
    })
}
