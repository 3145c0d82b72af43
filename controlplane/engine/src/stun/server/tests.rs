//! What a STUN server answers to strangers, to clients with a token and on an open server, and what a flood gets out of it.
use std::time::Duration;

use super::*;
use crate::stun::codec::{BindingAnswer, BindingRequest, kind};
use crate::testing::instant;

const TOKEN: Token = [9; 16];
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
    Server::new(Config { places: [[at("203.0.113.1:3478"), at("203.0.113.1:3479")], second], open }, 1)
}

fn ask(server: &mut Server, request: &BindingRequest<'_>) -> Option<Answer> {
    let mut knows = |token: &Token, from: SocketAddr| *token == TOKEN && from == client();
    server.handle_datagram(instant(), FIRST, client(), &request.encode(), &mut knows)
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
        BindingRequest { padding: 100, ..padded(200) },
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
    let mut ask =
        || server.handle_datagram(instant(), FIRST, client(), &plain, &mut |_, _| false).map(|answer| answer.bytes.len());
    assert_eq!([ask(), ask(), ask()], [None, Some(32), None]);
    assert_eq!(server.counters().get(Count::Longer), 2);
}

#[test]
fn a_client_with_a_token_gets_the_tests_of_rfc_5780() {
    let mut server = server(false, true);
    let (name, key) = (token_name(&TOKEN), Key::new(&TOKEN));
    let request = |address, port| BindingRequest { change: Change { address, port }, sealed: Some((&name, &key)), ..padded(200) };
    for (address, port, origin) in [
        (false, false, "203.0.113.1:3478"),
        (false, true, "203.0.113.1:3479"),
        (true, false, "203.0.113.2:3478"),
        (true, true, "203.0.113.2:3479"),
    ] {
        let answer = ask(&mut server, &request(address, port)).expect("an answer");
        assert_eq!(answer.from, Place { address: address.into(), port: port.into() });
        assert_eq!(Message::parse(&answer.bytes).expect("a message").sealed_by(&key), Some(Integrity::Sha256));
        let read = read(&answer);
        assert_eq!(
            (read.mapped, read.origin, read.other),
            (Some(client()), Some(socket(origin)), Some(socket("203.0.113.2:3479")))
        );
    }
    let elsewhere = BindingRequest { response_port: Some(7777), ..request(false, false) };
    assert_eq!(ask(&mut server, &elsewhere).map(|answer| answer.to), Some(socket("192.0.2.7:7777")));
    let filled = BindingRequest { padding: 900, ..request(false, false) };
    let (asked, answer) = (filled.encode().len(), ask(&mut server, &filled).expect("an answer"));
    let padding = Message::parse(&answer.bytes).expect("a message").get(kind::PADDING).map(<[u8]>::len);
    assert!(answer.bytes.len() <= asked && padding > Some(800), "{} of {asked}, {padding:?}", answer.bytes.len());
    let short = BindingRequest { sealed: None, ..padded(28) };
    assert_eq!(ask(&mut server, &short), None);
}

#[test]
fn one_address_tells_its_other_port_and_cannot_change_the_address() {
    let mut server = server(true, false);
    assert_eq!(ask(&mut server, &padded(0)).map(|answer| read(&answer).other), Some(Some(socket("203.0.113.1:3479"))));
    let change = BindingRequest { change: Change { address: true, port: false }, ..padded(0) };
    assert_eq!(ask(&mut server, &change).map(|answer| read(&answer).error), Some(Some(420)));
    let mut answer = || ask(&mut server, &padded(0)).is_some();
    assert_eq!([answer(), answer(), answer()], [true, true, false], "four in a second on an open server too");
}

#[test]
fn a_wrong_token_is_told_so() {
    let mut server = server(false, true);
    let (wrong, key) = (token_name(&[1; 16]), Key::new(&TOKEN));
    for (name, key) in [(&*wrong, &key), (&*wrong, &Key::new(&[1; 16])), ("somebody", &key)] {
        let answer = ask(&mut server, &BindingRequest { sealed: Some((name, key)), ..padded(200) }).expect("an answer");
        assert_eq!((read(&answer).error, answer.bytes.len()), (Some(401), 28));
    }
    assert_eq!(server.counters().get(Count::WrongToken), 3);
}

#[test]
fn a_port_of_zero_or_half_an_attribute_is_a_bad_request() {
    let mut server = server(true, true);
    for value in [&[0, 0, 0, 0][..], &[1, 2]] {
        let mut out = Writer::new(Class::Request, BINDING, *b"twelve bytes");
        out.put(kind::RESPONSE_PORT, value);
        let answer = server.handle_datagram(instant(), FIRST, client(), &out.finish(), &mut |_, _| false).expect("an answer");
        assert_eq!(read(&answer).error, Some(400));
    }
}

#[test]
fn answers_and_indications_are_not_answered() {
    let mut server = server(true, true);
    for (class, method) in [(Class::Success, BINDING), (Class::Error, BINDING), (Class::Indication, BINDING), (Class::Request, 3)]
    {
        let bytes = Writer::new(class, method, *b"twelve bytes").finish();
        assert_eq!(server.handle_datagram(instant(), FIRST, client(), &bytes, &mut |_, _| false), None);
    }
    assert_eq!(server.handle_datagram(instant(), FIRST, client(), b"no STUN", &mut |_, _| false), None);
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
        let answer = server.handle_datagram(now, FIRST, from, &bytes, &mut |_, _| false);
        sent[usize::from(network)] += bytes.len();
        received[usize::from(network)] += answer.map_or(0, |answer| answer.bytes.len());
    }
    for (network, (sent, received)) in sent.into_iter().zip(received).enumerate() {
        assert!((1..=sent).contains(&received), "{network}: {received} of {sent}");
    }
}
