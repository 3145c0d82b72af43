//! Commands and events as bytes: a tag, then the fields in the order of the type, little endian, no gaps.
//!
//! There is one encoding per value: what decodes, encodes to the same bytes again.

use zeroize::Zeroizing;

use super::{Command, Direction, Event, Feature, InboundSa, OutboundSa, PeerId, PeerTag, Place, Refusal, SaKey, Spi};
use crate::codec::{DecodeError, Reader, Writer};
use crate::suite::{KEY_LEN_MAX, SALT_LEN, Suite};

/// Room for any command or event, in bytes.
pub const RECORD_LEN_MAX: usize = 64;

mod command {
    pub const PEER_SET: u8 = 1;
    pub const PEER_REMOVE: u8 = 2;
    pub const OUTBOUND_SA_INSTALL: u8 = 3;
    pub const INBOUND_SA_INSTALL: u8 = 4;
    pub const SA_REMOVE: u8 = 5;
    pub const FDB_PIN: u8 = 6;
    pub const FDB_UNPIN: u8 = 7;
    pub const SEQ_LIMIT: u8 = 8;
}

mod event {
    pub const APPLIED: u8 = 1;
    pub const REFUSED: u8 = 2;
    pub const SEQ_HALFWAY: u8 = 3;
    pub const DEGRADED: u8 = 4;
    pub const WORKER_FAILED: u8 = 5;
}

/// Finds the variant whose code a record has.
fn by_code<T: Copy>(all: &[T], code: u8, code_of: impl Fn(T) -> u8, field: &'static str) -> Result<T, DecodeError> {
    all.iter().copied().find(|&variant| code_of(variant) == code).ok_or(DecodeError::BadValue(field))
}

impl Direction {
    /// Reads the one-byte code of a direction.
    pub fn from_code(code: u8) -> Result<Direction, DecodeError> {
        by_code(&[Direction::Inbound, Direction::Outbound], code, |d| d as u8, "direction")
    }
}

impl Refusal {
    const ALL: [Refusal; 8] = [
        Refusal::Malformed,
        Refusal::NoSuchPeer,
        Refusal::NoSuchSa,
        Refusal::SaTableFull,
        Refusal::SpiInUse,
        Refusal::WrongWorker,
        Refusal::BadValue,
        Refusal::FdbFull,
    ];
}

impl Feature {
    const ALL: [Feature; 1] = [Feature::UdpSegment];
}

impl Place {
    const ALL: [Place; 4] = [Place::TapRead, Place::TapWrite, Place::UdpReceive, Place::Wait];
}

fn read_suite(reader: &mut Reader) -> Result<Suite, DecodeError> {
    Suite::from_code(reader.u8()?).ok_or(DecodeError::BadValue("suite"))
}

fn read_key(reader: &mut Reader) -> Result<SaKey, DecodeError> {
    let key = Zeroizing::new(reader.array::<KEY_LEN_MAX>()?);
    Ok(SaKey { key: *key, salt: reader.array::<SALT_LEN>()? })
}

impl OutboundSa {
    fn write(&self, writer: &mut Writer) {
        writer.u32(self.spi.0).u16(self.peer.0).u8(self.suite as u8).bytes(&self.key.key).bytes(&self.key.salt);
        writer.u64(self.seq_next).u64(self.seq_limit).flag(self.defer_checksums);
    }

    fn read(reader: &mut Reader) -> Result<OutboundSa, DecodeError> {
        Ok(OutboundSa {
            spi: Spi(reader.u32()?),
            peer: PeerId(reader.u16()?),
            suite: read_suite(reader)?,
            key: read_key(reader)?,
            seq_next: reader.u64()?,
            seq_limit: reader.u64()?,
            defer_checksums: reader.flag("defer checksums")?,
        })
    }
}

impl InboundSa {
    fn write(&self, writer: &mut Writer) {
        writer.u32(self.spi.0).u16(self.peer.0).u8(self.suite as u8).bytes(&self.key.key).bytes(&self.key.salt);
        writer.u16(self.window).u64(self.seq_top).flag(self.resync);
    }

    fn read(reader: &mut Reader) -> Result<InboundSa, DecodeError> {
        Ok(InboundSa {
            spi: Spi(reader.u32()?),
            peer: PeerId(reader.u16()?),
            suite: read_suite(reader)?,
            key: read_key(reader)?,
            window: reader.u16()?,
            seq_top: reader.u64()?,
            resync: reader.flag("resync")?,
        })
    }
}

