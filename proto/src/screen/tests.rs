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

/// A message of these SPIs and nothing in it.
fn ike(initiator: u64, responder: u64) -> Vec<u8> {
    let spis = [initiator.to_be_bytes(), responder.to_be_bytes()].concat();
    [&spis[..], &[46, 0x20, 34, 8, 0, 0, 0, 0], &28u32.to_be_bytes()].concat()
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

#[test]
fn no_class_takes_the_share_of_another() {
    let mut screen = screen(4, 4);
    know(&mut screen, 5, 77).unwrap();
    know_address(&mut screen, "192.0.2.9:0").unwrap();
    assert_eq!(admitted(&mut screen, &ike(5, 6), "192.0.2.1:7"), NETWORK_PER_S);
    assert_eq!(admitted(&mut screen, &ike(9, 0), "192.0.2.200:9"), 0, "the same network");
    assert_eq!(admitted(&mut screen, &ike(9, 0), "192.0.2.9:9"), ADDRESS_PER_S, "a known address of it");
    assert_eq!(admitted(&mut screen, &ike(5, 77), "192.0.2.1:7"), SA_PER_S, "of an IKE SA that there is");
    assert_eq!(admitted(&mut screen, &ike(77, 5), "198.51.100.1:7"), NETWORK_PER_S, "both SPIs in their places count");
    assert_eq!(admitted(&mut screen, &ike(5, 6), "[2001:db8::1]:7"), NETWORK_PER_S);
    assert_eq!(screen.admit(&ike(5, 77), at("192.0.2.1:7"), 1), Err(Drop::PuntKnownLimit));
    assert_eq!(screen.admit(&ike(5, 6), at("192.0.2.9:7"), 1), Err(Drop::PuntAddressLimit));
    assert_eq!(screen.admit(&ike(5, 6), at("192.0.2.1:7"), 1), Err(Drop::PuntNetworkLimit));
}

#[test]
fn one_ike_sa_takes_nothing_from_another() {
    let mut screen = screen(64, 4);
    for number in 1..=40 {
        know(&mut screen, number, 77).unwrap();
    }
    // All that a peer may have, at once.
    for number in 1..=8 {
        assert_eq!(admitted(&mut screen, &ike(number, 77), "192.0.2.1:7"), SA_PER_S);
    }
    assert_eq!(admitted(&mut screen, &ike(9, 77), "192.0.2.2:7"), SA_PER_S, "of another peer");
    let all: u32 = (10..=40).map(|number| admitted(&mut screen, &ike(number, 77), "192.0.2.3:7")).sum();
    assert_eq!(all, KNOWN_PER_S - 9 * SA_PER_S, "and all together");
}

#[test]
fn who_sends_under_a_known_address_takes_nothing_from_its_known_port() {
    let mut screen = screen(4, 4);
    know_address(&mut screen, "192.0.2.9:0").unwrap();
    know_address(&mut screen, "192.0.2.9:4500").unwrap();
    assert_eq!(admitted(&mut screen, &ike(5, 6), "192.0.2.9:7"), ADDRESS_PER_S);
    assert_eq!(admitted(&mut screen, &ike(5, 6), "192.0.2.9:4500"), ADDRESS_PER_S);
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
    assert!(flood <= 4 * STRANGERS_PER_S, "{flood}");
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
    assert_eq!(admitted, STRANGERS_PER_S);
    assert_eq!(screen.admit(&ike(5, 6), at("172.16.0.1:7"), 1), Err(Drop::PuntLimit));
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
        screen.sas.find(fingerprint).is_some()
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
    assert_eq!((screen.sas.used, screen.addresses.used), (0, 0));
    let other = Command::PeerRemove { peer: crate::control::PeerId(1) };
    assert_eq!(screen.apply(&other), None, "about something else");
}
