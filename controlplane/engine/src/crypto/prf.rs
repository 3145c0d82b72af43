//! The pseudorandom functions of IKEv2, HMAC with SHA-2 (RFC 4868 §2.4), and prf+ (RFC 7296 §2.13).
//!
//! Keys and results are wiped when dropped. The library hands a result over by value, and that copy on the stack is not wiped.

use adit_proto::ike::PrfId;
use aws_lc_rs::hmac;
use zeroize::Zeroizing;

use super::Secret;

/// prf+ counts its blocks in one byte (RFC 7296 §2.13).
const BLOCKS_MAX: usize = u8::MAX as usize;

/// A pseudorandom function that IKE peers can agree on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Prf {
    HmacSha256,
    HmacSha384,
    HmacSha512,
}

/// More was asked of prf+ than 255 blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("prf+ gives at most {max} bytes, not {asked} (RFC 7296 §2.13)")]
pub struct PrfPlusTooLong {
    /// Bytes asked for.
    pub asked: usize,
    /// Bytes that the function gives at most.
    pub max: usize,
}

impl Prf {
    /// Every function, in the order of preference.
    pub const ALL: [Prf; 3] = [Prf::HmacSha256, Prf::HmacSha384, Prf::HmacSha512];

    /// Length of the output and of the preferred key, in bytes (RFC 4868 §2.4: keys of SK_d and SK_p have this length).
    pub const fn output_len(self) -> usize {
        match self {
            Prf::HmacSha256 => 32,
            Prf::HmacSha384 => 48,
            Prf::HmacSha512 => 64,
        }
    }

    /// The function that IANA's number means, if it is one of these.
    pub const fn from_id(id: PrfId) -> Option<Prf> {
        match id {
            PrfId::HMAC_SHA2_256 => Some(Prf::HmacSha256),
            PrfId::HMAC_SHA2_384 => Some(Prf::HmacSha384),
            PrfId::HMAC_SHA2_512 => Some(Prf::HmacSha512),
            _ => None,
        }
    }

    /// IANA's number.
    pub const fn id(self) -> PrfId {
        match self {
            Prf::HmacSha256 => PrfId::HMAC_SHA2_256,
            Prf::HmacSha384 => PrfId::HMAC_SHA2_384,
            Prf::HmacSha512 => PrfId::HMAC_SHA2_512,
        }
    }

    pub(super) const fn algorithm(self) -> hmac::Algorithm {
        match self {
            Prf::HmacSha256 => hmac::HMAC_SHA256,
            Prf::HmacSha384 => hmac::HMAC_SHA384,
            Prf::HmacSha512 => hmac::HMAC_SHA512,
        }
    }

    /// `prf(key, parts[0] | parts[1] | …)`.
    pub fn compute(self, key: &[u8], parts: &[&[u8]]) -> Secret {
        compute(self.algorithm(), key, parts)
    }

    /// The first `len` bytes of `prf+(key, seed[0] | seed[1] | …)`.
    ///
    /// # Errors
    /// More than 255 blocks are asked for.
    pub fn plus(self, key: &[u8], seed: &[&[u8]], len: usize) -> Result<Secret, PrfPlusTooLong> {
        plus(self.algorithm(), key, seed, len)
    }
}

/// [`Prf::compute`] with any HMAC.
pub(super) fn compute(algorithm: hmac::Algorithm, key: &[u8], parts: &[&[u8]]) -> Secret {
    let mut context = hmac::Context::with_key(&hmac::Key::new(algorithm, key));
    for part in parts {
        context.update(part);
    }
    Secret::copy_of(context.sign().as_ref())
}

/// [`Prf::plus`] with any HMAC (RFC 7296 §2.13).
pub(super) fn plus(algorithm: hmac::Algorithm, key: &[u8], seed: &[&[u8]], len: usize) -> Result<Secret, PrfPlusTooLong> {
    let block_len = algorithm.tag_len();
    let max = BLOCKS_MAX * block_len;
    if len > max {
        return Err(PrfPlusTooLong { asked: len, max });
    }
    let key = hmac::Key::new(algorithm, key);
    let mut out = Zeroizing::new(vec![0; len].into_boxed_slice());
    let mut done = 0;
    for counter in 1..=BLOCKS_MAX as u8 {
        if done == len {
            break;
        }
        // Every block goes over the one before: T2 = prf(K, T1 | S | 0x02).
        let before = done.saturating_sub(block_len);
        let mut context = hmac::Context::with_key(&key);
        context.update(&out[before..done]);
        for part in seed {
            context.update(part);
        }
        context.update(&[counter]);
        let block = context.sign();
        let take = block_len.min(len - done);
        out[done..done + take].copy_from_slice(&block.as_ref()[..take]);
        done += take;
    }
    Ok(Secret::from(out))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::hex;

    /// RFC 4231 §4.3 (key "Jefe").
    #[test]
    fn hmac_gives_the_known_answers() {
        let parts: [&[u8]; 2] = [b"what do ya want ", b"for nothing?"];
        let start = |prf: Prf| hex(&prf.compute(b"Jefe", &parts).expose()[..16]);
        assert_eq!(start(Prf::HmacSha256), "5bdcc146bf60754e6a042426089575c7");
        assert_eq!(start(Prf::HmacSha384), "af45d2e376484031617f78d2b58a6b1b");
        assert_eq!(start(Prf::HmacSha512), "164b7a7bfcf819e2e395fbe73b56e0a3");
    }

    #[test]
    fn every_function_has_its_number() {
        for prf in Prf::ALL {
            assert_eq!(Prf::from_id(prf.id()), Some(prf));
        }
        assert_eq!(Prf::from_id(PrfId::HMAC_SHA1), None);
    }

    #[test]
    fn prf_plus_chains_blocks_as_the_rfc_draws_it() {
        for prf in Prf::ALL {
            let (key, seed): (&[u8], &[u8]) = (b"key", b"seed");
            let t1 = prf.compute(key, &[seed, &[1]]);
            let t2 = prf.compute(key, &[t1.expose(), seed, &[2]]);
            let t3 = prf.compute(key, &[t2.expose(), seed, &[3]]);
            let all = [t1.expose(), t2.expose(), t3.expose()].concat();
            for len in [0, 1, prf.output_len(), prf.output_len() + 1, 3 * prf.output_len() - 1, 3 * prf.output_len()] {
                assert_eq!(prf.plus(key, &[b"se", b"ed"], len).unwrap().expose(), &all[..len], "{prf:?} {len}");
            }
        }
    }

    #[test]
    fn prf_plus_ends_at_255_blocks() {
        for prf in Prf::ALL {
            let max = 255 * prf.output_len();
            let all = prf.plus(b"key", &[b"seed"], max).unwrap();
            let before_last = &all.expose()[max - 2 * prf.output_len()..max - prf.output_len()];
            let last = prf.compute(b"key", &[before_last, b"seed", &[255]]);
            assert_eq!(&all.expose()[max - prf.output_len()..], last.expose());
            assert_eq!(prf.plus(b"key", &[b"seed"], max + 1), Err(PrfPlusTooLong { asked: max + 1, max }));
        }
    }
}
