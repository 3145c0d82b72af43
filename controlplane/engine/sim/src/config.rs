//! Configurations for tests.

use std::time::Duration;

use adit_engine::auth::{LocalAuth, Psk, RemoteAuth};
use adit_engine::crypto::{KeyExchangeMethod, Prf, Secret};
use adit_engine::ike::{
    Backoff, ChildConfig, ChildProposal, EndpointConfig, EsnPolicy, IkeProposal, Lifetime, Mode, PeerConfig, PeerId, Share,
};
use adit_engine::path::Origin;
use adit_proto::ike::{AddressRange, IpSelector};
use adit_proto::suite::Suite;

pub const A: usize = 0;
pub const B: usize = 1;
/// The number of the only peer of each gateway.
pub const PEER: PeerId = PeerId(7);

pub fn endpoint_config(secret: u8) -> EndpointConfig {
    EndpointConfig { crash_secrets: vec![Secret::copy_of(&[secret; 32])], ..EndpointConfig::default() }
}

pub fn classic() -> IkeProposal {
    IkeProposal {
        suites: vec![Suite::Aes256Gcm, Suite::Aes128Gcm],
        prfs: vec![Prf::HmacSha256, Prf::HmacSha512],
        key_exchanges: vec![KeyExchangeMethod::X25519, KeyExchangeMethod::EcpP256],
        additional: Vec::new(),
    }
}

pub fn hybrid() -> IkeProposal {
    IkeProposal { additional: vec![vec![Some(KeyExchangeMethod::MlKem768)]], ..classic() }
}

pub fn esp() -> ChildProposal {
    ChildProposal {
        suites: vec![Suite::Aes128Gcm, Suite::ChaCha20Poly1305],
        key_exchanges: Vec::new(),
        additional: Vec::new(),
        esn: EsnPolicy::Prefer,
    }
}

pub fn esp_pfs() -> ChildProposal {
    ChildProposal { key_exchanges: vec![KeyExchangeMethod::X25519], ..esp() }
}

pub fn esp_hybrid() -> ChildProposal {
    ChildProposal { additional: vec![vec![Some(KeyExchangeMethod::MlKem768)]], ..esp_pfs() }
}

pub fn net(text: &str) -> IpSelector {
    let (address, bits) = text.split_once('/').expect("a prefix");
    let (first, bits): (std::net::Ipv4Addr, u32) = (address.parse().expect("an address"), bits.parse().expect("a length"));
    let host = u32::MAX.checked_shr(bits).unwrap_or(0);
    let last = (first.to_bits() | host).into();
    IpSelector::any_of(AddressRange::V4 { first, last })
}

/// IP between 10.1.0.0/16 (gateway A) and 10.2.0.0/16.
pub fn tunnel(node: usize) -> ChildConfig {
    let [one, other] = [net("10.1.0.0/16"), net("10.2.0.0/16")];
    let (local, remote) = if node == A { (one, other) } else { (other, one) };
    ChildConfig {
        name: "net".into(),
        mode: Mode::Tunnel,
        proposals: vec![esp()],
        local: vec![local],
        remote: vec![remote],
        pairs: Vec::new(),
        lifetime: Lifetime::CHILD,
        lanes: 1,
    }
}

pub fn ethernet() -> ChildConfig {
    ChildConfig { name: "lan".into(), mode: Mode::Ethernet, local: Vec::new(), remote: Vec::new(), ..tunnel(A) }
}

pub fn psk(text: &str) -> (LocalAuth, RemoteAuth) {
    let psk = Psk::from_text(text).expect("a key");
    (LocalAuth::Psk(psk.clone()), RemoteAuth::Psk(psk))
}

pub const SECRET: &str = "a secret that is long enough for a test";

/// The other gateway, as `node` is configured to see it.
pub fn peer(node: usize) -> PeerConfig {
    let names = ["a.example.org", "b.example.org"];
    let addresses = ["192.0.2.1:4500", "192.0.2.2:4500"];
    let (local_auth, remote_auth) = psk(SECRET);
    PeerConfig {
        name: names[1 - node].into(),
        initiate: node == A,
        respond: true,
        local: Some(addresses[node].parse().expect("an address")),
        remotes: vec![addresses[1 - node].parse().expect("an address")],
        awaits_remotes: false,
        in_streams: false,
        from: Origin::Anywhere,
        local_id: names[node].parse().expect("an identity"),
        remote_id: names[1 - node].parse().expect("an identity"),
        local_auth,
        remote_auth,
        proposals: vec![classic()],
        children: vec![tunnel(node)],
        ike_lifetime: Lifetime::IKE,
        reauth_after: Duration::ZERO,
        ppk: None,
        dpd: Duration::from_secs(30),
        keepalive: Duration::from_secs(20),
        force_encapsulation: false,
        mobike: false,
        backoff: Backoff::default(),
        share: Share::default(),
    }
}
