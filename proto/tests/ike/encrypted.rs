//! SK and SKF: layout, associated data, fragments, IntAuth, against the example of RFC 7634 and against the rules of the RFCs.

use adit_proto::ike::encrypted::{ICV_LEN, IV_LEN, SK_OVERHEAD, SKF_OVERHEAD, fragments, int_auth, strip_padding};
use adit_proto::ike::{
    ExchangeType, Flags, Fragment, Header, IkeDecodeError, IkeFault, IkeSpi, Message, Notify, NotifyType, Payload, PayloadType,
    Sealed, Unsealed, decode_payloads, encode_payloads,
};
use adit_proto::limits::FRAGMENTS_OF_MESSAGE_MAX;
use chacha20poly1305::aead::{AeadInOut, KeyInit};
use chacha20poly1305::{ChaCha20Poly1305, Key, Nonce, Tag};
use proptest::prelude::*;
use std::convert::Infallible;

use crate::support::{self, hex};

const KEY: [u8; 32] = {
    let mut key = [0; 32];
    let mut index = 0;
    while index < 32 {
        key[index] = 0x80 + index as u8;
        index += 1;
    }
    key
};
const SALT: [u8; 4] = [0xa0, 0xa1, 0xa2, 0xa3];
const IV: [u8; IV_LEN] = [0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17];

fn nonce(iv: [u8; IV_LEN]) -> Nonce {
    let mut nonce = [0; 12];
    nonce[..4].copy_from_slice(&SALT);
    nonce[4..].copy_from_slice(&iv);
    nonce.into()
}

fn seal(aad: &[u8], iv: [u8; IV_LEN], plaintext: &mut [u8]) -> Result<[u8; ICV_LEN], chacha20poly1305::Error> {
    let aead = ChaCha20Poly1305::new(&Key::from(KEY));
    Ok(aead.encrypt_inout_detached(&nonce(iv), aad, plaintext.into())?.into())
}

fn open(sealed: &Sealed) -> Result<Vec<u8>, chacha20poly1305::Error> {
    let (ciphertext, tag) = sealed.ciphertext_and_tag().split_last_chunk::<ICV_LEN>().unwrap();
    let mut plaintext = ciphertext.to_vec();
    let aead = ChaCha20Poly1305::new(&Key::from(KEY));
    aead.decrypt_inout_detached(&nonce(sealed.iv()), sealed.aad(), plaintext.as_mut_slice().into(), &Tag::from(*tag))?;
    Ok(plaintext)
}

/// A stand-in that leaves the plaintext as it is, for what concerns the layout alone.
fn leave(_: &[u8], _: [u8; IV_LEN], _: &mut [u8]) -> Result<[u8; ICV_LEN], Infallible> {
    Ok([0xee; ICV_LEN])
}

fn header(exchange: ExchangeType) -> Header {
    let spis = (IkeSpi(0xc0c1_c2c3_c4c5_c6c7), IkeSpi(0xd0d1_d2d3_d4d5_d6d7));
    Header::new(spis.0, spis.1, exchange, Flags::default(), 9)
}

#[test]
fn the_message_of_rfc_7634_comes_out_byte_by_byte_and_is_opened() {
    let message = hex(support::RFC7634);
    let notify: Payload = Notify::new(NotifyType::SET_WINDOW_SIZE).with_data([0, 0, 0, 10]).into();
    let (first, inner) = encode_payloads(std::slice::from_ref(&notify)).unwrap();
    let unsealed = Unsealed::sk(&header(ExchangeType::INFORMATIONAL), first, &inner, IV).unwrap();
    assert_eq!(unsealed.seal(seal).unwrap(), message);

    let sealed = Sealed::parse(&message).unwrap().expect("an SK payload");
    assert_eq!(sealed.aad(), &message[..32]);
    assert_eq!((sealed.iv(), sealed.first(), sealed.fragment()), (IV, PayloadType::NOTIFY, None));
    let plaintext = open(&sealed).unwrap();
    assert_eq!(plaintext, hex("00 00 000c 00 00 4001 0000000a 00"));
    assert_eq!(decode_payloads(sealed.first(), strip_padding(&plaintext).unwrap()).unwrap(), [notify]);
}

#[test]
fn every_bit_of_the_message_is_authenticated() {
    let message = hex(support::RFC7634);
    for bit in 0..message.len() * 8 {
        let mut message = message.clone();
        message[bit / 8] ^= 1 << (bit % 8);
        if let Ok(Some(sealed)) = Sealed::parse(&message) {
            assert!(open(&sealed).is_err(), "bit {bit}");
        }
    }
}

