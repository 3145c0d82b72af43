//! Prometheus metrics: a collector that reads the shared memory when it is asked, and the text page. Nothing is counted twice.

mod certificates;
mod ike_families;
mod paths;
mod peers;
mod relay;
mod stamps;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime};

use adit_proto::histogram;
use adit_proto::stats::{Count, Drop, Gauge, Latency};
use prometheus::core::{Collector, Desc};
use prometheus::process_collector::ProcessCollector;
use prometheus::proto::{Bucket, Counter, Gauge as GaugeValue, Histogram, LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{Registry, TextEncoder};

use crate::desired::Source;
use crate::numbers::{Numbers, SocketNumbers, WorkerNumbers};
use crate::view::View;
use stamps::Stamps;

/// Upper bounds of the latency histograms, in seconds: from below the fastest path to where TCP gives up hoping.
const LATENCY_BOUNDS_S: [f64; 16] = [2e-6, 5e-6, 1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 5e-2, 0.1, 0.5, 1.0];

/// A registry with the collector of a gateway in it.
///
/// # Errors
/// Two families have one name; a test shows that they have not.
pub fn registry(view: Arc<View>) -> prometheus::Result<Registry> {
    let mut gateway = Gateway { view, descs: Vec::new(), stamps: Mutex::default() };
    let desc = |family: &MetricFamily| Desc::new(family.name().to_owned(), family.help().to_owned(), Vec::new(), HashMap::new());
    gateway.descs = gateway.collect().iter().map(desc).collect::<prometheus::Result<_>>()?;
    let registry = Registry::new();
    registry.register(Box::new(gateway))?;
    // Of this process: memory, descriptors, processor time.
    registry.register(Box::new(ProcessCollector::for_self()))?;
    Ok(registry)
}

/// The whole page.
///
/// # Errors
/// A family that cannot be written as text.
pub fn page(registry: &Registry) -> prometheus::Result<String> {
    TextEncoder::new().encode_to_string(&registry.gather())
}

/// The collector of a gateway.
struct Gateway {
    view: Arc<View>,
    descs: Vec<Desc>,
    stamps: Mutex<Stamps>,
}

impl Collector for Gateway {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let numbers = self.view.numbers();
        let mut families = counts(&numbers);
        families.extend(gauges(&numbers));
        families.push(drops(&numbers, &self.view.port500));
        families.push(latencies(&numbers));
        families.extend(self.gateway());
        families.extend(self.health());
        families.extend(self.configuration());
        families.push(self.interface());
        let (desired, ike) = (self.view.desired(), self.view.ike());
        let peers = self.view.peers(&desired);
        {
            // What is inside is whole at every panic.
            let mut stamps = self.stamps.lock().unwrap_or_else(PoisonError::into_inner);
            let mut scrape = stamps.scrape(Instant::now(), SystemTime::now());
            families.extend(peers::families(&peers, &mut scrape));
            families.extend(paths::families(&self.view, &desired.config, &ike, &mut scrape));
        }
        families.extend(certificates::families(&self.view.certificates(), &desired.config, &ike));
        families.extend(ike_families::families(&desired.config, &ike));
        families.extend(relay::families(self.view.relay().as_ref()));
        families
    }
}

type Labels<'a> = &'a [(&'a str, &'a str)];

fn labels(pairs: Labels<'_>) -> Vec<LabelPair> {
    let pair = |(name, value): &(&str, &str)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value((*value).to_owned());
        pair
    };
    pairs.iter().map(pair).collect()
}

fn counter(pairs: Labels<'_>, value: u64) -> Metric {
    fractional_counter(pairs, value as f64)
}

fn fractional_counter(pairs: Labels<'_>, value: f64) -> Metric {
    let mut metric = Metric::from_label(labels(pairs));
    let mut counter = Counter::default();
    counter.set_value(value);
    metric.set_counter(counter);
    metric
}

fn gauge(pairs: Labels<'_>, value: f64) -> Metric {
    let mut metric = Metric::from_label(labels(pairs));
    let mut gauge = GaugeValue::default();
    gauge.set_value(value);
    metric.set_gauge(gauge);
    metric
}

fn family(kind: MetricType, name: impl Into<String>, help: &str, metrics: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name.into());
    family.set_help(help.to_owned());
    family.set_field_type(kind);
    family.set_metric(metrics);
    family
}

