//! The record of a negotiation, and what it says when it failed: what we offered, what they offered, what to change.

use std::fmt;

use adit_proto::ike::{NotifyType, Proposal};

use super::cause::{Cause, Whose};
use super::config::PeerConfig;
use super::error::{Error, Incompatibility, LocalFault, Misbehaviour};
use super::facts::Role;
use super::negotiate::{self, Choice};
use super::parts::Parts;
use super::selectors::{self, SelectorPair};
use crate::limits::PROPOSALS_SHOWN_MAX;
use crate::shown::Shown;

/// What both ends offered of one thing, as text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offers {
    pub ours: Vec<Shown>,
    pub theirs: Vec<Shown>,
    pub chosen: Option<Shown>,
}

/// The last negotiation with a peer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Who began it.
    pub role: Option<Role>,
    /// Algorithms of the IKE SA.
    pub ike: Offers,
    /// Algorithms of the Child SA that was negotiated last.
    pub child: Offers,
    /// Its traffic: ours and the peer's side, each time.
    pub selectors: Offers,
    /// Identities: whom we expect as `ours`, who came as `theirs`.
    pub identities: Offers,
    /// Whom the peer asked for, and who we are.
    pub own_identity: Offers,
    /// Names of post-quantum pre-shared keys (RFC 8784).
    pub ppk: Offers,
    /// Virtual addresses that a client asks for, of which none are given.
    pub addresses: Offers,
    /// What an answer said that nothing authenticates.
    pub hint: Option<Shown>,
    pub problem: Option<Problem>,
}

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub cause: Cause,
    /// What to do about it.
    pub remedy: String,
}

/// One line of the difference between the two ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    pub what: &'static str,
    pub ours: String,
    pub theirs: String,
}

impl Record {
    pub(super) fn begin_ike(&mut self, role: Role, ours: &[Proposal]) {
        // What went wrong stays until it is put right: it is the answer while the next try has none yet.
        *self = Record { role: Some(role), problem: self.problem.take(), ..Record::default() };
        self.ike.ours = texts(ours);
    }

    pub(super) fn chosen_ike(&mut self, choice: &Choice) {
        self.ike.chosen = Some(Shown::of(choice));
    }

    /// The algorithms that were agreed when it was not known yet with whom: not what this peer may have.
    pub(super) fn agreed_too_early(&mut self, agreed: &str) {
        (self.ike.theirs, self.ike.chosen) = (vec![Shown::of(agreed)], None);
    }

    pub(super) fn begin_child(&mut self, role: Role, ours: &[Proposal], selectors: &SelectorPair) {
        self.role = Some(role);
        self.child = Offers { ours: texts(ours), ..Offers::default() };
        self.selectors = Offers { ours: vec![pair_text(selectors)], ..Offers::default() };
    }

    /// What the peer asks for in a request for a Child SA, beside what it could have.
    pub(super) fn asked_child(&mut self, config: &PeerConfig, parts: &Parts) {
        self.role = Some(Role::Responder);
        (self.child, self.selectors) = (Offers::default(), Offers::default());
        for child in config.children.iter().take(PROPOSALS_SHOWN_MAX) {
            let alternatives = negotiate::child_alternatives(&child.proposals, false);
            self.child.ours.extend(texts(&negotiate::offer(&alternatives, Vec::new())));
            self.selectors.ours.push(pair_text(&child.policy()));
        }
        self.child.theirs = texts(parts.sa.as_deref().unwrap_or_default());
        let side = |side: &Option<Vec<_>>| selectors::known(side.as_deref().unwrap_or_default());
        let pair = SelectorPair { local: side(&parts.ts_r), remote: side(&parts.ts_i) };
        self.selectors.theirs = vec![pair_text(&pair)];
    }

    pub(super) fn chosen_child(&mut self, choice: &Choice, selectors: &SelectorPair) {
        // What went wrong with it before is over.
        self.problem = None;
        self.child.chosen = Some(Shown::of(choice));
        self.selectors.chosen = Some(pair_text(selectors));
    }

    /// A client wants to be given addresses (RFC 7296 §2.19). It gets none; the connection is made all the same, within the selectors.
    pub(super) fn asked_addresses(&mut self, parts: &Parts) {
        self.addresses = Offers::default();
        if !parts.asked_addresses.is_empty() {
            self.addresses.ours = vec![Shown::of("none are given; let the client name its own network, as in `selectors`")];
            self.addresses.theirs = parts.asked_addresses.iter().map(Shown::of).collect();
        }
    }

    /// What nothing authenticates: shown, but not believed alone.
    pub(super) fn hint(&mut self, error: &Error) {
        self.hint = Some(Shown::of(error));
    }

