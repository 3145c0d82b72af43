//! Wire formats of Adit and the records that cross between its two planes.
//!
//! Pure: no I/O, no clock, no allocation on the packet path. Every parser is total: any bytes give a value or a named error.
//!
//! In the order in which a datagram meets them: [`demux`] (what is it), [`esp`] (whose is it), [`replay`] (is it new),
//! [`etherip`], [`packet`], [`half`] and [`echo`] (what does it carry), [`class`] (how is it to be served). The key exchange: [`ike`], and
//! [`screen`] in front of it ([`rate_limit`]: how much of something). Between the planes: [`control`]
//! (commands and events), [`stats`] and [`peer_drops`] (counters), [`histogram`] (latency buckets). With a relay: [`relay`]. Numbers on which all
//! agree: [`limits`].
#![forbid(unsafe_code)]

pub mod class;
pub mod codec;
pub mod control;
pub mod demux;
pub mod echo;
pub mod esp;
pub mod etherip;
pub mod half;
pub mod histogram;
pub mod ike;
pub mod limits;
pub mod packet;
pub mod peer_drops;
pub mod rate_limit;
pub mod relay;
pub mod replay;
pub mod screen;
pub mod stats;
pub mod suite;
