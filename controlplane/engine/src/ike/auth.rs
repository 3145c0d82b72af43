//! IKE_AUTH (RFC 7296 §1.2, §2.15): both ends prove who they are, and the first Child SA is made on the way.
//!
//! ```text
//! IDi, [CERT], [N(INITIAL_CONTACT)], [CERTREQ], [IDr], AUTH, [N(QCD)], SA, TSi, TSr, N(MOBIKE), [N(PPK_IDENTITY)] …  -->
//!                                                <--  IDr, [CERT], AUTH, [N(QCD)], SA, TSi, TSr, N(MOBIKE) …
//! ```
//! That the Child SA fails does not hurt the IKE SA (§2.21.2). RFC 8784 says what a post-quantum pre-shared key changes.

use std::sync::Arc;

use adit_proto::control::PeerId;
use adit_proto::ike::registry::PpkIdType;
use adit_proto::ike::{ExchangeType, Identification, Notify, NotifyType, Payload, PayloadType, ProtocolId};

use crate::auth::{AuthError, Authenticated, Claim, Presented, signed_octets};
use crate::crypto::{AuthData, IkeKeys, Sender};
use crate::identity::Identity;

use super::agenda::Task;
use super::candidates;
use super::cause::Cause;
use super::config::PeerConfig;
use super::context::{Action, Ctx, LANES_MAX};
use super::crash;
use super::error::{Error, Incompatibility, LocalFault};
use super::evidence;
use super::exchange::Request;
use super::facts::{Facts, Role};
use super::first_child;
use super::handshake::Handshake;
use super::lifetimes::Lifetimes;
use super::mobike;
use super::negotiate::{self, Alternative};
use super::parts::{Parts, needed};
use super::plan::Plan;
use super::proof::Proof;
use super::session::{Made, Session};
use super::share;
use super::standing::Standing;
use super::stream_keys::StreamKeys;
use super::trust::{OwnProof, Trust};
use super::vendor;
use crate::limits::{CANDIDATES_MAX, PEER_LANES_MIN};
use crate::path::Hop;
use crate::shown::Shown;

pub(super) const EXCHANGE: ExchangeType = ExchangeType::IKE_AUTH;

/// What the initiator remembers until the answer comes.
pub(super) struct Sent {
    /// The first Child SA, if one is configured.
    plan: Option<Plan>,
    offered: Vec<Alternative>,
    /// The keys with the post-quantum pre-shared key in them, if one was announced.
    ppk_keys: Option<IkeKeys>,
}

impl Sent {
    /// Gives back what was reserved.
    pub(super) fn release(&self, ctx: &mut Ctx) {
        if let Some(plan) = &self.plan {
            ctx.shared.spis.release(plan.inbound);
        }
    }
}

/// Who an initiator may be.
struct Candidates {
    all: Vec<PeerId>,
    /// There is one that is likelier than all others.
    is_clear: bool,
}

/// What the responder has found out before it decides about the Child SA.
struct Admitted {
    config: Arc<PeerConfig>,
    keys: IkeKeys,
    who: Authenticated,
    uses_ppk: bool,
    /// When our certificate ends, if the peer looks at it.
    own_until: Option<u64>,
}

/// Whom an initiator claims to be, and whom it believes us to be.
struct Claimed {
    identity: Identity,
    asked_for: Option<Identity>,
}

impl Claimed {
    fn of(parts: &Parts) -> Result<Claimed, Error> {
        let id_i = needed(parts.id_i.as_ref(), EXCHANGE, PayloadType::ID_I)?;
        let identity = Identity::from_payload(id_i).map_err(|error| Incompatibility::Auth(error.into()))?;
        Ok(Claimed { identity, asked_for: parts.id_r.as_ref().and_then(|id| Identity::from_payload(id).ok()) })
    }

    fn stranger(&self, error: Error) -> Stranger {
        Stranger { error: Box::new(error), claimed: Some(Shown::of(&self.identity)) }
    }
}

/// An initiator that is not let in.
pub(super) struct Stranger {
    pub error: Box<Error>,
    /// Who it says it is, for people.
    pub claimed: Option<Shown>,
}

impl From<Error> for Stranger {
    fn from(error: Error) -> Stranger {
        Stranger { error: Box::new(error), claimed: None }
    }
}

