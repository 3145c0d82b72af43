//! `adit status` for people: plain text in 80 columns, sizes with units. The gateway and a line for each peer; of one peer everything
//! ([`peer`]).

mod peer;
mod text;

use std::fmt::Write;

use adit_engine::auth::own::WARN_BEFORE;

use crate::config::KEY_LOG_WARNING;
use crate::schema::{Drop, Latency, Peer, Protections, RELAY_END, Relay, Reload, Status, Traffic, Worker};
use crate::view::status::PeerView;
pub use peer::report as of_peer;
use text::{about, bit_rate, bytes, duration, fact, grouped, micros, row, table, too_busy, wrapped};

/// Longest name in the table of peers.
const NAME_WIDTH: usize = 16;

/// The whole report.
pub fn report(status: &Status) -> String {
    let down = status.peers.iter().filter(|peer| !peer.up).count();
    let mut out = wrapped(&format!("{}: ", status.name), &verdict(down, status.peers.len()));
    out += &gateway(status);
    out += "\npeers\n";
    out += &peers(&status.peers);
    if !status.workers.is_empty() {
        out += "\nworkers\n";
        out += &workers(&status.workers);
    }
    let timed: Vec<_> = status.latencies.iter().filter(|latency| latency.count > 0).collect();
    if !timed.is_empty() {
        out += "\nlatency of a batch\n";
        out += &latencies(&timed);
    }
    if status.drops.is_empty() {
        out += "\nno packet was dropped\n";
    } else {
        out += "\ndropped packets\n";
        out += &drops(&status.drops);
    }
    out
}

/// The first line of the report, not wrapped.
pub fn headline(name: &str, peers: &[PeerView]) -> String {
    format!("{name}: {}", verdict(peers.iter().filter(|one| !one.peer.up).count(), peers.len()))
}

/// Whether all peers are up, in a sentence; so many of all are not.
fn verdict(down: usize, all: usize) -> String {
    match (down, all) {
        (_, 0) => "no peers are configured".to_owned(),
        (0, 1) => "the peer is up".to_owned(),
        (1, 1) => "the peer is NOT UP".to_owned(),
        (0, all) => format!("all {all} peers are up"),
        (1, all) => format!("1 of {all} peers is NOT UP"),
        (down, all) => format!("{down} of {all} peers are NOT UP"),
    }
}

/// What a reload has done, or would do.
pub fn reload(report: &Reload) -> String {
    let mut out = String::new();
    let (title, none) = if report.done { ("changed", "nothing has changed") } else { ("would change", "nothing would change") };
    if report.changes.is_empty() {
        out.push_str(none);
        out.push('\n');
    } else {
        let _ = writeln!(out, "{title}");
        for line in &report.changes {
            let _ = writeln!(out, "  {line}");
        }
    }
    let verb = if report.done { "began anew or ended" } else { "would begin anew or end" };
    if report.replaces_dataplane {
        let verb = if report.done { "is" } else { "would be" };
        let _ = writeln!(out, "the data plane {verb} replaced: all tunnels stand still for a moment");
    } else if report.interrupted.is_empty() {
        let _ = writeln!(out, "no tunnel is interrupted");
    } else {
        let _ = writeln!(out, "tunnels that {verb}: {}", report.interrupted.join(", "));
    }
    for problem in &report.problems {
        let _ = writeln!(out, "NOT YET        {problem}");
    }
    out
}

/// What the data plane has given up, and what it could not, a line for each.
fn protections(of: &Protections) -> String {
    let in_force = if of.in_force.is_empty() { "nothing".to_owned() } else { of.in_force.join(", ") };
    let lacking = of.lacking.iter().map(|what| fact("", &format!("lacks {what}")));
    fact("confined by", &in_force) + &lacking.collect::<String>()
}

/// The relay, and why it is none where it is none.
fn relay(relay: &Relay) -> String {
    let since = duration(relay.since_s);
    if !relay.registered {
        let why = relay.failure.as_deref().unwrap_or("it has not answered yet");
        return fact("relay", &format!("{}: NOT REGISTERED for {since}", relay.url)) + &fact("", why);
    }
    let rtt = relay.rtt_us.map_or(String::new(), |rtt| format!(", {:.1} ms away", rtt as f64 / 1000.0));
    let seen = relay.observed.as_ref().map_or(String::new(), |observed| format!(", seen as {observed}"));
    fact("relay", &format!("{}, registered for {since}{rtt}{seen}", relay.url))
        + &fact("", &format!("{} others in {}", relay.peers, relay.rooms.join(", ")))
        + &if relay.candidates.is_empty() {
            String::new()
        } else {
            fact("", &format!("perhaps at {}", relay.candidates.join(", ")))
        }
        + &not_carried(relay)
}

