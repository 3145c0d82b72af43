//! Reading files with keys: secret ones only when nobody else can read them. How they are read and written is that of a relay's files
//! (`adit_relay::secret_file`); whom adit trusts, and what it says, is here.

use std::fmt;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use adit_channel::users;
pub use adit_relay::secret_file::{Readers, write_new as create};
use adit_relay::secret_file::{Unread, read_if};
use zeroize::Zeroizing;

use crate::limits::KEY_FILE_BYTES_MAX;

/// Whose a file is, and what may be done with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    pub uid: u32,
    pub gid: u32,
    /// The last twelve bits of its mode.
    pub mode: u32,
}

impl Owner {
    pub(crate) fn of(facts: &Metadata) -> Owner {
        Owner { uid: facts.uid(), gid: facts.gid(), mode: facts.mode() & 0o7777 }
    }

    /// Whether it may hold what adit trusts: it is root's, that of the user who runs adit, or of the user `adit`.
    pub(crate) fn is_trusted(self) -> bool {
        self.uid == 0 || self.uid == rustix::process::geteuid().as_raw() || users::control_plane() == Some(self.uid)
    }

    /// Whether nobody else can read or change it: 0600, or root's and to be read by the group `adit` (0640).
    pub(crate) fn is_secret(self) -> bool {
        self.is_secret_with(users::group())
    }

    /// The same where the group `adit` is this one.
    fn is_secret_with(self, group: Option<u32>) -> bool {
        let shared = self.uid == 0 && group == Some(self.gid);
        self.mode & if shared { 0o037 } else { 0o077 } == 0
    }

    /// What to run to make it one that may hold a secret.
    pub(crate) fn remedy(self, file: &str) -> String {
        self.remedy_with(file, users::group())
    }

    /// The same where the group `adit` is this one.
    fn remedy_with(self, file: &str, group: Option<u32>) -> String {
        match (self.is_trusted(), group) {
            (true, Some(group)) if self.uid == 0 && group == self.gid => format!("run: chmod 640 {file}"),
            // So that the service can read it, too, and the data plane, which is of its group, cannot.
            (true, Some(_)) if self.uid == 0 => format!("run: chown adit {file} && chmod 600 {file}"),
            (true, _) => format!("run: chmod 600 {file}"),
            (false, Some(_)) => format!("run: chown root:adit {file} && chmod 640 {file}"),
            (false, None) => format!("run: chown root {file} && chmod 600 {file}"),
        }
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "user {}, group {}, mode {:04o}", users::name(self.uid), users::group_name(self.gid), self.mode)
    }
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
    #[error("the key file {0} ({1}) can be read or changed by others")]
    TooOpen(String, Owner),
    #[error("the file {0} ({1}) can be changed by others")]
    Writable(String, Owner),
    #[error("the file {0} ({1}) belongs to neither root nor the user who runs adit")]
    ForeignOwner(String, Owner),
    #[error("the file {0} is longer than {KEY_FILE_BYTES_MAX} bytes")]
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
            KeyFileError::TooOpen(file, owner) => owner.remedy(file),
            KeyFileError::Writable(file, _) => format!("run: chmod go-w {file}"),
            KeyFileError::ForeignOwner(file, owner) => owner.remedy(file),
        }
    }
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
    let judge = |facts: &Metadata| {
        let owner = Owner::of(facts);
        match readers {
            _ if !owner.is_trusted() => Err(KeyFileError::ForeignOwner(shown.clone(), owner)),
            Readers::OwnerOnly if !owner.is_secret() => Err(KeyFileError::TooOpen(shown.clone(), owner)),
            Readers::All if owner.mode & 0o022 != 0 => Err(KeyFileError::Writable(shown.clone(), owner)),
            Readers::OwnerOnly | Readers::All => Ok(()),
        }
    };
    let mut bytes = read_if(path, KEY_FILE_BYTES_MAX, judge).map_err(|unread| match unread {
        Unread::Io(error) if error.kind() == io::ErrorKind::NotFound => KeyFileError::Missing(shown.clone()),
        Unread::Io(error) => KeyFileError::Unreadable(shown.clone(), error),
        Unread::NotAFile => KeyFileError::NotAFile(shown.clone()),
        Unread::Judged(error) => error,
        Unread::TooLong => KeyFileError::TooLong(shown.clone()),
    })?;
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

    #[test]
    fn a_secret_is_for_its_owner_alone_and_the_owner_is_named() {
        let own = rustix::process::geteuid().as_raw();
        let gid = rustix::process::getegid().as_raw();
        let of = |uid, mode| Owner { uid, gid, mode };
        for (mode, is_secret) in [(0o600, true), (0o400, true), (0o640, false), (0o604, false), (0o620, false), (0o4700, true)] {
            assert_eq!(of(own, mode).is_secret(), is_secret, "{mode:o}");
        }
        assert!(of(own, 0o600).is_trusted() && of(0, 0o600).is_trusted());
        let stranger = of(own + 4711, 0o640);
        assert!(!stranger.is_trusted());
        let remedy = stranger.remedy("FILE");
        assert!(remedy.starts_with("run: chown root") && remedy.contains(" FILE && chmod 6"), "{remedy}");
        let shown = stranger.to_string();
        assert!(shown.starts_with(&format!("user {}, group ", own + 4711)) && shown.ends_with("mode 0640"), "{shown}");
    }

    /// Whether or not this machine has it.
    #[test]
    fn what_the_group_of_both_planes_may_read_is_roots() {
        let (adit, own) = (64_110, rustix::process::geteuid().as_raw());
        let of = |uid, gid, mode| Owner { uid, gid, mode };
        let is_secret = |owner: Owner| owner.is_secret_with(Some(adit));
        assert!(is_secret(of(0, adit, 0o640)) && is_secret(of(0, adit, 0o600)));
        // Not to be written, not by all, not of another group, not of another user: who owns it lets whom he likes read it.
        for other in [of(0, adit, 0o660), of(0, adit, 0o644), of(0, adit + 1, 0o640), of(own + 4711, adit, 0o640)] {
            assert!(!is_secret(other), "{other:?}");
        }
        assert!(!of(0, adit, 0o640).is_secret_with(None), "where there is no such group");
        let remedy = |owner: Owner, group| owner.remedy_with("FILE", group);
        assert_eq!(remedy(of(0, adit, 0o644), Some(adit)), "run: chmod 640 FILE");
        assert_eq!(remedy(of(0, 0, 0o644), Some(adit)), "run: chown adit FILE && chmod 600 FILE");
        assert_eq!(remedy(of(0, 0, 0o644), None), "run: chmod 600 FILE");
        assert_eq!(remedy(of(own + 4711, 0, 0o644), Some(adit)), "run: chown root:adit FILE && chmod 640 FILE");
        assert_eq!(remedy(of(own + 4711, 0, 0o644), None), "run: chown root FILE && chmod 600 FILE");
    }
}
