//! Commands and events as bytes: a tag, then the fields in the order of the type, little endian, no gaps.
//!
//! There is one encoding per value: what decodes, encodes to the same bytes again.

use zeroize::Zeroizing;

use super::{
    Command, Direction, Event, Feature, Hop, InboundSa, LocalEnd, Mode, OutboundSa, PathId, PeerId, PeerTag, Place, Refusal,
    SaKey, Selector, Spi,
};
use crate::codec::{DecodeError, Reader, Writer};
use crate::echo::Answer;
use crate::ike::{AddressRange, IkeSpi, PortRange};
use crate::suite::{KEY_LEN_MAX, SALT_LEN, Suite};

/// Room for any command or event, in bytes.
pub const RECORD_LEN_MAX: usize = 80;

mod command {
    pub const PEER_SET: u8 = 1;
    pub const PEER_REMOVE: u8 = 2;
    pub const OUTBOUND_SA_INSTALL: u8 = 3;
    pub const INBOUND_SA_INSTALL: u8 = 4;
    pub const SA_REMOVE: u8 = 5;
    pub const FDB_PIN: u8 = 6;
    pub const FDB_UNPIN: u8 = 7;
    pub const SEQ_LIMIT: u8 = 8;
    pub const SELECTOR_ADD: u8 = 9;
    pub const SELECTOR_REMOVE: u8 = 10;
    pub const PATH_SET: u8 = 11;
    pub const PATH_USE: u8 = 12;
    pub const PATH_REMOVE: u8 = 13;
    pub const ECHO: u8 = 14;
    pub const IKE_SA_ADD: u8 = 15;
    pub const IKE_SA_REMOVE: u8 = 16;
    pub const IKE_SAS_CLEAR: u8 = 17;
}

mod event {
    pub const APPLIED: u8 = 1;
    pub const REFUSED: u8 = 2;
    pub const SEQ_HALFWAY: u8 = 3;
    pub const DEGRADED: u8 = 4;
    pub const WORKER_FAILED: u8 = 5;
    pub const PATH_SEEN: u8 = 6;
    pub const ECHO_REPLY: u8 = 7;
    pub const ECHO_UNSENT: u8 = 8;
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
    const ALL: [Refusal; 14] = [
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
        writer.u64(self.seq_next).u64(self.seq_limit).flag(self.defer_checksums).flag(self.esn);
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
            esn: reader.flag("esn")?,
        })
    }
}

