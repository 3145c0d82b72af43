//! The task behind a client or a server: it owns the socket's receiving side, the IKE engine and the inbound SAs.
//!
//! ```text
//! socket ─▶ demux ─▶ ESP: esp ─▶ selectors ─▶ link (queue) ─▶ recv_packet          receive.rs
//!             └────▶ IKE: engine ─▶ events ─▶ inbound SAs, links ┐                 events.rs
//!                           └────▶ datagrams ─▶ socket ◀── then ─┘
//! send_packet ─▶ link: esp ─▶ socket                       (not in this task)
//! ```
//! It ends when every handle is gone, or when it is told to; then it says goodbye to all peers and waits a moment for their answers.

mod admission;
mod events;
mod receive;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use adit_engine::ike::{Cause, CommandError, Endpoint, Explanation, Now, PeerConfig, PeerId, Transmit};
use adit_proto::control::Spi;
use adit_proto::limits::DATAGRAM_MAX;
use tokio::sync::{Notify, mpsc, oneshot};

use super::command::{Command, Keys};
use super::error::{self, Error, Failure, Refused};
use super::esp::Pace;
use super::limits::{IKE_WAITING_MAX, REFUSED_MAX};
use super::link::{Link, Terms};
use super::options::Options;
use super::peer::Peer;
use super::session::Session;
use super::socket::Socket;
use super::underlay::SocketUnderlay;
use admission::Admission;
use receive::InboundSa;

/// Datagrams that are received before the timers and commands have their turn.
const BATCH: usize = 64;
/// How often the engine learns what went through the SAs, and deadlines are looked at.
const TICK: Duration = Duration::from_millis(250);
/// How often it is looked at most whether the ways to the peers begin at other addresses of ours now. A client looks so often in any
/// case, a server when something cannot be sent.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long peers may take at the end to answer that we go, and how long it may take until they are told: a request that is under way
/// is to be answered first (RFC 7296 §2.3).
const GOODBYE: Duration = Duration::from_secs(1);
const LAST_WORDS: Duration = Duration::from_secs(3);
/// How long a rekey that was asked for may take.
const REKEY_TIMEOUT: Duration = Duration::from_secs(30);

/// Somebody who waits for new keys.
struct Waiter {
    keys: Keys,
    until: Instant,
    reply: oneshot::Sender<Result<(), Error>>,
}

/// A peer that the engine knows.
struct Entry {
    /// Of a server: index of the configured peer.
    configured: usize,
    pace: Pace,
    link: Option<Arc<Link>>,
    /// Of a server: the session has been handed out.
    announced: bool,
    waiters: Vec<Waiter>,
}

/// The side of a client.
struct Dialer {
    reconnect: bool,
    /// Until the first connection: where its end is told, and when there is to be one.
    pending: Option<(oneshot::Sender<Result<(), Error>>, Instant)>,
}

/// The side of a server.
struct Listener {
    peers: Vec<Peer>,
    accepted: mpsc::Sender<Session>,
    refused: mpsc::Sender<Refused>,
    commands: mpsc::WeakUnboundedSender<Command>,
    next_id: u16,
}

/// The task.
pub struct Driver {
    socket: Arc<Socket>,
    local: SocketAddr,
    options: Options,
    endpoint: Endpoint,
    commands: mpsc::UnboundedReceiver<Command>,
    entries: BTreeMap<PeerId, Entry>,
    inbound: HashMap<Spi, InboundSa>,
    dialer: Option<Dialer>,
    listener: Option<Listener>,
    /// A peer has come or gone: there may be no place for the next one, or too many.
    peers_changed: bool,
    admission: Admission,
    /// Where the datagram came from that is being handled.
    from: Option<SocketAddr>,
    waiting: VecDeque<Transmit>,
    tick_at: Instant,
    /// When the ways were looked at last.
    looked_at: Instant,
    /// So much was sent that the engine should know.
    wake: Arc<Notify>,
    buffer: Vec<u8>,
}

