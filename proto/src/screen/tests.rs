//! What the screen lets through, of whom and how much.

use std::collections::BTreeMap;
use std::hash::{BuildHasherDefault, DefaultHasher};

use proptest::prelude::*;

use super::*;

/// Two networks share a place where a secret has it so, once in some thousand runs: not here.
type Fixed = Screen<BuildHasherDefault<DefaultHasher>>;

fn screen(ike_sas: usize, addresses: usize) -> Fixed {
    Screen::with_hash(BuildHasherDefault::default(), ike_sas, addresses)
}

fn at(address: &str) -> SocketAddr {
    address.parse().unwrap()
}

/// A request to begin, or what else is in the clear, of these SPIs.
fn ike(initiator: u64, responder: u64) -> Vec<u8> {
    message([initiator, responder], [0, 0x20, 34, 8], &[])
}

/// A protected request as short as one can be.
fn sealed(initiator: u64, responder: u64) -> Vec<u8> {
    message([initiator, responder], [46, 0x20, 37, 8], &[&[0, 0, 0, 29][..], &[0xA5; 25]].concat())
}

fn message(spis: [u64; 2], [next, version, exchange, flags]: [u8; 4], body: &[u8]) -> Vec<u8> {
    let spis = spis.map(u64::to_be_bytes).concat();
    let length = 28 + body.len() as u32;
    [&spis[..], &[next, version, exchange, flags, 0, 0, 0, 0], &length.to_be_bytes(), body].concat()
}

fn of_version(major: u8) -> Vec<u8> {
    let mut message = ike(5, 6);
    message[17] = major << 4;
    message
}

fn know(screen: &mut Fixed, initiator: u64, responder: u64) -> Result<(), Refusal> {
    let command = Command::IkeSaAdd { initiator: IkeSpi(initiator), responder: IkeSpi(responder) };
    screen.apply(&command).unwrap()
}

fn know_address(screen: &mut Fixed, address: &str) -> Result<(), Refusal> {
    screen.apply(&Command::IkeAddressAdd { address: at(address) }).unwrap()
}

/// How many of very many are let through at one moment.
fn admitted(screen: &mut Fixed, message: &[u8], from: &str) -> u32 {
    (0..20_000).filter(|_| screen.admit(message, at(from), 1).is_ok()).count() as u32
}

/// Between what is let through for sure and what by lot.
fn is_by_lot(admitted: u32, rates: Rates) -> bool {
    (rates.eager / 2..=rates.eager + rates.one).contains(&admitted)
}

#[test]
fn no_class_takes_the_share_of_another() {
    let mut screen = screen(4, 4);
    know(&mut screen, 5, 77).unwrap();
    know_address(&mut screen, "192.0.2.9:0").unwrap();
    assert_eq!(admitted(&mut screen, &ike(5, 6), "192.0.2.1:7"), NETWORK_PER_S);
    assert_eq!(admitted(&mut screen, &ike(9, 0), "192.0.2.200:9"), 0, "the same network");
    assert!(is_by_lot(admitted(&mut screen, &ike(9, 0), "192.0.2.9:9"), ADDRESSES), "a known address of it");
    assert!(admitted(&mut screen, &sealed(5, 77), "192.0.2.9:7") > SAS.eager / 2, "of an IKE SA that there is");
    for (message, from) in [(sealed(77, 5), "198.51.100.1:7"), (ike(5, 6), "[2001:db8::1]:7")] {
        // Not of the IKE SA, whose SPIs stand the other way round.
        assert!((NETWORK_PER_S / 2..=NETWORK_PER_S).contains(&admitted(&mut screen, &message, from)), "{from}");
    }
    let mut last = |message: &[u8], from: &str| (0..1000).find_map(|_| screen.admit(message, at(from), 1).err());
    assert_eq!(last(&ike(5, 6), "192.0.2.9:7"), Some(Drop::PuntAddressLimit));
    assert_eq!(last(&ike(5, 6), "192.0.2.1:7"), Some(Drop::PuntNetworkLimit));
    assert_eq!(last(&sealed(5, 77), "192.0.2.1:7"), Some(Drop::PuntKnownLimit), "overheard, and sent from elsewhere");
}

