//! Every length, count and flag at its limit and one beyond, each with the payload, the place and the cause of the error.

use adit_proto::control::Spi;
use adit_proto::ike::{
    AddressRange, Attribute, AttributeType, AttributeValue, CertEncoding, CfgAttribute, CfgAttributeType, CfgType, Config,
    Delete, EncrId, EsnId, ExchangeType, Flags, Header, IkeDecodeError, IkeFault, IkeSpi, IpSelector, Message, Notify,
    NotifyType, Payload, PayloadType, Proposal, ProtocolId, TrafficSelector, Transform, TsType, decode_payloads, encode_payloads,
};
use adit_proto::limits::{
    ATTRIBUTES_OF_CP_MAX, ATTRIBUTES_OF_TRANSFORM_MAX, IKE_MESSAGE_LEN_MAX, IKE_NONCE_LEN_MAX, IKE_NONCE_LEN_MIN,
    PAYLOADS_OF_MESSAGE_MAX, PROPOSALS_OF_PAYLOAD_MAX, SPIS_OF_DELETE_MAX, TRANSFORMS_OF_PROPOSAL_MAX,
};

use crate::support::hex;

/// What reading the body of a payload says.
fn body(kind: PayloadType, text: &str) -> Result<Payload, (usize, IkeFault)> {
    Payload::decode_body(kind, false, &hex(text)).map_err(|error| {
        assert_eq!(error.payload, kind);
        (error.offset, error.fault)
    })
}

#[track_caller]
fn refused(kind: PayloadType, text: &str, offset: usize, fault: IkeFault) {
    assert_eq!(body(kind, text), Err((offset, fault)), "{text}");
}

#[track_caller]
fn round_trip(payload: Payload) {
    let (first, bytes) = encode_payloads(std::slice::from_ref(&payload)).unwrap();
    assert_eq!(decode_payloads(first, &bytes), Ok(vec![payload]));
}

/// What the encoder says against it.
#[track_caller]
fn not_written(payload: Payload, what: &str) {
    let error = encode_payloads(&[payload]).unwrap_err();
    assert!(error.what.contains(what), "{error}");
}

fn header() -> Header {
    Header::new(IkeSpi(1), IkeSpi(2), ExchangeType::INFORMATIONAL, Flags::default(), 3)
}

