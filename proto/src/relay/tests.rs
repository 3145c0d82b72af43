//! Tests of the records: what is written is read again, and nothing else is read.

use std::net::SocketAddr;

use proptest::prelude::*;

use super::*;
use crate::codec::DecodeError;
use crate::limits::{
    HOST_PORT_LEN_MAX, RELAY_METADATA_LEN_MAX, RELAY_PAYLOAD_LEN_MAX, RELAY_RECORD_LEN_MAX, RELAYS_OF_DRAIN_MAX,
    ROOM_NAME_LEN_MAX, ROOMS_OF_CLIENT_MAX, SEGMENTS_OF_TRAIN_MAX, SERVERS_OF_RELAY_MAX,
};

/// A record that owns what it borrows elsewhere.
#[derive(Clone, Debug)]
enum Owned {
    To(u8, PeerKey, OwnedTrain, bool, u64),
    From(u8, PeerKey, OwnedTrain, bool, u64, Vec<RoomName>, Vec<HostPort>, [SocketAddr; 2]),
}

#[derive(Clone, Debug)]
struct OwnedTrain {
    kind: Kind,
    class: u8,
    segment: u16,
    payload: Vec<u8>,
}

impl OwnedTrain {
    fn train(&self) -> Train<'_> {
        Train { kind: self.kind, class: self.class, segment: self.segment, payload: &self.payload }
    }

    fn metadata(&self) -> &[u8] {
        &self.payload[..self.payload.len().min(RELAY_METADATA_LEN_MAX)]
    }
}

fn keys() -> impl Strategy<Value = PeerKey> {
    any::<[u8; 32]>().prop_map(PeerKey)
}

fn trains() -> impl Strategy<Value = OwnedTrain> {
    let lens = prop_oneof![1usize..2000, Just(1), Just(RELAY_PAYLOAD_LEN_MAX)];
    (prop::sample::select(vec![Kind::Ike, Kind::Esp]), any::<u8>(), lens, any::<(bool, u16, u8)>()).prop_map(
        |(kind, class, len, (is_train, wanted, fill))| {
            let least = len.div_ceil(SEGMENTS_OF_TRAIN_MAX);
            let segment = if is_train && least < len { least + usize::from(wanted) % (len - least) } else { 0 };
            OwnedTrain { kind, class, segment: segment as u16, payload: vec![fill; len] }
        },
    )
}

fn rooms() -> impl Strategy<Value = Vec<RoomName>> {
    prop::collection::vec("[a-z0-9][a-z0-9._-]{0,63}", 1..=ROOMS_OF_CLIENT_MAX)
        .prop_map(|names| names.iter().map(|name| RoomName::new(name).unwrap()).collect())
}

fn relays() -> impl Strategy<Value = Vec<HostPort>> {
    let one = (prop_oneof![Just("[2001:db8::7]".to_owned()), "[a-zA-Z0-9.-]{1,60}"], 1u16..);
    let one = one.prop_map(|(host, port)| HostPort::new(&format!("{host}:{port}")).unwrap());
    prop::collection::vec(one, 0..=RELAYS_OF_DRAIN_MAX)
}

fn addresses() -> impl Strategy<Value = [SocketAddr; 2]> {
    any::<[(std::net::IpAddr, u16); 2]>().prop_map(|pairs| pairs.map(SocketAddr::from))
}

fn records() -> impl Strategy<Value = Owned> {
    let to = (0u8..5, keys(), trains(), any::<bool>(), any::<u64>());
    let from = (0u8..14, keys(), trains(), any::<bool>(), any::<u64>(), rooms(), relays(), addresses());
    prop_oneof![
        to.prop_map(|(which, key, train, flag, number)| Owned::To(which, key, train, flag, number)),
        from.prop_map(|(which, key, train, flag, number, rooms, relays, addresses)| {
            Owned::From(which, key, train, flag, number, rooms, relays, addresses)
        }),
    ]
}

