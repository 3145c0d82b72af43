//! Adit's IKEv2 engine against strongSwan of two releases, in both roles, over real sockets.
//!
//! ```text
//!   host a: Gateway ── Endpoint (the engine), a model of a data plane ── sockets 500 and 4500 ══ cable ══ host b: strongSwan
//! ```
//! [`gateway`] is the shell around the engine, [`esp`] its data plane with an echo server, so what strongSwan's ESP sends and takes
//! proves keys, SPIs and the moments at which SAs come and go. [`engine`] configures it as [`sites::pair`] configures a strongSwan.
//!
//! [`engine`]: adit_bench::lab::interop::engine
//! [`sites::pair`]: adit_bench::lab::interop::sites::pair

mod death;
mod esp;
mod gateway;
mod handshake;
mod kernel;
mod key_log;
mod life;
mod traffic;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use adit_bench::lab::SOON;
use adit_bench::lab::interop::engine as peer;
use adit_bench::lab::interop::sites::{CHILD, CONNECTION, Proof, Site, Sites, pair};
use adit_bench::lab::interop::{Config, IkeSa, Release, StrongSwan};
use adit_engine::ike::{ConnectionState, EndpointConfig, PeerConfig};
use anyhow::{Context, Result, ensure};

use gateway::{Gateway, View};

/// Adit on host a, strongSwan on host b.
struct Pair {
    sites: Sites,
    adit: Gateway,
    swan: StrongSwan,
}

impl Pair {
    /// Both ends, changed by `change`; nobody has spoken yet.
    fn new(release: Release, proof: Proof, change: impl FnOnce(&mut PeerConfig, &mut Config)) -> Result<Pair> {
        Pair::with(release, proof, EndpointConfig::default(), change)
    }

    /// The same with a gateway of its own kind.
    fn with(
        release: Release,
        proof: Proof,
        endpoint: EndpointConfig,
        change: impl FnOnce(&mut PeerConfig, &mut Config),
    ) -> Result<Pair> {
        let sites = Sites::new()?;
        let (a, mut b) = pair(proof)?;
        let mut config = peer::config(Site::A, &a.connections[0])?;
        change(&mut config, &mut b);
        let swan = StrongSwan::start(&sites.b, release, &b)?;
        let adit = Gateway::start(&sites.a, endpoint, config)?;
        Ok(Pair { sites, adit, swan })
    }

    /// The tunnel up, begun by Adit.
    fn connect(&self) -> Result<()> {
        self.adit.act(|endpoint, now| endpoint.connect(now, gateway::PEER))?;
        self.connected()
    }

    /// The tunnel up, begun by strongSwan.
    fn accept(&self) -> Result<()> {
        self.swan.initiate(CONNECTION, CHILD).with_context(|| format!("Adit: {}", self.adit.explain()))?;
        self.connected()
    }

    fn connected(&self) -> Result<()> {
        self.adit.wait_for("a connection with a Child SA", SOON, |view| {
            (view.status().state == ConnectionState::Established && view.data.pairs() == 1).then_some(())
        })?;
        // Its last message may be here before it has noted whom it is connected to.
        let noted = |sas: &[IkeSa]| sas.iter().any(|sa| sa.name == CONNECTION && sa.is_established()).then_some(());
        self.swan.wait_for("the connection", SOON, noted)
    }

    /// Both ends have the same IKE SA and the same Child SA, and packets go through it in both directions.
    fn check(&self) -> Result<()> {
        self.agree()?;
        let before = self.adit.with(|view| view.data.answered);
        self.echo(|sent| sent < 3)?;
        let (answered, faults) = self.adit.with(|view| (view.data.answered, view.data.faults.clone()));
        ensure!(answered >= before + 3 && faults.is_empty(), "{answered} answers, {faults:?}");
        Ok(())
    }

    /// Waits until both ends have one IKE SA and one Child SA and say the same of them.
    fn agree(&self) -> Result<()> {
        let mut difference = String::new();
        let agreed = self.swan.wait_for("the same SAs at both ends", SOON, |sas| {
            let compared = self.adit.with(|view| compare(view, sas));
            compared.map_err(|error| difference = format!("{error:#}")).ok()
        });
        agreed.with_context(|| format!("{difference}; Adit: {}", self.adit.explain()))
    }

    /// Datagrams from host b to Adit's network and back, as long as `more` says so. None may be lost but by strongSwan's own doing.
    fn echo(&self, more: impl FnMut(usize) -> bool) -> Result<()> {
        let forgiven = || closed_too_soon(&self.swan.log()) + self.adit.with(|view| view.data.overtaken);
        let echoed = traffic::echo(&self.sites.b, (Site::B.inner(), Site::A.inner()), more, forgiven);
        echoed.with_context(|| {
            let (answered, faults) = self.adit.with(|view| (view.data.answered, view.data.faults.clone()));
            format!("Adit has answered {answered} since it began, and could not read {faults:?}")
        })
    }

    /// The same all the time while `work` goes on.
    fn under_traffic(&self, work: impl FnOnce() -> Result<()>) -> Result<()> {
        let done = AtomicBool::new(false);
        let (worked, sent) = std::thread::scope(|scope| {
            let traffic = scope.spawn(|| self.echo(|_| !done.load(Ordering::Relaxed)));
            let worked = work();
            done.store(true, Ordering::Relaxed);
            (worked, traffic.join().expect("the thread with the traffic"))
        });
        worked?;
        sent.with_context(|| format!("Adit: {}\nstrongSwan: {}", self.adit.explain(), self.swan.log()))?;
        self.check()
    }

