//! Reading files with keys: secret ones only when nobody else can read them.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use zeroize::Zeroizing;

/// Longest file, in bytes: a chain of certificates, or a bundle of CAs.
const FILE_BYTES_MAX: u64 = 256 << 10;

/// Who may be able to read a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readers {
    /// It holds a secret.
    OwnerOnly,
    All,
}

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    #[error("the file {0} does not exist")]
    Missing(String),
    #[error("the file {0} cannot be read: {1}")]
    Unreadable(String, io::Error),
    #[error("{0} is not a regular file")]
    NotAFile(String),
    #[error("the key file {0} can be read or changed by others (mode {1:04o})")]
    TooOpen(String, u32),
    #[error("the file {0} can be changed by others (mode {1:04o})")]
    Writable(String, u32),
    #[error("the file {0} belongs to user {1}, which is neither root nor the user who runs adit")]
    ForeignOwner(String, u32),
    #[error("the file {0} is longer than {FILE_BYTES_MAX} bytes")]
    TooLong(String),
    #[error("the file {0} is text in UTF-16, as some editors save it")]
    Utf16(String),
}

impl KeyFileError {
    /// What to run to repair it.
    pub fn remedy(&self) -> String {
        match self {
            KeyFileError::Missing(file) => format!("the path of a file that exists, or make {file}"),
            KeyFileError::Unreadable(file, _) => {
                format!("run: ls -l {file} (and make the path readable for the user who runs adit)")
            }
            KeyFileError::NotAFile(_) | KeyFileError::TooLong(_) => "the path of another file".to_owned(),
            KeyFileError::Utf16(file) => {
                format!("run: (umask 077; iconv -f UTF-16 -t UTF-8 {file} > {file}.utf8), and name that file")
            }
            KeyFileError::TooOpen(file, _) => format!("run: chmod 600 {file}"),
            KeyFileError::Writable(file, _) => format!("run: chmod go-w {file}"),
            KeyFileError::ForeignOwner(file, _) => format!("run: chown root {file}"),
        }
    }
}

/// Writes a new file that only its owner can read, or for one that is no secret everybody. Never overwrites, and leaves no half
/// of a file.
///
/// # Errors
/// The file exists or cannot be written.
pub fn create(path: &Path, bytes: &[u8], readers: Readers) -> io::Result<()> {
    let mode = if readers == Readers::OwnerOnly { 0o600 } else { 0o644 };
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    if written.is_err() {
        // It is ours: it was made above. What matters to the caller is why it could not be written.
        let _ = std::fs::remove_file(path);
    }
    written
}

/// What some editors put in front of text: in UTF-8 it says nothing, the others mean that each character has two bytes.
const MARK_UTF8: &[u8] = b"\xef\xbb\xbf";
const MARKS_UTF16: [&[u8]; 2] = [b"\xff\xfe", b"\xfe\xff"];

/// Reads a file, without the mark of UTF-8 in front of it.
///
/// # Errors
/// It cannot be read, or others can do with it what they should not.
pub fn read(path: &Path, readers: Readers) -> Result<Zeroizing<Vec<u8>>, KeyFileError> {
    let shown = path.display().to_string();
    let unreadable = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => KeyFileError::Missing(shown.clone()),
        _ => KeyFileError::Unreadable(shown.clone(), error),
    };
    let file = File::open(path).map_err(unreadable)?;
    // The open file is judged, not the path, so that nobody can swap it in between.
    let facts = file.metadata().map_err(unreadable)?;
    if !facts.is_file() {
        return Err(KeyFileError::NotAFile(shown));
    }
    if facts.uid() != 0 && facts.uid() != rustix::process::geteuid().as_raw() {
        return Err(KeyFileError::ForeignOwner(shown, facts.uid()));
    }
    let mode = facts.mode() & 0o7777;
    match readers {
        Readers::OwnerOnly if mode & 0o077 != 0 => return Err(KeyFileError::TooOpen(shown, mode)),
        Readers::All if mode & 0o022 != 0 => return Err(KeyFileError::Writable(shown, mode)),
        _ => {}
    }
    if facts.len() > FILE_BYTES_MAX {
        return Err(KeyFileError::TooLong(shown));
    }
    // Room for the whole file, so that no copy of a grown buffer stays behind in memory.
    let mut bytes = Zeroizing::new(Vec::with_capacity(facts.len() as usize + 1));
    file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.starts_with(MARK_UTF8) {
        bytes.drain(..MARK_UTF8.len());
    }
    if MARKS_UTF16.iter().any(|mark| bytes.starts_with(mark)) {
        return Err(KeyFileError::Utf16(shown));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_of_editors_are_left_out_or_refused_with_a_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let read_back = |name: &str, bytes: &[u8]| {
            let path = dir.path().join(name);
            create(&path, bytes, Readers::OwnerOnly).unwrap();
            read(&path, Readers::OwnerOnly)
        };
        assert_eq!(**read_back("plain", b"a key\r\n").unwrap(), *b"a key\r\n");
        assert_eq!(**read_back("marked", b"\xef\xbb\xbfa key\r\n").unwrap(), *b"a key\r\n");
        for (name, bytes) in [("little", b"\xff\xfea\0"), ("big", b"\xfe\xff\0a")] {
            let error = read_back(name, bytes).unwrap_err();
            assert!(matches!(error, KeyFileError::Utf16(_)) && error.remedy().contains("iconv -f UTF-16"), "{error}");
        }
    }
}
