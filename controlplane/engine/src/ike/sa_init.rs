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
use super::config::Retransmission;
use super::context::{Ctx, fresh_ike_spi};
use super::error::{Error, Incompatibility, LocalFault, Misbehaviour};
use super::facts::{Facts, Features, IkeSpis, Role};
use super::handshake::{Handshake, NONCE_LEN, exchanged};
use super::nat;
use super::negotiate::{self, Alternative, Choice};
use super::parts::{Parts, needed};
use super::vendor;
use crate::limits::{CERT_REQUESTS_READ_MAX, COOKIE_LEN_MAX, COOKIES_MAX};
use crate::path::Hop;

/// After a refusal that nothing authenticates: so many more requests, so far apart.
pub(super) const TRIES_AFTER_REFUSAL: u32 = 2;
pub(super) const INTERVAL_AFTER_REFUSAL: Duration = Duration::from_secs(1);

/// How often the first request is repeated where the peer has other addresses, too: for about four seconds.
const TRIES_WITH_OTHERS: u32 = 2;
/// And where it may be in a stream: whoever is there waits for us, and nobody may be at the address, for a second and a half.
pub(super) const TRIES_WITH_STREAM: u32 = 1;
pub(super) const INTERVAL_WITH_STREAM: Duration = Duration::from_secs(1);

pub(super) const EXCHANGE: ExchangeType = ExchangeType::IKE_SA_INIT;

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

/// What an IKE SA with a configured peer begins with: our SPI, and what is to be sent.
///
/// # Errors
/// The configuration offers nothing, or the library makes no key.
pub(super) fn begin(ctx: &mut Ctx, peer: PeerId) -> Result<(IkeSpi, Sent), Error> {
    let config = ctx.shared.peers.get(&peer).map(|peer| peer.config.clone());
    let config = config.ok_or(LocalFault::NotConfigured("a peer"))?;
    let offered = negotiate::ike_alternatives(&config.proposals);
    let method = offered.first().and_then(|alternative| alternative.key_exchanges().first().copied());
    let method = method.ok_or(LocalFault::NotConfigured("an IKE proposal with a key exchange"))?;
    let spi = fresh_ike_spi(ctx.random);
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
    Ok((spi, sent))
}

/// The answer of a responder, and what it is for the initiator.
pub(super) enum Retry {
    /// Something else was asked for: the request is to be sent once more.
    With,
    /// The choice and the responder's nonce.
    No((Choice, Vec<u8>)),
}

/// How often the first request is repeated.
pub(super) fn retransmission(ctx: &Ctx, facts: &Facts) -> Retransmission {
    let mut policy = ctx.shared.config.retransmission;
    let remotes = facts.peer.and_then(|peer| ctx.shared.peers.get(&peer)).map(|peer| &peer.remotes);
    if remotes.is_some_and(|remotes| remotes.all().len() > 1) {
        // There is another place to try.
        let has_stream = remotes.is_some_and(|remotes| remotes.streams().next().is_some());
        policy.tries = policy.tries.min(if has_stream { TRIES_WITH_STREAM } else { TRIES_WITH_OTHERS });
    }
    policy
}

/// The initiator has all that it needs for keys. `hop`, `header` and `message` are those of the answer.
///
/// # Errors
/// The peer cannot do what is needed, or the library makes no key.
pub(super) fn agree(
    ctx: &mut Ctx,
    facts: &mut Facts,
    (hop, header, message): (Hop, &Header, &[u8]),
    sent: Sent,
    (choice, nonce_r): (Choice, Vec<u8>),
    parts: &Parts,
) -> Result<Handshake, Error> {
    let config = facts.peer.and_then(|peer| ctx.shared.peers.get(&peer)).map(|peer| peer.config.clone());
    let config = config.ok_or(LocalFault::NotConfigured("a peer"))?;
    let data = parts.ke.as_ref().map_or(&[][..], |(_, data)| data);
    let shared = sent.exchange.finish(data)?;
    facts.spis.responder = header.responder_spi;
    facts.features = features(parts, config.ppk.is_some());
    if !facts.features.ppk && config.ppk.as_ref().is_some_and(|ppk| ppk.mandatory) {
        return Err(Incompatibility::Ppk.into());
    }
    if !choice.additional.is_empty() && !facts.features.intermediate {
        return Err(Incompatibility::NoIntermediate.into());
    }
    let spis = (facts.spis.initiator, facts.spis.responder);
    facts.nat = nat::detect(spis, &hop, parts.notifies.iter()).claiming(config.force_encapsulation);
    if facts.nat.supported && (facts.nat.is_between() || config.mobike) {
        facts.hop = facts.hop.floated(ctx.shared.config.nat_port);
    }
    let prf = choice.prf.ok_or(LocalFault::NotConfigured("a PRF"))?;
    let keys = IkeKeys::initial(prf, choice.suite, &shared, exchanged(&sent.nonce, &nonce_r, facts.spis));
    ctx.record(facts.peer, |record| record.chosen_ike(&choice));
    let (request, response, nonce_i) = (sent.request, message.to_vec(), sent.nonce);
    let (hashes, cert_requests, int_auth) = (hashes(parts), cert_requests(parts), IntAuth::default());
    Ok(Handshake { request, response, nonce_i, nonce_r, choice, keys, hashes, int_auth, cert_requests })
}