/// Why there is no IKE SA with a responder.
pub(super) enum Unwanted {
    /// It does not want one: there is nothing to be said.
    ByPeer(Cause),
    /// We do not want one: it is told.
    ByUs(Error),
}

impl Handshake {
    /// The octets that an end signs, or has signed.
    fn octets(&self, keys: &IkeKeys, sender: Sender, id: &Identification, auth_id: u32) -> Vec<u8> {
        let (message, nonce) = match sender {
            Sender::Initiator => (&self.request, &self.nonce_r),
            Sender::Responder => (&self.response, &self.nonce_i),
        };
        signed_octets(keys, sender, message, nonce, id, &self.int_auth.octets(auth_id))
    }
}

fn peer_config(ctx: &Ctx, facts: &Facts) -> Result<(PeerId, Arc<PeerConfig>), Error> {
    let peer = facts.peer.and_then(|id| Some((id, ctx.shared.peers.get(&id)?.config.clone())));
    peer.ok_or_else(|| LocalFault::NotConfigured("a peer").into())
}

/// The initiator proves itself. `auth_id` is the message id, which is in the proof (RFC 9242 §3.3.2).
///
/// # Errors
/// The peer is not configured any more, or the library does not sign.
pub(super) fn ask(ctx: &mut Ctx, facts: &Facts, handshake: &Handshake, auth_id: u32) -> Result<Request<Sent>, Error> {
    let (peer, config) = peer_config(ctx, facts)?;
    let own_id = config.local_auth.identification(&config.local_id);
    let ppk = config.ppk.as_ref().filter(|_| facts.features.ppk);
    let ppk_keys = ppk.map(|ppk| handshake.keys.with_ppk(&ppk.key));
    let sign = |keys: &IkeKeys| {
        let octets = handshake.octets(keys, Sender::Initiator, &own_id, auth_id);
        config.local_auth.sign(keys.prf(), &handshake.hashes, &octets).map_err(LocalFault::Sign)
    };
    let AuthData { method, data } = sign(ppk_keys.as_ref().unwrap_or(&handshake.keys))?;

    let mut payloads = vec![Payload::IdI(own_id.clone())];
    payloads.extend(certificates(config.local_auth.certificates(&handshake.cert_requests)));
    if ctx.shared.peers.get(&peer).is_some_and(|peer| peer.current.is_none()) {
        payloads.push(Notify::new(NotifyType::INITIAL_CONTACT).into());
    }
    payloads.extend(certificate_requests(config.remote_auth.certificate_requests()));
    payloads.extend(config.remote_id.exact().map(|id| Payload::IdR(id.to_payload())));
    payloads.push(Payload::Auth { method, data });
    payloads.extend(crash::token(ctx, facts.spis));
    let mut sent = Sent { plan: None, offered: Vec::new(), ppk_keys };
    let childless = facts.features.childless && ctx.shared.peers.get(&peer).is_some_and(|peer| peer.childless);
    if let Some(child) = config.children.first().filter(|_| !childless) {
        let (asked, plan, offered) = first_child::ask(ctx, facts, child);
        payloads.extend(asked);
        sent.offered = offered;
        sent.plan = Some(plan);
    }
    payloads.extend(extras(ctx, facts, &config, facts.hop));
    if let Some(ppk) = ppk {
        payloads.push(Notify::ppk_identity(PpkIdType::FIXED, &ppk.id).into());
        if !ppk.mandatory {
            // So that a responder without it can go on without it (RFC 8784 §3).
            let without = sign(&handshake.keys)?.data;
            payloads.push(Notify::new(NotifyType::NO_PPK_AUTH).with_data(without).into());
        }
    }
    ctx.record(Some(peer), |record| {
        record.own_identity.ours = vec![Shown::of(&config.local_id)];
        record.ppk.ours = ppk_name(&config).into_iter().collect();
    });
    Ok(Request { exchange: EXCHANGE, payloads, sent })
}

