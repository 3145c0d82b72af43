//! Messages of a product that nobody of this project wrote: opened, read, and written again byte by byte.

use chacha20poly1305::aead::{AeadInOut, KeyInit};
use chacha20poly1305::{ChaCha20Poly1305, Key, Nonce, Tag};

use adit_proto::ike::encrypted::{self, ICV_LEN, IV_LEN, fragments, strip_padding};
use adit_proto::ike::{
    AddressRange, AuthMethod, ExchangeType, IdType, KeId, Message, NotifyType, Payload, PayloadType, ProtocolId, Sealed,
    TrafficSelector, Unsealed, decode_payloads, encode_payloads,
};

use crate::support::hex;

/// A message as strongSwan logged it, its datagrams, and its payloads in the clear.
pub struct Recorded {
    pub show: String,
    pub datagrams: Vec<Vec<u8>>,
    pub payloads: Vec<Payload>,
    /// IntAuth_A, where the log has it.
    int_auth: Option<Vec<u8>>,
}

/// A key of ChaCha20-Poly1305 with its salt.
struct Suite([u8; 36]);

impl Suite {
    fn aead(&self) -> ChaCha20Poly1305 {
        ChaCha20Poly1305::new(&Key::from(*self.0.first_chunk::<32>().unwrap()))
    }

    fn nonce(&self, iv: [u8; IV_LEN]) -> Nonce {
        let mut nonce = [0; 12];
        nonce[..4].copy_from_slice(&self.0[32..]);
        nonce[4..].copy_from_slice(&iv);
        nonce.into()
    }

    fn open(&self, sealed: &Sealed) -> Vec<u8> {
        let (ciphertext, tag) = sealed.ciphertext_and_tag().split_last_chunk::<ICV_LEN>().unwrap();
        let mut plaintext = ciphertext.to_vec();
        let (nonce, tag) = (self.nonce(sealed.iv()), Tag::from(*tag));
        self.aead().decrypt_inout_detached(&nonce, sealed.aad(), plaintext.as_mut_slice().into(), &tag).expect("the right key");
        plaintext
    }

    fn seal(&self, unsealed: Unsealed) -> Vec<u8> {
        let sealed = unsealed.seal(|aad, iv, plaintext| {
            self.aead().encrypt_inout_detached(&self.nonce(iv), aad, plaintext.into()).map(Into::into)
        });
        sealed.expect("short enough")
    }
}

/// Reads the recording, and checks on the way that every datagram is written again as it was.
pub fn recorded() -> Vec<Recorded> {
    let mut keys: [Option<Suite>; 2] = [None, None];
    let mut messages: Vec<Recorded> = Vec::new();
    let mut inner = Vec::new();
    for line in include_str!("strongswan.txt").lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (word, rest) = line.split_once(' ').expect("a word and a value");
        match word {
            "show" => {
                messages.push(Recorded { show: rest.to_owned(), datagrams: vec![], payloads: vec![], int_auth: None });
            }
            "int_auth" => messages.last_mut().expect("its message").int_auth = Some(hex(rest)),
            // For those who derive keys.
            "secret" => {}
            "key" => {
                let (side, key) = rest.split_once(' ').unwrap();
                keys[usize::from(side == "r")] = Some(Suite(hex(key).try_into().unwrap()));
            }
            "message" => {
                let (bytes, message) = (hex(rest), messages.last_mut().expect("its line"));
                let decoded = Message::decode(&bytes).unwrap();
                assert_eq!(decoded.encode().unwrap(), bytes);
                if let Some(sealed) = Sealed::parse(&bytes).unwrap() {
                    let keys = keys[usize::from(!decoded.header.flags.initiator)].as_ref().expect("a key");
                    inner.extend_from_slice(&reseal(keys, &sealed, &bytes));
                    let is_last = sealed.fragment().is_none_or(|fragment| fragment.number == fragment.total);
                    if is_last {
                        let whole = std::mem::take(&mut inner);
                        message.payloads = decode_inner(message.datagrams.first().unwrap_or(&bytes), &whole);
                    }
                } else {
                    message.payloads = decoded.payloads;
                }
                message.datagrams.push(bytes);
            }
            word => panic!("{word}?"),
        }
    }
    messages
}

