//! The policy table against plain lists that are searched from their beginning.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use adit_dataplane::policy::{PolicyTable, Route};
use adit_proto::control::{ChildId, PeerId, Refusal, SELECTOR_OVERLAPS_MAX as OVERLAPS_MAX, Selector};
use adit_proto::ike::{AddressRange, PortRange};
use adit_proto::packet::Packet;
use proptest::prelude::*;

/// What is configured, in the order in which it was added, and Child SAs, in the order in which they were made.
#[derive(Default)]
struct Model {
    rules: Vec<(PeerId, Selector)>,
    children: Vec<(PeerId, ChildId, Vec<Selector>)>,
}

/// By this one nothing can be sent.
const SILENT: ChildId = ChildId(2);

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_bits().into(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// A packet of the plainest kind, and its ports if it shows any.
#[derive(Clone, Debug)]
struct Sample {
    v6: bool,
    source: u8,
    destination: u8,
    protocol: u8,
    ports: (u16, u16),
    fragment: bool,
}

fn address(v6: bool, last: u8) -> IpAddr {
    if v6 {
        Ipv6Addr::from([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]).into()
    } else {
        Ipv4Addr::new(10, 0, 0, last).into()
    }
}

impl Sample {
    fn packet(&self) -> Packet {
        let mut bytes = if self.v6 {
            let mut bytes = vec![0x60, 0, 0, 0, 0, 0, if self.fragment { 44 } else { self.protocol }, 64];
            for end in [self.source, self.destination] {
                bytes.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, end]);
            }
            if self.fragment {
                bytes.extend([self.protocol, 0, 0, 1, 0, 0, 0, 7]);
            }
            bytes
        } else {
            let flags = if self.fragment { 0x20 } else { 0x40 };
            vec![0x45, 0, 0, 40, 0, 0, flags, 0, 64, self.protocol, 0, 0, 10, 0, 0, self.source, 10, 0, 0, self.destination]
        };
        bytes.extend(self.ports.0.to_be_bytes());
        bytes.extend(self.ports.1.to_be_bytes());
        bytes.extend([0; 16]);
        Packet::parse(&bytes).expect("an IP packet")
    }

    /// Whether it goes from `local` to `remote` of a selector, or the other way.
    fn is_in(&self, selector: &Selector, outbound: bool) -> bool {
        let in_range = |range: AddressRange, last: u8| {
            let address = address(self.v6, last);
            range.first().is_ipv6() == self.v6 && (number(range.first())..=number(range.last())).contains(&number(address))
        };
        let has_ports = !self.fragment && [6, 17].contains(&self.protocol);
        let port_in = |range: PortRange, port: u16| {
            if has_ports {
                range.first <= port && port <= range.last
            } else {
                [PortRange::ANY, PortRange::OPAQUE].contains(&range)
            }
        };
        let (own, other) = ((self.source, self.ports.0), (self.destination, self.ports.1));
        let (local, remote) = if outbound { (own, other) } else { (other, own) };
        in_range(selector.local, local.0)
            && in_range(selector.remote, remote.0)
            && [0, self.protocol].contains(&selector.protocol)
            && port_in(selector.local_ports, local.1)
            && port_in(selector.remote_ports, remote.1)
    }
}

impl Model {
    fn owner(&self, sample: &Sample, outbound: bool) -> Option<PeerId> {
        let width = |selector: &Selector| number(selector.remote.last()) - number(selector.remote.first());
        let matching: Vec<_> = self.rules.iter().filter(|(_, selector)| sample.is_in(selector, outbound)).collect();
        let least = matching.iter().map(|(_, selector)| width(selector)).min()?;
        let best: Vec<PeerId> = matching.iter().filter(|(_, one)| width(one) == least).map(|(peer, _)| *peer).collect();
        let claims = |(peer, _, selectors): &&(PeerId, ChildId, Vec<Selector>)| {
            best.contains(peer) && selectors.iter().any(|selector| sample.is_in(selector, outbound))
        };
        let is_tie = best.iter().any(|peer| *peer != best[0]);
        let first = self.children.iter().find(claims).filter(|_| is_tie).map(|(peer, ..)| *peer);
        first.or(best.first().copied())
    }

    fn carries(&self, sample: &Sample, peer: PeerId, outbound: bool) -> Vec<ChildId> {
        let theirs = self.children.iter().filter(|(one, ..)| *one == peer);
        theirs.filter(|(.., all)| all.iter().any(|one| sample.is_in(one, outbound))).map(|(_, id, _)| *id).collect()
    }

