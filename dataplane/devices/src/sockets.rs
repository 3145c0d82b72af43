//! The UDP sockets of the workers: one SO_REUSEPORT group, steered by SPI, with all options of the packet path.
//!
//! unsafe here: socket options that socket2 has no words for.

use std::io;
use std::mem;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::thread;
use std::time::{Duration, Instant};

use adit_proto::esp::{LANE_MASK, SPI_MIN};
use anyhow::{Context, Result, bail};
use socket2::{Domain, Protocol, Socket, Type};

/// How the sockets of a data plane are to be.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    pub listen: SocketAddr,
    /// As many sockets, one for each.
    pub workers: usize,
    /// Receive and send buffer of each in bytes.
    pub buffer: usize,
    /// Mark of what they send (SO_MARK); 0 for none.
    pub mark: u32,
}

/// Binds one socket per worker to the same address and steers ESP to the worker that the SPI names. An address that somebody has
/// is waited for until `until`.
///
/// # Errors
/// The address is not to be had, or the kernel lacks an option; the message names the remedy.
pub fn bind_group(wanted: &Wanted, until: Instant) -> Result<Vec<Socket>> {
    let Wanted { listen, workers, .. } = *wanted;
    let first = bind_first(listen, until)?;
    let listen = first.local_addr().context("the address of a socket")?.as_socket().context("the address of a UDP socket")?;
    let others = (1..workers).map(|_| bind_next(listen));
    let sockets: Vec<Socket> = std::iter::once(Ok(first)).chain(others).collect::<Result<_>>()?;
    sockets.iter().try_for_each(|socket| prepare(socket, listen, wanted))?;
    if let (Some(first), true) = (sockets.first(), workers > 1) {
        steer_by_spi(first, workers).context("cannot attach the program that steers datagrams by SPI")?;
    }
    Ok(sockets)
}

/// A group could be joined by a second process of the same user; without SO_REUSEPORT the address must be nobody's. The socket that
/// shows it becomes the first of the group, so that nobody comes in between.
fn bind_first(listen: SocketAddr, until: Instant) -> Result<Socket> {
    let socket = unbound(listen)?;
    while let Err(error) = socket.bind(&listen.into()) {
        if error.kind() != io::ErrorKind::AddrInUse || Instant::now() >= until {
            bail!(explain(listen, &error));
        }
        thread::sleep(Duration::from_millis(5));
    }
    socket.set_reuse_port(true).context("SO_REUSEPORT")?;
    Ok(socket)
}

fn bind_next(listen: SocketAddr) -> Result<Socket> {
    let socket = unbound(listen)?;
    socket.set_reuse_port(true).context("SO_REUSEPORT")?;
    socket.bind(&listen.into()).map_err(|error| anyhow::anyhow!(explain(listen, &error)))?;
    Ok(socket)
}

fn unbound(listen: SocketAddr) -> Result<Socket> {
    let socket = Socket::new(Domain::for_address(listen), Type::DGRAM.nonblocking().cloexec(), Some(Protocol::UDP))
        .context("cannot create a UDP socket")?;
    if listen.is_ipv6() {
        // With [::] the socket takes IPv4 too; a specific address is what it says.
        socket.set_only_v6(listen.ip() != IpAddr::V6(Ipv6Addr::UNSPECIFIED)).context("IPV6_V6ONLY")?;
    }
    Ok(socket)
}

fn explain(listen: SocketAddr, error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EADDRINUSE) => format!(
            "cannot bind UDP {listen}: the address is in use; stop the process that has it (ss -ulpn shows it) or choose \
             another port with `listen`"
        ),
        Some(libc::EADDRNOTAVAIL) => {
            format!("cannot bind UDP {listen}: no interface has this address; add it or listen on 0.0.0.0 or [::]")
        }
        Some(libc::EACCES) => format!("cannot bind UDP {listen}: not permitted; ports below 1024 need root"),
        _ => format!("cannot bind UDP {listen}: {error}"),
    }
}

fn prepare(socket: &Socket, listen: SocketAddr, wanted: &Wanted) -> Result<()> {
    force_buffers(socket, wanted.buffer);
    set_path_options(socket, listen)?;
    // Without it, what comes together comes one by one.
    let _ = set_option(socket, libc::SOL_UDP, libc::UDP_GRO, 1);
    set_option(socket, libc::SOL_SOCKET, libc::SO_RXQ_OVFL, 1).context("SO_RXQ_OVFL")?;
    ask_for_local_end(socket, listen)?;
    if wanted.mark != 0 {
        socket.set_mark(wanted.mark).context("cannot mark the packets outside: SO_MARK needs the capability CAP_NET_ADMIN")?;
    }
    Ok(())
}

/// Asks past the system's limits where that is allowed (CAP_NET_ADMIN), else within them.
fn force_buffers(socket: &Socket, bytes: usize) {
    let bytes = bytes as libc::c_int;
    for (forced, plain) in [(libc::SO_RCVBUFFORCE, libc::SO_RCVBUF), (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF)] {
        if set_option(socket, libc::SOL_SOCKET, forced, bytes).is_err() {
            // What is granted is read back and shown as a gauge.
            let _ = set_option(socket, libc::SOL_SOCKET, plain, bytes);
        }
    }
}

