//! Peers whose endpoints have names, or are neighbours on an interface: they are looked for where these are now.

use adit_engine::ike::{ConnectionState, Event};
use adit_proto::control::PeerId;

use super::Gateway;

impl Gateway {
    /// Names stand for other addresses, or interfaces have other indices: the engine learns of it. What is not attached yet learns it
    /// when it is.
    pub(super) fn look_for_peers(&mut self) {
        let config = &self.desired.config;
        if let Some(ike) = &mut self.ike {
            let moved = ike.look_for((config, &self.ids), self.underlay.resolver.known());
            if moved > 0 {
                tracing::debug!("{moved} peers are looked for at other addresses now");
            }
        }
    }

    /// A peer that we go to does not answer: its name may stand for another address by now.
    pub(super) fn look_again(&self, event: &Event) {
        if let Event::State { peer, state: ConnectionState::Reconnecting, cause: Some(_), .. } = event
            && let Some(place) = self.place_of(*peer)
        {
            self.underlay.resolver.again(&self.desired.config.peers[place]);
        }
    }

    fn place_of(&self, id: PeerId) -> Option<usize> {
        self.ids.iter().position(|one| *one == id).filter(|place| *place < self.desired.config.peers.len())
    }
}
