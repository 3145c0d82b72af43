//! What a client tells its user, in the order in which it happened. Who does not read is waited for, so that nothing of it is lost; data is
//! dropped and counted instead.

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use adit_proto::relay::{Kind, LeftReason, PeerKey, Quota, RoomName, Transport};
use futures::FutureExt;
use hyper::body::Bytes;
use tokio::sync::{Notify, mpsc};
use zeroize::Zeroizing;

use super::failure::Failure;
use super::open::Welcome;
use crate::dice::dice;
use crate::limits::{DELIVERIES_WAITING_MAX, EVENTS_WAITING_MAX, IKE_OF_SENDER_PER_S};
use crate::quotas::{Rate, Shares};

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

/// Why a train is not given to the user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Undelivered {
    /// As many wait as may.
    NotRead,
    /// It is of IKE, and its sender has had its share.
    Flood,
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
    /// Something else than data was the last to be read: data that waits comes next.
    owes_data: bool,
    waiting: Arc<Waiting>,
}

#[derive(Debug)]
pub(super) struct Sender {
    events: mpsc::UnboundedSender<Event>,
    ike: mpsc::Sender<Delivery>,
    esp: mpsc::Sender<Delivery>,
    /// What each may send of IKE: whoever floods fills no queue in which others wait.
    shares: Mutex<Shares>,
    waiting: Arc<Waiting>,
}

pub(super) fn channel() -> (Sender, Events) {
    let (sender, events) = mpsc::unbounded_channel();
    let (ike_sender, ike) = mpsc::channel(DELIVERIES_WAITING_MAX);
    let (esp_sender, esp) = mpsc::channel(DELIVERIES_WAITING_MAX);
    let waiting = Arc::new(Waiting::default());
    let shares = Mutex::new(Shares::new(&mut dice));
    let sender = Sender { events: sender, ike: ike_sender, esp: esp_sender, shares, waiting: waiting.clone() };
    (sender, Events { events, ike, esp, owes_data: false, waiting })
}

impl Events {
    /// The next one. What happened comes before IKE, and IKE before data; but where data waits it has every second turn, or a flood of the
    /// others would end it. `None` once the client has ended.
    pub async fn next(&mut self) -> Option<Event> {
        let event = self.choose().await;
        self.owes_data = !matches!(&event, Some(Event::Delivered(delivery)) if delivery.kind == Kind::Esp);
        event
    }

    /// The next one, if one waits.
    pub fn waiting(&mut self) -> Option<Event> {
        self.next().now_or_never().flatten()
    }

    async fn choose(&mut self) -> Option<Event> {
        if self.owes_data
            && let Ok(delivery) = self.esp.try_recv()
        {
            return Some(Event::Delivered(delivery));
        }
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

    /// Puts a train where the user reads.
    pub(super) fn deliver(&self, now: Instant, delivery: Delivery) -> Result<(), Undelivered> {
        let queue = if delivery.kind == Kind::Ike { &self.ike } else { &self.esp };
        if delivery.kind == Kind::Ike {
            let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
            let share = shares.take(now, delivery.from, Rate::per_second(IKE_OF_SENDER_PER_S));
            share.map_err(|_| Undelivered::Flood)?;
        }
        queue.try_send(delivery).map_err(|_| Undelivered::NotRead)
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

    fn delivery(from: u8, kind: Kind) -> Delivery {
        Delivery { relay: 0, from: PeerKey([from; 32]), kind, class: 0, segment: 0, payload: Bytes::from_static(b"x") }
    }

    fn kind_of(event: Option<Event>) -> Option<Kind> {
        if let Some(Event::Delivered(delivery)) = event { Some(delivery.kind) } else { None }
    }

    #[tokio::test]
    async fn who_does_not_read_is_waited_for_and_loses_data_only() {
        let (sender, mut events) = channel();
        let now = Instant::now();
        let delivered = (0..DELIVERIES_WAITING_MAX + 10).filter(|_| sender.deliver(now, delivery(1, Kind::Esp)).is_ok()).count();
        assert_eq!(delivered, DELIVERIES_WAITING_MAX);
        assert_eq!(sender.deliver(now, delivery(1, Kind::Esp)), Err(Undelivered::NotRead));
        assert_eq!(sender.deliver(now, delivery(1, Kind::Ike)), Ok(()), "it has room of its own");
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
        drop(sender);
        let mut others = 0;
        while let Some(event) = events.next().await {
            others += usize::from(event == Event::Home { relay: None });
        }
        assert_eq!(others, EVENTS_WAITING_MAX - 1, "nothing of it is lost, and the end is told");
    }

    #[test]
    fn nothing_that_floods_takes_more_than_every_second_turn_from_data() {
        let (sender, mut events) = channel();
        let now = Instant::now();
        for from in 0..100 {
            assert_eq!(sender.deliver(now, delivery(from, Kind::Ike)), Ok(()));
        }
        for _ in 0..40 {
            sender.deliver(now, delivery(1, Kind::Esp)).unwrap();
            sender.send(Event::Home { relay: None });
        }
        let read: Vec<Option<Kind>> = std::iter::from_fn(|| events.waiting()).map(|event| kind_of(Some(event))).collect();
        let (first, then) = read.split_at(80);
        assert!(first.iter().step_by(2).all(Option::is_none), "what happened comes before IKE: {first:?}");
        assert!(first.iter().skip(1).step_by(2).all(|kind| *kind == Some(Kind::Esp)), "{first:?}");
        assert_eq!(then, [Some(Kind::Ike); 100]);
        // Data alone is not held up, and what is urgent comes between.
        sender.deliver(now, delivery(1, Kind::Esp)).unwrap();
        sender.deliver(now, delivery(1, Kind::Esp)).unwrap();
        sender.deliver(now, delivery(1, Kind::Ike)).unwrap();
        let next = [0; 3].map(|_| kind_of(events.waiting()));
        assert_eq!(next, [Some(Kind::Esp), Some(Kind::Ike), Some(Kind::Esp)]);
    }

    #[test]
    fn who_floods_with_ike_has_its_share_and_the_others_theirs() {
        let (sender, mut events) = channel();
        let now = Instant::now();
        let flood = |now| {
            let sent: Vec<_> = (0..1000).map(|_| sender.deliver(now, delivery(1, Kind::Ike))).collect();
            assert!(sent.iter().all(|sent| *sent != Err(Undelivered::NotRead)), "the queue is not full of it");
            sent.iter().filter(|sent| sent.is_ok()).count() as u64
        };
        assert_eq!(flood(now), IKE_OF_SENDER_PER_S);
        assert_eq!(sender.deliver(now, delivery(2, Kind::Ike)), Ok(()), "there is room for another one");
        assert_eq!(sender.deliver(now, delivery(1, Kind::Esp)), Ok(()), "data has no share");
        assert_eq!(std::iter::from_fn(|| events.waiting()).count() as u64, IKE_OF_SENDER_PER_S + 2);
        assert_eq!(flood(now + Duration::from_millis(500)), IKE_OF_SENDER_PER_S / 2);
    }
}
