//! All that a client knows of its relays and the peers there, and what it decides by that. Pure: the shell hands over what came and when,
//! sends what [`State::poll_transmit`] gives, and does the rest at [`State::poll_timeout`] and [`State::poll_connect`].

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use adit_engine::random::Random;
use adit_engine::shown::Shown;
use adit_proto::relay::{EncodeError, FromRelay, HostPort, PeerKey, ToRelay, Train};
use hyper::body::Bytes;

use super::events::{Event, Introduction, TurnGrant, TurnPassword, Undelivered};
use super::failure::{Cause, Failure};
use super::home::{Home, RoundTrips};
use super::liveness::Liveness;
use super::open::Welcome;
use super::plan::{Attempt, Phase, Plan};
use super::presence::{Presence, Seen, reached_by};
use crate::queue::{Bounds, Dropped, Popped, Queue, Source};
use crate::quotas::Network;

/// Why something was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unsent {
    #[error("the client is registered at no relay")]
    NotRegistered,
    #[error("{0}")]
    TooLong(EncodeError),
    #[error("the connection to the relay takes nothing any more")]
    Stuck,
}

/// What is counted of one relay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub registrations: u64,
    pub failures: u64,
    /// Trains that waited too long for the socket, or for which there was no room.
    pub unsent: Dropped,
    /// Trains that waited when a registration ended.
    pub lost: u64,
    /// Trains that the user did not read in time.
    pub undelivered: u64,
    /// Messages of IKE above what one sender may send.
    pub flooded: u64,
    /// Records of types that are not known here.
    pub unknown: u64,
    /// Records that say nothing at this moment: an answer to no question, a second welcome, one more word that it is about to stop.
    pub unexpected: u64,
    /// Peers that were not remembered, since the relay told of too many.
    pub unremembered: u64,
}

impl Counters {
    /// Each by its name.
    pub fn by_name(&self) -> [(&'static str, u64); 12] {
        let Counters { registrations, failures, unsent, lost, undelivered, flooded, unknown, unexpected, unremembered } = *self;
        let Dropped { ike_late, ike_full, data_late, data_full } = unsent;
        [
            ("registrations", registrations),
            ("failures", failures),
            ("ike_late", ike_late),
            ("ike_full", ike_full),
            ("data_late", data_late),
            ("data_full", data_full),
            ("lost", lost),
            ("undelivered", undelivered),
            ("flooded", flooded),
            ("unknown", unknown),
            ("unexpected", unexpected),
            ("unremembered", unremembered),
        ]
    }
}

/// What a relay does now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Two others are used.
    Spare,
    /// It is tried again in so much time.
    Waiting(Duration),
    Connecting,
    Registered,
    /// Registered, and the last question is not answered.
    Late,
}

/// How it is with one relay.
#[derive(Clone, Debug)]
pub struct RelayStatus {
    pub at: HostPort,
    pub standing: Standing,
    /// For how long.
    pub since: Duration,
    pub is_home: bool,
    /// The address by which it was reached, and what it said, while registered.
    pub place: Option<String>,
    pub welcome: Option<Welcome>,
    /// Peers that it sees, each once for each room.
    pub peers: usize,
    /// The last round trip, and the median of a minute.
    pub rtt: Option<Duration>,
    pub median: Option<Duration>,
    /// What went wrong last, and how long ago.
    pub last_failure: Option<(Duration, Failure)>,
    pub counters: Counters,
}

/// A relay with which there is a connection.
struct Session {
    place: String,
    welcome: Welcome,
    liveness: Liveness,
    queue: Queue,
    /// The relay is about to stop: when it is left.
    leave_at: Option<Instant>,
}

struct Relay {
    at: HostPort,
    since: Instant,
    session: Option<Session>,
    trips: RoundTrips,
    last_failure: Option<(Instant, Failure)>,
    counters: Counters,
}

/// What is known.
pub(super) struct State {
    plan: Plan,
    home: Home,
    presence: Presence,
    relays: Vec<Relay>,
    metadata: Vec<u8>,
    events: VecDeque<Event>,
}

impl State {
    pub(super) fn new(now: Instant, relays: Vec<HostPort>, metadata: Vec<u8>) -> State {
        let plan = Plan::new(now, relays.len());
        let relay = |at| Relay {
            at,
            since: now,
            session: None,
            trips: RoundTrips::default(),
            last_failure: None,
            counters: Counters::default(),
        };
        State {
            plan,
            home: Home::default(),
            presence: Presence::default(),
            relays: relays.into_iter().map(relay).collect(),
            metadata,
            events: VecDeque::new(),
        }
    }