/// Every worker with its number as text.
fn each_worker(numbers: &Numbers) -> impl Iterator<Item = (String, &WorkerNumbers)> {
    numbers.workers.iter().enumerate().map(|(index, worker)| (index.to_string(), worker))
}

fn counts(numbers: &Numbers) -> Vec<MetricFamily> {
    let one = |count: &Count| {
        let metrics = each_worker(numbers).map(|(id, worker)| counter(&[("worker", &id)], worker.count(*count))).collect();
        family(MetricType::COUNTER, format!("adit_{}_total", count.label()), count.help(), metrics)
    };
    let plain = Count::ALL.iter().filter(|count| **count != Count::BusyNs);
    plain.map(one).chain([busy(numbers)]).collect()
}

/// Prometheus wants seconds.
fn busy(numbers: &Numbers) -> MetricFamily {
    let seconds = |worker: &WorkerNumbers| worker.count(Count::BusyNs) as f64 / 1e9;
    let metrics = each_worker(numbers).map(|(id, worker)| fractional_counter(&[("worker", &id)], seconds(worker))).collect();
    let help = "Seconds in which a worker did not wait in the kernel, looking for packets included.";
    family(MetricType::COUNTER, "adit_worker_busy_seconds_total", help, metrics)
}

fn gauges(numbers: &Numbers) -> Vec<MetricFamily> {
    let one = |which: &Gauge| {
        let live = each_worker(numbers).filter_map(|(id, worker)| Some((id, worker.gauge(*which)?)));
        let metric = |(id, value): (String, i64)| match which.label_of(value) {
            None => Some(gauge(&[("worker", &id)], value as f64)),
            Some((label, text)) => text.map(|text| gauge(&[(label, &text), ("worker", &id)], 1.0)),
        };
        family(MetricType::GAUGE, format!("adit_{}", which.label()), which.help(), live.filter_map(metric).collect())
    };
    Gauge::ALL.iter().map(one).collect()
}

/// What the workers have dropped, and the control plane on port 500 of UDP.
fn drops(numbers: &Numbers, port500: &SocketNumbers) -> MetricFamily {
    let all = |id: &str, of: &dyn Fn(Drop) -> u64| -> Vec<Metric> {
        Drop::ALL.iter().map(|why| counter(&[("reason", why.label()), ("worker", id)], of(*why))).collect()
    };
    let workers = each_worker(numbers).flat_map(|(id, worker)| all(&id, &|why| worker.drop(why)));
    let metrics = workers.chain(all("port500", &|why| port500.dropped(why))).collect();
    let help = "Packets dropped, by reason, of each worker and on UDP port 500; adit status says what each reason means.";
    family(MetricType::COUNTER, "adit_drops_total", help, metrics)
}

fn latencies(numbers: &Numbers) -> MetricFamily {
    let mut metrics = Vec::new();
    for (id, worker) in each_worker(numbers) {
        for path in Latency::ALL {
            let mut metric = Metric::from_label(labels(&[("path", path.label()), ("worker", &id)]));
            metric.set_histogram(latency(&worker.latencies[*path as usize]));
            metrics.push(metric);
        }
    }
    let help = "Time from the receipt of a batch until its last packet was given to the kernel.";
    family(MetricType::HISTOGRAM, "adit_latency_seconds", help, metrics)
}

/// From the log-linear buckets of the shared memory to fixed bounds. A bucket counts below a bound when all of it is.
fn latency(buckets: &[u64]) -> Histogram {
    let mut below = [0u64; LATENCY_BOUNDS_S.len()];
    let (mut count, mut sum_ns) = (0u64, 0f64);
    for (bucket, n) in buckets.iter().copied().enumerate().filter(|(_, n)| *n > 0) {
        count = count.saturating_add(n);
        sum_ns += histogram::lowest(bucket).midpoint(histogram::highest(bucket)) as f64 * n as f64;
        for (below, bound) in below.iter_mut().zip(LATENCY_BOUNDS_S) {
            if histogram::highest(bucket) as f64 <= bound * 1e9 {
                *below = below.saturating_add(n);
            }
        }
    }
    let bucket = |(bound, below): (f64, u64)| {
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(bound);
        bucket.set_cumulative_count(below);
        bucket
    };
    let mut histogram = Histogram::default();
    histogram.set_bucket(LATENCY_BOUNDS_S.into_iter().zip(below).map(bucket).collect());
    histogram.set_sample_count(count);
    histogram.set_sample_sum(sum_ns / 1e9);
    histogram
}

