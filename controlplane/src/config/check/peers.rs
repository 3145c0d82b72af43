//! The peers, their keys, and what must not be equal between them.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use adit_channel::SA_SLOTS_MAX;
use adit_proto::control::Mode;

use super::Check;
use crate::config::ike_section::Role;
use crate::config::problem::Place;
use crate::config::raw::{self, Spanned};
use crate::config::{Endpoint, Keys, Peer, WORKERS_MAX, spare_sas, worker_sas};
use crate::limits::PEERS_MAX;
use crate::static_key::{Flow, Secret};

/// SAs in each direction when the file does not say. Both ends must agree, so this cannot depend on the machine.
const LANES_DEFAULT: u64 = 4;

/// What a peer is judged against.
#[derive(Clone, Copy)]
pub(super) struct Around<'a> {
    /// The gateway's own name.
    pub name: &'a str,
    pub listen: Option<(SocketAddr, Place)>,
    /// Where the file names the gateway's private key.
    pub own_key: Option<Place>,
    pub workers: u16,
    pub mode: Mode,
    /// There is a relay over which peers can be met.
    pub has_relay: bool,
}

impl Check<'_> {
    /// The peers, each with the place of its name.
    pub(super) fn peers(&mut self, raw: Vec<Spanned<raw::Peer>>, around: Around<'_>) -> Vec<(Peer, Place)> {
        if let Some(extra) = raw.get(PEERS_MAX) {
            let what = format!("{} peers are listed", raw.len());
            self.fail(extra.at, what, format!("at most {PEERS_MAX} peers"), "the others in a second gateway".into());
        }
        let mut names: BTreeMap<String, Place> = BTreeMap::new();
        let mut endpoints: BTreeMap<Endpoint, String> = BTreeMap::new();
        let mut peers = Vec::new();
        let (mut sas, mut sas_full_at) = (0, None);
        let (mut spare, mut spare_full_at) = (0, None);
        for peer in raw.into_iter().take(PEERS_MAX) {
            let at = peer.at;
            let name_at = peer.value.name.as_ref().map_or(at, |name| name.at);
            let endpoint_at = peer.value.endpoint.as_ref().map_or(at, |endpoint| endpoint.at);
            let lanes_at = peer.value.lanes.as_ref().map_or(name_at, |lanes| lanes.at);
            let Some(peer) = self.peer(peer.value, at, around) else { continue };
            sas += worker_sas(&peer, around.workers);
            spare += spare_sas(&peer);
            if sas > SA_SLOTS_MAX {
                sas_full_at = sas_full_at.or(Some(lanes_at));
            } else if sas + spare > SA_SLOTS_MAX {
                spare_full_at = spare_full_at.or(Some(name_at));
            }
            if peer.name == around.name {
                let what = format!("the peer `{}` has the name of this gateway", peer.name);
                self.fail(name_at, what, "the `name` that the other gateway has in its own file".into(), "name: site-b".into());
            }
            if let Some(first) = names.insert(peer.name.clone(), name_at) {
                let what = format!("the peer `{}` is listed twice, first in line {}", peer.name, first.line);
                self.fail(name_at, what, "every peer once".into(), "another name, or remove one of the two".into());
            }
            let own = peer.endpoints.iter().filter(|_| peer.secret().is_some());
            let other = own.filter_map(|endpoint| endpoints.insert(endpoint.clone(), peer.name.clone())).next();
            if let Some(other) = other.filter(|other| *other != peer.name) {
                let what = format!("the peers `{other}` and `{}` have the same endpoint", peer.name);
                self.fail(
                    endpoint_at,
                    what,
                    "one address and port per peer".into(),
                    "endpoint: \"ADDRESS:PORT\" of this peer".into(),
                );
            }
            peers.push((peer, name_at));
        }
        self.identities(&peers);
        if let Some(at) = sas_full_at {
            self.too_many_sas(at, sas, &peers, around.workers);
        } else if let Some(at) = spare_full_at {
            self.too_many_child_sas(at, (sas, spare), &peers);
        }
        self.spis(&peers, around.name);
        peers
    }

    /// Who comes to us is known by its identity, and by its address where the file has one.
    fn identities(&mut self, peers: &[(Peer, Place)]) {
        let mut known: BTreeMap<String, &Peer> = BTreeMap::new();
        for (peer, at) in peers {
            let Some(identity) = peer.ike().and_then(|ike| ike.id.exact()) else { continue };
            // Domain names and e-mail addresses have no case.
            let Some(first) = known.insert(identity.to_string().to_lowercase(), peer) else { continue };
            let apart = first.endpoints.iter().all(|endpoint| !peer.endpoints.contains(endpoint));
            if apart && !first.endpoints.is_empty() && !peer.endpoints.is_empty() {
                continue;
            }
            let what = format!("the peers `{}` and `{}` have the same identity, {identity}", first.name, peer.name);
            let expected = "identities that differ, or an `endpoint` of its own for each of the two".to_owned();
            self.fail(*at, what, expected, format!("id: {}.example.org      (in `ike` of this peer)", peer.name));
        }
    }

    fn too_many_sas(&mut self, at: Place, sas: u32, peers: &[(Peer, Place)], workers: u16) {
        let ike = peers.iter().any(|(peer, _)| peer.ike().is_some());
        let peers = peers.len() as u32;
        // By IKE there are twice as many during a rekey.
        let lanes = (SA_SLOTS_MAX / peers).saturating_sub(1) * u32::from(workers) / if ike { 2 } else { 1 };
        let lanes = lanes.clamp(1, u32::from(WORKERS_MAX));
        self.fail(
            at,
            format!("{peers} peers with so many lanes need {sas} SAs of each worker ({workers} in all)"),
            format!(
                "at most {SA_SLOTS_MAX} SAs of a worker: for each peer its lanes (twice with IKE, for a rekey), divided by the \
                 workers, and one to send with"
            ),
            format!("lanes: {lanes}, for all peers and at both ends, or more workers, or some peers in a second gateway"),
        );
    }

    /// The lanes of all peers would fit, but not a Child SA for each selector.
    fn too_many_child_sas(&mut self, at: Place, (sas, spare): (u32, u32), peers: &[(Peer, Place)]) {
        let by_ike = || peers.iter().map(|(peer, _)| peer).filter(|peer| peer.ike().is_some());
        let selectors: usize = by_ike().map(|peer| peer.selectors.len()).sum();
        // Three for each selector but the first of a peer.
        let most = (SA_SLOTS_MAX - sas) / 3 / (by_ike().count() as u32).max(1) + 1;
        self.fail(
            at,
            format!("{selectors} selectors of peers with IKE need {} SAs of a worker", sas + spare),
            format!(
                "at most {SA_SLOTS_MAX} SAs of a worker: for each peer its lanes and, since a peer of another make has a Child SA for \
                 each selector, three more for each but its first, to send with and to receive with before and after a rekey"
            ),
            format!("larger networks, {most} selectors of each peer at most, or some peers in a second gateway"),
        );
    }

    fn peer(&mut self, raw: raw::Peer, at: Place, around: Around<'_>) -> Option<Peer> {
        self.peer_mode(around.mode, &raw, at);
        let name = self.required(raw.name, at, "name", "the `name` that the other gateway has in its own file", "name: site-b");
        let name = name.and_then(|name| self.gateway_name("name", name));
        let selectors = raw.selectors.map(|list| self.selectors(name.as_deref().unwrap_or_default(), list.value));
        let (has_endpoint, faults) = (raw.endpoint.is_some(), self.problems.len());
        let second = raw.endpoint.as_ref().and_then(|texts| texts.values.get(1)).map(|text| text.at);
        let endpoints = raw.endpoint.map_or_else(Vec::new, |texts| self.endpoints(&texts, around.listen));
        let endpoints_fail = self.problems.len() > faults;
        let from = self.origin(raw.from, has_endpoint);
        let keys = match (raw.static_key_file, raw.ike) {
            (static_key, None) => self.static_key(static_key, at),
            (None, Some(ike)) => {
                let name = name.as_deref().unwrap_or_default();
                self.peer_ike(ike.value, ike.at, name, around.own_key).map(|ike| Keys::Ike(Box::new(ike)))
            }
            (Some(static_key), Some(_)) => {
                let what = "the peer has a static key and IKE".to_owned();
                let expected = "one of static_key_file and ike".to_owned();
                self.fail(static_key.at, what, expected, "nothing: remove static_key_file".to_owned());
                None
            }
        };
        let waits = matches!(&keys, Some(Keys::Ike(ike)) if ike.role == Role::Responder);
        // Whom a relay sees is met there, if it is known who that is.
        let waits = waits || around.has_relay && matches!(keys, Some(Keys::Ike(_)));
        if !has_endpoint && !waits {
            let expected = match keys {
                Some(Keys::Static { .. }) => "the address and UDP port that the other gateway receives on",
                _ => {
                    "the address and UDP port that the other gateway receives on, or a `relay` block at the top, where both meet"
                }
            };
            self.missing(at, "endpoint", expected, "endpoint: \"192.0.2.2:4500\"");
        }
        let lanes = self.number("lanes", raw.lanes, 1..=u64::from(WORKERS_MAX), "lanes", LANES_DEFAULT) as u16;
        let defer_checksums = around.mode == Mode::Ethernet && raw.defer_checksums.is_none_or(|defer| defer.value);
        let [echo, split] = self.static_abilities([(raw.echo, true), (raw.split, false)], keys.as_ref());
        if let (Some(at), Some(Keys::Static { .. }), false) = (second, &keys, echo) {
            let what = "several endpoints of a peer that does not answer echoes".to_owned();
            let expected =
                "one endpoint: without echoes nobody notices that it is silent, so the others would never be tried".to_owned();
            self.fail(at, what, expected, "echo: true, at both ends; or one endpoint; or IKE".to_owned());
        }
        if endpoints_fail || !has_endpoint && !waits {
            return None;
        }
        let selectors = selectors.unwrap_or_default();
        Some(Peer { name: name?, endpoints, from, keys: keys?, lanes, defer_checksums, echo, split, selectors })
    }

    /// `echo` and `split`, each with its default: what the other end can do, where IKE does not say so.
    fn static_abilities(&mut self, given: [(Option<Spanned<bool>>, bool); 2], keys: Option<&Keys>) -> [bool; 2] {
        let is_static = matches!(keys, Some(Keys::Static { .. }));
        let mut names = ["echo", "split"].into_iter();
        given.map(|(given, default)| {
            let name = names.next().unwrap_or_default();
            if let (Some(given), Some(Keys::Ike(_))) = (&given, keys) {
                let what = format!("{name} is given for a peer with IKE");
                let does = if name == "echo" { "answer sealed echoes" } else { "have `oversize: split`" };
                let expected = format!("{name} only beside static_key_file: by IKE both ends say whether they {does}");
                self.fail(given.at, what, expected, format!("nothing: remove {name}"));
            }
            is_static && given.map_or(default, |given| given.value)
        })
    }

    fn static_key(&mut self, text: Option<raw::Text>, at: Place) -> Option<Keys> {
        let Some(text) = text else {
            let expected = "how the keys come about: by IKEv2, or, for labs, a static key (`static_key_file`)";
            self.missing(at, "ike", expected, "ike: { psk_file: site-b.psk }");
            return None;
        };
        let file = self.path(&text);
        match Secret::load(&file) {
            Ok(secret) => Some(Keys::Static { file, secret }),
            Err(error) => {
                let expected = "a key file that only its owner can read, made by `adit keygen`".to_owned();
                self.fail(text.at, error.to_string(), expected, error.remedy());
                None
            }
        }
    }

    /// Two flows with the same 22 bits cannot live in one gateway. One pair in four million meets this.
    fn spis(&mut self, peers: &[(Peer, Place)], own_name: &str) {
        for inbound in [true, false] {
            let mut seen: BTreeMap<u32, &str> = BTreeMap::new();
            for (peer, at) in peers {
                let (sender, receiver) = if inbound { (peer.name.as_str(), own_name) } else { (own_name, peer.name.as_str()) };
                let Some(secret) = peer.secret() else { continue };
                let spi = secret.spi(Flow { sender, receiver }, 0);
                let Some(other) = seen.insert(spi.0, &peer.name).filter(|other| *other != peer.name) else { continue };
                self.fail(
                    *at,
                    format!("the SPIs of the peers `{other}` and `{}` collide ({:#010x})", peer.name, spi.0),
                    "keys from which different SPIs come".into(),
                    format!("another key for `{}`: adit keygen -o NEW.key, on both gateways of the pair", peer.name),
                );
            }
        }
    }
}
