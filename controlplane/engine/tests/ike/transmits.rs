//! What the engine gives to be sent, besides the message: what it has to wait for, and by which path it goes.

use std::collections::BTreeSet;

use adit_engine::ike::{After, PeerConfig, Transmit};
use adit_engine::path::Arrival;

use adit_sim::*;

/// Two gateways that do nothing by themselves.
fn at_rest(change: impl Fn(usize, &mut PeerConfig)) -> World {
    pair(1, |node, config| {
        config.initiate = false;
        change(node, config);
    })
}

/// Hands on what both want to send, without time, until nothing more comes: who has sent what.
fn hand_on(world: &mut World) -> Vec<(usize, Transmit)> {
    let (now, mut sent) = (world.now(), Vec::new());
    loop {
        let before = sent.len();
        for node in [A, B] {
            while world.nodes[node].endpoint.poll_event().is_some() {}
            while let Some(transmit) = world.nodes[node].endpoint.poll_transmit() {
                let came = Arrival::new(udp(transmit.hop).remote, udp(transmit.hop).local);
                world.nodes[1 - node].endpoint.handle_message(now, came, &transmit.payload);
                sent.push((node, transmit));
            }
        }
        if sent.len() == before {
            return sent;
        }
    }
}

/// Messages as `A IKE_AUTH request 1`.
type Messages = BTreeSet<String>;

