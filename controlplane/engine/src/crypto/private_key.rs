//! Private keys that sign for this gateway: Ed25519, and ECDSA with P-256 or P-384.

use std::fmt;

use adit_proto::ike::{AuthMethod, HashAlg};
use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING,
    ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair,
};
use rustls_pki_types::pem::{PemObject, SectionKind};
use x509_cert::der::asn1::{AnyRef, ObjectIdentifier};
use x509_cert::der::{self, Decode, Reader};
use x509_cert::spki::AlgorithmIdentifierRef;
use zeroize::Zeroizing;

use super::public_key::{KeyError, KeyKind, PublicKey, name_of};
use super::signature::{Sha2, SignatureAlgorithm};
use crate::shown::Shown;

/// A private key. The library wipes it when it is dropped, and it is never printed.
pub struct PrivateKey {
    pair: Pair,
    public: PublicKey,
}

enum Pair {
    Ed25519(Ed25519KeyPair),
    Ecdsa {
        /// Makes signatures in DER, for RFC 7427.
        asn1: EcdsaKeyPair,
        /// Makes r and s one after the other, for RFC 4754.
        fixed: EcdsaKeyPair,
        hash: Sha2,
        raw_method: AuthMethod,
    },
}

/// A signature as it goes into an AUTH payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthData {
    pub method: AuthMethod,
    pub data: Vec<u8>,
}

/// Why nothing could be signed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// The peer's SIGNATURE_HASH_ALGORITHMS does not have what the key needs (RFC 7427 §4).
    #[error("our key is of the kind {key}, which needs the hash {needed}; the peer takes {}", list(offered))]
    HashNotAccepted { key: KeyKind, needed: HashAlg, offered: Vec<HashAlg> },
    /// The peer did not send SIGNATURE_HASH_ALGORITHMS, and no older method knows the key.
    #[error("our key is of the kind {key}, and the peer does not support digital signatures (RFC 7427), which it needs")]
    NoDigitalSignature { key: KeyKind },
    #[error("the cryptographic library could not sign")]
    Internal,
}