impl InboundSa {
    fn write(&self, writer: &mut Writer) {
        writer.u32(self.spi.0).u16(self.peer.0).u8(self.suite as u8).bytes(&self.key.key).bytes(&self.key.salt);
        writer.u16(self.window).u64(self.seq_top).flag(self.resync).flag(self.esn);
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
            esn: reader.flag("esn")?,
        })
    }
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
            Command::PeerSet { peer, tag, lanes, echo } => {
                writer.u8(command::PEER_SET).u16(peer.0).u64(tag.0).u16(*lanes).flag(*echo);
            }
            Command::PathSet { peer, path, hop, mtu, mtu_told } => {
                path.write(writer.u8(command::PATH_SET).u16(peer.0));
                hop.write(writer.u16(*mtu).u16(*mtu_told));
            }
            Command::PathUse { peer, path } => path.write(writer.u8(command::PATH_USE).u16(peer.0)),
            Command::PathRemove { peer, path } => path.write(writer.u8(command::PATH_REMOVE).u16(peer.0)),
            Command::IkeSaAdd { initiator, responder } => {
                writer.u8(command::IKE_SA_ADD).u64(initiator.0).u64(responder.0);
            }
            Command::IkeSaRemove { initiator, responder } => {
                writer.u8(command::IKE_SA_REMOVE).u64(initiator.0).u64(responder.0);
            }
            Command::IkeSasClear => {
                writer.u8(command::IKE_SAS_CLEAR);
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
            Command::SeqLimit { peer, spi, seq_limit } => {
                writer.u8(command::SEQ_LIMIT).u16(peer.0).u32(spi.0).u64(*seq_limit);
            }
            Command::SelectorAdd { peer, selector } => selector.write(writer.u8(command::SELECTOR_ADD).u16(peer.0)),
            Command::SelectorRemove { peer, selector } => selector.write(writer.u8(command::SELECTOR_REMOVE).u16(peer.0)),
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
                lanes: reader.u16()?,
                echo: reader.flag("echo")?,
            },
            command::PATH_SET => {
                let (peer, path) = (PeerId(reader.u16()?), PathId::read(&mut reader)?);
                let (mtu, mtu_told) = (reader.u16()?, reader.u16()?);
                Command::PathSet { peer, path, hop: Hop::read(&mut reader)?, mtu, mtu_told }
            }
            command::PATH_USE => Command::PathUse { peer: PeerId(reader.u16()?), path: PathId::read(&mut reader)? },
            command::IKE_SA_ADD => Command::IkeSaAdd { initiator: IkeSpi(reader.u64()?), responder: IkeSpi(reader.u64()?) },
            command::IKE_SA_REMOVE => Command::IkeSaRemove { initiator: IkeSpi(reader.u64()?), responder: IkeSpi(reader.u64()?) },
            command::IKE_SAS_CLEAR => Command::IkeSasClear,
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
            Event::Degraded { what } => writer.u8(event::DEGRADED).u8(*what as u8),
            Event::PathSeen { peer, tag, path, from, to } => {
                PathId::write_option(*path, writer.u8(event::PATH_SEEN).u16(peer.0).u64(tag.0));
                to.write(writer.addr(*from));
                &mut writer
            }
            Event::EchoReply { peer, tag, id, size, rtt_us, path, from, to } => {
                writer.u8(event::ECHO_REPLY).u16(peer.0).u64(tag.0).u64(*id).u16(*size).u32(*rtt_us);
                PathId::write_option(*path, &mut writer);
                to.write(writer.addr(*from));
                &mut writer
            }
            Event::EchoUnsent { peer, tag, id } => writer.u8(event::ECHO_UNSENT).u16(peer.0).u64(tag.0).u64(*id),
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
            event::PATH_SEEN => Event::PathSeen {
                peer: PeerId(reader.u16()?),
                tag: PeerTag(reader.u64()?),
                path: PathId::read_option(&mut reader)?,
                from: reader.addr()?,
                to: LocalEnd::read(&mut reader)?,
            },
            event::ECHO_REPLY => Event::EchoReply {
                peer: PeerId(reader.u16()?),
                tag: PeerTag(reader.u64()?),
                id: reader.u64()?,
                size: reader.u16()?,
                rtt_us: reader.u32()?,
                path: PathId::read_option(&mut reader)?,
                from: reader.addr()?,
                to: LocalEnd::read(&mut reader)?,
            },
            event::ECHO_UNSENT => {
                Event::EchoUnsent { peer: PeerId(reader.u16()?), tag: PeerTag(reader.u64()?), id: reader.u64()? }
            }
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
    use std::net::{IpAddr, SocketAddr, SocketAddrV6};

    use crate::control::UdpHop;

    fn suites() -> impl Strategy<Value = Suite> {
        prop::sample::select(Suite::ALL.to_vec())
    }

    fn addrs() -> impl Strategy<Value = SocketAddr> {
        prop_oneof![
            any::<(std::net::Ipv4Addr, u16)>().prop_map(SocketAddr::from),
            any::<(std::net::Ipv6Addr, u16, u32, u32)>().prop_map(|(ip, port, f, s)| SocketAddrV6::new(ip, port, f, s).into()),
        ]
    }

    fn paths() -> impl Strategy<Value = PathId> {
        prop::sample::select(PathId::all().collect::<Vec<_>>())
    }

    fn hops() -> impl Strategy<Value = Hop> {
        (any::<(u8, Option<IpAddr>, u32)>(), addrs())
            .prop_map(|((socket, local, interface), remote)| Hop::Udp(UdpHop { socket, local, interface, remote }))
    }

    fn keys() -> impl Strategy<Value = SaKey> {
        any::<([u8; KEY_LEN_MAX], [u8; SALT_LEN])>().prop_map(|(key, salt)| SaKey { key, salt })
    }

    fn selectors() -> impl Strategy<Value = Selector> {
        fn sorted<T: Ord>(a: T, b: T) -> (T, T) {
            if a <= b { (a, b) } else { (b, a) }
        }
        let v4 = any::<(u32, u32)>().prop_map(|(a, b)| {
            let (first, last) = sorted(a, b);
            AddressRange::V4 { first: first.into(), last: last.into() }
        });
        let v6 = any::<(u128, u128)>().prop_map(|(a, b)| {
            let (first, last) = sorted(a, b);
            AddressRange::V6 { first: first.into(), last: last.into() }
        });
        let ports = || {
            let some = any::<(u16, u16)>().prop_map(|(a, b)| {
                let (first, last) = sorted(a, b);
                PortRange { first, last }
            });
            prop_oneof![some, Just(PortRange::ANY), Just(PortRange::OPAQUE)]
        };
        let ranges = prop_oneof![(v4.clone(), v4), (v6.clone(), v6)];
        (ranges, any::<u8>(), ports(), ports()).prop_map(|((local, remote), protocol, local_ports, remote_ports)| Selector {
            local,
            remote,
            protocol,
            local_ports,
            remote_ports,
        })
    }

    fn commands() -> impl Strategy<Value = Command> {
        prop_oneof![
            any::<(u16, u64, u16, bool)>()
                .prop_map(|(peer, tag, lanes, echo)| { Command::PeerSet { peer: PeerId(peer), tag: PeerTag(tag), lanes, echo } }),
            (any::<u16>(), paths(), hops(), any::<[u16; 2]>()).prop_map(|(peer, path, hop, [mtu, mtu_told])| Command::PathSet {
                peer: PeerId(peer),
                path,
                hop,
                mtu,
                mtu_told
            }),
            (any::<u16>(), paths()).prop_map(|(peer, path)| Command::PathUse { peer: PeerId(peer), path }),
            (any::<u16>(), paths()).prop_map(|(peer, path)| Command::PathRemove { peer: PeerId(peer), path }),
            any::<(u64, u64)>().prop_map(|(i, r)| Command::IkeSaAdd { initiator: IkeSpi(i), responder: IkeSpi(r) }),
            any::<(u64, u64)>().prop_map(|(i, r)| Command::IkeSaRemove { initiator: IkeSpi(i), responder: IkeSpi(r) }),
            Just(Command::IkeSasClear),
            (any::<(u16, u64, u16)>(), paths(), prop::sample::select(Answer::ALL.to_vec()))
                .prop_map(|((peer, id, size), path, answer)| Command::Echo { peer: PeerId(peer), path, id, size, answer }),
            any::<u16>().prop_map(|peer| Command::PeerRemove { peer: PeerId(peer) }),
            (any::<(u32, u16, u64, u64, bool, bool)>(), suites(), keys()).prop_map(
                |((spi, peer, seq_next, seq_limit, defer, esn), suite, key)| {
                    let (spi, peer) = (Spi(spi), PeerId(peer));
                    Command::OutboundSaInstall(OutboundSa {
                        spi,
                        peer,
                        suite,
                        key,
                        seq_next,
                        seq_limit,
                        defer_checksums: defer,
                        esn,
                    })
                }
            ),
            (any::<(u32, u16, u16, u64, bool, bool)>(), suites(), keys()).prop_map(
                |((spi, peer, window, seq_top, resync, esn), suite, key)| {
                    let (spi, peer) = (Spi(spi), PeerId(peer));
                    Command::InboundSaInstall(InboundSa { spi, peer, suite, key, window, seq_top, resync, esn })
                }
            ),
            (any::<u16>(), selectors()).prop_map(|(peer, selector)| Command::SelectorAdd { peer: PeerId(peer), selector }),
            (any::<u16>(), selectors()).prop_map(|(peer, selector)| Command::SelectorRemove { peer: PeerId(peer), selector }),
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
            (any::<(u16, u64)>(), prop::option::of(paths()), addrs(), any::<(IpAddr, u32)>()).prop_map(
                |((peer, tag), path, from, (address, interface))| {
                    let to = LocalEnd { address, interface };
                    Event::PathSeen { peer: PeerId(peer), tag: PeerTag(tag), path, from, to }
                }
            ),
            (any::<(u16, u64, u64, u16, u32)>(), prop::option::of(paths()), addrs(), any::<(IpAddr, u32)>()).prop_map(
                |((peer, tag, id, size, rtt_us), path, from, (address, interface))| {
                    let to = LocalEnd { address, interface };
                    Event::EchoReply { peer: PeerId(peer), tag: PeerTag(tag), id, size, rtt_us, path, from, to }
                }
            ),
            any::<(u16, u64, u64)>().prop_map(|(peer, tag, id)| Event::EchoUnsent { peer: PeerId(peer), tag: PeerTag(tag), id }),
            (any::<i32>(), prop::sample::select(Place::ALL.to_vec())).prop_map(|(errno, at)| Event::WorkerFailed { errno, at }),
        ]
    }

    #[test]
    fn selectors_that_match_nothing_are_refused() {
        let v4 = |first: u8, last: u8| AddressRange::V4 { first: [10, 0, 0, first].into(), last: [10, 0, 0, last].into() };
        let good = Selector::any_of(v4(1, 9), v4(20, 20));
        let ports = PortRange { first: 9, last: 8 };
        let bad = [
            Selector { remote: v4(20, 19), ..good },
            Selector { local: v4(2, 1), ..good },
            Selector { remote: AddressRange::ANY_V6, ..good },
            Selector { local_ports: ports, ..good },
            Selector { remote_ports: ports, ..good },
        ];
        for selector in bad {
            let mut out = [0; RECORD_LEN_MAX];
            let len = Command::SelectorAdd { peer: PeerId(1), selector }.encode(&mut out);
            assert!(Command::decode(&out[..len]).is_err(), "{selector}");
        }
        assert_eq!(good.to_string(), "10.0.0.1-10.0.0.9 <> 10.0.0.20/32");
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
        fn what_decodes_encodes_to_the_same_bytes(mut bytes in prop::collection::vec(any::<u8>(), 0..RECORD_LEN_MAX), tag in 0u8..20) {
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
