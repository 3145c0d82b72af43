//! What a reload changes of the engine: peers that came, went or are others, and where our sockets are.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use adit_engine::ike::Endpoint;
use adit_engine::path::Underlay;
use adit_proto::control::PeerId;

use super::paths::{set_static_path, static_terms};
use super::{Ike, now, own_key, settings, terms_of};
use crate::config::{Config, Oversize, Peer};
use crate::dataplane::Tables;
use crate::resolve::Known;

/// A configuration and the ids of its peers.
type Numbered<'a> = (&'a Config, &'a [PeerId]);

impl Ike {
    /// Asks another one for routes and addresses from now on.
    pub fn set_underlay(&mut self, underlay: Box<dyn Underlay + Send>) {
        self.endpoint.set_underlay(underlay);
    }

    /// What is sent leaves from sockets that are bound there from now on.
    pub fn rebind(&mut self, listen: SocketAddr) {
        if std::mem::replace(&mut self.bound, listen) != listen {
            self.endpoint.rebind(now(), listen);
        }
    }

    /// Changes what a reload has changed; `touched` are the names of the peers that it concerns. Nobody else's SAs are touched. Both
    /// configurations come with the ids of their peers; `renewed` says that they differ in the content of files alone. What makes
    /// no sense to the engine comes back.
    pub fn reconfigure(
        &mut self,
        old: Numbered<'_>,
        new: Numbered<'_>,
        (touched, known): (&BTreeSet<String>, &Known),
        tables: Tables,
        renewed: bool,
    ) -> Vec<String> {
        let (config, ids) = new;
        self.listen = config.listen;
        let by_ike = |(place, id): (usize, &PeerId)| config.peers[place].ike().map(|_| (*id, place));
        self.places = ids.iter().enumerate().filter_map(by_ike).collect();
        self.ids = ids.to_vec();
        self.used |= !self.places.is_empty();
        self.own_key = own_key(config);
        self.expiry.changed();
        for id in old.1.iter().filter(|id| !self.places.contains_key(id)) {
            // Of one with a static key it knows the paths alone.
            let _ = self.endpoint.remove_peer(now(), *id);
            if !ids.contains(id) {
                self.endpoint.remove_static_path(*id);
            }
        }
        self.endpoint.set_mtu_max(now(), config.underlay_mtu);
        self.endpoint.set_split(now(), config.oversize == Oversize::Split);
        self.look_for_others(old.0, new, (touched, known));
        let pool = settings::Pool::of(config, tables);
        let before: BTreeMap<PeerId, &Peer> = old.1.iter().copied().zip(&old.0.peers).collect();
        let mut problems = Vec::new();
        for (id, place) in self.places.clone() {
            let peer = &config.peers[place];
            // Who came or went takes or leaves a part of the tables.
            self.endpoint.set_share(now(), id, settings::share(config, peer, pool));
            if !touched.contains(&peer.name) && old.0.listen == config.listen {
                continue;
            }
            let Some(settings) = settings::peer(config, peer, known, pool) else { continue };
            let (local, first) = (settings.local, settings.remotes.first().copied());
            let set = if renewed { Endpoint::renew_peer } else { Endpoint::set_peer };
            match (set(&mut self.endpoint, now(), id, settings), before.get(&id)) {
                (Err(error), _) => problems.push(format!("peer {}: {error}", peer.name)),
                (Ok(()), Some(before)) => self.change(id, (before, peer), (local, first)),
                (Ok(()), None) => {}
            }
        }
        problems
    }

    /// Where each peer is looked for by now.
    fn look_for_others(&mut self, old: &Config, (new, ids): Numbered<'_>, (touched, known): (&BTreeSet<String>, &Known)) {
        let other_oversize = old.oversize != new.oversize;
        for (place, (id, peer)) in ids.iter().zip(&new.peers).enumerate() {
            self.first.extend(self.sas.set_peer(*id, terms_of(new, place)));
            self.names.insert(*id, peer.name.clone());
            let addresses = known.addresses(new.listen, peer);
            let before = self.remotes.insert(*id, addresses.clone());
            let differs = before.as_ref() != Some(&addresses) || touched.contains(&peer.name);
            match peer.ike() {
                None if differs => set_static_path(&mut self.endpoint, new, *id, peer, &addresses),
                // It stays where it is, also where it went by itself.
                None if other_oversize => self.endpoint.set_static_terms(*id, static_terms(new, peer)),
                _ => {}
            }
        }
        self.remotes.retain(|id, _| ids.contains(id));
    }

    /// A peer that there was before is another one.
    fn change(&mut self, id: PeerId, (before, peer): (&Peer, &Peer), (local, first): (Option<SocketAddr>, Option<SocketAddr>)) {
        let there = self.endpoint.hop(id).and_then(|hop| hop.remote().address());
        let stays = there.is_some_and(|there| self.remotes.get(&id).is_some_and(|remotes| remotes.contains(&there)));
        if before.endpoints != peer.endpoints && !stays && first.is_some() {
            // One that was not connected goes there with its next attempt.
            let _ = self.endpoint.set_addresses(now(), id, local, first);
            let all = self.remotes.get(&id).cloned().unwrap_or_default();
            let _ = self.endpoint.set_remotes(now(), id, all);
        }
        if child_differs(before, peer) {
            // One that is not connected asks for the new ones anyhow.
            let _ = self.endpoint.rekey(now(), id);
        }
    }
}

/// Whether Child SAs would be negotiated in another way.
fn child_differs(before: &Peer, after: &Peer) -> bool {
    let of = |peer: &Peer| {
        let ike = peer.ike();
        let terms = ike.map(|ike| (ike.esp_proposals.clone(), ike.rekey_s, ike.rekey_bytes, ike.rekey_packets));
        (terms, peer.selectors.clone(), peer.lanes, peer.defer_checksums)
    };
    of(before) != of(after)
}
