//! Which configured peer may be behind an address, before it says who it is, and then by its identity.

use std::collections::BTreeMap;
use std::net::IpAddr;

use adit_proto::control::PeerId;
use adit_proto::ike::{CertEncoding, Proposal};

use crate::crypto::KeyExchangeMethod;
use crate::identity::{Identity, Pattern};

use super::config::PeerConfig;
use super::negotiate::{self, Alternative, Choice, Mismatch};

/// They go into IKE_SA_INIT, which cannot be fragmented (RFC 7383 §2.2).
const CERTIFICATE_REQUESTS_MAX: usize = 4;

/// Peers that may come from one address.
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
    by_address: BTreeMap<IpAddr, Group>,
    anywhere: Group,
}

/// Those that may come from one address: the ones with this address first.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidates<'a> {
    here: Option<&'a Group>,
    anywhere: &'a Group,
}

impl Directory {
    /// Builds it anew from all configurations.
    pub(super) fn of<'a>(peers: impl Iterator<Item = (PeerId, &'a PeerConfig)>) -> Directory {
        let mut directory = Directory::default();
        peers.for_each(|(id, config)| directory.add(id, config));
        directory
    }

    /// Adds a peer, in a time that does not depend on how many there are.
    pub(super) fn add(&mut self, id: PeerId, config: &PeerConfig) {
        if !config.respond {
            return;
        }
        let group = match config.remote {
            Some(remote) => self.by_address.entry(remote.ip()).or_default(),
            None => &mut self.anywhere,
        };
        let alternatives = negotiate::ike_alternatives(&config.proposals);
        if !group.proposals.contains(&alternatives) {
            group.proposals.push(alternatives);
        }
        group.ppk |= config.ppk.is_some();
        group.force_encapsulation |= config.force_encapsulation;
        for request in config.remote_auth.certificate_requests() {
            if !group.certificate_requests.contains(&request) {
                group.certificate_requests.push(request);
            }
        }
        match config.remote_id.exact().and_then(key) {
            Some(key) => group.by_name.entry(key).or_default().push(id),
            None => group.others.push((id, config.remote_id.clone())),
        }
    }

    pub(super) fn candidates(&self, address: IpAddr) -> Candidates<'_> {
        Candidates { here: self.by_address.get(&address), anywhere: &self.anywhere }
    }
}

impl<'a> Candidates<'a> {
    fn groups(self) -> impl Iterator<Item = &'a Group> {
        self.here.into_iter().chain([self.anywhere])
    }

    /// Whether nobody may come from there.
    pub(super) fn is_empty(self) -> bool {
        self.groups().all(|group| group.proposals.is_empty())
    }

    /// The choice of IKE algorithms that some of them agrees to.
    pub(super) fn choose(self, theirs: &[Proposal], sent: Option<KeyExchangeMethod>) -> Result<Choice, Mismatch> {
        let mut refusal = Mismatch { lacking: None };
        for alternatives in self.groups().flat_map(|group| &group.proposals) {
            match negotiate::choose(alternatives, theirs, sent) {
                Ok(choice) => return Ok(choice),
                Err(mismatch) => refusal.lacking = refusal.lacking.max(mismatch.lacking),
            }
        }
        Err(refusal)
    }

    /// What any of them would accept, for people.
    pub(super) fn offers(self) -> Vec<String> {
        self.groups()
            .flat_map(|group| &group.proposals)
            .flat_map(|alternatives| super::explain::texts(&negotiate::offer(alternatives, Vec::new())))
            .take(8)
            .collect()
    }

    /// All of them.
    pub(super) fn peers(self) -> impl Iterator<Item = PeerId> {
        let named = |group: &'a Group| group.by_name.values().flatten().copied();
        self.groups().flat_map(move |group| named(group).chain(group.others.iter().map(|(id, _)| *id)))
    }

    /// The CERTREQ payloads for all of them, a few at most.
    pub(super) fn certificate_requests(self) -> Vec<(CertEncoding, Vec<u8>)> {
        self.groups().flat_map(|group| &group.certificate_requests).take(CERTIFICATE_REQUESTS_MAX).cloned().collect()
    }

    /// Whether some of them has a post-quantum pre-shared key.
    pub(super) fn with_ppk(self) -> bool {
        self.groups().any(|group| group.ppk)
    }

    pub(super) fn force_encapsulation(self) -> bool {
        self.groups().any(|group| group.force_encapsulation)
    }

    /// The peers that may have this identity: those with exactly this one, and those with a pattern that covers it; in each
    /// the ones with the address first.
    pub(super) fn with_identity(self, identity: &Identity) -> [Vec<PeerId>; 2] {
        let name = key(identity);
        let named = |group: &'a Group| name.as_ref().and_then(|name| group.by_name.get(name)).into_iter().flatten().copied();
        let fits = |(id, pattern): &(PeerId, Pattern)| pattern.matches(identity).then_some((*id, pattern.exact().is_some()));
        let others: Vec<(PeerId, bool)> = self.groups().flat_map(|group| group.others.iter().filter_map(fits)).collect();
        let of = |exact: bool| others.iter().filter(move |(_, one)| *one == exact).map(|(id, _)| *id);
        [self.groups().flat_map(named).chain(of(true)).collect(), of(false).collect()]
    }
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
