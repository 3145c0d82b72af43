//! X.509 certificates (RFC 5280, RFC 4945): what IKE reads in one, and what can be wrong with one.

use std::time::Duration;

use adit_proto::ike::{IdType, Identification};
use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_cert::der::{DateTime, Decode, Encode};
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectAltName};

use crate::crypto::{KeyError, PublicKey};
use crate::identity::{DistinguishedName, Identity};
use crate::shown::Shown;

/// A certificate, taken apart. Nothing about it is verified.
#[derive(Clone, Debug)]
pub struct Certificate {
    der: Vec<u8>,
    subject: Shown,
    issuer: Shown,
    /// The two names in DER, by which one certificate is found to be that of another's issuer.
    names_der: [Vec<u8>; 2],
    /// The subjectAltNames that can be identities, and the subject if it is not empty.
    names: Vec<Identity>,
    not_before: u64,
    not_after: u64,
    key: Result<PublicKey, KeyError>,
    key_hash: [u8; 20],
    usage: Option<KeyUsage>,
    /// What it is for, as dotted object identifiers; `None`: for anything.
    purposes: Option<Vec<String>>,
    /// Whether it is a CA's, and if so how many CAs may come below it.
    ca: Option<Option<u8>>,
}

/// What is wrong with a certificate, or with the chain above it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    #[error("the file holds no CERTIFICATE in PEM")]
    NoPem,
    #[error("a certificate that cannot be read: {0}")]
    Malformed(Shown),
    #[error("the key in the certificate: {0}")]
    Key(#[from] KeyError),
    #[error("the certificate {subject} is not for {identity} ({}); it is for {}", identity.kind(), join(names))]
    NotForIdentity { subject: Shown, identity: Identity, names: Vec<Shown> },
    #[error("the certificate {subject} has expired: it was valid until {}, now is {}", date(*not_after), date(*now))]
    Expired { subject: Shown, not_after: u64, now: u64 },
    #[error("the certificate {subject} is not valid yet: it will be from {}, now is {}", date(*not_before), date(*now))]
    NotYetValid { subject: Shown, not_before: u64, now: u64 },
    #[error("no trusted CA stands for the certificate {subject}, issued by {issuer}; trusted: {}", join(trusted))]
    UnknownIssuer { subject: Shown, issuer: Shown, trusted: Vec<Shown> },
    #[error("the certificate {subject}, issued by {issuer}, bears a signature that is not the issuer's")]
    BadSignature { subject: Shown, issuer: Shown },
    #[error("the certificate {subject} is signed with an algorithm that is not supported or not secure")]
    SignatureAlgorithm { subject: Shown },
    #[error("{subject} is a CA's certificate, not a gateway's")]
    CaAsGateway { subject: Shown },
    #[error("{subject} is used as a CA, but its certificate does not allow that")]
    NotCa { subject: Shown },
    #[error("a CA above {subject} allows fewer CAs below it than there are")]
    PathTooLong { subject: Shown },
    #[error("a CA above {subject} may not stand for its names")]
    NameConstraint { subject: Shown },
    #[error("the key usage of the certificate {subject} does not include signatures")]
    KeyUsage { subject: Shown },
    #[error("the extended key usage of a certificate in the chain of {subject} is {}, none of which is for IKE", join(usages))]
    ExtendedKeyUsage { subject: Shown, usages: Vec<Shown> },
    #[error("a certificate in the chain of {subject} cannot be accepted: {fault}")]
    Chain { subject: Shown, fault: Shown },
}

fn join(names: &[Shown]) -> String {
    if names.is_empty() { "nothing".to_owned() } else { names.join("; ") }
}

/// Seconds since 1970 UTC as people read them.
pub(crate) fn date(unix: u64) -> String {
    match DateTime::from_unix_duration(Duration::from_secs(unix)) {
        Ok(date) => date.to_string(),
        Err(_) => format!("{unix} seconds after 1970"),
    }
}

