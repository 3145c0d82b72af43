//! The whole of Adit, both planes and a TUN, against strongSwan of two releases: IKE and ESP in tunnel mode between real processes.
//!
//! ```text
//!   10.1.0.1  host a: adit, adit-dataplane  192.0.2.1 ══ cable, or NAT ══ 192.0.2.2  host b: strongSwan  10.2.0.1
//! ```
//! Cases are functions that say what they saw. Some run with every test, under the names of the tests here; [`full`](crate::full)
//! runs all of them and writes the table.

pub mod adit;
pub mod childless;
pub mod clients;
pub mod kernel;
pub mod life;
pub mod matrix;
pub mod nat;
pub mod ports;
pub mod rate;
pub mod reauth;
pub mod second_line;
pub mod subnets;
pub mod window;

use std::fs;
use std::time::Duration;

use adit_bench::lab::interop::nat::NatSites;
use adit_bench::lab::interop::sites::{CHILD, CONNECTION, LINK, Proof, Site, Sites, pair};
use adit_bench::lab::interop::{Config, Guest, Release, StrongSwan};
use adit_bench::lab::traffic::{kernel_counter, transfer};
use adit_bench::lab::{SOON, binary, wait_until};
use adit_bench::netns::Netns;
use adit_bench::rtt::Prober;
use adit_bench::starvation::Starvation;
use anyhow::{Context, Result, ensure};
use serde_json::Value;

use adit::{Adit, Place};

const MIB: u64 = 1 << 20;
/// After what may lose some.
const PINGS_AFTERWARDS: u64 = 200;

/// Where the ends are and what is between them.
pub enum Ground {
    Cable(Sites),
    /// A NAT in front of the site.
    Nat(NatSites, Site),
    /// Host b is a guest, whose kernel does ESP.
    Guest(Netns, Guest),
}

impl Ground {
    fn guest(release: Release) -> Result<Ground> {
        let (a, guest) = (Netns::new("adit-a")?, Guest::boot("guest-b", release)?);
        guest.plug(&a, LINK)?;
        Site::A.settle(&a)?;
        Site::B.settle_guest(&guest)?;
        Ok(Ground::Guest(a, guest))
    }

    /// Where Adit is.
    fn here(&self) -> &Netns {
        match self {
            Ground::Cable(sites) => &sites.a,
            Ground::Nat(sites, _) => &sites.a,
            Ground::Guest(a, _) => a,
        }
    }

    /// Where strongSwan is, if that is a namespace.
    fn there(&self) -> Result<&Netns> {
        match self {
            Ground::Cable(sites) => Ok(&sites.b),
            Ground::Nat(sites, _) => Ok(&sites.b),
            Ground::Guest(..) => anyhow::bail!("a guest is no namespace"),
        }
    }

    fn run_there(&self, line: &str) -> Result<String> {
        match self {
            Ground::Guest(_, guest) => guest.run(line),
            _ => self.there()?.run(line),
        }
    }

    fn start_swan(&self, release: Release, config: &mut Config) -> Result<StrongSwan> {
        let connection = &mut config.connections[0];
        match self {
            Ground::Nat(_, Site::A) => connection.remote_address = None,
            Ground::Nat(_, Site::B) => connection.local_address = None,
            Ground::Cable(_) => {}
            Ground::Guest(_, guest) => return StrongSwan::start_in(guest, config),
        }
        StrongSwan::start(self.there()?, release, config)
    }
}

/// Adit on host a, strongSwan on host b. Fields are dropped in this order.
pub struct Pair {
    swan: StrongSwan,
    adit: Adit,
    ground: Ground,
    /// What strongSwan was told.
    config: Config,
}

impl Pair {
    /// Both ends on a cable, ready to be connected, with `more` in the peer's `ike` block on Adit's side; strongSwan's configuration
    /// is changed by `change`.
    fn new(release: Release, proof: Proof, more: &str, change: impl FnOnce(&mut Config)) -> Result<Pair> {
        Pair::on(Ground::Cable(Sites::new()?), release, proof, more, change)
    }

    /// The same elsewhere.
    fn on(ground: Ground, release: Release, proof: Proof, more: &str, change: impl FnOnce(&mut Config)) -> Result<Pair> {
        let (a, mut b) = pair(proof)?;
        change(&mut b);
        let mut adit = Adit::prepare(&a, &Place::of(&ground), more)?;
        let swan = ground.start_swan(release, &mut b)?;
        adit.start(ground.here())?;
        Ok(Pair { swan, adit, ground, config: b })
    }

    /// Connects from one end, and waits until packets go through in both directions.
    fn connect(&self, adit_begins: bool) -> Result<()> {
        if adit_begins {
            self.command("connect b")?;
            self.wait_for_state("established")?;
        } else {
            self.swan.initiate(CONNECTION, CHILD).with_context(|| self.said())?;
        }
        self.up()
    }

