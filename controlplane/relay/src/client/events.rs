//! What a client tells its user, in the order in which it happened. Who does not read is waited for, so that nothing of it is lost; data is
//! dropped and counted instead.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use adit_proto::relay::{Kind, LeftReason, PeerKey, Quota, RoomName, Transport};
use hyper::body::Bytes;
use tokio::sync::{Notify, mpsc};
use zeroize::Zeroizing;

use super::failure::Failure;
use super::open::Welcome;
use crate::limits::{DELIVERIES_WAITING_MAX, EVENTS_WAITING_MAX};

/// Something that happened. `relay` is a place in the configured list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Registered {
        relay: usize,
        welcome: Welcome,
    },
    /// An attempt came to nothing, or a registration ended. It goes on by itself.
    Failed {
        relay: usize,
        failure: Failure,
    },
    /// The relay is about to stop; the client leaves it in so much time.
    Draining {
        relay: usize,
        leaving_in: Duration,
    },
    /// Another relay is the home relay now; none, if the client is registered nowhere.
    Home {
        relay: Option<usize>,
    },
    /// Somebody is in a room. What it says of itself nobody has verified.
    Joined {
        room: RoomName,
        peer: PeerKey,
        metadata: Bytes,
    },
    /// No relay sees somebody in a room any more; without a reason if the relays that did are lost.
    Left {
        room: RoomName,
        peer: PeerKey,
        reason: Option<LeftReason>,
    },
    /// Somebody says something else of itself. Each relay tells it.
    Described {
        room: RoomName,
        peer: PeerKey,
        metadata: Bytes,
    },
    Introduced {
        relay: usize,
        introduction: Introduction,
    },
    /// Somebody to whom something was sent is in no common room.
    Absent {
        relay: usize,
        peer: PeerKey,
        last_seen: Option<Duration>,
    },
    /// The data of a peer goes by a direct path, or comes back to the relay.
    PeerDirect {
        peer: PeerKey,
        on: bool,
    },
    /// Something of this client's was dropped by a relay that had had enough of it.
    Throttled {
        relay: usize,
        what: Quota,
        wait: Duration,
    },
    /// Where a relay serves STUN.
    Stun {
        relay: usize,
        servers: Vec<SocketAddr>,
    },
    /// With what this client may use TURN at a relay. It comes again, with another name, before it ends.
    Turn {
        relay: usize,
        grant: TurnGrant,
    },
    Delivered(Delivery),
}

/// Credentials of TURN (RFC 8489 §9.2), and where they hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TurnGrant {
    pub name: String,
    pub realm: String,
    pub password: TurnPassword,
    /// So long they hold from now on.
    pub life: Duration,
    pub servers: Vec<(Transport, SocketAddr)>,
}

/// A password: wiped, and shown nowhere.
#[derive(Clone, PartialEq, Eq)]
pub struct TurnPassword(Zeroizing<String>);

impl TurnPassword {
    pub(super) fn new(text: &str) -> TurnPassword {
        TurnPassword(Zeroizing::new(text.to_owned()))
    }

    /// The password itself, to be hashed.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for TurnPassword {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TurnPassword(…)")
    }
}

/// Two peers are to send to each other at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Introduction {
    pub peer: PeerKey,
    pub udp: Option<SocketAddr>,
    pub tcp: SocketAddr,
    /// The same for both.
    pub id: u64,
    pub start_in: Duration,
}

/// What somebody sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    pub relay: usize,
    pub from: PeerKey,
    pub kind: Kind,
    /// DSCP and ECN as the sender gave them.
    pub class: u8,
    /// Length of each datagram; zero if it is one.
    pub segment: u16,
    pub payload: Bytes,
}

/// How many events wait for the user.
#[derive(Debug, Default)]
struct Waiting {
    count: AtomicUsize,
    has_room: Notify,
}

