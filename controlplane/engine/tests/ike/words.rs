//! What others can put into messages, as people read it: one line each that shows, whatever the bytes are.

use std::time::Duration;

use adit_engine::crypto::KeyExchangeMethod;
use adit_engine::ike::{CommandError, Endpoint, EndpointConfig, Event, Explanation, Now, PeerId, PeerStatus, Refusal};
use adit_engine::shown::shows;
use adit_proto::ike::{CertEncoding, ExchangeType, IdType, Identification, IkeSpi, Message, Notify, NotifyType, Payload};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::childless::new_child;
use super::liar::answers_otherwise;
use super::rogue::{Rogue, after_init, framed, has_auth};
use super::strategies::payload;
use adit_sim::certificates::Authority;
use adit_sim::*;

/// All text of it.
fn texts(explanation: &Explanation) -> Vec<String> {
    let record = &explanation.record;
    let offers =
        [&record.ike, &record.child, &record.selectors, &record.identities, &record.own_identity, &record.ppk, &record.addresses];
    let offered = offers.iter().flat_map(|offers| offers.ours.iter().chain(&offers.theirs).chain(&offers.chosen));
    let mut texts: Vec<String> = offered.chain(&record.hint).map(ToString::to_string).collect();
    texts.extend(explanation.cause.iter().map(ToString::to_string));
    texts.extend(record.problem.iter().flat_map(|problem| [problem.cause.to_string(), problem.remedy.clone()]));
    texts.extend(record.differences().iter().map(ToString::to_string));
    texts.extend(explanation.unauthenticated.iter().flat_map(of_refusal));
    texts
}

fn of_refusal(refusal: &Refusal) -> Vec<String> {
    let offered = refusal.ours.iter().chain(&refusal.theirs).map(ToString::to_string);
    std::iter::once(refusal.why.to_string()).chain(offered).collect()
}

fn of_status(status: &PeerStatus) -> Vec<String> {
    let mut texts: Vec<String> = status.cause.iter().map(ToString::to_string).collect();
    for ike in &status.ike {
        texts.extend([ike.suite.clone(), ike.remote_id.to_string(), ike.proof.to_string()]);
        for child in &ike.children {
            texts.push(child.suite.clone());
            texts.extend(child.selectors.local.iter().chain(&child.selectors.remote).map(ToString::to_string));
        }
        let causes = ike.missing.iter().map(|one| &one.cause).chain(ike.narrowed.iter().map(|one| &one.cause));
        texts.extend(causes.flatten().map(ToString::to_string));
        texts.extend(ike.narrowed.iter().flat_map(|one| &one.carried).map(ToString::to_string));
    }
    texts
}

fn of_event(event: &Event) -> Option<String> {
    match event {
        Event::Refused { why, .. } => Some(why.to_string()),
        Event::State { cause: Some(cause), .. } | Event::IkeDown { cause, .. } | Event::ChildFailed { cause, .. } => {
            Some(cause.to_string())
        }
        _ => None,
    }
}

/// Everything that a gateway says of its peer, and of those whom it does not know.
fn all_texts(world: &World, node: usize) -> Vec<String> {
    let node = &world.nodes[node];
    let mut all = texts(&node.endpoint.explain(PEER, world.now).expect("the peer"));
    all.extend(of_status(&node.endpoint.status(PEER).expect("the peer")));
    all.extend(node.endpoint.refusals().flat_map(of_refusal));
    all.extend(node.events.iter().filter_map(of_event));
    all
}

/// Whether it is one line, and nothing in it turns or hides what is beside it.
fn is_shown(text: &str) -> bool {
    text.chars().all(|character| shows(character) || character == ' ')
}

/// Text with what terminals obey, or any bytes. `most`: characters behind that.
fn hostile(most: usize) -> impl Strategy<Value = Vec<u8>> {
    let unseen = "\u{85}\u{ad}\u{34f}\u{200b}\u{202e}\u{2028}\u{2066}\u{3164}\u{fe0f}\u{feff}\u{e0041}";
    let obeyed = format!("[a-z@=,.*]{{0,6}}([\\x00-\\x1f\\x7f{unseen}]|\\x1b\\[2J|\\n2026 INFO up){{1,3}}");
    let text = proptest::string::string_regex(&format!("{obeyed}\\PC{{0,{most}}}")).expect("a pattern");
    prop_oneof![text.prop_map(String::into_bytes), vec(any::<u8>(), 0..300)]
}

