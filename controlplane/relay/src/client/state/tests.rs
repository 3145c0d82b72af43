//! What a client makes of what its relays say, in virtual time.

use adit_proto::relay::{Kind, LeftReason, RoomName, STUN_KEY_LEN, SUBPROTOCOL};

use super::*;
use crate::testing::{Dice, start};

const A: PeerKey = PeerKey([1; 32]);

fn at(ms: u64) -> Instant {
    start() + Duration::from_millis(ms)
}

fn lab() -> RoomName {
    RoomName::new("lab").unwrap()
}

/// A client that is registered at so many relays.
fn registered(relays: usize) -> State {
    let name = |number| HostPort::new(&format!("r{number}.example:443")).unwrap();
    let mut state = State::new(at(0), (0..relays).map(name).collect(), b"me".to_vec());
    for relay in 0..relays {
        assert_eq!(state.poll_connect(at(0)).unwrap().relay, relay);
        register(&mut state, 0, relay);
    }
    let _ = events(&mut state);
    state
}

fn register(state: &mut State, ms: u64, relay: usize) {
    let welcome = Welcome { observed: "192.0.2.1:5".parse().unwrap(), stun_key: [0; STUN_KEY_LEN], rooms: vec![lab()] };
    state.handle_registered(at(ms), relay, "place".to_owned(), welcome);
}

fn events(state: &mut State) -> Vec<Event> {
    std::iter::from_fn(|| state.poll_event()).collect()
}

fn say(state: &mut State, ms: u64, relay: usize, record: &FromRelay) -> Result<(), Cause> {
    let bytes = record.encode().unwrap();
    state.handle_record(at(ms), relay, &bytes).map(drop)
}

fn joined(state: &mut State, relay: usize, peer: PeerKey) {
    say(state, 0, relay, &FromRelay::Joined { room: lab(), peer, metadata: b"it" }).unwrap();
}

/// What goes out at a relay, without pings.
fn sent(state: &mut State, ms: u64, relay: usize) -> Vec<Vec<u8>> {
    std::iter::from_fn(|| state.poll_transmit(at(ms), relay)).collect()
}

fn train(kind: Kind, payload: &[u8]) -> Train<'_> {
    Train { kind, class: 3, segment: 0, payload }
}

fn fail(state: &mut State, ms: u64, relay: usize) {
    let failure = Failure { place: "place".to_owned(), cause: Cause::Silent };
    state.handle_end(at(ms), relay, failure, &mut Dice::new(1));
}

#[test]
fn somebody_who_is_at_two_relays_joins_and_leaves_once() {
    let mut state = registered(2);
    joined(&mut state, 0, A);
    joined(&mut state, 1, A);
    assert_eq!(events(&mut state), [Event::Joined { room: lab(), peer: A, metadata: Bytes::from_static(b"it") }]);
    fail(&mut state, 10, 0);
    let told = events(&mut state);
    assert!(matches!(told[..], [Event::Failed { relay: 0, .. }, Event::Home { relay: Some(1) }]), "{told:?}");
    say(&mut state, 20, 1, &FromRelay::Left { room: lab(), peer: A, reason: LeftReason::GONE }).unwrap();
    assert_eq!(events(&mut state), [Event::Left { room: lab(), peer: A, reason: Some(LeftReason::GONE) }]);
}

#[test]
fn a_train_goes_by_the_relay_that_sees_the_peer() {
    let mut state = registered(2);
    (0..2).for_each(|relay| drop(sent(&mut state, 0, relay)));
    joined(&mut state, 1, A);
    assert_eq!(state.send(at(1), A, train(Kind::Esp, b"data")), Ok(1), "the home relay does not see it");
    assert_eq!(state.send(at(1), A, train(Kind::Ike, b"ike")), Ok(1));
    let expected = [train(Kind::Ike, b"ike"), train(Kind::Esp, b"data")];
    assert_eq!(sent(&mut state, 2, 1), expected.map(|train| ToRelay::Send { to: A, train }.encode().unwrap()), "IKE first");
    joined(&mut state, 0, A);
    assert_eq!(state.send(at(3), A, train(Kind::Esp, b"data")), Ok(0), "home");
    assert_eq!(state.send(at(3), PeerKey([9; 32]), train(Kind::Esp, b"data")), Ok(0), "whom none sees, home is asked for");
    (0..2).for_each(|relay| fail(&mut state, 5, relay));
    assert_eq!(state.send(at(6), A, train(Kind::Esp, b"data")), Err(Unsent::NotRegistered));
}

