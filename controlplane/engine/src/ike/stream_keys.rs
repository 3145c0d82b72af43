//! The two ends of a stream. Whoever is in the rooms of a relay may say that it is a peer, and hand on what two others say to each other:
//! they would connect, and it could see how much goes when, hold it back or stop it. So each says in IKE_AUTH, which nobody between them
//! can change, by which key the relay knows it, and neither stays in a stream that ends at another key.

use std::collections::BTreeMap;

use adit_proto::control::StreamId;
use adit_proto::ike::{Notify, Payload};

use super::error::{Error, Incompatibility};
use super::facts::Facts;
use super::parts::Parts;
use super::vendor::STREAM_KEY;
use crate::path::{Hop, Site};

/// The public key by which a relay knows somebody.
pub type StreamKey = [u8; 32];

/// At which keys streams end.
#[derive(Debug, Default)]
pub(super) struct StreamKeys {
    own: Option<StreamKey>,
    of: BTreeMap<StreamId, StreamKey>,
}

impl StreamKeys {
    /// Another registration: no stream is known, and this is our key in it.
    pub(super) fn begin(&mut self, own: Option<StreamKey>) {
        *self = StreamKeys { own, of: BTreeMap::new() };
    }

    pub(super) fn know(&mut self, stream: StreamId, key: StreamKey) {
        self.of.insert(stream, key);
    }

    pub(super) fn forget(&mut self, stream: StreamId) {
        self.of.remove(&stream);
    }

    /// What IKE_AUTH says: at which key streams end here. Also where it goes by UDP, for what begins there may go on in a stream.
    pub(super) fn in_auth(&self, facts: &Facts) -> Option<Payload> {
        let own = self.own.filter(|_| facts.features.adit)?;
        Some(Notify::new(STREAM_KEY).with_data(own.to_vec()).into())
    }

    /// Whether the peer, which has proven who it is, is itself at the other end of the stream.
    ///
    /// # Errors
    /// Somebody else is, or nobody who is seen any more.
    pub(super) fn check(&self, facts: &Facts, parts: &Parts) -> Result<(), Error> {
        let Site::Stream(stream) = facts.begun else { return Ok(()) };
        if self.own.is_none() {
            // Nobody has said anything of keys.
            return Ok(());
        }
        match (self.of.get(&stream), StreamKeys::named(parts)) {
            (Some(end), Some(named)) if *end == named => Ok(()),
            _ => Err(Incompatibility::NotAtItsEnd.into()),
        }
    }

    /// The key that a message names.
    pub(super) fn named(parts: &Parts) -> Option<StreamKey> {
        parts.notify(STREAM_KEY).and_then(|notify| notify.data.as_slice().try_into().ok())
    }

    /// Whether an authenticated peer may be at the end of this way: of a stream only where that ends at the key that it has named.
    pub(super) fn may_go(&self, facts: &Facts, hop: Hop) -> bool {
        let (Hop::Stream(stream), Some(named)) = (hop, facts.features.stream_key) else { return true };
        self.own.is_none() || self.of.get(&stream) == Some(&named)
    }
}
