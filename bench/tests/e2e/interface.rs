//! The interface in the kernel: a port of a bridge after every restart, and routes that belong to others are left to them.

use adit_bench::lab::{Gateway, Lab, LabOptions, SOON, TAP, WAN, binary, wait_until};
use anyhow::{Context, Result, ensure};

use crate::{edit, reaches};

const ADDRESSES: &str = "addresses: [10.77.0.1/24, \"fd77::1/64\"]";

#[test]
fn a_port_of_a_bridge_is_one_again_after_every_restart() -> Result<()> {
    let mut lab = Lab::prepare(&LabOptions::patient())?;
    let netns = lab.a().netns.clone();
    edit(lab.a(), ADDRESSES, "bridge: br0")?;
    netns.run("ip link add br0 type bridge forward_delay 0 stp_state 0")?;
    netns.run("ip link set br0 up")?;
    // The address of the bridge is reached through its port, the tunnel.
    netns.address("br0", &format!("{}/24", lab.a().inner()))?;
    for gateway in &mut lab.gateways {
        gateway.start_control()?;
    }
    lab.wait_until_up()?;
    let ready = lab.a().log().matches(" ready ").count();
    lab.a().kill_data_plane()?;
    wait_until("the data plane is back", SOON, || Ok(lab.a().log().matches(" ready ").count() > ready))?;
    ensure!(netns.run("ip link show master br0")?.contains(TAP), "{TAP} is no port of the bridge any more");
    lab.wait_until_up()?;
    // Taken out of the file, it is taken out of the bridge.
    lab.gateways[0].kill_control()?;
    edit(lab.a(), ", bridge: br0", "")?;
    lab.gateways[0].start_control()?;
    wait_until("it has left the bridge", SOON, || Ok(!netns.run("ip link show master br0")?.contains(TAP)))
}

#[test]
fn nothing_goes_to_a_peer_by_the_bridge_of_the_tunnel() -> Result<()> {
    let mut lab = Lab::prepare(&LabOptions::patient())?;
    let netns = lab.a().netns.clone();
    edit(lab.a(), ADDRESSES, "bridge: br0")?;
    for command in [
        "ip link add br0 type bridge forward_delay 0 stp_state 0",
        "ip link set br0 up",
        // What lies on the bridge sends by it.
        "ip link add m0 link br0 type macvlan mode bridge",
        "ip link set m0 up",
        "ip address add 10.66.0.1/24 dev br0",
        "ip address add 10.67.0.1/24 dev m0",
    ] {
        netns.run(command)?;
    }
    netns.address("br0", &format!("{}/24", lab.a().inner()))?;
    for gateway in &mut lab.gateways {
        gateway.start_control()?;
    }
    lab.wait_until_up()?;
    let mut endpoint = "192.0.2.2:4500";
    for inside in ["10.66.0.9:4500", "10.67.0.9:4500"] {
        edit(lab.a(), &format!("endpoint: \"{endpoint}\""), &format!("endpoint: \"{inside}\""))?;
        endpoint = inside;
        lab.a().adit("reload")?;
        lab.a().wait_for_log(&format!("nothing can be sent to {inside}: its route leaves by our own tunnel"), SOON)?;
        reaches(&lab.a().netns, lab.b().inner()).context("it stays where it answers")?;
    }
    Ok(())
}

/// The interfaces through which a gateway's routes to these networks lead.
fn routes(gateway: &Gateway) -> Result<String> {
    Ok(gateway.netns.run("ip route show 10.98.0.0/16")? + &gateway.netns.run("ip -6 route show fd98::/48")?)
}

#[test]
fn a_route_of_another_interface_is_left_to_it() -> Result<()> {
    for (network, foreign) in [("10.98.0.0/16", "10.98.0.0/16 via 192.0.2.2"), ("fd98::/48", "fd98::/48 via 2001:db8::2")] {
        let mut lab = Lab::prepare(&LabOptions::patient())?;
        let netns = lab.a().netns.clone();
        netns.run(&format!("ip route add {foreign}"))?;
        edit(lab.a(), ADDRESSES, &format!("{ADDRESSES}, routes: [{{ to: \"{network}\" }}]"))?;
        // `config check` refuses it; a gateway that is started at boot waits for it and says so.
        let check = format!("{} config check {}", binary("adit")?.display(), lab.a().config.display());
        let checked = format!("{:#}", netns.run(&check).err().context("it was taken")?);
        ensure!(checked.contains(network) && checked.contains(WAN), "{checked}");
        for gateway in &mut lab.gateways {
            gateway.start_control()?;
        }
        lab.a().wait_for_log(&format!("{network}: the interface {WAN} has a route to it"), SOON)?;
        lab.a().wait_for_log("leads into the tunnel, and this machine has a route to", SOON)?;
        lab.wait_until_up()?;
        ensure!(routes(lab.a())?.contains(WAN), "the route was stolen: {}", routes(lab.a())?);
        for reported in ["status", "explain site-b"] {
            let reported = lab.a().adit(reported)?;
            let flat = reported.split_whitespace().collect::<Vec<_>>().join(" ");
            ensure!(flat.contains(&format!("through {WAN}")) && !flat.contains("nothing is wrong"), "{reported}");
        }
        let refused = format!("{:#}", lab.a().adit("reload").err().context("it was taken")?);
        ensure!(refused.contains("nothing was changed") && refused.contains(WAN), "{refused}");

        netns.run(&format!("ip route del {foreign}"))?;
        wait_until("the route is there", SOON, || Ok(routes(lab.a())?.contains(TAP))).with_context(|| lab.a().log())?;
        lab.a().wait_for_log("no inner network overlaps that of another interface any more", SOON)?;
        lab.a().adit("reload")?;
        // Somebody takes the network away. A restart leaves it to him, and the rest of the tunnel is there.
        netns.run(&format!("ip route replace {foreign}"))?;
        lab.a().kill_data_plane()?;
        lab.a().wait_for_log("It is tried again", SOON)?;
        lab.wait_until_up()?;
        ensure!(routes(lab.a())?.contains(WAN), "the route was stolen: {}", routes(lab.a())?);
        netns.run(&format!("ip route del {foreign}"))?;
        wait_until("the route is there again", SOON, || Ok(routes(lab.a())?.contains(TAP)))?;
    }
    Ok(())
}
