//! Our decoder against the `ipsec-parser` crate (0.7.0), which nobody of this project wrote: the same payloads with the same
//! fields in whatever we accept, and a reason for everything that only one of the two accepts.

use adit_proto::ike::{
    AddressRange, AttributeValue, Delete, IkeDecodeError, IkeFault, Message, Payload, PayloadType, Proposal, TrafficSelector,
    Transform,
};
use ipsec_parser::{IkeV2Header, IkeV2Payload, IkeV2PayloadContent, IkeV2Proposal, IkeV2RawTransform, parse_ikev2_message};
use proptest::prelude::*;

use crate::strategies::{damage, message};
use crate::strongswan::recorded;
use crate::support::hex;

/// What the other parser makes of a message that takes up all of the bytes.
fn theirs(bytes: &[u8]) -> Option<(IkeV2Header, Vec<IkeV2Payload<'_>>)> {
    let (_, (header, payloads)) = parse_ikev2_message(bytes).ok()?;
    Some((header, payloads.ok()?))
}

/// Payloads that we accept and the other parser does not, or of which it loses so much that nothing is left to compare.
/// `what_the_other_parser_gets_wrong` shows each.
fn is_beyond_the_other(payload: &Payload) -> bool {
    match payload {
        // It counts four bytes of the generic header twice.
        Payload::Vendor(body) => body.len() < 8,
        Payload::Delete(Delete { spis, .. }) => spis.is_empty(),
        // It wants at least one selector of a type that it knows (RFC 7296 §3.13.1: unknown ones are skipped).
        Payload::TsI(selectors) | Payload::TsR(selectors) => !matches!(selectors.first(), Some(TrafficSelector::Ip(_))),
        _ => false,
    }
}

/// Why we refuse what the other parser accepts; `None` where there is no reason.
fn why_only_the_other_accepts(error: IkeDecodeError) -> Option<&'static str> {
    Some(match (error.payload, error.fault) {
        (_, IkeFault::MajorVersion(_)) => "it reads any version",
        (_, IkeFault::TooMany { .. }) => "it has no limits",
        (_, IkeFault::UnsupportedCritical) => "it leaves the critical bit to its caller",
        (_, IkeFault::Trailing) => "it ignores what follows: a message, a body, the end of the chain",
        (_, IkeFault::Truncated("payload header")) => "it takes the end of the bytes for the end of the chain",
        (PayloadType::CP, _) => "it leaves the Configuration payload as bytes",
        (PayloadType::NONE, IkeFault::BadLength { field: "message", len }) if len > 65_535 => "it has no limits",
        (PayloadType::NONCE, IkeFault::BadLength { field: "nonce", .. }) => "it takes a nonce of any length",
        (PayloadType::SA, IkeFault::BadValue { field: "last substructure", .. }) => "it ignores the flag",
        (PayloadType::SA, IkeFault::BadLength { field: "transform", .. }) => "it takes a short transform for one of 8 bytes",
        (PayloadType::SA, IkeFault::Truncated(field)) if field.starts_with("attribute") => "it leaves attributes as bytes",
        (PayloadType::SA, IkeFault::Truncated("transform id")) => "it takes a short transform for one of 8 bytes",
        (PayloadType::SA, _) => "it ignores proposals from the first bad one on, when one is good",
        (PayloadType::TS_I | PayloadType::TS_R, _) => "it ignores number and lengths of selectors",
        (PayloadType::DELETE, _) => "it leaves SPIs as bytes, and does not compare number, size and protocol with them",
        _ => return None,
    })
}