impl CertificateError {
    /// A word for metrics and programs. It does not change between versions.
    pub fn code(&self) -> &'static str {
        match self {
            CertificateError::NoPem | CertificateError::Malformed(_) => "certificate_malformed",
            CertificateError::Key(_) => "certificate_key",
            CertificateError::NotForIdentity { .. } => "certificate_wrong_name",
            CertificateError::Expired { .. } => "certificate_expired",
            CertificateError::NotYetValid { .. } => "certificate_not_yet_valid",
            CertificateError::UnknownIssuer { .. } => "unknown_ca",
            CertificateError::BadSignature { .. } => "certificate_bad_signature",
            CertificateError::SignatureAlgorithm { .. } => "certificate_algorithm",
            CertificateError::CaAsGateway { .. } | CertificateError::NotCa { .. } => "certificate_ca",
            CertificateError::PathTooLong { .. } | CertificateError::NameConstraint { .. } => "certificate_constraint",
            CertificateError::KeyUsage { .. } | CertificateError::ExtendedKeyUsage { .. } => "certificate_usage",
            CertificateError::Chain { .. } => "certificate_chain",
        }
    }

    /// What to change, and at which end.
    pub fn remedy(&self) -> String {
        let text = match self {
            CertificateError::NoPem | CertificateError::Malformed(_) => {
                "issue the certificate anew: X.509 version 3, in DER or PEM"
            }
            CertificateError::Key(_) => "issue a certificate for a key of Ed25519 or ECDSA",
            CertificateError::NotForIdentity { identity, names, .. } => {
                return match names.first() {
                    Some(name) => format!(
                        "let the peer call itself by a name in its certificate, as {name}, or issue one with the \
                         subjectAltName {identity}"
                    ),
                    None => format!("issue a certificate with the subjectAltName {identity}"),
                };
            }
            CertificateError::Expired { .. } => "renew the certificate; if it is not that old, set the clock of this gateway",
            CertificateError::NotYetValid { .. } => "set the clock of this gateway, or of the CA that issued the certificate",
            CertificateError::UnknownIssuer { issuer, .. } => {
                return format!(
                    "add the CA {issuer} here, or let the peer send the intermediate CAs between it and a trusted one"
                );
            }
            CertificateError::BadSignature { .. } => "a CA of the same name with another key issued it: add the right one here",
            CertificateError::SignatureAlgorithm { .. } => {
                "issue the certificate anew, signed with SHA-2 and ECDSA, Ed25519 or RSA"
            }
            CertificateError::CaAsGateway { .. } => "give the gateway a certificate of its own, or pin its public key",
            CertificateError::NotCa { .. } => {
                "issue the CA's certificate with basicConstraints CA:TRUE and the usage keyCertSign"
            }
            CertificateError::PathTooLong { .. } => "issue the upper CA's certificate with a larger pathlen, or leave out a CA",
            CertificateError::NameConstraint { .. } => "issue the certificate from a CA whose name constraints allow its names",
            CertificateError::KeyUsage { .. } => {
                "issue the certificate with the key usage digitalSignature, or without key usage"
            }
            CertificateError::ExtendedKeyUsage { .. } => {
                "issue the certificate with the extended key usage ipsecIKE (1.3.6.1.5.5.7.3.17), serverAuth or clientAuth, or \
                 without one"
            }
            CertificateError::Chain { .. } => "issue the certificate anew without what is not accepted",
        };
        text.to_owned()
    }
}

impl Certificate {
    /// Reads DER.
    ///
    /// # Errors
    /// `Malformed`.
    pub fn from_der(der: &[u8]) -> Result<Certificate, CertificateError> {
        let malformed = |error: x509_cert::der::Error| CertificateError::Malformed(Shown::of(error));
        let parsed = x509_cert::Certificate::from_der(der).map_err(malformed)?;
        let tbs = parsed.tbs_certificate();
        let alternative = tbs.get_extension::<SubjectAltName>().map_err(malformed)?;
        let constraints = tbs.get_extension::<BasicConstraints>().map_err(malformed)?;
        let usage = tbs.get_extension::<KeyUsage>().map_err(malformed)?;
        let purposes = tbs.get_extension::<ExtendedKeyUsage>().map_err(malformed)?;
        let names_der = [tbs.subject(), tbs.issuer()].map(|name| name.to_der().unwrap_or_default());
        let spki = tbs.subject_public_key_info();
        let key_hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, &spki.to_der().map_err(malformed)?);

