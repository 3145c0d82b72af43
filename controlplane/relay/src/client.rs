//! A client of relays: registers at up to two at a time, says who is in its rooms, passes trains to them, and comes back whatever happens
//! to a relay, without disturbing the other.
//!
//! 1. `plan` says when which relay is tried, `open` goes there step by step (`dial`, `proxy`, TLS, login), `connection` keeps what was
//!    opened.
//! 2. What comes goes through `state`, which knows who is where (`presence`), how far each relay is (`liveness`, `home`), and out as
//!    [`Event`]s.
//! 3. [`Handle`] sends by the relay that sees the peer, the home relay first. IKE passes data; data that waits too long is dropped.
//!
//! Whatever fails is told as a [`Failure`]: place, cause and remedy.

mod connection;
mod dial;
mod events;
mod failure;
mod home;
mod http;
mod liveness;
mod open;
mod plan;
mod presence;
mod proxy;
mod state;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use adit_proto::limits::RELAY_METADATA_LEN_MAX;
use adit_proto::relay::{HostPort, PeerKey, RoomName, ToRelay, Train};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::sleep_until;

pub use events::{Delivery, Event, Events, Introduction, TurnGrant, TurnPassword};
pub use failure::{Cause, Failure, Step};
pub use open::Welcome;
pub use proxy::{NoProxyName, Proxy, ProxyChoice};
pub use state::{Counters, RelayStatus, Standing, Unsent};

use crate::key::ClientKey;
use crate::limits::RELAYS_OF_CLIENT_MAX;
use crate::login::Token;
use crate::tls::{self, Trust};
use open::{Out, Target};
use state::State;

/// When nothing is due, the keeper looks again after so long.
const LOOK: Duration = Duration::from_secs(60);

/// A relay at which a client registers.
#[derive(Clone, Debug)]
pub struct Relay {
    pub at: HostPort,
    pub trust: Trust,
    /// The rooms there, at least one.
    pub rooms: Vec<RoomName>,
    pub token: Option<Token>,
    /// Ask whether we would be let in, and take nobody's place who has the same key.
    pub is_probe: bool,
}

/// What a client is made of.
#[derive(Debug)]
pub struct Config {
    /// In the order of preference where nothing is known.
    pub relays: Vec<Relay>,
    pub key: ClientKey,
    /// What the peers are to know; nobody verifies it.
    pub metadata: Vec<u8>,
    pub proxy: ProxyChoice,
    /// Mark of what leaves (SO_MARK), by which rules of the kernel know it; only who may administer the network can give one, and others
    /// go without.
    pub mark: Option<u32>,
}

/// Why a client cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("a client has 1 to {RELAYS_OF_CLIENT_MAX} relays, and {0} are configured")]
    Relays(usize),
    #[error("{0}: a client is in at least one room; name one of those that the relay has")]
    NoRoom(HostPort),
    #[error("what the peers are to know has {0} bytes, and {RELAY_METADATA_LEN_MAX} are the most")]
    Metadata(usize),
    #[error("{0}: {1}; give one or two pins (adit relay init prints one), or a CA")]
    Trust(HostPort, rustls::Error),
}

/// What all tasks of a client share.
struct Shared {
    targets: Vec<Target>,
    key: ClientKey,
    out: Out,
    state: Mutex<State>,
    events: events::Sender,
    /// Of each relay: there is something to be written, and something that changes when to ask whether it lives.
    has_work: Vec<Notify>,
    has_changed: Vec<Notify>,
    stop: Notify,
}

/// Ends the client when the last handle goes.
struct Guard(Arc<Shared>);

/// By which a client is used. It ends when the last of its handles is dropped, or its events.
#[derive(Clone)]
pub struct Handle(Arc<Guard>);

/// A client of relays.
#[derive(Debug)]
pub struct Client;

