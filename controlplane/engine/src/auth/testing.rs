//! Certificates for tests, issued on the spot.

use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, PKCS_ECDSA_P256_SHA256, SanType, SignatureAlgorithm,
    date_time_ymd,
};

use super::{LocalKey, TrustAnchors};
use crate::crypto::PrivateKey;

/// 2027-06-01 00:00 UTC: in the middle of what [`params`] makes.
pub const NOW: u64 = 1_811_808_000;

/// A certificate with its key.
pub struct Issued {
    pub params: CertificateParams,
    pub key: KeyPair,
    pub der: Vec<u8>,
}

/// The same certificate with a change.
pub fn with(mut params: CertificateParams, change: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
    change(&mut params);
    params
}

/// A gateway's certificate without subjectAltName, valid from 2027-01-01 to 2028-01-01.
pub fn params(common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CountryName, "CH");
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.not_before = date_time_ymd(2027, 1, 1);
    params.not_after = date_time_ymd(2028, 1, 1);
    params
}

/// The same with subjectAltNames: what is an address or has an '@' is told apart.
pub fn named(common_name: &str, names: &[&str]) -> CertificateParams {
    let name = |name: &&str| match name.parse() {
        Ok(address) => SanType::IpAddress(address),
        Err(_) if name.contains('@') => SanType::Rfc822Name((*name).try_into().unwrap()),
        Err(_) => SanType::DnsName((*name).try_into().unwrap()),
    };
    with(params(common_name), |params| params.subject_alt_names = names.iter().map(name).collect())
}

/// The same for a CA.
pub fn ca_params(common_name: &str, path_len_max: Option<u8>) -> CertificateParams {
    let constraints = path_len_max.map_or(BasicConstraints::Unconstrained, BasicConstraints::Constrained);
    with(params(common_name), |params| params.is_ca = IsCa::Ca(constraints))
}

impl Issued {
    /// A certificate that stands for itself.
    pub fn by_itself(params: CertificateParams, algorithm: &'static SignatureAlgorithm) -> Issued {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let der = params.self_signed(&key).unwrap().der().to_vec();
        Issued { params, key, der }
    }

    /// A root with this name.
    pub fn root(common_name: &str) -> Issued {
        Issued::by_itself(ca_params(common_name, None), &PKCS_ECDSA_P256_SHA256)
    }

    /// Issues a certificate for a fresh key.
    pub fn issue(&self, params: CertificateParams) -> Issued {
        self.issue_for(params, &PKCS_ECDSA_P256_SHA256)
    }

    pub fn issue_for(&self, params: CertificateParams, algorithm: &'static SignatureAlgorithm) -> Issued {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let issuer = Issuer::from_params(&self.params, &self.key);
        let der = params.signed_by(&key, &issuer).unwrap().der().to_vec();
        Issued { params, key, der }
    }

    pub fn pem(&self) -> String {
        crate::testing::pem("CERTIFICATE", &self.der)
    }

    /// As something to trust.
    pub fn anchors(&self) -> TrustAnchors {
        TrustAnchors::from_pem(self.pem().as_bytes()).unwrap()
    }

    pub fn private(&self) -> PrivateKey {
        PrivateKey::from_pkcs8(self.key.serialized_der()).unwrap()
    }

    /// As the identity of a gateway, with the certificates above it.
    pub fn local(&self, above: &[&Issued]) -> LocalKey {
        let chain = above.iter().fold(self.pem(), |pem, issuer| pem + &issuer.pem());
        LocalKey::certified(self.private(), chain.as_bytes()).unwrap()
    }
}
