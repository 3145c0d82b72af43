//! What concerns a client or a server as a whole, within its limits.

use std::net::SocketAddr;
use std::time::Duration;

use adit_engine::ike::{EndpointConfig, Limits, Retransmission};
use adit_engine::path::IKE_PORT;
use adit_proto::replay;

use super::error::Error;
use super::limits::{PATH_MTU_MIN, RECEIVE_QUEUE_MAX, REFUSALS_PER_SECOND, SESSIONS_MAX};

/// Settings of a client or a server as a whole; what concerns one peer is in [`Peer`](super::Peer).
///
/// ```
/// use std::time::Duration;
/// use adit_ipsec::Options;
///
/// let options = Options { connect_timeout: Duration::from_secs(5), ..Options::default() };
/// # let _ = options;
/// ```
#[derive(Clone, Debug)]
pub struct Options {
    /// For a client: the address and port to send from. Default: any address and port, which takes no privilege.
    pub bind: Option<SocketAddr>,
    /// How long [`Client::connect`](super::Client::connect) tries. Default: 30 s.
    pub connect_timeout: Duration,
    /// How often an unanswered request of IKE is sent. Default: given up after about 16 s.
    pub retransmission: Retransmission,
    /// Largest outer IP packet that the path takes, in bytes. Default: 1500.
    pub path_mtu: u16,
    /// Received packets that a session keeps until they are asked for; more are dropped and counted. They take as many times
    /// [`Options::path_mtu`] bytes at most. Default: 1024.
    pub receive_queue: usize,
    /// Replay window in packets, a power of two from 64 to 16384. Default: 1024.
    pub replay_window: u16,
    /// For a server: sessions at one time. Where there are as many, a peer that is configured by its own name comes in all the same.
    /// Who comes under a pattern gets the place of one from a network or address with more sessions, and that one is closed; if there
    /// is none, and it was connected before, one of an eighth that there are on top; else it is refused. Default: 1024.
    pub sessions: usize,
    /// For a server: sessions that wait for [`Server::accept`](super::Server::accept); more are closed. Default: 128.
    pub backlog: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            bind: None,
            connect_timeout: Duration::from_secs(30),
            retransmission: Retransmission { tries: 5, max: Duration::from_secs(4), ..Retransmission::default() },
            path_mtu: 1500,
            receive_queue: 1024,
            replay_window: 1024,
            sessions: 1024,
            backlog: 128,
        }
    }
}

impl Options {
    /// # Errors
    /// A setting is out of range.
    pub(super) fn check(&self) -> Result<(), Error> {
        if !replay::Window::is_size(self.replay_window) {
            return Err(Error::settings("replay_window", "must be a power of two from 64 to 16384"));
        }
        if self.path_mtu < PATH_MTU_MIN {
            return Err(Error::settings("path_mtu", format!("must be at least {PATH_MTU_MIN}")));
        }
        let ranges = [
            ("receive_queue", self.receive_queue, RECEIVE_QUEUE_MAX),
            ("sessions", self.sessions, SESSIONS_MAX),
            ("backlog", self.backlog, SESSIONS_MAX),
        ];
        for (setting, value, max) in ranges {
            if !(1..=max).contains(&value) {
                return Err(Error::settings(setting, format!("{value} is not from 1 to {max}")));
            }
        }
        Ok(())
    }

    /// What the engine is told, for a socket on this port.
    ///
    /// # Errors
    /// It is the port on which IKE has no marker, so that ESP cannot go in UDP there.
    pub(super) fn endpoint(&self, port: u16) -> Result<EndpointConfig, Error> {
        if port == IKE_PORT {
            let fault = "on port 500 ESP cannot go in UDP (RFC 3948): take 4500, or any other port";
            return Err(Error::settings("bind", fault));
        }
        let limits = Limits { sessions: self.sessions, refusals: REFUSALS_PER_SECOND, ..Limits::default() };
        Ok(EndpointConfig { limits, retransmission: self.retransmission, nat_port: port, ..EndpointConfig::default() })
    }
}
