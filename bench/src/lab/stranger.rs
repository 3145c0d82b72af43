//! A stranger on the cable of a gateway: what can be sent without any key, under everybody's addresses, at an even pace that leaves no gaps
//! for others.

use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::capture::{Datagram, Injector};
use super::{Gateway, PORT};

/// Different datagrams of a kind, which are sent over and over.
const DATAGRAMS: u32 = 8192;
/// A sender that waited for a core makes up for no more than this.
const LATE_MAX: Duration = Duration::from_millis(1);
/// Shorter gaps are not slept through: a sleep takes longer than it was asked for.
const GAP_SLEPT: Duration = Duration::from_micros(200);
/// Its own address, where it uses it.
const STRANGER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 99);

/// What a flood is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// What begins as IKE and is not as long as it says.
    Junk,
    /// IKE of version 3.
    Version,
    /// Requests to connect, from as many networks as there are.
    Requests,
    /// Requests to connect, all under the address of the peer, from ports that it does not use.
    PeersRequests,
    /// The same from the port that it uses.
    PeersPort,
    /// ESP with an SPI that nobody has.
    Esp,
}

impl Kind {
    /// Those that hinder nobody. The other one hinders the peer where it begins, and not us where we do.
    pub const ALL: [Kind; 5] = [Kind::Junk, Kind::Version, Kind::Requests, Kind::PeersRequests, Kind::Esp];
}

/// Who is flooded, and how.
#[derive(Clone, Debug)]
pub struct Stranger {
    /// Whose packets the gateway waits for.
    pub peer: IpAddr,
    /// The gateway and its port.
    pub to: SocketAddrV4,
    /// MAC addresses and type of the frames, destination first.
    pub ethernet: [u8; 14],
    /// An IKE_SA_INIT as the peer makes it, without its marker.
    pub request: Vec<u8>,
}

impl Stranger {
    /// As many different datagrams of a kind as it takes to look like many senders.
    pub fn datagrams(&self, kind: Kind) -> Vec<Datagram> {
        (0..DATAGRAMS).map(|n| self.datagram(kind, n)).collect()
    }

    fn datagram(&self, kind: Kind, n: u32) -> Datagram {
        let any_port = 1024 + (n * 7 % 60_000) as u16;
        let from = match (kind, self.peer) {
            (Kind::Requests, _) => anywhere(n),
            (Kind::PeersRequests, IpAddr::V4(peer)) => SocketAddrV4::new(peer, if any_port == PORT { 1024 } else { any_port }),
            (Kind::PeersPort, IpAddr::V4(peer)) => SocketAddrV4::new(peer, self.peers_port()),
            _ => SocketAddrV4::new(STRANGER, any_port),
        };
        let spi = spread(n).to_be_bytes();
        let message = match kind {
            Kind::Junk => [&spi[..], &spi, &[0; 12]].concat(),
            Kind::Version => [&spi[..], &[0; 8], &[0, 0x30, 34, 8, 0, 0, 0, 0, 0, 0, 0, 28]].concat(),
            Kind::Requests | Kind::PeersRequests | Kind::PeersPort => [&spi[..], &self.request[8..]].concat(),
            Kind::Esp => [&[0x80], &[0xA5; 99][..]].concat(),
        };
        let marker: &[u8] = if self.to.port() != PORT || kind == Kind::Esp { &[] } else { &[0; 4] };
        Datagram { from, to: self.to, ethernet: self.ethernet, payload: [marker, &message].concat() }
    }

    /// From which port the peer sends to the gateway's.
    fn peers_port(&self) -> u16 {
        self.to.port()
    }

    /// Protected messages with the SPIs of an IKE SA that was overheard, as short as there are any, and none of them authentic: by
    /// turns under the address of the peer and under everybody's.
    pub fn overheard(&self, spis: [u8; 16]) -> Vec<Datagram> {
        let marker: &[u8] = if self.to.port() == PORT { &[0; 4] } else { &[] };
        let header = [&spis[..], &[46, 0x20, 37, 8, 0, 0, 0, 2], &57u32.to_be_bytes()].concat();
        let one = |n: u32| {
            let from = match self.peer {
                IpAddr::V4(peer) if n.is_multiple_of(2) => SocketAddrV4::new(peer, self.peers_port()),
                _ => anywhere(n),
            };
            let sealed = [&[0, 0, 0, 29][..], &spread(n).to_be_bytes(), &[0xA5; 17]].concat();
            Datagram { from, to: self.to, ethernet: self.ethernet, payload: [marker, &header, &sealed].concat() }
        };
        (0..DATAGRAMS).map(one).collect()
    }
}

/// An address and port out of as many networks as there are.
fn anywhere(n: u32) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::from_bits(0x0a00_0000 | (spread(n) >> 40) as u32), 1024 + (n * 7 % 60_000) as u16)
}

/// A number that looks like chance.
fn spread(n: u32) -> u64 {
    u64::from(n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Sends the datagrams over and over, so many in a second, until told to stop; `sent` grows with each. One at a time: a burst would leave
/// room for others behind it. Who was late does not make up for it.
pub fn send_evenly(link: &Injector, datagrams: &[Datagram], rate: u32, stop: &AtomicBool, sent: &AtomicU64) -> Result<()> {
    evenly(rate, stop, sent, |n| link.send(&datagrams[n as usize % datagrams.len()]))
}

/// Does something so many times in a second, as [`send_evenly`] does; `each` is told how many were before.
pub fn evenly(rate: u32, stop: &AtomicBool, sent: &AtomicU64, mut each: impl FnMut(u64) -> Result<()>) -> Result<()> {
    let mut next = Instant::now();
    for n in 0.. {
        next = (next + Duration::from_secs(1) / rate).max(Instant::now() - LATE_MAX);
        loop {
            if stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            match next.saturating_duration_since(Instant::now()) {
                Duration::ZERO => break,
                gap if gap > GAP_SLEPT => thread::sleep(gap - GAP_SLEPT / 2),
                _ => thread::yield_now(),
            }
        }
        each(n)?;
        sent.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// The header of frames from a link of another namespace to the outer link of a gateway.
pub fn ethernet(from: [u8; 6], to: [u8; 6]) -> [u8; 14] {
    let mut header = [0; 14];
    header[..6].copy_from_slice(&to);
    header[6..12].copy_from_slice(&from);
    header[12..].copy_from_slice(&[8, 0]);
    header
}

/// Where a gateway is reached at this port.
pub fn target(gateway: &Gateway, port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, gateway.number), port)
}
