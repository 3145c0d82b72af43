//! Paths: the ways on which datagrams reach a peer. A peer has up to eight, one of them in use.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use crate::codec::{DecodeError, Reader, Writer};

pub use crate::limits::PATHS_MAX;

/// A path of a peer: 0 to [`PATHS_MAX`] − 1. It means nothing to the peer, nor beside the peer that it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PathId(u8);

impl PathId {
    /// The path of a peer that has only one.
    pub const FIRST: PathId = PathId(0);

    /// `None` when a peer cannot have that many.
    pub const fn new(number: u8) -> Option<PathId> {
        if (number as usize) < PATHS_MAX { Some(PathId(number)) } else { None }
    }

    /// All that there can be.
    pub fn all() -> impl Iterator<Item = PathId> {
        (0..PATHS_MAX as u8).map(PathId)
    }

    /// The place in a table of [`PATHS_MAX`].
    #[inline]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// A stream to a peer, as over a relay. The control plane has it and chooses its number; all that the data plane knows of it is that trains
/// of this number go up to the control plane and come down from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(pub u64);

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "stream {:016x}", self.0)
    }
}

/// How datagrams go to the other end of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hop {
    /// As UDP, straight from a socket of the data plane.
    Udp(UdpHop),
    /// As trains in a stream of the control plane. They count as packets of IPv4 and UDP where the length of packets is meant.
    Stream(StreamId),
}

/// A way for UDP datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct UdpHop {
    /// From which of the data plane's sockets they leave: 0, the one on the gateway's port.
    pub socket: u8,
    /// The source address; the kernel chooses when there is none.
    pub local: Option<IpAddr>,
    /// Index of the interface by which they leave; 0 is any.
    pub interface: u32,
    pub remote: SocketAddr,
}

impl UdpHop {
    /// From the gateway's port to this address, as the kernel's routes say.
    pub const fn to(remote: SocketAddr) -> UdpHop {
        UdpHop { socket: 0, local: None, interface: 0, remote }
    }
}

/// Where a datagram came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LocalEnd {
    pub address: IpAddr,
    /// Index of the interface.
    pub interface: u32,
}

/// How a datagram came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Via {
    Udp { from: SocketAddr, to: LocalEnd },
    Stream(StreamId),
}

/// Stands before a train of ESP packets on its way between the planes, in either direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrainHeader {
    pub stream: StreamId,
    /// Traffic class of the packets, as their outer headers would have it.
    pub class: u8,
    /// Length of every packet but the last, which may be shorter; never 0.
    pub segment: u16,
}

/// Stands before a datagram that the data plane hands up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PuntHeader {
    pub from: SocketAddr,
    pub to: LocalEnd,
    /// Traffic class of the packet: DSCP and ECN (RFC 2474, RFC 3168).
    pub class: u8,
}

/// Stands before a datagram that the control plane has the data plane send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InjectHeader {
    pub to: SocketAddr,
    /// The source address; the kernel chooses when there is none.
    pub local: Option<IpAddr>,
    /// Index of the interface by which it leaves; 0 is any.
    pub interface: u32,
    pub class: u8,
    /// It may leave as IP fragments: a message of IKE that its sender could not cut (RFC 7383), longer than every path carries.
    pub fragments: bool,
}

impl InjectHeader {
    /// To this address, as the kernel's routes say.
    pub const fn to(to: SocketAddr) -> InjectHeader {
        InjectHeader { to, local: None, interface: 0, class: 0, fragments: false }
    }
}

/// Codes of the kinds of hops. TURN will have another one.
const HOP_UDP: u8 = 1;
const HOP_STREAM: u8 = 2;

impl PathId {
    pub(super) fn write(self, writer: &mut Writer) {
        writer.u8(self.0);
    }

    pub(super) fn read(reader: &mut Reader) -> Result<PathId, DecodeError> {
        PathId::new(reader.u8()?).ok_or(DecodeError::BadValue("path"))
    }

    /// A path that may be none: 255 stands for that.
    pub(super) fn write_option(path: Option<PathId>, writer: &mut Writer) {
        writer.u8(path.map_or(u8::MAX, |path| path.0));
    }

