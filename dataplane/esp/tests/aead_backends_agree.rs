//! The backends are independent implementations, so each is the other's oracle: what one seals the others open, to the same
//! bytes, and none opens a packet in which a single bit differs.

mod aloud;

use adit_esp::aead::{Aead, Backend, BadTag, Obstacle};
use adit_proto::esp::NONCE_LEN;
use adit_proto::suite::{Suite, TAG_LEN};
use aloud::backends;
use proptest::prelude::*;

/// A packet with everything that the tag covers, and where its bytes start in a buffer (the code under test has paths of
/// its own for unaligned memory).
#[derive(Clone, Debug)]
struct Packet {
    suite: Suite,
    key: [u8; 32],
    nonce: [u8; NONCE_LEN],
    aad: Vec<u8>,
    plain: Vec<u8>,
    offset: usize,
}

impl Packet {
    fn aead(&self, backend: Backend) -> Aead {
        Aead::new(backend, self.suite, &self.key[..self.suite.key_len()]).expect("a key of the suite")
    }

    /// Ciphertext and tag; checks that nothing outside the place for the ciphertext was written.
    fn seal(&self, backend: Backend) -> (Vec<u8>, [u8; TAG_LEN]) {
        let mut buf = vec![0x5a; self.offset + self.plain.len() + 64];
        let mut tag = [0; TAG_LEN];
        let place = self.offset..self.offset + self.plain.len();
        self.aead(backend).seal(&self.nonce, &self.aad, &self.plain, &mut buf[place.clone()], &mut tag);
        let outside = buf[..place.start].iter().chain(&buf[place.end..]);
        assert!(outside.copied().all(|byte| byte == 0x5a), "{backend}: wrote outside of the ciphertext");
        (buf[place].to_vec(), tag)
    }

    fn open(&self, backend: Backend, sealed: &[u8], tag: &[u8; TAG_LEN]) -> Result<Vec<u8>, BadTag> {
        let mut buf = vec![0x5a; self.offset + sealed.len() + 64];
        let place = self.offset..self.offset + sealed.len();
        buf[place.clone()].copy_from_slice(sealed);
        let opened = self.aead(backend).open(&self.nonce, &self.aad, &mut buf[place.clone()], tag);
        let outside = buf[..place.start].iter().chain(&buf[place.end..]);
        assert!(outside.copied().all(|byte| byte == 0x5a), "{backend}: wrote outside of the plaintext");
        opened.map(|()| buf[place].to_vec())
    }
}

fn packets() -> impl Strategy<Value = Packet> {
    // Short packets, where the tails of the vector code are, as often as long ones.
    let plain = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..=600),
        (0..=9000_usize, any::<u64>()).prop_map(|(len, seed)| bytes(len, seed)),
    ];
    let aad = prop_oneof![Just(8), Just(12), 0..=40_usize].prop_flat_map(|len| proptest::collection::vec(any::<u8>(), len));
    (proptest::sample::select(Suite::ALL.as_slice()), any::<[u8; 32]>(), any::<[u8; NONCE_LEN]>(), aad, plain, 0..16_usize)
        .prop_map(|(suite, key, nonce, aad, plain, offset)| Packet { suite, key, nonce, aad, plain, offset })
}

/// `len` bytes that follow from `seed` (splitmix64): long inputs cost proptest much less this way.
fn bytes(len: usize, mut seed: u64) -> Vec<u8> {
    let mut next = || {
        seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb) >> 56
    };
    (0..len).map(|_| next() as u8).collect()
}

