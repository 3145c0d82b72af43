//! Streams: the ways to peers over the relay. A client is registered there as long as the configuration names one; whoever is seen and says
//! that it is one of our peers is looked for in a stream, and IKE finds out whether it is. IKE goes straight between engine and relay,
//! sealed trains go between the rings of the workers and the relay, untouched.

mod table;

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use adit_channel::Master;
use adit_engine::identity::Identity;
use adit_proto::control::{StreamId, TrainHeader};
use adit_proto::esp::{self, Header};
use adit_proto::relay::{Kind, PeerKey, Train};
use adit_relay::client::{self, Client, Delivery, Event, Events, Handle, ProxyChoice, Standing};
use adit_relay::key::ClientKey;
use adit_relay::login::Token;
use adit_relay::tls::Trust;
use anyhow::Context;

use super::Gateway;
use crate::config::{Config, Relay, RelayTrust};
use crate::desired::{Desired, Digest};
use crate::key_file::{self, Readers};
use crate::limits::TRAINS_AT_ONCE_MAX;
use crate::{routing_rules, schema};
use table::Table;

/// A client that could not be started, since a file is not as it should be, is tried again after so long.
const AGAIN: Duration = Duration::from_secs(10);

/// What a client is started with.
#[derive(Clone, Debug, PartialEq)]
struct Wanted {
    relay: Relay,
    identity: Identity,
    /// What is in the files of token and CA, which are renewed under their names.
    files: [Option<Digest>; 2],
}

impl Wanted {
    fn of(desired: &Desired) -> Option<Wanted> {
        let relay = desired.config.relay.clone()?;
        let content = |file: &Path| desired.source.as_ref()?.content_of(file);
        let ca = if let RelayTrust::Ca(file) = &relay.trust { Some(file.as_path()) } else { None };
        let files = [relay.token_file.as_deref(), ca].map(|file| file.and_then(content));
        Some(Wanted { relay, identity: desired.config.ike.id.clone(), files })
    }
}

/// What did not go on, for people.
#[derive(Debug, Default)]
pub struct StreamCounters {
    /// Messages and trains for a stream whose end no relay sees, or that the client did not take.
    pub unsent: AtomicU64,
    /// What came from somebody who is not seen, or was no ESP where that was said.
    pub refused: AtomicU64,
    /// Trains for which a worker had no room.
    pub full: AtomicU64,
}

/// The client of the relay, and what is known by it.
#[derive(Default)]
pub(super) struct Streams {
    wanted: Option<Wanted>,
    client: Option<(Handle, Events)>,
    try_at: Option<Instant>,
    table: Table,
    /// Whether there is a registration, and since when that is so, however many attempts came to nothing since.
    registered: Option<(bool, Instant)>,
    /// What was said in the log of why there is no registration.
    said: Option<String>,
    /// Whose turn it is among the workers.
    turn: u16,
    pub counters: StreamCounters,
}

impl Streams {
    /// As the configuration wants it. True when another client than before is there, or none: nobody is seen then.
    pub(super) fn keep(&mut self, desired: &Desired) -> bool {
        let wanted = Wanted::of(desired);
        let is_other = self.wanted != wanted;
        let is_due = self.try_at.is_some_and(|at| at <= Instant::now());
        if !is_other && !is_due {
            return false;
        }
        (self.client, self.try_at) = (None, None);
        if is_other {
            // What the relay before this one had against us says nothing of this one.
            self.said = None;
        }
        self.is_registered(false);
        self.table = Table::default();
        self.wanted = wanted;
        let Some(wanted) = &self.wanted else { return is_other };
        match start(wanted, &desired.config) {
            Ok((client, table)) => (self.client, self.table) = (Some(client), table),
            Err(error) => {
                self.try_at = Some(Instant::now() + AGAIN);
                self.complain(format!("the relay cannot be used: {error:#}"));
            }
        }
        true
    }

    fn is_registered(&mut self, registered: bool) {
        if self.registered.is_none_or(|(before, _)| before != registered) {
            self.registered = Some((registered, Instant::now()));
        }
    }

    /// Why there is no registration, if there is none.
    pub(super) fn out_of_relay(&self) -> Option<String> {
        let relay = self.report().filter(|relay| !relay.registered)?;
        let why = relay.failure.unwrap_or_else(|| "it has not answered yet".to_owned());
        Some(format!("this gateway is not registered at {}: {why}", relay.url))
    }

    /// The next thing that the client has to say; never without one.
    pub(super) async fn next(&mut self) -> Event {
        if let Some((_, events)) = &mut self.client
            && let Some(event) = events.next().await
        {
            return event;
        }
        std::future::pending().await
    }

    /// What it has to say beside that, if something waits.
    fn waiting(&mut self) -> Option<Event> {
        self.client.as_mut().and_then(|(_, events)| events.waiting())
    }

    /// Says once what is wrong.
    fn complain(&mut self, line: String) {
        if self.said.as_ref() != Some(&line) {
            tracing::warn!("{line}");
            self.said = Some(line);
        }
    }

