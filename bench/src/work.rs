//! The kinds of work that every system does in the tunnel bench, and the figures that each yields.
//!
//! ```text
//! tcp1 tcp4 … ─▶ iperf3 (JSON) ─▶ Gbit/s, retransmissions; tcp1 also: processor seconds per Gbit, memory
//! udp…        ─▶ load::measure, offered far above what fits ─▶ packets/s; at 100 000 packets/s ─▶ loss
//! rtt_…       ─▶ rtt::Prober, idle or beside one TCP stream ─▶ µs
//! ```

use std::net::IpAddr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::load::{self, Offer};
use crate::netns::Netns;
use crate::peers::{Ground, Tunnel, Underlay};
use crate::process::{Process, connections};
use crate::rtt::Prober;

/// Far above what any tunnel carries on one machine, so that the tunnel's limit is what arrives.
const FLOOD_PPS: f64 = 1_500_000.0;
/// The fixed rate at which loss is measured.
const LOSS_PPS: f64 = 100_000.0;
/// Echo requests are this far apart.
const PROBE_INTERVAL: Duration = Duration::from_millis(2);
/// iperf3's own.
const IPERF_PORT: u16 = 5201;
/// How long a stream that is there as a load goes on before anything is measured beside it.
const WARM_UP: Duration = Duration::from_millis(500);
/// What fills an Ethernet frame: 1500 bytes with the headers of IPv4 and UDP.
const FULL_PAYLOAD: usize = 1472;
/// A rate at which no full packet is lost for want of room, however it is cut up.
const FULL_PPS: f64 = 1000.0;
/// TCP gets its first segments into a black hole, some 15 kB, and some repeated ones.
const BLACK_HOLE_GBIT: f64 = 0.001;
/// Source ports of `udp_flows`.
const FLOWS: usize = 64;

/// One figure: name of the work, unit, value.
pub type Figure = (&'static str, &'static str, f64);

/// Something to measure. One step may yield several figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Tcp1,
    Tcp4,
    Tcp1Reverse,
    Tcp4Reverse,
    Udp18,
    Udp1350,
    /// Sizes change with every datagram, so that neighbours cannot be merged.
    UdpAlternating,
    /// The flow changes with every datagram.
    UdpFlows,
    RttIdle,
    /// Beside a program that holds one core and never sleeps.
    RttBusy,
    /// Beside one TCP stream.
    RttLoaded,
    /// Over a path whose MTU neither gateway can see.
    Mtu1400,
    /// From host to host, on LANs of 1500 bytes with the tunnel between their bridges.
    Bridge1500,
}

impl Step {
    pub const ALL: [Step; 13] = [
        Step::RttIdle,
        Step::RttBusy,
        Step::Tcp1,
        Step::Tcp4,
        Step::Tcp1Reverse,
        Step::Tcp4Reverse,
        Step::Udp18,
        Step::Udp1350,
        Step::UdpAlternating,
        Step::UdpFlows,
        Step::RttLoaded,
        Step::Mtu1400,
        Step::Bridge1500,
    ];

