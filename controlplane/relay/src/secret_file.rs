//! Files of the relay: secret ones are read only where nobody else can read them, and what exists is never overwritten.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use zeroize::Zeroizing;

use crate::limits::FILE_BYTES_MAX;

/// Who may be able to read a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readers {
    /// It holds a secret.
    OwnerOnly,
    All,
}

/// Why a file cannot be used. The message names the file.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("the file {0} does not exist")]
    Missing(String),
    #[error("the file {0} cannot be read: {1}")]
    Unreadable(String, io::Error),
    #[error("{0} is not a regular file")]
    NotAFile(String),
    #[error("the file {0} (mode {1:04o}) holds a secret and can be read or changed by others")]
    TooOpen(String, u32),
    #[error("the file {0} (mode {1:04o}) can be changed by others")]
    Writable(String, u32),
    #[error("the file {0} is longer than {FILE_BYTES_MAX} bytes")]
    TooLong(String),
    #[error("the file {0} exists and is not overwritten")]
    Exists(String),
    #[error("the file {0} cannot be written: {1}")]
    Unwritable(String, io::Error),
}

impl FileError {
    /// What to write or to run to repair it.
    pub fn remedy(&self) -> String {
        match self {
            FileError::Missing(file) => {
                format!("the path of a file that exists, or make {file} (adit relay init makes all of them)")
            }
            FileError::Unreadable(file, _) => {
                format!("run: ls -l {file} (and make the path readable for the user who runs the relay)")
            }
            FileError::NotAFile(_) | FileError::TooLong(_) => "the path of another file".to_owned(),
            FileError::TooOpen(file, _) => format!("run: chmod 600 {file}"),
            FileError::Writable(file, _) => format!("run: chmod go-w {file}"),
            FileError::Exists(file) => format!("another name, or move it away: mv {file} {file}.old"),
            FileError::Unwritable(file, _) => format!("run: ls -ld {file} and its directory (and make that one writable)"),
        }
    }
}

/// Reads a file.
///
/// # Errors
/// It cannot be read, or others can do with it what they should not.
pub fn read(path: &Path, readers: Readers) -> Result<Zeroizing<Vec<u8>>, FileError> {
    let shown = path.display().to_string();
    let unreadable = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => FileError::Missing(shown.clone()),
        _ => FileError::Unreadable(shown.clone(), error),
    };
    let file = File::open(path).map_err(unreadable)?;
    // The open file is judged, not the path, so that nobody can swap it in between.
    let facts = file.metadata().map_err(unreadable)?;
    if !facts.is_file() {
        return Err(FileError::NotAFile(shown));
    }
    let mode = facts.mode() & 0o7777;
    // Root may let a group read a secret: that of the service, or the one that certificates are shared with.
    let forbidden = if facts.uid() == 0 { 0o037 } else { 0o077 };
    match readers {
        Readers::OwnerOnly if mode & forbidden != 0 => return Err(FileError::TooOpen(shown, mode)),
        Readers::All if mode & 0o022 != 0 => return Err(FileError::Writable(shown, mode)),
        Readers::OwnerOnly | Readers::All => {}
    }
    if facts.len() > FILE_BYTES_MAX {
        return Err(FileError::TooLong(shown));
    }
    // Room for the whole file, so that no copy of a grown buffer stays behind in memory.
    let mut bytes = Zeroizing::new(Vec::with_capacity(facts.len() as usize + 1));
    file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).map_err(unreadable)?;
    Ok(bytes)
}

/// Writes a new file, and leaves no half of one.
///
/// # Errors
/// The file exists or cannot be written.
pub fn create(path: &Path, bytes: &[u8], readers: Readers) -> Result<(), FileError> {
    let shown = path.display().to_string();
    let mode = if readers == Readers::OwnerOnly { 0o600 } else { 0o644 };
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => FileError::Exists(shown.clone()),
        _ => FileError::Unwritable(shown.clone(), error),
    })?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(|error| {
        // It is ours: it was made above. What matters to the caller is why it could not be written.
        let _ = std::fs::remove_file(path);
        FileError::Unwritable(shown.clone(), error)
    })
}

#[cfg(test)]
mod tests {
    use std::fs::{Permissions, set_permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_secret_is_for_its_owner_alone_and_nothing_is_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        create(&path, b"one", Readers::OwnerOnly).unwrap();
        assert_eq!(**read(&path, Readers::OwnerOnly).unwrap(), *b"one");
        let again = create(&path, b"two", Readers::OwnerOnly).unwrap_err();
        assert!(matches!(again, FileError::Exists(_)) && again.remedy().contains(".old"), "{again}");
        for mode in [0o644, 0o604, 0o620] {
            set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let error = read(&path, Readers::OwnerOnly).unwrap_err();
            assert!(matches!(error, FileError::TooOpen(..)) && error.remedy().contains("chmod 600"), "{mode:o}: {error}");
        }
        set_permissions(&path, Permissions::from_mode(0o622)).unwrap();
        assert!(matches!(read(&path, Readers::All).unwrap_err(), FileError::Writable(..)));
        assert!(matches!(read(dir.path(), Readers::All).unwrap_err(), FileError::NotAFile(_)));
        assert!(matches!(read(&dir.path().join("none"), Readers::All).unwrap_err(), FileError::Missing(_)));
    }

    #[test]
    fn a_file_without_end_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("long");
        create(&path, &vec![b'a'; FILE_BYTES_MAX as usize + 1], Readers::All).unwrap();
        assert!(matches!(read(&path, Readers::All).unwrap_err(), FileError::TooLong(_)));
    }
}