fn flip(bytes: &mut [u8], bit: usize) {
    bytes[bit / 8 % bytes.len()] ^= 1 << (bit % 8);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_one_backend_seals_the_others_open(packet in packets()) {
        let (sealed, tag) = packet.seal(Backend::AwsLc);
        for backend in backends() {
            prop_assert_eq!(&packet.seal(backend), &(sealed.clone(), tag), "{}", backend);
            let opened = packet.open(backend, &sealed, &tag);
            prop_assert_eq!(opened.as_ref(), Ok(&packet.plain), "{}", backend);
        }
    }

    #[test]
    fn a_flipped_bit_anywhere_opens_in_no_backend(packet in packets(), bit in any::<usize>()) {
        let (sealed, tag) = packet.seal(Backend::AwsLc);
        for backend in backends() {
            let mut other_tag = tag;
            flip(&mut other_tag, bit);
            prop_assert_eq!(packet.open(backend, &sealed, &other_tag), Err(BadTag), "{} tag", backend);

            let mut other = packet.clone();
            flip(&mut other.nonce, bit);
            prop_assert_eq!(other.open(backend, &sealed, &tag), Err(BadTag), "{} nonce", backend);

            if !packet.aad.is_empty() {
                let mut other = packet.clone();
                flip(&mut other.aad, bit);
                prop_assert_eq!(other.open(backend, &sealed, &tag), Err(BadTag), "{} additional data", backend);
            }
            if !sealed.is_empty() {
                let mut other = sealed.clone();
                flip(&mut other, bit);
                prop_assert_eq!(packet.open(backend, &other, &tag), Err(BadTag), "{} ciphertext", backend);
                prop_assert_eq!(packet.open(backend, &sealed[1..], &tag), Err(BadTag), "{} shortened", backend);
            }
            let mut other = packet.clone();
            flip(&mut other.key[..packet.suite.key_len()], bit);
            prop_assert_eq!(other.open(backend, &sealed, &tag), Err(BadTag), "{} key", backend);
        }
    }
}

#[test]
fn every_length_up_to_a_jumbo_frame_is_the_same_in_every_backend() {
    let all = bytes(9000, 7);
    for suite in Suite::ALL {
        let aead = |backend| Aead::new(backend, suite, &all[..suite.key_len()]).expect("a key of the suite");
        let first = aead(Backend::AwsLc);
        for other in backends().filter(|&backend| backend != Backend::AwsLc).map(aead) {
            let mut sealed = [vec![0; all.len()], vec![0; all.len()]];
            for len in 0..=all.len() {
                let place = format!("{suite}, {len} bytes, {}", other.backend());
                let [ours, theirs] = sealed.each_mut().map(|sealed| &mut sealed[..len]);
                let mut tags = [[0; TAG_LEN]; 2];
                first.seal(&[1; NONCE_LEN], &all[..12], &all[..len], ours, &mut tags[0]);
                other.seal(&[1; NONCE_LEN], &all[..12], &all[..len], theirs, &mut tags[1]);
                assert!(tags[0] == tags[1] && ours == theirs, "{place}");
                assert_eq!(other.open(&[1; NONCE_LEN], &all[..12], ours, &tags[0]), Ok(()), "{place}");
                assert_eq!(first.open(&[1; NONCE_LEN], &all[..12], theirs, &tags[1]), Ok(()), "{place}");
                assert!(*ours == all[..len] && *theirs == all[..len], "{place}");
            }
        }
    }
}

/// The additional data of ESP with 32-bit and with 64-bit sequence numbers, none, and what is longer than any of ESP.
#[test]
fn every_length_of_additional_data_is_the_same_in_every_backend() {
    let all = bytes(200, 8);
    for suite in Suite::ALL {
        let aeads: Vec<Aead> =
            backends().map(|backend| Aead::new(backend, suite, &all[..suite.key_len()]).expect("a key of the suite")).collect();
        for aad_len in 0..=all.len() {
            let sealed = |aead: &Aead| {
                let (mut sealed, mut tag) = ([0; 77], [0; TAG_LEN]);
                aead.seal(&[1; NONCE_LEN], &all[..aad_len], &all[..77], &mut sealed, &mut tag);
                (sealed, tag)
            };
            let first = sealed(&aeads[0]);
            for aead in &aeads {
                assert_eq!(sealed(aead), first, "{suite}, {aad_len} bytes, {}", aead.backend());
            }
        }
    }
}

/// A build that does not find a library which lies there for it would run none of these tests with it.
#[test]
fn a_library_that_is_installed_is_built_in() {
    let paths = ["/usr/include/intel-ipsec-mb.h", "/usr/lib/x86_64-linux-gnu/libIPSec_MB.a"];
    let installed = cfg!(target_arch = "x86_64") && paths.iter().all(|path| std::path::Path::new(path).exists());
    let wanted = option_env!("ADIT_IPSEC_MB") != Some("off");
    if installed && wanted {
        assert_ne!(Backend::IpsecMb.obstacle(), Some(Obstacle::NotBuiltIn));
    }
}
