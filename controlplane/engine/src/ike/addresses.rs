//! What an IKE SA knows about addresses (RFC 4555): those of the peer, those of ours that it was told, and how it sees us.

use std::net::IpAddr;

#[derive(Clone, Debug, Default)]
pub(super) struct Addresses {
    /// Other addresses of the peer (§3.4).
    peer: Vec<IpAddr>,
    /// Other addresses of ours, as the peer was told.
    own: Vec<IpAddr>,
    /// The hash of our address as the peer saw it last (§3.8).
    seen: Option<[u8; 20]>,
}

impl Addresses {
    pub(super) fn of_peer(&self) -> &[IpAddr] {
        &self.peer
    }

    /// As the peer names them, instead of those that it named before.
    pub(super) fn set_of_peer(&mut self, addresses: Vec<IpAddr>) {
        self.peer = addresses;
    }

    /// The peer is told that these are ours.
    pub(super) fn reported(&mut self, own: Vec<IpAddr>) {
        self.own = own;
    }

    pub(super) fn was_reported(&self, own: &[IpAddr]) -> bool {
        self.own == own
    }

    /// How the peer sees us, where it says so.
    pub(super) fn set_seen(&mut self, seen: Option<[u8; 20]>) {
        self.seen = seen;
    }

    /// The peer says how it sees us. Says whether it saw us at another address before.
    pub(super) fn take_seen(&mut self, seen: [u8; 20]) -> bool {
        self.seen.replace(seen).is_some_and(|before| before != seen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_last_is_what_counts_and_the_first_word_is_no_change() {
        let mut addresses = Addresses::default();
        let [one, other] = [IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2])];
        assert!(addresses.was_reported(&[]) && !addresses.was_reported(&[one]));
        addresses.reported(vec![one]);
        addresses.reported(vec![other]);
        assert!(addresses.was_reported(&[other]) && !addresses.was_reported(&[one]) && !addresses.was_reported(&[]));
        addresses.set_of_peer(vec![one, other]);
        addresses.set_of_peer(vec![other]);
        assert_eq!(addresses.of_peer(), [other]);
        assert!(!addresses.take_seen([1; 20]) && !addresses.take_seen([1; 20]) && addresses.take_seen([2; 20]));
        addresses.set_seen(None);
        assert!(!addresses.take_seen([3; 20]), "it did not say for a while");
        addresses.set_seen(Some([4; 20]));
        assert!(addresses.take_seen([3; 20]));
    }
}
