//! TCP between Adit and strongSwan's own ESP, beside TCP between two strongSwans: what leaves Adit in another order than it was
//! numbered in, or in bursts that the other end cannot take, would make TCP collapse.

use adit_bench::lab::interop::Release::{self, Swan5};
use adit_bench::lab::interop::sites::{CHILD, CONNECTION, Proof, Site, Sites, pair as configs};
use adit_bench::lab::interop::table::{Case, Section, Seen};
use adit_bench::lab::interop::{Config, StrongSwan};
use adit_bench::lab::traffic::{kernel_counter, transfer};
use adit_bench::netns::Netns;
use adit_bench::report::median;
use anyhow::{Context, Result, ensure};

use super::{MIB, Pair};

/// Of one transfer.
const BYTES: u64 = 16 * MIB;
const ROUNDS: usize = 7;
/// Share of two strongSwans' rate that is demanded, for a machine on which two runs of the same differ.
const SHARE: f64 = 0.9;

/// Two strongSwans on a cable of their own.
struct Swans {
    _ends: [StrongSwan; 2],
    sites: Sites,
}

/// Rates of the rounds and what TCP had to send again.
#[derive(Default)]
pub struct Rates {
    pub mbits: Vec<f64>,
    again: Option<u64>,
}

impl Swans {
    fn connect(release: Release, configs: &(Config, Config)) -> Result<Swans> {
        let sites = Sites::new()?;
        let (a, b) = (StrongSwan::start(&sites.a, release, &configs.0)?, StrongSwan::start(&sites.b, release, &configs.1)?);
        a.initiate(CONNECTION, CHILD)?;
        Site::A.reach(|line| sites.a.run(line))?;
        Ok(Swans { _ends: [a, b], sites })
    }
}

impl Rates {
    fn add(&mut self, from: &Netns, to: &Netns, address: std::net::Ipv4Addr) -> Result<()> {
        let before = kernel_counter(from, "Tcp", "RetransSegs")?;
        let transfer = transfer(from, to, address.into(), BYTES)?;
        transfer.verify(BYTES)?;
        self.mbits.push(transfer.gbits() * 1000.0);
        *self.again.get_or_insert(0) += kernel_counter(from, "Tcp", "RetransSegs")? - before;
        Ok(())
    }

    fn median(&self) -> f64 {
        median(&self.mbits)
    }

    fn said(&self) -> String {
        let (least, most) =
            self.mbits.iter().fold((f64::MAX, 0.0_f64), |(least, most), rate| (least.min(*rate), most.max(*rate)));
        let again = self.again.map(|again| format!(", {again} segments again")).unwrap_or_default();
        format!("{:.0} Mbit/s ({least:.0} to {most:.0}){again}", self.median())
    }
}

/// An error if ours are too far below; else the cells that say so.
pub fn judge(theirs: &Rates, ours: &Rates) -> Result<Seen> {
    let share = ours.median() / theirs.median();
    eprintln!("rate    two strongSwans {:?}, Adit and strongSwan {:?}", theirs.mbits, ours.mbits);
    ensure!(share >= SHARE, "{share:.2} of the rate of two strongSwans ({} and {}), not {SHARE}", ours.said(), theirs.said());
    Ok(vec![theirs.said(), ours.said(), format!("{share:.2} ×")])
}

/// The same transfers with both, in turn.
fn compare(release: Release, cipher: &str, adit_sends: bool) -> Result<Seen> {
    let mut swans = configs(Proof::Psk)?;
    for config in [&mut swans.0, &mut swans.1] {
        config.connections[0].children[0].proposals = vec![cipher.to_owned()];
    }
    let swans = Swans::connect(release, &swans)?;
    let pair = Pair::new(release, Proof::Psk, &format!("role: initiator, esp_proposals: [{cipher}]"), |swan| {
        swan.connections[0].children[0].proposals = vec![cipher.to_owned()];
    })?;
    pair.connect(true)?;
    let (mut theirs, mut ours) = (Rates::default(), Rates::default());
    let to_b = Site::B.inner();
    for _ in 0..ROUNDS {
        theirs.add(&swans.sites.a, &swans.sites.b, to_b)?;
        let (here, there) = (pair.ground.here(), pair.ground.there()?);
        let added = if adit_sends { ours.add(here, there, to_b) } else { ours.add(there, here, Site::A.inner()) };
        added.with_context(|| pair.said())?;
    }
    judge(&theirs, &ours)
}

/// Both directions, both releases.
pub fn section() -> Section {
    let mut cases = Vec::new();
    let peers = [
        ("strongSwan 5.9", Swan5, "aes128gcm16"),
        ("strongSwan 5.9", Swan5, "chacha20poly1305"),
        ("strongSwan 6", Release::Swan6, "aes128gcm16"),
    ];
    for (name, release, cipher) in peers {
        for adit_sends in [true, false] {
            let direction = if adit_sends { "Adit to strongSwan" } else { "strongSwan to Adit" };
            cases.push(Case::new([name, cipher, direction], move || compare(release, cipher, adit_sends)));
        }
    }
    Section {
        title: "TCP beside two strongSwans".to_owned(),
        about: format!(
            "{} MiB of TCP, {ROUNDS} rounds, two strongSwans and Adit with strongSwan in turn on the same machine; strongSwan's ESP is its \
             own, in user space (window of 128 packets). The median counts, and must be at least {SHARE} of that of two strongSwans.",
            BYTES / MIB
        ),
        columns: vec!["peer", "cipher", "direction"],
        seen: vec!["two strongSwans", "Adit and strongSwan", "Adit's share"],
        at_once: 1,
        cases,
    }
}
