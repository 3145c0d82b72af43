//! The listener of the data plane: one control plane at a time connects to it and gets the memory and the wake-ups.
//!
//! The connection is the lock: as long as it is open there is a master, and its end, which the kernel announces even after
//! SIGKILL, ends the mastership. What is said on it after the first message stands in [`crate::messages`].

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use adit_proto::codec::{DecodeError, Reader, Writer};
use socket2::Socket;

use crate::fd::{self, EventFd};
use crate::layout::{LAYOUT_VERSION, MAGIC};
use crate::limits::ACCEPTS_MAX;
use crate::messages::{self, Devices, FromMaster, Heard};
use crate::plane::{Attached, Region};
use crate::users;

/// Length of the first message, in bytes.
pub(crate) const GREETING_LEN: usize = 32;

/// What the data plane answers to whoever connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Greeting {
    /// The descriptors come with it: memory, event counter up, one event counter down per worker.
    Welcome { layout: u32, workers: u16 },
    /// Another master, with this process id, is attached.
    Occupied { pid: u32 },
    /// Another user's process.
    Denied { uid: u32 },
}

impl Greeting {
    /// The form of these messages stays the same in all versions of the layout.
    pub(crate) fn encode(self) -> [u8; GREETING_LEN] {
        let (kind, value, workers) = match self {
            Greeting::Welcome { layout, workers } => (1, layout, workers),
            Greeting::Occupied { pid } => (2, pid, 0),
            Greeting::Denied { uid } => (3, uid, 0),
        };
        let mut out = [0; GREETING_LEN];
        Writer::new(&mut out).u64(MAGIC).u16(kind).u16(workers).u32(value);
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Greeting, DecodeError> {
        let mut reader = Reader::new(bytes);
        if reader.u64()? != MAGIC {
            return Err(DecodeError::BadValue("magic number"));
        }
        let (kind, workers, value) = (reader.u16()?, reader.u16()?, reader.u32()?);
        match kind {
            1 => Ok(Greeting::Welcome { layout: value, workers }),
            2 => Ok(Greeting::Occupied { pid: value }),
            3 => Ok(Greeting::Denied { uid: value }),
            _ => Err(DecodeError::BadValue("kind of greeting")),
        }
    }
}

/// The mode of the socket: our group can connect where the master is another user of it, or where it is the group of both planes.
fn mode(also: Option<u32>, group: Option<u32>) -> u32 {
    if also.is_some() || group.is_some_and(users::acts_as) { 0o660 } else { 0o600 }
}

fn file_id(path: &Path) -> io::Result<(u64, u64)> {
    std::fs::symlink_metadata(path).map(|found| (found.dev(), found.ino()))
}

/// What happened at the listener, for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A control plane attached.
    Attached { pid: u32 },
    /// The control plane is gone; the data plane goes on with what it has.
    Gone { pid: u32 },
    /// A second control plane was turned away.
    Refused { pid: u32, master: u32 },
    /// A process of another user was turned away.
    Denied { pid: u32, uid: u32 },
    /// The control plane wants the data plane to end.
    End { pid: u32 },
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Notice::Attached { pid } => write!(f, "a control plane (process {pid}) is attached"),
            Notice::Gone { pid } => write!(f, "the control plane (process {pid}) is gone; forwarding goes on"),
            Notice::Refused { pid, master } => {
                write!(f, "process {pid} was turned away: process {master} is the control plane")
            }
            Notice::End { pid } => write!(f, "the control plane (process {pid}) ends the data plane"),
            Notice::Denied { pid, uid } => write!(f, "process {pid} of user {uid} was turned away"),
        }
    }
}

/// The socket at which a control plane attaches. No thread inside: call [`Listener::serve`] when one of
/// [`Listener::poll_fds`] is readable.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    path: PathBuf,
    /// A user who may be the master, beside ours and root.
    also: Option<u32>,
    /// The group of both planes, if the machine has it.
    group: Option<u32>,
    /// Device and inode of the socket's file.
    file: (u64, u64),
    memory: Arc<OwnedFd>,
    up: Arc<EventFd>,
    down: Vec<Arc<EventFd>>,
    attached: Arc<Attached>,
    master: Option<(Socket, u32)>,
    /// Devices of the master that nobody has taken yet, and the number by which those that came last are answered.
    handed: Option<(Devices, Vec<OwnedFd>)>,
    number: u32,
}

impl Listener {
    /// Listens at `path` for masters of our own user and of root. A stale socket is replaced; a live one gives `AddrInUse`.
    pub fn bind(path: &Path, region: &Region) -> io::Result<Listener> {
        Listener::bind_for(path, region, None)
    }

    /// The same, where the master is another user: our group can then connect, and whoever of it is not this user is turned away.
    pub fn bind_for(path: &Path, region: &Region, also: Option<u32>) -> io::Result<Listener> {
        // Looked up now: later no file may be open to us.
        let group = users::group();
        Ok(Listener {
            socket: fd::listen(path, mode(also, group))?,
            path: path.to_owned(),
            also,
            group,
            file: file_id(path)?,
            memory: Arc::clone(&region.memory),
            up: Arc::clone(&region.up),
            down: region.down.clone(),
            attached: Arc::clone(&region.attached),
            master: None,
            handed: None,
            number: 0,
        })
    }

