//! The gateways with a router between them, and what they say of themselves.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use adit_bench::lab::router::Router;
use adit_bench::lab::{Gateway, Lab, LabOptions, SOON, Turn, wait_until};
use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// The first one connects. Keys live for seconds, so that some are always being replaced.
const ROLES: [&str; 2] = ["initiator", "responder"];
const LIVES: &str = "dpd_s: 2, rekey_s: 20, ike_rekey_s: 45";
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Lines of the logs that are told with an error.
const LINES: usize = 60;

/// The honest gateways, the place of the insider until somebody takes it, and the router.
pub struct Ground {
    pub lab: Lab,
    pub router: Router,
    /// The index of the gateway to which things are done.
    pub victim: usize,
}

impl Ground {
    pub fn start() -> Result<Ground> {
        let ike = ROLES.iter().map(|role| format!("role: {role}, {LIVES}")).collect();
        let mut lab =
            Lab::prepare(&LabOptions { gateways: 3, ip_mode: true, ike, turn: Turn::Beside("soak"), ..LabOptions::default() })?;
        let router = Router::between(&lab.gateways, &[1500; 3])?;
        for gateway in &mut lab.gateways[..2] {
            router.leads_to(gateway, &format!("{}/32", second_address(gateway)))?;
            let text = std::fs::read_to_string(&gateway.config)?;
            // Its address changes; and whoever should be at the insider's place is not connected to.
            let text = text.replace(&format!("listen: \"{}:", gateway.outer()), "listen: \"0.0.0.0:");
            let to_insider =
                |line: &str| if line.contains("name: site-c") { line.replace(ROLES[0], ROLES[1]) } else { line.into() };
            std::fs::write(&gateway.config, text.lines().map(|line| to_insider(line) + "\n").collect::<String>())?;
            gateway.start_control()?;
        }
        let ground = Ground { lab, router, victim: 0 };
        ground.passes().with_context(|| ground.logs())?;
        Ok(ground)
    }

    /// Waits until packets pass between the honest gateways.
    pub fn passes(&self) -> Result<()> {
        let target = self.lab.b().inner();
        until("packets pass", || Ok(self.lab.a().netns.run(&format!("ping -n -c1 -W1 {target}")).is_ok()))
    }

    pub fn victim(&self) -> &Gateway {
        &self.lab.gateways[self.victim]
    }

    pub fn victim_mut(&mut self) -> &mut Gateway {
        &mut self.lab.gateways[self.victim]
    }

    /// The honest gateway to which nothing is done.
    pub fn other(&self) -> &Gateway {
        &self.lab.gateways[1 - self.victim]
    }

    pub fn honest(&self) -> &[Gateway] {
        &self.lab.gateways[..2]
    }

    /// The ends of the logs.
    pub fn logs(&self) -> String {
        let end = |gateway: &Gateway| {
            let log = gateway.log();
            let lines: Vec<&str> = log.lines().collect();
            format!("── {}\n{}\n", gateway.name, lines[lines.len().saturating_sub(LINES)..].join("\n"))
        };
        self.honest().iter().map(end).collect()
    }

    /// Both have each other, nothing is wrong, and they say so.
    pub fn all_is_well(&self) -> Result<()> {
        for gateway in self.honest() {
            let peer = peer_name(gateway);
            let reported = || -> Result<(String, String)> {
                Ok((gateway.adit(&format!("status {peer}"))?, gateway.adit(&format!("explain {peer}"))?))
            };
            let mut last = None;
            wait_until("both are up and nothing is wrong", Duration::from_secs(20), || {
                last = reported().ok();
                let well = |(status, explained): &(String, String)| {
                    status.starts_with(&format!("{peer}: up")) && nothing_is_wrong(explained)
                };
                Ok(last.as_ref().is_some_and(well))
            })
            .with_context(|| format!("{} says {last:#?}\n{}", gateway.name, self.logs()))?;
            // That its data plane was killed it has to say.
            let is_fault = |line: &&str| line.contains("ERROR") && !line.contains("the tunnel is down until it is back");
            let errors: Vec<String> = gateway.log().lines().filter(is_fault).map(str::to_owned).collect();
            ensure!(errors.is_empty(), "{}: {errors:#?}", gateway.name);
        }
        Ok(())
    }
}

