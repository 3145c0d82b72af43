//! IKE_SA_INIT (RFC 7296 §1.2): algorithms, the first key exchange, nonces; what both ends can do; NAT detection.
//!
//! Nothing here is authenticated. So an answer that makes no sense is ignored and a better one waited for (§2.21.1), a refusal
//! is believed only when nothing better comes, and a retry offers everything again (§1.2, against downgrades).

use std::time::Duration;

use adit_proto::control::PeerId;
use adit_proto::ike::{
    CertEncoding, ExchangeType, Flags, HashAlg, Header, IkeSpi, KeId, Message, Notify, NotifyType, Payload, PayloadType,
    ProtocolId,
};

use crate::auth::IntAuth;
use crate::crypto::{IkeKeys, KeyExchange, KeyExchangeError, KeyExchangeMethod, Sender, SignatureAlgorithm, key_exchange};

use super::auth;
use super::context::{Ctx, fresh_ike_spi};
use super::error::{Error, Incompatibility, LocalFault, Misbehaviour};
use super::event::{After, IkeSpis};
use super::facts::{Features, Role};
use super::handshake::{Handshake, exchanged};
use super::initiated::Initiated;
use super::nat;
use super::negotiate::{self, Alternative, Choice};
use super::parts::{Parts, needed};
use super::protect::Protection;
use super::sa::{IkeSa, Stage};
use super::vendor;
use crate::path::Hop;

/// Long enough for every PRF that we offer: half of 512 bits (RFC 7296 §2.10).
const NONCE_LEN: usize = 32;
/// Cookies that a responder may ask for in one negotiation.
const COOKIES_MAX: u32 = 4;
/// After a refusal that nothing authenticates: so many more requests, so far apart.
const TRIES_AFTER_REFUSAL: u32 = 2;
const INTERVAL_AFTER_REFUSAL: Duration = Duration::from_secs(1);

/// How often the first request is repeated where the peer has other addresses, too: for about four seconds.
const TRIES_WITH_OTHERS: u32 = 2;

/// CERTREQ payloads of a peer that are looked at.
const CERT_REQUESTS_MAX: usize = 8;

const EXCHANGE: ExchangeType = ExchangeType::IKE_SA_INIT;

/// What the initiator remembers until the answer comes.
pub(super) struct Sent {
    nonce: Vec<u8>,
    exchange: KeyExchange,
    offered: Vec<Alternative>,
    cookie: Option<Vec<u8>>,
    cookies: u32,
    /// The methods that were sent in a KE payload.
    methods: Vec<KeyExchangeMethod>,
    /// The message as it was sent last; AUTH signs it.
    request: Vec<u8>,
    /// What to say if nothing better comes.
    pub refused: Option<Error>,
}

/// Begins an IKE SA with a configured peer.
///
/// # Errors
/// The configuration offers nothing, or the library makes no key.
pub(super) fn begin(ctx: &mut Ctx, peer: PeerId, hop: Hop) -> Result<IkeSa, Error> {
    let config = ctx.shared.peers.get(&peer).map(|peer| peer.config.clone());
    let config = config.ok_or(LocalFault::NotConfigured("a peer"))?;
    let offered = negotiate::ike_alternatives(&config.proposals);
    let method = offered.first().and_then(|alternative| alternative.key_exchanges().first().copied());
    let method = method.ok_or(LocalFault::NotConfigured("an IKE proposal with a key exchange"))?;
    let spis = IkeSpis { initiator: fresh_ike_spi(ctx.random), responder: IkeSpi::ZERO };
    let mut sa = IkeSa::new(ctx.now.instant, Role::Initiator, spis, hop);
    sa.facts.peer = Some(peer);
    ctx.record(Some(peer), |record| record.begin_ike(Role::Initiator, &negotiate::offer(&offered, Vec::new())));
    let nonce = ctx.bytes::<NONCE_LEN>().to_vec();
    let sent = Sent {
        nonce,
        exchange: KeyExchange::start(method)?,
        offered,
        cookie: None,
        cookies: 0,
        methods: vec![method],
        request: Vec::new(),
        refused: None,
    };
    sa.send_sa_init(ctx, Box::new(sent))?;
    Ok(sa)
}

