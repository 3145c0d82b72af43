//! Public keys that verify signatures: parsed from SubjectPublicKeyInfo or from a certificate, compared, shown.

use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::signature::{
    self, ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA384_ASN1, ECDSA_P256_SHA512_ASN1,
    ECDSA_P384_SHA256_ASN1, ECDSA_P384_SHA384_ASN1, ECDSA_P384_SHA384_FIXED, ECDSA_P384_SHA512_ASN1, ECDSA_P521_SHA256_ASN1,
    ECDSA_P521_SHA384_ASN1, ECDSA_P521_SHA512_ASN1, ECDSA_P521_SHA512_FIXED, ED25519, ParsedPublicKey,
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256,
    RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, RsaParameters, UnparsedPublicKey, VerificationAlgorithm,
};
use rustls_pki_types::pem::{PemObject, SectionKind};
use x509_cert::der::Decode;
use x509_cert::der::asn1::ObjectIdentifier;
use x509_cert::spki::SubjectPublicKeyInfoRef;

use super::signature::{Sha2, SignatureAlgorithm};
use crate::shown::Shown;

const ID_ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");
const ID_EC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const ID_RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const ID_ED448: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.113");
const ID_X25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.110");
const ID_DSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10040.4.1");
const P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const P384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");
const P521: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.35");

/// RSA keys that are accepted, in bits: shorter ones are weak, longer ones take an attacker's certificate long to verify.
const RSA_BITS: std::ops::RangeInclusive<u32> = 2048..=8192;

/// What a key is a key of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyKind {
    Ed25519,
    EcdsaP256,
    EcdsaP384,
    EcdsaP521,
    Rsa {
        /// Length of the modulus.
        bits: u32,
    },
}

/// A public key. Two are equal when the keys are, however they were encoded.
#[derive(Clone)]
pub struct PublicKey {
    kind: KeyKind,
    /// SubjectPublicKeyInfo in its canonical form.
    spki: Box<[u8]>,
}

/// Why bytes are no public key that can be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("it holds no {expected} in PEM{found}")]
    NoPem {
        expected: &'static str,
        /// What was found instead, with what to do.
        found: &'static str,
    },
    #[error("it is no valid DER of a {0}")]
    Malformed(&'static str),
    #[error("keys of the kind {0} are not supported; use Ed25519, or ECDSA with P-256 or P-384")]
    Unsupported(Shown),
    #[error("RSA keys of {0} bits are not accepted, only 2048 to 8192")]
    RsaLength(u32),
}

/// Why a signature is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    #[error("a key of the kind {key} cannot have made a signature of the kind {algorithm}")]
    OtherKind { key: KeyKind, algorithm: SignatureAlgorithm },
    #[error("the signature was made with another key, or over something else")]
    BadSignature,
}

impl PublicKey {
    /// Reads a SubjectPublicKeyInfo (RFC 5280 §4.1.2.7), which is also what RFC 7670 puts into a CERT payload.
    ///
    /// # Errors
    /// It is malformed, not supported, or not on its curve.
    pub fn from_spki(der: &[u8]) -> Result<PublicKey, KeyError> {
        let malformed = || KeyError::Malformed("public key");
        let spki = SubjectPublicKeyInfoRef::from_der(der).map_err(|_| malformed())?;
        let key = spki.subject_public_key.as_bytes().ok_or_else(malformed)?;
        let curve = || spki.algorithm.parameters.and_then(|any| any.decode_as::<ObjectIdentifier>().ok());
        let kind = match spki.algorithm.oid {
            ID_ED25519 => KeyKind::Ed25519,
            ID_EC => match curve() {
                Some(P256) => KeyKind::EcdsaP256,
                Some(P384) => KeyKind::EcdsaP384,
                Some(P521) => KeyKind::EcdsaP521,
                Some(other) => return Err(KeyError::Unsupported(Shown::of(format_args!("ECDSA on the curve {other}")))),
                None => return Err(KeyError::Unsupported(Shown::of("ECDSA on a curve without a name"))),
            },
            ID_RSA => {
                let bits = RsaParameters::public_modulus_len(key).map_err(|_| malformed())?;
                if !RSA_BITS.contains(&bits) {
                    return Err(KeyError::RsaLength(bits));
                }
                KeyKind::Rsa { bits }
            }
            other => return Err(KeyError::Unsupported(Shown::of(name_of(other)))),
        };
        let parsed = ParsedPublicKey::new(kind.any_algorithm(), key).map_err(|_| malformed())?;
        let canonical: PublicKeyX509Der = parsed.as_der().map_err(|_| malformed())?;
        Ok(PublicKey { kind, spki: canonical.as_ref().into() })
    }

