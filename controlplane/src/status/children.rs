//! The Child SAs in `adit status`: the same table whether their keys come from IKE or from a file.

use super::{again, bytes, duration, grouped, remaining, row, table};
use crate::api::types::{ChildSa, MissingSelector, Peer, Sa};
use crate::children::LaneState;

/// Below this a sequence number is a count; above, as with static keys, it is a time and read better in hexadecimal.
const COUNT_MAX: u64 = 1 << 40;

/// All Child SAs, and the selectors that none of them carries.
pub fn report(peers: &[Peer]) -> String {
    let titles =
        ["name", "id", "lane", "in", "out", "suite", "age", "rekey in", "received", "up to", "sent", "up to", "selectors", ""];
    let mut children = vec![row(titles)];
    let mut missing = vec![row(["name", "selector", "cause"])];
    for peer in peers {
        children.extend(peer.children.iter().map(|sa| child(&peer.name, sa)));
        missing.extend(peer.missing.iter().map(|one| not_carried(&peer.name, one)));
    }
    let mut out = String::new();
    for (title, rows) in [("Child SAs", children), ("selectors without a Child SA", missing)] {
        if rows.len() > 1 {
            out += &format!("\n{title}\n{}", table(&rows));
        }
    }
    out
}

fn child(name: &str, sa: &ChildSa) -> Vec<String> {
    let out = sa.outbound.as_ref();
    let mut cells = row([name, &sa.id.to_string(), &sa.lane.to_string(), &sa.inbound_spi]);
    cells.extend([
        out.and(sa.outbound_spi.clone()).unwrap_or("-".to_owned()),
        sa.suite.clone(),
        sa.age_s.map_or("-".to_owned(), duration),
        remaining(sa.rekey_in_s),
        volume(Some(&sa.inbound)),
        sequence(Some(&sa.inbound)),
        volume(out),
        sequence(out),
        selectors(sa),
        match sa.lane_state() {
            LaneState::Live => String::new(),
            LaneState::Missing => "NOT IN THE DATA PLANE".to_owned(),
            LaneState::Going => LaneState::Going.label().to_owned(),
        },
    ]);
    cells
}

fn volume(sa: Option<&Sa>) -> String {
    sa.map_or("-".to_owned(), |sa| format!("{} ({})", grouped(sa.packets), bytes(sa.bytes)))
}

/// The last sequence number.
fn sequence(sa: Option<&Sa>) -> String {
    match sa.map_or(0, |sa| sa.sequence) {
        0 => "-".to_owned(),
        count @ 1..COUNT_MAX => grouped(count),
        time => format!("{time:#018x}"),
    }
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
    vec![name.to_owned(), missing.selector.clone(), again(missing.cause.as_deref(), missing.retry_in_s)]
}
