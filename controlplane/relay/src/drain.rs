//! The end of a relay: nobody new is let in, all clients are told when to come back and where else to go, and have some time to. They come
//! back spread over as long as the handshakes of all of them take.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::server::Shared;

/// How long the last words to those who have not gone by themselves may take.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// How far the end has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Open,
    /// Clients were told to go.
    Draining,
    /// Those that are left are closed.
    Closed,
}

/// Waits for SIGTERM or SIGINT.
///
/// # Errors
/// The kernel does not let us hear of them.
pub fn asked_to_end() -> io::Result<impl Future<Output = ()>> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// Tells all clients, and gives them their time. `gone` ends when no connection is left.
pub(crate) async fn drain(shared: &Arc<Shared>, gone: &mut mpsc::Receiver<()>) {
    let within = shared.drain.within;
    let clients = shared.lobby.drain(Instant::now(), &shared.drain);
    shared.phase.send_replace(Phase::Draining);
    tracing::info!("ending: {clients} clients are told, and have {} s to go", within.as_secs());
    if timeout(within, gone.recv()).await.is_err() {
        shared.lobby.close_all(Instant::now());
        shared.phase.send_replace(Phase::Closed);
        let _ = timeout(LAST_WORDS, gone.recv()).await;
    }
    tracing::info!("ended");
}
