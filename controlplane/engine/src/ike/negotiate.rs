//! The choice of algorithms (RFC 7296 §2.7, §3.3; RFC 9370 §2.2): pure functions from two lists to one choice or a reason.
//!
//! [`Alternative`] is one proposal of ours in the terms of the wire. A responder calls [`choose`], the initiator checks the
//! answer with [`confirm`]; both end in [`Alternative::accept`], so the two ends cannot read the rules differently.

use std::fmt;

use adit_proto::control::Spi;
use adit_proto::ike::{EsnId, IkeSpi, IntegId, KeId, Proposal, ProtocolId, Transform, TransformType};
use adit_proto::suite::Suite;

use crate::crypto::{KeyExchangeMethod, Prf};

use super::config::{ChildProposal, EsnPolicy, IkeProposal};

/// What was agreed for an SA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The number of the proposal that was chosen.
    pub number: u8,
    pub suite: Suite,
    /// Only for an IKE SA.
    pub prf: Option<Prf>,
    /// `None`: no key exchange of its own (Child SAs only).
    pub key_exchange: Option<KeyExchangeMethod>,
    /// Further key exchanges, in the order in which they are made.
    pub additional: Vec<KeyExchangeMethod>,
    pub esn: bool,
    /// The peer's SPI, of 0, 4 or 8 bytes.
    pub spi: Vec<u8>,
    /// The chosen transforms, for the answer.
    pub transforms: Vec<Transform>,
}

impl Choice {
    /// The answer of the responder: the chosen proposal with one transform of each type.
    pub fn answer(&self, protocol: ProtocolId, spi: impl Into<Vec<u8>>) -> Proposal {
        Proposal { number: self.number, protocol, spi: spi.into(), transforms: self.transforms.clone() }
    }

    /// Makes the transforms from the other fields, as they were chosen.
    pub(super) fn rebuild_transforms(&mut self) {
        let mut transforms = vec![Transform::of_suite(self.suite)];
        transforms.extend(self.prf.map(|prf| Transform::prf(prf.id())));
        transforms.extend(self.key_exchange.map(|method| Transform::ke(method.id())));
        if self.prf.is_none() {
            transforms.push(Transform::esn(if self.esn { EsnId::ESN } else { EsnId::NO_ESN }));
        }
        let additional = TransformType::ADDITIONAL_KE.into_iter().zip(&self.additional);
        transforms.extend(additional.map(|(kind, method)| Transform::additional_ke(kind, method.id())));
        self.transforms = transforms;
    }

    /// The peer's SPI of a Child SA; zero to 255 are reserved (RFC 4303 §2.1).
    pub fn child_spi(&self) -> Option<Spi> {
        let spi = u32::from_be_bytes(self.spi.as_slice().try_into().ok()?);
        (spi > 255).then_some(Spi(spi))
    }

    /// The peer's SPI of an IKE SA that replaces another.
    pub fn ike_spi(&self) -> Option<IkeSpi> {
        let spi = IkeSpi::from_bytes(self.spi.as_slice().try_into().ok()?);
        (!spi.is_zero()).then_some(spi)
    }
}

/// As people write suites: `AES_GCM_16_256/PRF_HMAC_SHA2_384/CURVE_25519`.
impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, transform) in self.transforms.iter().enumerate() {
            write!(f, "{}{transform}", if index == 0 { "" } else { "/" })?;
        }
        Ok(())
    }
}

/// No proposal fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// The first type of transform without common ground in the proposal that came closest; `None`: there was no proposal
    /// for this protocol at all.
    pub lacking: Option<TransformType>,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.lacking {
            Some(kind) => write!(f, "no proposal is acceptable to both ends; the closest differs in {kind}"),
            None => f.write_str("there is no proposal for this protocol"),
        }
    }
}

impl std::error::Error for Mismatch {}

/// One proposal of ours: for each type the transforms that we would take, in the order of preference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alternative {
    protocol: ProtocolId,
    encr: Vec<Suite>,
    prf: Vec<Prf>,
    /// Empty: none (Child SAs only).
    ke: Vec<KeyExchangeMethod>,
    /// `None` in a list: the exchange may be left out.
    additional: Vec<Vec<Option<KeyExchangeMethod>>>,
    esn: &'static [EsnId],
}

/// What we offer or accept for an IKE SA.
pub fn ike_alternatives(proposals: &[IkeProposal]) -> Vec<Alternative> {
    proposals
        .iter()
        .map(|proposal| Alternative {
            protocol: ProtocolId::IKE,
            encr: proposal.suites.clone(),
            prf: proposal.prfs.clone(),
            ke: proposal.key_exchanges.clone(),
            additional: proposal.additional.clone(),
            esn: &[],
        })
        .flat_map(Alternative::and_without_additional)
        .collect()
}

