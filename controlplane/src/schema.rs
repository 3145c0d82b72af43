//! The types of the API, version 2. A field may be added; a change of meaning, or a field that goes, makes a new version.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The answer to `GET /v1/status`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// Version of these types.
    pub version: u32,
    pub name: String,
    pub control_plane: ControlPlane,
    /// `null` while no data plane runs.
    pub data_plane: Option<DataPlane>,
    pub data_plane_restarts: u64,
    /// Where the keys of all SAs are written for a protocol analyser; `null` as it should be.
    #[serde(default)]
    pub key_log_dir: Option<String>,
    /// `null` when it was not read from a file.
    #[serde(default)]
    pub configuration: Option<Configuration>,
    /// Inner networks that another interface of this machine has, too, a sentence each: their packets do not all take the tunnel.
    #[serde(default)]
    pub overlaps: Vec<String>,
    pub interface: Interface,
    /// The gateway's own certificates, that of its key first; none where it has none.
    #[serde(default)]
    pub certificates: Vec<Certificate>,
    /// `null` where the configuration names none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relay: Option<Relay>,
    pub peers: Vec<Peer>,
    pub workers: Vec<Worker>,
    /// Reasons that occurred at least once, summed over workers and restarts.
    pub drops: Vec<Drop>,
    pub latencies: Vec<Latency>,
}

/// The relay over which peers are met that cannot be reached otherwise.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Relay {
    pub url: String,
    pub rooms: Vec<String>,
    /// The key by which the relay knows this gateway, for rooms that list keys; `null` while there is no client.
    pub key: Option<String>,
    pub registered: bool,
    /// Since when it is so.
    pub since_s: u64,
    /// As which address the relay sees this gateway.
    pub observed: Option<String>,
    pub rtt_us: Option<u64>,
    /// Where peers that are met there are told that this gateway can perhaps be reached by UDP.
    #[serde(default)]
    pub candidates: Vec<String>,
    /// How many others are seen in the rooms.
    pub peers: usize,
    /// Why there is no registration, while there is none.
    pub failure: Option<String>,
    /// Messages and trains that could not be given to the relay.
    pub unsent: u64,
    /// What came from somebody who is not seen, or was no ESP where that was said.
    pub refused: u64,
    /// What is counted beside that, by the names of [metrics.md](metrics.md#the-relay); most of it begins anew with another client.
    #[serde(default)]
    pub counters: BTreeMap<String, u64>,
}

/// What stands for our end of a path that goes over the relay.
pub const RELAY_END: &str = "relay";

/// A certificate of the gateway's own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Certificate {
    pub subject: String,
    pub issuer: String,
    /// The end of its validity, in seconds since 1970 UTC, and how long that is from now; negative when it is over.
    pub until: u64,
    pub remaining_s: i64,
}

/// How long it is from now until this time, in seconds since 1970 UTC; negative when it is over.
pub fn remaining_s(until: u64) -> i64 {
    let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    until.saturating_sub(unix) as i64 - unix.saturating_sub(until) as i64
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ControlPlane {
    pub pid: u32,
    pub version: String,
    pub uptime_s: u64,
    /// How long ago what is said of IKE and of paths was so, where that is a second or more: the gateway was too busy to look again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_of_s: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DataPlane {
    pub pid: u32,
    pub version: String,
    /// Since its start, or since this control plane attached to it when it did not start it.
    pub uptime_s: u64,
    /// Whether this control plane started it.
    pub started_here: bool,
    pub listen: String,
    /// How it talks to the kernel: `io_uring` or `poll`.
    pub io: String,
    pub crypto: String,
    pub cpu_features: String,
    pub memory_bytes: u64,
    pub protections: Protections,
}

/// What a data plane has given up before its first packet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Protections {
    pub in_force: Vec<String>,
    /// What it could not give up, each with its reason.
    pub lacking: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Interface {
    pub name: String,
    pub mac: String,
    pub mtu: u16,
    pub addresses: Vec<String>,
}

/// A peer: the same whether its keys come from IKE or from a file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Peer {
    pub name: String,
    pub endpoint: String,
    /// Where its keys come from: `ike` or `static_key`.
    pub keys: String,
    pub lanes: u16,
    /// `idle`, `connecting`, `established`, `rekeying`, `reconnecting` or `failed`. With a static key nothing is negotiated: it is
    /// `established` while the data plane has all of its SAs and an address to send to, else `idle`.
    pub state: String,
    /// Whether all that is configured works: every pair of selectors has a Child SA in use, and the way is proven and what it takes
    /// known, as far as the peer lets that be found out (docs/metrics.md).
    pub up: bool,
    /// What it lacks to be up, a sentence each; none when it is.
    #[serde(default)]
    pub lacks: Vec<String>,
    /// Since it is in this state; `null` with a static key, whose state is looked up and not kept.
    pub since_s: Option<u64>,
    /// How long ago that and what is said of its IKE and paths was so, where that is a second or more: the gateway was too busy to look
    /// again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_of_s: Option<u64>,
    /// Why it is down, or why nothing comes through though it is up; `null` while all is well.
    pub cause: Option<String>,
    pub sent: Traffic,
    pub received: Traffic,
    /// What was dropped of its packets, by reason; only what occurred. Packets whose peer is not known are among `drops` of the
    /// gateway alone.
    #[serde(default)]
    pub drops: Vec<PeerDrops>,
    /// Its Child SAs, one for each lane; those that go come last.
    pub children: Vec<ChildSa>,
    /// Configured selectors of which no Child SA carries anything, while it is connected. None with a static key, whose Child SA has
    /// all that are configured.
    pub missing: Vec<MissingSelector>,
    /// Configured selectors of which the peer carries a part: it is up, and the rest is dropped.
    #[serde(default)]
    pub narrowed: Vec<NarrowedSelector>,
    /// By which ways it is reached, and what they carry.
    pub paths: Vec<PeerPath>,
    /// How IKE does; `null` with a static key.
    pub ike: Option<Ike>,
}

