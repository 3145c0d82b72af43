//! One tunnel to a server.

use std::net::SocketAddr;
use std::ops::Deref;

use tokio::sync::oneshot;

use super::command::Command;
use super::driver;
use super::error::Error;
use super::options::Options;
use super::peer::Peer;
use super::session::Session;

/// A tunnel to a server, kept up in the background: dead peer detection (DPD), new keys, and a new connection when it was lost.
///
/// It is a [`Session`] besides: `send_packet`, `recv_packet`, `rekey` and all else that a session can.
/// Dropping it tells the server; [`Client::shutdown`] also waits until it knows.
#[derive(Debug)]
pub struct Client {
    session: Session,
    local: SocketAddr,
}

impl Client {
    /// Connects to a server, and returns when packets can be sent. `remote` is its address with the port that it has for NAT
    /// traversal, mostly 4500.
    ///
    /// Must be called within a tokio runtime with time and I/O enabled.
    ///
    /// # Errors
    /// [`Error::Negotiation`] says why the two ends do not come together, from the first attempt; [`Error::Timeout`],
    /// [`Error::Settings`], [`Error::Io`].
    pub async fn connect(remote: SocketAddr, peer: Peer) -> Result<Client, Error> {
        Client::connect_with(remote, peer, Options::default()).await
    }

    /// The same with options.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub async fn connect_with(remote: SocketAddr, peer: Peer, options: Options) -> Result<Client, Error> {
        let any: SocketAddr = if remote.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
        let (driver, commands) = driver::open(options.bind.unwrap_or(any), Some(remote), options)?;
        let local = driver.local();
        let (reply, answer) = oneshot::channel();
        let link = driver.into_client(remote, peer, reply)?;
        let session = Session { link, commands };
        answer.await.unwrap_or(Err(Error::NotConnected))?;
        Ok(Client { session, local })
    }

    /// The address and port that it sends from.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Tells the server that we go, and returns when it has answered, or after a moment.
    pub async fn shutdown(self) {
        let (reply, answer) = oneshot::channel();
        let _ = self.session.commands.send(Command::Shutdown { reply });
        // The task is gone: then so is the connection.
        let _ = answer.await;
    }
}

impl Deref for Client {
    type Target = Session;

    fn deref(&self) -> &Session {
        &self.session
    }
}
