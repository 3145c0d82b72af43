//! The channel between the two planes: sealed shared memory with rings, counters and a snapshot of live SAs.
//!
//! ```text
//!     adit-dataplane                     shared memory                              adit
//!   ┌───────────────────┐   commands, injects  ◀────────────────────────   ┌────────────────────┐
//!   │ Port of worker 0  │   events, punts      ────────────────────────▶   │ Master             │
//!   │ Port of worker 1  │   counters, latencies, live SAs  ── read only ▶  │                    │
//!   │ Listener (main)   │   vault              ◀───────────────────────▶   │                    │
//!   └─────────┬─────────┘                                                  └─────────┬──────────┘
//!             └── Unix socket: memory and event counters ─▶, devices ◀─; open = attached ┘
//! ```
//! The data plane makes the memory ([`Region`]), gives each worker its [`Port`] and listens for a control plane ([`Listener`]). One
//! control plane at a time is [`Master`]; when it dies, the next finds everything in place.
//!
//! Each side takes the memory for the work of a stranger: sizes are checked once and then kept in private memory, cursors
//! and lengths are checked at each use, records are copied out before they are parsed, a ring that contradicts itself is
//! never used again. All shared words are atomics, so that no writing on the other side is undefined behaviour on ours.
//!
//! `unsafe` is in `shm` (mapping) and `fd` (descriptors) alone.

pub mod live;
pub mod ring;
mod sync;

#[cfg(not(feature = "loom"))]
mod counters;
#[cfg(not(feature = "loom"))]
mod drops;
#[cfg(not(feature = "loom"))]
mod fd;
#[cfg(not(feature = "loom"))]
mod info;
#[cfg(not(feature = "loom"))]
mod layout;
#[cfg(not(feature = "loom"))]
mod limits;
#[cfg(not(feature = "loom"))]
mod listener;
#[cfg(not(feature = "loom"))]
mod master;
#[cfg(not(feature = "loom"))]
mod messages;
#[cfg(not(feature = "loom"))]
mod paths;
#[cfg(not(feature = "loom"))]
mod plane;
#[cfg(not(feature = "loom"))]
pub mod service;
#[cfg(not(feature = "loom"))]
mod shm;
#[cfg(not(feature = "loom"))]
pub mod users;
#[cfg(not(feature = "loom"))]
mod vault;
#[cfg(not(feature = "loom"))]
mod words;

pub use live::{LiveSa, SaLook, Seen, Standing};
pub use sync::{AtomicU64, Ordering};
#[cfg(not(feature = "loom"))]
pub use {
    counters::Counters,
    drops::SlotDrops,
    fd::EventFd,
    info::{PlaneInfo, Protections},
    layout::{LAYOUT_VERSION, PATH_SLOTS_UNIT, PEER_SLOTS_UNIT, Sizes},
    limits::{DATAGRAM_LEN_MAX, PART_BYTES_MAX, PATH_SLOTS_MAX, SA_SLOTS_MAX},
    listener::{Listener, Notice},
    master::{AttachError, Master, SendError, mastership},
    messages::{Devices, ask_to_end},
    paths::{PathCount, PathCounters},
    plane::{Port, PuntError, Region, Turns},
    vault::VaultTooSmall,
};

/// Each end may go to another thread.
#[cfg(not(feature = "loom"))]
const _: () = {
    const fn is_send<T: Send>() {}
    is_send::<Port>();
    is_send::<Listener>();
    is_send::<Master>();
};
