//! What a STUN server answers to strangers, to clients with a key and on an open server, and what a flood gets out of it.
use std::time::Duration;

use super::*;
use crate::limits::OPEN_ANSWERS;
use crate::stun::codec::{BindingAnswer, BindingRequest, kind};
use crate::testing::instant;

const NAME: Name = [9; 8];
const KEY: [u8; 16] = [7; 16];
const FIRST: Place = Place { address: 0, port: 0 };

fn socket(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn client() -> SocketAddr {
    socket("192.0.2.7:4500")
}

fn server(open: bool, two_addresses: bool) -> Server {
    let at = |text| Some(socket(text));
    let second = if two_addresses { [at("203.0.113.2:3478"), at("203.0.113.2:3479")] } else { [None; 2] };
    let places = [[at("203.0.113.1:3478"), at("203.0.113.1:3479")], second];
    Server::new(Config { places, open }, instant(), &mut |out: &mut [u8]| out.fill(3))
}

fn user_name(name: &Name) -> String {
    URL_SAFE_NO_PAD.encode(name)
}

fn key_of(name: &Name) -> Option<Key> {
    (*name == NAME).then(|| Key::new(&KEY))
}

fn ask(server: &mut Server, request: &BindingRequest<'_>) -> Option<Answer> {
    ask_at(server, instant(), client(), request)
}

fn ask_at(server: &mut Server, now: Instant, from: SocketAddr, request: &BindingRequest<'_>) -> Option<Answer> {
    server.handle_datagram(now, FIRST, from, &request.encode(), &mut key_of)
}

fn read(answer: &Answer) -> BindingAnswer {
    BindingAnswer::of(&Message::parse(&answer.bytes).expect("a message")).expect("an answer")
}

fn padded(len: usize) -> BindingRequest<'static> {
    BindingRequest { transaction: *b"twelve bytes", len, ..BindingRequest::default() }
}

#[test]
fn a_stranger_learns_his_address_and_nothing_else() {
    let mut server = server(false, true);
    let answer = ask(&mut server, &padded(548)).expect("an answer");
    assert_eq!((answer.from, answer.to, answer.bytes.len()), (FIRST, client(), 32));
    let read = read(&answer);
    assert_eq!((read.mapped, read.origin, read.other), (Some(client()), None, None));
    for request in [
        BindingRequest { change: Change { address: true, port: true }, ..padded(200) },
        BindingRequest { response_port: Some(53), ..padded(200) },
        BindingRequest { response_port: Some(7777), ..padded(200) },
    ] {
        let answer = ask(&mut server, &request).expect("an answer");
        let message = Message::parse(&answer.bytes).expect("a message");
        assert_eq!(
            (message.error(), answer.from, answer.to, message.get(kind::UNKNOWN_ATTRIBUTES).map(<[u8]>::len)),
            (420, FIRST, client(), Some(2))
        );
    }
    // That was the share of his network in this second.
    assert_eq!(ask(&mut server, &padded(548)), None);
    assert_eq!(
        [server.counters().get(Count::Answered), server.counters().get(Count::Refused), server.counters().get(Count::Often)],
        [1, 3, 1]
    );
}

#[test]
fn an_unpadded_question_is_answered_when_it_comes_again() {
    let mut server = server(false, false);
    let plain = Writer::new(Class::Request, BINDING, *b"twelve bytes").finish();
    let mut ask = || server.handle_datagram(instant(), FIRST, client(), &plain, &mut |_| None).map(|answer| answer.bytes.len());
    assert_eq!([ask(), ask(), ask()], [None, Some(32), None]);
    assert_eq!(server.counters().get(Count::Longer), 2);
}