/// Where people would read it: in names, of whatever kind, and in what is told beside them.
fn worded() -> impl Strategy<Value = Payload> {
    let identification = || {
        let named = hostile(30).prop_map(|text| Identification { id_type: IdType::DER_ASN1_DN, data: common_name(&text) });
        let other = (0u8..13, hostile(30)).prop_map(|(id_type, data)| Identification { id_type: IdType(id_type), data });
        prop_oneof![named, other]
    };
    let notify = (select(NotifyType::ALL), hostile(30)).prop_map(|(kind, data)| Payload::from(Notify::new(kind).with_data(data)));
    let certificate = (any::<u8>(), hostile(30)).prop_map(|(code, data)| Payload::Cert { encoding: CertEncoding(code), data });
    prop_oneof![
        identification().prop_map(Payload::IdI),
        identification().prop_map(Payload::IdR),
        notify,
        certificate,
        hostile(30).prop_map(Payload::Vendor),
    ]
}

/// A distinguished name of one UTF8String, in DER: as much of it as needs no long form of a length.
fn common_name(text: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(text);
    let end = text.char_indices().map(|(at, _)| at).take_while(|at| *at <= 100).last().unwrap_or(0);
    let tagged = |tag: u8, body: &[u8]| [&[tag, body.len() as u8][..], body].concat();
    let attribute = [&[0x06, 0x03, 0x55, 0x04, 0x03][..], &tagged(0x0c, &text.as_bytes()[..end])].concat();
    tagged(0x30, &tagged(0x31, &tagged(0x30, &attribute)))
}

/// Payloads that come into a message, each in the place of those of its kind or beside them.
type Said = Vec<(bool, Payload)>;

fn said() -> impl Strategy<Value = Said> {
    vec((any::<bool>(), prop_oneof![payload(), worded()]), 1..4)
}

fn mix(payloads: &mut Vec<Payload>, said: &[(bool, Payload)]) {
    for (instead, payload) in said {
        payloads.retain(|one| !instead || one.kind() != payload.kind());
        payloads.insert(0, payload.clone());
    }
}

fn check(world: &World, node: usize) -> Result<(), TestCaseError> {
    for text in all_texts(world, node) {
        prop_assert!(is_shown(&text), "{text:?}");
    }
    Ok(())
}

/// B, and somebody with A's secret who has done IKE_SA_INIT with it.
fn met() -> (World, Rogue) {
    after_init(1, |_, config| config.proposals = vec![classic()])
}

/// A and B, which tells its keys, before they have met.
fn apart() -> World {
    pair_with(1, |_| EndpointConfig { key_log: true, ..endpoint_config(1) }, |_, config| config.initiate = false)
}

/// A and B, connected.
fn together() -> World {
    let mut world = apart();
    world.act(A, |endpoint, now| endpoint.connect(now, PEER)).expect("it has an address");
    world.connect_pair();
    world
}

