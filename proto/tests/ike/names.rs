//! What logs and `adit explain` show: names of numbers, one line for a message, and nothing that a peer could abuse.

use std::collections::BTreeSet;
use std::fmt::{Debug, Display};

use adit_proto::control::Spi;
use adit_proto::ike::{
    AddressRange, Attribute, AttributeType, AttributeValue, AuthMethod, CertEncoding, CfgAttributeType, CfgType, Config, Delete,
    EncrId, EsnId, ExchangeType, Flags, HashAlg, Header, IdType, Identification, IkeDecodeError, IkeFault, IkeSpi, IntegId,
    IpSelector, KeId, Message, Notify, NotifyType, Payload, PayloadType, PortRange, PpkIdType, PrfId, Proposal, ProtocolId,
    TrafficSelector, Transform, TransformType, TsType,
};
use proptest::prelude::*;

/// Names are unique, are those that print, and stand in ascending order of their numbers.
fn check<T: Copy + Ord + Display + Debug>(all: &[T], name: impl Fn(T) -> Option<&'static str>, unnamed: T) {
    assert!(all.is_sorted_by(|a, b| a < b), "{all:?}");
    let names: BTreeSet<&str> = all.iter().map(|value| name(*value).expect("a name")).collect();
    assert_eq!(names.len(), all.len(), "two numbers of one name in {all:?}");
    for value in all {
        let text = value.to_string();
        assert_eq!(Some(text.as_str()), name(*value));
        assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'), "{text}");
        assert!(format!("{value:?}").starts_with(&format!("{text}(")));
    }
    assert_eq!(name(unnamed), None);
    assert!(unnamed.to_string().bytes().all(|byte| byte.is_ascii_digit()), "{unnamed}");
}

#[test]
fn every_code_point_has_one_name_and_others_print_as_numbers() {
    check(ExchangeType::ALL, ExchangeType::name, ExchangeType(240));
    check(PayloadType::ALL, PayloadType::name, PayloadType(200));
    check(ProtocolId::ALL, ProtocolId::name, ProtocolId(201));
    check(IdType::ALL, IdType::name, IdType(4));
    check(CertEncoding::ALL, CertEncoding::name, CertEncoding(201));
    check(AuthMethod::ALL, AuthMethod::name, AuthMethod(201));
    check(TsType::ALL, TsType::name, TsType(241));
    check(HashAlg::ALL, HashAlg::name, HashAlg(1024));
    check(PpkIdType::ALL, PpkIdType::name, PpkIdType(128));
    check(CfgType::ALL, CfgType::name, CfgType(9));
    check(CfgAttributeType::ALL, CfgAttributeType::name, CfgAttributeType(16384));
    check(TransformType::ALL, TransformType::name, TransformType(241));
    check(EncrId::ALL, EncrId::name, EncrId(1024));
    check(PrfId::ALL, PrfId::name, PrfId(1024));
    check(IntegId::ALL, IntegId::name, IntegId(1024));
    check(KeId::ALL, KeId::name, KeId(1024));
    check(EsnId::ALL, EsnId::name, EsnId(9));
    check(AttributeType::ALL, AttributeType::name, AttributeType(13));
    check(NotifyType::ALL, NotifyType::name, NotifyType(50000));
}

