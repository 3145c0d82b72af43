//! A world in virtual time, for tests: gateways with the real engine, links that lose, repeat, delay, reorder and have an MTU, NATs,
//! and a model of the data plane that complains about everything that would lose packets or repeat a nonce.
//!
//! Every run follows from its seed. [`World`] is all of it, [`Net`] the weather on the way, [`Nat`] a NAT by the words of RFC 4787,
//! [`DataPlane`] what is installed, [`config`] the configurations that tests begin with. Nothing here reads a clock or opens a
//! socket, and [`Nat`] needs no world: whoever has datagrams and a time can send them through one.

#![forbid(unsafe_code)]

pub mod certificates;
pub mod config;
pub mod dataplane;
pub mod gate;
pub mod ledger;
pub mod link;
pub mod load;
pub mod nat;
pub mod node;
pub mod pair;
pub mod rng;
pub mod world;

pub use config::*;
pub use dataplane::DataPlane;
pub use gate::Gate;
pub use ledger::{Ledger, Missing};
pub use link::{LinkMtu, Relay, TooBig};
pub use load::{Esp, Load, describe};
pub use nat::{Allocation, Behaviour, Nat, NatConfig, Pooling};
pub use node::Node;
pub use pair::{pair, pair_with};
pub use rng::Rng;
pub use world::*;
