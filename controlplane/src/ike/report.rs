//! What the engine knows, in the types of the API.

use std::collections::BTreeMap;
use std::time::Instant;

use adit_engine::ike::{
    ConnectionState, Counters, Endpoint, Explanation, IkeStatus, Missing, Narrowed, Offers, PeerStatus, Refusal, Role, Wish,
};
use adit_engine::path::{Hop, PathStatus, UdpHop};
use adit_engine::shown::Shown;
use adit_proto::control::PeerId;

use crate::children::{self, Pair};
use crate::schema;

/// What the engine knows of all peers, by their places in the configuration.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// When the engine was asked; `None` when it never was.
    pub made: Option<Instant>,
    /// Of all peers.
    pub paths: BTreeMap<usize, Vec<PathStatus>>,
    /// Of those that use IKE.
    pub peers: BTreeMap<usize, ByIke>,
    pub half_open: usize,
    /// Peers whose routes are to be looked up again, and have not had their turn.
    pub lookups_waiting: usize,
    /// Counts over all peers, and those that belong to none.
    pub total: Counters,
}

/// A peer that uses IKE.
#[derive(Clone, Debug)]
pub struct ByIke {
    pub state: ConnectionState,
    /// Since it is in this state.
    pub since: Instant,
    pub cause: Option<String>,
    /// When the keys of the IKE SA in use were agreed, by a handshake or a rekey.
    pub handshake: Option<Instant>,
    pub children: Vec<Pair>,
    pub missing: Vec<schema::MissingSelector>,
    pub narrowed: Vec<schema::NarrowedSelector>,
    pub ike: schema::Ike,
    pub counters: Counters,
}

/// `ids` are those of all peers, `places` those of the ones that use IKE.
pub fn of(endpoint: &Endpoint, ids: &[PeerId], places: &BTreeMap<PeerId, usize>, now: Instant) -> Report {
    let mut report = Report { made: Some(now), half_open: endpoint.half_open(), total: endpoint.counters(), ..Report::default() };
    report.lookups_waiting = endpoint.all_paths().lookups_waiting();
    report.paths = ids.iter().enumerate().map(|(place, id)| (place, endpoint.paths(*id))).collect();
    for (id, place) in places {
        if let Some(status) = endpoint.status(*id) {
            let mut by_ike = peer(&status, now);
            if status.state.is_up() && by_ike.children.is_empty() {
                let problem = endpoint.explain(*id, now).and_then(|reported| reported.record.problem);
                by_ike.cause = problem.map(|problem| format!("no SA for the traffic: {}", problem.cause));
            }
            report.peers.insert(*place, by_ike);
        }
    }
    report
}

fn peer(status: &PeerStatus, now: Instant) -> ByIke {
    let counters = status.counters.iter().filter(|(_, count)| *count > 0);
    ByIke {
        state: status.state,
        since: status.since,
        cause: status.cause.as_ref().filter(|_| !status.state.is_up()).map(ToString::to_string),
        handshake: status.ike.first().map(|ike| ike.established),
        children: children::of_ike(&status.ike),
        missing: status.ike.iter().flat_map(|ike| missing(ike, now)).collect(),
        narrowed: status.ike.iter().flat_map(|ike| narrowed(ike, now)).collect(),
        ike: schema::Ike {
            state: status.state.name().to_owned(),
            attempts: status.attempts,
            retry_in_s: status.retry_at.map(|at| ahead(at, now)),
            sas: status.ike.iter().map(|ike| ike_sa(ike, now)).collect(),
            counters: counters.map(|(name, count)| (name.to_owned(), count)).collect(),
        },
        counters: status.counters,
    }
}

/// The two ends of a way, ours first. A stream has none: the relay is where it begins.
pub fn ends(hop: &Hop) -> [String; 2] {
    match hop {
        Hop::Udp(UdpHop { local, remote, .. }) => [local.to_string(), remote.to_string()],
        Hop::Stream(stream) => [schema::RELAY_END.to_owned(), stream.to_string()],
    }
}