/// Where the user reads.
#[derive(Debug)]
pub struct Events {
    events: mpsc::UnboundedReceiver<Event>,
    ike: mpsc::Receiver<Delivery>,
    esp: mpsc::Receiver<Delivery>,
    waiting: Arc<Waiting>,
}

#[derive(Debug)]
pub(super) struct Sender {
    events: mpsc::UnboundedSender<Event>,
    ike: mpsc::Sender<Delivery>,
    esp: mpsc::Sender<Delivery>,
    waiting: Arc<Waiting>,
}

pub(super) fn channel() -> (Sender, Events) {
    let (sender, events) = mpsc::unbounded_channel();
    let (ike_sender, ike) = mpsc::channel(DELIVERIES_WAITING_MAX);
    let (esp_sender, esp) = mpsc::channel(DELIVERIES_WAITING_MAX);
    let waiting = Arc::new(Waiting::default());
    (Sender { events: sender, ike: ike_sender, esp: esp_sender, waiting: waiting.clone() }, Events { events, ike, esp, waiting })
}

impl Events {
    /// The next one; IKE comes before other data, and data comes last. `None` once the client has ended.
    pub async fn next(&mut self) -> Option<Event> {
        tokio::select! {
            biased;
            event = self.events.recv() => {
                if event.is_some() && self.waiting.count.fetch_sub(1, Ordering::AcqRel) == EVENTS_WAITING_MAX {
                    self.waiting.has_room.notify_waiters();
                }
                event
            }
            Some(delivery) = self.ike.recv() => Some(Event::Delivered(delivery)),
            Some(delivery) = self.esp.recv() => Some(Event::Delivered(delivery)),
        }
    }
}

impl Sender {
    /// Who calls this sees to it that there is room, by [`Sender::room`].
    pub(super) fn send(&self, event: Event) {
        self.waiting.count.fetch_add(1, Ordering::AcqRel);
        // Nobody reads any more: the client is about to end.
        let _ = self.events.send(event);
    }

    /// False where it was dropped.
    pub(super) fn deliver(&self, delivery: Delivery) -> bool {
        let queue = if delivery.kind == Kind::Ike { &self.ike } else { &self.esp };
        queue.try_send(delivery).is_ok()
    }

    /// Waits until the user has read enough.
    pub(super) async fn room(&self) {
        loop {
            let has_room = self.waiting.has_room.notified();
            if self.waiting.count.load(Ordering::Acquire) < EVENTS_WAITING_MAX {
                return;
            }
            has_room.await;
        }
    }

    /// Waits until nobody reads any more.
    pub(super) async fn closed(&self) {
        self.events.closed().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_does_not_read_is_waited_for_and_loses_data_only() {
        let (sender, mut events) = channel();
        let delivery =
            |kind| Delivery { relay: 0, from: PeerKey([1; 32]), kind, class: 0, segment: 0, payload: Bytes::from_static(b"x") };
        let delivered = (0..DELIVERIES_WAITING_MAX + 10).filter(|_| sender.deliver(delivery(Kind::Esp))).count();
        assert_eq!(delivered, DELIVERIES_WAITING_MAX);
        assert!(sender.deliver(delivery(Kind::Ike)), "it has room of its own");
        for _ in 0..EVENTS_WAITING_MAX {
            sender.room().await;
            sender.send(Event::Home { relay: None });
        }
        let reader = async {
            tokio::task::yield_now().await;
            events.next().await
        };
        let (event, ()) = tokio::join!(reader, sender.room());
        assert_eq!(event, Some(Event::Home { relay: None }), "before the data");
        for _ in 1..EVENTS_WAITING_MAX {
            events.next().await.unwrap();
        }
        assert_eq!(events.next().await, Some(Event::Delivered(delivery(Kind::Ike))));
        assert_eq!(events.next().await, Some(Event::Delivered(delivery(Kind::Esp))));
        drop(sender);
        assert!(events.next().await.is_none(), "the end is told although data waits");
    }
}
