//! What Adit is told of a strongSwan, from what a strongSwan in its place would be told.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use adit_engine::auth::{LocalAuth, LocalKey, Psk, RemoteAuth, TrustAnchors};
use adit_engine::crypto::{KeyExchangeMethod, Prf, PrivateKey, PublicKey};
use adit_engine::ike::{Backoff, ChildConfig, ChildProposal, EsnPolicy, IkeProposal, Lifetime, Mode, PeerConfig, Share};
use adit_engine::path::IKE_PORT;
use adit_proto::ike::{AddressRange, IpSelector};
use adit_proto::suite::Suite;
use anyhow::Result;

use super::config::{Connection, LocalAuth as LabLocal, RemoteAuth as LabRemote};
use super::sites::Site;

/// The peer of the lab's connection, seen from `site`. Neither end begins by itself.
pub fn config(site: Site, connection: &Connection) -> Result<PeerConfig> {
    let address = |site: Site| SocketAddr::new(IpAddr::V4(site.outer()), IKE_PORT);
    Ok(PeerConfig {
        name: connection.name.clone(),
        initiate: false,
        respond: true,
        local: Some(address(site)),
        remotes: vec![address(site.other())],
        awaits_remotes: false,
        in_streams: false,
        from: adit_engine::path::Origin::Anywhere,
        local_id: connection.local.id.parse()?,
        remote_id: connection.remote.id.parse()?,
        local_auth: local_auth(connection)?,
        remote_auth: remote_auth(connection)?,
        proposals: vec![classic()],
        children: vec![ChildConfig {
            name: "net".to_owned(),
            mode: Mode::Tunnel,
            proposals: vec![esp()],
            local: vec![network(site)],
            remote: vec![network(site.other())],
            pairs: Vec::new(),
            lifetime: Lifetime::CHILD,
            lanes: 1,
        }],
        ike_lifetime: Lifetime::IKE,
        reauth_after: Duration::ZERO,
        ppk: None,
        dpd: Duration::ZERO,
        keepalive: Duration::from_secs(20),
        force_encapsulation: false,
        mobike: false,
        backoff: Backoff::default(),
        share: Share::default(),
    })
}

/// What the lab's strongSwan proposes by default.
pub fn classic() -> IkeProposal {
    IkeProposal {
        suites: vec![Suite::Aes256Gcm],
        prfs: vec![Prf::HmacSha384],
        key_exchanges: vec![KeyExchangeMethod::X25519],
        additional: Vec::new(),
    }
}

/// The same with ML-KEM-768 in IKE_INTERMEDIATE.
pub fn hybrid() -> IkeProposal {
    IkeProposal { additional: vec![vec![Some(KeyExchangeMethod::MlKem768)]], ..classic() }
}

pub fn esp() -> ChildProposal {
    ChildProposal { suites: vec![Suite::Aes256Gcm], key_exchanges: Vec::new(), additional: Vec::new(), esn: EsnPolicy::Prefer }
}

fn network(site: Site) -> IpSelector {
    let first = Ipv4Addr::from_bits(site.inner().to_bits() & !0xff);
    IpSelector::any_of(AddressRange::V4 { first, last: Ipv4Addr::from_bits(first.to_bits() | 0xff) })
}

fn local_auth(connection: &Connection) -> Result<LocalAuth> {
    Ok(match &connection.local.auth {
        LabLocal::Psk => LocalAuth::Psk(Psk::from_bytes(&connection.secret)?),
        LabLocal::RawKey(key) => LocalAuth::Key(Arc::new(LocalKey::raw(PrivateKey::from_pkcs8(key.private_der())?))),
        LabLocal::Certificate(credential) => {
            let certificates = [&credential.certificate].into_iter().chain(&credential.chain);
            let pem: String = certificates.map(|certificate| certificate.pem()).collect();
            let key = PrivateKey::from_pkcs8(credential.key.private_der())?;
            LocalAuth::Key(Arc::new(LocalKey::certified(key, pem.as_bytes())?))
        }
    })
}

fn remote_auth(connection: &Connection) -> Result<RemoteAuth> {
    Ok(match &connection.remote.auth {
        LabRemote::Psk => RemoteAuth::Psk(Psk::from_bytes(&connection.secret)?),
        LabRemote::RawKeys(keys) => {
            RemoteAuth::PinnedKeys(keys.iter().map(|pem| PublicKey::from_pem(pem.as_bytes())).collect::<Result<_, _>>()?)
        }
        LabRemote::Authorities(roots) => {
            let pem: String = roots.iter().map(|root| root.pem()).collect();
            RemoteAuth::Ca(Arc::new(TrustAnchors::from_pem(pem.as_bytes())?))
        }
    })
}
