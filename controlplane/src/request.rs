//! What the API asks the loop of the gateway for, and why that can be refused.

use tokio::sync::oneshot;

use crate::schema;

/// A request with where its answer goes.
#[derive(Debug)]
pub enum Request {
    /// The view is to show how IKE does now.
    Look(oneshot::Sender<()>),
    /// Something about a peer.
    Peer(String, What),
    /// The gateway is to end, and its data plane with it.
    Stop(oneshot::Sender<schema::Stopping>),
    /// The configuration is to be read again.
    Reload(ReloadOptions, oneshot::Sender<Result<schema::Reload, RequestError>>),
}

/// What is asked for about a peer.
#[derive(Debug)]
pub enum What {
    Command(PeerCommand, oneshot::Sender<Result<(), RequestError>>),
    Explain(oneshot::Sender<Result<schema::Explanation, RequestError>>),
}

/// How the configuration is read again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReloadOptions {
    /// Say what would change, and change nothing.
    pub dry_run: bool,
    /// Do also what needs another data plane.
    pub restart_dataplane: bool,
}

/// What a person wants done with a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerCommand {
    Connect,
    Disconnect,
    /// The keys of all Child SAs.
    Rekey,
    RekeyIke,
}

/// Why a request cannot be answered.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    #[error("there is no peer {0}; the peers are {1}")]
    NoSuchPeer(String, String),
    #[error(
        "the peer {0} has a static key: there is nothing to negotiate. For IKE, replace static_key_file by ike: in the configuration"
    )]
    StaticKey(String),
    /// The configuration does not check: every mistake in it.
    #[error("nothing was changed, for the file has mistakes:\n{0}")]
    Unchecked(String),
    #[error("{0}")]
    Refused(String),
    #[error("the gateway is starting: try again in a moment")]
    NotReady,
}
