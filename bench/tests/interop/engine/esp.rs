//! A data plane as small as can be: it does what the engine's events say, with an echo server behind it. ESP (RFC 4303) in UDP
//! (RFC 3948) with AES-GCM (RFC 4106). So few packets go through it that the high half of a sequence number is always zero.

use std::collections::{BTreeMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use adit_engine::ike::{ChildKeys, Event, Usage};
use adit_engine::path::{Hop, PathEvent, PathId};
use adit_proto::control::{PeerId, Spi};
use adit_proto::esp::{CIPHERTEXT_AT, Header, NEXT_HEADER_IPV4, NEXT_HEADER_NONE};
use adit_proto::ike::AddressRange;
use adit_proto::suite::{SALT_LEN, Suite, TAG_LEN};
use anyhow::{Context, Result, ensure};
use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

use super::traffic;

const IPV4_HEADER_LEN: usize = 20;
const ICMP: u8 = 1;
const UDP: u8 = 17;
const ECHO_REQUEST: u8 = 8;
/// More answers than this in [`HEAP_WITHIN`] are a heap: we were held up, for one is asked for every ten milliseconds.
const HEAP_MIN: usize = 5;
const HEAP_WITHIN: Duration = Duration::from_millis(20);
const SEALED_MAX: usize = 1000;

#[derive(Default)]
pub struct DataPlane {
    pub inbound: BTreeMap<Spi, ChildKeys>,
    /// In the order in which they were installed: the last one is used.
    pub outbound: Vec<Outbound>,
    hops: BTreeMap<(PeerId, PathId), (Hop, bool)>,
    /// Which way ESP goes, and whether in UDP.
    pub paths: BTreeMap<PeerId, (Hop, bool)>,
    used: BTreeMap<PeerId, PathId>,
    /// By inbound SPI, for the engine.
    pub usage: BTreeMap<Spi, Usage>,
    /// Datagrams that were sent back.
    pub answered: u64,
    /// By which SA the last ones were, and when.
    sealed: VecDeque<(Spi, Instant)>,
    /// Of them, those that left in one heap just before the peer had ended the SA: it takes messages of IKE sooner than packets.
    pub overtaken: usize,
    /// Everything that should not have happened: packets without an SA or with a wrong key, events that make no sense.
    pub faults: Vec<String>,
}

/// An outbound SA.
pub struct Outbound {
    pub keys: ChildKeys,
    sequence: u64,
}

impl DataPlane {
    /// Pairs of SAs; those whose other half is missing do not count.
    pub fn pairs(&self) -> usize {
        self.inbound.len().min(self.outbound.len())
    }

    pub fn apply(&mut self, event: &Event) {
        match event {
            Event::InstallInbound(keys) => {
                if self.inbound.insert(keys.spi, (**keys).clone()).is_some() {
                    self.faults.push(format!("inbound SA {:08x} installed twice", keys.spi.0));
                }
                self.usage.insert(keys.spi, Usage::default());
            }
            Event::InstallOutbound(keys) => {
                if !self.paths.contains_key(&keys.peer) {
                    self.faults.push(format!("outbound SA {:08x} before a path", keys.spi.0));
                }
                self.outbound.push(Outbound { keys: (**keys).clone(), sequence: 0 });
            }
            Event::RemoveInbound { spi, .. } => {
                self.usage.remove(spi);
                if self.inbound.remove(spi).is_none() {
                    self.faults.push(format!("inbound SA {:08x} removed that is not there", spi.0));
                }
            }
            Event::RemoveOutbound { spi, peer } => {
                let lately = self.sealed.iter().filter(|(by, at)| by == spi && at.elapsed() < HEAP_WITHIN).count();
                self.overtaken += if lately > HEAP_MIN { lately } else { 0 };
                let before = self.outbound.len();
                self.outbound.retain(|sa| sa.keys.spi != *spi || sa.keys.peer != *peer);
                if self.outbound.len() + 1 != before {
                    self.faults.push(format!("outbound SA {:08x} removed that is not there", spi.0));
                }
            }
            Event::Path(event) => self.apply_path(event),
            Event::State { .. }
            | Event::IkeWaits { .. }
            | Event::IkeUp { .. }
            | Event::IkeDown { .. }
            | Event::ChildFailed { .. }
            | Event::Refused { .. }
            | Event::Address { .. }
            | Event::KeyLog(_) => {}
        }
    }

    fn apply_path(&mut self, event: &PathEvent) {
        let peer = match event {
            PathEvent::Set { peer, path, hop, encapsulate, .. } => {
                self.hops.insert((*peer, *path), (*hop, *encapsulate));
                *peer
            }
            PathEvent::Use { peer, path } => {
                self.used.insert(*peer, *path);
                *peer
            }
            PathEvent::Peer { .. } | PathEvent::Remove { .. } | PathEvent::Echo { .. } | PathEvent::BlackHole { .. } => return,
        };
        if let Some(way) = self.used.get(&peer).and_then(|path| self.hops.get(&(peer, *path))) {
            self.paths.insert(peer, *way);
        }
    }

    /// Takes a packet of ESP; gives the answer to what is in it, with where it goes.
    pub fn receive(&mut self, packet: &[u8]) -> Option<(SocketAddr, Vec<u8>)> {
        match self.open(packet).and_then(|inner| self.answer(inner)) {
            Ok(answer) => {
                self.answered += 1;
                self.sealed.extend(self.outbound.last().map(|sa| (sa.keys.spi, Instant::now())));
                let surplus = self.sealed.len().saturating_sub(SEALED_MAX);
                self.sealed.drain(..surplus);
                Some(answer)
            }
            Err(error) => {
                self.faults.push(format!("{error:#}"));
                None
            }
        }
    }

    fn open(&mut self, packet: &[u8]) -> Result<Vec<u8>> {
        let header = Header::parse(packet).context("a packet shorter than its header")?;
        let keys = self.inbound.get(&header.spi).with_context(|| format!("no inbound SA {:08x}", header.spi.0))?;
        let mut inner = packet.get(CIPHERTEXT_AT..).context("no ciphertext")?.to_vec();
        let opened = key(keys)?.open_in_place(nonce(keys, header.iv), Aad::from(aad(keys, &header)), &mut inner);
        let opened = opened.ok().with_context(|| format!("a packet of {:08x} with another key", header.spi.0))?;
        let usage = self.usage.entry(header.spi).or_default();
        usage.inbound_packets += 1;
        usage.inbound_bytes += opened.len() as u64;
        let [.., padding, next] = *opened else { anyhow::bail!("an empty packet") };
        ensure!(next == NEXT_HEADER_IPV4, "next header {next}");
        let len = opened.len().checked_sub(2 + usize::from(padding)).context("padding longer than the packet")?;
        inner.truncate(len);
        Ok(inner)
    }

    /// The packet as an echo server, or a pinged host, would send it back, sealed.
    fn answer(&mut self, mut inner: Vec<u8>) -> Result<(SocketAddr, Vec<u8>)> {
        ensure!(inner.len() >= IPV4_HEADER_LEN + 8 && inner[0] == 0x45, "no IPv4 without options: {inner:02x?}");
        inner[12..IPV4_HEADER_LEN].rotate_left(4);
        let (protocol, inside) = (inner[9], &mut inner[IPV4_HEADER_LEN..]);
        match (protocol, inside[0]) {
            // Checksums stay right: the sums are the same.
            (UDP, _) if inside[2..4] == traffic::PORT.to_be_bytes() => inside[..4].rotate_left(2),
            (ICMP, ECHO_REQUEST) => {
                inside[0] = 0;
                // RFC 1624: the checksum follows the change of the type.
                let sum = u32::from(u16::from_be_bytes([inside[2], inside[3]])) + (u32::from(ECHO_REQUEST) << 8);
                inside[2..4].copy_from_slice(&((sum + (sum >> 16)) as u16).to_be_bytes());
            }
            _ => anyhow::bail!("neither a ping nor for the echo server: {inner:02x?}"),
        }
        self.seal(inner)
    }

    fn seal(&mut self, inner: Vec<u8>) -> Result<(SocketAddr, Vec<u8>)> {
        let destination = [16, 17, 18, 19].map(|at| inner[at]).into();
        let carries = |sa: &Outbound| sa.keys.selectors.remote.iter().any(|one| contains(&one.addresses, destination));
        let place = self.outbound.iter().rposition(carries).context("nothing to send with")?;
        self.seal_with(place, inner, NEXT_HEADER_IPV4)
    }

    /// A dummy packet (RFC 4303 §2.6) with something in it, for the peer of the newest SA.
    pub fn dummy(&mut self, inside: &[u8]) -> Result<(SocketAddr, Vec<u8>)> {
        let newest = self.outbound.len().checked_sub(1).context("nothing to send with")?;
        self.seal_with(newest, inside.to_vec(), NEXT_HEADER_NONE)
    }

    fn seal_with(&mut self, place: usize, mut inner: Vec<u8>, next_header: u8) -> Result<(SocketAddr, Vec<u8>)> {
        let sa = &mut self.outbound[place];
        sa.sequence += 1;
        let padding = (4 - (inner.len() + 2) % 4) % 4;
        inner.extend((1..=padding).map(|byte| byte as u8));
        inner.extend([padding as u8, next_header]);
        let mut packet = [0; CIPHERTEXT_AT];
        let header = Header::for_seq(sa.keys.spi, sa.sequence);
        header.write(&mut packet);
        let sealed =
            key(&sa.keys)?.seal_in_place_append_tag(nonce(&sa.keys, header.iv), Aad::from(aad(&sa.keys, &header)), &mut inner);
        sealed.ok().context("cannot seal")?;
        debug_assert!(inner.len() >= TAG_LEN);
        let (path, _) = self.paths.get(&sa.keys.peer).context("no path")?;
        Ok((path.udp().context("a way of UDP")?.remote, [packet.as_slice(), &inner].concat()))
    }
}

fn contains(range: &AddressRange, address: Ipv4Addr) -> bool {
    matches!(range, AddressRange::V4 { first, last } if (*first..=*last).contains(&address))
}

fn key(keys: &ChildKeys) -> Result<LessSafeKey> {
    let algorithm = match keys.suite {
        Suite::Aes128Gcm => &AES_128_GCM,
        Suite::Aes256Gcm => &AES_256_GCM,
        Suite::ChaCha20Poly1305 => &CHACHA20_POLY1305,
    };
    let key = UnboundKey::new(algorithm, &keys.key.key[..keys.suite.key_len()]).ok().context("a key of the wrong length")?;
    Ok(LessSafeKey::new(key))
}

/// SPI and sequence number; an extended one has its high half between them, here zero (RFC 4106 §5).
fn aad(keys: &ChildKeys, header: &Header) -> Vec<u8> {
    let high: &[u8] = if keys.esn { &[0; 4] } else { &[] };
    [&header.spi.0.to_be_bytes(), high, &header.seq_lo.to_be_bytes()].concat()
}

fn nonce(keys: &ChildKeys, iv: [u8; 8]) -> Nonce {
    let mut nonce = [0; SALT_LEN + 8];
    nonce[..SALT_LEN].copy_from_slice(&keys.key.salt);
    nonce[SALT_LEN..].copy_from_slice(&iv);
    Nonce::assume_unique_for_key(nonce)
}