/// What goes into both messages besides proof and Child SA.
fn extras(ctx: &mut Ctx, facts: &Facts, config: &PeerConfig, here: Hop) -> Vec<Payload> {
    let mut out: Vec<Payload> = Vec::new();
    // Where there are no addresses, none are told.
    if config.mobike && !here.is_stream() {
        out.push(Notify::new(NotifyType::MOBIKE_SUPPORTED).into());
        out.extend(mobike::own_addresses_payloads(ctx, config, here));
    }
    if facts.features.adit && ctx.shared.config.echo {
        out.push(Notify::new(vendor::ECHO).into());
    }
    if facts.features.adit && ctx.shared.config.split {
        out.push(Notify::new(vendor::SPLIT).into());
    }
    out.extend(candidates::in_auth(&ctx.shared.candidates, (ctx.shared.config.echo, config.in_streams), facts));
    out.extend(ctx.shared.stream_keys.in_auth(facts));
    if facts.features.adit {
        let lanes = config.children.iter().map(|child| child.lanes).max().unwrap_or(1);
        out.push(Notify::new(vendor::LANES).with_data([lanes]).into());
    }
    out
}

/// What both can do, by what the peer says in its message.
fn agree_on_features(ctx: &Ctx, facts: &mut Facts, config: &PeerConfig, parts: &Parts) {
    facts.features.echo = facts.features.adit && ctx.shared.config.echo && parts.has(vendor::ECHO);
    facts.features.split = facts.features.adit && ctx.shared.config.split && parts.has(vendor::SPLIT);
    facts.features.candidates =
        candidates::may_be_told((ctx.shared.config.echo, config.in_streams), facts) && parts.has(vendor::CANDIDATES);
    facts.features.stream_key = StreamKeys::named(parts);
    facts.features.mobike = config.mobike && parts.has(NotifyType::MOBIKE_SUPPORTED);
}

/// How many lanes the peer has, as far as we go along.
fn lanes_of_peer(config: &PeerConfig, parts: &Parts) -> u8 {
    let lanes = parts.notify(vendor::LANES).and_then(|notify| notify.data.first().copied());
    let own = config.children.iter().map(|child| child.lanes).max().unwrap_or(1);
    let most = own.saturating_mul(4).clamp(PEER_LANES_MIN, LANES_MAX);
    lanes.unwrap_or(1).clamp(1, most)
}

/// The answer to our proof.
///
/// # Errors
/// There is no IKE SA; whether and how the peer is told says the error.
pub(super) fn on_answer(
    ctx: &mut Ctx,
    facts: &mut Facts,
    handshake: &Handshake,
    (auth_id, sent): (u32, Sent),
    parts: &Parts,
) -> Result<Session, Unwanted> {
    // An error beside AUTH is about the Child SA, but for those that end the IKE SA whatever is beside them (§2.21.2, §2.21.3).
    let refused = parts.error().map(|notify| notify.kind);
    if let Some(notify) = refused.filter(|kind| parts.auth.is_none() || *kind == NotifyType::INVALID_SYNTAX) {
        sent.release(ctx);
        let childless = facts.features.childless && sent.plan.is_some() && notify == NotifyType::INVALID_SYNTAX;
        let news = childless && learn_childless(ctx, facts);
        let refused = Cause::Refused { exchange: EXCHANGE, notify };
        return Err(Unwanted::ByPeer(if news { Cause::WantsChildless } else { refused }));
    }
    match verify_responder(ctx, facts, handshake, (auth_id, &sent), parts) {
        Ok((peer, admitted)) => Ok(accept_responder(ctx, facts, handshake, (peer, admitted), sent, parts)),
        Err(error) => {
            sent.release(ctx);
            Err(Unwanted::ByUs(error))
        }
    }
}

/// A responder that supports it may insist on an IKE SA without a Child SA (RFC 6023; strongSwan: `childless = force`). Says whether
/// that is news.
fn learn_childless(ctx: &mut Ctx, facts: &Facts) -> bool {
    let peer = facts.peer.and_then(|peer| ctx.shared.peers.get_mut(&peer));
    peer.is_some_and(|peer| !std::mem::replace(&mut peer.childless, true))
}

