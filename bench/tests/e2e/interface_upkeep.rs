//! Whatever is done to the interface of the tunnel from outside is put right within two seconds and said once; what is not there yet
//! is waited for.

use std::fs;
use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use adit_bench::lab::surroundings::without_news;
use adit_bench::lab::{Gateway, Lab, LabOptions, SOON, TAP, WAN, wait_until};
use adit_bench::netns::Netns;
use anyhow::{Context, Result, ensure};

use crate::reload::control;
use crate::{edit, reaches};

/// How long it may take until all is as it was.
const RIGHT_WITHIN: Duration = Duration::from_secs(2);
const SAID: &str = "was not as configured and was put right";

/// All that can be changed about the interface from outside, in the order in which `ip` prints it, without what changes by itself.
fn shape(netns: &Netns) -> Result<String> {
    let link = netns.run(&format!("ip -o link show {TAP}"))?;
    let flags = link.split('<').nth(1).and_then(|rest| rest.split('>').next()).unwrap_or_default();
    let up = flags.split(',').any(|flag| flag == "UP");
    let word = |name: &str| link.split_whitespace().skip_while(|word| *word != name).nth(1).unwrap_or("-").to_owned();
    let (mtu, master, mac) = (word("mtu"), word("master"), word("link/ether"));
    let mut lines: Vec<String> = Vec::new();
    for show in ["ip -o addr show dev", "ip route show dev", "ip -6 route show dev"] {
        let text = netns.run(&format!("{show} {TAP}"))?;
        // An IPv6 address that the kernel made for the link, and routes that it made for addresses, come and go with the link.
        let ours = text.lines().filter(|line| !line.contains("fe80") && !line.contains("proto kernel"));
        lines.extend(
            ours.map(|line| line.split_whitespace().skip_while(|word| word.ends_with(':')).collect::<Vec<_>>().join(" ")),
        );
    }
    lines.sort();
    Ok(format!("up {up}, mtu {mtu}, master {master}, mac {mac}\n{}", lines.join("\n")))
}

/// What was said to be wrong of the interface, one by one.
fn said(gateway: &Gateway) -> Vec<String> {
    let log = gateway.log();
    let lists = log.lines().filter_map(|line| line.split_once(SAID)?.1.strip_prefix(": "));
    // Of a long list the end is told by its number alone.
    let all = lists.flat_map(|list| list.split(", ").map(|one| one.trim().to_owned()));
    all.filter(|one| !one.starts_with("and ")).collect()
}

/// Whether a line lists nothing else.
fn is_alone(list: &str, fact: &str) -> bool {
    list.strip_prefix(": ").is_some_and(|list| list.contains(fact) && !list.contains(", "))
}

/// Does something to the interface of the first gateway: it is as before within two seconds, and carries packets. What was wrong is said
/// once, `missing` among it. (Some of it is done by the kernel in two steps, and found in two.)
fn put_right(lab: &Lab, what: &str, missing: &str) -> Result<()> {
    let netns = &lab.a().netns;
    let (before, already) = (shape(netns)?, said(lab.a()).len());
    // A line that was said within a minute is not said again.
    let said_alone = lab.a().log().lines().any(|line| line.split_once(SAID).is_some_and(|(_, list)| is_alone(list, missing)));
    for line in what.split("; ") {
        netns.run(line)?;
    }
    wait_until(&format!("`{what}` is put right"), RIGHT_WITHIN, || Ok(shape(netns)? == before))
        .with_context(|| format!("before:\n{before}\nnow:\n{}\n{}", shape(netns).unwrap_or_default(), lab.a().log()))?;
    let new = || said(lab.a())[already..].to_vec();
    wait_until(&format!("`{what}` is said"), SOON, || Ok(said_alone || new().iter().any(|one| one.contains(missing))))
        .with_context(|| lab.a().log())?;
    reaches(netns, lab.b().inner()).with_context(|| format!("after `{what}`"))?;
    let new = new();
    let once = new.iter().all(|one| new.iter().filter(|other| *other == one).count() == 1);
    ensure!(once, "`{what}` was said as {new:#?}");
    Ok(())
}