#[test]
fn a_client_with_a_key_gets_the_tests_of_rfc_5780() {
    let mut server = server(false, true);
    let (name, key) = (user_name(&NAME), Key::new(&KEY));
    let request = |address, port| BindingRequest { change: Change { address, port }, sealed: Some((&name, &key)), ..padded(200) };
    for (address, port, origin) in [
        (false, false, "203.0.113.1:3478"),
        (false, true, "203.0.113.1:3479"),
        (true, false, "203.0.113.2:3478"),
        (true, true, "203.0.113.2:3479"),
    ] {
        let answer = ask(&mut server, &request(address, port)).expect("an answer");
        assert_eq!((answer.from, answer.registers), (Place { address: address.into(), port: port.into() }, None));
        let message = Message::parse(&answer.bytes).expect("a message");
        assert_eq!((message.sealed_by(&key), message.address(kind::MAPPED_ADDRESS)), (Some(Integrity::Sha256), Some(client())));
        let read = read(&answer);
        assert_eq!(
            (read.mapped, read.origin, read.other),
            (Some(client()), Some(socket(origin)), Some(socket("203.0.113.2:3479")))
        );
    }
    let elsewhere = BindingRequest { response_port: Some(7777), ..request(false, false) };
    assert_eq!(ask(&mut server, &elsewhere).map(|answer| answer.to), Some(socket("192.0.2.7:7777")));
    // No room for all of it: the address alone, sealed, since the client takes nothing else.
    let short = BindingRequest { len: 0, ..request(false, false) };
    let (asked, answer) = (short.encode().len(), ask(&mut server, &short).expect("an answer"));
    assert!(answer.bytes.len() <= asked, "{} of {asked}", answer.bytes.len());
    assert!(read(&answer).other.is_none() && Message::parse(&answer.bytes).expect("a message").sealed_by(&key).is_some());
    let wrong = BindingRequest { response_port: Some(53), ..request(false, false) };
    let answer = ask(&mut server, &wrong).expect("an answer");
    assert_eq!((read(&answer).error, answer.to), (Some(400), client()), "services are not written to");
    assert!(Message::parse(&answer.bytes).expect("a message").sealed_by(&key).is_some(), "a refusal is sealed, too");
}

#[test]
fn a_client_has_a_share_of_its_own() {
    let mut server = server(false, true);
    let (name, key) = (user_name(&NAME), Key::new(&KEY));
    let request = BindingRequest { sealed: Some((&name, &key)), ..padded(200) };
    let answered = (0..200).filter(|_| ask(&mut server, &request).is_some()).count();
    assert_eq!((answered, server.counters().get(Count::Often)), (STUN_CLIENT_ANSWERS as usize, 200 - answered as u64));
    assert!(ask(&mut server, &padded(200)).is_some(), "strangers of his network have another one");
    assert!(ask_at(&mut server, instant() + Duration::from_secs(1), client(), &request).is_some());
}

#[test]
fn only_who_shows_the_nonce_of_his_address_is_there() {
    let mut server = server(false, true);
    let (name, key) = (user_name(&NAME), Key::new(&KEY));
    let request = |nonce| BindingRequest { register: Some(nonce), sealed: Some((&name, &key)), ..padded(200) };
    let nonce_of =
        |answer: &Answer| Message::parse(&answer.bytes).expect("a message").text(kind::REGISTER).expect("a nonce").to_owned();
    let first = ask(&mut server, &request("")).expect("an answer");
    let nonce = nonce_of(&first);
    assert_eq!((first.registers, nonce.len()), (None, 16));
    let second = ask(&mut server, &request(&nonce)).expect("an answer");
    assert_eq!((second.registers, second.to, nonce_of(&second).len()), (Some(NAME), client(), 16));
    // The same question from elsewhere, whoever repeats it, and a victim whose nonce nobody has.
    for from in ["192.0.2.7:4501", "198.51.100.9:4500"] {
        let answer = ask_at(&mut server, instant(), socket(from), &request(&nonce)).expect("an answer");
        assert_eq!((answer.registers, answer.to), (None, socket(from)));
    }
    let late = ask_at(&mut server, instant() + NONCE_LIFE, client(), &request(&nonce)).expect("an answer");
    assert_eq!(late.registers, None);
    // Other questions of a client say nothing of where it is to be found, nor does one whose answer goes to another port.
    let plain = BindingRequest { register: None, ..request("") };
    assert_eq!(ask(&mut server, &plain).map(|answer| answer.registers), Some(None));
    let elsewhere = BindingRequest { response_port: Some(7777), ..request(&nonce) };
    assert_eq!(ask(&mut server, &elsewhere).map(|answer| answer.registers), Some(None));
    // Nor does anybody without the key.
    let unsealed = BindingRequest { sealed: None, ..request(&nonce) };
    assert_eq!(ask(&mut server, &unsealed).map(|answer| answer.registers), Some(None));
    assert_eq!(server.counters().get(Count::Registered), 1);
}

#[test]
fn one_address_names_no_other_and_cannot_change_it() {
    let mut server = server(true, false);
    // RFC 5780 §6 and §7.4: another port alone is no other address.
    assert_eq!(ask(&mut server, &padded(0)).map(|answer| read(&answer).other), Some(None));
    let change = BindingRequest { change: Change { address: true, port: false }, ..padded(0) };
    assert_eq!(ask(&mut server, &change).map(|answer| read(&answer).error), Some(Some(420)));
}

