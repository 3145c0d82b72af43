//! Which backend `auto` takes: intel-ipsec-mb where it can be used, passes a self-test and is faster on this CPU, else AWS-LC.
//!
//! ```text
//! built in, and the CPU has VAES and AVX-512? ─▶ self-test ─▶ timed against AWS-LC ─▶ faster in every suite? ─▶ ipsec-mb
//! ```
//! Done once at start, in a few milliseconds, before the first key. The clock is read here and nowhere else in this crate.

use std::fmt;
use std::hint::black_box;
use std::time::{Duration, Instant};

use adit_proto::control::Spi;
use adit_proto::esp::{self, Aad, NONCE_LEN};
use adit_proto::suite::{SALT_LEN, Suite, TAG_LEN};

use super::{Aead, Backend, BadTag, Obstacle};

/// Lengths at which two libraries have to agree, in bytes: around the blocks of the ciphers and the strides of vector code, a packet
/// that fills an MTU of 1500, a jumbo frame.
const LENGTHS: [usize; 10] = [0, 1, 15, 16, 64, 255, 256, 769, 1400, 8900];
/// Lengths that are timed, in bytes: what a tunnel carries.
const TIMED: [usize; 3] = [64, 512, 1400];
/// Rounds of the timing; what is disturbed in some of them is right in others.
const ROUNDS: usize = 12;
/// Packets between two looks at the clock.
const BATCH: u64 = 8;
/// A lead that is no accident of the timing.
const LEAD_MIN: f64 = 1.05;

/// What a self-test asks of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    MakeKey,
    SealKnownPacket,
    OpenKnownPacket,
    RefuseForgedTag,
    RefuseForgedPacket,
    /// A packet of so many bytes goes from this library to another one, and back.
    AgreeWithOther(usize),
}

/// A backend does not do what it is there for, and is not to be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SelfTestFailure {
    pub backend: Backend,
    pub suite: Suite,
    /// Where it failed.
    pub step: Step,
}

/// What `auto` came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    pub backend: Backend,
    /// Why it is intel-ipsec-mb, or is not.
    pub reason: Reason,
}

/// What was found out about intel-ipsec-mb on this machine.
#[derive(Clone, Debug, PartialEq)]
pub enum Reason {
    Obstacle(Obstacle),
    Failed(SelfTestFailure),
    /// How many times as fast as AWS-LC it was, per suite in the order of [`Suite::ALL`].
    Timed([f64; Suite::ALL.len()]),
}

/// Takes the fastest backend that works.
///
/// # Errors
/// AWS-LC, which is there everywhere, fails its self-test.
pub fn choose() -> Result<Choice, SelfTestFailure> {
    self_test(Backend::AwsLc)?;
    let reason = if let Some(obstacle) = Backend::IpsecMb.obstacle() {
        Reason::Obstacle(obstacle)
    } else if let Err(failure) = self_test(Backend::IpsecMb) {
        Reason::Failed(failure)
    } else {
        Reason::Timed(Suite::ALL.map(lead))
    };
    Ok(Choice::by(reason))
}

impl Choice {
    /// Faster in every suite, or not taken: a gateway has one backend, and its peers choose the suites.
    fn by(reason: Reason) -> Choice {
        let faster = matches!(&reason, Reason::Timed(leads) if leads.iter().all(|&lead| lead >= LEAD_MIN));
        Choice { backend: if faster { Backend::IpsecMb } else { Backend::AwsLc }, reason }
    }
}

/// Seals and opens known packets with every suite of a backend, shows it forged ones, and lets another library read what it wrote.
///
/// # Errors
/// The first step that it fails.
pub fn self_test(backend: Backend) -> Result<(), SelfTestFailure> {
    let oracle = if backend == Backend::AwsLc { Backend::RustCrypto } else { Backend::AwsLc };
    for suite in Suite::ALL {
        let failed = |step| SelfTestFailure { backend, suite, step };
        let known = Known::of(suite);
        let key = |backend| Aead::new(backend, suite, &known.key[..suite.key_len()]).map_err(|_| failed(Step::MakeKey));
        known.check(&key(backend)?, &key(oracle)?).map_err(failed)?;
    }
    Ok(())
}

/// What is tested: a key that seals and opens.
trait Cipher {
    fn seal(&self, nonce: &[u8; NONCE_LEN], aad: &[u8], plain: &[u8], sealed: &mut [u8], tag: &mut [u8; TAG_LEN]);
    fn open(&self, nonce: &[u8; NONCE_LEN], aad: &[u8], buf: &mut [u8], tag: &[u8; TAG_LEN]) -> Result<(), BadTag>;
}

