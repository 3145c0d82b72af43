//! What the exchanges change of what an established IKE SA has. They say what has become of something; here it is done.

use std::net::IpAddr;
use std::time::Instant;

use adit_proto::control::Spi;

use super::agenda::Task;
use super::agreed::Secrets;
use super::candidates::Candidate;
use super::cause::Cause;
use super::child::RekeyCollision;
use super::context::{Ctx, Then};
use super::evidence;
use super::facts::{Facts, SaId};
use super::plan::{Creation, Plan};
use super::session::Session;
use super::unfinished::{Goal, Link};

/// Something has become of what an IKE SA has. Child SAs are named by our SPIs.
pub(super) enum Change {
    /// This is to be asked for, when it is its turn.
    Want(Task),
    /// This is to be asked for next.
    WantFirst(Task),

    /// A Child SA came with IKE_AUTH: it is used as soon as the IKE SA is.
    ChildCame(Box<Creation>, Secrets),
    /// A Child SA that we asked for has its keys.
    ChildMade(Box<Creation>, Secrets),
    /// A Child SA that the peer asked for, in the request with this id, has its keys.
    ChildGranted(Box<Creation>, Secrets, u32),
    /// The peer has made a Child SA, and we have not.
    Orphan(Spi),
    /// A Child SA that we asked for came to nothing.
    ChildFailed(Box<Plan>, Cause),
    /// The peer has heard that we delete it.
    ChildDeleted(Spi),
    /// The peer does not know the one that we rekey.
    ChildUnknown(Option<Spi>),
    /// Another one has its place.
    ChildReplaced { old: Spi, by: Spi },
    /// Our rekey of it is under way, or is not any more.
    ChildRekeying(Spi, bool),
    /// It is to be rekeyed then.
    ChildRekeyAt(Spi, Instant),
    /// The peer rekeys it.
    ChildCollides(Spi, RekeyCollision),
    /// The peer has no lane with this number.
    LaneRefused(u8),
    /// The peer grants less than it is asked for.
    Narrows,
    /// Something may be missing that is to be looked for.
    Missing,

    /// Our rekey of the IKE SA is under way.
    RekeyBegun,
    /// It came to nothing.
    RekeyFailed,
    /// It is not to be tried again soon.
    RekeyPutOff,
    /// It came to nothing, or has lost: what the peer's has made inherits, now or when it is complete.
    RekeyYields,
    /// It has made that IKE SA, which stays.
    RekeyMade(SaId),
    /// The peer rekeys the IKE SA, with that lowest nonce, and has made that one, if it is complete.
    RekeyCollides(Vec<u8>, Option<SaId>),
    /// The IKE SA that the peer has made takes over.
    LeftTo(SaId, Then),

    /// The peer has to make one more key exchange, with this link, before it gets what it asked for.
    Awaits(Goal, Link),
    /// It has begun with something else.
    AwaitsNothing,

    /// The peer is told that these addresses are ours, too.
    OwnAddresses(Vec<IpAddr>),
    /// The peer names these as its own.
    AddressesOfPeer(Vec<IpAddr>),
    /// The peer can perhaps be reached at these.
    CandidatesOfPeer(Vec<Candidate>),
    /// How the peer sees us at our new address, where it says so.
    SeenAnew(Option<[u8; 20]>),
    /// How the peer sees us by now.
    Seen([u8; 20]),
}

impl Session {
    pub(super) fn apply(&mut self, ctx: &mut Ctx, facts: &Facts, change: Change) {
        let now = ctx.now.instant;
        match change {
            Change::Want(task) => self.want(task),
            Change::WantFirst(task) => self.agenda.want_first(task),
            Change::ChildCame(creation, secrets) => self.install(ctx, facts.id, *creation, &secrets),
            Change::ChildMade(creation, secrets) => self.take_made(ctx, facts, *creation, &secrets),
            Change::ChildGranted(creation, secrets, id) => self.take_granted(ctx, facts.id, id, *creation, &secrets),
            Change::Orphan(spi) => self.want(Task::DeleteOrphan(spi)),
            Change::ChildFailed(plan, cause) => self.retry_child(ctx, &plan, &cause),
            Change::ChildDeleted(inbound) => self.end_child(ctx, inbound, false),
            Change::ChildUnknown(inbound) => {
                inbound.into_iter().for_each(|inbound| self.children.remove(ctx, inbound));
                self.want_missing_children(facts.features.adit);
            }
            Change::ChildReplaced { old, by } => self.children.replace(old, by, now),
            Change::ChildRekeying(inbound, under_way) => self.children.set_rekeying(inbound, under_way),
            Change::ChildRekeyAt(inbound, at) => self.children.rekey_at(inbound, at),
            Change::ChildCollides(inbound, collision) => self.children.collide(inbound, collision),
            Change::LaneRefused(lane) => self.wants.refuse_lane(lane),
            Change::Narrows => self.wants.note_narrowing(),
            Change::Missing => self.wants.look_at(now),
            Change::RekeyBegun => self.succession.set_rekeying(true),
            Change::RekeyFailed => self.succession.set_rekeying(false),
            Change::RekeyPutOff => self.lifetimes.rekey_later(now, ctx.random),
            Change::RekeyYields => self.yield_rekey(ctx),
            Change::RekeyMade(successor) => self.leave_to_own(ctx, successor),
            Change::RekeyCollides(lowest_nonce, sa) => self.succession.collide(lowest_nonce, sa),
            Change::LeftTo(successor, then) => self.leave_to(ctx, successor, then),
            Change::Awaits(goal, link) => self.awaited.begin(ctx, goal, link),
            Change::AwaitsNothing => self.awaited.forget(ctx),
            Change::OwnAddresses(own) => self.addresses.reported(own),
            Change::AddressesOfPeer(addresses) => self.addresses.set_of_peer(addresses),
            Change::CandidatesOfPeer(all) => evidence::look_at_candidates(ctx, self.peer, all),
            Change::SeenAnew(seen) => self.addresses.set_seen(seen),
            Change::Seen(seen) => {
                if self.addresses.take_seen(seen) {
                    self.want(Task::UpdateAddresses);
                }
            }
        }
    }
}