/// Numbers as published, by another way than the table itself: the ones that two products must agree on.
#[test]
fn well_known_numbers() {
    let names = |numbers: &[u16]| numbers.iter().map(|n| NotifyType(*n).to_string()).collect::<Vec<_>>().join(" ");
    assert_eq!(
        names(&[1, 7, 14, 17, 24]),
        "UNSUPPORTED_CRITICAL_PAYLOAD INVALID_SYNTAX NO_PROPOSAL_CHOSEN INVALID_KE_PAYLOAD AUTHENTICATION_FAILED"
    );
    assert_eq!(names(&[38, 43, 44, 47, 48]), "TS_UNACCEPTABLE TEMPORARY_FAILURE CHILD_SA_NOT_FOUND STATE_NOT_FOUND TS_MAX_QUEUE");
    assert_eq!(
        names(&[16384, 16388, 16389, 16390]),
        "INITIAL_CONTACT NAT_DETECTION_SOURCE_IP NAT_DETECTION_DESTINATION_IP COOKIE"
    );
    assert_eq!(names(&[16393, 16396, 16400, 16401]), "REKEY_SA MOBIKE_SUPPORTED UPDATE_SA_ADDRESSES COOKIE2");
    assert_eq!(
        names(&[16418, 16419, 16430, 16431]),
        "CHILDLESS_IKEV2_SUPPORTED QUICK_CRASH_DETECTION IKEV2_FRAGMENTATION_SUPPORTED SIGNATURE_HASH_ALGORITHMS"
    );
    assert_eq!(names(&[16435, 16436, 16437, 16438]), "USE_PPK PPK_IDENTITY NO_PPK_AUTH INTERMEDIATE_EXCHANGE_SUPPORTED");
    assert_eq!(names(&[16441, 16442, 16444]), "ADDITIONAL_KEY_EXCHANGE USE_AGGFRAG SA_RESOURCE_INFO");
    assert!(NotifyType(16383).is_error() && !NotifyType(16384).is_error() && !NotifyType::ADIT_ETHERNET.is_error());
    const { assert!(NotifyType::ADIT_ETHERNET.0 >= 40960, "outside the range for private use") };
    let kinds: Vec<u8> = TransformType::ADDITIONAL_KE.iter().map(|kind| kind.0).collect();
    assert_eq!(kinds, [6, 7, 8, 9, 10, 11, 12]);
    for kind in 0..=u8::MAX {
        assert_eq!(TransformType(kind).is_key_exchange(), kind == 4 || kinds.contains(&kind));
        assert_eq!(PayloadType(kind).is_understood(), (33..=48).contains(&kind) || kind == 53);
    }
}

#[test]
fn proposals_read_as_people_write_them() {
    let attribute = |kind, value| Attribute { kind: AttributeType(kind), value };
    let mut odd = Transform::encr(EncrId::CHACHA20_POLY1305, None);
    odd.attributes = vec![attribute(13, AttributeValue::Short(7)), attribute(15, AttributeValue::Long(vec![1, 2, 3]))];
    let transforms = vec![
        Transform::encr(EncrId::AES_GCM_16, Some(128)),
        odd,
        Transform::integ(adit_proto::ike::IntegId::HMAC_SHA2_256_128),
        Transform::esn(EsnId::NO_ESN),
        Transform { kind: TransformType::KE, id: 4711, attributes: vec![] },
        Transform { kind: TransformType(241), id: 5, attributes: vec![] },
    ];
    let proposal = Proposal { number: 2, protocol: ProtocolId::ESP, spi: vec![0x40, 0, 0, 1], transforms };
    let text = "ESP:AES_GCM_16_128/CHACHA20_POLY1305[13=7][15: 3 bytes]/HMAC_SHA2_256_128/NO_ESN/KE:4711/241:5";
    assert_eq!(proposal.to_string(), text);
    assert_eq!((proposal.child_spi(), proposal.ike_spi()), (Some(Spi(0x4000_0001)), None));
    assert_eq!(proposal.of(TransformType::ENCR).count(), 2);
    let rekey = Proposal { spi: IkeSpi(0x0102_0304_0506_0708).into(), ..proposal.clone() };
    assert_eq!((rekey.spi.as_slice(), rekey.child_spi()), (&[1, 2, 3, 4, 5, 6, 7, 8][..], None));
    assert_eq!(rekey.ike_spi(), Some(IkeSpi(0x0102_0304_0506_0708)));
    assert_eq!(proposal.transforms[0].key_bits(), Some(128));
    assert_eq!(proposal.transforms[1].key_bits(), None, "an attribute that nobody knows");
}

