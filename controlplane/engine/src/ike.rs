//! IKEv2 (RFC 7296) between this gateway and its peers, as one pure state machine: [`Endpoint`].
//!
//! Datagrams, commands and time go in; [`Transmit`]s, [`Event`]s and the time of the next call come out.
//!
//! # The way of a message
//! | file | does |
//! |---|---|
//! | `endpoint` | which IKE SA; unauthenticated initiators (`endpoint/half_open`, `admission`: cookies, limits; `known`: who is no stranger); what one IKE SA means for the others (`endpoint/lifecycle`); commands |
//! | `sa` | is it ours; `wire`: is it new, authentic and whole, and what is sent again: `window` (message ids, retransmission), `protect` (seal, open), `fragment`, `parts` |
//! | `negotiation` | before it is established: what the three exchanges of it make is sent |
//! | `sa_init` | algorithms, first key exchange, NAT detection: `negotiate`, `nat`, `directory` (who may it be), `vendor` |
//! | `intermediate` | additional key exchanges, ML-KEM; `handshake` is what is kept until |
//! | `auth` | who is it; `first_child`; PPK |
//! | `dispatch` | once it is established: which exchange a message is for, which request is next |
//! | `create_child`, `plan`, `install` | new Child SAs and their rekey; `selectors` |
//! | `rekey_ike` | a new IKE SA in place of the old one |
//! | `followup`, `unfinished` | additional key exchanges of the two before |
//! | `informational` | liveness, Delete, errors; `mobike`, `candidates`, `crash` |
//! | `stream_keys` | who is at the other end of a stream |
//! | `evidence` | what exchanges say of paths, and what these ask for |
//! | `timeouts` | everything that happens because time has passed; `timer` |
//!
//! An exchange is functions: `exchange` says what they are given and what they give back, `initiated` what is remembered of a request. Only
//! `sa`, `negotiation`, `dispatch` and `timeouts` hold an IKE SA, and send, close and end.
//!
//! # What there is of an IKE SA
//! | file | has |
//! |---|---|
//! | `facts` | its two ends, the way between them, what both can do |
//! | `session` | once it is established, these parts and what one means for the others: |
//! | `proof`, `standing` | who the peer proved to be, and until when that holds; `trust`; `reauth` |
//! | `lifetimes` | when it is rekeyed, and ends |
//! | `succession` | what it follows, what follows it, whether it may speak |
//! | `children`, `child` | its Child SAs, and what the data plane learns of them, when; `usage`: what it says of them |
//! | `wishes` | which are wanted and not there, `coverage`: how much of a pair is; `install_backoff`: what the data plane refuses or loses |
//! | `agenda` | the requests to come |
//! | `addresses` | those of the peer, and of ours that it knows |
//!
//! The rest: `connection` is the state towards one peer; `config`, `proposal_words`; `event`, `cause`, `key_log`,
//! `error`; `counters`, `explain`,
//! `status`; `snapshot` for the next process.
//!
//! # Rules
//! - A message changes nothing before its tag has been verified and its message id is the one that is due.
//! - Before IKE_AUTH nobody is believed: what does not fit is dropped, what refuses is a hint.
//! - One request at a time is under way in each direction (window 1, RFC 7296 §2.3).
//! - New SAs can receive before the peer learns of them, and the old ones go when the new ones work (§2.8).
//! - Every table has a limit: `crate::limits`, or [`Limits`] where an operator may want another one.

mod addresses;
mod admission;
mod agenda;
mod agreed;
mod auth;
mod candidates;
mod cause;
mod change;
mod child;
mod child_ids;
mod children;
mod clients;
mod config;
mod connection;
mod context;
mod counters;
mod coverage;
mod crash;
mod create_child;
mod directory;
mod dispatch;
mod endpoint;
mod error;
mod event;
mod evidence;
mod exchange;
mod explain;
mod facts;
mod first_child;
mod followup;
mod fragment;
mod handshake;
mod informational;
mod initiated;
mod install;
mod install_backoff;
mod intermediate;
mod key_log;
mod known;
mod left;
mod lifetimes;
mod mobike;
mod nat;
pub mod negotiate;
mod negotiation;
mod origins;
mod parts;
mod places;
mod plan;
mod proof;
pub mod proposal_words;
mod protect;
mod reauth;
mod rekey_ike;
mod remotes;
mod sa;
mod sa_init;
pub mod selectors;
mod session;
mod share;
mod snapshot;
mod standing;
mod status;
mod stream_keys;
mod succession;

#[cfg(test)]
mod testing;
mod timeouts;
mod trust;
mod unfinished;
mod usage;
mod vendor;
mod window;
mod wire;
mod wishes;

pub use candidates::{Candidate, CandidateKind};
pub use cause::{Cause, Whose};
pub use child::Usage;
pub use config::{
    Backoff, ChildConfig, ChildProposal, EndpointConfig, EsnPolicy, IkeProposal, Lifetime, Limits, Mode, Now, PeerConfig, PeerId,
    Ppk, Retransmission, Share,
};
pub use connection::ConnectionState;
pub use context::LANES_MAX;
pub use counters::Counters;
pub use endpoint::{CommandError, Endpoint, Refusal, Restored};
pub use error::{Error, Incompatibility, LocalFault, Misbehaviour};
pub use event::{After, ChildKeys, Event, Transmit};
pub use explain::{Difference, Offers, Problem, Record};
pub use facts::{IkeSpis, Role};
pub use key_log::{KeyLog, KeyLogFile};
pub use nat::NatStatus;
pub use snapshot::{BootClock, RestoreError};
pub use status::{ChildStatus, Explanation, IkeStatus, Missing, Narrowed, PeerStatus, Sizes};
pub use stream_keys::StreamKey;
pub use wishes::Wish;
