//! Sealing and opening take no memory from the heap, in Rust or in C.
//!
//! A counting `GlobalAlloc` would not see the C library's own calls. So this program brings its own `malloc`, `calloc`,
//! `realloc`, `aligned_alloc` and `posix_memalign`, which count and pass on to glibc's; Rust's allocator ends there as well.

#![cfg(all(target_os = "linux", target_env = "gnu"))]

use std::cell::Cell;
use std::ffi::{c_int, c_void};

use adit_esp::aead::{Aead, Backend};
use adit_proto::esp::NONCE_LEN;
use adit_proto::suite::{Suite, TAG_LEN};

/// What C's `posix_memalign` answers without memory.
const ENOMEM: c_int = 12;

thread_local! {
    /// Calls of this thread; the test harness has threads of its own.
    static CALLS: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    CALLS.with(|calls| calls.set(calls.get() + 1));
}

unsafe extern "C" {
    fn __libc_malloc(size: usize) -> *mut c_void;
    fn __libc_calloc(count: usize, size: usize) -> *mut c_void;
    fn __libc_realloc(old: *mut c_void, size: usize) -> *mut c_void;
    fn __libc_memalign(align: usize, size: usize) -> *mut c_void;
}

// SAFETY: has the signature and contract of C's `malloc`, being glibc's with a counter before it.
#[unsafe(no_mangle)]
extern "C" fn malloc(size: usize) -> *mut c_void {
    count();
    // SAFETY: glibc's own implementation, for any size.
    unsafe { __libc_malloc(size) }
}

// SAFETY: has the signature and contract of C's `calloc`.
#[unsafe(no_mangle)]
extern "C" fn calloc(items: usize, size: usize) -> *mut c_void {
    count();
    // SAFETY: glibc's own implementation, for any sizes.
    unsafe { __libc_calloc(items, size) }
}

/// # Safety
/// As C's `realloc`: `old` is null or a live block of this allocator.
// SAFETY: has the signature and contract of C's `realloc`.
#[unsafe(no_mangle)]
unsafe extern "C" fn realloc(old: *mut c_void, size: usize) -> *mut c_void {
    count();
    // SAFETY: the caller keeps the contract, and every block came from glibc.
    unsafe { __libc_realloc(old, size) }
}

// SAFETY: has the signature and contract of C's `aligned_alloc`.
#[unsafe(no_mangle)]
extern "C" fn aligned_alloc(align: usize, size: usize) -> *mut c_void {
    count();
    // SAFETY: glibc's own implementation, for any alignment and size.
    unsafe { __libc_memalign(align, size) }
}

/// # Safety
/// As C's `posix_memalign`: `place` has room for a pointer.
// SAFETY: has the signature and contract of C's `posix_memalign`.
#[unsafe(no_mangle)]
unsafe extern "C" fn posix_memalign(place: *mut *mut c_void, align: usize, size: usize) -> c_int {
    count();
    // SAFETY: glibc's own implementation, for any alignment and size.
    let block = unsafe { __libc_memalign(align, size) };
    if block.is_null() {
        return ENOMEM;
    }
    // SAFETY: the caller keeps the contract.
    unsafe { *place = block };
    0
}

fn calls_during(work: impl FnOnce()) -> u64 {
    let before = CALLS.get();
    work();
    CALLS.get() - before
}

#[test]
fn sealing_and_opening_allocate_nothing() {
    for backend in Backend::usable() {
        for suite in Suite::ALL {
            let aead = Aead::new(backend, suite, &vec![7; suite.key_len()]).expect("a key of the suite");
            let plain = vec![3; 9000];
            let mut sealed = vec![0; 9000];
            let mut tag = [0; TAG_LEN];
            let calls = calls_during(|| {
                for (packet, len) in (0..=9000_usize).step_by(9).enumerate() {
                    let mut nonce = [0; NONCE_LEN];
                    nonce[4..].copy_from_slice(&packet.to_be_bytes());
                    aead.seal(&nonce, &[1; 12], &plain[..len], &mut sealed[..len], &mut tag);
                    assert!(aead.open(&nonce, &[1; 12], &mut sealed[..len], &tag).is_ok());
                    // A refused packet must be as cheap as a good one: anyone can send it.
                    assert!(aead.open(&nonce, &[2; 12], &mut sealed[..len], &tag).is_err());
                }
            });
            assert_eq!(calls, 0, "{backend} {suite}");
        }
    }
}

/// Keys may come to a thread from another one: a worker that has made itself ready allocates for none of their packets.
#[test]
fn a_thread_that_is_ready_allocates_for_no_key_of_another() {
    for backend in Backend::usable() {
        for suite in Suite::ALL {
            let aead = Aead::new(backend, suite, &vec![7; suite.key_len()]).expect("a key of the suite");
            let worker = move || {
                backend.prepare();
                let (mut packet, mut tag) = ([0; 64], [0; TAG_LEN]);
                calls_during(|| {
                    aead.seal(&[1; NONCE_LEN], &[1; 12], &[3; 64], &mut packet, &mut tag);
                    assert!(aead.open(&[1; NONCE_LEN], &[1; 12], &mut packet, &tag).is_ok());
                })
            };
            assert_eq!(std::thread::spawn(worker).join().expect("no panic"), 0, "{backend} {suite}");
        }
    }
}

#[test]
fn the_counter_sees_allocations_of_rust_and_of_c() {
    assert_eq!(calls_during(|| drop(std::hint::black_box(vec![1_u8; 100]))), 1);
    assert_eq!(calls_during(|| drop(std::hint::black_box(Box::new([0_u128; 9])))), 1);
    let mut aead = None;
    let calls = calls_during(|| aead = Some(Aead::new(Backend::AwsLc, Suite::Aes128Gcm, &[0; 16])));
    assert!(matches!(aead, Some(Ok(_))) && calls > 0, "the key schedule of the C library is on the heap");
    let prepared = std::thread::spawn(|| calls_during(|| Backend::IpsecMb.prepare())).join().expect("no panic");
    let usable = Backend::IpsecMb.obstacle().is_none();
    assert_eq!(prepared > 0, usable, "the manager of the C library is on the heap");
}
