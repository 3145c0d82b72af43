//! SAs whose additional key exchanges are under way (RFC 9370 §2.2.4): what they are for, and who waits for the next one.

use std::time::{Duration, Instant};

use adit_proto::control::Spi;
use adit_proto::ike::{Notify, NotifyType, Payload};
use aws_lc_rs::constant_time::verify_slices_are_equal;

use crate::crypto::{KeyExchangeMethod, Secret};

use super::agreed::{Creating, Progress, Secrets, Unfinished};
use super::context::Ctx;
use super::facts::{IkeSpis, Role};
use super::negotiate::Choice;
use super::plan::{Creation, Plan};

/// How long the responder waits for the next one (RFC 9370 §2.2.4: 5 to 20 seconds).
const PATIENCE: Duration = Duration::from_secs(20);

/// All that makes a new IKE SA in a rekey.
pub(super) struct IkeCreation {
    pub choice: Choice,
    pub role: Role,
    pub spis: IkeSpis,
    pub nonce_i: Vec<u8>,
    pub nonce_r: Vec<u8>,
}

impl Creating for IkeCreation {
    fn choice(&self) -> &Choice {
        &self.choice
    }
}

impl IkeCreation {
    /// The smaller nonce, which decides between two rekeys of the same IKE SA (RFC 7296 §2.8.2).
    pub(super) fn lowest_nonce(&self) -> Vec<u8> {
        self.nonce_i.as_slice().min(&self.nonce_r).to_vec()
    }
}

/// What the key exchanges are for.
pub(super) enum Goal {
    Child(Box<Unfinished<Creation>>),
    Ike(Box<Unfinished<IkeCreation>>),
}

/// After one more key exchange: on to the next one, or the SA.
pub(super) enum Reached {
    Next(Goal),
    Child(Creation, Secrets),
    Ike(IkeCreation, Secrets),
}

impl Goal {
    /// The key exchange to be made now.
    pub(super) fn next(&self) -> KeyExchangeMethod {
        match self {
            Goal::Child(unfinished) => unfinished.next(),
            Goal::Ike(unfinished) => unfinished.next(),
        }
    }

    /// That key exchange is made.
    pub(super) fn made(self, secret: Secret) -> Reached {
        match self {
            Goal::Child(unfinished) => match unfinished.made(secret) {
                Progress::Unfinished(unfinished) => Reached::Next(Goal::Child(Box::new(unfinished))),
                Progress::Complete(creation, secrets) => Reached::Child(creation, secrets),
            },
            Goal::Ike(unfinished) => match unfinished.made(secret) {
                Progress::Unfinished(unfinished) => Reached::Next(Goal::Ike(Box::new(unfinished))),
                Progress::Complete(creation, secrets) => Reached::Ike(creation, secrets),
            },
        }
    }

    /// The plan of the Child SA that is being made.
    pub(super) fn plan_mut(&mut self) -> Option<&mut Plan> {
        match self {
            Goal::Child(unfinished) => Some(&mut unfinished.creation.plan),
            Goal::Ike(_) => None,
        }
    }

    /// Our SPI of the Child SA that is being made.
    pub(super) fn inbound(&self) -> Option<Spi> {
        match self {
            Goal::Child(unfinished) => Some(unfinished.creation.plan.inbound),
            Goal::Ike(_) => None,
        }
    }

    /// Gives back what was reserved.
    pub(super) fn release(&self, ctx: &mut Ctx) {
        if let Some(inbound) = self.inbound() {
            ctx.shared.spis.release(inbound);
        }
    }
}

/// By which the peer's next request is known to go on with this one (RFC 9370 §2.2.4).
#[derive(Clone, Copy)]
pub(super) struct Link([u8; 16]);

impl Link {
    pub(super) fn new(ctx: &mut Ctx) -> Link {
        Link(ctx.bytes())
    }

    /// As the answer carries it.
    pub(super) fn payload(&self) -> Payload {
        Notify::new(NotifyType::ADDITIONAL_KEY_EXCHANGE).with_data(self.0).into()
    }
}

/// What the responder remembers until the next request comes.
struct Pending {
    goal: Goal,
    link: Link,
    expires: Instant,
}

/// A creation by the peer that waits for additional key exchanges: one at most. What it has reserved is given back when it ends.
#[derive(Default)]
pub(super) struct Awaited(Option<Pending>);

impl Awaited {
    /// Waits for the next key exchange, with this link.
    pub(super) fn begin(&mut self, ctx: &mut Ctx, goal: Goal, link: Link) {
        let expires = ctx.now.instant + PATIENCE;
        self.forget(ctx);
        self.0 = Some(Pending { goal, link, expires });
    }

    /// The peer begins with something else.
    pub(super) fn forget(&mut self, ctx: &mut Ctx) {
        if let Some(pending) = self.0.take() {
            pending.goal.release(ctx);
        }
    }

    /// What the request with this link goes on with.
    pub(super) fn take(&mut self, link: &[u8]) -> Option<Goal> {
        self.0.take_if(|pending| verify_slices_are_equal(&pending.link.0, link).is_ok()).map(|pending| pending.goal)
    }

    /// What did not go on in time.
    pub(super) fn take_expired(&mut self, now: Instant) -> Option<Goal> {
        self.0.take_if(|pending| pending.expires <= now).map(|pending| pending.goal)
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.0.as_ref().map(|pending| pending.expires)
    }
}