fn to_relay(which: u8, peer: PeerKey, train: &OwnedTrain, on: bool, id: u64) -> ToRelay<'_> {
    match which {
        0 => ToRelay::Send { to: peer, train: train.train() },
        1 => ToRelay::Meet { peer },
        2 => ToRelay::Direct { peer, on },
        3 => ToRelay::Describe { metadata: train.metadata() },
        _ => ToRelay::Ping { id },
    }
}

impl Owned {
    fn record(&self) -> Option<FromRelay<'_>> {
        let Owned::From(which, peer, train, on, id, rooms, relays, [one, other]) = self else { return None };
        let (peer, on, id, room, metadata) = (*peer, *on, *id, rooms[0].clone(), train.metadata());
        Some(match which {
            0 => FromRelay::Welcome {
                observed: *one,
                stun_key: [id as u8; STUN_KEY_LEN],
                idle_ms: id as u32,
                rooms: rooms.clone(),
            },
            1 => FromRelay::Joined { room, peer, metadata },
            2 => FromRelay::Left { room, peer, reason: LeftReason(id as u8) },
            3 => FromRelay::Described { room, peer, metadata },
            4 => FromRelay::Deliver { from: peer, train: train.train() },
            5 => FromRelay::Introduction { peer, udp: on.then_some(*one), tcp: *other, id, start_in_ms: id as u16 },
            6 => FromRelay::Absent { peer, last_seen_s: on.then_some(id as u32) },
            7 => FromRelay::PeerDirect { peer, on },
            8 => FromRelay::Drain { come_back_in_ms: id as u32, try_for_ms: !id as u32, to: relays.clone() },
            9 => FromRelay::Replaced { wait_s: id as u16 },
            10 => FromRelay::Refused { what: Quota(id as u8), wait_ms: id as u32 },
            11 => FromRelay::Pong { id },
            12 => FromRelay::Stun { servers: vec![*one, *other] },
            _ => FromRelay::Turn {
                name: rooms[0].as_str(),
                realm: rooms.last().map_or("", RoomName::as_str),
                password: Password(rooms[0].as_str()),
                life_s: id as u32,
                servers: vec![(Transport(id as u8), *one), (Transport::TLS, *other)],
            },
        })
    }

    fn bytes(&self) -> Vec<u8> {
        match self {
            Owned::To(which, key, train, on, id) => to_relay(*which, *key, train, *on, *id).encode().unwrap(),
            Owned::From(..) => self.record().unwrap().encode().unwrap(),
        }
    }

    /// Whether these bytes are this record.
    fn is_read_from(&self, bytes: &[u8]) -> bool {
        match self {
            Owned::To(which, key, train, on, id) => {
                ToRelay::decode(bytes) == Ok(Some(to_relay(*which, *key, train, *on, *id)))
                    && FromRelay::decode(bytes) == Ok(None)
            }
            Owned::From(..) => FromRelay::decode(bytes) == Ok(self.record()) && ToRelay::decode(bytes) == Ok(None),
        }
    }

    fn error(&self, bytes: &[u8]) -> Option<DecodeError> {
        match self {
            Owned::To(..) => ToRelay::decode(bytes).err(),
            Owned::From(..) => FromRelay::decode(bytes).err(),
        }
    }
}

