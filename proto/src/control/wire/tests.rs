//! Every record comes back from its bytes, and no bytes do harm.

use super::*;
use proptest::prelude::*;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};

use crate::control::{LocalEnd, StreamId, UdpHop};

fn tags() -> impl Strategy<Value = u8> {
    prop::sample::select([command::ALL, event::ALL].concat())
}

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
    let udp = (any::<(u8, Option<IpAddr>, u32)>(), addrs())
        .prop_map(|((socket, local, interface), remote)| Hop::Udp(UdpHop { socket, local, interface, remote }));
    prop_oneof![udp, any::<u64>().prop_map(|stream| Hop::Stream(StreamId(stream)))]
}

fn vias() -> impl Strategy<Value = Via> {
    let udp = (addrs(), any::<(IpAddr, u32)>())
        .prop_map(|(from, (address, interface))| Via::Udp { from, to: LocalEnd { address, interface } });
    prop_oneof![udp, any::<u64>().prop_map(|stream| Via::Stream(StreamId(stream)))]
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

fn child_selectors() -> impl Strategy<Value = (PeerId, ChildId, Selector)> {
    (any::<(u16, u16)>(), selectors()).prop_map(|((peer, child), selector)| (PeerId(peer), ChildId(child), selector))
}

fn commands() -> impl Strategy<Value = Command> {
    prop_oneof![
        any::<(u16, u64, bool, bool)>()
            .prop_map(|(peer, tag, echo, split)| { Command::PeerSet { peer: PeerId(peer), tag: PeerTag(tag), echo, split } }),
        any::<(u16, u16, u16)>().prop_map(|(peer, child, lanes)| Command::ChildSet {
            peer: PeerId(peer),
            child: ChildId(child),
            lanes
        }),
        any::<(u16, u16)>().prop_map(|(peer, child)| Command::ChildRemove { peer: PeerId(peer), child: ChildId(child) }),
        child_selectors().prop_map(|(peer, child, selector)| Command::ChildSelectorAdd { peer, child, selector }),
        child_selectors().prop_map(|(peer, child, selector)| Command::ChildSelectorRemove { peer, child, selector }),
        (any::<u16>(), paths(), hops(), any::<[u16; 2]>()).prop_map(|(peer, path, hop, [mtu, mtu_reported])| Command::PathSet {
            peer: PeerId(peer),
            path,
            hop,
            mtu,
            mtu_reported
        }),
        (any::<u16>(), paths()).prop_map(|(peer, path)| Command::PathUse { peer: PeerId(peer), path }),
        (any::<u16>(), paths()).prop_map(|(peer, path)| Command::PathRemove { peer: PeerId(peer), path }),
        any::<(u64, u64)>().prop_map(|(i, r)| Command::IkeSaAdd { initiator: IkeSpi(i), responder: IkeSpi(r) }),
        any::<(u64, u64)>().prop_map(|(i, r)| Command::IkeSaRemove { initiator: IkeSpi(i), responder: IkeSpi(r) }),
        any::<(IpAddr, u16)>().prop_map(|(ip, port)| Command::IkeAddressAdd { address: (ip, port).into() }),
        any::<(IpAddr, u16)>().prop_map(|(ip, port)| Command::IkeAddressRemove { address: (ip, port).into() }),
        Just(Command::IkeKnownClear),
        (any::<(u16, u64, u16)>(), paths(), prop::sample::select(Answer::ALL.to_vec()))
            .prop_map(|((peer, id, size), path, answer)| Command::Echo { peer: PeerId(peer), path, id, size, answer }),
        any::<u16>().prop_map(|peer| Command::PeerRemove { peer: PeerId(peer) }),
        (any::<(u32, (u16, u16), u64, u64, bool, bool)>(), suites(), keys()).prop_map(
            |((spi, (peer, child), seq_next, seq_limit, defer, esn), suite, key)| {
                let (spi, peer, child) = (Spi(spi), PeerId(peer), ChildId(child));
                Command::OutboundSaInstall(OutboundSa {
                    spi,
                    peer,
                    child,
                    suite,
                    key,
                    seq_next,
                    seq_limit,
                    defer_checksums: defer,
                    esn,
                })
            }
        ),
        (any::<(u32, (u16, u16), u16, u64, bool, bool)>(), suites(), keys()).prop_map(
            |((spi, (peer, child), window, seq_top, resync, esn), suite, key)| {
                let (spi, peer, child) = (Spi(spi), PeerId(peer), ChildId(child));
                Command::InboundSaInstall(InboundSa { spi, peer, child, suite, key, window, seq_top, resync, esn })
            }
        ),
        (any::<u16>(), selectors()).prop_map(|(peer, selector)| Command::SelectorAdd { peer: PeerId(peer), selector }),
        (any::<u16>(), selectors()).prop_map(|(peer, selector)| Command::SelectorRemove { peer: PeerId(peer), selector }),
        (any::<(u16, u32)>(), prop::sample::select(vec![Direction::Inbound, Direction::Outbound]))
            .prop_map(|((peer, spi), direction)| Command::SaRemove { peer: PeerId(peer), spi: Spi(spi), direction }),
        any::<([u8; 6], u16)>().prop_map(|(mac, peer)| Command::FdbPin { mac, peer: PeerId(peer) }),
        any::<[u8; 6]>().prop_map(|mac| Command::FdbUnpin { mac }),
        any::<(u32, u32)>().prop_map(|(ageing_s, flood_pps)| Command::ForwardingSet { ageing_s, flood_pps }),
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
        any::<(u16, u32)>().prop_map(|(peer, spi)| Event::InboundSaUsed { peer: PeerId(peer), spi: Spi(spi) }),
        prop::sample::select(Feature::ALL.to_vec()).prop_map(|what| Event::Degraded { what }),
        (any::<(u16, u64, u32)>(), prop::option::of(paths()), vias()).prop_map(|((peer, tag, bytes), path, via)| {
            Event::PathSeen { peer: PeerId(peer), tag: PeerTag(tag), path, via, bytes }
        }),
        (any::<(u16, u64, u64, u16, u32)>(), prop::option::of(paths()), vias()).prop_map(
            |((peer, tag, id, size, rtt_us), path, via)| {
                Event::EchoReply { peer: PeerId(peer), tag: PeerTag(tag), id, size, rtt_us, path, via }
            }
        ),
        any::<(u16, u64, u64)>().prop_map(|(peer, tag, id)| Event::EchoUnsent { peer: PeerId(peer), tag: PeerTag(tag), id }),
        (any::<i32>(), prop::sample::select(Place::ALL.to_vec())).prop_map(|(errno, at)| Event::WorkerFailed { errno, at }),
        Just(Event::InterfaceGone),
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

/// Of a hop over TURN, eight bytes say which channel it is.
#[test]
fn the_longest_path_leaves_room_for_other_kinds_of_hops() {
    let (address, peer, path) = (Ipv6Addr::LOCALHOST, PeerId(1), PathId::FIRST);
    let remote = SocketAddrV6::new(address, 4500, 0, 1).into();
    let hop = Hop::Udp(UdpHop { socket: 1, local: Some(address.into()), interface: 1, remote });
    let longest = Command::PathSet { peer, path, hop, mtu: 1500, mtu_reported: 1500 };
    assert!(longest.encode(&mut [0; RECORD_LEN_MAX]) + 8 <= RECORD_LEN_MAX);
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
    fn what_decodes_encodes_to_the_same_bytes(mut bytes in prop::collection::vec(any::<u8>(), RECORD_LEN_MAX), tag in tags()) {
        bytes[0] = tag;
        let mut out = [0; RECORD_LEN_MAX];
        // A record ends with its last field: of all lengths one is that of this tag.
        for record in (0..=bytes.len()).map(|len| &bytes[..len]) {
            if let Ok(command) = Command::decode(record) {
                let len = command.encode(&mut out);
                prop_assert_eq!(&out[..len], record);
            }
            if let Ok(event) = Event::decode(record) {
                let len = event.encode(&mut out);
                prop_assert_eq!(&out[..len], record);
            }
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
