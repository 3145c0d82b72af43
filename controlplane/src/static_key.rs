//! Static keys: one secret in a file that both gateways of a pair have, and the keys of their SAs derived from it.
//!
//! For labs and benches only. There is no forward secrecy and no rekeying: who has the file reads all traffic, past and
//! future. Every SA (a direction and a lane) has a key of its own, by HKDF-SHA256 (RFC 5869) over an unambiguous
//! encoding of suite, sender, receiver and lane, so that nonces are unique as long as one sender never repeats a
//! sequence number; that is what [`crate::sequence`] is for.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use adit_proto::control::{SaKey, Spi};
use adit_proto::esp;
use adit_proto::limits::LANE_BITS;
use adit_proto::suite::{KEY_LEN_MAX, SALT_LEN, Suite};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Prk, Salt};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::key_file::Owner;
use crate::limits::STATIC_KEY_BYTES_MAX;

/// Length of the secret, in bytes.
pub const SECRET_LEN: usize = 32;
/// SPIs that are ours begin here. What is derived from the key fills the bits below.
const SPI_BASE: u32 = esp::SPI_MIN;

const _: () = assert!(SPI_BASE & 0x0fff_ffff == 0, "22 bits for the flow and six for the lane");

const WARNING: &str = "\
# A static key of Adit, for labs and benches ONLY: there is no forward secrecy and no rekeying. Whoever reads this file
# reads and forges all traffic between the two gateways, past and future.
# Both gateways of a pair have the same file, mode 0600. `suite` can be aes-128-gcm, aes-256-gcm or chacha20-poly1305.
";

/// The secret of a pair of gateways, and the suite that they use. Wiped when dropped, never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    suite: Suite,
    bytes: SecretBytes,
}

#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
struct SecretBytes([u8; SECRET_LEN]);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({}, …)", self.suite)
    }
}

/// Why a key file cannot be used. Each names its remedy through [`KeyFileError::remedy`].
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    #[error("the key file {0} does not exist")]
    Missing(String),
    #[error("the key file {0} cannot be read: {1}")]
    Unreadable(String, io::Error),
    #[error("{0} is not a regular file")]
    NotAFile(String),
    #[error("the key file {0} ({1}) can be read or changed by others")]
    TooOpen(String, Owner),
    #[error("the key file {0} ({1}) belongs to neither root nor the user who runs adit")]
    ForeignOwner(String, Owner),
    #[error("the key file {0} is malformed in line {1}: {2}")]
    Malformed(String, usize, &'static str),
    #[error("the secret in the key file {0} is {1} bytes long")]
    WrongLength(String, usize),
    /// What is written there is not repeated: it may be the secret, in the wrong line.
    #[error("the key file {0} names a suite in line {1} that does not exist")]
    UnknownSuite(String, usize),
    #[error("the key file {0} has no line `{1}`")]
    Incomplete(String, &'static str),
}

impl KeyFileError {
    /// What to run or write to repair it.
    pub fn remedy(&self) -> String {
        match self {
            KeyFileError::Missing(file) => format!("run: adit keygen -o {file} (and copy the file to the other gateway)"),
            KeyFileError::Unreadable(file, _) => {
                format!("run: ls -l {file} (and make the path readable for the user who runs adit)")
            }
            KeyFileError::NotAFile(_) => "the path of a key file, made by: adit keygen -o FILE".to_owned(),
            KeyFileError::TooOpen(file, owner) | KeyFileError::ForeignOwner(file, owner) => owner.remedy(file),
            KeyFileError::UnknownSuite(..) => {
                format!("in the key file: suite: {}", Suite::ALL.map(Suite::name).join(" or suite: "))
            }
            KeyFileError::Malformed(file, ..) | KeyFileError::WrongLength(file, _) | KeyFileError::Incomplete(file, _) => {
                format!("run: mv {file} {file}.old && adit keygen -o {file} (and copy the file to the other gateway)")
            }
        }
    }
}

/// A direction of a pair: who seals and who opens.
#[derive(Clone, Copy, Debug)]
pub struct Flow<'a> {
    pub sender: &'a str,
    pub receiver: &'a str,
}

/// Names a key without saying anything about it: what the state file and the vault call it, in hexadecimal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct KeyId(pub [u8; 16]);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl From<KeyId> for String {
    fn from(id: KeyId) -> String {
        id.to_string()
    }
}

impl TryFrom<String> for KeyId {
    type Error = &'static str;

    fn try_from(text: String) -> Result<KeyId, Self::Error> {
        let number = u128::from_str_radix(&text, 16).ok().filter(|_| text.len() == 32 && !text.starts_with('+'));
        number.map(|number| KeyId(number.to_be_bytes())).ok_or("a key id is 32 hexadecimal digits")
    }
}

struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