/// The initiator believes the responder, or not.
fn verify_responder(
    ctx: &mut Ctx,
    facts: &Facts,
    handshake: &Handshake,
    (auth_id, sent): (u32, &Sent),
    parts: &Parts,
) -> Result<(PeerId, Admitted), Error> {
    let (peer, config) = peer_config(ctx, facts)?;
    let uses_ppk = parts.has(NotifyType::PPK_IDENTITY);
    let keys = match (&sent.ppk_keys, uses_ppk) {
        (Some(keys), true) => keys.clone(),
        (_, false) if config.ppk.as_ref().is_some_and(|ppk| ppk.mandatory) => return Err(Incompatibility::Ppk.into()),
        (None, _) | (Some(_), false) => handshake.keys.clone(),
    };
    let id_r = needed(parts.id_r.as_ref(), EXCHANGE, PayloadType::ID_R)?;
    let (method, data) = needed(parts.auth.as_ref(), EXCHANGE, PayloadType::AUTH)?;
    if let Ok(identity) = Identity::from_payload(id_r) {
        ctx.record(Some(peer), |record| {
            record.identities.ours = vec![Shown::of(&config.remote_id)];
            record.identities.theirs = vec![Shown::of(&identity)];
        });
    }
    let octets = handshake.octets(&keys, Sender::Responder, id_r, auth_id);
    let claim = Claim { identification: id_r, method: *method, data, presented: &parts.certs.clone().into() };
    let who = config.remote_auth.verify(&config.remote_id, &claim, keys.prf(), &octets, ctx.now.unix);
    let who = who.map_err(|error| unproven(error, uses_ppk))?;
    ctx.record(Some(peer), |record| record.identities.chosen = Some(Shown::of(&who.identity)));
    ctx.shared.stream_keys.check(facts, parts)?;
    let own_until = still_ahead(ctx.now.unix, config.local_auth.shown_until(&handshake.cert_requests));
    Ok((peer, Admitted { config, keys, who, uses_ppk, own_until }))
}

/// The responder is the peer: what it has said besides.
fn accept_responder(
    ctx: &mut Ctx,
    facts: &mut Facts,
    handshake: &Handshake,
    (peer, admitted): (PeerId, Admitted),
    sent: Sent,
    parts: &Parts,
) -> Session {
    let mut session = establish(ctx, facts, handshake, (peer, admitted), parts, true);
    session.proof.standing_mut().take_auth_lifetime(ctx.now, parts, session.original_initiator);
    let tells = facts.features.candidates && !ctx.shared.candidates.is_empty();
    let first = mobike::watch_nat(facts, session.original_initiator).into_iter().chain(tells.then_some(Task::TellCandidates));
    first.into_iter().for_each(|task| session.want(task));
    if let Some(plan) = sent.plan {
        let changes = first_child::accept(ctx, facts, &session, (plan, &sent.offered), parts, handshake.nonces());
        changes.into_iter().for_each(|change| session.apply(ctx, facts, change));
    }
    ctx.act(Action::Established { initial_contact: parts.has(NotifyType::INITIAL_CONTACT) });
    session
}

/// From negotiation to session, with what the peer says in its message besides proof and Child SA.
fn establish(
    ctx: &mut Ctx,
    facts: &mut Facts,
    handshake: &Handshake,
    (peer, admitted): (PeerId, Admitted),
    parts: &Parts,
    original_initiator: bool,
) -> Session {
    let Admitted { config, keys, who, uses_ppk, own_until } = admitted;
    ctx.log_keys(facts.spis, &keys);
    let mut standing = Standing::proven(who.by.until(), own_until, OwnProof::of(&config));
    let made = Made { keys, choice: handshake.choice.clone(), lowest_nonce: handshake.lowest_nonce() };
    let lifetimes = Lifetimes::new(ctx.now.instant, &config.ike_lifetime, ctx.random);
    standing.begin(ctx.now, &config, original_initiator, ctx.random);
    let proof = Proof::new(Shown::of(&who.identity), Shown::of(&who.by), uses_ppk, Trust::of(&config), standing);
    facts.peer = Some(peer);
    agree_on_features(ctx, facts, &config, parts);
    let mut session = Session::new(peer, config, original_initiator, made, proof, lifetimes);
    session.wants.set_peer_lanes(lanes_of_peer(&session.config, parts));
    session.addresses.set_of_peer(mobike::additional_addresses(parts));
    let named = candidates::read(parts).filter(|_| facts.features.candidates).unwrap_or_default();
    ctx.shared.set_candidates_of(peer, named);
    session.tokens.take(parts);
    // Beside another IKE SA nothing moves before the peer has shown that it has this one.
    let beside = ctx.shared.peers.get(&peer).is_some_and(|peer| peer.current.is_some());
    if original_initiator || !beside {
        evidence::establish_path(ctx, facts, &session);
    }
    let here = ctx.shared.hop_of(facts);
    session.addresses.reported(mobike::own_addresses(ctx, &session.config, here));
    session
}

