//! Two gateways that know nothing of each other but an identity, behind firewalls that let nothing in, and a relay: they meet there, and
//! everything goes over it.
//!
//! ```text
//!   site-a wan0 192.0.2.1 ─┐ bridge
//!   site-b wan0 192.0.2.2 ─┤            each lets in what answers it and nothing else
//!   relay  wan0 192.0.2.3 ─┘            in the namespace of a third gateway that is not started
//! ```

use std::fs;
use std::path::PathBuf;

use adit_bench::lab::traffic::transfer;
use adit_bench::lab::{Lab, LabOptions, SOON, WAN, binary, wait_until};
use adit_bench::netns::Signal;
use adit_bench::process::Process;
use anyhow::{Context, Result, ensure};

use crate::full_tunnel::selectors;
use crate::{edit, reaches};

const RELAY: usize = 2;

/// A relay and two gateways that have it and no more. Dropped in this order.
struct Apart {
    relay: Option<Process>,
    lab: Lab,
    relay_dir: PathBuf,
}

impl Apart {
    fn prepare(ip_mode: bool) -> Result<Apart> {
        let options = LabOptions { gateways: 3, ike: vec![String::new()], ip_mode, ..LabOptions::patient() };
        let lab = Lab::prepare(&options)?;
        let relay_dir = lab.dir().join("relay");
        let told = lab.gateways[RELAY].netns.run(&format!(
            "{} relay init --dir {} --name 192.0.2.3",
            binary("adit")?.display(),
            relay_dir.display()
        ))?;
        let pin = told.lines().find_map(|line| line.trim().strip_prefix("pin: ")).context("a pin is told")?.to_owned();
        for gateway in &lab.gateways[..RELAY] {
            let text = fs::read_to_string(&gateway.config)?;
            let peers = text.lines().filter(|line| !line.contains("name: site-c, endpoint"));
            let apart: Vec<String> = peers
                .map(|line| match line.split_once(", endpoint: \"") {
                    Some((name, rest)) => format!("{name}{}", &rest[rest.find('"').map_or(0, |end| end + 1)..]),
                    None => line.to_owned(),
                })
                .collect();
            let relay = format!(
                "relay: {{ url: wss://192.0.2.3, pin: {pin}, rooms: [lab], token_file: {}/lab.token }}\n",
                relay_dir.display()
            );
            fs::write(&gateway.config, apart.join("\n") + "\n" + &relay)?;
            gateway.netns.run("sysctl -qw net.ipv4.conf.all.rp_filter=0")?;
            let rules = format!(
                "table inet firewall {{\nchain input {{\ntype filter hook input priority 0; policy accept;
                    iifname {WAN} meta l4proto {{ icmp, ipv6-icmp }} accept
                    iifname {WAN} ct state established,related accept
                    iifname {WAN} counter drop\n}}\n}}\n"
            );
            let file = lab.dir().join(format!("{}.nft", gateway.name));
            fs::write(&file, rules)?;
            gateway.netns.run(&format!("nft -f {}", file.display()))?;
        }
        Ok(Apart { relay: None, lab, relay_dir })
    }

    fn start_relay(&mut self) -> Result<()> {
        let mut command = self.lab.gateways[RELAY].netns.command(binary("adit")?);
        command.args(["relay", "-c"]).arg(self.relay_dir.join("relay.yaml"));
        let mut relay = Process::start(&mut command, self.lab.dir().join("relay.log"))?;
        relay.wait_for_port(443, SOON)?;
        self.relay = Some(relay);
        Ok(())
    }

    fn kill_relay(&mut self) -> Result<()> {
        let mut relay = self.relay.take().context("the relay runs")?;
        relay.signal(Signal::Kill)?;
        relay.wait(SOON).map(drop)
    }

    fn start(ip_mode: bool) -> Result<Apart> {
        let mut apart = Apart::prepare(ip_mode)?;
        apart.start_relay()?;
        for gateway in &mut apart.lab.gateways[..RELAY] {
            gateway.start_control()?;
        }
        apart.wait_until_up()?;
        Ok(apart)
    }

    fn wait_until_up(&self) -> Result<()> {
        let ping = format!("ping -n -c1 -W1 {}", self.lab.b().inner());
        wait_until("the gateways meet", SOON, || Ok(self.lab.a().netns.run(&ping).is_ok())).with_context(|| self.logs())
    }

    fn logs(&self) -> String {
        let relay = fs::read_to_string(self.lab.dir().join("relay.log")).unwrap_or_default();
        format!("{}── relay\n{relay}", self.lab.logs())
    }

    /// Datagrams of UDP between the gateways that a firewall has kept out, or that were sent at all.
    fn sent_by_udp(&self) -> Result<u64> {
        let of = |gateway: &adit_bench::lab::Gateway| Ok(gateway.metrics()?.count(adit_proto::stats::Count::UdpSentDatagrams));
        Ok([self.lab.a(), self.lab.b()].into_iter().map(of).collect::<Result<Vec<u64>>>()?.iter().sum())
    }
}