    fn route(&self, sample: &Sample) -> Route {
        let Some(peer) = self.owner(sample, true) else { return Route::Nowhere };
        let last = self.carries(sample, peer, true).into_iter().rfind(|id| *id != SILENT);
        last.map_or(Route::NoChild(peer), |child| Route::To(peer, child))
    }

    fn admits(&self, sample: &Sample, peer: PeerId, child: ChildId) -> bool {
        self.owner(sample, false) == Some(peer) && self.carries(sample, peer, false).contains(&child)
    }

    fn add_to_child(&mut self, peer: PeerId, id: ChildId, selector: Selector) {
        match self.children.iter_mut().find(|(one, other, _)| (*one, *other) == (peer, id)) {
            Some((.., all)) if all.contains(&selector) => {}
            Some((.., all)) => all.push(selector),
            None => self.children.push((peer, id, vec![selector])),
        }
    }
}

fn ranges(v6: bool) -> impl Strategy<Value = AddressRange> {
    (0u8..24, 0u8..24).prop_map(move |(a, b)| match (address(v6, a.min(b)), address(v6, a.max(b))) {
        (IpAddr::V4(first), IpAddr::V4(last)) => AddressRange::V4 { first, last },
        (IpAddr::V6(first), IpAddr::V6(last)) => AddressRange::V6 { first, last },
        _ => unreachable!("both are of one version"),
    })
}

fn port_ranges() -> impl Strategy<Value = PortRange> {
    let some = (0u16..6, 0u16..6).prop_map(|(a, b)| PortRange { first: a.min(b), last: a.max(b) });
    prop_oneof![3 => Just(PortRange::ANY), 2 => some, 1 => Just(PortRange::OPAQUE)]
}

fn selectors() -> impl Strategy<Value = Selector> {
    let protocol = prop::sample::select(vec![0u8, 0, 6, 17, 47]);
    any::<bool>().prop_flat_map(move |v6| (ranges(v6), ranges(v6), protocol.clone(), port_ranges(), port_ranges())).prop_map(
        |(local, remote, protocol, local_ports, remote_ports)| Selector { local, remote, protocol, local_ports, remote_ports },
    )
}

fn samples() -> impl Strategy<Value = Sample> {
    let protocol = prop::sample::select(vec![6u8, 17, 47]);
    (any::<bool>(), 0u8..24, 0u8..24, protocol, (0u16..6, 0u16..6), any::<bool>()).prop_map(
        |(v6, source, destination, protocol, ports, fragment)| Sample { v6, source, destination, protocol, ports, fragment },
    )
}

#[derive(Clone, Debug)]
enum Step {
    Add(u16, Selector),
    Again(prop::sample::Index),
    Remove(prop::sample::Index),
    Forget(u16),
    AddToChild(u16, u16, Selector),
    /// A configured one, as an end that narrows nothing grants it.
    GrantToChild(u16, prop::sample::Index),
    RemoveFromChild(prop::sample::Index, prop::sample::Index),
    ForgetChild(u16, u16),
    Look(Sample),
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0u16..5, selectors()).prop_map(|(peer, selector)| Step::Add(peer, selector)),
        1 => any::<prop::sample::Index>().prop_map(Step::Again),
        2 => any::<prop::sample::Index>().prop_map(Step::Remove),
        1 => (0u16..5).prop_map(Step::Forget),
        3 => (0u16..5, 0u16..4, selectors()).prop_map(|(peer, child, selector)| Step::AddToChild(peer, child, selector)),
        5 => (0u16..4, any::<prop::sample::Index>()).prop_map(|(child, index)| Step::GrantToChild(child, index)),
        1 => any::<(prop::sample::Index, prop::sample::Index)>().prop_map(|(child, rule)| Step::RemoveFromChild(child, rule)),
        1 => (0u16..5, 0u16..4).prop_map(|(peer, child)| Step::ForgetChild(peer, child)),
        12 => samples().prop_map(Step::Look),
    ]
}

/// Most selectors of the model's table: so few that it is full now and then, and not too many for any address.
const CAPACITY: usize = 40;

