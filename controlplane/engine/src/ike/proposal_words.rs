//! Proposals as people write them, in the words of strongSwan: `aes256gcm16-prfsha384-x25519-ke1_mlkem768`.
//!
//! Several words of one kind are alternatives. `keN_METHOD` is the N-th additional key exchange (RFC 9370), `keN_none` makes it
//! optional; `esn` and `noesn` (ESP only) say which sequence numbers are accepted, both when neither is written.

use adit_proto::suite::Suite;

use super::config::{ChildProposal, EsnPolicy, IkeProposal};
use crate::crypto::{KeyExchangeMethod, Prf};
use crate::limits::ADDITIONAL_MAX;
use crate::nearest::nearest;

const SUITES: [(&str, Suite); 5] = [
    ("aes128gcm16", Suite::Aes128Gcm),
    ("aes128gcm", Suite::Aes128Gcm),
    ("aes256gcm16", Suite::Aes256Gcm),
    ("aes256gcm", Suite::Aes256Gcm),
    ("chacha20poly1305", Suite::ChaCha20Poly1305),
];
const PRFS: [(&str, Prf); 6] = [
    ("prfsha256", Prf::HmacSha256),
    ("sha256", Prf::HmacSha256),
    ("prfsha384", Prf::HmacSha384),
    ("sha384", Prf::HmacSha384),
    ("prfsha512", Prf::HmacSha512),
    ("sha512", Prf::HmacSha512),
];
const METHODS: [(&str, KeyExchangeMethod); 7] = [
    ("x25519", KeyExchangeMethod::X25519),
    ("curve25519", KeyExchangeMethod::X25519),
    ("ecp256", KeyExchangeMethod::EcpP256),
    ("ecp384", KeyExchangeMethod::EcpP384),
    ("mlkem512", KeyExchangeMethod::MlKem512),
    ("mlkem768", KeyExchangeMethod::MlKem768),
    ("mlkem1024", KeyExchangeMethod::MlKem1024),
];

/// Which SA a proposal is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum For {
    Ike,
    Esp,
}

/// What is wrong with a proposal, and a proposal that is near it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProposalFault {
    pub what: String,
    pub expected: String,
}

#[derive(Default)]
struct Words {
    suites: Vec<Suite>,
    prfs: Vec<Prf>,
    methods: Vec<KeyExchangeMethod>,
    additional: Vec<Vec<Option<KeyExchangeMethod>>>,
    esn: Option<bool>,
    both_esn: bool,
}

/// Proposals for an IKE SA when the file names none: ML-KEM first, and without it for peers that do not know RFC 9370.
pub const IKE_DEFAULT: [&str; 2] = [
    "aes256gcm16-aes128gcm16-chacha20poly1305-prfsha384-prfsha256-x25519-ecp256-ecp384-ke1_mlkem768",
    "aes256gcm16-aes128gcm16-chacha20poly1305-prfsha384-prfsha256-x25519-ecp256-ecp384",
];
/// For a Child SA.
pub const ESP_DEFAULT: [&str; 1] = ["aes128gcm16-aes256gcm16-chacha20poly1305"];

/// Reads a proposal for an IKE SA.
///
/// # Errors
/// A word that is none, or a kind of which there is no word.
pub fn ike(text: &str) -> Result<IkeProposal, ProposalFault> {
    let words = words(text, For::Ike)?;
    let without = |what: &str, all: &[&str]| ProposalFault {
        what: format!("the IKE proposal `{text}` has no {what}"),
        expected: format!("one of {}", all.join(", ")),
    };
    if words.prfs.is_empty() {
        return Err(without("pseudorandom function", &["prfsha256", "prfsha384", "prfsha512"]));
    }
    if words.methods.is_empty() {
        return Err(without("key exchange", &["x25519", "ecp256", "ecp384"]));
    }
    let Words { suites, prfs, methods: key_exchanges, additional, .. } = words;
    Ok(IkeProposal { suites, prfs, key_exchanges, additional })
}

/// Reads a proposal for Child SAs.
///
/// # Errors
/// As [`ike`].
pub fn esp(text: &str) -> Result<ChildProposal, ProposalFault> {
    let words = words(text, For::Esp)?;
    let esn = match (words.esn, words.both_esn) {
        (Some(true), false) => EsnPolicy::Require,
        (Some(false), false) => EsnPolicy::Never,
        _ => EsnPolicy::Prefer,
    };
    if words.methods.is_empty() && !words.additional.is_empty() {
        return Err(ProposalFault {
            what: format!("the ESP proposal `{text}` has additional key exchanges, but none that they could be added to"),
            expected: "a key exchange such as x25519 beside them".to_owned(),
        });
    }
    Ok(ChildProposal { suites: words.suites, key_exchanges: words.methods, additional: words.additional, esn })
}

fn words(text: &str, purpose: For) -> Result<Words, ProposalFault> {
    let mut words = Words::default();
    for word in text.split('-') {
        if !words.take(&word.to_ascii_lowercase(), purpose) {
            return Err(unknown(text, word, purpose));
        }
    }
    if words.suites.is_empty() {
        let expected = "aes128gcm16, aes256gcm16 or chacha20poly1305".to_owned();
        return Err(ProposalFault { what: format!("the proposal `{text}` has no cipher"), expected });
    }
    if let Some(gap) = words.additional.iter().position(Vec::is_empty) {
        let what = format!("the proposal `{text}` leaves ke{} out, but has a later one", gap + 1);
        return Err(ProposalFault { what, expected: "additional key exchanges counted from ke1, without a gap".to_owned() });
    }
    Ok(words)
}

