//! What the configuration says about IKEv2: who this gateway is, and what each peer has to prove and may agree on.

use std::path::PathBuf;
use std::sync::Arc;

use adit_engine::auth::{LocalKey, Psk, TrustAnchors};
use adit_engine::crypto::PublicKey;
use adit_engine::crypto::Secret;
use adit_engine::identity::{Identity, Pattern};
use adit_engine::ike::{ChildProposal, IkeProposal};

/// A file and what was read from it. Two are equal when the file is the same: secrets are not compared.
#[derive(Clone, Debug)]
pub struct Loaded<T> {
    pub file: PathBuf,
    pub value: T,
}

impl<T> PartialEq for Loaded<T> {
    fn eq(&self, other: &Loaded<T>) -> bool {
        self.file == other.file
    }
}

/// What concerns the gateway as a whole.
#[derive(Clone, Debug, PartialEq)]
pub struct Ike {
    /// Who we are, for every peer.
    pub id: Identity,
    /// What we prove it with, to peers without a preshared key.
    pub key: Option<OwnKey>,
    /// Where the keys of all SAs are written for a protocol analyser; nowhere, unless somebody analyses.
    pub key_log_dir: Option<PathBuf>,
}

/// Our private key, with its certificate if it has one.
#[derive(Clone, Debug, PartialEq)]
pub struct OwnKey {
    pub key: Loaded<Arc<LocalKey>>,
    pub certificate_file: Option<PathBuf>,
}

/// Who begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Both,
    Initiator,
    Responder,
}

impl Role {
    pub const ALL: [Role; 3] = [Role::Both, Role::Initiator, Role::Responder];

    pub const fn name(self) -> &'static str {
        match self {
            Role::Both => "both",
            Role::Initiator => "initiator",
            Role::Responder => "responder",
        }
    }
}

/// How a peer proves who it is.
#[derive(Clone, Debug, PartialEq)]
pub enum Proof {
    /// Both ends know this; we prove ourselves with it, too.
    Psk(Loaded<Psk>),
    /// The peer's public key (RFC 7670).
    PublicKey(Loaded<PublicKey>),
    /// A certificate that one of these CAs stands for.
    Ca(Loaded<Arc<TrustAnchors>>),
}

/// A post-quantum pre-shared key (RFC 8784), which is mixed into the keys of the SAs.
#[derive(Clone, Debug, PartialEq)]
pub struct Ppk {
    pub key: Loaded<Secret>,
    /// What both ends call it.
    pub id: String,
    /// Whether there is no connection without it.
    pub required: bool,
}

/// What is agreed with one peer.
#[derive(Clone, Debug, PartialEq)]
pub struct PeerIke {
    pub role: Role,
    pub id: Pattern,
    pub proof: Proof,
    pub ppk: Option<Ppk>,
    /// As written, with what it means.
    pub proposals: Vec<(String, IkeProposal)>,
    pub esp_proposals: Vec<(String, ChildProposal)>,
    /// Age at which a Child SA is replaced, in seconds; 0: none. The next three likewise.
    pub rekey_s: u32,
    pub rekey_bytes: u64,
    pub rekey_packets: u64,
    pub ike_rekey_s: u32,
    /// After this time both ends prove anew who they are, in seconds; 0: only before a certificate ends.
    pub reauth_s: u32,
    /// Silence after which the peer is probed (dead peer detection, DPD), in seconds; 0: never.
    pub dpd_s: u32,
    /// Interval of NAT keepalives where a NAT is on our side, in seconds; 0: none.
    pub keepalive_s: u32,
    /// Whether the SAs may move to other addresses (RFC 4555).
    pub mobike: bool,
}
