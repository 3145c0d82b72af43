//! What an operator decides of the hall.

use std::time::Duration;

use adit_proto::relay::HostPort;

use crate::limits::{CONNECTIONS_MAX, CONTROL_BYTES_OF_ALL_MAX, PEERS_OF_ROOM_MAX, ROOMS_MAX, TRAIN_BYTES_OF_ALL_MAX};
use crate::queue::Bounds;
use crate::quotas::Rate;

/// How much of everything, and how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    pub clients: usize,
    pub rooms: usize,
    pub peers_of_room: usize,
    /// Of whom nothing is heard for so long is taken for gone.
    pub idle: Duration,
    /// For how long a client is to stay away when another connection with its key has taken its place.
    pub replaced_wait: Duration,
    /// What may wait for one client.
    pub queue: Bounds,
    /// What may wait for all of them, in bytes: of what the relay says, and of trains.
    pub control_bytes_of_all: usize,
    pub train_bytes_of_all: usize,
    /// Of each client: records of any kind, bytes of trains, bytes of IKE among them.
    pub records: Rate,
    pub bytes: Rate,
    pub ike_bytes: Rate,
    /// Of each client: what is told to another one, and what is told to all of its rooms.
    pub requests: Rate,
    pub descriptions: Rate,
    /// Bytes of what peers say of themselves that all others of a room are told.
    pub room_news: Rate,
    /// Bytes of trains of one room, and of all.
    pub room_bytes: Rate,
    pub total_bytes: Rate,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            clients: CONNECTIONS_MAX,
            rooms: ROOMS_MAX,
            peers_of_room: PEERS_OF_ROOM_MAX,
            idle: Duration::from_secs(300),
            replaced_wait: Duration::from_secs(60),
            queue: Bounds::default(),
            control_bytes_of_all: CONTROL_BYTES_OF_ALL_MAX,
            train_bytes_of_all: TRAIN_BYTES_OF_ALL_MAX,
            // A gateway that finds a full room introduces itself to all of it at once.
            records: Rate { burst: 4000, ..Rate::per_second(2000) },
            bytes: Rate::per_second(64 << 20),
            ike_bytes: Rate::per_second(1 << 20),
            requests: Rate { burst: 2 * PEERS_OF_ROOM_MAX as u64, ..Rate::per_second(100) },
            descriptions: Rate { burst: 4, ..Rate::per_second(1) },
            room_news: Rate { burst: 16 << 20, ..Rate::per_second(4 << 20) },
            room_bytes: Rate::per_second(256 << 20),
            total_bytes: Rate::per_second(2 << 30),
        }
    }
}

/// How the clients are sent away before the relay stops.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Farewell {
    /// The first one comes back after this, the last one so much later.
    pub after: Duration,
    pub spread: Duration,
    /// For how long they try this relay before they give it up.
    pub try_for: Duration,
    /// Where else they may go.
    pub to: Vec<HostPort>,
    /// They are closed when they have been told.
    pub closes: bool,
}
