//! `adit keygen`: new keys, each in a file that only its owner can read. What exists is never overwritten.

use std::io;
use std::path::{Path, PathBuf};

use adit_proto::suite::Suite;
use anyhow::{Context, anyhow, bail};
use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use clap::ValueEnum;
use zeroize::Zeroizing;

use crate::key_file::{self, Readers};
use crate::static_key::Secret;

/// Length of a preshared key, in bytes: enough for a post-quantum one, too (RFC 8784 §2).
const PSK_LEN: usize = 32;
/// Characters in a line of PEM (RFC 7468 §2).
const PEM_LINE: usize = 64;

/// What kind of key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// A preshared key for IKE (`psk_file`, or `ppk_file`): the same file at both ends
    Psk,
    /// A key pair for IKE: the private half stays here (`key_file`), the public one goes to the peers (`public_key_file`)
    Ed25519,
    /// A static key for a pair of gateways, for labs and benches only (`static_key_file`): the same file at both ends
    Static,
}

/// A new key: what is secret, and for a pair what is not.
struct Key {
    private: Zeroizing<String>,
    public: Option<String>,
}

fn make(kind: Kind, suite: Suite) -> anyhow::Result<Key> {
    let private_only = |private| Key { private, public: None };
    Ok(match kind {
        Kind::Static => private_only(Secret::generate(suite)?.to_file_text()),
        Kind::Psk => loop {
            let mut bytes = Zeroizing::new([0; PSK_LEN]);
            aws_lc_rs::rand::fill(bytes.as_mut()).map_err(|_| anyhow!("the random number generator failed"))?;
            if let Some(text) = psk_text(&bytes) {
                break private_only(text);
            }
        },
        Kind::Ed25519 => {
            let pair = Ed25519KeyPair::generate().map_err(|_| anyhow!("the random number generator failed"))?;
            // Version 1 of PKCS #8, which everything reads.
            let private = pair.to_pkcs8v1().map_err(|_| anyhow!("the key cannot be encoded"))?;
            let public: PublicKeyX509Der<'_> = pair.public_key().as_der().map_err(|_| anyhow!("the key cannot be encoded"))?;
            Key { private: pem("PRIVATE KEY", private.as_ref()), public: Some(pem("PUBLIC KEY", public.as_ref()).to_string()) }
        }
    })
}

/// A key as a line of text, that any product can take as it stands; none where the line would begin with what says, to us as to
/// strongSwan, that hexadecimal digits or base64 follow: one of 2048 does.
fn psk_text(bytes: &[u8; PSK_LEN]) -> Option<Zeroizing<String>> {
    let text = Zeroizing::new(BASE64.encode(bytes));
    let is_encoded = text.starts_with("0x") || text.starts_with("0s");
    (!is_encoded).then(|| Zeroizing::new(format!("{}\n", *text)))
}

fn pem(label: &str, der: &[u8]) -> Zeroizing<String> {
    let body = Zeroizing::new(BASE64.encode(der));
    let mut text = Zeroizing::new(String::with_capacity(body.len() + body.len() / PEM_LINE + 80));
    text.push_str(&format!("-----BEGIN {label}-----\n"));
    for (index, character) in body.chars().enumerate() {
        if index > 0 && index % PEM_LINE == 0 {
            text.push('\n');
        }
        text.push(character);
    }
    text.push_str(&format!("\n-----END {label}-----\n"));
    text
}

/// Makes a key and writes it to a file, and its public half beside it; without a file, all of it is what to print.
///
/// # Errors
/// A file exists, or cannot be written.
pub fn run(kind: Kind, suite: Suite, output: Option<&Path>) -> anyhow::Result<Zeroizing<String>> {
    let public_file = output.filter(|_| kind == Kind::Ed25519).map(|path| path.with_extension("pub"));
    for path in output.into_iter().chain(public_file.as_deref()) {
        if path.symlink_metadata().is_ok() {
            bail!(exists(path));
        }
    }
    let key = make(kind, suite)?;
    let Some(path) = output else {
        let public = key.public.as_deref().unwrap_or_default();
        return Ok(Zeroizing::new(format!("{}{public}", *key.private)));
    };
    create(path, key.private.as_bytes(), Readers::OwnerOnly)?;
    let (file, public) = match (public_file, key.public) {
        (Some(file), Some(public)) => (file, public),
        _ => {
            let text = match kind {
                Kind::Static => format!("wrote {} ({suite}); copy it to the other gateway, mode 0600\n", path.display()),
                _ => {
                    format!("wrote {0}; copy it to the other gateway, mode 0600, and name it at both: psk_file\n", path.display())
                }
            };
            return Ok(Zeroizing::new(text));
        }
    };
    if let Err(error) = create(&file, public.as_bytes(), Readers::All) {
        // Half of a pair helps nobody, and would be in the way of the next try. It was made above.
        let _ = std::fs::remove_file(path);
        return Err(error);
    }
    let (private, public_at) = (path.display(), file.display());
    Ok(Zeroizing::new(format!(
        "wrote {private}, which stays here (key_file in `ike` at the top), and {public_at}; copy that to the peers \
         (public_key_file):\n{public}"
    )))
}

fn exists(path: &Path) -> String {
    format!("{0} exists and is not overwritten: name another file, or move it away: mv {0} {0}.old", path.display())
}

fn create(path: &Path, bytes: &[u8], readers: Readers) -> anyhow::Result<()> {
    match key_file::create(path, bytes, readers) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => bail!(exists(path)),
        written => written.with_context(|| format!("the key file {} cannot be written", PathBuf::from(path).display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use adit_engine::auth::Psk;

    /// Bytes whose base64 begins with these four characters.
    fn bytes_of(beginning: &str) -> [u8; PSK_LEN] {
        let mut bytes = [0xa5; PSK_LEN];
        bytes[..3].copy_from_slice(&BASE64.decode(beginning).unwrap());
        bytes
    }

    #[test]
    fn a_key_that_would_be_read_as_something_else_is_drawn_again() {
        for beginning in ["0s12", "0xab"] {
            assert!(psk_text(&bytes_of(beginning)).is_none(), "{beginning}");
        }
        for beginning in ["0Sab", "0a0x", "s0ab", "/0sx"] {
            let text = psk_text(&bytes_of(beginning)).unwrap();
            assert!(text.starts_with(beginning) && text.ends_with("=\n"), "{beginning}");
            assert_eq!(Psk::from_text(text.trim()).unwrap().len(), 44, "taken as it stands");
        }
    }
}