fn data_plane_stays(lab: &Lab, plane: Option<u32>) -> Result<()> {
    ensure!(lab.a().data_plane() == plane, "the data plane was restarted: {}", lab.a().log());
    Ok(())
}

#[test]
fn a_tap_that_others_changed_is_put_right() -> Result<()> {
    let mut lab = Lab::prepare(&LabOptions::patient())?;
    let addresses = "addresses: [10.77.0.1/24, \"fd77::1/64\"]";
    let routes = "routes: [{ to: 10.98.0.0/16, via: 10.77.0.2 }, { to: \"fd98::/48\", via: \"fd77::2\" }]";
    edit(lab.a(), addresses, &format!("{addresses}, {routes}"))?;
    for gateway in &mut lab.gateways {
        gateway.start_control()?;
    }
    lab.wait_until_up()?;
    let plane = lab.a().data_plane();
    for (what, missing) in [
        (format!("ip link set {TAP} down"), "it was down"),
        (format!("ip addr flush dev {TAP}"), "the address fd77::1/64 was missing"),
        (format!("ip addr del 10.77.0.1/24 dev {TAP}"), "the address 10.77.0.1/24 was missing"),
        (format!("ip -6 addr flush dev {TAP}"), "the address fd77::1/64 was missing"),
        (format!("ip route flush dev {TAP}"), "the route to 10.98.0.0/16 was missing"),
        (format!("ip -6 route del fd98::/48 dev {TAP}"), "the route to fd98::/48 was missing"),
        (format!("ip link set {TAP} mtu 1300"), "its MTU was not 1500"),
        (format!("ip link set {TAP} address 02:00:00:00:00:99"), "its MAC address was not"),
        (format!("ip link set {TAP} down; ip link set {TAP} mtu 1400; ip addr flush dev {TAP}"), "its MTU was not 1500"),
    ] {
        put_right(&lab, &what, missing)?;
    }
    data_plane_stays(&lab, plane)?;
    // What somebody else adds is theirs.
    let netns = &lab.a().netns;
    netns.run(&format!("ip addr add 10.66.0.1/24 dev {TAP}"))?;
    netns.run(&format!("ip route add 10.65.0.0/16 via 10.66.0.2 dev {TAP}"))?;
    // The same as a short while ago is put right, and not said again.
    let of_mtu = || said(lab.a()).iter().filter(|one| one.contains("MTU")).count();
    let (before, already) = (shape(netns)?, of_mtu());
    netns.run(&format!("ip link set {TAP} mtu 1300"))?;
    wait_until("the MTU is put right again", RIGHT_WITHIN, || Ok(shape(netns)? == before))?;
    put_right(&lab, &format!("ip route del 10.98.0.0/16 dev {TAP}"), "the route to 10.98.0.0/16 was missing")?;
    ensure!(of_mtu() == already, "{}", lab.a().log());
    ensure!(shape(netns)?.contains("10.66.0.1/24") && shape(netns)?.contains("10.65.0.0/16"), "{}", shape(netns)?);
    Ok(())
}

