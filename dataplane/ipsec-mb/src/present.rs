//! The functions of intel-ipsec-mb with safe faces, and the memory of its keys.
//!
//! unsafe here: calls into C, and the schedule that C writes. The glue on the other side is `glue.c`.
//!
//! AES-GCM is a function of key schedule and packet alone. ChaCha20-Poly1305 is a job given to a *manager*, 200 KiB that one
//! thread uses at a time: every thread that seals or opens has one of its own, made by [`prepare`], by the first key that the
//! thread makes, or else by its first packet. The jobs of these ciphers are done when the call returns, one by one.

use std::ffi::{CStr, c_char, c_void};
use std::mem::MaybeUninit;
use std::ptr::NonNull;
use std::sync::OnceLock;

use adit_proto::esp::NONCE_LEN;
use adit_proto::suite::TAG_LEN;
use aws_lc_rs::constant_time::verify_slices_are_equal;
use zeroize::{Zeroize, Zeroizing};

use crate::Obstacle;

/// Bytes of the largest key schedule, `struct gcm_key_data`; the glue does not build where that is larger.
const SCHEDULE_BYTES: usize = 1024;
/// Bytes of `struct gcm_context_data`, likewise.
const CONTEXT_BYTES: usize = 128;
const CHACHA_KEY_LEN: usize = 32;

#[repr(C, align(64))]
struct Schedule([u8; SCHEDULE_BYTES]);

/// Where a call leaves what a next one would need that went on with the same packet. None does.
#[repr(C, align(64))]
struct Context([u8; CONTEXT_BYTES]);

type Expand = unsafe extern "C" fn(key: *const u8, schedule: *mut Schedule);
type Crypt = unsafe extern "C" fn(
    schedule: *const Schedule,
    context: *mut Context,
    to: *mut u8,
    from: *const u8,
    len: u64,
    nonce: *const u8,
    aad: *const u8,
    aad_len: u64,
    tag: *mut u8,
    tag_len: u64,
);

#[repr(C)]
struct GcmCalls {
    expand: Expand,
    seal: Crypt,
    open: Crypt,
}

unsafe extern "C" {
    fn adit_mb_version() -> *const c_char;
    fn adit_mb_new() -> *mut c_void;
    fn adit_mb_free(manager: *mut c_void);
    fn adit_mb_gcm(manager: *const c_void, key_len: usize, calls: *mut GcmCalls);
    fn adit_mb_chacha20_poly1305(
        manager: *mut c_void,
        open: bool,
        key: *const u8,
        nonce: *const u8,
        aad: *const u8,
        aad_len: usize,
        from: *const u8,
        to: *mut u8,
        len: usize,
        tag: *mut u8,
    ) -> bool;
}

/// The library's manager of one thread.
struct Manager(NonNull<c_void>);

impl Manager {
    fn new() -> Option<Manager> {
        // SAFETY: takes nothing, and gives back null or a manager that is ours until it is freed.
        NonNull::new(unsafe { adit_mb_new() }).map(Manager)
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        // SAFETY: from `adit_mb_new`, and given back once.
        unsafe { adit_mb_free(self.0.as_ptr()) }
    }
}

thread_local! {
    // What is missing when the first one of a process could be made is memory, and then Rust's own allocator gives up as well.
    static MANAGER: Manager = Manager::new().expect("memory for the manager of intel-ipsec-mb");
}

/// Release of the library that is linked.
pub fn version() -> Option<&'static str> {
    // SAFETY: a string constant of the glue, with its zero behind.
    unsafe { CStr::from_ptr(adit_mb_version()) }.to_str().ok()
}

/// Why the backend cannot be used on this machine. Looked at once in a process.
pub fn obstacle() -> Option<Obstacle> {
    static OBSTACLE: OnceLock<Option<Obstacle>> = OnceLock::new();
    *OBSTACLE.get_or_init(|| match lacking() {
        Some(instructions) => Some(Obstacle::Cpu(instructions)),
        None if Manager::new().is_none() => Some(Obstacle::Refused),
        None => None,
    })
}

