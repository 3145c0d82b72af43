//! Many tunnels on one port.

use std::fmt;
use std::net::SocketAddr;

use tokio::sync::{Mutex, mpsc, oneshot};

use super::command::Command;
use super::driver;
use super::error::{Error, Failure, Refused};
use super::options::Options;
use super::peer::Peer;
use super::session::Session;
use adit_engine::ike::Cause;

/// A server: peers connect to it, and each becomes a [`Session`].
///
/// Dropping it stops listening; sessions that were accepted go on. [`Server::shutdown`] closes them, too.
pub struct Server {
    accepted: Mutex<mpsc::Receiver<Session>>,
    refused: Mutex<mpsc::Receiver<Refused>>,
    commands: mpsc::UnboundedSender<Command>,
    local: SocketAddr,
}

impl Server {
    /// Opens a port for peers. Any port but 500 does; 4500 is the one that others expect. Several peers may be one with a pattern.
    ///
    /// Must be called within a tokio runtime with time and I/O enabled.
    ///
    /// # Errors
    /// [`Error::Io`]: the address cannot be had. [`Error::Settings`].
    pub async fn bind(address: SocketAddr, peers: impl IntoIterator<Item = Peer>) -> Result<Server, Error> {
        Server::bind_with(address, peers, Options::default()).await
    }

    /// The same with options.
    ///
    /// # Errors
    /// As [`Server::bind`].
    pub async fn bind_with(
        address: SocketAddr,
        peers: impl IntoIterator<Item = Peer>,
        options: Options,
    ) -> Result<Server, Error> {
        let (driver, commands) = driver::open(address, None, options)?;
        let local = driver.local();
        let (accepted, refused) = driver.into_server(peers.into_iter().collect(), commands.downgrade())?;
        Ok(Server { accepted: Mutex::new(accepted), refused: Mutex::new(refused), commands, local })
    }

    /// The next peer that has connected.
    ///
    /// # Errors
    /// [`Error::Closed`]: the server has been shut down. That somebody was refused is no error here: see [`Server::refused`].
    pub async fn accept(&self) -> Result<Session, Error> {
        self.accepted.lock().await.recv().await.ok_or_else(closed)
    }

    /// The next one who was refused, for logs and counters. A few are kept until they are asked for; more are forgotten.
    ///
    /// # Errors
    /// [`Error::Closed`]: the server has been shut down.
    pub async fn refused(&self) -> Result<Refused, Error> {
        self.refused.lock().await.recv().await.ok_or_else(closed)
    }

    /// The address and port at which it can be reached.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Closes all sessions, tells the peers, and returns when they have answered, or after a moment.
    pub async fn shutdown(self) {
        let (reply, answer) = oneshot::channel();
        let _ = self.commands.send(Command::Shutdown { reply });
        // The task is gone: then so are the sessions.
        let _ = answer.await;
    }
}

fn closed() -> Error {
    Error::Closed(Box::new(Failure::plain("the server", Cause::Command, "")))
}

impl Drop for Server {
    fn drop(&mut self) {
        // The task is gone: then nobody listens.
        let _ = self.commands.send(Command::StopAccepting);
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Server({})", self.local)
    }
}
