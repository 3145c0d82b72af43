//! The lab: namespaces, load generator, probes, peers and reports. The end-to-end tests use it as a library, `adit-bench` as a command.

pub mod crypto;
pub mod handshake;
pub mod io;
pub mod lab;
pub mod load;
pub mod netns;
pub mod peers;
pub mod process;
pub mod report;
pub mod rtt;
pub mod scale;
pub mod starvation;
pub mod tunnel;
pub mod work;
pub mod workdir;