fn list(hashes: &[HashAlg]) -> String {
    hashes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl PrivateKey {
    /// Reads the first private key in a PEM file: PKCS#8, or SEC 1 for elliptic curves.
    ///
    /// # Errors
    /// There is none, it is encrypted, or it is of a kind that is not supported.
    pub fn from_pem(pem: &[u8]) -> Result<PrivateKey, KeyError> {
        for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(pem) {
            let (kind, der) = section.map_err(|_| KeyError::Malformed("PEM file"))?;
            let der = Zeroizing::new(der);
            match kind {
                SectionKind::PrivateKey => return PrivateKey::from_pkcs8(&der),
                SectionKind::EcPrivateKey => return PrivateKey::from_sec1(&der),
                SectionKind::RsaPrivateKey => return Err(KeyError::Unsupported(Shown::of("RSA (private)"))),
                _ => {}
            }
        }
        let has = |label: &str| pem.windows(label.len()).any(|text| text == label.as_bytes());
        let found = if has("BEGIN ENCRYPTED PRIVATE KEY") || has("Proc-Type: 4,ENCRYPTED") {
            ", but an encrypted one: decrypt it with `openssl pkey`, and keep the file readable by root alone"
        } else if has("BEGIN OPENSSH PRIVATE KEY") {
            ", but a key of OpenSSH: make one with `openssl genpkey -algorithm ed25519`"
        } else if has("BEGIN PUBLIC KEY") || has("BEGIN CERTIFICATE") {
            ", but only public parts"
        } else {
            ""
        };
        Err(KeyError::NoPem { expected: "PRIVATE KEY", found })
    }

    /// Reads PKCS#8 (RFC 5958).
    ///
    /// # Errors
    /// It is malformed or of a kind that is not supported.
    pub fn from_pkcs8(der: &[u8]) -> Result<PrivateKey, KeyError> {
        if let Ok(pair) = Ed25519KeyPair::from_pkcs8(der) {
            let public = public_of(pair.public_key())?;
            return Ok(PrivateKey { pair: Pair::Ed25519(pair), public });
        }
        let read = |algorithm| EcdsaKeyPair::from_pkcs8(algorithm, der).ok();
        PrivateKey::ecdsa(read)?.ok_or_else(|| match pkcs8_algorithm(der) {
            Some(oid) => KeyError::Unsupported(Shown::of(name_of(oid))),
            None => KeyError::Malformed("private key"),
        })
    }

    fn from_sec1(der: &[u8]) -> Result<PrivateKey, KeyError> {
        let read = |algorithm| EcdsaKeyPair::from_private_key_der(algorithm, der).ok();
        PrivateKey::ecdsa(read)?.ok_or(KeyError::Unsupported(Shown::of("ECDSA on another curve than P-256 and P-384")))
    }

    fn ecdsa(read: impl Fn(&'static EcdsaSigningAlgorithm) -> Option<EcdsaKeyPair>) -> Result<Option<PrivateKey>, KeyError> {
        let p256 = (&ECDSA_P256_SHA256_ASN1_SIGNING, &ECDSA_P256_SHA256_FIXED_SIGNING);
        let p384 = (&ECDSA_P384_SHA384_ASN1_SIGNING, &ECDSA_P384_SHA384_FIXED_SIGNING);
        let curves = [(p256, Sha2::Sha256, AuthMethod::ECDSA_SHA256_P256), (p384, Sha2::Sha384, AuthMethod::ECDSA_SHA384_P384)];
        for ((asn1, fixed), hash, raw_method) in curves {
            if let (Some(asn1), Some(fixed)) = (read(asn1), read(fixed)) {
                let public = public_of(asn1.public_key())?;
                return Ok(Some(PrivateKey { pair: Pair::Ecdsa { asn1, fixed, hash, raw_method }, public }));
            }
        }
        Ok(None)
    }

    /// The public key that verifies what this key signs.
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// Signs for a peer that sent these SIGNATURE_HASH_ALGORITHMS; none of them is a peer without RFC 7427.
    ///
    /// # Errors
    /// The peer cannot verify what this key makes.
    pub fn sign(&self, peer_hashes: &[HashAlg], message: &[u8]) -> Result<AuthData, SignError> {
        let key = self.public.kind();
        let algorithm = match &self.pair {
            Pair::Ed25519(_) => SignatureAlgorithm::Ed25519,
            Pair::Ecdsa { hash, .. } => SignatureAlgorithm::Ecdsa(*hash),
        };
        let needed = algorithm.hash_id();
        let identifier = algorithm.identifier().ok_or(SignError::Internal)?;
        let digital = |signature: &[u8]| AuthData {
            method: AuthMethod::DIGITAL_SIGNATURE,
            data: [&[identifier.len() as u8], identifier, signature].concat(),
        };
        match (&self.pair, peer_hashes) {
            (Pair::Ed25519(_), []) => Err(SignError::NoDigitalSignature { key }),
            (Pair::Ecdsa { fixed, raw_method, .. }, []) => {
                Ok(AuthData { method: *raw_method, data: ecdsa_sign(fixed, message)?.as_ref().to_vec() })
            }
            (_, hashes) if !hashes.contains(&needed) => Err(SignError::HashNotAccepted { key, needed, offered: hashes.to_vec() }),
            (Pair::Ed25519(pair), _) => {
                let signature = pair.try_sign(message).map_err(|_| SignError::Internal)?;
                Ok(digital(signature.as_ref()))
            }
            (Pair::Ecdsa { asn1, .. }, _) => Ok(digital(ecdsa_sign(asn1, message)?.as_ref())),
        }
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey(of {}, …)", self.public)
    }
}

#[expect(clippy::disallowed_methods, reason = "the library ignores the generator and makes ECDSA's nonces itself")]
fn ecdsa_sign(pair: &EcdsaKeyPair, message: &[u8]) -> Result<aws_lc_rs::signature::Signature, SignError> {
    pair.sign(&SystemRandom::new(), message).map_err(|_| SignError::Internal)
}

fn public_of(key: &impl AsDer<PublicKeyX509Der<'static>>) -> Result<PublicKey, KeyError> {
    let spki = key.as_der().map_err(|_| KeyError::Malformed("private key"))?;
    PublicKey::from_spki(spki.as_ref())
}

/// What a PKCS#8 document says that its key is (RFC 5958 §2).
fn pkcs8_algorithm(der: &[u8]) -> Option<ObjectIdentifier> {
    let read = |document: AnyRef| {
        document.sequence(|reader| {
            let _version: u8 = reader.decode()?;
            let algorithm: AlgorithmIdentifierRef = reader.decode()?;
            reader.read_slice(reader.remaining_len())?;
            Ok::<_, der::Error>(algorithm.oid)
        })
    };
    AnyRef::from_der(der).and_then(read).ok()
}

#[cfg(test)]
mod tests;
