//! What a peer may have of Child SAs, and what becomes of them.

use adit_proto::control::Selector;
use adit_proto::ike::{AddressRange, Delete, IkeSpi, IpSelector, Payload};
use adit_proto::limits::LANE_BITS;
use adit_proto::suite::Suite;
use proptest::prelude::*;

use std::net::Ipv4Addr;

use super::*;
use crate::crypto::{Prf, Secret};
use crate::ike::child::{Limits, RekeyCollision, Sending, Usage};
use crate::ike::config::{ChildConfig, EndpointConfig, Lifetime, Mode, Now};
use crate::ike::context::Ctx;
use crate::ike::endpoint::Endpoint;
use crate::ike::exchange::{Answer, Effect, Established, UnderWay};
use crate::ike::facts::{Facts, IkeSpis};
use crate::ike::informational;
use crate::ike::selectors::{SelectorPair, pair_of};
use crate::ike::share;
use crate::ike::standing::Standing;
use crate::ike::testing::{instant, peer_config};
use crate::ike::trust::Trust;
use crate::ike::wire::Came;
use crate::ike::wishes::{self, Ask};
use crate::limits::CHILDREN_SPARE;
use crate::path::Hop;
use crate::shown::Shown;

fn choice() -> Choice {
    let (suite, prf) = (Suite::Aes128Gcm, Some(Prf::HmacSha256));
    Choice {
        number: 1,
        suite,
        prf,
        key_exchange: None,
        additional: Vec::new(),
        esn: true,
        spi: Vec::new(),
        transforms: Vec::new(),
    }
}

/// With one child of so many lanes at our end.
fn session(lanes: u8) -> Session {
    let mut random = |out: &mut [u8]| out.fill(7);
    let name = "lan".into();
    let (proposals, local, remote) = (Vec::new(), Vec::new(), Vec::new());
    let (mode, lifetime, pairs) = (Mode::Ethernet, Lifetime::CHILD, Vec::new());
    let child = ChildConfig { name, mode, proposals, local, remote, pairs, lifetime, lanes };
    let config = PeerConfig { children: vec![child], ..peer_config() };
    let material = Secret::copy_of(&[7; MATERIAL_LEN]);
    let keys = IkeKeys::from_material(Prf::HmacSha256, Suite::Aes128Gcm, material).expect("the length");
    let made = Made { keys, choice: choice(), lowest_nonce: Vec::new() };
    let proof = Proof::new(Shown::default(), Shown::default(), false, Trust::of(&config), Standing::default());
    let lifetimes = Lifetimes::new(instant(), &config.ike_lifetime, &mut random);
    Session::new(PeerId(1), Arc::new(config), false, made, proof, lifetimes)
}

/// SK_d, SK_pi and SK_pr of HMAC-SHA-256, SK_ei and SK_er of AES-128 with their salts.
const MATERIAL_LEN: usize = 3 * 32 + 2 * 20;

fn child(lane: u8, number: u32, state: ChildState) -> Child {
    Child {
        id: ChildId::ONLY,
        config: 0,
        lane,
        mode: Mode::Ethernet,
        inbound: Spi(number),
        outbound: Spi(number),
        choice: choice(),
        selectors: SelectorPair::ethernet(),
        born: instant(),
        limits: Limits::default(),
        usage: Usage::default(),
        sending: Sending::Installed,
        replaces: None,
        state,
        superseded: false,
        granted_in: None,
        rekeying: false,
        collision: None,
    }
}

#[test]
fn lanes_come_in_order_and_no_more_than_agreed() {
    let now = instant();
    let mut session = session(2);
    session.wants.set_peer_lanes(3);
    let ethernet = SelectorPair::ethernet();
    let may = |session: &Session, lane| session.may_have(now, (0, lane), &ethernet);
    assert_eq!((may(&session, 0), may(&session, 1)), (Ok(None), Err(LocalFault::Busy)));
    session.children.adopt(child(0, 1, ChildState::Live));
    assert_eq!((may(&session, 1), may(&session, 2)), (Ok(Some(ChildId::ONLY)), Err(LocalFault::Busy)));
    session.children.adopt(child(1, 2, ChildState::Live));
    assert_eq!((may(&session, 2), may(&session, 3)), (Ok(Some(ChildId::ONLY)), Err(LocalFault::Children)));
    // A lane that is about to go is none to build on.
    session.close_child(Spi(1));
    assert_eq!(may(&session, 2), Err(LocalFault::Busy));
    assert_eq!(session.may_have(now, (1, 1), &ethernet), Err(LocalFault::Children), "there is no such child");
}