    /// The listening socket: readable when somebody wants to attach.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Everything to watch: the listening socket, and the connection of the master if there is one. Ask again after
    /// every [`Listener::serve`].
    pub fn poll_fds(&self) -> Vec<BorrowedFd<'_>> {
        [&self.socket].into_iter().chain(self.master.as_ref().map(|(socket, _)| socket)).map(AsFd::as_fd).collect()
    }

    /// Process id of the attached master.
    pub fn master_pid(&self) -> Option<u32> {
        self.master.as_ref().map(|&(_, pid)| pid)
    }

    /// Notices the end of the master, then lets in or turns away who waits. Never blocks. After an error, such as that no
    /// descriptor is left, who waits still waits, and the call can be made again.
    pub fn serve(&mut self) -> io::Result<Vec<Notice>> {
        let mut notices = Vec::new();
        self.hear(&mut notices);
        for _ in 0..ACCEPTS_MAX {
            let socket = match self.socket.accept() {
                Ok((socket, _)) => socket,
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock) => break,
                Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted) => continue,
                // What has happened so far must be told; the fault will be there next time.
                Err(_) if !notices.is_empty() => break,
                Err(error) => return Err(error),
            };
            // Who connects and leaves at once, as `bind` does to see whether somebody listens, is nobody.
            if !messages::is_closed(socket.as_fd()) {
                self.hear(&mut notices);
                notices.extend(self.greet(socket));
            }
        }
        Ok(notices)
    }

    /// Listens at the same place again where somebody has removed the socket: without it, no control plane would find us. To be called
    /// now and then; true when it was done. Where the directory is gone, too, there is nothing to be done.
    ///
    /// # Errors
    /// We may not look into the directory, or not make the socket.
    pub fn keep_socket(&mut self) -> io::Result<bool> {
        match file_id(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
            // Ours; or somebody else's, who then has the name.
            Ok(_) => return Ok(false),
        }
        match fd::listen(&self.path, mode(self.also, self.group)) {
            Ok(socket) => {
                (self.socket, self.file) = (socket, file_id(&self.path)?);
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn hear(&mut self, notices: &mut Vec<Notice>) {
        let Some((socket, pid)) = &self.master else { return };
        let pid = *pid;
        match messages::hear_master(socket.as_fd()) {
            Heard::Nothing => {}
            Heard::Message(FromMaster::End) => notices.push(Notice::End { pid }),
            // Those of before are closed: whoever sends others wants them no more.
            Heard::Message(FromMaster::Devices(number, devices, fds)) => {
                (self.number, self.handed) = (number, Some((devices, fds)));
            }
            Heard::Closed => {
                (self.master, self.handed) = (None, None);
                self.attached.set(0);
                notices.push(Notice::Gone { pid });
            }
        }
    }

    /// Devices that the master has handed over: they want an [`Listener::answer`].
    pub fn take_devices(&mut self) -> Option<(Devices, Vec<OwnedFd>)> {
        self.handed.take()
    }

    /// Tells the master what has become of its devices; one that is gone has no use for it.
    pub fn answer(&self, answer: Result<(), &str>) {
        if let Some((socket, _)) = &self.master {
            let _ = messages::answer(socket.as_fd(), self.number, answer);
        }
    }

    /// Answers one connection; `None` when it broke meanwhile.
    fn greet(&mut self, socket: Socket) -> Option<Notice> {
        let peer = fd::peer_credentials(socket.as_fd()).ok()?;
        if peer.uid != fd::own_uid() && peer.uid != 0 && Some(peer.uid) != self.also {
            fd::send_with_fds(socket.as_fd(), &Greeting::Denied { uid: peer.uid }.encode(), &[]).ok()?;
            return Some(Notice::Denied { pid: peer.pid, uid: peer.uid });
        }
        if let Some(master) = self.master_pid() {
            fd::send_with_fds(socket.as_fd(), &Greeting::Occupied { pid: master }.encode(), &[]).ok()?;
            return Some(Notice::Refused { pid: peer.pid, master });
        }
        let workers = self.down.len() as u16;
        let fds = [self.memory.as_fd(), self.up.as_fd()].into_iter().chain(self.down.iter().map(|fd| fd.as_fd()));
        let fds: Vec<BorrowedFd> = fds.collect();
        fd::send_with_fds(socket.as_fd(), &Greeting::Welcome { layout: LAYOUT_VERSION, workers }.encode(), &fds).ok()?;
        // A process id of 0 (a master outside our pid namespace) must still count as attached.
        self.attached.set(peer.pid.max(1));
        self.master = Some((socket, peer.pid));
        Some(Notice::Attached { pid: peer.pid })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.attached.set(0);
        // Only our own socket: another one may have the name by now. A failure leaves a stale file, which the next data
        // plane replaces.
        if file_id(&self.path).is_ok_and(|found| found == self.file) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn greetings_come_back_and_any_bytes_are_survived(value: u32, workers: u16, bytes: Vec<u8>) {
            let all = [Greeting::Welcome { layout: value, workers }, Greeting::Occupied { pid: value }, Greeting::Denied { uid: value }];
            for greeting in all {
                prop_assert_eq!(Greeting::decode(&greeting.encode()), Ok(greeting));
            }
            let _ = Greeting::decode(&bytes);
        }
    }
}
