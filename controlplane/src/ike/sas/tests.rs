//! What the data plane is told, and in which order.

use adit_engine::ike::Mode;
use adit_proto::control::SaKey;
use adit_proto::ike::{AddressRange, IpSelector};
use adit_proto::suite::Suite;

use super::*;

const PEER: PeerId = PeerId(7);

fn terms(static_lanes: Option<u16>) -> PeerTerms {
    PeerTerms { tag: PeerTag(9), defer_checksums: false, selectors: Vec::new(), pins: vec![[2; 6]], lanes: 1, static_lanes }
}

fn of_worker(worker: u16, commands: Vec<(u16, Command)>) -> Vec<Command> {
    commands.into_iter().filter(|(one, _)| *one == worker).map(|(_, command)| command).collect()
}

#[test]
fn a_peer_with_a_static_key_has_its_lanes_pins_and_paths_at_once() {
    let mut sas = Sas::new(Terms { workers: 2, window: 64 });
    assert_eq!(sas.set_peer(PEER, terms(Some(2))), []);
    let reported = sas.apply(&Event::Path(PathEvent::Peer { peer: PEER, echo: true, split: true }));
    let set = Command::PeerSet { peer: PEER, tag: PeerTag(9), echo: true, split: true };
    let child = Command::ChildSet { peer: PEER, child: ChildId::ONLY, lanes: 2 };
    let pin = Command::FdbPin { mac: [2; 6], peer: PEER };
    assert_eq!(of_worker(0, reported.clone()), [set.clone(), pin.clone(), child.clone()]);
    assert_eq!(of_worker(1, reported), [set.clone(), pin, child]);
    let (local, remote) = ("192.0.2.1:4500".parse().unwrap(), "192.0.2.2:4500".parse().unwrap());
    let (path, hop) = (PathId::FIRST, adit_engine::path::Hop::new(local, remote));
    let reported =
        sas.apply(&Event::Path(PathEvent::Set { peer: PEER, path, hop, mtu: 1400, mtu_reported: 1500, encapsulate: true }));
    let hop = Hop::Udp(UdpHop { local: Some([192, 0, 2, 1].into()), ..UdpHop::to(remote) });
    assert_eq!(of_worker(1, reported), [Command::PathSet { peer: PEER, path, hop, mtu: 1400, mtu_reported: 1500 }]);
    // The same once more is no news; another pin is.
    assert_eq!(sas.set_peer(PEER, terms(Some(2))), []);
    let more = PeerTerms { pins: vec![[4; 6]], ..terms(Some(2)) };
    assert_eq!(of_worker(0, sas.set_peer(PEER, more)), [set, Command::FdbPin { mac: [4; 6], peer: PEER }]);
}

#[test]
fn an_echo_goes_by_a_worker_that_can_seal_it() {
    let mut sas = Sas::new(Terms { workers: 2, window: 64 });
    let echo = Event::Path(PathEvent::Echo { peer: PEER, path: PathId::FIRST, id: 5, size: 1280 });
    sas.set_peer(PEER, terms(None));
    assert_eq!(sas.apply(&echo), [], "no SA yet");
    sas.set_peer(PEER, terms(Some(1)));
    assert_eq!(sas.apply(&echo).len(), 1);
}

/// Between network 10.1.n.0/24 here and 10.2.n.0/24 there.
fn selector(n: u8) -> Selector {
    let net = |site: u8| AddressRange::V4 { first: [10, site, n, 0].into(), last: [10, site, n, 255].into() };
    Selector::any_of(net(1), net(2))
}

fn ip_terms(networks: &[u8], static_lanes: Option<u16>) -> PeerTerms {
    PeerTerms { selectors: networks.iter().map(|n| selector(*n)).collect(), pins: Vec::new(), ..terms(static_lanes) }
}

/// The keys of one direction of a Child SA for some networks.
fn keys(child: u16, spi: u32, networks: &[u8]) -> Box<ChildKeys> {
    let side = |of: fn(&Selector) -> AddressRange| networks.iter().map(|n| IpSelector::any_of(of(&selector(*n)))).collect();
    Box::new(ChildKeys {
        peer: PEER,
        child: ChildId(child),
        lane: 0,
        spi: Spi(spi),
        suite: Suite::Aes128Gcm,
        key: SaKey { key: [7; 32], salt: [1; 4] },
        esn: true,
        mode: Mode::Tunnel,
        selectors: SelectorPair { local: side(|one| one.local), remote: side(|one| one.remote) },
        replaces: None,
    })
}

