//! What one process leaves to the next in shared memory: whoever wrote it, the engine survives reading it and going on with it.

use std::collections::BTreeMap;
use std::time::Duration;

use adit_engine::ike::{Now, Usage};
use adit_engine::path::Arrival;

use super::pair::{A, Kind, PEER, Pair, address, fresh};

/// The first byte says how the peer is configured, the rest is a snapshot.
pub fn engine_snapshot(data: &[u8]) {
    let Some((kind, bytes)) = data.split_first() else { return };
    let kind = Kind(*kind);
    let clock = Pair::new(Kind(0));
    let (now, clock) = (clock.now(), clock.clock());
    let mut endpoint = fresh(kind.endpoint(A), 5);
    endpoint.set_peer(now, PEER, kind.peer(A)).expect("a good configuration");
    let Ok(restored) = endpoint.restore(now, clock, bytes) else { return };
    let again = endpoint.snapshot(clock);
    let mut other = fresh(kind.endpoint(A), 6);
    other.set_peer(now, PEER, kind.peer(A)).expect("a good configuration");
    let second = other.restore(now, clock, &again).expect("what was written can be read");
    // One IKE SA may stand there twice, under two names.
    assert!(second.ike_sas <= restored.ike_sas && (second.ike_sas > 0) == (restored.ike_sas > 0), "{restored:?} {second:?}");

    endpoint.start(now);
    let usage: BTreeMap<_, _> =
        restored.inbound.iter().map(|spi| (*spi, Usage { inbound_packets: 1, inbound_bytes: 100, ..Usage::default() })).collect();
    endpoint.handle_usage(now, &usage);
    if let Some(spi) = restored.inbound.first() {
        endpoint.lost_inbound(now, *spi);
    }
    if let Some((peer, spi)) = restored.outbound.last() {
        endpoint.lost_outbound(now, *peer, *spi);
    }
    let mut instant = now.instant;
    for round in 0..60 {
        let now = Now { instant, ..now };
        // Not connected: then there is nothing to do.
        let _ = match round % 8 {
            1 => endpoint.rekey(now, PEER),
            3 => endpoint.rekey_ike(now, PEER),
            5 => endpoint.check_liveness(now, PEER),
            7 => endpoint.set_addresses(now, PEER, Some(address(A)), None),
            _ => Ok(()),
        };
        endpoint.handle_message(now, Arrival::new(address(A), address(1 - A)), &[0; 40]);
        while endpoint.poll_event().is_some() || endpoint.poll_transmit().is_some() {}
        instant = endpoint.poll_timeout().unwrap_or(instant).clamp(instant, instant + Duration::from_secs(600));
        endpoint.handle_timeout(Now { instant, ..now });
    }
}
