//! The wire formats of IKEv2: byte by byte, at their limits, over every value, over any bytes, and against another parser.

mod corpora;
mod differential;
mod encrypted;
mod limits;
#[path = "../../fuzz/src/mutate.rs"]
mod mutate;
mod names;
mod properties;
mod strategies;
mod strongswan;
mod support;
#[path = "../../fuzz/src/targets.rs"]
mod targets;
mod vectors;
