//! Whole ESP packets that others made, through every backend: they open to the inner packet that their makers name, and
//! sealing that again gives back every byte.
//!
//! All of them have 32-bit sequence numbers, so their additional data is the ESP header as it is on the wire (RFC 4106 §5),
//! not the 12 bytes that Adit's own associations have with extended sequence numbers.

mod aloud;

use std::path::Path;

use adit_esp::aead::{Aead, Backend};
use adit_proto::esp;
use adit_proto::suite::{Suite, TAG_LEN};
use aloud::{backends, say};
use serde_json::Value;

/// One ESP packet without its IP header, and the keys that open it.
struct Packet {
    name: String,
    suite: Suite,
    key: Vec<u8>,
    salt: [u8; 4],
    esp: Vec<u8>,
    inner: Vec<u8>,
    next_header: u8,
}

impl Packet {
    fn check(&self, backend: Backend) {
        let place = format!("{backend} {}", self.name);
        let aead = Aead::new(backend, self.suite, &self.key).expect("a key of the suite");
        let (aad, rest) = self.esp.split_at(esp::HEADER_LEN);
        let (iv, rest) = rest.split_at(esp::IV_LEN);
        let (ciphertext, tag) = rest.split_at(rest.len() - TAG_LEN);
        let nonce = esp::nonce(self.salt, iv.try_into().expect("8 bytes"));
        let tag: [u8; TAG_LEN] = tag.try_into().expect("16 bytes");

        let mut plain = ciphertext.to_vec();
        assert_eq!(aead.open(&nonce, aad, &mut plain, &tag), Ok(()), "{place}");
        let (len, next_header) = esp::strip_trailer(&plain).expect("a trailer of RFC 4303 §2.4");
        assert_eq!((&plain[..len], next_header), (&self.inner[..], self.next_header), "{place}");

        let mut sealed = vec![0; plain.len()];
        let mut sealed_tag = [0; TAG_LEN];
        aead.seal(&nonce, aad, &plain, &mut sealed, &mut sealed_tag);
        assert_eq!((&sealed[..], sealed_tag), (ciphertext, tag), "{place}");
    }
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.chars().filter(|c| !c.is_whitespace()).map(|c| c.to_digit(16).expect("hex") as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

/// RFC 7634, appendix A: an ICMP packet in tunnel mode.
#[test]
fn the_packet_of_rfc_7634_opens_and_seals_in_every_backend() {
    let packet = Packet {
        name: "RFC 7634 appendix A".to_owned(),
        suite: Suite::ChaCha20Poly1305,
        key: (0x80..=0x9f).collect(),
        salt: [0xa0, 0xa1, 0xa2, 0xa3],
        esp: hex("01020304 00000005 1011121314151617
             24039428b97f417e3c13753a4f05087b 67c352e6a7fab1b982d466ef407ae5c6 14ee8099d52844eb61aa95dfab4c02f7
             2aa71e7c4c4f64c9befe2facc638e8f3 cbec163fac469b502773f6fb94e664da 9165b82829f641e0
             76aaa8266b7fb0f7b11b369907e1ad43"),
        inner: hex("45000054a6f200004001e778c6336405c0000205 08005b7a3a080000553bec1000073627
             08090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f202122232425262728292a2b2c2d2e2f3031323334353637"),
        next_header: 4,
    };
    for backend in backends() {
        packet.check(backend);
    }
}

/// draft-mcgrew-gcm-test-01, the IETF's collection of answers for RFC 4106: IPv4 packets in tunnel mode, with a key of either
/// length.
#[test]
fn the_packets_of_the_ietf_for_gcm_open_and_seal_in_every_backend() {
    let packets = [
        Packet {
            name: "AES-128-GCM".to_owned(),
            suite: Suite::Aes128Gcm,
            key: hex("feffe9928665731c6d6a8f9467308308"),
            salt: [0xca, 0xfe, 0xba, 0xbe],
            esp: hex("0000a5f800000001facedbaddecaf888deb22cd9b07c72c16e3a65beeb8df304a5a5897d33ae530f1ba76d5d114d2a5c
                 3de81827c10e9a4f51330d0eec416642cfbb85a5b47e48a4ec3b9ba95d918bd429c737579ff19e58cffc607a3bce8994"),
            inner: hex("4500003e698f000080114dccc0a80102c0a801010a980035002a2343b2d0010000010000000000000373697009637962
                       65726369747902646b0000010001"),
            next_header: 4,
        },
        Packet {
            name: "AES-256-GCM".to_owned(),
            suite: Suite::Aes256Gcm,
            key: hex("abbccddef00112233445566778899aababbccddef00112233445566778899aab"),
            salt: [0x11, 0x22, 0x33, 0x44],
            esp: hex("4a2cbfe3000000010102030405060708ff425c9b724599df7a3bcd510194e00d6a78107f1b0b1cbf06efae9d65a5d763
                 748a637985771d347f0545659f14e99def842d8b00144a1fec6adf0c9a927feea6c51160"),
            inner: hex("4500003069a6400080062690c0a801029389155e0a9e008b2dc57ee0000000007002400020bf0000020405b401010402"),
            next_header: 4,
        },
    ];
    for packet in &packets {
        backends().for_each(|backend| packet.check(backend));
    }
}

/// The AEAD packets among the known answers that DPDK collected, for the suites that Adit has. The file lies beside the
/// project, where there is one.
#[test]
fn known_answers_of_other_makers_open_and_seal_in_every_backend() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/vectors/esp-known-answers.json");
    let Ok(text) = std::fs::read_to_string(&path) else {
        say(format_args!("no ESP known answers at {}", path.display()));
        return;
    };
    let vectors: Vec<Value> = serde_json::from_str(&text).expect("a list of packets");
    let mut run = Vec::new();
    for vector in &vectors {
        match known_answer(vector) {
            Some(packet) => {
                backends().for_each(|backend| packet.check(backend));
                run.push(packet.name);
            }
            None => eprintln!("not a suite of ours: {} {}", vector["name"], vector["algos"]),
        }
    }
    run.sort();
    assert_eq!(run, ["pkt_aes_128_gcm", "pkt_aes_128_gcm_frag", "pkt_aes_256_gcm", "pkt_aes_256_gcm_v6"]);
}

/// None for packets of algorithms, or of AES key lengths, that Adit does not offer.
fn known_answer(vector: &Value) -> Option<Packet> {
    let field = |name: &str| vector[name].as_str().unwrap_or_else(|| panic!("{name} is missing")).to_owned();
    if vector["algos"].as_array().expect("a list").as_slice() != ["AES_GCM"] {
        return None;
    }
    let key = hex(&field("key"));
    let suite = [Suite::Aes128Gcm, Suite::Aes256Gcm].into_iter().find(|suite| suite.key_len() == key.len())?;
    let inner = hex(&field("plain_ip_packet"));
    let outer = hex(&field("esp_ip_packet"));
    // The outer header is left away; the inner one says whether 4 (IPv4) or 41 (IPv6) is carried.
    let outer_header_len = if outer[0] >> 4 == 6 { 40 } else { usize::from(outer[0] & 15) * 4 };
    Some(Packet {
        name: field("name"),
        suite,
        key,
        salt: hex(&field("salt")).try_into().expect("4 bytes"),
        esp: outer[outer_header_len..].to_vec(),
        next_header: if inner[0] >> 4 == 6 { 41 } else { 4 },
        inner,
    })
}
