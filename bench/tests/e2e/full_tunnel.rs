//! Everything goes through the tunnel, but what the gateway itself sends outside: beside a default route, with a strict check of
//! sources, in both families, and whatever somebody does to the rules.

use std::net::IpAddr;
use std::time::Duration;

use adit_bench::lab::router::Router;
use adit_bench::lab::{Gateway, Lab, LabOptions, SOON, WAN, wait_until};
use anyhow::{Context, Result, ensure};

use crate::ike_tunnel::{ROLES, patient, spis};
use crate::{echoes, edit};

/// Hosts of the wide world, which only the second gateway reaches.
const FAR: [&str; 2] = ["198.18.0.1", "2001:db8:99::1"];
/// What marks packets of the gateway itself (`controlplane/src/routing_rules.rs`).
const MARK: u32 = 0xad17;
/// What others may do to the rules at any time is mended in this time.
const PUT_RIGHT: Duration = Duration::from_secs(2);

/// The networks of both families that are everything, the IPv4 ones first.
type Everything = [&'static [&'static str]; 2];

const WHOLE: Everything = [&["0.0.0.0/0"], &["::/0"]];
/// As those write it whose routes must be more specific than the default route of the machine.
const HALVES: Everything = [&["0.0.0.0/1", "128.0.0.0/1"], &["::/1", "8000::/1"]];

pub fn selectors(number: u8, peer: u8) -> String {
    format!(
        ", selectors: [{{ local: 10.77.0.{number}, remote: 10.77.0.{peer} }}, {{ local: 10.78.{number}.0/24, remote: 10.78.{peer}.0/24 }}, \
         {{ local: \"fd77::{number}/128\", remote: \"fd77::{peer}/128\" }}]"
    )
}

/// Two gateways, of which the second reaches the wide world, and the first all of it through the second.
fn prepare(options: LabOptions, everything: Everything) -> Result<Lab> {
    let lab = Lab::prepare(&LabOptions { ip_mode: true, ..options })?;
    let pairs = |of: fn(&str, &str) -> String| {
        let hosts = ["10.77.0.1/32", "\"fd77::1/128\""].into_iter().zip(everything);
        let each = hosts.flat_map(|(host, networks)| networks.iter().map(move |network| of(host, &format!("\"{network}\""))));
        format!(", selectors: [{}]", each.collect::<Vec<_>>().join(", "))
    };
    let inside = pairs(|host, all| format!("{{ local: {host}, remote: {all} }}"));
    let outside = pairs(|host, all| format!("{{ local: {all}, remote: {host} }}"));
    edit(lab.a(), &selectors(1, 2), &inside)?;
    edit(lab.b(), &selectors(2, 1), &outside)?;
    for far in FAR {
        lab.b().netns.run(&format!("ip addr add {far} dev lo"))?;
    }
    Ok(lab)
}

/// Starts them where the first one's machine is strict about where packets come from.
fn start_prepared(mut lab: Lab) -> Result<Lab> {
    for interface in ["all", WAN] {
        lab.a().netns.run(&format!("sysctl -qw net.ipv4.conf.{interface}.rp_filter=1"))?;
    }
    lab.gateways.iter_mut().try_for_each(Gateway::start_control)?;
    lab.wait_until_up()?;
    Ok(lab)
}

fn start(options: LabOptions, everything: Everything) -> Result<Lab> {
    let lab = prepare(options, everything)?;
    // The machine has default routes of its own.
    lab.a().netns.run(&format!("ip route add default via 192.0.2.254 dev {WAN}"))?;
    lab.a().netns.run(&format!("ip -6 route add default via 2001:db8::fe dev {WAN}"))?;
    start_prepared(lab)
}

fn far_is_reached(a: &Gateway) -> Result<()> {
    for far in FAR {
        echoes(&a.netns, 3, 100, "", far.parse::<IpAddr>()?)?;
        let route = a.netns.run(&format!("ip route get {far}"))?;
        ensure!(route.contains("dev adit0"), "{route}");
    }
    Ok(())
}

fn rules(a: &Gateway) -> Result<Vec<String>> {
    let both = [a.netns.run("ip -4 rule")?, a.netns.run("ip -6 rule")?].concat();
    Ok(both.lines().filter(|line| line.starts_with("325")).map(str::to_owned).collect())
}

