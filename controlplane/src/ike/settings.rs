//! From the configuration to what the engine wants to know.

use std::net::SocketAddr;
use std::time::Duration;

use adit_engine::auth::{LocalAuth, RemoteAuth};
use adit_engine::crypto::Secret;
use adit_engine::ike::{Backoff, ChildConfig, EndpointConfig, Lifetime, Limits, Mode, PeerConfig, Ppk, Retransmission, Share};

use adit_proto::control::{self, Selector};
use adit_proto::ike::{AddressRange, IpSelector, PortRange};
use adit_proto::limits;

use crate::config::ike_section::{PeerIke, Proof, Role};
use crate::config::{Config, Oversize, Peer};
use crate::dataplane::Tables;
use crate::resolve::{self, Known};

/// A hard limit is this many percent of the soft one, which comes earlier by chance by up to so many percent.
const HARD_PERCENT: u32 = 120;
const JITTER_PERCENT: u32 = 10;

/// What concerns the gateway as a whole.
pub fn endpoint(config: &Config, crash_secret: Secret) -> EndpointConfig {
    EndpointConfig {
        limits: Limits { workers: config.dataplane.workers, ..Limits::default() },
        key_log: config.ike.key_log_dir.is_some(),
        // Gives a peer up after about 12 s: with a tunnel, nobody waits longer.
        retransmission: Retransmission { tries: 5, max: Duration::from_secs(4), ..Retransmission::default() },
        nat_port: config.listen.port(),
        crash_secrets: vec![crash_secret],
        echo: true,
        split: config.oversize == Oversize::Split,
        ..EndpointConfig::default()
    }
}

/// The tables of the data plane, and how many places of a worker's SAs all peers need ([`Config::sas_needed`]).
#[derive(Clone, Copy)]
pub struct Pool {
    pub tables: Tables,
    pub needed: u32,
}

impl Pool {
    pub fn of(config: &Config, tables: Tables) -> Pool {
        Pool { tables, needed: config.sas_needed() }
    }
}

/// What a peer may have of the tables of the data plane: a part of all places that is as large as what it needs is of what all need, so
/// that no peer takes those of another one.
pub fn share(config: &Config, peer: &Peer, pool: Pool) -> Share {
    let places = u64::from(pool.tables.sa_slots) * u64::from(config.sas_of(peer)) / u64::from(pool.needed.max(1));
    Share { sas: usize::try_from(places).unwrap_or(usize::MAX), selectors: limits::selectors_of_peer(pool.tables.peers) }
}

/// What concerns a peer; `None` for one with a static key, or when a key is missing that the check of the file asks for.
pub fn peer(config: &Config, peer: &Peer, known: &Known, pool: Pool) -> Option<PeerConfig> {
    let ike = peer.ike()?;
    let (local_auth, remote_auth) = proofs(config, ike)?;
    let lifetime = |after: u32, bytes, packets| Lifetime {
        rekey_after: Duration::from_secs(after.into()),
        rekey_bytes: bytes,
        rekey_packets: packets,
        hard_percent: HARD_PERCENT,
        jitter_percent: JITTER_PERCENT,
    };
    let child = ChildConfig {
        name: config.mode.name().to_owned(),
        mode: match config.mode {
            control::Mode::Ethernet => Mode::Ethernet,
            control::Mode::Ip => Mode::Tunnel,
        },
        proposals: ike.esp_proposals.iter().map(|(_, proposal)| proposal.clone()).collect(),
        local: side(peer, |selector| (selector.local, selector.local_ports)),
        remote: side(peer, |selector| (selector.remote, selector.remote_ports)),
        pairs: peer.selectors.clone(),
        lifetime: lifetime(ike.rekey_s, ike.rekey_bytes, ike.rekey_packets),
        lanes: peer.lanes.min(config.dataplane.workers).try_into().unwrap_or(u8::MAX),
    };
    Some(PeerConfig {
        name: peer.name.clone(),
        initiate: ike.role != Role::Responder,
        respond: ike.role != Role::Initiator,
        local: Some(config.listen).filter(|listen| !listen.ip().is_unspecified()),
        remotes: known.addresses(config.listen, peer),
        awaits_remotes: resolve::awaits(peer),
        in_streams: config.relay.is_some(),
        from: peer.from.clone(),
        local_id: config.ike.id.clone(),
        remote_id: ike.id.clone(),
        local_auth,
        remote_auth,
        proposals: ike.proposals.iter().map(|(_, proposal)| proposal.clone()).collect(),
        children: vec![child],
        ike_lifetime: lifetime(ike.ike_rekey_s, 0, 0),
        reauth_after: Duration::from_secs(ike.reauth_s.into()),
        ppk: ike.ppk.as_ref().map(|ppk| Ppk {
            id: ppk.id.clone().into_bytes(),
            key: ppk.key.value.clone(),
            mandatory: ppk.required,
        }),
        dpd: Duration::from_secs(ike.dpd_s.into()),
        keepalive: Duration::from_secs(ike.keepalive_s.into()),
        // The data plane has ESP in UDP only.
        force_encapsulation: true,
        mobike: ike.mobike,
        backoff: Backoff { first: Duration::from_secs(1), max: Duration::from_secs(30) },
        share: share(config, peer, pool),
    })
}

