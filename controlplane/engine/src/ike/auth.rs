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

use super::config::PeerConfig;
use super::context::{Action, Ctx, LANES_MAX};
use super::crash;
use super::error::{Error, Incompatibility, LocalFault};
use super::event::Cause;
use super::evidence;
use super::explain;
use super::facts::Role;
use super::first_child;
use super::handshake::Handshake;
use super::initiated::Initiated;
use super::lifetimes::Lifetimes;
use super::mobike;
use super::negotiate::{self, Alternative};
use super::parts::{Parts, needed};
use super::plan::Plan;
use super::proof::Proof;
use super::sa::{IkeSa, Stage};
use super::session::{Made, Session};
use super::standing::Standing;
use super::trust::{OwnProof, Trust};
use super::vendor;

const EXCHANGE: ExchangeType = ExchangeType::IKE_AUTH;
/// So many lanes a peer may have in any case, and four times as many as we have.
const PEER_LANES_MIN: u8 = 8;

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

/// Most configured peers that are tried for one identity: each may cost a signature check.
const CANDIDATES_MAX: usize = 8;

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

impl IkeSa {
    fn peer_config(&self, ctx: &Ctx) -> Result<(PeerId, Arc<PeerConfig>), Error> {
        let peer = self.facts.peer.and_then(|id| Some((id, ctx.shared.peers.get(&id)?.config.clone())));
        peer.ok_or_else(|| LocalFault::NotConfigured("a peer").into())
    }

    pub(super) fn send_auth(&mut self, ctx: &mut Ctx) -> Result<(), Error> {
        let (peer, config) = self.peer_config(ctx)?;
        let auth_id = self.wire.window.next_id();
        let Stage::Authenticating(handshake) = &self.stage else { return Ok(()) };
        let own_id = config.local_auth.identification(&config.local_id);
        let ppk = config.ppk.as_ref().filter(|_| self.facts.features.ppk);
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
        payloads.extend(crash::token(ctx, self.facts.spis));
        let mut sent = Sent { plan: None, offered: Vec::new(), ppk_keys };
        let childless = self.facts.features.childless && ctx.shared.peers.get(&peer).is_some_and(|peer| peer.childless);
        if let Some(child) = config.children.first().filter(|_| !childless) {
            let (asked, plan, offered) = first_child::ask(ctx, &self.facts, child);
            payloads.extend(asked);
            sent.offered = offered;
            sent.plan = Some(plan);
        }
        payloads.extend(self.extras(ctx, &config));
        if let Some(ppk) = ppk {
            payloads.push(Notify::ppk_identity(PpkIdType::FIXED, &ppk.id).into());
            if !ppk.mandatory {
                // So that a responder without it can go on without it (RFC 8784 §3).
                let without = sign(&handshake.keys)?.data;
                payloads.push(Notify::new(NotifyType::NO_PPK_AUTH).with_data(without).into());
            }
        }
        ctx.record(Some(peer), |record| {
            record.own_identity.ours = vec![config.local_id.to_string()];
            record.ppk.ours = ppk_name(&config).into_iter().collect();
        });
        self.request(ctx, EXCHANGE, &payloads, Initiated::Auth(Box::new(sent))).map(|_| ())
    }

    /// What goes into both messages besides proof and Child SA.
    fn extras(&self, ctx: &mut Ctx, config: &PeerConfig) -> Vec<Payload> {
        let mut out: Vec<Payload> = Vec::new();
        if config.mobike {
            out.push(Notify::new(NotifyType::MOBIKE_SUPPORTED).into());
            out.extend(mobike::own_addresses_payloads(ctx, self.hop(ctx)));
        }
        if self.facts.features.adit && ctx.shared.config.echo {
            out.push(Notify::new(vendor::ECHO).into());
        }
        if self.facts.features.adit {
            let lanes = config.children.iter().map(|child| child.lanes).max().unwrap_or(1);
            out.push(Notify::new(vendor::LANES).with_data([lanes]).into());
        }
        out
    }

    /// What the peer says in its message besides proof and Child SA.
    fn take_extras(&mut self, ctx: &mut Ctx, config: &PeerConfig, parts: &Parts) {
        self.facts.features.echo = self.facts.features.adit && ctx.shared.config.echo && parts.has(vendor::ECHO);
        self.facts.features.mobike = config.mobike && parts.has(NotifyType::MOBIKE_SUPPORTED);
        let lanes = parts.notify(vendor::LANES).and_then(|notify| notify.data.first().copied());
        let addresses = mobike::additional_addresses(parts);
        if let Some(session) = self.session_mut() {
            let own = config.children.iter().map(|child| child.lanes).max().unwrap_or(1);
            let most = own.saturating_mul(4).clamp(PEER_LANES_MIN, LANES_MAX);
            session.wants.set_peer_lanes(lanes.unwrap_or(1).clamp(1, most));
            session.addresses.set_of_peer(addresses);
            session.tokens.take(parts);
        }
        if let Some((facts, session)) = self.facts_and_session() {
            evidence::establish_path(ctx, facts, session);
            mobike::note_addresses(ctx, facts, session);
        }
    }