    fn send(&self, stream: StreamId, train: Train<'_>) {
        let sent =
            self.client.as_ref().zip(self.table.key_of(stream)).is_some_and(|((handle, _), key)| handle.send(key, train).is_ok());
        if !sent {
            self.counters.unsent.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Sends a message of IKE. What does not arrive, IKE sends again.
    pub(super) fn send_ike(&self, stream: StreamId, message: &[u8]) {
        self.send(stream, Train { kind: Kind::Ike, class: 0, segment: 0, payload: message });
    }

    /// Sends what the workers have for streams, as much as one go takes. True when there may be more.
    pub(super) fn pump(&mut self, master: &mut Master) -> bool {
        let mut train = Vec::new();
        for _ in 0..TRAINS_AT_ONCE_MAX {
            let Some((worker, TrainHeader { stream, class, segment })) = master.poll_train(self.turn, &mut train) else {
                return false;
            };
            self.turn = worker.wrapping_add(1);
            let segment = if train.len() > segment.into() { segment } else { 0 };
            self.send(stream, Train { kind: Kind::Esp, class, segment, payload: &train });
        }
        true
    }

    /// A train came from somebody: to the worker to which its first packet belongs.
    fn take_train(&self, master: &mut Master, stream: StreamId, delivery: &Delivery) {
        let Some(first) = Header::parse(&delivery.payload) else {
            self.counters.refused.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let whole = u16::try_from(delivery.payload.len()).unwrap_or(u16::MAX);
        let segment = if delivery.segment == 0 { whole } else { delivery.segment };
        let worker = esp::worker_of(first.spi, master.workers().into()) as u16;
        let header = TrainHeader { stream, class: delivery.class, segment };
        if master.send_train(worker, header, &delivery.payload).is_err() {
            self.counters.full.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How it is with the relay, for people.
    pub(super) fn report(&self) -> Option<schema::Relay> {
        let wanted = self.wanted.as_ref()?;
        let status = self.client.as_ref().and_then(|(handle, _)| handle.status().into_iter().next());
        let registered = status.as_ref().is_some_and(|status| matches!(status.standing, Standing::Registered | Standing::Late));
        let counters = status.as_ref().map(|status| status.counters).unwrap_or_default().by_name();
        let own = [("full", self.counters.full.load(Ordering::Relaxed)), ("unseen", self.table.unseen())];
        let failure = status.as_ref().and_then(|status| status.last_failure.as_ref()).map(|(_, failure)| failure.to_string());
        Some(schema::Relay {
            url: format!("wss://{}", wanted.relay.at),
            rooms: wanted.relay.rooms.iter().map(ToString::to_string).collect(),
            key: self.client.as_ref().map(|(handle, _)| handle.key().to_string()),
            registered,
            since_s: self.registered.map(|(_, since)| since.elapsed().as_secs()).unwrap_or_default(),
            observed: status.as_ref().and_then(|status| status.welcome.as_ref()).map(|welcome| welcome.observed.to_string()),
            rtt_us: status.as_ref().and_then(|status| status.rtt).map(|rtt| u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX)),
            candidates: Vec::new(),
            peers: self.table.len(),
            failure: if registered { None } else { failure.or_else(|| self.said.clone()) },
            unsent: self.counters.unsent.load(Ordering::Relaxed),
            refused: self.counters.refused.load(Ordering::Relaxed),
            counters: counters.into_iter().chain(own).map(|(name, count)| (name.to_owned(), count)).collect(),
        })
    }
}

fn start(wanted: &Wanted, config: &Config) -> anyhow::Result<((Handle, Events), Table)> {
    let Relay { at, trust, rooms, token_file } = wanted.relay.clone();
    let trust = match trust {
        RelayTrust::Pins(pins) => Trust::Pins(pins),
        RelayTrust::Ca(file) => Trust::roots(&file)?,
    };
    let token = match token_file {
        Some(file) => {
            let bytes = key_file::read(&file, Readers::OwnerOnly)?;
            Some(Token::from_file(&bytes).with_context(|| format!("{} holds no token", file.display()))?)
        }
        None => None,
    };
    let key = ClientKey::load_or_create(&config.state_dir).context("the key of this gateway at the relay")?;
    let table = Table::new(&rooms, key.derived(b"streams"));
    let relays = vec![client::Relay { at, trust, rooms, token, is_probe: false }];
    let metadata = table::description(&wanted.identity);
    // What goes to the relay must not go into a full tunnel, which may be what it carries.
    let mark = Some(routing_rules::MARK);
    let client = Client::start(client::Config { relays, key, metadata, proxy: ProxyChoice::Environment, mark })?;
    Ok((client, table))
}

impl Gateway {
    /// The client of the relay is as the configuration wants it.
    pub(super) fn keep_streams(&mut self) {
        let desired = self.desired.clone();
        if self.streams.keep(&desired) {
            let own = self.streams.client.as_ref().map(|(handle, _)| handle.key().0);
            self.ike.iter_mut().for_each(|ike| ike.begin_streams(own));
            self.candidates.serve(Vec::new());
            self.tell_streams(None);
        }
    }

    /// What the client of the relay says, and what else waits there: no more than a share of it, for the other things of the loop.
    pub(super) fn take_from_relay(&mut self, event: Event) {
        self.take_event(event);
        for _ in 1..TRAINS_AT_ONCE_MAX {
            let Some(event) = self.streams.waiting() else { break };
            self.take_event(event);
        }
        self.view.with_master(Master::flush);
    }

    fn take_event(&mut self, event: Event) {
        let at = self.desired.config.relay.as_ref().map(|relay| relay.at.to_string()).unwrap_or_default();
        match event {
            Event::Registered { welcome, .. } => {
                self.streams.said = None;
                self.streams.is_registered(true);
                // It says again where it serves STUN, if it does.
                self.candidates.serve(Vec::new());
                tracing::info!("registered at the relay {at}, where this gateway is seen as {}", welcome.observed);
            }
            Event::Failed { failure, .. } => {
                self.streams.is_registered(false);
                self.streams.complain(format!("relay {failure}"));
            }
            Event::Joined { room, peer, metadata } | Event::Described { room, peer, metadata } => {
                let concerned = self.streams.table.describe(&room, peer, &metadata);
                self.tell_end(peer);
                self.tell_streams(Some(&concerned));
            }
            Event::Left { room, peer, .. } => {
                let stream = self.streams.table.stream_of(peer);
                let concerned = self.streams.table.leave(&room, peer);
                if let (Some(ike), Some(stream), None) = (&mut self.ike, stream, self.streams.table.stream_of(peer)) {
                    ike.set_stream_end(stream, None);
                }
                self.tell_streams(Some(&concerned));
            }
            Event::Delivered(delivery) => self.take_delivery(&delivery),
            Event::Draining { leaving_in, .. } => {
                tracing::info!("the relay {at} is about to stop; it is left in {} ms", leaving_in.as_millis());
            }
            Event::Stun { servers, .. } => {
                self.candidates.serve(servers);
                self.keep_candidates();
            }
            Event::Absent { peer, .. } => tracing::debug!("the relay {at} does not see {peer} any more"),
            Event::Throttled { what, .. } => tracing::debug!("the relay {at} has dropped something of ours: {what:?}"),
            Event::Home { .. } | Event::Introduced { .. } | Event::PeerDirect { .. } | Event::Turn { .. } => {}
        }
    }

    /// Tells the engine at whose key a stream ends, if it is seen.
    fn tell_end(&mut self, key: PeerKey) {
        if let (Some(ike), Some(stream)) = (&mut self.ike, self.streams.table.stream_of(key)) {
            ike.set_stream_end(stream, Some(key.0));
        }
    }

    fn take_delivery(&mut self, delivery: &Delivery) {
        let Some(stream) = self.streams.table.stream_of(delivery.from) else {
            self.streams.counters.refused.fetch_add(1, Ordering::Relaxed);
            return;
        };
        if delivery.kind == Kind::Esp {
            let streams = &self.streams;
            self.view.with_master(|master| streams.take_train(master, stream, delivery));
        } else if let Some(ike) = &mut self.ike {
            ike.receive_in_stream(stream, &delivery.payload);
        }
    }

    /// Whether packets for a peer go over the relay, and why; for people.
    pub(super) fn way_to(&self, place: usize) -> Option<String> {
        let (config, ike) = (&self.desired.config, self.ike.as_ref()?);
        let (peer, at) = (config.peers.get(place)?, &config.relay.as_ref()?.at);
        let id = &peer.ike()?.id;
        let is_seen = !self.streams.table.streams_for(id).is_empty();
        let goes_by_stream = ike.goes_by_stream(*self.ids.get(place)?);
        if goes_by_stream != Some(false)
            && let Some(out) = self.streams.out_of_relay()
        {
            return Some(format!("none over the relay: {out}"));
        }
        let endpoint = if peer.endpoints.is_empty() { "it has no endpoint here" } else { "at its endpoint nobody answered" };
        Some(match (goes_by_stream, is_seen) {
            (Some(true), true) => format!("over the relay {at}: {endpoint}, and it is seen there"),
            (Some(true), false) => format!("over the relay {at}, where it is not seen just now"),
            (Some(false), _) => "by UDP, not over the relay".to_owned(),
            (None, true) => {
                format!("none yet; somebody at the relay {at} says that it is {id}: IKE goes there where no endpoint answers")
            }
            (None, false) => {
                let others = self.streams.table.len();
                format!("none; nobody at the relay {at} says that it is {id} ({others} others are seen)")
            }
        })
    }

    /// Tells the engine in which streams its peers may be: those that these identities may be of, or all.
    pub(super) fn tell_streams(&mut self, concerned: Option<&[Identity]>) {
        let Some(ike) = &mut self.ike else { return };
        for (id, peer) in self.ids.iter().zip(&self.desired.config.peers) {
            let Some(by_ike) = peer.ike() else { continue };
            if concerned.is_none_or(|concerned| concerned.iter().any(|identity| by_ike.id.matches(identity))) {
                ike.set_streams(*id, &self.streams.table.streams_for(&by_ike.id));
            }
        }
    }
}

#[cfg(test)]
mod tests;
