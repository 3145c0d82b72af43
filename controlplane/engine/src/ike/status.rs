//! What there is, for people and programs: the connection to a peer, its IKE SAs and Child SAs.

use std::time::{Duration, Instant};

use adit_proto::control::{ChildId, PeerId, Selector, Spi};

use super::cause::Cause;
use super::child::{Child, ChildState, Usage};
use super::config::Mode;
use super::connection::ConnectionState;
use super::counters::Counters;
use super::endpoint::{Endpoint, Refusal};
use super::error::{Error, Incompatibility};
use super::explain::Record;
use super::facts::{IkeSpis, Role};
use super::nat::NatStatus;
use super::sa::IkeSa;
use super::selectors::SelectorPair;
use super::wishes::{Refused, Wish};
use crate::path::{Hop, Remote};
use crate::shown::Shown;

/// One peer.
#[derive(Clone, Debug)]
pub struct PeerStatus {
    pub name: String,
    pub state: ConnectionState,
    /// Since when it is in this state.
    pub since: Instant,
    /// Why it is down, or was last.
    pub cause: Option<Cause>,
    /// Attempts since it was last up, and when the next one is due.
    pub attempts: u32,
    pub retry_at: Option<Instant>,
    /// The IKE SA with the Child SAs first.
    pub ike: Vec<IkeStatus>,
    pub counters: Counters,
}

/// One IKE SA.
#[derive(Clone, Debug)]
pub struct IkeStatus {
    pub spis: IkeSpis,
    pub role: Role,
    /// The algorithms, as `AES_GCM_16_256/PRF_HMAC_SHA2_256/CURVE_25519/ADDKE1_ML_KEM_768`.
    pub suite: String,
    /// Whether a post-quantum key exchange, or a post-quantum pre-shared key, is in its keys.
    pub post_quantum: bool,
    /// Whether a post-quantum pre-shared key is in its keys (RFC 8784).
    pub ppk: bool,
    /// Who the peer proved to be, and how.
    pub remote_id: Shown,
    pub proof: Shown,
    pub established: Instant,
    pub last_heard: Instant,
    pub rekey_at: Option<Instant>,
    /// When both ends are to authenticate anew, if something limits that.
    pub reauth_at: Option<Instant>,
    /// When what the peer proved with certificates ends, in seconds since 1970 UTC; and our own, where the peer looks at it.
    pub peer_certificate_until: Option<u64>,
    pub own_certificate_until: Option<u64>,
    pub hop: Hop,
    pub nat: NatStatus,
    pub mobike: bool,
    /// The peer is Adit.
    pub adit: bool,
    /// Another one has taken its place, or it is being closed.
    pub is_going: bool,
    pub children: Vec<ChildStatus>,
    /// What is configured and no Child SA carries.
    pub missing: Vec<Missing>,
    /// What is configured and of which the peer carries a part.
    pub narrowed: Vec<Narrowed>,
}

/// Something that is configured and no Child SA carries.
#[derive(Clone, Debug)]
pub struct Missing {
    pub wish: Wish,
    /// Why the peer refused it, and when it is asked for again.
    pub cause: Option<Cause>,
    pub retry_at: Option<Instant>,
}

/// A configured pair of selectors that the peer has narrowed (RFC 7296 §2.9).
#[derive(Clone, Debug)]
pub struct Narrowed {
    pub selector: Selector,
    /// What Child SAs carry of it, or the first few parts of that.
    pub carried: Vec<Selector>,
    /// Why the peer refused the rest, if it was asked for that, and when it is again.
    pub cause: Option<Cause>,
    pub retry_at: Option<Instant>,
}

/// One pair of Child SAs.
#[derive(Clone, Debug)]
pub struct ChildStatus {
    /// By which the data plane knows it: one for all lanes and rekeys.
    pub id: ChildId,
    /// Index in the peer's configured children, and its name.
    pub child: usize,
    pub name: String,
    pub lane: u8,
    pub mode: Mode,
    pub inbound: Spi,
    pub outbound: Spi,
    pub suite: String,
    pub esn: bool,
    pub selectors: SelectorPair,
    pub established: Instant,
    pub rekey_at: Option<Instant>,
    pub expire_at: Option<Instant>,
    pub usage: Usage,
    /// It is used for sending.
    pub is_sending: bool,
    pub is_going: bool,
}