    pub(super) fn on_auth_response(&mut self, ctx: &mut Ctx, sent: Sent, parts: Parts) {
        // An error beside AUTH is about the Child SA, but for those that end the IKE SA whatever is beside them (§2.21.2, §2.21.3).
        let refused = parts.error().map(|notify| notify.kind);
        if let Some(notify) = refused.filter(|kind| parts.auth.is_none() || *kind == NotifyType::INVALID_SYNTAX) {
            self.give_back(ctx, sent.plan.as_ref());
            let cause = Cause::Refused { exchange: EXCHANGE, notify };
            let childless = self.facts.features.childless && sent.plan.is_some() && notify == NotifyType::INVALID_SYNTAX;
            let news = childless && self.learn_childless(ctx);
            return self.end(ctx, if news { Cause::WantsChildless } else { cause });
        }
        let inbound = sent.plan.clone();
        if let Err(error) = self.accept_responder(ctx, sent, &parts) {
            self.give_back(ctx, inbound.as_ref());
            self.close_after_failure(ctx, error);
        }
    }

    /// A responder that supports it may insist on an IKE SA without a Child SA (RFC 6023; strongSwan: `childless = force`). Says whether
    /// that is news.
    fn learn_childless(&mut self, ctx: &mut Ctx) -> bool {
        let peer = self.facts.peer.and_then(|peer| ctx.shared.peers.get_mut(&peer));
        peer.is_some_and(|peer| !std::mem::replace(&mut peer.childless, true))
    }

    fn give_back(&mut self, ctx: &mut Ctx, plan: Option<&Plan>) {
        if let Some(plan) = plan {
            ctx.shared.spis.release(plan.inbound);
        }
    }

    /// The initiator believes the responder, or not.
    fn accept_responder(&mut self, ctx: &mut Ctx, sent: Sent, parts: &Parts) -> Result<(), Error> {
        let (peer, config) = self.peer_config(ctx)?;
        let auth_id = self.wire.window.next_id() - 1;
        let Stage::Authenticating(handshake) = &self.stage else { return Ok(()) };
        let uses_ppk = parts.has(NotifyType::PPK_IDENTITY);
        let keys = match (sent.ppk_keys, uses_ppk) {
            (Some(keys), true) => keys,
            (_, false) if config.ppk.as_ref().is_some_and(|ppk| ppk.mandatory) => return Err(Incompatibility::Ppk.into()),
            (None, _) | (Some(_), false) => handshake.keys.clone(),
        };
        let id_r = needed(parts.id_r.as_ref(), EXCHANGE, PayloadType::ID_R)?;
        let (method, data) = needed(parts.auth.as_ref(), EXCHANGE, PayloadType::AUTH)?;
        if let Ok(identity) = Identity::from_payload(id_r) {
            ctx.record(Some(peer), |record| {
                record.identities.ours = vec![config.remote_id.to_string()];
                record.identities.theirs = vec![identity.to_string()];
            });
        }
        let octets = handshake.octets(&keys, Sender::Responder, id_r, auth_id);
        let claim = Claim { identification: id_r, method: *method, data, presented: &parts.certs.clone().into() };
        let who = config.remote_auth.verify(&config.remote_id, &claim, keys.prf(), &octets, ctx.now.unix);
        let who = who.map_err(|error| unproven(error, uses_ppk))?;
        ctx.record(Some(peer), |record| record.identities.chosen = Some(who.identity.to_string()));
        let nonces = (handshake.nonce_i.clone(), handshake.nonce_r.clone());
        let own_until = still_ahead(ctx.now.unix, config.local_auth.shown_until(&handshake.cert_requests));
        self.establish(ctx, peer, Admitted { config: config.clone(), keys, who, uses_ppk, own_until }, true);
        self.take_extras(ctx, &config, parts);
        if let Some((facts, session)) = self.facts_and_session() {
            session.proof.standing_mut().take_auth_lifetime(ctx.now, parts, session.original_initiator);
            mobike::watch_nat(facts, session);
        }
        if let (Some((facts, session)), Some(plan)) = (self.facts_and_session(), sent.plan) {
            first_child::accept(ctx, facts, session, (plan, &sent.offered), parts, nonces);
        }
        ctx.act(Action::Established { initial_contact: parts.has(NotifyType::INITIAL_CONTACT) });
        Ok(())
    }

