//! `adit-bench io`: one forwarding loop for UDP, written against each way of asking the kernel.
//!
//! ```text
//! load::Sender ─▶ 127.0.0.1:RELAY ─▶ relay thread (poll | io_uring | tokio-uring) ─▶ 127.0.0.1:sink ─▶ load::Sink
//! ```
//! All of it in one namespace of its own. Each relay takes datagrams from one socket and sends them from another, both plain (no GSO,
//! no GRO), at most [`SLOTS`] at a time, without copying. Packets/s say what arrives beside generator and sink on the same cores;
//! the relay thread's own processor time per packet is the steadier figure.

mod poll;
#[cfg(feature = "tokio-uring")]
mod tokio_uring;
mod uring;

use std::fs;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::load::{self, Offer};
use crate::netns::Netns;
use crate::report::Report;

/// Datagrams in work at one time.
const SLOTS: usize = 64;
/// Room for one datagram.
const SLOT_LEN: usize = 2048;
const RELAY: &str = "127.0.0.1:5302";
const SINK: &str = "127.0.0.1:5303";
/// Far above what one loop forwards.
const FLOOD_PPS: f64 = 3_000_000.0;

/// Ways of UDP I/O compared: poll, io_uring, tokio-uring
#[derive(Args, Debug)]
pub struct IoArgs {
    /// Write all figures to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// How often every way is measured
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// How long every single measurement takes
    #[arg(long, default_value_t = 2)]
    seconds: u64,
}

/// Forwards from the first socket to where the second is connected, until told to stop (any datagram wakes it up for that).
type Relay = fn(UdpSocket, UdpSocket, &Arc<AtomicBool>) -> io::Result<()>;

fn relays() -> Vec<(&'static str, Relay)> {
    vec![
        ("poll", poll::relay as Relay),
        ("io_uring", uring::relay as Relay),
        #[cfg(feature = "tokio-uring")]
        ("tokio-uring", tokio_uring::relay as Relay),
    ]
}

/// Runs the command.
pub fn run(args: &IoArgs) -> Result<()> {
    ensure!(args.rounds > 0 && args.seconds > 0, "at least one round and one second");
    let mut report = Report::new();
    for round in 1..=args.rounds {
        for (name, relay) in relays() {
            for (size, rate, cost) in [(18, "udp18", "udp18_cpu_us"), (1350, "udp1350", "udp1350_cpu_us")] {
                eprintln!("round {round}/{} {name} {rate}", args.rounds);
                let (pps, cpu_us) =
                    measure(relay, size, Duration::from_secs(args.seconds)).with_context(|| format!("{name} {rate}"))?;
                report.add(name, rate, "packets/s", pps);
                report.add(name, cost, "µs of the relay per packet", cpu_us);
            }
        }
    }
    println!("{}", report.table(Some("poll")));
    if cfg!(not(feature = "tokio-uring")) {
        println!("For the third way: cargo run --release -p adit-bench --features tokio-uring -- io");
    }
    args.json.as_deref().map_or(Ok(()), |file| report.write(file))
}

/// Packets per second that arrive, and the relay's processor time for each in microseconds.
fn measure(relay: Relay, size: usize, duration: Duration) -> Result<(f64, f64)> {
    let (target, arrival): (SocketAddr, SocketAddr) = (RELAY.parse()?, SINK.parse()?);
    let netns = Netns::new("io")?;
    let (from, to) = netns.enter(|| sockets(target, arrival))?;
    let stop = Arc::new(AtomicBool::new(false));
    let seen = stop.clone();
    let thread = thread::Builder::new().name("relay".into()).spawn(move || {
        let outcome = relay(from, to, &seen);
        outcome.map(|()| thread_cpu_s())
    })?;
    let offer = Offer { sizes: vec![size], flows: 1, rate: FLOOD_PPS, duration };
    let figure = load::measure_through(&netns, target, &netns, arrival, &offer);
    stop.store(true, Ordering::Relaxed);
    let waker = netns.enter(|| UdpSocket::bind("127.0.0.1:0"))?;
    while !thread.is_finished() {
        // One for each receive that waits.
        for _ in 0..SLOTS {
            waker.send_to(&[0], target)?;
        }
        thread::sleep(Duration::from_millis(5));
    }
    let cpu_s = thread.join().map_err(|_| anyhow::anyhow!("the relay panicked"))??;
    let figure = figure?;
    ensure!(figure.tally.received > 0, "nothing arrived");
    Ok((figure.received_pps, 1e6 * cpu_s / figure.tally.received as f64))
}

fn sockets(target: SocketAddr, arrival: SocketAddr) -> io::Result<(UdpSocket, UdpSocket)> {
    let (from, to) = (UdpSocket::bind(target)?, UdpSocket::bind("127.0.0.1:0")?);
    to.connect(arrival)?;
    Ok((from, to))
}

/// Processor time of the calling thread in seconds: the first field of schedstat, in nanoseconds; 0 on kernels without it.
fn thread_cpu_s() -> f64 {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split_whitespace().next().and_then(|ns| ns.parse::<f64>().ok()).unwrap_or(0.0) / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_forwards_and_stops_when_told() {
        for (name, relay) in relays() {
            let (pps, cpu_us) = measure(relay, 100, Duration::from_millis(600)).unwrap();
            // How many there are is for a machine with nothing else to do.
            assert!(pps > 0.0 && cpu_us > 0.0, "{name}: {pps} packets/s, {cpu_us} µs");
        }
    }
}
