//! A hub, the middle of a star: frames of one peer go on to other peers. Without it frames never go from peer to peer (split horizon).
//!
//! A frame that was opened ([`crate::inbound`]) goes in a hand-off batch to the worker that seals for its peer, be it the same one, and
//! from there the way of a frame from the TAP. What keeps a loop, such as two spokes whose LANs are also joined by a cable, from
//! melting it:
//!
//! - An address that comes from several sides by turns is in dispute for some seconds ([`crate::forward`]), and what it sends to all,
//!   or to nobody known, is dropped meanwhile: whatever circles comes from two sides.
//! - A frame for all that comes again and again, byte for byte, is dropped: it may circle one way only.
//! - Whatever goes to all has a rate, of each peer and of all of them, apart from what this side may send: no spoke takes it from others.
//! - What is for a station on the side from which it came goes nowhere.

use adit_proto::control::{ChildId, Mac, PeerId};
use adit_proto::stats::{Count, Gauge};

use crate::environment::Environment;
use crate::forward::{HERE, Learned, Route};
use crate::sa::Tables;
use crate::state::State;
use adit_proto::limits::WORKERS_MAX;

/// Learns on which side a station is, counts that, and tells the other workers.
pub fn learn(mac: Mac, side: PeerId, state: &mut State, env: &mut Environment) -> Learned {
    let now_s = state.now_s;
    let learned = state.fdb.learn(mac, side, now_s);
    match learned {
        Learned::Known | Learned::Group | Learned::Disputed | Learned::Elsewhere => return learned,
        Learned::Refreshed | Learned::Unreported => {}
        Learned::New => env.port.count(Count::FdbLearned, 1),
        Learned::Moved => env.port.count(Count::FdbMoved, 1),
        Learned::Full => {
            env.port.count(Count::FdbFull, 1);
            return learned;
        }
    }
    env.port.gauge(Gauge::FdbEntries, state.fdb.len() as i64);
    let tables = &mut state.tables;
    state.fdb.report(mac, now_s, || env.announce(mac, side, tables));
    learned
}

/// How many peers, without `except`, each worker seals for of what worker `reader` has.
pub fn sealers(reader: usize, except: Option<PeerId>, tables: &mut Tables) -> [u64; WORKERS_MAX as usize] {
    let mut peers_of = [0; WORKERS_MAX as usize];
    for n in 0..tables.peer_count() {
        let id = tables.nth_peer(n).filter(|id| Some(*id) != except);
        if let Some(child) = id.and_then(|id| tables.peer(id)).and_then(|peer| peer.child(ChildId::ONLY)) {
            peers_of[child.sealer_for(reader)] += 1;
        }
    }
    peers_of
}

/// In a hub, the peer behind which the station is that a frame is for.
pub fn peer_behind(frame: &[u8], state: &State) -> Option<PeerId> {
    let destination = state.hub.as_ref().and(frame.first_chunk::<6>())?;
    match state.fdb.route(*destination, state.now_s) {
        Route::Peer(peer) if peer != HERE => Some(peer),
        _ => None,
    }
}
