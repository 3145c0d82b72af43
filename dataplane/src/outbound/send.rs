//! Sends trains: to the kernel, or to the control plane where the path is a stream. When the kernel refuses one, it goes in parts, and what the parts show says who is to blame: the kernel, which
//! takes fewer segments, or one path of one peer, on which `UDP_SEGMENT` does not work.

use std::io;

use adit_channel::PathCount;
use adit_proto::control::{Direction, StreamId};
use adit_proto::stats::{Count, Drop, Gauge};

use crate::environment::Environment;
use crate::train::{Lot, Train};

/// Segments per train that every kernel with `UDP_SEGMENT` takes; since Linux 6.9 it is 128.
const SEGMENTS_ALWAYS: usize = 64;

/// Sends the train under construction, if there is one. Returns its lot when no train can go on that path.
pub fn send(train: &mut Train, env: &mut Environment) -> Option<Lot> {
    if train.is_empty() {
        return None;
    }
    if let Some(stream) = train.hop().to.stream() {
        give_to_stream(train, stream, env);
        train.clear();
        return None;
    }
    env.port.count(Count::UdpSends, 1);
    let gso_disabled = match give(train, train.bytes(), env) {
        Ok(()) => {
            sent(train, train.count(), train.bytes(), env);
            false
        }
        Err(error) => refused(train, &error, env),
    };
    train.clear();
    gso_disabled.then_some(train.lot())
}

/// Gives the train to the control plane, whole or not at all.
#[cold]
fn give_to_stream(train: &Train, stream: StreamId, env: &mut Environment) {
    let count = train.count() as u64;
    match env.give_to_stream(stream, train.lot().class, train.bytes(), train.segment()) {
        Ok(()) => {
            env.port.path_count(train.slot(), PathCount::SentPackets, count);
            env.port.path_count(train.slot(), PathCount::SentBytes, train.bytes().len() as u64);
        }
        Err(why) => env.port.drop_of(train.lot().peer, Direction::Outbound, why, count),
    }
}

/// Gives some packets of the train to the kernel, in one call.
fn give(train: &Train, bytes: &[u8], env: &Environment) -> io::Result<()> {
    env.udp.send(train.hop(), train.lot().class, bytes, train.segment())
}

fn sent(train: &Train, count: usize, bytes: &[u8], env: &Environment) {
    env.port.path_count(train.slot(), PathCount::SentPackets, count as u64);
    env.port.path_count(train.slot(), PathCount::SentBytes, bytes.len() as u64);
    env.port.count(Count::UdpSentDatagrams, count as u64);
    env.port.count(Count::UdpSentBytes, bytes.len() as u64);
}

/// A train that the kernel did not take. True when its packets could go one by one.
fn refused(train: &Train, error: &io::Error, env: &mut Environment) -> bool {
    match error.raw_os_error() {
        // EINVAL: too many segments, or a segment that does not fit the device. EIO: the device cannot checksum what it would
        // have to split, or a transformation is on the way.
        Some(libc::EINVAL) if train.count() > SEGMENTS_ALWAYS && fewer(train, env) => false,
        Some(libc::EINVAL | libc::EIO) if train.count() > 1 => one_by_one(train, env),
        _ => {
            lost(train, error, train.count(), env);
            false
        }
    }
}

/// Tries as many segments as every kernel takes. When that works, the kernel's limit is what was in the way.
fn fewer(train: &Train, env: &mut Environment) -> bool {
    let (first, rest) = train.bytes().split_at(SEGMENTS_ALWAYS * train.segment());
    if give(train, first, env).is_err() {
        return false;
    }
    sent(train, SEGMENTS_ALWAYS, first, env);
    env.udp.segments_max = SEGMENTS_ALWAYS;
    env.port.gauge(Gauge::UdpSegmentMax, SEGMENTS_ALWAYS as i64);
    for part in rest.chunks(SEGMENTS_ALWAYS * train.segment()) {
        let count = part.len().div_ceil(train.segment());
        match give(train, part, env) {
            Ok(()) => sent(train, count, part, env),
            Err(error) => lost(train, &error, count, env),
        }
    }
    true
}

/// True when a packet of full length went: then the train as such was refused. A shorter one proves nothing, for it may fit a
/// path that the others do not.
fn one_by_one(train: &Train, env: &mut Environment) -> bool {
    let mut full_went = false;
    for packet in train.bytes().chunks(train.segment()) {
        match give(train, packet, env) {
            Ok(()) => {
                sent(train, 1, packet, env);
                full_went |= packet.len() == train.segment();
            }
            Err(error) => lost(train, &error, 1, env),
        }
    }
    full_went
}

/// So many packets of the train were not sent: of its peer.
fn lost(train: &Train, error: &io::Error, count: usize, env: &Environment) {
    env.port.drop_of(train.lot().peer, Direction::Outbound, send_failure(error), count as u64);
}

fn send_failure(error: &io::Error) -> Drop {
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM) => Drop::UdpFull,
        Some(libc::EMSGSIZE) => Drop::PathMtu,
        _ => Drop::UdpRefused,
    }
}
