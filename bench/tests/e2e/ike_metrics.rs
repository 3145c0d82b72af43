//! What IKE tells of itself: a metric for everything that happens, per peer and in total, and a line of the log with both SPIs for
//! every change of a connection's state.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use adit_bench::lab::capture::{Capture, Datagram, Injector};
use adit_bench::lab::{Gateway, Lab, SOON, WAN, wait_until};
use anyhow::{Context, Result, ensure};

use crate::ike_tunnel::{ROLES, patient, spis};

/// Until a peer that is gone is given up.
const GIVEN_UP: Duration = Duration::from_secs(40);

fn value(gateway: &Gateway, name: &str, labels: &[(&str, &str)]) -> Result<f64> {
    gateway.metrics()?.sum(name, labels).with_context(|| format!("there is no {name} with {labels:?}"))
}

/// The kind of exchange of a message of IKE behind its marker (RFC 7296 §3.1, RFC 3948 §2.2).
fn exchange(datagram: &Datagram) -> Option<u8> {
    let message = datagram.payload.strip_prefix(&[0; 4])?;
    message.get(18).copied()
}

fn promtool(page: &str) -> Result<()> {
    let mut command = Command::new("promtool");
    let mut promtool =
        command.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    promtool.stdin.take().context("a pipe")?.write_all(page.as_bytes())?;
    let output = promtool.wait_with_output()?;
    let words = [output.stdout, output.stderr].concat();
    ensure!(output.status.success() && words.is_empty(), "promtool: {}", String::from_utf8_lossy(&words));
    Ok(())
}

/// An error unless every family is there, for the only peer and in total.
fn totals(a: &Gateway, peer: (&str, &str)) -> Result<()> {
    for family in ["handshakes", "dead_peers", "crashes", "child_sas_created", "child_sas_lost"] {
        value(a, &format!("adit_ike_{family}_total"), &[peer])?;
    }
    for cause in ["unanswered", "proposal", "authentication", "selectors", "refused", "other"] {
        value(a, "adit_ike_failures_total", &[peer, ("cause", cause)])?;
    }
    for family in ["cookies_demanded", "key_exchanges_demanded"] {
        value(a, &format!("adit_ike_{family}_total"), &[])?;
    }
    for cause in ["proposal", "authentication", "other"] {
        value(a, "adit_ike_refused_initiators_total", &[("cause", cause)])?;
    }
    Ok(())
}

#[test]
fn everything_that_happens_is_counted_per_peer_and_in_total() -> Result<()> {
    let mut lab = Lab::prepare(&patient(&ROLES))?;
    let mut capture = Capture::open(&lab.b().netns, WAN)?;
    for gateway in &mut lab.gateways {
        gateway.start_control()?;
    }
    lab.wait_until_up()?;
    let (a, b) = (lab.a(), lab.b());
    let [peer_of_a, peer_of_b] = [("peer", "site-b"), ("peer", "site-a")];
    for command in ["rekey site-b", "rekey --ike site-b"] {
        let before = spis(a)?;
        a.adit(command)?;
        wait_until("the keys are others", SOON, || Ok(spis(a)? != before))?;
    }
    for (sa, least) in [("child", 1.0), ("ike", 1.0)] {
        wait_until("the rekey is counted", SOON, || Ok(value(a, "adit_ike_rekeys_total", &[peer_of_a, ("sa", sa)])? >= least))?;
    }
    ensure!(value(a, "adit_ike_handshakes_total", &[peer_of_a])? == 1.0, "{}", lab.logs());

    // Somebody begins and does not go on; and somebody says again what was said.
    let seen = capture.drain()?;
    let sent = |kind: u8| {
        let first =
            seen.iter().find(|one| one.from.ip() == &std::net::Ipv4Addr::new(192, 0, 2, 1) && exchange(one) == Some(kind));
        first.cloned().with_context(|| format!("no message of exchange {kind}"))
    };
    let link = Injector::open(&a.netns, WAN)?;
    let mut begun = sent(34)?;
    begun.payload[4] ^= 0x55;
    link.send(&begun)?;
    wait_until("it is half-open", SOON, || Ok(value(b, "adit_ike_half_open", &[])? == 1.0)).with_context(|| lab.logs())?;
    // The first IKE SA has been replaced: dead peer detection under the second one, and again.
    wait_until("dead peer detection passes", SOON, || Ok(value(a, "adit_ike_dpd_requests_total", &[peer_of_a])? >= 2.0))?;
    let late = capture.drain()?;
    let replays = || {
        value(b, "adit_ike_dropped_total", &[("reason", "outside_window")]).unwrap_or(0.0)
            + value(b, "adit_ike_repeated_requests_total", &[peer_of_b]).unwrap_or(0.0)
    };
    let before = replays();
    let old = late.iter().filter(|one| exchange(one) == Some(37) && one.from.ip() == &std::net::Ipv4Addr::new(192, 0, 2, 1));
    let old: Vec<&Datagram> = old.collect();
    ensure!(!old.is_empty(), "no message under the new IKE SA");
    old.iter().try_for_each(|datagram| link.send(datagram))?;
    wait_until("replays are counted", SOON, || Ok(replays() >= before + 1.0)).with_context(|| lab.logs())?;
    promtool(&a.metrics_page()?)?;
    promtool(&b.metrics_page()?)?;

    lab.gateways[1].kill_control()?;
    lab.b().kill_data_plane()?;
    let a = lab.a();
    wait_until("the peer is given up", GIVEN_UP, || Ok(value(a, "adit_ike_dead_peers_total", &[peer_of_a])? >= 1.0))
        .with_context(|| lab.logs())?;
    ensure!(value(a, "adit_ike_retransmissions_total", &[peer_of_a])? >= 3.0, "{}", a.metrics_page()?);
    totals(a, peer_of_a)?;
    promtool(&a.metrics_page()?)
}

