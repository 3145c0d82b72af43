//! A data plane loses what it had, and nobody is told: the control plane compares every few seconds, and gives it again.
//!
//! A new control plane looks at what is there and repairs it at once. So what is to be found missing later must go after that
//! look: by its own first commands, or by one that is changed on its way.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::os::unix::fs::FileExt;

use adit_bench::lab::{Lab, LabOptions, SOON, wait_until};
use adit_bench::netns::{Signal, signal};
use adit_channel::{LiveSa, Master, Sizes};
use adit_proto::control::{Command, Direction, Event, InboundSa, OutboundSa, PeerId, PeerTag, RECORD_LEN_MAX, SaKey, Selector};
use adit_proto::ike::AddressRange;
use adit_proto::stats::Gauge;
use adit_proto::suite::{KEY_LEN_MAX, SALT_LEN};
use anyhow::{Context, Result, bail, ensure};

use crate::ike_tunnel::{ROLES, patient, spis};
use crate::{edit, reaches};

/// Has commands carried out, each by its worker, as a control plane does.
fn carry_out(master: &mut Master, commands: Vec<(u16, Command)>) -> Result<()> {
    // Answers to the one before may still come: its numbers are others.
    let first = std::process::id().wrapping_mul(1 << 16);
    let mut unanswered = BTreeMap::new();
    for (number, (worker, command)) in (0..).zip(commands) {
        let ticket = first.wrapping_add(number);
        master.send(worker, ticket, &command)?;
        unanswered.insert(ticket, command);
    }
    master.flush();
    wait_until("the commands are applied", SOON, || {
        while let Some((_, event)) = master.poll_event() {
            match event {
                Event::Applied { ticket } => drop(unanswered.remove(&ticket)),
                Event::Refused { ticket, why } => {
                    if let Some(command) = unanswered.get(&ticket) {
                        bail!("{command:?}: {why:?}");
                    }
                }
                _ => {}
            }
        }
        Ok(unanswered.is_empty())
    })
}

/// What installs an SA that looks like this one, for who does not see the key.
fn alike(sa: &LiveSa) -> Command {
    let key = SaKey { key: [0; KEY_LEN_MAX], salt: [0; SALT_LEN] };
    let LiveSa { spi, peer, child, suite, window, seq, seq_limit, .. } = *sa;
    match sa.direction {
        Direction::Inbound => {
            Command::InboundSaInstall(InboundSa { spi, peer, child, suite, key, window, seq_top: seq, resync: false, esn: true })
        }
        Direction::Outbound => Command::OutboundSaInstall(OutboundSa {
            spi,
            peer,
            child,
            suite,
            key,
            seq_next: seq + 1,
            seq_limit,
            defer_checksums: false,
            esn: true,
        }),
    }
}

/// Replaces the control plane of the first gateway. In between, another peer gets the place of the one that is there, with SAs
/// that look like some of its own. The new control plane finds these in order and leaves them; but its word of the peer ends the
/// other one, whose tag differs, and with it they are gone. Nothing is sent by them: the other one has no path. Gives how many
/// they are.
fn undermine(lab: &mut Lab, remain: impl Fn(&LiveSa) -> bool) -> Result<usize> {
    lab.gateways[0].kill_control()?;
    let mut master = Master::attach(&lab.dir().join("run-site-a/dataplane.sock"))?;
    let (live, workers) = (master.live_sas(), master.workers());
    let every = |command: Command| (0..workers).map(move |worker| (worker, command.clone()));
    let peers: BTreeSet<_> = live.iter().map(|(_, sa)| sa.peer).collect();
    let children: BTreeSet<_> = live.iter().map(|(_, sa)| (sa.peer, sa.child)).collect();
    let sas: Vec<_> = live.iter().filter(|(_, sa)| remain(sa)).map(|(worker, sa)| (*worker, alike(sa))).collect();
    let count = sas.len();
    ensure!(count > 0, "there is nothing to lose: {live:?}");
    let others = peers.into_iter().map(|peer| Command::PeerSet { peer, tag: PeerTag(0), echo: false, split: false });
    let theirs = children.into_iter().map(|(peer, child)| Command::ChildSet { peer, child, lanes: workers });
    carry_out(&mut master, others.chain(theirs).flat_map(every).chain(sas).collect())?;
    drop(master);
    lab.gateways[0].start_control()?;
    Ok(count)
}

/// Both ends reach each other over the same data plane as before.
fn is_back(lab: &mut Lab, plane: u32) -> Result<()> {
    lab.wait_until_up()?;
    reaches(&lab.a().netns, lab.b().inner())?;
    reaches(&lab.b().netns, lab.a().inner())?;
    ensure!(lab.a().data_plane() == Some(plane), "the data plane is another one:\n{}", lab.a().log());
    Ok(())
}

