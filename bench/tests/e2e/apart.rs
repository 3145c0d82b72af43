//! Two gateways that know nothing of each other but an identity, a relay where they meet, and what keeps them apart.
//!
//! ```text
//!   site-a wan0 192.0.2.1 ─┐ bridge
//!   site-b wan0 192.0.2.2 ─┤            each behind a wall of its own
//!   relay  wan0 192.0.2.3 ─┘            in the namespace of a third gateway that is not started
//! ```

use std::fs;
use std::path::PathBuf;

use adit_bench::lab::{Gateway, Lab, LabOptions, SOON, WAN, binary, wait_until};
use adit_bench::netns::Signal;
use adit_bench::process::Process;
use anyhow::{Context, Result};

/// What stands before a gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wall {
    /// No datagram of UDP comes in.
    NoUdp,
    /// What answers comes in, and nothing else.
    Firewall,
    /// The same, and what leaves the port of the data is seen at another port, the same for everybody: a NAT that is port restricted.
    Nat,
}

impl Wall {
    /// The rules as nftables reads them, before a gateway with this address.
    fn rules(self, address: &str) -> String {
        let udp = if self == Wall::NoUdp { format!("iifname {WAN} meta l4proto udp drop") } else { String::new() };
        let nat = format!(
            "table ip mapping {{\nchain after {{\ntype nat hook postrouting priority srcnat; policy accept;
                oifname {WAN} udp sport 4500 snat to {address}:24500\n}}\n}}\n"
        );
        let filter = format!(
            "table inet firewall {{\nchain input {{\ntype filter hook input priority 0; policy accept;
                iifname {WAN} meta l4proto {{ icmp, ipv6-icmp }} accept
                {udp}
                iifname {WAN} ct state established,related accept
                iifname {WAN} counter drop\n}}\n}}\n"
        );
        if self == Wall::Nat { nat + &filter } else { filter }
    }
}

/// The namespace of the relay.
pub const RELAY: usize = 2;

/// A relay and two gateways that have it and no more. Dropped in this order.
pub struct Apart {
    relay: Option<Process>,
    pub lab: Lab,
    relay_dir: PathBuf,
}

impl Apart {
    pub fn prepare(ip_mode: bool, wall: Wall) -> Result<Apart> {
        let options = LabOptions { gateways: 3, ike: vec![String::new()], ip_mode, ..LabOptions::patient() };
        let lab = Lab::prepare(&options)?;
        let relay_dir = lab.dir().join("relay");
        let told = lab.gateways[RELAY].netns.run(&format!(
            "{} relay init --dir {} --name 192.0.2.3",
            binary("adit")?.display(),
            relay_dir.display()
        ))?;
        let settings = relay_dir.join("relay.yaml");
        let text = fs::read_to_string(&settings)?.replace("listen: auto", "listen: 192.0.2.3:3478");
        fs::write(&settings, text)?;
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
            let rules = wall.rules(&gateway.outer().to_string());
            let file = lab.dir().join(format!("{}.nft", gateway.name));
            fs::write(&file, rules)?;
            gateway.netns.run(&format!("nft -f {}", file.display()))?;
        }
        Ok(Apart { relay: None, lab, relay_dir })
    }

    pub fn start_relay(&mut self) -> Result<()> {
        let mut command = self.lab.gateways[RELAY].netns.command(binary("adit")?);
        command.args(["relay", "-c"]).arg(self.relay_dir.join("relay.yaml"));
        let mut relay = Process::start(&mut command, self.lab.dir().join("relay.log"))?;
        relay.wait_for_port(443, SOON)?;
        self.relay = Some(relay);
        Ok(())
    }

    /// No datagram of UDP comes in at the gateways any more.
    pub fn cut_udp(&self) -> Result<()> {
        let file = self.lab.dir().join("cut.nft");
        let rule = format!("iifname {WAN} meta l4proto udp drop");
        fs::write(&file, format!("table inet cut {{\nchain input {{\ntype filter hook input priority -10;\n{rule}\n}}\n}}\n"))?;
        let cut = |gateway: &Gateway| gateway.netns.run(&format!("nft -f {}", file.display())).map(drop);
        self.lab.gateways[..RELAY].iter().try_for_each(cut)
    }

    /// It does again.
    pub fn mend_udp(&self) -> Result<()> {
        let mend = |gateway: &Gateway| gateway.netns.run("nft delete table inet cut").map(drop);
        self.lab.gateways[..RELAY].iter().try_for_each(mend)
    }

    pub fn kill_relay(&mut self) -> Result<()> {
        let mut relay = self.relay.take().context("the relay runs")?;
        relay.signal(Signal::Kill)?;
        relay.wait(SOON).map(drop)
    }

    pub fn start(ip_mode: bool, wall: Wall) -> Result<Apart> {
        let mut apart = Apart::prepare(ip_mode, wall)?;
        apart.start_relay()?;
        for gateway in &mut apart.lab.gateways[..RELAY] {
            gateway.start_control()?;
        }
        apart.wait_until_up()?;
        Ok(apart)
    }

    pub fn wait_until_up(&self) -> Result<()> {
        let ping = format!("ping -n -c1 -W1 {}", self.lab.b().inner());
        wait_until("the gateways meet", SOON, || Ok(self.lab.a().netns.run(&ping).is_ok())).with_context(|| self.logs())
    }

    pub fn logs(&self) -> String {
        let relay = fs::read_to_string(self.lab.dir().join("relay.log")).unwrap_or_default();
        format!("{}── relay\n{relay}", self.lab.logs())
    }

    /// Datagrams of UDP that came to the gateways.
    pub fn came_by_udp(&self) -> Result<u64> {
        let of = |gateway: &Gateway| Ok(gateway.metrics()?.count(adit_proto::stats::Count::UdpReceivedDatagrams));
        Ok([self.lab.a(), self.lab.b()].into_iter().map(of).collect::<Result<Vec<u64>>>()?.iter().sum())
    }
}
