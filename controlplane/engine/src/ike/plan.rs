//! What a Child SA is to be, between the wish and the keys: offered, narrowed, chosen (RFC 7296 §1.2, §1.3, §2.9).
//!
//! IKE_AUTH and CREATE_CHILD_SA carry the same payloads for it, so both come here.

use adit_proto::control::{ChildId, Selector, Spi};
use adit_proto::ike::{ExchangeType, Notify, NotifyType, Payload, PayloadType};

use crate::crypto::KeyExchangeMethod;

use super::agreed::Creating;
use super::child::Child;
use super::config::{ChildConfig, Mode, PeerConfig};
use super::context::LANES_MAX;
use super::coverage::Carried;
use super::error::{Error, Incompatibility, LocalFault, Misbehaviour};
use super::facts::Role;
use super::negotiate::{self, Alternative, Choice};
use super::parts::{Parts, needed};
use super::selectors::{self, SelectorPair};
use super::vendor;

/// A Child SA that we want, or are about to grant.
#[derive(Clone, Debug, Default)]
pub(super) struct Plan {
    /// The Child SA of which it is to be a lane, or that is to be rekeyed; another one is given its id when it is made.
    pub id: Option<ChildId>,
    /// Index in the peer's configured children.
    pub config: usize,
    pub lane: u8,
    pub mode: Mode,
    /// Our SPI.
    pub inbound: Spi,
    /// The Child SA whose place it is to take, by our SPI.
    pub replaces: Option<Spi>,
    /// What we offered, or what was agreed.
    pub selectors: SelectorPair,
    /// The configured selectors that it is asked for.
    pub pairs: Vec<Selector>,
    /// How much of these is there already.
    pub had: Carried,
    /// What a rekey must not leave out (RFC 7296 §2.9.2).
    pub at_least: SelectorPair,
    /// The peer's rekey of the same Child SA has been completed meanwhile.
    pub overtaken: bool,
}

/// All that makes a Child SA, except the place where it goes.
pub(super) struct Creation {
    pub plan: Plan,
    pub choice: Choice,
    /// Ours in the exchange that makes it.
    pub role: Role,
    pub nonce_i: Vec<u8>,
    pub nonce_r: Vec<u8>,
}

impl Creating for Creation {
    fn choice(&self) -> &Choice {
        &self.choice
    }
}

impl Creation {
    /// The smaller nonce, which decides between two rekeys of the same SA (RFC 7296 §2.8.1).
    pub(super) fn lowest_nonce(&self) -> Vec<u8> {
        self.nonce_i.as_slice().min(&self.nonce_r).to_vec()
    }
}

/// What an exchange needs to know to grant a Child SA.
pub(super) struct Asked<'a> {
    pub exchange: ExchangeType,
    /// In IKE_AUTH there is no key exchange for it.
    pub first: bool,
    /// The one to be replaced.
    pub old: Option<&'a Child>,
    /// The peer is Adit: it names the lane.
    pub adit: bool,
}

/// What was granted, before there is an SPI.
pub(super) struct Granted {
    pub config: usize,
    pub lane: u8,
    pub mode: Mode,
    pub selectors: SelectorPair,
    pub choice: Choice,
}

/// The payloads that ask for a Child SA, or grant it. `sa` and `between` (nonce, key exchange) go where the RFC draws them.
pub(super) fn payloads(plan: &Plan, sa: Payload, between: Vec<Payload>, role: Role, adit: bool) -> Vec<Payload> {
    let mut out: Vec<Payload> = Vec::new();
    if plan.mode == Mode::Ethernet {
        out.push(Notify::new(vendor::ETHERNET).into());
    }
    out.push(sa);
    out.extend(between);
    let (local, remote) = (selectors::to_wire(&plan.selectors.local), selectors::to_wire(&plan.selectors.remote));
    let (ts_i, ts_r) = if role == Role::Initiator { (local, remote) } else { (remote, local) };
    out.extend([Payload::TsI(ts_i), Payload::TsR(ts_r)]);
    if adit {
        // RFC 9611 §5.1 leaves the content open; among ourselves it is the lane.
        out.push(Notify::new(NotifyType::SA_RESOURCE_INFO).with_data([plan.lane]).into());
    }
    out
}