/// What was not carried over the relay, in one line, if there is any.
fn not_carried(relay: &Relay) -> String {
    let others = relay.counters.iter().filter(|(name, _)| !["registrations", "failures"].contains(&name.as_str()));
    let own = [("unsent", &relay.unsent), ("refused", &relay.refused)];
    let all = own.into_iter().chain(others.map(|(name, count)| (name.as_str(), count)));
    let some: Vec<String> = all.filter(|(_, count)| **count > 0).map(|(name, count)| format!("{count} {name}")).collect();
    if some.is_empty() { String::new() } else { fact("", &format!("not carried: {}", some.join(", "))) }
}

fn gateway(status: &Status) -> String {
    let mut out = String::new();
    if let Some(dir) = &status.key_log_dir {
        out += &fact("KEY LOG", &format!("the keys of every SA go to {dir}: {KEY_LOG_WARNING}"));
    }
    let control = &status.control_plane;
    let process = |pid, version: &str, up: &str, s| format!("process {pid}, version {version}, {up} {}", duration(s));
    out += &fact("control plane", &process(control.pid, &control.version, "up", control.uptime_s));
    if let Some(age) = control.as_of_s {
        out += &fact("", &too_busy(age));
    }
    match &status.data_plane {
        Some(plane) => {
            let up = if plane.started_here { "up" } else { "attached for" };
            out += &fact("data plane", &process(plane.pid, &plane.version, up, plane.uptime_s));
            out += &fact("", &format!("UDP {}, I/O {}, {} of memory", plane.listen, plane.io, bytes(plane.memory_bytes)));
            out += &fact("", &format!("crypto {} ({})", plane.crypto, plane.cpu_features));
            out += &protections(&plane.protections);
        }
        None => out += &fact("data plane", "DOWN: the tunnel carries nothing until it is back"),
    }
    if status.data_plane_restarts > 0 {
        out += &fact("", &format!("restarted {} times", status.data_plane_restarts));
    }
    if let Some(configuration) = &status.configuration {
        out += &fact("configuration", &format!("{}, read {} ago", configuration.file, duration(configuration.read_s)));
        if configuration.newer {
            out += &fact("", "the file is newer than what runs: adit reload --dry-run says what would change");
        }
        for line in &configuration.pending {
            out += &fact("", &format!("not done yet: {line}"));
        }
    }
    for overlap in &status.overlaps {
        out += &fact("OVERLAP", overlap);
    }
    let interface = &status.interface;
    let addresses = interface.addresses.iter().fold(String::new(), |text, address| text + ", " + address);
    out += &fact("interface", &format!("{}, MTU {}, MAC {}{addresses}", interface.name, interface.mtu, interface.mac));
    out += &status.relay.as_ref().map(relay).unwrap_or_default();
    for certificate in &status.certificates {
        out += &fact("certificate", &format!("{}, {}", certificate.subject, validity(certificate.remaining_s, "renew it")));
    }
    out
}

/// How long a certificate is still good, for people, and what is to be done when that is not long.
fn validity(remaining_s: i64, remedy: &str) -> String {
    match u64::try_from(remaining_s) {
        Ok(left) if left < WARN_BEFORE => format!("ENDS in {}: {remedy}", duration(left)),
        Ok(left) => format!("valid for {}", duration(left)),
        Err(_) => format!("EXPIRED {} ago: {remedy}", duration(remaining_s.unsigned_abs())),
    }
}

/// A line for each peer, and below it what is to be said of it.
fn peers(peers: &[Peer]) -> String {
    let mut rows = vec![row(["name", "state", "for", "out", "in", "last heard"])];
    for peer in peers {
        rows.push(vec![
            if has_long_name(peer) { String::new() } else { peer.name.clone() },
            state(peer),
            peer.since_s.map_or("-".to_owned(), about),
            bit_rate(peer.sent.bits_per_s),
            bit_rate(peer.received.bits_per_s),
            idle(&peer.received),
        ]);
    }
    let lines = table(&rows);
    let mut lines = lines.lines();
    let mut out = lines.next().unwrap_or_default().to_owned() + "\n";
    for (line, peer) in lines.zip(peers) {
        if has_long_name(peer) {
            out += &format!("  {}\n", peer.name);
        }
        out += line;
        out.push('\n');
        out.extend(remarks(peer).iter().map(|remark| wrapped("      ", remark)));
    }
    out
}

