//! Records as bytes and back, each field once in each direction. There is one encoding per record.

use std::net::{IpAddr, SocketAddr};

use super::{EncodeError, FromRelay, HostPort, Kind, LeftReason, Password, PeerKey, Quota, RoomName, ToRelay, Train, Transport};
use crate::codec::{DecodeError, Reader};
use crate::limits::{
    RELAY_METADATA_LEN_MAX, RELAY_PAYLOAD_LEN_MAX, RELAYS_OF_DRAIN_MAX, ROOMS_OF_CLIENT_MAX, SEGMENTS_OF_TRAIN_MAX,
    SERVERS_OF_RELAY_MAX,
};

// Types of a client's records.
const SEND: u8 = 1;
const MEET: u8 = 2;
const DIRECT: u8 = 3;
const DESCRIBE: u8 = 4;
const PING: u8 = 5;
// Types of the relay's.
const WELCOME: u8 = 0x81;
const JOINED: u8 = 0x82;
const LEFT: u8 = 0x83;
const DESCRIBED: u8 = 0x84;
const DELIVER: u8 = 0x85;
const INTRODUCTION: u8 = 0x86;
const ABSENT: u8 = 0x87;
const PEER_DIRECT: u8 = 0x88;
const DRAIN: u8 = 0x89;
const REPLACED: u8 = 0x8a;
const REFUSED: u8 = 0x8b;
const PONG: u8 = 0x8c;
const STUN: u8 = 0x8d;
const TURN: u8 = 0x8e;

