//! TCP through the replay window of 32 packets that strongSwan gives a kernel's ESP by default: two kernels, and Adit with one.
//!
//! ```text
//!   guest a ── br0 in a namespace ── guest b        Adit ── guest c        the same transfer in turn, in the same direction
//! ```
//! strongSwan's own ESP has a window of 128 packets that no setting changes (libipsec); what its rate is beside Adit's is in [`rate`].
//!
//! [`rate`]: super::rate

use std::path::Path;
use std::time::Instant;

use adit_bench::lab::interop::sites::{CHILD, CONNECTION, Proof, Site, pair as configs};
use adit_bench::lab::interop::table::{Case, Section, Seen};
use adit_bench::lab::interop::{Config, Guest, Release, StrongSwan};
use adit_bench::netns::Netns;
use adit_bench::process::Process;
use adit_bench::workdir::WorkDir;
use anyhow::{Context, Result, ensure};

use super::rate::Rates;
use super::{Ground, MIB, Pair};

const BYTES: u64 = 12 * MIB;
const ROUNDS: usize = 7;
const RELEASE: Release = Release::Swan5;
/// Sends ARGV[2] bytes from one address to the other and waits until all of them are counted there. A guest has perl, and little else.
const SEND: &str = r#"use IO::Socket::INET;
my ($from, $to, $bytes) = @ARGV;
my $s;
for (1 .. 200) {
    $s = IO::Socket::INET->new(LocalAddr => $from, PeerAddr => $to, PeerPort => 9000) and last;
    select undef, undef, undef, 0.02;
}
my $block = 'x' x 65536;
for (1 .. $bytes / 65536) { (syswrite($s, $block) // 0) == 65536 or die "short: $!" }
shutdown $s, 1;
sysread $s, my $count, 100;
$count == $bytes or die "$count of $bytes bytes arrived";
"#;
const RECEIVE: &str = r#"use IO::Socket::INET;
my $l = IO::Socket::INET->new(LocalAddr => $ARGV[0], LocalPort => 9000, Listen => 1, ReuseAddr => 1) or die "listen: $!";
my $c = $l->accept or die "accept: $!";
my $n = 0;
while (my $r = sysread $c, my $block, 65536) { $n += $r }
syswrite $c, $n;
"#;

/// A place for the scripts: a guest, or a namespace with a folder.
enum End<'a> {
    Guest(&'a Guest),
    Namespace(&'a Netns, &'a WorkDir),
}

impl End<'_> {
    fn prepare(&self) -> Result<()> {
        for (name, text) in [("send.pl", SEND), ("receive.pl", RECEIVE)] {
            std::fs::write(self.folder().join(name), text)?;
        }
        Ok(())
    }

    fn folder(&self) -> &Path {
        match self {
            End::Guest(guest) => guest.folder(),
            End::Namespace(_, dir) => dir.path(),
        }
    }

    /// Starts to receive; what it gives must be kept until the end.
    fn receive(&self, at: Site) -> Result<Option<Process>> {
        match self {
            End::Guest(guest) => {
                let line = format!("perl /lab/receive.pl {} >/run/received 2>&1 &", at.inner());
                guest.run(&line).map(|_| None)
            }
            End::Namespace(netns, dir) => {
                let mut command = netns.command("perl");
                command.arg(dir.path().join("receive.pl")).arg(at.inner().to_string());
                Process::start(&mut command, dir.path().join("received")).map(Some)
            }
        }
    }

    fn send(&self, from: Site) -> Result<()> {
        let arguments = format!("{} {} {BYTES}", from.inner(), from.other().inner());
        match self {
            End::Guest(guest) => guest.run(&format!("perl /lab/send.pl {arguments}")).map(drop),
            End::Namespace(netns, dir) => netns.run(&format!("perl {}/send.pl {arguments}", dir.path().display())).map(drop),
        }
    }
}

/// Mbit/s from `site`, whose end is the first.
fn rate(from: &End, to: &End, site: Site) -> Result<f64> {
    let receiver = to.receive(site.other())?;
    let began = Instant::now();
    from.send(site)?;
    let took = began.elapsed();
    drop(receiver);
    Ok(BYTES as f64 * 8.0 / took.as_secs_f64() / 1e6)
}

/// Two guests on one cable.
struct Kernels {
    _swans: [StrongSwan; 2],
    guests: [Guest; 2],
    _switch: Netns,
}

impl Kernels {
    fn connect(configs: &(Config, Config)) -> Result<Kernels> {
        let switch = Netns::new("switch")?;
        switch.run("ip link add br0 type bridge forward_delay 0 stp_state 0")?;
        switch.run("ip link set br0 up")?;
        let guest = |site: Site| -> Result<Guest> {
            let (guest, port) = (Guest::boot("guest", RELEASE)?, format!("port{}", site as u8));
            guest.plug(&switch, &port)?;
            switch.run(&format!("ip link set {port} master br0"))?;
            site.settle_guest(&guest)?;
            Ok(guest)
        };
        let guests = [guest(Site::A)?, guest(Site::B)?];
        let swans = [StrongSwan::start_in(&guests[0], &configs.0)?, StrongSwan::start_in(&guests[1], &configs.1)?];
        swans[0].initiate(CONNECTION, CHILD)?;
        Site::A.reach(|line| guests[0].run(line))?;
        Ok(Kernels { _swans: swans, guests, _switch: switch })
    }
}

fn compare(cipher: &str, adit_sends: bool) -> Result<Seen> {
    let mut reported = configs(Proof::Psk)?;
    for config in [&mut reported.0, &mut reported.1] {
        config.connections[0].children[0].proposals = vec![cipher.to_owned()];
    }
    let kernels = Kernels::connect(&reported)?;
    let more = format!("role: initiator, esp_proposals: [{cipher}]");
    let pair = Pair::on(Ground::guest(RELEASE)?, RELEASE, Proof::Psk, &more, |swan| {
        swan.connections[0].children[0].proposals = vec![cipher.to_owned()];
    })?;
    pair.connect(true)?;
    let Ground::Guest(here, guest) = &pair.ground else { anyhow::bail!("no guest") };
    let states = guest.run("ip xfrm state")?;
    ensure!(states.contains("replay-window 32") || states.contains("replay_window 32"), "no window of 32: {states}");
    let dir = WorkDir::new("window")?;
    let ends = [End::Guest(&kernels.guests[0]), End::Guest(&kernels.guests[1]), End::Namespace(here, &dir), End::Guest(guest)];
    ends.iter().try_for_each(End::prepare)?;
    let (mut theirs, mut ours) = (Rates::default(), Rates::default());
    for _ in 0..ROUNDS {
        theirs.mbits.push(rate(&ends[0], &ends[1], Site::A).context("two guests")?);
        let with_adit = if adit_sends { rate(&ends[2], &ends[3], Site::A) } else { rate(&ends[3], &ends[2], Site::B) };
        ours.mbits.push(with_adit.with_context(|| pair.said())?);
    }
    let replayed = guest.run("cat /proc/net/xfrm_stat || true")?;
    let out_of_window = replayed.lines().find(|line| line.starts_with("XfrmInStateSeqError")).unwrap_or("0").to_owned();
    let mut seen = super::rate::judge(&theirs, &ours)?;
    seen.push(out_of_window.split_whitespace().last().unwrap_or("0").to_owned());
    Ok(seen)
}

/// Both directions.
pub fn section() -> Section {
    let mut cases = Vec::new();
    for cipher in ["aes128gcm16", "chacha20poly1305"] {
        for adit_sends in [true, false] {
            let direction = if adit_sends { "Adit to the kernel" } else { "the kernel to Adit" };
            cases.push(Case::new([cipher, direction], move || compare(cipher, adit_sends)));
        }
    }
    Section {
        title: "TCP through a kernel's replay window of 32 packets".to_owned(),
        about: format!(
            "{} MiB of TCP, {ROUNDS} rounds, in turn between two Linux guests (strongSwan 5.9 with the ESP of their kernels and its \
             default window) and between Adit and such a guest. The guests are slow: this shows that order and bursts do no harm, not how \
             fast anything is. The last column is what the kernel refused as replayed or too late.",
            BYTES / MIB
        ),
        columns: vec!["cipher", "direction"],
        seen: vec!["two strongSwans", "Adit and strongSwan", "Adit's share", "refused"],
        at_once: 1,
        cases,
    }
}
