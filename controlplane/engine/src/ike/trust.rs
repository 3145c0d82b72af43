//! What the trust in a peer rests on, as one value.
//!
//! An IKE SA is authenticated once, and then goes on through rekeys and restarts. So it carries what it was authenticated
//! under: where the configuration says something else by now, it ends. With what *we* prove ourselves is apart: where that is
//! another key or certificate by now, the peer is still who it was, and a new authentication is made beside the old one.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{Context, SHA256};

use crate::auth::LocalAuth;
use crate::identity::Pattern;

use super::config::PeerConfig;

type Digest = [u8; 32];

/// Whom we believe what for, without keys: SHA-256 over names and credentials, which cannot be turned back.
#[derive(Clone, Copy, Debug)]
pub(super) struct Trust {
    /// Of the peer's name.
    pub name: Digest,
    /// Of name, identities, the peer's credentials and what both share.
    pub all: Digest,
}

/// What a changed configuration comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Somebody has written another one.
    Configured,
    /// The files that it names were renewed.
    Renewed,
}

impl Change {
    /// Whether an IKE SA that was authenticated under `before` goes on until it is authenticated under `now`.
    pub(super) fn keeps(self, before: &Trust, now: &Trust) -> bool {
        self == Change::Renewed && before.is_same_peer(now)
    }
}

/// With which key and certificates we prove ourselves, where that is our business alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OwnProof(pub Digest);

impl OwnProof {
    pub(super) fn of(config: &PeerConfig) -> OwnProof {
        let fields = Fields::new(b"Adit: our own proof, 1");
        OwnProof(match &config.local_auth {
            // Both ends have it: it is part of the trust.
            LocalAuth::Psk(_) => fields.finish(),
            LocalAuth::Key(_) => fields.list(&config.local_auth.material()).finish(),
        })
    }
}

/// A hash over fields that cannot run into each other: each has its length in front.
struct Fields(Context);

impl Fields {
    fn new(domain: &[u8]) -> Fields {
        Fields(Context::new(&SHA256)).with(domain)
    }

    fn with(mut self, field: &[u8]) -> Fields {
        self.0.update(&(field.len() as u64).to_be_bytes());
        self.0.update(field);
        self
    }

    fn list<'a>(self, items: &[impl AsRef<[u8]> + 'a]) -> Fields {
        let counted = self.with(&(items.len() as u64).to_be_bytes());
        items.iter().fold(counted, |fields, item| fields.with(item.as_ref()))
    }

    fn finish(self) -> Digest {
        let mut out = Digest::default();
        out.copy_from_slice(self.0.finish().as_ref());
        out
    }
}

impl Trust {
    pub(super) fn of(config: &PeerConfig) -> Trust {
        let name = config.name.as_bytes();
        let local_id = config.local_id.to_payload();
        let ppk = config.ppk.as_ref().map_or_else(Vec::new, |ppk| {
            let duty: &[u8] = if ppk.mandatory { b"mandatory" } else { b"optional" };
            vec![ppk.id.as_slice(), ppk.key.expose(), duty]
        });
        let shared = match &config.local_auth {
            LocalAuth::Psk(_) => config.local_auth.material(),
            LocalAuth::Key(_) => vec![b"key".as_slice()],
        };
        let all = Fields::new(b"Adit: trust in a peer, 2")
            .with(name)
            .list(&[[local_id.id_type.0].as_slice(), &local_id.data])
            .list(&pattern(&config.remote_id))
            .list(&shared)
            .list(&config.remote_auth.material())
            .list(&ppk);
        Trust { name: Fields::new(b"Adit: name of a peer, 1").with(name).finish(), all: all.finish() }
    }

    /// Whether it is the same peer, whatever it has to prove itself with.
    pub(super) fn is_same_peer(&self, other: &Trust) -> bool {
        verify_slices_are_equal(&self.name, &other.name).is_ok()
    }
}

impl PartialEq for Trust {
    fn eq(&self, other: &Trust) -> bool {
        self.is_same_peer(other) && verify_slices_are_equal(&self.all, &other.all).is_ok()
    }
}

impl Eq for Trust {}

fn pattern(pattern: &Pattern) -> [Vec<u8>; 3] {
    let of = |kind: &[u8], id_type: u8, data: &[u8]| [kind.to_vec(), vec![id_type], data.to_vec()];
    match pattern {
        Pattern::Any => of(b"any", 0, &[]),
        Pattern::One(identity) => {
            let payload = identity.to_payload();
            of(b"one", payload.id_type.0, &payload.data)
        }
        Pattern::Below(suffix) => of(b"below", 0, suffix.as_bytes()),
        Pattern::At(domain) => of(b"at", 0, domain.as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{Psk, RemoteAuth};
    use crate::crypto::Secret;
    use crate::ike::config::Ppk;
    use crate::ike::testing::peer_config as config;

    type Change = Box<dyn Fn(&mut PeerConfig)>;

    #[test]
    fn every_part_of_the_trust_counts_and_nothing_else() {
        let psk = Psk::from_text("another secret").unwrap();
        let ppk = |id: &[u8], key: &[u8]| Some(Ppk { id: id.to_vec(), key: Secret::copy_of(key), mandatory: false });
        let changes: [Change; 10] = [
            Box::new(|config| config.name = "site-c".into()),
            Box::new(|config| config.local_id = "c.example.org".parse().unwrap()),
            Box::new(|config| config.remote_id = "c.example.org".parse().unwrap()),
            Box::new(|config| config.remote_id = "*.example.org".parse().unwrap()),
            Box::new(|config| config.remote_id = "*".parse().unwrap()),
            Box::new({
                let psk = psk.clone();
                move |config| config.local_auth = LocalAuth::Psk(psk.clone())
            }),
            Box::new(move |config| config.remote_auth = RemoteAuth::Psk(psk.clone())),
            Box::new(|config| config.remote_auth = RemoteAuth::PinnedKeys(Vec::new())),
            Box::new(move |config| config.ppk = ppk(b"ab", b"c")),
            Box::new(move |config| config.ppk = ppk(b"a", b"bc")),
        ];
        let mut seen = vec![Trust::of(&config())];
        for change in changes {
            let mut changed = config();
            change(&mut changed);
            let trust = Trust::of(&changed);
            assert!(!seen.contains(&trust), "{changed:?}");
            assert_eq!(trust.is_same_peer(&seen[0]), changed.name == "site-a");
            seen.push(trust);
        }
        let mut same = config();
        (same.mobike, same.remotes, same.initiate) = (true, vec!["192.0.2.1:500".parse().unwrap()], false);
        assert_eq!(Trust::of(&same), seen[0]);
    }
}
