//! A peer looks the same to people, programs and Prometheus whether its keys come from IKE or from a file.

use std::collections::BTreeSet;

use adit_bench::lab::{Gateway, Lab, LabOptions, SOON, traffic, wait_until};
use adit_proto::stats::Count;
use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::ike_tunnel::{ROLES, patient, peer};
use crate::reaches;

/// One family for each fact that an operator needs, whoever makes the keys, by Prometheus' conventions. The names are kept here
/// and not only in docs/metrics.md: boards and alarms are made of them.
const FAMILIES: [(&str, &str); 22] = [
    ("adit_peer_up", "gauge"),
    ("adit_peer_last_handshake_timestamp_seconds", "gauge"),
    ("adit_peer_last_receive_timestamp_seconds", "gauge"),
    ("adit_peer_bytes_total", "counter"),
    ("adit_peer_drops_total", "counter"),
    ("adit_child_sa_lanes", "gauge"),
    ("adit_child_sa_packets_total", "counter"),
    ("adit_child_sa_bytes_total", "counter"),
    ("adit_ike_rekeys_total", "counter"),
    ("adit_ike_handshakes_total", "counter"),
    ("adit_path_rtt_seconds", "gauge"),
    ("adit_path_mtu_bytes", "gauge"),
    ("adit_path_loss_ratio", "gauge"),
    ("adit_config_info", "gauge"),
    ("adit_config_load_timestamp_seconds", "gauge"),
    ("adit_worker_busy_seconds_total", "counter"),
    ("adit_drops_total", "counter"),
    ("adit_build_info", "gauge"),
    ("process_resident_memory_bytes", "gauge"),
    ("process_cpu_seconds_total", "counter"),
    ("process_open_fds", "gauge"),
    ("process_start_time_seconds", "gauge"),
];

/// With a static key there is no handshake.
const HANDSHAKE: [&str; 1] = ["adit_peer_last_handshake_timestamp_seconds{peer=\"site-b\"}"];
/// What a static key has not: nobody negotiates, agrees or replaces anything, and its file has no beginning.
const IKE_ALONE: [&str; 5] = [".children.age_s", ".children.ike_sa", ".children.rekey_in_s", ".ike", ".since_s"];

/// A pair with a static key, and one with IKE.
fn both() -> [LabOptions; 2] {
    [LabOptions::patient(), patient(&ROLES)].map(|options| LabOptions { workers: vec![2], lanes: Some(2), ..options })
}

/// Every field below a value that is not null; of a list, those of its first item.
fn fields(value: &Value, at: &str, found: &mut BTreeSet<String>) {
    match value {
        // Which there may be; that both show theirs, `drops` looks at.
        _ if at == ".drops" => {}
        Value::Object(all) if at != ".ike" => all.iter().for_each(|(name, value)| fields(value, &format!("{at}.{name}"), found)),
        Value::Array(all) => all.iter().take(1).for_each(|value| fields(value, at, found)),
        Value::Null => {}
        Value::Object(_) | Value::Bool(_) | Value::Number(_) | Value::String(_) => drop(found.insert(at.to_owned())),
    }
}

/// Fields of which the value is known for a peer.
fn known(gateway: &Gateway) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    fields(&peer(gateway)?, "", &mut found);
    Ok(found)
}

/// The series of a page about peers, but for those of IKE alone.
fn series(gateway: &Gateway) -> Result<BTreeSet<String>> {
    let page = gateway.metrics_page()?.replace("keys=\"ike\"", "keys=\"static_key\"");
    let lines = page.lines().filter(|line| line.contains("peer=\"") && !line.starts_with("adit_ike_") && !line.starts_with('#'));
    Ok(lines.filter_map(|line| Some(line.rsplit_once(' ')?.0.to_owned())).collect())
}

/// The titles in `adit status` and `adit status PEER`, but for drops, which there may be.
fn tables(gateway: &Gateway) -> Result<BTreeSet<String>> {
    let report = gateway.adit("status")? + &gateway.adit("status site-b")?;
    let titles = report.lines().filter(|line| line.starts_with(char::is_alphabetic) && !line.contains([':', '(']));
    // Without numbers and SPIs.
    let words =
        |line: &str| line.split(' ').take_while(|word| word.chars().all(char::is_alphabetic)).collect::<Vec<_>>().join(" ");
    let titles = titles.map(words);
    Ok(titles.filter(|title| !title.contains("dropped")).collect())
}