const TRUNCATED: fn(&'static str) -> IkeFault = IkeFault::Truncated;

fn bad_length(field: &'static str, len: usize) -> IkeFault {
    IkeFault::BadLength { field, len }
}

fn bad_value(field: &'static str, value: u32) -> IkeFault {
    IkeFault::BadValue { field, value }
}

#[test]
fn the_header() {
    let message = |text: &str| {
        Message::decode(&hex(text)).map_err(|error| (error.payload, error.offset, error.fault)).map(|message| message.header)
    };
    let refused = |text: &str, offset, fault| assert_eq!(message(text), Err((PayloadType::NONE, offset, fault)), "{text}");
    let spis = "0000000000000001 0000000000000002";
    assert!(message(&format!("{spis} 00 20 25 00 00000003 0000001c")).is_ok());
    refused(&format!("{spis} 00 20 25 00 00000003 000000"), 24, TRUNCATED("length"));
    refused("", 0, TRUNCATED("initiator's SPI"));
    refused(&format!("{spis} 00 20 25 00 00000003 0000001b"), 24, bad_length("message", 27));
    refused(&format!("{spis} 00 20 25 00 00000003 0000001d"), 28, TRUNCATED("message"));
    refused(&format!("{spis} 00 20 25 00 00000003 ffffffff"), 24, bad_length("message", 0xffff_ffff));
    refused(&format!("{spis} 00 20 25 00 00000003 0000001c 00"), 28, IkeFault::Trailing);
    refused(&format!("{spis} 00 20 25 00 00000003 00000020 00000000"), 28, IkeFault::Trailing);
    // RFC 7296 §2.5: another major version is refused, any minor one is not. Reserved flags are ignored (§3.1).
    refused(&format!("{spis} 00 10 25 00 00000003 0000001c"), 17, IkeFault::MajorVersion(1));
    refused(&format!("{spis} 00 30 25 00 00000003 0000001c"), 17, IkeFault::MajorVersion(3));
    let header = message(&format!("{spis} 00 2f 25 c7 00000003 0000001c")).unwrap();
    assert_eq!((header.version.major(), header.flags), (2, Flags::default()));
    // Of another version, the header alone can be read: an answer needs its SPIs and id.
    let other = Header::decode(&hex(&format!("{spis} 00 30 25 28 00000003 0000001c"))).unwrap();
    assert_eq!((other.initiator_spi, other.message_id, other.version.major()), (IkeSpi(1), 3, 3));
    assert_eq!(other.flags, Flags { initiator: true, response: true, version: false });
}

#[test]
fn the_length_of_a_payload() {
    let chain =
        |text: &str| decode_payloads(PayloadType::VENDOR, &hex(text)).map_err(|error| (error.payload, error.offset, error.fault));
    let refused = |text: &str, offset, fault| assert_eq!(chain(text), Err((PayloadType::VENDOR, offset, fault)), "{text}");
    assert_eq!(chain("00 00 0004"), Ok(vec![Payload::Vendor(vec![])]));
    assert_eq!(chain("00 ff 0005 aa"), Ok(vec![Payload::Vendor(vec![0xaa])]));
    refused("", 0, TRUNCATED("payload header"));
    refused("00 00 00", 2, TRUNCATED("payload header"));
    for length in 0..4 {
        refused(&format!("00 00 000{length}"), 2, bad_length("payload", length));
    }
    refused("00 00 0006 aa", 4, TRUNCATED("payload"));
    refused("00 00 ffff aa", 4, TRUNCATED("payload"));
    refused("00 00 0004 aa", 4, IkeFault::Trailing);
    // The second of two: the place counts from the beginning of the chain.
    refused("2b 00 0005 aa 00 00 0003", 7, bad_length("payload", 3));
    refused("2b 00 0005 aa", 5, TRUNCATED("payload header"));

    round_trip(Payload::Vendor(vec![7; 65_531]));
    not_written(Payload::Vendor(vec![7; 65_532]), "longer than 65535");
    let message = |len| Message { header: header(), payloads: vec![Payload::Vendor(vec![7; len])] };
    let longest = message(IKE_MESSAGE_LEN_MAX - 32).encode().unwrap();
    assert_eq!(Message::decode(&longest).unwrap().payloads, message(IKE_MESSAGE_LEN_MAX - 32).payloads);
    assert!(message(IKE_MESSAGE_LEN_MAX - 31).encode().unwrap_err().what.contains("longer than 65535"));
    let mut longer = longest;
    longer.push(0);
    longer[24..28].copy_from_slice(&65_536u32.to_be_bytes());
    assert_eq!(Message::decode(&longer).unwrap_err().fault, bad_length("message", 65_536));
}

#[test]
fn the_number_of_payloads() {
    let payloads = vec![Payload::Vendor(vec![]); PAYLOADS_OF_MESSAGE_MAX];
    let (first, bytes) = encode_payloads(&payloads).unwrap();
    assert_eq!(decode_payloads(first, &bytes).unwrap().len(), PAYLOADS_OF_MESSAGE_MAX);
    let mut more = [0x2b, 0, 0, 4].repeat(PAYLOADS_OF_MESSAGE_MAX);
    more.extend([0, 0, 0, 4]);
    let error = decode_payloads(first, &more).unwrap_err();
    let fault = IkeFault::TooMany { what: "payloads", limit: PAYLOADS_OF_MESSAGE_MAX };
    assert_eq!((error.offset, error.fault), (4 * PAYLOADS_OF_MESSAGE_MAX, fault));
    assert!(encode_payloads(&[payloads, vec![Payload::Vendor(vec![])]].concat()).is_err());
    assert_eq!(decode_payloads(PayloadType::NONE, &[]), Ok(vec![]));
    assert_eq!(encode_payloads(&[]), Ok((PayloadType::NONE, vec![])));
}

#[test]
fn unknown_and_critical() {
    let (kind, critical) = (PayloadType(200), true);
    let payload = |critical| Payload::Unknown { kind, critical, body: vec![1] };
    round_trip(payload(false));
    let (first, bytes) = encode_payloads(&[Payload::Vendor(vec![]), payload(critical)]).unwrap();
    let error = IkeDecodeError { payload: kind, offset: 8, fault: IkeFault::UnsupportedCritical };
    assert_eq!(decode_payloads(first, &bytes), Err(error));
    // RFC 7296 §3.2: of a type that is understood, the bit is ignored.
    assert_eq!(decode_payloads(PayloadType::VENDOR, &hex("00 80 0004")), Ok(vec![Payload::Vendor(vec![])]));
    assert!(Payload::decode_body(PayloadType::EAP, true, &[]).is_ok());
    for kind in [PayloadType::NONE, PayloadType::SA, PayloadType::EAP] {
        not_written(Payload::Unknown { kind, critical: false, body: vec![] }, "its type is known");
    }
}

#[test]
fn encryption_is_last_and_not_nested() {
    let sk = Payload::Sk { first: PayloadType::NOTIFY, body: vec![1, 2] };
    let skf = Payload::Skf { first: PayloadType::NOTIFY, body: vec![1, 2] };
    for sealed in [sk, skf] {
        let message = |payloads| Message { header: header(), payloads };
        let last = message(vec![Payload::Vendor(vec![]), sealed.clone()]);
        assert_eq!(Message::decode(&last.encode().unwrap()).unwrap().payloads, last.payloads);
        let first = message(vec![sealed.clone(), Payload::Vendor(vec![])]);
        assert!(first.encode().unwrap_err().what.contains("not the last"));
        not_written(sealed.clone(), "inside another encrypted payload");
        let kind = sealed.kind();
        let error = IkeDecodeError { payload: kind, offset: 0, fault: IkeFault::NestedEncryption };
        assert_eq!(decode_payloads(kind, &hex("00 00 0004")), Err(error));
    }
}

#[test]
fn the_fixed_part_of_each_body() {
    for (kind, len, field) in [
        (PayloadType::KE, 4, "reserved bytes"),
        (PayloadType::ID_I, 4, "reserved bytes"),
        (PayloadType::ID_R, 4, "reserved bytes"),
        (PayloadType::CERT, 1, "encoding"),
        (PayloadType::CERTREQ, 1, "encoding"),
        (PayloadType::AUTH, 4, "reserved bytes"),
        (PayloadType::NOTIFY, 4, "type of notification"),
        (PayloadType::TS_I, 4, "reserved bytes"),
        (PayloadType::TS_R, 4, "reserved bytes"),
        (PayloadType::CP, 4, "reserved bytes"),
    ] {
        let bytes = [0; 4];
        assert!(Payload::decode_body(kind, false, &bytes[..len]).is_ok(), "{kind}");
        let error = Payload::decode_body(kind, false, &bytes[..len - 1]).unwrap_err();
        assert_eq!((error.payload, error.fault), (kind, TRUNCATED(field)));
    }
    for kind in [PayloadType::VENDOR, PayloadType::EAP, PayloadType::SK, PayloadType::SKF] {
        assert!(Payload::decode_body(kind, false, &[]).is_ok(), "{kind}");
    }
}

#[test]
fn the_length_of_a_nonce() {
    for len in [IKE_NONCE_LEN_MIN, IKE_NONCE_LEN_MAX] {
        round_trip(Payload::Nonce(vec![7; len]));
    }
    for len in [0, IKE_NONCE_LEN_MIN - 1, IKE_NONCE_LEN_MAX + 1] {
        let error = Payload::decode_body(PayloadType::NONCE, false, &vec![7; len]).unwrap_err();
        assert_eq!((error.offset, error.fault), (0, bad_length("nonce", len)));
        not_written(Payload::Nonce(vec![7; len]), "16 to 256 bytes");
    }
}

#[test]
fn the_structure_of_proposals() {
    const SA: PayloadType = PayloadType::SA;
    let refused = |text: &str, offset, fault| refused(SA, text, offset, fault);
    assert!(body(SA, "00 00 0008 01 03 00 00").is_ok());
    assert!(body(SA, "02 00 0008 01 03 00 00  00 00 0008 02 03 00 00").is_ok());
    refused("", 0, TRUNCATED("proposal"));
    refused("00 00 00", 2, TRUNCATED("proposal"));
    refused("01 00 0008 01 03 00 00", 0, bad_value("last substructure", 1));
    refused("03 00 0008 01 03 00 00", 0, bad_value("last substructure", 3));
    // "More" without more, and more without "more".
    refused("02 00 0008 01 03 00 00", 8, TRUNCATED("proposal"));
    refused("00 00 0008 01 03 00 00  00 00 0008 02 03 00 00", 8, IkeFault::Trailing);
    refused("00 00 0003 01 03 00 00", 2, bad_length("proposal", 3));
    refused("00 00 0007 01 03 00 00", 7, TRUNCATED("number of transforms"));
    refused("00 00 0009 01 03 00 00", 4, TRUNCATED("proposal"));
    refused("00 00 0009 01 03 00 00 aa", 8, IkeFault::Trailing);
    // SPI of 4 bytes in 3, then of 255.
    refused("00 00 000b 01 03 04 00 aabbcc", 8, TRUNCATED("SPI"));
    let spi = |len| Payload::Sa(vec![Proposal { number: 1, protocol: ProtocolId::ESP, spi: vec![7; len], transforms: vec![] }]);
    round_trip(spi(255));
    not_written(spi(256), "SPI is longer than 255");
    // More transforms than there are, and fewer.
    refused("00 00 0010 01 03 00 02  03 00 0008 05 00 0000", 16, TRUNCATED("transform"));
    refused("00 00 0018 01 03 00 01  00 00 0008 05 00 0000 00 00 0008 05 00 0000", 16, IkeFault::Trailing);
    // Whether a transform is the last is said twice: by the flag and by the number.
    refused("00 00 0010 01 03 00 01  03 00 0008 05 00 0000", 8, bad_value("last substructure", 3));
    refused("00 00 0018 01 03 00 02  00 00 0008 05 00 0000 00 00 0008 05 00 0000", 8, bad_value("last substructure", 0));
}

#[test]
fn the_structure_of_transforms() {
    let transform = |text: &str| {
        let len = hex(text).len();
        body(PayloadType::SA, &format!("00 00 {:04x} 01 03 00 01 {text}", len + 8))
    };
    let refused = |text: &str, offset, fault| assert_eq!(transform(text), Err((offset, fault)), "{text}");
    assert!(transform("00 00 0008 05 00 0000").is_ok());
    refused("00 00 0003 05 00 0000", 10, bad_length("transform", 3));
    refused("00 00 0007 05 00 0000", 14, TRUNCATED("transform id"));
    refused("00 00 0009 05 00 0000", 12, TRUNCATED("transform"));
    refused("00 00 0009 01 00 0014 80", 16, TRUNCATED("attribute type"));
    refused("00 00 000b 01 00 0014 800e 01", 18, TRUNCATED("attribute"));
    // The long form: a length that is exact, and one byte more.
    assert!(transform("00 00 000e 01 00 0014 000e 0002 0080").is_ok());
    refused("00 00 000e 01 00 0014 000e 0003 0080", 20, TRUNCATED("attribute value"));
    let attributes = " 800e 0100".repeat(ATTRIBUTES_OF_TRANSFORM_MAX);
    assert!(transform(&format!("00 00 {:04x} 01 00 0014 {attributes}", 8 + 4 * ATTRIBUTES_OF_TRANSFORM_MAX)).is_ok());
    let text = format!("00 00 {:04x} 01 00 0014 {attributes} 800e 0100", 12 + 4 * ATTRIBUTES_OF_TRANSFORM_MAX);
    let fault = IkeFault::TooMany { what: "attributes", limit: ATTRIBUTES_OF_TRANSFORM_MAX };
    assert_eq!(transform(&text), Err((16 + 4 * ATTRIBUTES_OF_TRANSFORM_MAX, fault)));
}

#[test]
fn the_numbers_of_proposals_transforms_and_attributes() {
    let transforms = |count| vec![Transform::esn(EsnId::ESN); count];
    let proposals = |count, transforms: Vec<Transform>| {
        let proposal = Proposal { number: 1, protocol: ProtocolId::ESP, spi: vec![], transforms };
        Payload::Sa(vec![proposal; count])
    };
    round_trip(proposals(PROPOSALS_OF_PAYLOAD_MAX, transforms(3)));
    not_written(proposals(PROPOSALS_OF_PAYLOAD_MAX + 1, transforms(3)), "too many proposals");
    not_written(proposals(0, transforms(3)), "no proposal");
    round_trip(proposals(1, transforms(TRANSFORMS_OF_PROPOSAL_MAX)));
    not_written(proposals(1, transforms(TRANSFORMS_OF_PROPOSAL_MAX + 1)), "too many transforms");
    let more = [[2, 0, 0, 8, 1, 3, 0, 0].repeat(PROPOSALS_OF_PAYLOAD_MAX), vec![0, 0, 0, 8, 1, 3, 0, 0]].concat();
    let error = Payload::decode_body(PayloadType::SA, false, &more).unwrap_err();
    let fault = IkeFault::TooMany { what: "proposals", limit: PROPOSALS_OF_PAYLOAD_MAX };
    assert_eq!((error.offset, error.fault), (8 * PROPOSALS_OF_PAYLOAD_MAX, fault));
    let error = body(PayloadType::SA, "00 00 0008 01 03 00 81").unwrap_err();
    assert_eq!(error, (8, IkeFault::TooMany { what: "transforms", limit: TRANSFORMS_OF_PROPOSAL_MAX }));

    let attributes = |count, kind, value: AttributeValue| {
        let mut transform = Transform::encr(EncrId::AES_GCM_16, None);
        transform.attributes = vec![Attribute { kind: AttributeType(kind), value }; count];
        proposals(1, vec![transform])
    };
    round_trip(attributes(ATTRIBUTES_OF_TRANSFORM_MAX, 0x7fff, AttributeValue::Short(7)));
    not_written(attributes(ATTRIBUTES_OF_TRANSFORM_MAX + 1, 14, AttributeValue::Short(7)), "too many attributes");
    not_written(attributes(1, 0x8000, AttributeValue::Short(7)), "more than 15 bits");
    round_trip(attributes(1, 14, AttributeValue::Long(vec![7; 65_000])));
    not_written(attributes(1, 14, AttributeValue::Long(vec![7; 65_536])), "attribute is longer than 65535");
    not_written(attributes(1, 14, AttributeValue::Long(vec![7; 65_535])), "longer than 65535");
}

#[test]
fn notifications_and_deletes() {
    refused(PayloadType::NOTIFY, "03 05 4009 aabbccdd", 4, TRUNCATED("SPI"));
    refused(PayloadType::NOTIFY, "03 ff 4009", 4, TRUNCATED("SPI"));
    let notify = |len| Notify { spi: vec![7; len], ..Notify::new(NotifyType::INVALID_SPI) };
    round_trip(notify(255).into());
    not_written(notify(256).into(), "SPI is longer than 255");

    const D: PayloadType = PayloadType::DELETE;
    assert_eq!(body(D, "03 04 0000"), Ok(Delete::esp(vec![]).into()));
    assert_eq!(body(D, "01 00 0000"), Ok(Delete::ike().into()));
    // RFC 7296 §3.11: an IKE SA has no SPI here, so that the number of them says nothing.
    assert_eq!(body(D, "01 00 0001"), Ok(Delete::ike().into()));
    refused(D, "01 00 0001 aa", 4, IkeFault::Trailing);
    refused(D, "01 08 0001 0102030405060708", 1, bad_length("SPI", 8));
    refused(D, "03 00 0000", 1, bad_length("SPI", 0));
    refused(D, "02 08 0001 0102030405060708", 1, bad_length("SPI", 8));
    refused(D, "00 00 0000", 0, bad_value("protocol", 0));
    refused(D, "04 04 0000", 0, bad_value("protocol", 4));
    refused(D, "03 04 0002 40000001 400000", 8, TRUNCATED("SPI"));
    refused(D, "03 04 0001 40000001 40000002", 8, IkeFault::Trailing);
    refused(D, "03 04 00", 2, TRUNCATED("number of SPIs"));
    round_trip(Delete::esp(vec![Spi(7); SPIS_OF_DELETE_MAX]).into());
    not_written(Delete::esp(vec![Spi(7); SPIS_OF_DELETE_MAX + 1]).into(), "too many SPIs");
    refused(D, "03 04 0401", 2, IkeFault::TooMany { what: "SPIs", limit: SPIS_OF_DELETE_MAX });
    not_written(Delete { protocol: ProtocolId::IKE, spis: vec![Spi(7)] }.into(), "without an SPI");
    not_written(Delete { protocol: ProtocolId::NONE, spis: vec![] }.into(), "none of IKE, AH and ESP");
}

#[test]
fn selectors() {
    const TS: PayloadType = PayloadType::TS_R;
    let v4 = "07 06 0010 0000 ffff 0a000000 0affffff";
    let v6 = format!("08 00 0028 0000 ffff {} {}", "00".repeat(16), "ff".repeat(16));
    assert!(body(TS, &format!("02 000000 {v4} {v6}")).is_ok());
    assert_eq!(body(TS, "00 000000"), Ok(Payload::TsR(vec![])));
    refused(TS, &format!("01 000000 {v4} {v6}"), 20, IkeFault::Trailing);
    refused(TS, &format!("02 000000 {v4}"), 20, TRUNCATED("selector type"));
    for length in [15, 17] {
        let text = format!("01 000000 07 06 {length:04x} 0000 ffff 0a000000 0affffff 00");
        refused(TS, &text, 6, bad_length("selector", length));
    }
    for length in [39, 41] {
        let text = format!("01 000000 08 00 {length:04x} {} 00", "00".repeat(36));
        refused(TS, &text, 6, bad_length("selector", length));
    }
    refused(TS, "01 000000 07 06 0003", 6, bad_length("selector", 3));
    refused(TS, "01 000000 07 06 0010 0000", 8, TRUNCATED("selector"));
    refused(TS, "01 000000 07 06 00", 6, TRUNCATED("selector length"));
    // Of an unknown type, any length from 4 is right.
    let other = |body: Vec<u8>| TrafficSelector::Other { kind: TsType(11), protocol: 9, body };
    assert_eq!(body(TS, "02 000000 0b 09 0004 0b 09 0005 aa"), Ok(Payload::TsR(vec![other(vec![]), other(vec![0xaa])])));
    refused(TS, "01 000000 0b 09 0003", 6, bad_length("selector", 3));

    let selectors = |count| Payload::TsI(vec![IpSelector::any_of(AddressRange::ANY_V4).into(); count]);
    round_trip(selectors(255));
    not_written(selectors(256), "more than 255 selectors");
    let disguised = TrafficSelector::Other { kind: TsType::IPV4_ADDR_RANGE, protocol: 0, body: vec![0; 12] };
    not_written(Payload::TsI(vec![disguised]), "selector of another type");
    not_written(Payload::TsI(vec![other(vec![0; 65_532])]), "longer than 65535");
}

#[test]
fn configuration() {
    const CP: PayloadType = PayloadType::CP;
    assert!(body(CP, "01 000000 0001 0000 8003 0004 08080808").is_ok());
    refused(CP, "01 000000 00", 4, TRUNCATED("attribute type"));
    refused(CP, "01 000000 0001 00", 6, TRUNCATED("attribute length"));
    refused(CP, "01 000000 0001 0002 aa", 8, TRUNCATED("attribute value"));
    let config = |count, kind, len| {
        let attribute = CfgAttribute { kind: CfgAttributeType(kind), value: vec![7; len] };
        Payload::Cp(Config { kind: CfgType::REPLY, attributes: vec![attribute; count] })
    };
    round_trip(config(ATTRIBUTES_OF_CP_MAX, 0x7fff, 16));
    not_written(config(ATTRIBUTES_OF_CP_MAX + 1, 1, 0), "too many attributes");
    not_written(config(1, 0x8000, 0), "more than 15 bits");
    not_written(config(1, 1, 65_536), "attribute is longer than 65535");
    let more = [vec![1, 0, 0, 0], [0, 1, 0, 0].repeat(ATTRIBUTES_OF_CP_MAX + 1)].concat();
    let error = Payload::decode_body(CP, false, &more).unwrap_err();
    assert_eq!(error.fault, IkeFault::TooMany { what: "attributes", limit: ATTRIBUTES_OF_CP_MAX });
}

#[test]
fn reserved_bits_are_ignored_and_written_as_zero() {
    for (kind, with_bits, clean) in [
        (PayloadType::KE, "001f ffff aa", "001f 0000 aa"),
        (PayloadType::ID_I, "02 ffffff 61", "02 000000 61"),
        (PayloadType::AUTH, "0e ffffff aa", "0e 000000 aa"),
        (PayloadType::TS_I, "00 ffffff", "00 000000"),
        (PayloadType::CP, "01 ffffff 8001 0000", "01 000000 0001 0000"),
        (PayloadType::SA, "00 ff 0010 01 03 00 01 00 ff 0008 05 ff 0000", "00 00 0010 01 03 00 01 00 00 0008 05 00 0000"),
        (PayloadType::DELETE, "01 00 ffff", "01 00 0000"),
    ] {
        let payload = body(kind, with_bits).unwrap();
        assert_eq!(encode_payloads(&[payload]).unwrap().1[4..], hex(clean), "{kind}");
    }
    let cert = Payload::Cert { encoding: CertEncoding::RAW_PUBLIC_KEY, data: vec![1] };
    assert_eq!(decode_payloads(PayloadType::CERT, &hex("00 ff 0006 0f 01")), Ok(vec![cert]));
}