/// A connection that another product began, with three configured pairs of networks and a Child SA for the first of them.
fn answered(pairs: &[Selector]) -> Session {
    let mut session = session(1);
    let mut config = (*session.config).clone();
    (config.children[0].mode, config.children[0].pairs) = (Mode::Tunnel, pairs.to_vec());
    session.config = Arc::new(config);
    session.children.adopt(covering(&pairs[0], 1));
    session
}

fn covering(pair: &Selector, number: u32) -> Child {
    Child { mode: Mode::Tunnel, selectors: wishes::sides([pair]), ..child(0, number, ChildState::Live) }
}

fn three_pairs() -> Vec<Selector> {
    let network = |site: u8, n: u8| {
        IpSelector::any_of(AddressRange::V4 { first: [10, site, n, 0].into(), last: [10, site, n, 255].into() })
    };
    (1..=3).filter_map(|n| pair_of(&network(1, n), &network(2, n))).collect()
}

fn ask_again(session: &mut Session, now: Instant, is_adit: bool) {
    session.wants.ask_again(now, &session.config, &session.children, is_adit);
}

fn to_ask_for(session: &Session) -> Vec<Selector> {
    session.wants.to_ask_for(&session.config, &session.children, 0, false).pairs
}

#[test]
fn what_the_one_who_began_leaves_out_is_asked_for_after_a_pause() {
    let (pairs, is_adit) = (three_pairs(), false);
    let mut session = answered(&pairs);
    session.want_missing_children(is_adit);
    let mut now = instant();
    assert!(session.agenda.is_empty() && session.wants.deadline().is_some_and(|at| at <= now), "the pause begins");
    ask_again(&mut session, now, is_adit);
    session.want_missing_children(is_adit);
    assert!(session.agenda.is_empty());
    // The peer makes another one itself meanwhile.
    session.children.adopt(covering(&pairs[1], 2));
    now = session.wants.deadline().expect("the end of the pause");
    ask_again(&mut session, now, is_adit);
    session.want_missing_children(is_adit);
    assert_eq!(session.next_task(now), Some(Task::CreateChild { config: 0, method: None }));
    assert_eq!(to_ask_for(&session), [pairs[2]]);
    // To another Adit it is left for good.
    let mut session = answered(&pairs);
    session.want_missing_children(true);
    ask_again(&mut session, now, true);
    session.want_missing_children(true);
    assert!(session.agenda.is_empty() && session.wants.deadline().is_none());
}

#[test]
fn what_the_one_who_began_ends_or_refuses_stays_so() {
    let pairs = three_pairs();
    let mut session = answered(&pairs[..2]);
    let mut endpoint = Endpoint::new(EndpointConfig::default(), Box::new(|out: &mut [u8]| out.fill(7)));
    let mut now = instant();
    session.wants.leave_to_peer(now, vec![Wish::Selector(0, pairs[0])]);
    drop(session.children.take());
    let mut asked = 0;
    for _ in 0..100 {
        session.want_missing_children(false);
        let Some(at) = session.wants.deadline() else { break };
        now = now.max(at);
        ask_again(&mut session, now, false);
        session.want_missing_children(false);
        if session.next_task(now).is_some() {
            asked += 1;
            assert_eq!(to_ask_for(&session), [pairs[1]]);
            let mut random = |out: &mut [u8]| out.fill(7);
            let mut ctx = Ctx::new(Now { instant: now, unix: 0 }, &mut random, &mut endpoint.shared);
            session.create_later(&mut ctx, vec![Wish::Selector(0, pairs[1])], (0, 0), None);
        }
    }
    assert_eq!((asked, session.wants.deadline()), (3, None));
}

