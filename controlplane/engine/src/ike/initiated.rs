//! What a request of ours needs when its answer comes, whichever exchange it is of.

use super::auth;
use super::context::Ctx;
use super::create_child;
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
