//! What nobody else may have a hand in: directories and the files in them, for whoever can write there decides which nonces are
//! used and to whom we listen; and the memory of this process, in which keys are.

use std::fs::{DirBuilder, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use adit_channel::users::{self, CONTROL_PLANE};
use rustix::fs::OFlags;
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// The environment variable that, when it is set, leaves the memory of both planes open to debuggers and core dumps.
const DUMPABLE: &str = "ADIT_DUMPABLE";

/// The file in a runtime directory whose lock is held by the gateway that uses it.
pub const LOCK: &str = "lock";

/// Why a directory is not private. The message names the remedy.
#[derive(Debug, thiserror::Error)]
pub enum NotPrivate {
    #[error("{0}")]
    Unusable(#[from] io::Error),
    #[error("it belongs to user {uid}, and adit runs as user {own}. Run: chown {own} {}", dir.display())]
    ForeignOwner { dir: PathBuf, uid: u32, own: u32 },
    #[error("group or others can write to it (mode {mode:04o}). Run: chmod go-w {}", dir.display())]
    TooOpen { dir: PathBuf, mode: u32 },
    #[error("others can write to it, or a group that is not {CONTROL_PLANE} (mode {mode:04o}). Run: chmod go-w {}", dir.display())]
    TooOpenForTwo { dir: PathBuf, mode: u32 },
    #[error("group or others can look into it (mode {mode:04o}). Run: chmod 700 {}", dir.display())]
    Readable { dir: PathBuf, mode: u32 },
}

/// Makes a directory, with those above it, that only we may look into, or makes sure that one that exists is ours and can be
/// changed by nobody else.
///
/// # Errors
/// See [`NotPrivate`].
pub fn directory(dir: &Path) -> Result<(), NotPrivate> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let facts = dir.metadata()?;
    let own = rustix::process::geteuid().as_raw();
    if facts.uid() != own {
        return Err(NotPrivate::ForeignOwner { dir: dir.to_owned(), uid: facts.uid(), own });
    }
    if facts.mode() & 0o022 != 0 {
        return Err(NotPrivate::TooOpen { dir: dir.to_owned(), mode: facts.mode() & 0o7777 });
    }
    Ok(())
}

/// The same for a directory in which both planes make files: where the machine has the group of both, what is made belongs to it, and it
/// may write there. Root may have made it.
///
/// # Errors
/// See [`NotPrivate`].
pub fn shared_directory(dir: &Path) -> Result<(), NotPrivate> {
    let group = users::group();
    let is_new = !dir.exists();
    make_above(dir)?;
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    if let Some(group) = group.filter(|_| is_new || is_still_closed(dir)) {
        // Refused to who is not in that group: then the data plane is our own user's.
        if chown(dir, None, Some(group)).is_ok() {
            std::fs::set_permissions(dir, Permissions::from_mode(0o770))?;
        }
    }
    let (facts, own) = (dir.metadata()?, rustix::process::geteuid().as_raw());
    if ![0, own].contains(&facts.uid()) {
        return Err(NotPrivate::ForeignOwner { dir: dir.to_owned(), uid: facts.uid(), own });
    }
    let by_group = facts.mode() & 0o020 != 0 && group != Some(facts.gid());
    if by_group || facts.mode() & 0o002 != 0 {
        return Err(NotPrivate::TooOpenForTwo { dir: dir.to_owned(), mode: facts.mode() & 0o7777 });
    }
    Ok(())
}

/// Makes what is missing above a directory of both planes: everybody may pass, or its user could not come there.
fn make_above(dir: &Path) -> io::Result<()> {
    let Some(above) = dir.parent().filter(|above| !above.as_os_str().is_empty() && !above.exists()) else { return Ok(()) };
    make_above(above)?;
    match DirBuilder::new().mode(0o755).create(above) {
        // The mask for new files may have taken some of it away.
        Ok(()) => std::fs::set_permissions(above, Permissions::from_mode(0o755)),
        // Another gateway was faster.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

/// Whether a directory is one that a gateway made, or somebody for one, before the machine had the group: ours alone, and with nothing in it
/// or with the lock. Anything else, such as a home, is left as it is.
fn is_still_closed(dir: &Path) -> bool {
    let own = rustix::process::geteuid().as_raw();
    let is_closed = dir.metadata().is_ok_and(|facts| facts.uid() == own && facts.mode() & 0o077 == 0);
    is_closed && (dir.join(LOCK).exists() || dir.read_dir().is_ok_and(|mut files| files.next().is_none()))
}

/// The same for a directory that nobody else may even look into.
///
/// # Errors
/// See [`NotPrivate`].
pub fn secret_directory(dir: &Path) -> Result<(), NotPrivate> {
    let checked = directory(dir);
    let mode = dir.metadata()?.mode() & 0o7777;
    match checked {
        Ok(()) | Err(NotPrivate::TooOpen { .. }) if mode & 0o077 != 0 => Err(NotPrivate::Readable { dir: dir.to_owned(), mode }),
        checked => checked,
    }
}

/// How a file in such a directory is opened: one that is made is ours alone, and a symbolic link is not followed.
pub fn file() -> OpenOptions {
    let mut options = OpenOptions::new();
    // The flag fits: open(2) takes an int.
    options.mode(0o600).custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
    options
}

/// Keeps the memory of this process out of core dumps, and from other processes of the same user.
///
/// # Errors
/// The kernel refuses.
pub fn memory() -> io::Result<()> {
    if std::env::var_os(DUMPABLE).is_some() {
        return Ok(());
    }
    // A core_pattern with a pipe knows no limit, and obeys the second.
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_new_directory_is_private_and_stays_usable() {
        let dir = tempfile::tempdir().unwrap();
        let new = dir.path().join("a/b");
        for _ in 0..2 {
            directory(&new).unwrap();
        }
        assert_eq!(new.metadata().unwrap().mode() & 0o7777, 0o700);
        std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert!(directory(&new).is_ok(), "others may look");
    }

    #[test]
    fn a_directory_that_others_can_change_is_refused_with_the_command_to_run() {
        let dir = tempfile::tempdir().unwrap();
        for mode in [0o770, 0o702, 0o1777] {
            std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(mode)).unwrap();
            let error = directory(dir.path()).unwrap_err();
            assert!(matches!(error, NotPrivate::TooOpen { .. }), "{error}");
            assert!(error.to_string().ends_with(&format!("chmod go-w {}", dir.path().display())), "{error}");
        }
    }

    #[test]
    fn a_directory_of_both_planes_is_closed_to_all_but_their_group() {
        let dir = tempfile::tempdir().unwrap();
        let new = dir.path().join("above/run");
        shared_directory(&new).unwrap();
        let mode = |dir: &Path| dir.metadata().unwrap().mode() & 0o7777;
        assert_eq!((mode(new.parent().unwrap()), mode(&new) & 0o007), (0o755, 0), "its user has to come there");
        // One that was ours alone is theirs, unless something else is in it.
        let as_new = mode(&new);
        std::fs::set_permissions(&new, Permissions::from_mode(0o700)).unwrap();
        shared_directory(&new).unwrap();
        assert_eq!(mode(&new), as_new);
        std::fs::set_permissions(&new, Permissions::from_mode(0o700)).unwrap();
        std::fs::write(new.join("letters"), "").unwrap();
        shared_directory(&new).unwrap();
        assert_eq!(mode(&new), 0o700);
        let is_theirs = users::group() == Some(new.metadata().unwrap().gid());
        std::fs::set_permissions(&new, Permissions::from_mode(0o770)).unwrap();
        assert_eq!(shared_directory(&new).is_ok(), is_theirs);
        std::fs::set_permissions(&new, Permissions::from_mode(0o702)).unwrap();
        let error = shared_directory(&new).unwrap_err();
        assert!(error.to_string().ends_with(&format!("chmod go-w {}", new.display())), "{error}");
    }

    #[test]
    fn a_directory_of_another_user_is_refused_with_the_command_to_run() {
        let dir = tempfile::tempdir().unwrap();
        // Only root can give something away; for everybody else the root directory is somebody else's.
        let foreign = if chown(dir.path(), Some(65534), None).is_ok() { dir.path() } else { Path::new("/") };
        let error = directory(foreign).unwrap_err();
        assert!(matches!(error, NotPrivate::ForeignOwner { .. }) && error.to_string().contains("chown "), "{error}");
    }

    #[test]
    fn a_link_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        symlink("elsewhere", dir.path().join("lock")).unwrap();
        assert!(file().write(true).create(true).open(dir.path().join("lock")).is_err());
        assert!(!dir.path().join("elsewhere").exists());
    }
}