/// The first of the instruction sets of the code with VAES that this CPU or its system has not.
fn lacking() -> Option<&'static str> {
    use std::arch::is_x86_feature_detected as has;
    let needed = [
        ("AES-NI", has!("aes")),
        ("PCLMULQDQ", has!("pclmulqdq")),
        ("AVX-512", has!("avx512f") && has!("avx512dq") && has!("avx512cd") && has!("avx512bw") && has!("avx512vl")),
        ("AVX-512 IFMA", has!("avx512ifma")),
        ("VAES", has!("vaes")),
        ("VPCLMULQDQ", has!("vpclmulqdq")),
        ("GFNI", has!("gfni")),
        ("SHA", has!("sha")),
    ];
    needed.into_iter().find_map(|(name, has)| (!has).then_some(name))
}

/// Makes the manager of this thread, so that none of its packets has to.
pub fn prepare() {
    MANAGER.with(|_| ());
}

/// A key of AES-GCM. Boxed by its owner: the schedule is wiped where it lies.
pub struct Gcm {
    schedule: Schedule,
    seal: Crypt,
    open: Crypt,
}

impl Gcm {
    /// `key` has 16 or 32 bytes, and [`obstacle`] none.
    pub fn new(key: &[u8]) -> Box<Gcm> {
        assert!([16, 32].contains(&key.len()), "a key of AES-128 or AES-256");
        let mut calls = MaybeUninit::<GcmCalls>::uninit();
        // SAFETY: the manager of this thread, and room for the calls, all of which are written.
        let calls = MANAGER.with(|manager| unsafe {
            adit_mb_gcm(manager.0.as_ptr(), key.len(), calls.as_mut_ptr());
            calls.assume_init()
        });
        let mut gcm = Box::new(Gcm { schedule: Schedule([0; SCHEDULE_BYTES]), seal: calls.seal, open: calls.open });
        // SAFETY: `key` has the length for which the call was chosen, and the schedule room and alignment for what is written.
        unsafe { (calls.expand)(key.as_ptr(), &raw mut gcm.schedule) };
        gcm
    }

    /// Encrypts `plain` into `sealed` and writes the tag over `aad` and the ciphertext to `tag`.
    ///
    /// # Panics
    /// When `plain` and `sealed` differ in length.
    #[inline]
    pub fn seal(&self, nonce: &[u8; NONCE_LEN], aad: &[u8], plain: &[u8], sealed: &mut [u8], tag: &mut [u8; TAG_LEN]) {
        self.crypt(self.seal, nonce, aad, Some(plain), sealed, tag);
    }

    /// Decrypts `buf` where it lies, and says whether `tag` is right. When it is not, `buf` is zeros.
    #[inline]
    #[must_use]
    pub fn open(&self, nonce: &[u8; NONCE_LEN], aad: &[u8], buf: &mut [u8], tag: &[u8; TAG_LEN]) -> bool {
        let mut right = [0; TAG_LEN];
        self.crypt(self.open, nonce, aad, None, buf, &mut right);
        compare(&right, tag, buf)
    }

    /// Without `from` the bytes of `to` are worked on in place.
    #[inline]
    fn crypt(
        &self,
        call: Crypt,
        nonce: &[u8; NONCE_LEN],
        aad: &[u8],
        from: Option<&[u8]>,
        to: &mut [u8],
        tag: &mut [u8; TAG_LEN],
    ) {
        let mut context = MaybeUninit::<Context>::uninit();
        let (len, aad_len) = (to.len() as u64, aad.len() as u64);
        let (from, to) = both(from, to);
        let (nonce, aad, tag) = (nonce.as_ptr(), aad.as_ptr(), tag.as_mut_ptr());
        // SAFETY: every pointer goes with the length that its slice has, and so do `from` and `to`. The schedule was written by the
        // call's own `expand`.
        unsafe { call(&raw const self.schedule, context.as_mut_ptr(), to, from, len, nonce, aad, aad_len, tag, TAG_LEN as u64) }
    }
}

impl Drop for Gcm {
    fn drop(&mut self) {
        self.schedule.0.zeroize();
    }
}

