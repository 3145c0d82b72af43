//! The families of certificates: when they end. A rule for a warning is `… - time() < 30 * 86400`.

use prometheus::proto::{MetricFamily, MetricType};

use super::{family, gauge};
use crate::config::Config;
use crate::ike::report::{ByIke, Report};
use crate::schema::Certificate;

/// Both families, with or without certificates.
pub fn families(own: &[Certificate], config: &Config, report: &Report) -> [MetricFamily; 2] {
    let own = own.iter().map(|one| gauge(&[("subject", one.subject.as_str())], one.until as f64)).collect();
    let of_peer = |(place, peer): (&usize, &ByIke)| {
        let until = peer.ike.sas.first()?.peer_certificate_until?;
        Some(gauge(&[("peer", config.peers.get(*place)?.name.as_str())], until as f64))
    };
    [
        family(
            MetricType::GAUGE,
            "adit_own_certificate_expiry_timestamp_seconds",
            "When a certificate of the gateway's own ends, in seconds since 1970 UTC.",
            own,
        ),
        family(
            MetricType::GAUGE,
            "adit_peer_certificate_expiry_timestamp_seconds",
            "When the certificate that a connected peer showed, or one above it, ends, in seconds since 1970 UTC.",
            report.peers.iter().filter_map(of_peer).collect(),
        ),
    ]
}
