//! Which configured peer may be behind an address, before it says who it is, and then by its identity.
//!
//! A peer is admitted by what it proves, so it may come from anywhere unless its configuration says otherwise
//! ([`Origin`](crate::path::Origin)). Where we
//! look for it, its proposals go first; from elsewhere those of all who may come from there, and what was chosen is compared with the
//! peer's own once it is known. One that was refused for that is remembered with its address, and goes first there the next time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use adit_proto::control::PeerId;
use adit_proto::ike::{CertEncoding, Proposal};
use ipnet::IpNet;

use crate::crypto::KeyExchangeMethod;
use crate::identity::{Identity, Pattern};
use crate::shown::Shown;

use super::config::PeerConfig;
use super::negotiate::{self, Alternative, Choice, Mismatch};
use crate::limits::{CERT_REQUESTS_SENT_MAX, REMEMBERED_MAX};
use crate::path::Site;

/// Peers that may come from one address or network.
#[derive(Debug, Default)]
struct Group {
    /// Every list of proposals that some of them have, once.
    proposals: Vec<Vec<Alternative>>,
    ppk: bool,
    force_encapsulation: bool,
    /// Every CERTREQ payload that some of them needs, once.
    certificate_requests: Vec<(CertEncoding, Vec<u8>)>,
    by_name: BTreeMap<Vec<u8>, Vec<PeerId>>,
    /// Those whose identity is a pattern, or no plain name.
    others: Vec<(PeerId, Pattern)>,
}

/// All peers that may connect to us.
#[derive(Debug, Default)]
pub(super) struct Directory {
    /// By the addresses where we look for them.
    at: BTreeMap<Site, Group>,
    /// By the networks that they may come from; all of IPv4 and of IPv6 is anywhere.
    from: BTreeMap<IpNet, Group>,
    /// Those that may come in any stream.
    in_streams: Group,
    /// The lengths of these networks, longest first.
    lengths: BTreeSet<std::cmp::Reverse<u8>>,
    /// Peers that proved themselves at an address where something was agreed that they may not use, the newest last.
    remembered: VecDeque<(Site, PeerId, Vec<Alternative>)>,
}

/// Those that may come from one address: the ones that we look for there first, then those from the smallest network.
#[derive(Clone, Debug)]
pub(super) struct Candidates<'a> {
    remembered: Vec<&'a [Alternative]>,
    groups: Vec<&'a Group>,
}

impl Group {
    fn add(&mut self, id: PeerId, config: &PeerConfig) {
        let alternatives = negotiate::ike_alternatives(&config.proposals);
        if !self.proposals.contains(&alternatives) {
            self.proposals.push(alternatives);
        }
        self.ppk |= config.ppk.is_some();
        self.force_encapsulation |= config.force_encapsulation;
        for request in config.remote_auth.certificate_requests() {
            if !self.certificate_requests.contains(&request) {
                self.certificate_requests.push(request);
            }
        }
        match config.remote_id.exact().and_then(key) {
            Some(key) => self.by_name.entry(key).or_default().push(id),
            None => self.others.push((id, config.remote_id.clone())),
        }
    }
}

impl Directory {
    /// Builds it anew from all peers: their configurations, and the addresses where they are looked for.
    pub(super) fn of<'a, A>(peers: impl Iterator<Item = (PeerId, &'a PeerConfig, A)>) -> Directory
    where
        A: IntoIterator<Item = Site>,
    {
        let mut directory = Directory::default();
        peers.for_each(|(id, config, at)| directory.add(id, config, at));
        directory
    }

    /// Adds a peer, in a time that does not depend on how many there are.
    pub(super) fn add(&mut self, id: PeerId, config: &PeerConfig, at: impl IntoIterator<Item = Site>) {
        if !config.respond {
            return;
        }
        if config.in_streams {
            self.in_streams.add(id, config);
        }
        let at: BTreeSet<Site> = at.into_iter().collect();
        at.into_iter().for_each(|address| self.at.entry(address).or_default().add(id, config));
        let networks: BTreeSet<IpNet> = config.from.networks().collect();
        for network in networks {
            self.lengths.insert(std::cmp::Reverse(network.prefix_len()));
            self.from.entry(network).or_default().add(id, config);
        }
    }

    /// In a stream nobody has an address, and what somebody at the relay says of itself is not verified: all come who may be in one.
    pub(super) fn candidates(&self, site: Site) -> Candidates<'_> {
        let network = |length: &std::cmp::Reverse<u8>| self.from.get(&IpNet::new(site.address()?, length.0).ok()?.trunc());
        let in_streams = site.address().is_none().then_some(&self.in_streams).filter(|group| !group.proposals.is_empty());
        let remembered = self.remembered.iter().rev().filter(|(at, ..)| *at == site);
        Candidates {
            remembered: remembered.map(|(_, _, alternatives)| alternatives.as_slice()).collect(),
            groups: self.at.get(&site).into_iter().chain(self.lengths.iter().filter_map(network)).chain(in_streams).collect(),
        }
    }

    /// A peer has proven who it is at an address where something was chosen that it may not use: the next time its own proposals go
    /// first there.
    pub(super) fn remember(&mut self, site: Site, id: PeerId, config: &PeerConfig) {
        self.remembered.retain(|(_, known, _)| *known != id);
        if self.remembered.len() == REMEMBERED_MAX {
            self.remembered.pop_front();
        }
        self.remembered.push_back((site, id, negotiate::ike_alternatives(&config.proposals)));
    }
}