#[test]
fn sas_of_static_keys_that_are_lost_are_given_again() -> Result<()> {
    let mut lab = Lab::start(&LabOptions::patient())?;
    let plane = lab.a().data_plane().context("a data plane")?;
    // Of those to send by it would be heard: they are to get more numbers.
    let lost = undermine(&mut lab, |sa| sa.direction == Direction::Inbound)?;
    lab.a().wait_for_log(&format!(" {lost} left as they were"), SOON)?;
    let said = format!("the data plane lacks {lost} SAs of static keys, and has 0 things that nobody wants");
    lab.a().wait_for_log(&said, SOON)?;
    is_back(&mut lab, plane)
}

#[test]
fn child_sas_that_are_lost_are_made_anew_under_the_same_ike_sa() -> Result<()> {
    let mut lab = Lab::start(&patient(&ROLES))?;
    let plane = lab.a().data_plane().context("a data plane")?;
    let before = spis(lab.a())?;
    undermine(&mut lab, |_| true)?;
    lab.a().wait_for_log("SAs of IKE that it should have: their Child SAs are made anew", SOON)?;
    is_back(&mut lab, plane)?;
    let after = spis(lab.a())?;
    ensure!(after.0 == before.0, "another IKE SA: {before:?}, {after:?}\n{}", lab.logs());
    ensure!(after.1.iter().all(|spi| !before.1.contains(spi)), "{before:?}, {after:?}\n{}", lab.logs());
    Ok(())
}

/// The memory that a data plane has in common with its control plane.
fn memory_of(plane: u32) -> Result<File> {
    for entry in fs::read_dir(format!("/proc/{plane}/fd"))? {
        let path = entry?.path();
        if fs::read_link(&path).is_ok_and(|name| name.to_string_lossy().contains("memfd:adit-channel")) {
            return Ok(File::options().read(true).write(true).open(path)?);
        }
    }
    bail!("process {plane} has no such memory")
}

/// Puts a command in the place of another one of its length, which is on its way to a data plane that stands still.
fn exchange(plane: u32, old: &Command, new: &Command) -> Result<()> {
    let [old, new] = [old, new].map(|command| {
        let mut record = [0; RECORD_LEN_MAX];
        let len = command.encode(&mut record);
        record[..len].to_vec()
    });
    ensure!(old.len() == new.len());
    let memory = memory_of(plane)?;
    // The commands for the first worker are in front of all others.
    let mut bytes = vec![0; (Sizes::default().command_bytes + (64 << 10)) as usize];
    let mut place = None;
    wait_until("the command is on its way", SOON, || {
        memory.read_exact_at(&mut bytes, 0)?;
        // A record begins with a word.
        place = (0..bytes.len()).step_by(size_of::<u64>()).find(|at| bytes[*at..].starts_with(&old));
        Ok(place.is_some())
    })?;
    Ok(memory.write_all_at(&new, place.context("a place")? as u64)?)
}

#[test]
fn selectors_that_are_lost_are_given_again() -> Result<()> {
    let mut lab = Lab::start(&LabOptions { ip_mode: true, ..LabOptions::patient() })?;
    let plane = lab.a().data_plane().context("a data plane")?;
    let (own, other) = (lab.a().inner(), lab.b().inner());
    let range = |first: Ipv4Addr, last: Ipv4Addr| AddressRange::V4 { first, last };
    let network = range(Ipv4Addr::new(10, 99, 0, 0), Ipv4Addr::new(10, 99, 0, 255));
    // The only peer has the first number.
    let peer = PeerId(0);
    let add = Command::SelectorAdd { peer, selector: Selector::any_of(range(own, own), network) };
    let remove = Command::SelectorRemove { peer, selector: Selector::any_of(range(own, own), range(other, other)) };
    edit(lab.a(), "selectors: [", &format!("selectors: [{{ local: {own}, remote: 10.99.0.0/24 }}, "))?;
    // A new selector is on its way, and the data plane reads that the one of the two hosts is to go. It says that this is done. It stands
    // still as shortly as can be: one that hangs is replaced.
    let control = lab.gateways[0].control()?.pid();
    signal(plane, Signal::Stop)?;
    let exchanged = signal(control, Signal::Hangup).map_err(Into::into).and_then(|()| exchange(plane, &add, &remove));
    let went_on = signal(plane, Signal::Continue).context("the data plane is gone");
    exchanged.and(went_on).with_context(|| lab.a().log())?;
    lab.a().wait_for_log("the data plane has fewer peers, or selectors of them, than it was given", SOON)?;
    wait_until("it has all four", SOON, || Ok(lab.a().metrics()?.gauge(0, Gauge::Selectors) == Some(4.0)))
        .with_context(|| lab.a().log())?;
    is_back(&mut lab, plane)
}
