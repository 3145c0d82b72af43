//! What unit tests of this module share.

use std::time::Duration;

use crate::auth::{LocalAuth, Psk, RemoteAuth};

pub(super) use crate::testing::instant;

use super::config::{Backoff, Lifetime, PeerConfig, Share};
use crate::path::Origin;

/// A peer with a preshared key, and nothing to negotiate.
pub(super) fn peer_config() -> PeerConfig {
    let psk = Psk::from_text("one secret").unwrap();
    PeerConfig {
        name: "site-a".into(),
        initiate: true,
        respond: true,
        local: None,
        remotes: Vec::new(),
        awaits_remotes: false,
        in_streams: false,
        from: Origin::Anywhere,
        local_id: "b.example.org".parse().unwrap(),
        remote_id: "a.example.org".parse().unwrap(),
        local_auth: LocalAuth::Psk(psk.clone()),
        remote_auth: RemoteAuth::Psk(psk),
        proposals: Vec::new(),
        children: Vec::new(),
        ike_lifetime: Lifetime::IKE,
        reauth_after: Duration::ZERO,
        ppk: None,
        dpd: Duration::ZERO,
        keepalive: Duration::ZERO,
        force_encapsulation: false,
        mobike: false,
        backoff: Backoff::default(),
        share: Share::default(),
    }
}
