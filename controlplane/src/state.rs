//! What must survive the end of both processes: the end of the granted sequence numbers of every outbound key, and the top
//! of the replay window of every inbound one. A small JSON file in `state_dir`, replaced as a whole and synced to the disk.
//!
//! Keys are named by a hash ([`KeyId`]); the file is no secret. A lock beside it keeps a second gateway away from the
//! same keys. In files of their own: what is of use after it, and no reason not to start where it is lost.

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::private::{self, NotPrivate};
use crate::static_key::KeyId;

const FILE: &str = "sequence.json";
const VERSION: u32 = 1;
/// Where peers have proven themselves last. What is lost with it is a share of the handshakes beside a flood.
const PROOFS: &str = "proofs.json";
/// A file beside it.
const CRASH_SECRET: &str = "ike-crash-secret";
/// The file in it with the port that the system has chosen.
const PORT: &str = "port";
const CRASH_SECRET_LEN: usize = 32;

/// Where peers have proven themselves last, by their names, the newest first.
pub type Proofs = BTreeMap<String, Vec<SocketAddr>>;

/// Why the state cannot be kept. The message names the remedy.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error(
        "the state directory {dir} cannot be written: {cause}. Sequence numbers must survive a restart, or nonces would repeat. \
         Make it writable for the user who runs adit, or name another one: state_dir: PATH"
    )]
    Unwritable { dir: PathBuf, cause: io::Error },
    #[error("the state directory {dir} is not ours alone: {cause}; or name another one: state_dir: PATH")]
    NotPrivate { dir: PathBuf, cause: NotPrivate },
    #[error(
        "the state file {file} is damaged: {cause}. Restore it, or, if the clock of this machine is right and was never set \
         back, remove it: rm {file}"
    )]
    Damaged { file: PathBuf, cause: String },
    #[error(
        "the state directory {dir} has not answered for {seconds} s: its disk hangs. Mend it, or name another one: state_dir: PATH"
    )]
    Silent { dir: PathBuf, seconds: u64 },
    #[error("another adit uses the state directory {0}: two gateways must not share keys. Stop it, or name another state_dir")]
    InUse(PathBuf),
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Contents {
    version: u32,
    /// Key id → end of the numbers granted.
    outbound: BTreeMap<String, u64>,
    /// Key id → highest number seen.
    inbound: BTreeMap<String, u64>,
}

/// The state of a gateway, held by one process at a time.
#[derive(Debug)]
pub struct State {
    dir: PathBuf,
    contents: Contents,
    proofs: Proofs,
    /// What is on the disk, to save only what changed.
    saved: Contents,
    saved_proofs: Proofs,
    _lock: File,
}