/// The responder believes the initiator, or not. Gives the session and the answer. `auth_id` is the message id, which is in the proofs.
///
/// # Errors
/// It is not let in.
pub(super) fn answer(
    ctx: &mut Ctx,
    facts: &mut Facts,
    handshake: &Handshake,
    auth_id: u32,
    parts: &Parts,
) -> Result<(Session, Vec<Payload>), Stranger> {
    let claim = Claimed::of(parts)?;
    let candidates = find_peers(ctx, facts, &claim).map_err(|error| claim.stranger(error))?;
    let (peer, admitted) = match admit_one(ctx, facts, handshake, candidates, (auth_id, parts)) {
        Ok(admitted) => admitted,
        Err((suspect, error)) => {
            // Nobody is named who may have nothing to do with it.
            facts.peer = suspect;
            // And what is known of a peer that is connected is not overwritten by what anybody may say in its name.
            let connected = suspect.and_then(|id| ctx.shared.peers.get(&id)).is_some_and(|peer| peer.current.is_some());
            if let (Ok((peer, config)), false) = (peer_config(ctx, facts), connected) {
                record_request(ctx, peer, handshake, &config, &claim, parts);
                if let Error::Incompatible(Incompatibility::SuiteNotAllowed(agreed)) = &error {
                    ctx.shared.directory.remember(facts.hop.site(), peer, &config);
                    ctx.record(Some(peer), |record| record.agreed_too_early(agreed));
                }
            }
            return Err(claim.stranger(error));
        }
    };
    let may = share::may_connect(ctx, facts, peer, &admitted.who, &handshake.choice);
    may.and_then(|()| ctx.shared.stream_keys.check(facts, parts)).map_err(|error| claim.stranger(error))?;
    facts.peer = Some(peer);
    record_request(ctx, peer, handshake, &admitted.config, &claim, parts);
    ctx.record(Some(peer), |record| record.identities.chosen = Some(Shown::of(&admitted.who.identity)));
    Ok(let_in(ctx, facts, handshake, (peer, admitted), (auth_id, parts))?)
}

/// Proves who we are to an initiator that has done so.
fn let_in(
    ctx: &mut Ctx,
    facts: &mut Facts,
    handshake: &Handshake,
    (peer, admitted): (PeerId, Admitted),
    (auth_id, parts): (u32, &Parts),
) -> Result<(Session, Vec<Payload>), Error> {
    let (config, uses_ppk) = (admitted.config.clone(), admitted.uses_ppk);
    let own_id = config.local_auth.identification(&config.local_id);
    let octets = handshake.octets(&admitted.keys, Sender::Responder, &own_id, auth_id);
    let signed = config.local_auth.sign(admitted.keys.prf(), &handshake.hashes, &octets);
    let AuthData { method, data } = signed.map_err(LocalFault::Sign)?;
    let mut session = establish(ctx, facts, handshake, (peer, admitted), parts, false);

    let mut payloads = vec![Payload::IdR(own_id)];
    payloads.extend(certificates(config.local_auth.certificates(&parts.cert_reqs)));
    payloads.push(Payload::Auth { method, data });
    payloads.extend(crash::token(ctx, facts.spis));
    let (child, came) = first_child::grant(ctx, facts, &session, parts, handshake.nonces());
    came.into_iter().for_each(|change| session.apply(ctx, facts, change));
    payloads.extend(child);
    let here = ctx.shared.hop_of(facts);
    payloads.extend(extras(ctx, facts, &config, here));
    payloads.extend(session.proof.standing().auth_lifetime(ctx.now).map(Payload::from));
    if uses_ppk {
        payloads.push(Notify::new(NotifyType::PPK_IDENTITY).into());
    }
    ctx.act(Action::Established { initial_contact: parts.has(NotifyType::INITIAL_CONTACT) });
    Ok((session, payloads))
}