/// Opens the socket and makes a task that has nothing to do yet. `remote`: where a client connects to.
///
/// # Errors
/// The address cannot be had, or the options make no sense.
pub fn open(
    address: SocketAddr,
    remote: Option<SocketAddr>,
    options: Options,
) -> Result<(Driver, mpsc::UnboundedSender<Command>), Error> {
    options.check()?;
    let socket = Socket::open(address).map_err(|source| Error::io(format!("open UDP {address}"), source))?;
    let local = socket.bound();
    let config = options.endpoint(local.port())?;
    let random = |out: &mut [u8]| aws_lc_rs::rand::fill(out).expect("the system's generator cannot fail once it is seeded");
    let (sender, commands) = mpsc::unbounded_channel();
    let driver = Driver {
        socket: Arc::new(socket),
        local,
        options,
        endpoint: Endpoint::new(config, Box::new(random)).with_underlay(Box::new(SocketUnderlay::new(local, remote))),
        commands,
        entries: BTreeMap::new(),
        inbound: HashMap::new(),
        dialer: None,
        listener: None,
        peers_changed: false,
        admission: Admission::new(Instant::now()),
        from: None,
        waiting: VecDeque::new(),
        tick_at: Instant::now() + TICK,
        looked_at: Instant::now(),
        wake: Arc::default(),
        buffer: vec![0; DATAGRAM_MAX],
    };
    Ok((driver, sender))
}

impl Driver {
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// Starts to connect; `reply` learns how the first attempt ends.
    ///
    /// # Errors
    /// The peer's settings make no sense, or there is no route to it.
    pub fn into_client(
        mut self,
        remote: SocketAddr,
        peer: Peer,
        reply: oneshot::Sender<Result<(), Error>>,
    ) -> Result<Arc<Link>, Error> {
        check_family(self.local, remote)?;
        let way = SocketUnderlay::new(self.local, Some(remote)).source(None, remote, scope_of(remote));
        way.map_err(|error| Error::io(format!("find a way to {remote}"), error))?;
        // With any address the one that the routes say, now and later.
        let local = Some(canonical(self.local)).filter(|local| !local.ip().is_unspecified());
        let id = PeerId(0);
        let pace = peer.pace();
        let config = PeerConfig { initiate: true, local, remotes: vec![canonical(remote)], ..peer.config };
        self.endpoint.set_peer(now(), id, config).map_err(refused_settings)?;
        let link = self.new_link(id, pace);
        let entry = Entry { configured: 0, pace, link: Some(link.clone()), announced: true, waiters: Vec::new() };
        self.entries.insert(id, entry);
        let until = Instant::now() + self.options.connect_timeout;
        self.dialer = Some(Dialer { reconnect: peer.reconnect, pending: Some((reply, until)) });
        self.endpoint.connect(now(), id).map_err(refused_settings)?;
        tokio::spawn(self.run());
        Ok(link)
    }

    /// Lets peers come.
    ///
    /// # Errors
    /// A peer's settings make no sense.
    pub fn into_server(
        mut self,
        peers: Vec<Peer>,
        commands: mpsc::WeakUnboundedSender<Command>,
    ) -> Result<(mpsc::Receiver<Session>, mpsc::Receiver<Refused>), Error> {
        if peers.is_empty() {
            return Err(Error::settings("peers", "there is none: nobody could connect"));
        }
        let (accepted, sessions) = mpsc::channel(self.options.backlog);
        let (refused, refusals) = mpsc::channel(REFUSED_MAX);
        self.admission.serve(self.options.sessions);
        self.listener = Some(Listener { peers, accepted, refused, commands, next_id: 0 });
        self.make_room()?;
        tokio::spawn(self.run());
        Ok((sessions, refusals))
    }

    fn new_link(&self, id: PeerId, pace: Pace) -> Arc<Link> {
        let Options { receive_queue, path_mtu, .. } = self.options;
        Link::new(id, self.socket.clone(), Terms { receive_queue, path_mtu, pace, wake: self.wake.clone() })
    }

