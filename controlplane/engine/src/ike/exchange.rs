//! What an exchange of an established IKE SA is given, and what it gives back. It sends nothing and ends nothing itself: it gives
//! payloads for a request or an answer, and effects for the IKE SA to carry out.

use adit_proto::control::Spi;
use adit_proto::ike::{ExchangeType, Notify, Payload};

use super::cause::Cause;
use super::context::{Action, Shared};
use super::error::Error;
use super::facts::Facts;
use super::plan::Plan;
use super::session::Session;
use super::unfinished::Goal;
use super::wire::Came;
use crate::path::Hop;

/// An established IKE SA as its exchanges see it: what it is and what it has, without its messages.
pub(super) struct Established<'a> {
    pub facts: &'a mut Facts,
    pub session: &'a mut Session,
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
    /// The Child SA that it makes.
    pub plan: Option<&'a mut Plan>,
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

/// The answer to a request of the peer, and what follows once it is sent.
#[derive(Default)]
pub(super) struct Answer {
    pub payloads: Vec<Payload>,
    pub effects: Vec<Effect>,
}

impl From<Vec<Payload>> for Answer {
    fn from(payloads: Vec<Payload>) -> Answer {
        Answer { payloads, effects: Vec::new() }
    }
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
