//! The data plane of Adit: moves Ethernet frames between a multi-queue TAP and ESP in UDP, or IP packets between a TUN and ESP.
//!
//! The files in the order in which a frame meets them (a packet of IP mode meets [`policy`] where a frame meets [`forward`]):
//! outbound [`tap`] → [`tap::split`] → [`forward`] → [`seal`] → [`train`] → [`udp`];
//! inbound [`udp`] → demux → [`open`] → [`policy`] → [`tap::coalesce`] → [`tap`].
//! [`worker`] is the loop of one core and the only caller of both flows ([`outbound`], [`inbound`]); [`environment`] is what it talks to, [`state`] what it knows;
//! [`io`] is how it waits and writes; [`handover`] and [`registry`] join the workers; [`hub`] hands on frames from peer to peer;
//! [`control`] applies the commands of the control plane; [`start`] opens everything, [`crypto`] chooses the library that seals, [`running`] has the threads, [`supervise`] is what the main thread
//! does from then on, [`devices`] what devices come later;
//! [`log`] is what the process says.
//!
//! Keys, sealing and opening are `adit_esp`. What is not here: no IKE, no routing, no HTTP, no lock, and no allocation per packet.

pub mod checksum;
pub mod class;
pub mod config;
pub mod confinement;
pub mod control;
pub mod crypto;
pub mod devices;
pub mod echo;
pub mod environment;
pub mod flood;
pub mod forward;

pub mod handover;
pub mod hub;
pub mod inbound;
pub mod io;
pub mod join;
pub mod limits;
pub mod log;
pub mod mss;
pub mod open;
pub mod outbound;
pub mod oversize;
pub mod path;
pub mod policy;
pub mod pool;
pub mod punt;
pub mod registry;
pub mod roam;
pub mod running;
pub mod sa;
pub mod scheduling;
pub mod seal;
pub mod start;
pub mod state;
pub mod supervise;
pub mod tap;
pub mod train;
pub mod udp;
pub mod worker;
