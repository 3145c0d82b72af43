//! Key exchange: X25519 (RFC 8031), P-256 and P-384 (RFC 5903), ML-KEM (FIPS 203), all behind one pair of verbs.
//!
//! The initiator calls [`KeyExchange::start`], sends [`KeyExchange::public`] and gives the answer to [`KeyExchange::finish`];
//! the responder calls [`respond`] once. A Diffie-Hellman method and a KEM differ only in what the bytes mean.

use std::fmt;

use adit_proto::ike::KeId;
use aws_lc_rs::agreement::{self, ECDH_P256, ECDH_P384, PrivateKey, UnparsedPublicKey, X25519};
use aws_lc_rs::kem::{self, Ciphertext, DecapsulationKey, EncapsulationKey, ML_KEM_512, ML_KEM_768, ML_KEM_1024};

use super::Secret;

/// The first byte of an uncompressed point (SEC 1 §2.3.3). IKE leaves it out (RFC 5903 §7).
const UNCOMPRESSED: u8 = 4;

/// A key exchange method that IKE peers can agree on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyExchangeMethod {
    X25519,
    EcpP256,
    EcpP384,
    MlKem512,
    MlKem768,
    MlKem1024,
}

/// Who sends the data of a key exchange: with a KEM the two directions carry different things.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sender {
    Initiator,
    Responder,
}

/// What is wrong with a key exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyExchangeError {
    /// The peer's mistake, or an attack: answered with INVALID_SYNTAX.
    #[error("{method}: the peer's key exchange data has {given} bytes, must have {expected}")]
    Length { method: KeyExchangeMethod, given: usize, expected: usize },
    /// The peer's mistake, or an attack: not on the curve, of small order, or not reduced (RFC 7748 §6.1,
    /// FIPS 203 §7.2).
    #[error("{method}: the peer's key exchange data is no valid public value")]
    InvalidPublicValue { method: KeyExchangeMethod },
    /// The library could not make a key: out of memory or of randomness.
    #[error("{method}: the cryptographic library could not make a key")]
    Internal { method: KeyExchangeMethod },
}

/// An exchange that the initiator has begun: its private key, used once.
pub struct KeyExchange {
    method: KeyExchangeMethod,
    private: Private,
    public: Box<[u8]>,
}

/// The library wipes both kinds when they are freed.
enum Private {
    DiffieHellman(PrivateKey),
    Kem(DecapsulationKey),
}

/// What a method is to the library.
enum Primitive {
    DiffieHellman(&'static agreement::Algorithm),
    Kem(&'static kem::Algorithm),
}

impl KeyExchangeMethod {
    /// Every method.
    pub const ALL: [KeyExchangeMethod; 6] = [
        KeyExchangeMethod::X25519,
        KeyExchangeMethod::EcpP256,
        KeyExchangeMethod::EcpP384,
        KeyExchangeMethod::MlKem512,
        KeyExchangeMethod::MlKem768,
        KeyExchangeMethod::MlKem1024,
    ];

    /// The method that IANA's number means, if it is one of these.
    pub const fn from_id(id: KeId) -> Option<KeyExchangeMethod> {
        match id {
            KeId::CURVE_25519 => Some(KeyExchangeMethod::X25519),
            KeId::ECP_256 => Some(KeyExchangeMethod::EcpP256),
            KeId::ECP_384 => Some(KeyExchangeMethod::EcpP384),
            KeId::ML_KEM_512 => Some(KeyExchangeMethod::MlKem512),
            KeId::ML_KEM_768 => Some(KeyExchangeMethod::MlKem768),
            KeId::ML_KEM_1024 => Some(KeyExchangeMethod::MlKem1024),
            _ => None,
        }
    }

    /// IANA's number.
    pub const fn id(self) -> KeId {
        match self {
            KeyExchangeMethod::X25519 => KeId::CURVE_25519,
            KeyExchangeMethod::EcpP256 => KeId::ECP_256,
            KeyExchangeMethod::EcpP384 => KeId::ECP_384,
            KeyExchangeMethod::MlKem512 => KeId::ML_KEM_512,
            KeyExchangeMethod::MlKem768 => KeId::ML_KEM_768,
            KeyExchangeMethod::MlKem1024 => KeId::ML_KEM_1024,
        }
    }

    /// Length of the key exchange data that `sender` sends, in bytes (RFC 8031 §3.1, RFC 5903 §7, FIPS 203 table 3).
    pub const fn data_len(self, sender: Sender) -> usize {
        match (self, sender) {
            (KeyExchangeMethod::X25519, _) => 32,
            (KeyExchangeMethod::EcpP256, _) => 64,
            (KeyExchangeMethod::EcpP384, _) => 96,
            (KeyExchangeMethod::MlKem512, Sender::Initiator) => 800,
            (KeyExchangeMethod::MlKem512, Sender::Responder) => 768,
            (KeyExchangeMethod::MlKem768, Sender::Initiator) => 1184,
            (KeyExchangeMethod::MlKem768, Sender::Responder) => 1088,
            (KeyExchangeMethod::MlKem1024, _) => 1568,
        }
    }

    /// Whether the method withstands a quantum computer.
    pub const fn is_post_quantum(self) -> bool {
        matches!(self, KeyExchangeMethod::MlKem512 | KeyExchangeMethod::MlKem768 | KeyExchangeMethod::MlKem1024)
    }

    /// The name in configuration, metrics and messages.
    pub const fn name(self) -> &'static str {
        match self {
            KeyExchangeMethod::X25519 => "x25519",
            KeyExchangeMethod::EcpP256 => "ecp256",
            KeyExchangeMethod::EcpP384 => "ecp384",
            KeyExchangeMethod::MlKem512 => "mlkem512",
            KeyExchangeMethod::MlKem768 => "mlkem768",
            KeyExchangeMethod::MlKem1024 => "mlkem1024",
        }
    }

    const fn primitive(self) -> Primitive {
        match self {
            KeyExchangeMethod::X25519 => Primitive::DiffieHellman(&X25519),
            KeyExchangeMethod::EcpP256 => Primitive::DiffieHellman(&ECDH_P256),
            KeyExchangeMethod::EcpP384 => Primitive::DiffieHellman(&ECDH_P384),
            KeyExchangeMethod::MlKem512 => Primitive::Kem(&ML_KEM_512),
            KeyExchangeMethod::MlKem768 => Primitive::Kem(&ML_KEM_768),
            KeyExchangeMethod::MlKem1024 => Primitive::Kem(&ML_KEM_1024),
        }
    }

    const fn is_curve_of_points(self) -> bool {
        matches!(self, KeyExchangeMethod::EcpP256 | KeyExchangeMethod::EcpP384)
    }

    fn check_len(self, sender: Sender, data: &[u8]) -> Result<(), KeyExchangeError> {
        let expected = self.data_len(sender);
        if data.len() == expected { Ok(()) } else { Err(KeyExchangeError::Length { method: self, given: data.len(), expected }) }
    }

    fn invalid(self) -> KeyExchangeError {
        KeyExchangeError::InvalidPublicValue { method: self }
    }

    fn internal(self) -> KeyExchangeError {
        KeyExchangeError::Internal { method: self }
    }
}

impl fmt::Display for KeyExchangeMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl KeyExchange {
    /// Makes a fresh key.
    pub fn start(method: KeyExchangeMethod) -> Result<KeyExchange, KeyExchangeError> {
        match method.primitive() {
            Primitive::DiffieHellman(algorithm) => {
                let private = PrivateKey::generate(algorithm).map_err(|_| method.internal())?;
                let public = public_of(method, &private)?;
                Ok(KeyExchange { method, private: Private::DiffieHellman(private), public })
            }
            Primitive::Kem(algorithm) => {
                let private = DecapsulationKey::generate(algorithm).map_err(|_| method.internal())?;
                let public = private.encapsulation_key().and_then(|key| key.key_bytes()).map_err(|_| method.internal())?;
                let public = public.as_ref().into();
                Ok(KeyExchange { method, private: Private::Kem(private), public })
            }
        }
    }