/// Whether the name has a line of its own, for the table would not fit otherwise.
fn has_long_name(peer: &Peer) -> bool {
    peer.name.chars().count() > NAME_WIDTH
}

/// The state in a word or two.
fn state(peer: &Peer) -> String {
    match peer.state.as_str() {
        "established" if peer.up => "up".to_owned(),
        "established" => "NOT UP".to_owned(),
        state => state.to_owned(),
    }
}

/// What is wrong with a peer, or worth a word: of several things that say the same, one.
fn remarks(peer: &Peer) -> Vec<String> {
    let mut remarks = Vec::new();
    let ready = peer.is_connected();
    match &peer.cause {
        Some(cause) => remarks.push(again(Some(cause), peer.ike.as_ref().and_then(|ike| ike.retry_in_s))),
        None if !ready => remarks.extend(peer.lacks.clone()),
        None => {}
    }
    if ready {
        remarks.extend(peer.lacks.iter().filter(|lack| peer.cause.as_ref() != Some(lack)).cloned());
    }
    match peer.narrowed.as_slice() {
        [] => {}
        [one] => remarks.push(format!("the peer carries only {} of {}", one.carried.join(", "), one.selector)),
        several => {
            remarks.push(format!("of {} selectors the peer carries only a part: adit explain {}", several.len(), peer.name))
        }
    }
    if ready && peer.paths.iter().any(|path| path.in_use && path.local == RELAY_END) {
        remarks.push("goes over the relay".to_owned());
    }
    for path in peer.paths.iter().filter(|path| path.in_use && path.black_holes > 0 && path.mtu < path.mtu_route) {
        remarks.push(format!("LARGER PACKETS VANISH on the way to {}: adit explain {}", path.remote, peer.name));
    }
    remarks
}

/// A cause, with when it is tried again.
fn again(cause: Option<&str>, retry_in_s: Option<u64>) -> String {
    let retry = retry_in_s.map(|retry| format!("again in {retry} s"));
    cause.map(str::to_owned).into_iter().chain(retry).collect::<Vec<_>>().join("; ")
}

/// When the last packet passed.
fn idle(traffic: &Traffic) -> String {
    match traffic.idle_s {
        None => "-".to_owned(),
        Some(0 | 1) => "now".to_owned(),
        Some(idle) => format!("{} ago", about(idle)),
    }
}

fn workers(workers: &[Worker]) -> String {
    let mut rows = vec![row(["worker", "core", "I/O", "sealed/s", "opened/s", "dropped", "addresses"])];
    rows.extend(workers.iter().map(|worker| {
        vec![
            worker.id.to_string(),
            worker.core.map_or("-".to_owned(), |core| core.to_string()),
            if worker.io_uring { "io_uring" } else { "poll" }.to_owned(),
            grouped(worker.sealed_per_s),
            grouped(worker.opened_per_s),
            grouped(worker.dropped_packets),
            grouped(worker.fdb_entries),
        ]
    }));
    table(&rows)
}

fn latencies(latencies: &[&Latency]) -> String {
    let mut rows = vec![row(["path", "p50", "p99", "p99.9"])];
    let of =
        |latency: &&Latency| vec![latency.path.clone(), micros(latency.p50_us), micros(latency.p99_us), micros(latency.p999_us)];
    rows.extend(latencies.iter().map(of));
    table(&rows)
}

/// Reasons and how often; what a reason means goes on below where it is long.
fn drops(drops: &[Drop]) -> String {
    let mut rows = vec![row(["reason", "packets"])];
    rows.extend(drops.iter().map(|drop| vec![drop.reason.clone(), grouped(drop.packets)]));
    let lines = table(&rows);
    let width = lines.lines().map(|line| line.chars().count()).max().unwrap_or(0);
    let meanings = std::iter::once("meaning").chain(drops.iter().map(|drop| drop.meaning.as_str()));
    lines.lines().zip(meanings).map(|(line, meaning)| wrapped(&format!("{line:<width$}  "), meaning)).collect()
}