/// A key of ChaCha20-Poly1305, wiped on drop. Boxed by its owner.
pub struct ChaCha20Poly1305 {
    key: Zeroizing<[u8; CHACHA_KEY_LEN]>,
}

impl ChaCha20Poly1305 {
    /// `key` has 32 bytes, and [`obstacle`] none.
    pub fn new(key: &[u8]) -> Box<ChaCha20Poly1305> {
        prepare();
        let mut chacha = Box::new(ChaCha20Poly1305 { key: Zeroizing::new([0; CHACHA_KEY_LEN]) });
        chacha.key.copy_from_slice(key);
        chacha
    }

    /// Encrypts `plain` into `sealed` and writes the tag over `aad` and the ciphertext to `tag`.
    ///
    /// # Panics
    /// When `plain` and `sealed` differ in length.
    #[inline]
    pub fn seal(&self, nonce: &[u8; NONCE_LEN], aad: &[u8], plain: &[u8], sealed: &mut [u8], tag: &mut [u8; TAG_LEN]) {
        self.crypt(false, nonce, aad, Some(plain), sealed, tag);
    }

    /// Decrypts `buf` where it lies, and says whether `tag` is right. When it is not, `buf` is zeros.
    #[inline]
    #[must_use]
    pub fn open(&self, nonce: &[u8; NONCE_LEN], aad: &[u8], buf: &mut [u8], tag: &[u8; TAG_LEN]) -> bool {
        let mut right = [0; TAG_LEN];
        self.crypt(true, nonce, aad, None, buf, &mut right);
        compare(&right, tag, buf)
    }

    /// Without `from` the bytes of `to` are worked on in place.
    #[inline]
    fn crypt(
        &self,
        open: bool,
        nonce: &[u8; NONCE_LEN],
        aad: &[u8],
        from: Option<&[u8]>,
        to: &mut [u8],
        tag: &mut [u8; TAG_LEN],
    ) {
        let (len, aad_len, key) = (to.len(), aad.len(), self.key.as_ptr());
        let (from, to) = both(from, to);
        let (nonce, aad, tag) = (nonce.as_ptr(), aad.as_ptr(), tag.as_mut_ptr());
        // SAFETY: the manager is this thread's, and nothing below calls back. Every pointer goes with the length that its slice has,
        // and so do `from` and `to`. The manager keeps the pointers, and follows none of them once the job is done.
        let done = MANAGER.with(|manager| unsafe {
            adit_mb_chacha20_poly1305(manager.0.as_ptr(), open, key, nonce, aad, aad_len, from, to, len, tag)
        });
        assert!(done, "intel-ipsec-mb did not do a job that it took");
    }
}

/// Where to read and to write: one buffer, or two of one length that do not overlap, for one of the slices may be written.
#[inline]
fn both(from: Option<&[u8]>, to: &mut [u8]) -> (*const u8, *mut u8) {
    if let Some(from) = from {
        assert_eq!(from.len(), to.len(), "sealed has the length of plain");
    }
    let to = to.as_mut_ptr();
    (from.map_or(to.cast_const(), <[u8]>::as_ptr), to)
}

/// In constant time. The library deciphers before it knows the tag: of a packet that is none nothing stays.
#[inline]
fn compare(right: &[u8; TAG_LEN], given: &[u8; TAG_LEN], buf: &mut [u8]) -> bool {
    let same = verify_slices_are_equal(right, given).is_ok();
    if !same {
        buf.fill(0);
    }
    same
}

#[cfg(test)]
mod tests {
    use super::*;

    unsafe extern "C" {
        fn adit_mb_manager_size() -> usize;
    }

    /// The `len` bytes of a value that begin at `part`: before and after it is dropped where it lies, while the memory is still ours.
    fn bytes_after_drop<T>(value: T, part: fn(&T) -> *const u8, len: usize) -> (Vec<u8>, Vec<u8>) {
        let mut place = Box::new(MaybeUninit::new(value));
        // SAFETY: a value until it is dropped below.
        let part = part(unsafe { place.assume_init_ref() });
        // SAFETY: bytes of the box, which outlives both looks; they were written, and dropping takes that back for none.
        let look = || unsafe { (0..len).map(|at| part.add(at).read_volatile()).collect() };
        let before = look();
        // SAFETY: written above, and never used again as a value.
        unsafe { place.assume_init_drop() };
        (before, look())
    }

