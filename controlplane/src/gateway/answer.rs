//! What the API asks the loop for.

use adit_proto::control::PeerId;

use super::{Gateway, Plane};
use crate::ike::report;
use crate::request::{PeerCommand, Request, RequestError, What};
use crate::schema::{Explanation, Stopping};
use crate::view::drops::likely_causes;

impl Gateway {
    /// Answers the API.
    /// True when the data plane is to be replaced.
    pub(super) async fn answer(&mut self, plane: Option<&mut Plane>, request: Request) -> bool {
        // Where nobody waits for an answer any more, nothing is lost.
        match request {
            Request::Peer(peer, what) => {
                // Whoever has renewed a certificate and connects means that one.
                if let (What::Command(PeerCommand::Connect, _), Some(plane)) = (&what, plane) {
                    self.take_renewed(plane, true).await;
                }
                self.answer_about(peer, what);
            }
            Request::Stop(reply) => {
                let planes = Stopping { control_plane: std::process::id(), data_plane: self.view.info().map(|info| info.pid) };
                tracing::info!("told to stop, with the data plane");
                self.options.leave_dataplane = false;
                self.requests.stop();
                let _ = reply.send(planes);
            }
            Request::Look(reply) => {
                self.publish_ike();
                let _ = reply.send(());
            }
            Request::Reload(options, reply) => {
                let answer = self.reload(plane, options).await;
                let replaces = answer.as_ref().is_ok_and(|done| done.done && done.replaces_dataplane);
                let _ = reply.send(answer);
                return replaces;
            }
        }
        false
    }

    fn answer_about(&mut self, peer: String, what: What) {
        match what {
            What::Command(command, reply) => {
                let answer = self.peer_of_ike(&peer).and_then(|id| {
                    tracing::info!(peer, "command: {command:?}");
                    self.peer_log.forget(id);
                    let ike = self.ike.as_mut().ok_or(RequestError::NotReady)?;
                    ike.command(id, command).map_err(|error| RequestError::Refused(format!("{peer}: {error}")))
                });
                let _ = reply.send(answer);
            }
            What::Explain(reply) => {
                let answer = self.explain(&peer);
                let _ = reply.send(answer);
            }
        }
    }

    /// What is to be said of a peer, whoever makes its keys.
    fn explain(&self, name: &str) -> Result<Explanation, RequestError> {
        let place = self.desired.place_named(name)?;
        self.publish_ike();
        let peer = self.view.peer(&self.desired, place).ok_or(RequestError::NotReady)?.peer;
        let explanation = if self.desired.config.peers[place].ike().is_some() {
            let id = self.ids.get(place).copied();
            id.and_then(|id| self.ike.as_ref()?.explain(id)).ok_or(RequestError::NotReady)?
        } else {
            let ike = self.view.ike();
            report::of_static_key(&peer, ike.paths.get(&place).map_or(&[], Vec::as_slice))
        };
        let (overlaps, way) = (self.view.overlaps(Some(place)), self.way_to(place));
        let explanation = Explanation { drops: likely_causes(&peer), lacks: peer.lacks, overlaps, way, ..explanation };
        Ok(self.without_relay(place, explanation))
    }

    /// Where a peer has no other way than the relay, and this gateway is not registered there, that is the cause, whatever else was said.
    fn without_relay(&self, place: usize, explanation: Explanation) -> Explanation {
        let has_endpoint = self.desired.config.peers.get(place).is_none_or(|peer| !peer.endpoints.is_empty());
        match self.streams.out_of_relay().filter(|_| !has_endpoint && explanation.way.is_some()) {
            Some(out) => Explanation {
                problem: Some(out),
                remedy: Some("see above; it is tried again by itself, and adit relay check -c FILE tries it at once".to_owned()),
                ..explanation
            },
            None => explanation,
        }
    }

    fn peer_of_ike(&self, name: &str) -> Result<PeerId, RequestError> {
        let place = self.desired.place_named(name)?;
        if self.desired.config.peers[place].ike().is_none() {
            return Err(RequestError::StaticKey(name.to_owned()));
        }
        self.ids.get(place).copied().ok_or(RequestError::NotReady)
    }
}