    /// The next attempt that is due.
    pub(super) fn poll_connect(&mut self, now: Instant) -> Option<Attempt> {
        let attempt = self.plan.poll_connect(now)?;
        self.relays[attempt.relay].since = now;
        Some(attempt)
    }

    /// When the next attempt is due.
    pub(super) fn poll_connect_timeout(&self) -> Option<Instant> {
        self.plan.poll_timeout()
    }

    pub(super) fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    pub(super) fn handle_registered(&mut self, now: Instant, index: usize, place: String, welcome: Welcome) {
        self.plan.handle_registered(now, index);
        let relay = &mut self.relays[index];
        relay.since = now;
        relay.counters.registrations += 1;
        let session = Session {
            place,
            welcome: welcome.clone(),
            liveness: Liveness::new(now),
            queue: Queue::new(Bounds::default()),
            leave_at: None,
        };
        let session = relay.session.insert(session);
        self.events.push_back(Event::Registered { relay: index, welcome });
        if let Some(record) = description(&self.metadata) {
            // There is room: it is the first.
            let _ = session.queue.push_answer(now, record);
        }
        self.choose_home(now);
    }

    /// An attempt came to nothing, or a registration has ended.
    pub(super) fn handle_end(&mut self, now: Instant, index: usize, failure: Failure, random: &mut dyn Random) {
        self.plan.handle_end(now, index, failure.cause.end(), random);
        let relay = &mut self.relays[index];
        relay.since = now;
        relay.counters.failures += 1;
        relay.last_failure = Some((now, failure.clone()));
        if let Some(mut session) = relay.session.take() {
            relay.counters.lost += session.queue.clear();
        }
        relay.trips = RoundTrips::default();
        self.events.push_back(Event::Failed { relay: index, failure });
        let gone = self.presence.handle_lost(index);
        self.events.extend(gone.into_iter().map(|(peer, room)| Event::Left { room, peer, reason: None }));
        self.choose_home(now);
    }