        let subject = DistinguishedName::from_name(tbs.subject()).ok();
        let alternative = alternative.map(|(_, names)| names.0).unwrap_or_default();
        let alternative: Vec<Identity> = alternative.iter().filter_map(identity).collect();
        let shown = match (&subject, alternative.first()) {
            (Some(subject), _) => Shown::of(subject),
            (None, Some(name)) => Shown::of(name),
            (None, None) => Shown::of("without a name"),
        };
        Ok(Certificate {
            der: der.to_vec(),
            subject: shown,
            issuer: DistinguishedName::from_name(tbs.issuer()).map_or(Shown::of("nobody"), Shown::of),
            names_der,
            names: alternative.into_iter().chain(subject.map(Identity::Dn)).collect(),
            not_before: tbs.validity().not_before.to_unix_duration().as_secs(),
            not_after: tbs.validity().not_after.to_unix_duration().as_secs(),
            key: PublicKey::from_certificate(&parsed),
            key_hash: key_hash.as_ref().try_into().unwrap_or([0; 20]),
            usage: usage.map(|(_, usage)| usage),
            purposes: purposes.map(|(_, purposes)| purposes.0.iter().map(ToString::to_string).collect()),
            ca: constraints.filter(|(_, constraints)| constraints.ca).map(|(_, constraints)| constraints.path_len_constraint),
        })
    }

    /// Reads all certificates in a PEM file, in their order.
    ///
    /// # Errors
    /// There is none, or one cannot be read.
    pub fn all_from_pem(pem: &[u8]) -> Result<Vec<Certificate>, CertificateError> {
        let read = |section: Result<CertificateDer, rustls_pki_types::pem::Error>| match section {
            Ok(der) => Certificate::from_der(&der),
            Err(error) => Err(CertificateError::Malformed(Shown::of(error))),
        };
        let all = CertificateDer::pem_slice_iter(pem).map(read).collect::<Result<Vec<_>, _>>()?;
        if all.is_empty() { Err(CertificateError::NoPem) } else { Ok(all) }
    }

    /// The certificate as it goes into a CERT payload.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// Whom it is for, for people.
    pub fn subject(&self) -> &Shown {
        &self.subject
    }

    /// Who issued it, for people.
    pub fn issuer(&self) -> &Shown {
        &self.issuer
    }

    /// Begin of its validity, in seconds since 1970 UTC.
    pub fn not_before(&self) -> u64 {
        self.not_before
    }

    /// End of its validity, in seconds since 1970 UTC.
    pub fn not_after(&self) -> u64 {
        self.not_after
    }

    /// The key that it is for.
    ///
    /// # Errors
    /// The key is of a kind that is not supported, or malformed.
    pub fn public_key(&self) -> Result<&PublicKey, KeyError> {
        self.key.as_ref().map_err(Clone::clone)
    }

    /// Who it is for: the subjectAltNames that can be identities, then the subject.
    pub fn identities(&self) -> &[Identity] {
        &self.names
    }

    /// Whether it is for this identity: the subject for a distinguished name, a subjectAltName for any other (RFC 4945 §3.1).
    /// No wildcards and no common names.
    pub fn names(&self, identity: &Identity) -> bool {
        self.names.contains(identity)
    }

    /// Everything that [`Certificate::names`] says yes to, for people.
    pub fn all_names(&self) -> Vec<Shown> {
        Shown::list(&self.names)
    }

    /// Whether it is valid at a time, in seconds since 1970 UTC.
    ///
    /// # Errors
    /// `Expired` or `NotYetValid`.
    pub fn check_dates(&self, now: u64) -> Result<(), CertificateError> {
        let subject = || self.subject.clone();
        if now > self.not_after {
            Err(CertificateError::Expired { subject: subject(), not_after: self.not_after, now })
        } else if now < self.not_before {
            Err(CertificateError::NotYetValid { subject: subject(), not_before: self.not_before, now })
        } else {
            Ok(())
        }
    }

    /// SHA-1 of the SubjectPublicKeyInfo, by which CERTREQ names CAs (RFC 7296 §3.7).
    pub(super) fn key_hash(&self) -> &[u8; 20] {
        &self.key_hash
    }

    /// Whether it may sign other certificates.
    pub(super) fn may_certify(&self) -> bool {
        self.ca.is_some() && self.usage.is_none_or(|usage| usage.key_cert_sign())
    }

    /// Whether it may sign AUTH payloads (RFC 4945 §5.1.3.2).
    pub(super) fn may_sign(&self) -> bool {
        self.usage.is_none_or(|usage| usage.digital_signature() || usage.non_repudiation())
    }

    /// Whether it is a CA's.
    pub(super) fn is_ca(&self) -> bool {
        self.ca.is_some()
    }

    /// What it is for, as dotted object identifiers; `None`: for anything (RFC 5280 §4.2.1.12).
    pub(super) fn purposes(&self) -> Option<&[String]> {
        self.purposes.as_deref()
    }

    /// Subject and issuer in DER.
    pub(super) fn names_der(&self) -> (&[u8], &[u8]) {
        (&self.names_der[0], &self.names_der[1])
    }

    /// How many CAs may come below this one.
    pub(super) fn path_len_max(&self) -> Option<u8> {
        self.ca.flatten()
    }
}

/// The names that IKE knows, too. What could not come in an ID payload is no name of anybody: with a line end in it, for example.
fn identity(name: &GeneralName) -> Option<Identity> {
    let of = |id_type, data: &[u8]| Identity::from_payload(&Identification { id_type, data: data.to_vec() }).ok();
    match name {
        GeneralName::DnsName(name) => of(IdType::FQDN, name.as_bytes()),
        GeneralName::Rfc822Name(address) => of(IdType::RFC822_ADDR, address.as_bytes()),
        GeneralName::DirectoryName(name) => DistinguishedName::from_name(name).ok().map(Identity::Dn),
        GeneralName::IpAddress(address) => {
            let bytes = address.as_bytes();
            let v4 = || <[u8; 4]>::try_from(bytes).ok().map(|bytes| Identity::Ip(bytes.into()));
            let v6 = || <[u8; 16]>::try_from(bytes).ok().map(|bytes| Identity::Ip(bytes.into()));
            v4().or_else(v6)
        }
        _ => None,
    }
}
