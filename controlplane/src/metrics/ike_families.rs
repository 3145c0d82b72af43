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
    // Whoever it was with: mostly it was with nobody that is known.
    let in_all = |wanted: &'static str, help| family(MetricType::COUNTER, wanted, help, metrics(&report.total, wanted, None));
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
        in_all(
            "adit_ike_refused_initiators_total",
            "Requests to connect that were refused, by cause, before it was clear from which peer.",
        ),
        in_all(
            "adit_ike_cookies_demanded_total",
            "Initiators that were told to come again with a cookie (RFC 7296 section 2.6).",
        ),
        in_all(
            "adit_ike_half_open_gave_way_total",
            "Unauthenticated IKE SAs of the network that had most of them, given up for one of a network that has fewer.",
        ),
        in_all(
            "adit_ike_key_exchanges_demanded_total",
            "Initiators that were told to come again with another key exchange (INVALID_KE_PAYLOAD, RFC 7296 section 1.2).",
        ),
        per_peer("adit_ike_rekeys_total", "IKE SAs and Child SAs that were replaced by new ones."),
        per_peer(
            "adit_ike_key_exchanges_postponed_total",
            "Requests of a peer for an SA or new keys that were told to wait (TEMPORARY_FAILURE): more than a peer may have.",
        ),
        per_peer("adit_ike_dead_peers_total", "IKE SAs given up because the peer did not answer."),
        per_peer("adit_ike_crashes_total", "Peers that said with a token that they had lost their state (RFC 6290)."),
        per_peer("adit_ike_dpd_requests_total", "Requests of dead peer detection (DPD) that were sent."),
        per_peer("adit_ike_retransmissions_total", "Requests of ours that were sent again."),
        per_peer("adit_ike_repeated_requests_total", "Requests of a peer that came again."),
        per_peer("adit_ike_child_sas_created_total", "Child SAs that were made, each lane and each that replaced another one."),
        per_peer("adit_ike_child_sas_lost_total", "Child SAs that the data plane refused or lost."),
        in_all("adit_ike_dropped_total", "Messages of IKE that changed nothing, by reason, whoever sent them."),
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
        "key_exchanges_postponed" => ("adit_ike_key_exchanges_postponed_total", None),
        "dead_peers" => ("adit_ike_dead_peers_total", None),
        "crashes_detected" => ("adit_ike_crashes_total", None),
        "dpd_requests" => ("adit_ike_dpd_requests_total", None),
        "retransmissions" => ("adit_ike_retransmissions_total", None),
        "repeated_requests" => ("adit_ike_repeated_requests_total", None),
        "children_created" => ("adit_ike_child_sas_created_total", None),
        "children_lost" => ("adit_ike_child_sas_lost_total", None),
        "cookies_demanded" => ("adit_ike_cookies_demanded_total", None),
        "half_open_gave_way" => ("adit_ike_half_open_gave_way_total", None),
        "key_exchanges_demanded" => ("adit_ike_key_exchanges_demanded_total", None),
        _ => return None,
    };
    Some(Named { family, label, value })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;
    use crate::config::Machine;

    #[test]
    fn every_counter_of_the_engine_is_in_one_family() {
        let yaml = "name: a\nlisten: 192.0.2.1:4500\ninterface: { name: adit0 }\ndataplane: { workers: 1 }\npeers: []\n";
        let config = Config::from_yaml(yaml, Path::new("/"), &Machine { cores: vec![0] }).unwrap();
        let shown: BTreeSet<String> =
            families(&config, &Report::default()).iter().map(|family| family.name().to_owned()).collect();
        let mut series = BTreeSet::new();
        for (name, value) in Counters::default().iter() {
            let one = named(name, value).unwrap_or_else(|| panic!("{name} has no metric"));
            assert!(shown.contains(one.family), "{name} is in {}, which is not shown", one.family);
            assert!(series.insert((one.family, one.label)), "{name} is shown as another one is");
        }
    }
}