/// What we offer or accept for a Child SA. The first one, made in IKE_AUTH, has no key exchange (RFC 7296 §1.2).
pub fn child_alternatives(proposals: &[ChildProposal], first: bool) -> Vec<Alternative> {
    proposals
        .iter()
        .map(|proposal| Alternative {
            protocol: ProtocolId::ESP,
            encr: proposal.suites.clone(),
            prf: Vec::new(),
            ke: if first { Vec::new() } else { proposal.key_exchanges.clone() },
            additional: if first { Vec::new() } else { proposal.additional.clone() },
            esn: match proposal.esn {
                EsnPolicy::Prefer => &[EsnId::ESN, EsnId::NO_ESN],
                EsnPolicy::Require => &[EsnId::ESN],
                EsnPolicy::Never => &[EsnId::NO_ESN],
            },
        })
        .flat_map(Alternative::and_without_additional)
        .collect()
}

/// The SA payload that offers all of these; the proposals are numbered from 1.
pub fn offer(alternatives: &[Alternative], spi: impl Into<Vec<u8>>) -> Vec<Proposal> {
    let spi = spi.into();
    alternatives
        .iter()
        .zip(1..=u8::MAX)
        .map(|(alternative, number)| Proposal {
            number,
            protocol: alternative.protocol,
            spi: spi.clone(),
            transforms: alternative.transforms(),
        })
        .collect()
}

/// The responder's choice: the initiator's first proposal for which one of ours fits, with our preference inside it.
///
/// `sent` is the method of the KE payload that came along: it is taken where it is acceptable, which saves a round trip.
///
/// # Errors
/// Nothing fits.
pub fn choose(ours: &[Alternative], theirs: &[Proposal], sent: Option<KeyExchangeMethod>) -> Result<Choice, Mismatch> {
    let mut closest = Mismatch { lacking: None };
    for proposal in theirs {
        for alternative in ours.iter().filter(|alternative| alternative.protocol == proposal.protocol) {
            match alternative.accept(proposal, sent) {
                Ok(choice) => return Ok(choice),
                Err(kind) => closest.lacking = closest.lacking.max(Some(kind)),
            }
        }
    }
    Err(closest)
}

/// The initiator's check that the answer is one of the things that it offered (RFC 7296 §3.3.6).
///
/// # Errors
/// It is not.
pub fn confirm(offered: &[Alternative], answer: &[Proposal]) -> Result<Choice, Mismatch> {
    let [proposal] = answer else { return Err(Mismatch { lacking: None }) };
    let index = usize::from(proposal.number).wrapping_sub(1);
    let alternative = offered.get(index).filter(|alternative| alternative.protocol == proposal.protocol);
    let alternative = alternative.ok_or(Mismatch { lacking: None })?;
    for (place, transform) in proposal.transforms.iter().enumerate() {
        if proposal.transforms[..place].iter().any(|earlier| earlier.kind == transform.kind) {
            return Err(Mismatch { lacking: Some(transform.kind) });
        }
    }
    alternative.accept(proposal, None).map_err(|kind| Mismatch { lacking: Some(kind) })
}

impl Alternative {
    /// The alternative, and once more without additional key exchanges if all of them are optional: a peer from before RFC 9370
    /// does not know that NONE is one of the choices, and takes no proposal with a transform type that it does not know.
    fn and_without_additional(self) -> impl Iterator<Item = Alternative> {
        let optional = !self.additional.is_empty() && self.additional.iter().all(|methods| methods.contains(&None));
        let without = optional.then(|| Alternative { additional: Vec::new(), ..self.clone() });
        [self].into_iter().chain(without)
    }

    /// The methods that may be chosen for the first key exchange, the preferred one first.
    pub fn key_exchanges(&self) -> &[KeyExchangeMethod] {
        &self.ke
    }

    fn transforms(&self) -> Vec<Transform> {
        let mut out: Vec<Transform> = self.encr.iter().map(|suite| Transform::of_suite(*suite)).collect();
        out.extend(self.prf.iter().map(|prf| Transform::prf(prf.id())));
        out.extend(self.ke.iter().map(|method| Transform::ke(method.id())));
        out.extend(self.esn.iter().map(|esn| Transform::esn(*esn)));
        for (kind, methods) in TransformType::ADDITIONAL_KE.iter().zip(&self.additional) {
            out.extend(
                methods.iter().map(|method| Transform::additional_ke(*kind, method.map_or(KeId::NONE, KeyExchangeMethod::id))),
            );
        }
        out
    }