/// DF on every outer packet, and no belief in ICMP that anyone can send: the path MTU is the control plane's to say. What may leave
/// as IP fragments is the data plane's own.
fn set_path_options(socket: &Socket, listen: SocketAddr) -> Result<()> {
    if listen.is_ipv6() {
        forbid_fragments(socket, false).context("IPV6_MTU_DISCOVER")?;
    }
    if listen.is_ipv4() || listen.ip().is_unspecified() {
        forbid_fragments(socket, true).context("IP_MTU_DISCOVER")?;
    }
    Ok(())
}

/// Has the kernel say with every datagram to which address it was sent, by which interface it came, and in which traffic class.
fn ask_for_local_end(socket: &Socket, listen: SocketAddr) -> Result<()> {
    if listen.is_ipv6() {
        // For IPv4 packets on this socket, too.
        set_option(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1).context("IPV6_RECVPKTINFO")?;
        set_option(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS, 1).context("IPV6_RECVTCLASS")?;
    } else {
        set_option(socket, libc::IPPROTO_IP, libc::IP_PKTINFO, 1).context("IP_PKTINFO")?;
    }
    if listen.is_ipv4() || listen.ip().is_unspecified() {
        set_option(socket, libc::IPPROTO_IP, libc::IP_RECVTOS, 1).context("IP_RECVTOS")?;
    }
    Ok(())
}

/// DF, and the kernel cuts nothing either.
///
/// # Errors
/// The socket carries nothing of that version of IP.
pub fn forbid_fragments(socket: &Socket, v4: bool) -> io::Result<()> {
    set_discovery(socket, v4, libc::IP_PMTUDISC_PROBE, libc::IPV6_PMTUDISC_PROBE)
}

/// The kernel cuts what is longer than it knows of the way, and routers may cut the pieces again (IPv4).
///
/// # Errors
/// As of [`forbid_fragments`].
pub fn allow_fragments(socket: &Socket, v4: bool) -> io::Result<()> {
    set_discovery(socket, v4, libc::IP_PMTUDISC_DONT, libc::IPV6_PMTUDISC_DONT)
}

fn set_discovery(socket: &Socket, v4: bool, of_v4: libc::c_int, of_v6: libc::c_int) -> io::Result<()> {
    if v4 {
        set_option(socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, of_v4)
    } else {
        set_option(socket, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, of_v6)
    }
}

/// Sets an option that is a number.
///
/// # Errors
/// What the kernel says.
pub fn set_option(socket: &Socket, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    // SAFETY: the pointer and length describe `value`, which outlives the call.
    let result = unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), mem::size_of::<libc::c_int>() as u32)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// An option that is a number.
///
/// # Errors
/// What the kernel says.
pub fn get_option(socket: &Socket, level: libc::c_int, name: libc::c_int) -> io::Result<libc::c_int> {
    let (mut value, mut len) = (0, mem::size_of::<libc::c_int>() as u32);
    // SAFETY: the pointers are to a value and to its length, which outlive the call.
    let result = unsafe { libc::getsockopt(socket.as_raw_fd(), level, name, (&raw mut value).cast(), &raw mut len) };
    if result == 0 { Ok(value) } else { Err(io::Error::last_os_error()) }
}

/// Classic BPF over the UDP payload: word 0 is the SPI. ESP goes to socket `(SPI & 63) % workers`, all else to socket 0
/// (IKE starts with four zero bytes, STUN with two zero bits, ChannelData with a word below all SPIs of ours; a load beyond a short
/// packet also answers 0).
fn steer_by_spi(socket: &Socket, workers: usize) -> io::Result<()> {
    let op = |code: u32, jt: u8, jf: u8, k: u32| libc::sock_filter { code: code as u16, jt, jf, k };
    let mut program = [
        op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        op(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, 1, 0, SPI_MIN),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
        op(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, 0, 0, LANE_MASK),
        op(libc::BPF_ALU | libc::BPF_MOD | libc::BPF_K, 0, 0, workers as u32),
        op(libc::BPF_RET | libc::BPF_A, 0, 0, 0),
    ];
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: `program` points to its instructions and both outlive the call, which copies them.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            (&raw const program).cast(),
            mem::size_of::<libc::sock_fprog>() as u32,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(listen: SocketAddr) -> Wanted {
        Wanted { listen, workers: 2, buffer: 1 << 20, mark: 0 }
    }

    #[test]
    fn an_address_of_somebody_else_is_waited_for_and_never_shared() {
        let theirs = bind_group(&wanted("127.0.0.1:0".parse().unwrap()), Instant::now()).unwrap();
        let listen = theirs[1].local_addr().unwrap().as_socket().unwrap();
        let refused = bind_group(&wanted(listen), Instant::now()).err().unwrap();
        assert!(refused.to_string().contains("in use"), "{refused}");
        let waiting = thread::spawn(move || bind_group(&wanted(listen), Instant::now() + Duration::from_secs(60)));
        thread::sleep(Duration::from_millis(20));
        assert!(!waiting.is_finished());
        drop(theirs);
        assert_eq!(waiting.join().unwrap().unwrap().len(), 2);
    }
}