/// The commands in few words, without the SAs' keys.
fn words(commands: Commands) -> Vec<String> {
    let word = |command: Command| match command {
        Command::PeerSet { echo, .. } => format!("peer {echo}"),
        Command::ChildSet { child, lanes, .. } => format!("child {} lanes {lanes}", child.0),
        Command::ChildRemove { child, .. } => format!("child {} goes", child.0),
        Command::SelectorAdd { selector, .. } => format!("owns {}", selector.remote),
        Command::SelectorRemove { selector, .. } => format!("owns {} no more", selector.remote),
        Command::ChildSelectorAdd { child, selector, .. } => format!("child {} has {}", child.0, selector.remote),
        Command::ChildSelectorRemove { child, selector, .. } => format!("child {} has {} no more", child.0, selector.remote),
        Command::InboundSaInstall(sa) => format!("in {} of child {}", sa.spi.0, sa.child.0),
        Command::OutboundSaInstall(sa) => format!("out {} of child {}", sa.spi.0, sa.child.0),
        Command::SaRemove { spi, .. } => format!("{} goes", spi.0),
        other => format!("{other:?}"),
    };
    of_worker(0, commands).into_iter().map(word).collect()
}

#[test]
fn a_peer_owns_what_is_configured_and_each_child_sa_has_what_was_agreed() {
    let mut sas = Sas::new(Terms { workers: 1, window: 64 });
    let reported = words(sas.set_peer(PEER, ip_terms(&[1, 2], None)));
    assert_eq!(reported, ["peer false", "owns 10.2.1.0/24", "owns 10.2.2.0/24"], "before anybody is connected");
    // The peer narrowed to the first; it asked for what is not configured, too.
    let reported = words(sas.apply(&Event::InstallInbound(keys(0, 64, &[1, 9]))));
    assert_eq!(reported, ["child 0 lanes 0", "child 0 has 10.2.1.0/24", "in 64 of child 0"]);
    let reported = words(sas.apply(&Event::InstallOutbound(keys(0, 500, &[1, 9]))));
    assert_eq!(reported, ["child 0 lanes 1", "out 500 of child 0"]);
    let reported = words(sas.apply(&Event::InstallInbound(keys(1, 128, &[2]))));
    assert_eq!(reported, ["child 1 lanes 0", "child 1 has 10.2.2.0/24", "in 128 of child 1"]);
    sas.apply(&Event::InstallOutbound(keys(1, 501, &[2])));
    // The rekey of one takes its place, and widens it before the old SA goes.
    let reported = words(sas.apply(&Event::InstallInbound(keys(0, 192, &[1, 2]))));
    assert_eq!(reported, ["child 0 has 10.2.2.0/24", "in 192 of child 0"]);
    assert_eq!(words(sas.apply(&Event::InstallOutbound(keys(0, 502, &[1, 2])))), ["out 502 of child 0"]);
    assert_eq!(sas.apply(&Event::RemoveOutbound { peer: PEER, spi: Spi(500) }), [], "it was replaced");
    assert_eq!(words(sas.apply(&Event::RemoveInbound { peer: PEER, spi: Spi(64) })), ["64 goes"]);
    // The other one ends on its own.
    assert_eq!(words(sas.apply(&Event::RemoveOutbound { peer: PEER, spi: Spi(501) })), ["child 1 lanes 0", "501 goes"]);
    assert_eq!(words(sas.apply(&Event::RemoveInbound { peer: PEER, spi: Spi(128) })), ["128 goes", "child 1 goes"]);
    assert!(sas.has(PEER, Direction::Outbound, Spi(502)) && !sas.has(PEER, Direction::Inbound, Spi(128)));
}

#[test]
fn the_new_comes_before_the_old_goes_and_what_was_left_is_put_right() {
    let mut sas = Sas::new(Terms { workers: 1, window: 64 });
    sas.set_peer(PEER, ip_terms(&[1, 2], Some(1)));
    let reported = words(sas.set_peer(PEER, ip_terms(&[2, 3], Some(1))));
    let add = ["owns 10.2.3.0/24", "child 0 has 10.2.3.0/24"];
    let go = ["child 0 has 10.2.1.0/24 no more", "owns 10.2.1.0/24 no more"];
    assert_eq!(reported, [add, go].concat());
    // The one before us had another configuration.
    let reported = words(sas.remember(PEER, &[selector(2), selector(4)]));
    assert_eq!(reported, ["child 0 has 10.2.4.0/24 no more", "owns 10.2.4.0/24 no more"]);
    assert_eq!(sas.remember(PEER, &[selector(2), selector(3)]), []);
    // Another data plane knows nothing, and another peer with the id has nothing.
    assert_eq!(words(sas.clear()).len(), 1 + 2 + 1 + 2);
    let other = PeerTerms { tag: PeerTag(10), ..ip_terms(&[2], Some(1)) };
    let reported = words(sas.set_peer(PEER, other));
    assert_eq!(reported, ["peer false", "owns 10.2.2.0/24", "child 0 lanes 1", "child 0 has 10.2.2.0/24"]);
}