#[test]
fn every_change_of_state_is_logged_with_both_spis() -> Result<()> {
    let mut lab = Lab::start(&patient(&ROLES))?;
    let before = spis(lab.a())?.0;
    lab.a().adit("rekey site-b")?;
    lab.a().wait_for_log("rekeying", SOON)?;
    lab.gateways[1].stop()?;
    let down = lab.a().wait_for_log("reconnecting: ", SOON)?;
    let (initiator, responder) = before.split_at(16);
    let named = format!("{initiator}_i {responder}_r");
    for (gateway, state) in [(lab.a(), "established"), (lab.a(), "rekeying"), (lab.b(), "established")] {
        let line = gateway.wait_for_log(state, SOON)?;
        ensure!(line.contains(&named) && line.contains("peer="), "{state} without {named}: {line}");
    }
    ensure!(down.contains(&named) && down.contains("the peer closed the connection"), "{down}");
    // Before the responder has answered there is one SPI only.
    let line = lab.a().wait_for_log("connecting", SOON)?;
    ensure!(line.contains(&format!("{initiator}_i {}_r", "0".repeat(16))), "{line}");
    Ok(())
}

#[test]
fn ikev1_that_knocks_is_told_with_its_address_and_how_often() -> Result<()> {
    let lab = Lab::start(&patient(&ROLES))?;
    let (a, b) = (lab.a(), lab.b());
    // A header of IKEv1, main mode (RFC 2408 §3.1): both cookies, next payload, version 1.0, exchange 2, flags, message id, length.
    let knock = [&[7; 8][..], &[0; 8], &[1, 0x10, 2, 0, 0, 0, 0, 0], &28u32.to_be_bytes()].concat();
    let behind_marker = [&[0; 4][..], &knock].concat();
    let socket = b.netns.enter(|| std::net::UdpSocket::bind("192.0.2.2:0").map_err(anyhow::Error::from))?;
    let from = socket.local_addr()?;
    socket.set_read_timeout(Some(Duration::from_millis(10)))?;
    for (port, message) in [(500, &knock), (4500, &behind_marker)] {
        for _ in 0..5 {
            socket.send_to(message, ("192.0.2.1", port))?;
            ensure!(socket.recv(&mut [0; 100]).is_err(), "it is not to be answered");
        }
    }
    let line = a.wait_for_log("it speaks IKE of version 1", SOON)?;
    ensure!(line.contains(&from.to_string()) && line.contains("set it to IKEv2"), "{line}");
    wait_until("all are counted", SOON, || Ok(value(a, "adit_drops_total", &[("reason", "ike_v1")])? == 10.0))?;
    ensure!(a.log().matches("it speaks IKE of version 1").count() == 1, "{}", a.log());
    let explained = a.adit("explain site-b")?;
    ensure!(explained.contains(&format!("{from} wanted to connect")) && explained.contains("IKEv2"), "{explained}");
    Ok(())
}