/// One side of the traffic with a peer, each range once.
fn side(peer: &Peer, of: impl Fn(&Selector) -> (AddressRange, PortRange)) -> Vec<IpSelector> {
    let mut side = Vec::new();
    for selector in &peer.selectors {
        let (addresses, ports) = of(selector);
        let one = IpSelector { protocol: selector.protocol, ports, addresses };
        if !side.contains(&one) {
            side.push(one);
        }
    }
    side
}

fn proofs(config: &Config, ike: &PeerIke) -> Option<(LocalAuth, RemoteAuth)> {
    let own = || config.ike.key.as_ref().map(|own| LocalAuth::Key(own.key.value.clone()));
    Some(match &ike.proof {
        Proof::Psk(psk) => (LocalAuth::Psk(psk.value.clone()), RemoteAuth::Psk(psk.value.clone())),
        Proof::PublicKey(key) => (own()?, RemoteAuth::PinnedKeys(vec![key.value.clone()])),
        Proof::Ca(anchors) => (own()?, RemoteAuth::Ca(anchors.value.clone())),
    })
}

/// Our end of a path to `remote`, as far as the configuration says: the kernel chooses the address where it does not.
pub fn listen_at(listen: SocketAddr, remote: SocketAddr) -> SocketAddr {
    let any = if remote.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    if listen.ip().is_unspecified() { SocketAddr::new(any, listen.port()) } else { listen }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::config::Machine;

    fn gateway(peers: usize, more: &str) -> Config {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("psk"), "a preshared key that is long enough").unwrap();
        std::fs::set_permissions(dir.path().join("psk"), std::fs::Permissions::from_mode(0o600)).unwrap();
        let mut yaml =
            "name: a\nlisten: 192.0.2.1:4500\ninterface: { name: adit0 }\ndataplane: { workers: 4 }\npeers:\n".to_owned();
        for n in 0..peers {
            let (high, low) = (n / 250, n % 250 + 2);
            let _ =
                writeln!(yaml, "  - {{ name: p{n}, endpoint: \"198.18.{high}.{low}:4500\", ike: {{ psk_file: psk }}, {more} }}");
        }
        Config::from_yaml(&yaml, dir.path(), &Machine { cores: vec![0, 1, 2, 3] })
            .map_err(|problems| problems[0].what.clone())
            .unwrap()
    }

    #[test]
    fn no_peer_takes_the_places_of_another_and_each_has_enough_to_rekey() {
        for (peers, lanes) in [(1, 4), (200, 4), (1000, 1), (1000, 8), (100, 64), (10_000, 1)] {
            let config = gateway(peers, &format!("lanes: {lanes}"));
            let share = share(&config, &config.peers[0], Pool::of(&config, Tables::of(&[], &config))).sas;
            assert!(share * peers <= config.sa_slots() as usize, "{peers} peers with {lanes} lanes: {share}");
            // On its worker each lane is there twice during a rekey, and once to send by; and one more is authenticated anew.
            let lanes_here = usize::from(config.peers[0].lanes.min(config.dataplane.workers)).div_ceil(4);
            assert!(share >= 5 * lanes_here, "{peers} peers with {lanes} lanes: {share}");
        }
    }
}
