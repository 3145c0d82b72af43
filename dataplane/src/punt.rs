//! What goes up to the control plane: messages of IKE, as far as the screen lets them through, and STUN.

use adit_proto::control::{Command, Refusal};
use adit_proto::demux::Kind;
use adit_proto::esp::NON_ESP_MARKER_LEN;
use adit_proto::rate_limit::RateLimit;
use adit_proto::screen::Screen;
use adit_proto::stats::Drop;

use crate::limits::STUN_PER_S;
use crate::udp::Endpoint;
use adit_proto::limits::{IKE_ADDRESSES_PER_PEER, IKE_SAS_OF_PEER_MAX};

/// Decides which datagrams a worker hands up.
pub struct Punts {
    ike: Screen,
    stun: RateLimit,
    /// What is dropped and goes up all the same, to be told of.
    reported: RateLimit,
}

impl Punts {
    /// For so many peers.
    pub fn new(peers: usize) -> Punts {
        let ike = Screen::new(IKE_SAS_OF_PEER_MAX * peers, IKE_ADDRESSES_PER_PEER * peers);
        Punts { ike, stun: RateLimit::new(STUN_PER_S), reported: RateLimit::new(1) }
    }

    /// Does what a command says of whose messages go up first; `None` for one about something else.
    pub fn apply(&mut self, command: &Command) -> Option<Result<(), Refusal>> {
        self.ike.apply(command)
    }

    /// Notes what the control plane sends: an answer to it goes up though many send under the same address.
    pub fn sent(&mut self, datagram: &[u8], now_us: u64) {
        if let Some(message) = datagram.strip_prefix(&[0; NON_ESP_MARKER_LEN]) {
            self.ike.sent(message, now_us);
        }
    }

    /// Whether a datagram of this kind may go up, or why it is dropped.
    pub fn admit(&mut self, kind: Kind, datagram: &[u8], from: &Endpoint, now_us: u64) -> Result<(), Drop> {
        if kind == Kind::Stun {
            return if self.stun.take(1, now_us) { Ok(()) } else { Err(Drop::PuntStunLimit) };
        }
        let message = datagram.get(NON_ESP_MARKER_LEN..).ok_or(Drop::BadIke)?;
        self.ike.admit(message, from.address().ok_or(Drop::Unclassified)?, now_us)
    }

    /// Whether a datagram that is dropped for this reason goes up all the same, only to be told of: one in a second of IKEv1, so that the
    /// operator hears who is to be set to IKEv2.
    pub fn tells_of(&mut self, why: Drop, now_us: u64) -> bool {
        why == Drop::IkeV1 && self.reported.take(1, now_us)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stun_and_ike_have_their_own_shares() {
        let mut punts = Punts::new(1);
        let from = Endpoint::new("192.0.2.1:7".parse().unwrap(), true);
        let header = [&[0; 4][..], &[5; 8], &[0; 8], &[33, 0x20, 34, 8, 0, 0, 0, 0, 0, 0, 0, 28]].concat();
        let mut admitted = |kind, datagram: &[u8]| (0..20_000).filter(|_| punts.admit(kind, datagram, &from, 1).is_ok()).count();
        assert_eq!(admitted(Kind::Stun, &[0; 20]), STUN_PER_S as usize);
        assert_eq!(admitted(Kind::Ike, &header), adit_proto::screen::NETWORK_PER_S as usize);
        assert_eq!(punts.admit(Kind::Stun, &[0; 20], &from, 1), Err(Drop::PuntStunLimit));
        assert_eq!(punts.admit(Kind::Ike, &[0; 3], &from, 1), Err(Drop::BadIke));
    }

    #[test]
    fn of_ikev1_one_in_a_second_is_told_of_and_of_nothing_else() {
        let mut punts = Punts::new(1);
        let reported = (0..10_000_000).step_by(100_000).filter(|now_us| punts.tells_of(Drop::IkeV1, 1 + now_us)).count();
        assert_eq!(reported, 10);
        assert!(Drop::ALL.iter().filter(|why| **why != Drop::IkeV1).all(|why| !punts.tells_of(*why, 1 << 40)));
    }
}
