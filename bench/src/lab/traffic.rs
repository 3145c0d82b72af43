//! A TCP transfer between two namespaces whose content is checked: the sender makes a stream up as it goes, both ends hash it.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use aws_lc_rs::digest::{self, SHA256};

use super::SOON;
use crate::netns::Netns;

const BLOCK: usize = 256 * 1024;
/// A transfer in which nothing moves for so long has failed.
const STALL: Duration = SOON;

/// What came of a transfer.
#[derive(Clone, Debug, PartialEq)]
pub struct Transfer {
    pub bytes: u64,
    pub took: Duration,
    pub sent: [u8; 32],
    pub received: [u8; 32],
}

impl Transfer {
    /// Gbit/s of payload.
    pub fn gbits(&self) -> f64 {
        self.bytes as f64 * 8.0 / self.took.as_secs_f64() / 1e9
    }

    /// An error unless what arrived is what was sent.
    pub fn verify(&self, bytes: u64) -> Result<()> {
        ensure!(self.bytes == bytes, "{} of {bytes} bytes arrived", self.bytes);
        ensure!(self.sent == self.received, "the SHA-256 of what arrived differs from that of what was sent");
        Ok(())
    }
}

/// A transfer that goes on in threads of its own.
#[derive(Debug)]
pub struct Running {
    sender: JoinHandle<Result<[u8; 32]>>,
    receiver: JoinHandle<Result<([u8; 32], u64)>>,
    moved: Arc<AtomicU64>,
    start: Instant,
}

/// Sends `bytes` bytes from one namespace to `address` in the other, and waits for the end.
pub fn transfer(from: &Netns, to: &Netns, address: IpAddr, bytes: u64) -> Result<Transfer> {
    start(from, to, address, bytes)?.finish()
}

/// Starts a transfer; see [`transfer`].
pub fn start(from: &Netns, to: &Netns, address: IpAddr, bytes: u64) -> Result<Running> {
    let listener = to.enter(|| TcpListener::bind((address, 0))).with_context(|| format!("cannot listen on {address}"))?;
    let target: SocketAddr = listener.local_addr()?;
    let to_server =
        from.enter(|| TcpStream::connect_timeout(&target, SOON)).with_context(|| format!("cannot connect to {target}"))?;
    let (to_client, _) = listener.accept()?;
    for stream in [&to_server, &to_client] {
        stream.set_read_timeout(Some(STALL))?;
        stream.set_write_timeout(Some(STALL))?;
    }
    let moved = Arc::new(AtomicU64::new(0));
    let progress = moved.clone();
    let seed = u64::from(target.port()) << 32 | bytes & 0xFFFF_FFFF;
    Ok(Running {
        sender: thread::Builder::new().name("send".into()).spawn(move || send(to_server, bytes, seed))?,
        receiver: thread::Builder::new().name("receive".into()).spawn(move || receive(to_client, &progress))?,
        moved,
        start: Instant::now(),
    })
}

impl Running {
    /// Bytes that have arrived.
    pub fn moved(&self) -> u64 {
        self.moved.load(Ordering::Relaxed)
    }

    /// Whether both ends still work.
    pub fn is_running(&self) -> bool {
        !self.sender.is_finished() && !self.receiver.is_finished()
    }

    /// Waits for the end.
    pub fn finish(self) -> Result<Transfer> {
        let received = self.receiver.join().map_err(|_| anyhow!("the receiver panicked"))?;
        let sent = self.sender.join().map_err(|_| anyhow!("the sender panicked"))?;
        let (received, bytes) = received.context("the receiver failed")?;
        Ok(Transfer { bytes, took: self.start.elapsed(), sent: sent.context("the sender failed")?, received })
    }
}

fn send(mut stream: TcpStream, bytes: u64, seed: u64) -> Result<[u8; 32]> {
    let mut hash = digest::Context::new(&SHA256);
    let mut state = seed | 1;
    let mut block = vec![0; BLOCK];
    let mut left = bytes;
    while left > 0 {
        fill(&mut block, &mut state);
        let length = usize::try_from(left).unwrap_or(BLOCK).min(BLOCK);
        hash.update(&block[..length]);
        stream.write_all(&block[..length])?;
        left -= length as u64;
    }
    stream.shutdown(Shutdown::Write)?;
    // The far end closes after it has everything: only then was the connection not lost on the way.
    ensure!(stream.read_to_end(&mut Vec::new())? == 0, "the receiver sent something");
    finish(hash)
}

fn receive(mut stream: TcpStream, moved: &AtomicU64) -> Result<([u8; 32], u64)> {
    let mut hash = digest::Context::new(&SHA256);
    let mut block = vec![0; BLOCK];
    let mut bytes = 0;
    loop {
        let length = match stream.read(&mut block) {
            Ok(length) => length,
            // Not begun anew by the kernel where there is a time limit (signal(7)), as after a stop of the whole machine.
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error.into()),
        };
        if length == 0 {
            return Ok((finish(hash)?, bytes));
        }
        hash.update(&block[..length]);
        bytes += length as u64;
        moved.store(bytes, Ordering::Relaxed);
    }
}

fn finish(hash: digest::Context) -> Result<[u8; 32]> {
    Ok(hash.finish().as_ref().try_into()?)
}

/// Fills the block with numbers that do not repeat soon (xorshift64, Marsaglia 2003); not random in any stronger sense.
fn fill(block: &mut [u8], state: &mut u64) {
    for word in block.chunks_exact_mut(8) {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        word.copy_from_slice(&state.to_le_bytes());
    }
}

/// A counter of `/proc/net/snmp` or `/proc/net/netstat` in the namespace, for instance `("Tcp", "RetransSegs")`.
pub fn kernel_counter(netns: &Netns, group: &str, name: &str) -> Result<u64> {
    let read = |file: &str| netns.enter(|| std::fs::read_to_string(format!("/proc/thread-self/net/{file}")));
    let text = read("snmp")? + &read("netstat")?;
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(group)?.strip_prefix(": "));
    while let (Some(names), Some(values)) = (lines.next(), lines.next()) {
        if let Some(index) = names.split(' ').position(|candidate| candidate == name) {
            return values.split(' ').nth(index).and_then(|value| value.parse().ok()).context("a number");
        }
    }
    Err(anyhow!("the kernel has no counter {group}.{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transfer_over_loopback_keeps_its_hash_and_the_kernel_counts_it() {
        let netns = Netns::new("transfer").unwrap();
        let transfer = transfer(&netns, &netns, "127.0.0.1".parse().unwrap(), 3_000_001).unwrap();
        transfer.verify(3_000_001).unwrap();
        assert!(transfer.verify(3_000_000).is_err());
        assert!(kernel_counter(&netns, "Tcp", "OutSegs").unwrap() > 3);
        assert!(kernel_counter(&netns, "Tcp", "NoSuch").is_err());
    }
}
