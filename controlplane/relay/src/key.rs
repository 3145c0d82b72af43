//! The key of a client: Ed25519, of its own and independent of IKE, made once and kept in a state directory for its owner alone.

use std::fmt;
use std::path::Path;

use adit_proto::relay::PeerKey;
use aws_lc_rs::hkdf::{HKDF_SHA256, Prk, Salt};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair, Signature};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::Zeroizing;

use crate::secret_file::{self, FileError, Readers};

/// The name of its file in the state directory: one line, the seed as base64url.
const FILE: &str = "relay-client.key";

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    // Not its source: who prints the causes as well would say the same twice.
    #[error("{0}; {remedy}", remedy = .0.remedy())]
    File(FileError),
    #[error("there is no key {0}; a gateway makes it when it first goes to a relay: name its state directory")]
    None(String),
    #[error(
        "the file {0} holds no key of a relay's client (43 letters, digits, `-` and `_`); restore it, or move it away and a new \
         key is made, which the rooms of the relay must then list: mv {0} {0}.old"
    )]
    NoKey(String),
    #[error("the random number generator failed")]
    NoRandomness,
}

impl From<FileError> for KeyError {
    fn from(error: FileError) -> KeyError {
        KeyError::File(error)
    }
}

/// A key pair.
pub struct ClientKey {
    pair: Ed25519KeyPair,
    public: PeerKey,
    secrets: Prk,
}

impl ClientKey {
    /// A new one that is kept nowhere.
    ///
    /// # Errors
    /// No randomness.
    pub fn generate() -> Result<ClientKey, KeyError> {
        let seed = new_seed()?;
        ClientKey::of(&seed[..]).ok_or(KeyError::NoRandomness)
    }

    /// The one of a state directory, which exists; it is made where there is none.
    ///
    /// # Errors
    /// See [`KeyError`].
    pub fn load_or_create(state_dir: &Path) -> Result<ClientKey, KeyError> {
        match ClientKey::load(state_dir) {
            Err(KeyError::None(_)) => {
                let seed = new_seed()?;
                let mut text = Zeroizing::new(URL_SAFE_NO_PAD.encode(&seed[..]));
                text.push('\n');
                secret_file::create(&state_dir.join(FILE), text.as_bytes(), Readers::OwnerOnly)?;
                ClientKey::of(&seed[..]).ok_or(KeyError::NoRandomness)
            }
            loaded => loaded,
        }
    }

    /// The one of a state directory.
    ///
    /// # Errors
    /// See [`KeyError`].
    pub fn load(state_dir: &Path) -> Result<ClientKey, KeyError> {
        let path = state_dir.join(FILE);
        let text = secret_file::read(&path, Readers::OwnerOnly).map_err(|error| match error {
            FileError::Missing(file) => KeyError::None(file),
            error => error.into(),
        })?;
        let no_key = || KeyError::NoKey(path.display().to_string());
        let seed = Zeroizing::new(URL_SAFE_NO_PAD.decode(text.trim_ascii()).map_err(|_| no_key())?);
        ClientKey::of(&seed).ok_or_else(no_key)
    }

    fn of(seed: &[u8]) -> Option<ClientKey> {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).ok()?;
        let public = PeerKey(pair.public_key().as_ref().try_into().ok()?);
        let secrets = Salt::new(HKDF_SHA256, b"adit relay client v1").extract(seed);
        Some(ClientKey { pair, public, secrets })
    }

    /// The half by which others know it.
    pub fn public(&self) -> PeerKey {
        self.public
    }

    /// A secret of whoever has this key, for one purpose: the same in every process.
    pub fn derived(&self, purpose: &[u8]) -> Zeroizing<[u8; 32]> {
        let mut secret = Zeroizing::new([0; 32]);
        let made = self.secrets.expand(&[purpose], HKDF_SHA256).and_then(|okm| okm.fill(secret.as_mut()));
        assert!(made.is_ok(), "HKDF-SHA256 gives as much as one of its hashes");
        secret
    }

    pub(crate) fn sign(&self, message: &[u8]) -> Signature {
        self.pair.sign(message)
    }
}

impl fmt::Debug for ClientKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClientKey({})", self.public)
    }
}

fn new_seed() -> Result<Zeroizing<[u8; 32]>, KeyError> {
    let mut seed = Zeroizing::new([0; 32]);
    aws_lc_rs::rand::fill(seed.as_mut()).map_err(|_| KeyError::NoRandomness)?;
    Ok(seed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_and_stays() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(ClientKey::load(dir.path()), Err(KeyError::None(_))), "who only looks makes none");
        let made = ClientKey::load_or_create(dir.path()).unwrap();
        let again = ClientKey::load_or_create(dir.path()).unwrap();
        assert_eq!(made.public(), again.public());
        assert_eq!(made.derived(b"one"), again.derived(b"one"));
        assert_ne!(made.derived(b"one"), made.derived(b"other"));
        assert_ne!(made.derived(b"one"), ClientKey::generate().unwrap().derived(b"one"));
        assert_ne!(made.public(), ClientKey::generate().unwrap().public());
    }

    #[test]
    fn a_file_that_holds_no_key_is_kept_and_the_remedy_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        secret_file::create(&path, b"AAAA\n", Readers::OwnerOnly).unwrap();
        let error = ClientKey::load_or_create(dir.path()).unwrap_err().to_string();
        assert!(error.contains(&format!("mv {0} {0}.old", path.display())), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), b"AAAA\n");
    }
}