#[test]
fn a_relay_that_does_not_answer_is_passed_over_before_it_is_given_up() {
    let mut state = registered(2);
    (0..2).for_each(|relay| joined(&mut state, relay, A));
    state.handle_timeout(at(1), 0).unwrap();
    assert_eq!(state.reach(at(100), A), Some(0));
    assert_eq!(state.reach(at(1600), A), Some(1), "its ping is not answered");
    say(&mut state, 1700, 0, &FromRelay::Pong { id: 1 }).unwrap();
    assert_eq!(state.reach(at(1700), A), Some(0));
    let mut ms = 1700;
    let cause = loop {
        ms += 500;
        if let Err(cause) = state.handle_timeout(at(ms), 0) {
            break cause;
        }
    };
    assert!(cause == Cause::Silent && ms < 40_000, "{cause} after {ms}");
}

#[test]
fn data_that_waits_too_long_or_at_the_end_is_dropped_and_counted() {
    let mut state = registered(1);
    drop(sent(&mut state, 0, 0));
    state.send(at(0), A, train(Kind::Esp, b"old")).unwrap();
    state.send(at(150), A, train(Kind::Esp, b"new")).unwrap();
    assert_eq!(state.status(at(150))[0].counters.unsent.data_late, 1);
    fail(&mut state, 160, 0);
    assert_eq!(state.status(at(160))[0].counters.lost, 1);
}

#[test]
fn what_others_are_to_know_is_said_at_each_registration() {
    let mut state = registered(1);
    let describe = |metadata| ToRelay::Describe { metadata }.encode().unwrap();
    assert_eq!(sent(&mut state, 0, 0), [describe(b"me")]);
    state.describe(at(1), b"other".to_vec()).unwrap();
    assert_eq!(sent(&mut state, 1, 0), [describe(b"other")]);
    fail(&mut state, 10, 0);
    let due = state.poll_connect_timeout().unwrap();
    state.poll_connect(due).unwrap();
    register(&mut state, 5000, 0);
    assert_eq!(sent(&mut state, 5000, 0), [describe(b"other")]);
}

#[test]
fn what_is_no_record_ends_the_connection_and_what_is_not_known_does_not() {
    let mut state = registered(1);
    assert!(state.handle_record(at(0), 0, &[0xee, 1, 2]).is_ok());
    say(&mut state, 0, 0, &FromRelay::Pong { id: 77 }).unwrap();
    let counters = state.status(at(0))[0].counters;
    assert_eq!((counters.unknown, counters.unexpected), (1, 1));
    assert!(matches!(state.handle_record(at(0), 0, &[]), Err(Cause::Misbehaved(_))));
    assert!(matches!(state.handle_record(at(0), 0, SUBPROTOCOL.as_bytes()).map(drop), Ok(()) | Err(Cause::Misbehaved(_))));
    assert_eq!(say(&mut state, 0, 0, &FromRelay::Replaced { wait_s: 60 }), Err(Cause::Replaced(Duration::from_secs(60))));
}

#[test]
fn a_relay_that_stops_is_left_when_it_said() {
    let mut state = registered(1);
    say(&mut state, 0, 0, &FromRelay::Drain { come_back_in_ms: 3000, try_for_ms: 60_000, to: Vec::new() }).unwrap();
    assert_eq!(events(&mut state), [Event::Draining { relay: 0, leaving_in: Duration::from_secs(3) }]);
    assert_eq!(state.handle_timeout(at(2999), 0), Ok(()));
    assert_eq!(state.handle_timeout(at(3000), 0), Err(Cause::Stopping));
    let to = vec![HostPort::new("other.example:443").unwrap()];
    let mut state = registered(1);
    say(&mut state, 2000, 0, &FromRelay::Drain { come_back_in_ms: 3000, try_for_ms: 60_000, to: to.clone() }).unwrap();
    assert_eq!(state.handle_timeout(at(2000), 0), Err(Cause::Stopping), "at once");
    fail(&mut state, 2000, 0);
    assert_eq!(state.poll_connect(at(2000)), Some(Attempt { relay: 0, elsewhere: to.first().cloned() }));
}

#[test]
fn that_a_relay_stops_is_told_once_however_often_it_says_so() {
    let mut state = registered(1);
    for ms in [0, 1000, 2000] {
        say(&mut state, ms, 0, &FromRelay::Drain { come_back_in_ms: 3000, try_for_ms: 60_000, to: Vec::new() }).unwrap();
    }
    assert_eq!(events(&mut state), [Event::Draining { relay: 0, leaving_in: Duration::from_secs(3) }]);
    assert_eq!(state.status(at(2000))[0].counters.unexpected, 2);
    assert_eq!(state.handle_timeout(at(3000), 0), Err(Cause::Stopping), "it is not put off");
    // The next registration may end so, too.
    fail(&mut state, 3000, 0);
    register(&mut state, 70_000, 0);
    let _ = events(&mut state);
    say(&mut state, 70_000, 0, &FromRelay::Drain { come_back_in_ms: 1000, try_for_ms: 0, to: Vec::new() }).unwrap();
    assert_eq!(events(&mut state), [Event::Draining { relay: 0, leaving_in: Duration::from_secs(1) }]);
}