impl Client {
    /// Starts a client on the runtime that this is called on.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn start(config: Config) -> Result<(Handle, Events), StartError> {
        let Config { relays, key, metadata, proxy, mark } = config;
        if !(1..=RELAYS_OF_CLIENT_MAX).contains(&relays.len()) {
            return Err(StartError::Relays(relays.len()));
        }
        if metadata.len() > RELAY_METADATA_LEN_MAX {
            return Err(StartError::Metadata(metadata.len()));
        }
        let names: Vec<HostPort> = relays.iter().map(|relay| relay.at.clone()).collect();
        let targets = relays.into_iter().map(target).collect::<Result<Vec<_>, _>>()?;
        let (sender, events) = events::channel();
        let notifies = || -> Vec<Notify> { targets.iter().map(|_| Notify::new()).collect() };
        let (has_work, has_changed) = (notifies(), notifies());
        let state = Mutex::new(State::new(Instant::now(), names, metadata));
        let shared = Arc::new(Shared {
            targets,
            key,
            out: Out { proxy, mark },
            state,
            events: sender,
            has_work,
            has_changed,
            stop: Notify::new(),
        });
        tokio::spawn(keep(shared.clone()));
        Ok((Handle(Arc::new(Guard(shared))), events))
    }
}

fn target(relay: Relay) -> Result<Target, StartError> {
    let Relay { at, trust, rooms, token, is_probe } = relay;
    if rooms.is_empty() {
        return Err(StartError::NoRoom(at));
    }
    let pins = if let Trust::Pins(pins) = &trust { pins.clone() } else { Vec::new() };
    let tls = tls::client(trust).map_err(|error| StartError::Trust(at.clone(), error))?;
    Ok(Target { at, tls, pins, rooms, token, is_probe })
}

/// Begins the attempts that are due, until nobody has a use for the client any more. Their tasks end with this one.
async fn keep(shared: Arc<Shared>) {
    let mut attempts = JoinSet::new();
    loop {
        let now = Instant::now();
        let (due, next) = shared.with(|state| {
            let due: Vec<_> = std::iter::from_fn(|| state.poll_connect(now)).collect();
            (due, state.poll_connect_timeout())
        });
        for attempt in due {
            attempts.spawn(connection::run(shared.clone(), attempt));
        }
        tokio::select! {
            () = shared.stop.notified() => return,
            () = shared.events.closed() => return,
            Some(_) = attempts.join_next() => {}
            () = sleep_until(next.unwrap_or(now + LOOK).into()) => {}
        }
    }
}

impl Shared {
    /// Does something with the state; what it has to tell is told in its order.
    fn with<T>(&self, action: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let result = action(&mut state);
        while let Some(event) = state.poll_event() {
            self.events.send(event);
        }
        result
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.stop.notify_one();
    }
}

impl Handle {
    /// Sends a train to a peer, by the relay that sees it. Nothing is known of its arrival; whom no relay sees is told as
    /// [`Event::Absent`].
    ///
    /// # Errors
    /// See [`Unsent`].
    pub fn send(&self, to: PeerKey, train: Train) -> Result<(), Unsent> {
        self.ask(|state, now| state.send(now, to, train))
    }

    /// Asks for an introduction, which both get as [`Event::Introduced`].
    ///
    /// # Errors
    /// See [`Unsent`].
    pub fn meet(&self, peer: PeerKey) -> Result<(), Unsent> {
        self.ask(|state, now| state.tell(now, peer, &ToRelay::Meet { peer }))
    }

    /// Tells a peer that its data goes by a direct path now, or comes back to the relay.
    ///
    /// # Errors
    /// See [`Unsent`].
    pub fn direct(&self, peer: PeerKey, on: bool) -> Result<(), Unsent> {
        self.ask(|state, now| state.tell(now, peer, &ToRelay::Direct { peer, on }))
    }

    /// What the peers are to know from now on, at each relay.
    ///
    /// # Errors
    /// See [`Unsent`].
    pub fn describe(&self, metadata: &[u8]) -> Result<(), Unsent> {
        self.0.0.with(|state| state.describe(Instant::now(), metadata.to_vec()))?;
        self.0.0.has_work.iter().for_each(Notify::notify_one);
        Ok(())
    }

    /// How it is with each relay, in the order of the configuration.
    pub fn status(&self) -> Vec<RelayStatus> {
        self.0.0.with(|state| state.status(Instant::now()))
    }

    /// By which the peers know this client.
    pub fn key(&self) -> PeerKey {
        self.0.0.key.public()
    }

    fn ask(&self, action: impl FnOnce(&mut State, Instant) -> Result<usize, Unsent>) -> Result<(), Unsent> {
        let shared = &self.0.0;
        let relay = shared.with(|state| action(state, Instant::now()))?;
        shared.has_work[relay].notify_one();
        shared.has_changed[relay].notify_one();
        Ok(())
    }
}