impl Sent {
    /// The message, which AUTH will sign.
    ///
    /// # Errors
    /// The peer is not configured any more, or it cannot be encoded.
    pub(super) fn request(&mut self, ctx: &Ctx, facts: &Facts) -> Result<Vec<u8>, Error> {
        let config = facts.peer.and_then(|peer| ctx.shared.peers.get(&peer)).map(|peer| &peer.config);
        let config = config.ok_or(LocalFault::NotConfigured("a peer"))?;
        let mut payloads: Vec<Payload> = Vec::new();
        // A cookie goes first, and into all further tries (RFC 7296 §2.6, §2.6.1).
        payloads.extend(self.cookie.iter().map(|cookie| Notify::new(NotifyType::COOKIE).with_data(cookie.clone()).into()));
        payloads.push(Payload::Sa(negotiate::offer(&self.offered, Vec::new())));
        payloads.push(Payload::Ke { method: self.exchange.method().id(), data: self.exchange.public().to_vec() });
        payloads.push(Payload::Nonce(self.nonce.clone()));
        payloads.extend(nat::detection((facts.spis.initiator, IkeSpi::ZERO), &facts.hop, config.force_encapsulation));
        payloads.extend(abilities(config.proposals.iter().any(|proposal| !proposal.additional.is_empty()), config.ppk.is_some()));
        payloads.extend([vendor::ADIT, vendor::ROOM].map(|vendor| Payload::Vendor(vendor.to_vec())));
        let flags = Flags { initiator: true, response: false, version: false };
        let header = Header::new(facts.spis.initiator, IkeSpi::ZERO, EXCHANGE, flags, 0);
        self.request = Message { header, payloads }.encode()?;
        Ok(self.request.clone())
    }

    /// What an answer is, from a responder or from anybody who has seen our request.
    ///
    /// # Errors
    /// It makes no sense, or refuses: a better one may come.
    pub(super) fn judge(&mut self, header: &Header, parts: &Parts) -> Result<Retry, Error> {
        match parts.error().or(parts.notify(NotifyType::COOKIE)) {
            None => self.check(header, parts).map(Retry::No),
            Some(notify) => self.prepare_retry(notify).map(|()| Retry::With),
        }
    }

