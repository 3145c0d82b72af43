//! A hub learns which stations are on its own side, so that what peers send them goes to nobody else ([`crate::hub`]).

use adit_proto::control::Mac;
use adit_proto::stats::Drop;

use super::{Outbound, READ_AT};
use crate::environment::Environment;
use crate::forward::{HERE, Learned, Route};
use crate::hub;
use crate::limits::FRAME_HEADROOM;
use crate::state::State;

impl Outbound {
    /// The read buffer holds a frame from the TAP of a hub; `len` counts the virtio-net header too. Learns its source. True when it may
    /// go to peers.
    pub(super) fn is_from_here(&self, len: usize, destination: Mac, state: &mut State, env: &mut Environment) -> bool {
        let Some(&source) = self.buffer[FRAME_HEADROOM + 6..].first_chunk::<6>() else { return false };
        let learned = hub::learn(source, HERE, state, env);
        let why = match (learned, state.fdb.route(destination, state.now_s)) {
            (Learned::Elsewhere, _) => Drop::MacElsewhere,
            (Learned::Disputed | Learned::Group, Route::Flood) => Drop::MacDisputed,
            (_, Route::Peer(HERE)) => Drop::SameSide,
            (_, Route::Flood) if self.circles(len, state) => Drop::Circling,
            _ => return true,
        };
        self.lose(why, len, env);
        false
    }

    fn circles(&self, len: usize, state: &mut State) -> bool {
        let frame = &self.buffer[FRAME_HEADROOM..READ_AT + len];
        state.hub.as_mut().is_some_and(|hub| hub.circles(frame, state.now_s))
    }
}
