//! The payloads of one message by what they are, so that an exchange can ask for the ones that it needs.

use std::collections::BTreeSet;

use adit_proto::ike::{
    AuthMethod, CertEncoding, CfgAttributeType, CfgType, Delete, ExchangeType, Identification, KeId, Notify, NotifyType, Payload,
    PayloadType, Proposal, TrafficSelector,
};

use super::error::{Error, Misbehaviour};

/// What a client asks for that is to be given an address.
const ADDRESSES: [CfgAttributeType; 2] = [CfgAttributeType::INTERNAL_IP4_ADDRESS, CfgAttributeType::INTERNAL_IP6_ADDRESS];

/// A message taken apart. What may be there only once was there at most once.
#[derive(Debug, Default)]
pub(super) struct Parts {
    pub sa: Option<Vec<Proposal>>,
    pub ke: Option<(KeId, Vec<u8>)>,
    pub nonce: Option<Vec<u8>>,
    pub id_i: Option<Identification>,
    pub id_r: Option<Identification>,
    pub auth: Option<(AuthMethod, Vec<u8>)>,
    pub ts_i: Option<Vec<TrafficSelector>>,
    pub ts_r: Option<Vec<TrafficSelector>>,
    pub certs: Vec<(CertEncoding, Vec<u8>)>,
    pub cert_reqs: Vec<(CertEncoding, Vec<u8>)>,
    pub notifies: Vec<Notify>,
    pub deletes: Vec<Delete>,
    pub vendors: Vec<Vec<u8>>,
    /// The virtual addresses that a client asks for (RFC 7296 §2.19).
    pub asked_addresses: BTreeSet<CfgAttributeType>,
}

impl Parts {
    /// Sorts the payloads. Their order means nothing (RFC 7296 §2.5), except among those of one kind.
    ///
    /// # Errors
    /// One that may be there once is there twice.
    pub(super) fn sort(payloads: Vec<Payload>) -> Result<Parts, Error> {
        let mut parts = Parts::default();
        for payload in payloads {
            let kind = payload.kind();
            match payload {
                Payload::Sa(proposals) => once(&mut parts.sa, proposals, kind)?,
                Payload::Ke { method, data } => once(&mut parts.ke, (method, data), kind)?,
                Payload::Nonce(nonce) => once(&mut parts.nonce, nonce, kind)?,
                Payload::IdI(id) => once(&mut parts.id_i, id, kind)?,
                Payload::IdR(id) => once(&mut parts.id_r, id, kind)?,
                Payload::Auth { method, data } => once(&mut parts.auth, (method, data), kind)?,
                Payload::TsI(selectors) => once(&mut parts.ts_i, selectors, kind)?,
                Payload::TsR(selectors) => once(&mut parts.ts_r, selectors, kind)?,
                Payload::Cert { encoding, data } => parts.certs.push((encoding, data)),
                Payload::CertReq { encoding, data } => parts.cert_reqs.push((encoding, data)),
                Payload::Notify(notify) => parts.notifies.push(notify),
                Payload::Delete(delete) => parts.deletes.push(delete),
                Payload::Vendor(vendor) => parts.vendors.push(vendor),
                Payload::Cp(config) if config.kind == CfgType::REQUEST => {
                    let asked = config.attributes.iter().map(|one| one.kind).filter(|kind| ADDRESSES.contains(kind));
                    parts.asked_addresses.extend(asked);
                }
                // EAP is not spoken here; SK and SKF have been opened by now.
                Payload::Cp(_) | Payload::Eap(_) | Payload::Sk { .. } | Payload::Skf { .. } | Payload::Unknown { .. } => {}
            }
        }
        Ok(parts)
    }

    /// The first notification of this kind.
    pub(super) fn notify(&self, kind: NotifyType) -> Option<&Notify> {
        self.notifies.iter().find(|notify| notify.kind == kind)
    }

    /// Whether there is a notification of this kind.
    pub(super) fn has(&self, kind: NotifyType) -> bool {
        self.notify(kind).is_some()
    }

    /// The link to the next additional key exchange (RFC 9370 §2.2.4).
    pub(super) fn follow_up_link(&self) -> Option<Vec<u8>> {
        self.notify(NotifyType::ADDITIONAL_KEY_EXCHANGE).map(|notify| notify.data.clone())
    }

    /// The first notification that is an error: then the request has failed (RFC 7296 §3.10.1).
    pub(super) fn error(&self) -> Option<&Notify> {
        self.notifies.iter().find(|notify| notify.kind.is_error())
    }
}

fn once<T>(place: &mut Option<T>, value: T, kind: PayloadType) -> Result<(), Error> {
    if place.is_some() {
        return Err(Misbehaviour::Repeated(kind).into());
    }
    *place = Some(value);
    Ok(())
}

/// A payload that the exchange cannot do without.
pub(super) fn needed<T>(value: Option<T>, exchange: ExchangeType, payload: PayloadType) -> Result<T, Error> {
    value.ok_or(Error::PeerMisbehaved(Misbehaviour::Missing { exchange, payload }))
}
