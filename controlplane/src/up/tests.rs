//! What a peer lacks, one thing after the other, and that whoever is asked says the same.

use super::*;
use crate::schema::{Explanation, Ike, MissingSelector, Sa, Traffic, Volume};
use crate::{explain, status};

const REMOTE: &str = "192.0.2.2:4500";

fn path(in_use: bool) -> PeerPath {
    PeerPath {
        id: 0,
        local: "192.0.2.1:4500".to_owned(),
        remote: REMOTE.to_owned(),
        in_use,
        ike: true,
        proven: true,
        mtu: 1500,
        mtu_proven: Some(1500),
        mtu_route: 1500,
        split: false,
        echo: true,
        silent: false,
        rtt_us: Some(80),
        loss: Some(0.0),
        black_holes: 0,
        sent: Volume::default(),
        received: Volume::default(),
    }
}

fn lane(lane: u8) -> ChildSa {
    let sa = Sa { worker: 0, live: true, sequence: 1, packets: 1, bytes: 1 };
    ChildSa {
        name: "ip".to_owned(),
        id: 0,
        lane,
        local: vec!["10.1.0.0/16".to_owned()],
        remote: vec!["10.2.0.0/16".to_owned()],
        suite: "AES_GCM_16_256".to_owned(),
        esn: true,
        inbound_spi: "00000001".to_owned(),
        outbound_spi: Some("00000002".to_owned()),
        inbound: sa.clone(),
        outbound: Some(sa),
        ike_sa: None,
        age_s: None,
        rekey_in_s: None,
        sending: true,
        going: false,
    }
}

/// One that is up, by IKE.
fn peer() -> Peer {
    let ike = Ike { state: "established".to_owned(), attempts: 0, retry_in_s: None, sas: vec![], counters: BTreeMap::new() };
    Peer {
        name: "b".to_owned(),
        endpoint: REMOTE.to_owned(),
        keys: "ike".to_owned(),
        lanes: 2,
        state: "established".to_owned(),
        up: false,
        lacks: vec![],
        since_s: Some(60),
        as_of_s: None,
        cause: None,
        sent: Traffic::default(),
        received: Traffic::default(),
        drops: vec![],
        children: vec![lane(0), lane(1)],
        missing: vec![],
        narrowed: vec![],
        paths: vec![path(true)],
        ike: Some(ike),
    }
}

fn static_key() -> Peer {
    Peer { ike: None, keys: "static_key".to_owned(), since_s: None, ..peer() }
}

fn of(peer: &Peer) -> Vec<String> {
    lacks(peer, true, peer.is_connected())
}

/// A peer with something changed.
fn with(mut peer: Peer, change: impl FnOnce(&mut Peer)) -> Peer {
    change(&mut peer);
    peer
}

/// A peer whose path in use has something changed.
fn by(peer: Peer, change: impl FnOnce(&mut PeerPath)) -> Peer {
    with(peer, |peer| change(&mut peer.paths[0]))
}

fn not_live(peer: Peer, lanes: usize) -> Peer {
    with(peer, |peer| peer.children.iter_mut().take(lanes).for_each(|child| child.inbound.live = false))
}

