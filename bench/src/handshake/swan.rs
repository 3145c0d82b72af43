//! strongSwan at both ends, told to do nothing else and to do it as fast as it can.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::cpu;
use super::{Case, Timing, WARM_UP};
use crate::lab::interop::config::{Daemon, Unique};
use crate::lab::interop::sites::{CHILD, CONNECTION, Sites, pair};
use crate::lab::interop::{Config, Release, StrongSwan};

/// SAs that there are at most, so that its tables stay short.
const BATCH: u16 = 25;
/// OpenSSL first: it has assembler for everything that is measured, and the plugins of strongSwan's own do not.
const PLUGINS: &str = "openssl random nonce drbg kdf pem pkcs1 pkcs8 x509 pubkey constraints socket-default vici";
/// Every command makes an IKE SA of its own; tables for many; no routes and no limits that would be in the way.
const SETTINGS: [&str; 7] = [
    "reuse_ikesa = no",
    "ikesa_table_size = 256",
    "ikesa_table_segments = 4",
    "install_routes = no",
    "half_open_timeout = 30",
    "dos_protection = no",
    "delete_rekeyed = yes",
];

/// Measures `count` handshakes, one after the other. Each is a command over the control socket.
pub fn measure(release: Release, case: Case, count: u16, done: &mut dyn FnMut()) -> Result<Timing> {
    let sites = Sites::new()?;
    let (mut a, mut b) = pair(case.proof())?;
    for config in [&mut a, &mut b] {
        prepare(config, case);
    }
    let (initiator, responder) = (StrongSwan::start(&sites.a, release, &a)?, StrongSwan::start(&sites.b, release, &b)?);
    let pid = |swan: &StrongSwan| swan.pid().context("strongSwan's process id");
    let pids = [pid(&initiator)?, pid(&responder)?];
    for (pid, core) in pids.into_iter().zip(cpu::cores()?) {
        cpu::pin_process(pid, core)?;
    }
    (0..WARM_UP).try_for_each(|_| initiator.initiate(CONNECTION, CHILD))?;
    clear(&initiator, &responder)?;
    let mut timing = Timing::default();
    let mut left = count;
    while left > 0 {
        let batch = left.min(BATCH);
        left -= batch;
        let before = [cpu::process_time(pids[0])?, cpu::process_time(pids[1])?];
        for _ in 0..batch {
            let begin = Instant::now();
            initiator.initiate(CONNECTION, CHILD)?;
            timing.latencies.push(begin.elapsed());
            done();
        }
        responder.wait_for("every IKE SA at the responder", Duration::from_secs(10), |sas| {
            (sas.iter().filter(|sa| sa.is_established()).count() >= usize::from(batch)).then_some(())
        })?;
        timing.initiator += cpu::process_time(pids[0])?.saturating_sub(before[0]);
        timing.responder += cpu::process_time(pids[1])?.saturating_sub(before[1]);
        clear(&initiator, &responder)?;
    }
    Ok(timing)
}

fn prepare(config: &mut Config, case: Case) {
    let additional = if case.hybrid { "-ke1_mlkem768" } else { "" };
    for connection in &mut config.connections {
        connection.proposals = vec![format!("aes256gcm16-prfsha384-x25519{additional}")];
        connection.mobike = false;
        connection.unique = Unique::Never;
    }
    let extra = SETTINGS.map(str::to_owned).to_vec();
    config.daemon = Daemon { log_level: 0, plugins: Some(PLUGINS), extra, ..Daemon::default() };
}

fn clear(initiator: &StrongSwan, responder: &StrongSwan) -> Result<()> {
    initiator.terminate(CONNECTION)?;
    initiator.wait_until_idle(Duration::from_secs(30))?;
    responder.wait_until_idle(Duration::from_secs(30))
}
