//! The one kind of datagram that may leave as IP fragments: a message of IKE that may be too long for its way, and is not cut into
//! pieces by RFC 7383.
//!
//! Whether the kernel may cut is an option of a socket, not of a message. A socket of its own, on the same port, would be in the
//! reuseport group and get a share of what comes; a raw one needs a privilege. So the option is changed for one call and put back
//! before the next: a socket belongs to one worker, and all that leaves by it is sent by calls of that worker's thread.

use std::io;

use adit_devices::sockets::{allow_fragments, forbid_fragments};

use super::{Hop, UdpSocket};

impl UdpSocket {
    /// Sends one datagram, in IP fragments where it is too long for its way.
    pub fn send_in_fragments(&self, hop: &Hop, class: u8, bytes: &[u8]) -> io::Result<()> {
        let v4 = hop.to.is_v4();
        allow_fragments(&self.socket, v4)?;
        let sent = self.send(hop, class, bytes, bytes.len());
        forbid_fragments(&self.socket, v4)?;
        sent
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use adit_devices::sockets::get_option;

    use super::super::tests::bind_group;
    use super::*;

    /// Longer than loopback carries in one packet (its MTU is 65536), with the headers.
    const LONG: usize = 65_507;

    #[test]
    fn a_long_datagram_leaves_in_fragments_and_nothing_else_does() {
        for (listen, remote) in [("0.0.0.0:0", "127.0.0.1"), ("[::]:0", "127.0.0.1"), ("[::]:0", "::1")] {
            let mut sockets = bind_group(listen, 1);
            let port = sockets[0].socket.local_addr().unwrap().as_socket().unwrap().port();
            let hop = Hop::new(SocketAddr::new(remote.parse().unwrap(), port), None, 0, sockets[0].mapped).unwrap();
            let bytes: Vec<u8> = (0..LONG).map(|n| n as u8).collect();
            let mut window = vec![0; 1 << 17];
            for _ in 0..2 {
                sockets[0].send_in_fragments(&hop, 0, &bytes).unwrap();
                let received = sockets[0].receive(&mut window).unwrap();
                assert_eq!((&window[..received.len], received.truncated), (&bytes[..], false), "{listen} {remote}");
            }
            let options = match remote {
                "::1" => (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_PROBE),
                _ => (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE),
            };
            assert_eq!(get_option(&sockets[0].socket, options.0, options.1).unwrap(), options.2, "{listen} {remote}: DF is back");
            if remote == "::1" {
                // 65507 bytes, with both headers, are more than 65536: DF is back.
                let refused = sockets[0].send(&hop, 0, &bytes, LONG).unwrap_err();
                assert_eq!(refused.raw_os_error(), Some(libc::EMSGSIZE), "{listen} {remote}");
            }
        }
    }
}