    /// The choice inside one of their proposals, or the first type of transform that has no common ground.
    fn accept(&self, theirs: &Proposal, sent: Option<KeyExchangeMethod>) -> Result<Choice, TransformType> {
        // A type that we do not know makes the whole proposal unacceptable (RFC 7296 §3.3.6).
        if let Some(strange) = theirs.transforms.iter().find(|transform| !self.may_have(transform.kind)) {
            return Err(strange.kind);
        }
        let offers = |wanted: &Transform| theirs.transforms.contains(wanted);
        let has = |kind| theirs.transforms.iter().any(|transform| transform.kind == kind);
        let first = |kind, wanted: Vec<Transform>| wanted.into_iter().find(&offers).ok_or(kind);

        let suite = *self.encr.iter().find(|suite| offers(&Transform::of_suite(**suite))).ok_or(TransformType::ENCR)?;
        let mut transforms = vec![Transform::of_suite(suite)];
        let prf = self.prf.iter().copied().find(|prf| offers(&Transform::prf(prf.id())));
        match prf {
            Some(prf) => transforms.push(Transform::prf(prf.id())),
            None if self.prf.is_empty() => {}
            None => return Err(TransformType::PRF),
        }
        if has(TransformType::INTEG) {
            // An AEAD needs none; one that is called NONE is as good (RFC 7296 §3.3).
            transforms.push(first(TransformType::INTEG, vec![Transform::integ(IntegId::NONE)])?);
        }
        let key_exchange = self.accept_key_exchange(theirs, sent)?;
        if let Some(method) = key_exchange {
            transforms.push(Transform::ke(method.id()));
        } else if has(TransformType::KE) {
            transforms.push(Transform::ke(KeId::NONE));
        }
        let mut esn = false;
        if !self.esn.is_empty() {
            let chosen = first(TransformType::ESN, self.esn.iter().map(|esn| Transform::esn(*esn)).collect())?;
            esn = chosen.id == EsnId::ESN.0;
            transforms.push(chosen);
        }
        let mut additional = Vec::new();
        self.accept_additional(0, theirs, key_exchange, &mut additional)?;
        for (kind, method) in TransformType::ADDITIONAL_KE.into_iter().zip(&additional).filter(|(kind, _)| has(*kind)) {
            transforms.push(Transform::additional_ke(kind, method.map_or(KeId::NONE, KeyExchangeMethod::id)));
        }
        let additional = additional.into_iter().flatten().collect();
        Ok(Choice { number: theirs.number, suite, prf, key_exchange, additional, esn, spi: theirs.spi.clone(), transforms })
    }

    fn may_have(&self, kind: TransformType) -> bool {
        match kind {
            TransformType::ENCR | TransformType::INTEG | TransformType::KE => true,
            TransformType::PRF => !self.prf.is_empty(),
            TransformType::ESN => !self.esn.is_empty(),
            kind => TransformType::ADDITIONAL_KE.contains(&kind),
        }
    }

    fn accept_key_exchange(
        &self,
        theirs: &Proposal,
        sent: Option<KeyExchangeMethod>,
    ) -> Result<Option<KeyExchangeMethod>, TransformType> {
        let offers = |id| theirs.transforms.contains(&Transform::ke(id));
        if self.ke.is_empty() {
            let absent = !theirs.transforms.iter().any(|transform| transform.kind == TransformType::KE);
            return if absent || offers(KeId::NONE) { Ok(None) } else { Err(TransformType::KE) };
        }
        let sent = sent.filter(|method| self.ke.contains(method) && offers(method.id()));
        let chosen = sent.or_else(|| self.ke.iter().copied().find(|method| offers(method.id())));
        chosen.map(Some).ok_or(TransformType::KE)
    }

    /// Chooses the additional key exchanges from `position` on. No method may be used twice (RFC 9370 §2.2.1), so a choice
    /// that leaves nothing for a later one is taken back.
    fn accept_additional(
        &self,
        position: usize,
        theirs: &Proposal,
        first: Option<KeyExchangeMethod>,
        chosen: &mut Vec<Option<KeyExchangeMethod>>,
    ) -> Result<(), TransformType> {
        let Some(kind) = TransformType::ADDITIONAL_KE.get(position).copied() else { return Ok(()) };
        const NOTHING: &[Option<KeyExchangeMethod>] = &[None];
        let ours = self.additional.get(position).map_or(NOTHING, Vec::as_slice);
        let absent = !theirs.transforms.iter().any(|transform| transform.kind == kind);
        let mut failed_at = kind;
        for method in ours {
            let id = method.map_or(KeId::NONE, KeyExchangeMethod::id);
            let offered = theirs.transforms.contains(&Transform::additional_ke(kind, id)) || (absent && method.is_none());
            let repeated = method.is_some() && (*method == first || chosen.contains(method));
            if !offered || repeated {
                continue;
            }
            chosen.push(*method);
            match self.accept_additional(position + 1, theirs, first, chosen) {
                Ok(()) => return Ok(()),
                Err(kind) => failed_at = failed_at.max(kind),
            }
            chosen.truncate(position);
        }
        Err(failed_at)
    }
}

#[cfg(test)]
mod tests;