/// Opens a datagram, seals what was in it again, and gives what was in it.
fn reseal(keys: &Suite, sealed: &Sealed, bytes: &[u8]) -> Vec<u8> {
    let plaintext = keys.open(sealed);
    let inner = strip_padding(&plaintext).unwrap();
    let (header, first, iv) = (sealed.header(), sealed.first(), sealed.iv());
    let unsealed = match sealed.fragment() {
        None => Unsealed::sk(header, first, inner, iv),
        Some(fragment) => Unsealed::skf(header, first, (fragment, inner), iv),
    };
    assert_eq!(keys.seal(unsealed.unwrap()), bytes);
    inner.to_vec()
}

/// What was inside a message whose first datagram says how it begins; written again, it is the same.
fn decode_inner(first_datagram: &[u8], inner: &[u8]) -> Vec<Payload> {
    let first = Sealed::parse(first_datagram).unwrap().unwrap().first();
    let payloads = decode_payloads(first, inner).unwrap();
    assert_eq!(encode_payloads(&payloads), Ok((first, inner.to_vec())));
    payloads
}

#[test]
fn every_message_is_opened_read_as_strongswan_reads_it_and_written_again() {
    let messages = recorded();
    assert_eq!(messages.len(), 34);
    for Recorded { show, datagrams, payloads, .. } in messages {
        let header = Message::decode(&datagrams[0]).unwrap().header;
        let kinds = payloads.iter().map(|payload| format!(" {}", payload.kind())).collect::<String>();
        assert_eq!(format!("{header}{kinds}"), show);
    }
}

#[test]
fn its_fragments_are_cut_as_ours_would_be() {
    let mut fragmented = 0;
    for Recorded { show, datagrams, payloads, .. } in recorded().into_iter().filter(|message| message.datagrams.len() > 1) {
        let (_, inner) = encode_payloads(&payloads).unwrap();
        let ours = fragments(&inner, datagrams[0].len()).unwrap();
        let theirs: Vec<_> = datagrams.iter().map(|bytes| Sealed::parse(bytes).unwrap().unwrap()).collect();
        assert_eq!(ours.len(), theirs.len(), "{show}");
        for ((fragment, part), sealed) in ours.into_iter().zip(theirs) {
            assert_eq!(Some(fragment), sealed.fragment());
            assert_eq!(part.len() + 1 + ICV_LEN, sealed.ciphertext_and_tag().len(), "{show}");
        }
        fragmented += 1;
    }
    assert_eq!(fragmented, 4);
}

#[test]
fn int_auth_is_what_strongswan_authenticates() {
    let mut intermediate = 0;
    for Recorded { show, datagrams, payloads, int_auth } in recorded() {
        let Some(int_auth) = int_auth else { continue };
        let (first, inner) = encode_payloads(&payloads).unwrap();
        let sealed = Sealed::parse(&datagrams[0]).unwrap().unwrap();
        assert_eq!(sealed.int_auth(inner.len()), int_auth, "{show}");
        assert_eq!(encrypted::int_auth(sealed.header(), first, inner.len()), int_auth, "{show}");
        intermediate += 1;
    }
    assert_eq!(intermediate, 2);
}

#[test]
fn additional_key_exchanges_are_where_they_belong() {
    let messages = recorded();
    let find = |show: &str| messages.iter().rfind(|message| message.show.starts_with(show)).expect("a message");
    let Payload::Sa(proposals) = &find("IKE_SA_INIT request 0").payloads[0] else { panic!("no SA") };
    assert_eq!(proposals[0].to_string(), "IKE:CHACHA20_POLY1305/PRF_HMAC_SHA2_256/CURVE_25519/ADDKE1_ML_KEM_768");
    let Payload::Sa(proposals) = &find("CREATE_CHILD_SA request 3").payloads[1] else { panic!("no SA") };
    assert_eq!(proposals[0].to_string(), "ESP:CHACHA20_POLY1305/CURVE_25519/ADDKE1_ML_KEM_768/NO_ESN");
    // The initiator's is an encapsulation key, the responder's a ciphertext (FIPS 203 §8).
    for (show, len) in [
        ("IKE_INTERMEDIATE request", 1184),
        ("IKE_INTERMEDIATE response", 1088),
        ("IKE_FOLLOWUP_KE request", 1184),
        ("IKE_FOLLOWUP_KE response", 1088),
    ] {
        let Payload::Ke { method: KeId::ML_KEM_768, data } = &find(show).payloads[0] else { panic!("{show}") };
        assert_eq!(data.len(), len, "{show}");
    }
    // RFC 9370 §2.2.4: the link that ties the exchanges together comes back as it went.
    let link = |show| match find(show).payloads.last() {
        Some(Payload::Notify(notify)) if notify.kind == NotifyType::ADDITIONAL_KEY_EXCHANGE => notify.data.clone(),
        payload => panic!("{payload:?}"),
    };
    assert!(!link("CREATE_CHILD_SA response 3").is_empty());
    assert_eq!(link("CREATE_CHILD_SA response 3"), link("IKE_FOLLOWUP_KE request 4"));
}