    /// Our SPIs: that of the IKE SA's initiator and that of the Child SA.
    fn spis(&self) -> (u64, u32) {
        self.adit.with(|view| {
            let ike = &view.status().ike[0];
            (ike.spis.initiator.0, ike.children.iter().find(|child| !child.is_going).map_or(0, |child| child.inbound.0))
        })
    }

    /// Adit rekeys the Child SA; returns when it is done.
    fn rekey_child(&self) -> Result<()> {
        let (_, before) = self.spis();
        self.adit.act(|endpoint, now| endpoint.rekey(now, gateway::PEER))?;
        self.adit.wait_for("a new Child SA", SOON, |view| {
            let live = view.status().ike[0].children.iter().any(|one| one.inbound.0 != before && one.is_sending && !one.is_going);
            live.then_some(())
        })
    }

    /// Adit rekeys the IKE SA; returns when it is done.
    fn rekey_ike(&self) -> Result<()> {
        let (before, _) = self.spis();
        self.adit.act(|endpoint, now| endpoint.rekey_ike(now, gateway::PEER))?;
        self.adit.wait_for("a new IKE SA", SOON, |view| {
            let newest = &view.status().ike[0];
            (newest.spis.initiator.0 != before && !newest.children.is_empty()).then_some(())
        })
    }
}

/// What strongSwan says of its SAs, compared with what the engine and the data plane have.
fn compare(view: &View, sas: &[adit_bench::lab::interop::status::IkeSa]) -> Result<()> {
    let sas: Vec<_> = sas.iter().filter(|sa| sa.name == CONNECTION).collect();
    let [theirs] = sas.as_slice() else { anyhow::bail!("{} IKE SAs at strongSwan", sas.len()) };
    let status = view.status();
    let [ours] = status.ike.as_slice() else { anyhow::bail!("{} IKE SAs at Adit", status.ike.len()) };
    ensure!((ours.spis.initiator.0, ours.spis.responder.0) == (theirs.spi_initiator, theirs.spi_responder), "SPIs of the IKE SA");
    // It tells a name without its type.
    let [own_id, remote_id] = [view.config.local_id.to_string(), ours.remote_id.to_string()];
    let untyped = |id: &str| id.strip_prefix("fqdn:").unwrap_or(id).to_owned();
    ensure!(theirs.is_established() && theirs.remote_id == untyped(&own_id), "{theirs:?}");
    ensure!(theirs.local_id == untyped(&remote_id), "{theirs:?}, {remote_id}");
    let said = ours.suite.replace('/', " ");
    for word in [&theirs.algorithms.prf, &theirs.algorithms.key_exchange].into_iter().chain(&theirs.algorithms.additional) {
        ensure!(said.contains(word.as_str()), "strongSwan has {word}, Adit {said}");
    }
    let hop = ours.hop.udp().context("a way of UDP")?;
    ensure!((hop.local, hop.remote) == (theirs.remote, theirs.local), "{hop:?}, {theirs:?}");
    // It keeps one that was replaced for five seconds, for late packets.
    let children: Vec<_> = theirs.children.iter().filter(|child| !child.state.starts_with("DELETED")).collect();
    let [child] = children.as_slice() else { anyhow::bail!("{} Child SAs at strongSwan", children.len()) };
    let [one] = ours.children.as_slice() else { anyhow::bail!("{} Child SAs at Adit", ours.children.len()) };
    ensure!(child.is_installed() && (one.inbound.0, one.outbound.0) == (child.spi_out, child.spi_in), "{child:?}, {one:?}");
    ensure!(one.is_sending && one.esn == child.esn && view.data.pairs() == 1, "{one:?}");
    ensure!(view.data.inbound.contains_key(&one.inbound) && view.data.outbound.iter().any(|sa| sa.keys.spi == one.outbound));
    for word in [&child.algorithms.key_exchange].into_iter().chain(&child.algorithms.additional) {
        ensure!(one.suite.contains(word.as_str()), "strongSwan has {word}, Adit {}", one.suite);
    }
    Ok(())
}

/// How many Child SAs strongSwan closed with packets still on their way: where it rekeys one that the peer has just made, and hears of
/// the end of the one before only then, it takes both for rekeys of the same and closes that at once.
fn closed_too_soon(log: &str) -> usize {
    let names = log.lines().filter_map(|line| line.split_once("> rekeyed CHILD_SA ")?.1.split(' ').next());
    let mut seen = BTreeSet::new();
    names.filter(|name| !seen.insert(*name)).count()
}

#[test]
fn a_child_sa_that_strongswan_rekeys_twice_is_one_that_it_closes_too_soon() {
    let line = |old, new| {
        format!(
            "12:39:24.729 15[IKE] <lab|3> rekeyed CHILD_SA net{{{old}}} with SPIs a_i b_o with net{{{new}}} with SPIs c_i d_o\n"
        )
    };
    assert_eq!(closed_too_soon(&(line(1, 2) + &line(2, 3) + &line(3, 4))), 0);
    assert_eq!(closed_too_soon(&(line(3, 4) + &line(4, 5) + &line(4, 3) + &line(5, 6))), 1);
}
