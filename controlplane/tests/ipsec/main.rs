//! The library: clients and servers over loopback, without a daemon or privileges.

mod crowd;
mod examples;
mod faults;
mod hardship;
mod relay;
mod support;
mod tunnel;
