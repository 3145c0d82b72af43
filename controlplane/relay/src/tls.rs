//! TLS between a client and a relay: version 1.3 alone, with a key exchange first that a quantum computer does not break, and a
//! server that is known by its key (a pin) or by a CA.
//!
//! A pin is the SHA-256 of the SubjectPublicKeyInfo of the certificate (RFC 7469 §2.4 names it the same way). It says all that a
//! client has to know: neither the name in the certificate nor its dates matter beside it, so a box whose clock stands at 1970
//! can register. With a CA, name and dates count as usual.

use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_name;
use rustls::crypto::aws_lc_rs::{self as suite, kx_group};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{NoServerSessionStorage, ParsedCertificate};
use rustls::version::TLS13;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, OtherError, RootCertStore, ServerConfig, SignatureScheme};

use crate::limits::{CHAIN_MAX, PINS_MAX};
use crate::secret_file::{self, FileError, Readers};

/// What is spoken inside (RFC 7301).
const ALPN: &[u8] = b"http/1.1";
/// How a pin begins where people see it.
const PIN_PREFIX: &str = "sha256:";

/// The cryptography of both sides.
fn provider() -> Arc<CryptoProvider> {
    let kx_groups = vec![kx_group::X25519MLKEM768, kx_group::X25519, kx_group::SECP256R1];
    Arc::new(CryptoProvider { kx_groups, ..suite::default_provider() })
}

/// The key of a server, told by its hash: `sha256:…`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pin([u8; 32]);

/// Why something is no pin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a pin is `{PIN_PREFIX}` and 43 letters, digits, `-` and `_`, as `adit relay init` prints it")]
pub struct NoPin;

impl Pin {
    /// The pin of a certificate.
    ///
    /// # Errors
    /// It is none.
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Pin, rustls::Error> {
        let parsed = ParsedCertificate::try_from(certificate)?;
        let hash = digest(&SHA256, &parsed.subject_public_key_info());
        hash.as_ref().try_into().map(Pin).map_err(|_| rustls::Error::General("a hash of another length".to_owned()))
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PIN_PREFIX}{}", URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Pin {
    type Err = NoPin;

    fn from_str(text: &str) -> Result<Pin, NoPin> {
        let bytes = URL_SAFE_NO_PAD.decode(text.strip_prefix(PIN_PREFIX).ok_or(NoPin)?).map_err(|_| NoPin)?;
        bytes.try_into().map(Pin).map_err(|_| NoPin)
    }
}

/// The certificate of a server, those between it and its CA, and its key.
#[derive(Debug)]
pub struct Credentials {
    pub chain: Vec<CertificateDer<'static>>,
    pub key: PrivateKeyDer<'static>,
    /// What clients are to pin.
    pub pin: Pin,
}

/// Why a certificate and a key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    #[error("{0}")]
    Certificate(FileError),
    #[error("{0}")]
    Key(FileError),
    #[error("{0} holds no certificate as PEM")]
    NoCertificate(String),
    #[error("{0} holds more than {CHAIN_MAX} certificates")]
    TooMany(String),
    #[error("{0} holds no private key as PEM")]
    NoKey(String),
    #[error("the certificate in {0} and the key in {1} do not belong together, or are of no use for TLS: {2}")]
    Mismatch(String, String, rustls::Error),
}

impl CredentialsError {
    /// What to write or to run to repair it.
    pub fn remedy(&self) -> String {
        match self {
            CredentialsError::Certificate(error) | CredentialsError::Key(error) => error.remedy(),
            CredentialsError::NoCertificate(_) | CredentialsError::TooMany(_) => {
                "the path of a file with the certificate of this relay first, then those of the CAs between".to_owned()
            }
            CredentialsError::NoKey(_) => "the path of the file with the private key (BEGIN PRIVATE KEY)".to_owned(),
            CredentialsError::Mismatch(..) => "certificate and key that were made together, as by adit relay init".to_owned(),
        }
    }
}

impl Credentials {
    /// Reads both files, and finds out whether they belong together.
    ///
    /// # Errors
    /// See [`CredentialsError`].
    pub fn load(certificate: &Path, key: &Path) -> Result<Credentials, CredentialsError> {
        let (shown, key_shown) = (certificate.display().to_string(), key.display().to_string());
        let text = secret_file::read(certificate, Readers::All).map_err(CredentialsError::Certificate)?;
        let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).take(CHAIN_MAX + 1).collect();
        let chain = read.map_err(|_| CredentialsError::NoCertificate(shown.clone()))?;
        if chain.len() > CHAIN_MAX {
            return Err(CredentialsError::TooMany(shown));
        }
        let first = chain.first().ok_or_else(|| CredentialsError::NoCertificate(shown.clone()))?;
        let pin = Pin::of(first).map_err(|_| CredentialsError::NoCertificate(shown.clone()))?;
        let text = secret_file::read(key, Readers::OwnerOnly).map_err(CredentialsError::Key)?;
        let key = PrivateKeyDer::from_pem_slice(&text).map_err(|_| CredentialsError::NoKey(key_shown.clone()))?;
        let credentials = Credentials { chain, key, pin };
        match server(&credentials) {
            Ok(_) => Ok(credentials),
            Err(error) => Err(CredentialsError::Mismatch(shown, key_shown, error)),
        }
    }
}

