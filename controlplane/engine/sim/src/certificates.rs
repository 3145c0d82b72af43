//! Certificates, issued on the spot.

use std::sync::Arc;
use std::time::Duration;

use adit_engine::auth::{LocalAuth, LocalKey, RemoteAuth, TrustAnchors};
use adit_engine::crypto::PrivateKey;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, PKCS_ED25519, date_time_ymd};

/// A CA.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    pub fn new(name: &str) -> Authority {
        let key = KeyPair::generate_for(&PKCS_ED25519).expect("a key");
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Authority { issuer: Issuer::new(params, key), pem }
    }

    /// Valid from 2026 to the end of a year.
    pub fn issue(&self, name: &str, last_year: i32) -> LocalAuth {
        self.issue_with(name, |params| params.not_after = date_time_ymd(last_year, 12, 31))
    }

    /// Valid from 2026 to the end of a second, since 1970 UTC.
    pub fn issue_until(&self, name: &str, until: u64) -> LocalAuth {
        self.issue_with(name, |params| params.not_after = date_time_ymd(1970, 1, 1) + Duration::from_secs(until))
    }

    /// With several names, valid to the end of 2028.
    pub fn issue_for(&self, names: &[&str]) -> LocalAuth {
        self.issue_all(names, |params| params.not_after = date_time_ymd(2028, 12, 31))
    }

    fn issue_with(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> LocalAuth {
        self.issue_all(&[name], change)
    }

    fn issue_all(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> LocalAuth {
        let key = KeyPair::generate_for(&PKCS_ED25519).expect("a key");
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("names");
        params.not_before = date_time_ymd(2026, 1, 1);
        change(&mut params);
        let pem = params.signed_by(&key, &self.issuer).expect("a certificate").pem();
        let private = PrivateKey::from_pkcs8(key.serialized_der()).expect("a key");
        LocalAuth::Key(Arc::new(LocalKey::certified(private, pem.as_bytes()).expect("a certificate of its key")))
    }

    /// As something to trust.
    pub fn trusted(&self) -> RemoteAuth {
        RemoteAuth::Ca(Arc::new(TrustAnchors::from_pem(self.pem.as_bytes()).expect("a CA")))
    }
}