proptest! {
    #[test]
    fn records_come_back_as_they_were(record in records()) {
        let bytes = record.bytes();
        prop_assert!(bytes.len() <= RELAY_RECORD_LEN_MAX);
        prop_assert!(record.is_read_from(&bytes), "{:?}", record);
    }

    #[test]
    fn no_part_of_a_record_is_one_and_nothing_follows_it(record in records(), more: u8) {
        let mut bytes = record.bytes();
        // Of long ones not every length.
        for at in (0..bytes.len()).step_by(bytes.len() / 500 + 1).chain([bytes.len() - 1]) {
            prop_assert_eq!(record.error(&bytes[..at]), Some(DecodeError::Truncated), "{} of {}", at, bytes.len());
        }
        bytes.push(more);
        prop_assert_eq!(record.error(&bytes), Some(DecodeError::Trailing));
    }

    #[test]
    fn any_bytes_are_a_record_of_one_spelling_or_none(bytes: Vec<u8>, kind in prop::sample::select(
        (0u8..8).chain(0x80..0x90).collect::<Vec<_>>()
    )) {
        let bytes = [&[kind][..], &bytes].concat();
        if let Ok(Some(record)) = ToRelay::decode(&bytes) {
            prop_assert_eq!(record.encode().unwrap(), bytes.clone());
        }
        if let Ok(Some(record)) = FromRelay::decode(&bytes) {
            prop_assert_eq!(record.encode().unwrap(), bytes);
        }
    }

    #[test]
    fn one_changed_byte_is_read_as_what_it_says_or_not_at_all(record in records(), at: prop::sample::Index, bits in 1u8..) {
        let mut bytes = record.bytes();
        let at = at.index(bytes.len());
        bytes[at] ^= bits;
        if let Ok(Some(record)) = ToRelay::decode(&bytes) {
            prop_assert_eq!(record.encode().unwrap(), bytes.clone());
        }
        if let Ok(Some(record)) = FromRelay::decode(&bytes) {
            prop_assert_eq!(record.encode().unwrap(), bytes);
        }
    }

    #[test]
    fn keys_have_one_spelling(key in keys(), at in 0usize..43, letter: char) {
        let text = key.to_string();
        prop_assert_eq!((text.len(), text.parse()), (43, Ok(key)));
        let mut other: Vec<char> = text.chars().collect();
        other[at] = letter;
        let other: String = other.into_iter().collect();
        if let Ok(read) = other.parse::<PeerKey>() {
            prop_assert_eq!(read.to_string(), other);
        }
    }
}

/// The layout itself, so that both sides cannot change it together by mistake.
#[test]
fn a_train_lies_in_its_record_as_described() {
    let train = Train { kind: Kind::Esp, class: 0xb9, segment: 3, payload: b"sixsix" };
    let bytes = ToRelay::Send { to: PeerKey([7; 32]), train }.encode().unwrap();
    let expected = [&[1][..], &[7; 32], &[2, 0xb9, 0, 3, 0, 6], b"sixsix"].concat();
    assert_eq!(bytes, expected);
    let back = FromRelay::Deliver { from: PeerKey([7; 32]), train }.encode().unwrap();
    assert_eq!((back[0], &back[1..]), (0x85, &expected[1..]), "passing on changes the type and the name");
}