impl<'a> Candidates<'a> {
    /// Whether nobody may come from there.
    pub(super) fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// The choice of IKE algorithms that some of them agrees to.
    pub(super) fn choose(&self, theirs: &[Proposal], sent: Option<KeyExchangeMethod>) -> Result<Choice, Mismatch> {
        let mut refusal = Mismatch { lacking: None };
        let proposals = self.groups.iter().flat_map(|group| &group.proposals).map(Vec::as_slice);
        for alternatives in self.remembered.iter().copied().chain(proposals) {
            match negotiate::choose(alternatives, theirs, sent) {
                Ok(choice) => return Ok(choice),
                Err(mismatch) => refusal.lacking = refusal.lacking.max(mismatch.lacking),
            }
        }
        Err(refusal)
    }

    /// What any of them would accept, for people.
    pub(super) fn offers(&self) -> Vec<Shown> {
        let alternatives = self.groups.iter().flat_map(|group| &group.proposals);
        let texts = alternatives.flat_map(|alternatives| super::explain::texts(&negotiate::offer(alternatives, Vec::new())));
        first_ones(texts, 8)
    }

    /// All of them.
    pub(super) fn peers(&self) -> impl Iterator<Item = PeerId> {
        let mut seen = BTreeSet::new();
        let named = |group: &&'a Group| group.by_name.values().flatten().copied().chain(group.others.iter().map(|(id, _)| *id));
        self.groups.iter().flat_map(named).filter(move |id| seen.insert(*id))
    }

    /// The CERTREQ payloads for all of them, a few at most.
    pub(super) fn certificate_requests(&self) -> Vec<(CertEncoding, Vec<u8>)> {
        let all = || self.groups.iter().flat_map(|group| &group.certificate_requests).cloned();
        let is_raw = |(encoding, _): &(CertEncoding, Vec<u8>)| *encoding == CertEncoding::RAW_PUBLIC_KEY;
        // One word for all keys, without which they have to be tried.
        first_ones(all().filter(is_raw).chain(all().filter(|request| !is_raw(request))), CERT_REQUESTS_SENT_MAX)
    }

    /// Whether some of them has a post-quantum pre-shared key.
    pub(super) fn with_ppk(&self) -> bool {
        self.groups.iter().any(|group| group.ppk)
    }

    pub(super) fn force_encapsulation(&self) -> bool {
        self.groups.iter().any(|group| group.force_encapsulation)
    }

    /// The peers that may have this identity: those with exactly this one, and those with a pattern that covers it; in each
    /// the ones that we look for at the address first.
    pub(super) fn with_identity(&self, identity: &Identity) -> [Vec<PeerId>; 2] {
        let name = key(identity);
        let named = |group: &&'a Group| name.as_ref().and_then(|name| group.by_name.get(name)).into_iter().flatten().copied();
        let fits = |(id, pattern): &(PeerId, Pattern)| pattern.matches(identity).then_some((*id, pattern.exact().is_some()));
        let others: Vec<(PeerId, bool)> = self.groups.iter().flat_map(|group| group.others.iter().filter_map(fits)).collect();
        let of = |exact: bool| others.iter().filter(move |(_, one)| *one == exact).map(|(id, _)| *id);
        let mut seen = BTreeSet::new();
        let mut once = |id: &PeerId| seen.insert(*id);
        let exact = self.groups.iter().flat_map(named).chain(of(true)).filter(&mut once).collect();
        [exact, of(false).filter(&mut once).collect()]
    }
}

