//! The runtime directory: held by one gateway at a time, and made again when somebody has removed it.

use std::fs::{File, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::private::{self, LOCK};

/// The directory, and the lock on it.
#[derive(Debug)]
pub(super) struct RuntimeDir {
    path: PathBuf,
    lock: File,
    /// Why it cannot be made again, once that was said.
    complaint: Option<String>,
}

impl RuntimeDir {
    /// Makes the directory where it is missing, and takes the lock.
    ///
    /// # Errors
    /// Another gateway has it, or it cannot be used; the message names the remedy.
    pub(super) fn hold(path: &Path) -> anyhow::Result<RuntimeDir> {
        let lock = lock(path)?;
        Ok(RuntimeDir { path: path.to_owned(), lock, complaint: None })
    }

    /// Makes it again when it is gone, so that a second gateway is kept away and commands find us. What cannot be done is said once.
    pub(super) fn keep(&mut self) {
        if self.is_ours().unwrap_or(false) {
            return;
        }
        match lock(&self.path) {
            Ok(lock) => {
                self.lock = lock;
                self.complaint = None;
                tracing::warn!("the runtime directory {} was removed, and is there again", self.path.display());
            }
            Err(error) => {
                let line = format!("{error:#}");
                if self.complaint.as_ref() != Some(&line) {
                    tracing::error!("{line}");
                }
                self.complaint = Some(line);
            }
        }
    }

    /// Whether the lock that we hold is the one that others find.
    fn is_ours(&self) -> io::Result<bool> {
        let (ours, there) = (self.lock.metadata()?, std::fs::symlink_metadata(self.path.join(LOCK))?);
        Ok((ours.dev(), ours.ino()) == (there.dev(), there.ino()))
    }
}

/// Takes the lock on a directory.
fn lock(dir: &Path) -> anyhow::Result<File> {
    let remedy = "make it writable for the user who runs adit and the group adit, and for nobody else, or name another one: runtime_dir: PATH";
    let context = || format!("the runtime directory {} cannot be used; {remedy}", dir.display());
    private::shared_directory(dir).with_context(context)?;
    let path = dir.join(LOCK);
    let mut lock = private::file().write(true).create(true).open(&path).with_context(context)?;
    match lock.try_lock() {
        Ok(()) => {
            // For the message below; the lock counts, not what is written.
            lock.set_len(0).with_context(context)?;
            writeln!(lock, "{}", std::process::id()).with_context(context)?;
            Ok(lock)
        }
        Err(TryLockError::WouldBlock) => {
            let holder = std::fs::read_to_string(&path).unwrap_or_default();
            bail!(
                "another adit (process {}) runs in {}: stop it first, or name another runtime_dir (`adit status` shows what runs)",
                holder.trim(),
                dir.display()
            )
        }
        Err(TryLockError::Error(error)) => Err(error).with_context(context),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runtime_directory_is_held_by_one_gateway() {
        let dir = tempfile::tempdir().unwrap();
        let held = RuntimeDir::hold(&dir.path().join("a/b")).unwrap();
        let error = RuntimeDir::hold(&dir.path().join("a/b")).unwrap_err();
        assert!(error.to_string().contains(&format!("another adit (process {}) runs in", std::process::id())), "{error}");
        drop(held);
        assert!(RuntimeDir::hold(&dir.path().join("a/b")).is_ok());
    }

    #[test]
    fn one_that_was_removed_is_made_again_and_held() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let mut held = RuntimeDir::hold(&path).unwrap();
        held.keep();
        std::fs::remove_dir_all(&path).unwrap();
        held.keep();
        assert!(held.is_ours().unwrap());
        assert!(RuntimeDir::hold(&path).is_err(), "nobody else gets it");
    }
}
