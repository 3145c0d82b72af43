//! Servers that know less than RFC 5780, are silent, or do harm: less is found out, the report says why, and nobody else is sent to.

use std::net::SocketAddr;
use std::time::Duration;

use adit_engine::stun::codec::{Class as Kind, Message, Writer, kind};
use adit_engine::stun::discovery::{
    Allocation, Class, DEADLINE, Discovery, Filtering, Gap, Mapping, Portal, Report, SOCKETS, TcpQuestion, Udp,
};
use adit_sim::nat::NatConfig;
use adit_sim::rng::Rng;
use proptest::prelude::*;

use super::kinds;
use super::world::{ByTcp, ELSEWHERE, FIRST, Manner, OUTSIDE, World, address, start};

/// Packets of one search to which nobody has answered yet, or which somebody had us send: so few do no harm.
const SENT_MOST: usize = 64;

fn usual() -> NatConfig {
    NatConfig::usual(OUTSIDE.into())
}

fn searched(config: NatConfig, servers: &[(SocketAddr, Manner)]) -> (World, Report) {
    let mut world = World::new(config, 7);
    world.servers = servers.iter().copied().collect();
    let report = world.search();
    assert!(report.took <= DEADLINE && world.sent.len() <= SENT_MOST, "{} datagrams: {report:?}", world.sent.len());
    (world, report)
}

#[test]
fn one_address_of_a_server_cannot_tell_and_that_is_said() {
    for manner in [Manner::One, Manner::Deaf] {
        for config in [usual(), NatConfig::symmetric(OUTSIDE.into())] {
            let (_, report) = searched(config.clone(), &[(address(FIRST), manner)]);
            assert_eq!((report.mapping, report.filtering), (Mapping::Unknown, Filtering::Unknown));
            assert_eq!((report.class(), report.gaps.as_slice()), (Class::Unknown, &[Gap::OneAddress, Gap::NoChange][..]));
            // What needs no second address is known all the same.
            let preserved = config.mapping == usual().mapping;
            assert_eq!(report.allocation, Some(if preserved { Allocation::Preserving } else { Allocation::Random }));
        }
    }
}

#[test]
fn two_servers_with_one_address_each_tell_the_mapping() {
    let servers = [(address(FIRST), Manner::One), (address(ELSEWHERE), Manner::Deaf)];
    let (_, report) = searched(usual(), &servers);
    assert_eq!(
        (report.mapping, report.filtering, report.class()),
        (Mapping::EndpointIndependent, Filtering::Unknown, Class::Cone)
    );
    let (_, report) = searched(NatConfig::symmetric(OUTSIDE.into()), &servers);
    assert_eq!((report.mapping, report.class()), (Mapping::Dependent, Class::Symmetric));
    assert_eq!(report.gaps, [Gap::NoChange]);
}

#[test]
fn two_ports_of_one_address_tell_a_mapping_for_each_port_only() {
    let other = (FIRST.0, 5555);
    let servers = [(address(FIRST), Manner::One), (address(other), Manner::One)];
    assert_eq!(searched(usual(), &servers).1.mapping, Mapping::Unknown);
    assert_eq!(searched(NatConfig::symmetric(OUTSIDE.into()), &servers).1.mapping, Mapping::AddressAndPortDependent);
}

#[test]
fn a_dead_server_beside_one_that_answers_costs_nothing_but_time() {
    let (_, report) = searched(usual(), &[(address(FIRST), Manner::Full), (address(ELSEWHERE), Manner::Dead)]);
    assert_eq!(report.servers.iter().map(|one| one.rtt.is_some()).collect::<Vec<_>>(), [true, false]);
    assert_eq!((report.class(), report.gaps.as_slice()), (Class::PortRestrictedCone, &[][..]));
    // The first one is dead: the other one is no less good for that.
    let (_, report) = searched(usual(), &[(address(FIRST), Manner::Dead), (address(ELSEWHERE), Manner::One)]);
    assert_eq!(report.servers.iter().map(|one| one.rtt.is_some()).collect::<Vec<_>>(), [false, true]);
    assert_eq!((report.udp, report.allocation), (Udp::Passes, Some(Allocation::Preserving)));
}