    /// The task.
    async fn run(mut self) {
        loop {
            self.settle();
            let due = self.endpoint.poll_timeout().map_or(self.tick_at, |at| at.min(self.tick_at));
            tokio::select! {
                readable = self.socket.readable() => if readable.is_ok() { self.receive() },
                _ = self.socket.writable(), if !self.waiting.is_empty() => {}
                command = self.commands.recv() => match command {
                    Some(Command::Shutdown { reply }) => {
                        self.say_goodbye().await;
                        // Nobody waits any more: nothing is lost.
                        let _ = reply.send(());
                        return;
                    }
                    Some(command) => self.obey(command),
                    None => return self.say_goodbye().await,
                },
                () = self.wake.notified() => self.report_usage(),
                () = tokio::time::sleep_until(due.into()) => {}
            }
            self.on_time();
        }
    }

    /// Does what time asks for.
    fn on_time(&mut self) {
        let at = Instant::now();
        if self.endpoint.poll_timeout().is_some_and(|due| due <= at) {
            self.endpoint.handle_timeout(now());
        }
        if at >= self.tick_at {
            self.tick_at = at + TICK;
            self.report_usage();
            self.give_up_waiting(at);
            self.look_at_ways(at);
        }
    }

    /// Addresses and routes of this machine change. What goes to a peer then leaves from another address, and the peer is told.
    fn look_at_ways(&mut self, at: Instant) {
        if at >= self.looked_at + LOOK_EVERY && (self.socket.take_lost_way() || self.dialer.is_some()) {
            self.looked_at = at;
            self.endpoint.underlay_changed(now());
        }
    }

    /// Carries out what the engine wants: first its events, so that what a message invites the peer to send can be opened.
    fn settle(&mut self) {
        while let Some(event) = self.endpoint.poll_event() {
            self.take(event);
        }
        if std::mem::take(&mut self.peers_changed)
            && let Err(error) = self.make_room()
        {
            tracing::warn!("no place for the next peer: {error}");
        }
        while let Some(transmit) = self.endpoint.poll_transmit() {
            self.admission.sent(Instant::now(), &transmit.payload);
            if self.waiting.len() < IKE_WAITING_MAX {
                self.waiting.push_back(transmit);
            }
        }
        while let Some(transmit) = self.waiting.front() {
            // There are no streams here: the engine was told of none.
            let Some(hop) = transmit.hop.udp() else {
                self.waiting.pop_front();
                continue;
            };
            match self.socket.try_send(&transmit.payload, &hop) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // What is lost is sent again.
                Ok(_) | Err(_) => drop(self.waiting.pop_front()),
            }
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Rekey { link, keys, reply } => {
                if let Err(error) = self.rekey(&link, keys) {
                    // Nobody waits any more: nothing is lost.
                    let _ = reply.send(Err(error));
                } else if let Some(entry) = self.entries.get_mut(&link.peer) {
                    entry.waiters.push(Waiter { keys, until: Instant::now() + REKEY_TIMEOUT, reply });
                }
            }
            Command::Close { link, reply } => {
                if self.is_current(&link) {
                    // It cannot fail for a peer that there is.
                    let _ = self.endpoint.disconnect(now(), link.peer);
                    self.settle();
                }
                if let Some(reply) = reply {
                    let _ = reply.send(());
                }
            }
            Command::StopAccepting => self.stop_accepting(),
            Command::Shutdown { .. } => {}
        }
    }

    fn rekey(&mut self, link: &Arc<Link>, keys: Keys) -> Result<(), Error> {
        if let Some(why) = link.why_closed() {
            return Err(why);
        }
        if !self.is_current(link) || !link.is_up() {
            return Err(Error::NotConnected);
        }
        let begun = match keys {
            Keys::Child => self.endpoint.rekey(now(), link.peer),
            Keys::Ike => self.endpoint.rekey_ike(now(), link.peer),
        };
        begun.map_err(|_| Error::NotConnected)
    }

    /// Whether it is the session that the peer has now.
    fn is_current(&self, link: &Arc<Link>) -> bool {
        self.entries.get(&link.peer).and_then(|entry| entry.link.as_ref()).is_some_and(|current| Arc::ptr_eq(current, link))
    }

    /// Ends what has taken too long.
    fn give_up_waiting(&mut self, at: Instant) {
        let over = self.dialer.as_ref().and_then(|dialer| dialer.pending.as_ref()).is_some_and(|(_, until)| *until <= at);
        if over {
            let explanation = self.endpoint.explain(PeerId(0), at);
            let explanation = explanation.map(|reported| error::differences(&reported).join("; ")).unwrap_or_default();
            self.fail_connect(Error::Timeout { what: "connecting", after: self.options.connect_timeout, explanation });
            let _ = self.endpoint.disconnect(now(), PeerId(0));
        }
        for entry in self.entries.values_mut() {
            let late = |waiter: &mut Waiter| waiter.until <= at || waiter.reply.is_closed();
            for waiter in entry.waiters.extract_if(.., late) {
                let explanation = String::new();
                let _ = waiter.reply.send(Err(Error::Timeout { what: "the rekey", after: REKEY_TIMEOUT, explanation }));
            }
        }
    }

    /// Tells a client that is still connecting that it came to nothing.
    fn fail_connect(&mut self, error: Error) {
        if let Some((reply, _)) = self.dialer.as_mut().and_then(|dialer| dialer.pending.take()) {
            // Nobody waits any more: nothing is lost.
            let _ = reply.send(Err(error));
        }
    }

    /// Why the last negotiation with a peer came to nothing.
    fn failure(&self, id: PeerId, cause: Cause) -> Box<Failure> {
        let reported: Option<Explanation> = self.endpoint.explain(id, Instant::now());
        Box::new(match reported {
            Some(reported) => Failure::of(reported, cause),
            None => Failure::plain("the peer", cause, ""),
        })
    }

    /// Closes all connections, and waits a moment for the answers.
    async fn say_goodbye(&mut self) {
        self.listener = None;
        let ids: Vec<PeerId> = self.entries.keys().copied().collect();
        for id in &ids {
            // Those that are not connected stay so.
            let _ = self.endpoint.disconnect(now(), *id);
        }
        let last = Instant::now() + LAST_WORDS;
        // When those who are told have to have answered.
        let mut answered = None;
        loop {
            self.settle();
            let is_told = self.waiting.is_empty() && !self.endpoint.has_last_words();
            let is_quiet = |id: &PeerId| self.endpoint.status(*id).is_none_or(|status| status.ike.is_empty());
            answered = is_told.then(|| answered.unwrap_or_else(|| Instant::now() + GOODBYE));
            let until = answered.map_or(last, |answered| answered.min(last));
            if Instant::now() >= until || (is_told && ids.iter().all(is_quiet)) {
                return;
            }
            let due = self.endpoint.poll_timeout().map_or(until, |at| at.min(until));
            tokio::select! {
                readable = self.socket.readable() => if readable.is_ok() { self.receive() },
                _ = self.socket.writable(), if !self.waiting.is_empty() => {}
                () = tokio::time::sleep_until(due.into()) => self.endpoint.handle_timeout(now()),
            }
        }
    }
}