#[test]
fn what_is_in_the_clear_is_judged_by_where_it_comes_from() {
    let mut screen = screen(4, 4);
    know(&mut screen, 5, 77).unwrap();
    know_address(&mut screen, "192.0.2.9:4500").unwrap();
    assert_eq!(admitted(&mut screen, &ike(5, 77), "198.51.100.1:7"), NETWORK_PER_S, "of a stranger who has overheard the SPIs");
    assert!(is_by_lot(admitted(&mut screen, &ike(5, 77), "192.0.2.9:4500"), ADDRESSES), "as that the IKE SA is forgotten there");
    assert!(screen.admit(&sealed(5, 77), at("192.0.2.9:4500"), 1).is_ok());
}

#[test]
fn what_is_too_short_to_be_protected_or_of_another_length_is_nothing() {
    let mut screen = screen(4, 4);
    know(&mut screen, 5, 77).unwrap();
    for (kind, least) in [(46, 29usize), (53, 33)] {
        for length in 0..64 {
            for said in [0, length, length + 1] {
                let body: Vec<u8> = (0..length).map(|n| if n == 3 { said as u8 } else { 0 }).collect();
                let message = message([5, 77], [kind, 0x20, 37, 8], &body);
                let verdict = screen.admit(&message, at("192.0.2.1:7"), length as u64 * 1_000_000);
                let expected = if length >= least && said == length { Ok(()) } else { Err(Drop::BadIke) };
                assert_eq!(verdict, expected, "payload {kind}, {length} bytes of which it says {said}");
            }
        }
    }
}

/// An even flood for a time, in which somebody sends now and then: how many of those come through.
fn beside_a_flood(
    screen: &mut Fixed,
    per_s: u64,
    flood: impl Fn(u64) -> (Vec<u8>, SocketAddr),
    own: (&[u8], &str),
    every_us: u64,
) -> f64 {
    let (mut next, mut came, mut sent) = (3_500_000, 0, 0);
    for n in 0..4 * per_s {
        let now_us = 1_000_000 + n * 1_000_000 / per_s;
        let (message, from) = flood(n);
        let _ = screen.admit(&message, from, now_us);
        if now_us >= next {
            next += every_us;
            sent += 1;
            came += u32::from(screen.admit(own.0, at(own.1), now_us).is_ok());
        }
    }
    f64::from(came) / f64::from(sent)
}

#[test]
fn an_overheard_ike_sa_lives_whoever_sends_under_it() {
    let prepared = || {
        let mut screen = screen(64, 64);
        know(&mut screen, 5, 77).unwrap();
        know(&mut screen, 6, 77).unwrap();
        know_address(&mut screen, "192.0.2.9:4500").unwrap();
        know_address(&mut screen, "192.0.2.9:0").unwrap();
        screen
    };
    let (flood, own) = (sealed(5, 77), sealed(5, 77));
    // From anywhere: it takes nothing from the peer where it is, nor from one that is somewhere else now.
    let spread = |n: u64| (flood.clone(), SocketAddr::from(([10, (n >> 8) as u8, n as u8, 1], 4500)));
    let one = |_| (flood.clone(), at("203.0.113.1:4500"));
    assert_eq!(beside_a_flood(&mut prepared(), 60_000, spread, (&own, "192.0.2.9:4500"), 700_000), 1.0);
    assert_eq!(beside_a_flood(&mut prepared(), 60_000, one, (&own, "192.0.2.9:4500"), 700_000), 1.0);
    assert_eq!(beside_a_flood(&mut prepared(), 60_000, one, (&own, "198.51.100.7:4500"), 700_000), 1.0, "it has moved");
    // Under its address: one of two, so that one of the six times that a request is sent comes through.
    let forged = |_| (flood.clone(), at("192.0.2.9:4500"));
    let came = beside_a_flood(&mut prepared(), 60_000, forged, (&own, "192.0.2.9:4500"), 1000);
    assert!((0.4..0.6).contains(&came), "{came}");
    assert_eq!(
        beside_a_flood(&mut prepared(), 60_000, forged, (&sealed(6, 77), "192.0.2.9:4500"), 200_000),
        1.0,
        "another IKE SA"
    );
}

