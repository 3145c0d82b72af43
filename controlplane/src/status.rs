//! `adit status` for people: plain text, columns aligned, sizes with units.

mod children;
mod connections;

use std::fmt::Write;

use adit_engine::auth::own::WARN_BEFORE;

use crate::api::types::{Peer, Reload, Status, Traffic};
use crate::config::KEY_LOG_WARNING;

/// The whole report.
pub fn report(status: &Status) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = head(&mut out, status);
    out.push_str("\npeers\n");
    out.push_str(&peers(&status.peers));
    out.push_str(&children::report(&status.peers));
    out.push_str(&connections::report(&status.peers));
    if status.peers.iter().any(|peer| !peer.paths.is_empty()) {
        out.push_str("\npaths\n");
        out.push_str(&paths(&status.peers));
    }
    if !status.workers.is_empty() {
        out.push_str("\nworkers\n");
        out.push_str(&workers(status));
    }
    let latencies: Vec<_> = status.latencies.iter().filter(|latency| latency.count > 0).collect();
    if !latencies.is_empty() {
        out.push_str("\nlatency of a batch\n");
        let mut rows = vec![row(["path", "p50", "p99", "p99.9"])];
        for latency in latencies {
            rows.push(vec![latency.path.clone(), micros(latency.p50_us), micros(latency.p99_us), micros(latency.p999_us)]);
        }
        out.push_str(&table(&rows));
    }
    if status.drops.is_empty() {
        out.push_str("\nno packet was dropped\n");
    } else {
        out.push_str("\ndropped packets\n");
        let mut rows = vec![row(["reason", "packets", "meaning"])];
        rows.extend(status.drops.iter().map(|drop| vec![drop.reason.clone(), grouped(drop.packets), drop.meaning.clone()]));
        out.push_str(&table(&rows));
    }
    out
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

fn head(out: &mut String, status: &Status) -> std::fmt::Result {
    let control = &status.control_plane;
    writeln!(out, "gateway        {}", status.name)?;
    if let Some(dir) = &status.key_log_dir {
        writeln!(out, "KEY LOG        the keys of every SA go to {dir}: {KEY_LOG_WARNING}")?;
    }
    writeln!(out, "control plane  process {}, version {}, up {}", control.pid, control.version, duration(control.uptime_s))?;
    match &status.data_plane {
        Some(plane) => {
            let up = if plane.started_here { "up" } else { "attached for" };
            writeln!(out, "data plane     process {}, version {}, {up} {}", plane.pid, plane.version, duration(plane.uptime_s))?;
            writeln!(
                out,
                "               UDP {}, I/O {}, crypto {} ({})",
                plane.listen, plane.io, plane.crypto, plane.cpu_features
            )?;
            writeln!(out, "               {} of memory", bytes(plane.memory_bytes))?;
        }
        None => writeln!(out, "data plane     DOWN: the tunnel carries nothing until it is back")?,
    }
    if status.data_plane_restarts > 0 {
        writeln!(out, "               restarted {} times", status.data_plane_restarts)?;
    }
    if let Some(configuration) = &status.configuration {
        writeln!(out, "configuration  {}, read {} ago", configuration.file, duration(configuration.read_s))?;
        if configuration.newer {
            writeln!(out, "               the file is newer than what runs: adit reload --dry-run says what would change")?;
        }
        for line in &configuration.pending {
            writeln!(out, "               not done yet: {line}")?;
        }
    }
    let interface = &status.interface;
    let addresses = interface.addresses.iter().fold(String::new(), |text, address| text + ", " + address);
    writeln!(out, "interface      {}, MTU {}, MAC {}{addresses}", interface.name, interface.mtu, interface.mac)?;
    for certificate in &status.certificates {
        writeln!(out, "certificate    {}, {}", certificate.subject, validity(certificate.remaining_s))?;
    }
    Ok(())
}

/// How long a certificate is still good, for people.
fn validity(remaining_s: i64) -> String {
    match u64::try_from(remaining_s) {
        Ok(left) if left < WARN_BEFORE => format!("ENDS in {}: renew it", duration(left)),
        Ok(left) => format!("valid for {}", duration(left)),
        Err(_) => format!("EXPIRED {} ago: renew it", duration(remaining_s.unsigned_abs())),
    }
}

fn peers(peers: &[Peer]) -> String {
    let mut rows =
        vec![row(["name", "endpoint", "keys", "state", "for", "", "packets", "bytes", "rate", "last traffic", "cause"])];
    for peer in peers {
        let one = |direction: &str, traffic: &Traffic, first: [&str; 5]| {
            let mut cells = row(first);
            let idle = |idle| if idle < 2 { "now".to_owned() } else { format!("{} ago", duration(idle)) };
            cells.extend([
                direction.to_owned(),
                grouped(traffic.packets),
                bytes(traffic.bytes),
                bit_rate(traffic.bits_per_s),
                traffic.idle_s.map_or("-".to_owned(), idle),
            ]);
            cells
        };
        let since = peer.since_s.map_or("-".to_owned(), duration);
        let keys = peer.keys.replace('_', " ");
        let mut first = one("out", &peer.sent, [&peer.name, &peer.endpoint, &keys, &peer.state, &since]);
        first.push(again(peer.cause.as_deref(), peer.ike.as_ref().and_then(|ike| ike.retry_in_s)));
        rows.push(first);
        rows.push(one("in", &peer.received, [""; 5]));
    }
    table(&rows)
}