impl Cipher for Aead {
    fn seal(&self, nonce: &[u8; NONCE_LEN], aad: &[u8], plain: &[u8], sealed: &mut [u8], tag: &mut [u8; TAG_LEN]) {
        Aead::seal(self, nonce, aad, plain, sealed, tag);
    }

    fn open(&self, nonce: &[u8; NONCE_LEN], aad: &[u8], buf: &mut [u8], tag: &[u8; TAG_LEN]) -> Result<(), BadTag> {
        Aead::open(self, nonce, aad, buf, tag)
    }
}

/// A packet whose sealed form is published.
struct Known {
    key: [u8; 32],
    nonce: [u8; NONCE_LEN],
    aad: &'static [u8],
    plain: &'static [u8],
    sealed: &'static [u8],
    tag: [u8; TAG_LEN],
}

impl Known {
    fn of(suite: Suite) -> Known {
        match suite {
            Suite::Aes128Gcm => AES_128,
            Suite::Aes256Gcm => AES_256,
            Suite::ChaCha20Poly1305 => CHACHA,
        }
    }

    fn check(&self, tested: &impl Cipher, oracle: &impl Cipher) -> Result<(), Step> {
        let Known { nonce, aad, plain, sealed, tag, .. } = self;
        let (mut buf, mut made) = (vec![0; plain.len()], [0; TAG_LEN]);
        tested.seal(nonce, aad, plain, &mut buf, &mut made);
        right(buf == *sealed && made == *tag, Step::SealKnownPacket)?;
        right(tested.open(nonce, aad, &mut buf, tag).is_ok() && buf == *plain, Step::OpenKnownPacket)?;
        for bit in [0, 63, 127] {
            let mut forged = *tag;
            forged[bit / 8] ^= 1 << (bit % 8);
            buf.copy_from_slice(sealed);
            right(tested.open(nonce, aad, &mut buf, &forged).is_err(), Step::RefuseForgedTag)?;
        }
        for at in [0, sealed.len() - 1] {
            buf.copy_from_slice(sealed);
            buf[at] ^= 1;
            right(tested.open(nonce, aad, &mut buf, tag).is_err(), Step::RefuseForgedPacket)?;
        }
        LENGTHS.into_iter().try_for_each(|len| right(self.agree(tested, oracle, len), Step::AgreeWithOther(len)))
    }

    /// Both ways, in the shape that ESP has with 64-bit sequence numbers, and from memory that is aligned to nothing.
    fn agree(&self, tested: &impl Cipher, oracle: &impl Cipher, len: usize) -> bool {
        let (nonce, aad) = nonce_and_aad(len as u64 + 1);
        let plain: Vec<u8> = self.sealed.iter().copied().cycle().take(len).collect();
        let mut sealed = vec![0; 2 * len + 1];
        let (ours, theirs) = sealed[1..].split_at_mut(len);
        let mut tags = [[0; TAG_LEN]; 2];
        tested.seal(&nonce, aad.as_ref(), &plain, ours, &mut tags[0]);
        oracle.seal(&nonce, aad.as_ref(), &plain, theirs, &mut tags[1]);
        let same = ours == theirs && tags[0] == tags[1];
        let opened = tested.open(&nonce, aad.as_ref(), theirs, &tags[1]).is_ok();
        same && opened && *theirs == *plain
    }
}

fn right(right: bool, step: Step) -> Result<(), Step> {
    if right { Ok(()) } else { Err(step) }
}

/// How many times as fast as AWS-LC intel-ipsec-mb seals and opens packets of all timed lengths, one of each.
///
/// The two take turns, and of each length the fastest batch counts: what else the machine does meets both alike.
fn lead(suite: Suite) -> f64 {
    let key = [7; 32];
    let aead = |backend| Aead::new(backend, suite, &key[..suite.key_len()]).ok();
    let (Some(other), Some(tested)) = (aead(Backend::AwsLc), aead(Backend::IpsecMb)) else { return 0.0 };
    let mut fastest = [[Duration::MAX; TIMED.len()]; 2];
    let mut buffers = Buffers { plain: vec![3; TIMED[TIMED.len() - 1]], sealed: vec![0; TIMED[TIMED.len() - 1]] };
    for _ in 0..ROUNDS {
        for (at, len) in TIMED.into_iter().enumerate() {
            for (aead, fastest) in [&other, &tested].into_iter().zip(&mut fastest) {
                fastest[at] = fastest[at].min(buffers.time(aead, len));
            }
        }
    }
    let [other, tested] = fastest.map(|times| times.iter().sum::<Duration>().as_secs_f64());
    other / tested
}