/// Our side and the peer's of the selectors in a message, without the ones of unknown type.
fn selector_pair(parts: &Parts, exchange: ExchangeType, role: Role) -> Result<SelectorPair, Error> {
    let ts_i = selectors::known(needed(parts.ts_i.as_deref(), exchange, PayloadType::TS_I)?);
    let ts_r = selectors::known(needed(parts.ts_r.as_deref(), exchange, PayloadType::TS_R)?);
    Ok(match role {
        Role::Initiator => SelectorPair { local: ts_i, remote: ts_r },
        Role::Responder => SelectorPair { local: ts_r, remote: ts_i },
    })
}

fn mode_of(parts: &Parts) -> Mode {
    if parts.has(vendor::ETHERNET) { Mode::Ethernet } else { Mode::Tunnel }
}

/// The responder's decision about a Child SA that the peer asks for.
///
/// # Errors
/// No configured child fits.
pub(super) fn grant(
    config: &PeerConfig,
    parts: &Parts,
    asked: &Asked,
    sent: Option<KeyExchangeMethod>,
) -> Result<Granted, Error> {
    let proposals = needed(parts.sa.as_deref(), asked.exchange, PayloadType::SA)?;
    let offered = selector_pair(parts, asked.exchange, Role::Responder)?;
    let mode = mode_of(parts);
    let mut refusal = Error::Incompatible(Incompatibility::Mode);
    // One that has all that is wanted comes before one that has a part of it.
    let mut children: Vec<(usize, &ChildConfig)> = config.children.iter().enumerate().collect();
    children.sort_by_key(|(_, child)| !child.policy().covers(&offered));
    for (index, child) in children {
        if asked.old.is_some_and(|old| old.config != index) || child.mode != mode {
            continue;
        }
        let Some(selectors) = narrow(&offered, child, asked.old) else {
            refusal = Error::Incompatible(Incompatibility::Selectors);
            continue;
        };
        let alternatives = negotiate::child_alternatives(&child.proposals, asked.first);
        match negotiate::choose(&alternatives, proposals, sent) {
            Ok(choice) => {
                choice.child_spi().ok_or(Misbehaviour::BadSpi)?;
                let named = lane_of(parts, asked.adit);
                if asked.old.is_some_and(|old| asked.adit && old.lane != named) {
                    // The peer has it for another lane: it is to ask for a new one.
                    return Err(LocalFault::NoSuchChild.into());
                }
                let lane = asked.old.map_or(named, |old| old.lane);
                return Ok(Granted { config: index, lane, mode, selectors, choice });
            }
            Err(mismatch) => refusal = Error::Incompatible(Incompatibility::ChildProposal(mismatch)),
        }
    }
    Err(refusal)
}

/// What both ends allow. A rekey must not give less than there is (RFC 7296 §2.9.2).
fn narrow(offered: &SelectorPair, child: &ChildConfig, old: Option<&Child>) -> Option<SelectorPair> {
    let Some(old) = old else { return offered.narrow(&child.policy()) };
    let narrowed = offered.narrow(&child.policy()).filter(|pair| pair.covers(&old.selectors));
    narrowed.or_else(|| offered.covers(&old.selectors).then(|| old.selectors.clone()))
}

/// The lane that a peer of our own kind names.
fn lane_of(parts: &Parts, adit: bool) -> u8 {
    let named = parts.notify(NotifyType::SA_RESOURCE_INFO).and_then(|notify| notify.data.last().copied());
    named.filter(|lane| adit && *lane < LANES_MAX).unwrap_or(0)
}

/// The initiator's check of what was granted.
///
/// # Errors
/// It is not what was asked for.
pub(super) fn check_answer(
    plan: &mut Plan,
    offered: &[Alternative],
    parts: &Parts,
    exchange: ExchangeType,
    adit: bool,
) -> Result<Choice, Error> {
    let proposals = needed(parts.sa.as_deref(), exchange, PayloadType::SA)?;
    let choice = negotiate::confirm(offered, proposals).map_err(Misbehaviour::NotOffered)?;
    choice.child_spi().ok_or(Misbehaviour::BadSpi)?;
    if mode_of(parts) != plan.mode {
        return Err(Incompatibility::Mode.into());
    }
    // After a process that went on with an old vault, the peer may answer what its predecessor asked under the same message id.
    if adit && lane_of(parts, adit) != plan.lane {
        return Err(Misbehaviour::OtherLane.into());
    }
    let granted = selector_pair(parts, exchange, Role::Initiator)?;
    if granted.local.is_empty() || granted.remote.is_empty() || !plan.selectors.covers(&granted) {
        return Err(Misbehaviour::WiderSelectors.into());
    }
    if !granted.covers(&plan.at_least) {
        return Err(Misbehaviour::NarrowerSelectors.into());
    }
    plan.selectors = granted;
    Ok(choice)
}