#[test]
fn child_sas_that_a_process_left_without_sas_go() {
    let mut sas = Sas::new(Terms { workers: 1, window: 64 });
    sas.set_peer(PEER, ip_terms(&[1, 2], None));
    let live = |child: u16, spi: u32, direction| {
        let (spi, child, suite) = (Spi(spi), ChildId(child), Suite::Aes128Gcm);
        let sa = LiveSa { spi, direction, peer: PEER, child, suite, window: 64, seq: 1, seq_limit: 9, packets: 1, bytes: 1 };
        (0, sa)
    };
    let there = [live(0, 64, Direction::Inbound), live(0, 500, Direction::Outbound), live(3, 128, Direction::Inbound)];
    assert_eq!(words(sas.adopt(&there, |sa| sa.child.0 == 0)), ["child 3 goes"]);
    let agreed = keys(0, 64, &[1]).selectors;
    let reported = words(sas.adopt_selectors(PEER, ChildId(0), Spi(64), &agreed));
    assert_eq!(reported, ["child 0 lanes 1", "child 0 has 10.2.1.0/24"]);
}

#[test]
fn a_peer_is_told_again_with_all_that_is_its_own_and_nothing_that_went() {
    let mut sas = Sas::new(Terms { workers: 1, window: 64 });
    sas.set_peer(PEER, ip_terms(&[1, 2], Some(1)));
    sas.apply(&Event::Path(PathEvent::Peer { peer: PEER, echo: true, split: false }));
    let (local, remote) = ("192.0.2.1:4500".parse().unwrap(), "192.0.2.2:4500".parse().unwrap());
    let hop = adit_engine::path::Hop::new(local, remote);
    let (first, second) = (PathId::FIRST, PathId::new(1).unwrap());
    for (path, mtu) in [(first, 1280), (second, 1280), (first, 1400)] {
        sas.apply(&Event::Path(PathEvent::Set { peer: PEER, path, hop, mtu, mtu_reported: 1500, encapsulate: true }));
    }
    sas.apply(&Event::Path(PathEvent::Use { peer: PEER, path: first }));
    sas.apply(&Event::Path(PathEvent::Remove { peer: PEER, path: second }));
    // A selector that was taken out meanwhile does not come back.
    sas.set_peer(PEER, ip_terms(&[2], Some(1)));
    assert_eq!(sas.reported(), Sizes { peers: 1, selectors: 1 });
    let again = of_worker(0, sas.again(PEER));
    let paths: Vec<Command> = again[again.len() - 2..].to_vec();
    let hop = Hop::Udp(UdpHop { local: Some([192, 0, 2, 1].into()), ..UdpHop::to(remote) });
    let set = Command::PathSet { peer: PEER, path: first, hop, mtu: 1400, mtu_reported: 1500 };
    assert_eq!(paths, [set, Command::PathUse { peer: PEER, path: first }]);
    let rest = words(again[..again.len() - 2].iter().map(|command| (0, command.clone())).collect());
    assert_eq!(rest, ["peer true", "owns 10.2.2.0/24", "child 0 lanes 1", "child 0 has 10.2.2.0/24"]);
    assert_eq!((sas.again(PeerId(8)), sas.reported()), (Vec::new(), Sizes { peers: 1, selectors: 1 }));
    // Another data plane has no paths before the engine sets them.
    sas.clear();
    assert_eq!(words(sas.again(PEER)).len(), 4);
}

#[test]
fn sas_of_ike_that_the_data_plane_does_not_have_are_lost() {
    let mut sas = Sas::new(Terms { workers: 1, window: 64 });
    sas.set_peer(PEER, ip_terms(&[1], None));
    sas.apply(&Event::InstallInbound(keys(0, 64, &[1])));
    sas.apply(&Event::InstallOutbound(keys(0, 500, &[1])));
    let live = |spi: u32, direction| {
        let (spi, child, suite) = (Spi(spi), ChildId(0), Suite::Aes128Gcm);
        let sa = LiveSa { spi, direction, peer: PEER, child, suite, window: 64, seq: 1, seq_limit: 9, packets: 1, bytes: 1 };
        (0, sa)
    };
    let there = [live(64, Direction::Inbound), live(500, Direction::Outbound)];
    assert_eq!(sas.lost(&there), []);
    assert_eq!(sas.lost(&there[..1]), [(PEER, Direction::Outbound, Spi(500))]);
    assert_eq!(sas.lost(&[live(64, Direction::Outbound)]).len(), 2, "another direction is another SA");
    sas.refused(PEER, Direction::Inbound, Spi(64));
    assert_eq!(sas.lost(&there[1..]), [], "it is reported once");
}
