//! Who asks: long-term credentials (RFC 8489 §9.2.4) whose user name tells identity and expiry, and what strangers are told.
use super::super::credentials::{identity, long_term_key, password};
use super::super::link::{Link, Tuple};
use super::{Count, Now, Outside, Server};
use crate::limits::TURN_STALE_LEN_MAX;
use crate::stun::codec::{Class, Integrity, Key, Message, Writer, kind};
use crate::stun::nonces::Shown;
use crate::stun::strangers::Silence;

/// Somebody who has proven to have credentials.
pub(super) struct Known<'a> {
    pub(super) identity: &'a str,
    key: Key,
    integrity: Integrity,
}

/// What somebody is told who has not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doubt {
    /// 400: something is missing.
    Incomplete,
    /// 401: no credentials, wrong ones or expired ones.
    Unknown,
    /// 438 to somebody who knows the password.
    Stale,
    /// 438 to anybody.
    StaleStranger,
    /// Nothing: his network asks too often.
    TooOften,
}

impl Server {
    /// A question: whoever has credentials is answered as he asked.
    pub(super) fn handle_request(&mut self, now: Now, from: Tuple, message: &Message<'_>, outside: &mut Outside<'_>) {
        match self.admit(now, from, message) {
            Err(doubt) => self.challenge(now, from, message, doubt),
            Ok(known) => {
                let mut out = match self.grant(now, from, message, &known, outside) {
                    Ok(out) => {
                        self.counters.add(Count::Granted, 1);
                        out
                    }
                    Err(refusal) => {
                        self.counters.add(Count::Refused, 1);
                        refusal.answer(message)
                    }
                };
                out.seal(known.integrity, &known.key);
                self.answer(from, out.finish());
            }
        }
    }

    /// The checks of RFC 8489 §9.2.4, in their order but for one: the code is compared before the age of the nonce is told, so that whoever
    /// knows the password gets a new nonce whatever strangers do, in his network or elsewhere. A client of ours therefore seals its first
    /// question already, with the realm that it was told and any nonce. Four hashes are computed for that, under the one lock through
    /// which all payload goes, so of forged ones with an old nonce only so many are; who has a fresh nonce is at the address that he
    /// shows, and his network has a share.
    ///
    /// PASSWORD-ALGORITHMS (RFC 8489 §9.2.4) is not sent: it would make the answer to a stranger longer than most questions, and the one
    /// algorithm that there is leaves nothing to bid down to.
    fn admit<'a>(&mut self, now: Now, from: Tuple, message: &Message<'a>) -> Result<Known<'a>, Doubt> {
        if !message.has_integrity() {
            return Err(Doubt::Unknown);
        }
        let (Some(name), Some(realm), Some(nonce)) =
            (message.text(kind::USERNAME), message.get(kind::REALM), message.get(kind::NONCE))
        else {
            return Err(Doubt::Incomplete);
        };
        let fresh = self.nonces.judge(now.at, from.client, nonce) == Shown::Fresh;
        if fresh && !self.strangers.take_check(now.at, from.client.ip()) {
            return Err(Doubt::TooOften);
        }
        if !fresh && (message.wire_len() > TURN_STALE_LEN_MAX || !self.stale_checks.take(now.at)) {
            return Err(Doubt::StaleStranger);
        }
        let known = || {
            let identity = identity(name, now.unix).filter(|_| realm == self.config.realm.as_bytes())?;
            let key = long_term_key(name, &self.config.realm, &password(&self.config.secret, name));
            let integrity = message.sealed_by(&key)?;
            Some(Known { identity, key, integrity })
        };
        match (known(), fresh) {
            (Some(known), true) => Ok(known),
            (Some(_), false) => Err(Doubt::Stale),
            (None, false) => Err(Doubt::StaleStranger),
            (None, true) => Err(Doubt::Unknown),
        }
    }

    /// Says what is missing, in as few bytes as can be: no answer of several hundred goes to whom a false address belongs.
    fn challenge(&mut self, now: Now, to: Tuple, message: &Message<'_>, doubt: Doubt) {
        let (number, count) = match doubt {
            Doubt::Incomplete => (400, Count::Challenged),
            Doubt::Unknown => (401, Count::Challenged),
            Doubt::Stale | Doubt::StaleStranger => (438, Count::StaleNonce),
            Doubt::TooOften => return self.counters.add(Count::OverAsked, 1),
        };
        let mut out = Writer::answer(Class::Error, message);
        out.put_error(number);
        if doubt != Doubt::Incomplete {
            out.put(kind::REALM, self.config.realm.as_bytes());
            out.put(kind::NONCE, self.nonces.fresh(now.at, to.client).as_bytes());
        }
        let (bytes, asked) = (out.finish(), message.wire_len());
        // Over a stream nobody has a false address, and connections are counted. Whoever knows the password is no stranger; with
        // all that he must have sent, his question is the longer one.
        let may = match (to.link, doubt) {
            (Link::Stream(_), _) => Ok(()),
            (Link::Udp(_), Doubt::Stale) if bytes.len() <= asked => Ok(()),
            (Link::Udp(_), _) => self.strangers.take(now.at, to.client.ip(), asked, bytes.len()),
        };
        match may {
            Ok(()) => {
                self.counters.add(count, 1);
                self.answer(to, bytes);
            }
            Err(Silence::Longer) => self.counters.add(Count::Longer, 1),
            Err(Silence::Often) => self.counters.add(Count::Often, 1),
        }
    }
}
