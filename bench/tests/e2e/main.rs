//! End to end: real gateways in namespaces, one behaviour per module. Needs root (or the root of a user namespace).
//!
//! All are modules of one executable, so that everything is linked once. Labs take turns by themselves (a machine-wide lock),
//! so the number of test threads does not matter.

mod addresses;
mod alike;
mod apart;
mod api;
mod class;
mod commands;
mod confinement;
mod cores;
mod devices;
mod direct;
mod drops;
mod endpoints;
mod extension;
mod faults;
mod flood;
mod fragments;
mod full_tunnel;
mod hostile;
mod hub;
mod hung;
mod ike_faults;
mod ike_metrics;
mod ike_tunnel;
mod insiders;
mod interface;
mod interface_upkeep;
mod io;
mod ip;
mod jumbo;
mod key_log;
mod library;
mod log;
mod lost;
mod mesh;
mod metrics;
mod mss;
mod mtu;
mod nat;
mod nonce;
mod origin;
mod owners;
mod paths;
mod pattern;
mod ping;
mod ppk;
mod reauth;
mod relayed;
mod reload;
mod renewal;
mod restart;
mod routers;
mod secrets;
mod services;
mod state_disk;
mod steering;
mod stop;
mod strangers;
mod takeover;
mod transfer;
mod underlay;
mod vlan;

use std::net::IpAddr;
use std::time::Duration;

use adit_bench::lab::{Gateway, Lab, SOON, wait_until};
use adit_bench::netns::Netns;
use adit_bench::rtt::{Prober, Probes};
use adit_bench::starvation::Starvation;
use adit_proto::stats::Drop;
use anyhow::{Result, ensure};

/// Bytes of the transfers whose size is not the point.
const QUARTER_GIB: u64 = 256 << 20;
const GIB: u64 = 1 << 30;

/// An error unless a hundred echo requests at 1 ms are all answered. (`ping` itself does not wait for a late answer to its last
/// request once it had an early one.)
fn reaches(from: &Netns, target: impl Into<IpAddr>) -> Result<()> {
    let target = target.into();
    // While a neighbour is looked up, the kernel keeps a few packets for it only.
    from.run(&format!("ping -n -c1 -W2 {target}"))?;
    let prober = from.enter(|| Prober::start(target, Duration::from_millis(1)))?;
    wait_until("probes were sent", SOON, || Ok(prober.so_far().0 >= 100))?;
    let grace = if prober.so_far().1 == 0 { 1 } else { 5 };
    let probes = prober.stop(Duration::from_secs(grace))?;
    ensure!(probes.lost == 0, "{target}: {} of {} probes lost", probes.lost, probes.sent);
    Ok(())
}

/// Probes through the tunnel, of which none may be lost, unless a data plane says that it was for want of a core: a worker that does not
/// run for longer than the buffers between workers last drops with a reason of its own. What else a busy machine may have done is told.
struct Pings {
    prober: Prober,
    shed: Shed,
    starvation: Starvation,
}

/// What the data planes of a lab have dropped. Nothing of a gateway that does not run.
struct Shed(Vec<(Drop, u64)>);

impl Shed {
    fn now(lab: &Lab) -> Shed {
        let metrics: Vec<_> = lab.gateways.iter().filter_map(|gateway| gateway.metrics().ok()).collect();
        let sum = |what: &Drop| metrics.iter().map(|metrics| metrics.dropped(*what)).sum();
        Shed(Drop::ALL.iter().map(|what| (*what, sum(what))).collect())
    }

    /// What was shed since then.
    fn since(&self, earlier: &Shed) -> Shed {
        let more = self.0.iter().zip(&earlier.0).map(|((what, now), (_, then))| (*what, now.saturating_sub(*then)));
        Shed(more.filter(|(_, count)| *count > 0).collect())
    }

    fn of(&self, what: Drop) -> u64 {
        self.0.iter().find(|(one, _)| *one == what).map_or(0, |(_, count)| *count)
    }
}

impl Pings {
    fn start(lab: &Lab, from: &Gateway, target: impl Into<IpAddr>, interval: Duration) -> Result<Pings> {
        let target = target.into();
        wait_until("the neighbour is known", SOON, || Ok(from.netns.run(&format!("ping -n -c1 -W1 {target}")).is_ok()))?;
        let (shed, starvation) = (Shed::now(lab), Starvation::watch("adit-dataplane")?);
        let prober = from.netns.enter(|| Prober::start(target, interval))?;
        wait_until("the first ping is answered", SOON, || Ok(prober.so_far().1 > 0))?;
        Ok(Pings { prober, shed, starvation })
    }

    /// Sent and answered.
    fn so_far(&self) -> (u64, u64) {
        self.prober.so_far()
    }

    /// Goes on until at least so many were sent. An error when one was lost.
    fn none_lost(self, lab: &Lab, least: u64) -> Result<Probes> {
        self.lost_none_but(lab, least, |refused, _| refused)
    }

    /// The same beside more than a socket's queue may take: what is lost there is counted.
    fn none_lost_behind_sockets(self, lab: &Lab, least: u64) -> Result<Probes> {
        self.lost_none_but(lab, least, |refused, overflowed| refused + overflowed)
    }

    fn lost_none_but(self, lab: &Lab, least: u64, excused: impl FnOnce(u64, u64) -> u64) -> Result<Probes> {
        wait_until("enough pings were sent", SOON, || Ok(self.prober.so_far().0 >= least))?;
        let probes = self.prober.stop(SOON)?;
        let starved = self.starvation.end();
        let shed = Shed::now(lab).since(&self.shed);
        let (refused, overflowed) = (shed.of(Drop::HandoverFull), shed.of(Drop::UdpOverflow));
        ensure!(
            probes.lost <= excused(refused, overflowed),
            "{} of {} pings lost, the longest outage was {:?}; the gateways dropped {:?}, and for {starved:?} a worker wanted a core\n{}",
            probes.lost,
            probes.sent,
            probes.longest_outage,
            shed.0,
            lab.logs()
        );
        Ok(probes)
    }
}

/// An error unless this many echo requests of `size` bytes come back whole; `ping` compares their content, and ends well if an answer
/// came.
fn echoes(from: &Netns, count: usize, size: usize, options: &str, target: impl Into<IpAddr>) -> Result<()> {
    let target = target.into();
    for _ in 0..count {
        let output = from.run(&format!("ping -n -c1 -W2 -s {size} {options} {target}"))?;
        ensure!(!output.contains("wrong data"), "{output}");
    }
    Ok(())
}

/// Exchanges a text in the configuration of a gateway.
fn edit(gateway: &Gateway, old: &str, new: &str) -> Result<()> {
    let text = std::fs::read_to_string(&gateway.config)?;
    ensure!(text.contains(old), "`{old}` is not in the configuration:\n{text}");
    Ok(std::fs::write(&gateway.config, text.replace(old, new))?)
}