#[test]
fn fragments_are_opened_and_put_together() {
    let inner: Vec<u8> = (0..1184u32).map(|byte| byte as u8).collect();
    let header = header(ExchangeType::IKE_INTERMEDIATE);
    let parts = fragments(&inner, 576).unwrap();
    assert_eq!(parts.len(), 3);
    let mut whole = Vec::new();
    for (index, part) in parts.into_iter().enumerate() {
        let unsealed = Unsealed::skf(&header, PayloadType::KE, part, [index as u8; IV_LEN]).unwrap();
        let message = unsealed.seal(seal).unwrap();
        assert!(message.len() <= 576);
        let sealed = Sealed::parse(&message).unwrap().expect("an SKF payload");
        assert_eq!(sealed.fragment(), Some(Fragment { number: index as u16 + 1, total: 3 }));
        // RFC 7383 §2.5: zero in all but the first.
        assert_eq!(sealed.first(), if index == 0 { PayloadType::KE } else { PayloadType::NONE });
        assert_eq!(sealed.aad(), &message[..36]);
        whole.extend_from_slice(strip_padding(&open(&sealed).unwrap()).unwrap());
    }
    assert_eq!(whole, inner);
}

#[test]
fn int_auth_is_the_same_whole_and_in_fragments() {
    let inner = vec![7; 1184];
    let header = header(ExchangeType::IKE_INTERMEDIATE);
    // RFC 9242 §3.3.2: SPIs, first payload SK, length 28 + 4 + 1184; first payload inside KE, length 4 + 1184.
    let expected = hex("c0c1c2c3c4c5c6c7 d0d1d2d3d4d5d6d7 2e 20 2b 00 00000009 000004c0 22 00 04a4");
    assert_eq!(int_auth(&header, PayloadType::KE, inner.len()), expected);

    let whole = Unsealed::sk(&header, PayloadType::KE, &inner, IV).unwrap().seal(leave).unwrap();
    assert_eq!(Sealed::parse(&whole).unwrap().unwrap().int_auth(inner.len()), expected);

    let first = fragments(&inner, 576).unwrap()[0];
    let fragment = Unsealed::skf(&header, PayloadType::KE, first, IV).unwrap().seal(leave).unwrap();
    assert_eq!(Sealed::parse(&fragment).unwrap().unwrap().int_auth(inner.len()), expected);
}