#[test]
fn many_overheard_ike_sas_take_nothing_from_one_more() {
    let mut screen = screen(1024, 4);
    know_address(&mut screen, "192.0.2.9:0").unwrap();
    for number in 1..=900 {
        know(&mut screen, number, 77).unwrap();
    }
    let flood = |n: u64| (sealed(1 + n % 800, 77), at("192.0.2.9:7"));
    assert_eq!(beside_a_flood(&mut screen, 90_000, flood, (&sealed(850, 77), "192.0.2.9:4500"), 300_000), 1.0);
}

#[test]
fn ike_sas_that_come_and_go_all_the_time_take_nothing_from_others() {
    let mut screen = screen(64, 4);
    know_address(&mut screen, "192.0.2.9:0").unwrap();
    know(&mut screen, 1, 77).unwrap();
    let mut came = 0;
    for ms in 0..3000u64 {
        let now_us = 1_000_000 + ms * 1000;
        let number = 100 + ms / 40;
        if ms % 40 == 0 {
            let old = Command::IkeSaRemove { initiator: IkeSpi(number - 1), responder: IkeSpi(77) };
            screen.apply(&old).unwrap().unwrap();
            know(&mut screen, number, 77).unwrap();
        }
        for _ in 0..90 {
            let _ = screen.admit(&sealed(number, 77), at("192.0.2.9:7"), now_us);
        }
        if ms % 300 == 299 {
            came += u32::from(screen.admit(&sealed(1, 77), at("192.0.2.9:7"), now_us).is_ok());
        }
    }
    assert_eq!(came, 10);
}

#[test]
fn a_flood_under_known_addresses_leaves_each_other_one_its_share() {
    let mut screen = screen(4, 300);
    for number in 1..=100 {
        know_address(&mut screen, &format!("192.0.2.{number}:0")).unwrap();
        know_address(&mut screen, &format!("192.0.2.{number}:4500")).unwrap();
    }
    // Under all of them, from ports that they do not use, and under one of them from its port.
    let flood = |n: u64| {
        let number = 1 + (n / 2 % 100) as u8;
        let known = SocketAddr::from(([192, 0, 2, 1], 4500));
        (ike(9, 0), if n.is_multiple_of(2) { SocketAddr::from(([192, 0, 2, number], 1024)) } else { known })
    };
    assert_eq!(beside_a_flood(&mut screen, 60_000, flood, (&ike(8, 0), "192.0.2.50:4500"), 300_000), 1.0);
}

#[test]
fn who_sends_under_a_known_address_takes_nothing_from_its_known_port() {
    let mut screen = screen(4, 4);
    know_address(&mut screen, "192.0.2.9:0").unwrap();
    know_address(&mut screen, "192.0.2.9:4500").unwrap();
    let flood = |n: u64| (ike(9, 0), SocketAddr::from(([192, 0, 2, 9], 5000 + (n % 50_000) as u16)));
    assert_eq!(beside_a_flood(&mut screen, 60_000, flood, (&ike(8, 0), "192.0.2.9:4500"), 300_000), 1.0);
}