impl Peer {
    /// Whether there is an IKE SA with it, or it needs none.
    pub fn is_connected(&self) -> bool {
        matches!(self.state.as_str(), "established" | "rekeying") || self.ike.is_none()
    }
}

/// One way to a peer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PeerPath {
    /// 0 to 7.
    pub id: u8,
    pub local: String,
    pub remote: String,
    /// Whether what we send goes this way, and whether IKE does.
    pub in_use: bool,
    pub ike: bool,
    /// Whether the peer has answered from there.
    pub proven: bool,
    /// Largest outer IP packet that is sent, in bytes; what an echo has proven of it, and what the route would carry.
    pub mtu: u16,
    pub mtu_proven: Option<u16>,
    pub mtu_route: u16,
    /// What is longer, and cannot be cut, goes in two packets: both ends have `oversize: split`.
    #[serde(default)]
    pub split: bool,
    /// Whether the peer answers sealed echoes, and whether none of the last ones came back.
    #[serde(default)]
    pub echo: bool,
    #[serde(default)]
    pub silent: bool,
    /// Round trip of a sealed echo.
    pub rtt_us: Option<u64>,
    /// The share of the last 64 sealed echoes that was lost, from 0 to 1, of sizes that are proven; `null` before eight were sent.
    #[serde(default)]
    pub loss: Option<f64>,
    /// How often large packets were found to vanish while small ones arrive.
    pub black_holes: u64,
    pub sent: Volume,
    /// Authentic and new.
    pub received: Volume,
}

/// The IKE connection to a peer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Ike {
    /// That of the peer.
    pub state: String,
    /// Attempts since it was last up, and when the next one is due.
    pub attempts: u32,
    pub retry_in_s: Option<u64>,
    /// The one that is in use first.
    pub sas: Vec<IkeSa>,
    /// What has been counted at least once.
    pub counters: BTreeMap<String, u64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct IkeSa {
    /// SPIs in hexadecimal.
    pub initiator_spi: String,
    pub responder_spi: String,
    /// `initiator` or `responder`.
    pub role: String,
    pub suite: String,
    /// Whether a post-quantum key exchange is in its keys.
    pub post_quantum: bool,
    /// Whether a post-quantum pre-shared key (RFC 8784) is in its keys.
    #[serde(default)]
    pub ppk: bool,
    /// Who the peer has proved to be, and how.
    pub remote_id: String,
    pub proof: String,
    pub age_s: u64,
    /// Since the peer was last heard.
    pub idle_s: u64,
    pub rekey_in_s: Option<u64>,
    /// When both ends are to authenticate anew; `null` while nothing limits the authentication.
    #[serde(default)]
    pub reauth_in_s: Option<u64>,
    /// When what the peer proved ends: its certificate or one above it, in seconds since 1970 UTC; `null` without certificates.
    #[serde(default)]
    pub peer_certificate_until: Option<u64>,
    /// How long that is from now, in seconds; negative when it is over.
    #[serde(default)]
    pub peer_certificate_remaining_s: Option<i64>,
    /// The same of our own certificate, where the peer looks at it.
    #[serde(default)]
    pub own_certificate_until: Option<u64>,
    pub local: String,
    pub remote: String,
    /// On which side there is a NAT; the peer's claim that there is one counts.
    pub nat_here: bool,
    pub nat_there: bool,
    pub mobike: bool,
    /// Whether the peer is Adit.
    pub adit: bool,
    /// Whether another one has taken its place, or it is being closed.
    pub going: bool,
    /// Those of the peer's Child SAs that name this IKE SA.
    pub children: Vec<ChildSa>,
}

