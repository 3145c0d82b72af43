//! The key log: a directory that Wireshark and tshark take for a profile, with the keys of every SA as the engine tells them. Only
//! where the configuration asks for it: who reads it reads all traffic.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use adit_engine::ike::{KeyLog, KeyLogFile};
use zeroize::Zeroizing;

use crate::private::{self, NotPrivate};

/// Why keys cannot be logged there.
#[derive(Debug, thiserror::Error)]
pub enum KeyLogError {
    #[error("the key log directory {}: {why}", dir.display())]
    Directory { dir: PathBuf, why: NotPrivate },
    #[error("the key log {}: {error}", file.display())]
    File { file: PathBuf, error: io::Error },
    #[error("the key log {} is not a file of ours that others cannot read (mode {mode:04o}). Move it away", file.display())]
    NotOurs { file: PathBuf, mode: u32 },
}

/// The open files.
#[derive(Debug)]
pub struct KeyLogFiles {
    files: Vec<(KeyLogFile, File)>,
    dir: PathBuf,
    /// So many lines could not be written, up to the last one.
    missing: u64,
}

impl KeyLogFiles {
    /// Opens the files for what is to be added; makes them, and the directory, where they are not there.
    ///
    /// # Errors
    /// Others can read or change what is there.
    pub fn open(dir: &Path) -> Result<KeyLogFiles, KeyLogError> {
        private::secret_directory(dir).map_err(|why| KeyLogError::Directory { dir: dir.to_owned(), why })?;
        let files = KeyLogFile::ALL.map(|kind| open(&dir.join(kind.name())).map(|file| (kind, file)));
        let files = files.into_iter().collect::<Result<_, _>>()?;
        Ok(KeyLogFiles { files, dir: dir.to_owned(), missing: 0 })
    }

    /// Adds the keys of an SA. The connection matters more than the analysis: a full disk is told in the log once, and so is its end.
    pub fn add(&mut self, log: &KeyLog) {
        let text = log.line();
        // One write, so that a reader at the same time sees whole lines; with room for all, so that no copy of a key stays behind.
        let mut line = Zeroizing::new(Vec::with_capacity(text.len() + 2));
        // What could not be written may have left half a line.
        if self.missing > 0 {
            line.push(b'\n');
        }
        line.extend_from_slice(text.as_bytes());
        line.push(b'\n');
        let file = self.files.iter_mut().find(|(kind, _)| *kind == log.file());
        let written = file.map_or(Ok(()), |(_, file)| file.write_all(&line));
        if let Some(line) = self.news(&written) {
            let dir = self.dir.display();
            match written {
                Ok(()) => tracing::info!("the key log in {dir} {line}"),
                Err(_) => tracing::error!("the key log in {dir} {line}"),
            }
        }
    }

    /// What is to be said of it.
    fn news(&mut self, written: &io::Result<()>) -> Option<String> {
        match written {
            Ok(()) => match std::mem::take(&mut self.missing) {
                0 => None,
                missing => Some(format!("can be written again; the keys of {missing} SAs are missing in it")),
            },
            Err(error) => {
                self.missing += 1;
                (self.missing == 1).then(|| format!("cannot be written: {error}. Keys are missing in it"))
            }
        }
    }
}

fn open(path: &Path) -> Result<File, KeyLogError> {
    let failed = |error| KeyLogError::File { file: path.to_owned(), error };
    let file = private::file().append(true).create(true).open(path).map_err(failed)?;
    let facts = file.metadata().map_err(failed)?;
    let ours = facts.is_file() && facts.uid() == rustix::process::geteuid().as_raw() && facts.mode() & 0o077 == 0;
    if ours { Ok(file) } else { Err(KeyLogError::NotOurs { file: path.to_owned(), mode: facts.mode() & 0o7777 }) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use adit_engine::ike::IkeSpis;
    use adit_proto::suite::Suite;

    use super::*;

    fn key_log() -> KeyLog {
        let key = || Zeroizing::new(vec![7; 20]);
        KeyLog::Ike { spis: IkeSpis::default(), suite: Suite::Aes128Gcm, initiator: key(), responder: key() }
    }

    #[test]
    fn lines_are_added_to_files_that_only_we_can_read() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("new/keys");
        for _ in 0..2 {
            KeyLogFiles::open(&dir).unwrap().add(&key_log());
        }
        let file = dir.join(KeyLogFile::Ike.name());
        let text = std::fs::read_to_string(&file).unwrap();
        assert_eq!(text.lines().filter(|line| **line == **key_log().line()).count(), 2, "{text}");
        assert_eq!(file.metadata().unwrap().mode() & 0o7777, 0o600);
        assert_eq!(dir.metadata().unwrap().mode() & 0o7777, 0o700);
    }

    #[test]
    fn that_it_cannot_be_written_is_told_once_and_then_how_much_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        let mut files = KeyLogFiles::open(&dir.path().join("keys")).unwrap();
        let full = || Err(io::Error::from(io::ErrorKind::StorageFull));
        for _ in 0..2 {
            assert_eq!(files.news(&Ok(())), None);
            assert!(files.news(&full()).unwrap().starts_with("cannot be written: "));
            assert_eq!((files.news(&full()), files.news(&full())), (None, None));
            assert_eq!(files.news(&Ok(())).unwrap(), "can be written again; the keys of 3 SAs are missing in it");
        }
    }

    #[test]
    fn a_directory_or_a_file_that_others_can_read_is_refused_with_a_remedy() {
        let dir = tempfile::tempdir().unwrap();
        for mode in [0o750, 0o701, 0o755] {
            std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(mode)).unwrap();
            let error = KeyLogFiles::open(dir.path()).unwrap_err().to_string();
            assert!(error.ends_with(&format!("chmod 700 {}", dir.path().display())), "{error}");
        }
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
        let file = dir.path().join(KeyLogFile::Esp.name());
        std::fs::write(&file, "").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
        let error = KeyLogFiles::open(dir.path()).unwrap_err().to_string();
        assert!(error.contains("esp_sa") && error.contains("0640"), "{error}");
    }
}
