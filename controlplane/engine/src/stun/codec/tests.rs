//! The test vectors of RFC 5769 and RFC 8489, what is written and read again, and bytes of all kinds.
use proptest::prelude::*;

use super::*;
use crate::testing::{hex, unhex};

/// The password of RFC 5769 §2.1 to §2.3.
const PASSWORD: &[u8] = b"VOkJxbRl1RmTxUk/WvJxBt";
const REQUEST: &str = "000100582112a442b7e7a701bc34d686fa87dfae802200105354554e207465737420636c69656e74002400046e0001ff\
    80290008932ff9b151263b36000600096576746a3a68367659202020000800149aeaa70cbfd8cb56781ef2b5b2d3f249c1b571a280280004e57a3bcf";
const ANSWER_V4: &str = "0101003c2112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563746f7220002000080001a147e112a643\
    000800142b91f599fd9e90c38c7489f92af9ba53f06be7d780280004c07d4c96";
const ANSWER_V6: &str = "010100482112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563746f7220002000140002a1470113a9fa\
    a5d3f179bc25f4b5bed2b9d900080014a382954e4be67bf11784c97c8292c275bfe3ed4180280004c8fb0b4c";
/// RFC 5769 §2.4: long-term credentials.
const LONG_TERM: &str = "000100602112a44278ad3433c6ad72c029da412e00060012e3839ee38388e383aae38383e382afe382b900000015001c\
    662f2f3439396b39353464364f4c33346f4c394653547679363473410014000b6578616d706c652e6f72670000080014f67024656dd64a3e02b8e071\
    2e85c9a28ca89666";
/// RFC 8489 appendix B.1, as erratum 6268 has it.
const LONG_TERM_SHA256: &str = "000100902112a44278ad3433c6ad72c029da412e001e00204a3cf38fef6992bda952c6780417da0f24819415569e60\
    b205c46e41407f1704001500296f624d61744a6f733241414143662f2f3439396b39353464364f4c33346f4c394653547679363473410000000014000b\
    6578616d706c652e6f726700001d000400020000001c0020b5c7bf005b6c52a21c51c5e892f81924136296cb927c43149309278cc6518e65";

const ID: Transaction = *b"transaction!";

fn socket(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

#[test]
fn the_vectors_of_rfc_5769_with_short_term_credentials() {
    let (bytes, key) = (unhex(REQUEST), Key::new(PASSWORD));
    let request = Message::parse(&bytes).expect("a message");
    assert_eq!((request.class, request.method, hex(&request.transaction)), (Class::Request, BINDING, hex(&bytes[8..20])));
    assert_eq!((request.text(kind::USERNAME), request.text(kind::SOFTWARE)), (Some("evtj:h6vY"), Some("STUN test client")));
    assert_eq!((request.sealed_by(&key), request.sealed_by(&Key::new(b"another"))), (Some(Integrity::Sha1), None));
    assert_eq!(request.unknown(&[]), [0x0024]);
    for (text, mapped) in [(ANSWER_V4, "192.0.2.1:32853"), (ANSWER_V6, "[2001:db8:1234:5678:11:2233:4455:6677]:32853")] {
        let bytes = unhex(text);
        let answer = Message::parse(&bytes).expect("a message");
        assert_eq!((answer.class, answer.sealed_by(&key)), (Class::Success, Some(Integrity::Sha1)));
        assert_eq!(BindingAnswer::of(&answer).and_then(|answer| answer.mapped), Some(socket(mapped)));
    }
}

#[test]
fn the_vectors_with_long_term_credentials() {
    let text = "\u{30DE}\u{30C8}\u{30EA}\u{30C3}\u{30AF}\u{30B9}:example.org:TheMatrIX";
    let bytes = unhex(LONG_TERM);
    let message = Message::parse(&bytes).expect("a message");
    let key =
        crate::turn::credentials::long_term_key("\u{30DE}\u{30C8}\u{30EA}\u{30C3}\u{30AF}\u{30B9}", "example.org", "TheMatrIX");
    assert_eq!(message.sealed_by(&key), Some(Integrity::Sha1));
    let key = Key::new(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes()).as_ref());
    let bytes = unhex(LONG_TERM_SHA256);
    let message = Message::parse(&bytes).expect("a message");
    assert_eq!(message.sealed_by(&key), Some(Integrity::Sha256));
}

#[test]
fn an_answer_of_the_vectors_is_written_byte_by_byte() {
    let bytes = unhex(ANSWER_V4);
    let mut out = Writer::answer(Class::Success, &Message::parse(&bytes).expect("a message"));
    out.put(kind::SOFTWARE, b"test vector").put_address(kind::XOR_MAPPED_ADDRESS, socket("192.0.2.1:32853"));
    let written = out.wire_len();
    let out = out.finish();
    assert_eq!((&out[4..35], &out[36..48]), (&bytes[4..35], &bytes[36..48]));
    // What stands in the padding of an attribute is free, and the vectors have a blank there.
    assert_eq!((written, bytes[35]), (48, b' '));
}

#[test]
fn requests_are_filled_up_and_sealed() {
    let key = Key::new(&[7; 16]);
    for len in [0, 96, 100, 548, 1200, 1500] {
        for sealed in [None, Some(("name", &key))] {
            let change = Change { address: true, port: false };
            let request = BindingRequest { transaction: ID, change, response_port: Some(4321), register: None, len, sealed };
            let bytes = request.encode();
            let read = Message::parse(&bytes).expect("a message");
            let least = if sealed.is_some() { 88 } else { 44 };
            assert_eq!(bytes.len(), len.max(least), "{len} {}", sealed.is_some());
            assert_eq!((Change::of(&read), read.transaction), (change, ID));
            assert_eq!(read.fixed(kind::RESPONSE_PORT), Some([0x10, 0xe1, 0, 0]));
            assert_eq!(read.sealed_by(&key), sealed.map(|_| Integrity::Sha256));
        }
    }
    let registers = BindingRequest { transaction: ID, register: Some("nonce"), ..BindingRequest::default() }.encode();
    assert_eq!(Message::parse(&registers).expect("a message").text(kind::REGISTER), Some("nonce"));
}

