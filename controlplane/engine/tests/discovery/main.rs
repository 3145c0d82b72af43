//! What is found out about the NAT before us, in virtual time: every kind of NAT that the simulator has, and servers of RFC 5780 that
//! answer, lose, refuse and lie.
//!
//! A run that depends on chance prints its seed when it fails; `SIM_SEED=… cargo test -p adit-engine --test discovery` repeats it alone.

mod kinds;
mod lifetime;
mod lossy;
#[path = "../ike/seeds.rs"]
#[expect(dead_code, reason = "no run here has a trace")]
mod seeds;
mod servers;
mod ways;
mod world;
