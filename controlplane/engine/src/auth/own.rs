//! Judges the certificates that this gateway shows to others, before a peer does: pure, for a check of the configuration.

use std::fmt;

use super::certificate::{Certificate, CertificateError, date};
use super::chain;
use crate::crypto::PublicKey;
use crate::identity::Identity;
use crate::shown::Shown;

/// How long before its end a certificate is worth a warning, in seconds.
pub const WARN_BEFORE: u64 = 30 * 24 * 3600;

/// Whether a peer would refuse us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Not now, but soon, or only some peers.
    Warning,
    /// Every peer that looks at the certificate.
    Error,
}

/// One thing about our own certificates that a peer may object to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// What a peer would say.
    Refused(CertificateError),
    /// The private key is another one.
    OtherKey { subject: Shown, certified: String, key: String },
    /// It is valid for less than [`WARN_BEFORE`].
    ExpiresSoon { subject: Shown, not_after: u64, now: u64 },
    /// A certificate behind the first one is not of the CA that issued the one before it.
    NotInChain { subject: Shown, issuer_of: Shown, issuer: Shown },
}

impl Finding {
    pub fn severity(&self) -> Severity {
        match self {
            Finding::Refused(_) | Finding::OtherKey { .. } => Severity::Error,
            Finding::ExpiresSoon { .. } | Finding::NotInChain { .. } => Severity::Warning,
        }
    }

    /// What to change.
    pub fn remedy(&self) -> String {
        match self {
            Finding::Refused(CertificateError::NotForIdentity { identity, names, .. }) => match names.first() {
                Some(name) => {
                    format!(
                        "set the gateway's identity to a name in the certificate, as {name}, or issue one with the subjectAltName {identity}"
                    )
                }
                None => format!("issue a certificate with the subjectAltName {identity}"),
            },
            Finding::Refused(error) => error.remedy(),
            Finding::OtherKey { .. } => "give the private key that the certificate was issued for, and the gateway's own \
                                         certificate first in the file"
                .to_owned(),
            Finding::ExpiresSoon { .. } => "renew the certificate: the new file is taken by itself".to_owned(),
            Finding::NotInChain { .. } => "put the gateway's own certificate first in the file, then that of the CA that issued \
                                           it, and so on; leave out all others"
                .to_owned(),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Finding::Refused(error) => write!(f, "{error}"),
            Finding::OtherKey { subject, certified, key } => {
                write!(f, "the certificate {subject} is for another key ({certified}) than the private key's ({key})")
            }
            Finding::ExpiresSoon { subject, not_after, now } => {
                let days = not_after.saturating_sub(*now) / (24 * 3600);
                write!(f, "the certificate {subject} is valid until {}, for {days} more days", date(*not_after))
            }
            Finding::NotInChain { subject, issuer_of, issuer } => {
                write!(f, "the certificate {subject} does not belong there: {issuer_of} was issued by {issuer}")
            }
        }
    }
}

/// What is wrong, or will soon be, with the certificates of this gateway: the first one is its own, for `key` and `identity`. `now`
/// is in seconds since 1970 UTC. Nothing to say about no certificates.
pub fn judge_own(chain: &[Certificate], key: &PublicKey, identity: &Identity, now: u64) -> Vec<Finding> {
    let mut out = Vec::new();
    let Some(own) = chain.first() else { return out };
    match own.public_key() {
        Err(error) => out.push(Finding::Refused(error.into())),
        Ok(certified) if certified != key => {
            let (certified, key) = (certified.to_string(), key.to_string());
            out.push(Finding::OtherKey { subject: own.subject().clone(), certified, key });
        }
        Ok(_) => {}
    }
    if !own.names(identity) {
        let (subject, names) = (own.subject().clone(), own.all_names());
        out.push(Finding::Refused(CertificateError::NotForIdentity { subject, identity: identity.clone(), names }));
    }
    out.extend(chain::check_use(own).err().map(Finding::Refused));
    for certificate in chain {
        match certificate.check_dates(now) {
            Err(error) => out.push(Finding::Refused(error)),
            Ok(()) if certificate.not_after().saturating_sub(now) < WARN_BEFORE => {
                let (subject, not_after) = (certificate.subject().clone(), certificate.not_after());
                out.push(Finding::ExpiresSoon { subject, not_after, now });
            }
            Ok(()) => {}
        }
    }
    for (below, above) in chain.iter().zip(&chain[1..]) {
        if below.issuer() != above.subject() {
            let (subject, issuer_of, issuer) = (above.subject().clone(), below.subject().clone(), below.issuer().clone());
            out.push(Finding::NotInChain { subject, issuer_of, issuer });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use rcgen::{ExtendedKeyUsagePurpose, KeyUsagePurpose};

    use super::*;
    use crate::auth::testing::{Issued, NOW, ca_params, named, with};

    fn chain(issued: &[&Issued]) -> Vec<Certificate> {
        issued.iter().map(|one| Certificate::from_der(&one.der).unwrap()).collect()
    }

    fn codes(chain: &[Certificate], key: &Issued, identity: &str, now: u64) -> Vec<(Severity, String)> {
        let findings = judge_own(chain, key.private().public(), &identity.parse().unwrap(), now);
        findings.iter().map(|finding| (finding.severity(), finding.to_string())).collect()
    }

    #[test]
    fn a_good_certificate_has_nothing_to_be_said_about() {
        let root = Issued::root("Root");
        let sub = root.issue(ca_params("Sub", None));
        let own = sub.issue(named("gw", &["gw.example.org"]));
        assert_eq!(codes(&chain(&[&own, &sub]), &own, "gw.example.org", NOW), []);
        assert_eq!(codes(&[], &own, "gw.example.org", NOW), []);
    }

    #[test]
    fn everything_that_a_peer_would_refuse_is_found_at_once() {
        let root = Issued::root("Root");
        let usage = |params: &mut rcgen::CertificateParams| {
            params.key_usages = vec![KeyUsagePurpose::KeyEncipherment];
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
        };
        let (own, other) = (root.issue(with(named("gw", &["gw.example.org"]), usage)), root.issue(named("x", &[])));
        let all = chain(&[&own, &other]);
        let said = codes(&all, &other, "gw.example.net", NOW + 365 * 24 * 3600);
        let about =
            ["is for another key", "is not for gw.example.net", "key usage", "has expired", "has expired", "does not belong"];
        assert_eq!(said.len(), about.len(), "{said:?}");
        assert!(said.iter().zip(about).all(|((_, text), about)| text.contains(about)), "{said:?}");
        assert_eq!(said.iter().filter(|(severity, _)| *severity == Severity::Warning).count(), 1);
    }

    #[test]
    fn a_certificate_is_warned_of_a_month_before_its_end() {
        let root = Issued::root("Root");
        let own = root.issue(named("gw", &["gw.example.org"]));
        let all = chain(&[&own]);
        let end = all[0].not_after();
        assert_eq!(codes(&all, &own, "gw.example.org", end - WARN_BEFORE), []);
        let said = codes(&all, &own, "gw.example.org", end - WARN_BEFORE + 1);
        assert_eq!(said.len(), 1);
        assert!(said[0].0 == Severity::Warning && said[0].1.contains("29 more days"), "{said:?}");
        assert!(codes(&all, &own, "gw.example.org", end + 1)[0].1.contains("has expired"));
    }
}