#[test]
fn a_second_address_that_is_none_is_sent_nothing() {
    for other in ["127.0.0.1:3479", "10.0.0.1:3479", "224.0.0.1:3479", "198.51.100.1:3479", "203.0.113.77:3478", "0.0.0.0:0"] {
        let other: SocketAddr = other.parse().unwrap();
        let (world, report) = searched(usual(), &[(address(FIRST), Manner::Names(other))]);
        assert!(world.sent.iter().all(|(to, _)| *to != other), "{other}");
        assert_eq!(report.servers[0].other, None);
        assert_eq!(report.gaps, [Gap::OtherAddressUseless], "{other}");
    }
}

#[test]
fn a_second_address_that_is_silent_is_sent_little_and_told() {
    let other: SocketAddr = "192.0.2.66:3479".parse().unwrap();
    let (world, report) = searched(usual(), &[(address(FIRST), Manner::Names(other))]);
    let sent = world.sent.iter().filter(|(to, _)| to.ip() == other.ip()).count();
    assert!(sent <= 6, "{sent}");
    assert_eq!((report.mapping, report.filtering), (Mapping::Unknown, Filtering::Unknown));
    assert!(report.gaps.contains(&Gap::OtherAddressSilent), "{report:?}");
}

#[test]
fn servers_that_refuse_let_udp_through_and_tell_nothing() {
    let (_, report) = searched(usual(), &[(address(FIRST), Manner::Refuses)]);
    assert_eq!((report.udp, report.mapping, report.gaps.as_slice()), (Udp::Passes, Mapping::Unknown, &[Gap::Refused][..]));
}

/// Its silence is taken for loss, not for a filter.
#[test]
fn a_server_on_our_side_of_the_nat_says_nothing_of_it() {
    let inside = SocketAddr::from(([10, 0, 0, 3], 3478));
    for (config, mapping) in [(usual(), Mapping::EndpointIndependent), (NatConfig::symmetric(OUTSIDE.into()), Mapping::Dependent)]
    {
        let servers = [(address(FIRST), Manner::One), (address(ELSEWHERE), Manner::One), (inside, Manner::One)];
        let (_, report) = searched(config.clone(), &servers);
        assert_eq!(report.mapping, mapping);
        let ports = if mapping == Mapping::EndpointIndependent { Allocation::Preserving } else { Allocation::Random };
        assert!(report.gaps.contains(&Gap::ServerInside) && report.allocation == Some(ports), "{report:?}");
        // As full as it may be, it shows no filter.
        let (_, report) = searched(config, &[(address(FIRST), Manner::One), (inside, Manner::Full)]);
        assert_eq!(report.filtering, Filtering::Unknown, "{report:?}");
    }
}

#[test]
fn a_server_that_answers_a_few_questions_only_is_not_a_strict_nat() {
    let delays = [1, 5, 10, 25, 50, 75, 100, 125, 150, 200];
    for (config, delay) in kinds::all().into_iter().flat_map(|config| delays.map(|delay| (config.clone(), delay))) {
        let mut world = World::new(config.clone(), 7);
        world.delay = Duration::from_millis(delay);
        world.servers = [(address(FIRST), Manner::Sparing)].into();
        let report = world.search();
        let (mapping, filtering) = (kinds::mapping(config.mapping), kinds::filtering(config.filtering));
        assert!([mapping, Mapping::Unknown, Mapping::Dependent].contains(&report.mapping), "{report:?} of {config:?}");
        assert!([filtering, Filtering::Unknown].contains(&report.filtering), "{report:?} of {config:?}");
    }
}

/// The answer of a server over TCP.
fn answer(question: &[u8]) -> Vec<u8> {
    let message = Message::parse(question).unwrap();
    let mut answer = Writer::answer(Kind::Success, &message);
    answer.put_address(kind::XOR_MAPPED_ADDRESS, address(ELSEWHERE));
    answer.finish()
}

fn without_udp(stun: ByTcp, web: ByTcp) -> Report {
    let mut world = World::new(usual(), 1);
    world.servers = [(address(FIRST), Manner::Dead)].into();
    world.tcp = [(true, stun), (false, web)].into();
    let report = world.search();
    assert!(report.took <= DEADLINE && report.public.is_empty(), "{report:?}");
    report
}