#[test]
fn gateways_that_cannot_reach_each_other_carry_all_over_a_relay() -> Result<()> {
    let apart = Apart::start(false)?;
    let (a, b) = (apart.lab.a(), apart.lab.b());
    reaches(&a.netns, b.inner())?;
    reaches(&b.netns, a.inner())?;
    let bytes = 8 << 20;
    transfer(&a.netns, &b.netns, b.inner().into(), bytes)?.verify(bytes).with_context(|| apart.logs())?;
    transfer(&b.netns, &a.netns, a.inner().into(), bytes)?.verify(bytes).with_context(|| apart.logs())?;
    for (gateway, peer) in [(a, "site-b"), (b, "site-a")] {
        let status = gateway.status()?;
        ensure!(status["relay"]["registered"] == true && status["relay"]["peers"] == 1, "{}", status["relay"]);
        let path = status["peers"][0]["paths"][0].clone();
        ensure!(path["in_use"] == true && path["proven"] == true && path["local"] == "relay", "{path}");
        ensure!(path["sent"]["bytes"].as_u64() > Some(bytes), "{path}");
        let text = gateway.adit("status")?;
        ensure!(text.contains("relay") && text.contains("registered for"), "{text}");
        let why = gateway.adit(&format!("explain {peer}"))?;
        ensure!(why.contains("over the relay"), "{why}");
    }
    ensure!(apart.sent_by_udp()? == 0, "something went by UDP");
    Ok(())
}

#[test]
fn in_ip_mode_too_and_after_the_relay_was_killed_it_goes_on() -> Result<()> {
    let mut apart = Apart::start(true)?;
    apart.kill_relay()?;
    let ping = format!("ping -n -c1 -W1 {}", apart.lab.b().inner());
    wait_until("nothing passes", SOON, || Ok(apart.lab.a().netns.run(&ping).is_err()))?;
    wait_until("that is told", SOON, || Ok(apart.lab.a().status()?["relay"]["registered"] == false))?;
    let failure = apart.lab.a().status()?["relay"]["failure"].clone();
    ensure!(failure.as_str().is_some_and(|why| why.contains("192.0.2.3")), "{failure}");
    apart.start_relay()?;
    apart.wait_until_up()?;
    // The control plane dies: what goes by the relay stops with it, and comes back with the next one.
    apart.lab.gateways[0].kill_control()?;
    wait_until("nothing passes", SOON, || Ok(apart.lab.a().netns.run(&ping).is_err()))?;
    apart.lab.gateways[0].start_control()?;
    apart.wait_until_up()
}

#[test]
fn a_full_tunnel_does_not_swallow_the_way_to_the_relay() -> Result<()> {
    /// Where nothing but a default route leads: that of the machine, or the tunnel.
    const FAR: &str = "198.51.100.9";
    let mut apart = Apart::prepare(true)?;
    apart.lab.gateways[RELAY].netns.run(&format!("ip addr add {FAR}/32 dev lo"))?;
    let (a, b) = (apart.lab.a(), apart.lab.b());
    a.netns.run(&format!("ip route add default via 192.0.2.3 dev {WAN}"))?;
    // As docs/config.md has it.
    a.netns.run("sysctl -qw net.ipv4.conf.all.rp_filter=2")?;
    edit(a, "wss://192.0.2.3", &format!("wss://{FAR}"))?;
    edit(a, &selectors(1, 2), ", selectors: [{ local: 10.77.0.1/32, remote: 0.0.0.0/0 }]")?;
    edit(b, &selectors(2, 1), ", selectors: [{ local: 0.0.0.0/0, remote: 10.77.0.1/32 }]")?;
    apart.start_relay()?;
    for gateway in &mut apart.lab.gateways[..RELAY] {
        gateway.start_control()?;
    }
    apart.wait_until_up()?;
    let way = apart.lab.a().netns.run(&format!("ip route get {FAR}"))?;
    ensure!(way.contains("dev adit0"), "others go into the tunnel: {way}");
    // It is found again while the tunnel has everything.
    apart.kill_relay()?;
    wait_until("that is told", SOON, || Ok(apart.lab.a().status()?["relay"]["registered"] == false))?;
    apart.start_relay()?;
    apart.wait_until_up()
}
