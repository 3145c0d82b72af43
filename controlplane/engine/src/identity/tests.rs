//! Identities as people write them, as peers send them, and which are the same.

use super::*;
use crate::testing::{hex, unhex};
use proptest::prelude::*;

fn id(text: &str) -> Identity {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn pattern(text: &str) -> Pattern {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[test]
fn what_is_written_is_recognised_sent_and_shown() {
    let cases = [
        ("192.0.2.1", "IPv4 address", 1, "c0000201"),
        ("2001:db8::1", "IPv6 address", 5, "20010db8000000000000000000000001"),
        ("gw.example.org", "domain name", 2, "67772e6578616d706c652e6f7267"),
        ("moon", "domain name", 2, "6d6f6f6e"),
        ("ops@example.org", "e-mail address", 3, "6f7073406578616d706c652e6f7267"),
        ("keyid:00ff10", "key id", 11, "00ff10"),
        ("C=CH, CN=moon", "distinguished name", 9, "301c310b3009060355040613024348310d300b06035504030c046d6f6f6e"),
    ];
    for (text, kind, id_type, data) in cases {
        let identity = id(text);
        assert_eq!(identity.kind(), kind);
        assert_eq!(identity.to_string(), text);
        let payload = identity.to_payload();
        assert_eq!((payload.id_type.0, hex(&payload.data).as_str()), (id_type, data), "{text}");
        assert_eq!(Identity::from_payload(&payload), Ok(identity));
    }
}

#[test]
fn what_is_no_identity_is_refused_with_its_reason() {
    let cases = [
        ("  ", "an empty identity; write a domain name, an e-mail address, an IP address, a distinguished name or keyid:"),
        ("10.0.0.0/8", "'/' in the domain name \"10.0.0.0/8\"; ASCII letters, digits, '-', '_' and '.' may stand there"),
        ("gw example", "' ' in the domain name \"gw example\"; ASCII letters, digits, '-', '_' and '.' may stand there"),
        ("@", "an empty identity; write a domain name, an e-mail address, an IP address, a distinguished name or keyid:"),
        ("ops@", "the e-mail address \"ops@\"; it must have one '@' with text on both sides, and no white space"),
        ("a@b@c", "the e-mail address \"a@b@c\"; it must have one '@' with text on both sides, and no white space"),
        (
            "keyid:0xg",
            "\"0xg\" after keyid:; text without white space, or an even number of hexadecimal digits, must stand there",
        ),
        ("keyid:b", "an odd number of hexadecimal digits after keyid:; for the text \"b\" write keyid:62"),
        (
            "CN=a, b",
            "the distinguished name \"CN=a, b\": its part \"b\" has no '='; a comma that belongs to a value is written \\,",
        ),
        ("CN=", "the distinguished name \"CN=\": its part \"CN=\" has no value; write \"\" behind the '=' if it is really empty"),
        (
            "O=\"a, CN=b",
            "the distinguished name \"O=\\\"a, CN=b\": \"O=\\\"a, CN=b\" is no value in quotes; they must be closed, with nothing \
             behind them, and one that belongs to the value is \\\"",
        ),
        (
            "CN=#zz",
            "the distinguished name \"CN=#zz\": the value \"#zz\": what stands behind # must be the DER of one value in \
             hexadecimal digits; a # of its own is written \\#",
        ),
        ("CN=a\\", "the distinguished name \"CN=a\\\\\": it ends within an escape"),
        (
            "XX=a",
            "the distinguished name \"XX=a\": \"XX\" is no attribute type; one of C, ST, L, O, OU, CN, DC, UID, E, serialNumber \
             or dotted numbers must stand there. A comma that belongs to a value is written \\,",
        ),
        (
            "C=Switzerland",
            "the distinguished name \"C=Switzerland\": the value \"Switzerland\" cannot be encoded: a country has two ASCII \
             letters, DC and E are ASCII, and every character shows",
        ),
    ];
    for (text, reason) in cases {
        assert_eq!(text.parse::<Identity>().unwrap_err().to_string(), reason);
    }
    assert_eq!("x".repeat(1025).parse::<Identity>(), Err(IdentityError::TooLong(1025)));
}

#[test]
fn a_type_in_front_holds_whatever_the_text_looks_like() {
    let cases = [
        ("fqdn:192.0.2.2", "fqdn:192.0.2.2", "domain name"),
        ("dns: gw.example.org", "gw.example.org", "domain name"),
        ("fqdn:any/thing:goes", "fqdn:any/thing:goes", "domain name"),
        ("fqdn:*.example.org", "fqdn:*.example.org", "domain name"),
        ("fqdn:keyid:00", "fqdn:keyid:00", "domain name"),
        ("email:ops", "email:ops", "e-mail address"),
        ("email:ops@example.org", "ops@example.org", "e-mail address"),
        ("email:a=b@example.org", "email:a=b@example.org", "e-mail address"),
        ("ip:2001:db8::1", "2001:db8::1", "IPv6 address"),
        ("dn:CN=a", "CN=a", "distinguished name"),
        ("keyid:00ff", "keyid:00ff", "key id"),
        ("keyid:0x00FF", "keyid:00ff", "key id"),
        ("@#00ff", "keyid:00ff", "key id"),
        ("keyid:62656566", "keyid:62656566", "key id"),
        ("keyid:6272616e63682d37", "keyid:branch-7", "key id"),
        ("keyid:branch-7", "keyid:branch-7", "key id"),
        ("@gw.example.org", "gw.example.org", "domain name"),
        ("@192.0.2.2", "fqdn:192.0.2.2", "domain name"),
        ("@@ops@example.org", "ops@example.org", "e-mail address"),
        ("@@ops", "email:ops", "e-mail address"),
        ("fqdn:@gw", "fqdn:@gw", "domain name"),
    ];
    for (text, shown, kind) in cases {
        let identity = id(text);
        assert_eq!((identity.to_string().as_str(), identity.kind()), (shown, kind), "{text}");
        assert_eq!(pattern(shown), Pattern::One(identity), "what is shown can be written");
    }
    assert_ne!(id("fqdn:192.0.2.2"), id("192.0.2.2"));
    for text in ["ip:gw", "ip:", "fqdn:", "fqdn:a b", "email:", "email:a b", "dn:a", "keyid:z z", "keyid:#z", "@#", "@@"] {
        assert!(text.parse::<Identity>().is_err(), "{text}");
    }
}

#[test]
fn the_case_of_domains_does_not_matter_that_of_users_does() {
    assert_eq!(id("GW.Example.org"), id("gw.example.ORG"));
    assert_eq!(id("ops@EXAMPLE.org"), id("ops@example.org"));
    assert_ne!(id("Ops@example.org"), id("ops@example.org"));
    assert_ne!(id("gw.example.org"), id("keyid:67772e6578616d706c652e6f7267"));
    assert_ne!(id("192.0.2.1"), id("::ffff:192.0.2.1"));
}

#[test]
fn names_are_equal_whatever_strings_they_are_made_of() {
    // C=CH, O=Example as PrintableString, UTF8String, TeletexString, BMPString, and with other case and spaces.
    let sent = |value: &str| {
        let attribute = format!("060355040a{value}");
        let set = format!("30{:02x}{attribute}", attribute.len() / 2);
        let part = format!("310b300906035504061302434831{:02x}{set}", set.len() / 2);
        DistinguishedName::from_der(&unhex(&format!("30{:02x}{part}", part.len() / 2))).unwrap()
    };
    let written: DistinguishedName = "C=ch, O=exAMPLE  gmbh".parse().unwrap();
    let same = [
        "130c4578616d706c6520476d6248",
        "0c0c4578616d706c6520476d6248",
        "140c4578616d706c6520476d6248",
        "1e180045 00780061006d0070006c006500200047006d00620048",
        "0c0e 204578616d706c652020476d6248",
    ];
    for value in same {
        assert_eq!(sent(&value.replace(' ', "")), written, "{value}");
    }
    assert_ne!(sent("0c0b4578616d706c65476d6248"), written);
    assert_ne!(sent("040c4578616d706c6520476d6248"), written, "an OCTET STRING is no text");
}

#[test]
fn the_order_of_parts_matters_but_not_to_a_pattern() {
    let written = "CN=moon, O=Example, C=CH";
    assert_ne!(id(written), id("C=CH, O=Example, CN=moon"));
    assert!(pattern(written).matches(&id("C=CH, O=Example, CN=moon")));
    assert!(pattern(written).matches(&id(written)));
    assert!(!pattern(written).matches(&id("O=Example, C=CH, CN=moon")));
    assert!(!pattern(written).matches(&id("CN=moon, O=Example")));
    assert_eq!(id("O=Example, CN=moon+serialNumber=7"), id("O=Example, serialNumber=7+CN=Moon"));
}

#[test]
fn separators_and_control_characters_in_names_are_escaped() {
    let identity = id(r"O=Acme\, Inc., CN=a\+b\\c");
    assert_eq!(identity.to_string(), r"O=Acme\, Inc., CN=a\+b\\c");
    assert_eq!(id(&identity.to_string()), identity);
    let der = unhex("300f310d300b06035504030c04610a620d");
    assert_eq!(DistinguishedName::from_der(&der).unwrap().to_string(), r"CN=a\0Ab\0D");
    assert_eq!(id("1.2.3.4=x").to_string(), "1.2.3.4=x");
}

#[test]
fn a_name_is_its_decoded_parts_however_they_are_written() {
    let same: [&[&str]; 5] = [
        &[
            r"C=CH, O=Example\, Inc., CN=b",
            r#"C=CH, O="Example, Inc.", CN=b"#,
            r"c=CH,o=Example\2c  Inc.,cn=B",
            "/C=CH/O=Example, Inc./CN=b",
        ],
        &[r#"CN="a \"b\"""#, r#"CN=a "b""#, r"CN=a \22b\22"],
        &["CN=Zürich", r"CN=Z\C3\BCrich", "CN=#0c075ac3bc72696368"],
        &[r#"O="a, b"+OU="c+d", CN=e"#, r"OU=c\+d+O=a\, b, CN=e"],
        &["CN=\"\"", "CN=#0c00"],
    ];
    for names in same {
        let first = id(names[0]);
        for name in names {
            assert_eq!(id(name), first, "{name}");
            assert_eq!(pattern(&id(name).to_string()), Pattern::One(first.clone()), "{name}");
        }
    }
    // A star that a peer sends stands for itself.
    let star = id(r"CN=\2A");
    assert!(star.to_string() == r"CN=\2A" && pattern("CN=*").matches(&star) && !pattern(r"CN=\2A").matches(&id("CN=moon")));
}

#[test]
fn patterns_match_what_they_say() {
    let cases = [
        ("*", "anything", true),
        ("%any", "ops@example.org", true),
        ("gw.example.org", "GW.example.org", true),
        ("gw.example.org", "gw2.example.org", false),
        ("*.example.org", "gw.example.org", true),
        ("*.example.org", "gw.site.EXAMPLE.org", true),
        ("*.example.org", "example.org", false),
        ("*.example.org", "badexample.org", false),
        ("*.example.org", "ops@gw.example.org", false),
        ("*@example.org", "ops@Example.org", true),
        ("*@example.org", "ops@sub.example.org", false),
        ("*@example.org", "gw.example.org", false),
        ("C=CH, O=Example, CN=*", "C=CH, O=Example, CN=moon", true),
        ("C=CH, O=Example, CN=*", "C=CH, O=Other, CN=moon", false),
        ("C=CH, O=Example, CN=*", "C=CH, O=Example, OU=moon", false),
        ("192.0.2.1", "192.0.2.1", true),
        ("192.0.2.1", "192.0.2.2", false),
    ];
    for (written, identity, expected) in cases {
        assert_eq!(pattern(written).matches(&id(identity)), expected, "{written} and {identity}");
        assert_eq!(pattern(&pattern(written).to_string()), pattern(written));
    }
    assert_eq!(pattern("gw").exact(), Some(&id("gw")));
    assert_eq!((pattern("*.gw").exact(), pattern("CN=*").exact(), pattern("*").exact()), (None, None, None));
    assert!("*.exa mple".parse::<Pattern>().is_err() && "*@a@b".parse::<Pattern>().is_err());
    assert!("gw.*.org".parse::<Pattern>().is_err());
}

#[test]
fn payloads_that_do_not_fit_their_type_are_refused() {
    let read = |id_type, data: &[u8]| Identity::from_payload(&Identification { id_type, data: data.to_vec() });
    let address = |id_type, len, expected| Err(IdentityError::AddressLength { id_type, len, expected });
    assert_eq!(read(IdType::IPV4_ADDR, &[1, 2, 3]), address(IdType::IPV4_ADDR, 3, 4));
    assert_eq!(read(IdType::IPV6_ADDR, &[0; 17]), address(IdType::IPV6_ADDR, 17, 16));
    assert_eq!(read(IdType::FQDN, b"gw\0.example.org"), Err(IdentityError::Text(IdType::FQDN)));
    assert_eq!(read(IdType::RFC822_ADDR, b"a@b\n"), Err(IdentityError::Text(IdType::RFC822_ADDR)));
    assert_eq!(read(IdType::RFC822_ADDR, &[0xff, 0xfe]), Err(IdentityError::Text(IdType::RFC822_ADDR)));
    assert_eq!(read(IdType::KEY_ID, &[]), Err(IdentityError::Empty));
    assert_eq!(read(IdType::KEY_ID, &[1; 1025]), Err(IdentityError::TooLong(1025)));
    assert_eq!(read(IdType::DER_ASN1_GN, &[1]), Err(IdentityError::Unsupported(IdType::DER_ASN1_GN)));
    let der = |fault| Err(IdentityError::Der { id_type: IdType::DER_ASN1_DN, fault });
    assert_eq!(read(IdType::DER_ASN1_DN, &[0x30, 0]), der(dn::DnFault::Empty));
    assert_eq!(read(IdType::DER_ASN1_DN, &[0x30, 0x80, 0, 0]), der(dn::DnFault::Der));
    assert_eq!(read(IdType::FQDN, b"any/thing:goes"), Ok(Identity::Fqdn("any/thing:goes".into())));
}

#[test]
fn what_cannot_be_seen_is_shown_in_names_and_refused_in_addresses() {
    let escaped = |character: char| character.to_string().bytes().map(|byte| format!("\\{byte:02X}")).collect::<String>();
    let hidden =
        ['\u{202e}', '\u{2066}', '\u{200b}', '\u{200f}', '\u{feff}', '\u{ad}', '\u{e0041}', '\u{2028}', '\u{85}', '\u{a0}'];
    for character in hidden {
        let text = format!("a{character}b");
        let wrap = |tag: u8, content: &[u8]| [&[tag, content.len() as u8], content].concat();
        let attribute = [&[6, 3, 0x55, 4, 3], wrap(0x0c, text.as_bytes()).as_slice()].concat();
        let name = DistinguishedName::from_der(&wrap(0x30, &wrap(0x31, &wrap(0x30, &attribute)))).unwrap();
        assert_eq!(name.to_string(), format!("CN=a{}b", escaped(character)));
        assert!(format!("CN={text}").parse::<Identity>().is_err(), "nobody writes that on purpose");
        let address = Identification { id_type: IdType::RFC822_ADDR, data: format!("a{character}b@example.org").into_bytes() };
        assert_eq!(Identity::from_payload(&address), Err(IdentityError::Text(IdType::RFC822_ADDR)), "{character:?}");
    }
    for text in ["CN=Zürich \"Süd\" O'Hara", "CN=भारती", "CN=日本", "CN=e\u{301}"] {
        assert_eq!(id(text).to_string(), text);
    }
}

proptest! {
    /// A peer may send anything: it is read or refused, and what was read can be shown on one line and sent again.
    #[test]
    fn any_payload_is_read_or_refused(id_type in 0u8..16, data in proptest::collection::vec(any::<u8>(), 0..200)) {
        let payload = Identification { id_type: IdType(id_type), data };
        if let Ok(identity) = Identity::from_payload(&payload) {
            prop_assert!(identity.to_string().chars().all(crate::shown::shows));
            prop_assert_eq!(identity.to_string().parse::<Pattern>(), Ok(Pattern::One(identity.clone())));
            prop_assert_eq!(identity.to_payload(), payload);
        }
    }

    #[test]
    fn any_text_is_read_or_refused(text in ".{0,60}") {
        if let Ok(identity) = text.parse::<Identity>() {
            prop_assert_eq!(Identity::from_payload(&identity.to_payload()).unwrap(), identity.clone());
            prop_assert_eq!(identity.to_string().parse::<Identity>(), Ok(identity));
        }
        let _ = text.parse::<Pattern>();
    }

    /// Bytes that begin like a name reach deeper into its decoder.
    #[test]
    fn mutated_names_are_read_or_refused(at in 0usize..60, value: u8, cut in 0usize..60) {
        let mut der = id("C=CH, O=Example GmbH, OU=ops+CN=moon, E=a@b").to_payload().data;
        let len = der.len();
        der[at % len] = value;
        der.truncate(len - cut % len);
        if let Ok(dn) = DistinguishedName::from_der(&der) {
            prop_assert_eq!(dn.der(), der);
            prop_assert_eq!(dn.to_string().parse(), Ok(dn));
        }
    }

    /// Whatever is in a name, in whatever kind of string, what is shown can be written.
    #[test]
    fn any_name_that_is_shown_can_be_written(values in proptest::collection::vec((0usize..6, 0usize..4, r#"[ "=#,+*/\\a-cüA-F0-9\u{0}\u{202e}]{0,9}"#), 1..4)) {
        let wrap = |tag: u8, content: Vec<u8>| [vec![tag, content.len() as u8], content].concat();
        let part = |(kind, tag, text): &(usize, usize, String)| {
            let oid = [&[0x55u8, 4, 3][..], &[0x55, 4, 6], &[0x55, 4, 5], &[0x55, 4, 10], &[0x2a, 3, 4], &[0x55, 4, 20]][*kind];
            let value = wrap([0x0c, 0x13, 0x14, 0x04][*tag], text.clone().into_bytes());
            wrap(0x31, wrap(0x30, [wrap(6, oid.to_vec()), value].concat()))
        };
        let der = wrap(0x30, values.iter().flat_map(part).collect());
        if let Ok(dn) = DistinguishedName::from_der(&der) {
            prop_assert!(dn.to_string().chars().all(crate::shown::shows), "{}", dn);
            prop_assert_eq!(dn.to_string().parse::<Pattern>(), Ok(Pattern::One(Identity::Dn(dn))));
        }
    }
}
