//! What stands before the engine of a gateway: the screen of the data plane, told by the same events as there, or in its place a queue that
//! knows nobody.

use std::collections::BTreeSet;
use std::hash::{BuildHasherDefault, DefaultHasher};
use std::net::SocketAddr;
use std::time::Duration;

use adit_engine::ike::{Event, IkeSpis};
use adit_engine::path::IKE_PORT;
use adit_proto::control::Command;
use adit_proto::esp::NON_ESP_MARKER_LEN;
use adit_proto::limits::{IKE_ADDRESSES_PER_PEER, IKE_SAS_OF_PEER_MAX};
use adit_proto::rate_limit::RateLimit;
use adit_proto::screen::Screen;

/// Decides which datagrams come before an engine.
pub struct Gate {
    way: Way,
    /// The IKE SAs that it has been told of.
    pub ike: BTreeSet<IkeSpis>,
    /// Datagrams that it has turned away.
    pub dropped: u64,
}

enum Way {
    Screen(Box<Screen<BuildHasherDefault<DefaultHasher>>>),
    /// Who comes first is served first: to show what happens without one.
    Queue(RateLimit),
}

impl Gate {
    /// The screen of a gateway with so many peers.
    pub fn screen(peers: usize) -> Gate {
        let hash = BuildHasherDefault::new();
        let screen = Screen::with_hash(hash, IKE_SAS_OF_PEER_MAX * peers, IKE_ADDRESSES_PER_PEER * peers);
        Gate { way: Way::Screen(Box::new(screen)), ike: BTreeSet::new(), dropped: 0 }
    }

    /// A queue that is served so many times in a second.
    pub fn queue(per_second: u32) -> Gate {
        let rate = RateLimit::new(per_second);
        Gate { way: Way::Queue(rate), ike: BTreeSet::new(), dropped: 0 }
    }

    /// Learns who is known, as the data plane does.
    pub(crate) fn apply(&mut self, event: &Event) {
        match *event {
            Event::IkeUp { spis, .. } => self.know(spis),
            Event::IkeDown { spis: spis @ IkeSpis { initiator, responder }, .. } => {
                self.ike.remove(&spis);
                self.tell(&Command::IkeSaRemove { initiator, responder });
            }
            Event::Address { address, known: true } => self.tell(&Command::IkeAddressAdd { address }),
            Event::Address { address, known: false } => self.tell(&Command::IkeAddressRemove { address }),
            _ => {}
        }
    }

    pub(crate) fn know(&mut self, spis @ IkeSpis { initiator, responder }: IkeSpis) {
        self.ike.insert(spis);
        self.tell(&Command::IkeSaAdd { initiator, responder });
    }

    pub(crate) fn tell(&mut self, command: &Command) {
        if let Way::Screen(screen) = &mut self.way {
            let done = screen.apply(command).expect("a command for the screen");
            assert!(done.is_ok(), "{command:?}: {done:?}: there are more of them than a gateway has room for");
        }
    }

    fn admit(&mut self, message: &[u8], from: SocketAddr, now_us: u64) -> bool {
        let admitted = match &mut self.way {
            Way::Screen(screen) => screen.admit(message, from, now_us).is_ok(),
            Way::Queue(rate) => rate.take(1, now_us),
        };
        self.dropped += u64::from(!admitted);
        admitted
    }

    /// What leaves an engine: an answer to it is waited for.
    pub(crate) fn note_sent(&mut self, local: SocketAddr, datagram: &[u8], at: Duration) {
        let Way::Screen(screen) = &mut self.way else { return };
        if let Some(message) = unmarked(local, datagram) {
            screen.sent(message, micros(at));
        }
    }

    pub(crate) fn passes(&mut self, from: SocketAddr, local: SocketAddr, datagram: &[u8], at: Duration) -> bool {
        unmarked(local, datagram).is_some_and(|message| self.admit(message, from, micros(at)))
    }

    /// Nobody is known any more.
    pub(crate) fn forget(&mut self) {
        self.tell(&Command::IkeKnownClear);
        self.ike.clear();
    }
}

/// The message in a datagram of this port of ours; what has no marker where one belongs is no IKE.
fn unmarked(local: SocketAddr, datagram: &[u8]) -> Option<&[u8]> {
    if local.port() == IKE_PORT { Some(datagram) } else { datagram.strip_prefix(&[0; NON_ESP_MARKER_LEN]) }
}

fn micros(at: Duration) -> u64 {
    u64::try_from(at.as_micros()).expect("a short run")
}