fn same_message(ours: &Message, (header, payloads): &(IkeV2Header, Vec<IkeV2Payload>)) {
    assert_eq!(ours.header.initiator_spi.0, header.init_spi);
    assert_eq!(ours.header.responder_spi.0, header.resp_spi);
    assert_eq!(ours.header.next_payload.0, header.next_payload.0);
    assert_eq!(ours.header.version.0, header.maj_ver << 4 | header.min_ver);
    assert_eq!(ours.header.exchange.0, header.exch_type.0);
    assert_eq!(ours.header.flags.initiator, header.flags & ipsec_parser::IKEV2_FLAG_INITIATOR != 0);
    assert_eq!(ours.header.flags.response, header.flags & ipsec_parser::IKEV2_FLAG_RESPONSE != 0);
    assert_eq!(ours.header.flags.version, header.flags & ipsec_parser::IKEV2_FLAG_VERSION != 0);
    assert_eq!((ours.header.message_id, ours.header.length), (header.msg_id, header.length));
    // Theirs begins with one that stands for the header.
    assert_eq!(ours.payloads.len() + 1, payloads.len());
    for (payload, pair) in ours.payloads.iter().zip(payloads.windows(2)) {
        assert_eq!(payload.kind().0, pair[0].hdr.next_payload_type.0);
        same_payload(payload, &pair[1]);
    }
}

fn same_payload(ours: &Payload, theirs: &IkeV2Payload) {
    match (ours, &theirs.content) {
        (Payload::Sa(proposals), IkeV2PayloadContent::SA(theirs)) => same_list(proposals, theirs, same_proposal),
        (Payload::Ke { method, data }, IkeV2PayloadContent::KE(theirs)) => {
            assert_eq!((method.0, data.as_slice()), (theirs.dh_group.0, theirs.kex_data));
        }
        (Payload::IdI(id), IkeV2PayloadContent::IDi(theirs)) | (Payload::IdR(id), IkeV2PayloadContent::IDr(theirs)) => {
            assert_eq!((id.id_type.0, id.data.as_slice()), (theirs.id_type.0, theirs.ident_data));
        }
        (Payload::Cert { encoding, data }, IkeV2PayloadContent::Certificate(theirs)) => {
            assert_eq!((encoding.0, data.as_slice()), (theirs.cert_encoding.0, theirs.cert_data));
        }
        (Payload::CertReq { encoding, data }, IkeV2PayloadContent::CertificateRequest(theirs)) => {
            assert_eq!((encoding.0, data.as_slice()), (theirs.cert_encoding.0, theirs.ca_data));
        }
        (Payload::Auth { method, data }, IkeV2PayloadContent::Authentication(theirs)) => {
            // It takes the three reserved bytes for data, and so loses the last three.
            assert_eq!((method.0, data.len()), (theirs.auth_method.0, theirs.auth_data.len()));
            assert!(data.starts_with(theirs.auth_data.get(3..).unwrap_or_default()));
        }
        (Payload::Nonce(nonce), IkeV2PayloadContent::Nonce(theirs)) => assert_eq!(nonce, theirs.nonce_data),
        (Payload::Notify(notify), IkeV2PayloadContent::Notify(theirs)) => {
            assert_eq!((notify.protocol.0, notify.kind.0), (theirs.protocol_id.0, theirs.notify_type.0));
            assert_eq!(notify.spi, theirs.spi.unwrap_or_default());
            // It counts the generic header twice: the last four bytes are missing.
            let data = &notify.data[..notify.data.len().saturating_sub(4)];
            assert_eq!(data, theirs.notify_data.unwrap_or_default());
        }
        (Payload::Delete(delete), IkeV2PayloadContent::Delete(theirs)) => {
            assert_eq!((delete.protocol.0, delete.spis.len()), (theirs.protocol_id.0, usize::from(theirs.num_spi)));
            // The same again: the last SPI is missing.
            let spis = delete.spis[..delete.spis.len() - 1].iter().flat_map(|spi| spi.0.to_be_bytes());
            assert!(spis.eq(theirs.spi.iter().copied()));
        }
        // And again: the last eight bytes are missing.
        (Payload::Vendor(body), IkeV2PayloadContent::VendorID(theirs)) => {
            assert_eq!(body[..body.len() - 8], *theirs.vendor_id);
        }
        (Payload::TsI(selectors), IkeV2PayloadContent::TSi(theirs))
        | (Payload::TsR(selectors), IkeV2PayloadContent::TSr(theirs)) => {
            assert_eq!(selectors.len(), usize::from(theirs.num_ts));
            // It stops at the first selector of an unknown type.
            let known = selectors.iter().take_while(|selector| matches!(selector, TrafficSelector::Ip(_)));
            let known: Vec<_> = known.cloned().collect();
            same_list(&known, &theirs.ts, same_selector);
        }
        (Payload::Sk { first, body }, IkeV2PayloadContent::Encrypted(encrypted)) => {
            assert_eq!((first.0, body.as_slice()), (theirs.hdr.next_payload_type.0, encrypted.0));
        }
        // Types that it does not know.
        (Payload::Skf { first, body }, IkeV2PayloadContent::Unknown(bytes)) => {
            assert_eq!((first.0, body.as_slice()), (theirs.hdr.next_payload_type.0, *bytes));
        }
        (Payload::Unknown { critical, body, .. }, IkeV2PayloadContent::Unknown(bytes)) => {
            assert_eq!((*critical, body.as_slice()), (theirs.hdr.critical, *bytes));
        }
        (Payload::Eap(body), IkeV2PayloadContent::Unknown(bytes)) => assert_eq!(body, bytes),
        (Payload::Cp(config), IkeV2PayloadContent::Unknown(bytes)) => {
            let len: usize = config.attributes.iter().map(|attribute| 4 + attribute.value.len()).sum();
            assert_eq!((config.kind.0, 4 + len), (bytes[0], bytes.len()));
        }
        (ours, theirs) => panic!("{ours:?} is {theirs:?} there"),
    }
}