    fn key(len: usize) -> Vec<u8> {
        (1..).map(|n: u8| n.wrapping_mul(0x9d)).take(len).collect()
    }

    fn holds(bytes: &[u8], key: &[u8]) -> bool {
        bytes.windows(key.len()).any(|window| window == key)
    }

    #[test]
    fn a_dropped_key_of_aes_leaves_no_byte_of_its_schedule() {
        if obstacle().is_some() {
            return;
        }
        for len in [16, 32] {
            let (before, after) = bytes_after_drop(*Gcm::new(&key(len)), |gcm| gcm.schedule.0.as_ptr(), SCHEDULE_BYTES);
            assert!(holds(&before, &key(len)), "the first round key is the key itself");
            assert!(after.iter().all(|&byte| byte == 0), "AES-{}", len * 8);
        }
    }

    #[test]
    fn a_dropped_key_of_chacha20_leaves_no_byte() {
        if obstacle().is_some() {
            return;
        }
        let (before, after) = bytes_after_drop(*ChaCha20Poly1305::new(&key(32)), |chacha| chacha.key.as_ptr(), CHACHA_KEY_LEN);
        assert!(holds(&before, &key(32)) && after.iter().all(|&byte| byte == 0));
    }

    #[test]
    fn the_manager_keeps_nothing_of_a_key_or_a_plaintext() {
        if obstacle().is_some() {
            return;
        }
        let plain: Vec<u8> = (0..1400).map(|n: u32| (n * n % 251) as u8).collect();
        let mut sealed = vec![0; plain.len()];
        ChaCha20Poly1305::new(&key(32)).seal(&[1; NONCE_LEN], &[2; 12], &plain, &mut sealed, &mut [0; TAG_LEN]);
        Gcm::new(&key(16)).seal(&[1; NONCE_LEN], &[2; 12], &plain, &mut sealed, &mut [0; TAG_LEN]);
        let memory = MANAGER.with(|manager| {
            // SAFETY: the manager is one block of this size, written by the library, and no job is being done.
            unsafe { std::slice::from_raw_parts(manager.0.as_ptr().cast::<u8>(), adit_mb_manager_size()) }.to_vec()
        });
        assert!(memory.len() > 100_000 && memory.iter().any(|&byte| byte != 0));
        for secret in [&key(32)[..16], &key(32)[16..], &plain[..16], &plain[1384..]] {
            assert!(!holds(&memory, secret), "{secret:x?}");
        }
    }

    #[test]
    fn a_forged_packet_leaves_nothing_that_was_deciphered() {
        if obstacle().is_some() {
            return;
        }
        let mut buf = [0x5a; 100];
        assert!(!Gcm::new(&key(16)).open(&[1; NONCE_LEN], &[], &mut buf, &[0; TAG_LEN]));
        assert_eq!(buf, [0; 100]);
        let mut buf = [0x5a; 100];
        assert!(!ChaCha20Poly1305::new(&key(32)).open(&[1; NONCE_LEN], &[], &mut buf, &[0; TAG_LEN]));
        assert_eq!(buf, [0; 100]);
    }

    #[test]
    fn a_key_seals_on_a_thread_that_made_none() {
        if obstacle().is_some() {
            return;
        }
        let aead = ChaCha20Poly1305::new(&key(32));
        let sealed = std::thread::spawn(move || {
            let (mut sealed, mut tag) = ([0; 64], [0; TAG_LEN]);
            aead.seal(&[1; NONCE_LEN], &[], &[3; 64], &mut sealed, &mut tag);
            aead.open(&[1; NONCE_LEN], &[], &mut sealed, &tag).then_some(sealed)
        });
        assert_eq!(sealed.join().expect("no panic"), Some([3; 64]));
    }
}
