//! The whole engine under attack from outside: by a stranger, and by somebody who sees every message of a handshake or a
//! connection and sends them again, changed or not, in any order, under any message id.

use std::time::Duration;

use adit_engine::ike::{Endpoint, Event};

use super::Input;
use super::pair::{A, B, Datagram, Kind, PEER, Pair, address};

/// Things that happen in one run.
const STEPS_MAX: usize = 48;

/// Datagrams of a stranger change nothing but what strangers may use up, and that is bounded.
pub fn engine_stranger(data: &[u8]) {
    let mut input = Input::new(data);
    let mut pair = Pair::connected(Kind(input.u8()));
    let before = picture(&pair.ends[B]);
    for _ in 0..STEPS_MAX {
        if input.is_empty() {
            break;
        }
        let host = input.u8() % 4;
        let from = if host == 0 { address(A) } else { ([198, 51, 100, host], 4500).into() };
        let payload = [&[0; 4], input.part()].concat();
        attack(&mut pair, Datagram { from, to: address(B), payload });
        let sizes = pair.ends[B].sizes();
        assert!(sizes.half_open <= STEPS_MAX && sizes.ike_sas <= STEPS_MAX + 2 && sizes.refusals <= 64, "{sizes:?}");
    }
    assert_eq!(picture(&pair.ends[B]), before);
    // What they began is forgotten again.
    pair.run(Duration::from_secs(60));
    assert_eq!(pair.ends[B].sizes().half_open, 0);
    assert!(pair.is_up());
}

/// A changed message, a replayed or reordered fragment, a message id out of the window: nothing changes, and the handshake or the
/// rekey that is under way comes to its end.
pub fn engine_midway(data: &[u8]) {
    let mut input = Input::new(data);
    let (kind, deliveries) = (Kind(input.u8()), input.u8() % 32);
    let mut pair = Pair::new(kind);
    for _ in 0..deliveries {
        pair.deliver(0);
    }
    for _ in 0..STEPS_MAX {
        if input.is_empty() {
            break;
        }
        step(&mut pair, &mut input);
    }
    pair.run(Duration::from_secs(300));
    assert!(pair.is_up(), "what an attacker sent has kept the two apart");
}

fn step(pair: &mut Pair, input: &mut Input) {
    let (what, which) = (input.u8() % 10, usize::from(input.u8()));
    match what {
        // Honest things: a message arrives, not always the oldest; time passes; new keys are wanted.
        0 | 1 => {
            let count = pair.in_flight.len().max(1);
            pair.deliver(which % count);
        }
        // All together shorter than fragments wait for each other.
        2 => pair.wait(Duration::from_millis(which as u64 * 2)),
        3 => {
            let node = which & 1;
            pair.act(node, |endpoint, now| {
                // Not connected yet: then there is nothing to be rekeyed.
                let _ = if which & 2 == 0 { endpoint.rekey(now, PEER) } else { endpoint.rekey_ike(now, PEER) };
            });
        }
        // Again, as it was.
        4 => {
            if let Some(datagram) = pick(&pair.taken, which) {
                attack(pair, datagram);
            }
        }
        _ => {
            let Some(mut datagram) = pick(&pair.sent, which) else { return };
            let whole = datagram.payload.clone();
            change(&mut datagram.payload, what, input);
            // An answer to IKE_SA_INIT is protected by nothing: whoever sees the request can lead its sender astray.
            let misleads = datagram.to == address(A) && datagram.is_init() && !pair.is_up();
            if datagram.payload != whole && !misleads {
                attack(pair, datagram);
            }
        }
    }
}

fn pick(all: &[Datagram], which: usize) -> Option<Datagram> {
    all.get(which % all.len().max(1)).cloned()
}

/// Changes a message behind its marker.
fn change(payload: &mut Vec<u8>, how: u8, input: &mut Input) {
    let at = 4 + usize::from(input.u16()) % (payload.len() - 4);
    match how {
        5 => payload[at] ^= input.u8(),
        6 => payload.truncate(at),
        // The message id.
        7 => payload[24..28].copy_from_slice(&u32::from(input.u16()).to_be_bytes()),
        // Number and total of a fragment.
        8 => payload.splice(36.., input.bytes(8).iter().copied()).for_each(drop),
        _ => {
            let end = (at + 16).min(payload.len());
            let len = end - at;
            payload[at..end].iter_mut().zip(input.bytes(len)).for_each(|(byte, new)| *byte = *new);
        }
    }
}

/// Everything about the peer that must not change.
fn picture(endpoint: &Endpoint) -> String {
    let status = endpoint.status(PEER).expect("the peer");
    format!("{:?} {:?} {:?} {:?} {:#?}", status.state, status.cause, status.attempts, status.retry_at, status.ike)
}

/// Sends something that is not genuine, or not new: no event but that somebody was refused, nothing for the vault, no new
/// protected message.
fn attack(pair: &mut Pair, datagram: Datagram) {
    let target = usize::from(datagram.to == address(B));
    let (before, events) = (picture(&pair.ends[target]), pair.events[target].len());
    if pair.hand(&datagram).is_none() {
        return;
    }
    let answers = pair.take(target);
    let news = &pair.events[target][events..];
    assert!(news.iter().all(|event| matches!(event, Event::Refused { .. })), "{news:?}");
    assert!(!pair.ends[target].take_changed(), "something is written for a successor");
    assert_eq!(picture(&pair.ends[target]), before);
    for answer in answers {
        let known = pair.sent.iter().any(|one| one.payload == answer.payload || is_cut_smaller(&answer, one));
        assert!(known || is_clear(&answer), "a protected message that was not sent before: {:?}", answer.header());
        if !known && !answer.is_init() && [A, B].map(address).contains(&answer.to) {
            // Nothing protects it: it must not do anything at the other end, either.
            attack(pair, answer);
        }
    }
}

/// Whether a message is one that was sent before as the answer to the same request, which came again: it may have been too long for
/// the way, and goes in smaller fragments (RFC 7383 §2.5.2).
fn is_cut_smaller(answer: &Datagram, before: &Datagram) -> bool {
    use adit_proto::ike::PayloadType;
    let (Some(answer), Some(before)) = (answer.header(), before.header()) else { return false };
    let of = |header: &adit_proto::ike::Header| (header.initiator_spi, header.responder_spi, header.exchange, header.message_id);
    let responses = answer.flags.response && before.flags.response && answer.flags.initiator == before.flags.initiator;
    answer.next_payload == PayloadType::SKF && answer.length < before.length && responses && of(&answer) == of(&before)
}

/// Whether nothing protects a message.
fn is_clear(datagram: &Datagram) -> bool {
    use adit_proto::ike::PayloadType;
    datagram.header().is_some_and(|header| ![PayloadType::SK, PayloadType::SKF].contains(&header.next_payload))
}
