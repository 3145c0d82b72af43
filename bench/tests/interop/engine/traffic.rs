//! Datagrams from host b that an echo server at the other end of the tunnel sends back; `ping` would not wait for late ones.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use adit_bench::netns::Netns;
use anyhow::{Context, Result, ensure};

use super::SOON;

/// The echo server's port (RFC 862).
pub const PORT: u16 = 7;
/// From one datagram to the next.
const INTERVAL: Duration = Duration::from_millis(10);

/// Sends numbered datagrams as long as `more` says so; an error unless every one of them comes back, but for so many as `forgiven` says
/// afterwards.
pub fn echo(
    netns: &Netns,
    (from, to): (Ipv4Addr, Ipv4Addr),
    mut more: impl FnMut(usize) -> bool,
    forgiven: impl FnOnce() -> usize,
) -> Result<()> {
    let socket = netns.enter(|| UdpSocket::bind((from, 0))).with_context(|| format!("cannot bind {from}"))?;
    let mut back: Vec<bool> = Vec::new();
    while more(back.len()) {
        let number = u32::try_from(back.len())?;
        socket.send_to(&number.to_be_bytes(), (to, PORT)).with_context(|| format!("cannot send to {to}"))?;
        back.push(false);
        let next = Instant::now() + INTERVAL;
        while receive(&socket, next, &mut back)? {}
    }
    let end = Instant::now() + SOON;
    while !back.iter().all(|back| *back) && receive(&socket, end, &mut back)? {}
    let lost: Vec<usize> = back.iter().enumerate().filter(|(_, back)| !**back).map(|(number, _)| number).collect();
    ensure!(
        lost.is_empty() || lost.len() <= forgiven(),
        "of {} datagrams {} did not come back: {lost:?}",
        back.len(),
        lost.len()
    );
    Ok(())
}

/// Waits for one until `deadline`; says whether it came.
fn receive(socket: &UdpSocket, deadline: Instant, back: &mut [bool]) -> Result<bool> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Ok(false);
    }
    socket.set_read_timeout(Some(left))?;
    let mut number = [0; 4];
    match socket.recv(&mut number) {
        Ok(_) => {
            let number = usize::try_from(u32::from_be_bytes(number))?;
            *back.get_mut(number).context("a datagram that was never sent")? = true;
            Ok(true)
        }
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
