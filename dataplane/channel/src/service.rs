//! What a process tells the manager of services that started it (sd_notify(3)), which is systemd or one that speaks like it: that it is
//! ready, how it does, and that it still lives. Without a manager nothing is told.

use std::ffi::OsStr;
use std::fmt::Write;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;

pub use sd_notify::NotifyState;

use crate::limits::STATUS_LEN_MAX;

/// The environment variables that are meant for one process and not for those that it starts.
pub const VARIABLES: [&str; 3] = ["NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC"];

/// Whether journald reads what is written here: it says which stream that is (sd-daemon(3), `JOURNAL_STREAM`), which whoever inherits the
/// variable may have led elsewhere.
pub fn is_journal(stream: impl AsFd) -> bool {
    let Some(named) = std::env::var("JOURNAL_STREAM").ok() else { return false };
    let facts = stream.as_fd().try_clone_to_owned().and_then(|stream| File::from(stream).metadata());
    facts.is_ok_and(|facts| named == format!("{}:{}", facts.dev(), facts.ino()))
}

/// The way to the manager. It is opened once: later the process may have no way to open anything.
#[derive(Debug, Default)]
pub struct Manager {
    socket: Option<UnixDatagram>,
    /// It wants to hear now and then that we live.
    watches: bool,
    /// It was told that we are ready.
    ready: bool,
    status: String,
}

impl Manager {
    /// Opens the way that the environment names.
    ///
    /// # Errors
    /// It names one that cannot be used.
    pub fn open() -> io::Result<Manager> {
        let Some(path) = std::env::var_os(VARIABLES[0]) else { return Ok(Manager::default()) };
        let watches = sd_notify::watchdog_enabled().is_some();
        Ok(Manager { socket: Some(connect(&path)?), watches, ..Manager::default() })
    }

    /// Whether anybody hears what is told.
    pub fn listens(&self) -> bool {
        self.socket.is_some()
    }

    /// Tells the state. Never waits: what the manager has no room for is lost, and what matters is told again.
    pub fn tell(&self, states: &[NotifyState]) {
        let Some(socket) = &self.socket else { return };
        let mut message = String::new();
        for state in states {
            // Writing to a string cannot fail.
            let _ = writeln!(message, "{state}");
        }
        let _ = socket.send(message.as_bytes());
    }

    /// Tells in one line how the process does, where that is news.
    pub fn status(&mut self, line: &str) {
        let line = line.lines().next().unwrap_or_default();
        let line = &line[..line.floor_char_boundary(STATUS_LEN_MAX)];
        if self.status != line {
            line.clone_into(&mut self.status);
            self.tell(&[NotifyState::Status(line)]);
        }
    }

    /// Tells that the process lives. Only the loop that does its work may say so.
    pub fn alive(&self) {
        if self.watches {
            self.tell(&[NotifyState::Watchdog]);
        }
    }

    /// Tells that the process is ready.
    pub fn ready(&mut self) {
        self.ready = true;
        self.tell(&[NotifyState::Ready]);
    }

    /// Tells that a reload begins; [`Manager::reloaded`] ends it. Before the process was ever ready, neither is told: it would count as
    /// ready after the reload.
    pub fn reloading(&self) {
        if !self.ready {
            return;
        }
        // The clock always exists on Linux; a manager that wants the time gets it.
        match NotifyState::monotonic_usec_now() {
            Ok(now) => self.tell(&[NotifyState::Reloading, now]),
            Err(_) => self.tell(&[NotifyState::Reloading]),
        }
    }

    /// Tells that a reload has ended.
    pub fn reloaded(&self) {
        if self.ready {
            self.tell(&[NotifyState::Ready]);
        }
    }
}

/// A path, or after `@` a name without a file.
fn connect(path: &OsStr) -> io::Result<UnixDatagram> {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::net::SocketAddr;

    let socket = UnixDatagram::unbound()?;
    match path.as_bytes().strip_prefix(b"@") {
        Some(name) => socket.connect_addr(&SocketAddr::from_abstract_name(name)?)?,
        None => socket.connect(path)?,
    }
    socket.set_nonblocking(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Manager, impl Fn() -> Option<String>) {
        let dir = tempfile::tempdir().unwrap();
        let ours = UnixDatagram::bind(dir.path().join("notify")).unwrap();
        ours.set_nonblocking(true).unwrap();
        let manager = Manager { socket: Some(connect(dir.path().join("notify").as_os_str()).unwrap()), ..Manager::default() };
        let heard = move || {
            let mut bytes = [0; 1024];
            let len = ours.recv(&mut bytes).ok()?;
            Some(String::from_utf8_lossy(&bytes[..len]).into_owned())
        };
        (manager, heard)
    }

    #[test]
    fn a_status_is_told_once_and_is_one_line() {
        let (mut manager, heard) = pair();
        manager.status("a: all 2 peers are up\ncontrol plane");
        manager.status("a: all 2 peers are up");
        assert_eq!(heard().as_deref(), Some("STATUS=a: all 2 peers are up\n"));
        assert_eq!(heard(), None);
        manager.status(&"ä".repeat(400));
        assert_eq!(heard().unwrap().chars().count(), "STATUS=\n".len() + 256);
    }

    #[test]
    fn life_is_told_only_where_somebody_watches() {
        let (mut manager, heard) = pair();
        manager.alive();
        assert_eq!(heard(), None);
        manager.watches = true;
        manager.alive();
        assert_eq!(heard().as_deref(), Some("WATCHDOG=1\n"));
    }

    #[test]
    fn a_reload_is_told_with_its_time() {
        let (mut manager, heard) = pair();
        manager.ready();
        assert_eq!(heard().as_deref(), Some("READY=1\n"));
        manager.reloading();
        let said = heard().unwrap();
        let time = said.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").and_then(|rest| rest.trim().parse::<u64>().ok());
        assert!(time.is_some_and(|time| time > 0), "{said}");
        manager.reloaded();
        assert_eq!(heard().as_deref(), Some("READY=1\n"));
    }

    #[test]
    fn a_reload_makes_nobody_ready_who_was_not_before() {
        let (manager, heard) = pair();
        manager.reloading();
        manager.reloaded();
        assert_eq!(heard(), None);
    }

    #[test]
    fn a_manager_that_takes_nothing_is_not_waited_for() {
        let (manager, _heard) = pair();
        (0..10_000).for_each(|_| manager.tell(&[NotifyState::Ready]));
    }
}