#[test]
fn what_follows_integrity_does_not_count() {
    let key = Key::new(b"key");
    let mut out = Writer::new(Class::Request, BINDING, ID);
    out.put(kind::SOFTWARE, b"inside").seal(Integrity::Sha1, &key).seal(Integrity::Sha256, &key);
    out.put(kind::USERNAME, b"outside").put(kind::MESSAGE_INTEGRITY, &[0; 20]);
    let bytes = out.finish();
    let message = Message::parse(&bytes).expect("a message");
    assert_eq!((message.get(kind::USERNAME), message.get(kind::SOFTWARE)), (None, Some(&b"inside"[..])));
    assert_eq!(message.sealed_by(&key), Some(Integrity::Sha256));
}

#[test]
fn a_change_of_any_byte_is_noticed() {
    let key = Key::new(b"key");
    let bytes = BindingRequest { transaction: ID, len: 120, sealed: Some(("peer", &key)), ..BindingRequest::default() }.encode();
    let fingerprint = bytes.len() - 8;
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        let parsed = Message::parse(&changed);
        if (fingerprint..fingerprint + 2).contains(&at) {
            // It is another attribute then, behind the integrity, where nobody looks (RFC 8489 §14.5).
            assert_eq!(parsed.expect("a message").sealed_by(&key), Some(Integrity::Sha256), "byte {at}");
        } else {
            assert!(parsed.is_err(), "byte {at}");
        }
    }
}

#[test]
fn malformed_messages_are_refused_with_their_fault() {
    let good = BindingRequest { transaction: ID, ..BindingRequest::default() }.encode();
    let with = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        bytes
    };
    let refused = |bytes: &[u8]| Message::parse(bytes).err();
    assert_eq!(refused(&[]), Some(Malformed::Foreign));
    assert_eq!(refused(&with(0, 0x40)), Some(Malformed::Foreign));
    assert_eq!(refused(&with(4, 0)), Some(Malformed::Foreign));
    assert_eq!(refused(&with(3, 12)), Some(Malformed::Length));
    assert_eq!(refused(&[&good[..], &[0; 4]].concat()), Some(Malformed::Length));
    assert_eq!(refused(&with(23, 5)), Some(Malformed::Attribute));
    assert_eq!(refused(&with(27, good[27] ^ 1)), Some(Malformed::Fingerprint));
    let mut many = Writer::new(Class::Request, BINDING, ID);
    for _ in 0..=STUN_ATTRIBUTES_MAX {
        many.put(kind::SOFTWARE, b"");
    }
    assert_eq!(refused(&many.finish()), Some(Malformed::Attribute));
}

#[test]
fn a_message_that_would_be_too_long_is_none() {
    let mut out = Writer::new(Class::Request, BINDING, ID);
    out.put(kind::DATA, &vec![0; 65_500]).put(kind::SOFTWARE, &[0; 100]).put_fingerprint();
    assert!(out.finish().is_empty());
    let mut out = Writer::new(Class::Request, BINDING, ID);
    out.fill_up_to(1 << 20);
    assert!(out.finish().is_empty());
}

#[test]
fn numbers_of_errors_are_read_within_their_range() {
    let number = |value: &[u8]| {
        let mut out = Writer::new(Class::Error, BINDING, ID);
        out.put(kind::ERROR_CODE, value);
        let bytes = out.finish();
        Message::parse(&bytes).expect("a message").error()
    };
    assert_eq!(number(&error_value(438)), 438);
    assert_eq!([number(&[0, 0, 2, 0]), number(&[0, 0, 7, 0]), number(&[0, 0, 4, 100]), number(b"")], [0; 4]);
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200), len in 0_u16..180) {
        let mut bytes = bytes;
        if bytes.len() >= HEADER_LEN {
            bytes[0] &= 0x3f;
            bytes[2..4].copy_from_slice(&len.to_be_bytes());
            bytes[4..8].copy_from_slice(&COOKIE);
        }
        if let Ok(message) = Message::parse(&bytes) {
            prop_assert!(message.attributes().map(|(_, value)| value.len() + 4).sum::<usize>() + HEADER_LEN <= bytes.len());
            prop_assert_eq!(message.sealed_by(&Key::new(b"key")), None);
        }
    }

    #[test]
    fn addresses_come_back(octets: [u8; 16], port: u16, v6: bool, id: Transaction) {
        let v4 = std::net::Ipv4Addr::new(octets[0], octets[1], octets[2], octets[3]);
        let ip = if v6 { std::net::Ipv6Addr::from(octets).into() } else { std::net::IpAddr::from(v4) };
        let address = SocketAddr::new(ip, port);
        let mut out = Writer::new(Class::Success, BINDING, id);
        out.put_address(kind::XOR_MAPPED_ADDRESS, address).put_address(kind::OTHER_ADDRESS, address).put_fingerprint();
        let bytes = out.finish();
        let answer = BindingAnswer::of(&Message::parse(&bytes).expect("a message")).expect("an answer");
        prop_assert_eq!((answer.mapped, answer.other, answer.origin), (Some(address), Some(address), None));
    }
}
