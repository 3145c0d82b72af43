//! The end of a relay: nobody new is let in, the next one can listen, and all clients are told when to come back and where else to
//! go.
//!
//! Where there are other relays they have some time to move, and until then their packets pass. Where there are none they are closed
//! once they have been told: the sooner this process has ended, the sooner is there the next one. They come back spread over as
//! long as the handshakes of all of them take.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::config::Drain;
use crate::hall::Farewell;
use crate::reach::Reach;
use crate::shared::{Phase, Shared};

/// A service that is restarted is there again in less than this. The first clients come back then, the last ones so much later,
/// or as much later as the handshakes of all take.
const COME_BACK: Duration = Duration::from_secs(1);
const SPREAD: Duration = Duration::from_secs(2);
/// For how long clients look for the relay before they give it up.
const TRY_FOR: Duration = Duration::from_secs(300);
/// How long the last words to those who have not gone by themselves may take.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Waits for SIGTERM or SIGINT, and, when it has come, for the next one.
///
/// # Errors
/// The kernel does not let us hear of them.
pub fn asked_to_end() -> io::Result<(impl Future<Output = ()>, impl Future<Output = ()>)> {
    let (mut first, mut second) = (Asked::listen()?, Asked::listen()?);
    let again = async move {
        // The one that the first has heard of, and one more.
        second.next().await;
        second.next().await;
    };
    Ok((async move { first.next().await }, again))
}

struct Asked {
    terminate: Signal,
    interrupt: Signal,
}

impl Asked {
    fn listen() -> io::Result<Asked> {
        Ok(Asked { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// How long a relay takes at the longest from being asked to end to its end.
pub fn longest(within: Duration) -> Duration {
    within + 2 * LAST_WORDS
}

/// Tells all clients, and gives them their time. `gone` ends when no connection is left.
pub(crate) async fn drain(shared: &Arc<Shared>, gone: &mut mpsc::Receiver<()>) {
    let drain = shared.live().drain.clone();
    let within = if drain.to.is_empty() { LAST_WORDS } else { drain.within };
    let farewell = farewell(shared, drain);
    // Before they are told: whoever goes at once is to find the next relay, if it is there.
    shared.phase.send_replace(Phase::Draining);
    // What was lent goes on until the end, but nobody begins what ends so soon.
    shared.reach.iter().for_each(Reach::drain);
    let clients = shared.lobby.drain(&farewell);
    if farewell.closes {
        tracing::info!("ending: {clients} clients are told when to come back");
    } else {
        tracing::info!("ending: {clients} clients are told where to go, and have {} s to", within.as_secs());
    }
    if timeout(within, gone.recv()).await.is_err() {
        shared.phase.send_replace(Phase::Closed);
        let _ = timeout(LAST_WORDS, gone.recv()).await;
    }
    tracing::info!("ended");
}

fn farewell(shared: &Shared, drain: Drain) -> Farewell {
    let (clients, of_network) = shared.lobby.look(|hall| (hall.gauges().clients, hall.clients_of_network()));
    let door = shared.fixed.door;
    let handshakes = |clients: usize, per_s: u32| Duration::from_secs(1) * clients as u32 / per_s.max(1);
    let of_network = handshakes(of_network, door.handshakes_of_network_per_s);
    // Half as long again: where all of a rate is used, not everybody comes through.
    let spread = SPREAD.max(handshakes(clients, door.handshakes_per_s).max(of_network) * 3 / 2);
    let closes = drain.to.is_empty();
    // Who goes elsewhere comes back when this one has ended, not before.
    let after = if closes { COME_BACK } else { COME_BACK + drain.within };
    Farewell { after, spread, try_for: TRY_FOR.max(after + spread), to: drain.to, closes }
}