impl Command {
    /// Writes the record and says how long it is. The bytes may hold a key: wipe them after use.
    pub fn encode(&self, out: &mut [u8; RECORD_LEN_MAX]) -> usize {
        let mut writer = Writer::new(out);
        match self {
            Command::PeerSet { peer, tag, endpoint, path_mtu, lanes } => {
                writer.u8(command::PEER_SET).u16(peer.0).u64(tag.0).addr(*endpoint).u16(*path_mtu).u16(*lanes);
            }
            Command::PeerRemove { peer } => {
                writer.u8(command::PEER_REMOVE).u16(peer.0);
            }
            Command::OutboundSaInstall(sa) => sa.write(writer.u8(command::OUTBOUND_SA_INSTALL)),
            Command::InboundSaInstall(sa) => sa.write(writer.u8(command::INBOUND_SA_INSTALL)),
            Command::SaRemove { peer, spi, direction } => {
                writer.u8(command::SA_REMOVE).u16(peer.0).u32(spi.0).u8(*direction as u8);
            }
            Command::FdbPin { mac, peer } => {
                writer.u8(command::FDB_PIN).bytes(mac).u16(peer.0);
            }
            Command::FdbUnpin { mac } => {
                writer.u8(command::FDB_UNPIN).bytes(mac);
            }
            Command::SeqLimit { peer, spi, seq_limit } => {
                writer.u8(command::SEQ_LIMIT).u16(peer.0).u32(spi.0).u64(*seq_limit);
            }
        }
        writer.finish().expect("RECORD_LEN_MAX holds every command")
    }

    /// Reads a record; any bytes give a command or the reason why they are none.
    pub fn decode(bytes: &[u8]) -> Result<Command, DecodeError> {
        let mut reader = Reader::new(bytes);
        let command = match reader.u8()? {
            command::PEER_SET => Command::PeerSet {
                peer: PeerId(reader.u16()?),
                tag: PeerTag(reader.u64()?),
                endpoint: reader.addr()?,
                path_mtu: reader.u16()?,
                lanes: reader.u16()?,
            },
            command::PEER_REMOVE => Command::PeerRemove { peer: PeerId(reader.u16()?) },
            command::OUTBOUND_SA_INSTALL => Command::OutboundSaInstall(OutboundSa::read(&mut reader)?),
            command::INBOUND_SA_INSTALL => Command::InboundSaInstall(InboundSa::read(&mut reader)?),
            command::SA_REMOVE => Command::SaRemove {
                peer: PeerId(reader.u16()?),
                spi: Spi(reader.u32()?),
                direction: Direction::from_code(reader.u8()?)?,
            },
            command::FDB_PIN => Command::FdbPin { mac: reader.array()?, peer: PeerId(reader.u16()?) },
            command::FDB_UNPIN => Command::FdbUnpin { mac: reader.array()? },
            command::SEQ_LIMIT => {
                Command::SeqLimit { peer: PeerId(reader.u16()?), spi: Spi(reader.u32()?), seq_limit: reader.u64()? }
            }
            _ => return Err(DecodeError::BadValue("command")),
        };
        reader.finish()?;
        Ok(command)
    }
}

impl Event {
    /// Writes the record and says how long it is.
    pub fn encode(&self, out: &mut [u8; RECORD_LEN_MAX]) -> usize {
        let mut writer = Writer::new(out);
        match self {
            Event::Applied { ticket } => writer.u8(event::APPLIED).u32(*ticket),
            Event::Refused { ticket, why } => writer.u8(event::REFUSED).u32(*ticket).u8(*why as u8),
            Event::SeqHalfway { peer, spi } => writer.u8(event::SEQ_HALFWAY).u16(peer.0).u32(spi.0),
            Event::Degraded { what } => writer.u8(event::DEGRADED).u8(*what as u8),
            Event::WorkerFailed { errno, at } => writer.u8(event::WORKER_FAILED).i32(*errno).u8(*at as u8),
        }
        .finish()
        .expect("RECORD_LEN_MAX holds every event")
    }

