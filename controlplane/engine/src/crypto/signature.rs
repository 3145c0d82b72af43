//! Signature algorithms as the AUTH payload names them (RFC 7427, RFC 8420, RFC 4754).
//!
//! With method 14, Digital Signature, the data of the AUTH payload is the length of an ASN.1 AlgorithmIdentifier in one byte,
//! that object, and the signature.

use std::fmt;

use crate::shown::Shown;
use adit_proto::ike::{AuthMethod, HashAlg};
use x509_cert::der::asn1::{AnyRef, ObjectIdentifier};
use x509_cert::der::{self, Decode, Reader, TagMode, TagNumber};
use x509_cert::spki::AlgorithmIdentifierRef;

/// A hash function of the SHA-2 family. SHA-1 signatures are refused (RFC 8247 §3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sha2 {
    Sha256,
    Sha384,
    Sha512,
}

/// How a signature in an AUTH payload was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SignatureAlgorithm {
    Ed25519,
    /// The curve is the key's; the signature is DER.
    Ecdsa(Sha2),
    /// r and s one after the other, and the hash belongs to the curve (RFC 4754).
    EcdsaRaw(Sha2),
    RsaPkcs1(Sha2),
    /// The salt is as long as the hash.
    RsaPss(Sha2),
}

/// Why the data of an AUTH payload is no signature that could be verified.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureDataError {
    #[error("its algorithm identifier is cut off or is no DER")]
    Malformed,
    #[error("it is made with {0}, which is not supported")]
    UnknownAlgorithm(Shown),
    #[error("it is made with SHA-1, which is not secure")]
    Sha1,
    #[error("it is of method {0}, which is no signature that is supported")]
    Method(AuthMethod),
}

const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");
const ECDSA_SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.2");
const ECDSA_SHA384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.3");
const ECDSA_SHA512: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.4");
const ECDSA_SHA1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.1");
const RSA_SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.11");
const RSA_SHA384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.12");
const RSA_SHA512: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.13");
const RSA_SHA1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.5");
const RSA_PSS: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.10");
const MGF1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.8");
const SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.1");
const SHA384: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.2");
const SHA512: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.3");

impl Sha2 {
    /// Length of a hash, in bytes.
    pub const fn output_len(self) -> usize {
        match self {
            Sha2::Sha256 => 32,
            Sha2::Sha384 => 48,
            Sha2::Sha512 => 64,
        }
    }

    /// The name in messages.
    pub const fn name(self) -> &'static str {
        match self {
            Sha2::Sha256 => "SHA-256",
            Sha2::Sha384 => "SHA-384",
            Sha2::Sha512 => "SHA-512",
        }
    }

    const fn id(self) -> HashAlg {
        match self {
            Sha2::Sha256 => HashAlg::SHA2_256,
            Sha2::Sha384 => HashAlg::SHA2_384,
            Sha2::Sha512 => HashAlg::SHA2_512,
        }
    }

    fn from_oid(oid: ObjectIdentifier) -> Option<Sha2> {
        match oid {
            SHA256 => Some(Sha2::Sha256),
            SHA384 => Some(Sha2::Sha384),
            SHA512 => Some(Sha2::Sha512),
            _ => None,
        }
    }
}

impl SignatureAlgorithm {
    /// What the Notify SIGNATURE_HASH_ALGORITHMS says that we verify (RFC 7427 §4, RFC 8420 §2).
    pub const HASHES: [HashAlg; 4] = [HashAlg::SHA2_256, HashAlg::SHA2_384, HashAlg::SHA2_512, HashAlg::IDENTITY];

    /// What the verifier's SIGNATURE_HASH_ALGORITHMS must contain (RFC 7427 §4).
    pub const fn hash_id(self) -> HashAlg {
        match self {
            SignatureAlgorithm::Ed25519 => HashAlg::IDENTITY,
            SignatureAlgorithm::Ecdsa(hash)
            | SignatureAlgorithm::EcdsaRaw(hash)
            | SignatureAlgorithm::RsaPkcs1(hash)
            | SignatureAlgorithm::RsaPss(hash) => hash.id(),
        }
    }

