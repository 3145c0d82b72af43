//! The targets, as a library for the executables of cargo-fuzz.

pub mod targets;