#[test]
fn answers_to_us_come_though_somebody_sends_under_the_address_and_port() {
    let mut screen = screen(4, 4);
    know_address(&mut screen, "192.0.2.9:4500").unwrap();
    // What the peer answers while we begin, and what it asks after our answer.
    let began = message([8, 0], [33, 0x20, 34, 8], &[0; 200]);
    let answered = message([31, 32], [33, 0x20, 34, 0x20], &[0; 200]);
    let asks_cookie = message([31, 0], [41, 0x20, 34, 0x20], &[0; 9]);
    let auth = [&[46u8, 0x20, 35, 8][..], &[46, 0x20, 35, 0x20]].map(|head| [head[0], head[1], head[2], head[3]]);
    let body = [&[0, 0, 0, 29][..], &[0xA5; 25]].concat();
    for ours in [&began, &answered, &message([8, 9], auth[0], &body)] {
        screen.sent(ours, 1_000_000);
    }
    let flood = |n: u64| (ike(n | 1 << 40, 0), at("192.0.2.9:4500"));
    for theirs in
        [message([8, 9], [33, 0x20, 34, 0x20], &[0; 200]), message([8, 9], auth[1], &body), message([31, 32], auth[0], &body)]
    {
        assert_eq!(beside_a_flood(&mut screen, 60_000, flood, (&theirs, "192.0.2.9:4500"), 300_000), 1.0, "{theirs:?}");
    }
    // Whoever was asked for a cookie has begun nothing, and an answer is not waited for for ever.
    screen.sent(&asks_cookie, 1_000_000);
    let of = |screen: &mut Fixed, message: &[u8], now_us| {
        let fingerprint = screen.of_sa(Header::of(message).unwrap().of_sa().unwrap());
        screen.admit_of_sa(fingerprint, true, at("192.0.2.9:0").ip(), now_us)
    };
    assert_eq!(of(&mut screen, &sealed(31, 0), 2_000_000), None);
    assert_eq!(of(&mut screen, &sealed(31, 32), 2_000_000), Some(true));
    assert_eq!(of(&mut screen, &sealed(31, 32), 31_000_001), None);
}

#[test]
fn who_asks_little_is_served_beside_those_who_ask_much() {
    let mut screen = screen(4, 4);
    // A hundred networks, a thousand messages a second of each, for three seconds; and one that asks twice a second.
    let (mut served, mut flood) = (0, 0u32);
    for ms in 0..3000u64 {
        let now = 1_000_000 + ms * 1000;
        for network in 0..100 {
            flood += u32::from(screen.admit(&ike(5, 6), at(&format!("10.0.{network}.1:7")), now).is_ok());
        }
        if ms % 500 == 499 {
            served += u32::from(screen.admit(&ike(5, 6), at("198.51.100.1:7"), now).is_ok());
        }
    }
    assert_eq!(served, 6);
    assert!(flood <= 4 * STRANGERS.all(), "{flood}");
}

/// RFC 6177: a site has a /48, and as many addresses as it likes in it.
#[test]
fn a_network_has_one_share_whoever_of_it_comes() {
    for (one, of_it, beside_it) in
        [("10.1.2.3:7", "10.1.2.200:9", "10.1.3.3:7"), ("[2001:db8:1:1::5]:7", "[2001:db8:1:ff00::6]:9", "[2001:db8:2:1::5]:7")]
    {
        let mut screen = screen(4, 4);
        assert!(admitted(&mut screen, &ike(5, 6), one) <= NETWORK_PER_S);
        assert_eq!(screen.admit(&ike(7, 8), at(of_it), 1), Err(Drop::PuntNetworkLimit), "{of_it} is of the network of {one}");
        assert_eq!(screen.admit(&ike(7, 8), at(beside_it), 1), Ok(()), "{beside_it} is not");
    }
}

