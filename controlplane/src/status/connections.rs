//! The IKE part of `adit status`: how each peer is connected, its SAs and their algorithms.

use super::{bytes, duration, grouped, row, table};
use crate::api::types::{ChildSa, Ike, IkeSa, MissingSelector, Peer};

/// All of it; nothing when no peer uses IKE.
pub fn report(peers: &[Peer]) -> String {
    let by_ike: Vec<(&str, &Ike)> = peers.iter().filter_map(|peer| Some((peer.name.as_str(), peer.ike.as_ref()?))).collect();
    if by_ike.is_empty() {
        return String::new();
    }
    let mut rows = vec![row(["name", "state", "for", "proved to be", "by", "cause"])];
    let mut sas = vec![row(["name", "SPIs", "role", "algorithms", "age", "rekey in", "reauth in", "heard", "path", ""])];
    let mut counts = vec![row(["name", "counted"])];
    let mut children = vec![row(["name", "lane", "in", "out", "suite", "age", "rekey in", "received", "sent", "selectors", ""])];
    let mut missing = vec![row(["name", "selector", "cause"])];
    for (name, ike) in by_ike {
        rows.push(connection(name, ike));
        sas.extend(ike.sas.iter().map(|sa| ike_sa(name, sa)));
        children.extend(ike.sas.iter().flat_map(|sa| &sa.children).map(|sa| child(name, sa)));
        missing.extend(ike.sas.iter().flat_map(|sa| &sa.missing).map(|one| not_carried(name, one)));
        counts.extend(counted(name, ike));
    }
    let mut out = format!("\nIKE\n{}", table(&rows));
    for (title, rows) in
        [("IKE SAs", sas), ("SAs of IKE", children), ("selectors without a Child SA", missing), ("events of IKE", counts)]
    {
        if rows.len() > 1 {
            out += &format!("\n{title}\n{}", table(&rows));
        }
    }
    out
}

fn connection(name: &str, ike: &Ike) -> Vec<String> {
    let mut cells = row([name, &ike.state]);
    cells.push(duration(ike.since_s));
    cells.extend(match ike.sas.first() {
        Some(sa) => [sa.remote_id.clone(), sa.proof.clone()],
        None => ["-", "-"].map(str::to_owned),
    });
    let mut cause = ike.cause.clone().unwrap_or_default();
    if let Some(retry) = ike.retry_in_s {
        cause += &format!("; again in {retry} s");
    }
    cells.push(cause);
    cells
}

fn ike_sa(name: &str, sa: &IkeSa) -> Vec<String> {
    vec![
        name.to_owned(),
        format!("{}_i {}_r", sa.initiator_spi, sa.responder_spi),
        sa.role.clone(),
        algorithms(sa),
        duration(sa.age_s),
        remaining(sa.rekey_in_s),
        remaining(sa.reauth_in_s),
        format!("{} ago", duration(sa.idle_s)),
        path(sa),
        if sa.going { "going" } else { "" }.to_owned(),
    ]
}

/// What was counted at least once, on one line.
fn counted(name: &str, ike: &Ike) -> Option<Vec<String>> {
    let counts: Vec<String> =
        ike.counters.iter().map(|(what, count)| format!("{} {}", what.replace('_', " "), grouped(*count))).collect();
    (!counts.is_empty()).then(|| vec![name.to_owned(), counts.join(", ")])
}

fn algorithms(sa: &IkeSa) -> String {
    let kind = match (sa.post_quantum, sa.ppk) {
        (_, true) => " (post-quantum, with a pre-shared key)",
        (true, false) => " (post-quantum)",
        (false, false) => "",
    };
    sa.suite.clone() + kind
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
        selectors(sa),
        if sa.going { "going" } else { "" }.to_owned(),
    ]
}

/// A few of them; the API has all.
fn selectors(sa: &ChildSa) -> String {
    let side = |side: &[String]| match side {
        [] => "-".to_owned(),
        [one] => one.clone(),
        [one, rest @ ..] => format!("{one} and {} more", rest.len()),
    };
    if sa.local.is_empty() { String::new() } else { format!("{} <> {}", side(&sa.local), side(&sa.remote)) }
}

fn not_carried(name: &str, missing: &MissingSelector) -> Vec<String> {
    let mut cause = missing.cause.clone().unwrap_or_default();
    if let Some(retry) = missing.retry_in_s {
        cause += &format!("; again in {retry} s");
    }
    vec![name.to_owned(), missing.selector.clone(), cause]
}

fn remaining(seconds: Option<u64>) -> String {
    seconds.map_or_else(|| "-".to_owned(), duration)
}