#[test]
fn payloads_in_the_clear_before_sk_are_associated_data() {
    // Next payload V in the header; then V with two bytes, which names SK; SK with nothing inside.
    let message = hex("
        c0c1c2c3c4c5c6c7 d0d1d2d3d4d5d6d7 2b 20 2b 00 00000009 0000003f
        2e 00 0006 abcd
        00 00 001d 1011121314151617 00 000102030405060708090a0b0c0d0e0f");
    let sealed = Sealed::parse(&message).unwrap().unwrap();
    assert_eq!(sealed.aad(), &message[..38]);
    assert_eq!(sealed.ciphertext_and_tag().len(), 17);
    let expected = hex("c0c1c2c3c4c5c6c7 d0d1d2d3d4d5d6d7 2b 20 2b 00 00000009 00000026 2e 00 0006 abcd 00 00 0004");
    assert_eq!(sealed.int_auth(0), expected);
    // The same in one fragment: the type that the Vendor ID names is put back to SK.
    let fragment = hex("
        c0c1c2c3c4c5c6c7 d0d1d2d3d4d5d6d7 2b 20 2b 00 00000009 00000043
        35 00 0006 abcd
        00 00 0021 0001 0001 1011121314151617 00 000102030405060708090a0b0c0d0e0f");
    assert_eq!(Sealed::parse(&fragment).unwrap().unwrap().int_auth(0), expected);
}

#[test]
fn before_sk_only_an_unknown_critical_payload_is_an_error() {
    // A Vendor ID or a payload of type 200, critical or not, which names SK.
    let message = |kind: u8, critical: u8| {
        hex(&format!(
            "0000000000000001 0000000000000002 {kind:02x} 20 25 00 00000003 0000003d
             2e {critical:02x} 0004  00 00 001d {} 00 {}",
            "11".repeat(IV_LEN),
            "22".repeat(ICV_LEN)
        ))
    };
    for (kind, critical) in [(43, 0), (43, 0x80), (200, 0)] {
        assert!(Sealed::parse(&message(kind, critical)).unwrap().is_some(), "{kind} {critical}");
    }
    assert_eq!(fault_of(&message(200, 0x80)), (PayloadType(200), 32, IkeFault::UnsupportedCritical));
}

/// A message whose only payload is of this kind and has this body.
fn with_body(kind: PayloadType, body: &[u8]) -> Vec<u8> {
    let payload = match kind {
        PayloadType::SK => Payload::Sk { first: PayloadType::NONE, body: body.to_vec() },
        PayloadType::SKF => Payload::Skf { first: PayloadType::NONE, body: body.to_vec() },
        kind => Payload::Unknown { kind, critical: true, body: body.to_vec() },
    };
    Message { header: header(ExchangeType::INFORMATIONAL), payloads: vec![payload] }.encode().unwrap()
}

fn fault_of(message: &[u8]) -> (PayloadType, usize, IkeFault) {
    let IkeDecodeError { payload, offset, fault } = Sealed::parse(message).unwrap_err();
    (payload, offset, fault)
}

#[test]
fn the_shortest_body_and_one_byte_less() {
    let field = "ciphertext with its tag";
    assert!(Sealed::parse(&with_body(PayloadType::SK, &[0; 25])).unwrap().is_some());
    let short = fault_of(&with_body(PayloadType::SK, &[0; 24]));
    assert_eq!(short, (PayloadType::SK, 40, IkeFault::BadLength { field, len: 16 }));
    let no_iv = fault_of(&with_body(PayloadType::SK, &[0; 7]));
    assert_eq!(no_iv, (PayloadType::SK, 32, IkeFault::Truncated("IV")));

    let mut body = vec![0, 1, 0, 1];
    body.resize(29, 0);
    assert!(Sealed::parse(&with_body(PayloadType::SKF, &body)).unwrap().is_some());
    let short = fault_of(&with_body(PayloadType::SKF, &body[..28]));
    assert_eq!(short, (PayloadType::SKF, 44, IkeFault::BadLength { field, len: 16 }));
}

#[test]
fn fragment_numbers_are_checked() {
    let body = |number: u16, total: u16| [&number.to_be_bytes(), &total.to_be_bytes(), [0; 25].as_slice()].concat();
    for (number, total) in [(0, 0), (0, 1), (2, 1), (FRAGMENTS_OF_MESSAGE_MAX + 1, FRAGMENTS_OF_MESSAGE_MAX)] {
        let fault = IkeFault::BadValue { field: "fragment number", value: number.into() };
        let message = with_body(PayloadType::SKF, &body(number, total));
        assert_eq!(fault_of(&message), (PayloadType::SKF, 32, fault), "{number} of {total}");
    }
    let fault = IkeFault::TooMany { what: "fragments", limit: FRAGMENTS_OF_MESSAGE_MAX.into() };
    let message = with_body(PayloadType::SKF, &body(1, FRAGMENTS_OF_MESSAGE_MAX + 1));
    assert_eq!(fault_of(&message), (PayloadType::SKF, 34, fault));
    let message = with_body(PayloadType::SKF, &body(FRAGMENTS_OF_MESSAGE_MAX, FRAGMENTS_OF_MESSAGE_MAX));
    let fragment = Sealed::parse(&message).unwrap().unwrap().fragment();
    assert_eq!(fragment, Some(Fragment { number: FRAGMENTS_OF_MESSAGE_MAX, total: FRAGMENTS_OF_MESSAGE_MAX }));
}

#[test]
fn a_message_in_the_clear_is_not_sealed_and_bytes_behind_sk_are_an_error() {
    let clear = Message { header: header(ExchangeType::IKE_SA_INIT), payloads: vec![Payload::Vendor(vec![1])] };
    assert!(Sealed::parse(&clear.encode().unwrap()).unwrap().is_none());
    let mut longer = with_body(PayloadType::SK, &[0; 25]);
    longer.push(0);
    longer[27] += 1;
    assert_eq!(fault_of(&longer), (PayloadType::SK, 57, IkeFault::Trailing));
    let critical = fault_of(&with_body(PayloadType(200), &[0; 25]));
    assert_eq!(critical, (PayloadType(200), 32, IkeFault::UnsupportedCritical));
}

#[test]
fn padding_of_any_content_is_stripped_and_too_much_is_an_error() {
    assert_eq!(strip_padding(&[0]).unwrap(), []);
    assert_eq!(strip_padding(&[5, 9, 9, 2]).unwrap(), [5]);
    assert_eq!(strip_padding(&[9, 9, 2]).unwrap(), []);
    let long = [[0xff; 255].as_slice(), &[255]].concat();
    assert_eq!(strip_padding(&long).unwrap(), []);
    let fault = |bytes: &[u8]| strip_padding(bytes).unwrap_err().fault;
    assert_eq!(fault(&[9, 2]), IkeFault::BadLength { field: "padding", len: 2 });
    assert_eq!(fault(&long[1..]), IkeFault::BadLength { field: "padding", len: 255 });
    assert_eq!(fault(&[]), IkeFault::Truncated("pad length"));
}

#[test]
fn the_longest_message_is_made_and_one_byte_more_is_not() {
    let header = header(ExchangeType::IKE_AUTH);
    let longest = vec![0; 65_535 - SK_OVERHEAD];
    let message = Unsealed::sk(&header, PayloadType::CERT, &longest, IV).unwrap().seal(leave).unwrap();
    assert_eq!(message.len(), 65_535);
    assert_eq!(Sealed::parse(&message).unwrap().unwrap().ciphertext_and_tag().len(), longest.len() + 1 + ICV_LEN);
    let error = Unsealed::sk(&header, PayloadType::CERT, &vec![0; longest.len() + 1], IV).unwrap_err();
    assert_eq!(error.payload, PayloadType::SK);
}

#[test]
fn fragments_fit_exactly_or_there_are_none() {
    let inner = vec![0; 100];
    assert_eq!(fragments(&inner, SKF_OVERHEAD + 100).unwrap().len(), 1);
    assert_eq!(fragments(&inner, SKF_OVERHEAD + 99).unwrap().len(), 2);
    assert_eq!(fragments(&inner, SKF_OVERHEAD + 1).unwrap().len(), 100);
    assert!(fragments(&inner, SKF_OVERHEAD).is_none());
    assert!(fragments(&inner, 0).is_none());
    assert_eq!(fragments(&[], 576).unwrap(), [(Fragment { number: 1, total: 1 }, [].as_slice())]);
    let many = vec![0; usize::from(FRAGMENTS_OF_MESSAGE_MAX)];
    assert_eq!(fragments(&many, SKF_OVERHEAD + 1).unwrap().len(), usize::from(FRAGMENTS_OF_MESSAGE_MAX));
    assert!(fragments(&[many, vec![0]].concat(), SKF_OVERHEAD + 1).is_none());
}

proptest! {
    #[test]
    fn what_is_sealed_is_opened(inner in proptest::collection::vec(any::<u8>(), 0..3000), first: u8, iv: [u8; IV_LEN], len_max in 100usize..1500) {
        let (header, first) = (header(ExchangeType::IKE_AUTH), PayloadType(first));
        let message = Unsealed::sk(&header, first, &inner, iv).unwrap().seal(seal).unwrap();
        prop_assert_eq!(message.len(), inner.len() + SK_OVERHEAD);
        let sealed = Sealed::parse(&message).unwrap().unwrap();
        prop_assert_eq!((sealed.first(), sealed.iv(), sealed.fragment()), (first, iv, None));
        let plaintext = open(&sealed).unwrap();
        prop_assert_eq!(strip_padding(&plaintext).unwrap(), inner.as_slice());
        prop_assert_eq!(sealed.int_auth(inner.len()), int_auth(&header, first, inner.len()));

        let mut whole = Vec::new();
        for part in fragments(&inner, len_max).unwrap() {
            let message = Unsealed::skf(&header, first, part, iv).unwrap().seal(seal).unwrap();
            prop_assert!(message.len() <= len_max);
            prop_assert_eq!(message.len(), part.1.len() + SKF_OVERHEAD);
            let sealed = Sealed::parse(&message).unwrap().unwrap();
            prop_assert_eq!(sealed.fragment(), Some(part.0));
            whole.extend_from_slice(strip_padding(&open(&sealed).unwrap()).unwrap());
        }
        prop_assert_eq!(whole, inner);
    }

    /// Both readers of a datagram agree on whether it is a message and on what is sealed in it.
    #[test]
    fn sealed_and_message_agree(body in proptest::collection::vec(any::<u8>(), 0..80), fragment: bool, cut in 0usize..4) {
        let kind = if fragment { PayloadType::SKF } else { PayloadType::SK };
        let mut message = with_body(kind, &body);
        message.truncate(message.len() - cut);
        match (Sealed::parse(&message), Message::decode(&message)) {
            (Ok(Some(sealed)), Ok(decoded)) => {
                let (Payload::Sk { body, .. } | Payload::Skf { body, .. }) = &decoded.payloads[0] else { unreachable!() };
                prop_assert!(body.ends_with(sealed.ciphertext_and_tag()));
                prop_assert_eq!(*sealed.header(), decoded.header);
            }
            (Ok(None), _) => prop_assert!(false, "nothing sealed in {:x?}", message),
            (Ok(Some(_)), Err(error)) => prop_assert!(false, "only sealed is read: {}", error),
            (Err(_), _) => {}
        }
    }
}