/// The configured peers that may have this identity and come from there, the likeliest first: those with exactly this
/// identity, then those with a pattern; in each first the ones that the peer calls us by the right name for, and of these the
/// one that this identity is connected with, then those that nobody is: so that a pattern on several peers lets several in.
fn find_peers(ctx: &Ctx, facts: &Facts, claim: &Claimed) -> Result<Candidates, Error> {
    let Claimed { identity, asked_for } = claim;
    let [mut exact, mut covering] = ctx.shared.directory.candidates(facts.hop.site()).with_identity(identity);
    let calls_us = |id: &PeerId| {
        asked_for.as_ref().is_none_or(|asked_for| ctx.shared.peers.get(id).is_some_and(|peer| peer.config.local_id == *asked_for))
    };
    let name = Shown::of(identity);
    let rank = |id: &PeerId| match ctx.shared.peers.get(id) {
        Some(peer) if peer.current.is_some() && peer.connected_as.is_same_name(&name) => 0,
        Some(peer) if peer.current.is_some() => 2,
        Some(_) | None => 1,
    };
    exact.sort_by_key(|id| (!calls_us(id), rank(id)));
    covering.sort_by_key(|id| (!calls_us(id), rank(id)));
    let likely = if exact.is_empty() { covering.len() } else { exact.len() };
    let all: Vec<PeerId> = exact.into_iter().chain(covering).take(CANDIDATES_MAX).collect();
    if all.is_empty() { Err(Incompatibility::UnknownPeer.into()) } else { Ok(Candidates { all, is_clear: likely == 1 }) }
}

/// The first of the candidates for whom the proof is good. If it is so for none: the error of the likeliest, and the peer
/// only where there is no doubt who it would be.
fn admit_one(
    ctx: &Ctx,
    facts: &Facts,
    handshake: &Handshake,
    candidates: Candidates,
    (auth_id, parts): (u32, &Parts),
) -> Result<(PeerId, Admitted), (Option<PeerId>, Error)> {
    let (mut refused, presented) = (None, parts.certs.clone().into());
    for id in candidates.all {
        let Some(peer) = ctx.shared.peers.get(&id) else { continue };
        match admit(facts, handshake, &peer.config, (auth_id, parts, &presented), ctx.now.unix) {
            Ok(admitted) => return Ok((id, admitted)),
            // It has proven that it is this one.
            Err(error @ Error::Incompatible(Incompatibility::SuiteNotAllowed(_))) => return Err((Some(id), error)),
            // What nobody was asked any more for says more than that the first was not the one.
            Err(error @ Error::Incompatible(Incompatibility::Auth(AuthError::KeyNotSent | AuthError::ManyCas))) => {
                refused = Some((id, error));
            }
            Err(error) => {
                refused.get_or_insert((id, error));
            }
        }
    }
    let (likeliest, error) = refused.ok_or_else(|| (None, Incompatibility::UnknownPeer.into()))?;
    Err((candidates.is_clear.then_some(likeliest), error))
}

/// Whether the initiator is this peer.
fn admit(
    facts: &Facts,
    handshake: &Handshake,
    config: &Arc<PeerConfig>,
    (auth_id, parts, presented): (u32, &Parts, &Presented),
    unix: u64,
) -> Result<Admitted, Error> {
    let id_i = needed(parts.id_i.as_ref(), EXCHANGE, PayloadType::ID_I)?;
    let (method, data) = needed(parts.auth.as_ref(), EXCHANGE, PayloadType::AUTH)?;
    let (keys, data, uses_ppk) = ppk_decision(facts, config, handshake, parts, data)?;
    let octets = handshake.octets(&keys, Sender::Initiator, id_i, auth_id);
    let claim = Claim { identification: id_i, method: *method, data, presented };
    let who = config.remote_auth.verify(&config.remote_id, &claim, keys.prf(), &octets, unix);
    let who = who.map_err(|error| unproven(error, uses_ppk))?;
    // Chosen before it was known with whom: of what those may have who come from there.
    let choice = handshake.choice.answer(ProtocolId::IKE, Vec::new());
    negotiate::choose(&negotiate::ike_alternatives(&config.proposals), &[choice], handshake.choice.key_exchange)
        .map_err(|_| Incompatibility::SuiteNotAllowed(handshake.choice.to_string()))?;
    let own_until = still_ahead(unix, config.local_auth.shown_until(&parts.cert_reqs));
    Ok(Admitted { config: config.clone(), keys, who, uses_ppk, own_until })
}

