//! Messages byte by byte: published ones, and hand-made ones with a comment on every field.

use adit_proto::control::Spi;
use adit_proto::ike::{
    AddressRange, Delete, EncrId, EsnId, ExchangeType, Flags, Header, IkeSpi, KeId, Message, Notify, NotifyType, Payload,
    PayloadType, PortRange, PrfId, Proposal, ProtocolId, TrafficSelector, Transform, decode_payloads, encode_payloads,
};
use adit_proto::ike::{IpSelector, TransformType};

use crate::support::{RFC7634, hex};

#[test]
fn the_message_of_rfc_7634_is_read_and_written() {
    let bytes = hex(RFC7634);
    let message = Message::decode(&bytes).unwrap();
    let spis = (IkeSpi(0xc0c1_c2c3_c4c5_c6c7), IkeSpi(0xd0d1_d2d3_d4d5_d6d7));
    let mut header = Header::new(spis.0, spis.1, ExchangeType::INFORMATIONAL, Flags::default(), 9);
    (header.next_payload, header.length) = (PayloadType::SK, 69);
    let body = bytes[32..].to_vec();
    assert_eq!(message, Message { header, payloads: vec![Payload::Sk { first: PayloadType::NOTIFY, body }] });
    assert_eq!(message.encode().unwrap(), bytes);
}

#[test]
fn the_plaintext_of_rfc_7634_is_read_and_written() {
    let bytes = hex("00 00 000c 00 00 4001 0000000a");
    let notify = Notify::new(NotifyType::SET_WINDOW_SIZE).with_data([0, 0, 0, 10]);
    assert_eq!(decode_payloads(PayloadType::NOTIFY, &bytes).unwrap(), [notify.clone().into()]);
    assert_eq!(encode_payloads(&[notify.into()]).unwrap(), (PayloadType::NOTIFY, bytes));
}

#[test]
fn a_proposal_with_an_additional_key_exchange() {
    let bytes = hex("
        22 00 0040              # next payload KE, not critical, 64 bytes
          00 00 003c 01 01 00 06  # the last proposal, 60 bytes, number 1, IKE, no SPI, 6 transforms
            03 00 000c 01 00 0014 800e 0100  # ENCR AES_GCM_16, key length 256 in the short form
            03 00 0008 02 00 0006            # PRF HMAC_SHA2_384
            03 00 0008 04 00 001f            # KE CURVE_25519
            03 00 0008 06 00 0024            # ADDKE1 ML_KEM_768
            03 00 0008 06 00 0000            # ADDKE1 none
            00 00 0008 05 00 0001            # ESN
        00 00 000a 001f 0000 abcd # KE: the last payload, 10 bytes, CURVE_25519, 2 bytes
    ");
    let transforms = vec![
        Transform::encr(EncrId::AES_GCM_16, Some(256)),
        Transform::prf(PrfId::HMAC_SHA2_384),
        Transform::ke(KeId::CURVE_25519),
        Transform::additional_ke(TransformType::ADDKE1, KeId::ML_KEM_768),
        Transform::additional_ke(TransformType::ADDKE1, KeId::NONE),
        Transform::esn(EsnId::ESN),
    ];
    let proposal = Proposal { number: 1, protocol: ProtocolId::IKE, spi: vec![], transforms };
    let text = "IKE:AES_GCM_16_256/PRF_HMAC_SHA2_384/CURVE_25519/ADDKE1_ML_KEM_768/ADDKE1_KE_NONE/ESN";
    assert_eq!(proposal.to_string(), text);
    let payloads = vec![Payload::Sa(vec![proposal]), Payload::Ke { method: KeId::CURVE_25519, data: vec![0xab, 0xcd] }];
    assert_eq!(decode_payloads(PayloadType::SA, &bytes).unwrap(), payloads);
    assert_eq!(encode_payloads(&payloads).unwrap(), (PayloadType::SA, bytes));
}

#[test]
fn selectors_and_deletes() {
    let bytes = hex("
        2a 00 0018 01 000000           # next payload D, 24 bytes, one selector
          07 06 0010 0050 0050 0a010000 0a0100ff  # IPv4, TCP, 16 bytes, port 80, 10.1.0.0 to 10.1.0.255
        00 00 0010 03 04 0002 40000001 40000002   # ESP, SPIs of 4 bytes, two
    ");
    let (first, last) = ([10, 1, 0, 0].into(), [10, 1, 0, 255].into());
    let ports = PortRange { first: 80, last: 80 };
    let selector: TrafficSelector = IpSelector { protocol: 6, ports, addresses: AddressRange::V4 { first, last } }.into();
    assert_eq!(selector.to_string(), "10.1.0.0/24[6/80]");
    let payloads = vec![Payload::TsI(vec![selector]), Delete::esp(vec![Spi(0x4000_0001), Spi(0x4000_0002)]).into()];
    assert_eq!(decode_payloads(PayloadType::TS_I, &bytes).unwrap(), payloads);
    assert_eq!(encode_payloads(&payloads).unwrap(), (PayloadType::TS_I, bytes));
}
