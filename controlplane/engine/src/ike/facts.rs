//! What an IKE SA is: its two ends, the way between them, and what both can do.

use adit_proto::control::PeerId;
use adit_proto::ike::{IkeSpi, Payload};

use crate::path::{Hop, Site};

use super::nat::{self, NatStatus};

/// An IKE SA of this gateway: our SPI of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct SaId(pub IkeSpi);

/// The two SPIs of an IKE SA.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IkeSpis {
    pub initiator: IkeSpi,
    pub responder: IkeSpi,
}

impl std::fmt::Display for IkeSpis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}_i {}_r", self.initiator, self.responder)
    }
}

/// Who began the IKE SA: the "original initiator" of RFC 7296 §2.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    Initiator,
    Responder,
}

/// What the peer's first message says that it can do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Features {
    /// RFC 7383.
    pub fragmentation: bool,
    /// RFC 9242.
    pub intermediate: bool,
    /// RFC 8784, wanted by both.
    pub ppk: bool,
    /// It is one of us.
    pub adit: bool,
    /// RFC 4555, wanted by both.
    pub mobike: bool,
    /// RFC 6023, said by the responder only.
    pub childless: bool,
    /// Both data planes answer sealed echoes.
    pub echo: bool,
    /// Both take what is too long for the path in two packets.
    pub split: bool,
    /// Both say where they can perhaps be reached by UDP.
    pub candidates: bool,
    /// The key by which a relay knows the peer, as it says itself.
    pub stream_key: Option<[u8; 32]>,
}

/// What the exchanges need to know of the IKE SA that they belong to.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    pub id: SaId,
    pub role: Role,
    pub spis: IkeSpis,
    /// Known from the start by the initiator, from IKE_AUTH on by the responder.
    pub peer: Option<PeerId>,
    /// Where it is negotiated. Once the peer is authenticated [`crate::path`] knows better.
    pub hop: Hop,
    /// With whom it was begun. Whoever goes on with it has had the answer that went there; where a later message comes from shows nothing.
    pub begun: Site,
    pub nat: NatStatus,
    pub features: Features,
}

impl Facts {
    pub(super) fn new(role: Role, spis: IkeSpis, hop: Hop) -> Facts {
        let id = SaId(if role == Role::Initiator { spis.initiator } else { spis.responder });
        let begun = hop.site();
        Facts { id, role, spis, peer: None, hop, begun, nat: NatStatus::default(), features: Features::default() }
    }

    /// The hashes of NAT detection for a message that goes this way. With `force` the peer sees a NAT.
    pub(super) fn detection(&self, hop: &Hop, force: bool) -> Vec<Payload> {
        nat::detection((self.spis.initiator, self.spis.responder), hop, force)
    }

    /// Whether our original role in the IKE SA is that of the initiator.
    pub(super) fn is_initiator(&self) -> bool {
        self.role == Role::Initiator
    }
}
