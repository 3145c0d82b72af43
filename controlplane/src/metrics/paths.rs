//! What has gone over each path of each peer.

use adit_channel::PathCounters;
use prometheus::proto::{MetricFamily, MetricType};
use rustix::time::{ClockId, clock_gettime};

use super::{counter, family, gauge};
use crate::view::View;

/// A number of a path that only grows: name of its family, help, and how it is read.
type Number = (&'static str, &'static str, fn(&PathCounters) -> u64);

const COUNTERS: [Number; 6] = [
    ("adit_path_sent_packets_total", "ESP packets sent on a path.", |path| path.sent_packets),
    ("adit_path_sent_bytes_total", "Bytes of UDP payload sent on a path.", |path| path.sent_bytes),
    ("adit_path_received_packets_total", "Authentic, new packets that came on a path.", |path| path.received_packets),
    ("adit_path_received_bytes_total", "Bytes of UDP payload in them.", |path| path.received_bytes),
    ("adit_path_echoes_sent_total", "Sealed echo requests sent on a path.", |path| path.echoes_sent),
    ("adit_path_echo_replies_total", "Answers to sealed echo requests that came on a path.", |path| path.echo_replies),
];

/// The families of all paths that are set.
pub fn families(view: &View) -> Vec<MetricFamily> {
    let (paths, now_ns) = (view.paths(), monotonic_ns());
    let mut families: Vec<MetricFamily> = COUNTERS
        .iter()
        .map(|(name, help, read)| {
            let one = |(peer, path, counters): &(String, String, PathCounters)| {
                counter(&[("path", path), ("peer", peer)], read(counters))
            };
            family(MetricType::COUNTER, *name, help, paths.iter().map(one).collect())
        })
        .collect();
    let heard = paths.iter().filter(|(_, _, counters)| counters.received_at_ns > 0);
    let silent = heard.map(|(peer, path, counters)| {
        let silent_ns = now_ns.saturating_sub(counters.received_at_ns);
        gauge(&[("path", path), ("peer", peer)], silent_ns as f64 / 1e9)
    });
    let help = "Seconds since the last authentic packet came on a path; none before the first one.";
    families.push(family(MetricType::GAUGE, "adit_path_silent_seconds", help, silent.collect()));
    families
}

fn monotonic_ns() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}