#[test]
fn an_introduction_lies_in_its_record_as_described() {
    let (udp, tcp) = ("192.0.2.1:4500".parse().unwrap(), "[2001:db8::1]:443".parse().unwrap());
    let record = FromRelay::Introduction { peer: PeerKey([9; 32]), udp: Some(udp), tcp, id: 5, start_in_ms: 258 };
    let v6 = [0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let expected =
        [&[0x86][..], &[9; 32], &[1, 4, 192, 0, 2, 1, 0x11, 0x94], &[6], &v6, &[1, 0xbb], &[0, 0, 0, 0, 0, 0, 0, 5], &[1, 2]]
            .concat();
    assert_eq!(record.encode().unwrap(), expected);
}

#[test]
fn types_that_are_not_known_are_left_alone_whatever_follows() {
    for kind in (0..=255u8).filter(|kind| !(1..=5).contains(kind)) {
        assert_eq!(ToRelay::decode(&[kind, 1, 2, 3]), Ok(None));
    }
    for kind in (0..=255u8).filter(|kind| !(0x81..=0x8e).contains(kind)) {
        assert_eq!(FromRelay::decode(&[kind, 1, 2, 3]), Ok(None));
    }
    assert_eq!((ToRelay::decode(&[]), FromRelay::decode(&[])), (Err(DecodeError::Truncated), Err(DecodeError::Truncated)));
}

/// A record of a client with this train, written by hand.
fn sent(kind: u8, segment: u16, len: u16) -> Vec<u8> {
    let head = [&[1][..], &[7; 32], &[kind, 0], &segment.to_be_bytes(), &len.to_be_bytes()].concat();
    [head, vec![0; len.into()]].concat()
}

#[test]
fn trains_that_mean_nothing_are_none() {
    let error = |kind, segment, len| ToRelay::decode(&sent(kind, segment, len)).err();
    for (kind, segment, len) in [(1, 0, 1), (2, 1, 2), (2, 1, 128), (2, 65_534, 65_535), (2, 512, 65_535)] {
        assert_eq!(error(kind, segment, len), None, "{segment} of {len}");
    }
    for kind in [0, 3, 255] {
        assert_eq!(error(kind, 0, 1), Some(DecodeError::BadValue("kind")));
    }
    assert_eq!(error(2, 0, 0), Some(DecodeError::BadValue("payload")));
    for (segment, len) in [(1, 1), (9, 8), (1, 129), (511, 65_535)] {
        assert_eq!(error(2, segment, len), Some(DecodeError::BadValue("segment")), "{segment} of {len}");
    }
}

#[test]
fn what_is_too_long_is_not_written() {
    let (key, long) = (PeerKey([0; 32]), vec![0; RELAY_PAYLOAD_LEN_MAX + 1]);
    let send =
        |segment, payload| ToRelay::Send { to: key, train: Train { kind: Kind::Ike, class: 0, segment, payload } }.encode();
    assert_eq!(send(0, &long), Err(EncodeError("payload")));
    assert_eq!(send(0, &[]), Err(EncodeError("payload")));
    assert_eq!(send(1, &long[..129]), Err(EncodeError("segment")));
    assert_eq!(send(0, &long[1..]).map(|bytes| bytes.len()), Ok(RELAY_RECORD_LEN_MAX));
    let describe = |len| ToRelay::Describe { metadata: &long[..len] }.encode();
    assert_eq!(describe(RELAY_METADATA_LEN_MAX + 1), Err(EncodeError("metadata")));
    assert!(describe(RELAY_METADATA_LEN_MAX).is_ok());
    let to = vec![HostPort::new("a:1").unwrap(); RELAYS_OF_DRAIN_MAX + 1];
    assert_eq!(FromRelay::Drain { come_back_in_ms: 0, try_for_ms: 0, to }.encode(), Err(EncodeError("to")));
    let rooms = vec![RoomName::new("a").unwrap(); ROOMS_OF_CLIENT_MAX + 1];
    let observed = "192.0.2.1:1".parse().unwrap();
    let welcome = FromRelay::Welcome { observed, stun_key: [0; STUN_KEY_LEN], idle_ms: 0, rooms };
    assert_eq!(welcome.encode(), Err(EncodeError("rooms")));
    assert!(EncodeError("rooms").to_string().contains("`rooms`"));
}

#[test]
fn what_is_lent_is_bounded_and_its_password_is_shown_nowhere() {
    let (at, long) = ("192.0.2.1:3478".parse().unwrap(), "a".repeat(256));
    let turn = |name, password, count| FromRelay::Turn {
        name,
        realm: "adit",
        password: Password(password),
        life_s: 3600,
        servers: vec![(Transport::UDP, at); count],
    };
    assert!(turn(&long[1..], &long[1..], SERVERS_OF_RELAY_MAX).encode().is_ok());
    assert_eq!(turn(&long, "secret", 1).encode(), Err(EncodeError("name")));
    assert_eq!(turn("name", &long, 1).encode(), Err(EncodeError("password")));
    assert_eq!(turn("name", "secret", SERVERS_OF_RELAY_MAX + 1).encode(), Err(EncodeError("servers")));
    let stun = FromRelay::Stun { servers: vec![at; SERVERS_OF_RELAY_MAX + 1] };
    assert_eq!(stun.encode(), Err(EncodeError("servers")));
    assert_eq!(FromRelay::decode(&[0x8d, 33]), Err(DecodeError::BadValue("servers")));
    let shown = format!("{:?}", turn("name", "secret", 1));
    assert!(shown.contains("name") && !shown.contains("secret"), "{shown}");
}

#[test]
fn counts_and_lengths_that_lie_are_errors() {
    let describe = |len: u16| [&[4][..], &len.to_be_bytes(), &[0; 1025]].concat();
    assert_eq!(ToRelay::decode(&describe(1025)), Err(DecodeError::BadValue("metadata")));
    assert_eq!(ToRelay::decode(&describe(1024)), Err(DecodeError::Trailing));
    let drain = |count| FromRelay::decode(&[0x89, 0, 0, 0, 0, 0, 0, 0, 0, count]).err();
    assert_eq!((drain(0), drain(4)), (None, Some(DecodeError::Truncated)));
    assert_eq!(drain(5), Some(DecodeError::BadValue("to")));
    assert_eq!(ToRelay::decode(&[&[3][..], &[0; 32], &[2]].concat()), Err(DecodeError::BadValue("on")));
    let left = |room: &[u8]| FromRelay::decode(&[&[0x83, room.len() as u8][..], room, &[0; 33]].concat()).err();
    assert_eq!((left(b"a"), left(b"A")), (None, Some(DecodeError::BadValue("room"))));
    assert_eq!((left(b""), left(b"\xff")), (Some(DecodeError::BadValue("room")), Some(DecodeError::BadValue("room"))));
}

#[test]
fn rooms_and_relays_are_named_as_the_rules_say() {
    let long = "a".repeat(ROOM_NAME_LEN_MAX);
    for good in ["a", "0", "site-1.example_x", long.as_str()] {
        assert_eq!(RoomName::new(good).map(|name| name.to_string()), Ok(good.to_owned()));
    }
    for bad in ["", ".", "..", "-a", "_a", "A", "a b", "a/b", "ä", &format!("{long}a")] {
        assert_eq!(RoomName::new(bad), Err(NameError::Room), "{bad:?}");
    }
    for good in ["relay.example:443", "192.0.2.1:1", "[2001:db8::1]:65535"] {
        assert_eq!(good.parse::<HostPort>().map(|name| name.as_str().to_owned()), Ok(good.to_owned()));
    }
    let long = format!("{}:1", "a".repeat(HOST_PORT_LEN_MAX));
    for bad in ["", "a", ":1", "a:", "a:0", "a:65536", "a:+1", "2001:db8::1:1", "[a]:1", "[::1:1", "a b:1", "a/b:1", &long] {
        assert_eq!(HostPort::new(bad), Err(NameError::HostPort), "{bad:?}");
    }
}

#[test]
fn keys_are_read_in_base64url_and_nothing_else() {
    // RFC 8032 §7.1, the public key of test 1.
    let key = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo".parse::<PeerKey>().unwrap();
    assert_eq!((key.0[0], key.0[1], key.0[31]), (0xd7, 0x5a, 0x1a));
    assert_eq!(key.to_string(), "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo");
    let zeros = "A".repeat(42);
    assert_eq!(format!("{zeros}A").parse(), Ok(PeerKey([0; 32])));
    for bad in [zeros.clone(), format!("{zeros}B"), format!("{zeros}A="), format!("{zeros}+"), format!("{zeros}AA")] {
        assert_eq!(bad.parse::<PeerKey>(), Err(NameError::Key), "{bad}");
    }
    assert!(NameError::Key.to_string().contains("43") && NameError::Room.to_string().contains("64"));
}

#[test]
fn reasons_and_quotas_have_words_of_their_own() {
    let reasons: std::collections::BTreeSet<_> = (1..=9).map(|code| LeftReason(code).to_string()).collect();
    let quotas: std::collections::BTreeSet<_> = (1..=8).map(|code| Quota(code).to_string()).collect();
    assert_eq!((reasons.len(), quotas.len()), (9, 8));
    assert!(reasons.contains("other") && quotas.contains("other"));
}