    /// From negotiation to session.
    fn establish(&mut self, ctx: &mut Ctx, peer: PeerId, admitted: Admitted, original_initiator: bool) {
        let Stage::Authenticating(handshake) = &self.stage else { return };
        let (lowest_nonce, choice) = (handshake.lowest_nonce(), handshake.choice.clone());
        self.log_keys(ctx, &admitted.keys);
        let Admitted { config, keys, who, uses_ppk, own_until } = admitted;
        let mut standing = Standing::proven(who.by.until(), own_until, OwnProof::of(&config));
        let made = Made { keys, choice, lowest_nonce };
        let lifetimes = Lifetimes::new(ctx.now.instant, &config.ike_lifetime, ctx.random);
        standing.begin(ctx.now, &config, original_initiator, ctx.random);
        let proof = Proof::new(who.identity.to_string(), who.by.to_string(), uses_ppk, Trust::of(&config), standing);
        let session = Session::new(peer, config, original_initiator, made, proof, lifetimes);
        self.facts.peer = Some(peer);
        self.stage = Stage::Established(Box::new(session));
    }

    pub(super) fn on_auth_request(&mut self, ctx: &mut Ctx, parts: Parts) {
        self.facts.hop = self.wire.came().hop;
        if let Err(error) = self.accept_initiator(ctx, &parts) {
            self.refuse(ctx, EXCHANGE, &error);
            self.end(ctx, error.into());
        }
    }

    /// The responder believes the initiator, or not.
    fn accept_initiator(&mut self, ctx: &mut Ctx, parts: &Parts) -> Result<(), Error> {
        let auth_id = self.wire.window.expected_id();
        let id_i = needed(parts.id_i.as_ref(), EXCHANGE, PayloadType::ID_I)?;
        let identity = Identity::from_payload(id_i).map_err(|error| Incompatibility::Auth(error.into()))?;
        let asked_for = parts.id_r.as_ref().and_then(|id| Identity::from_payload(id).ok());
        let candidates = match self.find_peers(ctx, &identity, asked_for.as_ref()) {
            Ok(candidates) => candidates,
            Err(error) => {
                self.claimed = Some(explain::shortened(identity.to_string()));
                return Err(error);
            }
        };
        let (peer, admitted) = match self.admit_one(ctx, candidates, parts) {
            Ok(admitted) => admitted,
            Err((suspect, error)) => {
                // Nobody is named who may have nothing to do with it.
                self.facts.peer = suspect;
                self.claimed = Some(explain::shortened(identity.to_string()));
                if let Ok((peer, config)) = self.peer_config(ctx) {
                    self.record_request(ctx, &config, &identity, asked_for.as_ref(), parts);
                    if let Error::Incompatible(Incompatibility::SuiteNotAllowed(agreed)) = &error {
                        ctx.shared.directory.remember(self.facts.hop.remote.ip(), peer, &config);
                        ctx.record(self.facts.peer, |record| record.agreed_too_early(agreed));
                    }
                }
                return Err(error);
            }
        };
        self.facts.peer = Some(peer);
        let config = admitted.config.clone();
        self.record_request(ctx, &config, &identity, asked_for.as_ref(), parts);
        ctx.record(Some(peer), |record| record.identities.chosen = Some(admitted.who.identity.to_string()));

        let (keys, uses_ppk) = (admitted.keys.clone(), admitted.uses_ppk);
        let Stage::Authenticating(handshake) = &self.stage else { return Ok(()) };
        let own_id = config.local_auth.identification(&config.local_id);
        let octets = handshake.octets(&keys, Sender::Responder, &own_id, auth_id);
        let AuthData { method, data } =
            config.local_auth.sign(keys.prf(), &handshake.hashes, &octets).map_err(LocalFault::Sign)?;
        let nonces = (handshake.nonce_i.clone(), handshake.nonce_r.clone());
        self.establish(ctx, peer, admitted, false);
        self.take_extras(ctx, &config, parts);

        let mut payloads = vec![Payload::IdR(own_id)];
        payloads.extend(certificates(config.local_auth.certificates(&parts.cert_reqs)));
        payloads.push(Payload::Auth { method, data });
        payloads.extend(crash::token(ctx, self.facts.spis));
        if let Some((facts, session)) = self.facts_and_session() {
            payloads.extend(first_child::grant(ctx, facts, session, parts, nonces));
        }
        payloads.extend(self.extras(ctx, &config));
        payloads.extend(self.session().and_then(|session| session.proof.standing().auth_lifetime(ctx.now)).map(Payload::from));
        if uses_ppk {
            payloads.push(Notify::new(NotifyType::PPK_IDENTITY).into());
        }
        ctx.act(Action::Established { initial_contact: parts.has(NotifyType::INITIAL_CONTACT) });
        self.respond(ctx, EXCHANGE, &payloads).map(|_| ())
    }

