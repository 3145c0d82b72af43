//! The control plane of Adit: process and command `adit`.
//!
//! ```text
//!   file ─▶ config ─▶ desired ─▶ reconcile ◀─ live SAs, vault
//!             │                          │ commands
//!             ▼                          ▼
//!   static_key, sequence, state ─▶ gateway ─▶ channel ─▶ data plane (dataplane: the process, its log)
//!                                     │  ▲
//!                         netlink ◀───┘  └── counters ─▶ numbers ─┐
//!                                            SAs ─▶ meter, children ─▶ view ─▶ api, metrics ─▶ status, Prometheus
//! ```
//! What is shown has the types of the API ([`schema`]) all along.

pub mod api;
pub mod archive;
pub mod children;
pub mod cli;
pub mod config;
pub mod dataplane;
pub mod desired;
pub mod explain;
pub mod gateway;
pub mod ike;
pub mod key_file;
pub mod keygen;
mod limits;
pub mod log;
pub mod meter;
pub mod metrics;
pub mod nat;
pub mod netlink;
pub mod numbers;
pub mod private;
pub mod privileges;
mod random;
pub mod reconcile;
pub mod request;
pub mod resolve;
pub mod routing_rules;
pub mod schema;
pub mod sequence;
pub mod service;
pub mod state;
pub mod static_key;
pub mod status;
pub mod stop;
pub mod survey;
pub mod system;
pub mod token;
pub mod too_big;
pub mod trouble;
pub mod up;
pub mod vault;
pub mod view;