impl IkeSa {
    /// Both SPIs, as `ike_sa` of a Child SA names them.
    pub fn spis(&self) -> String {
        format!("{}_i {}_r", self.initiator_spi, self.responder_spi)
    }
}

/// A configured selector of which no Child SA carries anything.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MissingSelector {
    /// Local, then remote.
    pub selector: String,
    /// Why the peer refused it; `null` while it has not.
    pub cause: Option<String>,
    /// When it is asked for again; `null` where that is the peer's business, or due.
    pub retry_in_s: Option<u64>,
}

/// A configured selector of which the peer carries a part alone (RFC 7296 §2.9).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NarrowedSelector {
    /// Local, then remote.
    pub selector: String,
    /// What is carried of it, the first eight parts.
    pub carried: Vec<String>,
    /// Why the peer refused the rest; `null` while it has not.
    pub cause: Option<String>,
    /// When the rest is asked for again; `null` where that is the peer's business, or due.
    pub retry_in_s: Option<u64>,
}

/// One lane of a Child SA: an SA in each direction.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ChildSa {
    /// What it carries: `ethernet` or `ip`.
    pub name: String,
    /// One for all lanes of a Child SA, through all its rekeys.
    pub id: u16,
    pub lane: u8,
    /// The traffic selectors that were agreed, or are configured with a static key; none where it carries Ethernet frames.
    pub local: Vec<String>,
    pub remote: Vec<String>,
    /// In the words of IKE.
    pub suite: String,
    /// Whether sequence numbers have 64 bits.
    pub esn: bool,
    /// SPIs in hexadecimal; that of the outbound one is `null` with a static key where no worker of ours has the lane.
    pub inbound_spi: String,
    pub outbound_spi: Option<String>,
    pub inbound: Sa,
    /// `null` where no worker of ours has the lane: what the peer receives on it, nobody sends.
    pub outbound: Option<Sa>,
    /// The SPIs of the IKE SA that it belongs to; `null` with a static key, which no IKE SA agreed on.
    pub ike_sa: Option<String>,
    /// Since its keys were agreed; `null` with a static key, which is as old as its file.
    pub age_s: Option<u64>,
    /// `null` where time sets no limit, as with a static key.
    pub rekey_in_s: Option<u64>,
    /// Whether it is used for sending.
    pub sending: bool,
    /// Whether another one has taken its place, or it is being closed; never with a static key.
    pub going: bool,
}

/// One direction of a lane of a Child SA.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Sa {
    pub worker: u16,
    /// Whether the data plane has it now.
    pub live: bool,
    /// The last number used, or the highest one accepted; 0 while it is not live.
    pub sequence: u64,
    /// Since it was installed.
    pub packets: u64,
    pub bytes: u64,
}

/// What has gone one way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Volume {
    pub packets: u64,
    pub bytes: u64,
}

/// The answer to `GET /v1/peers/NAME/explain`: why the last negotiation came to nothing, and what to change. With a static key
/// nothing is negotiated: then it is the state, its cause and what is to be said of the paths.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Explanation {
    pub peer: String,
    /// As in the list of peers.
    pub state: String,
    pub since_s: Option<u64>,
    pub cause: Option<String>,
    /// What went wrong last, with the connection or with a Child SA; `null` when it was put right.
    #[serde(default)]
    pub problem: Option<String>,
    /// Who began the negotiation: we as `initiator`, or the peer.
    pub role: Option<String>,
    /// What an answer said that nothing authenticates.
    pub hint: Option<String>,
    pub remedy: Option<String>,
    pub differences: Vec<Difference>,
    /// Everything that was offered.
    pub offers: Vec<Offers>,
    /// What it lacks to be up, as in the list of peers.
    #[serde(default)]
    pub lacks: Vec<String>,
    /// Inner networks that another interface of this machine has, too, as in the status; none of other peers.
    #[serde(default)]
    pub overlaps: Vec<String>,
    /// Whether packets go over the relay, and why; `null` where the configuration names none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub way: Option<String>,
    /// What is to be said of the ways to the peer.
    #[serde(default)]
    pub paths: Vec<String>,
    /// What was dropped of its packets within the last minute and may be why something does not arrive, a sentence or two each.
    #[serde(default)]
    pub drops: Vec<String>,
    /// Configured selectors of which no Child SA carries anything, while the peer is connected.
    #[serde(default)]
    pub missing: Vec<MissingSelector>,
    /// Configured selectors of which the peer carries a part.
    #[serde(default)]
    pub narrowed: Vec<NarrowedSelector>,
    /// Attempts from the peer's address that could not be told to be this peer's.
    pub unauthenticated: Vec<UnauthenticatedInitiator>,
}