impl<'a> ToRelay<'a> {
    /// Reads one record; `None` is one of a type that is not known here, which is left alone.
    pub fn decode(bytes: &'a [u8]) -> Result<Option<ToRelay<'a>>, DecodeError> {
        let mut reader = Reader::new(bytes);
        let record = match reader.u8()? {
            SEND => ToRelay::Send { to: key(&mut reader)?, train: train(&mut reader)? },
            MEET => ToRelay::Meet { peer: key(&mut reader)? },
            DIRECT => ToRelay::Direct { peer: key(&mut reader)?, on: reader.flag("on")? },
            DESCRIBE => ToRelay::Describe { metadata: metadata(&mut reader)? },
            PING => ToRelay::Ping { id: reader.u64_be()? },
            _ => return Ok(None),
        };
        reader.finish()?;
        Ok(Some(record))
    }

    pub fn encode(&self) -> Result<Vec<u8>, EncodeError> {
        match self {
            ToRelay::Send { to, train } => Out::of(SEND).key(to).train(train),
            ToRelay::Meet { peer } => Out::of(MEET).key(peer).end(),
            ToRelay::Direct { peer, on } => Out::of(DIRECT).key(peer).flag(*on).end(),
            ToRelay::Describe { metadata } => Out::of(DESCRIBE).metadata(metadata),
            ToRelay::Ping { id } => Out::of(PING).u64(*id).end(),
        }
    }
}

impl<'a> FromRelay<'a> {
    /// Reads one record; `None` is one of a type that is not known here, which is left alone.
    pub fn decode(bytes: &'a [u8]) -> Result<Option<FromRelay<'a>>, DecodeError> {
        let reader = &mut Reader::new(bytes);
        let record = match reader.u8()? {
            WELCOME => FromRelay::Welcome {
                observed: address(reader)?,
                stun_key: reader.array()?,
                idle_ms: reader.u32_be()?,
                rooms: list(reader, ROOMS_OF_CLIENT_MAX, "rooms", room)?,
            },
            JOINED => FromRelay::Joined { room: room(reader)?, peer: key(reader)?, metadata: metadata(reader)? },
            LEFT => FromRelay::Left { room: room(reader)?, peer: key(reader)?, reason: LeftReason(reader.u8()?) },
            DESCRIBED => FromRelay::Described { room: room(reader)?, peer: key(reader)?, metadata: metadata(reader)? },
            DELIVER => FromRelay::Deliver { from: key(reader)?, train: train(reader)? },
            INTRODUCTION => FromRelay::Introduction {
                peer: key(reader)?,
                udp: option(reader, "udp", address)?,
                tcp: address(reader)?,
                id: reader.u64_be()?,
                start_in_ms: reader.u16_be()?,
            },
            ABSENT => FromRelay::Absent { peer: key(reader)?, last_seen_s: option(reader, "last_seen_s", Reader::u32_be)? },
            PEER_DIRECT => FromRelay::PeerDirect { peer: key(reader)?, on: reader.flag("on")? },
            DRAIN => FromRelay::Drain {
                come_back_in_ms: reader.u32_be()?,
                try_for_ms: reader.u32_be()?,
                to: list(reader, RELAYS_OF_DRAIN_MAX, "to", host_port)?,
            },
            REPLACED => FromRelay::Replaced { wait_s: reader.u16_be()? },
            REFUSED => FromRelay::Refused { what: Quota(reader.u8()?), wait_ms: reader.u32_be()? },
            PONG => FromRelay::Pong { id: reader.u64_be()? },
            STUN => FromRelay::Stun { servers: list(reader, SERVERS_OF_RELAY_MAX, "servers", address)? },
            TURN => FromRelay::Turn {
                name: text(reader, "name")?,
                realm: text(reader, "realm")?,
                password: Password(text(reader, "password")?),
                life_s: reader.u32_be()?,
                servers: list(reader, SERVERS_OF_RELAY_MAX, "servers", server)?,
            },
            _ => return Ok(None),
        };
        reader.clone().finish()?;
        Ok(Some(record))
    }

    pub fn encode(&self) -> Result<Vec<u8>, EncodeError> {
        match self {
            FromRelay::Welcome { observed, stun_key, idle_ms, rooms } => {
                let names = rooms.iter().map(RoomName::as_str);
                Out::of(WELCOME).address(*observed).bytes(stun_key).u32(*idle_ms).list(names, ROOMS_OF_CLIENT_MAX, "rooms")
            }
            FromRelay::Joined { room, peer, metadata } => Out::of(JOINED).text(room.as_str()).key(peer).metadata(metadata),
            FromRelay::Left { room, peer, reason } => Out::of(LEFT).text(room.as_str()).key(peer).u8(reason.0).end(),
            FromRelay::Described { room, peer, metadata } => Out::of(DESCRIBED).text(room.as_str()).key(peer).metadata(metadata),
            FromRelay::Deliver { from, train } => Out::of(DELIVER).key(from).train(train),
            FromRelay::Introduction { peer, udp, tcp, id, start_in_ms } => {
                let out = Out::of(INTRODUCTION).key(peer).flag(udp.is_some());
                let out = udp.iter().copied().fold(out, Out::address);
                out.address(*tcp).u64(*id).u16(*start_in_ms).end()
            }
            FromRelay::Absent { peer, last_seen_s } => {
                let out = Out::of(ABSENT).key(peer).flag(last_seen_s.is_some());
                last_seen_s.iter().copied().fold(out, Out::u32).end()
            }
            FromRelay::PeerDirect { peer, on } => Out::of(PEER_DIRECT).key(peer).flag(*on).end(),
            FromRelay::Drain { come_back_in_ms, try_for_ms, to } => {
                let names = to.iter().map(HostPort::as_str);
                Out::of(DRAIN).u32(*come_back_in_ms).u32(*try_for_ms).list(names, RELAYS_OF_DRAIN_MAX, "to")
            }
            FromRelay::Replaced { wait_s } => Out::of(REPLACED).u16(*wait_s).end(),
            FromRelay::Refused { what, wait_ms } => Out::of(REFUSED).u8(what.0).u32(*wait_ms).end(),
            FromRelay::Pong { id } => Out::of(PONG).u64(*id).end(),
            FromRelay::Stun { servers } => {
                let out = Out::of(STUN).count(servers.len(), SERVERS_OF_RELAY_MAX, "servers")?;
                servers.iter().copied().fold(out, Out::address).end()
            }
            FromRelay::Turn { name, realm, password, life_s, servers } => {
                let out = Out::of(TURN).any_text(name, "name")?.any_text(realm, "realm")?.any_text(password.0, "password")?;
                let out = out.u32(*life_s).count(servers.len(), SERVERS_OF_RELAY_MAX, "servers")?;
                servers.iter().fold(out, |out, (transport, at)| out.u8(transport.0).address(*at)).end()
            }
        }
    }
}

fn key(reader: &mut Reader) -> Result<PeerKey, DecodeError> {
    reader.array().map(PeerKey)
}

/// Text with its length in one byte in front.
fn text<'a>(reader: &mut Reader<'a>, field: &'static str) -> Result<&'a str, DecodeError> {
    let len = reader.u8()?;
    std::str::from_utf8(reader.bytes(len.into())?).map_err(|_| DecodeError::BadValue(field))
}

fn room(reader: &mut Reader) -> Result<RoomName, DecodeError> {
    RoomName::new(text(reader, "room")?).map_err(|_| DecodeError::BadValue("room"))
}

fn host_port(reader: &mut Reader) -> Result<HostPort, DecodeError> {
    HostPort::new(text(reader, "to")?).map_err(|_| DecodeError::BadValue("to"))
}

/// So many, in one byte, and then they themselves.
fn list<'a, T>(
    reader: &mut Reader<'a>,
    most: usize,
    field: &'static str,
    one: impl Fn(&mut Reader<'a>) -> Result<T, DecodeError>,
) -> Result<Vec<T>, DecodeError> {
    let count = usize::from(reader.u8()?);
    if count > most {
        return Err(DecodeError::BadValue(field));
    }
    (0..count).map(|_| one(reader)).collect()
}

fn option<'a, T>(
    reader: &mut Reader<'a>,
    field: &'static str,
    some: impl Fn(&mut Reader<'a>) -> Result<T, DecodeError>,
) -> Result<Option<T>, DecodeError> {
    reader.flag(field)?.then(|| some(reader)).transpose()
}

/// Family (4 or 6), address, port. Scopes mean nothing to others.
fn address(reader: &mut Reader) -> Result<SocketAddr, DecodeError> {
    let ip: IpAddr = match reader.u8()? {
        4 => reader.array::<4>()?.into(),
        6 => reader.array::<16>()?.into(),
        _ => return Err(DecodeError::BadValue("address family")),
    };
    Ok(SocketAddr::new(ip, reader.u16_be()?))
}

fn server(reader: &mut Reader) -> Result<(Transport, SocketAddr), DecodeError> {
    Ok((Transport(reader.u8()?), address(reader)?))
}

fn metadata<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], DecodeError> {
    let len = usize::from(reader.u16_be()?);
    if len > RELAY_METADATA_LEN_MAX {
        return Err(DecodeError::BadValue("metadata"));
    }
    reader.bytes(len)
}

fn train<'a>(reader: &mut Reader<'a>) -> Result<Train<'a>, DecodeError> {
    let kind = match reader.u8()? {
        1 => Kind::Ike,
        2 => Kind::Esp,
        _ => return Err(DecodeError::BadValue("kind")),
    };
    let (class, segment, len) = (reader.u8()?, reader.u16_be()?, reader.u16_be()?);
    let train = Train { kind, class, segment, payload: reader.bytes(len.into())? };
    check(&train).map_err(|EncodeError(field)| DecodeError::BadValue(field))?;
    Ok(train)
}

