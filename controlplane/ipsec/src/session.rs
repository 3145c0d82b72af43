//! One peer at the other end of a tunnel, for the program that has it.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use adit_engine::ike::selectors::SelectorPair;
use tokio::sync::{mpsc, oneshot};

use super::command::{Command, Keys};
use super::error::{Error, Failure};
use super::link::{Algorithms, Link, State, Stats};

/// One peer at the other end: of a server, one that has connected ([`Server::accept`](super::Server::accept)).
///
/// All calls take `&self`, so one task can send while another receives. Dropping it closes the session and tells the peer.
/// Where a peer that is connected begins anew, the session goes on with its new keys.
pub struct Session {
    pub(super) link: Arc<Link>,
    pub(super) commands: mpsc::UnboundedSender<Command>,
}

impl Session {
    /// Sends an IPv4 or IPv6 packet to the peer. It returns when the system has taken the datagram; nobody says whether it arrives.
    ///
    /// # Errors
    /// [`Error::NotIp`], [`Error::Selectors`], [`Error::TooBig`]: this packet cannot be sent. [`Error::NotConnected`]: not now.
    /// [`Error::Closed`]: never again. [`Error::Exhausted`], [`Error::Io`].
    pub async fn send_packet(&self, packet: &[u8]) -> Result<(), Error> {
        self.link.send(packet).await
    }

    /// The next packet from the peer: authentic, not a repetition, and within the traffic selectors that were agreed. It waits
    /// through a reconnection. Nothing is lost when the future is dropped.
    ///
    /// # Errors
    /// [`Error::Closed`] once the session is over and all that came before was taken.
    pub async fn recv_packet(&self) -> Result<Vec<u8>, Error> {
        self.link.receive().await
    }

    /// Replaces the keys of the packets now, and returns when the new ones are used for sending. No packet is lost.
    ///
    /// # Errors
    /// [`Error::NotConnected`], [`Error::Closed`], [`Error::Timeout`].
    pub async fn rekey(&self) -> Result<(), Error> {
        self.rekey_keys(Keys::Child).await
    }

    /// Replaces the keys of the IKE SA now; those of the packets stay.
    ///
    /// # Errors
    /// As [`Session::rekey`].
    pub async fn rekey_ike(&self) -> Result<(), Error> {
        self.rekey_keys(Keys::Ike).await
    }

    async fn rekey_keys(&self, keys: Keys) -> Result<(), Error> {
        let (reply, answer) = oneshot::channel();
        let command = Command::Rekey { link: self.link.clone(), keys, reply };
        self.commands.send(command).map_err(|_| self.gone())?;
        answer.await.unwrap_or_else(|_| Err(self.gone()))
    }

    /// Closes the session and tells the peer.
    pub async fn close(self) {
        let (reply, answer) = oneshot::channel();
        let _ = self.commands.send(Command::Close { link: self.link.clone(), reply: Some(reply) });
        // The task is gone: then so is the session.
        let _ = answer.await;
    }

    /// Who the peer proved to be.
    pub fn peer_id(&self) -> String {
        self.link.identity()
    }

    /// What protects the session, and by what the peer proved who it is.
    pub fn algorithms(&self) -> Algorithms {
        self.link.algorithms()
    }

    /// Where the peer is now; it may move (RFC 4555).
    pub fn remote_addr(&self) -> Option<SocketAddr> {
        self.link.remote()
    }

    /// Longest packet that can be sent, in bytes.
    pub fn mtu(&self) -> usize {
        self.link.mtu()
    }

    /// The traffic selectors that were agreed, ours as `local`; `None` while it is not connected.
    pub fn traffic(&self) -> Option<SelectorPair> {
        self.link.selectors()
    }

    pub fn state(&self) -> State {
        self.link.state()
    }

    /// Waits until packets can be sent, at once if they can.
    ///
    /// # Errors
    /// [`Error::Closed`]: they never will.
    pub async fn connected(&self) -> Result<(), Error> {
        let mut states = self.link.watch();
        let over = |state: &State| matches!(state, State::Connected | State::Closed);
        match states.wait_for(over).await.map(|state| *state) {
            Ok(State::Connected) => Ok(()),
            _ => Err(self.gone()),
        }
    }

    /// What went through.
    pub fn stats(&self) -> Stats {
        self.link.stats()
    }

    fn gone(&self) -> Error {
        self.link.why_closed().unwrap_or_else(|| {
            Error::Closed(Box::new(Failure::plain(self.link.identity(), adit_engine::ike::Cause::Command, "")))
        })
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // The task is gone: then so is the session.
        let _ = self.commands.send(Command::Close { link: self.link.clone(), reply: None });
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Session({:?})", self.link)
    }
}
