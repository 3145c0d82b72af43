//! The types of the API, version 1. A field may be added; a change of meaning makes a new version.

use serde::{Deserialize, Serialize};

/// The answer to `GET /v1/status`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Version of these types.
    pub version: u32,
    pub name: String,
    pub control_plane: ControlPlane,
    /// `null` while no data plane runs.
    pub data_plane: Option<DataPlane>,
    pub data_plane_restarts: u64,
    pub interface: Interface,
    pub peers: Vec<Peer>,
    pub workers: Vec<Worker>,
    /// Reasons that occurred at least once, summed over workers and restarts.
    pub drops: Vec<Drop>,
    pub latencies: Vec<Latency>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ControlPlane {
    pub pid: u32,
    pub version: String,
    pub uptime_s: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interface {
    pub name: String,
    pub mac: String,
    pub mtu: u16,
    pub addresses: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Peer {
    pub name: String,
    pub endpoint: String,
    pub suite: String,
    pub lanes: u16,
    pub sent: Traffic,
    pub received: Traffic,
    pub sas: Vec<Sa>,
}

/// What went one way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Traffic {
    pub packets: u64,
    pub bytes: u64,
    pub bits_per_s: u64,
    /// Highest sequence number of its SAs.
    pub last_sequence: u64,
    /// Since the last packet; `null` when there was none.
    pub idle_s: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sa {
    /// `in` or `out`.
    pub direction: String,
    /// In hexadecimal.
    pub spi: String,
    pub lane: u8,
    pub worker: u16,
    /// Whether the data plane has it now.
    pub live: bool,
    pub sequence: u64,
    pub packets: u64,
    pub bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Worker {
    pub id: u16,
    /// The CPU that it is pinned to; `null` when it is not.
    pub core: Option<u16>,
    pub io_uring: bool,
    pub sealed_per_s: u64,
    pub opened_per_s: u64,
    pub sealed_packets: u64,
    pub opened_packets: u64,
    pub dropped_packets: u64,
    pub fdb_entries: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Drop {
    pub reason: String,
    pub packets: u64,
    pub meaning: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// `outbound` or `inbound`.
    pub path: String,
    pub count: u64,
    pub p50_us: f64,
    pub p99_us: f64,
    pub p999_us: f64,
}
