//! What all connections of a relay share.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::config::Drain;
use crate::entrance::Entrance;
use crate::grants::Grants;
use crate::lobby::Lobby;
use crate::login::{Access, Token};
use crate::reach::Reach;
use crate::tally::Tally;

/// How far the end has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Open,
    /// Clients were told to go.
    Draining,
    /// Those that are left are closed.
    Closed,
}

/// All of it.
pub(crate) struct Shared {
    pub entrance: Arc<Entrance>,
    pub lobby: Arc<Lobby>,
    /// STUN and TURN, where they are served, and what clients are told of them.
    pub reach: Option<Reach>,
    pub grants: Grants,
    pub access: Access,
    pub pages_token: Option<Token>,
    pub tally: Tally,
    /// A client of whom nothing is heard for so long is taken for gone.
    pub idle: Duration,
    pub handshakes_per_s: u32,
    /// Between a connection and its login may lie so long.
    pub login_within: Duration,
    pub drain: Drain,
    pub phase: watch::Sender<Phase>,
    pub started: Instant,
}
