//! Generators: every payload that can be written, whole messages, and messages that were damaged on the way.

use adit_proto::control::Spi;
use adit_proto::ike::{
    AddressRange, Attribute, AttributeType, AttributeValue, AuthMethod, CertEncoding, CfgAttribute, CfgAttributeType, CfgType,
    Config, Delete, ExchangeType, Flags, Header, IdType, Identification, IkeSpi, IpSelector, KeId, Message, Notify, NotifyType,
    Payload, PayloadType, PortRange, Proposal, ProtocolId, TrafficSelector, Transform, TransformType, TsType, Version,
};
use adit_proto::limits::ATTRIBUTES_OF_TRANSFORM_MAX;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

fn bytes(max: usize) -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..=max)
}

fn attribute() -> impl Strategy<Value = Attribute> {
    let value = prop_oneof![any::<u16>().prop_map(AttributeValue::Short), bytes(8).prop_map(AttributeValue::Long)];
    let kind = prop_oneof![Just(AttributeType::KEY_LENGTH), (0u16..0x8000).prop_map(AttributeType)];
    (kind, value).prop_map(|(kind, value)| Attribute { kind, value })
}

fn transform() -> impl Strategy<Value = Transform> {
    let kind = prop_oneof![select(TransformType::ALL).prop_map(|kind| kind.0), any::<u8>()];
    let attributes = prop_oneof![3 => Just(vec![]), 1 => vec(attribute(), 0..=ATTRIBUTES_OF_TRANSFORM_MAX)];
    let parts = (kind, prop_oneof![0u16..40, any::<u16>()], attributes);
    parts.prop_map(|(kind, id, attributes)| Transform { kind: TransformType(kind), id, attributes })
}

fn proposal() -> impl Strategy<Value = Proposal> {
    let spi = prop_oneof![Just(vec![]), vec(any::<u8>(), 4), vec(any::<u8>(), 8), bytes(255)];
    (any::<u8>(), 0u8..5, spi, vec(transform(), 0..=8)).prop_map(|(number, protocol, spi, transforms)| Proposal {
        number,
        protocol: ProtocolId(protocol),
        spi,
        transforms,
    })
}

fn selector() -> impl Strategy<Value = TrafficSelector> {
    let addresses = prop_oneof![
        any::<[[u8; 4]; 2]>().prop_map(|[first, last]| AddressRange::V4 { first: first.into(), last: last.into() }),
        any::<[[u8; 16]; 2]>().prop_map(|[first, last]| AddressRange::V6 { first: first.into(), last: last.into() }),
    ];
    let ip = (any::<(u8, u16, u16)>(), addresses).prop_map(|((protocol, first, last), addresses)| {
        IpSelector { protocol, ports: PortRange { first, last }, addresses }.into()
    });
    let known = [TsType::IPV4_ADDR_RANGE, TsType::IPV6_ADDR_RANGE];
    let other = (any::<u8>().prop_map(TsType), any::<u8>(), bytes(40))
        .prop_filter("an IP selector", move |(kind, ..)| !known.contains(kind))
        .prop_map(|(kind, protocol, body)| TrafficSelector::Other { kind, protocol, body });
    prop_oneof![4 => ip, 1 => other]
}

fn notify() -> impl Strategy<Value = Notify> {
    let kind = prop_oneof![select(NotifyType::ALL).prop_map(|kind| kind.0), any::<u16>()];
    let spi = prop_oneof![Just(vec![]), vec(any::<u8>(), 4), bytes(255)];
    (0u8..5, spi, kind, bytes(64)).prop_map(|(protocol, spi, kind, data)| Notify {
        protocol: ProtocolId(protocol),
        spi,
        kind: NotifyType(kind),
        data,
    })
}

fn delete() -> impl Strategy<Value = Delete> {
    let child = (select(vec![ProtocolId::AH, ProtocolId::ESP]), vec(any::<u32>().prop_map(Spi), 0..20));
    prop_oneof![Just(Delete::ike()), child.prop_map(|(protocol, spis)| Delete { protocol, spis })]
}

fn config() -> impl Strategy<Value = Config> {
    let attribute = (0u16..0x8000, bytes(20)).prop_map(|(kind, value)| CfgAttribute { kind: CfgAttributeType(kind), value });
    (any::<u8>(), vec(attribute, 0..8)).prop_map(|(kind, attributes)| Config { kind: CfgType(kind), attributes })
}

fn identification() -> impl Strategy<Value = Identification> {
    let data = prop_oneof![bytes(64), "[a-z.@]{0,40}".prop_map(String::into_bytes)];
    (any::<u8>(), data).prop_map(|(id_type, data)| Identification { id_type: IdType(id_type), data })
}

