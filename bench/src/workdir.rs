//! Temporary folders that are found and removed even when their owner was killed.
//!
//! The owner holds a lock on the folder, and the kernel drops it with the owner. Whoever makes the next folder removes those of the
//! same user whose lock is free.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use tempfile::TempDir;

/// What all names begin with; what the folder is for comes next.
const PREFIX: &str = "adit-work-";
/// Between the making of a folder and its lock somebody else may look at it.
const SETTLED_AFTER: Duration = Duration::from_secs(60);

/// A temporary folder; removed on drop, or by the next [`WorkDir::new`] when there was no drop.
#[derive(Debug)]
pub struct WorkDir {
    dir: TempDir,
    /// The open folder, locked.
    _lock: File,
}

impl WorkDir {
    /// Makes a folder in $TMPDIR; `purpose` becomes a part of its name.
    pub fn new(purpose: &str) -> Result<WorkDir> {
        let parent = std::env::temp_dir();
        sweep(&parent, SETTLED_AFTER);
        WorkDir::new_in(&parent, purpose).with_context(|| format!("cannot make a temporary folder in {}", parent.display()))
    }

    fn new_in(parent: &Path, purpose: &str) -> Result<WorkDir> {
        let dir = tempfile::Builder::new().prefix(&format!("{PREFIX}{purpose}-")).tempdir_in(parent)?;
        let lock = open_folder(dir.path())?;
        lock.try_lock()?;
        Ok(WorkDir { dir, _lock: lock })
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }
}

/// Removes what killed owners have left. What cannot be removed stays for the next time.
fn sweep(parent: &Path, settled_after: Duration) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(PREFIX)) {
        if is_abandoned(&entry.path(), settled_after) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn is_abandoned(path: &Path, settled_after: Duration) -> bool {
    let Ok(folder) = open_folder(path) else { return false };
    let (Ok(meta), Ok(own)) = (folder.metadata(), fs::metadata("/proc/self")) else { return false };
    let age = meta.modified().ok().and_then(|then| SystemTime::now().duration_since(then).ok());
    meta.uid() == own.uid() && age.is_some_and(|age| age >= settled_after) && folder.try_lock().is_ok()
}

/// Fails for what is a link or no folder.
fn open_folder(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_of_the_dead_go_and_those_of_the_living_and_of_strangers_stay() {
        let parent = tempfile::tempdir().unwrap();
        let path = |name: &str| parent.path().join(name);
        let living = WorkDir::new_in(parent.path(), "lab").unwrap();
        for name in ["adit-work-lab-dead", "adit-other", "linked"] {
            fs::create_dir_all(path(name).join("inside")).unwrap();
        }
        std::os::unix::fs::symlink(path("linked"), path("adit-work-link")).unwrap();
        sweep(parent.path(), Duration::from_secs(60));
        assert!(path("adit-work-lab-dead").exists(), "it may be without its lock yet");
        sweep(parent.path(), Duration::ZERO);
        assert!(!path("adit-work-lab-dead").exists());
        assert!(living.path().exists() && path("adit-other").exists() && path("linked").join("inside").exists());
    }

    #[test]
    fn a_drop_removes_the_folder() {
        let work = WorkDir::new("test").unwrap();
        let path = work.path().to_owned();
        fs::write(path.join("file"), "text").unwrap();
        drop(work);
        assert!(!path.exists());
    }
}