#[test]
fn all_strangers_together_have_a_limit_and_junk_is_charged_to_nobody() {
    let mut screen = screen(4, 4);
    let junk = [ike(0, 1), ike(5, 6)[..27].to_vec(), [ike(5, 6), vec![0]].concat(), vec![0; 28], of_version(0), Vec::new()];
    for junk in junk.iter().cycle().take(50_000) {
        assert_eq!(screen.admit(junk, at("192.0.2.1:7"), 1), Err(Drop::BadIke));
    }
    for _ in 0..5000 {
        assert_eq!(screen.admit(&of_version(1), at("192.0.2.1:7"), 1), Err(Drop::IkeV1));
    }
    assert_eq!(screen.admit(&of_version(3), at("192.0.2.1:7"), 1), Ok(()), "the engine says which version there is");
    let mut admitted = 1;
    for network in 0..20_000u32 {
        let address = format!("10.{}.{}.1:7", network >> 8 & 255, network & 255);
        admitted += u32::from(screen.admit(&ike(5, 6), at(&address), 1).is_ok());
    }
    assert!((STRANGERS.modest + STRANGERS.eager / 2..=STRANGERS.all()).contains(&admitted), "{admitted}");
    let refused = (0..1000).find_map(|_| screen.admit(&ike(5, 6), at("172.16.0.1:7"), 1).err());
    assert_eq!(refused, Some(Drop::PuntLimit));
}

proptest! {
    #[test]
    fn a_table_agrees_with_a_model(steps in prop::collection::vec((1u64..40, any::<bool>()), 1..200)) {
        let (mut table, mut model) = (Table::<u64>::new(8), BTreeMap::new());
        for (n, add) in steps {
            // Many fall into few places.
            let key = n << 3 | 1 << 60;
            if add {
                let fits = model.contains_key(&key) || model.len() < 8;
                prop_assert_eq!(table.add(key), fits);
                if fits {
                    *table.find(key).unwrap() += n;
                    *model.entry(key).or_insert(0) += n;
                }
            } else {
                table.remove(key);
                model.remove(&key);
            }
            for key in (1..40u64).map(|n| n << 3 | 1 << 60) {
                prop_assert_eq!(table.find(key).copied(), model.get(&key).copied());
            }
        }
    }

    #[test]
    fn any_bytes_are_judged(bytes: Vec<u8>, port: u16) {
        let mut screen = screen(1, 1);
        let is_whole = bytes.len() >= 28 && bytes[24..28] == (bytes.len() as u32).to_be_bytes();
        let verdict = screen.admit(&bytes, SocketAddr::new([192, 0, 2, 1].into(), port), 1);
        prop_assert!(verdict.is_err() || is_whole);
    }
}

#[test]
fn who_is_forgotten_is_strange_again() {
    let mut screen = screen(4, 2);
    let knows = |screen: &mut Fixed, sa: [u64; 2]| {
        let fingerprint = screen.of_sa(sa.map(IkeSpi));
        screen.known_sas.find(fingerprint).is_some()
    };
    for n in 1..=4 {
        know(&mut screen, n, 9).unwrap();
        know(&mut screen, n, 9).unwrap();
    }
    assert_eq!(know(&mut screen, 5, 9), Err(Refusal::IkeSasFull));
    for _ in 0..2 {
        let remove = Command::IkeSaRemove { initiator: IkeSpi(2), responder: IkeSpi(9) };
        assert_eq!(screen.apply(&remove), Some(Ok(())));
    }
    assert_eq!([1, 2, 3].map(|n| knows(&mut screen, [n, 9])), [true, false, true]);
    know(&mut screen, 5, 9).unwrap();
    for address in ["192.0.2.1:0", "192.0.2.1:0", "192.0.2.2:0"] {
        know_address(&mut screen, address).unwrap();
    }
    assert_eq!(know_address(&mut screen, "192.0.2.3:0"), Err(Refusal::IkeAddressesFull));
    assert_eq!(screen.apply(&Command::IkeAddressRemove { address: at("192.0.2.1:0") }), Some(Ok(())));
    know_address(&mut screen, "192.0.2.3:0").unwrap();
    assert_eq!(screen.apply(&Command::IkeKnownClear), Some(Ok(())));
    assert!((1..6).all(|n| !knows(&mut screen, [n, 9])));
    assert_eq!((screen.known_sas.used, screen.addresses.used), (0, 0));
    let other = Command::PeerRemove { peer: crate::control::PeerId(1) };
    assert_eq!(screen.apply(&other), None, "about something else");
}
