//! Keys, authorities and certificates for a test: made anew for each, and good or bad in one chosen way.
//!
//! Private keys are PKCS #8 of version 1 (RFC 5208), because strongSwan's parser does not know version 2 with its public key.

use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair};
use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyUsagePurpose, SanType};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Kinds of signature keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    Ed25519,
    EcdsaP256,
    EcdsaP384,
}

/// A private key. Its public half may be given away; Debug shows neither.
pub struct SigningKey(rcgen::KeyPair);

/// An X.509 certificate.
#[derive(Clone, PartialEq, Eq)]
pub struct Certificate {
    der: Vec<u8>,
    pem: String,
}

/// Whoever signs certificates: a root, or an intermediate below one.
#[derive(Debug)]
pub struct Authority {
    certificate: Certificate,
    params: Params,
    key: SigningKey,
    /// What its certificates need to be followed up to the root: itself and so on, nearest first. Empty for the root.
    chain: Vec<Certificate>,
}

/// A key with a certificate and what is needed to follow it up to the root.
#[derive(Debug)]
pub struct Credential {
    pub key: SigningKey,
    pub certificate: Certificate,
    /// Intermediate authorities, nearest first.
    pub chain: Vec<Certificate>,
}

/// When a certificate is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Validity {
    /// From yesterday until in thirty days.
    Now,
    /// From yesterday until in ten days, which is before any authority of this lab ends.
    NotForLong,
    /// It ended yesterday.
    Expired,
    /// It begins tomorrow.
    NotYet,
}

/// What a certificate says beside its key: `O=Adit lab, CN=name` and the alternative names.
#[derive(Clone, Debug)]
pub struct Subject {
    pub common_name: String,
    pub names: Vec<Name>,
    pub validity: Validity,
}

/// A subjectAltName (RFC 5280 §4.2.1.6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Name {
    Dns(String),
    Email(String),
    Ip(IpAddr),
}

struct Params(CertificateParams);

impl fmt::Debug for Params {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey(…)")
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Certificate({} bytes)", self.der.len())
    }
}

impl SigningKey {
    /// A new key from the system's random numbers.
    pub fn generate(kind: KeyKind) -> Result<SigningKey> {
        let ecdsa = |algorithm| EcdsaKeyPair::generate_pkcs8(algorithm, &SystemRandom::new());
        let pkcs8 = match kind {
            KeyKind::Ed25519 => Ed25519KeyPair::generate_pkcs8v1(&SystemRandom::new()),
            KeyKind::EcdsaP256 => ecdsa(&ECDSA_P256_SHA256_ASN1_SIGNING),
            KeyKind::EcdsaP384 => ecdsa(&ECDSA_P384_SHA384_ASN1_SIGNING),
        };
        let pkcs8 = pkcs8.ok().with_context(|| format!("cannot make a key of the kind {kind:?}"))?;
        Ok(SigningKey(rcgen::KeyPair::try_from(pkcs8.as_ref())?))
    }

    /// PKCS #8, DER.
    pub fn private_der(&self) -> &[u8] {
        self.0.serialized_der()
    }

    /// PKCS #8, PEM.
    pub fn private_pem(&self) -> String {
        self.0.serialize_pem()
    }

    /// SubjectPublicKeyInfo, PEM.
    pub fn public_pem(&self) -> String {
        self.0.public_key_pem()
    }
}

impl Certificate {
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    pub fn pem(&self) -> &str {
        &self.pem
    }

    fn of(certificate: &rcgen::Certificate) -> Certificate {
        Certificate { der: certificate.der().to_vec(), pem: certificate.pem() }
    }
}

impl Subject {
    /// Valid now, for one DNS name that is the common name too.
    pub fn dns(name: &str) -> Subject {
        Subject { common_name: name.to_owned(), names: vec![Name::Dns(name.to_owned())], validity: Validity::Now }
    }

    /// The same with another validity.
    pub fn valid(self, validity: Validity) -> Subject {
        Subject { validity, ..self }
    }

    fn params(&self) -> Result<CertificateParams> {
        let mut params = CertificateParams::default();
        params.distinguished_name = distinguished_name(&self.common_name);
        let now = SystemTime::now();
        let (from, until) = match self.validity {
            Validity::Now => (now - DAY, now + 30 * DAY),
            Validity::NotForLong => (now - DAY, now + 10 * DAY),
            Validity::Expired => (now - 30 * DAY, now - DAY),
            Validity::NotYet => (now + DAY, now + 30 * DAY),
        };
        (params.not_before, params.not_after) = (from.into(), until.into());
        params.use_authority_key_identifier_extension = true;
        for name in &self.names {
            params.subject_alt_names.push(match name {
                Name::Dns(name) => SanType::DnsName(name.as_str().try_into()?),
                Name::Email(name) => SanType::Rfc822Name(name.as_str().try_into()?),
                Name::Ip(address) => SanType::IpAddress(*address),
            });
        }
        Ok(params)
    }
}

impl Authority {
    /// A root that signs itself.
    pub fn root(name: &str, kind: KeyKind) -> Result<Authority> {
        let key = SigningKey::generate(kind)?;
        let params = authority_params(name)?;
        let certificate = Certificate::of(&params.self_signed(&key.0)?);
        Ok(Authority { certificate, params: Params(params), key, chain: Vec::new() })
    }

    /// An authority below this one.
    pub fn intermediate(&self, name: &str, kind: KeyKind) -> Result<Authority> {
        let key = SigningKey::generate(kind)?;
        let params = authority_params(name)?;
        let certificate = Certificate::of(&params.signed_by(&key.0, &self.issuer())?);
        let chain = [vec![certificate.clone()], self.chain.clone()].concat();
        Ok(Authority { certificate, params: Params(params), key, chain })
    }

    /// A new key with a certificate of this authority.
    pub fn issue(&self, subject: &Subject, kind: KeyKind) -> Result<Credential> {
        let key = SigningKey::generate(kind)?;
        let mut params = subject.params()?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let certificate = Certificate::of(&params.signed_by(&key.0, &self.issuer())?);
        Ok(Credential { key, certificate, chain: self.chain.clone() })
    }

    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    fn issuer(&self) -> Issuer<'_, &rcgen::KeyPair> {
        Issuer::from_params(&self.params.0, &self.key.0)
    }
}

fn authority_params(name: &str) -> Result<CertificateParams> {
    let subject = Subject { common_name: name.to_owned(), names: Vec::new(), validity: Validity::Now };
    let mut params = subject.params()?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn distinguished_name(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "Adit lab");
    name.push(DnType::CommonName, common_name);
    name
}