struct Buffers {
    plain: Vec<u8>,
    sealed: Vec<u8>,
}

impl Buffers {
    /// A batch of packets of `len` bytes sealed and opened.
    fn time(&mut self, aead: &Aead, len: usize) -> Duration {
        let (plain, sealed) = (&self.plain[..len], &mut self.sealed[..len]);
        let mut tag = [0; TAG_LEN];
        let began = Instant::now();
        for seq in 1..=BATCH {
            let (nonce, aad) = nonce_and_aad(black_box(seq));
            aead.seal(&nonce, aad.as_ref(), black_box(plain), sealed, &mut tag);
            black_box(aead.open(&nonce, aad.as_ref(), sealed, &tag)).unwrap_or_default();
        }
        began.elapsed()
    }
}

fn nonce_and_aad(seq: u64) -> ([u8; NONCE_LEN], Aad) {
    (esp::nonce([9; SALT_LEN], seq.to_be_bytes()), Aad::new(Spi(esp::SPI_MIN), seq, true))
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::MakeKey => f.write_str("making a key"),
            Step::SealKnownPacket => f.write_str("sealing a known packet"),
            Step::OpenKnownPacket => f.write_str("opening a known packet"),
            Step::RefuseForgedTag => f.write_str("refusing a forged tag"),
            Step::RefuseForgedPacket => f.write_str("refusing a forged packet"),
            Step::AgreeWithOther(len) => write!(f, "a packet of {len} bytes as another library makes it"),
        }
    }
}

impl fmt::Display for SelfTestFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} fails its self-test on this machine ({}: {})", self.backend, self.suite, self.step)
    }
}

impl std::error::Error for SelfTestFailure {}

/// "ipsec-mb is 1.9, 1.8 and 1.5 times as fast as aws-lc (aes-128-gcm, …)", or why it is not taken.
impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [tested, other] = [Backend::IpsecMb, Backend::AwsLc];
        match self {
            Reason::Obstacle(obstacle) => write!(f, "{tested} is not used: {obstacle}"),
            Reason::Failed(failure) => write!(f, "{failure} and is not used"),
            Reason::Timed(leads) => {
                let leads: Vec<_> = Suite::ALL.iter().zip(leads).map(|(suite, lead)| format!("{lead:.2} with {suite}")).collect();
                write!(f, "{tested} passed its self-test; times as fast as {other}: {}", leads.join(", "))
            }
        }
    }
}

/// The test cases 4 and 16 of McGrew and Viega, "The Galois/Counter Mode of Operation", which lie behind RFC 4106.
const AES_128: Known = Known {
    key: {
        let mut key = [0; 32];
        let (used, _) = key.split_at_mut(16);
        used.copy_from_slice(&hex::<16>("feffe9928665731c6d6a8f9467308308"));
        key
    },
    nonce: hex("cafebabefacedbaddecaf888"),
    aad: &hex::<20>("feedfacedeadbeeffeedfacedeadbeefabaddad2"),
    plain: &AES_PLAIN,
    sealed: &hex::<60>(
        "42831ec2217774244b7221b784d0d49ce3aa212f2c02a4e035c17e2329aca12e21d514b25466931c7d8f6a5aac84aa051ba30b396a0aac973d58e091",
    ),
    tag: hex("5bc94fbc3221a5db94fae95ae7121a47"),
};

const AES_256: Known = Known {
    key: hex("feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308"),
    sealed: &hex::<60>(
        "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662",
    ),
    tag: hex("76fc6ece0f4e1768cddf8853bb2d551b"),
    ..AES_128
};

const AES_PLAIN: [u8; 60] = hex(
    "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39",
);

/// RFC 8439 §2.8.2.
const CHACHA: Known = Known {
    key: hex("808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f"),
    nonce: hex("070000004041424344454647"),
    aad: &hex::<12>("50515253c0c1c2c3c4c5c6c7"),
    plain: b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, sunscreen would be it.",
    sealed: &hex::<114>(
        "d31a8d34648e60db7b86afbc53ef7ec2a4aded51296e08fea9e2b5a736ee62d63dbea45e8ca9671282fafb69da92728b1a71de0a9e060b2905d6a5b67ecd3b36\
         92ddbd7f2d778b8c9803aee328091b58fab324e4fad675945585808b4831d7bc3ff4def08e4b7a9de576d26586cec64b6116",
    ),
    tag: hex("1ae10b594f09e26a7e902ecbd0600691"),
};