/// What a gateway shows of its peer: fields, series and tables.
fn shown(options: &LabOptions) -> Result<[BTreeSet<String>; 3]> {
    let lab = Lab::start(options)?;
    let gateway = lab.a();
    reaches(&gateway.netns, lab.b().inner())?;
    let live = || Ok::<_, anyhow::Error>(gateway.metrics()?.sum("adit_child_sa_lanes", &[("state", "live")]) == Some(2.0));
    wait_until("both lanes are there", SOON, live).with_context(|| lab.logs())?;
    // Echoes take a moment, more of them come beside traffic, and what has passed is told a moment later.
    let path = [".paths.rtt_us", ".paths.loss", ".paths.mtu_proven", ".sent.idle_s", ".received.idle_s"];
    wait_until("the path is known", SOON, || {
        reaches(&gateway.netns, lab.b().inner())?;
        Ok(path.iter().all(|field| known(gateway).is_ok_and(|known| known.contains(*field))))
    })
    .with_context(|| format!("{:?}", known(gateway)))?;
    let metrics = gateway.metrics()?;
    ensure!(metrics.sum("adit_peer_up", &[("peer", "site-b")]) == Some(1.0), "{}", gateway.metrics_page()?);
    for direction in ["in", "out"] {
        ensure!(metrics.sum("adit_child_sa_packets_total", &[("direction", direction)]) > Some(0.0), "{direction}");
    }
    let page = gateway.metrics_page()?;
    for (family, kind) in FAMILIES {
        let is_of_ike = family == "adit_peer_last_handshake_timestamp_seconds" || family.starts_with("adit_ike_");
        let has = page.contains(&format!("# TYPE {family} {kind}\n")) && metrics.sum(family, &[]).is_some();
        ensure!(has || (is_of_ike && options.ike.is_empty()), "there is no {kind} {family}:\n{page}");
    }
    let explained = gateway.adit("explain site-b")?;
    ensure!(explained.starts_with("site-b: established") && explained.contains("nothing is wrong"), "{explained}");
    Ok([known(gateway)?, series(gateway)?, tables(gateway)?])
}

#[test]
fn static_keys_and_ike_show_the_same_fields_series_and_tables() -> Result<()> {
    let [file, ike] = both();
    let (file, ike) = (shown(&file)?, shown(&ike)?);
    for ((file, ike), but) in file.iter().zip(&ike).zip([&IKE_ALONE[..], &HANDSHAKE, &["IKE SA", "events of IKE"]]) {
        let more: Vec<&String> = ike.difference(file).collect();
        ensure!(
            file.is_subset(ike) && more == but,
            "IKE has {more:?} more than {but:?}; a static key has {:?}",
            file.difference(ike)
        );
    }
    Ok(())
}

#[test]
fn what_is_carried_while_keys_are_replaced_is_in_the_totals() -> Result<()> {
    const BYTES: u64 = 1 << 30;
    let mut lab = Lab::start(&patient(&ROLES))?;
    let [a, b] = [lab.a(), lab.b()];
    reaches(&a.netns, b.inner())?;
    let transfer = traffic::start(&a.netns, &b.netns, b.inner().into(), BYTES)?;
    let mut commands = 0;
    while transfer.is_running() {
        a.adit(if commands % 4 == 0 { "rekey --ike site-b" } else { "rekey site-b" })?;
        commands += 1;
    }
    transfer.finish()?.verify(BYTES)?;
    ensure!(commands >= 8, "only {commands} times keys were replaced");
    // The worker counts as well, whatever becomes of the SAs.
    let all_is_counted = |lab: &Lab| -> Result<()> {
        for gateway in &lab.gateways {
            let mut said = None;
            wait_until("the Child SA has carried what the worker has", SOON, || {
                let metrics = gateway.metrics()?;
                let of_child = |direction| metrics.sum("adit_child_sa_bytes_total", &[("direction", direction)]);
                let of_worker = [Count::SealedBytes, Count::OpenedBytes].map(|count| Some(metrics.count(count) as f64));
                let both = ([of_child("out"), of_child("in")], of_worker);
                said = Some(both);
                Ok(both.0 == both.1)
            })
            .with_context(|| format!("{}: {said:?} bytes sealed and opened\n{}", gateway.name, lab.logs()))?;
        }
        Ok(())
    };
    all_is_counted(&lab)?;
    // The next control plane has not seen how the last SA of this one ended.
    let transfer = traffic::start(&lab.b().netns, &lab.a().netns, lab.a().inner().into(), BYTES / 4)?;
    let old = peer(lab.a())?["children"][0]["outbound_spi"].take();
    ensure!(old.is_string());
    lab.a().adit("rekey site-b")?;
    wait_until("it seals with another one", SOON, || Ok(peer(lab.a())?["children"][0]["outbound_spi"] != old))?;
    lab.gateways[0].kill_control()?;
    lab.gateways[0].start_control()?;
    transfer.finish()?.verify(BYTES / 4)?;
    wait_until("the new control plane serves metrics", SOON, || Ok(lab.a().metrics().is_ok())).with_context(|| lab.logs())?;
    all_is_counted(&lab)
}