impl Secret {
    /// A new secret from the system's random number generator.
    ///
    /// # Errors
    /// The generator failed.
    pub fn generate(suite: Suite) -> io::Result<Secret> {
        let mut bytes = SecretBytes([0; SECRET_LEN]);
        aws_lc_rs::rand::fill(&mut bytes.0).map_err(|_| io::Error::other("the random number generator failed"))?;
        Ok(Secret { suite, bytes })
    }

    /// A secret with known bytes, as tests and known answers need.
    pub fn from_bytes(suite: Suite, bytes: [u8; SECRET_LEN]) -> Secret {
        Secret { suite, bytes: SecretBytes(bytes) }
    }

    pub fn suite(&self) -> Suite {
        self.suite
    }

    /// The text of the key file.
    pub fn to_file_text(&self) -> Zeroizing<String> {
        let secret = Zeroizing::new(BASE64.encode(self.bytes.0));
        Zeroizing::new(format!("{WARNING}suite: {}\nsecret: {}\n", self.suite, secret.as_str()))
    }

    /// Reads a key file.
    ///
    /// # Errors
    /// It cannot be read, others can read it, or it is malformed.
    pub fn load(path: &Path) -> Result<Secret, KeyFileError> {
        let shown = path.display().to_string();
        let file = File::open(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => KeyFileError::Missing(shown.clone()),
            _ => KeyFileError::Unreadable(shown.clone(), error),
        })?;
        // The open file is judged, not the path, so that nobody can swap it in between.
        let facts = file.metadata().map_err(|error| KeyFileError::Unreadable(shown.clone(), error))?;
        if !facts.is_file() {
            return Err(KeyFileError::NotAFile(shown));
        }
        let owner = Owner::of(&facts);
        if !owner.is_trusted() {
            return Err(KeyFileError::ForeignOwner(shown, owner));
        }
        if !owner.is_secret() {
            return Err(KeyFileError::TooOpen(shown, owner));
        }
        // Room for the whole file, so that no copy of a grown buffer stays behind in memory.
        let mut bytes = Zeroizing::new(Vec::with_capacity(STATIC_KEY_BYTES_MAX as usize + 1));
        file.take(STATIC_KEY_BYTES_MAX + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| KeyFileError::Unreadable(shown.clone(), error))?;
        parse(&shown, &bytes)
    }

    /// Fills `out` with key material for the use that `label`, the flow and the lane name.
    fn derive(&self, label: &[u8], flow: Flow<'_>, lane: u8, out: &mut [u8]) {
        // Lengths before names: no two different inputs give the same bytes.
        let length = |name: &str| [u8::try_from(name.len()).unwrap_or(u8::MAX)];
        let (sender_length, receiver_length) = (length(flow.sender), length(flow.receiver));
        let info: [&[u8]; 8] = [
            b"adit static ",
            label,
            &[0, self.suite as u8],
            &sender_length,
            flow.sender.as_bytes(),
            &receiver_length,
            flow.receiver.as_bytes(),
            &[lane],
        ];
        let prk: Prk = Salt::new(HKDF_SHA256, b"adit static key v1").extract(&self.bytes.0);
        let derived = prk.expand(&info, Length(out.len())).and_then(|okm| okm.fill(out));
        assert!(derived.is_ok(), "HKDF-SHA256 gives up to 8160 bytes, and nobody asks for more than 64");
    }

    /// Key and salt of the SA of a flow and lane.
    pub fn sa_key(&self, flow: Flow<'_>, lane: u8) -> SaKey {
        let mut material = Zeroizing::new([0u8; KEY_LEN_MAX + SALT_LEN]);
        let length = self.suite.key_len();
        self.derive(b"sa", flow, lane, &mut material[..length + SALT_LEN]);
        let mut key = SaKey { key: [0; KEY_LEN_MAX], salt: [0; SALT_LEN] };
        key.key[..length].copy_from_slice(&material[..length]);
        key.salt.copy_from_slice(&material[length..length + SALT_LEN]);
        key
    }

    /// The SPI under which the receiver of the flow knows the SA: 22 bits name the flow, six the lane.
    pub fn spi(&self, flow: Flow<'_>, lane: u8) -> Spi {
        let mut hash = [0u8; 4];
        self.derive(b"spi", flow, 0, &mut hash);
        let flow_bits = u32::from_be_bytes(hash) >> 10;
        Spi(SPI_BASE | (flow_bits << LANE_BITS) | u32::from(lane))
    }

    /// The name of the SA's key in the state file.
    pub fn key_id(&self, flow: Flow<'_>, lane: u8) -> KeyId {
        let mut id = [0u8; 16];
        self.derive(b"id", flow, lane, &mut id);
        KeyId(id)
    }
}

