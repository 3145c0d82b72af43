//! Whose an address is follows from the configuration alone, and ICMP errors go where the packets went that they are about.

use std::time::Duration;

use adit_bench::lab::{Lab, LabOptions, SOON, TAP, wait_until};
use adit_channel::Master;
use adit_proto::control::{Command, Event, PeerId, SELECTOR_OVERLAPS_MAX, Selector};
use adit_proto::ike::AddressRange;
use adit_proto::stats::Drop;
use anyhow::{Context, Result, ensure};

use crate::ike_tunnel::{ROLES, patient};
use crate::{edit, reaches};

fn options(gateways: usize) -> LabOptions {
    LabOptions { ip_mode: true, gateways, ..LabOptions::patient() }
}

#[test]
fn no_peer_sends_from_an_address_of_another_one() -> Result<()> {
    let mut lab = Lab::prepare(&options(3))?;
    // b believes that it has the network of c; a knows whose it is.
    let to_a = "{ local: 10.77.0.2, remote: 10.77.0.1 }";
    edit(lab.b(), to_a, &format!("{to_a}, {{ local: 10.78.3.0/24, remote: 10.77.0.1 }}"))?;
    for gateway in &mut lab.gateways {
        gateway.start_control()?;
    }
    lab.wait_until_up()?;
    let (a, b, c) = (&lab.gateways[0], &lab.gateways[1], &lab.gateways[2]);
    b.netns.run("ip address add 10.78.3.77/32 dev lo")?;
    let before = a.metrics()?.dropped(Drop::PolicyMismatch);
    ensure!(b.netns.run(&format!("ping -n -c3 -i0.05 -W1 -I 10.78.3.77 {}", a.inner())).is_err());
    ensure!(a.metrics()?.dropped(Drop::PolicyMismatch) == before + 3, "{}", lab.logs());
    // Both have what is theirs, and c gets what is for it.
    reaches(&b.netns, a.inner())?;
    a.netns.run("ping -n -c3 -i0.05 -w5 -I 10.78.1.1 10.78.3.1").with_context(|| lab.logs())?;
    reaches(&c.netns, a.inner())
}

#[test]
fn an_icmp_error_of_a_router_in_no_selector_arrives() -> Result<()> {
    let lab = Lab::start(&options(2))?;
    let (a, b) = (lab.a(), lab.b());
    // Behind b nothing has this address, and who says so has one of its own that is in no selector.
    for line in [
        "ip route add unreachable 10.78.2.9/32",
        "ip address add 172.16.0.9/32 dev lo",
        "ip rule add pref 10 to 10.78.1.0/24 lookup 77",
        &format!("ip route add 10.78.1.0/24 dev {TAP} src 172.16.0.9 table 77"),
        "sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=0 net.ipv4.icmp_ratelimit=0",
    ] {
        b.netns.run(line)?;
    }
    a.netns.run("sysctl -qw net.ipv4.conf.all.rp_filter=0")?;
    a.netns.run(&format!("sysctl -qw net.ipv4.conf.{TAP}.rp_filter=0"))?;
    wait_until("the sender is told", SOON, || {
        std::thread::sleep(Duration::from_millis(100));
        // It ends with an error, for nothing answers.
        let output = a.netns.command("ping").args("-n -c1 -W1 -I 10.78.1.1 10.78.2.9".split(' ')).output()?;
        Ok(String::from_utf8_lossy(&output.stdout).contains("From 172.16.0.9"))
    })
    .with_context(|| lab.logs())?;
    let drops = [a, b].map(|gateway| gateway.metrics().map(|metrics| metrics.dropped(Drop::PolicyMismatch)));
    ensure!(drops.into_iter().collect::<Result<Vec<_>>>()? == [0, 0], "{}", lab.logs());
    Ok(())
}

/// Gives commands to the data plane of the first gateway, whose `adit` does not run, as its control plane. It takes all of them.
fn command(lab: &Lab, commands: &[Command]) -> Result<()> {
    let mut master = Master::attach(&lab.dir().join("run-site-a/dataplane.sock"))?;
    let mut answered = 0;
    for (ticket, command) in (0..).zip(commands) {
        while master.send(0, ticket, command).is_err() {
            master.flush();
        }
    }
    master.flush();
    wait_until("the data plane answers", SOON, || {
        while let Some((_, event)) = master.poll_event() {
            ensure!(!matches!(event, Event::Refused { .. }), "{event:?}");
            answered += usize::from(matches!(event, Event::Applied { .. }));
        }
        Ok(answered == commands.len())
    })
}

/// The table of the data plane is knotted at an address by something that the next `adit` does not know of: what is configured
/// there is refused. Everything else goes on, what is missing is told, and it is there once it can be.
#[test]
fn a_selector_that_the_data_plane_refuses_is_told_and_given_again() -> Result<()> {
    let mut lab = Lab::start(&LabOptions { ip_mode: true, ..patient(&ROLES) })?;
    let host = |n: u8, m: u8| AddressRange::V4 { first: [10, 79, 0, n].into(), last: [10, 79, 0, m].into() };
    // 64 that lie in one another.
    let knots = |n: u8| Selector::any_of(AddressRange::ANY_V4, host(n, 255 - n));
    lab.gateways[0].kill_control()?;
    let add = |n| Command::SelectorAdd { peer: PeerId(0), selector: knots(n) };
    command(&lab, &(0..SELECTOR_OVERLAPS_MAX).map(add).collect::<Vec<_>>())?;
    lab.gateways[0].start_control()?;
    wait_until("the new control plane answers", SOON, || Ok(lab.a().status().is_ok())).with_context(|| lab.logs())?;
    let one = "{ local: 10.77.0.1, remote: 10.77.0.2 }";
    edit(lab.a(), one, &format!("{one}, {{ local: 10.77.0.1, remote: 10.79.0.128 }}"))?;
    let one = "{ local: 10.77.0.2, remote: 10.77.0.1 }";
    edit(lab.b(), one, &format!("{one}, {{ local: 10.79.0.128, remote: 10.77.0.1 }}"))?;
    lab.gateways.iter().try_for_each(|gateway| gateway.adit("reload").map(drop))?;
    lab.a().wait_for_log("refused to add the selector", SOON).with_context(|| lab.logs())?;
    reaches(&lab.b().netns, lab.a().inner())?;
    let lacks = || Ok::<_, anyhow::Error>(lab.a().metrics()?.sum("adit_peer_up", &[]) == Some(0.0));
    wait_until("the peer is not up", SOON, lacks).with_context(|| lab.logs())?;
    let explained = lab.a().adit("explain site-b")?;
    ensure!(explained.contains("selector") && !explained.contains("nothing is wrong"), "{explained}");
    lab.gateways[0].kill_control()?;
    let remove = |n| Command::SelectorRemove { peer: PeerId(0), selector: knots(n) };
    command(&lab, &(0..SELECTOR_OVERLAPS_MAX).map(remove).collect::<Vec<_>>())?;
    lab.gateways[0].start_control()?;
    lab.b().netns.run("ip address add 10.79.0.128/32 dev lo")?;
    wait_until("it is carried", SOON, || Ok(lab.a().netns.run("ping -n -c1 -W1 10.79.0.128").is_ok()))
        .with_context(|| lab.logs())?;
    lab.wait_until_up()
}
