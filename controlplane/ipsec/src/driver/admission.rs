//! How much IKE is looked at in a second, and of whom first: the screen of the gateway ([`adit_proto::screen`]) in front of the
//! engine of a client or server.

use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::time::Instant;

use adit_engine::ike::IkeSpis;
use adit_proto::control::Command;
use adit_proto::esp::NON_ESP_MARKER_LEN;
use adit_proto::limits::{IKE_ADDRESSES_PER_PEER, IKE_SAS_OF_PEER_MAX};
use adit_proto::screen::Screen;

use crate::limits::ADDRESSES_OF_SESSION;

/// Decides which datagrams of IKE the engine gets.
pub struct Admission<H = RandomState> {
    screen: Screen<H>,
    began: Instant,
}

impl Admission {
    /// For a client, until it is said that it is a server.
    pub fn new(now: Instant) -> Admission {
        Admission { screen: Screen::of_client(IKE_SAS_OF_PEER_MAX, IKE_ADDRESSES_PER_PEER), began: now }
    }

    /// For a server with so many sessions. Nobody is known yet.
    pub fn serve(&mut self, sessions: usize) {
        let [ike_sas, addresses] = of_server(sessions);
        self.screen = Screen::new(ike_sas, addresses);
    }
}

/// Room for so many sessions: IKE SAs and addresses.
fn of_server(sessions: usize) -> [usize; 2] {
    [IKE_SAS_OF_PEER_MAX, ADDRESSES_OF_SESSION].map(|each| each * sessions)
}

impl<H: BuildHasher> Admission<H> {
    pub fn know(&mut self, &IkeSpis { initiator, responder }: &IkeSpis) {
        self.tell(&Command::IkeSaAdd { initiator, responder });
    }

    pub fn forget(&mut self, &IkeSpis { initiator, responder }: &IkeSpis) {
        self.tell(&Command::IkeSaRemove { initiator, responder });
    }

    /// A peer is looked for at that address or has proven itself from there, or does so no more; with port 0 all of it.
    pub fn know_address(&mut self, address: SocketAddr, known: bool) {
        let address = SocketAddr::new(address.ip().to_canonical(), address.port());
        self.tell(&if known { Command::IkeAddressAdd { address } } else { Command::IkeAddressRemove { address } });
    }

    fn tell(&mut self, command: &Command) {
        // Where a table is full, these messages come with those from known addresses, or of strangers.
        let _ = self.screen.apply(command);
    }

    /// Notes a datagram of ours: an answer to it is looked at, whatever comes under the same address.
    pub fn sent(&mut self, now: Instant, datagram: &[u8]) {
        if let Some(message) = datagram.strip_prefix(&[0; NON_ESP_MARKER_LEN]) {
            self.screen.sent(message, self.micros(now));
        }
    }

    /// Whether a datagram with the marker of IKE is looked at. What is no message costs nobody anything.
    pub fn admits(&mut self, now: Instant, from: SocketAddr, datagram: &[u8]) -> bool {
        let now_us = self.micros(now);
        datagram.get(NON_ESP_MARKER_LEN..).is_some_and(|message| self.screen.admit(message, from, now_us).is_ok())
    }

    fn micros(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.began).as_micros()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use std::hash::{BuildHasherDefault, DefaultHasher};
    use std::time::Duration;

    use adit_proto::ike::IkeSpi;

    use super::*;

    fn at(address: &str) -> SocketAddr {
        address.parse().unwrap()
    }

    fn marked(spis: [u64; 2], kind: [u8; 4], body: &[u8]) -> Vec<u8> {
        let length = 28 + body.len() as u32;
        [&[0; 4][..], &spis.map(u64::to_be_bytes).concat(), &kind, &[0; 4], &length.to_be_bytes(), body].concat()
    }

    /// A request to begin.
    fn request(initiator: u64) -> Vec<u8> {
        marked([initiator, 0], [33, 0x20, 34, 8], &[])
    }

    /// A protected request.
    fn sealed(initiator: u64, responder: u64) -> Vec<u8> {
        marked([initiator, responder], [46, 0x20, 37, 8], &[&[0, 0, 0, 29][..], &[0xA5; 25]].concat())
    }