fn ike_sa(ike: &IkeStatus, now: Instant) -> schema::IkeSa {
    let [local, remote] = ends(&ike.hop);
    schema::IkeSa {
        initiator_spi: ike.spis.initiator.to_string(),
        responder_spi: ike.spis.responder.to_string(),
        role: role(ike.role).to_owned(),
        suite: ike.suite.clone(),
        post_quantum: ike.post_quantum,
        ppk: ike.ppk,
        remote_id: ike.remote_id.to_string(),
        proof: ike.proof.to_string(),
        age_s: age(ike.established, now),
        idle_s: age(ike.last_heard, now),
        rekey_in_s: ike.rekey_at.map(|at| ahead(at, now)),
        reauth_in_s: ike.reauth_at.map(|at| ahead(at, now)),
        peer_certificate_until: ike.peer_certificate_until,
        peer_certificate_remaining_s: ike.peer_certificate_until.map(schema::remaining_s),
        own_certificate_until: ike.own_certificate_until,
        local,
        remote,
        nat_here: ike.nat.here,
        nat_there: ike.nat.there,
        mobike: ike.mobike,
        adit: ike.adit,
        going: ike.is_going,
        // What the data plane says of them is added where they are shown.
        children: Vec::new(),
    }
}

/// What is missing is so only in the IKE SA that has the Child SAs.
fn missing(ike: &IkeStatus, now: Instant) -> Vec<schema::MissingSelector> {
    let of = |one: &Missing| match &one.wish {
        Wish::Selector(_, selector) => Some(schema::MissingSelector {
            selector: selector.to_string(),
            cause: one.cause.as_ref().map(ToString::to_string),
            retry_in_s: one.retry_at.filter(|at| *at > now).map(|at| ahead(at, now)),
        }),
        Wish::Any(_) | Wish::Lane(..) => None,
    };
    if ike.is_going { Vec::new() } else { ike.missing.iter().filter_map(of).collect() }
}

/// The same of what there is a part of.
fn narrowed(ike: &IkeStatus, now: Instant) -> Vec<schema::NarrowedSelector> {
    let of = |one: &Narrowed| schema::NarrowedSelector {
        selector: one.selector.to_string(),
        carried: one.carried.iter().map(ToString::to_string).collect(),
        cause: one.cause.as_ref().map(ToString::to_string),
        retry_in_s: one.retry_at.filter(|at| *at > now).map(|at| ahead(at, now)),
    };
    if ike.is_going { Vec::new() } else { ike.narrowed.iter().map(of).collect() }
}

/// What is wrong with the way to a peer, for a person.
fn about_path(path: &PathStatus) -> Option<String> {
    let PathStatus { mtu, mtu_route, mtu_reported, black_holes, hop, .. } = path;
    (path.in_use && mtu < mtu_route).then(|| {
        let why = match black_holes {
            // Hosts are told more for as long as it is looked for what arrives.
            0 if mtu_reported > mtu => "it is still being tried whether larger ones arrive".to_owned(),
            0 => "larger ones do not arrive".to_owned(),
            1 => "larger ones vanished once, and nobody said so".to_owned(),
            times => format!("larger ones vanished {times} times, and nobody said so"),
        };
        format!("the way to {} carries packets of {mtu} bytes, though the route says {mtu_route}: {why}", hop.remote())
    })
}

/// Why the last negotiation with a peer came to nothing, and what is to be said of its Child SAs and paths.
pub fn explanation(
    explanation: &Explanation,
    status: Option<&PeerStatus>,
    paths: &[PathStatus],
    now: Instant,
) -> schema::Explanation {
    let record = &explanation.record;
    let offers = |what: &str, offers: &Offers| schema::Offers {
        what: what.to_owned(),
        ours: texts(&offers.ours),
        theirs: texts(&offers.theirs),
        chosen: offers.chosen.as_ref().map(ToString::to_string),
    };
    let all = [
        offers("IKE algorithms", &record.ike),
        offers("ESP algorithms", &record.child),
        offers("traffic selectors", &record.selectors),
        offers("identity of the peer", &record.identities),
        offers("identity of this gateway", &record.own_identity),
        offers("post-quantum pre-shared key", &record.ppk),
    ];
    let differences = record.differences();
    schema::Explanation {
        peer: explanation.peer.clone(),
        state: explanation.state.name().to_owned(),
        since_s: Some(explanation.in_state_for.as_secs()),
        cause: explanation.cause.as_ref().map(ToString::to_string),
        problem: record.problem.as_ref().map(|problem| problem.cause.to_string()),
        role: record.role.map(|one| role(one).to_owned()),
        hint: record.hint.as_ref().map(ToString::to_string),
        remedy: record.problem.as_ref().map(|problem| problem.remedy.clone()),
        differences: differences
            .iter()
            .map(|one| schema::Difference { what: one.what.to_owned(), ours: one.ours.clone(), theirs: one.theirs.clone() })
            .collect(),
        offers: all.into_iter().filter(|offers| !offers.ours.is_empty() || !offers.theirs.is_empty()).collect(),
        lacks: Vec::new(),
        way: None,
        paths: paths.iter().filter_map(about_path).collect(),
        drops: Vec::new(),
        missing: status.and_then(|status| status.ike.first()).map(|ike| missing(ike, now)).unwrap_or_default(),
        overlaps: Vec::new(),
        narrowed: status.and_then(|status| status.ike.first()).map(|ike| narrowed(ike, now)).unwrap_or_default(),
        unauthenticated: unauthenticated(&explanation.unauthenticated),
    }
}