#[test]
fn selectors_read_as_prefixes_where_they_are() {
    let v4 = |first: &str, last: &str| AddressRange::V4 { first: first.parse().unwrap(), last: last.parse().unwrap() };
    let v6 = |first: &str, last: &str| AddressRange::V6 { first: first.parse().unwrap(), last: last.parse().unwrap() };
    for (range, text) in [
        (AddressRange::ANY_V4, "0.0.0.0/0"),
        (AddressRange::ANY_V6, "::/0"),
        (AddressRange::host("192.0.2.1".parse().unwrap()), "192.0.2.1/32"),
        (AddressRange::host("2001:db8::1".parse().unwrap()), "2001:db8::1/128"),
        (v4("10.1.2.128", "10.1.2.255"), "10.1.2.128/25"),
        (v4("10.1.2.127", "10.1.2.255"), "10.1.2.127-10.1.2.255"),
        (v4("10.1.2.64", "10.1.2.191"), "10.1.2.64-10.1.2.191"),
        (v4("10.0.0.2", "10.0.0.1"), "10.0.0.2-10.0.0.1"),
        (v6("2001:db8::", "2001:db8::ffff"), "2001:db8::/112"),
    ] {
        assert_eq!(range.to_string(), text);
    }
    let addresses = AddressRange::ANY_V4;
    let text = |protocol, first, last| IpSelector { protocol, ports: PortRange { first, last }, addresses }.to_string();
    assert_eq!(text(0, 0, u16::MAX), "0.0.0.0/0");
    assert_eq!(text(17, 0, u16::MAX), "0.0.0.0/0[17]");
    assert_eq!(text(6, 80, 80), "0.0.0.0/0[6/80]");
    assert_eq!(text(6, 80, 90), "0.0.0.0/0[6/80-90]");
    assert_eq!(text(6, u16::MAX, 0), "0.0.0.0/0[6/OPAQUE]");
    let other = TrafficSelector::Other { kind: TsType(9), protocol: 3, body: vec![0; 5] };
    assert_eq!(other.to_string(), "FC_ADDR_RANGE[3, 5 bytes]");
}

#[test]
fn a_message_in_one_line() {
    let flags = Flags { response: true, ..Flags::default() };
    let id = Identification { id_type: IdType::FQDN, data: b"gw.example.com".to_vec() };
    let payloads = vec![
        Payload::Sa(vec![]),
        Payload::Ke { method: KeId::CURVE_25519, data: vec![0; 32] },
        Payload::Nonce(vec![0; 32]),
        Payload::IdI(id),
        Payload::Cert { encoding: CertEncoding::X509_SIGNATURE, data: vec![] },
        Payload::Auth { method: AuthMethod::DIGITAL_SIGNATURE, data: vec![] },
        Notify::new(NotifyType::COOKIE).into(),
        Delete::ike().into(),
        Delete::esp(vec![Spi(0x4000_0001), Spi(2), Spi(3)]).into(),
        Payload::Cp(Config { kind: CfgType::REQUEST, attributes: vec![] }),
        Payload::Unknown { kind: PayloadType(200), critical: false, body: vec![] },
        Payload::Sk { first: PayloadType::NONE, body: vec![] },
    ];
    let message = Message { header: Header::new(IkeSpi(1), IkeSpi(2), ExchangeType::IKE_AUTH, flags, 1), payloads };
    assert_eq!(
        message.to_string(),
        "IKE_AUTH response 1 [ SA KE(CURVE_25519) No IDi(FQDN gw.example.com) CERT(X509_SIGNATURE) AUTH(DIGITAL_SIGNATURE) \
         N(COOKIE) D(IKE) D(ESP 40000001 and 2 more) CP(CFG_REQUEST) 200 SK ]"
    );
    assert_eq!(IkeSpi(0xabc).to_string(), "0000000000000abc");
    assert!(IkeSpi::ZERO.is_zero() && !IkeSpi(1).is_zero());
}