type Command = fn(&mut Endpoint, Now, PeerId) -> Result<(), CommandError>;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_a_stranger_says_is_shown_on_one_line(
        id_type in 0u8..13,
        (id, asked, ppk, vendor) in (hostile(1500), hostile(1500), hostile(1500), hostile(1500)),
    ) {
        let (mut world, mut rogue) = after_init(1, |_, _| {});
        prop_assert!(rogue.exchange_more(&mut world, KeyExchangeMethod::MlKem768));
        let identification = |data: Vec<u8>| Identification { id_type: IdType(id_type), data };
        let mut payloads = rogue.proof(rogue.next_id, identification(id), None);
        payloads.insert(1, Payload::IdR(identification(asked)));
        payloads.push(Notify::new(NotifyType::PPK_IDENTITY).with_data(ppk).into());
        payloads.push(Payload::Vendor(vendor));
        rogue.next(&mut world, ExchangeType::IKE_AUTH, &payloads);
        world.run_for(Duration::from_millis(10));
        let explained = texts(&world.nodes[B].endpoint.explain(PEER, world.now).expect("the peer"));
        prop_assert!(!explained.is_empty());
        for text in all_texts(&world, B) {
            prop_assert!(is_shown(&text), "{text:?}");
            prop_assert!(text.chars().count() < 2000, "{text}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Before anybody is believed, in the place of a proof, and with one.
    #[test]
    fn what_a_peer_asks_is_shown_on_one_line((init, auth, child, notice) in (said(), said(), said(), said())) {
        let (mut world, mut rogue) = met();
        let (from, to, first) = world.log[0].clone();
        let mut first = Message::decode(&first[4..]).expect("a message");
        first.header.initiator_spi = IkeSpi(7);
        mix(&mut first.payloads, &init);
        world.inject(from, to, framed(&first.encode().expect("a message")));
        world.run_for(Duration::from_millis(10));
        let mut proof = rogue.authentication(None, &[]);
        mix(&mut proof, &auth);
        rogue.next(&mut world, ExchangeType::IKE_AUTH, &proof);
        check(&world, B)?;
        let wanted = new_child(0x1234_5678, net("10.1.0.0/16"), net("10.2.0.0/16"));
        for (kind, mut payloads, said) in [
            (ExchangeType::CREATE_CHILD_SA, wanted, child),
            (ExchangeType::INFORMATIONAL, Vec::new(), notice),
        ] {
            let (mut world, mut rogue) = met();
            prop_assert!(rogue.authenticate(&mut world, None).is_some_and(|answer| has_auth(&answer)));
            mix(&mut payloads, &said);
            rogue.next(&mut world, kind, &payloads);
            check(&world, B)?;
        }
    }

    /// The same of answers.
    #[test]
    fn what_a_peer_answers_is_shown_on_one_line(
        (init, auth, child, ike, notice) in (said(), said(), said(), said(), said()),
    ) {
        for (exchange, said) in [(ExchangeType::IKE_SA_INIT, init), (ExchangeType::IKE_AUTH, auth)] {
            let mut world = apart();
            world.act(A, |endpoint, now| endpoint.connect(now, PEER)).expect("it has an address");
            answers_otherwise(&mut world, B, exchange, |payloads| mix(payloads, &said));
            // Of IKE_SA_INIT a better one is waited for.
            world.run_for(Duration::from_secs(4));
            check(&world, A)?;
        }
        let commands: [(Command, ExchangeType, Said); 3] = [
            (Endpoint::rekey, ExchangeType::CREATE_CHILD_SA, child),
            (Endpoint::rekey_ike, ExchangeType::CREATE_CHILD_SA, ike),
            (Endpoint::check_liveness, ExchangeType::INFORMATIONAL, notice),
        ];
        for (command, exchange, said) in commands {
            let mut world = together();
            world.act(A, |endpoint, now| command(endpoint, now, PEER)).expect("it is connected");
            answers_otherwise(&mut world, B, exchange, |payloads| mix(payloads, &said));
            world.run_for(Duration::from_millis(100));
            check(&world, A)?;
        }
    }
}

#[test]
fn the_name_of_a_ca_that_nobody_knows_is_shown_on_one_line() {
    let (known, strange) = (Authority::new("Root"), Authority::new("Root\n2026 INFO up\u{1b}[2J\u{202e}"));
    for presents in [A, B] {
        let mut world = pair(1, |node, config| {
            let authority = if node == presents { &strange } else { &known };
            config.local_auth = authority.issue_for(&[["a.example.org", "b.example.org"][node]]);
            config.remote_auth = known.trusted();
        });
        world.run_for(Duration::from_secs(2));
        let texts = all_texts(&world, 1 - presents);
        assert!(texts.iter().any(|text| text.contains("2026 INFO up")), "it is told: {texts:?}");
        assert!(texts.iter().all(|text| is_shown(text)), "{texts:?}");
    }
}