/// Beginnings of the lines in which `adit explain` says what is wrong.
const FAULTS: [&str; 7] = ["cause:", "hint:", "remedy:", "path:", "no Child SA", "not up:", "not the same"];

/// Whether `adit explain` finds nothing. What a line of 1400 bytes has taught is known for ten minutes (RFC 8899 §5.1.1), and said.
fn nothing_is_wrong(explained: &str) -> bool {
    let is_learnt = |line: &&str| line.starts_with("path:") && line.contains("though the route says 1500");
    let wrong = explained.lines().filter(|line| FAULTS.iter().any(|fault| line.starts_with(fault)) && !is_learnt(line)).count();
    wrong == 0 && (explained.contains("nothing is wrong") || explained.lines().any(|line| is_learnt(&line)))
}

/// The honest peer of an honest gateway.
pub fn peer_name(gateway: &Gateway) -> &'static str {
    if gateway.number == 1 { "site-b" } else { "site-a" }
}

/// The address that a gateway has when it moves.
pub fn second_address(gateway: &Gateway) -> String {
    format!("192.0.2.{}", 32 + gateway.number)
}

/// What a gateway says of itself. Asked often, so without a command that would have to be started each time.
pub fn status(gateway: &Gateway) -> Result<Value> {
    let folder = gateway.config.with_file_name(format!("run-{}", gateway.name));
    let mut socket = UnixStream::connect(folder.join("api.sock"))?;
    socket.set_read_timeout(Some(SOON))?;
    socket.write_all(b"GET /v1/status HTTP/1.0\r\nHost: adit\r\n\r\n")?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("an answer with a header")?;
    serde_json::from_str(body).with_context(|| format!("{head}\n{body}"))
}

/// Waits until something holds, and leaves the cores to others between two looks.
pub fn until(what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    wait_until(what, SOON, || {
        let holds = holds()?;
        if !holds {
            thread::sleep(LOOK_EVERY);
        }
        Ok(holds)
    })
}

/// What a gateway says of its honest peer.
pub fn peer(gateway: &Gateway) -> Result<Value> {
    let status = status(gateway)?;
    let peers = status["peers"].as_array().context("no peers")?;
    peers.iter().find(|peer| peer["name"] == peer_name(gateway)).cloned().context("no such peer")
}

/// The inbound SPIs under which it can come to a gateway from the other one.
pub fn spis(gateway: &Gateway) -> Result<Vec<String>> {
    let peer = peer(gateway)?;
    let children = peer["children"].as_array().context("no children")?;
    let live = children.iter().filter(|child| child["going"] == false);
    Ok(live.map(|child| child["inbound_spi"].as_str().unwrap_or_default().to_owned()).collect())
}

/// The path by which a gateway sends to the other one.
fn path_in_use(gateway: &Gateway) -> Result<Option<Value>> {
    let peer = peer(gateway)?;
    let paths = peer["paths"].as_array().context("no paths")?;
    Ok(paths.iter().find(|path| path["in_use"] == true).cloned())
}

/// The addresses between which a gateway sends to the other one.
pub fn path(gateway: &Gateway) -> Result<Option<[String; 2]>> {
    let text = |path: &Value, end: &str| path[end].as_str().unwrap_or_default().to_owned();
    Ok(path_in_use(gateway)?.map(|path| [text(&path, "local"), text(&path, "remote")]))
}

/// Bytes of the longest packet that a gateway sends to the other one.
pub fn mtu(gateway: &Gateway) -> Result<Option<u64>> {
    Ok(path_in_use(gateway)?.and_then(|path| path["mtu"].as_u64()))
}