#[test]
fn of_two_rekeys_at_once_the_one_of_the_peer_is_known_once_it_is_made() {
    let mut session = session(1);
    let collision = Some(RekeyCollision { inbound: Spi(2), lowest_nonce: vec![1] });
    session.children.adopt(Child { collision, ..child(0, 1, ChildState::Live) });
    let of = |session: &Session, spi| (session.children.collision_of(Spi(spi)), session.children.successor_of(Spi(spi)));
    assert_eq!(of(&session, 1), (None, None), "it waits for additional key exchanges");
    session.children.adopt(child(0, 2, ChildState::Live));
    assert_eq!((of(&session, 1), of(&session, 2)), ((Some(Spi(2)), Some(Spi(2))), (None, None)));
}

#[test]
fn of_what_was_replaced_the_oldest_goes_where_there_is_too_much() {
    let mut config = EndpointConfig::default();
    config.limits.workers = 2;
    let mut endpoint = Endpoint::new(config, Box::new(|out: &mut [u8]| out.fill(7)));
    let mut session = session(2);
    let spi = |number: u32, lane: u32| Spi(number << LANE_BITS | lane);
    // On the first lane one that was replaced long ago, on the second two later ones.
    for (number, lane, seconds) in [(1, 0, 1), (2, 1, 3), (3, 1, 2)] {
        let (by, since) = (spi(9, lane), instant() + std::time::Duration::from_secs(seconds));
        let (inbound, state) = (spi(number, lane), ChildState::Replaced { by, since });
        session.children.adopt(Child { inbound, ..child(lane as u8, number, state) });
        let held = (0, Mode::Ethernet, &SelectorPair::ethernet());
        endpoint.shared.spis.children.hold(PeerId(1), (SaId(IkeSpi(1)), inbound), Some(ChildId::ONLY), held, 1);
    }
    let given_up = |endpoint: &Endpoint, session: &mut Session, sas: usize| {
        let mut own = (*session.config).clone();
        own.share.sas = sas;
        session.config = Arc::new(own);
        let crowded = share::crowded(&endpoint.shared, session)?;
        share::oldest_replaced(session, crowded).map(|(_, _, inbound)| inbound)
    };
    assert_eq!([5, 4, 3].map(|sas| given_up(&endpoint, &mut session, sas)), [None, Some(spi(3, 1)), Some(spi(1, 0))]);
    // Where there are too many in all, it is the oldest of all.
    (10..60).for_each(|number| endpoint.shared.spis.children.hold_late(PeerId(1), spi(number, number % 2)));
    assert_eq!(given_up(&endpoint, &mut session, 1000), Some(spi(1, 0)));
}

proptest! {
    /// At the limit nothing is in the way of what is there: all of it can be rekeyed, at one time.
    #[test]
    fn whoever_has_all_it_may_have_can_rekey_it(lanes in 1u8..5, workers in 1u16..4, sas in 4usize..40) {
        let mut config = EndpointConfig::default();
        config.limits.workers = workers;
        let mut endpoint = Endpoint::new(config, Box::new(|out: &mut [u8]| out.fill(7)));
        let mut session = session(lanes);
        let mut own = (*session.config).clone();
        own.share.sas = sas;
        session.config = Arc::new(own);
        let mut random = |out: &mut [u8]| out.fill(7);
        let mut ctx = Ctx::new(Now { instant: instant(), unix: 0 }, &mut random, &mut endpoint.shared);
        let (owner, workers) = (SaId(IkeSpi(1)), usize::from(workers));
        let place = |ctx: &mut Ctx, number: u32, (id, lane): (ChildId, u8)| {
            let spi = Spi(number << LANE_BITS | u32::from(lane));
            ctx.shared.spis.children.hold(PeerId(1), (owner, spi), Some(id), (0, Mode::Ethernet, &SelectorPair::ethernet()), 1);
            spi
        };
        let places = |ctx: &Ctx, lane: u8| ctx.shared.spis.children.on_worker(PeerId(1), usize::from(lane) % workers, workers);
        let mut number = 0;
        for id in 0..64 {
            for lane in 0..lanes {
                if share::has_room(&ctx, &session, lane, true).is_err() {
                    let (here, all) = (places(&ctx, lane), session.children.len());
                    let most = 4 * usize::from(lanes) + CHILDREN_SPARE;
                    prop_assert!(all == most || 2 * (here.receiving + 1) + here.sending + 1 > sas, "{all} of {most}, {here:?} of {sas}");
                    continue;
                }
                number += 1;
                let spi = place(&mut ctx, number, (ChildId(id), lane));
                session.children.adopt(Child { id: ChildId(id), inbound: spi, outbound: spi, ..child(lane, 0, ChildState::Live) });
            }
        }
        let live: Vec<(ChildId, u8)> = session.children.iter().map(Child::place).collect();
        for one in live {
            prop_assert_eq!(share::has_room(&ctx, &session, one.1, false), Ok(()));
            number += 1;
            place(&mut ctx, number, one);
            let here = places(&ctx, one.1);
            prop_assert!(here.receiving + here.sending <= sas);
        }
        // Who has more than leaves room for one more is told on which worker.
        let full: Vec<usize> = (0..workers).filter(|worker| {
            let here = ctx.shared.spis.children.on_worker(PeerId(1), *worker, workers);
            here.receiving + here.sending + 2 > sas
        }).collect();
        let is_crowded = share::crowded(ctx.shared, &session).is_some();
        let most = 2 * (4 * usize::from(lanes) + CHILDREN_SPARE);
        prop_assert_eq!(is_crowded, !full.is_empty() || ctx.shared.spis.children.count(PeerId(1)) >= most);
    }
}