/// Peers that are connected, or need no connection, and what each lacks.
fn connected() -> Vec<(Peer, String)> {
    let selector = "10.1.0.0/16 <> 10.3.0.0/16".to_owned();
    let missing = MissingSelector { selector: selector.clone(), cause: None, retry_in_s: None };
    let silent = |path: &mut PeerPath| path.silent = true;
    let unknown = |path: &mut PeerPath| path.mtu_proven = None;
    let (silence, size) =
        (format!("no echo comes back from {REMOTE}"), format!("how long packets to {REMOTE} may be is not known yet"));
    let nowhere = "no address is known that it can be reached at".to_owned();
    vec![
        (with(peer(), |peer| peer.missing.push(missing)), format!("no Child SA carries {selector}")),
        (with(peer(), |peer| peer.children.clear()), "there is no Child SA".to_owned()),
        (not_live(peer(), 1), "the data plane has 1 of 2 lanes".to_owned()),
        (not_live(static_key(), 2), "the data plane has 0 of 2 lanes".to_owned()),
        (
            with(peer(), |peer| peer.children[1].outbound.as_mut().unwrap().live = false),
            "the data plane has 1 of 2 lanes".to_owned(),
        ),
        (with(peer(), |peer| peer.paths.clear()), nowhere.clone()),
        (by(static_key(), |path| path.in_use = false), nowhere),
        (by(peer(), silent), silence.clone()),
        (by(static_key(), silent), silence),
        (by(peer(), unknown), size.clone()),
        (by(static_key(), unknown), size),
        (
            by(peer(), |path| (path.echo, path.mtu_proven, path.proven) = (false, None, false)),
            format!("that the peer is at {REMOTE} is not proven yet"),
        ),
    ]
}

#[test]
fn who_lacks_nothing_that_can_be_looked_at_is_up() {
    let no_echoes = |path: &mut PeerPath| (path.echo, path.mtu_proven, path.rtt_us) = (false, None, None);
    let going = |peer: &mut Peer| {
        peer.children.push(ChildSa { going: true, ..lane(1) });
        peer.children[1].inbound.live = false;
    };
    let unused = |peer: &mut Peer| peer.paths.push(PeerPath { id: 1, silent: true, mtu_proven: None, ..path(false) });
    let receiving_only = |peer: &mut Peer| peer.children[1].outbound = None;
    for peer in [
        peer(),
        static_key(),
        // Who answers no echoes: the size is what the link and routers say.
        by(peer(), no_echoes),
        by(static_key(), no_echoes),
        // And nothing proves an address.
        by(static_key(), |path| (path.echo, path.mtu_proven, path.proven) = (false, None, false)),
        with(peer(), going),
        with(peer(), unused),
        with(static_key(), receiving_only),
        with(peer(), |peer| "rekeying".clone_into(&mut peer.state)),
    ] {
        assert_eq!(of(&peer), [""; 0], "{peer:?}");
    }
}

#[test]
fn who_is_not_connected_or_has_no_data_plane_lacks_just_that() {
    assert_eq!(lacks(&peer(), false, true), ["the data plane does not run"]);
    for (state, lack) in [
        ("idle", "not connected: it waits for the peer, or for `adit connect`"),
        ("connecting", "not connected: there was no answer yet"),
        ("reconnecting", "not connected: reconnecting"),
        ("failed", "not connected: failed"),
    ] {
        let peer = with(not_live(peer(), 2), |peer| state.clone_into(&mut peer.state));
        assert_eq!(of(&peer), [lack]);
    }
}

#[test]
fn what_a_connected_peer_lacks_is_said_wherever_somebody_asks() {
    for (mut peer, lack) in connected() {
        peer.lacks = of(&peer);
        assert_eq!(peer.lacks, [lack.as_str()], "{peer:?}");
        let shown = status::of_peer(&peer);
        assert!(shown.starts_with("b: NOT UP"), "{shown}");
        // A long line goes on below.
        let words = shown.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(words.contains(&lack), "`{lack}` is not in\n{shown}");
        let explained = explain::report(&explanation(&peer));
        assert!(!explained.contains("nothing is wrong") && explained.contains(&format!("not up:  {lack}\n")), "{explained}");
    }
    assert!(explain::report(&explanation(&peer())).ends_with("nothing is wrong\n"));
}

#[test]
fn of_several_things_that_are_lacking_all_are_said() {
    let peer = by(not_live(peer(), 1), |path| path.silent = true);
    assert_eq!(of(&peer), ["the data plane has 1 of 2 lanes".to_owned(), format!("no echo comes back from {REMOTE}")]);
}

/// What is explained of a peer with which no negotiation has failed.
fn explanation(peer: &Peer) -> Explanation {
    Explanation { lacks: peer.lacks.clone(), ..crate::ike::report::of_static_key(peer, &[]) }
}