    fn up(&self) -> Result<()> {
        // One that would be waited for in vain costs little time.
        let probe = format!("ping -n -c1 -W0.3 -I {} {}", Site::A.inner(), Site::B.inner());
        wait_until("packets go through", SOON, || Ok(self.ground.here().run(&probe).is_ok())).with_context(|| self.said())?;
        wait_until("packets go through both ways", SOON, || Ok(self.reaches().is_ok())).with_context(|| self.said())
    }

    fn reaches(&self) -> Result<()> {
        Site::A.reach(|line| self.ground.here().run(line))?;
        Site::B.reach(|line| self.ground.run_there(line))
    }

    /// Bytes both ways, compared at their ends.
    fn transfers(&self, bytes: u64) -> Result<()> {
        let (a, b) = (self.ground.here(), self.ground.there()?);
        for (from, to, target) in [(a, b, Site::B.inner()), (b, a, Site::A.inner())] {
            let arrived = transfer(from, to, target.into(), bytes).and_then(|transfer| transfer.verify(bytes));
            let about = || format!("to {target}: {}\n{}", self.command("status").unwrap_or_default(), self.said());
            arrived.with_context(about)?;
        }
        Ok(())
    }

    /// Runs a command of `adit`.
    fn command(&self, line: &str) -> Result<String> {
        self.ground.here().run(&format!("{} {line} -c {}", binary("adit")?.display(), self.adit.config.display()))
    }

    /// How Adit's only peer does.
    fn peer(&self) -> Result<Value> {
        let status: Value = serde_json::from_str(&self.command("status --json")?)?;
        Ok(status["peers"][0].clone())
    }

    /// `established`, `reconnecting` and so on.
    fn state(&self) -> Result<String> {
        Ok(self.peer()?["state"].as_str().unwrap_or_default().to_owned())
    }

    /// Waits until the connection is in this state at Adit.
    fn wait_for_state(&self, state: &str) -> Result<()> {
        wait_until(&format!("the connection is {state}"), SOON, || Ok(self.state()? == state)).with_context(|| self.said())
    }

    /// Our SPIs: those of the IKE SA, and the inbound one of the Child SA.
    fn spis(&self) -> Result<(String, String)> {
        let peer = self.peer()?;
        let sa = &peer["ike"]["sas"][0];
        let children = peer["children"].as_array().context("no children")?;
        let child = children.iter().find(|child| child["going"] == false).map(|child| child["inbound_spi"].to_string());
        Ok((format!("{} {}", sa["initiator_spi"], sa["responder_spi"]), child.unwrap_or_default()))
    }

    /// The suites of the IKE SA and of the Child SA in use, as Adit says; strongSwan must say the same of its own.
    fn suites(&self) -> Result<(String, String)> {
        let peer = self.peer()?;
        let sa = &peer["ike"]["sas"][0];
        let child = peer["children"].as_array().and_then(|all| all.iter().find(|child| child["going"] == false));
        let ike = sa["suite"].as_str().context("no IKE SA")?.to_owned();
        let esp = child.and_then(|child| child["suite"].as_str()).context("no Child SA")?.to_owned();
        let (theirs, their_child) =
            (self.swan.established(CONNECTION)?.algorithms, self.swan.child(CONNECTION, CHILD)?.algorithms);
        for (ours, theirs) in [(&ike, &theirs), (&esp, &their_child)] {
            let words = [&theirs.encryption, &theirs.prf, &theirs.key_exchange];
            for word in words.into_iter().chain(&theirs.additional) {
                ensure!(ours.contains(word.as_str()), "strongSwan has {word}, Adit {ours}");
            }
        }
        Ok((ike, esp))
    }

    /// Replaces the keys `rounds` times: of the Child SAs by Adit, by strongSwan, of the IKE SA by Adit, by strongSwan, and so on.
    fn rekey(&self, rounds: usize) -> Result<()> {
        for round in 0..rounds {
            let before = self.spis()?;
            match round % 4 {
                0 => drop(self.command("rekey b")?),
                1 => drop(self.swan.rekey_child(CONNECTION, CHILD)?),
                2 => drop(self.command("rekey --ike b")?),
                _ => drop(self.swan.rekey_ike(CONNECTION)?),
            }
            wait_until("the keys are others", SOON, || {
                let now = self.spis()?;
                Ok(if round % 4 < 2 { now.1 != before.1 && !now.1.is_empty() } else { now.0 != before.0 })
            })
            .with_context(|| format!("round {round}: {}", self.said()))?;
        }
        Ok(())
    }

