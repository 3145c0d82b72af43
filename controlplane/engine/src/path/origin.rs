//! From where a peer may come. It is admitted by what it proves; the addresses are a filter for who wants one.

use ipnet::IpNet;

use super::hop::Site;

/// From where a peer may come to us, and where it may move to. What it has to prove is the same everywhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    #[default]
    Anywhere,
    /// Only from where we look for it.
    Endpoints,
    /// From there, and from these networks.
    Networks(Vec<IpNet>),
}

impl Origin {
    /// The networks that a peer may come from, beside the addresses where we look for it.
    pub(crate) fn networks(&self) -> impl Iterator<Item = IpNet> {
        let all = || [IpNet::new_assert([0; 4].into(), 0), IpNet::new_assert([0u16; 8].into(), 0)];
        let (anywhere, listed) = match self {
            Origin::Anywhere => (Some(all()), &[][..]),
            Origin::Endpoints => (None, &[][..]),
            Origin::Networks(networks) => (None, networks.as_slice()),
        };
        anywhere.into_iter().flatten().chain(listed.iter().map(IpNet::trunc))
    }

    /// Whether a peer that we look for at some places may be at another one.
    pub(crate) fn allows(&self, place: Site, endpoints: &[Site]) -> bool {
        // Who may come in a stream, where nobody has an address, is decided where IKE begins in it.
        let Site::Address(address) = place else { return true };
        match self {
            Origin::Anywhere => true,
            Origin::Endpoints => endpoints.contains(&place),
            Origin::Networks(networks) => endpoints.contains(&place) || networks.iter().any(|network| network.contains(&address)),
        }
    }
}