fn record_request(ctx: &mut Ctx, peer: PeerId, handshake: &Handshake, config: &PeerConfig, claim: &Claimed, parts: &Parts) {
    let offered = negotiate::offer(&negotiate::ike_alternatives(&config.proposals), Vec::new());
    let choice = Some(Shown::of(&handshake.choice));
    ctx.record(Some(peer), |record| {
        record.begin_ike(Role::Responder, &offered);
        record.ike.chosen = choice;
        record.identities.ours = vec![Shown::of(&config.remote_id)];
        record.identities.theirs = vec![Shown::of(&claim.identity)];
        record.own_identity.ours = vec![Shown::of(&config.local_id)];
        record.own_identity.theirs = claim.asked_for.iter().map(Shown::of).collect();
        record.ppk.ours = ppk_name(config).into_iter().collect();
        let theirs = parts.notify(NotifyType::PPK_IDENTITY).and_then(Notify::ppk_id);
        record.ppk.theirs = theirs.map(|(_, id)| Shown::bytes(id)).into_iter().collect();
        record.asked_child(config, parts);
        record.asked_addresses(parts);
    });
}

/// RFC 8784 §3, table 1: with which keys, and with which data, the initiator has proved itself.
fn ppk_decision<'a>(
    facts: &Facts,
    config: &PeerConfig,
    handshake: &Handshake,
    parts: &'a Parts,
    data: &'a [u8],
) -> Result<(IkeKeys, &'a [u8], bool), Error> {
    let mandatory = config.ppk.as_ref().is_some_and(|ppk| ppk.mandatory);
    if !facts.features.ppk {
        return if mandatory { Err(Incompatibility::Ppk.into()) } else { Ok((handshake.keys.clone(), data, false)) };
    }
    let named = parts.notify(NotifyType::PPK_IDENTITY).ok_or(Incompatibility::Ppk)?;
    let ours = config.ppk.as_ref().filter(|ppk| named.ppk_id() == Some((PpkIdType::FIXED, ppk.id.as_slice())));
    if let Some(ppk) = ours {
        return Ok((handshake.keys.with_ppk(&ppk.key), data, true));
    }
    match parts.notify(NotifyType::NO_PPK_AUTH) {
        Some(without) if !mandatory => Ok((handshake.keys.clone(), &without.data, false)),
        Some(_) | None => Err(Incompatibility::Ppk.into()),
    }
}

/// With a post-quantum pre-shared key in the keys, a proof may be wrong because of that.
fn unproven(error: AuthError, uses_ppk: bool) -> Incompatibility {
    match error {
        AuthError::WrongPsk { .. } | AuthError::BadSignature { .. } | AuthError::UnknownKey { .. } if uses_ppk => {
            Incompatibility::AuthOrPpk(error)
        }
        error => Incompatibility::Auth(error),
    }
}

/// What our post-quantum pre-shared key is called, for people.
fn ppk_name(config: &PeerConfig) -> Option<Shown> {
    config.ppk.as_ref().map(|ppk| Shown::bytes(&ppk.id))
}

fn certificates(certificates: Vec<(adit_proto::ike::CertEncoding, Vec<u8>)>) -> impl Iterator<Item = Payload> {
    certificates.into_iter().map(|(encoding, data)| Payload::Cert { encoding, data })
}

pub(super) fn certificate_requests(requests: Vec<(adit_proto::ike::CertEncoding, Vec<u8>)>) -> impl Iterator<Item = Payload> {
    requests.into_iter().map(|(encoding, data)| Payload::CertReq { encoding, data })
}

/// The end of our own certificate, unless it is over: then the peer, which looks at it, has the word.
fn still_ahead(unix: u64, until: Option<u64>) -> Option<u64> {
    until.filter(|until| *until > unix)
}