    /// Does `work` under a ping from host a every millisecond, and says how many there were. An error when one was lost, unless that
    /// was for want of a core: a worker that does not run for longer than the buffers between workers last (32 reads) drops with a
    /// reason of its own, and the kernel counts what the queues of strongSwan's socket and of both ends' interfaces do not hold. None of it
    /// has to do with what is tested.
    fn under_pings(&mut self, work: impl FnOnce(&mut Pair) -> Result<()>) -> Result<String> {
        let (before, overflows, starvation) =
            (self.drops("handover_full")?, self.drops("udp_overflow")?, Starvation::watch("adit-dataplane")?);
        let (unread, unqueued) = (self.unread_by_swan(), self.unqueued()?);
        let prober = self.ground.here().enter(|| Prober::start(Site::B.inner().into(), Duration::from_millis(1)))?;
        work(self)?;
        let enough = prober.so_far().0 + PINGS_AFTERWARDS;
        wait_until("some more pings were sent", SOON, || Ok(prober.so_far().0 >= enough))?;
        let probes = prober.stop(SOON)?;
        let starved = starvation.end().as_millis() as u64;
        let refused = self.drops("handover_full")?.saturating_sub(before);
        let overflowed = self.drops("udp_overflow")?.saturating_sub(overflows);
        let unread = self.unread_by_swan().saturating_sub(unread);
        let unqueued = self.unqueued()?.saturating_sub(unqueued);
        ensure!(
            probes.lost <= refused + unread + unqueued,
            "{} of {} pings lost, {unread} in strongSwan's socket, {unqueued} in the queues of interfaces, {overflowed} in Adit's socket, \
             a worker wanted a core for {starved} ms: {}",
            probes.lost,
            probes.sent,
            self.said()
        );
        let why = if probes.lost == 0 { "" } else { " for want of a core" };
        Ok(format!("{} of {} pings lost{why}", probes.lost, probes.sent))
    }

    /// Datagrams that the queue of strongSwan's socket did not hold, where its kernel is ours.
    fn unread_by_swan(&self) -> u64 {
        self.ground.there().and_then(|there| kernel_counter(there, "Udp", "RcvbufErrors")).unwrap_or(0)
    }

    /// Packets that the queues of interfaces did not hold, at both ends where their kernel is ours: nobody read them soon enough.
    fn unqueued(&self) -> Result<u64> {
        let mut sum = 0;
        for netns in [Ok(self.ground.here()), self.ground.there()].into_iter().flatten() {
            let links: Vec<Value> = serde_json::from_str(&netns.run("ip -json -statistics link")?)?;
            sum += links.iter().filter_map(|link| link["stats64"]["tx"]["dropped"].as_u64()).sum::<u64>();
        }
        Ok(sum)
    }

    /// Packets that the data plane has dropped for a reason.
    fn drops(&self, reason: &str) -> Result<u64> {
        let status: Value = serde_json::from_str(&self.command("status --json")?)?;
        let drops = status["drops"].as_array().context("a list of drops")?;
        Ok(drops.iter().filter(|one| one["reason"] == reason).filter_map(|one| one["packets"].as_u64()).sum())
    }

    /// What both ends have to say when something went wrong.
    fn said(&self) -> String {
        let log = fs::read_to_string(&self.adit.log).unwrap_or_default();
        let explained = self.command("explain b").unwrap_or_else(|error| format!("{error:#}"));
        format!("Adit: {log}\n{explained}\n{}\nstrongSwan: {}", self.lost(), self.swan.log())
    }

    /// Where packets were lost.
    fn lost(&self) -> String {
        let drops = self.command("status --json").ok().and_then(|text| serde_json::from_str::<Value>(&text).ok());
        let drops = drops.map(|status| status["drops"].to_string()).unwrap_or_default();
        let children = self.peer().map(|peer| peer["children"].to_string()).unwrap_or_default();
        let theirs: Vec<String> = self.swan.sas().into_iter().flatten().map(|sa| format!("{:?}", sa.children)).collect();
        let mut text = format!("drops of the data plane: {drops}\nChild SAs of Adit: {children}\nof strongSwan: {theirs:?}\n");
        let program =
            |pid: &u32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "adit-dataplane");
        for pid in self.ground.here().processes().iter().filter(|pid| program(pid)) {
            for task in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
                let read = |name: &str| fs::read_to_string(task.path().join(name)).unwrap_or_default().trim().to_owned();
                text += &format!("thread {}: ran, waited for a core (ns), times: {}\n", read("comm"), read("schedstat"));
            }
        }
        for netns in [Some(self.ground.here()), self.ground.there().ok()].into_iter().flatten() {
            let count = |name| kernel_counter(netns, "Udp", name).unwrap_or_default();
            let links = netns.run("ip -s -s link").unwrap_or_default();
            text += &format!("UDP errors: {} of buffers, {} in all\n{links}\n", count("RcvbufErrors"), count("InErrors"));
        }
        text
    }
}

/// An error unless this is what is in the suite.
fn ensure_words(suite: &str, words: &[&str]) -> Result<()> {
    ensure!(words.iter().all(|word| suite.contains(word)), "{words:?} expected, it is {suite}");
    Ok(())
}
