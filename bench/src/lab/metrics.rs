//! The page `/metrics` of a gateway, read over HTTP inside its namespace, and the numbers in it.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};

use adit_proto::stats::{Count, Drop, Gauge};
use anyhow::{Context, Result, ensure};

use crate::netns::Netns;

/// Fetches `path` from 127.0.0.1 inside the namespace and returns the body.
pub fn fetch(netns: &Netns, port: u16, path: &str) -> Result<String> {
    let mut stream = netns.enter(|| TcpStream::connect((Ipv4Addr::LOCALHOST, port))).context("cannot connect")?;
    stream.set_read_timeout(Some(super::SOON))?;
    // Version 1.0: the end of the body is the end of the connection, and there are no chunks.
    write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).context("cannot read the answer")?;
    let (head, body) = answer.split_once("\r\n\r\n").context("the answer has no header")?;
    let status = head.split_whitespace().nth(1).unwrap_or_default();
    ensure!(status == "200", "{path} answered {status}: {body}");
    Ok(body.to_owned())
}

/// All samples of a page.
#[derive(Clone, Debug)]
pub struct Metrics(Vec<Sample>);

#[derive(Clone, Debug)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

impl Metrics {
    /// Reads the text format of Prometheus. Escapes in label values are kept as they are.
    pub fn parse(page: &str) -> Result<Metrics> {
        page.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).map(sample).collect::<Result<_>>().map(Metrics)
    }

    /// Sum of all samples with this name whose labels include `labels`. `None` when there is none.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let fits = |sample: &&Sample| {
            sample.name == name && labels.iter().all(|(key, value)| sample.labels.get(*key).is_some_and(|have| have == value))
        };
        self.0.iter().filter(fits).map(|sample| sample.value).reduce(|sum, value| sum + value)
    }

    /// A counter of the data plane, summed over its workers.
    pub fn count(&self, count: Count) -> u64 {
        self.sum(&format!("adit_{}_total", count.label()), &[]).unwrap_or(0.0) as u64
    }

    /// The same counter of one worker.
    pub fn count_of(&self, worker: u16, count: Count) -> u64 {
        self.sum(&format!("adit_{}_total", count.label()), &[("worker", &worker.to_string())]).unwrap_or(0.0) as u64
    }

    /// Packets dropped for one reason, summed over the workers.
    pub fn dropped(&self, reason: Drop) -> u64 {
        self.sum("adit_drops_total", &[("reason", reason.label())]).unwrap_or(0.0) as u64
    }

    /// A gauge of one worker, if it is there.
    pub fn gauge(&self, worker: u16, gauge: Gauge) -> Option<f64> {
        self.sum(&format!("adit_{}", gauge.label()), &[("worker", &worker.to_string())])
    }
}

fn sample(line: &str) -> Result<Sample> {
    let broken = || format!("not a sample: `{line}`");
    let (series, value) = line.rsplit_once(' ').with_context(broken)?;
    let (name, inside) = match series.split_once('{') {
        Some((name, rest)) => (name, rest.strip_suffix('}').with_context(broken)?),
        None => (series, ""),
    };
    let mut labels = BTreeMap::new();
    for pair in inside.split("\",").filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once("=\"").with_context(broken)?;
        labels.insert(key.to_owned(), value.trim_end_matches('"').to_owned());
    }
    Ok(Sample { name: name.to_owned(), labels, value: value.parse().with_context(broken)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_found_by_name_and_labels() {
        let page = "# HELP adit_drops_total Packets dropped.\n# TYPE adit_drops_total counter\n\
                    adit_drops_total{reason=\"bad_tag\",worker=\"0\"} 3\nadit_drops_total{reason=\"bad_tag\",worker=\"1\"} 4\n\
                    adit_drops_total{reason=\"replay\",worker=\"1\"} 5\nadit_up 1\n";
        let metrics = Metrics::parse(page).unwrap();
        assert_eq!(metrics.dropped(Drop::BadTag), 7);
        assert_eq!(metrics.sum("adit_drops_total", &[("worker", "1")]), Some(9.0));
        assert_eq!(metrics.sum("adit_up", &[]), Some(1.0));
        assert_eq!(metrics.sum("adit_down", &[]), None);
        assert!(Metrics::parse("adit_up one\n").is_err());
    }
}
