//! What unit tests of this module share.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::auth::{LocalAuth, Psk, RemoteAuth};

use super::config::{Backoff, Lifetime, PeerConfig};

/// Some instant, the same in every call.
#[expect(clippy::disallowed_methods, reason = "a test needs one instant to count from, and there is no other way to get one")]
pub(super) fn instant() -> Instant {
    static START: OnceLock<Instant> = OnceLock::new();
    *START.get_or_init(Instant::now)
}

/// A peer with a preshared key, and nothing to negotiate.
pub(super) fn peer_config() -> PeerConfig {
    let psk = Psk::from_text("one secret").unwrap();
    PeerConfig {
        name: "site-a".into(),
        initiate: true,
        respond: true,
        local: None,
        remote: None,
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
    }
}
