//! Commands and events as bytes: a tag, then the fields in the order of the type, little endian, no gaps.
//!
//! There is one encoding per value: what decodes, encodes to the same bytes again.

use zeroize::Zeroizing;

use super::{
    ChildId, Command, Direction, Event, Feature, Hop, InboundSa, Mode, OutboundSa, PathId, PeerId, PeerTag, Place, Refusal,
    SaKey, Selector, Spi, Via,
};
use crate::codec::{DecodeError, Reader, Writer};
use crate::echo::Answer;
use crate::ike::{AddressRange, IkeSpi, PortRange};
use crate::suite::{KEY_LEN_MAX, SALT_LEN, Suite};

/// Room for any command or event, in bytes.
pub const RECORD_LEN_MAX: usize = 80;

/// Tags by name, and a list of them, which so misses none.
macro_rules! tags {
    ($($name:ident = $tag:literal,)*) => {
        $(pub const $name: u8 = $tag;)*
        #[cfg(test)]
        pub const ALL: &[u8] = &[$($tag),*];
    };
}

mod command {
    tags! {
        PEER_SET = 1,
        PEER_REMOVE = 2,
        OUTBOUND_SA_INSTALL = 3,
        INBOUND_SA_INSTALL = 4,
        SA_REMOVE = 5,
        FDB_PIN = 6,
        FDB_UNPIN = 7,
        SEQ_LIMIT = 8,
        SELECTOR_ADD = 9,
        SELECTOR_REMOVE = 10,
        PATH_SET = 11,
        PATH_USE = 12,
        PATH_REMOVE = 13,
        ECHO = 14,
        IKE_SA_ADD = 15,
        IKE_SA_REMOVE = 16,
        IKE_KNOWN_CLEAR = 17,
        CHILD_SET = 18,
        CHILD_REMOVE = 19,
        CHILD_SELECTOR_ADD = 20,
        CHILD_SELECTOR_REMOVE = 21,
        IKE_ADDRESS_ADD = 22,
        IKE_ADDRESS_REMOVE = 23,
        FORWARDING_SET = 24,
    }
}

mod event {
    tags! {
        APPLIED = 1,
        REFUSED = 2,
        SEQ_HALFWAY = 3,
        DEGRADED = 4,
        WORKER_FAILED = 5,
        PATH_SEEN = 6,
        ECHO_REPLY = 7,
        ECHO_UNSENT = 8,
        INBOUND_SA_USED = 9,
        INTERFACE_GONE = 10,
    }
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

impl Mode {
    /// Reads the one-byte code of a mode.
    pub fn from_code(code: u8) -> Result<Mode, DecodeError> {
        by_code(&Mode::ALL, code, |mode| mode as u8, "mode")
    }
}

impl Refusal {
    const ALL: [Refusal; 17] = [
        Refusal::Malformed,
        Refusal::NoSuchPeer,
        Refusal::NoSuchSa,
        Refusal::SaTableFull,
        Refusal::SpiInUse,
        Refusal::WrongWorker,
        Refusal::BadValue,
        Refusal::FdbFull,
        Refusal::PolicyFull,
        Refusal::PolicyOverlap,
        Refusal::NoSuchSelector,
        Refusal::WrongMode,
        Refusal::NoSuchPath,
        Refusal::IkeSasFull,
        Refusal::NoSuchChild,
        Refusal::ChildrenFull,
        Refusal::IkeAddressesFull,
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
        writer.u32(self.spi.0).u16(self.peer.0).u16(self.child.0).u8(self.suite as u8).bytes(&self.key.key).bytes(&self.key.salt);
        writer.u64(self.seq_next).u64(self.seq_limit).flag(self.defer_checksums).flag(self.esn);
    }