    /// The works that the step measures; the first is its name.
    pub fn works(self) -> &'static [&'static str] {
        match self {
            Step::Tcp1 => &["tcp1", "tcp1_retransmits", "cpu_s_per_gbit", "rss_mib"],
            Step::Tcp4 => &["tcp4", "tcp4_retransmits"],
            Step::Tcp1Reverse => &["tcp1_reverse", "tcp1_reverse_retransmits"],
            Step::Tcp4Reverse => &["tcp4_reverse", "tcp4_reverse_retransmits"],
            Step::Udp18 => &["udp18", "udp18_reordered", "udp18_loss"],
            Step::Udp1350 => &["udp1350", "udp1350_reordered", "udp1350_loss"],
            Step::UdpAlternating => &["udp_alternating", "udp_alternating_reordered"],
            Step::UdpFlows => &["udp_flows", "udp_flows_reordered"],
            Step::RttIdle => &["rtt_idle_us", "rtt_idle_p99_us", "rtt_idle_p999_us"],
            Step::RttBusy => &["rtt_busy_us", "rtt_busy_p99_us", "rtt_busy_p999_us"],
            Step::RttLoaded => &["rtt_loaded_us", "rtt_loaded_p50_us", "rtt_loaded_p999_us", "rtt_loaded_lost"],
            Step::Mtu1400 => &["mtu1400", "mtu1400_reverse", "mtu1400_udp_loss"],
            Step::Bridge1500 => &["bridge1500", "bridge1500_reverse", "bridge1500_udp_loss"],
        }
    }

    /// What it has to be measured over.
    pub fn ground(self) -> Ground {
        match self {
            Step::Mtu1400 => Ground::Routed,
            Step::Bridge1500 => Ground::Bridged,
            _ => Ground::Cable,
        }
    }

    /// The step that measures this work.
    pub fn of(work: &str) -> Result<Step> {
        let names = || Step::ALL.map(|step| step.works().join(" ")).join(" ");
        Step::ALL
            .into_iter()
            .find(|step| step.works().contains(&work))
            .with_context(|| format!("no work is called `{work}`; there are: {}", names()))
    }

    /// Does the work for about `time` and returns the figures.
    pub fn measure(self, place: &Place<'_>, time: Duration) -> Result<Vec<Figure>> {
        let names = self.works();
        match self {
            Step::Tcp1 => {
                let before = place.tunnel.usage();
                let run = place.tcp(1, false, time)?;
                let after = place.tunnel.usage();
                let mut figures = tcp_figures(names, &run);
                if !place.tunnel.processes.is_empty() {
                    figures.push((names[2], "s/Gbit", (after.cpu_s - before.cpu_s) / run.gbit));
                    figures.push((names[3], "MiB, both gateways", after.rss_mib));
                }
                Ok(figures)
            }
            Step::Tcp4 => Ok(tcp_figures(names, &place.tcp(4, false, time)?)),
            Step::Tcp1Reverse => Ok(tcp_figures(names, &place.tcp(1, true, time)?)),
            Step::Tcp4Reverse => Ok(tcp_figures(names, &place.tcp(4, true, time)?)),
            Step::Udp18 => place.udp(names, &[18], 1, time),
            Step::Udp1350 => place.udp(names, &[1350], 1, time),
            Step::UdpAlternating => place.udp(names, &[18, 1350], 1, time),
            Step::UdpFlows => place.udp(names, &[18], FLOWS, time),
            Step::RttIdle => place.round_trips(names, time),
            Step::RttBusy => {
                let _holder = place.hold_a_core()?;
                std::thread::sleep(WARM_UP);
                place.round_trips(names, time)
            }
            Step::RttLoaded => {
                let mut load = place.start_tcp(1, false, time + WARM_UP + Duration::from_secs(1))?;
                load.wait_until_connected(1)?;
                std::thread::sleep(WARM_UP);
                let probes = place.prober()?;
                std::thread::sleep(time);
                ensure!(load.client.is_running(), "the TCP stream ended before the probes did: {}", load.client.log().trim());
                let probes = probes.stop(Duration::from_secs(1))?;
                load.finish()?;
                ensure!(!probes.times.is_empty(), "no probe was answered");
                let quantiles = [0.99, 0.5, 0.999].map(|share| probes.quantile_us(share));
                let mut figures: Vec<Figure> = names.iter().zip(quantiles).map(|(name, value)| (*name, "µs", value)).collect();
                figures.push((names[3], "% of probes", percent(probes.lost, probes.sent)));
                Ok(figures)
            }
            Step::Mtu1400 | Step::Bridge1500 => place.full_packets(names, time),
        }
    }
}

/// A tunnel that is up.
pub struct Place<'a> {
    pub underlay: &'a Underlay,
    pub tunnel: &'a Tunnel,
}

/// A run of iperf3, both ends. Every run has a server of its own: one that is still busy with the end of the run before refuses.
struct TcpRun {
    client: Process,
    server: Process,
    time: Duration,
}

/// What one iperf3 run has moved.
struct Tcp {
    gbit_s: f64,
    gbit: f64,
    retransmits: f64,
}

