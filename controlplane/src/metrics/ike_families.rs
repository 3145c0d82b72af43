//! The families of IKE alone: per peer and, where no peer can be named, in total. What every peer has is in [`super::peers`].

use adit_engine::ike::{ConnectionState, Counters};
use prometheus::proto::{Metric, MetricFamily, MetricType};

use super::{counter, family, gauge};
use crate::config::Config;
use crate::ike::report::{ByIke, Report};

/// What a counter of the engine is called here.
struct Named {
    family: &'static str,
    label: Option<(&'static str, &'static str)>,
    value: u64,
}

/// All families; there are as many whether or not a peer uses IKE.
pub fn families(config: &Config, report: &Report) -> Vec<MetricFamily> {
    let name = |place: &usize| config.peers.get(*place).map_or("", |peer| peer.name.as_str());
    let of_peers = |wanted: &str| -> Vec<Metric> {
        let peers = report.peers.iter();
        peers.flat_map(|(place, peer)| metrics(&peer.counters, wanted, Some(name(place)))).collect()
    };
    let per_peer = |wanted: &'static str, help| family(MetricType::COUNTER, wanted, help, of_peers(wanted));
    let all = report.total.iter().map(|(event, count)| counter(&[("event", event)], count)).collect();
    let initiators = metrics(&report.total, "adit_ike_refused_initiators_total", None);
    let dropped = metrics(&report.total, "adit_ike_dropped_total", None);
    let half_open = gauge(&[], report.half_open as f64);
    vec![
        family(
            MetricType::GAUGE,
            "adit_ike_state",
            "1 for the state that the connection to a peer is in, 0 for the others.",
            states(report, name),
        ),
        family(MetricType::GAUGE, "adit_ike_half_open", "IKE SAs that peers began and have not authenticated.", vec![half_open]),
        per_peer("adit_ike_handshakes_total", "IKE SAs that were authenticated."),
        per_peer("adit_ike_failures_total", "Handshakes and Child SAs that failed, by cause; adit explain PEER says more."),
        family(
            MetricType::COUNTER,
            "adit_ike_refused_initiators_total",
            "Requests to connect that were refused, by cause, before it was clear from which peer.",
            initiators,
        ),
        per_peer("adit_ike_rekeys_total", "IKE SAs and Child SAs that were replaced by new ones."),
        per_peer("adit_ike_dead_peers_total", "IKE SAs given up because the peer did not answer."),
        per_peer("adit_ike_crashes_total", "Peers that said with a token that they had lost their state (RFC 6290)."),
        per_peer("adit_ike_dpd_requests_total", "Requests of dead peer detection (DPD) that were sent."),
        per_peer("adit_ike_retransmissions_total", "Requests of ours that were sent again."),
        per_peer("adit_ike_repeated_requests_total", "Requests of a peer that came again."),
        family(
            MetricType::COUNTER,
            "adit_ike_replays_total",
            "Messages and fragments of a peer that had come before, or outside the window.",
            replays(report, name),
        ),
        family(MetricType::COUNTER, "adit_ike_events_total", "All that IKE counts, over all peers and initiators.", all),
        family(MetricType::COUNTER, "adit_ike_dropped_total", "Messages of IKE that changed nothing, by reason.", dropped),
    ]
}

/// A gauge for each state of each peer.
fn states<'a>(report: &Report, name: impl Fn(&usize) -> &'a str) -> Vec<Metric> {
    let of_peer = |(place, peer): (&usize, &ByIke)| {
        let one = |state: &ConnectionState| {
            let is = f64::from(u8::from(peer.state == *state));
            gauge(&[("peer", name(place)), ("state", state.name())], is)
        };
        ConnectionState::ALL.iter().map(one).collect::<Vec<_>>()
    };
    report.peers.iter().flat_map(of_peer).collect()
}

/// What came again.
fn replays<'a>(report: &Report, name: impl Fn(&usize) -> &'a str) -> Vec<Metric> {
    let of_peer = |(place, ByIke { counters, .. }): (&usize, &ByIke)| {
        let kinds = [("fragment", counters.dropped_fragment_replay), ("message", counters.dropped_outside_window)];
        kinds.map(|(kind, count)| counter(&[("kind", kind), ("peer", name(place))], count))
    };
    report.peers.iter().flat_map(of_peer).collect()
}

fn metrics(counters: &Counters, wanted: &str, peer: Option<&str>) -> Vec<Metric> {
    let fitting = counters.iter().filter_map(|(name, value)| named(name, value)).filter(|one| one.family == wanted);
    let metric = |one: Named| {
        // In the order of the alphabet, as the text format wants them.
        let mut pairs: Vec<(&str, &str)> = one.label.into_iter().chain(peer.map(|peer| ("peer", peer))).collect();
        pairs.sort_unstable();
        counter(&pairs, one.value)
    };
    fitting.map(metric).collect()
}

fn named(name: &'static str, value: u64) -> Option<Named> {
    if let Some(cause) = name.strip_prefix("failed_") {
        return Some(Named { family: "adit_ike_failures_total", label: Some(("cause", cause)), value });
    }
    if let Some(cause) = name.strip_prefix("refused_") {
        return Some(Named { family: "adit_ike_refused_initiators_total", label: Some(("cause", cause)), value });
    }
    if let Some(reason) = name.strip_prefix("dropped_") {
        return Some(Named { family: "adit_ike_dropped_total", label: Some(("reason", reason)), value });
    }
    let (family, label) = match name {
        "handshakes" => ("adit_ike_handshakes_total", None),
        "ike_rekeys" => ("adit_ike_rekeys_total", Some(("sa", "ike"))),
        "child_rekeys" => ("adit_ike_rekeys_total", Some(("sa", "child"))),
        "dead_peers" => ("adit_ike_dead_peers_total", None),
        "crashes_detected" => ("adit_ike_crashes_total", None),
        "dpd_requests" => ("adit_ike_dpd_requests_total", None),
        "retransmissions" => ("adit_ike_retransmissions_total", None),
        "repeated_requests" => ("adit_ike_repeated_requests_total", None),
        _ => return None,
    };
    Some(Named { family, label, value })
}