    /// Reads the first public key or certificate in a PEM file; of a certificate only the key counts, not its dates.
    ///
    /// # Errors
    /// There is none, or it cannot be used.
    pub fn from_pem(pem: &[u8]) -> Result<PublicKey, KeyError> {
        for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(pem) {
            match section.map_err(|_| KeyError::Malformed("PEM file"))? {
                (SectionKind::PublicKey, der) => return PublicKey::from_spki(&der),
                (SectionKind::Certificate, der) => {
                    let certificate = x509_cert::Certificate::from_der(&der).map_err(|_| KeyError::Malformed("certificate"))?;
                    return PublicKey::from_certificate(&certificate);
                }
                _ => {}
            }
        }
        let private = pem.windows(12).any(|text| text == b"PRIVATE KEY-");
        let found = if private { ", but a private key: that is the secret part; take `openssl pkey -pubout` of it" } else { "" };
        Err(KeyError::NoPem { expected: "PUBLIC KEY or CERTIFICATE", found })
    }

    pub(crate) fn from_certificate(certificate: &x509_cert::Certificate) -> Result<PublicKey, KeyError> {
        let spki = x509_cert::der::Encode::to_der(certificate.tbs_certificate().subject_public_key_info());
        PublicKey::from_spki(&spki.map_err(|_| KeyError::Malformed("certificate"))?)
    }

    /// What it is a key of.
    pub fn kind(&self) -> KeyKind {
        self.kind
    }

    /// SubjectPublicKeyInfo in DER.
    pub fn spki(&self) -> &[u8] {
        &self.spki
    }

    /// SHA-256 of the SubjectPublicKeyInfo, as `openssl pkey -pubin -outform DER | sha256sum` gives it.
    pub fn fingerprint(&self) -> [u8; 32] {
        let mut out = [0; 32];
        out.copy_from_slice(digest(&SHA256, &self.spki).as_ref());
        out
    }

    /// Whether this key has made this signature.
    ///
    /// # Errors
    /// It has not, or could not have.
    pub fn verify(&self, algorithm: SignatureAlgorithm, message: &[u8], signature: &[u8]) -> Result<(), VerifyError> {
        let verifier = self.kind.verification(algorithm).ok_or(VerifyError::OtherKind { key: self.kind, algorithm })?;
        UnparsedPublicKey::new(verifier, &self.spki).verify(message, signature).map_err(|_| VerifyError::BadSignature)
    }
}

impl PartialEq for PublicKey {
    fn eq(&self, other: &PublicKey) -> bool {
        self.spki == other.spki
    }
}

impl Eq for PublicKey {}

/// Kind and fingerprint: `ed25519 sha256:1f2e…`.
impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} sha256:", self.kind)?;
        self.fingerprint().iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

/// The name of a key algorithm that is not supported, as far as people use it for certificates.
pub(super) fn name_of(algorithm: ObjectIdentifier) -> String {
    match algorithm {
        ID_RSA => "RSA".to_owned(),
        ID_EC => "ECDSA on another curve".to_owned(),
        ID_ED448 => "Ed448".to_owned(),
        ID_X25519 => "X25519".to_owned(),
        ID_DSA => "DSA".to_owned(),
        other => other.to_string(),
    }
}