    pub(super) fn read_option(reader: &mut Reader) -> Result<Option<PathId>, DecodeError> {
        match reader.u8()? {
            u8::MAX => Ok(None),
            number => PathId::new(number).map(Some).ok_or(DecodeError::BadValue("path")),
        }
    }
}

impl Hop {
    pub(super) fn write(&self, writer: &mut Writer) {
        match self {
            Hop::Udp(hop) => {
                write_source(writer.u8(HOP_UDP).u8(hop.socket), hop.local, hop.interface);
                writer.addr(hop.remote);
            }
            Hop::Stream(stream) => {
                writer.u8(HOP_STREAM).u64(stream.0);
            }
        }
    }

    pub(super) fn read(reader: &mut Reader) -> Result<Hop, DecodeError> {
        match reader.u8()? {
            HOP_UDP => {
                let socket = reader.u8()?;
                let (local, interface) = read_source(reader)?;
                Ok(Hop::Udp(UdpHop { socket, local, interface, remote: reader.addr()? }))
            }
            HOP_STREAM => Ok(Hop::Stream(StreamId(reader.u64()?))),
            _ => Err(DecodeError::BadValue("hop")),
        }
    }
}

impl Via {
    pub(super) fn write(&self, writer: &mut Writer) {
        match self {
            Via::Udp { from, to } => to.write(writer.u8(HOP_UDP).addr(*from)),
            Via::Stream(stream) => drop(writer.u8(HOP_STREAM).u64(stream.0)),
        }
    }

    pub(super) fn read(reader: &mut Reader) -> Result<Via, DecodeError> {
        match reader.u8()? {
            HOP_UDP => Ok(Via::Udp { from: reader.addr()?, to: LocalEnd::read(reader)? }),
            HOP_STREAM => Ok(Via::Stream(StreamId(reader.u64()?))),
            _ => Err(DecodeError::BadValue("way")),
        }
    }
}

impl TrainHeader {
    /// Words that it takes.
    pub const WORDS: usize = 2;

    /// As the words that stand before a record.
    pub fn to_words(self) -> [u64; TrainHeader::WORDS] {
        [self.stream.0, u64::from(self.segment) << 8 | u64::from(self.class)]
    }

    /// Reads what [`TrainHeader::to_words`] makes; any words give a header or the reason why they are none.
    pub fn from_words([stream, rest]: [u64; TrainHeader::WORDS]) -> Result<TrainHeader, DecodeError> {
        let segment = u16::try_from(rest >> 8).ok().filter(|segment| *segment != 0).ok_or(DecodeError::BadValue("segment"))?;
        Ok(TrainHeader { stream: StreamId(stream), class: rest as u8, segment })
    }

    /// How many packets there are in a train of so many bytes.
    pub fn packets(&self, len: usize) -> usize {
        len.div_ceil(self.segment.max(1).into())
    }
}

impl LocalEnd {
    pub(super) fn write(&self, writer: &mut Writer) {
        write_ip(writer, self.address);
        writer.u32(self.interface);
    }

    pub(super) fn read(reader: &mut Reader) -> Result<LocalEnd, DecodeError> {
        let address = match reader.u8()? {
            4 => reader.array::<4>()?.into(),
            6 => reader.array::<16>()?.into(),
            _ => return Err(DecodeError::BadValue("address family")),
        };
        Ok(LocalEnd { address, interface: reader.u32()? })
    }
}

impl PuntHeader {
    /// Room for any of them, in bytes.
    pub const LEN_MAX: usize = 56;

    /// Writes it; the rest is left as it is.
    pub fn encode(&self, out: &mut [u8; PuntHeader::LEN_MAX]) {
        let mut writer = Writer::new(out);
        writer.addr(self.from);
        self.to.write(&mut writer);
        writer.u8(self.class).finish().expect("LEN_MAX holds every header");
    }

    /// Reads it from the beginning of bytes of which the rest means nothing.
    pub fn decode(bytes: &[u8]) -> Result<PuntHeader, DecodeError> {
        let mut reader = Reader::new(bytes);
        Ok(PuntHeader { from: reader.addr()?, to: LocalEnd::read(&mut reader)?, class: reader.u8()? })
    }
}

impl InjectHeader {
    /// Room for any of them, in bytes.
    pub const LEN_MAX: usize = 56;

