//! Files with secrets: they are read only where nobody else can read them, and what exists is never overwritten. How that is done is
//! the same for a gateway ([`read_if`], [`write_new`]); what is said about the files of a relay, and as whose they are, is below.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::unistd::{Uid, User};
use zeroize::Zeroizing;

use crate::limits::FILE_BYTES_MAX;

/// The user as whom the unit runs a relay. It is none of a gateway: whoever breaks into a relay reads no key of a gateway on the same
/// machine.
pub const SERVICE_USER: &str = "adit-relay";

/// A user of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ids {
    pub uid: u32,
    pub gid: u32,
}

/// The user of the service, where the machine has it.
pub fn service_user() -> Option<Ids> {
    let user = User::from_name(SERVICE_USER).ok().flatten()?;
    Some(Ids { uid: user.uid.as_raw(), gid: user.gid.as_raw() })
}

/// What belongs behind a command that makes a file or changes its mode, so that the service can read it: for root, the owner.
pub fn and_give(file: &str) -> String {
    let acts = |user: Ids| Uid::effective().is_root() || Uid::effective().as_raw() == user.uid;
    if service_user().is_some_and(acts) { format!(" && chown {SERVICE_USER} {file}") } else { String::new() }
}

/// Why the service could not read a file that whoever asks can, and what to do about it.
pub fn closed_to_service(path: &Path) -> Option<String> {
    let (user, facts) = (service_user()?, path.metadata().ok()?);
    let file = path.display();
    let told = || format!("the service cannot read {file}, since it is not that of its user; run: chown {SERVICE_USER} {file}");
    (!is_open_to(facts.uid(), facts.gid(), facts.mode(), user)).then(told)
}

fn is_open_to(uid: u32, gid: u32, mode: u32, user: Ids) -> bool {
    // The kernel looks at the first of them that fits.
    mode & if uid == user.uid {
        0o400
    } else if gid == user.gid {
        0o040
    } else {
        0o004
    } != 0
}

fn own_name() -> String {
    let uid = Uid::effective();
    User::from_uid(uid).ok().flatten().map_or_else(|| uid.to_string(), |user| user.name)
}

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
    #[error("the file {0} cannot be read by the user {user}: {1}", user = own_name())]
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
                format!("run: chown {} {file}, if it is that user's alone to read, and ls -ld its directories", own_name())
            }
            FileError::NotAFile(_) | FileError::TooLong(_) => "the path of another file".to_owned(),
            FileError::TooOpen(file, _) => format!("run: chmod 600 {file}{}", and_give(file)),
            FileError::Writable(file, _) => format!("run: chmod go-w {file}"),
            FileError::Exists(file) => format!("another name, or move it away: mv {file} {file}.old"),
            FileError::Unwritable(file, _) => format!("run: ls -ld {file} and its directory (and make that one writable)"),
        }
    }
}

/// Why a file was not read; who asked for it makes a message of it.
#[derive(Debug)]
pub enum Unread<E> {
    Io(io::Error),
    NotAFile,
    /// What was said of it, as it is.
    Judged(E),
    TooLong,
}

/// Reads a file of at most so many bytes, if its judge has nothing against whose it is and what may be done with it.
///
/// # Errors
/// See [`Unread`].
pub fn read_if<E>(
    path: &Path,
    most: u64,
    judge: impl FnOnce(&Metadata) -> Result<(), E>,
) -> Result<Zeroizing<Vec<u8>>, Unread<E>> {
    // To open one that is none may wait for ever: for whoever writes into a pipe.
    if !path.metadata().map_err(Unread::Io)?.is_file() {
        return Err(Unread::NotAFile);
    }
    let file = File::open(path).map_err(Unread::Io)?;
    // The open file is judged, not the path, so that nobody can swap it in between.
    let facts = file.metadata().map_err(Unread::Io)?;
    if !facts.is_file() {
        return Err(Unread::NotAFile);
    }
    judge(&facts).map_err(Unread::Judged)?;
    if facts.len() > most {
        return Err(Unread::TooLong);
    }
    // Room for the whole file, so that no copy of a grown buffer stays behind in memory.
    let mut bytes = Zeroizing::new(Vec::with_capacity(facts.len() as usize + 1));
    file.take(most).read_to_end(&mut bytes).map_err(Unread::Io)?;
    Ok(bytes)
}

/// Writes a new file that only its owner can read, or for one that is no secret everybody. Never overwrites, and leaves no half of a
/// file.
///
/// # Errors
/// The file exists or cannot be written.
pub fn write_new(path: &Path, bytes: &[u8], readers: Readers) -> io::Result<()> {
    let mode = if readers == Readers::OwnerOnly { 0o600 } else { 0o644 };
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    if written.is_err() {
        // It is ours: it was made above. What matters to the caller is why it could not be written.
        let _ = std::fs::remove_file(path);
    }
    written
}

/// Reads a file of a relay.
///
/// # Errors
/// It cannot be read, or others can do with it what they should not.
pub fn read(path: &Path, readers: Readers) -> Result<Zeroizing<Vec<u8>>, FileError> {
    let shown = path.display().to_string();
    let judge = |facts: &Metadata| {
        let mode = facts.mode() & 0o7777;
        // Root may let a group read a secret: that of the service, or the one that certificates are shared with.
        let forbidden = if facts.uid() == 0 { 0o037 } else { 0o077 };
        match readers {
            Readers::OwnerOnly if mode & forbidden != 0 => Err(FileError::TooOpen(shown.clone(), mode)),
            Readers::All if mode & 0o022 != 0 => Err(FileError::Writable(shown.clone(), mode)),
            Readers::OwnerOnly | Readers::All => Ok(()),
        }
    };
    read_if(path, FILE_BYTES_MAX, judge).map_err(|unread| match unread {
        Unread::Io(error) if error.kind() == io::ErrorKind::NotFound => FileError::Missing(shown.clone()),
        Unread::Io(error) => FileError::Unreadable(shown.clone(), error),
        Unread::NotAFile => FileError::NotAFile(shown.clone()),
        Unread::Judged(error) => error,
        Unread::TooLong => FileError::TooLong(shown.clone()),
    })
}

/// Writes a new file of a relay, and leaves no half of one.
///
/// # Errors
/// The file exists or cannot be written.
pub fn create(path: &Path, bytes: &[u8], readers: Readers) -> Result<(), FileError> {
    let shown = path.display().to_string();
    write_new(path, bytes, readers).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => FileError::Exists(shown),
        _ => FileError::Unwritable(shown, error),
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
    fn who_may_read_a_file_is_seen_as_the_kernel_sees_it() {
        let user = Ids { uid: 900, gid: 901 };
        let open = |uid, gid, mode| is_open_to(uid, gid, mode, user);
        assert!(open(900, 0, 0o600) && open(0, 901, 0o640) && open(0, 0, 0o644));
        assert!(!open(0, 0, 0o600) && !open(0, 0, 0o640) && !open(0, 901, 0o604) && !open(900, 901, 0o044));
    }

    #[test]
    fn a_pipe_is_no_file_and_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        assert!(matches!(read(&path, Readers::OwnerOnly).unwrap_err(), FileError::NotAFile(_)));
    }

    #[test]
    fn a_file_without_end_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("long");
        create(&path, &vec![b'a'; FILE_BYTES_MAX as usize + 1], Readers::All).unwrap();
        assert!(matches!(read(&path, Readers::All).unwrap_err(), FileError::TooLong(_)));
    }
}