/// The bytes that the digits of `text` stand for.
const fn hex<const N: usize>(text: &str) -> [u8; N] {
    let text = text.as_bytes();
    assert!(text.len() == 2 * N, "two digits for each byte");
    let mut bytes = [0; N];
    let mut at = 0;
    while at < 2 * N {
        let digit = (text[at] as char).to_digit(16).expect("a hexadecimal digit");
        bytes[at / 2] = bytes[at / 2] << 4 | digit as u8;
        at += 1;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A cipher with one fault.
    struct Faulty<'a> {
        inner: &'a Aead,
        fault: Step,
    }

    impl Cipher for Faulty<'_> {
        fn seal(&self, nonce: &[u8; NONCE_LEN], aad: &[u8], plain: &[u8], sealed: &mut [u8], tag: &mut [u8; TAG_LEN]) {
            self.inner.seal(nonce, aad, plain, sealed, tag);
            match self.fault {
                Step::SealKnownPacket => tag[0] ^= 1,
                Step::AgreeWithOther(len) if len == plain.len() => tag[15] ^= 0x80,
                _ => {}
            }
        }

        fn open(&self, nonce: &[u8; NONCE_LEN], aad: &[u8], buf: &mut [u8], tag: &[u8; TAG_LEN]) -> Result<(), BadTag> {
            let given = buf.to_vec();
            let opened = self.inner.open(nonce, aad, buf, tag);
            let mut own_tag = [0; TAG_LEN];
            match (self.fault, opened) {
                (Step::OpenKnownPacket, Ok(())) => buf[0] ^= 1,
                // Believes every tag, or every ciphertext that comes with a tag that was right once.
                (Step::RefuseForgedTag, Err(BadTag)) => return Ok(()),
                (Step::RefuseForgedPacket, Err(BadTag)) => {
                    self.inner.seal(nonce, aad, &given, &mut buf[..], &mut own_tag);
                    return if Suite::ALL.iter().any(|&suite| Known::of(suite).tag == *tag) { Ok(()) } else { Err(BadTag) };
                }
                (_, opened) => return opened,
            }
            Ok(())
        }
    }

    #[test]
    fn every_usable_backend_passes_its_self_test() {
        for backend in Backend::usable() {
            assert_eq!(self_test(backend), Ok(()));
        }
    }

    #[test]
    fn a_self_test_finds_each_fault_and_says_which() {
        let faults = [Step::SealKnownPacket, Step::OpenKnownPacket, Step::RefuseForgedTag, Step::RefuseForgedPacket];
        for suite in Suite::ALL {
            let known = Known::of(suite);
            let aead = Aead::new(Backend::AwsLc, suite, &known.key[..suite.key_len()]).expect("a key of the suite");
            for fault in faults.into_iter().chain(LENGTHS.map(Step::AgreeWithOther)) {
                assert_eq!(known.check(&Faulty { inner: &aead, fault }, &aead), Err(fault), "{suite}");
            }
        }
        let failure = SelfTestFailure { backend: Backend::IpsecMb, suite: Suite::Aes128Gcm, step: Step::RefuseForgedTag };
        let reported = "ipsec-mb fails its self-test on this machine (aes-128-gcm: refusing a forged tag)";
        assert_eq!(failure.to_string(), reported);
        let choice = Choice::by(Reason::Failed(failure));
        assert_eq!((choice.backend, choice.reason.to_string()), (Backend::AwsLc, format!("{reported} and is not used")));
    }

    #[test]
    fn only_who_is_faster_in_every_suite_is_taken() {
        assert_eq!(Choice::by(Reason::Timed([1.9, 1.8, 1.5])).backend, Backend::IpsecMb);
        for slower in 0..Suite::ALL.len() {
            let mut leads = [2.0; Suite::ALL.len()];
            leads[slower] = 1.0;
            assert_eq!(Choice::by(Reason::Timed(leads)).backend, Backend::AwsLc);
        }
        assert_eq!(Choice::by(Reason::Obstacle(Obstacle::Cpu("VAES"))).backend, Backend::AwsLc);
    }

    #[test]
    fn the_choice_is_made_in_little_time_and_says_why() {
        let began = Instant::now();
        let choice = choose().expect("AWS-LC works");
        let spent = began.elapsed();
        assert!(spent < Duration::from_millis(500), "{spent:?}, which is long even for a build without optimisation");
        assert!(choice.backend.obstacle().is_none());
        match Backend::IpsecMb.obstacle() {
            Some(obstacle) => assert_eq!(choice, Choice::by(Reason::Obstacle(obstacle))),
            None => assert!(matches!(choice.reason, Reason::Timed(leads) if leads.iter().all(|&lead| lead > 0.2)), "{choice:?}"),
        }
    }
}