    /// Something came from a relay. Gives the train that is to be handed to the user, or why the connection ends.
    pub(super) fn handle_record<'a>(
        &mut self,
        now: Instant,
        index: usize,
        bytes: &'a [u8],
    ) -> Result<Option<(PeerKey, Train<'a>)>, Cause> {
        let relay = &mut self.relays[index];
        let Some(session) = &mut relay.session else { return Ok(None) };
        session.liveness.handle_received();
        let record =
            FromRelay::decode(bytes).map_err(|error| Cause::Misbehaved(Shown::of(format_args!("what is no record: {error}"))))?;
        match record {
            None => relay.counters.unknown += 1,
            Some(FromRelay::Welcome { .. }) => relay.counters.unexpected += 1,
            Some(FromRelay::Deliver { from, train }) => return Ok(Some((from, train))),
            Some(FromRelay::Replaced { wait_s }) => return Err(Cause::Replaced(Duration::from_secs(wait_s.into()))),
            Some(FromRelay::Pong { id }) => match session.liveness.handle_pong(now, id) {
                Some(rtt) => {
                    relay.trips.push(now, rtt);
                    self.choose_home(now);
                }
                None => relay.counters.unexpected += 1,
            },
            // It has said so, and when it is left stays as it is: who says it again and again would fill the log and stay for ever.
            Some(FromRelay::Drain { .. }) if session.leave_at.is_some() => relay.counters.unexpected += 1,
            Some(FromRelay::Drain { come_back_in_ms, try_for_ms, to }) => {
                let times = (Duration::from_millis(come_back_in_ms.into()), Duration::from_millis(try_for_ms.into()));
                let leave_at = self.plan.handle_drain(now, index, times, to);
                session.leave_at = Some(leave_at);
                self.events.push_back(Event::Draining { relay: index, leaving_in: leave_at.saturating_duration_since(now) });
            }
            Some(record) => self.handle_news(index, record),
        }
        Ok(None)
    }

    /// What concerns peers, and what the relay lends.
    fn handle_news(&mut self, relay: usize, record: FromRelay) {
        let event = match record {
            FromRelay::Joined { room, peer, metadata } => {
                let seen = self.presence.handle_joined(relay, room.clone(), peer);
                self.relays[relay].counters.unremembered += u64::from(seen == Seen::TooMany);
                (seen == Seen::First).then(|| Event::Joined { room, peer, metadata: Bytes::copy_from_slice(metadata) })
            }
            FromRelay::Left { room, peer, reason } => {
                let is_gone = self.presence.handle_left(relay, &room, peer);
                is_gone.then_some(Event::Left { room, peer, reason: Some(reason) })
            }
            FromRelay::Described { room, peer, metadata } => {
                let is_known = self.presence.is_seen_in(peer, &room);
                is_known.then(|| Event::Described { room, peer, metadata: Bytes::copy_from_slice(metadata) })
            }
            FromRelay::Introduction { peer, udp, tcp, id, start_in_ms } => {
                let start_in = Duration::from_millis(start_in_ms.into());
                Some(Event::Introduced { relay, introduction: Introduction { peer, udp, tcp, id, start_in } })
            }
            FromRelay::Absent { peer, last_seen_s } => {
                let last_seen = last_seen_s.map(|seconds| Duration::from_secs(seconds.into()));
                Some(Event::Absent { relay, peer, last_seen })
            }
            FromRelay::PeerDirect { peer, on } => Some(Event::PeerDirect { peer, on }),
            FromRelay::Stun { servers } => Some(Event::Stun { relay, servers }),
            FromRelay::Turn { name, realm, password, life_s, servers } => {
                let (name, realm, password) = (name.to_owned(), realm.to_owned(), TurnPassword::new(password.0));
                let life = Duration::from_secs(life_s.into());
                Some(Event::Turn { relay, grant: TurnGrant { name, realm, password, life, servers } })
            }
            FromRelay::Refused { what, wait_ms } => {
                Some(Event::Throttled { relay, what, wait: Duration::from_millis(wait_ms.into()) })
            }
            _ => {
                self.relays[relay].counters.unexpected += 1;
                None
            }
        };
        self.events.extend(event);
    }

    /// A train was not given to the user.
    pub(super) fn handle_undelivered(&mut self, relay: usize, why: Undelivered) {
        let counters = &mut self.relays[relay].counters;
        match why {
            Undelivered::NotRead => counters.undelivered += 1,
            Undelivered::Flood => counters.flooded += 1,
        }
    }

    /// Sends a train to a peer. Says by which relay.
    pub(super) fn send(&mut self, now: Instant, to: PeerKey, train: Train) -> Result<usize, Unsent> {
        let index = self.reach(now, to).ok_or(Unsent::NotRegistered)?;
        let record = ToRelay::Send { to, train }.encode().map_err(Unsent::TooLong)?;
        let relay = &mut self.relays[index];
        if let Some(session) = &mut relay.session {
            relay.counters.unsent += session.queue.push_train(now, train.kind, line_of(to), record);
            session.liveness.handle_sent();
        }
        Ok(index)
    }

    /// Says something about a peer to the relay by which it is reached. Says to which.
    pub(super) fn tell(&mut self, now: Instant, peer: PeerKey, record: &ToRelay) -> Result<usize, Unsent> {
        let index = self.reach(now, peer).ok_or(Unsent::NotRegistered)?;
        let record = record.encode().map_err(Unsent::TooLong)?;
        if let Some(session) = &mut self.relays[index].session {
            session.queue.push_answer(now, record).map_err(|_| Unsent::Stuck)?;
        }
        Ok(index)
    }

    /// What the peers are to know of this client, at all relays and from now on.
    pub(super) fn describe(&mut self, now: Instant, metadata: Vec<u8>) -> Result<(), Unsent> {
        let record = ToRelay::Describe { metadata: &metadata }.encode().map_err(Unsent::TooLong)?;
        for session in self.relays.iter_mut().filter_map(|relay| relay.session.as_mut()) {
            // Where there is no room the connection is about to be given up, and the next one begins with it.
            let _ = session.queue.push_answer(now, record.clone());
        }
        self.metadata = metadata;
        Ok(())
    }

    /// The next record for a relay.
    pub(super) fn poll_transmit(&mut self, now: Instant, relay: usize) -> Option<Vec<u8>> {
        let relay = &mut self.relays[relay];
        let (popped, dropped) = relay.session.as_mut()?.queue.pop(now);
        relay.counters.unsent += dropped;
        match popped? {
            Popped::Answer(record) | Popped::Train(record) => Some(record),
            // Nobody here has any.
            Popped::News(_) => None,
        }
    }

    /// What is due at a connection: a ping that goes into its queue, or why it ends.
    pub(super) fn handle_timeout(&mut self, now: Instant, relay: usize) -> Result<(), Cause> {
        let Some(session) = &mut self.relays[relay].session else { return Ok(()) };
        if session.liveness.is_lost(now) {
            return Err(Cause::Silent);
        }
        if session.leave_at.is_some_and(|leave_at| leave_at <= now) {
            return Err(Cause::Stopping);
        }
        if let Some(id) = session.liveness.poll_ping(now)
            && let Ok(record) = (ToRelay::Ping { id }).encode()
        {
            // Without room for it, the silence that follows ends the connection.
            let _ = session.queue.push_answer(now, record);
        }
        Ok(())
    }

    /// When something is due at a connection.
    pub(super) fn poll_timeout(&self, now: Instant, relay: usize) -> Option<Instant> {
        let session = self.relays[relay].session.as_ref()?;
        Some(session.leave_at.into_iter().fold(session.liveness.poll_timeout(now), Instant::min))
    }

    /// The relay by which a peer is reached.
    pub(super) fn reach(&self, now: Instant, peer: PeerKey) -> Option<usize> {
        let place = |index: &usize| {
            let trips = &self.relays[*index].trips;
            (self.home.relay() != Some(*index), trips.median(now).unwrap_or(Duration::MAX), *index)
        };
        let mut registered: Vec<usize> = (0..self.relays.len()).filter(|index| self.relays[*index].session.is_some()).collect();
        registered.sort_by_key(place);
        let is_late = |index: usize| self.relays[index].session.as_ref().is_some_and(|session| session.liveness.is_suspect(now));
        let order: Vec<(usize, bool)> = registered.into_iter().map(|index| (index, is_late(index))).collect();
        reached_by(&self.presence.relays_of(peer), &order)
    }

    pub(super) fn status(&self, now: Instant) -> Vec<RelayStatus> {
        (0..self.relays.len()).map(|index| self.status_of(now, index)).collect()
    }

    fn status_of(&self, now: Instant, index: usize) -> RelayStatus {
        let relay = &self.relays[index];
        let session = relay.session.as_ref();
        let is_late = session.is_some_and(|session| session.liveness.is_suspect(now));
        RelayStatus {
            at: relay.at.clone(),
            standing: match self.plan.phase(index) {
                Phase::Spare { .. } => Standing::Spare,
                Phase::Waiting { until } => Standing::Waiting(until.saturating_duration_since(now)),
                Phase::Connecting => Standing::Connecting,
                Phase::Registered { .. } => {
                    if is_late {
                        Standing::Late
                    } else {
                        Standing::Registered
                    }
                }
            },
            since: now.saturating_duration_since(relay.since),
            is_home: self.home.relay() == Some(index),
            place: session.map(|session| session.place.clone()),
            welcome: session.map(|session| session.welcome.clone()),
            peers: self.presence.sightings_of(index),
            rtt: session.and_then(|session| session.liveness.rtt()),
            median: relay.trips.median(now),
            last_failure: relay.last_failure.as_ref().map(|(at, failure)| (now.saturating_duration_since(*at), failure.clone())),
            counters: relay.counters,
        }
    }

    fn choose_home(&mut self, now: Instant) {
        let registered = self.relays.iter().enumerate().filter(|(_, relay)| relay.session.is_some());
        let registered: Vec<(usize, &RoundTrips)> = registered.map(|(index, relay)| (index, &relay.trips)).collect();
        if self.home.choose(now, &registered) {
            self.events.push_back(Event::Home { relay: self.home.relay() });
        }
    }
}

/// What others are to know, where there is anything.
fn description(metadata: &[u8]) -> Option<Vec<u8>> {
    if metadata.is_empty() { None } else { ToRelay::Describe { metadata }.encode().ok() }
}

/// Trains to one peer wait in a line of their own, and none has more of the way than another.
fn line_of(peer: PeerKey) -> Source {
    let conn = peer.0.first_chunk().map_or(0, |first| u64::from_be_bytes(*first));
    Source { network: Network::of(Ipv4Addr::UNSPECIFIED.into()), conn }
}

#[cfg(test)]
mod tests;
