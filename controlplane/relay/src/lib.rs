//! The relay: a matchmaker for gateways that cannot yet reach each other.
//!
//! Pure: [`hall`] (rooms, presence, introductions, passing on) with [`queue`] (what waits for one client), and [`quotas`] (who may have how
//! much). Numbers: [`limits`].
#![forbid(unsafe_code)]

pub mod hall;
pub mod limits;
pub mod queue;
pub mod quotas;
#[cfg(test)]
mod testing;