impl State {
    /// Opens the directory, creates it where needed, takes the lock and proves that it can write.
    ///
    /// # Errors
    /// See [`StateError`].
    pub fn open(dir: &Path) -> Result<State, StateError> {
        let unwritable = |cause| StateError::Unwritable { dir: dir.to_owned(), cause };
        private::directory(dir).map_err(|error| match error {
            NotPrivate::Unusable(cause) => unwritable(cause),
            cause => StateError::NotPrivate { dir: dir.to_owned(), cause },
        })?;
        let lock = private::file().write(true).create(true).open(dir.join("lock")).map_err(unwritable)?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => StateError::InUse(dir.to_owned()),
            TryLockError::Error(cause) => unwritable(cause),
        })?;
        let file = dir.join(FILE);
        let contents = match std::fs::read(&file) {
            Ok(bytes) => {
                let damaged = |cause: String| StateError::Damaged { file: file.clone(), cause };
                let contents: Contents = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
                if contents.version != VERSION {
                    return Err(damaged(format!("it has version {}, this adit writes version {VERSION}", contents.version)));
                }
                contents
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Contents { version: VERSION, ..Contents::default() },
            Err(error) => return Err(unwritable(error)),
        };
        let proofs = read_proofs(&dir.join(PROOFS));
        let (saved, saved_proofs) = (Contents::default(), proofs.clone());
        let mut state = State { dir: dir.to_owned(), saved, saved_proofs, contents, proofs, _lock: lock };
        if let Some(unsaved) = state.unsaved() {
            state.saved(unsaved.save()?);
        }
        Ok(state)
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The secret from which the tokens of quick crash detection are made (RFC 6290 §5.1); made when there is none.
    ///
    /// # Errors
    /// It cannot be read or written.
    pub fn crash_secret(&self) -> Result<Zeroizing<Vec<u8>>, StateError> {
        let unwritable = |cause| StateError::Unwritable { dir: self.dir.clone(), cause };
        let path = self.dir.join(CRASH_SECRET);
        match std::fs::read(&path) {
            Ok(bytes) if bytes.len() == CRASH_SECRET_LEN => return Ok(bytes.into()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(unwritable(error)),
        }
        let mut secret = Zeroizing::new(vec![0; CRASH_SECRET_LEN]);
        aws_lc_rs::rand::fill(&mut secret).map_err(|_| unwritable(io::Error::other("the random number generator failed")))?;
        replace(&self.dir, CRASH_SECRET, &secret).map_err(unwritable)?;
        Ok(secret)
    }

    /// The port that was chosen for `listen`, if one was.
    pub fn port(&self) -> Option<u16> {
        let text = std::fs::read_to_string(self.dir.join(PORT)).ok()?;
        text.trim().parse().ok().filter(|port| *port != 0)
    }

    /// Keeps the port that was chosen for `listen`.
    ///
    /// # Errors
    /// The disk does not take it.
    pub fn keep_port(&self, port: u16) -> Result<(), StateError> {
        let kept = replace(&self.dir, PORT, format!("{port}\n").as_bytes());
        kept.map_err(|cause| StateError::Unwritable { dir: self.dir.clone(), cause })
    }

    /// The end of the numbers ever granted to an outbound key.
    pub fn mark(&self, id: KeyId) -> Option<u64> {
        self.contents.outbound.get(&id.to_string()).copied()
    }

    /// Notes a grant; not durable before it was saved ([`State::unsaved`]). The mark only ever rises.
    pub fn raise_mark(&mut self, id: KeyId, end: u64) {
        let known = self.contents.outbound.entry(id.to_string()).or_insert(0);
        *known = end.max(*known);
    }

    /// The highest number seen under an inbound key.
    pub fn top(&self, id: KeyId) -> u64 {
        self.contents.inbound.get(&id.to_string()).copied().unwrap_or(0)
    }

    /// Notes the top of a replay window. It only ever rises.
    pub fn raise_top(&mut self, id: KeyId, top: u64) {
        let known = self.contents.inbound.entry(id.to_string()).or_insert(0);
        *known = top.max(*known);
    }

    /// Where peers have proven themselves last.
    pub fn proofs(&self) -> &Proofs {
        &self.proofs
    }

    /// Notes where peers have proven themselves last.
    pub fn set_proofs(&mut self, proofs: Proofs) {
        self.proofs = proofs;
    }

    /// What was noted and is not durable: nothing when all is.
    pub fn unsaved(&self) -> Option<Unsaved> {
        let contents = (self.contents != self.saved).then(|| self.contents.clone());
        let proofs = (self.proofs != self.saved_proofs).then(|| self.proofs.clone());
        (contents.is_some() || proofs.is_some()).then(|| Unsaved { dir: self.dir.clone(), contents, proofs })
    }

    /// It is durable now.
    pub fn saved(&mut self, Saved(contents, proofs): Saved) {
        contents.into_iter().for_each(|contents| self.saved = contents);
        proofs.into_iter().for_each(|proofs| self.saved_proofs = proofs);
    }

    /// The mark of an outbound key as it is on the disk.
    pub fn saved_mark(&self, id: KeyId) -> Option<u64> {
        self.saved.outbound.get(&id.to_string()).copied()
    }
}

/// What was noted up to a moment.
#[derive(Debug)]
pub struct Unsaved {
    dir: PathBuf,
    contents: Option<Contents>,
    proofs: Option<Proofs>,
}

/// What was made durable.
#[derive(Debug)]
pub struct Saved(Option<Contents>, Option<Proofs>);

impl Unsaved {
    /// Makes it durable: temporary file, sync, rename, sync of the directory. Takes as long as the disk does.
    ///
    /// # Errors
    /// The disk does not take it; what was noted must not be used then.
    pub fn save(self) -> Result<Saved, StateError> {
        match self.write() {
            Ok(()) => Ok(Saved(self.contents, self.proofs)),
            Err(cause) => Err(StateError::Unwritable { dir: self.dir, cause }),
        }
    }

    fn write(&self) -> io::Result<()> {
        self.contents.iter().try_for_each(|contents| replace_json(&self.dir, FILE, contents))?;
        self.proofs.iter().try_for_each(|proofs| replace_json(&self.dir, PROOFS, proofs))
    }
}

/// What the file tells, and nothing where it is damaged: it is no reason not to start.
fn read_proofs(file: &Path) -> Proofs {
    let read = match std::fs::read(file) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(io::Error::from),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Proofs::new()),
        Err(error) => Err(error),
    };
    read.unwrap_or_else(|error| {
        tracing::warn!(
            "{} is damaged: {error}. The addresses of peers without an endpoint count as unproven until these have connected once",
            file.display()
        );
        Proofs::new()
    })
}