impl IkeSa {
    fn send_sa_init(&mut self, ctx: &mut Ctx, mut sent: Box<Sent>) -> Result<(), Error> {
        let config = self.facts.peer.and_then(|peer| ctx.shared.peers.get(&peer)).map(|peer| peer.config.clone());
        let config = config.ok_or(LocalFault::NotConfigured("a peer"))?;
        let mut payloads: Vec<Payload> = Vec::new();
        // A cookie goes first, and into all further tries (RFC 7296 §2.6, §2.6.1).
        payloads.extend(sent.cookie.iter().map(|cookie| Notify::new(NotifyType::COOKIE).with_data(cookie.clone()).into()));
        payloads.push(Payload::Sa(negotiate::offer(&sent.offered, Vec::new())));
        payloads.push(Payload::Ke { method: sent.exchange.method().id(), data: sent.exchange.public().to_vec() });
        payloads.push(Payload::Nonce(sent.nonce.clone()));
        payloads.extend(nat::detection((self.facts.spis.initiator, IkeSpi::ZERO), &self.facts.hop, config.force_encapsulation));
        payloads.extend(abilities(config.proposals.iter().any(|proposal| !proposal.additional.is_empty()), config.ppk.is_some()));
        let flags = Flags { initiator: true, response: false, version: false };
        let header = Header::new(self.facts.spis.initiator, IkeSpi::ZERO, EXCHANGE, flags, 0);
        sent.request = Message { header, payloads }.encode()?;
        ctx.transmit(&self.facts.hop, self.facts.peer, &sent.request, After::Nothing);
        self.wire.note_sent(ctx.now.instant);
        let mut policy = ctx.shared.config.retransmission;
        if self.facts.peer.and_then(|peer| ctx.shared.peers.get(&peer)).is_some_and(|peer| peer.remotes.all().len() > 1) {
            // There is another address to try.
            policy.tries = policy.tries.min(TRIES_WITH_OTHERS);
        }
        let datagrams = vec![sent.request.clone()];
        self.wire.window.sent(ctx.now.instant, EXCHANGE, datagrams, Initiated::SaInit(sent), &policy);
        Ok(())
    }

    /// The answer of a responder, or of anybody who has seen our request.
    pub(super) fn on_sa_init_response(&mut self, ctx: &mut Ctx, hop: Hop, header: &Header, message: &[u8]) {
        let parts = Message::decode(message).map_err(Error::from).and_then(|message| Parts::sort(message.payloads));
        let Ok(parts) = parts else {
            return ctx.count(self.facts.peer, |counters| counters.dropped_malformed += 1);
        };
        if !self.wire.window.awaits(header.message_id, header.exchange) {
            return ctx.count(self.facts.peer, |counters| counters.dropped_outside_window += 1);
        }
        let Some(outstanding) = self.wire.window.outstanding_mut() else { return };
        let Initiated::SaInit(sent) = &mut outstanding.context else { return };
        let retry = match parts.error().or(parts.notify(NotifyType::COOKIE)) {
            None => return self.on_sa_init_accepted(ctx, hop, header, message, &parts),
            Some(notify) => sent.prepare_retry(notify),
        };
        match retry {
            Ok(()) => {
                let Some(withdrawn) = self.wire.window.withdrawn() else { return };
                let Initiated::SaInit(sent) = withdrawn.context else { return };
                if let Err(error) = self.send_sa_init(ctx, sent) {
                    self.end(ctx, error.into());
                }
            }
            Err(error) => {
                ctx.record(self.facts.peer, |record| record.hint(&error));
                sent.refused = Some(error);
                self.wire.window.hurry(ctx.now.instant, TRIES_AFTER_REFUSAL, INTERVAL_AFTER_REFUSAL);
            }
        }
    }

