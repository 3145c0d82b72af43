//! What the log says of the peers: each reason once, and what comes with every connection only while all is well.

use std::time::Instant;

use adit_engine::ike::{Cause, ChildKeys, ConnectionState, Event, IkeSpis};
use adit_engine::path::PathEvent;
use adit_proto::control::PeerId;

use super::black_holes::BlackHoles;
use super::log_budget::LogBudget;
use super::log_dedup::{InitiatorLog, LogDedup, reason};
use super::standing::{Line, Look, Standings};
use crate::ike::Ike;
use crate::ike::report::ends;
use crate::trouble::repeated;

/// What was said of the peers, and of those who are none.
#[derive(Debug, Default)]
pub struct PeerLog {
    said: LogDedup,
    budget: LogBudget,
    initiators: InitiatorLog,
    standings: Standings,
    black_holes: BlackHoles,
    /// What is told is from before this process.
    resumes: bool,
}

impl PeerLog {
    /// From here on, or no more, connections are told that go on from the process before this one: one line says how many these are.
    pub fn resume(&mut self, on: bool) {
        self.resumes = on;
    }

    /// Writes into the log what has happened, each reason once.
    pub fn tell(&mut self, event: &Event, ike: &Ike) {
        let now = Instant::now();
        if let Some((peer, line)) = of_little_news(event) {
            tracing::debug!(peer = name_of(ike, peer), "{line}");
            return;
        }
        match event {
            Event::State { peer, state, cause, spis } => {
                self.tell_state(now, (*peer, name_of(ike, *peer)), *state, cause.as_ref(), *spis)
            }
            Event::IkeUp { peer, spis, replaces } => {
                if let Some(hop) = ike.hop(*peer) {
                    self.initiators.forget(hop.site());
                }
                match replaces {
                    Some(old) if self.said.has_authenticated(*peer) => {
                        tracing::info!(peer = name_of(ike, *peer), "IKE SA {spis} takes the place of {old} after all");
                    }
                    Some(old) => self.detail(now, *peer, ike, &format!("IKE SA {spis} takes the place of {old}")),
                    // That the peer is connected by it is said with its state.
                    None => tracing::debug!(peer = name_of(ike, *peer), "IKE SA {spis} is up"),
                }
            }
            Event::IkeDown { peer, spis, cause } => self.detail(now, *peer, ike, &format!("IKE SA {spis} is gone: {cause}")),
            Event::ChildFailed { peer, spis, cause } => {
                let line = format!("no SA for the traffic: {cause}");
                let name = name_of(ike, *peer);
                match self.said.news(now, *peer, &reason(cause), None, true) {
                    Some(times) => {
                        let again = repeated(times);
                        tracing::warn!(peer = name, ike = %spis, "{line}{again}. `adit explain {name}` says more");
                    }
                    None => tracing::debug!(peer = name, ike = %spis, "{line}"),
                }
            }
            Event::InstallOutbound(keys) => self.detail(now, keys.peer, ike, &format!("outbound SA {}", described(keys))),
            Event::Path(event) => self.tell_path(now, event, ike),
            Event::Refused { from, why, more } => {
                if let Some(line) = self.initiators.line(now, *from, why, *more) {
                    tracing::warn!("{line}");
                }
            }
            Event::IkeWaits { .. }
            | Event::InstallInbound(_)
            | Event::RemoveInbound { .. }
            | Event::RemoveOutbound { .. }
            | Event::Address { .. }
            | Event::KeyLog(_) => {}
        }
    }

    fn tell_path(&mut self, now: Instant, event: &PathEvent, ike: &Ike) {
        match event {
            PathEvent::Set { peer, path: path_id, hop, mtu, .. } => {
                let (name, path) = (name_of(ike, *peer), path_id.index());
                let [local, remote] = ends(hop);
                tracing::debug!(peer = name, "path {path} leads to {remote} from {local}, with packets of {mtu} bytes");
                if let Some(line) = self.black_holes.set(*peer, *path_id, *mtu) {
                    tracing::info!(peer = name, "{line}");
                }
            }
            PathEvent::Use { peer, path } => {
                let hop = ike.path(*peer, *path);
                let to = hop.map_or(String::new(), |hop| {
                    let [local, remote] = ends(&hop);
                    format!(": at {remote} from {local}")
                });
                self.detail(now, *peer, ike, &format!("is reached by path {} now{to}", path.index()));
            }
            PathEvent::BlackHole { peer, path, mtu } => {
                let name = name_of(ike, *peer);
                match self.black_holes.found(now, *peer, *path, *mtu) {
                    (line, true) => tracing::warn!(peer = name, "{line}"),
                    (line, false) => tracing::debug!(peer = name, "{line}"),
                }
            }
            PathEvent::Remove { peer, path } => self.black_holes.remove(*peer, *path),
            PathEvent::Peer { .. } | PathEvent::Echo { .. } => {}
        }
    }

