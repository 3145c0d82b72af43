//! Two gateways without data planes: what goes to and fro between them, and what their data planes are told.

use std::os::unix::fs::PermissionsExt;

use adit_engine::ike::IkeSpis;
use adit_engine::path::AnyUnderlay;
use adit_proto::control::{LocalEnd, Via};
use adit_proto::ike::IkeSpi;

use super::*;
use crate::config::Machine;
use crate::too_big::{QuotedSpi, TooBig};

const PEER: PeerId = PeerId(1);
/// Only a failure takes so long.
const SOON: Duration = Duration::from_secs(30);

/// What the data planes are told is done at once, or never.
struct Pair {
    a: Ike,
    b: Ike,
}

/// A gateway at 192.0.2.HERE before the network 10.HERE.0.0/16, with the other one as its peer.
fn gateway([own, other]: [&str; 2], [here, there]: [u8; 2]) -> Ike {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("psk"), "a preshared key that is long enough").unwrap();
    std::fs::set_permissions(dir.path().join("psk"), std::fs::Permissions::from_mode(0o600)).unwrap();
    let yaml = format!(
        "name: {own}\nmode: ip\nlisten: 192.0.2.{here}:4500\ninterface: {{ name: adit0 }}\ndataplane: {{ workers: 1 }}\n\
         peers:\n  - {{ name: {other}, endpoint: \"192.0.2.{there}:4500\", ike: {{ psk_file: psk }}, \
         selectors: [{{ local: 10.{here}.0.0/16, remote: 10.{there}.0.0/16 }}] }}\n"
    );
    let config = Config::from_yaml(&yaml, dir.path(), &Machine { cores: vec![0] });
    let config = config.map_err(|problems| problems[0].what.clone()).unwrap();
    let (tables, secret) = (Tables::of(&[], &config), Secret::copy_of(&[7; 32]));
    Ike::new(&config, (&[PEER], &Known::default()), tables, secret, Box::new(AnyUnderlay)).unwrap()
}

fn send(ike: &mut Ike, settled: bool) -> Vec<Transmit> {
    std::iter::from_fn(|| ike.transmit(settled)).collect()
}

fn take(ike: &mut Ike, datagram: &Transmit) {
    let hop = datagram.hop.udp().expect("a way of UDP");
    let to = LocalEnd { address: hop.remote.ip(), interface: 0 };
    ike.receive(&PuntHeader { from: hop.local, to, class: 0 }, &datagram.payload);
}

/// The inbound and the outbound SPI of the only Child SA.
fn child(ike: &Ike) -> (Spi, Spi) {
    let all: Vec<(PeerId, Spi, Spi)> = ike.endpoint.child_spis().collect();
    assert_eq!(all.len(), 1);
    (all[0].1, all[0].2)
}

/// The longest packet on the path to the only peer, in bytes.
fn mtu(ike: &Ike) -> u16 {
    let paths = ike.endpoint.paths(PEER);
    paths.iter().find(|path| path.in_use).map_or(0, |path| path.mtu)
}

impl Pair {
    /// The first one begins.
    fn begin() -> Pair {
        let mut pair = Pair { a: gateway(["a", "b"], [1, 2]), b: gateway(["b", "a"], [2, 1]) };
        pair.a.start();
        pair
    }

    /// Carries what may be sent to the other end, and back, until nothing more may: `settled` says whether both data planes have
    /// done all that they were told. Gives what that of the first one was told.
    fn talk(&mut self, settled: bool) -> Vec<Command> {
        let mut told = Vec::new();
        loop {
            told.extend(self.a.commands().into_iter().map(|(_, command)| command));
            drop(self.b.commands());
            let (from_a, from_b) = (send(&mut self.a, settled), send(&mut self.b, settled));
            if from_a.is_empty() && from_b.is_empty() {
                return told;
            }
            from_a.iter().for_each(|datagram| take(&mut self.b, datagram));
            from_b.iter().for_each(|datagram| take(&mut self.a, datagram));
        }
    }

    /// Goes on until the first data plane was told what is waited for.
    fn talk_until(&mut self, is_done: impl Fn(&[Command]) -> bool) {
        let (until, mut told) = (Instant::now() + SOON, Vec::new());
        loop {
            told.extend(self.talk(true));
            if is_done(&told) {
                return;
            }
            assert!(Instant::now() < until, "it was not told");
            // Nothing happens before that.
            let due = [&self.a, &self.b].into_iter().filter_map(Ike::due).min().unwrap_or(until).min(until);
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            self.a.tick();
            self.b.tick();
        }
    }
}

#[test]
fn only_what_waits_for_the_data_plane_is_held_back_until_it_is_settled() {
    let mut pair = Pair::begin();
    pair.talk(false);
    // The answer by which the peer has keys, or nearly, after others that have passed.
    assert!(pair.b.waits() && pair.b.transmit(false).is_none());
    let held = pair.b.transmit(true).unwrap();
    assert_eq!(held.after, After::Barrier);
    let free = Transmit { after: After::Nothing, ..held.clone() };
    for datagram in [&held, &free] {
        pair.b.keep(datagram.clone());
    }
    assert_eq!((pair.b.transmit(false), pair.b.transmit(false)), (Some(free), None), "what came later passes what waits");
    assert_eq!(pair.b.transmit(true).as_ref(), Some(&held));
    pair.b.keep(held);
    pair.talk(true);
    let (a, b) = (child(&pair.a), child(&pair.b));
    assert_eq!(a, (b.1, b.0));
}