impl Words {
    fn take(&mut self, word: &str, purpose: For) -> bool {
        fn find<T: Copy>(table: &[(&str, T)], word: &str) -> Option<T> {
            table.iter().find(|(name, _)| *name == word).map(|(_, value)| *value)
        }
        fn add<T: PartialEq>(list: &mut Vec<T>, value: T) -> bool {
            if !list.contains(&value) {
                list.push(value);
            }
            true
        }
        if let Some(suite) = find(&SUITES, word) {
            return add(&mut self.suites, suite);
        }
        if let Some(method) = find(&METHODS, word) {
            return add(&mut self.methods, method);
        }
        if let Some(prf) = find(&PRFS, word).filter(|_| purpose == For::Ike) {
            return add(&mut self.prfs, prf);
        }
        if let Some((number, name)) = word.strip_prefix("ke").and_then(|rest| rest.split_once('_')) {
            let method = if name == "none" { None } else { find(&METHODS, name).map(Some).unwrap_or_default() };
            let Ok(number @ 1..=ADDITIONAL_MAX) = number.parse::<usize>() else { return false };
            if method.is_none() && name != "none" {
                return false;
            }
            self.additional.resize_with(self.additional.len().max(number), Vec::new);
            return add(&mut self.additional[number - 1], method);
        }
        match (word, purpose) {
            ("esn" | "noesn", For::Esp) => {
                let esn = word == "esn";
                self.both_esn |= self.esn.is_some_and(|before| before != esn);
                self.esn = Some(esn);
                true
            }
            _ => false,
        }
    }
}

fn unknown(text: &str, word: &str, purpose: For) -> ProposalFault {
    let mut known: Vec<&str> = SUITES.iter().map(|(name, _)| *name).chain(METHODS.iter().map(|(name, _)| *name)).collect();
    match purpose {
        For::Ike => known.extend(PRFS.iter().map(|(name, _)| *name)),
        For::Esp => known.extend(["esn", "noesn"]),
    }
    known.push("ke1_mlkem768");
    let hint = nearest(word, &known).map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
    ProposalFault {
        what: format!("`{word}` in the proposal `{text}` is no algorithm that adit knows{hint}"),
        expected: format!("words joined by `-` out of {}", known.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_can_be_read_and_offer_ml_kem_first() {
        let all: Vec<IkeProposal> = IKE_DEFAULT.iter().map(|text| ike(text).unwrap()).collect();
        assert_eq!(all[0].additional, [[Some(KeyExchangeMethod::MlKem768)]]);
        assert_eq!(all[1], IkeProposal { additional: Vec::new(), ..all[0].clone() });
        let child = esp(ESP_DEFAULT[0]).unwrap();
        assert_eq!((child.suites.len(), child.esn, child.key_exchanges.len()), (3, EsnPolicy::Prefer, 0));
    }

    #[test]
    fn words_of_one_kind_are_alternatives_in_their_order() {
        let one = ike("chacha20poly1305-AES128GCM-sha512-prfsha512-ecp384-x25519-ke2_none-ke1_mlkem1024-ke2_mlkem768").unwrap();
        assert_eq!(one.suites, [Suite::ChaCha20Poly1305, Suite::Aes128Gcm]);
        assert_eq!(one.prfs, [Prf::HmacSha512]);
        assert_eq!(one.key_exchanges, [KeyExchangeMethod::EcpP384, KeyExchangeMethod::X25519]);
        assert_eq!(one.additional[0], [Some(KeyExchangeMethod::MlKem1024)]);
        assert_eq!(one.additional[1], [None, Some(KeyExchangeMethod::MlKem768)]);
        for (text, policy) in [
            ("aes128gcm16-esn", EsnPolicy::Require),
            ("aes128gcm16-noesn", EsnPolicy::Never),
            ("aes128gcm16-noesn-esn", EsnPolicy::Prefer),
        ] {
            assert_eq!(esp(text).unwrap().esn, policy);
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_what_is_near() {
        let faults = [
            ("", "`` in the proposal `` is no algorithm that adit knows"),
            ("aes256gmc16-prfsha256-x25519", "did you mean `aes256gcm16`?"),
            ("aes256gcm16-x25519", "has no pseudorandom function"),
            ("aes256gcm16-prfsha256", "has no key exchange"),
            ("prfsha256-x25519", "has no cipher"),
            ("aes256gcm16-prfsha256-x25519-ke2_mlkem768", "leaves ke1 out"),
            ("aes256gcm16-prfsha256-x25519-ke8_mlkem768", "`ke8_mlkem768`"),
            ("aes256gcm16-prfsha256-x25519-ke1_kyber", "`ke1_kyber`"),
            ("aes256gcm16-prfsha256-x25519-esn", "`esn`"),
        ];
        for (text, part) in faults {
            let fault = ike(text).unwrap_err();
            assert!(fault.what.contains(part), "{text}: {}", fault.what);
        }
        assert!(esp("aes128gcm16-prfsha256").unwrap_err().what.contains("`prfsha256`"));
        assert!(esp("aes128gcm16-ke1_mlkem768").unwrap_err().what.contains("none that they could be added to"));
    }
}
