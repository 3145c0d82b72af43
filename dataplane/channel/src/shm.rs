//! Sealed shared memory, seen as atomic words: the only view on it that stays defined while a stranger writes to it.

use std::fs::File;
use std::io;
use std::ops::{Deref, Range};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;

use crate::sync::AtomicU64;

const WORD: usize = size_of::<AtomicU64>();
/// Neither side can shrink the memory under the other, which would kill it with SIGBUS.
pub const SEALS: i32 = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;

/// Makes memory of this many bytes, zeroed, and seals its size.
pub fn create_sealed(bytes: u64) -> io::Result<OwnedFd> {
    create(bytes, SEALS)
}

/// Makes memory of this many bytes, zeroed, with these seals. It never becomes a program that somebody could run, where the kernel
/// has a word for that (Linux 6.3).
pub fn create(bytes: u64, seals: i32) -> io::Result<OwnedFd> {
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    let file = match memfd(flags | libc::MFD_NOEXEC_SEAL) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => memfd(flags)?,
        made => made?,
    };
    file.set_len(bytes)?;
    // SAFETY: plain call on an open descriptor.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(file.into())
}

fn memfd(flags: libc::c_uint) -> io::Result<File> {
    // SAFETY: the name is a C string; the call has no other requirement.
    let fd = unsafe { libc::memfd_create(c"adit-channel".as_ptr(), flags) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just made and has no other owner.
    Ok(File::from(unsafe { OwnedFd::from_raw_fd(fd) }))
}

/// Length in bytes of memory that another process made; `InvalidData` when its size is not sealed.
pub fn sealed_len(memory: BorrowedFd) -> io::Result<u64> {
    // SAFETY: plain call on an open descriptor.
    let seals = unsafe { libc::fcntl(memory.as_raw_fd(), libc::F_GET_SEALS) };
    if seals < 0 || seals & SEALS != SEALS {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the size of the shared memory is not sealed"));
    }
    Ok(File::from(memory.try_clone_to_owned()?).metadata()?.len())
}

/// Shared memory in our address space, until the last [`Words`] into it is dropped.
#[derive(Debug)]
pub struct Mapping {
    base: NonNull<AtomicU64>,
    words: usize,
}

// SAFETY: the mapping is plain memory, reached only through atomics, and unmapped by whoever drops it last.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps the first `bytes` bytes, with all pages present. The memory must be sealed and that long.
    pub fn new(memory: BorrowedFd, bytes: usize) -> io::Result<Arc<Mapping>> {
        if bytes < WORD || sealed_len(memory)? < bytes as u64 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the shared memory is shorter than it says"));
        }
        let (access, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_POPULATE);
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), bytes, access, flags, memory.as_raw_fd(), 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // Keys pass through: keep them out of core dumps. An old kernel that cannot is no reason to stop.
        // SAFETY: the range is the mapping just made.
        unsafe { libc::madvise(base, bytes, libc::MADV_DONTDUMP) };
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Arc::new(Mapping { base, words: bytes / WORD }))
    }

    /// The words in `range`; `None` when it is not inside the mapping.
    pub fn words(self: &Arc<Mapping>, range: Range<usize>) -> Option<Words> {
        if range.start > range.end || range.end > self.words {
            return None;
        }
        // SAFETY: the range was just checked to lie inside the mapping.
        let first = unsafe { self.base.add(range.start) };
        Some(Words { first, len: range.len(), _mapping: Arc::clone(self) })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: base and length are those of the mapping; no `Words` is left, each holds an `Arc` of it.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.words * WORD) };
    }
}

/// A part of a mapping; keeps it mapped.
#[derive(Clone, Debug)]
pub struct Words {
    first: NonNull<AtomicU64>,
    len: usize,
    _mapping: Arc<Mapping>,
}

// SAFETY: atomics in memory that lives as long as the value; they may be used from any thread.
unsafe impl Send for Words {}
// SAFETY: as above.
unsafe impl Sync for Words {}

impl Deref for Words {
    type Target = [AtomicU64];

    #[inline]
    fn deref(&self) -> &[AtomicU64] {
        // SAFETY: `Mapping::words` checked the range; the mapping is page aligned, so words are aligned; every bit
        // pattern is an `AtomicU64`; other processes change the memory, which atomics allow.
        unsafe { std::slice::from_raw_parts(self.first.as_ptr(), self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::Ordering;
    use std::os::fd::AsFd;

    #[test]
    fn memory_whose_size_is_not_sealed_is_refused() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(8192).unwrap();
        assert_eq!(sealed_len(file.as_fd()).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(Mapping::new(file.as_fd(), 4096).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn the_size_of_sealed_memory_cannot_change() {
        let memory = create_sealed(8192).unwrap();
        assert_eq!(sealed_len(memory.as_fd()).unwrap(), 8192);
        let file = File::from(memory.try_clone().unwrap());
        assert!(file.set_len(4096).is_err() && file.set_len(16384).is_err());
        assert!(Mapping::new(memory.as_fd(), 16384).is_err());
    }

    #[test]
    fn the_memory_cannot_be_made_executable_where_the_kernel_knows_of_that() {
        use std::os::unix::fs::PermissionsExt;
        if memfd(libc::MFD_CLOEXEC | libc::MFD_NOEXEC_SEAL).is_err() {
            return;
        }
        let memory = File::from(create_sealed(4096).unwrap());
        assert_eq!(memory.metadata().unwrap().permissions().mode() & 0o111, 0);
        assert!(memory.set_permissions(std::fs::Permissions::from_mode(0o777)).is_err());
    }

    #[test]
    fn two_mappings_show_the_same_words_and_only_those_inside() {
        let memory = create_sealed(4096).unwrap();
        let (one, two) = (Mapping::new(memory.as_fd(), 4096).unwrap(), Mapping::new(memory.as_fd(), 4096).unwrap());
        one.words(10..12).unwrap()[1].store(7, Ordering::Relaxed);
        assert_eq!(two.words(11..512).unwrap()[0].load(Ordering::Relaxed), 7);
        assert!(one.words(0..513).is_none() && one.words(usize::MAX - 1..usize::MAX).is_none());
        let backwards = Range { start: 3, end: 2 };
        assert!(one.words(backwards).is_none());
    }
}
