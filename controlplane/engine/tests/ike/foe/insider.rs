//! What a peer does that has good keys of its own, on several machines at once.

use std::net::SocketAddr;

use adit_engine::ike::{CommandError, Endpoint, Now, PeerConfig};

use adit_sim::*;

use super::Move;
use super::hand::Hand;
use super::scene::{GATEWAY, GUEST_NAME, HONEST, INSIDERS, Scene};

pub const MOVES: &[Move] = &[
    ("connects", connects),
    ("wants the networks of others", wants_everything),
    ("wants many Child SAs", wants_many),
    ("says that he is somebody else", says_he_is_honest),
    ("rekeys its Child SAs", rekeys),
    ("rekeys its IKE SAs", rekeys_ike),
    ("authenticates anew", reauthenticates),
    ("hangs up and comes again", hangs_up),
    ("falls silent", falls_silent),
    ("moves", moves),
    ("moves to the honest peer's address", moves_onto_another),
    ("sends, and sends again from anywhere", sends),
    ("anything, in any order", anything),
];

fn machine(scene: &mut Scene) -> usize {
    let count = u32::try_from(INSIDERS.len()).expect("few");
    INSIDERS.start + scene.rng.below(count) as usize
}

/// One of his machines, which is on, with a new process if it was not.
fn running(scene: &mut Scene) -> usize {
    let node = machine(scene);
    if !scene.world.nodes[node].on {
        begin(scene, node, |_| {});
    }
    node
}

fn begin(scene: &mut Scene, node: usize, change: impl FnOnce(&mut PeerConfig)) {
    scene.world.nodes[node].on = true;
    let endpoint = scene.endpoint(7);
    scene.world.crash(node, endpoint, true);
    let at = scene.world.nodes[node].address;
    let insider = &scene.configs[1];
    let (proposals, mobike) = (insider.proposals.clone(), insider.mobike);
    let remotes = vec![scene.at(GATEWAY)];
    let mut config = PeerConfig { local: Some(at), remotes, proposals, mobike, ..peer(A) };
    config.children[0].proposals = insider.children[0].proposals.clone();
    change(&mut config);
    scene.world.set_peer(node, PEER, config);
}

fn act(scene: &mut Scene, act: impl FnOnce(&mut Endpoint, Now) -> Result<(), CommandError>) {
    let node = running(scene);
    // What cannot be done just then is not done.
    drop(scene.world.act(node, act));
}

fn connects(scene: &mut Scene) {
    let node = machine(scene);
    begin(scene, node, |_| {});
}

fn wants_everything(scene: &mut Scene) {
    let (node, lanes) = (machine(scene), 1 + scene.rng.below(4) as u8);
    let mine = [net("0.0.0.0/0"), net("10.3.0.0/16"), net("10.1.0.0/16")];
    begin(scene, node, |config| {
        config.children[0].lanes = lanes;
        config.children[0].local = mine.to_vec();
        config.children[0].remote = vec![net("0.0.0.0/0")];
    });
}

fn wants_many(scene: &mut Scene) {
    let node = machine(scene);
    let count = 1 + scene.rng.below(12) as u8;
    begin(scene, node, |config| {
        let first = config.children[0].clone();
        let child = |number| {
            let mut child = first.clone();
            child.name = format!("net-{number}");
            child.local = vec![net(&format!("10.1.{number}.0/24"))];
            child
        };
        config.children = (0..count).map(child).collect();
    });
}

fn says_he_is_honest(scene: &mut Scene) {
    let node = machine(scene);
    begin(scene, node, |config| config.local_id = GUEST_NAME.parse().expect("an identity"));
}

fn rekeys(scene: &mut Scene) {
    act(scene, |endpoint, now| endpoint.rekey(now, PEER));
}

fn rekeys_ike(scene: &mut Scene) {
    act(scene, |endpoint, now| endpoint.rekey_ike(now, PEER));
}

fn reauthenticates(scene: &mut Scene) {
    act(scene, |endpoint, now| endpoint.reauthenticate(now, PEER));
}

fn hangs_up(scene: &mut Scene) {
    act(scene, |endpoint, now| endpoint.disconnect(now, PEER));
    act(scene, |endpoint, now| endpoint.connect(now, PEER));
}

fn falls_silent(scene: &mut Scene) {
    let node = machine(scene);
    scene.world.nodes[node].on = false;
}

fn moves(scene: &mut Scene) {
    let [c, d] = [scene.rng.below(256), scene.rng.below(256)].map(|number| number as u8);
    let there = scene.family.at([10, 252, c, d]);
    move_to(scene, there, true);
}

/// It says so, and may send from there; what goes there comes to somebody else.
fn moves_onto_another(scene: &mut Scene) {
    let there = scene.at(HONEST);
    move_to(scene, there, false);
}

fn move_to(scene: &mut Scene, address: SocketAddr, really: bool) {
    let node = running(scene);
    if really {
        let node = &mut scene.world.nodes[node];
        let old = std::mem::replace(&mut node.address, address);
        node.others.push(old.ip());
    }
    drop(scene.world.act(node, |endpoint, now| endpoint.set_addresses(now, PEER, Some(address), None)));
}

/// Its packets come from where it is, and copies of the last ones from anywhere.
fn sends(scene: &mut Scene) {
    let node = running(scene);
    scene.world.send_esp(node);
    let newest = scene.world.overheard.as_ref().and_then(|heard| heard.front().cloned());
    let elsewhere = scene.anywhere();
    if let Some((_, to, load)) = newest {
        scene.throw_load(elsewhere, to, load);
    }
}

/// Messages that are sealed as they should be, and are not what is due.
fn anything(scene: &mut Scene) {
    let host = scene.rng.below(6) as u8;
    let at = scene.family.at([10, 253, host, 9]);
    Hand::go_on(scene, at, ("a.example.org", SECRET));
}
