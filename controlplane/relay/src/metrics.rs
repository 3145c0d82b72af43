//! What the relay counts of whom it lets in and whom not, and the page of Prometheus with that and what the hall counts.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use adit_proto::rate_limit::Share;
use prometheus::TextEncoder;
use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};

use crate::login::Refusal;
use crate::quotas::TurnedAway;
use crate::server::Shared;

/// Why somebody was not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Closed before a byte was read.
    Turned(TurnedAway),
    /// Pushed out by those who came after, since there were too many strangers.
    PushedOut,
    /// Neither handshake nor login in time.
    Late,
    /// The first byte is none of TLS: plain HTTP, or something else.
    NotTls,
    /// No version of TLS, group or signature in common.
    TlsIncompatible,
    /// A handshake that was broken or broken off; also by a client that pins another key.
    TlsFailed,
    /// What was asked for does not exist, or was not HTTP.
    NotFound,
    /// A page without its token.
    PageToken,
    Login(Refusal),
}

impl Why {
    const PLAIN: [Why; 7] =
        [Why::PushedOut, Why::Late, Why::NotTls, Why::TlsIncompatible, Why::TlsFailed, Why::NotFound, Why::PageToken];

    /// All of them, each in its place.
    pub fn all() -> impl Iterator<Item = Why> {
        TurnedAway::ALL.into_iter().map(Why::Turned).chain(Why::PLAIN).chain(Refusal::ALL.into_iter().map(Why::Login))
    }

    /// The word for metrics.
    pub fn label(self) -> &'static str {
        match self {
            Why::Turned(turned) => turned.label(),
            Why::PushedOut => "pushed_out",
            Why::Late => "late",
            Why::NotTls => "not_tls",
            Why::TlsIncompatible => "tls_incompatible",
            Why::TlsFailed => "tls_failed",
            Why::NotFound => "not_found",
            Why::PageToken => "page_token",
            Why::Login(refusal) => refusal.word(),
        }
    }
}

/// How often it is told in the log who was not let in.
const TOLD_PER_S: u32 = 1;

/// The counters of the shell.
#[derive(Debug)]
pub struct Tally {
    refused: Vec<(Why, AtomicU64)>,
    accepted: AtomicU64,
    logins: AtomicU64,
    told: Mutex<Share>,
}

impl Default for Tally {
    fn default() -> Tally {
        let refused = Why::all().map(|why| (why, AtomicU64::new(0))).collect();
        Tally { refused, accepted: AtomicU64::new(0), logins: AtomicU64::new(0), told: Mutex::default() }
    }
}

impl Tally {
    pub fn accepted(&self) {
        self.accepted.fetch_add(1, Ordering::Relaxed);
    }

    pub fn accepted_so_far(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    pub fn login(&self) {
        self.logins.fetch_add(1, Ordering::Relaxed);
    }

    pub fn logins_so_far(&self) -> u64 {
        self.logins.load(Ordering::Relaxed)
    }

    pub fn refuse(&self, why: Why) {
        if let Some((_, count)) = self.refused.iter().find(|(known, _)| *known == why) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How often each was a reason.
    pub fn refused(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.refused.iter().map(|(why, count)| (why.label(), count.load(Ordering::Relaxed)))
    }

    /// Whether the log has room for one more line about somebody who was not let in: strangers can make as many as they like.
    pub fn may_tell(&self, since_start: Duration) -> bool {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).take(TOLD_PER_S, since_start.as_micros() as u64)
    }
}

/// The page of Prometheus.
///
/// # Errors
/// A family that cannot be written as text.
pub(crate) fn page(shared: &Shared) -> prometheus::Result<String> {
    let (connections, strangers) = shared.connections();
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
    ];
    let refused = shared.tally.refused().map(|(why, count)| one(Some(("why", why)), MetricType::COUNTER, count as f64)).collect();
    families.push(family("refused_total", "Connections and requests that were refused.", MetricType::COUNTER, refused));
    families.extend(counters.iter().map(|(name, help, value)| counter(&format!("{name}_total"), help, value)));
    families.sort_by(|a, b| a.name().cmp(b.name()));
    TextEncoder::new().encode_to_string(&families)
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