    /// The AlgorithmIdentifier that goes before a signature of ours (RFC 7427 appendix A.3, RFC 8420 appendix A).
    ///
    /// `None` for algorithms that we do not sign with.
    pub(super) const fn identifier(self) -> Option<&'static [u8]> {
        match self {
            SignatureAlgorithm::Ed25519 => Some(&[0x30, 5, 6, 3, 0x2b, 0x65, 0x70]),
            SignatureAlgorithm::Ecdsa(Sha2::Sha256) => Some(&[0x30, 10, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2]),
            SignatureAlgorithm::Ecdsa(Sha2::Sha384) => Some(&[0x30, 10, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 3]),
            _ => None,
        }
    }

    /// Splits the data of an AUTH payload into algorithm and signature.
    ///
    /// Tolerant where implementations differ: parameters that should be absent may be NULL and the other way round.
    ///
    /// # Errors
    /// The data is malformed, or made with an algorithm that is not supported or not secure.
    pub fn read(method: AuthMethod, data: &[u8]) -> Result<(SignatureAlgorithm, &[u8]), SignatureDataError> {
        match method {
            AuthMethod::DIGITAL_SIGNATURE => {
                let (&len, rest) = data.split_first().ok_or(SignatureDataError::Malformed)?;
                let (identifier, signature) = rest.split_at_checked(len.into()).ok_or(SignatureDataError::Malformed)?;
                Ok((SignatureAlgorithm::from_identifier(identifier)?, signature))
            }
            AuthMethod::ECDSA_SHA256_P256 => Ok((SignatureAlgorithm::EcdsaRaw(Sha2::Sha256), data)),
            AuthMethod::ECDSA_SHA384_P384 => Ok((SignatureAlgorithm::EcdsaRaw(Sha2::Sha384), data)),
            AuthMethod::ECDSA_SHA512_P521 => Ok((SignatureAlgorithm::EcdsaRaw(Sha2::Sha512), data)),
            _ => Err(SignatureDataError::Method(method)),
        }
    }

    fn from_identifier(der: &[u8]) -> Result<SignatureAlgorithm, SignatureDataError> {
        let identifier = AlgorithmIdentifierRef::from_der(der).map_err(|_| SignatureDataError::Malformed)?;
        match identifier.oid {
            ED25519 => Ok(SignatureAlgorithm::Ed25519),
            ECDSA_SHA256 => Ok(SignatureAlgorithm::Ecdsa(Sha2::Sha256)),
            ECDSA_SHA384 => Ok(SignatureAlgorithm::Ecdsa(Sha2::Sha384)),
            ECDSA_SHA512 => Ok(SignatureAlgorithm::Ecdsa(Sha2::Sha512)),
            RSA_SHA256 => Ok(SignatureAlgorithm::RsaPkcs1(Sha2::Sha256)),
            RSA_SHA384 => Ok(SignatureAlgorithm::RsaPkcs1(Sha2::Sha384)),
            RSA_SHA512 => Ok(SignatureAlgorithm::RsaPkcs1(Sha2::Sha512)),
            RSA_PSS => pss(identifier.parameters),
            ECDSA_SHA1 | RSA_SHA1 => Err(SignatureDataError::Sha1),
            other => Err(SignatureDataError::UnknownAlgorithm(Shown::of(format_args!("the algorithm {other}")))),
        }
    }
}

/// The parameters of RSASSA-PSS (RFC 4055 §3.1). What is absent has the default, SHA-1.
fn pss(parameters: Option<AnyRef>) -> Result<SignatureAlgorithm, SignatureDataError> {
    let Some(parameters) = parameters else { return Err(SignatureDataError::Sha1) };
    let read = parameters.sequence(|reader| {
        let hash = reader.context_specific::<AlgorithmIdentifierRef>(TagNumber(0), TagMode::Explicit)?;
        let mask = reader.context_specific::<AlgorithmIdentifierRef>(TagNumber(1), TagMode::Explicit)?;
        let salt_len = reader.context_specific::<u32>(TagNumber(2), TagMode::Explicit)?;
        let trailer = reader.context_specific::<u8>(TagNumber(3), TagMode::Explicit)?;
        Ok::<_, der::Error>((hash, mask, salt_len, trailer))
    });
    let (hash, mask, salt_len, trailer) = read.map_err(|_| SignatureDataError::Malformed)?;
    let unknown = |what: String| SignatureDataError::UnknownAlgorithm(Shown::of(format_args!("RSASSA-PSS with {what}")));
    let (Some(hash), Some(mask)) = (hash, mask) else { return Err(SignatureDataError::Sha1) };
    let Some(sha2) = Sha2::from_oid(hash.oid) else { return Err(unknown(format!("the hash {}", hash.oid))) };
    let mask_hash = mask.parameters.and_then(|any| any.decode_as::<AlgorithmIdentifierRef>().ok());
    if mask.oid != MGF1 || mask_hash.and_then(|mask| Sha2::from_oid(mask.oid)) != Some(sha2) {
        return Err(unknown("another mask generation function than MGF1 with the same hash".to_owned()));
    }
    if salt_len.and_then(|len| usize::try_from(len).ok()) != Some(sha2.output_len()) {
        return Err(unknown(format!("a salt of another length than {}", sha2.output_len())));
    }
    if trailer.is_some_and(|trailer| trailer != 1) {
        return Err(unknown("another trailer than 1".to_owned()));
    }
    Ok(SignatureAlgorithm::RsaPss(sha2))
}

impl fmt::Display for SignatureAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SignatureAlgorithm::Ed25519 => f.write_str("Ed25519"),
            SignatureAlgorithm::Ecdsa(hash) | SignatureAlgorithm::EcdsaRaw(hash) => write!(f, "ECDSA with {}", hash.name()),
            SignatureAlgorithm::RsaPkcs1(hash) => write!(f, "RSA PKCS#1 v1.5 with {}", hash.name()),
            SignatureAlgorithm::RsaPss(hash) => write!(f, "RSASSA-PSS with {}", hash.name()),
        }
    }
}

#[cfg(test)]
mod tests;
