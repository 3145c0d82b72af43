//! The page of Prometheus: what the shell counts of who comes, and what the hall counts of who is in.

use prometheus::TextEncoder;
use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};

use crate::reach::Reach;
use crate::shared::Shared;

/// The page of Prometheus.
///
/// # Errors
/// A family that cannot be written as text.
pub(crate) fn page(shared: &Shared) -> prometheus::Result<String> {
    let (connections, strangers) = shared.entrance.counts();
    let (gauges, counters) = shared.lobby.look(|hall| (hall.gauges(), *hall.counters()));
    let mut families = vec![
        gauge("connections", "TCP connections that are open.", connections as f64),
        gauge("strangers", "Connections that have not logged in.", strangers as f64),
        gauge("clients", "Clients that are logged in.", gauges.clients as f64),
        gauge("rooms_in_use", "Rooms in which somebody is.", gauges.rooms as f64),
        gauge("control_bytes", "Bytes of what the relay says that wait for clients.", gauges.control_bytes as f64),
        gauge("train_bytes", "Bytes of trains that wait for clients.", gauges.train_bytes as f64),
        gauge("uptime_seconds", "Seconds since the relay began.", shared.started.elapsed().as_secs_f64()),
        counter("connections_total", "TCP connections that were accepted.", shared.tally.accepted_so_far()),
        counter("logins_total", "Logins that held.", shared.tally.logins_so_far()),
        counter(
            "held_back_total",
            "Times that a client sent more than it may and was not read from for a moment.",
            shared.tally.held_back_so_far(),
        ),
    ];
    let refused = shared.tally.refused().map(|(why, count)| one(Some(("why", why)), MetricType::COUNTER, count as f64)).collect();
    families.push(family("refused_total", "Connections and requests that were refused.", MetricType::COUNTER, refused));
    families.extend(counters.iter().map(|(name, help, value)| counter(&format!("{name}_total"), help, value)));
    families.extend(shared.reach.iter().flat_map(reach));
    families.sort_by(|a, b| a.name().cmp(b.name()));
    TextEncoder::new().encode_to_string(&families)
}

/// STUN and TURN: what became of datagrams, questions, packets and connections.
fn reach(reach: &Reach) -> Vec<MetricFamily> {
    let of = |who: &str| {
        let all = reach.counters().into_iter().filter(|one| one.0 == who);
        all.map(|(_, what, count)| one(Some(("what", what)), MetricType::COUNTER, count as f64)).collect()
    };
    let named = [
        ("stun", "stun_total", "What became of datagrams of STUN."),
        ("turn", "turn_total", "What became of questions and packets of TURN; with _bytes, the bytes of packets."),
        ("stream", "turn_streams_total", "What became of connections of TURN, and of what waited in them."),
        ("udp", "udp_total", "What the sockets of STUN and TURN could not send or take."),
    ];
    let mut families: Vec<_> =
        named.map(|(who, name, help)| family(name, help, MetricType::COUNTER, of(who))).into_iter().collect();
    families.push(gauge(
        "turn_allocations",
        "Addresses that are lent by TURN: allocations that live.",
        reach.allocations() as f64,
    ));
    families.push(gauge("turn_streams", "Connections of TURN over TCP and TLS that are open.", reach.streams() as f64));
    families
}

fn gauge(name: &str, help: &str, value: f64) -> MetricFamily {
    family(name, help, MetricType::GAUGE, vec![one(None, MetricType::GAUGE, value)])
}

fn counter(name: &str, help: &str, value: u64) -> MetricFamily {
    family(name, help, MetricType::COUNTER, vec![one(None, MetricType::COUNTER, value as f64)])
}

fn one(label: Option<(&str, &str)>, kind: MetricType, value: f64) -> Metric {
    let pair = label.map(|(name, value)| {
        let mut pair = LabelPair::default();
        pair.set_name(name.to_owned());
        pair.set_value(value.to_owned());
        pair
    });
    let mut metric = Metric::from_label(pair.into_iter().collect());
    if kind == MetricType::GAUGE {
        let mut gauge = Gauge::default();
        gauge.set_value(value);
        metric.set_gauge(gauge);
    } else {
        let mut counter = Counter::default();
        counter.set_value(value);
        metric.set_counter(counter);
    }
    metric
}

fn family(name: &str, help: &str, kind: MetricType, metrics: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(format!("adit_relay_{name}"));
    family.set_help(help.to_owned());
    family.set_field_type(kind);
    family.set_metric(metrics);
    family
}