    /// Writes it; the rest is left as it is.
    pub fn encode(&self, out: &mut [u8; InjectHeader::LEN_MAX]) {
        let mut writer = Writer::new(out);
        write_source(writer.addr(self.to), self.local, self.interface);
        writer.u8(self.class).flag(self.fragments).finish().expect("LEN_MAX holds every header");
    }

    /// Reads it from the beginning of bytes of which the rest means nothing.
    pub fn decode(bytes: &[u8]) -> Result<InjectHeader, DecodeError> {
        let mut reader = Reader::new(bytes);
        let to = reader.addr()?;
        let (local, interface) = read_source(&mut reader)?;
        Ok(InjectHeader { to, local, interface, class: reader.u8()?, fragments: reader.flag("fragments")? })
    }
}

fn write_ip(writer: &mut Writer, address: IpAddr) {
    match address {
        IpAddr::V4(v4) => writer.u8(4).bytes(&v4.octets()),
        IpAddr::V6(v6) => writer.u8(6).bytes(&v6.octets()),
    };
}

fn write_source(writer: &mut Writer, local: Option<IpAddr>, interface: u32) {
    match local {
        Some(address) => write_ip(writer, address),
        None => drop(writer.u8(0)),
    }
    writer.u32(interface);
}

fn read_source(reader: &mut Reader) -> Result<(Option<IpAddr>, u32), DecodeError> {
    let local = match reader.u8()? {
        0 => None,
        4 => Some(reader.array::<4>()?.into()),
        6 => Some(reader.array::<16>()?.into()),
        _ => return Err(DecodeError::BadValue("address family")),
    };
    Ok((local, reader.u32()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn headers_come_back(ip: IpAddr, port: u16, own: IpAddr, any: bool, interface: u32, class: u8, fragments: bool) {
            let (addr, local) = (SocketAddr::new(ip, port), any.then_some(own));
            let punt = PuntHeader { from: addr, to: LocalEnd { address: own, interface }, class };
            let mut out = [0xee; PuntHeader::LEN_MAX];
            punt.encode(&mut out);
            prop_assert_eq!(PuntHeader::decode(&out), Ok(punt));
            let inject = InjectHeader { to: addr, local, interface, class, fragments };
            let mut out = [0xee; InjectHeader::LEN_MAX];
            inject.encode(&mut out);
            prop_assert_eq!(InjectHeader::decode(&out), Ok(inject));
        }

        #[test]
        fn headers_of_trains_come_back_and_other_words_are_none(stream: u64, class: u8, segment in 1u16.., any: [u64; 2]) {
            let header = TrainHeader { stream: StreamId(stream), class, segment };
            prop_assert_eq!(TrainHeader::from_words(header.to_words()), Ok(header));
            let is_one = TrainHeader::from_words(any).is_ok_and(|read| read.to_words() == any);
            prop_assert!(is_one || any[1] >> 24 != 0 || any[1] >> 8 == 0);
        }

        #[test]
        fn any_bytes_give_a_header_or_an_error(bytes: [u8; PuntHeader::LEN_MAX], short in 0..PuntHeader::LEN_MAX) {
            let _ = (PuntHeader::decode(&bytes), InjectHeader::decode(&bytes));
            let _ = (PuntHeader::decode(&bytes[..short]), InjectHeader::decode(&bytes[..short]));
        }
    }

    #[test]
    fn the_last_packet_of_a_train_may_be_shorter() {
        let header = TrainHeader { stream: StreamId(1), class: 0, segment: 1000 };
        assert_eq!([0, 1, 1000, 1001, 65_535].map(|len| header.packets(len)), [0, 1, 1, 2, 66]);
        assert_eq!(TrainHeader::from_words([1, 0xb8]), Err(DecodeError::BadValue("segment")), "packets without length");
        assert_eq!(StreamId(0xbeef).to_string(), "stream 000000000000beef");
    }

    #[test]
    fn a_peer_has_eight_paths() {
        assert_eq!(PathId::all().count(), PATHS_MAX);
        assert!(PathId::all().enumerate().all(|(place, path)| path.index() == place && PathId::new(place as u8) == Some(path)));
        assert_eq!(PathId::new(PATHS_MAX as u8), None);
    }
}