fn same_list<A, B>(ours: &[A], theirs: &[B], same: impl Fn(&A, &B)) {
    assert_eq!(ours.len(), theirs.len());
    ours.iter().zip(theirs).for_each(|(ours, theirs)| same(ours, theirs));
}

fn same_proposal(ours: &Proposal, theirs: &IkeV2Proposal) {
    assert_eq!((ours.number, ours.protocol.0), (theirs.proposal_num, theirs.protocol_id.0));
    assert_eq!(ours.spi, theirs.spi.unwrap_or_default());
    same_list(&ours.transforms, &theirs.transforms, same_transform);
}

fn same_transform(ours: &Transform, theirs: &IkeV2RawTransform) {
    assert_eq!((ours.kind.0, ours.id), (theirs.transform_type.0, theirs.transform_id));
    // It does not read attributes. Ours, written again, are the bytes that it has.
    let mut bytes = Vec::new();
    for attribute in &ours.attributes {
        match &attribute.value {
            AttributeValue::Short(value) => {
                bytes.extend((attribute.kind.0 | 0x8000).to_be_bytes());
                bytes.extend(value.to_be_bytes());
            }
            AttributeValue::Long(value) => {
                bytes.extend(attribute.kind.0.to_be_bytes());
                bytes.extend((value.len() as u16).to_be_bytes());
                bytes.extend(value);
            }
        }
    }
    assert_eq!(bytes, theirs.attributes.unwrap_or_default());
}

fn same_selector(ours: &TrafficSelector, theirs: &ipsec_parser::TrafficSelector) {
    let TrafficSelector::Ip(selector) = ours else { panic!("{ours:?} is known there") };
    assert_eq!(ours.kind().0, theirs.ts_type.0);
    assert_eq!(selector.protocol, theirs.ip_proto_id);
    assert_eq!((selector.ports.first, selector.ports.last), (theirs.start_port, theirs.end_port));
    assert_eq!(Some(selector.addresses.first()), theirs.get_start_addr());
    assert_eq!(Some(selector.addresses.last()), theirs.get_end_addr());
    let len = if matches!(selector.addresses, AddressRange::V4 { .. }) { 16 } else { 40 };
    assert_eq!(theirs.sel_length, len);
}