/// Entries of the tables of the engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Also those that are being closed.
    pub ike_sas: usize,
    pub half_open: usize,
    /// Installed, about to be, or draining.
    pub inbound_spis: usize,
    pub refusals: usize,
}

/// Why a negotiation came to nothing, and what to change.
#[derive(Clone, Debug)]
pub struct Explanation {
    pub peer: String,
    pub state: ConnectionState,
    pub in_state_for: Duration,
    pub cause: Option<Cause>,
    pub record: Record,
    /// Attempts from the peer's address that could not be told to be this peer's.
    pub unauthenticated: Vec<Refusal>,
}

impl Endpoint {
    /// The peers that are configured.
    pub fn peers(&self) -> impl Iterator<Item = PeerId> {
        self.shared.peers.keys().copied()
    }

    /// How a peer is connected.
    pub fn status(&self, id: PeerId) -> Option<PeerStatus> {
        let peer = self.shared.peers.get(&id)?;
        let connection = &peer.connection;
        let used = self.shared.paths.ike_hop(id);
        let mut ike: Vec<IkeStatus> = peer.sas.iter().filter_map(|id| ike_status(self.sas.get(id)?, used)).collect();
        ike.sort_by_key(|ike| (ike.is_going, ike.established));
        Some(PeerStatus {
            name: peer.config.name.clone(),
            state: connection.state,
            since: connection.since,
            cause: connection.cause.clone(),
            attempts: connection.attempts,
            retry_at: connection.retry_at,
            ike,
            counters: peer.counters,
        })
    }

    /// The way to a peer that is connected, or the one that is known for it.
    pub fn hop(&self, id: PeerId) -> Option<Hop> {
        let peer = self.shared.peers.get(&id)?;
        self.shared.paths.ike_hop(id).or_else(|| match peer.remotes.in_turn().next()? {
            Remote::Udp(remote) => Some(Hop::new(peer.local?, remote)),
            Remote::Stream(stream) => Some(Hop::Stream(stream)),
        })
    }

    /// The inbound SPIs of all Child SAs that are neither closing nor replaced.
    pub fn live_inbound(&self) -> impl Iterator<Item = Spi> {
        let sessions = self.sas.values().filter_map(|sa| sa.session());
        sessions.flat_map(|session| session.children.iter().filter(|child| child.is_live()).map(|child| child.inbound))
    }

    /// The Child SAs of all peers, by inbound and outbound SPI.
    pub fn child_spis(&self) -> impl Iterator<Item = (PeerId, Spi, Spi)> {
        let children = |sa: &IkeSa| {
            let (peer, session) = (sa.facts.peer, sa.session());
            let spis =
                session.map(|session| session.children.iter().map(|child| (child.inbound, child.outbound)).collect::<Vec<_>>());
            peer.zip(spis)
        };
        self.sas
            .values()
            .map(Box::as_ref)
            .filter_map(children)
            .flat_map(|(peer, spis)| spis.into_iter().map(move |(inn, out)| (peer, inn, out)))
    }

    /// Counts over all peers.
    pub fn counters(&self) -> Counters {
        self.shared.counters
    }

    /// IKE SAs that peers began and have not authenticated.
    pub fn half_open(&self) -> usize {
        self.shared.admission.half_open()
    }

    /// How much there is of everything that grows with peers and traffic.
    pub fn sizes(&self) -> Sizes {
        Sizes {
            ike_sas: self.sas.len(),
            half_open: self.half_open(),
            inbound_spis: self.shared.spis.iter().count(),
            refusals: self.refusals.len(),
        }
    }