    fn spis(initiator: u64, responder: u64) -> IkeSpis {
        IkeSpis { initiator: IkeSpi(initiator), responder: IkeSpi(responder) }
    }

    /// How many of some are looked at beside an even flood of 60 000 a second, which has gone on for a second.
    fn beside(
        admission: &mut Admission<impl BuildHasher>,
        flood: impl Fn(u32) -> (Vec<u8>, SocketAddr),
        own: (&[u8], &str),
    ) -> u32 {
        let (now, mut looked_at) = (admission.began, 0);
        for n in 0..240_000 {
            let now = now + Duration::from_secs(1) * n / 60_000;
            let (datagram, from) = flood(n);
            admission.admits(now, from, &datagram);
            if n >= 60_000 && n % 20_000 == 0 {
                looked_at += u32::from(admission.admits(now, at(own.1), own.0));
            }
        }
        looked_at
    }

    /// Two networks share a place where a secret has it so, once in forty floods from a hundred: not here.
    type Fixed = BuildHasherDefault<DefaultHasher>;

    fn server() -> Admission<Fixed> {
        let mut admission = server_of_nobody();
        admission.know(&spis(5, 6));
        admission.know(&spis(7, 8));
        admission.know_address(at("192.0.2.1:4500"), true);
        admission.know_address(at("192.0.2.1:0"), true);
        admission
    }

    #[test]
    fn one_session_that_sends_very_much_takes_nothing_from_another() {
        let flood = |_| (sealed(5, 6), at("192.0.2.1:4500"));
        assert_eq!(beside(&mut server(), flood, (&sealed(7, 8), "192.0.2.1:4500")), 9);
        // Nor does who has overheard the SPIs of one.
        let overheard = |n: u32| (sealed(5, 6), SocketAddr::from(([10, (n >> 8) as u8, n as u8, 1], 4500)));
        for own in [sealed(5, 6), sealed(7, 8)] {
            assert_eq!(beside(&mut server(), overheard, (&own, "192.0.2.1:4500")), 9);
        }
    }

    #[test]
    fn many_networks_that_ask_much_shut_nobody_out_who_asks_little() {
        let flood = |n: u32| (request(1), SocketAddr::from(([10, 0, (n % 99) as u8, 1], 4500)));
        for own in ["198.51.100.1:500", "192.0.2.1:4500", "[2001:db8:7::1]:500"] {
            assert_eq!(beside(&mut server(), flood, (&request(2), own)), 9, "{own}");
        }
    }

    #[test]
    fn who_has_proven_itself_is_no_stranger_and_who_is_gone_is_one() {
        let mut admission = server();
        let flood = |n: u32| (request(u64::from(n) + 9), at("192.0.2.77:4500"));
        assert_eq!(beside(&mut admission, flood, (&request(2), "192.0.2.1:4500")), 9, "of the same network");
        assert!(beside(&mut admission, flood, (&sealed(5, 6), "192.0.2.77:9")) == 9);
        admission.forget(&spis(5, 6));
        admission.know_address(at("192.0.2.1:4500"), false);
        admission.know_address(at("192.0.2.1:0"), false);
        for own in [request(2), sealed(5, 6)] {
            assert!(beside(&mut server_of_nobody(), flood, (&own, "192.0.2.1:4500")) < 9);
            assert!(beside(&mut admission, flood, (&own, "192.0.2.1:4500")) < 9);
        }
    }

    fn server_of_nobody() -> Admission<Fixed> {
        let [ike_sas, addresses] = of_server(16);
        Admission { screen: Screen::with_hash(Fixed::default(), ike_sas, addresses), began: Instant::now() }
    }

    #[test]
    fn a_client_gets_its_answer_beside_a_flood_under_its_servers_address() {
        let mut admission = Admission::new(Instant::now());
        admission.know_address(at("192.0.2.1:4500"), true);
        let flood = |n: u32| (request(u64::from(n) + 9), at("192.0.2.1:4500"));
        admission.sent(admission.began, &request(5));
        let answer = marked([5, 6], [33, 0x20, 34, 0x20], &[0; 99]);
        assert_eq!(beside(&mut admission, flood, (&answer, "192.0.2.1:4500")), 9);
        assert!(!admission.admits(admission.began, at("192.0.2.1:4500"), &answer[..31]), "what is cut short is nothing");
    }
}
