//! The effective configuration as YAML: what `adit config show` prints.

use std::path::Path;

use anyhow::Context;
use serde::Serialize;

use super::{Config, MacText};

#[derive(Serialize)]
struct Root<'a> {
    name: &'a str,
    listen: String,
    interface: Interface<'a>,
    underlay_mtu: u16,
    dataplane: Dataplane<'a>,
    forwarding: Forwarding<'a>,
    peers: Vec<Peer<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metrics: Option<Metrics>,
    runtime_dir: &'a str,
    state_dir: &'a str,
}

#[derive(Serialize)]
struct Interface<'a> {
    name: &'a str,
    mtu: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    bridge: Option<&'a str>,
    addresses: Vec<String>,
    routes: Vec<Route>,
    mac: String,
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
    endpoint: String,
    static_key_file: &'a str,
    lanes: u16,
    defer_checksums: bool,
}

#[derive(Serialize)]
struct Metrics {
    listen: String,
}

fn text(path: &Path) -> anyhow::Result<&str> {
    path.to_str().with_context(|| format!("the path {} is not UTF-8", path.display()))
}

pub fn to_yaml(config: &Config) -> anyhow::Result<String> {
    let Config { interface, dataplane, forwarding, .. } = config;
    let peers = config.peers.iter().map(|peer| {
        Ok(Peer {
            name: &peer.name,
            endpoint: peer.endpoint.to_string(),
            static_key_file: text(&peer.key_file)?,
            lanes: peer.lanes,
            defer_checksums: peer.defer_checksums,
        })
    });
    let routes =
        interface.routes.iter().map(|route| Route { to: route.to.to_string(), via: route.via.map(|via| via.to_string()) });
    let pinned = forwarding.pinned.iter().filter_map(|(mac, peer)| {
        let peer = config.peers.get(*peer)?;
        Some(Pin { mac: MacText(*mac).to_string(), peer: &peer.name })
    });
    let root = Root {
        name: &config.name,
        listen: config.listen.to_string(),
        interface: Interface {
            name: &interface.name,
            mtu: interface.mtu,
            bridge: interface.bridge.as_deref(),
            addresses: interface.addresses.iter().map(ToString::to_string).collect(),
            routes: routes.collect(),
            mac: MacText(interface.mac).to_string(),
        },
        underlay_mtu: config.underlay_mtu,
        dataplane: Dataplane {
            binary: dataplane.binary.as_deref().map(text).transpose()?,
            workers: dataplane.workers,
            cores: dataplane.cores.as_deref(),
            io: dataplane.io.name(),
            crypto: dataplane.crypto.name(),
            replay_window: dataplane.replay_window,
            socket_buffer: dataplane.socket_buffer,
            busy_poll_us: dataplane.busy_poll_us,
        },
        forwarding: Forwarding {
            ageing_s: forwarding.ageing_s,
            max_entries: forwarding.max_entries,
            flood_pps: forwarding.flood_pps,
            pinned: pinned.collect(),
        },
        peers: peers.collect::<anyhow::Result<_>>()?,
        metrics: config.metrics_listen.map(|listen| Metrics { listen: listen.to_string() }),
        runtime_dir: text(&config.runtime_dir)?,
        state_dir: text(&config.state_dir)?,
    };
    serde_yaml::to_string(&root).context("writing YAML")
}