impl KeyKind {
    /// Any algorithm of this key, for parsing it.
    fn any_algorithm(self) -> &'static dyn VerificationAlgorithm {
        match self {
            KeyKind::Ed25519 => &ED25519,
            KeyKind::EcdsaP256 => &ECDSA_P256_SHA256_ASN1,
            KeyKind::EcdsaP384 => &ECDSA_P384_SHA384_ASN1,
            KeyKind::EcdsaP521 => &ECDSA_P521_SHA512_ASN1,
            KeyKind::Rsa { .. } => &RSA_PKCS1_2048_8192_SHA256,
        }
    }

    /// The library's name for this key with this algorithm, if they go together.
    fn verification(self, algorithm: SignatureAlgorithm) -> Option<&'static dyn signature::VerificationAlgorithm> {
        use SignatureAlgorithm as Algorithm;
        Some(match (self, algorithm) {
            (KeyKind::Ed25519, Algorithm::Ed25519) => &ED25519,
            (KeyKind::EcdsaP256, Algorithm::Ecdsa(Sha2::Sha256)) => &ECDSA_P256_SHA256_ASN1,
            (KeyKind::EcdsaP256, Algorithm::Ecdsa(Sha2::Sha384)) => &ECDSA_P256_SHA384_ASN1,
            (KeyKind::EcdsaP256, Algorithm::Ecdsa(Sha2::Sha512)) => &ECDSA_P256_SHA512_ASN1,
            (KeyKind::EcdsaP384, Algorithm::Ecdsa(Sha2::Sha256)) => &ECDSA_P384_SHA256_ASN1,
            (KeyKind::EcdsaP384, Algorithm::Ecdsa(Sha2::Sha384)) => &ECDSA_P384_SHA384_ASN1,
            (KeyKind::EcdsaP384, Algorithm::Ecdsa(Sha2::Sha512)) => &ECDSA_P384_SHA512_ASN1,
            (KeyKind::EcdsaP521, Algorithm::Ecdsa(Sha2::Sha256)) => &ECDSA_P521_SHA256_ASN1,
            (KeyKind::EcdsaP521, Algorithm::Ecdsa(Sha2::Sha384)) => &ECDSA_P521_SHA384_ASN1,
            (KeyKind::EcdsaP521, Algorithm::Ecdsa(Sha2::Sha512)) => &ECDSA_P521_SHA512_ASN1,
            (KeyKind::EcdsaP256, Algorithm::EcdsaRaw(Sha2::Sha256)) => &ECDSA_P256_SHA256_FIXED,
            (KeyKind::EcdsaP384, Algorithm::EcdsaRaw(Sha2::Sha384)) => &ECDSA_P384_SHA384_FIXED,
            (KeyKind::EcdsaP521, Algorithm::EcdsaRaw(Sha2::Sha512)) => &ECDSA_P521_SHA512_FIXED,
            (KeyKind::Rsa { .. }, Algorithm::RsaPkcs1(Sha2::Sha256)) => &RSA_PKCS1_2048_8192_SHA256,
            (KeyKind::Rsa { .. }, Algorithm::RsaPkcs1(Sha2::Sha384)) => &RSA_PKCS1_2048_8192_SHA384,
            (KeyKind::Rsa { .. }, Algorithm::RsaPkcs1(Sha2::Sha512)) => &RSA_PKCS1_2048_8192_SHA512,
            (KeyKind::Rsa { .. }, Algorithm::RsaPss(Sha2::Sha256)) => &RSA_PSS_2048_8192_SHA256,
            (KeyKind::Rsa { .. }, Algorithm::RsaPss(Sha2::Sha384)) => &RSA_PSS_2048_8192_SHA384,
            (KeyKind::Rsa { .. }, Algorithm::RsaPss(Sha2::Sha512)) => &RSA_PSS_2048_8192_SHA512,
            _ => return None,
        })
    }
}

impl fmt::Display for KeyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeyKind::Ed25519 => f.write_str("ed25519"),
            KeyKind::EcdsaP256 => f.write_str("ecdsa-p256"),
            KeyKind::EcdsaP384 => f.write_str("ecdsa-p384"),
            KeyKind::EcdsaP521 => f.write_str("ecdsa-p521"),
            KeyKind::Rsa { bits } => write!(f, "rsa-{bits}"),
        }
    }
}
