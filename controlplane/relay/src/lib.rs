//! The relay: a matchmaker for gateways that cannot yet reach each other.
//!
//! Pure: [`hall`] (rooms, presence, introductions, passing on), on queues for each client, and [`quotas`] (how much who may have).
//! Numbers: [`limits`].

pub mod hall;
pub mod limits;
pub mod quotas;
