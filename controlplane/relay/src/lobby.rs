//! The hall as all connections share it: behind one lock, with the system's clock and dice, and a bell for each connection that
//! rings when there is something for it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use adit_engine::stun::codec::Key;
use adit_engine::stun::server::Name;
use adit_proto::relay::{LeftReason, PeerKey, RoomName};
use tokio::sync::Notify;

use crate::dice::dice;
use crate::hall::{ConnId, Event, Farewell, Hall, Newcomer, NotLetIn, Settings, Transmit};
use crate::login::{Access, Pass, Refusal};
use crate::names::Names;
use crate::reach::Clients;

/// How long the hall is left alone where it waits for nothing.
const CALM: Duration = Duration::from_secs(60);

/// The hall and its bells.
pub(crate) struct Lobby {
    inner: Mutex<Inner>,
    /// The hall waits for less than before.
    sooner: Notify,
    pub(crate) names: Names,
}

struct Inner {
    hall: Hall,
    bells: HashMap<ConnId, Arc<Bell>>,
}

/// How the hall calls a connection.
#[derive(Default)]
struct Bell {
    /// There is something for it.
    wake: Notify,
    /// It is to end, whatever is being written to it.
    abort: Notify,
}

impl Lobby {
    pub fn new(settings: Settings) -> Lobby {
        let inner = Inner { hall: Hall::new(settings, &mut dice), bells: HashMap::new() };
        Lobby { inner: Mutex::new(inner), sooner: Notify::new(), names: Names::default() }
    }

    /// What is inside is whole at every panic.
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A client is reached by UDP here.
    pub fn udp(&self, conn: ConnId, at: SocketAddr) {
        self.with(|hall| hall.handle_udp(conn, at));
    }

    /// Does something in the hall, and rings for whom it concerns.
    fn with<T>(&self, act: impl FnOnce(&mut Hall) -> T) -> T {
        let mut inner = self.inner();
        let before = inner.hall.poll_timeout();
        let result = act(&mut inner.hall);
        while let Some(event) = inner.hall.poll_event() {
            let (conn, aborts) = match event {
                Event::Wake(conn) => (conn, false),
                Event::Abort(conn) => (conn, true),
            };
            if let Some(bell) = inner.bells.get(&conn) {
                let which = if aborts { &bell.abort } else { &bell.wake };
                which.notify_one();
            }
        }
        let after = inner.hall.poll_timeout();
        if after.is_some_and(|after| before.is_none_or(|before| after < before)) {
            self.sooner.notify_one();
        }
        result
    }

    /// Looks at the hall.
    pub fn look<T>(&self, look: impl FnOnce(&Hall) -> T) -> T {
        look(&self.inner().hall)
    }

    /// Somebody who has proven his key takes a seat.
    ///
    /// # Errors
    /// There is none for him.
    pub fn enter(
        self: &Arc<Self>,
        key: PeerKey,
        rooms: Vec<RoomName>,
        observed: SocketAddr,
        pass: Pass,
    ) -> Result<Seat, Refusal> {
        let bell = Arc::new(Bell::default());
        // What there is for him is there at once, and he looks before he waits.
        let conn = self.with(|hall| hall.connect(Instant::now(), Newcomer { key, rooms, observed, pass }, &mut dice));
        let conn = conn.map_err(|not| match not {
            NotLetIn::Full => Refusal::Full,
            NotLetIn::Replaced => Refusal::ReplacedWait,
            NotLetIn::Draining => Refusal::Draining,
            NotLetIn::InUse => Refusal::InUse,
        })?;
        self.inner().bells.insert(conn, bell.clone());
        let stun = self.look(|hall| hall.stun_key_of(conn)).map(|key| self.names.add(conn, &key));
        Ok(Seat { lobby: self.clone(), conn, bell, key, stun })
    }

    /// All clients are told to go. How many there were.
    pub fn drain(&self, farewell: &Farewell) -> usize {
        self.with(|hall| {
            let clients = hall.gauges().clients;
            hall.drain(Instant::now(), farewell, &mut dice);
            clients
        })
    }

    /// Who may be where has changed. The clients that have to go.
    pub fn review(&self, access: &Access) -> Vec<(PeerKey, Vec<RoomName>)> {
        self.with(|hall| hall.review(Instant::now(), |key, rooms, pass| access.review(key, rooms, pass)))
    }

    /// How long the hall can be left alone.
    pub fn pause(&self) -> Duration {
        let next = self.inner().hall.poll_timeout();
        next.map_or(CALM, |next| next.saturating_duration_since(Instant::now()))
    }

    /// Waits until it can be left alone for less than it was said.
    pub async fn sooner(&self) {
        self.sooner.notified().await;
    }

    pub fn tick(&self) {
        self.with(|hall| hall.handle_timeout(Instant::now()));
    }
}

/// A place in the hall; left when it is dropped.
pub(crate) struct Seat {
    lobby: Arc<Lobby>,
    conn: ConnId,
    bell: Arc<Bell>,
    /// Whose it is, and under which name he asks by STUN.
    pub(crate) key: PeerKey,
    stun: Option<Name>,
}

impl Seat {
    /// One message has come.
    pub fn message(&self, bytes: &[u8]) {
        self.lobby.with(|hall| hall.handle_message(Instant::now(), self.conn, bytes, &mut dice));
    }

    /// Something else has come: the client lives.
    pub fn heard(&self) {
        self.lobby.with(|hall| hall.handle_heard(Instant::now(), self.conn));
    }

    /// So long takes an answer.
    pub fn rtt(&self, rtt: Duration) {
        self.lobby.with(|hall| hall.handle_rtt(self.conn, rtt));
    }

    /// What is to be done next.
    pub fn next(&self) -> Transmit {
        self.lobby.with(|hall| hall.poll_transmit(Instant::now(), self.conn))
    }

    /// Waits until there is something to be done.
    pub async fn bell(&self) {
        self.bell.wake.notified().await;
    }

    /// Waits until the connection is to end at once; gives the reason.
    pub async fn aborted(&self) -> LeftReason {
        self.bell.abort.notified().await;
        loop {
            match self.next() {
                // It would not be read.
                Transmit::Record(_) => {}
                Transmit::Wait => return LeftReason::GONE,
                Transmit::Close(reason) => return reason,
            }
        }
    }

    /// Gives the place up for this reason.
    pub fn leave(self, reason: LeftReason) {
        self.lobby.with(|hall| hall.disconnect(Instant::now(), self.conn, reason));
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        // Nothing, where it was left for a reason.
        self.lobby.with(|hall| hall.disconnect(Instant::now(), self.conn, LeftReason::GONE));
        self.lobby.inner().bells.remove(&self.conn);
        self.stun.iter().for_each(|name| self.lobby.names.remove(name));
    }
}

impl Clients for Lobby {
    fn key(&self, name: &Name) -> Option<Key> {
        self.names.key(name)
    }

    fn is_at(&self, name: &Name, at: SocketAddr) {
        if let Some(conn) = self.names.moved(name, at) {
            self.udp(conn, at);
        }
    }
}
