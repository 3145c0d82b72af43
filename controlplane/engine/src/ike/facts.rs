//! What an IKE SA is: its name, who began it, and what both ends can do.

use adit_proto::ike::IkeSpi;

/// An IKE SA of this gateway: our SPI of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct SaId(pub IkeSpi);

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
}