    /// The last negotiation with a peer, for `explain`.
    pub fn explain(&self, id: PeerId, now: Instant) -> Option<Explanation> {
        let peer = self.shared.peers.get(&id)?;
        // One that comes from elsewhere may be this peer, as long as it is not connected.
        let endpoints = peer.endpoints();
        let lost = !peer.connection.state.is_up() || endpoints.is_empty();
        let nowhere = |refusal: &Refusal| matches!(refusal.why, Error::Incompatible(Incompatibility::UnknownAddress));
        let from_there = |refusal: &&Refusal| {
            let from = refusal.from.site();
            endpoints.contains(&from) || lost && (peer.config.from.allows(from, &endpoints) || nowhere(refusal))
        };
        Some(Explanation {
            peer: peer.config.name.clone(),
            state: peer.connection.state,
            in_state_for: now.saturating_duration_since(peer.connection.since),
            cause: peer.connection.cause.clone(),
            record: peer.record.clone(),
            unauthenticated: self.refusals.iter().filter(from_there).cloned().collect(),
        })
    }

    /// The last unauthenticated initiators that were refused.
    pub fn refusals(&self) -> impl Iterator<Item = &Refusal> {
        self.refusals.iter()
    }
}

fn ike_status(sa: &IkeSa, used: Option<Hop>) -> Option<IkeStatus> {
    let session = sa.session()?;
    // The keys are made of the secrets of all of these, or not at all ([`super::agreed`]).
    let methods = session.made.choice.key_exchange.iter().chain(&session.made.choice.additional);
    Some(IkeStatus {
        spis: sa.facts.spis,
        role: sa.facts.role,
        suite: session.made.choice.to_string(),
        post_quantum: session.proof.uses_ppk() || methods.into_iter().any(|method| method.is_post_quantum()),
        ppk: session.proof.uses_ppk(),
        remote_id: session.proof.remote_id().clone(),
        proof: session.proof.by().clone(),
        established: session.lifetimes.established(),
        last_heard: sa.wire.last_heard(),
        rekey_at: session.lifetimes.rekey_at(),
        reauth_at: session.proof.standing().reauth_at(),
        peer_certificate_until: session.proof.standing().peer_until(),
        own_certificate_until: session.proof.standing().own_until(),
        hop: used.unwrap_or(sa.facts.hop),
        nat: sa.facts.nat,
        mobike: sa.facts.features.mobike,
        adit: sa.facts.features.adit,
        is_going: session.succession.is_going(),
        children: session.children.iter().map(|child| child_status(child, &session.config.children)).collect(),
        missing: session.missing().into_iter().map(|(wish, refused)| missing(wish, refused)).collect(),
        narrowed: session.narrowed().into_iter().map(narrowed).collect(),
    })
}

fn missing(wish: Wish, refused: Option<&Refused>) -> Missing {
    let (cause, retry_at) = (refused.and_then(|refused| refused.cause.clone()), refused.and_then(Refused::retry_at));
    Missing { wish, cause, retry_at }
}

fn narrowed((selector, carried, refused): (Selector, Vec<Selector>, Option<&Refused>)) -> Narrowed {
    let (cause, retry_at) = (refused.and_then(|refused| refused.cause.clone()), refused.and_then(Refused::retry_at));
    Narrowed { selector, carried, cause, retry_at }
}

fn child_status(child: &Child, configs: &[super::config::ChildConfig]) -> ChildStatus {
    ChildStatus {
        id: child.id,
        child: child.config,
        name: configs.get(child.config).map(|config| config.name.clone()).unwrap_or_default(),
        lane: child.lane,
        mode: child.mode,
        inbound: child.inbound,
        outbound: child.outbound,
        suite: child.choice.to_string(),
        esn: child.choice.esn,
        selectors: child.selectors.clone(),
        established: child.born,
        rekey_at: child.limits.rekey_at,
        expire_at: child.limits.expire_at,
        usage: child.usage,
        is_sending: child.is_sending(),
        is_going: child.state != ChildState::Live,
    }
}