/// A connection with a peer of another make that we began, with a smaller pair and a larger one, and a Child SA for the smaller.
fn nested(asks: bool) -> (Session, [Selector; 2]) {
    let [small, large] = [24, 16].map(|bits: u32| {
        let last = Ipv4Addr::from_bits(0x0a02_0100 | (u32::MAX >> bits));
        let first = Ipv4Addr::from_bits(0x0a02_0100 & !(u32::MAX >> bits));
        Selector::any_of(three_pairs()[0].local, AddressRange::V4 { first, last })
    });
    let mut session = answered(&[small, large]);
    session.wants = Wants::new(asks);
    session.original_initiator = asks;
    (session, [small, large])
}

fn ask(session: &Session) -> Ask {
    session.wants.to_ask_for(&session.config, &session.children, 0, false)
}

/// The remote networks of a request.
fn remotes(ask: &Ask) -> Vec<String> {
    ask.selectors.remote.iter().map(ToString::to_string).collect()
}

#[test]
fn a_larger_pair_is_asked_for_as_it_is_and_then_what_is_left_of_it() {
    let (mut session, [small, large]) = nested(true);
    assert_eq!((ask(&session).pairs, remotes(&ask(&session))), (vec![large], vec!["10.2.0.0/16".to_owned()]));
    assert!(session.missing().iter().any(|(wish, _)| *wish == Wish::Selector(0, large)), "nothing of it is its own");
    // The peer has narrowed it to the smaller one again.
    let again = Plan { pairs: vec![large], had: Carried::OfOthers, selectors: wishes::sides([&small]), ..Plan::default() };
    assert!(session.is_redundant(&again));
    let mut endpoint = Endpoint::new(EndpointConfig::default(), Box::new(|out: &mut [u8]| out.fill(7)));
    let mut random = |out: &mut [u8]| out.fill(7);
    let mut ctx = Ctx::new(Now { instant: instant(), unix: 0 }, &mut random, &mut endpoint.shared);
    session.create_later(&mut ctx, vec![Wish::Selector(0, large)], (0, 0), None);
    assert!(ask(&session).pairs.is_empty(), "it waits");
    let now = session.wants.deadline().expect("it is asked for again");
    ask_again(&mut session, now, false);
    assert_eq!(remotes(&ask(&session)), ["10.2.0.0/24", "10.2.2.0-10.2.255.255"]);
    // Half of that comes.
    let half = Selector { remote: AddressRange::V4 { first: [10, 2, 128, 0].into(), last: [10, 2, 255, 255].into() }, ..large };
    let new = Plan { selectors: wishes::sides([&half]), ..again };
    assert!(!session.is_redundant(&new));
    session.children.adopt(covering(&half, 2));
    assert_eq!(remotes(&ask(&session)), ["10.2.0.0/24", "10.2.2.0-10.2.127.255"]);
    let narrowed = session.narrowed();
    assert_eq!((narrowed.len(), narrowed[0].0, &narrowed[0].1), (1, large, &vec![half]), "the smaller one is another pair");
    assert!(session.missing().is_empty());
    session.children.adopt(covering(&large, 3));
    assert!(ask(&session).pairs.is_empty() && session.narrowed().is_empty());
}

