//! What has gone over each path of each peer.

use adit_channel::PathCounters;
use adit_engine::path::PathStatus;
use adit_proto::control::PathId;
use prometheus::proto::{Metric, MetricFamily, MetricType};

use super::stamps::Scrape;
use super::{counter, family, gauge};
use crate::config::Config;
use crate::ike::report::{Report, ends};
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

const KNOWN: [Known; 5] = [
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
        "adit_path_loss_ratio",
        "Share of the last 64 sealed echoes on a path that was lost, of sizes that are proven; none before eight were sent.",
        MetricType::GAUGE,
        |path| path.loss.map(|(lost, of)| f64::from(lost) / f64::from(of)),
    ),
    (
        "adit_path_black_holes_total",
        "How often large packets were found to vanish on a path while small ones arrived.",
        MetricType::COUNTER,
        |path| Some(path.black_holes as f64),
    ),
];

const RECEIVED: &str = "adit_path_last_receive_timestamp_seconds";

/// The families of all paths that are set.
pub fn families(view: &View, config: &Config, report: &Report, scrape: &mut Scrape<'_>) -> Vec<MetricFamily> {
    let paths = view.paths();
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
    let heard = heard.map(|((peer, path), counters)| {
        let (path, at) = (path.index().to_string(), scrape.instant_of(counters.received_at_ns));
        let time = scrape.time_of((RECEIVED, format!("{path} {}", name_of(peer))), at);
        gauge(&[("path", &path), ("peer", name_of(peer))], time)
    });
    let help = "When the last authentic packet came on a path, in seconds since 1970 UTC; no value before the first.";
    families.push(family(MetricType::GAUGE, RECEIVED, help, heard.collect()));
    let help = "Peers whose routes are to be looked up again and have not had their turn.";
    let waiting = vec![gauge(&[], report.lookups_waiting as f64)];
    families.push(family(MetricType::GAUGE, "adit_route_lookups_waiting", help, waiting));
    let info = report.paths.iter().flat_map(|(place, paths)| paths.iter().map(move |path| info(name_of(place), path)));
    let help = "The ways to each peer with their addresses; the value is always 1.";
    families.push(family(MetricType::GAUGE, "adit_path_info", help, info.collect()));
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

/// Where a path leads: its number, which is the label of all other families, says nothing by itself.
fn info(peer: &str, path: &PathStatus) -> Metric {
    let [local, remote] = ends(&path.hop);
    gauge(&[("local", &local), ("path", &path.path.index().to_string()), ("peer", peer), ("remote", &remote)], 1.0)
}