/// News can be lost, and who has lost them knows nothing of it.
#[test]
fn an_interface_of_which_no_news_comes_is_put_right_by_the_timer() -> Result<()> {
    let lab = Lab::start(&LabOptions::patient())?;
    let (a, plane) = (lab.a(), lab.a().data_plane());
    let before = shape(&a.netns)?;
    ensure!(without_news(control(&lab)?)? > 0, "nobody hears the kernel");
    let changes = [
        (format!("ip link set {TAP} down"), "it was down"),
        (format!("ip addr del 10.77.0.1/24 dev {TAP}"), "the address 10.77.0.1/24 was missing"),
        (format!("ip link set {TAP} mtu 1300"), "its MTU was not 1500"),
    ];
    // News would lead to a look within a second: of some changes, each done right after a look of the timer, one has to wait longer.
    let mut slowest = Duration::ZERO;
    for (number, (what, missing)) in changes.iter().cycle().enumerate().take(4 * changes.len()) {
        if number >= changes.len() && slowest > RIGHT_WITHIN {
            break;
        }
        let changed = Instant::now();
        a.netns.run(what)?;
        wait_until(&format!("`{what}` is put right"), SOON, || Ok(shape(&a.netns)? == before))
            .with_context(|| format!("before:\n{before}\nnow:\n{}\n{}", shape(&a.netns).unwrap_or_default(), a.log()))?;
        slowest = slowest.max(changed.elapsed());
        wait_until(&format!("`{what}` is said"), SOON, || Ok(said(a).iter().any(|one| one.contains(missing))))
            .with_context(|| a.log())?;
        reaches(&a.netns, lab.b().inner()).with_context(|| format!("after `{what}`"))?;
    }
    ensure!(slowest > RIGHT_WITHIN, "within {slowest:?}: somebody has heard of it");
    data_plane_stays(&lab, plane)
}

#[test]
fn a_tun_that_others_changed_is_put_right() -> Result<()> {
    let lab = Lab::start(&LabOptions { ip_mode: true, ..LabOptions::patient() })?;
    let plane = lab.a().data_plane();
    for (what, missing) in [
        (format!("ip link set {TAP} down"), "it was down"),
        (format!("ip addr flush dev {TAP}"), "the address 10.77.0.1"),
        (format!("ip route flush dev {TAP}"), "the route to 10.78.2.0/24 was missing"),
        (format!("ip -6 route flush dev {TAP}"), "was missing"),
        (format!("ip link set {TAP} mtu 1300"), "its MTU was not"),
    ] {
        put_right(&lab, &what, missing)?;
    }
    data_plane_stays(&lab, plane)
}

#[test]
fn ipv6_that_is_switched_off_for_it_is_waited_for_and_said_once() -> Result<()> {
    let lab = Lab::start(&LabOptions::patient())?;
    let (a, before) = (lab.a(), shape(&lab.a().netns)?);
    let (refused, complete) = ("adding the address fd77::1/64", format!("the interface {TAP} is complete"));
    let switch_off = |off: u8| a.netns.run(&format!("sysctl -qw net.ipv6.conf.{TAP}.disable_ipv6={off}"));
    let times = |words: &str| a.log().matches(words).count();
    let already = times(&complete);
    switch_off(1)?;
    a.wait_for_log(refused, SOON)?;
    // The rest is kept all the while, and what is tried again is not said again.
    a.netns.run(&format!("ip link set {TAP} mtu 1300"))?;
    wait_until("its MTU is put right", RIGHT_WITHIN, || {
        Ok(a.netns.run(&format!("ip link show dev {TAP}"))?.contains(" mtu 1500 "))
    })?;
    reaches(&a.netns, lab.b().inner()).with_context(|| lab.logs())?;
    ensure!((times(refused), times(&complete)) == (1, already), "{}", a.log());
    switch_off(0)?;
    wait_until("all is as before", RIGHT_WITHIN, || Ok(shape(&a.netns)? == before))
        .with_context(|| format!("before:\n{before}\nnow:\n{}\n{}", shape(&a.netns).unwrap_or_default(), a.log()))?;
    wait_until("it is said", SOON, || Ok(times(&complete) > already)).with_context(|| a.log())?;
    ensure!((times(refused), times(&complete)) == (1, already + 1), "{}", a.log());
    reaches(&a.netns, lab.b().inner6())
}

