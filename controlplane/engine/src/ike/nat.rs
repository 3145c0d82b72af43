//! NAT detection (RFC 7296 §2.23).

use std::net::{IpAddr, SocketAddr};

use adit_proto::ike::{IkeSpi, Notify, NotifyType, Payload};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY};

use crate::path::Hop;

/// What the detection found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NatStatus {
    /// The peer takes part in NAT detection.
    pub supported: bool,
    /// Our address is not what the peer sees.
    pub here: bool,
    /// The peer's address is not what it believes.
    pub there: bool,
    /// We claimed a NAT where there may be none, so the peer behaves as if there were one.
    pub claimed: bool,
}

impl NatStatus {
    /// Whether ESP has to go in UDP.
    pub fn is_between(&self) -> bool {
        self.here || self.there || self.claimed
    }

    /// With our own claim, which only a peer that takes part in the detection has heard.
    pub(super) fn claiming(self, claim: bool) -> NatStatus {
        NatStatus { claimed: claim && self.supported, ..self }
    }
}

/// `SHA-1(SPIi | SPIr | address | port)`.
fn digest(spis: (IkeSpi, IkeSpi), address: SocketAddr) -> [u8; 20] {
    let mut context = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
    context.update(&spis.0.to_bytes());
    context.update(&spis.1.to_bytes());
    match address.ip() {
        IpAddr::V4(ip) => context.update(&ip.octets()),
        IpAddr::V6(ip) => context.update(&ip.octets()),
    }
    context.update(&address.port().to_be_bytes());
    let mut out = [0; 20];
    out.copy_from_slice(context.finish().as_ref());
    out
}

/// The two notifications of a message that is sent this way. With `force` the source is a lie, so that the peer sees a NAT. In a stream,
/// where there are no addresses, there is nothing to be detected.
pub(super) fn detection(spis: (IkeSpi, IkeSpi), hop: &Hop, force: bool) -> Vec<Payload> {
    let Hop::Udp(hop) = hop else { return Vec::new() };
    let mut source = digest(spis, hop.local);
    if force {
        source.iter_mut().for_each(|byte| *byte = !*byte);
    }
    vec![
        Notify::new(NotifyType::NAT_DETECTION_SOURCE_IP).with_data(source).into(),
        Notify::new(NotifyType::NAT_DETECTION_DESTINATION_IP).with_data(digest(spis, hop.remote)).into(),
    ]
}

/// What the notifications of a message that came this way say.
pub(super) fn detect<'a>(spis: (IkeSpi, IkeSpi), hop: &Hop, notifies: impl Iterator<Item = &'a Notify> + Clone) -> NatStatus {
    let Hop::Udp(hop) = hop else { return NatStatus::default() };
    let of = |kind: NotifyType| notifies.clone().filter(move |notify| notify.kind == kind);
    let matches = |notify: &Notify, address| verify_slices_are_equal(&notify.data, &digest(spis, address)).is_ok();
    // A peer that does not know its address may send several sources; one that fits is enough.
    let source = of(NotifyType::NAT_DETECTION_SOURCE_IP).map(|notify| matches(notify, hop.remote)).reduce(|a, b| a || b);
    let destination = of(NotifyType::NAT_DETECTION_DESTINATION_IP).map(|notify| matches(notify, hop.local)).reduce(|a, b| a || b);
    NatStatus {
        supported: source.is_some() && destination.is_some(),
        here: destination == Some(false),
        there: source == Some(false),
        claimed: false,
    }
}

/// The hash of our address as the peer sees it, for comparison with later ones (RFC 4555 §3.8).
pub(super) fn seen_destination<'a>(mut notifies: impl Iterator<Item = &'a Notify>) -> Option<[u8; 20]> {
    let notify = notifies.find(|notify| notify.kind == NotifyType::NAT_DETECTION_DESTINATION_IP)?;
    notify.data.as_slice().try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPIS: (IkeSpi, IkeSpi) = (IkeSpi(1), IkeSpi(2));

    fn path(local: &str, remote: &str) -> Hop {
        Hop::new(local.parse().unwrap(), remote.parse().unwrap())
    }

    fn notifies(payloads: &[Payload]) -> Vec<Notify> {
        let notify = |payload: &Payload| if let Payload::Notify(notify) = payload { Some(notify.clone()) } else { None };
        payloads.iter().filter_map(notify).collect()
    }

    #[test]
    fn a_nat_is_found_on_the_side_where_it_is() {
        let sent = notifies(&detection(SPIS, &path("10.0.0.2:500", "192.0.2.1:500"), false));
        let status = |local, remote| detect(SPIS, &path(local, remote), sent.iter());
        let is = |here, there| NatStatus { supported: true, here, there, claimed: false };
        assert_eq!(status("192.0.2.1:500", "10.0.0.2:500"), is(false, false));
        assert_eq!(status("192.0.2.1:500", "198.51.100.7:1024"), is(false, true));
        assert_eq!(status("10.9.9.9:500", "10.0.0.2:500"), is(true, false));
        assert_eq!(detect(SPIS, &path("192.0.2.1:500", "10.0.0.2:500"), [].iter()), NatStatus::default());
    }

    #[test]
    fn one_fitting_source_of_several_is_enough() {
        let mut sent = notifies(&detection(SPIS, &path("10.0.0.3:500", "192.0.2.1:500"), false));
        sent.extend(notifies(&detection(SPIS, &path("10.0.0.2:500", "192.0.2.1:500"), false)));
        assert!(!detect(SPIS, &path("192.0.2.1:500", "10.0.0.2:500"), sent.iter()).there);
    }

    #[test]
    fn forcing_claims_a_nat_at_the_sender() {
        let sent = notifies(&detection(SPIS, &path("10.0.0.2:500", "192.0.2.1:500"), true));
        assert!(detect(SPIS, &path("192.0.2.1:500", "10.0.0.2:500"), sent.iter()).there);
    }
}