/// A payload that may stand anywhere: all but SK and SKF.
pub fn payload() -> impl Strategy<Value = Payload> {
    let unknown = (any::<u8>().prop_map(PayloadType), bytes(40))
        .prop_filter("a known type", |(kind, _)| !kind.is_understood() && *kind != PayloadType::NONE)
        .prop_map(|(kind, body)| Payload::Unknown { kind, critical: false, body });
    prop_oneof![
        vec(proposal(), 1..=4).prop_map(Payload::Sa),
        (any::<u16>(), bytes(200)).prop_map(|(method, data)| Payload::Ke { method: KeId(method), data }),
        identification().prop_map(Payload::IdI),
        identification().prop_map(Payload::IdR),
        (any::<u8>(), bytes(200)).prop_map(|(code, data)| Payload::Cert { encoding: CertEncoding(code), data }),
        (any::<u8>(), bytes(60)).prop_map(|(code, data)| Payload::CertReq { encoding: CertEncoding(code), data }),
        (any::<u8>(), bytes(200)).prop_map(|(method, data)| Payload::Auth { method: AuthMethod(method), data }),
        vec(any::<u8>(), 16..=256).prop_map(Payload::Nonce),
        notify().prop_map(Payload::Notify),
        delete().prop_map(Payload::Delete),
        bytes(40).prop_map(Payload::Vendor),
        vec(selector(), 0..8).prop_map(Payload::TsI),
        vec(selector(), 0..=255).prop_map(Payload::TsR),
        config().prop_map(Payload::Cp),
        bytes(60).prop_map(Payload::Eap),
        unknown,
    ]
}

/// SK or SKF, long enough to be opened or not.
fn encrypted() -> impl Strategy<Value = Payload> {
    (any::<bool>(), any::<u8>().prop_map(PayloadType), bytes(80))
        .prop_map(|(fragment, first, body)| if fragment { Payload::Skf { first, body } } else { Payload::Sk { first, body } })
}

/// A message; next payload and length in the header are zero, as the encoders do not look at them. It always fits: no payload
/// of these is longer than 12 KiB.
pub fn message() -> impl Strategy<Value = Message> {
    let exchange = prop_oneof![select(ExchangeType::ALL), any::<u8>().prop_map(ExchangeType)];
    let minor = 0u8..16;
    let header = (any::<[u64; 2]>(), minor, exchange, any::<[bool; 3]>(), any::<u32>()).prop_map(
        |([initiator_spi, responder_spi], minor, exchange, [initiator, response, version], message_id)| {
            let flags = Flags { initiator, response, version };
            let header = Header::new(IkeSpi(initiator_spi), IkeSpi(responder_spi), exchange, flags, message_id);
            Header { version: Version(0x20 | minor), ..header }
        },
    );
    let payloads = (vec(payload(), 0..6), proptest::option::of(encrypted())).prop_map(|(mut payloads, last)| {
        payloads.extend(last);
        payloads
    });
    (header, payloads).prop_map(|(header, payloads)| Message { header, payloads })
}

/// What can happen to bytes.
#[derive(Clone, Debug)]
pub enum Damage {
    Set(Index, u8),
    Flip(Index, u8),
    /// A big endian number somewhere, often a length.
    SetWord(Index, u16),
    Truncate(Index),
    Append(Vec<u8>),
    Remove(Index, u8),
    Repeat(Index, u8),
    /// The length of the message in its header becomes right.
    FixLength,
}

pub fn damage() -> impl Strategy<Value = Vec<Damage>> {
    let word = prop_oneof![0u16..80, select(vec![0x7fff, 0x8000, 0xfffe, 0xffff]), any::<u16>()];
    let one = prop_oneof![
        (any::<Index>(), any::<u8>()).prop_map(|(at, value)| Damage::Set(at, value)),
        (any::<Index>(), 0u8..8).prop_map(|(at, bit)| Damage::Flip(at, 1 << bit)),
        (any::<Index>(), word).prop_map(|(at, value)| Damage::SetWord(at, value)),
        any::<Index>().prop_map(Damage::Truncate),
        bytes(20).prop_map(Damage::Append),
        (any::<Index>(), any::<u8>()).prop_map(|(at, len)| Damage::Remove(at, len)),
        (any::<Index>(), any::<u8>()).prop_map(|(at, len)| Damage::Repeat(at, len)),
        Just(Damage::FixLength),
    ];
    vec(one, 1..6)
}

impl Damage {
    pub fn apply(&self, bytes: &mut Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        let len = bytes.len();
        let range = |at: &Index, count: &u8| at.index(len)..(at.index(len) + usize::from(*count)).min(len);
        match self {
            Damage::Set(at, value) => bytes[at.index(len)] = *value,
            Damage::Flip(at, mask) => bytes[at.index(len)] ^= mask,
            Damage::SetWord(at, value) => {
                let place = at.index(len);
                for (byte, value) in bytes[place..].iter_mut().zip(value.to_be_bytes()) {
                    *byte = value;
                }
            }
            Damage::Truncate(at) => bytes.truncate(at.index(len)),
            Damage::Append(more) => bytes.extend_from_slice(more),
            Damage::Remove(at, count) => drop(bytes.drain(range(at, count))),
            Damage::Repeat(at, count) => bytes.extend_from_within(range(at, count)),
            Damage::FixLength => {
                if let (Ok(length), Some(field)) = (u32::try_from(len), bytes.get_mut(24..28)) {
                    field.copy_from_slice(&length.to_be_bytes());
                }
            }
        }
    }
}