    fn on_sa_init_accepted(&mut self, ctx: &mut Ctx, hop: Hop, header: &Header, message: &[u8], parts: &Parts) {
        let Some(Initiated::SaInit(sent)) = self.wire.window.outstanding().map(|outstanding| &outstanding.context) else {
            return;
        };
        let answer = match sent.check(header, parts) {
            Ok(answer) => answer,
            Err(error) => {
                // Somebody else's, or a responder that we cannot understand: wait for another one, then say this.
                ctx.record(self.facts.peer, |record| record.hint(&error));
                if let Some(Initiated::SaInit(sent)) =
                    self.wire.window.outstanding_mut().map(|outstanding| &mut outstanding.context)
                {
                    sent.refused = Some(error);
                }
                return self.wire.window.hurry(ctx.now.instant, TRIES_AFTER_REFUSAL, INTERVAL_AFTER_REFUSAL);
            }
        };
        let Some(withdrawn) = self.wire.window.answered() else { return };
        let Initiated::SaInit(sent) = withdrawn.context else { return };
        if let Err(error) = self.agree(ctx, hop, header, message, *sent, answer, parts) {
            self.end(ctx, error.into());
        }
    }

    /// The initiator has all that it needs for keys.
    #[expect(clippy::too_many_arguments, reason = "the two messages in their parts; a struct would have one user")]
    fn agree(
        &mut self,
        ctx: &mut Ctx,
        hop: Hop,
        header: &Header,
        message: &[u8],
        sent: Sent,
        (choice, nonce_r): (Choice, Vec<u8>),
        parts: &Parts,
    ) -> Result<(), Error> {
        let config = self.facts.peer.and_then(|peer| ctx.shared.peers.get(&peer)).map(|peer| peer.config.clone());
        let config = config.ok_or(LocalFault::NotConfigured("a peer"))?;
        let data = parts.ke.as_ref().map_or(&[][..], |(_, data)| data);
        let shared = sent.exchange.finish(data)?;
        self.facts.spis.responder = header.responder_spi;
        self.facts.features = features(parts, config.ppk.is_some());
        if !self.facts.features.ppk && config.ppk.as_ref().is_some_and(|ppk| ppk.mandatory) {
            return Err(Incompatibility::Ppk.into());
        }
        if !choice.additional.is_empty() && !self.facts.features.intermediate {
            return Err(Incompatibility::NoIntermediate.into());
        }
        let spis = (self.facts.spis.initiator, self.facts.spis.responder);
        self.facts.nat = nat::detect(spis, &hop, parts.notifies.iter()).claiming(config.force_encapsulation);
        if self.facts.nat.supported && (self.facts.nat.is_between() || config.mobike) {
            self.facts.hop = self.facts.hop.floated(ctx.shared.config.nat_port);
        }
        let prf = choice.prf.ok_or(LocalFault::NotConfigured("a PRF"))?;
        let keys = IkeKeys::initial(prf, choice.suite, &shared, exchanged(&sent.nonce, &nonce_r, self.facts.spis));
        ctx.record(self.facts.peer, |record| record.chosen_ike(&choice));
        self.wire.note_heard(ctx.now.instant);
        let (request, response, nonce_i) = (sent.request, message.to_vec(), sent.nonce);
        let (hashes, cert_requests, int_auth) = (hashes(parts), cert_requests(parts), IntAuth::default());
        let handshake = Handshake { request, response, nonce_i, nonce_r, choice, keys, hashes, int_auth, cert_requests };
        self.negotiate(ctx, handshake);
        self.continue_negotiation(ctx)
    }

    /// There are keys: messages are protected from here on.
    fn negotiate(&mut self, ctx: &mut Ctx, handshake: Handshake) {
        self.wire.protect(Protection::new(&handshake.keys, self.facts.role, ctx.random));
        self.stage = handshake.begin().into();
    }

    /// The initiator's next step: another additional key exchange, or IKE_AUTH.
    pub(super) fn continue_negotiation(&mut self, ctx: &mut Ctx) -> Result<(), Error> {
        match &self.stage {
            Stage::Exchanging(exchanging) => self.send_intermediate(ctx, exchanging.next()),
            Stage::Authenticating(_) => self.send_auth(ctx),
            Stage::Beginning | Stage::Established(_) | Stage::Closing { .. } | Stage::Closed => Ok(()),
        }
    }
}

