//! Sealing and opening of one packet with an AEAD suite, through one of three libraries.
//!
//! [`Aead`] is a key made ready for one suite and one [`Backend`]; a security association owns one. The sender calls
//! [`Aead::seal`] from the frame read off the TAP straight into the place in the datagram where the ciphertext belongs, so
//! that copying and encrypting are one pass; the receiver calls [`Aead::open`] in the buffer that the datagram arrived in.
//! Neither allocates, locks or fails for other reasons than a bad tag. The nonce and the additional data are the caller's
//! (`adit_proto::esp`); nothing here remembers which nonces were used.
//!
//! The dispatch is an enum, not a trait object: one predictable branch per packet.
//!
//! # Keys in memory
//! - aws-lc: the key schedule lives in one heap block of the C library, which wipes every block when it is freed. GCM copies
//!   its round state to the stack for the time of a call and does not wipe that.
//! - RustCrypto: the crates are built with their `zeroize` feature, so key schedules, GHASH tables and the ChaCha20 key are
//!   wiped on drop. The move into their box when a key is made may leave an unwiped copy on the stack.
//! - intel-ipsec-mb: schedules are made in the heap block of their key and wiped there on drop. The library clears its registers and
//!   its stack where its builder left `SAFE_DATA` on, as it is by default and in Debian; its manager never holds a key.
//!
//! The key bytes given to [`Aead::new`] stay the caller's to wipe.

mod choice;

use std::fmt;
use std::str::FromStr;

use adit_ipsec_mb as ipsec_mb;
use adit_proto::esp::NONCE_LEN;
use adit_proto::suite::{Suite, TAG_LEN};
use aes_gcm::aead::consts::{U12, U16};
use aes_gcm::aead::inout::InOutBuf;
use aes_gcm::{AeadInOut, Aes128Gcm, Aes256Gcm, KeyInit};
use aws_lc_rs::aead::{self as aws_lc, Aad, LessSafeKey, Nonce, UnboundKey};
use chacha20poly1305::ChaCha20Poly1305;

pub use adit_ipsec_mb::Obstacle;
pub use choice::{Choice, Reason, SelfTestFailure, Step, choose, self_test};

/// The library that does the arithmetic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Backend {
    /// AWS-LC through `aws-lc-rs`: assembly with AES-NI, AVX-512 VAES, NEON. The default.
    #[default]
    AwsLc,
    /// intel-ipsec-mb, a C library of assembly for x86-64, as VPP and DPDK use it. Only where the build found it and the CPU has
    /// what its fastest code needs: VAES and AVX-512.
    IpsecMb,
    /// The crates `aes-gcm` and `chacha20poly1305`: Rust alone, an independent second implementation.
    RustCrypto,
}

/// The name given is no backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownBackend;

/// Why there is no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyError {
    /// The bytes given do not have the length that the suite asks for.
    Length {
        /// The suite asked for; `suite.key_len()` is the right length.
        suite: Suite,
        /// The length given, in bytes.
        given: usize,
    },
    /// The backend cannot be used here.
    Backend(Backend, Obstacle),
}

/// The packet was not sealed under this key, nonce and additional data, or was changed on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadTag;

/// A key of one suite, ready to seal and open packets.
pub struct Aead {
    key: Key,
}

/// Boxed where the library keeps its tables inline (up to 1 KiB), so that an SA stays small whichever backend runs.
enum Key {
    AwsLc(LessSafeKey),
    Aes128Gcm(Box<Aes128Gcm>),
    Aes256Gcm(Box<Aes256Gcm>),
    ChaCha20Poly1305(Box<ChaCha20Poly1305>),
    MbGcm(Box<ipsec_mb::Gcm>),
    MbChaCha20Poly1305(Box<ipsec_mb::ChaCha20Poly1305>),
}

impl Backend {
    /// Every backend, the default first.
    pub const ALL: [Backend; 3] = [Backend::AwsLc, Backend::IpsecMb, Backend::RustCrypto];

    /// The backends that can be used on this machine, the default first.
    pub fn usable() -> impl Iterator<Item = Backend> {
        Backend::ALL.into_iter().filter(|backend| backend.obstacle().is_none())
    }

    /// Why this backend cannot be used on this machine; `None` when it can.
    pub fn obstacle(self) -> Option<Obstacle> {
        match self {
            Backend::AwsLc | Backend::RustCrypto => None,
            Backend::IpsecMb => ipsec_mb::obstacle(),
        }
    }