#[test]
fn an_open_server_answers_a_whole_search_and_no_flood() {
    let mut server = server(true, true);
    let answered = (0..1000).filter(|_| ask(&mut server, &padded(0)).is_some()).count();
    assert_eq!(answered, OPEN_ANSWERS as usize);
    let mut padding = Writer::new(Class::Request, BINDING, *b"twelve bytes");
    padding.put(kind::PADDING, &[0; 1400]);
    let padding = padding.finish();
    let other = socket("198.51.100.1:5000");
    let answer = server.handle_datagram(instant(), FIRST, other, &padding, &mut |_| None).expect("an answer");
    assert_eq!((read(&answer).error, answer.bytes.len()), (Some(420), 36), "no fragments for whom a false address belongs");
}

#[test]
fn a_wrong_key_is_told_so() {
    let mut server = server(false, true);
    let (right, wrong) = (user_name(&NAME), user_name(&[1; 8]));
    for (name, key) in [(&*wrong, &KEY), (&*right, &[1; 16]), ("somebody", &KEY)] {
        let key = Key::new(key);
        let answer = ask(&mut server, &BindingRequest { sealed: Some((name, &key)), ..padded(200) }).expect("an answer");
        assert_eq!((read(&answer).error, answer.bytes.len()), (Some(401), 28));
    }
    assert_eq!(server.counters().get(Count::WrongKey), 3);
}

#[test]
fn over_a_stream_nothing_can_be_changed() {
    let answer = |request: BindingRequest<'_>| {
        let bytes = answer_on_stream(client(), &request.encode()).expect("an answer");
        BindingAnswer::of(&Message::parse(&bytes).expect("a message")).expect("an answer")
    };
    assert_eq!(answer(padded(0)).mapped, Some(client()));
    let change = BindingRequest { change: Change { address: true, port: true }, ..padded(0) };
    assert_eq!((answer(change).error, answer(change).mapped), (Some(420), None));
}

#[test]
fn a_port_of_zero_or_half_an_attribute_is_a_bad_request() {
    let mut server = server(true, true);
    for value in [&[0, 0, 0, 0][..], &[1, 2]] {
        let mut out = Writer::new(Class::Request, BINDING, *b"twelve bytes");
        out.put(kind::RESPONSE_PORT, value);
        let answer = server.handle_datagram(instant(), FIRST, client(), &out.finish(), &mut |_| None).expect("an answer");
        assert_eq!(read(&answer).error, Some(400));
    }
}

#[test]
fn answers_and_indications_are_not_answered() {
    let mut server = server(true, true);
    for (class, method) in [(Class::Success, BINDING), (Class::Error, BINDING), (Class::Indication, BINDING), (Class::Request, 3)]
    {
        let bytes = Writer::new(class, method, *b"twelve bytes").finish();
        assert_eq!(server.handle_datagram(instant(), FIRST, client(), &bytes, &mut |_| None), None);
    }
    assert_eq!(server.handle_datagram(instant(), FIRST, client(), b"no STUN", &mut |_| None), None);
    assert_eq!((server.counters().get(Count::Foreign), server.counters().get(Count::Malformed)), (4, 1));
    assert_eq!(server.counters().named().filter(|(_, count)| *count > 0).count(), 2);
}

/// A hundred thousand questions under false addresses: no network gets more bytes than were sent in its name.
#[test]
fn a_flood_gets_no_more_bytes_out_than_it_puts_in() {
    let mut server = server(false, true);
    let (mut sent, mut received) = ([0_usize; 256], [0_usize; 256]);
    for number in 0..100_000_u32 {
        let network = (number.wrapping_mul(2_654_435_761) >> 24) as u8;
        let from = SocketAddr::from(([198, 51, network, number as u8], 5000));
        let bytes = padded(if number % 3 == 0 { 0 } else { (number % 400) as usize }).encode();
        let now = instant() + Duration::from_micros(u64::from(number) * 50);
        let answer = server.handle_datagram(now, FIRST, from, &bytes, &mut |_| None);
        sent[usize::from(network)] += bytes.len();
        received[usize::from(network)] += answer.map_or(0, |answer| answer.bytes.len());
    }
    for (network, (sent, received)) in sent.into_iter().zip(received).enumerate() {
        assert!((1..=sent).contains(&received), "{network}: {received} of {sent}");
    }
}