/// What holds of every train: it is not empty, and has more than one datagram if it says how long they are, but not too many.
fn check(train: &Train) -> Result<(), EncodeError> {
    let (len, segment) = (train.payload.len(), usize::from(train.segment));
    if !(1..=RELAY_PAYLOAD_LEN_MAX).contains(&len) {
        return Err(EncodeError("payload"));
    }
    let is_train = segment < len && len.div_ceil(segment.max(1)) <= SEGMENTS_OF_TRAIN_MAX;
    if segment == 0 || is_train { Ok(()) } else { Err(EncodeError("segment")) }
}

/// A record that is being written.
struct Out(Vec<u8>);

impl Out {
    fn of(kind: u8) -> Out {
        Out(vec![kind])
    }

    fn end(self) -> Result<Vec<u8>, EncodeError> {
        Ok(self.0)
    }

    fn bytes(mut self, bytes: &[u8]) -> Out {
        self.0.extend_from_slice(bytes);
        self
    }

    fn u8(self, value: u8) -> Out {
        self.bytes(&[value])
    }

    fn u16(self, value: u16) -> Out {
        self.bytes(&value.to_be_bytes())
    }

    fn u32(self, value: u32) -> Out {
        self.bytes(&value.to_be_bytes())
    }

    fn u64(self, value: u64) -> Out {
        self.bytes(&value.to_be_bytes())
    }

    fn flag(self, value: bool) -> Out {
        self.u8(value.into())
    }

    fn key(self, key: &PeerKey) -> Out {
        self.bytes(&key.0)
    }

    /// What is shorter than 256 bytes, as every name is.
    fn text(self, text: &str) -> Out {
        self.u8(text.len() as u8).bytes(text.as_bytes())
    }

    fn address(self, address: SocketAddr) -> Out {
        let out = match address.ip() {
            IpAddr::V4(ip) => self.u8(4).bytes(&ip.octets()),
            IpAddr::V6(ip) => self.u8(6).bytes(&ip.octets()),
        };
        out.u16(address.port())
    }

    fn list<'n>(
        self,
        names: impl ExactSizeIterator<Item = &'n str>,
        most: usize,
        field: &'static str,
    ) -> Result<Vec<u8>, EncodeError> {
        let out = self.count(names.len(), most, field)?;
        names.fold(out, Out::text).end()
    }

    fn count(self, count: usize, most: usize, field: &'static str) -> Result<Out, EncodeError> {
        let count = u8::try_from(count).ok().filter(|count| usize::from(*count) <= most).ok_or(EncodeError(field))?;
        Ok(self.u8(count))
    }

    /// Text that may be too long.
    fn any_text(self, text: &str, field: &'static str) -> Result<Out, EncodeError> {
        if text.len() > usize::from(u8::MAX) { Err(EncodeError(field)) } else { Ok(self.text(text)) }
    }

    fn metadata(self, metadata: &[u8]) -> Result<Vec<u8>, EncodeError> {
        if metadata.len() > RELAY_METADATA_LEN_MAX {
            return Err(EncodeError("metadata"));
        }
        self.u16(metadata.len() as u16).bytes(metadata).end()
    }

    fn train(mut self, train: &Train) -> Result<Vec<u8>, EncodeError> {
        check(train)?;
        self.0.reserve_exact(6 + train.payload.len());
        let out = self.u8(train.kind as u8).u8(train.class).u16(train.segment).u16(train.payload.len() as u16);
        out.bytes(train.payload).end()
    }
}