    /// Takes up what the responder asks for in place of an answer: a cookie, or another method of key exchange.
    fn prepare_retry(&mut self, notify: &Notify) -> Result<(), Error> {
        match notify.kind {
            NotifyType::COOKIE => {
                self.cookies += 1;
                if self.cookies > COOKIES_MAX || notify.data.is_empty() || notify.data.len() > COOKIE_LEN_MAX {
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

/// Answers a request to begin an IKE SA. The answer is in the handshake. `None`: it would be longer than the request, whose source is not
/// `proven` to receive what we send.
///
/// # Errors
/// There is no common ground, or the request is not what it should be: whoever calls decides whether that is answered.
pub(super) fn answer(
    ctx: &mut Ctx,
    hop: Hop,
    (header, request): (&Header, &[u8]),
    parts: &Parts,
    proven: bool,
) -> Result<Option<(Facts, Handshake)>, Error> {
    let proposals = needed(parts.sa.as_deref(), EXCHANGE, PayloadType::SA)?;
    let (sent_method, data) = needed(parts.ke.as_ref(), EXCHANGE, PayloadType::KE)?;
    let nonce_i = needed(parts.nonce.clone(), EXCHANGE, PayloadType::NONCE)?;
    let sent = KeyExchangeMethod::from_id(*sent_method);
    let candidates = ctx.shared.directory.candidates(hop.site());
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
    let spis = IkeSpis { initiator: header.initiator_spi, responder: fresh_ike_spi(ctx.random) };
    let mut facts = Facts::new(Role::Responder, spis, hop);
    facts.features = features;
    let claims = candidates.force_encapsulation();
    facts.nat = nat::detect((spis.initiator, IkeSpi::ZERO), &hop, parts.notifies.iter()).claiming(claims);
    let nonce_r = ctx.bytes::<NONCE_LEN>().to_vec();
    let said = response(ctx, &facts, (&choice, claims), (method, vec![0; method.data_len(Sender::Responder)]), &nonce_r)?;
    if !proven && said.len() > request.len() {
        return Ok(None);
    }
    let (public, shared) = key_exchange::respond(method, data)?;
    let response = response(ctx, &facts, (&choice, claims), (method, public.into_vec()), &nonce_r)?;
    let prf = choice.prf.ok_or(LocalFault::NotConfigured("a PRF"))?;
    let keys = IkeKeys::initial(prf, choice.suite, &shared, exchanged(&nonce_i, &nonce_r, spis));
    let (request, hashes, int_auth, cert_requests) = (request.to_vec(), hashes(parts), IntAuth::default(), Vec::new());
    Ok(Some((facts, Handshake { request, response, nonce_i, nonce_r, choice, keys, hashes, int_auth, cert_requests })))
}

/// The message that answers a request to begin an IKE SA, with this public key of ours. `claims`: a NAT is claimed.
fn response(
    ctx: &Ctx,
    facts: &Facts,
    (choice, claims): (&Choice, bool),
    (method, public): (KeyExchangeMethod, Vec<u8>),
    nonce: &[u8],
) -> Result<Vec<u8>, Error> {
    let (hop, spis) = (facts.hop, (facts.spis.initiator, facts.spis.responder));
    let mut payloads = vec![
        Payload::Sa(vec![choice.answer(ProtocolId::IKE, Vec::new())]),
        Payload::Ke { method: method.id(), data: public },
        Payload::Nonce(nonce.to_vec()),
    ];
    if facts.nat.supported {
        payloads.extend(nat::detection(spis, &hop, claims));
    }
    let requests = ctx.shared.directory.candidates(hop.site()).certificate_requests();
    payloads.extend(auth::certificate_requests(requests));
    payloads.extend(abilities(facts.features.intermediate, facts.features.ppk));
    // Only who knows what we are makes use of it, and the answer is to be short.
    payloads.extend(facts.features.adit.then(|| Payload::Vendor(vendor::ADIT.to_vec())));
    // Said by the responder alone (RFC 6023 §3).
    payloads.push(Notify::new(NotifyType::CHILDLESS_IKEV2_SUPPORTED).into());
    let flags = Flags { initiator: false, response: true, version: false };
    Ok(Message { header: Header::new(spis.0, spis.1, EXCHANGE, flags, 0), payloads }.encode()?)
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
    out
}

fn features(parts: &Parts, ppk: bool) -> Features {
    Features {
        fragmentation: parts.has(NotifyType::IKEV2_FRAGMENTATION_SUPPORTED),
        intermediate: parts.has(NotifyType::INTERMEDIATE_EXCHANGE_SUPPORTED),
        ppk: ppk && parts.has(NotifyType::USE_PPK),
        adit: parts.vendors.iter().any(|vendor| vendor == vendor::ADIT),
        mobike: false,
        candidates: false,
        stream_key: None,
        childless: parts.has(NotifyType::CHILDLESS_IKEV2_SUPPORTED),
        echo: false,
        split: false,
    }
}

/// The hash algorithms that the peer can verify; there are few, so more than these are not looked at.
fn hashes(parts: &Parts) -> Vec<HashAlg> {
    let named = parts.notify(NotifyType::SIGNATURE_HASH_ALGORITHMS).and_then(Notify::hashes);
    named.into_iter().flatten().take(16).collect()
}

fn cert_requests(parts: &Parts) -> Vec<(CertEncoding, Vec<u8>)> {
    parts.cert_reqs.iter().take(CERT_REQUESTS_READ_MAX).cloned().collect()
}

/// RFC 7296 §2.10: at least half the key of the PRF.
fn check_nonce(nonce: &[u8], choice: &Choice) -> Result<(), Error> {
    let key_len = choice.prf.map_or(0, |prf| prf.output_len());
    if nonce.len() * 2 < key_len { Err(Misbehaviour::ShortNonce(key_len * 8).into()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use adit_proto::suite::Suite;

    use super::*;
    use crate::crypto::Prf;

    #[test]
    fn a_nonce_has_half_the_bytes_of_the_key_of_the_prf() {
        for (prf, least) in [(Prf::HmacSha256, 16), (Prf::HmacSha384, 24), (Prf::HmacSha512, 32)] {
            let (key_exchange, additional, spi, transforms) = (None, Vec::new(), Vec::new(), Vec::new());
            let (suite, prf) = (Suite::Aes128Gcm, Some(prf));
            let choice = Choice { number: 1, suite, prf, key_exchange, additional, esn: false, spi, transforms };
            assert_eq!(check_nonce(&vec![0; least], &choice), Ok(()));
            let short = Misbehaviour::ShortNonce(16 * least);
            assert_eq!(check_nonce(&vec![0; least - 1], &choice), Err(short.into()));
        }
    }
}