proptest! {
    #[test]
    fn the_table_answers_like_a_list(steps in prop::collection::vec(steps(), 1..250)) {
        let (mut table, mut model) = (PolicyTable::new(CAPACITY as u32, 5), Model::default());
        for step in steps {
            match step {
                Step::Add(peer, selector) => {
                    let (peer, known) = (PeerId(peer), model.rules.contains(&(PeerId(peer), selector)));
                    let expected = if known || model.rules.len() < CAPACITY { Ok(()) } else { Err(Refusal::PolicyFull) };
                    prop_assert_eq!(table.add(peer, &selector), expected);
                    if !known && expected.is_ok() {
                        model.rules.push((peer, selector));
                    }
                }
                Step::Again(index) if !model.rules.is_empty() => {
                    let (peer, selector) = model.rules[index.index(model.rules.len())];
                    prop_assert_eq!(table.add(peer, &selector), Ok(()));
                }
                Step::Remove(index) if !model.rules.is_empty() => {
                    let (peer, selector) = model.rules.remove(index.index(model.rules.len()));
                    prop_assert_eq!(table.remove(PeerId(peer.0 + 100), &selector), Err(Refusal::NoSuchSelector));
                    prop_assert_eq!(table.remove(peer, &selector), Ok(()));
                    prop_assert_eq!(table.remove(peer, &selector), Err(Refusal::NoSuchSelector));
                }
                Step::Again(_) | Step::Remove(_) => {}
                Step::Forget(peer) => {
                    table.forget_peer(PeerId(peer));
                    model.rules.retain(|(owner, _)| owner.0 != peer);
                    model.children.retain(|(owner, ..)| owner.0 != peer);
                }
                Step::AddToChild(peer, child, selector) => {
                    let (peer, child) = (PeerId(peer), ChildId(child));
                    prop_assert_eq!(table.add_to_child(peer, child, &selector), Ok(()));
                    model.add_to_child(peer, child, selector);
                }
                Step::GrantToChild(child, index) if !model.rules.is_empty() => {
                    let (peer, selector) = model.rules[index.index(model.rules.len())];
                    prop_assert_eq!(table.add_to_child(peer, ChildId(child), &selector), Ok(()));
                    model.add_to_child(peer, ChildId(child), selector);
                }
                Step::RemoveFromChild(child, rule) if !model.children.is_empty() => {
                    let (count, at) = (model.children.len(), child);
                    let (peer, child, all) = &mut model.children[at.index(count)];
                    if !all.is_empty() {
                        let selector = all.remove(rule.index(all.len()));
                        prop_assert_eq!(table.remove_from_child(*peer, *child, &selector), Ok(()));
                        prop_assert_eq!(table.remove_from_child(*peer, *child, &selector), Err(Refusal::NoSuchSelector));
                    }
                }
                Step::GrantToChild(..) | Step::RemoveFromChild(..) => {}
                Step::ForgetChild(peer, child) => {
                    table.forget_child(PeerId(peer), ChildId(child));
                    model.children.retain(|(owner, id, _)| (owner.0, id.0) != (peer, child));
                }
                Step::Look(sample) => {
                    let packet = sample.packet();
                    // Twice: the second answer comes from memory.
                    for _ in 0..2 {
                        prop_assert_eq!(table.route(&packet, |_, id| id != SILENT), model.route(&sample), "{:?}", &sample);
                        for (peer, child) in (0..5).flat_map(|peer| (0..4).map(move |child| (PeerId(peer), ChildId(child)))) {
                            let admits = model.admits(&sample, peer, child);
                            prop_assert_eq!(table.admits(&packet, peer, child), admits, "{:?}", &sample);
                        }
                    }
                }
            }
            prop_assert_eq!(table.len(), model.rules.len());
        }
    }
}

fn v4(first: u32, last: u32) -> AddressRange {
    AddressRange::V4 { first: Ipv4Addr::from_bits(first), last: Ipv4Addr::from_bits(last) }
}

#[test]
fn no_address_is_in_more_selectors_than_a_look_up_may_look_at() {
    let mut table = PolicyTable::new(1000, 5);
    let nested = |n: u32| Selector::any_of(AddressRange::ANY_V4, v4(1000 - n, 1000 + n));
    for n in 0..u32::from(OVERLAPS_MAX) {
        assert_eq!(table.add(PeerId(1), &nested(n)), Ok(()));
    }
    assert_eq!(table.add(PeerId(2), &nested(100)), Err(Refusal::PolicyOverlap));
    // One that overlaps the others at their middle is one too many there.
    let at = |first, last| Selector::any_of(AddressRange::ANY_V4, v4(first, last));
    assert_eq!(table.add(PeerId(2), &at(1000, 1000)), Err(Refusal::PolicyOverlap));
    assert_eq!(table.add(PeerId(2), &at(0, 999)), Ok(()));
    assert_eq!(table.add(PeerId(2), &at(0, 999)), Ok(()), "the same again is no other");
    assert_eq!(table.add(PeerId(2), &at(500, 999)), Err(Refusal::PolicyOverlap), "63 and one are there by now");
    table.remove(PeerId(1), &nested(0)).unwrap();
    assert_eq!(table.add(PeerId(2), &at(1000, 1000)), Ok(()));
    table.forget_peer(PeerId(1));
    assert_eq!(table.len(), 2);
}