#[test]
fn of_what_the_one_who_began_took_a_part_the_rest_is_left_to_it() {
    let (mut session, [_, large]) = nested(false);
    let mut now = instant();
    // Nothing of the larger one is there: after a pause it is asked for, as it is.
    session.want_missing_children(false);
    ask_again(&mut session, now, false);
    assert!(ask(&session).pairs.is_empty());
    now = session.wants.deadline().expect("the end of the pause");
    ask_again(&mut session, now, false);
    assert_eq!((ask(&session).pairs, remotes(&ask(&session))), (vec![large], vec!["10.2.0.0/16".to_owned()]));
    // The peer makes one for a part of it: that is what it wants.
    let half = Selector { remote: AddressRange::V4 { first: [10, 2, 128, 0].into(), last: [10, 2, 255, 255].into() }, ..large };
    session.children.adopt(covering(&half, 2));
    assert!(ask(&session).pairs.is_empty());
    session.want_missing_children(false);
    assert!(session.next_task(now).is_none());
    assert_eq!(session.narrowed().len(), 1, "and said");
}

#[test]
fn what_an_old_process_was_refused_is_not_made_twice_by_the_next() {
    let (mut session, [_, large]) = nested(true);
    session.wants = Wants::new(true).taken_over();
    assert_eq!(remotes(&ask(&session)), ["10.2.0.0/24", "10.2.2.0-10.2.255.255"]);
    // Nor is the one pair of a peer, which was asked for in IKE_AUTH.
    session.wants = Wants::new(true);
    let mut config = (*session.config).clone();
    config.children[0].pairs = vec![large];
    session.config = Arc::new(config);
    assert_eq!(remotes(&ask(&session)), ["10.2.0.0/24", "10.2.2.0-10.2.255.255"]);
}

#[test]
fn a_child_sa_that_a_delete_names_twice_is_deleted_and_answered_once() {
    let mut session = session(2);
    session.children.adopt(child(0, 1, ChildState::Live));
    session.children.adopt(child(1, 2, ChildState::Live));
    let mut endpoint = Endpoint::new(EndpointConfig::default(), Box::new(|out: &mut [u8]| out.fill(7)));
    let mut random = |out: &mut [u8]| out.fill(7);
    let mut ctx = Ctx::new(Now { instant: instant(), unix: 0 }, &mut random, &mut endpoint.shared);
    let hop = Hop::new("192.0.2.1:500".parse().unwrap(), "192.0.2.2:500".parse().unwrap());
    let facts = Facts::new(Role::Responder, IkeSpis::default(), hop);
    // The second one is deleted by us as well: there each end names its half in its own request only.
    let request = UnderWay { deletes: &[Spi(2)], is_about_child: true };
    let sa = Established { facts: &facts, session: &session, request, expected_id: 3, came: Came { hop, bytes: 100 } };
    let parts = Parts::sort(vec![Delete::esp(vec![Spi(1), Spi(9), Spi(1), Spi(2)]).into()]).expect("a request");
    let Answer { payloads, before, after } = informational::answer(&mut ctx, &sa, &parts);
    assert_eq!(payloads, [Payload::from(Delete::esp(vec![Spi(1)]))]);
    let deleted = |effect: &Effect| if let Effect::DeletedByPeer(inbound) = effect { Some(*inbound) } else { None };
    assert_eq!(before.iter().map(deleted).collect::<Vec<_>>(), [Some(Spi(1)), Some(Spi(2))]);
    assert!(after.is_empty() && session.children.len() == 2, "nothing is done before the effects are carried out");
}
