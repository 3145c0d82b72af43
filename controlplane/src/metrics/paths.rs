//! What has gone over each path of each peer.

use adit_channel::PathCounters;
use adit_engine::path::PathStatus;
use adit_proto::control::PathId;
use prometheus::proto::{MetricFamily, MetricType};
use rustix::time::{ClockId, clock_gettime};

use super::{counter, family, gauge};
use crate::config::Config;
use crate::ike::report::Report;
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

/// A number of a path that goes up and down, or is the engine's: likewise; where nothing is known there is no sample.
type Known = (&'static str, &'static str, MetricType, fn(&PathStatus) -> Option<f64>);

const KNOWN: [Known; 4] = [
    ("adit_path_in_use", "Whether what is sent to the peer goes by this path.", MetricType::GAUGE, |path| {
        Some(f64::from(u8::from(path.in_use)))
    }),
    ("adit_path_mtu_bytes", "Largest outer IP packet that is sent on a path.", MetricType::GAUGE, |path| {
        Some(f64::from(path.mtu))
    }),
    (
        "adit_path_rtt_seconds",
        "Round trip of sealed echoes on a path; none before the first answer.",
        MetricType::GAUGE,
        |path| path.rtt.map(|rtt| rtt.as_secs_f64()),
    ),
    (
        "adit_path_black_holes_total",
        "How often large packets were found to vanish on a path while small ones arrived.",
        MetricType::COUNTER,
        |path| Some(path.black_holes as f64),
    ),
];

/// The families of all paths that are set.
pub fn families(view: &View, config: &Config, report: &Report) -> Vec<MetricFamily> {
    let (paths, now_ns) = (view.paths(), monotonic_ns());
    let name_of = |place: &usize| config.peers.get(*place).map_or("", |peer| peer.name.as_str());
    let mut families: Vec<MetricFamily> = COUNTERS
        .iter()
        .map(|(name, help, read)| {
            let one = |((peer, path), counters): (&(usize, PathId), &PathCounters)| {
                counter(&[("path", &path.index().to_string()), ("peer", name_of(peer))], read(counters))
            };
            family(MetricType::COUNTER, *name, help, paths.iter().map(one).collect())
        })
        .collect();
    let heard = paths.iter().filter(|(_, counters)| counters.received_at_ns > 0);
    let silent = heard.map(|((peer, path), counters)| {
        let silent_ns = now_ns.saturating_sub(counters.received_at_ns);
        gauge(&[("path", &path.index().to_string()), ("peer", name_of(peer))], silent_ns as f64 / 1e9)
    });
    let help = "Seconds since the last authentic packet came on a path; none before the first one.";
    families.push(family(MetricType::GAUGE, "adit_path_silent_seconds", help, silent.collect()));
    let help = "Peers whose routes are to be looked up again and have not had their turn.";
    let waiting = vec![gauge(&[], report.lookups_waiting as f64)];
    families.push(family(MetricType::GAUGE, "adit_route_lookups_waiting", help, waiting));
    let peers = || report.paths.iter().flat_map(|(place, paths)| paths.iter().map(move |path| (name_of(place), path)));
    families.extend(KNOWN.iter().map(|(name, help, kind, read)| {
        let one = |(peer, path): (&str, &PathStatus)| {
            let (number, value) = (path.path.index().to_string(), read(path)?);
            let labels = [("path", number.as_str()), ("peer", peer)];
            Some(if *kind == MetricType::COUNTER { counter(&labels, value as u64) } else { gauge(&labels, value) })
        };
        family(*kind, *name, help, peers().filter_map(one).collect())
    }));
    families
}

fn monotonic_ns() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}
