//! An archive that a kernel unpacks as its root directory: cpio in the format `newc` (Documentation/driver-api/early-userspace/buffer-format).

use std::fs;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Kinds of files (inode(7)).
const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;
const CHARACTER: u32 = 0o020_000;

/// An archive that is being written. Everything in it belongs to root.
pub struct Archive<W> {
    out: W,
    written: u64,
    entries: u32,
}

impl<W: Write> Archive<W> {
    pub fn new(out: W) -> Archive<W> {
        Archive { out, written: 0, entries: 0 }
    }

    /// Adds what is below `root`, except paths that `leave_out` names.
    pub fn tree(&mut self, root: &Path, leave_out: &impl Fn(&Path) -> bool) -> io::Result<()> {
        self.below(root, Path::new(""), leave_out)
    }

    fn below(&mut self, root: &Path, at: &Path, leave_out: &impl Fn(&Path) -> bool) -> io::Result<()> {
        for entry in fs::read_dir(root.join(at))? {
            let entry = entry?;
            let path = at.join(entry.file_name());
            if leave_out(&path) {
                continue;
            }
            let (kind, mode) = (entry.file_type()?, entry.metadata()?.mode() & 0o7777);
            if kind.is_dir() {
                self.directory(&path, mode)?;
                self.below(root, &path, leave_out)?;
            } else if kind.is_symlink() {
                let target = fs::read_link(entry.path())?;
                self.entry(&path, SYMLINK | 0o777, 0, target.as_os_str().as_bytes())?;
            } else if kind.is_file() {
                self.file(&path, mode, &fs::read(entry.path())?)?;
            }
        }
        Ok(())
    }

    pub fn directory(&mut self, path: impl AsRef<Path>, mode: u32) -> io::Result<()> {
        self.entry(path.as_ref(), DIRECTORY | mode, 0, &[])
    }

    pub fn file(&mut self, path: impl AsRef<Path>, mode: u32, content: &[u8]) -> io::Result<()> {
        self.entry(path.as_ref(), REGULAR | mode, 0, content)
    }

    /// A character device with these numbers.
    pub fn device(&mut self, path: impl AsRef<Path>, mode: u32, (major, minor): (u8, u8)) -> io::Result<()> {
        self.entry(path.as_ref(), CHARACTER | mode, u64::from(major) << 8 | u64::from(minor), &[])
    }

    /// Ends the archive.
    pub fn finish(mut self) -> io::Result<W> {
        self.entry(Path::new("TRAILER!!!"), 0, 0, &[])?;
        Ok(self.out)
    }

    fn entry(&mut self, path: &Path, mode: u32, device: u64, content: &[u8]) -> io::Result<()> {
        let name = path.as_os_str().as_bytes();
        let length = u32::try_from(content.len()).map_err(|_| io::Error::other("a file is too long for the archive"))?;
        self.entries += 1;
        let fields = [
            self.entries,
            mode,
            0,
            0,
            if mode & DIRECTORY == DIRECTORY { 2 } else { 1 },
            0,
            length,
            0,
            0,
            (device >> 8) as u32,
            device as u32 & 0xff,
            name.len() as u32 + 1,
            0,
        ];
        let mut header = String::from("070701");
        fields.iter().for_each(|field| header.push_str(&format!("{field:08x}")));
        self.put(header.as_bytes())?;
        self.put(name)?;
        self.put(&[0])?;
        self.align()?;
        self.put(content)?;
        self.align()
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.written += bytes.len() as u64;
        self.out.write_all(bytes)
    }

    /// Names and contents begin at multiples of four.
    fn align(&mut self) -> io::Result<()> {
        let rest = (self.written % 4) as usize;
        self.put(&[0; 3][..(4 - rest) % 4])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_what_the_kernel_expects() {
        let mut archive = Archive::new(Vec::new());
        archive.file("etc/a", 0o644, b"hello").unwrap();
        archive.device("dev/console", 0o600, (5, 1)).unwrap();
        let bytes = archive.finish().unwrap();
        let text = String::from_utf8_lossy(&bytes);
        assert!(text.starts_with("07070100000001000081a40000000000000000000000010000000000000005"), "{text}");
        // Behind the header the name with its zero, then the content with three to fill.
        assert_eq!(&bytes[110..124], b"etc/a\0hello\0\0\0");
        assert!(text.contains("dev/console") && text.contains("TRAILER!!!") && bytes.len() % 4 == 0);
    }
}