impl Gateway {
    /// Whether something is not as it should be.
    fn health(&self) -> [MetricFamily; 4] {
        let view = &self.view;
        let switch = |on: bool| vec![gauge(&[], f64::from(u8::from(on)))];
        let restarts = vec![counter(&[], view.restarts.load(Ordering::Relaxed))];
        let full = "1 while not all IKE SAs fit the vault for the next control plane: then its start connects the largest, or all, anew.";
        let age = vec![gauge(&[], view.as_of_s().unwrap_or(0) as f64)];
        let as_of = "How long ago what is said of IKE and paths was so; 0 where the gateway was not too busy to look.";
        let key_log = "1 while the keys of every SA are written to a file (ike.key_log_dir): never in production.";
        [
            family(MetricType::COUNTER, "adit_dataplane_restarts_total", "Restarts of the data plane after it died.", restarts),
            family(MetricType::GAUGE, "adit_report_age_seconds", as_of, age),
            family(MetricType::GAUGE, "adit_vault_full", full, switch(view.vault_full.load(Ordering::Relaxed))),
            family(MetricType::GAUGE, "adit_key_log", key_log, switch(view.desired().config.ike.key_log_dir.is_some())),
        ]
    }

    /// Which program runs which configuration.
    fn configuration(&self) -> Vec<MetricFamily> {
        let desired = self.view.desired();
        let build = vec![gauge(&[("version", env!("CARGO_PKG_VERSION"))], 1.0)];
        let source = desired.source.as_ref();
        let loaded = source.and_then(|source| source.read_at.duration_since(SystemTime::UNIX_EPOCH).ok());
        let digest = source.and_then(Source::digest).map(|digest| gauge(&[("sha256", &digest)], 1.0));
        let newer = vec![gauge(&[], f64::from(u8::from(desired.is_outdated())))];
        let of = |name: &str, help: &str, metrics| family(MetricType::GAUGE, name, help, metrics);
        vec![
            of("adit_build_info", "The control plane; the value is always 1.", build),
            of(
                "adit_config_info",
                "The configuration file that runs, by its digest; the value is always 1.",
                digest.into_iter().collect(),
            ),
            of(
                "adit_config_load_timestamp_seconds",
                "When the configuration that runs was read, in seconds since 1970 UTC.",
                loaded.map(|at| gauge(&[], at.as_secs_f64().floor())).into_iter().collect(),
            ),
            of("adit_config_outdated", "1 while the configuration file is newer than what runs: adit reload.", newer),
        ]
    }

    /// What the kernel dropped before a worker could read it. While a worker has no interface, what has its name is another one.
    fn interface(&self) -> MetricFamily {
        let name = self.view.desired().config.interface.name.clone();
        let text = std::fs::read_to_string("/proc/self/net/dev").ok().filter(|_| !self.view.interfaces().contains(&0));
        let lost = text.and_then(|text| sent_and_dropped(&text, &name));
        let metrics = lost.map(|lost| counter(&[("interface", &name)], lost)).into_iter().collect();
        let help = "Frames and packets for the tunnel that the kernel dropped because a queue of the interface was full.";
        family(MetricType::COUNTER, "adit_interface_queue_drops_total", help, metrics)
    }

