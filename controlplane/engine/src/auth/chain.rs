//! From a peer's certificate to a trusted CA (RFC 5280 §6).
//!
//! Signatures, dates, basic constraints and name constraints are rustls-webpki's work. It looks at one path only, made of what
//! was sent, in which no name comes twice: among certificates of one name it would try every way through them, and anybody can
//! send such. The first certificate is the peer's own, the others may come in any order (RFC 7296 §3.6), and what is not on the
//! way up from the first costs a look at its name. What differs for IKE is decided here: which extended key usages are good
//! (peers' certificates are often made for TLS, or have none), the key usages, the dates and the path length of the trusted CA
//! itself; subjectAltNames are compared with IKE identities in [`super::certificate`]. Revocation is not checked.

use std::time::Duration;

use rustls_pki_types::{CertificateDer, SignatureVerificationAlgorithm, TrustAnchor, UnixTime};
use webpki::aws_lc_rs as algorithms;
use webpki::{EndEntityCert, Error, ExtendedKeyUsageValidator, KeyPurposeIdIter, KeyUsage, RequiredEkuNotFoundContext};

use super::certificate::{Certificate, CertificateError};
use crate::shown::Shown;

/// Algorithms of signatures on certificates. None with SHA-1.
const ALGORITHMS: &[&dyn SignatureVerificationAlgorithm] = &[
    algorithms::ED25519,
    algorithms::ECDSA_P256_SHA256,
    algorithms::ECDSA_P256_SHA384,
    algorithms::ECDSA_P256_SHA512,
    algorithms::ECDSA_P384_SHA256,
    algorithms::ECDSA_P384_SHA384,
    algorithms::ECDSA_P384_SHA512,
    algorithms::ECDSA_P521_SHA256,
    algorithms::ECDSA_P521_SHA384,
    algorithms::ECDSA_P521_SHA512,
    algorithms::RSA_PKCS1_2048_8192_SHA256,
    algorithms::RSA_PKCS1_2048_8192_SHA384,
    algorithms::RSA_PKCS1_2048_8192_SHA512,
    algorithms::RSA_PSS_2048_8192_SHA256_LEGACY_KEY,
    algorithms::RSA_PSS_2048_8192_SHA384_LEGACY_KEY,
    algorithms::RSA_PSS_2048_8192_SHA512_LEGACY_KEY,
];

/// id-kp-ipsecIKE (RFC 4945 §5.1.3.12).
const IPSEC_IKE: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 17];

/// Extended key usages with one of which a certificate is good for IKE. One without the extension always is.
const GOOD_USAGES: &[&[usize]] = &[
    &[1, 3, 6, 1, 5, 5, 7, 3, 17], // ipsecIKE
    &[2, 5, 29, 37, 0],            // any
    &[1, 3, 6, 1, 5, 5, 7, 3, 1],  // serverAuth: other products insist on it
    &[1, 3, 6, 1, 5, 5, 7, 3, 2],  // clientAuth
    &[1, 3, 6, 1, 5, 5, 7, 3, 5],  // ipsecEndSystem, ipsecTunnel, ipsecUser: given up by RFC 4945, still in use
    &[1, 3, 6, 1, 5, 5, 7, 3, 6],
    &[1, 3, 6, 1, 5, 5, 7, 3, 7],
    &[1, 3, 6, 1, 5, 5, 8, 2, 2], // iKEIntermediate: some clients insist on it
];

/// A chain that leads to a trusted CA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// The name of that CA.
    pub issuer: Shown,
    /// The end of the validity of the first one of its certificates to end, that of the CA included, in seconds since 1970 UTC.
    pub until: u64,
}

/// CAs whose word is taken. They need not be roots.
#[derive(Clone, Debug)]
pub struct TrustAnchors {
    certificates: Vec<Certificate>,
    /// The same, in the same order.
    anchors: Vec<TrustAnchor<'static>>,
}

impl TrustAnchors {
    /// Reads all CA certificates in a PEM file.
    ///
    /// # Errors
    /// There is none, one cannot be read, or one is not a CA's: a gateway's own certificate is trusted by pinning its key.
    pub fn from_pem(pem: &[u8]) -> Result<TrustAnchors, CertificateError> {
        let certificates = Certificate::all_from_pem(pem)?;
        let anchors = certificates.iter().map(anchor).collect::<Result<_, _>>()?;
        Ok(TrustAnchors { certificates, anchors })
    }

    /// The CAs.
    pub fn certificates(&self) -> &[Certificate] {
        &self.certificates
    }

    /// The data of our CERTREQ payload: SHA-1 hashes of the CAs' public keys (RFC 7296 §3.7).
    pub fn key_hashes(&self) -> Vec<u8> {
        self.certificates.iter().flat_map(|certificate| *certificate.key_hash()).collect()
    }