/// Both parsers on the same bytes.
fn compare(bytes: &[u8]) {
    match (Message::decode(bytes), theirs(bytes)) {
        (Ok(ours), Some(theirs)) => same_message(&ours, &theirs),
        (Ok(ours), None) => assert!(ours.payloads.iter().any(is_beyond_the_other), "only we accept {ours:?}"),
        (Err(error), Some(theirs)) => {
            assert!(why_only_the_other_accepts(error).is_some(), "only the other accepts: {error}\n{theirs:?}");
        }
        (Err(_), None) => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn both_read_the_same_from_what_we_write(mut message in message()) {
        message.payloads.retain(|payload| !is_beyond_the_other(payload));
        let bytes = message.encode().unwrap();
        let ours = Message::decode(&bytes).unwrap();
        same_message(&ours, &theirs(&bytes).expect("a message that the other reads"));
    }

    #[test]
    fn both_read_the_same_from_what_was_damaged(mut message in message(), damage in damage()) {
        message.payloads.retain(|payload| !is_beyond_the_other(payload));
        let mut bytes = message.encode().unwrap();
        damage.iter().for_each(|damage| damage.apply(&mut bytes));
        compare(&bytes);
    }
}

#[test]
fn both_read_the_same_from_what_strongswan_writes() {
    for recorded in recorded() {
        for datagram in &recorded.datagrams {
            same_message(&Message::decode(datagram).unwrap(), &theirs(datagram).unwrap());
        }
        // What was inside, as if it had never been sealed.
        let mut message =
            Message { header: Message::decode(&recorded.datagrams[0]).unwrap().header, payloads: recorded.payloads };
        message.payloads.retain(|payload| !is_beyond_the_other(payload));
        let bytes = message.encode().unwrap();
        same_message(&Message::decode(&bytes).unwrap(), &theirs(&bytes).unwrap());
    }
}

/// The message whose only payload is this, which begins with its generic header.
fn with_payload(kind: PayloadType, payload: &str) -> Vec<u8> {
    let payload = hex(payload);
    let header = format!("0000000000000001 0000000000000002 {:02x} 20 25 00 00000003 {:08x}", kind.0, 28 + payload.len());
    [hex(&header), payload].concat()
}

/// Each difference that the comparison allows for, so that a version without it is noticed.
#[test]
fn what_the_other_parser_gets_wrong() {
    let refused = |kind, payload: &str| {
        let bytes = with_payload(kind, payload);
        assert!(Message::decode(&bytes).is_ok() && theirs(&bytes).is_none(), "{payload}");
    };
    refused(PayloadType::VENDOR, "00 00 000b 01020304050607");
    refused(PayloadType::DELETE, "00 00 0008 01 00 0000");
    refused(PayloadType::TS_I, "00 00 0008 00 000000");
    refused(PayloadType::TS_R, "00 00 0010 01 000000 0b 00 0008 00000000");

    let bytes = with_payload(PayloadType::NOTIFY, "00 00 000e 00 00 400e 010203040506");
    let IkeV2PayloadContent::Notify(notify) = &theirs(&bytes).unwrap().1[1].content else { panic!("no Notify") };
    assert_eq!(notify.notify_data, Some([1, 2].as_slice()));
    let bytes = with_payload(PayloadType::AUTH, "00 00 000d 0e 000000 0102030405");
    let IkeV2PayloadContent::Authentication(auth) = &theirs(&bytes).unwrap().1[1].content else { panic!("no AUTH") };
    assert_eq!(auth.auth_data, [0, 0, 0, 1, 2]);
}

/// Each reason why we refuse what the other accepts, by an example.
#[test]
fn what_only_the_other_parser_accepts() {
    for (kind, payload) in [
        (PayloadType(200), "00 80 0004"),
        (PayloadType::NONE, "00 00 0004"),
        (PayloadType::NOTIFY, "2b 00 0008 00 00 4000"),
        (PayloadType::CP, "00 00 0006 01 00"),
        (PayloadType::NONCE, "00 00 0005 aa"),
        (PayloadType::SA, "00 00 0010 07 00 000c 01 03 00 00 00000000"),
        (PayloadType::SA, "00 00 0014 00 00 0010 01 03 00 01 00 00 0007 05 00 0000"),
        (PayloadType::SA, "00 00 0018 00 00 0014 01 03 00 01 00 00 000c 05 00 0000 000e 0002"),
        (PayloadType::SA, "00 00 0010 02 00 0008 01 03 00 00 00 00 0007"),
        (PayloadType::TS_I, "00 00 0018 02 000000 07 06 0011 0000 ffff 0a000000 0affffff"),
        (PayloadType::DELETE, "00 00 000c 09 03 0007 40000001"),
    ] {
        let bytes = with_payload(kind, payload);
        let error = Message::decode(&bytes).unwrap_err();
        assert!(theirs(&bytes).is_some(), "the other refuses {payload}, too");
        assert!(why_only_the_other_accepts(error).is_some(), "{error}");
    }
}
