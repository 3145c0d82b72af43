//! The end of a relay: nobody new is let in, all clients are told when to come back and where else to go, and have some time to.
//! They come back spread over as long as the handshakes of all of them take.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::hall::{Farewell, Hall};
use crate::shared::{Phase, Shared};

/// A service that is restarted is there again in less than this. The first clients come back then, the last ones so much later,
/// or as much later as the handshakes of all take.
const COME_BACK: Duration = Duration::from_secs(1);
const SPREAD: Duration = Duration::from_secs(2);
/// For how long clients look for the relay before they give it up.
const TRY_FOR: Duration = Duration::from_secs(300);
/// How long the last words to those who have not gone by themselves may take.
const LAST_WORDS: Duration = Duration::from_secs(2);

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
    let farewell = farewell(shared);
    let clients = shared.lobby.drain(&farewell);
    shared.phase.send_replace(Phase::Draining);
    tracing::info!("ending: {clients} clients are told, and have {} s to go", within.as_secs());
    if timeout(within, gone.recv()).await.is_err() {
        shared.phase.send_replace(Phase::Closed);
        let _ = timeout(LAST_WORDS, gone.recv()).await;
    }
    tracing::info!("ended");
}

fn farewell(shared: &Shared) -> Farewell {
    let clients = shared.lobby.look(Hall::gauges).clients as u32;
    let spread = SPREAD.max(Duration::from_secs(1) * clients / shared.handshakes_per_s.max(1));
    Farewell { after: COME_BACK, spread, try_for: TRY_FOR, to: shared.drain.to.clone() }
}