    /// Whether they are the same CAs in the same order.
    pub(super) fn is_same(&self, other: &TrustAnchors) -> bool {
        self.certificates.iter().map(Certificate::der).eq(other.certificates.iter().map(Certificate::der))
    }

    /// Verifies a chain of certificates, the peer's own and those that it sent with it. `now` is in seconds since 1970 UTC. Costs a
    /// signature for each certificate at most, and one for each trusted CA of the right name (two, where a certificate of that name was
    /// sent as well); where the uppermost is forged, only the latter.
    ///
    /// # Errors
    /// Nothing trusted leads to it, or not at this time, or not for this use.
    pub fn verify(&self, own: &Certificate, above: &[Certificate], now: u64) -> Result<Verified, CertificateError> {
        self.verify_by(ALGORITHMS, own, above, now)
    }

    fn verify_by(
        &self,
        algorithms: &[&dyn SignatureVerificationAlgorithm],
        own: &Certificate,
        above: &[Certificate],
        now: u64,
    ) -> Result<Verified, CertificateError> {
        let own_der = CertificateDer::from(own.der());
        let path = path_above(own, above.to_vec());
        let above: Vec<CertificateDer> = path.iter().map(|certificate| CertificateDer::from(certificate.der())).collect();
        let explain = |error: Error| self.explain(own, &path, error, now);
        let peer = EndEntityCert::try_from(&own_der).map_err(explain)?;
        let time = UnixTime::since_unix_epoch(Duration::from_secs(now));
        let check = |path: &webpki::VerifiedPath| {
            let between: Vec<Vec<u8>> = path.intermediate_certificates().map(|ca| ca.der().to_vec()).collect();
            self.check_path(path.anchor(), &between, now)
        };
        let verified =
            peer.verify_for_usage(algorithms, &self.anchors, &above, time, IkeUsage, None, Some(&check)).map_err(explain)?;
        if !own.may_sign() {
            return Err(CertificateError::KeyUsage { subject: own.subject().clone() });
        }
        let ca = self.certificate_of(verified.anchor());
        let used = |certificate: &&Certificate| verified.intermediate_certificates().any(|one| *one.der() == *certificate.der());
        let all = std::iter::once(own).chain(path.iter().filter(used)).chain(ca);
        let until = all.map(Certificate::not_after).min().unwrap_or(0);
        Ok(Verified { issuer: ca.map_or_else(Shown::default, |ca| ca.subject().clone()), until })
    }

    fn certificate_of(&self, anchor: &TrustAnchor) -> Option<&Certificate> {
        let index = self.anchors.iter().position(|known| known == anchor)?;
        self.certificates.get(index)
    }

    /// What the library does not look at: the trusted CA's dates and path length, and whether those between may certify.
    fn check_path(&self, anchor: &TrustAnchor, between: &[Vec<u8>], now: u64) -> Result<(), Error> {
        let ca = self.certificate_of(anchor).ok_or(Error::UnknownIssuer)?;
        let time = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        match ca.check_dates(now) {
            Err(CertificateError::NotYetValid { not_before, .. }) => {
                return Err(Error::CertNotValidYet { time: time(now), not_before: time(not_before) });
            }
            Err(_) => return Err(Error::CertExpired { time: time(now), not_after: time(ca.not_after()) }),
            Ok(()) => {}
        }
        if ca.path_len_max().is_some_and(|max| between.len() > max.into()) {
            return Err(Error::PathLenConstraintViolated);
        }
        let may_certify = |der: &Vec<u8>| Certificate::from_der(der).is_ok_and(|certificate| certificate.may_certify());
        if between.iter().all(may_certify) { Ok(()) } else { Err(Error::EndEntityUsedAsCa) }
    }

    /// Subject and issuer of the certificate at which the way up from the peer's own ends: below a trusted name, or nowhere.
    fn top(&self, own: &Certificate, above: &[Certificate]) -> (Shown, Shown) {
        let mut top = own;
        // Each certificate takes the way one step up at most, so circles end as well.
        for _ in above {
            let is_end = top.subject() == top.issuer() || self.certificates.iter().any(|ca| ca.subject() == top.issuer());
            match above.iter().find(|certificate| !is_end && certificate.subject() == top.issuer()) {
                Some(certificate) => top = certificate,
                None => break,
            }
        }
        (top.subject().clone(), top.issuer().clone())
    }