fn replace_json<T: Serialize>(dir: &Path, name: &str, content: &T) -> io::Result<()> {
    let mut text = serde_json::to_vec_pretty(content)?;
    text.push(b'\n');
    replace(dir, name, &text)
}

fn replace(dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let temporary = dir.join(format!("{name}.new"));
    let mut file = private::file().write(true).create(true).truncate(true).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&temporary, dir.join(name))?;
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const ID: KeyId = KeyId([9; 16]);

    #[test]
    fn what_was_saved_is_there_after_a_restart_and_the_rest_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let mut state = State::open(dir.path()).unwrap();
        assert_eq!((state.mark(ID), state.top(ID)), (None, 0));
        state.raise_mark(ID, u64::MAX - 1);
        state.raise_mark(ID, 5);
        state.raise_top(ID, 70);
        state.raise_top(ID, 60);
        let unsaved = state.unsaved().unwrap();
        state.raise_mark(KeyId([1; 16]), 5);
        state.saved(unsaved.save().unwrap());
        assert_eq!((state.saved_mark(ID), state.saved_mark(KeyId([1; 16]))), (Some(u64::MAX - 1), None));
        drop(state);
        let state = State::open(dir.path()).unwrap();
        assert_eq!((state.mark(ID), state.top(ID), state.mark(KeyId([1; 16]))), (Some(u64::MAX - 1), 70, None));
    }

    #[test]
    fn where_peers_have_proven_themselves_is_kept_and_no_reason_not_to_start() {
        let dir = tempfile::tempdir().unwrap();
        let mut state = State::open(dir.path()).unwrap();
        assert_eq!((state.proofs(), state.unsaved().is_none()), (&Proofs::new(), true));
        let proofs =
            Proofs::from([("b".to_owned(), vec!["[2001:db8::1]:4500".parse().unwrap(), "192.0.2.1:500".parse().unwrap()])]);
        state.set_proofs(proofs.clone());
        let before = std::fs::metadata(dir.path().join(FILE)).unwrap().modified().unwrap();
        state.saved(state.unsaved().unwrap().save().unwrap());
        assert!(state.unsaved().is_none());
        assert_eq!(
            std::fs::metadata(dir.path().join(FILE)).unwrap().modified().unwrap(),
            before,
            "only what has changed is written"
        );
        drop(state);
        assert_eq!(State::open(dir.path()).unwrap().proofs(), &proofs);
        for damage in ["", "[]", "{\"b\": [\"nowhere\"]}"] {
            std::fs::write(dir.path().join(PROOFS), damage).unwrap();
            assert_eq!(State::open(dir.path()).unwrap().proofs(), &Proofs::new());
        }
    }

    #[test]
    fn the_port_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::open(dir.path()).unwrap();
        assert_eq!(state.port(), None);
        state.keep_port(40_404).unwrap();
        drop(state);
        assert_eq!(State::open(dir.path()).unwrap().port(), Some(40_404));
        std::fs::write(dir.path().join(PORT), "none").unwrap();
        assert_eq!(State::open(dir.path()).unwrap().port(), None);
    }

    #[test]
    fn a_second_process_is_kept_away() {
        let dir = tempfile::tempdir().unwrap();
        let first = State::open(dir.path()).unwrap();
        assert!(matches!(State::open(dir.path()), Err(StateError::InUse(_))));
        drop(first);
        assert!(State::open(dir.path()).is_ok());
    }

    #[test]
    fn a_damaged_file_is_refused_with_the_remedy() {
        let dir = tempfile::tempdir().unwrap();
        for damage in ["", "{\"version\": 1, \"outbound\": {", "{\"version\": 2, \"outbound\": {}, \"inbound\": {}}"] {
            std::fs::write(dir.path().join(FILE), damage).unwrap();
            let error = State::open(dir.path()).unwrap_err();
            assert!(matches!(error, StateError::Damaged { .. }), "{error}");
            assert!(error.to_string().contains("rm "), "{error}");
        }
    }

    #[test]
    fn a_directory_that_cannot_be_written_is_refused_with_cause_and_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        let error = State::open(&file.join("state")).unwrap_err().to_string();
        assert!(error.contains("cannot be written") && error.contains("state_dir: PATH"), "{error}");
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        let error = State::open(dir.path()).unwrap_err().to_string();
        assert!(error.contains("is not ours alone") && error.contains("chmod go-w"), "{error}");
    }
}