    /// The configured peers that may have this identity and come from there, the likeliest first: those with exactly this
    /// identity, then those with a pattern; in each first the ones that the peer calls us by the right name for, and of these the
    /// one that this identity is connected with, then those that nobody is: so that a pattern on several peers lets several in.
    fn find_peers(&self, ctx: &Ctx, identity: &Identity, asked_for: Option<&Identity>) -> Result<Candidates, Error> {
        let [mut exact, mut covering] = ctx.shared.directory.candidates(self.facts.hop.remote.ip()).with_identity(identity);
        let calls_us = |id: &PeerId| {
            asked_for.is_none_or(|asked_for| ctx.shared.peers.get(id).is_some_and(|peer| peer.config.local_id == *asked_for))
        };
        let name = identity.to_string();
        let rank = |id: &PeerId| match ctx.shared.peers.get(id) {
            Some(peer) if peer.current.is_some() && peer.connected_as.eq_ignore_ascii_case(&name) => 0,
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
    fn admit_one(&self, ctx: &Ctx, candidates: Candidates, parts: &Parts) -> Result<(PeerId, Admitted), (Option<PeerId>, Error)> {
        let (mut refused, presented) = (None, parts.certs.clone().into());
        for id in candidates.all {
            let Some(peer) = ctx.shared.peers.get(&id) else { continue };
            match self.admit(&peer.config, parts, &presented, ctx.now.unix) {
                Ok(admitted) => return Ok((id, admitted)),
                // It has proven that it is this one.
                Err(error @ Error::Incompatible(Incompatibility::SuiteNotAllowed(_))) => return Err((Some(id), error)),
                Err(error) => {
                    refused.get_or_insert((id, error));
                }
            }
        }
        let (likeliest, error) = refused.ok_or_else(|| (None, Incompatibility::UnknownPeer.into()))?;
        Err((candidates.is_clear.then_some(likeliest), error))
    }

    /// Whether the initiator is this peer.
    fn admit(&self, config: &Arc<PeerConfig>, parts: &Parts, presented: &Presented, unix: u64) -> Result<Admitted, Error> {
        let Stage::Authenticating(handshake) = &self.stage else { return Err(LocalFault::Busy.into()) };
        let id_i = needed(parts.id_i.as_ref(), EXCHANGE, PayloadType::ID_I)?;
        let (method, data) = needed(parts.auth.as_ref(), EXCHANGE, PayloadType::AUTH)?;
        let (keys, data, uses_ppk) = self.ppk_decision(config, handshake, parts, data)?;
        let octets = handshake.octets(&keys, Sender::Initiator, id_i, self.wire.window.expected_id());
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

    fn record_request(
        &self,
        ctx: &mut Ctx,
        config: &PeerConfig,
        identity: &Identity,
        asked_for: Option<&Identity>,
        parts: &Parts,
    ) {
        let offered = negotiate::offer(&negotiate::ike_alternatives(&config.proposals), Vec::new());
        let choice = if let Stage::Authenticating(handshake) = &self.stage { Some(handshake.choice.to_string()) } else { None };
        ctx.record(self.facts.peer, |record| {
            record.begin_ike(Role::Responder, &offered);
            record.ike.chosen = choice;
            record.identities.ours = vec![config.remote_id.to_string()];
            record.identities.theirs = vec![identity.to_string()];
            record.own_identity.ours = vec![config.local_id.to_string()];
            record.own_identity.theirs = asked_for.map(ToString::to_string).into_iter().collect();
            record.ppk.ours = ppk_name(config).into_iter().collect();
            let theirs = parts.notify(NotifyType::PPK_IDENTITY).and_then(Notify::ppk_id);
            record.ppk.theirs = theirs.map(|(_, id)| explain::bytes_text(id)).into_iter().collect();
            record.asked_child(config, parts);
        });
    }

    /// RFC 8784 §3, table 1: with which keys, and with which data, the initiator has proved itself.
    fn ppk_decision<'a>(
        &self,
        config: &PeerConfig,
        handshake: &Handshake,
        parts: &'a Parts,
        data: &'a [u8],
    ) -> Result<(IkeKeys, &'a [u8], bool), Error> {
        let mandatory = config.ppk.as_ref().is_some_and(|ppk| ppk.mandatory);
        if !self.facts.features.ppk {
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
fn ppk_name(config: &PeerConfig) -> Option<String> {
    config.ppk.as_ref().map(|ppk| explain::bytes_text(&ppk.id))
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