    /// Reads a record; any bytes give an event or the reason why they are none.
    pub fn decode(bytes: &[u8]) -> Result<Event, DecodeError> {
        let mut reader = Reader::new(bytes);
        let event = match reader.u8()? {
            event::APPLIED => Event::Applied { ticket: reader.u32()? },
            event::REFUSED => {
                Event::Refused { ticket: reader.u32()?, why: by_code(&Refusal::ALL, reader.u8()?, |r| r as u8, "refusal")? }
            }
            event::SEQ_HALFWAY => Event::SeqHalfway { peer: PeerId(reader.u16()?), spi: Spi(reader.u32()?) },
            event::DEGRADED => Event::Degraded { what: by_code(&Feature::ALL, reader.u8()?, |w| w as u8, "feature")? },
            event::WORKER_FAILED => {
                Event::WorkerFailed { errno: reader.i32()?, at: by_code(&Place::ALL, reader.u8()?, |p| p as u8, "place")? }
            }
            _ => return Err(DecodeError::BadValue("event")),
        };
        reader.finish()?;
        Ok(event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::{SocketAddr, SocketAddrV6};

    fn suites() -> impl Strategy<Value = Suite> {
        prop::sample::select(Suite::ALL.to_vec())
    }

    fn addrs() -> impl Strategy<Value = SocketAddr> {
        prop_oneof![
            any::<(std::net::Ipv4Addr, u16)>().prop_map(SocketAddr::from),
            any::<(std::net::Ipv6Addr, u16, u32, u32)>().prop_map(|(ip, port, f, s)| SocketAddrV6::new(ip, port, f, s).into()),
        ]
    }

    fn keys() -> impl Strategy<Value = SaKey> {
        any::<([u8; KEY_LEN_MAX], [u8; SALT_LEN])>().prop_map(|(key, salt)| SaKey { key, salt })
    }

    fn commands() -> impl Strategy<Value = Command> {
        prop_oneof![
            (any::<(u16, u64)>(), addrs(), any::<u16>(), any::<u16>()).prop_map(|((peer, tag), endpoint, path_mtu, lanes)| {
                Command::PeerSet { peer: PeerId(peer), tag: PeerTag(tag), endpoint, path_mtu, lanes }
            }),
            any::<u16>().prop_map(|peer| Command::PeerRemove { peer: PeerId(peer) }),
            (any::<(u32, u16, u64, u64, bool)>(), suites(), keys()).prop_map(|(f, suite, key)| Command::OutboundSaInstall(
                OutboundSa { spi: Spi(f.0), peer: PeerId(f.1), suite, key, seq_next: f.2, seq_limit: f.3, defer_checksums: f.4 }
            )),
            (any::<(u32, u16, u16, u64, bool)>(), suites(), keys()).prop_map(|(f, suite, key)| Command::InboundSaInstall(
                InboundSa { spi: Spi(f.0), peer: PeerId(f.1), suite, key, window: f.2, seq_top: f.3, resync: f.4 }
            )),
            (any::<(u16, u32)>(), prop::sample::select(vec![Direction::Inbound, Direction::Outbound]))
                .prop_map(|((peer, spi), direction)| Command::SaRemove { peer: PeerId(peer), spi: Spi(spi), direction }),
            any::<([u8; 6], u16)>().prop_map(|(mac, peer)| Command::FdbPin { mac, peer: PeerId(peer) }),
            any::<[u8; 6]>().prop_map(|mac| Command::FdbUnpin { mac }),
            any::<(u16, u32, u64)>().prop_map(|(peer, spi, seq_limit)| Command::SeqLimit {
                peer: PeerId(peer),
                spi: Spi(spi),
                seq_limit
            }),
        ]
    }

    fn events() -> impl Strategy<Value = Event> {
        prop_oneof![
            any::<u32>().prop_map(|ticket| Event::Applied { ticket }),
            (any::<u32>(), prop::sample::select(Refusal::ALL.to_vec())).prop_map(|(ticket, why)| Event::Refused { ticket, why }),
            any::<(u16, u32)>().prop_map(|(peer, spi)| Event::SeqHalfway { peer: PeerId(peer), spi: Spi(spi) }),
            prop::sample::select(Feature::ALL.to_vec()).prop_map(|what| Event::Degraded { what }),
            (any::<i32>(), prop::sample::select(Place::ALL.to_vec())).prop_map(|(errno, at)| Event::WorkerFailed { errno, at }),
        ]
    }

    proptest! {
        #[test]
        fn commands_come_back(command in commands()) {
            let mut out = [0; RECORD_LEN_MAX];
            let len = command.encode(&mut out);
            prop_assert_eq!(Command::decode(&out[..len]), Ok(command));
            for short in 0..len {
                prop_assert_eq!(Command::decode(&out[..short]), Err(DecodeError::Truncated));
            }
        }

        #[test]
        fn events_come_back(event in events()) {
            let mut out = [0; RECORD_LEN_MAX];
            let len = event.encode(&mut out);
            prop_assert_eq!(Event::decode(&out[..len]), Ok(event));
            for short in 0..len {
                prop_assert_eq!(Event::decode(&out[..short]), Err(DecodeError::Truncated));
            }
        }

        #[test]
        fn what_decodes_encodes_to_the_same_bytes(mut bytes in prop::collection::vec(any::<u8>(), 0..RECORD_LEN_MAX), tag in 0u8..10) {
            if let Some(first) = bytes.first_mut() {
                *first = tag;
            }
            let mut out = [0; RECORD_LEN_MAX];
            if let Ok(command) = Command::decode(&bytes) {
                let len = command.encode(&mut out);
                prop_assert_eq!(&out[..len], &bytes[..]);
            }
            if let Ok(event) = Event::decode(&bytes) {
                let len = event.encode(&mut out);
                prop_assert_eq!(&out[..len], &bytes[..]);
            }
        }

        #[test]
        fn one_changed_byte_never_panics(command in commands(), at in 0usize..RECORD_LEN_MAX, value: u8) {
            let mut out = [0; RECORD_LEN_MAX];
            let len = command.encode(&mut out);
            out[at % len] = value;
            let _ = Command::decode(&out[..len]);
        }
    }
}