/// What is to be said of a peer with a static key.
pub fn of_static_key(peer: &schema::Peer, paths: &[PathStatus]) -> schema::Explanation {
    schema::Explanation {
        peer: peer.name.clone(),
        state: peer.state.clone(),
        since_s: peer.since_s,
        cause: peer.cause.clone(),
        problem: None,
        role: None,
        hint: None,
        remedy: None,
        differences: Vec::new(),
        offers: Vec::new(),
        lacks: Vec::new(),
        way: None,
        paths: paths.iter().filter_map(about_path).collect(),
        drops: Vec::new(),
        missing: Vec::new(),
        overlaps: Vec::new(),
        narrowed: Vec::new(),
        unauthenticated: Vec::new(),
    }
}

/// Who tried again and again is listed once, with how often.
fn unauthenticated(refusals: &[Refusal]) -> Vec<schema::UnauthenticatedInitiator> {
    let mut list: Vec<schema::UnauthenticatedInitiator> = Vec::new();
    for refusal in refusals {
        let (from, why, theirs) = (refusal.from.to_string(), refusal.why.to_string(), texts(&refusal.theirs));
        let same = |one: &&mut schema::UnauthenticatedInitiator| one.from == from && one.why == why && one.theirs == theirs;
        match list.iter_mut().find(same) {
            Some(known) => (known.at, known.times) = (refusal.at, known.times + 1),
            None => list.push(schema::UnauthenticatedInitiator {
                from,
                at: refusal.at,
                times: 1,
                why,
                ours: texts(&refusal.ours),
                theirs,
            }),
        }
    }
    list
}

fn texts(list: &[Shown]) -> Vec<String> {
    list.iter().map(ToString::to_string).collect()
}

fn role(role: Role) -> &'static str {
    match role {
        Role::Initiator => "initiator",
        Role::Responder => "responder",
    }
}

fn age(since: Instant, now: Instant) -> u64 {
    now.saturating_duration_since(since).as_secs()
}

fn ahead(at: Instant, now: Instant) -> u64 {
    at.saturating_duration_since(now).as_secs()
}

#[cfg(test)]
mod tests {
    use adit_engine::path::{Hop, PathId};

    use super::*;

    #[test]
    fn what_was_not_tried_does_not_arrive_or_vanishes_is_told_apart() {
        let hop = Hop::new("192.0.2.1:4500".parse().unwrap(), "192.0.2.2:4500".parse().unwrap());
        let known = PathStatus {
            path: PathId::FIRST,
            hop,
            proven: true,
            in_use: true,
            ike: false,
            mtu: 1400,
            mtu_proven: Some(1400),
            mtu_route: 1500,
            mtu_reported: 1400,
            split: false,
            echo: true,
            silent: false,
            rtt: None,
            loss: None,
            black_holes: 0,
        };
        let why = |path: PathStatus| {
            let line = about_path(&path)?;
            let (is_said, why) = line.rsplit_once(": ")?;
            assert_eq!(is_said, "the way to 192.0.2.2:4500 carries packets of 1400 bytes, though the route says 1500");
            Some(why.to_owned())
        };
        let all = [
            (PathStatus { mtu_reported: 1500, ..known }, "it is still being tried whether larger ones arrive"),
            (known, "larger ones do not arrive"),
            (PathStatus { black_holes: 1, ..known }, "larger ones vanished once, and nobody said so"),
            // While it looks for what arrives after one.
            (PathStatus { black_holes: 2, mtu_reported: 1450, ..known }, "larger ones vanished 2 times, and nobody said so"),
        ];
        for (path, expected) in all {
            assert_eq!(why(path).as_deref(), Some(expected));
        }
        assert_eq!(why(PathStatus { in_use: false, ..known }), None);
        assert_eq!(why(PathStatus { mtu_route: 1400, ..known }), None, "it carries all that it could");
    }
}