fn parse(file: &str, bytes: &[u8]) -> Result<Secret, KeyFileError> {
    let malformed = |line: usize, why| KeyFileError::Malformed(file.to_owned(), line, why);
    if bytes.len() as u64 > STATIC_KEY_BYTES_MAX {
        return Err(malformed(1, "the file is longer than 4096 bytes"));
    }
    let text = std::str::from_utf8(bytes).map_err(|_| malformed(1, "the file is not text"))?;
    let (mut suite, mut secret) = (None, None);
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (key, value) = line.split_once(':').ok_or_else(|| malformed(index + 1, "expected `suite: …` or `secret: …`"))?;
        let value = value.trim();
        match key.trim() {
            "suite" if suite.is_none() => {
                suite = Some(value.parse::<Suite>().map_err(|_| KeyFileError::UnknownSuite(file.to_owned(), index + 1))?);
            }
            "secret" if secret.is_none() => {
                let decoded = Zeroizing::new(BASE64.decode(value).map_err(|_| malformed(index + 1, "the secret is not base64"))?);
                let bytes =
                    decoded.as_slice().try_into().map_err(|_| KeyFileError::WrongLength(file.to_owned(), decoded.len()))?;
                secret = Some(SecretBytes(bytes));
            }
            "suite" | "secret" => return Err(malformed(index + 1, "the key is given twice")),
            _ => return Err(malformed(index + 1, "expected `suite: …` or `secret: …`")),
        }
    }
    let suite = suite.ok_or(KeyFileError::Incomplete(file.to_owned(), "suite: …"))?;
    let bytes = secret.ok_or(KeyFileError::Incomplete(file.to_owned(), "secret: …"))?;
    Ok(Secret { suite, bytes })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::key_file::{self, Readers};

    const AB: Flow<'_> = Flow { sender: "a", receiver: "b" };
    const BA: Flow<'_> = Flow { sender: "b", receiver: "a" };

    impl Secret {
        /// Writes a key file as `adit keygen` does, for every test that needs one.
        pub(crate) fn create_file(&self, path: &Path) -> io::Result<()> {
            key_file::create(path, self.to_file_text().as_bytes(), Readers::OwnerOnly)
        }
    }

    fn secret(suite: Suite) -> Secret {
        Secret::from_bytes(suite, [7; SECRET_LEN])
    }

    #[test]
    fn a_created_file_loads_to_the_same_secret_and_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pair.key");
        for suite in Suite::ALL {
            let made = Secret::generate(suite).unwrap();
            made.create_file(&path).unwrap();
            assert_eq!(path.metadata().unwrap().permissions().mode() & 0o7777, 0o600);
            assert!(Secret::load(&path).unwrap() == made);
            let again = made.create_file(&path).unwrap_err();
            assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
            std::fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    fn a_file_that_others_can_read_is_refused_with_the_command_to_run() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pair.key");
        secret(Suite::Aes128Gcm).create_file(&path).unwrap();
        for mode in [0o640, 0o604, 0o620, 0o666] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let error = Secret::load(&path).unwrap_err();
            assert!(matches!(error, KeyFileError::TooOpen(..)), "{error}");
            assert_eq!(error.remedy(), format!("run: chmod 600 {}", path.display()));
        }
    }

    #[test]
    fn every_flow_lane_and_suite_has_its_own_key_and_both_ends_agree() {
        let mut seen = std::collections::BTreeSet::new();
        for suite in Suite::ALL {
            for flow in [AB, BA, Flow { sender: "ab", receiver: "" }, Flow { sender: "", receiver: "ab" }] {
                for lane in 0..64 {
                    let key = secret(suite).sa_key(flow, lane);
                    assert!(key == secret(suite).sa_key(flow, lane));
                    assert_eq!(key.key[suite.key_len()..], [0; KEY_LEN_MAX][suite.key_len()..]);
                    assert!(seen.insert(key.key[..16].to_vec()), "a key repeats");
                }
            }
        }
    }

    #[test]
    fn spis_are_above_the_stun_range_and_carry_the_lane() {
        for lane in [0u8, 1, 63] {
            let Spi(spi) = secret(Suite::Aes256Gcm).spi(AB, lane);
            assert_eq!(spi & 63, u32::from(lane));
            assert_eq!(spi >> 28, 5);
        }
        assert_ne!(secret(Suite::Aes128Gcm).spi(AB, 0), secret(Suite::Aes128Gcm).spi(BA, 0));
    }

    #[test]
    fn a_key_id_comes_back_from_its_text_and_nothing_else_does() {
        let id = secret(Suite::Aes128Gcm).key_id(AB, 3);
        assert_eq!(KeyId::try_from(id.to_string()), Ok(id));
        for text in ["", "00", "+0000000000000000000000000000001", "0000000000000000000000000000000g"] {
            assert!(KeyId::try_from(text.to_owned()).is_err(), "{text}");
        }
    }

    #[test]
    fn nothing_prints_the_secret() {
        let secret = secret(Suite::Aes128Gcm);
        assert_eq!(format!("{secret:?}"), "Secret(aes-128-gcm, …)");
        assert_eq!(format!("{:?}", secret.sa_key(AB, 0)), "SaKey(…)");
    }
}