    fn tell_state(
        &mut self,
        now: Instant,
        (peer, name): (PeerId, &str),
        state: ConnectionState,
        cause: Option<&Cause>,
        spis: Option<IkeSpis>,
    ) {
        let failure = cause.is_some_and(|cause| !matches!(cause, Cause::Command | Cause::Replaced | Cause::Removed));
        let line = match cause {
            // What there is goes on.
            Some(cause) if failure && state.is_up() => format!("could not be authenticated anew: {cause}"),
            Some(cause) => format!("{}: {cause}", state.name()),
            None => state.name().to_owned(),
        };
        // The same reason is the same news, whatever is done about it.
        let reason = cause.filter(|_| failure).map(reason);
        let news = self.said.news(now, peer, reason.as_ref().unwrap_or(&line), Some(state.is_up()), failure);
        let ike = spis.map_or_else(|| "-".to_owned(), |spis| spis.to_string());
        let again = news.map_or_else(String::new, repeated);
        match (news, failure) {
            (Some(_), true) => tracing::warn!(peer = name, ike, "{line}{again}. `adit explain {name}` says more"),
            (Some(_), false) if self.resumes && state.is_up() => tracing::debug!(peer = name, ike, "{line}, as before"),
            (Some(_), false) => tracing::info!(peer = name, ike, "{line}{again}"),
            (None, _) => tracing::debug!(peer = name, ike, "{line}"),
        }
    }

    /// Says of which peers all is well again after what came too often to be reported, and of which something was left out.
    pub fn tell_recovered(&mut self, ike: &Ike) {
        for (peer, times) in self.said.well_again(Instant::now()) {
            let name = name_of(ike, peer);
            tracing::info!(peer = name, "well again; before that it failed {times} more times, as was reported before");
        }
        for (peer, lines) in self.budget.left_out(Instant::now()) {
            let name = name_of(ike, peer);
            tracing::info!(peer = name, "made or replaced SAs so fast that {lines} lines about them were left out");
        }
    }

    /// Says which peers lack something though they are connected, and which lack nothing any more. To be called every few seconds.
    pub fn tell_standing<'a>(&mut self, peers: impl Iterator<Item = Look<'a>>) {
        let now = Instant::now();
        for look in peers {
            match self.standings.look(now, look, &mut self.said) {
                Some(Line::Complaint(line)) => tracing::warn!(peer = look.name, "{line}"),
                Some(Line::Recovery(line)) => tracing::info!(peer = look.name, "{line}"),
                Some(Line::Repeated(line)) => tracing::debug!(peer = look.name, "{line}"),
                None => {}
            }
        }
    }

    /// What comes with every connection; while a peer does not come up for good, nobody wants to read it, nor all of it where it does not end.
    fn detail(&mut self, now: Instant, peer: PeerId, ike: &Ike, line: &str) {
        let name = name_of(ike, peer);
        if self.resumes || self.said.is_failing(now, peer) || !self.budget.take(now, peer, ike.sas_wanted(peer)) {
            tracing::debug!(peer = name, "{line}");
        } else {
            tracing::info!(peer = name, "{line}");
        }
    }

    /// A person has given a command about the peer, or changed it: what follows is news.
    pub fn forget(&mut self, peer: PeerId) {
        self.said.forget(peer);
        self.standings.forget(peer);
    }
}

fn name_of(ike: &Ike, id: PeerId) -> &str {
    ike.name(id).unwrap_or("?")
}

/// What is said otherwise: the SA that we receive on by the one that we send on, which follows it; what goes by what takes its place.
fn of_little_news(event: &Event) -> Option<(PeerId, String)> {
    Some(match event {
        Event::IkeWaits { peer, spis } => {
            (*peer, format!("IKE SA {spis} is authenticated, and waits for a sign that the peer has it"))
        }
        Event::IkeDown { peer, spis, cause: Cause::Replaced } => (*peer, format!("IKE SA {spis} is gone: {}", Cause::Replaced)),
        Event::InstallInbound(keys) => (keys.peer, format!("inbound SA {}", described(keys))),
        Event::RemoveInbound { peer, spi } => (*peer, format!("inbound SA {:08x} removed", spi.0)),
        Event::RemoveOutbound { peer, spi } => (*peer, format!("outbound SA {:08x} removed", spi.0)),
        _ => return None,
    })
}

fn described(keys: &ChildKeys) -> String {
    format!("{:08x} ({}) installed on lane {}", keys.spi.0, keys.suite, keys.lane)
}
