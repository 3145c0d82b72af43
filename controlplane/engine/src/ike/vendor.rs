//! What only Adit gateways say to each other. Everyone else ignores it (RFC 7296 §3.12, §3.10.1).

use adit_proto::ike::NotifyType;

/// Vendor ID of a gateway that understands the two below, and that takes the lane of a Child SA from SA_RESOURCE_INFO.
pub(super) const ADIT: &[u8] = b"Adit gateway 1";

/// Makes a request to begin an IKE SA as long as its answer, which asks for certificates and says more: a responder whose answer would be
/// longer than what a stranger sent asks for a cookie first, and that costs a round trip.
pub(super) const ROOM: &[u8] = b"Adit: room for the answer, which is no longer than its question";

/// Status: this Child SA carries Ethernet frames in EtherIP. In the request an offer, in the answer a promise.
pub(super) const ETHERNET: NotifyType = NotifyType::ADIT_ETHERNET;

/// Status, in IKE_AUTH: with how many Child SAs of the same kind the sender can do something; one byte.
pub(super) const LANES: NotifyType = NotifyType(44312);

/// Status, in IKE_AUTH: the sender's data plane answers sealed echoes (ESP dummy packets with a request in them).
pub(super) const ECHO: NotifyType = NotifyType(44313);

/// Status, in IKE_AUTH: what is too long for the path may come to the sender in two sealed packets, and it sends so itself
/// (`oversize: split`).
pub(super) const SPLIT: NotifyType = NotifyType(44314);

/// Status, in IKE_AUTH and INFORMATIONAL: where the sender can perhaps be reached by UDP, see [`super::candidates`].
pub(super) const CANDIDATES: NotifyType = NotifyType(44315);

/// Status, in IKE_AUTH in a stream: the key by which the relay knows the sender, see [`super::stream_keys`].
pub(super) const STREAM_KEY: NotifyType = NotifyType(44316);
