//! Everything about one peer, in `adit status PEER`: the same whether its keys come from IKE or from a file.

use super::text::{bit_rate, bytes, duration, fact, grouped, micros, too_busy, wrapped};
use super::{again, idle, remarks, state, validity};
use crate::children::LaneState;
use crate::schema::{ChildSa, Ike, IkeSa, MissingSelector, NarrowedSelector, Peer, PeerDrops, PeerPath, Sa, Traffic};

/// Below this a sequence number is a count; above, as with static keys, it is a time and read better in hexadecimal.
const COUNTS_BELOW: u64 = 1 << 40;

/// The report.
pub fn report(peer: &Peer) -> String {
    let since = peer.since_s.map_or(String::new(), |since| format!(" for {}", duration(since)));
    let mut out = wrapped("", &format!("{}: {}{since}", peer.name, state(peer)));
    out.extend(peer.as_of_s.map(|age| wrapped("      ", &too_busy(age))));
    out.extend(remarks(peer).iter().map(|remark| wrapped("      ", remark)));
    out += &fact("endpoint", &peer.endpoint);
    out += &fact("keys", &format!("{}, {} lanes", peer.keys.replace('_', " "), peer.lanes));
    out += &fact("sent", &traffic(&peer.sent));
    out += &fact("received", &traffic(&peer.received));
    for direction in ["in", "out"] {
        out += &dropped(direction, &peer.drops);
    }
    out.extend(peer.paths.iter().map(path));
    out.extend(peer.children.iter().map(child));
    out.extend(peer.missing.iter().map(missing));
    out.extend(peer.narrowed.iter().map(narrowed));
    if let Some(ike) = &peer.ike {
        out.extend(ike.sas.iter().map(ike_sa));
        out += &counted(ike);
    }
    out
}

fn traffic(traffic: &Traffic) -> String {
    let Traffic { packets, bytes: volume, bits_per_s, .. } = traffic;
    format!("{} packets, {}, {}, last {}", grouped(*packets), bytes(*volume), bit_rate(*bits_per_s), idle(traffic))
}

/// What was dropped in a direction, unless nothing was.
fn dropped(direction: &str, drops: &[PeerDrops]) -> String {
    let reasons = drops.iter().filter(|drops| drops.direction == direction);
    let reasons: Vec<String> = reasons.map(|drops| format!("{} {}", grouped(drops.packets), drops.reason)).collect();
    if reasons.is_empty() { String::new() } else { fact(&format!("dropped {direction}"), &reasons.join(", ")) }
}

fn path(path: &PeerPath) -> String {
    let says = match (path.in_use, path.ike, path.proven) {
        (true, ..) => "in use",
        (false, true, _) => "in use for IKE",
        (false, false, true) => "proven",
        (false, false, false) => "not proven",
    };
    // What is longer goes in two.
    let takes = format!("{}{} B", if path.split { "2 x " } else { "" }, path.mtu);
    let known = match (path.mtu_proven, path.echo) {
        (Some(proven), _) => format!("{proven} proven"),
        (None, true) => "none proven yet".to_owned(),
        (None, false) => "the peer answers no echoes".to_owned(),
    };
    let trip = path.rtt_us.map_or(String::new(), |rtt| format!(", round trip {}", micros(rtt as f64)));
    let loss = path.loss.filter(|loss| *loss > 0.0).map_or(String::new(), |loss| format!(", {:.1} % lost", 100.0 * loss));
    let mut out = format!("\npath {}, {says}\n", path.id);
    out += &fact("way", &format!("{} to {}", path.local, path.remote));
    out += &fact("packets up to", &format!("{takes}, {known}, {} by the route{trip}{loss}", path.mtu_route));
    out + &fact("carried", &format!("{} sent, {} received", bytes(path.sent.bytes), bytes(path.received.bytes)))
}

fn child(sa: &ChildSa) -> String {
    let state = match sa.lane_state() {
        LaneState::Live => "",
        LaneState::Missing => ", NOT IN THE DATA PLANE",
        LaneState::Going => ", going",
    };
    let mut out = format!("\nChild SA {}, lane {}{state}\n", sa.id, sa.lane);
    out += &fact("suite", &format!("{}{}", sa.suite, ages(sa.age_s, sa.rekey_in_s, None)));
    out += &fact("in", &direction(&sa.inbound_spi, &sa.inbound));
    if let (Some(spi), Some(outbound)) = (&sa.outbound_spi, &sa.outbound) {
        out += &fact("out", &direction(spi, outbound));
    }
    if !sa.local.is_empty() {
        out += &fact("selectors", &format!("{} <> {}", sa.local.join(", "), sa.remote.join(", ")));
    }
    out
}

fn ages(age_s: Option<u64>, rekey_in_s: Option<u64>, reauth_in_s: Option<u64>) -> String {
    let part = |what: &str, s: Option<u64>| s.map_or(String::new(), |s| format!(", {what} {}", duration(s)));
    part("age", age_s) + &part("rekey in", rekey_in_s) + &part("authentication anew in", reauth_in_s)
}

fn direction(spi: &str, sa: &Sa) -> String {
    let number = match sa.sequence {
        0 => String::new(),
        count @ 1..COUNTS_BELOW => format!(", up to number {}", grouped(count)),
        time => format!(", up to number {time:#018x}"),
    };
    format!("{spi}, {} packets, {}{number}", grouped(sa.packets), bytes(sa.bytes))
}

fn missing(missing: &MissingSelector) -> String {
    let why = again(missing.cause.as_deref(), missing.retry_in_s);
    format!("\n{}", wrapped("no Child SA for ", &missing.selector)) + &if why.is_empty() { why } else { wrapped("      ", &why) }
}

fn narrowed(narrowed: &NarrowedSelector) -> String {
    let why = again(narrowed.cause.as_deref(), narrowed.retry_in_s);
    let carried = wrapped("      ", &format!("the peer carries only {}", narrowed.carried.join(", ")));
    let rest = if why.is_empty() { why } else { wrapped("      ", &format!("the rest: {why}")) };
    format!("\na part of {}\n", narrowed.selector) + &carried + &rest
}

fn ike_sa(sa: &IkeSa) -> String {
    let kind = match (sa.post_quantum, sa.ppk) {
        (_, true) => " (post-quantum, with a pre-shared key)",
        (true, false) => " (post-quantum)",
        (false, false) => "",
    };
    let mut out = format!("\nIKE SA {}{}\n", sa.spis(), if sa.going { ", going" } else { "" });
    out += &fact("peer", &format!("{}, proved by {}; here {}", sa.remote_id, sa.proof, sa.role));
    if let Some(remaining_s) = sa.peer_certificate_remaining_s {
        out += &fact("certificate", &validity(remaining_s, "it is for the peer to renew it"));
    }
    out += &fact("suite", &format!("{}{kind}{}", sa.suite, ages(Some(sa.age_s), sa.rekey_in_s, sa.reauth_in_s)));
    out + &fact("way", &format!("{} to {}, heard {} ago", sa.local, sa.remote, duration(sa.idle_s)))
}

/// What was counted at least once.
fn counted(ike: &Ike) -> String {
    if ike.counters.is_empty() {
        return String::new();
    }
    let counts: Vec<String> =
        ike.counters.iter().map(|(what, count)| format!("{} {}", what.replace('_', " "), grouped(*count))).collect();
    format!("\nevents of IKE\n{}", wrapped("  ", &counts.join(", ")))
}