#[test]
fn identities_show_text_addresses_or_hexadecimal() {
    let text = |id_type, data: &[u8]| Identification { id_type, data: data.to_vec() }.to_string();
    assert_eq!(text(IdType::RFC822_ADDR, b"a@example.com"), "RFC822_ADDR a@example.com");
    assert_eq!(text(IdType::IPV4_ADDR, &[192, 0, 2, 1]), "IPV4_ADDR 192.0.2.1");
    assert_eq!(text(IdType::IPV4_ADDR, &[192, 0, 2]), "IPV4_ADDR 0xc00002");
    assert_eq!(text(IdType::IPV6_ADDR, &[0; 16]), "IPV6_ADDR ::");
    assert_eq!(text(IdType::KEY_ID, b"site-7"), "KEY_ID site-7");
    assert_eq!(text(IdType::KEY_ID, &[0xff, 0]), "KEY_ID 0xff00");
    assert_eq!(text(IdType::FQDN, b"gw\x1b[2J"), "FQDN 0x67771b5b324a");
    assert_eq!(text(IdType::DER_ASN1_DN, &[0x30, 0]), "DER_ASN1_DN 0x3000");
    assert_eq!(text(IdType(99), b"x"), "99 0x78");
    let long = text(IdType::FQDN, &[b'a'; 1000]);
    assert_eq!(long, format!("FQDN {}… (1000 bytes)", "a".repeat(128)));
}

#[test]
fn errors_name_payload_place_and_cause_and_have_an_answer() {
    let error = |payload, fault| IkeDecodeError { payload, offset: 212, fault };
    let syntax = error(PayloadType::CERT, IkeFault::Truncated("encoding"));
    assert_eq!(syntax.to_string(), "CERT payload, byte 212: the bytes end inside the encoding");
    assert_eq!(syntax.notify(), Notify::new(NotifyType::INVALID_SYNTAX));
    let critical = error(PayloadType(200), IkeFault::UnsupportedCritical);
    assert_eq!(critical.to_string(), "200 payload, byte 212: its type is unknown and marked critical");
    assert_eq!(critical.notify(), Notify::new(NotifyType::UNSUPPORTED_CRITICAL_PAYLOAD).with_data([200]));
    let version = error(PayloadType::NONE, IkeFault::MajorVersion(3));
    assert_eq!(version.to_string(), "IKE header, byte 212: IKE version 3, not 2");
    assert_eq!(version.notify(), Notify::new(NotifyType::INVALID_MAJOR_VERSION));
}

#[test]
fn data_of_notifications() {
    let invalid_ke = Notify::invalid_ke(KeId::ECP_384);
    assert_eq!((invalid_ke.kind, invalid_ke.data.as_slice()), (NotifyType::INVALID_KE_PAYLOAD, &[0, 20][..]));
    assert_eq!(invalid_ke.ke_method(), Some(KeId::ECP_384));
    assert_eq!(invalid_ke.with_data([0, 20, 0]).ke_method(), None);
    let hashes = Notify::signature_hashes(&[HashAlg::SHA2_256, HashAlg::IDENTITY]);
    assert_eq!(hashes.data, [0, 2, 0, 5]);
    assert_eq!(hashes.hashes(), Some(vec![HashAlg::SHA2_256, HashAlg::IDENTITY]));
    assert_eq!(hashes.with_data([0, 2, 0]).hashes(), None);
    let ppk = Notify::ppk_identity(PpkIdType::FIXED, b"alice");
    assert_eq!(ppk.data, b"\x02alice");
    assert_eq!(ppk.ppk_id(), Some((PpkIdType::FIXED, b"alice".as_slice())));
    assert_eq!(Notify::new(NotifyType::PPK_IDENTITY).ppk_id(), None);
    for address in ["192.0.2.1", "2001:db8::1"] {
        assert_eq!(Notify::additional_address(address.parse().unwrap()).address(), address.parse().ok());
    }
    assert_eq!(Notify::new(NotifyType::ADDITIONAL_IP4_ADDRESS).with_data([1, 2, 3]).address(), None);
    let rekey = Notify::new(NotifyType::REKEY_SA).about(ProtocolId::ESP, Spi(7));
    assert_eq!((rekey.protocol, rekey.child_spi()), (ProtocolId::ESP, Some(Spi(7))));
    assert_eq!(Notify::new(NotifyType::REKEY_SA).child_spi(), None);
}

proptest! {
    #[test]
    fn an_identity_never_writes_more_than_a_line_of_printable_text(id_type: u8, data: Vec<u8>) {
        let text = Identification { id_type: IdType(id_type), data }.to_string();
        prop_assert!(text.len() < 400);
        prop_assert!(text.chars().all(|c| c.is_ascii_graphic() || c == ' ' || c == '…'), "{}", text);
    }
}
