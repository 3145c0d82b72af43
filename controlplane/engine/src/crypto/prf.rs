//! The pseudorandom functions of IKEv2, HMAC with SHA-2 (RFC 4868 §2.4), and prf+ (RFC 7296 §2.13).

use aws_lc_rs::hmac;
use zeroize::Zeroizing;

use super::Secret;

/// prf+ counts its blocks in one byte (RFC 7296 §2.13).
const BLOCKS_MAX: usize = 255;

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
    pub asked: usize,
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

    const fn algorithm(self) -> hmac::Algorithm {
        match self {
            Prf::HmacSha256 => hmac::HMAC_SHA256,
            Prf::HmacSha384 => hmac::HMAC_SHA384,
            Prf::HmacSha512 => hmac::HMAC_SHA512,
        }
    }

    /// `prf(key, parts[0] | parts[1] | …)`.
    pub fn compute(self, key: &[u8], parts: &[&[u8]]) -> Secret {
        let key = hmac::Key::new(self.algorithm(), key);
        Secret::copy_of(tag(&key, parts).as_ref())
    }

    /// The first `len` bytes of `prf+(key, seed[0] | seed[1] | …)` (RFC 7296 §2.13).
    pub fn plus(self, key: &[u8], seed: &[&[u8]], len: usize) -> Result<Secret, PrfPlusTooLong> {
        let max = BLOCKS_MAX * self.output_len();
        if len > max {
            return Err(PrfPlusTooLong { asked: len, max });
        }
        let key = hmac::Key::new(self.algorithm(), key);
        let mut out = Zeroizing::new(vec![0; len].into_boxed_slice());
        let mut done = 0;
        for counter in 1..=BLOCKS_MAX as u8 {
            if done == len {
                break;
            }
            // Every block goes over the one before: T2 = prf(K, T1 | S | 0x02).
            let before = done.saturating_sub(self.output_len());
            let mut context = hmac::Context::with_key(&key);
            context.update(&out[before..done]);
            for part in seed {
                context.update(part);
            }
            context.update(&[counter]);
            let block = context.sign();
            let take = block.as_ref().len().min(len - done);
            out[done..done + take].copy_from_slice(&block.as_ref()[..take]);
            done += take;
        }
        Ok(Secret::from(out))
    }
}

fn tag(key: &hmac::Key, parts: &[&[u8]]) -> hmac::Tag {
    let mut context = hmac::Context::with_key(key);
    for part in parts {
        context.update(part);
    }
    context.sign()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

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