    fn read(reader: &mut Reader) -> Result<OutboundSa, DecodeError> {
        Ok(OutboundSa {
            spi: Spi(reader.u32()?),
            peer: PeerId(reader.u16()?),
            child: ChildId(reader.u16()?),
            suite: read_suite(reader)?,
            key: read_key(reader)?,
            seq_next: reader.u64()?,
            seq_limit: reader.u64()?,
            defer_checksums: reader.flag("defer checksums")?,
            esn: reader.flag("esn")?,
        })
    }
}

impl InboundSa {
    fn write(&self, writer: &mut Writer) {
        writer.u32(self.spi.0).u16(self.peer.0).u16(self.child.0).u8(self.suite as u8).bytes(&self.key.key).bytes(&self.key.salt);
        writer.u16(self.window).u64(self.seq_top).flag(self.resync).flag(self.esn);
    }

    fn read(reader: &mut Reader) -> Result<InboundSa, DecodeError> {
        Ok(InboundSa {
            spi: Spi(reader.u32()?),
            peer: PeerId(reader.u16()?),
            child: ChildId(reader.u16()?),
            suite: read_suite(reader)?,
            key: read_key(reader)?,
            window: reader.u16()?,
            seq_top: reader.u64()?,
            resync: reader.flag("resync")?,
            esn: reader.flag("esn")?,
        })
    }
}

fn read_child(reader: &mut Reader) -> Result<(PeerId, ChildId), DecodeError> {
    Ok((PeerId(reader.u16()?), ChildId(reader.u16()?)))
}

fn write_range(writer: &mut Writer, range: &AddressRange) {
    match range {
        AddressRange::V4 { first, last } => writer.bytes(&first.octets()).bytes(&last.octets()),
        AddressRange::V6 { first, last } => writer.bytes(&first.octets()).bytes(&last.octets()),
    };
}

fn read_range(reader: &mut Reader, version: u8) -> Result<AddressRange, DecodeError> {
    Ok(match version {
        4 => AddressRange::V4 { first: reader.array::<4>()?.into(), last: reader.array::<4>()?.into() },
        6 => AddressRange::V6 { first: reader.array::<16>()?.into(), last: reader.array::<16>()?.into() },
        _ => return Err(DecodeError::BadValue("IP version")),
    })
}

impl Selector {
    /// Writes the version of `local`: a selector whose ranges differ in it cannot be read back.
    fn write(&self, writer: &mut Writer) {
        writer.u8(if self.local.first().is_ipv4() { 4 } else { 6 });
        write_range(writer, &self.local);
        write_range(writer, &self.remote);
        writer.u8(self.protocol).u16(self.local_ports.first).u16(self.local_ports.last);
        writer.u16(self.remote_ports.first).u16(self.remote_ports.last);
    }

