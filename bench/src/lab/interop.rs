//! Real IPsec peers: strongSwan of two releases, with ESP of its own or of a Linux kernel, and what they need to be told.
//!
//! ```text
//!  releases   unpacked root directories (deploy/interop-peers.sh) ─▶ a command that runs in one of them, in a namespace
//!  config     typed connections, secrets, keys ─▶ swanctl.conf, strongswan.conf          pki   keys, authorities, certificates
//!  strongswan the daemon: start, control through vici ─▶ status (typed SAs), log, restart, kill; gone on drop
//!  sites      two hosts on a cable, and configurations for both that fit
//!  nat        the same hosts with a NAT between them
//!  engine     what Adit's IKEv2 engine is told, to be a peer of such a host
//!  guest      Linux as a program (User Mode Linux) with a cable into a namespace: a kernel's ESP, ESN, transport mode, protocol 50
//!  table      many cases run, and the page that says what came of them
//! ```
//!
//! Nothing of it is mocked and nothing outlives the value that stands for it, also when the test is killed.

pub mod config;
pub mod engine;
pub mod guest;
pub mod nat;
pub mod pki;
pub mod releases;
pub mod sites;
pub mod status;
pub mod strongswan;
pub mod table;
mod vici;

pub use config::{Child, Config, Connection};
pub use guest::Guest;
pub use releases::Release;
pub use status::{ChildSa, IkeSa};
pub use strongswan::StrongSwan;