impl Sent {
    /// Takes up what the responder asks for in place of an answer: a cookie, or another method of key exchange.
    fn prepare_retry(&mut self, notify: &Notify) -> Result<(), Error> {
        match notify.kind {
            NotifyType::COOKIE => {
                self.cookies += 1;
                if self.cookies > COOKIES_MAX || notify.data.is_empty() || notify.data.len() > 64 {
                    return Err(Misbehaviour::CookieLoop.into());
                }
                self.cookie = Some(notify.data.clone());
                Ok(())
            }
            NotifyType::INVALID_KE_PAYLOAD => {
                let id = notify.data.as_slice().try_into().map_or(0, u16::from_be_bytes);
                let method = self.next_method(KeId(id)).ok_or(Misbehaviour::BadMethodRequest(id))?;
                self.exchange = KeyExchange::start(method)?;
                self.methods.push(method);
                Ok(())
            }
            kind => Err(Incompatibility::Refused(kind).into()),
        }
    }

    /// The method that is asked for, if it was offered and not tried: nobody can lead us beyond our own offer, or in circles.
    fn next_method(&self, id: KeId) -> Option<KeyExchangeMethod> {
        let method = KeyExchangeMethod::from_id(id)?;
        let offered = self.offered.iter().any(|alternative| alternative.key_exchanges().contains(&method));
        (offered && !self.methods.contains(&method)).then_some(method)
    }

    /// Whether the answer fits what was sent.
    fn check(&self, header: &Header, parts: &Parts) -> Result<(Choice, Vec<u8>), Error> {
        if header.responder_spi.is_zero() || header.responder_spi == header.initiator_spi {
            return Err(Misbehaviour::BadSpi.into());
        }
        let proposals = parts.sa.as_deref().unwrap_or_default();
        let choice = negotiate::confirm(&self.offered, proposals).map_err(Misbehaviour::NotOffered)?;
        let (method, data) = needed(parts.ke.as_ref(), EXCHANGE, PayloadType::KE)?;
        let ours = self.exchange.method();
        if *method != ours.id() || choice.key_exchange != Some(ours) {
            return Err(Misbehaviour::OtherMethod(ours).into());
        }
        // Checked here, where the key is still there for a better answer.
        let expected = ours.data_len(Sender::Responder);
        if data.len() != expected {
            return Err(KeyExchangeError::Length { method: ours, given: data.len(), expected }.into());
        }
        let nonce = needed(parts.nonce.clone(), EXCHANGE, PayloadType::NONCE)?;
        check_nonce(&nonce, &choice)?;
        Ok((choice, nonce))
    }
}