#[test]
fn totals_never_go_back_and_rekeys_make_no_series() -> Result<()> {
    for options in both() {
        let mut lab = Lab::start(&options)?;
        reaches(&lab.a().netns, lab.b().inner())?;
        wait_until("both lanes are there, and an echo was answered", SOON, || {
            let metrics = lab.a().metrics()?;
            let lanes = metrics.sum("adit_child_sa_lanes", &[("state", "live")]);
            Ok(lanes == Some(2.0) && metrics.sum("adit_path_rtt_seconds", &[]).is_some())
        })?;
        let total = |lab: &Lab| lab.a().metrics()?.sum("adit_child_sa_packets_total", &[]).context("no Child SA");
        // What a path loses is known after some echoes beside traffic, which there may or may not be here.
        let is_lasting = |series: &String| !series.starts_with("adit_path_loss_ratio");
        let lasting =
            |lab: &Lab| Ok::<_, anyhow::Error>(series(lab.a())?.into_iter().filter(is_lasting).collect::<BTreeSet<_>>());
        let (before, mut last) = (lasting(&lab)?, total(&lab)?);
        let mut goes_on = |lab: &Lab, what: &str| -> Result<()> {
            reaches(&lab.a().netns, lab.b().inner()).with_context(|| lab.logs())?;
            let now = total(lab)?;
            ensure!(now > last, "{what}: {now} after {last}\n{}", lab.logs());
            last = now;
            Ok(())
        };
        for round in 0..if options.ike.is_empty() { 0 } else { 5 } {
            let old = peer(lab.a())?["children"][0]["inbound_spi"].take();
            lab.a().adit("rekey site-b")?;
            wait_until("the keys are others", SOON, || {
                let children = peer(lab.a())?["children"].take();
                Ok(children.as_array().is_some_and(|all| all.iter().all(|child| child["inbound_spi"] != old)))
            })?;
            goes_on(&lab, &format!("rekey {round}"))?;
        }
        // What old SAs carried is left for the next control plane once a second.
        let up = |lab: &Lab| Ok::<_, anyhow::Error>(lab.a().status()?["control_plane"]["uptime_s"].as_u64().unwrap_or(0));
        let then = up(&lab)?;
        wait_until("it has looked twice", SOON, || Ok(up(&lab)? >= then + 3))?;
        lab.gateways[0].kill_control()?;
        lab.gateways[0].start_control()?;
        wait_until("the new control plane serves metrics", SOON, || Ok(lab.a().metrics().is_ok())).with_context(|| lab.logs())?;
        goes_on(&lab, "another control plane")?;
        lab.a().kill_data_plane()?;
        wait_until("packets pass again", SOON, || Ok(reaches(&lab.a().netns, lab.b().inner()).is_ok()))
            .with_context(|| lab.logs())?;
        goes_on(&lab, "another data plane")?;
        wait_until("the series are those of the start", SOON, || Ok(lasting(&lab)? == before))
            .with_context(|| format!("{before:?}, {:?}", lasting(&lab)))?;
    }
    Ok(())
}