impl Credentials {
    /// The names and addresses that the certificate is for.
    pub fn names(&self) -> Vec<String> {
        let (Some(first), Ok(nobody)) = (self.chain.first(), ServerName::try_from("nobody.invalid")) else { return Vec::new() };
        let Ok(parsed) = ParsedCertificate::try_from(first) else { return Vec::new() };
        match verify_server_name(&parsed, &nobody) {
            // Told as `DnsName("…")` and `IpAddress(…)`.
            Err(rustls::Error::InvalidCertificate(CertificateError::NotValidForNameContext { presented, .. })) => {
                let inner = |name: &String| Some(name.split_once('(')?.1.strip_suffix(')')?.trim_matches('"').to_owned());
                presented.iter().filter_map(inner).collect()
            }
            _ => Vec::new(),
        }
    }
}

impl Clone for Credentials {
    fn clone(&self) -> Credentials {
        Credentials { chain: self.chain.clone(), key: self.key.clone_key(), pin: self.pin }
    }
}

/// How a relay speaks TLS.
///
/// # Errors
/// Certificate and key do not belong together.
pub fn server(credentials: &Credentials) -> Result<Arc<ServerConfig>, rustls::Error> {
    let builder = ServerConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13])?.with_no_client_auth();
    let mut config = builder.with_single_cert(credentials.chain.clone(), credentials.key.clone_key())?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    // Nobody resumes: a session is remembered for nobody, and no key lies about by which old ones could be opened.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// The same for TURN over TLS.
///
/// # Errors
/// As [`server`].
pub fn turn_server(credentials: &Credentials) -> Result<Arc<ServerConfig>, rustls::Error> {
    let mut config = (*server(credentials)?).clone();
    // RFC 7443 §4.
    config.alpn_protocols = vec![b"stun.turn".to_vec()];
    Ok(Arc::new(config))
}

/// By what a client knows the relay.
#[derive(Clone, Debug)]
pub enum Trust {
    /// One of these is its key: two while it changes.
    Pins(Vec<Pin>),
    /// A CA that signed for its name.
    Roots(Arc<RootCertStore>),
}

impl Trust {
    /// The CAs of a file.
    ///
    /// # Errors
    /// It cannot be read, or holds none.
    pub fn roots(file: &Path) -> Result<Trust, CredentialsError> {
        let no_certificate = || CredentialsError::NoCertificate(file.display().to_string());
        let text = secret_file::read(file, Readers::All).map_err(CredentialsError::Certificate)?;
        let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
        let mut roots = RootCertStore::empty();
        let (added, _) = roots.add_parsable_certificates(read.map_err(|_| no_certificate())?);
        if added == 0 { Err(no_certificate()) } else { Ok(Trust::Roots(Arc::new(roots))) }
    }
}

/// The server has another key than the pinned ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the server has the key {seen}, which is none of those that are pinned")]
pub struct WrongPin {
    pub seen: Pin,
}

/// Whether this is why a handshake failed.
pub fn wrong_pin(error: &rustls::Error) -> Option<&WrongPin> {
    match error {
        rustls::Error::InvalidCertificate(CertificateError::Other(other)) => other.0.downcast_ref(),
        _ => None,
    }
}

/// How a client speaks TLS to a relay that it knows by this.
///
/// # Errors
/// No pin or more than a client needs, or roots by which nothing can be verified.
pub fn client(trust: Trust) -> Result<Arc<ClientConfig>, rustls::Error> {
    let provider = provider();
    let builder = ClientConfig::builder_with_provider(provider.clone()).with_protocol_versions(&[&TLS13])?;
    let verifier: Arc<dyn ServerCertVerifier> = match trust {
        Trust::Pins(pins) if (1..=PINS_MAX).contains(&pins.len()) => Arc::new(Pinned { pins, provider }),
        Trust::Pins(pins) => return Err(rustls::Error::General(format!("{} pins where 1 or {PINS_MAX} belong", pins.len()))),
        Trust::Roots(roots) => WebPkiServerVerifier::builder_with_provider(roots, provider)
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?,
    };
    let mut config = builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}

/// Takes a server by its key alone.
#[derive(Debug)]
struct Pinned {
    pins: Vec<Pin>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let seen = Pin::of(end_entity)?;
        if self.pins.contains(&seen) {
            return Ok(ServerCertVerified::assertion());
        }
        Err(CertificateError::Other(OtherError(Arc::new(WrongPin { seen }))).into())
    }

    // That the server holds the key is what its signature shows: without this a pin would be worth nothing.
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_reads_back_and_nothing_else_does() {
        let key = rcgen::KeyPair::generate().unwrap();
        let one = rcgen::CertificateParams::new(["a".to_owned()]).unwrap().self_signed(&key).unwrap();
        let renewed = rcgen::CertificateParams::new(["b".to_owned()]).unwrap().self_signed(&key).unwrap();
        let pin = Pin::of(one.der()).unwrap();
        assert_eq!(pin, Pin::of(renewed.der()).unwrap(), "a new certificate for the key");
        let text = pin.to_string();
        assert_eq!(text.parse(), Ok(pin));
        for wrong in [&text[7..], &text[..text.len() - 1], &text.to_uppercase(), "", "sha256:", "sha256:****"] {
            assert_eq!(wrong.parse::<Pin>(), Err(NoPin), "{wrong}");
        }
    }

    #[test]
    fn a_client_without_pins_trusts_nobody_and_is_not_made() {
        assert!(client(Trust::Pins(Vec::new())).is_err());
        assert!(client(Trust::Roots(Arc::new(RootCertStore::empty()))).is_err());
    }

    #[test]
    fn the_hybrid_key_exchange_comes_first() {
        assert_eq!(provider().kx_groups[0].name(), rustls::NamedGroup::X25519MLKEM768);
    }
}
