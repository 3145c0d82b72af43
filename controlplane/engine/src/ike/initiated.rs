//! What a request of ours needs when its answer comes, whichever exchange it is of.

use adit_proto::control::Spi;

use super::agenda::Task;
use super::auth;
use super::context::Ctx;
use super::create_child;
use super::exchange::UnderWay;
use super::followup;
use super::informational::{self, Orphan};
use super::intermediate;
use super::rekey_ike;
use super::sa_init;

pub(super) enum Initiated {
    SaInit(Box<sa_init::Sent>),
    Intermediate(Box<intermediate::Sent>),
    Auth(Box<auth::Sent>),
    CreateChild(Box<create_child::Sent>),
    RekeyIke(Box<rekey_ike::Sent>),
    FollowUp(Box<followup::Sent>),
    Informational(informational::Sent),
    /// The process that sent it is gone, and with it what it knew.
    Orphan(Orphan),
}

impl Initiated {
    /// What it means for the exchanges that the peer begins meanwhile.
    pub(super) fn seen(&self) -> UnderWay<'_> {
        match self {
            Initiated::CreateChild(_) => UnderWay { deletes: &[], is_about_child: true },
            Initiated::FollowUp(sent) => UnderWay { deletes: &[], is_about_child: sent.inbound().is_some() },
            Initiated::Informational(informational::Sent::DeleteChildren(spis)) => {
                UnderWay { deletes: spis, is_about_child: true }
            }
            // Whether the peer has made it, or has it no more, is learned from the answer alone.
            Initiated::Informational(informational::Sent::DeleteOrphan(_))
            | Initiated::Orphan(Orphan::Child(_) | Orphan::Deleted(_)) => UnderWay { deletes: &[], is_about_child: true },
            Initiated::SaInit(_)
            | Initiated::Intermediate(_)
            | Initiated::Auth(_)
            | Initiated::RekeyIke(_)
            | Initiated::Informational(_)
            | Initiated::Orphan(Orphan::Ike | Orphan::Other) => UnderWay::default(),
        }
    }

    /// The peer has deleted a Child SA that has a successor. Only the winner deletes what both rekey: if it is about that one, ours has lost,
    /// whatever its answer says.
    pub(super) fn overtake(&mut self, old: Spi) {
        let plan = match self {
            Initiated::CreateChild(sent) => Some(sent.plan_mut()),
            Initiated::FollowUp(sent) => sent.plan_mut(),
            Initiated::SaInit(_)
            | Initiated::Intermediate(_)
            | Initiated::Auth(_)
            | Initiated::RekeyIke(_)
            | Initiated::Informational(_)
            | Initiated::Orphan(_) => None,
        };
        if let Some(plan) = plan.filter(|plan| plan.replaces == Some(old)) {
            plan.overtaken = true;
        }
    }

    /// What has to be done again in another IKE SA, where the answer cannot come any more.
    pub(super) fn unfinished(&self) -> Option<Task> {
        match self {
            // Its answer would say to this one where ESP goes.
            Initiated::Informational(informational::Sent::Addresses(sent)) => sent.task(),
            Initiated::Informational(informational::Sent::Candidates(_)) => Some(Task::TellCandidates),
            Initiated::SaInit(_)
            | Initiated::Intermediate(_)
            | Initiated::Auth(_)
            | Initiated::CreateChild(_)
            | Initiated::RekeyIke(_)
            | Initiated::FollowUp(_)
            | Initiated::Informational(_)
            | Initiated::Orphan(_) => None,
        }
    }

    /// Gives back what was reserved for a request that came to nothing.
    pub(super) fn release(&self, ctx: &mut Ctx) {
        match self {
            Initiated::CreateChild(sent) => ctx.shared.spis.release(sent.inbound()),
            Initiated::Auth(sent) => sent.release(ctx),
            Initiated::FollowUp(sent) => sent.release(ctx),
            Initiated::Informational(informational::Sent::DeleteOrphan(spi))
            | Initiated::Orphan(Orphan::Child(spi) | Orphan::Deleted(spi)) => {
                ctx.shared.spis.release(*spi);
            }
            Initiated::SaInit(_)
            | Initiated::Intermediate(_)
            | Initiated::RekeyIke(_)
            | Initiated::Informational(_)
            | Initiated::Orphan(Orphan::Ike | Orphan::Other) => {}
        }
    }
}