fn messages(texts: &[&str]) -> Messages {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

/// What waits for the data plane, and what does not. One that is sent in fragments waits as a whole.
fn exchange(world: &mut World) -> [Messages; 2] {
    let sent = hand_on(world);
    [After::Barrier, After::Nothing].map(|after| {
        let of_kind = sent.iter().filter(|(_, transmit)| transmit.after == after);
        let text = |(node, transmit): &(usize, Transmit)| {
            let text = describe(&transmit.payload);
            format!("{} {}", ["A", "B"][*node], text.split(" (").next().unwrap_or_default())
        };
        of_kind.map(text).collect()
    })
}

/// These wait, and those do not.
fn expect(world: &mut World, waits: &[&str], others: &[&str]) {
    assert_eq!(exchange(world), [messages(waits), messages(others)]);
}

/// The answer that makes a Child SA invites the peer to send on it, and so does the Delete for the one before: who gets that goes
/// over to the new one. The answer that makes an IKE SA invites it to send messages with SPIs that are to be known by then.
#[test]
fn what_makes_an_sa_or_ends_one_waits_for_the_data_plane() {
    let mut world = at_rest(|_, config| config.children[0].proposals = vec![esp_pfs()]);
    let now = world.now();
    world.nodes[A].endpoint.connect(now, PEER).expect("it has an address");
    let others = ["A IKE_SA_INIT request 0", "B IKE_SA_INIT response 0", "A IKE_AUTH request 1"];
    expect(&mut world, &["B IKE_AUTH response 1"], &others);
    // A Child SA is rekeyed.
    world.nodes[A].endpoint.rekey(now, PEER).expect("it is connected");
    let waits = ["B CREATE_CHILD_SA response 2", "A INFORMATIONAL request 3", "B INFORMATIONAL response 3"];
    expect(&mut world, &waits, &["A CREATE_CHILD_SA request 2"]);
    // The IKE SA is, and the one who did that gives its token and deletes the old one.
    world.nodes[A].endpoint.rekey_ike(now, PEER).expect("it is connected");
    let waits = ["B CREATE_CHILD_SA response 4", "A INFORMATIONAL request 5"];
    let others =
        ["A CREATE_CHILD_SA request 4", "A INFORMATIONAL request 0", "B INFORMATIONAL response 0", "B INFORMATIONAL response 5"];
    expect(&mut world, &waits, &others);
    // Each looks whether the other one is there. The first request of who did not begin the IKE SA must not overtake the answer
    // that has made it.
    world.nodes[B].endpoint.check_liveness(now, PEER).expect("it is connected");
    expect(&mut world, &["B INFORMATIONAL request 0"], &["A INFORMATIONAL response 0"]);
    world.nodes[B].endpoint.check_liveness(now, PEER).expect("it is connected");
    expect(&mut world, &[], &["B INFORMATIONAL request 1", "A INFORMATIONAL response 1"]);
    world.nodes[A].endpoint.check_liveness(now, PEER).expect("it is connected");
    expect(&mut world, &[], &["A INFORMATIONAL request 1", "B INFORMATIONAL response 1"]);
    // A Child SA goes, and then all: a Delete is the same whatever has the place of what it ends.
    let inbound = world.ike(A).children[0].inbound;
    world.nodes[A].endpoint.close_child(now, inbound);
    expect(&mut world, &["A INFORMATIONAL request 2", "B INFORMATIONAL response 2"], &[]);
    world.nodes[A].endpoint.disconnect(now, PEER).expect("it is connected");
    expect(&mut world, &["A INFORMATIONAL request 3"], &["B INFORMATIONAL response 3"]);
}

#[test]
fn of_several_key_exchanges_only_the_last_answer_waits() {
    let mut world = at_rest(|_, config| {
        config.proposals = vec![hybrid()];
        config.children[0].proposals = vec![esp_hybrid()];
    });
    let now = world.now();
    world.nodes[A].endpoint.connect(now, PEER).expect("it has an address");
    let others = [
        "A IKE_SA_INIT request 0",
        "B IKE_SA_INIT response 0",
        "A IKE_INTERMEDIATE request 1",
        "B IKE_INTERMEDIATE response 1",
        "A IKE_AUTH request 2",
    ];
    expect(&mut world, &["B IKE_AUTH response 2"], &others);
    world.nodes[A].endpoint.rekey(now, PEER).expect("it is connected");
    let waits = ["B IKE_FOLLOWUP_KE response 4", "A INFORMATIONAL request 5", "B INFORMATIONAL response 5"];
    let others = ["A CREATE_CHILD_SA request 3", "B CREATE_CHILD_SA response 3", "A IKE_FOLLOWUP_KE request 4"];
    expect(&mut world, &waits, &others);
    world.nodes[A].endpoint.rekey_ike(now, PEER).expect("it is connected");
    let waits = ["B IKE_FOLLOWUP_KE response 7", "A INFORMATIONAL request 8"];
    let others = [
        "A CREATE_CHILD_SA request 6",
        "B CREATE_CHILD_SA response 6",
        "A IKE_FOLLOWUP_KE request 7",
        "A INFORMATIONAL request 0",
        "B INFORMATIONAL response 0",
        "B INFORMATIONAL response 8",
    ];
    expect(&mut world, &waits, &others);
    // By the other end, whose first request that is.
    world.nodes[B].endpoint.rekey(now, PEER).expect("it is connected");
    let waits = [
        "B CREATE_CHILD_SA request 0",
        "A IKE_FOLLOWUP_KE response 1",
        "B INFORMATIONAL request 2",
        "A INFORMATIONAL response 2",
    ];
    expect(&mut world, &waits, &["A CREATE_CHILD_SA response 0", "B IKE_FOLLOWUP_KE request 1"]);
}

#[test]
fn an_answer_that_makes_nothing_waits_for_nothing() {
    // The Child SA of IKE_AUTH is refused.
    let mut world = at_rest(|node, config| {
        if node == B {
            config.children[0].remote = vec![net("10.9.0.0/16")];
        }
    });
    let now = world.now();
    world.nodes[A].endpoint.connect(now, PEER).expect("it has an address");
    let others = ["A IKE_SA_INIT request 0", "B IKE_SA_INIT response 0", "A IKE_AUTH request 1", "B IKE_AUTH response 1"];
    expect(&mut world, &[], &others);
    assert!(world.is_up(A, PEER) && world.is_up(B, PEER) && world.ike(B).children.is_empty());
}

#[test]
fn what_goes_to_a_peer_that_is_known_names_its_path() {
    let mut world = at_rest(|_, _| {});
    let now = world.now();
    world.nodes[A].endpoint.connect(now, PEER).expect("it has an address");
    hand_on(&mut world);
    world.nodes[A].endpoint.check_liveness(now, PEER).expect("it is connected");
    let sent = hand_on(&mut world);
    assert_eq!(sent.len(), 2, "{sent:?}");
    for (node, transmit) in sent {
        let paths = world.nodes[node].endpoint.paths(PEER);
        let [path] = &paths[..] else { panic!("{paths:?}") };
        assert_eq!((transmit.peer, transmit.path), (Some(PEER), Some(path.path)), "gateway {node}");
        assert!(path.in_use && path.ike && path.hop.remote() == transmit.hop.remote(), "gateway {node}: {path:?}");
    }
}