    pub(super) fn problem(&mut self, cause: &Cause) {
        let mut remedy = remedy(cause);
        let by_ppk = matches!(cause, Cause::Refused { notify: NotifyType::AUTHENTICATION_FAILED, .. });
        if by_ppk && !self.ppk.ours.is_empty() {
            remedy += "; or the post-quantum pre-shared keys differ, in name or contents";
        }
        self.problem = Some(Problem { cause: cause.clone(), remedy });
    }

    /// Where the two ends differ, as far as is known.
    pub fn differences(&self) -> Vec<Difference> {
        let all = [
            ("IKE algorithms", &self.ike),
            ("ESP algorithms", &self.child),
            ("traffic selectors (ours === theirs)", &self.selectors),
            ("the peer's identity", &self.identities),
            ("our identity", &self.own_identity),
            ("names of the post-quantum pre-shared key", &self.ppk),
            ("virtual addresses", &self.addresses),
        ];
        let differs = |offers: &Offers| offers.chosen.is_none() && !offers.ours.is_empty() && !offers.theirs.is_empty();
        let line = |(what, offers): (&'static str, &Offers)| Difference {
            what,
            ours: offers.ours.join(", "),
            theirs: offers.theirs.join(", "),
        };
        all.into_iter().filter(|(_, offers)| differs(offers) && offers.ours != offers.theirs).map(line).collect()
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: we {}; they {}", self.what, self.ours, self.theirs)
    }
}

pub(super) fn texts(proposals: &[Proposal]) -> Vec<Shown> {
    proposals.iter().take(PROPOSALS_SHOWN_MAX).map(Shown::of).collect()
}

fn pair_text(pair: &SelectorPair) -> Shown {
    let side = |side: &[adit_proto::ike::IpSelector]| side.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    Shown::of(format_args!("{} === {}", side(&pair.local), side(&pair.remote)))
}

/// What the operator can do.
pub(super) fn remedy(cause: &Cause) -> String {
    match cause {
        Cause::Failed(Error::Incompatible(Incompatibility::Auth(error))) => error.remedy(),
        Cause::Failed(Error::Incompatible(Incompatibility::AuthOrPpk(error))) => {
            format!("{}; the same holds for the post-quantum pre-shared key", error.remedy())
        }
        cause => plain_remedy(cause).to_owned(),
    }
}

fn plain_remedy(cause: &Cause) -> &'static str {
    match cause {
        Cause::Command | Cause::Removed => "connect the peer again when it is wanted",
        Cause::PeerClosed => "look at the peer's log for why it closed the connection",
        Cause::Unanswered { .. } => {
            "see whether the peer is running, its address is right, and UDP 500 and 4500 pass every firewall on the way"
        }
        Cause::Refused { notify, .. } => remedy_of_refusal(*notify),
        Cause::Failed(error) => remedy_of_error(error),
        Cause::Replaced | Cause::Redundant => "nothing: another IKE SA with this peer is up",
        Cause::Narrowed => "make the traffic selectors of both ends the same, if more is to go through",
        Cause::WantsChildless => "nothing: it is asked again, and the Child SA comes later",
        Cause::PeerCrashed | Cause::PeerRestarted => "nothing: the connection is made anew",
        Cause::TrustChanged => "nothing: the peer authenticates anew; see that the other end has the new credentials, too",
        Cause::CertificateExpired { whose: Whose::Own, .. } => {
            "renew the certificate of this gateway: the new file is taken by itself"
        }
        Cause::CertificateExpired { whose: Whose::Peer, .. } => {
            "renew the certificate at the peer; if it is not that old, set the clock of this gateway"
        }
        Cause::NotReauthenticated => "see why the peer did not: its log may say more; or raise `reauth_s` here",
        Cause::Expired => "see why the rekey failed before the lifetime was over; the peer may refuse CREATE_CHILD_SA",
    }
}

fn remedy_of_refusal(notify: NotifyType) -> &'static str {
    match notify {
        NotifyType::NO_PROPOSAL_CHOSEN => "make `proposals` of both ends overlap; the peer's log says what it wanted",
        NotifyType::AUTHENTICATION_FAILED => {
            "the peer does not accept us: compare the shared key or certificate, and our identity with what the peer expects"
        }
        NotifyType::TS_UNACCEPTABLE => "make the traffic selectors of both ends overlap, and the mode (Ethernet or IP) equal",
        NotifyType::INVALID_SYNTAX => "the peer could not read our message: report it with the logs of both ends",
        NotifyType::NO_ADDITIONAL_SAS => "the peer's limit of SAs is reached: raise it there or ask for fewer",
        NotifyType::INVALID_KE_PAYLOAD => "make the key exchange methods of both ends overlap",
        _ => "the peer's log says more",
    }
}