    /// The library's error with the certificate that it is about.
    fn explain(&self, own: &Certificate, above: &[Certificate], error: Error, now: u64) -> CertificateError {
        let subject = own.subject().clone();
        match error {
            Error::CertExpired { .. } | Error::CertNotValidYet { .. } => {
                // One of them is out of date, and it is the first that is found to be on the way up.
                let out_of_date = |certificate: &Certificate| certificate.check_dates(now).err();
                let all = std::iter::once(own).chain(above).chain(&self.certificates);
                all.into_iter()
                    .find_map(out_of_date)
                    .unwrap_or(CertificateError::Chain { subject, fault: Shown::of(format_args!("{error:?}")) })
            }
            Error::UnknownIssuer => {
                let (subject, issuer) = self.top(own, above);
                let trusted = self.certificates.iter().map(|ca| ca.subject().clone()).collect();
                CertificateError::UnknownIssuer { subject, issuer, trusted }
            }
            Error::InvalidSignatureForPublicKey => {
                let (subject, issuer) = self.top(own, above);
                CertificateError::BadSignature { subject, issuer }
            }
            Error::UnsupportedSignatureAlgorithmContext(_) | Error::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => {
                CertificateError::SignatureAlgorithm { subject }
            }
            Error::CaUsedAsEndEntity => CertificateError::CaAsGateway { subject },
            Error::EndEntityUsedAsCa => {
                let culprit = above.iter().find(|certificate| !certificate.may_certify());
                CertificateError::NotCa { subject: culprit.unwrap_or(own).subject().clone() }
            }
            Error::PathLenConstraintViolated => CertificateError::PathTooLong { subject },
            Error::NameConstraintViolation => CertificateError::NameConstraint { subject },
            Error::RequiredEkuNotFoundContext(context) => {
                CertificateError::ExtendedKeyUsage { subject, usages: Shown::list(context.present.iter().map(|oid| dotted(oid))) }
            }
            Error::EmptyEkuExtension => CertificateError::ExtendedKeyUsage { subject, usages: Vec::new() },
            other => CertificateError::Chain { subject, fault: Shown::of(format_args!("{other:?}")) },
        }
    }
}

/// The way up from a certificate through those that were sent with it, in any order. No name comes twice, so it has no branches and
/// no circles.
fn path_above(own: &Certificate, mut sent: Vec<Certificate>) -> Vec<Certificate> {
    let (subject, issuer) = own.names_der();
    let (mut seen, mut wanted) = (vec![subject.to_vec()], issuer.to_vec());
    let mut path = Vec::new();
    while !seen.contains(&wanted)
        && let Some(index) = sent.iter().position(|certificate| certificate.names_der().0 == wanted)
    {
        let next = sent.remove(index);
        seen.push(std::mem::replace(&mut wanted, next.names_der().1.to_vec()));
        path.push(next);
    }
    path
}

/// Whether a gateway may prove itself with this certificate, whoever issued it.
///
/// # Errors
/// It is a CA's, or not for signatures, or not for IKE.
pub(super) fn check_use(own: &Certificate) -> Result<(), CertificateError> {
    let subject = own.subject().clone();
    if own.is_ca() {
        return Err(CertificateError::CaAsGateway { subject });
    }
    if !own.may_sign() {
        return Err(CertificateError::KeyUsage { subject });
    }
    let is_good = |purpose: &String| GOOD_USAGES.iter().any(|good| dotted(good) == *purpose);
    match own.purposes() {
        Some(purposes) if !purposes.iter().any(is_good) => {
            Err(CertificateError::ExtendedKeyUsage { subject, usages: Shown::list(purposes) })
        }
        Some(_) | None => Ok(()),
    }
}

fn anchor(certificate: &Certificate) -> Result<TrustAnchor<'static>, CertificateError> {
    if !certificate.may_certify() {
        return Err(CertificateError::NotCa { subject: certificate.subject().clone() });
    }
    let der = CertificateDer::from(certificate.der());
    match webpki::anchor_from_trusted_cert(&der) {
        Ok(anchor) => Ok(anchor.to_owned()),
        Err(error) => Err(CertificateError::Malformed(Shown::of(format_args!("{error:?}")))),
    }
}

/// An object identifier as people write it.
fn dotted(oid: &[usize]) -> String {
    oid.iter().map(ToString::to_string).collect::<Vec<_>>().join(".")
}

/// The extended key usages that IKE accepts (RFC 4945 §5.1.3.12 leaves it to local policy).
struct IkeUsage;

impl ExtendedKeyUsageValidator for IkeUsage {
    fn validate(&self, usages: KeyPurposeIdIter<'_, '_>) -> Result<(), Error> {
        let mut present = Vec::new();
        for usage in usages {
            let usage = usage?.to_decoded_oid();
            if GOOD_USAGES.contains(&usage.as_slice()) {
                return Ok(());
            }
            present.push(usage);
        }
        if present.is_empty() {
            return Ok(());
        }
        let required = KeyUsage::required_if_present(IPSEC_IKE);
        Err(Error::RequiredEkuNotFoundContext(RequiredEkuNotFoundContext { required, present }))
    }
}

#[cfg(test)]
mod tests;
