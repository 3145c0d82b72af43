//! What a peer may have of Child SAs.

use adit_proto::suite::Suite;

use super::*;
use crate::crypto::{Prf, Secret};
use crate::ike::child::{Limits, Sending, Usage};
use crate::ike::config::{ChildConfig, EndpointConfig, Lifetime, Mode, Now};
use crate::ike::context::Ctx;
use crate::ike::endpoint::Endpoint;
use crate::ike::standing::Standing;
use crate::ike::testing::{instant, peer_config};
use crate::ike::trust::Trust;

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
    let proof = Proof::new(String::new(), String::new(), false, Trust::of(&config), Standing::default());
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

#[test]
fn child_sas_have_a_limit_in_all_states_together() {
    let mut session = session(4);
    let live_max = 4 * 4 + CHILDREN_SPARE;
    for number in 0..live_max as u32 {
        assert_eq!(session.has_room(128, true), Ok(()));
        session.children.adopt(child(0, number, ChildState::Live));
    }
    assert_eq!((session.has_room(128, true), session.has_room(128, false)), (Err(LocalFault::Children), Ok(())));
    let by = Spi(0);
    for number in 0..live_max as u32 - 5 {
        session.children.adopt(child(0, 1000 + number, ChildState::Replaced { by, since: instant() }));
    }
    for number in 0..5 {
        assert_eq!(session.has_room(128, false), Ok(()));
        session.children.drain(vec![(instant(), Spi(2000 + number))]);
    }
    assert_eq!(session.has_room(128, false), Err(LocalFault::Busy));
    assert_eq!(session.has_room(1024, false), Err(LocalFault::Busy), "the lanes are the narrower limit");
    let mut endpoint = Endpoint::new(EndpointConfig::default(), Box::new(|out: &mut [u8]| out.fill(7)));
    let mut random = |out: &mut [u8]| out.fill(7);
    session.children.end_draining(&mut Ctx::new(Now { instant: instant(), unix: 0 }, &mut random, &mut endpoint.shared));
    assert_eq!((session.has_room(128, false), session.has_room(40, false)), (Ok(()), Err(LocalFault::Busy)));
}