#[test]
fn blocked_udp_a_portal_and_nothing_at_all_are_told_apart() {
    let nothing = |_: &[u8]| Vec::new();
    let portal = |_: &[u8]| b"HTTP/1.1 302 Found\r\nLocation: https://login.example/\r\n\r\n".to_vec();
    let login = |_: &[u8]| b"HTTP/1.1 511 Network Authentication Required\r\n\r\n".to_vec();
    let server = |_: &[u8]| b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
    let of = |report: Report| (report.udp, report.portal.clone(), report.class());
    assert_eq!(of(without_udp(answer, nothing)), (Udp::Blocked, None, Class::UdpBlocked));
    // A server that is there itself is no portal, wherever its web port leads.
    assert_eq!(of(without_udp(answer, portal)), (Udp::Blocked, None, Class::UdpBlocked));
    let elsewhere = Some(Portal::SendsElsewhere("login.example".to_owned()));
    assert_eq!(of(without_udp(nothing, portal)), (Udp::Silent, elsewhere, Class::Unknown));
    assert_eq!(of(without_udp(nothing, login)), (Udp::Silent, Some(Portal::LoginWanted), Class::Unknown));
    assert_eq!(of(without_udp(login, login)), (Udp::Silent, Some(Portal::AtStunPort), Class::Unknown));
    assert_eq!(of(without_udp(nothing, server)), (Udp::Silent, None, Class::Unknown));
    assert_eq!(of(without_udp(nothing, nothing)), (Udp::Silent, None, Class::Unknown));
    // Somebody else's answer.
    let other = |_: &[u8]| Writer::new(Kind::Success, 1, [9; 12]).finish();
    assert_eq!(of(without_udp(other, nothing)), (Udp::Silent, None, Class::Unknown));
}

fn search(servers: &[SocketAddr]) -> Discovery {
    let mut ids = Rng::new(5);
    let sockets: [SocketAddr; SOCKETS] = std::array::from_fn(|place| ([10, 0, 0, 2], 40_000 + place as u16).into());
    Discovery::new(start(), servers, sockets, Box::new(move |out: &mut [u8]| ids.fill(out)))
}

#[test]
fn without_a_server_there_is_nothing_to_wait_for() {
    let mut search = search(&[]);
    search.handle_timeout(start());
    assert!(search.poll_event().is_some() && search.poll_timeout().is_none());
}

#[test]
fn an_answer_of_somebody_else_is_none() {
    let server = address(FIRST);
    let mut search = search(&[server]);
    let question = search.poll_transmit(start()).unwrap();
    let good = answer(&question.payload);
    let now = start() + Duration::from_millis(20);
    for (socket, from) in [(0, address(ELSEWHERE)), (0, (FIRST.0, 9).into()), (1, server), (SOCKETS, server)] {
        search.handle_datagram(now, socket, from, &good);
        assert_eq!(search.poll_transmit(now), None, "nothing has begun: {socket} {from}");
    }
    search.handle_datagram(now, 0, server, &good);
    assert_eq!(search.poll_transmit(now).map(|transmit| transmit.to), Some(server), "the fresh sockets ask");
}

proptest! {
    /// Whatever comes, by whatever socket and from wherever: the search ends, in its time and with few packets.
    #[test]
    fn no_bytes_of_strangers_keep_a_search_from_its_end(
        bytes in prop::collection::vec(any::<u8>(), 0..200), damage in prop::collection::vec((0usize..160, any::<u8>()), 0..6),
        sockets in prop::collection::vec(0usize..=SOCKETS, 1..20), from_server: bool, seed: u64,
    ) {
        let server = address(FIRST);
        let (mut search, mut now, mut rng) = (search(&[server]), start(), Rng::new(seed));
        let mut sent = 0;
        for round in 0..2000 {
            while let Some(transmit) = search.poll_transmit(now) {
                sent += 1;
                // An answer, damaged, and what is no answer at all.
                let mut said = answer(&transmit.payload);
                for (at, value) in &damage {
                    if let Some(byte) = said.get_mut(*at) {
                        *byte = *value;
                    }
                }
                let from = if from_server { transmit.to } else { address(ELSEWHERE) };
                let socket = sockets[rng.below(sockets.len() as u32) as usize];
                search.handle_datagram(now, socket, from, &said);
                search.handle_datagram(now, socket, from, &bytes);
                search.handle_tcp(now, if round % 2 == 0 { TcpQuestion::Web } else { TcpQuestion::Stun }, &bytes);
            }
            while search.poll_event().is_some() {}
            let Some(due) = search.poll_timeout() else { break };
            now = due.max(now);
            search.handle_timeout(now);
        }
        prop_assert_eq!(search.poll_timeout(), None);
        prop_assert!(now <= start() + DEADLINE && sent <= SENT_MOST, "{} datagrams", sent);
    }
}
