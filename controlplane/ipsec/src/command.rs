//! What the handles ask of the task behind them.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::error::Error;
use super::link::Link;

/// A command, with where its answer goes.
pub enum Command {
    Rekey { link: Arc<Link>, keys: Keys, reply: oneshot::Sender<Result<(), Error>> },
    Close { link: Arc<Link>, reply: Option<oneshot::Sender<()>> },
    StopAccepting,
    Shutdown { reply: oneshot::Sender<()> },
}

/// Which keys are to be replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keys {
    Child,
    Ike,
}