impl Place<'_> {
    /// A second of TCP that is not counted: neighbours, routes, windows, CPU clocks.
    pub fn warm_up(&self) -> Result<()> {
        self.tcp(1, false, Duration::from_secs(1)).map(drop)
    }

    fn target(&self) -> IpAddr {
        self.tunnel.target
    }

    fn near(&self) -> &Netns {
        self.underlay.ends().0
    }

    fn far(&self) -> &Netns {
        self.underlay.ends().1
    }

    /// TCP both ways and UDP, all in packets of 1500 bytes if nobody says no. An error when they vanish.
    fn full_packets(&self, names: &[&'static str], time: Duration) -> Result<Vec<Figure>> {
        let mut figures = Vec::new();
        for (name, reverse) in [(names[0], false), (names[1], true)] {
            let run = self.tcp(1, reverse, time).context("a black hole? TCP stands still")?;
            ensure!(run.gbit > BLACK_HOLE_GBIT, "a black hole: {:.0} bytes of TCP in {time:?}", run.gbit / 8.0 * 1e9);
            figures.push((name, "Gbit/s", run.gbit_s));
        }
        let offer = Offer { sizes: vec![FULL_PAYLOAD], flows: 1, rate: FULL_PPS, duration: time };
        let lost = load::measure(self.near(), self.far(), self.target(), &offer)?.lost;
        ensure!(lost < 0.5, "a black hole: {:.0} % of the datagrams of {FULL_PAYLOAD} bytes are lost", 100.0 * lost);
        figures.push((names[2], "% lost of 1 kpps", 100.0 * lost));
        Ok(figures)
    }

    /// Half of all round trips are shorter than the first figure, 99 % than the second, 99.9 % than the third.
    fn round_trips(&self, names: &[&'static str], time: Duration) -> Result<Vec<Figure>> {
        let probes = self.prober()?;
        std::thread::sleep(time);
        let probes = probes.stop(Duration::from_secs(1))?;
        ensure!(!probes.times.is_empty(), "no probe was answered");
        let quantiles = [0.5, 0.99, 0.999].map(|share| probes.quantile_us(share));
        Ok(names.iter().zip(quantiles).map(|(name, value)| (*name, "µs", value)).collect())
    }

    /// A program in a session of its own, as one that a person has started: the kernel shares cores among sessions first.
    fn hold_a_core(&self) -> Result<Process> {
        let mut command = Command::new("setsid");
        command.args(["taskset", "-c", "0", "sh", "-c", "while :; do :; done"]);
        Process::start(&mut command, self.underlay.file("holder.log"))
    }

    fn prober(&self) -> Result<Prober> {
        self.near().enter(|| Prober::start(self.target(), PROBE_INTERVAL))
    }

    fn start_tcp(&self, streams: u32, reverse: bool, time: Duration) -> Result<TcpRun> {
        let logs = [self.underlay.file("iperf3-server.log"), self.underlay.file("iperf3.json")];
        for log in logs.iter().filter(|log| log.exists()) {
            std::fs::remove_file(log)?;
        }
        let mut server = Process::start(self.far().command("iperf3").args(["-s", "-1"]), &logs[0])?;
        server.wait_for_port(IPERF_PORT, Duration::from_secs(5)).context("iperf3 -s")?;
        let mut command = self.near().command("iperf3");
        command.args(["-J", "--connect-timeout", "3000", "-c", &self.target().to_string()]);
        command.args(["-P", &streams.to_string(), "-t", &whole_seconds(time).to_string()]);
        if reverse {
            command.arg("-R");
        }
        Ok(TcpRun { client: Process::start(&mut command, &logs[1])?, server, time })
    }

    fn tcp(&self, streams: u32, reverse: bool, time: Duration) -> Result<Tcp> {
        self.start_tcp(streams, reverse, time)?.finish()
    }

    fn udp(&self, names: &[&'static str], sizes: &[usize], flows: usize, duration: Duration) -> Result<Vec<Figure>> {
        let measure = |rate| {
            let offer = Offer { sizes: sizes.to_vec(), flows, rate, duration };
            load::measure(self.near(), self.far(), self.target(), &offer)
        };
        let flood = measure(FLOOD_PPS)?;
        let tally = flood.tally;
        ensure!(tally.received > 0, "not one datagram arrived");
        let mut figures = vec![
            (names[0], "packets/s", flood.received_pps),
            (names[1], "% of packets", percent(tally.reordered, tally.received)),
        ];
        if let Some(name) = names.get(2) {
            figures.push((name, "% lost of 100 kpps", 100.0 * measure(LOSS_PPS)?.lost));
        }
        Ok(figures)
    }
}

/// What iperf3 understands, never less than what was asked for.
fn whole_seconds(time: Duration) -> u64 {
    (time.as_secs() + u64::from(time.subsec_nanos() > 0)).max(1)
}

impl TcpRun {
    /// Waits until all streams stand, beside iperf3's connection for its own talk.
    fn wait_until_connected(&mut self, streams: usize) -> Result<()> {
        let server = self.server.pid();
        let connected = |_: &Process| connections(server, IPERF_PORT) > streams;
        self.client.wait_until("connects", Duration::from_secs(10), connected).context("iperf3")
    }

    fn finish(mut self) -> Result<Tcp> {
        self.client.wait(self.time + Duration::from_secs(20)).context("iperf3 does not end")?;
        read_iperf(&self.client.log()).with_context(|| format!("the server says: {}", self.server.log().trim()))
    }
}

/// Reads the JSON of iperf3 3.x.
fn read_iperf(text: &str) -> Result<Tcp> {
    let start = text.find('{').with_context(|| format!("iperf3 prints no JSON: {text}"))?;
    let value: Value = serde_json::from_str(&text[start..]).context("iperf3's JSON")?;
    if let Some(error) = value["error"].as_str() {
        bail!("iperf3: {error}");
    }
    let number = |part: &str, field: &str| {
        value["end"][part][field].as_f64().with_context(|| format!("iperf3's JSON lacks end.{part}.{field}"))
    };
    let run = Tcp {
        gbit_s: number("sum_received", "bits_per_second")? / 1e9,
        gbit: number("sum_received", "bytes")? * 8.0 / 1e9,
        retransmits: number("sum_sent", "retransmits")?,
    };
    ensure!(run.gbit > 0.0, "iperf3 moved nothing");
    Ok(run)
}

fn tcp_figures(names: &[&'static str], run: &Tcp) -> Vec<Figure> {
    vec![(names[0], "Gbit/s", run.gbit_s), (names[1], "segments", run.retransmits)]
}

fn percent(part: u64, whole: u64) -> f64 {
    100.0 * part as f64 / whole.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_work_belongs_to_one_step() {
        let works: Vec<&str> = Step::ALL.iter().flat_map(|step| step.works()).copied().collect();
        for work in &works {
            assert!(Step::of(work).unwrap().works().contains(work));
            assert_eq!(works.iter().filter(|other| *other == work).count(), 1, "{work}");
        }
        assert!(Step::of("tcp9").unwrap_err().to_string().contains("tcp4_reverse"));
    }

    #[test]
    fn a_load_is_never_shorter_than_asked_for() {
        for (millis, seconds) in [(0, 1), (500, 1), (1000, 1), (1001, 2), (3500, 4), (4000, 4)] {
            assert_eq!(whole_seconds(Duration::from_millis(millis)), seconds, "{millis} ms");
        }
    }

    /// No tunnel, over routers that nobody hears: what is too long for the link between them vanishes, and the rest passes.
    #[test]
    fn a_black_hole_is_an_error_for_tcp_and_for_datagrams() {
        let underlay = Underlay::new(Ground::Routed, 1500).unwrap();
        let ends = [(&underlay.a, 1, "192.0.2.2"), (&underlay.b, 2, "192.0.2.1")];
        for (netns, ..) in ends {
            netns.run("nft add table inet hole").unwrap();
            netns.run("nft add chain inet hole in { type filter hook input priority 0 ; }").unwrap();
            netns.run("nft add rule inet hole in icmp type destination-unreachable drop").unwrap();
        }
        let mut tunnel = Tunnel { processes: Vec::new(), target: [192, 0, 2, 2].into(), link: "eth0".into() };
        underlay.wait_until_up(&mut tunnel).unwrap();
        let measured = || Step::Mtu1400.measure(&Place { underlay: &underlay, tunnel: &tunnel }, Duration::from_secs(1));
        let error = format!("{:#}", measured().unwrap_err());
        assert!(error.contains("a black hole"), "{error}");
        // TCP that is told of it otherwise fits.
        for (netns, side, far) in ends {
            netns.run(&format!("ip route replace {far} via 198.51.100.{side} dev eth0 advmss 1300")).unwrap();
        }
        let error = format!("{:#}", measured().unwrap_err());
        assert!(error.contains("a black hole") && error.contains("of the datagrams of 1472 bytes"), "{error}");
    }

    #[test]
    fn iperf_results_and_errors_are_read() {
        let text = r#"warning: something
            {"end": {"sum_sent": {"retransmits": 3}, "sum_received": {"bytes": 1250000000, "bits_per_second": 5.0e9}}}"#;
        let run = read_iperf(text).unwrap();
        assert_eq!((run.gbit_s, run.gbit, run.retransmits), (5.0, 10.0, 3.0));
        let error = read_iperf(r#"{"error": "unable to connect to server"}"#).err().unwrap();
        assert!(error.to_string().contains("unable to connect"));
    }
}
