//! The engine between two gateways in virtual time. One executable, so that the world is compiled once.
//!
//! A run that depends on chance prints its seed when it fails; `SIM_SEED=… cargo test` repeats it alone.

mod admission;
mod amplification;
mod answered;
mod candidates;
mod certificates;
mod childless;
mod clients;
mod confirmed;
mod established;
mod failures;
mod flood;
mod foe;
mod followups;
mod half_open;
mod handshake;
mod hostile;
mod impostor;
mod insider;
mod left_out;
mod liar;
mod many;
mod pairs;
mod paths;
mod reauth;
mod rekeys;
mod remotes;
mod reported;
mod restart;
mod rogue;
mod seeds;
mod shares;
mod simulation;
mod sizes;
#[path = "../../../../proto/tests/ike/strategies.rs"]
#[expect(dead_code, reason = "its payloads are used here, and no damage is done to messages")]
mod strategies;
mod streams;
mod subnets;
mod transmits;
mod words;
