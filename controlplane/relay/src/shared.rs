//! What all connections of a relay share.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use crate::config::{Drain, Reaching};
use crate::entrance::Entrance;
use crate::grants::Grants;
use crate::hall::Settings;
use crate::lobby::Lobby;
use crate::login::{Access, Token};
use crate::quotas::DoorSettings;
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

/// What may change while the relay runs.
pub(crate) struct Live {
    pub tls: TlsAcceptor,
    pub access: Access,
    pub pages_token: Option<Token>,
    pub drain: Drain,
}

/// What changes with the next start.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Fixed {
    pub listen: Vec<SocketAddr>,
    pub pages_listen: Option<SocketAddr>,
    pub door: DoorSettings,
    pub strangers: usize,
    /// Between a connection and its login may lie so long.
    pub login_within: Duration,
    pub hall: Settings,
    pub reach: Option<Reaching>,
}

impl Fixed {
    /// What `limits` of the file says.
    pub fn limits(&self) -> impl PartialEq {
        let hall = Settings { idle: Duration::ZERO, ..self.hall };
        (self.door, self.strangers, self.login_within, hall)
    }

    /// What `stun` of it says, and what `turn`.
    pub fn stun_and_turn(&self) -> (Option<impl PartialEq>, Option<impl PartialEq>) {
        let reach = self.reach.as_ref();
        (reach.map(Reaching::stun), reach.and_then(|reach| reach.turn.as_ref()))
    }
}

/// All of it.
pub(crate) struct Shared {
    pub entrance: Arc<Entrance>,
    pub lobby: Arc<Lobby>,
    /// STUN and TURN, where they are served, and what clients are told of them.
    pub reach: Option<Reach>,
    pub grants: Grants,
    pub live: RwLock<Live>,
    pub fixed: Fixed,
    pub tally: Tally,
    pub phase: watch::Sender<Phase>,
    pub started: Instant,
}

impl Shared {
    /// What holds now. Not to be kept over a wait.
    pub fn live(&self) -> RwLockReadGuard<'_, Live> {
        // It is put there whole.
        self.live.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells in the log why somebody from there was not let in, where it has room for that.
    pub fn tell(&self, from: SocketAddr, why: fmt::Arguments<'_>) {
        match self.tally.may_tell(Instant::now(), from.ip()) {
            None => tracing::debug!("{from}: {why}"),
            Some(0) => tracing::info!("{from}: {why}"),
            Some(unreported) => tracing::info!("{from}: {why} (and {unreported} before, of whom nothing was said)"),
        }
    }
}