    /// Makes what the library keeps once per thread. A thread that does so before its packets allocates for none of them, whichever
    /// thread made the keys.
    pub fn prepare(self) {
        if self == Backend::IpsecMb && self.obstacle().is_none() {
            ipsec_mb::prepare();
        }
    }

    /// The name in configuration, metrics and messages.
    pub const fn name(self) -> &'static str {
        match self {
            Backend::AwsLc => "aws-lc",
            Backend::IpsecMb => "ipsec-mb",
            Backend::RustCrypto => "rustcrypto",
        }
    }
}

impl FromStr for Backend {
    type Err = UnknownBackend;

    fn from_str(name: &str) -> Result<Backend, UnknownBackend> {
        Backend::ALL.into_iter().find(|backend| backend.name() == name).ok_or(UnknownBackend)
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Aead {
    /// Expands `key` (without the salt) for `suite`. Allocates, so it is not for the packet path, and best called on the
    /// thread that will use the key: what the library sets up once per thread is then ready as well.
    pub fn new(backend: Backend, suite: Suite, key: &[u8]) -> Result<Aead, KeyError> {
        let wrong = KeyError::Length { suite, given: key.len() };
        if key.len() != suite.key_len() {
            return Err(wrong);
        }
        if let Some(obstacle) = backend.obstacle() {
            return Err(KeyError::Backend(backend, obstacle));
        }
        let key = match backend {
            Backend::AwsLc => {
                let algorithm = match suite {
                    Suite::Aes128Gcm => &aws_lc::AES_128_GCM,
                    Suite::Aes256Gcm => &aws_lc::AES_256_GCM,
                    Suite::ChaCha20Poly1305 => &aws_lc::CHACHA20_POLY1305,
                };
                Key::AwsLc(LessSafeKey::new(UnboundKey::new(algorithm, key).map_err(|_| wrong)?))
            }
            Backend::IpsecMb => match suite {
                Suite::Aes128Gcm | Suite::Aes256Gcm => Key::MbGcm(ipsec_mb::Gcm::new(key)),
                Suite::ChaCha20Poly1305 => Key::MbChaCha20Poly1305(ipsec_mb::ChaCha20Poly1305::new(key)),
            },
            Backend::RustCrypto => match suite {
                Suite::Aes128Gcm => Key::Aes128Gcm(Box::new(KeyInit::new_from_slice(key).map_err(|_| wrong)?)),
                Suite::Aes256Gcm => Key::Aes256Gcm(Box::new(KeyInit::new_from_slice(key).map_err(|_| wrong)?)),
                Suite::ChaCha20Poly1305 => Key::ChaCha20Poly1305(Box::new(KeyInit::new_from_slice(key).map_err(|_| wrong)?)),
            },
        };
        let aead = Aead { key };
        aead.refuse_once();
        Ok(aead)
    }

    /// Encrypts `plain` into `sealed` and writes the tag over `aad` and the ciphertext to `tag`.
    ///
    /// A nonce must never be given twice to `seal` under the same key.
    ///
    /// # Panics
    /// When `plain` and `sealed` differ in length: the caller's mistake, never a packet's.
    #[inline]
    pub fn seal(&self, nonce: &[u8; NONCE_LEN], aad: &[u8], plain: &[u8], sealed: &mut [u8], tag: &mut [u8; TAG_LEN]) {
        match &self.key {
            Key::AwsLc(key) => key
                .seal_out_of_place_scatter(Nonce::from(nonce), Aad::from(aad), plain, sealed, &[], tag)
                .expect("sealed has the length of plain, and a packet is far below the suite's limit"),
            Key::Aes128Gcm(key) => seal_with(&**key, nonce, aad, plain, sealed, tag),
            Key::Aes256Gcm(key) => seal_with(&**key, nonce, aad, plain, sealed, tag),
            Key::ChaCha20Poly1305(key) => seal_with(&**key, nonce, aad, plain, sealed, tag),
            Key::MbGcm(key) => key.seal(nonce, aad, plain, sealed, tag),
            Key::MbChaCha20Poly1305(key) => key.seal(nonce, aad, plain, sealed, tag),
        }
    }

    /// Checks `tag` over `aad` and the ciphertext in `buf`, and decrypts `buf` where it lies.
    ///
    /// After [`BadTag`] the contents of `buf` mean nothing and must not be used.
    #[inline]
    pub fn open(&self, nonce: &[u8; NONCE_LEN], aad: &[u8], buf: &mut [u8], tag: &[u8; TAG_LEN]) -> Result<(), BadTag> {
        match &self.key {
            Key::AwsLc(key) => match key.open_in_place_separate_tag(Nonce::from(nonce), Aad::from(aad), tag, buf) {
                Ok(_) => Ok(()),
                Err(_) => Err(BadTag),
            },
            Key::Aes128Gcm(key) => open_with(&**key, nonce, aad, buf, tag),
            Key::Aes256Gcm(key) => open_with(&**key, nonce, aad, buf, tag),
            Key::ChaCha20Poly1305(key) => open_with(&**key, nonce, aad, buf, tag),
            Key::MbGcm(key) => key.open(nonce, aad, buf, tag).then_some(()).ok_or(BadTag),
            Key::MbChaCha20Poly1305(key) => key.open(nonce, aad, buf, tag).then_some(()).ok_or(BadTag),
        }
    }

    /// Opens a forged empty packet. AWS-LC keeps a queue of errors per thread, allocated with the first error: that must not
    /// wait for the first forged packet on the packet path.
    fn refuse_once(&self) {
        let forged = self.open(&[0; NONCE_LEN], &[], &mut [], &[0; TAG_LEN]);
        debug_assert!(forged.is_err(), "a tag of zeros is right for one key in 2^128");
    }

    /// The library behind this key.
    pub fn backend(&self) -> Backend {
        match self.key {
            Key::AwsLc(_) => Backend::AwsLc,
            Key::MbGcm(_) | Key::MbChaCha20Poly1305(_) => Backend::IpsecMb,
            Key::Aes128Gcm(_) | Key::Aes256Gcm(_) | Key::ChaCha20Poly1305(_) => Backend::RustCrypto,
        }
    }
}

/// Seals through the traits that the RustCrypto ciphers share. Not inlined: with their stack frames apart, the way to AWS-LC
/// becomes a handful of instructions in the caller, which keeps the nonce that it has just made in registers.
#[inline(never)]
fn seal_with<C>(cipher: &C, nonce: &[u8; NONCE_LEN], aad: &[u8], plain: &[u8], sealed: &mut [u8], tag: &mut [u8; TAG_LEN])
where
    C: AeadInOut<NonceSize = U12, TagSize = U16>,
{
    let buf = InOutBuf::new(plain, sealed).expect("sealed has the length of plain");
    let made = cipher.encrypt_inout_detached(nonce.into(), aad, buf).expect("a packet is far below the suite's limit");
    *tag = made.into();
}

/// Opens through the traits that the RustCrypto ciphers share. Not inlined, as [`seal_with`].
#[inline(never)]
fn open_with<C>(cipher: &C, nonce: &[u8; NONCE_LEN], aad: &[u8], buf: &mut [u8], tag: &[u8; TAG_LEN]) -> Result<(), BadTag>
where
    C: AeadInOut<NonceSize = U12, TagSize = U16>,
{
    cipher.decrypt_inout_detached(nonce.into(), aad, buf.into(), tag.into()).map_err(|_| BadTag)
}

/// The backends that this program holds, with the release of what is no part of its own sources: "aws-lc, ipsec-mb 1.3.0, rustcrypto".
pub fn built_in() -> String {
    let names = Backend::ALL.into_iter().filter_map(|backend| match (backend, ipsec_mb::version()) {
        (Backend::IpsecMb, None) => None,
        (Backend::IpsecMb, Some(version)) => Some(format!("{backend} {version}")),
        _ => Some(backend.name().to_owned()),
    });
    names.collect::<Vec<_>>().join(", ")
}

/// The instruction sets of this CPU that the AEAD code can make use of, separated by spaces; "none" when it has none.
pub fn cpu_features() -> String {
    let found: Vec<&str> = detected().into_iter().filter_map(|(name, has)| has.then_some(name)).collect();
    if found.is_empty() { "none".to_owned() } else { found.join(" ") }
}

#[cfg(target_arch = "x86_64")]
fn detected() -> [(&'static str, bool); 8] {
    use std::arch::is_x86_feature_detected as has;
    [
        ("ssse3", has!("ssse3")),
        ("aes", has!("aes")),
        ("pclmulqdq", has!("pclmulqdq")),
        ("avx", has!("avx")),
        ("avx2", has!("avx2")),
        ("vaes", has!("vaes")),
        ("vpclmulqdq", has!("vpclmulqdq")),
        ("avx512", has!("avx512f") && has!("avx512bw") && has!("avx512vl") && has!("avx512dq")),
    ]
}

#[cfg(target_arch = "aarch64")]
fn detected() -> [(&'static str, bool); 4] {
    use std::arch::is_aarch64_feature_detected as has;
    [("neon", has!("neon")), ("aes", has!("aes")), ("pmull", has!("pmull")), ("sha3", has!("sha3"))]
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn detected() -> [(&'static str, bool); 0] {
    []
}

impl fmt::Debug for Aead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Aead").field("backend", &self.backend()).finish_non_exhaustive()
    }
}

impl fmt::Display for UnknownBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no such crypto backend: expected {}", Backend::ALL.map(Backend::name).join(", "))
    }
}

impl std::error::Error for UnknownBackend {}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeyError::Length { suite, given } => write!(f, "a key of {suite} has {} bytes, not {given}", suite.key_len()),
            KeyError::Backend(backend, obstacle) => write!(f, "{backend} cannot be used: {obstacle}"),
        }
    }
}