impl Drop for Driver {
    /// Also when the runtime is shut down: nobody waits for a task that is gone.
    fn drop(&mut self) {
        for entry in self.entries.values() {
            if let Some(link) = &entry.link {
                let why = Failure::plain(link.identity(), Cause::Command, "");
                link.close(Error::Closed(Box::new(why)));
            }
        }
    }
}

fn refused_settings(error: CommandError) -> Error {
    Error::settings("peer", error)
}

/// The same address, as IPv4 where it stands for one.
fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        v4 @ IpAddr::V4(_) => SocketAddr::new(v4, address.port()),
        IpAddr::V6(_) => address,
    }
}

/// # Errors
/// Nothing can go from the one address to the other.
fn check_family(bound: SocketAddr, remote: SocketAddr) -> Result<(), Error> {
    let any = bound.ip().is_unspecified();
    if bound.is_ipv4() == remote.ip().to_canonical().is_ipv4() || (any && bound.is_ipv6()) {
        return Ok(());
    }
    let fault = format!("{bound} cannot reach {remote}, an address of another IP version: bind one of the same, or none");
    Err(Error::settings("bind", fault))
}

fn scope_of(address: SocketAddr) -> u32 {
    if let SocketAddr::V6(address) = address { address.scope_id() } else { 0 }
}

fn now() -> Now {
    let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
    Now { instant: Instant::now(), unix }
}
