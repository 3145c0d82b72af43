//! Nonces (RFC 8489 §9.2): their age in seconds and a code over it and the client's address, so that nothing is kept of them and nobody can
//! use one that he has not received.
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use aws_lc_rs::{constant_time, hmac};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// Makes them and knows them again.
#[derive(Debug)]
pub(crate) struct Nonces {
    key: hmac::Key,
    began: Instant,
    life: Duration,
}

/// What a nonce shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shown {
    Fresh,
    Stale,
}

const STAMP_LEN: usize = 4;
const CODE_LEN: usize = 8;

impl Nonces {
    pub(crate) fn new(key: [u8; 32], began: Instant, life: Duration) -> Nonces {
        Nonces { key: hmac::Key::new(hmac::HMAC_SHA256, &key), began, life }
    }

    fn seconds(&self, now: Instant) -> u32 {
        u32::try_from(now.saturating_duration_since(self.began).as_secs()).unwrap_or(u32::MAX)
    }

    fn bytes(&self, seconds: u32, client: SocketAddr) -> [u8; STAMP_LEN + CODE_LEN] {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(&seconds.to_be_bytes());
        match client.ip().to_canonical() {
            std::net::IpAddr::V4(ip) => context.update(&ip.octets()),
            std::net::IpAddr::V6(ip) => context.update(&ip.octets()),
        }
        context.update(&client.port().to_be_bytes());
        let mut bytes = [0; STAMP_LEN + CODE_LEN];
        bytes[..STAMP_LEN].copy_from_slice(&seconds.to_be_bytes());
        bytes[STAMP_LEN..].copy_from_slice(&context.sign().as_ref()[..CODE_LEN]);
        bytes
    }

    /// A nonce of sixteen characters for this client.
    pub(crate) fn fresh(&self, now: Instant, client: SocketAddr) -> String {
        URL_SAFE_NO_PAD.encode(self.bytes(self.seconds(now), client))
    }

    /// What a nonce shows that this client has sent.
    pub(crate) fn judge(&self, now: Instant, client: SocketAddr, nonce: &[u8]) -> Shown {
        let mut bytes = [0; STAMP_LEN + CODE_LEN];
        let is_ours = nonce.len() == 16 && URL_SAFE_NO_PAD.decode_slice(nonce, &mut bytes).is_ok();
        let seconds = u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        let matches = constant_time::verify_slices_are_equal(&bytes, &self.bytes(seconds, client)).is_ok();
        let age = self.seconds(now).checked_sub(seconds);
        let is_young = age.is_some_and(|age| u64::from(age) < self.life.as_secs());
        if is_ours && matches && is_young { Shown::Fresh } else { Shown::Stale }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::instant;

    #[test]
    fn a_nonce_is_of_one_client_and_expires() {
        let nonces = Nonces::new([7; 32], instant(), Duration::from_secs(5));
        let (client, other): (SocketAddr, SocketAddr) =
            ("192.0.2.1:5".parse().expect("one"), "192.0.2.1:6".parse().expect("one"));
        let nonce = nonces.fresh(instant(), client);
        let judge = |ms, client, nonce: &str| nonces.judge(instant() + Duration::from_millis(ms), client, nonce.as_bytes());
        assert_eq!((nonce.len(), judge(0, client, &nonce), judge(4999, client, &nonce)), (16, Shown::Fresh, Shown::Fresh));
        assert_eq!([judge(5000, client, &nonce), judge(0, other, &nonce)], [Shown::Stale; 2]);
        assert_eq!(
            [judge(0, client, ""), judge(0, client, &nonce[1..]), judge(0, client, "AAAAAAAAAAAAAAAA")],
            [Shown::Stale; 3]
        );
        let ahead = nonces.fresh(instant() + Duration::from_secs(1), client);
        assert_eq!(judge(0, client, &ahead), Shown::Stale);
    }
}
