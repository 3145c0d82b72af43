//! The IKE part of `adit status`: how each peer is connected, its SAs and their algorithms.

use super::{bytes, duration, grouped, row, table};
use crate::api::types::{ChildSa, Ike, IkeSa, Peer};

/// All of it; nothing when no peer uses IKE.
pub fn report(peers: &[Peer]) -> String {
    let by_ike: Vec<(&str, &Ike)> = peers.iter().filter_map(|peer| Some((peer.name.as_str(), peer.ike.as_ref()?))).collect();
    if by_ike.is_empty() {
        return String::new();
    }
    let mut rows = vec![row(["name", "state", "for", "proved to be", "by", "algorithms", "path", "rekey in", "cause"])];
    let mut children = vec![row(["name", "lane", "in", "out", "suite", "age", "rekey in", "received", "sent", ""])];
    for (name, ike) in by_ike {
        rows.push(connection(name, ike));
        let sas = ike.sas.iter().flat_map(|sa| &sa.children);
        children.extend(sas.map(|sa| child(name, sa)));
    }
    let mut out = format!("\nIKE\n{}", table(&rows));
    if children.len() > 1 {
        out += "\nSAs of IKE\n";
        out += &table(&children);
    }
    out
}

fn connection(name: &str, ike: &Ike) -> Vec<String> {
    let mut cells = row([name, &ike.state]);
    cells.push(duration(ike.since_s));
    cells.extend(match ike.sas.first() {
        Some(sa) => [sa.remote_id.clone(), sa.proof.clone(), algorithms(sa), path(sa), remaining(sa.rekey_in_s)],
        None => ["-", "-", "-", "-", "-"].map(str::to_owned),
    });
    let mut cause = ike.cause.clone().unwrap_or_default();
    if let Some(retry) = ike.retry_in_s {
        cause += &format!("; again in {retry} s");
    }
    cells.push(cause);
    cells
}

fn algorithms(sa: &IkeSa) -> String {
    if sa.post_quantum { format!("{} (post-quantum)", sa.suite) } else { sa.suite.clone() }
}

fn path(sa: &IkeSa) -> String {
    format!("{} to {}", sa.local, sa.remote)
}

fn child(name: &str, sa: &ChildSa) -> Vec<String> {
    let volume = |packets, of| format!("{} ({})", grouped(packets), bytes(of));
    vec![
        name.to_owned(),
        sa.lane.to_string(),
        sa.inbound_spi.clone(),
        sa.outbound_spi.clone(),
        sa.suite.clone(),
        duration(sa.age_s),
        remaining(sa.rekey_in_s),
        volume(sa.received.packets, sa.received.bytes),
        volume(sa.sent.packets, sa.sent.bytes),
        if sa.going { "going" } else { "" }.to_owned(),
    ]
}

fn remaining(seconds: Option<u64>) -> String {
    seconds.map_or_else(|| "-".to_owned(), duration)
}