#[test]
fn a_bridge_is_waited_for_and_joined_again_when_it_is_made_anew() -> Result<()> {
    let mut lab = Lab::prepare(&LabOptions::patient())?;
    edit(lab.a(), "addresses: [10.77.0.1/24, \"fd77::1/64\"]", "bridge: br0")?;
    for gateway in &mut lab.gateways {
        gateway.start_control()?;
    }
    lab.a().wait_for_log("there is no bridge br0", SOON)?;
    let netns = lab.a().netns.clone();
    let bridge = |netns: &Netns, gateway: &Gateway| -> Result<()> {
        netns.run("ip link add br0 type bridge forward_delay 0 stp_state 0")?;
        netns.run("ip link set br0 up")?;
        // The address of the bridge is reached through its port, the tunnel.
        netns.address("br0", &format!("{}/24", gateway.inner()))
    };
    let joined = |netns: &Netns| Ok(netns.run("ip link show master br0").is_ok_and(|ports| ports.contains(TAP)));
    bridge(&netns, lab.a())?;
    wait_until("the bridge that came is joined", RIGHT_WITHIN, || joined(&netns))?;
    lab.wait_until_up()?;
    let (plane, missing, outside) = (lab.a().data_plane(), "there is no bridge br0", "it was not in the bridge br0");
    let times = |gateway: &Gateway, words: &str| gateway.log().matches(words).count();
    // Deleted and made anew in one go: one of the two is seen, and said.
    let (before, steps) = (lab.a().log().len(), lab.dir().join("anew"));
    let address = format!("address add {}/24 dev br0", lab.a().inner());
    fs::write(
        &steps,
        format!("link del br0\nlink add br0 type bridge forward_delay 0 stp_state 0\nlink set br0 up\n{address}\n"),
    )?;
    netns.run(&format!("ip -batch {}", steps.display()))?;
    wait_until("the bridge that was made anew is joined", RIGHT_WITHIN, || joined(&netns)).with_context(|| lab.a().log())?;
    let of_it = |lab: &Lab| -> usize { [missing, outside].iter().map(|one| lab.a().log()[before..].matches(*one).count()).sum() };
    wait_until("it is said", SOON, || Ok(of_it(&lab) > 0))?;
    lab.wait_until_up()?;
    ensure!(of_it(&lab) == 1, "{}", lab.a().log());
    put_right(&lab, &format!("ip link set {TAP} nomaster"), outside)?;
    // Deleted, and made anew a while later: once it is said that it is waited for, and once that it is there.
    let complete = format!("the interface {TAP} is complete");
    let before = [missing, &complete].map(|words| times(lab.a(), words));
    netns.run("ip link del br0")?;
    wait_until("it is said that it is gone", RIGHT_WITHIN, || Ok(times(lab.a(), missing) > before[0]))?;
    bridge(&netns, lab.a())?;
    wait_until("the bridge that was made anew is joined", RIGHT_WITHIN, || joined(&netns))?;
    wait_until("it is said that it is there", SOON, || Ok(times(lab.a(), &complete) > before[1]))?;
    lab.wait_until_up()?;
    data_plane_stays(&lab, plane)?;
    let after = [missing, &complete].map(|words| times(lab.a(), words));
    ensure!(after == before.map(|count| count + 1), "{before:?}, then {after:?}:\n{}", lab.a().log());
    Ok(())
}

