//! What `adit status` says of IKE alone: who peers have proved to be, the IKE SAs, and what happened.

use super::{duration, grouped, remaining, row, table};
use crate::api::types::{Ike, IkeSa, Peer};

/// All of it; nothing when no peer uses IKE.
pub fn report(peers: &[Peer]) -> String {
    let mut sas = vec![row([
        "name",
        "SPIs",
        "proved to be",
        "by",
        "role",
        "algorithms",
        "age",
        "rekey in",
        "reauth in",
        "heard",
        "path",
        "",
    ])];
    let mut counts = vec![row(["name", "counted"])];
    for (peer, ike) in peers.iter().filter_map(|peer| Some((peer, peer.ike.as_ref()?))) {
        sas.extend(ike.sas.iter().map(|sa| ike_sa(&peer.name, sa)));
        counts.extend(counted(&peer.name, ike));
    }
    let mut out = String::new();
    for (title, rows) in [("IKE SAs", sas), ("events of IKE", counts)] {
        if rows.len() > 1 {
            out += &format!("\n{title}\n{}", table(&rows));
        }
    }
    out
}

fn ike_sa(name: &str, sa: &IkeSa) -> Vec<String> {
    vec![
        name.to_owned(),
        format!("{}_i {}_r", sa.initiator_spi, sa.responder_spi),
        sa.remote_id.clone(),
        sa.proof.clone(),
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