impl std::error::Error for KeyError {}

impl fmt::Display for BadTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the authentication tag does not match")
    }
}

impl std::error::Error for BadTag {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_of_another_length_is_refused_and_the_error_says_which_is_right() {
        for backend in Backend::usable() {
            for suite in Suite::ALL {
                for given in (0..=64).filter(|&given| given != suite.key_len()) {
                    let error = Aead::new(backend, suite, &vec![0; given]).expect_err("refused");
                    assert_eq!(error, KeyError::Length { suite, given });
                }
            }
        }
        let error = KeyError::Length { suite: Suite::Aes128Gcm, given: 20 };
        assert_eq!(error.to_string(), "a key of aes-128-gcm has 16 bytes, not 20");
    }

    #[test]
    fn names_of_backends_parse_back() {
        for backend in Backend::ALL {
            assert_eq!(backend.name().parse(), Ok(backend));
        }
        assert_eq!("openssl".parse::<Backend>(), Err(UnknownBackend));
    }

    #[test]
    fn a_backend_makes_keys_or_says_why_it_does_not() {
        for backend in Backend::ALL {
            let made = Aead::new(backend, Suite::Aes128Gcm, &[0; 16]).map(|aead| aead.backend());
            assert_eq!(made, backend.obstacle().map_or(Ok(backend), |obstacle| Err(KeyError::Backend(backend, obstacle))));
        }
        let error = KeyError::Backend(Backend::IpsecMb, Obstacle::NotBuiltIn).to_string();
        assert!(error.starts_with("ipsec-mb cannot be used: the program was built without it; install"), "{error}");
        let error = KeyError::Backend(Backend::IpsecMb, Obstacle::Cpu("VAES")).to_string();
        assert_eq!(error, "ipsec-mb cannot be used: this CPU has no VAES");
    }

    #[test]
    fn what_is_built_in_is_told() {
        let reported = built_in();
        let absent = Backend::IpsecMb.obstacle() == Some(Obstacle::NotBuiltIn);
        assert_eq!(reported == "aws-lc, rustcrypto", absent, "{reported}");
        assert!(absent || reported.starts_with("aws-lc, ipsec-mb ") && reported.ends_with(", rustcrypto"), "{reported}");
    }

    #[test]
    fn printing_a_key_shows_nothing_of_it() {
        let aead = Aead::new(Backend::RustCrypto, Suite::ChaCha20Poly1305, &[0xa5; 32]).expect("right length");
        assert_eq!(format!("{aead:?}"), "Aead { backend: RustCrypto, .. }");
    }

    #[test]
    fn a_key_keeps_its_security_association_small() {
        assert!(size_of::<Aead>() <= 32, "{}", size_of::<Aead>());
    }

    #[test]
    fn cpu_features_are_words() {
        let features = cpu_features();
        assert!(!features.is_empty() && features.split(' ').all(|word| !word.is_empty()), "{features:?}");
    }
}
