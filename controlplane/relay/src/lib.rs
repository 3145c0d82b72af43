//! The relay: a matchmaker for gateways that cannot yet reach each other.
//!
//! ```text
//!  file ─▶ config ─▶ server ─▶ quotas::Door ─▶ tls ─▶ http ─▶ login ─▶ lobby ─▶ session
//!   ▲                                                  │                │ ▲
//!  init                                  stats, metrics ◀───────────────┘ └── hall (pure), drain
//! ```
//! Pure: [`hall`] (rooms, presence, introductions, passing on) with [`queue`] (what waits for one client), and [`quotas`] (who
//! may have how much). Around it: [`config`] and [`init`]; [`tls`], [`login`] and [`key`], of which clients are made, too;
//! [`server`] with what it needs. [`reach`] serves STUN and TURN, of which `grants` tells clients. At the other end: [`client`].
//! Numbers: [`limits`].
#![forbid(unsafe_code)]

pub mod client;
pub mod config;
mod dice;
pub mod drain;
mod entrance;
mod grants;
pub mod hall;
mod http;
pub mod init;
pub mod key;
pub mod limits;
mod lobby;
pub mod login;
mod metrics;
mod names;
pub mod queue;
pub mod quotas;
pub mod reach;
pub mod secret_file;
pub mod server;
mod session;
mod shared;
mod stats;
mod streams;
mod tally;
#[cfg(test)]
mod testing;
pub mod tls;
mod turn_stream;
mod udp;