#[test]
fn packets_of_the_gateway_itself_have_a_source_that_the_far_end_takes() -> Result<()> {
    let mut lab = Lab::prepare(&LabOptions { ip_mode: true, ..LabOptions::patient() })?;
    // The gateway has no address on the interface, only on its LAN.
    let text = fs::read_to_string(&lab.a().config)?;
    let start = text.find("addresses: [").context("addresses")?;
    let end = start + text[start..].find(']').context("their end")?;
    fs::write(&lab.a().config, format!("{}addresses: [{}", &text[..start], &text[end..]))?;
    for (gateway, [own, other]) in [(lab.a(), [1, 2]), (lab.b(), [2, 1])] {
        let pair = format!("{{ local: \"fd78:{own}::/64\", remote: \"fd78:{other}::/64\" }}");
        edit(gateway, "selectors: [", &format!("selectors: [{pair}, "))?;
    }
    edit(lab.b(), "10.78.2.1/24", "10.78.2.1/24, \"fd78:2::1/64\"")?;
    let netns = lab.a().netns.clone();
    netns.run("ip link add lan0 type bridge")?;
    netns.run("ip link set lan0 up")?;
    netns.address("lan0", &format!("{}/32", lab.a().inner()))?;
    netns.address("lan0", "fd78:1::1/64")?;
    for gateway in &mut lab.gateways {
        gateway.start_control()?;
    }
    lab.wait_until_up()?;
    let route = |to: &str| netns.run(&format!("ip route get {to}"));
    let to_b = lab.b().inner().to_string();
    ensure!(route(&to_b)?.contains(&format!("src {}", lab.a().inner())), "{}", route(&to_b)?);
    let far: Ipv6Addr = "fd78:2::1".parse()?;
    ensure!(route("fd78:2::1")?.contains("src fd78:1::1 "), "{}", route("fd78:2::1")?);
    reaches(&netns, far).with_context(|| lab.logs())?;
    // The LAN gets its address late, or another one.
    netns.run("ip addr flush dev lan0")?;
    netns.address("lan0", "10.78.1.5/24")?;
    netns.address("lan0", "fd78:1::5/64")?;
    wait_until("the new addresses are the sources", RIGHT_WITHIN, || {
        Ok(route("10.78.2.1")?.contains("src 10.78.1.5") && route("fd78:2::1")?.contains("src fd78:1::5 "))
    })
    .with_context(|| format!("{:?}\n{}", ["ip route", "ip -6 route"].map(|show| netns.run(show)), lab.a().log()))?;
    reaches(&netns, far).with_context(|| lab.logs())
}

#[test]
fn an_address_to_listen_at_is_waited_for() -> Result<()> {
    let mut lab = Lab::prepare(&LabOptions::patient())?;
    let own = lab.a().outer();
    let netns = lab.a().netns.clone();
    netns.run(&format!("ip addr flush dev {WAN}"))?;
    for gateway in &mut lab.gateways {
        gateway.start_control()?;
    }
    lab.a().wait_for_log(&format!("no interface of this machine has the address {own}"), SOON)?;
    let status = lab.a().adit("status")?;
    ensure!(status.contains("DOWN"), "{status}");
    netns.address(WAN, &format!("{own}/24"))?;
    lab.wait_until_up()?;
    let said = lab.a().log().matches("no interface of this machine has the address").count();
    ensure!(said == 1, "said {said} times:\n{}", lab.a().log());
    Ok(())
}

#[test]
fn a_runtime_directory_that_was_removed_is_made_again() -> Result<()> {
    let mut lab = Lab::start(&LabOptions::patient())?;
    let text = fs::read_to_string(&lab.a().config)?;
    let dir =
        text.lines().find_map(|line| line.strip_prefix("runtime_dir: ")).context("runtime_dir")?.trim_matches('"').to_owned();
    fs::remove_dir_all(&dir)?;
    wait_until("it is there again and answers", RIGHT_WITHIN, || Ok(lab.a().adit("status").is_ok()))
        .with_context(|| lab.a().log())?;
    let times = lab.a().log().matches("run-site-a was removed, and is there again").count();
    ensure!(times == 1, "said {times} times:\n{}", lab.a().log());
    let mut second = lab.a().netns.command(adit_bench::lab::binary("adit")?);
    let output = second.args(["run", "-c"]).arg(&lab.a().config).output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(said.contains("another adit (process"), "a second one is kept away: {said}");
    lab.a().kill_data_plane()?;
    wait_until("the data plane is back", SOON, || Ok(lab.a().data_plane().is_some()))?;
    lab.wait_until_up()
}