/// A cause, with when it is tried again.
fn again(cause: Option<&str>, retry_in_s: Option<u64>) -> String {
    let retry = retry_in_s.map(|retry| format!("again in {retry} s"));
    cause.map(str::to_owned).into_iter().chain(retry).collect::<Vec<_>>().join("; ")
}

/// How long until something comes, where it comes at all.
fn remaining(seconds: Option<u64>) -> String {
    seconds.map_or_else(|| "-".to_owned(), duration)
}

fn paths(peers: &[Peer]) -> String {
    let mut rows = vec![row(["name", "path", "from", "to", "packets up to", "round trip", "sent", "received", ""])];
    for (peer, path) in peers.iter().flat_map(|peer| peer.paths.iter().map(move |path| (peer, path))) {
        let mut says = vec![match (path.in_use, path.ike, path.proven) {
            (true, ..) => "in use",
            (false, true, _) => "in use for IKE",
            (false, false, true) => "proven",
            (false, false, false) => "not proven",
        }];
        if path.black_holes > 0 && path.mtu < path.mtu_route {
            says.push("LARGER PACKETS VANISH");
        }
        let mut cells = row([&peer.name, &path.id.to_string(), &path.local, &path.remote]);
        cells.extend([
            // What is longer goes in two.
            format!("{}{} B", if path.split { "2 x " } else { "" }, path.mtu),
            path.rtt_us.map_or("-".to_owned(), |rtt| micros(rtt as f64)),
            bytes(path.sent.bytes),
            bytes(path.received.bytes),
            says.join(", "),
        ]);
        rows.push(cells);
    }
    table(&rows)
}

fn workers(status: &Status) -> String {
    let mut rows = vec![row(["worker", "core", "I/O", "sealed/s", "opened/s", "sealed", "opened", "dropped", "addresses"])];
    for worker in &status.workers {
        rows.push(vec![
            worker.id.to_string(),
            worker.core.map_or("-".to_owned(), |core| core.to_string()),
            if worker.io_uring { "io_uring" } else { "poll" }.to_owned(),
            grouped(worker.sealed_per_s),
            grouped(worker.opened_per_s),
            grouped(worker.sealed_packets),
            grouped(worker.opened_packets),
            grouped(worker.dropped_packets),
            grouped(worker.fdb_entries),
        ]);
    }
    table(&rows)
}

fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).into()
}

/// Columns as wide as their widest cell, two spaces apart; columns of numbers to the right.
fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0);
    let numeric = |column: usize| {
        let mut cells = rows.iter().skip(1).filter_map(|row| row.get(column)).filter(|cell| !cell.is_empty()).peekable();
        cells.peek().is_some()
            && cells.all(|cell| cell.starts_with(|c: char| c.is_ascii_digit() || c == '-') && !cell.contains([':', 'x']))
    };
    let shape: Vec<(usize, bool)> = (0..columns).map(|column| (width(column), numeric(column))).collect();
    let mut out = String::new();
    for row in rows {
        let cells = row.iter().zip(&shape).map(|(cell, (width, right))| match right {
            true => format!("{cell:>width$}"),
            false => format!("{cell:<width$}"),
        });
        let line = cells.collect::<Vec<_>>().join("  ");
        out.push_str("  ");
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// Digits in groups of three.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(digit);
    }
    out
}

fn scaled(value: u64, step: f64, units: &[&str]) -> String {
    let mut scaled = value as f64;
    let mut unit = 0;
    while scaled >= step && unit + 1 < units.len() {
        scaled /= step;
        unit += 1;
    }
    if unit == 0 { format!("{value} {}", units[0]) } else { format!("{scaled:.1} {}", units[unit]) }
}

fn bytes(value: u64) -> String {
    scaled(value, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB", "PiB"])
}

fn bit_rate(value: u64) -> String {
    scaled(value, 1000.0, &["bit/s", "kbit/s", "Mbit/s", "Gbit/s", "Tbit/s"])
}

fn micros(us: f64) -> String {
    if us < 1000.0 { format!("{us:.1} us") } else { format!("{:.2} ms", us / 1000.0) }
}

fn duration(s: u64) -> String {
    let (days, hours, minutes) = (s / 86_400, s / 3600 % 24, s / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{s} s"),
        (0, 0, _) => format!("{minutes} min {} s", s % 60),
        (0, ..) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_for_people() {
        assert_eq!(grouped(1_234_567), "1 234 567");
        assert_eq!(grouped(999), "999");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1 << 31), "2.0 GiB");
        assert_eq!(bit_rate(11_200_000_000), "11.2 Gbit/s");
        assert_eq!(micros(57.04), "57.0 us");
        assert_eq!(micros(1500.0), "1.50 ms");
        assert_eq!(duration(59), "59 s");
        assert_eq!(duration(3_661), "1 h 1 min");
        assert_eq!(duration(90_000), "1 d 1 h");
    }

    #[test]
    fn columns_are_aligned_and_numbers_stand_to_the_right() {
        let rows = [row(["name", "n", "text"]), row(["a", "5", "x"]), row(["long", "1 000", ""])];
        assert_eq!(table(&rows), "  name      n  text\n  a         5  x\n  long  1 000\n");
    }
}