/// Where both ends differ.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Difference {
    pub what: String,
    pub ours: String,
    pub theirs: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Offers {
    pub what: String,
    pub ours: Vec<String>,
    pub theirs: Vec<String>,
    pub chosen: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct UnauthenticatedInitiator {
    pub from: String,
    /// The last time, in seconds since 1970 UTC, and how often it came of late.
    pub at: u64,
    #[serde(default)]
    pub times: u64,
    pub why: String,
    pub ours: Vec<String>,
    pub theirs: Vec<String>,
}

/// The answer to `GET /v1/health`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// Whether all peers are up.
    pub ok: bool,
    pub name: String,
    pub version: String,
    /// What is missing; nothing when all is well.
    #[serde(default)]
    pub lacks: Vec<Lack>,
    /// How long ago that was so, where it is a second or more: the gateway was too busy to look again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_of_s: Option<u64>,
}

/// What a peer lacks to be up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Lack {
    /// `null` where it is the gateway as a whole.
    pub peer: Option<String>,
    pub what: String,
}

/// The answer to `GET /v1/live`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Live {
    /// Always true: this program answers.
    pub ok: bool,
}

/// The answer to a command, and to anything that cannot be answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Outcome {
    /// Whether the command was accepted; that it has been carried out shows in the status.
    pub ok: bool,
    /// What is wrong; empty when nothing is.
    pub error: String,
}

/// The answer to `POST /v1/stop`: who ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Stopping {
    /// Process id of the control plane.
    pub control_plane: u32,
    /// Process id of the data plane; `null` where none runs.
    pub data_plane: Option<u32>,
}

/// The answer to `POST /v1/reload`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Reload {
    /// Whether it was done, or only told.
    pub done: bool,
    /// What differs from what ran, one line each; what is not done now says so.
    pub changes: Vec<String>,
    /// Peers whose tunnel begins anew or ends; all others lose no packet.
    pub interrupted: Vec<String>,
    /// Whether the data plane is replaced for it: then all tunnels stand still for a moment.
    pub replaces_dataplane: bool,
    /// What could not be done at once, and is tried again.
    pub problems: Vec<String>,
}

/// The file of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Configuration {
    pub file: String,
    /// Since it was read.
    pub read_s: u64,
    /// Whether the file has been changed since then.
    pub newer: bool,
    /// What it says and is not done yet.
    pub pending: Vec<String>,
}

/// What went one way between us and a peer, over all its Child SAs, those that are gone included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Traffic {
    pub packets: u64,
    pub bytes: u64,
    pub bits_per_s: u64,
    /// Since the last packet; `null` when there was none.
    pub idle_s: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Worker {
    pub id: u16,
    /// Its own CPU, to which it is pinned while it has much to do; `null` when there is none.
    pub core: Option<u16>,
    pub io_uring: bool,
    pub sealed_per_s: u64,
    pub opened_per_s: u64,
    pub sealed_packets: u64,
    pub opened_packets: u64,
    pub dropped_packets: u64,
    pub fdb_entries: u64,
}

/// Packets of a peer that were dropped for one reason.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PeerDrops {
    /// `in`: what came by an SPI of the peer's; `out`: what was for it.
    pub direction: String,
    /// The name that these packets have among `drops` of the gateway, or `other` for names that are not told apart by peer.
    pub reason: String,
    pub packets: u64,
    /// How many of them were dropped within the last minute, which goes on in steps of ten seconds.
    pub recent: u64,
    /// How long ago the last one was, in seconds; `null` when that was before this control plane began.
    pub last_s: Option<u64>,
    /// `in`: how many packets of the peer were opened within the same minute, for comparison; `null` with `out`.
    #[serde(default)]
    pub opened: Option<u64>,
    pub meaning: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Drop {
    pub reason: String,
    pub packets: u64,
    pub meaning: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Latency {
    /// `outbound` or `inbound`.
    pub path: String,
    pub count: u64,
    pub p50_us: f64,
    pub p99_us: f64,
    pub p999_us: f64,
}