    fn read(reader: &mut Reader) -> Result<Selector, DecodeError> {
        let version = reader.u8()?;
        let selector = Selector {
            local: read_range(reader, version)?,
            remote: read_range(reader, version)?,
            protocol: reader.u8()?,
            local_ports: PortRange { first: reader.u16()?, last: reader.u16()? },
            remote_ports: PortRange { first: reader.u16()?, last: reader.u16()? },
        };
        if selector.is_valid() { Ok(selector) } else { Err(DecodeError::BadValue("selector")) }
    }
}

impl Command {
    /// Writes the record and says how long it is. The bytes may hold a key: wipe them after use.
    pub fn encode(&self, out: &mut [u8; RECORD_LEN_MAX]) -> usize {
        let mut writer = Writer::new(out);
        match self {
            Command::PeerSet { peer, tag, echo, split } => {
                writer.u8(command::PEER_SET).u16(peer.0).u64(tag.0).flag(*echo).flag(*split);
            }
            Command::ChildSet { peer, child, lanes } => {
                writer.u8(command::CHILD_SET).u16(peer.0).u16(child.0).u16(*lanes);
            }
            Command::ChildRemove { peer, child } => {
                writer.u8(command::CHILD_REMOVE).u16(peer.0).u16(child.0);
            }
            Command::PathSet { peer, path, hop, mtu, mtu_reported } => {
                path.write(writer.u8(command::PATH_SET).u16(peer.0));
                hop.write(writer.u16(*mtu).u16(*mtu_reported));
            }
            Command::PathUse { peer, path } => path.write(writer.u8(command::PATH_USE).u16(peer.0)),
            Command::PathRemove { peer, path } => path.write(writer.u8(command::PATH_REMOVE).u16(peer.0)),
            Command::IkeSaAdd { initiator, responder } => {
                writer.u8(command::IKE_SA_ADD).u64(initiator.0).u64(responder.0);
            }
            Command::IkeSaRemove { initiator, responder } => {
                writer.u8(command::IKE_SA_REMOVE).u64(initiator.0).u64(responder.0);
            }
            Command::IkeAddressAdd { address } => {
                writer.u8(command::IKE_ADDRESS_ADD).addr(*address);
            }
            Command::IkeAddressRemove { address } => {
                writer.u8(command::IKE_ADDRESS_REMOVE).addr(*address);
            }
            Command::IkeKnownClear => {
                writer.u8(command::IKE_KNOWN_CLEAR);
            }
            Command::Echo { peer, path, id, size, answer } => {
                path.write(writer.u8(command::ECHO).u16(peer.0));
                writer.u64(*id).u16(*size).u8(*answer as u8);
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
            Command::ForwardingSet { ageing_s, flood_pps } => {
                writer.u8(command::FORWARDING_SET).u32(*ageing_s).u32(*flood_pps);
            }
            Command::SeqLimit { peer, spi, seq_limit } => {
                writer.u8(command::SEQ_LIMIT).u16(peer.0).u32(spi.0).u64(*seq_limit);
            }
            Command::SelectorAdd { peer, selector } => selector.write(writer.u8(command::SELECTOR_ADD).u16(peer.0)),
            Command::SelectorRemove { peer, selector } => selector.write(writer.u8(command::SELECTOR_REMOVE).u16(peer.0)),
            Command::ChildSelectorAdd { peer, child, selector } => {
                selector.write(writer.u8(command::CHILD_SELECTOR_ADD).u16(peer.0).u16(child.0));
            }
            Command::ChildSelectorRemove { peer, child, selector } => {
                selector.write(writer.u8(command::CHILD_SELECTOR_REMOVE).u16(peer.0).u16(child.0));
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
                echo: reader.flag("echo")?,
                split: reader.flag("split")?,
            },
            command::CHILD_SET => {
                let (peer, child) = read_child(&mut reader)?;
                Command::ChildSet { peer, child, lanes: reader.u16()? }
            }
            command::CHILD_REMOVE => {
                let (peer, child) = read_child(&mut reader)?;
                Command::ChildRemove { peer, child }
            }
            command::CHILD_SELECTOR_ADD => {
                let (peer, child) = read_child(&mut reader)?;
                Command::ChildSelectorAdd { peer, child, selector: Selector::read(&mut reader)? }
            }
            command::CHILD_SELECTOR_REMOVE => {
                let (peer, child) = read_child(&mut reader)?;
                Command::ChildSelectorRemove { peer, child, selector: Selector::read(&mut reader)? }
            }
            command::PATH_SET => {
                let (peer, path) = (PeerId(reader.u16()?), PathId::read(&mut reader)?);
                let (mtu, mtu_reported) = (reader.u16()?, reader.u16()?);
                Command::PathSet { peer, path, hop: Hop::read(&mut reader)?, mtu, mtu_reported }
            }
            command::PATH_USE => Command::PathUse { peer: PeerId(reader.u16()?), path: PathId::read(&mut reader)? },
            command::IKE_SA_ADD => Command::IkeSaAdd { initiator: IkeSpi(reader.u64()?), responder: IkeSpi(reader.u64()?) },
            command::IKE_SA_REMOVE => Command::IkeSaRemove { initiator: IkeSpi(reader.u64()?), responder: IkeSpi(reader.u64()?) },
            command::IKE_ADDRESS_ADD => Command::IkeAddressAdd { address: reader.addr()? },
            command::IKE_ADDRESS_REMOVE => Command::IkeAddressRemove { address: reader.addr()? },
            command::IKE_KNOWN_CLEAR => Command::IkeKnownClear,
            command::ECHO => Command::Echo {
                peer: PeerId(reader.u16()?),
                path: PathId::read(&mut reader)?,
                id: reader.u64()?,
                size: reader.u16()?,
                answer: Answer::from_code(reader.u8()?).ok_or(DecodeError::BadValue("answer"))?,
            },
            command::PATH_REMOVE => Command::PathRemove { peer: PeerId(reader.u16()?), path: PathId::read(&mut reader)? },
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
            command::FORWARDING_SET => Command::ForwardingSet { ageing_s: reader.u32()?, flood_pps: reader.u32()? },
            command::SEQ_LIMIT => {
                Command::SeqLimit { peer: PeerId(reader.u16()?), spi: Spi(reader.u32()?), seq_limit: reader.u64()? }
            }
            command::SELECTOR_ADD => Command::SelectorAdd { peer: PeerId(reader.u16()?), selector: Selector::read(&mut reader)? },
            command::SELECTOR_REMOVE => {
                Command::SelectorRemove { peer: PeerId(reader.u16()?), selector: Selector::read(&mut reader)? }
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
            Event::InboundSaUsed { peer, spi } => writer.u8(event::INBOUND_SA_USED).u16(peer.0).u32(spi.0),
            Event::Degraded { what } => writer.u8(event::DEGRADED).u8(*what as u8),
            Event::PathSeen { peer, tag, path, via, bytes } => {
                PathId::write_option(*path, writer.u8(event::PATH_SEEN).u16(peer.0).u64(tag.0));
                via.write(&mut writer);
                writer.u32(*bytes)
            }
            Event::EchoReply { peer, tag, id, size, rtt_us, path, via } => {
                writer.u8(event::ECHO_REPLY).u16(peer.0).u64(tag.0).u64(*id).u16(*size).u32(*rtt_us);
                PathId::write_option(*path, &mut writer);
                via.write(&mut writer);
                &mut writer
            }
            Event::EchoUnsent { peer, tag, id } => writer.u8(event::ECHO_UNSENT).u16(peer.0).u64(tag.0).u64(*id),
            Event::WorkerFailed { errno, at } => writer.u8(event::WORKER_FAILED).i32(*errno).u8(*at as u8),
            Event::InterfaceGone => writer.u8(event::INTERFACE_GONE),
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
            event::INBOUND_SA_USED => Event::InboundSaUsed { peer: PeerId(reader.u16()?), spi: Spi(reader.u32()?) },
            event::DEGRADED => Event::Degraded { what: by_code(&Feature::ALL, reader.u8()?, |w| w as u8, "feature")? },
            event::PATH_SEEN => Event::PathSeen {
                peer: PeerId(reader.u16()?),
                tag: PeerTag(reader.u64()?),
                path: PathId::read_option(&mut reader)?,
                via: Via::read(&mut reader)?,
                bytes: reader.u32()?,
            },
            event::ECHO_REPLY => Event::EchoReply {
                peer: PeerId(reader.u16()?),
                tag: PeerTag(reader.u64()?),
                id: reader.u64()?,
                size: reader.u16()?,
                rtt_us: reader.u32()?,
                path: PathId::read_option(&mut reader)?,
                via: Via::read(&mut reader)?,
            },
            event::ECHO_UNSENT => {
                Event::EchoUnsent { peer: PeerId(reader.u16()?), tag: PeerTag(reader.u64()?), id: reader.u64()? }
            }
            event::WORKER_FAILED => {
                Event::WorkerFailed { errno: reader.i32()?, at: by_code(&Place::ALL, reader.u8()?, |p| p as u8, "place")? }
            }
            event::INTERFACE_GONE => Event::InterfaceGone,
            _ => return Err(DecodeError::BadValue("event")),
        };
        reader.finish()?;
        Ok(event)
    }
}

#[cfg(test)]
mod tests;