#[test]
fn a_child_sa_that_the_data_plane_does_not_know_in_full_is_made_anew() {
    let kinds: [fn(&Command) -> bool; 2] =
        [|command| matches!(command, Command::ChildSelectorAdd { .. }), |command| matches!(command, Command::ChildSet { .. })];
    for is_refused in kinds {
        let mut pair = Pair::begin();
        let told = pair.talk(true);
        let (old, _) = child(&pair.a);
        let refused = told.iter().find(|command| is_refused(command)).unwrap();
        pair.a.refused(refused);
        let is_old = |command: &Command| matches!(command, Command::SaRemove { spi, .. } if *spi == old);
        let is_new = |command: &Command| matches!(command, Command::InboundSaInstall(sa) if sa.spi != old);
        pair.talk_until(|told| told.iter().any(is_old) && told.iter().any(is_new));
        let (a, b) = (child(&pair.a), child(&pair.b));
        assert!(a.0 != old && a == (b.1, b.0), "both ends have another one");
    }
}

#[test]
fn a_router_is_believed_where_it_quotes_an_spi_that_lives() {
    let mut pair = Pair::begin();
    let told = pair.talk(true);
    let (to, here) = ("192.0.2.2:4500".parse().unwrap(), "192.0.2.1".parse().unwrap());
    // Every echo comes back, the longest as well.
    let (until, mut new) = (Instant::now() + SOON, told.clone());
    while mtu(&pair.a) != 1500 {
        assert!(Instant::now() < until, "{} bytes", mtu(&pair.a));
        for command in new {
            if let Command::Echo { id, .. } = command {
                let via = Via::Udp { from: to, to: LocalEnd { address: here, interface: 0 } };
                pair.a.echo_reply(PEER, id, via, Duration::from_millis(1));
            }
        }
        std::thread::sleep(Duration::from_millis(1));
        pair.a.tick();
        new = pair.talk(true);
    }
    let says = |ike: &mut Ike, spi, mtu| ike.too_big(&TooBig { to, mtu, spi }, |_| Vec::new());
    let (inbound, outbound) = child(&pair.a);
    let spis = pair.a.endpoint.status(PEER).unwrap().ike[0].spis;
    let IkeSpis { initiator, responder } = spis;
    for unknown in [
        QuotedSpi::Esp(inbound),
        QuotedSpi::Esp(Spi(outbound.0 ^ 1)),
        QuotedSpi::Ike(IkeSpis { initiator: responder, responder: initiator }),
        QuotedSpi::Ike(IkeSpis { initiator, responder: IkeSpi(responder.0 ^ 1) }),
        QuotedSpi::Ike(IkeSpis { initiator: IkeSpi(initiator.0 ^ 1), responder }),
    ] {
        assert!(!says(&mut pair.a, unknown, 1200), "{unknown:?}");
    }
    let elsewhere = TooBig { to: "192.0.2.2:4501".parse().unwrap(), mtu: 1200, spi: QuotedSpi::Esp(outbound) };
    assert!(!pair.a.too_big(&elsewhere, |_| Vec::new()), "no packet went there");
    assert_eq!(mtu(&pair.a), 1500);
    assert!(says(&mut pair.a, QuotedSpi::Esp(outbound), 1450));
    assert_eq!(mtu(&pair.a), 1450);
    assert!(says(&mut pair.a, QuotedSpi::Ike(spis), 1400));
    assert_eq!(mtu(&pair.a), 1400);
    // A peer with a static key, of whose SPIs others know.
    let of_static = |spi| if spi == Spi(7) { vec![PEER] } else { Vec::new() };
    assert!(pair.a.too_big(&TooBig { to, mtu: 1350, spi: QuotedSpi::Esp(Spi(7)) }, of_static));
    assert_eq!(mtu(&pair.a), 1350);
    // The SPI of a Child SA that is gone is nobody's.
    pair.a.refused(told.iter().find(|command| matches!(command, Command::ChildSet { .. })).unwrap());
    let is_old = |command: &Command| matches!(command, Command::SaRemove { spi, .. } if *spi == inbound);
    let is_new = |command: &Command| matches!(command, Command::OutboundSaInstall(sa) if sa.spi != outbound);
    pair.talk_until(|told| told.iter().any(is_old) && told.iter().any(is_new));
    let (_, new) = child(&pair.a);
    assert!(new != outbound && !says(&mut pair.a, QuotedSpi::Esp(outbound), 1300));
    assert_eq!(mtu(&pair.a), 1350);
    assert!(says(&mut pair.a, QuotedSpi::Esp(new), 1300));
    assert_eq!(mtu(&pair.a), 1300);
}
