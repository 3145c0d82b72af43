//! Descriptors: event counters for wake-up, and the Unix socket that hands descriptors over.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};

/// How long the data plane may take to answer.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// Most descriptors that one message carries here: the memory, one event counter up, one down per worker.
pub const FDS_MAX: usize = 2 + adit_proto::limits::WORKERS_MAX as usize;

/// Room for a control message with [`FDS_MAX`] descriptors, aligned as the kernel wants it.
#[repr(C, align(8))]
struct Control([u8; CONTROL_LEN]);
const CONTROL_LEN: usize = 64 + FDS_MAX * size_of::<RawFd>();

/// An event counter (eventfd): signals add up until they are acknowledged. Never blocks.
#[derive(Debug)]
pub struct EventFd(File);

impl EventFd {
    pub fn new() -> io::Result<EventFd> {
        // SAFETY: plain call.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just made and has no other owner.
        Ok(EventFd(File::from(unsafe { OwnedFd::from_raw_fd(fd) })))
    }

    /// Makes the descriptor readable. A counter that is full is readable already.
    pub fn signal(&self) {
        let _ = (&self.0).write(&1u64.to_ne_bytes());
    }

    /// Takes all signals; false when there was none.
    pub fn acknowledge(&self) -> bool {
        (&self.0).read(&mut [0; 8]).is_ok()
    }

    /// Takes a descriptor that a stranger sent. Writing into a full pipe or to a slow disk would wait, and so would a blocking
    /// event counter: `InvalidData` when it is none, and it is made not to block. (Both sides have the same open description:
    /// a stranger who is set on it could undo that, and make us wait by a counter that he keeps full.)
    pub fn received(fd: OwnedFd) -> io::Result<EventFd> {
        let link = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))?;
        if link.as_os_str() != "anon_inode:[eventfd]" {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a descriptor is no event counter"));
        }
        // SAFETY: plain calls on an open descriptor.
        let set = unsafe {
            let flags = libc::fcntl(fd.as_raw_fd(), libc::F_GETFL);
            flags >= 0 && libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK) == 0
        };
        if set { Ok(EventFd(File::from(fd))) } else { Err(io::Error::last_os_error()) }
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Who is at the other end of a Unix socket, as the kernel knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerCredentials {
    pub pid: u32,
    pub uid: u32,
}

/// The process that made the other end (SO_PEERCRED).
pub fn peer_credentials(socket: BorrowedFd) -> io::Result<PeerCredentials> {
    let mut found = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut len = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes to `found`, which is that long.
    let result = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEERCRED, (&raw mut found).cast(), &raw mut len)
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(PeerCredentials { pid: found.pid.unsigned_abs(), uid: found.uid })
}

/// The user that this process acts as.
pub fn own_uid() -> u32 {
    // SAFETY: the call cannot fail.
    unsafe { libc::geteuid() }
}

/// Listens at `path`, a socket with this mode. One that nobody listens on any more is replaced, nothing else is.
pub fn listen(path: &Path, mode: u32) -> io::Result<Socket> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "a file that is no socket has this name"));
        }
        Ok(_) => match connect(path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path)?,
            // Whoever does not answer in time still listens.
            Ok(_) => return Err(in_use()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(in_use()),
            Err(error) => return Err(error),
        },
        Err(_) => {}
    }
    let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None)?;
    // Before bind: Linux gives the new file the mode of the socket, so that it is never open to others.
    let socket = File::from(OwnedFd::from(socket));
    socket.set_permissions(std::fs::Permissions::from_mode(mode))?;
    let socket = Socket::from(OwnedFd::from(socket));
    socket.bind(&SockAddr::unix(path)?)?;
    // The mask for new files may have taken some of it away.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    socket.listen(8)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn in_use() -> io::Error {
    io::Error::new(io::ErrorKind::AddrInUse, "another data plane listens here")
}

/// Connects to the socket at `path`. Connecting and receiving end with `WouldBlock` after [`ANSWER_WITHIN`].
pub fn connect(path: &Path) -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None)?;
    socket.set_write_timeout(Some(ANSWER_WITHIN))?;
    socket.set_read_timeout(Some(ANSWER_WITHIN))?;
    socket.connect(&SockAddr::unix(path)?)?;
    Ok(socket)
}

/// Sends one message with descriptors; never waits.
pub fn send_with_fds(socket: BorrowedFd, bytes: &[u8], fds: &[BorrowedFd]) -> io::Result<()> {
    if fds.len() > FDS_MAX {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut control = Control([0; CONTROL_LEN]);
    let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let payload = size_of_val(fds) as libc::c_uint;
    // SAFETY: `message` points at `part` and `control`, which outlive it; the control message fits (FDS_MAX was checked);
    // its data are `fds.len()` integers, written unaligned.
    let sent = unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        (message.msg_iov, message.msg_iovlen) = (&raw mut part, 1);
        if !fds.is_empty() {
            message.msg_control = control.0.as_mut_ptr().cast();
            message.msg_controllen = libc::CMSG_SPACE(payload) as _;
            let header = libc::CMSG_FIRSTHDR(&raw const message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN(payload) as _;
            let data = libc::CMSG_DATA(header).cast::<RawFd>();
            for (index, fd) in fds.iter().enumerate() {
                data.add(index).write_unaligned(fd.as_raw_fd());
            }
        }
        libc::sendmsg(socket.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT)
    };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Receives one message with its descriptors. Returns its length, 0 at the end of the connection. `flags`: those of recvmsg(2).
pub fn receive_with_fds(socket: BorrowedFd, bytes: &mut [u8], flags: libc::c_int) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut control = Control([0; CONTROL_LEN]);
    let mut part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    let mut fds = Vec::new();
    // SAFETY: `message` points at `part` and `control`, which outlive it and have the lengths given; the kernel fills
    // well-formed control messages, and each descriptor in them is new and ours alone.
    let received = unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        (message.msg_iov, message.msg_iovlen) = (&raw mut part, 1);
        message.msg_control = control.0.as_mut_ptr().cast();
        message.msg_controllen = CONTROL_LEN as _;
        let received = libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags | libc::MSG_CMSG_CLOEXEC);
        let mut header = if received < 0 { std::ptr::null_mut() } else { libc::CMSG_FIRSTHDR(&raw const message) };
        while !header.is_null() {
            if (*header).cmsg_level == libc::SOL_SOCKET && (*header).cmsg_type == libc::SCM_RIGHTS {
                let len = (*header).cmsg_len as usize - libc::CMSG_LEN(0) as usize;
                let data = libc::CMSG_DATA(header).cast::<RawFd>();
                for index in 0..len / size_of::<RawFd>() {
                    fds.push(OwnedFd::from_raw_fd(data.add(index).read_unaligned()));
                }
            }
            header = libc::CMSG_NXTHDR(&raw const message, header);
        }
        received
    };
    usize::try_from(received).map(|len| (len, fds)).map_err(|_| io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_event_counter_is_taken_from_a_stranger_and_it_never_blocks() {
        // SAFETY: the descriptor is new and ours.
        let blocking = unsafe { OwnedFd::from_raw_fd(libc::eventfd(0, libc::EFD_CLOEXEC)) };
        let counter = EventFd::received(blocking).unwrap();
        assert!(!counter.acknowledge(), "there is nothing to take, and nothing was waited for");
        counter.signal();
        assert!(counter.acknowledge());
        let file = tempfile::tempfile().unwrap();
        let (pipe, _writer) = io::pipe().unwrap();
        for stranger in [OwnedFd::from(file), OwnedFd::from(pipe)] {
            assert_eq!(EventFd::received(stranger).unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
    }
}
