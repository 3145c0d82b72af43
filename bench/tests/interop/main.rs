//! The lab's IPsec peers against each other, for what Adit is tested with has to work by itself first; then Adit's IKEv2 engine
//! against them. Needs root and the peers that `deploy/interop-peers.sh` brings.

mod control;
mod daemon;
mod engine;
mod full;
mod guest;
mod leaks;
mod library;
mod pair;

use adit_bench::lab::SOON;
use adit_bench::lab::interop::sites::{CHILD, CONNECTION, Site, Sites};
use adit_bench::lab::interop::{Config, Release, StrongSwan};
use anyhow::Result;

/// Two daemons that have not spoken yet.
fn start(sites: &Sites, releases: [Release; 2], configs: &(Config, Config)) -> Result<(StrongSwan, StrongSwan)> {
    Ok((StrongSwan::start(&sites.a, releases[0], &configs.0)?, StrongSwan::start(&sites.b, releases[1], &configs.1)?))
}

/// The tunnel up, from a.
fn connect(sites: &Sites, a: &StrongSwan) -> Result<()> {
    a.initiate(CONNECTION, CHILD)?;
    Site::A.reach(|line| sites.a.run(line))
}
