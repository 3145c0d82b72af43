//! What clients are told of STUN and TURN: where they are, and credentials for TURN that hold for a while, belong to the client's key, and come
//! anew when half of that has passed.
//!
//! The secret of which the passwords are made is drawn when the relay begins and is nowhere else: a relay that ends takes all that it has
//! lent with it. Whoever leaves keeps what he was given until it ends by itself.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use adit_engine::crypto::Secret;
use adit_engine::turn::credentials;
use adit_proto::relay::{FromRelay, Password, PeerKey, Transport};
use anyhow::Context;
use zeroize::Zeroizing;

use crate::config::{REALM, Reaching};
use crate::reach::Reach;

/// A secret that nobody knows.
pub(crate) fn secret() -> anyhow::Result<Secret> {
    let mut bytes = Zeroizing::new([0; 32]);
    aws_lc_rs::rand::fill(&mut bytes[..]).ok().context("the random number generator failed")?;
    Ok(Secret::copy_of(&bytes[..]))
}

/// What is told.
pub(crate) struct Grants {
    stun: Vec<SocketAddr>,
    turn: Option<Turn>,
}

struct Turn {
    secret: Secret,
    life: Duration,
    servers: Vec<(Transport, SocketAddr)>,
}

impl Grants {
    /// Of what is served, if anything is.
    pub(crate) fn new(reach: Option<&Reach>, config: Option<&Reaching>, secret: Secret) -> Grants {
        let life = config.and_then(|config| config.turn.as_ref()).map(|turn| turn.life);
        let turn = life.zip(reach).map(|(life, reach)| Turn { secret, life, servers: reach.turn().to_vec() });
        Grants { stun: reach.map(|reach| reach.stun().to_vec()).unwrap_or_default(), turn }
    }

    /// What one client is told, and when.
    pub(crate) fn turns(&self, key: PeerKey) -> Turns<'_> {
        Turns { grants: self, key, next: None, has_begun: false, waiting: VecDeque::new() }
    }

    fn record_of_turn(&self, key: PeerKey, unix: u64) -> Option<Vec<u8>> {
        let turn = self.turn.as_ref()?;
        let name = credentials::name(&key.to_string(), unix.saturating_add(turn.life.as_secs()));
        let password = credentials::password(&turn.secret, &name);
        let record = FromRelay::Turn {
            name: &name,
            realm: REALM,
            password: Password(&password),
            life_s: u32::try_from(turn.life.as_secs()).unwrap_or(u32::MAX),
            servers: turn.servers.clone(),
        };
        record.encode().ok()
    }
}

/// The records for one client, in their time.
pub(crate) struct Turns<'a> {
    grants: &'a Grants,
    key: PeerKey,
    next: Option<Instant>,
    has_begun: bool,
    waiting: VecDeque<Vec<u8>>,
}

impl Turns<'_> {
    /// The client has got its welcome.
    pub(crate) fn begin(&mut self, now: Instant) {
        if std::mem::replace(&mut self.has_begun, true) {
            return;
        }
        self.next = self.grants.turn.is_some().then_some(now);
        if !self.grants.stun.is_empty() {
            self.waiting.extend(FromRelay::Stun { servers: self.grants.stun.clone() }.encode());
        }
    }

    /// When there is something.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.next
    }

    /// What is to be sent now.
    pub(crate) fn poll(&mut self, now: Instant) -> Option<Vec<u8>> {
        if self.next.is_some_and(|next| next <= now) {
            let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
            self.waiting.extend(self.grants.record_of_turn(self.key, unix));
            self.next = self.grants.turn.as_ref().map(|turn| now + turn.life / 2);
        }
        self.waiting.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::start;

    const KEY: PeerKey = PeerKey([7; 32]);

    fn grants(life: Option<u64>) -> Grants {
        let at = "192.0.2.1:3478".parse().expect("an address");
        let turn = |life| Turn {
            secret: secret().expect("random numbers"),
            life: Duration::from_secs(life),
            servers: vec![(Transport::UDP, at)],
        };
        Grants { stun: vec![at], turn: life.map(turn) }
    }

    #[test]
    fn a_client_is_told_after_its_welcome_and_again_at_half_time() {
        let grants = grants(Some(3600));
        let mut turns = grants.turns(KEY);
        assert_eq!((turns.poll(start()), turns.next()), (None, None), "nothing comes before the welcome");
        turns.begin(start());
        turns.begin(start());
        let kinds: Vec<u8> = std::iter::from_fn(|| turns.poll(start())).map(|record| record[0]).collect();
        assert_eq!(kinds, [0x8d, 0x8e]);
        assert_eq!(turns.next(), Some(start() + Duration::from_secs(1800)));
        assert_eq!(turns.poll(start() + Duration::from_secs(1799)), None);
        assert!(turns.poll(start() + Duration::from_secs(1800)).is_some());
    }

    #[test]
    fn without_turn_there_is_stun_alone() {
        let grants = grants(None);
        let mut turns = grants.turns(KEY);
        turns.begin(start());
        assert_eq!(turns.poll(start()).map(|record| record[0]), Some(0x8d));
        assert_eq!((turns.poll(start()), turns.next()), (None, None));
    }

    #[test]
    fn credentials_are_of_a_key_and_a_time() {
        let grants = grants(Some(60));
        let bytes = grants.record_of_turn(KEY, 1000).expect("a record");
        let Ok(Some(FromRelay::Turn { name, password, life_s, .. })) = FromRelay::decode(&bytes) else {
            panic!("no record of TURN")
        };
        assert_eq!((name, life_s), (&*format!("1060:{KEY}"), 60));
        let turn = grants.turn.as_ref().expect("TURN");
        assert_eq!(password.0, &*credentials::password(&turn.secret, name));
        assert_ne!(Some(bytes), grants.record_of_turn(PeerKey([8; 32]), 1000));
    }
}