/// At most so many of them, each once.
fn first_ones<T: PartialEq>(all: impl Iterator<Item = T>, most: usize) -> Vec<T> {
    let mut list = Vec::new();
    for one in all {
        if list.len() == most {
            break;
        }
        if !list.contains(&one) {
            list.push(one);
        }
    }
    list
}

/// What identities that are equal have in common; `None` where comparing takes more.
fn key(identity: &Identity) -> Option<Vec<u8>> {
    let payload = identity.to_payload();
    let data = match identity {
        Identity::Fqdn(_) | Identity::Email(_) => payload.data.to_ascii_lowercase(),
        Identity::Ip(_) | Identity::KeyId(_) => payload.data,
        Identity::Dn(_) => return None,
    };
    Some([&[payload.id_type.0], data.as_slice()].concat())
}

#[cfg(test)]
mod tests {
    use super::super::config::Ppk;
    use super::super::testing::peer_config;
    use super::*;
    use crate::path::Origin;

    fn names(candidates: &Candidates, identity: &str) -> Vec<u16> {
        candidates.with_identity(&identity.parse().unwrap()).concat().into_iter().map(|id| id.0).collect()
    }

    #[test]
    fn who_may_come_from_where_and_who_goes_first_there() {
        let mut directory = Directory::default();
        let of = |from: Origin| PeerConfig { from, ..peer_config() };
        let at = |text: &str| Site::Address(text.parse().unwrap());
        let listed = Origin::Networks(vec!["198.51.100.0/24".parse().unwrap(), "2001:db8::/32".parse().unwrap()]);
        directory.add(PeerId(1), &of(Origin::Anywhere), [at("192.0.2.1")]);
        directory.add(PeerId(2), &of(Origin::Endpoints), [at("192.0.2.2")]);
        directory.add(PeerId(3), &of(listed), [at("192.0.2.3")]);
        directory.add(PeerId(4), &of(Origin::Anywhere), [at("192.0.2.4"), at("192.0.2.4")]);
        let from = |address: &str| names(&directory.candidates(at(address)), "a.example.org");
        assert_eq!(from("192.0.2.1"), [1, 4]);
        assert_eq!(from("192.0.2.2"), [2, 1, 4]);
        assert_eq!(from("192.0.2.3"), [3, 1, 4]);
        assert_eq!(from("192.0.2.4"), [4, 1]);
        assert_eq!(from("198.51.100.77"), [3, 1, 4]);
        assert_eq!(from("2001:db8::1"), [3, 1, 4]);
        assert_eq!((from("203.0.113.1"), from("2001:db9::1")), (vec![1, 4], vec![1, 4]));
        assert_eq!(directory.candidates(at("192.0.2.4")).peers().count(), 2);
        let mut strict = Directory::default();
        strict.add(PeerId(2), &of(Origin::Endpoints), [at("192.0.2.2")]);
        assert!(strict.candidates(at("192.0.2.9")).is_empty() && !strict.candidates(at("192.0.2.2")).is_empty());
    }

    #[test]
    fn what_is_said_before_it_is_clear_who_comes_is_what_any_of_them_needs() {
        let mut directory = Directory::default();
        let at = |text: &str| Site::Address(text.parse().unwrap());
        let ppk = Ppk { id: b"ppk-1".to_vec(), key: crate::crypto::Secret::copy_of(&[9; 32]), mandatory: false };
        let there = || PeerConfig { from: Origin::Endpoints, ..peer_config() };
        let plain = there();
        directory.add(PeerId(1), &PeerConfig { ppk: Some(ppk), ..there() }, [at("192.0.2.1")]);
        directory.add(PeerId(2), &PeerConfig { force_encapsulation: true, ..there() }, [at("192.0.2.2")]);
        directory.add(PeerId(3), &plain, [at("192.0.2.1"), at("192.0.2.2"), at("192.0.2.3")]);
        let said = |host: &str| {
            let candidates = directory.candidates(at(host));
            (candidates.with_ppk(), candidates.force_encapsulation())
        };
        assert_eq!(["192.0.2.1", "192.0.2.2", "192.0.2.3"].map(said), [(true, false), (false, true), (false, false)]);
        assert!(directory.candidates(at("192.0.2.3")).certificate_requests().is_empty(), "nobody there has a certificate");
    }

    #[test]
    fn lists_that_others_fill_have_an_end_and_nothing_twice() {
        let list = |most| first_ones([1, 1, 2, 3, 2, 4].into_iter(), most);
        assert_eq!([0, 1, 3, 9].map(list), [vec![], vec![1], vec![1, 2, 3], vec![1, 2, 3, 4]]);
    }
}