/// Answers a request to begin an IKE SA; gives the half-open IKE SA.
///
/// # Errors
/// There is no common ground, or the request is not what it should be: whoever calls decides whether that is answered.
pub(super) fn respond(ctx: &mut Ctx, hop: Hop, header: &Header, request: &[u8], parts: &Parts) -> Result<IkeSa, Error> {
    let proposals = needed(parts.sa.as_deref(), EXCHANGE, PayloadType::SA)?;
    let (sent_method, data) = needed(parts.ke.as_ref(), EXCHANGE, PayloadType::KE)?;
    let nonce_i = needed(parts.nonce.clone(), EXCHANGE, PayloadType::NONCE)?;
    let sent = KeyExchangeMethod::from_id(*sent_method);
    let candidates = ctx.shared.directory.candidates(hop.remote.ip());
    if candidates.is_empty() {
        return Err(Incompatibility::UnknownAddress.into());
    }
    let choice = candidates.choose(proposals, sent).map_err(Incompatibility::IkeProposal)?;
    let ppk_wanted = candidates.with_ppk();
    check_nonce(&nonce_i, &choice)?;
    let method = choice.key_exchange.ok_or(LocalFault::NotConfigured("a key exchange"))?;
    if sent != Some(method) {
        return Err(Incompatibility::KeyExchange(method).into());
    }
    let features = features(parts, ppk_wanted);
    if !choice.additional.is_empty() && !features.intermediate {
        return Err(Incompatibility::NoIntermediate.into());
    }
    let (public, shared) = key_exchange::respond(method, data)?;

    let spis = IkeSpis { initiator: header.initiator_spi, responder: fresh_ike_spi(ctx.random) };
    let mut sa = IkeSa::new(ctx.now.instant, Role::Responder, spis, hop);
    sa.facts.features = features;
    let claims = candidates.force_encapsulation();
    sa.facts.nat = nat::detect((spis.initiator, IkeSpi::ZERO), &hop, parts.notifies.iter()).claiming(claims);
    let nonce_r = ctx.bytes::<NONCE_LEN>().to_vec();
    let mut payloads = vec![
        Payload::Sa(vec![choice.answer(ProtocolId::IKE, Vec::new())]),
        Payload::Ke { method: method.id(), data: public.into_vec() },
        Payload::Nonce(nonce_r.clone()),
    ];
    if sa.facts.nat.supported {
        payloads.extend(nat::detection((spis.initiator, spis.responder), &hop, claims));
    }
    let requests = ctx.shared.directory.candidates(hop.remote.ip()).certificate_requests();
    payloads.extend(auth::certificate_requests(requests));
    payloads.extend(abilities(features.intermediate, features.ppk));
    // Said by the responder alone (RFC 6023 §3).
    payloads.push(Notify::new(NotifyType::CHILDLESS_IKEV2_SUPPORTED).into());
    let flags = Flags { initiator: false, response: true, version: false };
    let response = Message { header: Header::new(spis.initiator, spis.responder, EXCHANGE, flags, 0), payloads }.encode()?;
    ctx.transmit(&hop, None, &response, After::Nothing);
    sa.wire.window.answer(vec![response.clone()], After::Nothing);
    let prf = choice.prf.ok_or(LocalFault::NotConfigured("a PRF"))?;
    let keys = IkeKeys::initial(prf, choice.suite, &shared, exchanged(&nonce_i, &nonce_r, spis));
    let (request, hashes, int_auth, cert_requests) = (request.to_vec(), hashes(parts), IntAuth::default(), Vec::new());
    let handshake = Handshake { request, response, nonce_i, nonce_r, choice, keys, hashes, int_auth, cert_requests };
    sa.negotiate(ctx, handshake);
    Ok(sa)
}

/// What both ends say that they can do, in requests and answers alike.
fn abilities(intermediate: bool, ppk: bool) -> Vec<Payload> {
    let mut out: Vec<Payload> = vec![Notify::new(NotifyType::IKEV2_FRAGMENTATION_SUPPORTED).into()];
    out.push(Notify::signature_hashes(&SignatureAlgorithm::HASHES).into());
    if intermediate {
        out.push(Notify::new(NotifyType::INTERMEDIATE_EXCHANGE_SUPPORTED).into());
    }
    if ppk {
        out.push(Notify::new(NotifyType::USE_PPK).into());
    }
    out.push(Payload::Vendor(vendor::ADIT.to_vec()));
    out
}

fn features(parts: &Parts, ppk: bool) -> Features {
    Features {
        fragmentation: parts.has(NotifyType::IKEV2_FRAGMENTATION_SUPPORTED),
        intermediate: parts.has(NotifyType::INTERMEDIATE_EXCHANGE_SUPPORTED),
        ppk: ppk && parts.has(NotifyType::USE_PPK),
        adit: parts.vendors.iter().any(|vendor| vendor == vendor::ADIT),
        mobike: false,
        childless: parts.has(NotifyType::CHILDLESS_IKEV2_SUPPORTED),
        echo: false,
    }
}

/// The hash algorithms that the peer can verify; there are few, so more than these are not looked at.
fn hashes(parts: &Parts) -> Vec<HashAlg> {
    let named = parts.notify(NotifyType::SIGNATURE_HASH_ALGORITHMS).and_then(Notify::hashes);
    named.into_iter().flatten().take(16).collect()
}

fn cert_requests(parts: &Parts) -> Vec<(CertEncoding, Vec<u8>)> {
    parts.cert_reqs.iter().take(CERT_REQUESTS_MAX).cloned().collect()
}

/// RFC 7296 §2.10: at least half the key of the PRF.
fn check_nonce(nonce: &[u8], choice: &Choice) -> Result<(), Error> {
    let key_len = choice.prf.map_or(0, |prf| prf.output_len());
    if nonce.len() * 2 < key_len { Err(Misbehaviour::ShortNonce(key_len * 8).into()) } else { Ok(()) }
}
