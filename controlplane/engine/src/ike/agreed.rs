//! The additional key exchanges that were agreed on for an SA (RFC 9370 §2.2), as types: what makes an SA takes [`Secrets`], and
//! only the last key exchange of all that were agreed on gives them. So none can be left out, by whichever end.
//!
//! ```text
//! IKE_SA_INIT       ─▶ Exchanging ─ IKE_INTERMEDIATE, once for each ─▶ Keyed ─ IKE_AUTH ─▶ session        (handshake)
//! CREATE_CHILD_SA   ─▶ Unfinished ─ IKE_FOLLOWUP_KE, once for each ──▶ Secrets ──────────▶ SA             (followup)
//! ```

use crate::crypto::{KeyExchangeMethod, Secret};

use super::error::{Error, LocalFault};
use super::negotiate::Choice;

/// Key exchanges that are still to be made, in their order: at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Left {
    next: KeyExchangeMethod,
    then: Vec<KeyExchangeMethod>,
}

impl Left {
    /// All that were agreed on, if there are any.
    pub(super) fn of(agreed: &[KeyExchangeMethod]) -> Option<Left> {
        let (next, then) = agreed.split_first()?;
        Some(Left { next: *next, then: then.to_vec() })
    }

    /// The one to be made now.
    pub(super) fn next(&self) -> KeyExchangeMethod {
        self.next
    }

    /// What is left when that one is made.
    pub(super) fn made(self) -> Option<Left> {
        Left::of(&self.then)
    }
}

/// The shared secrets of every key exchange that was agreed on for an SA, in their order. None where none was.
pub(super) struct Secrets(Vec<Secret>);

impl Secrets {
    /// Those of a Child SA that is made in IKE_AUTH: it has no key exchange of its own (RFC 7296 §1.2).
    ///
    /// # Errors
    /// One was agreed on all the same.
    pub(super) fn without_exchange(choice: &Choice) -> Result<Secrets, Error> {
        let none = choice.key_exchange.is_none() && choice.additional.is_empty();
        none.then_some(Secrets(Vec::new())).ok_or_else(missing)
    }

    pub(super) fn all(&self) -> &[Secret] {
        &self.0
    }
}

/// An SA in CREATE_CHILD_SA or IKE_FOLLOWUP_KE that cannot be made yet, and the secrets that there are.
pub(super) struct Unfinished<T> {
    pub creation: T,
    secrets: Vec<Secret>,
    left: Left,
}

fn missing() -> Error {
    LocalFault::NotConfigured("the key exchange that was agreed on").into()
}

/// What is to become an SA.
pub(super) trait Creating {
    /// What was agreed on for it.
    fn choice(&self) -> &Choice;
}

/// How far the making of an SA is.
pub(super) enum Progress<T> {
    Unfinished(Unfinished<T>),
    Complete(T, Secrets),
}

impl<T: Creating> Progress<T> {
    /// After the message that made the choice. `first` is the secret of the key exchange in that message.
    ///
    /// # Errors
    /// There was such a key exchange and none was agreed on, or the other way round.
    pub(super) fn begin(creation: T, first: Option<Secret>) -> Result<Progress<T>, Error> {
        let choice = creation.choice();
        if first.is_some() != choice.key_exchange.is_some() {
            return Err(missing());
        }
        let (secrets, left) = (first.into_iter().collect(), Left::of(&choice.additional));
        Ok(Progress::after(creation, secrets, left))
    }

    fn after(creation: T, secrets: Vec<Secret>, left: Option<Left>) -> Progress<T> {
        match left {
            Some(left) => Progress::Unfinished(Unfinished { creation, secrets, left }),
            None => Progress::Complete(creation, Secrets(secrets)),
        }
    }
}

impl<T: Creating> Unfinished<T> {
    /// The key exchange to be made now.
    pub(super) fn next(&self) -> KeyExchangeMethod {
        self.left.next()
    }

    /// That key exchange is made.
    pub(super) fn made(self, secret: Secret) -> Progress<T> {
        let Unfinished { creation, mut secrets, left } = self;
        secrets.push(secret);
        Progress::after(creation, secrets, left.made())
    }
}

#[cfg(test)]
mod tests {
    use adit_proto::suite::Suite;

    use super::*;

    impl Creating for Choice {
        fn choice(&self) -> &Choice {
            self
        }
    }

    fn choice(key_exchange: Option<KeyExchangeMethod>, additional: &[KeyExchangeMethod]) -> Choice {
        Choice {
            number: 1,
            suite: Suite::Aes128Gcm,
            prf: None,
            key_exchange,
            additional: additional.to_vec(),
            esn: true,
            spi: Vec::new(),
            transforms: Vec::new(),
        }
    }

    fn secret(byte: u8) -> Secret {
        Secret::copy_of(&[byte; 4])
    }

    #[test]
    fn an_sa_has_its_secrets_only_after_the_last_key_exchange() {
        let [x25519, kem, kem_large] = [KeyExchangeMethod::X25519, KeyExchangeMethod::MlKem768, KeyExchangeMethod::MlKem1024];
        let agreed = choice(Some(x25519), &[kem, kem_large]);
        let mut progress = Progress::begin(agreed, Some(secret(0))).unwrap();
        for (method, byte) in [(kem, 1), (kem_large, 2)] {
            let Progress::Unfinished(unfinished) = progress else { panic!("complete before {method}") };
            assert_eq!(unfinished.next(), method);
            progress = unfinished.made(secret(byte));
        }
        let Progress::Complete(_, secrets) = progress else { panic!("not complete") };
        let bytes: Vec<u8> = secrets.all().iter().map(|secret| secret.expose()[0]).collect();
        assert_eq!(bytes, [0, 1, 2]);
    }

    #[test]
    fn a_key_exchange_that_was_agreed_on_cannot_be_missing() {
        let x25519 = KeyExchangeMethod::X25519;
        assert!(Progress::begin(choice(Some(x25519), &[]), None).is_err());
        assert!(Progress::begin(choice(None, &[]), Some(secret(0))).is_err());
        let plain = Progress::begin(choice(None, &[]), None);
        assert!(matches!(plain, Ok(Progress::Complete(_, secrets)) if secrets.all().is_empty()));
        // Without one in the message itself, but with an additional one.
        let progress = Progress::begin(choice(None, &[KeyExchangeMethod::MlKem768]), None);
        assert!(matches!(progress, Ok(Progress::Unfinished(_))));
    }
}