/// The values in the first IKE_SA_INIT and IKE_AUTH requests, which the configuration of that peer says.
#[test]
fn the_values_are_those_of_its_configuration() {
    let messages = recorded();
    let [Payload::Sa(proposals), Payload::Ke { method, data }, Payload::Nonce(nonce), notifies @ ..] = &messages[0].payloads[..]
    else {
        panic!("{:?}", messages[0].payloads)
    };
    let texts: Vec<String> = proposals.iter().map(ToString::to_string).collect();
    let expected = ["IKE:CHACHA20_POLY1305/PRF_HMAC_SHA2_256/CURVE_25519", "IKE:AES_GCM_16_256/PRF_HMAC_SHA2_384/ECP_384"];
    assert_eq!(texts, expected);
    assert_eq!((*method, data.len(), nonce.len()), (KeId::CURVE_25519, 32, 32));
    let kinds = notifies.iter().map(|payload| match payload {
        Payload::Notify(notify) => notify.kind,
        payload => panic!("{payload:?}"),
    });
    let expected = [
        NotifyType::NAT_DETECTION_SOURCE_IP,
        NotifyType::NAT_DETECTION_DESTINATION_IP,
        NotifyType::IKEV2_FRAGMENTATION_SUPPORTED,
        NotifyType::SIGNATURE_HASH_ALGORITHMS,
        NotifyType::REDIRECT_SUPPORTED,
    ];
    assert!(kinds.eq(expected));

    let auth = &messages[2].payloads;
    let text = auth.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    assert_eq!(
        text,
        "IDi(IPV4_ADDR 192.0.2.1) N(INITIAL_CONTACT) IDr(IPV4_ADDR 192.0.2.2) AUTH(SHARED_KEY) SA TSi TSr N(MOBIKE_SUPPORTED) \
         N(NO_ADDITIONAL_ADDRESSES) N(MULTIPLE_AUTH_SUPPORTED) N(EAP_ONLY_AUTHENTICATION) N(IKEV2_MESSAGE_ID_SYNC_SUPPORTED)"
    );
    let Payload::IdI(id) = &auth[0] else { panic!("{:?}", auth[0]) };
    assert_eq!((id.id_type, id.body()), (IdType::IPV4_ADDR, vec![1, 0, 0, 0, 192, 0, 2, 1]));
    let Payload::Auth { method: AuthMethod::SHARED_KEY, data } = &auth[3] else { panic!("{:?}", auth[3]) };
    assert_eq!(data.len(), 32);
    let Payload::Sa(proposals) = &auth[4] else { panic!("{:?}", auth[4]) };
    assert!(proposals.iter().all(|proposal| proposal.protocol == ProtocolId::ESP && proposal.child_spi().is_some()));
    let expected = ["10.1.0.0/24", "10.2.0.0/24"];
    for (payload, expected) in auth[5..7].iter().zip(expected) {
        let (Payload::TsI(selectors) | Payload::TsR(selectors)) = payload else { panic!("{payload:?}") };
        let [TrafficSelector::Ip(selector)] = selectors[..] else { panic!("{selectors:?}") };
        assert!(matches!(selector.addresses, AddressRange::V4 { .. }));
        assert_eq!(selector.to_string(), expected);
    }
    let last = &messages[9];
    assert_eq!((last.payloads.len(), last.show.as_str()), (0, "INFORMATIONAL response 4"));
    let header = Message::decode(&last.datagrams[0]).unwrap().header;
    assert_eq!((header.exchange, header.next_payload), (ExchangeType::INFORMATIONAL, PayloadType::SK));
}