fn remedy_of_error(error: &Error) -> &'static str {
    match error {
        Error::Malformed(_) => "the peer, or somebody on the way, sends what is not IKE: look at a capture",
        Error::PeerMisbehaved(fault) => match fault {
            Misbehaviour::ForeverTemporary => "the peer's state is out of step: it helps to restart the connection there",
            _ => "report it to the maker of the peer with the logs of both ends",
        },
        Error::Incompatible(incompatibility) => match incompatibility {
            Incompatibility::IkeProposal(_) | Incompatibility::ChildProposal(_) | Incompatibility::KeyExchange(_) => {
                "make `proposals` of both ends overlap in every kind of algorithm"
            }
            Incompatibility::Selectors => "make `local` and `remote` traffic selectors of both ends overlap",
            Incompatibility::TooManySelectors => "ask for fewer or wider traffic selectors at the other end",
            Incompatibility::Taken(_) => {
                "configure a peer for each of them; if the other one is gone, it is found out, and the place is free in half a minute"
            }
            Incompatibility::LongName => "give the client a shorter identity, or configure a peer with exactly this one",
            Incompatibility::Mode => "set the same mode at both ends: Ethernet is for two Adit gateways only",
            Incompatibility::Auth(_) | Incompatibility::AuthOrPpk(_) => {
                "compare keys, certificates, identities and clocks of both ends"
            }
            Incompatibility::NotAtItsEnd => {
                "take whoever it is out of the room: a new token, or a room that lists keys. The peer's own stream is tried by itself"
            }
            Incompatibility::UnknownAddress => {
                "correct the `endpoint` of the peer, or let it come from elsewhere: `from: any`, or a list of networks"
            }
            Incompatibility::OldVersion => "set the peer to IKEv2",
            Incompatibility::UnknownPeer => "configure a peer with this identity, or correct the identity at the other end",
            Incompatibility::SuiteNotAllowed(_) => {
                "nothing, if the peer tries again: its own `proposals` go first at its address now. If it fails again, make them overlap"
            }
            Incompatibility::Ppk => "install the same post-quantum pre-shared key with the same name at both ends",
            Incompatibility::NoIntermediate => "take the additional key exchanges out of the proposal, or upgrade the peer",
            Incompatibility::Refused(notify) => remedy_of_refusal(*notify),
        },
        Error::Local(fault) => match fault {
            LocalFault::Sessions | LocalFault::Children => "raise the limit, or disconnect peers that are not needed",
            LocalFault::Address(..) => {
                "give the peer's `endpoint` an address outside the tunnel to which there is a route, or wait until there is one"
            }
            LocalFault::NoAddress => {
                "correct the name, or see why the name server does not answer (getent ahosts NAME); it is looked up again by itself"
            }
            LocalFault::NotSeen => {
                "start the peer, and compare its `ike.id` and `relay` with what is here (adit status); it is looked for as soon as it is seen"
            }
            LocalFault::NotConfigured(_) => "complete the configuration of the peer",
            LocalFault::DataPlane => "see in the log of this gateway what was refused, and why",
            LocalFault::KeysTooOften => "see at the other end why it rekeys again and again",
            LocalFault::TooOften => "see at the other end why it connects again and again",
            LocalFault::Busy | LocalFault::NoSuchChild | LocalFault::NoSuchExchange => "nothing: it is tried again",
            LocalFault::Sign(_) => "use a kind of key that the peer can verify, or upgrade the peer",
            LocalFault::KeyExchange(_) | LocalFault::Aead(_) | LocalFault::Encode(_) => "report it with the log of this gateway",
        },
    }
}

#[cfg(test)]
mod tests {
    use adit_proto::ike::{CfgAttribute, CfgAttributeType, CfgType, Config, Payload};

    use super::*;

    #[test]
    fn who_asks_for_an_address_is_said_to_get_none() {
        let (v4, v6) = (CfgAttributeType::INTERNAL_IP4_ADDRESS, CfgAttributeType::INTERNAL_IP6_ADDRESS);
        let dns = CfgAttributeType::INTERNAL_IP4_DNS;
        let mut record = Record::default();
        for (kind, asked, said) in [
            (CfgType::REQUEST, &[v6, dns, v4, v4][..], Some("INTERNAL_IP4_ADDRESS, INTERNAL_IP6_ADDRESS")),
            (CfgType::REQUEST, &[v4], Some("INTERNAL_IP4_ADDRESS")),
            (CfgType::REQUEST, &[dns], None),
            (CfgType::REPLY, &[v4], None),
        ] {
            let attributes = asked.iter().map(|kind| CfgAttribute { kind: *kind, value: Vec::new() }).collect();
            record.asked_addresses(&Parts::sort(vec![Payload::Cp(Config { kind, attributes })]).unwrap());
            let theirs: Vec<String> = record.differences().into_iter().map(|difference| difference.theirs).collect();
            assert_eq!(theirs, Vec::from_iter(said));
        }
    }
}