    /// What is true of the gateway as a whole.
    fn gateway(&self) -> Vec<MetricFamily> {
        let (view, desired) = (&self.view, self.view.desired());
        let info = view.info();
        let up = f64::from(u8::from(info.is_some()));
        let planes = info.iter().map(|info| {
            let pairs = [
                ("cpu_features", info.cpu_features.as_str()),
                ("crypto", info.crypto.as_str()),
                ("io", info.io.as_str()),
                ("listen", &info.listen.to_string()),
                ("name", desired.config.name.as_str()),
                ("version", info.version.as_str()),
            ];
            gauge(&pairs, 1.0)
        });
        let punts: BTreeMap<&str, u64> =
            [("ike", &view.ignored_ike), ("stun", &view.ignored_stun), ("other", &view.ignored_other)]
                .map(|(kind, count)| (kind, count.load(Ordering::Relaxed)))
                .into();
        let punts = punts.iter().map(|(kind, count)| counter(&[("kind", kind)], *count));
        let icmp = [("believed", &view.believed_icmp), ("ignored", &view.ignored_icmp)]
            .map(|(verdict, count)| counter(&[("verdict", verdict)], count.load(Ordering::Relaxed)));
        let memory = info.as_ref().map(|info| gauge(&[], info.memory_bytes as f64));
        vec![
            family(MetricType::GAUGE, "adit_dataplane_up", "1 while a data plane is attached.", vec![gauge(&[], up)]),
            family(
                MetricType::GAUGE,
                "adit_dataplane_memory_bytes",
                "Memory that the data plane holds.",
                memory.into_iter().collect(),
            ),
            family(
                MetricType::GAUGE,
                "adit_info",
                "What the data plane is and runs on; the value is always 1.",
                planes.collect(),
            ),
            family(
                MetricType::COUNTER,
                "adit_port500_datagrams_total",
                "Datagrams of IKE that came to UDP port 500 and were let through.",
                vec![counter(&[], view.port500.received_so_far())],
            ),
            family(
                MetricType::COUNTER,
                "adit_punts_ignored_total",
                "Datagrams beside ESP that nothing answers.",
                punts.collect(),
            ),
            family(
                MetricType::COUNTER,
                "adit_icmp_too_big_total",
                "Messages of routers that a packet of the gateway was too big: believed where they quote an SPI that lives.",
                icmp.into(),
            ),
        ]
    }
}

/// What the kernel counts as dropped on its way out through an interface (`/proc/net/dev`, proc_pid_net(5)): behind the name eight
/// numbers of what was received, then bytes, packets, errors and drops of what was sent.
fn sent_and_dropped(text: &str, interface: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.trim_start().strip_prefix(interface)?.strip_prefix(':'))?;
    line.split_whitespace().nth(11)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{Config, Machine};
    use crate::desired::Desired;

    /// The names of families that a text speaks of; one that ends with `_` stands for all that begin so.
    fn families_in(text: &str) -> Vec<&str> {
        let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        let at = text.match_indices("adit_").filter(|(at, _)| !text[..*at].ends_with(is_name));
        at.map(|(at, _)| text[at..].split(|c| !is_name(c)).next().unwrap_or_default()).collect()
    }

    #[test]
    fn every_family_that_the_documents_name_is_there() {
        let yaml = "name: a\nlisten: 192.0.2.1:4500\ninterface: { name: adit0 }\ndataplane: { workers: 1 }\npeers: []\n";
        let config = Config::from_yaml(yaml, Path::new("/"), &Machine { cores: vec![0] }).unwrap();
        let view = Arc::new(View::new(Arc::new(Desired::new(config))));
        let all = Gateway { view, descs: Vec::new(), stamps: Mutex::default() }.collect();
        let is_there = |name: &str| {
            all.iter().any(|family| family.name() == name || (name.ends_with('_') && family.name().starts_with(name)))
        };
        let text = |file: &str| std::fs::read_to_string(format!("{}/../{file}", env!("CARGO_MANIFEST_DIR"))).unwrap();
        let (metrics, others) = (text("docs/metrics.md"), text("docs/config.md") + &text("docs/ARCHITECTURE.md"));
        // The last chapter says what there was.
        let (now, was) = metrics.split_once("## Changes").unwrap();
        for name in [families_in(now), families_in(&others)].concat() {
            assert!(is_there(name), "there is no {name}");
        }
        for row in was.lines().filter(|row| row.starts_with('|')) {
            let [before, after] = [1, 2].map(|column| families_in(row.split('|').nth(column).unwrap()));
            // Where only its labels have changed, it is in both.
            for name in before.iter().filter(|name| !after.contains(name)) {
                assert!(!is_there(name), "{name} is there still");
            }
        }
    }

    #[test]
    fn what_an_interface_dropped_is_read_by_its_name() {
        let text = "Inter-|   Receive   |  Transmit\n face |bytes packets errs drop fifo frame compressed multicast|bytes packets errs drop fifo colls carrier compressed\n    lo: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n adit0: 1 2 3 4 5 6 7 8 9 10 11 77 13 14 15 16\nadit01:21 2 3 4 5 6 7 8 9 10 11 99 13 14 15 16\n";
        let of = |name| sent_and_dropped(text, name);
        assert_eq!((of("lo"), of("adit0"), of("adit01"), of("adit")), (Some(12), Some(77), Some(99), None));
        assert_eq!(sent_and_dropped("adit0: 1 2", "adit0"), None);
    }
}
