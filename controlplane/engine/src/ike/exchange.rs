//! What an exchange of an established IKE SA is given, and what it gives back. It sees the IKE SA and changes nothing of it: it gives
//! payloads for a request or an answer, and effects for the IKE SA to carry out.

use adit_proto::control::Spi;
use adit_proto::ike::{ExchangeType, Notify, Payload};

use super::agenda::Task;
use super::cause::Cause;
use super::change::Change;
use super::context::{Action, Shared};
use super::error::Error;
use super::facts::Facts;
use super::nat::NatStatus;
use super::session::Session;
use super::unfinished::Goal;
use super::wire::Came;
use crate::path::Hop;

/// An established IKE SA as its exchanges see it: what it is and what it has, without its messages.
pub(super) struct Established<'a> {
    pub facts: &'a Facts,
    pub session: &'a Session,
    pub request: UnderWay<'a>,
    /// The id of the peer's next request: of the one that is being answered, if one is.
    pub expected_id: u32,
    /// The way that it came.
    pub came: Came,
}

impl Established<'_> {
    /// Where requests go.
    pub(super) fn hop(&self, shared: &Shared) -> Hop {
        shared.hop_of(self.facts)
    }

    pub(super) fn is_adit(&self) -> bool {
        self.facts.features.adit
    }
}

/// What our request that is under way means for the exchanges that the peer begins.
#[derive(Default)]
pub(super) struct UnderWay<'a> {
    /// The Child SAs that it deletes, by our SPIs.
    pub deletes: &'a [Spi],
    /// Whether a Child SA is being made, rekeyed or deleted by us (RFC 7296 §2.25.1).
    pub is_about_child: bool,
}

/// A request, and what is to be remembered until its answer comes.
pub(super) struct Request<S> {
    pub exchange: ExchangeType,
    pub payloads: Vec<Payload>,
    pub sent: S,
}

impl<S> Request<S> {
    /// As one among those of all exchanges.
    pub(super) fn of<T>(self, one: impl FnOnce(S) -> T) -> Request<T> {
        Request { exchange: self.exchange, payloads: self.payloads, sent: one(self.sent) }
    }
}

/// An exchange of ours as it begins: the request, if there is still need for one, and what is carried out before it is sent.
pub(super) struct Begun<S> {
    pub request: Option<Request<S>>,
    pub effects: Vec<Effect>,
}

impl<S> Default for Begun<S> {
    /// There is no need for it any more.
    fn default() -> Begun<S> {
        Begun { request: None, effects: Vec::new() }
    }
}

impl<S> Begun<S> {
    /// It is not its time.
    pub(super) fn without_request(effects: Vec<Effect>) -> Begun<S> {
        Begun { request: None, effects }
    }

    /// As one among those of all exchanges.
    pub(super) fn of<T>(self, one: impl FnOnce(S) -> T) -> Begun<T> {
        Begun { request: self.request.map(|request| request.of(one)), effects: self.effects }
    }
}

impl<S> From<Request<S>> for Begun<S> {
    fn from(request: Request<S>) -> Begun<S> {
        Begun { request: Some(request), effects: Vec::new() }
    }
}

/// The answer to a request of the peer, and what is carried out before it is sent and once it is.
#[derive(Default)]
pub(super) struct Answer {
    pub payloads: Vec<Payload>,
    pub before: Vec<Effect>,
    pub after: Vec<Effect>,
}

/// Why a request is answered with one notification.
pub(super) struct Refusal(pub Notify);

impl From<Error> for Refusal {
    fn from(error: Error) -> Refusal {
        Refusal(error.notify())
    }
}

/// A new IKE SA, made in a rekey.
pub(super) struct Successor {
    pub facts: Facts,
    pub session: Session,
}

/// What an IKE SA is to do because of an exchange.
pub(super) enum Effect {
    /// Take note of what has become of what it has.
    Change(Change),
    /// Take note of where there are NATs between the ends.
    Nat(NatStatus),
    /// Take out a Child SA that the peer deletes, by our SPI.
    DeletedByPeer(Spi),
    /// Ask for this again later, for the peer asks for patience; end where there is none left (RFC 7296 §2.25).
    Postpone(Task),
    /// Begin the next additional key exchange; the link is the one that the peer gave, if it did.
    FollowUp(Goal, Option<Vec<u8>>),
    /// Put this IKE SA beside it.
    Successor(Box<Successor>),
    /// Tell the peer what is wrong, and end (RFC 7296 §2.21.2).
    Fail(Error),
    /// End with a last request.
    Close(Cause),
    /// End without a word.
    End(Cause),
    /// Ask the endpoint for something after all that.
    Act(Action),
}

impl From<Change> for Effect {
    fn from(change: Change) -> Effect {
        Effect::Change(change)
    }
}
