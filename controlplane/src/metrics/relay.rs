//! The families of the relay at which this gateway is a client. Those of a relay itself are of another process.

use prometheus::proto::{Metric, MetricFamily, MetricType};

use super::{Labels, counter, family, gauge};
use crate::schema::Relay;

const DROPPED: &str = "adit_relay_client_dropped_total";
const IGNORED: &str = "adit_relay_client_ignored_total";

/// All of them, with or without a relay.
pub fn families(relay: Option<&Relay>) -> [MetricFamily; 6] {
    let own = relay.map(|relay| [("unsent", relay.unsent), ("refused", relay.refused)]).into_iter().flatten();
    let counters = relay.into_iter().flat_map(|relay| &relay.counters).map(|(name, count)| (name.as_str(), *count));
    let all: Vec<(&str, u64)> = own.chain(counters).collect();
    let of = |wanted: &'static str, help| {
        let one = |(name, count): &(&str, u64)| -> Option<Metric> {
            let (family, labels) = place(name)?;
            (family == wanted).then(|| counter(labels, *count))
        };
        family(MetricType::COUNTER, wanted, help, all.iter().filter_map(one).collect())
    };
    let is_in = relay.map(|relay| gauge(&[], f64::from(u8::from(relay.registered))));
    let peers = relay.map(|relay| gauge(&[], relay.peers as f64));
    [
        family(
            MetricType::GAUGE,
            "adit_relay_client_registered",
            "1 while the gateway is registered at its relay.",
            is_in.into_iter().collect(),
        ),
        family(
            MetricType::GAUGE,
            "adit_relay_client_peers",
            "Others that are seen in the rooms of the relay.",
            peers.into_iter().collect(),
        ),
        of("adit_relay_client_registrations_total", "How often the gateway was registered at its relay."),
        of("adit_relay_client_failures_total", "Attempts to register at the relay that failed, and registrations that ended."),
        of(DROPPED, "Messages of IKE and trains of ESP that were not carried over the relay, by reason."),
        of(IGNORED, "What the relay said and nothing came of, by reason."),
    ]
}

/// In which family a counter is, and its labels there.
fn place(name: &str) -> Option<(&'static str, Labels<'static>)> {
    Some(match name {
        "registrations" => ("adit_relay_client_registrations_total", &[]),
        "failures" => ("adit_relay_client_failures_total", &[]),
        "unsent" => (DROPPED, &[("direction", "out"), ("reason", "unsent")]),
        "ike_late" => (DROPPED, &[("direction", "out"), ("reason", "ike_late")]),
        "ike_full" => (DROPPED, &[("direction", "out"), ("reason", "ike_full")]),
        "data_late" => (DROPPED, &[("direction", "out"), ("reason", "data_late")]),
        "data_full" => (DROPPED, &[("direction", "out"), ("reason", "data_full")]),
        "lost" => (DROPPED, &[("direction", "out"), ("reason", "lost")]),
        "refused" => (DROPPED, &[("direction", "in"), ("reason", "refused")]),
        "flooded" => (DROPPED, &[("direction", "in"), ("reason", "flooded")]),
        "undelivered" => (DROPPED, &[("direction", "in"), ("reason", "undelivered")]),
        "full" => (DROPPED, &[("direction", "in"), ("reason", "full")]),
        "unknown" => (IGNORED, &[("reason", "unknown")]),
        "unexpected" => (IGNORED, &[("reason", "unexpected")]),
        "unremembered" => (IGNORED, &[("reason", "unremembered")]),
        "unseen" => (IGNORED, &[("reason", "unseen")]),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use adit_relay::client::Counters;

    use super::*;

    #[test]
    fn every_counter_of_the_relay_is_in_one_family() {
        let names = Counters::default().by_name().map(|(name, _)| name);
        let all = names.into_iter().chain(["full", "unseen"]);
        let counters = all.zip(1..).map(|(name, count)| (name.to_owned(), count)).collect();
        let relay = Relay {
            url: String::new(),
            rooms: Vec::new(),
            key: None,
            registered: true,
            since_s: 0,
            observed: None,
            rtt_us: None,
            candidates: Vec::new(),
            peers: 3,
            failure: None,
            unsent: 100,
            refused: 200,
            counters,
        };
        let families = families(Some(&relay));
        let counts = families.iter().filter(|family| family.get_field_type() == MetricType::COUNTER);
        let shown: BTreeSet<u64> =
            counts.flat_map(MetricFamily::get_metric).map(|metric| metric.get_counter().get_value() as u64).collect();
        assert_eq!(shown, relay.counters.values().copied().chain([100, 200]).collect(), "each once");
        assert!(super::families(None).iter().all(|family| family.get_metric().is_empty()));
    }
}