#[test]
fn ten_thousand_selectors_come_and_go() {
    let mut table = PolicyTable::new(10_000, 100);
    let selector = |n: u32| Selector::any_of(AddressRange::ANY_V4, v4(n << 8, n << 8 | 0xff));
    for n in 0..10_000_u32 {
        table.add(PeerId((n % 100) as u16), &selector(n.wrapping_mul(7919) % 10_000)).unwrap();
    }
    assert_eq!(table.add(PeerId(1), &selector(20_000)), Err(Refusal::PolicyFull));
    for peer in 0..100 {
        table.forget_peer(PeerId(peer));
        assert_eq!(table.len(), 9900 - usize::from(peer) * 100);
    }
}

#[test]
fn what_one_peer_negotiates_takes_no_room_of_others() {
    let mut table = PolicyTable::new(16, 2);
    let selector = |n: u32| Selector::any_of(AddressRange::ANY_V4, v4(n, n));
    let added = (0..).take_while(|n| table.add_to_child(PeerId(0), ChildId(*n as u16 % 8), &selector(*n)).is_ok()).count();
    assert_eq!(added, adit_proto::limits::SELECTORS_OF_PEER_MAX);
    assert_eq!(table.add_to_child(PeerId(0), ChildId(9), &selector(5000)), Err(Refusal::ChildrenFull));
    assert_eq!(table.add_to_child(PeerId(1), ChildId(0), &selector(1)), Ok(()));
    table.forget_child(PeerId(0), ChildId(1));
    assert_eq!(table.add_to_child(PeerId(0), ChildId(9), &selector(5000)), Ok(()));
}

#[test]
fn narrower_negotiated_selectors_take_nothing_of_another_peer() {
    let (greedy, honest) = (PeerId(0), PeerId(1));
    let to = |remote| Selector::any_of(AddressRange::ANY_V4, remote);
    let net = |first: u32, last: u32| v4(0x0a00_0000 + first, 0x0a00_0000 + last);
    let sent = |destination| Sample { v6: false, source: 1, destination, protocol: 17, ports: (7, 7), fragment: false }.packet();
    let came = |source| Sample { v6: false, source, destination: 1, protocol: 17, ports: (7, 7), fragment: false }.packet();
    for (wide, greedy_first) in
        [(net(0, 255), true), (net(0, 255), false), (AddressRange::ANY_V4, true), (AddressRange::ANY_V4, false)]
    {
        let mut table = PolicyTable::new(16, 2);
        let configured = [(greedy, to(wide)), (honest, to(net(128, 255)))];
        for (peer, selector) in if greedy_first { configured } else { [configured[1], configured[0]] } {
            table.add(peer, &selector).unwrap();
        }
        let take = |table: &mut PolicyTable| {
            for (child, range) in [(3, net(128, 191)), (3, net(192, 255)), (4, net(200, 200)), (5, net(0, 127))] {
                table.add_to_child(greedy, ChildId(child), &to(range)).unwrap();
            }
        };
        if greedy_first {
            take(&mut table);
            assert_eq!(table.route(&sent(200), |_, _| true), Route::NoChild(honest), "it waits for its owner");
        }
        table.add_to_child(honest, ChildId(7), &to(net(128, 255))).unwrap();
        if !greedy_first {
            take(&mut table);
        }
        assert_eq!(table.route(&sent(200), |_, _| true), Route::To(honest, ChildId(7)));
        assert_eq!(table.route(&sent(20), |_, _| true), Route::To(greedy, ChildId(5)), "what is its own it has");
        assert!(table.admits(&came(200), honest, ChildId(7)) && table.admits(&came(20), greedy, ChildId(5)));
        assert!([3, 4].iter().all(|child| !table.admits(&came(200), greedy, ChildId(*child))), "nor does it send from there");
    }
}
