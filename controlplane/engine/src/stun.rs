//! STUN (RFC 8489): how somebody learns from outside which address he has there, and what the NAT in between is like (RFC 5780).
//!
//! [`codec`] is the wire, pure and total; [`server`] answers, and [`strangers`] bounds what it answers to whom nobody knows; [`discovery`]
//! asks servers and finds out what NAT lies before us, [`lifetime`] how long it remembers; [`reflexive`] how the port of the data is seen,
//! all the time.
pub mod codec;
pub(crate) mod counters;
pub mod discovery;
pub mod lifetime;
pub(crate) mod nonces;
pub mod reflexive;
pub mod server;
pub mod strangers;