    /// The method that this is an exchange of.
    pub fn method(&self) -> KeyExchangeMethod {
        self.method
    }

    /// What the KE payload carries to the responder.
    pub fn public(&self) -> &[u8] {
        &self.public
    }

    /// The shared secret, from what the responder's KE payload carries.
    ///
    /// A KEM ciphertext that was tampered with gives a secret that the peer does not have (FIPS 203 §6.3), and then the next
    /// message does not open.
    pub fn finish(self, peer: &[u8]) -> Result<Secret, KeyExchangeError> {
        let method = self.method;
        method.check_len(Sender::Responder, peer)?;
        match self.private {
            Private::DiffieHellman(private) => agree(method, &private, peer),
            Private::Kem(private) => {
                let secret = private.decapsulate(Ciphertext::from(peer)).map_err(|_| method.invalid())?;
                Ok(Secret::copy_of(secret.as_ref()))
            }
        }
    }
}

impl fmt::Debug for KeyExchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyExchange({}, …)", self.method)
    }
}

/// The responder's side in one step: what the KE payload carries back, and the shared secret.
pub fn respond(method: KeyExchangeMethod, peer: &[u8]) -> Result<(Box<[u8]>, Secret), KeyExchangeError> {
    method.check_len(Sender::Initiator, peer)?;
    match method.primitive() {
        Primitive::DiffieHellman(algorithm) => {
            let private = PrivateKey::generate(algorithm).map_err(|_| method.internal())?;
            let secret = agree(method, &private, peer)?;
            Ok((public_of(method, &private)?, secret))
        }
        Primitive::Kem(algorithm) => {
            let key = EncapsulationKey::new(algorithm, peer).map_err(|_| method.invalid())?;
            // The library checks here that the coefficients are reduced (FIPS 203 §7.2).
            let (ciphertext, secret) = key.encapsulate().map_err(|_| method.invalid())?;
            Ok((ciphertext.as_ref().into(), Secret::copy_of(secret.as_ref())))
        }
    }
}

/// The public value as IKE writes it: x for X25519, x | y for a NIST curve (RFC 5903 §7).
fn public_of(method: KeyExchangeMethod, private: &PrivateKey) -> Result<Box<[u8]>, KeyExchangeError> {
    let public = private.compute_public_key().map_err(|_| method.internal())?;
    let point = if method.is_curve_of_points() { &public.as_ref()[1..] } else { public.as_ref() };
    Ok(point.into())
}

/// The shared secret: the x coordinate alone (RFC 5903 §7, RFC 8031 §2).
///
/// The library refuses points that are not on the curve, and an X25519 result of zeros, which a point of small order gives
/// (RFC 7748 §6.1).
fn agree(method: KeyExchangeMethod, private: &PrivateKey, peer: &[u8]) -> Result<Secret, KeyExchangeError> {
    let derive = |shared: &[u8]| Ok(Secret::copy_of(shared));
    if method.is_curve_of_points() {
        let point = [&[UNCOMPRESSED], peer].concat();
        agreement::agree(private, UnparsedPublicKey::new(private.algorithm(), point), method.invalid(), derive)
    } else {
        agreement::agree(private, UnparsedPublicKey::new(private.algorithm(), peer), method.invalid(), derive)
    }
}

#[cfg(test)]
mod tests;