#[test]
fn everything_goes_through_it_beside_a_default_route() -> Result<()> {
    for ike in [Vec::new(), vec![String::new()]] {
        let mut lab = start(LabOptions { ike, ..LabOptions::patient() }, WHOLE)?;
        far_is_reached(lab.a())?;
        // What is nearer than a default route stays where it is.
        let near = lab.a().netns.run("ip route get 192.0.2.77")?;
        ensure!(near.contains(&format!("dev {WAN}")), "{near}");
        let before = rules(lab.a())?;
        ensure!(before.len() == 6, "{before:?}");
        for damage in ["ip -4 rule del priority 32502", "ip -6 rule flush", "ip route flush table 44311"] {
            lab.a().netns.run(damage)?;
            wait_until("it is put right", PUT_RIGHT + Duration::from_secs(2), || {
                let full = lab.a().netns.run("ip route show table 44311")?;
                Ok(rules(lab.a())? == before && full.contains("default"))
            })
            .with_context(|| format!("after `{damage}`: {:?}\n{}", rules(lab.a()), lab.a().log()))?;
            if damage.contains("-6 rule flush") {
                // Whoever flushes these takes the table of the machine with them.
                lab.a().netns.run("ip -6 rule add from all lookup main priority 32766")?;
            }
            far_is_reached(lab.a())?;
        }
        // The next control plane finds it as it is.
        lab.gateways[0].kill_control()?;
        far_is_reached(lab.a())?;
        lab.gateways[0].start_control()?;
        lab.wait_until_up()?;
        far_is_reached(lab.a())?;
        lab.gateways[0].stop()?;
        wait_until("the rules are gone", SOON, || Ok(rules(lab.a())?.is_empty()))?;
        let route = lab.a().netns.run(&format!("ip route get {}", FAR[0]))?;
        ensure!(route.contains("via 192.0.2.254"), "{route}");
    }
    Ok(())
}

#[test]
fn everything_goes_through_it_over_ipv6_and_in_two_halves() -> Result<()> {
    for (outer_ipv6, everything) in [(true, WHOLE), (false, HALVES), (true, HALVES)] {
        let lab = start(LabOptions { outer_ipv6, ..patient(&ROLES) }, everything)?;
        let (a, b) = (lab.a(), lab.b());
        far_is_reached(a).with_context(|| lab.logs())?;
        // In the lower half.
        b.netns.address("lo", "9.9.9.9/32")?;
        echoes(&a.netns, 3, 100, "", IpAddr::from([9, 9, 9, 9]))?;
        let near = a.netns.run(&format!("ip route get {}", b.outer()))?;
        ensure!(near.contains(&format!("dev {WAN}")), "{near}");
        // Only what is as wide as the default route of the machine needs rules beside it.
        ensure!(rules(a)?.len() == if everything == WHOLE { 6 } else { 0 }, "{:?}", rules(a)?);
        // Keys are replaced by what goes outside.
        let before = spis(a)?.0;
        a.adit("rekey --ike site-b")?;
        wait_until("the keys are others", SOON, || Ok(spis(a)?.0 != before)).with_context(|| lab.logs())?;
        far_is_reached(a)?;
    }
    Ok(())
}

/// On the link of the endpoint a more specific route keeps what goes there outside; here nothing does but the mark: the way is looked up
/// with it, and sockets send with it. (Over IPv4 a rule for our port does the latter as well, for the check of sources; over IPv6 there is
/// none.)
#[test]
fn an_endpoint_behind_the_default_route_stays_outside_by_the_mark() -> Result<()> {
    for (outer_ipv6, ike) in [(false, true), (true, true), (true, false)] {
        let options = if ike { patient(&ROLES) } else { LabOptions::patient() };
        let lab = prepare(LabOptions { outer_ipv6, ..options }, WHOLE)?;
        let _router = Router::between(&lab.gateways, &[1500; 2])?;
        let lab = start_prepared(lab)?;
        let (a, b) = (lab.a(), lab.b());
        let way = |mark: &str| a.netns.run(&format!("ip route get {}{mark}", b.outer()));
        ensure!(way("")?.contains("dev adit0"), "what bears no mark: {}", way("")?);
        ensure!(
            way(&format!(" mark {MARK}"))?.contains(&format!("dev {WAN}")),
            "what bears it: {}",
            way(&format!(" mark {MARK}"))?
        );
        far_is_reached(a).with_context(|| lab.logs())?;
        if ike {
            let before = spis(a)?.0;
            a.adit("rekey --ike site-b")?;
            wait_until("the keys are others", SOON, || Ok(spis(a)?.0 != before)).with_context(|| lab.logs())?;
        }
        // A control plane that comes later finds the rules there when it looks for the way.
        let mut lab = lab;
        lab.gateways[0].kill_control()?;
        lab.gateways[0].start_control()?;
        lab.wait_until_up()?;
        far_is_reached(lab.a()).with_context(|| lab.logs())?;
    }
    Ok(())
}
